"""Knative's pod autoscaler (KPA), written from its published rule. Pure.

Sources: https://knative.dev/docs/serving/autoscaling/kpa-specific and the defaults there; for the order of the steps
`pkg/autoscaler/scaling/autoscaler.go` and `pkg/reconciler/autoscaling/kpa/scaler.go` of knative/serving.

Every two seconds the mean concurrency (waiting inputs count: the activator holds them) over the stable and the panic
window is divided by what one container should have, 70 % of its slots. Where the panic window wants twice what is ready
or more, the larger of both holds and nothing goes down until that was not so for a stable window. One step goes up to a
thousandfold and down to half. The last container goes after the stable window was empty and a grace period is over.
From zero the activator reports at once, and the windows begin anew.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from .world import World

STABLE_S = 60.0
PANIC_S = 6.0
PANIC_THRESHOLD = 2.0
UTILISATION = 0.7
TICK_S = 2.0
GRACE_S = 30.0
MAX_SCALE_UP = 1000.0
MAX_SCALE_DOWN = 2.0


@dataclass
class Knative:
    """See the module. Instants and windows are in seconds."""

    again_at: float | None = field(default=None, init=False)
    cuts_starting = True
    _awake_since: float = field(default=0.0, init=False)
    _panic_at: float | None = field(default=None, init=False)
    _panic_pods: int = field(default=0, init=False)
    _empty_since: float | None = field(default=None, init=False)
    # Instants and the integral of the demand then, one per tick, the stable window long.
    _seen: deque[tuple[float, float]] = field(default_factory=deque, init=False)

    def target(self, view: World, now: float) -> int | None:
        if self.again_at is None:
            if not view.demand:
                return None
            self._wake(view, now)
        elif now < self.again_at:
            return None
        self.again_at = now + TICK_S
        wanted = self._wanted(view, now)
        if wanted:
            self._empty_since = None
            return wanted
        if self._empty_since is None:
            self._empty_since = now
        if now - self._empty_since < GRACE_S:
            return 1
        self.again_at = None
        return 0

    def _wake(self, view: World, now: float) -> None:
        self._awake_since = now
        self._panic_at, self._panic_pods, self._empty_since = None, 0, None
        self._seen = deque([(now, view.demand_seconds(now))])

    def _wanted(self, view: World, now: float) -> int:
        ready = max(1, view.ready)
        per_container = UTILISATION * view.slots
        up, down = math.ceil(MAX_SCALE_UP * ready), math.floor(ready / MAX_SCALE_DOWN)
        total = view.demand_seconds(now)
        while len(self._seen) > 1 and self._seen[1][0] <= now - STABLE_S:
            self._seen.popleft()
        by_stable = math.ceil(self._mean(view, now, total, STABLE_S) / per_container)
        by_panic = math.ceil(self._mean(view, now, total, PANIC_S) / per_container)
        self._seen.append((now, total))
        stable, panic = min(max(by_stable, down), up), min(max(by_panic, down), up)
        if by_panic / ready >= PANIC_THRESHOLD:
            self._panic_at = now
        elif self._panic_at is not None and self._panic_at + STABLE_S < now:
            self._panic_at, self._panic_pods = None, 0
        if self._panic_at is None:
            return stable
        self._panic_pods = max(self._panic_pods, stable, panic)
        return self._panic_pods

    def _mean(self, view: World, now: float, total: float, window_s: float) -> float:
        """Mean concurrency over the window, or since the function woke if that is later; at that instant, the demand."""
        if now <= self._awake_since:
            return view.demand
        since, before = self._seen[0]
        for at, then in reversed(self._seen):
            if at <= now - window_s:
                since, before = at, then
                break
        return (total - before) / (now - since)
