"""What simulations gave, as tables and as JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ..report import Paint, aligned, number
from .world import Outcome

SCHEMA = "raymodal-simulate/1"


@dataclass(frozen=True)
class Row:
    """The figures of one policy; `Outcome` says what each is. Times as their names say, `_s` in container-seconds."""

    policy: str
    wait_p50_ms: float
    wait_p99_ms: float
    cold_percent: float
    idle_s: float
    container_s: float
    most_containers: int
    starts: int

    @classmethod
    def of(cls, policy: str, outcome: Outcome) -> Row:
        """An outcome's figures."""
        return cls(
            policy=policy,
            wait_p50_ms=1000 * outcome.wait_p50_s,
            wait_p99_ms=1000 * outcome.wait_p99_s,
            cold_percent=outcome.cold_percent,
            idle_s=outcome.idle_s,
            container_s=outcome.container_s,
            most_containers=outcome.most_containers,
            starts=outcome.starts,
        )


@dataclass(frozen=True)
class Simulation:
    """One trace under several policies.

    Attributes:
        length_s: seconds from the first arrival to the last.
        work_s: seconds that all inputs run, added up.
    """

    trace: str
    inputs: int
    length_s: float
    work_s: float
    rows: tuple[Row, ...]

    @property
    def front(self) -> list[Row]:
        """Policies that no other one beats in both p99 of the wait and idle container-seconds, least idle first."""
        best: list[Row] = []
        for row in sorted(self.rows, key=lambda row: (row.idle_s, row.wait_p99_ms)):
            if not best or row.wait_p99_ms < best[-1].wait_p99_ms:
                best.append(row)
        return best


def render(simulation: Simulation, paint: Paint) -> str:
    """One table: a policy per line, `*` where it is on the front."""
    title = (
        f"{simulation.inputs:,} inputs in {number(simulation.length_s)} s, "
        f"{number(simulation.work_s / max(simulation.length_s, 1.0))} at once in the mean"
    )
    heading = (
        "policy",
        "wait p50 ms",
        "p99 ms",
        "cold %",
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
            number(row.idle_s),
            number(row.container_s),
            f"{row.most_containers:,}",
            f"{row.starts:,}",
            "*" if row in front else "",
        )
        for row in simulation.rows
    ]
    lines = aligned([heading, *rows], right=range(1, 8))
    return "\n".join([f"{paint.strong(simulation.trace)}  {title}", *(f"  {line}" for line in lines)])


EXPLANATION = (
    "cold: the container was not ready yet when the input arrived; idle: ready containers without an input; "
    "*: every other policy has a higher p99 or more idle time."
)


def to_json(simulations: Sequence[Simulation], setting: Mapping[str, object]) -> str:
    """All simulations and what they ran with, with the schema's name; the same text for the same seed."""
    data = {"schema": SCHEMA, "setting": dict(setting), "simulations": [asdict(one) for one in simulations]}
    return json.dumps(data, indent=1) + "\n"
