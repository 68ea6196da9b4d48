"""What `raymodal cluster status` shows: gathered by a question to Ray's GCS (no driver, no job), then told in lines or as JSON."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from raymodal.config import Settings
from raymodal.engine.ray.cluster import auth, bytecode, kept
from raymodal.engine.ray.cluster.attach import answers
from raymodal.engine.ray.cluster.ending import is_alive
from raymodal.engine.ray.cluster.record import Record, State, fingerprint
from raymodal.engine.ray.cluster.record import look as look_for_record
from raymodal.engine.ray.template import node as template
from raymodal.exception import AuthError, ConnectionError
from raymodal.plan.resources import ACCELERATOR_LABEL

_GIB = 1 << 30
_PLAIN_NODES = (
    "Start nodes with `raymodal cluster node -- ARGUMENTS` instead of `ray start ARGUMENTS`, and workers there are forked: "
    "ready in a third of the time, with half of the memory."
)


@dataclass(frozen=True)
class Node:
    """A node that is alive."""

    name: str
    cpus: float
    gpus: float
    memory_bytes: int
    free_cpus: float
    free_gpus: float
    free_memory_bytes: int
    accelerator: str | None
    is_forked: bool
    """Its workers come from a template of ours."""


@dataclass(frozen=True)
class Workers:
    """How workers were started on a node of this machine.

    Attributes:
        forked: by the template.
        plain: as Ray starts them: reason -> how many.
        is_template_alive: a template lives.
        why_none: why this node does without one.
    """

    forked: int
    plain: Mapping[str, int]
    is_template_alive: bool
    why_none: str | None


@dataclass(frozen=True)
class View:
    """A cluster as it was a moment ago.

    Attributes:
        is_there: it answers.
        is_kept: `raymodal cluster up` keeps it.
        notes: what was found out beside, for stderr.
        exports: variables with which Ray's own tools reach it.
        bytecode: of Ray and raymodal, on this machine.
        is_outdated: raymodal has changed since the template imported it; the next program renews that.
    """

    is_there: bool
    address: str | None = None
    is_kept: bool = False
    since: str | None = None
    uptime_s: float | None = None
    ray: str | None = None
    python: str | None = None
    session_dir: str | None = None
    dashboard: str | None = None
    nodes: tuple[Node, ...] = ()
    workers: tuple[Workers, ...] = ()
    processes: Mapping[str, int] = field(default_factory=dict)
    is_outdated: bool = False
    exports: Mapping[str, str] = field(default_factory=dict)
    bytecode: bytecode.Cache = field(default_factory=lambda: bytecode.Cache("empty"))
    notes: tuple[str, ...] = ()
    why_not: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        return asdict(self)

    def lines(self) -> list[str]:
        """For people."""
        if not self.is_there:
            why = self.why_not or "No cluster is kept on this machine: `raymodal run` starts one for each run."
            return [why, "Keep one with `raymodal cluster up`.", *self._bytecode()]
        lines = [f"Ray{f' {self.ray}' if self.ray else ''} at {self.address}{self._kind()}"]
        lines += [f"  node {node.name}: {_resources(node)}" for node in self.nodes]
        if self.is_kept:
            lines += self._workers()
            if self.is_outdated:
                lines.append("  raymodal has changed since: the next program has the template started anew")
        else:
            lines += self._gain()
        lines += self._bytecode()
        if self.dashboard:
            lines.append(f"  dashboard: {self.dashboard if '://' in self.dashboard else 'http://' + self.dashboard}")
        if self.exports:
            exports = " ".join(f"{name}={value}" for name, value in self.exports.items())
            lines += ["For Ray's own tools (`ray status`, `ray.init()`):", f"  export {exports}"]
        return lines

    def _kind(self) -> str:
        if not self.is_kept:
            return ", which others keep"
        return f", kept since {self.since} (up {_duration(self.uptime_s or 0)}), Python {self.python}"

    def _workers(self) -> list[str]:
        lines = []
        for workers in self.workers:
            plain = sum(workers.plain.values())
            lines.append(f"  workers started: {workers.forked} forked, {plain} as Ray starts them")
            lines += [f"    {count} x {reason}" for reason, count in sorted(workers.plain.items())]
            if workers.why_none:
                lines.append(f"  no template: {workers.why_none}")
            elif not workers.is_template_alive:
                lines.append("  no template lives; the next worker starts one")
        if not self.workers:
            lines.append(
                "  workers start as Ray starts them: no template was started (RAYMODAL_FORK=0, or not on this system)"
            )
        return lines

    def _gain(self) -> list[str]:
        forked = sum(node.is_forked for node in self.nodes)
        line = f"  workers are forked on {forked} of {len(self.nodes)} nodes"
        return [line] if forked == len(self.nodes) else [line, f"  {_PLAIN_NODES}"]

    def _bytecode(self) -> list[str]:
        said = {
            "package": "Ray's package has its own",
            "filled": f"{self.bytecode.files} modules compiled in {self.bytecode.folder}",
            "filling": f"being compiled in the background, into {self.bytecode.folder}",
            "part": f"Ray's package has none; what was needed so far is in {self.bytecode.folder}",
            "empty": f"Ray's package has none; the first cluster compiles it into {self.bytecode.folder}",
        }
        return [f"  bytecode: {said[self.bytecode.state]}"]


def _resources(node: Node) -> str:
    parts = [f"{node.free_cpus:g} of {node.cpus:g} CPUs free"]
    if node.gpus:
        parts.append(f"{node.free_gpus:g} of {node.gpus:g} {node.accelerator or 'GPUs'} free")
    parts.append(f"{node.free_memory_bytes / _GIB:.1f} of {node.memory_bytes / _GIB:.1f} GiB free")
    return ", ".join(parts)


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    named = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    return " ".join(f"{count} {unit}" for count, unit in named if count) or "0 s"


def look(settings: Settings, address: str | None) -> View:
    """Look at a cluster: the one at `address`, else the kept one.

    Raises:
        ConnectionError: nothing answers at `address`, or the kept cluster does not.
        AuthError: it wants a token that we do not have.
    """
    cache = bytecode.look(settings.home)
    record, note = kept.find(settings.home)
    notes = (note,) if note is not None else ()
    if address is not None and (record is None or address != record.address):
        return _look_at(address, cache, notes)
    if record is None:
        return View(False, bytecode=cache, notes=notes, why_not=_why_not(settings))
    if not answers(record.address, timeout_s=5.0):
        raise ConnectionError(
            f"The cluster that `raymodal cluster up` keeps at {record.address} does not answer: end it with `raymodal cluster "
            "down`."
        )
    restore = auth.use(record.auth, record.token_path)
    try:
        nodes = _nodes(record.address)
    finally:
        restore()
    found = template.starts_of(record.session_dir).values()
    return View(
        True,
        address=record.address,
        is_kept=True,
        since=record.since,
        uptime_s=(datetime.now(UTC) - datetime.fromisoformat(record.since)).total_seconds(),
        ray=record.ray,
        python=record.python,
        session_dir=record.session_dir,
        dashboard=record.dashboard,
        nodes=nodes,
        workers=tuple(Workers(one.forked, one.plain, one.is_alive, one.refused) for one in found),
        processes={name: pid for name, pid in record.processes.items() if is_alive(pid)},
        is_outdated=record.fork and record.code != fingerprint(),
        exports=exports_for(record),
        bytecode=cache,
        notes=notes,
    )


def _why_not(settings: Settings) -> str | None:
    state, record = look_for_record(settings.home)
    if state is State.ELSEWHERE and record is not None:
        return f"No cluster is kept on this machine; {settings.home} records one on {record.machine}."
    if state is State.STARTING:
        return "A cluster is being started; look again in a moment."
    return None


def exports_for(record: Record) -> dict[str, str]:
    """Variables with which `ray status`, `ray.init()` and the like reach a kept cluster.

    The second stops Ray from replacing 127.0.0.1 by the machine's outer address, where the cluster does not listen.
    """
    exports = {"RAY_ADDRESS": record.address, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    if record.auth == "token":
        exports["RAY_AUTH_MODE"] = "token"
        if record.token_path and record.token_path != os.path.expanduser(auth.DEFAULT_PATH):
            exports["RAY_AUTH_TOKEN_PATH"] = record.token_path
    return exports


def _look_at(address: str, cache: bytecode.Cache, notes: tuple[str, ...]) -> View:
    if not answers(address, timeout_s=5.0):
        raise ConnectionError(
            f"No Ray cluster answers at {address}. Start it (`ray start --head`), or correct the address."
        )
    mode = auth.wanted_by(address)
    restore = auth.use(mode, None)
    try:
        nodes = _nodes(address)
    finally:
        restore()
    return View(True, address=address, nodes=nodes, bytecode=cache, notes=notes)


def _nodes(address: str) -> tuple[Node, ...]:
    raylet: Any = importlib.import_module("ray._raylet")  # compiled: its types do not tell all
    from ray.core.generated import gcs_pb2
    from ray.exceptions import AuthenticationError

    try:
        client = raylet.GcsClient(address=address)
        infos = client.get_all_node_info(timeout=10.0)
        usage = client.get_all_resource_usage(timeout=10.0).resource_usage_data.batch
    except AuthenticationError as error:
        raise AuthError(
            f"The cluster at {address} wants another token: put it into ~/.ray/auth_token and set RAY_AUTH_MODE=token."
        ) from error
    except Exception as error:
        raise ConnectionError(f"What answers at {address} is no Ray cluster of this version: {error}") from error
    free = {one.node_id: one.resources_available for one in usage}
    found = []
    for info in infos.values():
        if info.state != gcs_pb2.GcsNodeInfo.GcsNodeState.ALIVE:
            continue
        total, left = info.resources_total, free.get(info.node_id, {})
        found.append(
            Node(
                name=info.node_manager_hostname or info.node_manager_address,
                cpus=total.get("CPU", 0.0),
                gpus=total.get("GPU", 0.0),
                memory_bytes=int(total.get("memory", 0)),
                free_cpus=left.get("CPU", 0.0),
                free_gpus=left.get("GPU", 0.0),
                free_memory_bytes=int(left.get("memory", 0)),
                accelerator=dict(info.labels).get(ACCELERATOR_LABEL),
                is_forked=dict(info.labels).get(template.FORKED_LABEL) == "forked",
            )
        )
    return tuple(sorted(found, key=lambda node: node.name))
