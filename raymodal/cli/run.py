"""`raymodal run`: imports a program, picks what to run in it, and runs it while its app is up."""

from __future__ import annotations

import asyncio
import contextlib
import enum
import inspect
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from raymodal.cli import params, refs
from raymodal.exception import InvalidError, UnimplementedError

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


class Engine(enum.StrEnum):
    """Values of `--engine`."""

    ray = "ray"
    local = "local"


class Gpu(enum.StrEnum):
    """Values of `--gpu`."""

    ignore = "ignore"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What stands before the reference on the command line, as far as this module needs it."""

    name: str | None = None
    write_result: Path | None = None
    quiet: bool = False
    environment: str | None = None


@app.command(
    no_args_is_help=True,
    options_metavar="[OPTIONS]",
    # What stands behind the reference belongs to the program, dashes or not.
    context_settings={"allow_interspersed_args": False, "help_option_names": ["-h", "--help"]},
)
def run(
    ref: Annotated[str, typer.Argument(metavar="FILE[::NAME]", show_default=False)],
    args: Annotated[list[str] | None, typer.Argument(metavar="[ARGS]...", show_default=False)] = None,
    name: Annotated[str | None, typer.Option("--name", "-n", help="Name for this run of the App.")] = None,
    write_result: Annotated[
        Path | None, typer.Option("--write-result", "-w", help="Write the result (str or bytes) to this file.")
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show neither progress nor what containers print.")
    ] = False,
    detach: Annotated[bool, typer.Option("--detach", "-d", help="Not available yet.")] = False,
    interactive: Annotated[bool, typer.Option("--interactive", "-i", help="Not available yet.")] = False,
    env: Annotated[str | None, typer.Option("--env", "-e", help="Environment; accepted, there is only one.")] = None,
    m: Annotated[bool, typer.Option("-m", help="FILE is an import name, such as package.module.")] = False,
    timestamps: Annotated[
        bool, typer.Option("--timestamps", help="Show when each line of a container arrived.")
    ] = False,
    address: Annotated[
        str | None, typer.Option("--address", help="The Ray cluster; by default RAY_ADDRESS, else one of its own.")
    ] = None,
    engine: Annotated[
        Engine | None, typer.Option("--engine", help="local: threads of this process instead of Ray.")
    ] = None,
    gpu: Annotated[
        Gpu | None, typer.Option("--gpu", help="ignore: functions that ask for a GPU run without one.")
    ] = None,
) -> Callable[[], None]:
    """Run a function or local entrypoint of a Modal program.

    FILE[::NAME] says which: program.py, program.py::name, program.py::app.name, or - for a program on stdin. Without a
    name, the program's only local entrypoint is run, or else its only function. What follows belongs to it:

        raymodal run program.py::train --steps 100
    """
    if quiet and interactive:
        raise InvalidError("--interactive needs the display that --quiet switches off. Leave one of the two out.")
    if detach:
        raise UnimplementedError(
            "`raymodal run --detach` is not available yet. Leave it out: the run ends with this process."
        )
    if interactive:
        raise UnimplementedError(
            "`raymodal run --interactive` is not available yet. Run the function with .local() instead."
        )
    reference = refs.parse_ref(ref, is_module=m)
    refs.check_exists(reference)
    _override(
        quiet=quiet or None, timestamps=timestamps or None, address=address,
        engine=engine and engine.value, gpu=gpu and gpu.value,
    )  # fmt: skip
    options = RunOptions(name, write_result, quiet, env)
    return lambda: run_program(reference, args or [], options)


def _override(**changes: Any) -> None:
    from raymodal import config

    given = {name: value for name, value in changes.items() if value is not None}
    if given:
        config.override(**given)


def run_program(ref: refs.Ref, tokens: Sequence[str], options: RunOptions) -> None:
    """Import, choose, read the arguments, run.

    Raises:
        Exception: whatever the program raises, and what is wrong with the command line.
        SystemExit: the program's own, or after `--help`.
    """
    with Terminations() as terminations:
        _run_program(ref, tokens, options, terminations)


class Terminations:
    """While it is entered, SIGTERM and a closed terminal end the run as Ctrl-C does: through every `finally` on the way.

    Signals that somebody else handles or ignores (`nohup`) are left to them.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Terminations:
        if threading.current_thread() is threading.main_thread():
            for name in ("SIGTERM", "SIGHUP"):
                number = getattr(signal, name, None)  # Windows has no SIGHUP
                if number is not None and signal.getsignal(number) is signal.SIG_DFL:
                    self._before[number] = signal.signal(number, _end)
        return self

    def take_back(self) -> None:
        """Handle them again: starting Ray puts a handler of its own below Python's, which prints a stack."""
        for number in self._before:
            if signal.getsignal(number) is _end:
                signal.signal(number, _end)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) is _end:
                signal.signal(number, handler)


def _end(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _run_program(ref: refs.Ref, tokens: Sequence[str], options: RunOptions, terminations: Terminations) -> None:
    from raymodal import _alias
    from raymodal.engine import current

    if not params.wants_help(tokens):
        _warm_up()
        if refs.hides_modules(ref):
            # A `queue.py` or `calendar.py` beside the program: whatever the engine imports must be imported by then.
            current.get_engine()
    _alias.install()
    runnable = refs.choose(ref, refs.candidates(refs.import_program(ref)))
    text = f"{ref.target}::{ref.name}" if ref.name else ref.target
    call = prepare(runnable, tokens, command=f"raymodal run {text}")
    if not (options.name or runnable.app.name):
        runnable.app.description = " ".join([text, *tokens])
    result = _run_within_app(runnable, call, options, terminations)
    if options.write_result is not None:
        _write(options.write_result, result)


def _warm_up() -> None:
    """Start the engine while the program is being imported: either takes a second or so."""
    from raymodal.engine import current

    def warm() -> None:
        # The real start meets the same error, and reports it where it can be understood.
        with contextlib.suppress(Exception):
            current.warm_up()

    if hasattr(current, "warm_up"):
        threading.Thread(target=warm, name="raymodal-warm-up", daemon=True).start()


def prepare(runnable: refs.Runnable, tokens: Sequence[str], *, command: str) -> Callable[[], Any]:
    """Read the arguments and bind them; what comes back is called once the app runs.

    Raises:
        InvalidError: it cannot be run from the command line.
        SystemExit: help was asked for, or the arguments are wrong.
    """
    target = runnable.target
    if runnable.is_entrypoint:
        function = target.info.raw_f
        bound = params.parse(params.read_signature(function), tokens, command=command)
        if inspect.iscoroutinefunction(function):
            return lambda: asyncio.run(function(*bound.args, **bound.kwargs))
        return lambda: function(*bound.args, **bound.kwargs)
    if runnable.method:
        return _prepare_method(runnable, tokens, command)
    _refuse_generator(runnable, target.spec.is_generator)
    bound = params.parse(params.read_signature(target._raw_f), tokens, command=command)
    return lambda: target.remote(*bound.args, **bound.kwargs)


def _prepare_method(runnable: refs.Runnable, tokens: Sequence[str], command: str) -> Callable[[], Any]:
    """The class's parameters and the method's share one list of options."""
    cls, name = runnable.target, runnable.method
    _refuse_generator(runnable, any(method.is_generator for method in cls._spec.methods if method.name == name))
    if cls._spec.has_own_init:
        of_class = params.read_signature(cls._user_cls.__init__, is_method=True)
    else:
        of_class = params.Signature(tuple(map(params.read_class_parameter, cls._spec.parameters)))
    of_method = params.read_signature(cls._partials[name].raw_f, is_method=True)
    first, second = params.parse_both(of_class, of_method, tokens, command=command)
    return lambda: getattr(cls(*first.args, **first.kwargs), name).remote(*second.args, **second.kwargs)


def _refuse_generator(runnable: refs.Runnable, is_generator: bool) -> None:
    if is_generator:
        raise InvalidError(
            f"`raymodal run` is not supported for generator functions, and `{runnable.names[0]}` is one. "
            "Iterate over .remote_gen() in a @app.local_entrypoint()."
        )


def _run_within_app(
    runnable: refs.Runnable, call: Callable[[], Any], options: RunOptions, terminations: Terminations
) -> Any:
    from raymodal.output import enable_output

    result, is_interrupted = None, False
    with (
        contextlib.nullcontext() if options.quiet else enable_output(),
        runnable.app.run(name=options.name, environment_name=options.environment),
    ):
        terminations.take_back()
        try:
            result = call()
        except KeyboardInterrupt:
            is_interrupted = True
            raise
    # `app.run()` swallows Ctrl-C, for scripts; here it decides the exit status.
    if is_interrupted:
        raise KeyboardInterrupt
    return result


def _write(path: Path, result: Any) -> None:
    if isinstance(result, str):
        path.write_text(result, encoding="utf-8")
    elif isinstance(result, bytes):
        path.write_bytes(result)
    else:
        raise InvalidError(
            f"--write-result needs a result that is str or bytes, and this one is {type(result).__name__}. "
            "Nothing was written."
        )
