"""From what was declared on an App to what an engine is asked to start. Pure: imports nothing that runs anything.

Checks that Modal makes only when an app is loaded (and not when a decorator runs) are made here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from raymodal.exception import InvalidError
from raymodal.spec.app import AppSpec
from raymodal.spec.cls import ClsSpec
from raymodal.spec.function import FunctionSpec
from raymodal.spec.storage import SecretSpec


@dataclass(frozen=True, slots=True)
class FunctionPlan:
    """One function to start a pool for.

    Attributes:
        spec: with every secret literal.
        by_value_blob: the pickled function or class, for those that cannot be imported in a container.
        object_id: `fu-...`, known before anything starts, so that functions can refer to each other.
        cls: set where this is a class; `spec` then says what all its containers have in common.
    """

    spec: FunctionSpec
    by_value_blob: bytes | None = None
    object_id: str = ""
    cls: ClsSpec | None = None


@dataclass(frozen=True, slots=True)
class AppPlan:
    """One run of an app.

    Attributes:
        source_root: folder of the program's main file; containers put it on `sys.path`.
        sys_path: further entries of the caller's `sys.path` that are neither the standard library's nor installed packages'.
        main_module: stem of the main file: what `__main__` is imported as in containers; None without a file.
    """

    app_id: str
    name: str | None
    description: str
    functions: Mapping[str, FunctionPlan]
    source_root: str
    sys_path: tuple[str, ...] = ()
    main_module: str | None = None


def plan_app(
    spec: AppSpec,
    *,
    app_id: str,
    description: str,
    object_ids: Mapping[str, str],
    blobs: Mapping[str, bytes],
    source_root: str,
    sys_path: tuple[str, ...] = (),
    main_module: str | None = None,
    find_secret: Callable[[SecretSpec], SecretSpec],
) -> AppPlan:
    """Plan one run.

    Args:
        find_secret: makes a `dotenv` or `named` secret literal.

    Raises:
        InvalidError: a resource request is impossible; names the function.
        NotFoundError: a secret does not exist.
    """
    functions = {}
    planned: list[tuple[str, FunctionSpec, ClsSpec | None]] = [
        *((tag, function, None) for tag, function in spec.functions.items()),
        *((cls.service.tag, cls.service, cls) for cls in spec.classes.values()),
    ]
    for tag, function, cls in planned:
        check_resources(function)
        secrets = literal_secrets(function.secrets, find_secret)
        if secrets != function.secrets:
            function = function.model_copy(update={"secrets": secrets})
        functions[tag] = FunctionPlan(function, blobs.get(tag), object_ids[tag], cls and _as_travels(cls, function))
    return AppPlan(
        app_id=app_id,
        name=spec.name,
        description=description,
        functions=functions,
        source_root=source_root,
        sys_path=sys_path,
        main_module=main_module,
    )


def _as_travels(cls: ClsSpec, service: FunctionSpec) -> ClsSpec:
    """A class as controller and containers hear of it: without defaults, which may be objects of the user's own types."""
    parameters = tuple(one.model_copy(update={"default": None}) for one in cls.parameters)
    return cls.model_copy(update={"service": service, "parameters": parameters})


def literal_secrets(
    secrets: tuple[SecretSpec, ...], find_secret: Callable[[SecretSpec], SecretSpec]
) -> tuple[SecretSpec, ...]:
    """The secrets with their values."""
    # Written out instead of `is not literal`: a literal secret must reach the container exactly as it was given.
    return tuple(s if s.kind == "literal" else find_secret(s) for s in secrets)


def check_resources(spec: FunctionSpec) -> None:
    """Refuse requests of zero and limits below their request.

    Raises:
        InvalidError: names the function, the parameter and both figures.
    """
    for name, request, limit, unit in (
        ("cpu", spec.cpu, spec.cpu_limit, "cores"),
        ("memory", spec.memory_mib, spec.memory_limit_mib, "MiB"),
    ):
        if request is not None and request <= 0:
            raise InvalidError(
                f"Function {spec.tag!r}: {name}={request} {unit} is not above zero; leave {name}= out for the default"
            )
        if limit is not None and limit <= 0:
            raise InvalidError(f"Function {spec.tag!r}: the {name} limit of {limit} {unit} is not above zero")
        if request is not None and limit is not None and limit < request:
            raise InvalidError(
                f"Function {spec.tag!r}: the {name} limit of {limit} {unit} is below the request of {request} {unit}; "
                f"give {name}=(request, limit) in this order"
            )
    for name, seconds in (("timeout", spec.timeout_s), ("startup_timeout", spec.startup_timeout_s)):
        if seconds is not None and seconds <= 0:
            raise InvalidError(f"Function {spec.tag!r}: {name}={seconds:g} is not above zero; give seconds")
