"""`Sandbox` and what belongs to it. Come with a later milestone; every call says so."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Literal

from raymodal import _later
from raymodal._later import later, later_property
from raymodal.object import Object
from raymodal.sandbox._probe import Probe as Probe
from raymodal.stream_type import StreamType

if TYPE_CHECKING:
    from raymodal._outbound_policy import OutboundPolicy
    from raymodal._tunnel import Tunnel
    from raymodal.app import App
    from raymodal.client import Client
    from raymodal.cloud_bucket_mount import CloudBucketMount
    from raymodal.container_process import ContainerProcess
    from raymodal.image import Image
    from raymodal.mount import Mount
    from raymodal.network_file_system import NetworkFileSystem
    from raymodal.proxy import Proxy
    from raymodal.secret import Secret
    from raymodal.types import FileInfo, FileWatchEvent, FileWatchEventType, SandboxConnectCredentials, SandboxStats
    from raymodal.volume import Volume


_List = list  # classes below have a method of that name


_DEFAULT_NAME = "_DEFAULT_SANDBOX_NAME_OVERRIDE"


class SandboxFilesystem:
    """`sandbox.filesystem`."""

    def __init__(self, container: Sandbox | SidecarContainer) -> None:
        _later.refuse("SandboxFilesystem", _later.SANDBOX)

    @later(_later.SANDBOX)
    def copy_from_local(self, local_path: str | os.PathLike[str], remote_path: str) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def copy_to_local(self, remote_path: str, local_path: str | os.PathLike[str]) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def list_files(self, remote_path: str) -> list[FileInfo]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SANDBOX)
    def make_directory(self, remote_path: str, *, create_parents: bool = True) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def read_bytes(self, remote_path: str) -> bytes:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SANDBOX)
    def read_text(self, remote_path: str) -> str:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SANDBOX)
    def remove(self, remote_path: str, *, recursive: bool = False) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def stat(self, remote_path: str) -> FileInfo:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SANDBOX)
    def watch(  # type: ignore[empty-body]
        self,
        remote_path: str,
        *,
        filter: _List[FileWatchEventType] | None = None,
        recursive: bool = False,
        timeout: int | None = None,
    ) -> AsyncIterator[FileWatchEvent]:
        """Declared only."""

    @later(_later.SANDBOX)
    def write_bytes(self, data: bytes | bytearray | memoryview, remote_path: str) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def write_text(self, data: str, remote_path: str) -> None:
        """Declared only."""


class SandboxSnapshot(Object):
    """The state of a sandbox."""

    @later(_later.SNAPSHOT)
    def from_id(sandbox_snapshot_id: str, client: Client | None = None) -> SandboxSnapshot:  # type: ignore[empty-body]
        """Declared only."""


class SidecarContainer:
    """A second container beside a sandbox."""

    def __init__(self, sandbox: Sandbox, container_id: str, container_name: str, result: Any | None = None) -> None:
        _later.refuse("SidecarContainer", _later.SANDBOX)

    @later_property(_later.SANDBOX)
    def object_id(self) -> Any:
        """Declared only."""

    @later_property(_later.SANDBOX)
    def filesystem(self) -> Any:
        """Declared only."""

    @later_property(_later.SANDBOX)
    def name(self) -> Any:
        """Declared only."""

    @later(_later.SANDBOX)
    def exec(  # type: ignore[empty-body]
        self,
        *args: str,
        stdout: StreamType = StreamType.PIPE,
        stderr: StreamType = StreamType.PIPE,
        timeout: int | None = None,
        workdir: str | None = None,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        text: bool = True,
        bufsize: Literal[-1, 1] = -1,
        pty: bool = False,
    ) -> ContainerProcess[bytes] | ContainerProcess[str]:
        """Declared only."""

    @later(_later.SANDBOX)
    def mount_image(
        self,
        path: PurePosixPath | str,
        image: Image,
        *,
        _experimental_encryption_key: bytes | None = None,
    ) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def poll(self) -> int | None:
        """Declared only."""

    @later(_later.SANDBOX)
    def reload_volumes(self, *, timeout: int = 55) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def snapshot_directory(  # type: ignore[empty-body]
        self,
        path: PurePosixPath | str,
        *,
        timeout: int = 55,
        ttl: int | None = 2592000,
        _experimental_encryption_key: bytes | None = None,
    ) -> Image:
        """Declared only."""

    @later(_later.SANDBOX)
    def snapshot_filesystem(self, timeout: int = 55, *, ttl: int | None = 2592000) -> Image:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SANDBOX)
    def terminate(self, *, wait: bool = False) -> int | None:
        """Declared only."""

    @later(_later.SANDBOX)
    def unmount_image(self, path: PurePosixPath | str) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def wait(self, raise_on_termination: bool = True) -> None:
        """Declared only."""


class SidecarManager:
    """A sandbox's other containers."""

    def __init__(self, sandbox: Sandbox) -> None:
        _later.refuse("SidecarManager", _later.SANDBOX)

    @later(_later.SANDBOX)
    def create(  # type: ignore[empty-body]
        self,
        *args: str,
        name: str,
        image: Image,
        env: dict[str, str] | None = None,
        secrets: Collection[Secret] | None = None,
        workdir: str | None = None,
        volumes: Mapping[str | PurePosixPath, Volume | CloudBucketMount] | None = None,
        outbound_cidr_allowlist: Sequence[str] | None = None,
        outbound_domain_allowlist: Sequence[str] | None = None,
        include_oidc_identity_token: bool = False,
        proxy: Proxy | None = None,
        pty: bool = False,
        experimental_memory_reserve_consume_mib: int | None = None,
    ) -> SidecarContainer:
        """Declared only."""

    @later(_later.SANDBOX)
    def get(self, *, name: str, include_terminated: bool = False) -> SidecarContainer:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SANDBOX)
    def list(self, include_terminated: bool = False) -> _List[SidecarContainer]:  # type: ignore[empty-body]
        """Declared only."""


class Sandbox(Object):
    """A container for commands. Comes with a later milestone."""

    @later_property(_later.SANDBOX)
    def _experimental_sidecars(self) -> Any:
        """Declared only."""

    @later_property(_later.SANDBOX)
    def filesystem(self) -> Any:
        """Declared only."""

    @later_property(_later.SANDBOX)
    def logs(self) -> Any:
        """Declared only."""

    @later_property(_later.SANDBOX)
    def returncode(self) -> Any:
        """Declared only."""

    @later_property(_later.SANDBOX)
    def stderr(self) -> Any:
        """Declared only."""

    @later_property(_later.SANDBOX)
    def stdin(self) -> Any:
        """Declared only."""

    @later_property(_later.SANDBOX)
    def stdout(self) -> Any:
        """Declared only."""

    @later(_later.SANDBOX)
    def _experimental_create(  # type: ignore[empty-body]
        *args: str,
        app: App | None = None,
        name: str | None = None,
        tags: dict[str, str] | None = None,
        image: Image | None = None,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        mounts: Sequence[Mount] = (),
        timeout: int = 300,
        idle_timeout: int | None = None,
        workdir: str | None = None,
        cpu: float | tuple[float, float] | None = None,
        memory: int | tuple[int, int] | None = None,
        runtime: Literal["gvisor", "vm"] | None = None,
        cloud: str | None = None,
        region: str | Sequence[str] | None = None,
        block_network: bool = False,
        outbound_cidr_allowlist: Sequence[str] | None = None,
        outbound_domain_allowlist: Sequence[str] | None = None,
        _experimental_outbound_policy: OutboundPolicy | None = None,
        inbound_cidr_allowlist: Sequence[str] | None = None,
        i6pn: bool = False,
        volumes: dict[str | os.PathLike[str], Volume | CloudBucketMount] = {},  # noqa: B006
        pty: bool = False,
        encrypted_ports: Sequence[int] = [],
        h2_ports: Sequence[int] = [],
        unencrypted_ports: Sequence[int] = [],
        proxy: Proxy | None = None,
        readiness_probe: Probe | None = None,
        experimental_options: dict[str, Any] | None = None,
        include_oidc_identity_token: bool = False,
        verbose: bool = False,
        custom_domain: str | None = None,
        client: Client | None = None,
        _experimental_enable_snapshot: bool = False,
    ) -> Sandbox:
        """Declared only."""

    @later(_later.SANDBOX)
    def _experimental_from_name(  # type: ignore[empty-body]
        app_name: str,
        name: str,
        *,
        environment_name: str | None = None,
        include_terminated: bool = False,
        client: Client | None = None,
    ) -> Sandbox:
        """Declared only."""

    @later(_later.SANDBOX)
    def _experimental_from_snapshot(
        snapshot: SandboxSnapshot,
        client: Client | None = None,
        *,
        name: str | None = _DEFAULT_NAME,
    ) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def _experimental_get_exit_snapshot(self, timeout: float | None = None) -> Image:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SANDBOX)
    def _experimental_list(  # type: ignore[empty-body]
        *,
        app_id: str | None = None,
        tags: dict[str, str] | None = None,
        client: Client | None = None,
    ) -> Iterator[Sandbox]:
        """Declared only."""

    @later(_later.SANDBOX)
    def _experimental_pause(self) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def _experimental_resume(self) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def _experimental_set_name(self, name: str) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def _experimental_set_outbound_network_policy(
        self,
        *,
        outbound_cidr_allowlist: Sequence[str] | None = None,
        outbound_domain_allowlist: Sequence[str] | None = None,
    ) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def _experimental_snapshot(self) -> SandboxSnapshot:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SANDBOX)
    def _experimental_stats(self, *, since: datetime | None = None, until: datetime | None = None) -> SandboxStats:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SANDBOX)
    def _experimental_update_outbound_policy(self, outbound_policy: OutboundPolicy) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def create(  # type: ignore[empty-body]
        *args: str,
        app: App | None = None,
        name: str | None = None,
        tags: dict[str, str] | None = None,
        image: Image | None = None,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        network_file_systems: dict[str | os.PathLike[str], NetworkFileSystem] = {},  # noqa: B006
        timeout: int | None = 300,
        idle_timeout: int | None = None,
        workdir: str | None = None,
        gpu: str | None = None,
        cloud: str | None = None,
        region: str | Sequence[str] | None = None,
        cpu: float | tuple[float, float] | None = None,
        memory: int | tuple[int, int] | None = None,
        runtime: Literal["gvisor", "vm"] | None = None,
        block_network: bool = False,
        outbound_cidr_allowlist: Sequence[str] | None = None,
        outbound_domain_allowlist: Sequence[str] | None = None,
        _experimental_outbound_policy: OutboundPolicy | None = None,
        inbound_cidr_allowlist: Sequence[str] | None = None,
        volumes: dict[str | os.PathLike[str], Volume | CloudBucketMount] = {},  # noqa: B006
        pty: bool = False,
        encrypted_ports: Sequence[int] = [],
        h2_ports: Sequence[int] = [],
        unencrypted_ports: Sequence[int] = [],
        custom_domain: str | None = None,
        proxy: Proxy | None = None,
        include_oidc_identity_token: bool = False,
        readiness_probe: Probe | None = None,
        verbose: bool = False,
        experimental_options: dict[str, Any] | None = None,
        _experimental_enable_snapshot: bool = False,
        _experimental_persistent: bool = False,
        client: Client | None = None,
        environment_name: str | None = None,
        pty_info: Any | None = None,
        cidr_allowlist: Sequence[str] | None = None,
    ) -> Sandbox:
        """Declared only."""

    @later(_later.SANDBOX)
    def create_connect_token(  # type: ignore[empty-body]
        self,
        user_metadata: str | dict[str, Any] | None = None,
        port: int = 8080,
    ) -> SandboxConnectCredentials:
        """Declared only."""

    @later(_later.SANDBOX)
    def detach(self) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def exec(
        self,
        *args: str,
        stdout: StreamType = StreamType.PIPE,
        stderr: StreamType = StreamType.PIPE,
        timeout: int | None = None,
        workdir: str | None = None,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        text: bool = True,
        bufsize: Literal[-1, 1] = -1,
        pty: bool = False,
        _pty_info: Any | None = None,
        pty_info: Any | None = None,
    ) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def from_id(sandbox_id: str, client: Client | None = None) -> Sandbox:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SANDBOX)
    def from_name(  # type: ignore[empty-body]
        app_name: str,
        name: str,
        *,
        environment_name: str | None = None,
        include_terminated: bool = False,
        client: Client | None = None,
    ) -> Sandbox:
        """Declared only."""

    @later(_later.SANDBOX)
    def get_tags(self) -> dict[str, str]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SANDBOX)
    def list(  # type: ignore[empty-body]
        *,
        app_id: str | None = None,
        tags: dict[str, str] | None = None,
        client: Client | None = None,
    ) -> Iterator[Sandbox]:
        """Declared only."""

    @later(_later.SANDBOX)
    def mount_image(
        self,
        path: PurePosixPath | str,
        image: Image,
        *,
        _experimental_encryption_key: bytes | None = None,
    ) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def poll(self) -> int | None:
        """Declared only."""

    @later(_later.SANDBOX)
    def reload_volumes(self, *, timeout: int = 55) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def set_tags(self, tags: dict[str, str], *, client: Client | None = None) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def snapshot_directory(  # type: ignore[empty-body]
        self,
        path: PurePosixPath | str,
        *,
        timeout: int = 55,
        ttl: int | None = 2592000,
        _experimental_encryption_key: bytes | None = None,
    ) -> Image:
        """Declared only."""

    @later(_later.SANDBOX)
    def snapshot_filesystem(self, timeout: int = 55, *, ttl: int | None = 2592000) -> Image:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SANDBOX)
    def terminate(self, *, wait: bool = False) -> int | None:
        """Declared only."""

    @later(_later.SANDBOX)
    def tunnels(self, timeout: int = 50) -> dict[int, Tunnel]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SANDBOX)
    def unmount_image(self, path: PurePosixPath | str) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def wait(self, raise_on_termination: bool = True) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def wait_until_ready(self, *, timeout: int = 300) -> None:
        """Declared only."""
