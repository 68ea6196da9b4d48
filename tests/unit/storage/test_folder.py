"""The files of a volume: paths, and what others see while something is written or breaks."""

from __future__ import annotations

import io
import multiprocessing
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymodal.exception import InvalidError, NotFoundError
from raymodal.storage import folder as storage
from raymodal.storage.folder import Folder, Upload

SIZE = 300_000


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    made = Folder(tmp_path / "volumes", "vo-1")
    made.make()
    return made


def put(folder: Folder, files: dict[str, bytes], *, force: bool = False) -> None:
    with Upload(folder, force=force) as upload:
        for path, data in files.items():
            upload.add_file(io.BytesIO(data), path)


def files(folder: Folder) -> dict[str, bytes]:
    return {str(one.relative_to(folder.path)): one.read_bytes() for one in folder.path.rglob("*") if one.is_file()}


def left_behind(folder: Folder) -> list[str]:
    incoming = folder.root / storage.INCOMING
    return os.listdir(incoming) if incoming.exists() else []


def listed(folder: Folder, path: str = "/", *, recursive: bool = True) -> list[str]:
    return [one.path for one in folder.entries(path, recursive=recursive)]


class TestPaths:
    @given(st.lists(st.sampled_from(["..", ".", "", "a", "b", "link", "...", "a b", "\0", "-"]), max_size=6))
    def test_never_outside(self, tmp_path_factory: pytest.TempPathFactory, parts: list[str]) -> None:
        """Whatever is asked for lies in the volume, or is refused."""
        folder = Folder(tmp_path_factory.getbasetemp() / "paths", "vo-1")
        if not folder.path.exists():
            (folder.path / "a" / "b").mkdir(parents=True)
            (folder.path / "a" / "link").symlink_to("..")
            (folder.path / "link").symlink_to("/etc")
        path = "/".join(parts)
        try:
            found = folder.resolve(path)
        except InvalidError:
            assert {"..", "\0", "link"} & set(parts)
            return
        assert found == folder.path or folder.path in found.parents
        assert not {"..", "\0"} & set(parts)
        assert os.path.realpath(found.parent).startswith(str(folder.root))

    @pytest.mark.parametrize("path", ["../x", "/a/../../x", "out/passwd", "a/up/up/x"])
    def test_refused_by_everything(self, folder: Folder, path: str) -> None:
        """By `..` or by a link that leads out; nothing outside is read or changed."""
        (folder.path / "a").mkdir()
        (folder.path / "out").symlink_to("/etc")
        (folder.path / "a" / "up").symlink_to("../..")
        uses: list[Any] = [
            lambda: listed(folder, path),
            lambda: folder.open(path),
            lambda: folder.remove(path, recursive=True),
            lambda: put(folder, {path: b"x"}, force=True),
            lambda: folder.copy([path], "b", recursive=True),
        ]
        for use in uses:
            with pytest.raises(InvalidError):
                use()
        assert left_behind(folder) == []

    def test_links(self, folder: Folder) -> None:
        """One that stays inside is followed; one that leads out can be seen and removed, not read."""
        put(folder, {"a/x": b"1"})
        (folder.path / "in").symlink_to("a/x")
        (folder.path / "out").symlink_to("/etc/passwd")

        with folder.open("in") as file:
            assert file.read() == b"1"
        assert [(one.path, one.kind) for one in folder.entries("/", recursive=False)] == [
            ("a", "directory"),
            ("in", "symlink"),
            ("out", "symlink"),
        ]
        with pytest.raises(InvalidError, match="symbolic link"):
            folder.open("out")
        put(folder, {"out": b"2"}, force=True)
        assert files(folder)["out"] == b"2"
        assert not (folder.path / "out").is_symlink()


class TestListing:
    def test_entries(self, folder: Folder) -> None:
        """Of a folder, recursively or not; of a file, itself; without a leading slash."""
        put(folder, {"a/b/x": b"12", "a/y": b"", "z": b"123"})
        os.mkfifo(folder.path / "fifo")

        assert listed(folder) == ["a", "fifo", "z", "a/b", "a/y", "a/b/x"]
        assert listed(folder, "a", recursive=False) == ["a/b", "a/y"]
        assert [(one.path, one.kind, one.size) for one in folder.entries("/z", recursive=False)] == [("z", "file", 3)]
        with pytest.raises(NotFoundError):
            listed(folder, "nothing")
        with pytest.raises(InvalidError):
            folder.open("fifo")

    def test_open(self, folder: Folder) -> None:
        put(folder, {"a/x": b"1"})
        for path, error in (("b", FileNotFoundError), ("a/x/y", FileNotFoundError), ("a", IsADirectoryError)):
            with pytest.raises(error):
                folder.open(path)


class TestUpload:
    def test_folders(self, folder: Folder, tmp_path: Path) -> None:
        """Files with their permissions, of folders below too if that is asked for."""
        source = tmp_path / "source"
        (source / "deep").mkdir(parents=True)
        (source / "run.sh").write_text("x")
        (source / "run.sh").chmod(0o750)
        (source / "deep" / "y").write_text("y")
        for path, recursive in (("all", True), ("/flat/", False)):
            with Upload(folder) as upload:
                upload.add_folder(source, path, recursive=recursive)

        assert files(folder) == {"all/run.sh": b"x", "all/deep/y": b"y", "flat/run.sh": b"x"}
        assert (folder.path / "all/run.sh").stat().st_mode & 0o777 == 0o750

    def test_what_is_there(self, folder: Folder) -> None:
        """It is kept, and nothing else of the batch is written, unless `force`; a folder is never replaced."""
        put(folder, {"x": b"old", "d/y": b""})
        with pytest.raises(FileExistsError):
            put(folder, {"new": b"", "x": b"new"})
        for force in (False, True):
            with pytest.raises(IsADirectoryError):
                put(folder, {"new": b"", "d": b""}, force=force)
        with pytest.raises(NotADirectoryError):
            put(folder, {"x/y": b""}, force=True)
        assert files(folder) == {"x": b"old", "d/y": b""}

        put(folder, {"x": b"new"}, force=True)
        assert files(folder)["x"] == b"new"
        assert left_behind(folder) == []

    def test_an_error_in_the_block(self, folder: Folder) -> None:
        with pytest.raises(KeyError), Upload(folder) as upload:
            upload.add_file(io.BytesIO(b"x"), "x")
            raise KeyError
        with pytest.raises(FileNotFoundError), Upload(folder) as upload:
            upload.add_file(io.BytesIO(b"x"), "x")
            upload.add_file(Path("/nothing/there"), "y")
        assert (files(folder), left_behind(folder)) == ({}, [])

    @pytest.mark.parametrize("force", [False, True])
    @pytest.mark.parametrize("step", range(12))
    def test_a_crash_between_steps(
        self, folder: Folder, monkeypatch: pytest.MonkeyPatch, step: int, force: bool
    ) -> None:
        """After a kill at any call of the system each file is the old or the new one, whole, and a later try succeeds."""
        old = {"a": b"o" * SIZE, "d/b": b"o" * SIZE} if force else {}
        new = {"a": b"n" * SIZE, "d/b": b"n" * SIZE}
        put(folder, old)
        pid = os.fork()
        if pid == 0:
            calls = iter(range(step + 1))

            def dying(real: Any) -> Any:
                def call(*args: Any, **kwargs: Any) -> Any:
                    if next(calls, None) == step:
                        os._exit(9)
                    return real(*args, **kwargs)

                return call

            for name in ("open", "write", "fsync", "rename", "link", "fchmod"):
                monkeypatch.setattr(os, name, dying(getattr(os, name)))
            try:
                put(folder, new, force=force)
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        found = files(folder)
        assert found.keys() >= old.keys()
        assert all(data in (old.get(path), new[path]) for path, data in found.items())
        storage.sweep(folder.root, 4e9)
        assert left_behind(folder) == []
        put(folder, new, force=True)
        assert files(folder) == new

    def test_on_disk_before_it_has_its_name(self, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
        """A crash of the machine leaves no empty file under a name either: content is synced first, names afterwards."""
        done: list[str] = []
        for name in ("fsync", "link", "rename"):
            real = getattr(os, name)
            monkeypatch.setattr(os, name, lambda *a, _name=name, _real=real: (done.append(_name), _real(*a))[1])
        monkeypatch.setattr(storage, "sync_file_system", lambda path: done.append("syncfs"))
        put(folder, {"a": b"1", "b": b"2"})
        assert done == ["fsync", "fsync", "link", "link", "fsync"]
        done.clear()
        put(folder, {str(number): b"" for number in range(10)})
        assert [done[0], done[1:11], done[11]] == ["syncfs", ["link"] * 10, "fsync"]


class TestOthers:
    def test_threads_that_write_the_same(self, folder: Folder) -> None:
        """Without `force` one of them wins; with it readers see the content of one, whole."""
        won: list[int] = []

        def create(number: int) -> None:
            try:
                put(folder, {"x": bytes([number]) * SIZE})
                won.append(number)
            except FileExistsError:
                pass

        run([threading.Thread(target=create, args=(number,)) for number in range(8)])
        assert len(won) == 1
        assert files(folder) == {"x": bytes(won) * SIZE}

    def test_processes_that_write_the_same(self, folder: Folder) -> None:
        """A reader never sees half of a file, or parts of two."""
        put(folder, {"x": b"\0" * SIZE})
        context = multiprocessing.get_context("fork")
        writers: list[Any] = [context.Process(target=_replace, args=(folder, number)) for number in (1, 2, 3)]
        for writer in writers:
            writer.start()
        while any(writer.is_alive() for writer in writers):
            with folder.open("x") as file:
                data = file.read()
            assert (len(data), len(set(data))) == (SIZE, 1)
        assert [writer.exitcode for writer in writers] == [0, 0, 0]

    def test_a_reader_keeps_what_it_opened(self, folder: Folder) -> None:
        put(folder, {"x": b"old"})
        with folder.open("x") as file:
            put(folder, {"x": b"new"}, force=True)
            assert file.read() == b"old"

    def test_a_listing_while_others_remove(self, folder: Folder) -> None:
        put(folder, {f"{number}/x": b"" for number in range(5)})
        entries = folder.entries("/", recursive=True)
        next(entries)
        folder.delete()
        assert [one.path for one in entries if "x" in one.path] == []


def _replace(folder: Folder, number: int) -> None:
    for _ in range(10):
        put(folder, {"x": bytes([number]) * SIZE}, force=True)


def run(threads: list[threading.Thread]) -> None:
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class TestChanges:
    def test_remove(self, folder: Folder) -> None:
        """Files; folders only with `recursive`; of the root what is in it."""
        put(folder, {"a/x": b"", "a/y": b"", "z": b""})
        folder.remove("/a/x", recursive=False)
        with pytest.raises(InvalidError, match="recursive"):
            folder.remove("a", recursive=False)
        for path in ("a/x", "z/y", "nothing"):
            with pytest.raises(FileNotFoundError):
                folder.remove(path, recursive=True)
        folder.remove("a", recursive=True)
        assert listed(folder) == ["z"]
        folder.remove("/", recursive=True)
        assert (listed(folder), left_behind(folder)) == ([], [])

    def test_copy(self, folder: Folder) -> None:
        """As `cp` does."""
        put(folder, {"a/x": b"1", "y": b"2"})
        (folder.path / "a" / "empty").mkdir()
        folder.copy(["a/x"], "x2", recursive=False)
        folder.copy(["y", "x2"], "a", recursive=False)
        folder.copy(["a"], "b", recursive=True)
        folder.copy(["a"], "b", recursive=True)
        folder.copy(["y"], "x2", recursive=False)

        inner = {"x": b"1", "y": b"2", "x2": b"1"}
        assert files(folder) == {
            "y": b"2",
            "x2": b"2",
            **{f"{where}/{name}": data for where in ("a", "b", "b/a") for name, data in inner.items()},
        }
        assert (folder.path / "b" / "empty").is_dir()

    @pytest.mark.parametrize(
        ("sources", "target", "recursive", "error"),
        [
            (["no"], "z", False, NotFoundError),
            (["a"], "z", False, InvalidError),
            (["y", "a/x"], "z", False, InvalidError),
            (["y", "a/x"], "y", False, InvalidError),
            (["a"], "a/b", True, InvalidError),
            (["y"], "y", False, InvalidError),
            (["y"], "no/", False, InvalidError),
            ([], "z", False, InvalidError),
        ],
    )
    def test_copies_that_make_no_sense(
        self, folder: Folder, sources: list[str], target: str, recursive: bool, error: type[Exception]
    ) -> None:
        put(folder, {"a/x": b"1", "y": b"2"})
        with pytest.raises(error):
            folder.copy(sources, target, recursive=recursive)
        assert files(folder) == {"a/x": b"1", "y": b"2"}

    def test_sweep(self, folder: Folder) -> None:
        """Only what is old is removed: somebody may be writing the rest."""
        put(folder, {"x": b""})
        (folder.root / storage.INCOMING / "left").mkdir()
        now = (folder.root / storage.INCOMING / "left").stat().st_mtime
        storage.sweep(folder.root, now + 10)
        assert left_behind(folder) == ["left"]
        storage.sweep(folder.root, now + storage.LEFT_S + 10)
        assert left_behind(folder) == []


@pytest.fixture(autouse=True)
def few_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A file is copied in several steps, as a large one is."""
    monkeypatch.setattr(storage, "CHUNK", 100_000)
    yield
