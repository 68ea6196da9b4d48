"""How many containers a function should have, and which of them are placed now."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from raymodal.logic.autoscale import Ask, Decision, Load, Room, Rules, admit, decide, needed_for

rules = st.builds(
    Rules,
    min_containers=st.integers(0, 6),
    max_containers=st.none() | st.integers(1, 8),
    buffer_containers=st.integers(0, 3),
    scaledown_window=st.floats(0, 100),
    target_inputs=st.integers(1, 4),
)
loads = st.builds(
    Load,
    demand=st.integers(0, 20),
    starting=st.integers(0, 5),
    busy=st.integers(0, 5),
    idle_since=st.lists(st.floats(0, 200), max_size=6).map(lambda times: tuple(sorted(times))),
)
nows = st.floats(200, 400)


def wanted(rules: Rules, load: Load) -> int:
    """What is needed, inside the bounds."""
    most = rules.max_containers or 1000
    return min(max(needed_for(rules, load.demand), rules.min_containers), most)


def carried_out(load: Load, decision: Decision) -> Load:
    """The load once the decision has been followed: those idle longest end, new ones are starting."""
    fewer = load.containers - decision.target
    return (
        replace(load, idle_since=load.idle_since[fewer:])
        if fewer > 0
        else replace(load, starting=load.starting - fewer)
    )


@given(rules, loads, nows)
def test_a_target_is_inside_its_bounds(rules: Rules, load: Load, now: float) -> None:
    """Never below what is needed; above `max_containers` only by containers that are busy or starting."""
    target = decide(rules, load, now).target

    assert target >= wanted(rules, load)
    assert target <= max(rules.max_containers or 1000, load.busy + load.starting)


@given(rules, loads, nows)
def test_only_idle_containers_end(rules: Rules, load: Load, now: float) -> None:
    """Busy and starting ones never do."""
    assert decide(rules, load, now).target >= min(load.busy + load.starting, load.containers)


@given(rules, loads, nows, st.integers(0, 10))
def test_more_demand_never_means_fewer_containers(rules: Rules, load: Load, now: float, more: int) -> None:
    """All else being equal."""
    assert decide(rules, replace(load, demand=load.demand + more), now).target >= decide(rules, load, now).target


@given(rules, loads, nows)
def test_nothing_is_too_many_beyond_the_window(rules: Rules, load: Load, now: float) -> None:
    """Of those above what is needed, no more stay than have become idle within it."""
    decision = decide(rules, load, now)
    left = carried_out(load, decision)
    young = [since for since in left.idle_since if since + rules.scaledown_window > now]
    # While the last input ended within the window, a buffer counts as needed.
    lately = replace(load, demand=max(load.demand, 1)) if young and rules.buffer_containers else load

    assert left.containers - max(wanted(rules, lately), load.busy + load.starting) <= len(young)


@example(Rules(buffer_containers=3), Load(0, 0, 0, (0.0, 0.0, 0.0, 190.0)), 200.0)
@given(rules, loads.map(lambda load: replace(load, demand=0)), nows)
def test_a_buffer_goes_a_window_after_the_last_input(rules: Rules, load: Load, now: float) -> None:
    """Whatever is idle then and above the minimum, the buffer with it; and nothing is started for a buffer that nobody works beside."""
    decision = decide(rules, load, now)
    assert decision.target <= max(load.containers, min(rules.min_containers, rules.max_containers or 1000))

    later = max(load.idle_since, default=now) + rules.scaledown_window
    expected = max(min(rules.min_containers, rules.max_containers or 1000), load.busy + load.starting)
    assert decide(rules, load, max(now, later)).target == expected


def test_a_spare_one_does_not_go_with_the_first_input_that_ends() -> None:
    """However long it has been idle as a buffer: a window after that input nobody has wanted it, and then one goes."""
    rules = Rules(buffer_containers=1, scaledown_window=60.0)
    load = Load(demand=1, starting=0, busy=1, idle_since=(0.0, 1000.0))

    assert decide(rules, load, 1000.0) == Decision(3, "scaledown_window", 1060.0)
    assert decide(rules, load, 1060.0).target == 2

    single = Load(demand=0, starting=0, busy=0, idle_since=(0.0, 1000.0))
    assert decide(rules, single, 1000.0) == Decision(2, "scaledown_window", 1060.0)
    assert decide(rules, single, 1060.0).target == 0


@given(rules, loads, nows)
def test_idle_containers_within_the_window_stay(rules: Rules, load: Load, now: float) -> None:
    """As long as they are no more than `max_containers` allows."""
    decision = decide(rules, load, now)
    young = [since for since in load.idle_since if since + rules.scaledown_window > now]
    kept = carried_out(load, decision).idle_since

    assert len([since for since in kept if since in young]) == len(young) or decision.target == max(
        rules.max_containers or 0, load.busy + load.starting
    )


@given(rules, loads, nows)
def test_a_decision_that_was_carried_out_stands(rules: Rules, load: Load, now: float) -> None:
    """The same snapshot gives the same answer, and following it leads to no other: no oscillation."""
    decision = decide(rules, load, now)

    assert decide(rules, load, now) == decision
    assert decide(rules, carried_out(load, decision), now).target == decision.target


@example(
    Rules(max_containers=6, scaledown_window=95.0), Load(demand=0, starting=0, busy=5, idle_since=(106.0, 107.0)), 200.0
)
@given(rules, loads, nows)
def test_looking_again_is_worth_it(rules: Rules, load: Load, now: float) -> None:
    """Somebody looks again exactly while an idle container is above what is needed, and then one ends."""
    decision = decide(rules, load, now)
    left = carried_out(load, decision)
    above = left.idle_since and left.containers > wanted(rules, load)

    if above:
        assert decision.again_at is not None
        assert decision.again_at > now
        assert decide(rules, left, decision.again_at).target < left.containers


@given(rules, loads, nows)
def test_a_scaledown_follows_its_own_timers_to_the_end(rules: Rules, load: Load, now: float) -> None:
    """Nothing else happens, and yet all that is idle and not needed ends."""
    load = replace(load, starting=0)
    for _ in range(10):
        decision = decide(rules, load, now)
        load = carried_out(load, decision)
        if decision.again_at is None:
            break
        now = decision.again_at

    decision = decide(rules, load, now)
    assert decision.again_at is None or load.containers <= wanted(rules, load)
    assert not load.idle_since or load.containers <= wanted(rules, load)


@pytest.mark.parametrize(
    ("since", "window"),
    [(0.1, 0.2), (200.3, 60.0), (83.93, 16.91), (1234.5678, 0.1)],
)
def test_a_timer_that_fires_exactly_in_time_finds_the_container_expired(since: float, window: float) -> None:
    """Whatever rounding does to sums and differences."""
    rules, load = Rules(scaledown_window=window), Load(0, 0, 0, (since,))
    at = decide(rules, load, since).again_at

    assert at is not None
    assert decide(rules, load, at).target == 0


@pytest.mark.parametrize(
    ("rules", "load", "expected"),
    [
        (Rules(), Load(0, 0, 0), Decision(0, "demand")),
        (Rules(), Load(5, 0, 0), Decision(5, "demand")),
        (Rules(max_containers=3), Load(5, 0, 0), Decision(3, "max_containers")),
        (Rules(min_containers=2), Load(0, 0, 0), Decision(2, "min_containers")),
        (Rules(min_containers=5, max_containers=3), Load(0, 0, 0), Decision(3, "min_containers")),
        (Rules(buffer_containers=2), Load(1, 0, 1), Decision(3, "demand")),
        (Rules(buffer_containers=2), Load(0, 0, 0), Decision(0, "demand")),
        (Rules(target_inputs=4), Load(9, 0, 0), Decision(3, "demand")),
        (Rules(), Load(2, 3, 0), Decision(3, "busy")),
        (Rules(), Load(0, 0, 1, (99.0,)), Decision(2, "scaledown_window", 159.0)),
        (Rules(), Load(0, 0, 1, (40.0,)), Decision(1, "busy", None)),
        (Rules(min_containers=1), Load(0, 0, 0, (9.0, 99.0)), Decision(2, "scaledown_window", 159.0)),
        (Rules(max_containers=1), Load(0, 0, 0, (98.0, 99.0)), Decision(1, "max_containers", 159.0)),
    ],
)
def test_decisions_and_their_reasons(rules: Rules, load: Load, expected: Decision) -> None:
    """At 100 s."""
    decision = decide(rules, load, 100.0)

    assert (decision.target, decision.again_at) == (expected.target, expected.again_at)
    assert decision.limited_by == expected.limited_by


# --- what the cluster places ------------------------------------------------------------------------------------------

asks = st.builds(
    Ask, cpus=st.sampled_from([0.0, 0.125, 1.0, 2.0]), memory=st.sampled_from([0, 1, 4]), gpus=st.sampled_from([0, 1])
)
rooms = st.builds(
    Room,
    cpus=st.floats(0, 4),
    memory=st.integers(0, 8),
    gpus=st.integers(0, 2),
    starts=st.integers(0, 4),
    can_grow=st.booleans(),
)
tags = st.permutations(["a", "b", "c"])
counts = st.fixed_dictionaries({t: st.integers(0, 5) for t in "abc"})


@given(counts, st.fixed_dictionaries(dict.fromkeys("abc", asks)), rooms, tags)
def test_what_starts_fits(missing: dict[str, int], asks: dict[str, Ask], room: Room, turn: list[str]) -> None:
    """Nothing above what the room holds and the nodes can start at once; a growing cluster gets one more of each shape that waits."""
    starts, waiting = admit(missing, asks, room, turn)

    beyond = waiting if room.can_grow else []
    placed = list(starts)
    for tag in beyond:
        placed.remove(tag)
    for tag in placed:
        assert room.holds(asks[tag])
        room = room.less(asks[tag])
    assert room.starts >= 0
    assert all(placed.count(tag) <= missing[tag] for tag in "abc")
    assert len(set(waiting)) == len(waiting)


@given(counts, st.fixed_dictionaries(dict.fromkeys("abc", asks)), rooms, tags)
def test_nobody_waits_without_a_reason(
    missing: dict[str, int], asks: dict[str, Ask], room: Room, turn: list[str]
) -> None:
    """Who gets fewer than it misses is named as waiting, or all starts are taken."""
    starts, waiting = admit(missing, asks, room, turn)

    for tag, count in missing.items():
        if starts.count(tag) < count and tag not in waiting:
            assert len(starts) - (len(waiting) if room.can_grow else 0) == room.starts


def test_functions_are_served_in_turn() -> None:
    """A thousand inputs of one do not starve one input of another."""
    starts, waiting = admit(
        {"many": 1000, "one": 1}, {"many": Ask(1), "one": Ask(1)}, Room(8, 0, 0, 3), ["many", "one"]
    )

    assert (starts, waiting) == (["many", "one", "many"], [])


@given(st.integers(1, 3), st.lists(st.integers(1, 50), min_size=2, max_size=5))
def test_nothing_starves(starts: int, missing: list[int]) -> None:
    """Whoever is served goes to the end, so within as many rounds as there are functions each gets its first."""
    left = {f"f{n}": count for n, count in enumerate(missing)}
    turn, served = list(left), set[str]()
    for _ in left:
        begun, _ = admit(left, {t: Ask(1) for t in left}, Room(float(starts), 0, 0, starts), turn)
        for tag in begun:
            left[tag] -= 1
            turn.remove(tag)
            turn.append(tag)
        served.update(begun)

    assert served == set(left)


def test_one_pending_start_of_each_shape_tells_a_growing_cluster() -> None:
    """Not one for each missing container."""
    starts, waiting = admit(
        {"big": 7, "fits": 2}, {"big": Ask(64), "fits": Ask(1)}, Room(2, 0, 0, 8, can_grow=True), ["big", "fits"]
    )

    assert (starts, waiting) == (["big", "fits", "fits"], ["big"])
