"""How many containers a function should have, and which of the wanted ones the cluster places now.

Pure: reads no clock, starts nothing. `decide` speaks for one function; `admit` for the room that all functions share.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

DEFAULT_SCALEDOWN_S = 60.0


@dataclass(frozen=True, slots=True)
class Rules:
    """A function's scaling parameters, in Modal's names.

    Attributes:
        max_containers: None is unlimited.
        scaledown_window: seconds that an idle container is kept at most.
        target_inputs: inputs that the autoscaler aims at per container.
    """

    min_containers: int = 0
    max_containers: int | None = None
    buffer_containers: int = 0
    scaledown_window: float = DEFAULT_SCALEDOWN_S
    target_inputs: int = 1


@dataclass(frozen=True, slots=True)
class Load:
    """What is observed of one function.

    Attributes:
        demand: inputs waiting and running, as callers report them.
        starting: containers asked for that are not ready.
        busy: containers that hold work.
        idle_since: one instant per idle container, in order.
    """

    demand: int
    starting: int
    busy: int
    idle_since: tuple[float, ...] = ()

    @property
    def containers(self) -> int:
        return self.starting + self.busy + len(self.idle_since)


@dataclass(frozen=True, slots=True)
class Decision:
    """`target` containers; `limited_by` names the knob that kept it from being another number; look again at `again_at` if nothing happens before."""

    target: int
    limited_by: str
    again_at: float | None = None


def needed_for(rules: Rules, demand: int) -> int:
    """Containers that `demand` inputs need, before bounds."""
    if demand <= 0:
        return 0
    return math.ceil(demand / max(rules.target_inputs, 1)) + rules.buffer_containers


def decide(rules: Rules, load: Load, now: float) -> Decision:
    """Containers that a function should have now.

    Up at once, also from zero to n. Down only by idle containers, at the latest a `scaledown_window` after one too many was idle, never below what is
    needed; lowering `max_containers` drops idle ones at once. The same snapshot gives the same answer. O(log n) in idle containers.
    """
    wanted = needed_for(rules, load.demand)
    limited_by = "demand"
    low = rules.min_containers
    high = rules.max_containers if rules.max_containers else None
    if high is not None:
        low = min(low, high)
    if wanted < low:
        wanted, limited_by = low, "min_containers"
    if high is not None and wanted > high:
        wanted, limited_by = high, "max_containers"
    have, held, idle = load.containers, load.starting + load.busy, load.idle_since
    if wanted >= have:
        return Decision(wanted, limited_by)
    keep, again_at = _kept(rules, wanted, held, idle, now)
    if load.demand <= 0 and rules.buffer_containers and idle and idle[-1] + rules.scaledown_window > now:
        # The last input ended within the window: a buffer is kept as if it still ran, or each of many single inputs would end and start one.
        lately = needed_for(rules, 1) if high is None else min(needed_for(rules, 1), high)
        more, more_at = _kept(rules, max(wanted, min(lately, have)), held + 1, idle[:-1], now)
        if more > keep:
            until = idle[-1] + rules.scaledown_window
            keep, again_at = more, until if more_at is None else min(more_at, until)
    if keep > wanted:
        limited_by = "scaledown_window" if keep > max(wanted, held) else "busy"
    if high is not None and keep > high:
        keep, limited_by = max(high, held), "max_containers"
        again_at = _next_expiry(rules, idle, keep - max(wanted, held), keep - held, now)
    return Decision(keep, limited_by, again_at)


def _kept(rules: Rules, wanted: int, held: int, idle: tuple[float, ...], now: float) -> tuple[int, float | None]:
    """How many stay of `held` and `idle` ones where `wanted` are needed, and when that changes by itself.

    What is idle and not wanted may go when as many have become idle a window ago. So the window counts from when a container became too many: one that
    has been idle for an hour does not go with the first input that ends, to be started again with the next one.
    """
    base = max(wanted, held)
    spare = held + len(idle) - base
    # `bisect` adds as `again_at` does: with a difference, rounding could leave a container that no timer looks at again.
    young = len(idle) - bisect_right(idle, now, key=lambda since: since + rules.scaledown_window)
    kept = min(spare, young)
    return base + kept, _next_expiry(rules, idle, kept, len(idle), now)


def _next_expiry(rules: Rules, idle: tuple[float, ...], spare: int, staying: int, now: float) -> float | None:
    """When the next of the idle containers that stay, `spare` of them too many, is a window idle. The longest idle go first."""
    young = min(staying, len(idle) - bisect_right(idle, now, key=lambda since: since + rules.scaledown_window))
    if spare <= 0 or young <= 0:
        return None
    return idle[len(idle) - min(young, spare)] + rules.scaledown_window


@dataclass(frozen=True, slots=True)
class Ask:
    """What one more container of a function takes from the cluster."""

    cpus: float
    memory: int = 0
    gpus: float = 0


@dataclass(frozen=True, slots=True)
class Room:
    """What is free, summed over the cluster, and how many starts may be in flight at once (as many as the nodes have cores)."""

    cpus: float
    memory: int
    gpus: float
    starts: int
    can_grow: bool = False

    def holds(self, ask: Ask) -> bool:
        return ask.cpus <= self.cpus + 1e-6 and ask.memory <= self.memory and ask.gpus <= self.gpus + 1e-6

    def less(self, ask: Ask) -> Room:
        return Room(
            self.cpus - ask.cpus, self.memory - ask.memory, self.gpus - ask.gpus, self.starts - 1, self.can_grow
        )


def admit(
    missing: Mapping[str, int], asks: Mapping[str, Ask], room: Room, turn: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Which functions may start a container now, and which must wait for room.

    Functions are served in turn, one container each, so that one with a thousand waiting inputs does not starve another with one.

    Args:
        missing: function -> containers wanted and not there.
        asks: function -> what one container takes.
        turn: order in which functions are served; those served least recently first.

    Returns:
        (one name per container to start, names that wait for room).
    """
    left = {tag: count for tag, count in missing.items() if count > 0}
    starts: list[str] = []
    waiting: list[str] = []
    while left and room.starts > 0:
        progressed = False
        for tag in turn:
            if left.get(tag, 0) <= 0 or tag in waiting or room.starts <= 0:
                continue
            if room.holds(asks[tag]):
                room = room.less(asks[tag])
                starts.append(tag)
                left[tag] -= 1
                progressed = True
            else:
                waiting.append(tag)
                if room.can_grow:
                    # One pending actor of each shape tells a growing cluster what is wanted.
                    starts.append(tag)
                    progressed = True
        if not progressed:
            break
    return starts, waiting
