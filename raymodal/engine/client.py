"""The caller's side: leases on containers' slots, and what arrives for the calls of this process. No Ray here.

One `AppClient` per process and app, one `PoolClient` per function. Control traffic (demand, leases) goes through the controller on the process' I/O loop;
inputs and outcomes go straight to containers from whatever thread calls. A slot that is not in use lingers for a moment, so that back-to-back calls are one hop.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from raymodal import wire
from raymodal._dual import io_loop
from raymodal._warn import WARNINGS, warn_once
from raymodal.engine.channel import Channel
from raymodal.engine.protocol import Gone, Link, OnDone
from raymodal.exception import ClientClosed, ExecutionError, InternalError, InternalFailure, ResourceExhaustedError
from raymodal.logic.limits import Patience
from raymodal.plan.pool import ClientOptions, FunctionFacts, PoolRequest

if TYPE_CHECKING:
    from raymodal.engine.run import Run

_monotonic = time.monotonic
MAX_EARLY = 1000
FALL_S = (
    0.02,
    0.5,
)  # a falling demand is reported at most this often: soon at first, while inputs show how long they take, then rarely


class Slot:
    """A lease on one slot of a container, as its holder sees it."""

    __slots__ = (
        "asked_back",
        "channel",
        "container",
        "container_id",
        "ended",
        "epoch",
        "gone",
        "idle_since",
        "inflight",
        "lease_id",
        "revoked",
        "used_up",
    )

    def __init__(self, lease_id: int, container_id: str, container: Any, channel: Channel | None = None) -> None:
        self.lease_id = lease_id
        self.container_id = container_id
        self.container = container
        self.channel = channel  # where several slots of one container are reached together
        self.epoch = 0
        self.inflight: dict[int, float] = {}  # wire bundle id -> when it became the first in line
        self.idle_since = _monotonic()
        self.asked_back = False
        self.revoked = False  # of no use any more
        self.ended = False  # and the controller knows
        self.gone = False
        self.used_up = False

    def use_up(self) -> None:
        """What is sent now is all that its container will run: a container for one input."""
        self.used_up = self.asked_back = True

    def submit(self, link: Link, method: str, args: tuple[Any, ...], held: list[Any], on_done: OnDone) -> None:
        """Call the container. Any thread."""
        if self.channel is None:
            link.submit(self.container, method, (*args, *held), on_done)
        else:
            self.channel.submit(method, args, held, on_done)


class Callee:
    """What a handle calls: a pool, and which method where it is a class's. All methods of an object share the pool's slots."""

    pool: PoolClient
    method = ""

    def encode_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[bytes, list[Any]]:
        """Encode one call's arguments, large buffers apart. Raises what pickling raises, in the caller."""
        app = self.pool.app
        data = app.encoder().one((args, kwargs))
        if isinstance(data, wire.Big):
            return data.blob, [app.link.hold(b) for b in data.buffers]
        return data, []

    # --- one call

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`remote()`: run one input and wait for its outcome in the calling thread."""
        from raymodal.engine.single import OneCall

        return OneCall(self.pool, *self.encode_call(args, kwargs), self.method).wait()

    async def call_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """`remote.aio()`: the same on the caller's own loop."""
        from raymodal.engine.single import OneCall

        return await OneCall(self.pool, *self.encode_call(args, kwargs), self.method).wait_async()

    # --- many

    def map(
        self, inputs: Any, kwargs: dict[str, Any], ordered: bool, return_exceptions: bool, star: bool = False
    ) -> Iterator[Any]:
        from raymodal.engine.maps import map_sync

        return map_sync(self, inputs, kwargs, ordered=ordered, return_exceptions=return_exceptions, star=star)

    def map_async(
        self, inputs: Any, kwargs: dict[str, Any], ordered: bool, return_exceptions: bool, star: bool = False
    ) -> AsyncIterator[Any]:
        from raymodal.engine.maps import map_async

        return map_async(self, inputs, kwargs, ordered=ordered, return_exceptions=return_exceptions, star=star)

    def stream(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Any]:
        from raymodal.engine.streams import stream_sync

        return stream_sync(self, args, kwargs)

    def stream_async(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncIterator[Any]:
        from raymodal.engine.streams import stream_async

        return stream_async(self, args, kwargs)

    async def spawn(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """Hand one input to the controller; returns the call's id once it is accepted."""
        data, held = self.encode_call(args, kwargs)
        call_id: str = await self.pool.ask("spawn", [(wire.EACH_CALL, data, held)], True, self.method)
        return call_id

    async def spawn_map(self, inputs: Any, kwargs: dict[str, Any]) -> list[str]:
        """One spawned call per input."""
        from raymodal.engine.maps import spawn_each

        return await spawn_each(self, inputs, kwargs)

    async def spawn_many(self, inputs: Any, kwargs: dict[str, Any]) -> tuple[str, int]:
        """One spawned call with many inputs."""
        from raymodal.engine.maps import spawn_many

        return await spawn_many(self, inputs, kwargs)

    async def stats(self) -> Any:
        """What the controller says of the pool, with this process's demand as it is now."""
        return await self._ask_exactly("stats")

    async def why(self) -> Any:
        """The same with the last decisions."""
        return await self._ask_exactly("why")

    async def _ask_exactly(self, method: str) -> Any:
        pool = self.pool
        if pool.unreported:
            await pool.app.on_loop(pool.report_now())
        return await pool.ask(method)

    async def set_rules(self, changes: dict[str, Any]) -> Any:
        return await self.pool.ask("set_rules", changes)


class MethodClient(Callee):
    """One method of the objects that a pool serves."""

    def __init__(self, pool: PoolClient, method: str) -> None:
        self.pool = pool
        self.method = method


class PoolClient(Callee):
    """One function's slots in this process, shared by all its calls here.

    Args:
        request: what the controller must be told before it can know this pool; None for those of the app's plan.
    """

    def __init__(self, app: AppClient, facts: FunctionFacts, request: PoolRequest | None = None) -> None:
        self.app = app
        self.pool = self
        self._request = request
        self._opening: asyncio.Future[Any] | None = None
        self.facts = facts
        self.tag = facts.tag
        self._lock = threading.Lock()
        self._slots: dict[int, Slot] = {}
        self._free: deque[Slot] = deque()
        self._takers: deque[Run] = deque()  # want more slots than they have
        self._runs: dict[int, Run] = {}
        self._reported = 0
        self._reported_at = 0.0
        self._fall_s = FALL_S[0]
        self._will_look = False
        self._seq = 0
        self.is_prompt = True  # the last single call was a matter of milliseconds
        self._calls = 0  # single calls that wait or run, but for those that had a slot at once
        self._calls_ended = 0
        self._waiting = 0  # calls that a limit holds back; roughly, as threads count it without a lock

    # --- slots

    def take_free(self) -> Slot | None:
        """An idle slot, or None. Any thread."""
        try:
            # The latest used: its container's caches are warm, and older ones get idle enough to be given back.
            slot = self._free.pop()
        except IndexError:
            return None
        if slot.asked_back or slot.revoked:
            self.give_back(slot)
            return None
        return slot

    def give_back(self, slot: Slot) -> None:
        """A slot with nothing in flight is free again. Any thread."""
        slot.idle_since = _monotonic()
        if slot.revoked or slot.asked_back:
            self._drop(slot)
            return
        passed: list[Run] = []  # paused: their consumer is busy, so others go first
        with self._lock:
            while self._takers:
                taker = self._takers.popleft()
                if taker.wants_slots > 0:
                    if not taker.offer(slot):
                        passed.append(taker)
                        continue
                    taker.wants_slots -= 1
                    if taker.wants_slots > 0:
                        self._takers.append(taker)
                    self._takers.extend(passed)
                    return
            self._takers.extend(passed)
            self._free.append(slot)
        self.app.keep_house()

    def _drop(self, slot: Slot) -> None:
        with self._lock:
            known = self._slots.pop(slot.lease_id, None)
        if known is not None and not slot.ended:
            self._report([(slot.lease_id, _monotonic() - slot.idle_since, slot.used_up)])

    def granted(self, slot: Slot) -> None:
        with self._lock:
            self._slots[slot.lease_id] = slot
        self.give_back(slot)
        # All that was asked for may be there now, and more be wanted.
        self._report_if_needed()

    def asked_back(self, lease_id: int) -> None:
        slot = self._slots.get(lease_id)
        if slot is None:
            self.app.note_early(lease_id, "yield")
            return
        slot.asked_back = True
        self._drop_if_free(slot)
        for run in list(self._runs.values()):
            run.post(("check",))  # it may hold the slot without using it

    def revoke(self, lease_id: int, gone: bool) -> None:
        slot = self._slots.get(lease_id)
        if slot is None:
            self.app.note_early(lease_id, "revoke")
            return
        slot.revoked = slot.ended = True
        slot.gone = slot.gone or gone
        # The controller may have given this process up, and with it what it wanted: that is said anew with the next input.
        self._reported = min(self._reported, 0)
        self._drop_if_free(slot)

    def _drop_if_free(self, slot: Slot) -> None:
        try:
            self._free.remove(slot)
        except ValueError:
            return  # in use: its run gives it back at the next bundle boundary
        self._drop(slot)

    def drop_stale(self, now: float, linger_s: float) -> bool:
        """Give idle slots back whose time is over; True while some are left. I/O loop."""
        for slot in list(self._free):
            if now - slot.idle_since >= linger_s:
                slot.asked_back = True
                self._drop_if_free(slot)
        return bool(self._free)

    # --- limits

    def admission(self, admitted: list[bool], *, again: bool = False) -> Iterator[float]:
        """Before one more single call queues here: seconds to wait, again and again while a limit is reached.

        Args:
            admitted: gets an entry once the call counts; then `call_ended` must follow.
            again: it has been here before, and does not wait a second time.

        Raises:
            ResourceExhaustedError: it has waited long enough, and nothing ended meanwhile.
        """
        limits = self.app.limits
        patience: Patience | None = None
        while True:
            with self._lock:
                reached = None if again else limits.reached(self._calls, len(self._slots) - len(self._free))
                if reached is None:
                    self._calls += 1
                    admitted.append(True)
                    return
            now = _monotonic()
            if patience is None:
                patience = Patience(limits, self._calls_ended, now)
            wait_s = patience.next(self._calls_ended, now, self._waiting)
            if wait_s is None:
                raise ResourceExhaustedError(
                    f"Function {self.tag!r}: {reached}, and none has ended for {limits.wait_s:g} s (RAYMODAL_LIMIT_WAIT_S). "
                    "Call it less often at a time or with `.map`, which waits by itself; let it have more containers; or raise the limit."
                )
            warn_once("limits", f"Function {self.tag!r}: {reached}. {WARNINGS['limits']}", stacklevel=5)
            self._waiting += 1
            try:
                yield wait_s
            finally:
                self._waiting -= 1

    def call_ended(self) -> None:
        with self._lock:
            self._calls -= 1
            self._calls_ended += 1

    # --- demand

    @property
    def has_free(self) -> bool:
        """An idle slot is there."""
        return bool(self._free)

    def wants(self, run: Run, more: int) -> None:
        """A run could use `more` slots besides those it holds."""
        offers: list[Slot] = []
        with self._lock:
            if more > 0 and run.wants_slots <= 0:
                self._takers.append(run)
            run.wants_slots = max(more, 0)
            self._runs[run.number] = run
            while run.wants_slots > 0 and self._free:
                try:
                    slot = self._free.pop()
                except IndexError:
                    break
                if slot.asked_back or slot.revoked:
                    offers.append(slot)
                    continue
                if not run.offer(slot):
                    self._free.append(slot)
                    break
                run.wants_slots -= 1
        for slot in offers:
            self._drop(slot)
        self._report_if_needed()

    def left(self, run: Run) -> None:
        """A run has ended: it wants nothing more."""
        with self._lock:
            self._runs.pop(run.number, None)
            run.wants_slots = 0
            if not self._runs:
                self._fall_s = FALL_S[0]
        self._report_if_needed()

    def demand(self) -> int:
        """Slots that the calls of this process could use now, those in use included."""
        return len(self._slots) - len(self._free) + sum(run.wants_slots for run in list(self._runs.values()))

    def _report_if_needed(self) -> None:
        demand, reported, held = self.demand(), self._reported, len(self._slots)
        # On a scale of doubling and halving, so that the number of reports does not grow with the number of inputs; but always where the
        # controller would otherwise believe that this caller is served. A served caller's ups and downs are not reported: its leases say
        # enough, and they linger. Falls can wait a moment, since demand swings while a map is under way.
        if demand > reported and (reported <= held or demand >= 2 * reported):
            self._report(())
        elif demand < reported and reported > held and (demand <= held or 2 * demand <= reported):
            wait = self._reported_at + self._fall_s - _monotonic() if self._runs else 0.0
            if wait <= 0:
                self._fall_s = min(2 * self._fall_s, FALL_S[1])
                self._report(())
            elif not self._will_look:
                self._will_look = True
                self.app.later(wait, self._look_again)

    def _look_again(self) -> None:
        self._will_look = False
        self._report_if_needed()

    @property
    def unreported(self) -> int:
        """By how much demand has changed since it was reported: reports are made on a scale of doubling and halving."""
        return self.demand() - self._reported

    async def report_now(self) -> None:
        """Report demand as it is, and wait until the controller knows. I/O loop."""
        await self.app.report(self.tag, *self._next_report(), ())

    def _report(self, releases: Any) -> None:
        self.app.update(self.tag, *self._next_report(), releases)

    def _next_report(self) -> tuple[int, int, int]:
        with self._lock:
            self._seq += 1
            seq = self._seq
            runs = list(self._runs.values())
            demand = self._reported = self.demand()
            lasting = demand - sum(max(0, run.wants_slots - run.lasting_slots) for run in runs)
            self._reported_at = _monotonic()
        return seq, demand, lasting

    # --- the controller

    def method_client(self, name: str) -> MethodClient:
        """One method of the objects that this pool serves."""
        return MethodClient(self, name)

    async def open(self) -> None:
        """Make sure that the controller knows this pool: one control call per pool and process. I/O loop."""
        if self._request is None:
            return
        if self._opening is None:
            self._opening = asyncio.ensure_future(self.app.link.controller("open_pool", self._request))
        # Shielded: whoever gives up waiting must not take it from the others.
        await asyncio.shield(self._opening)

    async def ask(self, method: str, *args: Any) -> Any:
        """Call the controller about this pool."""
        return await self.app.on_loop(self._ask(method, args))

    async def _ask(self, method: str, args: tuple[Any, ...]) -> Any:
        await self.open()
        return await self.app.link.controller(method, self.tag, *args)


async def caught_up(link: Link) -> None:
    """`Link.catch_up` without holding a loop up: a reader of this process's output that stands still must not stop its heartbeat."""
    if link.is_behind():
        await asyncio.to_thread(link.catch_up)


class CallsClient:
    """Spawned calls, which the controller keeps."""

    def __init__(self, app: AppClient) -> None:
        self._app = app

    async def get(self, call_id: str, index: int = 0, timeout: float | None = None) -> Any:
        """The value of one input of a spawned call.

        Raises:
            TimeoutError: (builtin) it has none in time.
            NotFoundError: no such call in this app.
            BaseException: what the input raised.
        """
        raw = await self._app.on_loop(self._get(call_id, index, timeout))
        await caught_up(self._app.link)
        kind, data = raw
        if kind == "failure":
            raise wire.decode_failure(wire.Failure(*data))
        reply, body = wire.decode_reply(data)
        values, _ = wire.decode_values(reply, body)
        return wire.raise_value(values[0])

    async def _get(self, call_id: str, index: int, timeout: float | None) -> Any:
        deadline = None if timeout is None else _monotonic() + timeout
        while True:
            left = 20.0 if deadline is None else min(20.0, max(0.0, deadline - _monotonic()))
            # Short polls, so that a wait never outlives whoever waits by much.
            raw = await self._app.link.controller("get_call", call_id, index, left)
            if raw is not None:
                return raw
            if deadline is not None and _monotonic() >= deadline:
                raise TimeoutError(f"{call_id} has no result after {timeout:g} s")

    async def cancel(self, call_id: str, terminate_containers: bool = False) -> None:
        await self._app.on_loop(self._app.link.controller("cancel_call", call_id, terminate_containers))

    async def num_inputs(self, call_id: str) -> int:
        count: int = await self._app.on_loop(self._app.link.controller("num_inputs", call_id))
        return count

    async def info(self, call_id: str) -> Any:
        return await self._app.on_loop(self._app.link.controller("call_info", call_id))


class AppClient:
    """This process as a caller of one app.

    Args:
        container_id: set if this process is itself a container.
        loop: where control traffic runs, if not on the process' I/O loop.
    """

    def __init__(
        self,
        link: Link,
        functions: dict[str, FunctionFacts],
        options: ClientOptions,
        *,
        app_id: str,
        container_id: str | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.link = link
        self.app_id = app_id
        self.container_id = container_id
        self.max_outstanding = options.max_outstanding
        self.max_losses = options.max_losses
        self.limits = options.limits
        self.calls = CallsClient(self)
        self.early: dict[int, str] = {}
        self.stopped: BaseException | None = None
        self._facts = functions
        self._pools: dict[str, PoolClient] = {}
        self._linger_s = options.linger_s
        self._given_loop = loop
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._runs: weakref.WeakValueDictionary[int, Run] = weakref.WeakValueDictionary()
        self._channels: weakref.WeakValueDictionary[str, Channel] = weakref.WeakValueDictionary()
        self._local = threading.local()
        self._polling: Any = None
        self._housekeeping = False
        self._on_note: Any = None

    # --- pools and runs

    def has(self, tag: str) -> bool:
        return tag in self._facts

    def pool(self, tag: str, request: PoolRequest | None = None) -> PoolClient:
        """The function's pool as seen from here.

        Args:
            request: of a pool that the app's plan does not name; the controller hears of it when the pool is first used.

        Raises:
            ExecutionError: the running app has no such function.
        """
        pool = self._pools.get(tag)
        if pool is None:
            with self._lock:
                known = tag if request is None else request.base
                facts = self._facts.get(known)
                if facts is None:
                    raise ExecutionError(
                        f"The running app has no function {known!r}; it has {', '.join(sorted(self._facts)) or 'none'}"
                    )
                if request is not None:
                    facts = request.facts(facts)
                pool = self._pools.setdefault(tag, PoolClient(self, facts, request))
        return pool

    def learn(self, facts: FunctionFacts) -> None:
        """A pool that the app's plan does not name has been opened (controller)."""
        self._facts.setdefault(facts.tag, facts)

    def facts(self) -> dict[str, FunctionFacts]:
        return self._facts

    def encoder(self) -> wire.Encoder:
        """This thread's encoder."""
        encoder: wire.Encoder | None = getattr(self._local, "encoder", None)
        if encoder is None:
            encoder = self._local.encoder = wire.Encoder()
        return encoder

    def register(self, run: Run) -> int:
        number = next(self._numbers)
        self._runs[number] = run
        return number

    def next_single(self) -> int:
        """A bundle id for a call that has no run."""
        return next(self._numbers) << 32

    def run_of(self, wire_id: int) -> Run | None:
        return self._runs.get(wire_id >> 32)

    # --- control traffic

    def update(self, tag: str, seq: int, demand: int, lasting: int, releases: Any) -> None:
        """Report demand and returned leases; grants come back with the answer. Any thread."""
        if self.stopped is None:
            self._loop().call_soon_threadsafe(self._update_soon, tag, seq, demand, lasting, tuple(releases))

    def _update_soon(self, tag: str, seq: int, demand: int, lasting: int, releases: Any) -> None:
        self._ensure_polling()
        _spawn_task(self.report(tag, seq, demand, lasting, releases))

    async def report(self, tag: str, seq: int, demand: int, lasting: int, releases: Any) -> None:
        """The same, to be waited for. I/O loop."""
        args = (self.link.client_id, self.container_id, tag, seq, demand, lasting, releases)
        await self._hear("update", *args, pool=self.pool(tag))

    async def _hear(self, method: str, *args: Any, pool: PoolClient | None = None) -> None:
        """Ask the controller and act on the events it answers with. Whatever goes wrong ends the app's calls: nobody else would wake them."""
        try:
            if pool is not None:
                await pool.open()
            self.handle(await self.link.controller(method, *args))
        except Gone as gone:
            self.fail_all(_controller_gone(gone))
        except Exception as error:  # noqa: BLE001 - a call that waits for events which never come would hang for ever
            failure = InternalError(
                f"raymodal's own control traffic failed ({method}: {type(error).__name__}: {error}), so the app's calls cannot be completed. "
                "Run the program again, and please report this."
            )
            failure.__cause__ = error
            self.fail_all(failure)

    def _ensure_polling(self) -> None:
        if self._polling is None and self._given_loop is None:
            self._polling = _spawn_task(self._poll())

    async def _poll(self) -> None:
        while self.stopped is None:
            await self._hear("poll", self.link.client_id, self.container_id)

    def _loop(self) -> asyncio.AbstractEventLoop:
        return self._given_loop or io_loop()

    def start(self) -> None:
        """Begin to listen to the controller. Any thread."""
        self._loop().call_soon_threadsafe(self._ensure_polling)

    def handle(self, events: Any) -> None:
        """Events from the controller, in any order and each once. I/O loop."""
        for event in events:
            kind = event[0]
            if kind == "grant":
                _, tag, lease_id, container_id, container = event
                pool = self.pool(tag)
                channel = self._channel(container_id, container) if pool.facts.is_shared else None
                slot = Slot(lease_id, container_id, container, channel)
                early = self.early.pop(lease_id, None)
                if early == "yield":
                    slot.asked_back = True
                elif early == "revoke":
                    slot.revoked = slot.ended = True
                pool.granted(slot)
            elif kind == "yield":
                self.pool(event[1]).asked_back(event[2])
            elif kind == "revoke":
                self.pool(event[1]).revoke(event[2], event[3])
            elif kind == "refuse":
                for run in list(self.pool(event[1])._runs.values()):
                    run.post(("refuse", event[2]))
            elif kind == "sealed":
                self._sealed(*event[1:])
            elif kind == "note" and self._on_note is not None:
                with contextlib.suppress(Exception):  # what cannot be shown must not end the app's calls
                    self._on_note(*event[1:])
            elif kind == "stopped":
                self.fail_all(ClientClosed(event[1]))

    def note_early(self, lease_id: int, what: str) -> None:
        """Something concerns a lease that is not here: not yet, or not any more."""
        self.early[lease_id] = what
        while len(self.early) > MAX_EARLY:
            self.early.pop(next(iter(self.early)))

    def _channel(self, container_id: str, container: Any) -> Channel:
        """The one way from here to this container; its slots and what is in flight keep it. I/O loop."""
        channel = self._channels.get(container_id)
        if channel is None:
            channel = self._channels[container_id] = Channel(self.link, container_id, container)
        return channel

    def on_note(self, listener: Any) -> None:
        """`listener(key, *facts)` hears what the controller has to say to people. I/O loop."""
        self._on_note = listener

    def _sealed(self, bundle_id: int, epoch: int, current: int, box: Any, untouched: tuple[int, int]) -> None:
        def fetched(raw: Any) -> None:
            run = self.run_of(bundle_id)
            if run is not None:
                run.post(("sealed", bundle_id, epoch, current, raw, untouched))

        self.link.fetch(box, fetched)

    def fail_all(self, error: BaseException) -> None:
        """Nothing will be answered any more: every open call ends with `error`."""
        if self.stopped is not None:
            return
        self.stopped = error
        # Copied at once: other threads make runs meanwhile, and those that come later look at `stopped` themselves.
        for reference in self._runs.valuerefs():
            run = reference()
            if run is not None:
                run.post(("stopped", error))

    def keep_house(self) -> None:
        """A slot is idle: look after it. Any thread; cheap when it is being done already."""
        if not self._housekeeping:
            self._housekeeping = True
            self._loop().call_soon_threadsafe(self._house)

    def _house(self) -> None:
        now = _monotonic()
        busy = False
        for pool in list(self._pools.values()):
            busy = pool.drop_stale(now, self._linger_s) or busy
        if busy and self.stopped is None:
            self._loop().call_later(self._linger_s / 4, self._house)
        else:
            self._housekeeping = False
            if any(pool._free for pool in list(self._pools.values())) and self.stopped is None:
                self.keep_house()

    def soon(self, action: Any) -> None:
        """Do something on the I/O loop. Any thread, also one that holds locks of this module."""
        try:
            self._loop().call_soon_threadsafe(action)
        except RuntimeError:
            action()  # the loop has ended, and with it whoever else could hold a lock

    def later(self, seconds: float, action: Any) -> None:
        """Do something cheap after a while, unless the app has ended. Any thread."""
        if self.stopped is None:
            self._loop().call_soon_threadsafe(lambda: self._loop().call_later(seconds, action))

    async def on_loop(self, awaitable: Any) -> Any:
        """Await something of the I/O loop, from it or from another loop; the controller's death ends the app's calls."""
        if self.stopped is not None:
            if hasattr(awaitable, "close"):
                awaitable.close()
            raise self.stopped
        try:
            return await awaitable
        except Gone as gone:
            error = _controller_gone(gone)
            self.fail_all(error)
            raise error from None

    async def close(self) -> None:
        """Listen no more."""
        self.fail_all(ClientClosed("the app is not running any more"))
        polling = self._polling
        if polling is not None:
            polling.cancel()


_tasks: set[asyncio.Task[Any]] = set()


def _spawn_task(coroutine: Any) -> asyncio.Task[Any]:
    task: asyncio.Task[Any] = asyncio.get_running_loop().create_task(coroutine)
    # The loop holds tasks weakly.
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)
    return task


def _controller_gone(gone: Gone) -> InternalFailure:
    return InternalFailure(
        f"The app's controller has ended, so its calls cannot be completed: {gone.text}. Run the program again; if this repeats, look at the cluster's logs."
    )
