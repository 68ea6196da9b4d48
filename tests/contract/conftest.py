"""The engines under contract, each started at most once, and the sample app running on them.

A test that takes `sample`, `run_app` or `engine` runs once per engine; `ray_only` and `local_only` narrow that down. Everything ends with this folder.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

from raymodal import _dual, config
from raymodal.engine import current
from raymodal.engine.local.engine import LocalEngine

RAY = pytest.param("ray", marks=pytest.mark.ray)


class Engines:
    """Engines by name, started on first use."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self._started: dict[str, Any] = {}

    def get(self, name: str) -> Any:
        if name not in self._started:
            if name == "ray":
                from raymodal.engine.ray.engine import RayEngine

                # Logical CPUs: room for the sample app's idle containers beside those of single tests.
                self._started[name] = RayEngine(num_cpus=10)
            else:
                self._started[name] = LocalEngine()
        return self._started[name]

    def close(self) -> None:
        while self._started:
            self._started.popitem()[1].close()


@pytest.fixture(autouse=True)
def warned_nowhere_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocking calls on a loop warn once per line of code; here once per test."""
    monkeypatch.setattr(_dual, "_warned", set())


@pytest.fixture(scope="package")
def engines(request: pytest.FixtureRequest) -> Iterator[Engines]:
    # Not the user's own folder, and yet one that keeps compiled modules from run to run.
    engines = Engines({"home": request.config.cache.mkdir("raymodal-home"), "address": "local"})
    yield engines
    engines.close()


@pytest.fixture(scope="package", params=["local", RAY])
def engine(request: pytest.FixtureRequest, engines: Engines) -> Iterator[Any]:
    """An engine, current for as long as tests of its kind run."""
    config.reset()
    config.override(engine=request.param, **engines.settings)
    before = current.engine_or_none()
    current.set_engine(engines.get(request.param))
    yield engines.get(request.param)
    current.set_engine(before)
    config.reset()


@pytest.fixture(scope="package")
def sample(engine: Any) -> Iterator[ModuleType]:
    """The module of the sample app, which is running."""
    from tests.contract import sample_app

    with sample_app.app.run():
        yield sample_app


@pytest.fixture
def run_app(engine: Any) -> Iterator[Callable[[Any], Any]]:
    """`run_app(app)` runs an app until the test ends."""
    with contextlib.ExitStack() as stack:
        yield lambda app: stack.enter_context(app.run())


@pytest.fixture
def notebook() -> Iterator[Callable[[str], dict[str, Any]]]:
    """`notebook(code)` runs code as a cell does: in `__main__`, which has no file."""
    before = sys.modules["__main__"]
    cells = ModuleType("__main__")
    sys.modules["__main__"] = cells

    def run(code: str) -> dict[str, Any]:
        exec(compile(code, "<cell>", "exec", dont_inherit=True), cells.__dict__)
        return cells.__dict__

    yield run
    sys.modules["__main__"] = before
