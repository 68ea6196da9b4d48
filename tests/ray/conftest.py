"""One local Ray for this folder's tests, and apps whose functions travel by value."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from raymodal import config
from raymodal.engine import current

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """The engine of this process, on a Ray of its own."""
    config.reset()
    config.override(engine="ray", linger_s=0.5)
    engine = current.get_engine()
    yield engine
    current.shutdown()
    config.reset()


@pytest.fixture
def run_app(engine: Any) -> Iterator[Any]:
    """`run_app(app)` starts an app for the rest of the test."""
    with contextlib.ExitStack() as stack:
        yield lambda app: stack.enter_context(app.run())
