"""The engine on Ray: connects to a cluster, starts an app's controller, and is this process' way to both."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import threading
import warnings
from concurrent.futures import Future
from typing import Any

from raymodal import output, wire
from raymodal._dual import io_loop, on_io_loop
from raymodal._warn import warn_of_engine
from raymodal.config import Settings, settings
from raymodal.engine.client import AppClient, PoolClient
from raymodal.engine.protocol import RunningApp, StoreClient
from raymodal.engine.ray.placement import Placer
from raymodal.engine.ray.template.node import FORKED_LABEL
from raymodal.engine.service import EXIT_GRACE_S, PoolSetup, policy_of, rules_of
from raymodal.engine.source import pack
from raymodal.exception import InternalFailure
from raymodal.logic.limits import Limits
from raymodal.plan.app import AppPlan
from raymodal.plan.pool import ClientOptions, ContainerPlan, facts_of
from raymodal.spec.function import spec_env

PROMPT_S = 0.02  # how late a signal is seen while a short call is waited for

_warming: Future[Any] | None = None
_warming_lock = threading.Lock()


def warm_up() -> None:
    """Begin to connect in the background; errors are raised where the connection is needed."""
    global _warming
    with _warming_lock:
        if _warming is not None:
            return
        future: Future[Any] = Future()
        _warming = future
    now = settings()

    def connect() -> None:
        try:
            future.set_result(_connect(now))
        except BaseException as error:  # noqa: BLE001 - raised again by whoever needs the connection
            future.set_exception(error)

    threading.Thread(target=connect, name="raymodal-warm-up", daemon=True).start()


def _connect(now: Settings) -> Any:
    from raymodal.engine.ray import cluster

    connected = cluster.connect(now)
    # What the first app needs anyway, while the user's file is still being read.
    from raymodal.engine.ray import controller

    return connected if controller else None


class RayEngine:
    """See `engine.protocol.Engine`. Connects on construction."""

    name = "ray"

    def __init__(self, **ray_kwargs: Any) -> None:
        global _warming
        with _warming_lock:
            warming, _warming = _warming, None
        if warming is not None and not ray_kwargs:
            self.cluster = warming.result()
        else:
            from raymodal.engine.ray import cluster

            self.cluster = cluster.connect(settings(), **ray_kwargs)
        from raymodal.engine.ray.store import RayStore

        self._store = RayStore(detached=not self.cluster.is_own)
        self._apps: dict[str, RayApp] = {}
        self._following: str | None = None

    async def start_app(self, plan: AppPlan) -> RunningApp:
        """Start an app's controller and connect to it.

        Raises:
            InternalFailure: the controller cannot start.
        """
        import ray
        from ray.exceptions import RayError

        from raymodal.engine.ray.controller import Controller
        from raymodal.engine.ray.link import RayLink, gone_text

        address = self._follow_output()
        now = settings()
        wire.set_read_only(now.read_only_arrays)
        placer = Placer(tuple(self.cluster.nodes()), self.cluster.is_local, ignore_gpu=now.gpu == "ignore")
        setups, options, misfits, notes = _plan_pools(plan, placer, output_address=address)
        if not any(node.get("Labels", {}).get(FORKED_LABEL) for node in ray.nodes()):
            snapshots = [tag for tag, f in plan.functions.items() if f.spec.enable_memory_snapshot]
            warn_of_engine("enable_memory_snapshot", snapshots)
        client_options = ClientOptions(
            now.linger_s,
            now.max_outstanding,
            now.max_losses,
            Limits(now.max_pending, now.max_total, now.max_spawned, now.limit_wait_s),
        )
        # Nodes of a cluster that others started need not have the program's files.
        archive = (
            []
            if self.cluster.is_local or not plan.source_root
            else [ray.put(await asyncio.to_thread(pack, plan.source_root))]
        )
        controller = (
            ray.remote(Controller)
            .options(num_cpus=0, max_concurrency=100_000, enable_task_events=False, max_restarts=0)
            .remote(
                plan.app_id,
                options,
                misfits,
                client_options,
                now.lease_ttl_s,
                placer,
                archive,
                (now.warm_workers, now.warm_memory_mib),
            )
        )
        starting = controller.start.remote(setups)
        for text in notes:
            warnings.warn(text, UserWarning, stacklevel=2)
        try:
            await starting
        except RayError as error:
            raise InternalFailure(f"The app's controller could not start: {gone_text(error)}") from None
        is_plain = ray.get_runtime_context().worker.mode == ray.SCRIPT_MODE
        link = RayLink(controller, "driver-" + secrets.token_hex(6), prompt_s=PROMPT_S if is_plain else 0.0)
        client = AppClient(link, {s.facts.tag: s.facts for s in setups}, client_options, app_id=plan.app_id)
        client.on_note(_Notes())
        client.start()
        has_exit_hooks = any(f.cls is not None and f.cls.has_exit_hooks for f in plan.functions.values())
        app = RayApp(self, plan.app_id, client, controller, EXIT_GRACE_S if has_exit_hooks else 0.0)
        self._apps[plan.app_id] = app
        manager = output.current()
        if manager is not None:
            manager.event(output.RunStarted(plan.app_id, plan.description, self._describe()))
            for tag in plan.functions:
                manager.event(output.ObjectCreated("function", tag))
        return app

    def _describe(self) -> str:
        return "local Ray" if self.cluster.is_own else f"Ray at {self.cluster.address}"

    def _follow_output(self) -> str:
        """Containers' lines go to the output manager of the moment; without one nobody sees them, and Ray's own remarks are muted either way."""
        from raymodal.engine.ray import logs

        if self._following is None:
            self._following = logs.follow_logs(_show_line, folder=self.cluster.session_dir)
        return self._following

    def store(self) -> StoreClient:
        return self._store

    def close(self) -> None:
        """Stop the apps that still run, the output, and the cluster if it is our own."""
        from raymodal.engine.ray import cluster, logs

        for app in list(self._apps.values()):
            if on_io_loop():
                continue
            try:
                asyncio.run_coroutine_threadsafe(app.stop(), io_loop()).result(timeout=8.0)
            except Exception:  # noqa: BLE001 - the process ends; nothing more can be done about it
                pass
        cluster.shutdown()
        if self._following is not None:
            # Last: it also mutes what Ray says of workers that end with their cluster.
            logs.stop_following()
            self._following = None


class RayApp:
    """One running app as its driver sees it. `exit_s`: what its containers' exit hooks may take at the end."""

    def __init__(self, engine: RayEngine, app_id: str, client: AppClient, controller: Any, exit_s: float) -> None:
        self.app_id = app_id
        self.client = client
        self.calls = client.calls
        self._engine = engine
        self._controller = controller
        self._exit_s = exit_s
        self._stopped = False

    def pool(self, tag: str) -> PoolClient:
        return self.client.pool(tag)

    async def stop(self, grace_s: float = 0.0) -> None:
        """End every call and container of the app. Safe to call twice."""
        import ray
        from ray.exceptions import RayError

        from raymodal.engine.ray import logs

        if self._stopped:
            return
        self._stopped = True
        self._engine._apps.pop(self.app_id, None)
        try:
            containers: list[str] = []
            async with asyncio.timeout(10.0 + grace_s + self._exit_s):
                containers = await self._controller.call.remote("stop", grace_s)
            if self._engine._following is not None and containers:
                await asyncio.to_thread(logs.wait_for_end, containers, 2.0)
        except (RayError, TimeoutError):
            pass
        finally:
            await self.client.close()
            try:
                ray.kill(self._controller)
            except Exception:  # noqa: BLE001 - it has ended already, or the cluster has
                pass


def _show_line(line: str, is_err: bool, meta: dict[str, Any]) -> None:
    manager = output.current()
    if manager is not None:
        manager.line(line, is_err=is_err, source=str(meta.get("function", "")))


class _Notes:
    """What the controller says to people, on its way to the output."""

    def __call__(self, key: str, *facts: Any) -> None:
        manager = output.current()
        if key == "containers":
            if manager is not None:
                manager.event(output.Containers(*facts))
            return
        if manager is not None:
            manager.line(f"raymodal: {facts[0]}", is_err=True, source="raymodal")
        else:
            print(f"raymodal: {facts[0]}", file=sys.stderr, flush=True)


def _plan_pools(
    plan: AppPlan, placer: Placer, *, output_address: str
) -> tuple[list[PoolSetup], dict[str, dict[str, Any]], dict[str, tuple[str, bool]], list[str]]:
    """Every function as the controller is told of it, actor options by tag, what fits nowhere, and warnings."""
    setups: list[PoolSetup] = []
    options: dict[str, dict[str, Any]] = {}
    misfits: dict[str, tuple[str, bool]] = {}
    notes: list[str] = []
    tags = {tag: facts_of(f.spec, f.object_id) for tag, f in plan.functions.items()}
    for tag, function in plan.functions.items():
        spec = function.spec
        placement = placer.place(spec)
        options[tag] = placement.options
        if placement.note is not None:
            notes.append(placement.note)
        if placement.misfit is not None:
            misfits[tag] = placement.misfit
        container = ContainerPlan(
            app_id=plan.app_id,
            app_name=plan.name or plan.description,
            container_id="",
            spec=spec,
            blob=function.by_value_blob,
            env=spec_env(spec),
            source_root=plan.source_root,
            sys_path=plan.sys_path,
            main_module=plan.main_module,
            tags=tags,
            hide_gpus=placement.hide_gpus,
            output=output_address,
            cwd=os.getcwd(),
            read_only_arrays=settings().read_only_arrays,
            cls=function.cls,
        )
        setups.append(
            PoolSetup(container, tags[tag], placement.ask, rules_of(spec), policy_of(spec, settings().autoscaler))
        )
    return setups, options, misfits, notes
