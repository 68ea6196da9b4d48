"""How many inputs travel together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymodal.logic.chunks import AHEAD_S, GROWTH, MAX_INPUTS, TAIL_S, TARGET_S, Sizer

seen = st.lists(st.tuples(st.integers(1, MAX_INPUTS), st.floats(0, 100)), max_size=20)


def sizer_after(history: list[tuple[int, float]]) -> Sizer:
    sizer = Sizer()
    for count, elapsed in history:
        sizer.observe(count, elapsed)
    return sizer


def test_the_first_bundle_is_one_input() -> None:
    """Nothing is known of a function that has not run."""
    sizer = Sizer()

    assert (sizer.next_size(1000, 1), sizer.may_send_ahead(1), sizer.slots_worth_asking(50)) == (1, False, 50)


@given(seen, st.none() | st.integers(0, 10_000), st.integers(0, 64))
def test_a_size_stays_in_bounds(history: list[tuple[int, float]], remaining: int | None, slots: int) -> None:
    """At least one input, at most `MAX_INPUTS`, and near the end at most half of a slot's share, or two milliseconds of work."""
    sizer = sizer_after(history)
    size = sizer.next_size(remaining, slots)

    assert 1 <= size <= MAX_INPUTS
    if remaining is not None:
        work = size * (sizer.per_input_s or 0.0)
        assert size == 1 or size * 2 * max(slots, 1) <= remaining or work <= TAIL_S + 1e-9


@given(seen)
def test_a_bundle_is_expected_to_last_no_longer_than_the_target(history: list[tuple[int, float]]) -> None:
    """Larger bundles only for inputs that are fast."""
    sizer = sizer_after(history)
    size = sizer.next_size()

    assert size == 1 or size * (sizer.per_input_s or 0.0) <= TARGET_S * 1.000001


def test_sizes_grow_by_a_factor_at_most() -> None:
    """One lucky measurement does not send a thousand inputs to one container."""
    sizer = Sizer()
    sizes = []
    for _ in range(7):
        sizes.append(sizer.next_size())
        sizer.observe(sizes[-1], sizes[-1] * 1e-7)

    assert sizes == [1, GROWTH, GROWTH**2, GROWTH**3, GROWTH**4, GROWTH**5, MAX_INPUTS]


def test_slow_inputs_travel_alone() -> None:
    """An input longer than the target is a bundle of its own, also after fast ones."""
    sizer = sizer_after([(100, 0.001), (10, 10.0), (5, 5.0), (1, 1.0)])

    assert sizer.next_size() == 1
    assert not sizer.may_send_ahead(1)


def test_nothing_is_learnt_from_nothing() -> None:
    """A reply without outcomes says nothing of their duration."""
    assert sizer_after([(0, 5.0)]).per_input_s is None


@given(seen, st.integers(0, 10_000), st.integers(0, 1000))
def test_more_inputs_never_ask_for_fewer_slots(history: list[tuple[int, float]], remaining: int, more: int) -> None:
    """And never for more slots than inputs, nor for none while there is one."""
    sizer = sizer_after(history)
    few, many = sizer.slots_worth_asking(remaining), sizer.slots_worth_asking(remaining + more)

    assert few <= many
    assert min(remaining, 1) <= few <= remaining


@pytest.mark.parametrize(("per_input", "expected"), [(0.0, 1), (AHEAD_S / 100, 11), (AHEAD_S, 1000), (10.0, 1000)])
def test_a_slot_is_asked_for_a_bundles_worth_of_work(per_input: float, expected: int) -> None:
    """A thousand inputs of half a millisecond keep eleven containers busy, not a thousand."""
    assert sizer_after([(1, per_input)]).slots_worth_asking(1000) == expected
