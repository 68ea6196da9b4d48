"""`Tunnel` and `forward`: a container's port, reachable from outside. Needs Modal's relays."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raymodal import _later
from raymodal._later import later
from raymodal._warn import deprecated
from raymodal.exception import InvalidError

if TYPE_CHECKING:
    from raymodal.client import Client


@dataclass(frozen=True)
class Tunnel:
    """The addresses of a forwarded port."""

    host: str
    port: int
    unencrypted_host: str
    unencrypted_port: int

    @property
    def url(self) -> str:
        """`https://...`"""
        if self.unencrypted_host:
            deprecated(".url of an unencrypted tunnel is going away; use .tcp_socket.")
        return f"https://{self.host}" + ("" if self.port == 443 else f":{self.port}")

    @property
    def tls_socket(self) -> tuple[str, int]:
        """Host and port of the encrypted address."""
        return self.host, self.port

    @property
    def tcp_socket(self) -> tuple[str, int]:
        """Host and port of the plain address.

        Raises:
            InvalidError: the tunnel has none.
        """
        if not self.unencrypted_host:
            raise InvalidError("This tunnel has no plain address; use forward(..., unencrypted=True)")
        return self.unencrypted_host, self.unencrypted_port


@later(_later.TUNNEL)
def forward(  # type: ignore[empty-body]
    port: int,
    *,
    unencrypted: bool = False,
    h2_enabled: bool = False,
    client: Client | None = None,
) -> AbstractContextManager[Tunnel]:
    """Make a port of this container reachable. Needs Modal's relays."""
