"""The `raymodal` command: finds the subcommand, and is the one place where errors become messages and exit codes.

A subcommand's module is imported when it is called, so that `raymodal --help` costs neither Ray nor the engine. A
subcommand may do its work at once, or return a function that does it: the command-line library turns some exceptions
of whatever it runs into messages of its own, which the user's program must not suffer.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import importlib.util
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn, TextIO

import typer
from typer.core import TyperGroup
from typer.main import get_command

from raymodal._traceback import clean, filter_frames
from raymodal.exception import Error, UnimplementedError

COMMANDS = {
    "run": ("raymodal.cli.run", "Run a function or local entrypoint of a Modal program."),
    "app": ("raymodal.cli.app", "List apps that run here; say why a function has as many containers as it has."),
    "function": ("raymodal.cli.function", "Read and change how a function of a running app scales."),
    "secret": ("raymodal.cli.secret", "Keep named secrets, encrypted, for Secret.from_name."),
    "volume": ("raymodal.cli.volume", "Keep volumes, and read and write their files."),
    "cluster": ("raymodal.cli.cluster", "Keep a Ray on this machine between runs, end it, look at it."),
    "bench": ("raymodal.cli.bench", "Measure this machine or cluster."),
}

NOT_YET = (
    "billing", "changelog", "config", "container", "curl", "dashboard", "deploy", "dict", "endpoint",
    "environment", "image", "nfs", "profile", "queue", "serve", "server", "setup", "shell",
    "skills", "token", "workspace",
)  # fmt: skip

INTERRUPTED = 130
_UsageError: Any = typer.BadParameter.__mro__[
    1
]  # typer carries click inside it, or needs it; neither is ours to import


class _LazyGroup(TyperGroup):
    """Knows its commands by name, and imports a command's module when that command is called."""

    def list_commands(self, ctx: Any) -> list[str]:
        return [name for name, (module, _) in COMMANDS.items() if importlib.util.find_spec(module) is not None]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in NOT_YET:
            raise UnimplementedError(
                f"`raymodal {cmd_name}` is not available yet; programs run with `raymodal run`. See `raymodal --help`."
            )
        if cmd_name not in self.list_commands(ctx):
            return None
        command = get_command(importlib.import_module(COMMANDS[cmd_name][0]).app)
        command.name = cmd_name
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])
        with formatter.section("Not yet"):
            formatter.write_text(", ".join(NOT_YET))


app = typer.Typer(
    cls=_LazyGroup,
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,  # rich would take longer to import than everything else together
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"raymodal {version('raymodal')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Run programs written for Modal's Python SDK on a Ray cluster that you own."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """The console command. Ends the process: 0, 1 for an error, 2 for wrong usage, 130 after Ctrl-C, or as told."""
    warnings.showwarning = _show_warning
    try:
        code = _run(list(sys.argv[1:] if argv is None else argv))
    finally:
        _flush()
    if argv is None:
        _leave(code)
    sys.exit(code)


def _leave(code: int) -> None:
    """End the process at once where it is connected to Ray, instead of taking Python and Ray's threads apart first (0.1 to
    0.4 s): after the threads and exit handlers of the program, as Python would do it.
    """
    cluster = sys.modules.get("raymodal.engine.ray.cluster")
    if cluster is None or threading.current_thread() is not threading.main_thread():
        return
    cluster.end_soon()
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads that are no daemons
    atexit._run_exitfuncs()
    _flush()
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)


def _run(argv: list[str]) -> int:
    try:
        done = get_command(app).main(argv, prog_name="raymodal", standalone_mode=False)
        if callable(done):
            done = done()
        return done if isinstance(done, int) else 0
    except KeyboardInterrupt:
        return INTERRUPTED
    except typer.Abort as exc:
        return INTERRUPTED if isinstance(exc.__cause__, KeyboardInterrupt) else 1
    except _UsageError as exc:
        exc.show()
        return int(exc.exit_code)
    except Exception as exc:  # noqa: BLE001  the outermost border
        if isinstance(exc, BrokenPipeError) and filter_frames(exc.__traceback__) is None:
            return 1  # whoever read our own lines (`| head`) has left
        _report(exc)
        return 1


_usual_showwarning = warnings.showwarning
_OWN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "")


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Where a warning's place is raymodal itself, a line of raymodal's source tells the user nothing: only the text is shown."""
    if file is None and filename.startswith(_OWN):
        print(f"Warning: {message}", file=sys.stderr)
    else:
        _usual_showwarning(message, category, filename, lineno, file, line)


def _report(exc: Exception) -> None:
    """A traceback of the user's code where there is one, else a line."""
    if _wants_everything():
        traceback.print_exception(exc)
    elif filter_frames(exc.__traceback__) is not None or isinstance(exc, SyntaxError):
        clean(exc)
        traceback.print_exception(exc)
    elif isinstance(exc, Error):
        print(f"Error: {exc}", file=sys.stderr)
    else:
        traceback.print_exception(exc)
        print("Error: this came from raymodal itself, not from your program; please report it.", file=sys.stderr)


def _wants_everything() -> bool:
    from raymodal.config import settings

    try:
        return settings().traceback
    except Error:  # a setting does not parse, which may be the very thing to report
        return False


def _flush() -> None:
    """Ends quietly when whoever read stdout (`| head`) has left."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except ValueError:
        pass
