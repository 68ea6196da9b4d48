"""How many containers a function should have, and which of the wanted ones the cluster places now.

Pure: reads no clock, starts nothing. `decide` speaks for one function; `admit` for the room that all functions share.
"""

from __future__ import annotations

import math
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
        idle_since: one instant per idle container.
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

    Up at once, also from zero to n. Down only by idle containers, each after `scaledown_window`, never below what is needed; lowering
    `max_containers` drops idle ones at once. The same snapshot gives the same answer.
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
    have = load.containers
    if wanted >= have:
        return Decision(wanted, limited_by)
    # Compared like `_next_expiry` does: by a difference, rounding could leave a container that no timer looks at again.
    expired = sum(1 for since in load.idle_since if since + rules.scaledown_window <= now)
    keep = max(wanted, have - expired)
    if high is not None and keep > high:
        keep = max(high, have - len(load.idle_since))
        return Decision(keep, "max_containers", _next_expiry(rules, load, keep, now))
    if keep > wanted:
        limited_by = "scaledown_window"
    return Decision(keep, limited_by, _next_expiry(rules, load, keep, now))


def _next_expiry(rules: Rules, load: Load, keep: int, now: float) -> float | None:
    """When the next idle container's window ends, of those that stay when `keep` do: the longest idle go first."""
    staying = sorted(load.idle_since)[load.containers - keep :]
    later = [since + rules.scaledown_window for since in staying if since + rules.scaledown_window > now]
    return min(later) if later else None


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
