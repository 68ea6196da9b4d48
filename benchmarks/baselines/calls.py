"""Single calls without raymodal."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from ..model import Params, Round
from ..timing import time_awaits, time_calls, time_inputs
from ..work import echo


class Echo:
    """A plain synchronous actor."""

    def __init__(self, inner: Any = None) -> None:
        self._inner = inner

    def call(self, x: Any) -> Any:
        """Hand the argument back."""
        return x

    def call_inner(self, x: Any) -> Any:
        """Hand back what the other actor returns."""
        import ray

        return ray.get(self._inner.call.remote(x))


@contextmanager
def bare_actor(params: Params) -> Iterator[Round]:
    """`ray.get(actor.call.remote(x))`."""
    import ray

    actor = ray.remote(Echo).remote()
    ray.get([actor.call.remote(i) for i in range(200)])
    yield lambda: time_calls(lambda x: ray.get(actor.call.remote(x)), params["n"])


@contextmanager
def bare_task(params: Params) -> Iterator[Round]:
    """`ray.get(task.remote(x))`."""
    import ray

    task = ray.remote(echo)
    ray.get([task.remote(i) for i in range(200)])
    yield lambda: time_calls(lambda x: ray.get(task.remote(x)), params["n"])


@contextmanager
def process_pool(params: Params) -> Iterator[Round]:
    """`ProcessPoolExecutor.submit(f, x).result()`."""
    with ProcessPoolExecutor(max_workers=1) as pool:
        list(pool.map(echo, range(200)))
        yield lambda: time_calls(lambda x: pool.submit(echo, x).result(), params["n"])


@contextmanager
def bare_actor_await(params: Params) -> Iterator[Round]:
    """`await actor.call.remote(x)`."""
    import ray

    actor = ray.remote(Echo).remote()
    ray.get([actor.call.remote(i) for i in range(200)])

    async def call(x: int) -> Any:
        return await actor.call.remote(x)

    yield lambda: asyncio.run(time_awaits(call, params["n"]))


@contextmanager
def bare_nested(params: Params) -> Iterator[Round]:
    """An actor that calls another one and waits."""
    import ray

    inner = ray.remote(Echo).remote()
    outer = ray.remote(Echo).remote(inner)
    ray.get([outer.call_inner.remote(i) for i in range(200)])
    yield lambda: time_calls(lambda x: ray.get(outer.call_inner.remote(x)), params["n"])


class Counter:
    """An actor whose method is a generator."""

    def count(self, n: int) -> Iterator[int]:
        """Items as small as they get. (`yield from` anything but a generator fails in Ray, which sends to it.)"""
        for i in range(n):  # noqa: UP028
            yield i


@contextmanager
def bare_stream(params: Params) -> Iterator[Round]:
    """`for ref in actor.count.options(num_returns="streaming").remote(n): ray.get(ref)`."""
    import ray

    actor = ray.remote(Counter).remote()

    def items(n: int) -> Iterator[int]:
        for ref in actor.count.options(num_returns="streaming").remote(n):
            yield ray.get(ref)

    list(items(200))
    yield lambda: time_inputs(lambda: items(params["n"]), range(params["n"]))


class Big:
    """An actor that takes and gives large arrays."""

    def __init__(self, size_bytes: int) -> None:
        import numpy as np

        self._array = np.ones(size_bytes, dtype=np.uint8)

    def take(self, array: Any) -> int:
        """Receive an array and write to it, which needs a copy: Ray hands out read-only views."""
        import numpy as np

        mine = np.array(array)
        mine[0] = 7
        return int(mine[0])

    def give(self, i: int) -> Any:
        """Send an array."""
        self._array[0] = i % 256
        return self._array


@contextmanager
def bare_big(params: Params) -> Iterator[Round]:
    """100 MB in and out of an actor, with the one copy that makes them writable at the receiver."""
    import numpy as np
    import ray

    actor = ray.remote(Big).remote(params["size_bytes"])
    array = np.ones(params["size_bytes"], dtype=np.uint8)

    def round_() -> dict[str, float]:
        start = time.perf_counter()
        taken = ray.get(actor.take.remote(array))
        between = time.perf_counter()
        given = np.array(ray.get(actor.give.remote(3)))
        given[1] = 5
        end = time.perf_counter()
        if taken != 7 or given[0] != 3 or given.nbytes != params["size_bytes"]:
            raise AssertionError("the wrong array arrived")
        return {"argument": 1000 * (between - start), "result": 1000 * (end - between)}

    # Store pages are slow on first touch, whoever touches them.
    for _ in range(params["warm_up"]):
        round_()
    yield round_
