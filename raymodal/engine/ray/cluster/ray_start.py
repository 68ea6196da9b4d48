"""`raymodal cluster node`: Ray's own `ray start`, with the template's launcher in it.

For the nodes of clusters that we do not start ourselves. Ray's command runs in this process; its node is given the launcher
as its worker command, and once its raylet runs, a template is started beside it, which ends with it. Whatever does not fit
leaves `ray start` as it is.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from raymodal.config import settings
from raymodal.engine.ray.cluster.node import TESTED_RAY
from raymodal.engine.ray.template import node as template
from raymodal.engine.ray.template import selftest
from raymodal.engine.ray.template.node import FORKED_LABEL


def why_plain(arguments: Sequence[str]) -> str | None:
    """Why workers of this node are to start as Ray starts them, or None."""
    import ray

    if not template.is_supported():
        return "workers are forked on Linux only"
    if not settings().fork:
        return "RAYMODAL_FORK=0"
    if not ray.__version__.startswith(TESTED_RAY):
        return f"this Ray is {ray.__version__}, and forked workers are tested with {TESTED_RAY}x"
    if any(argument.startswith("--enable-resource-isolation") for argument in arguments):
        return "resource isolation gives each worker limits of its own"
    return None


def run(arguments: Sequence[str], say: Callable[[str], None]) -> int:
    """Run `ray start` with these arguments. With --block it returns when Ray has ended."""
    scripts: Any = importlib.import_module("ray.scripts.scripts")
    reason = why_plain(arguments)
    if reason is not None:
        say(f"Workers of this node start as Ray starts them: {reason}.")
    with contextlib.nullcontext() if reason is not None else _with_template(say):
        try:
            scripts.start.main(list(arguments), prog_name="ray start")
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:  # noqa: BLE001 -- Ray's own, shown as `ray start` shows it
            traceback.print_exc()
            return 1
    return 0


def _apply_known(session_dir: str, raylet_pid: int) -> None:
    """What the self-test found out on this machine holds for this node too. (It takes a driver, so it is not made here.)"""
    found = selftest.known(settings().home)
    if found is not None and found[0] != "nil":
        template.decide(session_dir, raylet_pid, mode=found[0], reason=found[1])


@contextlib.contextmanager
def _with_template(say: Callable[[str], None]) -> Iterator[None]:
    """While this lasts, nodes have the launcher, and a template beside their raylet."""
    import ray._private.node as ray_node
    import ray._private.services as services

    plain_node = ray_node.Node

    class _ForkingNode(plain_node):  # type: ignore[misc, valid-type]
        def __init__(self, ray_params: Any, **kwargs: Any) -> None:
            ray_params.setup_worker_path = template.LAUNCHER
            ray_params.labels = {**(ray_params.labels or {}), FORKED_LABEL: "forked"}
            super().__init__(ray_params, **kwargs)

        def start_raylet(self, *args: Any, **kwargs: Any) -> None:
            plain_start = services.start_ray_process

            def start(command: list[str], *args: Any, **kwargs: Any) -> Any:
                started = plain_start(command, *args, **kwargs)
                environ = {**os.environ, **(kwargs.get("env_updates") or {})}
                try:
                    template.start(self._session_dir, started.process.pid, environ)
                    _apply_known(self._session_dir, started.process.pid)
                except OSError as error:
                    say(f"Workers of this node start as Ray starts them: the template did not start ({error}).")
                return started

            services.start_ray_process = start
            try:
                super().start_raylet(*args, **kwargs)
            finally:
                services.start_ray_process = plain_start

    ray_node.Node = _ForkingNode
    try:
        yield
    finally:
        ray_node.Node = plain_node
