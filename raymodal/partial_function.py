"""Decorators that stand beneath `@app.function` and `@app.cls`, or on methods. They only record what was said.

`PartialFunction` is what such a decorator returns: the user's function or class with flags (which decorators) and
parameters (what they were given). `App.function` and `App.cls` read it; nothing else happens to it.
"""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, Generic, NoReturn, ParamSpec, Protocol, Self, TypeVar, overload

from raymodal._warn import deprecated, is_strict
from raymodal.exception import DeprecationError, InvalidError
from raymodal.spec.function import BatchSpec, ClusterSpec, WebSpec

P = ParamSpec("P")
ReturnType = TypeVar("ReturnType", covariant=True)
OriginalReturnType = TypeVar("OriginalReturnType", covariant=True)
R = TypeVar("R")
Raw = TypeVar("Raw")

MAX_BATCH_SIZE = 1000
MAX_BATCH_WAIT_MS = 10 * 60 * 1000


class PartialFunctionFlags(enum.IntFlag):
    """Which decorators an object carries."""

    CALLABLE_INTERFACE = 1
    WEB_INTERFACE = 2
    ENTER_PRE_SNAPSHOT = 4
    ENTER_POST_SNAPSHOT = 8
    EXIT = 16
    BATCHED = 32
    CONCURRENT = 64
    CLUSTERED = 128
    SESSIONED = 256
    BUILD = 512

    @classmethod
    def interface(cls) -> PartialFunctionFlags:
        """Those that make a method reachable from outside."""
        return cls.CALLABLE_INTERFACE | cls.WEB_INTERFACE

    @classmethod
    def lifecycle(cls) -> PartialFunctionFlags:
        """Those that make a method a hook."""
        return cls.ENTER_PRE_SNAPSHOT | cls.ENTER_POST_SNAPSHOT | cls.EXIT | cls.BUILD


@dataclass(frozen=True)
class PartialFunctionParams:
    """What the decorators were given. Each may be set once."""

    is_generator: bool | None = None
    web: WebSpec | None = None
    batch: BatchSpec | None = None
    cluster: ClusterSpec | None = None
    concurrency: tuple[int | None, int | None] | None = None
    sessioned: bool | None = None

    def merged(self, other: PartialFunctionParams) -> PartialFunctionParams:
        """Both together.

        Raises:
            InvalidError: the same thing twice.
        """
        changes = {}
        for field in fields(other):
            value = getattr(other, field.name)
            if value is None:
                continue
            if getattr(self, field.name) is not None:
                raise InvalidError(
                    f"{_SETTING_NAMES.get(field.name, field.name)} is set by two decorators; keep one of them"
                )
            changes[field.name] = value
        return replace(self, **changes)


_SETTING_NAMES = {
    "web": "A web interface",
    "batch": "Batching",
    "cluster": "The cluster",
    "concurrency": "Input concurrency",
}


class PartialFunction(Generic[P, ReturnType, OriginalReturnType]):
    """A function or class with decorators on it, on its way to `@app.function` or `@app.cls`."""

    name = ""
    """The attribute it is in its class."""

    def __init__(
        self,
        obj: Callable[P, ReturnType] | type,
        flags: PartialFunctionFlags,
        params: PartialFunctionParams,
    ) -> None:
        self._obj = obj
        self.raw_f: Callable[P, ReturnType] | None = None if isinstance(obj, type) else obj
        self.user_cls: type | None = obj if isinstance(obj, type) else None
        self.flags = flags
        self.params = params
        self.registered = False
        self.validate_flag_composition()

    @property
    def obj(self) -> Any:
        """The undecorated function or class."""
        return self._obj

    def stack(self, flags: PartialFunctionFlags, params: PartialFunctionParams) -> Self:
        """Put one more decorator on top.

        Raises:
            InvalidError: they do not go together.
        """
        self.flags |= flags
        self.params = self.params.merged(params)
        self.validate_flag_composition()
        return self

    def validate_flag_composition(self) -> None:
        """Refuse decorators that contradict each other.

        Raises:
            InvalidError: names the two kinds.
        """
        kinds = PartialFunctionFlags
        if self.flags & kinds.interface() and self.flags & kinds.lifecycle():
            raise InvalidError(
                "A method is either called from outside (@method, @batched, web) or a hook (@enter, @exit), not both"
            )
        if self.flags & kinds.CALLABLE_INTERFACE and self.flags & kinds.WEB_INTERFACE:
            raise InvalidError("A function is either called (@method, @batched) or served to the web, not both")

    def validate_obj_compatibility(
        self, decorator_name: str, require_sync: bool = False, require_nullary: bool = False
    ) -> None:
        """Refuse objects that the decorator cannot stand on.

        Raises:
            InvalidError: a Function, something not callable, or async or with parameters where that is not possible.
        """
        check_decorated(self._obj, decorator_name)
        if self.raw_f is None:
            if not decorator_name.startswith(("concurrent", "clustered", "sessioned")):
                raise InvalidError(f"@modal.{decorator_name} cannot stand on a class; put it on a method")
            return
        if require_sync and inspect.iscoroutinefunction(self.raw_f):
            raise InvalidError(f"@modal.{decorator_name} needs a plain `def`, not `async def`")
        if require_nullary and _own_parameters(self.raw_f):
            raise InvalidError(
                f"The function beneath @modal.{decorator_name} takes no parameters, not even with defaults"
            )

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None or self.raw_f is None:
            return self
        from raymodal.cls import method_of_instance

        return method_of_instance(instance, self)


def _own_parameters(raw_f: Callable[..., Any]) -> list[str]:
    """Names of the parameters, without the `self` of what looks like a method."""
    names = list(inspect.signature(raw_f).parameters)
    scope = raw_f.__qualname__.rpartition("<locals>.")[2] if hasattr(raw_f, "__qualname__") else ""
    if names and (names[0] == "self" or "." in scope):
        return names[1:]
    return names


def check_decorated(obj: Any, decorator_name: str) -> None:
    """Refuse what no `modal.*` decorator can stand on.

    Raises:
        InvalidError: a Function or Cls (wrong order of decorators), or something that is not callable.
    """
    from raymodal.cls import Cls
    from raymodal.functions import Function

    if isinstance(obj, (Function, Cls)):
        outer = "app.cls" if isinstance(obj, Cls) else "app.function"
        raise InvalidError(
            f"@modal.{decorator_name} stands above @{outer}; swap the two, so that @{outer} is the outermost"
        )
    if not callable(obj):
        raise InvalidError(f"@modal.{decorator_name} stands on {obj!r}, which is not callable")


def _recorded(
    obj: Any,
    decorator_name: str,
    flags: PartialFunctionFlags,
    params: PartialFunctionParams,
    *,
    require_sync: bool = False,
    require_nullary: bool = False,
) -> PartialFunction[Any, Any, Any]:
    if isinstance(obj, PartialFunction):
        partial = obj.stack(flags, params)
    else:
        check_decorated(obj, decorator_name)
        partial = PartialFunction(obj, flags, params)
    partial.validate_obj_compatibility(decorator_name, require_sync=require_sync, require_nullary=require_nullary)
    return partial


class AnyDecorator(Protocol):
    """What the decorators below return: they keep the signature of what they stand on."""

    @overload
    def __call__(self, obj: PartialFunction[P, R, Raw], /) -> PartialFunction[P, R, Raw]: ...
    @overload
    def __call__(
        self, obj: Callable[P, Coroutine[Any, Any, R]], /
    ) -> PartialFunction[P, R, Coroutine[Any, Any, R]]: ...
    @overload
    def __call__(self, obj: Callable[P, R], /) -> PartialFunction[P, R, R]: ...


def method(*, is_generator: bool | None = None) -> AnyDecorator:
    """Make a method of an `@app.cls` class callable from outside.

    Args:
        is_generator: needed only where a plain method returns a generator.
    """

    def wrap(obj: Any) -> PartialFunction[Any, Any, Any]:
        found = is_generator
        if found is None and not isinstance(obj, PartialFunction):
            found = inspect.isgeneratorfunction(obj) or inspect.isasyncgenfunction(obj)
        return _recorded(
            obj, "method", PartialFunctionFlags.CALLABLE_INTERFACE, PartialFunctionParams(is_generator=found or None)
        )

    return wrap


def check_batching(max_batch_size: int, wait_ms: int) -> BatchSpec:
    """The figures of `@batched`.

    Raises:
        InvalidError: out of range.
    """
    if max_batch_size < 1:
        raise InvalidError(f"max_batch_size={max_batch_size} must be positive")
    if max_batch_size > MAX_BATCH_SIZE:
        raise InvalidError(f"max_batch_size={max_batch_size} is above {MAX_BATCH_SIZE}")
    if wait_ms < 0:
        raise InvalidError(f"wait_ms={wait_ms} is negative")
    if wait_ms > MAX_BATCH_WAIT_MS:
        raise InvalidError(f"wait_ms={wait_ms} is above {MAX_BATCH_WAIT_MS}")
    return BatchSpec(max_batch_size=max_batch_size, wait_ms=wait_ms)


def batched(*, max_batch_size: int, wait_ms: int) -> AnyDecorator:
    """Collect single calls into lists: the function receives one list per parameter and returns a list.

    Args:
        max_batch_size: most calls in one batch, up to 1000.
        wait_ms: how long the first call waits for others.

    Raises:
        InvalidError: a figure is out of range.
    """
    batch = check_batching(max_batch_size, wait_ms)

    def wrap(obj: Any) -> PartialFunction[Any, Any, Any]:
        flags = PartialFunctionFlags.CALLABLE_INTERFACE | PartialFunctionFlags.BATCHED
        return _recorded(obj, "batched", flags, PartialFunctionParams(batch=batch))

    return wrap


def check_concurrency(max_inputs: int | None, target_inputs: int | float | None) -> tuple[int | None, int | None]:
    """The figures of `@concurrent`.

    Raises:
        InvalidError: the target is above the maximum or not an integer.
    """
    if target_inputs is not None and not isinstance(target_inputs, int):
        raise InvalidError(f"target_inputs={target_inputs!r} must be an integer")
    if target_inputs is not None and target_inputs < 0:
        raise InvalidError(f"target_inputs={target_inputs} is negative")
    if max_inputs is not None and target_inputs is not None and target_inputs > max_inputs:
        raise InvalidError(f"target_inputs={target_inputs} is greater than max_inputs={max_inputs}")
    return max_inputs, target_inputs


def concurrent(*, max_inputs: int | None = None, target_inputs: int | None = None) -> AnyDecorator:
    """Let one container run several inputs at once.

    Args:
        max_inputs: most inputs at once in one container. Required; its absence is found by `@app.function`.
        target_inputs: what the autoscaler aims at; `max_inputs` by default.

    Raises:
        InvalidError: the target is above the maximum or not an integer.
    """
    concurrency = check_concurrency(max_inputs, target_inputs)

    def wrap(obj: Any) -> PartialFunction[Any, Any, Any]:
        return _recorded(
            obj, "concurrent", PartialFunctionFlags.CONCURRENT, PartialFunctionParams(concurrency=concurrency)
        )

    return wrap


def enter(*, snap: bool = False) -> AnyDecorator:
    """Run this method when a container starts, before its first input.

    Args:
        snap: before the memory snapshot instead of after it; needs `enable_memory_snapshot=True`.
    """
    flag = PartialFunctionFlags.ENTER_PRE_SNAPSHOT if snap else PartialFunctionFlags.ENTER_POST_SNAPSHOT
    return lambda obj: _recorded(obj, "enter", flag, PartialFunctionParams())


def build(*, force: bool = False, timeout: int = 86400) -> AnyDecorator:
    """Of older releases: ran this method while the image was built. Here it runs first when a container starts."""
    return lambda obj: _recorded(obj, "build", PartialFunctionFlags.BUILD, PartialFunctionParams())


def exit() -> AnyDecorator:
    """Run this method when a container ends in good order."""
    return lambda obj: _recorded(obj, "exit", PartialFunctionFlags.EXIT, PartialFunctionParams())


def _domains(custom_domains: Iterable[str] | None) -> tuple[str, ...]:
    if custom_domains is None:
        return ()
    # An assertion, because Modal's is one and programs may catch it.
    assert not isinstance(custom_domains, str), f"custom_domains={custom_domains!r} must be a list of strings"
    return tuple(custom_domains)


def _web(obj: Any, decorator_name: str, web: WebSpec, *, factory: bool) -> PartialFunction[Any, Any, Any]:
    return _recorded(
        obj,
        decorator_name,
        PartialFunctionFlags.WEB_INTERFACE,
        PartialFunctionParams(web=web),
        require_sync=factory,
        require_nullary=factory,
    )


def fastapi_endpoint(
    *,
    method: str = "GET",
    label: str | None = None,
    custom_domains: Iterable[str] | None = None,
    docs: bool = False,
    requires_proxy_auth: bool = False,
) -> AnyDecorator:
    """Serve the function itself at `/`, with FastAPI's rules for its parameters.

    Args:
        method: the HTTP method.
        label: part of the URL.
        custom_domains: further host names.
        docs: serve `/docs` too.
        requires_proxy_auth: refuse requests without credentials.
    """
    web = WebSpec(
        kind="function",
        method=method,
        label=_label(label),
        custom_domains=_domains(custom_domains),
        docs=docs,
        requires_proxy_auth=requires_proxy_auth,
    )
    return lambda obj: _web(obj, "fastapi_endpoint", web, factory=False)


def _label(label: Any) -> str | None:
    if label is not None and not isinstance(label, str):
        raise TypeError(f"label={label!r} is not a string")
    return label


def asgi_app(
    *,
    label: str | None = None,
    custom_domains: Iterable[str] | None = None,
    requires_proxy_auth: bool = False,
) -> AnyDecorator:
    """Serve the ASGI app that the function returns; it runs once per container."""
    web = WebSpec(
        kind="asgi_app",
        label=_label(label),
        custom_domains=_domains(custom_domains),
        requires_proxy_auth=requires_proxy_auth,
    )
    return lambda obj: _web(obj, "asgi_app", web, factory=True)


def wsgi_app(
    *,
    label: str | None = None,
    custom_domains: Iterable[str] | None = None,
    requires_proxy_auth: bool = False,
) -> AnyDecorator:
    """Serve the WSGI app that the function returns; it runs once per container."""
    web = WebSpec(
        kind="wsgi_app",
        label=_label(label),
        custom_domains=_domains(custom_domains),
        requires_proxy_auth=requires_proxy_auth,
    )
    return lambda obj: _web(obj, "wsgi_app", web, factory=True)


def web_server(
    port: int,
    *,
    startup_timeout: float = 5.0,
    label: str | None = None,
    custom_domains: Iterable[str] | None = None,
    requires_proxy_auth: bool = False,
) -> AnyDecorator:
    """Serve what the function starts on `port`.

    Raises:
        InvalidError: a bad port or time limit.
    """
    if not isinstance(port, int) or not 1 <= port <= 65535:
        raise InvalidError(
            f"@web_server needs a port from 1 to 65535 first, for example @web_server(8000), not {port!r}"
        )
    if startup_timeout <= 0:
        raise InvalidError(f"startup_timeout={startup_timeout} of @web_server must be positive")
    web = WebSpec(
        kind="web_server",
        port=port,
        startup_timeout_s=startup_timeout,
        label=_label(label),
        custom_domains=_domains(custom_domains),
        requires_proxy_auth=requires_proxy_auth,
    )
    return lambda obj: _web(obj, "web_server", web, factory=True)


def web_endpoint(*args: Any, **kwargs: Any) -> Any:
    """The former name of `fastapi_endpoint`; accepted with a warning unless `RAYMODAL_STRICT=1`.

    Raises:
        DeprecationError: strict mode.
    """
    if is_strict():
        raise DeprecationError("@modal.web_endpoint is now @modal.fastapi_endpoint")
    deprecated("@modal.web_endpoint is now @modal.fastapi_endpoint.", stacklevel=2)
    if args and callable(args[0]):
        raise TypeError("@modal.web_endpoint needs parentheses: @modal.fastapi_endpoint()")
    if args:
        kwargs["method"], *rest = args
        if rest:
            raise TypeError("web_endpoint() takes at most 1 positional argument; use @modal.fastapi_endpoint")
    kwargs.pop("wait_for_response", None)
    return fastapi_endpoint(**kwargs)


def clustered(*, size: int, rdma: bool = False) -> AnyDecorator:
    """Start `size` containers together for each input.

    Raises:
        InvalidError: the size is not a positive integer.
    """
    return clustered_with(size, rdma, None)


def clustered_with(size: int, rdma: bool, fabric_size: int | None) -> AnyDecorator:
    """`clustered`, with what only the experimental form takes."""
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InvalidError(f"size={size!r} of @clustered must be a positive integer")
    cluster = ClusterSpec(size=size, rdma=rdma, fabric_size=fabric_size)
    return lambda obj: _recorded(
        obj, "clustered", PartialFunctionFlags.CLUSTERED, PartialFunctionParams(cluster=cluster)
    )


def sessioned() -> AnyDecorator:
    """Route the requests of one session of an `@app.server` class to one container."""
    return lambda obj: _recorded(
        obj, "sessioned", PartialFunctionFlags.SESSIONED, PartialFunctionParams(sessioned=True)
    )


def refuse_missing_max_inputs() -> NoReturn:
    """What `@app.function` and `@app.cls` say of `@concurrent()` without `max_inputs`."""
    raise TypeError("@modal.concurrent() is missing its required argument: max_inputs")
