"""`x.metrics`: measured use of resources. Comes with a later milestone."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from raymodal import _later
from raymodal._later import later

if TYPE_CHECKING:
    from raymodal.types import MetricsSchema, ObjectMetrics


class MetricsManager:
    """Measured use of resources, by name."""

    def __init__(self, function: Any) -> None:
        self._function = function

    @later(_later.STATS)
    def schema(self, groups: list[str] | None = None) -> dict[str, MetricsSchema]:  # type: ignore[empty-body]
        """Declared only."""


class FunctionMetricsManager(MetricsManager):
    """Measured use of resources."""

    @later(_later.STATS)
    def export(  # type: ignore[empty-body]
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        bucket_size: timedelta | None = None,
        groups: list[str] | None = None,
        all_variants: bool = False,
    ) -> ObjectMetrics:
        """Declared only."""


class ServerMetricsManager(MetricsManager):
    """Measured use of resources."""

    @later(_later.STATS)
    def export(  # type: ignore[empty-body]
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        bucket_size: timedelta | None = None,
        groups: list[str] | None = None,
    ) -> ObjectMetrics:
        """Declared only."""
