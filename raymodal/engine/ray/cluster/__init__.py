"""Which Ray cluster this process uses, and the start and the end of one of our own.

The order: `--address`, then `RAY_ADDRESS`, then the cluster that `raymodal cluster up` keeps (recorded in
`RAYMODAL_HOME`), else one of our own. Never Ray's discovery by temporary folder, which joins strangers. A connection
that the program has made itself (`ray.init`, or because it runs in a Ray job or worker) is used as it is and never
closed.

A cluster of our own listens on loopback only, asks for Ray's token, and ends with this process, however this process
ends: Linux kills Ray's daemons with their parent, and a one-line shell waits for our end to clear up the rest.

It starts in about a third of the time of a plain `ray.init` (measured, Ray 2.60, two cores: 1.1 s against 3.5 s), by
leaving out what a single program never uses. That takes names which Ray does not promise (`node` holds them all),
so a failure of any kind falls back to a plain `ray.init`.

    machine                        what the machine must offer: facts in, problems out
    own, node                      starting one; all private names of Ray
    attach, auth                   connecting to one that runs; its token, put back afterwards
    kept, record, keeper, keep     the one that `raymodal cluster up` keeps
    look, ray_start                `raymodal cluster status`; `raymodal cluster node`
    bytecode, fill, late           compiled modules; modules that Ray need not load
    ending, quiet                  leaving nothing behind; Ray's chatter, handlers and variables
"""

from __future__ import annotations

import atexit
import logging
import threading
from typing import Any

from raymodal.config import Settings
from raymodal.engine.ray.cluster import bytecode, kept, late
from raymodal.engine.ray.cluster.attach import attach, attach_kept
from raymodal.engine.ray.cluster.connection import Cluster, Connection, gcs_address, is_initialized, on_lasting_thread
from raymodal.engine.ray.cluster.own import start_own

__all__ = ["Cluster", "connect", "end_soon", "shutdown"]

logger = logging.getLogger("raymodal")

_lock = threading.RLock()
_connection: Connection | None = None
_atexit_registered = False
_is_ending = False


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
            if is_initialized():
                return _connection.cluster
            shutdown()  # somebody else called `ray.shutdown`
        if is_initialized():
            cluster = Cluster(address=gcs_address(), is_own=False, is_kept=False)
            _connection = Connection(cluster, close=lambda: None)
            return cluster
        # Both before the first connection, so that Python runs our exit before Ray's own.
        with bytecode.for_driver(settings.home), late.left_out():
            import ray  # noqa: F401
        if not _atexit_registered:
            atexit.register(shutdown)
            _atexit_registered = True
        _connection = on_lasting_thread(lambda: _open(settings, log_monitor, ray_kwargs))
        return _connection.cluster


def shutdown() -> None:
    """Undo `connect`: end a cluster of our own, leave any other. Calling it again does nothing."""
    global _connection
    with _lock:
        connection, _connection = _connection, None
        if connection is None:
            return
        if _is_ending and connection.leave is not None:
            connection.leave()
        else:
            connection.close()


def end_soon() -> None:
    """This process ends by `os._exit` once its exit handlers have run: `shutdown` need not put it in order."""
    global _is_ending
    _is_ending = True


def _open(settings: Settings, log_monitor: bool, ray_kwargs: dict[str, Any]) -> Connection:
    with late.left_out():  # connecting imports more of Ray
        return _open_one(settings, log_monitor, ray_kwargs)


def _open_one(settings: Settings, log_monitor: bool, ray_kwargs: dict[str, Any]) -> Connection:
    address = settings.address or settings.ray_address
    if address is None or address != "local":
        record, note = kept.find(settings.home)
        if note is not None:
            logger.warning(note)
        if record is not None and address in (None, record.address):
            return attach_kept(record, settings.home)
    if address is None or address == "local":
        return start_own(settings, log_monitor, ray_kwargs)
    return attach(address)
