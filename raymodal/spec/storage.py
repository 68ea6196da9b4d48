"""What was said about secrets and mounted storage."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class SecretSpec(BaseModel):
    """Environment variables, literal or still to be found.

    `values` is complete for `literal`; `dotenv` and `named` are turned into `literal` when an app is loaded, which is
    also when `invalid` (something that is no secret; Modal does not look earlier) is refused. `revision` stands for the
    values of one that was named, where equal ones must be told from others and values must not be used.
    """

    # Not even a value of the wrong type is shown.
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True, hide_input_in_errors=True)

    kind: Literal["literal", "dotenv", "named", "invalid"]
    values: dict[str, str] = Field(default_factory=dict, repr=False)
    revision: str | None = None
    name: str | None = None
    environment_name: str | None = None
    required_keys: tuple[str, ...] = ()
    path: str | None = None
    filename: str = ".env"


class VolumeSpec(BaseModel):
    """A volume at a path, by its id or its name. `folder` is where its files are, filled in when an app is loaded."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    mount_path: str
    name: str | None
    volume_id: str | None = None
    folder: str | None = None
    environment_name: str | None = None
    create_if_missing: bool = False
    version: int | None = None
    read_only: bool = False
    sub_path: str | None = None


class BucketSpec(BaseModel):
    """A cloud bucket at a path."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    mount_path: str
    bucket_name: str
    endpoint_url: str | None = None
    key_prefix: str | None = None
    read_only: bool = False
    requester_pays: bool = False
    force_path_style: bool = False
    oidc_auth_role_arn: str | None = None
    secret: SecretSpec | None = None
