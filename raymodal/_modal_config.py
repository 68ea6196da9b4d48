"""`modal.config.config`: the settings of Modal's client, for programs that read them. raymodal obeys none but the few that `config` names.

A value comes from `MODAL_<KEY>` or is Modal's default; profile files are not read, because they hold credentials of a service that is not asked.
"""

from __future__ import annotations

import os
from typing import Any

from raymodal import _later

user_config_path: str = os.path.expanduser(
    "~/.modal.toml"
)  # not `Path.expanduser`, which raises for a user without a home
_profile = "default"

_DEFAULTS: dict[str, Any] = {
    "async_warnings": True,
    "build_validation": "error",
    "default_cloud": None,
    "dev_suffix": "",
    "disable_api_proxy": False,
    "environment": None,
    "force_build": False,
    "ignore_cache": False,
    "image_builder_version": None,
    "log_format": "STRING",
    "log_pattern": None,
    "loglevel": "WARNING",
    "logs_timeout": 10,
    "max_throttle_wait": None,
    "oauth_client_id": None,
    "oauth_client_secret": None,
    "oauth_jwt_key": None,
    "oauth_refresh_token": None,
    "payload_format": "pickle",
    "sandbox_channel_idle_timeout": 30,
    "sandbox_v2": True,
    "serve_timeout": None,
    "server_url": "raymodal://local",
    "token_id": None,
    "token_secret": None,
    "traceback": False,
    "volume_block_read_timeout": 60,
}


class Config:
    """Settings by key.

    Example:
        >>> Config()["logs_timeout"]
        10
    """

    def __init__(self) -> None:
        self._overrides: dict[str, str] = {}

    def get(self, key: str, *, profile: str | None = None, use_env: bool = True) -> Any:
        """One setting.

        Raises:
            KeyError: Modal has no such setting.
        """
        default = _DEFAULTS[key]
        raw = self._overrides.get(key)
        if raw is None and use_env:
            raw = os.environ.get(f"MODAL_{key.upper()}")
        return default if raw is None else _converted(raw, default)

    def override_locally(self, key: str, value: str) -> None:
        """Set one for this process."""
        self._overrides[key] = value

    def __getitem__(self, key: str) -> Any:
        return self.get(key)

    def __repr__(self) -> str:
        return repr(self.to_dict())

    def to_dict(self, *, include_internal: bool = False) -> dict[str, Any]:
        """All settings."""
        return {key: self.get(key) for key in sorted(_DEFAULTS)}


def _converted(raw: str, default: Any) -> Any:
    if isinstance(default, bool):
        return raw.lower() not in ("", "0", "false")
    if isinstance(default, int):
        return int(raw)
    return raw


config = Config()


def config_profiles() -> list[str]:
    """Profiles of Modal's service; there are none here."""
    return []


def config_set_active_profile(profile: str) -> None:
    """Choose a profile of Modal's service."""
    _later.refuse("config_set_active_profile", _later.WORKSPACE)
