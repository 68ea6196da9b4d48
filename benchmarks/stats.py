"""Medians, spreads and ratios of a handful of rounds. Pure."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """What a few rounds gave: the middle, the quartiles and the ends."""

    n: int
    median: float
    low: float
    high: float
    q1: float
    q3: float

    @property
    def width_percent(self) -> float:
        """Distance between the ends as a share of the median, in percent."""
        return 100 * (self.high - self.low) / abs(self.median) if self.median else 0.0


def spread_of(values: Sequence[float]) -> Spread:
    """Summarise rounds.

    Raises:
        ValueError: There are no values.
    """
    if not values:
        raise ValueError("no rounds to summarise")
    ordered = sorted(values)
    return Spread(
        n=len(ordered),
        median=statistics.median(ordered),
        low=ordered[0],
        high=ordered[-1],
        q1=percentile(ordered, 25),
        q3=percentile(ordered, 75),
    )


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` percent lie, interpolated between neighbours.

    Raises:
        ValueError: There are no values, or `share` is outside 0 to 100.
    """
    if not values:
        raise ValueError("no values")
    if not 0 <= share <= 100:
        raise ValueError(f"share must be within 0 and 100, not {share}")
    ordered = sorted(values)
    place = (len(ordered) - 1) * share / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    # This form stays within [below, above] whatever the rounding; a weighted sum of both need not.
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def paired_ratios(values: Sequence[float], base: Sequence[float]) -> list[float]:
    """Ratio of each round to the baseline's round beside it.

    Rounds are interleaved, so round k of both ran under the same conditions: their ratio is steadier than the ratio of
    two medians. Where one side lost rounds, only the common ones count; a baseline of zero is left out.
    """
    return [value / other for value, other in zip(values, base, strict=False) if other]


def verdict(a: Spread, b: Spread, *, lower_is_better: bool, tolerance: float = 0.03) -> str:
    """Say whether B is better than A, trusting neither more than its spread.

    Args:
        a: Rounds of the first report.
        b: Rounds of the second.
        lower_is_better: Whether small figures are good ones.
        tolerance: A change of the median below this share is not worth a word even if the rounds do not overlap.

    Returns:
        `better`, `worse`, `same`, or `unclear` where the medians differ but the spreads overlap.
    """
    if a.median == b.median or (a.median and abs(b.median / a.median - 1) <= tolerance):
        return "same"
    if a.low <= b.high and b.low <= a.high:
        return "unclear"
    return "better" if (b.median < a.median) == lower_is_better else "worse"
