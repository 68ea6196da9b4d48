"""Inputs: when they arrive and how long they take. Pure."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Durations:
    """How long something takes: lognormal around a mean, or always the same.

    Attributes:
        mean_s: seconds.
        sigma: standard deviation of the logarithm; 0 is constant.
    """

    mean_s: float
    sigma: float = 0.0

    def draw(self, rng: random.Random) -> float:
        """One duration in seconds."""
        if not self.sigma:
            return self.mean_s
        return self.mean_s * math.exp(rng.gauss(0.0, self.sigma) - self.sigma**2 / 2)


@dataclass(frozen=True)
class Trace:
    """Inputs in the order of their arrival.

    Attributes:
        arrivals: seconds since the first instant, ascending.
        services: seconds that each input takes once it runs.
    """

    name: str
    arrivals: tuple[float, ...]
    services: tuple[float, ...]

    def __len__(self) -> int:
        return len(self.arrivals)


@dataclass(frozen=True)
class Workload:
    """One function's inputs, or those of many that have their containers each."""

    name: str
    pools: tuple[Trace, ...]

    @property
    def inputs(self) -> int:
        return sum(len(pool) for pool in self.pools)

    @property
    def length_s(self) -> float:
        """Seconds from the first instant to the last arrival."""
        return max(pool.arrivals[-1] for pool in self.pools)

    @property
    def work_s(self) -> float:
        """Seconds that all inputs run, added up."""
        return sum(sum(pool.services) for pool in self.pools)
