"""When a failed input runs again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymodal.logic.retry import CEILING_S, FLOOR_S, delay_before
from raymodal.spec.function import RetryPolicy

policies = st.builds(
    RetryPolicy,
    max_retries=st.integers(0, 400),
    backoff_coefficient=st.floats(1, 10),
    initial_delay_s=st.floats(0, 60),
    max_delay_s=st.floats(1, 60),
)


def test_without_rules_nothing_is_retried() -> None:
    """`retries=` left out means one attempt."""
    assert delay_before(None, 1) is None


@given(policies, st.integers(1, 500))
def test_attempts_end_after_max_retries(policy: RetryPolicy, failures: int) -> None:
    """`max_retries` counts the attempts after the first."""
    assert (delay_before(policy, failures) is None) == (failures > policy.max_retries)


@given(policies, st.integers(1, 399))
def test_delays_stay_in_bounds_and_never_decrease(policy: RetryPolicy, failures: int) -> None:
    """Modal's floor of 1 s and ceiling of 24 h hold, `max_delay` too, and a later retry never waits less."""
    first, second = delay_before(policy, failures), delay_before(policy, failures + 1)

    if first is not None:
        assert FLOOR_S <= first <= min(CEILING_S, max(policy.max_delay_s, FLOOR_S))
    if first is not None and second is not None:
        assert second >= first


@pytest.mark.parametrize(("failures", "expected"), [(1, 1.0), (2, 2.0), (3, 4.0), (6, 32.0), (7, 60.0), (2000, 60.0)])
def test_delays_double_up_to_max_delay(failures: int, expected: float) -> None:
    """The documented series, also far beyond what a float can hold."""
    policy = RetryPolicy(max_retries=5000, backoff_coefficient=2.0)

    assert delay_before(policy, failures) == expected


def test_a_delay_of_zero_is_raised_to_the_floor() -> None:
    """`initial_delay=0` waits a second in Modal too."""
    assert delay_before(RetryPolicy(max_retries=1, initial_delay_s=0.0), 1) == FLOOR_S
