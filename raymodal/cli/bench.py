"""`raymodal bench`: measure raymodal against bare Ray and process pools on this machine, and compare reports.

The measuring itself lives in the `benchmarks` package, which a wheel carries as `raymodal._benchmarks`. This file only
turns the command line into calls of it, and imports it when a command runs: `--help` needs neither.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

app = typer.Typer(
    name="bench",
    help="Measure raymodal against bare Ray and process pools, and compare reports.",
    no_args_is_help=True,
)

Quick = Annotated[bool, typer.Option("--quick", help="Less work and fewer rounds.")]
Json = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report as JSON.", dir_okay=False)]
Plot = Annotated[
    Path | None, typer.Option("--plot", metavar="FILE", help="Draw the report (.png or .svg).", dir_okay=False)
]
Repeat = Annotated[int | None, typer.Option("--repeat", min=1, help="Rounds per contender (5; with --quick 3).")]
Only = Annotated[str | None, typer.Option("--only", metavar="REGEX", help="Only scenarios whose name matches.")]
ShowCode = Annotated[bool, typer.Option("--show-code", help="Print what each contender runs, and measure nothing.")]
Stock = Annotated[bool, typer.Option("--stock", help="Let raymodal join a plain `ray start`, not start its own Ray.")]
Check = Annotated[bool, typer.Option("--check", help="Exit with status 3 if a target is not reached.")]


_GROUPS = {
    "calls": "Single calls: remote(), remote.aio(), 100 MB arrays, nested calls.",
    "map": "Many inputs through map: small, from zero, a million, slow and mixed.",
    "inputs": "Several inputs at once in one container: tasks, threads, batches as calls arrive.",
    "start": "Containers: one, 8 and 32 at once, with variables, their memory, without bytecode.",
    "controller": "The controller by itself: decisions for 1,000 functions, at rest, how late it asks for a container.",
    "scale": "From none to many: map, bare actors, Ray Serve with its own policy and with raymodal's.",
    "hello": "Whole programs: raymodal run, import raymodal, --help.",
    "all": "Everything, one group after the other.",
    "selftest": "Contenders without Ray, some failing on purpose: does measuring work here?",
}


def _measure(
    context: typer.Context,
    quick: Quick = False,
    json: Json = None,
    plot: Plot = None,
    repeat: Repeat = None,
    only: Only = None,
    show_code: ShowCode = False,
    check: Check = False,
    stock: Stock = False,
) -> None:
    """Measure the group whose name the command has."""
    group = None if context.command.name == "all" else context.command.name
    try:
        scenarios = _part("scenarios").choose(group, only)
    except ValueError as error:
        _fail(str(error))
    if show_code:
        _show_code(scenarios)
        return
    plots = _part("plot")
    if plot is not None:
        try:
            plots.ensure_drawable(plot)
        except plots.PlotError as error:
            _fail(str(error))
    if json is not None and not json.absolute().parent.is_dir():
        _fail(f"--json {json}: there is no folder {json.parent}")

    runner, reports = _part("runner"), _part("report")
    progress = _Progress()

    def finished(result: Any) -> None:
        # Each table as soon as it is there: a whole run takes minutes.
        progress.clear()
        print("\n".join(reports.render_scenario(result, _paint())), end="\n\n", flush=True)

    options = runner.Options(is_quick=quick, repeat=repeat, is_stock=stock)
    report = runner.run(scenarios, options, progress=progress, finished=finished)
    progress.clear()
    print("\n".join([*reports.render_machine(report), *reports.render_summary(report, _paint())]))
    if json is not None:
        json.write_text(report.to_json(), encoding="utf-8")
    if plot is not None and not report.is_interrupted:
        try:
            plots.draw(report, plot)
        except plots.PlotError as error:
            _fail(str(error))
    if report.is_interrupted:
        raise typer.Exit(130)
    if report.has_errors:
        raise typer.Exit(1)
    if check and report.missed:
        raise typer.Exit(3)


for _group, _help in _GROUPS.items():
    app.command(_group, help=_help, hidden=_group == "selftest")(_measure)


@app.command("list")
def list_() -> None:
    """List the scenarios, their contenders and targets."""
    scenarios = _part("scenarios")
    for group, text in scenarios.GROUPS.items():
        print(f"raymodal bench {group}: {text}")
        for scenario in scenarios.choose(group):
            print(f"  {scenario.name}  {scenario.title.format(**scenario.params)}")
            print(f"      contenders: {', '.join(contender.name for contender in scenario.contenders)}")
            for target in scenario.targets:
                print(f"      target: {target.text}")
        print()


@app.command()
def compare(
    a: Annotated[Path, typer.Argument(metavar="A.json", help="The report before.")],
    b: Annotated[Path, typer.Argument(metavar="B.json", help="The report after.")],
) -> None:
    """Compare two reports, figure by figure, with a verdict that respects both spreads."""
    report = _part("report")
    try:
        before, after = report.Report.read(a), report.Report.read(b)
    except report.ReportError as error:
        _fail(str(error))
    print(_part("compare").render(before, after, _paint()))


@app.command()
def simulate(
    trace: Annotated[
        list[str] | None,
        typer.Option(
            "--trace",
            metavar="NAME|FILE.csv",
            help="constant, poisson, bursts, diurnal, heavy (all of these), azure, timers (many functions), or a CSV.",
        ),
    ] = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(
            "--policy",
            metavar="NAME",
            help="ours[-SECONDS], ours-buffer, hybrid[-SECONDS], sweep, serve[-tuned], knative, keepalive[-SECONDS].",
        ),
    ] = None,
    inputs: Annotated[
        int | None, typer.Option("--inputs", min=1, help="Per trace (100,000; with --quick 10,000).")
    ] = None,
    max_containers: Annotated[
        int, typer.Option("--max-containers", min=1, help="What made traces are sized by, too.")
    ] = 100,
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same figures.")] = 7,
    start_seconds: Annotated[
        float | None, typer.Option("--start-seconds", min=0.0, help="Until a container is ready, in the mean.")
    ] = None,
    json: Json = None,
    plot: Plot = None,
    quick: Quick = False,
) -> None:
    """Replay arrivals against autoscaling policies: waits and cold starts beside idle containers. Needs no cluster."""
    command, progress = _part("simulate.command"), _Progress()

    def show(text: str) -> None:
        progress.clear()
        print(text, flush=True)

    wish = command.Wish(trace or (), policy or (), inputs, max_containers, seed, quick, json, plot)
    if start_seconds is not None:
        wish = replace(wish, start_s=start_seconds)
    try:
        command.run(wish, show=show, progress=progress, paint=_paint())
    except command.Mistake as error:
        _fail(str(error))
    finally:
        progress.clear()


def _show_code(scenarios: list[Any]) -> None:
    resolve = _part("model").resolve
    shown: set[str] = set()
    for scenario in scenarios:
        for contender in scenario.contenders:
            print(f"# {scenario.name}: {contender.name}")
            for ref in (contender.session, *contender.shows):
                if ref in shown:
                    print(f"# {ref}: see above")
                    continue
                shown.add(ref)
                print(_source(resolve(ref)))
            print()


def _source(thing: Any) -> str:
    # A raymodal Function or Cls is a handle; what the user wrote is behind it.
    written = getattr(thing, "_raw_f", None) or getattr(thing, "_user_cls", None) or thing
    try:
        return inspect.getsource(inspect.unwrap(written))
    except (OSError, TypeError):
        return f"# {thing!r}: its source cannot be read"


class _Progress:
    """One line on a terminal's standard error that says what is running; nothing where there is no terminal."""

    def __init__(self) -> None:
        self._is_on = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        if self._is_on:
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    def clear(self) -> None:
        if self._is_on:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def _paint() -> Any:
    return _part("report").Paint(is_on=sys.stdout.isatty() and not os.environ.get("NO_COLOR"))


def _part(name: str) -> Any:
    """A module of the benchmarks, wherever they are: in the installed package, or beside it in a checkout."""
    if importlib.util.find_spec("raymodal._benchmarks") is not None:
        return importlib.import_module(f"raymodal._benchmarks.{name}")
    try:
        package = importlib.import_module("benchmarks")
    except ModuleNotFoundError:
        package = None
    if not getattr(package, "IS_RAYMODAL_BENCHMARKS", False):
        _fail("raymodal's benchmarks are neither in the installed package nor in this checkout. Install raymodal anew.")
    return importlib.import_module(f"benchmarks.{name}")


def _fail(text: str) -> NoReturn:
    print(f"raymodal bench: {text}", file=sys.stderr)
    raise typer.Exit(2)
