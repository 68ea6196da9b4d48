"""What user code inside a container can ask about itself; no engine and no Ray here.

The current input is held per context (a `ContextVar`), so that threads and tasks of one container do not see each other's.
On the main thread of a plain container the fast loop sets it by hand once per input.
"""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raymodal.engine.client import PoolClient


@dataclass(slots=True)
class ContainerContext:
    """The container this process is.

    Attributes:
        app_id: `ap-...` of the running app.
        app_name: its name or description.
        container_id: `ta-...`.
        tag: of the function that this container runs.
        image_key: of the function's image, so that `image.imports()` knows whether it is inside its own.
        app: gives the `PoolClient` of any function of the same app, so that handles are live.
    """

    app_id: str
    app_name: str | None
    container_id: str
    tag: str
    app: Any = None
    image_key: str | None = None

    def pool(self, tag: str) -> PoolClient:
        pool: PoolClient = self.app.pool(tag)
        return pool

    def has(self, tag: str) -> bool:
        return bool(self.app is not None and self.app.has(tag))


class CurrentInput:
    """Which input runs here now; `ids` are made only when asked for."""

    __slots__ = ("call_id", "index")

    def __init__(self, call_id: str, index: int) -> None:
        self.call_id = call_id
        self.index = index

    @property
    def input_id(self) -> str:
        return input_id(self.call_id, self.index)


def input_id(call_id: str, index: int) -> str:
    """`in-...` of one input of a call; the same for every attempt."""
    return f"in-{call_id[3:]}-{index}" if index else f"in-{call_id[3:]}"


current_input: ContextVar[CurrentInput | None] = ContextVar("raymodal_current_input", default=None)
_context: ContainerContext | None = None


_local_override: ContextVar[ContainerContext | None] = ContextVar("raymodal_container", default=None)


def here() -> ContainerContext | None:
    """The container that this process (or, on the local engine, this thread) is; None in a driver."""
    return _local_override.get() or _context


def set_current(context: ContainerContext | None) -> None:
    global _context
    _context = context


def enter_thread_container(context: ContainerContext) -> None:
    """Local engine: this thread (and what it calls) is a container."""
    _local_override.set(context)


def is_local() -> bool:
    """True in the caller's process, False inside a container (also while the container imports the module)."""
    return here() is None


def current_input_id() -> str | None:
    """`in-...` of the input that is being run, None outside containers."""
    now = current_input.get()
    return None if now is None else now.input_id


def current_function_call_id() -> str | None:
    """`fc-...` of the call that is being run, None outside containers."""
    now = current_input.get()
    return None if now is None else now.call_id
