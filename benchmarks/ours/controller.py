"""What the controller costs by itself: its decisions with many pools, at rest, and on the way from a first input to a container."""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import raymodal as modal
from raymodal._dual import io_loop
from raymodal.engine.service import ControllerService, PoolSetup
from raymodal.logic.autoscale import Ask, Room, Rules
from raymodal.plan.pool import ClientOptions, ContainerPlan, FunctionFacts
from raymodal.spec.function import FunctionSpec

from .. import work
from ..model import Params, Round

CALLERS = 50
CALLER_POLL_S = 3.0


class Host:
    """Containers that are ready at once and do nothing, in place of Ray's actors."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def start(self, plan: ContainerPlan, *, free: bool) -> Any:
        return next(self._numbers)

    async def ready(self, handle: Any) -> None:
        return None

    async def finish(self, handle: Any, reason: str) -> None:
        return None

    def kill(self, handle: Any) -> None:
        pass

    async def is_alive(self, handle: Any) -> bool:
        return True

    async def room(self) -> tuple[Room, int]:
        return Room(1e6, 1 << 60, 0.0, 1 << 30), 1 << 30

    async def free(self) -> Room:
        return Room(1e6, 1 << 60, 0.0, 0)

    def misfit(self, tag: str) -> None:
        return None

    def share(self, handle: Any) -> Any:
        return handle


class _Simulated:
    """A controller with `pools` functions, each wanted by one of `CALLERS` callers for its share of `containers`."""

    def __init__(self, params: Params) -> None:
        self.tags = [f"f{n}" for n in range(params["pools"])]
        self.each = params["containers"] // params["pools"]
        self.service: ControllerService = None  # type: ignore[assignment]
        self._seq = itertools.count(1)

    async def begin(self) -> None:
        setups = [_setup(tag) for tag in self.tags]
        self.service = ControllerService("ap-bench", setups, Host(), options=ClientOptions())  # type: ignore[arg-type]
        await self.service.start()
        for n, tag in enumerate(self.tags):
            await self.wants(n, tag, self.each)
        await asyncio.sleep(1.0)
        count = sum(len(pool.containers) for pool in self.service._fleet.pools.values())
        if count != self.each * len(self.tags):
            raise RuntimeError(f"{count} containers instead of {self.each * len(self.tags)}")

    async def wants(self, n: int, tag: str, demand: int) -> None:
        """A caller reports."""
        await self.service.update(f"caller-{n % CALLERS}", None, tag, next(self._seq), demand, demand, ())

    def tick(self) -> float:
        """Decide anew for every function; seconds."""
        for tag in self.tags:
            self.service._fleet.touch(tag)
        start = time.perf_counter()
        self.service._step()
        return time.perf_counter() - start

    async def event(self, n: int) -> float:
        """One caller wants one more of one function; seconds."""
        start = time.perf_counter()
        await self.wants(n, self.tags[n % len(self.tags)], self.each + 1 + n // len(self.tags))
        return time.perf_counter() - start

    async def rest(self, seconds: float) -> float:
        """Share of a core while nothing changes and every caller polls, as it does all the time."""

        async def polls(n: int) -> None:
            while True:
                await self.service.poll(f"caller-{n}", None)

        tasks = [asyncio.ensure_future(polls(n)) for n in range(CALLERS)]
        await asyncio.sleep(0.2)
        cpu, start = time.process_time(), time.perf_counter()
        await asyncio.sleep(seconds)
        share = (time.process_time() - cpu) / (time.perf_counter() - start)
        for task in tasks:
            task.cancel()
        return share


def _setup(tag: str) -> PoolSetup:
    spec = FunctionSpec(tag=tag, module="m", qualname=tag)
    plan = ContainerPlan("ap-bench", "bench", "", spec, None, {}, None, (), None, {})
    facts = FunctionFacts(tag, f"fu-{tag}", False, 300.0, None)
    return PoolSetup(plan, facts, Ask(0.125), Rules(scaledown_window=3600.0))


@contextmanager
def many_pools(params: Params) -> Iterator[Round]:
    """Ticks over all pools, single events, and a rest."""
    loop = io_loop()

    def on_loop(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(120)

    simulated = _Simulated(params)
    on_loop(simulated.begin())
    numbers = itertools.count()

    async def measure() -> dict[str, float]:
        ticks = [simulated.tick() for _ in range(params["ticks"])]
        events = [await simulated.event(next(numbers)) for _ in range(params["events"])]
        await asyncio.sleep(0.5)  # what they have started becomes ready
        return {
            "tick": statistics.median(ticks) * 1e3,
            "event": statistics.median(events) * 1e3,
            "CPU at rest": 100 * await simulated.rest(params["rest"]),
        }

    yield lambda: on_loop(measure())


@contextmanager
def request(params: Params) -> Iterator[Round]:
    """From a call that is a function's first input to the controller's request for its container: one clock, since both are on one machine."""
    app = modal.App("bench-request")
    functions = [app.function(serialized=True, name=f"first{k}")(work.double) for k in range(2 * params["n"])]

    def asked_at(function: Any) -> float:
        link = function._pool().pool.app.link
        facts = asyncio.run_coroutine_threadsafe(_facts(link), io_loop()).result(30)
        return float(facts["asked_at"][function.tag])

    def measure() -> dict[str, float]:
        late: dict[str, list[float]] = {"remote": [], "spawn": []}
        waiting = iter(functions)
        with app.run():
            for how in list(late) * params["n"]:
                function = next(waiting)
                start = time.monotonic()
                result = function.remote(1) if how == "remote" else function.spawn(1).get()
                assert result == 2
                late[how].append(asked_at(function) - start)
        return {f"by {how}": 1e3 * statistics.median(seconds) for how, seconds in late.items()}

    yield measure


async def _facts(link: Any) -> dict[str, Any]:
    facts: dict[str, Any] = await link.controller("facts")
    return facts
