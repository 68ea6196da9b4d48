"""Starting a Ray of our own, and ending it."""

from __future__ import annotations

import contextlib
import logging
import os
import random
from collections.abc import Callable
from typing import Any

from raymodal.config import Settings
from raymodal.engine.ray.cluster import auth, bytecode
from raymodal.engine.ray.cluster.connection import Cluster, Connection, gcs_address
from raymodal.engine.ray.cluster.ending import (
    SESSION_VARIABLE,
    descendants,
    hold_session,
    kill,
    processes_of,
    raylets,
    remove_tree,
    start_watchdog,
    stop_watchdog,
    sweep,
)
from raymodal.engine.ray.cluster.machine import check_machine, choose_tmpdir, gather_facts, store_size
from raymodal.engine.ray.cluster.node import half_started, own_node
from raymodal.engine.ray.cluster.quiet import (
    changed_environment,
    keep_sigterm_handler,
    quiet_ray,
    restore_auth_mode,
    shut_ray_down,
)
from raymodal.engine.ray.template import node as template
from raymodal.engine.ray.template import selftest
from raymodal.exception import ExecutionError

logger = logging.getLogger("raymodal")

# The figures with which a lost node of our own is noticed in 5-9 s instead of 15-65 (DATA_PATH 3), and small calls are
# 15-40 % faster (DATA_PATH 1). Given as Ray's system configuration: no environment variable of the user's is touched.
SYSTEM_CONFIG: dict[str, Any] = {
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1500,
    "health_check_failure_threshold": 3,
    "worker_niceness": 0,
    "enable_metrics_collection": False,
}
OWN_ENVIRONMENT = {
    # A function without gpu= must not see the GPUs; this is Ray's older behaviour.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # Under `uv run`, Ray would build the driver's environment again for every worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}


def start_own(settings: Settings, log_monitor: bool, ray_kwargs: dict[str, Any]) -> Connection:
    import ray

    facts = gather_facts(choose_tmpdir(settings))
    for problem in check_machine(facts):
        if problem.is_fatal:
            raise ExecutionError(problem.text)
        logger.warning(problem.text)
    sweep(facts.tmpdir)
    session = f"{os.getpid()}-{random.getrandbits(48):012x}"
    environment = {**OWN_ENVIRONMENT, SESSION_VARIABLE: session, **bytecode.environment(settings.home)}
    arguments: dict[str, Any] = {
        "address": "local",
        "include_dashboard": settings.dashboard,
        "_skip_env_hook": True,  # the hook for `uv run` would rebuild the environment for every worker
        "logging_level": logging.ERROR,
        "log_to_driver": log_monitor,
        "object_store_memory": store_size(facts),
        "_temp_dir": facts.tmpdir,
        "_node_ip_address": "127.0.0.1",
        **ray_kwargs,
        "_system_config": {**SYSTEM_CONFIG, **ray_kwargs.get("_system_config", {})},
    }
    auth_mode = os.environ.get(auth.MODE)
    restore_token: Callable[[], None] = lambda: None  # noqa: E731
    if auth_mode in (None, "token") and auth.TOKEN not in os.environ:
        with contextlib.suppress(OSError):  # Ray says what is wrong
            restore_token = auth.prepare_own()
    restore_sigterm = keep_sigterm_handler()
    leftovers: list[str] = []
    try:
        try:
            with quiet_ray(), own_node(environment, log_monitor, settings.dashboard, settings.fork):
                ray.init(**arguments)
        except Exception as error:  # noqa: BLE001 -- whatever it is, plain Ray is the answer
            logger.debug("the fast start failed, starting Ray plainly: %r", error)
            leftovers = _clear_up_failed_start(session)
            with quiet_ray(), changed_environment(environment):
                ray.init(**arguments)
    except Exception as error:
        _clear_up_failed_start(session)
        restore_token()
        restore_auth_mode(auth_mode)
        raise ExecutionError(f"Ray did not start on this machine: {error} (its logs: {facts.tmpdir})") from error
    finally:
        restore_sigterm()
    from ray._private import worker as ray_worker

    node = ray_worker._global_node
    session_dir = str(node.get_session_dir_path())
    held = getattr(node, "held", None)
    if held is None:
        held = hold_session(session_dir)  # of Ray's plain start
    watchdog = start_watchdog(session, session_dir)
    for raylet in raylets(node):
        if os.path.isdir(template.folder_of(session_dir, raylet)):
            selftest.ensure(settings.home, session_dir, raylet)

    filling = bytecode.fill(settings.home, is_tied=True)

    def close() -> None:
        workers = [worker for raylet in raylets(node) for worker in descendants(raylet)]
        workers += template.workers_of(session_dir)
        with contextlib.suppress(Exception):
            shut_ray_down()
        kill(workers)
        kill(processes_of(session))
        bytecode.stop(filling)
        for folder in (session_dir, *leftovers):
            remove_tree(folder)
        if held is not None:
            os.close(held)
        stop_watchdog(watchdog)
        restore_token()
        restore_auth_mode(auth_mode)

    return Connection(Cluster(gcs_address(), is_own=True, is_kept=False, session_dir=session_dir), close)


def _clear_up_failed_start(session: str) -> list[str]:
    """End what a start that failed has begun.

    Returns:
        The folders of its sessions, to be removed again at the end: Ray makes an empty one anew.
    """
    import ray

    with contextlib.suppress(Exception):
        ray.shutdown()
    folders = []
    for node in half_started:
        with contextlib.suppress(Exception):
            folders.append(str(node.get_session_dir_path()))
            node.let_go()
            node.kill_all_processes(check_alive=False, allow_graceful=False)
    half_started.clear()
    kill(processes_of(session))
    for folder in folders:
        remove_tree(folder)
    return folders
