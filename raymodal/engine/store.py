"""`StoreCore`: the state of all Dicts and Queues, in memory.

It knows neither Ray nor pickle: keys, values and items are bytes, objects are addressed by id, and every method is
`async` with plain positional arguments, so that a Ray actor or this process' I/O loop can be its host. It starts
nothing: its callers' coroutines do the waiting, time comes from the given clock, and what is due (expired leases,
partitions, entries) is swept when a method is called.

Theory of operation of the queues
---------------------------------
A partition is a list of items in order plus those who wait. Whoever changes a partition calls `_settle`, which hands
items to waiting getters and room to waiting putters, first come first served, before anybody else can run: all methods
run on one event loop and `_settle` does not await. Nobody overtakes: every getter and putter joins the end of its line.

Items leave a partition at the moment they are given to a getter, so each has exactly one. If that getter turns out to
be gone, they go back to their old place, which their numbers tell: at once when its coroutine was cancelled here; by
`queue_withdraw` when the cancellation happened in another process, where the answer was on its way. The last answers
are kept for that purpose, for a short time.

A wait on the server is bounded (`Limits.poll_s`); a client that wants to wait longer asks again, so what a dead client
leaves behind ends soon.
"""

from __future__ import annotations

import asyncio
import bisect
import secrets
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, NamedTuple, TypeAlias

from raymodal.exception import AlreadyExistsError, InvalidError, NotFoundError, RequestSizeError, ResourceExhaustedError

Kind: TypeAlias = Literal["dict", "queue"]

_KINDS: dict[Kind, tuple[str, str]] = {"dict": ("di", "Dict"), "queue": ("qu", "Queue")}
_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_MIB = 1024 * 1024
_DAY_S = 24 * 3600.0
_SWEEP_EVERY_S = 30.0
_SWEEP_ENTRIES_EVERY_S = 3600.0  # they live for days, and there may be millions
_WITHDRAWN_KEPT = 1_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Modal's figures, as settings."""

    dict_value_bytes: int = 100 * _MIB
    dict_idle_s: float = 7 * _DAY_S  # since the entry's last read or write
    partitions: int = 100_000
    partition_items: int = 5_000
    partition_bytes: int = 64 * _MIB
    item_bytes: int = 1 * _MIB
    partition_ttl_s: float = 7 * _DAY_S
    poll_s: float = 30.0  # longest wait of one call
    lease_s: float = 900.0  # of an ephemeral object, since its owner's last heartbeat; Modal's owners beat every 300 s
    page_bytes: int = 4 * _MIB  # of one answer while scanning
    page_items: int = 1_000
    answers_kept_s: float = 10.0  # for `queue_withdraw`
    answers_kept_bytes: int = 64 * _MIB


class Info(NamedTuple):
    """What is known of an object; `created_at` in seconds since the epoch."""

    object_id: str
    name: str | None
    created_at: float
    created_by: str | None


@dataclass(slots=True)
class _Object:
    """What Dict and Queue have in common."""

    info: Info
    lease_until: float | None  # None: lives until deleted


@dataclass(slots=True)
class _Entry:
    value: bytes
    serial: int
    touched_at: float


@dataclass(slots=True)
class _Dict(_Object):
    entries: dict[bytes, _Entry] = field(default_factory=dict)
    # Every entry's serial in ascending order, with those of deleted entries until the next clean-up: a scan can go on
    # where it stopped by bisection, whatever happened in between.
    order: list[int] = field(default_factory=list)
    keys: dict[int, bytes] = field(default_factory=dict)
    next_serial: int = 0
    swept_at: float = 0.0


class _Item(NamedTuple):
    number: int  # ascending within the queue
    data: bytes


@dataclass(slots=True, eq=False)
class _Getter:
    wanted: int
    future: asyncio.Future[list[_Item]]


@dataclass(slots=True, eq=False)
class _Putter:
    items: list[bytes]
    size: int
    ttl_s: float
    future: asyncio.Future[None]


@dataclass(slots=True, eq=False)
class _Partition:
    items: deque[_Item] = field(default_factory=deque)
    size: int = 0
    expires_at: float = 0.0
    getters: deque[_Getter] = field(default_factory=deque)
    putters: deque[_Putter] = field(default_factory=deque)
    readers: set[asyncio.Future[None]] = field(default_factory=set)  # who scans and has come to the end

    @property
    def is_idle(self) -> bool:
        return not (self.items or self.getters or self.putters or self.readers)


@dataclass(slots=True)
class _Queue(_Object):
    partitions: dict[bytes, _Partition] = field(default_factory=dict)
    next_number: int = 0


class _Answer(NamedTuple):
    queue: _Queue
    partition: bytes
    items: list[_Item]
    size: int
    kept_until: float


def _wall_clock() -> float:
    return datetime.now(UTC).timestamp()


class StoreCore:
    """All Dicts and Queues of a cluster.

    Args:
        clock: Seconds that only ever grow, for waits, leases and expiry.
        wall: Seconds since the epoch, for `created_at` only.
        limits: Sizes and times.

    Every method may raise `NotFoundError` for an id that does not exist (any more).
    """

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = _wall_clock,
        limits: Limits | None = None,
    ) -> None:
        self._clock = clock
        self._wall = wall
        self._limits = limits or Limits()
        self._objects: dict[str, _Object] = {}
        self._names: dict[tuple[Kind, str, str], str] = {}
        self._named: dict[str, tuple[Kind, str, str]] = {}
        self._swept_at = clock()
        self._polls: dict[str, tuple[_Queue, bytes, _Getter]] = {}  # getters that wait, by the client's poll id
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._answers_bytes = 0
        self._withdrawn: OrderedDict[str, None] = OrderedDict()  # polls that ended before they were known

    # ------------------------------------------------------------------------------------------------------------------
    # Objects

    async def get_or_create(self, kind: Kind, name: str, environment: str, create_if_missing: bool) -> str:
        """The id behind a name.

        Raises:
            NotFoundError: There is none, and it is not to be created.
        """
        self._sweep()
        found = self._names.get((kind, environment, name))
        if found is not None:
            return found
        word = _KINDS[kind][1]
        if not create_if_missing:
            raise NotFoundError(
                f"{word} '{name}' not found. Create it with `{word}.objects.create({name!r})`, or look it up with"
                " create_if_missing=True."
            )
        return self._create(kind, name, environment, None)

    async def create(self, kind: Kind, name: str, environment: str, allow_existing: bool) -> str:
        """Create a named object.

        Raises:
            AlreadyExistsError: The name is taken, and that is not allowed.
        """
        self._sweep()
        found = self._names.get((kind, environment, name))
        if found is None:
            return self._create(kind, name, environment, None)
        if not allow_existing:
            raise AlreadyExistsError(f"{_KINDS[kind][1]} '{name}' exists already; pass allow_existing=True to use it.")
        return found

    async def create_ephemeral(self, kind: Kind) -> str:
        """Create a nameless object which lives as long as its owner sends heartbeats."""
        self._sweep()
        return self._create(kind, None, "", self._clock() + self._limits.lease_s)

    def _create(self, kind: Kind, name: str | None, environment: str, lease_until: float | None) -> str:
        object_id = f"{_KINDS[kind][0]}-" + "".join(secrets.choice(_ALPHABET) for _ in range(22))
        info = Info(object_id, name, self._wall(), None)
        made = _Dict(info, lease_until) if kind == "dict" else _Queue(info, lease_until)
        self._objects[object_id] = made
        if name is not None:
            self._names[kind, environment, name] = object_id
            self._named[object_id] = (kind, environment, name)
        return object_id

    async def heartbeat(self, object_id: str) -> None:
        """Renew the lease of an ephemeral object."""
        found = self._object(object_id)
        if found.lease_until is not None:
            found.lease_until = self._clock() + self._limits.lease_s

    async def info(self, object_id: str) -> Info:
        """Name and creation of an object."""
        return self._object(object_id).info

    async def list_objects(
        self, kind: Kind, environment: str, max_objects: int | None, created_before: float | None
    ) -> list[Info]:
        """Named objects, newest first."""
        self._sweep()
        infos = [
            self._objects[object_id].info
            for (found_kind, found_environment, _), object_id in self._names.items()
            if (found_kind, found_environment) == (kind, environment)
        ]
        infos.reverse()  # names are kept in order of creation; clocks may repeat a value
        infos.sort(key=lambda info: info.created_at, reverse=True)
        if created_before is not None:
            infos = [info for info in infos if info.created_at < created_before]
        return infos if max_objects is None else infos[:max_objects]

    async def delete_named(self, kind: Kind, name: str, environment: str, allow_missing: bool) -> None:
        """Delete an object by name.

        Raises:
            NotFoundError: There is none, and that is not allowed.
        """
        self._sweep()
        found = self._names.get((kind, environment, name))
        if found is not None:
            self._delete(found)
        elif not allow_missing:
            raise NotFoundError(f"{_KINDS[kind][1]} '{name}' not found; pass allow_missing=True to ignore that.")

    async def delete(self, object_id: str) -> None:
        """Delete an object by id; nothing happens if it is gone."""
        self._delete(object_id)

    def _delete(self, object_id: str) -> None:
        gone = self._objects.pop(object_id, None)
        named = self._named.pop(object_id, None)
        if named is not None:
            del self._names[named]
        if isinstance(gone, _Queue):
            for partition in gone.partitions.values():
                waiting: list[asyncio.Future[list[_Item]] | asyncio.Future[None]] = [
                    *(getter.future for getter in partition.getters),
                    *(putter.future for putter in partition.putters),
                    *partition.readers,
                ]
                for future in waiting:
                    if not future.done():
                        future.set_exception(_gone(object_id))
            gone.partitions.clear()

    def _object(self, object_id: str) -> _Object:
        self._sweep()
        found = self._objects.get(object_id)
        if found is None:
            raise _gone(object_id)
        if found.lease_until is not None and found.lease_until <= self._clock():
            self._delete(object_id)
            raise _gone(object_id)
        return found

    # ------------------------------------------------------------------------------------------------------------------
    # Dict

    async def dict_get(self, object_id: str, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        entry = self._live_entry(self._dict(object_id), key)
        return None if entry is None else entry.value

    async def dict_contains(self, object_id: str, key: bytes) -> bool:
        """Whether the key is there."""
        return self._live_entry(self._dict(object_id), key) is not None

    async def dict_put(self, object_id: str, key: bytes, value: bytes, skip_if_exists: bool) -> bool:
        """Set a value.

        Returns:
            True if the key was not there before. False with `skip_if_exists`: nothing was changed.

        Raises:
            RequestSizeError: The value is too large.
        """
        found = self._dict(object_id)
        self._check_value(value)
        existing = self._live_entry(found, key)
        if existing is not None and skip_if_exists:
            return False
        self._set(found, key, value)
        return existing is None

    async def dict_update(self, object_id: str, items: list[tuple[bytes, bytes]]) -> None:
        """Set several values at once; all or none if one is too large."""
        found = self._dict(object_id)
        for _, value in items:
            self._check_value(value)
        for key, value in items:
            self._set(found, key, value)

    async def dict_pop(self, object_id: str, key: bytes) -> bytes | None:
        """Remove a key; its value, or None if it was not there."""
        found = self._dict(object_id)
        entry = self._live_entry(found, key)
        if entry is None:
            return None
        self._drop(found, key)
        return entry.value

    async def dict_len(self, object_id: str) -> int:
        """How many entries there are."""
        return len(self._dict(object_id).entries)

    async def dict_clear(self, object_id: str) -> None:
        """Remove all entries."""
        found = self._dict(object_id)
        found.entries.clear()
        found.order.clear()
        found.keys.clear()

    async def dict_page(
        self, object_id: str, after: int, with_keys: bool, with_values: bool
    ) -> tuple[list[tuple[bytes, bytes]], int | None]:
        """Some entries, in the order in which their keys were first put.

        Args:
            object_id: The Dict.
            after: Where the last page ended; -1 for the first.
            with_keys: Whether keys are wanted; else they are empty.
            with_values: Whether values are wanted; else they are empty.

        Returns:
            (key, value) pairs, and where to go on, or None at the end.
        """
        found = self._dict(object_id)
        page: list[tuple[bytes, bytes]] = []
        size = 0
        for i in range(bisect.bisect_right(found.order, after), len(found.order)):
            serial = found.order[i]
            key = found.keys.get(serial)
            if key is None:
                continue
            value = found.entries[key].value if with_values else b""
            if page and (len(page) >= self._limits.page_items or size + len(value) > self._limits.page_bytes):
                return page, after
            page.append((key if with_keys else b"", value))
            size += len(value) + len(key)
            after = serial
        return page, None

    def _dict(self, object_id: str) -> _Dict:
        found = self._object(object_id)
        if not isinstance(found, _Dict):
            raise InvalidError(f"{object_id!r} is not a Dict.")
        return found

    def _check_value(self, value: bytes) -> None:
        if len(value) > self._limits.dict_value_bytes:
            raise RequestSizeError(
                f"A Dict value may have {self._limits.dict_value_bytes} bytes once pickled; this one has {len(value)}."
                " Put it in a file on a Volume and store its path."
            )

    def _live_entry(self, found: _Dict, key: bytes) -> _Entry | None:
        """The entry if it has not expired; being asked for keeps it alive."""
        entry = found.entries.get(key)
        if entry is None:
            return None
        now = self._clock()
        if entry.touched_at + self._limits.dict_idle_s <= now:
            self._drop(found, key)
            return None
        entry.touched_at = now
        return entry

    def _set(self, found: _Dict, key: bytes, value: bytes) -> None:
        entry = found.entries.get(key)
        if entry is not None:
            entry.value, entry.touched_at = value, self._clock()
            return
        serial = found.next_serial
        found.next_serial += 1
        found.entries[key] = _Entry(value, serial, self._clock())
        found.keys[serial] = key
        found.order.append(serial)

    def _drop(self, found: _Dict, key: bytes) -> None:
        del found.keys[found.entries.pop(key).serial]
        if len(found.order) > 2 * len(found.entries) + 64:
            found.order = sorted(found.keys)

    # ------------------------------------------------------------------------------------------------------------------
    # Queue

    async def queue_put_many(
        self, object_id: str, partition: bytes, items: list[bytes], ttl_s: float, wait_s: float
    ) -> bool:
        """Append items, all of them or none.

        Args:
            object_id: The Queue.
            partition: Its partition; empty for the default one.
            items: Pickled items.
            ttl_s: The partition is dropped this long after its last put.
            wait_s: How long to wait for room; 0: not at all. Longer waits end at `Limits.poll_s`.

        Returns:
            False if there was no room.

        Raises:
            RequestSizeError: One item, or all together, can never fit.
            ResourceExhaustedError: The queue has too many partitions.
            InvalidError: The TTL is out of bounds.
        """
        queue = self._queue(object_id)
        size = self._check_items(items, ttl_s)
        if not items:
            return True
        place = self._partition(queue, partition)
        if place.is_idle and len(queue.partitions) > self._limits.partitions:
            del queue.partitions[partition]
            raise ResourceExhaustedError(
                f"A Queue may have {self._limits.partitions} partitions in use. Get or clear what is in the others."
            )
        loop = asyncio.get_running_loop()
        putter = _Putter(items, size, ttl_s, loop.create_future())
        place.putters.append(putter)
        self._settle(queue, partition)
        try:
            await self._wait(putter.future, wait_s)
        finally:
            if not putter.future.done() or putter.future.cancelled():
                place.putters.remove(putter)
                self._settle(queue, partition)  # the next one may need less room
        return not putter.future.cancelled()

    async def queue_get_many(
        self, object_id: str, partition: bytes, n_values: int, wait_s: float, poll_id: str
    ) -> list[bytes]:
        """Take up to `n_values` items from the head; at least one, unless the wait is over.

        Args:
            object_id: The Queue.
            partition: Its partition; empty for the default one.
            n_values: At most so many.
            wait_s: How long to wait for the first item; 0: not at all. Longer waits end at `Limits.poll_s`.
            poll_id: Unique for this call; what `queue_withdraw` refers to.
        """
        queue = self._queue(object_id)
        if poll_id in self._withdrawn:
            return []  # its withdrawal overtook it
        place = self._partition(queue, partition)
        getter = _Getter(max(n_values, 1), asyncio.get_running_loop().create_future())
        place.getters.append(getter)
        self._polls[poll_id] = (queue, partition, getter)
        self._settle(queue, partition)
        try:
            await self._wait(getter.future, wait_s)
        except asyncio.CancelledError:
            self._give_back(queue, partition, _result(getter.future))
            raise
        finally:
            self._polls.pop(poll_id, None)
            if not getter.future.done() or getter.future.cancelled():
                if getter in place.getters:
                    place.getters.remove(getter)
                self._forget_if_idle(queue, partition)
        if getter.future.cancelled():
            return []
        items = getter.future.result()
        self._keep_answer(poll_id, queue, partition, items)
        return [item.data for item in items]

    async def queue_withdraw(self, poll_id: str) -> None:
        """The caller of a `queue_get_many` is gone: end its wait, or take back what it was given."""
        waiting = self._polls.pop(poll_id, None)
        if waiting is not None:
            queue, partition, getter = waiting
            items = _result(getter.future)
            self._give_back(queue, partition, list(items))
            items.clear()  # served, but its coroutine has not run since: it will answer with nothing
            getter.future.cancel()
            return
        answer = self._answers.pop(poll_id, None)
        if answer is None:
            self._withdrawn[poll_id] = None
            if len(self._withdrawn) > _WITHDRAWN_KEPT:
                self._withdrawn.popitem(last=False)
        else:
            self._answers_bytes -= answer.size
            if self._clock() < answer.kept_until:
                self._give_back(answer.queue, answer.partition, answer.items)

    async def queue_peek(self, object_id: str, partition: bytes, after: int, wait_s: float) -> list[tuple[int, bytes]]:
        """Some items with their numbers, from the first one numbered above `after`; none if the wait is over.

        Items stay where they are. -1 as `after` starts at the head.
        """
        queue = self._queue(object_id)
        page = self._page(queue, partition, after)
        if page or wait_s <= 0:
            return page
        place = self._partition(queue, partition)
        reader: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place.readers.add(reader)
        try:
            await self._wait(reader, wait_s)
        finally:
            place.readers.discard(reader)
            self._forget_if_idle(queue, partition)
        return self._page(queue, partition, after)

    async def queue_len(self, object_id: str, partition: bytes, total: bool) -> int:
        """Items in one partition, or in all."""
        queue = self._queue(object_id)
        for name in list(queue.partitions) if total else [partition]:
            self._expire(queue, name)
        if total:
            return sum(len(place.items) for place in queue.partitions.values())
        place = queue.partitions.get(partition)
        return 0 if place is None else len(place.items)

    async def queue_clear(self, object_id: str, partition: bytes, everything: bool) -> None:
        """Drop the items of one partition, or of all."""
        queue = self._queue(object_id)
        for name in list(queue.partitions) if everything else [partition]:
            place = queue.partitions.get(name)
            if place is not None:
                place.items.clear()
                place.size = 0
                self._settle(queue, name)

    def _queue(self, object_id: str) -> _Queue:
        found = self._object(object_id)
        if not isinstance(found, _Queue):
            raise InvalidError(f"{object_id!r} is not a Queue.")
        return found

    def _check_items(self, items: list[bytes], ttl_s: float) -> int:
        limits = self._limits
        if not 0 < ttl_s <= limits.partition_ttl_s:
            raise InvalidError(
                f"partition_ttl must be above 0 and at most {limits.partition_ttl_s:.0f} seconds, not {ttl_s}."
            )
        largest = max(map(len, items), default=0)
        if largest > limits.item_bytes:
            raise RequestSizeError(
                f"A Queue item may have {limits.item_bytes} bytes once pickled; this one has {largest}."
                " Put it in a file on a Volume, or in a Dict, and send its name."
            )
        size = sum(map(len, items))
        if len(items) > limits.partition_items or size > limits.partition_bytes:
            raise RequestSizeError(
                f"A Queue partition holds {limits.partition_items} items of {limits.partition_bytes} bytes in all;"
                f" these {len(items)} items of {size} bytes can never fit. Put them in smaller groups."
            )
        return size

    def _partition(self, queue: _Queue, name: bytes) -> _Partition:
        self._expire(queue, name)
        place = queue.partitions.get(name)
        if place is None:
            place = queue.partitions[name] = _Partition()
        return place

    def _settle(self, queue: _Queue, name: bytes) -> None:
        """Serve whoever can be served, in order of arrival."""
        place = queue.partitions.get(name)
        if place is None:
            return
        arrived = False
        while True:
            while place.putters and (place.putters[0].future.done() or self._fits(place, place.putters[0])):
                putter = place.putters.popleft()
                if not putter.future.done():
                    self._append(queue, place, putter)
                    putter.future.set_result(None)
                    arrived = True
            served = False
            while place.items and place.getters:
                getter = place.getters.popleft()
                if not getter.future.done():
                    items = [place.items.popleft() for _ in range(min(getter.wanted, len(place.items)))]
                    place.size -= sum(len(item.data) for item in items)
                    getter.future.set_result(items)
                    served = True
            if not served:  # nothing left, so no new room for putters either
                break
        if arrived:
            for reader in place.readers:
                if not reader.done():
                    reader.set_result(None)
        self._forget_if_idle(queue, name)

    def _fits(self, place: _Partition, putter: _Putter) -> bool:
        return (
            len(place.items) + len(putter.items) <= self._limits.partition_items
            and place.size + putter.size <= self._limits.partition_bytes
        )

    def _append(self, queue: _Queue, place: _Partition, putter: _Putter) -> None:
        for data in putter.items:
            place.items.append(_Item(queue.next_number, data))
            queue.next_number += 1
        place.size += putter.size
        place.expires_at = self._clock() + putter.ttl_s

    def _give_back(self, queue: _Queue, name: bytes, items: list[_Item]) -> None:
        """Return items to their old place. They may exceed the limits for a moment: they were there first."""
        if not items or self._objects.get(queue.info.object_id) is not queue:
            return
        place = queue.partitions.get(name)
        if place is None:
            place = queue.partitions[name] = _Partition()
        if place.expires_at <= self._clock():
            # Its own time is forgotten, also where another getter has made it anew meanwhile; Modal's default.
            place.expires_at = self._clock() + _DAY_S
        place.items = deque(sorted([*items, *place.items]))
        place.size += sum(len(item.data) for item in items)
        self._settle(queue, name)

    def _keep_answer(self, poll_id: str, queue: _Queue, name: bytes, items: list[_Item]) -> None:
        now = self._clock()
        size = sum(len(item.data) for item in items)
        if items:
            self._answers[poll_id] = _Answer(queue, name, items, size, now + self._limits.answers_kept_s)
            self._answers_bytes += size
        while self._answers:
            oldest = next(iter(self._answers.values()))
            if oldest.kept_until > now and self._answers_bytes <= self._limits.answers_kept_bytes:
                break
            self._answers.popitem(last=False)
            self._answers_bytes -= oldest.size

    def _page(self, queue: _Queue, name: bytes, after: int) -> list[tuple[int, bytes]]:
        self._expire(queue, name)
        place = queue.partitions.get(name)
        page: list[tuple[int, bytes]] = []
        size = 0
        for item in place.items if place is not None else ():
            if item.number <= after:
                continue
            if page and (len(page) >= self._limits.page_items or size + len(item.data) > self._limits.page_bytes):
                break
            page.append((item.number, item.data))
            size += len(item.data)
        return page

    def _expire(self, queue: _Queue, name: bytes) -> None:
        place = queue.partitions.get(name)
        if place is not None and place.items and place.expires_at <= self._clock():
            place.items.clear()
            place.size = 0
            self._settle(queue, name)

    def _forget_if_idle(self, queue: _Queue, name: bytes) -> None:
        place = queue.partitions.get(name)
        if place is not None and place.is_idle:
            del queue.partitions[name]

    # ------------------------------------------------------------------------------------------------------------------
    # Time

    async def _wait(self, future: asyncio.Future[list[_Item]] | asyncio.Future[None], wait_s: float) -> None:
        """Wait until the future is done; cancel it when the time is over."""
        if future.done():
            return
        wait_s = min(wait_s, self._limits.poll_s)
        if wait_s <= 0:
            future.cancel()
            return
        timer = future.get_loop().call_later(wait_s, future.cancel)
        try:
            await asyncio.wait([future])
        finally:
            timer.cancel()
            error = future.exception() if future.done() and not future.cancelled() else None
        if error is not None:
            raise error  # the object was deleted

    def _sweep(self) -> None:
        """Drop what is due, now and then."""
        if self._clock() - self._swept_at >= _SWEEP_EVERY_S:
            self.tick()

    def tick(self) -> None:
        """Drop all that is due: objects without an owner, expired partitions and entries, old answers."""
        now = self._swept_at = self._clock()
        for object_id, found in list(self._objects.items()):
            if found.lease_until is not None and found.lease_until <= now:
                self._delete(object_id)
            elif isinstance(found, _Queue):
                for name in list(found.partitions):
                    self._expire(found, name)
            elif isinstance(found, _Dict) and now - found.swept_at >= _SWEEP_ENTRIES_EVERY_S:
                found.swept_at = now
                until = now - self._limits.dict_idle_s
                for key in [key for key, entry in found.entries.items() if entry.touched_at <= until]:
                    self._drop(found, key)
        while self._answers and next(iter(self._answers.values())).kept_until <= now:
            self._answers_bytes -= self._answers.popitem(last=False)[1].size

    def statistics(self) -> dict[str, int]:
        """How much is held: objects, waiting getters, answers kept for `queue_withdraw`."""
        return {"objects": len(self._objects), "polls": len(self._polls), "answers": len(self._answers)}


def _result(future: asyncio.Future[list[_Item]]) -> list[_Item]:
    """What a getter was given so far."""
    if not future.done() or future.cancelled() or future.exception() is not None:
        return []
    return future.result()


def _gone(object_id: str) -> NotFoundError:
    return NotFoundError(f"'{object_id}' does not exist (any more); it was deleted, or its owner has gone.")
