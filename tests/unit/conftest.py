"""No unit test starts Ray."""

from __future__ import annotations

import importlib.util
import signal
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from typing import Any

import pytest

_forbidden = False


def _guard(ray: Any) -> None:
    """From now on `ray.init` raises while a unit test runs."""
    real = ray.init

    def init(*args: Any, **kwargs: Any) -> Any:
        if _forbidden:
            raise AssertionError("a unit test called ray.init; it belongs into tests/ray")
        return real(*args, **kwargs)

    ray.init = init


class _WhenImported(MetaPathFinder):
    """Importing Ray takes most of a second, so it is guarded only once something imports it (and not when it is only looked for)."""

    def __init__(self) -> None:
        self._is_looking = False

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> ModuleSpec | None:
        if fullname != "ray" or self._is_looking:
            return None
        self._is_looking = True
        try:
            spec = importlib.util.find_spec("ray")
        finally:
            self._is_looking = False
        if spec is None or spec.loader is None:
            return None
        run = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            run(module)
            _guard(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if "ray" in sys.modules:
    _guard(sys.modules["ray"])
else:
    sys.meta_path.insert(0, _WhenImported())


@pytest.fixture(autouse=True)
def no_ray() -> Iterator[None]:
    global _forbidden
    _forbidden = True
    yield
    _forbidden = False


@pytest.fixture(autouse=True, scope="session")
def plain_signals() -> Iterator[None]:
    """As in a fresh process: a Ray that other tests have started leaves its handler behind, `nohup` ignores SIGHUP."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        if handler is not None:  # installed by something else than Python
            signal.signal(number, handler)
