"""Policies by their names, and one run per trace and policy. Pure but for the import of ray.serve that `serve` needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from raymodal.logic.autoscale import DEFAULT_SCALEDOWN_S, Rules

from .knative import Knative
from .policies import KeepAlive, Ours
from .report import Row, Simulation
from .serve import Serve
from .traces import Durations, Trace
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

DEFAULT_POLICIES = ("ours-10", "ours", "ours-300", "ours-buffer", "serve", "serve-tuned", "knative", "keepalive")
NAMES = "ours, ours-SECONDS, ours-buffer, serve, serve-tuned, knative, keepalive, keepalive-SECONDS"


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
    if name == "knative":
        return Knative()
    if name in {"serve", "serve-tuned"}:
        return Serve(most, slots, TUNED if name == "serve-tuned" else {})
    raise ValueError(f"there is no policy {name!r}; there are: {NAMES}")


def simulate(
    trace: Trace, names: Sequence[str], setting: Setting, progress: Callable[[str], None] = lambda text: None
) -> Simulation:
    """One trace under each of the policies.

    Raises:
        ValueError: a name is none of a policy.
    """
    rows = []
    for name in names:
        progress(f"{trace.name}: {name}")
        chosen = policy(name, setting)
        world = World(trace, chosen, most=setting.most, slots=setting.slots, start=setting.start, seed=setting.seed)
        rows.append(Row.of(name, world.run()))
    return Simulation(trace.name, len(trace), trace.arrivals[-1], sum(trace.services), tuple(rows))
