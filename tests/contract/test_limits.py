"""Limits on what may wait: calls hold back and go on, and fail only where nothing moves. Set low here."""

from __future__ import annotations

import asyncio
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import raymodal as modal
from raymodal import _warn, config
from raymodal.exception import ResourceExhaustedError


@pytest.fixture
def limits() -> Iterator[None]:
    """Few may wait, and not for long."""
    before = config.settings()
    config.override(max_pending=3, max_total=6, max_spawned=10, limit_wait_s=1.0)
    _warn.forget()
    yield
    config.override(
        max_pending=before.max_pending,
        max_total=before.max_total,
        max_spawned=before.max_spawned,
        limit_wait_s=before.limit_wait_s,
    )


def nap(seconds: float) -> float:
    import time

    time.sleep(seconds)
    return seconds


def test_calls_wait_at_the_limit_and_all_are_done(run_app: Any, limits: None) -> None:
    """Twelve at once where three may wait: with one warning that names the figures and the setting."""
    app = modal.App("limits")
    f = app.function(serialized=True, max_containers=1, name="f")(nap)
    run_app(app)

    async def gather() -> list[float]:
        return await asyncio.gather(*(f.remote.aio(0.05) for _ in range(12)))

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert asyncio.run(gather()) == [0.05] * 12

    texts = [str(w.message) for w in caught if "limit" in str(w.message)]
    assert len(texts) == 1
    assert "'f'" in texts[0]
    assert "RAYMODAL_MAX_PENDING" in texts[0]


def test_a_call_fails_where_nothing_moves(run_app: Any, limits: None) -> None:
    """The error is Modal's, and says what to do. Those that were there before go on, and so does a map."""
    app = modal.App("stuck")
    f = app.function(serialized=True, max_containers=1, name="f")(nap)
    run_app(app)
    f.remote(0.0)
    others = [threading.Thread(target=f.remote, args=(3.0,)) for _ in range(1)]
    others += [threading.Thread(target=f.remote, args=(0.0,)) for _ in range(3)]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for thread in others:
            thread.start()
        mapped = f.map([0.0] * 20)
        with pytest.raises(ResourceExhaustedError, match="RAYMODAL_LIMIT_WAIT_S"):
            while True:
                threads_at_the_limit(f)
        assert list(mapped) == [0.0] * 20
        for thread in others:
            thread.join(60)


def threads_at_the_limit(f: Any) -> None:
    """Calls beyond the limit, until one fails."""
    failures: list[BaseException] = []

    def call() -> None:
        try:
            f.remote(0.0)
        except ResourceExhaustedError as error:
            failures.append(error)

    threads = [threading.Thread(target=call) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    if failures:
        raise failures[0]


def test_spawned_inputs_beyond_the_limit(run_app: Any, limits: None) -> None:
    """`spawn` fails at once, and nothing that was accepted is lost; `spawn_map` waits."""
    app = modal.App("spawned")
    f = app.function(serialized=True, max_containers=1, name="f")(nap)
    run_app(app)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        calls = [f.spawn(0.1) for _ in range(10)]
        with pytest.raises(ResourceExhaustedError, match="RAYMODAL_MAX_SPAWNED"):
            for _ in range(10):
                calls.append(f.spawn(0.1))
        f.spawn_map([0.0] * 5)
    assert [call.get(timeout=60) for call in calls] == [0.1] * len(calls)


def test_more_at_once_than_the_limit(run_app: Any, limits: None) -> None:
    """They are handed over in parts that fit."""
    app = modal.App("parts")
    f = app.function(serialized=True, max_containers=1, name="f")(nap)
    run_app(app)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        call = f.experimental_spawn_map([0.0] * 35)
        assert call.num_inputs() == 35
        assert list(call.iter()) == [0.0] * 35


def test_errors_of_the_controller_are_one_line(run_app: Any, limits: None) -> None:
    """Not Ray's own with the controller's traceback in its text."""
    app = modal.App("lines")
    f = app.function(serialized=True, max_containers=1, name="f")(nap)
    run_app(app)

    with pytest.raises(modal.exception.InvalidError) as caught:
        f.autoscaler.update(min_containers=5)
    assert str(caught.value) == "min_containers=5 would be greater than max_containers=1"


def test_a_function_is_not_called_like_one_of_python(run_app: Any) -> None:
    """Neither directly nor by the builtin `map`: Modal's error, and what to write."""
    app = modal.App("plain")
    f = app.function(serialized=True, name="f")(nap)

    with pytest.raises(TypeError, match=r"'Function' object is not callable: .*\.remote.*\.map"):
        f(1.0)
    with pytest.raises(TypeError, match=r"\.map"):
        list(map(f, [1.0]))
