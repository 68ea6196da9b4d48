"""What this process must put up with while it talks to Ray: its chatter, its signal handlers, its variables."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import logging
import os
import signal
import sys
import threading
import types
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def quiet_ray() -> Iterator[None]:
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


def keep_sigterm_handler() -> Callable[[], None]:
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
def changed_environment(changes: dict[str, str]) -> Iterator[None]:
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


def restore_auth_mode(before: str | None) -> None:
    """Ray turns token authentication on for the whole process; a later connection to a cluster without it must work
    again.
    """
    if before is None and os.environ.pop("RAY_AUTH_MODE", None) is not None:
        with contextlib.suppress(Exception):
            importlib.import_module("ray._raylet").Config.initialize("")


def shut_ray_down() -> None:
    """`ray.shutdown`, with no way back meanwhile: for a call that another thread makes just then Ray would join any cluster it finds, and that thread
    would wait for this shutdown, which waits for that thread.
    """
    from ray._private import auto_init_hook

    before = getattr(auto_init_hook, "enable_auto_connect", None)
    auto_init_hook.enable_auto_connect = False
    try:
        _shut_ray_down()
    finally:
        auto_init_hook.enable_auto_connect = before


def _shut_ray_down() -> None:
    """Without importing Ray's compiled graphs (0.03 s) only to end those that nobody has made."""
    import ray

    graphs = "ray.dag.compiled_dag_node"
    if graphs in sys.modules:
        ray.shutdown()
        return
    none = types.ModuleType(graphs)
    none._shutdown_all_compiled_dags = lambda: None  # type: ignore[attr-defined]
    sys.modules[graphs] = none
    try:
        ray.shutdown()
    finally:
        if sys.modules.get(graphs) is none:
            del sys.modules[graphs]


def leave_ray() -> None:
    """For a process that ends right after this, by `os._exit`: tell the cluster that we go, and leave the rest behind.

    `ray.shutdown` begins with that, and then waits up to 0.25 s for an answer to a question that nobody has any more (the
    GCS client's long-poll); so it is done aside, and waited for only as long as telling takes.
    """
    import ray

    atexit.unregister(ray.shutdown)
    aside = threading.Thread(target=shut_ray_down, name="raymodal-leaving", daemon=True)
    aside.start()
    aside.join(0.03)
