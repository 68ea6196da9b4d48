"""`raymodal._dual`: what a blocking call and its ``.aio`` twin promise."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import inspect
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import traceback
import warnings
from collections.abc import AsyncGenerator, Iterator

import pytest

from raymodal import _dual
from raymodal._dual import (
    dual,
    dual_context,
    dual_context_function,
    dual_function,
    dual_stream,
    dual_stream_ahead,
    io_loop,
    on_io_loop,
    run_blocking,
    run_here,
)
from raymodal.exception import AsyncUsageWarning

variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


class Gate:
    """Something that waits, notes what happens to it, and cleans up in two steps."""

    def __init__(self) -> None:
        self.log: list[object] = []
        self.started = threading.Event()

    async def _hold(self) -> None:
        self.log.append("in")
        self.started.set()
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            await asyncio.sleep(0.01)  # clean-up that itself awaits: leaving before it is over would be seen
            self.log.append("cleaned")
            raise

    @dual
    async def echo(self, value: int, *, twice: bool = False) -> int:
        """Give the value back."""
        return value * 2 if twice else value

    @dual
    async def hold(self, interrupt: bool = False) -> None:
        if interrupt:
            os.kill(os.getpid(), signal.SIGINT)
        await self._hold()

    @dual
    async def fail(self) -> None:
        raise LookupError("inner")

    @dual
    async def where(self) -> tuple[bool, str]:
        return on_io_loop(), variable.get()

    @dual_stream
    async def count(self, upto: int, hold_at: int = -1, interrupt: bool = False) -> AsyncGenerator[int, None]:
        try:
            for i in range(upto):
                if i == hold_at:
                    if interrupt:
                        os.kill(os.getpid(), signal.SIGINT)
                    await self._hold()
                self.log.append(i)
                yield i
        finally:
            await asyncio.sleep(0)
            self.log.append("closed")
            self.started.set()

    @dual_stream_ahead(8)
    async def count_ahead(self, upto: int) -> AsyncGenerator[int, None]:
        for i in range(upto):
            self.log.append(i)
            yield i
        raise LookupError("at the end")

    @dual_context
    async def visit(self, swallow: bool = False) -> AsyncGenerator[str, None]:
        task = asyncio.current_task()
        self.log.append("enter")
        try:
            async with asyncio.TaskGroup() as group:  # breaks unless one task goes in and out
                heart = group.create_task(asyncio.sleep(60))
                try:
                    yield "inside"
                finally:
                    heart.cancel()
        except* LookupError:
            if not swallow:
                raise
        finally:
            assert asyncio.current_task() is task
            self.log.append("exit")

    @dual_context
    async def plain_visit(self) -> AsyncGenerator[str, None]:
        try:
            yield "inside"
        except LookupError:
            self.log.append("swallowed")
        finally:
            self.log.append("exit")


@dual_function
async def double(value: int) -> int:
    return value * 2


async def _opened(name: str = "x") -> AsyncGenerator[str, None]:
    yield name


opened = dual_context_function(_opened)


@pytest.fixture
def gate() -> Gate:
    return Gate()


@pytest.fixture
def async_warnings() -> Iterator[None]:
    _dual._warned.clear()
    _dual.set_async_warnings(True)
    yield
    _dual.set_async_warnings(None)


# Plain calls


def test_both_forms_give_the_value(gate: Gate) -> None:
    """One implementation serves a plain thread and any event loop."""

    async def main() -> int:
        return await gate.echo.aio(4, twice=True)

    assert gate.echo(3) == 3
    assert asyncio.run(main()) == 8
    assert double(2) == 4
    assert asyncio.run(double.aio(5)) == 10


def test_implementations_run_on_the_one_loop_with_the_callers_context(gate: Gate) -> None:
    """Context variables of the caller are visible, wherever it calls from."""
    token = variable.set("mine")
    try:
        assert gate.where() == (True, "mine")
        assert asyncio.run(gate.where.aio()) == (True, "mine")
    finally:
        variable.reset(token)


def test_calls_within_the_loop_just_await(gate: Gate) -> None:
    """`run_here` and `.aio` on the I/O loop add no task."""

    async def inner() -> bool:
        before = asyncio.current_task()
        assert await gate.echo.aio(1) == 1
        return await run_here(_same_task(before))

    assert run_blocking(inner())


async def _same_task(task: object) -> bool:
    return asyncio.current_task() is task


def test_looks_like_the_function(gate: Gate) -> None:
    """Signature, name and docstring are the implementation's; `self` is gone on a bound one."""
    assert str(inspect.signature(gate.echo)) == "(value: 'int', *, twice: 'bool' = False) -> 'int'"
    assert next(iter(inspect.signature(Gate.echo).parameters)) == "self"
    assert gate.echo.__name__ == "echo"
    assert gate.echo.__doc__ == "Give the value back."
    assert inspect.iscoroutinefunction(gate.echo.aio)
    assert Gate.echo(gate, 2) == 2
    with pytest.raises(TypeError, match="missing 1 required"):
        gate.echo()  # type: ignore[call-arg]


def test_wrong_arguments_leave_nothing_behind(gate: Gate) -> None:
    """A call that does not bind creates no coroutine to complain about."""
    with pytest.raises(TypeError, match="unexpected keyword"):
        gate.echo(1, thrice=True)  # type: ignore[call-arg]
    gc.collect()


def test_module_functions_pickle_by_name() -> None:
    """A dual captured in a closure travels as a reference."""
    from raymodal.object import Object

    copy = pickle.loads(pickle.dumps(Object.hydrate))

    assert copy == Object.hydrate


def test_errors_arrive_with_a_short_traceback(gate: Gate) -> None:
    """At most one frame of this machinery stands between the user's line and the implementation's."""
    with pytest.raises(LookupError, match="inner") as caught:
        gate.fail()

    frames = [os.path.basename(frame.filename) for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert frames == ["test_dual.py", "_dual.py", "test_dual.py"]


def test_errors_hold_no_cycles(gate: Gate) -> None:
    """What a failed call referred to is freed without the collector."""

    def provoke() -> None:
        with contextlib.suppress(LookupError):
            gate.fail()

    provoke()
    gc.collect()
    gc.disable()
    try:
        others = {id(o) for o in gc.get_objects() if isinstance(o, _dual._Call)}  # of tests that ran before
        provoke()
        # The caller may be woken a moment before the I/O thread has left the job.
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0), io_loop()).result()
        assert not [o for o in gc.get_objects() if isinstance(o, _dual._Call) and id(o) not in others]
    finally:
        gc.enable()


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()])
def test_exit_requests_reach_the_caller_and_spare_the_loop(error: BaseException) -> None:
    """A SystemExit raised by an implementation must not end the I/O thread."""

    async def leave() -> None:
        raise error

    with pytest.raises(type(error)):
        run_blocking(leave())

    assert double(1) == 2


# Interruption


def test_ctrl_c_cancels_and_waits(gate: Gate) -> None:
    """Ctrl-C in a blocking call ends the inner task, and its clean-up is over before the interrupt shows."""
    with pytest.raises(KeyboardInterrupt):
        gate.hold(interrupt=True)

    assert gate.log == ["in", "cleaned"]


def test_a_signal_handler_that_raises_does_the_same(gate: Gate) -> None:
    """Not only Ctrl-C: a container cancels an input by a signal of its own."""

    class Cancelled(BaseException):
        pass

    def handler(number: int, frame: object) -> None:
        raise Cancelled

    async def hold() -> None:
        os.kill(os.getpid(), signal.SIGUSR1)
        await gate._hold()

    before = signal.signal(signal.SIGUSR1, handler)
    try:
        with pytest.raises(Cancelled):
            run_blocking(hold())
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert gate.log == ["in", "cleaned"]


def test_cancelling_an_aio_caller_cancels_and_waits(gate: Gate) -> None:
    """The outer task ends only after the inner one has cleaned up."""

    async def main() -> None:
        task = asyncio.create_task(gate.hold.aio())
        await asyncio.to_thread(gate.started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert gate.log == ["in", "cleaned"]

    asyncio.run(main())


def test_timeouts_around_aio_work(gate: Gate) -> None:
    """`asyncio.timeout` turns the cancellation it caused into a TimeoutError."""

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await gate.hold.aio()
        assert gate.log == ["in", "cleaned"]

    asyncio.run(main())


def test_cancelled_before_the_first_step(gate: Gate) -> None:
    """A cancellation which overtakes the start still ends everything."""

    async def main() -> None:
        task = asyncio.create_task(gate.hold.aio())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


# Blocking in the wrong place


def test_blocking_on_the_io_loop_raises(gate: Gate) -> None:
    """It would wait for itself; the error names the way out."""

    async def wrong() -> None:
        gate.echo(1)

    with pytest.raises(RuntimeError, match=r"await Gate\.echo\.aio\(\.\.\.\)"):
        run_blocking(wrong())


def test_blocking_on_another_loop_warns_once_per_line(gate: Gate, async_warnings: None) -> None:
    """The warning shows the user's own line with the asynchronous spelling."""

    async def main() -> None:
        for _ in range(3):
            gate.echo(1)
        gate.echo(2)

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        asyncio.run(main())

    assert [w.category for w in seen] == [AsyncUsageWarning] * 2
    assert "await gate.echo.aio(1)" in str(seen[0].message)
    assert seen[0].filename == __file__


def test_the_warning_can_be_switched_off(gate: Gate, async_warnings: None) -> None:
    """The settings' `async_warnings`."""
    _dual.set_async_warnings(False)

    async def main() -> int:
        return gate.echo(1)

    assert asyncio.run(main()) == 1


def test_async_loops_over_the_plain_form_do_not_warn(gate: Gate, async_warnings: None) -> None:
    """`async for x in obj.m(...)` is the same as with `.aio`."""

    async def main() -> list[int]:
        return [i async for i in gate.count(3)]

    assert asyncio.run(main()) == [0, 1, 2]


def test_plain_loops_in_asynchronous_code_warn(gate: Gate, async_warnings: None) -> None:
    """So does a blocking `with`."""

    async def main() -> None:
        for _ in gate.count(3):
            pass
        with gate.plain_visit():
            pass

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        asyncio.run(main())

    assert "async for _ in gate.count(3):" in str(seen[0].message)
    assert "async with gate.plain_visit():" in str(seen[1].message)


# Streams


def test_streams_advance_when_asked(gate: Gate) -> None:
    """Without `ahead` the generator is where its reader is."""
    stream = gate.count(3)

    assert gate.log == []
    assert next(stream) == 0
    assert gate.log == [0]
    assert list(stream) == [1, 2]
    assert gate.log == [0, 1, 2, "closed"]
    assert list(stream) == []


def test_streams_in_a_coroutine(gate: Gate) -> None:
    """`.aio` on any loop, and on the I/O loop itself."""

    async def read() -> list[int]:
        return [i async for i in gate.count.aio(3)]

    assert asyncio.run(read()) == [0, 1, 2]
    assert run_blocking(read()) == [0, 1, 2]


def test_an_aio_stream_is_not_awaitable(gate: Gate) -> None:
    """As in Modal."""

    async def main() -> None:
        with pytest.raises(TypeError):
            await gate.count.aio(3)  # type: ignore[misc]

    asyncio.run(main())


def test_closing_a_stream_early_runs_its_finally(gate: Gate) -> None:
    """`close` waits for it."""
    stream = gate.count(3)
    next(stream)
    stream.close()

    assert gate.log == [0, "closed"]
    assert list(stream) == []


def test_leaving_a_loop_early_runs_its_finally(gate: Gate) -> None:
    """Dropping the stream is enough; the clean-up then happens in the background."""
    for _ in gate.count(3):
        break

    assert gate.started.wait(5)
    assert gate.log == [0, "closed"]


def test_a_stream_never_read_never_starts(gate: Gate) -> None:
    """And leaves no warning behind."""
    gate.count(3)
    stream = gate.count(3)
    stream.close()
    gc.collect()

    assert gate.log == []


def test_ctrl_c_in_a_stream(gate: Gate) -> None:
    """The generator sees the cancellation, runs its finally, and is over."""
    stream = gate.count(3, hold_at=1, interrupt=True)
    next(stream)
    with pytest.raises(KeyboardInterrupt):
        next(stream)

    assert gate.log == [0, "in", "cleaned", "closed"]


def test_cancelling_the_reader_of_a_stream(gate: Gate) -> None:
    """The same for a coroutine."""

    async def read() -> None:
        async for _ in gate.count.aio(3, hold_at=1):
            pass

    async def main() -> None:
        task = asyncio.create_task(read())
        await asyncio.to_thread(gate.started.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert gate.log == [0, "in", "cleaned", "closed"]

    asyncio.run(main())


def test_aclose(gate: Gate) -> None:
    """The coroutine's `close`."""

    async def main() -> None:
        stream = gate.count.aio(3)
        assert await stream.__anext__() == 0
        await stream.aclose()
        assert gate.log == [0, "closed"]

    asyncio.run(main())


def test_streams_may_run_ahead(gate: Gate) -> None:
    """Items come in order, at most `ahead` early; an error comes after the items before it."""
    stream = gate.count_ahead(20)
    seen = [next(stream)]
    with pytest.raises(LookupError, match="at the end"):
        for item in stream:
            seen.append(item)
            assert len([x for x in gate.log if isinstance(x, int)]) <= item + 1 + 8 + 1

    assert seen == list(range(20))


# Contexts


def test_contexts_both_ways(gate: Gate) -> None:
    """`with`, `async with` on another loop and on the I/O loop; one task goes in and out."""

    async def main() -> None:
        async with gate.visit() as value:
            assert value == "inside"
        async with gate.visit.aio() as value:
            assert value == "inside"

    with gate.visit() as value:
        assert value == "inside"
        assert gate.log == ["enter"]
    asyncio.run(main())
    run_blocking(main())

    assert gate.log == ["enter", "exit"] * 5


def test_the_bodys_error_passes_through(gate: Gate) -> None:
    """It stays the same object with the user's traceback; the generator may swallow it."""
    error = ValueError("body")
    with pytest.raises(ValueError) as caught, opened():
        raise error
    assert caught.value is error
    assert {os.path.basename(f.filename) for f in traceback.extract_tb(error.__traceback__)} == {"test_dual.py"}

    with gate.plain_visit():
        raise LookupError
    assert gate.log == ["swallowed", "exit"]


def test_static_contexts() -> None:
    """`dual_context_function` does not bind."""

    class Owner:
        ephemeral = dual_context_function(_opened)

    with Owner.ephemeral("a") as a, Owner().ephemeral(name="b") as b:
        assert (a, b) == ("a", "b")


def test_a_context_whose_entry_fails() -> None:
    """The error is the caller's, and leaving is not attempted."""

    async def broken() -> AsyncGenerator[None, None]:
        raise LookupError("no entry")
        yield

    with pytest.raises(LookupError, match="no entry"), dual_context_function(broken)():
        raise AssertionError


def test_ctrl_c_in_the_body_of_a_context(gate: Gate) -> None:
    """The interrupt goes through the generator's finally, as any error."""
    with pytest.raises(KeyboardInterrupt), gate.plain_visit():
        signal.raise_signal(signal.SIGINT)

    assert gate.log == ["exit"]


def test_contexts_are_for_one_use() -> None:
    """The second entry says so."""
    context = opened()
    with context:
        pass
    with pytest.raises(RuntimeError, match="only once"), context:
        pass


# Processes


def _python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", "-X", "dev", "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_exit_is_silent_and_cleans_up() -> None:
    """Whatever still runs is cancelled and finishes its clean-up; nothing is printed by asyncio."""
    done = _python(
        """
        import asyncio, threading
        from raymodal._dual import dual_stream_function, io_loop, run_blocking

        async def forever():
            started.set()
            try:
                await asyncio.sleep(60)
            finally:
                await asyncio.sleep(0)
                print("cleaned")

        async def items():
            while True:
                yield 1

        started = threading.Event()
        threading.Thread(target=lambda: run_blocking(forever()), daemon=True).start()
        started.wait()
        stream = dual_stream_function(items)()
        next(stream)
        """
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "cleaned\n", "")


def test_handlers_registered_later_can_still_call() -> None:
    """An engine's shutdown at exit needs the loop."""
    done = _python(
        """
        import atexit
        from raymodal._dual import io_loop, run_blocking

        async def bye():
            print("bye")

        io_loop()  # Python 3.12 starts no thread at exit
        atexit.register(lambda: run_blocking(bye()))
        """
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "bye\n", "")


def test_a_forked_child_gets_its_own_loop() -> None:
    """Parent and child both work afterwards, also when the fork happens while calls are under way."""
    done = _python(
        """
        import asyncio, os, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads
        from raymodal._dual import io_loop, run_blocking

        async def value(n):
            await asyncio.sleep(0)
            return n

        pending = asyncio.run_coroutine_threadsafe(asyncio.sleep(0.3, "parent"), io_loop())
        run_blocking(value(0))
        before = io_loop()
        child = os.fork()
        if child == 0:
            assert io_loop() is not before
            print("child", run_blocking(value(1)), flush=True)
            sys.exit(0)
        _, status = os.waitpid(child, 0)
        print("status", status, pending.result(), run_blocking(value(2)))
        """
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "child 1\nstatus 0 parent 2\n", "")


def test_a_forked_child_leaves_its_parents_contexts_alone() -> None:
    """Leaving the block in the child ends nothing; a stream of the parent is refused."""
    done = _python(
        """
        import os, sys, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from raymodal._dual import dual_context_function, dual_stream_function

        async def opened():
            yield
            print("closed by", "parent" if os.getpid() == parent else "child")

        async def items():
            yield 1
            yield 2

        parent = os.getpid()
        stream = dual_stream_function(items)()
        next(stream)
        with dual_context_function(opened)():
            child = os.fork()
            if child == 0:
                try:
                    next(stream)
                except RuntimeError as error:
                    print(error, flush=True)
                sys.exit(0)
            os.waitpid(child, 0)
        print(next(stream))
        """
    )

    said = "`items(...)` was called before a fork and can be read in the parent only.\nclosed by parent\n2\n"
    assert (done.returncode, done.stdout, done.stderr) == (0, said, "")


def test_import_costs_the_standard_library_only() -> None:
    """Nothing heavy comes with the surface."""
    code = "import sys, raymodal._dual; print([m for m in ('ray', 'pydantic', 'typer') if m in sys.modules])"

    assert _python(code).stdout == "[]\n"


def test_the_loop_is_one() -> None:
    """All threads share it."""
    seen: list[object] = []
    threads = [threading.Thread(target=lambda: seen.append(io_loop())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert set(seen) == {io_loop()}
