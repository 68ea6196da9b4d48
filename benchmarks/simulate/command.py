"""`raymodal bench simulate` without its options' types: reads the trace, runs, prints, writes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..plot import PlotError, ensure_drawable
from ..report import Paint, number
from . import picture, report, runs, traces
from .workload import Workload

MOST = 100
INPUTS = 100_000
QUICK_INPUTS = 10_000


class Mistake(Exception):
    """What was asked for cannot be done; the text says why."""


@dataclass(frozen=True)
class Wish:
    """What was asked for; None is the default.

    Attributes:
        traces: kinds or CSV files; none is all kinds.
        start_s: until a container is ready, in the mean.
        policies: names; none is `runs.DEFAULT_POLICIES`, or for many functions `runs.DEFAULT_FOR_MANY`.
    """

    traces: Sequence[str] = ()
    policies: Sequence[str] = ()
    inputs: int | None = None
    most: int = MOST
    seed: int = runs.SEED
    is_quick: bool = False
    json: Path | None = None
    plot: Path | None = None
    start_s: float = runs.START.mean_s


def run(wish: Wish, *, show: Callable[[str], None], progress: Callable[[str], None], paint: Paint) -> None:
    """Simulate, show a table per trace, and write what was asked for.

    Raises:
        Mistake: something is wrong with the wish; found before the first run.
    """
    setting = runs.Setting(most=wish.most, start=replace(runs.START, mean_s=wish.start_s), seed=wish.seed)
    try:
        made = _check(wish, setting)
    except (ValueError, traces.TraceError, PlotError) as error:
        raise Mistake(str(error)) from error

    began = time.perf_counter()
    done = []
    for make in made:
        progress("drawing arrivals")
        workload = make()
        names = runs.names_of(wish.policies, is_many=len(workload.pools) > 1)
        simulation = runs.simulate(workload, names, setting, progress)
        done.append(simulation)
        show(report.render(simulation, paint) + "\n")
    start, service = setting.start, runs.SERVICE
    show(report.EXPLANATION)
    show(
        f"{wish.most:,} containers at the most, {start.mean_s:g} s to start and {service.mean_s:g} s per input in the mean, "
        f"seed {wish.seed}; simulated in {number(time.perf_counter() - began)} s"
    )
    if wish.json is not None:
        facts = {"most": wish.most, "slots": setting.slots, "seed": wish.seed, "start_s": start.mean_s}
        wish.json.write_text(report.to_json(done, {**facts, "start_sigma": start.sigma}), encoding="utf-8")
    if wish.plot is not None:
        picture.draw(done, wish.plot)


def _check(wish: Wish, setting: runs.Setting) -> list[Callable[[], Workload]]:
    """How to make each trace, if all names and files are good."""
    for name in runs.names_of(wish.policies, is_many=False):
        runs.policy(name, setting)
    if wish.plot is not None:
        ensure_drawable(wish.plot)
    for file in (wish.json, wish.plot):
        if file is not None and not file.absolute().parent.is_dir():
            raise ValueError(f"{file}: there is no folder {file.parent}")
    return [_trace(name, wish, setting) for name in dict.fromkeys(wish.traces or traces.KINDS)]


def _trace(name: str, wish: Wish, setting: runs.Setting) -> Callable[[], Workload]:
    """How to make a trace. Files are read at once, so that their mistakes are told first."""
    if name in traces.KINDS:
        inputs = wish.inputs or (QUICK_INPUTS if wish.is_quick else INPUTS)
        demand = traces.demand_for(inputs, wish.most * setting.slots, runs.SERVICE, wish.seed)
        return lambda: traces.make(name, demand)
    if not name.endswith(".csv"):
        raise ValueError(f"--trace {name}: there are {', '.join(traces.KINDS)}, or a file that ends in .csv")
    limit = wish.inputs or (QUICK_INPUTS if wish.is_quick else None)
    trace = traces.read_csv(Path(name), runs.SERVICE, wish.seed, limit)
    return lambda: trace
