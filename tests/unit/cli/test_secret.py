"""`raymodal secret`: values go in by several ways, and never come out."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from raymodal import config, secret
from tests.unit.cli.conftest import Cli

NEEDLE = "needle-in-a-haystack"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RAYMODAL_HOME", str(tmp_path / "home"))
    config.reset()
    return tmp_path / "home"


class Stdin(io.StringIO):
    def __init__(self, text: str, is_terminal: bool) -> None:
        super().__init__(text)
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    return lambda text="", is_terminal=False: monkeypatch.setattr(sys, "stdin", Stdin(text, is_terminal))


def values(name: str, env: str | None = None) -> dict[str, str]:
    return secret.resolve(secret.Secret.from_name(name, environment_name=env)._spec).values


def test_create(cli: Cli) -> None:
    """By pairs; a value may hold '='; what is said names variables only."""
    done = cli("secret", "create", "db", f"A={NEEDLE}", "B=x=y", "C=")

    assert (done.code, done.err) == (0, "")
    assert 'modal.Secret.from_name("db")' in done.out
    assert "'A', 'B', 'C'" in done.out
    assert NEEDLE not in done.out
    assert values("db") == {"A": NEEDLE, "B": "x=y", "C": ""}


def test_from_files(cli: Cli, tmp_path: Path) -> None:
    """Later ways win: pairs, then the .env file, then JSON."""
    (tmp_path / "e").write_text("A=env\nB='of env'\n# C=no\n")
    (tmp_path / "j").write_text(json.dumps({"B": "json", "D": "ä\n"}))

    done = cli(
        "secret", "create", "db", "A=1", "Z=1", "--from-dotenv", str(tmp_path / "e"), "--from-json", str(tmp_path / "j")
    )

    assert done.code == 0
    assert values("db") == {"A": "env", "B": "json", "D": "ä\n", "Z": "1"}


def test_existing(cli: Cli) -> None:
    """Kept, unless it is to be replaced as a whole."""
    cli("secret", "create", "db", "A=1", "B=1")
    done = cli("secret", "create", "db", "A=2")
    assert (done.code, done.out) == (1, "")
    assert done.err.startswith("Error: A secret named 'db' exists already.")
    assert values("db") == {"A": "1", "B": "1"}

    assert cli("secret", "create", "--force", "db", "A=2").code == 0
    assert values("db") == {"A": "2"}


def test_update(cli: Cli) -> None:
    """The others stay."""
    cli("secret", "create", "db", "A=1", "B=1")
    assert cli("secret", "update", "db", "B=2", "C=3").code == 0
    assert values("db") == {"A": "1", "B": "2", "C": "3"}
    done = cli("secret", "update", "bd", "B=2")
    assert (done.code, done.out) == (1, "")
    assert "`raymodal secret create bd KEY=VALUE`. There are 'db'." in done.err


@pytest.mark.parametrize(
    ("text", "keys", "expected"),
    [
        (f"{NEEDLE}\n", ["A=-"], {"A": NEEDLE}),
        ("-----BEGIN\nmany lines\n\n", ["A=-", "B=1"], {"A": "-----BEGIN\nmany lines\n", "B": "1"}),
        ("", ["A=-"], {"A": ""}),
        ("one\ntwo\n", ["A=-", "B=-"], {"A": "one", "B": "two"}),
    ],
)
def test_from_standard_input(
    cli: Cli, stdin: Callable[..., None], text: str, keys: list[str], expected: dict[str, str]
) -> None:
    """`-` reads all of it, or a line for each."""
    stdin(text)
    done = cli("secret", "create", "db", *keys)
    assert (done.code, done.err) == (0, "")
    assert NEEDLE not in done.out
    assert values("db") == expected


def test_asked(cli: Cli, stdin: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal, without showing what is typed."""
    asked: list[tuple[str, bool]] = []

    def prompt(text: str, hide_input: bool, **_: Any) -> str:
        asked.append((text, hide_input))
        return NEEDLE

    monkeypatch.setattr(typer, "prompt", prompt)
    stdin(is_terminal=True)
    done = cli("secret", "create", "db", "A=-", "B=1")

    assert asked == [("Value of A", True)]
    assert NEEDLE not in done.out
    assert values("db") == {"A": NEEDLE, "B": "1"}


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["db"], "at least one variable"),
        (["db", NEEDLE], "Item 1 after the name is not of the form KEY=VALUE"),
        (["db", "A=1", NEEDLE], "Item 2 after the name"),
        (["db", f"={NEEDLE}"], "empty name"),
        (["db", "A=-", "B=-"], "Standard input has 1 lines for the values of 'A', 'B'"),
        (["db", "--from-dotenv", "no"], "There is no file 'no'"),
        (["db", "--from-json", "no"], "'no' cannot be read: No such file"),
        (["db", "--from-json", "list.json"], "no JSON object"),
        (["db", "--from-json", "bad.json"], "is not JSON: Expecting"),
        (["db", "--from-json", "number.json"], "The value of 'A' is no string"),
        (["db", "--from-json", "bytes.json"], "it is not UTF-8"),
        (["db", "--from-dotenv", "bytes.json"], "it is not UTF-8"),
        (["db", "--from-dotenv", "bare.env"], "The value of 'A' is no string"),
    ],
)
def test_wrong_usage(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stdin: Callable[..., None], args: list[str], message: str
) -> None:
    """Exit code 2, nothing kept, and no value in the message, which may be one at the wrong place."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "list.json").write_text(f'["{NEEDLE}"]')
    (tmp_path / "bad.json").write_text(f'{{"A": {NEEDLE}}}')
    (tmp_path / "number.json").write_text('{"A": 123454321}')
    (tmp_path / "bytes.json").write_bytes(b'{"A": "\xff' + NEEDLE.encode() + b'"}')
    (tmp_path / "bare.env").write_text("A\n")
    for command in ("create", "update"):
        stdin(f"{NEEDLE}\n")
        done = cli("secret", command, *args)

        assert (done.code, done.out) == (2, "")
        assert message in " ".join(done.err.split())
        assert NEEDLE not in done.err
        assert "123454321" not in done.err
    assert not (tmp_path / "home").exists()


def test_names_are_checked(cli: Cli) -> None:
    """As by `Secret.objects.create`."""
    for args in (["a b", "A=1"], ["db", "A=1\0"]):
        done = cli("secret", "create", *args)
        assert (done.code, done.out) == (1, "")
        assert done.err.startswith("Error: ")


def test_list(cli: Cli) -> None:
    """Names and times, newest first; the keys of Modal's JSON."""
    assert "There are no secrets" in cli("secret", "list").out
    assert json.loads(cli("secret", "list", "--json").out) == []
    for name in ("one", "three"):
        cli("secret", "create", name, f"A={NEEDLE}")
    values("one")

    done = cli("secret", "list")
    assert [line.split()[0] for line in done.out.splitlines()] == ["three", "one"]
    assert ("never used" in done.out.splitlines()[0], "last used 2" in done.out.splitlines()[1]) == (True, True)
    rows = json.loads(cli("secret", "list", "--json").out)
    assert [list(row) for row in rows] == [["name", "created_at", "created_by", "last_used_at"]] * 2
    assert [row["last_used_at"] == "-" for row in rows] == [True, False]
    assert NEEDLE not in done.out + json.dumps(rows)


def test_environments(cli: Cli) -> None:
    """`--env` is apart from the usual one, in every command."""
    cli("secret", "create", "-e", "dev", "db", "A=dev")
    assert "There are no secrets" in cli("secret", "list").out
    assert cli("secret", "list", "--env", "dev").out.startswith("db ")
    cli("secret", "update", "--env", "dev", "db", "B=dev")
    assert values("db", "dev") == {"A": "dev", "B": "dev"}
    assert "`raymodal secret create --env x db KEY=VALUE`" in cli("secret", "delete", "-y", "--env", "x", "db").err
    assert cli("secret", "delete", "-y", "--env", "dev", "db").code == 0


def test_delete(cli: Cli, stdin: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Asks in a terminal; elsewhere --yes says so. A missing one is an error, unless allowed."""
    cli("secret", "create", "db", "A=1")
    stdin()
    done = cli("secret", "delete", "db")
    assert (done.code, done.out) == (1, "")
    assert "--yes" in done.err
    stdin("n\n", is_terminal=True)
    assert cli("secret", "delete", "db").code == 1
    assert values("db")
    stdin("y\n", is_terminal=True)
    assert cli("secret", "delete", "db").code == 0

    done = cli("secret", "delete", "--yes", "db")
    assert (done.code, done.out) == (1, "")
    assert "Secret 'db' does not exist" in done.err
    assert cli("secret", "delete", "-y", "--allow-missing", "db").code == 0


def test_a_key_file_that_is_open(cli: Cli, home: Path) -> None:
    """One line, no traceback."""
    cli("secret", "create", "db", "A=1")
    (home / "secret.key").chmod(0o644)
    done = cli("secret", "update", "db", "A=2")

    assert (done.code, done.out) == (1, "")
    assert done.err.startswith(f"Error: {home}/secret.key can be used by others")
    assert "Traceback" not in done.err


def test_help_warns(cli: Cli) -> None:
    """That others can see what stands on a command line, and what to do instead."""
    shown = " ".join(cli("secret", "create", "--help").out.split())

    assert "can be seen by whoever lists this machine's processes" in shown
    assert "KEY=- asks" in shown
