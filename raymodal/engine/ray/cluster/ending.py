"""The end of a Ray of our own, however it comes: nothing may stay behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

SESSION_VARIABLE = "RAYMODAL_SESSION"
LOCK_FILE = "raymodal.lock"

# Waits for the end of its input, which only this process holds open. A line means that all is cleared up; end of file, that
# this process died. Ray's daemons have died with it then (PR_SET_PDEATHSIG), its workers go when they miss the raylet. Left
# are what user code started, found by our variable in its environment; Ray's agent, which can take half a minute to notice
# and whose environment is overwritten by its title, found by its open log files; and the session's folder.
_WATCHDOG = """
trap '' INT TERM HUP QUIT
if read -r done; then exit 0; fi
for pause in 0.3 1 3; do
  sleep "$pause"
  for file in $(grep -l -a -F -- "$1" /proc/[0-9]*/environ 2>/dev/null); do
    pid=${file#/proc/}; pid=${pid%%/*}
    kill -9 "$pid" 2>/dev/null
  done
  for file in $(find /proc/[0-9]*/fd -lname "$2/logs/*" 2>/dev/null); do
    pid=${file#/proc/}; pid=${pid%%/*}
    grep -q '^ray::' "/proc/$pid/cmdline" 2>/dev/null && kill -9 "$pid" 2>/dev/null
  done
  rm -rf -- "$2"
done
"""


def start_watchdog(session: str, session_dir: str) -> subprocess.Popen[bytes] | None:
    shell = shutil.which("sh")
    if shell is None:
        return None
    with contextlib.suppress(OSError):
        return subprocess.Popen(
            [shell, "-c", _WATCHDOG, "raymodal-watchdog", f"{SESSION_VARIABLE}={session}", session_dir],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is not for it
        )
    return None


def stop_watchdog(watchdog: subprocess.Popen[bytes] | None) -> None:
    if watchdog is None or watchdog.stdin is None:
        return
    with contextlib.suppress(OSError):
        watchdog.stdin.write(b"done\n")
        watchdog.stdin.close()
    try:
        watchdog.wait(5.0)
    except subprocess.TimeoutExpired:  # a machine that is very busy
        watchdog.kill()
        watchdog.wait()


def hold_session(session_dir: str) -> int | None:
    """Lock the session's folder for as long as this process lives, so that nobody sweeps it away. A pid would not do: it
    means nothing in another container that shares the folder. The lock has its name only once it is held: a free one is
    what a dead process left.
    """
    lock = os.path.join(session_dir, LOCK_FILE)
    temporary = f"{lock}.{os.getpid()}"
    with contextlib.suppress(OSError):
        held = os.open(temporary, os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.rename(temporary, lock)
        except OSError:
            os.close(held)
            raise
        return held
    return None


def sweep(tmpdir: str) -> None:
    """Remove what sessions of dead processes left (the watchdog can be killed too)."""
    for lock in Path(tmpdir).glob(f"session_*/{LOCK_FILE}"):
        if lock.parent.is_symlink():
            continue
        with contextlib.suppress(OSError), open(lock) as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


def remove_tree(folder: str | Path) -> None:
    """Remove a session's folder. Processes that are just ending may still put a file into it: a second look finds that."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not os.path.lexists(folder):
            return
        time.sleep(0.05)


def raylets(node: Any) -> list[int]:
    with contextlib.suppress(AttributeError):
        return [info.process.pid for info in node.all_processes.get("raylet", ())]
    return []


def descendants(pid: int) -> list[int]:
    """Everything below a process, by /proc; nothing where there is none (macOS), and Ray's own ending must do."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            # The name may hold spaces and parentheses: count from its last one.
            parent = int(entry.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(entry.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def processes_of(session: str) -> list[int]:
    """Processes that carry our session's variable: what workers started and let go of."""
    mark = f"{SESSION_VARIABLE}={session}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in entry.read_bytes():
                found.append(int(entry.parent.name))
    return [pid for pid in found if pid != os.getpid()]


def members(session: str, session_dir: str) -> list[int]:
    """All that belongs to a session, whoever its parent is by now: by our variable, or by Ray's log files, since Ray's
    workers and agents write their title over their environment.
    """
    found = set(processes_of(session))
    logs = os.path.join(session_dir, "logs", "")
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cmdline").read_bytes().startswith(b"ray::") and _has_open(int(process.name), logs):
                found.add(int(process.name))
    return sorted(found - {os.getpid()})


def _has_open(pid: int, below: str) -> bool:
    """Whether a process has a file open whose path begins with `below`. One that is closed meanwhile is no reason to
    leave out the others.
    """
    for fd in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{pid}/fd/{fd}").startswith(below):
                return True
    return False


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has asked about does not."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    if os.path.isdir("/proc/self"):
        return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


def kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
