"""`raymodal run` from the command line to the function, on an engine that calls it in place."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raymodal import config, output
from raymodal.cli import refs

Cli = Callable[..., Any]
Program = Callable[..., Path]

HEAD = "import modal\napp = modal.App({name})\n"
PROGRAM = HEAD.format(name="'hello'") + (
    "@app.function()\n"
    "def square(x: int, twice: bool = False) -> int:\n"
    "    return x * x * (2 if twice else 1)\n"
    "@app.local_entrypoint()\n"
    "def main(x: int = 3):\n"
    "    print(square.remote(x))\n"
)


def test_a_local_entrypoint_runs_here_and_its_functions_there(cli: Cli, engine: Any, program: Program) -> None:
    """stdout holds what the program printed, and nothing else."""
    program(PROGRAM)

    done = cli("run", "program.py", "--x", "5")

    assert (done.code, done.out) == (0, "25\n")
    assert engine.calls == [("square", (5,), {})]
    assert engine.stopped == 1


def test_a_function_runs_remotely_with_options(cli: Cli, engine: Any, program: Program) -> None:
    """Its result is not printed."""
    program(PROGRAM)

    done = cli("run", "program.py::square", "--x", "5", "--twice")

    assert (done.code, done.out) == (0, "")
    assert engine.calls == [("square", (), {"x": 5, "twice": True})]


@pytest.mark.parametrize("name", ["main", "app.main", "app.square"])
def test_help_of_an_entrypoint_starts_nothing(cli: Cli, engine: Any, program: Program, name: str) -> None:
    """And names the command line."""
    program(PROGRAM)

    done = cli("run", f"program.py::{name}", "--help")

    assert done.code == 0
    assert f"Usage: raymodal run program.py::{name} [OPTIONS]" in done.out
    assert "--x INTEGER" in done.out
    assert engine.plans == []


def test_wrong_arguments_start_nothing(cli: Cli, engine: Any, program: Program) -> None:
    """Exit 2, before the app runs."""
    program(PROGRAM)

    done = cli("run", "program.py::square")

    assert (done.code, done.out) == (2, "")
    assert "Missing option '--x'" in done.err
    assert engine.plans == []


def test_unparseable_annotations_start_nothing(cli: Cli, engine: Any, program: Program) -> None:
    """Exit 1 and one line."""
    program(HEAD.format(name="") + "@app.local_entrypoint()\ndef main(xs: list): ...\n")

    done = cli("run", "program.py")

    assert done.code == 1
    assert done.err.startswith("Error: Parameter `xs` has unparseable annotation: <class 'list'>")
    assert engine.plans == []


CLASS = HEAD.format(name="") + (
    "@app.cls()\n"
    "class Model:\n"
    "    size: str = modal.parameter()\n"
    "    depth: int = modal.parameter(default=2)\n"
    "    @modal.method()\n"
    "    def predict(self, text: str, n: int = 1): ...\n"
)


def test_methods_share_their_options_with_the_class(cli: Cli, engine: Any, program: Program) -> None:
    """One list of options for both."""
    program(CLASS)

    done = cli("run", "program.py::Model.predict", "--help")

    assert done.code == 0
    for option in ("--size TEXT", "--depth INTEGER", "--text TEXT", "--n INTEGER"):
        assert option in done.out
    assert "Missing option '--text'" in cli("run", "program.py", "--size", "s").err


def test_a_method_and_its_class_may_not_share_a_name(cli: Cli, engine: Any, program: Program) -> None:
    """The option would be ambiguous."""
    program(CLASS.replace("text: str", "size: str"))

    assert cli("run", "program.py").err.startswith("Error: `size` is a parameter of the class and of the method")


def test_generators_are_refused(cli: Cli, engine: Any, program: Program) -> None:
    """There is nobody to iterate."""
    program(HEAD.format(name="") + "@app.function()\ndef g():\n    yield 1\n")

    done = cli("run", "program.py")

    assert done.code == 1
    assert done.err.startswith("Error: `raymodal run` is not supported for generator functions")


def test_async_entrypoints(cli: Cli, engine: Any, program: Program) -> None:
    """They run under asyncio.run."""
    program(
        HEAD.format(name="") + "import asyncio\n@app.local_entrypoint()\nasync def main():\n"
        "    print(type(asyncio.get_running_loop()).__module__.split('.')[0])\n"
    )

    assert cli("run", "program.py")[:2] == (0, "asyncio\n")


def test_lone_star_args(cli: Cli, engine: Any, program: Program) -> None:
    """Everything behind the reference, as it is, but for the first `--`, which is the command line's."""
    program(HEAD.format(name="") + "@app.local_entrypoint()\ndef main(*args):\n    print(args)\n")

    assert cli("run", "program.py", "a", "--b", "-q", "--", "1").out == "('a', '--b', '-q', '1')\n"


def test_the_module_has_its_stem_as_name(cli: Cli, engine: Any, program: Program) -> None:
    """So a guard of `__main__` does not fire; the program's folder and the working directory are importable."""
    program("VALUE = 'sibling'\n", "deep/sibling.py")
    program("VALUE = 'here'\n", "in_cwd.py")
    program(
        "import sibling, in_cwd\n" + HEAD.format(name="") + "print(__name__, sibling.VALUE, in_cwd.VALUE)\n"
        "import sys\nassert sys.modules[__name__].app is app\n"
        "if __name__ == '__main__':\n    print('wrong')\n"
        "@app.local_entrypoint()\ndef main(): ...\n",
        "deep/nested_program.py",
    )

    assert cli("run", "deep/nested_program.py").out == "nested_program sibling here\n"


def test_modules(cli: Cli, engine: Any, program: Program) -> None:
    """`-m` imports by name, relative imports included."""
    program("", "package_one/__init__.py")
    program("VALUE = 7\n", "package_one/part.py")
    program(
        HEAD.format(name="")
        + "from .part import VALUE\n@app.local_entrypoint()\ndef main():\n    print(__name__, VALUE)\n",
        "package_one/start.py",
    )

    assert cli("run", "-m", "package_one.start").out == "package_one.start 7\n"
    missing = cli("run", "-m", "package_one.nowhere")
    assert missing.code == 1
    assert missing.err.startswith("Error: No module named 'package_one.nowhere'")


def test_a_missing_import_inside_the_program_is_its_own_error(cli: Cli, engine: Any, program: Program) -> None:
    """With a traceback that starts there."""
    path = program("import no_such_package_xyz\n")

    done = cli("run", "program.py")

    assert done.code == 1
    assert done.err.startswith(f'Traceback (most recent call last):\n  File "{path}", line 1, in <module>')
    assert "cli/refs.py" not in done.err


def test_a_program_on_stdin(cli: Cli, engine: Any, program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads it; it is importable like any other."""
    monkeypatch.setattr(sys, "stdin", io.StringIO(PROGRAM))

    assert cli("run", "-", "--x", "4").out == "16\n"


def test_syntax_errors_show_the_place(cli: Cli, engine: Any, program: Program) -> None:
    """As Python shows them."""
    program("x = (\n")

    done = cli("run", "program.py")

    assert done.code == 1
    assert "SyntaxError" in done.err
    assert "raymodal/cli" not in done.err


def test_running_the_app_during_import_is_refused(cli: Cli, engine: Any, program: Program) -> None:
    """It would recurse."""
    program(HEAD.format(name="") + "with app.run():\n    pass\n")

    done = cli("run", "program.py")

    assert done.code == 1
    assert "InvalidError" in done.err
    assert engine.plans == []


@pytest.mark.parametrize(
    ("body", "code", "shown"),
    [
        ("import sys; sys.exit(7)", 7, ""),
        ("raise ValueError('mine')", 1, "ValueError: mine"),
        ("raise EOFError('mine')", 1, "EOFError: mine"),
        ("raise KeyboardInterrupt", 130, ""),
    ],
)
def test_how_a_program_ends(cli: Cli, engine: Any, program: Program, body: str, code: int, shown: str) -> None:
    """The app is stopped every time; tracebacks start at the user's code."""
    path = program(HEAD.format(name="") + f"@app.local_entrypoint()\ndef main():\n    {body}\n")

    done = cli("run", "program.py")

    assert done.code == code
    assert engine.stopped == 1
    assert ("Traceback" in done.err) is bool(shown)
    if shown:
        assert f'Traceback (most recent call last):\n  File "{path}", line 5, in main\n' in done.err
        assert done.err.rstrip().endswith(shown)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
@pytest.mark.parametrize("is_async", [False, True])
def test_signals_stop_the_run(
    cli: Cli, engine: Any, program: Program, monkeypatch: pytest.MonkeyPatch, name: str, code: int, is_async: bool
) -> None:
    """Through every `finally`, app included; handlers are put back."""
    before = signal.getsignal(getattr(signal, name))
    wait = "await asyncio.sleep(30)" if is_async else "time.sleep(30)"
    program(
        HEAD.format(name="") + "import asyncio, os, signal, time\n"
        "@app.local_entrypoint()\n"
        f"{'async ' if is_async else ''}def main():\n"
        f"    try:\n        os.kill(os.getpid(), signal.{name})\n        {wait}\n"
        "    finally:\n        print('cleaned up')\n"
    )

    done = cli("run", "program.py")

    assert (done.code, done.out) == (code, "cleaned up\n")
    assert "Traceback" not in done.err
    assert engine.stopped == 1
    assert signal.getsignal(getattr(signal, name)) is before


@pytest.mark.parametrize(("value", "content"), [("'text'", b"text"), ("b'\\xff'", b"\xff")])
def test_write_result(cli: Cli, engine: Any, program: Program, tmp_path: Path, value: str, content: bytes) -> None:
    """-w keeps the return value."""
    program(HEAD.format(name="") + f"@app.local_entrypoint()\ndef main():\n    return {value}\n")

    assert cli("run", "-w", "out.bin", "program.py").code == 0
    assert (tmp_path / "out.bin").read_bytes() == content


def test_write_result_of_something_else(cli: Cli, engine: Any, program: Program, tmp_path: Path) -> None:
    """Only str and bytes."""
    program(HEAD.format(name="") + "@app.local_entrypoint()\ndef main():\n    return 3\n")

    done = cli("run", "-w", "out.bin", "program.py")

    assert done.code == 1
    assert "this one is int" in done.err
    assert not (tmp_path / "out.bin").exists()


@pytest.mark.parametrize(("options", "enabled"), [([], True), (["-q"], False)])
def test_quiet(cli: Cli, engine: Any, program: Program, options: list[str], enabled: bool) -> None:
    """Output is enabled for the run unless it is quiet."""
    program(
        HEAD.format(name="") + "from raymodal import output\n@app.local_entrypoint()\ndef main():\n"
        "    with modal.enable_output():\n        print(output.current() is not None)\n"
    )

    done = cli("run", *options, "program.py")

    assert done.out == f"{enabled}\n"
    assert output.current() is None
    if not enabled:
        assert done.err == ""


@pytest.mark.parametrize(
    ("name", "options", "description"),
    [("", [], "program.py::main --x 4"), ("'given'", [], "given"), ("", ["-n", "now"], "now")],
)
def test_descriptions(cli: Cli, engine: Any, program: Program, name: str, options: list[str], description: str) -> None:
    """An unnamed app is called by its command line."""
    program(PROGRAM.replace("'hello'", name))

    cli("run", *options, "program.py::main", "--x", "4")

    assert engine.plans[0].description == description


def test_options_become_settings(cli: Cli, engine: Any, program: Program) -> None:
    """Before the program is imported."""
    program(PROGRAM)

    cli("run", "--engine", "local", "--address", "auto", "--gpu", "ignore", "--timestamps", "-e", "dev", "program.py")

    settings = config.settings()
    assert (settings.engine, settings.address, settings.gpu, settings.timestamps) == ("local", "auto", "ignore", True)


def test_the_engine_is_warmed_up_while_the_program_is_imported(
    cli: Cli, engine: Any, program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not for --help, and its errors wait for the real start."""
    from raymodal.engine import current

    warmed = []

    def warm_up() -> None:
        warmed.append(os.getpid())
        raise RuntimeError("for the real start to report")

    monkeypatch.setattr(current, "warm_up", warm_up)
    program(PROGRAM)

    cli("run", "program.py", "--help")
    assert warmed == []
    assert cli("run", "program.py").code == 0
    assert warmed == [os.getpid()]


def test_a_program_called_like_a_module_that_others_import(cli: Cli, engine: Any, program: Program) -> None:
    """It goes by another name, and its name keeps its meaning."""
    program(PROGRAM + "    import wave\n    print(__name__, hasattr(wave, 'Wave_read'))\n", "wave.py")

    assert cli("run", "wave.py").out == "9\n_raymodal_main_wave True\n"


def test_neighbours_that_hide_modules_are_noticed(program: Program) -> None:
    """Such as a `modulefinder.py` beside the program; its other neighbours are its own affair."""
    path = program("", "deep/program.py")
    program("", "deep/helper.py")
    before = refs.hides_modules(refs.parse_ref(str(path)))
    program("", "deep/modulefinder.py")

    assert (before, refs.hides_modules(refs.parse_ref(str(path)))) == (False, True)
