"""Starting, finding and ending clusters. Every test runs in processes of its own, since a process has one Ray only."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from raymodal.config import Settings
from raymodal.engine.ray.cluster.ending import sweep
from raymodal.engine.ray.cluster.machine import choose_tmpdir

pytestmark = [pytest.mark.ray]

PRELUDE = """
import contextlib, json, os, socket, sys, threading, time
from pathlib import Path
from raymodal.config import Settings
from raymodal.engine.ray import cluster, logs
from raymodal.engine.ray.cluster import node
from raymodal.engine.ray.cluster.ending import descendants
settings = Settings(home=Path(sys.argv[1]))

def everything():
    # All that is below this process, and what a container started and let go of.
    found = set(descendants(os.getpid()))
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            if b"RAYMODAL_SESSION=%d-" % os.getpid() in path.read_bytes():
                found.add(int(path.parent.name))
    return sorted(found)

def listening():
    # The addresses, in /proc's spelling, on which these processes listen.
    inodes = set()
    for pid in [*everything(), os.getpid()]:
        with contextlib.suppress(OSError):
            for fd in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(f"/proc/{pid}/fd/{fd}")
                    if target.startswith("socket:["):
                        inodes.add(target[8:-1])
    rows = [row.split() for name in ("tcp", "tcp6") for row in Path("/proc/net", name).read_text().splitlines()[1:]]
    return {row[1].rpartition(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}
"""


def environment(**changes: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "RAYMODAL_"))}
    return {**kept, **changes}


def start(script: str, home: Path, *arguments: str, **changes: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + textwrap.dedent(script), str(home), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**changes),
    )


def run(script: str, home: Path, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
    process = start(script, home, *arguments, **changes)
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, out + err
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pids: list[int], *paths: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        left = [pid for pid in pids if is_alive(pid)], [path for path in paths if os.path.exists(path)]
        if left == ([], []):
            return
        time.sleep(0.05)
    raise AssertionError(f"still there: {left}")


LOOPBACK = {"0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000"}


def test_a_cluster_of_our_own_is_fast_kind_closed_quiet_and_gone_afterwards(tmp_path):
    done = run(
        """
        def one_life():
            c = cluster.connect(settings, num_cpus=2, num_gpus=4, labels={"ray.io/accelerator-type": "A100"})
            assert c is cluster.connect(settings)
            assert c.is_own and not c.is_kept and c.address.startswith("127.0.0.1:"), c
            assert os.environ["RAY_AUTH_MODE"] == "token"
            import ray
            from raymodal.plan.resources import resources_for
            from raymodal.spec.function import GpuRequest

            [node] = c.nodes()
            assert (node.cpus, node.gpus, node.accelerator) == (2, 4, "A100"), node

            @ray.remote
            class Container:
                def facts(self):
                    import subprocess
                    subprocess.Popen(["setsid", "sleep", "300"])
                    return os.nice(0), os.environ.get("CUDA_VISIBLE_DEVICES"), os.getpid()

            def facts(gpu=()):
                container = Container.options(**resources_for(None, 100, gpu).actor_options()).remote()
                return container, ray.get(container.facts.remote(), timeout=30)

            cpu, (nice, visible, _) = facts()
            assert nice == 0
            assert not visible, visible
            fallback, (_, visible, _) = facts((GpuRequest(type="H100", count=2), GpuRequest(type="A100", count=2)))
            assert len(visible.split(",")) == 2
            anything, (_, visible, _) = facts((GpuRequest(type="ANY"),))
            assert len(visible.split(",")) == 1
            pids = everything()
            found = listening()
            began = time.monotonic()
            cluster.shutdown()
            cluster.shutdown()
            return pids, c.session_dir, sorted(found), time.monotonic() - began

        lives = [one_life(), one_life()]
        assert "RAY_AUTH_MODE" not in os.environ
        print(json.dumps(lives))
        """,
        tmp_path,
    )
    assert done.stderr == ""
    for pids, session_dir, found, shutdown_s in json.loads(done.stdout):
        assert len(pids) > 5
        assert found
        assert set(found) <= LOOPBACK
        wait_until_gone(pids, session_dir)
        assert shutdown_s < 10  # generous: a hang, not a slow machine


WAIT_WITH_CLUSTER = """
c = cluster.connect(settings, num_cpus=1)
import ray

@ray.remote(num_cpus=0)
class Container:
    def begin(self):
        import subprocess
        return subprocess.Popen(["setsid", "sleep", "300"]).pid

container = Container.remote()
sleeper = ray.get(container.begin.remote())
print(json.dumps([c.address, everything() + [sleeper], c.session_dir]), flush=True)
sys.stdin.readline()
"""


def test_a_killed_driver_takes_everything_with_it(tmp_path):
    driver = start(WAIT_WITH_CLUSTER, tmp_path)
    _, pids, session_dir = json.loads(driver.stdout.readline())
    assert os.path.isdir(session_dir)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    wait_until_gone(pids, session_dir)


def test_a_start_that_was_killed_half_way_is_swept_by_the_next(tmp_path):
    driver = start(
        """
        import ray._private.node as ray_node

        ray_node.Node.start_gcs_server = lambda self: os.kill(os.getpid(), 9)
        cluster.connect(settings)
        """,
        tmp_path,
    )
    assert driver.communicate(timeout=100) == ("", "")
    assert driver.returncode == -signal.SIGKILL
    sessions = Path(choose_tmpdir(Settings(home=tmp_path)))
    (left,) = sessions.glob(f"session_*_{driver.pid}")
    sweep(str(sessions))
    assert not left.exists()


def test_an_exit_without_shutdown_takes_everything_with_it(tmp_path):
    driver = start(WAIT_WITH_CLUSTER, tmp_path)
    _, pids, session_dir = json.loads(driver.stdout.readline())
    driver.communicate("\n", timeout=60)
    wait_until_gone(pids, session_dir)


def test_others_attach_by_address_and_leave_the_cluster_alive(tmp_path):
    owner = start(WAIT_WITH_CLUSTER, tmp_path / "owner")
    address, pids, session_dir = json.loads(owner.stdout.readline())
    attach = """
        c = cluster.connect(settings)
        import ray
        print(c.address, c.is_own, c.is_kept, len(c.nodes()))
        cluster.shutdown()
        assert not ray.is_initialized()
        assert "RAY_AUTH_MODE" not in os.environ
        """
    try:
        # Nobody says that it wants a token: that is found out, and undone.
        script = "settings = Settings(home=Path(sys.argv[1]), ray_address=os.environ.get('RAY_ADDRESS'))\n"
        by_variable = run(script + textwrap.dedent(attach), tmp_path, RAY_ADDRESS=address)
        assert by_variable.stdout.split() == [address, "False", "False", "1"]
        assert by_variable.stderr == ""
        assert owner.poll() is None
    finally:
        owner.communicate("\n", timeout=60)
    wait_until_gone(pids, session_dir)


def test_an_address_where_nobody_answers_is_one_clear_error(tmp_path):
    done = run(
        """
        from raymodal.exception import ConnectionError, InvalidError
        for address, kind in (("127.0.0.1:1", ConnectionError), ("ray://127.0.0.1:10001", InvalidError)):
            try:
                cluster.connect(Settings(home=Path(sys.argv[1]), address=address))
            except kind as error:
                print(error)
        """,
        tmp_path,
    )
    nobody, client = done.stdout.splitlines()
    assert "127.0.0.1:1" in nobody
    assert "--address or RAY_ADDRESS" in nobody
    assert "host:port" in client


def test_a_program_that_uses_ray_itself_keeps_its_ray(tmp_path):
    done = run(
        """
        import logging, ray
        ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        c = cluster.connect(settings)
        assert not c.is_own
        cluster.shutdown()
        assert ray.is_initialized()
        ray.shutdown()
        # It may also have ended its connection behind our back.
        ours = cluster.connect(settings, num_cpus=1)
        ray.shutdown()
        again = cluster.connect(settings, num_cpus=1)
        assert ours.is_own and again.is_own and ours.address != again.address
        assert not os.path.exists(ours.session_dir)
        cluster.shutdown()
        print("fine")
        """,
        tmp_path,
        RAY_AUTH_MODE="disabled",
    )
    assert done.stdout == "fine\n"


def test_the_fast_start_falls_back_to_the_plain_one(tmp_path):
    """Half way through. (A raylet that dies is another matter: once the driver connects to it, Ray's C++ part ends the driver.)"""
    done = run(
        """
        def fail():
            raise AttributeError("another Ray")
        node.free_port = fail
        c = cluster.connect(settings, num_cpus=1)
        import ray
        assert c.is_own and ray.get(ray.remote(lambda: 7).remote()) == 7
        pids = everything()
        cluster.shutdown()
        print(json.dumps([pids, c.session_dir, [str(p) for p in Path(c.session_dir).parent.glob(f"session_*_{os.getpid()}")]]))
        """,
        tmp_path,
    )
    pids, session_dir, sessions = json.loads(done.stdout)
    assert sessions == []
    wait_until_gone(pids, session_dir)


def test_a_cluster_started_on_a_passing_thread_outlives_it(tmp_path):
    run(
        """
        thread = threading.Thread(target=cluster.connect, args=(settings,), kwargs={"num_cpus": 1})
        thread.start()
        thread.join()
        import ray
        time.sleep(0.3)
        assert ray.get(ray.remote(lambda: 7).remote(), timeout=60) == 7
        cluster.shutdown()
        """,
        tmp_path,
    )


def test_output_comes_by_pipes_and_by_rays_channel(tmp_path):
    done = run(
        """
        c = cluster.connect(settings, num_cpus=2, log_monitor=True)
        import ray
        seen = []
        address = logs.follow_logs(lambda *line: seen.append(line), folder=c.session_dir)

        @ray.remote(num_cpus=0)
        class Container:
            def __init__(self, container_id, address):
                self.container_id = container_id
                self.attached = logs.attach_output(address, container_id)
            def __repr__(self):
                return f"raymodal:{self.container_id}"
            def work(self):
                import subprocess
                for i in range(200):
                    print("line", i)
                print("oh", file=sys.stderr)
                subprocess.run(["echo", "child"])
                return self.attached
            def end(self):
                logs.end_output(self.container_id)
            def die(self):
                print("last words")
                os._exit(1)

        near, far, dying = Container.remote("near", address), Container.remote("far", "/nowhere"), Container.remote("dying", address)
        assert ray.get([near.work.remote(), far.work.remote()]) == [True, False]
        # A pipe is faster than the answer of the call that printed.
        assert [line for line, _, meta in seen if meta["container_id"] == "near"][:1] == ["line 0"]
        ray.get([near.end.remote(), far.end.remote()])
        try:
            ray.get(dying.die.remote())
        except ray.exceptions.RayActorError:
            pass
        assert logs.wait_for_end(["near", "far", "dying"], 30)
        for name in ("near", "far"):
            out = [line for line, is_err, meta in seen if meta["container_id"] == name and not is_err]
            assert out == [f"line {i}" for i in range(200)] + ["child"], (name, out)
            assert [line for line, is_err, meta in seen if meta["container_id"] == name and is_err] == ["oh"]
        assert [line for line, _, meta in seen if meta["container_id"] == "dying"] == ["last words"]
        time.sleep(0.5)  # time for Ray to say something about the worker that died
        logs.stop_following()
        cluster.shutdown()
        print("fine")
        """,
        tmp_path,
    )
    assert done.stdout == "fine\n"
    assert done.stderr == ""
