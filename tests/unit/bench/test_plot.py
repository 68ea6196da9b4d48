"""Pictures of reports."""

import sys

import pytest

from benchmarks.plot import PlotError, draw, ensure_drawable

from .reports import report, scenario


@pytest.mark.parametrize("ending", ["png", "svg"])
def test_draw(tmp_path, ending):
    """Both kinds of files, narrow and wide ranges, contenders without figures."""
    pytest.importorskip("matplotlib")
    path = tmp_path / f"a.{ending}"
    draw(report(scenario([1.0, 2.0], [3.0]), scenario([1.0], [1000.0]), scenario([], [1.0], error="broken")), path)

    assert path.stat().st_size > 1000


def test_nothing_to_draw(tmp_path):
    """Said in words."""
    pytest.importorskip("matplotlib")
    with pytest.raises(PlotError, match="no figure"):
        draw(report(scenario([], [])), tmp_path / "a.png")


def test_matplotlib_is_missing(tmp_path, monkeypatch):
    """The way out is named."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(PlotError, match=r"pip install 'raymodal\[plot\]'"):
        ensure_drawable(tmp_path / "a.png")
