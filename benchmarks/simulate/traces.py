"""When inputs arrive and how long each takes: made from a seed, or read from a CSV file. Pure but for `read_csv`."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from . import functions
from .workload import Durations, Trace, Workload

# The load of a made trace: as many inputs run at once, on average, as this share of the most that can.
MEAN_LOAD = 0.25


class TraceError(Exception):
    """A trace cannot be had; the text says why."""


@dataclass(frozen=True)
class Demand:
    """What a trace is made from.

    Attributes:
        inputs: how many.
        rate: mean arrivals per second.
        service: how long an input runs.
    """

    inputs: int
    rate: float
    service: Durations
    seed: int


def demand_for(inputs: int, most_at_once: int, service: Durations, seed: int) -> Demand:
    """Arrivals as frequent as keeps `MEAN_LOAD` of the `most_at_once` inputs that can run at once running."""
    return Demand(inputs, MEAN_LOAD * most_at_once / service.mean_s, service, seed)


def make(kind: str, demand: Demand) -> Workload:
    """What has that name (a key of `KINDS`)."""
    if kind in MANY:
        return Workload(kind, tuple(MANY[kind](demand)))
    rng = random.Random(f"{kind} {demand.seed}")
    arrivals = ONE[kind](demand, rng)
    service = replace(demand.service, sigma=HEAVY_SIGMA) if kind == "heavy" else demand.service
    return Workload(kind, (Trace(kind, tuple(arrivals), tuple(service.draw(rng) for _ in arrivals)),))


def _constant(demand: Demand, rng: random.Random) -> list[float]:
    return [i / demand.rate for i in range(demand.inputs)]


def _poisson(demand: Demand, rng: random.Random) -> list[float]:
    return _thinned(demand.inputs, rng, demand.rate, lambda at: 1.0)


BURST_S = 60.0
QUIET_S = 174.0
BURST_FACTOR = 3.6
QUIET_FACTOR = 0.1


def _bursts(demand: Demand, rng: random.Random) -> list[float]:
    """A minute of 3.6 times the mean rate, then a tenth of it for three minutes on average, and so on."""
    arrivals: list[float] = []
    start = 0.0
    while len(arrivals) < demand.inputs:
        quiet_s = rng.expovariate(1 / QUIET_S)
        for length, factor in ((quiet_s, QUIET_FACTOR), (BURST_S, BURST_FACTOR)):
            at = start + rng.expovariate(demand.rate * factor)
            while at < start + length:
                arrivals.append(at)
                at += rng.expovariate(demand.rate * factor)
            start += length
    return arrivals[: demand.inputs]


def _diurnal(demand: Demand, rng: random.Random) -> list[float]:
    """Two days, made as short as the trace is: from a tenth of the mean rate to 1.9 times, as a sine."""
    day_s = demand.inputs / demand.rate / 2
    # Begins at night.
    return _thinned(
        demand.inputs, rng, 1.9 * demand.rate, lambda at: (1 - 0.9 * math.cos(2 * math.pi * at / day_s)) / 1.9
    )


HEAVY_SHARE = 0.4
GROUP_GAP_S = 5.0
GROUP_SPREAD_S = 5.0
GAP_SIGMA = 2.0
SIZE_ALPHA = 1.5
LARGEST_GROUP = 8.0
HEAVY_SIGMA = 1.5


def _heavy(demand: Demand, rng: random.Random) -> list[float]:
    """Groups of Pareto size (exponent 1.5, at most 8 times the mean) within seconds of each other, 5 s apart in the mean.

    Room is for the peaks: the mean rate is 0.4 of what other traces have. The gaps are lognormal with a coefficient of
    variation of 7, and service times vary more than elsewhere, too (sigma 1.5). It follows the shape of the Azure
    Functions figures, not their numbers: inter-arrival times with a coefficient of variation far above 1 for many
    applications, lognormal execution times (Shahrad et al., "Serverless in the Wild", USENIX ATC 2020).
    """
    gap = Durations(GROUP_GAP_S, GAP_SIGMA)
    rate = HEAVY_SHARE * demand.rate
    mean_size = rate * GROUP_GAP_S
    least = mean_size * (SIZE_ALPHA - 1) / SIZE_ALPHA
    groups: list[tuple[float, int]] = []
    start, left = 0.0, demand.inputs
    while left:
        size = min(least * rng.paretovariate(SIZE_ALPHA), LARGEST_GROUP * mean_size)
        count = min(max(1, round(size)), left)
        left -= count
        groups.append((start, count))
        start += gap.draw(rng)
    # So few draws with so long a tail miss their mean by far; the trace shall have its rate.
    stretch = demand.inputs / rate / start
    return sorted(
        stretch * start + rng.expovariate(1 / GROUP_SPREAD_S) for start, count in groups for _ in range(count)
    )


def _thinned(inputs: int, rng: random.Random, peak: float, share: Callable[[float], float]) -> list[float]:
    """A Poisson process whose rate at an instant is `share` of `peak` (arrivals per second)."""
    arrivals: list[float] = []
    at = 0.0
    while len(arrivals) < inputs:
        at += rng.expovariate(peak)
        if rng.random() < share(at):
            arrivals.append(at)
    return arrivals


ONE: dict[str, Callable[[Demand, random.Random], list[float]]] = {
    "constant": _constant,
    "poisson": _poisson,
    "bursts": _bursts,
    "diurnal": _diurnal,
    "heavy": _heavy,
}
MANY: dict[str, Callable[[Demand], list[Trace]]] = {
    "timers": lambda demand: functions.timers(demand.inputs, demand.seed),
    "azure": lambda demand: functions.azure(demand.inputs, demand.seed),
}
KINDS = (*ONE, *MANY)


def read_csv(path: Path, service: Durations, seed: int, inputs: int | None = None) -> Workload:
    """One input per line: its arrival in seconds, if known the seconds that it takes, and if there are several its function's name.

    Ascending, from any first instant. A first line that holds no number is a heading. Where the duration is missing, it is drawn.

    Args:
        inputs: only so many of the first ones.

    Raises:
        TraceError: names the line and the reason.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{path}: {getattr(error, 'strerror', None) or 'this is not UTF-8 text'}") from error
    rng = random.Random(seed)
    pools: dict[str, tuple[list[float], list[float]]] = {}
    count, first, before = 0, 0.0, 0.0
    for number, line in enumerate(text.splitlines(), 1):
        cells = [cell.strip() for cell in line.split(",")]
        if not line.strip() or (number == 1 and not _is_number(cells[0])):
            continue
        if inputs is not None and count == inputs:
            break
        where = f"{path}, line {number}"
        if len(cells) > 3:
            raise TraceError(
                f"{where}: {len(cells)} columns; there are arrival and duration in seconds, and a function's name"
            )
        at = _seconds(cells[0], where)
        if not count:
            first = at
        elif at < before:
            raise TraceError(f"{where}: {cells[0]} is before the arrival above it; sort the lines")
        count, before = count + 1, at
        arrivals, services = pools.setdefault(cells[2] if len(cells) > 2 else "", ([], []))
        arrivals.append(at - first)
        services.append(_seconds(cells[1], where) if len(cells) > 1 and cells[1] else service.draw(rng))
    if not pools:
        raise TraceError(f"{path}: there is no arrival in it")
    return Workload(path.name, tuple(Trace(name, tuple(at), tuple(took)) for name, (at, took) in pools.items()))


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _seconds(cell: str, where: str) -> float:
    if not _is_number(cell):
        raise TraceError(f"{where}: {cell!r} is no number of seconds")
    value = float(cell)
    if not math.isfinite(value) or value < 0:
        raise TraceError(f"{where}: {cell} must be a finite number of seconds, 0 or more")
    return value
