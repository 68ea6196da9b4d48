"""The questions, one module per group."""

from __future__ import annotations

import re

from ..model import Scenario
from . import calls, controller, hello, inputs, map, scale, selftest, start

GROUPS = {
    "calls": "single calls: remote(), remote.aio(), large arrays, nested calls",
    "map": "many inputs: small ones, from zero, a million, slow and mixed ones",
    "inputs": "several at once in one container: threads, tasks, batches",
    "start": "containers: one, 8 and 32 at once, with variables, memory, without bytecode",
    "controller": "the controller by itself: decisions for 1,000 functions, at rest, how late it asks for a container",
    "scale": "from none to many: map, bare actors, Ray Serve with its own policy and with raymodal's",
    "hello": "whole programs: raymodal run, import, --help",
}

SCENARIOS: tuple[Scenario, ...] = (
    *calls.SCENARIOS,
    *map.SCENARIOS,
    *inputs.SCENARIOS,
    *start.SCENARIOS,
    *controller.SCENARIOS,
    *scale.SCENARIOS,
    *hello.SCENARIOS,
)
# Not about raymodal: shows on any machine that the driver and its children work.
HIDDEN: tuple[Scenario, ...] = selftest.SCENARIOS


def choose(group: str | None, pattern: str | None = None) -> list[Scenario]:
    """Scenarios of a group (None: all) whose name matches a regular expression anywhere.

    Raises:
        ValueError: The expression is none, or it matches nothing.
    """
    try:
        expression = re.compile(pattern or "")
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    of_group = [s for s in (*SCENARIOS, *HIDDEN) if s.group == group or (group is None and s not in HIDDEN)]
    chosen = [scenario for scenario in of_group if expression.search(scenario.name)]
    if not chosen:
        names = ", ".join(scenario.name for scenario in of_group) or "none"
        raise ValueError(f"no scenario matches {pattern!r}; there are: {names}")
    return chosen
