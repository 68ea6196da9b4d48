"""`modal.experimental`: what Modal tries out. Few of it means anything on Ray."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any

from raymodal import _later
from raymodal._dual import dual_function
from raymodal._later import later
from raymodal._outbound_policy import OutboundPolicy as OutboundPolicy
from raymodal._warn import deprecated
from raymodal.container.context import here
from raymodal.exception import InvalidError as InvalidError
from raymodal.experimental.flash import flash_forward as flash_forward
from raymodal.experimental.flash import flash_get_containers as flash_get_containers
from raymodal.experimental.flash import http_server as http_server
from raymodal.experimental.flash_server import ServerManager as ServerManager
from raymodal.experimental.flash_server import server_forward as server_forward
from raymodal.experimental.stream import AppendResult as AppendResult
from raymodal.experimental.stream import Entry as Entry
from raymodal.experimental.stream import IdempotencyConflict as IdempotencyConflict
from raymodal.experimental.stream import Stream as Stream
from raymodal.experimental.stream import StreamInfo as StreamInfo
from raymodal.experimental.stream import StreamToken as StreamToken
from raymodal.experimental.stream import StreamWriter as StreamWriter
from raymodal.partial_function import PartialFunction, clustered_with

if TYPE_CHECKING:
    from raymodal.client import Client
    from raymodal.cls import Cls
    from raymodal.functions import Function


@dataclass
class AppInfo:
    """A value that a later milestone returns."""

    app_id: str
    name: str
    containers: int


@dataclass
class AppLifecycle:
    """A value that a later milestone returns."""

    version: int | None
    created_at: datetime
    created_by: str
    deployed_at: datetime | None
    deployed_by: str | None
    stopped_at: datetime | None
    stopped_by: str | None


@dataclass
class ClusterReservationTask:
    """A value that a later milestone returns."""

    task_id: str
    cluster_rank: int
    app_id: str
    function_id: str


@dataclass
class ClusterReservation:
    """A value that a later milestone returns."""

    name: str
    gpu_type: str
    region: str
    min_reserved_workers: int
    reserved_workers: int
    active_workers: int
    idle_workers: int
    unfulfilled_workers: int
    tasks: list[ClusterReservationTask]


@dataclass
class ClusterInfo:
    """A value that a later milestone returns."""

    rank: int
    cluster_id: str
    container_ips: list[str]
    container_ipv4_ips: list[str]
    fabric_ids: list[str]


@dataclass
class DockerfileSpec:
    """Lines of a Dockerfile and the files that they need."""

    commands: list[str] = field(default_factory=list)
    context_files: dict[str, str] = field(default_factory=dict)


def clustered(
    size: int, broadcast: bool = True, rdma: bool = False, fabric_size: int | None = None
) -> Callable[[Any], PartialFunction[Any, Any, Any]]:
    """The older form of `modal.clustered`."""
    # An assertion, because Modal's is one and programs may catch it.
    assert broadcast, "broadcast=False is not possible"
    deprecated("modal.experimental.clustered is now modal.clustered.")
    return clustered_with(size, rdma, fabric_size)


def get_cluster_info() -> ClusterInfo:
    """The cluster that this container is part of.

    Raises:
        InvalidError: it is part of none; clusters come with a later milestone.
    """
    raise InvalidError(
        "get_cluster_info() works in a container of a clustered function only; they come with a later milestone"
    )


def get_local_input_concurrency() -> int:
    """How many inputs this container runs at once."""
    context = here()
    assert context is not None, "get_local_input_concurrency() works in a container only"
    return 1 if context.lanes is None else int(context.lanes())


def set_local_input_concurrency(concurrency: int) -> None:
    """Change how many inputs this container runs at once: at least one, at most `max_inputs` of its `@concurrent`."""
    context = here()
    assert context is not None, "set_local_input_concurrency() works in a container only"
    if context.lanes is not None:
        context.lanes(concurrency)


async def _stop_fetching_inputs() -> None:
    """This container finishes what it runs and takes no more.

    Raises:
        RuntimeError: outside of a container.
    """
    context = here()
    if context is None or context.retire is None:
        raise RuntimeError("stop_fetching_inputs() works in a container only")
    context.retire("stop_fetching_inputs() was called")


stop_fetching_inputs = dual_function(_stop_fetching_inputs)


@later(_later.DEPLOYED)
def get_app_lifecycle(app_id: str, *, client: Client | None = None) -> AppLifecycle:  # type: ignore[empty-body]
    """Declared only."""


@later(_later.DEPLOYED)
def get_app_objects(  # type: ignore[empty-body]
    app_name: str,
    *,
    environment_name: str | None = None,
    client: Client | None = None,
) -> dict[str, Function[..., Any, Any] | Cls]:
    """Declared only."""


@later(_later.CLUSTER)
def get_fabric_peers() -> list[int]:  # type: ignore[empty-body]
    """Declared only."""


@later(_later.IMAGE)
def image_delete(image_id: str, *, client: Client | None = None) -> None:
    """Declared only."""


@later(_later.EXPERIMENTAL)
def list_cluster_reservations(*, client: Client | None = None) -> list[ClusterReservation]:  # type: ignore[empty-body]
    """Declared only."""


@later(_later.DEPLOYED)
def list_deployed_apps(environment_name: str = "", client: Client | None = None) -> list[AppInfo]:  # type: ignore[empty-body]
    """Declared only."""


@later(_later.DEPLOYED)
def stop_app(name: str, *, environment_name: str | None = None, client: Client | None = None) -> None:
    """Declared only."""
