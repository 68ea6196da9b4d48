"""`Secret`: environment variables for containers."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from raymodal import _later
from raymodal._declare import env_values
from raymodal._later import later
from raymodal._old import lookup_by_name
from raymodal.container.context import here
from raymodal.exception import InvalidError, NotFoundError
from raymodal.object import Object
from raymodal.spec.storage import SecretSpec

if TYPE_CHECKING:
    from raymodal.client import Client
    from raymodal.types import SecretInfo


class SecretManager:
    """`Secret.objects`: the named secrets. They come with a later milestone."""

    @later(_later.NAMED_SECRET)
    def create(
        self,
        name: str,
        env_dict: dict[str, str],
        *,
        allow_existing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> None:
        """Make a named secret."""

    @later(_later.NAMED_SECRET)
    def list(  # type: ignore[empty-body]
        self,
        *,
        max_objects: int | None = None,
        created_before: datetime | str | None = None,
        environment_name: str = "",
        client: Client | None = None,
    ) -> list[Secret]:
        """The named secrets."""

    @later(_later.NAMED_SECRET)
    def delete(
        self,
        name: str,
        *,
        allow_missing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> None:
        """Remove a named secret."""


class Secret(Object):
    """Environment variables that containers get before user code is imported.

    Of several secrets that set the same variable, the later one wins.

    Example:
        >>> Secret.from_dict({"TOKEN": "abc"})
        Secret.from_dict(['TOKEN'])
    """

    _spec: SecretSpec
    objects: ClassVar[SecretManager] = SecretManager()

    @classmethod
    def _of(cls, spec: SecretSpec) -> Secret:
        secret = cls._new()
        secret._spec = spec
        return secret

    def _representation(self) -> str:
        # Names of variables only: a repr ends up in logs.
        if self._spec.kind == "literal":
            return f"Secret.from_dict({list(self._spec.values)!r})"
        if self._spec.kind == "dotenv":
            return f"Secret.from_dotenv({self._spec.path!r})"
        return f"Secret.from_name({self._spec.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return Secret._of, (self._spec,)

    @property
    def name(self) -> str | None:
        """The name of a named secret."""
        return self._spec.name

    @staticmethod
    def from_dict(env_dict: dict[str, str | None] = {}) -> Secret:  # noqa: B006  Modal's default; never written to
        """Variables as given; those that are None are left out.

        Raises:
            InvalidError: it is not a `dict[str, str | None]`.
        """
        return Secret._of(SecretSpec(kind="literal", values=env_values(env_dict, "The dictionary of Secret.from_dict")))

    @staticmethod
    def from_local_environ(env_keys: list[str]) -> Secret:
        """Variables of this process, read now. Inside a container it is empty, because they are there already.

        Raises:
            InvalidError: a variable is not set.
        """
        if here() is not None:
            return Secret.from_dict({})
        missing = [key for key in env_keys if key not in os.environ]
        if missing:
            raise InvalidError(
                f"Secret.from_local_environ: {missing[0]!r} is not set in this process; set it or leave it out"
            )
        return Secret.from_dict({key: os.environ[key] for key in env_keys})

    @staticmethod
    def from_dotenv(path: str | Path | None = None, *, filename: str = ".env", client: Client | None = None) -> Secret:
        """Variables of a `.env` file, read when the app is loaded. Without a file it is empty.

        Args:
            path: file or folder to search from, upwards; the working directory by default.
            filename: what the file is called.
        """
        return Secret._of(
            SecretSpec(kind="dotenv", path=None if path is None else str(Path(path).resolve()), filename=filename)
        )

    @staticmethod
    def from_name(
        name: str,
        *,
        environment_name: str | None = None,
        required_keys: list[str] = [],  # noqa: B006
        client: Client | None = None,
    ) -> Secret:
        """A named secret. Named secrets come with a later milestone: a run that uses one fails as it starts."""
        return Secret._of(
            SecretSpec(kind="named", name=name, environment_name=environment_name, required_keys=tuple(required_keys))
        )

    lookup = lookup_by_name()

    @later(_later.NAMED_SECRET)
    def info(self, *, refresh: bool = False) -> SecretInfo:  # type: ignore[empty-body]
        """Facts about a named secret; never its values."""

    @later(_later.NAMED_SECRET)
    def update(self, env_dict: dict[str, str]) -> None:
        """Change variables of a named secret."""


def resolve(spec: SecretSpec) -> SecretSpec:
    """The literal secret behind a `dotenv` or `named` one.

    Raises:
        NotFoundError: there are no named secrets yet.
        InvalidError: what was given is not a secret.
        ImportError: python-dotenv is needed and not installed.
    """
    if spec.kind == "literal":
        return spec
    if spec.kind == "dotenv":
        return SecretSpec(kind="literal", values=_read_dotenv(spec.path, spec.filename))
    if spec.kind == "invalid":
        raise InvalidError(f"secrets= holds {spec.name}, which is not a modal.Secret")
    raise NotFoundError(
        f"Secret {spec.name!r} cannot be found: named secrets come with the Environment milestone. Until then use "
        "Secret.from_dict({...}), Secret.from_local_environ([...]) or Secret.from_dotenv(), or env= of the decorator."
    )


def _read_dotenv(path: str | None, filename: str) -> dict[str, str]:
    try:
        from dotenv import dotenv_values
    except ImportError as error:
        raise ImportError(
            "Secret.from_dotenv needs the package python-dotenv: `pip install python-dotenv`", name="dotenv"
        ) from error
    start = Path.cwd() if path is None else Path(path)
    if start.is_file():
        found: Path | None = start
    else:
        found = next((folder / filename for folder in (start, *start.parents) if (folder / filename).is_file()), None)
    if found is None:
        return {}
    return {key: value for key, value in dotenv_values(found).items() if value is not None}
