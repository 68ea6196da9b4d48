"""The kept cluster as its record tells it, and what is shown of a cluster. No Ray is started, and none is imported."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from raymodal.config import Settings
from raymodal.engine.ray.cluster import kept
from raymodal.engine.ray.cluster import record as records
from raymodal.engine.ray.cluster.bytecode import Cache
from raymodal.engine.ray.cluster.look import Node, View, Workers, exports_for
from raymodal.engine.ray.cluster.record import Record, State
from raymodal.exception import ExecutionError

RECORD = Record(
    address="127.0.0.1:1",
    session_dir="/nowhere/session_x",
    session="kept-1-x",
    keeper=os.getpid(),
    ray="2.60.0",
    python="3.11.7",
    machine=records.machine(),
    since="2026-01-01T00:00:00+00:00",
    token_path="/home/me/token",
)


def test_the_record_comes_back_as_it_was_and_is_private(tmp_path: Path) -> None:
    """Nobody else reads it, and no half of one is ever seen."""
    records.write(tmp_path, RECORD)

    assert records.read(tmp_path) == RECORD
    assert stat.S_IMODE((tmp_path / records.FILE).stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == [records.FILE]


@pytest.mark.parametrize("broken", ["", "{", "[]", "{}", '{"address": "127.0.0.1:1"}', "null"])
def test_a_broken_record_is_none(tmp_path: Path, broken: str) -> None:
    """And what is there counts as the dead's."""
    (tmp_path / records.FILE).write_text(broken)

    assert records.read(tmp_path) is None
    assert records.look(tmp_path) == (State.DEAD, None)
    assert kept.find(tmp_path)[0] is None
    assert records.look(tmp_path) == (State.NONE, None)


def test_a_field_that_a_later_version_added_does_no_harm(tmp_path: Path) -> None:
    """An older raymodal reads what a newer one wrote."""
    (tmp_path / records.FILE).write_text(json.dumps({**asdict(RECORD), "colour": "blue"}))

    assert records.read(tmp_path) == RECORD


def test_the_lock_tells_the_living_from_the_dead(tmp_path: Path) -> None:
    """None, then starting, then alive, then dead."""
    seen = [records.look(tmp_path)[0]]
    lock = records.take(tmp_path)
    assert lock is not None
    seen.append(records.look(tmp_path)[0])
    records.write(tmp_path, RECORD)
    seen.append(records.look(tmp_path)[0])
    assert records.take(tmp_path, within_s=0) is None
    os.close(lock)
    seen.append(records.look(tmp_path)[0])

    assert seen == [State.NONE, State.STARTING, State.LIVE, State.DEAD]


def test_while_one_starts_the_record_of_the_dead_does_not_count(tmp_path: Path) -> None:
    """The lock is held, but not by the one that the record names."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    records.write(tmp_path, replace(RECORD, keeper=child.pid))
    lock = records.take(tmp_path)
    assert lock is not None

    assert records.look(tmp_path) == (State.STARTING, None)
    os.close(lock)


def test_a_home_shared_with_another_machine(tmp_path: Path) -> None:
    """That cluster is neither used nor removed here, and the commands say where it is."""
    records.write(tmp_path, replace(RECORD, machine="elsewhere"))

    assert kept.find(tmp_path) == (None, None)
    with pytest.raises(ExecutionError, match="elsewhere"):
        kept.down(tmp_path)
    with pytest.raises(ExecutionError, match="elsewhere"):
        kept.up(Settings(home=tmp_path), {})
    assert records.read(tmp_path) is not None


def test_what_a_crash_left_is_removed_with_one_line(tmp_path: Path) -> None:
    """Processes that carry the session's mark, its folder, the record; and only these."""
    session_dir = tmp_path / "session_dead"
    (session_dir / "logs").mkdir(parents=True)
    other = tmp_path / "session_other"
    other.mkdir()
    record = replace(RECORD, session="kept-dead", session_dir=str(session_dir))
    records.write(tmp_path, record)
    with subprocess.Popen(
        ["sh", "-c", "echo ready; read line"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "RAYMODAL_SESSION": "kept-dead"},
    ) as left:
        try:
            assert left.stdout is not None
            left.stdout.readline()
            found, line = kept.find(tmp_path)
            ended = left.wait(10)
        finally:
            left.kill()

    assert ended == -signal.SIGKILL
    assert found is None
    assert line is not None
    assert "127.0.0.1:1" in line
    assert "\n" not in line
    assert not session_dir.exists()
    assert other.exists()
    assert kept.find(tmp_path) == (None, None)


def test_a_record_cannot_have_any_folder_removed(tmp_path: Path) -> None:
    """Only what is named like a session of Ray."""
    precious = tmp_path / "precious"
    precious.mkdir()
    records.write(tmp_path, replace(RECORD, session_dir=str(precious)))
    kept.find(tmp_path)

    assert precious.exists()


def test_a_home_that_cannot_be_written_is_one_line() -> None:
    """Nothing can be kept there, and looking finds nothing."""
    home = Path("/dev/null/home")
    with pytest.raises(ExecutionError, match="/dev/null/home cannot be written.*RAYMODAL_HOME"):
        kept.up(Settings(home=home), {})
    assert kept.find(home) == (None, None)


def test_the_fingerprint_changes_with_the_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was saved, or a package that was installed anew."""
    import raymodal

    file = tmp_path / "sub" / "a.py"
    file.parent.mkdir()
    file.touch()
    (tmp_path / "__init__.py").touch()
    monkeypatch.setattr(raymodal, "__file__", str(tmp_path / "__init__.py"))
    first = records.fingerprint()
    assert records.fingerprint() == first
    os.utime(file, ns=(1, 1 << 62))

    assert records.fingerprint() != first


NODE = Node("box", 8.0, 2.0, 16 << 30, 6.5, 1.0, 8 << 30, "A100", True)


def test_status_tells_what_is_there() -> None:
    """Resources, how workers started and why not, what to type."""
    view = View(
        True,
        address="127.0.0.1:1",
        is_kept=True,
        since="yesterday",
        uptime_s=90_061,
        ray="2.60.0",
        python="3.11.7",
        nodes=(NODE,),
        workers=(Workers(3, {"a runtime environment": 2}, True, None),),
        exports={"RAY_ADDRESS": "127.0.0.1:1"},
        bytecode=Cache("package"),
    )
    text = "\n".join(view.lines())

    assert "up 1 d 1 h 1 min 1 s" in text
    assert "6.5 of 8 CPUs free, 1 of 2 A100 free, 8.0 of 16.0 GiB free" in text
    assert "3 forked, 2 as Ray starts them" in text
    assert "2 x a runtime environment" in text
    assert "export RAY_ADDRESS=127.0.0.1:1" in text
    json.dumps(view.as_dict())


def test_status_says_why_there_is_no_template() -> None:
    """The reason, or that the next worker starts one."""
    view = View(True, is_kept=True, workers=(Workers(0, {}, False, "the template has 2 threads"),))
    assert "  no template: the template has 2 threads" in view.lines()
    view = replace(view, workers=(Workers(0, {}, False, None),))
    assert "  no template lives; the next worker starts one" in view.lines()
    assert any("RAYMODAL_FORK=0" in line for line in replace(view, workers=()).lines())


def test_a_cluster_of_others_is_told_what_it_would_gain() -> None:
    """Only where some node does without."""
    plain = View(True, address="10.0.0.1:6379", nodes=(NODE, replace(NODE, is_forked=False)))
    forked = replace(plain, nodes=(NODE,))

    assert "workers are forked on 1 of 2 nodes" in "\n".join(plain.lines())
    assert "raymodal cluster node" in "\n".join(plain.lines())
    assert "raymodal cluster node" not in "\n".join(forked.lines())


def test_no_cluster_names_the_next_step() -> None:
    """And the state of the bytecode, which does not need one."""
    lines = View(False, bytecode=Cache("filled", "/home/me/pycache", 700)).lines()

    assert "raymodal cluster up" in "\n".join(lines)
    assert "700 modules compiled in /home/me/pycache" in "\n".join(lines)


def test_exports_are_as_few_as_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token's file is named only where Ray would not look by itself."""
    monkeypatch.setenv("HOME", "/home/me")
    usual = replace(RECORD, token_path="/home/me/.ray/auth_token")

    assert exports_for(RECORD)["RAY_AUTH_TOKEN_PATH"] == "/home/me/token"
    assert "RAY_AUTH_TOKEN_PATH" not in exports_for(usual)
    assert "RAY_AUTH_MODE" not in exports_for(replace(usual, auth="disabled"))
