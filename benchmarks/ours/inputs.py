"""Several inputs at once in one container: `@concurrent` and `@batched`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import raymodal as modal

from ..load import poisson
from ..model import Params, Round
from ..timing import time_inputs

app = modal.App("bench-inputs")


@app.function(max_containers=1)
@modal.concurrent(max_inputs=100)
async def anap(x: int) -> int:
    """Wait for 50 ms, as for an answer from elsewhere."""
    await asyncio.sleep(0.05)
    return x


@app.function(max_containers=1)
@modal.concurrent(max_inputs=10)
def nap(x: int) -> int:
    """Wait for 50 ms in a thread."""
    time.sleep(0.05)
    return x


@app.function(max_containers=1)
@modal.batched(max_batch_size=32, wait_ms=10)
async def batch(xs: list[int]) -> list[int]:
    """100 ms for a batch, however full."""
    await asyncio.sleep(0.1)
    return xs


@contextmanager
def concurrent(params: Params) -> Iterator[Round]:
    """`list(f.map(inputs))` over one warm container."""
    function: Any = {"tasks": anap, "threads": nap}[params["form"]]
    inputs = range(params["n"])

    def round_() -> dict[str, float]:
        return time_inputs(lambda: function.map(inputs), inputs)

    with app.run():
        round_()
        yield round_


@contextmanager
def batched(params: Params) -> Iterator[Round]:
    """`await f.remote.aio(x)` as calls arrive; at full load `list(f.map(inputs))`."""
    inputs = range(params["n"])

    def round_() -> dict[str, float]:
        if not params["rate"]:
            return time_inputs(lambda: batch.map(inputs), inputs)
        return asyncio.run(poisson(batch.remote.aio, params["rate"], params["seconds"]))

    with app.run():
        batch.remote(0)
        yield round_
