"""`modal.experimental.flash_server`: Modal's routing. Has no counterpart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raymodal import _later
from raymodal._later import later

if TYPE_CHECKING:
    from raymodal.client import Client


class ServerManager:
    """Modal's routing."""

    def __init__(self, client: Client) -> None:
        _later.refuse("ServerManager", _later.EXPERIMENTAL)

    @later(_later.EXPERIMENTAL)
    def close(self) -> None:
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def stop(self) -> None:
        """Declared only."""


@later(_later.EXPERIMENTAL)
def server_forward() -> ServerManager:  # type: ignore[empty-body]
    """Declared only."""
