"""`Queue`: first in, first out, shared by all containers and callers."""

from __future__ import annotations

import asyncio
import queue
import secrets
import warnings
from collections.abc import AsyncGenerator
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
    Error,
    InvalidError,
    NotFoundError,
    RequestSizeError,
    ResourceExhaustedError,
    TimeoutError,
)

if TYPE_CHECKING:
    from raymodal.client import Client
    from raymodal.types import QueueInfo

__all__ = [
    "AlreadyExistsError",
    "Error",
    "InvalidError",
    "NotFoundError",
    "Queue",
    "QueueManager",
    "RequestSizeError",
    "ResourceExhaustedError",
    "TimeoutError",
]

_POLL_S = 30.0  # one wait in the store; a longer one is several, so that what a dead client leaves there ends
_AHEAD = 128


class QueueManager:
    """`Queue.objects`: the named Queues."""

    @dual
    async def create(
        self,
        name: str,
        *,
        allow_existing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> None:
        """Make a named Queue.

        Raises:
            AlreadyExistsError: The name is taken, unless `allow_existing`.
            InvalidError: The name has characters that names must not have.
        """
        check_name("Queue", name)
        await call_store("create", "queue", name, environment(environment_name), allow_existing)

    @dual
    async def list(
        self,
        *,
        max_objects: int | None = None,
        created_before: datetime | str | None = None,
        environment_name: str = "",
        client: Client | None = None,
    ) -> list[Queue]:
        """The named Queues, newest first.

        Args:
            max_objects: At most so many; None for all.
            created_before: Only older ones; a time, or an ISO date or time, local unless it says otherwise.
            environment_name: Where to look.
            client: Not used.
        """
        if max_objects is not None and max_objects < 0:
            raise InvalidError(f"max_objects must not be negative, as {max_objects} is.")
        before = seconds_since_epoch(created_before)
        infos = await call_store("list_objects", "queue", environment(environment_name), max_objects, before)
        return [Queue._of_info(info) for info in infos]

    @dual
    async def delete(
        self,
        name: str,
        *,
        allow_missing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> None:
        """Delete a named Queue and what is in it.

        Raises:
            NotFoundError: There is none, unless `allow_missing`.
        """
        await call_store("delete_named", "queue", name, environment(environment_name), allow_missing)


async def _ephemeral(
    client: Client | None = None, environment_name: str | None = None, _heartbeat_sleep: float = 300
) -> AsyncGenerator[Queue, None]:
    """A Queue for the length of a `with` or `async with` block."""
    async with aclosing(Queue._ephemeral(_heartbeat_sleep)) as made:
        async for handle in made:
            yield handle


class Queue(StoredObject):
    """A queue that all containers and callers of a cluster share.

    Items may be anything that cloudpickle can pickle. Each goes to exactly one getter. A partition is a line of its
    own; without one, the default partition is meant. A partition is dropped `partition_ttl` seconds after its last put.

    Example:
        >>> with Queue.ephemeral() as q:  # doctest: +SKIP
        ...     q.put_many([1, 2, 3])
        ...     q.get_many(2)
        [1, 2]
    """

    _kind: ClassVar[Literal["dict", "queue"]] = "queue"
    objects: ClassVar[QueueManager] = QueueManager()
    ephemeral = dual_context_function(_ephemeral)

    @staticmethod
    def validate_partition_key(partition: str | None) -> bytes:
        """A partition's name in bytes; empty for the default one.

        Raises:
            InvalidError: It is not a string of 1 to 64 bytes.
        """
        if partition is None:
            return b""
        key = partition.encode("utf-8") if isinstance(partition, str) else b""
        if not 1 <= len(key) <= 64:
            raise InvalidError(f"A Queue partition key is a string of 1 to 64 bytes in UTF-8, not {partition!r}.")
        return key

    @staticmethod
    def from_name(
        name: str,
        *,
        environment_name: str | None = None,
        create_if_missing: bool = False,
        client: Client | None = None,
    ) -> Queue:
        """A Queue by name, looked up when it is first used.

        Args:
            name: 1 to 64 letters, digits, dashes, periods and underscores.
            environment_name: Where to look.
            create_if_missing: Make it if there is none; otherwise the first use raises `NotFoundError`.
            client: Not used.

        Raises:
            InvalidError: The name has characters that names must not have.
        """
        return Queue._by_name(name, environment_name, create_if_missing)

    @staticmethod
    def from_id(queue_id: str, client: Client | None = None) -> Queue:
        """A Queue by its id (`qu-...`), looked up when it is first used."""
        return Queue._by_id(queue_id)

    @dual
    async def info(self) -> QueueInfo:
        """Name and creation."""
        from raymodal.types import QueueInfo

        found = await self._call("info")
        return QueueInfo(name=found.name, created_at=local_time(found.created_at), created_by=found.created_by)

    @dual
    async def clear(self, *, partition: str | None = None, all: bool = False) -> None:
        """Drop the items of one partition, or of all.

        Raises:
            InvalidError: Both `partition` and `all` are given.
        """
        if partition is not None and all:
            raise InvalidError("Queue.clear takes either partition= or all=True, not both.")
        await self._call("queue_clear", self.validate_partition_key(partition), all)

    @dual
    async def get(
        self, block: bool = True, timeout: float | None = None, *, partition: str | None = None
    ) -> Any | None:
        """Remove the first item and return it.

        Args:
            block: Wait for an item; False: return None if there is none.
            timeout: Seconds to wait; None: as long as it takes.
            partition: From where; None for the default partition.

        Raises:
            queue.Empty: No item came within `timeout`.
        """
        values = await self._take(1, block, timeout, partition)
        return values[0] if values else None

    @dual
    async def get_many(
        self, n_values: int, block: bool = True, timeout: float | None = None, *, partition: str | None = None
    ) -> list[Any]:
        """Remove up to `n_values` items from the head; waits for the first of them only.

        Args:
            n_values: At most so many.
            block: Wait for an item; False: return [] if there is none.
            timeout: Seconds to wait; None: as long as it takes.
            partition: From where; None for the default partition.

        Raises:
            queue.Empty: No item came within `timeout`.
        """
        return await self._take(n_values, block, timeout, partition)

    @dual
    async def put(
        self,
        v: Any,
        block: bool = True,
        timeout: float | None = None,
        *,
        partition: str | None = None,
        partition_ttl: int = 24 * 3600,
    ) -> None:
        """Append one item.

        Args:
            v: The item.
            block: Wait for room if the partition is full.
            timeout: Seconds to wait; None: as long as it takes.
            partition: Where to; None for the default partition.
            partition_ttl: Seconds after which the partition is dropped, unless something is put again.

        Raises:
            queue.Full: There was no room, within `timeout` if blocking.
            RequestSizeError: The item is too large.
        """
        await self._append([v], block, timeout, partition, partition_ttl)

    @dual
    async def put_many(
        self,
        vs: list[Any],
        block: bool = True,
        timeout: float | None = None,
        *,
        partition: str | None = None,
        partition_ttl: int = 24 * 3600,
    ) -> None:
        """Append several items in their order, all or none; otherwise as `put`."""
        await self._append(vs, block, timeout, partition, partition_ttl)

    @dual
    async def len(self, *, partition: str | None = None, total: bool = False) -> int:
        """How many items wait in one partition, or in all.

        Raises:
            InvalidError: Both `partition` and `total` are given.
        """
        if partition is not None and total:
            raise InvalidError("Queue.len takes either partition= or total=True, not both.")
        count: int = await self._call("queue_len", self.validate_partition_key(partition), total)
        return count

    @dual_stream_ahead(_AHEAD)
    async def iterate(
        self, *, partition: str | None = None, item_poll_timeout: float = 0.0
    ) -> AsyncGenerator[Any, None]:
        """Read the items from the head without removing them.

        Args:
            partition: Which; None for the default partition.
            item_poll_timeout: Seconds to wait for a further item at the end; counted anew after each one.
        """
        key = self.validate_partition_key(partition)
        clock = asyncio.get_running_loop().time
        after = -1
        until = clock() + item_poll_timeout
        while True:
            left_s = max(0.0, until - clock())
            page: list[tuple[int, bytes]] = await self._call("queue_peek", key, after, min(left_s, _POLL_S))
            for _, data in page:
                yield self._decode(data)
            if page:
                after = page[-1][0]
                until = clock() + item_poll_timeout
            elif clock() >= until:
                return

    async def _take(self, n_values: int, block: bool, timeout: float | None, partition: str | None) -> list[Any]:
        key = self.validate_partition_key(partition)
        if n_values < 1:
            return []
        deadline = _Deadline(block, timeout)
        while True:
            items = await self._poll(key, n_values, deadline.wait_s())
            if items:
                return [self._decode(item) for item in items]
            if not block:
                return []
            if deadline.has_passed():
                raise queue.Empty

    async def _poll(self, key: bytes, n_values: int, wait_s: float) -> list[bytes]:
        poll_id = secrets.token_hex(8)
        object_id = await self._id()
        try:
            items: list[bytes] = await call_store("queue_get_many", object_id, key, n_values, wait_s, poll_id)
            return items
        except asyncio.CancelledError:
            # The store may have given us items already; without this they would be nobody's.
            await call_store("queue_withdraw", poll_id)
            raise

    async def _append(
        self, values: list[Any], block: bool, timeout: float | None, partition: str | None, ttl_s: int
    ) -> None:
        key = self.validate_partition_key(partition)
        items = [encode(value) for value in values]
        deadline = _Deadline(block, timeout)
        while not await self._call("queue_put_many", key, items, ttl_s, deadline.wait_s()):
            if not block or deadline.has_passed():
                raise queue.Full(f"{self._label()} has no room for {len(items)} more items in this partition")

    def _decode(self, data: bytes) -> Any:
        return decode(data, f"An item of {self._label()}")


class _Deadline:
    """`block` and `timeout`, as the standard library's queues understand them."""

    def __init__(self, block: bool, timeout: float | None) -> None:
        if timeout is not None and not block:
            warnings.warn("timeout= is ignored when block=False", UserWarning, stacklevel=2)
        self._block = block
        self._clock = asyncio.get_running_loop().time
        self._at = None if timeout is None else self._clock() + timeout

    def wait_s(self) -> float:
        """How long the next request may wait."""
        if not self._block:
            return 0.0
        return _POLL_S if self._at is None else max(0.0, min(_POLL_S, self._at - self._clock()))

    def has_passed(self) -> bool:
        return self._at is not None and self._clock() >= self._at
