"""`@batched`: single calls in, lists in the function, single values out."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import raymodal as modal
from raymodal.exception import FunctionTimeoutError, InternalFailure, InvalidError, RemoteError
from tests.contract.support import ray_only


@pytest.fixture(scope="module")
def inputs(engine: Any) -> Iterator[ModuleType]:
    """The module of the app, which is running."""
    from tests.contract import inputs_app

    with inputs_app.app.run():
        yield inputs_app


def wait_for(log: Path, text: str = "") -> bool:
    until = time.monotonic() + 20
    while not log.exists() or text not in log.read_text():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


class TestBatches:
    @pytest.mark.parametrize("name", ["pairs", "apairs"])
    def test_values_and_order(self, inputs: Any, name: str) -> None:
        """A list for each parameter, given by position, by name, or both; every call gets its own value; full batches as long as there are enough."""
        function = getattr(inputs, name)
        found = list(function.starmap((x, str(x)) for x in range(14)))

        assert [(x, y) for x, y, *_ in found] == [(x, str(x)) for x in range(14)]
        assert all(1 <= size <= 4 for _, _, size, _ in found)
        assert sum(size == 4 for *_, size, _ in found) >= 8
        by_batch: dict[Any, int] = {}
        for *_, size, batch_id in found:
            by_batch[batch_id] = by_batch.get(batch_id, 0) + 1
            assert by_batch[batch_id] <= size
        assert [x[:2] for x in function.map(range(4), kwargs={"ys": "k"})] == [(x, "k") for x in range(4)]
        assert function.remote(ys="b", xs=1)[:3] == (1, "b", 1)

    def test_callers_of_all_kinds_fill_one_batch(self, inputs: Any) -> None:
        """A thread, a coroutine of a container, and a spawned call."""
        with ThreadPoolExecutor(2) as pool:
            one = pool.submit(inputs.waits_for_three.remote, 1)
            two = pool.submit(inputs.calls_batched.remote, 2)
            three = inputs.waits_for_three.spawn(3)
            assert [one.result(30), two.result(30), three.get(30)] == [3, 3, 3]

    def test_nothing_is_cut_while_one_runs(self, inputs: Any, tmp_path: Path) -> None:
        """What comes meanwhile is one batch, although it has waited far longer than `wait_ms`."""
        gate, log = str(tmp_path / "gate"), tmp_path / "log"
        first = inputs.grows.spawn(gate, str(log))
        assert wait_for(log)

        async def others() -> list[int]:
            tasks = [asyncio.create_task(inputs.grows.remote.aio(gate, str(log))) for _ in range(6)]
            await asyncio.sleep(0.3)
            Path(gate).touch()
            return list(await asyncio.gather(*tasks))

        assert asyncio.run(others()) == [6] * 6
        assert first.get() == 1

    def test_several_at_a_time(self, inputs: Any) -> None:
        """With `@concurrent`, as many as `max_inputs`."""
        assert list(inputs.batches_meet.map([2] * 4)) == [True] * 4

    def test_large_values(self, inputs: Any) -> None:
        found = list(inputs.arrays.map([bytearray([x]) * 600_000 for x in range(4)]))
        assert [(x[0], len(x)) for x in found] == [(x, 1_200_000) for x in range(4)]

    def test_local(self, inputs: Any) -> None:
        """Calls the function as it is."""
        assert inputs.waits_for_three.local([1, 2]) == [2, 2]


class TestErrors:
    @pytest.mark.parametrize(
        ("how", "text"),
        [
            ("short", r"'broken' returned 1 values for 2 inputs\. Return one value for each"),
            ("tuple", r"'broken' returned tuple, not a list"),
            ("none", r"'broken' returned NoneType, not a list"),
        ],
    )
    def test_a_wrong_result(self, inputs: Any, how: str, text: str) -> None:
        """The whole batch fails with what is wrong, and the next one is as good as ever."""
        first, second = inputs.broken.spawn(how), inputs.broken.spawn(how)
        for call in (first, second):
            with pytest.raises(InvalidError, match=text):
                call.get()
        assert inputs.broken.remote("fine") == "fine"

    def test_an_exception(self, inputs: Any) -> None:
        """Every call of the batch gets it."""
        calls = [inputs.broken.spawn("raise") for _ in range(2)]
        for call in calls:
            with pytest.raises(ValueError, match="as asked, 2 times"):
                call.get()

    def test_a_timeout(self, inputs: Any) -> None:
        """It is the batch's, from its start."""
        calls = [inputs.broken.spawn("hang") for _ in range(2)]
        for call in calls:
            with pytest.raises(FunctionTimeoutError, match="a batch of 2 inputs ran longer than timeout=1 s"):
                call.get()
        assert inputs.broken.remote("fine") == "fine"

    def test_a_value_that_cannot_travel(self, inputs: Any) -> None:
        """Only its own call fails."""
        bad, good = inputs.broken.spawn("generator"), inputs.broken.spawn("fine")
        with pytest.raises(InvalidError, match="returned a generator"):
            bad.get()
        assert good.get() == "fine"

    def test_arguments_that_do_not_fit(self, inputs: Any) -> None:
        """Only that call fails."""
        good, bad = inputs.pairs.spawn(1, "a"), inputs.pairs.spawn(1)
        with pytest.raises(
            InvalidError, match=r"'pairs' takes xs, ys, each exactly once .* gave 1 by position and none by name"
        ):
            bad.get()
        with pytest.raises(InvalidError, match="gave 2 by position and xs by name"):
            inputs.pairs.remote(1, "a", xs=3)
        assert good.get()[:2] == (1, "a")

    def test_cancelling_one_of_a_batch(self, inputs: Any, tmp_path: Path) -> None:
        """Its neighbours get their values."""
        gate, log = tmp_path / "gate", tmp_path / "log"
        unwanted, wanted = [inputs.twos.spawn(str(gate), str(log)) for _ in range(2)]
        assert wait_for(log)
        unwanted.cancel()
        with pytest.raises(RemoteError):
            unwanted.get()
        gate.touch()
        assert wanted.get() == 2

    def test_retries(self, inputs: Any, tmp_path: Path) -> None:
        """Each input runs again by itself, and meets others then."""
        log = tmp_path / "log"
        calls = [inputs.second_time.spawn(x, str(log)) for x in range(2)]
        assert [call.get() for call in calls] == [0, 10]
        assert log.read_text().startswith("[0, 1]\n[0") or log.read_text().startswith("[0]\n")

    @ray_only
    def test_a_container_dies_with_a_half_filled_batch(self, inputs: Any, tmp_path: Path) -> None:
        """Its inputs run again, each in a batch of its own; the one that kills it is found."""
        logs = [str(tmp_path / "log")] * 3
        found = list(inputs.deadly.map([1, 2, 3], logs, return_exceptions=True))
        assert (found[0], found[2]) == (1, 3)
        assert isinstance(found[1], InternalFailure)


class TestClasses:
    def test_methods(self, inputs: Any) -> None:
        """Each object has batches of its own."""
        assert [x for x, *_ in inputs.Model().scale.map(range(7))] == [0, 2, 4, 6, 8, 10, 12]
        assert sorted(inputs.Model(factor=3).scale.map([1, 1, 1])) == [(3, 3, True)] * 3


def test_variants(run_app: Any) -> None:
    """`with_batching` gives a pool of its own, whose function gets lists."""
    app = modal.App("variant")
    plain = app.function(serialized=True)(size_of)
    run_app(app)
    assert plain.remote("abcd") == [4]
    assert plain.with_batching(max_batch_size=3, wait_ms=1).remote("abcd") == 1


def size_of(x: Any) -> list[int]:
    return [len(x)]
