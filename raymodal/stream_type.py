"""`StreamType`: where the output of a command goes."""

from __future__ import annotations

import enum


class StreamType(enum.Enum):
    """Kept for reading, shown here, or dropped."""

    PIPE = -1
    STDOUT = -2
    DEVNULL = -3

    def __repr__(self) -> str:
        return f"{self.__module__}.{self.__class__.__name__}.{self.name}"
