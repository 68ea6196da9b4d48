"""The part of Modal's surface that raymodal declares and does not carry out yet.

Such a method has its real name and signature; calling it, blocking or by `.aio`, raises `UnimplementedError` with the
reason and the way out. Nothing of it runs and nothing is silently ignored.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NoReturn

from raymodal.exception import UnimplementedError

DEPLOYED = (
    "Deployed apps come with a later milestone. Way out: `raymodal run`, or `with app.run():` in a script, work now"
)
WEB = "Web functions come with a later milestone. Way out: run the web framework's own server, and call functions with `.remote` from it"
SANDBOX = "Sandboxes come with a later milestone. Way out: run the command with `subprocess` inside a function"
NFS = (
    "Modal deprecates network file systems, and raymodal does not carry them out. Way out: a path that every node sees"
)
IMAGE = (
    "Images are not built: functions run in the Python environment of the node. Way out: install what is needed there"
)
SNAPSHOT = "Snapshots need Modal's runtime. Way out: start again from the beginning"
LOGS = "Kept logs come with a later milestone. Way out: `raymodal run`, or `with modal.enable_output():`, show them as they come"
STATS = "Statistics come with a later milestone"
CALL_GRAPH = "The call graph is not recorded yet. Way out: keep the FunctionCalls that you spawn"
CLUSTER = "Clusters of containers come with a later milestone. Way out: one function that asks for all GPUs of a node"
SERVER = "Servers come with a later milestone. Way out: run the server's own command on a node"
TUNNEL = "Tunnels need Modal's relays. Way out: connect to the node's address and port directly"
ENVIRONMENT = "Environments come with a later milestone; there is one, and it has no name"
WORKSPACE = "Workspaces, members, tokens and bills belong to Modal's service; the cluster is yours. There is nothing to manage here"
EXPERIMENTAL = "This part of modal.experimental has no counterpart on Ray"
INTERNAL = "This belongs to Modal's service and no program should need it"
INTERACTIVE = "Interactive runs come with a later milestone. Way out: `Function.local` under a debugger"


def refuse(what: str, why: str) -> NoReturn:
    """Raise the error for `what`.

    Raises:
        UnimplementedError: always.
    """
    raise UnimplementedError(f"{what} is not carried out by raymodal. {why}.")


class Later:
    """A method or function that only has a signature."""

    def __init__(self, declared: Callable[..., Any], why: str) -> None:
        functools.update_wrapper(self, declared)
        self._what = declared.__qualname__
        self._why = why

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        refuse(self._what, self._why)

    def aio(self, *args: Any, **kwargs: Any) -> Any:
        """The same error; there is nothing to await."""
        refuse(f"{self._what}.aio", self._why)


class LaterProperty:
    """An attribute that is declared and not there yet."""

    def __init__(self, declared: Callable[[Any], Any], why: str) -> None:
        self.__doc__ = declared.__doc__
        self._what = declared.__qualname__
        self._why = why

    def __get__(self, instance: object, owner: type | None = None) -> Any:
        if instance is None:
            return self
        refuse(self._what, self._why)


def later(why: str) -> Callable[[Callable[..., Any]], Later]:
    """Declare a method or function that raises `UnimplementedError`; its body is never run.

    Works for instance, class and static methods alike, because nothing is bound: write it without `@staticmethod`, and
    leave `self` out where Modal's has none.

    Example:
        >>> @later(SANDBOX)
        ... def create(*args: str) -> None: ...
        >>> create("ls")
        Traceback (most recent call last):
        raymodal.exception.UnimplementedError: create is not carried out by raymodal. Sandboxes come ...
    """
    return lambda declared: Later(declared, why)


def later_property(why: str) -> Callable[[Callable[[Any], Any]], LaterProperty]:
    """Declare a property that raises `UnimplementedError` when it is read."""
    return lambda declared: LaterProperty(declared, why)
