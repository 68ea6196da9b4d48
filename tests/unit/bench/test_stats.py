"""Medians, spreads, ratios and verdicts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.stats import Spread, paired_ratios, percentile, spread_of, verdict

NUMBERS = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=20)


def test_spread_of_known_values():
    """Middle, ends and quartiles of five rounds."""
    spread = spread_of([5.0, 1.0, 3.0, 2.0, 4.0])

    assert Spread(n=5, median=3.0, low=1.0, high=5.0, q1=2.0, q3=4.0) == spread
    assert pytest.approx(400 / 3) == spread.width_percent


@given(NUMBERS)
def test_spread_is_ordered(values):
    """The figures of a spread never cross."""
    spread = spread_of(values)

    assert spread.low <= spread.q1 <= spread.median <= spread.q3 <= spread.high


@given(NUMBERS, st.floats(0, 100))
def test_percentile_lies_within_the_values(values, share):
    """No interpolation leaves the range."""
    assert min(values) <= percentile(values, share) <= max(values)


@given(NUMBERS, st.floats(0, 100), st.floats(0, 100))
def test_percentile_never_falls(values, one, other):
    """A larger share is never below a smaller one, but for rounding."""
    low, high = sorted((one, other))

    assert percentile(values, low) <= percentile(values, high) + 1e-6


@pytest.mark.parametrize(("values", "share"), [([], 50), ([1.0], -1), ([1.0], 101)])
def test_percentile_refuses(values, share):
    """No values, and shares that are none."""
    with pytest.raises(ValueError):
        percentile(values, share)


def test_nothing_has_no_spread():
    """A summary of no rounds would be a lie."""
    with pytest.raises(ValueError, match="no rounds"):
        spread_of([])


def test_ratios_pair_rounds():
    """Round k is divided by round k; rounds that one side lost, and zeros, are left out."""
    assert paired_ratios([2.0, 9.0, 12.0, 7.0], [1.0, 3.0, 4.0]) == [2.0, 3.0, 3.0]
    assert paired_ratios([5.0, 2.0], [0.0, 1.0]) == [2.0]


@pytest.mark.parametrize(
    ("a", "b", "lower_is_better", "expected"),
    [
        ([10, 11, 12], [5, 6, 7], True, "better"),
        ([10, 11, 12], [5, 6, 7], False, "worse"),
        ([5, 6, 7], [10, 11, 12], True, "worse"),
        ([5, 6, 7], [10, 11, 12], False, "better"),
        ([5, 6, 10], [9, 11, 12], True, "unclear"),
        ([100, 100, 100], [102, 102, 102], True, "same"),
        ([0, 0, 0], [0, 0, 0], True, "same"),
        ([0, 0, 0], [1, 1, 1], True, "worse"),
    ],
)
def test_verdict(a, b, lower_is_better, expected):
    """Better and worse need rounds that do not overlap."""
    assert expected == verdict(spread_of(a), spread_of(b), lower_is_better=lower_is_better)


@given(NUMBERS, NUMBERS)
def test_verdict_has_two_sides(a, b):
    """Swapping the direction swaps better and worse, and nothing else."""
    one, other = (verdict(spread_of(a), spread_of(b), lower_is_better=flag) for flag in (True, False))

    assert {"better": "worse", "worse": "better"}.get(one, one) == other
