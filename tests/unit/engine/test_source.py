"""A program's modules as one archive."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raymodal._private_folder import private_folder
from raymodal.engine.source import pack, unpack


def test_there_and_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python files in folders; hidden folders, environments and other files stay; a date that zip cannot hold does no harm."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "there"))
    (tmp_path / "there").mkdir()
    root = tmp_path / "here"
    for name in ("a.py", "package/b.py", ".hidden/c.py", "env/d.py", "env/pyvenv.cfg", "data.bin"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}")
    os.utime(root / "a.py", (0, 0))  # zip begins in 1980

    found = Path(unpack(pack(str(root))))

    assert sorted(str(p.relative_to(found)) for p in found.rglob("*.py")) == ["a.py", "package/b.py"]
    assert (found / "a.py").read_text() == "# a.py"


def test_what_others_may_have_laid_out_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder of that name that is not this user's alone may hold anything under the archive's name."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    base = private_folder("raymodal-source")
    assert base == private_folder("raymodal-source")
    root = tmp_path / "here"
    root.mkdir()
    (root / "a.py").write_text("# a")
    archive = pack(str(root))
    assert Path(unpack(archive)).parent == base

    base.chmod(0o777)
    opened = Path(unpack(archive))
    base.rename(tmp_path / "elsewhere")
    base.symlink_to(tmp_path / "elsewhere")
    linked = Path(unpack(archive))

    for found in (opened, linked):
        assert found.resolve().parent not in (base, tmp_path / "elsewhere")
        assert found.parent.stat().st_mode & 0o777 == 0o700
        assert (found / "a.py").read_text() == "# a"
