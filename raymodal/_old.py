"""Names of older Modal releases: `modal.Stub`, `modal.gpu`, `.lookup`. Accepted with a warning unless `RAYMODAL_STRICT=1`."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from raymodal._warn import deprecated, is_strict


def old_name(name: str) -> Any:
    """An old attribute of the package itself.

    Raises:
        AttributeError: there never was one, or strict mode is on.
    """
    strict = is_strict()
    if name == "Stub":
        if strict:
            raise AttributeError("modal.Stub is modal.App since 1.0; only the name has changed")
        from raymodal.app import App

        deprecated("modal.Stub is now modal.App.", stacklevel=3)
        return App
    if name == "gpu" and not strict:
        deprecated('modal.gpu.A100(count=2) is now the string "A100:2".', stacklevel=3)
        return gpu
    if name == "build" and not strict:
        from raymodal.partial_function import build

        deprecated(
            "@modal.build is gone: use Image.run_function, or @modal.enter, which it is treated as.", stacklevel=3
        )
        return build
    if name in _HINTS:
        raise AttributeError(f"module 'raymodal' has no attribute {name!r}: {_HINTS[name]}")
    raise AttributeError(f"module 'raymodal' has no attribute {name!r}")


_HINTS = {
    "Mount": "use Image.add_local_file, add_local_dir or add_local_python_source",
    "SharedVolume": "use modal.Volume",
    "S3Mount": "use modal.CloudBucketMount",
    "create_package_mounts": "use Image.add_local_python_source",
    "build": "use Image.run_function",
    "lookup": "use Function.from_name or Cls.from_name",
    "container_app": "import the app from its module",
}


class _GPU:
    """What `modal.gpu.A100(count=2)` made."""

    def __init__(self, kind: str, count: int = 1, size: str | None = None) -> None:
        name = f"{kind}-{size}" if size and size.upper() != "40GB" else kind
        self._as_gpu_string = name if count == 1 else f"{name}:{count}"

    def __repr__(self) -> str:
        return f"modal.gpu {self._as_gpu_string}"


def _kind(kind: str) -> Callable[..., _GPU]:
    def make(count: int = 1, *, size: str | None = None, memory: int = 0) -> _GPU:
        return _GPU(kind, count, size or (f"{memory}GB" if memory else None))

    return make


gpu = types.ModuleType("raymodal.gpu", "The GPU classes of older releases; today a string says the same.")
for _name in ("T4", "L4", "A10G", "A100", "H100", "H200", "L40S", "B200"):
    setattr(gpu, _name, _kind(_name))
gpu.Any = lambda count=1: _GPU("any", count)  # type: ignore[attr-defined]


class OldMethod:
    """A static method of older releases, such as `Function.lookup`; in strict mode it does not exist."""

    def __init__(self, call: Callable[..., Any], today: str) -> None:
        self._call = call
        self._today = today

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: object, owner: type | None = None) -> Callable[..., Any]:
        kind = owner if owner is not None else type(instance)
        if is_strict():
            raise AttributeError(f"type object {kind.__name__!r} has no attribute {self._name!r}")
        target: Any = kind if instance is None else instance

        def call(*args: Any, **kwargs: Any) -> Any:
            deprecated(f"{kind.__name__}.{self._name} is now {kind.__name__}.{self._today}.", stacklevel=2)
            return self._call(target, *args, **kwargs)

        return call


class OldProperty:
    """A property of older releases, such as `Function.web_url`; in strict mode it does not exist."""

    def __init__(self, read: Callable[[Any], Any], today: str) -> None:
        self._read = read
        self._today = today

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is None and not is_strict():
            return self
        if is_strict():
            raise AttributeError(f"{(owner or type(instance)).__name__!r} object has no attribute {self._name!r}")
        deprecated(f".{self._name} is {self._today}.", stacklevel=2)
        return self._read(instance)


def lookup_by_name() -> OldMethod:
    """`.lookup(...)` of a class that today has `.from_name(...)`."""
    return OldMethod(lambda cls, *args, **kwargs: cls.from_name(*args, **kwargs), "from_name")
