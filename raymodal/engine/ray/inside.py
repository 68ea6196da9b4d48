"""What a container may use of an engine. Apart from `engine`, because a container must not pay for importing what starts apps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raymodal.engine.ray.store import RayStore
from raymodal.exception import ExecutionError

if TYPE_CHECKING:
    from raymodal.engine.protocol import RunningApp, StoreClient
    from raymodal.plan.app import AppPlan


class ContainerEngine:
    """The cluster's store. Apps are started by drivers only."""

    name = "ray"

    def __init__(self) -> None:
        self._store = RayStore(detached=True)

    async def start_app(self, plan: AppPlan) -> RunningApp:
        raise ExecutionError(
            "An app cannot be started inside a container; call its functions, or start it from your own program"
        )

    def store(self) -> StoreClient:
        return self._store

    def close(self) -> None:
        pass
