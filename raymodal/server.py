"""`Server`: an HTTP service made of a class. Recorded and checked; served in a later milestone."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from raymodal import _later
from raymodal._declare import check_scaling
from raymodal._later import later, later_property
from raymodal.cls import find_partials, is_parameter
from raymodal.exception import InvalidError
from raymodal.partial_function import PartialFunction, PartialFunctionFlags

if TYPE_CHECKING:
    from raymodal.app import App
    from raymodal.client import Client
    from raymodal.types import (
        ServerAutoscalerSettings,
        ServerContainerInfo,
        ServerInfo,
        ServerSessionCredentials,
        ServerStats,
    )


class ServerSessionsManager:
    """`server.sessions`."""

    def __init__(self, server: Server) -> None:
        _later.refuse("ServerSessionsManager", _later.SERVER)

    @later(_later.SERVER)
    def start(self, idle_timeout: int = 600) -> ServerSessionCredentials:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SERVER)
    def terminate(self, token: str) -> None:
        """Declared only."""


class ServerAutoscalerManager:
    """`server.autoscaler`."""

    def __init__(self, server: Server) -> None:
        _later.refuse("ServerAutoscalerManager", _later.SERVER)

    @later(_later.SERVER)
    def settings(self) -> ServerAutoscalerSettings:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SERVER)
    def update(  # type: ignore[empty-body]
        self,
        *,
        target_concurrency: float | None = -1,
        min_containers: int | None = -1,
        max_containers: int | None = -1,
        buffer_containers: int | None = -1,
        scaledown_window: int = -1,
        scaleup_window: int = -1,
    ) -> ServerAutoscalerSettings:
        """Declared only."""


class Server:
    """An HTTP service of an App."""

    _how: str
    user_cls: type | None = None
    params: dict[str, Any]

    @classmethod
    def _of(cls, how: str, user_cls: type | None = None, params: dict[str, Any] | None = None) -> Server:
        server = cls()
        server._how = how
        server.user_cls = user_cls
        server.params = params or {}
        return server

    @property
    def object_id(self) -> str:
        """The id; there is none before servers run."""
        raise AttributeError(f"{self._how} has no object_id yet")

    @classmethod
    def from_name(
        cls, app_name: str, name: str, *, environment_name: str | None = None, client: Client | None = None
    ) -> Server:
        """A server of a deployed app; nothing is looked up before its first use."""
        return cls._of(f"Server.from_name({app_name!r}, {name!r})")

    @classmethod
    def from_id(cls, server_id: str, *, client: Client | None = None) -> Server:
        """A server by its id; nothing is looked up before its first use."""
        return cls._of(f"Server.from_id({server_id!r})")

    @later(_later.SERVER)
    def hydrate(self, client: Client | None = None) -> Server:  # type: ignore[empty-body]
        """Make sure that it exists."""

    @later_property(_later.SERVER)
    def autoscaler(self) -> Any:
        """Declared only."""

    @later_property(_later.SERVER)
    def logs(self) -> Any:
        """Declared only."""

    @later_property(_later.SERVER)
    def metrics(self) -> Any:
        """Declared only."""

    @later_property(_later.SERVER)
    def sessions(self) -> Any:
        """Declared only."""

    @later(_later.SERVER)
    def _experimental_list_containers(self) -> list[ServerContainerInfo]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SERVER)
    def get_url(self) -> str | None:
        """Declared only."""

    @later(_later.SERVER)
    def info(self, *, refresh: bool = False) -> ServerInfo:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.SERVER)
    def stats(  # type: ignore[empty-body]
        self,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        container: str | None = None,
    ) -> ServerStats:
        """Declared only."""

    @later(_later.SERVER)
    def update_autoscaler(  # type: ignore[empty-body]
        self,
        *,
        target_concurrency: float | None = None,
        min_containers: int | None = None,
        max_containers: int | None = None,
        buffer_containers: int | None = None,
        scaleup_window: int | None = None,
        scaledown_window: int | None = None,
    ) -> ServerAutoscalerSettings:
        """Declared only."""


def check_server_params(params: dict[str, Any]) -> None:
    """Check what only `@app.server` takes.

    Raises:
        InvalidError: a figure is wrong.
        TypeError: `startup_timeout=None`.
    """
    port = params["port"]
    if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= 65535:
        raise InvalidError(f"port={port!r} must be an integer from 1 to 65535")
    target, most = params["target_concurrency"], params["max_concurrency"]
    if target is not None:
        if isinstance(target, bool) or not isinstance(target, (int, float)):
            raise InvalidError(f"target_concurrency={target!r} must be a number")
        if target < 0:
            raise InvalidError(f"target_concurrency={target} is negative")
        # As in Modal: what is less than one request means one, and more than two decimals mean nothing.
        params["target_concurrency"] = target = 1.0 if 0 < target < 1 else round(target, 2)
    if most is not None:
        if isinstance(most, bool) or not isinstance(most, int):
            raise InvalidError(f"max_concurrency={most!r} must be an integer")
        if most < 0:
            raise InvalidError(f"max_concurrency={most} is negative")
    if target is not None and most is not None and target > most:
        raise InvalidError(f"target_concurrency={target} is greater than max_concurrency={most}")
    if params["scaleup_window"] is not None and params["scaleup_window"] <= 0:
        raise InvalidError(f"scaleup_window={params['scaleup_window']} must be positive")
    if params["exit_grace_period"] < 0 or params["exit_grace_period"] > 3600:
        raise InvalidError(f"exit_grace_period={params['exit_grace_period']} must be from 0 to 3600 seconds")
    if params["startup_timeout"] <= 0:
        raise InvalidError(f"startup_timeout={params['startup_timeout']} must be positive")
    check_scaling(
        params["min_containers"], params["max_containers"], params["buffer_containers"], params["scaledown_window"]
    )


def declare_server(app: App, user_cls: Any, params: dict[str, Any]) -> Server:
    """What `@app.server(...)` does to a class.

    Raises:
        TypeError: not a class.
        InvalidError: the class has what a server cannot have, or no enter hook.
    """
    flags = PartialFunctionFlags
    if isinstance(user_cls, PartialFunction):
        partial = user_cls
        if partial.user_cls is None:
            raise TypeError("@app.server stands on a function; it needs a class")
        partial.registered = True
        if partial.flags & flags.CONCURRENT:
            raise InvalidError("@modal.concurrent does not go with @app.server; use target_concurrency=")
        user_cls = partial.user_cls
    if not isinstance(user_cls, type):
        raise TypeError(f"@app.server stands on {user_cls!r}, which is not a class")
    name = user_cls.__name__
    partials = find_partials(user_cls)
    if any(p.flags & flags.CALLABLE_INTERFACE for p in partials.values()):
        raise InvalidError(f"The server class {name!r} has @modal.method()s; a server only answers HTTP")
    if any(p.flags & flags.WEB_INTERFACE for p in partials.values()):
        raise InvalidError(f"The server class {name!r} has web decorators; start the server in @modal.enter() instead")
    if any(p.flags & flags.CONCURRENT for p in partials.values()):
        raise InvalidError("@modal.concurrent does not go with @app.server; use target_concurrency=")
    if any(is_parameter(value) for klass in user_cls.__mro__ for value in vars(klass).values()):
        raise InvalidError(f"The server class {name!r} has modal.parameter()s, which servers do not have")
    if user_cls.__init__ is not object.__init__:  # type: ignore[misc]
        raise InvalidError(f"The server class {name!r} has its own __init__; start the server in @modal.enter()")
    if not any(p.flags & (flags.ENTER_PRE_SNAPSHOT | flags.ENTER_POST_SNAPSHOT) for p in partials.values()):
        raise InvalidError(f"The server class {name!r} needs an @modal.enter() that starts the server")
    tag = params["name"] or name
    server = Server._of(f"Server({tag})", user_cls, params)
    app._servers[tag] = server
    return server
