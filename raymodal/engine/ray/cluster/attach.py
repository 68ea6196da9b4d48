"""Connecting to a Ray that runs already: one that the user named, or the one that `raymodal cluster up` keeps."""

from __future__ import annotations

import contextlib
import logging
import re
import socket
from collections.abc import Iterator
from pathlib import Path

from raymodal.engine.ray.cluster import auth, kept
from raymodal.engine.ray.cluster.connection import Cluster, Connection, gcs_address
from raymodal.engine.ray.cluster.quiet import keep_sigterm_handler, leave_ray, quiet_ray, shut_ray_down
from raymodal.engine.ray.cluster.record import Record
from raymodal.exception import AuthError, ConnectionError, InvalidError, VersionError


def attach_kept(record: Record, home: Path) -> Connection:
    """Connect to the cluster that `raymodal cluster up` keeps.

    Raises:
        VersionError: another Ray or Python has started it.
        ConnectionError: it does not answer.
    """
    kept.check_versions(record)
    if not answers(record.address, timeout_s=5.0):
        raise ConnectionError(
            f"The cluster that `raymodal cluster up` keeps at {record.address} does not answer. End it with `raymodal "
            "cluster down`, then start another one or none."
        )
    kept.refresh(record, home)
    return _attach(record.address, mode=record.auth, token_path=record.token_path, kept_dir=record.session_dir)


def answers(address: str, timeout_s: float) -> bool:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout_s).close()
    except (OSError, ValueError):
        return False
    return True


def attach(address: str) -> Connection:
    """Connect to a cluster by its address.

    Raises:
        InvalidError: that is no address of a cluster.
        ConnectionError: nothing answers there, or not as Ray does.
        VersionError: the cluster runs another Python or Ray.
        AuthError: it wants a token that we do not have.
    """
    if "://" in address:
        raise InvalidError(
            f"{address!r} is an address of Ray Client; give the cluster's own address, host:port (6379 by default)."
        )
    # Ray itself keeps trying for 40 s. "auto" is the user's own wish for Ray's discovery.
    if address != "auto" and not answers(address, timeout_s=5.0):
        raise ConnectionError(
            f"No Ray cluster answers at {address}. Start it (`ray start --head`), correct --address or RAY_ADDRESS, "
            "or leave both out to run on this machine."
        )
    mode = None if address == "auto" else auth.wanted_by(address)
    return _attach(address, mode=mode)


def _attach(
    address: str, *, mode: str | None, token_path: str | None = None, kept_dir: str | None = None
) -> Connection:
    """With the session's folder if it is the kept cluster."""
    import ray
    from ray.exceptions import AuthenticationError

    restore = keep_sigterm_handler()
    restore_auth = auth.use(mode, token_path)

    def close(is_last: bool = False) -> None:
        if is_last:
            leave_ray()
            return
        shut_ray_down()
        restore_auth()

    try:
        with quiet_ray(), _loopback_kept(address):
            ray.init(address=address, logging_level=logging.ERROR, log_to_driver=True)
    except (AuthenticationError, RuntimeError, OSError, ValueError) as error:
        close()
        mismatch = explain_version_mismatch(str(error))
        if mismatch is not None:
            raise VersionError(mismatch) from error
        if isinstance(error, AuthenticationError) or "token" in str(error).lower():
            raise AuthError(
                f"The cluster at {address} wants a token: put it into ~/.ray/auth_token and set "
                f"RAY_AUTH_MODE=token. ({error})"
            ) from error
        raise ConnectionError(f"Connecting to the Ray cluster at {address} failed: {error}") from error
    finally:
        restore()
    return Connection(
        Cluster(address=gcs_address(), is_own=False, is_kept=kept_dir is not None, session_dir=kept_dir),
        close,
        leave=lambda: close(is_last=True),
    )


@contextlib.contextmanager
def _loopback_kept(address: str) -> Iterator[None]:
    """Let Ray connect to 127.0.0.1 as told: it replaces loopback by the machine's outer address, where our clusters
    do not listen.
    """
    from ray._private import services

    host = address.rpartition(":")[0]
    theirs = getattr(services, "resolve_ip_for_localhost", None)
    if theirs is None or not (host == "localhost" or host.startswith("127.")):
        yield
        return
    services.resolve_ip_for_localhost = lambda host: "127.0.0.1" if host == "localhost" else host
    try:
        yield
    finally:
        services.resolve_ip_for_localhost = theirs


def explain_version_mismatch(text: str) -> str | None:
    """One line out of Ray's message about differing versions; None when `text` is not that message."""
    if "ersion mismatch" not in text:
        return None
    rays = re.findall(r"Ray:\s*(\S+)", text)
    pythons = re.findall(r"Python:\s*(\S+)", text)
    if len(rays) < 2 or len(pythons) < 2:
        return " ".join(text.split())
    return (
        f"The cluster runs Python {pythons[0]} with Ray {rays[0]}, this program Python {pythons[1]} with "
        f"Ray {rays[1]}. Functions travel between the two as bytecode, so run both on the same versions."
    )
