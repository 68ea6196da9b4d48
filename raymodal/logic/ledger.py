"""The life of every input of one call. Pure: no clock, no I/O, no values; `now` is an argument.

Theory of operation. Inputs are numbered 0, 1, 2, ... as they become known. Each is in one of four states:

    QUEUED  --take-->  RUNNING  --answered, good or final-->  DONE
       ^                  |
       |<-- returned -----|      untouched: no attempt used
       |<-- lost ---------|      the container went away: runs again alone; charged only if it was alone
       |<-- due -- WAITING <-- answered, failed, with an attempt left

While all goes well nothing is kept per input: fresh inputs are a range, running ones are spans inside their bundle's record. Single records (`Trouble`)
exist only for inputs that failed or were lost. Every event may arrive late or twice: one that names a bundle no longer known is ignored, which is what
makes "each index is delivered exactly once" hold.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import dataclass, field

from raymodal.exception import InternalError
from raymodal.logic.retry import RetryRules, delay_before
from raymodal.wire import CANCELLED, START, Indices, count_of, expand, sub_indices


@dataclass(slots=True)
class Take:
    """Inputs to send as one bundle. `alone`: nothing else may be in the container with it."""

    bundle_id: int
    indices: Indices
    alone: bool
    fresh: bool


@dataclass(slots=True)
class Trouble:
    """What happened to one input that did not simply succeed."""

    failures: int = 0
    losses: int = 0
    was_lost: bool = False  # from then on it runs alone
    story: list[tuple[float, str]] = field(default_factory=list)


@dataclass(slots=True)
class _Running:
    indices: Indices
    alone: bool
    open: list[tuple[int, int]]  # positions not answered yet, as ranges


@dataclass(slots=True)
class Verdicts:
    """What an event decided: inputs that failed for good (index -> losses or attempts are in the story), and those that run again."""

    final: list[int] = field(default_factory=list)
    again: list[int] = field(default_factory=list)


class Ledger:
    """See the module's theory of operation. `max_losses`: reruns of an input that is lost while it is alone."""

    def __init__(self, retries: RetryRules | None = None, max_losses: int = 3) -> None:
        self._retries = retries
        self._max_losses = max_losses
        self.known = 0  # inputs added so far
        self.done = 0
        self.closed = False  # no more inputs will be added
        self.cancelled = False
        self._fresh = 0  # first index never taken
        self._again: deque[Indices] = deque()  # returned untouched
        self._alone: deque[int] = deque()
        self._waiting: list[tuple[float, int]] = []  # heap of (due, index)
        self._running: dict[int, _Running] = {}
        self._trouble: dict[int, Trouble] = {}
        self._next_bundle = 0
        self._queued_again = 0

    # --- questions

    @property
    def finished(self) -> bool:
        """Every known input has its outcome and no more will come."""
        return self.closed and self.done == self.known

    @property
    def queued(self) -> int:
        """Inputs that could be sent now."""
        return self.known - self._fresh + self._queued_again + len(self._alone)

    @property
    def running(self) -> int:
        return sum(hi - lo for r in self._running.values() for lo, hi in r.open)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def next_due(self) -> float | None:
        """When the next delayed retry is due."""
        return self._waiting[0][0] if self._waiting else None

    def is_open(self, bundle_id: int) -> bool:
        return bundle_id in self._running

    def open_indices(self, bundle_id: int) -> list[int]:
        """Inputs of a bundle that have no answer yet."""
        running = self._running.get(bundle_id)
        if running is None:
            return []
        every = expand(running.indices)
        return [every[pos] for lo, hi in running.open for pos in range(lo, hi)]

    def open_ranges(self, bundle_id: int) -> list[tuple[int, int]]:
        """Positions of a bundle that have no answer yet, as (start, stop)."""
        running = self._running.get(bundle_id)
        return list(running.open) if running is not None else []

    def trouble(self, index: int) -> Trouble | None:
        return self._trouble.get(index)

    def story(self, index: int) -> list[tuple[float, str]]:
        """What went wrong with one input so far, as (when, what); empty if nothing did."""
        trouble = self._trouble.get(index)
        return list(trouble.story) if trouble else []

    # --- events

    def add(self, count: int) -> int:
        """`count` more inputs are known; returns the first one's index."""
        if self.closed:
            raise InternalError(f"ledger: {count} inputs added after the call was closed at {self.known}")
        first = self.known
        self.known += count
        return first

    def close(self) -> None:
        """No more inputs will be added."""
        self.closed = True

    def wake(self, now: float) -> None:
        """Delayed retries that are due are queued from now on."""
        while self._waiting and self._waiting[0][0] <= now:
            self._alone.append(heapq.heappop(self._waiting)[1])

    def take(self, limit: int, now: float) -> Take | None:
        """The next inputs to send, at most `limit`; None if none is ready.

        Those that failed or were lost come first, each alone; then what came back untouched; then fresh ones.
        """
        if self.cancelled or limit <= 0:
            return None
        self.wake(now)
        if self._alone:
            index = self._alone.popleft()
            return self._start((index, 1), alone=self._lost_before(index), fresh=False)
        if self._again:
            span = self._again.popleft()
            count = count_of(span)
            if count > limit:
                self._again.appendleft(sub_indices(span, limit, count))
                span, count = sub_indices(span, 0, limit), limit
            self._queued_again -= count
            return self._start(span, alone=False, fresh=False)
        count = min(limit, self.known - self._fresh)
        if count <= 0:
            return None
        span = (self._fresh, count)
        self._fresh += count
        return self._start(span, alone=False, fresh=True)

    def shorten(self, take: Take, count: int) -> Take:
        """Only the first `count` inputs of a bundle are sent after all; the others are the next to be taken."""
        running = self._running[take.bundle_id]
        total = count_of(take.indices)
        if count >= total:
            return take
        rest = sub_indices(take.indices, count, total)
        if take.fresh and isinstance(take.indices, tuple) and self._fresh == take.indices[0] + total:
            self._fresh -= total - count
        else:
            self._again.appendleft(rest)
            self._queued_again += total - count
        running.indices = sub_indices(take.indices, 0, count)
        running.open = [(0, count)]
        return Take(take.bundle_id, running.indices, take.alone, take.fresh)

    def put_back(self, take: Take) -> None:
        """An input that must be alone was not sent: it is the next one again."""
        if self._running.pop(take.bundle_id, None) is not None:
            self._alone.extendleft(expand(take.indices))

    def _lost_before(self, index: int) -> bool:
        trouble = self._trouble.get(index)
        return trouble is not None and trouble.was_lost

    def _start(self, indices: Indices, *, alone: bool, fresh: bool) -> Take:
        self._next_bundle += 1
        bundle_id = self._next_bundle
        self._running[bundle_id] = _Running(indices, alone, [(0, count_of(indices))])
        return Take(bundle_id, indices, alone, fresh)

    def answered(self, bundle_id: int, start: int, stop: int, failed: dict[int, str], now: float) -> Verdicts:
        """Outcomes for the positions `start` up to `stop` arrived; `failed` gives the kind of those that failed.

        Returns:
            Which indices failed for good and which run again. Positions answered before are ignored (the caller must not deliver them: ask
            `unanswered` first).
        """
        verdicts = Verdicts()
        running = self._running.get(bundle_id)
        if running is None:
            return verdicts
        every = expand(running.indices)
        count = self._close_range(running, start, stop)
        self._drop_if_answered(bundle_id, running)
        if not failed or not count:
            self.done += count
            return verdicts
        for position, kind in failed.items():
            index = every[position]
            trouble = self._trouble.setdefault(index, Trouble())
            delay = None
            if kind != CANCELLED and not self.cancelled:
                trouble.failures += 1
                delay = delay_before(self._retries, trouble.failures)
            trouble.story.append((now, kind))
            if delay is None:
                verdicts.final.append(index)
            else:
                heapq.heappush(self._waiting, (now + delay, index))
                verdicts.again.append(index)
        self.done += count - len(verdicts.again)
        return verdicts

    def unanswered(self, bundle_id: int, start: int, stop: int) -> bool:
        """True if all positions from `start` to `stop` still wait for their outcome (so it may be delivered)."""
        running = self._running.get(bundle_id)
        return running is not None and any(lo <= start and stop <= hi for lo, hi in running.open)

    def returned(self, bundle_id: int, start: int, stop: int) -> None:
        """Positions came back untouched: no attempt was used, they are sent again."""
        running = self._running.get(bundle_id)
        if running is None or stop <= start:
            return
        if self._close_range(running, start, stop):
            span = sub_indices(running.indices, start, stop)
            if self.cancelled:
                self.done += stop - start
            elif running.alone:
                # Still suspected of what became of its container.
                self._alone.extend(expand(span))
            else:
                self._again.append(span)
                self._queued_again += stop - start
        self._drop_if_answered(bundle_id, running)

    def lost(self, bundle_id: int, now: float, *, was_alone: bool) -> Verdicts:
        """The container went away with this bundle; what has no answer runs again, each input alone.

        Args:
            was_alone: nothing else was in the container: then a single open input is charged with the loss.
        """
        verdicts = Verdicts()
        running = self._running.pop(bundle_id, None)
        if running is None:
            return verdicts
        every = expand(running.indices)
        indices = [every[pos] for lo, hi in running.open for pos in range(lo, hi)]
        charge = was_alone and len(indices) == 1
        for index in indices:
            trouble = self._trouble.setdefault(index, Trouble())
            trouble.was_lost = True
            trouble.story.append((now, "lost alone" if charge else "lost with others"))
            if charge:
                trouble.losses += 1
            if self.cancelled or trouble.losses > self._max_losses:
                self.done += 1
                verdicts.final.append(index)
            else:
                self._alone.append(index)
                verdicts.again.append(index)
        return verdicts

    def fail_queued(self, now: float, kind: str = START) -> Verdicts:
        """No container can be had: every queued input has failed one attempt (nothing that runs is touched)."""
        verdicts = Verdicts()
        while (take := self.take(1 << 60, now)) is not None:
            spread = dict.fromkeys(range(count_of(take.indices)), kind)
            part = self.answered(take.bundle_id, 0, len(spread), spread, now)
            verdicts.final += part.final
            verdicts.again += part.again
        return verdicts

    def cancel(self, now: float) -> list[int]:
        """Nothing more will be sent; returns the bundles that still run. What was queued or waiting is done, cancelled."""
        self.cancelled = True
        self.closed = True
        dropped = self.known - self._fresh + self._queued_again + len(self._alone) + len(self._waiting)
        self.done += dropped
        self._fresh = self.known
        self._again.clear()
        self._queued_again = 0
        self._alone.clear()
        self._waiting.clear()
        return list(self._running)

    # --- inside

    def _close_range(self, running: _Running, start: int, stop: int) -> int:
        """Take start..stop out of the open positions; returns how many were open (all or none)."""
        for at, (lo, hi) in enumerate(running.open):
            if lo <= start and stop <= hi:
                running.open[at : at + 1] = [(a, b) for a, b in ((lo, start), (stop, hi)) if a < b]
                return stop - start
        return 0

    def _drop_if_answered(self, bundle_id: int, running: _Running) -> None:
        if not running.open:
            self._running.pop(bundle_id, None)

    def check(self) -> None:
        """Every known input is in exactly one state.

        Raises:
            InternalError: it is not; the counts are in the message.
        """
        total = self.done + self.queued + self.running + self.waiting
        if total != self.known:
            raise InternalError(
                f"ledger: {self.known} inputs known but {self.done} done + {self.queued} queued + {self.running} running + {self.waiting} waiting"
            )


def loss_text(trouble: Trouble | None) -> str:
    """What the caller is told when an input was lost too often."""
    losses = trouble.losses if trouble else 0
    return (
        f"The container running this input went away {losses} times while it ran nothing else (killed, out of memory, or crashed); "
        "it was run again each time and is given up now. Look at the container's output, raise memory=, or set RAYMODAL_MAX_LOSSES."
    )
