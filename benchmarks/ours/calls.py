"""Single calls."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import raymodal as modal

from .. import work
from ..model import Params, Round
from ..timing import time_awaits, time_calls, time_inputs

app = modal.App("bench-calls")
stream_app = modal.App("bench-stream")
nested_app = modal.App("bench-nested")
big_app = modal.App("bench-big")


@app.function(max_containers=1)
def echo(x: Any) -> Any:
    """Hand the argument back."""
    return work.echo(x)


@stream_app.function(max_containers=1)
def count(n: int) -> Iterator[int]:
    """Items as small as they get."""
    yield from range(n)


@nested_app.function(max_containers=1)
def inner(x: int) -> int:
    """Hand the argument back."""
    return x


@nested_app.function(max_containers=1)
def outer(x: int) -> int:
    """Hand back what the other function returns."""
    return inner.remote(x)


_arrays: dict[int, Any] = {}


@big_app.function(max_containers=1)
def take(array: Any) -> int:
    """Receive an array and write to it."""
    array[0] = 7
    return int(array[0])


@big_app.function(max_containers=1)
def give(size_bytes: int, i: int) -> Any:
    """Send an array, made at the first call."""
    import numpy as np

    if size_bytes not in _arrays:
        _arrays[size_bytes] = np.ones(size_bytes, dtype=np.uint8)
    _arrays[size_bytes][0] = i % 256
    return _arrays[size_bytes]


@contextmanager
def remote(params: Params) -> Iterator[Round]:
    """`f.remote(x)`."""
    with app.run():
        for i in range(200):
            echo.remote(i)
        yield lambda: time_calls(echo.remote, params["n"])


@contextmanager
def remote_aio(params: Params) -> Iterator[Round]:
    """`await f.remote.aio(x)`."""
    with app.run():
        for i in range(200):
            echo.remote(i)
        yield lambda: asyncio.run(time_awaits(echo.remote.aio, params["n"]))


@contextmanager
def nested(params: Params) -> Iterator[Round]:
    """A function that calls another one and waits."""
    with nested_app.run():
        for i in range(200):
            outer.remote(i)
        yield lambda: time_calls(outer.remote, params["n"])


@contextmanager
def stream(params: Params) -> Iterator[Round]:
    """`for item in f.remote_gen(n)`."""
    with stream_app.run():
        list(count.remote_gen(200))
        yield lambda: time_inputs(lambda: count.remote_gen(params["n"]), range(params["n"]))


@contextmanager
def big(params: Params) -> Iterator[Round]:
    """100 MB in and out; both arrive writable."""
    import numpy as np

    size_bytes = params["size_bytes"]
    array = np.ones(size_bytes, dtype=np.uint8)

    def round_() -> dict[str, float]:
        start = time.perf_counter()
        taken = take.remote(array)
        between = time.perf_counter()
        given = give.remote(size_bytes, 3)
        given[1] = 5
        end = time.perf_counter()
        if taken != 7 or given[0] != 3 or given.nbytes != size_bytes:
            raise AssertionError("the wrong array arrived")
        return {"argument": 1000 * (between - start), "result": 1000 * (end - between)}

    with big_app.run():
        for _ in range(params["warm_up"]):
            round_()
        yield round_
