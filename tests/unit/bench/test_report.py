"""Reports: JSON there and back, and their text."""

import json

import pytest

from benchmarks.report import SCHEMA, Paint, Report, ReportError, aligned, number, render

from .reports import report, scenario


def test_json_round_trip():
    """What is written is read back equal."""
    before = report(scenario([1.0, 2.0], [3.0, 4.0]), scenario([], [1.0], error="Traceback\n  it broke"))

    assert before == Report.from_json(before.to_json())


def test_json_names_its_schema():
    """A reader can tell what it has without guessing."""
    assert json.loads(report().to_json())["schema"] == SCHEMA


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("no json", "not JSON"),
        ("[]", "schema None"),
        ('{"schema": "raymodal-bench/0"}', "reads 'raymodal-bench/1'"),
        (json.dumps({"schema": SCHEMA}), "damaged"),
        (json.dumps({"schema": SCHEMA, "scenarios": [{"name": "x"}]}), "damaged"),
    ],
)
def test_bad_reports_are_refused(text, words):
    """The reason is told, not a KeyError."""
    with pytest.raises(ReportError, match=words):
        Report.from_json(text)


def test_missing_file(tmp_path):
    """The path is part of the message."""
    with pytest.raises(ReportError, match=r"none\.json: No such file"):
        Report.read(tmp_path / "none.json")


def test_text_of_a_report():
    """Medians with their spread, the ratio to the baseline, the target's verdict and the machine."""
    text = render(report(scenario([110.0, 120.0, 130.0], [100.0, 100.0, 100.0])))

    assert "calls.remote  calls back to back   ratios to: bare actor" in text
    rows = [line.split() for line in text.splitlines()]
    assert ["raymodal", "120", "110", "..", "130", "x1.20", "1.10", "..", "1.30"] in rows
    assert ["bare", "actor", "100", "100", "..", "100"] in rows
    assert "target: at most 1.15 times: 1.10 times, reached" in text
    assert "2 cores, AMD EPYC, 23.5 GiB" in text
    assert "bytecode: ray yes, raymodal ?" in text
    assert "1 of 1 targets reached" in text
    assert "\x1b" not in text


def test_missed_and_unmeasured_targets():
    """Both are counted, and apart."""
    text = render(report(scenario([1.0], [1.0], reached=False), scenario([1.0], [], reached=None)))

    assert "NOT reached" in text
    assert "at most 1.15 times: not measured" in text
    assert "0 of 1 targets reached, 1 not measured" in text


def test_a_failure_keeps_its_cause():
    """The last line of a traceback comes first, its frames once, and the others' figures stay."""
    error = "Traceback (most recent call last):\n  File x\nValueError: too bad"
    text = render(report(scenario([], [100.0], error=error)))

    assert "raymodal failed: ValueError: too bad" in text
    assert "bare actor  100" in text
    assert "failed: calls.remote (raymodal)" in text
    assert report(scenario([], [1.0], error=error)).has_errors


def test_an_interrupted_run_says_so():
    """Nobody takes half a report for a whole one."""
    assert "Interrupted" in render(report(is_interrupted=True))


def test_a_busy_machine_is_pointed_out():
    """Absolute figures of a machine under load mislead."""
    assert "trust the ratios" in render(report(load_start=(1.5, 1.0, 1.0)))


def test_reduced_counts_are_shown():
    """A baseline that ran fewer inputs is marked."""
    one = scenario([1.0], [2.0])
    base = one.results[1]
    fewer = type(base)(base.contender, rounds=base.rounds, params={"n": 20})
    changed = type(one)(**{**vars(one), "results": (one.results[0], fewer)})

    assert "bare actor (n=20)" in render(report(changed))


def test_colours_only_when_asked():
    """The same words with and without."""
    one = report(scenario([1.0], [1.0]))
    coloured = render(one, Paint(is_on=True))

    assert "\x1b[32mreached\x1b[0m" in coloured


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "0"),
        (1234567, "1,230,000"),
        (999.6, "1,000"),
        (120.4, "120"),
        (12.34, "12.3"),
        (1.2, "1.20"),
        (0.01234, "0.0123"),
        (-45.67, "-45.7"),
        (float("inf"), "inf"),
    ],
)
def test_number(value, expected):
    """Three digits that matter."""
    assert expected == number(value)


def test_aligned():
    """Columns line up, and no line ends in blanks."""
    assert [line.rstrip() for line in aligned([("a", "1"), ("bb", "22"), ("c", "")], right={1})] == [
        "a    1",
        "bb  22",
        "c",
    ]
