"""One call of many inputs: inputs into bundles, bundles to slots, outcomes back. The same for every engine.

`Run` is the shell around `logic.ledger` and `logic.chunks`. One thread or task at a time uses it (its *pump*); everything that arrives from elsewhere (slots,
replies, what was sealed) is posted to its inbox, except what concerns slots, which is settled in the thread that brings it. `maps` pumps it in the caller's
thread or on the caller's loop, `single` for a `remote()` that did not go straight through, and the controller for spawned calls.
"""

from __future__ import annotations

import asyncio
import queue
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from raymodal import output, wire
from raymodal.engine.channel import Channel, GoneShared
from raymodal.engine.client import PoolClient, Slot
from raymodal.engine.protocol import Gone
from raymodal.logic.chunks import BUDGET_S, Sizer
from raymodal.logic.ledger import Ledger, Take, loss_text
from raymodal.wire import Failure

_monotonic = time.monotonic
IN_FLIGHT_BYTES = 64 * 1024 * 1024
GRACE_S = 8.0  # beyond its timeout a bundle may take this long until its container is killed from outside: the container's own grace and then some
START_S = 0.5  # about what a container takes to start; one is worth it only if that much work is left for it
LATE_S = 0.15  # a bundle of short inputs that takes longer has one that is not
SHARED_AHEAD_S = 0.25  # inputs this short may wait in a container that runs several at once
PARTED_S = 10.0  # how long the two halves of a sealed bundle may arrive apart


def new_call_id() -> str:
    return "fc-" + secrets.token_hex(11)


class Encoded:
    """An input that is pickled already; what is not wrapped is an immutable primitive."""

    __slots__ = ("blob", "held")

    def __init__(self, blob: bytes, held: list[Any] | None = None) -> None:
        self.blob = blob
        self.held = held  # large buffers, held where containers reach them


class _Sent:
    __slots__ = ("epoch", "items", "n_bytes", "sealable", "slot", "take")

    def __init__(self, take: Take, slot: Slot, items: list[Any], n_bytes: int, sealable: bool) -> None:
        self.epoch = slot.epoch
        self.sealable = sealable  # its container takes it apart if an input overruns, and frees what is queued behind
        self.take = take
        self.slot = slot
        self.items = items
        self.n_bytes = n_bytes


class Run:
    """One call with any number of inputs.

    Args:
        post: puts an event into the pump's inbox; called from any thread.
        kind: of the inputs: `wire.JOINT_VALUE` for single values, `wire.JOINT_ARGS` for argument tuples, `wire.EACH_CALL` for (args, kwargs).
        kwargs: pickled keyword arguments for every input.
        raw: deliver outcomes as they came (controller) instead of decoded.
        one_by_one: never put two inputs into a bundle.
        method: which method of a class; empty for functions.
    """

    def __init__(
        self,
        pool: PoolClient,
        call_id: str,
        post: Callable[[Any], None],
        *,
        kind: str,
        kwargs: bytes | None = None,
        raw: bool = False,
        one_by_one: bool = False,
        method: str = "",
    ) -> None:
        self.pool = pool
        self.app = pool.app
        self.call_id = call_id
        self.ledger = Ledger(pool.facts.retries, self.app.max_losses)  # type: ignore[arg-type]
        self.sizer = Sizer()
        self.wants_slots = 0
        self.lasting_slots = 0  # of those, the ones worth starting a container for
        self.hint: int | None = None  # inputs not drawn yet, where the source knows
        self.delivered: deque[tuple[Any, Any, bool]] = deque()  # (indices, values, all of them are values)
        self._post = post
        self._post_lock = threading.Lock()
        self._kind = kind
        self._kwargs = kwargs
        self._raw = raw
        # A container that runs several inputs at once decides itself which of them run; bundles would tie them together.
        self._one_by_one = one_by_one or pool.facts.is_shared or pool.facts.is_single_use
        self._method = method
        self._fresh: deque[Any] = deque()
        self._kept: dict[int, Any] = {}  # inputs that may have to be sent again
        self._slots: dict[int, Slot] = {}
        self._sent: dict[int, _Sent] = {}
        self._stuck: set[int] = set()  # bundles that were sealed and whose input still runs
        self._parted: dict[int, tuple[float, _Sent]] = {}
        self._to_flush: set[Channel] = set()
        self._refusal: Failure | None = None
        self._in_flight_bytes = 0
        self._avg_bytes = 0.0
        self._closed = False
        self._paused = False
        self._told = 0.0
        self.number = self.app.register(self)  # from here on other threads know it
        if self.app.stopped is not None:
            self.post(("stopped", self.app.stopped))

    # --- any thread

    def post(self, event: Any) -> None:
        """Something happened. What concerns slots is settled here at once, because the pump may not look for long: its consumer has the thread."""
        if event[0] == "reply":
            event = self._settle_slot(event[1], event[2])
        with self._post_lock:
            if not self._closed:
                self._post(event)

    def offer(self, slot: Slot) -> bool:
        """A slot for this run; False if it cannot use one now."""
        with self._post_lock:
            if self._closed or self._paused:
                return False
            self._slots[slot.lease_id] = slot
            self._post(("slot",))
            return True

    def _settle_slot(self, wire_id: int, raw: Any) -> Any:
        sent = self._sent.get(wire_id)
        if sent is None:
            return ("reply", wire_id, raw, False)
        slot = sent.slot
        idle = False
        with self._post_lock:
            # One that was never the first in line has not run, so it is not to blame for a loss.
            was_alone = len(slot.inflight) == 1 and slot.inflight.get(wire_id, 0.0) > 0.0
            if isinstance(raw, GoneShared):
                was_alone = raw.was_alone
            slot.inflight.pop(wire_id, None)
            if isinstance(raw, Gone):
                slot.revoked = slot.gone = True
            else:
                for other in slot.inflight:
                    slot.inflight[other] = _monotonic()
                    break
            if (self._paused or self._closed) and not slot.inflight:
                idle = self._slots.pop(slot.lease_id, None) is not None
        if isinstance(raw, Gone):
            self.app.link.tell("lost", slot.container_id, raw.text)
        if idle:
            self.pool.give_back(slot)
        return ("reply", wire_id, raw, was_alone)

    def pause(self) -> None:
        """The consumer has the thread for an unknown time: slots that are or become idle are others' to use."""
        with self._post_lock:
            self._paused = True
            idle = [slot for slot in list(self._slots.values()) if not slot.inflight]
            for slot in idle:
                self._slots.pop(slot.lease_id)
        for slot in idle:
            self.pool.give_back(slot)

    def resume(self) -> None:
        with self._post_lock:
            self._paused = False

    # --- pump: inputs

    def add(self, items: Sequence[Any]) -> None:
        """More inputs, encoded or primitive."""
        self.ledger.add(len(items))
        self._fresh.extend(items)

    def more_slots(self) -> int:
        """Slots that this run could use besides those it holds; in all at most Modal's number of outstanding inputs."""
        unsent = self.ledger.queued + (self.hint or 0)
        if not unsent:
            return 0
        held = len(self._slots)
        if self.sizer.is_short and not self.pool.facts.is_shared and not self.pool.facts.is_single_use:
            # Slots take many inputs in turn: what counts is how many of them the work ahead keeps busy. One whose input overruns is out of use
            # for who knows how long, so the others need slots besides it.
            late = _monotonic() - LATE_S
            useful = sum(1 for slot in list(self._slots.values()) if self._is_prompt(slot, late))
            more = self.sizer.slots_worth_asking(unsent + self.ledger.running - len(self._stuck)) - useful
        else:
            more = unsent - sum(1 for slot in list(self._slots.values()) if not slot.inflight)
        return max(0, min(more, self.app.max_outstanding - held))

    def _lasting(self, more: int) -> int:
        """How many of `more` slots would still have work when a container that starts now is ready."""
        if not self.sizer.is_short or self._stuck or self.pool.facts.is_single_use:
            return more
        work_s = (self.ledger.queued + (self.hint or 0)) * (self.sizer.per_input_s or 0.0)
        return min(more, max(0, int(work_s / START_S) - len(self._slots)))

    def _is_prompt(self, slot: Slot, late: float) -> bool:
        """True if what is in flight there can be expected back soon."""
        if not self._stuck.isdisjoint(slot.inflight):
            return False
        return all(since == 0.0 or since > late for since in list(slot.inflight.values()))

    def room(self) -> int:
        """Inputs worth drawing now beyond those queued: what free slots could take, and enough to know the demand."""
        if self._refusal is not None:
            return max(0, self.app.max_outstanding - self.ledger.queued)
        size = self._size()
        places = sum(max(0, 2 - len(s.inflight)) for s in list(self._slots.values()))
        wanted = size * places
        if self.hint is None:
            wanted = max(wanted, self.app.max_outstanding - self.ledger.running)
        return max(0, wanted - self.ledger.queued)

    def _size(self) -> int:
        if self._one_by_one:
            return 1
        remaining = None
        if self.hint is not None:
            remaining = self.ledger.queued + self.hint
        elif self.ledger.closed:
            remaining = self.ledger.queued
        size = self.sizer.next_size(remaining, max(len(self._slots), 1))
        if self._avg_bytes * size > wire.BUNDLE_BYTES:
            size = max(1, int(wire.BUNDLE_BYTES / self._avg_bytes))
        return size

    def send_all(self) -> None:
        """Send what can be sent, ask for more slots or give back those not needed."""
        now = _monotonic()
        self.ledger.wake(now)
        if self._refusal is not None and (self.ledger.queued or self.ledger.closed):
            self._refused(now)
        for slot in list(self._slots.values()):
            self._fill(slot, now)
        for channel in self._to_flush:
            channel.flush()
        self._to_flush.clear()
        self._settle_demand()

    def _fill(self, slot: Slot, now: float) -> None:
        while not slot.revoked and not slot.asked_back:
            size = self._size()
            if slot.inflight:
                if slot.channel is not None and len(slot.inflight) < 2 and self._may_wait_there():
                    pass
                elif (
                    len(slot.inflight) >= 2
                    or slot.channel is not None
                    or not self.sizer.may_send_ahead(size)
                    or self._in_flight_bytes > IN_FLIGHT_BYTES
                ):
                    return
                if not self._stuck.isdisjoint(slot.inflight):
                    return  # what is sent now would wait behind an input that overruns
                if any(
                    s.take.alone or not (s.sealable or slot.channel)
                    for i in list(slot.inflight)
                    if (s := self._sent.get(i)) is not None
                ):
                    return
            take = self.ledger.take(size, now)
            if take is None:
                break
            if take.alone and slot.inflight:
                # It must have a container for itself: put it back for a slot that is empty.
                self.ledger.put_back(take)
                return
            self._send(slot, take, now)
            if take.alone:
                return
        if not slot.inflight and (self.ledger.closed or slot.asked_back or slot.revoked):
            self._return(slot)

    def _send(self, slot: Slot, take: Take, now: float) -> None:
        items = self._items_of(take)
        count = len(items)
        kind = self._kind
        held: list[Any] = []
        if kind == wire.EACH_CALL or any(type(item) is Encoded for item in items):
            count, kind, blobs, held = self._each(items)
            if count < len(items):
                was_fresh, indices = take.fresh, take.indices
                take = self.ledger.shorten(take, count)
                rest, items = items[count:], items[:count]
                if was_fresh:
                    self._fresh.extendleft(reversed(rest))
                else:
                    self._kept.update(zip(wire.expand(indices)[count:], rest, strict=True))
        else:
            blobs = items
        wire_id = self.number << 32 | take.bundle_id
        head = wire.BundleHead(
            kind,
            slot.epoch,
            wire_id,
            self.app.link.client_id,
            self.call_id,
            take.indices,
            self._kwargs,
            BUDGET_S,
            self._pipelined(count),
            self._method,
        )
        blob = wire.encode_bundle(head, blobs)
        n_bytes = len(blob)
        self._avg_bytes = max(n_bytes / count, self._avg_bytes * 0.9)
        self._in_flight_bytes += n_bytes
        self._sent[wire_id] = _Sent(take, slot, items, n_bytes, head.pipelined or count > 1)
        slot.inflight[wire_id] = now if not slot.inflight else 0.0
        if self.pool.facts.is_single_use:
            slot.use_up()

        def on_done(raw: Any) -> None:
            self.post(("reply", wire_id, raw))

        if slot.channel is None:
            self.app.link.submit(slot.container, "run", (blob, *held), on_done)
            return
        if take.alone:
            slot.inflight[wire_id] = 0.0  # its clock runs from when it leaves: it may have to wait for others

        def on_sent() -> None:
            if wire_id in slot.inflight:
                slot.inflight[wire_id] = _monotonic()

        slot.channel.submit("run", (blob,), held, on_done, alone=take.alone, on_sent=on_sent, later=True)
        self._to_flush.add(slot.channel)

    def _may_wait_there(self) -> bool:
        """Whether an input may wait in a container that runs several at once, so that a lane that comes free has its next at once."""
        if self.pool.facts.batch is not None or self._in_flight_bytes > IN_FLIGHT_BYTES:
            return False
        return self.sizer.per_input_s is not None and self.sizer.per_input_s <= SHARED_AHEAD_S

    def _pipelined(self, count: int) -> bool:
        return self.sizer.may_send_ahead(count) and not (self.pool.facts.is_shared or self.pool.facts.is_single_use)

    def _items_of(self, take: Take) -> list[Any]:
        count = wire.count_of(take.indices)
        if take.fresh:
            fresh = self._fresh
            if count == len(fresh):
                items = list(fresh)
                fresh.clear()
                return items
            return [fresh.popleft() for _ in range(count)]
        return [self._kept.pop(index) for index in wire.expand(take.indices)]

    def _each(self, items: list[Any]) -> tuple[int, str, list[bytes], list[Any]]:
        """Items one pickle each; large ones alone. Returns (how many go, kind, blobs, held buffers)."""
        kind = {wire.JOINT_VALUE: wire.EACH_VALUE, wire.JOINT_ARGS: wire.EACH_ARGS}.get(self._kind, self._kind)
        blobs: list[bytes] = []
        total = 0
        for item in items:
            if type(item) is Encoded:
                if item.held:
                    if blobs:
                        break
                    return 1, kind, [item.blob], item.held
                blob = item.blob
            else:
                blob = wire.dumps(item)
            if blobs and (total + len(blob) > wire.BUNDLE_BYTES or len(blob) > wire.SINGLE_MIN):
                break
            blobs.append(blob)
            total += len(blob)
            if len(blob) > wire.SINGLE_MIN:
                break
        return len(blobs), kind, blobs, []

    def _settle_demand(self) -> None:
        wants, told = self.more_slots(), self.wants_slots
        self.lasting_slots = self._lasting(wants)
        # Small changes are not worth a report, but a slot that came free while this run was paused is there for the taking.
        changed = wants != told and (wants == 0 or told == 0 or wants > told or 2 * wants <= told)
        if changed or (wants and self.pool.has_free):
            self.pool.wants(self, wants)

    def _return(self, slot: Slot) -> None:
        with self._post_lock:
            known = self._slots.pop(slot.lease_id, None)
        if known is not None:
            self.pool.give_back(slot)

    # --- pump: events

    def handle(self, event: Any) -> None:
        """One event from the inbox.

        Raises:
            BaseException: the app has ended.
        """
        kind = event[0]
        if kind == "reply":
            self._replied(event[1], event[2], was_alone=event[3])
        elif kind == "sealed":
            self._sealed(*event[1:])
        elif kind == "refuse":
            self._refusal = Failure(*event[1])  # carried out once inputs are drawn, by `send_all`
        elif kind == "stopped":
            raise event[1]

    def _replied(self, wire_id: int, raw: Any, *, was_alone: bool) -> None:
        now = _monotonic()
        sent = self._sent.pop(wire_id, None)
        self._stuck.discard(wire_id)
        if sent is None:
            parted = self._parted.pop(wire_id, None)
            if parted is None:
                return
            sent = parted[1]
        slot, take = sent.slot, sent.take
        self._in_flight_bytes -= sent.n_bytes
        if isinstance(raw, Gone):
            self._lost(sent, now, was_alone=was_alone, why=raw.text)
            return
        reply, body = wire.decode_reply(raw)
        count = wire.count_of(take.indices)
        self._take_lost(sent, reply)
        if reply.refused:
            slot.epoch = max(slot.epoch, reply.epoch)
            if reply.refused == "draining":
                slot.revoked = True
            self._keep(sent, self.ledger.open_indices(take.bundle_id))
            for lo, hi in self.ledger.open_ranges(take.bundle_id):
                self.ledger.returned(take.bundle_id, lo, hi)
        else:
            self._deliver(sent, reply, body, now, raw)
            if not reply.sealed:
                if reply.stop < count:
                    self._keep_positions(sent, reply.stop, count)
                    self.ledger.returned(take.bundle_id, reply.stop, count)
                self.sizer.observe(reply.stop - reply.start, reply.elapsed_s)
            else:
                self.sizer.observe(max(1, reply.stop - reply.start), reply.elapsed_s)
                if self.ledger.is_open(take.bundle_id):
                    # The report of what was sealed away is still on its way.
                    self._parted[wire_id] = (now + PARTED_S, sent)

    def _sealed(self, wire_id: int, epoch: int, current: int, raw: Any, untouched: tuple[int, int]) -> None:
        now = _monotonic()
        parted = self._parted.pop(wire_id, None)
        sent = self._sent.get(wire_id) or (parted[1] if parted else None)
        if sent is None:
            return
        slot, bundle_id = sent.slot, sent.take.bundle_id
        slot.epoch = max(slot.epoch, epoch)
        if wire_id in self._sent:
            self._stuck.add(wire_id)
        if not isinstance(raw, Gone):
            reply, body = wire.decode_reply(raw)
            self._take_lost(sent, reply)
            self._deliver(sent, reply, body, now, raw)
            self._keep_positions(sent, *untouched)
            self.ledger.returned(bundle_id, *untouched)
        elif parted is not None:
            self._lost(sent, now, was_alone=False, why=raw.text)
        # What is queued behind will come back unrun; it goes elsewhere now and its late answer is ignored. What was sent with the new epoch (a refusal
        # may tell it sooner than this report) is not behind: it runs.
        for other in list(slot.inflight):
            if other not in (wire_id, current) and other in self._sent and self._sent[other].epoch < epoch:
                behind = self._sent.pop(other)
                slot.inflight.pop(other, None)
                self._in_flight_bytes -= behind.n_bytes
                self._keep(behind, self.ledger.open_indices(behind.take.bundle_id))
                for lo, hi in self.ledger.open_ranges(behind.take.bundle_id):
                    self.ledger.returned(behind.take.bundle_id, lo, hi)
        if parted is not None and self.ledger.is_open(bundle_id):
            self._parted[wire_id] = parted

    def _take_lost(self, sent: _Sent, reply: wire.Reply) -> None:
        """What its container has given up, though nobody wanted it to, is sent again."""
        if wire.take_lost(reply) and self.ledger.unanswered(sent.take.bundle_id, reply.stop, reply.stop + 1):
            self._keep_positions(sent, reply.stop, reply.stop + 1)
            self.ledger.returned(sent.take.bundle_id, reply.stop, reply.stop + 1)

    def _deliver(self, sent: _Sent, reply: wire.Reply, body: wire.Body, now: float, raw: Any) -> None:
        bundle_id, start, stop = sent.take.bundle_id, reply.start, reply.stop
        if stop <= start or not self.ledger.unanswered(bundle_id, start, stop):
            return
        failures = reply.failures
        indices = wire.sub_indices(sent.take.indices, start, stop)
        if not failures:
            self.ledger.answered(bundle_id, start, stop, {}, now)
            self._hand_over(indices, reply, body, raw)
            return
        verdicts = self.ledger.answered(bundle_id, start, stop, {pos: f.kind for pos, f in failures.items()}, now)
        every = wire.expand(sent.take.indices)
        again = set(verdicts.again)
        if again:
            for pos in failures:
                if every[pos] in again:
                    self._kept[every[pos]] = sent.items[pos]
        self._hand_over(indices, reply, body, raw, again)

    def _hand_over(
        self, indices: wire.Indices, reply: wire.Reply, body: wire.Body, raw: Any, again: set[int] | None = None
    ) -> None:
        if self._raw:
            every = wire.expand(indices)
            if len(every) == 1 and not reply.failures:
                self.delivered.append((every[0], ("reply", raw), True))
                return
            for pos, failure, blob in wire.split_reply(reply, body):
                index = every[pos - reply.start]
                if again and index in again:
                    continue
                value = ("failure", failure) if failure is not None else ("reply", wire.single_reply(blob or b""))
                self.delivered.append((index, value, True))
            return
        values, clean = wire.decode_values(reply, body)
        if not again:
            self.delivered.append((indices, values, clean))
            return
        every = wire.expand(indices)
        for at, value in enumerate(values):
            if every[at] not in again:
                self.delivered.append(((every[at], 1), [value], False))

    def _keep(self, sent: _Sent, indices: Sequence[int]) -> None:
        every = wire.expand(sent.take.indices)
        where = {index: pos for pos, index in enumerate(every)}
        for index in indices:
            self._kept[index] = sent.items[where[index]]

    def _keep_positions(self, sent: _Sent, start: int, stop: int) -> None:
        every = wire.expand(sent.take.indices)
        for pos in range(start, stop):
            self._kept[every[pos]] = sent.items[pos]

    def _lost(self, sent: _Sent, now: float, *, was_alone: bool, why: str) -> None:
        bundle_id = sent.take.bundle_id
        self._keep(sent, self.ledger.open_indices(bundle_id))
        verdicts = self.ledger.lost(bundle_id, now, was_alone=was_alone)
        for index in verdicts.final:
            text = f"{loss_text(self.ledger.trouble(index))} Last: {why}"
            self._final(index, Failure(wire.LOST, None, text, where=sent.slot.container_id))

    def _final(self, index: int, failure: Failure) -> None:
        self._kept.pop(index, None)
        if self._raw:
            self.delivered.append((index, ("failure", failure.pack()), True))
        else:
            self.delivered.append(((index, 1), [failure], False))

    def _refused(self, now: float) -> None:
        """No container can be had: every queued input has failed an attempt."""
        failure, self._refusal = self._refusal, None
        assert failure is not None
        for index in range(self.ledger.known - len(self._fresh), self.ledger.known):
            self._kept[index] = self._fresh[index - (self.ledger.known - len(self._fresh))]
        self._fresh.clear()
        verdicts = self.ledger.fail_queued(now)
        for index in verdicts.final:
            self._final(index, failure)

    # --- pump: time

    def next_wake(self) -> float | None:
        """When `on_time` has something to do, on the monotonic clock."""
        times = [t for t in (self.ledger.next_due,) if t is not None]
        if self._parted:
            times.append(min(t for t, _ in self._parted.values()))
        timeout = self.pool.facts.patience_s
        now = _monotonic()
        # A slot that is found to be held up changes what others are needed for.
        watch_late = (
            self.sizer.is_short and not self.pool.facts.is_shared and (self.ledger.queued > 0 or bool(self.hint))
        )
        for slot in list(self._slots.values()):
            for since in list(slot.inflight.values()):
                if since:
                    times.append(since + BUDGET_S + timeout + GRACE_S)
                    if watch_late and (late := since + LATE_S) > now:
                        times.append(late)
                break
        return min(times) if times else None

    def on_time(self) -> None:
        """Retries that are due, halves that never came, containers that hold the interpreter lock beyond their timeout."""
        now = _monotonic()
        for wire_id, (until, sent) in list(self._parted.items()):
            if now >= until:
                self._parted.pop(wire_id)
                self._lost(sent, now, was_alone=False, why="part of its outcome did not arrive")
        timeout = self.pool.facts.patience_s
        for slot in list(self._slots.values()):
            for wire_id, since in list(slot.inflight.items()):
                if since and now >= since + BUDGET_S + timeout + GRACE_S:
                    self._overdue(slot, wire_id, now)
                break
        self.send_all()

    def _overdue(self, slot: Slot, wire_id: int, now: float) -> None:
        """The container did not end an input in time by itself: it is killed from outside."""
        sent = self._sent.get(wire_id)
        self.app.link.tell(
            "kill",
            slot.container_id,
            f"an input of '{self.pool.tag}' ran beyond its timeout and could not be interrupted",
        )
        slot.revoked = True
        slot.inflight[wire_id] = now + 3600.0
        if sent is None:
            return
        open_now = self.ledger.open_indices(sent.take.bundle_id)
        if len(open_now) == 1:
            self._sent.pop(wire_id)
            slot.inflight.pop(wire_id, None)
            self._in_flight_bytes -= sent.n_bytes
            failure = overdue_failure(self.pool, self.call_id, slot)
            (lo, hi) = self.ledger.open_ranges(sent.take.bundle_id)[0]
            verdicts = self.ledger.answered(sent.take.bundle_id, lo, hi, {lo: wire.TIMEOUT}, now)
            self._kept[open_now[0]] = sent.items[lo]
            for index in verdicts.final:
                self._final(index, failure)
            if not slot.inflight:
                self._return(slot)

    def progress(self, final: bool = False) -> None:
        """Tell whoever watches how far this is, a few times a second."""
        manager = output.current()
        if manager is None:
            return
        now = _monotonic()
        if final or now - self._told > 0.1:
            self._told = now
            total = self.ledger.known + (self.hint or 0)
            manager.event(output.Inputs(self.pool.tag, self.ledger.done, total))

    # --- end

    def close(self) -> None:
        """The call has ended, or is given up: cancel what runs, give every slot back, at once or when its container answers."""
        with self._post_lock:
            if self._closed:
                return
            self._closed = True
        self.ledger.cancel(_monotonic())
        self.pool.left(self)
        for wire_id, sent in list(self._sent.items()):
            if wire_id in sent.slot.inflight and not sent.slot.gone:
                self.app.link.tell("cancel", sent.slot.container_id, self.app.link.client_id, wire_id)
        for slot in list(self._slots.values()):
            if not slot.inflight:
                self._return(slot)

    def replay(self, lost: Gone | None, failure: Failure | None) -> None:
        """The first attempt was made without this run: enter what became of it."""
        now = _monotonic()
        take = self.ledger.take(1, now)
        assert take is not None
        self._kept[0] = self._fresh.popleft()
        if lost is not None:
            was_alone = not isinstance(lost, GoneShared) or lost.was_alone
            verdicts = self.ledger.lost(take.bundle_id, now, was_alone=was_alone)
            final = Failure(wire.LOST, None, f"{loss_text(self.ledger.trouble(0))} Last: {lost.text}")
        else:
            assert failure is not None
            verdicts, final = self.ledger.answered(take.bundle_id, 0, 1, {0: failure.kind}, now), failure
        for index in verdicts.final:
            self._final(index, final)


def overdue_failure(pool: PoolClient, call_id: str, slot: Slot) -> Failure:
    return Failure(
        wire.TIMEOUT,
        None,
        f"Function {pool.tag!r}: the input ran longer than timeout={pool.facts.timeout_s:g} s and could not be interrupted, so its container was killed "
        f"(function call {call_id})",
        where=slot.container_id,
    )


# --- inboxes


def take_events(run: Run, inbox: queue.SimpleQueue[Any], *, wait: bool = True) -> None:
    """Handle what is in the inbox; if nothing is, wait for the first event or the next deadline."""
    try:
        event = inbox.get_nowait()
    except queue.Empty:
        if not wait:
            return
        wake = run.next_wake()
        try:
            event = inbox.get(timeout=None if wake is None else max(0.0, min(wake - _monotonic(), 3600.0)))
        except queue.Empty:
            run.on_time()
            return
    while True:
        run.handle(event)
        try:
            event = inbox.get_nowait()
        except queue.Empty:
            return


class AsyncInbox:
    """Events for a pump on an event loop, put from any thread."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: deque[Any] = deque()
        self._flag = asyncio.Event()

    def put(self, event: Any) -> None:
        self._events.append(event)
        try:
            self._loop.call_soon_threadsafe(self._flag.set)
        except RuntimeError:
            pass  # the loop is closed; `empty` has run or will

    async def wait(self, timeout: float | None) -> bool:
        """True if there is an event, False after `timeout`."""
        if self._events:
            return True
        self._flag.clear()
        if self._events:
            return True
        try:
            async with asyncio.timeout(timeout):
                await self._flag.wait()
        except TimeoutError:
            return False
        return True

    def take(self) -> Any:
        return self._events.popleft() if self._events else None


async def take_events_async(run: Run, inbox: AsyncInbox) -> None:
    wake = run.next_wake()
    if not await inbox.wait(None if wake is None else max(0.0, min(wake - _monotonic(), 3600.0))):
        run.on_time()
        return
    while (event := inbox.take()) is not None:
        run.handle(event)
