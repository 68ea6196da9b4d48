"""Settings: read once from the environment, at the edge.

Every setting has a name `RAYMODAL_<NAME>`; the few that Modal users know by another name (`MODAL_TRACEBACK`, `RAY_ADDRESS`) are read as well.
Nothing below the engine reads settings: what a decision needs is passed to it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

EngineName = Literal["ray", "local"]


def _flag(value: str | None, default: bool) -> bool:
    return default if value is None else value.strip().lower() not in ("", "0", "false", "no", "off")


@dataclass(frozen=True)
class Settings:
    """What this process was told. Change it with `override`, never in place."""

    engine: EngineName = "ray"
    address: str | None = None  # --address or RAYMODAL_ADDRESS
    ray_address: str | None = None  # RAY_ADDRESS
    home: Path = Path("~/.raymodal")
    volumes: str | None = None  # folder of the volumes' files, such as one on a file system that all nodes share
    tmpdir: str | None = None  # where the Ray that raymodal starts keeps its sockets and logs
    gpu: str | None = None  # "ignore": functions that ask for a GPU run without one
    strict: bool = False  # exactly modal 1.6.4's errors for old names
    quiet: bool = False
    timestamps: bool = False
    traceback: bool = False  # show raymodal's own frames too
    async_warnings: bool = True
    dashboard: bool = False
    fork: bool = True  # containers on nodes that raymodal starts are forked from a template
    warm_workers: int | None = (
        None  # idle forked workers kept ready on each node while an app runs; None: as many as cores, up to 4
    )
    warm_memory_mib: int = 200  # at most so much memory of a node for them
    read_only_arrays: bool = False  # large arrays arrive read-only and without a copy
    max_outstanding: int = 1000  # inputs of one map reported as demand; Modal's figure
    autoscaler: str = "fixed"  # one of `logic.predict.POLICIES`, for functions that name none
    max_pending: int = 2_000  # see `logic.limits.Limits`; Modal's figures
    max_total: int = 25_000
    max_spawned: int = 1_000_000
    limit_wait_s: float = 60.0
    stop_grace_s: float = 2.0  # at a normal end of a run, spawned calls that still run may take this long
    linger_s: float = 1.0  # how long an idle lease is kept, so that back-to-back calls are one hop
    lease_ttl_s: float = 10.0
    max_losses: int = 3  # reruns of an input that is alone in the container it is lost with

    @property
    def volumes_root(self) -> Path:
        """Where the files of volumes are, each in the folder of its id."""
        return self.home / "volumes" if self.volumes is None else Path(self.volumes).expanduser().absolute()


_AT_LEAST_ONE = ("max_outstanding", "max_pending", "max_total", "max_spawned")


def _from_environ(env: Any) -> Settings:
    raw: dict[str, Any] = {}
    for field in fields(Settings):
        value = env.get(f"RAYMODAL_{field.name.upper()}")
        if value is None or value == "":
            continue
        if field.name == "home":
            raw[field.name] = Path(value)
        elif field.type == "bool":
            raw[field.name] = _flag(value, False)
        elif field.type in ("int", "int | None", "float"):
            from raymodal.exception import InvalidError

            try:
                number = raw[field.name] = float(value) if field.type == "float" else int(value)
            except ValueError:
                raise InvalidError(
                    f"RAYMODAL_{field.name.upper()}={value!r} is not a number; unset it or give a number"
                ) from None
            if field.name in _AT_LEAST_ONE and number < 1:
                raise InvalidError(f"RAYMODAL_{field.name.upper()}={value} must be at least 1")
        else:
            raw[field.name] = value
    if raw.get("engine", "ray") not in ("ray", "local"):
        from raymodal.exception import InvalidError

        raise InvalidError(f"RAYMODAL_ENGINE={raw['engine']!r} is not an engine; use 'ray' or 'local'")
    raw.setdefault("ray_address", env.get("RAY_ADDRESS") or None)
    raw.setdefault("traceback", _flag(env.get("MODAL_TRACEBACK"), False))
    raw.setdefault("async_warnings", _flag(env.get("MODAL_ASYNC_WARNINGS"), True))
    try:
        raw["home"] = Path(raw.get("home", "~/.raymodal")).expanduser()
    except RuntimeError:  # neither HOME nor an entry among the users, as in `docker run --user 1234`
        from raymodal._private_folder import private_folder

        raw["home"] = private_folder("raymodal") / "home"
    return Settings(**raw)


_settings: Settings | None = None


def settings() -> Settings:
    """The settings in force, read from the environment on first use.

    Raises:
        InvalidError: a setting does not parse.
    """
    global _settings
    if _settings is None:
        _settings = _from_environ(os.environ)
    return _settings


def override(**changes: Any) -> Settings:
    """Change settings for this process (the CLI's options win over the environment)."""
    global _settings
    _settings = replace(settings(), **changes)
    return _settings


def reset() -> None:
    """Forget overrides; the next `settings()` reads the environment again."""
    global _settings
    _settings = None


# `modal.config` is this module under another name; what Modal's own has beside is read rarely and lives apart.
_MODALS = ("Config", "config", "config_profiles", "config_set_active_profile", "user_config_path", "_profile")


def __getattr__(name: str) -> Any:
    if name in _MODALS:
        from raymodal import _modal_config

        return getattr(_modal_config, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
