"""`Image`: what a container's file system should hold, as a chain of recorded steps.

Nothing is built: functions run in the Python environment of the node. A run warns once about steps that would have
had to be built; variables of `.env` are honoured.
"""

from __future__ import annotations

import contextlib
import re
import types
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Concatenate, NoReturn, ParamSpec

from raymodal import _later
from raymodal._declare import env_values, parse_gpu
from raymodal._dual import dual
from raymodal._later import later
from raymodal._names import check_name
from raymodal.container.context import here
from raymodal.exception import ExecutionError, InvalidError
from raymodal.file_pattern_matcher import NON_PYTHON_FILES
from raymodal.object import LazyFromId, Object
from raymodal.spec.image import ImageSpec

if TYPE_CHECKING:
    from raymodal._logs_manager import ImageLogsManager
    from raymodal.app import App
    from raymodal.client import Client
    from raymodal.cloud_bucket_mount import CloudBucketMount
    from raymodal.network_file_system import NetworkFileSystem
    from raymodal.secret import Secret
    from raymodal.volume import Volume

P = ParamSpec("P")


class _AutoDockerIgnore:
    """Marks `ignore=` left at its default: the `.dockerignore` beside the Dockerfile counts."""

    def __repr__(self) -> str:
        return "AUTO_DOCKERIGNORE"

    def __call__(self, _: Path) -> bool:
        return False


AUTO_DOCKERIGNORE = _AutoDockerIgnore()


class _PythonVersionError(InvalidError, TypeError):
    """`python_version=3.11`: Modal's releases differ in which of the two they raise."""


class _Builder:
    """A builder method: called on the class instead of an image, it says what is missing."""

    def __init__(self, method: Callable[..., Image]) -> None:
        self._method = method
        self.__doc__ = method.__doc__

    def __get__(self, image: Image | None, owner: type) -> Any:
        return _NotConstructed(self._method) if image is None else types.MethodType(self._method, image)


class _NotConstructed:
    def __init__(self, method: Callable[..., Image]) -> None:
        self.__wrapped__ = method
        self.__name__ = method.__name__
        self.__doc__ = method.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise InvalidError(
            f"Image.{self.__name__} needs an image to start from, for example modal.Image.debian_slim().{self.__name__}(...)"
        )


def _plain(value: Any) -> Any:
    """A recordable form of a builder's argument: secrets by repr (never their values), functions by name, paths as text."""
    if isinstance(value, Object):
        return repr(value)
    if isinstance(value, (Path, PurePosixPath)):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if callable(value) and hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    return repr(value)


def _strings(what: str, given: Sequence[Any], noun: str) -> list[str]:
    """Flatten strings and lists of strings."""
    flat: list[Any] = []
    for item in given:
        flat.extend(item if isinstance(item, list) else [item])
    for item in flat:
        if not isinstance(item, str):
            raise InvalidError(f"Image.{what}: {noun} must be strings or lists of strings, not {item!r}")
    return flat


def _list_of_strings(what: str, given: Any) -> list[str]:
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise InvalidError(f"Image.{what} takes a list of strings, not {given!r}")
    return given


_VARIADIC = {
    "apt_install": "packages",
    "dockerfile_commands": "dockerfile_commands",
    "micromamba_install": "packages",
    "pip_install": "packages",
    "pip_install_private_repos": "repositories",
    "run_commands": "commands",
    "uv_pip_install": "packages",
}
_PIP_LIKE = ("pip_install", "uv_pip_install")
_GIT_REF = re.compile(r"^(?P<host>[\w.-]+\.\w+)/(?P<path>[\w./-]+?)(@[\w./-]+)?$")


def _checked(method: str, args: dict[str, Any]) -> dict[str, Any] | None:
    """What a builder call records; None if it changes nothing.

    Raises:
        InvalidError: an argument is wrong.
    """
    if isinstance(args.get("gpu"), list) and method != "run_function":
        raise InvalidError(f"Image.{method}(gpu=...) takes one string, not a list")
    parse_gpu(args.get("gpu"))
    if method != "env" and args.get("env") is not None:
        args["env"] = env_values(args["env"])
    variadic = _VARIADIC.get(method)
    if variadic is not None:
        if method == "pip_install_private_repos":
            if not args["secrets"]:
                raise InvalidError("Image.pip_install_private_repos needs secrets=[...] with the token to fetch with")
            bad = [ref for ref in args[variadic] if not isinstance(ref, str) or not _GIT_REF.match(ref)]
            if bad:
                raise InvalidError(
                    f"Image.pip_install_private_repos: {bad} are not of the form 'github.com/owner/repo@ref'"
                )
        args[variadic] = flat = _strings(method, args[variadic], variadic)
        if method in _PIP_LIKE and any(item.startswith("-") for item in flat):
            raise InvalidError(f"Image.{method}: options such as {flat!r} belong into extra_options=")
        if method == "uv_pip_install":
            requirements = args["requirements"]
            if requirements is not None:
                args["requirements"] = _strings(method, _list(method, requirements), "requirements")
            flat = flat + (requirements or [])
        if not flat and not args.get("spec_file"):
            return None
        if method in _PIP_LIKE or method == "apt_install":
            args[variadic] = sorted(args[variadic])
    elif method in ("add_local_file", "add_local_dir"):
        if not str(args["remote_path"]).startswith("/"):
            raise InvalidError(f"Image.{method}: remote_path={args['remote_path']!r} must be absolute")
    elif method == "add_local_python_source":
        if not all(isinstance(module, str) for module in args["modules"]):
            raise InvalidError(f"Image.add_local_python_source takes names of modules, not {args['modules']!r}")
    elif method == "env":
        bad = [key for key, value in args["vars"].items() if not isinstance(value, str)]
        if bad:
            raise InvalidError(f"Image.env: the values of {bad} are not strings; use str(...)")
        args["vars"] = dict(args["vars"])
    elif method in ("entrypoint", "cmd", "shell"):
        _list_of_strings(method, next(iter(args.values())))
    elif method == "run_function":
        _check_run_function(args["raw_f"])
    return args


def _list(method: str, given: Any) -> list[Any]:
    if not isinstance(given, list):
        raise InvalidError(f"Image.{method}: requirements= must be a list of paths, not {given!r}")
    return given


def _check_run_function(raw_f: Any) -> None:
    if not isinstance(raw_f, types.FunctionType):
        raise InvalidError(f"Image.run_function takes a plain function, not a {type(raw_f).__name__}")
    if raw_f.__name__ == "<lambda>":
        raise InvalidError("Image.run_function cannot take a lambda; give it a name with `def`")


class Image(Object):
    """A chain of steps. Every builder returns a new image.

    Example:
        >>> image = Image.debian_slim().pip_install("numpy").env({"MODE": "fast"})
        >>> [step.method for step in image._spec.steps]
        ['debian_slim', 'pip_install', 'env']
    """

    _spec: ImageSpec

    @classmethod
    def _of(cls, spec: ImageSpec) -> Image:
        image = cls._new()
        image._spec = spec
        return image

    @staticmethod
    def _base(method: str, **args: Any) -> Image:
        version = args.get("python_version")
        if version is not None and not isinstance(version, str) and method == "debian_slim":
            raise _PythonVersionError(
                f"python_version={version!r} must be a string, such as '3.11': 3.10 as a number is 3.1"
            )
        kwargs = args.pop("kwargs", {})
        for name in kwargs:
            raise TypeError(f"Image.{method}() got an unexpected keyword argument {name!r}")
        return Image._of(ImageSpec().then(method, **_recorded(args)))

    def _then(self, method: str, **args: Any) -> Image:
        recorded = _checked(method, args)
        return self if recorded is None else Image._of(self._spec.then(method, **_recorded(recorded)))

    def _representation(self) -> str:
        return "Image." + ".".join(f"{step.method}(...)" for step in self._spec.steps)

    def __reduce__(self) -> tuple[Any, ...]:
        return Image._of, (self._spec,)

    @_Builder
    def add_local_dir(
        self,
        local_path: str | Path,
        remote_path: str,
        *,
        copy: bool = False,
        ignore: Sequence[str] | Callable[[Path], bool] = [],  # noqa: B006
    ) -> Image:
        """Put a local folder at `remote_path`."""
        return self._then("add_local_dir", local_path=local_path, remote_path=remote_path, copy=copy, ignore=ignore)

    @_Builder
    def add_local_file(self, local_path: str | Path, remote_path: str, *, copy: bool = False) -> Image:
        """Put a local file at `remote_path`; a trailing `/` keeps its name."""
        return self._then("add_local_file", local_path=local_path, remote_path=remote_path, copy=copy)

    @_Builder
    def add_local_python_source(
        self,
        *modules: str,
        copy: bool = False,
        ignore: Sequence[str] | Callable[[Path], bool] = NON_PYTHON_FILES,
    ) -> Image:
        """Make local modules importable in containers."""
        return self._then("add_local_python_source", modules=modules, copy=copy, ignore=ignore)

    @_Builder
    def apt_install(
        self,
        *packages: str | list[str],
        force_build: bool = False,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | None = None,
    ) -> Image:
        """Install Debian packages."""
        return self._then("apt_install", packages=packages, force_build=force_build, env=env, secrets=secrets, gpu=gpu)

    @_Builder
    def cmd(self, cmd: list[str]) -> Image:
        """The default command."""
        return self._then("cmd", cmd=cmd)

    @staticmethod
    def debian_slim(python_version: str | None = None, force_build: bool = False) -> Image:
        """A plain Debian with Python; the local minor version by default."""
        return Image._base("debian_slim", python_version=python_version, force_build=force_build)

    @_Builder
    def dockerfile_commands(
        self,
        *dockerfile_commands: str | list[str],
        context_files: dict[str, str] = {},  # noqa: B006
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | None = None,
        context_dir: Path | str | None = None,
        force_build: bool = False,
        ignore: Sequence[str] | Callable[[Path], bool] = AUTO_DOCKERIGNORE,
        build_args: dict[str, str] = {},  # noqa: B006
    ) -> Image:
        """Lines of a Dockerfile."""
        return self._then(
            "dockerfile_commands",
            dockerfile_commands=dockerfile_commands,
            context_files=context_files,
            env=env,
            secrets=secrets,
            gpu=gpu,
            context_dir=context_dir,
            force_build=force_build,
            ignore=ignore,
            build_args=build_args,
        )

    @_Builder
    def entrypoint(self, entrypoint_commands: list[str]) -> Image:
        """The command around the runner."""
        return self._then("entrypoint", entrypoint_commands=entrypoint_commands)

    @_Builder
    def env(self, vars: dict[str, str]) -> Image:
        """Environment variables; honoured: containers get them."""
        return self._then("env", vars=vars)

    @staticmethod
    def from_aws_ecr(
        tag: str,
        secret: Secret | None = None,
        *,
        setup_dockerfile_commands: list[str] = [],  # noqa: B006
        force_build: bool = False,
        add_python: str | None = None,
        **kwargs: Any,
    ) -> Image:
        """An image of a private ECR repository."""
        return Image._base(
            "from_aws_ecr",
            tag=tag,
            secret=secret,
            setup_dockerfile_commands=setup_dockerfile_commands,
            force_build=force_build,
            add_python=add_python,
            kwargs=kwargs,
        )

    @staticmethod
    def from_dockerfile(
        path: str | Path,
        *,
        force_build: bool = False,
        context_dir: Path | str | None = None,
        ignore: Sequence[str] | Callable[[Path], bool] = AUTO_DOCKERIGNORE,
        build_args: dict[str, str] = {},  # noqa: B006
        registry_secret: Secret | None = None,
        secrets: Collection[Secret] | None = None,
        env: dict[str, str | None] | None = None,
        gpu: str | None = None,
        add_python: str | None = None,
    ) -> Image:
        """An image as a Dockerfile says."""
        return Image._base(
            "from_dockerfile",
            path=path,
            force_build=force_build,
            context_dir=context_dir,
            ignore=ignore,
            build_args=build_args,
            registry_secret=registry_secret,
            secrets=secrets,
            env=env,
            gpu=gpu,
            add_python=add_python,
        )

    @staticmethod
    def from_gcp_artifact_registry(
        tag: str,
        secret: Secret | None = None,
        *,
        setup_dockerfile_commands: list[str] = [],  # noqa: B006
        force_build: bool = False,
        add_python: str | None = None,
        **kwargs: Any,
    ) -> Image:
        """An image of a private Artifact Registry."""
        return Image._base(
            "from_gcp_artifact_registry",
            tag=tag,
            secret=secret,
            setup_dockerfile_commands=setup_dockerfile_commands,
            force_build=force_build,
            add_python=add_python,
            kwargs=kwargs,
        )

    @staticmethod
    def from_name(name: str, *, environment_name: str | None = None, client: Client | None = None) -> Image:
        """A published image."""
        check_name("Image", name.partition(":")[0])
        return Image._base("from_name", name=name, environment_name=environment_name)

    @staticmethod
    def from_registry(
        tag: str,
        secret: Secret | None = None,
        *,
        setup_dockerfile_commands: list[str] = [],  # noqa: B006
        force_build: bool = False,
        add_python: str | None = None,
        **kwargs: Any,
    ) -> Image:
        """An image of a registry."""
        return Image._base(
            "from_registry",
            tag=tag,
            secret=secret,
            setup_dockerfile_commands=setup_dockerfile_commands,
            force_build=force_build,
            add_python=add_python,
            kwargs=kwargs,
        )

    @staticmethod
    def from_scratch(force_build: bool = False) -> Image:
        """An empty image."""
        return Image._base("from_scratch", force_build=force_build)

    @staticmethod
    def micromamba(python_version: str | None = None, force_build: bool = False) -> Image:
        """A base with micromamba."""
        return Image._base("micromamba", python_version=python_version, force_build=force_build)

    @_Builder
    def micromamba_install(
        self,
        *packages: str | list[str],
        spec_file: str | None = None,
        channels: list[str] = [],  # noqa: B006
        force_build: bool = False,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | None = None,
    ) -> Image:
        """Install conda packages."""
        return self._then(
            "micromamba_install",
            packages=packages,
            spec_file=spec_file,
            channels=channels,
            force_build=force_build,
            env=env,
            secrets=secrets,
            gpu=gpu,
        )

    @_Builder
    def pip_install(
        self,
        *packages: str | list[str],
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        force_build: bool = False,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | None = None,
    ) -> Image:
        """Install Python packages with pip."""
        return self._then(
            "pip_install",
            packages=packages,
            find_links=find_links,
            index_url=index_url,
            extra_index_url=extra_index_url,
            pre=pre,
            extra_options=extra_options,
            force_build=force_build,
            env=env,
            secrets=secrets,
            gpu=gpu,
        )

    @_Builder
    def pip_install_from_pyproject(
        self,
        pyproject_toml: str,
        optional_dependencies: list[str] = [],  # noqa: B006
        *,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        force_build: bool = False,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | None = None,
    ) -> Image:
        """Install the dependencies of a pyproject.toml."""
        return self._then(
            "pip_install_from_pyproject",
            pyproject_toml=pyproject_toml,
            optional_dependencies=optional_dependencies,
            find_links=find_links,
            index_url=index_url,
            extra_index_url=extra_index_url,
            pre=pre,
            extra_options=extra_options,
            force_build=force_build,
            env=env,
            secrets=secrets,
            gpu=gpu,
        )

    @_Builder
    def pip_install_from_requirements(
        self,
        requirements_txt: str,
        find_links: str | None = None,
        *,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        force_build: bool = False,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | None = None,
    ) -> Image:
        """Install what a requirements file lists."""
        return self._then(
            "pip_install_from_requirements",
            requirements_txt=requirements_txt,
            find_links=find_links,
            index_url=index_url,
            extra_index_url=extra_index_url,
            pre=pre,
            extra_options=extra_options,
            force_build=force_build,
            env=env,
            secrets=secrets,
            gpu=gpu,
        )

    @_Builder
    def pip_install_private_repos(
        self,
        *repositories: str,
        git_user: str,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        gpu: str | None = None,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        force_build: bool = False,
    ) -> Image:
        """Install packages from private git repositories."""
        return self._then(
            "pip_install_private_repos",
            repositories=repositories,
            git_user=git_user,
            find_links=find_links,
            index_url=index_url,
            extra_index_url=extra_index_url,
            pre=pre,
            extra_options=extra_options,
            gpu=gpu,
            env=env,
            secrets=secrets,
            force_build=force_build,
        )

    @_Builder
    def poetry_install_from_file(
        self,
        poetry_pyproject_toml: str,
        poetry_lockfile: str | None = None,
        *,
        ignore_lockfile: bool = False,
        force_build: bool = False,
        with_: list[str] = [],  # noqa: B006
        without: list[str] = [],  # noqa: B006
        only: list[str] = [],  # noqa: B006
        poetry_version: str | None = "latest",
        old_installer: bool = False,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | None = None,
    ) -> Image:
        """Install what poetry's files say."""
        return self._then(
            "poetry_install_from_file",
            poetry_pyproject_toml=poetry_pyproject_toml,
            poetry_lockfile=poetry_lockfile,
            ignore_lockfile=ignore_lockfile,
            force_build=force_build,
            with_=with_,
            without=without,
            only=only,
            poetry_version=poetry_version,
            old_installer=old_installer,
            env=env,
            secrets=secrets,
            gpu=gpu,
        )

    @_Builder
    def run_commands(
        self,
        *commands: str | list[str],
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        volumes: dict[str | PurePosixPath, Volume] | None = None,
        gpu: str | None = None,
        force_build: bool = False,
    ) -> Image:
        """Run shell commands."""
        return self._then(
            "run_commands",
            commands=commands,
            env=env,
            secrets=secrets,
            volumes=volumes,
            gpu=gpu,
            force_build=force_build,
        )

    @_Builder
    def run_function(
        self,
        raw_f: Callable[..., Any],
        *,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        volumes: dict[str | PurePosixPath, Volume | CloudBucketMount] = {},  # noqa: B006
        network_file_systems: dict[str | PurePosixPath, NetworkFileSystem] = {},  # noqa: B006
        gpu: str | list[str] | None = None,
        cpu: float | None = None,
        memory: int | None = None,
        timeout: int = 3600,
        cloud: str | None = None,
        region: str | Sequence[str] | None = None,
        force_build: bool = False,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] = {},  # noqa: B006
        include_source: bool = True,
    ) -> Image:
        """Run a plain function while the image is built."""
        return self._then(
            "run_function",
            raw_f=raw_f,
            env=env,
            secrets=secrets,
            volumes=volumes,
            network_file_systems=network_file_systems,
            gpu=gpu,
            cpu=cpu,
            memory=memory,
            timeout=timeout,
            cloud=cloud,
            region=region,
            force_build=force_build,
            args=args,
            kwargs=kwargs,
            include_source=include_source,
        )

    @_Builder
    def shell(self, shell_commands: list[str]) -> Image:
        """The shell of later commands."""
        return self._then("shell", shell_commands=shell_commands)

    @_Builder
    def uv_pip_install(
        self,
        *packages: str | list[str],
        requirements: list[str] | None = None,
        find_links: str | None = None,
        index_url: str | None = None,
        extra_index_url: str | None = None,
        pre: bool = False,
        extra_options: str = "",
        force_build: bool = False,
        uv_version: str | None = None,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | None = None,
    ) -> Image:
        """Install Python packages with uv."""
        return self._then(
            "uv_pip_install",
            packages=packages,
            requirements=requirements,
            find_links=find_links,
            index_url=index_url,
            extra_index_url=extra_index_url,
            pre=pre,
            extra_options=extra_options,
            force_build=force_build,
            uv_version=uv_version,
            env=env,
            secrets=secrets,
            gpu=gpu,
        )

    @_Builder
    def uv_sync(
        self,
        uv_project_dir: str = "./",
        *,
        force_build: bool = False,
        groups: list[str] | None = None,
        extras: list[str] | None = None,
        frozen: bool = True,
        extra_options: str = "",
        uv_version: str | None = None,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | None = None,
    ) -> Image:
        """Install a uv project."""
        return self._then(
            "uv_sync",
            uv_project_dir=uv_project_dir,
            force_build=force_build,
            groups=groups,
            extras=extras,
            frozen=frozen,
            extra_options=extra_options,
            uv_version=uv_version,
            env=env,
            secrets=secrets,
            gpu=gpu,
        )

    @_Builder
    def workdir(self, path: str | PurePosixPath) -> Image:
        """The working directory."""
        return self._then("workdir", path=path)

    @LazyFromId
    def from_id(image_id: str, client: Client | None = None) -> Image:
        """An image by its id."""
        return Image._base("from_id", image_id=image_id)

    @_Builder
    def pipe(self, func: Callable[Concatenate[Image, P], Image], *args: P.args, **kwargs: P.kwargs) -> Image:
        """`func(image, ...)`, for chains."""
        return func(self, *args, **kwargs)

    @dual
    async def hydrate(self, client: Client | None = None) -> Image:
        """Refused, as in Modal: an image is used by running an App.

        Raises:
            ExecutionError: always.
        """
        raise ExecutionError("Images cannot be hydrated by hand; run an App whose functions use this one")

    @later(_later.IMAGE)
    def build(self, app: App | None = None) -> Image:  # type: ignore[empty-body]
        """Build now."""

    @later(_later.IMAGE)
    def publish(
        self,
        name: str,
        *,
        environment_name: str | None = None,
        experimental_options: dict[str, Any] | None = None,
        client: Client | None = None,
    ) -> None:
        """Give the built image a name."""

    @property
    def logs(self) -> ImageLogsManager:
        """What the build printed."""
        from raymodal._logs_manager import ImageLogsManager

        return ImageLogsManager(self)

    @contextlib.contextmanager
    def imports(self) -> Iterator[None]:
        """Imports of packages that only this image's containers have.

        Elsewhere every exception inside the block is swallowed (with a warning if it is no ImportError). In a container
        of this image it is raised.
        """
        try:
            yield
        except Exception as error:
            container = here()
            if container is not None and getattr(container, "image_key", None) == self._spec.key:
                raise
            if not isinstance(error, ImportError):
                warnings.warn(f"An import in `image.imports()` failed: {error!r}", UserWarning, stacklevel=3)


def _recorded(args: dict[str, Any]) -> dict[str, Any]:
    """Only what was given: a step's record should not grow with every option that Modal adds."""
    return {name: _plain(value) for name, value in args.items() if value not in (None, False, "", (), [], {})}
