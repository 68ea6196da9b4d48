"""The tables of the state database, and the steps that lead to them.

A step is never changed once it has been released: a table changes by a further step. `metadata` is what they amount to,
which a test compares.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlalchemy import Column, Connection, Float, Integer, LargeBinary, MetaData, String, Table, UniqueConstraint

metadata = MetaData()

secrets = Table(
    "secrets",
    metadata,
    Column("serial", Integer, primary_key=True),  # ascending in order of creation
    Column("object_id", String, nullable=False, unique=True),
    Column("environment", String, nullable=False),
    Column("name", String, nullable=False),
    Column("created_at", Float, nullable=False),  # seconds since the epoch, as all times here
    Column("created_by", String),
    Column("last_used_at", Float),
    Column("key_id", String, nullable=False),  # of the key that `sealed` was made with
    Column("sealed", LargeBinary, nullable=False),
    UniqueConstraint("environment", "name"),
    sqlite_autoincrement=True,
)

volumes = Table(
    "volumes",
    metadata,
    Column("serial", Integer, primary_key=True),
    Column("object_id", String, nullable=False, unique=True),  # also the name of its folder
    Column("environment", String, nullable=False),
    Column("name", String),  # none: ephemeral
    Column("version", Integer),  # none: not said
    Column("created_at", Float, nullable=False),
    Column("created_by", String),
    Column("expires_at", Float),  # of one that is ephemeral, unless its owner says that it still needs it
    UniqueConstraint("environment", "name"),
    sqlite_autoincrement=True,
)


def _first(connection: Connection) -> None:
    connection.exec_driver_sql(
        "CREATE TABLE secrets (serial INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, object_id VARCHAR NOT NULL UNIQUE,"
        " environment VARCHAR NOT NULL, name VARCHAR NOT NULL, created_at FLOAT NOT NULL, created_by VARCHAR,"
        " last_used_at FLOAT, key_id VARCHAR NOT NULL, sealed BLOB NOT NULL, UNIQUE (environment, name))"
    )


def _volumes(connection: Connection) -> None:
    connection.exec_driver_sql(
        "CREATE TABLE volumes (serial INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, object_id VARCHAR NOT NULL UNIQUE,"
        " environment VARCHAR NOT NULL, name VARCHAR, version INTEGER, created_at FLOAT NOT NULL, created_by VARCHAR,"
        " expires_at FLOAT, UNIQUE (environment, name))"
    )


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (_first, _volumes)
