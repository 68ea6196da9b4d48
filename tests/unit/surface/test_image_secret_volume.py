"""Images, secrets, volumes: what is recorded and refused."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import pytest

import raymodal as modal
from raymodal import secret as secrets
from raymodal.container import context
from raymodal.exception import (
    AlreadyExistsError,
    DeprecationError,
    ExecutionError,
    ImageBuildError,
    InvalidError,
    UnimplementedError,
)
from raymodal.file_pattern_matcher import NON_PYTHON_FILES, FilePatternMatcher
from raymodal.retries import RetryManager
from raymodal.spec.function import RetryPolicy
from raymodal.spec.image import ImageSpec

slim = modal.Image.debian_slim()


def plain() -> None: ...


class TestImage:
    def test_chain(self) -> None:
        """Steps are kept in order with what was given; an image never changes."""
        image = (
            slim.pip_install("b", ["a"]).run_commands("x", force_build=True).env({"A": "1"}).env({"A": "2", "B": "3"})
        )

        assert [step.method for step in image._spec.steps] == [
            "debian_slim",
            "pip_install",
            "run_commands",
            "env",
            "env",
        ]
        assert image._spec.steps[1].args == {"packages": ["a", "b"]}
        assert image._spec.steps[2].args == {"commands": ["x"], "force_build": True}
        assert image._spec.env == {"A": "2", "B": "3"}
        assert [step.method for step in image._spec.python_packages_steps()] == ["pip_install"]
        assert [step.method for step in image._spec.build_steps()] == ["pip_install", "run_commands"]
        assert len(slim._spec.steps) == 1

    @pytest.mark.parametrize(
        "build",
        [
            lambda: slim.pip_install(),
            lambda: slim.uv_pip_install(),
            lambda: slim.apt_install(),
            lambda: slim.run_commands(),
            lambda: slim.dockerfile_commands(),
            lambda: slim.micromamba_install(),
        ],
    )
    def test_nothing_to_do(self, build: Any) -> None:
        """A step without content is no step."""
        assert build() is slim

    @pytest.mark.parametrize(
        ("build", "error"),
        [
            (lambda: modal.Image.pip_install("x"), InvalidError),
            (lambda: modal.Image.debian_slim(python_version=3.11), TypeError),
            (lambda: modal.Image.debian_slim(python_version=3.11), InvalidError),
            (lambda: slim.pip_install("-r x"), InvalidError),
            (lambda: slim.pip_install(3), InvalidError),
            (lambda: slim.uv_pip_install(requirements="x"), InvalidError),
            (lambda: slim.run_commands(3), InvalidError),
            (lambda: slim.env({"a": 3}), InvalidError),
            (lambda: slim.env("x"), AttributeError),
            (lambda: slim.entrypoint("x"), InvalidError),
            (lambda: slim.cmd("x"), InvalidError),
            (lambda: slim.shell([3]), InvalidError),
            (lambda: slim.add_local_file("a", "b"), InvalidError),
            (lambda: slim.add_local_dir("a", "b"), InvalidError),
            (lambda: slim.add_local_python_source(3), InvalidError),
            (lambda: slim.run_function(lambda: 1), InvalidError),
            (lambda: slim.run_function(3), InvalidError),
            (lambda: slim.run_function(plain, secret=None), TypeError),
            (lambda: slim.pip_install_private_repos("github.com/a/b", git_user="x"), InvalidError),
            (
                lambda: slim.pip_install_private_repos("zz", git_user="x", secrets=[modal.Secret.from_dict({})]),
                InvalidError,
            ),
            (lambda: slim.pip_install("x", gpu=["A100"]), InvalidError),
            (lambda: slim.pip_install("x", env={"a": 3}), InvalidError),
            (lambda: modal.Image.from_registry("x", zz=1), TypeError),
            (lambda: modal.Image.from_name("a b"), InvalidError),
            (lambda: slim.hydrate(), ExecutionError),
            (lambda: slim.object_id, AttributeError),
            (lambda: slim.build(), UnimplementedError),
        ],
    )
    def test_refused(self, build: Any, error: type[Exception]) -> None:
        """Wrong arguments fail where they stand."""
        with pytest.raises(error):
            build()

    def test_secrets_stay_out(self) -> None:
        """A step's record never holds a secret's value, and neither does its repr."""
        image = slim.run_commands("x", secrets=[modal.Secret.from_dict({"TOKEN": "hidden"})])

        assert "hidden" not in image._spec.model_dump_json()
        assert "hidden" not in repr(modal.Secret.from_dict({"TOKEN": "hidden"}))

    def test_same_chain_same_key(self) -> None:
        """Equal chains have equal keys, also after a pickle."""
        one, two = slim.pip_install("a"), modal.Image.debian_slim().pip_install("a")

        assert one._spec.key == two._spec.key == pickle.loads(pickle.dumps(one))._spec.key
        assert one._spec.key != slim._spec.key
        assert ImageSpec().env == {}

    def test_pipe(self) -> None:
        """`pipe` calls with the image first."""
        assert slim.pipe(lambda image, value: image.env({"A": value}), "1")._spec.env == {"A": "1"}

    def test_imports(self) -> None:
        """Locally a failed import is swallowed; in a container of this image it is raised."""
        with slim.imports():
            import no_such_module  # type: ignore[import-not-found]  # noqa: F401
        with pytest.warns(UserWarning, match="ValueError"), slim.imports():
            raise ValueError("at import")

        context.set_current(context.ContainerContext("ap-1", None, "ta-1", "f", image_key=slim._spec.key))
        try:
            with pytest.raises(ImportError), slim.imports():
                import no_such_module  # noqa: F401
            with slim.env({"A": "1"}).imports():
                import no_such_module  # noqa: F401
        finally:
            context.set_current(None)


class TestSecret:
    def test_from_dict(self) -> None:
        """None values are dropped; other types are refused."""
        assert modal.Secret.from_dict({"A": "1", "B": None})._spec.values == {"A": "1"}
        for wrong in ({"A": 1}, {1: "A"}, "A=1"):
            with pytest.raises(InvalidError):
                modal.Secret.from_dict(wrong)  # type: ignore[arg-type]

    def test_from_local_environ(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Read now; a missing variable is an error; empty in a container."""
        monkeypatch.setenv("HERE", "1")
        assert modal.Secret.from_local_environ(["HERE"])._spec.values == {"HERE": "1"}
        with pytest.raises(InvalidError, match="NOT_HERE"):
            modal.Secret.from_local_environ(["NOT_HERE"])
        context.set_current(context.ContainerContext("ap-1", None, "ta-1", "f"))
        try:
            assert modal.Secret.from_local_environ(["NOT_HERE"])._spec.values == {}
        finally:
            context.set_current(None)

    def test_from_dotenv(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Read at load, searched upwards; without a file it is empty; without the package it is an ImportError."""
        (tmp_path / ".env").write_text("A=1\n")
        (tmp_path / "below").mkdir()
        spec = modal.Secret.from_dotenv(tmp_path / "below")._spec
        fake = type(sys)("dotenv")
        fake.dotenv_values = lambda path: dict(line.split("=") for line in Path(path).read_text().split())  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "dotenv", fake)
        assert secrets.resolve(spec).values == {"A": "1"}
        assert secrets.resolve(modal.Secret.from_dotenv(tmp_path, filename="none")._spec).values == {}
        monkeypatch.setitem(sys.modules, "dotenv", None)
        with pytest.raises(ImportError, match="python-dotenv"):
            secrets.resolve(spec)


class TestVolume:
    def test_handles(self) -> None:
        """Names are checked; options make a second handle."""
        volume = modal.Volume.from_name("v", create_if_missing=True)
        assert (volume.name, repr(volume)) == ("v", "modal.Volume.from_name('v')")
        spec = volume.with_mount_options(read_only=True, sub_path="x")._spec("/data")
        assert (spec.read_only, spec.sub_path, spec.create_if_missing) == (True, "x", True)
        assert not volume._spec("/data").read_only
        with pytest.raises(InvalidError):
            modal.Volume.from_name("a b")
        with pytest.raises(InvalidError):
            volume.read_only().with_mount_options(read_only=True)
        with pytest.raises(InvalidError):
            volume.with_mount_options(read_only=True).read_only()

    def test_network_file_system(self) -> None:
        """Deprecated in Modal too."""
        with pytest.warns(DeprecationError, match="Volume"):
            nfs = modal.NetworkFileSystem.from_name("n")
        spec = modal.App().function(network_file_systems={"/n": nfs})(plain).spec
        assert spec.network_file_systems == ("/n",)


@pytest.mark.parametrize(
    "call",
    [
        lambda: modal.Sandbox.create("ls", app=modal.App("x")),
        lambda: modal.forward(8000),
        lambda: modal.experimental.list_deployed_apps(),
        lambda: modal.experimental.stop_app("x"),
        lambda: modal.Workspace.from_context().members,
        lambda: modal.Environment.from_name("x").hydrate(),
        lambda: modal.billing.workspace_billing_report(),
    ],
)
def test_later(call: Any) -> None:
    """The rest of the surface raises with a reason, and never pretends."""
    with pytest.raises(UnimplementedError, match=r"is not carried out by raymodal\. "):
        call()


def test_outside_of_containers() -> None:
    """What belongs into containers says so outside."""
    with pytest.raises(RuntimeError):
        modal.experimental.stop_fetching_inputs()
    with pytest.raises(InvalidError):
        modal.experimental.get_cluster_info()
    with pytest.raises(InvalidError):
        modal.interact()
    with pytest.raises(AssertionError):
        modal.experimental.get_local_input_concurrency()
    assert modal.is_local()
    assert modal.current_input_id() is None


@pytest.mark.parametrize(
    ("patterns", "path", "expected"),
    [
        (["*.py"], "a.py", True),
        (["*.py"], "b/a.py", False),
        (["**/*.py"], "b/c/a.py", True),
        (["**/*.py"], "a.py", True),
        (["b"], "b/c/a.py", True),
        (["b/*"], "b/c/a.py", True),
        (["*", "!a.py"], "a.py", False),
        (["*", "!a.py"], "b.py", True),
        (["# comment", ""], "a", False),
        (["[ab].txt"], "a.txt", True),
        (["[!ab].txt"], "a.txt", False),
        (["a?c"], "abc", True),
        (["a?c"], "a/c", False),
    ],
)
def test_patterns(patterns: list[str], path: str, expected: bool) -> None:
    """Patterns follow the rules of .dockerignore files."""
    matcher = FilePatternMatcher(*patterns)

    assert matcher(Path(path)) is expected
    assert (~matcher)(Path(path)) is not expected


def test_pattern_files(tmp_path: Path) -> None:
    """A file of patterns is read when it is needed."""
    matcher = FilePatternMatcher.from_file(tmp_path / "ignore")
    (tmp_path / "ignore").write_text("*.txt\n")

    assert matcher(Path("a.txt"))
    assert (NON_PYTHON_FILES(Path("a/b.txt")), NON_PYTHON_FILES(Path("a/b.py"))) == (True, False)


def test_retry_manager() -> None:
    """Delays grow from at least a second, and end with the retries."""
    manager = RetryManager(RetryPolicy(max_retries=3, backoff_coefficient=3.0, initial_delay_s=0.5))

    assert [manager.get_delay_ms() for _ in range(4)] == [1000, 1500, 4500, None]


def test_errors_travel() -> None:
    """Errors survive a pickle, with what they carry."""
    error = pickle.loads(pickle.dumps(ImageBuildError("broken", "im-1")))

    assert (str(error), error.image_id) == ("broken", "im-1")
    assert isinstance(pickle.loads(pickle.dumps(AlreadyExistsError("x"))), AlreadyExistsError)


async def test_client() -> None:
    """A client can be made, passed on and closed."""
    client = await modal.Client.from_env.aio()
    assert modal.Client._of_process() is client
    with pytest.raises(UnimplementedError):
        client.stub  # noqa: B018
    assert not client.is_closed()
