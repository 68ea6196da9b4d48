"""`Volume`: shared files. Declared and recorded; mounting and the file API come with the storage milestone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, BinaryIO, ClassVar, NoReturn

from raymodal import _later
from raymodal._later import later
from raymodal._names import check_name
from raymodal._old import lookup_by_name
from raymodal.exception import InvalidError
from raymodal.object import Object
from raymodal.spec.storage import VolumeSpec
from raymodal.types import FileEntry as FileEntry
from raymodal.types import FileEntryType as FileEntryType
from raymodal.types import VolumeCreateOptions as VolumeCreateOptions
from raymodal.types import VolumeInfo as VolumeInfo

if TYPE_CHECKING:
    from raymodal.client import Client


_List = list  # classes below have a method of that name


class VolumeManager:
    """`Volume.objects`."""

    @later(_later.VOLUME)
    def create(
        self,
        name: str,
        *,
        version: int | None = None,
        allow_existing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
        experimental_options: dict[str, Any] | None = None,
    ) -> None:
        """Declared only."""

    @later(_later.VOLUME)
    def delete(
        self,
        name: str,
        *,
        allow_missing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> None:
        """Declared only."""

    @later(_later.VOLUME)
    def list(  # type: ignore[empty-body]
        self,
        *,
        max_objects: int | None = None,
        created_before: datetime | str | None = None,
        environment_name: str = "",
        client: Client | None = None,
    ) -> _List[Volume]:
        """Declared only."""


class AbstractVolumeUploadContextManager:
    """Base of what `batch_upload` gives."""

    @later(_later.VOLUME)
    def __aenter__(self) -> AbstractVolumeUploadContextManager:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.VOLUME)
    def __aexit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        """Declared only."""

    @later(_later.VOLUME)
    def __enter__(self) -> AbstractVolumeUploadContextManager:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.VOLUME)
    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        """Declared only."""

    @later(_later.VOLUME)
    def put_directory(self, local_path: Path | str, remote_path: PurePosixPath | str, recursive: bool = True) -> None:
        """Declared only."""

    @later(_later.VOLUME)
    def put_file(
        self,
        local_file: Path | str | BinaryIO | BytesIO,
        remote_path: PurePosixPath | str,
        mode: int | None = None,
    ) -> None:
        """Declared only."""

    @later(_later.VOLUME)
    def resolve(  # type: ignore[empty-body]
        version: Any,
        object_id: str,
        client: Any,
        progress_cb: Callable[..., Any] | None = None,
        force: bool = False,
    ) -> AbstractVolumeUploadContextManager:
        """Declared only."""


class VolumeUploadContextManager(AbstractVolumeUploadContextManager):
    """What `batch_upload` of a version 1 volume gives."""

    def __init__(
        self,
        volume_id: str,
        client: Client,
        progress_cb: Callable[..., Any] | None = None,
        force: bool = False,
    ) -> None:
        _later.refuse("VolumeUploadContextManager", _later.VOLUME)

    @later(_later.VOLUME)
    def __aenter__(self) -> VolumeUploadContextManager:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.VOLUME)
    def __aexit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        """Declared only."""

    @later(_later.VOLUME)
    def __enter__(self) -> VolumeUploadContextManager:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.VOLUME)
    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        """Declared only."""

    @later(_later.VOLUME)
    def put_directory(self, local_path: Path | str, remote_path: PurePosixPath | str, recursive: bool = True) -> None:
        """Declared only."""

    @later(_later.VOLUME)
    def put_file(
        self,
        local_file: Path | str | BinaryIO | BytesIO,
        remote_path: PurePosixPath | str,
        mode: int | None = None,
    ) -> None:
        """Declared only."""


class VolumeUploadContextManager2(AbstractVolumeUploadContextManager):
    """What `batch_upload` of a version 2 volume gives."""

    def __init__(
        self,
        volume_id: str,
        client: Client,
        progress_cb: Callable[..., Any] | None = None,
        force: bool = False,
        hash_concurrency: int = 2,
        put_concurrency: int = 128,
    ) -> None:
        _later.refuse("VolumeUploadContextManager2", _later.VOLUME)

    @later(_later.VOLUME)
    def __aenter__(self) -> VolumeUploadContextManager2:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.VOLUME)
    def __aexit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        """Declared only."""

    @later(_later.VOLUME)
    def __enter__(self) -> VolumeUploadContextManager2:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.VOLUME)
    def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        """Declared only."""

    @later(_later.VOLUME)
    def put_directory(self, local_path: Path | str, remote_path: PurePosixPath | str, recursive: bool = True) -> None:
        """Declared only."""

    @later(_later.VOLUME)
    def put_file(
        self,
        local_file: Path | str | BinaryIO | BytesIO,
        remote_path: PurePosixPath | str,
        mode: int | None = None,
    ) -> None:
        """Declared only."""


class Volume(Object):
    """Files that containers share. It can be declared in `volumes=`; a run warns that it is not mounted yet."""

    _name: str | None
    _options: dict[str, Any]
    objects: ClassVar[VolumeManager] = VolumeManager()

    @classmethod
    def _of(cls, name: str | None, options: dict[str, Any]) -> Volume:
        volume = cls._new()
        volume._name = name
        volume._options = options
        return volume

    def _representation(self) -> str:
        return f"modal.Volume.from_name({self._name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Volume._of, (self._name, self._options)

    def _spec(self, mount_path: str) -> VolumeSpec:
        return VolumeSpec(
            mount_path=mount_path,
            name=self._name,
            **{key: value for key, value in self._options.items() if not key.startswith("_")},
        )

    def _raise_not_hydrated(self) -> NoReturn:
        _later.refuse(repr(self), _later.VOLUME)

    @property
    def name(self) -> str | None:
        """The name it is found by."""
        return self._name

    @staticmethod
    def from_name(
        name: str,
        *,
        environment_name: str | None = None,
        create_if_missing: bool = False,
        version: int | None = None,
        create_options: VolumeCreateOptions | None = None,
        client: Client | None = None,
    ) -> Volume:
        """A volume by its name; nothing is looked up. It can be given to `volumes=`, and is not mounted yet.

        Raises:
            InvalidError: a name that no volume can have.
        """
        check_name("Volume", name)
        return Volume._of(
            name,
            {"environment_name": environment_name, "create_if_missing": create_if_missing, "version": version},
        )

    lookup = lookup_by_name()

    @staticmethod
    def from_id(volume_id: str, client: Client | None = None) -> Volume:
        """A volume by its id; nothing is looked up."""
        return Volume._of(volume_id, {})

    def with_mount_options(
        self, *, read_only: bool | None = None, sub_path: str | PurePosixPath | None = None
    ) -> Volume:
        """A second handle that is mounted in another way.

        Raises:
            InvalidError: the handle came from `read_only()`.
        """
        if self._options.get("_by_read_only"):
            raise InvalidError(
                "with_mount_options() cannot follow read_only(); use with_mount_options(read_only=True, ...)"
            )
        changes: dict[str, Any] = {"_by_options": True}
        if read_only is not None:
            changes["read_only"] = read_only
        if sub_path is not None:
            changes["sub_path"] = str(sub_path)
        return Volume._of(self._name, {**self._options, **changes})

    def read_only(self) -> Volume:
        """A second handle that containers cannot write to.

        Raises:
            InvalidError: the handle came from `with_mount_options()`.
        """
        if self._options.get("_by_options"):
            raise InvalidError(
                "read_only() cannot follow with_mount_options(); use with_mount_options(read_only=True, ...)"
            )
        return Volume._of(self._name, {**self._options, "read_only": True, "_by_read_only": True})

    @later(_later.VOLUME)
    def batch_upload(self, force: bool = False) -> AbstractContextManager[AbstractVolumeUploadContextManager]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.VOLUME)
    def commit(self) -> None:
        """Declared only."""

    @later(_later.VOLUME)
    def copy_files(self, src_paths: Sequence[str], dst_path: str, recursive: bool = False) -> None:
        """Declared only."""

    @later(_later.VOLUME)
    def ephemeral(  # type: ignore[empty-body]
        client: Client | None = None,
        environment_name: str | None = None,
        version: Any | None = None,
        create_options: VolumeCreateOptions | None = None,
        _heartbeat_sleep: float = 300,
    ) -> AbstractContextManager[Volume]:
        """Declared only."""

    @later(_later.VOLUME)
    def info(self) -> VolumeInfo:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.VOLUME)
    def iterdir(self, path: str, *, recursive: bool = True) -> Iterator[FileEntry]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.VOLUME)
    def listdir(self, path: str, *, recursive: bool = False) -> list[FileEntry]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.VOLUME)
    def read_file(self, path: str) -> Iterator[bytes]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.VOLUME)
    def read_file_into_fileobj(  # type: ignore[empty-body]
        self,
        path: str,
        fileobj: IO[bytes],
        progress_cb: Callable[..., Any] | None = None,
    ) -> int:
        """Declared only."""

    @later(_later.VOLUME)
    def reload(self) -> None:
        """Declared only."""

    @later(_later.VOLUME)
    def remove_file(self, path: str, recursive: bool = False) -> None:
        """Declared only."""

    @later(_later.VOLUME)
    def rename(
        old_name: str,
        new_name: str,
        *,
        client: Client | None = None,
        environment_name: str | None = None,
    ) -> None:
        """Declared only."""
