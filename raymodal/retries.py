"""`Retries`: how often and how soon a failed input runs again."""

from __future__ import annotations

from datetime import timedelta

from raymodal.exception import InvalidError
from raymodal.spec.function import RetryPolicy

MIN_DELAY_S = 1.0
MAX_DELAY_S = 24 * 3600.0


class Retries:
    """A retry policy for `retries=`.

    An integer `retries=n` is the fixed form: n retries, one second apart.

    Example:
        >>> Retries(max_retries=3, initial_delay=2.0).initial_delay.total_seconds()
        2.0
    """

    def __init__(
        self,
        *,
        max_retries: int,
        backoff_coefficient: float = 2.0,
        initial_delay: float = 1.0,
        max_delay: float = 60.0,
    ) -> None:
        """Check and keep the policy.

        Args:
            max_retries: attempts after the first one.
            backoff_coefficient: factor from one delay to the next, 1 to 10.
            initial_delay: seconds before the first retry, 0 to 60. Delays below one second are raised to one second.
            max_delay: seconds, 1 to 60.

        Raises:
            InvalidError: a figure is out of its range.
        """
        if max_retries < 0:
            raise InvalidError(f"max_retries={max_retries} is negative; use 0 for no retries")
        if not 1 <= max_delay <= 60:
            raise InvalidError(f"max_delay={max_delay} must be between 1 and 60 seconds")
        if not 0 <= initial_delay <= 60:
            raise InvalidError(f"initial_delay={initial_delay} must be between 0 and 60 seconds")
        if not 1 <= backoff_coefficient <= 10:
            raise InvalidError(f"backoff_coefficient={backoff_coefficient} must be between 1.0 and 10.0")
        self.max_retries = max_retries
        self.backoff_coefficient = backoff_coefficient
        self.initial_delay = timedelta(seconds=initial_delay)
        self.max_delay = timedelta(seconds=max_delay)

    def _spec(self) -> RetryPolicy:
        return RetryPolicy(
            max_retries=self.max_retries,
            backoff_coefficient=self.backoff_coefficient,
            initial_delay_s=self.initial_delay.total_seconds(),
            max_delay_s=self.max_delay.total_seconds(),
        )


class RetryManager:
    """Counts the retries of one call and says how long to wait before each."""

    def __init__(self, retry_policy: RetryPolicy) -> None:
        self.retry_policy = retry_policy
        self.retry_count = 0

    def get_delay_ms(self) -> float | None:
        """Milliseconds before the next attempt, None when no attempt is left. Counts the attempt."""
        self.retry_count += 1
        if self.retry_count > self.retry_policy.max_retries:
            return None
        delay_s = self.retry_policy.initial_delay_s * self.retry_policy.backoff_coefficient ** (self.retry_count - 1)
        return 1000 * min(max(delay_s, MIN_DELAY_S), MAX_DELAY_S)
