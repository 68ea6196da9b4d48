"""Named secrets: looked up where the run is started, found in its containers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import raymodal as modal
from raymodal import config
from raymodal.exception import NotFoundError
from tests.contract.support import ray_only

Secret = modal.Secret


@pytest.fixture(autouse=True)
def home(engine: Any, tmp_path: Path) -> Iterator[Path]:
    """No secrets at first."""
    before = config.settings().home
    config.override(home=tmp_path / "home")
    yield tmp_path / "home"
    config.override(home=before)


@pytest.mark.filterwarnings("ignore:environment .used by:UserWarning")
def test_a_missing_secret(run_app: Any) -> None:
    """Or a missing key: the run does not begin; it does once there is one."""
    app = modal.App("missing")

    @app.function(serialized=True, max_containers=1, secrets=[Secret.from_name("db", required_keys=["A", "B"])])
    def f() -> str:
        return "ran"

    with pytest.raises(NotFoundError, match="`raymodal secret create db KEY=VALUE`"):
        run_app(app)
    Secret.objects.create("db", {"A": "1"})
    with pytest.raises(NotFoundError, match="'db' lacks 'B'"):
        run_app(app)
    Secret.from_name("db").update({"B": "2"})
    run_app(app)

    assert f.remote() == "ran"


@ray_only
def test_variables(run_app: Any) -> None:
    """In order with other secrets and `env=`; other functions do not have them; options may bring further ones."""
    Secret.objects.create("db", {"CONTRACT_A": "named", "CONTRACT_B": "named", "CONTRACT_C": "named"})
    Secret.objects.create("other", {"CONTRACT_A": "other"})
    app = modal.App("named")
    names = ["CONTRACT_A", "CONTRACT_B", "CONTRACT_C"]
    literal = Secret.from_dict({"CONTRACT_B": "literal"})

    @app.function(
        serialized=True, max_containers=1, secrets=[Secret.from_name("db"), literal], env={"CONTRACT_C": "env"}
    )
    def f() -> list[str | None]:
        return [os.environ.get(name) for name in names]

    @app.function(serialized=True, max_containers=1)
    def without() -> list[str | None]:
        return [os.environ.get(name) for name in names]

    run_app(app)

    assert f.remote() == ["named", "literal", "env"]
    assert without.remote() == [None, None, None]
    assert without.with_options(secrets=[Secret.from_name("other")]).remote() == ["other", None, None]
    with pytest.raises(NotFoundError, match="raymodal secret create gone"):
        without.with_options(secrets=[Secret.from_name("gone")]).remote()


@ray_only
def test_a_change_reaches_the_next_run(run_app: Any) -> None:
    """Containers of a run that goes on keep what it began with, also those that start later."""
    Secret.objects.create("db", {"CONTRACT_A": "old"})
    app = modal.App("changing")

    @app.function(serialized=True, single_use_containers=True, max_containers=1, secrets=[Secret.from_name("db")])
    def f() -> str:
        return os.environ["CONTRACT_A"]

    with app.run():
        assert f.remote() == "old"
        Secret.from_name("db").update({"CONTRACT_A": "new"})
        assert f.remote() == "old"
    Secret.objects.delete("db")
    Secret.objects.create("db", {"CONTRACT_A": "new"})
    with app.run():
        assert f.remote() == "new"


@ray_only
def test_classes_and_concurrent_containers(run_app: Any) -> None:
    """The other kinds of containers have them before the user's code is loaded."""
    Secret.objects.create("db", {"CONTRACT_A": "named"})
    app = modal.App("kinds", secrets=[Secret.from_name("db")])

    @app.cls(serialized=True, max_containers=1)
    class C:
        @modal.enter()
        def start(self) -> None:
            self.seen = os.environ["CONTRACT_A"]

        @modal.method()
        def get(self) -> str:
            return self.seen

    @app.function(serialized=True, max_containers=1)
    @modal.concurrent(max_inputs=2)
    def shared() -> str:
        return os.environ["CONTRACT_A"]

    run_app(app)

    assert (C().get.remote(), shared.remote()) == ("named", "named")
