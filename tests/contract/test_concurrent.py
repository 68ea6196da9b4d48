"""`@concurrent`: several inputs in one container, each on its own."""

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
from raymodal.exception import FunctionTimeoutError, InternalFailure, RemoteError
from tests.contract.support import ray_only

KINDS = pytest.mark.parametrize("prefix", ["", "a"], ids=["sync", "async"])


@pytest.fixture(scope="module")
def inputs(engine: Any) -> Iterator[ModuleType]:
    """The module of the app, which is running."""
    from tests.contract import inputs_app

    with inputs_app.app.run():
        yield inputs_app


def all_begun(*logs: Path) -> bool:
    until = time.monotonic() + 20
    while not all(log.exists() for log in logs):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("name", ["in_threads", "as_tasks"])
def test_inputs_meet(inputs: Any, name: str) -> None:
    """As many inputs as `max_inputs` are in the container at once and never more, each with its own ids, before and after it gave way to others."""
    found = list(getattr(inputs, name).map([4] * 12))

    assert all(has_met for has_met, *_ in found)
    assert {most for *_, most in found} == {4}
    before, after = [f[2] for f in found], [f[3] for f in found]
    assert before == after
    assert len({input_id for input_id, _ in before}) == 12
    assert len({call_id for _, call_id in before}) == 1


def test_where_code_runs(inputs: Any) -> None:
    """Sync inputs in daemon threads, async ones all on one loop."""
    assert all(in_daemon for _, in_daemon, *_ in inputs.in_threads.map([1] * 8))
    assert len({loop for _, loop, *_ in inputs.as_tasks.map([1] * 8)}) == 1


def test_callers_of_all_kinds_meet(inputs: Any) -> None:
    """`remote` from threads, `remote.aio`, `spawn` and nested calls reach the same container."""
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(inputs.inner.remote, range(20))) == [x * 10 for x in range(20)]

    async def gathered() -> list[int]:
        return list(await asyncio.gather(*(inputs.inner.remote.aio(x) for x in range(10))))

    assert asyncio.run(gathered()) == [x * 10 for x in range(10)]
    calls = [inputs.inner.spawn(x) for x in range(5)]
    assert [call.get() for call in calls] == [0, 10, 20, 30, 40]
    assert list(inputs.outer.map(range(6))) == [x * 10 + 1 for x in range(6)]


class TestNeighbours:
    """What happens to one input leaves those beside it alone, and their container."""

    @KINDS
    def test_exceptions(self, inputs: Any, tmp_path: Path, prefix: str) -> None:
        """Also `sys.exit`, which would end a loop or a thread."""
        function = getattr(inputs, f"{prefix}fragile")
        log, until = tmp_path / "log", tmp_path / "until"
        waiting = function.spawn("wait", str(log), str(until))
        assert all_begun(log)

        with pytest.raises(ValueError, match="as asked"):
            function.remote("raise")
        with pytest.raises(SystemExit):
            function.remote("exit")
        assert function.remote("value") == "value"
        until.touch()

        assert waiting.get() == "waited True"

    @KINDS
    def test_timeouts(self, inputs: Any, tmp_path: Path, prefix: str) -> None:
        """The timeout is each input's own: those that come later get theirs."""
        function = getattr(inputs, f"{prefix}fragile")
        log, neighbour = tmp_path / "log", tmp_path / "neighbour"
        late = function.spawn("wait", str(log), str(tmp_path / "never"))
        assert all_begun(log)
        time.sleep(0.6)
        waiting = function.spawn("wait", str(neighbour), str(tmp_path / "until"))
        assert all_begun(neighbour)

        with pytest.raises(FunctionTimeoutError, match="timeout=1 s"):
            late.get()
        (tmp_path / "until").touch()

        assert waiting.get() == "waited True"
        expected = "CancelledError" if prefix else "InputCancellation"
        assert log.read_text().split()[2:] == [expected, "finally"]

    @KINDS
    def test_cancellation(self, inputs: Any, tmp_path: Path, prefix: str) -> None:
        function = getattr(inputs, f"{prefix}patient")
        log, neighbour, until = tmp_path / "log", tmp_path / "neighbour", tmp_path / "until"
        unwanted, waiting = function.spawn(str(until), str(log)), function.spawn(str(until), str(neighbour))
        assert all_begun(log, neighbour)

        unwanted.cancel()
        with pytest.raises(RemoteError):
            unwanted.get()
        expected = "CancelledError" if prefix else "InputCancellation"
        stop = time.monotonic() + 10
        while expected not in log.read_text() and time.monotonic() < stop:
            time.sleep(0.01)
        until.touch()

        assert log.read_text().split() == ["begun", expected]
        assert waiting.get() == "waited True"
        assert neighbour.read_text().split() == ["begun"]

    @ray_only
    def test_a_container_dies(self, inputs: Any, tmp_path: Path) -> None:
        """Its inputs run again, each alone; the one that kills it is found, the others have their values."""
        found = list(inputs.poisoned.map(range(6), kwargs={"log": str(tmp_path / "log")}, return_exceptions=True))

        assert [x for x in found if not isinstance(x, Exception)] == [0, 1, 2, 4, 5]
        assert isinstance(found[3], InternalFailure)
        assert "went away" in str(found[3])


def test_retries(inputs: Any, tmp_path: Path) -> None:
    """A failed input runs again by itself."""
    assert list(inputs.flaky.map(range(6), kwargs={"log": str(tmp_path / "log")})) == [0, 10, 20, 30, 40, 50]


@KINDS
class TestGenerators:
    def test_items(self, inputs: Any, prefix: str) -> None:
        """Several streams of one container at once."""
        function = getattr(inputs, f"{prefix}counts")
        streams = [function.remote_gen(300) for _ in range(3)]
        firsts = [[next(stream) for _ in range(5)] for stream in streams]
        assert firsts == [[0, 1, 2, 3, 4]] * 3
        assert [list(stream) for stream in streams] == [list(range(5, 300))] * 3

    def test_an_error_after_items(self, inputs: Any, prefix: str) -> None:
        """Items come before it."""
        got = []
        with pytest.raises(ValueError, match="as asked"):
            for item in getattr(inputs, f"{prefix}counts").remote_gen(10, 3):
                got.append(item)
        assert got == [0, 1, 2]

    def test_closing_early(self, inputs: Any, prefix: str, tmp_path: Path) -> None:
        """The remote `finally` runs, and the slot is free again."""
        log = tmp_path / "log"
        for _ in range(4):
            stream = getattr(inputs, f"{prefix}counts").remote_gen(10_000_000, -1, str(log))
            assert next(stream) == 0
            stream.close()
        stop = time.monotonic() + 10
        while (not log.exists() or len(log.read_text().split()) < 4) and time.monotonic() < stop:
            time.sleep(0.01)
        assert log.read_text().split() == ["finally"] * 4


def test_items_do_not_wait_for_a_slow_one(inputs: Any, tmp_path: Path) -> None:
    """The first item arrives while the second takes its time."""
    stream = inputs.slow_second.remote_gen(str(tmp_path / "until"))
    assert next(stream) == "first"
    (tmp_path / "until").touch()
    assert list(stream) == ["second True"]


def test_lanes(inputs: Any) -> None:
    """`set_local_input_concurrency` changes how many run at once, at most to `max_inputs`."""
    assert inputs.lanes.remote() == 3
    assert inputs.lanes.remote(2) == 2
    assert inputs.lanes.remote(50) == 3
    assert inputs.plain_lanes.remote() == 1


class TestClasses:
    def test_methods_of_both_kinds_share_the_lanes(self, inputs: Any) -> None:
        """Sync and async methods are in the container at the same time."""
        both = inputs.Both()
        calls = [
            both.sync_meets.spawn(4),
            both.async_meets.spawn(4),
            both.sync_meets.spawn(4),
            both.async_meets.spawn(4),
        ]
        assert [call.get() for call in calls] == [True] * 4

    def test_hooks(self, inputs: Any) -> None:
        """Async ones run on the loop that the methods will run on."""
        assert inputs.Both().loop_of_enter.remote()

    @ray_only
    def test_sync_hooks_run_on_the_main_thread(self, inputs: Any) -> None:
        """There signal handlers can be set."""
        assert inputs.Both().entered_on_main.remote()


@pytest.mark.parametrize("old", [{"allow_concurrent_inputs": 3}, {"max_concurrent_inputs": 3}])
def test_old_spellings(run_app: Any, old: dict[str, int]) -> None:
    """They work, and say what today's spelling is."""
    app = modal.App("old-spelling")
    with pytest.warns(modal.exception.DeprecationError, match=r"@modal.concurrent\(max_inputs="):
        meet = app.function(serialized=True, max_containers=1, **old)(lanes_here)
    run_app(app)
    assert meet.remote() == 3


def lanes_here() -> int:
    from raymodal.experimental import get_local_input_concurrency

    return get_local_input_concurrency()


def test_variants(run_app: Any) -> None:
    """`with_concurrency` gives a pool of its own."""
    app = modal.App("variant")
    plain = app.function(serialized=True)(lanes_here)
    run_app(app)
    assert plain.remote() == 1
    assert plain.with_concurrency(max_inputs=5).remote() == 5
