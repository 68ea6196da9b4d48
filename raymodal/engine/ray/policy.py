"""Modal's autoscaler for Ray Serve: a policy for any Serve deployment, with or without the rest of raymodal.

```python
from ray import serve
from raymodal.engine.ray.policy import deployment_options

@serve.deployment(**deployment_options(max_containers=8, scaledown_window=60, max_inputs=2))
class Model: ...
```

Or by name, where AutoscalingConfig is written by hand (a config file, say), with `policy_function:
raymodal.engine.ray.policy:ModalAutoscalingPolicy` and Modal's names in `policy_kwargs`. docs/serve.md shows both.

What Serve keeps to itself, and no policy can change (Ray 2.60, `ray/serve/autoscaling_policy.py`):

- From zero it starts `upscaling_factor` replicas (1 if unset) without asking, however many requests wait; it asks again once
  one of them is ready.
- To zero it goes by way of one: n, 1, 0, on two turns of its loop, 0.1 s apart.
- Which replica ends is its choice: first those not yet running, then the newest on the node with the fewest. It may be a busy one.
  It gets no new requests and may finish those it has, for `graceful_shutdown_timeout_s`; then it is killed.
- It shows how many requests wait and run, as sampled by handles, and not how many came. A request shorter than the time between two
  samples (0.1 s, see `logic.serve.LOOK_BACK_S`) may go unseen, and then does not prolong the window.
- Policies run inside its control loop, in which an error of one application's policy keeps the others from being looked at;
  one in a policy's constructor makes the deploy wait for ever and `serve.status()` fail for all (tried). So no error leaves the policy:
  the last target is kept, and the reason is in the log of Serve's controller. `autoscaling_config` and `deployment_options`
  raise at once, where the user is.

This module is sent to Serve's controller by value and what it imports is found there by name: raymodal must be installed
where the controller runs. It is imported without Ray.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

from raymodal._declare import check_scaling
from raymodal.exception import InvalidError
from raymodal.logic.autoscale import DEFAULT_SCALEDOWN_S, Rules, decide
from raymodal.logic.serve import Memory, Seen, observed, paced, scaling_options, told
from raymodal.partial_function import check_concurrency

_POLICY = "raymodal.engine.ray.policy:ModalAutoscalingPolicy"
_MAX_TIMEOUT_S = 86_400
_CORES_EVERY_S = 30.0
_MOST_REASONS = 20


class ModalAutoscalingPolicy:
    """Serve's `policy_function`: calls `logic.autoscale.decide` with what Serve shows.

    What is not given is taken from the deployment's own `AutoscalingConfig` (`min_replicas`, `max_replicas`,
    `target_ongoing_requests`), so that nothing need be written twice. Serve enforces its own bounds in any case. Serve makes a
    new object at each deploy: windows then begin anew. Values that are wrong or contradict each other leave the number of
    replicas to Serve's bounds; see the module for how they are told.

    Args:
        min_containers, max_containers: bounds, inside those of Serve.
        buffer_containers: more than needed, while there is work.
        scaledown_window: seconds for which an idle replica is kept, 2 to 3600; 60 by default.
        max_inputs: requests that a replica takes at once (`max_ongoing_requests`).
        target_inputs: requests per replica that are aimed at; `max_inputs` by default.
        starts_at_once: replicas that may start at a time; the cluster's CPUs by default.
    """

    clock: Callable[[], float] = staticmethod(time.monotonic)

    def __init__(
        self,
        *,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: int | None = None,
        max_inputs: int | None = None,
        target_inputs: int | None = None,
        starts_at_once: int | None = None,
        **unknown: Any,
    ) -> None:
        self._problem: Exception | None = None
        self._given = Rules()
        self._at_once: int | None = None
        try:
            if unknown:
                raise InvalidError(f"{', '.join(unknown)}: no parameter of the policy")
            self._given = checked_rules(
                min_containers, max_containers, buffer_containers, scaledown_window, max_inputs, target_inputs
            )
            self._at_once = _count("starts_at_once", starts_at_once)
        except Exception as error:  # noqa: BLE001 - see the module: Serve has no answer to it
            self._problem = error
        self._has_target = max_inputs is not None or target_inputs is not None
        self._memory = Memory()
        self._cores = 1
        self._cores_at: float | None = None
        self._reasons: set[str] = set()
        if not self._at_once:
            self._known_cores(self.clock())

    def __call__(self, ctx: Any) -> tuple[float, dict[str, Any]]:
        """How many replicas. Does not raise, and waits for nothing.

        Args:
            ctx: Serve's `AutoscalingContext`.

        Returns:
            what Serve, with its factors, turns into the target; no state, as that is kept here.
        """
        try:
            return self._target(ctx, self.clock()), {}
        except Exception as error:  # noqa: BLE001 - see the module: it would stop the autoscaling of other applications
            self._say_once(ctx, error)
            return self._unchanged(ctx), {}

    def _target(self, ctx: Any, now: float) -> float:
        if self._problem is not None:
            raise self._problem
        seen = Seen(ctx.current_num_replicas, ctx.target_num_replicas, ctx.total_num_requests)
        load, self._memory = observed(seen, self._memory, now)
        wanted = decide(self._rules(ctx), load, now).target
        if wanted > load.containers:
            wanted = paced(wanted, load, self._memory, self._at_once or self._known_cores(now), now)
        return _told(ctx, wanted)

    def _rules(self, ctx: Any) -> Rules:
        """What was given, inside Serve's bounds, which follow `target_capacity` too."""
        given = self._given
        most = ctx.capacity_adjusted_max_replicas
        return Rules(
            min_containers=max(given.min_containers, ctx.capacity_adjusted_min_replicas),
            max_containers=min(given.max_containers or most, most),
            buffer_containers=given.buffer_containers,
            scaledown_window=given.scaledown_window,
            target_inputs=given.target_inputs
            if self._has_target
            else max(1, int(ctx.config.get_target_ongoing_requests())),
        )

    def _unchanged(self, ctx: Any) -> float:
        try:
            return _told(ctx, ctx.target_num_replicas)
        except Exception:  # noqa: BLE001 - as above
            return int(ctx.target_num_replicas)

    def _say_once(self, ctx: Any, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        if reason in self._reasons or len(self._reasons) >= _MOST_REASONS:
            return
        self._reasons.add(reason)
        # Serve's own log, which its users read; ours has no handler in Serve's controller.
        logging.getLogger("ray.serve").error(
            "The autoscaling policy of %r in app %r failed and keeps the present number of replicas: %s",
            getattr(ctx, "deployment_name", "?"),
            getattr(ctx, "app_name", "?"),
            reason,
            exc_info=error,
        )

    def _known_cores(self, now: float) -> int:
        """The cluster's CPUs by the last answer; asked in a thread, since the control loop must not wait."""
        if self._cores_at is None or not 0 <= now - self._cores_at < _CORES_EVERY_S:
            self._cores_at = now
            threading.Thread(target=self._ask_for_cores, name="raymodal-cores", daemon=True).start()
        return self._cores

    def _ask_for_cores(self) -> None:
        ray = sys.modules.get("ray")  # loaded wherever Serve is
        try:
            # Unconnected, the question would start a Ray.
            if ray is not None and ray.is_initialized():
                self._cores = max(1, int(ray.cluster_resources().get("CPU", 1)))
        except Exception:  # noqa: BLE001 - the last answer stands
            return


def autoscaling_config(
    *,
    min_containers: int | None = None,
    max_containers: int | None = None,
    buffer_containers: int | None = None,
    scaledown_window: int | None = None,
    max_inputs: int | None = None,
    target_inputs: int | None = None,
    starts_at_once: int | None = None,
) -> Any:
    """Serve's whole `AutoscalingConfig` for Modal's parameters, which are those of `ModalAutoscalingPolicy`.

    `max_containers` is 100 if not given, because Serve needs a number. `max_inputs` is 1 if not given, as in Modal;
    Serve's `max_ongoing_requests` must be the same, which `deployment_options` sees to.

    Raises:
        InvalidError: values contradict each other.
        TypeError, ValueError: no whole number; a negative one.
    """
    rules = checked_rules(
        min_containers,
        max_containers,
        buffer_containers,
        scaledown_window,
        1 if max_inputs is None else max_inputs,
        target_inputs,
    )
    given = {
        "buffer_containers": rules.buffer_containers,
        "scaledown_window": int(rules.scaledown_window),
        "target_inputs": rules.target_inputs,
        "starts_at_once": _count("starts_at_once", starts_at_once),
    }
    kwargs = {name: value for name, value in given.items() if value}
    # Once everything is checked: importing ray.serve takes seconds.
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    with warnings.catch_warnings():
        # Of `metrics_interval_s`, whose named successor is declared in Ray 2.60 and read nowhere.
        warnings.simplefilter("ignore", DeprecationWarning)
        return AutoscalingConfig(
            policy=AutoscalingPolicy(policy_function=_POLICY, policy_kwargs=kwargs), **scaling_options(rules)
        )


def deployment_options(*, max_inputs: int | None = None, timeout: float = 300, **scaling: Any) -> dict[str, Any]:
    """Everything that Modal's parameters say of a deployment, for `@serve.deployment(**deployment_options(...))`.

    Args:
        max_inputs: requests that a replica takes at once; 1 by default.
        timeout: seconds that a request may take. Serve knows no such limit; here it is how long a replica that is stopped may
            finish what it runs. Serve's own 20 s would kill longer requests whenever it scales down.
        scaling: the other parameters of `autoscaling_config`.

    Raises:
        InvalidError, TypeError, ValueError: see `autoscaling_config`.
    """
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise InvalidError(f"timeout={timeout!r} is not a number of seconds")
    if not 1 <= timeout <= _MAX_TIMEOUT_S:
        raise InvalidError(f"timeout={timeout} must be between 1 and {_MAX_TIMEOUT_S} seconds")
    return {
        "max_ongoing_requests": 1 if max_inputs is None else max_inputs,
        "graceful_shutdown_timeout_s": float(timeout),
        "autoscaling_config": autoscaling_config(max_inputs=max_inputs, **scaling),
    }


def checked_rules(
    min_containers: int | None,
    max_containers: int | None,
    buffer_containers: int | None,
    scaledown_window: int | None,
    max_inputs: int | None,
    target_inputs: int | None,
) -> Rules:
    """Modal's parameters, checked as a decorator's are, and against each other.

    Raises:
        InvalidError, TypeError, ValueError: see `autoscaling_config`.
    """
    check_scaling(min_containers, max_containers, buffer_containers, scaledown_window)
    if max_containers and buffer_containers and buffer_containers > max_containers:
        raise InvalidError(f"buffer_containers={buffer_containers} is greater than max_containers={max_containers}")
    _count("max_inputs", max_inputs)
    _count("target_inputs", target_inputs)
    check_concurrency(max_inputs, target_inputs)
    return Rules(
        min_containers=min_containers or 0,
        max_containers=max_containers or None,
        buffer_containers=buffer_containers or 0,
        scaledown_window=DEFAULT_SCALEDOWN_S if scaledown_window is None else scaledown_window,
        target_inputs=target_inputs or max_inputs or 1,
    )


def _count(name: str, value: int | None) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise InvalidError(f"{name}={value!r} must be a whole number above 0")
    return value


def _told(ctx: Any, wanted: int) -> float:
    config = ctx.config
    return told(wanted, ctx.current_num_replicas, config.get_upscaling_factor(), config.get_downscaling_factor())
