"""What user code inside a container can ask about itself; no engine and no Ray here.

The current input is held per context (a `ContextVar`), so that threads and tasks of one container do not see each other's.
On the main thread of a plain container the fast loop sets it by hand once per input.
"""

from __future__ import annotations

import contextlib
import weakref
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raymodal.engine.client import PoolClient
    from raymodal.plan.pool import ContainerPlan, PoolRequest
    from raymodal.spec.function import FunctionSpec


@dataclass(slots=True)
class ContainerContext:
    """The container this process is.

    Attributes:
        app_id: `ap-...` of the running app.
        app_name: its name or description.
        container_id: `ta-...`.
        tag: of the function that this container runs, whatever its options; for a class `Name.*`, whatever the object's arguments.
        image_key: of the function's image, so that `image.imports()` knows whether it is inside its own.
        lanes: says how many inputs the container runs at once, and changes it; None where it is always one.
        retire: has the container take nothing more and end after what it runs.
        app: gives the `PoolClient` of any function of the same app, so that handles are live.
    """

    app_id: str
    app_name: str | None
    container_id: str
    tag: str
    app: Any = None
    image_key: str | None = None
    lanes: Any = None
    retire: Any = None

    def pool(self, tag: str) -> PoolClient:
        pool: PoolClient = self.app.pool(tag)
        return pool

    def has(self, tag: str) -> bool:
        return bool(self.app is not None and self.app.has(tag))


@dataclass(slots=True, frozen=True)
class Owner:
    """Whose object a container's is: the pool that calls of its own methods (`self.other.remote()`) go to.

    Attributes:
        app: of the container.
        spec: of that pool.
        request: None for the class's own pool.
    """

    app: Any
    app_id: str
    spec: FunctionSpec
    request: PoolRequest | None
    specs: dict[str, FunctionSpec] = field(default_factory=dict)  # of its methods, by name

    def pool(self) -> PoolClient:
        pool: PoolClient = self.app.pool(self.spec.tag, self.request)
        return pool


_owners: dict[int, tuple[weakref.ref[Any], Any]] = {}
"""Owners of the users' objects that were made here, by identity: such an object may be unhashable, and must stay as its class made it."""


def adopt(instance: Any, owner: Any) -> None:
    """Note to which pool the methods of an object belong. Objects that cannot be referred to weakly are not noted."""
    key = id(instance)
    with contextlib.suppress(TypeError):
        _owners[key] = (weakref.ref(instance, lambda _: _owners.pop(key, None)), owner)


def owner_of(instance: Any) -> Any:
    """What `adopt` was given, or None."""
    found = _owners.get(id(instance))
    return found[1] if found is not None and found[0]() is instance else None


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


def context_for(plan: ContainerPlan, app: Any) -> ContainerContext:
    """The context of a container that is told `plan` and calls others through `app`."""
    tag = plan.spec.tag if plan.request is None else plan.request.base
    image_key = plan.spec.image.key if plan.spec.image is not None else None
    return ContainerContext(plan.app_id, plan.app_name, plan.container_id, tag, app, image_key)


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
