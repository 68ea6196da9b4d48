"""How many inputs go to a container in one call. Pure.

One Ray call costs about a millisecond and an input in a call of a hundred about three microseconds, so small inputs travel in bundles. The size follows
the observed duration: big enough to make the call's cost vanish, small enough that no slot idles near the end while another holds a long bundle.
"""

from __future__ import annotations

TARGET_S = 0.030  # a bundle should keep a container busy this long
AHEAD_S = 0.050  # a second bundle goes ahead only if it is expected to be shorter than this
BUDGET_S = 0.060  # a container stops between inputs after this long
TAIL_S = 0.002
MAX_INPUTS = 4000
GROWTH = 4


class Sizer:
    """Adapts the size of bundles of one call to what its containers report."""

    __slots__ = ("_limit", "per_input_s")

    def __init__(self) -> None:
        self.per_input_s: float | None = None
        self._limit = 1

    def observe(self, count: int, elapsed_s: float) -> None:
        """A container ran `count` inputs in `elapsed_s` of user code."""
        if count <= 0:
            return
        seen = elapsed_s / count
        if self.per_input_s is None:
            self.per_input_s = seen
        else:
            # Faster than thought: believe it soon, or bundles stay needlessly small. Slower: believe it more slowly, it may be one outlier.
            weight = 0.7 if seen < self.per_input_s else 0.5
            self.per_input_s += weight * (seen - self.per_input_s)
        self._limit = min(MAX_INPUTS, max(self._limit, count * GROWTH))

    def next_size(self, remaining: int | None = None, slots: int = 1) -> int:
        """Inputs for the next bundle, at least 1.

        Args:
            remaining: inputs not yet sent, if known.
            slots: slots held now; near the end their share bounds the bundle.
        """
        if self.per_input_s is None:
            return 1
        size = int(TARGET_S / self.per_input_s) if self.per_input_s > TARGET_S / MAX_INPUTS else MAX_INPUTS
        size = min(size, self._limit)
        if remaining is not None:
            # Near the end slots share what is left, but below a millisecond or two of work another call costs more than it spreads.
            share = max(remaining // (2 * max(slots, 1)), int(TAIL_S / max(self.per_input_s, TAIL_S / MAX_INPUTS)))
            size = min(size, max(share, 1))
        return max(size, 1)

    def may_send_ahead(self, size: int) -> bool:
        """True if a bundle of `size` may queue behind one that is running."""
        return self.per_input_s is not None and size * self.per_input_s <= AHEAD_S

    @property
    def is_short(self) -> bool:
        """True once inputs are known to be so short that a slot takes many of them in turn."""
        return self.per_input_s is not None and self.per_input_s < AHEAD_S

    def slots_worth_asking(self, remaining: int) -> int:
        """How many slots `remaining` inputs can keep busy: a slot is worth a container only if a bundle's time of work waits for it."""
        if self.per_input_s is None or self.per_input_s >= AHEAD_S:
            return remaining
        return max(1, min(remaining, int(remaining * self.per_input_s / AHEAD_S) + 1)) if remaining else 0
