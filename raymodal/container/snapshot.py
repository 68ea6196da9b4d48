"""A container's start up to its memory snapshot, done in a process that is no container yet. No Ray here.

`take` runs the first phase of a start (`Runtime.load`: imports, the object, `enter(snap=True)`) in a template process, from which containers are
forked; in such a container `taken` hands the prepared runtime over, and only the second phase is left.

What is carried over: memory, that is modules, the object and whatever its hooks have put there, shared until written to. What is not: threads, connections,
child processes, devices, files open for writing. Where one of these exists, no snapshot is made (`engine.ray.template.snapshot` looks).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from raymodal.container import mounts
from raymodal.container.context import context_for, set_current
from raymodal.container.kinds import runtime_for
from raymodal.container.loader import free_threads, prepare_process
from raymodal.container.runtime import Runtime, Uplink
from raymodal.exception import ExecutionError
from raymodal.plan.pool import ContainerPlan

_is_taking = False
_taken: tuple[Runtime, _Later] | None = None


class _Later:
    """Stands for the container's connection until there is one."""

    def __init__(self) -> None:
        self.target: Any = None

    def __getattr__(self, name: str) -> Any:
        if self.target is None:
            raise ExecutionError(
                "Other functions, Dicts and Queues cannot be used while a memory snapshot is taken: there is no connection yet. "
                "Move the call into a hook with @modal.enter(snap=False)."
            )
        return getattr(self.target, name)


class _NoUplink:
    """Nothing runs before the snapshot, so nothing is reported or interrupted."""

    def report(self, *_: Any) -> None:
        raise AssertionError

    def interrupt(self) -> None:
        raise AssertionError

    def end_process(self, code: int) -> None:
        raise AssertionError

    def retire(self, reason: str, is_quiet: bool) -> None:
        raise AssertionError


def take(plan: ContainerPlan) -> None:
    """Do the first phase of this container's start.

    Raises:
        BaseException: whatever user code raises.
    """
    global _taken, _is_taking
    from raymodal.engine.current import set_engine

    # Before a GPU is there, as with Modal's CPU snapshots: a context made here could not be carried over.
    plan = replace(plan, hide_gpus=True)
    free_threads(plan)
    prepare_process(plan)
    mounts.mount(plan.spec.volumes)
    later = _Later()
    set_current(context_for(plan, later))
    set_engine(later)
    runtime = runtime_for(plan, _NoUplink())
    _is_taking = True
    try:
        runtime.load()
    finally:
        _is_taking = False
    runtime.close_loop()
    _taken = runtime, later


def is_taking() -> bool:
    """Whether this process is doing a first phase for a snapshot, and is no container."""
    return _is_taking


def taken(plan: ContainerPlan, uplink: Uplink, client: Any) -> Runtime | None:
    """The runtime that this process was forked with, made this container's; None if it has none for this plan.

    Args:
        plan, uplink: of the container.
        client: its connection to other functions.
    """
    global _taken
    if _taken is None:
        return None
    (runtime, later), _taken = _taken, None
    theirs = runtime.plan
    if (theirs.app_id, theirs.spec.tag) != (
        plan.app_id,
        plan.spec.tag,
    ):  # the tag says with which arguments and options
        return None
    later.target = client
    runtime.move(plan, uplink)
    _reseed()
    return runtime


def _reseed() -> None:
    """Give this copy random numbers of its own. Python's `random` does so by itself after a fork."""
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()
    torch = sys.modules.get("torch")
    if torch is not None and hasattr(torch, "seed"):
        torch.seed()
