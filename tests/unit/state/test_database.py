"""The state database: one file, several processes, a schema that moves forward, and nothing half done."""

from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection, create_engine, inspect

from raymodal.exception import DataLossError, PermissionDeniedError, ServiceError, VersionError
from raymodal.state.database import Database
from raymodal.state.schema import MIGRATIONS, metadata


def count(database: Database) -> int:
    with database.reading() as connection:
        return int(connection.exec_driver_sql("SELECT n FROM counter").scalar_one())


def add(database: Database, times: int = 1) -> None:
    for _ in range(times):
        with database.writing() as connection:
            n = connection.exec_driver_sql("SELECT n FROM counter").scalar_one()
            connection.exec_driver_sql("UPDATE counter SET n = ?", (n + 1,))


def counter(connection: Connection) -> None:
    connection.exec_driver_sql("CREATE TABLE counter (n INTEGER)")
    connection.exec_driver_sql("INSERT INTO counter VALUES (0)")


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Database]:
    """A way to the same file, with one table that counts; more steps of the schema may follow."""
    return lambda *more, **options: Database(tmp_path / "home", migrations=(counter, *more), **options)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_its_owner_reads_it(make: Callable[..., Database]) -> None:
    """The folder, the file, and the files that SQLite keeps beside it; also where the file was open to others."""
    database = make()
    old = os.umask(0)
    try:
        with database.writing() as connection:
            connection.exec_driver_sql("UPDATE counter SET n = 1")
            modes = {path.name: mode(path) for path in database.home.iterdir()}
    finally:
        os.umask(old)

    assert mode(database.home) == 0o700
    assert modes == {"state.db": 0o600, "state.db-wal": 0o600, "state.db-shm": 0o600}

    database.path.chmod(0o644)
    assert count(make()) == 1
    assert mode(database.path) == 0o600


def test_any_folder(tmp_path: Path) -> None:
    """Its name is no URL."""
    home = tmp_path / "50%20 of? a#home:memory:"
    with Database(home).writing():
        pass

    assert [path.name for path in home.iterdir()] == ["state.db"]
    assert [path.name for path in tmp_path.iterdir()] == [home.name]


def test_a_block_that_raises_has_done_nothing(make: Callable[..., Database]) -> None:
    """All of a transaction, or none of it."""
    database = make()
    with pytest.raises(KeyError), database.writing() as connection:
        connection.exec_driver_sql("UPDATE counter SET n = 5")
        raise KeyError
    assert count(database) == 0


def process(home: Path, body: str) -> subprocess.Popen[str]:
    """A process that has `database` and `add`."""
    code = "from pathlib import Path\nfrom tests.unit.state.test_database import *\n"
    code += f"database = Database(Path({str(home)!r}), migrations=(counter,))\n{textwrap.dedent(body)}"
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    return subprocess.Popen([sys.executable, "-c", code], env=environ, stdout=subprocess.PIPE, text=True)


def test_killed_at_any_point(make: Callable[..., Database]) -> None:
    """What was acknowledged is there after SIGKILL; what was not yet committed is not, and blocks nobody."""
    database = make()
    add(database)
    killed = process(
        database.home,
        """
        add(database, 3)
        with database.writing() as connection:
            connection.exec_driver_sql("UPDATE counter SET n = 100")
            print("in the middle", flush=True)
            time.sleep(60)
        """,
    )
    assert killed.stdout is not None
    assert killed.stdout.readline() == "in the middle\n"
    killed.send_signal(signal.SIGKILL)
    killed.communicate()

    assert count(database) == 4
    add(database)
    assert count(make()) == 5


def test_processes_at_once(make: Callable[..., Database]) -> None:
    """They meet where there is not even a folder: each makes it or finds it made, and no addition is lost."""
    database = make()
    started = [process(database.home, "add(database, 20)") for _ in range(4)]

    assert [one.wait(timeout=60) for one in started] == [0] * 4
    for one in started:
        one.communicate()
    assert count(database) == 80


def test_threads_at_once(make: Callable[..., Database]) -> None:
    """One `Database` for all of them."""
    database = make()
    errors: list[BaseException] = []

    def work() -> None:
        try:
            add(database, 20)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []
    assert count(database) == 120


def test_after_a_fork(make: Callable[..., Database]) -> None:
    """The child has connections of its own."""
    database = make()
    add(database)
    child = os.fork()
    if child == 0:
        try:
            add(database, 5)
            os._exit(0)
        finally:
            os._exit(1)
    add(database, 5)

    assert os.waitpid(child, 0)[1] == 0
    assert count(database) == 11


def test_busy(make: Callable[..., Database]) -> None:
    """A writer that does not end is named after a while, and readers do not wait for it."""
    add(make())
    other = make(busy_s=0.2)
    with make().writing() as connection:
        connection.exec_driver_sql("UPDATE counter SET n = 7")
        begun = time.monotonic()
        with pytest.raises(ServiceError, match=r"state\.db is in use by another process for more than 0\.2 s"):
            add(other)
        assert time.monotonic() - begun < 2
        assert count(other) == 1


# --- the schema


def second(connection: Connection) -> None:
    connection.exec_driver_sql("ALTER TABLE counter ADD COLUMN unit TEXT DEFAULT 'pieces'")


def failing(connection: Connection) -> None:
    connection.exec_driver_sql("DROP TABLE counter")
    raise KeyboardInterrupt


def test_an_older_file_is_brought_forward(make: Callable[..., Database]) -> None:
    """With what is in it, once; the older version of raymodal that has it open is told."""
    old = make()
    add(old, 3)
    new = make(second)
    with new.reading() as connection:
        assert connection.exec_driver_sql("SELECT n, unit FROM counter").one() == (3, "pieces")
    assert make(second) is not new
    add(make(second))

    assert count(new) == 4
    with pytest.raises(VersionError, match=r"written by a newer raymodal \(schema 2; this one knows up to 1\)"):
        add(old)
    with pytest.raises(VersionError, match="RAYMODAL_HOME"):
        count(make())


def test_interrupted_on_the_way(make: Callable[..., Database]) -> None:
    """A crash between the steps leaves the file as it was."""
    add(make(), 3)
    with pytest.raises(KeyboardInterrupt):
        count(make(second, failing))

    assert count(make()) == 3
    with make(second).reading() as connection:
        assert connection.exec_driver_sql("SELECT unit FROM counter").scalar() == "pieces"


def test_the_steps_lead_to_the_tables(tmp_path: Path) -> None:
    """What the code believes of the tables is what the steps make."""
    database = Database(tmp_path)
    with database.writing():
        pass
    plain = create_engine("sqlite://")
    metadata.create_all(plain)

    def columns(connection: Any) -> dict[str, Any]:
        found = inspect(connection)
        return {
            table: (
                [(c["name"], str(c["type"]), c["nullable"], c["primary_key"]) for c in found.get_columns(table)],
                sorted(tuple(unique["column_names"]) for unique in found.get_unique_constraints(table)),
            )
            for table in found.get_table_names()
        }

    with database.reading() as made, plain.connect() as expected:
        assert columns(made) == columns(expected)
    assert len(MIGRATIONS) >= 1
    plain.dispose()


@pytest.mark.parametrize(
    ("prepare", "text"),
    [
        (lambda path: path.write_bytes(b"no database at all" * 100), "is damaged"),
        (
            lambda path: sqlite3.connect(path).executescript("CREATE TABLE theirs (a)").close(),
            "another program's database",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:unclosed database:ResourceWarning")
def test_not_ours(tmp_path: Path, prepare: Callable[[Path], object], text: str) -> None:
    """It is left as it is."""
    prepare(tmp_path / "state.db")
    before = (tmp_path / "state.db").read_bytes()

    with pytest.raises(DataLossError, match=text):
        add(Database(tmp_path))
    assert (tmp_path / "state.db").read_bytes() == before


def test_a_folder_that_is_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Named, with the way out."""

    def refuse(path: Any, *_: Any) -> int:
        raise PermissionError(13, "Permission denied", str(path))  # root, who runs many a CI, may write everywhere

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(PermissionDeniedError, match=r"state\.db cannot be used.*RAYMODAL_HOME"):
        add(Database(tmp_path / "home"))
