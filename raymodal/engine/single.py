"""`remote()`: one input. With a free slot it is one call to a container and one lock; anything unusual goes on as a `Run`."""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

from raymodal import wire
from raymodal.engine.client import PoolClient, Slot, caught_up
from raymodal.engine.protocol import NOT_YET, Gone
from raymodal.engine.run import (
    GRACE_S,
    AsyncInbox,
    Encoded,
    Run,
    new_call_id,
    overdue_failure,
    take_events,
    take_events_async,
)
from raymodal.logic.chunks import BUDGET_S
from raymodal.wire import Failure

_monotonic = time.monotonic
PROMPT_S = 0.01  # a function whose last input took less is waited for by `Link.ask`
_ABANDONED = object()


class OneCall:
    """`remote()`: one input. With a free slot it is one call to a container and one lock; anything unusual goes on as a `Run`."""

    __slots__ = ("_blob", "_held", "_method", "_pool", "call_id")

    def __init__(
        self, pool: PoolClient, blob: bytes, held: list[Any], method: str = "", call_id: str | None = None
    ) -> None:
        self._pool = pool
        self._method = method
        self._blob = blob
        self._held = held
        self.call_id = call_id or new_call_id()

    def _bundle(self, slot: Slot) -> bytes:
        """What the container is sent."""
        link = self._pool.app.link
        head = wire.BundleHead(
            wire.EACH_CALL, slot.epoch, 0, link.client_id, self.call_id, (0, 1), None, BUDGET_S, False, self._method
        )
        head.bundle_id = self._pool.app.next_single()
        slot.inflight[head.bundle_id] = _monotonic()
        if self._pool.facts.is_single_use:
            slot.use_up()
        return wire.encode_bundle(head, (self._blob,))

    def wait(self) -> Any:
        """Run it in the calling thread.

        Raises:
            BaseException: what the input raised, or what kept it from running.
        """
        pool = self._pool
        slot = pool.take_free()
        if slot is None or pool.app.stopped is not None:
            if slot is not None:
                pool.give_back(slot)
            return self._slowly(None, None)
        box: list[Any] = []
        lock = threading.Lock()
        lock.acquire()

        def on_done(raw: Any) -> None:
            box.append(raw)
            if box[0] is _ABANDONED:
                self._came_late(slot, raw)
            else:
                lock.release()

        link = pool.app.link
        raw: Any = NOT_YET
        done = is_sent = False
        # An interrupt may come anywhere from here on, and the slot must come back exactly once.
        try:
            blob = self._bundle(slot)
            is_sent = True
            if pool.is_prompt and slot.channel is None:
                raw = link.ask(slot.container, "run", (blob, *self._held), on_done)
            else:
                slot.submit(link, "run", (blob,), self._held, on_done)
            done = raw is not NOT_YET or lock.acquire(
                timeout=min(pool.facts.patience_s + GRACE_S, threading.TIMEOUT_MAX)
            )
        except BaseException:
            if is_sent and raw is NOT_YET:
                self._abandon(slot, box)
            else:
                slot.inflight.clear()
                pool.give_back(slot)
            raise
        if not done:
            self._abandon(slot, box, kill=True)
            return self._after_failure(slot, overdue_failure(pool, self.call_id, slot))
        return self._finish(slot, box[0] if raw is NOT_YET else raw)

    def _finish(self, slot: Slot, raw: Any) -> Any:
        reply, body = self._settled(slot, raw)
        self._pool.app.link.catch_up()
        if reply is None:
            return self._slowly(raw, None)
        if wire.take_lost(reply) or reply.refused or reply.stop - reply.start != 1:
            return self._slowly(None, None)
        if reply.failures:
            return self._after_failure(slot, reply.failures[0])
        try:
            return body[0]
        except Exception as error:
            raise wire.explain_undecodable(error) from error

    def _settled(self, slot: Slot, raw: Any) -> tuple[wire.Reply | None, Any]:
        """The slot has its answer and is others' to use, whatever interrupts this; no reply if its container is lost."""
        try:
            slot.inflight.clear()
            if isinstance(raw, Gone):
                slot.revoked = slot.gone = True
                self._pool.app.link.tell("lost", slot.container_id, raw.text)
                return None, None
            reply, body = wire.decode_reply(raw)
            slot.epoch = max(slot.epoch, reply.epoch)
            if reply.refused == "draining":
                slot.revoked = True
            self._pool.is_prompt = reply.elapsed_s < PROMPT_S
            return reply, body
        finally:
            self._pool.give_back(slot)

    def _after_failure(self, slot: Slot, failure: Failure) -> Any:
        if failure.kind != wire.CANCELLED and self._pool.facts.retries is not None:
            return self._slowly(None, failure)
        raise wire.decode_failure(failure)

    def _abandon(self, slot: Slot, box: list[Any], *, kill: bool = False) -> None:
        """Give up waiting. The slot is free again when its container answers; `list.append` decides who came first."""
        link = self._pool.app.link
        box.append(_ABANDONED)
        if box[0] is not _ABANDONED:
            self._came_late(slot, box[0])
        elif kill:
            link.tell(
                "kill",
                slot.container_id,
                f"an input of '{self._pool.tag}' ran beyond its timeout and could not be interrupted",
            )
        else:
            for bundle_id in list(slot.inflight):
                link.tell("cancel", slot.container_id, link.client_id, bundle_id)

    def _came_late(self, slot: Slot, raw: Any) -> None:
        slot.inflight.clear()
        if isinstance(raw, Gone):
            slot.revoked = slot.gone = True
            self._pool.app.link.tell("lost", slot.container_id, raw.text)
        self._pool.give_back(slot)

    def _slowly(self, lost: Gone | None, failure: Failure | None) -> Any:
        admitted: list[bool] = []
        try:
            for wait_s in self._pool.admission(admitted, again=lost is not None or failure is not None):
                time.sleep(wait_s)
            inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
            run = self._run(inbox.put, lost, failure)
            try:
                run.send_all()
                while not run.delivered:
                    take_events(run, inbox)
                    run.send_all()
                self._pool.app.link.catch_up()
                return self._value(run)
            finally:
                run.close()
        finally:
            if admitted:
                self._pool.call_ended()

    def _run(self, post: Callable[[Any], None], lost: Gone | None, failure: Failure | None) -> Run:
        run = Run(self._pool, self.call_id, post, kind=wire.EACH_CALL, method=self._method)
        run.add([Encoded(self._blob, self._held or None)])
        run.ledger.close()
        if lost is not None or failure is not None:
            run.replay(lost, failure)
        return run

    def _value(self, run: Run) -> Any:
        _, values, _ = run.delivered.popleft()
        return wire.raise_value(values[0])

    async def wait_async(self) -> Any:
        """The same on the caller's loop."""
        pool = self._pool
        slot = pool.take_free()
        if slot is None or pool.app.stopped is not None:
            if slot is not None:
                pool.give_back(slot)
            return await self._slowly_async(None, None)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        box: list[Any] = []

        def on_done(raw: Any) -> None:
            box.append(raw)
            try:
                if box[0] is not _ABANDONED:
                    loop.call_soon_threadsafe(_set, future, raw)
                    return
            except RuntimeError:
                pass  # the caller's loop is closed
            self._came_late(slot, raw)

        is_sent = False
        try:
            blob = self._bundle(slot)
            is_sent = True
            slot.submit(pool.app.link, "run", (blob,), self._held, on_done)
            async with asyncio.timeout(pool.facts.patience_s + GRACE_S):
                raw = await future
        except TimeoutError:
            self._abandon(slot, box, kill=True)
            return await self._after_failure_async(overdue_failure(pool, self.call_id, slot))
        except BaseException:
            if is_sent:
                self._abandon(slot, box)
            else:
                slot.inflight.clear()
                pool.give_back(slot)
            raise
        reply, body = self._settled(slot, raw)
        await caught_up(self._pool.app.link)
        if reply is None:
            return await self._slowly_async(raw, None)
        if wire.take_lost(reply) or reply.refused or reply.stop - reply.start != 1:
            return await self._slowly_async(None, None)
        if reply.failures:
            return await self._after_failure_async(reply.failures[0])
        try:
            return body[0]
        except Exception as error:
            raise wire.explain_undecodable(error) from error

    async def _after_failure_async(self, failure: Failure) -> Any:
        if failure.kind != wire.CANCELLED and self._pool.facts.retries is not None:
            return await self._slowly_async(None, failure)
        raise wire.decode_failure(failure)

    async def _slowly_async(self, lost: Gone | None, failure: Failure | None) -> Any:
        admitted: list[bool] = []
        try:
            for wait_s in self._pool.admission(admitted, again=lost is not None or failure is not None):
                await asyncio.sleep(wait_s)
            inbox = AsyncInbox()
            run = self._run(inbox.put, lost, failure)
            try:
                run.send_all()
                while not run.delivered:
                    await take_events_async(run, inbox)
                    run.send_all()
                await caught_up(self._pool.app.link)
                return self._value(run)
            finally:
                run.close()
        finally:
            if admitted:
                self._pool.call_ended()


def _set(future: asyncio.Future[Any], value: Any) -> None:
    if not future.done():
        future.set_result(value)
