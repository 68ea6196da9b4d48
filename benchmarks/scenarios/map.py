"""What does one input of many cost, and does one that is slow hold up the others?"""

from __future__ import annotations

from ..model import Contender, Metric, Scenario, Target

_RATE = (Metric("rate", "inputs/s", "higher"),)
_WORKER = ("baselines.map:Worker", "baselines.map:_workers", "baselines.map:_throughput")


def _ours(session: str, function: str) -> Contender:
    return Contender(
        "raymodal", f"ours.map:{session}", host="raymodal", kind="raymodal", shows=(f"ours.map:{function}",)
    )


def _chunked() -> tuple[Contender, ...]:
    """The baselines that send many inputs at a time."""
    return (
        Contender("Ray Pool.map", "baselines.map:ray_pool", host="ray pool", kind="ray", shows=_WORKER[2:]),
        Contender("actor calls of 1,000", "baselines.map:chunked_actors", host="ray actor", kind="ray", shows=_WORKER),
        Contender("tasks of 1,000", "baselines.map:chunked_tasks", host="ray tasks", kind="ray", shows=_WORKER[2:]),
        Contender(
            "ProcessPoolExecutor.map", "baselines.map:process_pool", host="pool", kind="plain", shows=_WORKER[2:]
        ),
    )


_INTS = Scenario(
    name="map.ints",
    title="{n:,} ints through map, in order, on two warm containers",
    contenders=(
        _ours("throughput", "double"),
        # About a thousand inputs a second: the full count would take minutes and tell nothing more.
        Contender(
            "ActorPool.map",
            "baselines.map:actor_pool",
            host="ray actor pool",
            kind="ray",
            shows=_WORKER,
            params={"n": 2000},
        ),
        Contender(
            "tasks of one",
            "baselines.map:tasks",
            host="ray tasks",
            kind="ray",
            shows=_WORKER[2:],
            params={"n": 5000},
        ),
        *_chunked(),
    ),
    metrics=_RATE,
    baseline="ActorPool.map",
    targets=(
        Target(
            "at least 100 times ActorPool.map",
            lambda f: f.ratio("raymodal", "rate", "ActorPool.map"),
            at_least=100,
            unit="times",
        ),
        Target("at least 200,000 inputs/s", lambda f: f.median("raymodal", "rate"), at_least=200_000, unit="inputs/s"),
    ),
    params={"n": 100_000, "inputs": "ints"},
    quick={"n": 20_000},
)

_RECORDS = Scenario(
    name="map.records",
    title="{n:,} dicts of 1 KB through map, in order, on two warm containers",
    contenders=(_ours("throughput", "touch"), *_chunked()),
    metrics=_RATE,
    baseline="actor calls of 1,000",
    params={"n": 20_000, "inputs": "records"},
    quick={"n": 5_000},
)

_TEXTS = Scenario(
    name="map.texts",
    title="{n:,} strings of 100 characters through map, in order, on two warm containers",
    contenders=(_ours("throughput", "shout"), *_chunked()),
    metrics=_RATE,
    baseline="actor calls of 1,000",
    params={"n": 100_000, "inputs": "texts"},
    quick={"n": 20_000},
)

_FROM_ZERO = Scenario(
    name="map.from-zero",
    title="{n:,} ints through map of a bare @app.function(), no container running",
    contenders=(
        _ours("from_zero", "double_bare"),
        Contender(
            "bare actor start",
            "baselines.map:actor_start",
            host="ray actor",
            kind="ray",
            shows=("baselines.map:Worker",),
        ),
    ),
    metrics=(
        Metric("from zero", "s"),
        Metric("second map", "s"),
        Metric("two warm", "s"),
        Metric("app start", "s"),
        Metric("start", "s"),
    ),
    baseline=None,
    targets=(
        Target(
            "from zero at most one bare actor start and 1.5 times the warm map (share of that sum)",
            lambda f: (
                f.median("raymodal", "from zero")
                / (f.median("bare actor start", "start") + 1.5 * f.median("raymodal", "two warm"))
            ),
            at_most=1.0,
        ),
    ),
    params={"n": 100_000},
    quick={"n": 20_000},
)

_MILLION = Scenario(
    name="map.generator",
    title="{n:,} ints from a generator, results consumed as they come",
    contenders=(
        _ours("generator", "double"),
        Contender(
            "actor calls of 1,000",
            "baselines.map:generator_actors",
            host="ray actor",
            kind="ray",
            shows=("baselines.map:Worker", "baselines.map:consume"),
        ),
    ),
    metrics=(Metric("rate", "inputs/s", "higher"), Metric("growth", "MiB")),
    baseline="actor calls of 1,000",
    targets=(
        Target(
            "the caller grows by at most 150 MiB", lambda f: f.median("raymodal", "growth"), at_most=150, unit="MiB"
        ),
    ),
    # The same in a quick run: it takes seconds, and fewer inputs would say nothing about memory.
    params={"n": 1_000_000},
    max_rounds=3,
)


def _nap_contenders() -> tuple[Contender, ...]:
    return (
        _ours("naps", "nap"),
        Contender(
            "ActorPool",
            "baselines.map:nap_actor_pool",
            host="ray actor pool",
            kind="ray",
            shows=("baselines.map:watch_naps",),
        ),
        Contender("Ray Pool, chunks", "baselines.map:nap_ray_pool", host="ray pool", kind="ray"),
        Contender("actor calls, chunks", "baselines.map:nap_chunked_actors", host="ray actor", kind="ray"),
        Contender("multiprocessing.Pool, chunks", "baselines.map:nap_process_pool", host="pool", kind="plain"),
    )


_SLEEP = Scenario(
    name="map.sleep",
    title="{n:,} inputs of 20 ms on two containers",
    contenders=_nap_contenders(),
    metrics=(Metric("share of ideal", "%", "higher"), Metric("all", "s")),
    baseline="ActorPool",
    targets=(
        Target("at least 93 % of the ideal", lambda f: f.median("raymodal", "share of ideal"), at_least=93, unit="%"),
    ),
    # Chunks of one: the best that a fixed size can do here.
    params={"n": 400, "slow": 400, "seconds": 0.02, "chunk": 1},
    max_rounds=3,
)

_STRAGGLER = Scenario(
    name="map.straggler",
    title="one input of {seconds:g} s among {n:,} instant ones: when are all the others there?",
    contenders=_nap_contenders(),
    metrics=(Metric("others", "s"), Metric("all", "s")),
    baseline="ActorPool",
    targets=(Target("all others there within 0.5 s", lambda f: f.median("raymodal", "others"), at_most=0.5, unit="s"),),
    params={"n": 4000, "slow": 1, "seconds": 2.0, "chunk": 100},
    max_rounds=3,
)

_MIXED = Scenario(
    name="map.mixed",
    title="{n:,} inputs, {slow} of them of 50 ms and the others instant",
    contenders=_nap_contenders(),
    metrics=(Metric("share of ideal", "%", "higher"), Metric("all", "s")),
    baseline="actor calls, chunks",
    params={"n": 4000, "slow": 40, "seconds": 0.05, "chunk": 100},
    max_rounds=3,
)

SCENARIOS = (_INTS, _RECORDS, _TEXTS, _FROM_ZERO, _MILLION, _SLEEP, _STRAGGLER, _MIXED)
