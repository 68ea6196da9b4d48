"""The policy that Ray Serve calls, without Serve: what it takes from Serve's context, and what it does when something is wrong."""

from __future__ import annotations

import logging
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from raymodal.engine.ray import policy as module
from raymodal.engine.ray.policy import ModalAutoscalingPolicy, autoscaling_config, checked_rules, deployment_options
from raymodal.exception import InvalidError


class Clock:
    """Moves only when the test says."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def context(ready: int = 1, target: int | None = None, requests: float = 0.0, **changes: Any) -> Any:
    """Serve's, as far as the policy looks at it."""
    config = SimpleNamespace(
        get_upscaling_factor=lambda: 1.0,
        get_downscaling_factor=lambda: 1.0,
        get_target_ongoing_requests=lambda: changes.pop("target_ongoing_requests", 1.0),
    )
    fields = {
        "deployment_name": "Model",
        "app_name": "app",
        "current_num_replicas": ready,
        "target_num_replicas": ready if target is None else target,
        "total_num_requests": requests,
        "capacity_adjusted_min_replicas": 0,
        "capacity_adjusted_max_replicas": 8,
        "config": config,
    }
    return SimpleNamespace(**{**fields, **changes})


def policy(**given: Any) -> tuple[ModalAutoscalingPolicy, Clock]:
    """With a clock of its own, and cores enough."""
    made = ModalAutoscalingPolicy(**{"starts_at_once": 100, **given})
    made.clock = clock = Clock()
    return made, clock


def test_it_scales_up_at_once_and_down_after_the_window() -> None:
    """As `decide` says."""
    scale, clock = policy(scaledown_window=10)

    assert scale(context(requests=5)) == (5, {})
    assert scale(context(ready=5, requests=1))[0] == 5
    clock.now += 9.9
    assert scale(context(ready=5, requests=1))[0] == 5
    clock.now += 0.1
    assert scale(context(ready=5, requests=1))[0] == 1


@pytest.mark.parametrize(
    ("given", "changes", "expected"),
    [
        ({}, {}, 8),
        ({"max_containers": 3}, {}, 3),
        ({"max_containers": 20}, {}, 8),
        ({}, {"capacity_adjusted_max_replicas": 4}, 4),
        ({}, {"target_ongoing_requests": 5.0}, 4),
        ({"target_inputs": 10}, {"target_ongoing_requests": 5.0}, 2),
        ({"max_inputs": 4}, {"target_ongoing_requests": 5.0}, 5),
        ({"target_inputs": 10, "buffer_containers": 3}, {}, 5),
    ],
)
def test_what_is_not_given_is_serves(given: dict[str, Any], changes: dict[str, Any], expected: int) -> None:
    """Twenty requests, inside Serve's bounds whatever was given."""
    scale, _ = policy(**given)

    assert scale(context(requests=20, **changes))[0] == expected


@pytest.mark.parametrize(
    ("given", "changes"), [({"min_containers": 3}, {}), ({}, {"capacity_adjusted_min_replicas": 3})]
)
def test_the_minimum_stays(given: dict[str, Any], changes: dict[str, Any]) -> None:
    """Without any request and after the window."""
    scale, clock = policy(scaledown_window=2, **given)

    scale(context(ready=5, **changes))
    clock.now += 5

    assert scale(context(ready=5, **changes))[0] == 3


def test_an_error_keeps_the_last_target_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not at each of ten looks a second; another reason is logged again, and when it works again it scales."""
    scale, _ = policy()
    broken = context(ready=2, target=3)
    del broken.total_num_requests
    other = context(ready=2, target=3, requests="many")

    with caplog.at_level(logging.ERROR, "ray.serve"):
        kept = [scale(look)[0] for look in (broken, broken, other, broken, other)]

    assert kept == [3] * 5
    assert len(caplog.records) == 2
    assert "'Model'" in caplog.text
    assert "total_num_requests" in caplog.records[0].getMessage()
    assert scale(context(ready=3, requests=6))[0] == 6


def test_reasons_that_always_differ_do_not_fill_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """Some of them tell enough."""
    scale, _ = policy()
    reasons = iter(range(500))

    class Odd:
        def __ceil__(self) -> int:
            raise ValueError(f"reason {next(reasons)}")

    for _ in range(500):
        assert scale(context(requests=Odd()))[0] == 1

    assert 1 < len(caplog.records) <= 50


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"min_containers": 5, "max_containers": 2}, InvalidError),
        ({"buffer_containers": 3, "max_containers": 2}, InvalidError),
        ({"target_inputs": 5, "max_inputs": 2}, InvalidError),
        ({"scaledown_window": 1}, InvalidError),
        ({"scaledown_window": 2.5}, TypeError),
        ({"max_inputs": 0}, InvalidError),
        ({"target_inputs": -1}, InvalidError),
        ({"starts_at_once": 0}, InvalidError),
        ({"min_containers": -1}, ValueError),
        ({"max_containers": -1}, ValueError),
        ({"buffer_containers": -1}, ValueError),
        ({"min_containers": "2"}, InvalidError),
        ({"scaledown_widow": 60}, TypeError),
    ],
)
def test_wrong_values(given: dict[str, Any], error: type[Exception], caplog: pytest.LogCaptureFixture) -> None:
    """Raised where the user writes them, in Modal's types. In Serve's controller, where an error would hang the deploy, logged."""
    with pytest.raises(error):
        autoscaling_config(**given)
    with pytest.raises(error):
        deployment_options(**given)

    in_controller = ModalAutoscalingPolicy(**given)

    assert in_controller(context(ready=2, requests=9)) == (2, {})
    assert in_controller(context(ready=2, requests=9)) == (2, {})
    assert [next(iter(given)) in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("timeout", [0, -1, 86_401, None, True, "300"])
def test_wrong_timeouts(timeout: Any) -> None:
    """As for a function."""
    with pytest.raises(InvalidError, match="timeout"):
        deployment_options(timeout=timeout)


def test_equal_bounds_are_fine() -> None:
    """What only touches is no contradiction; a maximum of 0 is none, as in Modal."""
    rules = checked_rules(2, 2, 2, 2, 4, 4)

    assert (rules.min_containers, rules.max_containers, rules.buffer_containers, rules.target_inputs) == (2, 2, 2, 4)
    assert checked_rules(0, 0, 1, None, None, None).max_containers is None


def test_the_cluster_is_asked_for_its_cores_in_a_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Serve's control loop does not wait for the answer; the last one serves until then, and is asked for again after a while."""
    answers = iter([2, 5])
    asked: list[threading.Thread] = []

    def ask(self: ModalAutoscalingPolicy) -> None:
        asked.append(threading.current_thread())
        self._cores = next(answers)

    monkeypatch.setattr(ModalAutoscalingPolicy, "_ask_for_cores", ask)
    clock = Clock()
    monkeypatch.setattr(ModalAutoscalingPolicy, "clock", clock)

    scale = ModalAutoscalingPolicy()
    asked[0].join()
    first = scale(context(requests=8))[0]
    clock.now += module._CORES_EVERY_S
    scale(context(requests=8))
    asked[1].join()

    assert (first, scale(context(requests=8))[0]) == (3, 6)
    assert len(asked) == 2
    assert threading.current_thread() not in asked
