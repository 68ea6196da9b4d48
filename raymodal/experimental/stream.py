"""`modal.experimental.Stream`: an append-only log. Has no counterpart yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raymodal import _later
from raymodal._later import later
from raymodal.exception import ConflictError

if TYPE_CHECKING:
    from raymodal.client import Client
    from raymodal.sandbox import Sandbox


class IdempotencyConflict(ConflictError):
    """The same key was used for two values."""


@dataclass(frozen=True)
class AppendResult:
    """A value that a later milestone returns."""

    seq: int
    deduped: bool


@dataclass(frozen=True)
class Entry:
    """A value that a later milestone returns."""

    seq: int
    idempotency_key: str
    kind: Literal["value", "seal"]
    value: Any
    ts: datetime


@dataclass(frozen=True)
class StreamInfo:
    """A value that a later milestone returns."""

    name: str
    last_seq: int
    sealed: bool
    created_at: datetime
    last_written_at: datetime
    expires_at: datetime | None


@dataclass(frozen=True)
class StreamToken:
    """A value that a later milestone returns."""

    token: str
    expires_at: datetime


class StreamManager:
    """`Stream.objects`."""

    @later(_later.EXPERIMENTAL)
    def delete(
        self,
        name: str,
        *,
        allow_missing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> None:
        """Declared only."""


class StreamWriter:
    """Writes many entries."""

    def __init__(
        self,
        stream: Stream,
        on_written: Callable[[str, AppendResult], None] | None,
        on_conflict: Callable[[IdempotencyConflict], None] | None,
    ) -> None:
        _later.refuse("StreamWriter", _later.EXPERIMENTAL)

    @later(_later.EXPERIMENTAL)
    def __aenter__(self) -> StreamWriter:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def __aexit__(self, exc_type: Any, exc: Any, tb: Any) -> None:
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def __enter__(self) -> StreamWriter:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def __exit__(self, exc_type: Any, exc: Any, tb: Any) -> None:
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def append(self, value: Any, *, idempotency_key: str | None = None) -> None:
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def close(self) -> None:
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def flush(self) -> None:
        """Declared only."""


class Stream:
    """An append-only log."""

    def __init__(
        self,
        name: str,
        environment_name: str,
        create_if_missing: bool,
        retention: timedelta | None,
        client: Client | None,
        token: str | None = None,
    ) -> None:
        _later.refuse("Stream", _later.EXPERIMENTAL)

    objects: ClassVar[StreamManager] = StreamManager()

    @later(_later.EXPERIMENTAL)
    def __getitem__(self, seq: int) -> Entry:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def append(self, value: Any, *, idempotency_key: str | None = None) -> AppendResult:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def append_many(  # type: ignore[empty-body]
        self,
        values: Iterable[Any],
        *,
        idempotency_keys: Sequence[str] | None = None,
    ) -> list[AppendResult]:
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def create_token(  # type: ignore[empty-body]
        self,
        *,
        access: Literal["read", "write"] = "write",
        ttl: timedelta = timedelta(seconds=3600),
        create_if_missing: bool = False,
        retention: timedelta | None = None,
        sandbox: Sandbox | None = None,
    ) -> StreamToken:
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def fork(self, name: str, *, at: int | None = None, retention: timedelta | None = None) -> Stream:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def from_name(  # type: ignore[empty-body]
        name: str,
        *,
        environment_name: str | None = None,
        create_if_missing: bool = False,
        retention: timedelta | None = None,
        client: Client | None = None,
    ) -> Stream:
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def from_token(token: str, *, name: str) -> Stream:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def info(self) -> StreamInfo:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def read(self, start: int = 1, *, follow: bool = False) -> Iterator[Entry]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def seal(self) -> int:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def writer(  # type: ignore[empty-body]
        self,
        *,
        on_written: Callable[[str, AppendResult], None] | None = None,
        on_conflict: Callable[[IdempotencyConflict], None] | None = None,
    ) -> StreamWriter:
        """Declared only."""
