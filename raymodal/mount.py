"""`modal.mount`: internal to Modal's client. Declared, so that imports work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from raymodal import _later
from raymodal._later import later, later_property
from raymodal.file_pattern_matcher import FilePatternMatcher as FilePatternMatcher
from raymodal.object import Object

if TYPE_CHECKING:
    from raymodal.client import Client


class NonLocalMountError(Exception):
    """A file was to be read that is in a container only."""


class Mount(Object):
    """Internal to Modal's client."""

    @later_property(_later.INTERNAL)
    def entries(self) -> Any:
        """Declared only."""

    @later(_later.INTERNAL)
    def add_local_dir(  # type: ignore[empty-body]
        self,
        local_path: str | Path,
        *,
        remote_path: str | PurePosixPath | None = None,
        condition: Callable[[str], bool] | None = None,
        recursive: bool = True,
    ) -> Mount:
        """Declared only."""

    @later(_later.INTERNAL)
    def add_local_file(self, local_path: str | Path, remote_path: str | PurePosixPath | None = None) -> Mount:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.INTERNAL)
    def from_name(  # type: ignore[empty-body]
        name: str,
        *,
        namespace: Any = 1,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> Mount:
        """Declared only."""

    @later(_later.INTERNAL)
    def is_local(self) -> bool:  # type: ignore[empty-body]
        """Declared only."""


@later(_later.INTERNAL)
def client_mount_name() -> str:  # type: ignore[empty-body]
    """Declared only."""


@later(_later.INTERNAL)
def create_client_dependency_mounts(
    client: Any = None,
    python_versions: list[str] | None = None,
    builder_versions: list[str] | None = None,
    check_if_exists: Any = True,
    dry_run: Any = False,
) -> None:
    """Declared only."""


@later(_later.INTERNAL)
def create_client_mount() -> None:
    """Declared only."""


@later(_later.INTERNAL)
def module_mount_condition(module_base: Path) -> None:
    """Declared only."""


@later(_later.INTERNAL)
def module_mount_ignore_condition(module_base: Path) -> None:
    """Declared only."""


@later(_later.INTERNAL)
def python_standalone_mount_name(version: str, builder_version: str) -> str:  # type: ignore[empty-body]
    """Declared only."""
