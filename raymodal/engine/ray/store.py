"""Dicts and Queues on Ray: one named actor hosting `engine.store.StoreCore`."""

from __future__ import annotations

from typing import Any

import ray
from ray.exceptions import RayActorError

from raymodal.exception import ConnectionError as ModalConnectionError

NAME = "raymodal-store"
NAMESPACE = "raymodal"


class Store:
    """The actor class."""

    def __init__(self) -> None:
        from raymodal.engine.store import StoreCore  # late: every container imports this module, few use a store

        self._core = StoreCore()

    async def call(self, method: str, *args: Any) -> Any:
        return await getattr(self._core, method)(*args)


class RayStore:
    """This process's way to the store of its cluster, made on first use.

    Args:
        detached: it outlives the program (on clusters that do).
    """

    def __init__(self, *, detached: bool) -> None:
        self._detached = detached
        self._handle: Any = None

    async def call(self, method: str, *args: Any) -> Any:
        if self._handle is None:
            self._handle = (
                ray.remote(Store)
                .options(
                    name=NAME,
                    namespace=NAMESPACE,
                    get_if_exists=True,
                    num_cpus=0,
                    max_concurrency=100_000,
                    enable_task_events=False,
                    lifetime="detached" if self._detached else None,
                )
                .remote()
            )
        try:
            return await self._handle.call.remote(method, *args)
        except RayActorError as error:
            self._handle = None
            raise ModalConnectionError(
                f"The store of Dicts and Queues has ended, and what it held in memory is gone: {error}. The next operation starts an empty one."
            ) from None
        except ray.exceptions.RayTaskError as error:
            raise getattr(error, "cause", error) from None
