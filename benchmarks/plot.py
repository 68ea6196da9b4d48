"""A report as a picture: one panel per figure, a bar per contender, whiskers from the lowest round to the highest."""

from __future__ import annotations

from pathlib import Path

from .report import Report, number

WIDE_RANGE = 20.0


class PlotError(Exception):
    """The picture cannot be drawn; the text says what to do."""


def ensure_drawable(path: Path) -> None:
    """Fail before minutes of measuring rather than after.

    Raises:
        PlotError: matplotlib is missing, or the file's ending is unknown.
    """
    if path.suffix not in {".png", ".svg"}:
        raise PlotError(f"--plot writes .png or .svg, not {path.name!r}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise PlotError("--plot needs matplotlib: pip install 'raymodal[plot]'") from error


def draw(report: Report, path: Path) -> None:
    """Write the picture.

    Raises:
        PlotError: See `ensure_drawable`, or there is nothing to draw.
    """
    ensure_drawable(path)
    panels = [
        (scenario, metric, rows)
        for scenario in report.scenarios
        for metric in scenario.metrics
        if (rows := [(r.contender, s) for r in scenario.results if (s := scenario.spread(r.contender, metric.name))])
    ]
    if not panels:
        raise PlotError("there is no figure to draw")

    # The object interface with its own canvas: no display, no global state, and no default style touched.
    from matplotlib.figure import Figure

    heights = [0.9 + 0.3 * len(rows) for _, _, rows in panels]
    figure = Figure(figsize=(9, sum(heights) + 0.6), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (scenario, metric, rows) in zip(axes, panels, strict=True):
        names = [name for name, _ in rows]
        medians = [spread.median for _, spread in rows]
        whiskers = [[s.median - s.low for _, s in rows], [s.high - s.median for _, s in rows]]
        colours = ["#d9622b" if name == scenario.results[0].contender else "#8fa3b3" for name in names]
        axis.barh(names, medians, xerr=whiskers, color=colours, ecolor="#333333", capsize=2)
        axis.invert_yaxis()
        axis.set_title(
            f"{scenario.name}: {metric.name}, {metric.unit} ({metric.better} is better)", fontsize=9, loc="left"
        )
        axis.tick_params(labelsize=8)
        if min(medians) > 0 and max(medians) / min(medians) > WIDE_RANGE:
            axis.set_xscale("log")
        # After the scale, which brings a formatter of its own.
        axis.xaxis.set_major_formatter(lambda value, position: number(value))
    machine = report.machine
    figure.suptitle(
        f"raymodal {machine.get('commit') or machine.get('raymodal')}, Ray {machine.get('ray')}, "
        f"{machine.get('cores')} cores, {report.created_at}",
        fontsize=9,
    )
    figure.savefig(path)
