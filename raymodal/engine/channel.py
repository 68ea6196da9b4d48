"""One process's way to a container that runs several inputs at once. No Ray here.

A `Channel` takes what all calls of this process send to one container and exchanges it (`container.shared`): one call to the container carries whatever has gathered and
brings back whatever is ready. At most two are under way: one that waits there for outcomes and one that delivers, which sends the first home. So the number of calls
follows the time a call takes, not the number of inputs.

An input that was lost before must be *alone*: it is sent once nothing else of this process is in the container, and nothing follows until it is answered. So a
container's death can be blamed on an input here as it is where a container has one slot. (Inputs of other processes may still be there.)
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raymodal import wire
from raymodal.engine.protocol import Gone, Link, OnDone

UNDER_WAY = 2
_BEGINS = frozenset({"run", "open_stream"})
_UNSENT = wire.encode_reply(wire.Reply(0, 0, False, "draining", None, 0.0, wire.JOINT_VALUE), ())


@dataclass(slots=True)
class _Message:
    number: int
    method: str
    args: tuple[Any, ...]
    held: list[Any]
    on_done: OnDone
    on_sent: Callable[[], None] | None
    alone: bool


class GoneShared(Gone):
    """As `Gone`, to one of several inputs. `was_alone`: nothing else of this process was in the container."""

    def __init__(self, text: str, *, was_alone: bool) -> None:
        super().__init__(text)
        self.was_alone = was_alone


class Channel:
    """See the module's docstring. Any thread may use it.

    Args:
        link: of this process.
        container_id, container: as granted.
    """

    def __init__(self, link: Link, container_id: str, container: Any) -> None:
        self._link = link
        self._container_id = container_id
        self._container = container
        self._lock = threading.Lock()
        self._outbox: deque[_Message] = deque()
        self._inflight: dict[int, _Message] = {}
        self._under_way = 0
        self._next = 0
        self._alone = False  # what is in flight must be the only one
        self._gone: Gone | None = None

    def submit(
        self,
        method: str,
        args: tuple[Any, ...],
        held: list[Any],
        on_done: OnDone,
        *,
        alone: bool = False,
        on_sent: Callable[[], None] | None = None,
        later: bool = False,
    ) -> None:
        """Send a message.

        Args:
            on_done: gets its reply, or a `GoneShared`.
            alone: it must not share the container with anything else from here.
            on_sent: called as it leaves this process.
            later: more follow at once; then call `flush`.
        """
        with self._lock:
            gone = self._gone
            if gone is None:
                self._next += 1
                self._outbox.append(_Message(self._next, method, args, held, on_done, on_sent, alone))
        if gone is not None:
            on_done(_UNSENT if method in _BEGINS else gone)
        elif not later:
            self.flush()

    def flush(self) -> None:
        """Send what may be sent now."""
        with self._lock:
            batch = self._take()
        if batch is not None:
            self._exchange(batch)

    def _take(self) -> list[_Message] | None:
        """What the next exchange carries, maybe nothing but the question for outcomes; None if there is no need for one now. Under the lock."""
        if self._under_way >= UNDER_WAY or self._gone is not None:
            return None
        batch: list[_Message] = []
        held_back: deque[_Message] = deque()
        while self._outbox:
            message = self._outbox.popleft()
            if message.method in _BEGINS and (self._alone or held_back or (message.alone and self._inflight)):
                held_back.append(message)
                continue
            batch.append(message)
            self._inflight[message.number] = message
            self._alone = self._alone or message.alone
        self._outbox = held_back
        if not batch and (not self._inflight or self._under_way):
            return None
        self._under_way += 1
        return batch

    def _exchange(self, batch: list[_Message]) -> None:
        for message in batch:
            if message.on_sent is not None:
                message.on_sent()
        blob = wire.encode_messages([(m.number, m.method, m.args, len(m.held)) for m in batch])
        held = [ref for m in batch for ref in m.held]
        self._link.submit(self._container, "exchange", (self._link.client_id, blob, *held), self._returned)

    def _returned(self, raw: Any) -> None:
        if isinstance(raw, Gone):
            self._ended(raw)
            return
        blob, buffers = (raw[0], raw[1:]) if isinstance(raw, list | tuple) else (raw, ())
        done: list[tuple[OnDone, Any]] = []
        at = 0
        with self._lock:
            self._under_way -= 1
            for number, _, (reply,), count in wire.decode_messages(blob):
                own, at = buffers[at : at + count], at + count
                message = self._inflight.pop(number, None)
                if message is not None:
                    done.append((message.on_done, [reply, *own] if count else reply))
                    self._alone = self._alone and not message.alone
            batch = self._take()
        if batch is not None:
            self._exchange(batch)
        for on_done, value in done:
            on_done(value)

    def _ended(self, gone: Gone) -> None:
        with self._lock:
            if self._gone is None:
                self._gone = gone
            lost, self._inflight = self._inflight, {}
            unsent, self._outbox = self._outbox, deque()
        if not lost:
            # Who has something there says so; else nobody would, and the container be granted again.
            self._link.tell("lost", self._container_id, gone.text)
        begun = sum(1 for m in lost.values() if m.method in _BEGINS)
        for message in lost.values():
            message.on_done(GoneShared(gone.text, was_alone=begun == 1))
        for message in unsent:
            message.on_done(_UNSENT if message.method in _BEGINS else gone)
