"""`remote_gen`: values as they are produced, errors in mid-stream, early ends."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import raymodal as modal
from raymodal.exception import FunctionTimeoutError, InvalidError
from tests.contract.files import await_text


@pytest.mark.parametrize("name", ["produce", "aproduce"])
@pytest.mark.parametrize("n", [0, 1, 5, 2500])
def test_all_values_arrive_in_order(sample: Any, name: str, n: int) -> None:
    """From sync and async generators."""
    assert list(getattr(sample, name).remote_gen(n)) == list(range(n))


@pytest.mark.parametrize("name", ["produce", "aproduce"])
async def test_async_for(sample: Any, name: str) -> None:
    """The same on an event loop."""
    assert [i async for i in getattr(sample, name).remote_gen.aio(300)] == list(range(300))


def test_nothing_runs_before_the_first_next(sample: Any, tmp_path: Path) -> None:
    """A generator that is never iterated does nothing."""
    log = tmp_path / "log"
    stream = sample.produce.remote_gen(3, log=str(log))
    del stream
    gc.collect()

    assert list(sample.produce.remote_gen(1)) == [0]
    assert not log.exists()


def test_values_come_while_the_generator_runs(sample: Any, tmp_path: Path) -> None:
    """Each as it is produced, although the next one takes long."""
    go = str(tmp_path / "go")

    def steps(go: str) -> Iterator[Any]:
        import os
        import time

        yield "before"
        while not os.path.exists(go):
            time.sleep(0.01)
        yield "after"

    stream = iter(sample.iterate.remote_gen(steps, go))
    assert next(stream) == "before"
    Path(go).touch()

    assert list(stream) == ["after"]


@pytest.mark.parametrize("name", ["produce", "aproduce"])
@pytest.mark.parametrize("at", [0, 3])
def test_an_error_in_mid_stream(sample: Any, name: str, at: int) -> None:
    """First what was produced, then the exception itself; the function serves on."""
    got = []
    with pytest.raises(sample.ShopError) as caught:
        for i in getattr(sample, name).remote_gen(10, fail_at=at):
            got.append(i)

    assert got == list(range(at))
    assert caught.value.code == at
    assert list(getattr(sample, name).remote_gen(2)) == [0, 1]


@pytest.mark.parametrize("name", ["produce", "aproduce"])
def test_closing_early_runs_the_remote_finally(sample: Any, tmp_path: Path, name: str) -> None:
    """A `break` ends the generator in its container, which then serves on."""
    log = str(tmp_path / "log")
    for i in getattr(sample, name).remote_gen(10**9, log=log):
        if i == 5:
            break

    gc.collect()
    assert list(getattr(sample, name).remote_gen(2)) == [0, 1]
    assert await_text(log, "finally")


async def test_closing_early_on_a_loop(sample: Any, tmp_path: Path) -> None:
    """By `aclose`."""
    log = str(tmp_path / "log")
    stream = sample.produce.remote_gen.aio(10**9, log=log)
    async for i in stream:
        if i == 5:
            break
    await stream.aclose()

    assert [i async for i in sample.produce.remote_gen.aio(2)] == [0, 1]
    assert await_text(log, "finally")


def test_nobody_pulling_means_nobody_producing(sample: Any, tmp_path: Path) -> None:
    """A slow consumer does not fill its memory."""
    log = tmp_path / "log"
    stream = sample.produce.remote_gen(200_000, log=str(log))
    for _ in range(3):
        next(stream)

    assert log.read_text().count("made") < 20_000
    stream.close()


def test_values_are_independent_of_each_other(sample: Any) -> None:
    """A generator may fill one list over and over."""

    def reuse() -> Iterator[list[int]]:
        buffer = [0]
        for i in range(20):
            buffer[0] = i
            yield buffer

    assert list(sample.iterate.remote_gen(reuse)) == [[i] for i in range(20)]


def test_large_values(sample: Any) -> None:
    """Arrays of several MB, which may be written to."""

    def arrays() -> Iterator[Any]:
        for i in range(3):
            yield np.full(500_000, i)

    got = []
    for a in sample.iterate.remote_gen(arrays):
        a += 1
        got.append(int(a[-1]))

    assert got == [1, 2, 3]


def test_an_unpicklable_value(sample: Any) -> None:
    """As if the generator had raised it."""

    def locks() -> Iterator[Any]:
        yield 1
        yield threading.Lock()

    stream = sample.iterate.remote_gen(locks)

    assert next(stream) == 1
    with pytest.raises(TypeError, match="pickle"):
        next(stream)


def test_the_return_value_is_dropped(sample: Any) -> None:
    """`StopIteration.value` does not travel."""

    def returns() -> Any:
        yield 1
        return 2

    assert list(sample.iterate.remote_gen(returns)) == [1]


def test_declared_but_no_generator(sample: Any) -> None:
    """`is_generator=True` must be true."""
    with pytest.raises(InvalidError, match="not a generator"):
        list(sample.iterate.remote_gen(lambda: 5))


def test_the_ids_of_a_generators_input(sample: Any) -> None:
    """They are the same for all its life."""

    def look() -> Iterator[Any]:
        for _ in range(3):
            yield modal.current_input_id(), modal.current_function_call_id(), modal.is_local()

    got = set(sample.iterate.remote_gen(look))

    assert len(got) == 1
    ((input_id, call_id, local),) = got
    assert input_id.startswith("in-")
    assert call_id.startswith("fc-")
    assert local is False


def test_several_streams_at_once(sample: Any) -> None:
    """They take turns where containers are few."""
    first = sample.produce.remote_gen(3)
    second = sample.aproduce.remote_gen(3)

    assert list(zip(first, second, strict=True)) == [(0, 0), (1, 1), (2, 2)]


def test_the_timeout_covers_the_whole_run(engine: Any, run_app: Any) -> None:
    """Not each value."""
    app = modal.App("slow-generator")

    @app.function(serialized=True, max_containers=1, timeout=1)
    def f() -> Iterator[int]:
        import time

        for i in range(1000):
            time.sleep(0.02)
            yield i

    run_app(app)

    got = []
    with pytest.raises(FunctionTimeoutError):
        for i in f.remote_gen():
            got.append(i)
    assert 5 < len(got) < 60
