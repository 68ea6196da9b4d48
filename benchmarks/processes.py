"""Child processes that live for a run and end with it.

Theory of operation. The driver asks, a child answers: one JSON object per line over a pair of pipes apart from the
child's standard streams (which go to a log file, because Ray and user code print). A child leads a session of its own,
so Ctrl-C in the terminal reaches the driver only, which then ends its children in order. Three things make sure that
none is left: a child exits when its request pipe closes, the kernel signals it when the driver dies
(PR_SET_PDEATHSIG), and the driver adopts orphans (PR_SET_CHILD_SUBREAPER), so that at the end everything that descends
from it, daemons included, can be found and ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

LOG_TAIL_LINES = 15


class ChildError(Exception):
    """A child failed; the text says how and ends with what it printed last."""


class Child:
    """One child process and its pipes."""

    def __init__(self, name: str, *, folder: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log_path = folder / f"{_file_name(name)}.log"
        request_read, self._request_fd = os.pipe()
        self._reply_fd, reply_write = os.pipe()
        self._buffer = b""
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"{__package__}.child", str(request_read), str(reply_write)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env=dict(env),
                pass_fds=(request_read, reply_write),
                start_new_session=True,
            )
        os.close(request_read)
        os.close(reply_write)

    @property
    def pid(self) -> int:
        """Process id, also the id of the child's process group."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def ask(self, op: str, *, timeout_s: float, **fields: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            ChildError: The child reported a failure, ended, or did not answer in time. After the last two it is gone.
        """
        try:
            os.write(self._request_fd, json.dumps({"op": op, **fields}).encode() + b"\n")
        except OSError:
            raise self._gone(op) from None
        reply: dict[str, Any] = json.loads(self._read_line(op, timeout_s))
        if "error" in reply:
            raise ChildError(reply["error"])
        return reply

    def hang_up(self) -> None:
        """Close the pipes, which tells the child to end, and do not wait for it."""
        for fd in (self._request_fd, self._reply_fd):
            if fd >= 0:
                os.close(fd)
        self._request_fd = self._reply_fd = -1

    def close(self, *, grace_s: float = 10.0) -> None:
        """End the child: by closing its pipe, then by SIGTERM, then by SIGKILL to its whole group."""
        self.hang_up()
        for signal_number, patience_s in ((None, grace_s), (signal.SIGTERM, 3.0), (signal.SIGKILL, 3.0)):
            if signal_number is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal_number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience_s)
                return

    def _read_line(self, op: str, timeout_s: float) -> bytes:
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._buffer:
            # In slices, because a process forked by the child may hold the pipe open after the child's end.
            ready, _, _ = select.select([self._reply_fd], [], [], 0.2)
            if ready:
                data = os.read(self._reply_fd, 1 << 16)
                if not data:
                    raise self._gone(op)
                self._buffer += data
            elif not self.is_alive:
                raise self._gone(op)
            elif time.monotonic() > deadline:
                self.close(grace_s=0.5)
                raise ChildError(f"{op}: no answer within {timeout_s:g} s, so the process was ended.{self._log_tail()}")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _gone(self, op: str) -> ChildError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2.0)
        code = self._process.returncode
        how = "it closed its pipe" if code is None else f"exit status {code}"
        return ChildError(f"{op}: the process ended ({how}).{self._log_tail()}")

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_TAIL_LINES:]
            if lines:
                return "\nIt printed last:\n" + "\n".join(f"    {line}" for line in lines)
        return ""


class Workplace:
    """The folder, the environment and the children of one run; leaving it ends and removes all of them."""

    def __init__(self) -> None:
        self._children: dict[str, Child] = {}
        self.is_hurried = False

    def __enter__(self) -> Self:
        # Short: Ray puts Unix sockets below it, whose paths may have 107 characters.
        self.folder = Path(tempfile.mkdtemp(prefix="rmb-"))
        self.env = child_environment(os.environ, self.folder)
        self._strangers = frozenset(descendants(os.getpid()))
        set_subreaper(True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # All at once first: each one takes a second or two to stop its Ray.
        for child in self._children.values():
            child.hang_up()
        for name in list(self._children):
            self.end_child(name, grace_s=1.0 if self.is_hurried or kind is not None else 10.0)
        end_descendants(self._strangers)
        set_subreaper(False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def child(self, name: str, *, kind: str) -> Child:
        """The child of that name, started at first use or after its end."""
        child = self._children.get(name)
        if child is not None and not child.is_alive:
            self.end_child(name)
            child = None
        if child is None:
            child = Child(name, folder=self.folder, env=self.env)
            self._children[name] = child
            child.ask("start", kind=kind, timeout_s=120.0)
        return child

    def end_child(self, name: str, *, grace_s: float = 10.0) -> None:
        """End one child, if it was started."""
        child = self._children.pop(name, None)
        if child is not None:
            child.close(grace_s=grace_s)

    def names(self) -> list[str]:
        """Children started and not yet ended."""
        return list(self._children)


def child_environment(environ: Mapping[str, str], folder: Path) -> dict[str, str]:
    """Environment in which all contenders run.

    Settings of Ray and raymodal are dropped, so that a cluster in use is not measured by accident and each side runs
    with its defaults. Bytecode is written, as it is for users, or the second start would compile again.
    """
    env = {
        key: value
        for key, value in environ.items()
        if not key.startswith(("RAY_", "RAYMODAL_")) and key != "PYTHONDONTWRITEBYTECODE"
    }
    paths = [str(_import_root()), *filter(None, [environ.get("PYTHONPATH")])]
    return {
        **env,
        "PYTHONPATH": os.pathsep.join(paths),
        "RAYMODAL_HOME": str(folder / "home"),
        "RAY_TMPDIR": str(folder),
    }


def set_parent_death_signal(signal_number: int) -> None:
    """Ask the kernel for a signal when the parent dies (Linux; elsewhere the closed pipe must do)."""
    _prctl(_PR_SET_PDEATHSIG, signal_number)


def set_subreaper(is_on: bool) -> None:
    """Adopt the orphans among this process's descendants, so that they can be found (Linux)."""
    _prctl(_PR_SET_CHILD_SUBREAPER, int(is_on))


def descendants(pid: int, proc: Path = Path("/proc")) -> list[int]:
    """Ids of all processes that descend from `pid`."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents(proc):
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def end_descendants(strangers: frozenset[int] = frozenset(), *, grace_s: float = 3.0) -> None:
    """End every process that descends from this one, politely first, and reap it.

    Args:
        strangers: Descendants that were there before and are none of ours.
        grace_s: How long to wait after each of the two signals.
    """
    for signal_number in (signal.SIGTERM, signal.SIGKILL):
        for pid in _ours(strangers):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal_number)
        deadline = time.monotonic() + grace_s
        while time.monotonic() < deadline:
            if not _ours(strangers):
                return
            time.sleep(0.05)


def _ours(strangers: frozenset[int]) -> list[int]:
    """Descendants that still run; those that ended are reaped on the way."""
    ours = [pid for pid in descendants(os.getpid()) if pid not in strangers]
    for pid in ours:
        # An orphan's end is reported to us once we adopted it; others belong to their own parents.
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)
    return [pid for pid in descendants(os.getpid()) if pid not in strangers]


def _parents(proc: Path) -> Iterator[tuple[int, int]]:
    for entry in proc.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # "pid (name) state parent ...": the name may hold spaces and brackets.
            after_name = entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            yield int(entry.parent.name), int(after_name[1])


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _import_root() -> Path:
    """Folder from which this package is importable under its own name."""
    return Path(__file__).resolve().parents[len((__package__ or "benchmarks").split("."))]


def _file_name(name: str) -> str:
    return "".join(char if char.isalnum() else "-" for char in name)
