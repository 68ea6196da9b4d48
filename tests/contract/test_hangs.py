"""What once hung for ever, or waited beside an idle machine."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import raymodal as modal
from raymodal import config
from raymodal.exception import InternalFailure
from tests.contract.support import local_only, ray_only

pytestmark = pytest.mark.timeout(100)


@ray_only
def test_a_spawned_call_whose_container_dies(engine: Any, tmp_path: Path) -> None:
    """It runs again elsewhere; one that kills every container fails."""
    app = modal.App("spawn-and-die")

    @app.function(serialized=True, max_containers=1)
    def dies(flag: str) -> str:
        import os

        if not flag or not os.path.exists(flag):
            if flag:
                open(flag, "w").close()
            os._exit(3)
        return "lived"

    with app.run():
        assert dies.spawn(str(tmp_path / "flag")).get(timeout=60) == "lived"
        with pytest.raises(InternalFailure):
            dies.spawn("").get(timeout=60)
        assert dies.remote(str(tmp_path / "flag")) == "lived"


@pytest.mark.parametrize("how", ["gathered", "threads", "spawned"])
@pytest.mark.parametrize("n", [3, 5])
def test_calls_at_once_all_run_at_once(engine: Any, tmp_path: Path, how: str, n: int) -> None:
    """Each of a few simultaneous calls counts as demand, whatever was granted while they came."""
    app = modal.App("at-once")

    @app.function(serialized=True, cpu=0.01)
    def meet(folder: str, i: int, n: int) -> int:
        import os
        import time

        open(os.path.join(folder, str(i)), "w").close()
        until = time.monotonic() + 15
        while len(os.listdir(folder)) < n and time.monotonic() < until:
            time.sleep(0.01)
        return len(os.listdir(folder))

    async def gathered() -> list[int]:
        return list(await asyncio.gather(*(meet.remote.aio(str(tmp_path), i, n) for i in range(n))))

    with app.run():
        if how == "gathered":
            found = asyncio.run(gathered())
        elif how == "spawned":
            found = [call.get() for call in [meet.spawn(str(tmp_path), i, n) for i in range(n)]]
        else:
            found = []
            threads = [
                threading.Thread(target=lambda i=i: found.append(meet.remote(str(tmp_path), i, n))) for i in range(n)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    assert found == [n] * n


@local_only
@pytest.mark.parametrize("name", ["square", "count"])
def test_the_garbage_collector_ends_an_abandoned_iterator(sample: Any, name: str) -> None:
    """Even while this thread holds the locks that its end needs."""
    function = sample.square
    pool = function._pool()
    iterator = iter(function.map(range(1000)))
    next(iterator)
    cycle: list[Any] = [iterator]
    cycle.append(cycle)
    del iterator

    def collect() -> None:
        nonlocal cycle
        with pool._lock:
            del cycle
            gc.collect()

    thread = threading.Thread(target=collect, daemon=True)
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert function.remote(3) == 9
    until = time.monotonic() + 10
    while pool._runs:
        assert time.monotonic() < until, "the abandoned map was never closed"
        time.sleep(0.01)


@pytest.mark.parametrize("lanes", [1, 3])
@pytest.mark.parametrize("how", ["remote", "map", "aio"])
def test_a_caller_that_was_silent_gets_its_inputs_run_again(engine: Any, tmp_path: Path, how: str, lanes: int) -> None:
    """Its leases have ended meanwhile and what ran was cancelled, which nobody had asked for."""
    app = modal.App("silent")

    def slow_once(folder: str, i: int) -> int:
        import os
        import time

        mark = os.path.join(folder, str(i))
        if not os.path.exists(mark):
            open(mark, "w").close()
            until = time.monotonic() + 60
            while time.monotonic() < until:
                time.sleep(0.01)
        return i

    if lanes > 1:
        slow_once = modal.concurrent(max_inputs=lanes)(slow_once)
    function = app.function(serialized=True, max_containers=1)(slow_once)
    before = config.settings().lease_ttl_s
    config.override(lease_ttl_s=1.0)  # less than what a caller's poll takes
    try:
        with app.run():
            if how == "remote":
                assert function.remote(str(tmp_path), 0) == 0
            elif how == "aio":
                assert asyncio.run(function.remote.aio(str(tmp_path), 0)) == 0
            else:
                assert list(function.map([str(tmp_path)] * 3, range(3))) == [0, 1, 2]
    finally:
        config.override(lease_ttl_s=before)
