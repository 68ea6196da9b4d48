"""`modal.sandbox`."""

from __future__ import annotations

from raymodal.sandbox._probe import Probe
from raymodal.sandbox.sandbox import Sandbox, SidecarContainer, SidecarManager

__all__ = ["Probe", "Sandbox", "SidecarContainer", "SidecarManager"]
