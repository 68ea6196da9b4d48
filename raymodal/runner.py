"""`modal.runner`: the functions behind `app.run` and `app.deploy`, for programs that call them directly."""

from __future__ import annotations

import multiprocessing.synchronize
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raymodal import _later
from raymodal._later import later

if TYPE_CHECKING:
    from raymodal.app import App, AppRun
    from raymodal.client import Client


@dataclass(frozen=True)
class DeployResult:
    """What a deployment returns."""

    app_id: str
    app_page_url: str | None
    app_logs_url: str | None
    warnings: list[str]


class _RunApp:
    """`run_app`"""

    def __call__(
        self,
        app: App,
        *,
        name: str | None = None,
        client: Client | None = None,
        detach: bool = False,
        environment_name: str | None = None,
        interactive: bool = False,
        deployment_strategy: str = "rolling",
        stream_output: bool = True,
    ) -> AppRun:
        """The same as `app.run(...)`."""
        return app.run(
            name=name, client=client, detach=detach, interactive=interactive, environment_name=environment_name
        )

    aio = __call__


run_app = _RunApp()


@later(_later.DEPLOYED)
def deploy_app(  # type: ignore[empty-body]
    app: App,
    name: str | None = None,
    *,
    environment_name: str | None = None,
    tag: str = "",
    deployment_strategy: str = "rolling",
    client: Client | None = None,
    staged: bool = False,
) -> DeployResult:
    """Declared only."""


@later(_later.INTERACTIVE)
def interactive_shell(
    _app: App,
    cmds: list[str],
    environment_name: str = "",
    pty: bool = True,
    v2: bool = False,
    **kwargs: Any,
) -> None:
    """Declared only."""


@later(_later.DEPLOYED)
def serve_update(
    app: App,
    existing_app_id: str,
    is_ready: multiprocessing.synchronize.Event,
    environment_name: str,
) -> None:
    """Declared only."""
