"""raymodal's names, signatures and errors against the recorded surface of modal 1.6.4."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

import raymodal
from raymodal import config, exception
from tests.parity.surface import MISSING, RECORDED, differences, find, our_module

HERE = Path(__file__).parent
_LISTED = tomllib.loads((HERE / "known_gaps.toml").read_text())
GAPS: dict[str, str] = _LISTED["gaps"]
EXTRA: dict[str, str] = _LISTED["extra_attributes"]


def _gap_of(difference: str) -> str | None:
    where = difference.partition(": ")[0]
    return next((gap for gap in GAPS if where == gap or where.startswith((gap + ".", gap + "("))), None)


def test_whole_surface() -> None:
    """Every public name of modal is here with its signature, but for the gaps that are listed with a reason."""
    unlisted = [one for one in differences() if _gap_of(one) is None]

    assert not unlisted, "\n".join(["not as in modal 1.6.4:", *unlisted])


def test_gaps_are_real() -> None:
    """The list of gaps only shrinks: an entry that matches no difference has to go."""
    met = {_gap_of(one) for one in differences()}

    assert sorted(GAPS.keys() - met) == []


def test_all() -> None:
    """`__all__` is Modal's, and every name in it loads."""
    assert sorted(raymodal.__all__) == sorted(RECORDED["modal_all"])
    for name in raymodal.__all__:
        getattr(raymodal, name)


@pytest.mark.parametrize("name", sorted(RECORDED["exceptions"]))
def test_exception(name: str) -> None:
    """Every error is there with Modal's bases; only the bases from grpclib are left out."""
    expected = [
        base.removeprefix("modal.exception.")
        for base in RECORDED["exceptions"][name]
        if not base.startswith("grpclib.")
    ]
    found = getattr(exception, name)

    assert [base.__name__ for base in found.__mro__[1:-1]] == expected


@pytest.mark.parametrize(("name", "importable"), sorted(RECORDED["modules_importable"].items()))
def test_modules_importable(name: str, importable: bool) -> None:
    """What can be imported from modal can be imported from raymodal, and nothing pretends to be an old module."""
    ours = our_module(name)

    assert (ours is not None) == importable


@pytest.mark.parametrize(
    ("owner", "name", "present"),
    [
        (owner, name, present)
        for owner, names in RECORDED["attributes"].items()
        for name, present in names.items()
        if f"{owner}.{name}" not in EXTRA
    ],
)
def test_attributes(owner: str, name: str, present: bool, strict: None) -> None:
    """Attributes that old programs look for are there or absent exactly as in 1.6.4, in strict mode."""
    target = raymodal if owner == "modal" else find(owner)
    assert target is not MISSING

    # `hasattr(C, "__call__")` is true of every class: special methods are looked for where Python looks.
    found = any(name in vars(kind) for kind in target.__mro__[:-1]) if name.startswith("__") else hasattr(target, name)
    assert found == present


@pytest.fixture
def strict() -> object:
    config.override(strict=True)
    yield
    config.reset()
