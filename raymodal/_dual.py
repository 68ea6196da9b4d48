"""Every I/O method twice: ``obj.m(...)`` blocks, ``await obj.m.aio(...)`` does not.

Implementations are written once, ``async``. They run on one daemon thread per process, the I/O loop, whoever calls
them: a plain thread (`run_blocking`), a coroutine on any event loop (`run_here`), or code that is on the I/O loop
already, which simply awaits. This room knows nothing of Ray or of the objects whose methods it wraps.

Theory of operation
-------------------
A `_Job` is one coroutine on the I/O loop together with those who wait for it. Its fields are written on the I/O thread
only. A caller hands over a command and a `wake` callable in one `call_soon_threadsafe`; the job calls `wake` once when
there is something to see (the end; for a stream also the next item; for a context also its entry). A caller that is
interrupted (Ctrl-C, a signal handler that raises, cancellation of an ``.aio`` caller) sends `interrupt` after it: if it
was still waiting, the coroutine is cancelled, and in both cases it is woken once more, so it can always wait for the
clean-up.

Streams and contexts are driven by one task from the first step to the last, because task groups and timeouts inside an
async generator belong to the task which entered them.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import contextvars
import inspect
import linecache
import os
import re
import sys
import threading
import warnings
from asyncio import _get_running_loop
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterator
from types import FrameType, MethodType, TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar, cast, overload

__all__ = [
    "dual",
    "dual_context",
    "dual_context_function",
    "dual_function",
    "dual_stream",
    "dual_stream_ahead",
    "dual_stream_function",
    "io_loop",
    "on_io_loop",
    "run_blocking",
    "run_here",
    "set_async_warnings",
]

P = ParamSpec("P")
S = TypeVar("S")
T = TypeVar("T")

_HERE = os.path.dirname(os.path.abspath(__file__)) + os.sep
_EXIT_PATIENCE_S = 5.0  # how long interpreter exit waits for the clean-up of what still runs


# ----------------------------------------------------------------------------------------------------
# The loop

_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
# The loop being stopped at exit. Who still blocks then is a daemon thread: woken, it would only print a traceback.
_ending: asyncio.AbstractEventLoop | None = None
_start_lock = threading.Lock()
# Loops of the parent process. Kept so that they are never collected here: closing one would unregister its pipe from
# the epoll object which a forked child shares with its parent.
_inherited: list[object] = []
_cleaning: set[_Job[Any]] = set()  # jobs nobody holds any more; asyncio keeps tasks by weak reference only


def io_loop() -> asyncio.AbstractEventLoop:
    """The event loop of this process' I/O thread, started on first use; a forked child gets its own."""
    return _loop if _loop is not None else _start_loop()


def on_io_loop() -> bool:
    """True when the calling code runs on the I/O loop, where it must await and never block."""
    running = _get_running_loop()
    return running is not None and running is _loop


def _start_loop() -> asyncio.AbstractEventLoop:
    global _loop, _thread
    with _start_lock:
        if _loop is None:
            loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_run_loop, args=(loop,), name="raymodal-io", daemon=True)
            _thread.start()
            _loop = loop
        return _loop


def _run_loop(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    while True:
        try:
            loop.run_forever()
            return
        except (SystemExit, KeyboardInterrupt):
            # asyncio lets these two through after storing them in the task, where its waiter finds them.
            continue


def _stop_loop() -> None:
    """At exit: cancel what still runs, let it clean up, end the thread. Later calls would start a new loop."""
    global _loop, _thread, _ending
    loop, thread = _loop, _thread
    if loop is None or thread is None or thread is threading.current_thread():
        return
    _ending = loop
    loop.call_soon_threadsafe(lambda: _cleaning.add(_Call(_drain(loop)).start()))
    thread.join(_EXIT_PATIENCE_S)
    if thread.is_alive():
        loop.set_exception_handler(_say_nothing)  # no "Task was destroyed" from a coroutine that hangs
        _inherited.append(loop)
    else:
        loop.close()
    _loop = _thread = None


def _say_nothing(_loop: asyncio.AbstractEventLoop, _context: dict[str, Any]) -> None:
    """An exception handler for a loop whose tasks are lost anyway."""


async def _drain(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop) - {asyncio.current_task(loop)}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=_EXIT_PATIENCE_S * 0.8)
    await loop.shutdown_asyncgens()
    loop.stop()


def _after_fork() -> None:
    global _loop, _thread, _start_lock
    if _loop is not None:
        _loop.set_exception_handler(_say_nothing)  # its tasks are the parent's, and are not lost there
        _inherited.append((_loop, list(_cleaning)))
    _loop = _thread = None
    _start_lock = threading.Lock()  # another thread of the parent may have held it
    _cleaning.clear()


# Registered at import, hence before the engines register theirs, hence run after them: their shutdown needs the loop.
atexit.register(_stop_loop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


# ----------------------------------------------------------------------------------------------------
# Jobs


class _Job(Generic[T]):
    """One coroutine on the I/O loop and those who wait for it. All methods run on the I/O thread."""

    __slots__ = ("__weakref__", "context", "ended", "error", "loop", "started", "task", "value", "waiters")

    value: T

    def __init__(self) -> None:
        self.context = contextvars.copy_context()
        self.loop = io_loop()
        self.task: asyncio.Task[None] | None = None
        self.started = False
        self.ended = False
        self.error: BaseException | None = None
        self.waiters: list[Callable[[], None]] = []

    async def _body(self) -> T:
        raise NotImplementedError

    def _discard(self) -> None:
        """The job will never start."""

    @property
    def is_foreign(self) -> bool:
        """Begun on a loop which is not this process' any more: before a fork, or before the end of the process."""
        return self.loop is not _loop

    def start(self) -> _Job[T]:
        if self.task is None and not self.ended:
            self.task = self.loop.create_task(self._main(), context=self.context)
        return self

    async def _main(self) -> None:
        self.started = True
        try:
            self.value = await self._body()
        except BaseException as error:  # noqa: BLE001  a border: the waiter raises it
            self.error = _without_own_frames(error)
        self.ended = True
        _cleaning.discard(self)
        self._wake()

    def _wake(self) -> None:
        if self.loop is _ending:
            return
        waiters = self.waiters
        while waiters:
            waiters.pop()()

    def tell(self, command: Callable[[], object], wake: Callable[[], None]) -> None:
        """Carry out a command for a caller who waits for `wake`."""
        self.waiters.append(wake)
        command()
        if self.ended:
            self._wake()

    def interrupt(self, wake: Callable[[], None]) -> None:
        """The caller behind `wake` wants to leave: cancel what it waits for; wake it once more in any case."""
        if wake not in self.waiters:
            if self.task is None:
                self._abandon()
            wake()
        else:
            self.cancel()

    def cancel(self) -> None:
        if self.ended:
            self._wake()
        elif self.task is None:
            self._abandon()
            self._wake()
        elif not self.started:
            # A task cancelled before its first step never enters _main's try; let it take that step.
            self.loop.call_soon(self.cancel)
        else:
            self.task.cancel()

    def _abandon(self) -> None:
        self._discard()
        self.ended = True
        self.error = asyncio.CancelledError()


class _Call(_Job[T]):
    __slots__ = ("coro",)

    def __init__(self, coro: Coroutine[Any, Any, T]) -> None:
        super().__init__()
        self.coro = coro

    async def _body(self) -> T:
        return await self.coro

    def _discard(self) -> None:
        self.coro.close()


def _without_own_frames(error: BaseException) -> BaseException:
    """Drop this module's frames from the near end of a traceback: the coroutine's own come first then."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    return error.with_traceback(trace)


def _block(job: _Job[Any], command: Callable[[], object]) -> None:
    """Wait in a plain thread. When interrupted: cancel, wait for the clean-up, then let the interrupt through.

    A second interrupt during that clean-up ends the waiting at once.
    """
    lock = threading.Lock()
    lock.acquire()
    try:
        job.loop.call_soon_threadsafe(job.tell, command, lock.release)
        lock.acquire()
    except BaseException:
        job.loop.call_soon_threadsafe(_interrupt_blocked, job, lock)
        lock.acquire()
        raise


def _interrupt_blocked(job: _Job[Any], lock: threading.Lock) -> None:
    try:
        job.interrupt(lock.release)
    except RuntimeError:
        pass  # woken already, but the interrupt came before the thread had noticed


class _LoopWaiter:
    """Waits on somebody else's event loop."""

    __slots__ = ("here", "signal")

    def __init__(self) -> None:
        self.here = asyncio.get_running_loop()
        self.signal: asyncio.Future[None] = self.here.create_future()

    def wake(self) -> None:
        try:
            self.here.call_soon_threadsafe(self._settle)
        except RuntimeError:
            pass  # the caller's loop was closed in the meantime: nobody waits

    def _settle(self) -> None:
        if not self.signal.done():
            self.signal.set_result(None)

    async def wait(self, job: _Job[Any], command: Callable[[], object]) -> None:
        wake = self.wake
        job.loop.call_soon_threadsafe(job.tell, command, wake)
        cancelled: asyncio.CancelledError | None = None
        while True:
            try:
                await self.signal
                break
            except asyncio.CancelledError as error:
                # As with a plain await, every further cancellation reaches the inner task too, and the caller stays
                # until its clean-up is over.
                cancelled = error
                self.signal = self.here.create_future()
                job.loop.call_soon_threadsafe(job.interrupt, wake)
        if cancelled is not None and (job.error is None or isinstance(job.error, asyncio.CancelledError)):
            raise cancelled


def run_blocking(coro: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the I/O loop and block until it is done.

    Args:
        coro: The coroutine; it sees the caller's context variables.

    Raises:
        RuntimeError: Called on the I/O loop itself, where blocking would wait for itself.
    """
    __tracebackhide__ = True
    running = _get_running_loop()
    if running is not None:
        try:
            _check_blocking(running, getattr(coro, "__qualname__", "run_blocking"), "await")
        except BaseException:
            coro.close()
            raise
    call = _Call(coro)
    _block(call, call.start)
    return _outcome(call)


async def run_here(coro: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on the I/O loop from any event loop; cancellation reaches it and waits for its clean-up."""
    __tracebackhide__ = True
    if on_io_loop():
        return await coro
    call = _Call(coro)
    await _LoopWaiter().wait(call, call.start)
    return _outcome(call)


def _outcome(job: _Job[T]) -> T:
    __tracebackhide__ = True
    if job.error is None:
        return job.value
    error, job.error = job.error, None
    try:
        raise error
    finally:
        del error  # otherwise the error, its traceback and this frame or the job hold each other


# ----------------------------------------------------------------------------------------------------
# Blocking where one should not

_async_warnings: bool | None = None  # None: as the settings say
_warned: set[tuple[str, int]] = set()


def set_async_warnings(enabled: bool | None) -> None:
    """Switch `AsyncUsageWarning` on or off for this process; None leaves it to the settings again."""
    global _async_warnings
    _async_warnings = enabled


def _check_blocking(running: asyncio.AbstractEventLoop, name: str, how: str) -> None:
    if running is _loop:
        raise RuntimeError(
            f"Blocking call of `{name}` on raymodal's own I/O loop would wait for itself. "
            f"Use its asynchronous form, `{_spelling(name, how)}`."
        )
    if _async_warnings is not False and not is_notebook():
        _warn_blocking(name, how)


def is_notebook() -> bool:
    """Whether an IPython shell runs this process: its cells are blocking code on purpose, although a kernel has a loop."""
    ipython = sys.modules.get("IPython")
    try:
        return ipython is not None and ipython.get_ipython() is not None
    except Exception:  # noqa: BLE001 - something else by that name
        return False


def _spelling(name: str, how: str) -> str:
    called = "..." if how == "async with" else f"{name}.aio(...)"
    return f"{how} {called}" if how != "async for" else f"async for item in {called}"


def _warn_blocking(name: str, how: str) -> None:
    frame = _users_frame()
    site = (frame.f_code.co_filename, frame.f_lineno)
    if site in _warned or not (_async_warnings or _settings_say_warn()):
        return
    line = linecache.getline(*site, frame.f_globals).strip()
    better = _rewritten(line, name.rpartition(".")[2], how)
    hint = f"Replace\n  {line}\nby\n  {better}" if better else f"Use `{_spelling(name, how)}`."
    # Remembered only once the warning was shown: under an "error" filter each call has to fail.
    warnings.warn_explicit(
        f"The blocking form of `{name}` is used in asynchronous code and holds up this thread's event loop. {hint}",
        _async_usage_warning(),
        *site,
        module=frame.f_globals.get("__name__", "<unknown>"),
    )
    _warned.add(site)


def _rewritten(line: str, method: str, how: str) -> str | None:
    """The user's own line with the asynchronous form, or None where a plain rule cannot find it."""
    if how == "async with":
        return re.sub(r"^with\b", "async with", line) if line.startswith("with ") else None
    if how == "async for":
        return re.sub(r"^for\b", "async for", line) if line.startswith("for ") else None
    better, count = re.subn(rf"((?:[\w]+\.)*){re.escape(method)}\(", rf"await \g<1>{method}.aio(", line, count=1)
    return better if count else None


def _users_frame() -> FrameType:
    """The nearest frame outside this package."""
    frame: FrameType = sys._getframe(1)
    nearest = frame
    while frame.f_code.co_filename.startswith(_HERE):
        if frame.f_back is None:
            return nearest
        frame = frame.f_back
    return frame


def _settings_say_warn() -> bool:
    from raymodal.config import settings  # late: `import raymodal._dual` costs the standard library only

    return settings().async_warnings


def _async_usage_warning() -> type[Warning]:
    from raymodal.exception import AsyncUsageWarning

    return AsyncUsageWarning


# ----------------------------------------------------------------------------------------------------
# Streams


class _Pump(_Job[None], Generic[T]):
    """Drives one async generator. It advances when somebody waits, and `ahead` items further."""

    __slots__ = ("agen", "ahead", "closing", "idle", "items")

    def __init__(self, agen: AsyncGenerator[T, None], ahead: int) -> None:
        super().__init__()
        self.agen = agen
        self.ahead = ahead
        self.items: deque[T] = deque()  # filled here, emptied by the consumer's thread
        self.closing = False
        self.idle: asyncio.Future[None] | None = None

    async def _body(self) -> None:
        try:
            while not self.closing:
                if not self.waiters and len(self.items) >= self.ahead:
                    await self._wait_for_demand()
                    continue
                self.items.append(await self.agen.__anext__())
                self._wake()
        except StopAsyncIteration:
            pass
        except asyncio.CancelledError:
            if not self.closing:
                raise
        finally:
            await self.agen.aclose()

    async def _wait_for_demand(self) -> None:
        self.idle = self.loop.create_future()
        try:
            await self.idle
        finally:
            self.idle = None

    def ask(self) -> None:
        """Somebody wants an item."""
        if self.items or self.ended:
            self._wake()
        elif self.task is None:
            self.start()
        elif self.idle is not None and not self.idle.done():
            self.idle.set_result(None)

    def close(self) -> None:
        """Let the generator run its `finally`."""
        self.closing = True
        if self.task is None or self.ended or self.idle is None:
            self.cancel()
        elif not self.idle.done():
            self.idle.set_result(None)

    def _abandon(self) -> None:
        self.ended = True  # a generator that never started has nothing to clean up

    def orphan(self) -> None:
        """Nobody holds the stream any more."""
        if self.started and not self.ended:
            _cleaning.add(self)
            self.waiters.append(self._report_orphan)
            self.close()

    def _report_orphan(self) -> None:
        if self.error is not None:
            message = "a stream that was not read to its end failed while closing"
            self.loop.call_exception_handler({"message": message, "exception": self.error})


class Stream(Generic[T]):
    """What a `dual_stream` returns: an iterator and an asynchronous iterator, one pass in all.

    Leaving early: `close()` and `aclose()` wait for the generator's clean-up; merely dropping the stream starts it in
    the background.
    """

    __slots__ = ("_agen", "_name", "_pump")

    def __init__(self, agen: AsyncGenerator[T, None], name: str, ahead: int) -> None:
        self._agen = agen
        self._name = name
        self._pump: _Pump[T] = _Pump(agen, ahead)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        __tracebackhide__ = True
        pump = self._pump
        while True:
            ended = pump.ended  # before the items: the last one may arrive together with the end
            if pump.items:
                return pump.items.popleft()
            if ended:
                self._raise_error()
                raise StopIteration
            running = _get_running_loop()
            if running is not None:
                _check_blocking(running, self._name, "async for")
            if pump.is_foreign:
                raise RuntimeError(f"`{self._name}(...)` was called before a fork and can be read in the parent only.")
            _block(pump, pump.ask)

    def __aiter__(self) -> AsyncIterator[T]:
        # On the I/O loop itself the generator is driven by its reader, as anywhere in asyncio.
        return self._agen if on_io_loop() and self._pump.task is None else self

    async def __anext__(self) -> T:
        __tracebackhide__ = True
        pump = self._pump
        while True:
            ended = pump.ended
            if pump.items:
                return pump.items.popleft()
            if ended:
                self._raise_error()
                raise StopAsyncIteration
            await _LoopWaiter().wait(pump, pump.ask)

    def close(self) -> None:
        """Stop reading and wait until the generator has cleaned up."""
        running = _get_running_loop()
        if running is not None:
            _check_blocking(running, f"{self._name}(...).close", "await")
        if self._pump.is_foreign:
            return
        _block(self._pump, self._pump.close)
        self._pump.items.clear()
        self._raise_error()

    async def aclose(self) -> None:
        """As `close`, for coroutines."""
        await _LoopWaiter().wait(self._pump, self._pump.close)
        self._pump.items.clear()
        self._raise_error()

    def _raise_error(self) -> None:
        __tracebackhide__ = True
        error, self._pump.error = self._pump.error, None
        if error is not None:
            try:
                raise error
            finally:
                del error

    def __del__(self) -> None:
        pump = getattr(self, "_pump", None)
        if pump is not None and pump.task is not None and not pump.ended and not pump.is_foreign:
            try:
                pump.loop.call_soon_threadsafe(pump.orphan)
            except RuntimeError:
                pass  # the loop is closed: the process is ending


# ----------------------------------------------------------------------------------------------------
# Contexts


class _Visit(_Job[None], Generic[T]):
    """Drives one context manager: in, wait for the body, out."""

    __slots__ = ("entered", "given", "leaving", "manager", "reason")

    given: T

    def __init__(self, manager: contextlib.AbstractAsyncContextManager[T, bool | None]) -> None:
        super().__init__()
        self.manager = manager
        self.entered = False
        self.leaving: asyncio.Future[None] | None = None
        self.reason: BaseException | None = None  # what the body raised

    async def _body(self) -> None:
        self.leaving = self.loop.create_future()
        async with self.manager as self.given:
            self.entered = True
            self._wake()
            await self.leaving
            if self.reason is not None:
                raise self.reason

    def leave(self) -> None:
        if self.leaving is None:
            self.cancel()
        elif not self.leaving.done():
            self.leaving.set_result(None)


class Context(Generic[T]):
    """What a `dual_context` returns: usable once, by `with` or by `async with`."""

    __slots__ = ("_manager", "_name", "_native", "_visit")

    def __init__(self, manager: contextlib.AbstractAsyncContextManager[T, bool | None], name: str) -> None:
        self._manager = manager
        self._name = name
        self._native = False
        self._visit: _Visit[T] | None = None

    def _begin(self) -> _Visit[T]:
        if self._visit is not None:
            raise RuntimeError(f"`{self._name}(...)` can be entered only once; call it again for a new context.")
        self._visit = _Visit(self._manager)
        return self._visit

    def __enter__(self) -> T:
        __tracebackhide__ = True
        running = _get_running_loop()
        if running is not None:
            _check_blocking(running, self._name, "async with")
        visit = self._begin()
        try:
            _block(visit, visit.start)
        except BaseException:
            # The interrupt may have come between the entry and its notice; nobody else would leave then.
            if visit.entered:
                _block(visit, visit.leave)
            raise
        return visit.given if visit.entered else cast(T, _outcome(visit))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        __tracebackhide__ = True
        visit = cast("_Visit[T]", self._visit)
        if visit.is_foreign:
            return False  # a forked child leaves the block; the context is its parent's
        visit.reason = error
        _block(visit, visit.leave)
        return self._verdict(visit, error, trace)

    async def __aenter__(self) -> T:
        __tracebackhide__ = True
        if on_io_loop():
            self._native = True
            return await self._manager.__aenter__()
        visit = self._begin()
        try:
            await _LoopWaiter().wait(visit, visit.start)
        except BaseException:
            if visit.entered:
                await _LoopWaiter().wait(visit, visit.leave)
            raise
        return visit.given if visit.entered else cast(T, _outcome(visit))

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        __tracebackhide__ = True
        if self._native:
            return await self._manager.__aexit__(kind, error, trace)
        visit = cast("_Visit[T]", self._visit)
        visit.reason = error
        await _LoopWaiter().wait(visit, visit.leave)
        return self._verdict(visit, error, trace)

    def _verdict(self, visit: _Visit[T], error: BaseException | None, trace: TracebackType | None) -> bool:
        """True: the generator swallowed the body's error. False: it let it pass. Raises what it raised instead."""
        __tracebackhide__ = True
        visit.reason = None
        if visit.error is not None and visit.error is not error:
            _outcome(visit)
        passed, visit.error = visit.error is not None, None
        if error is not None:
            error.__traceback__ = trace  # as it was, without the I/O thread's frames
        return error is not None and not passed


# ----------------------------------------------------------------------------------------------------
# What the surface uses


# A wrapper shows the docstring of its function. Every subclass repeats the line: a class without one gets `None`.
_doc_of_function: Any = property(lambda self: self._func.__doc__)


# What the three kinds share: they look like the function that they wrap, and pickle by its name.
class _Wrapper:
    __slots__ = ("_func",)
    __doc__ = _doc_of_function

    def __init__(self, func: Callable[..., Any]) -> None:
        self._func = func

    @property
    def __signature__(self) -> inspect.Signature:
        return inspect.signature(self._func)

    def __getattr__(self, name: str) -> Any:
        if name in ("__name__", "__qualname__", "__annotations__", "__self__"):
            return getattr(self._func, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._func!r}>"

    def __eq__(self, other: object) -> bool:
        return self._func == other._func if isinstance(other, _Wrapper) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._func)

    def __reduce__(self) -> Any:
        func = self._func
        if isinstance(func, MethodType):
            return getattr, (func.__self__, func.__name__)
        return _find, (func.__module__, func.__qualname__)


def _find(module: str, qualname: str) -> Any:
    __import__(module)
    found: Any = sys.modules[module]
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


# An ``async def`` as a blocking callable with an ``.aio`` twin. For module functions and, since it does not bind, for
# static methods: ``lookup = dual_function(_lookup)``.
class dual_function(_Wrapper, Generic[P, T]):
    __slots__ = ()
    __doc__ = _doc_of_function

    def __init__(self, func: Callable[P, Coroutine[Any, Any, T]]) -> None:
        self._func = func

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        __tracebackhide__ = True
        running = _get_running_loop()
        if running is not None:
            _check_blocking(running, self._func.__qualname__, "await")
        call: _Call[T] = _Call(self._func(*args, **kwargs))
        _block(call, call.start)
        if call.error is None:
            return call.value
        error, call.error = call.error, None  # as in _outcome, without its frame in the user's traceback
        try:
            raise error
        finally:
            del error

    async def aio(self, /, *args: P.args, **kwargs: P.kwargs) -> T:
        __tracebackhide__ = True
        if on_io_loop():
            return cast(T, await self._func(*args, **kwargs))
        call: _Call[T] = _Call(self._func(*args, **kwargs))
        await _LoopWaiter().wait(call, call.start)
        if call.error is None:
            return call.value
        error, call.error = call.error, None  # as in _outcome, without its frame in the user's traceback
        try:
            raise error
        finally:
            del error


# An async generator function as a function that returns a `Stream`; see `dual_stream`.
class dual_stream_function(_Wrapper, Generic[P, T]):
    __slots__ = ("_ahead",)
    __doc__ = _doc_of_function

    def __init__(self, func: Callable[P, AsyncGenerator[T, None]], *, ahead: int = 0) -> None:
        self._func = func
        self._ahead = ahead

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Stream[T]:
        return Stream(self._func(*args, **kwargs), self._func.__qualname__, self._ahead)

    def aio(self, /, *args: P.args, **kwargs: P.kwargs) -> Stream[T]:
        return Stream(self._func(*args, **kwargs), self._func.__qualname__, self._ahead)


# An async generator function with one ``yield`` as a function that returns a `Context`; see `dual_context`.
class dual_context_function(_Wrapper, Generic[P, T]):
    __slots__ = ()
    __doc__ = _doc_of_function

    def __init__(self, func: Callable[P, AsyncIterator[T]]) -> None:
        self._func = func

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> Context[T]:
        return Context(contextlib.asynccontextmanager(self._func)(*args, **kwargs), self._func.__qualname__)

    def aio(self, /, *args: P.args, **kwargs: P.kwargs) -> Context[T]:
        return self(*args, **kwargs)


class dual(Generic[S, P, T]):
    """Decorates an ``async def`` method: ``obj.m(...)`` blocks, ``await obj.m.aio(...)`` awaits.

    Example:
        >>> class Counter:
        ...     @dual
        ...     async def next(self, step: int = 1) -> int:
        ...         return 1 + step
        >>> Counter().next(2)
        3
    """

    __slots__ = ("_unbound",)

    def __init__(self, func: Callable[Concatenate[S, P], Coroutine[Any, Any, T]]) -> None:
        self._unbound = dual_function(func)

    @overload
    def __get__(self, obj: None, owner: type[Any] | None = None) -> dual_function[Concatenate[S, P], T]: ...
    @overload
    def __get__(self, obj: S, owner: type[Any] | None = None) -> dual_function[P, T]: ...
    @overload  # methods that return `Self`: mypy cannot see through those
    def __get__(self, obj: object, owner: type[Any] | None = None) -> dual_function[..., Any]: ...
    def __get__(self, obj: Any, owner: type[Any] | None = None) -> Any:
        unbound = self._unbound
        return unbound if obj is None else dual_function(MethodType(unbound._func, obj))


class dual_stream(Generic[S, P, T]):
    """Decorates an async generator method: ``for x in obj.m(...)`` or ``async for x in obj.m.aio(...)``.

    ``async for x in obj.m(...)`` works too. Leaving early runs the generator's ``finally`` (see `Stream`).

    Args:
        ahead: How many items the generator may be ahead of its reader. 0: it advances only when asked, at the price of
            a change of threads (about 30 us) per item. More: the reader takes what is there without such a change. As
            a decorator: ``@dual_stream_ahead(64)``.
    """

    __slots__ = ("_unbound",)

    def __init__(self, func: Callable[Concatenate[S, P], AsyncGenerator[T, None]], *, ahead: int = 0) -> None:
        self._unbound = dual_stream_function(func, ahead=ahead)

    @overload
    def __get__(self, obj: None, owner: type[Any] | None = None) -> dual_stream_function[Concatenate[S, P], T]: ...
    @overload
    def __get__(self, obj: S, owner: type[Any] | None = None) -> dual_stream_function[P, T]: ...
    def __get__(self, obj: Any, owner: type[Any] | None = None) -> Any:
        unbound = self._unbound
        if obj is None:
            return unbound
        return dual_stream_function(MethodType(unbound._func, obj), ahead=unbound._ahead)


class dual_stream_ahead:
    """``@dual_stream_ahead(64)``: `dual_stream` with a generator that may run ahead of its reader."""

    def __init__(self, ahead: int) -> None:
        self._ahead = ahead

    def __call__(self, func: Callable[Concatenate[S, P], AsyncGenerator[T, None]]) -> dual_stream[S, P, T]:
        return dual_stream(func, ahead=self._ahead)


class dual_context(Generic[S, P, T]):
    """Decorates an async generator method with one ``yield``: its call serves ``with`` and ``async with``.

    For module functions and static methods use `dual_context_function`.
    """

    __slots__ = ("_unbound",)

    def __init__(self, func: Callable[Concatenate[S, P], AsyncIterator[T]]) -> None:
        self._unbound = dual_context_function(func)

    @overload
    def __get__(self, obj: None, owner: type[Any] | None = None) -> dual_context_function[Concatenate[S, P], T]: ...
    @overload
    def __get__(self, obj: S, owner: type[Any] | None = None) -> dual_context_function[P, T]: ...
    def __get__(self, obj: Any, owner: type[Any] | None = None) -> Any:
        unbound = self._unbound
        return unbound if obj is None else dual_context_function(MethodType(unbound._func, obj))
