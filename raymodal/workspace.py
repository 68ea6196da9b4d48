"""`Workspace`: accounts, tokens and bills of Modal's service. Declared, so that imports work."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from raymodal import _later
from raymodal._later import later, later_property
from raymodal.object import Object
from raymodal.types import ProxyTokenInfo as ProxyTokenInfo
from raymodal.types import TokenData as TokenData
from raymodal.types import WorkspaceMemberInfo as WorkspaceMemberInfo
from raymodal.types import WorkspaceSettings as WorkspaceSettings

if TYPE_CHECKING:
    from raymodal.client import Client
    from raymodal.types import BillingReportItem, MemberTokenInfo, ServiceUserInfo, WorkspaceBillingSummary


_List = list  # classes below have a method of that name


class WorkspaceBillingManager:
    """`workspace.billing`."""

    def __init__(self, workspace: Workspace) -> None:
        _later.refuse("WorkspaceBillingManager", _later.WORKSPACE)

    @later(_later.WORKSPACE)
    def rates(self) -> Any:
        """Declared only."""

    @later(_later.WORKSPACE)
    def report(  # type: ignore[empty-body]
        self,
        *,
        start: datetime,
        end: datetime | None = None,
        resolution: str = "d",
        tag_names: list[str] | None = None,
    ) -> list[BillingReportItem]:
        """Declared only."""

    @later(_later.WORKSPACE)
    def summary(self, cycle: str | datetime | None = None) -> WorkspaceBillingSummary:  # type: ignore[empty-body]
        """Declared only."""


class WorkspaceMemberTokenManager:
    """`workspace.member_tokens`."""

    def __init__(self, workspace: Workspace) -> None:
        _later.refuse("WorkspaceMemberTokenManager", _later.WORKSPACE)

    @later(_later.WORKSPACE)
    def delete(self, token_id: str, *, allow_missing: bool = False) -> None:
        """Declared only."""

    @later(_later.WORKSPACE)
    def disable(self, *token_ids: str) -> None:
        """Declared only."""

    @later(_later.WORKSPACE)
    def enable(self, *token_ids: str) -> None:
        """Declared only."""

    @later(_later.WORKSPACE)
    def list(self) -> _List[MemberTokenInfo]:  # type: ignore[empty-body]
        """Declared only."""


class WorkspaceMembersManager:
    """`workspace.members`."""

    def __init__(self, workspace: Workspace) -> None:
        _later.refuse("WorkspaceMembersManager", _later.WORKSPACE)

    @later(_later.WORKSPACE)
    def list(self) -> _List[WorkspaceMemberInfo]:  # type: ignore[empty-body]
        """Declared only."""


class WorkspaceProxyTokenManager:
    """`workspace.proxy_tokens`."""

    def __init__(self, workspace: Workspace) -> None:
        _later.refuse("WorkspaceProxyTokenManager", _later.WORKSPACE)

    @later(_later.WORKSPACE)
    def allow(self, proxy_token_id: str, environment_name: str) -> None:
        """Declared only."""

    @later(_later.WORKSPACE)
    def create(self, name: str = "") -> TokenData:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.WORKSPACE)
    def delete(self, proxy_token_id: str) -> None:
        """Declared only."""

    @later(_later.WORKSPACE)
    def list(self, environment_name: str | None = None) -> _List[ProxyTokenInfo]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.WORKSPACE)
    def revoke(self, proxy_token_id: str, environment_name: str) -> None:
        """Declared only."""

    @later(_later.WORKSPACE)
    def update(self, proxy_token_id: str, *, name: str) -> None:
        """Declared only."""


class WorkspaceServiceUserManager:
    """`workspace.service_users`."""

    def __init__(self, workspace: Workspace) -> None:
        _later.refuse("WorkspaceServiceUserManager", _later.WORKSPACE)

    @later(_later.WORKSPACE)
    def create(self, name: str, *, expires_in: int | None) -> TokenData:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.WORKSPACE)
    def delete(self, name: str, *, allow_missing: bool = False) -> None:
        """Declared only."""

    @later(_later.WORKSPACE)
    def info(self, name: str) -> ServiceUserInfo:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.WORKSPACE)
    def list(self) -> _List[ServiceUserInfo]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.WORKSPACE)
    def set_role(self, service_user_name: str, environment_name: str, *, role: str) -> None:
        """Declared only."""


class WorkspaceSettingsManager:
    """`workspace.settings`."""

    def __init__(self, workspace: Workspace) -> None:
        _later.refuse("WorkspaceSettingsManager", _later.WORKSPACE)

    @later(_later.WORKSPACE)
    def list(self) -> None:
        """Declared only."""

    @later(_later.WORKSPACE)
    def set(self, name: str, value: str) -> None:
        """Declared only."""


class Workspace(Object):
    """An account of Modal's service."""

    def __init__(self) -> None:
        super().__init__()

    def _representation(self) -> str:
        return "Workspace.from_context()"

    def _raise_not_hydrated(self) -> NoReturn:
        _later.refuse(repr(self), _later.WORKSPACE)

    @staticmethod
    def from_context(*, client: Client | None = None) -> Workspace:
        """The workspace of this process; nothing is looked up."""
        return Workspace._new()

    @later_property(_later.WORKSPACE)
    def billing(self) -> Any:
        """Declared only."""

    @later_property(_later.WORKSPACE)
    def member_tokens(self) -> Any:
        """Declared only."""

    @later_property(_later.WORKSPACE)
    def members(self) -> Any:
        """Declared only."""

    @later_property(_later.WORKSPACE)
    def name(self) -> Any:
        """Declared only."""

    @later_property(_later.WORKSPACE)
    def proxy_tokens(self) -> Any:
        """Declared only."""

    @later_property(_later.WORKSPACE)
    def service_users(self) -> Any:
        """Declared only."""

    @later_property(_later.WORKSPACE)
    def settings(self) -> Any:
        """Declared only."""
