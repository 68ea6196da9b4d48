"""`SchedulerPlacement`: where containers should be placed."""

from __future__ import annotations

from collections.abc import Sequence


class SchedulerPlacement:
    """Where containers should be placed. Recorded; your nodes have no regions that raymodal knows of."""

    def __init__(
        self,
        region: str | Sequence[str] | None = None,
        zone: str | None = None,
        spot: bool | None = None,
        instance_type: str | Sequence[str] | None = None,
    ) -> None:
        self.region = region
        self.zone = zone
        self.spot = spot
        self.instance_type = instance_type
