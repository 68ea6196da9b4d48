"""From no container, or one, to many: bare actors driven by hand, and Ray Serve with its own policy."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from .. import work
from ..model import Params, Round

_names = itertools.count()


class Napper:
    """The actor, and what Serve deploys."""

    def __call__(self, seconds: float) -> int:
        """Sleep; this process's pid."""
        return nap_here(seconds)


def nap_here(seconds: float) -> int:
    """Sleep; this process's pid."""
    work.nap(seconds)
    return os.getpid()


@contextmanager
def actors(params: Params) -> Iterator[Round]:
    """Create the actors, give each an input, and the next one as soon as it answers."""
    import ray

    made = ray.remote(Napper).options(num_cpus=0.1)
    n, seconds = params["n"], params["seconds"]

    def round_() -> dict[str, float]:
        start = time.perf_counter()
        free = [made.remote() for _ in range(params["most"])]
        at_work: dict[Any, Any] = {}
        pids: list[int] = []
        sent = 0
        while len(pids) < n:
            while free and sent < n:
                actor = free.pop()
                at_work[actor.__call__.remote(seconds)] = actor
                sent += 1
            [ref], _ = ray.wait(list(at_work), num_returns=1)
            free.append(at_work.pop(ref))
            pids.append(ray.get(ref))
        took = time.perf_counter() - start
        for actor in free:
            ray.kill(actor)
        time.sleep(params["pause"])
        return {"all": took, "serving": len(set(pids))}

    # Workers that Ray keeps ready are used up first; later starts are what a running program sees.
    round_()
    yield round_


DEFAULTS: dict[str, Any] = {}
TUNED: dict[str, Any] = {
    "upscale_delay_s": 0,
    "downscale_delay_s": 2,
    "metrics_interval_s": 0.1,
    "look_back_period_s": 0.2,
}


def own_policy(params: Params, changes: Mapping[str, Any]) -> dict[str, Any]:
    """A deployment's options for Serve's own policy: one request at a time, and as many replicas as requests."""
    from ray.serve.config import AutoscalingConfig

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the metrics interval is deprecated, but works
        config = AutoscalingConfig(
            min_replicas=params.get("warm", 0),
            max_replicas=params["most"],
            target_ongoing_requests=1,
            **changes,
        )
    return {"max_ongoing_requests": 1, "autoscaling_config": config}


@contextmanager
def serve_defaults(params: Params) -> Iterator[Round]:
    """Serve's own delays and intervals: 30 s up, metrics every 10 s."""
    with ended():
        yield all_through_serve(params, own_policy(params, DEFAULTS))


@contextmanager
def serve_tuned(params: Params) -> Iterator[Round]:
    """No delay, metrics every 0.1 s."""
    with ended():
        yield all_through_serve(params, own_policy(params, TUNED))


@contextmanager
def second_defaults(params: Params) -> Iterator[Round]:
    """Serve's own delays and intervals: 30 s up, metrics every 10 s."""
    with ended():
        yield until_the_second(params, own_policy(params, DEFAULTS))


@contextmanager
def second_tuned(params: Params) -> Iterator[Round]:
    """No delay, metrics every 0.1 s."""
    with ended():
        yield until_the_second(params, own_policy(params, TUNED))


@contextmanager
def second_tuned_with_factor(params: Params) -> Iterator[Round]:
    """The same and an `upscaling_factor` chosen for this very burst."""
    with ended():
        yield until_the_second(params, own_policy(params, {**TUNED, "upscaling_factor": params["factor"]}))


def all_through_serve(params: Params, options: Mapping[str, Any]) -> Round:
    """A round that deploys, sends all requests at once, and waits for the last answer."""
    n, seconds = params["n"], params["seconds"]

    def round_() -> dict[str, float]:
        with deployed(params, options) as handle:
            start = time.perf_counter()

            async def ask() -> list[int]:
                return await asyncio.gather(*[_answer(handle, seconds) for _ in range(n)])

            pids = asyncio.run(ask())
            took = time.perf_counter() - start
        work.check([len(pids)], [n])
        return {"all": took, "serving": len(set(pids))}

    return round_


def until_the_second(params: Params, options: Mapping[str, Any]) -> Round:
    """A round that deploys, and has callers ask again and again until all replicas have answered.

    All replicas are waited for; one that has not answered by `cap` seconds is taken to have then.
    """
    callers, seconds, cap, most = params["callers"], params["seconds"], params["cap"], params["most"]

    def round_() -> dict[str, float]:
        first_answer: dict[int, float] = {}
        with deployed(params, options) as handle:
            start = time.perf_counter()

            async def ask() -> None:
                while len(first_answer) < most and time.perf_counter() - start < cap:
                    pid = await _answer(handle, seconds)
                    first_answer.setdefault(pid, time.perf_counter() - start)

            async def ask_all() -> None:
                await asyncio.gather(*[ask() for _ in range(callers)])

            asyncio.run(ask_all())
        came = sorted(first_answer.values())
        came += [cap] * (most - len(came))
        return {"first": came[0], "second": came[1], "last": came[-1]}

    return round_


async def _answer(handle: Any, seconds: float) -> int:
    return int(await handle.remote(seconds))


@contextmanager
def ended() -> Iterator[None]:
    """End Serve afterwards: left running, its threads would look for another Ray once this one is gone."""
    try:
        yield
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from ray import serve

            serve.shutdown()


@contextmanager
def deployed(params: Params, options: Mapping[str, Any]) -> Iterator[Any]:
    """An application of its own on this process's Serve, for one round; it starts anew each time, as its policy does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray import serve

        # Without a proxy, and so without a port.
        serve.start(proxy_location="Disabled")
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
        deployment = serve.deployment(Napper).options(ray_actor_options={"num_cpus": 0.1}, **options)
        name = f"scale-{next(_names)}"
        handle = serve.run(deployment.bind(), name=name, route_prefix=None)
        try:
            time.sleep(params["pause"])
            yield handle
        finally:
            serve.delete(name)
            time.sleep(params["pause"])
