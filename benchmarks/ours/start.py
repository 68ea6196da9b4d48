"""How long a container takes to be there, and what it takes up."""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import raymodal as modal

from .. import work
from ..baselines.hello import PROGRAMS, program_round
from ..baselines.start import load_table, private_mib, pss_mib, without_bytecode
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
    yield first_results(params, app, answer)


@contextmanager
def one_with_variables(params: Params) -> Iterator[Round]:
    """The same with variables of an image and a secret."""
    yield first_results(params, env_app, answer_with_variables)


@contextmanager
def one_forked(params: Params) -> Iterator[Round]:
    """The same with no worker kept ready: each container is forked when it is asked for."""
    _keep_none_ready()
    yield first_results(params, app, answer)


def first_results(params: Params, its_app: modal.App, function: modal.Function) -> Round:
    """A round that runs one app after the other and calls its function once, after one round to warm up."""

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
    yield all_at_once(params, with_memory=False)


@contextmanager
def many_forked(params: Params) -> Iterator[Round]:
    """The same with no worker kept ready."""
    _keep_none_ready()
    yield all_at_once(params, with_memory=False)


@contextmanager
def memory(params: Params) -> Iterator[Round]:
    """PSS of a container that has answered one call."""
    yield all_at_once(params, with_memory=True)


@app.cls(enable_memory_snapshot=True, max_containers=1, scaledown_window=2)
class Tables:
    """What a data application loads, before the snapshot."""

    @modal.enter(snap=True)
    def load(self) -> None:
        """A table of 200 MB."""
        self.table = load_table()
        self.made_in = os.getpid()

    @modal.method()
    def answer(self, x: int) -> tuple[float, int, int, float]:
        """One figure of the table; whose memory it is, and how much of it is this process's alone."""
        return float(self.table["a"].iloc[x]), self.made_in, os.getpid(), private_mib(os.getpid())


@contextmanager
def tables(params: Params) -> Iterator[Round]:
    """The first result of a container that starts from a memory snapshot with numpy, pandas and a table of 200 MB."""
    with app.run():
        model = Tables()
        model.answer.remote(7)  # the first container starts the plain way, and has the snapshot taken
        deadline = time.monotonic() + 60

        def round_() -> dict[str, float]:
            while True:
                time.sleep(params["pause"] + 2.5)  # its window is over
                start = time.perf_counter()
                answer, made_in, pid, private = model.answer.remote(7)
                took = time.perf_counter() - start
                work.check([answer], [7.0])
                if made_in != pid:
                    return {"first result": took, "private": private}
                if time.monotonic() > deadline:
                    raise RuntimeError("no memory snapshot was taken")

        round_()
        yield round_


def all_at_once(params: Params, *, with_memory: bool) -> Round:
    """A round that has `n` containers started and meet; the time until then, or their memory."""
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
        # The run that warms up compiles: what a program has compiled in the background ends with it.
        yield program_round([*command(), "run", str(PROGRAMS / "hello_modal.py")], expected="1764", env=env)
