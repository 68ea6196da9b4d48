"""A container that runs several inputs at once: `@concurrent`. No Ray here.

Theory of operation. Messages arrive by `exchange`, on any thread and many at a time; it takes in what its caller sends, then waits until something is
there for that caller and brings it back. A caller's next exchange sends the one that waits home at once, so one call both delivers and collects, and outcomes that
become ready together travel together. An input becomes a piece of *work* and takes one of `lanes`; where none is free it waits its turn, first come, first served.

    sync code     runs in a daemon thread of a pool of at most `lanes`
    async code    is one task on the container's one loop, which has a thread of its own; async hooks run on the same loop
    batches       inputs of `@batched` wait until a lane is free, which then takes them in one piece (`logic.batching`)
    generators    advance as work of their own, while somebody pulls; what is ready when the next item takes long goes ahead

Each piece of work has its own context, clock and end. The watch thread looks at all of them: one that is unwanted (timeout, cancellation) is asked to end: its task is
cancelled, or `InputCancellation` is raised in its thread at the next bytecode. What does not end within the grace cannot be ended at all without its
neighbours: its outcome is reported and the container **retires**: it takes nothing more, its neighbours run to their end, then its process ends. Only where the
loop itself is blocked nothing else can go on, and the process ends at once.

`_lock` guards the lanes and who is to be interrupted; `_in_user` of a piece of work is set while user code runs, so that nothing is raised anywhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import inspect
import math
import queue
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any

from raymodal import wire
from raymodal.container import mounts
from raymodal.container.context import CurrentInput, current_input, here
from raymodal.container.runtime import (
    CANCEL_TEXT,
    OVERRUN_S,
    SINGLE_USE,
    Runtime,
    Uplink,
    _await,
    _close_loop,
    _Inputs,
    _unwrap,
)
from raymodal.container.runtime import _BadInput as BadInput
from raymodal.exception import InputCancellation, InvalidError
from raymodal.logic.batching import Batcher
from raymodal.plan.pool import EXCHANGES, ContainerPlan, lanes_of
from raymodal.wire import BundleHead, Encoder, Failure, Reply

WAIT_S = 20.0
TURN_S = 0.05  # how long one waits where they must take turns
STREAM_S = 0.005  # a pull brings what a generator yields within this
TURN_AWAY_S = 0.5  # inputs that were expected to wait a moment for a lane and wait this long go back to their caller
FINISH_S = 25.0  # what still runs may take this long beyond its timeout when its container drains
SEND_HOME_S = 0.5
RETIRING = "the container retires, because an input could not be ended"
_now = time.perf_counter


class _PerThread:
    """An encoder of its own for every thread."""

    def __init__(self) -> None:
        self._local = threading.local()

    def one(self, value: Any) -> Any:
        encoder: Encoder | None = getattr(self._local, "encoder", None)
        if encoder is None:
            encoder = self._local.encoder = Encoder()
        return encoder.one(value)


class _Box:
    """Outcomes for one caller, and the exchange of it that waits for them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._items: list[tuple[int, bytes, list[Any]]] = []
        self._waiting: threading.Lock | None = None

    def put(self, *items: tuple[int, bytes, list[Any]]) -> None:
        with self._lock:
            self._items += items
            waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.release()

    def take(self, wait_s: float) -> list[tuple[int, bytes, list[Any]]]:
        """What is there, or the first that comes; nothing after a while, or when the caller's next exchange takes over."""
        with self._lock:
            before, self._waiting = self._waiting, None
            items, self._items = self._items, []
            mine = threading.Lock()
            mine.acquire()
            if not items:
                self._waiting = mine
        if before is not None:
            before.release()
        if items:
            return items
        mine.acquire(timeout=wait_s)
        with self._lock:
            if self._waiting is mine:
                self._waiting = None
            items, self._items = self._items, []
        return items

    @property
    def is_idle(self) -> bool:
        return not self._items and self._waiting is None


@dataclass(slots=True, eq=False)
class Job:
    """One input, from its arrival to its answer."""

    sender: str
    number: int
    head: BundleHead
    inputs: _Inputs
    work: Work | None = None
    answered: bool = False
    buffers: list[Any] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, int]:
        return (self.head.sender, self.head.bundle_id)

    @property
    def index(self) -> int:
        return wire.expand(self.head.indices)[0]


@dataclass(slots=True, eq=False)
class _Want:
    kind: str
    text: str
    since: float
    tries: int = 0
    heard: bool = False


@dataclass(slots=True, eq=False)
class Work:
    """What takes a lane: an input, or one advance of a generator."""

    jobs: list[Job]
    function: Callable[..., Any]
    is_async: bool
    stream: _Stream | None = None
    is_batch: bool = False
    came: float = 0.0
    started: float = 0.0
    in_user: bool = False
    pressed: bool = False  # an exception may be on its way into its thread
    thread_id: int = 0
    task: asyncio.Task[Any] | None = None
    want: _Want | None = None
    given_up: bool = False


@dataclass(slots=True, eq=False)
class _Stream:
    """A generator that is open."""

    job: Job
    context: Context
    generator: Any = None
    is_async: bool = False
    pulls: deque[tuple[int, int]] = field(default_factory=deque)  # (number, limit) of calls that wait for items
    outs: list[Any] = field(default_factory=list)
    buffers: list[Any] = field(default_factory=list)
    sent: int = 0
    ran_s: float = 0.0
    since: float = 0.0  # of the last item
    busy: bool = False
    more: bool = True
    closers: list[tuple[str, int]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class SharedRuntime(Runtime):
    """A container with `lanes` inputs at once. See the module's theory of operation.

    Args:
        plan, uplink, grace_s: as for `Runtime`.
    """

    def __init__(self, plan: ContainerPlan, uplink: Uplink, grace_s: float = 5.0) -> None:
        super().__init__(plan, uplink, grace_s)
        self.lanes = self.most_lanes = lanes_of(plan.spec)
        self._encoder = _PerThread()  # type: ignore[assignment]
        self._context = copy_context()
        self._boxes: dict[str, _Box] = {}
        self._collecting = 0
        self._active = 0
        self._waiting: deque[Work] = deque()
        self._works: dict[Work, None] = {}
        self._jobs: dict[tuple[str, int], Job] = {}
        self._open: dict[tuple[str, int], _Stream] = {}
        batch = plan.spec.batching
        self._batch = batch
        self._batchers: dict[str, Batcher[Job]] = {}  # by method
        self._next_cut: float | None = None
        self._threads = _Threads(self._run_in_thread)
        self._loop_thread: threading.Thread | None = None
        self._arrivals: deque[Work] = deque()
        self._will_start = False
        self._quiet = threading.Condition(self._lock)
        self._retired = False
        self._is_over = False
        self._is_single_use = plan.spec.single_use_containers

    # --- life

    def enter(self) -> None:
        self._context = copy_context()  # the local engine says by it which container this is
        mounts.allow_threads()
        context = here()
        if context is not None:
            context.lanes = self.set_lanes
        super().enter()

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._loop_thread = threading.Thread(
                    target=self._turn_loop, args=(self._loop,), name="raymodal-loop", daemon=True
                )
                mounts.start_inside(self._loop_thread)
            return self._loop

    def _turn_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        asyncio.set_event_loop(loop)
        while True:
            try:
                loop.run_forever()
                return
            except BaseException as error:  # noqa: BLE001 - a SystemExit of a task that user code has left running
                self._say(f"A background task of {self.plan.spec.tag!r} raised {type(error).__name__}: {error}")

    def close_loop(self) -> None:
        loop, thread, self._loop, self._loop_thread = self._loop, self._loop_thread, None, None
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join(timeout=2.0)
        if not thread.is_alive():
            _close_loop(loop)

    def _run_hook(self, awaitable: Any) -> None:
        _unwrap(asyncio.run_coroutine_threadsafe(_await(awaitable), self.loop).result())

    def finish(self, reason: str = "") -> None:
        """Drain: take nothing more, let what runs end, then as `Runtime.finish`."""
        self.refuse_more(reason or "draining")
        for key in list(self._open):
            self._close_stream_of(key, None)
        with self._quiet:
            self._quiet.wait_for(lambda: all(work.given_up for work in self._works), timeout=self._timeout_s + FINISH_S)
        self._send_home()
        super().finish(reason)
        self._threads.close()

    def _is_quiet(self) -> bool:
        """Nothing runs, and no generator is open that somebody may still want items of. Under `_lock`."""
        streams = (stream.job.work for stream in self._open.values())
        return all(work.given_up for work in self._works) and all(
            work is not None and work.given_up for work in streams
        )

    def _send_home(self) -> None:
        """Let the exchanges that wait bring the last answers home: this process may be gone in a moment."""
        self._is_over = True
        for box in list(self._boxes.values()):
            box.put()
        until = _now() + SEND_HOME_S
        while self._collecting and _now() < until:
            time.sleep(0.001)

    # --- messages, on any thread

    def exchange(self, sender: str, blob: bytes, *buffers: Any) -> bytes | list[Any]:
        """Take in a caller's messages; wait for what is ready for it. See the theory of operation."""
        at = 0
        for number, method, args, held in wire.decode_messages(blob):
            self._accept(sender, number, method, args, buffers[at : at + held])
            at += held
        box = self._box(sender)
        with self._lock:
            self._collecting += 1
            wait_s = TURN_S if self._is_over or self._collecting >= EXCHANGES else WAIT_S
        try:
            items = box.take(wait_s)
        finally:
            with self._lock:
                self._collecting -= 1
        data = wire.encode_messages([(number, "", (reply,), len(held)) for number, reply, held in items])
        out = [buffer for _, _, held in items for buffer in held]
        return [data, *out] if out else data

    def _box(self, sender: str) -> _Box:
        box = self._boxes.get(sender)
        if box is None:
            with self._lock:
                if len(self._boxes) > 1000:
                    busy = {job.sender for job in list(self._jobs.values())}
                    for name in [n for n, b in self._boxes.items() if b.is_idle and n not in busy]:
                        del self._boxes[name]
                box = self._boxes.setdefault(sender, _Box())
        return box

    def _accept(self, sender: str, number: int, method: str, args: tuple[Any, ...], buffers: tuple[Any, ...]) -> None:
        if method in ("run", "open_stream"):
            head, body = wire.decode_bundle(args[0], buffers)
            job = Job(sender, number, head, _Inputs(head, body))
            refused = self._refusal(job)
            if refused:
                self._put(job, Reply(0, 0, False, refused, None, 0.0, wire.JOINT_VALUE), ())
                return
            if method == "open_stream":
                self._open_stream_of(job, args[1])
            else:
                self._begin(job)
        elif method == "next_stream":
            self._pull((args[0], args[1]), sender, number, args[2])
        elif method == "close_stream":
            self._close_stream_of((args[0], args[1]), (sender, number))

    def _refusal(self, job: Job) -> str:
        with self._lock:
            if self.draining:
                return "draining"
            if self._cancelled.pop(job.key, None) is not None:
                return "cancelled"
            self._jobs[job.key] = job
        return ""

    def _begin(self, job: Job) -> None:
        if self._batch is not None:
            with self._lock:
                self._batcher(job.head.method).add(job, _now())
            self._cut()
            return
        function, is_async = self._target(job.head.method)
        work = Work([job], function, is_async)
        job.work = work
        self._enqueue(work)

    # --- lanes

    def _enqueue(self, work: Work) -> None:
        with self._lock:
            if self._active >= self.lanes:
                work.came = _now()
                self._waiting.append(work)
                return
            self._occupy(work)
        self._launch(work)

    def _occupy(self, work: Work) -> None:
        self._active += 1
        work.started = _now()  # before the watch thread can see it
        self._works[work] = None
        self.current = work  # type: ignore[assignment]  # all that the watch thread asks is whether there is any

    def _launch(self, work: Work) -> None:
        self.wake()
        if work.is_async:
            loop = self.loop
            self._arrivals.append(work)
            if not self._will_start:
                self._will_start = True
                loop.call_soon_threadsafe(self._start_tasks)
        else:
            self._threads.submit(work)

    def _vacate(self, work: Work) -> None:
        """Its lane is free: whoever waits is next. Any thread."""
        with self._lock:
            if self._works.pop(work, self) is self:
                return
            self._active -= 1
            begin = self._fill_lanes()
            if not self._works:
                self.current = None
            self._quiet.notify_all()
        for following in begin:
            self._launch(following)
        if self._batchers:
            self._cut()
        if self._retiring:
            self._tell_if_quiet()

    def set_lanes(self, count: int | None = None) -> int:
        """Run at most this many at once from now on; says how many."""
        if count is None:
            return self.lanes
        self.lanes = max(1, min(count, self.most_lanes))
        with self._lock:
            begin = self._fill_lanes()
        for following in begin:
            self._launch(following)
        self._cut()
        return self.lanes

    def _fill_lanes(self) -> list[Work]:
        """Who may begin now. Under `_lock`."""
        begin: list[Work] = []
        while self._waiting and self._active < self.lanes:
            following = self._waiting.popleft()
            self._occupy(following)
            begin.append(following)
        return begin

    # --- batches

    def _batcher(self, method: str) -> Batcher[Job]:
        batcher = self._batchers.get(method)
        if batcher is None:
            assert self._batch is not None
            batcher = self._batchers[method] = Batcher(self._batch.max_batch_size, self._batch.wait_ms / 1000)
        return batcher

    def _cut(self) -> None:
        """Give free lanes what waits, as far as it is due, and look again when the next is."""
        begin: list[Work] = []
        wait_s: float | None = None
        with self._lock:
            now = _now()
            for method, batcher in self._batchers.items():
                while self._active < self.lanes and (jobs := batcher.take(now)):
                    function, is_async = self._target(method)
                    work = Work(jobs, function, is_async, is_batch=True)
                    for job in jobs:
                        job.work = work
                    self._occupy(work)
                    begin.append(work)
                    if self._is_single_use:
                        self.refuse_more(SINGLE_USE)
                        break
                if begin and self._is_single_use:
                    break
            dues = [due for batcher in self._batchers.values() if (due := batcher.due_at) is not None]
            is_over = self._is_single_use and bool(self.draining)
            if (
                dues
                and not is_over
                and self._active < self.lanes
                and (self._next_cut is None or min(dues) < self._next_cut)
            ):
                self._next_cut = min(dues)
                wait_s = max(0.0, min(dues) - now)
        for work in begin:
            self._launch(work)
        if begin and self._is_single_use:
            self.retire(SINGLE_USE)
        if wait_s is not None:
            loop = self.loop
            loop.call_soon_threadsafe(loop.call_later, wait_s, self._cut_at_time)

    def _cut_at_time(self) -> None:
        with self._lock:
            self._next_cut = None
        self._cut()

    def _collated(self, work: Work) -> tuple[list[Any], dict[str, list[Any]]]:
        """The batch's arguments: a list for each parameter. An input whose arguments do not fit fails alone.

        Raises:
            _Empty: no input is left.
        """
        parameters = inspect.signature(work.function).parameters
        names = list(parameters)
        lists: dict[str, list[Any]] = {name: [] for name in names}
        for job in list(work.jobs):
            try:
                values = self._bound(work, names, *job.inputs.call(0))
            except Exception as error:  # noqa: BLE001 - the user's classes run while they are unpickled
                work.jobs.remove(job)
                self._answer(job, self._why(work, error))
                continue
            for name in names:
                lists[name].append(values[name])
        if not work.jobs:
            raise _Empty
        first = work.jobs[0]
        current_input.set(CurrentInput(first.head.call_id, first.index))
        alone = [name for name in names if parameters[name].kind is inspect.Parameter.POSITIONAL_ONLY]
        return [lists.pop(name) for name in alone], lists

    def _bound(self, work: Work, names: list[str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """One call's values by parameter."""
        values = dict(zip(names, args, strict=False))
        twice = values.keys() & kwargs.keys()
        values.update(kwargs)
        if len(args) > len(names) or twice or values.keys() != set(names):
            raise InvalidError(
                f"The batched function {self._name_of(work.jobs[0])!r} takes {', '.join(names) or 'nothing'}, each exactly once in every call; "
                f"this call gave {len(args)} by position and {', '.join(kwargs) or 'none'} by name."
            )
        return values

    def _settle_batch(self, work: Work, outcome: Any, error: BaseException | None) -> None:
        """Answer every input of a batch."""
        if type(error) is _Empty:
            return
        want = work.want
        if error is None and want is not None and want.kind == wire.TIMEOUT:
            error = InputCancellation(want.text)
        if error is None:
            error = self._why_no_outcomes(work, outcome)
        if error is not None:
            outs = [self._why(work, error)] * len(work.jobs)
        else:
            outs = [
                value if wire.is_primitive(value) else self._encode(job, value)
                for job, value in zip(work.jobs, outcome, strict=True)
            ]
        ready: dict[str, list[tuple[int, bytes, list[Any]]]] = {}
        for job, out in zip(work.jobs, outs, strict=True):
            reply = self._reply_of(job, out)
            if reply is not None:
                ready.setdefault(job.sender, []).append(reply)
        if work.is_async:
            # The next batch is on its way before the outcomes wake the threads that carry them, and those want the interpreter.
            self._vacate(work)
        for sender, replies in ready.items():
            self._box(sender).put(*replies)

    def _why_no_outcomes(self, work: Work, outcome: Any) -> InvalidError | None:
        name, count = self._name_of(work.jobs[0]), len(work.jobs)
        if not isinstance(outcome, list):
            return InvalidError(
                f"The batched function {name!r} returned {type(outcome).__name__}, not a list. Return a list with one value for each of the {count} inputs, "
                "in their order."
            )
        if len(outcome) != count:
            return InvalidError(
                f"The batched function {name!r} returned {len(outcome)} values for {count} inputs. Return one value for each, in their order."
            )
        return None

    # --- sync work, in a thread

    def _run_in_thread(self, work: Work) -> None:
        context = self._context.copy() if work.stream is None else work.stream.context
        try:
            context.run(self._perform, work) if work.stream is None else self._perform(work)
        finally:
            self._vacate(work)

    def _perform(self, work: Work) -> None:
        work.thread_id = threading.get_ident()
        outcome: Any = None
        error: BaseException | None = None
        try:
            try:
                outcome = self._call(work)
            except BaseException as exc:  # noqa: BLE001 - the border between user code and the container
                error = exc
            self._leave_user(work)
        except InputCancellation as exc:  # it came between the end of user code and the line above
            self._leave_user(work)
            error = error or exc
        self._settle(work, outcome, error)

    def _call(self, work: Work) -> Any:
        if work.stream is not None:
            return self._advance_sync(work, work.stream)
        args, kwargs = self._collated(work) if work.is_batch else self._arguments(work)
        work.in_user = True
        return work.function(*args, **kwargs)

    def _leave_user(self, work: Work) -> None:
        """From here on nothing is raised in this thread. What was on its way is let in now: taking it back by a null exception leaves a flag of CPython 3.11 set
        for good, which slows every thread down and hangs traced code."""
        with self._lock:
            work.in_user = False
            pressed, work.pressed = work.pressed, False
        if pressed:
            try:
                for _ in range(100):
                    pass
            except InputCancellation:
                pass

    def _arguments(self, work: Work) -> tuple[tuple[Any, ...], dict[str, Any]]:
        job = work.jobs[0]
        current_input.set(CurrentInput(job.head.call_id, job.index))
        return job.inputs.call(0)

    # --- async work, on the loop

    def _start_tasks(self) -> None:
        self._will_start = False  # before looking: what comes later calls again
        while self._arrivals:
            work = self._arrivals.popleft()
            context = self._context.copy() if work.stream is None else work.stream.context
            assert self._loop is not None
            work.task = self._loop.create_task(self._perform_async(work), context=context)
            want = work.want
            if want is not None:
                work.task.cancel(want.text)

    async def _perform_async(self, work: Work) -> None:
        outcome: Any = None
        error: BaseException | None = None
        try:
            outcome = await self._call_async(work)
        except BaseException as exc:  # noqa: BLE001 - the border between user code and the container
            error = exc
        finally:
            work.in_user = False
        try:
            self._settle(work, outcome, error)
        finally:
            self._vacate(work)

    async def _call_async(self, work: Work) -> Any:
        if work.stream is not None:
            return await self._advance_async(work, work.stream)
        args, kwargs = self._collated(work) if work.is_batch else self._arguments(work)
        work.in_user = True
        awaitable = work.function(*args, **kwargs)
        if not inspect.isawaitable(awaitable):
            raise InvalidError(
                f"Async function {self.plan.spec.tag!r} returned a {type(awaitable).__name__}, not an awaitable; check its decorators"
            )
        return await awaitable

    # --- outcomes

    def _settle(self, work: Work, outcome: Any, error: BaseException | None) -> None:
        """User code has ended: answer."""
        if work.stream is not None:
            if error is not None:  # an interrupt that came late
                work.stream.outs.append(self._why(work, error))
                self._advanced(work.stream, is_done=True)
            return  # else its pulls were answered as it went
        if work.is_batch:
            self._settle_batch(work, outcome, error)
            return
        job = work.jobs[0]
        want = work.want
        if error is not None:
            self._answer(job, self._why(work, error))
        elif want is not None and want.kind == wire.TIMEOUT:
            self._answer(job, Failure(wire.TIMEOUT, None, want.text, where=self.plan.container_id))
        else:
            self._answer(job, outcome if wire.is_primitive(outcome) else self._encode(job, outcome))

    def _why(self, work: Work, error: BaseException) -> Failure:
        where = self.plan.container_id
        if isinstance(error, BadInput):
            return wire.encode_failure(error.error, where)
        want = work.want
        if want is not None:
            failure = wire.encode_failure(error, where, want.kind)
            failure.text, failure.exc = want.text, None
            return failure
        if isinstance(error, InputCancellation | asyncio.CancelledError):
            return Failure(
                wire.CANCELLED, None, f"The input was cancelled: {type(error).__name__}: {error}", where=where
            )
        if isinstance(error, KeyboardInterrupt | GeneratorExit):
            self._uplink.end_process(1)
        return wire.encode_failure(error, where)

    def _answer(self, job: Job, out: Any) -> None:
        item = self._reply_of(job, out)
        if item is not None:
            self._box(job.sender).put(item)

    def _reply_of(self, job: Job, out: Any) -> tuple[int, bytes, list[Any]] | None:
        with self._lock:
            if job.answered:
                return None  # it was given up before
            job.answered = True
            self._jobs.pop(job.key, None)
        reply, items = self._reply(0, [out], sealed=False)
        work = job.work
        reply.elapsed_s = _now() - work.started if work is not None and work.started else 0.0
        return job.number, wire.encode_reply(reply, items), job.buffers

    def _put(self, job: Job, reply: Reply, items: Any) -> None:
        self._box(job.sender).put((job.number, wire.encode_reply(reply, items), job.buffers))

    # --- streams

    def _open_stream_of(self, job: Job, limit: int) -> None:
        stream = _Stream(job, self._context.copy())
        stream.context.run(current_input.set, CurrentInput(job.head.call_id, job.index))
        stream.pulls.append((job.number, limit))
        with self._lock:
            self._open[job.key] = stream
            self._jobs.pop(job.key, None)
        self._advance_soon(stream)

    def _pull(self, key: tuple[str, int], sender: str, number: int, limit: int) -> None:
        stream = self._open.get(key)
        if stream is None:
            self._say_closed(sender, number)
            return
        with stream.lock:
            stream.pulls.append((number, limit))
        self._advance_soon(stream)

    def _close_stream_of(self, key: tuple[str, int], closer: tuple[str, int] | None) -> None:
        with self._lock:
            self._cancelled.pop(key, None)
        stream = self._open.get(key)
        if stream is None:
            if closer is not None:
                self._say_closed(*closer)
            return
        with stream.lock:
            stream.closers.append(closer or ("", 0))
        self._advance_soon(stream)

    def _say_closed(self, sender: str, number: int) -> None:
        if sender:
            reply = wire.encode_reply(Reply(0, 0, False, "closed", None, 0.0, wire.JOINT_VALUE), ())
            self._box(sender).put((number, reply, []))

    def _advance_soon(self, stream: _Stream) -> None:
        with stream.lock:
            if stream.busy or not (stream.pulls or stream.closers):
                return
            stream.busy = True
        function, is_async = self._target(stream.job.head.method)
        work = Work([stream.job], function, is_async or stream.is_async, stream)
        stream.job.work = work
        self._enqueue(work)

    def _advance_sync(self, work: Work, stream: _Stream) -> None:
        work.started -= stream.ran_s  # the timeout covers the whole run of a generator
        begun = _now()
        is_done = False
        try:
            if stream.generator is None and not stream.closers:
                args, kwargs = stream.job.inputs.call(0)
                work.in_user = True
                stream.generator = stream.context.run(work.function, *args, **kwargs)
                if not isinstance(stream.generator, Iterator):
                    self._refuse_generator(stream)
            while self._has_demand(stream):
                work.in_user = True
                try:
                    item = stream.context.run(next, stream.generator)
                except StopIteration:
                    is_done = True
                    break
                work.in_user = False
                if self._yielded(stream, item):
                    is_done = True
                    break
        except BaseException as error:  # noqa: BLE001 - the border between user code and the container
            self._leave_user(work)
            stream.outs.append(self._why(work, error))
            is_done = True
        self._leave_user(work)
        stream.ran_s += _now() - begun
        if is_done or stream.closers:
            close = getattr(stream.generator, "close", None)
            try:
                work.in_user = True
                if close is not None:
                    stream.context.run(close)
            except BaseException as error:  # noqa: BLE001 - nobody waits for what a generator raises while it is closed
                self._say_of_closing(error)
            work.in_user = False
        self._advanced(stream, is_done=is_done)

    async def _advance_async(self, work: Work, stream: _Stream) -> None:
        work.started -= stream.ran_s
        begun = _now()
        is_done = False
        try:
            if stream.generator is None and not stream.closers:
                args, kwargs = stream.job.inputs.call(0)
                work.in_user = True
                made = work.function(*args, **kwargs)
                stream.generator = await made if inspect.iscoroutine(made) else made
                if not isinstance(stream.generator, AsyncIterator):
                    self._refuse_generator(stream)
            while self._has_demand(stream):
                work.in_user = True
                try:
                    item = await anext(stream.generator)
                except StopAsyncIteration:
                    is_done = True
                    break
                if self._yielded(stream, item):
                    is_done = True
                    break
        except BaseException as error:  # noqa: BLE001 - the border between user code and the container
            stream.outs.append(self._why(work, error))
            is_done = True
        stream.ran_s += _now() - begun
        if is_done or stream.closers:
            close = getattr(stream.generator, "aclose", None)
            try:
                if close is not None:
                    await close()
            except BaseException as error:  # noqa: BLE001 - nobody waits for what a generator raises while it is closed
                self._say_of_closing(error)
        self._advanced(stream, is_done=is_done)

    def _refuse_generator(self, stream: _Stream) -> None:
        name = type(stream.generator).__name__
        stream.generator = None
        raise InvalidError(f"Generator function {self.plan.spec.tag!r} returned a {name}, not a generator")

    def _say_of_closing(self, error: BaseException) -> None:
        self._say(f"Generator {self.plan.spec.tag!r} raised while it was closed: {type(error).__name__}: {error}")

    def _has_demand(self, stream: _Stream) -> bool:
        with stream.lock:
            if not stream.pulls or stream.closers:
                return False
        if not stream.outs:
            stream.since = _now()
        return True

    def _yielded(self, stream: _Stream, item: Any) -> bool:
        """One item more; answers a pull when it is due. True if the item cannot travel, which ends the stream."""
        out = item if wire.is_primitive(item) else self._encode(stream, item)
        with stream.lock:
            stream.outs.append(out)
            is_due = (
                type(out) is Failure
                or bool(stream.buffers)
                or len(stream.outs) >= stream.pulls[0][1]
                or _now() - stream.since > STREAM_S
                if stream.pulls
                else False
            )
        if type(out) is Failure:
            return True
        if is_due:
            self._send_items(stream, more=True)
        return False

    def _send_items(self, stream: _Stream, *, more: bool) -> None:
        """Answer the first pull with what is ready."""
        with stream.lock:
            if not stream.pulls:
                return
            number, _ = stream.pulls.popleft()
            outs, stream.outs = stream.outs, []
            buffers, stream.buffers = stream.buffers, []
            start = stream.sent
            stream.sent += len(outs)
            stream.since = _now()
        reply, items = self._reply(start, outs, sealed=False)
        reply.more = more
        self._box(stream.job.sender).put((number, wire.encode_reply(reply, items), buffers))

    def _advanced(self, stream: _Stream, *, is_done: bool) -> None:
        """Nobody pulls, or the generator has ended."""
        is_over = is_done or bool(stream.closers)
        if is_over:
            stream.more = False
            with self._lock:
                self._open.pop(stream.job.key, None)
            if not is_done and ("", 0) in stream.closers:
                # Its caller must not take that for the generator's own end.
                text = f"Generator {self._name_of(stream.job)!r} was ended, because its container ends"
                stream.outs.append(Failure(wire.LOST, None, text, where=self.plan.container_id))
            while stream.pulls:
                self._send_items(stream, more=False)
            for closer in stream.closers:
                self._say_closed(*closer)
            return
        with stream.lock:
            stream.busy = False
        self._advance_soon(stream)  # something may have come since the last look

    # --- side threads

    def inspect(self) -> None:
        """Look at everything that runs: timeouts, interrupts that do not take, items that wait for a slow one. Side thread."""
        now = _now()
        if self._waiting and now - self._waiting[0].came > TURN_AWAY_S:
            self._turn_away("epoch", now - TURN_AWAY_S)
        for work in list(self._works):
            if work.given_up:
                continue
            if work.want is not None:
                self._press_work(work, work.want, now)
            elif now - work.started > self._timeout_s:
                job = work.jobs[0]
                what = f"a batch of {len(work.jobs)} inputs" if work.is_batch else "the input"
                text = (
                    f"Function {self._name_of(job)!r}: {what} ran longer than timeout={self._timeout_s:g} s "
                    f"(function call {job.head.call_id})"
                )
                work.want = _Want(wire.TIMEOUT, text, now)
                self._press_work(work, work.want, now)
            stream = work.stream
            if stream is not None and stream.outs and now - stream.since > OVERRUN_S:
                self._send_items(stream, more=True)

    def _name_of(self, job: Job) -> str:
        return self._name(job)  # type: ignore[arg-type]  # it asks for the head only

    def cancel(self, sender: str, bundle_id: int, text: str = CANCEL_TEXT, kind: str = wire.CANCELLED) -> None:
        """Cancel one input: what has not begun never runs, what runs is interrupted, its neighbours are left alone. Side thread."""
        key = (sender, bundle_id)
        stream = self._open.get(key)
        job = stream.job if stream is not None else self._jobs.get(key)
        if job is None:
            with self._lock:
                if len(self._cancelled) > 10_000:
                    self._cancelled.clear()
                self._cancelled[key] = _now()
            return
        self._cancel_job(job, text, kind)

    def _cancel_job(self, job: Job, text: str, kind: str) -> None:
        work = job.work
        stream = self._open.get(job.key)
        if stream is not None and not stream.busy:
            self._close_stream_of(job.key, None)
            return
        with self._lock:
            work = job.work
            if work is None and self._batch is not None:
                self._batcher(job.head.method).remove(job)
            waits = work is not None and work not in self._works
            if waits:
                with contextlib.suppress(ValueError):
                    self._waiting.remove(work)  # type: ignore[arg-type]
        if work is None or waits:
            self._answer(job, Failure(kind, None, text, where=self.plan.container_id))
            return
        if work.is_batch:
            # Its neighbours' work goes on; what it would have got is dropped. Only a batch that nobody waits for is interrupted.
            self._answer(job, Failure(kind, None, text, where=self.plan.container_id))
            if not all(other.answered for other in work.jobs):
                return
        if work.want is None:
            work.want = _Want(kind, text, _now())
            self._press_work(work, work.want, _now())

    def cancel_current(self, text: str, kind: str = wire.CANCELLED) -> None:
        """Cancel whatever runs. Side thread."""
        for job in list(self._jobs.values()):
            self._cancel_job(job, text, kind)
        for stream in list(self._open.values()):
            self._cancel_job(stream.job, text, kind)

    def cancel_sender(self, sender: str, text: str, kind: str = wire.CANCELLED) -> None:
        """Cancel what runs for a caller that is gone. Side thread."""
        for key in [*self._jobs, *self._open]:
            if key[0] == sender:
                self.cancel(*key, text, kind)

    def _press_work(self, work: Work, want: _Want, now: float) -> None:
        if now - want.since > self._grace_s:
            self._give_up(work, want)
            return
        task, loop = work.task, self._loop
        if work.is_async:
            if task is not None and loop is not None and want.tries == 0:
                loop.call_soon_threadsafe(self._cancel_task, task, want)  # type: ignore[arg-type]
        elif want.tries % 4 == 0:
            with self._lock:
                if work.in_user:
                    work.pressed = True
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(
                        ctypes.c_ulong(work.thread_id), ctypes.py_object(InputCancellation)
                    )
        want.tries += 1

    def _give_up(self, work: Work, want: _Want) -> None:
        """It does not end: tell its caller so, and retire for the sake of its neighbours."""
        work.given_up = True
        is_blocked = work.is_async and not want.heard
        text = (
            want.text
            + "; it did not end when interrupted, so its container "
            + ("was killed" if is_blocked else "ends")
        )
        failure = Failure(want.kind, None, text, where=self.plan.container_id)
        if work.stream is not None:
            work.stream.outs.append(failure)
            self._send_items(work.stream, more=False)
        for job in work.jobs:
            self._answer(job, failure)
        if is_blocked:
            time.sleep(0.2)  # for the answer to leave
            self._uplink.end_process(1)
            return
        with self._quiet:
            self._quiet.notify_all()
        self.retire(RETIRING)

    def retire(self, reason: str) -> None:
        """As `Runtime.retire`. What would have its process end keeps every caller out, since Ray hands calls on from the main thread; so that waits
        until nothing is left."""
        self.refuse_more(reason)
        self._turn_away()
        with self._lock:
            if self._retired:
                return
            self._retired = True
            is_quiet = self._is_quiet()
            self._retiring = "" if is_quiet else reason
        self._uplink.retire(reason, is_quiet)

    def _tell_if_quiet(self) -> None:
        with self._lock:
            if not self._retiring or not self._is_quiet():
                return
            reason, self._retiring = self._retiring, ""
        self._uplink.retire(reason, True)

    def _turn_away(self, reason: str = "draining", before: float = math.inf) -> None:
        """What came before this and has not begun goes back: lanes that it waits for may be free elsewhere, and here never."""
        with self._lock:
            works = [work for work in self._waiting if work.stream is None and work.came < before]
            for work in works:
                self._waiting.remove(work)
            jobs = [job for work in works for job in work.jobs]
            if reason == "draining":
                jobs += [job for batcher in self._batchers.values() for job in batcher.clear()]
            for job in jobs:
                job.answered = True
                self._jobs.pop(job.key, None)
        for job in jobs:
            self._put(job, Reply(0, 0, False, reason, None, 0.0, wire.JOINT_VALUE), ())


class _Empty(Exception):
    """Every input of a batch has failed before it was run."""


class _Threads:
    """Daemon threads, started as they are needed and kept: user code must not keep a process from ending."""

    def __init__(self, run: Callable[[Work], None]) -> None:
        self._run = run
        self._queue: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._idle = 0

    def close(self) -> None:
        """Those that are idle end."""
        with self._lock:
            idle, self._idle = self._idle, 0
        for _ in range(idle):
            self._queue.put(None)

    def submit(self, work: Work) -> None:
        with self._lock:
            if self._idle:
                self._idle -= 1
                is_new = False
            else:
                is_new = True
        if is_new:
            mounts.start_inside(threading.Thread(target=self._main, args=(work,), name="raymodal-input", daemon=True))
        else:
            self._queue.put(work)

    def _main(self, first: Work) -> None:
        work: Work | None = first
        del first
        while work is not None:
            try:
                self._run(work)
            except InputCancellation:
                pass  # one that came too late
            work = None  # an idle thread must not keep the user's objects alive
            with self._lock:
                self._idle += 1
            work = self._queue.get()
