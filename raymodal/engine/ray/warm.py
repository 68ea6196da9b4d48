"""Keeps a few generic workers ready on each node whose workers are forked, for as long as an app runs.

Ray itself starts workers early (`PrestartWorkers`, Ray 2.60): an internal call of the raylet, so any failure ends the
keeping on that node and nothing else; containers there then wait for their fork.
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


class _Node:
    """The ready workers of one node, and its raylet."""

    def __init__(self, address: str, warm: Warm) -> None:
        self.warm = warm
        self._address = address
        self._stub: Any = None
        self._pids: frozenset[int] = frozenset()  # of its workers, when it was last asked

    async def fill(self, now: float) -> None:
        """Look at what has appeared, and ask for what is missing."""
        if self.warm.target == 0:
            return
        try:
            if self.warm.is_expecting:
                pids = await asyncio.to_thread(self._worker_pids)
                self.warm.appeared(len(pids - self._pids))
                self._pids = pids
            count = self.warm.missing(now)
            if count:
                self._pids = await asyncio.to_thread(self._worker_pids)
                await asyncio.to_thread(self._prestart, count)
        except Exception as error:  # noqa: BLE001 - an internal call of another Ray, or a raylet that has gone
            logger.debug("no more workers are kept ready at %s: %r", self._address, error)
            self.warm = Warm(0)

    def _raylet(self) -> Any:
        if self._stub is None:
            from ray._private.grpc_utils import init_grpc_channel
            from ray.core.generated import node_manager_pb2_grpc

            self._stub = node_manager_pb2_grpc.NodeManagerServiceStub(init_grpc_channel(self._address))
        return self._stub

    def _prestart(self, count: int) -> None:
        """Have the raylet start workers for no particular job, each kept for so long if nobody takes it."""
        from ray.core.generated import common_pb2, node_manager_pb2

        request = node_manager_pb2.PrestartWorkersRequest(
            language=common_pb2.Language.PYTHON, num_workers=count, keep_alive_duration_secs=int(KEEP_S)
        )
        self._raylet().PrestartWorkers(request, timeout=CALL_S)

    def _worker_pids(self) -> frozenset[int]:
        """Of all workers that the raylet knows, busy or idle."""
        from ray.core.generated import node_manager_pb2

        request = node_manager_pb2.GetWorkerPIDsRequest()
        return frozenset(self._raylet().GetWorkerPIDs(request, timeout=CALL_S).pids)


class WarmWorkers:
    """Runs on the controller's loop.

    Args:
        workers, memory_mib: see `logic.warm.ready_target`.
    """

    def __init__(self, workers: int | None, memory_mib: int) -> None:
        self._workers = workers
        self._memory_mib = memory_mib
        self._nodes: dict[str, _Node] = {}
        self._woken = asyncio.Event()

    def started(self) -> None:
        """A container is being started. Ray decides where: with several nodes, each is believed to have started it."""
        now = time.monotonic()
        for node in self._nodes.values():
            node.warm.started(now)
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
                await asyncio.gather(*(node.fill(now) for node in self._nodes.values()))
                wake = min((node.warm.next_at(now) for node in self._nodes.values()), default=now + LOOK_S)
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
                found = _Node(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}", Warm(target, at_once))
            alive[node["NodeID"]] = found
        self._nodes = alive
