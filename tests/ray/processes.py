"""Programs in processes of their own, as users start them, and what is left of them afterwards."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

RAYMODAL = str(Path(sys.executable).with_name("raymodal"))  # `python -m raymodal` has the working directory first
HANG_S = 100  # no test waits longer for anything


class Done(NamedTuple):
    """A program that has ended."""

    code: int
    out: str
    err: str


class Program:
    """A program that runs, with what it has printed so far."""

    def __init__(self, command: list[str], cwd: Path, env: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._printed: dict[str, bytearray] = {"out": bytearray(), "err": bytearray()}
        self._changed = threading.Condition()
        self._readers = [
            threading.Thread(target=self._read, args=(name, stream), daemon=True)
            for name, stream in (("out", self.process.stdout), ("err", self.process.stderr))
        ]
        for reader in self._readers:
            reader.start()

    def _read(self, name: str, stream: Any) -> None:
        with stream:
            while data := os.read(stream.fileno(), 1 << 16):
                with self._changed:
                    self._printed[name] += data
                    self._changed.notify_all()

    @property
    def out(self) -> str:
        return self._printed["out"].decode()

    @property
    def err(self) -> str:
        return self._printed["err"].decode()

    def wait_for(self, text: str, where: str = "out") -> None:
        """Wait until a line with `text` has been printed."""

        def is_there() -> bool:
            return any(text in line for line in self._printed[where].decode().splitlines())

        with self._changed:
            assert self._changed.wait_for(is_there, HANG_S), f"never printed {text!r}: {self.out}\n{self.err}"

    def descendants(self) -> list[int]:
        """Everything below the program: Ray's daemons, containers, what these have started."""
        return descendants(self.process.pid)

    def signal(self, number: signal.Signals, *, group: bool = False) -> None:
        (os.killpg if group else os.kill)(self.process.pid, number)

    def finish(self) -> Done:
        """Wait for the end."""
        try:
            self.process.wait(HANG_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"did not end: {self.out}\n{self.err}") from None
        for reader in self._readers:
            # Somebody who holds the streams open although the program has ended is a process left behind.
            reader.join(15)
            assert not reader.is_alive(), "a process that was left behind holds the output open"
        return Done(self.process.returncode, self.out, self.err)


class Shell:
    """Starts programs in a folder.

    Args:
        home: RAYMODAL_HOME; one that lasts, because Ray's compiled modules may be kept there.
    """

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        self._home = home

    def write(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def environment(self, **changes: str) -> dict[str, str]:
        """The caller's, without what would steer Ray or raymodal."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYMODAL_", "MODAL_", "PYTEST_"))}
        return {**kept, "RAYMODAL_HOME": str(self._home), **changes}

    def start(self, *command: str, **env: str) -> Program:
        return Program([sys.executable, *command], self.folder, self.environment(**env))

    def raymodal(self, *arguments: str, **env: str) -> Done:
        return self.start(RAYMODAL, *arguments, **env).finish()

    def python(self, *arguments: str, **env: str) -> Done:
        return self.start(*arguments, **env).finish()


def descendants(pid: int) -> list[int]:
    """Pids of all processes below `pid`."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            # The name may hold spaces and parentheses: count from its last one.
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        parents.setdefault(parent, []).append(int(entry.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = parents.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def is_alive(pid: int) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until(happened: Callable[[], object], what: Callable[[], object] = lambda: "", within_s: float = 30) -> None:
    """Look again and again.

    Raises:
        AssertionError: it did not happen; with what `what()` says.
    """
    deadline = time.monotonic() + within_s
    while not happened():
        assert time.monotonic() < deadline, what()
        time.sleep(0.05)


def wait_until_gone(pids: list[int], within_s: float = 30) -> None:
    """Wait for the end of processes."""

    def left() -> list[str]:
        return [f"{pid}: {_command_of(pid)}" for pid in pids if is_alive(pid)]

    wait_until(lambda: not left(), lambda: f"still there: {left()}", within_s)


def _command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:100]
    except OSError:
        return "?"


@contextlib.contextmanager
def ray_start(*arguments: str, env: dict[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`ray start --block` in a session of its own; `ray stop` would end every Ray of this machine."""
    ray = os.path.join(os.path.dirname(sys.executable), "ray")
    process = subprocess.Popen(
        [ray, "start", "--block", "--disable-usage-stats", *arguments],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def listens(address: str) -> bool:
    """Somebody takes connections at `host:port`."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False
