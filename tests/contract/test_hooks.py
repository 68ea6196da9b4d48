"""Enter and exit hooks of classes in containers: when they run, and what becomes of one that goes wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import raymodal as modal
from raymodal.engine import service
from raymodal.exception import ExecutionError, RemoteError
from tests.contract.files import await_file, await_text, note
from tests.contract.support import local_only, ray_only

RunApp = Callable[[Any], Any]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_enter_raises(engine: Any, run_app: RunApp, tmp_path: Path) -> None:
    """Its exception is the outcome, with the user's frames, after one start; a later call tries again."""
    app, log = modal.App("raises"), str(tmp_path / "log")

    @app.cls(serialized=True, max_containers=1)
    class Raises:
        @modal.enter()
        def load(self) -> None:
            note(log, "load")
            if len(Path(log).read_text().splitlines()) < 3:
                raise FileNotFoundError(2, "no weights")

        @modal.exit()
        def bye(self) -> None:
            note(log, "exit")

        @modal.method()
        def run(self, x: int) -> int:
            return x

    run_app(app)
    with pytest.raises(FileNotFoundError, match="no weights") as caught:
        Raises().run.remote(1)
    assert any(frame.name == "load" for frame in caught.traceback)
    assert lines(tmp_path / "log") == ["load"]
    errors = list(Raises().run.map([1, 2], return_exceptions=True))
    assert [type(error) for error in errors] == [FileNotFoundError] * 2
    assert list(Raises().run.map([1, 2])) == [1, 2]


def test_enter_that_raises_is_retried(engine: Any, run_app: RunApp, tmp_path: Path) -> None:
    """It uses up an attempt of what waits, as a failing input does."""
    app, log = modal.App("retried"), str(tmp_path / "log")

    @app.cls(serialized=True, max_containers=1, retries=1)
    class Flaky:
        @modal.enter()
        def load(self) -> None:
            note(log, "load")
            if len(Path(log).read_text().splitlines()) < 2:
                raise OSError("not yet")

        @modal.method()
        def run(self) -> str:
            return "ran"

    run_app(app)

    assert Flaky().run.remote() == "ran"
    assert lines(tmp_path / "log") == ["load", "load"]


def test_enter_exits(engine: Any, run_app: RunApp) -> None:
    """`sys.exit` in a hook ends the container, not the caller."""
    app = modal.App("exits")

    @app.cls(serialized=True, max_containers=1)
    class Exits:
        @modal.enter(snap=False)
        def load(self) -> None:
            sys.exit(3)

        @modal.method()
        def run(self) -> None:
            pass

    run_app(app)
    with pytest.raises(RemoteError, match=r"sys\.exit\(3\).*enter hook"):
        Exits().run.remote()


def test_enter_takes_too_long(engine: Any, run_app: RunApp, tmp_path: Path) -> None:
    """`startup_timeout` ends it, and says so; `timeout` is another thing."""
    app, go = modal.App("slow"), str(tmp_path / "go")

    @app.cls(serialized=True, max_containers=1, startup_timeout=1, timeout=60)
    class Slow:
        @modal.enter()
        def load(self) -> None:
            await_file(go)

        @modal.method()
        def run(self) -> str:
            return "ran"

    run_app(app)
    with pytest.raises(RemoteError, match=r"'Slow\.\*'.*not ready after startup_timeout=1 s"):
        Slow().run.remote()
    Path(go).touch()

    assert Slow().run.remote() == "ran"


@ray_only
def test_enter_ends_its_process(engine: Any, run_app: RunApp, tmp_path: Path) -> None:
    """Tried a few times, then the callers are told."""
    app, log = modal.App("dies"), str(tmp_path / "log")

    @app.cls(serialized=True, max_containers=1)
    class Dies:
        @modal.enter()
        def load(self) -> None:
            note(log, "load")
            os._exit(7)

        @modal.method()
        def run(self) -> None:
            pass

    run_app(app)
    with pytest.raises(RemoteError, match="3 times in a row"):
        Dies().run.remote()
    assert lines(tmp_path / "log") == ["load"] * 3


def test_containers_kept_from_the_start(engine: Any, run_app: RunApp, tmp_path: Path) -> None:
    """`min_containers` of a class starts them with the app; of one with parameters, for every object that is used."""
    app, plain, log = modal.App("kept"), str(tmp_path / "plain"), str(tmp_path / "log")

    @app.cls(serialized=True, min_containers=1, max_containers=1)
    class Plain:
        @modal.enter()
        def load(self) -> None:
            note(plain, "entered")

    class WithParameter:
        __annotations__ = {"name": str}  # as written without the future's annotations
        name = modal.parameter(default="default")

        @modal.enter()
        def load(self) -> None:
            note(log, self.name)

        @modal.method()
        def run(self) -> None:
            pass

    kept = app.cls(serialized=True, min_containers=1, max_containers=1)(WithParameter)
    run_app(app)

    assert await_file(plain)
    kept(name="used").run.remote()
    assert lines(tmp_path / "log") == ["used"]


def test_exit_when_the_app_stops(engine: Any, tmp_path: Path) -> None:
    """All of them, in order, whatever one raises, after what runs was cancelled; not where nothing was entered."""
    app = modal.App("stops")
    log, silent = str(tmp_path / "log"), str(tmp_path / "silent")

    class Base:
        @modal.exit()
        def first(self) -> None:
            note(log, "first")

    @app.cls(serialized=True, max_containers=1)
    class Leaves(Base):
        @modal.enter()
        def load(self) -> None:
            self.loads = ["weights"]

        @modal.exit()
        def raises(self) -> None:
            note(log, "raises")
            raise RuntimeError("at the end")

        @modal.exit()
        async def as_context_manager(self, kind: Any, error: Any, trace: Any) -> None:
            note(log, f"async {kind} {error} {trace} {self.loads}")

        @modal.method()
        def nap(self) -> None:
            try:
                note(log, "begun")
                time.sleep(0.01)
                while True:
                    time.sleep(0.01)
            finally:
                note(log, "cancelled")

    @app.cls(serialized=True, max_containers=1)
    class Never:
        @modal.enter()
        def load(self) -> None:
            raise ValueError("never")

        @modal.exit()
        def bye(self) -> None:
            note(silent, "exit")

        @modal.method()
        def run(self) -> None:
            pass

    with app.run():
        with pytest.raises(ValueError, match="never"):
            Never().run.remote()
        for _ in range(2):
            Leaves().nap.spawn()  # the second waits for the first, and never begins
        assert await_file(log)
        assert await_text(log, "begun")
        raise KeyboardInterrupt  # which ends the block at once, and is swallowed

    assert lines(tmp_path / "log") == ["begun", "cancelled", "first", "raises", "async None None None ['weights']"]
    assert lines(tmp_path / "silent") == []


def test_exit_when_scaled_down(engine: Any, run_app: RunApp, tmp_path: Path) -> None:
    """An idle container runs its hooks before it goes, and the next one is entered anew."""
    app, log = modal.App("scaled"), str(tmp_path / "log")

    @app.cls(serialized=True, scaledown_window=2)
    class Idle:
        name: str = "idle"

        @modal.enter()
        def load(self) -> None:
            note(log, "enter")

        @modal.exit()
        def bye(self) -> None:
            note(log, "exit")

        @modal.method()
        def run(self) -> str:
            return self.name

    run_app(app)

    assert Idle().run.remote() == "idle"
    assert await_text(log, "exit")
    assert Idle().run.remote() == "idle"
    assert lines(tmp_path / "log")[:3] == ["enter", "exit", "enter"]


def test_exit_when_the_caller_is_gone(engine: Any, run_app: RunApp, tmp_path: Path) -> None:
    """A container whose only caller was a container that has ended, ends in good order too."""
    app, log = modal.App("orphans"), str(tmp_path / "log")

    @app.cls(serialized=True, max_containers=1)
    class Inner:
        @modal.exit()
        def bye(self) -> None:
            note(log, "exit")

        @modal.method()
        def nap(self, seconds: float) -> None:
            note(log, "begun")
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(0.01)

    @app.function(serialized=True, max_containers=1)
    def outer() -> None:
        Inner().nap.remote(60)

    run_app(app)
    call = outer.spawn()
    assert await_file(log)
    call.cancel(terminate_containers=True)

    assert await_text(log, "exit")


@local_only
def test_exit_that_hangs(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has its grace, then the container is killed and the app ends all the same."""
    app, log, go = modal.App("hangs"), str(tmp_path / "log"), str(tmp_path / "go")

    @app.cls(serialized=True, max_containers=1)
    class Hangs:
        @modal.exit()
        def bye(self) -> None:
            note(log, "begun")
            await_file(go)
            note(log, "ended")

        @modal.method()
        def run(self) -> int:
            return 1

    monkeypatch.setattr(service, "EXIT_GRACE_S", 0.3)
    with app.run():
        assert Hangs().run.remote() == 1

    assert lines(tmp_path / "log") == ["begun"]
    Path(go).touch()
    assert await_text(log, "ended")  # on an engine of threads nothing can end it; it must not outlive the test


@ray_only
def test_a_container_that_dies_is_entered_anew(engine: Any, run_app: RunApp, tmp_path: Path) -> None:
    """Its input runs again in another one, whose object has run its hooks; no exit hook runs in a process that is gone."""
    app, log = modal.App("dies-once"), str(tmp_path / "log")

    @app.cls(serialized=True, max_containers=1)
    class Dies:
        @modal.enter()
        def load(self) -> None:
            note(log, "enter")

        @modal.exit()
        def bye(self) -> None:
            note(log, "exit")

        @modal.method()
        def run(self) -> int:
            note(log, "run")
            if lines(Path(log)).count("run") == 1:
                os._exit(1)
            return 3

    run_app(app)

    assert Dies().run.remote() == 3
    assert lines(tmp_path / "log") == ["enter", "run", "enter", "run"]


PROGRAM = """
import sys
import time

import raymodal as modal

app = modal.App()
log = sys.argv[1]

def note(text):
    with open(log, "a") as file:
        file.write(text + "\\n")

@app.cls(max_containers=1)
class Leaves:
    log: str = modal.parameter()

    @modal.enter()
    def load(self):
        global log
        log = self.log

    @modal.exit()
    def bye(self):
        note("exit")

    @modal.method()
    def nap(self):
        note("begun")
        try:
            while True:
                time.sleep(0.01)
        finally:
            note("cancelled")

if __name__ == "__main__":
    with app.run():
        Leaves(log=log).nap.remote()
"""


def test_exit_after_ctrl_c(engine: Any, engines: Any, tmp_path: Path) -> None:
    """In a script: what runs is cancelled, then the hooks run."""
    (tmp_path / "leaves.py").write_text(PROGRAM)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAYMODAL_", "MODAL_"))}
    environment |= {"RAYMODAL_ENGINE": engine.name, "RAYMODAL_HOME": str(engines.settings["home"])}
    if engine.name == "ray":
        environment["RAYMODAL_ADDRESS"] = engine.cluster.address
    log = tmp_path / "log"
    command = [sys.executable, "leaves.py", str(log)]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as program:
        try:
            assert await_file(str(log))
            program.send_signal(signal.SIGINT)
            _, said = program.communicate(timeout=30)
        finally:
            program.kill()

    assert (lines(log), program.returncode) == (["begun", "cancelled", "exit"], 0), said


def test_by_value(engine: Any, notebook: Any) -> None:
    """Classes of a notebook: `super()`, their own handle, each other, parameters and exceptions."""
    cells = notebook(CELLS)

    with cells["app"].run():
        model = cells["Model"](name="m")
        assert model.greet.remote("you") == "base of m greets you twice: 2"
        assert cells["use"].remote() == "base of f greets all twice: 2"
        assert list(model.again.map(["a", "b"])) == [json.dumps({"m": "a"}), json.dumps({"m": "b"})]
        with pytest.raises(cells["Refused"]) as caught:
            model.greet.remote("nobody")
        assert caught.value.whom == "nobody"
        assert cells["arrived"].remote(cells["Model"]) == ["arrived"]
    with pytest.raises(ExecutionError, match=r"'Model\.greet'.*App it is defined on is not running"):
        model.greet.remote("late")


CELLS = """
import json
import raymodal as modal

app = modal.App("cells")

class Refused(Exception):
    def __init__(self, whom):
        super().__init__(whom)
        self.whom = whom

class Base:
    @modal.enter()
    def load(self):
        self.base = "base"

    def of(self):
        return self.base + " of"

@app.cls(max_containers=1)
class Counter:
    @modal.method()
    def count(self, x):
        return x + 1

@app.cls(max_containers=2)
class Model(Base):
    name: str = modal.parameter(default="default")

    def of(self):
        return f"{super().of()} {self.name}"

    @modal.method()
    def greet(self, whom):
        if whom == "nobody":
            raise Refused(whom)
        return f"{self.of()} greets {whom} twice: {Counter().count.remote(1)}"

    @modal.method()
    def again(self, x):
        return json.dumps({self.name: x})

@app.function(max_containers=1)
def use():
    return Model(name="f").greet.remote("all")

@app.function(max_containers=1)
def arrived(cls):
    return list(cls().again.map(["x"])) and ["arrived"]
"""
