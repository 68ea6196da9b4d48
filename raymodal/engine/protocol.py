"""What the rooms above and below the engine agree on. No Ray types appear here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from raymodal.logic.autoscale import Ask, Room
from raymodal.plan.pool import ContainerPlan
from raymodal.spec.function import FunctionSpec

if TYPE_CHECKING:
    from raymodal.engine.client import AppClient, PoolClient
    from raymodal.plan.app import AppPlan


class Gone(Exception):
    """The other side of a call (a container, the controller) has ended. `text` says what is known of why."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


OnDone = Callable[[Any], None]
"""Called once, on any thread, with a reply (bytes, or a list of bytes and buffers) or a `Gone`. It must not block nor run user code."""


class NotYet:
    """What `Link.ask` returns if there is no answer yet."""


NOT_YET = NotYet()


class Link(Protocol):
    """A caller's way to the controller and to containers."""

    client_id: str

    def controller(self, method: str, *args: Any) -> Awaitable[Any]:
        """Call the controller from the I/O loop. Raises `Gone` once it has ended."""

    def tell(self, method: str, *args: Any) -> None:
        """Call the controller from any thread without waiting for the answer."""

    def submit(self, container: Any, method: str, args: tuple[Any, ...], on_done: OnDone) -> None:
        """Call a container from any thread."""

    def ask(self, container: Any, method: str, args: tuple[Any, ...], on_done: OnDone) -> Any:
        """Call a container and maybe wait here for a moment: its reply, a `Gone`, or `NOT_YET`, and then `on_done` gets it.

        Raises:
            BaseException: what a signal handler raised; `on_done` gets the reply all the same.
        """

    def hold(self, buffer: Any) -> Any:
        """Put a large buffer where containers can reach it; what is returned may be sent any number of times."""

    def fetch(self, box: Any, on_done: OnDone) -> None:
        """Get what a container put away for this caller."""

    def is_behind(self) -> bool:
        """Something of that is not shown yet. Never waits."""

    def catch_up(self) -> None:
        """Let what containers printed be shown before the outcome of the call that printed it is the caller's, where the engine can. Waits at most for a moment."""


@dataclass(frozen=True, slots=True)
class OpenedPool:
    """What a pool that the app's plan does not name asks of the cluster. `note` is for people."""

    ask: Ask
    hide_gpus: bool = True
    note: str | None = None


class Host(Protocol):
    """What the controller needs to keep containers: the difference between Ray and threads."""

    def start(self, plan: ContainerPlan, *, free: bool) -> Any:
        """Begin to start a container; returns its handle at once. `free`: without a share of CPU and memory."""

    async def ready(self, handle: Any) -> tuple[Any, ...] | None:
        """Wait until it has loaded the user's code. Returns a packed `wire.Failure` if that raised; raises `Gone` if it died."""

    async def finish(self, handle: Any, reason: str) -> None:
        """Let it run its exit hooks and end. Raises `Gone` when it has ended already."""

    def kill(self, handle: Any) -> None:
        """End it now."""

    async def is_alive(self, handle: Any) -> bool:
        """True unless it is known to have ended. May wait for it to become idle."""

    async def room(self) -> tuple[Room, int]:
        """What the cluster has for our containers, and how many cores its nodes have together."""

    async def free(self) -> Room:
        """What nobody on the cluster uses now, other apps included. For people: it is late by some tenths of a second."""

    def misfit(self, tag: str) -> tuple[str, bool] | None:
        """Why no node could ever hold a container of `tag`, and whether the cluster could grow one; None if one could."""

    def open_pool(self, spec: FunctionSpec) -> OpenedPool:
        """From now on containers with these settings may be started under `spec.tag`."""

    def submit(self, handle: Any, method: str, args: tuple[Any, ...], on_done: OnDone) -> None:
        """Call a container from the controller."""

    def hold(self, buffer: Any) -> Any:
        """As `Link.hold`."""

    def fetch(self, box: Any, on_done: OnDone) -> None:
        """As `Link.fetch`."""

    def share(self, handle: Any) -> Any:
        """The handle as it travels to callers."""


class RunningApp(Protocol):
    """One app between start and stop, as its driver sees it."""

    app_id: str
    client: AppClient

    def pool(self, tag: str) -> PoolClient: ...

    async def stop(self, grace_s: float = 0.0) -> None:
        """End the app; spawned calls that still run may take `grace_s`."""


class StoreClient(Protocol):
    async def call(self, method: str, *args: Any) -> Any:
        """Run `StoreCore.<method>(*args)` wherever the store lives; raises its exceptions."""


class Engine(Protocol):
    """What carries plans out."""

    name: str

    async def start_app(self, plan: AppPlan) -> RunningApp: ...

    def store(self) -> StoreClient: ...

    def close(self) -> None:
        """Stop everything this process started. Blocking; safe to call twice."""
