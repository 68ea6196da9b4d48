"""Volumes in containers that are forked from a memory snapshot."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raymodal as modal
from raymodal import config
from raymodal.engine import current
from raymodal.engine.ray.template import node
from tests.ray.processes import wait_until
from tests.ray.test_snapshot import one_after_the_other, snapshots, wait_here

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not node.is_supported(), reason="workers are forked on Linux only"),
    pytest.mark.skipif(os.geteuid() != 0, reason="mounts need root or CAP_SYS_ADMIN"),
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    config.reset()
    config.override(engine="ray", linger_s=0.05, home=tmp_path_factory.mktemp("home"))
    yield current.get_engine()
    current.shutdown()
    config.reset()


def test_snapshot(engine: Any, run_app: Any, tmp_path: Path) -> None:
    """Mounted in the snapshot's phase and in each copy; files that were open stay readable; nothing is left on the node."""
    app = modal.App("snapshot")
    volume = modal.Volume.from_name("v", create_if_missing=True)
    path = str(tmp_path / "mounted" / "here")

    @app.cls(serialized=True, volumes={path: volume}, enable_memory_snapshot=True, max_containers=3, cpu=0.1)
    class C:
        @modal.enter(snap=True)
        def load(self) -> None:
            Path(path, "model").write_text("weights")
            self.made_in = os.getpid()
            self.file = open(Path(path, "model"))  # noqa: SIM115 - it stays open over the snapshot

        @modal.method()
        def f(self, folder: str) -> tuple[bool, str, int]:
            Path(path, str(os.getpid())).touch()
            wait_here(folder)
            return self.made_in == os.getpid(), self.file.read(), len(os.listdir(path))

    with app.run():
        found = one_after_the_other(C().f, tmp_path / "go", 3, lambda: wait_until(lambda: snapshots(engine)))

        assert found == [(True, "weights", 4), (False, "weights", 4), (False, "weights", 4)]
        assert os.listdir(path) == []
    wait_until(lambda: not os.path.exists(os.path.dirname(path)), within_s=5)
