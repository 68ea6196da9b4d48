"""`modal.call_graph`: where older programs import these two from."""

from __future__ import annotations

from raymodal.types import InputInfo as InputInfo
from raymodal.types import InputStatus as InputStatus
