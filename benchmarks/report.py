"""What a run found: frozen values, their JSON (versioned) and their text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .model import Metric, RoundFigures
from .stats import Spread, paired_ratios, spread_of

SCHEMA = "raymodal-bench/1"
# Of a traceback in the text; the JSON has all of it.
ERROR_LINES = 16


class ReportError(Exception):
    """A file is not a report that this version reads."""


@dataclass(frozen=True)
class Result:
    """One contender in one scenario: the rounds of each metric, or why there are none."""

    contender: str
    rounds: Mapping[str, list[float]] = field(default_factory=dict)
    params: Mapping[str, Any] = field(default_factory=dict)
    error: str | None = None


@dataclass(frozen=True)
class TargetResult:
    """A target and what was measured; `value` is None where a figure is missing."""

    text: str
    value: float | None
    bound: float
    unit: str
    is_reached: bool | None


@dataclass(frozen=True)
class ScenarioResult:
    """All contenders of one scenario."""

    name: str
    title: str
    metrics: tuple[Metric, ...]
    baseline: str | None
    results: tuple[Result, ...]
    targets: tuple[TargetResult, ...] = ()

    def result(self, contender: str) -> Result | None:
        """The result of one contender."""
        return next((result for result in self.results if result.contender == contender), None)

    def spread(self, contender: str, metric: str) -> Spread | None:
        """Spread of a figure, or None where it is missing."""
        result = self.result(contender)
        values = result.rounds.get(metric) if result else None
        return spread_of(values) if values else None

    def ratios(self, contender: str, metric: str) -> Spread | None:
        """Spread of the rounds' ratios to the baseline, or None where either is missing."""
        mine, base = self.result(contender), self.result(self.baseline) if self.baseline else None
        if mine is None or base is None or contender == self.baseline:
            return None
        ratios = paired_ratios(mine.rounds.get(metric, []), base.rounds.get(metric, []))
        return spread_of(ratios) if ratios else None

    def figures(self) -> RoundFigures:
        """What targets look at."""
        return RoundFigures(
            {(r.contender, metric): list(values) for r in self.results for metric, values in r.rounds.items() if values}
        )


@dataclass(frozen=True)
class Report:
    """One run."""

    created_at: str
    command: tuple[str, ...]
    is_quick: bool
    machine: Mapping[str, Any]
    load_start: tuple[float, ...]
    load_end: tuple[float, ...]
    scenarios: tuple[ScenarioResult, ...]
    is_interrupted: bool = False

    @property
    def has_errors(self) -> bool:
        """Whether any contender failed."""
        return any(result.error for scenario in self.scenarios for result in scenario.results)

    @property
    def missed(self) -> list[TargetResult]:
        """Targets that were measured and not reached."""
        return [t for scenario in self.scenarios for t in scenario.targets if t.is_reached is False]

    def to_json(self) -> str:
        """The report as text with its schema's name."""
        return json.dumps({"schema": SCHEMA, **asdict(self)}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        """Read a report back.

        Raises:
            ReportError: It is no report, or one of another schema.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise ReportError(f"this is not JSON: {error}") from error
        found = data.pop("schema", None) if isinstance(data, dict) else None
        if found != SCHEMA:
            raise ReportError(f"this report has the schema {found!r}; this version reads {SCHEMA!r}. Measure again.")
        try:
            scenarios = tuple(
                ScenarioResult(
                    name=one["name"],
                    title=one["title"],
                    metrics=tuple(Metric(**metric) for metric in one["metrics"]),
                    baseline=one["baseline"],
                    results=tuple(Result(**result) for result in one["results"]),
                    targets=tuple(TargetResult(**target) for target in one["targets"]),
                )
                for one in data.pop("scenarios")
            )
            for key in ("command", "load_start", "load_end"):
                data[key] = tuple(data[key])
            return cls(**data, scenarios=scenarios)
        except (KeyError, TypeError, AttributeError) as error:
            raise ReportError(f"the report is damaged: {error!r}") from error

    @classmethod
    def read(cls, path: Path) -> Report:
        """Read a report's file.

        Raises:
            ReportError: There is none, or it cannot be understood.
        """
        try:
            return cls.from_json(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise ReportError(f"{path}: {error.strerror}") from error
        except ReportError as error:
            raise ReportError(f"{path}: {error}") from error


@dataclass(frozen=True)
class Paint:
    """Colours, or none."""

    is_on: bool = False

    def good(self, text: str) -> str:
        """Green."""
        return self._wrap("32", text)

    def bad(self, text: str) -> str:
        """Red."""
        return self._wrap("31", text)

    def strong(self, text: str) -> str:
        """Bold."""
        return self._wrap("1", text)

    def faint(self, text: str) -> str:
        """Dim."""
        return self._wrap("2", text)

    def _wrap(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.is_on else text


def render(report: Report, paint: Paint | None = None) -> str:
    """The whole report as text."""
    paint = paint or Paint()
    lines = [*render_machine(report), ""]
    for scenario in report.scenarios:
        lines += [*render_scenario(scenario, paint), ""]
    lines += render_summary(report, paint)
    return "\n".join(lines)


def render_machine(report: Report) -> list[str]:
    """The facts, in three lines."""
    m = report.machine
    compiled = ", ".join(f"{name} {_yes(has)}" for name, has in m.get("bytecode", {}).items())
    lines = [
        f"{m.get('cores')} cores, {m.get('cpu')}, {m.get('memory_gib')} GiB, {m.get('system')}",
        f"Python {m.get('python')}, Ray {m.get('ray')}, raymodal {m.get('raymodal')}"
        f" ({m.get('commit') or 'no checkout'}), bytecode: {compiled}",
        f"load average {_loads(report.load_start)} at the start, {_loads(report.load_end)} at the end"
        + (", quick run" if report.is_quick else "")
        + f", raymodal on {m.get('raymodal_on')}",
    ]
    if report.load_start and report.load_start[0] > 0.5 * (m.get("cores") or 1):
        lines.append("The machine was busy before this run began: trust the ratios, not the absolute figures.")
    return lines


def render_scenario(scenario: ScenarioResult, paint: Paint) -> list[str]:
    """One table: metrics down, contenders within each, then the targets."""
    base = f"   ratios to: {scenario.baseline}" if scenario.baseline else ""
    lines = [f"{paint.strong(scenario.name)}  {scenario.title}{base}"]
    rows = list(_rows(scenario))
    if rows:
        lines += ["  " + line for line in aligned(rows, right={1, 3})]
    explained: set[tuple[str, ...]] = set()
    for result in scenario.results:
        if result.error:
            first, *rest = result.error.rstrip().splitlines()
            headline = rest[-1] if rest and first.startswith("Traceback") else first
            lines.append(paint.bad(f"  {result.contender} failed: {headline}"))
            if tuple(rest) not in explained:
                explained.add(tuple(rest))
                lines += [paint.faint(f"    {line}") for line in rest[-ERROR_LINES:]]
    for target in scenario.targets:
        if target.value is None:
            lines.append(f"  target: {target.text}: not measured")
        else:
            word = paint.good("reached") if target.is_reached else paint.bad("NOT reached")
            lines.append(f"  target: {target.text}: {number(target.value)}{_unit(target.unit)}, {word}")
    return lines


def render_summary(report: Report, paint: Paint) -> list[str]:
    """What to remember."""
    targets = [target for scenario in report.scenarios for target in scenario.targets]
    measured = [target for target in targets if target.is_reached is not None]
    reached = sum(1 for target in measured if target.is_reached)
    lines = []
    if targets:
        text = f"{reached} of {len(measured)} targets reached"
        if len(measured) < len(targets):
            text += f", {len(targets) - len(measured)} not measured"
        lines.append(paint.strong(text))
    failures = [(s.name, r.contender) for s in report.scenarios for r in s.results if r.error]
    if failures:
        lines.append(paint.bad("failed: " + ", ".join(f"{name} ({contender})" for name, contender in failures)))
    if report.is_interrupted:
        lines.append(paint.bad("Interrupted: what was not measured until then is missing."))
    return lines


def aligned(rows: Iterable[tuple[str, ...]], *, right: Iterable[int] = ()) -> list[str]:
    """Pad cells to columns; those named in `right` to the right."""
    table = list(rows)
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    to_right = set(right)
    return [
        "  ".join(
            cell.rjust(width) if i in to_right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in table
    ]


def number(value: float) -> str:
    """Three significant digits, with thousands set apart."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    size = math.floor(math.log10(abs(value)))
    if size >= 2:
        return f"{round(value, 2 - size):,.0f}"
    return f"{value:.{2 - size}f}"


def _rows(scenario: ScenarioResult) -> Iterator[tuple[str, ...]]:
    for metric in scenario.metrics:
        is_first = True
        for result in scenario.results:
            spread = scenario.spread(result.contender, metric.name)
            if spread is None:
                continue
            if is_first:
                has_ratio = scenario.baseline is not None
                yield (
                    metric.name,
                    metric.unit,
                    "min .. max",
                    "ratio" if has_ratio else "",
                    "min .. max" if has_ratio else "",
                )
                is_first = False
            ratios = scenario.ratios(result.contender, metric.name)
            note = f" (n={result.params['n']:,})" if _is_reduced(scenario, result) else ""
            yield (
                f"  {result.contender}{note}",
                number(spread.median),
                f"{number(spread.low)} .. {number(spread.high)}",
                f"x{number(ratios.median)}" if ratios else "",
                f"{number(ratios.low)} .. {number(ratios.high)}" if ratios else "",
            )


def _is_reduced(scenario: ScenarioResult, result: Result) -> bool:
    """Whether a contender ran fewer inputs than the subject, which the table then says."""
    count, full = result.params.get("n"), scenario.results[0].params.get("n")
    return isinstance(count, int) and count != full


def _unit(unit: str) -> str:
    return f" {unit}" if unit else ""


def _yes(value: bool | None) -> str:
    return "?" if value is None else "yes" if value else "no"


def _loads(loads: Iterable[float]) -> str:
    return " ".join(f"{load:.2f}" for load in loads)
