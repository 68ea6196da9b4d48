"""Finds the user's function or class in a container: by import where a file exists, else by value. Also what must be true of the process before user code is imported."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import ModuleType
from typing import Any

import cloudpickle

from raymodal.exception import ExecutionError
from raymodal.plan.pool import ContainerPlan

# What the accelerator libraries look at; an empty value hides every device.
_DEVICE_VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ONEAPI_DEVICE_SELECTOR",
    "NEURON_RT_VISIBLE_CORES",
    "TPU_VISIBLE_CHIPS",
    "HABANA_VISIBLE_MODULES",
)


def prepare_process(plan: ContainerPlan) -> None:
    """Environment, `sys.path` and the `import modal` hook, before any user code is imported."""
    from raymodal import _alias, wire

    wire.set_read_only(plan.read_only_arrays)
    environ = os.environ
    environ.update(container_variables(plan))
    if plan.hide_gpus:
        for name in _DEVICE_VARIABLES:
            # Ray leaves these alone for actors without GPUs, so a CPU function would see and fill all of them.
            if name == "CUDA_VISIBLE_DEVICES" or name in environ:
                environ[name] = ""
    if plan.cwd and os.path.isdir(plan.cwd):
        os.chdir(plan.cwd)
    for entry in reversed((plan.source_root, *plan.sys_path)):
        if entry and entry not in sys.path:
            sys.path.insert(0, entry)
    _alias.install()


def elsewhere(plan: ContainerPlan, root: str) -> ContainerPlan:
    """The plan on a node that has the program's modules at `root` instead of where the driver has them."""

    def moved(path: str | None) -> str | None:
        if path is None or not os.path.abspath(path).startswith(os.path.join(plan.source_root, "")):
            return path
        return os.path.join(root, os.path.relpath(path, plan.source_root))

    spec = plan.spec.model_copy(update={"file": moved(plan.spec.file)})
    return replace(plan, source_root=root, spec=spec, sys_path=tuple(moved(entry) or entry for entry in plan.sys_path))


def free_threads(plan: ContainerPlan) -> None:
    """Undo Ray's OMP_NUM_THREADS=1 for fractional CPUs, before anything reads it: Modal leaves it alone unless cores were asked for."""
    if plan.spec.cpu is None and "OMP_NUM_THREADS" not in plan.env:
        os.environ.pop("OMP_NUM_THREADS", None)


def container_variables(plan: ContainerPlan) -> Mapping[str, str]:
    """The variables that user code finds in a container (MODAL_SEMANTICS 12.4), then its own."""
    return {
        "MODAL_IS_REMOTE": "1",
        "MODAL_TASK_ID": plan.container_id,
        "MODAL_CLOUD_PROVIDER": "CLOUD_PROVIDER_UNSPECIFIED",
        "MODAL_REGION": "",
        "MODAL_ENVIRONMENT": "main",
        **plan.env,
    }


def load_function(plan: ContainerPlan) -> Callable[..., Any]:
    """The user's plain function.

    Raises:
        ExecutionError: the module has no such object, or it is not what was declared.
        BaseException: whatever importing the user's module raises.
    """
    if plan.blob is not None:
        function: Callable[..., Any] = cloudpickle.loads(plan.blob)
        return function
    return raw_function(_find(plan), plan)


def load_class(plan: ContainerPlan) -> type:
    """The user's plain class.

    Raises:
        ExecutionError: the module has no such object, or it is not what was declared.
        BaseException: whatever importing the user's module raises.
    """
    found = cloudpickle.loads(plan.blob) if plan.blob is not None else _find(plan)
    user_cls = getattr(found, "_user_cls", found)
    if not isinstance(user_cls, type):
        raise ExecutionError(
            f"Class {plan.spec.tag!r}: {plan.spec.module}.{plan.spec.qualname} is a {type(found).__name__} in the container, not a class. "
            "Do not bind its name to something else, or use serialized=True."
        )
    return user_cls


def _find(plan: ContainerPlan) -> Any:
    found: Any = import_module(plan.spec.module or "", plan.spec.file)
    for part in plan.spec.qualname.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise ExecutionError(
                f"Function {plan.spec.tag!r}: {plan.spec.module}.{plan.spec.qualname} does not exist in the container, although it did where the app "
                "was defined. Is it defined under an `if`, or is its name bound to something else? Define it at module level, or use serialized=True."
            ) from None
    return found


def raw_function(found: Any, plan: ContainerPlan) -> Callable[..., Any]:
    """What is inside a handle: the function that the user wrote."""
    raw = getattr(found, "_raw_f", None)
    if raw is None:
        raw = getattr(found, "raw_f", None)
    if (
        raw is None and callable(found) and not hasattr(found, "_raw_f")
    ):  # a handle is callable only to say that it is not
        raw = found
    if raw is None:
        raise ExecutionError(
            f"Function {plan.spec.tag!r}: {plan.spec.module}.{plan.spec.qualname} is a {type(found).__name__} in the container, not a function. "
            "Do not bind its name to something else, or use serialized=True."
        )
    function: Callable[..., Any] = raw
    return function


def import_module(name: str, file: str | None) -> ModuleType:
    """Import a user's module under `name`; a single file is loaded from where it lies, whatever `sys.path` says."""
    loaded = sys.modules.get(name)
    if loaded is not None and (file is None or _same_file(getattr(loaded, "__file__", None), file)):
        return loaded
    if file is None or "." in name or not os.path.exists(file) or os.path.basename(file) == "__init__.py":
        return importlib.import_module(name)
    # A script called like a module that is in use (queue.py, random.py) must not take its place.
    target = name if loaded is None and name not in sys.stdlib_module_names else f"_raymodal_main_{name}"
    if target in sys.modules:
        return sys.modules[target]
    spec = importlib.util.spec_from_file_location(target, file)
    if spec is None or spec.loader is None:
        return importlib.import_module(name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[target] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(target, None)
        raise
    return module


def _same_file(one: str | None, other: str) -> bool:
    try:
        return one is not None and os.path.samefile(one, other)
    except OSError:
        return False
