"""A pytest plugin: every skip must be one that `.ci/allowed_skips` expects.

Each line there is a regular expression over `<test id>: <reason>`; `#` begins a comment. A skip that none of them matches
fails the run, so that a test cannot quietly stop running. It reports before pytest's closing line, which stays the last.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

ALLOWED = Path(__file__).with_name("allowed_skips")
_skips: dict[str, str] = {}


def _remember(report: Any) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _skips[report.nodeid] = reason.removeprefix("Skipped: ")


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _remember(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    _remember(report)  # a whole module that skips itself


def _unexpected() -> list[str]:
    patterns = [
        line.partition(" #")[0].strip()
        for line in ALLOWED.read_text().splitlines()
        if line.strip() and not line.startswith("#")
    ]
    lines = [f"{test}: {reason}" for test, reason in sorted(_skips.items())]
    return [line for line in lines if not any(re.search(pattern, line) for pattern in patterns)]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if _unexpected() and exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: Any) -> None:
    unexpected = set(_unexpected())
    terminalreporter.section(f"{len(_skips)} skipped, {len(unexpected)} of them not allowed by .ci/{ALLOWED.name}")
    for test, reason in sorted(_skips.items()):
        mark = "NOT ALLOWED" if f"{test}: {reason}" in unexpected else "allowed"
        terminalreporter.line(f"{mark}: {test}: {reason}")


if __name__ == "__main__":
    # Loaded a second time as a module, which is the one that pytest talks to.
    sys.exit(pytest.main(["-p", "skips", *sys.argv[1:]]))
