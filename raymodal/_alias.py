"""Answers `import modal` with raymodal, in drivers and in containers.

`install` puts a finder first on `sys.meta_path`: `modal` and `modal.x` become further names of the module objects
`raymodal` and `raymodal.x`, whether or not the real `modal` is installed. There is never a second copy of a module,
so classes imported under either name are the same, and pickles speak of `raymodal.*` only. The modules keep their own
`__name__` and `__spec__`. Importing this module imports nothing of raymodal but the package itself.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence

ALIAS = "modal"
TARGET = "raymodal"

_KEPT = ("__spec__", "__loader__", "__package__", "__path__")


class _AliasLoader(importlib.abc.InspectLoader):
    """Loads nothing: gives the target module, and undoes what the import system writes into it."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._own: dict[str, object] = {}

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        module = importlib.import_module(self._target)
        self._own = {name: vars(module)[name] for name in _KEPT if name in vars(module)}
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        # Between create and exec the import system has set `__spec__` to the alias's; a module whose spec has
        # another name is found uninitialised by `importlib.reload`, `pickle` and circular imports.
        vars(module).update(self._own)

    def is_package(self, fullname: str) -> bool:
        return _spec_of(self._target).submodule_search_locations is not None

    def get_code(self, fullname: str) -> types.CodeType | None:
        """For `python -m modal`, which runs code instead of importing a module."""
        loader = _spec_of(self._target).loader
        return loader.get_code(self._target) if isinstance(loader, importlib.abc.InspectLoader) else None

    def get_source(self, fullname: str) -> str | None:
        loader = _spec_of(self._target).loader
        return loader.get_source(self._target) if isinstance(loader, importlib.abc.InspectLoader) else None


class _AliasFinder(importlib.abc.MetaPathFinder):
    """Finds `modal` and everything below it in raymodal, and nothing else."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not _is_aliased(fullname):
            return None
        real = TARGET + fullname.removeprefix(ALIAS)
        # Looking up a submodule imports its parents, which the import system has done by now.
        if real not in sys.modules and importlib.util.find_spec(real) is None:
            raise ModuleNotFoundError(
                f"No module named {fullname!r}: 'modal' is raymodal here, and raymodal has no module {real!r}",
                name=fullname,
            )
        loader = _AliasLoader(real)
        spec = importlib.machinery.ModuleSpec(fullname, loader, origin=_spec_of(real).origin)
        if loader.is_package(fullname):
            spec.submodule_search_locations = list(_spec_of(real).submodule_search_locations or ())
        return spec


_finder = _AliasFinder()


def install() -> None:
    """Makes `import modal` mean raymodal from here on, in this process. Doing it again changes nothing.

    Example:
        >>> install()
        >>> import modal, raymodal
        >>> modal is raymodal
        True
    """
    if _finder in sys.meta_path:
        return
    # A real `modal` that was imported earlier would win over any finder.
    for name in [name for name in sys.modules if _is_aliased(name)]:
        del sys.modules[name]
    sys.meta_path.insert(0, _finder)


def uninstall() -> None:
    """Undoes `install`; modules that hold on to the name keep it."""
    if _finder not in sys.meta_path:
        return
    sys.meta_path.remove(_finder)
    for name in [name for name in sys.modules if _is_aliased(name)]:
        del sys.modules[name]


def _is_aliased(name: str) -> bool:
    return name == ALIAS or name.startswith(f"{ALIAS}.")


def _spec_of(name: str) -> importlib.machinery.ModuleSpec:
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return spec
