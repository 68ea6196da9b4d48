"""Whether forked workers are what Ray expects on this machine: asked once for each version of Ray and Python.

The nil-job template leans on something that Ray nowhere promises: a worker that was started for no job takes the job of
its first lease, as Ray's own early-started workers do. So the first cluster that is started here tries it with two
actors (a fifth of a second); where it fails, each job gets a template of its own, and where that fails too, workers
start as Ray starts them. The answer is kept in `RAYMODAL_HOME/fork/`. No answer in time may be a busy machine's: the node
does without, nothing is kept, and the next cluster tries again.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from raymodal.engine.ray.template import node

TRY_S = 20.0
MODES = ("nil", "job", "plain")


def key() -> str:
    """What an answer holds for: the versions, the system, and this code."""
    import ray

    import raymodal

    here = Path(__file__).parent
    code = b"".join((here / name).read_bytes() for name in ("launcher.py", "server.py", "preload.py"))
    facts = [
        ray.__version__,
        sys.version,
        raymodal.__version__,
        platform.release(),
        platform.machine(),
        platform.node(),
    ]
    return hashlib.sha256("\0".join([*facts, hashlib.sha256(code).hexdigest()]).encode()).hexdigest()[:16]


def known(home: Path) -> tuple[str, str] | None:
    """The mode found earlier and its reason, or None."""
    try:
        record = json.loads((home / "fork" / f"{key()}.json").read_text())
        mode, reason = str(record["mode"]), str(record["reason"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return (mode, reason) if mode in MODES else None


def ensure(home: Path, session_dir: str, raylet_pid: int) -> tuple[str, str]:
    """Find out how this node's workers can start, now that the driver is connected, and have it so.

    Returns:
        The mode (`nil`, `job` or `plain`), and why it is not the one before.
    """
    found = known(home)
    if found is None:
        from ray.exceptions import GetTimeoutError

        try:
            found = _find(session_dir, raylet_pid)
        except GetTimeoutError:
            return _go_on(session_dir, raylet_pid)
        if found is None:
            return "nil", ""  # no worker was forked for another reason, so nothing was learnt
        folder = home / "fork"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            temporary = folder / f".{os.getpid()}"
            temporary.write_text(json.dumps({"mode": found[0], "reason": found[1], "at": time.strftime("%F %T")}))
            temporary.replace(folder / f"{key()}.json")
        except OSError:
            pass  # the next cluster tries again
    elif found[0] != "nil":
        node.decide(session_dir, raylet_pid, mode=found[0], reason=found[1])
    return found


def _go_on(session_dir: str, raylet_pid: int) -> tuple[str, str]:
    """Without an answer. Where forked workers gave none, they may never do so: in doubt, the plain way."""
    if not node.starts_of(session_dir)[raylet_pid].forked:
        return "nil", ""
    reason = f"its self-test did not end within {TRY_S:.0f} s"
    node.decide(session_dir, raylet_pid, mode="plain", reason=reason)
    return "plain", reason


def _find(session_dir: str, raylet_pid: int) -> tuple[str, str] | None:
    problem = try_workers(session_dir, raylet_pid)
    if problem is None:
        return "nil", ""
    if not node.starts_of(session_dir)[raylet_pid].forked:
        return None
    node.decide(session_dir, raylet_pid, mode="job")
    again = try_workers(session_dir, raylet_pid)
    if again is None:
        return "job", problem
    node.decide(session_dir, raylet_pid, mode="plain", reason=f"its self-test failed: {again}")
    return "plain", f"its self-test failed: {again}"


class _Probe:
    """An actor that says what it is."""

    def facts(self, data: bytes) -> dict[str, Any]:
        import random
        import uuid

        import ray

        context = ray.get_runtime_context()
        return {
            "pid": os.getpid(),
            "group": os.getpgid(0),
            "job": context.get_job_id(),
            "worker": context.get_worker_id(),
            "random": random.random(),
            "uuid": str(uuid.uuid4()),
            "object": ray.put(1).hex(),
            "back": data + b"!",
        }


def try_workers(session_dir: str, raylet_pid: int) -> str | None:
    """Start two actors and look at them. Returns what is wrong, or None.

    Raises:
        GetTimeoutError: (Ray's) they did not answer in time, which says nothing.
    """
    import ray
    from ray.exceptions import GetTimeoutError, RayError

    probe = ray.remote(_Probe)
    data = bytes(200_000)
    actors = [probe.options(num_cpus=0, max_restarts=0).remote() for _ in range(2)]
    try:
        facts = ray.get([actor.facts.remote(data) for actor in actors], timeout=TRY_S)
        problem = judge(facts, ray.get_runtime_context().get_job_id(), data)
        if problem is None:
            ray.kill(actors[0])
            if ray.get(actors[1].facts.remote(data), timeout=TRY_S)["pid"] != facts[1]["pid"]:
                return "ending one worker moved another"
            if not node.starts_of(session_dir)[raylet_pid].forked:
                return "no worker was forked"
        return problem
    except GetTimeoutError:
        raise
    except RayError as error:
        return " ".join(str(error).split())[:300] or type(error).__name__
    finally:
        for actor in actors:
            ray.kill(actor)


def judge(facts: list[dict[str, Any]], job: str, data: bytes) -> str | None:
    """What two workers said of themselves: is it what Ray expects?"""
    for one in facts:
        if one["job"] != job:
            return f"a worker believes to belong to job {one['job']} instead of {job}"
        if one["group"] != one["pid"]:
            return "a worker shares its process group"
        if one["back"] != data + b"!":
            return "a value came back changed"
    for name in ("pid", "worker", "random", "uuid", "object"):
        if len({one[name] for one in facts}) != len(facts):
            return f"two workers have the same {name}"
    return None
