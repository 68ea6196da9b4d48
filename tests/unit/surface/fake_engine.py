"""An engine that runs functions in the caller's process: enough to see what the surface asks an engine for."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import cloudpickle

from raymodal.engine.current import set_engine
from raymodal.exception import InvalidError, NotFoundError
from raymodal.plan.app import AppPlan


class FakePool:
    """Runs what it is asked to at once, and remembers how it was asked."""

    def __init__(self, running: FakeRunning, tag: str, function: Any) -> None:
        self.running = self.app = running
        self.tag = tag
        self.function = function
        self.asked: list[tuple[str, Any]] = []
        self.rules: dict[str, Any] = {
            "min_containers": 0,
            "max_containers": None,
            "buffer_containers": 0,
            "scaledown_window": 60.0,
        }

    async def stats(self) -> dict[str, int]:
        states = {"starting": 1, "busy": 1, "idle": 0, "waits_for": None}
        return {"backlog": 3, "running": 1, "containers": 2, **states}

    async def set_rules(self, changes: dict[str, Any]) -> dict[str, Any]:
        rules = {**self.rules, **changes}
        if rules["max_containers"] is not None and rules["min_containers"] > rules["max_containers"]:
            raise InvalidError("as the controller says")
        self.rules = rules
        return self.rules

    def call(self, args: Any, kwargs: Any) -> Any:
        self.asked.append(("call", (args, kwargs)))
        return self.function(*args, **kwargs)

    async def call_async(self, args: Any, kwargs: Any) -> Any:
        self.asked.append(("call_async", (args, kwargs)))
        return self.function(*args, **kwargs)

    def _rows(self, inputs: Any, star: bool) -> Iterator[Any]:
        return iter(inputs) if star else zip(*inputs)

    def map(
        self, inputs: Any, kwargs: Any, ordered: bool, return_exceptions: bool, *, star: bool = False
    ) -> Iterator[Any]:
        self.asked.append(("map", (ordered, return_exceptions, star)))
        for row in self._rows(inputs, star):
            try:
                result = self.function(*row, **kwargs)
            except Exception as error:
                if not return_exceptions:
                    raise
                result = error
            yield result

    async def map_async(
        self, inputs: Any, kwargs: Any, ordered: bool, return_exceptions: bool, *, star: bool = False
    ) -> AsyncIterator[Any]:
        for result in self.map(inputs, kwargs, ordered, return_exceptions, star=star):
            yield result

    def stream(self, args: Any, kwargs: Any) -> Iterator[Any]:
        self.asked.append(("stream", (args, kwargs)))
        yield from self.function(*args, **kwargs)

    async def stream_async(self, args: Any, kwargs: Any) -> AsyncIterator[Any]:
        for value in self.function(*args, **kwargs):
            yield value

    async def spawn(self, args: Any, kwargs: Any) -> str:
        return self.running.calls.add([self.function(*args, **kwargs)])

    async def spawn_map(self, inputs: Any, kwargs: Any) -> list[str]:
        return [self.running.calls.add([self.function(*row, **kwargs)]) for row in zip(*inputs)]

    async def spawn_many(self, inputs: Any, kwargs: Any) -> tuple[str, int]:
        results = [self.function(*row, **kwargs) for row in zip(*inputs)]
        return self.running.calls.add(results), len(results)


class FakeCalls:
    def __init__(self) -> None:
        self.results: dict[str, list[Any]] = {}
        self.cancelled: list[tuple[str, bool]] = []

    def add(self, results: list[Any]) -> str:
        call_id = f"fc-{len(self.results)}"
        self.results[call_id] = results
        return call_id

    def _of(self, call_id: str) -> list[Any]:
        if call_id not in self.results:
            raise NotFoundError(call_id)
        return self.results[call_id]

    async def get(self, call_id: str, index: int, timeout: float | None) -> Any:
        result = self._of(call_id)[index]
        if result == "slow" and timeout is not None:
            raise TimeoutError(timeout)
        return result

    async def cancel(self, call_id: str, terminate_containers: bool) -> None:
        self._of(call_id)
        self.cancelled.append((call_id, terminate_containers))

    async def num_inputs(self, call_id: str) -> int:
        return len(self._of(call_id))


class FakeRunning:
    def __init__(self, plan: AppPlan, functions: dict[str, Any]) -> None:
        self.plan = plan
        self.app_id = plan.app_id
        self.client = self  # one object plays both RunningApp and AppClient
        self.calls = FakeCalls()
        self.stopped = 0
        self.pools = {tag: FakePool(self, tag, function) for tag, function in functions.items()}

    def pool(self, tag: str, request: Any = None) -> FakePool:
        return self.pools[tag]

    async def stop(self, grace_s: float = 0.0) -> None:
        self.stopped += 1


class FakeEngine:
    """`functions`: what to run under a tag; by-value functions run from their pickle."""

    name = "fake"

    def __init__(self) -> None:
        self.functions: dict[str, Any] = {}
        self.runs: list[FakeRunning] = []
        self.fails_with: Exception | None = None

    async def start_app(self, plan: AppPlan) -> FakeRunning:
        if self.fails_with is not None:
            raise self.fails_with
        functions = dict(self.functions)
        for tag, one in plan.functions.items():
            if one.by_value_blob is not None:
                functions[tag] = cloudpickle.loads(one.by_value_blob)
            functions.setdefault(tag, None)
        self.runs.append(FakeRunning(plan, functions))
        return self.runs[-1]

    @property
    def plan(self) -> AppPlan:
        return self.runs[-1].plan

    def close(self) -> None:
        pass


@contextlib.contextmanager
def fake_engine() -> Iterator[FakeEngine]:
    """This process's engine for the length of the block."""
    engine = FakeEngine()
    set_engine(engine)  # type: ignore[arg-type]
    try:
        yield engine
    finally:
        set_engine(None)
