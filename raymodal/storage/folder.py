"""`Folder`: the files of one volume, and `Upload`, a batch of new ones. It knows no names, no settings and no database.

Theory of operation
-------------------
Others read and write the same folder at the same time (containers by their mounts, callers by this class), and any
process may be killed at any point. So a file's content is first written whole beside the volume, in `.incoming` of the
same file system, brought to disk, and then takes its name in one step: whoever opens that name gets the old file or the
new one. Where a file must not be replaced it is linked to its name, which fails if the name is taken. A folder that is
removed is first renamed to where nobody sees it.

What an ended process has left in `.incoming` is removed by a later one (`sweep`), by age.

Paths are relative to the volume, with or without a leading slash. `..` is refused, and so is a path that leads out by a
symbolic link. The look and the use are two steps: a container that swaps a folder for a link in between can win. It is
a process of the same user on the same machine, which needs no such trick.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from raymodal.exception import InvalidError, NotFoundError

INCOMING = ".incoming"
CHUNK = 4 << 20
LEFT_S = 24 * 3600.0  # what lies in `.incoming` for longer belongs to nobody
_FEW = 8  # so many files are brought to disk one by one; more, with all that their file system has pending


class Entry(NamedTuple):
    """What a listing has; `kind` is "file", "directory", "symlink", "fifo" or "socket"."""

    path: str
    kind: str
    mtime: int
    size: int


class Folder:
    """The files of a volume.

    Args:
        root: the folder that holds all volumes, on one file system.
        name: of this one's folder.
    """

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.path = root / name

    # --- the whole

    def make(self) -> None:
        """Make it, unless it is there."""
        self.path.mkdir(mode=0o755, parents=True, exist_ok=True)

    def delete(self) -> None:
        """Remove it with all files, if it is there. Containers that have it mounted find it empty."""
        with contextlib.suppress(FileNotFoundError):
            _remove_tree(self.path, self._passing())

    def sync(self) -> None:
        """Bring what was written to disk."""
        sync_file_system(self.path)

    # --- paths

    def resolve(self, path: str | PurePosixPath) -> Path:
        """Where a path of the volume is.

        Raises:
            InvalidError: it leads out of the volume.
        """
        parts = _parts(path)
        found = self.path.joinpath(*parts)
        real = os.path.realpath(found.parent) if parts else os.path.realpath(found)
        self._check_inside(real, path)
        return Path(real, parts[-1]) if parts else Path(real)

    def _followed(self, path: str | PurePosixPath) -> Path:
        """The same, behind a symbolic link at its end."""
        real = os.path.realpath(self.resolve(path))
        self._check_inside(real, path)
        return Path(real)

    def _check_inside(self, real: str, path: str | PurePosixPath) -> None:
        root = os.path.realpath(self.path)
        if real != root and not real.startswith(root + os.sep):
            raise InvalidError(f"{str(path)!r} leads out of the volume, by a symbolic link to {real!r}")

    def _shown(self, real: Path) -> str:
        relative = os.path.relpath(real, os.path.realpath(self.path))
        return "" if relative == "." else relative

    # --- reading

    def entries(self, path: str, *, recursive: bool) -> Iterator[Entry]:
        """What is in a folder; of a file, itself. Symbolic links are shown, not followed.

        Raises:
            NotFoundError: there is nothing.
        """
        target = self.resolve(path)
        try:
            info = target.lstat()
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"The volume has no {path!r}") from None
        if stat.S_ISLNK(info.st_mode) and os.path.isdir(target):
            target = self._followed(path)
        elif not stat.S_ISDIR(info.st_mode):
            yield _entry(self._shown(target), info)
            return
        yield from self._below(target, recursive)

    def _below(self, folder: Path, recursive: bool) -> Iterator[Entry]:
        shown = self._shown(folder)
        pending = [(str(folder), shown + "/" if shown else "")]
        while pending:
            where, prefix = pending.pop()
            try:
                found = sorted(os.scandir(where), key=lambda one: one.name)
            except FileNotFoundError:  # somebody else has removed it meanwhile
                continue
            for one in found:
                with contextlib.suppress(FileNotFoundError):
                    yield _entry(prefix + one.name, one.stat(follow_symlinks=False))
                    if recursive and one.is_dir(follow_symlinks=False):
                        pending.append((one.path, f"{prefix}{one.name}/"))

    def open(self, path: str) -> IO[bytes]:
        """A file for reading.

        Raises:
            FileNotFoundError: there is none.
            IsADirectoryError: it is a folder.
        """
        try:
            # A fifo would wait for its other end.
            fd = os.open(self._followed(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"The volume has no file {path!r}") from None
        mode = os.fstat(fd).st_mode
        if stat.S_ISREG(mode):
            return os.fdopen(fd, "rb", buffering=0)
        os.close(fd)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{path!r} is a folder of the volume, not a file")
        raise InvalidError(f"{path!r} is not an ordinary file")

    # --- changing

    def remove(self, path: str, *, recursive: bool) -> None:
        """Remove a file, or with `recursive` a folder and what is in it; of "/" all that is in it.

        Raises:
            FileNotFoundError: there is nothing.
            InvalidError: it is a folder, and not `recursive`.
        """
        target = self.resolve(path)
        try:
            is_folder = stat.S_ISDIR(target.lstat().st_mode)
            if not is_folder:
                target.unlink()
            elif not recursive:
                raise InvalidError(f"{path!r} is a folder; remove it with recursive=True (`--recursive`)")
            elif not self._shown(target):
                for name in os.listdir(target):
                    self.remove(name, recursive=True)
            else:
                _remove_tree(target, self._passing())
        except (FileNotFoundError, NotADirectoryError):
            raise FileNotFoundError(f"The volume has no {path!r}") from None

    def copy(self, sources: Sequence[str], target: str, *, recursive: bool) -> None:
        """Copy within the volume, as `cp` does.

        Raises:
            NotFoundError: a source or the target's folder is not there.
            InvalidError: a source is a folder and not `recursive`; several sources and the target is no folder.
        """
        into = self._followed(target)
        if not sources:
            raise InvalidError("There is nothing to copy: name at least one file and where it goes")
        is_folder = into.is_dir()
        if not is_folder and (len(sources) > 1 or target.endswith("/")):
            raise InvalidError(f"{target!r} is no folder of the volume; several files need one to be copied to")
        with Upload(self, force=True) as upload:
            for source in sources:
                found = self._followed(source)
                end = into / found.name if is_folder else into
                if not found.exists():
                    raise NotFoundError(f"The volume has no {source!r}")
                if found == end:
                    raise InvalidError(f"{source!r} and {target!r} are the same file")
                if not found.is_dir():
                    upload.add_file(found, self._shown(end))
                elif not recursive:
                    raise InvalidError(f"{source!r} is a folder; copy it with recursive=True (`--recursive`)")
                elif end.is_relative_to(found):
                    raise InvalidError(f"{source!r} cannot be copied into itself, {target!r}")
                else:
                    upload.add_folder(found, self._shown(end), recursive=True, with_empty=True)

    def _passing(self) -> Path:
        """A fresh name in `.incoming`."""
        incoming = self.root / INCOMING
        incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        return incoming / f"{self.path.name}-{os.getpid()}-{secrets.token_hex(6)}"


Progress = Callable[..., Any]


class Upload:
    """New files, which all appear when the block ends, each at once, and none of them if it raises.

    Args:
        folder: of the volume.
        force: replace files that are there.
        progress: told of names and bytes, in Modal's way.
    """

    def __init__(self, folder: Folder, *, force: bool = False, progress: Progress | None = None) -> None:
        self._folder = folder
        self._force = force
        self._progress = progress or (lambda *_, **__: None)
        self._files: dict[str, tuple[Path | IO[bytes], int | None]] = {}
        self._folders: list[str] = []

    def add_file(self, source: Path | IO[bytes], path: str | PurePosixPath, mode: int | None = None) -> None:
        """Add a file, or what is in an open one from where it stands.

        Raises:
            InvalidError: its path leads out of the volume.
        """
        parts = _parts(path)
        if not parts:
            raise InvalidError(f"{str(path)!r} names no file")
        self._files["/".join(parts)] = source, mode

    def add_folder(self, source: Path, path: str | PurePosixPath, *, recursive: bool, with_empty: bool = False) -> None:
        """Add the files of a folder; other things in it are left out."""
        base = PurePosixPath(*_parts(path))
        for where, folders, files in os.walk(source):
            into = base / PurePosixPath(Path(where).relative_to(source))
            if with_empty:
                self._folders.append(str(into))
            for name in files:
                file = Path(where, name)
                if file.is_file():
                    self._files[str(into / name)] = file, None
            if not recursive:
                folders.clear()

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.carry_out()

    def carry_out(self) -> None:
        """Write all.

        Raises:
            FileExistsError: a file is there, and not `force`; nothing was written then, unless somebody else makes it
                at the same time.
            IsADirectoryError: a folder has that name.
        """
        targets = {path: self._folder.resolve(path) for path in self._files}
        for path, target in targets.items():
            self._check(path, target)
        passing = self._folder._passing()
        passing.mkdir(mode=0o700)
        try:
            staged = self._stage(passing)
            made: set[Path] = set()
            for path in self._folders:
                _make_folders(self._folder.resolve(path), made)
            for path, file in staged.items():
                self._place(path, file, targets[path], made)
            _sync_names(self._folder.path, made)
        finally:
            shutil.rmtree(passing, ignore_errors=True)
        self._progress(complete=True)

    def _check(self, path: str, target: Path) -> None:
        try:
            info = target.lstat()
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise NotADirectoryError(f"{path!r} is below a file of the volume") from None
        if stat.S_ISDIR(info.st_mode):
            raise IsADirectoryError(f"{path!r} is a folder of the volume; a file cannot take its place")
        if not self._force:
            raise _exists(path)

    def _stage(self, passing: Path) -> dict[str, Path]:
        is_few = len(self._files) <= _FEW
        staged = {}
        for number, (path, (source, mode)) in enumerate(self._files.items()):
            file = passing / str(number)
            if isinstance(source, Path):
                with source.open("rb", buffering=0) as content:
                    info = os.fstat(content.fileno())
                    self._copy(content, file, path, info.st_size, mode or stat.S_IMODE(info.st_mode), is_few)
            else:
                self._copy(source, file, path, _size_left(source), mode or 0o644, is_few)
            staged[path] = file
        if not is_few:
            sync_file_system(passing)
        return staged

    def _copy(self, content: IO[bytes], file: Path, path: str, size: int, mode: int, sync: bool) -> None:
        task = self._progress(name=path, size=size)
        fd = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb", buffering=0) as out:
            while data := content.read(CHUNK):
                _write_all(fd, data)
                self._progress(task_id=task, advance=len(data))
            os.fchmod(fd, mode & 0o777)
            if sync:
                os.fsync(out.fileno())
        self._progress(task_id=task, complete=True)

    def _place(self, path: str, file: Path, target: Path, made: set[Path]) -> None:
        _make_folders(target.parent, made)
        made.add(target.parent)
        try:
            if self._force:
                os.rename(file, target)
            else:
                _link(file, target)
        except FileExistsError:
            raise _exists(path) from None
        except IsADirectoryError:
            raise IsADirectoryError(f"{path!r} is a folder of the volume; a file cannot take its place") from None


def sweep(root: Path, now: float) -> None:
    """Remove what ended processes have left behind."""
    limit = now - LEFT_S
    with contextlib.suppress(FileNotFoundError):
        for one in os.scandir(root / INCOMING):
            with contextlib.suppress(FileNotFoundError):
                if one.stat(follow_symlinks=False).st_mtime < limit:
                    shutil.rmtree(one.path, ignore_errors=True)


def sync_file_system(path: Path) -> None:
    """Bring all that the file system of `path` has pending to disk."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
        if syncfs is None:
            os.sync()
        elif syncfs(fd) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
    finally:
        os.close(fd)


def _parts(path: str | PurePosixPath) -> tuple[str, ...]:
    text = str(path)
    parts = tuple(part for part in text.split("/") if part not in ("", "."))
    if ".." in parts or "\0" in text:
        raise InvalidError(f"{text!r} is no path of a volume: it must not have '..' or a zero character")
    return parts


def _entry(path: str, info: os.stat_result) -> Entry:
    kinds = ((stat.S_ISDIR, "directory"), (stat.S_ISLNK, "symlink"), (stat.S_ISFIFO, "fifo"), (stat.S_ISSOCK, "socket"))
    kind = next((name for is_kind, name in kinds if is_kind(info.st_mode)), "file")
    return Entry(path, kind, int(info.st_mtime), info.st_size)


def _exists(path: str) -> FileExistsError:
    return FileExistsError(f"{path!r} is in the volume already; force=True (`--force`) replaces it")


def _size_left(source: IO[bytes]) -> int:
    try:
        here = source.tell()
        end = source.seek(0, os.SEEK_END)
        source.seek(here)
    except (OSError, AttributeError):
        return 0
    return end - here


def _write_all(fd: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        # A file system without hard links: between look and rename another one may come, and is replaced.
        if os.path.lexists(target):
            raise FileExistsError(target) from None
        os.rename(file, target)


def _make_folders(folder: Path, made: set[Path]) -> None:
    """With the folders whose listing changes noted in `made`."""
    if folder in made:
        return
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        with contextlib.suppress(FileExistsError):
            one.mkdir()
        made.update((one, one.parent))


def _sync_names(anywhere: Path, folders: set[Path]) -> None:
    if len(folders) > _FEW:
        sync_file_system(anywhere)
        return
    for folder in folders:
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _remove_tree(target: Path, passing: Path) -> None:
    os.rename(target, passing)
    shutil.rmtree(passing, ignore_errors=True)
