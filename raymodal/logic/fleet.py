"""The controller's state: pools, containers, callers, leases. Pure: events in, commands out, `now` is an argument; it starts nothing and sees no payload.

Theory of operation. A caller (driver, container, or the controller itself for spawned calls) reports its **demand** on a function: how many slots its waiting
and running inputs could use. It is granted **leases** on slots of ready containers and then talks to those containers directly. So demand and capacity are
known exactly, the moment they change, and `evaluate` acts on them:

    grant     free slots go to the callers that wait, least served first, spread over containers
    yield     where a caller waits and others hold more than their share, they are asked to give a slot back at the next bundle boundary
    decide    per function: how many containers (logic.autoscale)
    admit     what the cluster places now; if something waits for room, idle containers of any function are reclaimed before their window
    rescue    if every holder of room waits on a nested call, the child starts without a CPU of its own; a cycle of waits on max_containers is named
    turns     a function that has no container at all and waits for room that others keep busy gets that of a container which has had its turn:
              its holders are asked to give it back, nobody else is let in, and once idle it is reclaimed

A container is STARTING, READY, DRAINING or gone. One that is DRAINING still counts against `max_containers`: its exit hooks run. Where the cluster can
grow, a start may be PENDING: asked for although there is no room, so that the cluster hears of it; it takes none of the room that there is. A lease ends
when its holder releases it, its container goes, or its holder has not been heard of for `lease_ttl_s`. Expiry frees capacity and re-queues nothing: what
ran for a dead caller is cancelled. A caller that was only silent is told so when it is heard again, and its demand counts again.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from dataclasses import replace

from raymodal.logic.autoscale import Ask, Room, Rules, admit, decide, needed_for
from raymodal.logic.pools import (
    CancelFor,
    Client,
    Command,
    Container,
    Decided,
    Drain,
    Grant,
    Kill,
    Lease,
    Note,
    Pool,
    Refuse,
    Revoke,
    Start,
    Stats,
    Status,
    Yield,
)
from raymodal.logic.why import holders, lacks

START_BACKOFF_S = 0.5
FEW_CORES = 4
SHOWS_S = 0.05  # after a function's first container is ready
FIRST_ALONE_S = 1.0  # or until it is ready; on few cores two processes that start at once are both late
MAX_LAPSED = 1000
CYCLE_AFTER_S = 5.0
BURST_AFTER_S = 3.0  # Modal's containers ask as often whether they may take more than their target
SAID_AFTER_S = 5.0  # a function without any container waits for room
RESCUE_AFTER_S = 0.2
RESCUE_AFTER_GROWING_S = 5.0  # where the cluster could also grow
STARVED_S = 2.0  # without any container for this long, a function gets a turn
TURN_S = 5.0  # a container is let work this long before its room goes to another function


class Fleet:
    """See the module's theory of operation.

    Args:
        pools: tag -> Pool.
        new_id: gives ids for containers.
        lease_ttl_s: a caller not heard of for this long is dead.
        first_alone_s: on few cores a function's very first container starts alone for this long.
        own_client_id: the caller that lives where the fleet does (spawned calls), so it is never dead while the fleet is not.
    """

    def __init__(
        self,
        pools: Iterable[Pool],
        new_id: Callable[[], str],
        lease_ttl_s: float = 10.0,
        first_alone_s: float = FIRST_ALONE_S,
        own_client_id: str | None = None,
    ) -> None:
        self.pools: dict[str, Pool] = {p.tag: p for p in pools}
        self.containers: dict[str, Container] = {}
        self.clients: dict[str, Client] = {}
        self.leases: dict[int, Lease] = {}
        self.room = Room(0, 0, 0, 0)  # of the whole cluster, less what others use; set by the shell
        self.cores = 1
        self.stopping = False
        self._new_id = new_id
        self._ttl = lease_ttl_s
        self._first_alone_s = first_alone_s
        self._own_client_id = own_client_id
        self._next_lease = 0
        self._turn: deque[str] = deque(self.pools)
        # What nothing has happened to is not looked at: an event costs what its own pool costs, however many there are.
        self._touched: dict[str, None] = dict.fromkeys(self.pools)
        self._missing: dict[str, int] = {}  # containers wanted and not there, as last decided
        self._timers: list[tuple[float, str]] = []  # a heap; entries that are not their pool's `again_at` are stale
        self._again_at: float | None = None  # beside the pools' own
        self._evaluated_at = -math.inf
        self._expire_at = math.inf  # no caller is due before
        self._pending: dict[str, Container] = {}
        self._starved: dict[str, None] = {}
        self._nested: set[str] = set()  # callers that are containers and want something
        self._has_retiring = False
        self._looked_at: list[str] = []
        self._stuck_since: dict[str, float] = {}
        self._lapsed: OrderedDict[str, Client] = OrderedDict()  # not heard of; remembered in case they were only silent
        self._noted: set[str] = set()

    def add(self, pool: Pool) -> None:
        """One more pool: that of a class's object which is used for the first time."""
        self.pools[pool.tag] = pool
        self._turn.append(pool.tag)
        self._touched[pool.tag] = None

    def touch(self, tag: str) -> None:
        """The next `evaluate` looks at this function. For whoever changes its records without an event."""
        self._touched[tag] = None

    @property
    def is_due(self) -> bool:
        """Something has happened that `evaluate` has not looked at."""
        return bool(self._touched)

    def touched(self) -> list[str]:
        """What the last `evaluate` looked at, or acted on."""
        return self._looked_at

    # --- events

    def client_seen(self, client_id: str, now: float, container_id: str | None = None) -> None:
        client = self.clients.get(client_id)
        if client is not None:
            client.seen = now
            return
        known = self._lapsed.pop(client_id) if client_id in self._lapsed else None
        client = self.clients[client_id] = known or Client(client_id, container_id, now)
        client.seen = now
        for tag, demand in list(client.demand.items()):
            # It reports only changes, so what it said before still holds.
            self._wants_of(client, self.pools[tag], demand, client.lasting.get(tag, demand), now)

    def _wants_of(self, client: Client, pool: Pool, demand: int, lasting: int, now: float) -> None:
        tag, client_id = pool.tag, client.client_id
        if demand > 0:
            client.demand[tag] = pool.asked[client_id] = demand
            client.lasting[tag] = pool.lasting[client_id] = lasting
            self._expire_at = min(self._expire_at, now + self._ttl)
        else:
            for known in (client.demand, client.lasting):
                known.pop(tag, None)
            for known in (pool.asked, pool.lasting):
                known.pop(client_id, None)
        if client.container_id and client.demand:
            self._nested.add(client_id)
        else:
            self._nested.discard(client_id)
        self._queue_or_not(pool, client, now)

    def set_demand(self, client_id: str, tag: str, demand: int, now: float, lasting: int | None = None) -> None:
        """A caller could use `demand` slots of `tag` in all, those it holds included.

        Args:
            lasting: of these, the ones that will still have work when a container that starts now is ready; all of them if not said.
        """
        self.client_seen(client_id, now)
        self._wants_of(self.clients[client_id], self.pools[tag], demand, demand if lasting is None else lasting, now)

    def released(self, client_id: str, lease_id: int, idle_s: float, now: float, *, used_up: bool = False) -> None:
        """A caller gives a lease back; its container has been idle for `idle_s`. `used_up`: nobody else is to have it."""
        self.client_seen(client_id, now)
        lease = self.leases.get(lease_id)
        if lease is not None and lease.client_id == client_id:
            self._end_lease(lease, now - max(idle_s, 0.0))
            container = self.containers.get(lease.container_id)
            if container is not None:
                container.used = container.used or used_up
                self._queue_or_not(self.pools[container.tag], self.clients[client_id], now)

    def container_ready(self, container_id: str, now: float) -> None:
        container = self.containers.get(container_id)
        if container is None or container.status is not Status.STARTING:
            return
        container.status = Status.READY
        pool = self.pools[container.tag]
        if not (container.pending or container.stalled):
            pool.startup.add(now - container.since)  # else it has waited for room as well
        self._settle(container)
        self.touch(container.tag)
        container.since = container.idle_since = now
        if not pool.ever_ready:
            pool.first_ready_at = now
        pool.ever_ready = True
        pool.failed_starts = 0
        pool.retry_at = -math.inf

    def container_stalled(self, container_id: str) -> None:
        """The cluster has not begun with a start after a while: others have the room. Once nobody wants it, it is given up."""
        container = self.containers.get(container_id)
        if container is not None and container.status is Status.STARTING:
            container.stalled = True
            self.touch(container.tag)

    def container_failed(
        self, container_id: str, failure: tuple[object, ...], now: float, *, by_user: bool
    ) -> list[Command]:
        """A container did not become ready. `by_user`: the user's code raised, which another start would most likely repeat."""
        container = self.containers.get(container_id)
        if container is None:
            return []
        pool = self.pools[container.tag]
        commands = self._forget(container, now)
        commands += self._clients_of(container_id, now)
        pool.failed_starts += 1
        pool.retry_at = now + START_BACKOFF_S * 2 ** min(pool.failed_starts - 1, 6)
        if pool.failed_starts >= pool.max_starts or (by_user and not pool.ever_ready):
            commands += self.refuse_all(pool.tag, failure)
            if pool.held:
                commands.append(
                    Note(f"starts:{pool.tag}", f"More containers of '{pool.tag}' cannot start: {failure[2]}")
                )
            pool.failed_starts = 0
        return commands

    def refuse_all(self, tag: str, failure: tuple[object, ...]) -> list[Command]:
        """The queued inputs of `tag` fail one attempt, except those of callers that hold a container and so can have them run."""
        held = self.pools[tag].held
        return [
            Refuse(c.client_id, tag, failure)
            for c in self.clients.values()
            if c.demand.get(tag) and not held.get(c.client_id)
        ]

    def container_gone(self, container_id: str, now: float) -> list[Command]:
        """A container has ended, as told or not."""
        container = self.containers.get(container_id)
        if container is None:
            return []
        commands = self._forget(container, now)
        commands += self._clients_of(container_id, now)
        return commands

    def _clients_of(self, container_id: str, now: float) -> list[Command]:
        """A container is gone, and with it whoever called from inside it."""
        commands: list[Command] = []
        for client in [c for c in self.clients.values() if c.container_id == container_id]:
            commands += self.client_gone(client.client_id, now)
        return commands

    def client_gone(self, client_id: str, now: float) -> list[Command]:
        """A caller is dead: its leases end, and what runs for it is cancelled by killing nothing but its own work (the shell is told which containers)."""
        self._lapsed.pop(client_id, None)
        client = self.clients.pop(client_id, None)
        if client is None:
            return []
        self._nested.discard(client_id)
        for tag in client.demand:
            pool = self.pools[tag]
            self.touch(tag)
            for known in (pool.asked, pool.lasting, pool.queue):
                known.pop(client_id, None)
        commands: list[Command] = []
        held_in: dict[str, None] = {}
        for lease in [held for held in self.leases.values() if held.client_id == client_id]:
            held_in[lease.container_id] = None
            self._end_lease(lease, now)
        for container_id in held_in:
            container = self.containers.get(container_id)
            if container is None or container.status is not Status.READY:
                continue
            if container.leases:
                commands.append(CancelFor(container_id, client_id))
                continue
            # Nobody waits for what may still run there; the certain end is the container's. Until it has ended nobody may be let in.
            container.status = Status.DRAINING
            container.since = now
            commands.append(Kill(container_id, f"its caller {client_id} is gone", in_order=True))
        return commands

    def retire(self, container_id: str, reason: str, now: float, *, is_quiet: bool = True) -> list[Command]:
        """A container asks to end: it takes no more, and what it runs may end by itself. Until `is_quiet` it is left alone."""
        container = self.containers.get(container_id)
        if container is not None:
            self.touch(container.tag)
        if container is not None and container.status is Status.STARTING:
            container.used = True  # it ends as soon as it is ready
        if container is not None and container.lingers and is_quiet:
            container.lingers = False
            return [Drain(container_id, reason, patient=True)]
        if container is None or container.status is not Status.READY:
            return []
        container.status = Status.DRAINING
        container.since = now
        container.lingers = not is_quiet
        commands: list[Command] = []
        pool = self.pools[container.tag]
        for lease in list(container.leases.values()):
            self._end_lease(lease, now)
            commands.append(Revoke(lease.client_id, pool.tag, lease.lease_id, False))
            client = self.clients.get(lease.client_id)
            if client is not None:
                self._queue_or_not(pool, client, now)
        if is_quiet:
            commands.append(Drain(container_id, reason, patient=True))
        return commands

    def set_rules(self, tag: str, **changes: object) -> Rules:
        """Merge changes into a function's live rules, whole or not at all.

        Raises:
            TypeError: a name or a value is none of a rule's.
            ValueError: they contradict each other or what is in force; nothing has changed.
        """
        pool = self.pools[tag]
        for name, value in changes.items():
            if not (isinstance(value, int | float) or (value is None and name == "max_containers")):
                raise TypeError(f"{name}={value!r} is not a number")
        rules: Rules = replace(pool.rules, **changes)  # type: ignore[arg-type]
        # Both bounds together: a change of one may contradict the other's present value.
        if rules.max_containers and rules.min_containers > rules.max_containers:
            raise ValueError(
                f"min_containers={rules.min_containers} would be greater than max_containers={rules.max_containers}"
            )
        pool.rules = rules
        self.touch(tag)
        return pool.rules

    # --- the step after every event

    def evaluate(self, now: float) -> list[Command]:
        """Act on the present state. The same state twice gives no second command for what is under way."""
        commands: list[Command] = []
        if self.stopping:
            return commands
        self._again_at = None
        commands += self._expire(now)
        if self._has_retiring and not any(
            pool.queue and pool.unmet() and not pool.live() for pool in self.pools.values()
        ):
            self._has_retiring = False  # nobody needs a turn any more
            for container in self.containers.values():
                if container.retiring:
                    container.retiring = False
                    self.touch(container.tag)
        while self._timers and self._timers[0][0] <= now:
            at, tag = heapq.heappop(self._timers)
            if self.pools[tag].again_at == at:
                self.touch(tag)
        # What waits for room may have it now, whoever has given it back.
        looked = self._touched | dict.fromkeys(self._missing)
        self._touched = {}
        self._evaluated_at = now
        try:
            for tag in looked:
                commands += self._look_at(self.pools[tag], now)
            commands += self._place(now)
            for tag in looked | self._touched:
                if self.pools[tag].runs is not None:
                    commands += self._grant(self.pools[tag], now)  # there may turn out to be no room for another one
            commands += self._find_cycles(now)
        except BaseException:
            self._touched |= looked  # nobody has looked at them all
            raise
        self._looked_at = list(looked | self._touched)
        return commands

    def _look_at(self, pool: Pool, now: float) -> list[Command]:
        """One function: its slots, and how many containers it should have."""
        commands: list[Command] = []
        self._missing.pop(pool.tag, None)
        timers: list[float] = []
        if pool.is_asleep:
            pool.decision = pool.again_at = None
            return commands
        commands += self._end_used(pool, now)
        commands += self._grant(pool, now)
        commands += self._ask_back(pool)
        commands += self._level(pool)
        load, rules = pool.load(), pool.rules
        if pool.arrivals is not None:
            pool.arrivals.observe(sum(pool.asked.values()), now)
            shape = pool.arrivals.shape(rules, now)
            rules = shape.rules
            if shape.again_at is not None:
                timers.append(shape.again_at)
        decision = decide(rules, load, now)
        if decision.limited_by == "min_containers" and rules.min_containers > pool.rules.min_containers:
            decision = replace(decision, limited_by="expected")
        if pool.decision is None or (decision.target, decision.limited_by) != (
            pool.decision.target,
            pool.decision.limited_by,
        ):
            pool.decisions.append(
                Decided(now, decision, rules, load.demand, load.starting, load.busy, len(load.idle_since))
            )
        pool.decision, pool.decided_by = decision, rules
        if decision.again_at is not None:
            timers.append(decision.again_at)
        if decision.target > load.containers:
            missing = decision.target - load.containers
            if pool.retry_at > now:
                timers.append(pool.retry_at)
                missing = 0
            elif pool.failed_starts:
                # After a failure one container at a time, until one is ready.
                missing = 0 if load.starting else 1
            elif self.cores <= FEW_CORES and self._first_alone_s and now < pool.first_ready_at + SHOWS_S:
                # Callers are about to learn how long an input takes, and with it how many containers are worth a start.
                timers.append(pool.first_ready_at + SHOWS_S)
                missing = 0
            elif not pool.ever_ready and self.cores <= FEW_CORES and self._first_alone_s:
                # The first container has the cores to itself for a moment: it may well do all there is to do.
                missing = self._first_alone(pool, missing, timers, now)
            if pool.rules.max_containers:
                # Those that drain are still there.
                missing = min(missing, pool.rules.max_containers - len(pool.containers))
            if missing > 0:
                self._missing[pool.tag] = missing
        elif decision.target < load.containers:
            commands += self._shrink(pool, load.containers - decision.target, now)
        if not load.demand:
            commands += self._withdraw(pool, load.containers - rules.min_containers, now)
        if pool.runs is not None and pool.queue and (burst_at := next(iter(pool.queue.values())) + BURST_AFTER_S) > now:
            timers.append(burst_at)
        at = min(timers, default=None)
        if at != pool.again_at:
            pool.again_at = at
            if at is not None:
                heapq.heappush(self._timers, (at, pool.tag))
        return commands

    def _first_alone(self, pool: Pool, missing: int, timers: list[float], now: float) -> int:
        starting = [c.since for c in pool.containers.values() if c.status is Status.STARTING and not c.pending]
        if not starting:
            return 1 if missing else 0
        if now >= min(starting) + self._first_alone_s:
            return missing
        timers.append(min(starting) + self._first_alone_s)
        return 0

    @property
    def again_at(self) -> float | None:
        """When `evaluate` must run again if no event comes before."""
        if len(self._timers) > 4 * len(self.pools) + 64:
            self._timers = [(pool.again_at, tag) for tag, pool in self.pools.items() if pool.again_at is not None]
            heapq.heapify(self._timers)
        while self._timers and self.pools[self._timers[0][1]].again_at != self._timers[0][0]:
            heapq.heappop(self._timers)
        first = self._timers[0][0] if self._timers else math.inf
        if self._touched:
            # What has just been started, or is not waiting any more, has timers of its own, which nobody has set yet.
            first = min(first, self._evaluated_at)
        first = min(first, math.inf if self._again_at is None else self._again_at)
        return None if first == math.inf else first

    def stats(self, tag: str) -> Stats:
        return self.pools[tag].stats()

    def unmet(self, tag: str) -> int:
        """Slots that callers could use and do not have."""
        return self.pools[tag].unmet()

    def waits_for(self, tag: str) -> str | None:
        """What keeps this function from starting a container that it should have, in words; None if nothing does."""
        if tag not in self._starved:
            return None
        ask = self.pools[tag].ask
        free = self.free_room()
        text = lacks(ask, free, self.room)
        others = holders(ask, free, ((c.tag, c.ask) for c in self.containers.values() if not c.pending))
        return f"{text}; containers have it: {others}" if others else text

    # --- inside

    def _look_again(self, at: float | None) -> None:
        if at is not None and (self._again_at is None or at < self._again_at):
            self._again_at = at

    def _queue_or_not(self, pool: Pool, client: Client, now: float) -> None:
        self.touch(pool.tag)
        held = len(pool.held.get(client.client_id, ()))
        if client.demand.get(pool.tag, 0) > held:
            if client.client_id not in pool.queue:
                pool.queue[client.client_id] = now
        else:
            pool.queue.pop(client.client_id, None)

    def _end_used(self, pool: Pool, now: float) -> list[Command]:
        """Containers for one input that have run it."""
        commands: list[Command] = []
        for container in pool.containers.values():
            if container.used and container.status is Status.READY and not container.leases:
                container.status = Status.DRAINING
                container.since = now
                commands.append(Drain(container.container_id, "single_use_containers"))
        return commands

    def _grant(self, pool: Pool, now: float) -> list[Command]:
        commands: list[Command] = []
        if not pool.queue:
            return commands
        slots = pool.slots if pool.runs is None or not self._is_growing(pool, now) else pool.runs
        free = [
            c
            for c in pool.containers.values()
            if c.status is Status.READY and len(c.leases) < slots and not c.retiring and not c.used
        ]
        while free and pool.queue:
            # Least served first; among those, who has waited longest (the queue's own order; min is stable).
            client_id = min(pool.queue, key=lambda c: len(pool.held.get(c, ())))
            container = (
                min(free, key=lambda c: (len(c.leases), -c.idle_since)) if pool.slots == 1 else _roomiest(pool, free)
            )
            self._next_lease += 1
            lease = Lease(self._next_lease, client_id, container.container_id, now)
            self.leases[lease.lease_id] = lease
            container.leases[lease.lease_id] = lease
            pool.held.setdefault(client_id, {})[lease.lease_id] = lease
            commands.append(Grant(client_id, pool.tag, lease.lease_id, container.container_id))
            if len(container.leases) >= slots:
                free.remove(container)
            pool.queue.pop(client_id)
            self._queue_or_not(pool, self.clients[client_id], now)
        return commands

    def _is_growing(self, pool: Pool, now: float) -> bool:
        """Another container is on its way: nothing need wait inside one that is busy, nor burst above its target, unless that takes long."""
        if pool.queue and now >= next(iter(pool.queue.values())) + BURST_AFTER_S:
            return False
        load = pool.load()
        starting = any(c.status is Status.STARTING and not c.pending for c in pool.containers.values())
        return starting or (pool.starved_since is None and decide(pool.rules, load, now).target > load.containers)

    def _ask_back(self, pool: Pool) -> list[Command]:
        """Make room for callers that wait by asking those who hold more than their share."""
        commands: list[Command] = []
        if not pool.queue:
            return commands
        outstanding = sum(1 for h in pool.held.values() for lease in h.values() if lease.asked_back)
        slots = sum(len(h) for h in pool.held.values())
        poor = [c for c in pool.queue if not pool.held.get(c)]
        wanted = len(poor) - outstanding
        if wanted <= 0 or not slots:
            return commands
        # First those that hold slots without using them, then those that hold most.
        rich = sorted(pool.held.items(), key=lambda kv: (self._wants(pool, kv[0]) >= len(kv[1]), -len(kv[1])))
        share = math.ceil(slots / (len(poor) + sum(1 for _, h in rich if h)))
        for client_id, leases in rich:
            lingering = self._wants(pool, client_id) < len(leases)
            spare = len(leases) if lingering or share >= len(leases) else len(leases) - share
            for lease in sorted(leases.values(), key=lambda held: held.granted_at)[: max(spare, 0)]:
                if wanted <= 0:
                    return commands
                if not lease.asked_back:
                    lease.asked_back = True
                    commands.append(Yield(client_id, pool.tag, lease.lease_id))
                    wanted -= 1
        return commands

    def _level(self, pool: Pool) -> list[Command]:
        """Ask slots above the target back where another container has room below it: inputs burst there only until it was ready."""
        if pool.slots == 1:
            return []
        target = max(pool.rules.target_inputs, 1)
        ready = [c for c in pool.containers.values() if c.status is Status.READY and not c.retiring]
        spare = sum(max(0, target - len(c.leases)) for c in ready)
        asked = sum(1 for c in ready for lease in c.leases.values() if lease.asked_back)
        commands: list[Command] = []
        for container in ready:
            leaving = sum(lease.asked_back for lease in container.leases.values())
            over = min(len(container.leases) - leaving - target, spare - asked)
            for lease in sorted(container.leases.values(), key=lambda held: held.granted_at):
                if over <= 0:
                    break
                if not lease.asked_back:
                    lease.asked_back = True
                    over -= 1
                    asked += 1
                    commands.append(Yield(lease.client_id, pool.tag, lease.lease_id))
        return commands

    def _wants(self, pool: Pool, client_id: str) -> int:
        client = self.clients.get(client_id)
        return client.demand.get(pool.tag, 0) if client else 0

    def _shrink(self, pool: Pool, count: int, now: float) -> list[Command]:
        idle = sorted(
            (c for c in pool.containers.values() if c.status is Status.READY and not c.leases),
            key=lambda c: c.idle_since,
        )
        commands: list[Command] = []
        for container in idle[:count]:
            container.status = Status.DRAINING
            container.since = now
            commands.append(Drain(container.container_id, "idle for scaledown_window"))
        return commands

    def _withdraw(self, pool: Pool, count: int, now: float) -> list[Command]:
        """Starts for which there is no room and no more need: a growing cluster must not grow for them, and what others leave is not to be taken by them."""
        commands: list[Command] = []
        for container in [c for c in pool.containers.values() if c.pending or c.stalled][: max(count, 0)]:
            commands += self._forget(container, now)
            commands.append(Kill(container.container_id, "it is not needed any more"))
        return commands

    def free_room(self) -> Room:
        """What the cluster has left beside our own containers."""
        cpus, memory, gpus, starts = self.room.cpus, self.room.memory, self.room.gpus, max(self.cores, 1)
        for container in self.containers.values():
            if not container.pending:
                ask = container.ask
                cpus -= ask.cpus
                memory -= ask.memory
                gpus -= ask.gpus
                if container.status is Status.STARTING:
                    starts -= 1
        return Room(cpus, memory, gpus, starts, self.room.can_grow)

    def _place(self, now: float) -> list[Command]:
        """Start what fits of what is missing; where something waits, see to it that room is made."""
        commands: list[Command] = []
        if not self._missing and not self._pending and not self._starved:
            return commands
        room = self.free_room()
        for container in list(self._pending.values()):
            if room.holds(container.ask):
                # The cluster has grown, or something has ended: it is being placed now.
                self._settle(container)
                room = room.less(container.ask)
        # One pending actor of each shape is enough to tell the cluster.
        pending = {c.tag for c in self._pending.values()}
        wants = {tag: n for tag, n in self._missing.items() if tag not in pending}
        needy = {tag: n for tag, n in wants.items() if self.unmet(tag)}
        waiting, room = self._admit(needy, room, commands, now)
        # Buffers and minimums must not take what is being freed for somebody's inputs, if that can ever be enough.
        if not any(self.unmet(tag) and self.room.holds(self.pools[tag].ask) for tag in [*waiting, *pending]):
            more, room = self._admit({tag: n for tag, n in wants.items() if tag not in needy}, room, commands, now)
            waiting += more
        waiting += [tag for tag in pending if tag not in waiting]
        for tag in list(self._starved):
            if tag not in waiting:
                del self._starved[tag]
                self.pools[tag].starved_since = None
                self.touch(tag)
        for tag in waiting:
            if tag not in self._starved:
                self._starved[tag] = None
                self.pools[tag].starved_since = now
                self.touch(tag)
        if not waiting:
            return commands
        self._look_again(now + 0.5)
        if not self._reclaim(waiting, commands, now):
            rescue = self._rescue(waiting, now)
            commands += rescue or self._give_turn(waiting, now)
        return commands + [note for tag in waiting if (note := self._say_what_waits(self.pools[tag], now)) is not None]

    def _say_what_waits(self, pool: Pool, now: float) -> Note | None:
        """Once per function that has inputs waiting and no container for them."""
        is_due = pool.starved_since is not None and now >= pool.starved_since + SAID_AFTER_S
        if not is_due or f"room:{pool.tag}" in self._noted or pool.live() or not pool.unmet():
            return None
        self._noted.add(f"room:{pool.tag}")
        return Note(
            f"room:{pool.tag}",
            f"Function {pool.tag!r} has no container and has waited {SAID_AFTER_S:g} s for {self.waits_for(pool.tag)}.",
        )

    def _admit(self, wants: dict[str, int], room: Room, commands: list[Command], now: float) -> tuple[list[str], Room]:
        """Start what fits, in turn; returns who waits, and what is left."""
        if not wants:
            return [], room
        turn = [tag for tag in self._turn if tag in wants]
        starts, waiting = admit(wants, {tag: self.pools[tag].ask for tag in wants}, room, turn)
        for tag in starts:
            ask = self.pools[tag].ask
            fits = room.holds(ask)
            if fits:
                room = room.less(ask)
            commands.append(self._start(tag, ask, now, pending=not fits))
            self._turn.remove(tag)
            self._turn.append(tag)
        return waiting, room

    def _start(self, tag: str, ask: Ask, now: float, *, free: bool = False, pending: bool = False) -> Start:
        container_id = self._new_id()
        container = Container(container_id, tag, ask, Status.STARTING, now, pending=pending)
        self.containers[container_id] = container
        self.pools[tag].containers[container_id] = container
        if pending:
            self._pending[container_id] = container
        self.touch(tag)
        return Start(container_id, tag, free)

    def _settle(self, container: Container) -> None:
        """It has room, or is no more."""
        container.pending = container.stalled = False
        self._pending.pop(container.container_id, None)

    def _reclaim(self, waiting: list[str], commands: list[Command], now: float) -> bool:
        """Drain the longest idle container above its function's minimum, if that can help someone who waits; True if room is on its way."""
        if any(c.status is Status.DRAINING for c in self.containers.values()):
            return True
        # Those with inputs take all that is above a minimum; those that wait for a buffer or a minimum only what is not wanted, or two buffers
        # would take each other's room forever.
        inputs = [tag for tag in waiting if self.unmet(tag)]
        needy = inputs or waiting
        idle = [
            c
            for pool in self.pools.values()
            for c in pool.containers.values()
            if c.status is Status.READY
            and not c.leases
            and (c.retiring or c.tag not in needy)
            and pool.live()
            > (
                pool.rules.min_containers
                if inputs
                else max(pool.rules.min_containers, needed_for(pool.rules, pool.demand()))
            )
        ]
        room = self.free_room()
        most = Room(
            room.cpus + sum(c.ask.cpus for c in idle),
            room.memory + sum(c.ask.memory for c in idle),
            room.gpus + sum(c.ask.gpus for c in idle),
            1,
        )
        for tag in needy:
            ask = self.pools[tag].ask
            helpful = [c for c in idle if c.tag != tag and _helps(c.ask, ask, room)]
            if helpful and most.holds(ask):
                oldest = min(helpful, key=lambda c: c.idle_since)
                oldest.status = Status.DRAINING
                oldest.since = now
                self.touch(oldest.tag)
                commands.append(Drain(oldest.container_id, "another function waits for its room"))
                return True
        return False

    def _waiters(self) -> set[str]:
        """Containers that wait on a nested call."""
        return {c.container_id for c in self.clients.values() if c.demand and c.container_id}

    def _rescue(self, waiting: list[str], now: float) -> list[Command]:
        """Every holder of room waits on a nested call: nothing will ever be freed, so the child starts without a share of the CPU."""
        commands: list[Command] = []
        waiters = self._waiters()
        placed = [c for c in self.containers.values() if not c.pending]
        if any(c.status is Status.STARTING for c in placed):
            return commands
        holders = [c for c in placed if c.ask.cpus > 0 or c.ask.memory > 0]
        if any(c.leases and c.container_id not in waiters for c in holders):
            return commands
        after = RESCUE_AFTER_GROWING_S if self.room.can_grow else RESCUE_AFTER_S
        room = self.free_room()
        for tag in waiting:
            pool = self.pools[tag]
            ask = replace(pool.ask, cpus=0.0, memory=0)
            nested = any(
                c.container_id and c.demand.get(tag, 0) > len(pool.held.get(c.client_id, ()))
                for c in self.clients.values()
            )
            if not nested or ask.gpus > room.gpus + 1e-6:
                continue  # a driver's call waits: what a function asks for is never changed for that
            if pool.starved_since is None or now - pool.starved_since < after:
                self._look_again((now if pool.starved_since is None else pool.starved_since) + after)
                continue
            if any(c.status is Status.READY and c.container_id not in waiters for c in pool.containers.values()):
                continue
            if pool.decision is not None and pool.load().containers >= pool.decision.target:
                commands += self._withdraw(pool, 1, now)  # this one takes its place
            commands.append(self._start(tag, ask, now, free=True))
            if holders and "free" not in self._noted:
                self._noted.add("free")
                commands.append(
                    Note(
                        "nested-room",
                        f"All containers that hold CPUs wait on nested calls, so containers of '{tag}' start without a CPU of their own. "
                        "Give the outer functions a smaller cpu= or max_containers=, or add CPUs.",
                    )
                )
            break
        return commands

    def _give_turn(self, waiting: list[str], now: float) -> list[Command]:
        """A function without any container gets the room of one that has worked for a while, once that is through with what it runs."""
        if self._has_retiring and any(c.retiring for c in self.containers.values()):
            return []
        waiters, room = self._waiters(), self.free_room()
        for tag in waiting:
            pool = self.pools[tag]
            if not self.unmet(tag) or pool.live() or pool.starved_since is None:
                continue
            donors = [
                c
                for c in self.containers.values()
                if c.status is Status.READY
                and c.leases
                and c.container_id not in waiters
                and self.pools[c.tag].live() > self.pools[c.tag].rules.min_containers
                and _helps(c.ask, pool.ask, room)
                and Room(room.cpus + c.ask.cpus, room.memory + c.ask.memory, room.gpus + c.ask.gpus, 1).holds(pool.ask)
            ]
            due = [c for c in donors if now >= max(c.since + TURN_S, pool.starved_since + STARVED_S)]
            if not due:
                for donor in donors:
                    self._look_again(max(donor.since + TURN_S, pool.starved_since + STARVED_S))
                continue
            donor = min(due, key=lambda c: (-self.pools[c.tag].live(), c.since))
            donor.retiring = self._has_retiring = True
            self.touch(donor.tag)
            self._turn.remove(tag)
            self._turn.appendleft(tag)
            commands: list[Command] = []
            for lease in donor.leases.values():
                if not lease.asked_back:
                    lease.asked_back = True
                    commands.append(Yield(lease.client_id, donor.tag, lease.lease_id))
            return commands
        return []

    def _find_cycles(self, now: float) -> list[Command]:
        """Name a cycle of waits on max_containers: pools that cannot grow and whose containers wait only on such pools."""
        if not self._nested:
            self._stuck_since.clear()
            return []
        stuck = {
            p.tag
            for p in self.pools.values()
            if p.rules.max_containers
            and sum(1 for c in p.containers.values() if c.status is not Status.DRAINING) >= p.rules.max_containers
            and p.containers
        }
        if stuck:
            waits: dict[str, set[str]] = {}
            for client in self.clients.values():
                if client.container_id and client.demand:
                    waits.setdefault(client.container_id, set()).update(client.demand)
            changed = True
            while changed and stuck:
                changed = False
                for tag in list(stuck):
                    for container in self.pools[tag].containers.values():
                        on = waits.get(container.container_id)
                        if not on or not on <= stuck:
                            stuck.discard(tag)
                            changed = True
                            break
        if not any(self.unmet(tag) for tag in stuck):
            stuck.clear()
        self._stuck_since = {tag: self._stuck_since.get(tag, now) for tag in stuck}
        stuck = {tag for tag, since in self._stuck_since.items() if now >= since + CYCLE_AFTER_S}
        if not any(self.unmet(tag) for tag in stuck):
            for since in self._stuck_since.values():
                if since + CYCLE_AFTER_S > now:
                    self._look_again(since + CYCLE_AFTER_S)
            return []
        self._stuck_since.clear()
        names = ", ".join(f"'{t}' (max_containers={self.pools[t].rules.max_containers})" for t in sorted(stuck))
        text = (
            f"These functions wait for each other and none can start another container: {names}. Every container of theirs is blocked on a nested call. "
            "Raise max_containers, or do not call them from inside themselves."
        )
        failure: tuple[object, ...] = ("cycle", None, text, None, "")
        return [
            Refuse(c.client_id, tag, failure)
            for tag in sorted(stuck)
            for c in self.clients.values()
            if c.container_id in self.containers
            and self.containers[c.container_id].tag in stuck
            and c.demand.get(tag, 0) > len(self.pools[tag].held.get(c.client_id, ()))
        ]

    def _expire(self, now: float) -> list[Command]:
        commands: list[Command] = []
        if now < self._expire_at:
            if self._expire_at < math.inf:
                self._look_again(self._expire_at)
            return commands
        self._expire_at = math.inf
        holders = {lease.client_id for lease in self.leases.values()}
        for client in list(self.clients.values()):
            if client.container_id in self.containers:
                continue  # its container lives: silence may only mean that the interpreter lock is held
            if client.client_id == self._own_client_id:
                continue
            matters = bool(client.demand) or client.client_id in holders
            if client.seen + self._ttl > now:
                if matters:
                    self._expire_at = min(self._expire_at, client.seen + self._ttl)
                    self._look_again(client.seen + self._ttl)
                continue
            leases = [lease for lease in self.leases.values() if lease.client_id == client.client_id]
            commands += self.client_gone(client.client_id, now)
            if not matters:
                continue
            for lease in leases:
                # If it lives after all it must not go on with slots that are others' now.
                container = self.containers.get(lease.container_id)
                if container is not None:
                    commands.append(
                        Revoke(client.client_id, container.tag, lease.lease_id, container.status is Status.DRAINING)
                    )
            self._lapsed[client.client_id] = client
            while len(self._lapsed) > MAX_LAPSED:
                self._lapsed.popitem(last=False)
        return commands

    def _end_lease(self, lease: Lease, idle_since: float) -> None:
        self.leases.pop(lease.lease_id, None)
        container = self.containers.get(lease.container_id)
        if container is None:
            return
        self.touch(container.tag)
        container.leases.pop(lease.lease_id, None)
        container.idle_since = max(container.idle_since, idle_since)
        held = self.pools[container.tag].held.get(lease.client_id)
        if held is not None:
            held.pop(lease.lease_id, None)
            if not held:
                self.pools[container.tag].held.pop(lease.client_id, None)

    def _forget(self, container: Container, now: float) -> list[Command]:
        pool = self.pools[container.tag]
        self.touch(pool.tag)
        self._settle(container)
        commands: list[Command] = []
        for lease in list(container.leases.values()):
            self._end_lease(lease, now)
            commands.append(Revoke(lease.client_id, pool.tag, lease.lease_id, True))
            client = self.clients.get(lease.client_id)
            if client is not None:
                self._queue_or_not(pool, client, now)
        self.containers.pop(container.container_id, None)
        pool.containers.pop(container.container_id, None)
        return commands


def _roomiest(pool: Pool, free: list[Container]) -> Container:
    """Where the next slot is granted, of containers with several: evenly over as many as are needed, so that the others become idle and can go; above their
    target only when none has room below it."""
    target = max(pool.rules.target_inputs, 1)
    taken = sum(len(c.leases) for c in pool.containers.values())
    needed = math.ceil((taken + 1) / target)
    used = sorted(free, key=lambda c: (-len(c.leases), -c.idle_since))
    below = [c for c in used if len(c.leases) < target]
    full = sum(1 for c in pool.containers.values() if len(c.leases) >= target)
    if below:
        return min(below[: max(needed - full, 1)], key=lambda c: len(c.leases))
    return min(used, key=lambda c: len(c.leases))


def _helps(donor: Ask, ask: Ask, room: Room) -> bool:
    """True if what `donor` takes is among what `ask` lacks."""
    return (
        (donor.cpus > 0 and ask.cpus > room.cpus + 1e-6)
        or (donor.memory > 0 and ask.memory > room.memory)
        or (donor.gpus > 0 and ask.gpus > room.gpus + 1e-6)
    )
