"""The reference engine: the same controller and the same containers, in threads of this process. No Ray.

For unit tests and `raymodal run --engine local`. What threads cannot give: separate memory (module state is shared with the caller), GPUs, environment variables
per function, and an end for code that cannot be interrupted (its thread is left behind).
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import queue
import secrets
import threading
from typing import Any

from raymodal import output
from raymodal._dual import io_loop, on_io_loop
from raymodal._warn import warn_of_engine
from raymodal.config import settings
from raymodal.container.context import context_for, enter_thread_container
from raymodal.container.kinds import runtime_for
from raymodal.container.watch import Watch
from raymodal.engine.client import AppClient, PoolClient
from raymodal.engine.protocol import NOT_YET, Gone, OnDone, OpenedPool, RunningApp, StoreClient
from raymodal.engine.service import ControllerService, PoolSetup, policy_of, rules_of
from raymodal.engine.store import StoreCore
from raymodal.exception import InputCancellation
from raymodal.logic.autoscale import Ask, Room
from raymodal.logic.limits import Limits
from raymodal.plan.app import AppPlan
from raymodal.plan.pool import ClientOptions, ContainerPlan, facts_of
from raymodal.plan.resources import resources_for
from raymodal.spec.function import FunctionSpec, spec_env


class _Thread:
    """A container: one thread with a queue of calls, and its side threads."""

    def __init__(self, plan: ContainerPlan, service: ControllerService, options: ClientOptions) -> None:
        self.plan = plan
        self._service = service
        self._loop = asyncio.get_running_loop()
        self._options = options
        self._calls: queue.SimpleQueue[tuple[str, tuple[Any, ...], OnDone] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self.dead = ""
        self.booted: asyncio.Future[Any] = self._loop.create_future()
        self.runtime = runtime_for(plan, self)
        self._exchanges: set[_Exchange] = set()
        self._running: OnDone | None = None
        self._thread = threading.Thread(target=self._main, name=plan.container_id, daemon=True)
        self._thread.start()
        self._control = service._spawn(self._listen())

    # --- calls

    def submit(self, method: str, args: tuple[Any, ...], on_done: OnDone) -> None:
        with self._lock:
            if not self.dead:
                if method == "exchange":
                    exchange = _Exchange(self, args, on_done)
                    self._exchanges.add(exchange)
                    exchange.start()
                    return
                self._calls.put((method, args, on_done))
                return
        on_done(Gone(self.dead))

    def _main(self) -> None:
        plan = self.plan
        client = AppClient(
            _Link(self._service, self._loop, plan.container_id),
            plan.tags,
            self._options,
            app_id=plan.app_id,
            container_id=plan.container_id,
        )
        enter_thread_container(context_for(plan, client))
        failure = self.runtime.boot()
        watch = Watch(self.runtime, f"{plan.container_id}-watch")
        self._loop.call_soon_threadsafe(_resolve, self.booted, failure)
        while (call := self._calls.get()) is not None:
            method, args, on_done = call
            self._running = on_done
            try:
                raw = getattr(self.runtime, method)(*args)
            except InputCancellation:
                continue  # an interrupt that came too late
            if self._take_running() is not None:
                on_done(raw)
        watch.close()

    def _take_running(self) -> OnDone | None:
        with self._lock:
            running, self._running = self._running, None
        return running

    def kill(self, why: str) -> None:
        """End: open calls are told, the thread is left to end by itself."""
        with self._lock:
            if self.dead:
                return
            self.dead = why
            running, self._running = self._running, None
            exchanges, self._exchanges = self._exchanges, set()
        if running is not None:
            running(Gone(why))
        for exchange in exchanges:
            exchange.end(Gone(why))
        while True:
            try:
                call = self._calls.get_nowait()
            except queue.Empty:
                break
            if call is not None:
                call[2](Gone(why))
        self._calls.put(None)
        self._control.cancel()
        if not self.booted.done():
            self._loop.call_soon_threadsafe(_resolve, self.booted, Gone(why))

    # --- uplink

    def report(
        self,
        sender: str,
        bundle_id: int,
        epoch: int,
        current: int,
        reply: bytes,
        buffers: list[Any],
        untouched: tuple[int, int],
    ) -> None:
        box = [reply, *buffers]
        asyncio.run_coroutine_threadsafe(
            self._service.sealed(sender, bundle_id, epoch, current, box, untouched), self._loop
        )

    def interrupt(self) -> None:
        # The nearest thing to a signal that threads have: it waits for the next bytecode, so it cannot break a blocking call.
        ident = self._thread.ident
        if ident is not None and self.runtime._in_user:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), ctypes.py_object(InputCancellation))

    def end_process(self, code: int) -> None:
        self.kill(f"the container ended with code {code}")
        asyncio.run_coroutine_threadsafe(self._service.lost(self.plan.container_id, self.dead), self._loop)

    def retire(self, reason: str, is_quiet: bool) -> None:
        asyncio.run_coroutine_threadsafe(self._service.retire(self.plan.container_id, reason, is_quiet), self._loop)

    def exchanged(self, exchange: _Exchange) -> None:
        with self._lock:
            self._exchanges.discard(exchange)

    async def _listen(self) -> None:
        while not self.dead:
            for command in await self._service.container_poll(self.plan.container_id):
                if command[0] == "cancel":
                    self.runtime.cancel(command[1], command[2])
                elif command[0] == "cancel_all":
                    self.runtime.refuse_more(command[1])
                    self.runtime.cancel_current(command[1], command[2])
                elif command[0] == "cancel_sender":
                    self.runtime.cancel_sender(*command[1:])
            await asyncio.sleep(0)


class _Exchange(threading.Thread):
    """One exchange with a container that runs several inputs at once. It waits, so it has a thread."""

    def __init__(self, container: _Thread, args: tuple[Any, ...], on_done: OnDone) -> None:
        super().__init__(name=f"{container.plan.container_id}-exchange", daemon=True)
        self._container = container
        self._args = args
        self._on_done: list[OnDone] = [on_done]

    def run(self) -> None:
        try:
            raw: Any = self._container.runtime.exchange(*self._args)
        except Exception as error:  # noqa: BLE001 - as on Ray: the caller hears of it as of a container's end
            raw = Gone(f"{type(error).__name__}: {error}")
        self._container.exchanged(self)
        self.end(raw)

    def end(self, raw: Any) -> None:
        try:
            on_done = self._on_done.pop()
        except IndexError:
            return  # its container was killed before
        on_done(raw)


def _resolve(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)


def _ask(spec: FunctionSpec) -> Ask:
    return Ask(min(resources_for(spec.cpu, None, ()).num_cpus, 1.0))


class _Host:
    """Containers as threads."""

    def __init__(self, options: ClientOptions) -> None:
        self.service: ControllerService | None = None
        self._options = options

    def start(self, plan: ContainerPlan, *, free: bool) -> _Thread:
        assert self.service is not None
        return _Thread(plan, self.service, self._options)

    async def ready(self, handle: _Thread) -> tuple[Any, ...] | None:
        failure = await handle.booted
        if isinstance(failure, Gone):
            raise failure
        result: tuple[Any, ...] | None = failure
        return result

    async def finish(self, handle: _Thread, reason: str) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()

        def ended(raw: Any) -> None:
            loop.call_soon_threadsafe(_resolve, done, raw)

        handle.submit("finish", (reason,), ended)
        await done

    def kill(self, handle: _Thread) -> None:
        handle.kill("the container was killed")

    async def is_alive(self, handle: _Thread) -> bool:
        return not handle.dead

    async def room(self) -> tuple[Room, int]:
        cores = os.cpu_count() or 1
        return Room(float(cores), 1 << 60, 0.0, cores), cores

    async def free(self) -> Room:
        return (await self.room())[0]

    def misfit(self, tag: str) -> tuple[str, bool] | None:
        return None

    def open_pool(self, spec: FunctionSpec) -> OpenedPool:
        return OpenedPool(_ask(spec))

    def share(self, handle: _Thread) -> _Thread:
        return handle

    def submit(self, handle: _Thread, method: str, args: tuple[Any, ...], on_done: OnDone) -> None:
        handle.submit(method, args, on_done)

    def hold(self, buffer: Any) -> Any:
        return bytes(buffer.raw())

    def fetch(self, box: Any, on_done: OnDone) -> None:
        on_done(box)


class _Link:
    """Calls within the process; the controller runs on the I/O loop."""

    def __init__(self, service: ControllerService, loop: asyncio.AbstractEventLoop, client_id: str) -> None:
        self.client_id = client_id
        self._service = service
        self._loop = loop

    def controller(self, method: str, *args: Any) -> Any:
        return getattr(self._service, method)(*args)

    def tell(self, method: str, *args: Any) -> None:
        asyncio.run_coroutine_threadsafe(getattr(self._service, method)(*args), self._loop)

    def submit(self, container: _Thread, method: str, args: tuple[Any, ...], on_done: OnDone) -> None:
        container.submit(method, args, on_done)

    def ask(self, container: _Thread, method: str, args: tuple[Any, ...], on_done: OnDone) -> Any:
        container.submit(method, args, on_done)
        return NOT_YET

    def hold(self, buffer: Any) -> Any:
        return bytes(buffer.raw())

    def fetch(self, box: Any, on_done: OnDone) -> None:
        on_done(box)

    def is_behind(self) -> bool:
        return False

    def catch_up(self) -> None:
        """Functions print to this process's own streams."""


class LocalStore:
    """Dicts and Queues of this process."""

    def __init__(self) -> None:
        self._core = StoreCore()

    async def call(self, method: str, *args: Any) -> Any:
        return await getattr(self._core, method)(*args)


class LocalEngine:
    """See `engine.protocol.Engine`."""

    name = "local"

    def __init__(self) -> None:
        self._store = LocalStore()
        self._apps: dict[str, LocalApp] = {}

    async def start_app(self, plan: AppPlan) -> RunningApp:
        snapshots = [tag for tag, f in plan.functions.items() if f.spec.enable_memory_snapshot]
        warn_of_engine("enable_memory_snapshot", snapshots)
        single_use = [tag for tag, f in plan.functions.items() if f.spec.single_use_containers]
        warn_of_engine("single_use_containers", single_use)
        warn_of_engine("volumes", [tag for tag, f in plan.functions.items() if f.spec.volumes])
        warn_of_engine("environment", [tag for tag, f in plan.functions.items() if spec_env(f.spec)])
        now = settings()
        options = ClientOptions(
            now.linger_s,
            now.max_outstanding,
            now.max_losses,
            Limits(now.max_pending, now.max_total, now.max_spawned, now.limit_wait_s),
        )
        host = _Host(options)
        tags = {tag: facts_of(f.spec, f.object_id) for tag, f in plan.functions.items()}
        setups = []
        for tag, function in plan.functions.items():
            spec = function.spec
            container = ContainerPlan(
                plan.app_id,
                plan.name or plan.description,
                "",
                spec,
                function.by_value_blob,
                {},
                plan.source_root,
                plan.sys_path,
                plan.main_module,
                tags,
                cls=function.cls,
            )
            setups.append(PoolSetup(container, tags[tag], _ask(spec), rules_of(spec), policy_of(spec, now.autoscaler)))
        service = host.service = ControllerService(
            plan.app_id, setups, host, options=options, lease_ttl_s=now.lease_ttl_s
        )
        await service.start()
        link = _Link(service, asyncio.get_running_loop(), "driver-" + secrets.token_hex(6))
        client = AppClient(link, tags, options, app_id=plan.app_id)
        client.on_note(_note)
        client.start()
        app = self._apps[plan.app_id] = LocalApp(self, plan.app_id, client, service)
        manager = output.current()
        if manager is not None:
            manager.event(output.RunStarted(plan.app_id, plan.description, "threads of this process"))
            for tag in plan.functions:
                manager.event(output.ObjectCreated("function", tag))
        return app

    def store(self) -> StoreClient:
        return self._store

    def close(self) -> None:
        for app in list(self._apps.values()):
            if not on_io_loop():
                asyncio.run_coroutine_threadsafe(app.stop(), io_loop()).result(timeout=8.0)


def _note(key: str, *facts: Any) -> None:
    manager = output.current()
    if manager is None:
        return
    if key == "containers":
        manager.event(output.Containers(*facts))
    else:
        manager.line(f"raymodal: {facts[0]}", is_err=True, source="raymodal")


class LocalApp:
    """One running app."""

    def __init__(self, engine: LocalEngine, app_id: str, client: AppClient, service: ControllerService) -> None:
        self.app_id = app_id
        self.client = client
        self.calls = client.calls
        self.service = service
        self._engine = engine

    def pool(self, tag: str) -> PoolClient:
        return self.client.pool(tag)

    async def stop(self, grace_s: float = 0.0) -> None:
        """End every call and container of the app. Safe to call twice."""
        if self._engine._apps.pop(self.app_id, None) is None:
            return
        await self.service.stop(grace_s, 2.0)
        await self.client.close()
