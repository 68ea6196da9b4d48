"""The template as whoever starts a node sees it: its folder, its start, and what became of the workers there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import py_compile
import signal
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from raymodal.engine.ray.locks import is_locked

LAUNCHER = str(Path(__file__).with_name("launcher.py"))
_SERVER = str(Path(__file__).with_name("server.py"))
FORKED_LABEL = "raymodal-workers"
"""Label (value `forked`) of Ray nodes whose workers come from a template."""
_NO_JOB = "ffffffff"
_RAYLETS_OWN = {"RAY_LD_PRELOAD_ON_WORKERS": "0"}
"""What the raylet sets for its workers unless told otherwise: the template must not differ from them in what Ray reads."""


def is_supported() -> bool:
    """Whether this system can fork Ray workers: Linux only, since macOS's own libraries do not survive a fork."""
    return sys.platform.startswith("linux")


def folder_of(session_dir: str, raylet_pid: int) -> str:
    """Where the launcher looks for the template of this raylet."""
    return os.path.join(session_dir, f"template-{raylet_pid}")


def own_folder() -> str:
    """Where a worker's own node has its template, if it has one."""
    from ray._private import worker

    return folder_of(str(worker._global_node.get_session_dir_path()), int(os.environ.get("RAY_RAYLET_PID", "0")))


def shorten(command: list[str], session_dir: str) -> list[str]:
    """A raylet's command in which the launcher starts in two thirds of its time: compiled (a script is compiled anew by
    every interpreter), without `site` and what the environment says of Python. What it starts in turn has all of that.
    """
    option = "--python_worker_command="
    plain = subprocess.list2cmdline([sys.executable, LAUNCHER])
    compiled = os.path.join(session_dir, "raymodal_launcher.pyc")
    found = [part for part in command if part.startswith(option + plain)]
    if not found:
        return command
    try:
        py_compile.compile(
            LAUNCHER, compiled, doraise=True, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH
        )
    except (OSError, py_compile.PyCompileError):
        return command
    short = option + subprocess.list2cmdline([sys.executable, "-I", "-S", compiled])
    return [short + part[len(option + plain) :] if part in found else part for part in command]


def prepare(session_dir: str, raylet_pid: int) -> int:
    """Make the folder and take its lock, so that launchers wait for a template that is about to start.

    Returns:
        The lock's file descriptor, for `start`.
    """
    folder = folder_of(session_dir, raylet_pid)
    os.mkdir(folder, 0o700)
    lock = os.open(os.path.join(folder, "lock"), os.O_CREAT | os.O_RDWR, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    Path(folder, "server").write_text(_SERVER)
    return lock


def start(session_dir: str, raylet_pid: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start the template of a raylet that has just been started with `environment`.

    Raises:
        OSError: it cannot be started; workers then start as Ray starts them.
    """
    lock = prepare(session_dir, raylet_pid)
    log = os.open(os.path.join(session_dir, "logs", "raymodal_template.log"), os.O_CREAT | os.O_APPEND | os.O_WRONLY)
    try:
        return subprocess.Popen(
            [sys.executable, _SERVER, folder_of(session_dir, raylet_pid), str(lock)],
            env={**_RAYLETS_OWN, **environment, "RAY_RAYLET_PID": str(raylet_pid), "RAY_JOB_ID": _NO_JOB},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[lock],
            start_new_session=True,  # Ctrl-C in the terminal is not for it
        )
    finally:
        os.close(lock)
        os.close(log)


def decide(session_dir: str, raylet_pid: int, *, mode: str, reason: str = "") -> None:
    """Set how workers of this node start from now on: `nil` (one template for all jobs), `job` (one for each), `plain`."""
    folder = Path(folder_of(session_dir, raylet_pid))
    if mode == "job":
        (folder / "per_job").touch()
    elif mode == "plain":
        (folder / "refused").write_text(reason + "\n")
        (folder / "per_job").unlink(missing_ok=True)
    if mode != "nil":
        for one in (folder, *Path(session_dir).glob(f"{folder.name}-*")):
            _end(one)


def renew(session_dir: str) -> None:
    """End the templates of a session on this machine; the next worker's launcher starts another one.

    For code that has changed since a template imported it. Workers that run go on.
    """
    for folder in Path(session_dir).glob("template-*"):
        _end(folder)
        with contextlib.suppress(OSError):
            (folder / "boots").unlink()  # this end is no sign of trouble


def _end(folder: Path) -> None:
    """Kill the template of a folder. Its children share its command line, so it is told by its socket."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1.0)
        connection.connect(str(folder / "s"))
        pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid == os.geteuid():
            os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Starts:
    """How the workers of one node have been started.

    Attributes:
        forked: by the template, or by one that holds a memory snapshot.
        snapshots: how many of these by the latter.
        plain: as Ray does: reason -> how many.
        refused: why this node goes on without a template, if it does.
        is_alive: whether a template lives.
    """

    forked: int = 0
    snapshots: int = 0
    plain: Mapping[str, int] = field(default_factory=dict)
    refused: str | None = None
    is_alive: bool = False


def starts_of(session_dir: str) -> dict[int, Starts]:
    """How workers were started on the nodes of a session on this machine, by raylet pid."""
    found: dict[int, Starts] = {}
    for folder in sorted(Path(session_dir).glob("template-*")):
        pid, _, job = folder.name.partition("-")[2].partition("-")
        if not pid.isdigit() or job:
            continue
        forked, snapshots, plain = 0, 0, Counter[str]()
        folders = [folder, *Path(session_dir).glob(f"{folder.name}-*")]
        refused = None
        is_alive = False
        for one in folders:
            with contextlib.suppress(OSError):
                for line in (one / "starts").read_text(errors="replace").splitlines():
                    how, _, rest = line.partition(" ")
                    if how in ("forked", "snapshot"):
                        forked += 1
                        snapshots += how == "snapshot"
                    else:
                        plain[rest] += 1
            with contextlib.suppress(OSError):
                refused = (one / "refused").read_text(errors="replace").strip()
            is_alive = is_alive or is_locked(one / "lock")
        found[int(pid)] = Starts(forked, snapshots, dict(plain), refused, is_alive)
    return found


def workers_of(session_dir: str) -> list[int]:
    """Workers of a session that were forked and still live, also where their template does not any more."""
    found = []
    for starts in Path(session_dir).glob("template-*/starts"):
        with contextlib.suppress(OSError):
            for line in starts.read_text(errors="replace").splitlines():
                how, _, pid = line.partition(" ")
                if how in ("forked", "snapshot") and pid.isdigit() and _has_open(int(pid), session_dir):
                    found.append(int(pid))
    return found


def _has_open(pid: int, folder: str) -> bool:
    """Whether a process has a file below a folder open: a pid alone may belong to somebody else by now."""
    below = os.path.join(folder, "")
    with contextlib.suppress(OSError):  # it has ended
        for fd in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):  # this one was closed
                if os.readlink(f"/proc/{pid}/fd/{fd}").startswith(below):
                    return True
    return False
