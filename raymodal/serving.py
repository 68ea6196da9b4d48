"""`modal.serving`: `serve` as a function. Comes with deployed apps."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from raymodal import _later
from raymodal._later import later

if TYPE_CHECKING:
    from raymodal.app import App


@later(_later.DEPLOYED)
def serve_app(  # type: ignore[empty-body]
    app: App,
    import_ref: Any,
    *,
    name: str | None = None,
    _watcher: AsyncGenerator[set[str], None] | None = None,
    environment_name: str | None = None,
) -> AbstractContextManager[App]:
    """Declared only."""
