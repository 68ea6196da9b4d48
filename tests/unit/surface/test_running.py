"""`app.run()` and the handles while an app runs, against a fake engine."""

from __future__ import annotations

import asyncio
import logging
import pickle
import sys
import threading
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

import raymodal as modal
from raymodal import output
from raymodal.app import forbid_runs
from raymodal.container import context
from raymodal.exception import (
    AsyncUsageWarning,
    DeprecationError,
    ExecutionError,
    InvalidError,
    NotFoundError,
    UnimplementedError,
)
from raymodal.types import ContainerStats, FunctionAutoscalerSettings
from tests.unit.surface.fake_engine import FakeEngine

app = modal.App("example")


@app.function(serialized=True)
def add(x: int, y: int = 1) -> int:
    return x + y


@app.function(serialized=True)
def divide(x: int, y: int) -> float:
    return x / y


@app.function(serialized=True)
def count(n: int) -> Any:
    yield from range(n)


@app.function(serialized=True)
def fails() -> None:
    raise ValueError("mine")


async def numbers() -> Any:
    yield 1
    yield 2


class TestNotRunning:
    @pytest.mark.parametrize(
        "call",
        [
            lambda: add.remote(1),
            lambda: list(add.map([1])),
            lambda: list(add.starmap([(1,)])),
            lambda: add.for_each([1]),
            lambda: add.spawn(1),
            lambda: add.spawn_map([1]),
            lambda: add.experimental_spawn_map([1]),
            lambda: next(count.remote_gen(1)),
            lambda: add.get_web_url(),
            lambda: add.hydrate(),
            lambda: add.get_current_stats(),
            lambda: add.autoscaler.update(min_containers=1),
            lambda: add.get_dashboard_url(),
            lambda: count.remote(1),
        ],
    )
    def test_calls(self, call: Any) -> None:
        """Without a running app every call is an ExecutionError with Modal's phrase."""
        with pytest.raises(ExecutionError, match="because the App it is defined on is not running.$"):
            call()

    def test_local(self) -> None:
        """`.local` works all the same, and the handle is not callable."""
        assert add.local(1, y=2) == 3
        assert list(count.local(2)) == [0, 1]
        with pytest.raises(TypeError, match="'Function' object is not callable"):
            add(1)  # type: ignore[operator]
        with pytest.raises(AttributeError):
            _ = add.__name__  # type: ignore[attr-defined]
        with pytest.raises(AttributeError):
            _ = add.object_id

    def test_pickling(self) -> None:
        """A handle without a run cannot travel."""
        with pytest.raises(InvalidError, match="Can't serialize"):
            pickle.dumps(add)
        with pytest.raises(InvalidError):
            cloudpickle.dumps(app)

    def test_app(self) -> None:
        """What needs an id says so."""
        fresh = modal.App("x")
        assert fresh.app_id is None
        for call in (fresh.stop, fresh.info, fresh.stats, fresh.get_tags, fresh.get_dashboard_url):
            with pytest.raises(InvalidError):
                call()

    def test_looked_up(self) -> None:
        """Handles of deployed apps are lazy, and their use says when it comes."""
        found = modal.Function.from_name("app", "f")
        with pytest.raises(UnimplementedError, match="Deployed apps"):
            found.remote(1)
        with pytest.raises(ExecutionError):
            found.local(1)
        with pytest.raises(InvalidError):
            modal.Function.from_name("app", "C.m")
        assert repr(modal.Function.from_id("fu-1")) == "modal.Function.from_id('fu-1')"


class TestCalls:
    def test_remote(self, engine: FakeEngine) -> None:
        """`.remote` is the pool's call, in the caller's thread."""
        with app.run():
            assert add.remote(1, y=5) == 6
            assert engine.runs[0].pools["add"].asked == [("call", ((1,), {"y": 5}))]

    def test_remote_raises_the_users_error(self, engine: FakeEngine) -> None:
        """The user's exception arrives as it is."""
        with app.run(), pytest.raises(ValueError, match="mine"):
            fails.remote()

    async def test_aio(self, engine: FakeEngine) -> None:
        """Everything has an `.aio`."""
        async with app.run():
            assert await add.remote.aio(1) == 2
            assert [x async for x in add.map.aio([1, 2])] == [2, 3]
            assert [x async for x in add.starmap.aio([(1, 2)])] == [3]
            assert [x async for x in count.remote_gen.aio(2)] == [0, 1]
            assert await add.for_each.aio([1]) is None
            call = await add.spawn.aio(3)
            assert await call.get.aio() == 4
            assert await add.spawn_map.aio([1]) is None
            many = await add.experimental_spawn_map.aio([1, 2])
            assert [x async for x in many.iter.aio()] == [2, 3]
            assert await modal.FunctionCall.gather.aio(call, call) == [4, 4]

    async def test_blocking_on_a_loop(self, engine: FakeEngine) -> None:
        """A blocking call on an event loop works and warns."""
        async with app.run():
            with pytest.warns(AsyncUsageWarning, match="aio"):
                assert add.remote(1) == 2

    def test_remote_gen(self, engine: FakeEngine) -> None:
        """Nothing happens before the first `next`."""
        with app.run():
            stream = count.remote_gen(2)
            assert engine.runs[0].pools["count"].asked == []
            assert list(stream) == [0, 1]

    @pytest.mark.parametrize(
        "call",
        [
            lambda: count.remote(1),
            lambda: list(count.map([1])),
            lambda: count.for_each([1]),
            lambda: count.spawn(1),
            lambda: count.spawn_map([1]),
            lambda: count.experimental_spawn_map([1]),
            lambda: next(add.remote_gen(1)),
        ],
    )
    def test_wrong_kind(self, engine: FakeEngine, call: Any) -> None:
        """Generators are streamed, other functions called."""
        with app.run(), pytest.raises(InvalidError):
            call()

    def test_web(self, engine: FakeEngine) -> None:
        """Web functions take no calls."""
        other = modal.App()
        web = other.function(serialized=True, name="web")(modal.fastapi_endpoint()(lambda: 1))
        with pytest.warns(UserWarning), other.run(), pytest.raises(InvalidError, match="URL"):
            web.remote()

    def test_nothing_to_bind(self, engine: FakeEngine) -> None:
        """`f.remote` is kept and can be passed on."""
        with app.run():
            remote = add.remote
            assert remote is add.remote
            assert list(map(remote, [1, 2])) == [2, 3]


class TestMap:
    def test_zips(self, engine: FakeEngine) -> None:
        """Several iterables are zipped to the shortest; starmap takes tuples; kwargs go to every call."""
        with app.run():
            assert list(add.map([1, 2, 3], [10, 20])) == [11, 22]
            assert list(add.starmap([(1, 2), (3, 4)])) == [3, 7]
            assert list(add.map([1], kwargs={"y": 5})) == [6]
            assert list(add.map([])) == []

    def test_exceptions(self, engine: FakeEngine) -> None:
        """Failures are raised, or returned as they are."""
        with app.run():
            with pytest.raises(ZeroDivisionError):
                list(divide.map([1], [0]))
            good, bad = divide.map([1, 2], [1, 0], return_exceptions=True)
            assert good == 1
            assert type(bad) is ZeroDivisionError
            assert divide.for_each([1], [0], ignore_exceptions=True) is None  # type: ignore[func-returns-value]

    def test_passed_on(self, engine: FakeEngine) -> None:
        """Order, exceptions and form of the inputs reach the pool."""
        with app.run():
            pool = engine.runs[0].pools["add"]
            list(add.map([1], order_outputs=False, return_exceptions=True))
            list(add.starmap([(1,)]))
            add.for_each([1])
            assert pool.asked == [
                ("map", (False, True, False)),
                ("map", (True, False, True)),
                ("map", (False, False, False)),
            ]

    def test_single_use(self, engine: FakeEngine) -> None:
        """The result is iterated once."""
        with app.run():
            result = add.map([1])
            assert (list(result), list(result)) == ([2], [])

    async def test_in_a_loop(self, engine: FakeEngine) -> None:
        """On an event loop the plain `for` is refused and `async for` works on the same object."""
        async with app.run():
            with pytest.raises(InvalidError, match="async for"):
                list(add.map([1]))
            with pytest.raises(InvalidError):
                add.for_each([1])
            assert [x async for x in add.map([1])] == [2]
            with pytest.raises(TypeError):
                await add.map.aio([1])  # type: ignore[misc]

    def test_no_iterables(self) -> None:
        """`map()` without anything to iterate would never end."""
        with pytest.raises(InvalidError):
            add.map()
        with pytest.raises(InvalidError):
            add.for_each()

    def test_never_iterated(self, caplog: pytest.LogCaptureFixture) -> None:
        """A result that nobody iterates does nothing, and says so."""
        with caplog.at_level(logging.WARNING, "raymodal"):
            add.map([1])

        assert "Function.map" in caplog.text

    def test_wrap_returned_exceptions(self) -> None:
        """The parameter has no effect any more, and warns."""
        with pytest.warns(DeprecationError, match="wrap_returned_exceptions") as caught:
            add.map([1], wrap_returned_exceptions=False)._used = True
        assert caught[0].filename == __file__

    def test_spawn_map_draws_here(self, engine: FakeEngine) -> None:
        """The caller's iterators run in the caller's thread, and an endless one beside a short one is fine."""
        seen = []

        def inputs() -> Any:
            seen.append(threading.current_thread())
            yield 1

        def endless() -> Any:
            while True:
                yield 2

        with app.run():
            add.spawn_map(inputs(), endless())

        assert seen == [threading.current_thread()]


class TestFunctionCall:
    def test_get(self, engine: FakeEngine) -> None:
        """A spawned call is fetched by its handle, by its id, and after a pickle."""
        with app.run():
            call = add.spawn(1)
            assert call.object_id.startswith("fc-")
            assert (call.get(), call.get(timeout=0)) == (2, 2)
            again = modal.FunctionCall.from_id(call.object_id)
            with pytest.raises(AttributeError):
                _ = again.object_id
            assert again.hydrate() is again
            assert (again.object_id, again.get()) == (call.object_id, 2)
            assert pickle.loads(pickle.dumps(call)).get() == 2
            assert call.num_inputs() == 1

    def test_many(self, engine: FakeEngine) -> None:
        """A call with many inputs is fetched by index or in order."""
        with app.run():
            call = add.experimental_spawn_map([1, 2, 3])
            assert call.get(index=2) == 4
            assert list(call.iter()) == [2, 3, 4]
            assert list(call.iter(start=1, end=2)) == [3]
            with pytest.raises(ValueError, match="outside"):
                list(call.iter(end=4))

    def test_timeout_is_the_builtin(self, engine: FakeEngine) -> None:
        """`get(timeout=)` raises the builtin TimeoutError."""
        other = modal.App()
        slow = other.function(serialized=True)(lambda: "slow")
        with other.run(), pytest.raises(TimeoutError) as caught:
            slow.spawn().get(timeout=0)
        assert type(caught.value) is TimeoutError

    def test_cancel_and_gather(self, engine: FakeEngine) -> None:
        """Cancelling reaches the engine; gather keeps the order."""
        with app.run():
            one, two = add.spawn(1), add.spawn(2)
            one.cancel(terminate_containers=True)
            assert engine.runs[0].calls.cancelled == [(one.object_id, True)]
            assert modal.FunctionCall.gather(two, one) == [3, 2]
            assert modal.FunctionCall.gather() == []

    def test_unknown(self, engine: FakeEngine) -> None:
        """An id of nobody's is a NotFoundError; without any run nobody can be asked."""
        with app.run(), pytest.raises(NotFoundError):
            modal.FunctionCall.from_id("fc-nobody").get()
        with pytest.raises(ExecutionError):
            modal.FunctionCall.from_id("fc-nobody").get()

    def test_two_apps(self, engine: FakeEngine) -> None:
        """With several runs in one process, the one that knows the call answers."""
        other = modal.App()
        with app.run(), other.run():
            call = add.spawn(1)
            assert modal.FunctionCall.from_id(call.object_id).get() == 2


class TestRun:
    def test_lifecycle(self, engine: FakeEngine) -> None:
        """Handles are live inside the block; the id stays; a second run gets a new one."""
        with app.run() as same:
            assert same is app
            first = app.app_id
            assert add.object_id.startswith("fu-")
            assert engine.runs[0].stopped == 0
        assert engine.runs[0].stopped == 1
        assert app.app_id == first
        with pytest.raises(ExecutionError):
            add.remote(1)
        with app.run():
            assert app.app_id != first

    def test_twice_at_once(self, engine: FakeEngine) -> None:
        """An app that runs cannot be started again."""
        with app.run():
            with pytest.raises(InvalidError, match="already running"), app.run():
                pass
            assert add.remote(1) == 2

    def test_errors_pass(self, engine: FakeEngine) -> None:
        """An exception in the block ends the app and goes on; Ctrl-C ends the block in good order."""
        with pytest.raises(ZeroDivisionError), app.run():
            1 / 0
        with app.run():
            raise KeyboardInterrupt
        assert [run.stopped for run in engine.runs] == [1, 1]

    def test_failing_start(self, engine: FakeEngine) -> None:
        """A start that fails leaves the app as it was."""
        engine.fails_with = RuntimeError("no cluster")
        with pytest.raises(RuntimeError, match="no cluster"), app.run():
            pass
        engine.fails_with = None
        with app.run():
            assert add.remote(1) == 2

    def test_while_importing(self, engine: FakeEngine) -> None:
        """A module that is being imported cannot start its app."""
        with forbid_runs("the CLI imports this module"), pytest.raises(InvalidError, match="__main__"), app.run():
            pass
        with forbid_runs("the CLI imports this module"), pytest.raises(InvalidError):
            app.deploy()

    def test_later(self, engine: FakeEngine) -> None:
        """What comes later says so, after the checks that Modal makes first."""
        with pytest.raises(UnimplementedError, match="raymodal run"):
            app.deploy()
        with pytest.raises(InvalidError, match="name"):
            modal.App().deploy()
        with pytest.raises(InvalidError):
            app.deploy(strategy="x")
        with pytest.raises(InvalidError):
            app.deploy(tag="a b")
        with pytest.raises(UnimplementedError):
            modal.App.lookup("x")
        with pytest.raises(UnimplementedError):
            app.run(detach=True)
        with pytest.raises(InvalidError):
            app.run(interactive=True)
        assert output.current() is None

    def test_description(self, engine: FakeEngine) -> None:
        """The run is called by its name, the app's, or the program's."""
        unnamed = modal.App()
        with unnamed.run():
            assert unnamed.description == Path(sys.modules["__main__"].__file__ or "").name
        with app.run(name="this time"):
            assert engine.plan.description == "this time"
        app.description = "example"

    def test_tags(self, engine: FakeEngine) -> None:
        """Tags are replaced as a whole."""
        tagged = modal.App(tags={"a": "1"})
        with tagged.run():
            assert tagged.get_tags() == {"a": "1"}
            tagged.set_tags({"b": "2"})
            assert tagged.get_tags() == {"b": "2"}
            with pytest.raises(InvalidError):
                tagged.set_tags({"a b": "1"})

    def test_handles_travel(self, engine: FakeEngine) -> None:
        """A pickled handle is live again where the app runs, and dead afterwards."""
        with app.run():
            data = pickle.dumps(add)
            arrived = pickle.loads(data)
            assert arrived.remote(1) == 2
            assert pickle.loads(pickle.dumps(arrived)).remote(1) == 2
            assert pickle.loads(pickle.dumps(add.remote))(1) == 2
        with pytest.raises(ExecutionError):
            arrived.remote(1)

    def test_by_value_functions_hold_handles(self, engine: FakeEngine) -> None:
        """A function that travels by value can refer to another one of the app."""
        with_reference = modal.App()
        inner = with_reference.function(serialized=True, name="inner")(lambda x: x + 1)
        outer = with_reference.function(serialized=True, name="outer")(lambda x: inner.remote(x))
        with with_reference.run():
            assert outer.remote(1) == 2

    def test_in_a_container(self, engine: FakeEngine) -> None:
        """Inside a container a handle goes through the container's context, and no app can be run."""
        with app.run():
            running = engine.runs[0]
            running.has = lambda tag: tag in running.pools  # type: ignore[attr-defined]
            context.set_current(context.ContainerContext("ap-1", "example", "ta-1", "add", app=running))
            try:
                assert add.remote(1) == 2
                assert app.app_id == "ap-1"
                with pytest.raises(InvalidError, match="container"), modal.App().run():
                    pass
            finally:
                context.set_current(None)


class TestPlan:
    def test_source(self, engine: FakeEngine) -> None:
        """The plan says where the source is and what travels by value."""
        imported = modal.App("imported")
        imported.function(name="by_import")(_importable)
        imported.function(name="by_value", serialized=True)(lambda: 7)
        with imported.run():
            plan = engine.plan
        assert plan.functions["by_import"].by_value_blob is None
        assert plan.functions["by_import"].spec.file == __file__
        blob = plan.functions["by_value"].by_value_blob
        assert blob is not None
        assert cloudpickle.loads(blob)() == 7
        assert (Path(plan.source_root) / Path(*__name__.split("."))).with_suffix(".py") == Path(__file__)
        assert plan.name == "imported"
        assert not any("site-packages" in entry for entry in plan.sys_path)

    def test_secrets_become_literal(self, engine: FakeEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Secrets are complete in the plan."""
        monkeypatch.setenv("FROM_HERE", "1")
        secret = modal.Secret.from_local_environ(["FROM_HERE"])
        other = modal.App(secrets=[secret])
        other.function(serialized=True, name="f")(lambda: 1)
        with other.run():
            assert engine.plan.functions["f"].spec.secrets[0].values == {"FROM_HERE": "1"}

    @pytest.mark.parametrize(
        ("params", "error"),
        [
            ({"cpu": 0}, InvalidError),
            ({"cpu": (2, 1)}, InvalidError),
            ({"memory": -1}, InvalidError),
            ({"memory": (2, 1)}, InvalidError),
            ({"timeout": 0}, InvalidError),
            ({"secrets": ["x"]}, InvalidError),
            ({"secrets": [modal.Secret.from_name("x")]}, NotFoundError),
        ],
    )
    def test_refused_at_load(self, engine: FakeEngine, params: dict[str, Any], error: type[Exception]) -> None:
        """What the decorator let pass is found as the run starts, and nothing was started."""
        other = modal.App()
        other.function(serialized=True, **params)(lambda: 1)
        with pytest.raises(error), other.run():
            pass
        assert engine.runs == []

    def test_too_large(self, engine: FakeEngine) -> None:
        """A function that drags megabytes along is refused; a quarter of one is worth a warning."""
        ballast = bytes(17 * 2**20)
        other = modal.App()
        other.function(serialized=True)(lambda: ballast)
        with pytest.raises(InvalidError, match="16 MiB"), other.run():
            pass
        less = bytes(300 * 2**10)
        another = modal.App()
        another.function(serialized=True)(lambda: less)
        with pytest.warns(UserWarning, match="KiB"), another.run():
            pass


def _importable() -> int:
    return 1


class TestAutoscaler:
    def test_update(self, engine: FakeEngine) -> None:
        """Updates merge; -1 leaves a value, None resets it."""
        with app.run():
            assert add.autoscaler.settings() == FunctionAutoscalerSettings(0, None, 60, 0)
            assert add.autoscaler.update(min_containers=2, max_containers=10).max_containers == 10
            assert add.autoscaler.update(min_containers=4) == FunctionAutoscalerSettings(4, 10, 60, 0)
            assert add.autoscaler.update(max_containers=None).max_containers is None
            for wrong in (
                {"min_containers": -2},
                {"max_containers": 0},
                {"scaledown_window": 1},
                {"max_containers": 3},
            ):
                with pytest.raises(InvalidError):
                    add.autoscaler.update(**wrong)
            with pytest.raises(TypeError, match="max_containers=2.5"):
                add.autoscaler.update(max_containers=2.5)
            assert add.autoscaler.settings() == FunctionAutoscalerSettings(4, None, 60, 0)

    def test_older_spellings(self, engine: FakeEngine) -> None:
        """`update_autoscaler` and `keep_warm` still work: here None means unchanged."""
        with app.run():
            with pytest.warns(DeprecationError):
                settings = add.update_autoscaler(max_containers=5)
            assert settings == FunctionAutoscalerSettings(0, 5, 60, 0)
            with pytest.warns(DeprecationError):
                add.keep_warm(3)
            assert add.autoscaler.settings().min_containers == 3

    def test_stats(self, engine: FakeEngine) -> None:
        """The figures are the engine's."""
        with app.run():
            stats = add.get_current_stats()
        assert (stats.backlog, stats.num_total_runners, stats.num_running_inputs, stats.input_headroom) == (3, 2, 1, 1)
        assert isinstance(stats, ContainerStats)
        assert (stats.num_starting, stats.num_busy, stats.num_idle, stats.waits_for) == (1, 1, 0, None)


def test_info() -> None:
    """`info` says what was declared, also without a run."""
    function = modal.App().function(serialized=True, cpu=(1, 2), gpu="a100:2", retries=3)(lambda: 1)
    info = function.info()

    assert (info.cpu, info.gpus, info.max_retries, info.timeout) == ((1, 2), [("A100", 2)], 3, 300)


def test_many_threads(engine: FakeEngine) -> None:
    """Threads started in the body may call."""
    results: list[int] = []
    with app.run():
        threads = [threading.Thread(target=lambda n=n: results.append(add.remote(n))) for n in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(results) == [1, 2, 3, 4, 5]


def test_asyncio_run_inside(engine: FakeEngine) -> None:
    """A sync block may contain its own event loop."""

    async def inner() -> int:
        return await add.remote.aio(1)

    with app.run():
        assert asyncio.run(inner()) == 2
