"""Starts the cluster that `raymodal cluster up` keeps, then becomes `keep.py`, which watches over it.

Its own session, no terminal, no ties to whoever ran `up`: only a pipe on which it reports. Its one argument is JSON, see `kept._run_keeper`.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raymodal.config import Settings, settings
from raymodal.engine.ray.cluster import auth, bytecode, record
from raymodal.engine.ray.cluster.ending import (
    SESSION_VARIABLE,
    hold_session,
    kill,
    members,
    start_watchdog,
    sweep,
)
from raymodal.engine.ray.cluster.machine import check_machine, choose_tmpdir, gather_facts, store_size
from raymodal.engine.ray.cluster.node import half_started, own_node
from raymodal.engine.ray.cluster.own import OWN_ENVIRONMENT, SYSTEM_CONFIG
from raymodal.engine.ray.cluster.quiet import changed_environment, quiet_ray
from raymodal.exception import Error, ExecutionError

_KEEP = str(Path(__file__).with_name("keep.py"))


def main() -> None:
    """Start, report, keep."""
    plan = json.loads(sys.argv[1])
    report, lock = int(plan["report"]), int(plan["lock"])
    for name in ("RAY_ADDRESS", "RAYMODAL_ADDRESS", "RAYMODAL_RAY_ADDRESS", SESSION_VARIABLE):
        os.environ.pop(name, None)
    now = settings()
    os.chdir("/")  # where the terminal was may be a folder that somebody wants to remove
    notes: list[str] = []
    try:
        node, kept, leftovers = _start(now, plan, notes)
    except BaseException as error:
        _tell(report, {"error": str(error) if isinstance(error, Error) else repr(error)})
        raise
    watchdog = start_watchdog(kept.session, kept.session_dir)
    held = getattr(node, "held", None)
    if held is None:
        held = hold_session(kept.session_dir)  # of Ray's plain start
    record.write(now.home, kept)
    for folder in leftovers:
        shutil.rmtree(folder, ignore_errors=True)
    if not _tell(report, {"record": asdict(kept), "notes": notes}):
        # Whoever ran `up` has gone before it was told: nobody wants this cluster.
        record.remove(now.home)
        node.kill_all_processes(check_alive=False, allow_graceful=False)
        kill(members(kept.session, kept.session_dir))
        return  # the watchdog does the rest
    pipe = watchdog.stdin.fileno() if watchdog is not None and watchdog.stdin is not None else -1
    facts = {
        "vital": [kept.processes[name] for name in ("gcs_server", "raylet")],
        "session": kept.session,
        "session_dir": kept.session_dir,
        "record": str(now.home / record.FILE),
        "watchdog": pipe,
        "watchdog_pid": watchdog.pid if watchdog is not None else -1,
    }
    _become(facts, [fd for fd in (lock, held, pipe) if fd is not None and fd >= 0])


def _become(facts: dict[str, Any], kept_open: list[int]) -> None:
    """Go on as `keep.py`: the same process, still the daemons' parent, with a tenth of the memory."""
    for fd in kept_open:
        os.set_inheritable(fd, True)
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept_open:
            with contextlib.suppress(OSError):
                os.close(int(name))
    os.execv(sys.executable, [sys.executable, "-I", "-S", _KEEP, json.dumps(facts)])


def _tell(report: int, message: dict[str, Any]) -> bool:
    try:
        with os.fdopen(report, "w") as pipe:
            json.dump(message, pipe)
    except OSError:
        return False
    return True


def _start(now: Settings, plan: dict[str, Any], notes: list[str]) -> tuple[Any, record.Record, list[str]]:
    facts = gather_facts(choose_tmpdir(now))
    for problem in check_machine(facts):
        if problem.is_fatal:
            raise ExecutionError(problem.text)
        notes.append(problem.text)
    sweep(facts.tmpdir)
    with bytecode.for_driver(now.home):
        import ray
        from ray._private import node as ray_node
        from ray._private.parameter import RayParams

    if now.dashboard:
        _check_dashboard()
    mode, token_path = auth.prepare_token(now.home)
    session = f"kept-{os.getpid()}-{random.getrandbits(48):012x}"
    environment = {**OWN_ENVIRONMENT, SESSION_VARIABLE: session, **bytecode.environment(now.home)}

    def params() -> Any:
        return RayParams(
            node_ip_address="127.0.0.1",
            num_cpus=plan.get("num_cpus"),
            num_gpus=plan.get("num_gpus"),
            memory=plan.get("memory"),
            object_store_memory=plan.get("object_store_memory") or store_size(facts),
            temp_dir=facts.tmpdir,
            include_dashboard=now.dashboard,
            dashboard_host="127.0.0.1",
            _system_config=dict(SYSTEM_CONFIG),
        )

    def make(ray_params: Any) -> Any:
        return ray_node.Node(ray_params, head=True, shutdown_at_exit=False, spawn_reaper=True)

    leftovers: list[str] = []
    is_forked = now.fork
    with quiet_ray():
        try:
            # The monitor answers `ray status`; the log monitor carries what plain Ray programs print.
            with own_node(environment, True, now.dashboard, now.fork, monitor=True):
                node = make(params())
        except Exception as error:  # noqa: BLE001 -- whatever it is, plain Ray is the answer
            notes.append(f"The fast start failed ({' '.join(str(error).split())[:200]}); Ray was started plainly.")
            for half in half_started:
                with contextlib.suppress(Exception):
                    leftovers.append(str(half.get_session_dir_path()))
                    half.let_go()
                    half.kill_all_processes(check_alive=False, allow_graceful=False)
            half_started.clear()
            is_forked = False
            with changed_environment(environment):
                node = make(params())
    processes = {name: infos[0].process.pid for name, infos in node.all_processes.items() if infos}
    return (
        node,
        record.Record(
            address=str(node.gcs_address),
            session_dir=str(node.get_session_dir_path()),
            session=session,
            keeper=os.getpid(),
            ray=ray.__version__,
            python=".".join(map(str, sys.version_info[:3])),
            machine=record.machine(),
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            processes=processes,
            auth=mode,
            token_path=token_path,
            dashboard=str(node.address_info.get("webui_url") or "") or None,
            code=record.fingerprint(),
            fork=is_forked,
        ),
        leftovers,
    )


def _check_dashboard() -> None:
    from ray._private.utils import get_dashboard_dependency_error

    missing = get_dashboard_dependency_error()
    if missing is not None:
        raise ExecutionError(
            f"The dashboard needs packages that are not installed ({missing}): `pip install 'ray[default]'`, or leave "
            "--dashboard out."
        )
