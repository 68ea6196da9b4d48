"""What may not be imported where: heavy packages are late, and only where a process needs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HEAVY = (
    "ray",
    "sqlalchemy",
    "cryptography",
    "typer",
    "click",
    "pydantic",
    "cloudpickle",
    "rich",
    "numpy",
    "matplotlib",
)


def loaded(code: str) -> set[str]:
    """Top-level packages that a fresh interpreter has loaded after `code`, besides those it begins with."""
    script = f"import sys\nbefore = set(sys.modules)\n{code}\nprint(*{{name.partition('.')[0] for name in set(sys.modules) - before}})"
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("RAYMODAL_", "COVERAGE"))}
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.splitlines()[-1].split())


def test_import_raymodal_loads_nothing_heavy() -> None:
    """`import raymodal` costs the package's own `__init__` and little else."""
    assert loaded("import raymodal").intersection(HEAVY) == set()


def test_declaring_an_app_loads_no_ray() -> None:
    """Decorators record what was said; Ray comes with the first run."""
    code = "import raymodal as modal\napp = modal.App('x')\n@app.function(cpu=2, retries=1)\ndef f(x: int) -> int: return x"

    assert loaded(code).intersection({"ray", "typer", "click", "sqlalchemy", "cryptography"}) == set()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["run", "--help"],
        ["bench", "--help"],
        ["bench", "list"],
        ["secret", "--help"],
        ["secret", "create", "--help"],
        ["cluster", "--help"],
        ["cluster", "up", "--help"],
    ],
)
def test_looking_at_the_cli_loads_no_ray(arguments: list[str]) -> None:
    """Whoever only reads help does not wait for Ray."""
    code = f"from raymodal.cli.main import main\ntry: main({arguments!r})\nexcept SystemExit as end: assert not end.code, end.code"

    assert loaded(code).intersection({"ray", "sqlalchemy", "cryptography"}) == set()


def test_a_local_run_loads_no_ray(tmp_path: Path) -> None:
    """`--engine local` never needs Ray."""
    program = tmp_path / "program.py"
    program.write_text(
        "import modal\napp = modal.App('x')\n@app.function()\ndef double(x): return 2 * x\n"
        "@app.local_entrypoint()\ndef main(): assert list(double.map(range(3))) == [0, 2, 4]\n"
    )
    code = (
        "from raymodal.cli.main import main\n"
        f"try: main(['run', '--engine', 'local', {str(program)!r}])\n"
        "except SystemExit as end: assert not end.code, end.code"
    )

    assert loaded(code).intersection({"ray", "sqlalchemy", "cryptography"}) == set()
