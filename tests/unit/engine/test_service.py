"""The controller around the fleet, with containers that are ready at once: nobody is forgotten."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest

from raymodal.engine import service
from raymodal.engine.service import ControllerService, PoolSetup
from raymodal.exception import InvalidError, NotFoundError, ResourceExhaustedError
from raymodal.logic.autoscale import Ask, Room, Rules
from raymodal.logic.limits import Limits
from raymodal.plan.pool import ClientOptions, ContainerPlan, FunctionFacts
from raymodal.spec.function import FunctionSpec


class Host:
    """Notes what it is asked for."""

    def __init__(self, *, cores: int = 8, ready_s: float = 0.0) -> None:
        self.started: list[str] = []
        self._cores = cores
        self._ready_s = ready_s
        self._numbers = itertools.count()

    def start(self, plan: ContainerPlan, *, free: bool) -> int:
        self.started.append(plan.container_id)
        return next(self._numbers)

    async def ready(self, handle: int) -> None:
        await asyncio.sleep(self._ready_s)

    async def finish(self, handle: int, reason: str) -> None:
        pass

    def kill(self, handle: int) -> None:
        pass

    async def is_alive(self, handle: int) -> bool:
        return True

    async def room(self) -> tuple[Room, int]:
        return Room(8.0, 1 << 40, 0.0, self._cores), self._cores

    async def free(self) -> Room:
        raise RuntimeError("the cluster does not answer")

    def misfit(self, tag: str) -> None:
        return None

    def share(self, handle: int) -> int:
        return handle


def setup(tag: str = "f", **rules: Any) -> PoolSetup:
    spec = FunctionSpec(tag=tag, module="m", qualname=tag)
    plan = ContainerPlan("ap-1", "app", "", spec, None, {}, "", (), None, {})
    return PoolSetup(plan, FunctionFacts(tag, "fu-1", False, 300.0, None), Ask(0.1), Rules(**rules))


async def begin(host: Host, *setups: PoolSetup, ttl_s: float = 10.0, limits: Limits | None = None) -> ControllerService:
    options = ClientOptions(limits=limits or Limits())
    started = ControllerService("ap-1", list(setups), host, options=options, lease_ttl_s=ttl_s)  # type: ignore[arg-type]
    await started.start()
    return started


def grants(events: list[Any]) -> list[Any]:
    return [event for event in events if event[0] == "grant"]


def test_a_caller_that_was_silent_for_too_long_is_served_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It only listens afterwards: what it wanted before it still wants, and there is no other event that would say so."""
    monkeypatch.setattr(service, "POLL_S", 0.1)

    async def run() -> None:
        controller = await begin(Host(), setup(scaledown_window=0.1), ttl_s=0.3)
        events = await controller.update("driver", None, "f", 1, 1, 1, ())
        while not grants(events):
            events = await controller.poll("driver", None)
        await asyncio.sleep(1.0)
        assert controller._fleet.containers == {}

        events = []
        for _ in range(30):
            events += await controller.poll("driver", None)
        assert [event[0] for event in events if event[0] in ("revoke", "grant")] == ["revoke", "grant"]
        await controller.stop()

    asyncio.run(run())


def test_the_second_container_does_not_wait_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """On few cores the first one starts alone for a second, and not until it is ready. Nothing else happens meanwhile."""

    async def run() -> list[str]:
        host = Host(cores=2, ready_s=30.0)
        controller = await begin(host, setup())
        await controller.update("driver", None, "f", 1, 4, 4, ())
        await asyncio.sleep(1.6)
        await controller.stop()
        return host.started

    assert len(asyncio.run(run())) >= 2


def test_a_cluster_that_does_not_say_what_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Costs the figures in a remark, and not the container that is waited for."""
    monkeypatch.setattr(service, "STALLED_S", 0.1)

    async def run() -> None:
        controller = await begin(Host(ready_s=1.2), setup())
        events = await controller.update("driver", None, "f", 1, 1, 1, ())
        async with asyncio.timeout(10):
            while not grants(events):
                events = await controller.poll("driver", None)
        await controller.stop()

    asyncio.run(run())


def test_rules_from_elsewhere_are_looked_at() -> None:
    """Whoever sends them: values of a wrong kind, contradictions, unknown functions. What is in force stays."""

    async def run() -> None:
        controller = await begin(Host(), setup(max_containers=3))
        for changes in ({"scaledown_window": "x"}, {"min_containers": None}, {"nonsense": 1}, {"min_containers": 4}):
            with pytest.raises(InvalidError):
                await controller.set_rules("f", changes)
        with pytest.raises(NotFoundError):
            await controller.set_rules("g", {})
        assert (await controller.rules("f"))["max_containers"] == 3
        await controller.stop()

    asyncio.run(run())


def test_spawned_inputs_are_counted_until_they_have_an_outcome() -> None:
    """Also those of calls that are cancelled."""

    async def run() -> None:
        controller = await begin(Host(), setup(), limits=Limits(spawned=5))
        item = ("call", b"", [])
        call_id = await controller.spawn("f", [item] * 5, True, "")  # type: ignore[list-item]
        with pytest.raises(ResourceExhaustedError, match="RAYMODAL_MAX_SPAWNED"):
            await controller.spawn("f", [item], True, "")  # type: ignore[list-item]
        await controller.cancel_call(call_id, False)
        async with asyncio.timeout(10):
            while controller._open_inputs["f"]:
                await asyncio.sleep(0.01)
        await controller.stop()

    asyncio.run(run())
