"""Programs as files: `python script.py`, a package, modules beside the script."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Program = Callable[..., Any]


@pytest.fixture
def program(engine: Any, engines: Any, tmp_path: Path) -> Program:
    """`program(files, *command)` runs a Python program in another process on the same engine; returns its last line as JSON."""

    def run(files: dict[str, str], *command: str) -> Any:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("RAYMODAL_", "MODAL_"))}
        environment |= {
            "RAYMODAL_ENGINE": engine.name,
            "RAYMODAL_HOME": str(engines.settings["home"]),
            "PYTHONPATH": "",
            "PYTHONWARNINGS": "error::UserWarning",
        }
        if engine.name == "ray":
            environment["RAYMODAL_ADDRESS"] = engine.cluster.address
        done = subprocess.run(
            [sys.executable, *command], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def seen_as(engine: Any, name: str) -> str:
    """What a script's functions find as `__name__`: threads of the caller's process are in the script itself."""
    return "__main__" if engine.name == "local" else name


SCRIPT = """
import json
import sys

import raymodal as modal
from beside import Beside, helper

app = modal.App()

class Mine:
    def __init__(self, x):
        self.x = x

class MyError(Exception):
    pass

@app.function(max_containers=1)
def where(x):
    return __name__, modal.is_local(), helper(x)

@app.function(max_containers=1)
def wrap(mine, beside):
    assert type(mine).__name__ == "Mine" and isinstance(beside, Beside), (type(mine), type(beside))
    mine.x += 1
    return mine, Beside(beside.y + 1)

@app.function(max_containers=1)
def fail():
    raise MyError("mine")

if __name__ == "__main__":
    with app.run():
        found = list(where.remote(3))
        mine, beside = wrap.remote(Mine(1), Beside(2))
        assert type(mine) is Mine and type(beside) is Beside, (type(mine), type(beside))
        try:
            fail.remote()
        except Exception as error:
            caught = f"{type(error).__name__}: {error}"
        print(json.dumps([*found, mine.x, beside.y, caught, app.description]))
"""
BESIDE = """
class Beside:
    def __init__(self, y):
        self.y = y

def helper(x):
    return x * 100
"""


def test_a_script(program: Program, engine: Any) -> None:
    """Containers import it under its stem, find the module beside it, and both sides agree on its classes."""
    got = program({"my_script.py": SCRIPT, "beside.py": BESIDE}, "my_script.py")

    assert got == [seen_as(engine, "my_script"), False, 300, 2, 3, "MyError: mine", "my_script.py"]


def test_the_scripts_own_exception_can_be_caught(program: Program) -> None:
    """By the class that the script itself defined."""
    script = SCRIPT.replace("except Exception as error", "except MyError as error")

    assert program({"my_script.py": script, "beside.py": BESIDE}, "my_script.py")[5] == "MyError: mine"


def test_a_script_called_like_a_module_that_exists(program: Program) -> None:
    """`queue.py` must not take the standard library's place in containers."""
    got = program({"src/colorsys.py": SCRIPT, "src/beside.py": BESIDE}, "src/colorsys.py")

    assert got[1:] == [False, 300, 2, 3, "MyError: mine", "colorsys.py"]


def test_a_script_in_another_folder(program: Program, engine: Any) -> None:
    """Its own folder counts, not the working directory."""
    got = program({"deep/er/my_script.py": SCRIPT, "deep/er/beside.py": BESIDE}, "deep/er/my_script.py")

    assert got[:3] == [seen_as(engine, "my_script"), False, 300]


def test_a_module_of_a_package(program: Program, engine: Any) -> None:
    """`python -m package.module`, with relative imports."""
    package = SCRIPT.replace("from beside", "from .beside")
    got = program({"shop/__init__.py": "", "shop/till.py": package, "shop/beside.py": BESIDE}, "-m", "shop.till")

    assert got[:3] == [seen_as(engine, "shop.till"), False, 300]


def test_standard_input(program: Program) -> None:
    """`python -c`: no file, so functions travel by value."""
    code = SCRIPT.replace("from beside import Beside, helper", BESIDE)
    got = program({}, "-c", code)

    assert got == ["__main__", False, 300, 2, 3, "MyError: mine", "__main__"]


def test_import_modal(program: Program, engine: Any) -> None:
    """Under the alias both sides say `modal`; containers install it by themselves."""
    old = "import raymodal._alias\nraymodal._alias.install()\n" + SCRIPT.replace(
        "import raymodal as modal", "import modal"
    )
    got = program({"old.py": old, "beside.py": BESIDE}, "old.py")

    assert got[:3] == [seen_as(engine, "old"), False, 300]
