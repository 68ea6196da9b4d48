"""The program's own modules, on their way to nodes that do not share the driver's file system.

Used on clusters that the user runs: the Python files below the main file's folder travel once as a zip; a node that has the folder itself never looks at it.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

from raymodal._private_folder import private_folder

MAX_FILES = 2000
MAX_BYTES = 20 * 1024 * 1024
_SKIP = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages", "build", "dist"})


def pack(root: str) -> bytes:
    """A zip of the Python files below `root`; hidden folders, environments and caches are left out, and so is what exceeds the limits."""
    buffer = io.BytesIO()
    total = 0
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1, strict_timestamps=False) as archive:
        for count, path in enumerate(_python_files(Path(root))):
            total += path.stat().st_size
            if count >= MAX_FILES or total > MAX_BYTES:
                break
            archive.write(path, path.relative_to(root).as_posix())
    return buffer.getvalue()


def _python_files(root: Path) -> Iterator[Path]:
    for folder, names, files in os.walk(root):
        here = Path(folder)
        # Nearest first: when a limit is reached, what lies beside the program is in.
        names[:] = sorted(
            n for n in names if not n.startswith(".") and n not in _SKIP and not (here / n / "pyvenv.cfg").exists()
        )
        for name in sorted(files):
            if name.endswith(".py"):
                yield here / name


def unpack(archive: bytes) -> str:
    """Lay the files out in a folder of this node that is named by their content; returns it. Safe when several containers do it at once."""
    digest = hashlib.sha256(archive).hexdigest()[:24]
    base = private_folder("raymodal-source")
    target = base / digest
    if target.is_dir():
        return str(target)
    making = Path(tempfile.mkdtemp(dir=base))
    with zipfile.ZipFile(io.BytesIO(archive)) as files:
        files.extractall(making)
    try:
        making.rename(target)
    except OSError:
        shutil.rmtree(making, ignore_errors=True)  # another container was first
    return str(target)
