"""What was said about an image: a chain of steps, in order, and nothing done about it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

PYTHON_PACKAGE_STEPS = frozenset(
    {
        "pip_install",
        "pip_install_from_requirements",
        "pip_install_from_pyproject",
        "pip_install_private_repos",
        "poetry_install_from_file",
        "uv_pip_install",
        "uv_sync",
        "micromamba_install",
    }
)
"""Steps that put Python packages into the image."""

WITHOUT_EFFECT_HERE = frozenset({"env", "workdir", "entrypoint", "cmd", "shell"})
"""Steps after which nothing is missing in the node's own environment, or that are honoured (`env`)."""


class ImageStep(BaseModel):
    """One builder call: its method's name and what it was given."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    method: str
    args: dict[str, Any] = Field(default_factory=dict)


class ImageSpec(BaseModel):
    """A chain of builder calls, oldest first; the first is the base."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    steps: tuple[ImageStep, ...] = ()

    def then(self, method: str, **args: Any) -> ImageSpec:
        """The chain with one more step."""
        return ImageSpec(steps=(*self.steps, ImageStep(method=method, args=args)))

    @property
    def env(self) -> dict[str, str]:
        """Variables of all `.env` steps; later ones win."""
        merged: dict[str, str] = {}
        for step in self.steps:
            if step.method == "env":
                merged.update(step.args["vars"])
        return merged

    @property
    def key(self) -> str:
        """Equal for equal chains, in every process."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def python_version(self) -> str | None:
        """What the base was asked for, None if left open."""
        version = self.steps[0].args.get("python_version") if self.steps else None
        return None if version is None else str(version)

    def python_packages_steps(self) -> Iterator[ImageStep]:
        """The steps that install Python packages, in order."""
        return (step for step in self.steps if step.method in PYTHON_PACKAGE_STEPS)

    def build_steps(self) -> Iterator[ImageStep]:
        """Everything that would have to be built or copied for this image, beyond a plain base with this Python."""
        for step in self.steps:
            if step.method not in WITHOUT_EFFECT_HERE and step.method != "debian_slim":
                yield step
