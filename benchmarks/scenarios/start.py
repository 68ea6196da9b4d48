"""How long until a container is there?"""

from __future__ import annotations

from ..model import Contender, Metric, Scenario, Target
from .hello import programs

_READY = (Metric("ready", "s"),)
_ALL = (Metric("all running", "s"),)
# The rounds behind the sessions, of the same names on both sides.
_FIRST = "first_results"
_AT_ONCE = "all_at_once"


def _ours(name: str, session: str, *shows: str, host: str = "raymodal") -> Contender:
    return Contender(name, f"ours.start:{session}", host=host, kind="raymodal", shows=_of("ours.start", shows))


def _bare(session: str, *shows: str, name: str = "bare actor") -> Contender:
    shown = _of("baselines.start", shows)
    return Contender(name, f"baselines.start:{session}", host="ray actor", kind="ray", shows=shown)


def _of(module: str, names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"{module}:{name}" for name in names)


_ONE = Scenario(
    name="start.one",
    title="one container, from nothing to its first result, one after the other",
    contenders=(
        _ours("raymodal", "one", "answer", _FIRST),
        _ours("raymodal, none kept ready", "one_forked", "answer", _FIRST, host="raymodal forked"),
        _ours(
            "raymodal, with a secret and an image's variables", "one_with_variables", "answer_with_variables", _FIRST
        ),
        _bare("one", "Worker", _FIRST),
        _bare("one_with_variables", "Worker", _FIRST, name="bare actor with env_vars"),
    ),
    metrics=_READY,
    baseline="bare actor",
    targets=(
        Target(
            "at most 0.3 times a bare actor, forked when asked for",
            lambda f: f.ratio("raymodal, none kept ready", "ready", "bare actor"),
            at_most=0.3,
            unit="times",
        ),
        Target(
            "with a secret and an image's variables no slower than without (within a tenth)",
            lambda f: f.ratio("raymodal, with a secret and an image's variables", "ready", "raymodal"),
            at_most=1.1,
            unit="times",
        ),
    ),
    params={"n": 5, "pause": 1.0},
    quick={"n": 3},
)


def _many(n: int, targets: tuple[Target, ...] = ()) -> Scenario:
    return Scenario(
        name=f"start.{n}",
        title="{n} containers at once, until all are running",
        contenders=(
            _ours("raymodal", "many", "meet", _AT_ONCE),
            _ours("raymodal, none kept ready", "many_forked", "meet", _AT_ONCE, host="raymodal forked"),
            _bare("many", "Worker", _AT_ONCE),
        ),
        metrics=_ALL,
        baseline="bare actor",
        targets=targets,
        params={"n": n, "pause": 1.0},
        max_rounds=5,
    )


_EIGHT = _many(
    8,
    (
        Target(
            "at most 0.35 times bare actors, forked when asked for",
            lambda f: f.ratio("raymodal, none kept ready", "all running", "bare actor"),
            at_most=0.35,
            unit="times",
        ),
    ),
)

_MEMORY = Scenario(
    name="start.memory",
    title="proportional memory (PSS) of one of {n} containers that have answered",
    contenders=(_ours("raymodal", "memory", "meet", _AT_ONCE), _bare("memory", "Worker", _AT_ONCE)),
    metrics=(Metric("PSS", "MiB"),),
    baseline="bare actor",
    targets=(
        Target(
            "at most half of a bare actor's",
            lambda f: f.ratio("raymodal", "PSS", "bare actor"),
            at_most=0.5,
            unit="times",
        ),
    ),
    params={"n": 6, "pause": 1.0},
    max_rounds=3,
)

_BYTECODE = programs(
    "start.no-bytecode",
    "a hello program where Ray's package has no bytecode (uv installs, PYTHONDONTWRITEBYTECODE)",
    "ours.start:hello_without_bytecode",
    "baselines.start:hello_without_bytecode",
    max_rounds=3,
)

_SNAPSHOT = Scenario(
    name="start.snapshot",
    title="numpy, pandas and a table of 200 MB: from nothing to the first result (needs pandas)",
    contenders=(
        _ours("raymodal, memory snapshot", "tables", "Tables", host="raymodal snapshot"),
        _bare("tables", "Tables"),
    ),
    metrics=(Metric("first result", "s"), Metric("private", "MiB")),
    baseline="bare actor",
    targets=(
        Target(
            "at most 0.2 s",
            lambda f: f.median("raymodal, memory snapshot", "first result"),
            at_most=0.2,
            unit="s",
        ),
        Target(
            "the table is shared: less than half of it is the container's own",
            lambda f: f.median("raymodal, memory snapshot", "private"),
            at_most=100,
            unit="MiB",
        ),
    ),
    params={"pause": 1.0},
    max_rounds=5,
)

SCENARIOS = (_ONE, _EIGHT, _many(32), _MEMORY, _SNAPSHOT, _BYTECODE)
