"""Keeps a cluster: the parent of its daemons, and their end. Run as a script in the place of `keeper.py`, which has started them.

    keep.py FACTS

FACTS is JSON: see `keeper.py`. Nothing but the standard library is imported (10 MB instead of Ray's 90), since this lives
as long as the cluster does. It ends everything, and forgets the record, when

- `raymodal cluster down` tells it to (SIGTERM),
- one of the daemons without which there is no cluster has ended,
- the record names another cluster, or is gone.

If it is killed itself, Linux kills the daemons with it, a shell that waits for that clears up the session's folder, and the
lock, which only this process holds, is free: whoever looks next finds a record of the dead.
"""

import contextlib
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

# `ending.py` lies beside this file, and is not imported as a part of raymodal, which stays unloaded.
_HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, _HERE)
import ending  # type: ignore[import-not-found,unused-ignore]  # noqa: E402 -- see above

sys.path.remove(_HERE)

LOOK_S = 5.0
_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}


def serve(vital: set[int], record: str, session: str) -> str:
    """Wait for a reason to end, and return it."""
    while True:
        told = signal.sigtimedwait(_SIGNALS, LOOK_S)
        if told is not None and told.si_signo in (signal.SIGTERM, signal.SIGINT):
            return "told to"
        for pid in reap():
            if pid in vital:
                return f"process {pid} ended"
        if told is None and not is_ours(record, session):
            return "its record is gone"


def reap() -> list[int]:
    """Processes that have ended since."""
    ended = []
    with contextlib.suppress(ChildProcessError):
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            ended.append(pid)
    return ended


def is_ours(record: str, session: str) -> bool:
    """Whether the record is that of this cluster."""
    try:
        with open(record) as file:
            return bool(json.load(file)["session"] == session)
    except FileNotFoundError:
        return False
    except (OSError, ValueError, KeyError, TypeError):
        return True  # unreadable at the moment


def end(session: str, session_dir: str, record: str, spared: int) -> None:
    """Leave nothing behind."""
    for _ in range(3):
        # Workers are children of a template or of the raylet, and nobody's once that has ended: look first, then kill.
        pids = {*ending.descendants(os.getpid()), *ending.members(session, session_dir)}
        pids.discard(os.getpid())
        pids.discard(spared)
        ending.kill(sorted(pids))
        deadline = time.monotonic() + 5.0
        while any(ending.is_alive(pid) for pid in pids) and time.monotonic() < deadline:
            reap()
            time.sleep(0.01)
        if not pids:
            break
    shutil.rmtree(session_dir, ignore_errors=True)
    if is_ours(record, session):
        Path(record).unlink(missing_ok=True)


def main() -> None:
    """See the top."""
    facts = json.loads(sys.argv[1])
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    why = serve(set(facts["vital"]), facts["record"], facts["session"])
    now = time.strftime("%F %T")
    print(f"{now} ending the cluster: {why}", flush=True)
    end(facts["session"], facts["session_dir"], facts["record"], facts["watchdog_pid"])
    with contextlib.suppress(OSError):
        os.write(facts["watchdog"], b"done\n")


if __name__ == "__main__":
    main()
