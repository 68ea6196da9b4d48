"""A cluster that somebody else started and that can grow: what fits nowhere waits for a node that holds it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray]

PROGRAM = """
import ray
import raymodal as modal

app = modal.App("growing")

@app.function(gpu="any", max_containers=1)
def f(x):
    return x + 1, ray.get_gpu_ids()

@app.function(max_containers=1)
def plain(x):
    return x * 2

if __name__ == "__main__":
    with modal.enable_output(), app.run():
        call = f.spawn(1)
        print("meanwhile", plain.remote(4), flush=True)
        print("got", *call.get(timeout=90), flush=True)
"""
ENVIRONMENT = {**os.environ, "RAY_AUTH_MODE": "disabled"}


@contextlib.contextmanager
def ray_start(*arguments: str) -> Iterator[None]:
    """`ray start --block` in a session of its own; `ray stop` would end every Ray of this machine."""
    ray = os.path.join(os.path.dirname(sys.executable), "ray")
    process = subprocess.Popen(
        [ray, "start", "--block", "--disable-usage-stats", *arguments],
        env=ENVIRONMENT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_a_function_waits_for_a_gpu_that_is_not_there_yet(tmp_path: Path) -> None:
    """It says what it waits for, others run meanwhile, and a node that joins with a GPU gets it."""
    from ray.util import get_node_ip_address

    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    address = f"{get_node_ip_address()}:{port}"
    program = tmp_path / "growing.py"
    program.write_text(PROGRAM)
    printed = tmp_path / "printed"
    with ray_start("--head", f"--port={port}", "--num-cpus=2", "--num-gpus=0", "--include-dashboard=false"):
        wait_for_port(address)
        with open(printed, "w") as out:
            running = subprocess.Popen(
                [sys.executable, str(program)],
                env={**ENVIRONMENT, "RAYMODAL_ADDRESS": address},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        try:
            deadline = time.monotonic() + 60
            while "meanwhile 8" not in printed.read_text() or "no node can hold that" not in printed.read_text():
                assert time.monotonic() < deadline, printed.read_text()
                time.sleep(0.1)
            assert "Function 'f' asks for" in printed.read_text()
            assert "got" not in printed.read_text()
            with ray_start(f"--address={address}", "--num-cpus=1", "--num-gpus=1"):
                assert running.wait(80) == 0, printed.read_text()
        finally:
            running.kill()
            running.wait()
    assert "got 2 [0]" in printed.read_text()


def wait_for_port(address: str) -> None:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + 60
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=1):
                return
        except OSError:
            assert time.monotonic() < deadline, f"nothing listens at {address}"
            time.sleep(0.1)
