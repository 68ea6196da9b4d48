"""When an input that failed runs again. Pure: knows no clock and no input."""

from __future__ import annotations

from typing import Protocol

FLOOR_S = 1.0  # Modal's client waits at least this long before a retry, whatever `initial_delay` says
CEILING_S = 24 * 3600.0


class RetryRules(Protocol):
    """What `Retries` (or an int) comes down to; `spec.function.RetryPolicy` is one."""

    @property
    def max_retries(self) -> int: ...
    @property
    def backoff_coefficient(self) -> float: ...
    @property
    def initial_delay_s(self) -> float: ...
    @property
    def max_delay_s(self) -> float: ...


def delay_before(rules: RetryRules | None, failures: int) -> float | None:
    """Seconds to wait before the next attempt, or None if there is none.

    Args:
        rules: None stands for no retries.
        failures: how many attempts have failed so far, at least 1.

    `max_delay` is honoured as its documentation says; Modal's own client leaves it out (MODAL_SEMANTICS 8.2).
    """
    if rules is None or failures > rules.max_retries:
        return None
    try:
        delay = rules.initial_delay_s * rules.backoff_coefficient ** (failures - 1)
    except OverflowError:
        delay = CEILING_S
    return min(max(min(delay, max(rules.max_delay_s, FLOOR_S)), FLOOR_S), CEILING_S)
