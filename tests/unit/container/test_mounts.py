"""Volumes at their paths: what a container's process sees, what the node sees, what is left."""

from __future__ import annotations

import multiprocessing
import os
import queue
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raymodal.container import mounts
from raymodal.exception import ExecutionError, InvalidError
from raymodal.spec.storage import VolumeSpec

FORK = multiprocessing.get_context("fork")


def in_process(work: Callable[..., Any], *args: Any) -> Any:
    """What `work` returns, or raises, in a process of its own."""
    there, here = FORK.Pipe()

    def run() -> None:
        try:
            here.send((True, work(*args)))
        except Exception as error:
            here.send((False, (error, traceback.format_exc())))

    process = FORK.Process(target=run)
    process.start()
    is_good, result = there.recv() if there.poll(20) else (False, (AssertionError("no answer"), ""))
    process.join(20)
    if not is_good:
        raise result[0]
    return result


needs_privileges = pytest.mark.skipif(os.geteuid() != 0, reason="needs root or CAP_SYS_ADMIN")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A volume with a file; locks in a folder of the test's own."""
    (tmp_path / "temp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temp"))
    for name in ("vo-1", "vo-2"):
        (tmp_path / "volumes" / name).mkdir(parents=True)
        (tmp_path / "volumes" / name / "x").write_text(name)
    yield tmp_path / "volumes" / "vo-1"


@pytest.fixture
def without_privileges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "_leave_node", lambda: False)


def spec(folder: Path, path: Path | str, **options: Any) -> VolumeSpec:
    return VolumeSpec(mount_path=str(path), name=folder.name, volume_id=folder.name, folder=str(folder), **options)


class Other:
    """Another container, that goes on until it is told to end."""

    def __init__(self, *volumes: VolumeSpec) -> None:
        self._ours, theirs = FORK.Pipe()

        def run() -> None:
            mounts.mount(volumes)
            theirs.send(None)
            while (work := theirs.recv()) is not None:
                theirs.send(work())
            mounts.leave()

        self.process: Any = FORK.Process(target=run)
        self.process.start()
        self._ours.recv()

    def end(self) -> None:
        self._ours.send(None)
        self.process.join(20)

    def kill(self) -> None:
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.join(20)


@needs_privileges
class TestMounts:
    @pytest.mark.parametrize("first", [0, 1])
    def test_two_below_a_folder_that_was_made_too(self, folder: Path, tmp_path: Path, first: int) -> None:
        """Whichever container ends first: nothing is left of either, nor of what is above them."""
        others = [Other(spec(folder, tmp_path / "a" / "b" / name)) for name in ("one", "two")]

        others.pop(first).end()
        assert os.path.exists(tmp_path / "a" / "b")
        others.pop().end()
        assert not os.path.exists(tmp_path / "a")

    def test_only_there(self, folder: Path, tmp_path: Path) -> None:
        """The container sees the volume, the node an empty folder, and nothing afterwards."""
        path = tmp_path / "a" / "b"

        def work() -> Any:
            mounts.mount([spec(folder, path)])
            (path / "y").write_text("2")
            seen = sorted(os.listdir(path)), mounts.known("vo-1"), mounts.known(None, "vo-1"), mounts.known(None, "z")
            mounts.leave()
            return seen

        other = Other(spec(folder, path))
        assert os.listdir(path) == []
        assert in_process(work) == (["x", "y"], spec(folder, path), spec(folder, path), None)
        assert os.listdir(path) == []
        other.end()
        assert not (tmp_path / "a").exists()
        assert (folder / "y").read_text() == "2"

    def test_a_folder_that_is_there(self, folder: Path, tmp_path: Path) -> None:
        """It is covered, and stays as it was."""
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "mine").write_text("")

        def work() -> list[str]:
            mounts.mount([spec(folder, tmp_path / "a")])
            seen = os.listdir(tmp_path / "a")
            mounts.leave()
            return seen

        assert in_process(work) == ["x"]
        assert os.listdir(tmp_path / "a") == ["mine"]

    def test_read_only(self, folder: Path, tmp_path: Path) -> None:
        """For everything that the process can do."""

        def work() -> list[int | None]:
            mounts.mount([spec(folder, tmp_path / "a", read_only=True), spec(folder.parent / "vo-2", tmp_path / "b")])
            found: list[int | None] = []
            for call in (
                lambda: (tmp_path / "a" / "y").write_text(""),
                lambda: (tmp_path / "a" / "x").unlink(),
                lambda: os.chmod(tmp_path / "a" / "x", 0o777),
                lambda: (tmp_path / "b" / "y").write_text(""),
            ):
                try:
                    call()
                    found.append(None)
                except OSError as error:
                    found.append(error.errno)
            return found

        assert in_process(work) == [30, 30, 30, None]  # EROFS
        assert os.listdir(folder) == ["x"]

    def test_parts_and_nesting(self, folder: Path, tmp_path: Path) -> None:
        """`sub_path` is made; one that leads out is refused; a volume may lie in another."""
        a = tmp_path / "a"
        (folder / "out").symlink_to("/etc")

        def work(*volumes: VolumeSpec) -> Any:
            mounts.mount(volumes)
            return sorted(str(one.relative_to(a)) for one in a.rglob("*"))

        assert in_process(work, spec(folder, a, sub_path="/p/q")) == []
        assert (folder / "p" / "q").is_dir()
        inner = spec(folder.parent / "vo-2", a / "in", sub_path="/")
        assert in_process(work, inner, spec(folder, a, sub_path="p")) == ["in", "in/x", "q"]
        with pytest.raises(InvalidError):
            in_process(work, spec(folder, a, sub_path="out/passwd"))

    def test_threads(self, folder: Path, tmp_path: Path) -> None:
        """Those from before do not see it, also if they start others; those of `start_inside` do."""

        def work() -> Any:
            asked: queue.SimpleQueue[Any] = queue.SimpleQueue()
            answers: queue.SimpleQueue[Any] = queue.SimpleQueue()

            def look() -> None:
                answers.put((os.listdir(tmp_path / "a"), os.getcwd()))

            def early() -> None:
                asked.get()
                look()
                for start in (threading.Thread.start, mounts.start_inside):
                    thread = threading.Thread(target=look)
                    start(thread)
                    thread.join()

            threading.Thread(target=early).start()
            mounts.mount([spec(folder, tmp_path / "a")])
            mounts.allow_threads()
            asked.put(None)
            return [answers.get()[0] for _ in range(3)]

        assert in_process(work) == [[], [], ["x"]]

    def test_forked_from_a_snapshot(self, folder: Path, tmp_path: Path) -> None:
        """The copy finds all mounted, and its end takes nothing away from others."""
        path = tmp_path / "a"

        def work() -> Any:
            mounts.mount([spec(folder, path)])

            def copy() -> list[str]:
                mounts.mount([spec(folder, path)])
                seen = os.listdir(path)
                mounts.leave()
                return seen

            return in_process(copy), in_process(copy), os.listdir(path), path.exists()

        assert in_process(work) == (["x"], ["x"], ["x"], True)
        assert path.exists()  # it ended without `leave`
        mounts.sweep()
        assert not path.exists()

    def test_killed(self, folder: Path, tmp_path: Path) -> None:
        """What it has made is removed with the end of the next container, of whichever path."""
        other = Other(spec(folder, tmp_path / "a"))
        third = Other(spec(folder, tmp_path / "b"))
        other.kill()
        assert (tmp_path / "a").exists()
        third.end()
        assert not (tmp_path / "a").exists()
        assert not (tmp_path / "b").exists()

    def test_what_the_user_has_put_there(self, folder: Path, tmp_path: Path) -> None:
        """Is not ours to remove."""
        other = Other(spec(folder, tmp_path / "a" / "b"))
        (tmp_path / "a" / "mine").write_text("")
        other.end()
        assert os.listdir(tmp_path / "a") == ["mine"]


def test_no_files(tmp_path: Path) -> None:
    """Of a volume that is not on this node, or was deleted."""
    with pytest.raises(ExecutionError, match="RAYMODAL_VOLUMES"):
        in_process(mounts.mount, [spec(tmp_path / "volumes" / "vo-3", tmp_path / "a")])


def test_a_file_is_there(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(ExecutionError, match="cannot be mounted at"):
        in_process(mounts.mount, [spec(folder, tmp_path / "a")])


@pytest.mark.usefixtures("without_privileges")
class TestLinks:
    def test_life(self, folder: Path, tmp_path: Path) -> None:
        """A link where nothing is; the last container removes it."""
        path = tmp_path / "a" / "b"
        one, two = (Other(spec(folder, path)) for _ in range(2))
        assert os.readlink(path) == str(folder)
        one.end()
        assert (path / "x").read_text() == "vo-1"
        two.end()
        assert not (tmp_path / "a").exists()
        assert os.listdir(folder) == ["x"]

    def test_refused(self, folder: Path, tmp_path: Path) -> None:
        """Where something is, where another volume is, and read-only; each with the way out."""
        (tmp_path / "a").mkdir()
        other = Other(spec(folder, tmp_path / "b"))
        for volume, why in (
            (spec(folder, tmp_path / "a"), "something else"),
            (spec(folder.parent / "vo-2", tmp_path / "b"), "a link to"),
            (spec(folder, tmp_path / "c", read_only=True), "read-only"),
            (spec(folder, "/proc/nothing"), "cannot make a link"),
        ):
            with pytest.raises(ExecutionError, match=f"{why}.*CAP_SYS_ADMIN"):
                in_process(mounts.mount, [volume])
        assert os.readlink(tmp_path / "b") == str(folder)
        other.end()
