"""Everything with `.aio`, from whatever loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import raymodal as modal
from raymodal.exception import FunctionTimeoutError, InvalidError


async def numbers(n: int) -> AsyncIterator[int]:
    for i in range(n):
        await asyncio.sleep(0)
        yield i


async def test_remote(sample: Any) -> None:
    """Results and errors, as without `.aio`."""
    assert await sample.square.remote.aio(3) == 9
    assert await sample.describe.remote.aio(1, b=2) == ((1,), {"b": 2})
    with pytest.raises(ZeroDivisionError):
        await sample.div.remote.aio(1, 0)
    with pytest.raises(TypeError, match="pickle"):
        await sample.square.remote.aio(threading.Lock())
    with pytest.raises(InvalidError):
        await sample.produce.remote.aio(1)


async def test_many_at_once(sample: Any) -> None:
    """More than there are containers, from one loop."""
    got = await asyncio.gather(*(sample.square.remote.aio(i) for i in range(100)))

    assert got == [i * i for i in range(100)]


async def test_a_task_group(sample: Any) -> None:
    """A failure cancels its siblings, and the containers serve on."""
    with pytest.raises(ExceptionGroup) as caught:
        async with asyncio.TaskGroup() as group:
            group.create_task(sample.anap.remote.aio(60.0))
            group.create_task(sample.div.remote.aio(1, 0))

    assert [type(e) for e in caught.value.exceptions] == [ZeroDivisionError]
    assert await sample.anap.remote.aio(0.0) == "rested"


async def test_the_loop_goes_on_meanwhile(sample: Any, tmp_path: Path) -> None:
    """A call does not block it."""
    go = tmp_path / "go"
    task = asyncio.create_task(sample.release.remote.aio(str(go), 0))
    for _ in range(5):
        await asyncio.sleep(0.01)
    assert not task.done()
    go.touch()

    assert await task == 0


@pytest.mark.parametrize("aio", [False, True])
async def test_map(sample: Any, aio: bool) -> None:
    """`async for` works on both spellings, with sync and async inputs."""
    square = sample.square.map.aio if aio else sample.square.map

    assert [y async for y in square(range(300))] == [x * x for x in range(300)]
    assert [y async for y in square(numbers(30))] == [x * x for x in range(30)]
    assert sorted([y async for y in square(numbers(30), order_outputs=False)]) == [x * x for x in range(30)]
    assert [y async for y in square([])] == []


async def test_map_of_a_map(sample: Any) -> None:
    """Results that can be iterated both ways are inputs of the next one, on a loop too."""
    assert [x async for x in sample.square.map.aio(sample.square.map.aio([1, 2, 3]))] == [1, 16, 81]
    assert [x async for x in sample.square.map.aio(sample.square.map([1, 2]))] == [1, 16]


def test_map_of_a_map_without_a_loop(sample: Any) -> None:
    """And where there is none; spawned as well."""
    assert list(sample.square.map(sample.square.map([1, 2, 3]))) == [1, 16, 81]
    call = sample.square.experimental_spawn_map(sample.square.map([1, 2]))
    assert list(call.iter()) == [1, 16]
    assert sample.square.spawn_map(sample.square.map([1, 2])) is None


async def test_map_of_several(sample: Any) -> None:
    """Mixed iterables, kwargs, starmap."""
    assert [y async for y in sample.div.map.aio(numbers(5), [1, 2])] == [0.0, 0.5]
    assert [y async for y in sample.div.map.aio([4, 6], kwargs={"b": 2})] == [2.0, 3.0]
    assert [y async for y in sample.div.starmap.aio([(6, 3), (9, 3)])] == [2.0, 3.0]


async def test_map_and_failures(sample: Any) -> None:
    """Raised, or in place of results; those of the inputs always raised."""

    async def broken() -> AsyncIterator[int]:
        yield 1
        raise LookupError("no more")

    with pytest.raises(ZeroDivisionError):
        [y async for y in sample.div.map.aio([1, 1], [0, 1])]
    got = [y async for y in sample.div.map.aio([1, 1], [0, 1], return_exceptions=True)]
    assert [type(y) for y in got] == [ZeroDivisionError, float]
    with pytest.raises(LookupError):
        [y async for y in sample.square.map.aio(broken(), return_exceptions=True)]
    with pytest.raises(TypeError):
        await sample.square.map.aio([1])


async def test_a_break_in_map(sample: Any) -> None:
    """Closing ends an endless source."""
    closed = asyncio.Event()

    async def endless() -> AsyncIterator[int]:
        i = 0
        try:
            while True:
                yield i
                i += 1
        finally:
            closed.set()

    results = sample.square.map.aio(endless())
    got = []
    async for y in results:
        got.append(y)
        if len(got) == 3:
            break
    await results.aclose()

    assert got == [0, 1, 4]
    assert closed.is_set()
    assert await sample.square.remote.aio(5) == 25


async def test_for_each(sample: Any, tmp_path: Path) -> None:
    """A plain coroutine."""
    log = tmp_path / "log"

    assert await sample.call.for_each.aio([sample.note] * 3, [str(log)] * 3, ["a", "b", "c"]) is None
    assert sorted(log.read_text().split()) == ["a", "b", "c"]
    with pytest.raises(ZeroDivisionError):
        await sample.div.for_each.aio([1], [0])
    assert await sample.div.for_each.aio([1], [0], ignore_exceptions=True) is None


async def test_spawned_calls(sample: Any) -> None:
    """Every method of a call."""
    call = await sample.square.spawn.aio(4)
    assert isinstance(call, modal.FunctionCall)
    assert await call.get.aio() == 16
    assert await call.get.aio(timeout=0) == 16
    assert await call.num_inputs.aio() == 1
    assert await call.cancel.aio() is None

    again = modal.FunctionCall.from_id(call.object_id)
    assert await again.hydrate.aio() is again
    assert list(await modal.FunctionCall.gather.aio(call, again)) == [16, 16]

    many = await sample.square.experimental_spawn_map.aio(range(4))
    assert [y async for y in many.iter.aio()] == [0, 1, 4, 9]
    assert [y async for y in (await sample.square.experimental_spawn_map.aio(numbers(3))).iter.aio(start=1)] == [1, 4]
    assert await sample.square.spawn_map.aio([1, 2]) is None


async def test_a_spawned_call_that_is_not_ready(sample: Any, tmp_path: Path) -> None:
    """The builtin `TimeoutError`, at once or after a while."""
    go = tmp_path / "go"
    call = await sample.release.spawn.aio(str(go), 0)

    for timeout in (0, 0.05):
        with pytest.raises(TimeoutError):
            await call.get.aio(timeout=timeout)
    go.touch()
    assert await call.get.aio() == 0


async def test_a_timeout(sample: Any) -> None:
    """`FunctionTimeoutError` here too."""
    with pytest.raises(FunctionTimeoutError):
        await sample.limited.remote.aio(60.0)
    assert (await sample.limited.remote.aio(0.0))[0] == "in time"


def test_a_loop_of_ones_own(sample: Any) -> None:
    """`asyncio.run`, again and again, and in threads: each loop gets its own answers."""

    async def use() -> list[int]:
        first = await sample.square.remote.aio(2)
        return [
            first,
            *[y async for y in sample.square.map.aio([3, 4])],
            *[i async for i in sample.produce.remote_gen.aio(2)],
        ]

    got: list[list[int]] = []
    threads = [threading.Thread(target=lambda: got.append(asyncio.run(use()))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert asyncio.run(use()) == asyncio.run(use()) == [4, 9, 16, 0, 1]
    assert got == [[4, 9, 16, 0, 1]] * 3


async def test_in_a_container(sample: Any) -> None:
    """An async function awaits other functions."""

    async def both(f: Any) -> list[int]:
        return list(await asyncio.gather(f.remote.aio(2), f.remote.aio(3)))

    assert await sample.acall.remote.aio(both, sample.square) == [4, 9]
