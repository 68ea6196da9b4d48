"""The command itself: help, exit codes, and errors as messages. Nothing here starts an engine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raymodal import config
from raymodal.cli import main as main_module
from raymodal.exception import InvalidError

Cli = Callable[..., Any]


def test_help_lists_what_there_is_and_what_is_not(cli: Cli) -> None:
    """One line per command, and one list of those to come."""
    done = cli("--help")

    assert done.code == 0
    assert "run " in done.out
    assert "Not yet" in done.out
    assert "deploy" in done.out


def test_help_needs_neither_ray_nor_an_engine_nor_rich() -> None:
    """It must be there at once."""
    program = (
        "import sys\nfrom raymodal.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('ray', 'rich') or m.startswith('raymodal.engine')])\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert done.stdout.splitlines()[-1] == "[]"


def test_version(cli: Cli) -> None:
    """Name and number."""
    done = cli("--version")

    assert (done.code, done.out.split()[0]) == (0, "raymodal")


@pytest.mark.parametrize("command", ["deploy", "serve", "shell", "dict", "queue"])
def test_commands_to_come_say_so(cli: Cli, command: str) -> None:
    """Not 'no such command', and no traceback."""
    done = cli(command, "x.py", "--whatever")

    assert (done.code, done.out) == (1, "")
    assert f"`raymodal {command}` is not available yet" in done.err
    assert "Traceback" not in done.err


@pytest.mark.parametrize(
    "args", [["nonsense"], ["--nonsense"], ["run", "--nonsense", "x.py"], ["run", "--engine", "x", "y"]]
)
def test_wrong_usage_exits_with_2(cli: Cli, args: list[str]) -> None:
    """On stderr, with the usage line."""
    done = cli(*args)

    assert (done.code, done.out) == (2, "")
    assert "Usage: raymodal" in done.err


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["no_such.py"], "No such file: 'no_such.py'"),
        (["two.py:main"], "'::' instead of ':'"),
        (["package.module"], "raymodal run -m package.module"),
        (["my.app.py"], "further periods"),
        (["modal.py"], "Rename the file"),
        (["-m", "x.py"], "Leave -m out"),
        (["-q", "-i", "x.py"], "--quiet"),
        (["-d", "x.py"], "--detach` is not available yet"),
        (["-i", "x.py"], "--interactive` is not available yet"),
    ],
)
def test_what_is_wrong_with_a_reference(
    cli: Cli, args: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that names the thing, the reason and the next step."""
    monkeypatch.chdir(tmp_path)

    done = cli("run", *args)

    assert (done.code, done.out) == (1, "")
    assert message in " ".join(done.err.split())
    assert done.err.startswith("Error: ")
    assert "Traceback" not in done.err


def test_files_spelled_alike_are_suggested(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next step, when there is an obvious one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").touch()

    assert "Did you mean train.py?" in cli("run", "trian.py").err


# What a subcommand's work may end in, without a program to run.


@pytest.fixture
def working(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Any]], None]:
    """Makes `raymodal bench` do this instead."""

    def install(work: Callable[[], Any]) -> None:
        import typer

        app = typer.Typer(add_completion=False)
        app.command()(lambda: work)
        module = type(sys)("tests_bench")
        module.app = app  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "tests_bench", module)
        monkeypatch.setattr(main_module._LazyGroup, "list_commands", lambda *_: ["bench"])
        monkeypatch.setitem(main_module.COMMANDS, "bench", ("tests_bench", ""))

    return install


def raising(exc: BaseException) -> Callable[[], Any]:
    def work() -> Any:
        raise exc

    return work


Working = Callable[[Callable[[], Any]], None]


@pytest.mark.parametrize(("exc", "code"), [(SystemExit(3), 3), (SystemExit(None), None), (KeyboardInterrupt(), 130)])
def test_exit_codes_of_the_program(cli: Cli, working: Working, exc: BaseException, code: Any) -> None:
    """SystemExit keeps its code; Ctrl-C is 130, quietly."""
    working(raising(exc))

    assert cli("bench") == (code, "", "")


def test_a_traceback_starts_at_the_users_code(cli: Cli, working: Working) -> None:
    """Frames of the CLI are left out."""
    working(raising(EOFError("no input")))

    done = cli("bench")

    assert done.code == 1
    assert done.err.startswith("Traceback")
    assert "in work" in done.err
    assert "raymodal/cli" not in done.err
    assert done.err.endswith("EOFError: no input\n")


def test_the_whole_traceback_on_demand(cli: Cli, working: Working, monkeypatch: pytest.MonkeyPatch) -> None:
    """MODAL_TRACEBACK=1, as with Modal."""
    monkeypatch.setenv("MODAL_TRACEBACK", "1")
    config.reset()
    working(raising(ValueError("x")))

    assert "raymodal/cli/main.py" in cli("bench").err


def test_errors_without_user_frames_are_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A raymodal error from raymodal is a message; anything else from raymodal asks to be reported."""
    for exc, wanted in ((InvalidError("this and that"), "Error: this and that\n"), (KeyError("k"), "please report it")):
        main_module._report(exc)
        assert wanted in capsys.readouterr().err


def test_a_bad_setting_is_a_message_too(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Also when it is what the message needs to know."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "program.py").touch()
    monkeypatch.setenv("RAYMODAL_ENGINE", "spaceship")
    config.reset()

    done = cli("run", "--gpu", "ignore", "program.py")

    assert done.code == 1
    assert done.err.startswith("Error: RAYMODAL_ENGINE='spaceship'")


def test_a_reader_that_left_is_no_error() -> None:
    """`raymodal ... | head` ends without a traceback."""
    program = "import sys; from raymodal.cli.main import main; main(['--help'])"
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    err = child.stderr.read()
    child.stderr.close()
    child.wait()

    assert "Traceback" not in err


def test_a_reader_that_left_in_between_is_no_error(tmp_path: Path) -> None:
    """Where nothing is buffered, the line itself fails, not the end."""
    program = "import sys; from raymodal.cli.main import main; sys.stdin.read(); main(['cluster', 'status'])"
    with subprocess.Popen(
        [sys.executable, "-u", "-c", program],
        env={**os.environ, "RAYMODAL_HOME": str(tmp_path), "RAYMODAL_ADDRESS": "", "RAY_ADDRESS": ""},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        child.stdout.close()
        _, err = child.communicate()

    assert (child.returncode, err) == (1, "")


def test_a_warning_of_raymodals_own_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """Its place is a line of raymodal's source, which tells the user nothing."""
    from raymodal.cli import main

    main._show_warning(UserWarning("volumes are not mounted"), UserWarning, main.__file__, 1)

    assert capsys.readouterr().err == "Warning: volumes are not mounted\n"
