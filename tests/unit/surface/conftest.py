"""Fixtures of the declare plane: a fake engine, fresh warnings, settings as they come."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from raymodal import _warn, config
from tests.unit.surface.fake_engine import FakeEngine, fake_engine


@pytest.fixture(autouse=True)
def fresh(tmp_path: Path) -> Iterator[None]:
    _warn.forget()
    config.override(strict=False, home=tmp_path / "home")
    yield
    config.reset()
    _warn.forget()


@pytest.fixture
def strict() -> None:
    config.override(strict=True)


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    with fake_engine() as engine:
        yield engine
