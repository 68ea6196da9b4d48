"""What containers print, as their driver sees it: live, whole, once, on the right stream."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from typing import Any

import pytest

import raymodal as modal
from tests.ray.processes import wait_until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(90)]


class Screen:
    """What has been printed since the test began."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._out = self._err = ""

    def _look(self) -> None:
        out, err = self._capsys.readouterr()
        self._out += out
        self._err += err

    @property
    def out(self) -> list[str]:
        self._look()
        return self._out.splitlines()

    @property
    def err(self) -> list[str]:
        """Without raymodal's own two lines."""
        self._look()
        return [line for line in self._err.splitlines() if not line.startswith(("✓ Initialized", "✓ App completed"))]


@pytest.fixture
def screen(capsys: pytest.CaptureFixture[str]) -> Screen:
    return Screen(capsys)


def test_lines_arrive_while_the_call_runs(engine: Any, screen: Screen) -> None:
    """Flushed or not, to either stream, by a child as well; the function waits until the test has seen them."""
    app = modal.App("live")

    with modal.Queue.ephemeral() as go_on:

        @app.function(serialized=True)
        def f(go_on: Any) -> None:
            print("early")
            print("early err", file=sys.stderr)
            subprocess.run(["echo", "early child"], check=True)
            go_on.get(timeout=60)
            print("late")

        with modal.enable_output(), app.run():
            call = f.spawn(go_on)
            wait_until(
                lambda: screen.out == ["early", "early child"] and screen.err == ["early err"], lambda: screen.out
            )
            with pytest.raises(TimeoutError):
                call.get(timeout=0)
            go_on.put(1)
            call.get(timeout=60)
            wait_until(lambda: screen.out[2:] == ["late"], lambda: screen.out)


def test_every_line_whole_and_once(engine: Any, screen: Screen) -> None:
    """From two containers at once: no prefix, no de-duplication, no line cut, each on its own stream."""
    app = modal.App("whole")

    @app.function(serialized=True, max_containers=2)
    def f(x: int) -> None:
        print("the same line")
        print("line", x, "x" * 5000)
        sys.stdout.write(f"in pieces {x} ")
        sys.stdout.flush()
        time.sleep(0.001)
        print("together")
        print("err", x, file=sys.stderr)
        if x % 50 == 0:
            subprocess.run(["echo", f"child {x}"], check=True)

    with modal.enable_output(), app.run():
        f.for_each(range(200))

    expected = ["the same line"] * 200
    expected += [f"line {x} {'x' * 5000}" for x in range(200)]
    expected += [f"in pieces {x} together" for x in range(200)]
    expected += [f"child {x}" for x in range(0, 200, 50)]
    assert Counter(screen.out) == Counter(expected)
    assert Counter(screen.err) == Counter(f"err {x}" for x in range(200))


def test_megabytes_in_order(engine: Any, screen: Screen) -> None:
    """5 MB from one container, and a last line that never ends."""
    app = modal.App("megabytes")

    @app.function(serialized=True, max_containers=1)
    def f() -> None:
        for i in range(5000):
            print(i, "m" * 1000)
        print("no line end", end="")

    with modal.enable_output(), app.run():
        f.remote()

    assert screen.out == [*(f"{i} {'m' * 1000}" for i in range(5000)), "no line end"]


def test_last_words(engine: Any, screen: Screen, tmp_path: Any) -> None:
    """What is printed right before `os._exit` is seen, and Ray says nothing about the end of its worker."""
    app = modal.App("last-words")
    marker = str(tmp_path / "died")

    @app.function(serialized=True, max_containers=1)
    def f() -> str:
        if not os.path.exists(marker):
            open(marker, "w").close()
            for i in range(100):
                print("last words", i, flush=True)
            os._exit(1)
        return "alive"

    with modal.enable_output(), app.run():
        assert f.remote() == "alive"

    assert screen.out == [f"last words {i}" for i in range(100)]
    assert screen.err == []


def test_nothing_is_shown_unless_asked_for(engine: Any, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither lines nor progress, not even at the level of file descriptors."""
    app = modal.App("silent")

    @app.function(serialized=True)
    def f(x: int) -> int:
        print("unheard")
        os.system("echo unheard child")
        return x

    with app.run():
        assert list(f.map(range(3))) == [0, 1, 2]

    assert capfd.readouterr() == ("", "")


def test_an_error_is_not_printed_by_its_container(engine: Any, screen: Screen) -> None:
    """It is raised in the caller, who may catch it or have it shown: once."""
    app = modal.App("errors")

    @app.function(serialized=True)
    def f(x: int) -> int:
        print("before")
        return 1 // x

    with modal.enable_output(), app.run():
        with pytest.raises(ZeroDivisionError):
            f.remote(0)
        assert f.remote(1) == 1

    assert screen.out == ["before", "before"]
    assert screen.err == []
