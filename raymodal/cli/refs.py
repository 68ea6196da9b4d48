"""From what stands on the command line (`file.py::name`) to something that can be run.

`parse_ref` reads the text, `import_program` imports the user's module, `candidates` lists what can be run in it and
`choose` picks one or says why none. Only `import_program` touches the world.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.util
import os
import sys
import tempfile
import types
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raymodal.exception import InvalidError, NotFoundError

if TYPE_CHECKING:
    from raymodal.app import App

STDIN = "-"
_STDIN_STEM = "raymodal_stdin_app"
_TAKEN = frozenset({"modal", "raymodal", "ray"})


@dataclass(frozen=True, slots=True)
class Ref:
    """A parsed reference.

    Attributes:
        target: a path, an import name (`is_module`) or `-`.
        name: what to run in it; empty for "find out".
    """

    target: str
    name: str = ""
    is_module: bool = False

    @property
    def words(self) -> str:
        """How messages call the program."""
        if self.target == STDIN:
            return "script on stdin"
        return f"module {self.target!r}" if self.is_module else f"file {self.target!r}"

    def with_name(self, name: str) -> str:
        """A command line that runs `name`."""
        return f"raymodal run {'-m ' if self.is_module else ''}{self.target}::{name}"


def parse_ref(text: str, *, is_module: bool = False) -> Ref:
    """Read `file.py`, `file.py::name`, `pkg.mod::name` (with `-m`) or `-`.

    Raises:
        InvalidError: says what is wrong with the text and what was probably meant.

    Example:
        >>> parse_ref("dir/train.py::main").name
        'main'
    """
    target, separator, name = text.partition("::")
    if target == STDIN:
        return Ref(STDIN, name)
    head, colon, tail = target.rpartition(":")
    # A drive letter is no mistake: `c:\jobs.py`.
    if colon and not separator and len(head) > 1:
        raise InvalidError(f"Invalid object reference: {text}. Did you mean '::' instead of ':', as in {head}::{tail}?")
    if is_module:
        if target.endswith(".py") or "/" in target:
            raise InvalidError(
                f"With -m an import name such as `package.module` is expected, not {target!r}. Leave -m out."
            )
        return Ref(target, name, is_module=True)
    if not target.endswith(".py"):
        raise InvalidError(
            f"{target!r} is not a .py file. Python module paths must be specified with the -m flag: "
            f"use `raymodal run -m {text}` instead."
        )
    stem = Path(target).stem
    if "." in stem:
        raise InvalidError(
            f"Invalid source file name: {target!r}. It is imported as a module, so the name cannot contain further "
            f"periods. Rename it, for example to {stem.replace('.', '_')}.py."
        )
    if stem in _TAKEN:
        raise InvalidError(
            f"{target!r} would be imported under the name {stem!r}, which hides the package of that name. "
            "Rename the file."
        )
    return Ref(target, name)


# -------------------------------------------------------------------------------------------------------- importing


def check_exists(ref: Ref) -> None:
    """Refuse a file that is not there, before anything is started.

    Raises:
        NotFoundError: names the path, and files that are spelled alike.
    """
    if ref.is_module or ref.target == STDIN:
        return
    path = Path(ref.target)
    if path.is_file():
        return
    with contextlib.suppress(OSError):
        siblings = [str(path.with_name(other.name)) for other in path.absolute().parent.glob("*.py")]
        close = difflib.get_close_matches(str(path), siblings, n=3)
        hint = (
            f" Did you mean {' or '.join(close)}?" if close else " Check the path; it counts from the current folder."
        )
        raise NotFoundError(f"No such file: {ref.target!r} (looked in {path.absolute().parent}).{hint}")
    raise NotFoundError(f"No such file: {ref.target!r}.")


def import_program(ref: Ref) -> types.ModuleType:
    """Import the user's program, with its folder and the working directory on `sys.path`.

    A file is imported under its stem, never as `__main__`, because containers import it under the same name.

    Raises:
        NotFoundError: there is no such module (`-m`).
        Exception: whatever the program raises.
    """
    with _importing():
        if ref.is_module:
            sys.path.insert(0, os.getcwd())
            return _import_module(ref.target)
        return _import_file(_stdin_script() if ref.target == STDIN else Path(ref.target).absolute())


def _import_module(name: str) -> types.ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as exc:
        # A missing import *inside* the program is the program's own error, with its own traceback.
        if exc.name is not None and f"{name}.".startswith(f"{exc.name}."):
            raise NotFoundError(
                f"No module named {exc.name!r} (looked in {os.getcwd()} and in the installed packages). "
                "Run from the folder that holds the package, or give a path to a .py file without -m."
            ) from exc
        raise


def _import_file(path: Path) -> types.ModuleType:
    # Found out before the program's folder is on the path, where it would find itself.
    name = path.stem
    if _is_taken(name, path):
        with contextlib.suppress(Exception):  # whatever it is, nobody has asked for it yet
            importlib.import_module(name)
        name = f"_raymodal_main_{name}"
    sys.path[:0] = [str(path.parent), os.getcwd()]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InvalidError(f"{str(path)!r} cannot be imported as Python source.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _is_taken(name: str, path: Path) -> bool:
    """Whether `import name` means something else than the file at `path`, such as `queue` of the standard library: the
    program must not take its place under those who need the real one.
    """
    if name in sys.stdlib_module_names:
        return True
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):  # in `sys.modules` without a spec
        return True
    # A folder without code (a namespace package) is nothing that anybody imports.
    if spec is None or spec.origin is None or _is_same_file(spec.origin, path):
        return False
    # The program's own folder comes before the working directory.
    found = Path(spec.origin)
    return name in sys.modules or (found.parent if found.name == "__init__.py" else found).parent != Path.cwd()


def _is_same_file(one: str, other: Path) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # "built-in", "frozen"
        return False


def hides_modules(ref: Ref) -> bool:
    """Whether the folders that `import_program` puts on `sys.path` hide modules from whoever imports them afterwards."""
    folders = {Path.cwd()}
    if not ref.is_module and ref.target != STDIN:
        folders.add(Path(ref.target).absolute().parent)
    for folder in folders:
        with contextlib.suppress(OSError):
            for entry in folder.iterdir():
                file = entry if entry.suffix == ".py" else entry / "__init__.py"
                name = entry.name.removesuffix(".py")
                if name.isidentifier() and name not in sys.modules and file.is_file() and _is_taken(name, file):
                    return True
    return False


def _stdin_script() -> Path:
    """Stdin in a file, for as long as this process lives: containers import it as they import any program."""
    import atexit
    import shutil

    folder = Path(tempfile.mkdtemp(prefix="raymodal-stdin-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    path = folder / f"{_STDIN_STEM}.py"
    path.write_text(sys.stdin.read(), encoding="utf-8")
    return path


def _importing() -> AbstractContextManager[None]:
    """While it is entered, `app.run()` refuses: an import must not run the app that it declares."""
    from raymodal.app import forbid_runs

    return forbid_runs("`raymodal run` is importing the program")


# ------------------------------------------------------------------------------------------------------- candidates


@dataclass(slots=True)
class Runnable:
    """Something that `raymodal run` can run.

    Attributes:
        target: a `LocalEntrypoint`, a `Function` or a `Cls`.
        method: of the `Cls`; empty otherwise.
        app: what to run while it runs.
        in_module: names under which the module itself knows it.
        in_apps: names of the form `app.tag`.
    """

    target: Any
    app: App
    method: str = ""
    is_entrypoint: bool = False
    in_module: list[str] = field(default_factory=list)
    in_apps: list[str] = field(default_factory=list)

    @property
    def names(self) -> list[str]:
        """Every name, the best one first."""
        return self.in_module + self.in_apps

    @property
    def rank(self) -> int:
        """Modal's order of preference; the lowest wins."""
        return (0 if self.in_module else 2) + (0 if self.is_entrypoint else 1)


def candidates(module: types.ModuleType) -> list[Runnable]:
    """Everything in `module` that can be run, web functions left out, best rank first."""
    found = _Found()
    apps: list[tuple[str, App]] = []
    from raymodal.app import App

    for name, value in list(vars(module).items()):
        if isinstance(value, App):
            apps.append((name, value))
        else:
            found.add(value, name, in_module=True)
    for app_name, app in apps:
        for tag, value in _registered(app):
            found.add(value, f"{app_name}.{tag}", in_module=False, through=app)
    return sorted(found.runnables.values(), key=lambda runnable: runnable.rank)


def _registered(app: App) -> Iterator[tuple[str, Any]]:
    # The public `registered_...` warn, because Modal deprecates them for users.
    for registry in (app._local_entrypoints, app._functions, app._classes):
        yield from list(registry.items())


class _Found:
    """Collects the names of each runnable thing; one thing may have several."""

    def __init__(self) -> None:
        self.runnables: dict[tuple[int, str], Runnable] = {}

    def add(self, value: Any, name: str, *, in_module: bool, through: App | None = None) -> None:
        kind = _kind_of(value)
        if kind == "entrypoint":
            self._note(value, "", name, in_module, through, is_entrypoint=True)
        elif kind == "function" and _is_declared(value) and value.spec.webhook is None:
            self._note(value, "", name, in_module, through)
        elif kind == "cls" and getattr(value, "_spec", None) is not None:
            for method in value._spec.methods:
                if method.webhook is None:
                    self._note(value, method.name, f"{name}.{method.name}", in_module, through)

    def _note(
        self, value: Any, method: str, name: str, in_module: bool, through: App | None, *, is_entrypoint: bool = False
    ) -> None:
        app = _app_of(value) or through
        if app is None:
            return
        runnable = self.runnables.setdefault(
            (id(value), method), Runnable(value, app, method, is_entrypoint=is_entrypoint)
        )
        (runnable.in_module if in_module else runnable.in_apps).append(name)


def _kind_of(value: Any) -> str:
    """By class name along the class's ancestors, so that this module imports no more of the surface than it meets."""
    names = {cls.__name__ for cls in type(value).__mro__ if cls.__module__.partition(".")[0] == "raymodal"}
    if "LocalEntrypoint" in names:
        return "entrypoint"
    if "Function" in names:
        return "function"
    return "cls" if "Cls" in names else ""


def _is_declared(function: Any) -> bool:
    return getattr(function, "_raw_f", None) is not None


def _app_of(value: Any) -> App | None:
    """The app that declared it; for what a module imported from another, that is not the module's own."""
    app: App | None = getattr(value, "_app", None) or getattr(value, "app", None)
    return app


# --------------------------------------------------------------------------------------------------------- choosing


def choose(ref: Ref, found: Sequence[Runnable]) -> Runnable:
    """The one thing that `ref` means.

    Raises:
        InvalidError: nothing can be run, or several things are meant equally; lists them.
        NotFoundError: nothing has that name; suggests what is spelled alike.
    """
    if not found:
        raise InvalidError(
            f"The {ref.words} has no entrypoints. Declare one with @app.local_entrypoint() or @app.function() "
            "(web functions cannot be run)."
        )
    if not ref.name:
        return _best(
            ref,
            found,
            f"`raymodal run` was given no function name, and the {ref.words} has several possible entrypoints.",
        )
    exact = [runnable for runnable in found if ref.name in runnable.names]
    if exact:
        return exact[0]
    below = [runnable for runnable in found if any(name.startswith(f"{ref.name}.") for name in runnable.names)]
    if below:
        return _best(ref, below, f"{ref.name!r} matches several entrypoints in the {ref.words}.")
    raise NotFoundError(f"Could not find {ref.name!r} in the {ref.words}.\n{_listing(found)}{_suggestion(ref, found)}")


def _best(ref: Ref, found: Sequence[Runnable], problem: str) -> Runnable:
    rank = min(runnable.rank for runnable in found)
    best = [runnable for runnable in found if runnable.rank == rank]
    if len(best) == 1:
        return best[0]
    raise InvalidError(
        f"{problem}\n{_listing(found)}\n\nSay which, for example:\n    {ref.with_name(best[0].names[0])}"
    )


def _listing(found: Sequence[Runnable]) -> str:
    return "\n".join(["It has:", *(f"- {' / '.join(runnable.names)}" for runnable in found)])


def _suggestion(ref: Ref, found: Sequence[Runnable]) -> str:
    every = [name for runnable in found for name in runnable.names]
    ends = [name for name in every if name.rpartition(".")[2] == ref.name]
    close = ends or difflib.get_close_matches(ref.name, every, n=3)
    return "".join(["\n\nDid you mean:", *(f"\n    {ref.with_name(name)}" for name in close)]) if close else ""
