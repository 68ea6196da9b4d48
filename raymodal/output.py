"""What a run shows: the lines that user code prints in containers, and how far the run is.

Lines of user code go to this process's stdout and stderr, each exactly once and whole. Everything that raymodal itself
has to say goes to stderr only: on a terminal as a live view, elsewhere as a few plain lines. Without `enable_output`
(and under `--quiet`) nothing is shown at all, and engines need not fetch lines: `current()` is None.

Engines and the surface report through `OutputManager.line` and `OutputManager.event`, from any thread. Neither ever
raises: a reader that went away (`| head`) must not stop a run.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Protocol, TextIO

from raymodal.config import settings

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

# ------------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True)
class RunStarted:
    """An app runs; `engine` says where in words, such as `local Ray (2 CPUs)`."""

    app_id: str
    name: str
    engine: str


@dataclass(frozen=True, slots=True)
class ObjectCreated:
    """Part of the app is there, such as `("function", "square")`."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class Containers:
    """How many containers a function has now."""

    function: str
    starting: int
    ready: int


@dataclass(frozen=True, slots=True)
class Inputs:
    """How many inputs of a function are done, of how many so far."""

    function: str
    done: int
    total: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that a user waiting in front of the screen should know, such as what a container waits for."""

    text: str


@dataclass(frozen=True, slots=True)
class RunEnded:
    """The app stopped. Without a figure the time since its `RunStarted` is shown.

    `is_early`: its block was left by an exception or Ctrl-C, so nobody may say that it completed.
    """

    seconds: float = 0.0
    is_early: bool = False


OutputEvent = RunStarted | ObjectCreated | Containers | Inputs | Notice | RunEnded

# ------------------------------------------------------------------------------------------------------ streams


class _Sink:
    """Writes whole lines to one of the process's streams until that stream breaks."""

    def __init__(self, pick: Callable[[], TextIO | None]) -> None:
        # Looked up for every line: notebooks and `redirect_stdout` exchange the stream while a run is on.
        self._pick = pick
        self._broken: TextIO | None = None
        self.local: _LocalLines | None = None

    def write(self, text: str) -> None:
        stream = self._pick()
        if stream is None or stream is self._broken:
            return
        local = self.local
        write = stream.write if local is None or local.stream is not stream else local.write_between
        try:
            try:
                write(text)
            except UnicodeEncodeError:
                encoding = getattr(stream, "encoding", None) or "ascii"
                write(text.encode(encoding, "replace").decode(encoding))
            stream.flush()
        except (OSError, ValueError):  # the pipe's reader is gone; the file was closed
            self._broken = stream


class _LocalLines:
    """Keeps other lines out of one that this process is in the middle of.

    `print` writes its line in pieces, and another thread may come in between: a container's line would land in the middle
    of a local one. So the stream's `write` notes whether a line is open; whoever has a line to put waits for its end, but
    not long, since `print("working ... ", end="")` leaves one open for as long as the program likes.
    """

    PATIENCE_S = 0.1

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._plain_write = stream.write
        # Reentrant: a signal handler may print while its thread is in here.
        self._changed = threading.Condition(threading.RLock())
        self._is_open = False
        self._is_waited_for = True
        # Into the instance, so that the stream stays the object that it is; not every stream has room for it.
        stream.write = self._write  # type: ignore[method-assign]

    def _write(self, text: str) -> int:
        with self._changed:
            count = self._plain_write(text)
            if text:
                self._is_open = not text.endswith("\n")
                if not self._is_open:
                    self._is_waited_for = True
                    self._changed.notify_all()
        return count

    def write_between(self, text: str) -> int:
        """Write a whole line where no local one is cut by it."""
        with self._changed:
            if self._is_open and self._is_waited_for:
                self._is_waited_for = self._changed.wait_for(lambda: not self._is_open, self.PATIENCE_S)
            return self._plain_write(text)

    def take_back(self) -> None:
        if vars(self.stream).get("write") == self._write:
            del self.stream.write


# -------------------------------------------------------------------------------------------------------- views


class View(Protocol):
    """How progress is shown. Calls are serialised by the manager."""

    def event(self, event: OutputEvent) -> None: ...
    def line(self, text: str, sink: _Sink) -> None: ...
    def close(self) -> None: ...


class PlainView:
    """A few lines on stderr: for pipes, files and dumb terminals."""

    def __init__(self, err: _Sink) -> None:
        self._err = err

    def event(self, event: OutputEvent) -> None:
        text = _sentence(event)
        if text is not None:
            self._err.write(f"{text}\n")

    def line(self, text: str, sink: _Sink) -> None:
        sink.write(text)

    def close(self) -> None:
        pass


def _sentence(event: OutputEvent) -> str | None:
    match event:
        case RunStarted(app_id, name, engine):
            return f"✓ Initialized. App {name} ({app_id}) on {engine}"
        case RunEnded(seconds, is_early):
            return f"✗ App stopped after {seconds:.1f} s" if is_early else f"✓ App completed in {seconds:.1f} s"
        case Notice(text):
            return text
        case _:
            return None


@dataclass
class _Work:
    """Figures of one function, for its line in the live view."""

    starting: int = 0
    ready: int = 0
    done: int = 0
    total: int = 0

    def __str__(self) -> str:
        parts = []
        if self.ready or self.starting:
            waiting = f", {self.starting} starting" if self.starting else ""
            parts.append(f"{self.ready} container{'' if self.ready == 1 else 's'}{waiting}")
        if self.total:
            parts.append(f"{self.done}/{self.total} inputs")
        return " · ".join(parts)


@dataclass
class LiveView:
    """A tree on stderr, redrawn in place; user lines scroll by above it."""

    console: Console
    err: _Sink
    _objects: list[ObjectCreated] = field(default_factory=list)
    _work: dict[str, _Work] = field(default_factory=dict)
    _live: Live | None = None

    def event(self, event: OutputEvent) -> None:
        match event:
            case ObjectCreated():
                self._objects.append(event)
            case Containers(function, starting, ready):
                work = self._work.setdefault(function, _Work())
                work.starting, work.ready = starting, ready
            case Inputs(function, done, total):
                work = self._work.setdefault(function, _Work())
                work.done, work.total = done, total
            case RunEnded():
                self.close()
                self._say(event)
            case _:
                self._say(event)
                if isinstance(event, RunStarted):
                    self._open()

    def _say(self, event: OutputEvent) -> None:
        self.console.print(_sentence(event), markup=False, highlight=False)

    def _open(self) -> None:
        from rich.live import Live

        self._objects.clear()
        self._work.clear()
        # The program's own prints land on the same screen: rich passes them through above the view. Where stdout goes
        # elsewhere it must be left alone.
        self._live = Live(
            get_renderable=self.tree,
            console=self.console,
            refresh_per_second=8,
            redirect_stdout=_is_terminal(sys.stdout),
            redirect_stderr=True,
        )
        self._live.start()

    def tree(self) -> RenderableType:
        """The view as it is now."""
        from rich.text import Text
        from rich.tree import Tree

        tree = Tree(Text("Created objects." if self._objects else "Running."))
        shown = set()
        for made in tuple(self._objects):
            work = str(self._work.get(made.name, ""))
            shown.add(made.name)
            tree.add(Text.assemble(("✓ ", "green"), f"{made.kind} {made.name}", (f"  {work}" if work else "", "dim")))
        for name, work_of in tuple(self._work.items()):
            if name not in shown:
                tree.add(Text(f"{name}  {work_of}"))
        return tree

    def line(self, text: str, sink: _Sink) -> None:
        if self._live is not None and (sink is self.err or _is_terminal(sys.stdout)):
            self.console.print(text.removesuffix("\n"), markup=False, highlight=False, emoji=False)
        else:
            sink.write(text)

    def close(self) -> None:
        live, self._live = self._live, None
        if live is not None:
            live.stop()


# ------------------------------------------------------------------------------------------------------ manager


class OutputManager:
    """What engines and the surface report to while output is enabled.

    Example:
        >>> manager = OutputManager()
        >>> manager.line("from a container", is_err=False, source="ta-1")
        from a container
    """

    def __init__(
        self,
        *,
        view: View | None = None,
        timestamps: bool = False,
        now: Callable[[], datetime] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out = _Sink(lambda: sys.stdout)
        self._err = _Sink(lambda: sys.stderr)
        self._view: View = view if view is not None else PlainView(self._err)
        self._now = now or (lambda: datetime.now().astimezone())
        self._timestamps = timestamps
        self._clock = clock
        self._started_at = clock()
        # Reentrant: a signal handler may print while its thread is in here.
        self._lock = threading.RLock()

    @classmethod
    def for_terminal(cls, *, show_progress: bool, timestamps: bool) -> OutputManager:
        """A manager with the view that suits stderr."""
        manager = cls(timestamps=timestamps)
        if not show_progress:
            manager._view = _SilentView()
        elif _is_terminal(sys.stderr):
            console = _console()
            if console.is_terminal and not console.is_dumb_terminal:
                manager._view = LiveView(console, manager._err)
        return manager

    def line(self, text: str, *, is_err: bool, source: str) -> None:
        """Show a line that user code printed in a container.

        Args:
            text: the line, with or without its line end.
            is_err: it was printed to stderr.
            source: the container's id.
        """
        if self._timestamps:
            text = f"{self._now().isoformat(timespec='milliseconds')} {text}"
        if not text.endswith("\n"):
            text += "\n"
        with self._lock:
            self._guarded(lambda: self._view.line(text, self._err if is_err else self._out))

    def event(self, event: OutputEvent) -> None:
        """Show how far the run is."""
        with self._lock:
            if isinstance(event, RunStarted):
                self._started_at = self._clock()
            elif isinstance(event, RunEnded) and not event.seconds:
                event = replace(event, seconds=self._clock() - self._started_at)
            self._guarded(lambda: self._view.event(event))

    def watch_local_lines(self) -> None:
        """Keep lines of containers out of the lines that this process prints, until `close`."""
        streams = {"out": (self._out, sys.stdout), "err": (self._err, sys.stderr)}
        if isinstance(self._view, LiveView):
            del streams["err"]  # rich puts together what goes to its terminal
            if _is_terminal(sys.stdout):
                return
        for sink, stream in streams.values():
            if stream is not None:
                with suppress(AttributeError):
                    sink.local = _LocalLines(stream)

    def close(self) -> None:
        """Take the live view off the screen; its last state stays."""
        with self._lock:
            self._guarded(self._view.close)
            for sink in (self._err, self._out):
                if sink.local is not None:
                    sink.local.take_back()
                    sink.local = None

    def _guarded(self, show: Callable[[], None]) -> None:
        try:
            show()
        except (OSError, ValueError):  # rich writes to the terminal itself; the terminal may be gone
            self._view = PlainView(self._err)


class _SilentView(PlainView):
    """User lines, no progress: `enable_output(show_progress=False)` of older programs."""

    def __init__(self) -> None:
        pass

    def event(self, event: OutputEvent) -> None:
        pass


def _is_terminal(stream: TextIO | None) -> bool:
    try:
        return stream is not None and stream.isatty()
    except (AttributeError, ValueError):  # not quite a file; a closed one
        return False


def _console() -> Console:
    from rich.console import Console

    # rich honours NO_COLOR and TERM. soft_wrap: a terminal wraps long lines itself, and copies them whole.
    return Console(stderr=True, soft_wrap=True)


# ------------------------------------------------------------------------------------------------------- enabling

_current: OutputManager | None = None
_lock = threading.Lock()


def current() -> OutputManager | None:
    """The manager to report to; None while output is not enabled."""
    return _current


@contextmanager
def enable_output(show_progress: bool | None = None) -> Iterator[None]:
    """Show remote output and progress of the apps that run inside the block.

    Inside another `enable_output` it changes nothing; under `--quiet` it does nothing.

    Args:
        show_progress: False leaves raymodal's own lines out. (Modal 1.6 has no such parameter; older programs pass it.)

    Example:
        >>> with enable_output():
        ...     current() is not None
        True
    """
    global _current
    config = settings()
    with _lock:
        mine = None
        if _current is None and not config.quiet:
            mine = OutputManager.for_terminal(show_progress=show_progress is not False, timestamps=config.timestamps)
            mine.watch_local_lines()
            _current = mine
    try:
        yield
    finally:
        if mine is not None:
            with _lock:
                _current = None
            mine.close()
