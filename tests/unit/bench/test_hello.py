"""Whole programs: what is started for them is ended, whatever happens."""

import sys
from pathlib import Path

import pytest

from benchmarks.baselines.hello import run_checked
from benchmarks.model import RoundFigures
from benchmarks.ours import hello
from benchmarks.scenarios import choose


class Commands:
    """Stands in for `run_checked`: keeps what was asked for, and fails where it is told to."""

    def __init__(self, failing=None):
        self.asked = []
        self.homes = set()
        self._failing = failing

    def __call__(self, command, *, expected="", env=None):
        self.asked.append(command[-1])
        self.homes.add(env["RAYMODAL_HOME"])
        assert Path(env["RAYMODAL_HOME"]).is_dir()
        if command[-1] == self._failing:
            raise RuntimeError(f"{self._failing} failed on purpose")
        return 1.0


@pytest.fixture
def commands(monkeypatch, tmp_path):
    def install(failing=None):
        made = Commands(failing)
        monkeypatch.setattr(hello, "run_checked", made)
        monkeypatch.chdir(tmp_path)
        return made

    return install


def test_a_kept_cluster_has_a_home_of_its_own(commands, tmp_path):
    """In the folder of the child, and gone with the cluster."""
    made = commands()
    with hello.kept_cluster() as env:
        assert made.asked == ["up"]
        assert Path(env["RAYMODAL_HOME"]).parent == tmp_path

    assert made.asked == ["up", "down"]
    assert made.homes == {env["RAYMODAL_HOME"]}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [KeyError, KeyboardInterrupt, SystemExit])
def test_a_kept_cluster_ends_when_its_session_fails(commands, tmp_path, error):
    """The failure is passed on."""
    made = commands()
    with pytest.raises(error), hello.kept_cluster():
        raise error

    assert made.asked == ["up", "down"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("failing", ["up", "down"])
def test_a_kept_cluster_that_fails_leaves_no_home(commands, tmp_path, failing):
    """After an `up` that failed, too, `down` is asked for: something may have been started."""
    made = commands(failing)
    with pytest.raises(RuntimeError, match=f"{failing} failed on purpose"), hello.kept_cluster():
        pass

    assert made.asked == ["up", "down"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("seconds", "is_reached"), [(1.0, True), (1.01, False)])
def test_target_of_a_program_on_a_kept_cluster(seconds, is_reached):
    """At most one second, the median of the rounds."""
    (scenario,) = choose("hello", "kept")
    (target,) = scenario.targets
    measured = target.measure(RoundFigures({("raymodal run", "seconds"): [0.1, seconds, 9.0]}))

    assert is_reached is target.is_reached_by(measured)
    assert scenario.baseline == "bare Ray program"


def test_commands_are_checked():
    """By status, by what they print, in the environment asked for."""
    code = "import os, sys; print(os.environ['WORD']); sys.exit(int(os.environ['STATUS']))"
    command = [sys.executable, "-c", code]

    assert run_checked(command, expected="yes", env={"WORD": "yes", "STATUS": "0"}) > 0
    with pytest.raises(RuntimeError, match=r"ended with 0 and printed\nno"):
        run_checked(command, expected="yes", env={"WORD": "no", "STATUS": "0"})
    with pytest.raises(RuntimeError, match="ended with 3"):
        run_checked(command, env={"WORD": "yes", "STATUS": "3"})
