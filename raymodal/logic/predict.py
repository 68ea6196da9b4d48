"""When a function's inputs come again, learned from when they came, and what that makes of its scaling rules.

Pure: reads no clock, starts nothing. `Arrivals.shape` bends the `Rules`, and `autoscale.decide` decides by them as by any others.

Theory of operation. A function that has nothing to do has an **idle time** until it has again. By the last `REMEMBERED` of them, newer ones counting
more, a `Forecast` says how long an idle container is worth keeping, and in which later window the next input is expected, if in any. Containers are
started ahead so that they are ready when that window opens, as many as every other return has needed, and go when nobody came in it. Windows are looked
for in the idle times and in the times from one return to the next: a timer keeps the latter whatever its inputs take. Of all such plans that one is taken
that would have been worth most: seconds waited idle against returns met, of which each is worth `WORTH` times `scaledown_window`. It must be no chance that
it is better than the window alone (`_is_sure`), and it never takes more idle time than that. Else, and before there is enough to go by, the rules
stay as they are.

It is the hybrid policy of Shahrad et al., "Serverless in the Wild" (USENIX ATC 2020), with two differences. They keep a histogram in minutes up to four
hours and forecast what lies beyond by a time series; a few exact times do for both. They spend what the histogram says; here `scaledown_window` is the
measure of what a function may spend. So what Modal says of it holds: no container idles longer, also not one that was started ahead and never used,
give or take by how much starts differ.

What it does not do: predict a rise from a demand above zero, or a return that only a calendar knows (weekends). What it gives up: a function that comes
back at random, and of whose idle times less than one in `WORTH` ends within the window, is let go at once and always starts cold. It forgets when its
process ends.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from raymodal.logic.autoscale import Rules, needed_for

POLICIES = ("fixed", "hybrid")

REMEMBERED = 64
FADING = 0.97
"""What an idle time counts of what the next one does: after 23 it is half, so that a changed timer is learned in as many turns."""
SURE = 1.9
"""What a forecast has met beyond what the window has is this many times what chance deviates by, or it is not followed. So it takes four."""
MARGIN_S = 1.0
MARGIN_SHARE = 0.1
"""Around the times that a window is made of: a second, and this share of its width on each side."""
SHORTEST_S = 1.0
"""A shorter pause is none: a loop of calls would wash everything else out of the memory, and no container starts in it."""
WORTH = 4.0
"""A cold start is worth waiting so many windows; what meets fewer returns is given up, once that has cost as much."""


@dataclass(slots=True)
class StartupTime:
    """How long a container of a function takes until it is ready, in seconds, by the last few; None before the first."""

    _last: deque[float] = field(default_factory=lambda: deque(maxlen=32))
    _sorted: list[float] | None = None

    def add(self, seconds: float) -> None:
        """One container was ready so long after it was asked for. What is no such time is passed over."""
        if math.isfinite(seconds) and seconds >= 0:
            self._last.append(seconds)
            self._sorted = None

    @property
    def typical(self) -> float | None:
        """The median."""
        return self._percentile(0.5)

    @property
    def late(self) -> float | None:
        """What all but one of twenty do not exceed."""
        return self._percentile(0.95)

    def _percentile(self, share: float) -> float | None:
        if self._sorted is None:
            self._sorted = sorted(self._last)
        return self._sorted[min(int(share * len(self._sorted)), len(self._sorted) - 1)] if self._sorted else None


class Shape(NamedTuple):
    """The rules that hold now.

    Attributes:
        again_at: they change at this instant if demand does not before; None: they stay.
        why: "fixed" (as the user said), "let go" (the window is cut short), "expected" (inputs are, in the window that now is or begins
            once containers have started).
    """

    rules: Rules
    again_at: float | None
    why: str


@dataclass(frozen=True, slots=True)
class _Phase:
    """From one return of demand to the next. `idle` and `gap` in seconds: without demand, and in all; `peak` inputs at once."""

    idle: float
    gap: float
    peak: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is expected once there is no demand any more. Seconds.

    Attributes:
        keep: an idle container is kept so long.
        opens, closes: the next return, or None for both.
        since_return: these count from the last return; else from the end of its demand.
        peak: inputs at once that are expected.
    """

    keep: float
    opens: float | None = None
    closes: float | None = None
    since_return: bool = False
    peak: int = 0

    def meets(self, phase: _Phase) -> bool:
        """Whether that return would have found containers."""
        if phase.idle <= self.keep:
            return True
        time = phase.gap if self.since_return else phase.idle
        return self.opens is not None and self.closes is not None and self.opens <= time <= self.closes


@dataclass(slots=True)
class Arrivals:
    """What is remembered of one function's demand, in a bounded space.

    Attributes:
        startup: may be shared with whoever else needs it.
    """

    startup: StartupTime = field(default_factory=StartupTime)
    _phases: deque[_Phase] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    _now: float = -math.inf
    _demand: int = 0
    _peak: int = 0
    _risen_at: float | None = None
    _fallen_at: float | None = None
    # The forecast and what it was made from: the window, and how many phases there had been.
    _forecast: Forecast | None = None
    _made_from: tuple[float, int] = (math.nan, 0)
    _seen: int = 0

    def observe(self, demand: int, now: float) -> None:
        """So many inputs wait and run. To be told at every change, at least from and to zero; constant time."""
        self._now = now = max(now, self._now)
        if demand > 0 and not self._demand:
            self._rise(now)
        elif demand <= 0 and self._demand:
            self._fallen_at = now
        self._demand = max(demand, 0)
        self._peak = max(self._peak, self._demand)

    def _rise(self, now: float) -> None:
        if self._risen_at is not None and self._fallen_at is not None:
            idle = now - self._fallen_at
            if idle <= SHORTEST_S:
                return
            self._phases.append(_Phase(idle, now - self._risen_at, self._peak))
            self._seen += 1
        self._risen_at, self._peak = now, 0

    def shape(self, rules: Rules, now: float) -> Shape:
        """The rules to decide by at `now`. Never fewer than their `min_containers`, never more than their `max_containers`, never a longer window."""
        now = max(now, self._now)
        if self._demand or self._fallen_at is None or self._risen_at is None:
            return Shape(rules, None, "fixed")
        forecast = self.forecast(rules.scaledown_window)
        if forecast is None:
            return Shape(rules, None, "fixed")
        short = replace(rules, scaledown_window=min(forecast.keep, rules.scaledown_window))
        if forecast.opens is None or forecast.closes is None:
            return Shape(short, None, "let go")
        origin = self._risen_at if forecast.since_return else self._fallen_at
        begins, ends = origin + forecast.opens - (self.startup.late or 0.0), origin + forecast.closes
        if begins < self._fallen_at and ends - self._fallen_at > rules.scaledown_window:
            # Too soon to start anew, too late to be waited for.
            return Shape(rules, None, "fixed")
        if now < begins:
            return Shape(short, begins, "let go")
        if now >= ends:
            # At once: what was started for the window has idled in it.
            return Shape(replace(rules, scaledown_window=0.0), None, "let go")
        low = max(rules.min_containers, needed_for(rules, forecast.peak))
        if rules.max_containers:
            low = min(low, rules.max_containers)
        return Shape(replace(short, min_containers=low), ends, "expected")

    def forecast(self, window: float) -> Forecast | None:
        """What is expected of an idle time, by a `scaledown_window` of so many seconds; None: nothing better than to wait for it."""
        made_for, made_at = self._made_from
        if made_for != window or self._seen - made_at >= max(1, len(self._phases) // 8):
            self._forecast = _forecast(self._phases, window)
            self._made_from = (window, self._seen)
        return self._forecast


def _forecast(phases: Sequence[_Phase], window: float) -> Forecast | None:
    if not phases or window <= 0:
        return None
    weights = [FADING**age for age in reversed(range(len(phases)))]
    idle = _Times((phase.idle for phase in phases), weights)
    budget = idle.waited(window)
    worth = WORTH * window
    found = _Found(-math.inf, Forecast(window))
    # First, so that they win where both are exact: an idle time is shorter by what its containers took to start, a timer's turn is not.
    gaps = _Times((phase.gap for phase in phases), weights)
    keep = min(SHORTEST_S, window)
    spent = idle.waited(keep)
    for opens, closes, met, cost in gaps.windows(window, budget - spent, 0.0):
        found = found.or_better(worth * met - spent - cost, Forecast(keep, opens, closes, since_return=True))
    for keep in _keeps(idle, window, 4):
        kept, spent = idle.within(keep), idle.waited(keep)
        for opens, closes, met, cost in idle.windows(window, budget - spent, keep):
            found = found.or_better(worth * (kept + met) - spent - cost, Forecast(keep, opens, closes))
    let_go = _Found(-math.inf, Forecast(window))
    for keep in _keeps(idle, window, len(phases)):
        let_go = let_go.or_better(worth * idle.within(keep) - idle.waited(keep), Forecast(keep))
    if found.value > let_go.value and _is_sure(found.forecast, phases, weights, window):
        peaks = _Times((phase.peak for phase in phases), weights)
        return replace(found.forecast, peak=math.ceil(peaks.middle()))
    return let_go.forecast if let_go.value - (worth * idle.within(window) - budget) >= worth else None


def _is_sure(forecast: Forecast, phases: Sequence[_Phase], weights: Sequence[float], window: float) -> bool:
    """Whether a forecast has met so many that the window has not, and the other way so few, that it is no chance."""
    gained = lost = 0.0
    for phase, weight in zip(phases, weights, strict=True):
        is_met = forecast.meets(phase)
        if is_met and phase.idle > window:
            gained += weight
        elif not is_met and phase.idle <= window:
            lost += weight
    return gained - lost > 0 and gained - lost >= SURE * math.sqrt(gained + lost)


class _Found(NamedTuple):
    """The best forecast until now, and what it would have been worth: seconds, for returns met less those waited."""

    value: float
    forecast: Forecast

    def or_better(self, value: float, forecast: Forecast) -> _Found:
        # Rounded: sums of the same weights in another order are no difference.
        return _Found(value, forecast) if round(value, 6) > round(self.value, 6) else self


class _Times:
    """Times with weights, ascending, with sums over the first few of them."""

    def __init__(self, times: Iterator[float], weights: Sequence[float]) -> None:
        pairs = sorted(zip(times, weights, strict=True))
        self.times = [time for time, _ in pairs]
        self._weight = [0.0, *itertools.accumulate(weight for _, weight in pairs)]
        self._weighted = [0.0, *itertools.accumulate(time * weight for time, weight in pairs)]

    def within(self, seconds: float) -> float:
        """Weight of the times up to this one."""
        return self._weight[bisect_right(self.times, seconds)]

    def waited(self, seconds: float) -> float:
        """How long one waits for each in the sum, who gives up after so many seconds."""
        count = bisect_right(self.times, seconds)
        return self._weighted[count] + seconds * (self._weight[-1] - self._weight[count])

    def middle(self) -> float:
        """The weighted median."""
        return next(
            time for time, sum_ in zip(self.times, self._weight[1:], strict=True) if 2 * sum_ >= self._weight[-1]
        )

    def windows(self, widest: float, budget: float, after: float) -> Iterator[tuple[float, float, float, float]]:
        """Each widest window that begins at one of the times after `after`: when it opens and closes, the weight in it, what waiting in it costs."""
        last = bisect_right(self.times, after)
        for first in range(last, len(self.times)):
            last = max(last, first)
            best = None
            while last < len(self.times):
                margin = MARGIN_S + MARGIN_SHARE * (self.times[last] - self.times[first])
                opens, closes = self.times[first] - margin, self.times[last] + margin
                inside = self._weight[last + 1] - self._weight[first]
                waited = self._weighted[last + 1] - self._weighted[first] - inside * opens
                cost = waited + (closes - opens) * (self._weight[-1] - self._weight[last + 1])
                if closes - opens > widest or cost > budget:
                    break
                best = (opens, closes, inside, cost)
                last += 1
            if best is not None:
                yield best


def _keeps(idle: _Times, window: float, parts: int) -> list[float]:
    """How long containers might be kept at first: hardly, or until so many parts of the shorter idle times are over."""
    within = bisect_right(idle.times, window)
    some = {idle.times[(within - 1) * part // parts] for part in range(1, parts + 1)} if within else set()
    return [min(window, keep) for keep in (SHORTEST_S, *sorted(_with_margin(time) for time in some))]


def _with_margin(seconds: float) -> float:
    return seconds * (1 + MARGIN_SHARE) + MARGIN_S
