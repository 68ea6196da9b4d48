"""Compiled modules of Ray: half of the start of every process, where its package has none (FAST_START, answer 3)."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path


def folder_for(home: Path) -> Path | None:
    """Where to keep bytecode for Ray: None if its package has it already."""
    spec = importlib.util.find_spec("ray")
    if spec is None or spec.origin is None or sys.pycache_prefix is not None:
        return None
    source = os.path.join(os.path.dirname(spec.origin), "_private", "worker.py")
    return None if os.path.exists(importlib.util.cache_from_source(source)) else home / "pycache"


def environment(home: Path) -> dict[str, str]:
    folder = folder_for(home)
    if folder is None:
        return {}
    return {"PYTHONPYCACHEPREFIX": str(folder), "PYTHONDONTWRITEBYTECODE": ""}


@contextlib.contextmanager
def for_driver(home: Path) -> Iterator[None]:
    """The same for this process, while it imports Ray."""
    folder = None if "ray" in sys.modules else folder_for(home)
    if folder is None:
        yield
        return
    before = sys.pycache_prefix, sys.dont_write_bytecode
    sys.pycache_prefix, sys.dont_write_bytecode = str(folder), False
    try:
        yield
    finally:
        sys.pycache_prefix, sys.dont_write_bytecode = before
