"""What does one input of many cost, and does one that is slow hold up the others?"""

from __future__ import annotations

from ..model import Contender, Metric, Scenario, Target

_RATE = (Metric("rate", "inputs/s", "higher"),)
_TIMED = ("baselines.map:_throughput", "timing:time_inputs")
_WORKER = ("baselines.map:Worker", "baselines.map:_workers", *_TIMED)


def _ours(session: str, function: str, *shows: str) -> Contender:
    shown = (f"ours.map:{function}", *shows)
    return Contender("raymodal", f"ours.map:{session}", host="raymodal", kind="raymodal", shows=shown)


def _ray(name: str, session: str, host: str, shows: tuple[str, ...] = (), **params: int) -> Contender:
    return Contender(name, f"baselines.map:{session}", host=host, kind="ray", shows=shows, params=params)


def _pool(name: str, session: str, shows: tuple[str, ...] = ()) -> Contender:
    return Contender(name, f"baselines.map:{session}", host="pool", kind="plain", shows=shows)


def _throughput(function: str) -> Contender:
    return _ours("throughput", function, "timing:time_inputs")


def _chunked() -> tuple[Contender, ...]:
    """The baselines that send many inputs at a time."""
    return (
        _ray("Ray Pool.map", "ray_pool", "ray pool", _TIMED),
        _ray("actor calls of 1,000", "chunked_actors", "ray actor", _WORKER),
        _ray("tasks of 1,000", "chunked_tasks", "ray tasks", _TIMED),
        _pool("ProcessPoolExecutor.map", "process_pool", _TIMED),
    )


_INTS = Scenario(
    name="map.ints",
    title="{n:,} ints through map, in order, on two warm containers",
    contenders=(
        _throughput("double"),
        # About a thousand inputs a second: the full count would take minutes and tell nothing more.
        _ray("ActorPool.map", "actor_pool", "ray actor pool", _WORKER, n=2000),
        _ray("tasks of one", "tasks", "ray tasks", _TIMED, n=5000),
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


def _in_order(inputs: str, title: str, function: str, n: int, quick: int) -> Scenario:
    return Scenario(
        name=f"map.{inputs}",
        title=f"{{n:,}} {title} through map, in order, on two warm containers",
        contenders=(_throughput(function), *_chunked()),
        metrics=_RATE,
        baseline="actor calls of 1,000",
        params={"n": n, "inputs": inputs},
        quick={"n": quick},
    )


_RECORDS = _in_order("records", "dicts of 1 KB", "touch", 20_000, quick=5_000)
_TEXTS = _in_order("texts", "strings of 100 characters", "shout", 100_000, quick=20_000)

_FROM_ZERO = Scenario(
    name="map.from-zero",
    title="{n:,} ints through map of a bare @app.function(), no container running",
    contenders=(
        _ours("from_zero", "double_bare"),
        _ray("bare actor start", "actor_start", "ray actor", ("baselines.map:Worker",)),
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
        _ray(
            "actor calls of 1,000",
            "generator_actors",
            "ray actor",
            ("baselines.map:Worker", "baselines.map:consume"),
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
        _ray("ActorPool", "nap_actor_pool", "ray actor pool", ("baselines.map:watch_naps",)),
        _ray("Ray Pool, chunks", "nap_ray_pool", "ray pool"),
        _ray("actor calls, chunks", "nap_chunked_actors", "ray actor"),
        _pool("multiprocessing.Pool, chunks", "nap_process_pool"),
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
