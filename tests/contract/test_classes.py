"""`@app.cls`: objects in containers, their parameters, variants, and calls from everywhere."""

from __future__ import annotations

import asyncio
import os
import pickle
import time
import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import raymodal as modal
from raymodal.exception import ExecutionError, FunctionTimeoutError, InvalidError, NotFoundError
from tests.contract.files import await_file
from tests.contract.support import ray_only

Classes = Any


@pytest.fixture(scope="package")
def classes(engine: Any) -> Iterator[ModuleType]:
    """The module of the app of classes, which is running."""
    from tests.contract import class_app

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of enable_memory_snapshot=, once per process
        run = class_app.app.run()
        run.__enter__()
    yield class_app
    run.__exit__(None, None, None)


class TestCalls:
    def test_an_object(self, classes: Classes) -> None:
        """Constructed without its constructor, entered once: snapshot hooks first, bases first; then kept between calls."""
        model = classes.Model()

        assert model.describe.remote() == {
            "name": "plain",
            "count": 1,
            "raw": b"",
            "fast": False,
            "notes": ("kept",),
            "steps": ["first", "second", "base", "own"],
        }
        assert model.who.remote() == classes.Model().who.remote()

    def test_every_way_to_call(self, classes: Classes) -> None:
        """A method is a Function."""
        add = classes.Model(count=2).add

        assert add.remote(3, y=1) == 7
        assert list(add.map([1, 2, 3])) == [2, 4, 6]
        assert list(add.map([1, 2], [10, 20])) == [12, 24]
        assert list(add.starmap([(1, 1), (2, 2)], kwargs={})) == [3, 6]
        assert sorted(add.map(range(300), order_outputs=False)) == [2 * x for x in range(300)]
        assert add.for_each([1]) is None
        assert add.spawn(4).get() == 8
        assert add.spawn_map([1, 2]) is None
        assert list(add.experimental_spawn_map([1, 2]).iter()) == [2, 4]
        assert modal.FunctionCall.gather(add.spawn(1), add.spawn(2)) == [2, 4]
        assert add.local(3, 1) == 7

    async def test_every_way_to_await(self, classes: Classes) -> None:
        """Async methods run on the loop that the async hook saw, between sync ones."""
        model = classes.Model(count=2)

        assert await model.add_async.remote.aio(3) == 6
        assert await model.add.remote.aio(3) == 6
        assert [x async for x in model.add_async.map.aio([1, 2])] == [2, 4]
        assert await (await model.add_async.spawn.aio(4)).get.aio() == 8
        assert await asyncio.gather(*(model.add.remote.aio(i) for i in range(5))) == [0, 2, 4, 6, 8]

    def test_where_a_method_runs(self, classes: Classes, engine: Any) -> None:
        """On the main thread, in a context of its own."""
        on_main, input_id, is_local = classes.Model().where.remote()

        assert (on_main, is_local) == (engine.name == "ray", False)
        assert input_id.startswith("in-")

    def test_own_methods(self, classes: Classes) -> None:
        """`self.m.local()` runs in place; what is not decorated is plain Python."""
        assert classes.Model(name="n", count=3).within.remote(4) == (12, "helps n", 6)
        assert classes.Mixed().plus.remote(1) == 2
        assert classes.Outer.Inner().name.remote() == "Outer.Inner"

    def test_calls_from_inside(self, classes: Classes) -> None:
        """`self.m.remote()` goes to the object's own pool, `Model(...)` in a method to another one."""
        caller = classes.Caller()

        assert caller.itself.remote(1) == 1
        assert caller.other.remote("inner") == "inner"
        assert caller.other_async.remote([1, 2]) == [5, 10]

    def test_handles_travel(self, classes: Classes) -> None:
        """Objects, methods, the class itself and `self.m` as arguments and results."""
        model = classes.Model(count=7)

        assert classes.use.remote(model, 2) == 14
        assert classes.call.remote(model.add.remote, 3) == 21
        assert classes.Mixed().call.remote(classes.count_of, classes.Model) == 4
        assert classes.Caller().handle.remote().remote(0) == 0
        assert list(classes.Model(count=3).add.map([1])) == [3]

    def test_generators(self, classes: Classes, tmp_path: Any) -> None:
        """Sync, async and declared ones stream; a failure comes after the items before it; closing early runs the `finally`."""
        model = classes.Model(count=2)
        log = tmp_path / "log"

        assert list(model.produce.remote_gen(4)) == [0, 2, 4, 6]
        assert list(model.produce_async.remote_gen(3)) == [0, 2, 4]
        assert list(model.produced.remote_gen(3)) == [0, 1, 2]
        got = []
        with pytest.raises(KeyError, match="2"):
            for value in model.produce.remote_gen(5, fail_at=2):
                got.append(value)
        assert got == [0, 2]
        stream = model.produce.remote_gen(100_000, log=str(log))
        assert next(stream) == 0
        stream.close()
        assert model.add.remote(1) == 2  # waits for the container, so the generator is closed by now
        assert log.read_text() == "finally\n"
        for refused in (
            lambda: model.produce.remote(1),
            lambda: list(model.add.remote_gen(1)),
            lambda: list(model.produce.map([1])),
        ):
            with pytest.raises(InvalidError):
                refused()

    def test_failures(self, classes: Classes) -> None:
        """The user's exception, and the object goes on as it is."""
        model = classes.Model(name="failing")

        with pytest.raises(KeyError, match="7") as caught:
            model.fail.remote(7)
        assert any("class_app.py" in str(frame.path) for frame in caught.traceback)
        assert model.describe.remote()["steps"][-1] == "failed"
        errors = list(model.fail.map([1, 2], return_exceptions=True))
        assert [type(error) for error in errors] == [KeyError, KeyError]

    def test_timeout(self, classes: Classes) -> None:
        """It is the class's, and the error names the method."""
        with pytest.raises(FunctionTimeoutError, match=r"'Limited\.nap'.*timeout=1 s"):
            classes.Limited().nap.remote(30)
        assert classes.Limited().nap.remote(0) == "rested"


class TestParameters:
    def test_a_pool_for_each_set(self, classes: Classes) -> None:
        """Equal values, said or left to the default, reach the same containers; others do not."""
        same = {m.who.remote() for m in (classes.Model(), classes.Model(name="plain"), classes.Model(count=True))}
        other = classes.Model(name="other")

        assert len(same) == 1
        assert other.who.remote() not in same
        assert other.who.remote() == classes.call.remote(classes.Model(name="other").who.remote)

    def test_scaling_of_one_set(self, classes: Classes, engine: Any) -> None:
        """`obj.update_autoscaler`: containers of these arguments are kept or limited, those of others as declared."""
        one, other = classes.Model(name="kept"), classes.Model(name="not kept")
        settings = one.update_autoscaler(min_containers=1, scaledown_window=5)
        try:
            assert (settings.min_containers, settings.scaledown_window) == (1, 5)
            until = time.monotonic() + 20
            while one.who.get_current_stats().num_total_runners < 1:
                assert time.monotonic() < until
                time.sleep(0.02)
            assert other.update_autoscaler().min_containers == 0
            assert other.who.get_current_stats().num_total_runners == 0
            with pytest.raises(InvalidError, match="max_containers=0"):
                one.update_autoscaler(max_containers=0)
        finally:
            assert one.update_autoscaler(min_containers=0).min_containers == 0

    @pytest.mark.parametrize(
        "values",
        [{"name": "ä\n'\"\\"}, {"name": "x" * 5000}, {"count": -(2**62)}, {"raw": bytes(range(256))}, {"fast": True}],
    )
    def test_values(self, classes: Classes, values: dict[str, Any]) -> None:
        """Every type, unchanged."""
        described = classes.Model(**values).describe.remote()

        assert {name: described[name] for name in values} == values

    @pytest.mark.parametrize(
        ("make", "error"),
        [
            (lambda c: c.Model("x").who, InvalidError),
            (lambda c: c.Model(nmae="x").who, InvalidError),
            (lambda c: c.Model(name=3).who, TypeError),
            (lambda c: c.Model(notes=[1]).who, InvalidError),
            (lambda c: c.Caller(1).itself, TypeError),
        ],
    )
    def test_refused(self, classes: Classes, make: Any, error: type[Exception]) -> None:
        """Where the object is used, every time."""
        method = make(classes)

        for use in (method.remote, method.spawn, lambda: list(method.map([1]))):
            with pytest.raises(error):
                use()

    def test_constructors(self, classes: Classes) -> None:
        """Of older programs: any arguments, by position too; equal ones share a pool."""
        first = classes.Constructed("a", table={"x": [1, 2.5]})
        word, table, me = first.look.remote()

        assert (word, table) == ("a", {"x": [1, 2.5]})
        assert classes.Constructed("a", table={"x": [1, 2.5]}).look.remote()[2] == me
        assert classes.Constructed("b").look.remote()[2] != me
        assert classes.Constructed("c", table={1, 2}).look.remote()[1] == {1, 2}  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="word"):
            classes.Constructed().look.remote()

    def test_context_managers(self, classes: Classes) -> None:
        """Of older programs: `__enter__` in the place of `@modal.enter`."""
        assert classes.Old().is_ready.remote() is True


class TestVariants:
    def test_own_pools(self, classes: Classes) -> None:
        """Other options, other containers; equal options share them; the class itself is as before."""
        short = classes.Model.with_options(timeout=50)
        found = [handle(name="v").who.remote() for handle in (classes.Model, short, short.with_options(retries=1))]

        assert len(set(found)) == 3
        assert classes.Model.with_options(timeout=50)(name="v").who.remote() == found[1]
        assert classes.Model.with_options(retries=1).with_options(timeout=50)(name="v").who.remote() == found[2]

    def test_of_methods(self, classes: Classes) -> None:
        """A method's variant is the same method of the object's variant."""
        varied = classes.Model(name="v").who.with_options(timeout=50).with_options(retries=1)

        assert varied.remote() == classes.Model.with_options(timeout=50, retries=1)(name="v").who.remote()
        with pytest.raises(InvalidError, match=r"write Model\.with_options"):
            pickle.loads(pickle.dumps(classes.Model().who)).with_options(timeout=50)

    def test_of_functions(self, classes: Classes) -> None:
        """They have containers of their own as well, and may be called from a container."""
        call = classes.call
        short = call.with_options(timeout=1)

        assert repr(short) == "Function(call).with_options(...)"
        assert short.local(abs, -1) == short.remote(abs, -1) == call.remote(short.remote, abs, -1) == 1
        assert list(short.map([abs, len], [-1, "abc"])) == [1, 3]
        assert short.spawn(abs, -2).get() == 2
        with pytest.raises(FunctionTimeoutError, match=r"'call#.*timeout=1 s"):
            short.remote(await_file, "/nowhere")
        assert call.remote(await_file, "/nowhere", 1.2) is False

    def test_options_are_carried_out(self, classes: Classes) -> None:
        """A time limit, and retries, of the variant only."""
        relaxed = classes.Limited.with_options(timeout=20)

        assert relaxed().nap.remote(1.5) == "rested"

    @ray_only
    def test_environment(self, classes: Classes) -> None:
        """`env=` and `secrets=` of a variant are in its containers."""
        secret = modal.Secret.from_dict({"OF_SECRET": "s"})
        with_env = classes.Mixed.with_options(env={"OF_ENV": "e"}, secrets=[secret])

        assert [with_env().env.remote(name) for name in ("OF_ENV", "OF_SECRET")] == ["e", "s"]
        assert classes.Mixed().env.remote("OF_ENV") is None
        assert classes.call.with_options(env={"OF_ENV": "f"}).remote(os.getenv, "OF_ENV") == "f"

    def test_concurrency_and_batching(self, classes: Classes) -> None:
        """The same methods, in containers of their own; a batch's body gets lists."""
        assert classes.Mixed.with_concurrency(max_inputs=3)().plus.remote(1) == 2
        with pytest.raises(TypeError, match="list"):
            classes.Mixed.with_batching(max_batch_size=2, wait_ms=1)().plus.remote(1)

    def test_impossible(self, classes: Classes) -> None:
        """What the cluster could never give is said as for a function."""
        with pytest.raises(InvalidError, match="below the request"):
            classes.Mixed.with_options(cpu=(2, 1))().plus.remote(1)


class TestLocalObjects:
    def test_remote_from_local(self, classes: Classes) -> None:
        """A method that runs here calls another one in a container, with the same parameters."""
        obj = classes.Model(name="from here", count=2)

        assert obj.doubled == 4
        assert obj.within.local(3) == (6, "helps from here", 4)
        assert obj._local_instance().describe.remote()["name"] == "from here"

    def test_by_hand(self, classes: Classes) -> None:
        """An object that the user constructs has no containers."""
        made = classes.Base()
        made.me = "me"

        assert made.who.local() == "me"
        with pytest.raises(ExecutionError, match="made by hand"):
            made.who.remote()

    def test_attributes_elsewhere(self, classes: Classes) -> None:
        """Where only the handle is, there are methods and nothing else."""
        with pytest.raises(NotFoundError, match="no method 'helper'"):
            classes.call.remote(classes.helper_of, classes.Model)
