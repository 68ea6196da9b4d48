"""`retries=` and `timeout=`."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

import raymodal as modal
from raymodal.exception import FunctionTimeoutError, InputCancellation, RemoteError
from tests.contract.support import ray_only

# Retries: each waits for a second, so there are few


def test_an_input_runs_again_after_a_failure(sample: Any, tmp_path: Path) -> None:
    """After a second or more, with the same input id."""
    log = tmp_path / "log"
    begun = time.monotonic()

    attempt, input_id = sample.flaky.remote(str(log), 1)

    assert attempt == 2
    assert time.monotonic() - begun >= 0.95
    assert log.read_text().split() == [input_id, input_id]


def test_the_last_failure_is_raised(sample: Any, tmp_path: Path) -> None:
    """After all retries."""
    log = tmp_path / "log"

    with pytest.raises(OSError, match="attempt 2"):
        sample.flaky.remote(str(log), 5)
    assert len(log.read_text().split()) == 2


def test_inputs_of_a_map_run_again_each_for_itself(sample: Any, tmp_path: Path) -> None:
    """In order, and a final failure takes its place; the delays overlap."""
    logs = [str(tmp_path / str(i)) for i in range(6)]
    begun = time.monotonic()

    got = list(sample.flaky.map(logs, [0, 1, 5, 1, 0, 1], return_exceptions=True))

    assert [x[0] if isinstance(x, tuple) else type(x) for x in got] == [1, 2, OSError, 2, 1, 2]
    assert time.monotonic() - begun < 3.5


def test_spawned_calls_run_again(sample: Any, tmp_path: Path) -> None:
    """Without anybody asking for them."""
    assert sample.flaky.spawn(str(tmp_path / "log"), 1).get()[0] == 2


def test_retries_with_a_policy(engine: Any, run_app: Any, tmp_path: Path) -> None:
    """The first delay is at least a second, whatever `initial_delay` says; a cancellation does not run again."""
    app = modal.App("policy")
    log = str(tmp_path / "log")

    @app.function(
        serialized=True,
        max_containers=1,
        retries=modal.Retries(max_retries=1, initial_delay=0.0, backoff_coefficient=1.0),
    )
    def f(error: BaseException) -> None:
        with open(log, "a") as file:
            file.write("x")
        raise error

    run_app(app)
    begun = time.monotonic()
    with pytest.raises(KeyError):
        f.remote(KeyError("k"))
    assert time.monotonic() - begun >= 0.95
    with pytest.raises(RemoteError):
        f.remote(InputCancellation("no"))
    assert Path(log).read_text() == "xxx"


# Timeouts


def test_a_timeout(sample: Any) -> None:
    """`FunctionTimeoutError` names the function, and is not the builtin; the function serves on."""
    with pytest.raises(FunctionTimeoutError, match="limited") as caught:
        sample.limited.remote(60.0)

    assert isinstance(caught.value, modal.exception.TimeoutError)
    assert not isinstance(caught.value, TimeoutError)
    assert sample.limited.remote(0.0)[0] == "in time"


def test_a_timeout_of_an_async_function(sample: Any) -> None:
    """Its task is cancelled."""
    with pytest.raises(FunctionTimeoutError):
        sample.alimited.remote(60.0)
    assert sample.alimited.remote(0.0) == "in time"


def test_a_timeout_among_others(sample: Any) -> None:
    """One input of a map is too slow: the others come through."""
    got = list(sample.limited.map([0.0, 60.0, 0.0, 0.0], return_exceptions=True))

    assert [type(x) for x in got] == [tuple, FunctionTimeoutError, tuple, tuple]


def test_the_timeout_is_for_one_input(sample: Any) -> None:
    """Not for a bundle of them, and not for waiting in line."""
    got = list(sample.limited.map([0.3] * 5))

    assert [text for text, _ in got] == ["in time"] * 5


def test_a_spawned_call_that_times_out(sample: Any) -> None:
    """`get` raises the same."""
    with pytest.raises(FunctionTimeoutError):
        sample.limited.spawn(60.0).get()


@ray_only
def test_a_timeout_that_can_be_raised_keeps_the_container(sample: Any) -> None:
    """User code that can be interrupted costs no new process."""
    _, before = sample.limited.remote(0.0)
    with pytest.raises(FunctionTimeoutError):
        sample.limited.remote(60.0)
    assert sample.limited.remote(0.0)[1] == before


@ray_only
def test_a_timeout_in_a_blocking_call(run_app: Any) -> None:
    """A long sleep is interrupted at once."""
    app = modal.App("sleeps")

    @app.function(serialized=True, max_containers=1, timeout=1)
    def f(seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    run_app(app)
    before = f.remote(0)
    begun = time.monotonic()
    with pytest.raises(FunctionTimeoutError):
        f.remote(60)

    assert time.monotonic() - begun < 4.0
    assert f.remote(0) == before
