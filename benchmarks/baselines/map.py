"""Many calls without raymodal, on two processes."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any

from ..model import Params, Round
from ..timing import time_inputs
from ..work import PeakMemory, check, double, echo, in_chunks, nap, naps, records, shout, texts, touch

WORKERS = 2
CHUNK = 1000


def _kind(params: Params) -> tuple[Callable[[Any], Any], list[Any]]:
    """The function and the inputs that the scenario asks for."""
    n = params["n"]
    if params["inputs"] == "ints":
        return double, list(range(n))
    if params["inputs"] == "records":
        return touch, records(n)
    return shout, texts(n)


def inputs_and_results(params: Params) -> tuple[list[Any], list[Any]]:
    """The inputs that the scenario asks for, and what its function makes of them."""
    function, inputs = _kind(params)
    # Some functions write to their argument, which is to arrive as it was.
    return inputs, [function(dict(x) if isinstance(x, dict) else x) for x in inputs]


def _throughput(mapped: Callable[[list[Any]], Iterable[Any]], params: Params) -> Round:
    """A round that times `list(mapped(inputs))`, after one to warm up."""
    inputs, expected = inputs_and_results(params)
    list(mapped(inputs[: len(inputs) // 10]))
    return lambda: time_inputs(lambda: mapped(inputs), expected)


class Worker:
    """An actor that holds the function, for one input or for a chunk of them."""

    def __init__(self, function: Callable[[Any], Any]) -> None:
        self._function = function

    def one(self, x: Any) -> Any:
        """Run one input."""
        return self._function(x)

    def many(self, xs: list[Any]) -> list[Any]:
        """Run a chunk."""
        function = self._function
        return [function(x) for x in xs]


def _workers(function: Callable[[Any], Any]) -> list[Any]:
    """Two warm actors."""
    import ray

    workers = [ray.remote(Worker).remote(function) for _ in range(WORKERS)]
    ray.get([worker.many.remote([]) for worker in workers])
    return workers


@contextmanager
def actor_pool(params: Params) -> Iterator[Round]:
    """`ray.util.ActorPool.map`: one call per input."""
    from ray.util import ActorPool

    function, _ = _kind(params)
    pool = ActorPool(_workers(function))
    yield _throughput(lambda inputs: pool.map(lambda worker, x: worker.one.remote(x), inputs), params)


@contextmanager
def ray_pool(params: Params) -> Iterator[Round]:
    """`ray.util.multiprocessing.Pool.map`, which cuts the inputs into four chunks per process."""
    from ray.util.multiprocessing import Pool

    function, _ = _kind(params)
    with Pool(processes=WORKERS) as pool:
        yield _throughput(lambda inputs: pool.map(function, inputs), params)


@contextmanager
def tasks(params: Params) -> Iterator[Round]:
    """One Ray task per input, all submitted before the first is waited for."""
    import ray

    task = ray.remote(_kind(params)[0])
    yield _throughput(lambda inputs: ray.get([task.remote(x) for x in inputs]), params)


@contextmanager
def chunked_tasks(params: Params) -> Iterator[Round]:
    """One Ray task per thousand inputs, all submitted before the first is waited for."""
    import ray

    function, _ = _kind(params)

    def many(xs: list[Any]) -> list[Any]:
        return [function(x) for x in xs]

    task = ray.remote(many)

    def mapped(inputs: list[Any]) -> Iterator[Any]:
        return itertools.chain.from_iterable(ray.get([task.remote(chunk) for chunk in in_chunks(inputs, CHUNK)]))

    yield _throughput(mapped, params)


@contextmanager
def chunked_actors(params: Params) -> Iterator[Round]:
    """Calls of a thousand inputs, dealt to two actors by turns, all submitted before the first is waited for."""
    import ray

    workers = _workers(_kind(params)[0])

    def mapped(inputs: list[Any]) -> Iterator[Any]:
        turns = itertools.cycle(workers)
        chunks = in_chunks(inputs, CHUNK)
        return itertools.chain.from_iterable(ray.get([next(turns).many.remote(chunk) for chunk in chunks]))

    yield _throughput(mapped, params)


@contextmanager
def process_pool(params: Params) -> Iterator[Round]:
    """`concurrent.futures.ProcessPoolExecutor.map` in chunks of a thousand."""
    function, _ = _kind(params)
    with ProcessPoolExecutor(max_workers=WORKERS) as pool:
        yield _throughput(lambda inputs: pool.map(function, inputs, chunksize=CHUNK), params)


@contextmanager
def actor_start(params: Params) -> Iterator[Round]:
    """Start one actor and wait for its first answer."""
    import ray

    def round_() -> dict[str, float]:
        start = time.perf_counter()
        actor = ray.remote(Worker).remote(echo)
        ray.get(actor.one.remote(1))
        took = time.perf_counter() - start
        ray.kill(actor)
        return {"start": took}

    # Workers that Ray keeps ready are used up first; later starts are what a running program sees.
    round_()
    yield round_


@contextmanager
def generator_actors(params: Params) -> Iterator[Round]:
    """A generator in calls of a thousand inputs over two actors, two calls ahead of each, in order."""
    import ray

    workers = _workers(double)
    n = params["n"]

    def mapped(inputs: Iterable[int]) -> Iterator[int]:
        turns = itertools.cycle(workers)
        ahead: list[Any] = []
        for chunk in in_chunks(inputs, CHUNK):
            ahead.append(next(turns).many.remote(chunk))
            if len(ahead) > 2 * WORKERS:
                yield from ray.get(ahead.pop(0))
        for ref in ahead:
            yield from ray.get(ref)

    def round_() -> dict[str, float]:
        return consume(mapped(i for i in range(n)), n)

    sum(mapped(range(n // 10)))
    yield round_


def consume(results: Iterable[int], n: int) -> dict[str, float]:
    """Add the results up, keeping none, and look at the time and memory that it took."""
    start = time.perf_counter()
    with PeakMemory() as memory:
        total = sum(results)
    took = time.perf_counter() - start
    if total != n * (n - 1):
        raise AssertionError(f"the results add up to {total:,}, not to {n * (n - 1):,}")
    return {"rate": n / took, "growth": memory.growth_mib}


def watch_naps(results: Iterable[float], inputs: list[float]) -> dict[str, float]:
    """Collect results in the order of arrival; when were all quick ones there, and when all?"""
    quick = inputs.count(0.0)
    others = 0.0
    got: list[float] = []
    start = time.perf_counter()
    for value in results:
        got.append(value)
        if value == 0.0:
            quick -= 1
            if quick == 0:
                others = time.perf_counter() - start
    took = time.perf_counter() - start
    check(sorted(got), sorted(inputs))
    ideal = max(sum(inputs) / WORKERS, max(inputs))
    return {"others": others, "all": took, "share of ideal": 100 * ideal / took}


def _nap_inputs(params: Params) -> list[float]:
    return naps(params["n"], params["slow"], params["seconds"])


@contextmanager
def nap_actor_pool(params: Params) -> Iterator[Round]:
    """`ray.util.ActorPool.map_unordered`: one call per input."""
    from ray.util import ActorPool

    pool = ActorPool(_workers(nap))
    inputs = _nap_inputs(params)
    yield lambda: watch_naps(pool.map_unordered(lambda worker, x: worker.one.remote(x), inputs), inputs)


@contextmanager
def nap_ray_pool(params: Params) -> Iterator[Round]:
    """`ray.util.multiprocessing.Pool.imap_unordered` in chunks."""
    from ray.util.multiprocessing import Pool

    inputs = _nap_inputs(params)
    with Pool(processes=WORKERS) as pool:
        pool.map(nap, [0.0] * 100)
        yield lambda: watch_naps(pool.imap_unordered(nap, inputs, chunksize=params["chunk"]), inputs)


@contextmanager
def nap_chunked_actors(params: Params) -> Iterator[Round]:
    """Calls of a chunk each; an actor is given its next one when it has fewer than two."""
    import ray

    workers = _workers(nap)
    inputs = _nap_inputs(params)

    def mapped() -> Iterator[float]:
        chunks = in_chunks(inputs, params["chunk"])
        # Workers first: zip takes from its first argument before it sees that the other one is used up.
        owner = {worker.many.remote(chunk): worker for worker, chunk in zip(workers * 2, chunks, strict=False)}
        while owner:
            (done,), _ = ray.wait(list(owner))
            worker = owner.pop(done)
            chunk = next(chunks, None)
            if chunk is not None:
                owner[worker.many.remote(chunk)] = worker
            yield from ray.get(done)

    yield lambda: watch_naps(mapped(), inputs)


@contextmanager
def nap_process_pool(params: Params) -> Iterator[Round]:
    """`multiprocessing.Pool.imap_unordered` in chunks: the standard library's pool that yields as results come."""
    import multiprocessing

    inputs = _nap_inputs(params)
    with multiprocessing.Pool(WORKERS) as pool:
        pool.map(nap, [0.0] * 100)
        yield lambda: watch_naps(pool.imap_unordered(nap, inputs, chunksize=params["chunk"]), inputs)
