"""What the controller knows (pools, containers, callers, leases) and what it may command. Only records: `logic.fleet` says how they change."""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from enum import StrEnum

from raymodal.logic.autoscale import Ask, Decision, Load, Rules
from raymodal.logic.predict import Arrivals, StartupTime


class Status(StrEnum):
    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


# --- commands --------------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """Create a container. `free`: it asks for no CPU and memory, because every holder of room waits for it."""

    container_id: str
    tag: str
    free: bool


@dataclass(frozen=True, slots=True)
class Drain:
    """Tell a container to finish, run its exit hooks and end. `patient`: what it runs may take its time."""

    container_id: str
    reason: str
    patient: bool = False


@dataclass(frozen=True, slots=True)
class Kill:
    """End a container and what runs in it, now. `in_order`: after what it runs was cancelled and its exit hooks have run, if that is soon."""

    container_id: str
    reason: str
    in_order: bool = False


@dataclass(frozen=True, slots=True)
class CancelFor:
    """Cancel what a container runs for one caller that is gone; it runs others' inputs too."""

    container_id: str
    client_id: str


@dataclass(frozen=True, slots=True)
class Grant:
    client_id: str
    tag: str
    lease_id: int
    container_id: str


@dataclass(frozen=True, slots=True)
class Yield:
    """Ask a caller to give a lease back at the next bundle boundary."""

    client_id: str
    tag: str
    lease_id: int


@dataclass(frozen=True, slots=True)
class Revoke:
    """Tell a caller that a lease has ended. `gone`: the container is dead; else it drains."""

    client_id: str
    tag: str
    lease_id: int
    gone: bool


@dataclass(frozen=True, slots=True)
class Refuse:
    """A caller's queued inputs of a function have failed one attempt: no container can be had. `failure` is packed wire.Failure."""

    client_id: str
    tag: str
    failure: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Note:
    """Tell the people: `key` once per app."""

    key: str
    text: str


Command = Start | Drain | Kill | CancelFor | Grant | Yield | Revoke | Refuse | Note


# --- state -----------------------------------------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Lease:
    lease_id: int
    client_id: str
    container_id: str
    granted_at: float
    asked_back: bool = False


@dataclass(slots=True)
class Container:
    container_id: str
    tag: str
    ask: Ask
    status: Status
    since: float
    leases: dict[int, Lease] = field(default_factory=dict)
    idle_since: float = 0.0
    pending: bool = False  # started although there is no room: a cluster that can grow shall hear of it
    retiring: bool = False  # another function waits for its room: no further leases
    stalled: bool = False  # asked for a while ago, and the cluster has not begun with it
    lingers: bool = False  # it drains, and is not told to end yet
    used: bool = False  # it has run the one input that it is for, or wants none


@dataclass(slots=True)
class Client:
    """A calling process. `container_id` is set if it is itself a container."""

    client_id: str
    container_id: str | None
    seen: float
    demand: dict[str, int] = field(default_factory=dict)
    lasting: dict[str, int] = field(default_factory=dict)  # remembered for one that comes back


@dataclass(frozen=True, slots=True)
class Decided:
    """A decision that was another one than before, and what it was made from. For people."""

    at: float
    decision: Decision
    rules: Rules
    demand: int
    starting: int
    busy: int
    idle: int


@dataclass(slots=True)
class Pool:
    tag: str
    rules: Rules
    ask: Ask
    slots: int = 1
    runs: int | None = None  # of its slots, those that are granted while another container is on its way
    max_starts: int = 3  # start failures in a row before callers are told
    containers: dict[str, Container] = field(default_factory=dict)
    held: dict[str, dict[int, Lease]] = field(default_factory=dict)  # by client
    queue: OrderedDict[str, float] = field(default_factory=OrderedDict)  # clients that wait, oldest first
    ever_ready: bool = False
    first_ready_at: float = -math.inf
    failed_starts: int = 0
    retry_at: float = -math.inf
    decision: Decision | None = None
    decided_by: Rules | None = None  # `rules`, or what its scaling policy has made of them
    decisions: deque[Decided] = field(default_factory=lambda: deque(maxlen=32))
    starved_since: float | None = None
    startup: StartupTime = field(default_factory=StartupTime)
    arrivals: Arrivals | None = None  # where its scaling policy is "hybrid"
    asked: dict[str, int] = field(default_factory=dict)  # client -> slots that it could use
    lasting: dict[str, int] = field(default_factory=dict)  # of these, those that outlast a start
    again_at: float | None = None  # when it must be looked at if nothing happens before

    def load(self) -> Load:
        """What the autoscaler sees of it."""
        starting = busy = 0
        idle: list[float] = []
        for container in self.containers.values():
            if container.status is Status.STARTING:
                starting += 1
            elif container.status is Status.READY:
                if container.leases:
                    busy += 1
                else:
                    idle.append(container.idle_since)
        idle.sort()
        return Load(self.demand(), starting, busy, tuple(idle))

    def stats(self) -> Stats:
        load = self.load()
        return Stats(
            load.demand, load.starting, load.busy, len(load.idle_since), sum(len(h) for h in self.held.values())
        )

    def live(self) -> int:
        """Containers that have room or are getting it, and keep it."""
        return sum(1 for c in self.containers.values() if c.status is not Status.DRAINING and not c.pending)

    @property
    def is_asleep(self) -> bool:
        """Nobody wants anything of it and it has nothing: a class may leave thousands of such behind, one for each of its objects."""
        return not (self.containers or self.queue or self.rules.min_containers or self.arrivals)

    def foresee(self) -> None:
        """From now on learn when its inputs come."""
        self.arrivals = Arrivals(self.startup)

    def demand(self) -> int:
        """Slots that are worth a container: those in use, and those that callers expect to keep busy for longer than a start takes."""
        total = 0
        for client_id, demand in self.asked.items():
            total += min(demand, max(self.lasting.get(client_id, demand), len(self.held.get(client_id, ())), 1))
        return total

    def unmet(self) -> int:
        """Slots that callers could use and do not have."""
        return sum(max(0, demand - len(self.held.get(client_id, ()))) for client_id, demand in self.asked.items())


@dataclass(frozen=True, slots=True)
class Stats:
    """What one function looks like now: inputs wanted, containers by state, leases held."""

    demand: int
    starting: int
    busy: int
    idle: int
    leases: int
