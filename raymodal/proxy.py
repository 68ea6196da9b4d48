"""`Proxy`: a fixed outbound address. Recorded; your nodes keep their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from raymodal.object import Object

if TYPE_CHECKING:
    from raymodal.client import Client


class Proxy(Object):
    """A fixed outbound address."""

    _name: str

    def _representation(self) -> str:
        return f"modal.Proxy.from_name({self._name!r})"

    @staticmethod
    def from_name(name: str, *, environment_name: str | None = None, client: Client | None = None) -> Proxy:
        """A proxy by its name; nothing is looked up."""
        proxy = Proxy._new()
        proxy._name = name
        return proxy
