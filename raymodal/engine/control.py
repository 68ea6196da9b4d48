"""Asking a run from another terminal: `raymodal app list`, `app why`, `function autoscaler`.

The process that runs an app listens on a unix socket that only this user can reach, and notes where in `RAYMODAL_HOME/running`. Whoever asks needs neither
Ray nor the cluster's address: the process hands the question on to the app's controller. One line of JSON each way. A note whose process does not answer is
of one that was killed, and is removed by whoever finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymodal import exception
from raymodal._dual import io_loop
from raymodal._private_folder import private_folder
from raymodal.exception import Error, InvalidError, NotFoundError

if TYPE_CHECKING:
    from raymodal.engine.protocol import RunningApp

logger = logging.getLogger("raymodal")

METHODS = ("why", "pool_tags", "rules", "set_rules", "stats")
ANSWER_S = 5.0
_FOLDER = "raymodal-control"
_LONGEST_LINE = 1 << 22


@dataclass(frozen=True, slots=True)
class Running:
    """An app that runs on this machine. `since` in seconds since the epoch; `host` tells machines that share a home apart."""

    app_id: str
    name: str
    pid: int
    since: float
    socket: str
    host: str


class Control:
    """The socket of one run. Failing to listen harms nothing but the questions.

    Args:
        home: `RAYMODAL_HOME`.
    """

    def __init__(self, app: RunningApp, name: str, home: Path) -> None:
        self._app = app
        self._name = name
        self._note = home / "running" / f"{app.app_id}.json"
        self._path: Path | None = None
        self._server: asyncio.Server | None = None
        self._is_closed = False

    def begin(self) -> None:
        """Listen soon; nothing waits for it. Any thread."""
        asyncio.run_coroutine_threadsafe(self._open(), io_loop())

    async def _open(self) -> None:
        try:
            self._path = private_folder(_FOLDER) / self._app.app_id
            self._server = await asyncio.start_unix_server(self._serve, self._path, limit=_LONGEST_LINE)
            self._note.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            running = Running(
                self._app.app_id, self._name, os.getpid(), datetime.now(UTC).timestamp(), str(self._path), _host()
            )
            part = self._note.with_suffix(".part")
            part.write_text(json.dumps(asdict(running)))
            part.chmod(0o600)
            part.replace(self._note)
        except OSError as error:
            logger.debug("this run cannot be asked from outside: %s", error)
        if self._is_closed:
            self.close()

    def close(self) -> None:
        """Listen no more. Any thread."""
        self._is_closed = True
        for path in (self._note, self._path):
            if path is not None:
                with contextlib.suppress(OSError):
                    path.unlink()
        if self._server is not None:
            with contextlib.suppress(RuntimeError):
                io_loop().call_soon_threadsafe(self._server.close)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError):
            answer = await self._answer(await reader.readuntil(b"\n"))
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        writer.close()

    async def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            asked = json.loads(line)
            method, args = asked["method"], asked["args"]
            if method not in METHODS:
                raise InvalidError(f"A run does not answer {method!r}")
            client = self._app.client
            return {"value": await client.on_loop(client.link.controller(method, *args))}
        except Exception as error:  # noqa: BLE001 - whoever asked is told
            # Ray raises a class of its own that is also the controller's, with the traceback in its text.
            cause = getattr(error, "cause", None) or error
            names = [c.__name__ for c in type(cause).__mro__ if c.__module__ == exception.__name__]
            return {"error": names[0] if names else "ExecutionError", "text": str(cause)}


def running_apps(home: Path) -> list[Running]:
    """Apps that run on this machine for this user, oldest first."""
    found = []
    for note in (home / "running").glob("ap-*.json"):
        try:
            running = Running(**json.loads(note.read_text()))
        except (OSError, ValueError, TypeError):
            continue
        if running.host != _host():
            continue  # another machine's, with the same home
        if _has_ended(running):
            _forget(note, running)
        else:
            found.append(running)
    return sorted(found, key=lambda running: running.since)


def find(home: Path, app: str) -> Running:
    """The app that runs under this id, or this name.

    Raises:
        NotFoundError: none does.
        InvalidError: several do.
    """
    apps = running_apps(home)
    found = [running for running in apps if app in (running.app_id, running.name)]
    if not found:
        names = ", ".join(f"{running.name} ({running.app_id})" for running in apps)
        raise NotFoundError(
            f"No app {app!r} runs here. "
            + (f"There are: {names}." if names else "None does: start one with `raymodal run`.")
        )
    if len(found) > 1:
        raise InvalidError(f"{len(found)} apps named {app!r} run here; say which: {', '.join(r.app_id for r in found)}")
    return found[0]


def ask(running: Running, method: str, *args: Any) -> Any:
    """Ask a run's controller.

    Raises:
        NotFoundError: it has ended meanwhile.
        Error: what the controller raised.
    """
    try:
        with _connected(running) as connection:
            connection.sendall(json.dumps({"method": method, "args": args}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                answer: Mapping[str, Any] = json.loads(lines.readline())
    except (OSError, ValueError):
        raise NotFoundError(
            f"App {running.name!r} ({running.app_id}) does not answer; it is ending, or has ended"
        ) from None
    if "error" in answer:
        kind = getattr(exception, answer["error"], None)
        raise (kind if isinstance(kind, type) and issubclass(kind, Error) else Error)(answer["text"])
    return answer["value"]


def _has_ended(running: Running) -> bool:
    """Its process is no more, or nobody listens. A process that is busy, or stopped, has not ended."""
    try:
        os.kill(running.pid, 0)
        with _connected(running):
            return False
    except (ConnectionRefusedError, FileNotFoundError, ProcessLookupError):
        return True
    except OSError:
        return False


def _forget(note: Path, running: Running) -> None:
    """Remove what a run left that was killed. Only what `Control` makes: a note may say anything."""
    path = Path(running.socket)
    is_ours = path.parent == private_folder(_FOLDER) and path.is_socket()
    for left in (note, *([path] if is_ours else [])):
        with contextlib.suppress(OSError):
            left.unlink()


def _host() -> str:
    """This machine since it was started."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()} {boot}"


@contextlib.contextmanager
def _connected(running: Running) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_S)
        connection.connect(running.socket)
        yield connection
