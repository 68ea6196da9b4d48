"""When inputs that wait are cut into a batch. Pure: no clock, no thread; `now` is an argument.

The cut is made late: only when somebody is free to run it, and then with all that waits, up to the largest size. So a busy executor makes batches grow, and nothing is
frozen while it is busy. Somebody free waits for more only until the oldest input has waited `wait_s`.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Batcher(Generic[T]):
    """Inputs of one batched function in one container, first come, first served.

    Args:
        max_size: most inputs in a batch.
        wait_s: how long the oldest one waits for company while somebody is free.

    Example:
        >>> batcher = Batcher(2, 0.1)
        >>> batcher.add("a", now=5.0)
        >>> batcher.take(now=5.05), batcher.due_at
        ([], 5.1)
        >>> batcher.add("b", now=5.06)
        >>> batcher.take(now=5.06), batcher.due_at
        (['a', 'b'], None)
    """

    def __init__(self, max_size: int, wait_s: float) -> None:
        self.max_size = max_size
        self._wait_s = wait_s
        self._waiting: deque[tuple[float, T]] = deque()  # (when it must go at the latest, input)

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, item: T, now: float) -> None:
        """An input has come."""
        self._waiting.append((now + self._wait_s, item))

    def take(self, now: float) -> list[T]:
        """Somebody is free: the batch to run now, empty if it is worth waiting until `due_at`."""
        if len(self._waiting) < self.max_size and (not self._waiting or now < self._waiting[0][0]):
            return []
        return [self._waiting.popleft()[1] for _ in range(min(self.max_size, len(self._waiting)))]

    @property
    def due_at(self) -> float | None:
        """From when on `take` gives a batch even if nothing more comes; None if nothing waits."""
        return self._waiting[0][0] if self._waiting else None

    def remove(self, item: T) -> bool:
        """An input is not wanted any more; False if it does not wait here."""
        for at, (_, waiting) in enumerate(self._waiting):
            if waiting is item:
                del self._waiting[at]
                return True
        return False

    def clear(self) -> list[T]:
        """Nothing more will be run: what waited."""
        items = [item for _, item in self._waiting]
        self._waiting.clear()
        return items
