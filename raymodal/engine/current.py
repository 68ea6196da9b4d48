"""Which engine this process uses. The only door from the surface to an engine, and the place where one is imported late."""

from __future__ import annotations

import atexit
import threading
from typing import TYPE_CHECKING

from raymodal.config import settings

if TYPE_CHECKING:
    from raymodal.engine.protocol import Engine

_engine: Engine | None = None
_lock = threading.RLock()
_registered = False


def get_engine() -> Engine:
    """The engine of this process, started on first use as the settings say.

    Raises:
        ConnectionError: (raymodal.exception) the cluster cannot be reached or started.
    """
    global _engine, _registered
    with _lock:
        if _engine is None:
            if settings().engine == "local":
                from raymodal.engine.local.engine import LocalEngine

                _engine = LocalEngine()
            else:
                from raymodal.engine.ray.engine import RayEngine

                _engine = RayEngine()
            if not _registered:
                atexit.register(shutdown)
                _registered = True
        return _engine


def engine_or_none() -> Engine | None:
    """The engine if one has been started; never starts one."""
    return _engine


def set_engine(engine: Engine | None) -> None:
    """Make `engine` this process's own (a container does, and tests do)."""
    global _engine
    with _lock:
        _engine = engine


def warm_up() -> None:
    """Start what takes time before the user's program is read; errors wait for the real start."""
    if settings().engine == "ray":
        from raymodal.engine.ray.engine import warm_up as warm

        warm()


def shutdown() -> None:
    """Stop what this process started. Safe to call twice."""
    global _engine
    with _lock:
        engine, _engine = _engine, None
    if engine is not None:
        engine.close()
