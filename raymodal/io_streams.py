"""Readers and writers of a sandbox's streams. Come with a later milestone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Generic, TypeVar

from raymodal import _later
from raymodal._later import later, later_property
from raymodal.stream_type import StreamType

T = TypeVar("T")


class StreamReader(Generic[T]):
    """What a command prints."""

    def __init__(
        self,
        params: Any,
        *,
        stream_type: StreamType = StreamType.PIPE,
        text: bool = True,
        by_line: bool = False,
    ) -> None:
        _later.refuse("StreamReader", _later.SANDBOX)

    @later_property(_later.SANDBOX)
    def file_descriptor(self) -> Any:
        """Declared only."""

    @later(_later.SANDBOX)
    def __aiter__(self) -> Iterator[T]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SANDBOX)
    def __anext__(self) -> T:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SANDBOX)
    def __iter__(self) -> Iterator[T]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SANDBOX)
    def __next__(self) -> T:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SANDBOX)
    def aclose(self) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def close(self) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def read(self) -> T:  # type: ignore[empty-body]
        """Declared only."""


class StreamWriter:
    """What a command reads."""

    def __init__(
        self,
        params: Any,
    ) -> None:
        _later.refuse("StreamWriter", _later.SANDBOX)

    @later(_later.SANDBOX)
    def drain(self) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def write(self, data: bytes | bytearray | memoryview | str) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def write_eof(self) -> None:
        """Declared only."""
