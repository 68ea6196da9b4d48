"""What a process that is connected to a cluster knows of it, and what it has to undo."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from raymodal.plan.resources import ACCELERATOR_LABEL, NodeFacts

T = TypeVar("T")


@dataclass(frozen=True)
class Cluster:
    """The cluster that this process is connected to."""

    address: str
    is_own: bool
    """Started by this process, and ending with it."""
    is_kept: bool
    """The one that `raymodal cluster up` keeps."""
    session_dir: str | None = None
    """Of one that is ours or kept: whatever lies there goes with the cluster, also if this process cannot clear up."""

    @property
    def is_local(self) -> bool:
        """It is this machine and will never be more: the program's files are there, and no node can join."""
        return self.is_own or self.is_kept

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
class Connection:
    """What `shutdown` has to undo."""

    cluster: Cluster
    close: Callable[[], None]
    leave: Callable[[], None] | None = None
    """What is enough where the process ends right afterwards."""


def is_initialized() -> bool:
    """Whether this process is connected to Ray already, without importing Ray to find out."""
    ray = sys.modules.get("ray")
    return bool(ray is not None and hasattr(ray, "is_initialized") and ray.is_initialized())


def gcs_address() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)


def on_lasting_thread(start: Callable[[], T]) -> T:
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
