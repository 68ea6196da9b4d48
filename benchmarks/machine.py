"""Facts about the machine that a figure means nothing without."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import subprocess
from pathlib import Path
from typing import Any


def facts() -> dict[str, Any]:
    """Everything that stays the same during a run."""
    return {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "cpu": cpu_model(Path("/proc/cpuinfo")),
        "memory_gib": round(memory_bytes(Path("/proc/meminfo")) / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "ray": version_of("ray"),
        "raymodal": version_of("raymodal"),
        "bytecode": {name: has_bytecode(name) for name in ("ray", "raymodal")},
        "commit": git_commit(Path(__file__).resolve().parent),
    }


def load_average() -> list[float]:
    """Load over 1, 5 and 15 minutes."""
    return [round(value, 2) for value in os.getloadavg()]


def cpu_model(cpuinfo: Path) -> str:
    """The processor's name, or the architecture where the kernel does not tell."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return platform.machine()


def memory_bytes(meminfo: Path, field: str = "MemTotal") -> int:
    """A field of /proc/meminfo in bytes; 0 where there is none."""
    try:
        lines = meminfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    for line in lines:
        key, _, value = line.partition(":")
        if key == field:
            return int(value.split()[0]) * 1024
    return 0


def version_of(distribution: str) -> str | None:
    """Installed version, found without importing anything."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def has_bytecode(package: str) -> bool | None:
    """Whether a package was compiled ahead: without, each worker's start takes about twice as long."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    return Path(importlib.util.cache_from_source(spec.origin)).exists()


def git_commit(folder: Path) -> str | None:
    """Short commit of the checkout that `folder` is a part of, with `+` where files differ; None elsewhere.

    An installed package may lie inside somebody's repository (a virtual environment does), so the folder above must
    be the checkout itself.
    """
    if not (folder.parent / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(
                ["git", *words], cwd=folder, capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for words in (["rev-parse", "--short=10", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changes else "")
