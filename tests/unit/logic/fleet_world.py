"""A cluster, containers and callers in place of the fleet's shell: carries commands out and checks what must always hold."""

from __future__ import annotations

import copy
import itertools

from raymodal.logic.autoscale import Ask, Room, Rules
from raymodal.logic.fleet import Fleet
from raymodal.logic.pools import Command, Drain, Grant, Kill, Note, Pool, Refuse, Revoke, Start, Status, Yield

FAILURE = ("start", None, "it broke", "", None, "")


def pool(
    tag: str,
    cpus: float = 1.0,
    *,
    slots: int = 1,
    runs: int | None = None,
    gpus: float = 0,
    memory: int = 0,
    **rules: object,
) -> Pool:
    return Pool(tag, Rules(**rules), Ask(cpus, memory, gpus), slots=slots, runs=runs)  # type: ignore[arg-type]


class World:
    """Time stands still unless a test moves it."""

    def __init__(
        self,
        *pools: Pool,
        cpus: float = 4.0,
        cores: int = 4,
        can_grow: bool = False,
        gpus: float = 0,
        memory: int = 1000,
    ) -> None:
        numbers = itertools.count(1)
        self.fleet = Fleet(pools, lambda: f"c{next(numbers)}", lease_ttl_s=10.0, first_alone_s=0.0, own_client_id="own")
        self.fleet.room = Room(cpus, memory, gpus, cores, can_grow)
        self.fleet.cores = cores
        self.now = 100.0
        self.granted: dict[str, dict[int, str]] = {}  # client -> lease -> container, as the client knows it
        self.asked_back: dict[int, str] = {}
        self.refused: list[tuple[str, str]] = []
        self.notes: list[str] = []
        self.log: list[Command] = []
        self.silent: set[str] = set()

    # --- the shell

    def step(self) -> list[Command]:
        """One evaluation, carried out; returns its commands."""
        for client_id in self.fleet.clients:
            if client_id not in self.silent:
                self.fleet.client_seen(client_id, self.now)
        commands = self.fleet.evaluate(self.now)
        self.check(commands)
        again = self.fleet.evaluate(self.now)
        assert again == [], (commands, again)
        self.check_that_a_look_at_all_changes_nothing()
        self.carry_out(commands)
        return commands

    def check_that_a_look_at_all_changes_nothing(self) -> None:
        """What nothing has happened to need not be looked at: neither is there anything to do, nor is there a timer that is missing."""
        at = self.fleet.again_at
        everything = copy.deepcopy(self.fleet)
        for tag in everything.pools:
            everything.touch(tag)
        assert everything.evaluate(self.now) == []
        everything.evaluate(self.now)
        later = everything.again_at
        assert at == later or (at is not None and at <= (later or at) + 0.5), (at, later)

    def carry_out(self, commands: list[Command]) -> None:
        self.log += commands
        for command in commands:
            if isinstance(command, Grant):
                self.granted.setdefault(command.client_id, {})[command.lease_id] = command.container_id
            elif isinstance(command, Yield):
                assert command.lease_id not in self.asked_back
                self.asked_back[command.lease_id] = command.client_id
            elif isinstance(command, Revoke):
                assert self.granted.get(command.client_id, {}).pop(command.lease_id, None) is not None
            elif isinstance(command, Refuse):
                self.refused.append((command.client_id, command.tag))
            elif isinstance(command, Kill):
                self.carry_out(self.fleet.container_gone(command.container_id, self.now))
            elif isinstance(command, Note):
                self.notes.append(command.key)

    def check(self, commands: list[Command]) -> None:
        fleet = self.fleet
        ended = {c.container_id for c in commands if isinstance(c, Kill | Drain)}
        for command in commands:
            if isinstance(command, Grant):
                assert command.container_id not in ended
                assert fleet.containers[command.container_id].status is Status.READY
        for tag in {c.tag for c in commands if isinstance(c, Start)}:
            most = fleet.pools[tag].rules.max_containers
            assert not most or len(fleet.pools[tag].containers) <= most
        if any(isinstance(c, Start) for c in commands):
            placed = [c for c in fleet.containers.values() if not c.pending]
            assert sum(c.ask.cpus for c in placed) <= max(fleet.room.cpus, self.cpus_before(commands)) + 1e-6
            assert sum(c.status is Status.STARTING for c in placed) <= fleet.cores
            pending = [c.tag for c in fleet.containers.values() if c.pending]
            assert len(pending) == len(set(pending))
            assert fleet.room.can_grow or not pending
        self.check_state()

    def cpus_before(self, commands: list[Command]) -> float:
        """What was in use before; the room may have shrunk below it."""
        started = {c.container_id for c in commands if isinstance(c, Start)}
        used = [c for c in self.fleet.containers.values() if not c.pending and c.container_id not in started]
        return sum(c.ask.cpus for c in used) if all(self.fleet.containers[s].ask.cpus == 0 for s in started) else 0.0

    def check_state(self) -> None:
        fleet = self.fleet
        for tag, one in fleet.pools.items():
            for container in one.containers.values():
                assert len(container.leases) <= one.slots
                assert fleet.containers[container.container_id] is container
                assert container.status is Status.READY or not container.leases
                for lease_id, lease in container.leases.items():
                    assert fleet.leases[lease_id] is lease
                    assert one.held[lease.client_id][lease_id] is lease
            slots = one.slots if one.runs is None or not fleet._is_growing(one, self.now) else one.runs
            free = [
                c
                for c in one.containers.values()
                if c.status is Status.READY and len(c.leases) < slots and not c.retiring and not c.used
            ]
            assert not any(c.used and not c.leases and c.status is Status.READY for c in one.containers.values())
            assert not (one.queue and free)
            for client_id, client in fleet.clients.items():
                short = client.demand.get(tag, 0) > len(one.held.get(client_id, ()))
                assert short == (client_id in one.queue)
            assert all(one.held.values())
            assert all(client_id in fleet.clients for client_id in [*one.queue, *one.held])
        assert len(fleet.leases) == sum(len(c.leases) for c in fleet.containers.values())
        assert len(fleet.containers) == sum(len(p.containers) for p in fleet.pools.values())

    # --- what happens

    def seen(self, client_id: str, container_id: str | None = None) -> None:
        self.fleet.client_seen(client_id, self.now, container_id)

    def demand(self, client_id: str, tag: str, count: int) -> list[Command]:
        """A caller reports; one that is a container is named like it."""
        self.seen(client_id, client_id if client_id in self.fleet.containers else None)
        self.fleet.set_demand(client_id, tag, count, self.now)
        return self.step()

    def wait(self, seconds: float) -> list[Command]:
        self.now += seconds
        return self.step()

    def containers(self, tag: str, status: Status | None = None) -> list[str]:
        found = self.fleet.pools[tag].containers.values()
        return [c.container_id for c in found if status is None or c.status is status]

    def all_ready(self) -> None:
        """What starts becomes ready, what that starts too."""
        while starting := [
            c.container_id for c in self.fleet.containers.values() if c.status is Status.STARTING and not c.pending
        ]:
            for container_id in starting:
                self.fleet.container_ready(container_id, self.now)
            self.step()

    def all_drained(self) -> None:
        for container in [c for c in self.fleet.containers.values() if c.status is Status.DRAINING]:
            self.carry_out(self.fleet.container_gone(container.container_id, self.now))
        self.step()

    def release(self, client_id: str, lease_id: int, idle_s: float = 0.0, *, used_up: bool = False) -> None:
        self.granted.get(client_id, {}).pop(lease_id, None)
        self.fleet.released(client_id, lease_id, idle_s, self.now, used_up=used_up)

    def leases(self, client_id: str, tag: str) -> list[int]:
        return list(self.fleet.pools[tag].held.get(client_id, ()))

    def give_back(self, client_id: str, tag: str, count: int = 1) -> None:
        """A caller has finished `count` inputs: it wants fewer, and has no use for the slots."""
        left = self.fleet.clients[client_id].demand.get(tag, 0) - count
        for lease_id in self.leases(client_id, tag)[:count]:
            self.release(client_id, lease_id)
        self.demand(client_id, tag, max(left, 0))
