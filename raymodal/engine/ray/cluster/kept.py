"""The cluster that outlives programs: `raymodal cluster up`, `down`, and finding it.

    up ──> keeper.py (its own session) ──> Ray's daemons, template, record ──> becomes keep.py ──> waits
    run ──> record ──> attach                                                        │
    down ──> SIGTERM ────────────────────────────────────────────────────────────────┘ ends all, forgets the record

`record.py` says how a record of the living is told from one of the dead. What a crash left is removed by whoever looks.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from raymodal.config import Settings
from raymodal.engine.ray.cluster import bytecode
from raymodal.engine.ray.cluster import record as records
from raymodal.engine.ray.cluster.ending import descendants, is_alive, kill, members
from raymodal.engine.ray.cluster.record import Record, State
from raymodal.engine.ray.template import node as template
from raymodal.exception import ExecutionError, VersionError

START_S = 120.0
END_S = 20.0
LOG = "cluster.log"


@dataclass(frozen=True)
class Up:
    """What `up` did.

    Attributes:
        is_new: started by this call; else it was there.
        notes: what the user should know, a line each.
    """

    record: Record
    is_new: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Down:
    """What `down` ended.

    Attributes:
        processes: how many it ended.
        was_dead: a crash had ended the cluster before.
    """

    record: Record | None
    processes: int = 0
    was_dead: bool = False


def find(home: Path) -> tuple[Record | None, str | None]:
    """The kept cluster, if one lives; what a crash left of one is removed.

    Returns:
        Its record, and a line for the user.
    """
    state, record = records.look(home)
    if state is State.LIVE:
        return record, None
    if state is not State.DEAD:
        return None, None
    with records.taken(home) as is_ours:
        if not is_ours or records.read(home) != record:
            return None, None  # somebody else is at it
        ended = clear_up(home, record)
    return (
        None,
        f"The cluster that `raymodal cluster up` kept{of(record)} has died; what it left was removed ({ended}).",
    )


def of(record: Record | None) -> str:
    """Which cluster that is, behind its name in a sentence."""
    return f" at {record.address} since {record.since}" if record is not None else ""


def clear_up(home: Path, record: Record | None) -> str:
    """Remove what is left of a cluster whose keeper is gone. Only for whoever holds the lock.

    Returns:
        What that was.
    """
    pids: list[int] = []
    had_folder = False
    if record is not None:
        pids = members(record.session, record.session_dir)
        kill(pids)
        folder = Path(record.session_dir)
        had_folder = folder.name.startswith("session_") and folder.is_dir()
        if had_folder:
            _wait_for_end(pids, 5.0)
            shutil.rmtree(folder, ignore_errors=True)
    records.remove(home)
    what = [f"{len(pids)} processes"] if pids else []
    what += ["the session's folder"] if had_folder else []
    return ", ".join([*what, "its record"])


def _wait_for_end(pids: list[int], within_s: float) -> None:
    deadline = time.monotonic() + within_s
    while any(is_alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.02)


def up(settings: Settings, options: Mapping[str, Any]) -> Up:
    """Start a cluster that stays when this process has ended.

    Args:
        settings: home, tmpdir, dashboard and fork are in force for it.
        options: `num_cpus`, `num_gpus`, `memory` and `object_store_memory` (bytes).

    Raises:
        ExecutionError: it did not start; the message says why.
    """
    if not sys.platform.startswith("linux"):
        raise ExecutionError(
            "`raymodal cluster up` needs Linux: start one with `ray start --head`, and name it with --address or RAY_ADDRESS."
        )
    home = Path(os.path.abspath(settings.home))
    notes: list[str] = []
    try:
        lock = records.take(home)
    except OSError as error:
        raise ExecutionError(
            f"{home} cannot be written ({error.strerror}), and the cluster is recorded there: set RAYMODAL_HOME to a folder "
            "that can."
        ) from error
    if lock is None:
        return Up(_wait_for_other(home), is_new=False)
    try:
        state, old = records.look(home)
        if state is State.ELSEWHERE and old is not None:
            raise ExecutionError(
                f"{home} is shared with {old.machine}, which keeps a cluster there. End that one with `raymodal cluster "
                f"down` on {old.machine}, or give this machine a RAYMODAL_HOME of its own; if {old.machine} is gone, remove "
                f"{home / records.FILE}."
            )
        if old is not None or (home / records.FILE).exists():
            notes.append(f"An earlier cluster{of(old)} has died; what it left was removed ({clear_up(home, old)}).")
        report = _run_keeper(home, settings, options, lock)
    finally:
        os.close(lock)  # by now the keeper holds it
    record = Record(**report["record"])
    bytecode.fill(home, is_tied=False)
    return Up(record, is_new=True, notes=(*notes, *report["notes"]))


def _wait_for_other(home: Path) -> Record:
    """Somebody keeps a cluster, or is about to."""
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline:
        state, record = records.look(home)
        if state is State.LIVE and record is not None:
            return record
        if state is not State.STARTING:
            break
        time.sleep(0.05)
    raise ExecutionError(
        f"Another `raymodal cluster up` was at it and failed, or still is (its log: {home / LOG}): try again."
    )


def _run_keeper(home: Path, settings: Settings, options: Mapping[str, Any], lock: int) -> dict[str, Any]:
    deadline = time.monotonic() + START_S
    reading, writing = os.pipe()
    log = os.open(home / LOG, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    changes = {
        "RAYMODAL_HOME": str(home),
        "RAYMODAL_TMPDIR": os.path.abspath(settings.tmpdir) if settings.tmpdir else "",
        "RAYMODAL_DASHBOARD": str(int(settings.dashboard)),
        "RAYMODAL_FORK": str(int(settings.fork)),
    }
    plan = json.dumps({**options, "report": writing, "lock": lock})
    # Neither the folder that the user is in nor the package's own may lend it modules; a raymodal that is not installed must
    # be found all the same.
    root = str(Path(__file__).parents[4])
    code = f"import sys; sys.path.append({root!r}); from raymodal.engine.ray.cluster.keeper import main; main()"
    try:
        keeper = subprocess.Popen(
            [sys.executable, "-P", "-c", code, plan],
            env={**os.environ, **changes},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=[writing, lock],
            start_new_session=True,
        )
    finally:
        os.close(writing)
        os.close(log)
    with os.fdopen(reading, "rb") as pipe:
        text = _read_until(pipe.fileno(), deadline)
    try:
        report: dict[str, Any] = json.loads(text)
    except ValueError:
        has_ended = keeper.poll() is not None or time.monotonic() < deadline
        kill([*descendants(keeper.pid), keeper.pid])
        keeper.wait(END_S)
        what = "its start ended without a word" if has_ended else f"it took longer than {START_S:.0f} s"
        raise ExecutionError(f"Ray did not start on this machine: {what} (its log: {home / LOG})") from None
    if "error" in report:
        keeper.wait(END_S)
        raise ExecutionError(f"Ray did not start on this machine: {report['error']} (its log: {home / LOG})")
    return report


def _read_until(fd: int, deadline: float) -> bytes:
    """All that is written to a pipe until it is closed."""
    found = b""
    while (left := deadline - time.monotonic()) > 0 and select.select([fd], [], [], left)[0]:
        part = os.read(fd, 1 << 16)
        if not part:
            break
        found += part
    return found


def down(home: Path) -> Down:
    """End the kept cluster, or what is left of it.

    Raises:
        ExecutionError: it is another machine's.
    """
    home = Path(os.path.abspath(home))
    state, record = records.look(home)
    if state is State.STARTING:
        with contextlib.suppress(ExecutionError):
            record = _wait_for_other(home)
        state, record = records.look(home)
    if state is State.ELSEWHERE and record is not None:
        raise ExecutionError(
            f"The cluster recorded in {home / records.FILE} is kept on {record.machine}: run `raymodal cluster down` there, "
            "or remove that file if the machine is gone."
        )
    if state is State.NONE:
        return Down(None)
    if state is State.LIVE and record is not None:
        pids = [record.keeper, *descendants(record.keeper), *members(record.session, record.session_dir)]
        with contextlib.suppress(OSError):
            os.kill(record.keeper, signal.SIGTERM)
        _wait_for_end([record.keeper], END_S)
        if is_alive(record.keeper):
            kill([record.keeper])
            _wait_for_end([record.keeper], 5.0)
    else:
        pids = []
    with records.taken(home) as is_ours:
        if is_ours and (home / records.FILE).exists():
            pids += members(record.session, record.session_dir) if record is not None else []
            clear_up(home, record)
    return Down(record, processes=len(set(pids)), was_dead=state is not State.LIVE)


def test_fork(settings: Settings, record: Record) -> list[str]:
    """Have workers of a new cluster start in the way that is known to work on this machine; the first time, try it.

    Returns:
        What the user should know.
    """
    from raymodal.engine.ray.template import selftest

    raylet = record.processes.get("raylet")
    if not record.fork or raylet is None or not os.path.isdir(template.folder_of(record.session_dir, raylet)):
        return []
    if selftest.known(settings.home) is not None:
        mode, reason = selftest.ensure(settings.home, record.session_dir, raylet)
    else:
        from raymodal.engine.ray.cluster.attach import attach_kept

        connection = attach_kept(record, settings.home)
        try:
            mode, reason = selftest.ensure(settings.home, record.session_dir, raylet)
        finally:
            connection.close()
    return (
        []
        if mode == "nil"
        else [f"Workers start {'from a template for each job' if mode == 'job' else 'as Ray starts them'}: {reason}"]
    )


def check_versions(record: Record) -> None:
    """Refuse a kept cluster that another Ray or Python has started, before Ray takes its time to find out.

    Raises:
        VersionError: one line.
    """
    ray, python = installed()
    if (record.ray, record.python) != (ray, python):
        raise VersionError(
            f"The cluster that `raymodal cluster up` keeps runs Python {record.python} with Ray {record.ray}, this program "
            f"Python {python} with Ray {ray}. Start it anew (`raymodal cluster down`, then `up`, with this Python), or run "
            "without it: `--address local`."
        )


def installed() -> tuple[str, str]:
    """The versions of Ray and Python here."""
    import ray

    return ray.__version__, ".".join(map(str, sys.version_info[:3]))


def refresh(record: Record, home: Path) -> None:
    """Let the next workers be forked from the code that is installed now: a template goes on with what it has imported."""
    now = records.fingerprint()
    if not record.fork or record.code == now:
        return
    records.write(home, replace(record, code=now))  # first: of two programs at once, one does it
    old = {
        worker
        for worker in (*descendants(record.keeper), *members(record.session, record.session_dir))
        if _is_idle(worker)
    }
    template.renew(record.session_dir)
    # Started in advance, for nobody yet, and forked from the old code. If one is taken this very moment, its container is
    # started again elsewhere.
    kill(sorted(old))


def _is_idle(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::IDLE")
    except OSError:
        return False
