"""Many calls through `map`."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import raymodal as modal

from .. import work
from ..baselines.map import consume, inputs_and_results, watch_naps
from ..model import Params, Round
from ..timing import time_inputs

app = modal.App("bench-map")
zero_app = modal.App("bench-from-zero")


@app.function(max_containers=2)
def double(x: int) -> int:
    """The smallest work."""
    return work.double(x)


@app.function(max_containers=2)
def touch(record: dict[str, Any]) -> dict[str, Any]:
    """Read and write a record of about 1 KB."""
    return work.touch(record)


@app.function(max_containers=2)
def shout(text: str) -> str:
    """Change a short text."""
    return work.shout(text)


@app.function(max_containers=2)
def nap(seconds: float) -> float:
    """Take as long as the input says."""
    return work.nap(seconds)


@zero_app.function()
def double_bare(x: int) -> int:
    """The smallest work, with no settings at all."""
    return work.double(x)


@contextmanager
def throughput(params: Params) -> Iterator[Round]:
    """`list(f.map(inputs))`, in order, on two warm containers."""
    function: Any = {"ints": double, "records": touch, "texts": shout}[params["inputs"]]
    inputs, expected = inputs_and_results(params)
    with app.run():
        warm_up(function, inputs[: max(len(inputs) // 10, 1)])
        yield lambda: time_inputs(lambda: function.map(inputs), expected)


@contextmanager
def from_zero(params: Params) -> Iterator[Round]:
    """The first map of a function without settings, its second, and one on two warm containers."""
    n = params["n"]
    inputs = list(range(n))
    expected = [work.double(x) for x in inputs]

    def timed(function: Any) -> float:
        start = time.perf_counter()
        got = list(function.map(inputs))
        took = time.perf_counter() - start
        work.check(got, expected)
        return took

    def round_() -> dict[str, float]:
        start = time.perf_counter()
        with zero_app.run():
            app_start = time.perf_counter() - start
            cold = timed(double_bare)
            again = timed(double_bare)
        with app.run():
            warm_up(double, inputs[: n // 10])
            warm = timed(double)
        return {"from zero": cold, "second map": again, "two warm": warm, "app start": app_start}

    round_()
    yield round_


@contextmanager
def generator(params: Params) -> Iterator[Round]:
    """`f.map(generator)`, results consumed as they come."""
    n = params["n"]
    with app.run():
        warm_up(double, range(n // 10))
        yield lambda: consume(double.map(i for i in range(n)), n)


@contextmanager
def naps(params: Params) -> Iterator[Round]:
    """`f.map(inputs, order_outputs=False)` over inputs of unequal length."""
    inputs = work.naps(params["n"], params["slow"], params["seconds"])
    with app.run():
        warm_up(nap, [0.0] * 1000)
        yield lambda: watch_naps(nap.map(inputs, order_outputs=False), inputs)


def warm_up(function: Any, inputs: Any, *, containers: int = 2, timeout_s: float = 20.0) -> None:
    """Map until both containers are there, then once more."""
    inputs = list(inputs)
    deadline = time.monotonic() + timeout_s
    runners = 0
    while runners < containers and time.monotonic() < deadline:
        list(function.map(inputs))
        # Figures are a courtesy of the surface: without them the deadline must do.
        with contextlib.suppress(Exception):
            runners = function.get_current_stats().num_total_runners
    list(function.map(inputs))
