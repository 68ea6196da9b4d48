"""Compiled modules of Ray and raymodal: half of the start of every process, where their packages have none.

That is so after `uv pip install`, and wherever PYTHONDONTWRITEBYTECODE is set (FAST_START, answer 3). The processes of
clusters that we start then keep theirs below `RAYMODAL_HOME` (Python tells versions of Python apart by the file's name, and
versions of a module by its time), and what no process has needed yet is compiled once in the background.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from raymodal.engine.ray.locks import is_locked

_DONE = "filled.json"
_LOCK = "filling.lock"
_FILL = str(Path(__file__).with_name("fill.py"))


@dataclass(frozen=True)
class Cache:
    """The state of the bytecode.

    Attributes:
        state: `package` (Ray has its own), `filled`, `filling`, `empty` or `part` (some was compiled as it was needed).
        folder: where the cache is, if Ray has no bytecode of its own.
        files: how many modules were compiled, once it is filled.
    """

    state: str
    folder: str | None = None
    files: int | None = None


def folder_for(home: Path) -> Path | None:
    """Where to keep bytecode for Ray: None if its package has it already."""
    package = _package()
    if package is None or sys.pycache_prefix is not None:
        return None
    source = os.path.join(package, "_private", "worker.py")
    return None if os.path.exists(importlib.util.cache_from_source(source)) else home / "pycache"


def _package() -> str | None:
    spec = importlib.util.find_spec("ray")
    return None if spec is None or spec.origin is None else os.path.dirname(spec.origin)


def environment(home: Path) -> dict[str, str]:
    """Variables for processes of a cluster that we start."""
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


def look(home: Path) -> Cache:
    """What there is."""
    folder = folder_for(home)
    if folder is None:
        return Cache("package")
    if is_locked(folder / _LOCK):
        return Cache("filling", str(folder))
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        done = json.loads((folder / _DONE).read_text())
        if done["for"] == _key():
            return Cache("filled", str(folder), int(done["files"]))
    return Cache("part" if os.path.exists(folder) else "empty", str(folder))


def _key() -> str:
    """What the cache was filled for: this Python, this Ray, this raymodal."""
    from raymodal.engine.ray.cluster.record import fingerprint

    version = os.path.join(_package() or "", "_version.py")
    return f"{sys.implementation.cache_tag} {os.stat(version).st_mtime_ns} {fingerprint()}"


def fill(home: Path, *, is_tied: bool) -> subprocess.Popen[bytes] | None:
    """Compile in the background what workers import, if that was not done yet and nobody is at it.

    Args:
        home: RAYMODAL_HOME.
        is_tied: it ends with this process; else when it is done, within seconds.

    Returns:
        The process that does it.
    """
    folder = folder_for(home)
    if folder is None or look(home).state in ("filled", "filling"):
        return None
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-P", _FILL, str(folder / _DONE), str(folder / _LOCK), _key()],
            env={**os.environ, **environment(home)},
            stdin=subprocess.PIPE if is_tied else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError:
        return None


def stop(filling: subprocess.Popen[bytes] | None) -> None:
    """End what `fill` started, done or not: the next one goes on with what is left."""
    if filling is None:
        return
    filling.kill()
    filling.wait()
    if filling.stdin is not None:
        filling.stdin.close()
