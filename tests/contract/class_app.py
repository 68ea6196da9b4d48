"""A user's app of classes: what the contract tests of classes call. Containers import this module, so it imports nothing of pytest.

No `from __future__ import annotations`: it turns annotations into strings, which `modal.parameter()` refuses, here as in Modal.
"""

import asyncio
import os
import secrets
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import raymodal as modal
from tests.contract.files import note

app = modal.App("contract-classes")


class Base:
    """What the classes below have in common; not decorated itself."""

    steps: list[str]

    @modal.enter(snap=True)
    def first(self) -> None:
        self.me = secrets.token_hex(4)  # tells containers apart on engines that have no processes
        self.steps = ["first"]

    @modal.enter()
    def shared_step(self) -> None:
        self.steps.append("base")

    @modal.method()
    def who(self) -> str:
        return self.me


@app.cls(enable_memory_snapshot=True, max_containers=1)
class Model(Base):
    name: str = modal.parameter(default="plain")
    count: int = modal.parameter(default=1)
    raw: bytes = modal.parameter(default=b"")
    fast: bool = modal.parameter(default=False)
    notes: list = modal.parameter(default=("kept",), init=False)  # type: ignore[type-arg]

    @modal.enter()
    async def own_step(self) -> None:
        await asyncio.sleep(0)
        self.loop = asyncio.get_running_loop()
        self.steps.append("own")

    @modal.enter(snap=True)
    def second(self) -> None:
        self.steps.append("second")

    @modal.method()
    def describe(self) -> dict[str, Any]:
        fields = ("name", "count", "raw", "fast", "notes", "steps")
        return {field: getattr(self, field) for field in fields}

    @modal.method()
    def add(self, x: int, y: int = 0) -> int:
        return self.count * x + y

    @modal.method()
    async def add_async(self, x: int) -> int:
        assert asyncio.get_running_loop() is self.loop
        await asyncio.sleep(0)
        return self.count * x

    @modal.method()
    def where(self) -> tuple[bool, str | None, bool]:
        return threading.current_thread() is threading.main_thread(), modal.current_input_id(), modal.is_local()

    @modal.method()
    def fail(self, code: int) -> None:
        self.steps.append("failed")
        raise KeyError(code)

    def helper(self) -> str:
        return f"helps {self.name}"

    @property
    def doubled(self) -> int:
        return 2 * self.count

    @modal.method()
    def within(self, x: int) -> tuple[int, str, int]:
        """Its own other methods, without a container between."""
        return self.add.local(x), self.helper(), self.doubled

    @modal.method()
    def produce(self, n: int, fail_at: int = -1, log: str = "") -> Iterator[int]:
        try:
            for i in range(n):
                if i == fail_at:
                    raise KeyError(i)
                yield i * self.count
        finally:
            note(log, "finally")

    @modal.method()
    async def produce_async(self, n: int) -> AsyncIterator[int]:
        for i in range(n):
            await asyncio.sleep(0)
            yield i * self.count

    @modal.method(is_generator=True)
    def produced(self, n: int) -> Any:
        return iter(range(n))


@app.cls(max_containers=2)
class Caller:
    """Calls from a container."""

    @modal.method()
    def itself(self, depth: int) -> int:
        """In another container of the same pool: this one is busy with the call."""
        return 0 if depth == 0 else 1 + self.itself.remote(depth - 1)

    @modal.method()
    def other(self, name: str) -> str:
        described: dict[str, Any] = Model(name=name).describe.remote()
        return str(described["name"])

    @modal.method()
    async def other_async(self, xs: list[int]) -> list[int]:
        return [y async for y in Model(count=5).add.map.aio(xs)]

    @modal.method()
    def handle(self) -> Any:
        return self.itself


@app.cls(max_containers=1, timeout=1, retries=0)
class Limited:
    @modal.method()
    def nap(self, seconds: float) -> str:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.01)
        return "rested"


@app.cls(max_containers=1)
class Mixed:
    """Constructed by hand in spite of a base class that knows nothing of modal."""

    class Inner:
        pass

    @staticmethod
    def plain(x: int) -> int:
        return x + 1

    @modal.method()
    def env(self, name: str) -> str | None:
        return os.environ.get(name)

    @modal.method()
    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    @modal.method()
    def plus(self, x: int) -> int:
        return self.plain(x)


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # both are what older releases had

    @app.cls(max_containers=1)
    class Constructed:
        def __init__(self, word: str, *, table: dict[str, Any] | None = None) -> None:
            self.word, self.table = word, table
            self.me = secrets.token_hex(4)

        @modal.method()
        def look(self) -> tuple[str, Any, str]:
            return self.word, self.table, self.me

    @app.cls(max_containers=1)
    class Old:
        """As programs of 2023 have it."""

        def __enter__(self) -> None:
            self.ready = True

        @modal.method()
        def is_ready(self) -> bool:
            return self.ready


@app.function(max_containers=2)
def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Whatever the test wants to happen in a container."""
    return function(*args, **kwargs)


class Outer:
    """Only a scope."""

    @app.cls(max_containers=1)
    class Inner:
        @modal.method()
        def name(self) -> str:
            return type(self).__qualname__


@app.function(max_containers=1)
def use(obj: Any, x: int) -> int:
    result: int = obj.add.remote(x)
    return result


def count_of(cls: Any) -> int:
    """In a container: the class as it arrives there."""
    return int(cls(count=4).describe.remote()["count"])


def helper_of(cls: Any) -> Any:
    return cls().helper()
