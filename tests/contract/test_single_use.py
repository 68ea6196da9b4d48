"""Containers for one input each: `single_use_containers=True`; and those that stop taking inputs by themselves."""

from __future__ import annotations

import time
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import raymodal as modal
from raymodal import _warn
from tests.contract.support import local_only, ray_only


@pytest.fixture(scope="module")
def once(engine: Any) -> Iterator[ModuleType]:
    """The module of the app, which is running."""
    from tests.contract import single_use_app

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "single_use_containers")  # see `test_local`
        running = single_use_app.app.run()
        with running:
            yield single_use_app


def abs_of(x: int) -> int:
    return abs(x)


@ray_only
def test_a_process_for_each_input(once: Any) -> None:
    """What a module holds is as the import left it."""
    found = [once.counted.remote(0), *once.counted.map(range(1, 6)), once.counted.spawn(6).get()]

    assert [x for x, _, _ in found] == list(range(7))
    assert [uses for _, uses, _ in found] == [1] * 7
    assert len({pid for _, _, pid in found}) == 7


def test_an_object_for_each_input(once: Any) -> None:
    """By every kind of call, generators included."""
    obj = once.Once()
    found = [obj.use.remote(0), *obj.use.map([1, 2, 3]), obj.use.spawn(4).get()]
    streamed = [list(obj.count_to.remote_gen(3)) for _ in range(2)]

    assert [x for x, _, _ in found] == list(range(5))
    assert [uses for _, _, uses in found] == [1] * 5
    assert [[i for i, _, _ in items] for items in streamed] == [[0, 1, 2]] * 2
    assert len({me for _, me, _ in found} | {me for items in streamed for _, me, _ in items}) == 7
    assert {uses for items in streamed for _, _, uses in items} == {1}


async def test_async_calls(once: Any) -> None:
    """On the caller's loop too."""
    found = [await once.Once().use.remote.aio(x) for x in range(3)]

    assert [uses for _, _, uses in found] == [1] * 3
    assert len({me for _, me, _ in found}) == 3


def test_exit_hooks_run_after_each(once: Any, tmp_path: Path) -> None:
    """A container that has done its input ends in good order, and nothing waits for that."""
    log = tmp_path / "log"
    list(once.Once(log=str(log)).use.map(range(3)))

    until = time.monotonic() + 20
    while not log.exists() or log.read_text().count("\n") < 3:
        assert time.monotonic() < until, log.read_text() if log.exists() else "nothing"
        time.sleep(0.02)
    assert log.read_text().splitlines() == ["exit after 1"] * 3


def test_limits_hold(once: Any) -> None:
    """`max_containers=1`: one after the other, also where `@concurrent` would put several into one container."""
    found = list(once.OneAtATime().use.map(range(4)))

    assert [x for x, _, _ in found] == list(range(4))
    assert [uses for _, _, uses in found] == [1] * 4
    assert len({me for _, me, _ in found}) == 4


def test_one_batch_each(once: Any) -> None:
    """Of a batched function a container runs one batch."""
    found = list(once.Batches().use.map(range(10)))

    assert [x for x, *_ in found] == list(range(10))
    assert {uses for _, _, uses, _ in found} == {1}
    sizes = Counter(me for _, me, _, _ in found)
    assert all(sizes[me] == size <= 3 for _, me, _, size in found)


@ray_only
def test_another_attempt_has_another_container(once: Any, tmp_path: Path) -> None:
    """After an exception and after a death."""
    log = tmp_path / "log"
    log.touch()

    assert once.fails_twice.remote(str(log)) == 3
    assert once.dies_once.remote(str(tmp_path / "flag")) == "lived"


def test_containers_kept_ready_are_made_up(engine: Any) -> None:
    """`min_containers`: the one that was used is replaced before anybody calls again."""
    app = modal.App("single-use-ready")

    @app.cls(single_use_containers=True, min_containers=1, serialized=True)
    class Ready:
        @modal.enter()
        def begin(self) -> None:
            self.uses = 0

        @modal.method()
        def use(self) -> int:
            self.uses += 1
            return self.uses

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "single_use_containers")
        with app.run():
            for _ in range(3):
                until = time.monotonic() + 20
                while Ready().use.get_current_stats().num_total_runners < 1:
                    assert time.monotonic() < until
                    time.sleep(0.02)
                assert Ready().use.remote() == 1


@pytest.mark.parametrize("name", ["Retires", "SharedRetires"])
def test_stop_fetching_inputs(once: Any, name: str) -> None:
    """The container that calls it takes nothing more; what was meant for it runs in the next one."""
    obj = getattr(once, name)()
    before, after = obj.use.remote(False), obj.use.remote(True)
    rest = list(obj.use.map([False] * 50))

    assert before[0] == after[0]
    assert {me for me, _ in rest}.isdisjoint({before[0]})
    assert sorted(uses for _, uses in rest) == list(range(1, 51))


def test_stop_fetching_in_the_middle_of_a_bundle(once: Any) -> None:
    """Inputs that came together do not stay together."""
    obj = once.Retires()
    found = list(obj.use.map([False] * 20 + [True] + [False] * 20))

    assert len(found) == 41
    last_me, last_uses = found[20]
    assert max(uses for me, uses in found if me == last_me) == last_uses


def test_stop_fetching_in_a_generator(once: Any) -> None:
    """It runs to its end."""
    assert list(once.Retires().count_and_stop.remote_gen(20)) == list(range(20))


def test_stop_fetching_beside_a_generator(once: Any) -> None:
    """A neighbour's generator is not cut short."""
    obj = once.SharedRetires()
    items = obj.count.remote_gen(40)
    first = next(items)
    obj.use.remote(True)

    assert [first, *items] == list(range(40))


def test_stop_fetching_before_the_first_input(once: Any, tmp_path: Path) -> None:
    """Then another container has it."""
    assert once.NeverBegins(flag=str(tmp_path / "flag")).use.remote() == "used"


@local_only
def test_local(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are no processes, so it says what is not new."""
    app = modal.App("single-use-warning")
    app.function(single_use_containers=True, serialized=True)(abs_of)
    monkeypatch.setattr(_warn, "_said", set())
    with pytest.warns(UserWarning, match="single_use_containers .*'abs_of'.*threads"), app.run():
        pass
