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
    """One enter or exit hook; hooks run in the order they stand in.

    Attributes:
        is_dunder: a context manager's own method, which releases of 2023 called when a container began and ended.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: str
    kind: Literal["enter", "exit"]
    snap: bool = False
    is_async: bool = False
    is_dunder: bool = False


class ClsSpec(BaseModel):
    """One declared class. `service` holds what all its containers have in common.

    Attributes:
        has_own_init: it has a constructor of its own, as older releases allowed; its arguments then take the place of parameters.
        needs_arguments: that constructor cannot be called without any.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    tag: str
    service: FunctionSpec
    methods: tuple[MethodSpec, ...] = ()
    hooks: tuple[HookSpec, ...] = ()
    parameters: tuple[ParameterSpec, ...] = ()
    has_own_init: bool = False
    needs_arguments: bool = False

    @property
    def is_template(self) -> bool:
        """Whether every object of it has a pool of its own, so that there is none for the class as such."""
        return bool(self.parameters) or self.needs_arguments

    @property
    def has_exit_hooks(self) -> bool:
        return any(hook.kind == "exit" for hook in self.hooks)
