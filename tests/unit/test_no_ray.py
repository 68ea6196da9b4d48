"""The guard of `tests/unit/conftest.py` itself."""

from __future__ import annotations

import pytest


def test_ray_init_raises_in_unit_tests() -> None:
    """Whoever starts Ray from here hears where that belongs."""
    import ray

    with pytest.raises(AssertionError, match="tests/ray"):
        ray.init()
