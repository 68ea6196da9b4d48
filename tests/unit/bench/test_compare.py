"""Two reports side by side."""

from benchmarks.compare import changes, render, warnings

from .reports import MACHINE, report, scenario


def test_a_faster_subject_on_an_equal_baseline():
    """Both verdicts agree."""
    a = report(scenario([20.0, 21.0], [10.0, 10.0]))
    b = report(scenario([12.0, 13.0], [10.0, 10.0]))
    ours, base = changes(a, b)

    assert (ours.contender, ours.verdict, ours.relative_verdict) == ("raymodal", "better", "better")
    assert (base.contender, base.verdict, base.relative_verdict) == ("bare actor", "same", None)
    assert ours.ratio is not None
    assert 0.60 < ours.ratio < 0.62


def test_a_slower_machine_is_not_a_slower_subject():
    """Everything twice as slow: the ratio to the baseline did not change."""
    ours = changes(report(scenario([10.0], [10.0])), report(scenario([20.0], [20.0])))[0]

    assert (ours.verdict, ours.relative_verdict) == ("worse", "same")


def test_higher_may_be_better():
    """A rate that falls is worse."""
    a, b = (report(scenario([rate], [1.0], better="higher")) for rate in (100.0, 50.0))

    assert changes(a, b)[0].verdict == "worse"


def test_overlapping_rounds_prove_nothing():
    """Medians apart, spreads together."""
    a, b = report(scenario([10.0, 20.0, 30.0], [1.0])), report(scenario([15.0, 25.0, 40.0], [1.0]))

    assert changes(a, b)[0].verdict == "unclear"


def test_figures_of_one_report_only_are_left_out():
    """A contender that failed once cannot be compared."""
    a, b = report(scenario([], [1.0], error="broken")), report(scenario([1.0], [1.0]))

    assert [change.contender for change in changes(a, b)] == ["bare actor"]


def test_a_zero_before_has_no_ratio():
    """Printed as a dash."""
    a, b = report(scenario([0.0], [1.0])), report(scenario([1.0], [1.0]))

    assert changes(a, b)[0].ratio is None
    assert " - " in render(a, b)


def test_text_and_tally():
    """Each figure has a row, and the verdicts are counted."""
    text = render(report(scenario([20.0], [10.0])), report(scenario([10.0], [10.0])))

    assert "calls.remote raymodal: p50" in text
    assert "1 better, 0 worse, 1 same, 0 unclear" in text


def test_nothing_in_common():
    """Said in words."""
    assert "no figure in common" in render(report(), report(scenario([1.0], [1.0])))


def test_different_circumstances_are_pointed_out():
    """Another Ray, another amount of work, other bytecode."""
    other = report(machine={**MACHINE, "ray": "2.61.0", "bytecode": {}}, is_quick=False)
    found = " ".join(warnings(report(), other))

    assert "2.60.0 and 2.61.0" in found
    assert "quick" in found
    assert "bytecode" in found
    assert warnings(report(), report()) == []
