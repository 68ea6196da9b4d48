"""The Pareto picture: per trace, p99 of the wait and cold-start share over idle container-seconds, a point per policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..plot import ensure_drawable
from ..report import number
from .report import Row, Simulation

OURS = "#d9622b"
OTHERS = "#8fa3b3"


def draw(simulations: Sequence[Simulation], path: Path) -> None:
    """Write the picture.

    Raises:
        PlotError: matplotlib is missing, or the file's ending is unknown.
    """
    ensure_drawable(path)
    # The object interface with its own canvas: no display, no global state, and no default style touched.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.4 * len(simulations) + 0.4), layout="constrained")
    panels = figure.subplots(len(simulations), 2, squeeze=False)
    for axes, simulation in zip(panels, simulations, strict=True):
        front = simulation.front
        waits, cold = axes
        waits.step(
            [row.idle_s for row in front],
            [row.wait_p99_ms for row in front],
            where="post",
            color="#333333",
            linewidth=0.8,
            linestyle=":",
        )
        _points(waits, simulation.rows, [row.wait_p99_ms for row in simulation.rows])
        _points(cold, simulation.rows, [row.cold_percent for row in simulation.rows])
        waits.set_yscale("symlog", linthresh=1.0)
        waits.set_ylim(0, 3 * max(1.0, *(row.wait_p99_ms for row in simulation.rows)))
        cold.set_ylim(0, 1.15 * max(0.1, *(row.cold_percent for row in simulation.rows)))
        waits.set_title(f"{simulation.trace}: wait p99, ms (dotted: the front)", fontsize=9, loc="left")
        cold.set_title(f"{simulation.trace}: cold starts, % of inputs", fontsize=9, loc="left")
        for axis in axes:
            axis.set_xlim(0, 1.15 * max(1.0, *(row.idle_s for row in simulation.rows)))
            axis.set_xlabel("idle container-seconds (further left and lower is better)", fontsize=8)
            axis.tick_params(labelsize=8)
            axis.xaxis.set_major_formatter(lambda value, position: number(value))
            axis.yaxis.set_major_formatter(lambda value, position: number(value))
    figure.savefig(path)


def _points(axis: object, rows: Sequence[Row], heights: Sequence[float]) -> None:
    colours = [OURS if row.policy.startswith("ours") else OTHERS for row in rows]
    axis.scatter([row.idle_s for row in rows], heights, c=colours, s=28)  # type: ignore[attr-defined]
    # Names of neighbours at two heights, so that they can be read.
    for i, (row, height) in enumerate(sorted(zip(rows, heights, strict=True), key=lambda one: one[0].idle_s)):
        axis.annotate(  # type: ignore[attr-defined]
            row.policy, (row.idle_s, height), xytext=(4, 3 + 9 * (i % 2)), textcoords="offset points", fontsize=7
        )
