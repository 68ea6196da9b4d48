"""What a run says of its containers: from inside, and to another process of the same user."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

import raymodal as modal
from raymodal import config
from raymodal.engine import control
from raymodal.exception import InvalidError, NotFoundError
from tests.ray.processes import wait_until as wait_for


def hold(queue: Any) -> None:
    queue.get(timeout=60)


@pytest.fixture
def held(run_app: Any) -> Any:
    """An app named "asked" whose `f` has one container of at most one, which works until told otherwise."""
    app = modal.App("asked")
    f = app.function(serialized=True, max_containers=1, name="f")(hold)
    run_app(app)
    with modal.Queue.ephemeral() as queue:
        calls = [f.spawn(queue) for _ in range(3)]
        wait_for(lambda: f.get_current_stats().num_running_inputs == 1)
        yield app, f
        for _ in calls:
            queue.put(1)
        for call in calls:
            call.get(timeout=60)


def raymodal(*words: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "RAYMODAL_HOME": str(config.settings().home)}
    return subprocess.run(
        [sys.executable, "-m", "raymodal", *words], capture_output=True, text=True, timeout=60, env=environ
    )


def test_why(held: Any) -> None:
    """The decisions, newest first, and the knob that limited each; `str` is for people."""
    _, f = held

    report = f.autoscaler.why()
    assert report.decisions[0].limited_by == "max_containers"
    assert report.because == "max_containers=1, 3 wanted"
    assert (report.target, report.settings.max_containers, report.stats.num_busy) == (1, 1, 1)
    assert report.startup_s is not None
    assert "max_containers=1, 3 wanted" in str(report)

    f.autoscaler.update(max_containers=2)
    wait_for(lambda: f.autoscaler.why().target == 2)
    assert f.autoscaler.why().decisions[0].seconds_ago <= report.decisions[0].seconds_ago + 60


def test_stats_are_exact(held: Any) -> None:
    """Although demand is reported on a scale of doubling: three wanted, one runs."""
    _, f = held

    stats = f.get_current_stats()
    assert (stats.backlog, stats.num_running_inputs, stats.num_total_runners) == (2, 1, 1)
    assert (stats.num_starting, stats.num_busy, stats.num_idle) == (0, 1, 0)


def test_from_another_terminal(held: Any) -> None:
    """By name or id; errors name what there is."""
    app, f = held
    wait_for(lambda: app.app_id in {running.app_id for running in control.running_apps(config.settings().home)})

    listed = json.loads(raymodal("app", "list", "--json").stdout)
    assert (app.app_id, "asked", os.getpid()) in [(row["app_id"], row["description"], row["pid"]) for row in listed]
    assert "max_containers=1, 3 wanted" in raymodal("app", "why", "asked::f").stdout
    assert json.loads(raymodal("app", "why", f"{app.app_id}::f", "--json").stdout)[0]["function"] == "f"

    done = raymodal("function", "autoscaler", "update", "asked::f", "--max-containers", "3", "--scaledown-window", "30")
    assert done.returncode == 0, done.stderr
    assert "max_containers: 3" in done.stdout
    assert (f.autoscaler.settings().max_containers, f.autoscaler.settings().scaledown_window) == (3, 30)

    for words, text in (
        (("app", "why", "other::f"), "No app 'other' runs here. There are:"),
        (("app", "why", "asked::g"), "has no function 'g'; it has 'f'"),
        (("function", "autoscaler", "update", "asked::f", "--min-containers", "9"), "min_containers=9"),
        (("function", "autoscaler", "update", "asked::f", "--scaledown-window", "1"), "scaledown_window=1"),
        (("function", "autoscaler", "update", "asked::f"), "nothing to change"),
        (("function", "autoscaler", "settings", "asked"), "must be APP::FUNCTION"),
        (("app", "logs", "asked"), "not available yet"),
    ):
        done = raymodal(*words)
        assert done.returncode == 1, words
        assert text in done.stderr, words
    assert f.autoscaler.settings().max_containers == 3


def test_a_run_that_was_killed_is_forgotten(run_app: Any, tmp_path: Path) -> None:
    """What nobody answers for is removed by whoever asks."""
    note = tmp_path / "running" / "ap-gone.json"
    note.parent.mkdir()
    precious = tmp_path / "precious.txt"
    precious.touch()
    gone = control.Running("ap-gone", "gone", os.getpid(), 0.0, str(tmp_path / "nobody"), control._host())
    note.write_text(json.dumps(asdict(gone)))
    elsewhere = note.with_name("ap-elsewhere.json")
    elsewhere.write_text(json.dumps({**asdict(gone), "app_id": "ap-elsewhere", "host": "another machine"}))
    no_socket = note.with_name("ap-no-socket.json")
    no_socket.write_text(json.dumps({**asdict(gone), "app_id": "ap-no-socket", "socket": str(precious)}))
    (note.parent / "ap-broken.json").write_text("{")

    with pytest.raises(NotFoundError, match="None does"):
        control.find(tmp_path, "gone")
    assert not note.exists()
    assert elsewhere.exists()
    assert precious.exists()


def test_two_of_a_name(held: Any, tmp_path: Path) -> None:
    """Ids tell them apart."""
    app, _ = held
    home = config.settings().home
    wait_for(lambda: app.app_id in {running.app_id for running in control.running_apps(home)})
    running = control.find(home, app.app_id)
    twin = home / "running" / "ap-twin.json"
    twin.write_text(json.dumps({**asdict(running), "app_id": "ap-twin"}))
    try:
        with pytest.raises(InvalidError, match=f"2 apps named 'asked'.*{running.app_id}"):
            control.find(home, "asked")
    finally:
        twin.unlink(missing_ok=True)


def test_changes_from_several_sides_at_once(held: Any) -> None:
    """Each is made whole or not at all: no order of them leaves a minimum above the maximum."""
    _, f = held
    f.autoscaler.update(min_containers=None, max_containers=None)

    def change(**values: int | None) -> None:
        for _ in range(10):
            try:
                f.autoscaler.update(**values)
            except InvalidError:
                pass
            settings = f.autoscaler.settings()
            assert settings.max_containers is None or settings.min_containers <= settings.max_containers

    failures: list[BaseException] = []

    def guarded(**values: int | None) -> None:
        try:
            change(**values)
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [
        threading.Thread(target=guarded, kwargs=values)
        for values in ({"min_containers": 2}, {"max_containers": 1}, {"max_containers": None}, {"min_containers": 0})
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    f.autoscaler.update(min_containers=0, max_containers=1)
    assert failures == []
