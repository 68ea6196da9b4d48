"""The example that the README names runs as the README says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(200)]


@pytest.fixture(scope="module")
def shown(request: pytest.FixtureRequest) -> subprocess.CompletedProcess[str]:
    """What `raymodal run examples/quickstart.py` shows, on a Ray that it starts itself."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RAYMODAL_", "RAY_"))}
    # Not the user's own folder, and yet one that keeps compiled modules from run to run.
    environ["RAYMODAL_HOME"] = str(request.config.cache.mkdir("raymodal-home"))
    return subprocess.run(
        [sys.executable, "-m", "raymodal", "run", str(ROOT / "examples" / "quickstart.py")],
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=180,
    )


def test_it_succeeds(shown: subprocess.CompletedProcess[str]) -> None:
    """Exit status 0, and raymodal's own lines on stderr only."""
    assert shown.returncode == 0, shown.stderr
    assert "App completed" in shown.stderr
    assert "App completed" not in shown.stdout


@pytest.mark.parametrize(
    "expected",
    [
        r"map: 10,000 squares add up to 333,283,335,000, [\d.]+ s from no container at all",
        r"a container prints: 1 / 0",
        r"errors:  1.0  ZeroDivisionError\('division by zero'\)  0.25",
        r"spawn: fc-\w+\.\.\. gave 144",
        r"generator: 3 2 1",
        r"scale-up: containers at work: 1, after [\d.]+ s",
        r"scale-up: containers at work: 2, after [\d.]+ s",
        r"scale-up: 8 naps of 0.3 s took [\d.]+ s",
    ],
)
def test_each_result_is_printed_once(shown: subprocess.CompletedProcess[str], expected: str) -> None:
    """What user code prints appears as whole lines without a prefix, exactly once."""
    lines = [line for line in shown.stdout.splitlines() if re.fullmatch(expected, line)]

    assert len(lines) == 1, shown.stdout


def test_scale_up_stays_within_max_containers(shown: subprocess.CompletedProcess[str]) -> None:
    """Containers are added one by one, never beyond max_containers."""
    counts = [int(found) for found in re.findall(r"containers at work: (\d+)", shown.stdout)]

    assert counts == list(range(1, len(counts) + 1))
    assert len(counts) <= 4
