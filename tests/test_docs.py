"""What is written down is true: settings, commands, options, files, figures, and programs that are shown."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from raymodal import RAYMODAL_VERSION
from raymodal.config import Settings

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "DESIGN.md",
    "CHANGELOG.md",
    *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md"))),
)
README = (ROOT / "README.md").read_text()
DESIGN = (ROOT / "DESIGN.md").read_text()
FIGURES = (ROOT / "docs" / "figures.md").read_text()
SETTINGS = (ROOT / "docs" / "settings.md").read_text()
CODE = "\n".join(
    path.read_text() for path in sorted((ROOT / "raymodal").rglob("*.py")) if path != ROOT / "raymodal" / "config.py"
)
WITHOUT_EFFECT = SETTINGS.partition("## Read, but without effect yet")[2].partition("\n## ")[0]


def rows(text: str) -> Iterator[list[str]]:
    """The cells of every table row."""
    for line in text.splitlines():
        if line.lstrip().startswith("|") and not re.match(r"\s*\|[\s|:-]+\|$", line):
            yield [cell.strip() for cell in line.strip().strip("|").split("|")]


# --- settings


@pytest.mark.parametrize("name", [field.name for field in fields(Settings)])
def test_every_setting_is_documented_with_its_default(name: str) -> None:
    """One row per setting, whose default is the code's."""
    variable = f"`RAYMODAL_{name.upper()}`"
    found = [row for row in rows(SETTINGS) if variable in row[0].split(", ")]
    default = getattr(Settings(), name)

    assert len(found) == 1
    if name != "tmpdir":  # chosen when it is needed
        said = found[0][1].strip("`")
        shown = {"None": "", "True": "on", "False": "off"}

        assert said == shown.get(str(default), str(default))


def test_settings_that_nobody_reads_are_called_so() -> None:
    """A setting without a use says so; one that is used does not."""
    unused = {f.name for f in fields(Settings) if not re.search(rf"\.{f.name}\b", CODE)}

    assert set(re.findall(r"`RAYMODAL_(\w+)`", WITHOUT_EFFECT)) == {name.upper() for name in unused}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_setting_is_made_up(document: str) -> None:
    """Every `RAYMODAL_...` that is mentioned exists."""
    known = {field.name.upper() for field in fields(Settings)} | {"CI_VENV", "VERSION"}
    named = re.findall(r"RAYMODAL_([A-Z][A-Z_]*[A-Z])", (ROOT / document).read_text())

    assert set(named) - known == set()


# --- commands


class Command(NamedTuple):
    path: str
    options: frozenset[str]


def commands() -> list[Command]:
    """Every command that is not hidden."""
    from typer.main import get_command

    from raymodal.cli.main import app

    def walk(command: Any, path: str) -> Iterator[Command]:
        inner = getattr(command, "list_commands", None)
        if inner is None:
            yield Command(path, frozenset(option for param in command.params for option in param.opts))
            return
        for name in inner(None):
            found = command.get_command(None, name)
            if not found.hidden:
                yield from walk(found, f"{path} {name}".strip())

    return list(walk(get_command(app), ""))


def test_every_command_is_documented() -> None:
    """The README names each command, by its whole name or in a list behind its group's."""
    shown = " ".join(re.findall(r"raymodal (.*)", README))

    missing = [c.path for c in commands() if not all(re.search(rf"\b{word}\b", shown) for word in c.path.split())]
    assert missing == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_command_is_made_up(document: str) -> None:
    """Code speaks of commands that exist, or that the text calls missing."""
    text = (ROOT / document).read_text()
    known = {word for command in commands() for word in command.path.split()[:1]}
    missing = {"deploy", "serve"}
    shells = "\n".join(re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    named = re.findall(r"`raymodal ([a-z]\w*)", text) + re.findall(r"\braymodal ([a-z]\w*)", shells)

    assert set(named) - known - missing == set()


@pytest.mark.parametrize("document", ["README.md", "docs/settings.md"])
def test_no_option_is_made_up(document: str) -> None:
    """Every long option exists, besides those that are a program's own."""
    known = {option for command in commands() for option in command.options}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", (ROOT / document).read_text()))

    assert named - known - {"--n", "--x"} == set()


def test_options_of_settings_are_those_of_run() -> None:
    """The option beside a setting is one of `raymodal run`."""
    of_run = next(command.options for command in commands() if command.path == "run")
    named = {option for row in rows(SETTINGS) for cell in row for option in re.findall(r"`(--[a-z-]+)`", cell)}

    assert named <= of_run


# --- links, files and figures


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    """Links to files and to headings of the same page are good."""
    text = (ROOT / document).read_text()
    headings = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        if file:
            assert (ROOT / document).parent.joinpath(file).exists(), target
        else:
            assert anchor in headings, target


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_named_exist(document: str) -> None:
    """A path in backticks that begins at a folder of the repository is there."""
    named = re.findall(
        r"`((?:raymodal|tests|examples|benchmarks|adapters|docs)/[\w./]*)`", (ROOT / document).read_text()
    )

    assert [path for path in named if not (ROOT / path).exists()] == []


def constant(module: str, name: str) -> Any:
    """A constant of a module, read without importing it (some need Ray)."""
    tree = ast.parse((ROOT / "raymodal" / (module.replace(".", "/") + ".py")).read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == name for t in node.targets):
            return eval(compile(ast.Expression(node.value), module, "eval"))
    raise AssertionError(f"raymodal.{module} has no constant {name}")


def figures() -> list[tuple[str, str, str]]:
    """(module, constant, value) of the table of figures."""
    found = [re.fullmatch(r"`([\w.]+)\.([A-Z][A-Z_]+)`", row[0]) for row in rows(FIGURES)]
    values = [row[1] for row in rows(FIGURES)]
    return [(m[1], m[2], value) for m, value in zip(found, values, strict=True) if m]


def test_there_are_figures() -> None:
    """The next test has something to compare."""
    assert len(figures()) >= 10


@pytest.mark.parametrize(("module", "name", "value"), figures())
def test_figures_are_those_of_the_code(module: str, name: str, value: str) -> None:
    """A figure that is explained has not changed behind its back."""
    number, _, unit = value.partition(" ")
    factor = {"": 1, "s": 1, "ms": 1e-3, "KiB": 1 << 10, "MiB": 1 << 20, "bytes": 1}[unit]

    assert float(number.replace(",", "")) * factor == pytest.approx(constant(module, name))


def test_the_design_document_stays_readable() -> None:
    """It is meant to be read in one go."""
    assert len(DESIGN.splitlines()) <= 250


def test_the_changelog_begins_with_what_is_not_released() -> None:
    """New lines have a place; released versions come below."""
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)

    assert versions[0] == "Unreleased"


def test_the_version_is_said_once() -> None:
    """The package's metadata and `RAYMODAL_VERSION` agree."""
    metadata = (ROOT / "pyproject.toml").read_text()

    assert re.search(r'^version = "(.+)"$', metadata, re.MULTILINE)[1] == RAYMODAL_VERSION  # type: ignore[index]


# --- programs


def blocks(mark: str) -> list[str]:
    """Code blocks of the README whose fence carries `mark`, such as ```python run."""
    found = re.findall(rf"^( *)```{mark}\n(.*?)^\1```", README, re.MULTILINE | re.DOTALL)
    return [textwrap.dedent(code) for _, code in found]


def run(command: list[str]) -> str:
    """What a command prints, on the local engine."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RAYMODAL_", "RAY_"))}
    environ["RAYMODAL_ENGINE"] = "local"
    done = subprocess.run([sys.executable, *command], env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_first_program_gives_what_is_shown(tmp_path: Path) -> None:
    """The README's first program, run as the README says."""
    (program,) = blocks("python run")
    (expected,) = blocks("text output")
    (tmp_path / "first.py").write_text(program)

    shown = run(["-m", "raymodal", "run", str(tmp_path / "first.py"), "--n", "3"])
    assert [line for line in shown.splitlines() if not line.startswith("squaring")] == expected.splitlines()


def test_a_function_runs_by_its_name(tmp_path: Path) -> None:
    """`first.py::square --x 5` runs."""
    (program,) = blocks("python run")
    (tmp_path / "first.py").write_text(program)

    assert "squaring 5" in run(["-m", "raymodal", "run", f"{tmp_path / 'first.py'}::square", "--x", "5"])


@pytest.mark.parametrize("program", blocks("python script"))
def test_scripts_run(tmp_path: Path, program: str) -> None:
    """A script that imports raymodal under Modal's name runs with plain Python."""
    (tmp_path / "second.py").write_text(program)

    assert run([str(tmp_path / "second.py")]).splitlines() == ["42"]
