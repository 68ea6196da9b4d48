"""Whole programs without raymodal, each a process of its own from start to end."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..model import Params, Round

PROGRAMS = Path(__file__).resolve().parents[1] / "programs"
PROGRAM_TIMEOUT_S = 120.0
DAEMONS_TIMEOUT_S = 15.0


@contextmanager
def bare_program(params: Params) -> Iterator[Round]:
    """`python hello_ray.py`: init, one actor, one call, shutdown."""
    yield program_round([sys.executable, str(PROGRAMS / "hello_ray.py")], expected="1764")


@contextmanager
def bare_program_on_cluster(params: Params) -> Iterator[Round]:
    """`python hello_ray.py ADDRESS` against a cluster that runs already."""
    with running_cluster() as (address, env):
        yield program_round([sys.executable, str(PROGRAMS / "hello_ray.py"), address], expected="1764", env=env)


@contextmanager
def python_pass(params: Params) -> Iterator[Round]:
    """`python -c pass`: what starting the interpreter takes."""
    yield program_round([sys.executable, "-c", "pass"], n=params["n"])


@contextmanager
def import_ray(params: Params) -> Iterator[Round]:
    """`import ray`, timed inside a fresh interpreter."""
    yield import_round("ray", params["n"])


def program_round(command: list[str], *, expected: str = "", n: int = 1, env: Mapping[str, str] | None = None) -> Round:
    """A round that runs a command `n` times and takes the mean, after one run to warm up."""

    return _mean_round(lambda: run_checked(command, expected=expected, env=env), n)


def _mean_round(once: Callable[[], float], n: int) -> Round:
    """A round that takes the mean of `n` times, after one to warm up."""
    once()
    return lambda: {"seconds": sum(once() for _ in range(n)) / n}


def run_checked(command: list[str], *, expected: str = "", env: Mapping[str, str] | None = None) -> float:
    """Run a command with these changes of the environment; its seconds.

    Raises:
        RuntimeError: It failed, or did not print what was expected.
    """
    took, status, printed = run_timed(command, {**os.environ, **(env or {})})
    if status or expected not in printed:
        raise RuntimeError(f"{' '.join(command)} ended with {status} and printed\n{printed[-3000:]}")
    return took


def run_timed(command: list[str], env: Mapping[str, str]) -> tuple[float, int, str]:
    """Run a command; its seconds, exit status and output.

    The clock stops when the process ends, which is when a shell would show its prompt. Ray's daemons may live on for
    seconds and hold the output open: they are waited for outside of the measured time, so that they do not disturb
    whatever is measured next.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env
    )
    printed: list[bytes] = []
    reader = threading.Thread(target=_read_all, args=(process, printed), daemon=True)
    reader.start()
    # `wait(timeout)` polls, in steps of up to 50 ms; a timer keeps the wait exact.
    killer = threading.Timer(PROGRAM_TIMEOUT_S, process.kill)
    killer.start()
    status = process.wait()
    took = time.perf_counter() - start
    killer.cancel()
    reader.join(DAEMONS_TIMEOUT_S)
    return took, status, b"".join(printed).decode(errors="replace")


def _read_all(process: subprocess.Popen[bytes], printed: list[bytes]) -> None:
    if process.stdout is not None:
        with process.stdout as stream:
            printed.extend(iter(lambda: stream.read1(), b""))  # type: ignore[attr-defined]


def import_round(module: str, n: int) -> Round:
    """A round that imports a module in `n` fresh interpreters and takes the mean, after one to warm up."""
    code = f"import time; start = time.perf_counter(); import {module}; print(time.perf_counter() - start)"

    def once() -> float:
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=PROGRAM_TIMEOUT_S, check=True
        )
        return float(done.stdout.split()[-1])

    return _mean_round(once, n)


@contextmanager
def running_cluster() -> Iterator[tuple[str, dict[str, str]]]:
    """A stock head node on loopback, as `ray start` makes it, with token authentication.

    It is kept in the foreground (`--block`) and ended by a signal to that process: `ray stop` would end every Ray on
    the machine.

    Yields:
        Its address, and the environment in which programs may join it.
    """
    port = _free_port()
    address = f"127.0.0.1:{port}"
    env = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    head = subprocess.Popen(
        [
            *[sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block", "--node-ip-address=127.0.0.1"],
            *[f"--port={port}", "--include-dashboard=false", "--disable-usage-stats"],
        ],
        stdin=subprocess.DEVNULL,
        env={**os.environ, **env},
    )
    try:
        _wait_until_open(port, head)
        yield address, env
    finally:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(10)
        except subprocess.TimeoutExpired:
            head.kill()
            head.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_open(port: int, head: subprocess.Popen[bytes], timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if head.poll() is not None:
            raise RuntimeError(f"`ray start` ended with {head.returncode}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1.0):
            return
        time.sleep(0.1)
    raise RuntimeError(f"`ray start` did not listen within {timeout_s:g} s")
