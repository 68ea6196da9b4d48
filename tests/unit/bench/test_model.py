"""Scenarios, targets and how sessions are found."""

import pytest

from benchmarks.model import Contender, Metric, RoundFigures, Scenario, Target, resolve
from benchmarks.scenarios import GROUPS, HIDDEN, SCENARIOS, choose


def contender(name="one", **params):
    return Contender(name, "scenarios.selftest:steady", host="h", kind="plain", params=params)


def make(*contenders, **changes):
    fields = {
        "name": "g.s",
        "title": "",
        "contenders": contenders or (contender(),),
        "metrics": (Metric("m", "s"),),
        "baseline": None,
        **changes,
    }
    return Scenario(**fields)


def test_parameters():
    """A quick run changes some; a contender's own are a ceiling for counts and an override for the rest."""
    scenario = make(params={"n": 1000, "kind": "a"}, quick={"n": 50})

    assert scenario.params_for(contender(), is_quick=False) == {"n": 1000, "kind": "a"}
    assert scenario.params_for(contender(), is_quick=True) == {"n": 50, "kind": "a"}
    assert scenario.params_for(contender(n=200, kind="b"), is_quick=False) == {"n": 200, "kind": "b"}
    assert scenario.params_for(contender(n=200), is_quick=True) == {"n": 50, "kind": "a"}


def test_mistakes_in_a_scenario_are_found_early():
    """Names that clash, and a baseline that nobody answers to."""
    with pytest.raises(ValueError, match="share a name"):
        make(contender("a"), contender("a"))
    with pytest.raises(ValueError, match="baseline 'b'"):
        make(contender("a"), baseline="b")


@pytest.mark.parametrize(
    ("target", "value", "expected"),
    [
        (Target("", lambda f: 0, at_most=2.0), 2.0, True),
        (Target("", lambda f: 0, at_most=2.0), 2.1, False),
        (Target("", lambda f: 0, at_least=2.0), 2.0, True),
        (Target("", lambda f: 0, at_least=2.0), 1.9, False),
    ],
)
def test_targets(target, value, expected):
    """A bound itself is reached."""
    assert expected is target.is_reached_by(value)


def test_a_target_needs_a_bound():
    """Else it would be reached by anything."""
    with pytest.raises(ValueError, match="no bound"):
        Target("vague", lambda f: 0).is_reached_by(1.0)


def test_figures_pair_rounds():
    """The ratio is the median of ratios, not the ratio of medians."""
    figures = RoundFigures({("a", "m"): [1.0, 8.0, 9.0], ("b", "m"): [1.0, 2.0, 9.0]})

    assert figures.median("a", "m") == 8.0
    assert figures.ratio("a", "m", "b") == 1.0
    with pytest.raises(KeyError):
        figures.median("c", "m")


def test_groups_cover_all_scenarios():
    """Each has a command, a subject of ours, distinct metrics, and a name of its own."""
    names = [scenario.name for scenario in (*SCENARIOS, *HIDDEN)]

    assert len(set(names)) == len(names)
    assert {scenario.group for scenario in SCENARIOS} == set(GROUPS)
    for scenario in SCENARIOS:
        assert scenario.contenders[0].session.startswith("ours."), scenario.name
        assert scenario.title.format(**scenario.params)
        assert len({metric.name for metric in scenario.metrics}) == len(scenario.metrics)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_references_lead_somewhere(scenario):
    """Every session and every object whose source is shown."""
    for one in scenario.contenders:
        for ref in (one.session, *one.shows):
            assert resolve(ref) is not None


def test_choose():
    """By group, by expression, and in words when there is none."""
    assert {"calls"} == {scenario.group for scenario in choose("calls")}
    assert list(SCENARIOS) == choose(None)
    assert [scenario.name for scenario in choose("map", "^map.ints$")] == ["map.ints"]
    assert [scenario.name for scenario in choose("selftest", "steady")] == ["selftest.steady"]
    with pytest.raises(ValueError, match=r"no scenario matches 'nothing'; there are: .*calls\.remote"):
        choose("calls", "nothing")
    with pytest.raises(ValueError, match="no regular expression"):
        choose("calls", "(")
