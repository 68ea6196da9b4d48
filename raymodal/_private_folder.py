"""Folders below the temporary one that nobody else on this machine can enter."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path


def private_folder(name: str) -> Path:
    """This user's folder of that name, made if need be; a new one where somebody else has taken its place or can enter it."""
    path = Path(tempfile.gettempdir(), f"{name}-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
    info = path.lstat()
    if stat.S_ISDIR(info.st_mode) and info.st_uid == os.geteuid() and not stat.S_IMODE(info.st_mode) & 0o077:
        return path
    return Path(tempfile.mkdtemp(prefix=f"{name}-"))
