"""Workers that stand ready while an app runs."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raymodal as modal
from raymodal import config
from raymodal.engine import current
from raymodal.engine.ray.template import node
from tests.ray.processes import wait_until

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not node.is_supported(), reason="workers are forked on Linux only"),
]


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A Ray of two CPUs, whatever the machine has, whose apps keep as many workers ready as the test says."""
    from raymodal.engine.ray.engine import RayEngine

    config.reset()
    config.override(engine="ray", address="local", warm_workers=request.param)
    engine = RayEngine(num_cpus=2)
    current.set_engine(engine)
    yield engine
    current.shutdown()
    config.reset()


def ready_workers(engine: Any) -> set[int]:
    """Forked workers that run nothing."""
    found = set()
    for pid in node.workers_of(engine.cluster.session_dir):
        try:
            if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::IDLE"):
                found.add(pid)
        except OSError:
            pass
    return found


def all_ready(engine: Any, at_least: int) -> set[int]:
    """The ready workers once no more come: Ray takes the newest first."""
    seen, since = ready_workers(engine), time.monotonic()

    def is_steady() -> bool:
        nonlocal seen, since
        now = ready_workers(engine)
        if now != seen:
            seen, since = now, time.monotonic()
        return len(seen) >= at_least and time.monotonic() - since > 1

    wait_until(is_steady, lambda: seen)
    return seen


def make_app() -> Any:
    app = modal.App("warm")

    @app.function(serialized=True, max_containers=4, cpu=0.1)
    def f(folder: str, n: int) -> int:
        import time

        Path(folder, str(os.getpid())).touch()
        while len(os.listdir(folder)) < n:
            time.sleep(0.01)
        return os.getpid()

    return app, f


@pytest.mark.parametrize("engine", [6], indirect=True)
def test_a_burst_takes_them_and_they_are_made_up(engine: Any, tmp_path: Path) -> None:
    """More than Ray itself keeps (one for each free CPU), taken by containers, and there again afterwards."""
    app, f = make_app()
    with app.run():
        before = all_ready(engine, 6)
        pids = set(f.map([str(tmp_path)] * 4, [4] * 4))
        assert len(pids) == 4
        assert pids <= before
        wait_until(lambda: len(ready_workers(engine)) >= 6)


@pytest.mark.parametrize("engine", [0], indirect=True)
def test_none(engine: Any, tmp_path: Path) -> None:
    """Switched off: what Ray has started early is used up, and nothing follows."""
    app, f = make_app()
    with app.run():
        assert len(set(f.map([str(tmp_path)] * 4, [4] * 4))) == 4
        assert ready_workers(engine) == set()
