"""`OutboundPolicy`: rules for what leaves a sandbox. Comes with a later milestone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raymodal import _later
from raymodal._later import later

if TYPE_CHECKING:
    from raymodal.secret import Secret


@dataclass(frozen=True)
class HeaderReplacement:
    """Headers that are replaced on requests to one domain."""

    domain: str
    headers: tuple[tuple[str, str], ...]


class OutboundPolicy:
    """Rules for what leaves a sandbox."""

    def __init__(self, _replacements: tuple[HeaderReplacement, ...] = ()) -> None:
        _later.refuse("OutboundPolicy", _later.SANDBOX)

    @later(_later.SANDBOX)
    def with_header_replacement(  # type: ignore[empty-body]
        self,
        *,
        domain: str,
        headers: Mapping[str, str],
        secret: Secret | None = None,
    ) -> OutboundPolicy:
        """Declared only."""
