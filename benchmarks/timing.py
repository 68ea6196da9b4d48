"""How single calls, and many inputs at once, are timed: the same for every contender."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any

from . import work
from .stats import percentile

# Calls before the timed ones in each round: the round before was another process's, so caches are cold and leases
# given back. The very first is reported apart.
WARM_UP_CALLS = 20


def time_calls(call: Callable[[int], Any], n: int) -> dict[str, float]:
    """Time `n` calls back to back in µs; each must hand back its argument."""
    first = _timed(call, -1)
    for i in range(WARM_UP_CALLS):
        _timed(call, i)
    took = [_timed(call, i) for i in range(n)]
    return _figures(first, took)


async def time_awaits(call: Callable[[int], Awaitable[Any]], n: int) -> dict[str, float]:
    """The same for calls that are awaited."""
    first = await _timed_await(call, -1)
    for i in range(WARM_UP_CALLS):
        await _timed_await(call, i)
    took = [await _timed_await(call, i) for i in range(n)]
    return _figures(first, took)


def time_inputs(run: Callable[[], Iterable[Any]], expected: Sequence[Any]) -> dict[str, float]:
    """Time one run over all inputs, in inputs per second; its results must be right, complete and in order."""
    start = time.perf_counter()
    got = list(run())
    took = time.perf_counter() - start
    work.check(got, expected)
    return {"rate": len(expected) / took}


def _timed(call: Callable[[int], Any], argument: int) -> float:
    start = time.perf_counter_ns()
    result = call(argument)
    end = time.perf_counter_ns()
    _check(argument, result)
    return (end - start) / 1000


async def _timed_await(call: Callable[[int], Awaitable[Any]], argument: int) -> float:
    start = time.perf_counter_ns()
    result = await call(argument)
    end = time.perf_counter_ns()
    _check(argument, result)
    return (end - start) / 1000


def _check(argument: int, result: Any) -> None:
    if result != argument:
        raise AssertionError(f"the call with {argument} returned {result!r}")


def _figures(first: float, took: list[float]) -> dict[str, float]:
    return {"p50": percentile(took, 50), "p95": percentile(took, 95), "first": first}
