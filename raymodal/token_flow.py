"""`modal.token_flow`: log-in to Modal's service. Declared, so that imports work."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from raymodal import _later
from raymodal._later import later

if TYPE_CHECKING:
    from raymodal.client import Client


class TokenFlow:
    """Log-in to Modal's service."""

    def __init__(self, client: Client) -> None:
        _later.refuse("TokenFlow", _later.INTERNAL)

    @later(_later.INTERNAL)
    def finish(self, timeout: float = 40.0, grpc_extra_timeout: float = 5.0) -> Any | None:
        """Declared only."""

    @later(_later.INTERNAL)
    def start(  # type: ignore[empty-body]
        self,
        utm_source: str | None = None,
        next_url: str | None = None,
        expires_in_seconds: int | None = None,
    ) -> AbstractContextManager[tuple[str, str, str]]:
        """Declared only."""
