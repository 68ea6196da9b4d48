"""`x.logs`: kept output. Comes with a later milestone."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from raymodal import _later
from raymodal._later import later

if TYPE_CHECKING:
    from raymodal.types import LogEntry


LogSource = Literal["stdout", "stderr", "system"]


class AppLogsManager:
    """Kept output of an app."""

    def __init__(self, source: Any) -> None:
        self._source = source

    @later(_later.LOGS)
    def fetch(  # type: ignore[empty-body]
        self,
        *,
        since: datetime,
        until: datetime | None = None,
        source: LogSource | None = None,
        search_text: str = "",
    ) -> Iterator[LogEntry]:
        """Declared only."""

    @later(_later.LOGS)
    def stream(self, timeout: float | None = None) -> Iterator[LogEntry]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.LOGS)
    def tail(self, entries: int = 100, *, source: LogSource | None = None) -> Iterator[LogEntry]:  # type: ignore[empty-body]
        """Declared only."""


class FunctionCallLogsManager:
    """Kept output of a call."""

    def __init__(self, source: Any) -> None:
        self._source = source

    @later(_later.LOGS)
    def fetch(  # type: ignore[empty-body]
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        source: LogSource | None = None,
        search_text: str = "",
    ) -> Iterator[LogEntry]:
        """Declared only."""

    @later(_later.LOGS)
    def stream(self, timeout: float | None = None) -> Iterator[LogEntry]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.LOGS)
    def tail(self, entries: int = 100, *, source: LogSource | None = None) -> Iterator[LogEntry]:  # type: ignore[empty-body]
        """Declared only."""


class FunctionLogsManager:
    """Kept output of a function."""

    def __init__(self, source: Any) -> None:
        self._source = source

    @later(_later.LOGS)
    def fetch(  # type: ignore[empty-body]
        self,
        *,
        since: datetime,
        until: datetime | None = None,
        source: LogSource | None = None,
        search_text: str = "",
    ) -> Iterator[LogEntry]:
        """Declared only."""

    @later(_later.LOGS)
    def stream(self, timeout: float | None = None) -> Iterator[LogEntry]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.LOGS)
    def tail(self, entries: int = 100, *, source: LogSource | None = None) -> Iterator[LogEntry]:  # type: ignore[empty-body]
        """Declared only."""


class ImageLogsManager:
    """Kept output of an image's build."""

    def __init__(self, source: Any) -> None:
        self._source = source

    @later(_later.LOGS)
    def fetch(self, layers: int | None = 1) -> Iterator[LogEntry]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.LOGS)
    def tail(self, entries: int = 100) -> Iterator[LogEntry]:  # type: ignore[empty-body]
        """Declared only."""


class SandboxLogsManager:
    """Kept output of a sandbox."""

    def __init__(self, source: Any) -> None:
        self._source = source

    @later(_later.LOGS)
    def fetch(  # type: ignore[empty-body]
        self,
        *,
        since: datetime,
        until: datetime | None = None,
        source: LogSource | None = None,
        search_text: str = "",
    ) -> Iterator[LogEntry]:
        """Declared only."""

    @later(_later.LOGS)
    def tail(self, entries: int = 100, *, source: LogSource | None = None) -> Iterator[LogEntry]:  # type: ignore[empty-body]
        """Declared only."""


class ServerLogsManager:
    """Kept output of a server."""

    def __init__(self, source: Any) -> None:
        self._source = source

    @later(_later.LOGS)
    def fetch(  # type: ignore[empty-body]
        self,
        *,
        since: datetime,
        until: datetime | None = None,
        source: LogSource | None = None,
        search_text: str = "",
    ) -> Iterator[LogEntry]:
        """Declared only."""

    @later(_later.LOGS)
    def stream(self, timeout: float | None = None) -> Iterator[LogEntry]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.LOGS)
    def tail(self, entries: int = 100, *, source: LogSource | None = None) -> Iterator[LogEntry]:  # type: ignore[empty-body]
        """Declared only."""
