"""`App`: collects what decorators declare, and runs it.

A run makes an `AppPlan` of everything that was declared, hands it to the engine, and makes the handles live for as long
as the block lasts.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import os
import sys
import sysconfig
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, Self, TypeVar, overload

from raymodal import _later
from raymodal._declare import Concurrency, Origin, make_spec, parse_schedule, parse_volumes, spec_fields, take_old_names
from raymodal._dual import _check_blocking, dual, dual_function, is_notebook, run_blocking, run_here
from raymodal._later import later
from raymodal._names import check_deployment_tag, check_name, check_tags
from raymodal._old import OldProperty
from raymodal._warn import WARNINGS, deprecated, warn_once
from raymodal.container.context import here
from raymodal.exception import InvalidError
from raymodal.functions import Function, _Part, register_running, unregister_running
from raymodal.object import new_id
from raymodal.partial_function import PartialFunction, PartialFunctionFlags, refuse_missing_max_inputs
from raymodal.plan.app import AppPlan, plan_app
from raymodal.spec.app import AppSpec
from raymodal.spec.function import FunctionSpec

if TYPE_CHECKING:
    from raymodal._logs_manager import AppLogsManager
    from raymodal.client import Client
    from raymodal.cloud_bucket_mount import CloudBucketMount
    from raymodal.cls import Cls
    from raymodal.image import Image
    from raymodal.network_file_system import NetworkFileSystem
    from raymodal.proxy import Proxy
    from raymodal.retries import Retries
    from raymodal.schedule import Schedule
    from raymodal.secret import Secret
    from raymodal.server import Server
    from raymodal.types import AppInfo, AppStats, SandboxGroupStats
    from raymodal.volume import Volume

P = ParamSpec("P")
R = TypeVar("R")
Raw = TypeVar("Raw")
CLS_T = TypeVar("CLS_T", bound=type)

logger = logging.getLogger("raymodal")

MAX_BLOB = 16 * 2**20
LARGE_BLOB = 256 * 2**10

_no_runs: ContextVar[str | None] = ContextVar("raymodal_no_runs", default=None)


@contextlib.contextmanager
def forbid_runs(reason: str) -> Iterator[None]:
    """Within the block `app.run()` and `app.deploy()` are errors: the CLI and containers import user code under it."""
    token = _no_runs.set(reason)
    try:
        yield
    finally:
        _no_runs.reset(token)


def check_sequence(items: Sequence[Any], item_type: type[Any], error_msg: str) -> None:
    """Refuse anything but a list or tuple of `item_type`.

    Raises:
        InvalidError: with `error_msg`.
    """
    if not isinstance(items, (list, tuple)) or not all(isinstance(item, item_type) for item in items):
        raise InvalidError(error_msg)


class LocalEntrypoint:
    """A function that `raymodal run` calls in the caller's process. Calling it calls the function."""

    def __init__(self, info: FunctionSourceInfo, app: App) -> None:
        self._info = info
        self._app = app

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._info.raw_f(*args, **kwargs)

    @property
    def info(self) -> FunctionSourceInfo:
        """The function and where it stands."""
        return self._info

    @property
    def app(self) -> App:
        """The App it was declared on."""
        return self._app

    def __reduce__(self) -> tuple[Any, ...]:
        raise InvalidError("A local entrypoint cannot be sent to a container; call a Function instead")


class FunctionSourceInfo:
    """A user's function and the name it goes by."""

    def __init__(self, raw_f: Callable[..., Any], name: str) -> None:
        self.raw_f = raw_f
        self.function_name = name
        self.module_name: str | None = raw_f.__module__


class FunctionDecoratorType(Protocol):
    """What `@app.function(...)` does to a function: the result of `await`ing an async one is what `.remote` returns."""

    @overload
    def __call__(self, func: PartialFunction[P, R, Raw], /) -> Function[P, R, Raw]: ...
    @overload
    def __call__(self, func: Callable[P, Coroutine[Any, Any, R]], /) -> Function[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, func: Callable[P, R], /) -> Function[P, R, R]: ...


class AppSandboxesManager:
    """`app.sandboxes`: sandboxes come with a later milestone."""

    def __init__(self, app: App) -> None:
        self._app = app

    @later(_later.SANDBOX)
    def stats(  # type: ignore[empty-body]
        self,
        *,
        since: datetime,
        until: datetime | None = None,
        group_by_tags: Sequence[str] | None = None,
        tags: dict[str, str] | None = None,
    ) -> Iterator[SandboxGroupStats]:
        """Figures of the app's sandboxes."""


def _grace(kind: type[BaseException] | None) -> float:
    """What spawned calls get at the end of a run: a moment if all went well, nothing after an error or Ctrl-C."""
    from raymodal.config import settings

    return settings().stop_grace_s if kind is None else 0.0


class AppRun:
    """What `app.run()` returns: the app runs for as long as the block lasts. For `with` and for `async with`."""

    def __init__(self, app: App, name: str | None, detach: bool) -> None:
        self._app = app
        self._name = name
        self._detach = detach
        self._running: Any = None
        self._control: Any = None

    def __enter__(self) -> App:
        from raymodal.engine.current import get_engine

        loop = asyncio._get_running_loop()
        if loop is not None:
            _check_blocking(loop, "App.run", "async with")
        plan = self._app._begin(self._name, detach=self._detach)
        try:
            # Not on the I/O loop: what starts a cluster may tie its life to the thread that starts it.
            engine = get_engine()
            self._running = run_blocking(engine.start_app(plan))
        except BaseException:
            self._app._end()
            raise
        self._app._go_live(plan, self._running)
        self._listen(plan)
        return self._app

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._control.close()
        try:
            run_blocking(self._running.stop(_grace(kind)))
        finally:
            self._ended(error)
        return self._swallows(kind)

    async def __aenter__(self) -> App:
        from raymodal.engine.current import get_engine

        plan = self._app._begin(self._name, detach=self._detach)
        try:
            engine = get_engine()
            self._running = await run_here(engine.start_app(plan))
        except BaseException:
            self._app._end()
            raise
        self._app._go_live(plan, self._running)
        self._listen(plan)
        return self._app

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._control.close()
        try:
            await run_here(self._running.stop(_grace(kind)))
        finally:
            self._ended(error)
        return self._swallows(kind)

    def _listen(self, plan: AppPlan) -> None:
        """Let other terminals ask about this run."""
        from raymodal.config import settings
        from raymodal.engine.control import Control

        self._control = Control(self._running, plan.name or plan.description, settings().home)
        self._control.begin()

    def _ended(self, error: BaseException | None) -> None:
        from raymodal import output

        self._app._end()
        manager = output.current()
        if manager is not None:
            is_exit = isinstance(error, SystemExit) and not error.code
            manager.event(output.RunEnded(is_early=error is not None and not is_exit))

    def _swallows(self, kind: type[BaseException] | None) -> bool:
        # As in Modal: Ctrl-C in the body ends the app and the block in good order.
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            from raymodal import output

            if output.current() is None:  # else it has been said
                print(f"App {self._app.description!r} was interrupted and has been stopped.", file=sys.stderr)
            return True
        return False


class _Run:
    """`app.run`"""

    _name = "run"

    def __init__(self, app: App) -> None:
        self._app = app

    def __call__(
        self,
        *,
        name: str | None = None,
        client: Client | None = None,
        detach: bool = False,
        interactive: bool = False,
        environment_name: str | None = None,
    ) -> AppRun:
        """Run the app for the length of a `with` or `async with` block, which gets the app.

        Args:
            name: shown for this run instead of the app's own name.
            detach: keep running when the caller goes away. Comes with deployed apps.
            interactive: allow `modal.interact()`. Comes with a later milestone.

        Raises:
            InvalidError: it runs already, or this code is being imported by the CLI or a container.
        """
        from raymodal import output

        if interactive:
            if output.current() is None:
                raise InvalidError("app.run(interactive=True) needs `modal.enable_output()` around it")
            _later.refuse("app.run(interactive=True)", _later.INTERACTIVE)
        if detach:
            _later.refuse("app.run(detach=True)", _later.DEPLOYED)
        return AppRun(self._app, name, detach)

    aio = __call__


class App:
    """Functions and classes that run together.

    Example:
        >>> app = App("example")
        >>> @app.function(serialized=True)
        ... def double(x: int) -> int:
        ...     return 2 * x
        >>> double.local(2)
        4
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        tags: dict[str, str] | None = None,
        image: Image | None = None,
        secrets: Sequence[Secret] = [],
        volumes: dict[str | PurePosixPath, Volume] = {},  # noqa: B006
        include_source: bool = True,
    ) -> None:
        """Start an app; decorators add to it.

        Args:
            name: needed only to deploy.
            tags: words to find it by.
            image: for functions that name none.
            secrets: come before each function's own.
            volumes: each function's own win on the same path.
            include_source: whether functions' source travels to containers.

        Raises:
            InvalidError: an argument is of the wrong type.
        """
        from raymodal.image import Image
        from raymodal.secret import Secret

        if name is not None and not isinstance(name, str):
            raise InvalidError(f"The name of an App must be a string, not {name!r}")
        if image is not None and not isinstance(image, Image):
            raise InvalidError(f"image= of an App must be a modal.Image, not {type(image).__name__}")
        check_sequence(secrets, Secret, "secrets= of an App must be a list or tuple of modal.Secret")
        parse_volumes(volumes)
        if tags is not None:
            check_tags(tags)
        self._name = name
        self._description = name
        self._tags = dict(tags or {})
        self._image = image
        self._secrets = list(secrets)
        self._volumes = dict(volumes or {})
        self._include_source = bool(include_source)
        self._functions: dict[str, Function[Any, Any, Any]] = {}
        self._classes: dict[str, Cls] = {}
        self._servers: dict[str, Server] = {}
        self._local_entrypoints: dict[str, LocalEntrypoint] = {}
        self._web_endpoints: list[str] = []
        self._app_id: str | None = None
        self._running: Any = None
        self._starting = False
        self._live_ids: list[tuple[Function[Any, Any, Any], str]] = []

    # -- what it is

    @property
    def name(self) -> str | None:
        """The name it was given."""
        return self._name

    @property
    def app_id(self) -> str | None:
        """`ap-...`: None before the first run, and kept after a run has ended."""
        context = here()
        if context is not None and context.tag in self._handles():
            return context.app_id
        return self._app_id

    @property
    def description(self) -> str | None:
        """How a run is called in listings."""
        return self._description

    @description.setter
    def description(self, value: str) -> None:
        self._description = value

    @property
    def logs(self) -> AppLogsManager:
        """Kept output of the app.

        Raises:
            InvalidError: the app has no id yet.
        """
        from raymodal._logs_manager import AppLogsManager

        self._needs_id("logs")
        return AppLogsManager(self)

    @property
    def sandboxes(self) -> AppSandboxesManager:
        """The app's sandboxes."""
        return AppSandboxesManager(self)

    def __repr__(self) -> str:
        return f"App({self._name!r})" if self._name else "App()"

    def __reduce__(self) -> tuple[Any, ...]:
        raise InvalidError(
            f"{self!r} cannot be sent to a container. Containers import the module and find it there; "
            "send a Function, or the app's name, instead."
        )

    def _handles(self) -> dict[str, Function[Any, Any, Any]]:
        """Everything that has containers, by the tag that the engine knows it under."""
        return {**self._functions, **{cls._service.tag: cls._service for cls in self._classes.values()}}

    def _needs_id(self, method: str) -> str:
        app_id = self.app_id
        if app_id is None:
            raise InvalidError(f"App.{method} needs an app that runs or has run; {self!r} has no id yet")
        return app_id

    # -- decorators

    def _take(self, function: Function[Any, Any, Any]) -> None:
        """Register it under its tag; of two with the same tag the later one counts."""
        tag = function.tag
        before = self._functions.get(tag)
        if before is not None and before is not function and before._raw_f is not function._raw_f and not is_notebook():
            logger.warning(
                "Two functions of %r are called %r: %s replaces %s.",
                self,
                tag,
                _place(function.spec),
                _place(before.spec),
            )
        if tag in self._classes:
            logger.warning("A function and a class of %r are both called %r.", self, tag)
        self._functions[tag] = function

    def function(
        self,
        *,
        image: Image | None = None,
        schedule: Schedule | None = None,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | list[str] | None = None,
        serialized: bool = False,
        network_file_systems: dict[str | PurePosixPath, NetworkFileSystem] = {},  # noqa: B006
        volumes: dict[str | PurePosixPath, Volume | CloudBucketMount] = {},  # noqa: B006
        cpu: float | tuple[float, float] | None = None,
        memory: int | tuple[int, int] | None = None,
        ephemeral_disk: int | None = None,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: int | None = None,
        proxy: Proxy | None = None,
        retries: int | Retries | None = None,
        timeout: int = 300,
        startup_timeout: int | None = None,
        name: str | None = None,
        is_generator: bool | None = None,
        cloud: str | None = None,
        region: str | Sequence[str] | None = None,
        routing_region: str | None = None,
        nonpreemptible: bool = False,
        enable_memory_snapshot: bool = False,
        block_network: bool = False,
        restrict_modal_access: bool = False,
        single_use_containers: bool = False,
        i6pn: bool | None = None,
        include_source: bool | None = None,
        experimental_options: dict[str, Any] | None = None,
        _experimental_restrict_output: bool = False,
        max_inputs: int | None = None,
        **old: Any,
    ) -> FunctionDecoratorType:
        """Make a function of this app.

        Args:
            image: what the container's file system should hold.
            schedule: when a deployed function runs by itself.
            env: environment variables; they win over secrets.
            secrets: environment variables from elsewhere; later ones win.
            gpu: such as `"A100"` or `"H100:8"`, or a list in order of preference.
            serialized: pickle the function instead of importing it in the container.
            network_file_systems: deprecated storage.
            volumes: path -> Volume or CloudBucketMount.
            cpu: cores, or (request, limit).
            memory: MiB, or (request, limit).
            ephemeral_disk: MiB.
            min_containers: containers kept even without work.
            max_containers: most containers; None and 0 for no limit.
            buffer_containers: spare containers while there is work.
            scaledown_window: seconds that a container may idle, 2 to 3600.
            proxy: fixed outbound address.
            retries: how often a failed input runs again; an int or `Retries`.
            timeout: seconds for one attempt of one input.
            startup_timeout: seconds for imports and enter hooks; `timeout` by default.
            name: the tag, instead of the function's own name.
            is_generator: needed only where a plain function returns a generator.
            cloud: placement.
            region: placement.
            routing_region: placement.
            nonpreemptible: placement.
            enable_memory_snapshot: start from a snapshot.
            block_network: no network in the container.
            restrict_modal_access: no calls of other functions from the container.
            single_use_containers: a fresh container for every input.
            i6pn: private IPv6.
            include_source: whether the source travels; the app's setting by default.
            experimental_options: Modal's experiments.
            max_inputs: older spelling of `single_use_containers`.
            **old: names of older releases, accepted with a warning unless `RAYMODAL_STRICT=1`.

        Raises:
            InvalidError: a parameter is wrong.
            TypeError: an unknown parameter.
        """
        params = dict(locals())
        del params["self"], params["old"]
        concurrency = take_old_names("App.function", old, params)

        def wrap(func: Any) -> Function[Any, Any, Any]:
            return self._declare_function(func, params, concurrency)

        return wrap

    def _declare_function(self, func: Any, params: dict[str, Any], concurrency: Concurrency) -> Function[Any, Any, Any]:
        partial: PartialFunction[Any, Any, Any] | None = None
        raw_f = func
        if isinstance(func, PartialFunction):
            partial, raw_f = func, func.raw_f
            partial.registered = True
        if isinstance(raw_f, type) or raw_f is None:
            raise TypeError("@app.function stands on a class; use @app.cls")
        origin = Origin(raw_f, serialized=params["serialized"], decorator="@app.function")
        tag = params["name"] or origin.qualname
        is_async = inspect.iscoroutinefunction(raw_f) or inspect.isasyncgenfunction(raw_f)
        is_generator = inspect.isgeneratorfunction(raw_f) or inspect.isasyncgenfunction(raw_f)
        extra = _concurrency_fields(concurrency)
        if partial is not None:
            is_generator = bool(partial.params.is_generator) or is_generator
            extra |= _partial_fields(partial, params)
            if partial.flags & PartialFunctionFlags.SESSIONED:
                raise InvalidError("@modal.sessioned() belongs on an @app.server class, not on a function")
            if partial.params.web is not None and is_generator:
                raise InvalidError(
                    f"The web function {tag!r} is a generator; return a StreamingResponse over a generator instead"
                )
            if partial.params.batch is not None:
                _check_batched(raw_f, tag, is_generator)
        elif params["is_generator"] is not None:
            is_generator = bool(params["is_generator"])
        fields = spec_fields(
            tag,
            params,
            image=params["image"] if params["image"] is not None else self._image,
            app_secrets=self._secrets,
            app_volumes=self._volumes,
            app_include_source=self._include_source,
        )
        if fields["retries"] is not None:
            if is_generator:
                raise InvalidError(f"The generator {tag!r} cannot have retries=: part of its values would come twice")
            if extra.get("webhook") is not None:
                raise InvalidError(f"The web function {tag!r} cannot have retries=")
        spec = make_spec(
            {
                **fields,
                **origin.fields(),
                **extra,
                "tag": str(tag),
                "is_async": is_async,
                "is_generator": is_generator,
                "schedule": parse_schedule(params["schedule"], raw_f),
            }
        )
        function: Function[Any, Any, Any] = Function._declared(spec, self, raw_f)
        self._take(function)
        if spec.webhook is not None:
            self._web_endpoints.append(spec.tag)
        return function

    def cls(
        self,
        *,
        image: Image | None = None,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | list[str] | None = None,
        serialized: bool = False,
        network_file_systems: dict[str | PurePosixPath, NetworkFileSystem] = {},  # noqa: B006
        volumes: dict[str | PurePosixPath, Volume | CloudBucketMount] = {},  # noqa: B006
        cpu: float | tuple[float, float] | None = None,
        memory: int | tuple[int, int] | None = None,
        ephemeral_disk: int | None = None,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: int | None = None,
        proxy: Proxy | None = None,
        retries: int | Retries | None = None,
        timeout: int = 300,
        startup_timeout: int | None = None,
        cloud: str | None = None,
        region: str | Sequence[str] | None = None,
        routing_region: str | None = None,
        nonpreemptible: bool = False,
        enable_memory_snapshot: bool = False,
        block_network: bool = False,
        restrict_modal_access: bool = False,
        single_use_containers: bool = False,
        i6pn: bool | None = None,
        include_source: bool | None = None,
        experimental_options: dict[str, Any] | None = None,
        _experimental_restrict_output: bool = False,
        max_inputs: int | None = None,
        **old: Any,
    ) -> Callable[[CLS_T | PartialFunction[..., Any, Any]], CLS_T]:
        """Make a class of this app; its containers hold one object each. The parameters are those of `function`.

        Raises:
            InvalidError: a parameter or the class is wrong.
            TypeError: not a class, or an unknown parameter.
        """
        params = dict(locals())
        del params["self"], params["old"]
        concurrency = take_old_names("App.cls", old, params)

        def wrap(user_cls: Any) -> Any:
            from raymodal.cls import declare_cls

            return declare_cls(self, user_cls, params, concurrency)

        return wrap

    def _take_cls(self, cls: Cls) -> None:
        tag = cls._spec.tag
        if tag in self._classes and self._classes[tag]._user_cls is not cls._user_cls and not is_notebook():
            logger.warning("Two classes of %r are called %r: the later one counts.", self, tag)
        if tag in self._functions:
            logger.warning("A function and a class of %r are both called %r.", self, tag)
        self._classes[tag] = cls
        self._web_endpoints.extend(f"{tag}.{m.name}" for m in cls._spec.methods if m.webhook is not None)

    def server(
        self,
        *,
        image: Image | None = None,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        gpu: str | list[str] | None = None,
        serialized: bool = False,
        volumes: dict[str | PurePosixPath, Volume | CloudBucketMount] = {},  # noqa: B006
        cpu: float | tuple[float, float] | None = None,
        memory: int | tuple[int, int] | None = None,
        ephemeral_disk: int | None = None,
        target_concurrency: float | None = None,
        max_concurrency: int | None = None,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaleup_window: int | None = None,
        scaledown_window: int | None = None,
        startup_timeout: int = 30,
        name: str | None = None,
        port: int = 8000,
        unauthenticated: bool = False,
        h2_enabled: bool = False,
        exit_grace_period: int = 0,
        routing_region: str = "us-east",
        compute_region: str | Sequence[str] | None = None,
        cloud: str | None = None,
        nonpreemptible: bool = False,
        proxy: Proxy | None = None,
        i6pn: bool | None = None,
        enable_memory_snapshot: bool = False,
        include_source: bool | None = None,
        experimental_options: dict[str, Any] | None = None,
    ) -> Callable[[type[Any] | PartialFunction[..., Any, Any]], Server]:
        """Make an HTTP service of a class whose enter hook starts a server. Recorded; served in a later milestone.

        Raises:
            InvalidError: a parameter or the class is wrong.
            TypeError: not a class.
        """
        params = dict(locals())
        del params["self"]
        from raymodal.server import check_server_params, declare_server

        check_server_params(params)
        return lambda user_cls: declare_server(self, user_cls, params)

    def local_entrypoint(self, *, name: str | None = None) -> Callable[[Callable[..., Any]], LocalEntrypoint]:
        """Mark the function that `raymodal run` calls, in the caller's process.

        Args:
            name: how the CLI knows it; the function's own by default.

        Raises:
            InvalidError: the name is taken, or no string.
        """
        if name is not None and not isinstance(name, str):
            raise InvalidError(f"name={name!r} of a local entrypoint must be a string")

        def wrap(raw_f: Callable[..., Any]) -> LocalEntrypoint:
            tag = name if name is not None else raw_f.__qualname__
            if tag in self._local_entrypoints:
                raise InvalidError(f"{self!r} already has a local entrypoint called {tag!r}; give one of them name=")
            entrypoint = LocalEntrypoint(FunctionSourceInfo(raw_f, tag), self)
            self._local_entrypoints[tag] = entrypoint
            return entrypoint

        return wrap

    def include(self, /, other_app: App, inherit_tags: bool = True) -> Self:
        """Take over the functions and classes of another app; returns this one.

        Args:
            other_app: stays as it is; its functions belong to both.
            inherit_tags: take its tags too; this app's own win.
        """
        for function in list(other_app._functions.values()):
            self._take(function)
        for cls in list(other_app._classes.values()):
            self._take_cls(cls)
        if inherit_tags:
            self._tags = {**other_app._tags, **self._tags}
        return self

    # -- running

    run = _Part(_Run)

    def _begin(self, name: str | None, *, detach: bool) -> AppPlan:
        """Check that the app may run, give ids to everything, and make the plan.

        Raises:
            InvalidError: it runs already, or is being imported.
        """
        self._check_may_run("run")
        if self._running is not None or self._starting:
            raise InvalidError(f"{self!r} is already running and cannot be started again before its block has ended")
        self._starting = True
        try:
            self._app_id = app_id = new_id("ap")
            if name is not None or self._description is None:
                self._description = name or _default_description()
            # Ids first: functions that travel by value may hold handles of each other.
            handles = self._handles()
            ids = {tag: new_id("fu") for tag in handles}
            for tag, function in handles.items():
                function._hydrate_in(ids[tag], app_id)
                self._live_ids.append((function, ids[tag]))
            return self._plan(app_id, ids)
        except BaseException:
            self._end()
            raise

    def _check_may_run(self, method: str) -> None:
        reason = "a container imports this module" if here() is not None else _no_runs.get()
        if reason is not None:
            raise InvalidError(
                f"app.{method}() was called while {reason}, and would start itself again and again. "
                'Put it under `if __name__ == "__main__":`.'
            )

    def _spec(self) -> AppSpec:
        return AppSpec(
            name=self._name,
            tags=self._tags,
            functions={tag: function.spec for tag, function in self._functions.items()},
            classes={tag: cls._spec for tag, cls in self._classes.items()},
        )

    def _plan(self, app_id: str, ids: Mapping[str, str]) -> AppPlan:
        from raymodal.secret import resolver
        from raymodal.volume import with_folders

        spec = with_folders(self._spec())
        services = [*spec.functions.values(), *(cls.service for cls in spec.classes.values())]
        handles = self._handles()
        plan = plan_app(
            spec,
            app_id=app_id,
            description=self._description or "",
            object_ids=ids,
            blobs={tag: _pickled(f) for tag, f in handles.items() if f.spec.by_value},
            find_secret=resolver(secret for one in services for secret in one.secrets),
            **_source(handles.values()),
        )
        self._warn_of_what_is_missing(spec)
        return plan

    def _warn_of_what_is_missing(self, spec: AppSpec) -> None:
        methods = [
            cls.service.model_copy(update={"tag": f"{cls.tag}.{m.name}", "webhook": m.webhook})
            for cls in spec.classes.values()
            for m in cls.methods
            if m.webhook is not None
        ]
        services = [cls.service for cls in spec.classes.values()]
        warn_of_what_is_missing([*spec.functions.values(), *services, *methods], self._servers, stacklevel=6)

    def _go_live(self, plan: AppPlan, running: Any) -> None:
        self._running = running
        self._starting = False
        register_running(plan.app_id, running.client)
        for function, object_id in self._live_ids:
            function._connect(object_id, running.pool(function.tag))

    def _end(self) -> None:
        """The handles are not live any more; `app_id` stays."""
        for function, object_id in self._live_ids:
            function._unhydrate(object_id)
        self._live_ids = []
        if self._app_id is not None:
            unregister_running(self._app_id)
        self._running = None
        self._starting = False

    @dual
    async def stop(self, *, client: Client | None = None) -> None:
        """Stop the running app; calls that are on their way fail."""
        self._needs_id("stop")
        if self._running is None:
            return
        await self._running.stop()

    # -- deployed apps, later

    @dual
    async def deploy(
        self,
        *,
        name: str | None = None,
        environment_name: str | None = None,
        tag: str = "",
        client: Client | None = None,
        strategy: str = "rolling",
    ) -> Self:
        """Keep the app running under its name. Comes with a later milestone.

        Raises:
            InvalidError: no name, a bad name, tag or strategy.
            UnimplementedError: always, after these checks.
        """
        self._check_may_run("deploy")
        deployed_name = name or self._name
        if not deployed_name:
            raise InvalidError('app.deploy() needs a name: modal.App("some-name") or app.deploy(name="some-name")')
        check_name("App", deployed_name)
        check_deployment_tag(tag)
        if strategy not in ("rolling", "recreate"):
            raise InvalidError(f"strategy={strategy!r} must be 'rolling' or 'recreate'")
        _later.refuse("App.deploy", _later.DEPLOYED)

    @staticmethod
    async def _lookup(
        name: str,
        *,
        client: Client | None = None,
        environment_name: str | None = None,
        create_if_missing: bool = False,
    ) -> App:
        """A deployed app by its name. Comes with a later milestone.

        Raises:
            InvalidError: a bad name.
            UnimplementedError: always, after this check.
        """
        if not name.startswith("ap-"):
            check_name("App", name)
        elif create_if_missing:
            raise InvalidError(f"{name!r} is an id; create_if_missing= needs a name")
        _later.refuse("App.lookup", _later.DEPLOYED)

    lookup = dual_function(_lookup)

    @dual
    async def set_tags(self, tags: Mapping[str, str], *, client: Client | None = None) -> None:
        """Replace all tags of the running app.

        Raises:
            InvalidError: a bad tag, or the app has no id yet.
        """
        self._needs_id("set_tags")
        check_tags(tags)
        self._tags = dict(tags)

    @dual
    async def get_tags(self, *, client: Client | None = None) -> dict[str, str]:
        """The tags of the running app.

        Raises:
            InvalidError: the app has no id yet.
        """
        self._needs_id("get_tags")
        return dict(self._tags)

    @dual
    async def get_dashboard_url(self) -> str:
        """A stable URL-shaped name of the app; there is no dashboard behind it."""
        return f"raymodal://id/{self._needs_id('get_dashboard_url')}"

    @dual
    async def info(self, refresh: bool = False) -> AppInfo:
        """Facts about the app. Comes with a later milestone."""
        self._needs_id("info")
        _later.refuse("App.info", _later.STATS)

    @dual
    async def stats(self, *, since: datetime | None = None, until: datetime | None = None) -> AppStats:
        """Figures of the app. Comes with a later milestone."""
        self._needs_id("stats")
        _later.refuse("App.stats", _later.STATS)

    # -- old names

    image = OldProperty(lambda app: app._image, "gone: keep the Image in a variable of its own")

    @property
    def registered_functions(self) -> dict[str, Function[Any, Any, Any]]:
        """Deprecated, as in Modal."""
        deprecated("App.registered_functions is going away; keep your own references to functions.")
        return self._handles()

    @property
    def registered_classes(self) -> dict[str, Cls]:
        """Deprecated, as in Modal."""
        deprecated("App.registered_classes is going away; keep your own references to classes.")
        return dict(self._classes)

    @property
    def registered_entrypoints(self) -> dict[str, LocalEntrypoint]:
        """Deprecated, as in Modal."""
        deprecated("App.registered_entrypoints is going away; keep your own references to entrypoints.")
        return dict(self._local_entrypoints)

    @property
    def registered_web_endpoints(self) -> list[str]:
        """Deprecated, as in Modal."""
        deprecated("App.registered_web_endpoints is going away; keep your own references to functions.")
        return list(self._web_endpoints)


def _hide_old_names(method: Callable[..., Any]) -> None:
    """Show Modal's signature: the `**old` at its end exists to name today's spelling, not to be used."""
    signature = inspect.signature(method)
    shown = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    method.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]


_hide_old_names(App.function)
_hide_old_names(App.cls)


# ------------------------------------------------------------------------------------------------------------- details

_SPELLING = {
    "cloud_bucket_mount": "CloudBucketMount",
    "image.steps": "Image build steps",
    "image.python_version": "Image python_version=",
    "web": "Web decorators",
    "clustered": "@modal.clustered",
    "server": "@app.server",
}


def warn_of_what_is_missing(specs: Collection[FunctionSpec], servers: Collection[str] = (), *, stacklevel: int) -> None:
    """Warn once per name of what these functions ask for in vain."""
    found: dict[str, list[str]] = {}
    for function in specs:
        for key in not_carried_out(function):
            found.setdefault(key, []).append(function.tag)
    for tag in servers:
        found.setdefault("server", []).append(tag)
    for key, tags in found.items():
        users = ", ".join(repr(tag) for tag in tags[:3]) + (f" and {len(tags) - 3} more" if len(tags) > 3 else "")
        warn_once(key, f"{_SPELLING.get(key, key)} (used by {users}): {WARNINGS[key]}", stacklevel=stacklevel)


def not_carried_out(spec: FunctionSpec) -> Iterator[str]:
    """Keys of `WARNINGS` for what this function asks for in vain."""
    for key, asked in (
        ("cloud_bucket_mount", spec.buckets),
        ("network_file_systems", spec.network_file_systems),
        ("proxy", spec.proxy),
        ("region", spec.region),
        ("routing_region", spec.routing_region),
        ("cloud", spec.cloud),
        ("nonpreemptible", spec.nonpreemptible),
        ("ephemeral_disk", spec.ephemeral_disk_mib),
        ("block_network", spec.block_network),
        ("restrict_modal_access", spec.restrict_modal_access),
        ("i6pn", spec.i6pn),
        ("experimental_options", spec.experimental_options.keys() - {"autoscaler"}),
        ("_experimental_restrict_output", spec.restrict_output),
        ("web", spec.webhook),
        ("clustered", spec.cluster),
    ):
        if asked:
            yield key
    if spec.image is not None:
        if next(spec.image.build_steps(), None) is not None:
            yield "image.steps"
        version = spec.image.python_version
        if version is not None and tuple(version.split(".")[:2]) != tuple(map(str, sys.version_info[:2])):
            yield "image.python_version"


def _partial_fields(partial: PartialFunction[Any, Any, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of a spec from the decorators beneath."""
    given = partial.params
    found: dict[str, Any] = {}
    if given.concurrency is not None:
        max_inputs, target_inputs = given.concurrency
        if max_inputs is None:
            refuse_missing_max_inputs()
        found |= {"max_concurrent_inputs": max_inputs, "target_concurrent_inputs": target_inputs}
    if given.batch is not None:
        found["batching"] = given.batch
    if given.web is not None:
        found["webhook"] = given.web
    if given.cluster is not None:
        if given.batch is not None:
            raise InvalidError("A clustered function cannot be batched")
        for name in ("min_containers", "max_containers", "buffer_containers"):
            value = params.get(name)
            if value and value % given.cluster.size:
                raise InvalidError(f"{name}={value} must be a multiple of the cluster's size, {given.cluster.size}")
        found["cluster"] = given.cluster
    return found


def _concurrency_fields(concurrency: Concurrency) -> dict[str, Any]:
    if concurrency.max_inputs is None:
        return {}
    return {
        "max_concurrent_inputs": concurrency.max_inputs,
        "target_concurrent_inputs": concurrency.target_inputs,
    }


def _check_batched(raw_f: Callable[..., Any], tag: str, is_generator: bool) -> None:
    if is_generator:
        raise InvalidError(f"The batched function {tag!r} cannot be a generator: it returns one list")
    for parameter in inspect.signature(raw_f).parameters.values():
        if parameter.default is not parameter.empty:
            raise InvalidError(
                f"The parameter {parameter.name!r} of the batched function {tag!r} has a default, which a list of calls cannot use"
            )


def _place(spec: FunctionSpec) -> str:
    return f"{spec.module or '<by value>'}.{spec.qualname}"


def _default_description() -> str:
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return os.path.basename(file) if file else "__main__"


def _pickled(function: Function[Any, Any, Any]) -> bytes:
    """The function by value.

    Raises:
        InvalidError: larger than 16 MiB.
    """
    import cloudpickle

    blob: bytes = cloudpickle.dumps(function._raw_f, protocol=4)
    if len(blob) > MAX_BLOB:
        raise InvalidError(
            f"Function {function.tag!r} is {len(blob) / 2**20:.0f} MiB when pickled, and {MAX_BLOB // 2**20} MiB is the most. "
            "Pass large objects as arguments instead of referring to them."
        )
    if len(blob) > LARGE_BLOB:
        import warnings

        warnings.warn(
            f"Function {function.tag!r} is {len(blob) // 1024} KiB when pickled: it refers to large objects, which travel to "
            "every container. Pass them as arguments.",
            UserWarning,
            stacklevel=6,
        )
    return blob


def _source(functions: Collection[Function[Any, Any, Any]]) -> dict[str, Any]:
    """Where the program's source is, as `plan_app` takes it."""
    main = sys.modules.get("__main__")
    main_file = getattr(main, "__file__", None)
    main_path = None if main_file is None else str(Path(main_file).resolve())
    root: str | None = None
    main_module: str | None = None
    for function in functions:
        spec = function.spec
        if spec.file is None or spec.module is None:
            continue
        if spec.file == main_path and main is not None:
            main_module = spec.module
            # Containers import the script under this name. What they send back of its classes must be the classes that are here.
            sys.modules.setdefault(import_name(main_module), main)
        if root is None:
            root = _root_of(spec.file, spec.module)
    return {
        "source_root": root or os.getcwd(),
        "sys_path": _own_sys_path(),
        "main_module": main_module,
    }


def import_name(stem: str) -> str:
    """What a script is imported as in containers: its stem, unless that is the standard library's."""
    return stem if stem not in sys.stdlib_module_names else f"_raymodal_main_{stem}"


def _root_of(file: str, module: str) -> str:
    """The folder that has to be on `sys.path` for `module` to be imported from `file`."""
    path = Path(file)
    depth = module.count(".") + (1 if path.name == "__init__.py" else 0)
    return str(path.parents[depth]) if depth < len(path.parents) else str(path.parent)


def _own_sys_path() -> tuple[str, ...]:
    installed = [sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    entries: list[str] = []
    for entry in sys.path:
        absolute = os.path.abspath(entry)
        if absolute in entries or any(absolute == place or absolute.startswith(place + os.sep) for place in installed):
            continue
        if os.path.isdir(absolute):
            entries.append(absolute)
    return tuple(entries)
