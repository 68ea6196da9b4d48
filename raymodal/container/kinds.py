"""Which runtime a container has: one input at a time on the main thread, or several at once."""

from __future__ import annotations

from raymodal.container.runtime import Runtime, Uplink
from raymodal.plan.pool import ContainerPlan, is_shared


def runtime_for(plan: ContainerPlan, uplink: Uplink) -> Runtime:
    """The runtime that `plan` asks for. The other kind's module is not imported: every container pays for what it imports."""
    if not is_shared(plan.spec):
        return Runtime(plan, uplink)
    from raymodal.container.shared import SharedRuntime

    return SharedRuntime(plan, uplink)
