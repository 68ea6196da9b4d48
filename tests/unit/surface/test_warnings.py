"""What is accepted and has no effect is said once per name, and is written down."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import raymodal as modal
from raymodal import _warn
from raymodal.exception import NotFoundError
from tests.unit.surface.fake_engine import FakeEngine

ROOT = Path(__file__).parents[3]


def plain(x: int = 1) -> int:
    return x


def start(**params: Any) -> list[str]:
    """Warnings of a run of one function."""
    app = modal.App("x")
    app.function(**params)(params.pop("func", plain))
    return run(app)


def run(app: modal.App) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with app.run():
            pass
    return [str(one.message) for one in caught]


@pytest.mark.parametrize(
    ("key", "params"),
    [
        ("cloud_bucket_mount", {"volumes": {"/b": modal.CloudBucketMount("b")}}),
        ("proxy", {"proxy": modal.Proxy.from_name("p")}),
        ("region", {"region": "eu"}),
        ("routing_region", {"routing_region": "eu"}),
        ("cloud", {"cloud": "aws"}),
        ("nonpreemptible", {"nonpreemptible": True}),
        ("ephemeral_disk", {"ephemeral_disk": 1000}),
        ("block_network", {"block_network": True}),
        ("restrict_modal_access", {"restrict_modal_access": True}),
        ("i6pn", {"i6pn": True}),
        ("experimental_options", {"experimental_options": {"a": 1}}),
        ("_experimental_restrict_output", {"_experimental_restrict_output": True}),
        ("image.steps", {"image": modal.Image.debian_slim().pip_install("x")}),
        ("image.python_version", {"image": modal.Image.debian_slim("3.8")}),
    ],
)
def test_once(engine: FakeEngine, key: str, params: dict[str, Any]) -> None:
    """One warning as the first run starts, naming the parameter, the function and the reason; then silence."""
    (message,) = start(**params)

    assert _warn.WARNINGS[key] in message
    assert "plain" in message
    assert start(**params) == []


@pytest.mark.parametrize("key", ["enable_memory_snapshot", "single_use_containers", "environment"])
def test_what_engines_say(key: str) -> None:
    """They alone know whether their nodes can do it."""
    with pytest.warns(UserWarning, match="'f', 'g'") as caught:
        _warn.warn_of_engine(key, ["f", "g"])

    assert _warn.WARNINGS[key] in str(caught[0].message)


def test_variants(engine: FakeEngine) -> None:
    """What only a variant asks for is said as it is first used."""
    app = modal.App("x")
    function = app.function()(plain)
    cls = app.cls()(made(m=modal.method()(lambda self: 1)))
    with app.run():
        for handle in (function.with_options(region="eu"), cls.with_options(cloud="aws")().m):
            with pytest.warns(UserWarning) as caught, contextlib.suppress(AttributeError, KeyError):
                handle.remote()  # the engine here knows no variants
            assert len(caught) == 1

    assert [key in _warn._said for key in ("region", "cloud", "proxy")] == [True, True, False]


@pytest.mark.parametrize(
    ("key", "decorate"),
    [
        ("web", modal.fastapi_endpoint()),
        ("clustered", modal.clustered(size=2)),
    ],
)
def test_decorators(engine: FakeEngine, key: str, decorate: Any) -> None:
    """Decorators that come later warn too."""
    app = modal.App("x")
    app.function(serialized=True)(decorate(plain))
    (message,) = run(app)

    assert _warn.WARNINGS[key] in message


def made(**body: Any) -> type:
    return type("C", (), {"__module__": __name__, "__qualname__": "C", **body})


def test_servers(engine: FakeEngine) -> None:
    """Servers are named as not started; classes are started, and so are not."""
    app = modal.App("x")
    app.cls()(made(m=modal.method()(lambda self: 1)))
    app.server()(made(start=modal.enter()(lambda self: None)))
    (message,) = run(app)

    assert _warn.WARNINGS["server"] in message


def test_classes(engine: FakeEngine) -> None:
    """What a class asks for in vain is named like a function's, its methods' decorators included."""
    app = modal.App("x")
    app.cls(volumes={"/v": modal.CloudBucketMount("b")})(
        modal.concurrent(max_inputs=2)(made(m=modal.fastapi_endpoint()(lambda self, x: x)))
    )
    said = run(app)

    assert [_warn.WARNINGS[key] in text for key, text in zip(("cloud_bucket_mount", "web"), said, strict=True)]
    assert ["'C.*'" in said[0], "'C.m'" in said[1]] == [True] * 2


def test_nothing_to_say(engine: FakeEngine) -> None:
    """What works, and what Modal's run ignores as well, is silent."""
    assert (
        start(
            schedule=modal.Cron("* * * * *"),
            cpu=1,
            memory=128,
            gpu="any",
            retries=1,
            min_containers=1,
            image=modal.Image.debian_slim().env({"A": "1"}).workdir("/x"),
            secrets=[modal.Secret.from_dict({"A": "1"})],
        )
        == []
    )


def test_points_at_the_users_line(engine: FakeEngine) -> None:
    """The warning is attributed to the line that starts the run."""
    app = modal.App("x")
    app.function(region="eu")(plain)
    with pytest.warns(UserWarning) as caught, app.run():
        pass

    assert caught[0].filename == __file__


def test_named_secrets(engine: FakeEngine) -> None:
    """A named secret fails the run, with the way out."""
    app = modal.App("x")
    app.function(secrets=[modal.Secret.from_name("token")])(plain)
    with pytest.raises(NotFoundError, match="Create it with `raymodal secret create token KEY=VALUE`"), app.run():
        pass


def test_written_down() -> None:
    """Every key has its row in docs/compatibility.md with the same words, and the page has no other."""
    page = (ROOT / "docs" / "compatibility.md").read_text()
    rows = dict(
        re.findall(
            r"^\| `([^`]+)` \| [^|]+ \| (.+) \|$", page.split("## Accepted with a warning")[1].split("## ")[0], re.M
        )
    )

    assert rows == _warn.WARNINGS


def test_unknown_key() -> None:
    """A warning without a row cannot be made."""
    with pytest.raises(KeyError):
        _warn.warn_once("nothing", "x")


def test_import_is_light() -> None:
    """`import raymodal` and a declared program load neither Ray nor typer."""
    program = (
        "import raymodal as modal, sys\n"
        "early = set(sys.modules)\n"
        "app = modal.App('x')\n"
        "app.function()(lambda: 1)\n"
        "print(sorted({'ray', 'typer', 'rich', 'cloudpickle'} & set(sys.modules)), 'pydantic' in early)\n"
    )
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)

    assert out.stdout.strip() == "[] False"
