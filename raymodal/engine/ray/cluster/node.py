"""Ray's node with a fast start: all that relies on names which Ray does not promise is here.

FAST_START section 4 has the measurements; a failure of any kind falls back to a plain `ray.init`.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raymodal.engine.ray.cluster.ending import descendants, hold_session, kill
from raymodal.engine.ray.template import node as template
from raymodal.engine.ray.template.node import FORKED_LABEL

TESTED_RAY = "2.60."

half_started: list[Any] = []

STAND_IN_AGENT = """\
# In the place of Ray's dashboard agent, which the raylet wants as a child: ends with the raylet, at the latest. Not by
# Ctrl-C in the terminal, since its end is the raylet's, and with it the containers' while they clean up.
trap '' INT HUP QUIT
while kill -0 "$PPID" 2>/dev/null; do sleep 10; done
"""


@contextlib.contextmanager
def own_node(
    environment: dict[str, str], log_monitor: bool, dashboard: bool, fork: bool, monitor: bool = False
) -> Iterator[None]:
    """While this lasts, `ray.init` starts our kind of node.

    All that relies on Ray's private names is here; FAST_START section 4 has the measurements. Against a plain start:

    - 127.0.0.1 instead of the outer address, which Ray insists on otherwise;
    - no autoscaler monitor unless asked for (`ray status` shows what it finds out), no API server (which Ray starts even without the dashboard, for usage statistics);
    - no dashboard agent: the raylet waits for its ports, so they are written for it, and wants it as a child whose end
      would be the raylet's, so a shell that does nothing stands in;
    - the port of the runtime environment agent is chosen here, so that the raylet need not wait for that either;
    - no log monitor unless asked for;
    - readiness is asked for every 20 ms, not every second.
    """
    import ray
    import ray._private.node as ray_node
    import ray._private.services as services
    from ray.core.generated import gcs_pb2

    _raylet: Any = importlib.import_module("ray._raylet")  # compiled: its types do not tell all
    shell = shutil.which("sh")
    if not ray.__version__.startswith(TESTED_RAY) or shell is None or not sys.platform.startswith("linux"):
        raise NotImplementedError(f"the fast start is tested with Ray {TESTED_RAY}x on Linux only")
    alive = gcs_pb2.GcsNodeInfo.GcsNodeState.ALIVE
    ports = [
        getattr(_raylet, f"{name}_PORT_NAME") for name in ("METRICS_AGENT", "METRICS_EXPORT", "DASHBOARD_AGENT_LISTEN")
    ]
    runtime_env_port = _raylet.RUNTIME_ENV_AGENT_PORT_NAME
    plain_node, plain_get_node, plain_start = ray_node.Node, services.get_node, services.start_ray_process

    class _OwnNode(plain_node):  # type: ignore[misc, valid-type]
        held: int | None = None
        _template: subprocess.Popen[bytes] | None = None

        def __init__(self, ray_params: Any, **kwargs: Any) -> None:
            half_started.append(self)
            ray_params.node_ip_address = "127.0.0.1"
            ray_params.no_monitor = not monitor
            ray_params.include_log_monitor = log_monitor
            ray_params.env_vars = {**(ray_params.env_vars or {}), **environment}
            if fork:
                ray_params.setup_worker_path = template.LAUNCHER
                ray_params.labels = {**(ray_params.labels or {}), FORKED_LABEL: "forked"}
            services.get_node = self._get_node
            try:
                super().__init__(ray_params, **kwargs)
            finally:
                services.get_node = plain_get_node

        def _get_node(self, gcs_address: str, node_id: str) -> Any:
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                if self._raylet_process().poll() is not None:
                    raise OSError("the raylet ended while it started")
                nodes = self.get_gcs_client().get_all_node_info()
                mine = [info for known, info in nodes.items() if known.hex() == node_id]
                if mine:
                    if mine[0].state != alive:
                        raise OSError("the raylet left while it started")
                    return plain_get_node(gcs_address, node_id)
                time.sleep(0.02)
            raise OSError("the raylet did not register within 30 s")

        def _raylet_process(self) -> Any:
            return self.all_processes["raylet"][0].process

        def start_head_processes(self) -> None:
            # Before the first process, so that the next start can tell what this one left if it is killed.
            self.held = hold_session(self._session_dir)
            super().start_head_processes()

        def start_api_server(self, **kwargs: Any) -> None:
            if dashboard:
                super().start_api_server(**kwargs)
            else:
                self._webui_url = ""

        def start_raylet(self, *args: Any, **kwargs: Any) -> None:
            if not dashboard:
                for name in ports:
                    _raylet.persist_port(self._session_dir, self._node_id, name, -1)
                self._ray_params.metrics_agent_port = -1
                self._ray_params.dashboard_agent_listen_port = -1
            port = free_port()
            self._ray_params.runtime_env_agent_port = port
            _raylet.persist_port(self._session_dir, self._node_id, runtime_env_port, port)

            stand_in = Path(self._session_dir, "stand_in_agent.sh")
            stand_in.write_text(STAND_IN_AGENT)

            def start(command: list[str], *args: Any, **kwargs: Any) -> Any:
                if not dashboard:
                    agent = f"--dashboard_agent_command={shell} {stand_in}"
                    command = [agent if part.startswith("--dashboard_agent_command=") else part for part in command]
                if fork:
                    command = template.shorten(command, self._session_dir)
                started = plain_start(command, *args, **kwargs)
                if fork:
                    environ = {**os.environ, **(kwargs.get("env_updates") or {})}
                    with contextlib.suppress(OSError):
                        self._template = template.start(self._session_dir, started.process.pid, environ)
                return started

            services.start_ray_process = start
            try:
                super().start_raylet(*args, **kwargs)
            finally:
                services.start_ray_process = plain_start

        def kill_all_processes(
            self, check_alive: bool = True, allow_graceful: bool = False, wait: bool = False
        ) -> None:
            # Ray asks one process after the other to end and waits up to a second for each. By now the driver has taken its
            # leave, the containers have run their exit hooks, and nothing here is to be kept: all at once.
            processes = [info.process for infos in self.all_processes.values() for info in infos]
            if self._template is not None:
                processes.append(self._template)
            raylets = [info.process.pid for info in self.all_processes.get("raylet", ())]
            self.all_processes.clear()
            workers = [worker for parent in (*raylets, *self._templates()) for worker in descendants(parent)]
            for process in processes:
                process.kill()
            kill(workers)
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5.0)

        def let_go(self) -> None:
            if self.held is not None:
                os.close(self.held)
                self.held = None

        def _templates(self) -> list[int]:
            return [self._template.pid] if self._template is not None else []

    ray_node.Node = _OwnNode
    try:
        yield
        half_started.clear()
    finally:
        ray_node.Node = plain_node


def free_port() -> int:
    """A port on loopback below the range that the kernel hands out by itself, so that nobody gets it before Ray's
    agent binds it.
    """
    for _ in range(100):
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(errno.EADDRINUSE, "no free port between 20000 and 32000")
