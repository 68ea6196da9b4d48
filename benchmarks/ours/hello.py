"""Whole programs and the command line."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ..baselines.hello import PROGRAMS, import_round, program_round, run_checked, running_cluster
from ..model import Params, Round


@contextmanager
def run_program(params: Params) -> Iterator[Round]:
    """`raymodal run hello_modal.py`."""
    yield program_round([*command(), "run", str(PROGRAMS / "hello_modal.py")], expected="1764")


@contextmanager
def run_program_on_cluster(params: Params) -> Iterator[Round]:
    """`raymodal run --address ADDRESS hello_modal.py` against a cluster that runs already."""
    with running_cluster() as (address, env):
        line = [*command(), "run", "--address", address, str(PROGRAMS / "hello_modal.py")]
        yield program_round(line, expected="1764", env=env)


@contextmanager
def run_program_on_kept_cluster(params: Params) -> Iterator[Round]:
    """`raymodal run hello_modal.py` against the cluster that `raymodal cluster up` keeps."""
    with kept_cluster() as env:
        yield program_round([*command(), "run", str(PROGRAMS / "hello_modal.py")], expected="1764", env=env)


@contextmanager
def import_raymodal(params: Params) -> Iterator[Round]:
    """`import raymodal`, timed inside a fresh interpreter."""
    yield import_round("raymodal", params["n"])


@contextmanager
def help_page(params: Params) -> Iterator[Round]:
    """`raymodal --help`."""
    yield program_round([*command(), "--help"], expected="run", n=params["n"])


@contextmanager
def kept_cluster() -> Iterator[dict[str, str]]:
    """A cluster that `raymodal cluster up` keeps in a home of its own, until `raymodal cluster down`.

    Yields:
        The environment in which programs find it.
    """
    # Below the child's folder, which the driver removes even where the child is killed.
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix="kept-", ignore_cleanup_errors=True) as home:
        env = {"RAYMODAL_HOME": home}
        try:
            run_checked([*command(), "cluster", "up"], expected=" runs at ", env=env)
            yield env
        finally:
            # If it had died, programs would have started a Ray of their own, and that would have been measured.
            run_checked([*command(), "cluster", "down"], expected="Ended the cluster", env=env)


def command() -> list[str]:
    """The installed command of this interpreter, or the same through `-c` where scripts are not installed."""
    beside = Path(sys.executable).with_name("raymodal")
    found = str(beside) if beside.exists() else shutil.which("raymodal")
    return [found] if found else [sys.executable, "-c", "from raymodal.cli.main import main; main()"]
