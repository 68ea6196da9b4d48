"""Ray Serve's autoscaler: its default policy function, wrapped by its own factors and delays, all imported from ray.serve.

Around it, and written here from `ray/serve/_private/autoscaling_state.py` of Ray 2.60, is only what feeds it: the
controller's loop asks every 0.1 s; handles push their number of running and waiting requests every `metrics_interval_s`,
and the policy sees the mean over `look_back_period_s` of the last push; without any running replica a request is pushed
at once. The policy reads the wall clock, which is replaced while it runs.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

from .world import World

# RAY_SERVE_CONTROL_LOOP_INTERVAL_S
LOOP_S = 0.1


@dataclass
class Serve:
    """See the module.

    Attributes:
        most: `max_replicas`; `min_replicas` is 0.
        slots: `target_ongoing_requests`, what a container serves at once.
        options: other fields of `AutoscalingConfig`; what is not named has its default.
    """

    most: int
    slots: int
    options: dict[str, float] = field(default_factory=dict)
    again_at: float | None = field(default=None, init=False)
    cuts_starting = True
    _target: int = field(default=0, init=False)
    _state: dict[str, Any] = field(default_factory=dict, init=False)
    _pushed: float = field(default=0.0, init=False)
    _push_at: float = field(default=0.0, init=False)
    _seen: deque[tuple[float, float]] = field(default_factory=deque, init=False)

    def __post_init__(self) -> None:
        with warnings.catch_warnings():
            # Of Ray's own code against newer packages; and other metrics intervals are deprecated, but work.
            warnings.simplefilter("ignore")
            # Importing ray.serve takes seconds, and only this policy needs it.
            from ray.serve import autoscaling_policy, config

            self._config = config.AutoscalingConfig(
                min_replicas=0, max_replicas=self.most, target_ongoing_requests=self.slots, **self.options
            )
        self._context = config.AutoscalingContext
        self._module: Any = autoscaling_policy
        self._policy = autoscaling_policy._apply_autoscaling_config(autoscaling_policy.default_autoscaling_policy)

    def target(self, view: World, now: float) -> int | None:
        if self.again_at is None:
            if not view.demand:
                return None
            self._wake(view, now)
            return None
        if now < self.again_at:
            return None
        self._measure(view, now)
        self._target = max(0, min(self._decide(view, now), self.most))
        is_asleep = not (self._target or view.containers or view.demand)
        self.again_at = None if is_asleep else now + LOOP_S
        return self._target

    def _wake(self, view: World, now: float) -> None:
        """The loop runs on while there is nothing to do; here it rests until its next turn matters."""
        self.again_at = max(now, math.ceil(now / LOOP_S) * LOOP_S)
        self._push_at = now + self._config.metrics_interval_s
        self._seen = deque([(now, view.demand_seconds(now))])

    def _measure(self, view: World, now: float) -> None:
        if not view.ready:
            self._pushed = view.demand
        if now < self._push_at:
            return
        self._push_at += self._config.metrics_interval_s
        look_back_s = self._config.look_back_period_s
        total = view.demand_seconds(now)
        self._seen.append((now, total))
        while len(self._seen) > 1 and self._seen[1][0] <= now - look_back_s:
            self._seen.popleft()
        # Before the loop woke there was no demand.
        self._pushed = (total - self._seen[0][1]) / max(look_back_s, now - self._seen[0][0])

    def _decide(self, view: World, now: float) -> int:
        context = self._context(
            deployment_id=None,
            deployment_name="simulated",
            app_name="simulated",
            current_num_replicas=view.ready,
            target_num_replicas=self._target,
            running_replicas=[],
            total_num_requests=self._pushed,
            total_queued_requests=None,
            aggregated_metrics=None,
            raw_metrics=None,
            capacity_adjusted_min_replicas=0,
            capacity_adjusted_max_replicas=self.most,
            policy_state=self._state,
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=now,
            config=self._config,
        )
        real, self._module.time = self._module.time, SimpleNamespace(time=lambda: now)
        wanted: float
        try:
            wanted, self._state = self._policy(context)
        finally:
            self._module.time = real
        return math.ceil(wanted)
