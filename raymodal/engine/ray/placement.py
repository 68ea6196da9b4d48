"""What one function's containers ask of this cluster: pure, and the same for pools that a plan names and for those opened later."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from raymodal.logic.autoscale import Ask
from raymodal.plan.resources import (
    ActorResources,
    NodeFacts,
    choose_alternative,
    cut_to_machine,
    explain_misfit,
    fits_ever,
    resources_for,
)
from raymodal.spec.function import FunctionSpec


@dataclass(frozen=True, slots=True)
class Placement:
    """How a function's containers are asked for.

    Attributes:
        options: of the Ray actor.
        misfit: why no node could ever hold one, and whether the cluster could grow one that does.
        note: what people should know of a request that was changed.
    """

    options: dict[str, Any]
    ask: Ask
    hide_gpus: bool
    misfit: tuple[str, bool] | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Placer:
    """A cluster as placement sees it.

    Attributes:
        nodes: as they were when the app started.
        is_own: raymodal started it on this machine, so requests are cut to the machine and nothing can grow.
        ignore_gpu: run functions that ask for a GPU without one.
    """

    nodes: tuple[NodeFacts, ...]
    is_own: bool
    ignore_gpu: bool = False

    def place(self, spec: FunctionSpec) -> Placement:
        """How the containers of this function are asked for."""
        wanted = resources_for(spec.cpu, spec.memory_mib, spec.gpu, ignore_gpu=self.ignore_gpu)
        note = None
        if self.is_own and self.nodes:
            wanted, note = cut_to_machine(wanted, self.nodes[0], spec.tag)
        misfit = fits_ever(wanted, self.nodes)
        chosen: ActorResources = wanted.alternatives[choose_alternative(wanted.alternatives, self.nodes) or 0]
        ask = Ask(chosen.num_cpus, chosen.memory_bytes or 0, chosen.num_gpus)
        if misfit is not None and self.is_own:
            ask = Ask(0)  # nothing to wait for, nor to take from others: its first start is what tells its callers
        return Placement(
            options=chosen.actor_options(),
            ask=ask,
            hide_gpus=chosen.num_gpus == 0,
            misfit=None if misfit is None else (explain_misfit(spec.tag, wanted, misfit, self.nodes), not self.is_own),
            note=note,
        )
