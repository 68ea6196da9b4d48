"""`FunctionCall.cancel`, the end of an app, and what user code sees of it."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import raymodal as modal
from raymodal.exception import RemoteError
from tests.contract.files import await_file, await_text


@pytest.mark.parametrize("name", ["nap", "anap"])
def test_cancelling_what_runs(sample: Any, tmp_path: Path, name: str) -> None:
    """User code is interrupted by a `BaseException`, `finally` runs, `get` raises `RemoteError`, the container serves on."""
    log = tmp_path / "log"
    function = getattr(sample, name)
    call = function.spawn(60.0, str(log))
    assert await_file(str(log))

    assert call.cancel() is None

    with pytest.raises(RemoteError):
        call.get()
    assert await_text(str(log), "finally")
    assert log.read_text().split() == ["begun", "InputCancellation" if name == "nap" else "CancelledError", "finally"]
    assert function.remote(0.0) == "rested"


def test_cancelling_what_has_not_begun(sample: Any, tmp_path: Path) -> None:
    """It never runs."""
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    blocking = sample.anap.spawn(60.0, first)
    assert await_file(first)
    waiting = sample.anap.spawn(0.0, second)

    waiting.cancel()
    with pytest.raises(RemoteError):
        waiting.get()
    blocking.cancel()
    with pytest.raises(RemoteError):
        blocking.get()

    assert sample.anap.remote(0.0) == "rested"
    assert not Path(second).exists()


def test_cancelling_a_finished_call(sample: Any) -> None:
    """Changes nothing."""
    call = sample.square.spawn(3)
    assert call.get() == 9

    call.cancel()

    assert call.get() == 9


def test_cancelling_with_terminate_containers(sample: Any, tmp_path: Path) -> None:
    """The container ends too, and another serves on."""
    log = tmp_path / "log"
    call = sample.nap.spawn(60.0, str(log))
    assert await_file(str(log))

    call.cancel(terminate_containers=True)

    with pytest.raises(RemoteError):
        call.get()
    assert sample.nap.remote(0.0) == "rested"


def test_cancelling_a_call_of_many_inputs(sample: Any, tmp_path: Path) -> None:
    """What is done stays, the rest is cancelled."""
    log = tmp_path / "log"
    call = sample.nap.experimental_spawn_map([0.0, 60.0, 60.0, 60.0], [""] + [str(log)] * 3)
    assert call.get(index=0) == "rested"
    assert await_file(str(log))

    call.cancel()

    assert call.get(index=0) == "rested"
    for index in (1, 2, 3):
        with pytest.raises(RemoteError):
            call.get(index=index)


def test_user_code_may_swallow_its_cancellation(sample: Any, tmp_path: Path) -> None:
    """It goes on serving, whatever becomes of the value."""
    log = tmp_path / "log"
    call = sample.stubborn.spawn(str(log))
    assert await_file(str(log))

    call.cancel()
    try:
        assert call.get() == "as you were"
    except RemoteError:
        pass

    log2 = tmp_path / "log2"
    again = sample.stubborn.spawn(str(log2))
    assert await_file(str(log2))
    again.cancel()


async def test_cancelling_the_callers_task(sample: Any, tmp_path: Path) -> None:
    """`remote.aio` given up: the input is cancelled."""
    log = tmp_path / "log"
    assert await sample.anap.remote.aio(0.0) == "rested"
    task = asyncio.create_task(sample.anap.remote.aio(60.0, str(log)))
    assert await asyncio.to_thread(await_file, str(log))

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert await asyncio.to_thread(await_text, str(log), "finally")
    assert "CancelledError" in log.read_text()
    assert await sample.anap.remote.aio(0.0) == "rested"


async def test_a_time_limit_of_the_caller(sample: Any, tmp_path: Path) -> None:
    """`asyncio.timeout` around a call and around a map."""
    log = tmp_path / "log"
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await sample.anap.remote.aio(60.0, str(log))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            async for _ in sample.anap.map.aio([60.0, 60.0]):
                pass

    assert await sample.anap.remote.aio(0.0) == "rested"


def test_the_end_of_an_app_cancels_what_runs(engine: Any, tmp_path: Path) -> None:
    """Spawned calls of a run do not outlive it; `finally` still runs."""
    app = modal.App("ends")
    log = tmp_path / "log"
    path = str(log)

    @app.function(serialized=True, max_containers=1)
    def f() -> None:
        try:
            open(path, "w").close()
            while True:
                time.sleep(0.01)
        finally:
            with open(path, "a") as file:
                file.write("finally")

    with app.run():
        f.spawn()
        until = time.monotonic() + 10
        while not log.exists() and time.monotonic() < until:
            time.sleep(0.01)
        begun = time.monotonic()

    assert time.monotonic() - begun < 8.0
    assert log.read_text() == "finally"


def test_the_end_of_an_app_fails_what_threads_still_wait_for(engine: Any) -> None:
    """A call in another thread ends with an error instead of waiting for ever."""
    app = modal.App("left-behind")
    started = threading.Event()
    ended: list[BaseException] = []

    @app.function(serialized=True, max_containers=1)
    def f(seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.01)

    def wait() -> None:
        started.set()
        try:
            f.remote(60.0)
        except BaseException as error:
            ended.append(error)

    with app.run():
        f.remote(0.0)
        thread = threading.Thread(target=wait)
        thread.start()
        started.wait()
        time.sleep(0.2)
    thread.join(10.0)

    assert not thread.is_alive()
    assert isinstance(ended[0], modal.Error)
