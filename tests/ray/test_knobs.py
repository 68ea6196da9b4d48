"""Each of Modal's scaling parameters as user code sees it on Ray: written at the decorator, and changed while the app runs. Beside `test_scaling.py`."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raymodal as modal
from raymodal import config
from raymodal._dual import io_loop
from raymodal.engine import current
from raymodal.exception import Error, NotFoundError
from tests.ray.processes import descendants, is_alive, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(90)]


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """Eight CPUs, whatever the machine has, so that no start waits for another."""
    from raymodal.engine.ray.engine import RayEngine

    config.reset()
    config.override(engine="ray", address="local", linger_s=0.1)
    engine = RayEngine(num_cpus=8)
    current.set_engine(engine)
    yield engine
    current.shutdown()
    config.reset()


def control(engine: Any, app: Any, method: str, *args: Any) -> Any:
    """Ask the controller past the surface."""
    controller = engine._apps[app.app_id]._controller

    async def ask() -> Any:
        return await controller.call.remote(method, *args)

    return asyncio.run_coroutine_threadsafe(ask(), io_loop()).result(30)


def containers(f: Any) -> int:
    return int(f.get_current_stats().num_total_runners)


def held(go_on: Any) -> int:
    """Runs until told otherwise."""
    go_on.get(timeout=60)
    return os.getpid()


def held_batch(go_on: list[Any]) -> list[int]:
    for queue in go_on:
        queue.get(timeout=60)
    return [os.getpid()] * len(go_on)


@pytest.mark.parametrize(
    ("wrap", "body", "expected"),
    [
        (modal.concurrent(max_inputs=4), held, 2),
        (modal.concurrent(max_inputs=4, target_inputs=2), held, 4),
        (modal.batched(max_batch_size=4, wait_ms=1000), held_batch, 2),
    ],
    ids=["max_inputs", "target_inputs", "max_batch_size"],
)
def test_inputs_of_a_container(run_app: Any, wrap: Any, body: Any, expected: int) -> None:
    """The autoscaler aims at so many for each; a batch is so many."""
    app = modal.App("inputs")
    inputs = 8
    f = app.function(serialized=True, name="f", max_containers=6)(wrap(body))
    run_app(app)

    with modal.Queue.ephemeral() as go_on:
        calls = [f.spawn(go_on) for _ in range(inputs)]
        wait_until(lambda: containers(f) == expected, lambda: f.get_current_stats())
        wait_until(lambda: f.get_current_stats().num_starting == 0)
        time.sleep(0.3)
        assert containers(f) == expected
        go_on.put_many([1] * inputs)
        assert len({call.get(timeout=60) for call in calls}) == expected


def test_starting_ones_count(run_app: Any, tmp_path: Path) -> None:
    """`num_total_runners` is all that there are, ready or not."""
    app = modal.App("starting")
    let_go = str(tmp_path / "let-go")

    class Slow:
        @modal.enter()
        def wait(self) -> None:
            while not os.path.exists(let_go):
                time.sleep(0.02)

        @modal.method()
        def f(self, x: int) -> int:
            return x

    slow = app.cls(serialized=True, max_containers=2)(Slow)
    run_app(app)
    method = slow().f
    calls = [method.spawn(n) for n in range(2)]

    wait_until(lambda: containers(method) == 2, lambda: method.get_current_stats())
    stats = method.get_current_stats()
    assert (stats.num_starting, stats.num_busy, stats.num_idle, stats.num_running_inputs) == (2, 0, 0, 0)
    assert stats.backlog == 2
    Path(let_go).touch()
    assert sorted(call.get(timeout=60) for call in calls) == [0, 1]
    wait_until(lambda: method.get_current_stats().num_starting == 0)
    assert containers(method) == 2


def test_changes_while_the_app_runs(run_app: Any) -> None:
    """Up: containers without any input. Down: at once by a smaller maximum, else after the window. What works stays."""
    app = modal.App("live")
    f = app.function(serialized=True, name="f", scaledown_window=60)(held)
    run_app(app)
    assert containers(f) == 0

    f.autoscaler.update(min_containers=3)
    wait_until(lambda: f.get_current_stats().num_idle == 3, lambda: f.get_current_stats())
    with modal.Queue.ephemeral() as go_on:
        call = f.spawn(go_on)
        wait_until(lambda: f.get_current_stats().num_busy == 1)
        f.autoscaler.update(min_containers=0, max_containers=1)
        wait_until(lambda: containers(f) == 1, lambda: f.get_current_stats())
        f.autoscaler.update(max_containers=None, buffer_containers=2, scaledown_window=2)
        wait_until(lambda: containers(f) == 3, lambda: f.get_current_stats())
        go_on.put(1)
        assert is_alive(call.get(timeout=60))
    wait_until(lambda: containers(f) == 0, lambda: f.get_current_stats())


def test_changes_to_what_is_not_there(engine: Any, run_app: Any) -> None:
    """An unknown function, and an app that has ended: an error that says so, and nothing else happens."""
    app = modal.App("none")
    f = app.function(serialized=True, name="f")(held)
    run_app(app)

    with pytest.raises(NotFoundError, match="'nobody'.*'f'"):
        control(engine, app, "set_rules", "nobody", {"min_containers": 1})
    other = modal.App("ended")
    g = other.function(serialized=True, name="g")(held)
    with other.run():
        assert g.autoscaler.settings().min_containers == 0
    with pytest.raises(Error):
        g.autoscaler.update(min_containers=1)
    assert containers(f) == 0


def test_a_change_while_containers_drain(run_app: Any, tmp_path: Path) -> None:
    """They still count against the maximum, and are replaced once they have ended."""
    app = modal.App("draining")
    log, let_go = str(tmp_path / "log"), str(tmp_path / "let-go")

    class Leaving:
        @modal.exit()
        def leave(self) -> None:
            with open(log, "a") as file:
                file.write("leaving\n")
            while not os.path.exists(let_go):
                time.sleep(0.02)

        @modal.method()
        def pid(self) -> int:
            return os.getpid()

    leaving = app.cls(serialized=True, min_containers=1, max_containers=1)(Leaving)
    run_app(app)
    obj = leaving()
    first = obj.pid.remote()
    obj.update_autoscaler(min_containers=0, scaledown_window=2)
    wait_until(lambda: os.path.exists(log))

    obj.update_autoscaler(min_containers=1)
    call = obj.pid.spawn()
    time.sleep(0.5)
    assert is_alive(first)
    Path(let_go).touch()
    assert call.get(timeout=60) != first
    assert containers(obj.pid) == 1


def test_a_hundred_times_from_zero_and_back(engine: Any, run_app: Any) -> None:
    """No process, record or file descriptor is left of them."""
    app = modal.App("cycles")
    f = app.function(serialized=True, name="f", max_containers=1)(os.getpid)
    run_app(app)
    controller = control(engine, app, "facts")["pid"]

    def figures() -> tuple[int, int]:
        return len(os.listdir(f"/proc/{controller}/fd")), rss_kib(controller)

    def cycles(count: int) -> set[int]:
        pids = set()
        for _ in range(count):
            pids.add(f.remote())
            wait_until(lambda: containers(f) == 0)
        return pids

    control(engine, app, "set_rules", "f", {"scaledown_window": 0.0})
    cycles(20)
    fds, kib = figures()
    pids = cycles(80)
    fds_after, kib_after = figures()

    assert len(pids) == 80
    wait_until(lambda: not any(map(is_alive, pids)))
    assert control(engine, app, "facts")["containers"] == {}
    assert fds_after <= fds + 5
    assert kib_after <= kib + 10 * 1024
    wait_until(lambda: len(descendants(os.getpid())) < 60)


def rss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise AssertionError("no VmRSS")


def test_no_room(run_app: Any) -> None:
    """What waits, for what, and who has it; others go on, and what is no longer wanted is given up."""
    app = modal.App("full")
    f = app.function(serialized=True, name="f", cpu=3)(held)
    g = app.function(serialized=True, name="g", cpu=0.1)(os.getpid)
    run_app(app)

    with modal.Queue.ephemeral() as go_on:
        calls = [f.spawn(go_on) for _ in range(3)]
        wait_until(lambda: f.get_current_stats().num_busy == 2, lambda: f.get_current_stats())
        wait_until(lambda: f.get_current_stats().waits_for is not None)
        assert f.get_current_stats().waits_for == "3 CPUs (2 of 8 free); containers have it: 'f' (2)"
        assert "waits   for 3 CPUs" in str(f.autoscaler.why())
        assert g.remote() > 0
        go_on.put_many([1] * 3)
        modal.FunctionCall.gather(*calls)
    wait_until(lambda: f.get_current_stats().waits_for is None)
