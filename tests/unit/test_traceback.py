"""What of a traceback crosses from a container to its caller, and what is shown of it."""

from __future__ import annotations

import asyncio
import io
import linecache
import pickle
import sys
import traceback
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raymodal import _traceback
from raymodal._traceback import Frame, Frames, capture, clean, filter_frames, rebuild

OWN = Path(_traceback.__file__).parent


def module_at(filename: str, source: str) -> types.ModuleType:
    """Runs `source` as though it stood in `filename`, which need not exist."""
    module = types.ModuleType(Path(filename).stem)
    lines = source.splitlines(keepends=True)
    linecache.cache[filename] = (len(source), None, lines, filename)
    exec(compile(source, filename, "exec"), module.__dict__)
    return module


USER = module_at(
    "/app/job.py",
    """\
def outer(n):
    return inner(n)

def inner(n):
    return 1 // n

def call(f):
    return f()
""",
)
SHELL = module_at(str(OWN / "pretend.py"), "def through(f, *args):\n    return f(*args)\n")


def caught(f: Callable[..., Any], *args: Any) -> BaseException:
    try:
        f(*args)
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


def shown(exc: BaseException) -> str:
    return "".join(traceback.format_exception(exc))


def names(captured: Frames) -> list[str]:
    return [frame.name for frame in captured.frames]


def test_only_user_frames_are_captured() -> None:
    """What led to the user's code, raymodal or library, is left out; lines come with their source."""
    captured = capture(caught(asyncio.run, later(SHELL.through, USER.outer, 0)))

    assert captured.frames[-2:] == (
        Frame("/app/job.py", 2, "outer", "return inner(n)"),
        Frame("/app/job.py", 5, "inner", "return 1 // n"),
    )
    assert "through" not in names(captured)
    assert not any("asyncio" in frame.filename for frame in captured.frames[-3:])


async def later(f: Callable[..., Any], *args: Any) -> Any:
    return f(*args)


def test_frames_before_the_users_are_left_out_even_from_the_standard_library() -> None:
    """A runtime that reaches user code through asyncio leaves no trace of either."""
    entered = module_at(
        str(OWN / "pretend_2.py"),
        "import asyncio\nasync def main(f):\n    return f(0)\ndef run(f):\n    asyncio.run(main(f))\n",
    )

    exc = caught(entered.run, USER.outer)

    assert names(capture(exc.with_traceback(exc.__traceback__.tb_next))) == ["outer", "inner"]  # type: ignore[union-attr]


def test_the_library_called_by_the_user_is_the_users() -> None:
    """An error inside json.loads shows where json raised it."""
    user = module_at("/app/reads.py", "import json\ndef read():\n    return json.loads('{')\n")

    captured = capture(caught(SHELL.through, user.read))

    assert names(captured)[1:3] == ["read", "loads"]


def test_captured_frames_are_plain_values() -> None:
    """They cross processes by pickle."""
    captured = capture(caught(USER.outer, 0))

    assert pickle.loads(pickle.dumps(captured)) == captured


def test_rebuilt_frames_stand_below_the_callers() -> None:
    """A raised exception shows the local frames, then the remote ones under the container's id."""
    captured = capture(caught(SHELL.through, USER.outer, 0))
    fresh = rebuild(ZeroDivisionError("integer division"), captured, "ta-1")

    def caller() -> None:
        raise fresh

    text = shown(caught(caller))
    assert text.index("in caller") < text.index('File "ta-1:/app/job.py", line 2, in outer')
    assert 'File "ta-1:/app/job.py", line 5, in inner\n    return 1 // n\n' in text
    assert text.endswith("ZeroDivisionError: integer division\n")


def test_rebuilt_traceback_prints_through_the_interpreters_hook() -> None:
    """sys.excepthook of an uncaught exception takes the synthetic frames too."""
    exc = rebuild(ValueError("x"), Frames((Frame("/app/job.py", 7, "f", "raise it"),)), "ta-1")
    stream, sys.stderr = sys.stderr, io.StringIO()
    try:
        sys.__excepthook__(type(exc), exc, exc.__traceback__)
        text = sys.stderr.getvalue()
    finally:
        sys.stderr = stream

    assert 'File "ta-1:/app/job.py", line 7, in f' in text


def test_crossing_two_borders_names_the_innermost_container() -> None:
    """An error that passes through a second container keeps the name of the first."""
    first = rebuild(ValueError("x"), Frames((Frame("/app/job.py", 5, "inner", "deep"),)), "ta-1")

    def raises() -> None:
        raise first

    captured = capture(caught(raises))
    again = rebuild(ValueError("x"), captured, "ta-2")

    assert [f.f_code.co_filename.split(":")[0] for f, _ in traceback.walk_tb(again.__traceback__)][-1] == "ta-1"
    assert shown(again).count("ta-2:ta-1") == 0


def test_thousands_of_frames_are_cut_in_the_middle() -> None:
    """A RecursionError keeps its head and its tail, and says how much is missing."""
    user = module_at("/app/deep.py", "def down(n):\n    return down(n + 1)\n")

    captured = capture(caught(user.down, 0))

    assert len(captured.frames) == _traceback.HEAD + _traceback.TAIL + 1
    assert "frames left out" in captured.frames[_traceback.HEAD].filename
    assert "frames left out" in shown(rebuild(RecursionError("deep"), captured, "ta-1"))


def test_members_of_a_group_keep_their_own_frames() -> None:
    """Each member shows the line that raised it."""
    group = ExceptionGroup("all", [caught(USER.outer, 0), ExceptionGroup("in", [caught(USER.inner, 0)])])  # type: ignore[list-item]
    fresh = ExceptionGroup("all", [ZeroDivisionError(), ExceptionGroup("in", [ZeroDivisionError()])])

    text = shown(rebuild(fresh, capture(group), "ta-1"))

    assert text.count('"ta-1:/app/job.py", line 5, in inner') == 2


def test_an_exception_without_a_traceback() -> None:
    """Exceptions that were returned rather than raised have no frames."""
    assert capture(ValueError("never raised")) == Frames()
    assert rebuild(ValueError("x"), Frames(), "ta-1").__traceback__ is None


def test_old_sources_are_forgotten() -> None:
    """Containers come and go: linecache does not grow with them."""
    frames = Frames((Frame("/app/job.py", 1, "f", "raise it"),))
    for number in range(_traceback._MAX_SOURCES + 10):
        rebuild(ValueError("x"), frames, f"ta-old-{number}")

    assert "ta-old-0:/app/job.py" not in linecache.cache
    assert len(_traceback._sources) == _traceback._MAX_SOURCES


def test_filter_frames_starts_at_the_users_code() -> None:
    """The CLI shows the user's frames alone, and nothing when there are none."""
    exc = caught(SHELL.through, USER.outer, 0)
    inside = exc.__traceback__.tb_next  # type: ignore[union-attr]

    assert [f.f_code.co_name for f, _ in traceback.walk_tb(filter_frames(inside))] == ["outer", "inner"]
    assert filter_frames(None) is None


def test_clean_reaches_causes_and_members() -> None:
    """What caused the error is filtered as well, cycles do not hang."""
    cause = caught(SHELL.through, USER.outer, 0)
    member = ValueError("m")
    exc = ExceptionGroup("g", [member])
    exc.__cause__, member.__context__ = cause, exc

    clean(exc)

    assert "through" not in shown(exc)


@pytest.mark.parametrize("lineno", [0, -1])
def test_unknown_lines_do_no_harm(lineno: int) -> None:
    """Generated code may have no line number."""
    exc = rebuild(ValueError("x"), Frames((Frame("<gen>", lineno, "f", ""),)), "ta-1")

    assert "ta-1:<gen>" in shown(exc)
