"""The controller as a Ray actor, and how it keeps containers: the thin Ray side of `engine.service`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raymodal.engine.protocol import Gone, OnDone, OpenedPool
from raymodal.engine.ray import link
from raymodal.engine.ray.actor import GROUP, Container, SharedContainer
from raymodal.engine.ray.placement import Placer
from raymodal.engine.ray.template import snapshot
from raymodal.engine.ray.warm import WarmWorkers
from raymodal.engine.service import ControllerService, PoolSetup
from raymodal.logic.autoscale import Room
from raymodal.plan.pool import EXCHANGES, ClientOptions, ContainerPlan, as_recorded, is_shared
from raymodal.spec.function import FunctionSpec

GETTING_GONE_S = 5.0


class RayHost:
    """Containers as Ray actors.

    Args:
        options: tag -> actor options (CPUs, memory, GPUs, labels).
        misfits: tag -> why no node could hold it and whether the cluster could grow.
        placer: what pools that are opened later ask for.
        archive: reference to the program's modules, for nodes that do not have them.
    """

    def __init__(
        self,
        options: dict[str, dict[str, Any]],
        misfits: dict[str, tuple[str, bool]],
        app_options: ClientOptions,
        placer: Placer,
        archive: Any = None,
    ) -> None:
        self._archive = archive
        self._options = options
        self._misfits = misfits
        self._app_options = app_options
        self._placer = placer
        self._controller: Any = None
        self.on_start: Callable[[], None] = lambda: None
        self.has_templates: Callable[[], bool] = lambda: False
        self._class = ray.remote(Container)
        self._plans: dict[Any, ContainerPlan] = {}  # of containers that are asked for, until they boot
        self._made_shared: Any = None

    def start(self, plan: ContainerPlan, *, free: bool) -> Any:
        if self._controller is None:
            self._controller = ray.get_runtime_context().current_actor
        options = self._options[plan.spec.tag]
        if free:
            options = {**options, "num_cpus": 0}
            options.pop("memory", None)
        if plan.spec.enable_memory_snapshot and self.has_templates():
            # The node's launcher looks for it; a runtime environment without a template to answer costs a second.
            variables = {snapshot.VARIABLE: snapshot.name_of(plan)}
            options = {**options, "runtime_env": {"env_vars": variables}}
        # One class for all functions, so that Ray exports it once.
        actor_class = self._class
        if is_shared(plan.spec):
            actor_class, options = self._shared_class(), {**options, "max_concurrency": 0}
        made = actor_class.options(max_restarts=0, enable_task_events=False, **options)
        self.on_start()
        # What an actor is made with stays in Ray's records, as long as the cluster lives; a call's arguments do not.
        handle = made.remote(as_recorded(plan), self._controller, self._app_options, self._archive)
        self._plans[handle] = plan
        return handle

    def _shared_class(self) -> Any:
        if self._made_shared is None:
            self._made_shared = ray.remote(concurrency_groups={GROUP: EXCHANGES + 4})(SharedContainer)
        return self._made_shared

    async def ready(self, handle: Any) -> tuple[Any, ...] | None:
        try:
            failure: tuple[Any, ...] | None = await handle.boot.remote(self._plans.pop(handle))
        except RayError as error:
            raise Gone(link.gone_text(error)) from None
        return failure

    async def finish(self, handle: Any, reason: str) -> None:
        try:
            await handle.finish.remote(reason)
        except RayError as error:
            raise Gone(link.gone_text(error)) from None

    def kill(self, handle: Any) -> None:
        ray.kill(handle)

    async def is_alive(self, handle: Any) -> bool:
        try:
            async with asyncio.timeout(GETTING_GONE_S):
                await handle.ping.remote()
        except TimeoutError:
            return True  # busy; whoever waits for it will notice its end
        except RayError:
            return False
        return True

    async def room(self) -> tuple[Room, int]:
        total = await asyncio.to_thread(ray.cluster_resources)
        cpus, memory, gpus = total.get("CPU", 0.0), int(total.get("memory", 0)), total.get("GPU", 0.0)
        return Room(cpus, memory, gpus, int(cpus), can_grow=not self._placer.is_own), max(1, int(cpus))

    async def free(self) -> Room:
        left = await asyncio.to_thread(ray.available_resources)
        return Room(left.get("CPU", 0.0), int(left.get("memory", 0)), left.get("GPU", 0.0), 0)

    def misfit(self, tag: str) -> tuple[str, bool] | None:
        return self._misfits.get(tag)

    def open_pool(self, spec: FunctionSpec) -> OpenedPool:
        placement = self._placer.place(spec)
        self._options[spec.tag] = placement.options
        if placement.misfit is not None:
            self._misfits[spec.tag] = placement.misfit
        return OpenedPool(placement.ask, placement.hide_gpus, placement.note)

    def share(self, handle: Any) -> Any:
        return handle

    def submit(self, handle: Any, method: str, args: tuple[Any, ...], on_done: OnDone) -> None:
        link.submit(handle, method, args, on_done)

    def hold(self, buffer: Any) -> Any:
        return ray.put(buffer)

    def fetch(self, box: Any, on_done: OnDone) -> None:
        link.fetch(box, on_done)


class Controller:
    """The actor class: one async actor per app, 0 CPUs. Everything goes through `call`."""

    def __init__(
        self,
        app_id: str,
        options: dict[str, dict[str, Any]],
        misfits: dict[str, tuple[str, bool]],
        options_of_clients: ClientOptions,
        lease_ttl_s: float,
        placer: Placer,
        archive: list[Any],
        warm: tuple[int | None, int],
    ) -> None:
        # In a list, so that Ray hands the reference on instead of its value.
        self._host = RayHost(options, misfits, options_of_clients, placer, archive[0] if archive else None)
        self._setups: list[PoolSetup] = []
        self._app_id = app_id
        self._options = options_of_clients
        self._ttl = lease_ttl_s
        self._service: ControllerService | None = None
        self._warm = WarmWorkers(*warm)
        self._warming: asyncio.Task[None] | None = None

    async def start(self, setups: list[PoolSetup]) -> dict[str, Any]:
        """Begin. Functions come here and not to the constructor, whose arguments Ray would keep: secrets are among them."""
        self._setups = setups
        self._service = ControllerService(
            self._app_id, self._setups, self._host, options=self._options, lease_ttl_s=self._ttl
        )
        self._host.on_start = self._warm.started
        self._host.has_templates = self._warm.has_nodes
        self._warming = asyncio.create_task(self._warm.run())
        return await self._service.start()

    async def call(self, method: str, *args: Any) -> Any:
        assert self._service is not None
        answer = await getattr(self._service, method)(*args)
        if method == "stop" and any(setup.plan.spec.enable_memory_snapshot for setup in self._setups):
            await self._end_snapshots()
        return answer

    async def _end_snapshots(self) -> None:
        """They hold the memory of an app that is over. Those of an app whose controller was killed end by themselves, later."""
        own = ray.get_runtime_context().get_node_id()
        elsewhere = [
            ray.remote(snapshot.end_here)
            .options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False))
            .remote(self._app_id)
            for node in self._warm.node_ids()
            if node != own
        ]
        await asyncio.to_thread(snapshot.end_here, self._app_id)
        if elsewhere:
            await asyncio.wait(
                [asyncio.ensure_future(asyncio.wrap_future(ref.future())) for ref in elsewhere], timeout=GETTING_GONE_S
            )

    def __repr__(self) -> str:
        return f"raymodal-controller:{self._app_id}"
