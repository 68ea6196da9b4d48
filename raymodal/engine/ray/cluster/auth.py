"""Ray's token: made so that only its owner can read it, and used only while a connection wants it.

Ray reads the mode and the token once for the whole process, from the environment and a file, so a connection sets both
and puts both back when it is closed: a later connection, to a cluster without a token, must work again.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from raymodal._private_folder import private_folder
from raymodal.exception import AuthError

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
DEFAULT_PATH = "~/.ray/auth_token"
"""Where Ray looks for the token unless it is told otherwise."""


def prepare_token(home: Path) -> tuple[str, str | None]:
    """Make sure that this process, which starts a cluster, has a token, and have Ray use it.

    Returns:
        Ray's mode of authentication, and the token's file.
    """
    mode = os.environ.get(MODE, "token").lower()
    if mode != "token":
        return mode, None
    path = home / "auth_token"
    given = os.environ.pop(TOKEN, None)
    if given:
        _write(path, given)
    else:
        path = _usual_file() or _ensure(path)
    os.environ[MODE] = "token"
    os.environ[TOKEN_PATH] = str(path)
    _reload()
    return mode, str(path)


def prepare_own() -> Callable[[], None]:
    """Make sure that there is a token for a cluster that ends with this process, also where the user has no home that can
    be written.

    Returns:
        What puts the process back as it was.

    Raises:
        OSError: there is none.
    """
    if _usual_file() is not None:
        return lambda: None
    return use("token", str(_ensure(private_folder("raymodal") / "auth_token")))


def _usual_file() -> Path | None:
    """The file in which Ray looks for the token; None where it cannot be made or read, unless the user has chosen it."""
    chosen = os.environ.get(TOKEN_PATH)
    try:
        return _ensure(Path(chosen) if chosen else Path(DEFAULT_PATH).expanduser())
    except (OSError, RuntimeError):  # RuntimeError: no home at all
        if chosen:
            raise
        return None


def _ensure(path: Path) -> Path:
    """Make the file if need be. Ray itself writes it with the usual permissions, so that every user of the machine could
    read it and connect.
    """
    if not path.exists():
        from ray._private.authentication.authentication_token_generator import generate_new_authentication_token

        _write(path, generate_new_authentication_token())
    else:
        _make_private(path)
        with path.open():
            pass
    return path


def _make_private(path: Path) -> None:
    with contextlib.suppress(OSError):
        info = path.stat()
        if info.st_uid == os.geteuid() and stat.S_IMODE(info.st_mode) & 0o077:
            path.chmod(0o600)


def _write(path: Path, token: str) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "w") as file:
        file.write(token)
    temporary.replace(path)


def wanted_by(address: str) -> str | None:
    """Ask a cluster whether it wants a token, where the user has not said so: the mode to use, or None to leave it.

    Raises:
        AuthError: it wants one, and there is none.
    """
    if MODE in os.environ:
        return None
    raylet: Any = importlib.import_module("ray._raylet")
    from ray.exceptions import AuthenticationError

    try:
        with _without_remarks():
            raylet.GcsClient(address=address)
    except AuthenticationError:
        if not raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True):
            raise AuthError(
                f"The cluster at {address} wants a token, and none is here: put it into {DEFAULT_PATH}."
            ) from None
        return "token"
    except Exception:  # noqa: BLE001 -- whatever is wrong, connecting says so
        return None
    return None


@contextlib.contextmanager
def _without_remarks() -> Iterator[None]:
    """Ray's compiled part says on stderr that it was refused, which is what we want to know and nobody else. What others
    print meanwhile is passed on.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as caught, contextlib.ExitStack() as stack:
        before = os.dup(2)
        stack.callback(os.close, before)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(before, 2)
            caught.seek(0)
            for line in caught:
                if b"gcs_client.cc" not in line:
                    os.write(2, line)


def use(mode: str | None, token_path: str | None) -> Callable[[], None]:
    """Have Ray connect with this mode and token from now on; with None, as the environment says.

    Returns:
        What puts the process back as it was.
    """
    if mode is None:
        return lambda: None
    changes: dict[str, str | None] = {MODE: mode}
    if mode == "token" and token_path is not None:
        changes |= {TOKEN: None, TOKEN_PATH: token_path}
    before = {name: os.environ.get(name) for name in changes}
    if before == changes:
        return lambda: None
    _set(changes)
    return lambda: _set(before)


def _set(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _reload()


def _reload() -> None:
    raylet: Any = importlib.import_module("ray._raylet")
    raylet.Config.initialize("")
    raylet.AuthenticationTokenLoader.instance().reset_cache()
