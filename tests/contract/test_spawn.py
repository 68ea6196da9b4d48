"""`spawn`, `FunctionCall`, and the two ways to spawn many inputs."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raymodal as modal
from raymodal import config
from raymodal.exception import InvalidError, NotFoundError
from tests.contract.support import local_only


def test_spawn_and_get(sample: Any) -> None:
    """The result may be fetched again and again."""
    call = sample.square.spawn(7)

    assert isinstance(call, modal.FunctionCall)
    assert call.object_id.startswith("fc-")
    assert call.get() == 49
    assert call.get(timeout=5) == 49
    assert call.get(timeout=0) == 49
    assert call.num_inputs() == 1


def test_get_in_time(sample: Any, tmp_path: Path) -> None:
    """The builtin `TimeoutError`, and the call goes on."""
    go = tmp_path / "go"
    call = sample.release.spawn(str(go), 0)

    with pytest.raises(TimeoutError) as caught:
        call.get(timeout=0)
    assert not isinstance(caught.value, modal.exception.TimeoutError)
    with pytest.raises(TimeoutError):
        call.get(timeout=0.1)
    go.touch()

    assert call.get(timeout=20) == 0


def test_one_that_takes_longer_than_callers_may_be_silent(engine: Any) -> None:
    """The controller is the caller of what was spawned, and reports nothing while it runs."""
    app = modal.App("long-spawn")

    @app.function(serialized=True)
    def slow() -> str:
        import time

        time.sleep(2)
        return "done"

    before = config.settings().lease_ttl_s
    config.override(lease_ttl_s=0.3)
    try:
        with app.run():
            assert slow.spawn().get(timeout=30) == "done"
    finally:
        config.override(lease_ttl_s=before)


def test_a_failure(sample: Any) -> None:
    """`get` raises what `remote` would, each time."""
    call = sample.div.spawn(1, 0)

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            call.get()


def test_spawn_refuses_what_cannot_be_pickled(sample: Any) -> None:
    """In the caller, at once."""
    with pytest.raises(TypeError, match="pickle"):
        sample.square.spawn(x for x in [1])


def test_large_values(sample: Any) -> None:
    """Arguments and results of several MB."""
    call = sample.call.spawn(lambda a: a * 2, np.ones(600_000))

    got = call.get()
    got[0] = 5  # writable, as any result

    assert got.sum() == 2 * 600_000 + 3
    assert call.get()[0] == 2


def test_from_id(sample: Any) -> None:
    """A handle by its id knows nothing before it asks."""
    made = sample.square.spawn(3)

    call = modal.FunctionCall.from_id(made.object_id)
    with pytest.raises(AttributeError):
        _ = call.object_id
    assert call.get() == 9
    assert call.object_id == made.object_id
    assert modal.FunctionCall.from_id(made.object_id).hydrate().object_id == made.object_id
    assert modal.functions.FunctionCall is modal.FunctionCall


def test_an_unknown_id(sample: Any) -> None:
    """`NotFoundError`, on first use."""
    call = modal.FunctionCall.from_id("fc-0123456789abcdefghijkl")

    with pytest.raises(NotFoundError):
        call.get(timeout=0)


def test_a_call_travels(sample: Any) -> None:
    """Containers may fetch what the caller spawned, and the other way round."""
    call = sample.square.spawn(4)

    assert sample.call.remote(lambda c: c.get(), call) == 16
    assert sample.call.remote(lambda id: modal.FunctionCall.from_id(id).get(), call.object_id) == 16
    assert sample.call.remote(lambda f: f.spawn(5), sample.square).get() == 25


def test_gather(sample: Any) -> None:
    """In the order of the arguments; the first failure is raised."""
    calls = [sample.square.spawn(i) for i in range(5)]

    assert list(modal.FunctionCall.gather(*calls)) == [0, 1, 4, 9, 16]
    assert list(modal.FunctionCall.gather()) == []
    with pytest.raises(ZeroDivisionError):
        modal.FunctionCall.gather(calls[0], sample.div.spawn(1, 0))


def test_a_failure_is_gathered_at_once(sample: Any, tmp_path: Path) -> None:
    """Although another call still runs."""
    go = tmp_path / "go"
    slow = sample.release.spawn(str(go), 0)

    with pytest.raises(ZeroDivisionError):
        modal.FunctionCall.gather(slow, sample.div.spawn(1, 0))
    go.touch()
    assert slow.get() == 0


def test_many_spawned_calls(sample: Any) -> None:
    """More than there are containers."""
    calls = [sample.square.spawn(i) for i in range(60)]

    assert [call.get() for call in calls] == [i * i for i in range(60)]
    assert len({call.object_id for call in calls}) == 60


def test_spawn_map(sample: Any, tmp_path: Path) -> None:
    """One call per input; nothing comes back, but all of them run."""
    log = str(tmp_path / "log")

    assert sample.call.spawn_map([sample.note] * 30, [log] * 30, [f"n{i}" for i in range(30)]) is None

    until = time.monotonic() + 20
    while time.monotonic() < until and (not Path(log).exists() or len(Path(log).read_text().split()) < 30):
        time.sleep(0.01)
    assert sorted(Path(log).read_text().split()) == sorted(f"n{i}" for i in range(30))
    assert sample.square.spawn_map([]) is None


def test_experimental_spawn_map(sample: Any) -> None:
    """One call with many inputs: by index, or all in order."""
    call = sample.div.experimental_spawn_map([2, 4, 6], kwargs={"b": 2})

    assert call.num_inputs() == 3
    assert call.get() == 1.0
    assert call.get(index=2) == 3.0
    assert list(call.iter()) == [1.0, 2.0, 3.0]
    assert list(call.iter(start=1, end=2)) == [2.0]
    for bad in ({"start": -1}, {"end": 4}):
        with pytest.raises(ValueError):
            list(call.iter(**bad))
    with pytest.raises(modal.Error):
        call.get(index=3, timeout=5)


def test_experimental_spawn_map_of_many(sample: Any) -> None:
    """More than one chunk of them, and none at all."""
    call = sample.square.experimental_spawn_map(range(1200))
    assert call.num_inputs() == 1200
    assert list(call.iter()) == [i * i for i in range(1200)]

    nothing = sample.square.experimental_spawn_map([])
    assert nothing.num_inputs() == 0
    assert list(nothing.iter()) == []


def test_a_failure_among_many(sample: Any) -> None:
    """Raised where its index is asked for."""
    call = sample.div.experimental_spawn_map([1, 1, 1], [1, 0, 2])

    assert call.get(index=2) == 0.5
    with pytest.raises(ZeroDivisionError):
        call.get(index=1)
    results = call.iter()
    assert next(results) == 1.0
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_spawning_from_async_inputs(sample: Any) -> None:
    """Async generators may be the source."""

    async def numbers() -> Any:
        for i in range(4):
            yield i

    assert list(sample.square.experimental_spawn_map(numbers()).iter()) == [0, 1, 4, 9]
    with pytest.raises(InvalidError):
        sample.square.spawn_map()


def test_the_inputs_of_spawn_map_raise(sample: Any) -> None:
    """What the input iterator raises is the caller's."""

    def broken() -> Any:
        yield 1
        raise LookupError("no more")

    with pytest.raises(LookupError):
        sample.square.spawn_map(broken())
    with pytest.raises(LookupError):
        sample.square.experimental_spawn_map(broken())


@local_only
def test_calls_of_a_run_that_has_ended(engine: Any) -> None:
    """Their results are gone with it."""
    app = modal.App("ended")

    @app.function(serialized=True, max_containers=1)
    def f() -> int:
        return 1

    with app.run():
        call = f.spawn()
        assert call.get() == 1
    with pytest.raises(modal.Error):
        call.get(timeout=0)
