"""What a function asks of a node, in Ray's terms: CPU, memory, GPUs by the nodes' accelerator labels.

Pure: it starts nothing, asks no cluster and knows no Ray; nodes come in as `NodeFacts`. It says what to ask for,
whether any node could ever give it, and what to tell the user if none can.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Literal

from raymodal.spec.function import GpuRequest

DEFAULT_CPU = 0.125  # Modal's request when cpu= is not given
ACCELERATOR_LABEL = "ray.io/accelerator-type"
_MIB = 1 << 20

# Modal's name -> Ray's label values that satisfy it. Ray labels an A100 node "A100" whatever its memory (the two
# sizes are set by hand, where they are set at all), so a request for a size takes the unmarked nodes too, and never
# the other size. Modal upgrades a plain H100 to an H200 where it has one, and "B200+" to a B300; "!" forbids it.
_ACCEPTED: dict[str, tuple[str, ...]] = {
    "A10": ("A10G", "A10"),
    "A10G": ("A10G", "A10"),
    "A100": ("A100", "A100-40G", "A100-80G"),
    "A100-40GB": ("A100-40G", "A100"),
    "A100-80GB": ("A100-80G", "A100"),
    "B200+": ("B200", "B300"),
    "H100": ("H100", "H200"),
    "RTX-PRO-6000": ("RTX-PRO-6000",),
}
# The rest of Ray's values (ray/util/accelerators/accelerators.py of 2.60) that differ from the upper-case name.
_RAY_SPELLING = {
    value.upper(): value
    for value in (
        "Intel-GPU-Max-1550",
        "Intel-GPU-Max-1100",
        "Intel-GAUDI",
        "AMD-Instinct-MI100",
        "AMD-Instinct-MI250X",
        "AMD-Instinct-MI250X-MI250",
        "AMD-Instinct-MI210",
        "AMD-Instinct-MI300A",
        "AMD-Instinct-MI300X-OAM",
        "AMD-Instinct-MI300X-HF",
        "AMD-Instinct-MI308X",
        "AMD-Instinct-MI325X-OAM",
        "AMD-Instinct-MI350X-OAM",
        "AMD-Instinct-MI355X-OAM",
        "AMD-Radeon-R9-200-HD-7900",
        "AMD-Radeon-HD-7900",
        "M1-Pro",
        "M1-Max",
        "M1-Ultra",
        "M2-Pro",
        "M2-Max",
        "M2-Ultra",
        "M3-Pro",
        "M3-Max",
        "Apple-Silicon",
    )
}


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """One node and what it holds in all, not what is free now."""

    node_id: str
    cpus: float
    memory_bytes: int
    gpus: float = 0
    accelerator: str | None = None


@dataclass(frozen=True, slots=True)
class ActorResources:
    """What one container asks Ray for."""

    num_cpus: float
    memory_bytes: int | None = None
    num_gpus: int = 0
    accelerators: tuple[tuple[str, ...], ...] = ()
    """Sets of label values in order of preference; none: whatever GPU there is."""
    gpu: str = ""
    """As the user wrote it, for messages."""
    sets_omp_threads: bool = False
    """Whether Ray's OMP_NUM_THREADS may stand. Without cpu= the container removes it: Ray makes it 1 for our 0.125
    CPUs, and a program that never asked for less than the machine would run on one core."""
    others: tuple[ActorResources, ...] = ()
    """Further alternatives, where the user's list has different counts: Ray's fallback can only change the label."""

    @property
    def alternatives(self) -> tuple[ActorResources, ...]:
        return (replace(self, others=()), *self.others)

    def actor_options(self) -> dict[str, Any]:
        """The keyword arguments for `.options(...)` of a Ray actor."""
        options: dict[str, Any] = {"num_cpus": self.num_cpus, "num_gpus": self.num_gpus}
        if self.memory_bytes is not None:
            options["memory"] = self.memory_bytes
        selectors = [{ACCELERATOR_LABEL: _selector(values)} for values in self.accelerators]
        if selectors:
            options["label_selector"] = selectors[0]
        if len(selectors) > 1:
            options["fallback_strategy"] = [{"label_selector": selector} for selector in selectors[1:]]
        return options


def _selector(values: tuple[str, ...]) -> str:
    return values[0] if len(values) == 1 else f"in({','.join(values)})"


def accepted_labels(gpu_type: str) -> tuple[str, ...]:
    """The values of Ray's accelerator label that satisfy a GPU type of Modal's; empty for "any"."""
    name = gpu_type.upper()
    if name == "ANY":
        return ()
    exact = name.removesuffix("!")
    if exact != name:
        return (_RAY_SPELLING.get(exact, exact),)
    return _ACCEPTED.get(name) or (_RAY_SPELLING.get(name, name),)


def resources_for(
    cpu: float | None,
    memory_mib: int | None,
    gpu: tuple[GpuRequest, ...] = (),
    *,
    ignore_gpu: bool = False,
) -> ActorResources:
    """Translate a function's requests.

    Args:
        cpu: cores, the request of a (request, limit) pair; None for Modal's default.
        memory_mib: MiB, likewise.
        gpu: acceptable GPUs in order of preference; empty for none.
        ignore_gpu: run without a GPU (`--gpu ignore`).
    """
    base = ActorResources(
        num_cpus=DEFAULT_CPU if cpu is None else round(cpu, 4),  # Ray counts in ten-thousandths
        memory_bytes=None if memory_mib is None else memory_mib * _MIB,
        sets_omp_threads=cpu is not None,
    )
    if not gpu or ignore_gpu:
        return base
    shapes = [
        replace(
            base,
            num_gpus=count,
            accelerators=tuple(dict.fromkeys(accepted_labels(request.type) for request in requests))
            if labelled
            else (),
            gpu=", ".join(str(request) for request in requests),
        )
        for (count, labelled), group in groupby(gpu, key=lambda request: (request.count, request.type.upper() != "ANY"))
        for requests in [list(group)]
    ]
    return replace(shapes[0], others=tuple(shapes[1:]))


# ---- What the nodes can give.

Kind = Literal["gpu", "cpu", "memory", "together"]


@dataclass(frozen=True, slots=True)
class Misfit:
    """Why no node can ever hold a container: what is too much, and the most that one node has of it."""

    kind: Kind
    most: float = 0


def _has_gpus(resources: ActorResources, node: NodeFacts) -> bool:
    if resources.num_gpus == 0:
        return True
    wanted = {value for values in resources.accelerators for value in values}
    return node.gpus >= resources.num_gpus and (not wanted or node.accelerator in wanted)


def _holds(resources: ActorResources, node: NodeFacts) -> bool:
    return (
        node.cpus >= resources.num_cpus
        and node.memory_bytes >= (resources.memory_bytes or 0)
        and _has_gpus(resources, node)
    )


def choose_alternative(alternatives: Sequence[ActorResources], nodes: Sequence[NodeFacts]) -> int | None:
    """The first alternative that some node could ever hold; None if none is."""
    for index, resources in enumerate(alternatives):
        if any(_holds(resources, node) for node in nodes):
            return index
    return None


def fits_ever(resources: ActorResources, nodes: Sequence[NodeFacts]) -> Misfit | None:
    """Whether some node, when empty, could hold such a container in any of its alternatives; if not, what stands in
    the way.
    """
    if choose_alternative(resources.alternatives, nodes) is not None:
        return None
    if not any(_has_gpus(alternative, node) for alternative in resources.alternatives for node in nodes):
        return Misfit("gpu", max((node.gpus for node in nodes), default=0))
    most_cpus = max(node.cpus for node in nodes)
    if resources.num_cpus > most_cpus:
        return Misfit("cpu", most_cpus)
    most_memory = max(node.memory_bytes for node in nodes)
    if (resources.memory_bytes or 0) > most_memory:
        return Misfit("memory", most_memory)
    return Misfit("together")


def explain_misfit(function: str, resources: ActorResources, misfit: Misfit, nodes: Sequence[NodeFacts]) -> str:
    """One sentence for the user: the function, what it asks, what there is, and the way out."""
    asked = _describe_request(resources)
    have = "; ".join(dict.fromkeys(_describe_node(node) for node in nodes)) or "no nodes"
    way_out = {
        "gpu": "Add a node that has one, or pass --gpu ignore to run such functions without a GPU.",
        "cpu": "Add a larger node, or lower cpu=.",
        "memory": "Add a larger node, or lower memory=.",
        "together": "No single node has all of it: add one that does, or lower cpu= or memory=.",
    }[misfit.kind]
    return f"Function {function!r} asks for {asked}, and no node can hold that (there is: {have}). {way_out}"


def _describe_request(resources: ActorResources) -> str:
    parts = [f"{resources.num_cpus:g} CPU"]
    if resources.memory_bytes is not None:
        parts.append(f"{resources.memory_bytes // _MIB} MiB of memory")
    gpus = [alternative.gpu for alternative in resources.alternatives if alternative.num_gpus]
    if gpus:
        parts.append(f"gpu={', '.join(gpus)}")
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _describe_node(node: NodeFacts) -> str:
    gpus = (
        f"{node.gpus:g} GPU" + (f" of type {node.accelerator}" if node.accelerator else "") if node.gpus else "no GPU"
    )
    return f"{node.cpus:g} CPU, {node.memory_bytes // _MIB} MiB, {gpus}"


def cut_to_machine(resources: ActorResources, node: NodeFacts, function: str = "") -> tuple[ActorResources, str | None]:
    """Cut CPU and memory to what the machine has, for the Ray that raymodal started on it itself.

    Published programs ask for 8 cores, and run on a laptop's 4 as well, slower. A GPU cannot be cut.

    Returns:
        The request, and a warning if it was changed. Every alternative is cut alike.
    """
    cut = []
    if resources.num_cpus > node.cpus:
        cut.append(f"{resources.num_cpus:g} CPU to {node.cpus:g}")
    if (resources.memory_bytes or 0) > node.memory_bytes:
        cut.append(f"{(resources.memory_bytes or 0) // _MIB} MiB of memory to {node.memory_bytes // _MIB}")
    if not cut:
        return resources, None

    def smaller(one: ActorResources) -> ActorResources:
        memory = None if one.memory_bytes is None else min(one.memory_bytes, node.memory_bytes)
        return replace(one, num_cpus=min(one.num_cpus, node.cpus), memory_bytes=memory)

    changed = replace(smaller(resources), others=tuple(smaller(one) for one in resources.others))
    name = f"Function {function!r}: the" if function else "The"
    return changed, f"{name} request was cut to this machine, from {' and from '.join(cut)}."
