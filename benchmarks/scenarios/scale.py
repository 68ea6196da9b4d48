"""How soon are there as many containers as the work needs?"""

from __future__ import annotations

from ..model import Contender, Metric, Scenario, Target

_SECOND = (Metric("first", "s"), Metric("second", "s"), Metric("last", "s"))


def _serve(name: str, session: str, *shows: str, **params: float) -> Contender:
    """On one Serve for all of them, whichever policy they have, each time as an application of its own."""
    module = session.partition(":")[0]
    shown = tuple(f"{module}:{show}" if ":" not in show else show for show in shows)
    return Contender(name, session, host="serve", kind="ray", shows=shown, params=params)


_FROM_ZERO = Scenario(
    name="scale.from-zero",
    title="{n} inputs of {seconds:g} s on at most {most} containers, none running",
    contenders=(
        Contender("raymodal", "ours.scale:from_zero", host="raymodal", kind="raymodal", shows=("ours.scale:nap",)),
        Contender(
            "raymodal, none kept ready",
            "ours.scale:from_zero_forked",
            host="raymodal forked",
            kind="raymodal",
            shows=("ours.scale:nap",),
        ),
        Contender(
            "bare actors, by hand",
            "baselines.scale:actors",
            host="ray actor",
            kind="ray",
            shows=("baselines.scale:Napper",),
        ),
        _serve("Serve, raymodal's policy", "ours.scale:serve", "policy", "baselines.scale:all_through_serve"),
        _serve("Serve, tuned", "baselines.scale:serve_tuned", "own_policy", "all_through_serve", "deployed"),
        _serve("Serve, its defaults", "baselines.scale:serve_defaults", "own_policy", "all_through_serve"),
    ),
    metrics=(Metric("all", "s"), Metric("serving", "containers", better="higher")),
    baseline="bare actors, by hand",
    targets=(
        Target(
            "at most 1.1 times bare actors driven by hand",
            lambda f: f.ratio("raymodal", "all", "bare actors, by hand"),
            at_most=1.1,
            unit="times",
        ),
        Target(
            "the same when each container is forked as it is asked for",
            lambda f: f.ratio("raymodal, none kept ready", "all", "bare actors, by hand"),
            at_most=1.1,
            unit="times",
        ),
        Target("all eight containers serve", lambda f: f.median("raymodal", "serving"), at_least=8, unit="containers"),
    ),
    params={"n": 40, "seconds": 1.0, "most": 8, "pause": 1.0},
    quick={"n": 16},
    max_rounds=3,
)


def _plugin(name: str, title: str, warm: int, factor: float, *more: Contender) -> Scenario:
    return Scenario(
        name=name,
        title=title,
        contenders=(
            _serve("raymodal's policy", "ours.scale:second", "policy", "baselines.scale:until_the_second"),
            *more,
            _serve("Serve's, tuned", "baselines.scale:second_tuned", "own_policy", "until_the_second", "deployed"),
            _serve(
                "Serve's, tuned for this burst",
                "baselines.scale:second_tuned_with_factor",
                "own_policy",
                "until_the_second",
                factor=factor,
            ),
            _serve("Serve's, its defaults", "baselines.scale:second_defaults", "own_policy", "until_the_second"),
        ),
        metrics=_SECOND,
        baseline="Serve's, tuned",
        targets=(
            Target(
                "the second replica answers in at most half the time of Serve's own policy, tuned",
                lambda f: f.ratio("raymodal's policy", "second", "Serve's, tuned"),
                at_most=0.5,
                unit="times",
            ),
        ),
        # Short requests: what is measured is when a replica is there, not how long its first request takes.
        params={"callers": 40, "seconds": 0.5, "most": 8, "warm": warm, "cap": 60.0, "pause": 1.0},
        max_rounds=3,
    )


_PLUGIN = _plugin(
    "scale.serve-plugin",
    "{callers} callers all at once, requests of {seconds:g} s, one replica running: when do others answer? (cap: {cap:g} s)",
    1,
    # 5 % of what is missing: two replicas at a time, as it happens.
    0.05,
)

_PLUGIN_FROM_ZERO = _plugin(
    "scale.serve-plugin-zero",
    "{callers} callers all at once, requests of {seconds:g} s, no replica running: when do they answer? (cap: {cap:g} s)",
    0,
    # Two from zero.
    2.0,
    _serve("raymodal's, a buffer of one", "ours.scale:second_with_buffer", "policy"),
)

SCENARIOS = (_FROM_ZERO, _PLUGIN, _PLUGIN_FROM_ZERO)
