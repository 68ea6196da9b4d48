"""`Dict`: a key-value store shared by all containers and callers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raymodal._dual import dual, dual_context_function, dual_stream_ahead
from raymodal._names import check_name
from raymodal._stored import (
    StoredObject,
    call_store,
    decode,
    encode,
    environment,
    local_time,
    seconds_since_epoch,
)
from raymodal.exception import (
    AlreadyExistsError,
    DeserializationError,
    Error,
    InvalidError,
    NotFoundError,
    RequestSizeError,
)

if TYPE_CHECKING:
    from raymodal.client import Client
    from raymodal.types import DictInfo

__all__ = [
    "AlreadyExistsError",
    "DeserializationError",
    "Dict",
    "DictManager",
    "Error",
    "InvalidError",
    "NotFoundError",
    "RequestSizeError",
]

_AHEAD = 128  # a page of entries is here before its reader asks for the second one


class _NoDefault:
    def __repr__(self) -> str:
        return "..."


_NO_DEFAULT = _NoDefault()


class DictManager:
    """`Dict.objects`: the named Dicts."""

    @dual
    async def create(
        self,
        name: str,
        *,
        allow_existing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> None:
        """Make a named Dict.

        Raises:
            AlreadyExistsError: The name is taken, unless `allow_existing`.
            InvalidError: The name has characters that names must not have.
        """
        check_name("Dict", name)
        await call_store("create", "dict", name, environment(environment_name), allow_existing)

    @dual
    async def list(
        self,
        *,
        max_objects: int | None = None,
        created_before: datetime | str | None = None,
        environment_name: str = "",
        client: Client | None = None,
    ) -> list[Dict]:
        """The named Dicts, newest first.

        Args:
            max_objects: At most so many; None for all.
            created_before: Only older ones; a time, or an ISO date or time, local unless it says otherwise.
            environment_name: Where to look.
            client: Not used.
        """
        if max_objects is not None and max_objects < 0:
            raise InvalidError(f"max_objects must not be negative, as {max_objects} is.")
        before = seconds_since_epoch(created_before)
        infos = await call_store("list_objects", "dict", environment(environment_name), max_objects, before)
        return [Dict._of_info(info) for info in infos]

    @dual
    async def delete(
        self,
        name: str,
        *,
        allow_missing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> None:
        """Delete a named Dict and what is in it.

        Raises:
            NotFoundError: There is none, unless `allow_missing`.
        """
        await call_store("delete_named", "dict", name, environment(environment_name), allow_missing)


async def _ephemeral(
    *, client: Client | None = None, environment_name: str | None = None, _heartbeat_sleep: float = 300
) -> AsyncGenerator[Dict, None]:
    """A Dict for the length of a `with` or `async with` block."""
    async with aclosing(Dict._ephemeral(_heartbeat_sleep)) as made:
        async for handle in made:
            yield handle


class Dict(StoredObject):
    """A dictionary that all containers and callers of a cluster share.

    Keys and values may be anything that cloudpickle can pickle. Keys are the same if their pickled bytes are: `1`,
    `1.0` and `True` are three. A value that is read is a copy: changing it changes nothing until it is put again.

    Example:
        >>> with Dict.ephemeral() as d:  # doctest: +SKIP
        ...     d["a"] = 1
        ...     d["a"]
        1
    """

    _kind: ClassVar[Literal["dict", "queue"]] = "dict"
    objects: ClassVar[DictManager] = DictManager()
    ephemeral = dual_context_function(_ephemeral)
    __iter__: ClassVar[None] = None  # otherwise Python would iterate by d[0], d[1], ...

    @staticmethod
    def from_name(
        name: str,
        *,
        environment_name: str | None = None,
        create_if_missing: bool = False,
        client: Client | None = None,
    ) -> Dict:
        """A Dict by name, looked up when it is first used.

        Args:
            name: 1 to 64 letters, digits, dashes, periods and underscores.
            environment_name: Where to look.
            create_if_missing: Make it if there is none; otherwise the first use raises `NotFoundError`.
            client: Not used.

        Raises:
            InvalidError: The name has characters that names must not have.
        """
        return Dict._by_name(name, environment_name, create_if_missing)

    @staticmethod
    def from_id(dict_id: str, client: Client | None = None) -> Dict:
        """A Dict by its id (`di-...`), looked up when it is first used."""
        return Dict._by_id(dict_id)

    @dual
    async def info(self) -> DictInfo:
        """Name and creation."""
        from raymodal.types import DictInfo

        found = await self._call("info")
        return DictInfo(name=found.name, created_at=local_time(found.created_at), created_by=found.created_by)

    @dual
    async def clear(self) -> None:
        """Remove everything."""
        await self._call("dict_clear")

    @dual
    async def get(self, key: Any, default: Any | None = None) -> Any:
        """The value of a key, or `default` if it is not there.

        Raises:
            DeserializationError: The value needs something that is not importable here.
        """
        data = await self._call("dict_get", encode(key))
        return default if data is None else self._decode_value(data, key)

    @dual
    async def contains(self, key: Any) -> bool:
        """Whether the key is there."""
        found: bool = await self._call("dict_contains", encode(key))
        return found

    @dual
    async def len(self) -> int:
        """How many entries there are."""
        count: int = await self._call("dict_len")
        return count

    @dual
    async def __getitem__(self, key: Any) -> Any:
        """The value of a key.

        Raises:
            KeyError: It is not there.
        """
        data = await self._call("dict_get", encode(key))
        if data is None:
            raise self._missing(key)
        return self._decode_value(data, key)

    @dual
    async def update(self, other: Mapping[Any, Any] | None = None, /, **kwargs: Any) -> None:
        """Put all entries of a mapping, and those given by keyword, at once.

        Raises:
            RequestSizeError: One value is too large; nothing was put then.
        """
        entries: dict[Any, Any] = {}
        if other is not None:
            entries = {key: other[key] for key in other.keys()}  # noqa: SIM118  `keys` is all that is asked of it
        entries.update(kwargs)
        await self._call("dict_update", [(encode(key), encode(value)) for key, value in entries.items()])

    @dual
    async def put(self, key: Any, value: Any, *, skip_if_exists: bool = False) -> bool:
        """Set the value of a key; in one step, so that it can serve as a lock.

        Returns:
            True if the key was not there before.

        Raises:
            RequestSizeError: The value is too large.
        """
        created: bool = await self._call("dict_put", encode(key), encode(value), skip_if_exists)
        return created

    @dual
    async def __setitem__(self, key: Any, value: Any) -> None:
        """As `put`."""
        await self._call("dict_put", encode(key), encode(value), False)

    @dual
    async def pop(self, key: Any, default: Any = _NO_DEFAULT) -> Any:
        """Remove a key and return its value; in one step: of several callers one gets it.

        Raises:
            KeyError: It is not there, and no `default` was given.
        """
        data = await self._call("dict_pop", encode(key))
        if data is not None:
            return self._decode_value(data, key)
        if default is _NO_DEFAULT:
            raise self._missing(key)
        return default

    @dual
    async def __delitem__(self, key: Any) -> Any:
        """Remove a key.

        Raises:
            KeyError: It is not there.
        """
        if await self._call("dict_pop", encode(key)) is None:
            raise self._missing(key)

    @dual
    async def __contains__(self, key: Any) -> bool:
        """Whether the key is there."""
        found: bool = await self._call("dict_contains", encode(key))
        return found

    @dual_stream_ahead(_AHEAD)
    async def keys(self) -> AsyncGenerator[Any, None]:
        """The keys, in no promised order; what is put or removed meanwhile may or may not show."""
        async with aclosing(self._scan(True, False)) as entries:
            async for key, _ in entries:
                yield self._decode_key(key)

    @dual_stream_ahead(_AHEAD)
    async def values(self) -> AsyncGenerator[Any, None]:
        """The values; see `keys`."""
        async with aclosing(self._scan(True, True)) as entries:
            async for key, value in entries:
                yield self._decode_value(value, None, key)

    @dual_stream_ahead(_AHEAD)
    async def items(self) -> AsyncGenerator[tuple[Any, Any], None]:
        """Pairs of key and value; see `keys`."""
        async with aclosing(self._scan(True, True)) as entries:
            async for raw, value in entries:
                key = self._decode_key(raw)
                yield key, self._decode_value(value, key)

    async def _scan(self, with_keys: bool, with_values: bool) -> AsyncGenerator[tuple[bytes, bytes], None]:
        after: int | None = -1
        while after is not None:
            page, after = await self._call("dict_page", after, with_keys, with_values)
            for entry in page:
                yield entry

    def _missing(self, key: Any) -> KeyError:
        return KeyError(f"{key!r} is not in Dict {self._object_id}")

    def _decode_key(self, data: bytes) -> Any:
        return decode(data, f"A key of {self._label()}")

    def _decode_value(self, data: bytes, key: Any, raw_key: bytes | None = None) -> Any:
        try:
            return decode(data, f"The value of key {key!r} of {self._label()}")
        except DeserializationError:
            if raw_key is None:
                raise
            return self._decode_value(data, self._decode_key(raw_key))  # fails again, naming the key
