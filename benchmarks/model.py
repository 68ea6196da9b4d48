"""What a question is: its contenders, its figures and its targets.

Sessions are named by text (`"ours.calls:remote"`) and loaded in the child that needs them, so that listing the
scenarios imports neither Ray nor raymodal.
"""

from __future__ import annotations

import importlib
import statistics
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from .stats import paired_ratios

Params = Mapping[str, Any]
Round = Callable[[], dict[str, float]]
"""One round: does the work once, raises if its results are wrong, and returns a figure per metric."""
Session = Callable[[Params], AbstractContextManager[Round]]
"""Opened once per scenario: starts what is needed, warms it up, yields the round."""

HostKind = Literal["ray", "raymodal", "plain"]


@dataclass(frozen=True)
class Metric:
    """One figure that a round returns."""

    name: str
    unit: str
    better: Literal["lower", "higher"] = "lower"


@dataclass(frozen=True)
class Contender:
    """One way to do the work, in a child process of its own.

    Attributes:
        name: As printed.
        session: `module:attribute` below this package, of a `Session`.
        host: Contenders with the same host share one child process and its cluster.
        kind: What the child starts before its first session: a stock Ray, or nothing.
        shows: More objects whose source belongs to this contender, for `--show-code`.
        params: Overrides of the scenario's parameters, for contenders too slow for the full count.
    """

    name: str
    session: str
    host: str
    kind: HostKind
    shows: tuple[str, ...] = ()
    params: Params = field(default_factory=dict)


class Figures(Protocol):
    """What a target may look at."""

    def median(self, contender: str, metric: str) -> float:
        """Median over the rounds; KeyError if that contender has no such figure."""

    def ratio(self, contender: str, metric: str, base: str) -> float:
        """Median over the rounds' ratios to the same round of `base`."""


@dataclass(frozen=True)
class Target:
    """A promise about one scenario, and how it is checked.

    Attributes:
        text: The promise.
        measure: Gets the figure that the promise is about.
        unit: Printed behind that figure.
    """

    text: str
    measure: Callable[[Figures], float]
    at_most: float | None = None
    at_least: float | None = None
    unit: str = ""

    @property
    def bound(self) -> float:
        """The one limit that is set."""
        bound = self.at_most if self.at_most is not None else self.at_least
        if bound is None:
            raise ValueError(f"the target {self.text!r} has no bound")
        return bound

    def is_reached_by(self, value: float) -> bool:
        """Whether `value` keeps the promise."""
        return value <= self.bound if self.at_most is not None else value >= self.bound


@dataclass(frozen=True)
class Scenario:
    """One question.

    Attributes:
        name: `group.topic`.
        title: One line for tables; may use `{parameters}`.
        contenders: Those who answer; the first is the subject.
        metrics: The figures, in the order of printing.
        baseline: Name of the contender to which ratios are taken.
        params: Parameters of a full run.
        quick: What `--quick` changes of them.
        timeout_s: Longest that one round, or opening a session, may take.
        max_rounds: Fewer rounds than asked for, where one is expensive.
    """

    name: str
    title: str
    contenders: tuple[Contender, ...]
    metrics: tuple[Metric, ...]
    baseline: str | None
    targets: tuple[Target, ...] = ()
    params: Params = field(default_factory=dict)
    quick: Params = field(default_factory=dict)
    timeout_s: float = 180.0
    max_rounds: int | None = None

    def __post_init__(self) -> None:
        names = [contender.name for contender in self.contenders]
        if len(set(names)) != len(names):
            raise ValueError(f"{self.name}: two contenders share a name")
        if self.baseline is not None and self.baseline not in names:
            raise ValueError(f"{self.name}: the baseline {self.baseline!r} is none of {names}")

    @property
    def group(self) -> str:
        """The command that runs this scenario."""
        return self.name.partition(".")[0]

    def params_for(self, contender: Contender, *, is_quick: bool) -> dict[str, Any]:
        """Parameters of one contender's session."""
        params = {**self.params, **(self.quick if is_quick else {})}
        for key, value in contender.params.items():
            # An override is a ceiling: a slow contender never does more than the scenario asks for.
            params[key] = min(value, params[key]) if isinstance(value, int) and key in params else value
        return params


class RoundFigures:
    """`Figures` over the rounds of one scenario."""

    def __init__(self, rounds: Mapping[tuple[str, str], list[float]]) -> None:
        self._rounds = rounds

    def median(self, contender: str, metric: str) -> float:
        """See `Figures`."""
        return statistics.median(self._rounds[contender, metric])

    def ratio(self, contender: str, metric: str, base: str) -> float:
        """See `Figures`."""
        ratios = paired_ratios(self._rounds[contender, metric], self._rounds[base, metric])
        if not ratios:
            raise KeyError((contender, metric, base))
        return statistics.median(ratios)


def resolve(ref: str) -> Any:
    """Load `module:attribute`; a module is looked up below this package, or from the top if it starts with `/`."""
    module_name, _, attribute = ref.partition(":")
    if module_name.startswith("/"):
        module = importlib.import_module(module_name[1:])
    else:
        module = importlib.import_module(f".{module_name}", package=__package__)
    return getattr(module, attribute)
