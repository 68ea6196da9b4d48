"""`Volume`: files that containers and callers share. Names are in the state database, files in a folder (`storage.folder`)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, Any, BinaryIO, ClassVar, Literal, NamedTuple

from raymodal._dual import dual, dual_context, dual_context_function, dual_function, dual_stream, dual_stream_ahead
from raymodal._names import check_name
from raymodal._old import lookup_by_name
from raymodal._stored import environment, local_time, seconds_since_epoch
from raymodal.container import mounts
from raymodal.container.context import here
from raymodal.exception import InvalidError, NotFoundError
from raymodal.object import Object, new_id
from raymodal.spec.storage import VolumeSpec
from raymodal.types import FileEntry as FileEntry
from raymodal.types import FileEntryType as FileEntryType
from raymodal.types import VolumeCreateOptions as VolumeCreateOptions
from raymodal.types import VolumeInfo as VolumeInfo

if TYPE_CHECKING:
    from raymodal.client import Client
    from raymodal.spec.app import AppSpec
    from raymodal.spec.function import FunctionSpec
    from raymodal.state.volumes import Facts, NamedVolumes
    from raymodal.storage.folder import Entry, Folder, Upload

_List = list  # classes below have a method of that name
_AHEAD = 128
_BLOCK = 8 << 20  # of a file that is read; Modal's
_LEASES = 3  # an ephemeral volume outlives so many heartbeats that do not come


class VolumeManager:
    """`Volume.objects`: the named volumes."""

    @dual
    async def create(
        self,
        name: str,
        *,
        version: int | None = None,
        allow_existing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
        experimental_options: dict[str, Any] | None = None,
    ) -> None:
        """Make a named volume.

        Args:
            name: 1 to 64 letters, digits, dashes, periods and underscores.
            version: 1 or 2; they differ in which calls are allowed, not in how files are kept.
            allow_existing: Leave one that exists as it is, instead of raising.
            environment_name: Where to keep it.
            client, experimental_options: Not used.

        Raises:
            AlreadyExistsError: The name is taken, unless `allow_existing`.
            InvalidError: The name has characters that it must not have, or the version is none.
        """
        check_name("Volume", name)
        _check_version(version)
        await asyncio.to_thread(_create, name, environment_name, version, allow_existing)

    @dual
    async def delete(
        self,
        name: str,
        *,
        allow_missing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> None:
        """Delete a named volume and all its files. Containers that have it mounted find it empty.

        Raises:
            NotFoundError: There is none, unless `allow_missing`.
        """

        def remove() -> None:
            object_id = _volumes().delete(name, environment(environment_name), allow_missing=allow_missing)
            if object_id is not None:
                folder_of(object_id).delete()

        await asyncio.to_thread(remove)

    @dual
    async def list(
        self,
        *,
        max_objects: int | None = None,
        created_before: datetime | str | None = None,
        environment_name: str = "",
        client: Client | None = None,
    ) -> _List[Volume]:
        """The named volumes, newest first.

        Args:
            max_objects: At most so many; None for all.
            created_before: Only older ones; a time, or an ISO date or time, local unless it says otherwise.
            environment_name: Where to look.
            client: Not used.
        """
        if max_objects is not None and max_objects < 0:
            raise InvalidError(f"max_objects must not be negative, as {max_objects} is.")
        before = seconds_since_epoch(created_before)

        def listed() -> Any:
            return _volumes().list(environment(environment_name), max_objects=max_objects, created_before=before)

        found = []
        for facts in await asyncio.to_thread(listed):
            volume = Volume.from_name(facts.name, environment_name=environment_name or None)
            volume._learn(facts)
            found.append(volume)
        return found


class AbstractVolumeUploadContextManager:
    """A batch of new files. They appear when its block ends, each at once; none does if the block raises."""

    def __init__(
        self,
        volume_id: str,
        client: Client,
        progress_cb: Callable[..., Any] | None = None,
        force: bool = False,
    ) -> None:
        self._volume_id = volume_id
        self._progress = progress_cb
        self._force = force
        self._asked: list[Callable[[Upload], None]] = []

    async def __aenter__(self) -> AbstractVolumeUploadContextManager:
        return self

    async def __aexit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        if exc_type is None:
            await asyncio.to_thread(self._carry_out)

    @dual
    async def __enter__(self) -> AbstractVolumeUploadContextManager:
        return self

    @dual
    async def __exit__(self, exc_type: Any, exc_val: Any, exc_tb: Any) -> None:
        await self.__aexit__(exc_type, exc_val, exc_tb)

    def _carry_out(self) -> None:
        from raymodal.storage.folder import Upload

        with Upload(folder_of(self._volume_id), force=self._force, progress=self._progress) as upload:
            for ask in self._asked:
                ask(upload)

    def put_file(
        self,
        local_file: Path | str | BinaryIO | BytesIO,
        remote_path: PurePosixPath | str,
        mode: int | None = None,
    ) -> None:
        """Upload a file, or what is in an open one; it must stay there until the block ends.

        Args:
            local_file: its path, or it opened for reading bytes.
            remote_path: in the volume; missing folders are made.
            mode: permissions; by default the file's own, 0644 for an open one.

        Raises:
            ValueError: the path names no file.
        """
        path = PurePosixPath(remote_path)
        if path.as_posix().endswith("/"):
            raise ValueError(f"remote_path={str(remote_path)!r} must name a file, not end with '/'")
        source = Path(local_file) if isinstance(local_file, str | Path) else local_file
        self._asked.append(lambda upload: upload.add_file(source, path, mode))

    def put_directory(self, local_path: Path | str, remote_path: PurePosixPath | str, recursive: bool = True) -> None:
        """Upload the files of a folder.

        Args:
            local_path: the folder.
            remote_path: where its files go; missing folders are made.
            recursive: also those of folders in it.

        Raises:
            NotADirectoryError: there is no such folder.
        """
        source, path = Path(local_path), PurePosixPath(remote_path)
        if not source.is_dir():
            raise NotADirectoryError(f"There is no folder {str(local_path)!r} to upload")
        self._asked.append(lambda upload: upload.add_folder(source, path, recursive=recursive))

    @staticmethod
    def resolve(
        version: Any,
        object_id: str,
        client: Any,
        progress_cb: Callable[..., Any] | None = None,
        force: bool = False,
    ) -> AbstractVolumeUploadContextManager:
        """The upload for a volume of a version."""
        kind = VolumeUploadContextManager2 if version == 2 else VolumeUploadContextManager
        return kind(object_id, client, progress_cb=progress_cb, force=force)


class VolumeUploadContextManager(AbstractVolumeUploadContextManager):
    """What `batch_upload` of a version 1 volume gives."""


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
        super().__init__(volume_id, client, progress_cb, force)


async def _ephemeral(
    client: Client | None = None,
    environment_name: str | None = None,
    version: Any | None = None,
    create_options: VolumeCreateOptions | None = None,
    _heartbeat_sleep: float = 300,
) -> AsyncGenerator[Volume, None]:
    """A volume for the length of a `with` or `async with` block. It goes, files and all, when the block or the process ends."""
    _check_version(version)
    lease_s = _LEASES * _heartbeat_sleep
    facts = await asyncio.to_thread(_create, None, environment_name, version, False, lease_s)
    heart = asyncio.create_task(_beat(facts.object_id, _heartbeat_sleep))
    try:
        volume = Volume._of(None, {"environment_name": environment_name})
        volume._learn(facts)
        yield volume
    finally:
        heart.cancel()
        await asyncio.to_thread(_end, facts.object_id)


async def _rename(
    old_name: str,
    new_name: str,
    *,
    client: Client | None = None,
    environment_name: str | None = None,
) -> None:
    """Give a named volume another name.

    Raises:
        NotFoundError: there is none of the old name.
        AlreadyExistsError: the new one is taken.
        InvalidError: no volume can have it.
    """
    check_name("Volume", new_name)
    await asyncio.to_thread(lambda: _volumes().rename(old_name, new_name, environment(environment_name)))


class Volume(Object):
    """Files that containers share, and that callers read and write by its methods.

    Example:
        >>> volume = Volume.from_name("models", create_if_missing=True)  # doctest: +SKIP
        >>> with volume.batch_upload() as batch:  # doctest: +SKIP
        ...     batch.put_file("model.bin", "/v1/model.bin")
        >>> [entry.path for entry in volume.listdir("/v1")]  # doctest: +SKIP
        ['v1/model.bin']
    """

    _name: str | None
    _options: dict[str, Any]
    _version: int | None
    objects: ClassVar[VolumeManager] = VolumeManager()

    @classmethod
    def _of(
        cls, name: str | None, options: dict[str, Any], object_id: str | None = None, version: int | None = None
    ) -> Volume:
        volume = cls._new()
        volume._name = name
        volume._options = options
        volume._object_id = object_id
        volume._version = version
        return volume

    def _learn(self, facts: Facts | Known) -> None:
        self._object_id, self._name, self._version = facts.object_id, facts.name, facts.version

    def _representation(self) -> str:
        given = self._options.get("volume_id")
        if given is not None:
            return f"modal.Volume.from_id({given!r})"
        return "modal.Volume.ephemeral()" if self._name is None else f"modal.Volume.from_name({self._name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Volume._of, (self._name, self._options, self._object_id, self._version)

    def _spec(self, mount_path: str) -> VolumeSpec:
        options = {key: value for key, value in self._options.items() if not key.startswith("_")}
        if self._object_id is not None:
            options["volume_id"] = self._object_id
        return VolumeSpec(mount_path=mount_path, name=self._name, **options)

    async def _hydrate(self) -> None:
        if self._object_id is None:
            facts = await asyncio.to_thread(find, self._spec(""))
            self._learn(facts)

    async def _folder(self) -> Folder:
        await self._hydrate()
        return await asyncio.to_thread(_existing, self.object_id)

    def _check_may_write(self) -> None:
        if self._options.get("_by_read_only"):
            raise InvalidError(f"{self!r} was made by read_only() and cannot be written to")

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
        """A volume by its name, looked up when an app that uses it starts, or when it is first used.

        Args:
            name: as it was created: `raymodal volume create NAME`, or `Volume.objects.create`.
            environment_name: where to look.
            create_if_missing: make it then, if there is none.
            version: 1 or 2; refused if there is one of the other.
            create_options, client: not used.

        Raises:
            InvalidError: a name that no volume can have.
        """
        check_name("Volume", name)
        return Volume._of(
            name,
            {"environment_name": environment_name, "create_if_missing": create_if_missing, "version": version},
        )

    lookup = lookup_by_name()
    ephemeral = dual_context_function(_ephemeral)
    rename = dual_function(_rename)

    @staticmethod
    def from_id(volume_id: str, client: Client | None = None) -> Volume:
        """A volume by its id, looked up when it is first used."""
        return Volume._of(None, {"volume_id": volume_id})

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
            given = PurePosixPath(sub_path).as_posix()
            changes["sub_path"] = None if given == "/" else given
        return Volume._of(self._name, {**self._options, **changes}, self._object_id, self._version)

    def read_only(self) -> Volume:
        """A second handle that containers cannot write to.

        Raises:
            InvalidError: the handle came from `with_mount_options()`.
        """
        if self._options.get("_by_options"):
            raise InvalidError(
                "read_only() cannot follow with_mount_options(); use with_mount_options(read_only=True, ...)"
            )
        options = {**self._options, "read_only": True, "_by_read_only": True}
        return Volume._of(self._name, options, self._object_id, self._version)

    @dual
    async def info(self) -> VolumeInfo:
        """Name and creation.

        Raises:
            NotFoundError: there is no such volume.
        """
        await self._hydrate()
        found = await asyncio.to_thread(lambda: _volumes().facts(self.object_id))
        return VolumeInfo(found.name, local_time(found.created_at), found.created_by)

    @dual
    async def commit(self) -> None:
        """Bring what was written to disk. Others see it with or without.

        Raises:
            RuntimeError: the volume was deleted.
        """
        folder = await self._as_mounted()
        await asyncio.to_thread(folder.sync)

    @dual
    async def reload(self) -> None:
        """Nothing to fetch: what others have written is seen at once, also with files open.

        Raises:
            RuntimeError: the volume was deleted.
        """
        await self._as_mounted()

    async def _as_mounted(self) -> Folder:
        try:
            return await self._folder()
        except NotFoundError as error:  # Modal's for all that goes wrong here
            raise RuntimeError(str(error)) from None

    @dual_stream_ahead(_AHEAD)
    async def iterdir(self, path: str, *, recursive: bool = True) -> AsyncGenerator[FileEntry, None]:
        """What is in a folder, or the entry of one file; with `recursive` also what is in folders below.

        Raises:
            NotFoundError: there is no such path.
            InvalidError: the path has a pattern, or leads out of the volume.
        """
        _check_path(path)
        folder = await self._folder()
        entries = folder.entries(path, recursive=recursive)
        while some := await asyncio.to_thread(lambda: list(itertools.islice(entries, _AHEAD))):
            for entry in some:
                yield _shown(entry)

    @dual
    async def listdir(self, path: str, *, recursive: bool = False) -> list[FileEntry]:
        """What is in a folder, or the entry of one file; with `recursive` also what is in folders below.

        Raises:
            NotFoundError: there is no such path.
            InvalidError: the path has a pattern, or leads out of the volume.
        """
        _check_path(path)
        folder = await self._folder()
        entries = await asyncio.to_thread(lambda: list(folder.entries(path, recursive=recursive)))
        return [_shown(entry) for entry in entries]

    @dual_stream
    async def read_file(self, path: str) -> AsyncGenerator[bytes, None]:
        """A file's bytes, in blocks. A file that is replaced meanwhile is read to the end as it was.

        Raises:
            FileNotFoundError: there is no such file.
        """
        folder = await self._folder()
        file = await asyncio.to_thread(folder.open, path)
        with file:
            while block := await asyncio.to_thread(file.read, _BLOCK):
                yield block

    @dual
    async def read_file_into_fileobj(
        self,
        path: str,
        fileobj: IO[bytes],
        progress_cb: Callable[..., Any] | None = None,
    ) -> int:
        """Write a file's bytes to an open file, from where it stands. Returns how many.

        Args:
            path: in the volume.
            fileobj: open for writing bytes.
            progress_cb: called with `advance=` and a number of bytes.

        Raises:
            FileNotFoundError: there is no such file.
        """
        folder = await self._folder()

        def write() -> int:
            size = 0
            with folder.open(path) as file:
                while block := file.read(_BLOCK):
                    _write_whole(fileobj, block)
                    size += len(block)
                    if progress_cb is not None:
                        progress_cb(advance=len(block))
            return size

        return await asyncio.to_thread(write)

    @dual
    async def remove_file(self, path: str, recursive: bool = False) -> None:
        """Remove a file, or with `recursive` a folder and what is in it.

        Raises:
            FileNotFoundError: there is no such path.
            InvalidError: it is a folder and not `recursive`, or leads out of the volume.
        """
        self._check_may_write()
        folder = await self._folder()
        await asyncio.to_thread(lambda: folder.remove(path, recursive=recursive))

    @dual
    async def copy_files(self, src_paths: Sequence[str], dst_path: str, recursive: bool = False) -> None:
        """Copy files within the volume, as `cp` does.

        Args:
            src_paths: one or more.
            dst_path: a folder that is there, or for one source the copy's own path.
            recursive: also folders; only of version 2 volumes, as in Modal.

        Raises:
            NotFoundError: a source is not there.
            ValueError: `recursive` with a version 1 volume.
        """
        self._check_may_write()
        folder = await self._folder()
        if recursive and self._version != 2:
            raise ValueError(f"recursive=True needs a volume of version 2, and {self!r} has version 1")
        await asyncio.to_thread(lambda: folder.copy(list(src_paths), dst_path, recursive=recursive))

    @dual_context
    async def batch_upload(self, force: bool = False) -> AsyncGenerator[AbstractVolumeUploadContextManager, None]:
        """A batch of new files, written when the block ends; see `AbstractVolumeUploadContextManager`.

        Args:
            force: replace files that are there; else the block's end raises `FileExistsError` and writes none.
        """
        self._check_may_write()
        await self._folder()
        batch = AbstractVolumeUploadContextManager.resolve(self._version, self.object_id, self.client, force=force)
        yield batch
        await batch.__aexit__(None, None, None)


# ------------------------------------------------------------------------------------------------------------- details


class Known(NamedTuple):
    """What a container knows of a volume that it has mounted."""

    object_id: str
    name: str | None
    version: int | None


def with_folders(app: AppSpec) -> AppSpec:
    """An app whose volumes are found: with ids, and folders.

    Raises:
        NotFoundError: one does not exist.
        InvalidError: a function has the same one at two paths.
    """
    found: dict[VolumeSpec, VolumeSpec] = {}

    def placed(function: FunctionSpec) -> FunctionSpec:
        return function.model_copy(update={"volumes": resolve(function, found)}) if function.volumes else function

    functions = {tag: placed(function) for tag, function in app.functions.items()}
    classes = {
        tag: cls.model_copy(update={"service": placed(cls.service)}) if cls.service.volumes else cls
        for tag, cls in app.classes.items()
    }
    return app.model_copy(update={"functions": functions, "classes": classes})


def resolve(function: FunctionSpec, found: dict[VolumeSpec, VolumeSpec] | None = None) -> tuple[VolumeSpec, ...]:
    """A function's volumes, with ids and folders.

    Args:
        function: what was declared.
        found: those of other functions; each is looked up once.

    Raises:
        NotFoundError: one does not exist.
        InvalidError: the same one is at two paths.
    """
    found = {} if found is None else found
    placed = []
    paths: dict[str | None, str] = {}
    for volume in function.volumes:
        if volume not in found:
            facts = find(volume)
            changes = {"volume_id": facts.object_id, "name": facts.name, "version": facts.version}
            folder = folder_of(facts.object_id).path
            found[volume] = volume.model_copy(update={**changes, "folder": str(folder)})
        one = found[volume]
        if one.volume_id in paths:
            raise InvalidError(
                f"Function {function.tag!r} has the same Volume at {paths[one.volume_id]!r} and {one.mount_path!r}; once is enough"
            )
        paths[one.volume_id] = one.mount_path
        placed.append(one)
    return tuple(placed)


def find(spec: VolumeSpec) -> Facts | Known:
    """The volume that is meant; made if that was asked for.

    Raises:
        NotFoundError: there is none.
        InvalidError: it has another version.
    """
    _check_version(spec.version)
    mounted = mounts.known(spec.volume_id, spec.name, spec.environment_name)
    if mounted is not None and mounted.volume_id is not None:
        return Known(mounted.volume_id, mounted.name, mounted.version)
    volumes = _volumes()
    if spec.volume_id is not None:
        return volumes.facts(spec.volume_id)
    try:
        return volumes.find(str(spec.name), environment(spec.environment_name), version=spec.version)
    except NotFoundError as error:
        if spec.create_if_missing:
            return _create(spec.name, spec.environment_name, spec.version, True)
        if here() is None:
            raise
        raise NotFoundError(f"{error} {_WHERE}") from None


def folder_of(object_id: str) -> Folder:
    """Where the files of a volume are."""
    from raymodal.config import settings
    from raymodal.storage.folder import Folder

    mounted = mounts.known(object_id)
    if mounted is not None and mounted.folder is not None:
        return Folder(Path(mounted.folder).parent, object_id)
    return Folder(settings().volumes_root, object_id)


_WHERE = (
    "A container looks in its own node's RAYMODAL_HOME. On other machines than the one that starts the run, "
    "give the volume to the function by volumes=, with RAYMODAL_VOLUMES on a file system that all nodes share."
)


def _existing(object_id: str) -> Folder:
    folder = folder_of(object_id)
    if not folder.path.is_dir():
        raise NotFoundError(f"Volume {object_id!r} has no files at {folder.path}; it may have been deleted.")
    return folder


def _volumes() -> NamedVolumes:
    from raymodal.config import settings

    home = settings().home
    if here() is not None and not home.is_dir():
        raise NotFoundError(f"This node has no {home}, where volumes are noted. {_WHERE}")
    # Late: SQLAlchemy is for those that use volumes.
    from raymodal.state.database import database
    from raymodal.state.volumes import NamedVolumes

    return NamedVolumes(database(home), lambda: new_id("vo"))


def _create(
    name: str | None,
    environment_name: str | None,
    version: int | None,
    allow_existing: bool,
    lease_s: float | None = None,
) -> Facts:
    from raymodal.secret import _now, _user_name
    from raymodal.storage.folder import sweep

    volumes, now = _volumes(), _now()
    for object_id in volumes.expire(now):
        folder_of(object_id).delete()
    facts = volumes.create(
        name,
        environment(environment_name),
        version=version,
        allow_existing=allow_existing,
        now=now,
        user=_user_name(),
        expires_at=None if lease_s is None else now + lease_s,
    )
    folder = folder_of(facts.object_id)
    folder.make()
    sweep(folder.root, now)
    return facts


async def _beat(object_id: str, every_s: float) -> None:
    from raymodal.secret import _now

    while True:
        await asyncio.sleep(every_s)
        with suppress(Exception):  # one lost heartbeat is no harm, a lease is three of them
            await asyncio.to_thread(lambda: _volumes().renew(object_id, _now() + _LEASES * every_s))


def _end(object_id: str) -> None:
    _volumes().forget(object_id)
    folder_of(object_id).delete()


def _check_version(version: Literal[1, 2] | int | None) -> None:
    if version not in (None, 1, 2):
        raise InvalidError(f"version={version!r} is no version of a Volume: give 1 or 2, or leave it out")


def _check_path(path: str) -> None:
    if path.endswith("*"):
        raise InvalidError(f"{path!r} has a pattern, which is not looked at; leave the '*' off, or use recursive=True")


def _shown(entry: Entry) -> FileEntry:
    return FileEntry(entry.path, FileEntryType[entry.kind.upper()], entry.mtime, entry.size)


def _write_whole(file: IO[bytes], data: bytes) -> None:
    left = memoryview(data)
    while left:
        written = file.write(left)
        if written is None or written >= len(left):
            return
        if written == 0:
            raise OSError("The file to write to takes nothing")
        left = left[written:]
