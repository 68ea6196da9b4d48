"""The first-run checks: facts in, one clear line out. No Ray is started, and none is imported."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import sys
import threading
from dataclasses import replace

import pytest

from raymodal import config
from raymodal.config import Settings
from raymodal.engine.ray.cluster import bytecode, ending
from raymodal.engine.ray.cluster.attach import explain_version_mismatch
from raymodal.engine.ray.cluster.connection import on_lasting_thread
from raymodal.engine.ray.cluster.ending import LOCK_FILE, hold_session, sweep
from raymodal.engine.ray.cluster.machine import (
    LONGEST_TMPDIR,
    MachineFacts,
    check_machine,
    choose_tmpdir,
    store_size,
)
from raymodal.engine.ray.cluster.quiet import keep_sigterm_handler
from raymodal.engine.ray.template import node

GIB = 1 << 30
GOOD = MachineFacts(
    platform="linux",
    tmpdir="/tmp/raymodal-1000",
    memory_bytes=16 * GIB,
    shm_bytes=8 * GIB,
    disk_bytes=100 * GIB,
    disk_free_bytes=50 * GIB,
)


def test_a_good_machine_has_no_problems():
    assert check_machine(GOOD) == []
    assert check_machine(replace(GOOD, platform="darwin", shm_bytes=None)) == []


@pytest.mark.parametrize(
    ("change", "fatal", "words"),
    [
        ({"platform": "win32"}, True, "Windows"),
        ({"tmpdir": "/tmp/" + "d" * 60}, True, "RAYMODAL_TMPDIR"),
        ({"disk_free_bytes": 1 * GIB}, True, "99 % full"),
        ({"shm_bytes": 63 << 20}, True, "--shm-size"),
        ({"shm_bytes": 64 << 20}, False, "slow"),
        ({"shm_bytes": 256 << 20}, False, "/dev/shm"),
    ],
)
def test_each_problem_is_one_line_with_the_way_out(change, fatal, words):
    [problem] = check_machine(replace(GOOD, **change))
    assert problem.is_fatal is fatal
    assert words in problem.text
    assert "\n" not in problem.text


def test_the_deepest_folder_that_passes_really_fits_into_a_socket_path(tmp_path):
    folder = "/" + "d" * (LONGEST_TMPDIR - 1)
    assert check_machine(replace(GOOD, tmpdir=folder)) == []
    path = f"{folder}/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(FileNotFoundError):  # not "path too long"
        probe.connect(path)
    with socket.socket(socket.AF_UNIX) as probe, pytest.raises(OSError, match="too long"):
        probe.connect("/d" + path)


def test_the_store_keeps_within_the_shared_memory():
    assert store_size(GOOD) == 16 * GIB * 3 // 10
    assert store_size(replace(GOOD, shm_bytes=GIB)) == GIB * 9 // 10
    assert store_size(replace(GOOD, shm_bytes=1)) == 76 << 20
    assert store_size(replace(GOOD, shm_bytes=None)) == 16 * GIB * 3 // 10


def test_a_version_mismatch_names_both_sides():
    text = explain_version_mismatch(
        "Version mismatch: The cluster was started with:\n    Ray: 2.60.0\n    Python: 3.12.1\n"
        "This process on node 10.0.0.1 was started with:\n    Ray: 2.60.0\n    Python: 3.11.7\n"
    )
    assert text is not None
    assert "Python 3.12.1" in text
    assert "Python 3.11.7" in text
    assert "\n" not in text
    assert explain_version_mismatch("connection refused") is None


def test_the_temporary_folder_is_ours_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", "/tmp")
    chosen = choose_tmpdir(Settings(home=tmp_path))
    assert os.stat(os.path.dirname(chosen)).st_mode & 0o777 == 0o700  # Ray opens its own folder to everybody
    assert chosen == choose_tmpdir(Settings(home=tmp_path))
    assert choose_tmpdir(Settings(home=tmp_path, tmpdir="/x/y")) == "/x/y"


def test_without_any_home_there_is_a_private_one(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(pwd, "getpwuid", lambda uid: {}[uid])
    for name in ("HOME", "RAYMODAL_HOME"):
        monkeypatch.delenv(name, raising=False)
    config.reset()
    try:
        home = config.settings().home
    finally:
        config.reset()
    assert home == tmp_path / f"raymodal-{os.getuid()}" / "home"
    assert home.parent.stat().st_mode & 0o777 == 0o700


def test_a_temporary_folder_that_is_too_deep_is_passed_over(tmp_path, monkeypatch):
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    assert not choose_tmpdir(Settings(home=tmp_path)).startswith(str(deep))


def test_sessions_of_the_dead_are_swept_and_those_of_the_living_are_not(tmp_path):
    dead, living, foreign = (tmp_path / f"session_{name}" for name in ("dead", "living", "foreign"))
    for folder in (dead, living, foreign):
        (folder / "logs").mkdir(parents=True)
    (dead / LOCK_FILE).touch()
    held = hold_session(str(living))
    assert held is not None
    sweep(str(tmp_path))
    assert [folder.exists() for folder in (dead, living, foreign)] == [False, True, True]
    os.close(held)
    sweep(str(tmp_path))
    assert not living.exists()


def test_no_sweep_comes_before_the_lock_is_held(tmp_path, monkeypatch):
    living = tmp_path / "session_living"
    living.mkdir()
    original = ending.fcntl.flock

    def flock(fd, how):
        monkeypatch.undo()
        sweep(str(tmp_path))
        original(fd, how)

    monkeypatch.setattr(ending.fcntl, "flock", flock)
    held = hold_session(str(living))
    assert held is not None
    assert os.listdir(living) == [LOCK_FILE]
    os.close(held)


@pytest.mark.parametrize("has_open", [ending._has_open, node._has_open])
def test_a_file_that_is_closed_meanwhile_hides_no_other(tmp_path, monkeypatch, has_open):
    original = os.readlink
    gone = []

    def readlink(path):
        if not gone:
            gone.append(path)
            raise FileNotFoundError(path)
        return original(path)

    monkeypatch.setattr(os, "readlink", readlink)
    with (tmp_path / "log").open("w"):
        assert has_open(os.getpid(), str(tmp_path))
    assert gone
    assert not has_open(os.getpid(), str(tmp_path))


def test_the_cluster_starts_on_a_thread_that_lasts():
    seen: list[threading.Thread] = []
    starter = threading.Thread(
        target=lambda: on_lasting_thread(lambda: seen.append(threading.current_thread())), daemon=True
    )
    starter.start()
    starter.join()
    assert seen[0] is not starter
    assert seen[0].is_alive()
    on_lasting_thread(lambda: seen.append(threading.current_thread()))
    assert seen[1] is threading.main_thread()


def test_an_error_on_the_lasting_thread_reaches_the_caller():
    caught: list[BaseException] = []

    def run() -> None:
        def fail() -> None:
            raise KeyError("x")

        try:
            on_lasting_thread(fail)
        except KeyError as error:
            caught.append(error)

    starter = threading.Thread(target=run)
    starter.start()
    starter.join()
    assert len(caught) == 1


def test_the_programs_own_sigterm_handler_comes_back():
    def mine(*_: object) -> None: ...

    before = signal.signal(signal.SIGTERM, mine)
    try:
        restore = keep_sigterm_handler()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        restore()
        assert signal.getsignal(signal.SIGTERM) is mine
    finally:
        signal.signal(signal.SIGTERM, before)


def test_bytecode_goes_home_only_where_ray_has_none(tmp_path, monkeypatch):
    package = tmp_path / "ray"
    (package / "_private").mkdir(parents=True)
    (package / "__init__.py").touch()
    source = package / "_private" / "worker.py"
    source.touch()
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: type("S", (), {"origin": str(package / "__init__.py")})
    )
    home = tmp_path / "home"
    assert bytecode.environment(home) == {
        "PYTHONPYCACHEPREFIX": str(home / "pycache"),
        "PYTHONDONTWRITEBYTECODE": "",
    }
    compiled = bytecode.importlib.util.cache_from_source(str(source))
    os.makedirs(os.path.dirname(compiled))
    open(compiled, "w").close()
    assert bytecode.environment(home) == {}
