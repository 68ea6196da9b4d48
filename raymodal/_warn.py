"""Warnings, said once and in one form.

`WARNINGS` is the whole list of what raymodal accepts and does not carry out yet. A run that uses one of them warns once
per name and process; a test compares the keys with the table in `docs/compatibility.md`.
"""

from __future__ import annotations

import warnings

from raymodal.exception import DeprecationError

WARNINGS: dict[str, str] = {
    "volumes": "On the local engine containers are threads of one process, which sees the machine's own files: volumes are not "
    "mounted. Way out: `--engine ray`, or the volume's own methods.",
    "cloud_bucket_mount": "Bucket mounts are not carried out yet: the path is an ordinary folder of the node. Way out: read and "
    "write the bucket with its own client inside the function.",
    "network_file_systems": "Network file systems are not mounted, and Modal deprecates them too. Way out: put shared files on a "
    "path that every node sees.",
    "proxy": "Static outbound addresses need Modal's network. Traffic leaves by the node's own address.",
    "region": "Ray nodes have no regions that raymodal knows of yet. Containers are placed anywhere in the cluster.",
    "routing_region": "Ray nodes have no regions that raymodal knows of yet. Inputs are routed inside the cluster.",
    "cloud": "The cluster is yours: containers are placed on its nodes, whatever cloud they stand in.",
    "nonpreemptible": "raymodal does not know which of your nodes may be preempted. Way out: join only nodes that are not.",
    "ephemeral_disk": "Disk space is not reserved: containers share the node's disk. Way out: see that the nodes have room.",
    "block_network": "Containers are processes on your nodes and keep the node's network. Way out: block it on the nodes.",
    "restrict_modal_access": "Containers may call other functions of the app. Way out: do not run code you do not trust here.",
    "i6pn": "Private IPv6 between containers needs Modal's network. Containers reach each other by the nodes' addresses.",
    "enable_memory_snapshot": "No node here takes memory snapshots: every container starts from the beginning and runs all "
    "enter hooks, in the same order. Results do not change, starts are slower. Way out: a Ray that raymodal starts, by itself, with "
    "`raymodal cluster up` or, node by node, with `raymodal cluster node`; on Linux, without RAYMODAL_FORK=0.",
    "single_use_containers": "On the local engine containers are threads of one process: every input has a container and an "
    "object of its own, but what modules hold is seen by the next input. Way out: `--engine ray`.",
    "environment": "On the local engine containers are threads of one process, which has one environment: the variables of env=, "
    "secrets and images are not set. Way out: `--engine ray`, or set them before the run.",
    "experimental_options": 'Modal\'s experimental options have no meaning on Ray and are not looked at. raymodal has one of its own, "autoscaler".',
    "_experimental_restrict_output": "Results are pickled as always; restricting them to plain data is not carried out.",
    "image.steps": "Images are not built yet: the function runs in the Python environment of the node. Way out: install the "
    "packages there before the run. `Image.env` is honoured.",
    "image.python_version": "The image asks for another Python than this one; functions run on the node's Python.",
    "limits": "Calls wait until some have ended; so does `.spawn_map`. Way out: `.map`, which keeps fewer inputs under way by itself, more containers, or the setting.",
    "web": "Web functions come with a later milestone: `run` does not serve them and no URL exists.",
    "clustered": "Clusters of containers come with a later milestone.",
    "server": "Servers come with a later milestone: `run` does not start them.",
}
"""Every name that is accepted and not (wholly) carried out, with the reason and the way out."""

_said: set[str] = set()


def warn_of_engine(key: str, tags: list[str]) -> None:
    """For functions that ask for what this engine, or its nodes, cannot give."""
    if tags:
        warn_once(key, f"{key} (used by {', '.join(map(repr, tags))}): {WARNINGS[key]}", stacklevel=3)


def warn_once(key: str, message: str, *, stacklevel: int = 2) -> None:
    """Warn about `key`, unless this process has heard it already.

    Args:
        key: a key of `WARNINGS`.
        message: what to say; starts with the name that the user wrote.
        stacklevel: as in `warnings.warn`, counted from the caller.
    """
    if key not in WARNINGS:
        raise KeyError(f"{key!r} has no row in raymodal._warn.WARNINGS (and docs/compatibility.md)")
    if key in _said:
        return
    _said.add(key)
    warnings.warn(message, UserWarning, stacklevel=stacklevel + 1)


def forget() -> None:
    """Let every name be warned about again (tests)."""
    _said.clear()


def deprecated(message: str, *, stacklevel: int = 2) -> None:
    """Warn about an old name, at the caller's caller by default."""
    warnings.warn(message, DeprecationError, stacklevel=stacklevel + 1)


def is_strict() -> bool:
    """Whether old names fail exactly as in modal 1.6.4."""
    from raymodal.config import settings

    return settings().strict
