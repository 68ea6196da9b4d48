"""`NamedVolumes`: which volumes there are. Their files are elsewhere. It reads no clock and no settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, insert, select, update

from raymodal.exception import AlreadyExistsError, InvalidError, NotFoundError
from raymodal.state.database import Database
from raymodal.state.schema import volumes as table


class Facts(NamedTuple):
    """What is known of a volume; times in seconds since the epoch. One without a name is ephemeral."""

    object_id: str
    name: str | None
    environment: str
    version: int | None
    created_at: float
    created_by: str | None


_COLUMNS = [table.c[name] for name in Facts._fields]
_Facts = list[Facts]  # the class below has a method `list`


class NamedVolumes:
    """The volumes in a database.

    Args:
        database: where.
        new_id: makes ids.
    """

    def __init__(self, database: Database, new_id: Callable[[], str]) -> None:
        self._database = database
        self._new_id = new_id

    def find(self, name: str, environment: str, *, version: int | None = None) -> Facts:
        """The volume of a name.

        Raises:
            NotFoundError: there is none.
            InvalidError: it has another version.
        """
        if self._database.exists:
            with self._database.reading() as connection:
                found = _by_name(connection, name, environment)
            if found is not None:
                return _checked_version(found, version)
        raise _missing(name, environment)

    def facts(self, object_id: str) -> Facts:
        """The volume of an id.

        Raises:
            NotFoundError: there is none (any more).
        """
        if self._database.exists:
            with self._database.reading() as connection:
                row = connection.execute(select(*_COLUMNS).where(table.c.object_id == object_id)).one_or_none()
            if row is not None:
                return Facts(*row)
        raise NotFoundError(f"Volume {object_id!r} does not exist; it may have been deleted.")

    def create(
        self,
        name: str | None,
        environment: str,
        *,
        version: int | None = None,
        allow_existing: bool = False,
        now: float,
        user: str | None = None,
        expires_at: float | None = None,
    ) -> Facts:
        """Note a volume; one without a name is gone at `expires_at`.

        Raises:
            AlreadyExistsError: there is one, and that is not allowed.
            InvalidError: there is one of another version.
        """
        with self._database.writing() as connection:
            found = None if name is None else _by_name(connection, name, environment)
            if found is not None and not allow_existing:
                raise AlreadyExistsError(f"A volume named {name!r} exists already. `raymodal volume list` shows all.")
            if found is not None:
                return _checked_version(found, version)
            facts = Facts(self._new_id(), name, environment, version, now, user)
            connection.execute(insert(table).values(**facts._asdict(), expires_at=expires_at))
            return facts

    def renew(self, object_id: str, expires_at: float) -> None:
        """Keep an ephemeral volume for longer."""
        with self._database.writing() as connection:
            connection.execute(update(table).where(table.c.object_id == object_id).values(expires_at=expires_at))

    def rename(self, old: str, new: str, environment: str) -> None:
        """Give a volume another name.

        Raises:
            NotFoundError: there is none of the old one.
            AlreadyExistsError: the new one is taken.
        """
        if not self._database.exists:
            raise _missing(old, environment)
        with self._database.writing() as connection:
            found = _by_name(connection, old, environment)
            if found is None:
                raise _missing(old, environment)
            if old == new:
                return
            if _by_name(connection, new, environment) is not None:
                raise AlreadyExistsError(f"Volume {old!r} cannot be renamed: one named {new!r} exists already.")
            connection.execute(update(table).where(table.c.object_id == found.object_id).values(name=new))

    def delete(self, name: str, environment: str, *, allow_missing: bool = False) -> str | None:
        """Forget a named volume. Returns its id.

        Raises:
            NotFoundError: there is none, and that is not allowed.
        """
        if self._database.exists:
            with self._database.writing() as connection:
                found = _by_name(connection, name, environment)
                if found is not None:
                    connection.execute(delete(table).where(table.c.object_id == found.object_id))
                    return found.object_id
        if not allow_missing:
            raise _missing(name, environment)
        return None

    def forget(self, object_id: str) -> None:
        """Forget a volume, if it is there."""
        with self._database.writing() as connection:
            connection.execute(delete(table).where(table.c.object_id == object_id))

    def expire(self, now: float) -> list[str]:
        """Forget ephemeral volumes whose owners are gone. Returns their ids."""
        with self._database.writing() as connection:
            late = table.c.expires_at < now
            ids = list(connection.execute(select(table.c.object_id).where(late)).scalars())
            if ids:
                connection.execute(delete(table).where(table.c.object_id.in_(ids)))
        return ids

    def list(self, environment: str, *, max_objects: int | None = None, created_before: float | None = None) -> _Facts:
        """The named volumes of an environment, newest first."""
        if not self._database.exists:
            return []
        query = select(*_COLUMNS).where((table.c.environment == environment) & table.c.name.is_not(None))
        if created_before is not None:
            query = query.where(table.c.created_at < created_before)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(table.c.serial.desc()).limit(max_objects)).all()
        return [Facts(*row) for row in rows]


def _by_name(connection: Connection, name: str, environment: str) -> Facts | None:
    here = (table.c.environment == environment) & (table.c.name == name)
    row: Any = connection.execute(select(*_COLUMNS).where(here)).one_or_none()
    return None if row is None else Facts(*row)


def _checked_version(found: Facts, version: int | None) -> Facts:
    theirs = found.version or 1
    if version is not None and version != theirs:
        raise InvalidError(f"Volume {found.name!r} has version {theirs}, not {version}. Leave version= out.")
    return found


def _missing(name: str, environment: str) -> NotFoundError:
    option = "" if environment == "main" else f" --env {environment}"
    return NotFoundError(
        f"Volume {name!r} does not exist. Create it with `raymodal volume create{option} {name}`, "
        "or use Volume.from_name(..., create_if_missing=True)."
    )
