"""Contenders without Ray that behave well or badly on purpose: for `raymodal bench selftest` and the tests."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

from ..model import Contender, Metric, Params, Round, Scenario, Target


@contextmanager
def steady(params: Params) -> Iterator[Round]:
    """Always the same figure."""
    yield lambda: {"took": params["figure"]}


@contextmanager
def failing(params: Params) -> Iterator[Round]:
    """Succeeds once, then raises."""
    rounds = iter([{"took": 5.0}])

    def round_() -> dict[str, float]:
        for figures in rounds:
            return figures
        raise RuntimeError("this round failed on purpose")

    yield round_


@contextmanager
def unopened(params: Params) -> Iterator[Round]:
    """Fails before its first round."""
    raise RuntimeError("this session failed on purpose")
    yield dict


@contextmanager
def dying(params: Params) -> Iterator[Round]:
    """Ends its process in the middle of a round."""

    def round_() -> dict[str, float]:
        print("these are my last words", flush=True)
        os._exit(3)

    yield round_


@contextmanager
def hanging(params: Params) -> Iterator[Round]:
    """Never answers, and has a process below it."""

    def round_() -> dict[str, float]:
        subprocess.Popen(["sleep", "600"], start_new_session=True)
        time.sleep(600)
        return {}

    yield round_


def _contender(name: str, **params: float) -> Contender:
    return Contender(name, f"scenarios.selftest:{name.partition(' ')[0]}", host=name, kind="plain", params=params)


_TOOK = (Metric("took", "s"),)

SCENARIOS = (
    Scenario(
        name="selftest.steady",
        title="two contenders, one twice as fast",
        contenders=(_contender("steady", figure=1.0), _contender("steady baseline", figure=2.0)),
        metrics=_TOOK,
        baseline="steady baseline",
        targets=(
            Target("half the baseline", lambda f: f.ratio("steady", "took", "steady baseline"), at_most=0.5),
            Target("a tenth of it", lambda f: f.ratio("steady", "took", "steady baseline"), at_most=0.1),
        ),
    ),
    Scenario(
        name="selftest.failing",
        title="one contender works, the others fail in their own ways",
        contenders=(_contender("steady", figure=1.0), *map(_contender, ("failing", "unopened", "dying"))),
        metrics=_TOOK,
        baseline="unopened",
        targets=(Target("never measured", lambda f: f.ratio("steady", "took", "unopened"), at_most=1.0),),
    ),
    Scenario(
        name="selftest.hanging",
        title="a contender that does not answer",
        contenders=(_contender("steady", figure=1.0), _contender("hanging")),
        metrics=_TOOK,
        baseline=None,
        timeout_s=1.0,
    ),
    Scenario(
        name="selftest.stuck",
        title="the same with patience, to be interrupted",
        contenders=(_contender("steady", figure=1.0), _contender("hanging")),
        metrics=_TOOK,
        baseline=None,
        timeout_s=600.0,
    ),
)
