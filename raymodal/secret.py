"""`Secret`: environment variables for containers.

Values get out of here in one way only: `resolver` gives them to the plan of a run. A `repr` and an error name variables,
never what is in them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from raymodal._declare import env_values
from raymodal._dual import dual
from raymodal._names import check_name
from raymodal._old import OldMethod, lookup_by_name
from raymodal._stored import DEFAULT_ENVIRONMENT, environment, local_time, seconds_since_epoch
from raymodal.container.context import here
from raymodal.exception import AlreadyExistsError, InvalidError, NotFoundError
from raymodal.object import Object, new_id
from raymodal.spec.storage import SecretSpec

if TYPE_CHECKING:
    from raymodal.client import Client
    from raymodal.state.secrets import Facts, Found, NamedSecrets
    from raymodal.types import SecretInfo

__all__ = ["AlreadyExistsError", "InvalidError", "NotFoundError", "Secret", "SecretManager"]


class SecretManager:
    """`Secret.objects`: the named secrets. They are kept below `RAYMODAL_HOME`, encrypted."""

    @dual
    async def create(
        self,
        name: str,
        env_dict: dict[str, str],
        *,
        allow_existing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> None:
        """Make a named secret.

        Args:
            name: 1 to 64 letters, digits, dashes, periods and underscores.
            env_dict: The variables.
            allow_existing: Leave one that exists as it is, instead of raising.
            environment_name: Where to keep it.
            client: Not used.

        Raises:
            AlreadyExistsError: The name is taken, unless `allow_existing`.
            InvalidError: The name, or a variable, has characters that it must not have.
        """
        await asyncio.to_thread(keep, name, env_dict, environment_name, "keep" if allow_existing else "fail")

    @dual
    async def list(
        self,
        *,
        max_objects: int | None = None,
        created_before: datetime | str | None = None,
        environment_name: str = "",
        client: Client | None = None,
    ) -> list[Secret]:
        """The named secrets, newest first.

        Args:
            max_objects: At most so many; None for all.
            created_before: Only older ones; a time, or an ISO date or time, local unless it says otherwise.
            environment_name: Where to look.
            client: Not used.
        """
        if max_objects is not None and max_objects < 0:
            raise InvalidError(f"max_objects must not be negative, as {max_objects} is.")
        before = seconds_since_epoch(created_before)
        found = []
        for facts in await asyncio.to_thread(listed, environment_name, max_objects, before):
            secret = Secret.from_name(facts.name, environment_name=environment_name or None)
            secret._object_id = facts.object_id
            found.append(secret)
        return found

    @dual
    async def delete(
        self,
        name: str,
        *,
        allow_missing: bool = False,
        environment_name: str | None = None,
        client: Client | None = None,
    ) -> None:
        """Remove a named secret. Apps that run keep what they were started with.

        Raises:
            NotFoundError: There is none, unless `allow_missing`.
        """

        def remove() -> None:
            _named().delete(name, environment(environment_name), allow_missing=allow_missing)

        await asyncio.to_thread(remove)


def _create_deployed(
    cls: type[Secret],
    deployment_name: str,
    env_dict: dict[str, str],
    namespace: Any = None,
    client: Any = None,
    environment_name: str | None = None,
    overwrite: bool = False,
) -> str:
    return keep(deployment_name, env_dict, environment_name, "replace" if overwrite else "fail")


class Secret(Object):
    """Environment variables that containers get before user code is imported.

    Of several secrets that set the same variable, the later one wins.

    Example:
        >>> Secret.from_dict({"TOKEN": "abc"})
        Secret.from_dict(['TOKEN'])
    """

    _spec: SecretSpec
    _made_at: float
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
        where = "" if not self._spec.environment_name else f", environment_name={self._spec.environment_name!r}"
        return f"modal.Secret.from_name({self._spec.name!r}{where})"

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
        """A named secret, looked up when an app that uses it starts, or when it is first used.

        Args:
            name: As it was created: `raymodal secret create NAME KEY=VALUE`, or `Secret.objects.create`.
            environment_name: Where to look.
            required_keys: Variables that it must have; otherwise the lookup raises `NotFoundError`.
            client: Not used.
        """
        return Secret._of(
            SecretSpec(kind="named", name=name, environment_name=environment_name, required_keys=tuple(required_keys))
        )

    lookup = lookup_by_name()
    create_deployed = OldMethod(_create_deployed, "objects.create")

    @dual
    async def info(self, *, refresh: bool = False) -> SecretInfo:
        """Name, creation and last use; never its values.

        Raises:
            NotFoundError: there is no such secret.
        """
        from raymodal.types import SecretInfo

        await self._hydrate()
        if self._spec.kind != "named":
            return SecretInfo(None, DEFAULT_ENVIRONMENT, local_time(self._made_at), None, None)
        found = await asyncio.to_thread(lambda: _named().facts(self.object_id))
        last_used = None if found.last_used_at is None else local_time(found.last_used_at)
        return SecretInfo(found.name, found.environment, local_time(found.created_at), found.created_by, last_used)

    @dual
    async def update(self, env_dict: dict[str, str]) -> None:
        """Add and change variables of a named secret; the others stay. Containers that are there already keep what they have.

        Raises:
            NotFoundError: there is no such secret.
            InvalidError: it has no name, or `env_dict` is not a `dict[str, str]`.
        """
        values = checked(env_dict, "The dictionary of Secret.update")
        if self._spec.kind != "named":
            raise InvalidError(f"{self!r} has no name, and nothing to update; make another one")
        await self._hydrate()
        await asyncio.to_thread(lambda: _named().update(self.object_id, values))

    async def _hydrate(self) -> None:
        if self._object_id is not None:
            return
        if self._spec.kind == "named":
            self._object_id = (await asyncio.to_thread(_find, self._spec)).facts.object_id
        else:
            self._object_id, self._made_at = new_id("st"), _now()


def checked(env_dict: Any, what: str) -> dict[str, str]:
    """Variables that a process can have.

    Raises:
        InvalidError: it is not a `dict[str, str]`, or names or values cannot be in an environment. Names no value.
    """
    values = env_values(env_dict, what)
    for key in env_dict:
        if key not in values:
            raise InvalidError(f"{what} must be a dict[str, str]; the value of {key!r} is None. Leave it out.")
        if not key or "=" in key or "\0" in key + values[key]:
            raise InvalidError(
                f"{what} has {key!r}, which cannot be an environment variable: a name has one character or more and no "
                "'=', and neither name nor value has a zero character."
            )
    return values


def keep(name: str, env_dict: Any, environment_name: str | None, if_exists: Literal["fail", "keep", "replace"]) -> str:
    """Make a named secret, or do with one that exists what `if_exists` says. Returns its id.

    Raises:
        AlreadyExistsError: there is one, and that fails.
        InvalidError: the name or a variable is not allowed.
        NotFoundError: in a container on a node that does not have the secrets.
    """
    check_name("Secret", name)
    values = checked(env_dict, "The dictionary of a secret")
    facts = _named().create(
        name, values, environment(environment_name), if_exists=if_exists, now=_now(), user=_user_name()
    )
    return facts.object_id


def listed(
    environment_name: str | None, max_objects: int | None = None, created_before: float | None = None
) -> list[Facts]:
    """What is known of the named secrets of an environment, newest first."""
    return _named().list(environment(environment_name), max_objects=max_objects, created_before=created_before)


def resolver(needed: Iterable[SecretSpec] = ()) -> Callable[[SecretSpec], SecretSpec]:
    """`resolve` for one run: every named secret is looked up once, so that all functions see the same values.

    Args:
        needed: what the run will ask for.

    Raises:
        NotFoundError: some of what is needed is missing; says of each what to do.
    """
    found: dict[tuple[str | None, str | None, tuple[str, ...]], SecretSpec] = {}

    def find(spec: SecretSpec) -> SecretSpec:
        if spec.kind != "named":
            return resolve(spec)
        key = spec.name, spec.environment_name, spec.required_keys
        if key not in found:
            found[key] = resolve(spec)
        return found[key]

    missing: dict[str, None] = {}
    for spec in needed:
        if spec.kind == "named":
            try:
                find(spec)
            except NotFoundError as error:
                missing[str(error)] = None
    if missing:
        raise NotFoundError("\n".join(missing))
    return find


def resolve(spec: SecretSpec) -> SecretSpec:
    """The literal secret behind a `dotenv` or `named` one.

    Raises:
        NotFoundError: there is no such secret, or it lacks keys.
        InvalidError: what was given is not a secret.
        ImportError: python-dotenv is needed and not installed.
    """
    if spec.kind == "literal":
        return spec
    if spec.kind == "dotenv":
        return SecretSpec(kind="literal", values=_read_dotenv(spec.path, spec.filename))
    if spec.kind == "invalid":
        raise InvalidError(f"secrets= holds {spec.name}, which is not a modal.Secret")
    found = _find(spec)
    _named().mark_used([found.facts.object_id], _now())
    return SecretSpec(kind="literal", values=found.values, revision=found.revision)


def _find(spec: SecretSpec) -> Found:
    try:
        return _named().find(str(spec.name), environment(spec.environment_name), spec.required_keys)
    except NotFoundError as error:
        if here() is None:
            raise
        raise NotFoundError(f"{error} {_WHERE}") from None


_WHERE = (
    "A container looks in its own node's RAYMODAL_HOME; on other machines than the one that starts the run, "
    "give secrets to the function instead."
)


def _named() -> NamedSecrets:
    from raymodal.config import settings

    home = settings().home
    if here() is not None and not home.is_dir():
        raise NotFoundError(f"This node has no {home}, where named secrets are kept. {_WHERE}")
    # Late: SQLAlchemy and cryptography are for those that use named secrets.
    from raymodal.state.database import database
    from raymodal.state.secrets import NamedSecrets

    return NamedSecrets(database(home), lambda: new_id("st"))


def _now() -> float:
    return datetime.now(UTC).timestamp()


def _user_name() -> str | None:
    import pwd

    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # as in `docker run --user 1234`
        return None


def _read_dotenv(path: str | None, filename: str) -> dict[str, str]:
    start = Path.cwd() if path is None else Path(path)
    if start.is_file():
        found: Path | None = start
    else:
        found = next((folder / filename for folder in (start, *start.parents) if (folder / filename).is_file()), None)
    variables = read_dotenv(found)
    return {key: value for key, value in variables.items() if value is not None}


def read_dotenv(path: Path | None) -> dict[str, str | None]:
    """Variables of one `.env` file; none without a file.

    Raises:
        ImportError: python-dotenv is not installed.
    """
    try:
        from dotenv import dotenv_values
    except ImportError as error:
        raise ImportError(
            "Secrets from a .env file need the package python-dotenv: `pip install python-dotenv`", name="dotenv"
        ) from error
    return {} if path is None else dict(dotenv_values(path))
