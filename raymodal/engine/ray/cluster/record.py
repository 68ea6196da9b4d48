"""The record of the cluster that `raymodal cluster up` keeps: `RAYMODAL_HOME/cluster.json`, and the lock beside it.

Whoever keeps the cluster holds the lock for as long as it lives, so that nobody needs to guess from process ids: a record
without a lock is what a crash left. The lock is taken before the start, so of two starts at once one waits for the other.
"""

from __future__ import annotations

import contextlib
import enum
import fcntl
import json
import os
import platform
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from raymodal.engine.ray.cluster.ending import is_alive
from raymodal.engine.ray.locks import is_locked

FILE = "cluster.json"
_LOCK = "cluster.lock"


@dataclass(frozen=True)
class Record:
    """What is known of the kept cluster.

    Attributes:
        session: the value of `RAYMODAL_SESSION` in the environment of everything that belongs to it.
        keeper: the process that keeps it, and whose end is the cluster's.
        processes: Ray's daemons by name.
        machine: where it runs; homes may be shared between machines.
        since: when it was started (ISO 8601, UTC).
        auth: Ray's mode of authentication, `token` or `disabled`.
        token_path: the file that holds the token.
        code: of raymodal, as its template has imported it (`fingerprint`).
    """

    address: str
    session_dir: str
    session: str
    keeper: int
    ray: str
    python: str
    machine: str
    since: str
    processes: Mapping[str, int] = field(default_factory=dict)
    auth: str = "token"
    token_path: str | None = None
    dashboard: str | None = None
    code: str = ""
    fork: bool = True


class State(enum.Enum):
    """What became of the kept cluster."""

    NONE = "none"
    STARTING = "starting"
    LIVE = "live"
    DEAD = "dead"
    ELSEWHERE = "elsewhere"


def machine() -> str:
    """This machine, as the record names it."""
    return platform.node()


def read(home: Path) -> Record | None:
    """The record, or None where there is none that can be read."""
    known = {f.name for f in fields(Record)}
    try:
        raw = json.loads((home / FILE).read_text())
        return Record(**{name: value for name, value in raw.items() if name in known})
    except (OSError, ValueError, TypeError, AttributeError):
        return None


def write(home: Path, record: Record) -> None:
    """Replace the record; nobody else can read it."""
    temporary = home / f".{FILE}.{os.getpid()}"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        json.dump(asdict(record), file, indent=1)
    temporary.replace(home / FILE)


def remove(home: Path) -> None:
    """Forget the kept cluster."""
    (home / FILE).unlink(missing_ok=True)


def look(home: Path) -> tuple[State, Record | None]:
    """What the record says, and whether it is still true."""
    record = read(home)
    if record is not None and record.machine != machine():
        return State.ELSEWHERE, record
    if is_locked(home / _LOCK):
        # Between the lock and the end of the start, the record may still be that of one that died.
        return (State.LIVE, record) if record is not None and is_alive(record.keeper) else (State.STARTING, None)
    if record is None and not os.path.exists(home / FILE):  # also False where nothing may be looked at
        return State.NONE, None
    return State.DEAD, record


def take(home: Path, within_s: float = 0.3) -> int | None:
    """Take the lock: its file descriptor, or None where somebody keeps a cluster or starts one."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(home / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + within_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() > deadline:  # somebody who only looks holds it for no time at all
                os.close(fd)
                return None
            time.sleep(0.02)
        else:
            return fd


@contextlib.contextmanager
def taken(home: Path) -> Iterator[bool]:
    """Hold the lock, if it can be had."""
    fd = take(home)
    try:
        yield fd is not None
    finally:
        if fd is not None:
            os.close(fd)


def fingerprint() -> str:
    """Changes whenever raymodal's code does: its version, and the newest of its files."""
    import raymodal

    package = Path(raymodal.__file__).parent
    newest = max((path.stat().st_mtime_ns for path in package.rglob("*.py")), default=0)
    return f"{raymodal.RAYMODAL_VERSION} {newest}"
