"""Compares raymodal with the recorded surface of modal 1.6.4 and lists every difference as one line."""

from __future__ import annotations

import dataclasses
import enum
import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("modal_surface.json").read_text())
_KINDS = {
    inspect.Parameter.POSITIONAL_ONLY: "positional_only",
    inspect.Parameter.POSITIONAL_OR_KEYWORD: "positional_or_keyword",
    inspect.Parameter.VAR_POSITIONAL: "var_positional",
    inspect.Parameter.KEYWORD_ONLY: "keyword_only",
    inspect.Parameter.VAR_KEYWORD: "var_keyword",
}
MISSING = object()
_HOMES = {
    # private modules of modal whose classes are reached through public attributes
    "modal._server.ServerSessionsManager": "modal.server",
    "modal._utils.async_utils.AsyncOrSyncIterable": "modal.functions",
    "modal._utils.function_utils.FunctionSourceInfo": "modal.app",
}


def our_module(name: str) -> Any:
    """raymodal's module for one of modal's, None if there is none."""
    try:
        return importlib.import_module("raymodal" + name.removeprefix("modal"))
    except ModuleNotFoundError:
        return None


def find(reference: str) -> Any:
    """`modal.a.b.Name` in raymodal: at its home, else wherever a public module shows it."""
    module, _, name = reference.rpartition(".")
    module = _HOMES.get(reference, module)
    home = our_module(module)
    if home is not None and hasattr(home, name):
        return getattr(home, name)
    for public, content in RECORDED["modules"].items():
        for shown, facts in content["names"].items():
            if facts.get("ref") == reference:
                found = getattr(our_module(public), shown, MISSING)
                if found is not MISSING:
                    return found
    return MISSING


def shown_default(value: Any) -> str:
    """A default as the recording writes it."""
    if isinstance(value, enum.Enum):
        return f"modal.stream_type.{type(value).__name__}.{value.name}"
    return re.sub(r"\braymodal\b", "modal", repr(value))


_SAME_DEFAULT = {
    # objects whose repr is an address or another name; that they stand for the same thing is in their own tests
    "modal.file_pattern_matcher.NON_PYTHON_FILES",
    "modal._image.AUTO_DOCKERIGNORE",
    "modal.sandbox._sandbox._DEFAULT_SANDBOX_NAME_OVERRIDE",
    "<factory>",
}


def parameters_of(thing: Any, *, bound: bool) -> list[dict[str, Any]]:
    """Parameters in the recording's form, without `self`."""
    found = list(inspect.signature(thing).parameters.values())
    if not bound and found and found[0].name in ("self", "cls"):
        found = found[1:]
    result = []
    for one in found:
        entry: dict[str, Any] = {"name": one.name, "kind": _KINDS[one.kind]}
        if one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
            entry["required"] = one.default is one.empty
            if one.default is not one.empty:
                entry["default"] = shown_default(one.default)
        result.append(entry)
    return result


def compare_parameters(where: str, recorded: list[dict[str, Any]] | None, ours: list[dict[str, Any]]) -> Iterator[str]:
    recorded = recorded or []
    names = [one["name"] for one in recorded]
    our_names = [one["name"] for one in ours]
    if names != our_names:
        yield f"{where}: parameters are ({', '.join(our_names)}) instead of ({', '.join(names)})"
        return
    for theirs, mine in zip(recorded, ours, strict=True):
        if theirs["kind"] != mine["kind"]:
            yield f"{where}: {theirs['name']} is {mine['kind']} instead of {theirs['kind']}"
        if theirs["kind"].startswith("var_"):
            continue
        if theirs.get("required", False) != mine["required"]:
            yield f"{where}: {theirs['name']} is {'required' if mine['required'] else 'optional'}"
        elif "default" in theirs and theirs["default"] not in _SAME_DEFAULT and theirs["default"] != mine["default"]:
            yield f"{where}: {theirs['name']}={mine['default']} instead of {theirs['default']}"


def compare_function(where: str, recorded: dict[str, Any], ours: Any, *, bound: bool = True) -> Iterator[str]:
    try:
        mine = parameters_of(ours, bound=bound)
    except (TypeError, ValueError) as error:
        yield f"{where}: no signature ({error})"
        return
    yield from compare_parameters(where, recorded["parameters"], mine)
    if recorded["aio"] and not hasattr(ours, "aio"):
        yield f"{where}: no .aio"


def compare_class(where: str, recorded: dict[str, Any], ours: Any) -> Iterator[str]:
    if not isinstance(ours, type):
        yield f"{where}: not a class"
        return
    for name, inner in recorded.get("nested", {}).items():
        found = getattr(ours, name, MISSING)
        if found is MISSING:
            yield f"{where}.{name}: missing"
        else:
            yield from compare_class(f"{where}.{name}", inner, found)
    if "enum" in recorded:
        members = {one.name: repr(one.value) for one in ours}  # type: ignore[attr-defined]
        if members != recorded["enum"]:
            yield f"{where}: members are {members}"
        return
    if "dataclass" in recorded:
        if not dataclasses.is_dataclass(ours):
            yield f"{where}: not a dataclass"
        else:
            fields = [field.name for field in dataclasses.fields(ours) if not field.name.startswith("_")]
            if fields != recorded["dataclass"]["fields"]:
                yield f"{where}: fields are {fields}"
            if ours.__dataclass_params__.frozen != recorded["dataclass"]["frozen"]:  # type: ignore[attr-defined]
                yield f"{where}: frozen differs"
    if "constructor" in recorded:
        try:
            yield from compare_parameters(
                f"{where}()", recorded["constructor"], parameters_of(ours.__init__, bound=False)
            )
        except (TypeError, ValueError) as error:
            yield f"{where}(): no signature ({error})"
    for name in recorded["properties"]:
        if inspect.getattr_static(ours, name, MISSING) is MISSING:
            yield f"{where}.{name}: missing property"
    for name, method in recorded["methods"].items():
        raw = inspect.getattr_static(ours, name, MISSING)
        if raw is MISSING:
            yield f"{where}.{name}: missing"
            continue
        if name in ("__eq__", "__repr__", "__hash__"):
            continue
        found = getattr(ours, name)
        yield from compare_function(f"{where}.{name}", method, found, bound=method["binding"] != "instance")


def differences() -> Iterator[str]:
    """Every difference, `where: what`."""
    for name, module in RECORDED["modules"].items():
        ours = our_module(name)
        if ours is None:
            yield f"{name}: module missing"
            continue
        for one in module["names"]:
            if not hasattr(ours, one):
                yield f"{name}.{one}: missing"
    for reference, recorded in RECORDED["classes"].items():
        found = find(reference)
        if found is MISSING:
            yield f"{reference}: class missing"
        elif "typed_dict" not in recorded and recorded["bases"] != ["builtins.dict"]:
            yield from compare_class(reference, recorded, found)
    for reference, recorded in RECORDED["functions"].items():
        found = find(reference)
        if found is MISSING:
            yield f"{reference}: function missing"
        else:
            yield from compare_function(reference, recorded, found)
