"""What goes wrong on a cluster, done for real: killed containers, crash loops, code that cannot be interrupted."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import raymodal as modal
from raymodal.exception import ExecutionError, FunctionTimeoutError, InternalFailure, RemoteError

pytestmark = [pytest.mark.ray, pytest.mark.timeout(90)]


def test_an_input_lost_with_its_container_runs_again(run_app: Any, tmp_path: Path) -> None:
    """A container killed in mid-input: the input runs again elsewhere and its neighbours are not lost."""
    app = modal.App("lost-once")
    marker = str(tmp_path / "killed")

    @app.function(serialized=True, max_containers=2)
    def f(x: int) -> int:
        if x == 5 and not os.path.exists(marker):
            open(marker, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
        return x * 10

    run_app(app)

    assert list(f.map(range(20))) == [x * 10 for x in range(20)]


def test_an_input_that_kills_every_container_is_given_up(run_app: Any) -> None:
    """A poisoned input is found, charged alone, capped and reported; its neighbours come through."""
    app = modal.App("poison")

    @app.function(serialized=True, max_containers=2)
    def f(x: int) -> int:
        if x == 3:
            os._exit(7)
        return x

    run_app(app)

    got = list(f.map(range(8), return_exceptions=True))

    assert [x for x in got if not isinstance(x, Exception)] == [0, 1, 2, 4, 5, 6, 7]
    assert isinstance(got[3], InternalFailure)
    assert "went away" in str(got[3])


def test_remote_of_a_killed_container_runs_again(run_app: Any, tmp_path: Path) -> None:
    """The same for a single call, and with a container that was idle when it died."""
    app = modal.App("idle-kill")

    @app.function(serialized=True, max_containers=1)
    def pid(_: int) -> int:
        return os.getpid()

    run_app(app)
    first = pid.remote(0)
    os.kill(first, signal.SIGKILL)

    assert pid.remote(0) != first


def test_a_crash_loop_is_reported(run_app: Any, tmp_path: Path) -> None:
    """A container that dies at every start: an error within seconds, not a hang."""
    (tmp_path / "dies_at_import.py").write_text(
        "import os, raymodal as modal\napp = modal.App('crash')\n"
        "if not modal.is_local():\n    os._exit(3)\n"
        "@app.function()\ndef f(x):\n    return x\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        import dies_at_import as user

        run_app(user.app)

        with pytest.raises(RemoteError, match="ended while it started"):
            user.f.remote(1)
    finally:
        sys.path.remove(str(tmp_path))


def test_an_import_error_at_start_reaches_the_caller(run_app: Any, tmp_path: Path) -> None:
    """User code that raises while a container imports it: that very error."""
    (tmp_path / "raises_at_import.py").write_text(
        "import raymodal as modal\napp = modal.App('imports')\n"
        "if not modal.is_local():\n    raise LookupError('no such table')\n"
        "@app.function()\ndef f(x):\n    return x\n"
    )
    sys.path.insert(0, str(tmp_path))
    try:
        import raises_at_import as user

        run_app(user.app)

        with pytest.raises(LookupError, match="no such table"):
            user.f.remote(1)
        with pytest.raises(LookupError, match="no such table"):
            list(user.f.map(range(3)))
        with pytest.raises(LookupError, match="no such table"):
            user.f.spawn(1).get()
    finally:
        sys.path.remove(str(tmp_path))


def test_inputs_of_one_map_may_wait_for_each_other(run_app: Any) -> None:
    """Every input blocks until all run at the same time; bundling them would hang."""
    app = modal.App("barrier")

    with modal.Queue.ephemeral() as arrived:

        @app.function(serialized=True, max_containers=4)
        def f(x: int, arrived: Any) -> int:
            arrived.put(x)
            deadline = time.monotonic() + 45
            while arrived.len() < 4:
                if time.monotonic() > deadline:
                    raise RuntimeError("the others never came")
                time.sleep(0.05)
            return x

        run_app(app)

        assert sorted(f.map(range(4), kwargs={"arrived": arrived}, order_outputs=False)) == [0, 1, 2, 3]


def test_a_map_whose_inputs_turn_out_to_wait_for_each_other(run_app: Any) -> None:
    """After many instant inputs bundles are large; two that wait for each other must be separated from their bundle."""
    app = modal.App("late-barrier")

    with modal.Queue.ephemeral() as arrived:

        @app.function(serialized=True, max_containers=2)
        def f(x: int, arrived: Any) -> int:
            if x in (1500, 1501):
                arrived.put(x)
                deadline = time.monotonic() + 30
                while arrived.len() < 2:
                    if time.monotonic() > deadline:
                        raise RuntimeError("the other never came")
                    time.sleep(0.05)
            return x

        run_app(app)

        assert list(f.map(range(2000), kwargs={"arrived": arrived})) == list(range(2000))


def test_nested_calls_deeper_than_the_machine_has_room(run_app: Any, capfd: Any) -> None:
    """Every level holds a CPU's share while it waits; the innermost must still start."""
    app = modal.App("deep")

    @app.function(serialized=True, cpu=0.5)
    def down(n: int) -> int:
        return 0 if n == 0 else 1 + down.remote(n - 1)

    run_app(app)

    assert down.remote(7) == 7


def test_a_cycle_of_waits_is_named(run_app: Any) -> None:
    """A function that waits for itself with max_containers=1 gets an error that says so."""
    app = modal.App("cycle")

    @app.function(serialized=True, max_containers=1)
    def f(n: int) -> int:
        return 0 if n == 0 else f.remote(n - 1)

    run_app(app)

    with pytest.raises(Exception, match="max_containers=1"):
        f.remote(1)


def test_sys_exit_raises_in_the_caller_and_the_container_lives(run_app: Any) -> None:
    """`SystemExit` is re-raised here; the container goes on serving."""
    app = modal.App("exit")

    @app.function(serialized=True, max_containers=1)
    def f(x: int) -> int:
        if x < 0:
            sys.exit(4)
        return os.getpid()

    run_app(app)
    before = f.remote(1)

    with pytest.raises(SystemExit) as caught:
        f.remote(-1)

    assert caught.value.code == 4
    assert f.remote(1) == before


def test_a_timeout_interrupts_and_the_container_serves_on(run_app: Any) -> None:
    """A sleeping input is interrupted at its timeout; its neighbours in the bundle are untouched."""
    app = modal.App("timeout")

    @app.function(serialized=True, max_containers=1, timeout=1)
    def f(x: int) -> int:
        if x == 2:
            time.sleep(60)
        return os.getpid()

    run_app(app)
    begun = time.monotonic()

    got = list(f.map(range(6), return_exceptions=True))

    assert isinstance(got[2], FunctionTimeoutError)
    assert len({x for x in got if isinstance(x, int)}) == 1
    assert time.monotonic() - begun < 20


def test_code_that_holds_the_interpreter_lock_is_killed(run_app: Any) -> None:
    """A C call that never lets go of the interpreter lock: the container is killed from outside, the caller told."""
    app = modal.App("gil")

    @app.function(serialized=True, max_containers=1, timeout=1)
    def f(x: int) -> int:
        if x == 1:
            return sum(range(10**12))
        return x

    run_app(app)

    with pytest.raises(FunctionTimeoutError):
        f.remote(1)
    assert f.remote(7) == 7


def test_endless_recursion_is_an_ordinary_error(run_app: Any) -> None:
    """`RecursionError` comes back as itself."""
    app = modal.App("recursion")

    @app.function(serialized=True, max_containers=1)
    def f(x: int) -> int:
        def again(n: int) -> int:
            return again(n + 1) + 1

        return again(0)

    run_app(app)

    with pytest.raises(RecursionError):
        f.remote(1)


def test_a_gpu_that_is_not_there_is_said_within_seconds(run_app: Any) -> None:
    """On a Ray of our own that cannot grow, waiting would be for ever."""
    app = modal.App("gpu")

    @app.function(serialized=True, gpu="H100")
    def f(x: int) -> int:
        return x

    @app.function(serialized=True, max_containers=1)
    def plain(x: int) -> int:
        return x

    run_app(app)

    with pytest.raises(RemoteError, match="--gpu ignore"):
        f.remote(1)
    assert plain.remote(3) == 3


def test_the_controllers_death_ends_open_calls(engine: Any) -> None:
    """In a run, the controller's end fails what is open with `InternalFailure`."""
    import threading

    import ray

    app = modal.App("controller")

    @app.function(serialized=True, max_containers=1)
    def f(x: int) -> int:
        time.sleep(x)
        return x

    with app.run():
        f.remote(0)
        timer = threading.Timer(0.5, lambda: ray.kill(engine._apps[app.app_id]._controller))
        timer.start()
        try:
            with pytest.raises(InternalFailure):
                list(f.map([30, 30]))
        finally:
            timer.join()
        with pytest.raises((InternalFailure, ExecutionError)):
            f.remote(0)


@pytest.mark.parametrize("where", ["bundle", "remote", "notify", "ask"])
def test_an_interrupt_while_a_call_is_sent(run_app: Any, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    """Wherever it comes, the slot comes back: with one container the next call would wait for ever."""
    from raymodal.engine import single
    from raymodal.engine.ray import link

    app = modal.App("interrupted")

    @app.function(serialized=True, max_containers=1)
    def f(x: int) -> int:
        return x

    run_app(app)
    assert f.remote(1) == 1
    pool = f._pool()
    pool.is_prompt = where == "ask"
    target, name = {
        "bundle": (single.OneCall, "_bundle"),
        "remote": (link, "submit"),
        "notify": (link, "notify"),
        "ask": (link.ray, "get"),
    }[where]
    real = getattr(target, name)

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        monkeypatch.setattr(target, name, real)
        if where == "remote":
            with pytest.raises(AttributeError):
                real(object(), *args[1:], **kwargs)  # as if the interrupt had come inside of Ray's own `remote`
        raise KeyboardInterrupt

    monkeypatch.setattr(target, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        f.remote(2)

    assert [f.remote(x) for x in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("after_s", [0.012, 0.1])
def test_what_a_signal_handler_raises_leaves_the_call_as_it_is(run_app: Any, tmp_path: Path, after_s: float) -> None:
    """At once, whichever way the call is being waited for; the input is cancelled and the next call is answered."""
    app = modal.App("signal")

    @app.function(serialized=True, max_containers=1)
    def nap(seconds: float, log: str = "") -> float:
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                time.sleep(0.01)
        except BaseException:
            open(log, "w").close()
            raise
        return seconds

    class Alarm(Exception):
        pass

    def ring(*_: Any) -> None:
        raise Alarm

    run_app(app)
    assert nap.remote(0.0) == 0.0  # so that the next one is expected to be as short
    before = signal.signal(signal.SIGALRM, ring)
    begun = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, after_s)
        with pytest.raises(Alarm):
            nap.remote(30.0, str(tmp_path / "log"))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

    assert nap.remote(0.01) == 0.01
    assert time.monotonic() - begun < 20
    assert (tmp_path / "log").exists()
