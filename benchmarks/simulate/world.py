"""Containers and the queue in front of them, in simulated time. Pure: events from a heap, no clock, the same for a seed.

An input waits in one queue, first come first served, for a container with a free slot. Of those the fullest takes it,
else the one that was idle last, so that the others may go: as `logic.fleet` grants slots. After every event, and at
the instant that it asked for, the policy is asked how many containers there should be. Missing ones start at once,
each ready after a start-up time from the model; never are there more than `most`, those that end included. Of too many,
the longest idle go first; what a policy cuts beyond those finishes its inputs and takes no more.
"""

from __future__ import annotations

import heapq
import random
from collections import OrderedDict, deque
from collections.abc import ValuesView
from dataclasses import dataclass
from typing import Protocol

from ..stats import percentile
from .workload import Durations, Trace

# A policy that never lets go is charged for this long after the last input has ended.
LONGEST_TAIL_S = 3600.0


class Policy(Protocol):
    """How many containers there should be."""

    @property
    def again_at(self) -> float | None:
        """Ask again at this instant (seconds) if nothing happens before."""

    @property
    def cuts_starting(self) -> bool:
        """Whether containers that still start are the first to go, as in Kubernetes and Ray Serve, or stay."""

    def target(self, view: World, now: float) -> int | None:
        """Containers wanted at `now` (seconds), or None: as before."""


@dataclass(frozen=True)
class Outcome:
    """What came of one trace under one policy.

    Attributes:
        cold_percent: share of inputs whose container was not ready yet when they arrived.
        idle_s: container-seconds of ready containers without any input.
        container_s: container-seconds, from the ask to the end.
        most_containers: at one instant.
        sizes: instants and by how many containers there are more then.
        ended_at: seconds, when the last input had ended.
        waits: seconds from arrival to service, per input.
        cold: per input, whether its container was not ready yet when it arrived.
    """

    wait_p50_s: float
    wait_p99_s: float
    cold_percent: float
    idle_s: float
    container_s: float
    most_containers: int
    starts: int
    ended_at: float
    waits: tuple[float, ...]
    cold: tuple[bool, ...]
    sizes: tuple[tuple[float, int], ...]


class _Container:
    __slots__ = ("asked_at", "idle_since", "is_draining", "is_gone", "ready_at", "running")

    def __init__(self, asked_at: float) -> None:
        self.asked_at = asked_at
        self.ready_at: float | None = None
        self.idle_since = 0.0
        self.running = 0
        self.is_draining = False
        self.is_gone = False


_READY, _DONE = 0, 1


class World:
    """One run. What a policy may look at is public.

    Attributes:
        slots: inputs that a container serves at once.
        most: containers at the most.
        demand: inputs waiting and running.
        waiting: of these, inputs without a container.
        draining: containers that a policy cut while they were busy; the counts below leave them out.
        startups: seconds that each container took until it was ready, in the order in which they were.
    """

    def __init__(self, trace: Trace, policy: Policy, *, most: int, slots: int, start: Durations, seed: int) -> None:
        self.slots = slots
        self.most = most
        self.demand = 0
        self.draining = 0
        self.startups: list[float] = []
        self._trace = trace
        self._policy = policy
        self._start = start
        self._rng = random.Random(seed)
        self._queue: deque[int] = deque()
        # By how many inputs they run; within one, in the order in which they came to it. The last set is full ones. With when each was idle last.
        self._ready: list[OrderedDict[_Container, float]] = [OrderedDict() for _ in range(slots + 1)]
        self._starting: OrderedDict[_Container, None] = OrderedDict()
        self._heap: list[tuple[float, int, int, _Container]] = []
        self._order = 0
        self._busy = 0
        self._demand_s = 0.0
        self._demand_at = 0.0
        self._waits = [0.0] * len(trace)
        self._cold = [False] * len(trace)
        self._idle_s = 0.0
        self._container_s = 0.0
        self._most_seen = 0
        self._starts = 0
        self._sizes: list[tuple[float, int]] = []

    # --- what policies see

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def starting(self) -> int:
        """Containers asked for that are not ready."""
        return len(self._starting)

    @property
    def busy(self) -> int:
        """Ready containers with an input."""
        return self._busy

    @property
    def idle(self) -> int:
        """Ready containers without one."""
        return len(self._ready[0])

    @property
    def ready(self) -> int:
        return self._busy + len(self._ready[0])

    @property
    def containers(self) -> int:
        return len(self._starting) + self._busy + len(self._ready[0])

    def idle_since(self) -> ValuesView[float]:
        """Since when each idle container is (seconds), longest first."""
        return self._ready[0].values()

    def demand_seconds(self, now: float) -> float:
        """Integral of `demand` over time up to `now`: input-seconds."""
        return self._demand_s + self.demand * (now - self._demand_at)

    # --- the run

    def run(self) -> Outcome:
        """Until every input is served, no container is left and the policy wants none later (or for `LONGEST_TAIL_S` after the last input)."""
        arrivals = self._trace.arrivals
        count, arrived, now, ended_at = len(arrivals), 0, 0.0, 0.0
        never = float("inf")
        while True:
            is_over = arrived == count and not self.demand
            again_at = self._policy.again_at
            if is_over and not (self.containers or self.draining or again_at is not None):
                break
            event_at = self._heap[0][0] if self._heap else never
            arrival_at = arrivals[arrived] if arrived < count else never
            at = min(event_at, arrival_at, never if again_at is None else max(again_at, now))
            if is_over and at > ended_at + LONGEST_TAIL_S:
                now = ended_at + LONGEST_TAIL_S
                break
            if at == never:
                raise RuntimeError(f"{self.waiting} inputs wait, and {self._policy!r} starts no container for them")
            now = at
            if event_at == at:
                _, _, kind, container = heapq.heappop(self._heap)
                if kind == _DONE:
                    self._done(container, now)
                    ended_at = now
                elif not container.is_gone:
                    self._become_ready(container, now)
                else:
                    continue
            elif arrival_at == at:
                self._arrive(arrived, now)
                arrived += 1
            target = self._policy.target(self, now)
            if target is not None:
                self._aim(target, now)
        for container in [*self._ready[0], *self._starting]:
            self._end(container, now)
        return self._outcome(ended_at)

    def _outcome(self, ended_at: float) -> Outcome:
        waits = sorted(self._waits)
        return Outcome(
            wait_p50_s=percentile(waits, 50),
            wait_p99_s=percentile(waits, 99),
            cold_percent=100 * sum(self._cold) / len(waits),
            idle_s=self._idle_s,
            container_s=self._container_s,
            most_containers=self._most_seen,
            starts=self._starts,
            ended_at=ended_at,
            waits=tuple(self._waits),
            cold=tuple(self._cold),
            sizes=tuple(self._sizes),
        )

    def _change_demand(self, by: int, now: float) -> None:
        self._demand_s += self.demand * (now - self._demand_at)
        self._demand_at = now
        self.demand += by

    def _arrive(self, index: int, now: float) -> None:
        self._change_demand(1, now)
        for running in range(self.slots - 1, -1, -1):
            if self._ready[running]:
                container, _ = self._ready[running].popitem()
                self._serve(container, index, now)
                self._ready[container.running][container] = container.idle_since
                return
        self._queue.append(index)

    def _serve(self, container: _Container, index: int, now: float) -> None:
        """Let a container that is in no set run one more input."""
        if not container.running:
            self._idle_s += now - container.idle_since
            self._busy += 1
        container.running += 1
        arrived_at = self._trace.arrivals[index]
        self._waits[index] = now - arrived_at
        if container.ready_at is None or container.ready_at > arrived_at:
            self._cold[index] = True
        self._push(now + self._trace.services[index], _DONE, container)

    def _done(self, container: _Container, now: float) -> None:
        self._change_demand(-1, now)
        if container.is_draining:
            container.running -= 1
            if not container.running:
                self.draining -= 1
                self._end(container, now)
            return
        del self._ready[container.running][container]
        container.running -= 1
        if not container.running:
            self._busy -= 1
            container.idle_since = now
        self._fill(container, now)

    def _become_ready(self, container: _Container, now: float) -> None:
        del self._starting[container]
        container.ready_at = container.idle_since = now
        self.startups.append(now - container.asked_at)
        self._fill(container, now)

    def _fill(self, container: _Container, now: float) -> None:
        while self._queue and container.running < self.slots:
            self._serve(container, self._queue.popleft(), now)
        self._ready[container.running][container] = container.idle_since

    def _aim(self, target: int, now: float) -> None:
        target = max(0, min(target, self.most))
        missing = target - self.containers
        for _ in range(min(missing, self.most - self.containers - self.draining)):
            container = _Container(now)
            self._starting[container] = None
            self._starts += 1
            self._sizes.append((now, 1))
            self._push(now + self._start.draw(self._rng), _READY, container)
        self._most_seen = max(self._most_seen, self.containers + self.draining)
        if missing < 0:
            self._cut(-missing, now)

    def _cut(self, count: int, now: float) -> None:
        if self._policy.cuts_starting:
            while count and self._starting:
                self._end(self._starting.popitem()[0], now)
                count -= 1
        for running, containers in enumerate(self._ready):
            while count and containers:
                container, _ = containers.popitem(last=False)
                count -= 1
                if not running:
                    self._end(container, now)
                    continue
                container.is_draining = True
                self._busy -= 1
                self.draining += 1

    def _end(self, container: _Container, now: float) -> None:
        container.is_gone = True
        if container.ready_at is not None and not container.is_draining:
            self._idle_s += now - container.idle_since
        self._container_s += now - container.asked_at
        self._sizes.append((now, -1))

    def _push(self, at: float, kind: int, container: _Container) -> None:
        self._order += 1
        heapq.heappush(self._heap, (at, self._order, kind, container))
