"""The Pareto picture: per trace, the wait (p50 and p99) and the share of cold starts over idle container-seconds, a point per policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..plot import WIDE_RANGE, ensure_drawable
from ..report import number
from .report import Row, Simulation

FIXED = "#d9622b"
LEARNED = "#2a9d55"
OTHERS = "#8fa3b3"
LABEL_POINTS = 7
# Right of its point, else left, else higher or lower, until it covers no other label and no point.
PLACES = [(side, height) for height in (-2, 6, -10, 14, -18, 22, -26) for side in (1, -1)]


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
    for (waits, cold), simulation in zip(panels, simulations, strict=True):
        _draw_waits(waits, simulation)
        _draw_cold(cold, simulation)
        for axis in (waits, cold):
            _scale_idle(axis, simulation.rows)
    # Labels are placed by where the points have come to lie.
    figure.draw_without_rendering()
    figure.set_layout_engine("none")
    for (waits, cold), simulation in zip(panels, simulations, strict=True):
        _label(waits, simulation.rows, [row.wait_p99_ms for row in simulation.rows])
        _label(cold, simulation.rows, [row.cold_percent for row in simulation.rows])
    figure.savefig(path)


def _draw_waits(axis: Any, simulation: Simulation) -> None:
    rows, front = simulation.rows, simulation.front
    axis.step(
        [row.idle_s for row in front],
        [row.wait_p99_ms for row in front],
        where="post",
        color="#333333",
        linewidth=0.8,
        linestyle=":",
    )
    for row in rows:
        axis.plot([row.idle_s] * 2, [row.wait_p50_ms, row.wait_p99_ms], color=_colour(row), linewidth=0.6, alpha=0.5)
    axis.scatter([row.idle_s for row in rows], [row.wait_p99_ms for row in rows], c=[*map(_colour, rows)], s=28)
    axis.scatter(
        [row.idle_s for row in rows], [row.wait_p50_ms for row in rows], c=[*map(_colour, rows)], s=24, marker="_"
    )
    axis.set_yscale("symlog", linthresh=1.0)
    axis.set_ylim(0, 4 * max(1.0, *(row.wait_p99_ms for row in rows)))
    axis.set_title(f"{simulation.trace}: wait, ms: p99 (dots; dotted: the front), p50 (dashes)", fontsize=9, loc="left")


def _draw_cold(axis: Any, simulation: Simulation) -> None:
    rows = simulation.rows
    windows = sorted((row.idle_s, row.cold_percent) for row in rows if row.is_fixed)
    axis.plot([idle for idle, _ in windows], [share for _, share in windows], color=FIXED, linewidth=0.8, alpha=0.6)
    axis.scatter([row.idle_s for row in rows], [row.cold_percent for row in rows], c=[*map(_colour, rows)], s=28)
    axis.set_ylim(0, 1.2 * max(0.1, *(row.cold_percent for row in rows)))
    axis.set_title(f"{simulation.trace}: cold starts, % of inputs (line: fixed windows)", fontsize=9, loc="left")


def _scale_idle(axis: Any, rows: Sequence[Row]) -> None:
    least, most = min(row.idle_s for row in rows), max(1.0, *(row.idle_s for row in rows))
    if least > 0 and most > WIDE_RANGE * least:
        axis.set_xscale("log")
        axis.set_xlim(least / 1.5, most * 2.5)
    else:
        axis.set_xlim(0, 1.15 * most)
    axis.set_xlabel("idle container-seconds (further left and lower is better)", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.xaxis.set_major_formatter(lambda value, position: number(value))
    axis.yaxis.set_major_formatter(lambda value, position: number(value))


def _colour(row: Row) -> str:
    if row.policy.startswith("hybrid"):
        return LEARNED
    return FIXED if row.policy.startswith("ours") else OTHERS


def _label(axis: Any, rows: Sequence[Row], heights: Sequence[float]) -> None:
    """Name each point, where its name covers nothing, if there is such a place."""
    # In points, as offsets of annotations are; the figure has its own pixels per inch.
    scale = 72 / axis.figure.dpi
    at = [scale * axis.transData.transform((row.idle_s, height)) for row, height in zip(rows, heights, strict=True)]
    panel = tuple(scale * edge for edge in axis.bbox.extents)
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in at]
    for row, height, (x, y) in sorted(zip(rows, heights, at, strict=True), key=lambda one: one[2][0]):
        width = 0.6 * LABEL_POINTS * len(row.policy)
        boxes = [
            (x + (5 if side > 0 else -5 - width), y + up, x + (5 + width if side > 0 else -5), y + up + LABEL_POINTS)
            for side, up in PLACES
        ]
        free = [
            place
            for place, box in zip(PLACES, boxes, strict=True)
            if _is_inside(box, panel) and not any(_overlap(box, one) for one in taken)
        ]
        side, up = free[0] if free else PLACES[0]
        taken.append(boxes[PLACES.index((side, up))])
        axis.annotate(
            row.policy,
            (row.idle_s, height),
            xytext=(5 * side, up),
            textcoords="offset points",
            fontsize=LABEL_POINTS,
            horizontalalignment="left" if side > 0 else "right",
            annotation_clip=False,
        )


def _is_inside(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] >= other[0] and one[1] >= other[1] and one[2] <= other[2] and one[3] <= other[3]


def _overlap(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
