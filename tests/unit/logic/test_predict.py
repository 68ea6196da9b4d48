"""What is learned of a function's arrivals, and what it makes of the scaling rules."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymodal.logic import predict
from raymodal.logic.autoscale import Load, Rules, decide
from raymodal.logic.predict import Arrivals, StartupTime

rules = st.builds(
    Rules,
    min_containers=st.integers(0, 6),
    max_containers=st.none() | st.integers(1, 8),
    buffer_containers=st.integers(0, 3),
    scaledown_window=st.floats(0, 1000),
    target_inputs=st.integers(1, 4),
)
# Idle seconds, busy seconds, inputs at once. Few different idle times, so that there is something to find.
phases = st.tuples(
    st.sampled_from([0.1, 5.0, 50.0, 300.0, 301.0, 4000.0]) | st.floats(0, 1e5), st.floats(0, 20), st.integers(1, 50)
)
histories = st.lists(phases, max_size=40)
changes = st.lists(st.tuples(st.floats(-100, 400), st.integers(0, 5)), max_size=80)
instants = st.floats(0, 1e4)


def told(history: Iterable[tuple[float, float, int]], start_s: float | None = 2.0) -> tuple[Arrivals, float]:
    """Arrivals after these phases, without demand, and the instant at which it vanished."""
    arrivals, now = Arrivals(), 0.0
    if start_s is not None:
        arrivals.startup.add(start_s)
    for idle, busy, peak in history:
        now += idle
        arrivals.observe(1, now)
        arrivals.observe(peak, now)
        now += busy
        arrivals.observe(0, now)
    return arrivals, now


def every(period: float, times: int, busy: float = 1.0, peak: int = 1) -> list[tuple[float, float, int]]:
    return [(period - busy, busy, peak)] * times


@given(rules, histories, instants)
def test_the_user_s_bounds_hold(rules: Rules, history: list[tuple[float, float, int]], after: float) -> None:
    """Whatever was learned: containers between `min_containers` and `max_containers`, no longer window, nothing else changed."""
    arrivals, now = told(history)
    shaped, again_at, _ = arrivals.shape(rules, now + after)
    low = min(rules.min_containers, rules.max_containers or math.inf)

    assert shaped.min_containers >= low
    assert shaped.min_containers <= max(rules.min_containers, rules.max_containers or math.inf)
    assert 0 <= shaped.scaledown_window <= rules.scaledown_window
    assert replace(shaped, min_containers=0, scaledown_window=0) == replace(rules, min_containers=0, scaledown_window=0)
    assert again_at is None or again_at > now + after


@given(rules, histories, instants)
def test_the_same_question_has_the_same_answer(
    rules: Rules, history: list[tuple[float, float, int]], after: float
) -> None:
    """Asked twice, and asked of another memory that was told the same."""
    one, now = told(history)
    other, _ = told(history)
    first = one.shape(rules, now + after)

    assert one.shape(rules, now + after) == first == other.shape(rules, now + after)


@given(rules, histories)
def test_the_answer_changes_only_when_it_said_so(rules: Rules, history: list[tuple[float, float, int]]) -> None:
    """A timer at `again_at` misses nothing, and there are at most two of them."""
    arrivals, now = told(history)
    shape, changes = arrivals.shape(rules, now), 0
    while shape.again_at is not None:
        assert arrivals.shape(rules, math.nextafter(shape.again_at, 0)) == shape
        now = shape.again_at
        shape, changes = arrivals.shape(rules, now), changes + 1

    assert changes <= 2
    assert arrivals.shape(rules, now + 1e9) == shape


@given(rules, histories, st.floats(0, 100))
def test_what_was_started_ahead_idles_no_longer_than_the_window(
    rules: Rules, history: list[tuple[float, float, int]], start_s: float
) -> None:
    """From when it is ready, if it takes what it takes, until nobody came."""
    arrivals, now = told(history, start_s)
    shape, since = arrivals.shape(rules, now), now
    while shape.why != "expected" and shape.again_at is not None:
        since = shape.again_at
        shape = arrivals.shape(rules, since)

    if shape.why == "expected":
        assert shape.again_at is not None
        ready_at = since + start_s if since > now else now
        assert shape.again_at - ready_at <= rules.scaledown_window + 1e-6


@given(rules, st.lists(phases, max_size=4), instants)
def test_little_is_no_forecast(rules: Rules, history: list[tuple[float, float, int]], after: float) -> None:
    """The fixed window, until there were four idle times, which five returns have."""
    arrivals, now = told(history)

    assert arrivals.shape(rules, now + after) == (rules, None, "fixed")


@given(rules, histories, instants)
def test_demand_is_no_matter_of_forecasts(rules: Rules, history: list[tuple[float, float, int]], after: float) -> None:
    """As long as there is any, the user's rules hold."""
    arrivals, now = told(history)
    arrivals.observe(1, now)

    assert arrivals.shape(rules, now + after) == (rules, None, "fixed")


@given(rules, changes)
def test_a_clock_that_goes_back_does_no_harm(rules: Rules, changes: list[tuple[float, int]]) -> None:
    """No idle time is negative, and an answer is never for the past."""
    arrivals, now, latest = Arrivals(), 0.0, -math.inf
    for by, demand in changes:
        now += by
        latest = max(latest, now)
        arrivals.observe(demand, now)
        shape = arrivals.shape(rules, now)

        assert shape.again_at is None or shape.again_at > latest
    assert all(phase.idle > 0 and phase.gap >= phase.idle for phase in arrivals._phases)


@pytest.mark.parametrize("period", [20.0, 62.0, 300.0, 3600.0, 86400.0])
def test_a_timer_is_met(period: float) -> None:
    """Beyond the window containers are gone at once, ready a second before they are needed, and gone when nobody came."""
    arrivals, now = told(every(period, 8))
    rules = Rules()
    due = now - 1.0 + period
    shapes = [arrivals.shape(rules, due + at).rules for at in (-3.1, -2.9, 0, 0.9, 1.1)]

    if period < rules.scaledown_window:
        assert shapes == [rules] * 5
    else:
        assert [(one.min_containers, one.scaledown_window) for one in shapes] == [
            (0, 1),
            (1, 1),
            (1, 1),
            (1, 1),
            (0, 0),
        ]


def test_decide_starts_ahead() -> None:
    """The rules are `decide`'s: none while it is early, one when it is time, none again when nobody came."""
    arrivals, now = told(every(300, 8))
    targets = []
    for after, idle_since in [
        (0, (now,)),
        (2, (now,)),
        (290, ()),
        (297, ()),
        (299.9, (now + 298,)),
        (301, (now + 298,)),
    ]:
        shape = arrivals.shape(Rules(), now + after)
        targets.append(decide(shape.rules, Load(0, 0, 0, idle_since), now + after).target)

    assert targets == [1, 0, 0, 1, 1, 0]


def test_bursts_are_met_with_what_every_other_one_needed() -> None:
    """Not with the largest, and inputs share containers as the rules say."""
    history = [one for peak in (3, 7, 40, 7, 3, 7, 40, 7) for one in every(300, 1, peak=peak)]
    arrivals, now = told(history)

    def ready(**changes: int) -> int:
        return arrivals.shape(Rules(**changes), now + 298).rules.min_containers

    assert ready() == 7
    assert ready(target_inputs=2) == 4
    assert ready(max_containers=5) == 5
    assert ready(min_containers=9) == 9
    assert ready(buffer_containers=1) == 8


def test_a_timer_is_met_whatever_its_inputs_take() -> None:
    """Idle times differ by what ran before; from one return to the next it is always the same."""
    rng = random.Random(1)
    arrivals = Arrivals()
    for turn in range(12):
        arrivals.observe(1, 600 * turn)
        arrivals.observe(0, 600 * turn + rng.uniform(1, 300))
    forecast = arrivals.forecast(60.0)

    assert forecast is not None
    assert forecast.since_return
    assert (forecast.opens, forecast.closes) == (599, 601)
    assert arrivals.shape(Rules(), 12 * 600 - 0.5).why == "expected"


def test_a_window_is_no_wider_than_the_user_s() -> None:
    """Also where a wider one would meet more, and take no more idle time in the mean."""
    rng = random.Random(1)
    arrivals, now = told((rng.uniform(300, 400), 1.0, 1) for _ in range(60))
    forecast = arrivals.forecast(60.0)

    assert forecast is not None
    assert forecast.opens is not None
    assert forecast.closes is not None
    assert 40 < forecast.closes - forecast.opens <= 60


def test_two_habits_at_once() -> None:
    """Sessions of calls seconds apart, five minutes from one to the next: kept within them, started ahead of the next."""
    arrivals, now = told([one for _ in range(12) for one in [(290.0, 1.0, 1), *[(5.0, 1.0, 1)] * 3]])
    whys = [arrivals.shape(Rules(), now + after) for after in (0, 7, 289, 292)]

    assert [shape.why for shape in whys] == ["let go", "let go", "expected", "let go"]
    assert 5 < whys[0].rules.scaledown_window < 10


def test_a_window_that_nothing_ends_in_is_cut_short() -> None:
    """Returns at random times far beyond it: nothing to be foretold, but also nothing to wait a minute for."""
    rng = random.Random(1)
    arrivals, now = told((rng.uniform(300, 30_000), 1.0, 1) for _ in range(20))

    assert arrivals.shape(Rules(), now) == (Rules(scaledown_window=predict.SHORTEST_S), None, "let go")


def test_a_window_that_is_used_stays() -> None:
    """Returns at random within it and beyond."""
    rng = random.Random(1)
    arrivals, now = told((rng.expovariate(1 / 60), 1.0, 1) for _ in range(20))

    assert arrivals.shape(Rules(), now) == (Rules(), None, "fixed")


def test_a_new_period_is_learned() -> None:
    """After some turns of it."""
    arrivals, now = told([*every(300, 100), *every(500, 30)])

    assert arrivals.shape(Rules(), now + 298).why == "let go"
    assert arrivals.shape(Rules(), now + 498).why == "expected"


def test_chance_is_rarely_taken_for_a_habit() -> None:
    """Memoryless and heavy-tailed idle times."""
    rng = random.Random(1)
    for draw in (lambda: rng.expovariate(1 / 200), lambda: rng.lognormvariate(4, 2)):
        arrivals, now, expected = Arrivals(), 0.0, 0
        for _ in range(1000):
            now += draw()
            arrivals.observe(1, now)
            now += 1
            arrivals.observe(0, now)
            forecast = arrivals.forecast(60.0)
            expected += forecast is not None and forecast.opens is not None

        assert expected < 200


def test_a_loop_of_calls_is_one_return() -> None:
    """Pauses of milliseconds neither count nor wash out what was learned."""
    arrivals, now = Arrivals(), 0.0
    for turn in range(8):
        for call in range(200):
            now = 300 * turn + call / 10
            arrivals.observe(1, now)
            arrivals.observe(0, now + 0.09)

    assert arrivals.shape(Rules(), 8 * 300 - 0.5).why == "expected"


def test_what_starts_slower_than_inputs_return_is_not_let_go() -> None:
    """If it takes longer to start than it is idle, the window stays as the user said."""
    arrivals, now = told(every(90, 8), start_s=120.0)

    assert arrivals.shape(Rules(), now) == (Rules(), None, "fixed")


def test_memory_is_bounded() -> None:
    """After ten thousand returns."""
    arrivals, _ = told(((i % 977) + 2.0, 1.0, i % 50 + 1) for i in range(10_000))
    for i in range(1000):
        arrivals.startup.add(float(i))

    assert len(arrivals._phases) == predict.REMEMBERED
    assert len(arrivals.startup._last) <= 32


def test_startup_time() -> None:
    """The median and what all but one of twenty do not exceed, of the last ones only; nonsense is passed over."""
    startup = StartupTime()
    assert (startup.typical, startup.late) == (None, None)
    for seconds in [100.0] * 5 + [1.0] * 20 + [float(i) for i in range(11)] + [math.nan, math.inf, -1.0]:
        startup.add(seconds)

    assert startup.typical == 1.0
    assert startup.late == 10.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=80))
def test_startup_time_is_one_that_was(seconds: list[float]) -> None:
    """And the late one is no earlier than the typical one."""
    startup = StartupTime()
    for one in seconds:
        startup.add(one)

    assert startup.typical in seconds
    assert startup.late in seconds
    assert (startup.late or 0) >= (startup.typical or 0)
