"""What `Dict` and `Queue` share: handles on objects in the store, found by name or id when first used.

The store is reached by `call_store` alone. Values cross it as bytes made here; the store never unpickles anything.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from raymodal._names import check_name
from raymodal.exception import DeserializationError, Error, InvalidError
from raymodal.object import Object

if TYPE_CHECKING:
    from raymodal.engine.store import Info

DEFAULT_ENVIRONMENT = "main"


async def call_store(method: str, *args: Any) -> Any:
    """Run a method of `StoreCore` in this process' engine. On the I/O loop."""
    from raymodal.engine.current import engine_or_none, get_engine

    # Starting an engine takes seconds and may itself wait for the I/O loop, hence the thread.
    engine = engine_or_none()
    if engine is None:
        engine = await asyncio.to_thread(get_engine)
    return await engine.store().call(method, *args)


def encode(value: Any) -> bytes:
    """Pickle a key, a value or an item. Handles travel by id; classes of `__main__` by value."""
    import cloudpickle  # late: users who only import a handle do not need it

    data: bytes = cloudpickle.dumps(value, protocol=5)
    return data


def decode(data: bytes, what: str) -> Any:
    """Unpickle.

    Args:
        data: From `encode`.
        what: What it is, for the error.

    Raises:
        DeserializationError: A module or class it needs is not importable here.
    """
    import pickle

    try:
        return pickle.loads(data)
    except ModuleNotFoundError as error:
        raise DeserializationError(
            f"{what} needs module {error.name!r}, which is not installed here. Install it, or store plain values."
        ) from error
    except (AttributeError, ImportError, pickle.UnpicklingError, EOFError) as error:
        raise DeserializationError(
            f"{what} cannot be deserialized here: {error}. What it refers to must be importable in this process too."
        ) from error


def environment(name: str | None) -> str:
    """The namespace in which names are looked up."""
    return name or DEFAULT_ENVIRONMENT


def seconds_since_epoch(moment: datetime | str | None) -> float | None:
    """A `created_before`: a time, or an ISO date or time; without a zone it is local.

    Raises:
        InvalidError: The text is not a time.
    """
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError as error:
            raise InvalidError(
                f"created_before={moment!r} is not an ISO date or time, such as '2026-07-01'."
            ) from error
    return None if moment is None else moment.timestamp()


def local_time(seconds: float) -> datetime:
    """A moment since the epoch in the local zone."""
    return datetime.fromtimestamp(seconds, UTC).astimezone()


class _NotConstructible(InvalidError, RuntimeError):
    """Modal's documentation has an InvalidError here, its 1.6.4 raises a RuntimeError; both are caught."""


class StoredObject(Object):
    """A handle by name, by id, or on an ephemeral object; it finds its object when first used."""

    _kind: ClassVar[Literal["dict", "queue"]]

    _name: str | None
    _environment: str | None  # as given
    _create_if_missing: bool
    _given_id: str | None

    def __init__(self) -> None:
        word = type(self).__name__
        raise _NotConstructible(
            f"{word}(...) makes no {word}. Use `{word}.from_name(...)`, or `with {word}.ephemeral() as ...:`."
        )

    @classmethod
    def _handle(
        cls,
        name: str | None = None,
        environment_name: str | None = None,
        create_if_missing: bool = False,
        given_id: str | None = None,
        object_id: str | None = None,
    ) -> Self:
        handle = cls._new()
        handle._name = name
        handle._environment = environment_name
        handle._create_if_missing = create_if_missing
        handle._given_id = given_id
        handle._object_id = object_id
        return handle

    @classmethod
    def _by_name(cls, name: str, environment_name: str | None, create_if_missing: bool) -> Self:
        if not isinstance(name, str):
            raise TypeError(f"{cls.__name__}.from_name needs a string as name, not {name!r}")
        check_name(cls.__name__, name)
        return cls._handle(name, environment_name, create_if_missing)

    @classmethod
    def _by_id(cls, given_id: str) -> Self:
        return cls._handle(given_id=given_id)

    @classmethod
    def _of_info(cls, info: Info) -> Self:
        return cls._handle(name=info.name, object_id=info.object_id)

    @classmethod
    async def _ephemeral(cls, heartbeat_s: float) -> AsyncGenerator[Self, None]:
        """One yield: the handle. Its object is deleted afterwards, or when heartbeats stop coming."""
        object_id: str = await call_store("create_ephemeral", cls._kind)
        heart = asyncio.create_task(_beat(object_id, heartbeat_s))
        try:
            yield cls._handle(object_id=object_id)
        finally:
            heart.cancel()
            with contextlib.suppress(Error):  # a store that is gone has nothing to delete
                await call_store("delete", object_id)

    @property
    def name(self) -> str | None:
        """The name by which it was looked up; None for ephemeral objects."""
        return self._name

    async def _hydrate(self) -> None:
        await self._id()

    async def _id(self) -> str:
        """The object's id, looked up once."""
        if self._object_id is None:
            if self._given_id is not None:
                found = await call_store("info", self._given_id)
                self._object_id, self._name = found.object_id, found.name
            else:
                where = environment(self._environment)
                self._object_id = await call_store(
                    "get_or_create", self._kind, self._name, where, self._create_if_missing
                )
        assert self._object_id is not None
        return self._object_id

    async def _call(self, method: str, *args: Any) -> Any:
        return await call_store(method, await self._id(), *args)

    def _label(self) -> str:
        """How errors call it."""
        return f"{type(self).__name__} {self._name or self._object_id!r}"

    def _representation(self) -> str:
        word = type(self).__name__
        if self._name is not None:
            where = "" if self._environment is None else f", environment_name={self._environment!r}"
            return f"modal.{word}.from_name({self._name!r}{where})"
        if self._given_id is not None:
            return f"modal.{word}.from_id({self._given_id!r})"
        return f"modal.{word}.ephemeral()"

    def __reduce__(self) -> tuple[Any, ...]:
        """Handles travel by object id; those not yet used by what they will look up."""
        fields = (self._name, self._environment, self._create_if_missing, self._given_id, self._object_id)
        return _revive, (type(self), *fields)


def _revive(cls: type[StoredObject], *fields: Any) -> StoredObject:
    return cls._handle(*fields)


async def _beat(object_id: str, every_s: float) -> None:
    while True:
        await asyncio.sleep(every_s)
        with contextlib.suppress(Error):  # one lost heartbeat is no harm, a lease is three of them
            await call_store("heartbeat", object_id)
