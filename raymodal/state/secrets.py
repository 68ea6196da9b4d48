"""`NamedSecrets`: sets of variables under a name, encrypted. It reads no clock and no settings."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, Row, delete, insert, select, update

from raymodal.exception import AlreadyExistsError, DataLossError, NotFoundError, ServiceError
from raymodal.state import vault
from raymodal.state.database import Database
from raymodal.state.schema import secrets as table
from raymodal.state.vault import Vault


class Facts(NamedTuple):
    """What is known of a secret besides its values; times in seconds since the epoch."""

    object_id: str
    name: str
    environment: str
    created_at: float
    created_by: str | None
    last_used_at: float | None


_Strings = list[str]  # the class below has a method `list`


class Found(NamedTuple):
    """A secret. `revision` changes with its values and says nothing about them."""

    facts: Facts
    values: dict[str, str]
    revision: str


_FACTS = [table.c[name] for name in Facts._fields]


class NamedSecrets:
    """The named secrets in a database.

    Args:
        database: where.
        new_id: makes ids.
    """

    def __init__(self, database: Database, new_id: Callable[[], str]) -> None:
        self._database = database
        self._new_id = new_id

    def create(
        self,
        name: str,
        values: Mapping[str, str],
        environment: str,
        *,
        if_exists: str = "fail",
        now: float,
        user: str | None = None,
    ) -> Facts:
        """Keep a secret.

        Args:
            name, values, environment: the secret; checked already.
            if_exists: "fail", "keep" what is there, or "replace" its values.
            now: the time.
            user: who it is.

        Raises:
            AlreadyExistsError: there is one, and that fails.
        """
        with self._database.writing() as connection:
            found = self._find(connection, name, environment)
            if found is not None and if_exists == "fail":
                raise AlreadyExistsError(
                    f"A secret named {name!r} exists already. `{_command('update', name, environment)} KEY=VALUE` changes it; "
                    f"`{_command('create --force', name, environment)} KEY=VALUE ...` replaces it."
                )
            if found is not None and if_exists == "keep":
                return _facts(found)
            key = self._vault_for_writing(connection, replaced=found)
            facts = Facts(self._new_id(), name, environment, now, user, None) if found is None else _facts(found)
            sealed = {"key_id": key.key_id, "sealed": key.seal(values, _place(facts))}
            if found is None:
                connection.execute(insert(table).values(**facts._asdict(), **sealed))
            else:
                connection.execute(update(table).where(table.c.object_id == facts.object_id).values(**sealed))
            return facts

    def update(self, object_id: str, changes: Mapping[str, str]) -> None:
        """Add and change variables; the others stay.

        Raises:
            NotFoundError: it was deleted.
        """
        if not self._database.exists:
            raise _deleted(object_id)
        with self._database.writing() as connection:
            found = connection.execute(select(table).where(table.c.object_id == object_id)).one_or_none()
            if found is None:
                raise _deleted(object_id)
            key = self._vault_of(found)
            values = {**key.open(found.sealed, _place(found)), **changes}
            sealed = key.seal(values, _place(found))
            connection.execute(update(table).where(table.c.object_id == object_id).values(sealed=sealed))

    def delete(self, name: str, environment: str, *, allow_missing: bool = False) -> None:
        """Remove a secret.

        Raises:
            NotFoundError: there is none, and that is not allowed.
        """
        count = 0
        if self._database.exists:
            with self._database.writing() as connection:
                here = (table.c.environment == environment) & (table.c.name == name)
                count = connection.execute(delete(table).where(here)).rowcount
        if count == 0 and not allow_missing:
            raise missing(name, environment, self.names(environment))

    def list(
        self, environment: str, *, max_objects: int | None = None, created_before: float | None = None
    ) -> list[Facts]:
        """The secrets of an environment, newest first."""
        if not self._database.exists:
            return []
        query = select(*_FACTS).where(table.c.environment == environment).order_by(table.c.serial.desc())
        if created_before is not None:
            query = query.where(table.c.created_at < created_before)
        with self._database.reading() as connection:
            return [_facts(row) for row in connection.execute(query.limit(max_objects))]

    def names(self, environment: str) -> _Strings:
        """Which names there are."""
        return [facts.name for facts in self.list(environment)]

    def facts(self, object_id: str) -> Facts:
        """What is known of a secret.

        Raises:
            NotFoundError: it was deleted.
        """
        if self._database.exists:
            with self._database.reading() as connection:
                found = connection.execute(select(*_FACTS).where(table.c.object_id == object_id)).one_or_none()
                if found is not None:
                    return _facts(found)
        raise _deleted(object_id)

    def find(self, name: str, environment: str, required_keys: tuple[str, ...] = ()) -> Found:
        """A secret and its values.

        Raises:
            NotFoundError: there is none of that name, or it lacks keys.
        """
        found = None
        if self._database.exists:
            with self._database.reading() as connection:
                found = self._find(connection, name, environment)
        if found is None:
            raise missing(name, environment, self.names(environment))
        values = self._vault_of(found).open(found.sealed, _place(found))
        lacking = [key for key in required_keys if key not in values]
        if lacking:
            raise NotFoundError(
                f"Secret {name!r} lacks {_listed(lacking)}; it has {_listed(sorted(values)) if values else 'no variables'}. "
                f"Add what is missing: `{_command('update', name, environment)} {' '.join(f'{key}=-' for key in lacking)}` "
                "asks for the values."
            )
        return Found(_facts(found), values, hashlib.sha256(found.sealed).hexdigest()[:16])

    def mark_used(self, object_ids: _Strings, now: float) -> None:
        """Note when secrets were last used. A note only: a database that is busy goes without it."""
        with contextlib.suppress(ServiceError), self._database.writing() as connection:
            connection.execute(update(table).where(table.c.object_id.in_(object_ids)).values(last_used_at=now))

    def _find(self, connection: Connection, name: str, environment: str) -> Row[Any] | None:
        here = (table.c.environment == environment) & (table.c.name == name)
        return connection.execute(select(table).where(here)).one_or_none()

    def _vault_of(self, row: Row[Any]) -> Vault:
        key = vault.load(self._database.home)
        if key is None or key.key_id != row.key_id:
            raise self._wrong_key(key is None)
        return key

    def _vault_for_writing(self, connection: Connection, replaced: Row[Any] | None) -> Vault:
        """The key that the other secrets have. Under the write lock, so that processes agree on a new one."""
        others = select(table.c.key_id).distinct()
        if replaced is not None:
            others = others.where(table.c.object_id != replaced.object_id)
        in_use = set(connection.execute(others).scalars())
        key = vault.load(self._database.home)
        if key is None and not in_use:
            return vault.make(self._database.home)
        if key is None or not in_use <= {key.key_id}:
            raise self._wrong_key(key is None)
        return key

    def _wrong_key(self, is_missing: bool) -> DataLossError:
        path = self._database.home / vault.FILE
        fault = (
            f"{path} is missing"
            if is_missing
            else f"{path} is another key than the one that the named secrets were encrypted with"
        )
        return DataLossError(
            f"{fault}, so they cannot be read. Put the right file back, or delete those secrets "
            "(`raymodal secret list`, `raymodal secret delete NAME`) and create them again."
        )


def missing(name: str, environment: str, known: _Strings) -> NotFoundError:
    """The error for a name that is not there."""
    there = f" There are {_listed(sorted(known)[:20])}." if known else ""
    command = _command("create", name, environment)
    return NotFoundError(f"Secret {name!r} does not exist. Create it with `{command} KEY=VALUE`.{there}")


def _deleted(object_id: str) -> NotFoundError:
    return NotFoundError(f"Secret {object_id!r} does not exist any more; it was deleted.")


def _command(verb: str, name: str, environment: str) -> str:
    option = "" if environment == "main" else f" --env {environment}"
    return f"raymodal secret {verb}{option} {name}"


def _listed(words: _Strings) -> str:
    return ", ".join(map(repr, words))


def _facts(row: Any) -> Facts:
    return Facts(*(getattr(row, name) for name in Facts._fields))


def _place(row: Any) -> str:
    """What binds encrypted values to their row."""
    return f"{row.object_id}\0{row.environment}\0{row.name}"
