"""A container's runtime, driven by hand: user code moves the clock and looks at the container as the side thread would. No Ray, no thread, no wait."""

from __future__ import annotations

import asyncio
import pickle
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import cloudpickle
import numpy as np
import pytest

from raymodal import wire
from raymodal.container import runtime as runtime_module
from raymodal.container.context import current_function_call_id, current_input_id
from raymodal.container.runtime import OVERRUN_S, Runtime
from raymodal.exception import InputCancellation, InvalidError
from raymodal.plan.pool import ContainerPlan
from raymodal.spec.function import FunctionSpec
from raymodal.wire import BundleHead, Failure, Reply

TIMEOUT_S = 10.0
GRACE_S = 5.0


class Uplink:
    """Notes what leaves the container; an interrupt arrives when `deliver` is called, as a signal would between two lines of user code."""

    def __init__(self) -> None:
        self.reports: list[tuple[Any, ...]] = []
        self.interrupts = 0
        self.exits: list[int] = []

    def report(self, *report: Any) -> None:
        self.reports.append(report)

    def interrupt(self) -> None:
        self.interrupts += 1

    def end_process(self, code: int) -> None:
        self.exits.append(code)


class Box:
    """One container with a clock of its own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, function: Callable[..., Any], **spec: Any) -> None:
        self.now = 1000.0
        monkeypatch.setattr(runtime_module, "_now", lambda: self.now)
        fields = {"tag": "f", "module": "m", "qualname": "f", "timeout_s": TIMEOUT_S, **spec}
        plan = ContainerPlan(
            "ap-1", "app", "ta-1", FunctionSpec(**fields), cloudpickle.dumps(len), {}, "", (), None, {}
        )
        self.uplink = Uplink()
        self.runtime = Runtime(plan, self.uplink, GRACE_S)
        self.runtime._function = function

    # --- as the side thread

    def after(self, seconds: float) -> None:
        """Time passes, then the side thread looks."""
        self.now += seconds
        self.runtime.inspect()

    def deliver(self) -> None:
        """Signals that were sent arrive."""
        while self.uplink.interrupts:
            self.uplink.interrupts -= 1
            self.runtime.on_interrupt()

    # --- as the caller

    def head(self, kind: str, count: int, **more: Any) -> BundleHead:
        fields: dict[str, Any] = {
            "kind": kind,
            "epoch": self.runtime.epoch,
            "bundle_id": 1,
            "sender": "driver",
            "call_id": "fc-1",
            "indices": (0, count),
            "kwargs": None,
            "budget_s": 60.0,
            "pipelined": False,
            **more,
        }
        return BundleHead(**fields)

    def run_raw(self, items: list[Any], **more: Any) -> Any:
        return self.runtime.run(wire.encode_bundle(self.head(wire.JOINT_VALUE, len(items), **more), items))

    def run(self, items: list[Any], **more: Any) -> tuple[Reply, list[Any]]:
        return outcomes(self.run_raw(items, **more))

    def call(self, *args: Any, **kwargs: Any) -> Any:
        blob = wire.encode_bundle(self.head(wire.EACH_CALL, 1), [wire.dumps((args, kwargs))])
        _, (value,) = outcomes(self.runtime.run(blob))
        return value

    def open(self, *args: Any, limit: int = 100) -> tuple[Reply, list[Any]]:
        blob = wire.encode_bundle(self.head(wire.EACH_CALL, 1), [wire.dumps((args, {}))])
        return outcomes(self.runtime.open_stream(blob, limit))

    def next(self, limit: int = 100) -> tuple[Reply, list[Any]]:
        return outcomes(self.runtime.next_stream("driver", 1, limit))


def outcomes(raw: Any) -> tuple[Reply, list[Any]]:
    reply, body = wire.decode_reply(raw)
    return reply, wire.decode_values(reply, body)[0]


def kinds(values: list[Any]) -> list[Any]:
    return [value.kind if isinstance(value, Failure) else value for value in values]


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Box]]:
    made: list[Box] = []

    def make(function: Callable[..., Any], **spec: Any) -> Box:
        made.append(Box(monkeypatch, function, **spec))
        return made[-1]

    yield make
    for one in made:
        one.runtime.finish()
        asyncio.set_event_loop(None)


# --- bundles


def test_a_function_given_by_value_is_loaded(box: Callable[..., Box]) -> None:
    """Its blob is all a container needs."""
    one = box(len)
    one.runtime._function = None
    one.runtime.load()

    assert one.run(["ab", "c"])[1] == [2, 1]


def test_a_bundle_is_answered_in_order(box: Callable[..., Box]) -> None:
    """Values of every kind, each as a copy."""
    reply, values = box(lambda x: [x, x] if x % 2 else x).run([0, 1, 2, 3])

    assert (reply.start, reply.stop, reply.sealed, reply.failures) == (0, 4, False, None)
    assert values == [0, [1, 1], 2, [3, 3]]


def test_arguments_travel_in_three_forms(box: Callable[..., Box]) -> None:
    """Tuples with shared keyword arguments, and whole calls."""
    one = box(lambda *args, **kwargs: (args, kwargs))
    kwargs = wire.dumps({"k": [1]})
    joint = one.runtime.run(wire.encode_bundle(one.head(wire.JOINT_ARGS, 2, kwargs=kwargs), [(1, 2), (3,)]))
    single = one.runtime.run(wire.encode_bundle(one.head(wire.EACH_VALUE, 1, kwargs=kwargs), [wire.dumps([5])]))

    assert outcomes(joint)[1] == [((1, 2), {"k": [1]}), ((3,), {"k": [1]})]
    assert outcomes(single)[1] == [(([5],), {"k": [1]})]
    assert one.call(1, a=2) == ((1,), {"a": 2})


def test_shared_keyword_arguments_are_fresh_for_every_input(box: Callable[..., Box]) -> None:
    """One input cannot change what the next one gets."""

    def grow(x: int, seen: list[int]) -> int:
        seen.append(x)
        return len(seen)

    assert box(grow).run([7, 8, 9], kwargs=wire.dumps({"seen": []}))[1] == [1, 1, 1]


def test_an_input_that_raises_fails_alone(box: Callable[..., Box]) -> None:
    """Also by SystemExit; the frames are the user's."""

    def risky(x: int) -> float:
        if x == 1:
            sys.exit(3)
        return 1 / x

    reply, values = box(risky).run([0, 1, 2])

    assert kinds(values) == [wire.USER, wire.USER, 0.5]
    assert [type(wire.decode_failure(v)) for v in values[:2]] == [ZeroDivisionError, SystemExit]
    assert values[0].where == "ta-1"
    assert "risky" in values[0].trace


class Unpicklable(Exception):
    def __reduce__(self) -> Any:
        raise TypeError("this cannot be pickled")


def test_what_cannot_be_pickled_fails_alone(box: Callable[..., Box]) -> None:
    """Results and exceptions."""

    def odd(x: int) -> Any:
        if x == 0:
            return (n for n in ())
        if x == 1:
            raise Unpicklable("boom")
        return [x, (n for n in ())] if x == 2 else x

    _, values = box(odd).run([0, 1, 2, 3])

    assert kinds(values) == [wire.USER, wire.UNPICKLABLE, wire.USER, 3]
    assert isinstance(wire.decode_failure(values[0]), InvalidError)
    assert "boom" in values[1].text
    assert "generator" in values[2].text


def test_an_input_that_cannot_be_read_fails_alone(box: Callable[..., Box]) -> None:
    """And says what is missing in the container."""
    one = box(lambda x: x)
    blobs = [pickle.dumps(1), b"\x80\x05cno_such_module\nf\n.", pickle.dumps(3)]
    _, values = outcomes(one.runtime.run(wire.encode_bundle(one.head(wire.EACH_VALUE, 3), blobs)))

    assert kinds(values) == [1, wire.USER, 3]
    assert "module 'no_such_module' is not installed in the container" in values[1].text


def test_a_coroutine_from_a_sync_function_is_refused(box: Callable[..., Box]) -> None:
    """It would be lost silently."""

    async def inner() -> None: ...

    value = box(lambda x: inner()).run([1])[1][0]
    assert "async def" in value.text


def test_each_input_knows_who_it_is(box: Callable[..., Box]) -> None:
    """The call's id is the same, the input's its own; outside there is none."""
    one = box(lambda x: (current_function_call_id(), current_input_id()))

    assert one.run([0, 0], indices=[0, 7])[1] == [("fc-1", "in-1"), ("fc-1", "in-1-7")]
    assert current_input_id() is None


def test_a_bundle_stops_between_inputs_when_its_budget_is_used(box: Callable[..., Box]) -> None:
    """The rest goes back untouched; at least one input runs."""
    ran = []

    def slow(x: int) -> int:
        ran.append(x)
        one.now += 0.05
        return x

    one = box(slow)
    first, second = one.run([0, 1, 2, 3], budget_s=0.06)[0], one.run([4, 5], budget_s=0.0)[0]

    assert ((first.start, first.stop), (second.start, second.stop), ran) == ((0, 2), (0, 1), [0, 1, 4])
    assert round(first.elapsed_s, 6) == 0.1


def test_a_reply_does_not_grow_without_bound(box: Callable[..., Box], monkeypatch: pytest.MonkeyPatch) -> None:
    """Large results end a bundle early; very large ones travel beside the bytes."""
    monkeypatch.setattr(runtime_module, "REPLY_BYTES", 1000)
    one = box(lambda x: ["y" * 600] if x < 9 else np.zeros(wire.BUFFER_MIN, np.uint8))
    reply, _ = one.run([0, 1, 2, 3])
    raw = one.run_raw([9, 1])

    assert (reply.stop, len(raw)) == (2, 2)
    _, (array,) = outcomes([raw[0], bytes(raw[1].raw())])
    assert array.nbytes == wire.BUFFER_MIN


# --- sealing


def test_an_input_that_overruns_frees_its_neighbours(box: Callable[..., Box]) -> None:
    """What is finished and what is untouched leave by the side; the running input is the call's own reply."""

    def function(x: int) -> int:
        if x == 2:
            one.after(OVERRUN_S * 1.1)
            one.after(1.0)  # a second look finds nothing left
        return x * 10

    one = box(function)
    reply, values = one.run([0, 1, 2, 3, 4])

    ((sender, bundle_id, epoch, current, data, buffers, untouched),) = one.uplink.reports
    assert (sender, bundle_id, epoch, current, buffers, untouched) == ("driver", 1, 1, 1, [], (3, 5))
    sealed, early = outcomes(data)
    assert (sealed.start, sealed.stop, sealed.sealed, early) == (0, 2, True, [0, 10])
    assert (reply.start, reply.stop, reply.sealed, values) == (2, 3, True, [20])


@pytest.mark.parametrize("at", range(4))
def test_sealing_answers_each_position_once(box: Callable[..., Box], at: int) -> None:
    """Wherever it happens, failures among the finished ones included."""

    def function(x: int) -> int:
        if x == at:
            one.after(OVERRUN_S * 2)
        return 1 // x

    one = box(function)
    reply, values = one.run([0, 1, 2, 3])
    ((*_, data, _, (lo, hi)),) = one.uplink.reports
    sealed, early = outcomes(data)

    positions = [*range(sealed.start, sealed.stop), *range(reply.start, reply.stop), *range(lo, hi)]
    assert positions == [0, 1, 2, 3]
    assert kinds(early + values) == [wire.USER, 1, 0, 0][: at + 1]


def test_a_bundle_sent_before_the_sealing_comes_back_untouched(box: Callable[..., Box]) -> None:
    """It was queued behind; its sender has been told, and learns the epoch."""
    ran = []

    def function(x: int) -> int:
        ran.append(x)
        if x == 0:
            one.after(OVERRUN_S * 2)
        return x

    one = box(function)
    one.run([0, 1], epoch=0)
    reply, values = one.run([5, 6], bundle_id=2, epoch=0)

    assert (reply.refused, reply.epoch, values, ran) == ("epoch", 1, [], [0])
    assert one.run([7], bundle_id=3, epoch=1)[1] == [7]


@pytest.mark.parametrize(("pipelined", "reports"), [(False, 0), (True, 1)])
def test_a_single_input_is_sealed_only_for_what_is_queued_behind(
    box: Callable[..., Box], pipelined: bool, reports: int
) -> None:
    """Else there is nobody to free."""
    one = box(lambda x: one.after(1.0))
    reply, _ = one.run([0], pipelined=pipelined)

    assert len(one.uplink.reports) == reports
    assert (reply.stop, reply.sealed) == (1, pipelined)


def test_nothing_is_sealed_that_is_fast(box: Callable[..., Box]) -> None:
    """Many inputs below the limit are no overrun, however long they take together."""
    one = box(lambda x: one.after(OVERRUN_S * 0.9))
    one.run([0, 1, 2, 3])
    one.after(5.0)

    assert one.uplink.reports == []


# --- timeouts and cancellation


def test_an_input_that_exceeds_its_timeout_is_interrupted(box: Callable[..., Box]) -> None:
    """It fails; the neighbours were freed before."""
    ended = []

    def function(x: int) -> int:
        try:
            if x == 1:
                one.after(TIMEOUT_S * 1.1)
                one.deliver()
                raise AssertionError("the interrupt did not arrive")
        finally:
            ended.append(x)
        return x

    one = box(function)
    reply, values = one.run([0, 1, 2])

    assert (kinds(values), ended, len(one.uplink.reports)) == ([wire.TIMEOUT], [0, 1], 1)
    assert "timeout=10 s" in str(wire.decode_failure(values[0]))
    assert one.uplink.exits == []


def test_a_timeout_counts_even_if_the_code_goes_on_to_return(box: Callable[..., Box]) -> None:
    """Swallowing the interrupt, or ending before it arrives, saves no input."""

    def function(x: int) -> int:
        try:
            one.after(TIMEOUT_S * 1.1)
            if x == 0:
                one.deliver()
        except InputCancellation:
            pass
        return x

    one = box(function)
    assert kinds(one.run([0])[1] + one.run([1])[1]) == [wire.TIMEOUT, wire.TIMEOUT]


def test_an_interrupt_reaches_no_other_input(box: Callable[..., Box]) -> None:
    """It was meant for one that has ended by itself."""

    def function(x: int) -> int:
        if x == 0:
            one.runtime.cancel("driver", 1)
        else:
            one.deliver()
        return x

    one = box(function)
    _, first = one.run([0])
    _, second = one.run([1], bundle_id=2)

    assert (first, second) == ([0], [1])
    one.runtime.on_interrupt()  # between inputs


def test_an_interrupt_that_meets_the_users_exception_stays_inside(box: Callable[..., Box]) -> None:
    """The input has failed one way or the other, and the bundle is answered."""

    def function(x: int) -> None:
        one.after(TIMEOUT_S * 1.1)
        raise ValueError("mine")

    one = box(function)
    has_failed = False

    def tracer(frame: Any, event: str, arg: Any) -> Any:
        nonlocal has_failed
        if frame.f_code is not Runtime._run_sync.__code__:
            return tracer if event == "call" and not has_failed else None
        if event == "exception" and isinstance(arg[1], ValueError):
            has_failed = True
        elif event == "line" and has_failed:
            sys.settrace(None)
            one.deliver()
        return tracer

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        _, values = one.run([0])
    except InputCancellation as escaped:
        raise AssertionError("it left run()") from escaped
    finally:
        sys.settrace(before)
    assert len(values) == 1


def test_code_that_cannot_be_interrupted_ends_with_its_container(box: Callable[..., Box]) -> None:
    """After the grace; the outcomes leave first."""

    def function(x: int) -> int:
        if x == 1:
            one.after(TIMEOUT_S * 1.1)
            one.after(GRACE_S * 0.9)
            assert one.uplink.exits == []
            one.after(GRACE_S * 0.2)
        return x

    one = box(function)
    one.run([0, 1, 2])

    assert one.uplink.exits == [1]
    answered = [value for report in one.uplink.reports for value in outcomes(report[4])[1]]
    assert kinds(answered) == [0, wire.TIMEOUT]
    assert "its container was killed" in answered[1].text


def test_a_cancelled_input_is_interrupted_and_the_rest_never_runs(box: Callable[..., Box]) -> None:
    """The failure says so."""
    ran = []

    def function(x: int) -> int:
        ran.append(x)
        if x == 1:
            one.runtime.cancel("driver", 1, "enough")
            one.deliver()
        return x

    one = box(function)
    _, values = one.run([0, 1, 2])

    assert (kinds(values), ran, values[1].text) == ([0, wire.CANCELLED], [0, 1], "enough")


def test_a_value_that_was_there_before_the_interrupt_stands(box: Callable[..., Box]) -> None:
    """Unlike for a timeout."""
    one = box(lambda x: one.runtime.cancel_current("enough") or x)

    assert one.run([5])[1] == [5]


def test_a_bundle_that_was_cancelled_before_its_turn_is_refused(box: Callable[..., Box]) -> None:
    """Once; the id may not come again, but nothing is remembered forever."""
    one = box(lambda x: x)
    one.runtime.cancel("driver", 1)
    one.runtime.cancel_current("nothing runs")

    assert one.run([5])[0].refused == "cancelled"
    assert one.run([5])[1] == [5]


def test_a_cancellation_raised_by_user_code_is_one(box: Callable[..., Box]) -> None:
    """For instance by a library that passes on another's."""

    def function(x: int) -> None:
        raise InputCancellation("mine")

    assert kinds(box(function).run([1])[1]) == [wire.CANCELLED]


def test_a_keyboard_interrupt_ends_the_container(box: Callable[..., Box]) -> None:
    """As in Modal: its inputs run again elsewhere."""

    def function(x: int) -> None:
        raise KeyboardInterrupt

    one = box(function)
    one.run([1])

    assert one.uplink.exits == [1]


def test_a_draining_container_refuses_bundles(box: Callable[..., Box]) -> None:
    """Untouched, so no attempt is used."""
    one = box(lambda x: x)
    one.runtime.finish("idle")

    reply, _ = one.run([1])
    assert (reply.refused, reply.stop) == ("draining", 0)


# --- async functions


def test_async_inputs_share_one_lasting_loop(box: Callable[..., Box]) -> None:
    """Over bundles too: what is bound to the loop stays usable."""
    loops = []

    async def function(x: int) -> Any:
        loops.append(asyncio.get_running_loop())
        await asyncio.sleep(0)
        return [x, current_input_id()]

    one = box(function, is_async=True)
    _, values = one.run([1, 2])
    one.run([3], bundle_id=2)

    assert values == [[1, "in-1"], [2, "in-1-1"]]
    assert len(set(loops)) == 1


def test_async_inputs_fail_alone(box: Callable[..., Box]) -> None:
    """Also by SystemExit, which must not stop the loop."""

    async def function(x: int) -> int:
        await asyncio.sleep(0)
        if x == 1:
            sys.exit(3)
        return 1 // x

    one = box(function, is_async=True)
    _, values = one.run([0, 1, 2])

    assert kinds(values) == [wire.USER, wire.USER, 0]
    assert type(wire.decode_failure(values[1])) is SystemExit
    assert one.run([4])[1] == [0]


def test_an_async_input_that_exceeds_its_timeout_is_cancelled(box: Callable[..., Box]) -> None:
    """Its task is asked, no signal is needed while the loop turns."""
    ended = []

    async def function(x: int) -> int:
        if x != 1:
            return x
        one.after(TIMEOUT_S * 1.1)
        one.after(0.05)
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(x)
        return x

    one = box(function, is_async=True)
    reply, values = one.run([0, 1, 2])

    assert (kinds(values), ended) == ([wire.TIMEOUT], [1])
    assert one.runtime.current is None
    assert len(one.uplink.reports) == 1


def test_async_code_that_blocks_its_loop_is_signalled(box: Callable[..., Box]) -> None:
    """The loop does not turn, so raising from a signal can only hit user code."""

    async def function(x: int) -> int:
        one.after(TIMEOUT_S * 1.1)
        for _ in range(6):
            one.after(0.05)
        one.deliver()
        raise AssertionError("the interrupt did not arrive")

    one = box(function, is_async=True)
    assert kinds(one.run([0])[1]) == [wire.TIMEOUT]


def test_an_async_function_that_returns_no_awaitable_is_named(box: Callable[..., Box]) -> None:
    """A decorator has most likely swallowed it."""
    value = box(lambda x: 5, is_async=True).run([1])[1][0]

    assert "returned a int, not an awaitable" in value.text


# --- generators


def count_to(stop: int) -> Iterator[int]:
    yield from range(stop)


async def acount_to(stop: int) -> AsyncIterator[int]:
    for n in range(stop):
        await asyncio.sleep(0)
        yield n


@pytest.mark.parametrize("function", [count_to, acount_to])
def test_a_generator_is_pulled(box: Callable[..., Box], function: Callable[..., Any]) -> None:
    """At most `limit` items a call; positions go on from call to call."""
    one = box(function, is_generator=True, is_async=function is acount_to)
    parts = [one.open(5, limit=2), one.next(2), one.next(2)]

    assert [(reply.start, reply.stop, reply.more, values) for reply, values in parts] == [
        (0, 2, True, [0, 1]),
        (2, 4, True, [2, 3]),
        (4, 5, False, [4]),
    ]
    assert one.next()[0].refused == "closed"


def test_a_call_brings_what_comes_within_a_few_milliseconds(box: Callable[..., Box]) -> None:
    """At least one item."""

    def slow() -> Iterator[int]:
        for n in range(3):
            one.now += 1.0
            yield n

    one = box(slow, is_generator=True)
    assert [one.open()[1], one.next()[1], one.next()[1], one.next()[0].more] == [[0], [1], [2], False]


def test_a_generator_that_fails_gives_what_came_before(box: Callable[..., Box]) -> None:
    """The failure is its last item."""

    def broken() -> Iterator[Any]:
        yield [1]
        raise LookupError("mine")

    one = box(broken, is_generator=True)
    reply, values = one.open()

    assert (values[0], kinds(values)[1], reply.stop, reply.more) == ([1], wire.USER, 2, False)
    assert type(wire.decode_failure(values[1])) is LookupError
    assert one.runtime.current is None


def test_an_item_that_cannot_be_pickled_ends_the_generator(box: Callable[..., Box]) -> None:
    """Its `finally` runs."""
    ended = []

    def odd() -> Iterator[Any]:
        try:
            yield 1
            yield (n for n in ())
            yield 3
        finally:
            ended.append(True)

    reply, values = box(odd, is_generator=True).open()
    assert (kinds(values), reply.more, ended) == ([1, wire.USER], False, [True])


def test_a_function_that_returns_no_generator_is_named(box: Callable[..., Box]) -> None:
    """And what it raises before the first item arrives too."""
    reply, (value,) = box(lambda: 5, is_generator=True).open()

    assert (reply.more, "returned a int, not a generator" in value.text) == (False, True)


@pytest.mark.parametrize("is_async", [False, True])
def test_closing_a_generator_runs_its_finally(box: Callable[..., Box], is_async: bool) -> None:
    """By the caller or when the container ends; twice is fine."""
    ended: list[str] = []

    def sync() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            ended.append("sync")
            raise ValueError("nobody hears this")

    async def asynchronous() -> AsyncIterator[int]:
        try:
            yield 1
            yield 2
        finally:
            ended.append("async")

    one = box(asynchronous if is_async else sync, is_generator=True, is_async=is_async)
    one.open(limit=1)
    assert outcomes(one.runtime.close_stream("driver", 1))[0].refused == "closed"
    one.runtime.close_stream("driver", 1)
    one.open(limit=1)
    one.runtime.finish()

    assert ended == ["async" if is_async else "sync"] * 2


def test_ready_items_do_not_wait_for_a_slow_one(box: Callable[..., Box]) -> None:
    """They leave by the side, in order; the call's reply goes on after them."""

    def uneven() -> Iterator[int]:
        yield 0
        yield 1
        one.after(OVERRUN_S * 2)
        yield 2

    one = box(uneven, is_generator=True)
    reply, values = one.open()
    ((*_, data, _, untouched),) = one.uplink.reports
    early, items = outcomes(data)

    assert (early.start, early.stop, items, untouched) == (0, 2, [0, 1], (0, 0))
    assert (reply.start, reply.stop, values) == (2, 3, [2])


def test_the_timeout_of_a_generator_covers_all_its_calls(box: Callable[..., Box]) -> None:
    """Time between calls does not count: nobody asked for anything."""

    def endless() -> Iterator[int]:
        n = 0
        while True:
            one.after(TIMEOUT_S * 0.4)
            one.deliver()
            yield n
            n += 1

    one = box(endless, is_generator=True)
    parts = [one.open()[1]]
    one.now += 100.0
    parts += [one.next()[1], one.next()[1]]

    assert [kinds(values) for values in parts] == [[0], [1], [wire.TIMEOUT]]


def test_a_generator_has_one_context_for_all_its_calls(box: Callable[..., Box]) -> None:
    """Context variables that it sets stay its own."""

    def tells() -> Iterator[Any]:
        yield current_input_id()
        yield current_input_id()

    one = box(tells, is_generator=True)
    assert one.open(limit=1)[1] + one.next()[1] == ["in-1", "in-1"]
    assert current_input_id() is None
