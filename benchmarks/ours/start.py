"""How long a container takes to be there, and what it takes up."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import raymodal as modal

from .. import work
from ..baselines.hello import PROGRAMS, program_round
from ..baselines.start import pss_mib, without_bytecode
from ..model import Params, Round
from .hello import command

app = modal.App("bench-start")
env_app = modal.App("bench-start-env", image=modal.Image.debian_slim().env({"COLOUR": "blue"}))


@app.function()
def answer(x: int) -> int:
    """The smallest work."""
    return work.double(x)


@env_app.function(secrets=[modal.Secret.from_dict({"TOKEN": "t"})])
def answer_with_variables(x: int) -> int:
    """The same, with variables of an image and a secret."""
    return work.double(x)


@app.function(cpu=0.01, max_containers=64)
def meet(folder: str, n: int) -> int:
    """Wait until `n` containers are here; this one's pid."""
    return work.meet(folder, n)


@contextmanager
def one(params: Params) -> Iterator[Round]:
    """The first call of an app without containers, from call to result: the mean over several apps."""
    yield _first_calls(params, app, answer)


@contextmanager
def one_with_variables(params: Params) -> Iterator[Round]:
    """The same with variables of an image and a secret."""
    yield _first_calls(params, env_app, answer_with_variables)


@contextmanager
def one_forked(params: Params) -> Iterator[Round]:
    """The same with no worker kept ready: each container is forked when it is asked for."""
    _keep_none_ready()
    yield _first_calls(params, app, answer)


def _first_calls(params: Params, its_app: modal.App, function: modal.Function) -> Round:
    def round_() -> dict[str, float]:
        took = []
        for i in range(params["n"]):
            with its_app.run():
                time.sleep(params["pause"])
                start = time.perf_counter()
                got = function.remote(i)
                took.append(time.perf_counter() - start)
            work.check([got], [work.double(i)])
        return {"ready": statistics.mean(took)}

    round_()
    return round_


@contextmanager
def many(params: Params) -> Iterator[Round]:
    """`f.map` over inputs that wait for each other, from no container to all running."""
    yield _all_at_once(params, with_memory=False)


@contextmanager
def many_forked(params: Params) -> Iterator[Round]:
    """The same with no worker kept ready."""
    _keep_none_ready()
    yield _all_at_once(params, with_memory=False)


@contextmanager
def memory(params: Params) -> Iterator[Round]:
    """PSS of a container that has answered one call."""
    yield _all_at_once(params, with_memory=True)


def _all_at_once(params: Params, *, with_memory: bool) -> Round:
    n = params["n"]

    def round_() -> dict[str, float]:
        with app.run(), tempfile.TemporaryDirectory() as folder:
            time.sleep(params["pause"])
            start = time.perf_counter()
            pids = list(meet.map([folder] * n, [n] * n))
            took = time.perf_counter() - start
            work.check([len(set(pids))], [n])
            return {"PSS": statistics.mean(map(pss_mib, pids))} if with_memory else {"all running": took}

    round_()
    return round_


def _keep_none_ready() -> None:
    from raymodal import config

    config.override(warm_workers=0)


@contextmanager
def hello_without_bytecode(params: Params) -> Iterator[Round]:
    """`raymodal run hello_modal.py` with a Ray that has no bytecode."""
    with without_bytecode() as env:
        round_ = program_round([*command(), "run", str(PROGRAMS / "hello_modal.py")], expected="1764", env=env)
        time.sleep(params["filling"])  # the cache is filled in the background, once per machine
        yield round_
