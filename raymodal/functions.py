"""`Function`, what a decorated function becomes, and `FunctionCall`, one call of it that is on its way.

A handle holds what was declared (`FunctionSpec`) and finds the function's `PoolClient` when it is called: inside a
container through the container's context, in a driver through the app that runs. It keeps no connection of its own,
so it can be pickled by app and tag.
"""

from __future__ import annotations

import asyncio
import logging
import typing
import warnings
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Generic, NoReturn, ParamSpec, TypeVar

from raymodal import _later
from raymodal._dual import _check_blocking, dual, dual_function, dual_stream, is_notebook, run_blocking
from raymodal._later import later
from raymodal._old import OldMethod, OldProperty, lookup_by_name
from raymodal._warn import deprecated
from raymodal.container.context import ContainerContext, here
from raymodal.exception import ExecutionError, InvalidError, NotFoundError
from raymodal.object import LazyFromId, Object
from raymodal.plan.app import check_resources, literal_secrets
from raymodal.plan.cls import variant_request
from raymodal.plan.pool import PoolRequest
from raymodal.spec.function import FunctionSpec

if TYPE_CHECKING:
    from raymodal._logs_manager import FunctionCallLogsManager, FunctionLogsManager
    from raymodal._metrics import FunctionMetricsManager
    from raymodal.app import App
    from raymodal.client import Client
    from raymodal.cloud_bucket_mount import CloudBucketMount
    from raymodal.retries import Retries
    from raymodal.secret import Secret
    from raymodal.types import (
        FunctionAutoscalerSettings,
        FunctionCurrentStats,
        FunctionInfo,
        FunctionStats,
        InputInfo,
        ScalingReport,
    )
    from raymodal.volume import Volume

P = ParamSpec("P")
T = TypeVar("T")
ReturnType = TypeVar("ReturnType", covariant=True)
OriginalReturnType = TypeVar("OriginalReturnType", covariant=True)

logger = logging.getLogger("raymodal")

_running_apps: dict[str, Any] = {}
"""`AppClient`s of the apps that run in this process: what handles that arrive by pickle are live through."""


def register_running(app_id: str, client: Any) -> None:
    """Make handles of this app live in this process, through its `AppClient`."""
    _running_apps[app_id] = client


def unregister_running(app_id: str) -> None:
    """The app has ended: its handles are not live any more."""
    _running_apps.pop(app_id, None)


# ------------------------------------------------------------------------------------------------------ what f.x are


class _Part(Generic[T]):
    """Descriptor of one way to call a function: `f.remote` and the like are small objects, made once per handle."""

    def __init__(self, part: Callable[[Any], T]) -> None:
        self._part = part

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> T:
        if instance is None:
            return self._part(None)  # for its signature: calling it there is an error of its own
        # Kept in the instance, which wins over this non-data descriptor from now on: `f.remote` is one dictionary lookup.
        part = instance.__dict__[self._name] = self._part(instance)
        return part


class _Invoker:
    """Base of the small objects."""

    __slots__ = ("_function",)
    _name: typing.ClassVar[str]

    def __init__(self, function: Function[Any, Any, Any]) -> None:
        self._function = function

    def __repr__(self) -> str:
        return f"<{self._function!r}.{self._name}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._function, self._name)


def _in_event_loop() -> bool:
    return asyncio._get_running_loop() is not None


def _check_not_blocking(name: str, how: str = "await") -> None:
    """Warn if this blocking call is made on an event loop.

    Raises:
        RuntimeError: on the I/O loop itself, where it would wait for itself.
    """
    running = asyncio._get_running_loop()
    if running is not None:
        _check_blocking(running, f"Function.{name}", how)


class _Remote(_Invoker, Generic[P, ReturnType]):
    """`f.remote`"""

    __slots__ = ()
    _name = "remote"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> ReturnType:
        """Run the function in a container and return its result.

        Raises:
            ExecutionError: the app is not running.
            InvalidError: a generator or web function.
        """
        function = self._function
        pool = function._pool()
        if function._refuses_calls:
            function._refuse_call("remote")
        if asyncio._get_running_loop() is not None:
            _check_not_blocking("remote")
        result: ReturnType = pool.call(args, kwargs)
        return result

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> ReturnType:
        """The same for `await`."""
        function = self._function
        pool = function._pool()
        if function._refuses_calls:
            function._refuse_call("remote")
        result: ReturnType = await pool.call_async(args, kwargs)
        return result


class _RemoteGen(_Invoker):
    """`f.remote_gen`"""

    __slots__ = ()
    _name = "remote_gen"

    def __call__(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Run the generator function in a container and iterate over what it yields; nothing starts before the first `next`."""
        function = self._function
        _check_not_blocking("remote_gen", "async for")
        yield from function._stream_pool().stream(args, kwargs)

    async def aio(self, *args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        """The same for `async for`."""
        stream = self._function._stream_pool().stream_async(args, kwargs)
        try:
            async for value in stream:
                yield value
        finally:
            close = getattr(stream, "aclose", None)
            if close is not None:
                await close()


class _Spawn(_Invoker, Generic[P, ReturnType]):
    """`f.spawn`"""

    __slots__ = ()
    _name = "spawn"

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> FunctionCall[ReturnType]:
        """Hand the call over and return at once; the result is fetched with `FunctionCall.get`."""
        _check_not_blocking("spawn")
        return run_blocking(self.aio(*args, **kwargs))

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> FunctionCall[ReturnType]:
        """The same for `await`."""
        function = self._function
        pool = function._pool()
        if function._refuses_calls:
            function._refuse_call("spawn")
        return FunctionCall._of(await _on_io(pool.spawn(args, kwargs)), 1)


class AsyncOrSyncIterable(Generic[T]):
    """What `map` returns: iterate over it once, with `for` or with `async for`. Nothing is sent before."""

    def __init__(
        self,
        start: Callable[[], Iterator[T]],
        start_async: Callable[[], AsyncIterator[T]],
        name: str,
    ) -> None:
        self._start = start
        self._start_async = start_async
        self._name = name
        self._used = False
        self._running: AsyncIterator[T] | None = None

    def __iter__(self) -> Iterator[T]:
        if _in_event_loop() and not is_notebook():
            raise InvalidError(
                f"{self._name} was iterated with a plain `for` on a running event loop, which would stop the loop. "
                f"Use `async for result in f.{self._name.removeprefix('Function.')}(...)`."
            )
        if self._used:
            return iter(())
        self._used = True
        return self._start()

    def __aiter__(self) -> AsyncIterator[T]:
        if self._used:
            return _nothing()
        self._used = True
        self._running = self._start_async()
        return self._running

    async def aclose(self) -> None:
        """End an asynchronous iteration early."""
        self._used = True
        close = getattr(self._running, "aclose", None)
        if close is not None:
            await close()

    def __del__(self) -> None:
        if not getattr(self, "_used", True):
            logger.warning(
                "The result of %s was never iterated, so nothing was run. Use `list(...)` or a for loop, "
                "or `for_each` if only the side effects matter.",
                self._name,
            )


async def _nothing() -> AsyncGenerator[Any, None]:
    return
    yield


class _Map(_Invoker, Generic[ReturnType]):
    """`f.map`"""

    __slots__ = ()
    _name = "map"

    def __call__(
        self,
        *input_iterators: Iterable[Any],
        kwargs: dict[str, Any] = {},  # noqa: B006  Modal's default; never written to
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> AsyncOrSyncIterable[ReturnType]:
        """Run the function once per element, in as many containers as allowed; results come as an iterable.

        Args:
            input_iterators: one iterable per argument, sync or async; the shortest ends the map.
            kwargs: passed unchanged to every call.
            order_outputs: results in the order of the inputs instead of as they finish.
            return_exceptions: failures take their result's place instead of being raised.
            wrap_returned_exceptions: has no effect any more.

        Raises:
            InvalidError: no iterable is given.
        """
        return self._function._map(input_iterators, kwargs, order_outputs, return_exceptions, wrap_returned_exceptions)

    def aio(
        self,
        *input_iterators: Any,
        kwargs: dict[str, Any] = {},  # noqa: B006
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> AsyncOrSyncIterable[ReturnType]:
        """The same for `async for`."""
        return self._function._map(input_iterators, kwargs, order_outputs, return_exceptions, wrap_returned_exceptions)


class _Starmap(_Invoker, Generic[ReturnType]):
    """`f.starmap`"""

    __slots__ = ()
    _name = "starmap"

    def __call__(
        self,
        input_iterator: Iterable[Sequence[Any]],
        *,
        kwargs: dict[str, Any] = {},  # noqa: B006
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> AsyncOrSyncIterable[ReturnType]:
        """Like `map`, with one iterable of argument sequences."""
        return self._function._map(
            (input_iterator,), kwargs, order_outputs, return_exceptions, wrap_returned_exceptions, star=True
        )

    def aio(
        self,
        input_iterator: Any,
        *,
        kwargs: dict[str, Any] = {},  # noqa: B006
        order_outputs: bool = True,
        return_exceptions: bool = False,
        wrap_returned_exceptions: bool | None = None,
    ) -> AsyncOrSyncIterable[ReturnType]:
        """The same for `async for`."""
        return self._function._map(
            (input_iterator,), kwargs, order_outputs, return_exceptions, wrap_returned_exceptions, star=True
        )


class _ForEach(_Invoker):
    """`f.for_each`"""

    __slots__ = ()
    _name = "for_each"

    def __call__(
        self,
        *input_iterators: Any,
        kwargs: dict[str, Any] = {},  # noqa: B006
        ignore_exceptions: bool = False,
    ) -> None:
        """Run the function once per element and wait for all; results are dropped.

        Raises:
            InvalidError: called on a running event loop.
        """
        if _in_event_loop() and not is_notebook():
            raise InvalidError("Function.for_each would stop the running event loop. Use `await f.for_each.aio(...)`.")
        for _ in self._function._map(input_iterators, kwargs, False, ignore_exceptions, None, name="for_each"):
            pass

    async def aio(
        self,
        *input_iterators: Any,
        kwargs: dict[str, Any] = {},  # noqa: B006
        ignore_exceptions: bool = False,
    ) -> None:
        """The same for `await`."""
        async for _ in self._function._map(input_iterators, kwargs, False, ignore_exceptions, None, name="for_each"):
            pass


class _SpawnMap(_Invoker):
    """`f.spawn_map`"""

    __slots__ = ()
    _name = "spawn_map"

    def __call__(self, *input_iterators: Any, kwargs: dict[str, Any] = {}) -> None:  # noqa: B006
        """Spawn one call per element and return when all are handed over. Results cannot be fetched."""
        pool, columns = self._function._spawn_map_inputs("spawn_map", input_iterators)
        _check_not_blocking("spawn_map")
        run_blocking(pool.spawn_map(columns, kwargs))

    async def aio(self, *input_iterators: Any, kwargs: dict[str, Any] = {}) -> None:  # noqa: B006
        """The same for `await`."""
        pool, columns = self._function._spawn_map_inputs("spawn_map", input_iterators)
        await _on_io(pool.spawn_map(columns, kwargs))


class _ExperimentalSpawnMap(_Invoker):
    """`f.experimental_spawn_map`"""

    __slots__ = ()
    _name = "experimental_spawn_map"

    def __call__(self, *input_iterators: Any, kwargs: dict[str, Any] = {}) -> FunctionCall[Any]:  # noqa: B006
        """Spawn one call with one input per element; `FunctionCall.iter` and `get(index=)` fetch the results."""
        pool, columns = self._function._spawn_map_inputs("experimental_spawn_map", input_iterators)
        _check_not_blocking("experimental_spawn_map")
        return FunctionCall._of(*run_blocking(pool.spawn_many(columns, kwargs)))

    async def aio(self, *input_iterators: Any, kwargs: dict[str, Any] = {}) -> FunctionCall[Any]:  # noqa: B006
        """The same for `await`."""
        pool, columns = self._function._spawn_map_inputs("experimental_spawn_map", input_iterators)
        return FunctionCall._of(*await _on_io(pool.spawn_many(columns, kwargs)))


async def _on_io(coroutine: Any) -> Any:
    """Await an engine's coroutine from whatever loop runs."""
    from raymodal._dual import run_here

    return await run_here(coroutine)


# ----------------------------------------------------------------------------------------------------------- Function


@dataclass(slots=True)
class _Live:
    """One run that a handle is part of."""

    object_id: str
    app_id: str
    pool: Any = None


class Function(Object, Generic[P, ReturnType, OriginalReturnType]):
    """A function of an App. It is not callable: `f.remote(...)` runs it in a container, `f.local(...)` right here.

    Example:
        >>> import raymodal as modal
        >>> app = modal.App("example")
        >>> @app.function(serialized=True)
        ... def square(x: int) -> int:
        ...     return x * x
        >>> square.local(3)
        9
    """

    spec: FunctionSpec
    tag: str
    _app: App | None = None
    _raw_f: Callable[..., Any] | None = None
    _owner_app_id: str | None = None  # set on handles that arrived by pickle
    _looked_up: str | None = None  # how a handle of a deployed app was made
    _is_generator = False
    _refuses_calls = False

    remote: _Part[_Remote[P, ReturnType]] = _Part(_Remote)
    remote_gen: _Part[_RemoteGen] = _Part(_RemoteGen)
    map: _Part[_Map[ReturnType]] = _Part(_Map)
    starmap: _Part[_Starmap[ReturnType]] = _Part(_Starmap)
    for_each: _Part[_ForEach] = _Part(_ForEach)
    spawn: _Part[_Spawn[P, ReturnType]] = _Part(_Spawn)
    spawn_map: _Part[_SpawnMap] = _Part(_SpawnMap)
    experimental_spawn_map: _Part[_ExperimentalSpawnMap] = _Part(_ExperimentalSpawnMap)
    _experimental_spawn: _Part[_Spawn[P, ReturnType]] = _Part(_Spawn)

    @classmethod
    def _declared(
        cls, spec: FunctionSpec, app: App, raw_f: Callable[..., Any], secrets: Sequence[Secret] = ()
    ) -> Function[P, ReturnType, OriginalReturnType]:
        handle = cls._new()
        handle.spec = spec
        handle.tag = spec.tag
        handle._app = app
        handle._raw_f = raw_f
        handle._is_generator = spec.is_generator
        handle._refuses_calls = _refuses_calls(spec)
        handle._live = []
        return handle

    # -- which pool

    _live: list[_Live]  # every run that this handle is part of, newest last

    def _hydrate_in(self, object_id: str, app_id: str) -> None:
        """A run of `app_id` has begun: the handle has an id, and can be pickled."""
        self._live.append(_Live(object_id, app_id))

    def _connect(self, object_id: str, pool: Any) -> None:
        """The run is under way: the handle can be called."""
        for live in self._live:
            if live.object_id == object_id:
                live.pool = pool

    def _unhydrate(self, object_id: str) -> None:
        self._live = [live for live in self._live if live.object_id != object_id]

    def _pool(self) -> Any:
        """The function's `PoolClient`: the container's, if this is one, else that of the run in this process."""
        return self._find_pool() or self._raise_not_hydrated()

    def _find_pool(self) -> Any:
        context = here()
        if context is not None and self._looked_up is None and self._is_of(context):
            return context.pool(self.tag)
        if self._live and self._live[-1].pool is not None:
            return self._live[-1].pool
        if self._owner_app_id is not None and self._owner_app_id in _running_apps:
            return _running_apps[self._owner_app_id].pool(self.tag)
        return None

    def _is_of(self, context: ContainerContext) -> bool:
        """Whether the container's app is the one that this handle belongs to, as far as the handle knows: another app may have a function of the same name."""
        return self._owner_app_id in (None, context.app_id) and context.has(self.tag)

    def _raise_not_hydrated(self) -> NoReturn:
        if self._looked_up is not None:
            _later.refuse(self._looked_up, _later.DEPLOYED)
        raise ExecutionError(
            f"Function {self.tag!r} cannot be used here: no container can be asked, because the App it is defined on is not running."
        )

    def _refuse_call(self, method: str) -> NoReturn:
        if self._is_generator:
            raise InvalidError(
                f"Function {self.tag!r} is a generator, which .{method}() cannot call. Use `for value in f.remote_gen(...)`."
            )
        raise InvalidError(
            f"Function {self.tag!r} is a web function, which .{method}() cannot call. Send a request to its URL "
            "(`f.get_web_url()`), or use .local()."
        )

    def _stream_pool(self) -> Any:
        pool = self._pool()
        if not self._is_generator:
            if self._refuses_calls:
                self._refuse_call("remote_gen")
            raise InvalidError(f"Function {self.tag!r} is not a generator. Call it with `f.remote(...)`.")
        return pool

    def _map(
        self,
        iterables: tuple[Any, ...],
        kwargs: dict[str, Any],
        order_outputs: bool,
        return_exceptions: bool,
        wrap_returned_exceptions: bool | None,
        *,
        star: bool = False,
        name: str = "",
    ) -> AsyncOrSyncIterable[Any]:
        name = name or ("starmap" if star else "map")
        if not iterables:
            raise InvalidError(
                f"Function.{name} needs at least one iterable: without one it would never end. "
                "For a function without parameters, spawn it in a loop."
            )
        if wrap_returned_exceptions is not None:
            deprecated(
                f"wrap_returned_exceptions of Function.{name} has no effect: returned exceptions are never wrapped. Leave it out.",
                stacklevel=3,
            )
        inputs = iterables[0] if star else list(iterables)

        def pool() -> Any:
            found = self._pool()
            if self._refuses_calls:
                self._refuse_call(name)
            return found

        def start() -> Iterator[Any]:
            results: Iterator[Any] = pool().map(inputs, kwargs, order_outputs, return_exceptions, star=star)
            return results

        def start_async() -> AsyncIterator[Any]:
            results: AsyncIterator[Any] = pool().map_async(inputs, kwargs, order_outputs, return_exceptions, star=star)
            return results

        return AsyncOrSyncIterable(start, start_async, f"Function.{name}")

    def _spawn_map_inputs(self, method: str, iterables: tuple[Any, ...]) -> tuple[Any, list[Any]]:
        pool = self._pool()
        if self._refuses_calls:
            self._refuse_call(method)
        if not iterables:
            raise InvalidError(f"Function.{method} needs at least one iterable: without one it would never end.")
        if any(hasattr(iterable, "__aiter__") for iterable in iterables):
            return pool, list(iterables)
        # Drawn here, so that the caller's generators run in the caller's thread and never on the engine's loop.
        rows = list(zip(*iterables, strict=False))
        return pool, [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in iterables]

    # -- running it here

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Always raises: a call says where it runs, `f.remote()` or `f.local()`. So does the builtin `map(f, xs)`."""
        raise TypeError(
            f"'{type(self).__name__.lstrip('_')}' object is not callable: {self.tag!r} runs in containers, so write .remote(...) for one call, "
            ".map([...]) for many (instead of the builtin map), or .local(...) to run it here"
        )

    def local(self, *args: P.args, **kwargs: P.kwargs) -> OriginalReturnType:
        """Call the function itself, in this thread; works without a running app.

        Raises:
            ExecutionError: the definition is not here (handles of `from_name` and `from_id`).
        """
        if self._raw_f is None:
            raise ExecutionError(
                f"{self!r} refers to a function whose definition is not in this program. Use .remote() to run it where it is."
            )
        if here() is None and (self.spec.volumes or self.spec.buckets or self.spec.network_file_systems):
            warnings.warn(
                f"Function {self.tag!r} runs locally, where its volumes are not mounted.", UserWarning, stacklevel=2
            )
        result: OriginalReturnType = self._raw_f(*args, **kwargs)
        return result

    # -- what it is

    def _representation(self) -> str:
        return self._looked_up or f"Function({self.tag})"

    @property
    def app(self) -> App:
        """The App whose decorator made it.

        Raises:
            ExecutionError: the handle was looked up.
        """
        if self._app is None:
            raise ExecutionError(f"{self!r} was looked up, and does not know the App it was declared on.")
        return self._app

    @property
    def object_id(self) -> str:
        """`fu-...`, while the app runs.

        Raises:
            AttributeError: the app is not running.
        """
        if self._live:
            return self._live[-1].object_id
        if self._object_id is not None:
            return self._object_id
        raise AttributeError(f"{self!r} has no object_id, because its app is not running")

    async def _hydrate(self) -> None:
        self._pool()

    def __reduce__(self) -> tuple[Any, ...]:
        context = here()
        if context is not None and self._is_of(context):
            app_id: str | None = context.app_id
        elif self._live:
            app_id = self._live[-1].app_id
        else:
            app_id = self._owner_app_id
        if app_id is None:
            raise InvalidError(f"Can't serialize object {self!r} which hasn't been hydrated: its app is not running.")
        return _arrived, (app_id, self.tag, self.spec)

    @dual
    async def get_web_url(self) -> str | None:
        """The URL of a web function; None for others."""
        self._pool()
        if self.spec.webhook is None:
            return None
        _later.refuse(f"{self!r}.get_web_url", _later.WEB)

    @dual
    async def info(self, *, refresh: bool = False) -> FunctionInfo:
        """What was declared, as one value."""
        from raymodal.types import function_info

        if self._looked_up is not None:
            _later.refuse(f"{self._looked_up}.info", _later.DEPLOYED)
        return function_info(self.spec)

    @property
    def autoscaler(self) -> FunctionAutoscalerManager:
        """Read and change how many containers the function has."""
        return FunctionAutoscalerManager(self)

    @dual
    async def get_current_stats(self) -> FunctionCurrentStats:
        """How many inputs wait and run now, and how many containers there are: Modal's four figures, and as a `raymodal.types.ContainerStats` a few more."""
        from raymodal.types import container_stats

        return container_stats(await self._pool().stats())

    @later(_later.STATS)
    def stats(  # type: ignore[empty-body]
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        container: str | None = None,
        all_variants: bool = False,
    ) -> FunctionStats:
        """Figures over a stretch of time."""

    @property
    def logs(self) -> FunctionLogsManager:
        """Kept output of the function's containers."""
        from raymodal._logs_manager import FunctionLogsManager

        return FunctionLogsManager(self)

    @property
    def metrics(self) -> FunctionMetricsManager:
        """Measured use of resources."""
        from raymodal._metrics import FunctionMetricsManager

        return FunctionMetricsManager(self)

    @dual
    async def update_autoscaler(
        self,
        *,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: int | None = None,
    ) -> FunctionAutoscalerSettings:
        """The older spelling of `f.autoscaler.update(...)`; None leaves a value as it is.

        Raises:
            InvalidError: a value is out of range.
        """
        deprecated("Function.update_autoscaler is now Function.autoscaler.update.", stacklevel=4)
        return await change_rules(
            self._pool(),
            None,
            min_containers=min_containers,
            max_containers=max_containers,
            buffer_containers=buffer_containers,
            scaledown_window=scaledown_window,
        )

    # -- other handles

    @classmethod
    def from_name(
        cls,
        app_name: str,
        name: str,
        *,
        version: int | None = None,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> Function[..., Any, Any]:
        """A handle on a function of a deployed app. Nothing is looked up before its first use.

        Raises:
            InvalidError: `name` is that of a method.
        """
        if "." in name:
            raise InvalidError(f"{name!r} is not a function's name; for a method, use Cls.from_name({app_name!r}, ...)")
        return cls._lookup(f"modal.Function.from_name({app_name!r}, {name!r})", name)

    @classmethod
    def from_id(cls, function_id: str, *, client: Client | None = None) -> Function[..., Any, Any]:
        """A handle on a function by its id. Nothing is looked up before its first use."""
        return cls._lookup(f"modal.Function.from_id({function_id!r})", function_id)

    @classmethod
    def _lookup(cls, representation: str, tag: str) -> Function[..., Any, Any]:
        handle = cls._new()
        handle.tag = tag
        handle.spec = FunctionSpec(tag=tag, module=None, qualname=tag)
        handle._looked_up = representation
        handle._live = []
        return handle

    def with_options(
        self,
        *,
        cpu: float | tuple[float, float] | None = None,
        memory: int | tuple[int, int] | None = None,
        gpu: str | None = None,
        env: Mapping[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        volumes: Mapping[str | PurePosixPath, Volume | CloudBucketMount] = {},
        retries: int | Retries | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: int | None = None,
        timeout: int | None = None,
        region: str | Sequence[str] | None = None,
        cloud: str | None = None,
        routing_region: str | None = None,
    ) -> Function[P, ReturnType, OriginalReturnType]:
        """A second handle whose containers get other resources; what is not given stays as it is."""
        from raymodal._declare import option_fields

        return self._varied("with_options", option_fields(dict(locals())))

    def with_concurrency(
        self, *, max_inputs: int, target_inputs: int | None = None
    ) -> Function[P, ReturnType, OriginalReturnType]:
        """A second handle with input concurrency."""
        from raymodal._declare import concurrency_fields

        return self._varied("with_concurrency", concurrency_fields(max_inputs, target_inputs))

    def with_batching(self, *, max_batch_size: int, wait_ms: int) -> Function[P, ReturnType, OriginalReturnType]:
        """A second handle with dynamic batching."""
        from raymodal.partial_function import check_batching

        return self._varied("with_batching", {"batching": check_batching(max_batch_size, wait_ms)})

    def _varied(self, method: str, changes: Mapping[str, Any]) -> Function[P, ReturnType, OriginalReturnType]:
        return _Variant._of(self, changes, f"{self!r}.{method}(...)")

    lookup = lookup_by_name()
    keep_warm = OldMethod(
        lambda self, warm_pool_size: self.update_autoscaler(min_containers=warm_pool_size), "autoscaler.update"
    )
    web_url = OldProperty(lambda self: self.get_web_url(), "now .get_web_url()")

    @later(_later.EXPERIMENTAL)
    def _experimental_get_flash_urls(self) -> list[str] | None:
        """Modal's flash endpoints."""


class _Variant(Function[P, ReturnType, OriginalReturnType]):
    """A function with changed options, which has containers of its own."""

    _base: Function[Any, Any, Any]
    _changes: Mapping[str, Any]
    _how: str
    _request: PoolRequest | None = None

    @classmethod
    def _of(cls, base: Function[Any, Any, Any], changes: Mapping[str, Any], how: str) -> _Variant[Any, Any, Any]:
        handle: _Variant[Any, Any, Any] = cls._new()
        handle._base = base
        handle._changes = changes
        handle._how = how
        handle.tag = base.tag
        handle.spec = base.spec.model_copy(update=dict(changes))
        handle._app = base._app
        handle._raw_f = base._raw_f
        handle._looked_up = base._looked_up
        handle._is_generator = handle.spec.is_generator
        handle._refuses_calls = _refuses_calls(handle.spec)
        handle._live = []
        return handle

    def _varied(self, method: str, changes: Mapping[str, Any]) -> Function[P, ReturnType, OriginalReturnType]:
        return _Variant._of(self._base, {**self._changes, **changes}, f"{self!r}.{method}(...)")

    def _find_pool(self) -> Any:
        base = self._base._find_pool()
        if base is None:
            return None
        if self._request is None:
            self._request = variant_request(self.tag, checked_changes(self._base.spec, self._changes))
        request = self._request
        return base if request is None else base.app.pool(request.tag, request)

    def _representation(self) -> str:
        return self._how

    @property
    def object_id(self) -> str:
        return self._base.object_id

    def __reduce__(self) -> tuple[Any, ...]:
        return _Variant._of, (self._base, self._changes, self._how)


def checked_changes(spec: FunctionSpec, changes: Mapping[str, Any]) -> dict[str, Any]:
    """Changed options as a pool is opened with them: possible ones, secrets found. Warns of those that have no effect.

    Raises:
        InvalidError: a request is impossible.
        NotFoundError: a secret does not exist.
    """
    from raymodal.app import warn_of_what_is_missing
    from raymodal.secret import resolve

    found = dict(changes)
    if not found:
        return found
    changed = spec.model_copy(update=found)
    check_resources(changed)
    if "secrets" in found:
        found["secrets"] = literal_secrets(changed.secrets, resolve)
    if found.get("volumes"):
        from raymodal.volume import resolve as resolve_volumes

        found["volumes"] = resolve_volumes(changed)
    if here() is None:
        warn_of_what_is_missing([changed], stacklevel=7)
    return found


def _refuses_calls(spec: FunctionSpec) -> bool:
    return spec.is_generator or spec.webhook is not None


def _arrived(app_id: str, tag: str, spec: FunctionSpec) -> Function[..., Any, Any]:
    """A handle on this side of a pickle: live where the app runs, or in its containers."""
    handle: Function[..., Any, Any] = Function._new()
    handle.tag = tag
    handle.spec = spec
    handle._is_generator = spec.is_generator
    handle._refuses_calls = _refuses_calls(spec)
    handle._owner_app_id = app_id
    handle._live = []
    return handle


class FunctionAutoscalerManager:
    """`f.autoscaler`: how many containers a function has, read and changed while it runs."""

    def __init__(self, function: Function[..., Any, Any]) -> None:
        self._function = function

    @dual
    async def settings(self) -> FunctionAutoscalerSettings:
        """The values in force."""
        return await change_rules(self._function._pool(), None)

    @dual
    async def why(self) -> ScalingReport:
        """Why the function has as many containers as it has: the last decisions, what they were made from, and what limited each.

        raymodal's own; Modal has nothing like it. `raymodal app why APP::FUNCTION` shows the same from another terminal.
        """
        from raymodal.types import ScalingReport

        return ScalingReport.of(await self._function._pool().why())

    @dual
    async def update(
        self,
        *,
        min_containers: int | None = -1,
        max_containers: int | None = -1,
        buffer_containers: int | None = -1,
        scaledown_window: int = -1,
    ) -> FunctionAutoscalerSettings:
        """Change some values while the app runs; returns all values in force.

        Args:
            min_containers: -1 leaves it as it is, None means 0.
            max_containers: -1 leaves it as it is, None means no limit.
            buffer_containers: -1 leaves it as it is, None means 0.
            scaledown_window: -1 leaves it as it is.

        Raises:
            InvalidError: a value is out of range.
        """
        return await change_rules(
            self._function._pool(),
            -1,
            min_containers=min_containers,
            max_containers=max_containers,
            buffer_containers=buffer_containers,
            scaledown_window=scaledown_window,
        )


async def change_rules(pool: Any, unchanged: int | None, **given: int | None) -> FunctionAutoscalerSettings:
    """Change how a pool scales; returns all values in force.

    Args:
        pool: a `PoolClient`, or a method's client.
        unchanged: the value that leaves one as it is.
        given: by Modal's names.

    Raises:
        InvalidError: a value is out of range, or contradicts another one that is in force. Nothing has changed.
        TypeError: one is not an integer.
    """
    from raymodal.types import autoscaler_settings

    changes = checked_rules({name: value for name, value in given.items() if value != unchanged})
    return autoscaler_settings(await pool.set_rules(changes))


def checked_rules(changes: Mapping[str, int | None]) -> dict[str, int | None]:
    """Changed scaling parameters as the controller is told of them. Raises as `change_rules` does, but for contradictions."""
    from raymodal._declare import MAX_SCALEDOWN_S, MIN_SCALEDOWN_S

    checked = dict(changes)
    for name, value in changes.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise TypeError(f"{name}={value!r} is not an int")
        if name in ("min_containers", "buffer_containers"):
            checked[name] = value or 0
            if value is not None and value < 0:
                raise InvalidError(f"{name}={value} is negative")
        elif name == "max_containers" and value is not None and value <= 0:
            raise InvalidError(f"max_containers={value} must be positive, or None for no limit")
        elif name == "scaledown_window" and (value is None or not MIN_SCALEDOWN_S <= value <= MAX_SCALEDOWN_S):
            raise InvalidError(
                f"scaledown_window={value} must be between {MIN_SCALEDOWN_S} and {MAX_SCALEDOWN_S} seconds"
            )
    return checked


# ------------------------------------------------------------------------------------------------------- FunctionCall


class FunctionCall(Object, Generic[ReturnType]):
    """One call that was spawned: its result can be fetched any number of times, by any process of the app."""

    _call_id: str
    _n: int | None = None

    @classmethod
    def _of(cls, call_id: str, n: int | None) -> FunctionCall[Any]:
        call = cls._new()
        call._call_id = call_id
        call._object_id = call_id
        call._n = n
        return call

    @LazyFromId
    def from_id(function_call_id: str, client: Client | None = None) -> FunctionCall[Any]:
        """A handle on a call by its id, in any process of the app; nothing is asked before its first use."""
        call: FunctionCall[Any] = FunctionCall._new()
        call._call_id = function_call_id
        return call

    def _representation(self) -> str:
        return f"FunctionCall.from_id({self._call_id!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return FunctionCall._of, (self._call_id, self._n)

    async def _hydrate(self) -> None:
        if self._object_id is None:
            self._n = await self._ask("num_inputs")
            self._object_id = self._call_id

    async def _ask(self, method: str, *args: Any) -> Any:
        """Ask the app that knows this call: the container's own, or one of those that run in this process."""
        context = here()
        apps = [context.app] if context is not None else list(_running_apps.values())
        if not apps:
            raise ExecutionError(
                f"The result of {self!r} cannot be asked for, because no App of this program is running. "
                "Spawned calls of a run live as long as the run."
            )
        for app in apps:
            try:
                result = await getattr(app.calls, method)(self._call_id, *args)
            except NotFoundError:
                if app is apps[-1]:
                    raise
                continue
            self._object_id = self._call_id
            return result
        raise AssertionError("unreachable: the last app has answered or raised")

    @dual
    async def get(self, timeout: float | None = None, *, index: int = 0) -> ReturnType:
        """Wait for the result; may be called again.

        Args:
            timeout: seconds; 0 asks once.
            index: which input of a call that has many.

        Raises:
            TimeoutError: (the builtin) the result is not there in time.
            OutputExpiredError: the result is no longer kept.
        """
        result: ReturnType = await self._ask("get", index, timeout)
        return result

    @dual_stream
    async def iter(self, *, start: int = 0, end: int | None = None) -> AsyncGenerator[ReturnType, None]:
        """Results in input order, each as soon as it is there.

        Raises:
            ValueError: the range is outside of the call's inputs.
        """
        n = await self._ask("num_inputs")
        stop = n if end is None else end
        if start < 0 or stop > n:
            raise ValueError(f"start={start}, end={end} is outside of the {n} inputs of {self!r}")
        for index in range(start, stop):
            yield await self._ask("get", index, None)

    @dual
    async def num_inputs(self) -> int:
        """How many inputs the call has."""
        self._n = n = int(await self._ask("num_inputs"))
        return n

    @dual
    async def cancel(self, terminate_containers: bool = False) -> None:
        """Ask for the call to be cancelled and return; a later `get` raises.

        Args:
            terminate_containers: also end the containers that run it.
        """
        await self._ask("cancel", terminate_containers)

    @later(_later.CALL_GRAPH)
    def get_call_graph(self) -> list[InputInfo]:  # type: ignore[empty-body]
        """The calls that led to this one and from it."""

    @property
    def logs(self) -> FunctionCallLogsManager:
        """Kept output of the call."""
        from raymodal._logs_manager import FunctionCallLogsManager

        return FunctionCallLogsManager(self)

    @staticmethod
    async def _gather(*function_calls: FunctionCall[T]) -> Sequence[T]:
        """Wait for all calls and return their results in the order of the arguments; the first failure is raised at once."""
        tasks = [asyncio.ensure_future(call._ask("get", 0, None)) for call in function_calls]
        try:
            results: list[T] = await asyncio.gather(*tasks)
            return results
        finally:
            for task in tasks:
                task.cancel()

    gather = dual_function(_gather)
