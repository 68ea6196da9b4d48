"""How long does a whole program take, and the command line itself?"""

from __future__ import annotations

from ..model import Contender, Metric, Scenario, Target

_SECONDS = (Metric("seconds", "s"),)
_OURS, _BARE = "raymodal run", "bare Ray program"


def _within(text: str, contender: str, seconds: float) -> Target:
    return Target(text, lambda f: f.median(contender, "seconds"), at_most=seconds, unit="s")


def programs(
    name: str, title: str, ours: str, bare: str, targets: tuple[Target, ...] = (), max_rounds: int | None = None
) -> Scenario:
    """The hello program, in raymodal and in bare Ray, each a process of its own."""
    shows = ("baselines.hello:program_round", "baselines.hello:run_checked")
    return Scenario(
        name=name,
        title=title,
        contenders=(
            Contender(_OURS, ours, host="programs", kind="plain", shows=shows),
            Contender(_BARE, bare, host="programs", kind="plain", shows=shows),
        ),
        metrics=_SECONDS,
        baseline=_BARE,
        targets=targets,
        max_rounds=max_rounds,
    )


def _command_line(name: str, title: str, ours: Contender, other: Contender, seconds: float) -> Scenario:
    return Scenario(
        name=name,
        title=title,
        contenders=(ours, other),
        metrics=_SECONDS,
        baseline=other.name,
        targets=(_within(f"less than {seconds:g} s", ours.name, seconds),),
        params={"n": 5},
        quick={"n": 2},
    )


_RUN = programs(
    "hello.run",
    "a hello program as a process of its own, on a Ray that it starts",
    "ours.hello:run_program",
    "baselines.hello:bare_program",
    (
        Target(
            "at most 0.6 times the bare Ray program",
            lambda f: f.ratio(_OURS, "seconds", _BARE),
            at_most=0.6,
            unit="times",
        ),
    ),
)

_CLUSTER = programs(
    "hello.cluster",
    "the same against a cluster that runs already",
    "ours.hello:run_program_on_cluster",
    "baselines.hello:bare_program_on_cluster",
    (_within("less than 3 s", _OURS, 3.0),),
)

_KEPT = programs(
    "hello.kept",
    "the same against a cluster that `raymodal cluster up` keeps; bare Ray against a stock one",
    "ours.hello:run_program_on_kept_cluster",
    "baselines.hello:bare_program_on_cluster",
    (_within("at most 1 s", _OURS, 1.0),),
)

_IMPORT = _command_line(
    "hello.import",
    "import in a fresh interpreter",
    Contender("import raymodal", "ours.hello:import_raymodal", host="programs", kind="plain"),
    Contender("import ray", "baselines.hello:import_ray", host="programs", kind="plain"),
    0.2,
)

_HELP = _command_line(
    "hello.help",
    "raymodal --help",
    Contender("raymodal --help", "ours.hello:help_page", host="programs", kind="plain"),
    Contender("python -c pass", "baselines.hello:python_pass", host="programs", kind="plain"),
    0.4,
)

SCENARIOS = (_IMPORT, _HELP, _RUN, _CLUSTER, _KEPT)
