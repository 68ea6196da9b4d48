"""Pools, leases and the room they share."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from raymodal.logic.autoscale import Ask, Room, Rules
from raymodal.logic.fleet import (
    BURST_AFTER_S,
    CYCLE_AFTER_S,
    FIRST_ALONE_S,
    RESCUE_AFTER_GROWING_S,
    STARVED_S,
    TURN_S,
    Fleet,
)
from raymodal.logic.pools import CancelFor, Drain, Grant, Kill, Pool, Refuse, Revoke, Start, Status, Yield

# Beside this file; under pytest's importlib mode tests are no packages.
_spec = importlib.util.spec_from_file_location("fleet_world", Path(__file__).with_name("fleet_world.py"))
assert _spec is not None
assert _spec.loader is not None
fleet_world = sys.modules.setdefault("fleet_world", importlib.util.module_from_spec(_spec))
_spec.loader.exec_module(fleet_world)
World, pool, FAILURE = fleet_world.World, fleet_world.pool, fleet_world.FAILURE


def kinds(commands: list[object]) -> list[str]:
    return [type(c).__name__ for c in commands]


# --- demand, grants, scale


def test_demand_starts_containers_and_is_granted_when_they_are_ready() -> None:
    """From nothing to two at once."""
    world = World(pool("f"))

    assert kinds(world.demand("a", "f", 2)) == ["Start", "Start"]
    world.all_ready()
    assert sorted(world.granted["a"].values()) == ["c1", "c2"]
    assert world.fleet.unmet("f") == 0


def test_no_more_starts_in_flight_than_cores() -> None:
    """The others follow as those become ready."""
    world = World(pool("f", 0.125), cpus=4, cores=2)
    world.demand("a", "f", 5)
    before = len(world.containers("f"))
    world.fleet.container_ready("c1", world.now)
    world.step()

    assert (before, len(world.containers("f"))) == (2, 3)


def test_max_containers_counts_those_that_still_drain() -> None:
    """Their exit hooks run; `max_containers=1` promises that nobody runs beside them."""
    world = World(pool("f", max_containers=1, scaledown_window=10))
    world.demand("a", "f", 1)
    world.all_ready()
    world.give_back("a", "f")
    assert kinds(world.wait(10)) == ["Drain"]

    assert world.demand("a", "f", 1) == []
    world.all_drained()
    assert isinstance(world.log[-1], Start)


def test_idle_containers_end_after_the_window_counted_from_the_last_outcome() -> None:
    """A lease that lingered for three seconds before it came back counts as idle time."""
    world = World(pool("f", scaledown_window=60))
    world.demand("a", "f", 1)
    world.all_ready()
    world.now += 10
    world.release("a", world.leases("a", "f")[0], idle_s=3.0)
    world.demand("a", "f", 0)

    assert world.fleet.again_at == world.now - 3 + 60
    assert world.wait(56.9) == []
    assert kinds(world.wait(0.2)) == ["Drain"]


def test_grants_spread_over_containers() -> None:
    """Second slots only when every container has its first."""
    world = World(pool("f", slots=2, min_containers=2))
    world.step()
    world.all_ready()
    world.demand("a", "f", 3)

    held = sorted(world.granted["a"].values())
    assert held in (["c1", "c1", "c2"], ["c1", "c2", "c2"])


def test_as_many_containers_as_are_needed_share_the_slots() -> None:
    """The others become idle, so that they can go; beyond the target only when nobody has room below it."""
    world = World(pool("f", slots=4, min_containers=3, target_inputs=2))
    world.step()
    world.all_ready()

    def spread(demand: int) -> list[int]:
        world.demand("a", "f", demand)
        held = list(world.granted["a"].values())
        return sorted((held.count(c) for c in world.containers("f")), reverse=True)

    assert spread(1) == [1, 0, 0]
    assert spread(2) == [2, 0, 0]
    assert spread(4) == [2, 2, 0]
    assert spread(6) == [2, 2, 2]
    assert sum(spread(9)) == 9


def test_a_burst_is_spread_once_there_is_room() -> None:
    """What is above the target goes to the container that has become ready."""
    world = World(pool("f", slots=4, max_containers=2, target_inputs=2), cpus=2.0, cores=1)
    world.demand("a", "f", 4)
    world.fleet.container_ready("c1", world.now)
    world.step()
    assert list(world.granted["a"].values()) == ["c1"] * 4
    world.fleet.container_ready("c2", world.now)
    world.step()

    assert len(world.asked_back) == 2
    for lease_id in list(world.asked_back):
        world.release("a", lease_id)
    world.step()
    assert sorted(world.granted["a"].values()) == ["c1", "c1", "c2", "c2"]


def test_no_burst_while_another_container_starts_unless_that_takes_long() -> None:
    """Up to the target at once; what is above it waits for the next container for a few seconds."""
    world = World(pool("f", slots=4, runs=2, max_containers=2, target_inputs=2), cpus=2.0, cores=1)
    world.demand("a", "f", 4)
    world.fleet.container_ready("c1", world.now)
    world.step()
    assert list(world.granted["a"].values()) == ["c1"] * 2
    assert world.fleet.again_at is not None
    assert world.fleet.again_at <= world.now + BURST_AFTER_S

    world.wait(BURST_AFTER_S)
    assert list(world.granted["a"].values()) == ["c1"] * 4


def test_containers_follow_the_target() -> None:
    """One for every `target_inputs`, not for every slot."""
    world = World(pool("f", slots=100, target_inputs=10), cpus=8.0, cores=8)

    assert kinds(world.demand("a", "f", 35)) == ["Start"] * 4


def test_a_dead_caller_of_a_shared_container() -> None:
    """What ran for it is cancelled; the others' container stays."""
    world = World(pool("f", slots=4, max_containers=1, target_inputs=4))
    world.demand("a", "f", 2)
    world.demand("b", "f", 1)
    world.all_ready()

    commands = world.fleet.client_gone("a", world.now)
    assert CancelFor("c1", "a") in commands
    assert "Kill" not in kinds(commands)
    assert kinds(world.fleet.client_gone("b", world.now)) == ["Kill"]


def test_a_container_that_retires() -> None:
    """It is drained at once, its leases end, and another takes its place."""
    world = World(pool("f", slots=4, max_containers=2, target_inputs=4))
    world.demand("a", "f", 2)
    world.all_ready()

    commands = world.fleet.retire("c1", "stuck", world.now)
    assert kinds(commands) == ["Revoke", "Revoke", "Drain"]
    world.carry_out(commands)
    assert world.fleet.retire("c1", "stuck", world.now) == []
    assert kinds(world.step()) == ["Start"]


def test_rules_change_whole_or_not_at_all() -> None:
    """An unknown name leaves everything as it was."""
    world = World(pool("f", min_containers=1))

    with pytest.raises(TypeError):
        world.fleet.set_rules("f", max_containers=3, nonsense=1)
    assert world.fleet.pools["f"].rules.max_containers is None
    assert world.fleet.set_rules("f", max_containers=3).min_containers == 1


def test_lowering_max_containers_drops_idle_ones_at_once() -> None:
    """Busy ones end their work."""
    world = World(pool("f", min_containers=3))
    world.step()
    world.all_ready()
    world.demand("a", "f", 1)
    world.fleet.set_rules("f", min_containers=0, max_containers=1)

    assert kinds(world.step()) == ["Drain", "Drain"]
    assert len(world.containers("f", Status.READY)) == 1


# --- fairness between callers


def test_a_waiting_caller_gets_a_slot_of_one_that_holds_more_than_its_share() -> None:
    """It is asked back once, and goes to who waits."""
    world = World(pool("f", max_containers=3))
    world.demand("rich", "f", 9)
    world.all_ready()

    asked = [c for c in world.demand("poor", "f", 1) if isinstance(c, Yield)]
    assert [c.client_id for c in asked] == ["rich"]
    world.release("rich", asked[0].lease_id)
    world.step()
    assert (len(world.leases("rich", "f")), len(world.leases("poor", "f"))) == (2, 1)


def test_who_holds_one_slot_is_not_robbed_while_another_holds_many() -> None:
    """The share is what counts, not how little somebody wants."""
    world = World(pool("f", 0.25, max_containers=8), cores=8)
    world.demand("small", "f", 1)
    world.demand("large", "f", 100)
    world.all_ready()
    assert (len(world.leases("small", "f")), len(world.leases("large", "f"))) == (1, 7)

    assert [c.client_id for c in world.demand("new", "f", 2) if isinstance(c, Yield)] == ["large"]


def test_with_one_slot_callers_take_turns() -> None:
    """Each gives it back at its next boundary, and nobody is passed over."""
    world = World(pool("f", max_containers=1))
    order = []
    for name in "abc":
        world.demand(name, "f", 5)
    world.all_ready()
    for _ in range(7):
        (holder,) = world.fleet.pools["f"].held
        order.append(holder)
        assert list(world.fleet.pools["f"].queue)
        world.release(holder, world.leases(holder, "f")[0])
        world.step()

    assert order == ["a", "b", "c", "a", "b", "c", "a"]


def test_a_lingering_slot_is_asked_back_first() -> None:
    """Its holder does not use it."""
    world = World(pool("f", max_containers=3))
    world.demand("idle", "f", 1)
    world.demand("busy", "f", 2)
    world.all_ready()
    world.demand("idle", "f", 0)

    assert [c.client_id for c in world.demand("new", "f", 1) if isinstance(c, Yield)] == ["idle"]


# --- pools that come later


def test_a_pool_that_is_added_has_its_turn() -> None:
    """As if it had been there from the beginning, its minimum included."""
    world = World(pool("f"))
    world.step()
    world.fleet.add(pool("C(x=1).*", min_containers=1))

    assert kinds(world.step()) == ["Start"]
    world.fleet.add(pool("C(x=2).*"))
    assert kinds(world.demand("a", "C(x=2).*", 2)) == ["Start", "Start"]


def test_pools_without_anything_are_not_looked_at() -> None:
    """A class leaves one behind for each of its objects; nothing is decided for those, until somebody wants something of them."""
    world = World(pool("f"))
    for number in range(3):
        world.fleet.add(pool(f"C({number}).*"))
    world.demand("a", "C(1).*", 1)

    assert [tag for tag, one in world.fleet.pools.items() if one.decision is not None] == ["C(1).*"]
    assert [one.is_asleep for one in world.fleet.pools.values()] == [True, True, False, True]
    assert world.fleet.stats("C(2).*").demand == 0


def test_a_container_for_one_input_is_not_had_twice() -> None:
    """It ends when its lease does; whoever waits gets another one."""
    world = World(pool("f", max_containers=1))
    world.demand("a", "f", 1)
    world.all_ready()
    world.demand("b", "f", 1)
    (lease_id,) = world.leases("a", "f")
    world.release("a", lease_id, used_up=True)

    assert kinds(world.demand("a", "f", 0)) == ["Drain"]
    assert world.containers("f", Status.READY) == []
    world.all_drained()
    world.all_ready()
    assert list(world.granted["b"].values()) == ["c2"]


def test_inputs_do_not_wait_behind_a_batch_while_another_container_starts() -> None:
    """Those beyond what it runs at once go to the next one; only where there is no room for one they wait inside."""
    world = World(pool("f", slots=4, runs=2, target_inputs=2), cpus=2.0)
    world.demand("a", "f", 2)
    world.all_ready()
    assert kinds(world.demand("a", "f", 3)) == ["Start"]
    assert len(world.leases("a", "f")) == 2
    world.all_ready()
    assert sorted(world.granted["a"].values()) == ["c1", "c1", "c2"]

    world.demand("a", "f", 5)
    assert sorted(world.granted["a"].values()) == ["c1", "c1", "c1", "c2", "c2"]


def test_a_container_that_takes_no_more_is_left_alone_until_it_is_quiet() -> None:
    """Its callers lose their leases at once; it is told to end when it says that nothing is left."""
    world = World(pool("f", slots=2, target_inputs=2))
    world.demand("a", "f", 2)
    world.all_ready()

    commands = world.fleet.retire("c1", "it says so", world.now, is_quiet=False)
    assert kinds(commands) == ["Revoke", "Revoke"]
    world.carry_out(commands)
    assert kinds(world.step()) == ["Start"]
    assert kinds(world.fleet.retire("c1", "it says so", world.now)) == ["Drain"]
    assert world.fleet.retire("c1", "it says so", world.now) == []


def test_a_container_that_wants_no_inputs_before_it_is_ready() -> None:
    """It ends as soon as it is, and another one starts."""
    world = World(pool("f", max_containers=1))
    world.demand("a", "f", 1)
    assert world.fleet.retire("c1", "it says so", world.now) == []
    world.fleet.container_ready("c1", world.now)

    assert kinds(world.step()) == ["Drain"]
    world.all_drained()
    world.all_ready()
    assert list(world.granted["a"].values()) == ["c2"]


# --- callers that end


def test_a_silent_caller_loses_its_leases_and_what_ran_for_it() -> None:
    """Its container is killed, and nobody is let into it before."""
    world = World(pool("f", max_containers=1))
    world.demand("dead", "f", 1)
    world.all_ready()
    world.silent.add("dead")
    world.demand("alive", "f", 1)
    assert world.fleet.again_at is not None

    commands = world.wait(10)
    assert [type(c) for c in commands if isinstance(c, Kill | Grant)] == [Kill]
    assert world.fleet.unmet("f") == 1
    world.step()
    world.all_ready()
    assert list(world.granted["alive"].values()) == ["c2"]


def test_somebody_looks_when_a_silent_caller_is_due() -> None:
    """Also if it only waits: its demand keeps containers up."""
    world = World(pool("f", max_containers=1))
    world.demand("other", "f", 1)
    world.all_ready()
    world.demand("dead", "f", 1)
    world.silent.add("dead")
    world.wait(0)
    assert world.fleet.again_at is not None

    assert world.fleet.again_at <= world.now + 10
    world.wait(10)
    assert list(world.fleet.clients) == ["other"]


def test_a_caller_that_was_only_silent_is_told_and_counts_again() -> None:
    """It reports changes only, so its demand must be remembered."""
    world = World(pool("f"))
    world.demand("slow", "f", 2)
    world.all_ready()
    world.silent.add("slow")
    commands = world.wait(30)
    assert [c.client_id for c in commands if isinstance(c, Revoke)] == ["slow", "slow"]
    assert world.granted["slow"] == {}

    world.silent.clear()
    world.seen("slow")
    world.step()
    world.all_ready()
    assert len(world.granted["slow"]) == 2


def test_the_caller_beside_the_fleet_is_never_dead() -> None:
    """It calls for spawned inputs, says nothing while one runs for long or waits for room, and ends with the fleet."""
    world = World(pool("f"), pool("gpu", gpus=1), can_grow=True)
    world.demand("own", "f", 1)
    world.demand("own", "gpu", 1)
    world.all_ready()
    world.silent.add("own")
    commands = world.wait(1000)
    assert [c for c in commands if isinstance(c, Kill | Revoke)] == []
    assert len(world.leases("own", "f")) == 1
    assert [c.pending for c in world.fleet.pools["gpu"].containers.values()] == [True]


def test_a_container_that_calls_is_not_dead_for_being_silent() -> None:
    """It may hold the interpreter lock; it ends with its container."""
    world = World(pool("f"), pool("g"))
    world.demand("driver", "f", 1)
    world.all_ready()
    world.demand("c1", "g", 1)
    world.all_ready()
    world.silent.add("c1")
    world.wait(1000)
    assert len(world.leases("c1", "g")) == 1

    world.carry_out(world.fleet.container_gone("c1", world.now))
    world.step()
    assert world.leases("c1", "g") == []
    assert "c1" not in world.fleet.clients


def test_who_called_while_its_container_failed_to_start_is_gone() -> None:
    """A module may call functions while it is imported."""
    world = World(pool("f"), pool("g"))
    world.demand("driver", "f", 1)
    world.demand("c1", "g", 1)
    world.all_ready = lambda: None  # type: ignore[method-assign]
    world.carry_out(world.fleet.container_failed("c1", FAILURE, world.now, by_user=True))
    world.step()

    assert list(world.fleet.clients) == ["driver"]
    assert world.fleet.pools["g"].queue == {}


def test_a_lost_container_revokes_its_leases_and_its_callers_wait_again() -> None:
    """They are told that it is gone."""
    world = World(pool("f"))
    world.demand("a", "f", 1)
    world.all_ready()
    commands = world.fleet.container_gone("c1", world.now)

    assert commands == [Revoke("a", "f", 1, True)]
    world.carry_out(commands)
    world.step()
    world.all_ready()
    assert list(world.granted["a"].values()) == ["c2"]


# --- starts that fail


def test_a_function_that_cannot_start_is_reported_at_once() -> None:
    """The user's code raised and has never started: another start would raise again."""
    world = World(pool("f"))
    world.demand("a", "f", 3)

    assert world.fleet.container_failed("c1", FAILURE, world.now, by_user=True) == [Refuse("a", "f", FAILURE)]


def test_a_container_that_dies_while_starting_is_tried_again_with_a_delay() -> None:
    """One at a time, and callers hear of it after three in a row."""
    world = World(pool("f"))
    world.demand("a", "f", 1)
    delays, refusals = [], []
    for n in range(1, 4):
        refusals += world.fleet.container_failed(f"c{n}", FAILURE, world.now, by_user=False)
        assert world.step() == []
        assert world.fleet.again_at is not None
        delays.append(round(world.fleet.again_at - world.now, 3))
        assert kinds(world.wait(delays[-1])) == ["Start"]

    assert (delays, refusals) == ([0.5, 1.0, 2.0], [Refuse("a", "f", FAILURE)])


def test_failed_starts_do_not_fail_inputs_of_who_has_a_container() -> None:
    """They can run there; the people are told."""
    world = World(pool("f"))
    world.demand("a", "f", 1)
    world.all_ready()
    world.demand("a", "f", 2)
    for n in range(2, 5):
        world.carry_out(world.fleet.container_failed(f"c{n}", FAILURE, world.now, by_user=True))
        world.wait(10)

    assert (world.refused, world.notes) == ([], ["starts:f"])


# --- room


def test_two_functions_that_want_more_than_fits_both_start() -> None:
    """In turn, not one after the other."""
    world = World(pool("f"), pool("g"), cpus=2)
    world.fleet.client_seen("a", world.now)
    world.fleet.set_demand("a", "f", 10, world.now)
    world.demand("a", "g", 10)

    assert (len(world.containers("f")), len(world.containers("g"))) == (1, 1)


def test_idle_containers_of_others_make_room_before_their_window() -> None:
    """The longest idle one, one at a time, never below `min_containers`."""
    world = World(pool("kept", min_containers=1), pool("f"), pool("g"), cpus=3)
    world.demand("a", "f", 2)
    world.all_ready()
    world.give_back("a", "f", 1)
    world.now += 1
    world.give_back("a", "f", 1)

    assert world.demand("a", "g", 3) == [Drain("c1", "another function waits for its room")]
    assert world.wait(1) == []
    world.all_drained()
    world.all_ready()
    world.wait(0.5)
    world.all_drained()
    world.all_ready()
    assert (world.containers("kept"), len(world.containers("g")), world.containers("f")) == (["c3"], 2, [])


def test_nothing_is_drained_for_room_that_it_does_not_give() -> None:
    """A function that waits for a GPU, or for more than all there is, does not empty the cluster."""
    world = World(pool("f", min_containers=0), pool("gpu", 0.1, gpus=1), pool("huge", 64.0), cpus=4)
    world.demand("a", "f", 3)
    world.all_ready()
    world.give_back("a", "f", 3)

    assert world.demand("a", "gpu", 1) == []
    assert world.demand("a", "huge", 1) == []
    assert world.fleet.waits_for("gpu") == "1 GPU (0 of 0 free)"
    assert world.fleet.waits_for("huge") == "64 CPUs (1 of 4 free); containers have it: 'f' (3)"
    said = world.wait(5)
    assert kinds(said) == ["Note", "Note"]
    assert "'gpu' has no container and has waited 5 s for 1 GPU (0 of 0 free)" in said[0].text
    assert world.wait(5) == []


def test_a_waiting_input_comes_before_a_buffer() -> None:
    """Containers that another function keeps as a buffer are reclaimed, though it would like even more."""
    world = World(pool("f", buffer_containers=3), pool("g"), cpus=2)
    world.demand("a", "f", 1)
    world.all_ready()
    assert (len(world.containers("f")), world.fleet.stats("f").idle) == (2, 1)

    assert kinds(world.demand("a", "g", 1)) == ["Drain"]
    world.all_drained()
    assert len(world.containers("g")) == 1


def test_a_function_without_containers_gets_a_turn() -> None:
    """Its room comes from one that others keep busy, at its next boundary; nothing is killed."""
    world = World(pool("f"), pool("g"), cpus=2)
    world.demand("a", "f", 100)
    world.all_ready()
    world.demand("b", "g", 1)
    assert world.wait(STARVED_S) == []

    (asked,) = [c for c in world.wait(TURN_S) if isinstance(c, Yield)]
    assert world.wait(1) == []
    world.release("a", asked.lease_id)
    assert kinds(world.step()) == ["Drain"]
    world.all_drained()
    world.all_ready()
    assert (len(world.granted["b"]), len(world.granted["a"])) == (1, 1)


def test_a_turn_that_is_not_wanted_any_more_is_not_taken() -> None:
    """The container works on."""
    world = World(pool("f"), pool("g"), cpus=1)
    world.demand("a", "f", 100)
    world.all_ready()
    world.demand("b", "g", 1)
    world.wait(TURN_S)
    world.demand("b", "g", 0)
    world.release("a", world.leases("a", "f")[0])
    world.step()

    assert list(world.granted["a"].values()) == ["c1"]


def test_two_functions_share_one_place_in_turns() -> None:
    """Each has it for a while, for as long as both want it."""
    world = World(pool("f"), pool("g"), cpus=1)
    had = []
    for tag in ("f", "g"):
        world.demand(tag, tag, 1000)
    for _ in range(60):
        world.all_ready()
        had += [tag for tag in "fg" if world.leases(tag, tag)]
        for lease_id, client_id in list(world.asked_back.items()):
            if lease_id in world.fleet.leases:
                world.release(client_id, lease_id)
        world.wait(1.0)
        world.all_drained()

    assert abs(had.count("f") - had.count("g")) <= TURN_S + 2


# --- nested calls


def nested(world: World, depth: int) -> None:
    """A call of `f` that calls itself `depth` times."""
    world.demand("driver", "f", 1)
    world.all_ready()
    for n in range(1, depth + 1):
        world.demand(f"c{n}", "f", 1)
        world.all_ready()
        world.wait(0.3)
        world.all_ready()


def test_recursion_beyond_the_room_goes_on_without_cpus() -> None:
    """One warning for all of it."""
    world = World(pool("f"), cpus=2)
    nested(world, 4)

    assert len(world.granted["c4"]) == 1
    assert [c.ask.cpus for c in world.fleet.containers.values()] == [1, 1, 0, 0, 0]
    assert world.notes == ["nested-room"]


def test_a_container_that_works_keeps_children_waiting() -> None:
    """Its room will be free: nothing needs to be rescued."""
    world = World(pool("f"), pool("g"), cpus=2)
    world.demand("driver", "f", 2)
    world.all_ready()
    world.demand("c1", "g", 1)
    for _ in range(4):
        world.wait(0.5)

    assert world.containers("g") == []
    world.release("driver", world.leases("driver", "f")[1])
    world.demand("driver", "f", 1)
    world.all_drained()
    assert len(world.containers("g")) == 1


def test_idle_containers_that_must_stay_do_not_prevent_the_rescue() -> None:
    """They wait for nothing, but will not give their room either."""
    world = World(pool("kept", min_containers=1), pool("f"), cpus=2)
    world.step()
    world.all_ready()
    world.demand("driver", "f", 1)
    world.all_ready()
    world.demand("c2", "f", 1)
    world.wait(0.3)
    world.all_ready()

    assert len(world.granted["c2"]) == 1


def test_no_rescue_with_a_gpu_that_is_not_there() -> None:
    """A container without CPUs would wait for it just the same, and keep others from being rescued."""
    world = World(pool("f"), pool("gpu", gpus=1), pool("h"), cpus=1)
    world.demand("driver", "f", 1)
    world.all_ready()
    world.demand("c1", "gpu", 1)
    world.wait(0.3)
    assert world.containers("gpu") == []

    world.demand("c1", "h", 1)
    world.wait(0.3)
    assert len(world.containers("h")) == 1


def test_a_cycle_of_waits_on_max_containers_is_named() -> None:
    """Within ten seconds, with the names, to those inside it only."""
    world = World(pool("f", 0.1, max_containers=1), pool("g", 0.1, max_containers=1))
    world.demand("driver", "f", 1)
    world.all_ready()
    world.demand("c1", "g", 1)
    world.all_ready()
    assert kinds(world.demand("c2", "f", 1)) == ["Yield"]
    assert world.fleet.again_at is not None
    assert world.fleet.again_at <= world.now + CYCLE_AFTER_S

    (refusal,) = world.wait(CYCLE_AFTER_S)
    assert isinstance(refusal, Refuse)
    assert (refusal.client_id, refusal.tag) == ("c2", "f")
    assert "'f' (max_containers=1), 'g' (max_containers=1)" in str(refusal.failure[2])


def test_a_function_at_its_maximum_that_works_is_no_cycle() -> None:
    """However long it takes."""
    world = World(pool("f", 0.1, max_containers=1), pool("g", 0.1, max_containers=1))
    world.demand("driver", "f", 1)
    world.all_ready()
    world.demand("c1", "g", 1)
    world.all_ready()
    for _ in range(5):
        world.wait(CYCLE_AFTER_S)

    assert world.refused == []


# --- clusters that can grow


def test_a_growing_cluster_is_told_once_and_others_start_meanwhile() -> None:
    """What waits for a new node takes no room of those that are there."""
    world = World(pool("big", 64.0), pool("f"), cpus=2, can_grow=True)
    assert kinds(world.demand("a", "big", 5)) == ["Start"]
    world.demand("a", "f", 2)

    assert (len(world.containers("big")), len(world.containers("f"))) == (1, 2)


def test_a_pending_start_is_placed_when_the_cluster_has_grown() -> None:
    """And the next ones fit then."""
    world = World(pool("big", 4.0), cpus=2, can_grow=True)
    world.demand("a", "big", 2)
    world.fleet.room = world.fleet.room.__class__(8, 1000, 0, 8, True)
    world.wait(1)

    assert [c.pending for c in world.fleet.containers.values()] == [False, False]


def test_a_pending_start_is_withdrawn_when_nobody_wants_it() -> None:
    """The cluster would grow for nothing."""
    world = World(pool("big", 64.0), cpus=2, can_grow=True)
    world.demand("a", "big", 1)

    assert kinds(world.demand("a", "big", 0)) == ["Kill"]
    assert world.containers("big") == []


def test_idle_containers_make_room_on_a_growing_cluster_too() -> None:
    """Most clusters that could grow have a largest size."""
    world = World(pool("f"), pool("g"), cpus=1, can_grow=True)
    world.demand("a", "f", 1)
    world.all_ready()
    world.give_back("a", "f")

    assert kinds(world.demand("a", "g", 1)) == ["Start", "Drain"]


def test_nested_calls_are_rescued_on_a_cluster_that_does_not_grow_after_all() -> None:
    """After a few seconds instead of at once, and the pending start is withdrawn."""
    world = World(pool("f"), pool("g", max_containers=1), cpus=1, can_grow=True)
    world.demand("driver", "f", 1)
    world.all_ready()
    world.demand("c1", "g", 1)
    assert world.wait(1) == []

    assert kinds(world.wait(RESCUE_AFTER_GROWING_S)) == ["Kill", "Start", "Note"]
    world.all_ready()
    assert len(world.granted["c1"]) == 1


# --- every order


class FleetMachine(RuleBasedStateMachine):
    """Any events in any order; `World` checks after every step. In the end all that is wanted is granted."""

    @initialize(
        cpus=st.sampled_from([1.5, 2.0, 4.0]),
        cores=st.integers(1, 3),
        can_grow=st.booleans(),
        most=st.sampled_from([None, 1, 2]),
        minimum=st.integers(0, 1),
        slots=st.integers(1, 2),
        gathers=st.booleans(),
        buffer=st.integers(0, 1),
    )
    def begin(
        self,
        cpus: float,
        cores: int,
        can_grow: bool,
        most: int | None,
        minimum: int,
        slots: int,
        gathers: bool,
        buffer: int,
    ) -> None:
        runs, slots = (slots, 2 * slots) if gathers else (None, slots)
        self.world = World(
            pool("f", 1.0, max_containers=most, scaledown_window=3.0),
            pool("g", 0.5, slots=slots, runs=runs, min_containers=minimum, scaledown_window=1.0),
            pool("h", 1.0, buffer_containers=buffer, scaledown_window=0.0),
            cpus=cpus,
            cores=cores,
            can_grow=can_grow,
        )
        self.world.step()

    def pick(self, data: st.DataObject, things: list[str]) -> str:
        return data.draw(st.sampled_from(sorted(things)))

    @rule(client=st.sampled_from(["d1", "d2"]), tag=st.sampled_from("fgh"), count=st.integers(0, 4))
    def ask(self, client: str, tag: str, count: int) -> None:
        self.world.silent.discard(client)
        self.world.demand(client, tag, count)

    @precondition(lambda self: any(c.leases for c in self.world.fleet.containers.values()))
    @rule(data=st.data(), tag=st.sampled_from("fgh"), count=st.integers(0, 2))
    def ask_from_inside(self, data: st.DataObject, tag: str, count: int) -> None:
        busy = [c.container_id for c in self.world.fleet.containers.values() if c.leases]
        self.world.demand(self.pick(data, busy), tag, count)

    @precondition(lambda self: self.world.fleet.leases)
    @rule(data=st.data(), idle=st.sampled_from([0.0, 1.0]), used_up=st.booleans())
    def give_back(self, data: st.DataObject, idle: float, used_up: bool) -> None:
        lease = self.world.fleet.leases[data.draw(st.sampled_from(sorted(self.world.fleet.leases)))]
        self.world.release(lease.client_id, lease.lease_id, idle, used_up=used_up)
        self.world.release(lease.client_id, lease.lease_id, idle)  # a second time changes nothing
        self.world.step()

    @precondition(lambda self: any(c.status is Status.STARTING for c in self.world.fleet.containers.values()))
    @rule(data=st.data(), how=st.sampled_from(["ready", "ready", "ready", "died", "raised"]))
    def started(self, data: st.DataObject, how: str) -> None:
        fleet = self.world.fleet
        container_id = self.pick(
            data, [c.container_id for c in fleet.containers.values() if c.status is Status.STARTING]
        )
        if how == "ready":
            if fleet.containers[container_id].pending:
                fleet.room = replace(fleet.room, cpus=fleet.room.cpus + fleet.containers[container_id].ask.cpus)
            fleet.container_ready(container_id, self.world.now)
        else:
            self.world.carry_out(fleet.container_failed(container_id, FAILURE, self.world.now, by_user=how == "raised"))
        self.world.step()

    @precondition(lambda self: any(c.status is not Status.STARTING for c in self.world.fleet.containers.values()))
    @rule(data=st.data())
    def container_ends(self, data: st.DataObject) -> None:
        fleet = self.world.fleet
        container_id = self.pick(
            data, [c.container_id for c in fleet.containers.values() if c.status is not Status.STARTING]
        )
        self.world.carry_out(fleet.container_gone(container_id, self.world.now))
        assert fleet.container_gone(container_id, self.world.now) == []
        self.world.step()

    @rule()
    def drains_end(self) -> None:
        self.world.all_drained()

    @rule(client=st.sampled_from(["d1", "d2"]))
    def falls_silent(self, client: str) -> None:
        self.world.silent.add(client)

    @rule(client=st.sampled_from(["d1", "d2"]))
    def says_goodbye(self, client: str) -> None:
        self.world.granted.pop(client, None)
        self.world.carry_out(self.world.fleet.client_gone(client, self.world.now))
        self.world.step()

    @rule(seconds=st.sampled_from([0.1, 0.5, 2.0, 6.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.world.wait(seconds)

    @rule(most=st.sampled_from([None, 1, 3]), buffer=st.integers(0, 1))
    def change_rules(self, most: int | None, buffer: int) -> None:
        self.world.fleet.set_rules("f", max_containers=most, buffer_containers=buffer)
        self.world.step()

    def teardown(self) -> None:
        """From here on everybody works: containers start and end, inputs without nested calls finish. Then all demand is served."""
        if not hasattr(self, "world"):
            return
        world, fleet = self.world, self.world.fleet
        world.silent.clear()
        for client in list(fleet._lapsed):
            world.seen(client)
        for _ in range(400):
            for lease in list(fleet.leases.values()):
                tag = fleet.containers[lease.container_id].tag
                if len(world.leases(lease.client_id, tag)) > fleet.clients[lease.client_id].demand.get(tag, 0):
                    world.release(lease.client_id, lease.lease_id)  # it lingered
            world.step()
            if not any(c.demand for c in fleet.clients.values()):
                break
            world.all_ready()
            world.all_drained()
            waiting = {c.container_id for c in fleet.clients.values() if c.demand and c.container_id}
            for lease in list(fleet.leases.values()):
                if lease.lease_id in fleet.leases and (
                    lease.container_id not in waiting
                    or lease.container_id == lease.client_id
                    or fleet.pools[fleet.containers[lease.container_id].tag].slots
                    > 1  # its inputs do not wait for each other
                ):
                    world.give_back(lease.client_id, fleet.containers[lease.container_id].tag)
            for client_id, tag in world.refused:
                if client_id in fleet.clients:
                    world.demand(client_id, tag, 0)
            world.refused.clear()
            world.wait(0.5)
        assert {c.client_id: c.demand for c in fleet.clients.values() if c.demand} == {}, fleet.containers
        for _ in range(20):
            world.all_ready()
            world.wait(2.0)
            world.all_drained()
        assert {tag: len(p.containers) for tag, p in fleet.pools.items()} == {
            tag: p.rules.min_containers for tag, p in fleet.pools.items()
        }


TestFleetMachine = FleetMachine.TestCase
TestFleetMachine.settings = settings(max_examples=120, stateful_step_count=30, deadline=None)


def test_the_first_container_starts_alone_for_a_moment_on_few_cores() -> None:
    """Two processes that start at once on two cores are both late, and one may do."""
    numbers = itertools.count(1)
    fleet = Fleet([Pool("f", Rules(), Ask(0.125))], lambda: f"c{next(numbers)}")
    fleet.room, fleet.cores = Room(2.0, 0, 0, 2), 2
    fleet.set_demand("caller", "f", 10, now=0.0)

    assert [type(c) for c in fleet.evaluate(0.0)] == [Start]
    assert fleet.evaluate(0.1) == []
    assert fleet.again_at == FIRST_ALONE_S
    assert [type(c) for c in fleet.evaluate(FIRST_ALONE_S)] == [Start]


# --- foreseen


def test_a_function_whose_inputs_come_by_the_clock_is_ready_for_them() -> None:
    """Under "hybrid": every five minutes with a window of one. Its container goes early, and another is there when the next input comes."""
    one = pool("f", scaledown_window=60.0)
    one.foresee()
    world = World(one)
    found: list[bool] = []
    expected: set[int] = set()
    for _ in range(20):
        found.append(bool(world.containers("f", Status.READY)))
        world.demand("a", "f", 1)
        world.all_ready()
        world.wait(1.0)
        world.give_back("a", "f")
        ends = world.now + 299.0
        while world.now < ends:
            at = world.fleet.again_at
            world.wait(max(0.0, min(ends, at or ends) - world.now))
            if one.decision is not None and one.decision.limited_by == "expected" and one.decided_by is not None:
                expected.add(one.decided_by.min_containers)
            world.all_ready()
            world.all_drained()

    assert found[:5] == [False] * 5
    assert all(found[6:]), "five idle times teach it"
    assert expected == {1}, "what the decision was made from, for people"
    assert one.decisions[-2].decision.limited_by == "expected" or one.decisions[-1].decision.limited_by == "expected"


def test_a_start_that_the_cluster_does_not_begin_with_is_given_up() -> None:
    """Others have the room, and meanwhile nobody wants it any more."""
    world = World(pool("f"))
    world.demand("a", "f", 1)
    [container] = world.containers("f")
    world.demand("a", "f", 0)
    assert world.containers("f") == [container]

    world.fleet.container_stalled(container)
    assert kinds(world.step()) == ["Kill"]
    assert world.containers("f") == []


def test_a_clock_that_goes_backwards_ends_nothing() -> None:
    """Monotonic ones do not, but a restarted machine's may: nobody is taken for dead or idle for it, and calls go on."""
    world = World(pool("f", scaledown_window=60.0))
    world.demand("a", "f", 1)
    world.all_ready()
    world.give_back("a", "f")
    world.now -= 1000.0

    world.wait(0.0)
    assert len(world.containers("f", Status.READY)) == 1
    world.demand("a", "f", 2)
    world.all_ready()
    assert len(world.granted["a"]) == 2
    for _ in range(2):
        world.give_back("a", "f")
    world.wait(1000.0)
    world.wait(61.0)
    world.all_drained()
    assert world.containers("f") == []
