"""Whole runs over contenders without Ray: interleaving, failures, Ctrl-C, the command line."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from benchmarks.processes import descendants
from benchmarks.report import Report
from benchmarks.runner import Options, run
from benchmarks.scenarios import GROUPS, choose
from raymodal.cli.bench import app

ROOT = Path(__file__).parents[3]


def test_rounds_are_interleaved():
    """Each contender in each round, and another one first each time."""
    seen = []
    report = run(choose("selftest", "steady"), Options(repeat=3), progress=seen.append)
    rounds = [(m[1], m[2]) for text in seen if (m := re.search(r"round (\d) of 3, (.*)", text))]
    one, other = "steady", "steady baseline"

    assert [("1", one), ("1", other), ("2", other), ("2", one), ("3", one), ("3", other)] == rounds
    (scenario,) = report.scenarios
    assert scenario.results[0].rounds == {"took": [1.0, 1.0, 1.0]}
    assert [target.is_reached for target in scenario.targets] == [True, False]
    assert not report.has_errors
    assert [target.text for target in report.missed] == ["a tenth of it"]


def test_failures_are_kept_apart():
    """Each contender's own failure, each other's figures, targets without figures; none left behind."""
    done = []
    report = run(choose("selftest", "failing"), Options(repeat=2), finished=done.append)
    steady, failing, unopened, dying = report.scenarios[0].results

    assert (steady.error, steady.rounds) == (None, {"took": [1.0, 1.0]})
    assert failing.rounds == {"took": [5.0]}
    assert failing.error is not None
    assert "this round failed on purpose" in failing.error
    assert "this session failed on purpose" in (unopened.error or "")
    assert "exit status 3" in (dying.error or "")
    assert [target.is_reached for target in report.scenarios[0].targets] == [None]
    assert list(report.scenarios) == done
    assert descendants(os.getpid()) == []


def test_options():
    """Five rounds, three when quick, or as many as asked for."""
    assert [Options().rounds, Options(is_quick=True).rounds, Options(is_quick=True, repeat=7).rounds] == [5, 3, 7]


def test_command_writes_what_it_measured(tmp_path):
    """Text, JSON and picture from one run; status 3 where a target had to be reached."""
    json_path, plot_path = tmp_path / "a.json", tmp_path / "a.svg"
    words = ["selftest", "--only", "steady", "--repeat", "1", "--json", str(json_path), "--plot", str(plot_path)]
    result = CliRunner().invoke(app, [*words, "--check"])

    assert result.exit_code == 3, result.output
    assert "a tenth of it: 0.500, NOT reached" in result.output
    assert [scenario.name for scenario in Report.read(json_path).scenarios] == ["selftest.steady"]
    assert "</svg>" in plot_path.read_text()

    compared = CliRunner().invoke(app, ["compare", str(json_path), str(json_path)])
    assert compared.exit_code == 0
    assert "0 better, 0 worse, 2 same, 0 unclear" in compared.output


def test_command_fails_when_a_contender_did(tmp_path):
    """Status 1, with the others' figures in the report."""
    path = tmp_path / "a.json"
    result = CliRunner().invoke(app, ["selftest", "--only", "failing", "--repeat", "1", "--json", str(path)])

    assert result.exit_code == 1
    assert "failed: selftest.failing (unopened), selftest.failing (dying)" in result.output
    assert Report.read(path).has_errors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["calls", "--only", "nothing"], "no scenario matches"),
        (["selftest", "--plot", "a.gif"], ".png or .svg"),
        (["selftest", "--json", "/no/such/folder/a.json"], "there is no folder /no/such/folder"),
        (["compare", "/none.json", "/none.json"], "No such file"),
    ],
)
def test_mistakes_are_told_before_measuring(words, message):
    """One line and status 2."""
    result = CliRunner().invoke(app, words)

    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


def test_list_and_code():
    """What there is, and what the baselines run."""
    listed = CliRunner().invoke(app, ["list"]).output
    code = CliRunner().invoke(app, ["selftest", "--show-code", "--only", "steady"]).output

    assert "map.ints  100,000 ints through map" in listed
    assert re.search(r"hello\.kept .*`raymodal cluster up`.*\n.*\n *target: at most 1 s\n", listed)
    assert "target: at least 100 times ActorPool.map" in listed
    assert "def steady(params: Params)" in code
    assert "see above" in code


def test_code_shows_what_is_behind_a_session():
    """The round that a session hands over, and what the user wrote behind a handle."""
    one = CliRunner().invoke(app, ["start", "--show-code", "--only", "one"]).output
    snapshot = CliRunner().invoke(app, ["start", "--show-code", "--only", "snapshot"]).output
    kept = CliRunner().invoke(app, ["hello", "--show-code", "--only", "kept"]).output

    assert one.count("def first_results(") == 2
    assert "@modal.enter(snap=True)" in snapshot
    assert "# hello.kept: raymodal run\n" in kept
    assert "def program_round(" in kept


def test_each_group_has_a_command():
    """With the same options; `all` is all groups but the hidden one."""
    everything = CliRunner().invoke(app, ["all", "--show-code"]).output

    assert {*GROUPS, "all", "selftest", "list", "compare", "simulate"} == set(get_command(app).commands)
    assert all(f"# {group}." in everything for group in GROUPS)
    assert "# selftest." not in everything


def test_ctrl_c_leaves_nothing_behind(tmp_path):
    """The report says that it was interrupted, the status is 130, and all processes are gone."""
    path = tmp_path / "a.json"
    command = [sys.executable, "-m", "benchmarks", "selftest", "--only", "stuck", "--json", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as driver:
        deadline = time.monotonic() + 20
        # The driver, its two children, and what the stuck one started.
        while len(below := descendants(driver.pid)) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert len(below) == 3
        driver.send_signal(signal.SIGINT)
        output, _ = driver.communicate(timeout=20)

    assert driver.returncode == 130
    assert "Interrupted" in output
    assert json.loads(path.read_text())["is_interrupted"] is True
    assert [pid for pid in below if Path(f"/proc/{pid}").exists()] == []
