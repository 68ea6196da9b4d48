"""What a machine must offer before Ray starts on it: facts in, problems out."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from raymodal.config import Settings

_MIB = 1 << 20
_SMALLEST_STORE = 76 * _MIB  # Ray refuses less than 75 MiB
# <tmpdir>/session_<date>_<time>_<microseconds>_<pid>/sockets/plasma_store has to fit into the 107 bytes of a socket's
# path.
LONGEST_TMPDIR = 107 - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")


@dataclass(frozen=True)
class MachineFacts:
    """What is known of the machine before Ray starts on it."""

    platform: str
    tmpdir: str
    memory_bytes: int
    shm_bytes: int | None
    """Free shared memory; None where the system has no /dev/shm (macOS)."""
    disk_bytes: int
    disk_free_bytes: int


@dataclass(frozen=True)
class Problem:
    """One line for the user. A fatal one means that Ray is not started."""

    text: str
    is_fatal: bool = False


def store_size(facts: MachineFacts) -> int:
    """How large Ray's object store should be: 30 % of the memory, within the shared memory, never below Ray's
    minimum.
    """
    wanted = facts.memory_bytes * 3 // 10
    if facts.shm_bytes is not None:
        wanted = min(wanted, facts.shm_bytes * 9 // 10)
    return max(wanted, _SMALLEST_STORE)


def check_machine(facts: MachineFacts) -> list[Problem]:
    """What stands in the way of a Ray of our own on this machine; each problem in one line, with the way out."""
    if facts.platform.startswith(("win", "cygwin")):
        return [Problem("raymodal does not run on Windows: use WSL 2, Linux or macOS.", True)]
    problems = []
    if len(os.fsencode(facts.tmpdir)) > LONGEST_TMPDIR:
        problems.append(
            Problem(
                f"The folder {facts.tmpdir} is too deep for Ray's sockets (at most {LONGEST_TMPDIR} bytes): set "
                "RAYMODAL_TMPDIR (for a cluster that you start yourself: RAY_TMPDIR) to a short path such as /tmp/ray.",
                True,
            )
        )
    if facts.disk_bytes and facts.disk_free_bytes < facts.disk_bytes // 20:
        problems.append(
            Problem(
                f"The disk that holds {facts.tmpdir} is {100 - 100 * facts.disk_free_bytes // facts.disk_bytes} % full, "
                "and Ray refuses to work above 95 %: free some space, or set RAYMODAL_TMPDIR to a folder on another disk.",
                True,
            )
        )
    if facts.shm_bytes is not None:
        wanted = facts.memory_bytes * 3 // 10
        shm = facts.shm_bytes // _MIB
        way_out = "in Docker give the container more with --shm-size=2g."
        if facts.shm_bytes < 64 * _MIB:
            problems.append(Problem(f"/dev/shm has {shm} MiB free and Ray needs at least 64 MiB: {way_out}", True))
        elif facts.shm_bytes * 9 // 10 < _SMALLEST_STORE:
            problems.append(
                Problem(
                    f"/dev/shm has only {shm} MiB free, so large values go through files in {facts.tmpdir}, "
                    f"which is slow: {way_out}"
                )
            )
        elif facts.shm_bytes * 9 // 10 < min(wanted, 1024 * _MIB):
            problems.append(Problem(f"/dev/shm has only {shm} MiB free, so few large values fit in memory: {way_out}"))
    return problems


def gather_facts(tmpdir: str) -> MachineFacts:
    """Look at this machine."""
    shm: int | None = None
    with contextlib.suppress(OSError):
        at = os.statvfs("/dev/shm")
        shm = at.f_bavail * at.f_frsize
    existing = Path(tmpdir)
    while not existing.exists():
        existing = existing.parent
    disk = shutil.disk_usage(existing)
    return MachineFacts(
        platform=sys.platform,
        tmpdir=tmpdir,
        memory_bytes=_memory_bytes(),
        shm_bytes=shm,
        disk_bytes=disk.total,
        disk_free_bytes=disk.free,
    )


def _memory_bytes() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):
            total = min(total, int(Path(name).read_text()))
    return total


def choose_tmpdir(settings: Settings) -> str:
    """A short folder for Ray's sockets and logs that nobody else can enter."""
    if settings.tmpdir:
        return os.path.abspath(settings.tmpdir)
    name = f"raymodal-{os.getuid()}"
    below = len("/r")
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):
        path = os.path.join(parent, name)
        if len(os.fsencode(path)) + below > LONGEST_TMPDIR or not os.access(parent, os.W_OK):
            continue
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        info = os.lstat(path)
        if info.st_uid == os.getuid() and os.path.isdir(path) and not os.path.islink(path):
            os.chmod(path, 0o700)
            # Ray opens its folder to everybody. Below one that nobody else can enter, that does no harm.
            return os.path.join(path, "r")
    return tempfile.mkdtemp(prefix="raymodal-")
