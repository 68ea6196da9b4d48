"""Between Ray Serve and `autoscale.decide`: what Serve shows of a deployment, as a `Load`; what is wanted, as Serve must be told it.

Pure: reads no clock, starts nothing, knows no Ray. Serve shows totals only, so three things are worked out here:

- **Which containers are idle.** Inputs waiting and running are set against the containers that are ready: with two inputs on
  five, three are idle. When more work comes it is the shortest idle that count as busy again, and of those that Serve stops
  the longest idle. So n containers stay for as long as n were needed at one moment of the window, although Serve's router
  spreads requests over all of them and none may be idle for long.
- **How many may start at once.** A Serve replica takes 1.5 s of a core to start, so eight on two cores are all ready after
  eight seconds and none before seven. As many as there are cores start at a time, the first of them after two. Where
  starts take long for another reason (a node must come up, a model loads) more are let go every few seconds, twice as many
  each time.
- **Serve's factors**, with which it multiplies what a policy asks for: undone, so that they only choose how many start from zero.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from raymodal.logic.autoscale import Load, Rules

UNLIMITED = 100
"""Containers where `max_containers` is not given: Serve needs a number, and this is its own."""
METRICS_INTERVAL_S = 0.25
"""How often each handle of a deployment tells Serve's controller what waits and runs.

Measured on two cores, from a burst to the policy that sees it: 0.2 s with 0.1 s, 0.3 with 0.25, 0.5 with 0.5, 0.6 with 1 and Serve's
mean over 2 s; a handle costs the controller 2, 1, 0.5 % of a core. Every proxy, and every replica that calls, has a handle.
"""
LOOK_BACK_S = 0.5
"""The most inputs at one moment of these seconds are what counts. Serve samples them five times in it: every 0.1 s."""
PATIENCE_S = 5.0
"""Starts that take longer than this are not short of cores."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What Serve shows of a deployment at one moment.

    Attributes:
        ready: containers that take inputs.
        target: containers that Serve has set out to have; those that are not ready are starting.
        demand: inputs waiting and running, by the handles' last reports.
    """

    ready: int
    target: int
    demand: float


@dataclass(frozen=True, slots=True)
class Memory:
    """What is kept from one look to the next.

    Attributes:
        ready: containers that were ready, and meant to stay.
        idle_since: one instant per idle container, longest idle first.
        starting_since: since when containers have been starting without any becoming ready.
    """

    ready: int = 0
    idle_since: tuple[float, ...] = ()
    starting_since: float | None = None


def observed(seen: Seen, memory: Memory, now: float) -> tuple[Load, Memory]:
    """What `decide` asks for, and what to remember.

    A clock that goes backwards makes windows begin anew, at worst.
    """
    # Above the target are those that Serve is about to stop: they count no more, or the next decision would keep them.
    ready = min(seen.ready, seen.target)
    demand = max(0, math.ceil(seen.demand))
    busy = min(ready, demand)
    stopped = max(0, memory.ready - ready)
    idle_since = tuple(min(since, now) for since in memory.idle_since[stopped:])[: ready - busy]
    idle_since += (now,) * (ready - busy - len(idle_since))
    starting = max(0, seen.target - ready)
    starting_since: float | None = None
    if starting:
        before = memory.starting_since
        starting_since = now if before is None or ready > memory.ready else min(before, now)
    return Load(demand, starting, busy, idle_since), Memory(ready, idle_since, starting_since)


def paced(wanted: int, load: Load, memory: Memory, at_once: int, now: float) -> int:
    """As many of the wanted containers as may be there or start now; what has been started stays.

    Args:
        at_once: containers that may start at a time.
        memory: as `observed` returned it with this `load`.
    """
    have = load.containers
    if wanted <= have:
        return wanted
    waited = 0.0 if memory.starting_since is None else now - memory.starting_since
    doublings = min(int(waited / PATIENCE_S), 20)
    return max(have, min(wanted, have - load.starting + (max(at_once, 1) << doublings)))


def told(wanted: int, ready: int, upscaling_factor: float, downscaling_factor: float) -> float:
    """The number that Serve turns into `wanted`.

    Serve takes `ceil(ready + factor * (told - ready))`. Half a container less keeps rounding errors out of the ceiling.
    """
    change = wanted - ready
    factor = upscaling_factor if change > 0 else downscaling_factor
    if ready == 0 or change == 0 or factor == 1:
        return wanted
    return ready + (change - 0.5) / factor


def scaling_options(rules: Rules) -> dict[str, Any]:
    """The fields of Serve's `AutoscalingConfig` that leave the decision to the policy.

    Delays are 0, as the window is the policy's own. From zero Serve starts containers before it asks a policy: one,
    or as many as `upscaling_factor` says, which is what a function's first input calls for: one and the buffer.
    """
    most = rules.max_containers or max(UNLIMITED, rules.min_containers)
    options: dict[str, Any] = {
        "min_replicas": rules.min_containers,
        "max_replicas": most,
        "target_ongoing_requests": rules.target_inputs,
        "upscale_delay_s": 0.0,
        "downscale_delay_s": 0.0,
        "downscale_to_zero_delay_s": 0.0,
        "metrics_interval_s": METRICS_INTERVAL_S,
        "look_back_period_s": LOOK_BACK_S,
        "aggregation_function": "max",
    }
    from_zero = min(1 + rules.buffer_containers, most)
    if from_zero > 1:
        options["upscaling_factor"] = float(from_zero)
    return options
