"""`remote_gen`: a generator in a container, pulled by its caller. The same for every engine.

Each call to the container resumes the generator and brings back what it yields within a few milliseconds, at least one item; one further call waits behind
it, so that production and consumption overlap. Nobody pulling means nobody producing: back-pressure is the protocol itself. How many items one call may bring
grows while they are fast and falls to one when they are slow. Items that are ready when the next one takes long come by the side (`sealed` events).
"""

from __future__ import annotations

import asyncio
import functools
import queue
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from raymodal import wire
from raymodal.engine.client import Callee, PoolClient, Slot, caught_up
from raymodal.engine.protocol import Gone
from raymodal.engine.run import GRACE_S, AsyncInbox, Run, new_call_id, overdue_failure
from raymodal.exception import InternalFailure
from raymodal.wire import Failure

MAX_ITEMS = 1000
CLOSE_S = 1.0  # a generator that is closed may take this long to come to its next yield before it is interrupted
_monotonic = time.monotonic


class _Stream:
    """One generator call: a slot for its whole life, items in order by their sequence numbers. Used by one thread or task; `post` by any."""

    def __init__(
        self, callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any], post: Callable[[Any], None]
    ) -> None:
        self.pool = pool = callee.pool
        self._link = pool.app.link
        self._post = post
        self._method = callee.method
        self._blob, self._held = callee.encode_call(args, kwargs)
        # Only to wait for a slot and to hear `sealed`, `refuse` and `stopped` events.
        self._run = Run(pool, new_call_id(), post, kind=wire.EACH_CALL)
        self._run.add([None])
        self._run.ledger.close()
        self.slot: Slot | None = None
        self._wire_id = self._run.number << 32 | 1
        self._limit = 1
        self._pending = 0
        self._next = 0
        self._parts: dict[int, list[Any]] = {}
        self._ended_at: int | None = None
        self._closed = False
        self._is_gone_there = False
        self.losses = 0
        self.ready: deque[Any] = deque()
        self._since = 0.0

    def begin(self) -> None:
        slot = self.pool.take_free()
        if slot is None:
            self.pool.wants(self._run, 1)
            return
        self._open(slot)

    def _open(self, slot: Slot) -> None:
        self.slot = slot
        self._is_gone_there = False
        sender, call_id = self._link.client_id, self._run.call_id
        head = wire.BundleHead(
            wire.EACH_CALL, slot.epoch, self._wire_id, sender, call_id, (0, 1), None, 0.0, False, self._method
        )
        slot.inflight[self._wire_id] = _monotonic()
        if self.pool.facts.is_single_use:
            slot.use_up()
        self._submit("open_stream", (wire.encode_bundle(head, (self._blob,)), 1), self._held)

    def _submit(self, method: str, args: tuple[Any, ...], held: list[Any] | None = None) -> None:
        assert self.slot is not None
        self._pending += 1
        self._since = _monotonic()
        self.slot.submit(self._link, method, args, held or [], lambda raw: self._post(("part", raw)))

    @property
    def ended(self) -> bool:
        return self._ended_at is not None and self._next >= self._ended_at

    def pull(self) -> None:
        """Keep one call running and one behind it."""
        if self.slot is None or self._ended_at is not None or self._closed or self._is_gone_there:
            return
        while self._pending < 2 and len(self.ready) < 4 * MAX_ITEMS:
            if self._next == 0 and self._pending:
                return  # not before the generator is known to exist
            self._submit("next_stream", (self._link.client_id, self._wire_id, self._limit))

    def handle(self, event: Any) -> None:
        """One event.

        Raises:
            BaseException: the app has ended, the container was lost, or no container can be had.
        """
        kind = event[0]
        if kind == "slot":
            slots = list(self._run._slots.values())
            self._run._slots.clear()
            for slot in slots:
                if self.slot is None:
                    self._open(slot)
                else:
                    self.pool.give_back(slot)
        elif kind == "part":
            self._pending -= 1
            self._part(event[1])
        elif kind == "sealed":
            raw = event[4]
            if not isinstance(raw, Gone) and event[1] == self._wire_id:
                self._take(*wire.decode_reply(raw))
        elif kind == "refuse":
            raise wire.decode_failure(Failure(*event[1]))
        elif kind == "stopped":
            raise event[1]

    def _part(self, raw: Any) -> None:
        if isinstance(raw, Gone):
            assert self.slot is not None
            slot, self.slot = self.slot, None
            slot.revoked = slot.gone = True
            slot.inflight.clear()
            self.pool.give_back(slot)
            self._link.tell("lost", slot.container_id, raw.text)
            self._pending = 0
            if self._next == 0 and not self._parts and self.losses < self.pool.app.max_losses:
                # Nothing was delivered yet, so it can run again from the beginning.
                self.losses += 1
                self._wire_id += 1
                self.pool.wants(self._run, 1)
                return
            raise InternalFailure(
                f"The container running generator {self.pool.tag!r} went away after {self._next} items: {raw.text}. "
                "A generator cannot be resumed elsewhere; call it again."
            )
        reply, body = wire.decode_reply(raw)
        if reply.refused == "closed":
            self._is_gone_there = True
            if self._ended_at is None and not self._closed and not self._pending:
                raise InternalFailure(
                    f"Generator {self.pool.tag!r} was ended after {self._next} items, because its container ended. It cannot be resumed elsewhere; call it again."
                )
            return
        if reply.refused:
            assert self.slot is not None
            slot, self.slot = self.slot, None
            slot.epoch = max(slot.epoch, reply.epoch)
            slot.revoked = slot.revoked or reply.refused == "draining"
            slot.inflight.clear()
            self.pool.give_back(slot)
            self.pool.wants(self._run, 1)
            return
        count = reply.stop - reply.start
        if count >= self._limit:
            self._limit = min(self._limit * 4, MAX_ITEMS)
        elif count <= 1:
            self._limit = 1
        self._take(reply, body)
        if not reply.more and not reply.sealed:
            self._ended_at = reply.stop

    def _take(self, reply: wire.Reply, body: wire.Body) -> None:
        if reply.stop > reply.start:
            self._parts[reply.start] = wire.decode_values(reply, body)[0]
        while (values := self._parts.pop(self._next, None)) is not None:
            self._next += len(values)
            self.ready.extend(values)

    def overdue(self) -> bool:
        """True once the container had every chance to end the generator by itself."""
        return self._pending > 0 and _monotonic() - self._since > self.pool.facts.timeout_s + GRACE_S

    def close(self) -> None:
        """The caller wants no more, or all has arrived: let the generator run its `finally`, then give the slot back. Does not wait."""
        if self._closed:
            return
        self._closed = True
        self._run.close()
        slot = self.slot
        if slot is None:
            return
        link, pool, wire_id, client_id = self._link, self.pool, self._wire_id, self._link.client_id

        def free(raw: Any) -> None:
            slot.inflight.clear()
            if isinstance(raw, Gone):
                slot.revoked = slot.gone = True
                link.tell("lost", slot.container_id, raw.text)
            pool.give_back(slot)

        if self._ended_at is not None:
            free(None)
            return
        done: list[Any] = []

        def closed(raw: Any) -> None:
            done.append(raw)
            free(raw)

        slot.submit(link, "close_stream", (client_id, wire_id), [], closed)

        def press() -> None:
            if not done:
                link.tell("cancel", slot.container_id, client_id, wire_id)

        pool.app.later(CLOSE_S, press)


def stream_sync(callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
    """Iterate a remote generator in the calling thread. Nothing runs before the first `next`."""
    pool = callee.pool
    admitted: list[bool] = []
    ended = functools.partial(_ended, pool, admitted)
    close: Callable[[], None] = ended
    try:
        for wait_s in pool.admission(admitted):
            time.sleep(wait_s)
        inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        stream = _Stream(callee, args, kwargs, inbox.put)
        close = functools.partial(_close, stream, ended)
        stream.begin()
        while True:
            if stream.ready or stream.ended:
                pool.app.link.catch_up()
            while stream.ready:
                yield wire.raise_value(stream.ready.popleft())
            if stream.ended:
                return
            stream.pull()
            try:
                stream.handle(inbox.get(timeout=1.0 if stream.slot is not None else 60.0))
            except queue.Empty:
                _check(stream)
            while not inbox.empty():
                stream.handle(inbox.get())
    except GeneratorExit:
        close = functools.partial(pool.app.soon, close)  # see `maps.map_sync`
        raise
    finally:
        close()


async def stream_async(callee: Callee, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncIterator[Any]:
    """The same on the caller's loop."""
    pool = callee.pool
    admitted: list[bool] = []
    ended = functools.partial(_ended, pool, admitted)
    close: Callable[[], None] = ended
    try:
        for wait_s in pool.admission(admitted):
            await asyncio.sleep(wait_s)
        inbox = AsyncInbox()
        stream = _Stream(callee, args, kwargs, inbox.put)
        close = functools.partial(_close, stream, ended)
        stream.begin()
        while True:
            if stream.ready or stream.ended:
                await caught_up(pool.app.link)
            while stream.ready:
                yield wire.raise_value(stream.ready.popleft())
            if stream.ended:
                return
            stream.pull()
            if not await inbox.wait(1.0 if stream.slot is not None else 60.0):
                _check(stream)
            while (event := inbox.take()) is not None:
                stream.handle(event)
    finally:
        close()


def _close(stream: _Stream, ended: Callable[[], None]) -> None:
    try:
        stream.close()
    finally:
        ended()


def _ended(pool: PoolClient, admitted: list[bool]) -> None:
    """The call does not count any more; once."""
    if admitted:
        admitted.clear()
        pool.call_ended()


def _check(stream: _Stream) -> None:
    if stream.overdue():
        assert stream.slot is not None
        slot = stream.slot
        stream._link.tell(
            "kill",
            slot.container_id,
            f"generator '{stream.pool.tag}' ran beyond its timeout and could not be interrupted",
        )
        raise wire.decode_failure(overdue_failure(stream.pool, stream._run.call_id, slot))
