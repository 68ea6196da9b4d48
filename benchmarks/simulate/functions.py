"""Many functions at once, as rare and as different as in a public cloud: how many inputs each gets, when, and how long they take. Pure.

The figures are those of Shahrad et al., "Serverless in the Wild" (USENIX ATC 2020, two weeks of Azure Functions): 45 % of applications have an
input per hour or fewer and 81 % one per minute or fewer; of functions 16 % are run by timers, 22 % by queues and workflows, the others by requests and
events; execution times are about lognormal over functions, with a median of 0.7 s and a logarithm that deviates by 2.36. What is not published
is a guess of ours: that half of the requests' functions are memoryless but for night and day, and half have lognormal gaps with a coefficient of
variation of 4; that queues come in groups of Pareto sizes; that a timer's turns are a fifth of a second off; how service times differ within a function.

The 19 % with more than an input per minute are left out. They have 99.6 % of all inputs and hardly pause: there is little that any policy could do for them,
and in the mean over inputs they would hide what it does for the others.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable

from .workload import Durations, Trace

DAY_S = 86_400.0
DAYS = 7.0
# Share of functions, and their inputs per day at the most; in between along the logarithm. The first line is a guess.
RATES = ((0.0, 1.0), (0.45, 24.0), (0.81, 1440.0))
TIMERS = 0.16
QUEUES = 0.22
LOG_MEDIAN_SERVICE = -0.38
SIGMA_SERVICE = 2.36
SHORTEST_SERVICE_S, LONGEST_SERVICE_S = 0.01, 60.0
SIGMA_WITHIN = 0.5
PERIODS_S = (60.0, 300.0, 600.0, 900.0, 1800.0, 3600.0, 7200.0, 21_600.0, 43_200.0, DAY_S)
JITTER_S = 0.2
GAP_SIGMA = math.sqrt(math.log(1 + 4**2))
GROUP_MEAN = 5.0
GROUP_ALPHA = 1.5
LARGEST_GROUP = 50
GROUP_SPREAD_S = 1.0


def azure(inputs: int, seed: int) -> list[Trace]:
    """The whole mix, for a week: as many functions as have about so many inputs, and no more inputs."""
    return _traces("azure", inputs, seed, _any)


def timers(inputs: int, seed: int) -> list[Trace]:
    """Of the mix only what timers run."""
    return _traces("timers", inputs, seed, lambda per_day, rng: ("timer", _timer(per_day, rng)))


def _traces(
    kind: str, inputs: int, seed: int, arrivals_of: Callable[[float, random.Random], tuple[str, list[float]]]
) -> list[Trace]:
    made: list[Trace] = []
    left = inputs
    while left > 0:
        # Each from its own seed: more inputs are more functions, and the first ones stay as they are.
        rng = random.Random(f"{kind} {seed} {len(made)}")
        trigger, arrivals = arrivals_of(_per_day(rng.uniform(0, RATES[-1][0])), rng)
        arrivals = [at for at in arrivals if at < DAYS * DAY_S][:left]
        if not arrivals:
            arrivals = [rng.uniform(0, DAYS * DAY_S)]
        median_s = math.exp(rng.gauss(LOG_MEDIAN_SERVICE, SIGMA_SERVICE))
        service = Durations(min(max(median_s, SHORTEST_SERVICE_S), LONGEST_SERVICE_S), SIGMA_WITHIN)
        made.append(Trace(f"{trigger} {len(made)}", tuple(arrivals), tuple(service.draw(rng) for _ in arrivals)))
        left -= len(arrivals)
    return made


def _any(per_day: float, rng: random.Random) -> tuple[str, list[float]]:
    which = rng.random()
    if which < TIMERS:
        return "timer", _timer(per_day, rng)
    if which < TIMERS + QUEUES:
        return "queue", _groups(per_day, rng)
    if rng.random() < 0.5:
        return "request", _by_day(per_day, rng)
    return "request", _in_fits(per_day, rng)


def _per_day(share: float) -> float:
    """Inputs per day that this share of functions does not exceed."""
    for (low, few), (high, many) in itertools.pairwise(RATES):
        if share <= high:
            return float(few * (many / few) ** ((share - low) / (high - low)))
    return RATES[-1][1]


def _timer(per_day: float, rng: random.Random) -> list[float]:
    """The usual period that is nearest to the rate."""
    period = min(PERIODS_S, key=lambda period: abs(math.log(period * per_day / DAY_S)))
    begin = rng.uniform(0, period)
    turns = int((DAYS * DAY_S - begin) / period) + 1
    return sorted(max(0.0, begin + turn * period + rng.gauss(0, JITTER_S)) for turn in range(turns))


def _by_day(per_day: float, rng: random.Random) -> list[float]:
    """Memoryless; at noon nearly twice the mean, at night a tenth of it."""
    arrivals, at = [], 0.0
    peak = 1.9 * per_day / DAY_S
    while True:
        at += rng.expovariate(peak)
        if at >= DAYS * DAY_S:
            return arrivals
        if rng.random() < (1 - 0.9 * math.cos(2 * math.pi * at / DAY_S)) / 1.9:
            arrivals.append(at)


def _in_fits(per_day: float, rng: random.Random) -> list[float]:
    gap = Durations(DAY_S / per_day, GAP_SIGMA)
    arrivals, at = [], rng.random() * gap.draw(rng)
    while at < DAYS * DAY_S:
        arrivals.append(at)
        at += gap.draw(rng)
    return arrivals


def _groups(per_day: float, rng: random.Random) -> list[float]:
    """Memoryless groups within a second or so."""
    arrivals, at = [], 0.0
    while True:
        at += rng.expovariate(per_day / GROUP_MEAN / DAY_S)
        if at >= DAYS * DAY_S:
            return sorted(arrivals)
        size = min(LARGEST_GROUP, max(1, round(GROUP_MEAN / 3 * rng.paretovariate(GROUP_ALPHA))))
        arrivals += [at + rng.expovariate(1 / GROUP_SPREAD_S) for _ in range(size)]
