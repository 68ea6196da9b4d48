"""What does one call cost?"""

from __future__ import annotations

from ..model import Contender, Metric, Scenario, Target

# The first call of a round follows a pause of seconds, in which a lease is given back.
_LATENCY = (Metric("p50", "µs"), Metric("p95", "µs"), Metric("first", "µs"))

_REMOTE = Scenario(
    name="calls.remote",
    title="{n:,} calls back to back, each waited for",
    contenders=(
        Contender("raymodal", "ours.calls:remote", host="raymodal", kind="raymodal", shows=("ours.calls:echo",)),
        Contender(
            "bare actor", "baselines.calls:bare_actor", host="ray actor", kind="ray", shows=("baselines.calls:Echo",)
        ),
        Contender("bare task", "baselines.calls:bare_task", host="ray tasks", kind="ray", shows=("work:echo",)),
        Contender("ProcessPoolExecutor", "baselines.calls:process_pool", host="pool", kind="plain"),
    ),
    metrics=_LATENCY,
    baseline="bare actor",
    targets=(
        Target(
            "p50 at most 1.15 times a bare actor call",
            lambda f: f.ratio("raymodal", "p50", "bare actor"),
            at_most=1.15,
            unit="times",
        ),
    ),
    params={"n": 2000},
    quick={"n": 300},
)

_AIO = Scenario(
    name="calls.aio",
    title="{n:,} calls back to back, each awaited",
    contenders=(
        Contender("raymodal", "ours.calls:remote_aio", host="raymodal", kind="raymodal", shows=("ours.calls:echo",)),
        Contender(
            "bare actor, await",
            "baselines.calls:bare_actor_await",
            host="ray actor",
            kind="ray",
            shows=("baselines.calls:Echo",),
        ),
    ),
    metrics=_LATENCY,
    baseline="bare actor, await",
    params={"n": 2000},
    quick={"n": 300},
)

_NESTED = Scenario(
    name="calls.nested",
    title="{n:,} calls of a function that calls another one",
    contenders=(
        Contender(
            "raymodal",
            "ours.calls:nested",
            host="raymodal",
            kind="raymodal",
            shows=("ours.calls:inner", "ours.calls:outer"),
        ),
        Contender(
            "bare actors", "baselines.calls:bare_nested", host="ray actor", kind="ray", shows=("baselines.calls:Echo",)
        ),
    ),
    metrics=_LATENCY,
    baseline="bare actors",
    params={"n": 1000},
    quick={"n": 200},
)

_BIG = Scenario(
    name="calls.100mb",
    title="a 100 MB array as argument, and one as result, writable where it arrives",
    contenders=(
        Contender(
            "raymodal",
            "ours.calls:big",
            host="raymodal",
            kind="raymodal",
            shows=("ours.calls:take", "ours.calls:give"),
        ),
        Contender(
            "bare actor + copy",
            "baselines.calls:bare_big",
            host="ray actor",
            kind="ray",
            shows=("baselines.calls:Big",),
        ),
    ),
    metrics=(Metric("argument", "ms"), Metric("result", "ms")),
    baseline="bare actor + copy",
    targets=(
        Target(
            "argument at most 1.2 times bare Ray and one copy",
            lambda f: f.ratio("raymodal", "argument", "bare actor + copy"),
            at_most=1.2,
            unit="times",
        ),
        Target(
            "result at most 1.2 times bare Ray and one copy",
            lambda f: f.ratio("raymodal", "result", "bare actor + copy"),
            at_most=1.2,
            unit="times",
        ),
    ),
    params={"size_bytes": 100_000_000, "warm_up": 4},
    quick={"warm_up": 3},
)

SCENARIOS = (_REMOTE, _AIO, _NESTED, _BIG)
