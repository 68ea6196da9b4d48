"""A cluster that somebody else started and that can grow: what fits nowhere waits for a node that holds it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ray.processes import listens, ray_start, wait_until

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
    with ray_start(
        "--head", f"--port={port}", "--num-cpus=2", "--num-gpus=0", "--include-dashboard=false", env=ENVIRONMENT
    ):
        wait_until(lambda: listens(address), lambda: f"nothing listens at {address}", within_s=60)
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
            with ray_start(f"--address={address}", "--num-cpus=1", "--num-gpus=1", env=ENVIRONMENT):
                assert running.wait(80) == 0, printed.read_text()
        finally:
            running.kill()
            running.wait()
    assert "got 2 [0]" in printed.read_text()
