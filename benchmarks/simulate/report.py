"""What simulations gave, as tables and as JSON. Pure."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ..report import Paint, aligned, number
from ..stats import percentile
from .world import Outcome

SCHEMA = "raymodal-simulate/1"


@dataclass(frozen=True)
class Row:
    """The figures of one policy, over all functions; `Outcome` says what each is. Times as their names say, `_s` in container-seconds.

    `cold_function_percent`: the mean of the functions' shares of cold starts; the rare ones count as much as the busy ones.
    """

    policy: str
    wait_p50_ms: float
    wait_p99_ms: float
    cold_percent: float
    idle_s: float
    container_s: float
    most_containers: int
    starts: int
    cold_function_percent: float

    @property
    def is_fixed(self) -> bool:
        """Whether this is ours with nothing but a window."""
        return re.fullmatch(r"ours(-[\d.]+)?", self.policy) is not None

    @classmethod
    def of(cls, policy: str, outcomes: Sequence[Outcome]) -> Row:
        """The figures of each function's outcome together."""
        waits = sorted(itertools.chain.from_iterable(outcome.waits for outcome in outcomes))
        return cls(
            policy=policy,
            wait_p50_ms=1000 * percentile(waits, 50),
            wait_p99_ms=1000 * percentile(waits, 99),
            cold_percent=100 * sum(sum(outcome.cold) for outcome in outcomes) / len(waits),
            idle_s=sum(outcome.idle_s for outcome in outcomes),
            container_s=sum(outcome.container_s for outcome in outcomes),
            most_containers=_most(outcomes),
            starts=sum(outcome.starts for outcome in outcomes),
            cold_function_percent=sum(outcome.cold_percent for outcome in outcomes) / len(outcomes),
        )


def _most(outcomes: Sequence[Outcome]) -> int:
    """Containers at one instant; those that end make room first."""
    if len(outcomes) == 1:
        return outcomes[0].most_containers
    changes = sorted(itertools.chain.from_iterable(outcome.sizes for outcome in outcomes))
    return max(itertools.accumulate(by for _, by in changes))


@dataclass(frozen=True)
class Simulation:
    """One trace under several policies.

    Attributes:
        functions: that have their own containers.
        length_s: seconds from the first arrival to the last.
        work_s: seconds that all inputs run, added up.
    """

    trace: str
    inputs: int
    length_s: float
    work_s: float
    rows: tuple[Row, ...]
    functions: int = 1

    @property
    def comparisons(self) -> list[Comparison]:
        """Each learned policy beside the fixed windows that were run."""
        fixed = [row for row in self.rows if row.is_fixed]
        return [Comparison.of(row, fixed) for row in self.rows if row.policy.startswith("hybrid")]

    @property
    def front(self) -> list[Row]:
        """Policies that no other one beats in both p99 of the wait and idle container-seconds, least idle first."""
        best: list[Row] = []
        for row in sorted(self.rows, key=lambda row: (row.idle_s, row.wait_p99_ms)):
            if not best or row.wait_p99_ms < best[-1].wait_p99_ms:
                best.append(row)
        return best


@dataclass(frozen=True)
class Comparison:
    """A policy beside fixed windows, read off between the two that are nearest; None where none is on one side.

    Attributes:
        cold_percent, cold_function_percent: of a fixed window with as many idle container-seconds.
        idle_s: of a fixed window with the same share of cold starts.
    """

    row: Row
    cold_percent: float | None
    cold_function_percent: float | None
    idle_s: float | None

    @classmethod
    def of(cls, row: Row, fixed: Sequence[Row]) -> Comparison:
        """Read off along the logarithm of idle time."""
        cold = [(math.log(max(one.idle_s, 1e-9)), one.cold_percent) for one in fixed]
        functions = [(math.log(max(one.idle_s, 1e-9)), one.cold_function_percent) for one in fixed]
        idle = math.log(max(row.idle_s, 1e-9))
        same = _read_off([(share, logarithm) for logarithm, share in cold], row.cold_percent)
        return cls(row, _read_off(cold, idle), _read_off(functions, idle), None if same is None else math.exp(same))

    def lines(self, *, is_many: bool) -> list[str]:
        """What a fixed window does with as much, and what it takes for as much."""
        row, lines = self.row, []
        if self.cold_percent is None or self.cold_function_percent is None:
            lines.append(f"{row.policy}: no fixed windows that ran lie on both sides of its idle time")
        else:
            cold = f"{_beside(row.cold_percent, self.cold_percent)} % cold"
            if is_many:
                cold += f", {_beside(row.cold_function_percent, self.cold_function_percent)} % of the mean function"
            lines.append(f"{row.policy} beside a fixed window with as many idle container-seconds: {cold}")
        if self.idle_s is None:
            lines.append(f"{row.policy}: no fixed windows that ran lie on both sides of its share of cold starts")
        else:
            idle = f"{_beside(row.idle_s, self.idle_s)} idle container-seconds"
            lines.append(f"{row.policy} beside a fixed window with as many cold starts: {idle}")
        return lines


def _beside(ours: float, theirs: float) -> str:
    return f"{number(ours)} instead of {number(theirs)}" + (f" (x{ours / theirs:.2f})" if theirs else "")


def _read_off(points: Sequence[tuple[float, float]], x: float) -> float | None:
    """The height at x of the line through the points."""
    ordered = sorted(points)
    for (x0, y0), (x1, y1) in itertools.pairwise(ordered):
        if x0 <= x <= x1:
            return y0 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return None


def render(simulation: Simulation, paint: Paint) -> str:
    """One table: a policy per line, `*` where it is on the front."""
    is_many = simulation.functions > 1
    title = (
        (f"{simulation.functions:,} functions, " if is_many else "")
        + f"{simulation.inputs:,} inputs in {number(simulation.length_s)} s, "
        f"{number(simulation.work_s / max(simulation.length_s, 1.0))} at once in the mean"
    )
    heading = (
        "policy",
        "wait p50 ms",
        "p99 ms",
        "cold %",
        *(["of functions %"] if is_many else []),
        "idle container-s",
        "container-s",
        "most",
        "started",
        "front",
    )
    front = simulation.front
    rows = [
        (
            row.policy,
            number(row.wait_p50_ms),
            number(row.wait_p99_ms),
            number(row.cold_percent),
            *([number(row.cold_function_percent)] if is_many else []),
            number(row.idle_s),
            number(row.container_s),
            f"{row.most_containers:,}",
            f"{row.starts:,}",
            "*" if row in front else "",
        )
        for row in simulation.rows
    ]
    lines = aligned([heading, *rows], right=range(1, 9 if is_many else 8))
    compared = [line for comparison in simulation.comparisons for line in comparison.lines(is_many=is_many)]
    return "\n".join([f"{paint.strong(simulation.trace)}  {title}", *(f"  {line}" for line in [*lines, *compared])])


EXPLANATION = (
    "cold: the container was not ready yet when the input arrived; idle: ready containers without an input; "
    "*: every other policy has a higher p99 or more idle time."
)


def to_json(simulations: Sequence[Simulation], setting: Mapping[str, object]) -> str:
    """All simulations and what they ran with, with the schema's name; the same text for the same seed."""
    data = {"schema": SCHEMA, "setting": dict(setting), "simulations": [asdict(one) for one in simulations]}
    return json.dumps(data, indent=1) + "\n"
