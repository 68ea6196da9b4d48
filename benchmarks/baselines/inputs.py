"""Several inputs at once without raymodal: async and threaded actors, Ray Serve's batching."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..load import poisson
from ..model import Params, Round
from ..timing import time_inputs


class Async:
    """An async actor."""

    async def nap(self, x: int) -> int:
        """Wait for 50 ms."""
        await asyncio.sleep(0.05)
        return x


class Threaded:
    """A threaded actor."""

    def nap(self, x: int) -> int:
        """Wait for 50 ms."""
        time.sleep(0.05)
        return x


@contextmanager
def bare_actor(params: Params) -> Iterator[Round]:
    """`ray.get([actor.nap.remote(x) for x in inputs])` with `max_concurrency`."""
    import ray

    kind = {"tasks": Async, "threads": Threaded}[params["form"]]
    actor = ray.remote(kind).options(max_concurrency=params["at_once"]).remote()
    inputs = range(params["n"])

    def round_() -> dict[str, float]:
        return time_inputs(lambda: ray.get([actor.nap.remote(x) for x in inputs]), inputs)

    round_()
    yield round_


@contextmanager
def serve_batch(params: Params) -> Iterator[Round]:
    """`await handle.remote(x)` to a deployment with `@serve.batch`, as calls arrive."""
    from ray import serve

    @serve.deployment(max_ongoing_requests=10_000)
    class Batched:
        @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.01)
        async def batch(self, xs: list[int]) -> list[int]:
            await asyncio.sleep(0.1)
            return xs

        async def __call__(self, x: int) -> int:
            return await self.batch(x)

    handle: Any = serve.run(Batched.bind(), name="bench", route_prefix=None)
    handle.remote(0).result()

    async def call(x: int) -> Any:
        return await handle.remote(x)

    yield lambda: asyncio.run(poisson(call, params["rate"], params["seconds"]))
    serve.delete("bench")
