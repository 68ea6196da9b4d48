"""Keeps a few generic workers ready on each node whose workers are forked, for as long as an app runs.

Ray itself starts workers early (`PrestartWorkers`, Ray 2.60): an internal call of the raylet, so any failure ends the
keeping and nothing else; containers then wait for their fork.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import ray

from raymodal.engine.ray.template.node import FORKED_LABEL
from raymodal.logic.warm import KEEP_S, Warm, ready_target

logger = logging.getLogger("raymodal")

CALL_S = 5.0
LOOK_S = 30.0
"""How often new nodes are looked for."""


class WarmWorkers:
    """Runs on the controller's loop.

    Args:
        workers, memory_mib: see `logic.warm.ready_target`.
    """

    def __init__(self, workers: int | None, memory_mib: int) -> None:
        self._workers = workers
        self._memory_mib = memory_mib
        self._nodes: dict[str, tuple[str, Warm]] = {}
        self._woken = asyncio.Event()
        self._stubs: dict[str, Any] = {}

    def started(self) -> None:
        """A container is being started. Ray decides where: with several nodes, each is believed to have started it."""
        now = time.monotonic()
        for _, warm in self._nodes.values():
            warm.started(now)
        self._woken.set()

    def has_nodes(self) -> bool:
        """Whether any node forks its workers, as far as is known."""
        return bool(self._nodes)

    def node_ids(self) -> list[str]:
        """Nodes that fork their workers."""
        return list(self._nodes)

    async def run(self) -> None:
        """Until cancelled."""
        try:
            looked_at = -LOOK_S
            while True:
                now = time.monotonic()
                if now - looked_at >= LOOK_S:
                    looked_at = now
                    self._look(await asyncio.to_thread(ray.nodes))
                for address, warm in self._nodes.values():
                    count = warm.missing(now)
                    if count:
                        await asyncio.to_thread(self._prestart, address, count)
                wake = min((warm.next_at(now) for _, warm in self._nodes.values()), default=now + LOOK_S)
                self._woken.clear()
                try:
                    async with asyncio.timeout(max(0.05, min(wake, looked_at + LOOK_S) - time.monotonic())):
                        await self._woken.wait()
                except TimeoutError:
                    pass
        except asyncio.CancelledError:
            raise
        except Exception as error:  # noqa: BLE001 - an internal call of another Ray, or a raylet that has gone
            logger.debug("no workers are kept ready: %r", error)

    def _look(self, nodes: list[dict[str, Any]]) -> None:
        alive = {}
        for node in nodes:
            if not node["Alive"] or node.get("Labels", {}).get(FORKED_LABEL) != "forked":
                continue
            found = self._nodes.get(node["NodeID"])
            if found is None:
                total = node["Resources"]
                target = ready_target(
                    self._workers, self._memory_mib, total.get("CPU", 0.0), int(total.get("memory", 0)) >> 20
                )
                at_once = max(1, int(total.get("CPU", 1)))
                found = (f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}", Warm(target, at_once))
            alive[node["NodeID"]] = found
        self._nodes = alive

    def _prestart(self, address: str, count: int) -> None:
        prestart(address, count, KEEP_S, self._stubs)


def prestart(address: str, count: int, keep_s: float, stubs: dict[str, Any] | None = None) -> None:
    """Have a raylet start workers for no particular job, each kept for so long if nobody takes it.

    Raises:
        Exception: Ray has no such call any more, or the raylet does not answer.
    """
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import common_pb2, node_manager_pb2, node_manager_pb2_grpc

    stubs = {} if stubs is None else stubs
    if address not in stubs:
        stubs[address] = node_manager_pb2_grpc.NodeManagerServiceStub(init_grpc_channel(address))
    request = node_manager_pb2.PrestartWorkersRequest(
        language=common_pb2.Language.PYTHON, num_workers=count, keep_alive_duration_secs=int(keep_s)
    )
    stubs[address].PrestartWorkers(request, timeout=CALL_S)
