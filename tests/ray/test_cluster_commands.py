"""`raymodal cluster`: a Ray that outlives programs, and leaves nothing behind when it ends, however it ends."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import signal
import socket
import stat
import struct
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from raymodal.engine.ray.cluster import record as records
from raymodal.engine.ray.cluster.ending import members
from raymodal.engine.ray.cluster.record import Record
from tests.ray.processes import RAYMODAL, Done, Shell, descendants, is_alive, wait_until, wait_until_gone

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]

PROGRAM = """
import os
import modal

app = modal.App("kept")

@app.function()
def f(x):
    return x + 1, os.getpid()

@app.local_entrypoint()
def main():
    from raymodal.engine import current
    value, pid = f.remote(20)
    print("value", value, "kept", current.get_engine().cluster.is_kept)
"""


@dataclass
class Kept:
    """A cluster that `up` keeps, in a home of its own."""

    shell: Shell
    home: Path

    def __call__(self, *arguments: str, **env: str) -> Done:
        return self.shell.raymodal("cluster", *arguments, **env)

    @property
    def record(self) -> Record:
        found = records.read(self.home)
        assert found is not None
        return found

    def everything(self) -> list[int]:
        """All that belongs to it."""
        record = self.record
        return sorted({record.keeper, *descendants(record.keeper), *members(record.session, record.session_dir)})


def make(folder: Path) -> Kept:
    home = folder / "home"
    shell = Shell(folder, home)
    shell.write("program.py", PROGRAM)
    return Kept(shell, home)


@contextlib.contextmanager
def ending(kept: Kept) -> Iterator[Kept]:
    """Whatever a test does, its cluster is gone afterwards."""
    try:
        yield kept
    finally:
        record = records.read(kept.home)
        pids = kept.everything() if record is not None else []
        kept("down")
        wait_until_gone(pids)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kept]:
    """One cluster for the tests that leave it alive."""
    with ending(make(tmp_path_factory.mktemp("kept"))) as kept:
        done = kept("up", "--num-cpus", "2")
        assert done.code == 0, done
        assert kept.record.address in done.out
        yield kept


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Kept]:
    """No cluster yet."""
    with ending(make(tmp_path)) as kept:
        yield kept


def test_up_keeps_a_private_cluster_that_is_nobodys_child(kept: Kept) -> None:
    """Its own session, no terminal, and a record that only its owner can read."""
    record = kept.record

    assert stat.S_IMODE((kept.home / records.FILE).stat().st_mode) == 0o600
    assert os.getsid(record.keeper) != os.getsid(0)
    assert record.keeper not in descendants(os.getpid())
    assert os.readlink(f"/proc/{record.keeper}/fd/0") == os.devnull
    assert record.auth == "token"
    assert record.token_path is not None
    assert stat.S_IMODE(os.stat(record.token_path).st_mode) == 0o600
    assert stat.S_IMODE(Path(record.session_dir).parents[1].stat().st_mode) == 0o700


def test_a_second_up_says_that_one_runs(kept: Kept) -> None:
    """It is not started twice, and options that come too late are not swallowed."""
    again = kept("up")
    late = kept("up", "--num-cpus", "1")

    assert (again.code, late.code) == (0, 1)
    assert f"runs already: {kept.record.address}" in again.out
    assert "--num-cpus had no effect" in late.err


def test_programs_attach_by_themselves_and_their_containers_are_forked(kept: Kept) -> None:
    """From another process, which knows nothing of a token."""
    before = json.loads(kept("status", "--json").out)
    done = kept.shell.raymodal("run", "program.py")
    after = json.loads(kept("status", "--json").out)

    assert (done.code, done.out) == (0, "value 21 kept True\n"), done
    assert sum(one["forked"] for one in after["workers"]) > sum(one["forked"] for one in before["workers"])
    assert [one["plain"] for one in after["workers"]] == [{}]
    assert after["workers"][0]["is_template_alive"]


def test_a_killed_program_leaves_nothing_outside_the_session(kept: Kept) -> None:
    """The socket to which its containers print lies in the session's folder, which goes with the cluster."""
    program = PROGRAM + "    print(current.get_engine()._following, flush=True)\n    os.kill(os.getpid(), 9)\n"
    kept.shell.write("killed.py", program)
    done = kept.shell.raymodal("run", "-q", "killed.py")

    assert done.code == -signal.SIGKILL, done
    assert Path(done.out.splitlines()[-1]).parents[1] == Path(kept.record.session_dir)


ENDING = """
import atexit, sys, threading, time
import modal

app = modal.App("ending")

@app.function()
def f(x):
    return x

def late():
    time.sleep(0.3)
    print("thread", flush=True)

@app.local_entrypoint()
def main(code: int):
    atexit.register(lambda: print("handler"))
    threading.Thread(target=late).start()
    sys.stdout.write(f"value {f.remote(1)}\\n")
    if code:
        raise SystemExit(code)
"""


@pytest.mark.parametrize("code", [0, 5])
def test_a_program_ends_in_pythons_order(kept: Kept, code: int) -> None:
    """The command leaves Ray without taking it apart; the program's threads and exit handlers have run by then."""
    kept.shell.write("ending.py", ENDING)
    done = kept.shell.raymodal("run", "-q", "ending.py", "--code", str(code))

    assert done == Done(code, "value 1\nthread\nhandler\n", "")


def test_the_address_that_status_shows_works_too(kept: Kept) -> None:
    """It is the same cluster, with the same token."""
    done = kept.shell.raymodal("run", "--address", kept.record.address, "program.py")

    assert (done.code, done.out) == (0, "value 21 kept True\n"), done


def test_the_process_is_as_before_once_it_has_left(kept: Kept) -> None:
    """Neither the environment nor Ray's mode stays changed: a cluster without a token can be used next."""
    program = """
        import os
        from raymodal.config import settings
        from raymodal.engine.ray import cluster
        import ray
        rays = lambda: {name: value for name, value in os.environ.items() if name.startswith("RAY")}
        before = rays()
        assert cluster.connect(settings()).is_kept
        import ray
        assert ray.get(ray.remote(lambda: 7).options(num_cpus=0).remote(), timeout=60) == 7
        cluster.shutdown()
        assert rays() == before, rays()
        from ray._raylet import AuthenticationMode, get_authentication_mode
        assert get_authentication_mode() == AuthenticationMode.DISABLED
        print("fine")
    """
    done = kept.shell.python(str(kept.shell.write("leaves.py", "if True:\n" + program)))

    assert (done.code, done.out, done.err) == (0, "fine\n", "")


def test_status_says_what_to_type_for_rays_tools(kept: Kept) -> None:
    """With the variables that it shows, `ray status` finds the cluster."""
    shown = kept("status")
    exports = json.loads(kept("status", "--json").out)["exports"]
    line = next(line for line in shown.out.splitlines() if line.strip().startswith("export "))

    assert shown.code == 0
    assert line.split()[1:] == [f"{name}={value}" for name, value in exports.items()]
    assert "2 of 2 CPUs free" in shown.out
    ray = str(Path(sys.executable).with_name("ray"))

    def has_node() -> bool:  # Ray's monitor writes it down every five seconds
        return "1 node_" in kept.shell.start(ray, "status", **exports).finish().out

    wait_until(has_node, lambda: "ray status never showed the node")


def test_rays_dashboard(fresh: Kept) -> None:
    """`--dashboard`: on loopback, for whoever has the cluster's token, at the address that is printed."""
    done = fresh("up", "--dashboard", "--num-cpus", "1")
    assert done.code == 0, done
    url = next(line.split()[1] for line in done.out.splitlines() if line.startswith("Dashboard: "))
    assert url.startswith("http://127.0.0.1:")
    assert url in fresh("status").out
    token = Path(fresh.record.token_path).read_text().strip()
    request = urllib.request.Request(f"{url}/api/version", headers={"Authorization": f"Bearer {token}"})
    answers: list[str] = []

    def answered() -> bool:
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(request, timeout=10) as response:
            answers.append(json.load(response)["ray_version"])
        return bool(answers)

    wait_until(answered, lambda: f"nothing at {url}")
    assert answers == [importlib.metadata.version("ray")]


def test_others_homes_have_no_part_in_it(kept: Kept, tmp_path: Path) -> None:
    """Another user has another home."""
    other = make(tmp_path)

    done = other("status")
    assert done.code == 3
    assert "raymodal cluster up" in done.out
    assert json.loads(other("status", "--json").out)["is_there"] is False
    assert other("down").out == "No cluster is kept, so there is nothing to end.\n"
    assert is_alive(kept.record.keeper)


def test_changed_code_gets_a_new_template(kept: Kept) -> None:
    """A template goes on with what it has imported, so one that is older than the installed code is replaced."""
    record = kept.record
    old = template_of(record)
    records.write(kept.home, Record(**{**vars(record), "code": "older"}))

    assert "has changed since" in kept("status").out
    done = kept.shell.raymodal("run", "program.py")

    assert (done.code, done.out) == (0, "value 21 kept True\n"), done
    assert kept.record.code == record.code
    assert not is_alive(old)
    assert template_of(record) != old


def template_of(record: Record) -> int:
    """The process that listens on the template's socket."""
    (path,) = Path(record.session_dir).glob("template-*/s")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])


def test_another_version_is_one_clear_line(kept: Kept) -> None:
    """Ray would take its time, and say it in ten lines."""
    record = kept.record
    records.write(kept.home, Record(**{**vars(record), "python": "3.9.1"}))
    try:
        done = kept.shell.raymodal("run", "program.py")
    finally:
        records.write(kept.home, record)

    assert done.code == 1
    (line,) = done.err.splitlines()
    assert "Python 3.9.1" in line
    assert "raymodal cluster down" in line


def test_down_leaves_nothing(fresh: Kept) -> None:
    """Not even with a program on it, and what that has started."""
    assert fresh("up").code == 0
    record, pids = fresh.record, fresh.everything()
    fresh.shell.write(
        "busy.py",
        PROGRAM.replace(
            "return x + 1",
            "print('busy', flush=True); import subprocess; subprocess.Popen(['setsid', 'sleep', '300']); import time; time.sleep(300); return 0",
        ),
    )
    program = fresh.shell.start(RAYMODAL, "run", "busy.py")
    program.wait_for("busy")
    pids = sorted({*pids, *fresh.everything()})
    try:
        done = fresh("down")
        wait_until_gone([pid for pid in pids if pid != program.process.pid])
    finally:
        program.signal(signal.SIGKILL)
        program.process.wait()

    assert done.code == 0
    assert f"Ended the cluster at {record.address}" in done.out
    assert not Path(record.session_dir).exists()
    assert not (fresh.home / records.FILE).exists()
    assert fresh("status").code == 3


def test_half_a_cluster_ends_itself(fresh: Kept) -> None:
    """Without one of its two daemons there is no cluster, so the rest goes too."""
    assert fresh("up").code == 0
    ends_with(fresh, "raylet")


def test_where_the_fast_start_fails_ray_starts_plainly(fresh: Kept, tmp_path: Path) -> None:
    """Here because no shell is found; it says so, and is kept and ended in the same way."""
    done = fresh("up", PATH=str(tmp_path))

    assert done.code == 0, done
    assert "Ray was started plainly" in done.err
    assert "no template was started" in fresh("status").out
    ends_with(fresh, "gcs_server")


def ends_with(kept: Kept, daemon: str) -> None:
    """Kill it, and see the rest go."""
    record, pids = kept.record, kept.everything()
    os.kill(record.processes[daemon], signal.SIGKILL)
    wait_until_gone(pids)

    assert not Path(record.session_dir).exists()
    assert kept("status").code == 3


def test_what_a_crash_left_is_found_and_removed(fresh: Kept) -> None:
    """Keeper and watchdog killed, as by a kernel out of memory: the next command says so in a line, and clears up."""
    assert fresh("up").code == 0
    record, pids = fresh.record, fresh.everything()
    watchdogs = [pid for pid in pids if b"raymodal-watchdog" in _command(pid)]
    assert len(watchdogs) == 1
    for pid in (*watchdogs, record.keeper):
        os.kill(pid, signal.SIGKILL)
    wait_until_gone([record.keeper, *record.processes.values()])
    assert Path(record.session_dir).exists()

    done = fresh.shell.raymodal("run", "program.py")
    assert (done.code, done.out) == (0, "value 21 kept False\n"), done
    assert [line for line in done.err.splitlines() if "has died" in line and record.address in line] != [], done.err
    assert not Path(record.session_dir).exists()
    assert not (fresh.home / records.FILE).exists()
    wait_until_gone(pids)
    assert "has died" not in fresh("status").err


def test_of_two_starts_at_once_one_wins(fresh: Kept) -> None:
    """Both end well, and there is one cluster."""
    both = [fresh.shell.start(RAYMODAL, "cluster", "up") for _ in range(2)]
    done = [program.finish() for program in both]

    assert [one.code for one in done] == [0, 0], done
    assert sorted("runs already" in one.out for one in done) == [False, True]
    assert all(fresh.record.address in one.out for one in done)


def test_an_up_that_is_killed_leaves_nothing(fresh: Kept) -> None:
    """Nobody was told of the cluster, so nobody could end it."""
    program = fresh.shell.start(RAYMODAL, "cluster", "up")
    wait_until(lambda: any(b"keeper" in _command(pid) for pid in program.descendants()))
    pids = program.descendants()
    program.signal(signal.SIGKILL)
    wait_until_gone(pids)

    assert records.look(fresh.home)[0] is records.State.NONE
    program.process.wait()


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def test_no_start_is_one_line(fresh: Kept, tmp_path: Path) -> None:
    """What is wrong reaches whoever typed `up`, from a process that has no terminal."""
    done = fresh("up", RAYMODAL_TMPDIR=str(tmp_path / ("d" * 60)))

    assert done.code == 1
    (line,) = done.err.splitlines()
    assert "RAYMODAL_TMPDIR" in line
    assert records.look(fresh.home)[0] is records.State.NONE


def test_a_dashboard_without_its_packages_is_one_line() -> None:
    """Plain `ray` lacks them; Ray itself would start without a word about it."""
    from ray._private import utils

    from raymodal.engine.ray.cluster import keeper
    from raymodal.exception import ExecutionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(utils, "get_dashboard_dependency_error", lambda: ImportError("No module named 'aiohttp_cors'"))
        with pytest.raises(ExecutionError, match=r"aiohttp_cors.*pip install 'ray\[default\]'"):
            keeper._check_dashboard()


def test_a_node_of_yours_forks_its_workers(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """`raymodal cluster node -- --head`: Ray's own `ray start`, with the template in it; `--address` attaches."""
    from raymodal.engine.ray.cluster.node import free_port

    mine = make(tmp_path)
    address = f"127.0.0.1:{free_port()}"
    quick = ["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=100000000", "--num-cpus=2"]
    folder = tmp_path_factory.mktemp("r")  # short, for Ray's sockets
    start = ["--head", f"--port={address.split(':')[1]}", "--block", *quick, f"--temp-dir={folder}"]
    head = mine.shell.start(RAYMODAL, "cluster", "node", "--", *start)
    below: list[int] = []
    try:
        head.wait_for("Ray runtime started")
        below = head.descendants()
        view: dict[str, Any] = json.loads(mine("status", "--address", address, "--json").out)
        done = mine.shell.raymodal("run", "--address", address, "program.py")
        (starts,) = folder.glob("session_2*/template-*/starts")
        lines = starts.read_text().splitlines()
    finally:
        head.signal(signal.SIGTERM)
        below += head.descendants()
        head.finish()
        for pid in below:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_until_gone(below)

    assert [node["is_forked"] for node in view["nodes"]] == [True]
    assert (done.code, done.out) == (0, "value 21 kept False\n"), done
    assert {line.split()[0] for line in lines} == {"forked"}
