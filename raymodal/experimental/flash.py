"""`modal.experimental.flash`: Modal's routing. Has no counterpart."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from raymodal import _later
from raymodal._later import later
from raymodal._warn import WARNINGS, warn_once

if TYPE_CHECKING:
    from raymodal.client import Client


T = TypeVar("T")


class FlashManager:
    """Modal's routing."""

    def __init__(
        self,
        client: Client,
        port: int,
        process: subprocess.Popen[bytes] | None = None,
        health_check_url: str | None = None,
        startup_timeout: int = 30,
        exit_grace_period: int = 0,
        h2_enabled: bool = False,
    ) -> None:
        _later.refuse("FlashManager", _later.EXPERIMENTAL)

    @later(_later.EXPERIMENTAL)
    def close(self) -> None:
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def get_container_url(self) -> None:
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def is_port_connection_healthy(  # type: ignore[empty-body]
        self,
        process: subprocess.Popen[bytes] | None,
        timeout: float = 0.5,
    ) -> tuple[bool, Exception | None]:
        """Declared only."""

    @later(_later.EXPERIMENTAL)
    def stop(self) -> None:
        """Declared only."""


@later(_later.EXPERIMENTAL)
def flash_forward(  # type: ignore[empty-body]
    port: int,
    process: subprocess.Popen[bytes] | None = None,
    health_check_url: str | None = None,
    startup_timeout: int = 30,
    exit_grace_period: int = 0,
    h2_enabled: bool = False,
) -> FlashManager:
    """Declared only."""


@later(_later.EXPERIMENTAL)
def flash_get_containers(app_name: str, cls_name: str) -> list[Any]:  # type: ignore[empty-body]
    """Declared only."""


def http_server(
    port: int | None = None,
    *,
    proxy_regions: list[str] = [],  # noqa: B006
    startup_timeout: int = 30,
    exit_grace_period: int | None = None,
    h2_enabled: bool = False,
) -> Callable[[T], T]:
    """Marks a class that serves HTTP. Servers come with a later milestone: it is accepted with a warning, so that the rest of the file runs."""
    warn_once("server", f"@modal.experimental.http_server: {WARNINGS['server']}")
    return lambda user_cls: user_cls
