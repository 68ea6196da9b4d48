"""Simulated containers under each policy: nothing lost, bounds kept, figures as computed by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from benchmarks.simulate import functions, policies, runs, traces
from benchmarks.simulate.knative import Knative
from benchmarks.simulate.policies import Hybrid, KeepAlive, Ours
from benchmarks.simulate.report import Row
from benchmarks.simulate.workload import Durations, Trace, Workload
from benchmarks.simulate.world import Outcome, Policy, World
from raymodal.logic import autoscale
from raymodal.logic.autoscale import Rules

SERVICE = Durations(2.0, 0.5)


def made(kind: str, inputs: int = 400, most: int = 20, seed: int = 1) -> Trace:
    """One function's inputs; of kinds that have many functions, the busiest one's."""
    return max(workload(kind, inputs, most, seed).pools, key=len)


def workload(kind: str, inputs: int = 400, most: int = 20, seed: int = 1) -> Workload:
    return traces.make(kind, traces.demand_for(inputs, most, SERVICE, seed))


def alone(trace: Trace) -> Workload:
    return Workload(trace.name, (trace,))


def at(*arrivals: float, service: float = 2.0) -> Trace:
    return Trace("by hand", arrivals, tuple(service for _ in arrivals))


def outcome(trace: Trace, policy: Policy, *, most: int = 20, slots: int = 1, start: float = 1.0) -> Outcome:
    return World(trace, policy, most=most, slots=slots, start=Durations(start), seed=1).run()


OF_EVENTS = ["ours", "ours-5", "ours-buffer", "hybrid", "keepalive-5", "knative"]
# A week of the turns of Serve's loop takes seconds.
EACH = [(kind, name) for kind in traces.ONE for name in [*OF_EVENTS, "serve", "serve-tuned"]]


@pytest.mark.parametrize(("kind", "name"), [*EACH, *(("timers", name) for name in OF_EVENTS)])
def test_every_input_is_served_once(kind: str, name: str) -> None:
    """The containers' time is made of starts, idle time and each input's time once; nobody is served before it comes."""
    trace = made(kind)
    setting = runs.Setting(most=20, start=Durations(1.0))
    policy = runs.policy(name, setting)
    found = outcome(trace, policy)
    starting = found.container_s - found.idle_s - sum(trace.services)

    assert len(found.waits) == len(trace)
    assert min(found.waits) >= 0
    assert found.most_containers <= 20
    assert starting <= found.starts + 1e-6
    if not policy.cuts_starting:
        assert starting == pytest.approx(found.starts)


@pytest.mark.parametrize("name", ["ours", "knative", "keepalive"])
def test_several_inputs_at_once(name: str) -> None:
    """A container with slots needs fewer of its like, and its time is shared."""
    trace = made("poisson", 1000, 40)
    found = outcome(trace, runs.policy(name, runs.Setting(most=10, slots=4)), most=10, slots=4)
    alone = outcome(trace, runs.policy(name, runs.Setting(most=40)), most=40)

    assert min(found.waits) >= 0
    assert found.most_containers <= 10
    assert found.container_s < 0.7 * alone.container_s


def test_the_same_seed_gives_the_same_figures() -> None:
    """And another one others."""
    setting = runs.Setting(most=20)
    one, same, other = (runs.simulate(workload("heavy", seed=seed), ["ours", "knative"], setting) for seed in (1, 1, 2))

    assert one == same
    assert one != other


def test_ours_by_hand() -> None:
    """Two cold starts, one input that finds the first container idle, and each container gone after its window."""
    found = outcome(at(0, 1, 3), Ours(Rules(max_containers=2, scaledown_window=5)), most=2)

    assert found.waits == (1, 1, 0)
    assert found.cold_percent == pytest.approx(200 / 3)
    assert found.idle_s == 5 + 5
    assert found.container_s == (10 - 0) + (9 - 1)
    assert (found.most_containers, found.starts, found.ended_at) == (2, 2, 5)


def test_ours_is_the_autoscaler_itself() -> None:
    """Not a copy of it."""
    assert policies.decide is autoscale.decide


@pytest.mark.parametrize(
    "rules",
    [
        Rules(max_containers=20, scaledown_window=3),
        Rules(max_containers=20, scaledown_window=60),
        Rules(max_containers=8, min_containers=3, scaledown_window=4),
        Rules(max_containers=20, buffer_containers=2, scaledown_window=4),
        Rules(max_containers=7, target_inputs=2, scaledown_window=4),
    ],
)
@pytest.mark.parametrize("kind", ["poisson", "bursts", "heavy"])
@pytest.mark.parametrize("slots", [1, 3])
def test_leaving_out_needless_questions_changes_nothing(kind: str, rules: Rules, slots: int) -> None:
    """Asked after every event, `decide` gives the same run."""
    most = rules.max_containers or 1
    trace = made(kind, 600, 20 * slots)
    seldom, always = Ours(rules), Ours(rules, asks_always=True)

    assert outcome(trace, seldom, most=most, slots=slots) == outcome(trace, always, most=most, slots=slots)
    assert seldom.asked < always.asked


@pytest.mark.parametrize("kind", ["poisson", "bursts", "heavy"])
def test_ours_without_buffer_is_a_keep_alive_of_its_window(kind: str) -> None:
    """Written independently, they agree where a container serves one input at a time."""
    trace = made(kind)

    assert outcome(trace, Ours(Rules(max_containers=20, scaledown_window=7))) == outcome(trace, KeepAlive(7))


@pytest.mark.parametrize("policy", [Ours(Rules(max_containers=100)), KeepAlive(600), Ours(Rules(target_inputs=1))])
def test_constant_load_does_not_oscillate(policy: Policy) -> None:
    """What was started at first is enough for ever."""
    # An input never ends at the instant at which another one arrives.
    found = outcome(at(*(i / 12.5 for i in range(2000)), service=1.99), policy, most=100)

    assert found.starts == found.most_containers


def test_keep_alive_keeps_exactly_its_window() -> None:
    """A container idle since 3 ends at 603: an input at 602.5 finds it, one at 603.5 does not."""
    one = outcome(at(0, 602.5), KeepAlive(600))
    two = outcome(at(0, 603.5), KeepAlive(600))

    assert (one.starts, one.waits, one.idle_s) == (1, (1, 0), 599.5 + 600)
    assert (two.starts, two.waits, two.idle_s) == (2, (1, 1), 1200)


def test_knative_by_hand() -> None:
    """From zero one input wants 1 / 0.7 containers, that is two, and a panic of a stable window.

    Ticks at 0, 2, ...: at 62 the panic is over and the window is empty; half of two stay, at 64 none is wanted, and the
    grace period ends at 94.
    """
    found = outcome(at(0, service=1.0), Knative())

    assert (found.starts, found.most_containers) == (2, 2)
    assert found.container_s == 62 + 94


def test_knative_follows_a_steady_load() -> None:
    """Ten at once over 70 % of a slot each, once the windows are full of them."""
    seen = []

    class Watched(Knative):
        def target(self, view: World, now: float) -> int | None:
            wanted = super().target(view, now)
            if wanted is not None and 150 < now < 190:
                seen.append(wanted)
            return wanted

    outcome(at(*(i / 5 for i in range(1000))), Watched(), most=40)

    assert set(seen) == {15}


def test_serve_runs_its_own_code() -> None:
    """The function and the wrapper are ray.serve's, its clock is put back, and its delays are the defaults.

    From zero one container at the loop's next turn. The push that was sent at once says six, which must hold for 30 s
    from when that container is ready.
    """
    import time

    from ray.serve import autoscaling_policy

    policy = runs.policy("serve", runs.Setting(most=20))
    found = outcome(at(0, 0, 0, 0, 0, 0, service=100.0), policy)

    assert policy._policy.__wrapped__ is autoscaling_policy.default_autoscaling_policy  # type: ignore[attr-defined]
    assert autoscaling_policy.time is time
    assert found.waits[0] == 1
    assert all(32 <= wait <= 32.5 for wait in found.waits[1:])


def test_policies_that_cut_busy_containers_let_them_finish() -> None:
    """They take no more, and count against the bound until they end."""

    class Fickle:
        again_at = None
        cuts_starting = True

        def target(self, view: World, now: float) -> int | None:
            return 0 if view.busy and view.waiting else 1

    found = outcome(at(0, 0, 0), Fickle(), most=1)

    assert found.waits == (1, 4, 7)
    assert (found.starts, found.most_containers, found.idle_s) == (3, 1, 3600)


def test_a_policy_that_starts_nothing_is_named() -> None:
    """Instead of waiting for ever."""

    class Lazy:
        again_at = None
        cuts_starting = False

        def target(self, view: World, now: float) -> int | None:
            return 0

    with pytest.raises(RuntimeError, match=r"1 inputs wait, and .*Lazy"):
        outcome(at(0), Lazy())


@pytest.mark.parametrize("kind", traces.ONE)
def test_traces_have_the_rate_they_were_made_for(kind: str) -> None:
    """As many inputs as asked for, ascending, about a quarter of the containers busy in the mean, where peaks are high a tenth."""
    trace = made(kind, 20_000, 100, seed=3)
    length = trace.arrivals[-1]

    assert len(trace) == len(trace.services) == 20_000
    assert list(trace.arrivals) == sorted(trace.arrivals)
    assert trace.arrivals[0] >= 0
    low, high = (0.05, 0.15) if kind == "heavy" else (0.15, 0.5)
    assert low < sum(trace.services) / length / 100 < high


@pytest.mark.parametrize(
    ("durations", "least"), [(Durations(2.0), 2.0), (Durations(2.0, 0.5), 0.1), (Durations(2.0, 1.5), 0.0)]
)
def test_durations_have_their_mean(durations: Durations, least: float) -> None:
    """Whatever their spread."""
    import random

    rng = random.Random(1)
    drawn = [durations.draw(rng) for _ in range(40_000)]

    assert sum(drawn) / len(drawn) == pytest.approx(2.0, rel=0.05)
    assert min(drawn) >= least


@pytest.mark.parametrize("kind", traces.MANY)
def test_many_functions(kind: str) -> None:
    """As many inputs as asked for, within a week, each function's in order; the same for a seed, and none changes when there are more."""
    few, more = workload(kind, 3000), workload(kind, 6000)

    assert few.inputs == 3000
    assert few.pools[:-1] == more.pools[: len(few.pools) - 1]
    assert few == workload(kind, 3000) != workload(kind, 3000, seed=2)
    for pool in more.pools:
        assert len(pool) == len(pool.services) > 0
        assert list(pool.arrivals) == sorted(pool.arrivals)
        assert 0 <= pool.arrivals[0] <= pool.arrivals[-1] < functions.DAYS * functions.DAY_S


def test_many_functions_are_as_rare_as_published() -> None:
    """Of those with an input per minute or fewer: 45 of 81 have one per hour or fewer; 16 % are timers."""
    pools = workload("azure", 200_000).pools[:-1]
    week_h = functions.DAYS * 24
    rare = sum(len(pool) <= 1.5 * week_h for pool in pools) / len(pools)
    timers = sum(pool.name.startswith("timer") for pool in pools) / len(pools)

    assert rare == pytest.approx(45 / 81, abs=0.12)
    assert timers == pytest.approx(functions.TIMERS, abs=0.08)
    assert max(len(pool) for pool in pools) < 2 * 60 * week_h


def test_functions_share_nothing() -> None:
    """Each has its containers; their figures are added up, and at once is at one instant."""
    setting = runs.Setting(most=5, start=Durations(1.0))
    early, late, last = at(0, 10), at(5, 100), at(1000)
    row, *each = (
        runs.simulate(Workload("w", pools), ["ours-3"], setting).rows[0]
        for pools in [(early, late, last), (early,), (late,), (last,)]
    )

    assert row.idle_s == sum(one.idle_s for one in each) == 5 * 3
    assert row.container_s == sum(one.container_s for one in each)
    assert (row.starts, row.most_containers, [one.most_containers for one in each]) == (5, 2, [1, 1, 1])
    assert (row.cold_percent, row.cold_function_percent) == (100, 100)


def test_functions_start_in_times_of_their_own() -> None:
    """Two that are asked for the same are not ready at the same instants."""
    setting = runs.Setting(most=5)
    two, one = (runs.simulate(Workload("w", (at(0),) * times), ["ours-3"], setting).rows[0] for times in (2, 1))

    assert two.container_s != 2 * one.container_s


def test_functions_count_as_much_as_each_other() -> None:
    """Ten inputs of which one is cold, and one that is: a share of inputs, and one of functions."""
    busy, rare = at(*range(0, 50, 5)), at(7)
    row = runs.simulate(Workload("w", (busy, rare)), ["ours-60"], runs.Setting(most=5, start=Durations(1.0))).rows[0]

    assert row.cold_percent == pytest.approx(100 * 2 / 11)
    assert row.cold_function_percent == pytest.approx((10 + 100) / 2)


def test_hybrid_meets_a_timer() -> None:
    """Cold until it is learned, and never again; idle a second or two each time instead of a minute in vain."""
    trace = at(*(300.0 * turn for turn in range(100)))
    fixed, hybrid = (outcome(trace, runs.policy(name, runs.Setting(most=20))) for name in ("ours", "hybrid"))

    assert all(fixed.cold)
    assert hybrid.cold == (True,) * 5 + (False,) * 95
    assert hybrid.idle_s < 0.1 * fixed.idle_s
    assert hybrid.starts == 101


def test_hybrid_knows_how_long_containers_take() -> None:
    """Half a minute, and they are ready in time."""
    hybrid = outcome(at(*(300.0 * turn for turn in range(20))), Hybrid(Rules(max_containers=20)), start=30.0)

    assert hybrid.cold == (True,) * 5 + (False,) * 15


def test_hybrid_is_ours_where_demand_never_pauses() -> None:
    """The same run as with the window."""
    trace = made("poisson", 1000, 100)
    setting = runs.Setting(most=100)
    hybrid, fixed = (outcome(trace, runs.policy(name, setting), most=100) for name in ("hybrid-300", "ours-300"))

    assert hybrid == fixed


def test_beside_fixed_windows() -> None:
    """Read off along the logarithm of idle time, both ways; beyond what was run there is nothing to read off."""
    row = runs.simulate(alone(at(0)), ["ours"], runs.Setting(most=1)).rows[0]

    def named(name: str, idle: float, cold: float) -> Row:
        return replace(row, policy=name, idle_s=idle, cold_percent=cold, cold_function_percent=2 * cold)

    fixed = [named("ours-300", 1000, 10), named("ours", 100, 20), named("ours-10", 10, 40)]
    rows = (*fixed, named("ours-buffer", 100, 1), named("hybrid", 1000 / 10**0.5, 5), named("hybrid-300", 10_000, 30))
    one, other = replace(
        runs.simulate(alone(at(0)), ["ours"], runs.Setting(most=1)), rows=rows, functions=2
    ).comparisons

    assert one.cold_percent == pytest.approx(15)
    assert one.cold_function_percent == pytest.approx(30)
    assert one.idle_s is None
    assert (other.cold_percent, other.cold_function_percent) == (None, None)
    assert other.idle_s == pytest.approx(10**1.5)
    assert one.lines(is_many=False)[0].endswith("5.00 instead of 15.0 (x0.33) % cold")
    assert one.lines(is_many=True)[0].endswith("(x0.33) % cold, 10.0 instead of 30.0 (x0.33) % of the mean function")
    assert one.lines(is_many=True)[1].startswith("hybrid: no fixed windows that ran lie on both sides of its share")
    assert other.lines(is_many=False)[0].startswith(
        "hybrid-300: no fixed windows that ran lie on both sides of its idle"
    )
    assert other.lines(is_many=False)[1].endswith("10,000 instead of 31.6 (x316.23) idle container-seconds")


def test_front() -> None:
    """Nobody on it is beaten in both; of equals the first one stays."""
    row = runs.simulate(alone(at(0)), ["ours"], runs.Setting(most=1)).rows[0]
    rows = [
        replace(row, policy=name, idle_s=idle, wait_p99_ms=wait)
        for name, idle, wait in [("a", 1, 9), ("b", 2, 9), ("c", 3, 5), ("d", 2, 7), ("e", 3, 5)]
    ]
    simulation = replace(runs.simulate(alone(at(0)), ["ours"], runs.Setting(most=1)), rows=tuple(rows))

    assert [row.policy for row in simulation.front] == ["a", "d", "c"]


@pytest.mark.parametrize("name", ["", "our", "ours-", "ours-x", "serve-5", "keepalive--5", "knative-1"])
def test_unknown_policies(name: str) -> None:
    """The error says which there are."""
    with pytest.raises(ValueError, match=r"there is no policy '.*'; there are: ours, "):
        runs.policy(name, runs.Setting(most=1))


def test_names_of_policies() -> None:
    """Every default is one, and seconds go where they belong."""
    setting = runs.Setting(most=40)
    build: Callable[[str], Policy] = lambda name: runs.policy(name, setting)  # noqa: E731

    assert build("ours-10") == Ours(Rules(max_containers=40, scaledown_window=10))
    assert build("ours") == Ours(Rules(max_containers=40))
    assert build("ours-buffer") == Ours(Rules(max_containers=40, buffer_containers=2))
    assert build("hybrid") == Hybrid(Rules(max_containers=40))
    assert build("hybrid-10") == Hybrid(Rules(max_containers=40, scaledown_window=10))
    assert build("keepalive") == KeepAlive(600)
    assert build("keepalive-1.5") == KeepAlive(1.5)


def test_lists_of_policies() -> None:
    """`sweep` is all its windows, each once; without any there are defaults, and all of these are known."""
    assert runs.names_of(["ours-10", "sweep", "hybrid"], is_many=False) == (
        "ours-10",
        *(name for name in runs.SWEEP if name != "ours-10"),
        "hybrid",
    )
    assert runs.names_of([], is_many=True) == runs.DEFAULT_FOR_MANY
    assert not any("serve" in name for name in runs.DEFAULT_FOR_MANY)
    for name in [*runs.DEFAULT_POLICIES, *runs.DEFAULT_FOR_MANY]:
        runs.policy(name, runs.Setting(most=3))
