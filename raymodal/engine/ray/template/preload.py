"""What of raymodal a template loads beforehand: all that a container needs before it looks for the user's code."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import BaseModel

_MODULES = (
    "cloudpickle",
    "raymodal",
    "raymodal.engine.ray.actor",
    "raymodal.engine.ray.controller",
    "raymodal.engine.ray.store",
    "raymodal.engine.client",
    "raymodal._alias",
    "raymodal.app",
    "raymodal.functions",
    "raymodal.image",
    "raymodal.secret",
    "raymodal.volume",
    "raymodal.dict",
    "raymodal.queue",
    "raymodal.cls",
    "raymodal.partial_function",
    "raymodal.retries",
    "raymodal.schedule",
    "raymodal.exception",
    "raymodal._traceback",
)


def preload() -> None:
    """Import the container runtime and have pydantic build what it would build on first use.

    Only modules that start no thread and read no setting: a container's settings are its own.
    """
    for name in _MODULES:
        importlib.import_module(name)
    from pydantic import BaseModel

    for name in ("function", "image", "cls", "app", "storage"):
        importlib.import_module(f"raymodal.spec.{name}")
    for model in _below(BaseModel):
        if model.__module__.startswith("raymodal."):
            model.model_rebuild()


def _below(kind: type[BaseModel]) -> list[type[BaseModel]]:
    found: list[type[BaseModel]] = []
    for one in kind.__subclasses__():
        found += [one, *_below(one)]
    return found
