"""One container: a thin Ray actor around `container.runtime`.

A plain sync actor without concurrency groups: only such a one runs its methods on the process' main thread, where user code belongs, and it is also the fastest
kind. Control is answered by side threads: one polls the controller, one watches what runs; they interrupt the main thread by SIGUSR1.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayActorError, RayError

from raymodal.container import mounts, snapshot
from raymodal.container.context import context_for, set_current
from raymodal.container.kinds import runtime_for
from raymodal.container.loader import elsewhere, free_threads, prepare_process
from raymodal.container.watch import Watch
from raymodal.engine.current import set_engine
from raymodal.engine.ray.inside import ContainerEngine
from raymodal.engine.ray.link import RayLink
from raymodal.engine.ray.logs import attach_output, end_output
from raymodal.engine.ray.template.node import own_folder
from raymodal.engine.source import unpack
from raymodal.plan.pool import ClientOptions, ContainerPlan

if TYPE_CHECKING:
    from raymodal.engine.client import AppClient

GROUP = "exchange"  # threads of `SharedContainer`
INLINE_REPORT = 64 * 1024
EXIT_S = 3.0
SNAPSHOT_S = 600.0


class RayUplink:
    """How a container's side thread reaches the holder of a bundle and the main thread."""

    def __init__(self, controller: Any, container_id: str) -> None:
        self._controller = controller
        self._container_id = container_id
        self._boxes: deque[Any] = deque(
            maxlen=256
        )  # an object dies with its last reference, so these outlive their fetch
        self._main = threading.main_thread().ident
        self._last: Any = None

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
        box: Any = reply
        if buffers or len(reply) > INLINE_REPORT:
            ref = ray.put([reply, *buffers])
            self._boxes.append(ref)
            box = [ref]
        self._last = self._controller.call.remote("sealed", sender, bundle_id, epoch, current, box, untouched)

    def interrupt(self) -> None:
        if self._main is not None:
            signal.pthread_kill(self._main, signal.SIGUSR1)

    def end_process(self, code: int) -> None:
        if self._last is not None:
            try:
                ray.get(self._last, timeout=2.0)
            except RayError:
                pass
        end_output(self._container_id)
        os._exit(code)

    def retire(self, reason: str, is_quiet: bool) -> None:
        self._controller.call.remote("retire", self._container_id, reason, is_quiet)


class _LazyClient:
    """This container as a caller, made when user code first calls another function: most containers never do, and it costs their start."""

    def __init__(self, plan: ContainerPlan, link: RayLink, options: ClientOptions) -> None:
        self._made: AppClient | None = None
        self._lock = threading.Lock()
        self._plan, self._link, self._options = plan, link, options

    def has(self, tag: str) -> bool:
        return tag in self._plan.tags

    def __getattr__(self, name: str) -> Any:
        with self._lock:
            if self._made is None:
                from raymodal.engine.client import AppClient

                plan = self._plan
                self._made = AppClient(
                    self._link, plan.tags, self._options, app_id=plan.app_id, container_id=plan.container_id
                )
        return getattr(self._made, name)


class Container:
    """The actor class for functions that run one input at a time.

    Args:
        plan, app_options: plain data; the plan `as_recorded`, since Ray keeps what an actor is made with.
        controller: of the app.
        archive: the program's modules, for nodes that do not have them.
    """

    def __init__(
        self, plan: ContainerPlan, controller: Any, app_options: ClientOptions, archive: bytes | None = None
    ) -> None:
        is_elsewhere = archive is not None and plan.source_root and not os.path.isdir(plan.source_root)
        self._root = unpack(archive) if archive is not None and is_elsewhere else None
        self._plan = plan = self._placed(plan)
        gc.disable()  # until the user's code is imported: imports make much that lives for ever, and collections in between find nothing
        free_threads(plan)
        attach_output(plan.output, plan.container_id, {"function": plan.spec.tag})
        self._controller = controller
        uplink = RayUplink(controller, plan.container_id)
        self._client = _LazyClient(plan, RayLink(controller, plan.container_id), app_options)
        # Forked with the first phase of its start behind it, where there is a memory snapshot.
        prepared = snapshot.taken(plan, uplink, self._client)
        self._has_snapshot = prepared is not None
        self._runtime = prepared or runtime_for(plan, uplink)
        self._watch: Watch | None = None

    def __repr__(self) -> str:
        return f"raymodal:{self._plan.container_id}"

    def _placed(self, plan: ContainerPlan) -> ContainerPlan:
        return plan if self._root is None else elsewhere(plan, self._root)

    def boot(self, plan: ContainerPlan) -> tuple[Any, ...] | None:
        """Load the user's code and run its enter hooks. Returns a packed `wire.Failure` if that raises.

        Args:
            plan: the whole one; the constructor's was `as_recorded`.
        """
        self._plan = plan = self._placed(plan)
        self._runtime.learn(plan)
        prepare_process(plan)
        signal.signal(signal.SIGUSR1, lambda *_: self._runtime.on_interrupt())
        set_current(context_for(plan, self._client))
        set_engine(ContainerEngine())
        threading.Thread(target=self._listen, name="raymodal-control", daemon=True).start()
        self._runtime.when_imported = gc.enable
        try:
            failure = mounts.failure_of(plan) or self._runtime.boot()
        finally:
            gc.enable()
            sys.stdout.flush()
            sys.stderr.flush()
        if failure is None:
            self._watch = Watch(self._runtime)
            if plan.spec.enable_memory_snapshot and not self._has_snapshot:
                threading.Thread(target=self._ask_for_snapshot, name="raymodal-snapshot", daemon=True).start()
        return failure

    def _ask_for_snapshot(self) -> None:
        """The next containers of this function on this node start from what this one's first phase has made."""
        from raymodal.engine.ray.template import snapshot as of_node

        plan = self._plan
        reason = of_node.ask(own_folder(), plan, list(sys.path), plan.spec.startup_timeout_s or SNAPSHOT_S)
        if reason is not None:
            name = plan.spec.tag if plan.cls is None else plan.cls.tag
            print(
                f"raymodal: {name!r} starts without a memory snapshot on this node: {reason}.",
                file=sys.stderr,
                flush=True,
            )

    def run(self, blob: bytes, *buffers: Any) -> Any:
        return self._runtime.run(blob, *buffers)

    def open_stream(self, blob: bytes, limit: int, *buffers: Any) -> Any:
        return self._runtime.open_stream(blob, limit, *buffers)

    def next_stream(self, sender: str, bundle_id: int, limit: int) -> Any:
        return self._runtime.next_stream(sender, bundle_id, limit)

    def close_stream(self, sender: str, bundle_id: int) -> Any:
        return self._runtime.close_stream(sender, bundle_id)

    def ping(self) -> bool:
        return True

    def finish(self, reason: str) -> bool:
        """Drain, run the exit hooks, get ready to end; the controller ends the process afterwards."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._runtime.finish(reason)
        mounts.leave()
        sys.stdout.flush()
        sys.stderr.flush()
        end_output(self._plan.container_id)
        return True

    def _listen(self) -> None:
        """Control thread: commands from the controller, for as long as it lives."""
        while True:
            try:
                commands = ray.get(self._controller.call.remote("container_poll", self._plan.container_id))
            except RayActorError:
                time.sleep(EXIT_S)
                os._exit(0)  # without a controller nobody can reach or need this container
            except RayError:
                time.sleep(1.0)
                continue
            for command in commands:
                if command[0] == "cancel":
                    self._runtime.cancel(command[1], command[2])
                elif command[0] == "cancel_all":
                    self._runtime.refuse_more(command[1])
                    self._runtime.cancel_current(command[1], command[2])
                elif command[0] == "cancel_sender":
                    self._runtime.cancel_sender(*command[1:])
                elif command[0] == "exit":
                    time.sleep(
                        EXIT_S
                    )  # the controller ends this process by Ray's own means, which leaves no report of a crash; this is for when it fails
                    os._exit(0)


class SharedContainer(Container):
    """The actor class for functions that run several inputs at once.

    Its exchanges have a group of threads, because each waits for outcomes. With `max_concurrency=0` everything else stays on the main thread, which
    imports the user's code and runs its hooks; it must be idle while inputs run, since Ray hands calls to the threads from there.
    """

    @ray.method(concurrency_group=GROUP)  # type: ignore[untyped-decorator]
    def exchange(self, sender: str, blob: bytes, *buffers: Any) -> Any:
        return self._runtime.exchange(sender, blob, *buffers)
