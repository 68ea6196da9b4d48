"""What do several inputs at once cost?"""

from __future__ import annotations

from ..model import Contender, Figures, Metric, Params, Scenario, Target

_LATENCY = (Metric("p50", "ms"), Metric("p99", "ms"))
_RATE = (Metric("rate", "/s", better="higher"),)
CAPACITY = 320  # batches of 32 in 100 ms


def _ours(session: str, shows: str) -> Contender:
    return Contender(
        "raymodal",
        f"ours.inputs:{session}",
        host="raymodal",
        kind="raymodal",
        shows=(f"ours.inputs:{shows}", "timing:time_inputs"),
    )


def _share(ideal: float, bare: str) -> object:
    """Of the ideal rate, or of what a bare actor reaches, whichever is less."""

    def measure(figures: Figures) -> float:
        return figures.median("raymodal", "rate") / min(ideal, figures.median(bare, "rate"))

    return measure


def _concurrent(form: str, at_once: int, n: int, bare: str, shows: str, actor: str) -> Scenario:
    ideal = at_once / 0.05
    return Scenario(
        name=f"inputs.{form}",
        title=f"{{n:,}} inputs of 50 ms, {at_once} at once in one container, as {form}",
        contenders=(
            _ours("concurrent", shows),
            Contender(
                bare,
                "baselines.inputs:bare_actor",
                host="ray actor",
                kind="ray",
                shows=(f"baselines.inputs:{actor}",),
            ),
        ),
        metrics=_RATE,
        baseline=bare,
        targets=(
            Target(
                f"at least 90 % of {ideal:g} inputs/s or of the bare actor, whichever is less",
                _share(ideal, bare),  # type: ignore[arg-type]
                at_least=0.9,
                unit="of it",
            ),
        ),
        params={"form": form, "at_once": at_once, "n": n},
        quick={"n": n // 4},
    )


def _batched(rate: int, extra: tuple[Target, ...] = ()) -> Scenario:
    # serve.batch does not keep up with any of these rates, so its figures grow with the length of the run.
    params: Params = {"rate": rate, "seconds": 10.0, "n": 0}
    return Scenario(
        name=f"inputs.batched_{rate}",
        title=f"batches of at most 32 in 100 ms, wait 10 ms: {rate} calls/s arrive at random",
        contenders=(
            _ours("batched", "batch"),
            Contender("serve.batch", "baselines.inputs:serve_batch", host="serve", kind="ray"),
        ),
        metrics=_LATENCY,
        baseline="serve.batch",
        targets=(
            Target("p50 at most 250 ms", lambda f: f.median("raymodal", "p50"), at_most=250, unit="ms"),
            Target("p99 at most 400 ms", lambda f: f.median("raymodal", "p99"), at_most=400, unit="ms"),
            *extra,
        ),
        params=params,
        quick={},
        max_rounds=2,
    )


_FULL = Scenario(
    name="inputs.batched_full",
    title="batches of at most 32 in 100 ms at full load: {n:,} inputs of one map",
    contenders=(_ours("batched", "batch"),),
    metrics=_RATE,
    baseline=None,
    targets=(
        Target(
            f"at least 95 % of {CAPACITY} inputs/s",
            lambda f: f.median("raymodal", "rate") / CAPACITY,
            at_least=0.95,
            unit="of it",
        ),
    ),
    params={"rate": 0, "seconds": 0.0, "n": 6400},
    quick={"n": 3200},
)

SCENARIOS = (
    _concurrent("tasks", 100, 8000, "bare async actor", "anap", "Async"),
    _concurrent("threads", 10, 1000, "bare threaded actor", "nap", "Threaded"),
    _batched(50),
    _batched(
        150,
        (
            Target(
                "p50 at least 50 times lower than serve.batch",
                lambda f: f.median("serve.batch", "p50") / f.median("raymodal", "p50"),
                at_least=50,
                unit="times",
            ),
        ),
    ),
    _batched(250),
    _FULL,
)
