"""Environment variables reach containers. On Ray only: threads share their process' environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

import raymodal as modal
from tests.contract.support import ray_only

pytestmark = ray_only


def test_variables_of_a_function(engine: Any, run_app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the image, the app's secrets, the function's secrets and `env=`, each winning over the ones before it."""
    image = modal.Image.debian_slim().env({"A": "image", "B": "image", "C": "image", "D": "image"})
    app = modal.App("env", image=image, secrets=[modal.Secret.from_dict({"B": "app", "C": "app", "D": "app"})])
    names = ["A", "B", "C", "D", "NOT_SET", "UMLAUT"]

    @app.function(
        serialized=True,
        max_containers=1,
        secrets=[modal.Secret.from_dict({"C": "function", "D": "function"})],
        env={"D": "env", "UMLAUT": "ä=;'\" \n$HOME", "NOT_SET": None},
    )
    def f() -> list[str | None]:
        return [os.environ.get(name) for name in names]

    @app.function(serialized=True, max_containers=1)
    def other() -> list[str | None]:
        return [os.environ.get(name) for name in names]

    run_app(app)

    assert f.remote() == ["image", "app", "function", "env", None, "ä=;'\" \n$HOME"]
    assert other.remote() == ["image", "app", "app", "app", None, None]
    assert "UMLAUT" not in os.environ


def test_variables_are_there_at_import(run_app: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module may read them at its top, where `is_local()` is False already."""
    (tmp_path / "reads_environment.py").write_text(
        "import os\nimport raymodal as modal\n"
        "WORD = os.environ.get('CONTRACT_WORD')\nLOCAL = modal.is_local()\n"
        "app = modal.App('reads', secrets=[modal.Secret.from_dict({'CONTRACT_WORD': 'open'})])\n"
        "@app.function(max_containers=1)\ndef f():\n    return WORD, LOCAL, __name__\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import reads_environment as user

    run_app(user.app)

    assert user.f.remote() == ("open", False, "reads_environment")
    assert (user.WORD, user.LOCAL) == (None, True)
    del sys.modules["reads_environment"]


def test_variables_of_the_platform(sample: Any) -> None:
    """Modal's own, which programs look at."""
    found = sample.call.remote(lambda: {k: v for k, v in os.environ.items() if k.startswith("MODAL_")})

    assert found["MODAL_IS_REMOTE"] == "1"
    assert found["MODAL_TASK_ID"].startswith("ta-")
    assert {"MODAL_CLOUD_PROVIDER", "MODAL_REGION", "MODAL_ENVIRONMENT"} <= set(found)
    assert "MODAL_IS_REMOTE" not in os.environ


def test_secrets_from_the_local_environment(run_app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read where the program runs, found in the container."""
    monkeypatch.setenv("CONTRACT_TOKEN", "s3cret")
    app = modal.App("local-environ")

    @app.function(serialized=True, max_containers=1, secrets=[modal.Secret.from_local_environ(["CONTRACT_TOKEN"])])
    def f() -> str | None:
        return os.environ.get("CONTRACT_TOKEN")

    monkeypatch.delenv("CONTRACT_TOKEN")
    run_app(app)

    assert f.remote() == "s3cret"


def test_changes_stay_in_the_container(sample: Any) -> None:
    """They last there, and reach nobody else."""

    def put() -> None:
        os.environ["CONTRACT_CHANGED"] = "1"

    sample.acall.remote(put)

    assert sample.acall.remote(lambda: os.environ.get("CONTRACT_CHANGED")) == "1"
    assert "CONTRACT_CHANGED" not in os.environ
