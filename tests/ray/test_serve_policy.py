"""Modal's autoscaler in a plain Serve: what it makes of Serve's own rules, pinned against Serve's code and on a Serve that runs."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raymodal.engine.ray.policy import ModalAutoscalingPolicy, autoscaling_config, deployment_options
from tests.ray.processes import wait_until

pytestmark = [
    pytest.mark.ray,
    pytest.mark.timeout(120),
    # Serve warns of its own deprecated field at every copy of a config, and of newer packages.
    pytest.mark.filterwarnings("ignore"),
]

ROOT = Path(__file__).parents[2]


class Gate:
    """What is deployed: a request waits until it is let go, and says whose process it was."""

    def __call__(self, folder: str, name: str) -> int:
        Path(folder, f"in-{name}").write_text(str(os.getpid()))
        deadline = time.monotonic() + 60
        while not Path(folder, f"go-{name}").exists():
            if time.monotonic() > deadline:
                raise TimeoutError(name)
            time.sleep(0.02)
        return os.getpid()


class Requests:
    """Requests to one deployment, and what Serve says of it."""

    def __init__(self, app: str, handle: Any, folder: Path) -> None:
        self.app = app
        self._handle = handle
        self.folder = folder

    def send(self, *names: str) -> list[Any]:
        return [self._handle.remote(str(self.folder), name) for name in names]

    def let_go(self, *names: str) -> None:
        for name in names:
            (self.folder / f"go-{name}").touch()

    def inside(self) -> list[str]:
        """Requests that a replica has taken."""
        return sorted(path.name[3:] for path in self.folder.glob("in-*"))

    def states(self) -> dict[str, int]:
        """Replicas by state; those that are gone are not in it."""
        from ray import serve

        overview = serve.status().applications[self.app].deployments["Gate"]
        return {str(getattr(state, "value", state)): count for state, count in overview.replica_states.items() if count}

    def running(self) -> int:
        return self.states().get("RUNNING", 0)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Serve on a Ray of this module's own, without a proxy and its port."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ray
        from ray import serve

        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = str(ROOT)  # Serve's controller imports raymodal
        try:
            ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
            serve.start(proxy_location="Disabled")
            yield ray
        finally:
            serve.shutdown()
            ray.shutdown()
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


@pytest.fixture
def deploy(cluster: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Requests]]:
    """`deploy(**options)` runs an app for the rest of the test."""
    from ray import serve

    apps: list[str] = []

    def run(**options: Any) -> Requests:
        name = f"{request.node.name}-{len(apps)}".replace("[", "-").replace("]", "")
        apps.append(name)
        folder = tmp_path / name
        folder.mkdir()
        options = {"ray_actor_options": {"num_cpus": 0.1}, "graceful_shutdown_wait_loop_s": 0.1, **options}
        deployment = serve.deployment(Gate).options(**options)
        return Requests(name, serve.run(deployment.bind(), name=name, route_prefix=None), folder)

    yield run
    for name in apps:
        # What still runs here would hold up the end for its whole grace.
        for i in range(9):
            (tmp_path / name / f"go-{i}").touch()
        serve.delete(name)


def test_up_at_once_and_to_zero_after_the_window(deploy: Any) -> None:
    """From zero Serve starts one however many wait; then as many as are needed; and none is left after the window."""
    requests = deploy(**deployment_options(max_containers=3, scaledown_window=2))
    assert requests.states() == {}

    answers = requests.send("0", "1", "2", "3")
    seen: list[dict[str, int]] = []

    def three_are_in() -> bool:
        seen.append(requests.states())
        return len(requests.inside()) == 3

    wait_until(three_are_in, lambda: seen)
    assert requests.running() == 3
    assert max(sum(states.values()) for states in seen if not states.get("RUNNING")) == 1
    assert max(sum(states.values()) for states in seen) == 3

    requests.let_go("0", "1", "2", "3")
    assert len({answer.result(timeout_s=30) for answer in answers}) == 3
    wait_until(lambda: requests.states() == {}, requests.states)


def test_a_buffer_starts_with_the_first_request(deploy: Any) -> None:
    """Two from zero, before the policy is asked; both go after the window."""
    requests = deploy(**deployment_options(max_containers=3, buffer_containers=1, scaledown_window=2))

    [answer] = requests.send("0")
    seen: list[dict[str, int]] = []

    def two_run() -> bool:
        seen.append(requests.states())
        return bool(seen[-1].get("RUNNING") == 2)

    wait_until(two_run, lambda: seen)
    requests.let_go("0")
    answer.result(timeout_s=30)

    assert 2 in [sum(states.values()) for states in seen if not states.get("RUNNING")]
    assert max(sum(states.values()) for states in seen) == 2
    wait_until(lambda: requests.states() == {}, requests.states)


def test_the_minimum_is_there_from_the_start_and_stays(deploy: Any) -> None:
    """Two requests at a time in one container, a second for the third request; one stays after the window."""
    requests = deploy(**deployment_options(min_containers=1, max_containers=4, max_inputs=2, scaledown_window=2))
    assert requests.running() == 1

    answers = requests.send("0", "1", "2")
    wait_until(lambda: requests.running() == 2 and len(requests.inside()) == 3, requests.states)
    requests.let_go("0", "1", "2")
    assert len({answer.result(timeout_s=30) for answer in answers}) == 2

    wait_until(lambda: requests.states() == {"RUNNING": 1}, requests.states)
    until = time.monotonic() + 2.5  # longer than the window: nothing more may go
    while time.monotonic() < until:
        assert requests.running() == 1
        time.sleep(0.1)


@pytest.mark.parametrize("timeout", [300, 1])
def test_a_replica_that_is_stopped_finishes_within_the_timeout(deploy: Any, timeout: int) -> None:
    """Serve stops the newest one, although it is the other that is idle; what it runs may finish, until the function's timeout."""
    requests = deploy(**deployment_options(max_containers=2, scaledown_window=2, timeout=timeout))
    [older] = requests.send("0")
    wait_until(lambda: requests.inside() == ["0"])
    [newer] = requests.send("1")
    wait_until(lambda: requests.inside() == ["0", "1"])

    requests.let_go("0")
    older.result(timeout_s=30)
    wait_until(lambda: requests.states().get("STOPPING") == 1, requests.states)

    if timeout > 100:
        assert requests.running() == 1
        requests.let_go("1")
        assert newer.result(timeout_s=30) == int((requests.folder / "in-1").read_text())
    else:
        with pytest.raises(Exception, match=r"(?i)died|dead|killed"):
            newer.result(timeout_s=15)  # before Serve's own 20 s are over


def test_wrong_values_in_a_config_harm_nobody(deploy: Any, cluster: Any) -> None:
    """Raised in Serve's controller they would hang the deploy and break `serve.status()`. Here the app runs inside Serve's bounds,
    the log names the reason once, and another app scales."""
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    wrong = {"min_containers": 5, "max_containers": 2}
    bad = deploy(
        max_ongoing_requests=1,
        autoscaling_config=AutoscalingConfig(
            min_replicas=1,
            max_replicas=4,
            target_ongoing_requests=1,
            policy=AutoscalingPolicy(policy_function=ModalAutoscalingPolicy, policy_kwargs=wrong),
        ),
    )
    good = deploy(**deployment_options(max_containers=2, scaledown_window=2))

    bad_answers = bad.send("0", "1")
    good_answers = good.send("0", "1")
    wait_until(lambda: good.inside() == ["0", "1"], good.states)
    for requests in (bad, good):
        requests.let_go("0", "1")
    for answer in [*bad_answers, *good_answers]:
        answer.result(timeout_s=30)

    assert bad.running() == 1
    logs = Path(cluster._private.worker._global_node.get_logs_dir_path(), "serve").glob("controller_*.log")
    said = [line for log in logs for line in log.read_text().splitlines() if "min_containers=5" in line]
    assert len([line for line in said if bad.app in line]) == 1, said


# --- Serve's rules around a policy, by its own code: which numbers it makes of ours


class Wrapped:
    """The policy in Serve's wrapper, as its controller calls it at each turn of its loop."""

    def __init__(self, **given: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from ray.serve import autoscaling_policy, config

        self._context = config.AutoscalingContext
        self.config = autoscaling_config(**given)
        policy = self.config.policy
        made = policy.get_policy()(**{"starts_at_once": 100, **policy.policy_kwargs})
        made.clock = lambda: self.now
        self._call = autoscaling_policy._apply_autoscaling_config(made)
        self._state: dict[str, Any] = {}
        self.now = 0.0

    def __call__(self, running: int, target: int, requests: float) -> int:
        context = self._context(
            deployment_id=None,
            deployment_name="Gate",
            app_name="app",
            current_num_replicas=running,
            target_num_replicas=target,
            running_replicas=[],
            total_num_requests=requests,
            total_queued_requests=None,
            aggregated_metrics=None,
            raw_metrics=None,
            capacity_adjusted_min_replicas=self.config.min_replicas,
            capacity_adjusted_max_replicas=self.config.max_replicas,
            policy_state=self._state,
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=self.now,
            config=self.config,
        )
        wanted, self._state = self._call(context)
        return wanted


@pytest.mark.parametrize(("buffer", "first"), [(0, 1), (2, 3)])
def test_serve_chooses_how_many_start_from_zero(buffer: int, first: int) -> None:
    """One and the buffer, however many requests wait, until one is ready: then all that are needed, its factor notwithstanding."""
    scale = Wrapped(max_containers=20, buffer_containers=buffer)

    assert [scale(0, 0, 9), scale(0, first, 9)] == [first, first]
    assert scale(1, first, 9) == 9 + buffer


def test_to_zero_by_way_of_one() -> None:
    """Both steps at once after the window, without a further delay."""
    scale = Wrapped(scaledown_window=10)
    assert scale(4, 4, 0) == 4

    scale.now = 10.0

    assert scale(4, 4, 0) == 1
    assert scale(1, 1, 0) == 0


def test_a_rise_and_a_fall_have_no_delay_but_the_window() -> None:
    """Serve's defaults are 30 s and ten minutes."""
    scale = Wrapped(scaledown_window=10, buffer_containers=1)

    assert [scale(2, 2, 7), scale(8, 8, 7), scale(8, 8, 3)] == [8, 8, 8]
    scale.now = 10.0
    assert scale(8, 8, 3) == 4


def test_the_config_survives_the_way_to_the_controller() -> None:
    """Serve sends the class by value; what comes out there is a policy of its own module's making, and makes the same decisions."""
    import cloudpickle

    sent = cloudpickle.loads(cloudpickle.dumps(autoscaling_config(max_containers=4, scaledown_window=30, max_inputs=2)))

    assert sent.policy.get_policy().__name__ == "ModalAutoscalingPolicy"
    assert sent.policy.policy_kwargs == {"scaledown_window": 30, "target_inputs": 2}
    assert (sent.min_replicas, sent.max_replicas, sent.target_ongoing_requests) == (0, 4, 2)


def test_what_else_a_deployment_needs() -> None:
    """As many requests at once as inputs, one by default; and the timeout's time to finish, 300 s by default."""
    plain, given = deployment_options(), deployment_options(max_inputs=3, timeout=40)

    assert (plain["max_ongoing_requests"], plain["graceful_shutdown_timeout_s"]) == (1, 300)
    assert (given["max_ongoing_requests"], given["graceful_shutdown_timeout_s"]) == (3, 40)
    assert given["autoscaling_config"].policy.policy_kwargs == {"scaledown_window": 60, "target_inputs": 3}
