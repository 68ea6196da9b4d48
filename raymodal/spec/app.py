"""Everything declared on one App."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from raymodal.spec.cls import ClsSpec
from raymodal.spec.function import FunctionSpec


class AppSpec(BaseModel):
    """The functions and classes of an app under its name."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str | None
    tags: dict[str, str] = Field(default_factory=dict)
    functions: dict[str, FunctionSpec] = Field(default_factory=dict)
    classes: dict[str, ClsSpec] = Field(default_factory=dict)
