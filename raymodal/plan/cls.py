"""From a class or function, arguments and options to one pool: which arguments are right, how they travel, what the pool is called. Pure.

Pools are told apart by their tags, so equal arguments must give equal tags in every process: plain values are written out as Python literals, whose text is
the same everywhere. What is not plain (only constructors of older programs take that) is pickled, and then shares a pool only where its pickle is the same.
"""

from __future__ import annotations

import ast
import hashlib
import json
import math
import pickle
from collections.abc import Callable, Mapping
from typing import Any

from raymodal.exception import InvalidError
from raymodal.plan.pool import PoolRequest
from raymodal.spec.cls import ClsSpec, ParameterSpec
from raymodal.spec.function import FunctionSpec

MAX_SHOWN = 60  # characters of the arguments in a tag
_LITERAL, _PICKLED = b"l", b"p"
# Parameters travel as values of exactly these types. Members of a string enumeration, numpy's integers and the like become what they stand for.
_PLAIN_FORM: dict[str, tuple[type, Callable[[Any], Any]]] = {
    "str": (str, str.__str__),
    "int": (int, int.__int__),
    "bytes": (bytes, bytes),
    "bool": (bool, bool),
}


def check_parameter_order(spec: ClsSpec) -> None:
    """A required parameter cannot follow an optional one. Looked at when the class is first used, as in Modal.

    Raises:
        ValueError: names the parameter.
    """
    optional_seen = False
    for one in spec.parameters:
        if optional_seen and not one.has_default:
            raise ValueError(f"Class {spec.tag!r}: non-default argument {one.name!r} follows default argument")
        optional_seen = optional_seen or one.has_default


def bind_parameters(spec: ClsSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The value of every parameter, in the order of declaration, defaults filled in.

    A default of another type than declared, which nobody checks, is left out: the container finds it in the class.

    Raises:
        InvalidError: given by position, unknown, or missing.
        TypeError: a value of the wrong type, or arguments for a class without parameters.
        ValueError: the parameters are declared in an order that no constructor can have.
    """
    if not spec.parameters:
        if args or kwargs:
            raise TypeError(
                f"{spec.tag}() takes no arguments: the class declares no parameters. Declare one with `name: str = modal.parameter()`."
            )
        return {}
    check_parameter_order(spec)
    known = {one.name: one for one in spec.parameters}
    if args:
        example = ", ".join(f"{name}=..." for name in known)
        raise InvalidError(f"Class {spec.tag!r}: parameters are given by name, not by position: {spec.tag}({example})")
    for name in kwargs:
        if name not in known:
            raise InvalidError(f"Class {spec.tag!r} has no parameter {name!r}; it has {', '.join(map(repr, known))}")
    values: dict[str, Any] = {}
    for name, one in known.items():
        if name in kwargs:
            values[name] = _checked(spec.tag, one, kwargs[name])
        elif not one.has_default:
            raise InvalidError(
                f"Class {spec.tag!r}: missing required parameter {name!r}. Write {spec.tag}({name}=...)."
            )
        elif type(one.default) is _PLAIN_FORM[one.type][0]:
            values[name] = one.default
    return values


def _checked(tag: str, one: ParameterSpec, value: Any) -> Any:
    kind, plain = _PLAIN_FORM[one.type]
    if not isinstance(value, kind):
        raise TypeError(f"Class {tag!r}: the parameter {one.name!r} is a {one.type}, not {type(value).__name__}")
    return plain(value)


def encode_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bytes:
    """Arguments as they travel; equal plain ones give equal bytes.

    Raises:
        Exception: what pickling raises, for values that are not plain.
    """
    both = (args, dict(sorted(kwargs.items())))
    if _is_plain(both):
        return _LITERAL + repr(both).encode("utf-8", "surrogatepass")
    from raymodal import wire  # late: it imports cloudpickle, which a program that only declares does not need

    return _PICKLED + wire.dumps(both)


def decode_arguments(data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The other way. Runs the code of the user's classes if they were pickled."""
    both = (
        ast.literal_eval(data[1:].decode("utf-8", "surrogatepass")) if data[:1] == _LITERAL else pickle.loads(data[1:])
    )
    args, kwargs = both
    return args, kwargs


def _is_plain(value: Any) -> bool:
    kind = type(value)
    if kind in (str, int, bytes, bool, type(None)):
        return True
    if kind is float:
        return math.isfinite(value)
    if kind in (tuple, list):
        return all(map(_is_plain, value))
    return kind is dict and all(_is_plain(key) and _is_plain(one) for key, one in value.items())


def pool_request(
    spec: ClsSpec, args: tuple[Any, ...], kwargs: Mapping[str, Any], changes: Mapping[str, Any]
) -> PoolRequest | None:
    """Which pool serves an object; None for the class's own.

    Args:
        changes: of `with_options` and the like, secrets literal.

    Raises:
        InvalidError, TypeError, ValueError: as `bind_parameters`.
        Exception: what pickling a constructor's arguments raises.
    """
    if spec.has_own_init:
        kwargs = dict(sorted(kwargs.items()))
    else:
        args, kwargs = (), bind_parameters(spec, args, kwargs)
    is_bare = not (args or kwargs or spec.is_template)
    if is_bare and not changes:
        return None
    arguments = None if is_bare else encode_arguments(args, kwargs)
    digest = hashlib.sha256(arguments or b"")
    shown = ""
    if arguments is not None and arguments[:1] == _LITERAL:
        shown = ", ".join([*map(repr, args), *(f"{name}={value!r}" for name, value in kwargs.items())])
    is_short = len(shown) <= MAX_SHOWN and (arguments is None or arguments[:1] == _LITERAL)
    if not is_short:
        shown = shown[:MAX_SHOWN] + "..."
    tag = f"{spec.tag}.*" if is_bare else f"{spec.tag}({shown}).*"
    if changes:
        digest.update(_canonical(changes))
    if changes or not is_short:
        tag += f"#{digest.hexdigest()[:10]}"
    return PoolRequest(tag, spec.service.tag, arguments, dict(changes))


def variant_request(tag: str, changes: Mapping[str, Any]) -> PoolRequest | None:
    """Which pool serves a function with changed options; None for the function's own."""
    if not changes:
        return None
    digest = hashlib.sha256(_canonical(changes)).hexdigest()
    return PoolRequest(f"{tag}#{digest[:10]}", tag, None, dict(changes))


def _canonical(changes: Mapping[str, Any]) -> bytes:
    """Changed settings as bytes that do not depend on the order in which they were changed."""
    whole = FunctionSpec(tag="", module=None, qualname="").model_copy(update=dict(changes))
    dumped = whole.model_dump(mode="json", include=set(changes))
    for secret in dumped.get("secrets", ()):
        if secret["revision"] is not None:
            del secret["values"]  # a digest that is shown could be tried out on short values
    return json.dumps(dumped, sort_keys=True).encode()
