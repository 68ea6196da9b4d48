"""`Cls`, what a decorated class becomes; `Obj`, one set of arguments of it; `parameter`.

A class is served by pools: one for the class as such, and one for every further set of arguments and options, opened when
it is first used. Which pool that is follows from the arguments alone (`plan.cls`), so that every process comes to the same
one; `_Bound` holds it. Methods are Functions that share the pool of their object.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NoReturn

from raymodal import _later
from raymodal._declare import (
    Concurrency,
    Origin,
    concurrency_fields,
    make_spec,
    option_fields,
    spec_fields,
    take_old_names,
)
from raymodal._dual import dual
from raymodal._later import later
from raymodal._old import lookup_by_name
from raymodal._warn import deprecated, is_strict
from raymodal.container.context import Owner, adopt, owner_of
from raymodal.container.lifecycle import bind, construct
from raymodal.exception import ExecutionError, InvalidError, NotFoundError
from raymodal.functions import Function, _arrived, _refuses_calls, change_rules, checked_changes
from raymodal.object import Object
from raymodal.partial_function import (
    PartialFunction,
    PartialFunctionFlags,
    check_batching,
)
from raymodal.plan.cls import check_parameter_order, pool_request
from raymodal.plan.pool import PoolRequest
from raymodal.spec.cls import ClsSpec, HookSpec, MethodSpec, ParameterSpec
from raymodal.spec.function import FunctionSpec

if TYPE_CHECKING:
    from raymodal.app import App
    from raymodal.client import Client
    from raymodal.cloud_bucket_mount import CloudBucketMount
    from raymodal.retries import Retries
    from raymodal.secret import Secret
    from raymodal.types import FunctionAutoscalerSettings
    from raymodal.volume import Volume

PARAMETER_TYPES: dict[type, str] = {str: "str", int: "int", bytes: "bytes", bool: "bool"}


class _NoDefault:
    def __repr__(self) -> str:
        return "modal.cls._NO_DEFAULT()"


_NO_DEFAULT = _NoDefault()


class _Parameter:
    """What `parameter()` leaves in a class body."""

    name = ""

    def __init__(self, default: Any, init: bool) -> None:
        self.default = default
        self.init = init

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None:
            return self
        # A value that was given sits in the instance's own dictionary and wins over this non-data descriptor.
        if self.default is _NO_DEFAULT:
            raise AttributeError(f"The parameter {self.name!r} has no default value and was given no value")
        return self.default


def parameter(*, default: Any = _NO_DEFAULT, init: bool = True) -> Any:
    """Declare a parameter of an `@app.cls` class; each set of values has its own containers.

    Args:
        default: makes it optional.
        init: False for an attribute that is no constructor parameter.
    """
    return _Parameter(default, init)


def is_parameter(p: Any) -> bool:
    """Whether a class attribute was made by `parameter()` and belongs to the constructor."""
    return isinstance(p, _Parameter) and p.init


# ----------------------------------------------------------------------------------------------------------- declaring


def declare_cls(app: App, user_cls: Any, params: dict[str, Any], old_concurrency: Concurrency) -> Cls:
    """What `@app.cls(...)` does to a class.

    Raises:
        TypeError: not a class, or `@concurrent()` without `max_inputs`.
        InvalidError: the class or a parameter is wrong.
    """
    from raymodal.app import _concurrency_fields, _partial_fields

    extra: dict[str, Any] = _concurrency_fields(old_concurrency)
    if isinstance(user_cls, PartialFunction):
        partial, user_cls = user_cls, user_cls.user_cls
        if user_cls is None:
            raise TypeError("@app.cls stands on a function; use @app.function")
        partial.registered = True
        extra |= _partial_fields(partial, params)
    if not isinstance(user_cls, type):
        raise TypeError(f"@app.cls stands on {user_cls!r}, which is not a class")
    partials = find_partials(user_cls)
    check_partials(user_cls.__name__, partials, bool(params["enable_memory_snapshot"]), "cluster" in extra)
    parameters = find_parameters(user_cls)
    has_own_init = _has_own_init(user_cls)
    if has_own_init:
        message = (
            f"Class {user_cls.__name__!r} has its own __init__. Use modal.parameter() for what its containers differ in, "
            "and @modal.enter() for what they do when they start."
        )
        if is_strict():
            raise InvalidError(message)
        deprecated(message, stacklevel=3)
    origin = Origin(user_cls, serialized=params["serialized"], decorator="@app.cls")
    tag = user_cls.__name__
    service = make_spec(
        {
            **spec_fields(
                f"{tag}.*",
                params,
                image=params["image"] if params["image"] is not None else app._image,
                app_secrets=app._secrets,
                app_volumes=app._volumes,
                app_include_source=app._include_source,
            ),
            **origin.fields(),
            **extra,
            "tag": f"{tag}.*",
            # A class with a batched method has no other one to call, so its containers are that method's.
            "batching": next((p.params.batch for p in partials.values() if p.params.batch is not None), None),
        }
    )
    hooks = [hook for name, p in partials.items() for hook in _hook_specs(name, p)]
    spec = ClsSpec(
        tag=tag,
        service=service,
        methods=tuple(
            _method_spec(name, p) for name, p in partials.items() if p.flags & PartialFunctionFlags.interface()
        ),
        hooks=tuple(hooks or _old_hooks(user_cls)),
        parameters=() if has_own_init else parameters,
        has_own_init=has_own_init,
        needs_arguments=has_own_init and _needs_arguments(user_cls),
    )
    cls = Cls._declared(spec, app, user_cls, partials)
    app._take_cls(cls)
    return cls


def find_partials(user_cls: type) -> dict[str, PartialFunction[Any, Any, Any]]:
    """Decorated methods by name, bases first. An undecorated override does not hide a decorated definition."""
    found: dict[str, PartialFunction[Any, Any, Any]] = {}
    for klass in reversed(user_cls.__mro__):
        for name, value in vars(klass).items():
            if isinstance(value, PartialFunction):
                value.registered = True
                value.name = value.name or name
                found[name] = value
    return found


def check_partials(
    name: str, partials: Mapping[str, PartialFunction[Any, Any, Any]], has_snapshot: bool, is_clustered: bool
) -> None:
    """Rules for the decorators of one class.

    Raises:
        InvalidError: names the rule.
    """
    flags = PartialFunctionFlags
    interface = [p for p in partials.values() if p.flags & flags.interface()]
    batched = [p for p in interface if p.flags & flags.BATCHED]
    if any(p.flags & flags.CONCURRENT for p in partials.values()):
        raise InvalidError(f"@modal.concurrent stands on a method of {name!r}; put it on the class")
    if any(p.flags & flags.CLUSTERED for p in partials.values()):
        raise InvalidError(f"@modal.clustered stands on a method of {name!r}; put it on the class")
    if len(batched) > 1:
        raise InvalidError(f"Class {name!r} has {len(batched)} batched methods; one is the most")
    if batched and len(interface) > 1:
        raise InvalidError(f"Class {name!r} has a batched method, and then can have no other methods to call")
    if any(p.flags & flags.ENTER_PRE_SNAPSHOT for p in partials.values()) and not has_snapshot:
        raise InvalidError(f"@modal.enter(snap=True) in {name!r} needs enable_memory_snapshot=True on the class")
    if is_clustered and len(interface) > 1:
        raise InvalidError(f"The clustered class {name!r} has {len(interface)} methods to call; one is the most")


def find_parameters(user_cls: type) -> tuple[ParameterSpec, ...]:
    """The constructor's parameters, inherited ones first.

    Raises:
        InvalidError: an annotation is missing or of another type than str, int, bytes, bool.
        AttributeError: an annotation is a string.
    """
    found: dict[str, ParameterSpec] = {}
    for klass in reversed(user_cls.__mro__):
        annotations = vars(klass).get("__annotations__") or inspect.get_annotations(klass)
        for name, value in vars(klass).items():
            if not isinstance(value, _Parameter):
                continue
            value.name = value.name or name
            if name not in annotations:
                raise InvalidError(
                    f"The parameter {name!r} of {user_cls.__name__!r} needs a type, such as `{name}: str`"
                )
            if not value.init:
                continue
            annotation = annotations[name]
            if annotation not in PARAMETER_TYPES:
                # `from __future__ import annotations` makes it a string, which has no __name__: AttributeError, as in Modal.
                raise InvalidError(
                    f"The parameter {name!r} of {user_cls.__name__!r} is of type {annotation.__name__}; use str, int, bytes or bool"
                )
            has_default = value.default is not _NO_DEFAULT
            found[name] = ParameterSpec(
                name=name,
                type=PARAMETER_TYPES[annotation],
                has_default=has_default,
                default=value.default if has_default else None,
            )
    return tuple(found.values())


def _has_own_init(user_cls: type) -> bool:
    return user_cls.__init__ is not object.__init__  # type: ignore[misc]


def _needs_arguments(user_cls: type) -> bool:
    try:
        inspect.signature(user_cls).bind()
    except TypeError:
        return True
    except ValueError:  # a constructor in C, which does not say
        return False
    return False


def _old_hooks(user_cls: type) -> list[HookSpec]:
    """What releases of 2023 had in the place of `@enter` and `@exit`: the class was a context manager.

    Today's release leaves these methods alone, so they count only where there is no hook of today's, and not in strict mode.
    """
    hooks: list[HookSpec] = []
    if is_strict():
        return hooks
    for kind, names in (("enter", ("__aenter__", "__enter__")), ("exit", ("__aexit__", "__exit__"))):
        for name in names:
            if hasattr(user_cls, name):
                is_async = inspect.iscoroutinefunction(getattr(user_cls, name))
                hooks.append(HookSpec(name=name, kind=kind, is_async=is_async, is_dunder=True))
                break
    if hooks:
        names_found = " and ".join(hook.name for hook in hooks)
        deprecated(
            f"Class {user_cls.__name__!r}: {names_found} run when a container starts and ends, as they did in older releases. "
            "Decorate them with @modal.enter() and @modal.exit() instead.",
            stacklevel=4,
        )
    return hooks


def _method_spec(name: str, partial: PartialFunction[Any, Any, Any]) -> MethodSpec:
    raw_f = partial.raw_f
    return MethodSpec(
        name=name,
        is_generator=bool(partial.params.is_generator)
        or inspect.isgeneratorfunction(raw_f)
        or inspect.isasyncgenfunction(raw_f),
        is_async=inspect.iscoroutinefunction(raw_f) or inspect.isasyncgenfunction(raw_f),
        batching=partial.params.batch,
        webhook=partial.params.web,
    )


def _hook_specs(name: str, partial: PartialFunction[Any, Any, Any]) -> list[HookSpec]:
    flags = PartialFunctionFlags
    is_async = inspect.iscoroutinefunction(partial.raw_f)
    hooks = []
    if partial.flags & flags.ENTER_PRE_SNAPSHOT or (
        # A method that is both a build and an enter step, as many were, runs once.
        partial.flags & flags.BUILD and not partial.flags & flags.ENTER_POST_SNAPSHOT
    ):
        hooks.append(HookSpec(name=name, kind="enter", snap=True, is_async=is_async))
    if partial.flags & flags.ENTER_POST_SNAPSHOT:
        hooks.append(HookSpec(name=name, kind="enter", is_async=is_async))
    if partial.flags & flags.EXIT:
        hooks.append(HookSpec(name=name, kind="exit", is_async=is_async))
    return hooks


# --------------------------------------------------------------------------------------------------------------- pools


class _Bound:
    """A class with arguments and options: the pool that serves it.

    Args:
        service: the class's own handle, which knows the app.
        find: says which pool it is; may raise what is wrong with the arguments. Asked once, at first use.
        vary: the object with further changes of its options, where it is known.
    """

    def __init__(
        self,
        service: Function[Any, Any, Any],
        find: Callable[[], PoolRequest | None],
        vary: Callable[[str, Mapping[str, Any]], Obj] | None = None,
    ) -> None:
        self.service = service
        self.vary = vary
        self.specs: dict[str, FunctionSpec] = {}  # of methods, by name
        self._find = find
        self._found: tuple[PoolRequest | None] | None = None

    @property
    def spec(self) -> FunctionSpec:
        """The settings of the class's own pool."""
        return self.service.spec

    def request(self) -> PoolRequest | None:
        if self._found is None:
            self._found = (self._find(),)
        return self._found[0]

    def pool(self) -> Any:
        """The `PoolClient`, or None where the app does not run."""
        base = self.service._find_pool()
        if base is None:
            return None
        request = self.request()
        return base if request is None else base.app.pool(request.tag, request)


def _service_of(owner: _Bound | Owner) -> Function[Any, Any, Any]:
    """The class's own handle, as it can be pickled."""
    if isinstance(owner, _Bound):
        return owner.service
    base = owner.spec.tag if owner.request is None else owner.request.base
    return _arrived(owner.app_id, base, owner.spec.model_copy(update={"tag": base}))


# ------------------------------------------------------------------------------------------------------------- methods


class _Method(Function[Any, Any, Any]):
    """One method of an object."""

    _owner: _Bound | Owner
    _method_name: str
    _client: Any = None

    @classmethod
    def _of(
        cls, owner: _Bound | Owner, name: str, spec: FunctionSpec, app: App | None, raw_f: Callable[..., Any] | None
    ) -> _Method:
        handle = cls._new()
        handle.spec = spec
        handle.tag = spec.tag
        handle._app = app
        handle._raw_f = raw_f
        handle._is_generator = spec.is_generator
        handle._refuses_calls = _refuses_calls(spec)
        handle._live = []
        handle._owner = owner
        handle._method_name = name
        if isinstance(owner, _Bound):
            handle._looked_up = owner.service._looked_up
        return handle

    def _find_pool(self) -> Any:
        pool = self._owner.pool()
        if pool is None:
            return None
        client = self._client
        if client is None or client.pool is not pool:
            client = self._client = pool.method_client(self._method_name)
        return client

    def _representation(self) -> str:
        return f"Method({self.tag})"

    def _varied(self, method: str, changes: Mapping[str, Any]) -> Function[Any, Any, Any]:
        vary = self._owner.vary if isinstance(self._owner, _Bound) else None
        if vary is None:
            raise InvalidError(
                f"{self.tag}.{method}(...) needs the object that it is a method of: write "
                f"{self.tag.partition('.')[0]}.{method}(...)().{self._method_name}"
            )
        found: Function[Any, Any, Any] = getattr(vary(method, changes), self._method_name)
        return found

    @property
    def object_id(self) -> str:
        return _service_of(self._owner).object_id

    def __reduce__(self) -> tuple[Any, ...]:
        request = self._owner.request() if isinstance(self._owner, _Bound) else self._owner.request
        return _arrived_method, (_service_of(self._owner), request, self._method_name, self.spec)

    @dual
    async def update_autoscaler(
        self,
        *,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: int | None = None,
    ) -> FunctionAutoscalerSettings:
        """Methods of one object share its containers.

        Raises:
            InvalidError: always.
        """
        cls_name = self.tag.partition(".")[0]
        raise InvalidError(
            f"{self.tag!r} is a method, which has no containers of its own: write {cls_name}(...).update_autoscaler(...)"
        )


def _arrived_method(
    service: Function[Any, Any, Any], request: PoolRequest | None, name: str, spec: FunctionSpec
) -> _Method:
    """A method's handle on this side of a pickle."""
    return _Method._of(_Bound(service, lambda: request), name, spec, None, None)


def _spec_of_method(service: FunctionSpec, cls_tag: str, method: MethodSpec) -> FunctionSpec:
    return service.model_copy(
        update={
            "tag": f"{cls_tag}.{method.name}",
            "is_generator": method.is_generator,
            "is_async": method.is_async,
            "batching": service.batching or method.batching,
            "webhook": method.webhook,
        }
    )


class _Nobody(Function[Any, Any, Any]):
    """`self.m` of an object that neither a container nor an `@app.cls` handle has made: it works locally, and by a plain call, as in Modal."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        assert self._raw_f is not None
        return self._raw_f(*args, **kwargs)

    def _raise_not_hydrated(self) -> NoReturn:
        raise ExecutionError(
            f"{self.tag} belongs to an object that was made by hand, so there is no container that knows it. "
            "Make the object by calling the @app.cls class."
        )


def method_of_instance(instance: Any, partial: PartialFunction[Any, Any, Any]) -> Any:
    """`self.m` inside the user's own object: a handle for methods to call, the bound function for hooks."""
    raw_f = partial.raw_f
    bound = bind(raw_f, instance)
    if not partial.flags & PartialFunctionFlags.interface():
        return bound
    owner: _Bound | Owner | None = owner_of(instance)
    tag = f"{type(instance).__name__}.{partial.name}"
    if owner is None:
        handle: Function[Any, Any, Any] = _Nobody._new()
        handle.spec = FunctionSpec(tag=tag, module=None, qualname=tag)
        handle.tag = tag
        handle._raw_f = bound
        handle._live = []
        return handle
    spec = owner.specs.get(partial.name)
    if spec is None:
        made = _spec_of_method(owner.spec, type(instance).__name__, _method_spec(partial.name, partial))
        spec = owner.specs[partial.name] = made
    return _Method._of(owner, partial.name, spec, None, bound)


class _UnboundMethod(Function[Any, Any, Any]):
    """`C.m`, without an object: every use says what is missing."""

    def _find_pool(self) -> Any:
        raise AttributeError(
            f"{self.tag} was used without an object. Did you forget to instantiate the class first? Write {self.tag.replace('.', '().', 1)}."
        )


class Cls(Object):
    """A class of an App. Calling it makes an `Obj`, which costs nothing and starts nothing."""

    _spec: ClsSpec
    _service: Function[Any, Any, Any]  # tag `Name.*`: how the app knows the class
    _changes: Mapping[str, Any]  # fields of the service's spec that `with_options` and the like have changed
    _app: App | None
    _user_cls: type | None
    _partials: dict[str, PartialFunction[Any, Any, Any]]
    _how: str | None  # how a handle that was looked up or varied was made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if len(args) == 3 and isinstance(args[1], tuple):
            raise TypeError(
                f"class {args[0]} cannot inherit from the @app.cls class {args[1]!r}: put what they share into an undecorated base class"
            )
        super().__init__(*args, **kwargs)

    @classmethod
    def _of(cls, spec: ClsSpec, service: Function[Any, Any, Any], changes: Mapping[str, Any] | None = None) -> Cls:
        handle = cls._new()
        handle._spec = spec
        handle._service = service
        handle._changes = changes or {}
        handle._app = None
        handle._user_cls = None
        handle._partials = {}
        handle._how = None
        return handle

    @classmethod
    def _declared(
        cls, spec: ClsSpec, app: App, user_cls: type, partials: dict[str, PartialFunction[Any, Any, Any]]
    ) -> Cls:
        handle = cls._of(spec, Function._declared(spec.service, app, user_cls))
        handle._app = app
        handle._user_cls = user_cls
        handle._partials = partials
        return handle

    def _representation(self) -> str:
        return self._how or f"Cls({self._spec.tag})"

    @property
    def object_id(self) -> str:
        """`cs-...`, while the app runs.

        Raises:
            AttributeError: the app is not running.
        """
        return f"cs-{self._service.object_id.partition('-')[2]}"

    async def _hydrate(self) -> None:
        self._service._pool()

    def __reduce__(self) -> tuple[Any, ...]:
        return Cls._of, (self._spec, self._service, self._changes)

    def __call__(self, *args: Any, **kwargs: Any) -> Obj:
        """One set of parameters. Nothing is instantiated before it is used."""
        return Obj._of(self, args, kwargs)

    def __getattr__(self, k: str) -> Any:
        user_cls = self.__dict__.get("_user_cls")  # not there yet while the handle is being made
        if user_cls is None:
            if k.startswith("_"):
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {k!r}")
            return self._unbound(k)
        if k in Cls.__annotations__:
            raise AttributeError(k)
        if k in self._partials and self._partials[k].flags & PartialFunctionFlags.interface():
            return self._unbound(k)
        return getattr(user_cls, k)

    def _unbound(self, name: str) -> Function[Any, Any, Any]:
        handle = _UnboundMethod._new()
        handle.tag = f"{self._spec.tag}.{name}"
        handle.spec = FunctionSpec(tag=handle.tag, module=None, qualname=handle.tag)
        handle._app = self._app
        handle._live = []
        return handle

    @classmethod
    def from_name(
        cls,
        app_name: str,
        name: str,
        *,
        version: int | None = None,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> Cls:
        """A class of a deployed app. Nothing is looked up before its first use."""
        how = f"Cls.from_name({app_name!r}, {name!r})"
        service = Function._lookup(how, f"{name}.*")
        handle = cls._of(ClsSpec(tag=name, service=service.spec), service)
        handle._how = how
        return handle

    lookup = lookup_by_name()

    def with_options(
        self,
        *,
        cpu: float | tuple[float, float] | None = None,
        memory: int | tuple[int, int] | None = None,
        gpu: str | None = None,
        env: dict[str, str | None] | None = None,
        secrets: Collection[Secret] | None = None,
        volumes: dict[str | PurePosixPath, Volume | CloudBucketMount] = {},  # noqa: B006
        retries: int | Retries | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaledown_window: int | None = None,
        timeout: int | None = None,
        region: str | Sequence[str] | None = None,
        cloud: str | None = None,
        routing_region: str | None = None,
        **old: Any,
    ) -> Cls:
        """A second handle whose containers get other resources."""
        params = dict(locals())
        params["min_containers"] = None
        take_old_names("Cls.with_options", old, params)
        return self._varied("with_options", option_fields(params))

    def with_concurrency(self, *, max_inputs: int, target_inputs: int | None = None) -> Cls:
        """A second handle with input concurrency."""
        return self._varied("with_concurrency", concurrency_fields(max_inputs, target_inputs))

    def with_batching(self, *, max_batch_size: int, wait_ms: int) -> Cls:
        """A second handle with dynamic batching."""
        return self._varied("with_batching", {"batching": check_batching(max_batch_size, wait_ms)})

    def _varied(self, method: str, changes: Mapping[str, Any]) -> Cls:
        handle = type(self)._new()
        handle.__dict__.update(self.__dict__)
        handle._changes = {**self._changes, **changes}
        handle._how = f"{self._how or self._spec.tag}.{method}(...)"
        return handle

    def _request(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> PoolRequest | None:
        """Which pool serves an object with these arguments.

        Raises:
            InvalidError, TypeError, ValueError: the arguments or options are wrong.
        """
        changes = checked_changes(self._spec.service, self._changes)
        return pool_request(self._spec, args, kwargs, changes)

    def _varied_service(self) -> FunctionSpec:
        service = self._spec.service
        return service.model_copy(update=dict(self._changes)) if self._changes else service

    @later(_later.EXPERIMENTAL)
    def _experimental_get_flash_urls(self) -> list[str] | None:
        """Modal's flash endpoints."""


class Obj:
    """One set of parameters of a class. Its methods are Functions; other attributes are those of a local instance."""

    _cls: Cls
    _args: tuple[Any, ...]
    _kwargs: dict[str, Any]

    def __init__(self, user_cls: type | None, options: Any, args: Any, kwargs: Any) -> None:
        raise InvalidError("Obj is made by calling an @app.cls class")

    @classmethod
    def _of(cls, handle: Cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Obj:
        if args or kwargs:
            import cloudpickle

            cloudpickle.dumps((args, kwargs))  # what cannot travel is refused here, where it was written
        obj = object.__new__(cls)
        values = obj.__dict__
        values["_cls"] = handle
        values["_bound"] = _Bound(
            handle._service,
            lambda: handle._request(args, kwargs),
            lambda method, changes: handle._varied(method, changes)(*args, **kwargs),
        )
        values["_args"] = args
        values["_kwargs"] = kwargs
        values["_instance"] = None
        values["_entered"] = False
        return obj

    def __reduce__(self) -> tuple[Any, ...]:
        values = self.__dict__
        return Obj._of, (values["_cls"], values["_args"], values["_kwargs"])

    def __repr__(self) -> str:
        return f"Obj({self.__dict__['_cls']!r})"

    def __getattr__(self, k: str) -> Any:
        if k.startswith("__") or k in ("_cls", "_bound"):
            raise AttributeError(k)
        values = self.__dict__
        handle: Cls = values["_cls"]
        method = next((one for one in handle._spec.methods if one.name == k), None)
        if method is None:
            if handle._user_cls is not None:
                return getattr(self._local_instance(), k)
            if handle._service._looked_up is None:
                raise NotFoundError(
                    f"Class {handle._spec.tag!r} has no method {k!r}. Its other attributes can be read only where the class is defined."
                )
            method = MethodSpec(name=k)
        # Kept in the object, which wins over this method from now on.
        values[k] = made = self._method(method)
        return made

    def _method(self, method: MethodSpec) -> _Method:
        values = self.__dict__
        handle: Cls = values["_cls"]
        partial = handle._partials.get(method.name)
        raw_f = None if partial is None else self._local_method(partial)
        spec = _spec_of_method(handle._varied_service(), handle._spec.tag, method)
        return _Method._of(values["_bound"], method.name, spec, handle._app, raw_f)

    def _local_method(self, partial: PartialFunction[Any, Any, Any]) -> Callable[..., Any]:
        raw_f: Any = partial.raw_f

        def call(*args: Any, **kwargs: Any) -> Any:
            instance = self._local_instance()
            method = bind(raw_f, instance)
            if inspect.isasyncgenfunction(raw_f):
                return _iterate_async(self, instance, method, args, kwargs)
            if inspect.iscoroutinefunction(raw_f):
                return _call_async(self, instance, method, args, kwargs)
            self._enter(instance)
            return method(*args, **kwargs)

        return call

    def _local_instance(self) -> Any:
        values = self.__dict__
        if values["_instance"] is None:
            handle: Cls = values["_cls"]
            values["_instance"] = instance = _instantiate(handle, values["_args"], values["_kwargs"])
            adopt(instance, values["_bound"])
        return values["_instance"]

    def _enter(self, instance: Any) -> None:
        """Once per Obj, before its first sync method: `__enter__`, then all enter hooks."""
        values = self.__dict__
        if values["_entered"]:
            return
        values["_entered"] = True
        if hasattr(instance, "__enter__"):
            instance.__enter__()
        handle: Cls = values["_cls"]
        hooks = [hook for hook in handle._spec.hooks if hook.kind == "enter" and not hook.is_dunder]
        for hook in sorted(hooks, key=lambda hook: not hook.snap):
            result = bind(handle._partials[hook.name].raw_f, instance)()
            if inspect.iscoroutine(result):
                result.close()  # nobody awaits it here, as in Modal; closing it avoids a warning that points nowhere

    @dual
    async def update_autoscaler(
        self,
        *,
        min_containers: int | None = None,
        max_containers: int | None = None,
        scaledown_window: int | None = None,
        buffer_containers: int | None = None,
    ) -> FunctionAutoscalerSettings:
        """Change how many containers this set of parameters has, and no other; None leaves a value as it is.

        Raises:
            InvalidError: a value is out of range.
            ExecutionError: the app does not run.
        """
        bound: _Bound = self.__dict__["_bound"]
        pool = bound.pool()
        return await change_rules(
            bound.service._pool() if pool is None else pool,
            None,
            min_containers=min_containers,
            max_containers=max_containers,
            buffer_containers=buffer_containers,
            scaledown_window=scaledown_window,
        )


async def _enter_async(obj: Obj, instance: Any) -> None:
    # Modal runs the context-manager methods here but not the @enter hooks.
    values = obj.__dict__
    if not values["_entered"]:
        values["_entered"] = True
        if hasattr(instance, "__aenter__"):
            await instance.__aenter__()
        elif hasattr(instance, "__enter__"):
            instance.__enter__()


async def _call_async(obj: Obj, instance: Any, method: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    await _enter_async(obj, instance)
    return await method(*args, **kwargs)


async def _iterate_async(
    obj: Obj, instance: Any, method: Callable[..., Any], args: Any, kwargs: Any
) -> AsyncIterator[Any]:
    await _enter_async(obj, instance)
    async for value in method(*args, **kwargs):
        yield value


def _instantiate(handle: Cls, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    user_cls = handle._user_cls
    if user_cls is None:
        raise ExecutionError(f"{handle!r} refers to a class whose definition is not in this program")
    if handle._spec.has_own_init:
        return construct(user_cls, args, kwargs, has_own_init=True)
    check_parameter_order(handle._spec)
    names = [one.name for one in handle._spec.parameters]
    if len(args) > len(names):
        raise TypeError(f"{user_cls.__name__}() takes at most {len(names)} arguments, but {len(args)} were given")
    values = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name not in names:
            raise TypeError(f"{user_cls.__name__}() got an unexpected keyword argument {name!r}")
        if name in values:
            raise TypeError(f"{user_cls.__name__}() got multiple values for argument {name!r}")
        values[name] = value
    missing = [one.name for one in handle._spec.parameters if not one.has_default and one.name not in values]
    if missing:
        raise TypeError(f"{user_cls.__name__}() is missing the argument {missing[0]!r}")
    return construct(user_cls, (), values, has_own_init=False)


def _hide_old_names() -> None:
    signature = inspect.signature(Cls.with_options)
    shown = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    Cls.with_options.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]


_hide_old_names()
