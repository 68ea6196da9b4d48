"""What a container prints reaches the driver: whole lines, once, up to the last one before its death. Own pipes; no Ray."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from raymodal.engine.ray import logs


class Lines:
    """A sink that remembers."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool, dict[str, Any]]] = []

    def __call__(self, line: str, is_err: bool, meta: dict[str, Any]) -> None:
        self.seen.append((line, is_err, meta))

    def of(self, *, is_err: bool) -> list[str]:
        return [line for line, err, _ in self.seen if err is is_err]


@pytest.fixture
def lines() -> Lines:
    return Lines()


@pytest.fixture
def address(lines: Lines) -> Iterator[str]:
    yield logs.follow_logs(lines)
    logs.stop_following()


def run_container(address: str, body: str, container_id: str = "ta-1") -> subprocess.CompletedProcess[bytes]:
    script = f"""
import os, subprocess, sys, time
from raymodal.engine.ray.logs import attach_output, end_output
print("before")
attached = attach_output({address!r}, {container_id!r}, {{"function": "f"}})
{body}
"""
    return subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)


def test_lines_arrive_whole_with_what_is_known_of_the_container(address, lines):
    done = run_container(
        address,
        """
print("one"); print("two", file=sys.stderr)
sys.stdout.write("in "); sys.stdout.flush(); time.sleep(0.02); sys.stdout.write("pieces\\r\\n"); print()
print("a", "b", sep="\\n", end="")
""",
    )
    assert logs.wait_for_end(["ta-1"], 10)
    assert done.stdout == b"before\n"
    assert lines.of(is_err=False) == ["one", "in pieces", "", "a", "b"]
    assert lines.of(is_err=True) == ["two"]
    assert all(meta == {"container_id": "ta-1", "function": "f"} for _, _, meta in lines.seen)


@pytest.mark.parametrize("end", ["os._exit(3)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_nothing_is_lost_when_the_process_dies(address, lines, end):
    run_container(address, f"os.write(1, b'x\\n' * 1000 + b'last words'); {end}")
    assert logs.wait_for_end(["ta-1"], 10)
    assert lines.of(is_err=False) == ["x"] * 1000 + ["last words"]


def test_subprocesses_print_too(address, lines):
    run_container(address, "subprocess.run(['sh', '-c', 'echo out; echo err >&2; echo dev > /dev/stdout'])")
    assert logs.wait_for_end(["ta-1"], 10)
    assert lines.of(is_err=False) == ["out", "dev"]
    assert lines.of(is_err=True) == ["err"]


def test_a_slow_driver_makes_the_container_wait_and_loses_nothing(lines):
    let_go = threading.Event()
    count = 0

    def slow(line: str, is_err: bool, meta: dict[str, Any]) -> None:
        nonlocal count
        let_go.wait(10)
        count += 1

    address = logs.follow_logs(slow)
    try:
        timer = threading.Timer(0.3, let_go.set)
        timer.start()
        run_container(address, "for i in range(20_000): print('line', i, 'x' * 50)")
        assert logs.wait_for_end(["ta-1"], 20)
        timer.join()
    finally:
        logs.stop_following()
    assert count == 20_000


@pytest.mark.parametrize("size", [10, 3_000])
def test_what_was_printed_before_is_there_after_catching_up(size: int) -> None:
    """A driver that hears of an outcome has its lines first, however late its reading thread is."""
    seen: list[str] = []

    def slow(line: str, is_err: bool, meta: dict[str, Any]) -> None:
        time.sleep(0.002)
        seen.append(line)

    address = logs.follow_logs(slow)
    told_r, told_w = os.pipe()
    try:
        body = f"""
for i in range(100):
    os.write(1, b"%d %s\\n" % (i, b"x" * {size}))
    os.write({told_w}, b"x")
"""
        script = (
            f"import os\nfrom raymodal.engine.ray.logs import attach_output\nattach_output({address!r}, 'ta-1')\n{body}"
        )
        with subprocess.Popen([sys.executable, "-c", script], pass_fds=[told_w]) as process:
            for count in range(1, 101):
                assert os.read(told_r, 1) == b"x"
                logs.catch_up(10.0)
                assert len(seen) >= count
            assert process.wait(30) == 0
        assert logs.wait_for_end(["ta-1"], 10)
        logs.catch_up(10.0)  # at rest: comes back at once
    finally:
        logs.stop_following()
        os.close(told_r)
        os.close(told_w)
    logs.catch_up(10.0)


def test_a_sink_that_stands_still_stops_nothing_else() -> None:
    is_in, let_go = threading.Event(), threading.Event()

    def stands_still(line: str, is_err: bool, meta: dict[str, Any]) -> None:
        is_in.set()
        let_go.wait(30)

    address = logs.follow_logs(stands_still)
    try:
        run_container(address, "print('a line')")
        assert is_in.wait(10)
        assert logs.is_behind()
        logs.catch_up(0.1)
        assert not let_go.is_set()
        # It has been waited for once: further outcomes do not wait again.
        assert not logs.is_behind()
        let_go.set()
        run_container(address, "print('another')", "ta-2")
        assert logs.wait_for_end(["ta-1", "ta-2"], 10)
    finally:
        let_go.set()
        logs.stop_following()


def test_a_line_without_end_does_not_fill_the_memory(address, lines):
    run_container(address, "os.write(1, b'x' * 3_000_000)")
    assert logs.wait_for_end(["ta-1"], 10)
    assert sum(map(len, lines.of(is_err=False))) == 3_000_000
    assert max(map(len, lines.of(is_err=False))) < 1_500_000


def test_bytes_that_are_no_text_do_no_harm(address, lines):
    run_container(address, r"os.write(1, b'\xff\xfe ok\n')")
    assert logs.wait_for_end(["ta-1"], 10)
    assert lines.of(is_err=False) == ["\ufffd\ufffd ok"]


def test_the_end_can_be_said_while_a_child_still_holds_the_output(address, lines):
    script = "child = subprocess.Popen(['sleep', '2']); sys.stdout.write('partial'); end_output('ta-1'); os._exit(0)"
    run_container(address, script)
    assert logs.wait_for_end(["ta-1"], 1.5)
    assert lines.of(is_err=False) == ["partial"]


def test_an_unknown_container_never_ends(address):
    assert logs.wait_for_end([], 0)
    assert not logs.wait_for_end(["ta-unknown"], 0.01)


def test_a_container_elsewhere_stays_where_it_was_and_prints_whole_lines(tmp_path):
    done = run_container(str(tmp_path / "nobody"), "print(attached, 'still here'); os.write(1, b'raw\\n')")
    assert done.stdout.splitlines() == [b"before", b"False still here", b"raw"]


def test_a_container_without_a_driver_prints_as_ever():
    done = run_container("", "").stdout
    assert done == b"before\n"
    script = "from raymodal.engine.ray.logs import attach_output as a; print(a(None, 'x'))"
    assert subprocess.check_output([sys.executable, "-c", script]) == b"False\n"


def test_a_sink_that_fails_does_not_stop_the_output(caplog):
    seen: list[str] = []

    def sink(line: str, is_err: bool, meta: dict[str, Any]) -> None:
        seen.append(line)
        if line == "bad":
            raise ValueError("view broken")

    address = logs.follow_logs(sink)
    try:
        run_container(address, "print('bad'); print('good')")
        assert logs.wait_for_end(["ta-1"], 10)
    finally:
        logs.stop_following()
    assert seen == ["bad", "good"]
    assert "view broken" in caplog.text


def test_rays_marks_are_not_lines_of_the_user(address, lines):
    run_container(address, "print(':actor_name:raymodal:ta-1'); print(':job_id:01000000'); print('mine: ok')")
    assert logs.wait_for_end(["ta-1"], 10)
    assert lines.of(is_err=False) == ["mine: ok"]


def test_many_containers_at_once_keep_their_lines_apart(address, lines):
    body = "for i in range(500): print(i)"
    threads = [threading.Thread(target=run_container, args=(address, body, f"ta-{n}")) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert logs.wait_for_end([f"ta-{n}" for n in range(3)], 10)
    for n in range(3):
        mine = [line for line, _, meta in lines.seen if meta["container_id"] == f"ta-{n}"]
        assert mine == [str(i) for i in range(500)]


def test_stopping_leaves_nothing_behind_and_can_be_repeated(lines):
    before = set(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else set()
    address = logs.follow_logs(lines)
    assert os.path.exists(address)
    logs.stop_following()
    logs.stop_following()
    assert not os.path.exists(os.path.dirname(address))
    if before:
        assert len(os.listdir("/proc/self/fd")) == len(before)
