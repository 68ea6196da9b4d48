"""How many containers a function has, and what its calls cost the controller."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from typing import Any

import pytest

import raymodal as modal
from raymodal import config
from raymodal._dual import io_loop
from raymodal.engine import current
from raymodal.exception import RemoteError
from tests.ray.processes import is_alive, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(90)]


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """Two CPUs, whatever the machine has."""
    from raymodal.engine.ray.engine import RayEngine

    config.reset()
    config.override(engine="ray", address="local", linger_s=0.2)
    engine = RayEngine(num_cpus=2)
    current.set_engine(engine)
    yield engine
    current.shutdown()
    config.reset()


def facts(engine: Any, app: Any) -> Any:
    """What the controller says of itself."""
    controller = engine._apps[app.app_id]._controller

    async def ask() -> Any:
        return await controller.call.remote("facts")

    return asyncio.run_coroutine_threadsafe(ask(), io_loop()).result(30)


def containers(f: Any) -> int:
    return int(f.get_current_stats().num_total_runners)


def meet(arrived: Any, count: int) -> int:
    """Wait until `count` inputs run at the same time; returns this container's process."""
    if count > 1:
        arrived.put(1)
        deadline = time.monotonic() + 60
        while arrived.len() < count:
            if time.monotonic() > deadline:
                raise RuntimeError("the others never came")
            time.sleep(0.05)
    return os.getpid()


def test_min_containers_are_warm_and_stay(run_app: Any) -> None:
    """They are there before the first call, and idle beyond the window; more go after it."""
    app = modal.App("min")
    f = app.function(serialized=True, min_containers=1, max_containers=3, scaledown_window=2, name="f")(meet)
    run_app(app)
    wait_until(lambda: containers(f) == 1)
    [first] = {f.remote(None, 1), f.remote(None, 1)}

    with modal.Queue.ephemeral() as arrived:
        pids = set(f.starmap([(arrived, 3)] * 3))

    assert len(pids) == 3
    assert first in pids
    wait_until(lambda: containers(f) == 1, lambda: containers(f))
    wait_until(lambda: sum(map(is_alive, pids)) == 1)
    time.sleep(2.5)  # longer than the window: nothing more may go
    assert containers(f) == 1
    assert f.remote(None, 1) in pids


def test_scaledown_window_gives_all_back(run_app: Any) -> None:
    """From zero to as many as slow inputs can use, and to zero again; the next call starts anew."""
    app = modal.App("window")
    f = app.function(serialized=True, scaledown_window=2, name="f")(meet)
    run_app(app)
    assert containers(f) == 0

    with modal.Queue.ephemeral() as arrived:
        pids = set(f.starmap([(arrived, 4)] * 4))

    assert len(pids) == 4
    assert f.remote(None, 1) in pids
    wait_until(lambda: containers(f) == 0, lambda: containers(f))
    wait_until(lambda: not any(map(is_alive, pids)))
    assert f.remote(None, 1) not in pids


def test_max_containers_is_never_exceeded(run_app: Any) -> None:
    """Counted by processes, over one map, over several at once, and for spawned calls."""
    app = modal.App("max")

    @app.function(serialized=True, max_containers=2)
    def f(seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()

    run_app(app)

    pids = set(f.map([0.05] * 40))
    calls = [f.spawn(0.1) for _ in range(6)]
    pids |= set(f.map([0.05] * 20))
    pids |= {call.get(timeout=60) for call in calls}

    assert len(pids) == 2
    assert containers(f) == 2


def test_buffer_containers_while_there_is_work(run_app: Any) -> None:
    """One more than the work needs, while it runs."""
    app = modal.App("buffer")

    with modal.Queue.ephemeral() as go_on:

        @app.function(serialized=True, buffer_containers=1, scaledown_window=2)
        def f(go_on: Any) -> None:
            go_on.get(timeout=60)

        run_app(app)
        assert containers(f) == 0
        call = f.spawn(go_on)

        wait_until(lambda: containers(f) == 2, lambda: containers(f))
        wait_until(lambda: f.get_current_stats().num_running_inputs == 1)
        go_on.put(1)
        call.get(timeout=60)
        wait_until(lambda: containers(f) == 0, lambda: containers(f))


def test_stats_count_what_waits_and_runs(run_app: Any) -> None:
    """The backlog is what no container has taken."""
    app = modal.App("stats")

    with modal.Queue.ephemeral() as go_on:

        @app.function(serialized=True, max_containers=1)
        def f(go_on: Any) -> None:
            go_on.get(timeout=60)

        run_app(app)
        calls = [f.spawn(go_on) for _ in range(4)]

        wait_until(
            lambda: (lambda now: (now.num_running_inputs, now.backlog) == (1, 3))(f.get_current_stats()),
            lambda: f.get_current_stats(),
        )
        go_on.put_many([1] * 4)
        modal.FunctionCall.gather(*calls)
        wait_until(lambda: f.get_current_stats().backlog == 0)


def test_functions_do_not_starve_each_other(run_app: Any) -> None:
    """Long inputs hold both CPUs for as long as they last; another function's single call gets in between."""
    app = modal.App("fair")

    @app.function(serialized=True, cpu=1)
    def long(x: int) -> int:
        time.sleep(1.0)
        return x

    @app.function(serialized=True, cpu=1)
    def short() -> float:
        return time.monotonic()

    run_app(app)
    results = iter(long.map(range(22), order_outputs=False))
    next(results)

    answered_at = short.remote()
    rest = [*results]

    assert len(rest) == 21
    assert answered_at < time.monotonic() - 2  # with much of the map still to come


def test_a_slow_start_is_ended_by_startup_timeout(run_app: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its clock is not that of `timeout`, and the caller is told which one it was."""
    (tmp_path / "starts_slowly.py").write_text(
        "import time, raymodal as modal\napp = modal.App('slow-start')\n"
        "if not modal.is_local():\n    time.sleep(60)\n"
        "@app.function(startup_timeout=1, timeout=30)\ndef f(x):\n    return x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import starts_slowly as user

    run_app(user.app)

    with pytest.raises(RemoteError, match="startup_timeout=1 s"):
        user.f.remote(1)


def test_the_controller_does_not_count_inputs(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hundred times the inputs, and no more calls to it, nor bytes: demand is reported on a logarithmic scale (two calls for either, when measured)."""
    import cloudpickle

    from raymodal.engine.ray.link import RayLink

    control_bytes = 0
    plain_call, plain_tell = RayLink._call, RayLink.tell

    async def counted_call(self: RayLink, method: str, args: tuple[Any, ...]) -> Any:
        nonlocal control_bytes
        answer = await plain_call(self, method, args)
        control_bytes += len(cloudpickle.dumps((method, args, answer)))
        return answer

    def counted_tell(self: RayLink, method: str, *args: Any) -> None:
        nonlocal control_bytes
        control_bytes += len(cloudpickle.dumps((method, args)))
        plain_tell(self, method, *args)

    monkeypatch.setattr(RayLink, "_call", counted_call)
    monkeypatch.setattr(RayLink, "tell", counted_tell)
    app = modal.App("control")

    @app.function(serialized=True, min_containers=2, max_containers=2)
    def f(x: int) -> int:
        return x

    def traffic_of(count: int) -> tuple[int, int]:
        before, bytes_before = facts(engine, app)["calls_handled"], control_bytes
        for _ in f.map(range(count), order_outputs=False):
            pass
        return int(facts(engine, app)["calls_handled"] - before), control_bytes - bytes_before

    with app.run():
        wait_until(lambda: f.get_current_stats().input_headroom == 2)
        list(f.map(range(1000)))
        few, few_bytes = traffic_of(1_000)
        many, many_bytes = traffic_of(100_000)

    assert few <= 10
    assert many <= few + 10  # a long-poll or a lease's housekeeping may fall into it
    assert many_bytes <= few_bytes + 20_000, (few, few_bytes, many, many_bytes)
    print("control traffic:", few, few_bytes, many, many_bytes)
