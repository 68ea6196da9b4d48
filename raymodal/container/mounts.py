"""Volumes at their paths in a container's process, seen by no other process. No Ray here.

Where the privileges are there (root, or CAP_SYS_ADMIN), the main thread leaves the node's mount namespace for a private
copy of it, and binds each volume's folder to its path there. The namespace goes with the last process in it, so nothing
has to be unmounted on the node. Threads that the main thread starts later are in it too; Ray's own, which were there
before, are not. Code of the user that must not run on the main thread therefore runs in threads that `start_inside` starts.

A path that does not exist has to be made on the node: it must be somewhere, and a file system over the parent would
hide what others write there. It is an empty folder, and what is bound to it is in the namespace only. Without the
privileges, a path that does not exist becomes a symbolic link to the folder, and no other is possible.

What was made so is removed by the last container that uses the path: each holds a shared lock on a file of that path
(in `_FOLDER`), which ends with the process however it ends, and who gets it alone removes. A folder is never removed
while a container has it: the kernel would take the mount away with it. What containers that were killed have left is
removed when another one ends (`sweep`).

A container that was forked from a memory snapshot finds everything mounted; it takes a namespace and locks of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import queue
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from raymodal import wire
from raymodal.exception import Error, ExecutionError
from raymodal.plan.pool import ContainerPlan
from raymodal.spec.storage import VolumeSpec
from raymodal.storage.folder import Folder

_NEWNS = 0x00020000
_RDONLY, _REMOUNT, _BIND, _REC, _SLAVE = 1, 32, 4096, 16384, 1 << 19
_KEPT = 2 | 4 | 8  # nosuid, nodev, noexec: a bind must not lose them
_DETACH = 2
_WAY_OUT = "Way out: run Ray's nodes as root, or with CAP_SYS_ADMIN (in Docker: --cap-add SYS_ADMIN)"

_FOLDER = "raymodal-mounts-{}"
_mounted: dict[str, VolumeSpec] = {}  # by path
_locks: dict[str, int] = {}
_pid = 0  # of the process that the namespace and the locks are of
_is_private = False
_starter: queue.SimpleQueue[tuple[threading.Thread, Future[None]]] | None = None


def mount(volumes: Iterable[VolumeSpec]) -> None:
    """Put volumes at their paths. On the main thread.

    Raises:
        ExecutionError: one cannot be mounted; says why.
    """
    global _pid, _is_private
    wanted = sorted(volumes, key=lambda one: one.mount_path)
    if not wanted:
        return
    is_forked = bool(_mounted)
    _pid = os.getpid()
    for fd in _locks.values():
        os.close(fd)  # the snapshot's, which it still holds
    _locks.clear()
    _is_private = _leave_node()
    for volume in wanted:
        _locks[volume.mount_path] = _lock(volume.mount_path)
        if not is_forked:
            (_bind if _is_private else _link)(volume)
            _mounted[volume.mount_path] = volume


def failure_of(plan: ContainerPlan) -> tuple[Any, ...] | None:
    """Mount what a container's plan asks for. Returns a packed `wire.Failure` if that is not possible."""
    try:
        mount(plan.spec.volumes)
    except (Error, OSError) as error:
        return wire.encode_failure(error, plan.container_id).pack()
    return None


def known(object_id: str | None, name: str | None = None, environment: str | None = None) -> VolumeSpec | None:
    """The mounted volume of an id, or of a name: a container may know nothing else of it."""
    for volume in _mounted.values():
        if object_id is not None and volume.volume_id == object_id:
            return volume
        if object_id is None and (volume.name, volume.environment_name or "main") == (name, environment or "main"):
            return volume
    return None


def leave() -> None:
    """The container ends: remove what was made on the node, if no other container uses it."""
    if _pid != os.getpid():
        return
    if _mounted:
        os.chdir("/")  # a working folder in a volume would keep it
    for path in sorted(_locks, reverse=True):
        with contextlib.suppress(OSError):
            if _is_private:
                _call("umount2", path, _DETACH)
        _remove_made(path, _locks[path])
        os.close(_locks[path])
    if _locks:
        sweep()
    _locks.clear()
    _mounted.clear()


def sweep() -> None:
    """Remove what containers have left that are gone."""
    folder = Path(tempfile.gettempdir(), _FOLDER.format(os.geteuid()))
    if not folder.is_dir():
        return
    for file in folder.iterdir():
        with contextlib.suppress(OSError):
            if file.suffix or not file.stat().st_size:
                continue
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
            try:
                path = _noted(fd)[0]
                if path:
                    _remove_made(path, fd)
            finally:
                os.close(fd)


def start_inside(thread: threading.Thread) -> None:
    """Start a thread in the container's namespace, from whichever thread this is called."""
    if _starter is None:
        thread.start()
        return
    started: Future[None] = Future()
    _starter.put((thread, started))
    started.result()


def allow_threads() -> None:
    """From now on `start_inside` works on every thread. On the main thread."""
    global _starter
    if _is_private and _pid == os.getpid() and _starter is None:
        _starter = queue.SimpleQueue()
        threading.Thread(target=_start_threads, args=(_starter,), name="raymodal-starter", daemon=True).start()


def _start_threads(asked: queue.SimpleQueue[tuple[threading.Thread, Future[None]]]) -> None:
    while True:
        thread, started = asked.get()
        try:
            thread.start()
            started.set_result(None)
        except RuntimeError as error:  # too many threads
            started.set_exception(error)


# --- the namespace


def _leave_node() -> bool:
    """Whether this thread is in a namespace of its own now."""
    try:
        _call("unshare", _NEWNS)
        # What the node mounts later still comes in; nothing goes out.
        _call("mount", None, "/", None, _REC | _SLAVE, None)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EINVAL):
            return False
        raise
    return True


def _bind(volume: VolumeSpec) -> None:
    source, target = _source(volume), volume.mount_path
    _make_folder(volume)
    try:
        _call("mount", str(source), target, None, _BIND, None)
        if volume.read_only:
            kept = os.statvfs(target).f_flag & _KEPT
            _call("mount", None, target, None, _BIND | _REMOUNT | _RDONLY | kept, None)
    except OSError as error:
        raise _refused(volume, f"the kernel says: {error.strerror}") from None


def _link(volume: VolumeSpec) -> None:
    source, target = _source(volume), volume.mount_path
    why = "this process may not mount, and"
    if volume.read_only:
        raise _refused(volume, f"{why} a link cannot be read-only. {_WAY_OUT}, or mount it for writing")
    with _alone(target):
        if os.path.islink(target) and os.readlink(target) == str(source):
            return
        if os.path.lexists(target):
            there = f"a link to {os.readlink(target)!r}" if os.path.islink(target) else "something else"
            raise _refused(volume, f"{why} there is {there} at that path. {_WAY_OUT}, or another path")
        try:
            made = _make_parents(target)
            os.symlink(source, target)
        except OSError as error:
            raise _refused(
                volume,
                f"{why} cannot make a link there either: {error.strerror}. {_WAY_OUT}, or a path it may write to",
            ) from None
        _note(target, [*made, target])


def _source(volume: VolumeSpec) -> Path:
    folder = Folder(Path(volume.folder or "/nonexistent").parent, Path(volume.folder or "").name)
    if not folder.path.is_dir():
        raise _refused(
            volume,
            f"its files, {folder.path}, are not on this node, or it was deleted. With several nodes set RAYMODAL_VOLUMES to "
            "a folder of a file system that all of them have at the same path",
        )
    if not volume.sub_path:
        return folder.path
    found = folder.resolve(volume.sub_path)
    try:
        found.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _refused(volume, f"its sub_path={volume.sub_path!r} is no folder: {error.strerror}") from None
    return found


def _make_folder(volume: VolumeSpec) -> None:
    target = volume.mount_path
    with _alone(target):
        try:
            if os.path.isdir(target):
                return
            made = _make_parents(os.path.join(target, "x"))
        except OSError as error:
            raise _refused(
                volume, f"there is no such folder on the node and none can be made: {error.strerror}"
            ) from None
        if not any(target.startswith(other + "/") for other in _mounted):  # else it is in a volume, and stays there
            _note(target, made)


def _refused(volume: VolumeSpec, why: str) -> ExecutionError:
    return ExecutionError(
        f"Volume {volume.name or volume.volume_id!r} cannot be mounted at {volume.mount_path!r}: {why}."
    )


# --- what was made on the node


def _locks_folder() -> Path:
    folder = Path(tempfile.gettempdir(), _FOLDER.format(os.geteuid()))
    folder.mkdir(mode=0o700, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise ExecutionError(f"{folder} belongs to somebody else; volumes cannot be mounted. Remove it, or set TMPDIR.")
    return folder


def _lock_file(path: str) -> Path:
    return _locks_folder() / hashlib.sha256(path.encode()).hexdigest()[:32]


def _lock(path: str) -> int:
    """A shared lock. Opened for reading only: a memory snapshot must hold no file that is written."""
    fd = os.open(_lock_file(path), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(fd, fcntl.LOCK_SH)
    return fd


@contextlib.contextmanager
def _alone(path: str) -> Iterator[None]:
    """One at a time looks and makes; those that have the shared lock do not matter."""
    fd = os.open(f"{_lock_file(path)}.make", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _make_parents(path: str) -> list[str]:
    """The folders above a path; returns those that were not there."""
    missing = []
    folder = os.path.dirname(path)
    while not os.path.isdir(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    made = []
    for one in reversed(missing):
        os.mkdir(one)
        made.append(one)
    return made


def _note(path: str, made: list[str]) -> None:
    file = _lock_file(path)
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # A folder above that could not be removed before: another path was below it.
        left = [one for one in _noted(fd)[1] if one not in made and os.path.lexists(one)]
    finally:
        os.close(fd)
    file.write_text(json.dumps({"path": path, "made": [*left, *made]}))


def _noted(fd: int) -> tuple[str, list[str]]:
    try:
        found = json.loads(os.pread(fd, 1 << 16, 0))
        return found["path"], found["made"]
    except ValueError:  # nothing, or its writer was killed
        return "", []


def _remove_made(path: str, fd: int) -> None:
    with _alone(path):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return  # others have it
        left: list[str] = []
        for one in reversed(_noted(fd)[1]):
            try:
                (os.unlink if os.path.islink(one) else os.rmdir)(one)
            except OSError as error:
                if error.errno == errno.EBUSY:  # something is mounted there, in this process' view
                    return
                if error.errno == errno.ENOTEMPTY:  # another path is below it: `sweep` of whoever has that removes both
                    left.insert(0, one)
        if left:
            _lock_file(path).write_text(json.dumps({"path": path, "made": left}))
        else:
            os.truncate(_lock_file(path), 0)
        fcntl.flock(fd, fcntl.LOCK_UN)  # before the next one looks, so that it finds nobody here


_libc: Any = None


def _call(name: str, *args: Any) -> None:
    global _libc
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
    plain = [ctypes.c_char_p(os.fsencode(one)) if isinstance(one, str) else one for one in args]
    plain = [ctypes.c_ulong(one) if isinstance(one, int) and name == "mount" else one for one in plain]
    if getattr(_libc, name)(*plain) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
