"""What does one call cost?"""

from __future__ import annotations

from ..model import Contender, Metric, Scenario, Target

# The first call of a round follows a pause of seconds, in which a lease is given back.
_LATENCY = (Metric("p50", "µs"), Metric("p95", "µs"), Metric("first", "µs"))


def _ours(session: str, *functions: str) -> Contender:
    shows = tuple(f"ours.calls:{function}" for function in functions)
    return Contender("raymodal", f"ours.calls:{session}", host="raymodal", kind="raymodal", shows=shows)


def _actor(name: str, session: str, actor: str = "Echo") -> Contender:
    shows = (f"baselines.calls:{actor}",)
    return Contender(name, f"baselines.calls:{session}", host="ray actor", kind="ray", shows=shows)


_REMOTE = Scenario(
    name="calls.remote",
    title="{n:,} calls back to back, each waited for",
    contenders=(
        _ours("remote", "echo"),
        _actor("bare actor", "bare_actor"),
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
    contenders=(_ours("remote_aio", "echo"), _actor("bare actor, await", "bare_actor_await")),
    metrics=_LATENCY,
    baseline="bare actor, await",
    params={"n": 2000},
    quick={"n": 300},
)

_NESTED = Scenario(
    name="calls.nested",
    title="{n:,} calls of a function that calls another one",
    contenders=(_ours("nested", "inner", "outer"), _actor("bare actors", "bare_nested")),
    metrics=_LATENCY,
    baseline="bare actors",
    params={"n": 1000},
    quick={"n": 200},
)

_BIG = Scenario(
    name="calls.100mb",
    title="a 100 MB array as argument, and one as result, writable where it arrives",
    contenders=(_ours("big", "take", "give"), _actor("bare actor + copy", "bare_big", "Big")),
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

_STREAM = Scenario(
    name="calls.stream",
    title="a generator's {n:,} small items, taken one by one",
    contenders=(_ours("stream", "count"), _actor("Ray's streaming generator", "bare_stream", "Counter")),
    metrics=(Metric("rate", "/s", better="higher"),),
    baseline="Ray's streaming generator",
    targets=(
        Target(
            "at least twice the items of Ray's own",
            lambda f: f.median("raymodal", "rate") / f.median("Ray's streaming generator", "rate"),
            at_least=2,
            unit="times",
        ),
    ),
    params={"n": 20_000},
    quick={"n": 5_000},
)

SCENARIOS = (_REMOTE, _AIO, _NESTED, _STREAM, _BIG)
