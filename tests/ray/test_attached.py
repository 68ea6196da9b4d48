"""On a cluster that somebody else started: attach, run, leave it alone; nodes need not have the program's files."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]

PROGRAM = """
import os, sys
import raymodal as modal
import beside

app = modal.App("attached")

@app.function(max_containers=1)
def f(x):
    return beside.double(x), os.path.dirname(beside.__file__)

if __name__ == "__main__":
    here = os.path.dirname(os.path.abspath(__file__))
    with app.run():
        os.rename(here, here + "-elsewhere")  # as on a node that never had them
        value, where = f.remote(21)
        os.rename(here + "-elsewhere", here)
    assert where != here, where
    print("value", value)
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a Ray started by `ray start`, which ends with the tests."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray = os.path.join(os.path.dirname(sys.executable), "ray")
    # --block in a session of its own: `ray stop` would end every Ray of this machine, not only this one.
    process = subprocess.Popen(
        [
            ray,
            "start",
            "--head",
            "--block",
            "--node-ip-address=127.0.0.1",
            f"--port={port}",
            "--num-cpus=2",
            "--include-dashboard=false",
        ],
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_for_port(port)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def _wait_for_port(port: int) -> None:
    deadline = time.monotonic() + 60
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1):
                return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def test_a_program_on_a_cluster_without_its_files(cluster: str, tmp_path: Path) -> None:
    """Modules travel to nodes that lack them, and the cluster is still there for the next program."""
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "main.py").write_text(PROGRAM)
    (folder / "beside.py").write_text("def double(x):\n    return 2 * x\n")
    env = {**os.environ, "RAY_AUTH_MODE": "disabled", "RAYMODAL_ADDRESS": cluster}

    for _ in range(2):
        done = subprocess.run(
            [sys.executable, str(folder / "main.py")],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            cwd="/",
            check=False,
        )

        assert done.returncode == 0, done.stderr[-3000:]
        assert "value 42" in done.stdout
