"""How long a bare Ray actor takes to be there, and what it takes up."""

from __future__ import annotations

import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .. import work
from ..model import Params, Round
from .hello import PROGRAMS, program_round


class Worker:
    """The actor."""

    def answer(self, x: int) -> int:
        """The smallest work."""
        return work.double(x)

    def meet(self, folder: str, n: int) -> int:
        """Wait until `n` processes are here; this one's pid."""
        return work.meet(folder, n)


@contextmanager
def one(params: Params) -> Iterator[Round]:
    """Start one actor after the other and wait for its first answer: the mean."""
    import ray

    yield first_results(params, ray.remote(Worker).remote)


@contextmanager
def one_with_variables(params: Params) -> Iterator[Round]:
    """The same with variables in a runtime environment, a new one each time, as a secret's value would be."""
    import ray

    made = ray.remote(Worker)
    count = itertools.count()

    def start() -> Any:
        return made.options(runtime_env={"env_vars": {"TOKEN": f"t{next(count)}", "COLOUR": "blue"}}).remote()

    yield first_results(params, start)


def first_results(params: Params, start_actor: Callable[[], Any]) -> Round:
    """A round that starts one actor after the other and calls it once, after one round to warm up."""
    import ray

    def round_() -> dict[str, float]:
        took = []
        for i in range(params["n"]):
            start = time.perf_counter()
            actor = start_actor()
            answer = ray.get(actor.answer.remote(i))
            took.append(time.perf_counter() - start)
            work.check([answer], [work.double(i)])
            ray.kill(actor)
            time.sleep(params["pause"])
        return {"ready": statistics.mean(took)}

    # Workers that Ray keeps ready are used up first; later starts are what a running program sees.
    round_()
    return round_


@contextmanager
def many(params: Params) -> Iterator[Round]:
    """Start several at once, and wait until all are running."""
    yield all_at_once(params, with_memory=False)


@contextmanager
def memory(params: Params) -> Iterator[Round]:
    """PSS of an actor that has answered one call."""
    yield all_at_once(params, with_memory=True)


def all_at_once(params: Params, *, with_memory: bool) -> Round:
    """A round that starts `n` actors and has them meet; the time until then, or their memory."""
    import ray

    made = ray.remote(Worker).options(num_cpus=0)
    n = params["n"]

    def round_() -> dict[str, float]:
        with tempfile.TemporaryDirectory() as folder:
            start = time.perf_counter()
            actors = [made.remote() for _ in range(n)]
            pids = ray.get([actor.meet.remote(folder, n) for actor in actors])
            took = time.perf_counter() - start
        work.check([len(set(pids))], [n])
        figures = {"PSS": statistics.mean(map(pss_mib, pids))} if with_memory else {"all running": took}
        for actor in actors:
            ray.kill(actor)
        time.sleep(params["pause"])
        return figures

    round_()
    return round_


def pss_mib(pid: int) -> float:
    """A process's share of memory, where shared pages count in parts."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"no PSS of {pid}")


def private_mib(pid: int) -> float:
    """Memory that a process shares with nobody."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


@contextmanager
def hello_without_bytecode(params: Params) -> Iterator[Round]:
    """`python hello_ray.py` with a Ray that has no bytecode, as `uv pip install` leaves it."""
    with without_bytecode() as env:
        yield program_round([sys.executable, str(PROGRAMS / "hello_ray.py")], expected="1764", env=env)


@contextmanager
def without_bytecode() -> Iterator[dict[str, str]]:
    """An environment in which Ray lies without bytecode, and Python writes none: its package as a tree of links.

    Yields:
        The environment's changes.
    """
    import importlib.util

    found = importlib.util.find_spec("ray")
    if found is None or found.origin is None:
        raise RuntimeError("there is no Ray")
    package = Path(found.origin).parent
    with tempfile.TemporaryDirectory() as folder:
        link_tree(package, Path(folder) / "ray")
        # What installers leave beside it, for the versions that packages ask for.
        for info in package.parent.glob("ray-*.dist-info"):
            os.symlink(info, Path(folder) / info.name)
        path = os.pathsep.join(filter(None, [folder, os.environ.get("PYTHONPATH", "")]))
        yield {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", "RAYMODAL_HOME": str(Path(folder) / "home")}


def link_tree(source: Path, target: Path) -> None:
    """Folders as folders, files as links, bytecode left out."""
    shutil.copytree(source, target, copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__"))


class Tables:
    """An actor that loads what a data application does."""

    def __init__(self) -> None:
        self.table = load_table()

    def answer(self, x: int) -> float:
        """One figure of the table."""
        return float(self.table["a"].iloc[x])


def load_table() -> Any:
    """A table of 200 MB, made as quickly as it can be."""
    import numpy as np
    import pandas as pd

    rows = 200_000_000 // 8 // 5
    return pd.DataFrame({name: np.arange(rows, dtype=np.float64) for name in "abcde"})


@contextmanager
def tables(params: Params) -> Iterator[Round]:
    """Start an actor that imports numpy and pandas and makes a table of 200 MB; its first answer."""
    import ray

    made = ray.remote(Tables)

    def round_() -> dict[str, float]:
        start = time.perf_counter()
        actor = made.remote()
        answer = ray.get(actor.answer.remote(7))
        took = time.perf_counter() - start
        work.check([answer], [7.0])
        ray.kill(actor)
        time.sleep(params["pause"])
        return {"first result": took}

    round_()
    yield round_
