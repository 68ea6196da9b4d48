"""What Ray Serve shows of a deployment, as a load; and what is wanted, as Serve must be told it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymodal.logic.autoscale import Load, Rules, decide
from raymodal.logic.serve import PATIENCE_S, UNLIMITED, Memory, Seen, observed, paced, scaling_options, told

sights = st.builds(
    Seen, ready=st.integers(0, 8), target=st.integers(0, 8), demand=st.integers(0, 20) | st.floats(0, 20)
)
factors = st.floats(0.05, 50)


@dataclass
class Deployment:
    """A Serve without Serve: containers start after `start_s`, and the policy is asked every second."""

    rules: Rules
    start_s: int = 2
    at_once: int = 100
    now: float = 0.0
    ready: int = 0
    starts: list[float] = field(default_factory=list)
    memory: Memory = field(default_factory=Memory)

    @property
    def target(self) -> int:
        return self.ready + len(self.starts)

    def run(self, seconds: int, demand: float) -> list[int]:
        """The target at each second."""
        targets = []
        for _ in range(seconds):
            while self.starts and self.starts[0] <= self.now:
                self.starts.pop(0)
                self.ready += 1
            load, self.memory = observed(Seen(self.ready, self.target, demand), self.memory, self.now)
            wanted = paced(decide(self.rules, load, self.now).target, load, self.memory, self.at_once, self.now)
            while self.target < wanted:
                self.starts.append(self.now + self.start_s)
            self.ready -= max(0, self.target - wanted)
            targets.append(self.target)
            self.now += 1
        return targets


@given(st.lists(st.tuples(sights, st.floats(-10, 100)), max_size=20))
def test_a_load_adds_up_to_what_serve_has(looks: list[tuple[Seen, float]]) -> None:
    """At every look, whatever came before, also with a clock that jumps: starting, busy and idle are Serve's target."""
    memory = Memory()
    for seen, now in looks:
        load, memory = observed(seen, memory, now)

        assert load.containers == seen.target
        assert load.busy == min(seen.ready, seen.target, math.ceil(seen.demand))
        assert list(load.idle_since) == sorted(load.idle_since)
        assert all(since <= now for since in load.idle_since)


def test_a_part_of_an_input_is_an_input() -> None:
    """Serve can report means: 0.2 inputs keep one container busy."""
    load, _ = observed(Seen(ready=3, target=3, demand=0.2), Memory(), 5.0)

    assert load == Load(demand=1, starting=0, busy=1, idle_since=(5.0, 5.0))


def test_the_shortest_idle_take_new_work_and_the_longest_idle_are_stopped() -> None:
    """So that a window ends although the work moves between containers."""
    memory = Memory(ready=3, idle_since=(1.0, 2.0, 3.0))

    busier, _ = observed(Seen(ready=3, target=3, demand=1), memory, 9.0)
    fewer, _ = observed(Seen(ready=2, target=2, demand=0), memory, 9.0)

    assert busier.idle_since == (1.0, 2.0)
    assert fewer.idle_since == (2.0, 3.0)


def test_containers_about_to_be_stopped_do_not_count() -> None:
    """Else the next decision would keep them."""
    load, _ = observed(Seen(ready=4, target=1, demand=0), Memory(ready=4, idle_since=(0.0,) * 4), 9.0)

    assert load == Load(demand=0, starting=0, busy=0, idle_since=(0.0,))


def test_up_at_once_and_down_after_the_window() -> None:
    """With work for one that never ends, those that were needed for a moment stay for a window, and not beyond."""
    deployment = Deployment(Rules(max_containers=4, scaledown_window=10))

    up = deployment.run(3, demand=9)
    steady = deployment.run(20, demand=1)
    down = deployment.run(12, demand=0)

    assert up == [4, 4, 4]
    assert steady == [4] * 10 + [1] * 10
    assert down == [1] * 10 + [0, 0]


def test_work_now_and_then_keeps_one() -> None:
    """One input within each window."""
    deployment = Deployment(Rules(scaledown_window=10))

    targets = [target for _ in range(5) for target in deployment.run(1, demand=1) + deployment.run(8, demand=0)]

    assert set(targets) == {1}


def test_a_clock_that_goes_backwards_only_begins_windows_anew() -> None:
    """Nothing ends early, and nothing stays for an hour."""
    deployment = Deployment(Rules(scaledown_window=10))
    deployment.run(4, demand=2)
    deployment.run(5, demand=0)

    deployment.now -= 3600

    assert deployment.run(12, demand=0) == [2] * 10 + [0, 0]


def test_as_many_start_at_once_as_there_are_cores() -> None:
    """The next ones as soon as some are ready."""
    deployment = Deployment(Rules(), at_once=2)

    assert deployment.run(9, demand=7) == [2, 2, 4, 4, 6, 6, 7, 7, 7]


def test_starts_that_do_not_end_let_more_go() -> None:
    """A cluster that grows hears of more and more; the first that is ready brings the usual pace back."""
    deployment = Deployment(Rules(), start_s=13, at_once=2)

    assert deployment.run(16, demand=50) == [2] * 6 + [4] * 5 + [8] * 5
    assert deployment.memory.starting_since == 13.0


def test_a_clock_that_goes_backwards_does_not_hold_starts_back() -> None:
    """Patience begins anew."""
    load, memory = observed(Seen(ready=0, target=2, demand=50), Memory(starting_since=900.0), 10.0)

    assert memory.starting_since == 10.0
    assert paced(50, load, memory, 2, 10.0 + PATIENCE_S) == 4


@given(sights, st.integers(0, 200), st.integers(0, 10), st.floats(0, 1000))
def test_pacing_only_holds_starts_back(seen: Seen, wanted: int, at_once: int, waited: float) -> None:
    """It starts nothing that is not wanted and takes back no start, and one at least may always start."""
    load, memory = observed(seen, Memory(), 0.0)
    allowed = paced(wanted, load, memory, at_once, waited)

    assert min(wanted, load.containers) <= allowed <= wanted or allowed == load.containers
    assert allowed > load.containers or wanted <= load.containers or load.starting > 0


@given(st.integers(0, 300), st.integers(0, 300), factors, factors)
def test_serve_makes_what_is_wanted_of_what_it_is_told(ready: int, wanted: int, up: float, down: float) -> None:
    """Whatever its factors; its arithmetic is written here as it is in Ray 2.60."""
    said = told(wanted, ready, up, down)
    factor = up if said > ready else down

    assert (math.ceil(said) if ready == 0 else math.ceil(ready + factor * (said - ready))) == wanted


def test_options_leave_the_decision_to_the_policy() -> None:
    """Bounds are Modal's, delays none, and from zero Serve starts one and the buffer."""
    options = scaling_options(Rules(min_containers=1, max_containers=9, buffer_containers=2, target_inputs=3))

    assert (options["min_replicas"], options["max_replicas"], options["target_ongoing_requests"]) == (1, 9, 3)
    assert {value for name, value in options.items() if name.endswith("delay_s")} == {0.0}
    assert options["upscaling_factor"] == 3.0
    assert options["look_back_period_s"] > options["metrics_interval_s"]  # Serve warns, and will refuse


@pytest.mark.parametrize(
    ("rules", "most", "factor"),
    [
        (Rules(), UNLIMITED, None),
        (Rules(min_containers=200), 200, None),
        (Rules(max_containers=1, buffer_containers=1), 1, None),
        (Rules(max_containers=2, buffer_containers=2), 2, 2.0),
    ],
)
def test_options_stay_inside_the_bounds(rules: Rules, most: int, factor: float | None) -> None:
    """Serve needs a maximum, not below the minimum, and starts no more than that from zero."""
    options = scaling_options(rules)

    assert (options["max_replicas"], options.get("upscaling_factor")) == (most, factor)
