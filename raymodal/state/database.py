"""`Database`: the file `state.db`, its schema, and transactions on it. It knows nothing of what the tables mean.

Theory of operation
-------------------
Several processes use the file at once (drivers, containers, commands), and any of them may be killed at any point. So:

- Every change is one transaction, which takes SQLite's write lock as it begins (`BEGIN IMMEDIATE`): what it reads first
  cannot have changed when it writes, and two writers wait for each other instead of failing in the middle.
- `writing()` returns only after the commit is on disk (`synchronous=FULL`), and only then is anything acknowledged.
- The schema has a version (SQLite's `user_version`). An older file is brought forward, step by step, in one such
  transaction, so that a crash leaves it at its old version and of two processes one finds the work done. A newer file
  is refused: what its columns mean is not known here.
- No connection outlives its transaction, so threads and forked processes share nothing.

With `RAYMODAL_HOME` on a network file system SQLite may not offer its write-ahead log; it then falls back by itself to
a journal, which is slower and just as safe where the file system's locks work.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, Engine, create_engine, event
from sqlalchemy.exc import DatabaseError, OperationalError
from sqlalchemy.pool import NullPool

from raymodal.exception import DataLossError, PermissionDeniedError, ServiceError, VersionError
from raymodal.state.schema import MIGRATIONS

FILE = "state.db"
BUSY_S = 10.0  # how long a transaction waits for another process
APPLICATION_ID = 0x72616D6F  # "ramo": another program's database is not mistaken for ours


class Database:
    """The state below one `RAYMODAL_HOME`. Safe to use from several threads and processes.

    Args:
        home: made with mode 0700 if it is not there, by the first transaction that writes.
        busy_s: how long to wait for another process.
        migrations: the steps that lead to the present schema; for tests.
    """

    def __init__(
        self,
        home: Path,
        *,
        busy_s: float = BUSY_S,
        migrations: tuple[Callable[[Connection], None], ...] = MIGRATIONS,
    ) -> None:
        self.home = home
        self.path = home / FILE
        self._busy_s = busy_s
        self._migrations = migrations
        self._ready: tuple[int, int] | None = None  # device and inode of the file that was found in order
        self._engine = _engine(self.path, busy_s)

    @property
    def exists(self) -> bool:
        """Whether anything has ever been written."""
        return self.path.exists()

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        """A consistent view; the file must exist."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """The only writer for this block. What it wrote is on disk when the block has ended, or gone if it raised."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextlib.contextmanager
    def _transaction(self, begin: str) -> Iterator[Connection]:
        with self._errors():
            self._prepare()
            with self._begun(begin) as connection:
                self._checked_version(connection)  # another process may have brought it forward since
                yield connection

    @contextlib.contextmanager
    def _begun(self, begin: str) -> Iterator[Connection]:
        with self._engine.connect().execution_options(raymodal_begin=begin) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """SQLite's errors in words that say what to do. Without their cause, whose text repeats statements."""
        try:
            yield
        except OperationalError as error:
            reason = str(error.orig)
            if "locked" in reason:
                text = f"{self.path} is in use by another process for more than {self._busy_s:g} s. Try again"
                raise ServiceError(f"{text}; `fuser {self.path}` shows who uses it.") from None
            raise ServiceError(f"{self.path} cannot be used: {reason}.") from None
        except DatabaseError as error:
            if "not a database" not in str(error.orig) and "malformed" not in str(error.orig):
                raise
            raise DataLossError(
                f"{self.path} is damaged: {error.orig}. Put a copy of it back, or move it away to begin with an empty one."
            ) from None
        except PermissionError as error:
            raise PermissionDeniedError(
                f"{error.filename or self.path} cannot be used: {error.strerror}. Set RAYMODAL_HOME to a folder of your own."
            ) from None

    # --- getting ready

    def _prepare(self) -> None:
        """Make the file if need be, and bring its schema forward."""
        with contextlib.suppress(FileNotFoundError):
            if self._ready == _identity(self.path):
                return
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_private(self.path)
        identity = _identity(self.path)
        version = self._look()
        if version < len(self._migrations):
            self._migrate()
        self._ready = identity

    def _look(self) -> int:
        """The version of a file that is ours, which from then on has a write-ahead log."""
        # Two processes that switch to it at the same time collide without SQLite waiting for either.
        deadline = time.monotonic() + self._busy_s
        while True:
            try:
                # One view for all that it looks at, while another process may be at work.
                with self._begun("BEGIN") as connection:
                    version = self._checked_version(connection)
                with self._engine.connect() as connection:
                    if connection.exec_driver_sql("PRAGMA journal_mode").scalar() != "wal":
                        connection.exec_driver_sql("PRAGMA journal_mode = WAL")
                return version
            except OperationalError as error:
                if "locked" not in str(error.orig) or time.monotonic() > deadline:
                    raise
                time.sleep(0.01)

    def _migrate(self) -> None:
        with self._begun("BEGIN IMMEDIATE") as connection:
            for step in self._migrations[self._checked_version(connection) :]:
                step(connection)
            connection.exec_driver_sql(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.exec_driver_sql(f"PRAGMA user_version = {len(self._migrations)}")

    def _checked_version(self, connection: Connection) -> int:
        version = int(connection.exec_driver_sql("PRAGMA user_version").scalar_one())
        owner = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
        is_new = version == 0 and not connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar_one()
        if owner != APPLICATION_ID and not is_new:
            raise DataLossError(f"{self.path} is another program's database. Move it away, or set RAYMODAL_HOME.")
        if version > len(self._migrations):
            raise VersionError(
                f"{self.path} was written by a newer raymodal (schema {version}; this one knows up to {len(self._migrations)}). "
                "Install that version again, or set RAYMODAL_HOME to another folder."
            )
        return version


@functools.cache
def database(home: Path) -> Database:
    """This process' way to the state below a folder."""
    return Database(home)


def _identity(path: Path) -> tuple[int, int]:
    info = path.stat()
    return info.st_dev, info.st_ino


def _make_private(path: Path) -> None:
    """An empty file, or the one that is there, that only its owner can read; SQLite's files beside it follow its mode."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)


def _engine(path: Path, busy_s: float) -> Engine:
    # Parameters never get into errors or logs.
    engine = create_engine(URL.create("sqlite", database=str(path)), poolclass=NullPool, hide_parameters=True)

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say, also around changes of the schema
        connection.execute(f"PRAGMA busy_timeout = {int(busy_s * 1000)}")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")  # what was deleted is not left in free pages

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        begin = connection.get_execution_options().get("raymodal_begin")
        if begin is not None:
            connection.exec_driver_sql(begin)

    return engine
