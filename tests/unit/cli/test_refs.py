"""What a reference means: parsing, candidates, choice (MODAL_SEMANTICS 16.2 and 17.1)."""

from __future__ import annotations

import types
from collections.abc import Callable
from pathlib import Path

import pytest

from raymodal import _alias
from raymodal.cli.refs import Ref, candidates, choose, import_program, parse_ref
from raymodal.exception import InvalidError, NotFoundError

Program = Callable[..., Path]

SEVERAL = """\
import modal
app = modal.App("x")

@app.function()
def foo(): ...

@app.function(name="custom")
def named(): ...

@app.local_entrypoint()
def main(): ...

@app.local_entrypoint(name="given-name")
def other(): ...

alias = foo
"""


def load(program: Program, source: str, name: str = "") -> tuple[Ref, types.ModuleType]:
    program(source)
    _alias.install()
    ref = parse_ref(f"program.py::{name}" if name else "program.py")
    return ref, import_program(ref)


def names_of(program: Program, source: str) -> list[list[str]]:
    return [runnable.names for runnable in candidates(load(program, source)[1])]


def chosen(program: Program, source: str, name: str = "") -> str:
    ref, module = load(program, source, name)
    return choose(ref, candidates(module)).names[0]


@pytest.mark.parametrize(
    ("text", "is_module", "expected"),
    [
        ("a.py", False, Ref("a.py")),
        ("../d/a.py::f", False, Ref("../d/a.py", "f")),
        ("a.py::app.f", False, Ref("a.py", "app.f")),
        ("a.py::", False, Ref("a.py")),
        ("c:\\d\\a.py::f", False, Ref("c:\\d\\a.py", "f")),
        ("p.m", True, Ref("p.m", "", is_module=True)),
        ("p.m::C.m", True, Ref("p.m", "C.m", is_module=True)),
        ("-", False, Ref("-")),
        ("-::f", False, Ref("-", "f")),
    ],
)
def test_parsing(text: str, is_module: bool, expected: Ref) -> None:
    """Every form that is allowed."""
    assert parse_ref(text, is_module=is_module) == expected


@pytest.mark.parametrize("text", ["a.py:f", "a.b", "a", "/tmp", "a.b.py", "modal.py", "ray.py"])
def test_refused_forms(text: str) -> None:
    """Each with what was probably meant."""
    with pytest.raises(InvalidError):
        parse_ref(text)


def test_every_name_of_everything(program: Program) -> None:
    """Module-level entrypoints first; one thing has all its names on one line."""
    assert names_of(program, SEVERAL) == [
        ["main", "app.main"],
        ["other", "app.given-name"],
        ["foo", "alias", "app.foo"],
        ["named", "app.custom"],
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [("main", "main"), ("app.main", "main"), ("other", "other"), ("app.given-name", "other"), ("alias", "foo"),
     ("app.custom", "named")],
)  # fmt: skip
def test_exact_names(program: Program, name: str, expected: str) -> None:
    """Any of a thing's names will do."""
    assert chosen(program, SEVERAL, name) == expected


@pytest.mark.parametrize("name", ["", "app"])
def test_ambiguity_lists_the_choices(program: Program, name: str) -> None:
    """Two entrypoints rank alike: neither is run."""
    with pytest.raises(InvalidError) as caught:
        chosen(program, SEVERAL, name)

    text = str(caught.value)
    assert "- main / app.main\n- other / app.given-name\n- foo / alias / app.foo\n" in text
    assert text.endswith("raymodal run program.py::main")


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("mian", "program.py::main"), ("custom", "program.py::app.custom"), ("app.man", "program.py::app.main")],
)
def test_close_names_are_suggested(program: Program, name: str, suggestion: str) -> None:
    """Misspelt, or known to the app only."""
    with pytest.raises(NotFoundError, match=f"Could not find {name!r} in the file 'program.py'") as caught:
        chosen(program, SEVERAL, name)

    assert f"Did you mean:\n    raymodal run {suggestion}" in str(caught.value)


def test_one_entrypoint_beats_functions(program: Program) -> None:
    """The usual program: helpers and a main."""
    source = (
        "import modal\napp = modal.App()\n@app.function()\ndef f(): ...\n@app.local_entrypoint()\ndef main(): ...\n"
    )

    assert chosen(program, source) == "main"


def test_a_module_function_beats_a_hidden_entrypoint(program: Program) -> None:
    """What the module itself names ranks above what only its app knows."""
    source = (
        "import modal\napp = modal.App()\n@app.local_entrypoint()\ndef main(): ...\ndel main\n"
        "@app.function()\ndef f(): ...\n"
    )

    assert chosen(program, source) == "f"
    assert names_of(program, source) == [["f", "app.f"], ["app.main"]]


def test_a_hidden_entrypoint_beats_a_hidden_function(program: Program) -> None:
    """Ranks three and four."""
    source = (
        "import modal\napp = modal.App()\n@app.local_entrypoint()\ndef main(): ...\ndel main\n"
        "@app.function()\ndef f(): ...\ndel f\n"
    )

    assert chosen(program, source) == "app.main"


def test_a_rebound_name_is_reached_through_the_app(program: Program) -> None:
    """Below the decorator something else took the name."""
    source = "import modal\napp = modal.App()\n@app.local_entrypoint()\ndef main(): ...\nmain = 3\n"

    assert names_of(program, source) == [["app.main"]]


def test_web_functions_are_never_candidates(program: Program) -> None:
    """They are asked over HTTP."""
    source = "import modal\napp = modal.App()\n@app.function()\n@modal.asgi_app()\ndef web(): ...\n"

    with pytest.raises(InvalidError, match="no entrypoints"):
        chosen(program, source)
    assert chosen(program, f"{source}@app.function()\ndef f(): ...\n") == "f"


def test_what_is_imported_counts(program: Program) -> None:
    """From another module of the program, with the app it was declared on."""
    program("import modal\nother = modal.App('o')\n@other.local_entrypoint()\ndef main(): ...\n", "elsewhere.py")

    ref, module = load(program, "import modal\nfrom elsewhere import main as start\napp = modal.App('mine')\n")
    runnable = choose(ref, candidates(module))

    assert (runnable.names, runnable.app.name) == (["start"], "o")


def test_an_app_without_a_name_in_the_module(program: Program) -> None:
    """Its function is enough."""
    source = "import modal\ndef f(): ...\nf = modal.App('hidden').function()(f)\n"

    assert chosen(program, source) == "f"


def test_no_candidates(program: Program) -> None:
    """The message says how to declare one."""
    with pytest.raises(InvalidError, match=r"local_entrypoint\(\)"):
        chosen(program, "import modal\napp = modal.App()\n")
