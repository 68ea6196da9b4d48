"""What a run shows, and where."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from raymodal import config, output
from raymodal.output import (
    Containers,
    Inputs,
    LiveView,
    Notice,
    ObjectCreated,
    OutputManager,
    RunEnded,
    RunStarted,
    enable_output,
)

STARTED = RunStarted("ap-1", "hello", "local Ray (2 CPUs)")


@pytest.fixture(autouse=True)
def fresh_settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("RAYMODAL_QUIET", raising=False)
    config.reset()
    yield
    config.reset()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_lines_go_to_their_own_stream_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """stdout to stdout, stderr to stderr, one line end each."""
    manager = OutputManager()
    manager.line("out", is_err=False, source="ta-1")
    manager.line("err\n", is_err=True, source="ta-1")
    manager.line("", is_err=False, source="ta-1")

    assert capsys.readouterr() == ("out\n\n", "err\n")


def test_a_run_that_ends_early_did_not_complete(capsys: pytest.CaptureFixture[str]) -> None:
    """An exception in its block, or Ctrl-C."""
    manager = OutputManager()
    manager.event(STARTED)
    manager.event(RunEnded(1.25, is_early=True))

    err = capsys.readouterr().err
    assert err.endswith("✗ App stopped after 1.2 s\n")
    assert "completed" not in err


def test_progress_is_never_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    """A pipe gets the program's words only."""
    manager = OutputManager()
    for event in (STARTED, ObjectCreated("function", "f"), Containers("f", 1, 2), Inputs("f", 1, 2), Notice("wait")):
        manager.event(event)
    manager.event(RunEnded(1.25))

    assert capsys.readouterr() == (
        "",
        "✓ Initialized. App hello (ap-1) on local Ray (2 CPUs)\nwait\n✓ App completed in 1.2 s\n",
    )


def test_the_time_of_a_run_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    """Engines need not carry a clock around for it."""
    times = iter([0.0, 10.0, 12.5])
    manager = OutputManager(clock=lambda: next(times))
    manager.event(STARTED)
    manager.event(RunEnded())

    assert capsys.readouterr().err.endswith("completed in 2.5 s\n")


def test_timestamps() -> None:
    """`--timestamps` prefixes lines of containers, not events."""
    at = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    sys.stdout, before = io.StringIO(), sys.stdout
    try:
        OutputManager(timestamps=True, now=lambda: at).line("x", is_err=False, source="ta-1")
        text = sys.stdout.getvalue()
    finally:
        sys.stdout = before

    assert text == "2026-01-02T03:04:05.678+00:00 x\n"


class Broken(io.StringIO):
    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        raise BrokenPipeError


def test_a_broken_pipe_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run goes on, and the stream is not tried again."""
    stream = Broken()
    monkeypatch.setattr(sys, "stdout", stream)
    manager = OutputManager()
    for _ in range(3):
        manager.line("x", is_err=False, source="ta-1")

    assert stream.writes == 1


@pytest.mark.parametrize("closed", [True, False])
def test_a_closed_or_missing_stream_does_no_harm(monkeypatch: pytest.MonkeyPatch, closed: bool) -> None:
    """Daemons have no stdout, and programs may close theirs."""
    stream = io.StringIO()
    stream.close()
    monkeypatch.setattr(sys, "stdout", stream if closed else None)

    OutputManager().line("x", is_err=False, source="ta-1")


def test_letters_that_the_stream_cannot_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """An ASCII terminal shows question marks instead of failing."""
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))

    OutputManager().line("é!", is_err=False, source="ta-1")

    assert raw.getvalue() == b"?!\n"


def test_lines_of_many_threads_stay_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """No line is torn, lost or doubled."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    manager = OutputManager()

    def write(letter: str) -> None:
        for number in range(200):
            manager.line(f"{letter * 50}{number}", is_err=False, source=letter)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    expected = {f"{letter * 50}{number}" for letter in "abcd" for number in range(200)}
    lines = stream.getvalue().splitlines()
    assert len(lines) == 800
    assert set(lines) == expected


def test_enabling(capsys: pytest.CaptureFixture[str]) -> None:
    """There is a manager inside the block only; an inner block shares it."""
    assert output.current() is None
    with enable_output():
        outer = output.current()
        assert outer is not None
        with enable_output(show_progress=True):
            assert output.current() is outer
        assert output.current() is outer
    assert output.current() is None


def test_without_progress(capsys: pytest.CaptureFixture[str]) -> None:
    """Older programs switch raymodal's own lines off and keep the containers'."""
    with enable_output(False):
        manager = output.current()
        assert manager is not None
        manager.event(STARTED)
        manager.line("x", is_err=False, source="ta-1")

    assert capsys.readouterr() == ("x\n", "")


def test_quiet_wins() -> None:
    """`--quiet` keeps output off even where the program enables it."""
    config.override(quiet=True)
    with enable_output():
        assert output.current() is None


def test_a_terminal_gets_the_live_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """stderr decides; NO_COLOR and a dumb terminal are honoured."""
    monkeypatch.setattr(sys, "stderr", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    manager = OutputManager.for_terminal(show_progress=True, timestamps=False)
    assert isinstance(manager._view, LiveView)

    monkeypatch.setenv("TERM", "dumb")
    assert not isinstance(OutputManager.for_terminal(show_progress=True, timestamps=False)._view, LiveView)

    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    view = OutputManager.for_terminal(show_progress=True, timestamps=False)._view
    assert isinstance(view, LiveView)
    assert view.console.no_color


def live(monkeypatch: pytest.MonkeyPatch, stdout: Any) -> tuple[OutputManager, Terminal]:
    screen = Terminal()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(sys, "stdout", stdout)
    console = Console(file=screen, force_terminal=True, width=80, color_system=None, soft_wrap=True)
    manager = OutputManager()
    manager._view = LiveView(console, manager._err)
    return manager, screen


def test_the_live_view_shows_the_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """Objects with check marks, containers and inputs per function, then the end."""
    manager, screen = live(monkeypatch, io.StringIO())
    for event in (STARTED, ObjectCreated("function", "f"), Containers("f", 1, 2), Inputs("f", 3, 9), RunEnded(2)):
        manager.event(event)

    text = screen.getvalue()
    assert "Initialized. App hello" in text
    assert "✓ function f  2 containers, 1 starting · 3/9 inputs" in text
    assert text.rstrip().endswith("App completed in 2.0 s")


def test_user_lines_beside_the_live_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """A redirected stdout gets its lines and nothing else; stderr lines go above the view, markup untouched."""
    piped = io.StringIO()
    manager, screen = live(monkeypatch, piped)
    manager.event(STARTED)
    manager.line("to stdout", is_err=False, source="ta-1")
    manager.line("[bold]to stderr[/bold] :smile: " + "x" * 100, is_err=True, source="ta-1")
    print("printed here")
    print("y" * 100, file=sys.stderr)
    manager.event(RunEnded(2))

    assert piped.getvalue() == "to stdout\nprinted here\n"
    assert "[bold]to stderr[/bold] :smile: " + "x" * 100 in screen.getvalue()
    assert "y" * 100 in screen.getvalue()
    assert sys.stdout is piped


def test_stdout_on_the_same_terminal_goes_above_the_view(monkeypatch: pytest.MonkeyPatch) -> None:
    """Once, and stdout is put back afterwards."""
    own = Terminal()
    manager, screen = live(monkeypatch, own)
    manager.event(STARTED)
    manager.line("a line", is_err=False, source="ta-1")
    manager.event(RunEnded(2))
    manager.close()

    assert (screen.getvalue() + own.getvalue()).count("a line") == 1
    assert sys.stdout is own


def test_a_line_waits_for_the_end_of_a_local_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """`print` writes in pieces; no container's line comes in between."""
    piped = io.StringIO()
    monkeypatch.setattr(sys, "stdout", piped)
    with enable_output():
        manager = output.current()
        assert manager is not None
        print("local ", end="")
        other = threading.Thread(target=manager.line, args=("remote",), kwargs={"is_err": False, "source": "ta-1"})
        monkeypatch.setattr(manager._out.local, "PATIENCE_S", 60)
        other.start()
        print("line")
        other.join()

    assert piped.getvalue() == "local line\nremote\n"
    assert "write" not in vars(piped)


def test_a_local_line_left_open_is_waited_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A progress line without its end must not slow every line of the containers down, nor hold them back."""
    piped = io.StringIO()
    monkeypatch.setattr(sys, "stdout", piped)
    with enable_output():
        manager = output.current()
        assert manager is not None
        monkeypatch.setattr(manager._out.local, "PATIENCE_S", 0.01)
        print("working ... ", end="")
        manager.line("one", is_err=False, source="ta-1")
        monkeypatch.setattr(manager._out.local, "PATIENCE_S", 60)
        manager.line("two", is_err=False, source="ta-1")

    assert piped.getvalue() == "working ... one\ntwo\n"
