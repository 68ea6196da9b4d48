"""Runs the inputs of a function, or of a class's object, in whatever process or thread it is given. No Ray here.

Theory of operation. `run` is called on the container's **main thread** with one bundle at a time and returns its reply. User code runs there: sync functions
directly, async ones on one lasting loop. A **side thread** (`container.watch`) looks at the bundle that is current, every 50 ms while there is one:

    overrun    an input that runs longer than 100 ms must not hold its neighbours: the bundle is *sealed*: the untouched positions and the finished
               outcomes are taken out and sent to the holder another way (`Uplink.report`); the running input stays and is the call's own reply
    timeout    the input is interrupted; if it does not end within the grace, its failure is reported and the process ends
    cancel     the same, on command

Positions are taken from the left of a deque by the main thread and from its right by the side thread, outcomes are appended on the right and taken from the
left, so each is taken exactly once without a lock on the path of every input; `_lock` orders only sealing and finishing. The epoch is raised by the same
act: the main thread makes a bundle current *before* it reads the epoch, the side thread raises the epoch *before* it reads what is current; so a bundle
queued behind is either refused here or named in the report, never both run and sent again.

Interrupts reach only user code: `_in_user` is set right before it and cleared right after, and the handler clears it before it raises.
"""

from __future__ import annotations

import asyncio
import inspect
import pickle
import sys
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any, Protocol

from raymodal import wire
from raymodal.container.context import CurrentInput, current_input, here
from raymodal.container.lifecycle import Lifecycle
from raymodal.container.loader import load_function
from raymodal.exception import InputCancellation, InvalidError
from raymodal.plan.pool import ContainerPlan
from raymodal.wire import Big, Body, BundleHead, Encoder, Failure, Reply

OVERRUN_S = 0.100
REPLY_BYTES = 4_000_000  # results beyond this end a bundle early
SINGLE_USE = "its container is for one input"
CANCEL_TEXT = "Input was cancelled by user"
_now = time.perf_counter


class Uplink(Protocol):
    """How the side thread reaches the rest of the world."""

    def report(
        self,
        sender: str,
        bundle_id: int,
        epoch: int,
        current: int,
        reply: bytes,
        buffers: list[Any],
        untouched: tuple[int, int],
    ) -> None:
        """Send what was sealed to the holder. `current` is the bundle that runs now: all others queued here go untouched."""

    def interrupt(self) -> None:
        """Make `Runtime.on_interrupt` run in the main thread, soon."""

    def end_process(self, code: int) -> None:
        """End the container without asking user code."""

    def retire(self, reason: str, is_quiet: bool) -> None:
        """This container takes no more. `is_quiet`: and nothing that its end would cut short is left; said later if it is not so yet."""


class _Blob:
    """A result that is encoded already; raw ones are immutable primitives."""

    __slots__ = ("data",)

    def __init__(self, data: bytes) -> None:
        self.data = data


class HasBuffers(Protocol):
    """What keeps the large buffers of a result until they leave."""

    buffers: list[Any]


@dataclass(slots=True)
class _Bundle:
    head: BundleHead
    key: tuple[str, int]
    count: int
    rest: deque[int]
    outs: deque[Any] = field(default_factory=deque)
    first: int = 0  # position of the leftmost outcome that is still here
    pos: int = -1  # being run
    started: float = 0.0
    begun: float = 0.0
    out_bytes: int = 0
    sealed: bool = False
    cancelled: bool = False
    buffers: list[Any] = field(default_factory=list)
    task: asyncio.Task[Any] | None = None
    stream: _Stream | None = None


@dataclass(slots=True)
class _Want:
    """An interrupt that is on its way to one input."""

    bundle: _Bundle
    pos: int
    kind: str
    text: str
    since: float
    tries: int = 0
    heard: bool = False


@dataclass(slots=True)
class _Stream:
    """A generator that is being iterated by a caller, between and during its calls."""

    key: tuple[str, int]
    call_id: str
    context: Context
    generator: Any
    is_async: bool
    sent: int = 0
    ran_s: float = 0.0


class Runtime:
    """One container. See the module's theory of operation.

    Args:
        plan: what to load and run.
        uplink: how sealed outcomes leave and how the main thread is interrupted.
        grace_s: how long an interrupted input may take to end before the process does.
    """

    def __init__(self, plan: ContainerPlan, uplink: Uplink, grace_s: float = 5.0) -> None:
        self.plan = plan
        self.epoch = 0
        self.current: _Bundle | None = None
        self.draining = ""
        self.wake: Callable[[], None] = lambda: None
        self.when_imported: Callable[[], None] = lambda: None
        self._uplink = uplink
        self._grace_s = grace_s
        self._encoder = Encoder()
        self._lock = threading.Lock()
        self._in_user = False
        self._want: _Want | None = None
        self._cancelled: dict[tuple[str, int], float] = {}
        self._streams: dict[tuple[str, int], _Stream] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._function: Callable[..., Any] | None = None
        self._life = None if plan.cls is None else Lifecycle(plan, self._run_hook, self._say)
        self._timeout_s = float(plan.spec.timeout_s)
        self._is_loaded = False
        self._retiring = ""  # why it takes no more, while something is left that must not be cut short

    # --- life

    def load(self) -> None:
        """First phase of a start: import or unpickle the user's function or class; of a class, make the object and run what belongs before a snapshot.

        Raises:
            BaseException: whatever user code raises.
        """
        if self._life is None:
            self._function = load_function(self.plan)
            self.when_imported()
        else:
            self._life.load()
            self.when_imported()
            self._life.make()

    def move(self, plan: ContainerPlan, uplink: Uplink) -> None:
        """Become the runtime of this container: the first phase was done elsewhere, for another id (`container.snapshot`)."""
        self._uplink = uplink
        self._is_loaded = True
        self.learn(plan)

    def learn(self, plan: ContainerPlan) -> None:
        """Be told the whole plan, of which a part was enough to be made with."""
        self.plan = plan
        if self._life is not None:
            self._life.move(plan)

    def close_loop(self) -> None:
        """End the loop, if there is one; the next async code gets a new one."""
        if self._loop is not None and not self._loop.is_closed():
            _close_loop(self._loop)
        self._loop = None

    def enter(self) -> None:
        """Second phase: the other enter hooks. After it, inputs may come.

        Raises:
            BaseException: whatever user code raises.
        """
        context = here()
        if context is not None:
            context.retire = self.retire
        if self._life is not None:
            self._life.enter()

    def boot(self) -> tuple[Any, ...] | None:
        """Both phases. Returns a packed `wire.Failure` for what user code raised."""
        try:
            if not self._is_loaded:
                self.load()
            self.when_imported()
            self.enter()
        except SystemExit as exc:
            # It ends the container, not the program that calls it.
            text = f"Function {self.plan.spec.tag!r}: sys.exit({exc.code!r}) was called while its container started, on import or by an enter hook"
            failure = wire.encode_failure(exc, self.plan.container_id, wire.START)
            failure.exc, failure.text = None, text
            return failure.pack()
        except BaseException as exc:  # noqa: BLE001 - the border between user code and the container
            return wire.encode_failure(exc, self.plan.container_id).pack()
        return None

    def refuse_more(self, reason: str) -> None:
        """Take no further bundles, those that are queued already included. Any thread."""
        self.draining = self.draining or reason

    def retire(self, reason: str) -> None:
        """Take no further inputs, not even those of the bundle that runs, and end after what runs now. Any thread."""
        self.refuse_more(reason)
        bundle = self.current
        while bundle is not None:
            try:
                bundle.rest.pop()
            except IndexError:
                break
        # Its end waits behind the input that runs, but not for a generator that is pulled.
        self._retiring = reason if self._streams else ""
        self._uplink.retire(reason, not self._streams)

    def finish(self, reason: str = "") -> None:
        """Drain: take nothing more, close what is open, run the exit hooks. Main thread."""
        self.refuse_more(reason or "draining")
        for stream in list(self._streams.values()):
            self._close_stream(stream)
        if self._life is not None:
            self._life.leave()
        self.close_loop()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The one loop on which this container's async code runs, for its whole life."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self._loop)
        return self._loop

    def _run_hook(self, awaitable: Any) -> None:
        _unwrap(self.loop.run_until_complete(_await(awaitable)))

    def _target(self, method: str) -> tuple[Callable[..., Any], bool]:
        """What a bundle calls, and whether it is async."""
        if self._life is not None:
            return self._life.method(method)
        assert self._function is not None
        return self._function, self.plan.spec.is_async

    # --- main thread: bundles

    def run(self, blob: bytes, *buffers: Any) -> bytes | list[Any]:
        """Run one bundle and answer it. Never raises for what user code does."""
        head, body = wire.decode_bundle(blob, buffers)
        bundle = self._admit(head)
        if isinstance(bundle, bytes):
            return bundle
        try:
            function, is_async = self._target(head.method)
            if is_async:
                self.loop.run_until_complete(self._run_async(function, bundle, body))
            else:
                copy_context().run(self._run_sync, function, bundle, body)
        finally:
            self._in_user = False
            self.current = None
        return self._finish_bundle(bundle)

    def _admit(self, head: BundleHead) -> _Bundle | bytes:
        count = wire.count_of(head.indices)
        bundle = _Bundle(head, (head.sender, head.bundle_id), count, deque(range(count)))
        bundle.begun = bundle.started = _now()
        self.current = bundle  # before the epoch is read: see the theory of operation
        refused = ""
        if self.draining:
            refused = "draining"
        elif head.epoch < self.epoch:
            refused = "epoch"
        elif bundle.key in self._cancelled:
            refused = "cancelled"
            self._cancelled.pop(bundle.key, None)
        if refused:
            self.current = None
            return wire.encode_reply(Reply(0, 0, False, refused, None, 0.0, wire.JOINT_VALUE, epoch=self.epoch), ())
        if self.plan.spec.single_use_containers:
            self.refuse_more(SINGLE_USE)
        self.wake()
        return bundle

    def _run_sync(self, function: Callable[..., Any], bundle: _Bundle, body: Body) -> None:
        head = bundle.head
        now = CurrentInput(head.call_id, 0)
        current_input.set(now)
        indices = wire.expand(head.indices)
        inputs = _Inputs(head, body)
        take = bundle.rest.popleft
        put = bundle.outs.append
        single = head.kind in (wire.JOINT_VALUE, wire.EACH_VALUE) and head.kwargs is None
        joint = body.joint if single else None
        primitives = wire.PRIMITIVES
        clock = _now
        stop_at = clock() + head.budget_s
        while True:
            try:
                pos = take()
            except IndexError:
                return
            now.index = indices[pos]
            bundle.started = clock()
            bundle.pos = pos
            failure = None
            try:
                try:
                    if joint is not None:
                        self._in_user = True
                        result = function(joint[pos])
                    elif single:
                        value = inputs.value(pos)
                        self._in_user = True
                        result = function(value)
                    else:
                        args, kwargs = inputs.call(pos)
                        self._in_user = True
                        result = function(*args, **kwargs)
                    self._in_user = False
                except BaseException as exc:  # noqa: BLE001 - the border between user code and the container
                    self._in_user = False
                    failure = self._failure(bundle, pos, exc)
            except InputCancellation as exc:
                # An interrupt that came between the user's own exception and the first line of its handler.
                failure = self._failure(bundle, pos, exc)
            if failure is not None:
                put(failure)
            else:
                if self._want is not None and (late := self._settle_want(bundle, pos)) is not None:
                    put(late)
                elif type(result) in primitives:
                    put(result)
                else:
                    out = self._encode(bundle, result)
                    put(out)
                    if bundle.buffers or (type(out) is _Blob and self._is_full(bundle, out)):
                        return
                result = None  # the user's object must not live until the next input
            if clock() > stop_at:
                return

    async def _run_async(self, function: Callable[..., Any], bundle: _Bundle, body: Body) -> None:
        head = bundle.head
        indices = wire.expand(head.indices)
        inputs = _Inputs(head, body)
        stop_at = _now() + head.budget_s
        while True:
            try:
                pos = bundle.rest.popleft()
            except IndexError:
                return
            current_input.set(CurrentInput(head.call_id, indices[pos]))
            bundle.started = _now()
            bundle.pos = pos
            failure = None
            try:
                try:
                    args, kwargs = inputs.call(pos)
                    self._in_user = True
                    coroutine = function(*args, **kwargs)
                    if not inspect.isawaitable(coroutine):
                        raise InvalidError(
                            f"Async function {self.plan.spec.tag!r} returned a {type(coroutine).__name__}, not an awaitable; check its decorators"
                        )
                    bundle.task = asyncio.get_running_loop().create_task(_await(coroutine))
                    result = _unwrap(await bundle.task)
                    self._in_user = False
                except BaseException as exc:  # noqa: BLE001 - the border between user code and the container
                    self._in_user = False
                    failure = self._failure(bundle, pos, exc)
                finally:
                    bundle.task = None
            except InputCancellation as exc:
                failure = self._failure(bundle, pos, exc)
            if failure is not None:
                bundle.outs.append(failure)
            else:
                if self._want is not None and (late := self._settle_want(bundle, pos)) is not None:
                    bundle.outs.append(late)
                elif wire.is_primitive(result):
                    bundle.outs.append(result)
                else:
                    out = self._encode(bundle, result)
                    bundle.outs.append(out)
                    if bundle.buffers or (type(out) is _Blob and self._is_full(bundle, out)):
                        return
            if _now() > stop_at:
                return

    def _encode(self, bundle: HasBuffers, result: Any) -> Any:
        """A result as it travels, or the failure to make it so (reported as if the function had raised it)."""
        try:
            if inspect.isgenerator(result) or inspect.iscoroutine(result) or inspect.isasyncgen(result):
                if inspect.iscoroutine(result):
                    result.close()
                raise InvalidError(
                    f"Function {self.plan.spec.tag!r} returned a {type(result).__name__}. "
                    "Set is_generator=True if it returns a generator, or make it `async def` if it returns a coroutine."
                )
            data = self._encoder.one(result)
        except Exception as exc:  # noqa: BLE001 - user code runs inside pickling
            return wire.encode_failure(exc, self.plan.container_id)
        if isinstance(data, Big):
            bundle.buffers = data.buffers
            return _Blob(data.blob)
        return _Blob(data)

    def _failure(self, bundle: _Bundle, pos: int, exc: BaseException) -> Failure:
        where = self.plan.container_id
        want, self._want = self._want, None
        if isinstance(exc, _BadInput):
            return wire.encode_failure(exc.error, where)
        if want is not None and want.bundle is bundle and want.pos == pos:
            failure = wire.encode_failure(exc, where, want.kind)
            failure.text, failure.exc = want.text, None
            return failure
        if isinstance(exc, InputCancellation | asyncio.CancelledError):
            return Failure(wire.CANCELLED, None, f"The input was cancelled: {type(exc).__name__}: {exc}", where=where)
        if isinstance(exc, KeyboardInterrupt | GeneratorExit):
            # Modal ends the container for these instead of sending them; its inputs run again elsewhere.
            self._uplink.end_process(1)
        return wire.encode_failure(exc, where)

    def _is_full(self, bundle: _Bundle, out: _Blob) -> bool:
        bundle.out_bytes += len(out.data)
        return bundle.out_bytes > REPLY_BYTES

    def _settle_want(self, bundle: _Bundle, pos: int) -> Failure | None:
        """An input ended by itself while an interrupt was on its way: cancellation lets its value stand, a timeout does not."""
        want, self._want = self._want, None
        if want is not None and want.bundle is bundle and want.pos == pos and want.kind == wire.TIMEOUT:
            return Failure(wire.TIMEOUT, None, want.text, where=self.plan.container_id)
        return None

    def _finish_bundle(self, bundle: _Bundle) -> bytes | list[Any]:
        with self._lock:
            outs = list(bundle.outs)
            start = bundle.first
            sealed = bundle.sealed
        reply, items = self._reply(start, outs, sealed=sealed)
        reply.elapsed_s = _now() - (bundle.started if sealed else bundle.begun)
        data = wire.encode_reply(reply, items)
        return [data, *bundle.buffers] if bundle.buffers else data

    def _reply(self, start: int, outs: list[Any], *, sealed: bool) -> tuple[Reply, list[Any]]:
        failures: dict[int, Failure] | None = None
        kind = wire.JOINT_VALUE
        items = outs
        if not wire.all_primitive(outs):
            failures = {start + at: out for at, out in enumerate(outs) if type(out) is Failure} or None
            good = [out for out in outs if type(out) is not Failure]
            if wire.all_primitive(good):
                items = good
            else:
                kind = wire.EACH_VALUE
                items = [out.data if type(out) is _Blob else pickle.dumps(out, 5) for out in good]
        return Reply(start, start + len(outs), sealed, "", failures, 0.0, kind), items

    # --- main thread: streams

    def open_stream(self, blob: bytes, limit: int, *buffers: Any) -> bytes | list[Any]:
        """Start a generator and return its first items."""
        head, body = wire.decode_bundle(blob, buffers)
        bundle = self._admit(head)
        if isinstance(bundle, bytes):
            return bundle
        context = copy_context()
        try:
            args, kwargs = _Inputs(head, body).call(0)
            context.run(current_input.set, CurrentInput(head.call_id, wire.expand(head.indices)[0]))
            function, _ = self._target(head.method)
            self._in_user = True
            made = context.run(function, *args, **kwargs)
            self._in_user = False
            if inspect.iscoroutine(made):
                made = self.loop.run_until_complete(made)
            is_async = isinstance(made, AsyncIterator)
            if not is_async and not isinstance(made, Iterator):
                raise InvalidError(
                    f"Generator function {self.plan.spec.tag!r} returned a {type(made).__name__}, not a generator"
                )
            stream = _Stream(bundle.key, head.call_id, context, made, is_async)
        except BaseException as exc:  # noqa: BLE001 - the border between user code and the container
            self._in_user = False
            self.current = None
            return self._stream_reply(bundle, 0, [self._failure(bundle, 0, exc)], more=False)
        self._streams[bundle.key] = stream
        return self._advance(bundle, stream, limit)

    def next_stream(self, sender: str, bundle_id: int, limit: int) -> bytes | list[Any]:
        """More items of an open generator."""
        stream = self._streams.get((sender, bundle_id))
        head = BundleHead(wire.EACH_CALL, self.epoch, bundle_id, sender, "", (0, 1), None, 0.0, False)
        if stream is None:
            return wire.encode_reply(Reply(0, 0, False, "closed", None, 0.0, wire.JOINT_VALUE), ())
        bundle = _Bundle(head, stream.key, 1, deque())
        bundle.started = _now()
        self.current = bundle
        self.wake()
        return self._advance(bundle, stream, limit)

    def close_stream(self, sender: str, bundle_id: int) -> bytes:
        """The caller wants no more: run the generator's `finally`."""
        self._cancelled.pop((sender, bundle_id), None)
        stream = self._streams.get((sender, bundle_id))
        if stream is not None:
            self._close_stream(stream)
        return wire.encode_reply(Reply(0, 0, False, "closed", None, 0.0, wire.JOINT_VALUE), ())

    def _advance(self, bundle: _Bundle, stream: _Stream, limit: int) -> bytes | list[Any]:
        bundle.stream = stream
        bundle.pos = 0
        bundle.first = stream.sent
        begun = _now()
        bundle.started = begun - stream.ran_s  # the timeout covers the whole run of the generator
        stop_at = begun + 0.005
        more = True
        count = 0
        try:
            while count < limit:
                try:
                    self._in_user = True
                    if stream.is_async:
                        item = self.loop.run_until_complete(self._anext(bundle, stream))
                    else:
                        item = stream.context.run(next, stream.generator)
                    self._in_user = False
                except (StopIteration, StopAsyncIteration):
                    self._in_user = False
                    more = False
                    break
                except BaseException as exc:  # noqa: BLE001 - the border between user code and the container
                    self._in_user = False
                    bundle.outs.append(self._failure(bundle, 0, exc))
                    count += 1
                    more = False
                    break
                count += 1
                out = item if wire.is_primitive(item) else self._encode(bundle, item)
                bundle.outs.append(out)
                if type(out) is Failure:
                    more = False
                    break
                if bundle.buffers or _now() > stop_at or bundle.cancelled:
                    break
        finally:
            self._in_user = False
            self.current = None
            self._want = None
            stream.ran_s += _now() - begun
            stream.sent += count
        if not more:
            self._close_stream(stream)
        with self._lock:
            outs, start = list(bundle.outs), bundle.first
        return self._stream_reply(bundle, start, outs, more=more)

    async def _anext(self, bundle: _Bundle, stream: _Stream) -> Any:
        bundle.task = asyncio.get_running_loop().create_task(
            _await(stream.generator.__anext__()), context=stream.context
        )
        try:
            return _unwrap(await bundle.task)
        finally:
            bundle.task = None

    def _stream_reply(self, bundle: _Bundle, start: int, outs: list[Any], *, more: bool) -> bytes | list[Any]:
        reply, items = self._reply(start, outs, sealed=False)
        reply.more = more
        reply.elapsed_s = _now() - bundle.started
        data = wire.encode_reply(reply, items)
        return [data, *bundle.buffers] if bundle.buffers else data

    def _close_stream(self, stream: _Stream) -> None:
        self._streams.pop(stream.key, None)
        try:
            self._in_user = True
            if stream.is_async:
                close = getattr(stream.generator, "aclose", None)
                if close is not None:
                    self.loop.run_until_complete(self.loop.create_task(_await(close()), context=stream.context))
            else:
                close = getattr(stream.generator, "close", None)
                if close is not None:
                    stream.context.run(close)
        except BaseException as exc:  # noqa: BLE001 - nobody waits for what a generator raises while it is closed
            self._say(f"Generator {self.plan.spec.tag!r} raised while it was closed: {type(exc).__name__}: {exc}")
        finally:
            self._in_user = False
        if self._retiring and not self._streams:
            reason, self._retiring = self._retiring, ""
            self._uplink.retire(reason, True)

    def _name(self, bundle: _Bundle) -> str:
        """What the user calls what runs: a method goes by the tag of its pool, with its own name in the place of the `*`."""
        tag = self.plan.spec.tag
        if self._life is None:
            return tag
        before, _, after = tag.rpartition("*")
        return f"{before}{bundle.head.method}{after}"

    def _say(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    # --- side thread

    def inspect(self) -> None:
        """Look at the current bundle: overruns, timeouts, interrupts that do not take. Side thread, every 50 ms while there is one."""
        bundle = self.current
        if bundle is None:
            return
        pos, started = bundle.pos, bundle.started
        if pos < 0:
            return
        now = _now()
        ran = now - started
        want = self._want
        if want is not None and want.bundle is bundle and want.pos == pos:
            self._press(want, now)
        elif ran > self._timeout_s:
            text = f"Function {self._name(bundle)!r}: the input ran longer than timeout={self._timeout_s:g} s (function call {bundle.head.call_id})"
            self._interrupt(_Want(bundle, pos, wire.TIMEOUT, text, now))
        if bundle.stream is not None:
            if ran - bundle.stream.ran_s > OVERRUN_S and bundle.outs:
                self._flush_stream(bundle)
        elif ran > OVERRUN_S and not bundle.sealed and (bundle.count > 1 or bundle.head.pipelined):
            self._seal(bundle)

    def _seal(self, bundle: _Bundle, also: Failure | None = None) -> None:
        with self._lock:
            if bundle.sealed and also is None:
                return
            bundle.sealed = True
            upto = bundle.count
            while True:
                try:
                    upto = bundle.rest.pop()
                except IndexError:
                    break
            taken: list[Any] = []
            while True:
                try:
                    taken.append(bundle.outs.popleft())
                except IndexError:
                    break
            if also is not None:
                taken.append(also)
            start = bundle.first
            bundle.first += len(taken)
            self.epoch += 1
            now_current = self.current
            current = (
                now_current.head.bundle_id
                if now_current is not None and now_current.head.sender == bundle.head.sender
                else 0
            )
            epoch = self.epoch
            buffers = list(bundle.buffers)
        reply, items = self._reply(start, taken, sealed=True)
        data = wire.encode_reply(reply, items)
        self._uplink.report(
            bundle.head.sender, bundle.head.bundle_id, epoch, current, data, buffers, (upto, bundle.count)
        )

    def _flush_stream(self, bundle: _Bundle) -> None:
        """Items that are ready must not wait for one that is slow."""
        with self._lock:
            taken: list[Any] = []
            while True:
                try:
                    taken.append(bundle.outs.popleft())
                except IndexError:
                    break
            start = bundle.first
            bundle.first += len(taken)
        if taken:
            reply, items = self._reply(start, taken, sealed=True)
            reply.more = True
            data = wire.encode_reply(reply, items)
            self._uplink.report(
                bundle.head.sender,
                bundle.head.bundle_id,
                self.epoch,
                bundle.head.bundle_id,
                data,
                list(bundle.buffers),
                (0, 0),
            )

    def cancel(self, sender: str, bundle_id: int, text: str = CANCEL_TEXT, kind: str = wire.CANCELLED) -> None:
        """Cancel a bundle: what has not begun never runs, what runs is interrupted. Side thread.

        Args:
            kind: `wire.LOST` where nobody has wanted that: whoever still waits for the input may send it again.
        """
        key = (sender, bundle_id)
        bundle = self.current
        if bundle is None or bundle.key != key:
            if len(self._cancelled) > 10_000:
                self._cancelled.clear()
            self._cancelled[key] = _now()
            return
        bundle.cancelled = True
        while True:
            try:
                bundle.rest.pop()
            except IndexError:
                break
        if bundle.pos >= 0:
            self._interrupt(_Want(bundle, bundle.pos, kind, text, _now()))

    def cancel_current(self, text: str, kind: str = wire.CANCELLED) -> None:
        """Cancel whatever runs. Side thread."""
        bundle = self.current
        if bundle is not None:
            self.cancel(*bundle.key, text, kind)

    def cancel_sender(self, sender: str, text: str, kind: str = wire.CANCELLED) -> None:
        """Cancel what runs for a caller that is gone. Side thread."""
        bundle = self.current
        if bundle is not None and bundle.key[0] == sender:
            self.cancel(*bundle.key, text, kind)

    def exchange(self, sender: str, blob: bytes, *buffers: Any) -> bytes | list[Any]:
        """Take in a caller's messages and bring back outcomes: only where several inputs run at once."""
        raise NotImplementedError

    def _interrupt(self, want: _Want) -> None:
        self._want = want
        self._press(want, _now())

    def _press(self, want: _Want, now: float) -> None:
        """Make an unwanted input end: ask its task, then signal, then end the process."""
        if now - want.since > self._grace_s:
            failure = Failure(
                want.kind,
                None,
                want.text + "; it did not end when interrupted, so its container was killed",
                where=self.plan.container_id,
            )
            if want.bundle.stream is None:
                self._seal(want.bundle, failure)
            self._uplink.end_process(1)
            return
        task, loop = want.bundle.task, self._loop
        if task is None or loop is None:
            if want.tries % 4 == 0:
                self._uplink.interrupt()
        elif want.tries == 0:
            loop.call_soon_threadsafe(self._cancel_task, task, want)
        elif not want.heard and want.tries % 4 == 0:
            # The loop does not turn, so user code blocks it: only there is it safe to raise from a signal.
            self._uplink.interrupt()
        want.tries += 1

    def _cancel_task(self, task: asyncio.Task[Any], want: _Want) -> None:
        want.heard = True
        task.cancel(want.text)

    def on_interrupt(self) -> None:
        """In the main thread, by signal or otherwise: raise in user code if it is still the one meant.

        Raises:
            InputCancellation: the running input is unwanted.
        """
        want = self._want
        bundle = self.current
        if want is None or not self._in_user or bundle is not want.bundle or bundle.pos != want.pos:
            return
        self._in_user = False
        raise InputCancellation(want.text)


class _BadInput(Exception):
    def __init__(self, error: BaseException) -> None:
        self.error = error


class _Inputs:
    """A bundle's inputs as arguments; one that cannot be unpickled fails alone."""

    __slots__ = ("_body", "_kind", "_kwargs")

    def __init__(self, head: BundleHead, body: Body) -> None:
        self._body = body
        self._kind = head.kind
        self._kwargs = head.kwargs

    def value(self, pos: int) -> Any:
        try:
            return self._body[pos]
        except Exception as error:
            raise _BadInput(_explain_input(error)) from error

    def call(self, pos: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        got = self.value(pos)
        if self._kind == wire.EACH_CALL:
            args, kwargs = got
            return args, kwargs
        kwargs = pickle.loads(self._kwargs) if self._kwargs is not None else {}
        if self._kind in (wire.JOINT_VALUE, wire.EACH_VALUE):
            return (got,), kwargs
        return tuple(got), kwargs


def _explain_input(error: Exception) -> Exception:
    from raymodal.exception import DeserializationError

    if isinstance(error, ModuleNotFoundError):
        why = f"module {error.name!r} is not installed in the container"
    elif isinstance(error, AttributeError | ImportError):
        why = f"{error}; the class or function must be importable in the container too"
    else:
        why = f"{type(error).__name__}: {error}"
    return DeserializationError(f"The input could not be deserialized in the container: {why}")


class _Exit:
    """A `SystemExit` or `KeyboardInterrupt` of user code, kept from the loop: one that leaves a task stops the loop and with it the container."""

    __slots__ = ("error",)

    def __init__(self, error: BaseException) -> None:
        self.error = error


async def _await(awaitable: Any) -> Any:
    try:
        return await awaitable
    except (SystemExit, KeyboardInterrupt) as error:
        return _Exit(error)


def _unwrap(result: Any) -> Any:
    if type(result) is _Exit:
        raise result.error
    return result


def _close_loop(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if tasks:
        loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
