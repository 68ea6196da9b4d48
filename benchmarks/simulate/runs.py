"""Policies by their names, and one run per trace and policy. Pure but for the import of ray.serve that `serve` needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raymodal.logic.autoscale import DEFAULT_SCALEDOWN_S, Rules

from .knative import Knative
from .policies import Hybrid, KeepAlive, Ours
from .report import Row, Simulation
from .serve import Serve
from .workload import Durations, Workload
from .world import Policy, World

# What a container with a few imports takes; 16 % take over 2.7 s.
START = Durations(2.0, 0.4)
SERVICE = Durations(2.0, 0.5)
SEED = 7

BUFFER_SHARE = 0.05
KEEP_ALIVE_S = 600.0
# Serve as eager as ours: its mean over seconds, no delay upwards, our window downwards.
TUNED = {
    "upscale_delay_s": 0.0,
    "downscale_delay_s": DEFAULT_SCALEDOWN_S,
    "metrics_interval_s": 1.0,
    "look_back_period_s": 2.0,
}

SWEEP_S = (3, 10, 30, 60, 120, 300, 600, 1800)
SWEEP = tuple(f"ours-{seconds}" for seconds in SWEEP_S)
DEFAULT_POLICIES = (
    "ours-10",
    "ours",
    "ours-300",
    "ours-buffer",
    "hybrid",
    "serve",
    "serve-tuned",
    "knative",
    "keepalive",
)
# Serve's loop turns every tenth of a second: days of many functions would take it hours.
DEFAULT_FOR_MANY = (*SWEEP, "hybrid", "knative")
NAMES = "ours, ours-SECONDS, ours-buffer, sweep, hybrid, hybrid-SECONDS, serve, serve-tuned, knative, keepalive, keepalive-SECONDS"


@dataclass(frozen=True)
class Setting:
    """What all policies of a run share.

    Attributes:
        most: containers at the most.
        slots: inputs that one serves at once.
        start: from the ask for a container until it is ready.
    """

    most: int
    slots: int = 1
    start: Durations = START
    seed: int = SEED


def names_of(policies: Sequence[str], *, is_many: bool) -> tuple[str, ...]:
    """The policies to run: those named, of which `sweep` is all the windows of `SWEEP_S`, or the default ones."""
    if not policies:
        return DEFAULT_FOR_MANY if is_many else DEFAULT_POLICIES
    named = (name for given in policies for name in (SWEEP if given == "sweep" else (given,)))
    return tuple(dict.fromkeys(named))


def policy(name: str, setting: Setting) -> Policy:
    """The policy of that name, unused.

    Raises:
        ValueError: there is none.
    """
    most, slots = setting.most, setting.slots
    kind, _, seconds = name.partition("-")
    window_s = float(seconds) if re.fullmatch(r"\d+(\.\d+)?", seconds) else None
    if name == "ours-buffer":
        return Ours(
            Rules(max_containers=most, target_inputs=slots, buffer_containers=max(1, round(BUFFER_SHARE * most)))
        )
    if name == "ours" or (kind == "ours" and window_s is not None):
        window_s = DEFAULT_SCALEDOWN_S if window_s is None else window_s
        return Ours(Rules(max_containers=most, target_inputs=slots, scaledown_window=window_s))
    if name == "keepalive" or (kind == "keepalive" and window_s is not None):
        return KeepAlive(KEEP_ALIVE_S if window_s is None else window_s)
    if name == "hybrid" or (kind == "hybrid" and window_s is not None):
        window_s = DEFAULT_SCALEDOWN_S if window_s is None else window_s
        return Hybrid(Rules(max_containers=most, target_inputs=slots, scaledown_window=window_s))
    if name == "knative":
        return Knative()
    if name in {"serve", "serve-tuned"}:
        return Serve(most, slots, TUNED if name == "serve-tuned" else {})
    raise ValueError(f"there is no policy {name!r}; there are: {NAMES}")


def simulate(
    workload: Workload, names: Sequence[str], setting: Setting, progress: Callable[[str], None] = lambda text: None
) -> Simulation:
    """What arrives, under each of the policies. Every function has its own containers and its own memory of what was.

    Raises:
        ValueError: a name is none of a policy.
    """
    most, slots = setting.most, setting.slots
    rows = []
    for name in names:
        progress(f"{workload.name}: {name}")
        outcomes = [
            World(
                trace, policy(name, setting), most=most, slots=slots, start=setting.start, seed=setting.seed + number
            ).run()
            for number, trace in enumerate(workload.pools)
        ]
        rows.append(Row.of(name, outcomes))
    return Simulation(
        workload.name, workload.inputs, workload.length_s, workload.work_s, tuple(rows), len(workload.pools)
    )
