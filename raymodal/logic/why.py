"""Why a function has as many containers as it has, in words. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from raymodal.logic.autoscale import Ask, Decision, Room, Rules, needed_for

_MIB = 1 << 20
_MOST_HOLDERS = 3


def explain(decision: Decision, demand: int, rules: Rules) -> str:
    """What made the target this number, with the figures that it was made from."""
    needed = needed_for(rules, demand)
    if decision.limited_by == "min_containers":
        return f"min_containers={rules.min_containers}, {needed} needed"
    if decision.limited_by == "max_containers":
        return f"max_containers={rules.max_containers}, {max(needed, rules.min_containers)} wanted"
    if decision.limited_by == "scaledown_window":
        return f"idle for less than scaledown_window={rules.scaledown_window:g} s, {max(needed, rules.min_containers)} wanted"
    if decision.limited_by == "expected":
        return f"inputs are expected about now, for {_count(rules.min_containers, 'container')}, from when they came before"
    if decision.limited_by == "busy":
        return f"those that work or start are not ended, {max(needed, rules.min_containers)} wanted"
    if not demand:
        return "no inputs"
    text = _count(demand, "input")
    if rules.target_inputs > 1:
        text += f", {rules.target_inputs} for each container"
    if rules.buffer_containers:
        text += f", and buffer_containers={rules.buffer_containers}"
    return text


def lacks(ask: Ask, free: Room, total: Room) -> str:
    """What one more container asks for and the cluster does not have now, or "its turn" if it has all of it."""
    parts = []
    if ask.cpus > free.cpus + 1e-6:
        parts.append(f"{_count(ask.cpus, 'CPU')} ({_left(free.cpus)} of {total.cpus:g} free)")
    if ask.memory > free.memory:
        parts.append(
            f"{ask.memory / _MIB:,.0f} MiB of memory ({_left(free.memory / _MIB)} of {total.memory / _MIB:,.0f} free)"
        )
    if ask.gpus > free.gpus + 1e-6:
        parts.append(f"{_count(ask.gpus, 'GPU')} ({_left(free.gpus)} of {total.gpus:g} free)")
    return " and ".join(parts) or "its turn: as many containers start already as the nodes have cores"


def wishes(ask: Ask) -> str:
    """What a container asks for."""
    parts = [
        *([_count(ask.cpus, "CPU")] if ask.cpus else []),
        *([f"{ask.memory / _MIB:,.0f} MiB of memory"] if ask.memory else []),
        *([_count(ask.gpus, "GPU")] if ask.gpus else []),
    ]
    return " and ".join(parts) or "nothing"


def have(ask: Ask, free: Room) -> str:
    """Of what a container asks for, what is free."""
    parts = [
        *([_left(free.cpus) + " CPUs"] if ask.cpus else []),
        *([_left(free.memory / _MIB) + " MiB of memory"] if ask.memory else []),
        *([_left(free.gpus) + " GPUs"] if ask.gpus else []),
    ]
    return " and ".join(parts) or "nothing"


def holders(ask: Ask, free: Room, others: Iterable[tuple[str, Ask]]) -> str:
    """Which functions have of what is lacking, most containers first, as "'f' (3), 'g' (1)"; empty if none.

    Args:
        others: tag and ask of each container that is there.
    """
    cpus, memory, gpus = ask.cpus > free.cpus + 1e-6, ask.memory > free.memory, ask.gpus > free.gpus + 1e-6
    counts = Counter(
        tag for tag, has in others if (cpus and has.cpus) or (memory and has.memory) or (gpus and has.gpus)
    )
    names = [f"{tag!r} ({count})" for tag, count in counts.most_common(_MOST_HOLDERS)]
    more = len(counts) - len(names)
    return ", ".join(names) + (f" and {more} more" if more else "")


def _count(number: float, thing: str) -> str:
    return f"{number:g} {thing}" + ("" if number == 1 else "s")


def _left(number: float) -> str:
    return f"{max(round(number, 3), 0):g}"
