"""How much of one function may wait. Modal's figures by default, as settings and not walls. Pure.

Inputs wait where they were made: those of `remote()` in their calling process, spawned ones in the controller. So that is where they are counted, and what a
limit protects. A `.map` throttles itself and never meets one.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S = 0.02
LONGEST_S = 0.5
ASKS_PER_S = 2_000


@dataclass(frozen=True, slots=True)
class Limits:
    """Most inputs of one function, each at least 1.

    Attributes:
        pending: that wait for a container, of one calling process.
        total: that wait or run, of one calling process.
        spawned: spawned ones without an outcome, of one app.
        wait_s: how long a call waits at a limit while nothing ends, before it fails.
    """

    pending: int = 2_000
    total: int = 25_000
    spawned: int = 1_000_000
    wait_s: float = 60.0

    def reached(self, calls: int, slots: int) -> str | None:
        """Why one more call may not queue now, or None.

        Args:
            calls: of this function and process that wait or run.
            slots: that they have.
        """
        pending = max(0, calls - slots)
        if pending >= self.pending:
            return f"{pending:,} inputs wait for a container already (limit: {self.pending:,}, RAYMODAL_MAX_PENDING)"
        if calls >= self.total:
            return f"{calls:,} inputs wait or run already (limit: {self.total:,}, RAYMODAL_MAX_TOTAL)"
        return None

    def spawned_reached(self, open_inputs: int, more: int) -> str | None:
        """Why `more` inputs may not be spawned now, or None."""
        if more <= 0 or open_inputs + more <= self.spawned:
            return None
        return f"{open_inputs:,} spawned inputs have no outcome yet and {more:,} more would exceed the limit ({self.spawned:,}, RAYMODAL_MAX_SPAWNED)"


class Patience:
    """How a call waits at a limit: longer and longer, up to half a second, and in vain only while nothing ends."""

    def __init__(self, limits: Limits, ended: int, now: float) -> None:
        self._limits = limits
        self._ended = ended
        self._since = now
        self._wait_s = FIRST_S

    def next(self, ended: int, now: float, others: int = 0) -> float | None:
        """Seconds until it is worth asking again, or None to give up.

        Args:
            ended: how many inputs have ended so far: while this grows the call goes on waiting.
            others: calls that wait like this one: all together ask no more often than `ASKS_PER_S`.
        """
        if ended != self._ended:
            self._ended, self._since = ended, now
        elif now - self._since >= self._limits.wait_s:
            return None
        wait_s, self._wait_s = self._wait_s, min(2 * self._wait_s, LONGEST_S)
        return max(wait_s, others / ASKS_PER_S)
