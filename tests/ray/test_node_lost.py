"""A node goes with half of a function's containers."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.ray.processes import listens, ray_start, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(180)]

PROGRAM = """
import os
import time

import ray
import raymodal as modal

app = modal.App("lost")

@app.function(cpu=1, max_containers=4)
def f(x):
    time.sleep(0.5)
    with open("LOST_LOG", "a") as log:
        print(ray.get_runtime_context().get_node_id(), x, file=log)
    return x

if __name__ == "__main__":
    with app.run():
        while ray.cluster_resources()["CPU"] < 4:
            time.sleep(0.1)
        f.autoscaler.update(min_containers=4)
        while f.get_current_stats().num_idle < 4:
            time.sleep(0.1)
        print(sorted(f.map(range(40), order_outputs=False)) == list(range(40)), flush=True)
        print(f.get_current_stats(), flush=True)
"""
# The cluster is somebody else's; how soon it notices a dead node is its own setting.
ENVIRONMENT = {
    **os.environ,
    "RAY_AUTH_MODE": "disabled",
    "RAY_health_check_initial_delay_ms": "500",
    "RAY_health_check_period_ms": "500",
    "RAY_health_check_failure_threshold": "3",
}


def test_a_node_is_lost_with_half_of_the_containers(tmp_path: Path) -> None:
    """Every input has its outcome, the lost ones from another container; the pool goes on with what fits on the node that is left."""
    from ray.util import get_node_ip_address

    with socket.socket() as probe:
        probe.bind(("", 0))
        port = probe.getsockname()[1]
    address = f"{get_node_ip_address()}:{port}"
    program, log, printed = tmp_path / "lost.py", tmp_path / "log", tmp_path / "printed"
    program.write_text(PROGRAM.replace("LOST_LOG", str(log)))
    log.touch()

    def nodes() -> set[str]:
        return {line.split()[0] for line in log.read_text().splitlines()}

    with ray_start("--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false", env=ENVIRONMENT):
        wait_until(lambda: listens(address), within_s=60)
        with ray_start(f"--address={address}", "--num-cpus=2", env=ENVIRONMENT) as other:
            with open(printed, "w") as out:
                running = subprocess.Popen(
                    [sys.executable, str(program)],
                    env={**ENVIRONMENT, "RAYMODAL_ADDRESS": address},
                    stdout=out,
                    stderr=subprocess.STDOUT,
                )
            try:
                wait_until(lambda: len(nodes()) == 2, lambda: printed.read_text(), within_s=90)
                os.killpg(other.pid, signal.SIGKILL)
                lost_at = time.monotonic()
                assert running.wait(90) == 0, printed.read_text()
            finally:
                running.kill()
                running.wait()
    assert "True" in printed.read_text().splitlines(), printed.read_text()
    done = [line.split()[1] for line in log.read_text().splitlines()]
    assert sorted(set(map(int, done))) == list(range(40))
    assert time.monotonic() - lost_at < 90
