"""`Environment`: named sets of apps, secrets and storage. Comes with a later milestone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn

from raymodal import _later
from raymodal._later import later, later_property
from raymodal.object import Object

if TYPE_CHECKING:
    from raymodal.app import App
    from raymodal.client import Client
    from raymodal.types import BillingReportItem, EnvironmentBillingSummary


_List = list  # classes below have a method of that name


class EnvironmentManager:
    """`Environment.objects`."""

    @later(_later.ENVIRONMENT)
    def create(
        self,
        name: str,
        *,
        restricted: bool = False,
        default_role: str | None = None,
        experimental_options: dict[str, Any] | None = None,
        client: Client | None = None,
    ) -> None:
        """Declared only."""

    @later(_later.ENVIRONMENT)
    def delete(self, name: str, *, client: Client | None = None) -> None:
        """Declared only."""

    @later(_later.ENVIRONMENT)
    def list(self, *, client: Client | None = None) -> _List[Environment]:  # type: ignore[empty-body]
        """Declared only."""


class EnvironmentAppsManager:
    """`environment.apps`."""

    def __init__(self, environment: Environment) -> None:
        _later.refuse("EnvironmentAppsManager", _later.ENVIRONMENT)

    @later(_later.ENVIRONMENT)
    def list(self) -> _List[App]:  # type: ignore[empty-body]
        """Declared only."""


class EnvironmentBillingManager:
    """`environment.billing`."""

    def __init__(self, environment: Environment) -> None:
        _later.refuse("EnvironmentBillingManager", _later.WORKSPACE)

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
    def summary(self, cycle: str | datetime | None = None) -> EnvironmentBillingSummary:  # type: ignore[empty-body]
        """Declared only."""


class EnvironmentMembersManager:
    """`environment.members`."""

    def __init__(self, environment: Environment) -> None:
        _later.refuse("EnvironmentMembersManager", _later.WORKSPACE)

    @later(_later.WORKSPACE)
    def list(self) -> dict[Literal["users", "service_users"], dict[str, str]]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.WORKSPACE)
    def remove(self, *, users: Iterable[str] | None = None, service_users: Iterable[str] | None = None) -> None:
        """Declared only."""

    @later(_later.WORKSPACE)
    def update(
        self,
        *,
        users: Mapping[str, str] | None = None,
        service_users: Mapping[str, str] | None = None,
    ) -> None:
        """Declared only."""


class EnvironmentRolesManager:
    """`environment.roles`."""

    def __init__(self, environment: Environment) -> None:
        _later.refuse("EnvironmentRolesManager", _later.WORKSPACE)

    @later(_later.WORKSPACE)
    def list(self, *, exclude_default: bool = False) -> dict[Literal["users", "service_users"], dict[str, str]]:  # type: ignore[empty-body]
        """Declared only."""

    @later(_later.WORKSPACE)
    def update(
        self,
        *,
        users: Mapping[str, str] | None = None,
        service_users: Mapping[str, str] | None = None,
    ) -> None:
        """Declared only."""


class Environment(Object):
    """A named set of apps, secrets and storage."""

    _name: str | None
    objects: ClassVar[EnvironmentManager] = EnvironmentManager()

    def __init__(self) -> None:
        super().__init__()

    def _representation(self) -> str:
        return "Environment.from_context()" if self._name is None else f"Environment.from_name({self._name!r})"

    def _raise_not_hydrated(self) -> NoReturn:
        _later.refuse(repr(self), _later.ENVIRONMENT)

    @staticmethod
    def from_name(name: str, *, create_if_missing: bool = False, client: Client | None = None) -> Environment:
        """An environment by its name; nothing is looked up."""
        found = Environment._new()
        found._name = name
        return found

    @staticmethod
    def from_context(*, client: Client | None = None) -> Environment:
        """The environment of this process; nothing is looked up."""
        found = Environment._new()
        found._name = None
        return found

    @property
    def name(self) -> str | None:
        """The name it was asked for by."""
        return self._name

    @later_property(_later.ENVIRONMENT)
    def apps(self) -> Any:
        """Declared only."""

    @later_property(_later.ENVIRONMENT)
    def billing(self) -> Any:
        """Declared only."""

    @later_property(_later.ENVIRONMENT)
    def members(self) -> Any:
        """Declared only."""

    @later_property(_later.ENVIRONMENT)
    def roles(self) -> Any:
        """Declared only."""


@later(_later.ENVIRONMENT)
def create_environment(name: str, client: Client | None = None) -> None:
    """Declared only."""


@later(_later.ENVIRONMENT)
def delete_environment(name: str, client: Client | None = None) -> None:
    """Declared only."""


@later(_later.ENVIRONMENT)
def list_environments(client: Client | None = None) -> list[Any]:  # type: ignore[empty-body]
    """Declared only."""


@later(_later.ENVIRONMENT)
def update_environment(
    current_name: str,
    *,
    new_name: str | None = None,
    new_web_suffix: str | None = None,
    new_image_builder_version: str | None = None,
    client: Client | None = None,
) -> None:
    """Declared only."""
