"""Two reports side by side: what changed beyond both spreads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from .report import Paint, Report, ScenarioResult, aligned, number
from .stats import Spread, verdict

_CIRCUMSTANCES = {
    "cores": "numbers of cores",
    "cpu": "processors",
    "python": "Pythons",
    "ray": "versions of Ray",
    "raymodal_on": "Rays that raymodal ran on",
}


@dataclass(frozen=True)
class Change:
    """One figure in both reports.

    Attributes:
        a: Rounds in the first report.
        b: Rounds in the second.
        verdict: `better`, `worse`, `same` or `unclear`, from the figures themselves.
        relative_a: Rounds' ratios to the baseline in the first report; None for the baseline itself.
        relative_b: The same in the second.
        relative_verdict: The verdict on those ratios, which hold even if the machine was slower as a whole.
    """

    scenario: str
    contender: str
    metric: str
    unit: str
    a: Spread
    b: Spread
    verdict: str
    relative_a: Spread | None = None
    relative_b: Spread | None = None
    relative_verdict: str | None = None

    @property
    def ratio(self) -> float | None:
        """Median of B over median of A."""
        return self.b.median / self.a.median if self.a.median else None


def changes(a: Report, b: Report) -> list[Change]:
    """Figures that both reports have, in the order of the second."""
    before = {scenario.name: scenario for scenario in a.scenarios}
    return [change for now in b.scenarios if now.name in before for change in _scenario_changes(before[now.name], now)]


def warnings(a: Report, b: Report) -> list[str]:
    """Reasons to distrust the comparison."""
    found = [
        f"the {text} differ: {a.machine.get(key)} and {b.machine.get(key)}"
        for key, text in _CIRCUMSTANCES.items()
        if a.machine.get(key) != b.machine.get(key)
    ]
    if a.is_quick != b.is_quick:
        found.append("one run was quick, the other was not, so they did different amounts of work")
    if a.machine.get("bytecode") != b.machine.get("bytecode"):
        found.append("compiled bytecode was there in one run only, which changes every start of a process")
    return found


def render(a: Report, b: Report, paint: Paint | None = None) -> str:
    """The comparison as text."""
    paint = paint or Paint()
    found = changes(a, b)
    lines = [
        f"A: {a.machine.get('commit') or a.machine.get('raymodal')} of {a.created_at}",
        f"B: {b.machine.get('commit') or b.machine.get('raymodal')} of {b.created_at}",
        *(f"Note: {text}." for text in warnings(a, b)),
        "",
    ]
    if not found:
        return "\n".join([*lines, "The reports have no figure in common."])
    rows = [("figure", "unit", "A", "B", "B/A", "verdict", "to baseline", "verdict")]
    rows += [
        (
            f"{c.scenario} {c.contender}: {c.metric}",
            c.unit,
            _cell(c.a),
            _cell(c.b),
            f"x{number(c.ratio)}" if c.ratio is not None else "-",
            c.verdict,
            f"x{number(c.relative_a.median)} to x{number(c.relative_b.median)}"
            if c.relative_a and c.relative_b
            else "",
            c.relative_verdict or "",
        )
        for c in found
    ]
    lines += aligned(rows, right={4})
    tally = {word: sum(c.verdict == word for c in found) for word in ("better", "worse", "same", "unclear")}
    lines += ["", paint.strong(", ".join(f"{count} {word}" for word, count in tally.items()))]
    lines.append("Verdicts: better or worse only where no round of one lies within the rounds of the other.")
    return "\n".join(lines)


def _scenario_changes(a: ScenarioResult, b: ScenarioResult) -> Iterator[Change]:
    for metric in b.metrics:
        for result in b.results:
            old, new = (scenario.spread(result.contender, metric.name) for scenario in (a, b))
            if old is None or new is None:
                continue
            is_lower = metric.better == "lower"
            old_ratio, new_ratio = None, None
            if a.baseline == b.baseline:
                old_ratio, new_ratio = (scenario.ratios(result.contender, metric.name) for scenario in (a, b))
            yield Change(
                scenario=b.name,
                contender=result.contender,
                metric=metric.name,
                unit=metric.unit,
                a=old,
                b=new,
                verdict=verdict(old, new, lower_is_better=is_lower),
                relative_a=old_ratio,
                relative_b=new_ratio,
                relative_verdict=verdict(old_ratio, new_ratio, lower_is_better=is_lower)
                if old_ratio and new_ratio
                else None,
            )


def _cell(spread: Spread) -> str:
    return f"{number(spread.median)} ({number(spread.low)}..{number(spread.high)})"
