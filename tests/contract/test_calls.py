"""`remote` and `local`: what goes in, what comes out, and where it runs."""

from __future__ import annotations

import asyncio
import functools
import os
import sys
import threading
import types
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import raymodal as modal
from raymodal.exception import AsyncUsageWarning, DeserializationError, ExecutionError, InvalidError
from tests.contract.support import local_only, ray_only

# Arguments and results


def test_arguments_arrive(sample: Any) -> None:
    """Positional and keyword arguments reach the function as they were given."""
    assert sample.describe.remote(1, "b", None, c=[2], d={"e": 3}) == ((1, "b", None), {"c": [2], "d": {"e": 3}})


@pytest.mark.parametrize(
    "value", [None, 0, "", b"", (), [], {}, 1 << 200, float("inf"), "é\0\ud800", range(3), Ellipsis]
)
def test_values_come_back_as_they_are(sample: Any, value: Any) -> None:
    """Falsy and odd values are ordinary results."""
    (got,), _ = sample.describe.remote(value)

    assert type(got) is type(value)
    assert got == value


def test_values_of_the_users_classes_keep_their_type(sample: Any) -> None:
    """Instances of a class in the user's module travel by reference."""
    (got,), _ = sample.describe.remote(sample.Point(1, 2))

    assert type(got) is sample.Point
    assert got == sample.Point(1, 2)


def test_wrong_arity_is_found_in_the_container(sample: Any) -> None:
    """The caller does not check signatures; the user's function does."""
    with pytest.raises(TypeError, match="positional argument"):
        sample.square.remote(1, 2, 3)
    with pytest.raises(TypeError, match="unexpected keyword"):
        sample.square.remote(y=1)


def test_an_unpicklable_argument_is_the_callers_error(sample: Any) -> None:
    """Nothing is sent, and the function goes on working."""
    with pytest.raises(TypeError, match="pickle"):
        sample.square.remote(threading.Lock())

    assert sample.square.remote(2) == 4


def test_arguments_are_copies(sample: Any) -> None:
    """What a container does to its argument does not reach the caller's object."""
    mine = [1, 2]

    assert sample.call.remote(lambda xs: xs.append(3) or xs, mine) == [1, 2, 3]
    assert mine == [1, 2]


@pytest.mark.parametrize("n", [10, 700_000])
def test_arrays_may_be_written_to(sample: Any, n: int) -> None:
    """Arguments and results are writable copies, also those that travel through shared memory."""

    def double(a: Any) -> Any:
        a *= 2
        return a

    mine = np.arange(n, dtype=np.int64)
    got = sample.call.remote(double, mine)
    got[0] = 7  # would raise if it were a view of shared memory

    assert mine[:3].tolist() == [0, 1, 2]
    assert got[:3].tolist() == [7, 2, 4]
    assert got[-1] == 2 * (n - 1)


def test_one_array_twice_in_one_call_stays_itself(sample: Any) -> None:
    """Within one call pickling keeps sharing, whatever the size."""
    a = np.zeros(300_000)

    assert sample.call.remote(lambda x, y: x is y, a, a)


@pytest.mark.parametrize("n", [3_000_000, 20_000_000])
def test_large_bytes(sample: Any, n: int) -> None:
    """There is no size that a user has to know about."""
    (got,), _ = sample.describe.remote(b"x" * n)

    assert len(got) == n
    assert got[:1] == got[-1:] == b"x"


@ray_only
def test_a_result_whose_module_is_missing_here(sample: Any) -> None:
    """`DeserializationError` names what is missing."""

    def make() -> Any:
        module = types.ModuleType("only_in_the_container")
        sys.modules[module.__name__] = module
        module.Thing = type("Thing", (), {"__module__": module.__name__})  # type: ignore[attr-defined]
        return module.Thing()  # type: ignore[attr-defined]

    with pytest.raises(DeserializationError, match="only_in_the_container"):
        sample.call.remote(make)


# What the handle is


def test_a_function_is_not_callable(sample: Any) -> None:
    """It must say `.remote` or `.local`."""
    with pytest.raises(TypeError, match="not callable"):
        sample.square(3)


def test_local_runs_here(sample: Any) -> None:
    """`local` runs the function itself: same objects, same thread, an async one not awaited."""
    mine: list[int] = []

    assert sample.call.local(lambda xs: xs, mine) is mine
    assert sample.call.local(threading.get_ident) == threading.get_ident()
    assert sample.call.local(modal.is_local) is True
    coroutine = sample.acall.local(lambda: 5)
    assert asyncio.run(coroutine) == 5
    assert list(sample.produce.local(2)) == [0, 1]


def test_remote_is_an_ordinary_callable(sample: Any) -> None:
    """`f.remote` can be bound, mapped and stored."""
    assert functools.partial(sample.div.remote, 6)(3) == 2.0
    assert list(map(sample.square.remote, [1, 2])) == [1, 4]
    remote = sample.square.remote
    assert [remote(i) for i in range(3)] == [0, 1, 4]


def test_generators_refuse_plain_calls(sample: Any) -> None:
    """The message says what to use."""
    for refused in (
        lambda: sample.produce.remote(1),
        lambda: list(sample.produce.map([1])),
        lambda: sample.produce.spawn(1),
        lambda: sample.produce.spawn_map([1]),
        lambda: next(sample.square.remote_gen(1)),
    ):
        with pytest.raises(InvalidError, match=r"remote_gen|remote\("):
            refused()


# Where it runs


@ray_only
def test_a_container_is_another_process(sample: Any) -> None:
    """With the same Python, and not the caller's memory."""
    assert sample.call.remote(os.getpid) != os.getpid()
    assert sample.call.remote(lambda: sys.version_info[:2]) == sys.version_info[:2]


@ray_only
def test_sync_functions_run_on_the_main_thread(sample: Any) -> None:
    """Signal handlers, GUIs and CUDA depend on it."""
    assert sample.call.remote(lambda: threading.current_thread() is threading.main_thread())
    assert sample.acall.remote(lambda: threading.current_thread() is threading.main_thread())


def test_asyncio_run_works_in_a_sync_function(sample: Any) -> None:
    """No event loop runs in its thread."""

    def use() -> int:
        async def five() -> int:
            await asyncio.sleep(0)
            return 5

        return asyncio.run(five())

    assert sample.call.remote(use) == 5


def test_async_functions_share_one_loop(sample: Any) -> None:
    """A task or client made by one input is alive for the next."""

    def begin() -> int:
        loop = asyncio.get_running_loop()
        loop.kept_by_test = loop.create_task(asyncio.sleep(0, "kept"))  # type: ignore[attr-defined]
        return id(loop)

    async def finish() -> tuple[int, str]:
        loop = asyncio.get_running_loop()
        return id(loop), await loop.kept_by_test  # type: ignore[attr-defined]

    first = sample.acall.remote(begin)

    assert sample.acall.remote(finish) == (first, "kept")


def test_a_container_knows_where_it_is(sample: Any) -> None:
    """`is_local` and the ids of input and call, in containers and outside."""

    def look() -> tuple[Any, ...]:
        return modal.is_local(), modal.current_input_id(), modal.current_function_call_id()

    local, input_id, call_id = sample.call.remote(look)
    _, other_input, other_call = sample.acall.remote(look)

    assert local is False
    assert input_id.startswith("in-")
    assert call_id.startswith("fc-")
    assert other_input not in (None, input_id)
    assert other_call not in (None, call_id)
    assert look() == (True, None, None)


def test_every_input_of_a_map_has_its_own_id(sample: Any) -> None:
    """They share the call's id."""
    looks = [lambda: (modal.current_input_id(), modal.current_function_call_id())] * 5
    got = list(sample.call.map(looks))

    assert len({input_id for input_id, _ in got}) == 5
    assert len({call_id for _, call_id in got}) == 1


def test_the_spawned_call_knows_its_id(sample: Any) -> None:
    """`current_function_call_id` in the container is the id that the caller holds."""
    spawned = sample.call.spawn(lambda: modal.current_function_call_id())

    assert spawned.get() == spawned.object_id


def test_a_batch_of_quick_calls_keeps_its_container(sample: Any) -> None:
    """Module state lasts from input to input."""

    def bump() -> int:
        sample_app = sys.modules[modal.App.__module__]
        sample_app.bumps_of_test = getattr(sample_app, "bumps_of_test", 0) + 1  # type: ignore[attr-defined]
        return sample_app.bumps_of_test  # type: ignore[attr-defined, no-any-return]

    got = [sample.acall.remote(bump) for _ in range(3)]

    assert got == [got[0], got[0] + 1, got[0] + 2]


# Threads and loops of the caller


def test_twenty_threads_may_call_at_once(sample: Any) -> None:
    """Each gets its own answers."""
    with ThreadPoolExecutor(20) as threads:
        got = list(threads.map(lambda i: [sample.square.remote(i * 100 + j) for j in range(5)], range(20)))

    assert got == [[(i * 100 + j) ** 2 for j in range(5)] for i in range(20)]


async def test_a_blocking_call_on_a_running_loop_warns_and_works(sample: Any) -> None:
    """As in a notebook, where a loop always runs."""
    with pytest.warns(AsyncUsageWarning, match="remote"):
        assert sample.square.remote(5) == 25


async def test_spawn_on_a_running_loop_warns_and_works(sample: Any) -> None:
    """The same for the other blocking calls."""
    with pytest.warns(AsyncUsageWarning):
        spawned = sample.square.spawn(6)
    with pytest.warns(AsyncUsageWarning):
        assert spawned.get() == 36


async def test_the_warning_can_be_silenced(sample: Any) -> None:
    """By the ordinary means of `warnings`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AsyncUsageWarning)
        assert sample.square.remote(5) == 25


# Apps


@local_only
def test_remote_without_a_running_app(engine: Any) -> None:
    """The phrase is one that programs match on."""
    app = modal.App("idle")

    @app.function(serialized=True)
    def f() -> int:
        return 1

    for attempt in (f.remote, f.spawn, lambda: list(f.map([1])), lambda: next(f.remote_gen())):
        with pytest.raises(ExecutionError, match="because the App it is defined on is not running"):
            attempt()


def test_an_app_may_run_twice(engine: Any) -> None:
    """Handles die with the run, the id stays, the next run has another."""
    app = modal.App("twice")

    @app.function(serialized=True, max_containers=1)
    def f(x: int) -> int:
        return x + 1

    assert app.app_id is None
    with app.run() as running:
        assert running is app
        assert f.remote(1) == 2
        first = app.app_id
        with pytest.raises(InvalidError, match="already running"), app.run():
            pass
        assert f.remote(2) == 3
    with pytest.raises(ExecutionError, match="is not running"):
        f.remote(1)
    assert app.app_id == first
    with app.run():
        assert f.remote(3) == 4
    assert app.app_id != first


async def test_async_with_app_run(engine: Any) -> None:
    """The same on an event loop."""
    app = modal.App("async-with")

    @app.function(serialized=True, max_containers=1)
    def f(x: int) -> int:
        return x + 1

    async with app.run() as running:
        assert running is app
        assert await f.remote.aio(1) == 2
    with pytest.raises(ExecutionError, match="is not running"):
        await f.remote.aio(1)


@local_only
def test_what_the_body_raises(engine: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """`KeyboardInterrupt` ends the block in good order, everything else goes on, and the app has ended either way."""
    app = modal.App("interrupted")

    with app.run():
        raise KeyboardInterrupt
    assert "interrupted" in capsys.readouterr().err
    with pytest.raises(ZeroDivisionError), app.run():
        _ = 1 / 0
    with pytest.raises(SystemExit), app.run():
        sys.exit(3)
    with app.run():
        pass


def test_two_apps_at_once(engine: Any, sample: Any) -> None:
    """Each app's functions run in its own containers, and one ends without the other."""
    app = modal.App("second")

    @app.function(serialized=True, max_containers=1)
    def square(x: int) -> str:
        return f"mine {x}"

    with app.run():
        assert square.remote(2) == "mine 2"
        assert sample.square.remote(2) == 4
        assert app.app_id != sample.app.app_id
    assert sample.square.remote(3) == 9


def test_include(engine: Any) -> None:
    """A function runs with the app that included it, and its `app` is still its own."""
    part, whole = modal.App("part"), modal.App("whole")

    @part.function(serialized=True, max_containers=1)
    def f(x: int) -> int:
        return -x

    @whole.function(serialized=True, max_containers=1)
    def g(x: int) -> int:
        return f.remote(x) * 10

    assert whole.include(part) is whole
    with whole.run():
        assert f.remote(1) == -1
        assert g.remote(1) == -10
        assert f.app is part


def test_stopping_the_app_in_its_body(engine: Any) -> None:
    """Calls after that fail instead of hanging."""
    app = modal.App("stopped")

    @app.function(serialized=True, max_containers=1)
    def f(x: int) -> int:
        return x

    with app.run():
        assert f.remote(1) == 1
        app.stop()
        with pytest.raises(modal.Error):
            f.remote(2)


@pytest.fixture
def two_modules(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Two modules of one user that define functions of the same name."""
    for name, text in (("first_of_two", "first"), ("second_of_two", "second")):
        (tmp_path / f"{name}.py").write_text(
            f"import raymodal as modal\napp = modal.App({name!r})\n"
            f"@app.function(max_containers=1)\ndef who(x):\n    return {text!r}, x, modal.is_local(), __name__\n"
            "@app.function(max_containers=1)\ndef call(handle, x):\n    return handle.remote(x)\n"
        )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield __import__("first_of_two"), __import__("second_of_two")
    for name in ("first_of_two", "second_of_two"):
        del sys.modules[name]


def test_functions_of_one_name_in_two_modules(run_app: Any, two_modules: Any) -> None:
    """Each app runs its own."""
    first, second = two_modules
    run_app(first.app)
    run_app(second.app)

    assert first.who.remote(1) == ("first", 1, False, "first_of_two")
    assert second.who.remote(2) == ("second", 2, False, "second_of_two")


def test_a_handle_of_another_app_with_such_a_function(run_app: Any, two_modules: Any, engine: Any) -> None:
    """In a container it stays that of its own app, or says that it is not within reach there; it never calls its namesake."""
    first, second = two_modules
    run_app(first.app)
    run_app(second.app)

    assert first.call.remote(first.who, 1)[0] == "first"
    if engine.name == "local":
        assert first.call.remote(second.who, 1)[0] == "second"
    else:
        with pytest.raises(ExecutionError, match="'who' cannot be used here"):
            first.call.remote(second.who, 1)


def test_functions_of_one_name_in_one_app(run_app: Any, two_modules: Any, caplog: pytest.LogCaptureFixture) -> None:
    """The later one counts, and a warning is logged."""
    first, second = two_modules
    app = modal.App("both").include(first.app).include(second.app)

    assert "replaces" in caplog.text
    run_app(app)
    assert second.who.remote(2)[:2] == ("second", 2)
