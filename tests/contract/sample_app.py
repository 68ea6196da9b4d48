"""A user's app: what the contract tests call. Containers import this module, so it imports nothing of pytest."""

from __future__ import annotations

import asyncio
import inspect
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from typing import Any

import raymodal as modal
from tests.contract.files import await_file, note

app = modal.App("contract-sample")


class Point:
    """A value of the user's own class, pickled by reference."""

    def __init__(self, x: int, y: int) -> None:
        self.x, self.y = x, y

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Point) and (self.x, self.y) == (other.x, other.y)


class ShopError(Exception):
    """An exception of the user's own with an attribute."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text, code)
        self.code = code


class Picky(Exception):
    """Cannot be made again from its `args`."""

    def __init__(self, code: int, *, hint: str) -> None:
        super().__init__(f"{code}: {hint}")


class HoldsLock(Exception):
    """Cannot be pickled."""

    def __init__(self) -> None:
        super().__init__("I hold a lock")
        self.lock = threading.Lock()


@app.function(max_containers=2)
def square(x: int) -> int:
    return x * x


@app.function(max_containers=2)
def describe(*args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return args, kwargs


@app.function(max_containers=2)
def div(a: float, b: float) -> float:
    return a / b


@app.function(max_containers=2)
def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Whatever the test wants to happen in a container."""
    return function(*args, **kwargs)


@app.function(max_containers=1)
async def acall(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The same on the container's event loop."""
    result = function(*args, **kwargs)
    return await result if inspect.isawaitable(result) else result


@app.function(max_containers=2)
def release(go: str, x: int) -> int:
    """Input 0 waits for a file, all others are quick."""
    if x == 0 and not await_file(go):
        raise RuntimeError(f"{go} never came")
    return x


@app.function(max_containers=2)
def nap(seconds: float, log: str = "") -> str:
    """Sleeps in short steps and tells the log how it ended."""
    try:
        note(log, "begun")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.01)
    except Exception:
        note(log, "except Exception")
    except BaseException as error:
        note(log, type(error).__name__)
        raise
    finally:
        note(log, "finally")
    return "rested"


@app.function(max_containers=1)
async def anap(seconds: float, log: str = "") -> str:
    try:
        note(log, "begun")
        await asyncio.sleep(seconds)
    except BaseException as error:
        note(log, type(error).__name__)
        raise
    finally:
        note(log, "finally")
    return "rested"


@app.function(max_containers=1)
def stubborn(log: str) -> str:
    """Swallows its cancellation and returns."""
    try:
        note(log, "begun")
        while True:
            time.sleep(0.01)
    except modal.exception.InputCancellation:
        return "as you were"


@app.function(max_containers=1, timeout=1)
def limited(seconds: float) -> tuple[str, int]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.01)
    return "in time", os.getpid()


@app.function(max_containers=1, timeout=1)
async def alimited(seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "in time"


@app.function(max_containers=2, retries=1)
def flaky(log: str, failures: int) -> tuple[int, str | None]:
    """Fails `failures` times, then returns the number of the attempt."""
    note(log, str(modal.current_input_id()))
    with open(log) as file:
        attempt = len(file.readlines())
    if attempt <= failures:
        raise OSError(f"attempt {attempt}")
    return attempt, modal.current_input_id()


@app.function()
def factorial(n: int) -> int:
    # No limit of containers: each level waits in one of its own.
    return 1 if n <= 1 else n * factorial.remote(n - 1)


@app.function(max_containers=2)
def total(xs: list[int]) -> int:
    """A map within a container."""
    return sum(square.map(xs))


@app.function(max_containers=1)
async def atotal(xs: list[int]) -> int:
    return sum([y async for y in square.map.aio(xs)])


@app.function(max_containers=1)
def produce(n: int, fail_at: int = -1, log: str = "") -> Iterator[int]:
    try:
        for i in range(n):
            if i == fail_at:
                raise ShopError(f"at {i}", i)
            note(log, f"made {i}")
            yield i
    finally:
        note(log, "finally")


@app.function(max_containers=1)
async def aproduce(n: int, fail_at: int = -1, log: str = "") -> AsyncIterator[int]:
    try:
        for i in range(n):
            if i == fail_at:
                raise ShopError(f"at {i}", i)
            await asyncio.sleep(0)
            yield i
    finally:
        note(log, "finally")


@app.function(max_containers=1, is_generator=True)
def iterate(make: Callable[..., Iterable[Any]], *args: Any) -> Any:
    """A plain function that is declared to return a generator: whatever the test makes."""
    return make(*args)
