"""`raymodal bench simulate`: its text, files and mistakes; traces from CSV files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks.report import Paint
from benchmarks.simulate import command
from benchmarks.simulate.traces import TraceError, read_csv
from benchmarks.simulate.workload import Durations
from raymodal.cli.bench import app

ROOT = Path(__file__).parents[3]
FEW = ["--inputs", "60", "--max-containers", "8", "--policy", "ours", "--policy", "keepalive-30"]


def simulate(*words: str):
    return CliRunner().invoke(app, ["simulate", *words])


def test_tables_and_json(tmp_path):
    """A table per trace with a line per policy; the JSON is the same for the same seed and holds what was shown."""
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    results = [simulate(*FEW, "--trace", "poisson", "--trace", "bursts", "--json", str(file)) for file in files]
    data = json.loads(files[0].read_text())

    assert results[0].exit_code == 0, results[0].output
    assert "poisson  60 inputs in" in results[0].output
    assert "bursts  60 inputs in" in results[0].output
    assert results[0].output.count("keepalive-30 ") == 2
    assert files[0].read_text() == files[1].read_text()
    assert data["schema"] == "raymodal-simulate/1"
    assert data["setting"]["most"] == 8
    assert [row["policy"] for row in data["simulations"][1]["rows"]] == ["ours", "keepalive-30"]


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_picture(tmp_path, ending):
    """Two panels per trace."""
    pytest.importorskip("matplotlib")
    path = tmp_path / f"a.{ending}"
    result = simulate(*FEW, "--trace", "constant", "--plot", str(path))

    assert result.exit_code == 0, result.output
    assert path.stat().st_size > 1000


def test_how_long_containers_take_to_start():
    """As was wished."""
    shown = []
    wish = command.Wish(["constant"], ["ours"], inputs=50, most=8, start_s=20.0)
    command.run(wish, show=shown.append, progress=lambda text: None, paint=Paint(is_on=False))

    assert "20 s to start" in shown[-1]


def test_a_csv_file_is_replayed(tmp_path):
    """All of it, or as many inputs as were asked for."""
    path = tmp_path / "mine.csv"
    path.write_text("arrival,duration\n100,2\n100.5,2\n103,2\n")
    whole = simulate("--trace", str(path), "--policy", "ours")
    part = simulate("--trace", str(path), "--policy", "ours", "--inputs", "2")

    assert "mine.csv  3 inputs in 3.00 s" in whole.output
    assert "mine.csv  2 inputs in 0.500 s" in part.output


def test_a_csv_file_of_several_functions(tmp_path):
    """Each with containers of its own, and the default policies of many."""
    path = tmp_path / "mine.csv"
    path.write_text("arrival,duration,function\n100,2,f\n100,2,g\n103,2,f\n")
    result = simulate("--trace", str(path))

    assert "mine.csv  2 functions, 3 inputs in 3.00 s" in result.output
    assert "of functions %" in result.output
    assert "ours-1800 " in result.output
    assert "serve" not in result.output


def test_csv(tmp_path):
    """Arrivals count from the first; a heading and empty lines are skipped; a missing duration is drawn, the same for a seed."""
    path = tmp_path / "a.csv"
    path.write_text("seconds,takes\n1000.5,3\n\n1001, 0.5 \n1001\n")
    workload, again = (read_csv(path, Durations(2.0, 0.5), 7) for _ in range(2))
    (trace,) = workload.pools

    assert workload == again
    assert trace.arrivals == (0, 0.5, 0.5)
    assert trace.services[:2] == (3, 0.5)
    assert trace.services[2] > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n2\nx\n", r"a\.csv, line 3: 'x' is no number of seconds"),
        ("1,2\n2,-1\n", r"line 2: -1 must be a finite number"),
        ("1\nnan\n", r"line 2: nan must be a finite number"),
        ("at\n5\n4\n", r"line 3: 4 is before the arrival above it"),
        ("1,2,f,4\n", r"line 1: 4 columns; there are arrival and duration in seconds, and a function's name"),
        ("at,takes\n", r"there is no arrival in it"),
        ("", r"there is no arrival in it"),
    ],
)
def test_mistakes_in_csv_files(tmp_path, text, message):
    """The line and the reason."""
    path = tmp_path / "a.csv"
    path.write_text(text)

    with pytest.raises(TraceError, match=message):
        read_csv(path, Durations(1.0), 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--trace", "weekly"],
            "--trace weekly: there are constant, poisson, bursts, diurnal, heavy, timers, azure, or a file",
        ),
        (["--trace", "/no/such.csv"], "/no/such.csv: No such file"),
        (["--policy", "best"], "there is no policy 'best'; there are: ours, "),
        (["--plot", "a.gif"], ".png or .svg"),
        (["--json", "/no/such/folder/a.json"], "there is no folder /no/such/folder"),
    ],
)
def test_mistakes_are_told_before_simulating(words, message):
    """One line and status 2."""
    result = simulate(*words)

    assert result.exit_code == 2
    assert message in result.output
    assert len(result.output.strip().splitlines()) == 1


@pytest.mark.parametrize("words", [["--inputs", "0"], ["--max-containers", "0"], ["--seed", "x"]])
def test_impossible_numbers(words):
    """Typer's own message, and status 2."""
    result = simulate(*words)

    assert result.exit_code == 2
    assert words[0] in result.output


def test_ray_is_loaded_for_its_own_policy_only():
    """Whoever simulates ours does not wait for it."""
    code = (
        "import sys\nfrom raymodal.cli.bench import app\n"
        f"try: app({['simulate', *FEW, '--trace', 'poisson']!r})\nexcept SystemExit as end: assert not end.code\n"
        "assert 'ray' not in sys.modules"
    )

    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).returncode == 0
