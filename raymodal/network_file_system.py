"""`NetworkFileSystem`: deprecated in Modal, recorded here so that old programs load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from raymodal import _later
from raymodal._later import later
from raymodal._names import check_name
from raymodal._old import lookup_by_name
from raymodal._warn import deprecated
from raymodal.object import Object
from raymodal.types import FileEntry as FileEntry

if TYPE_CHECKING:
    from raymodal.client import Client


class NetworkFileSystem(Object):
    """Deprecated shared files. They can be declared, and are not mounted."""

    _name: str

    def _representation(self) -> str:
        return f"NetworkFileSystem.from_name({self._name!r})"

    lookup = lookup_by_name()

    @staticmethod
    def from_name(
        name: str,
        *,
        environment_name: str | None = None,
        create_if_missing: bool = False,
        client: Client | None = None,
    ) -> NetworkFileSystem:
        """A network file system by its name; deprecated in Modal, not mounted here."""
        check_name("NetworkFileSystem", name)
        deprecated("modal.NetworkFileSystem is deprecated; use modal.Volume.", stacklevel=2)
        found = NetworkFileSystem._new()
        found._name = name
        return found

    @later(_later.NFS)
    def add_local_dir(
        self,
        local_path: Path | str,
        remote_path: str | PurePosixPath | None = None,
        progress_cb: Callable[..., Any] | None = None,
    ) -> None:
        """Declared only."""

    @later(_later.NFS)
    def add_local_file(
        self,
        local_path: Path | str,
        remote_path: str | PurePosixPath | None = None,
        progress_cb: Callable[..., Any] | None = None,
    ) -> None:
        """Declared only."""

    @later(_later.NFS)
    def create_deployed(  # type: ignore[empty-body]
        deployment_name: str,
        client: Client | None = None,
        environment_name: str | None = None,
    ) -> str:
        """Declared only."""

    @later(_later.NFS)
    def delete(name: str, client: Client | None = None, environment_name: str | None = None) -> None:
        """Declared only."""

    @later(_later.NFS)
    def ephemeral(  # type: ignore[empty-body]
        client: Client | None = None,
        environment_name: str | None = None,
        _heartbeat_sleep: float = 300,
    ) -> AbstractContextManager[NetworkFileSystem]:
        """Declared only."""

    @later(_later.NFS)
    def iterdir(self, path: str) -> Iterator[FileEntry]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.NFS)
    def listdir(self, path: str) -> list[FileEntry]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.NFS)
    def read_file(self, path: str) -> Iterator[bytes]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.NFS)
    def remove_file(self, path: str, recursive: Any = False) -> None:
        """Declared only."""

    @later(_later.NFS)
    def write_file(  # type: ignore[empty-body]
        self,
        remote_path: str,
        fp: BinaryIO,
        progress_cb: Callable[..., Any] | None = None,
    ) -> int:
        """Declared only."""


@later(_later.INTERNAL)
def network_file_system_mount_protos(  # type: ignore[empty-body]
    validated_network_file_systems: list[tuple[str, NetworkFileSystem]],
) -> list[Any]:
    """Declared only."""
