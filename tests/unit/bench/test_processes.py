"""Children: their protocol, their failures and their end."""

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from benchmarks import machine
from benchmarks.processes import Child, ChildError, Workplace, child_environment, descendants, end_descendants

ROOT = Path(__file__).parents[3]
STEADY = "scenarios.selftest:steady"


@pytest.fixture
def place():
    with Workplace() as place:
        yield place


def wait_until(condition, timeout_s=10.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def test_a_session_from_open_to_close(place):
    """Opened once, run often, closed; two sessions share a child."""
    child = place.child("c", kind="plain")
    for session, figure in (("a", 1.5), ("b", 2.5)):
        child.ask("open", session=session, ref=STEADY, params={"figure": figure}, timeout_s=20)

    assert child.ask("round", session="a", timeout_s=20)["figures"] == {"took": 1.5}
    assert child.ask("round", session="b", timeout_s=20)["figures"] == {"took": 2.5}
    child.ask("close", session="a", timeout_s=20)
    child.ask("close", session="a", timeout_s=20)
    assert child.ask("round", session="b", timeout_s=20)["figures"] == {"took": 2.5}


def test_a_failure_is_reported_and_survived(place):
    """The traceback starts in the scenario, and the child answers on."""
    child = place.child("c", kind="plain")
    with pytest.raises(ChildError) as caught:
        child.ask("open", session="a", ref="scenarios.selftest:unopened", params={}, timeout_s=20)

    assert "RuntimeError: this session failed on purpose" in str(caught.value)
    assert "in main" not in str(caught.value)
    child.ask("open", session="a", ref=STEADY, params={"figure": 1}, timeout_s=20)


def test_a_dead_child_leaves_its_last_words(place):
    """Exit status and output; the next one of that name is new."""
    child = place.child("c", kind="plain")
    child.ask("open", session="a", ref="scenarios.selftest:dying", params={}, timeout_s=20)
    with pytest.raises(ChildError, match=r"exit status 3[\s\S]*these are my last words"):
        child.ask("round", session="a", timeout_s=20)
    with pytest.raises(ChildError, match="the process ended"):
        child.ask("round", session="a", timeout_s=20)

    assert child.pid != place.child("c", kind="plain").pid


def test_a_child_that_hangs_is_ended(place):
    """It gets its time, and is gone after it."""
    child = place.child("c", kind="plain")
    child.ask("open", session="a", ref="scenarios.selftest:hanging", params={}, timeout_s=20)
    with pytest.raises(ChildError, match=r"no answer within 0\.3 s"):
        child.ask("round", session="a", timeout_s=0.3)

    assert not child.is_alive


def test_nothing_is_left_behind():
    """Not even a process in a session of its own whose parent is gone."""
    with Workplace() as place:
        child = place.child("c", kind="plain")
        child.ask("open", session="a", ref="scenarios.selftest:hanging", params={}, timeout_s=20)
        with pytest.raises(ChildError):
            child.ask("round", session="a", timeout_s=0.5)
        wait_until(lambda: descendants(os.getpid()))
        folder = place.folder

    assert descendants(os.getpid()) == []
    assert not folder.exists()


def test_strangers_are_left_alone():
    """A process that was there before is none of ours."""
    with subprocess.Popen(["sleep", "60"]) as stranger:
        with Workplace() as place:
            place.child("c", kind="plain")
        assert stranger.poll() is None
        assert [stranger.pid] == descendants(os.getpid())
        end_descendants(frozenset({stranger.pid}))
        assert stranger.poll() is None
        stranger.kill()


def test_a_child_ends_with_its_driver(tmp_path):
    """Killed without a word, the driver leaves no child."""
    code = textwrap.dedent("""
        import os, sys, time
        from pathlib import Path
        from benchmarks.processes import Child, child_environment
        folder = Path(sys.argv[1])
        child = Child("c", folder=folder, env=child_environment(os.environ, folder))
        child.ask("open", session="a", ref="scenarios.selftest:hanging", params={}, timeout_s=20)
        os.write(child._request_fd, b'{"op": "round", "session": "a"}\\n')
        print(child.pid, flush=True)
        time.sleep(60)
    """)
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as driver:
        assert driver.stdout is not None
        child = int(driver.stdout.readline())
        below = []
        wait_until(lambda: below.extend(descendants(child)) or below)
        driver.kill()
        driver.wait()
        try:
            wait_until(lambda: not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text())
        finally:
            # The driver was to sweep this one, and was killed before it could.
            for pid in below:
                os.kill(pid, 9)


def test_contenders_see_no_settings_of_ours(tmp_path):
    """A cluster in use is not measured by accident; bytecode is written as it is for users."""
    environ = {"RAY_ADDRESS": "x", "RAYMODAL_HOME": "/home", "PYTHONDONTWRITEBYTECODE": "1", "PATH": "/bin"}
    env = child_environment({**environ, "PYTHONPATH": "/mine"}, tmp_path)

    assert env["PATH"] == "/bin"
    assert {"RAY_TMPDIR"} == {key for key in env if key.startswith("RAY_")}
    assert str(tmp_path / "home") == env["RAYMODAL_HOME"]
    assert "PYTHONDONTWRITEBYTECODE" not in env
    assert [str(ROOT), "/mine"] == env["PYTHONPATH"].split(os.pathsep)


def test_closing_twice(tmp_path):
    """The second time nothing happens."""
    child = Child("c", folder=tmp_path, env=child_environment(os.environ, tmp_path))
    child.close()
    child.close()

    assert not child.is_alive


def test_machine_facts():
    """All there without importing Ray."""
    facts = machine.facts()

    assert {"cores", "cpu", "memory_gib", "system", "python", "ray", "raymodal", "bytecode", "commit"} == set(facts)
    assert facts["cores"] >= 1
    assert len(machine.load_average()) == 3


def test_machine_facts_from_files(tmp_path):
    """The kernel's tables, and what is said where there are none."""
    cpuinfo, meminfo = tmp_path / "cpuinfo", tmp_path / "meminfo"
    cpuinfo.write_text("processor : 0\nmodel name\t: Fast One\n")
    meminfo.write_text("MemTotal:  2048 kB\nMemFree: 1 kB\n")

    assert machine.cpu_model(cpuinfo) == "Fast One"
    assert machine.memory_bytes(meminfo) == 2048 * 1024
    assert machine.memory_bytes(tmp_path / "none") == 0
    assert machine.cpu_model(tmp_path / "none")
    assert machine.git_commit(tmp_path / "none") is None
    assert machine.version_of("no-such-distribution") is None
    assert machine.has_bytecode("no_such_package") is None
