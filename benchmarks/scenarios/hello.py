"""How long does a whole program take, and the command line itself?"""

from __future__ import annotations

from ..model import Contender, Metric, Scenario, Target

_SECONDS = (Metric("seconds", "s"),)
_HELLO = ("baselines.hello:program_round",)

_RUN = Scenario(
    name="hello.run",
    title="a hello program as a process of its own, on a Ray that it starts",
    contenders=(
        Contender("raymodal run", "ours.hello:run_program", host="programs", kind="plain", shows=_HELLO),
        Contender("bare Ray program", "baselines.hello:bare_program", host="programs", kind="plain", shows=_HELLO),
    ),
    metrics=_SECONDS,
    baseline="bare Ray program",
    targets=(
        Target(
            "at most 0.6 times the bare Ray program",
            lambda f: f.ratio("raymodal run", "seconds", "bare Ray program"),
            at_most=0.6,
            unit="times",
        ),
    ),
)

_CLUSTER = Scenario(
    name="hello.cluster",
    title="the same against a cluster that runs already",
    contenders=(
        Contender("raymodal run", "ours.hello:run_program_on_cluster", host="programs", kind="plain", shows=_HELLO),
        Contender(
            "bare Ray program",
            "baselines.hello:bare_program_on_cluster",
            host="programs",
            kind="plain",
            shows=_HELLO,
        ),
    ),
    metrics=_SECONDS,
    baseline="bare Ray program",
    targets=(Target("less than 3 s", lambda f: f.median("raymodal run", "seconds"), at_most=3.0, unit="s"),),
)

_IMPORT = Scenario(
    name="hello.import",
    title="import in a fresh interpreter",
    contenders=(
        Contender("import raymodal", "ours.hello:import_raymodal", host="programs", kind="plain"),
        Contender("import ray", "baselines.hello:import_ray", host="programs", kind="plain"),
    ),
    metrics=_SECONDS,
    baseline="import ray",
    targets=(Target("less than 0.2 s", lambda f: f.median("import raymodal", "seconds"), at_most=0.2, unit="s"),),
    params={"n": 5},
    quick={"n": 2},
)

_HELP = Scenario(
    name="hello.help",
    title="raymodal --help",
    contenders=(
        Contender("raymodal --help", "ours.hello:help_page", host="programs", kind="plain"),
        Contender("python -c pass", "baselines.hello:python_pass", host="programs", kind="plain"),
    ),
    metrics=_SECONDS,
    baseline="python -c pass",
    targets=(Target("less than 0.4 s", lambda f: f.median("raymodal --help", "seconds"), at_most=0.4, unit="s"),),
    params={"n": 5},
    quick={"n": 2},
)

SCENARIOS = (_IMPORT, _HELP, _RUN, _CLUSTER)
