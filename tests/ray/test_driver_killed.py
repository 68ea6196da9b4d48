"""A driver that is killed: what it started goes too, within seconds."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.ray.processes import RAYMODAL, Shell, wait_until, wait_until_gone

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]

IN_MID_MAP = """
import os
import subprocess
import time

import modal

app = modal.App("killed")


@app.function(max_containers=2)
def work(x):
    if x < 2:
        child = subprocess.Popen(["setsid", "sleep", "300"])
        print("working", os.getpid(), child.pid)
        time.sleep(300)
    return x


@app.local_entrypoint()
def main():
    list(work.map(range(100_000), order_outputs=False))
"""


def sessions_of(pid: int) -> list[Path]:
    return list(Path(f"/tmp/raymodal-{os.getuid()}/r").glob(f"session_*_{pid}"))


def test_a_killed_driver_takes_controller_containers_and_cluster_with_it(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """SIGKILL in mid-map, so that nothing in the driver can help; children of containers that left their group as well."""
    shell = Shell(tmp_path, request.config.cache.mkdir("raymodal-home"))
    shell.write("killed.py", IN_MID_MAP)
    program = shell.start(RAYMODAL, "run", "killed.py", TMPDIR="/tmp")
    wait_until(lambda: program.out.count("working") == 2 or program.process.poll() is not None, lambda: program.err)
    below = program.descendants()
    for line in program.out.splitlines():
        assert set(map(int, line.split()[1:])) <= set(below)
    [session] = sessions_of(program.process.pid)

    program.signal(signal.SIGKILL)
    killed_at = time.monotonic()
    done = program.finish()
    wait_until_gone(below, within_s=20)
    wait_until(lambda: not session.exists(), within_s=20)

    assert done.code == -signal.SIGKILL
    assert time.monotonic() - killed_at < 30
