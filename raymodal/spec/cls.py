"""What `@app.cls` was told: one pool's settings, and what the class says about its life."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from raymodal.spec.function import BatchSpec, FunctionSpec, WebSpec


class ParameterSpec(BaseModel):
    """One `parameter()` of a class that is part of its constructor."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str
    type: Literal["str", "int", "bytes", "bool"]
    has_default: bool = False
    default: Any = None


class MethodSpec(BaseModel):
    """One method that can be called from outside."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str
    is_generator: bool = False
    is_async: bool = False
    batching: BatchSpec | None = None
    webhook: WebSpec | None = None


class HookSpec(BaseModel):
    """One enter or exit hook; hooks run in the order they stand in."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str
    kind: Literal["enter", "exit"]
    snap: bool = False
    is_async: bool = False


class ClsSpec(BaseModel):
    """One declared class. `service` holds what all its containers have in common."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    tag: str
    service: FunctionSpec
    methods: tuple[MethodSpec, ...] = ()
    hooks: tuple[HookSpec, ...] = ()
    parameters: tuple[ParameterSpec, ...] = ()
    has_own_init: bool = False
