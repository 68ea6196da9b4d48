"""`ContainerProcess`: a command in a sandbox. Comes with a later milestone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, TypeVar

from raymodal import _later
from raymodal._later import later, later_property
from raymodal.stream_type import StreamType as StreamType

if TYPE_CHECKING:
    from raymodal.client import Client


T = TypeVar("T")


class ContainerProcess(Generic[T]):
    """A command that runs in a sandbox."""

    def __init__(
        self,
        process_id: str,
        task_id: str,
        client: Client,
        command_router_client: Any,
        stdout: StreamType = StreamType.PIPE,
        stderr: StreamType = StreamType.PIPE,
        exec_deadline: float | None = None,
        text: bool = True,
        by_line: bool = False,
    ) -> None:
        _later.refuse("ContainerProcess", _later.SANDBOX)

    @later_property(_later.SANDBOX)
    def returncode(self) -> Any:
        """Declared only."""

    @later_property(_later.SANDBOX)
    def stderr(self) -> Any:
        """Declared only."""

    @later_property(_later.SANDBOX)
    def stdin(self) -> Any:
        """Declared only."""

    @later_property(_later.SANDBOX)
    def stdout(self) -> Any:
        """Declared only."""

    @later(_later.SANDBOX)
    def attach(self) -> None:
        """Declared only."""

    @later(_later.SANDBOX)
    def poll(self) -> int | None:
        """Declared only."""

    @later(_later.SANDBOX)
    def wait(self) -> int:  # type: ignore[empty-body]
        """Declared only."""
