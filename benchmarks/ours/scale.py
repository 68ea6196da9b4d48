"""From no container, or one, to many: `f.map`, and Modal's autoscaler as the policy of a plain Serve application."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import raymodal as modal

from .. import work
from ..baselines.scale import all_through_serve, ended, nap_here, until_the_second
from ..model import Params, Round

app = modal.App("bench-scale")


@app.function(cpu=0.1, max_containers=8)
def nap(seconds: float) -> int:
    """Sleep; this container's pid."""
    return nap_here(seconds)


@contextmanager
def from_zero(params: Params) -> Iterator[Round]:
    """`list(f.map(inputs))` of an app without containers."""
    yield _from_zero(params)


@contextmanager
def from_zero_forked(params: Params) -> Iterator[Round]:
    """The same with no worker kept ready: each container is forked when it is asked for."""
    from raymodal import config

    config.override(warm_workers=0)
    yield _from_zero(params)


def _from_zero(params: Params) -> Round:
    n = params["n"]
    work.check([params["most"]], [8])  # as the function says

    def round_() -> dict[str, float]:
        with app.run():
            time.sleep(params["pause"])
            start = time.perf_counter()
            pids = list(nap.map([params["seconds"]] * n))
            took = time.perf_counter() - start
        work.check([len(pids)], [n])
        return {"all": took, "serving": len(set(pids))}

    round_()
    return round_


def policy(params: Params, **changes: Any) -> dict[str, Any]:
    """A deployment's options for Modal's autoscaler: one request at a time."""
    from raymodal.engine.ray.policy import deployment_options

    return deployment_options(
        **{
            "min_containers": params.get("warm", 0),
            "max_containers": params["most"],
            "scaledown_window": 60,
            "timeout": 60,
            **changes,
        }
    )


@contextmanager
def serve(params: Params) -> Iterator[Round]:
    """The policy as it comes."""
    with ended():
        yield all_through_serve(params, policy(params))


@contextmanager
def second(params: Params) -> Iterator[Round]:
    """The policy as it comes."""
    with ended():
        yield until_the_second(params, policy(params))


@contextmanager
def second_with_buffer(params: Params) -> Iterator[Round]:
    """With `buffer_containers=1`, two start from zero."""
    with ended():
        yield until_the_second(params, policy(params, buffer_containers=1))
