"""Open-loop load: calls that arrive when they arrive, whether or not earlier ones are answered. Light to import."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

from .work import SEED


async def poisson(call: Callable[[int], Awaitable[Any]], rate: float, seconds: float) -> dict[str, float]:
    """Latencies of calls that arrive at `rate` per second on average.

    Raises:
        ValueError: a call did not give its argument back.
    """
    arrivals = random.Random(SEED)
    latencies: list[float] = []

    async def one(number: int) -> None:
        since = time.perf_counter()
        got = await call(number)
        latencies.append(time.perf_counter() - since)
        if got != number:
            raise ValueError(f"call {number} gave {got!r}")

    tasks: list[asyncio.Task[None]] = []
    begun = time.perf_counter()
    due = arrivals.expovariate(rate)
    while due < seconds:
        wait = begun + due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(len(tasks))))
        due += arrivals.expovariate(rate)
    await asyncio.gather(*tasks)
    latencies.sort()
    return {
        "p50": latencies[len(latencies) // 2] * 1e3,
        "p99": latencies[min(len(latencies) - 1, int(len(latencies) * 0.99))] * 1e3,
    }
