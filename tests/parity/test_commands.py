"""raymodal's commands against those of modal 1.6.4."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer.main

from raymodal.cli.main import app
from tests.parity.surface import RECORDED

GAPS: dict[str, str] = tomllib.loads(Path(__file__).with_name("known_gaps_cli.toml").read_text())["gaps"]


def _paths(command: Any, path: str) -> Iterator[str]:
    yield path
    if hasattr(command, "list_commands"):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from _paths(command.get_command(context, name), f"{path} {name}")


def _missing() -> list[str]:
    ours = set(_paths(typer.main.get_command(app), "modal"))
    return [path for path in RECORDED["cli_commands"] if path not in ours]


def _gap_of(path: str) -> str | None:
    return next((gap for gap in GAPS if path == gap or path.startswith(gap + " ")), None)


def test_commands() -> None:
    """Every command of modal is here, but for those that are listed with a reason."""
    assert [path for path in _missing() if _gap_of(path) is None] == []


def test_gaps_are_real() -> None:
    """The list of missing commands only shrinks."""
    assert sorted(GAPS.keys() - {_gap_of(path) for path in _missing()}) == []
