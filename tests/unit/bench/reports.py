"""Builders of reports for the tests in this folder."""

from __future__ import annotations

from benchmarks.model import Metric
from benchmarks.report import Report, Result, ScenarioResult, TargetResult

MACHINE = {
    "cores": 2,
    "cpu": "AMD EPYC",
    "memory_gib": 23.5,
    "system": "Linux 6.18",
    "python": "3.11.7",
    "ray": "2.60.0",
    "raymodal": "0.1.0",
    "bytecode": {"ray": True, "raymodal": None},
    "commit": "0123456789",
    "raymodal_on": "its own Ray",
}


def scenario(
    ours: list[float],
    base: list[float],
    *,
    error: str | None = None,
    better: str = "lower",
    reached: bool | None = True,
) -> ScenarioResult:
    """Two contenders and one figure."""
    return ScenarioResult(
        name="calls.remote",
        title="calls back to back",
        metrics=(Metric("p50", "µs", better),),  # type: ignore[arg-type]
        baseline="bare actor",
        results=(
            Result("raymodal", rounds={"p50": ours} if ours else {}, params={"n": 300}, error=error),
            Result("bare actor", rounds={"p50": base} if base else {}, params={"n": 300}),
        ),
        targets=(
            TargetResult(
                text="at most 1.15 times",
                value=None if reached is None else 1.1,
                bound=1.15,
                unit="times",
                is_reached=reached,
            ),
        ),
    )


def report(*scenarios: ScenarioResult, **changes: object) -> Report:
    """A report of these scenarios."""
    fields: dict[str, object] = {
        "created_at": "2026-01-01T00:00:00+00:00",
        "command": ("calls", "--quick"),
        "is_quick": True,
        "machine": MACHINE,
        "load_start": (0.1, 0.2, 0.3),
        "load_end": (1.0, 0.5, 0.3),
        "scenarios": scenarios,
    }
    return Report(**{**fields, **changes})  # type: ignore[arg-type]
