"""From annotations to options, from tokens to arguments: Modal's table (MODAL_SEMANTICS 16.1)."""

from __future__ import annotations

import datetime
import enum
from collections.abc import Callable
from typing import Any, Literal, Optional

import pytest

from raymodal.cli.params import (
    Arguments,
    Parameter,
    Signature,
    UnparseableParameter,
    parse,
    read_docstring,
    read_signature,
)
from raymodal.exception import ExecutionError, InvalidError


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


def read(function: Callable[..., Any], *tokens: str) -> dict[str, Any]:
    return dict(parse(read_signature(function), tokens, command="raymodal run p.py").kwargs)


def f_str(x: str) -> None: ...
def f_int(x: int) -> None: ...
def f_float(x: float) -> None: ...
def f_optional(x: Optional[int] = None) -> None: ...  # noqa: UP007, UP045
def f_or_none(x: int | None) -> None: ...
def f_datetime(x: datetime.datetime) -> None: ...
def f_words(x: Literal["a", "b"]) -> None: ...
def f_numbers(x: Literal[1, 2] = 1) -> None: ...
def f_enum(x: Colour = Colour.RED) -> None: ...
def f_int_enum(x: Level) -> None: ...
def f_untyped(x) -> None: ...  # type: ignore[no-untyped-def]
def f_untyped_default(x=3) -> None: ...  # type: ignore[no-untyped-def]


@pytest.mark.parametrize(
    ("function", "text", "value"),
    [
        (f_str, "7", "7"),
        (f_int, "7", 7),
        (f_int, "-7", -7),
        (f_float, "1e3", 1000.0),
        (f_optional, "7", 7),
        (f_or_none, "7", 7),
        (f_datetime, "2024-01-02", datetime.datetime(2024, 1, 2)),
        (f_datetime, "2024-01-02T03:04:05", datetime.datetime(2024, 1, 2, 3, 4, 5)),
        (f_datetime, "2024-01-02 03:04:05", datetime.datetime(2024, 1, 2, 3, 4, 5)),
        (f_words, "b", "b"),
        (f_numbers, "2", 2),
        (f_enum, "blue", Colour.BLUE),
        (f_int_enum, "HIGH", Level.HIGH),
        (f_untyped, "7", "7"),
        (f_untyped_default, "7", "7"),
    ],
)
def test_values_are_converted(function: Callable[..., Any], text: str, value: Any) -> None:
    """One case per row of the table."""
    assert read(function, "--x", text) == {"x": value}
    assert type(read(function, f"--x={text}")["x"]) is type(value)


@pytest.mark.parametrize("function", [f_optional, f_numbers, f_enum, f_untyped_default])
def test_a_default_is_the_functions_own(function: Callable[..., Any]) -> None:
    """What is not given is not passed on, so defaults keep their type."""
    assert read(function) == {}


@pytest.mark.parametrize(
    ("function", "tokens", "message"),
    [
        (f_int, ["--x", "seven"], "valid integer"),
        (f_int, [], "Missing option '--x'"),
        (f_or_none, [], "Missing option '--x'"),
        (f_words, ["--x", "c"], "'c' is not one of 'a', 'b'"),
        (f_datetime, ["--x", "yesterday"], "--x"),
        (f_int, ["--x", "1", "2"], "unexpected extra argument"),
        (f_int, ["--y", "1"], "--y"),
    ],
)
def test_wrong_usage_exits_with_2(
    function: Callable[..., Any], tokens: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The message names the option, on stderr, below a usage line."""
    with pytest.raises(SystemExit) as caught:
        read(function, *tokens)

    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, "")
    assert message in err
    assert "Usage: raymodal run p.py [OPTIONS]" in err


def test_flags() -> None:
    """A bool is a pair of flags, required without a default."""

    def f(dry_run: bool, fast: bool = True) -> None: ...

    assert read(f, "--dry-run") == {"dry_run": True}
    assert read(f, "--no-dry-run", "--no-fast") == {"dry_run": False, "fast": False}
    with pytest.raises(SystemExit):
        read(f)


def test_odd_names() -> None:
    """Names that mean something to the library below are nothing special here."""

    def f(help: str = "", self: int = 1, ctx: int = 1, N: int = 1, camelCase: int = 1, x_: int = 1) -> None: ...

    tokens = ["--help", "me", "--self", "2", "--ctx", "3", "--N", "4", "--camelCase", "5", "--x-", "6"]
    assert read(f, *tokens) == {"help": "me", "self": 2, "ctx": 3, "N": 4, "camelCase": 5, "x_": 6}


def test_positional_only_and_keyword_only() -> None:
    """Both are options; the call is made as the function wants it."""

    def f(a: int, b: int = 2, /, c: int = 3, *, d: int = 4) -> None: ...

    assert parse(read_signature(f), ["--a", "9", "--d", "8"], command="x") == Arguments((9, 2), {"d": 8})


def test_lone_star_args_take_every_token() -> None:
    """Raw strings, options or not."""

    def f(*args: str) -> None: ...

    assert parse(read_signature(f), ["a", "--b", "-c", "1"], command="x").args == ("a", "--b", "-c", "1")
    assert parse(read_signature(f), ["a", "--", "--b", "-h", "--"], command="x").args == ("a", "--b", "-h", "--")
    for asked in (["--help"], ["--b", "1", "-h"], ["-h", "--", "a"]):
        with pytest.raises(SystemExit) as ended:
            parse(read_signature(f), asked, command="x")
        assert ended.value.code == 0


def test_star_args_beside_others_are_refused() -> None:
    """It would be ambiguous."""

    def f(a: int, *rest: str) -> None: ...

    with pytest.raises(InvalidError, match=r"\*rest"):
        read_signature(f)


def test_kwargs_are_one_required_option() -> None:
    """Modal's behaviour, odd as it is."""

    def f(**kwargs: str) -> None: ...

    assert read_signature(f).parameters == (Parameter("kwargs", str),)


@pytest.mark.parametrize("annotation", [list, dict, Any, int | str, list[int], Literal["a", 1], bytes, enum.Enum])
def test_unparseable_annotations_are_named(annotation: Any) -> None:
    """The error comes before anything runs, and names parameter and annotation."""

    def f(x: Any) -> None: ...

    f.__annotations__["x"] = annotation

    with pytest.raises(UnparseableParameter, match="Parameter `x` has unparseable annotation"):
        read_signature(f)
    assert issubclass(UnparseableParameter, InvalidError)


def test_string_annotations() -> None:
    """They are evaluated; what cannot be is an ExecutionError."""

    def f(x: Level) -> None: ...

    def g(x: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821

    assert read_signature(f).parameters[0].type is Level
    with pytest.raises(ExecutionError, match="Nowhere"):
        read_signature(g)


def test_help_comes_from_the_docstring(capsys: pytest.CaptureFixture[str]) -> None:
    """Summary above, each parameter's own words beside its option, defaults shown."""

    def train(steps: int, rate: float = 0.5) -> None:
        """Train the model.

        Args:
            steps: how many
                there are
            rate (float): of learning
        """

    with pytest.raises(SystemExit) as caught:
        read(train, "--help")

    out = " ".join(capsys.readouterr().out.split())
    assert caught.value.code == 0
    assert "Train the model." in out
    assert "--steps INTEGER how many there are [required]" in out
    assert "--rate FLOAT of learning [default: (0.5)]" in out


def test_docstring_sections() -> None:
    """Other sections, blank lines and star arguments do not confuse it."""
    text = "One.\n\nTwo.\n\nArgs:\n    *a: x\n\n    b: y: z\nReturns:\n    c: no\n"

    assert read_docstring(text) == ("One.\n\nTwo.", {"a": "x", "b": "y: z"})


def test_methods_leave_self_out() -> None:
    """`self` is no option."""

    class C:
        def m(self, a: int) -> None: ...

    assert read_signature(C.m, is_method=True) == Signature((Parameter("a", int),))
