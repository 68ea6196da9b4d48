"""`import modal` is raymodal, under every spelling of the import."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import raymodal
from raymodal import _alias

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def aliased() -> Iterator[None]:
    _alias.install()
    yield
    _alias.uninstall()


def test_the_name_is_another_name_of_the_same_module() -> None:
    """No second copy, and the module's own identity is left alone."""
    spec = raymodal.__spec__

    import modal

    assert modal is raymodal
    assert sys.modules["modal"] is sys.modules["raymodal"]
    assert raymodal.__spec__ is spec
    assert (raymodal.__name__, raymodal.__package__) == ("raymodal", "raymodal")


def test_submodules_are_shared() -> None:
    """Importing a submodule under either name gives one object."""
    first = importlib.import_module("modal.exception")
    from modal.exception import Error

    from raymodal import exception

    assert first is exception
    assert exception.Error is Error
    assert exception.__spec__ is not None
    assert exception.__spec__.name == exception.__name__ == "raymodal.exception"
    assert pickle.loads(pickle.dumps(Error("x"))).args == ("x",)


def test_packages_below_work_too() -> None:
    """`modal.a.b` goes through the package `modal.a`."""
    assert importlib.import_module("modal.engine.current") is importlib.import_module("raymodal.engine.current")


def test_an_unknown_submodule_is_named() -> None:
    """The error is what `except ImportError` expects, and says who answered."""
    with pytest.raises(ModuleNotFoundError, match=r"'modal\.no_such_thing'.*raymodal has no module") as caught:
        importlib.import_module("modal.no_such_thing")

    assert caught.value.name == "modal.no_such_thing"


def test_an_unknown_attribute_is_an_import_error() -> None:
    """`from modal import x` fails as it does for any module."""
    with pytest.raises(ImportError):
        exec("from modal import no_such_thing")


def test_a_real_modal_imported_earlier_is_replaced() -> None:
    """The hook wins over what is already in sys.modules."""
    _alias.uninstall()
    sys.modules["modal"] = types.ModuleType("modal")
    sys.modules["modal.exception"] = types.ModuleType("modal.exception")
    _alias.install()

    assert importlib.import_module("modal") is raymodal
    assert importlib.import_module("modal.exception").__name__ == "raymodal.exception"


def test_install_twice_is_once() -> None:
    """Idempotent, and `uninstall` is its opposite."""
    _alias.install()
    assert sum(isinstance(finder, _alias._AliasFinder) for finder in sys.meta_path) == 1

    _alias.uninstall()
    _alias.uninstall()
    assert "modal" not in sys.modules
    assert not any(isinstance(finder, _alias._AliasFinder) for finder in sys.meta_path)


def test_other_imports_are_none_of_its_business() -> None:
    """Names that merely start alike go their own way."""
    assert importlib.util.find_spec("modality") is None


def test_the_adapter_answers_plain_python(tmp_path: Path) -> None:
    """With adapters/modal on the path, programs need no hook of their own."""
    program = tmp_path / "program.py"
    program.write_text(
        "import modal.exception\n"
        "import modal, raymodal\n"
        "from modal.exception import InvalidError\n"
        "import importlib\n"
        "assert modal is raymodal and importlib.import_module('modal') is raymodal\n"
        "assert modal.exception.InvalidError is InvalidError\n"
        "print(raymodal.__spec__.name, InvalidError.__module__)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT / "adapters" / "modal")}

    done = subprocess.run([sys.executable, str(program)], env=env, capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("raymodal raymodal.exception\n", "")


def test_the_adapter_runs_as_a_module() -> None:
    """`python -m modal` is the raymodal CLI."""
    env = {**os.environ, "PYTHONPATH": str(ROOT / "adapters" / "modal")}

    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "modal", "--version"],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )

    assert "raymodal" in done.stdout
