"""Calls between processes on Ray: to the controller, to containers, and large buffers through the object store.

Two rules of Ray 2.60 that this file keeps (DESIGN.md, data path): a completion callback runs on Ray's own I/O thread, so it only hands on; and it does not keep
its ObjectRef, whose loss before a large result arrives aborts the process, so the callback holds it. And one of this project's: once this process has left its
cluster nothing is called, because Ray would answer the call by joining whatever cluster it finds on this machine.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayActorError, RayError, RaySystemError, RayTaskError

from raymodal import wire
from raymodal.engine.protocol import NOT_YET, Gone, OnDone
from raymodal.engine.ray import logs
from raymodal.exception import Error

UNSENT = wire.encode_reply(wire.Reply(0, 0, False, "unsent", None, 0.0, wire.JOINT_VALUE), ())
LEFT = "this process has left the cluster"


def gone_text(error: BaseException) -> str:
    """What Ray knows of an actor's end, in one line."""
    text = str(error).strip()
    for line in text.splitlines():
        if "exit" in line.lower() and ("code" in line.lower() or "signal" in line.lower() or "kill" in line.lower()):
            return line.strip()
    return text.splitlines()[0] if text else type(error).__name__


def submit(handle: Any, method: str, args: tuple[Any, ...], on_done: OnDone) -> None:
    """Call an actor; `on_done` gets the reply's bytes or a `Gone`. Any thread."""
    if not ray.is_initialized():
        on_done(Gone(LEFT))
        return
    try:
        notify(getattr(handle, method).remote(*args), on_done)
    except BaseException:
        # An interrupt, while Ray's own code ran: whoever waits for the end of this call must hear of one.
        on_done(UNSENT)
        raise


def notify(ref: Any, on_done: OnDone) -> None:
    """`on_done` gets what a reference stands for, or a `Gone`."""

    def completed(value: Any, ref: Any = ref) -> None:
        on_done(Gone(gone_text(value)) if isinstance(value, RayError) else value)

    ref._on_completed(completed)


def fetch(box: Any, on_done: OnDone) -> None:
    """Get what a container put away: bytes as they are, or a list holding one ObjectRef."""
    if not isinstance(box, list):
        on_done(box)
        return
    notify(box[0], on_done)


class RayLink:
    """A process's way to one app's controller and its containers.

    Args:
        prompt_s: how long `ask` waits by itself. In plain drivers only: in a container an interrupt may be meant for the
            thread that waits, and whoever runs in an actor or a task would give its CPUs back to Ray meanwhile.
    """

    def __init__(self, controller: Any, client_id: str, *, prompt_s: float = 0.0) -> None:
        self.client_id = client_id
        self._prompt_s = prompt_s
        self._controller = controller

    def controller(self, method: str, *args: Any) -> Awaitable[Any]:
        return self._call(method, args)

    async def _call(self, method: str, args: tuple[Any, ...]) -> Any:
        if not ray.is_initialized():
            raise Gone(LEFT)
        try:
            return await self._controller.call.remote(method, *args)
        except RayActorError as error:
            raise Gone(gone_text(error)) from None
        except RayTaskError as error:
            if isinstance(error.cause, Error):
                raise error.cause from None  # Ray's own class for it has the controller's traceback in its text
            raise

    def tell(self, method: str, *args: Any) -> None:
        with contextlib.suppress(RaySystemError):  # the connection is being closed in another thread
            if ray.is_initialized():
                self._controller.call.remote(method, *args)

    def submit(self, container: Any, method: str, args: tuple[Any, ...], on_done: OnDone) -> None:
        submit(container, method, args, on_done)

    def ask(self, container: Any, method: str, args: tuple[Any, ...], on_done: OnDone) -> Any:
        """As `Link.ask`. `ray.get` wakes its caller without a detour by another thread (a tenth of a call), but looks at signals only in the end: so not for long."""
        if not self._prompt_s:
            submit(container, method, args, on_done)
            return NOT_YET
        if not ray.is_initialized():
            return Gone(LEFT)
        ref = None
        try:
            ref = getattr(container, method).remote(*args)
            return ray.get(ref, timeout=self._prompt_s)
        except GetTimeoutError:
            notify(ref, on_done)
            return NOT_YET
        except RayError as error:
            return Gone(gone_text(error))
        except BaseException as error:
            if ref is None:
                on_done(UNSENT)
            else:
                notify(ref, on_done)
            if isinstance(error, SystemError) and error.__cause__ is not None:
                raise error.__cause__ from None  # a signal handler's, which Ray has found beside its own
            raise

    def hold(self, buffer: Any) -> Any:
        return ray.put(buffer)

    def fetch(self, box: Any, on_done: OnDone) -> None:
        fetch(box, on_done)

    def is_behind(self) -> bool:
        return logs.is_behind()

    def catch_up(self) -> None:
        logs.catch_up()
