"""Volumes in containers: at their paths, shared, and read by the caller."""

from __future__ import annotations

import asyncio
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raymodal as modal
from raymodal import _warn, config
from raymodal.exception import InvalidError, NotFoundError
from tests.contract.support import local_only, ray_only

Volume = modal.Volume
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root or CAP_SYS_ADMIN")


@pytest.fixture(autouse=True)
def home(engine: Any, tmp_path: Path) -> Iterator[Path]:
    """No volumes at first."""
    before = config.settings().home
    config.override(home=tmp_path / "home")
    yield tmp_path / "home"
    config.override(home=before)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Where nothing is yet."""
    return str(tmp_path / "mounted" / "here")


def read(volume: modal.Volume, name: str) -> bytes:
    return b"".join(volume.read_file(name))


@pytest.mark.filterwarnings("ignore:volumes .used by:UserWarning")
def test_a_missing_volume(run_app: Any, path: str) -> None:
    """The run does not begin; nor does it with the same one at two paths."""
    app = modal.App("missing")
    twice = modal.App("twice")

    @app.function(serialized=True, max_containers=1, volumes={path: Volume.from_name("v")})
    def f() -> str:
        return "ran"

    @twice.function(
        serialized=True, volumes={path: Volume.from_name("v"), "/other": Volume.from_name("v", create_if_missing=True)}
    )
    def g() -> None: ...

    with pytest.raises(NotFoundError, match="`raymodal volume create v`"):
        run_app(app)
    Volume.objects.create("v")
    with pytest.raises(InvalidError, match="at two paths|at .* and '/other'"):
        run_app(twice)
    run_app(app)

    assert f.remote() == "ran"


@local_only
def test_not_mounted(run_app: Any, path: str) -> None:
    """One warning says so; the file API works."""
    _warn.forget()
    app = modal.App("local")
    volume = Volume.from_name("v", create_if_missing=True)

    @app.function(serialized=True, volumes={path: volume})
    def f() -> bytes:
        with volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"1"), "x")
        return read(volume, "x")

    with pytest.warns(UserWarning, match=r"^volumes \(used by .*f'\): On the local engine .* `--engine ray`"):
        run_app(app)
    assert (f.remote(), os.path.exists(path)) == (b"1", False)


@ray_only
@needs_root
def test_shared(run_app: Any, path: str) -> None:
    """What one writes the others see at once: functions, a class, the caller; the node sees nothing at that path."""
    app = modal.App("shared")
    volume = Volume.from_name("v", create_if_missing=True)

    @app.function(serialized=True, max_containers=1, volumes={path: volume})
    def write(name: str) -> list[str]:
        with open(f"{path}/{name}", "w") as file:
            file.write(name)
        volume.commit()
        return sorted(os.listdir(path))

    @app.function(serialized=True, max_containers=1, volumes={path + "-too": volume.with_mount_options(read_only=True)})
    def look(name: str) -> tuple[str, bytes, int | None]:
        try:
            open(f"{path}-too/new", "w").close()
            error = None
        except OSError as caught:
            error = caught.errno
        with open(f"{path}-too/{name}") as file:
            same = Volume.from_name("v")  # found by its name without the database
            same.reload()
            return file.read(), read(same, name), error

    @app.cls(serialized=True, max_containers=1, volumes={path: volume.with_mount_options(sub_path="part")})
    class C:
        @modal.enter()
        def enter(self) -> None:
            Path(path, "entered").touch()

        @modal.method()
        def f(self) -> list[str]:
            return os.listdir(path)

        @modal.exit()
        def leave(self) -> None:
            Path(path, "left").touch()

    with app.run():
        assert write.remote("one") == ["one"]
        assert look.remote("one") == ("one", b"one", 30)  # EROFS
        assert write.remote("two") == ["one", "two"]
        assert look.remote("two")[0] == "two"
        assert C().f.remote() == ["entered"]
        assert (read(volume, "two"), os.listdir(path)) == (b"two", [])
        with volume.batch_upload() as batch:
            batch.put_file(io.BytesIO(b"3"), "three")
        assert look.remote("three")[0] == "3"
    assert sorted(entry.path for entry in volume.listdir("part")) == ["part/entered", "part/left"]
    assert not os.path.exists(os.path.dirname(path))


@ray_only
@needs_root
def test_several_inputs_at_once(run_app: Any, path: str) -> None:
    """In threads and on a loop, also those that user code starts."""
    app = modal.App("concurrent")
    volume = Volume.from_name("v", create_if_missing=True)
    with volume.batch_upload() as batch:
        batch.put_file(io.BytesIO(b"1"), "x")

    @app.function(serialized=True, max_containers=1, volumes={path: volume})
    @modal.concurrent(max_inputs=4)
    def threads(barrier: int) -> list[str]:
        found: list[str] = os.listdir(path)
        thread = threading.Thread(target=lambda: found.extend(os.listdir(path)))
        thread.start()
        thread.join()
        return found

    @app.function(serialized=True, max_containers=1, volumes={path: volume})
    @modal.concurrent(max_inputs=4)
    async def tasks(_: int) -> list[str]:
        return os.listdir(path) + await asyncio.to_thread(os.listdir, path)

    run_app(app)
    assert list(threads.map(range(8))) == [["x", "x"]] * 8
    assert list(tasks.map(range(8))) == [["x", "x"]] * 8


@ray_only
@needs_root
def test_options(run_app: Any, path: str) -> None:
    """`with_options` mounts other volumes, at the path that the function has."""
    app = modal.App("options")
    one, two = (Volume.from_name(name, create_if_missing=True) for name in ("one", "two"))

    @app.function(serialized=True, max_containers=1, volumes={path: one})
    def f(text: str) -> None:
        Path(path, "x").write_text(text)

    run_app(app)
    f.remote("1")
    f.with_options(volumes={path: two}).remote("2")
    assert (read(one, "x"), read(two, "x")) == (b"1", b"2")


@ray_only
@needs_root
def test_deleted_while_mounted(run_app: Any, path: str) -> None:
    """The container goes on with an empty folder that takes no files; `commit` says why."""
    app = modal.App("deleted")
    volume = Volume.from_name("v", create_if_missing=True)

    @app.function(serialized=True, max_containers=1, volumes={path: volume})
    def f() -> Any:
        try:
            Path(path, "x").touch()
            written = True
        except FileNotFoundError:
            written = False
        try:
            volume.commit()
            return os.listdir(path), written
        except RuntimeError as error:
            return os.listdir(path), written, "deleted" in str(error)

    run_app(app)
    assert f.remote() == (["x"], True)
    Volume.objects.delete("v")
    assert f.remote() == ([], False, True)


@ray_only
@needs_root
def test_files_that_are_not_there(run_app: Any, path: str, home: Path) -> None:
    """As on a node that does not have the folder: the call fails with the reason, and names the way out."""
    from raymodal.exception import ExecutionError

    app = modal.App("elsewhere")
    volume = Volume.from_name("v", create_if_missing=True).hydrate()

    @app.function(serialized=True, max_containers=1, volumes={path: volume})
    def f() -> None: ...

    run_app(app)
    (home / "volumes" / volume.object_id).rename(home / "away")
    with pytest.raises(ExecutionError, match="RAYMODAL_VOLUMES"):
        f.remote()
