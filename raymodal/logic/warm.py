"""How many generic workers to keep ready, so that a burst of containers need not wait for processes to start.

Pure: what has been made ready is remembered here, since Ray does not say which of its workers are idle. What was asked for
counts for good only once that many new workers have appeared: while as many start as a node has cores Ray drops requests
without a word, and how long a start takes is the machine's affair. The belief may be wrong by a few (another app has taken
some, Ray has ended one): a worker too few costs its container one fork, one too many some memory until its time is over.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

KEEP_S = 120.0
"""How long a worker that nobody has taken stays before it is made anew: the bound on what a dead app leaves behind."""
QUIET_S = 0.5
"""Ready workers are made up only when no container has started for so long: not on the cores that a burst needs."""
PAUSE_S = 0.2
"""Between two looks at what has appeared: as long as a few forks take."""
APPEAR_S = 5.0
"""What has not appeared after so long was dropped, and is asked for again."""
WORKER_MIB = 20
"""What an idle forked worker takes for itself (PSS, FAST_START section 1)."""


@dataclass
class Warm:
    """The ready workers of one node.

    Attributes:
        target: how many to keep ready.
        at_once: Ray starts no more at a time than the node has cores, and drops the rest of a request.
    """

    target: int
    at_once: int = 1
    _ready: deque[float] = field(default_factory=deque)
    _started_at: float | None = None
    _asked_at: float = -math.inf
    _expected: int = 0

    def started(self, now: float) -> None:
        """A container has started here, and has taken a ready worker if there was one."""
        self._forget(now)
        if self._ready:
            self._ready.popleft()
        self._started_at = now

    @property
    def is_expecting(self) -> bool:
        """Whether workers were asked for that have not appeared yet."""
        return self._expected > 0

    def appeared(self, count: int) -> None:
        """So many new workers run on this node."""
        self._expected = max(0, self._expected - count)

    def missing(self, now: float) -> int:
        """How many to make ready now; they count from here on, unless they do not appear."""
        self._forget(now)
        if self._started_at is not None and now < self._started_at + QUIET_S:
            return 0
        if self._expected:
            if now < self._asked_at + APPEAR_S:
                return 0
            for _ in range(min(self._expected, len(self._ready))):
                self._ready.pop()
            self._expected = 0
        count = max(0, min(self.target - len(self._ready), self.at_once))
        if count:
            self._asked_at = now
            self._expected = count
            self._ready.extend([now + KEEP_S] * count)
        return count

    def next_at(self, now: float) -> float:
        """When to look or ask again, if nothing starts before."""
        self._forget(now)
        if self._expected:
            return now + PAUSE_S
        if len(self._ready) < self.target:
            return now if self._started_at is None else max(now, self._started_at + QUIET_S)
        return self._ready[0] if self._ready else now + KEEP_S

    def _forget(self, now: float) -> None:
        while self._ready and self._ready[0] <= now:
            self._ready.popleft()


def ready_target(workers: int | None, memory_mib: int, cores: float, node_memory_mib: int) -> int:
    """How many ready workers a node keeps.

    Args:
        workers: as the user set it; None: as many as the node has cores, at most four.
        memory_mib: at most so much memory for them.
        cores, node_memory_mib: of the node. Never more than a twentieth of its memory.
    """
    wanted = min(4, int(cores)) if workers is None else workers
    return max(0, min(wanted, min(memory_mib, node_memory_mib // 20) // WORKER_MIB))
