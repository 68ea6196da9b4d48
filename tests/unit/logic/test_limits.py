"""How much of one function may wait, and how a call waits at a limit."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from raymodal.logic.limits import LONGEST_S, Limits, Patience

LIMITS = Limits(pending=5, total=20, spawned=100, wait_s=60.0)


@given(st.integers(0, 30), st.integers(0, 30))
def test_no_more_than_the_limits(calls: int, slots: int) -> None:
    """Waiting ones and all of them; the message names figure, limit and setting."""
    reached = LIMITS.reached(calls, slots)

    assert (reached is not None) == (calls - slots >= 5 or calls >= 20)
    if reached is not None:
        assert ("RAYMODAL_MAX_PENDING" in reached) == (calls - slots >= 5)


def test_spawned_inputs() -> None:
    """A chunk is accepted whole or not at all, and the end of a call always."""
    assert LIMITS.spawned_reached(90, 10) is None
    assert "90 spawned inputs" in (LIMITS.spawned_reached(90, 11) or "")
    assert LIMITS.spawned_reached(1000, 0) is None


@given(st.lists(st.booleans(), max_size=300))
def test_a_call_gives_up_only_after_nothing_has_ended_for_long(ends: list[bool]) -> None:
    """And never waits long before it asks again."""
    now, ended, last = 100.0, 0, 100.0
    patience = Patience(LIMITS, ended, now)
    for one_more in ends:
        ended += one_more
        last = now if one_more else last
        wait_s = patience.next(ended, now)
        if wait_s is None:
            assert now - last >= LIMITS.wait_s
            return
        assert 0 < wait_s <= LONGEST_S
        assert now - last < LIMITS.wait_s
        now += wait_s


def test_no_patience() -> None:
    """A limit that fails at once."""
    assert Patience(replace(LIMITS, wait_s=0.0), 0, 1.0).next(0, 1.0) is None
