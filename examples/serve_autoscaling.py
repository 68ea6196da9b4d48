"""Modal's autoscaler on a plain Ray Serve application: `python examples/serve_autoscaling.py` (a minute, no port, nothing left behind).

Nothing else of raymodal is used: `deployment_options` turns Modal's parameters into what `@serve.deployment` takes.
"""

import asyncio
import os
import time

import ray
from ray import serve

from raymodal.engine.ray.policy import deployment_options


@serve.deployment(
    ray_actor_options={"num_cpus": 0.1},
    **deployment_options(max_containers=4, scaledown_window=5, max_inputs=1, timeout=60),
)
class Model:
    def __call__(self, seconds: float) -> int:
        time.sleep(seconds)
        return os.getpid()


def replicas() -> int:
    states = serve.status().applications["example"].deployments["Model"].replica_states
    return sum(count for state, count in states.items() if state == "RUNNING")


async def watch(started: float, answered: asyncio.Event) -> None:
    """Print each change of the number of replicas, until none is left of those that answered."""
    last = -1
    while last or not answered.is_set():
        if (now := await asyncio.to_thread(replicas)) != last:
            print(f"{time.perf_counter() - started:5.1f} s  {now} replicas", flush=True)
            last = now
        await asyncio.sleep(0.1)


async def main(model) -> None:
    started, answered = time.perf_counter(), asyncio.Event()
    watcher = asyncio.create_task(watch(started, answered))

    async def ask() -> int:
        return await model.remote(1.0)

    print("       20 requests of a second, at once, with no replica running")
    pids = await asyncio.gather(*[ask() for _ in range(20)])
    print(f"{time.perf_counter() - started:5.1f} s  all answered, by {len(set(pids))} replicas; nothing comes any more")
    answered.set()
    await watcher


if __name__ == "__main__":
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    try:
        serve.start(proxy_location="Disabled")  # handles only
        asyncio.run(main(serve.run(Model.bind(), name="example", route_prefix=None)))
    finally:
        serve.shutdown()  # first: else its threads outlive the connection and look for another Ray
        ray.shutdown()
