"""`raymodal volume`: volumes by name, and their files."""

from __future__ import annotations

import contextlib
import json as jsonlib
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raymodal.cli.not_yet import group
from raymodal.exception import Error, InvalidError

if TYPE_CHECKING:
    from raymodal.types import FileEntry
    from raymodal.volume import Volume

app = typer.Typer(
    name="volume",
    cls=group("volume", ("dashboard",), "there is no dashboard; `raymodal volume ls NAME` shows what is in a volume"),
    help="Keep volumes, and read and write their files.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

_Env = Annotated[str | None, typer.Option("--env", "-e", help="Environment: volumes of another one are apart.")]
_Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
_Json = Annotated[bool, typer.Option("--json", help="As JSON.")]
_UsageError: Any = typer.BadParameter.__mro__[1]  # as in `cli.main`


@app.command(no_args_is_help=True)
def create(
    name: str,
    env: _Env = None,
    version: Annotated[int | None, typer.Option("--version", help="1 or 2; only 2 copies folders.")] = None,
) -> Callable[[], int]:
    """Create a volume."""
    return lambda: _create(name, env, version)


@app.command("list")
def list_(env: _Env = None, json: _Json = False) -> Callable[[], int]:
    """List volumes, newest first."""
    return lambda: _list(env, json)


@app.command(no_args_is_help=True)
def delete(
    name: str,
    allow_missing: Annotated[bool, typer.Option("--allow-missing", help="No error if there is none.")] = False,
    yes: _Yes = False,
    env: _Env = None,
) -> Callable[[], int]:
    """Delete a volume with all its files, for good."""
    return lambda: _delete(name, allow_missing, yes, env)


@app.command(no_args_is_help=True)
def rename(old_name: str, new_name: str, yes: _Yes = False, env: _Env = None) -> Callable[[], int]:
    """Give a volume another name."""
    return lambda: _rename(old_name, new_name, yes, env)


@app.command(no_args_is_help=True)
def ls(
    volume_name: str, path: Annotated[str, typer.Argument()] = "/", json: _Json = False, env: _Env = None
) -> Callable[[], int]:
    """List files and folders: a table in a terminal, else one path in a line."""
    return lambda: _ls(volume_name, path, json, env)


@app.command(no_args_is_help=True)
def get(
    volume_name: str,
    remote_path: str,
    local_destination: Annotated[str, typer.Argument(help="A file or folder; - is standard output.")] = ".",
    force: Annotated[bool, typer.Option("--force", help="Replace local files.")] = False,
    env: _Env = None,
) -> Callable[[], int]:
    """Download a file, or a folder with all that is in it."""
    return lambda: _get(_volume(volume_name, env), remote_path, local_destination, force)


@app.command(no_args_is_help=True)
def put(
    volume_name: str,
    local_path: str,
    remote_path: Annotated[str, typer.Argument(help="With / at its end: the folder that it goes to.")] = "/",
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace files that are there.")] = False,
    env: _Env = None,
) -> Callable[[], int]:
    """Upload a file, or a folder with all that is in it; all of it or, on an error, nothing."""
    return lambda: _put(_volume(volume_name, env), local_path, remote_path, force)


@app.command(no_args_is_help=True)
def rm(
    volume_name: str,
    remote_path: str,
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Delete folders too.")] = False,
    env: _Env = None,
) -> Callable[[], int]:
    """Delete a file, or a folder."""
    return lambda: _rm(_volume(volume_name, env), remote_path, recursive)


@app.command(no_args_is_help=True)
def cp(
    volume_name: str,
    paths: Annotated[list[str], typer.Argument(help="What, and at the end where.")],
    recursive: Annotated[bool, typer.Option("--recursive", "-r", help="Copy folders too.")] = False,
    env: _Env = None,
) -> Callable[[], int]:
    """Copy within a volume."""
    if len(paths) < 2:
        raise _UsageError("Give at least two paths: what to copy, and where")
    return lambda: _cp(_volume(volume_name, env), paths, recursive)


def _volume(name: str, env: str | None) -> Volume:
    from raymodal.volume import Volume

    return Volume.from_name(name, environment_name=env)


def _create(name: str, env: str | None, version: int | None) -> int:
    from raymodal.volume import Volume

    Volume.objects.create(name, environment_name=env, version=version)
    print(f"Created volume {name!r}. To use it:\n")
    print(f'    @app.function(volumes={{"/data": modal.Volume.from_name("{name}")}})')
    return 0


def _list(env: str | None, as_json: bool) -> int:
    from raymodal.volume import Volume

    infos = [volume.info() for volume in Volume.objects.list(environment_name=env or "")]
    rows = [
        {"name": info.name, "created_at": info.created_at.isoformat(" ", "seconds"), "created_by": info.created_by}
        for info in infos
    ]
    if as_json:
        print(jsonlib.dumps(rows, indent=2))
    elif not rows:
        print("There are no volumes. Create one with `raymodal volume create NAME`.")
    else:
        width = max(len(str(row["name"])) for row in rows)
        for row in rows:
            print(f"{row['name']:{width}}  created {row['created_at']} by {row['created_by'] or 'an unknown user'}")
    return 0


def _delete(name: str, allow_missing: bool, yes: bool, env: str | None) -> int:
    from raymodal.volume import Volume

    _confirm(yes, f"Delete volume {name!r} and all its files for good?")
    Volume.objects.delete(name, allow_missing=allow_missing, environment_name=env)
    return 0


def _rename(old_name: str, new_name: str, yes: bool, env: str | None) -> int:
    from raymodal.volume import Volume

    _confirm(yes, f"Rename volume {old_name!r}? Programs that use it by that name will not find it.")
    Volume.rename(old_name, new_name, environment_name=env)
    return 0


def _confirm(yes: bool, question: str) -> None:
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidError(f"{question} There is no terminal to ask; say --yes (-y)")
    typer.confirm(question, default=False, abort=True)


# --- files


def _ls(volume_name: str, path: str, as_json: bool, env: str | None) -> int:
    entries = _volume(volume_name, env).listdir(path)
    if not as_json and not sys.stdout.isatty():
        for entry in entries:
            print(entry.path)
        return 0
    rows = [
        {
            "filename": entry.path if as_json else entry.path.encode("unicode_escape").decode(),
            "type": {"DIRECTORY": "dir", "SYMLINK": "link"}.get(entry.type.name, entry.type.name.lower()),
            "created_modified": datetime.fromtimestamp(entry.mtime, UTC).astimezone().isoformat(" ", "seconds"),
            "size": entry.size if as_json else _size(entry.size),
        }
        for entry in entries
    ]
    if as_json:
        print(jsonlib.dumps(rows, indent=2))
    elif not rows:
        print(f"There is nothing in {path!r} of {volume_name!r}.")
    else:
        widths = {key: max(len(str(row[key])) for row in rows) for key in rows[0]}
        for row in rows:
            print(
                "  ".join(
                    f"{row[key]:>{width}}" if key == "size" else f"{row[key]:{width}}" for key, width in widths.items()
                )
            )
    return 0


def _get(volume: Volume, remote_path: str, local_destination: str, force: bool) -> int:
    with _said():
        entries = list(volume.iterdir(remote_path, recursive=True))
        with _Bar(sum(_is_file(entry) * entry.size for entry in entries)) as bar:
            if local_destination == "-":
                _print_files(volume, entries, bar)
                return 0
            for entry, target in _targets(volume, remote_path, entries, Path(local_destination), force):
                _download(volume, entry, target, bar)
    print("Finished downloading files to local!", file=sys.stderr)
    return 0


def _print_files(volume: Volume, entries: list[FileEntry], bar: _Bar) -> None:
    for entry in filter(_is_file, entries):
        for block in volume.read_file(entry.path):
            sys.stdout.buffer.write(block)
            bar(advance=len(block))
    sys.stdout.flush()


def _targets(
    volume: Volume, remote_path: str, entries: list[FileEntry], destination: Path, force: bool
) -> list[tuple[FileEntry, Path]]:
    """Where each entry goes: as with `cp`, into a folder that is there, else to the destination itself."""
    asked = PurePosixPath(*PurePosixPath("/", remote_path).parts[1:])
    is_single = len(entries) == 1 and PurePosixPath(entries[0].path) == asked
    base = destination / asked.name if destination.is_dir() else destination
    pairs = [(one, base if is_single else base / PurePosixPath(one.path).relative_to(asked)) for one in entries]
    if not is_single:
        base.mkdir(parents=True, exist_ok=True)
    for entry, target in pairs:
        if not _is_file(entry):
            continue
        if target.is_dir():
            raise _UsageError(f"{str(target)!r} is a folder here, and a file in the volume")
        if os.path.lexists(target) and not force:
            raise _UsageError(f"{str(target)!r} exists already; --force replaces it")
    return pairs


def _download(volume: Volume, entry: FileEntry, target: Path, bar: _Bar) -> None:
    """The file appears whole or not at all."""
    if entry.type.name == "DIRECTORY":
        target.mkdir(parents=True, exist_ok=True)
        return
    if not _is_file(entry):
        print(f"Left out: {entry.path!r} is no file but a {entry.type.name.lower()}.", file=sys.stderr)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    passing = target.parent / f".{target.name[:100]}.{secrets.token_hex(4)}.part"
    try:
        with passing.open("xb") as file:
            volume.read_file_into_fileobj(entry.path, file, bar)
        os.replace(passing, target)
    finally:
        passing.unlink(missing_ok=True)


def _put(volume: Volume, local_path: str, remote_path: str, force: bool) -> int:
    from raymodal.volume import AbstractVolumeUploadContextManager

    source = Path(local_path)
    if remote_path.endswith("/"):
        remote_path += os.path.basename(local_path)
    if not source.exists():
        hint = "; patterns are not looked at, the shell does that" if "*" in local_path else ""
        raise _UsageError(f"There is no file or folder {local_path!r}{hint}")
    with _said():
        volume.hydrate()
        with _Bar() as bar:
            batch = AbstractVolumeUploadContextManager.resolve(
                volume._version, volume.object_id, volume.client, progress_cb=bar, force=force
            )
            with batch:
                if source.is_dir():
                    batch.put_directory(source, remote_path)
                else:
                    batch.put_file(source, remote_path)
    kind = "directory" if source.is_dir() else "file"
    print(f"Uploaded {kind} {local_path!r} to {remote_path!r}", file=sys.stderr)
    return 0


def _rm(volume: Volume, remote_path: str, recursive: bool) -> int:
    with _said():
        volume.remove_file(remote_path, recursive=recursive)
    print(f"{remote_path} was deleted successfully!", file=sys.stderr)
    return 0


def _cp(volume: Volume, paths: list[str], recursive: bool) -> int:
    with _said():
        volume.copy_files(paths[:-1], paths[-1], recursive)
    return 0


@contextlib.contextmanager
def _said() -> Iterator[None]:
    """Python's own errors are for programs; here they are the user's."""
    try:
        yield
    except BrokenPipeError:
        raise
    except FileExistsError as error:
        raise _UsageError(str(error)) from None
    except (OSError, ValueError) as error:
        if isinstance(error, Error):
            raise
        raise InvalidError(str(error)) from None


class _Bar:
    """Progress on a terminal: called as `batch_upload` and `read_file_into_fileobj` tell of theirs."""

    def __init__(self, total: int = 0) -> None:
        self._total = total
        self._shown: Any = None
        self._task: Any = None

    def __enter__(self) -> _Bar:
        from raymodal.config import settings

        if sys.stderr.isatty() and not settings().quiet:
            # Late: rich is for terminals.
            from rich.console import Console
            from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

            columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
            self._shown = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._shown.add_task("", total=self._total)
            self._shown.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown.stop()

    def __call__(self, *_: Any, size: int = 0, advance: int = 0, **__: Any) -> None:
        if self._shown is not None and (size or advance):
            self._total += size
            self._shown.update(self._task, total=self._total, advance=advance)


def _is_file(entry: FileEntry) -> bool:
    return entry.type.name == "FILE"


def _size(size: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"
