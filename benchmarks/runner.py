"""Runs scenarios: rounds interleaved between the contenders' children, failures kept apart."""

from __future__ import annotations

import datetime
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from . import machine
from .model import Contender, Scenario
from .processes import Child, ChildError, Workplace
from .report import Report, Result, ScenarioResult, TargetResult

# Lets threads of the contender that just ran fall asleep before the next one is measured.
SETTLE_S = 0.1


@dataclass(frozen=True)
class Options:
    """What the user chose.

    Attributes:
        is_quick: Less work, fewer rounds.
        repeat: Rounds, if other than usual.
        is_stock: raymodal joins a Ray that was started without its help, rather than starting its own.
    """

    is_quick: bool = False
    repeat: int | None = None
    is_stock: bool = False

    @property
    def rounds(self) -> int:
        """Rounds per contender."""
        return self.repeat or (3 if self.is_quick else 5)


@dataclass
class _Run:
    """One contender while its scenario runs."""

    contender: Contender
    session: str
    params: dict[str, object]
    child: Child | None = None
    rounds: dict[str, list[float]] = field(default_factory=dict)
    error: str | None = None

    def result(self) -> Result:
        return Result(self.contender.name, rounds=self.rounds, params=self.params, error=self.error)


def run(
    scenarios: Sequence[Scenario],
    options: Options,
    *,
    progress: Callable[[str], None] = lambda text: None,
    finished: Callable[[ScenarioResult], None] = lambda result: None,
) -> Report:
    """Measure.

    Ctrl-C ends the run: the report then holds what was measured until that moment. Whichever way this is left, no
    process that it started is.

    Args:
        scenarios: What to measure, in this order.
        options: How.
        progress: Told what is being done.
        finished: Told of each scenario's result as soon as it is there.
    """
    created_at = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    load_start = machine.load_average()
    results: list[ScenarioResult] = []
    is_interrupted = False
    with Workplace() as place:
        try:
            for index, scenario in enumerate(scenarios):
                runs: list[_Run] = []
                try:
                    _run_scenario(scenario, options, place, runs, progress)
                finally:
                    # Of an interrupted scenario too: the rounds that it has are whole ones.
                    results.append(_conclude(scenario, runs, options))
                    finished(results[-1])
                _end_idle_hosts(place, scenarios[index + 1 :])
        except KeyboardInterrupt:
            is_interrupted = place.is_hurried = True
        load_end = machine.load_average()
        progress("ending all processes")
    return Report(
        created_at=created_at,
        command=tuple(sys.argv[1:]),
        is_quick=options.is_quick,
        # Read at the end: the first start of a child may have compiled raymodal.
        machine={**machine.facts(), "raymodal_on": "stock Ray" if options.is_stock else "its own Ray"},
        load_start=tuple(load_start),
        load_end=tuple(load_end),
        scenarios=tuple(results),
        is_interrupted=is_interrupted,
    )


def _run_scenario(
    scenario: Scenario, options: Options, place: Workplace, runs: list[_Run], progress: Callable[[str], None]
) -> None:
    for contender in scenario.contenders:
        params = scenario.params_for(contender, is_quick=options.is_quick)
        run = _Run(contender, session=f"{scenario.name}/{contender.name}", params=params)
        runs.append(run)
        progress(f"{scenario.name}: starting {contender.name}")
        with _kept_apart(run):
            kind = "raymodal on stock Ray" if options.is_stock and contender.kind == "raymodal" else contender.kind
            run.child = place.child(contender.host, kind=kind)
            run.child.ask(
                "open", session=run.session, ref=contender.session, params=params, timeout_s=scenario.timeout_s
            )
    rounds = min(options.rounds, scenario.max_rounds or options.rounds)
    for k in range(rounds):
        # Another one begins each time, so that nobody always runs in the wake of the same neighbour.
        turn = k % len(runs)
        for run in [*runs[turn:], *runs[:turn]]:
            if run.error is None and run.child is not None:
                progress(f"{scenario.name}: round {k + 1} of {rounds}, {run.contender.name}")
                time.sleep(SETTLE_S)
                with _kept_apart(run):
                    reply = run.child.ask("round", session=run.session, timeout_s=scenario.timeout_s)
                    for metric, value in reply["figures"].items():
                        run.rounds.setdefault(metric, []).append(float(value))
    for run in runs:
        if run.child is not None and run.child.is_alive:
            with _kept_apart(run):
                run.child.ask("close", session=run.session, timeout_s=60.0)


@contextmanager
def _kept_apart(run: _Run) -> Iterator[None]:
    """Keep one contender's failure from the others."""
    try:
        yield
    except ChildError as error:
        # The first failure is the cause; closing after it may fail as well.
        run.error = run.error or str(error)


def _conclude(scenario: Scenario, runs: Iterable[_Run], options: Options) -> ScenarioResult:
    params = {**scenario.params, **(scenario.quick if options.is_quick else {})}
    bare = ScenarioResult(
        name=scenario.name,
        title=scenario.title.format(**params),
        metrics=scenario.metrics,
        baseline=scenario.baseline,
        results=tuple(run.result() for run in runs),
    )
    figures = bare.figures()
    targets = []
    for target in scenario.targets:
        try:
            value: float | None = target.measure(figures)
        except KeyError:
            value = None
        targets.append(
            TargetResult(
                text=target.text,
                value=value,
                bound=target.bound,
                unit=target.unit,
                is_reached=None if value is None else target.is_reached_by(value),
            )
        )
    return ScenarioResult(**{**vars(bare), "targets": tuple(targets)})


def _end_idle_hosts(place: Workplace, rest: Sequence[Scenario]) -> None:
    """Free the memory of children that no later scenario needs."""
    needed = {contender.host for scenario in rest for contender in scenario.contenders}
    for name in place.names():
        if name not in needed:
            place.end_child(name)
