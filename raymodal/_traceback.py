"""Carries the lines of a traceback from a container to its caller, and hides raymodal's own frames.

`capture` runs in the container and returns plain picklable values. `rebuild` runs in the caller and hangs synthetic
traceback objects on the exception that arrived, so that an ordinary `traceback.print_exc()` shows the local frames
and, below them, the remote ones as `<container id>:<file>` with the source lines of the container. `filter_frames`
and `clean` serve whoever prints a traceback. Nothing here reads settings, writes to a stream or touches Ray.

Theory of operation: a traceback entry is (frame, instruction, line). A frame can only come from running code, so
`_frame_at` runs a one-line code object that was renamed to the remote file and function. The instruction is given as
-1, which makes Python use the given line instead of looking it up in the code; the source line is put into
`linecache`, where `traceback` looks for it.
"""

from __future__ import annotations

import functools
import linecache
import os
import sys
import sysconfig
import types
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

HEAD = TAIL = 50
"""How many frames are kept at either end of a very long traceback: a RecursionError has thousands."""

_REMOTE_MARK = "__raymodal_remote__"
_LEFT_OUT = "frames left out"
_MAX_SOURCES = 256

_OWN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "")
_STDLIB = tuple(
    os.path.join(path, "") for key in ("stdlib", "platstdlib") if (path := sysconfig.get_paths().get(key)) is not None
)
_PACKAGES = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_HELPERS = tuple(f"{packages}{name}{os.sep}" for packages in _PACKAGES for name in ("ray", "typer", "click"))


class Frame(NamedTuple):
    """One line of a traceback, free of anything that lives in a process."""

    filename: str
    lineno: int
    name: str
    line: str
    is_placed: bool = False
    """The file name already says in which container it is (the error crossed more than one border)."""


@dataclass(frozen=True, slots=True)
class Frames:
    """What `capture` found: the frames of an exception and, for an exception group, of its members."""

    frames: tuple[Frame, ...] = ()
    members: tuple[Frames, ...] = ()


# ------------------------------------------------------------------------------------------------- in the container


def capture(exc: BaseException) -> Frames:
    """Takes down where `exc` was raised, in frames of user code only.

    Example:
        >>> try:
        ...     {}["missing"]
        ... except KeyError as exc:
        ...     captured = capture(exc)
        >>> [frame.name for frame in captured.frames]
        ['<module>']
    """
    kept = _kept(exc.__traceback__)
    left_out = len(kept) - HEAD - TAIL
    if left_out > 0:
        marker = Frame(f"<{left_out} {_LEFT_OUT}>", 1, "...", "", is_placed=True)
        frames = (*map(_taken_down, kept[:HEAD]), marker, *map(_taken_down, kept[-TAIL:]))
    else:
        frames = tuple(map(_taken_down, kept))
    members = tuple(map(capture, exc.exceptions)) if isinstance(exc, BaseExceptionGroup) else ()
    return Frames(frames, members)


def _taken_down(tb: types.TracebackType) -> Frame:
    code, names = tb.tb_frame.f_code, tb.tb_frame.f_globals
    line = linecache.getline(code.co_filename, tb.tb_lineno, names).strip()
    return Frame(code.co_filename, tb.tb_lineno, code.co_name, line, bool(names.get(_REMOTE_MARK)))


# --------------------------------------------------------------------------------------------------- in the caller

E = TypeVar("E", bound=BaseException)


def rebuild(exc: E, captured: Frames, prefix: str) -> E:
    """Hangs the captured frames on `exc`, each file named `<prefix>:<file>`, and returns `exc`.

    Raising the returned exception puts the caller's own frames above them.

    Args:
        exc: the exception as it was unpickled here; a traceback that it already has is replaced.
        captured: what `capture` returned in the container.
        prefix: the container's id.
    """
    tb: types.TracebackType | None = None
    for frame in reversed(captured.frames):
        filename = frame.filename if frame.is_placed else f"{prefix}:{frame.filename}"
        _keep_source(filename, frame.lineno, frame.line)
        tb = types.TracebackType(tb, _frame_at(filename, frame.name), -1, max(frame.lineno, 1))
    exc.__traceback__ = tb
    if isinstance(exc, BaseExceptionGroup):
        for member, frames in zip(exc.exceptions, captured.members, strict=False):
            rebuild(member, frames, prefix)
    return exc


@functools.lru_cache(maxsize=1024)
def _frame_at(filename: str, name: str) -> types.FrameType:
    """A finished frame that claims to be of function `name` in `filename`; it holds nothing, so it can be shared."""
    code = compile("frame = here()", filename, "exec").replace(co_name=name, co_qualname=name)
    names = {"__name__": filename, _REMOTE_MARK: True, "here": sys._getframe}
    exec(code, names)  # a frame object is only ever made by running code
    names.pop("here")
    return names.pop("frame")  # type: ignore[return-value]


_sources: OrderedDict[str, list[str]] = OrderedDict()
"""The files that we put into linecache, oldest first: without a bound, every failing container would stay there."""


def _keep_source(filename: str, lineno: int, line: str) -> None:
    if lineno < 1:
        return
    lines = _sources.setdefault(filename, [])
    _sources.move_to_end(filename)
    lines.extend([""] * (lineno - len(lines)))
    lines[lineno - 1] = f"{line}\n"
    # Without a modification time linecache takes the entry as given by a loader, and never looks for the file.
    linecache.cache[filename] = (len(lines), None, lines, filename)
    while len(_sources) > _MAX_SOURCES:
        linecache.cache.pop(_sources.popitem(last=False)[0], None)


# ------------------------------------------------------------------------------------------------- for who prints


def filter_frames(tb: types.TracebackType | None) -> types.TracebackType | None:
    """A copy of `tb` that starts at the user's code and leaves raymodal's frames out; None if none is the user's."""
    result: types.TracebackType | None = None
    for entry in reversed(_kept(tb)):
        result = types.TracebackType(result, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    return result


def clean(exc: BaseException) -> None:
    """Applies `filter_frames` to `exc`, to what caused it and to the members of groups, in place."""
    pending, seen = [exc], set[int]()
    while pending:
        one = pending.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = filter_frames(one.__traceback__)
        pending += [other for other in (one.__cause__, one.__context__) if other is not None]
        pending += one.exceptions if isinstance(one, BaseExceptionGroup) else ()


def _kept(tb: types.TracebackType | None) -> list[types.TracebackType]:
    """The entries of user code.

    Whoever is at work is inferred from the files: between a frame of raymodal's and the user's next one there are only
    helpers (futures, asyncio, import machinery, Ray), so a helper's frame belongs to raymodal until user code runs, and
    to the user afterwards.
    """
    kept, is_users = [], False
    for entry in _entries(tb):
        filename = entry.tb_frame.f_code.co_filename
        if _is_own(filename):
            is_users = False
        elif not _is_helpers(filename):
            is_users = True
        if is_users:
            kept.append(entry)
    return kept


def _entries(tb: types.TracebackType | None) -> Iterator[types.TracebackType]:
    while tb is not None:
        yield tb
        tb = tb.tb_next


def _is_own(filename: str) -> bool:
    return filename.startswith(_OWN)


def _is_helpers(filename: str) -> bool:
    if any(package in filename for package in _PACKAGES):
        return any(helper in filename for helper in _HELPERS)
    return filename.startswith(("<frozen ", *_STDLIB))
