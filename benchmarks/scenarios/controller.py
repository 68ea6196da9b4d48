"""What does the controller cost, and how late is it?"""

from __future__ import annotations

from ..model import Contender, Metric, Scenario, Target

_NAME = "raymodal's controller"

_POOLS = Scenario(
    name="controller.pools",
    title="{pools} functions with {containers} containers, simulated: a decision for every function, one event, a rest",
    contenders=(Contender(_NAME, "ours.controller:many_pools", host="no cluster", kind="plain"),),
    metrics=(Metric("tick", "ms"), Metric("event", "ms"), Metric("CPU at rest", "%")),
    baseline=None,
    targets=(
        Target("decides anew for all within 50 ms", lambda f: f.median(_NAME, "tick"), at_most=50, unit="ms"),
        Target("idles near 0 %", lambda f: f.median(_NAME, "CPU at rest"), at_most=2, unit="%"),
    ),
    params={"pools": 1000, "containers": 5000, "ticks": 15, "events": 300, "rest": 7.0},
    quick={"ticks": 5, "events": 100, "rest": 4.0},
    max_rounds=3,
)

_REQUEST = Scenario(
    name="controller.request",
    title="from a function's first waiting input to the request for its container",
    contenders=(Contender(_NAME, "ours.controller:request", host="raymodal", kind="raymodal"),),
    metrics=(Metric("by remote", "ms"), Metric("by spawn", "ms")),
    baseline=None,
    targets=(
        Target("remote(): under 20 ms", lambda f: f.median(_NAME, "by remote"), at_most=20, unit="ms"),
        Target("spawn(): under 20 ms", lambda f: f.median(_NAME, "by spawn"), at_most=20, unit="ms"),
    ),
    params={"n": 10},
    quick={"n": 5},
    max_rounds=3,
)

SCENARIOS = (_POOLS, _REQUEST)
