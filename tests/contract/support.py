"""Marks of the contract tests."""

from __future__ import annotations

import pytest

ray_only = pytest.mark.parametrize(
    "engine", [pytest.param("ray", marks=pytest.mark.ray)], indirect=True, scope="package"
)
local_only = pytest.mark.parametrize("engine", ["local"], indirect=True, scope="package")
