"""Bytecode for a Ray that came without: compiled once in the background, by one process at a time."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.ray.processes import Shell

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]

FILL = """
import json
import sys
from raymodal.config import settings
from raymodal.engine.ray.cluster import bytecode

home = settings().home
said = [bytecode.look(home).state]
filling = bytecode.fill(home, is_tied=True)
while (state := bytecode.look(home).state) != "filling" and filling.poll() is None:
    pass
said.append(state)
assert bytecode.fill(home, is_tied=True) is None
assert filling.wait(100) == 0
found = bytecode.look(home)
said.append(found.state)
assert bytecode.fill(home, is_tied=True) is None
assert "ray" not in sys.modules
print(json.dumps([said, found.files, bytecode.environment(home)]))
"""


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with this Ray, but for its bytecode."""
    import importlib.util

    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    folder = tmp_path_factory.mktemp("site")
    shutil.copytree(
        Path(spec.origin).parent, folder / "ray", copy_function=os.symlink, ignore=shutil.ignore_patterns("__pycache__")
    )
    return folder


def test_it_is_filled_once_and_says_so(tmp_path: Path, without: Path) -> None:
    """Empty, filling, filled; what Ray's workers and raymodal's containers import is there, and nowhere else."""
    shell = Shell(tmp_path, tmp_path / "home")
    done = shell.python(str(shell.write("fill.py", FILL)), PYTHONPATH=str(without))

    assert done.code == 0, done
    said, files, variables = json.loads(done.out)
    cache = Path(variables["PYTHONPYCACHEPREFIX"])
    assert said == ["empty", "filling", "filled"]
    assert files > 100
    names = {path.name.partition(".")[0] for path in cache.rglob("*.pyc")}
    assert {"worker", "serialization", "actor", "runtime", "keep"} <= names
    assert not list((without / "ray").glob("__pycache__"))
    # Another raymodal, or another Ray, has it filled again.
    record = json.loads((cache / "filled.json").read_text())
    (cache / "filled.json").write_text(json.dumps({**record, "for": "another"}))
    state = "from raymodal.config import settings; from raymodal.engine.ray.cluster import bytecode; print(bytecode.look(settings().home).state)"
    assert shell.python("-c", state, PYTHONPATH=str(without)).out == "part\n"


def test_it_ends_with_whoever_wants_it(tmp_path: Path, without: Path) -> None:
    """A short run leaves no compiler behind."""
    program = """
from raymodal.config import settings
from raymodal.engine.ray.cluster import bytecode
filling = bytecode.fill(settings().home, is_tied=True)
print(filling.pid, flush=True)
import os
os._exit(0)
"""
    from tests.ray.processes import wait_until_gone

    shell = Shell(tmp_path, tmp_path / "home")
    done = shell.python(str(shell.write("short.py", program)), PYTHONPATH=str(without))
    wait_until_gone([int(done.out)])

    assert not (tmp_path / "home" / "pycache" / "filled.json").exists()
