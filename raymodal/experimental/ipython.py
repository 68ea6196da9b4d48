"""`%load_ext modal.experimental.ipython`: nothing to load."""

from __future__ import annotations

from typing import Any

from raymodal import _later


def load_ipython_extension(ipython: Any) -> None:
    """Modal's magic looks up deployed functions, which come with a later milestone."""
    _later.refuse("The IPython extension", _later.DEPLOYED)
