"""`Object`: what all handles have in common."""

from __future__ import annotations

import functools
import secrets
from collections.abc import Callable
from typing import Any, Generic, NoReturn, ParamSpec, Self, TypeVar

from raymodal._dual import dual
from raymodal._warn import deprecated
from raymodal.exception import ExecutionError, InvalidError

P = ParamSpec("P")
T = TypeVar("T")

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def new_id(prefix: str) -> str:
    """A fresh id in Modal's form, such as `ap-` and 22 letters and digits."""
    return f"{prefix}-" + "".join(secrets.choice(_ALPHABET) for _ in range(22))


class LazyFromId(Generic[P, T]):
    """A static `from_id` that asks nothing: plain call, and an `.aio` that Modal deprecates because there is nothing to await."""

    def __init__(self, make: Callable[P, T]) -> None:
        functools.update_wrapper(self, make)
        self._make = make

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._make(*args, **kwargs)

    async def aio(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """The same, with a warning."""
        deprecated(f"{self._make.__qualname__}.aio waits for nothing; call {self._make.__qualname__} without .aio.")
        return self._make(*args, **kwargs)


class Object:
    """A handle on something that lives in a cluster.

    Handles are made by `from_name`, `from_id`, decorators and calls, never by their class. `object_id` is there once
    the thing is known to exist.
    """

    _object_id: str | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise InvalidError(
            f"{type(self).__name__} is not made by calling the class; use a constructor such as `{type(self).__name__}.from_name`"
        )

    @classmethod
    def _new(cls) -> Self:
        """An empty handle; skips the constructor that users must not call."""
        return object.__new__(cls)

    def _representation(self) -> str:
        return f"{type(self).__name__}()"

    def __repr__(self) -> str:
        return self._representation()

    @property
    def object_id(self) -> str:
        """The id, such as `fu-...`.

        Raises:
            AttributeError: the handle has not been used yet; call `.hydrate()` first.
        """
        if self._object_id is None:
            raise AttributeError(f"{self._representation()} has no object_id yet; call .hydrate() first")
        return self._object_id

    @property
    def client(self) -> Any:
        """Kept for programs that pass it on; there is one client per process and nothing to configure."""
        from raymodal.client import Client

        return Client._of_process()

    @dual
    async def hydrate(self, client: Any = None) -> Self:
        """Make sure that the thing exists and `object_id` is known.

        Raises:
            ExecutionError: it exists only while its app runs.
        """
        await self._hydrate()
        return self

    async def _hydrate(self) -> None:
        if self._object_id is None:
            self._raise_not_hydrated()

    def _raise_not_hydrated(self) -> NoReturn:
        raise ExecutionError(f"{self._representation()} has no object behind it here, and cannot be looked up yet")

    @dual
    async def get_dashboard_url(self) -> str:
        """A stable URL-shaped name of the object. There is no dashboard behind it on your own cluster."""
        await self._hydrate()
        return f"raymodal://id/{self._object_id}"

    def __reduce__(self) -> tuple[Any, ...]:
        raise InvalidError(f"Can't serialize object {self!r} which hasn't been hydrated.")
