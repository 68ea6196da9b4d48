"""`StoreCore`: the state of Dicts and Queues, driven directly on a clock that only moves when told."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raymodal.engine.store import Limits, StoreCore
from raymodal.exception import (
    AlreadyExistsError,
    InvalidError,
    NotFoundError,
    RequestSizeError,
    ResourceExhaustedError,
)

DAY_S = 24 * 3600.0
LONG_S = 30.0  # a wait that a test never sits through

SMALL = Limits(
    dict_value_bytes=10,
    partitions=3,
    partition_items=4,
    partition_bytes=20,
    item_bytes=8,
    page_items=3,
    page_bytes=10,
    answers_kept_bytes=16,
)


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


class Store:
    """A core on a fake clock, with short names for what tests do most."""

    def __init__(self, limits: Limits = SMALL) -> None:
        self.clock = FakeClock()
        self.core = StoreCore(self.clock, self.clock, limits)
        self.polls = itertools.count()

    async def queue(self) -> str:
        return await self.core.create_ephemeral("queue")

    async def put(
        self, queue: str, *items: bytes, partition: bytes = b"", ttl_s: float = DAY_S, wait_s: float = 0
    ) -> bool:
        return await self.core.queue_put_many(queue, partition, list(items), ttl_s, wait_s)

    async def get(
        self, queue: str, n: int = 1, partition: bytes = b"", wait_s: float = 0, poll: str = ""
    ) -> list[bytes]:
        return await self.core.queue_get_many(queue, partition, n, wait_s, poll or f"poll-{next(self.polls)}")


async def waiting(coro: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
    """A task that has run up to its wait."""
    task = asyncio.create_task(coro)
    await settle()
    assert not task.done()
    return task


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


# Objects


async def test_names() -> None:
    """A name stands for one object of its kind and environment."""
    core = StoreCore()
    a = await core.get_or_create("dict", "x", "main", True)

    assert a.startswith("di-")
    assert await core.get_or_create("dict", "x", "main", False) == a
    assert await core.get_or_create("queue", "x", "main", True) != a
    with pytest.raises(NotFoundError, match="create_if_missing"):
        await core.get_or_create("dict", "x", "other", False)
    with pytest.raises(AlreadyExistsError):
        await core.create("dict", "x", "main", False)
    assert await core.create("dict", "x", "main", True) == a


async def test_listing_and_deleting() -> None:
    """Newest first; ephemeral objects have no name and are not listed."""
    store = Store()
    for name in "abc":
        await store.core.create("dict", name, "main", False)
        store.clock.seconds += 1
    await store.core.create_ephemeral("dict")

    async def names(*args: Any) -> list[str | None]:
        return [info.name for info in await store.core.list_objects("dict", "main", *args)]

    assert await names(None, None) == ["c", "b", "a"]
    assert await names(2, None) == ["c", "b"]
    assert await names(None, 1001.5) == ["b", "a"]
    await store.core.delete_named("dict", "b", "main", False)
    await store.core.delete_named("dict", "b", "main", True)
    assert await names(None, None) == ["c", "a"]
    with pytest.raises(NotFoundError):
        await store.core.delete_named("dict", "b", "main", False)


async def test_an_ephemeral_object_needs_heartbeats() -> None:
    """It lives on for a lease after each, and is gone after the last."""
    store = Store(Limits(lease_s=900))
    queue = await store.queue()
    store.clock.seconds += 899
    await store.core.heartbeat(queue)
    store.clock.seconds += 899
    assert await store.get(queue) == []
    store.clock.seconds += 1

    with pytest.raises(NotFoundError):
        await store.get(queue)
    assert store.core.statistics()["objects"] == 0


async def test_ids_know_their_kind() -> None:
    """A Dict's id is not a Queue's."""
    store = Store()
    queue = await store.queue()

    with pytest.raises(InvalidError, match="is not a Dict"):
        await store.core.dict_len(queue)


# Dict


async def test_dict_operations() -> None:
    """Each is one step."""
    core = StoreCore()
    d = await core.create_ephemeral("dict")

    assert await core.dict_put(d, b"a", b"1", False)
    assert not await core.dict_put(d, b"a", b"2", True)
    assert await core.dict_get(d, b"a") == b"1"
    assert not await core.dict_put(d, b"a", b"2", False)
    await core.dict_update(d, [(b"b", b"3"), (b"c", b"4")])
    assert await core.dict_len(d) == 3
    assert await core.dict_contains(d, b"b")
    assert await core.dict_pop(d, b"a") == b"2"
    assert await core.dict_pop(d, b"a") is None
    assert await core.dict_page(d, -1, True, True) == ([(b"b", b"3"), (b"c", b"4")], None)
    await core.dict_clear(d)
    assert await core.dict_len(d) == 0


async def test_dict_values_have_a_limit() -> None:
    """An update with one large value changes nothing."""
    store = Store()
    d = await store.core.create_ephemeral("dict")

    with pytest.raises(RequestSizeError, match="10 bytes"):
        await store.core.dict_update(d, [(b"a", b"1"), (b"b", b"x" * 11)])
    assert await store.core.dict_len(d) == 0


async def test_dict_entries_expire_when_nobody_asks() -> None:
    """Seven days after the last read or write."""
    store = Store()
    d = await store.core.get_or_create("dict", "d", "main", True)
    await store.core.dict_update(d, [(b"read", b"1"), (b"idle", b"2")])
    store.clock.seconds += 6 * DAY_S
    await store.core.dict_get(d, b"read")
    store.clock.seconds += 1 * DAY_S

    assert await store.core.dict_get(d, b"idle") is None
    assert await store.core.dict_len(d) == 1


@given(st.lists(st.tuples(st.sampled_from(["put", "pop", "page"]), st.integers(0, 9)), max_size=60))
def test_scanning_meets_every_entry_that_stays(steps: list[tuple[str, int]]) -> None:
    """Whatever comes and goes meanwhile: entries there from first page to last are seen, and none twice."""

    async def main() -> None:
        store = Store()
        core = store.core
        d = await core.create_ephemeral("dict")
        for i in range(10):
            await core.dict_put(d, b"%d" % i, b"v", False)
        stayed = {b"%d" % i for i in range(10)}
        seen: list[bytes] = []
        after: int | None = -1
        for what, i in [*steps, *[("page", 0)] * 30]:
            key = b"%d" % i
            if what == "put":
                await core.dict_put(d, key, b"w", False)
            elif what == "pop":
                await core.dict_pop(d, key)
                stayed.discard(key)
            elif after is not None:
                page, after = await core.dict_page(d, after, True, False)
                assert len(page) <= 3
                seen += [key for key, _ in page]
        assert after is None
        assert stayed <= set(seen)
        assert all(seen.count(key) == 1 for key in stayed)

    asyncio.run(main())


# Queue: plain


async def test_queue_is_first_in_first_out() -> None:
    """One partition's items come in the order in which they were put."""
    store = Store()
    q = await store.queue()
    await store.put(q, b"a", b"b")
    await store.put(q, b"c")

    assert await store.core.queue_len(q, b"", False) == 3
    assert await store.get(q, 2) == [b"a", b"b"]
    assert await store.get(q, 2) == [b"c"]
    assert await store.get(q, 2) == []


async def test_partitions_are_separate() -> None:
    """Their lengths add up; clearing one leaves the others."""
    store = Store()
    q = await store.queue()
    await store.put(q, b"a")
    await store.put(q, b"b", b"c", partition=b"p")

    assert await store.core.queue_len(q, b"p", False) == 2
    assert await store.core.queue_len(q, b"", True) == 3
    await store.core.queue_clear(q, b"", False)
    assert await store.get(q) == []
    assert await store.get(q, partition=b"p") == [b"b"]
    await store.core.queue_clear(q, b"", True)
    assert await store.core.queue_len(q, b"", True) == 0


async def test_a_partition_ends_after_its_last_put() -> None:
    """`ttl_s` counts from there."""
    store = Store()
    q = await store.core.get_or_create("queue", "q", "main", True)
    await store.put(q, b"a", ttl_s=100)
    store.clock.seconds += 60
    await store.put(q, b"b", ttl_s=100)
    store.clock.seconds += 99
    assert await store.core.queue_len(q, b"", False) == 2
    store.clock.seconds += 1

    assert await store.core.queue_len(q, b"", True) == 0
    assert await store.get(q) == []


@pytest.mark.parametrize("ttl_s", [0, -1, 7 * DAY_S + 1])
async def test_ttl_bounds(ttl_s: float) -> None:
    """Above zero, at most seven days."""
    store = Store()

    with pytest.raises(InvalidError, match="partition_ttl"):
        await store.put(await store.queue(), b"a", ttl_s=ttl_s)


async def test_what_can_never_fit_is_an_error() -> None:
    """One item too large, too many at once, too much at once."""
    store = Store()
    q = await store.queue()

    for items in ([b"x" * 9], [b"x"] * 5, [b"x" * 7] * 3):
        with pytest.raises(RequestSizeError):
            await store.put(q, *items, wait_s=LONG_S)


async def test_a_full_partition_refuses_all_of_a_group() -> None:
    """By items and by bytes."""
    store = Store()
    q = await store.queue()
    assert await store.put(q, b"a", b"b", b"c")

    assert not await store.put(q, b"d", b"e")
    assert await store.put(q, b"d")
    assert await store.get(q, 9) == [b"a", b"b", b"c", b"d"]
    assert await store.put(q, b"x" * 8, b"y" * 8)
    assert not await store.put(q, b"z" * 8)


async def test_too_many_partitions() -> None:
    """Empty ones do not count."""
    store = Store()
    q = await store.queue()
    for partition in (b"1", b"2", b"3"):
        await store.put(q, b"a", partition=partition)

    with pytest.raises(ResourceExhaustedError, match="3 partitions"):
        await store.put(q, b"a", partition=b"4")
    assert await store.get(q, partition=b"4") == []
    await store.get(q, partition=b"1")
    assert await store.put(q, b"a", partition=b"4")


# Queue: waiting


async def test_getters_are_served_in_order() -> None:
    """Each put serves the one who waits longest."""
    store = Store()
    q = await store.queue()
    first = await waiting(store.get(q, 2, wait_s=LONG_S))
    second = await waiting(store.get(q, wait_s=LONG_S))

    await store.put(q, b"a", b"b", b"c")

    assert await first == [b"a", b"b"]
    assert await second == [b"c"]


async def test_putters_are_served_in_order() -> None:
    """A small group does not overtake a large one."""
    store = Store()
    q = await store.queue()
    await store.put(q, b"1", b"2", b"3")
    large = await waiting(store.put(q, b"4", b"5", b"6", wait_s=LONG_S))
    small = await waiting(store.put(q, b"7", wait_s=LONG_S))
    assert not await store.put(q, b"8")  # nor does one that does not wait

    assert await store.get(q, 2) == [b"1", b"2"]
    assert await large
    assert await store.get(q, 4) == [b"3", b"4", b"5", b"6"]
    assert await small
    assert await store.get(q, 4) == [b"7"]


async def test_a_putter_that_leaves_makes_way() -> None:
    """The next one may need less room."""
    store = Store()
    q = await store.queue()
    await store.put(q, b"1", b"2")
    large = await waiting(store.put(q, b"4", b"5", b"6", wait_s=LONG_S))
    small = await waiting(store.put(q, b"7", wait_s=LONG_S))
    large.cancel()

    assert await small
    assert await store.get(q, 9) == [b"1", b"2", b"7"]


async def test_waits_end() -> None:
    """With nothing, after their time or the store's own bound."""
    store = Store(Limits(poll_s=0.01))
    q = await store.queue()

    assert await store.get(q, wait_s=0.001) == []
    assert await store.get(q, wait_s=1e9) == []
    assert await store.core.queue_peek(q, b"", -1, 0.001) == []
    assert store.core.statistics()["polls"] == 0


async def test_deleting_ends_all_waits() -> None:
    """With the error that any later call gets."""
    store = Store()
    q = await store.queue()
    await store.put(q, *[b"x"] * 4, partition=b"full")
    tasks = [
        await waiting(store.get(q, wait_s=LONG_S)),
        await waiting(store.put(q, b"a", partition=b"full", wait_s=LONG_S)),
        await waiting(store.core.queue_peek(q, b"", -1, LONG_S)),
    ]
    await store.core.delete(q)

    for task in tasks:
        with pytest.raises(NotFoundError):
            await task


async def test_peeking_leaves_items() -> None:
    """Page by page, and on to items that come later."""
    store = Store()
    q = await store.queue()
    await store.put(q, b"a", b"b", b"c", b"d")
    page = await store.core.queue_peek(q, b"", -1, 0)
    assert [data for _, data in page] == [b"a", b"b", b"c"]
    rest = await store.core.queue_peek(q, b"", page[-1][0], 0)
    assert [data for _, data in rest] == [b"d"]

    reader = await waiting(store.core.queue_peek(q, b"", rest[-1][0], LONG_S))
    assert await store.get(q, 4) == [b"a", b"b", b"c", b"d"]
    await store.put(q, b"e")
    assert [data for _, data in await reader] == [b"e"]
    assert await store.core.queue_len(q, b"", False) == 1


# Queue: nobody's items


async def test_a_cancelled_getter_loses_nothing() -> None:
    """Not even when it had been served and not run yet."""
    store = Store()
    q = await store.queue()
    getter = await waiting(store.get(q, 2, wait_s=LONG_S))
    await store.put(q, b"a", b"b", b"c")
    getter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await getter

    assert await store.get(q, 3) == [b"a", b"b", b"c"]


async def test_a_withdrawn_poll_gives_back() -> None:
    """Waiting, served, or answered: afterwards its items are in their old place."""
    store = Store()
    q = await store.queue()
    idle = await waiting(store.get(q, wait_s=LONG_S, poll="idle"))
    await store.core.queue_withdraw("idle")
    assert await idle == []

    served = await waiting(store.get(q, 2, wait_s=LONG_S, poll="served"))
    await store.put(q, b"a", b"b", b"c")
    await store.core.queue_withdraw("served")
    assert await served == []
    assert await store.core.queue_len(q, b"", False) == 3

    assert await store.get(q, 2, poll="answered") == [b"a", b"b"]
    await store.core.queue_withdraw("answered")
    await store.core.queue_withdraw("answered")
    assert await store.get(q, 3) == [b"a", b"b", b"c"]


async def test_a_withdrawal_may_overtake_its_poll() -> None:
    """The poll then takes nothing."""
    store = Store()
    q = await store.queue()
    await store.put(q, b"a")
    await store.core.queue_withdraw("late")

    assert await store.get(q, poll="late") == []
    assert await store.get(q) == [b"a"]


async def test_answers_are_kept_briefly() -> None:
    """Bounded by time and by bytes."""
    store = Store()
    q = await store.queue()
    for item in (b"1" * 8, b"2" * 8, b"3" * 8):
        await store.put(q, item)
        await store.get(q)
    assert store.core.statistics()["answers"] == 2
    store.clock.seconds += 11
    store.core.tick()

    assert store.core.statistics()["answers"] == 0


Step = tuple[str, int]
steps = st.lists(
    st.tuples(st.sampled_from(["put", "get", "cancel", "withdraw", "now", "yield"]), st.integers(0, 5)),
    max_size=50,
)


@settings(deadline=None)
@example([("get", 1), ("yield", 0), ("put", 2), ("get", 0), ("cancel", 0)])
@given(steps)
def test_each_item_goes_to_exactly_one_getter(plan: list[Step]) -> None:
    """Any interleaving of puts, gets, cancellations and withdrawals: nothing is lost, doubled or left in two places.

    Getters that are never cancelled get ascending items; what is left over is in order.
    """

    async def main() -> None:
        store = Store(Limits())
        q = await store.queue()
        numbers = itertools.count()
        put: list[bytes] = []
        getters: dict[str, asyncio.Task[list[bytes]]] = {}
        withdrawn: set[str] = set()
        received: list[bytes] = []
        for what, n in plan:
            if what == "put":
                items = [b"%05d" % next(numbers) for _ in range(n)]
                put += items
                assert await store.put(q, *items)
            elif what == "get":
                poll = f"waiting-{len(getters)}"
                getters[poll] = asyncio.create_task(store.get(q, n + 1, wait_s=LONG_S, poll=poll))
            elif what == "now":
                received += await store.get(q, n + 1)
            elif getters and what == "cancel":
                list(getters.values())[n % len(getters)].cancel()
            elif getters and what == "withdraw":
                poll = list(getters)[n % len(getters)]
                if not getters[poll].done():  # a client that has its answer does not withdraw
                    withdrawn.add(poll)
                    await store.core.queue_withdraw(poll)
            else:
                await asyncio.sleep(0)
        await settle()
        for poll, task in getters.items():
            if not task.done():
                await store.core.queue_withdraw(poll)
        for poll, answer in zip(getters, await asyncio.gather(*getters.values(), return_exceptions=True), strict=True):
            if not isinstance(answer, BaseException):
                assert answer == sorted(answer)
                assert not (poll in withdrawn and answer)
                received += answer
        left: list[bytes] = []
        while items := await store.get(q, 1000):
            left += items
        assert left == sorted(left)
        assert sorted(received + left) == put
        assert store.core.statistics()["polls"] == 0

    asyncio.run(main())


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4)), max_size=40))
def test_order_and_limits_hold_with_waiting_putters(plan: list[tuple[bool, int]]) -> None:
    """Waiting puts enter in the order in which they came, and a partition never holds more than it may."""

    async def main() -> None:
        store = Store()
        q = await store.queue()
        numbers = itertools.count()
        tasks: list[Awaitable[bool]] = []
        received: list[bytes] = []
        total = 0
        for is_put, n in plan:
            if is_put:
                items = [b"%03d" % next(numbers) for _ in range(n)]
                total += n
                tasks.append(asyncio.create_task(store.put(q, *items, wait_s=LONG_S)))
                await settle()
            else:
                received += await store.get(q, n)
            assert await store.core.queue_len(q, b"", False) <= 4
        while len(received) < total:
            received += await store.get(q, 9)
        assert all(await asyncio.gather(*tasks))
        assert received == sorted(received)

    asyncio.run(main())


def test_methods_are_async_and_positional() -> None:
    """A host in another process calls them by name with plain values."""
    import inspect

    hosted: list[Callable[..., Any]] = [
        member
        for name, member in vars(StoreCore).items()
        if not name.startswith("_") and name not in ("tick", "statistics")
    ]

    assert hosted
    for method in hosted:
        assert inspect.iscoroutinefunction(method), method
        kinds = {p.kind for p in inspect.signature(method).parameters.values()}
        assert kinds == {inspect.Parameter.POSITIONAL_OR_KEYWORD}, method
