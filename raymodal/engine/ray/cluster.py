"""Which Ray cluster this process uses, and the start and the end of one of our own.

The order: `--address`, then `RAY_ADDRESS`, then the cluster that `raymodal cluster up` keeps (recorded in
`RAYMODAL_HOME`), else one of our own. Never Ray's discovery by temporary folder, which joins strangers. A connection
that the program has made itself (`ray.init`, or because it runs in a Ray job or worker) is used as it is and never
closed.

A cluster of our own listens on loopback only, asks for Ray's token, and ends with this process, however this process
ends: Linux kills Ray's daemons with their parent, and a one-line shell waits for our end to clear up the rest.

It starts in about a third of the time of a plain `ray.init` (measured, Ray 2.60, two cores: 1.1 s against 3.5 s), by
leaving out what a single program never uses. That takes names which Ray does not promise (`_OwnNode` holds them all),
so a failure of any kind falls back to a plain `ray.init`.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import fcntl
import importlib
import importlib.util
import json
import logging
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from raymodal.config import Settings
from raymodal.engine.ray.template import node as template
from raymodal.exception import AuthError, ConnectionError, ExecutionError, InvalidError, VersionError
from raymodal.plan.resources import ACCELERATOR_LABEL, NodeFacts

logger = logging.getLogger("raymodal")

T = TypeVar("T")

_TESTED_RAY = "2.60."

# The figures with which a lost node of our own is noticed in 5-9 s instead of 15-65 (DATA_PATH 3), and small calls are
# 15-40 % faster (DATA_PATH 1). Given as Ray's system configuration: no environment variable of the user's is touched.
_SYSTEM_CONFIG: dict[str, Any] = {
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 1500,
    "health_check_failure_threshold": 3,
    "worker_niceness": 0,
    "enable_metrics_collection": False,
}
_OWN_ENVIRONMENT = {
    # A function without gpu= must not see the GPUs; this is Ray's older behaviour.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",
    # Under `uv run`, Ray would build the driver's environment again for every worker.
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
}
_SESSION_VARIABLE = "RAYMODAL_SESSION"
_LOCK_FILE = "raymodal.lock"

_MIB = 1 << 20
_SMALLEST_STORE = 76 * _MIB  # Ray refuses less than 75 MiB
# <tmpdir>/session_<date>_<time>_<microseconds>_<pid>/sockets/plasma_store has to fit into the 107 bytes of a socket's
# path.
_LONGEST_TMPDIR = 107 - len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")


# ---- What the machine must offer: facts in, problems out.


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
    if len(os.fsencode(facts.tmpdir)) > _LONGEST_TMPDIR:
        problems.append(
            Problem(
                f"The folder {facts.tmpdir} is too deep for Ray's sockets (at most {_LONGEST_TMPDIR} bytes): set "
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


def explain_version_mismatch(text: str) -> str | None:
    """One line out of Ray's message about differing versions; None when `text` is not that message."""
    if "ersion mismatch" not in text:
        return None
    rays = re.findall(r"Ray:\s*(\S+)", text)
    pythons = re.findall(r"Python:\s*(\S+)", text)
    if len(rays) < 2 or len(pythons) < 2:
        return " ".join(text.split())
    return (
        f"The cluster runs Python {pythons[0]} with Ray {rays[0]}, this program Python {pythons[1]} with "
        f"Ray {rays[1]}. Functions travel between the two as bytecode, so run both on the same versions."
    )


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


def _choose_tmpdir(settings: Settings) -> str:
    """A short folder for Ray's sockets and logs that nobody else can enter."""
    if settings.tmpdir:
        return os.path.abspath(settings.tmpdir)
    name = f"raymodal-{os.getuid()}"
    for parent in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):
        path = os.path.join(parent, name)
        if len(os.fsencode(path)) > _LONGEST_TMPDIR or not os.access(parent, os.W_OK):
            continue
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        info = os.lstat(path)
        if info.st_uid == os.getuid() and os.path.isdir(path) and not os.path.islink(path):
            os.chmod(path, 0o700)
            return path
    return tempfile.mkdtemp(prefix="raymodal-")


# ---- The connection.


@dataclass(frozen=True)
class Cluster:
    """The cluster that this process is connected to."""

    address: str
    is_own: bool
    """Started by this process, and ending with it."""
    is_kept: bool
    """The one that `raymodal cluster up` keeps."""
    session_dir: str | None = None

    def nodes(self) -> list[NodeFacts]:
        """The nodes that are alive now, with what they hold in all (not what is free)."""
        import ray

        return [
            NodeFacts(
                node_id=node["NodeID"],
                cpus=node["Resources"].get("CPU", 0.0),
                memory_bytes=int(node["Resources"].get("memory", 0)),
                gpus=node["Resources"].get("GPU", 0.0),
                accelerator=node.get("Labels", {}).get(ACCELERATOR_LABEL),
            )
            for node in ray.nodes()
            if node["Alive"]
        ]


@dataclass
class _Connection:
    """What `shutdown` has to undo."""

    cluster: Cluster
    close: Callable[[], None]


_lock = threading.RLock()
_connection: _Connection | None = None
_atexit_registered = False


def connect(settings: Settings, *, log_monitor: bool = False, **ray_kwargs: Any) -> Cluster:
    """Connect this process to its cluster, starting one of our own where none is named. A second call returns the
    first's.

    Args:
        settings: says which cluster.
        log_monitor: also start Ray's log monitor on a cluster of our own. Containers on this machine hand us their
            output themselves (`logs.attach_output`), and the monitor costs 0.4 s of the start.
        ray_kwargs: for a cluster of our own, as in `ray.init`: `num_cpus`, `num_gpus`, `labels`, `resources`, ...

    Raises:
        ConnectionError: nothing answers at the address.
        VersionError: the cluster runs another Python or Ray.
        AuthError: the cluster wants a token that we do not have.
        ExecutionError: this machine cannot run Ray; the message says why.
    """
    global _connection, _atexit_registered
    with _lock:
        if _connection is not None:
            if _is_initialized():
                return _connection.cluster
            shutdown()  # somebody else called `ray.shutdown`
        if _is_initialized():
            cluster = Cluster(address=_gcs_address(), is_own=False, is_kept=False)
            _connection = _Connection(cluster, close=lambda: None)
            return cluster
        # Both before the first connection, so that Python runs our exit before Ray's own.
        with _bytecode_for_driver(settings.home):
            import ray  # noqa: F401
        if not _atexit_registered:
            atexit.register(shutdown)
            _atexit_registered = True
        _connection = _on_lasting_thread(lambda: _open(settings, log_monitor, ray_kwargs))
        return _connection.cluster


def shutdown() -> None:
    """Undo `connect`: end a cluster of our own, leave any other. Calling it again does nothing."""
    global _connection
    with _lock:
        connection, _connection = _connection, None
        if connection is not None:
            connection.close()


def _open(settings: Settings, log_monitor: bool, ray_kwargs: dict[str, Any]) -> _Connection:
    address = settings.address or settings.ray_address
    if address is None:
        kept = _kept_address(settings.home)
        if kept is not None:
            return _attach(kept, is_kept=True)
    if address is None or address == "local":
        return _start_own(settings, log_monitor, ray_kwargs)
    return _attach(address, is_kept=False)


def _is_initialized() -> bool:
    """Whether this process is connected to Ray already, without importing Ray to find out."""
    ray = sys.modules.get("ray")
    return bool(ray is not None and hasattr(ray, "is_initialized") and ray.is_initialized())


def _gcs_address() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)


def _on_lasting_thread(start: Callable[[], T]) -> T:
    """Run `start` on a thread that lives as long as the process.

    Linux kills Ray's daemons when the *thread* that started them ends (PR_SET_PDEATHSIG), so a cluster that is
    started on a worker thread would die under the program's hands.
    """
    if threading.current_thread() is threading.main_thread():
        return start()
    done = threading.Event()
    box: list[Any] = []

    def run() -> None:
        try:
            box.append((True, start()))
        except BaseException as error:  # noqa: BLE001 -- handed to the caller below
            box.append((False, error))
        done.set()
        threading.Event().wait()

    threading.Thread(target=run, name="raymodal-ray", daemon=True).start()
    done.wait()
    succeeded, value = box.pop()
    if not succeeded:
        raise value
    return value  # type: ignore[no-any-return]


# ---- A cluster of the user's, or the kept one.


def _kept_address(home: Path) -> str | None:
    """The address of the kept cluster, if there is one and it answers."""
    try:
        record = json.loads((home / "cluster.json").read_text())
        address = str(record["address"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return address if _answers(address, timeout_s=0.5) else None


def _answers(address: str, timeout_s: float) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except (OSError, ValueError):
        return False
    return True


def _attach(address: str, *, is_kept: bool) -> _Connection:
    import ray
    from ray.exceptions import AuthenticationError

    if "://" in address:
        raise InvalidError(
            f"{address!r} is an address of Ray Client; give the cluster's own address, host:port (6379 by default)."
        )
    # Ray itself keeps trying for 40 s. "auto" is the user's own wish for Ray's discovery.
    if address != "auto" and not _answers(address, timeout_s=5.0):
        raise ConnectionError(
            f"No Ray cluster answers at {address}. Start it (`ray start --head`), correct --address or RAY_ADDRESS, "
            "or leave both out to run on this machine."
        )
    restore = _keep_sigterm_handler()
    try:
        with _quiet_ray(), _loopback_kept(address):
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=True)
    except (AuthenticationError, RuntimeError, OSError, ValueError) as error:
        ray.shutdown()
        mismatch = explain_version_mismatch(str(error))
        if mismatch is not None:
            raise VersionError(mismatch) from error
        if isinstance(error, AuthenticationError) or "token" in str(error).lower():
            raise AuthError(
                f"The cluster at {address} wants a token: put it into ~/.ray/auth_token and set "
                f"RAY_AUTH_MODE=token. ({error})"
            ) from error
        raise ConnectionError(f"Connecting to the Ray cluster at {address} failed: {error}") from error
    finally:
        restore()
    return _Connection(Cluster(address=_gcs_address(), is_own=False, is_kept=is_kept), close=ray.shutdown)


@contextlib.contextmanager
def _loopback_kept(address: str) -> Iterator[None]:
    """Let Ray connect to 127.0.0.1 as told: it replaces loopback by the machine's outer address, where our clusters
    do not listen.
    """
    from ray._private import services

    host = address.rpartition(":")[0]
    theirs = getattr(services, "resolve_ip_for_localhost", None)
    if theirs is None or not (host == "localhost" or host.startswith("127.")):
        yield
        return
    services.resolve_ip_for_localhost = lambda host: "127.0.0.1" if host == "localhost" else host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = theirs


# ---- A cluster of our own.


def _start_own(settings: Settings, log_monitor: bool, ray_kwargs: dict[str, Any]) -> _Connection:
    import ray

    facts = gather_facts(_choose_tmpdir(settings))
    for problem in check_machine(facts):
        if problem.is_fatal:
            raise ExecutionError(problem.text)
        logger.warning(problem.text)
    _sweep(facts.tmpdir)
    session = f"{os.getpid()}-{random.getrandbits(48):012x}"
    environment = {**_OWN_ENVIRONMENT, _SESSION_VARIABLE: session, **_bytecode_environment(settings.home)}
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
        "_system_config": {**_SYSTEM_CONFIG, **ray_kwargs.get("_system_config", {})},
    }
    auth_mode = os.environ.get("RAY_AUTH_MODE")
    restore_sigterm = _keep_sigterm_handler()
    leftovers: list[str] = []
    try:
        try:
            with _quiet_ray(), _own_node(environment, log_monitor, settings.dashboard, settings.fork):
                ray.init(**arguments)
        except Exception as error:  # noqa: BLE001 -- whatever it is, plain Ray is the answer
            logger.debug("the fast start failed, starting Ray plainly: %r", error)
            leftovers = _clear_up_failed_start(session)
            with _quiet_ray(), _environment(environment):
                ray.init(**arguments)
    except Exception as error:
        _clear_up_failed_start(session)
        _restore_auth_mode(auth_mode)
        raise ExecutionError(f"Ray did not start on this machine: {error} (its logs: {facts.tmpdir})") from error
    finally:
        restore_sigterm()
    from ray._private import worker as ray_worker

    node = ray_worker._global_node
    session_dir = str(node.get_session_dir_path())
    held = _hold_session(session_dir)
    watchdog = _start_watchdog(session, session_dir)

    def close() -> None:
        workers = [worker for raylet in _raylets(node) for worker in _descendants(raylet)]
        with contextlib.suppress(Exception):
            ray.shutdown()
        _kill(workers)
        _kill(_processes_of(session))
        for folder in (session_dir, *leftovers):
            shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)
        _stop_watchdog(watchdog)
        _restore_auth_mode(auth_mode)

    return _Connection(Cluster(_gcs_address(), is_own=True, is_kept=False, session_dir=session_dir), close)


def _clear_up_failed_start(session: str) -> list[str]:
    """End what a start that failed has begun.

    Returns:
        The folders of its sessions, to be removed again at the end: Ray makes an empty one anew.
    """
    import ray

    with contextlib.suppress(Exception):
        ray.shutdown()
    folders = []
    for node in _half_started:
        with contextlib.suppress(Exception):
            folders.append(str(node.get_session_dir_path()))
            node.kill_all_processes(check_alive=False, allow_graceful=False)
            shutil.rmtree(folders[-1], ignore_errors=True)
    _half_started.clear()
    _kill(_processes_of(session))
    return folders


def _restore_auth_mode(before: str | None) -> None:
    """Ray turns token authentication on for the whole process; a later connection to a cluster without it must work
    again.
    """
    if before is None and os.environ.pop("RAY_AUTH_MODE", None) is not None:
        with contextlib.suppress(Exception):
            importlib.import_module("ray._raylet").Config.initialize("")


_half_started: list[Any] = []

_STAND_IN_AGENT = """\
# In the place of Ray's dashboard agent, which the raylet wants as a child: ends with the raylet, at the latest. Not by
# Ctrl-C in the terminal, since its end is the raylet's, and with it the containers' while they clean up.
trap '' INT HUP QUIT
while kill -0 "$PPID" 2>/dev/null; do sleep 10; done
"""


@contextlib.contextmanager
def _own_node(environment: dict[str, str], log_monitor: bool, dashboard: bool, fork: bool) -> Iterator[None]:
    """While this lasts, `ray.init` starts our kind of node.

    All that relies on Ray's private names is here; FAST_START section 4 has the measurements. Against a plain start:

    - 127.0.0.1 instead of the outer address, which Ray insists on otherwise;
    - no autoscaler monitor, no API server (which Ray starts even without the dashboard, for usage statistics);
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
    if not ray.__version__.startswith(_TESTED_RAY) or shell is None or not sys.platform.startswith("linux"):
        raise NotImplementedError(f"the fast start is tested with Ray {_TESTED_RAY}x on Linux only")
    alive = gcs_pb2.GcsNodeInfo.GcsNodeState.ALIVE
    ports = [
        getattr(_raylet, f"{name}_PORT_NAME") for name in ("METRICS_AGENT", "METRICS_EXPORT", "DASHBOARD_AGENT_LISTEN")
    ]
    runtime_env_port = _raylet.RUNTIME_ENV_AGENT_PORT_NAME
    plain_node, plain_get_node, plain_start = ray_node.Node, services.get_node, services.start_ray_process

    class _OwnNode(plain_node):  # type: ignore[misc, valid-type]
        _template: subprocess.Popen[bytes] | None = None

        def __init__(self, ray_params: Any, **kwargs: Any) -> None:
            _half_started.append(self)
            ray_params.node_ip_address = "127.0.0.1"
            ray_params.no_monitor = True
            ray_params.include_log_monitor = log_monitor
            ray_params.env_vars = {**(ray_params.env_vars or {}), **environment}
            if fork:
                ray_params.setup_worker_path = template.LAUNCHER
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
            port = _free_port()
            self._ray_params.runtime_env_agent_port = port
            _raylet.persist_port(self._session_dir, self._node_id, runtime_env_port, port)

            stand_in = Path(self._session_dir, "stand_in_agent.sh")
            stand_in.write_text(_STAND_IN_AGENT)

            def start(command: list[str], *args: Any, **kwargs: Any) -> Any:
                if not dashboard:
                    agent = f"--dashboard_agent_command={shell} {stand_in}"
                    command = [agent if part.startswith("--dashboard_agent_command=") else part for part in command]
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
            workers = [worker for parent in (*raylets, *self._templates()) for worker in _descendants(parent)]
            for process in processes:
                process.kill()
            _kill(workers)
            for process in processes:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5.0)

        def _templates(self) -> list[int]:
            return [self._template.pid] if self._template is not None else []

    ray_node.Node = _OwnNode
    try:
        yield
        _half_started.clear()
    finally:
        ray_node.Node = plain_node


def _free_port() -> int:
    """A port on loopback below the range that the kernel hands out by itself, so that nobody gets it before Ray's
    agent binds it.
    """
    for _ in range(100):
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError(errno.EADDRINUSE, "no free port between 20000 and 32000")


# ---- Quiet.


@contextlib.contextmanager
def _quiet_ray() -> Iterator[None]:
    """No banner, no tips, no notes about the token: what the user must know is said by us.

    And no C++ stack when this process is told to end: Ray's handler for failing processes also answers SIGTERM with one.

    `warnings` stays as it is: its filters belong to the whole process, and the user's file may set some while we connect
    on another thread.
    """
    from ray._private import ray_constants

    ray_logger = logging.getLogger("ray")
    level = ray_logger.level
    ray_logger.setLevel(logging.ERROR)
    # The constant rather than the variable that it is read from: containers inherit those, and theirs are to stay.
    without_stack = getattr(ray_constants, "RAY_DISABLE_FAILURE_SIGNAL_HANDLER", None)
    if without_stack is not None:
        ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = True
    try:
        yield
    finally:
        if without_stack is not None:
            ray_constants.RAY_DISABLE_FAILURE_SIGNAL_HANDLER = without_stack
        if level > logging.ERROR:
            ray_logger.setLevel(level)


def _keep_sigterm_handler() -> Callable[[], None]:
    """`ray.init` takes SIGTERM over; a program that has its own handler gets it back. (The default one is better off
    with Ray's, which exits in order.)
    """
    if threading.current_thread() is not threading.main_thread():
        return lambda: None
    theirs = signal.getsignal(signal.SIGTERM)
    if theirs in (signal.SIG_DFL, None):
        return lambda: None

    def restore() -> None:
        signal.signal(signal.SIGTERM, theirs)

    return restore


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """Start processes with `changes`. Only for the plain start, which has no parameter for it."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


# ---- Bytecode: half of the start of every process, where it is missing (FAST_START, answer 3).


def _bytecode_folder(home: Path) -> Path | None:
    """Where to keep bytecode for Ray: None if its package has it already."""
    spec = importlib.util.find_spec("ray")
    if spec is None or spec.origin is None or sys.pycache_prefix is not None:
        return None
    source = os.path.join(os.path.dirname(spec.origin), "_private", "worker.py")
    return None if os.path.exists(importlib.util.cache_from_source(source)) else home / "pycache"


def _bytecode_environment(home: Path) -> dict[str, str]:
    folder = _bytecode_folder(home)
    if folder is None:
        return {}
    return {"PYTHONPYCACHEPREFIX": str(folder), "PYTHONDONTWRITEBYTECODE": ""}


@contextlib.contextmanager
def _bytecode_for_driver(home: Path) -> Iterator[None]:
    """The same for this process, while it imports Ray."""
    folder = None if "ray" in sys.modules else _bytecode_folder(home)
    if folder is None:
        yield
        return
    before = sys.pycache_prefix, sys.dont_write_bytecode
    sys.pycache_prefix, sys.dont_write_bytecode = str(folder), False
    try:
        yield
    finally:
        sys.pycache_prefix, sys.dont_write_bytecode = before


# ---- The end, however it comes.

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


def _start_watchdog(session: str, session_dir: str) -> subprocess.Popen[bytes] | None:
    shell = shutil.which("sh")
    if shell is None:
        return None
    with contextlib.suppress(OSError):
        return subprocess.Popen(
            [shell, "-c", _WATCHDOG, "raymodal-watchdog", f"{_SESSION_VARIABLE}={session}", session_dir],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is not for it
        )
    return None


def _stop_watchdog(watchdog: subprocess.Popen[bytes] | None) -> None:
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


def _hold_session(session_dir: str) -> int | None:
    """Lock the session's folder for as long as this process lives, so that nobody sweeps it away. A pid would not do: it
    means nothing in another container that shares the folder.
    """
    try:
        held = os.open(os.path.join(session_dir, _LOCK_FILE), os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return None
    return held


def _sweep(tmpdir: str) -> None:
    """Remove what sessions of dead processes left (the watchdog can be killed too)."""
    for lock in Path(tmpdir).glob(f"session_*/{_LOCK_FILE}"):
        if lock.parent.is_symlink():
            continue
        with contextlib.suppress(OSError), open(lock) as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(lock.parent, ignore_errors=True)


def _raylets(node: Any) -> list[int]:
    with contextlib.suppress(AttributeError):
        return [info.process.pid for info in node.all_processes.get("raylet", ())]
    return []


def _descendants(pid: int) -> list[int]:
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


def _processes_of(session: str) -> list[int]:
    """Processes that carry our session's variable: what workers started and let go of."""
    mark = f"{_SESSION_VARIABLE}={session}".encode()
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if mark in entry.read_bytes():
                found.append(int(entry.parent.name))
    return [pid for pid in found if pid != os.getpid()]


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
