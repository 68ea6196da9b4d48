"""An engine that calls functions in place, and `raymodal` called in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from raymodal import _alias, config
from raymodal.cli.main import main
from raymodal.engine import current


class Done(NamedTuple):
    code: Any
    out: str
    err: str


Cli = Callable[..., Done]


class FakePool:
    def __init__(self, engine: FakeEngine, tag: str, module: str, qualname: str) -> None:
        self.engine, self.tag, self.module, self.qualname = engine, tag, module, qualname

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.engine.calls.append((self.tag, args, kwargs))
        function = getattr(sys.modules[self.module], self.qualname)
        return function.local(*args, **kwargs)


class FakeRunning:
    def __init__(self, engine: FakeEngine, plan: Any) -> None:
        self.engine, self.plan, self.app_id, self.client = engine, plan, plan.app_id, None

    def pool(self, tag: str) -> FakePool:
        spec = self.plan.functions[tag].spec
        return FakePool(self.engine, tag, spec.module, spec.qualname)

    async def stop(self, grace_s: float = 0.0) -> None:
        self.engine.stopped += 1


class FakeEngine:
    """Notes what it is asked for."""

    name = "fake"

    def __init__(self) -> None:
        self.plans: list[Any] = []
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.stopped = 0

    async def start_app(self, plan: Any) -> FakeRunning:
        self.plans.append(plan)
        return FakeRunning(self, plan)

    def close(self) -> None:
        pass


@pytest.fixture(autouse=True)
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings, import path, modules and alias as before the test."""
    for name in ("RAYMODAL_TRACEBACK", "MODAL_TRACEBACK", "RAYMODAL_ENGINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    config.reset()
    yield
    config.reset()
    _alias.uninstall()
    for name in set(sys.modules) - before:
        path = getattr(sys.modules[name], "__file__", None) or ""
        if "pytest-of-" in path or "raymodal-stdin-" in path:
            del sys.modules[name]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Calls `raymodal ARGS` in this process."""

    def call(*args: str) -> Done:
        with pytest.raises(SystemExit) as caught:
            main(args)
        return Done(caught.value.code, *capsys.readouterr())

    return call


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeEngine]:
    """Functions run in place, in this process."""
    fake = FakeEngine()
    monkeypatch.setattr(current, "warm_up", lambda: None)
    current.set_engine(fake)  # type: ignore[arg-type]
    yield fake
    current.set_engine(None)


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Writes a program into the working directory."""
    monkeypatch.chdir(tmp_path)

    def write(source: str, name: str = "program.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        return path

    return write
