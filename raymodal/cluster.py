"""`Cluster`: containers that start together. Comes with a later milestone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from raymodal import _later
from raymodal._later import later
from raymodal.object import Object

if TYPE_CHECKING:
    from raymodal.client import Client


class Cluster(Object):
    """The cluster that a container is part of."""

    @later(_later.CLUSTER)
    def container_ids(self) -> list[str]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.CLUSTER)
    def container_ips(self, family: Literal["ipv4", "ipv6"] = "ipv6") -> list[str]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.CLUSTER)
    def container_rank(self, container_id: str | None = None) -> int:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.CLUSTER)
    def from_context() -> Cluster:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.CLUSTER)
    def from_id(cluster_id: str, *, client: Client | None = None) -> Cluster:  # type: ignore[empty-body]
        """Declared only."""
