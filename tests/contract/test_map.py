"""`map`, `starmap` and `for_each`: order, laziness, errors and early ends."""

from __future__ import annotations

import gc
import logging
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raymodal.exception import DeprecationError, InvalidError
from tests.contract.files import await_file, await_text

# Inputs


def test_results_come_in_the_order_of_the_inputs(sample: Any) -> None:
    """Several thousand, through two containers."""
    assert list(sample.square.map(range(3000))) == [x * x for x in range(3000)]


def test_unordered_results_are_all_there(sample: Any) -> None:
    """In whatever order they finish."""
    assert sorted(sample.square.map(range(500), order_outputs=False)) == [x * x for x in range(500)]


def test_several_iterables_are_zipped(sample: Any) -> None:
    """To the shortest."""
    assert list(sample.div.map([1, 2, 3], (x for x in (10, 20)))) == [0.1, 0.1]


def test_kwargs_go_to_every_call(sample: Any) -> None:
    """The same ones each time."""
    assert list(sample.div.map([4, 6], kwargs={"b": 2})) == [2.0, 3.0]
    assert list(sample.describe.starmap([(1,), ()], kwargs={"k": [0]})) == [((1,), {"k": [0]}), ((), {"k": [0]})]


def test_starmap_takes_sequences(sample: Any) -> None:
    """Tuples, lists, or anything that can be unpacked."""
    assert list(sample.div.starmap([(6, 3), [9, 3], (x for x in (1, 1))])) == [2.0, 3.0, 1.0]


@pytest.mark.parametrize(
    ("iterable", "seen"),
    [
        ("abc", ["a", "b", "c"]),
        ({"k": 1, "l": 2}, ["k", "l"]),
        ({5}, [5]),
        (b"a", [97]),
        ([None], [None]),
        ([(1, 2)], [(1, 2)]),
    ],
)
def test_any_iterable_will_do(sample: Any, iterable: Any, seen: list[Any]) -> None:
    """A string is its characters, a dictionary its keys, and a tuple among the inputs is one argument."""
    assert [args[0] for args, _ in sample.describe.map(iterable)] == seen


@pytest.mark.parametrize("ordered", [True, False])
def test_no_inputs(sample: Any, ordered: bool) -> None:
    """No results."""
    assert list(sample.square.map([], order_outputs=ordered)) == []
    assert list(sample.square.map(iter(()), order_outputs=ordered)) == []
    assert list(sample.div.starmap([], order_outputs=ordered)) == []


def test_what_is_not_iterable(sample: Any) -> None:
    """Found when the iteration begins."""
    results = sample.square.map(5)

    with pytest.raises(AssertionError):
        next(iter(results))


def test_without_iterables(sample: Any) -> None:
    """It would never end."""
    with pytest.raises(InvalidError, match="at least one iterable"):
        sample.square.map()


def test_async_iterables(sample: Any) -> None:
    """Also in the sync form, and mixed with sync ones."""

    async def numbers(n: int) -> AsyncIterator[int]:
        for i in range(n):
            yield i

    assert list(sample.square.map(numbers(5))) == [0, 1, 4, 9, 16]
    assert list(sample.div.map(numbers(3), [1, 2])) == [0.0, 0.5]


def test_one_object_many_times_is_many_copies(sample: Any) -> None:
    """Inputs are isolated from each other, within a bundle too."""
    a = [0]

    got = list(sample.call.map([lambda x: x.append(1) or x] * 4, [a, a, a, a]))

    assert got == [[0, 1]] * 4
    assert a == [0]
    assert len({id(x) for x in got}) == 4


def test_one_large_array_many_times_is_many_copies(sample: Any) -> None:
    """The same for what travels through shared memory."""

    def bump(a: Any) -> Any:
        a += 1
        return a

    a = np.zeros(300_000)
    got = list(sample.call.map([bump] * 3, [a, a, a]))

    assert [g[0] for g in got] == [1.0, 1.0, 1.0]
    assert a[0] == 0.0


def test_an_input_that_changes_after_it_was_drawn(sample: Any) -> None:
    """A generator may fill one buffer over and over."""

    def reuse() -> Iterator[list[int]]:
        buffer = [0]
        for i in range(50):
            buffer[0] = i
            yield buffer

    assert [args[0] for args, _ in sample.describe.map(reuse())] == [[i] for i in range(50)]


def test_inputs_of_mixed_sizes(sample: Any) -> None:
    """Small values between large ones stay in order."""
    values = [i if i % 3 else b"x" * 200_000 for i in range(12)]

    assert [args[0] for args, _ in sample.describe.map(values)] == values


# Laziness


def test_nothing_is_drawn_before_the_first_result_is_asked_for(sample: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A result that is never iterated does nothing, and says so when it is dropped."""
    drawn: list[int] = []
    results = sample.square.map(drawn.append(i) or i for i in range(3))
    assert drawn == []

    with caplog.at_level(logging.WARNING, "raymodal"):
        del results
        gc.collect()

    assert drawn == []
    assert "never iterated" in caplog.text


def test_a_result_is_used_once(sample: Any) -> None:
    """Iterating again yields nothing, and it is no sequence."""
    results = sample.square.map([1, 2])

    assert list(results) == [1, 4]
    assert list(results) == []
    with pytest.raises(TypeError):
        len(sample.square.map([1]).__iter__())


def test_the_input_generator_runs_in_the_callers_thread(sample: Any) -> None:
    """Thread-local state and blocking I/O are safe in it."""
    threads = set()

    def numbers() -> Iterator[int]:
        for i in range(100):
            threads.add(threading.get_ident())
            yield i

    assert sum(sample.square.map(numbers())) == sum(x * x for x in range(100))
    assert threads == {threading.get_ident()}


def test_no_inputs_are_drawn_while_the_consumer_works(sample: Any) -> None:
    """The input generator and the loop's body never run at once, so neither needs a lock."""
    drawn = 0

    def numbers() -> Iterator[int]:
        nonlocal drawn
        for i in range(400):
            drawn += 1
            yield i

    for _ in sample.square.map(numbers()):
        before = drawn
        sum(range(2000))
        assert drawn == before
    assert drawn == 400


def test_endless_inputs_and_a_break(sample: Any) -> None:
    """The generator of inputs is closed, and the next call is served."""
    closed: list[bool] = []

    def endless() -> Iterator[int]:
        i = 0
        try:
            while True:
                yield i
                i += 1
        finally:
            closed.append(True)

    got = []
    for y in sample.square.map(endless()):
        got.append(y)
        if len(got) == 5:
            break

    assert got == [0, 1, 4, 9, 16]
    gc.collect()
    assert closed == [True]
    assert sample.square.remote(9) == 81


def test_a_break_cancels_what_runs(sample: Any, tmp_path: Path) -> None:
    """An input that nobody waits for any more is interrupted, and its container serves on."""
    log = tmp_path / "log"
    for _ in sample.nap.starmap([(0.0,), (60.0, str(log))], order_outputs=False):
        assert await_file(str(log))
        break

    assert sample.nap.remote(0.0) == "rested"
    assert list(sample.nap.map([0.0, 0.0, 0.0])) == ["rested"] * 3
    assert await_text(log, "InputCancellation")


def test_quick_inputs_do_not_wait_for_a_slow_one(sample: Any, tmp_path: Path) -> None:
    """Unordered: all others arrive while input 0 runs. Its container's bundle does not hold them."""
    go = tmp_path / "go"
    results = iter(sample.release.map([str(go)] * 40, range(40), order_outputs=False))

    overdue = threading.Timer(5.0, go.touch)  # so that the test fails instead of hanging
    overdue.start()
    quick = [next(results) for _ in range(39)]
    overdue.cancel()
    go.touch()

    assert sorted(quick) == list(range(1, 40))
    assert list(results) == [0]


def test_ordered_results_wait_for_the_slow_one(sample: Any, tmp_path: Path) -> None:
    """And come all at once behind it."""
    go = tmp_path / "go"
    threading.Timer(0.3, go.touch).start()

    assert list(sample.release.map([str(go)] * 20, range(20))) == list(range(20))


def test_two_maps_of_one_function_at_once(sample: Any) -> None:
    """In two threads, and nested in one."""
    with ThreadPoolExecutor(4) as threads:
        got = list(threads.map(lambda n: list(sample.square.map(range(n))), [50, 60, 70, 80]))
    assert [len(g) for g in got] == [50, 60, 70, 80]

    nested = [(a, list(sample.square.map(range(a)))) for a in sample.square.map(range(4))]
    assert nested == [(a, [x * x for x in range(a)]) for a in (0, 1, 4, 9)]


# Errors


def test_a_failure_is_raised_and_ends_the_iteration(sample: Any) -> None:
    """As the exception that the function raised."""
    results = iter(sample.div.map([1, 2, 3], [1, 0, 1]))

    with pytest.raises(ZeroDivisionError):
        list(results)
    assert list(results) == []


@pytest.mark.parametrize("ordered", [True, False])
def test_exceptions_in_place_of_results(sample: Any, ordered: bool) -> None:
    """Raw, of their own type, and in order where order is asked for."""
    got = list(sample.div.map([1, 2, 3], [1, 0, 1], return_exceptions=True, order_outputs=ordered))

    assert sorted(map(repr, got)) == ["1.0", "3.0", "ZeroDivisionError('division by zero')"]
    if ordered:
        assert [type(x) for x in got] == [float, ZeroDivisionError, float]


def test_many_exceptions_in_place_of_results(sample: Any) -> None:
    """Every third input fails."""
    got = list(sample.div.map(range(300), [i % 3 for i in range(300)], return_exceptions=True))

    assert [i for i, x in enumerate(got) if isinstance(x, ZeroDivisionError)] == list(range(0, 300, 3))


def test_exceptions_are_not_wrapped_any_more(sample: Any) -> None:
    """The parameter is accepted with a warning."""
    with pytest.warns(DeprecationError, match="wrap_returned_exceptions"):
        results = sample.div.map([1], [0], return_exceptions=True, wrap_returned_exceptions=True)
    (error,) = results
    assert type(error) is ZeroDivisionError


def test_a_remote_exit_is_never_returned(sample: Any) -> None:
    """`SystemExit` is no `Exception`."""
    with pytest.raises(SystemExit) as caught:
        list(sample.call.map([sys.exit], [3], return_exceptions=True))
    assert caught.value.code == 3


@pytest.mark.parametrize("return_exceptions", [False, True])
def test_an_exception_of_the_inputs_is_the_callers(sample: Any, return_exceptions: bool) -> None:
    """It is raised from the iteration, whatever is to be done with those of the function."""

    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("no more inputs")

    with pytest.raises(LookupError, match="no more inputs"):
        list(sample.square.map(broken(), return_exceptions=return_exceptions))
    assert sample.square.remote(3) == 9


def test_an_unpicklable_input(sample: Any) -> None:
    """It is the caller's error, and a note says which input it was."""
    with pytest.raises(TypeError, match="pickle") as caught:
        list(sample.square.map([1, threading.Lock()]))
    assert any("map" in text for text in caught.value.__notes__)


def test_an_input_that_cannot_be_rebuilt_fails_alone(sample: Any) -> None:
    """What is unpickled in a container fails only its own input."""

    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return divmod, (1, 0)

    got = list(sample.describe.map([1, Bomb(), 2], return_exceptions=True))

    assert [isinstance(x, Exception) for x in got] == [False, True, False]


# for_each


def test_for_each_returns_nothing(sample: Any, tmp_path: Path) -> None:
    """All inputs have run when it returns."""
    log = tmp_path / "log"

    assert sample.call.for_each([sample.note] * 20, [str(log)] * 20, map(str, range(20))) is None
    assert sorted(map(int, log.read_text().split())) == list(range(20))


def test_for_each_and_failures(sample: Any) -> None:
    """Raised, unless they are to be ignored."""
    with pytest.raises(ZeroDivisionError):
        sample.div.for_each([1, 2], [1, 0])

    assert sample.div.for_each([1, 2], [1, 0], ignore_exceptions=True) is None
    assert sample.div.for_each([4], kwargs={"b": 2}) is None


# On an event loop


async def test_plain_iteration_is_refused_on_a_running_loop(sample: Any) -> None:
    """It would stop the loop."""
    results = sample.square.map([1])
    with pytest.raises(InvalidError, match="async for"):
        list(results)
    with pytest.raises(InvalidError, match="for_each.aio"):
        sample.square.for_each([1])
    assert [y async for y in results] == [1]
