"""Modules that Ray need not load: stand-ins for Ray's own modules, on the thread that imports Ray, and for nobody else."""

from __future__ import annotations

import builtins
import pickle
import sys
import threading
from typing import Any

import pytest

from raymodal.engine.ray.cluster import late


@pytest.fixture(autouse=True)
def not_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the standard library plays the part of one that takes long."""
    monkeypatch.setattr(late, "NAMES", frozenset({"colorsys"}))
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)


def imported_by(module: str, statement: str = "import colorsys") -> dict[str, Any]:
    """What a module of this name has after that statement."""
    names: dict[str, Any] = {"__name__": module}
    exec(statement, names)
    return names


def test_ray_gets_a_stand_in_that_loads_on_use() -> None:
    """Nothing is loaded until something of it is used, and then it is the real thing."""
    with late.left_out():
        stand_in = imported_by("ray._private.x")["colorsys"]
    assert "colorsys" not in sys.modules

    assert stand_in.rgb_to_hls(0, 0, 0) == (0, 0, 0)
    assert sys.modules["colorsys"].rgb_to_hls is stand_in.rgb_to_hls
    with pytest.raises(AttributeError):
        _ = stand_in.nothing_of_the_kind


@pytest.mark.parametrize(
    ("module", "statement"), [("program", "import colorsys"), ("ray.x", "from colorsys import rgb_to_hls")]
)
def test_others_get_the_real_one(module: str, statement: str) -> None:
    """The user's program, and whoever takes something out of it at once."""
    with late.left_out():
        imported_by(module, statement)
        found = sys.modules["colorsys"]
        # Once it is there, there is nothing to save.
        assert imported_by("ray.y")["colorsys"] is found

    assert type(found) is type(sys)
    pickle.dumps(found.rgb_to_hls)


def test_other_threads_get_the_real_one() -> None:
    """The program is imported on another thread at the same time."""
    seen: list[Any] = []
    with late.left_out():
        thread = threading.Thread(target=lambda: seen.append(imported_by("ray.x")["colorsys"]))
        thread.start()
        thread.join()

    assert type(seen[0]) is type(sys)


def test_importing_is_as_before_afterwards() -> None:
    """Also where it failed, and within itself."""
    before = builtins.__import__
    with pytest.raises(KeyError), late.left_out(), late.left_out():
        raise KeyError("x")

    assert builtins.__import__ is before
