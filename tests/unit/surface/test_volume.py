"""`modal.Volume`: handles, names, and the file API."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

import raymodal as modal
from raymodal import config
from raymodal import volume as volumes
from raymodal.container import context
from raymodal.exception import AlreadyExistsError, InvalidError, NotFoundError
from raymodal.types import FileEntryType

Volume = modal.Volume


def put(volume: modal.Volume, *, force: bool = False, **files: bytes) -> None:
    with volume.batch_upload(force=force) as batch:
        for name, data in files.items():
            batch.put_file(io.BytesIO(data), name)


def read(volume: modal.Volume, path: str) -> bytes:
    return b"".join(volume.read_file(path))


@pytest.fixture
def volume() -> modal.Volume:
    return Volume.from_name("v", create_if_missing=True)


class TestNames:
    def test_life(self) -> None:
        """Made, found, renamed, listed, deleted with its files."""
        Volume.objects.create("old")
        Volume.objects.create("old", allow_existing=True)
        volume = Volume.from_name("old").hydrate()
        put(volume, x=b"1")
        Volume.rename("old", "new")

        assert volume.object_id.startswith("vo-")
        assert read(Volume.from_name("new"), "x") == b"1"
        assert read(Volume.from_id(volume.object_id), "x") == b"1"
        assert [(one.name, one.object_id) for one in Volume.objects.list()] == [("new", volume.object_id)]
        info = Volume.from_name("new").info()
        assert info.name == "new"
        assert timedelta(0) <= datetime.now(UTC) - info.created_at < timedelta(minutes=1)
        Volume.objects.delete("new")
        assert Volume.objects.list() == []
        assert [path.name for path in (config.settings().home / "volumes").iterdir()] == [".incoming"]

    @pytest.mark.parametrize(
        ("call", "error"),
        [
            (lambda: Volume.objects.create("there"), AlreadyExistsError),
            (lambda: Volume.objects.create("a b"), InvalidError),
            (lambda: Volume.objects.create("x", version=3), InvalidError),
            (lambda: Volume.objects.delete("no"), NotFoundError),
            (lambda: Volume.objects.list(max_objects=-1), InvalidError),
            (lambda: Volume.rename("no", "x"), NotFoundError),
            (lambda: Volume.rename("there", "other"), AlreadyExistsError),
            (lambda: Volume.rename("there", "a b"), InvalidError),
            (lambda: Volume.from_name("no").hydrate(), NotFoundError),
            (lambda: Volume.from_name("no").listdir("/"), NotFoundError),
            (lambda: Volume.from_name("there", environment_name="dev").hydrate(), NotFoundError),
            (lambda: Volume.from_name("there", version=2).hydrate(), InvalidError),
            (lambda: Volume.from_name("x", version=3, create_if_missing=True).hydrate(), InvalidError),
            (lambda: Volume.from_id("vo-no").hydrate(), NotFoundError),
            (lambda: Volume.from_name("no").commit(), RuntimeError),
            (lambda: Volume.from_name("no").reload(), RuntimeError),
        ],
    )
    def test_errors(self, call: Callable[[], Any], error: type[Exception]) -> None:
        """As in Modal; nothing has changed afterwards."""
        Volume.objects.create("there")
        Volume.objects.create("other", version=2)
        with pytest.raises(error):
            call()
        Volume.objects.delete("no", allow_missing=True)
        assert {one.name for one in Volume.objects.list()} == {"there", "other"}

    def test_listing(self) -> None:
        """Newest first; environments are apart."""
        for name in ("a", "b", "c"):
            Volume.objects.create(name)
        Volume.objects.create("d", environment_name="dev")
        assert [one.name for one in Volume.objects.list(max_objects=2)] == ["c", "b"]
        assert [one.name for one in Volume.objects.list(environment_name="dev")] == ["d"]
        assert Volume.objects.list(created_before="2020-01-01") == []

    def test_ephemeral(self) -> None:
        """It lives as long as its block, and is in no list."""
        with Volume.ephemeral() as volume:
            put(volume, x=b"1")
            assert (read(volume, "x"), volume.name, Volume.objects.list()) == (b"1", None, [])
        with pytest.raises(NotFoundError):
            read(volume, "x")

    def test_ephemeral_of_a_process_that_ended(self) -> None:
        """Gone when its lease is over and somebody makes a volume."""
        gone = volumes._create(None, None, None, False, lease_s=-1.0)
        kept = volumes._create(None, None, None, False, lease_s=100.0)
        assert not volumes.folder_of(gone.object_id).path.exists()
        assert volumes.folder_of(kept.object_id).path.exists()

    def test_a_folder_elsewhere(self, tmp_path: Path, volume: modal.Volume) -> None:
        """RAYMODAL_VOLUMES says where files are."""
        config.override(volumes=str(tmp_path / "shared"))
        put(volume, x=b"1")
        assert (tmp_path / "shared" / volume.object_id / "x").read_bytes() == b"1"


class TestHandles:
    def test_pickled(self, volume: modal.Volume) -> None:
        """By id once they are found."""
        before = pickle.loads(pickle.dumps(volume))
        volume.hydrate()
        after = pickle.loads(pickle.dumps(volume))
        assert before.hydrate().object_id == after.object_id == volume.object_id
        assert repr(after) == "modal.Volume.from_name('v')"
        assert volume.with_mount_options(read_only=True).object_id == volume.object_id

    def test_mount_options(self, volume: modal.Volume) -> None:
        """They merge; the whole volume is no part of it."""
        both = volume.with_mount_options(sub_path="a/").with_mount_options(read_only=True)._spec("/m")
        assert (both.sub_path, both.read_only) == ("a", True)
        assert volume.with_mount_options(sub_path="/")._spec("/m").sub_path is None

    def test_read_only(self, volume: modal.Volume) -> None:
        """A handle of `read_only()` writes nothing; one of `with_mount_options` does."""
        put(volume, x=b"")
        handle = volume.read_only()
        for call in (
            lambda: put(handle, y=b""),
            lambda: handle.remove_file("x"),
            lambda: handle.copy_files(["x"], "y"),
        ):
            with pytest.raises(InvalidError, match="read_only"):
                call()
        assert [one.path for one in handle.listdir("/")] == ["x"]
        volume.with_mount_options(read_only=True).remove_file("x")

    def test_on_a_node_without_the_database(self, monkeypatch: pytest.MonkeyPatch, volume: modal.Volume) -> None:
        """A container does not make another volume of the same name there."""
        monkeypatch.setattr(volumes, "here", lambda: context.ContainerContext("ap-1", None, "ta-1", "f"))
        with pytest.raises(NotFoundError, match="RAYMODAL_VOLUMES"):
            volume.hydrate()


class TestFiles:
    def test_upload(self, volume: modal.Volume, tmp_path: Path) -> None:
        """Of files, open files and folders; they appear when the block ends."""
        (tmp_path / "d" / "e").mkdir(parents=True)
        (tmp_path / "d" / "e" / "f").write_text("f")
        with volume.batch_upload() as batch:
            batch.put_file(tmp_path / "d/e/f", "/one")
            batch.put_file(io.BytesIO(b"2"), "two", mode=0o600)
            batch.put_directory(tmp_path / "d", "/d")
            assert volume.listdir("/") == []
        found = {entry.path: (entry.type, entry.size) for entry in volume.iterdir("/")}
        assert found.keys() == {"one", "two", "d", "d/e", "d/e/f"}
        assert found["d/e/f"] == (FileEntryType.FILE, 1)
        assert [entry.path for entry in volume.listdir("/d")] == ["d/e"]

    def test_nothing_of_a_batch_that_fails(self, volume: modal.Volume) -> None:
        put(volume, x=b"old")
        with pytest.raises(KeyError), volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(b""), "y")
            raise KeyError
        with pytest.raises(FileExistsError):
            put(volume, y=b"", x=b"new")
        with pytest.raises(ValueError, match="end with"), volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(b""), "/")
        with pytest.raises(NotADirectoryError), volume.batch_upload() as batch:
            batch.put_directory("/nothing/there", "/")
        with pytest.raises(InvalidError), volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(b""), "../y")
        assert {entry.path for entry in volume.listdir("/")} == {"x"}
        put(volume, force=True, x=b"new")
        assert read(volume, "x") == b"new"

    def test_read(self, volume: modal.Volume, monkeypatch: pytest.MonkeyPatch) -> None:
        """In blocks; into a file from where it stands."""
        monkeypatch.setattr(volumes, "_BLOCK", 4)
        put(volume, x=b"0123456789")
        assert list(volume.read_file("x")) == [b"0123", b"4567", b"89"]
        target, told = io.BytesIO(b"ab"), []
        target.seek(1)
        assert volume.read_file_into_fileobj("x", target, lambda advance: told.append(advance)) == 10
        assert (target.getvalue(), told) == (b"a0123456789", [4, 4, 2])
        reading = volume.read_file("no")
        with pytest.raises(FileNotFoundError):
            next(iter(reading))

    def test_the_rest(self, volume: modal.Volume) -> None:
        put(volume, x=b"1")
        volume.copy_files(["x"], "y")
        with pytest.raises(ValueError, match="version 2"):
            volume.copy_files(["x"], "z", recursive=True)
        volume.remove_file("x")
        with pytest.raises(FileNotFoundError):
            volume.remove_file("x")
        for pattern in ("*", "/a/**"):
            with pytest.raises(InvalidError, match="pattern"):
                volume.listdir(pattern)
            with pytest.raises(InvalidError, match="pattern"):
                list(volume.iterdir(pattern))
        volume.commit()
        volume.reload()
        assert read(volume, "y") == b"1"

    async def test_aio(self, volume: modal.Volume) -> None:
        """The same by `.aio`."""
        async with Volume.ephemeral() as other, other.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"1"), "x")
        await Volume.objects.create.aio("made", version=2)
        made = Volume.from_name("made")
        async with made.batch_upload.aio() as batch:
            batch.put_file(io.BytesIO(b"1"), "x")
        await made.copy_files.aio(["x"], "y", recursive=True)
        assert [entry.path async for entry in made.iterdir.aio("/")] == ["x", "y"]
        assert [entry.path for entry in await made.listdir.aio("/")] == ["x", "y"]
        assert b"".join([block async for block in made.read_file.aio("x")]) == b"1"
        await made.remove_file.aio("x")
        await made.commit.aio()
        await Volume.rename.aio("made", "renamed")
        await Volume.objects.delete.aio("renamed")
