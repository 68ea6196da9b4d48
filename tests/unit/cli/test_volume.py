"""`raymodal volume`."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from raymodal import config
from raymodal.volume import Volume
from tests.unit.cli.conftest import Cli


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, and no volumes."""
    monkeypatch.setenv("RAYMODAL_HOME", str(tmp_path / "home"))
    config.reset()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def volume() -> Volume:
    """With two files."""
    volume = Volume.from_name("v", create_if_missing=True)
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"x\n"), "d/x")
        batch.put_file(io.BytesIO(b"yy\n"), "d/e/y")
    return volume


def paths(name: str = "v") -> list[str]:
    return [entry.path for entry in Volume.from_name(name).iterdir("/") if entry.type.name == "FILE"]


def local(folder: Path) -> dict[str, str]:
    return {str(one.relative_to(folder)): one.read_text() for one in folder.rglob("*") if one.is_file()}


def test_life(cli: Cli) -> None:
    """Created, listed, renamed, deleted."""
    done = cli("volume", "create", "a", "--version", "2")
    assert (done.code, done.err) == (0, "")
    assert 'modal.Volume.from_name("a")' in done.out
    assert cli("volume", "create", "a").err.startswith("Error: A volume named 'a' exists already.")
    assert cli("volume", "rename", "a", "b", "--yes").code == 0
    assert cli("volume", "list").out.startswith("b  created 20")
    assert [row["name"] for row in json.loads(cli("volume", "list", "--json").out)] == ["b"]
    assert cli("volume", "list", "--env", "dev").out.startswith("There are no volumes.")
    assert cli("volume", "delete", "b", "-y").code == 0
    done = cli("volume", "delete", "b", "-y")
    assert (done.code, done.err[:40]) == (1, "Error: Volume 'b' does not exist. Create")
    assert cli("volume", "delete", "b", "-y", "--allow-missing").code == 0


@pytest.mark.parametrize("args", [("delete", "v"), ("rename", "v", "w")])
def test_asks(cli: Cli, volume: Volume, args: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal nothing is done unless --yes says so."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    done = cli("volume", *args)
    assert (done.code, "--yes" in done.err) == (1, True)
    assert [one.name for one in Volume.objects.list()] == ["v"]


def test_ls(cli: Cli, volume: Volume, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bare paths for programs, a table for people, JSON."""
    assert cli("volume", "ls", "v").out == "d\n"
    assert cli("volume", "ls", "v", "d").out == "d/e\nd/x\n"
    rows = json.loads(cli("volume", "ls", "v", "/d", "--json").out)
    assert [(row["filename"], row["type"]) for row in rows] == [("d/e", "dir"), ("d/x", "file")]
    assert rows[1]["size"] == 2
    done = cli("volume", "ls", "v", "no")
    assert (done.code, done.err) == (1, "Error: The volume has no 'no'\n")


def test_ls_in_a_terminal(cli: Cli, volume: Volume, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda self: True, raising=False)
    lines = cli("volume", "ls", "v", "d").out.splitlines()
    assert [line.split()[:2] for line in lines] == [["d/e", "dir"], ["d/x", "file"]]
    assert lines[1].endswith("2 B")


def test_put(cli: Cli, here: Path) -> None:
    """A file or a folder; `/` at the end is a folder that it goes to; what is there is kept unless --force."""
    cli("volume", "create", "v")
    (here / "d" / "e").mkdir(parents=True)
    (here / "d" / "e" / "y").write_text("y")
    (here / "x").write_text("1")
    for args in (("x",), ("x", "a/"), ("x", "a/other"), ("d",), ("d", "/b")):
        assert cli("volume", "put", "v", *args).code == 0
    assert sorted(paths()) == ["a/other", "a/x", "b/e/y", "d/e/y", "x"]

    (here / "x").write_text("2")
    done = cli("volume", "put", "v", "x")
    assert (done.code, "--force" in done.err) == (2, True)
    assert cli("volume", "get", "v", "x", "-").out == "1"
    assert cli("volume", "put", "-f", "v", "x").code == 0
    assert cli("volume", "get", "v", "x", "-").out == "2"
    for wrong in ("no", "*.txt"):
        assert cli("volume", "put", "v", wrong).code == 2
    assert cli("volume", "put", "v", "x", "../y").code == 1
    assert cli("volume", "put", "no", "x").code == 1


def test_get(cli: Cli, here: Path, volume: Volume) -> None:
    """As `cp -r` does; `-` is standard output."""
    assert cli("volume", "get", "v", "d/x").code == 0
    assert cli("volume", "get", "v", "d/x", "other").code == 0
    assert cli("volume", "get", "v", "/d").code == 0
    assert cli("volume", "get", "v", "/", "all").code == 0
    assert local(here) == {
        "x": "x\n",
        "other": "x\n",
        "d/x": "x\n",
        "d/e/y": "yy\n",
        "all/d/x": "x\n",
        "all/d/e/y": "yy\n",
    }
    assert cli("volume", "get", "v", "d", "-").out == "x\nyy\n"


def test_get_keeps_what_is_there(cli: Cli, here: Path, volume: Volume) -> None:
    """Unless --force; nothing is downloaded then, and never half of a file."""
    (here / "d").mkdir()
    (here / "d" / "x").write_text("mine")
    done = cli("volume", "get", "v", "d")
    assert (done.code, "--force" in done.err) == (2, True)
    assert local(here) == {"d/x": "mine"}
    assert cli("volume", "get", "v", "d", "--force").code == 0
    assert local(here) == {"d/x": "x\n", "d/e/y": "yy\n"}
    assert cli("volume", "get", "v", "no").code == 1


def test_rm_and_cp(cli: Cli, volume: Volume) -> None:
    assert cli("volume", "cp", "v", "d/x", "z").code == 0
    assert cli("volume", "cp", "v", "d/x", "z", "d/e").code == 0
    assert sorted(paths()) == ["d/e/x", "d/e/y", "d/e/z", "d/x", "z"]
    for args, code in (
        (("rm", "v", "d"), 1),
        (("rm", "v", "no"), 1),
        (("cp", "v", "no", "z"), 1),
        (("cp", "v", "-r", "d", "w"), 1),  # version 1
        (("cp", "v", "z"), 2),
    ):
        done = cli("volume", *args)
        assert (done.code, "Traceback" in done.err) == (code, False)
    assert cli("volume", "rm", "v", "d/x").code == 0
    assert cli("volume", "rm", "-r", "v", "d").code == 0
    assert paths() == ["z"]


def test_dashboard(cli: Cli) -> None:
    done = cli("volume", "dashboard", "v")
    assert (done.code, "there is no dashboard" in done.err) == (1, True)


def test_progress(cli: Cli, volume: Volume, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bar in a terminal, on standard error, so that standard output is the file."""
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda self: True, raising=False)
    (here / "big").write_bytes(b"1" * 100_000)
    assert cli("volume", "put", "v", "big").code == 0
    assert cli("volume", "get", "v", "big", "-").out == "1" * 100_000
