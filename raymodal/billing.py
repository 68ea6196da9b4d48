"""`modal.billing`: bills of Modal's service. Declared, so that imports work."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, TypedDict

from raymodal import _later
from raymodal._later import later
from raymodal.types import BillingReportItem

if TYPE_CHECKING:
    from raymodal.client import Client


class WorkspaceBillingReportItem(TypedDict):
    """One line of a bill."""

    object_id: str
    description: str
    environment_name: str
    interval_start: datetime
    cost: Decimal
    tags: dict[str, str]


@later(_later.WORKSPACE)
def workspace_billing_report(  # type: ignore[empty-body]
    *,
    start: datetime,
    end: datetime | None = None,
    resolution: str = "d",
    tag_names: list[str] | None = None,
    client: Client | None = None,
) -> list[WorkspaceBillingReportItem]:
    """Declared only."""


__all__ = ["BillingReportItem", "WorkspaceBillingReportItem", "workspace_billing_report"]
