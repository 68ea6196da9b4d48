"""Policies that act on events: ours with a fixed window, ours with a learned one, and a fixed keep-alive. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

from raymodal.logic.autoscale import Load, Rules, decide, needed_for
from raymodal.logic.predict import Arrivals

from .world import World


@dataclass
class Ours:
    """`raymodal.logic.autoscale.decide`, asked as the controller asks it: after arrivals, ends and starts, and at `again_at`.

    To list every idle container for `decide`, of thousands after each of a million inputs, takes hours. So it is not asked
    where it can only answer "as it is": as many are wanted as there are, or not as many idle ones as are too many have reached their window.
    `asks_always` leaves that out; a test holds both against each other.
    """

    rules: Rules
    asks_always: bool = False
    again_at: float | None = field(default=None, init=False)
    asked: int = field(default=0, init=False)
    cuts_starting = False

    def target(self, view: World, now: float) -> int | None:
        if not self.asks_always and self._is_settled(view, now):
            return None
        self.asked += 1
        load = Load(view.demand, view.starting, view.busy, tuple(view.idle_since()))
        decision = decide(self.rules, load, now)
        self.again_at = decision.again_at
        return decision.target

    def _is_settled(self, view: World, now: float) -> bool:
        have, low, high = view.containers, self.rules.min_containers, self.rules.max_containers
        wanted = max(needed_for(self.rules, view.demand), low)
        if high is not None:
            wanted = min(wanted, high)
        if wanted > have or (high is not None and have > high):
            return False
        spare = have - max(wanted, have - view.idle)
        if not spare:
            self.again_at = None
            return True
        idle_since, window_s = view.idle_since(), self.rules.scaledown_window
        # Until that none can go, whatever happens; and if nothing happens, not until as many as are too many were idle for a window.
        self.again_at = next(iter(idle_since)) + window_s
        if now >= self.again_at:
            self.again_at = next(islice(reversed(idle_since), spare - 1, None)) + window_s
        return now < self.again_at


@dataclass
class Hybrid:
    """`decide` by rules that `raymodal.logic.predict.Arrivals` shapes, told and asked as the controller does it.

    Attributes:
        rules: the user's.
    """

    rules: Rules
    arrivals: Arrivals = field(default_factory=Arrivals)
    again_at: float | None = field(default=None, init=False)
    cuts_starting = False
    _ours: Ours = field(init=False)
    _told: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._ours = Ours(self.rules)

    def target(self, view: World, now: float) -> int | None:
        for seconds in view.startups[self._told :]:
            self.arrivals.startup.add(seconds)
        self._told = len(view.startups)
        self.arrivals.observe(view.demand, now)
        shape = self.arrivals.shape(self.rules, now)
        self._ours.rules = shape.rules
        target = self._ours.target(view, now)
        instants = [at for at in (self._ours.again_at, shape.again_at) if at is not None]
        self.again_at = min(instants, default=None)
        return target


@dataclass
class KeepAlive:
    """A container for whoever finds no free slot; each is kept for `window_s` seconds after its last input.

    What OpenWhisk does, and the baseline of Shahrad et al., "Serverless in the Wild" (USENIX ATC 2020): 10 minutes.
    """

    window_s: float
    again_at: float | None = field(default=None, init=False)
    cuts_starting = False

    def target(self, view: World, now: float) -> int | None:
        have = view.containers
        uncovered = view.waiting - view.starting * view.slots
        if uncovered > 0:
            self.again_at = None  # none is idle
            return have + -(-uncovered // view.slots)
        if self.again_at is not None and now < self.again_at:
            return None
        # Not later than the longest idle one's end; earlier if that one was taken since.
        self.again_at = None
        expired = 0
        for since in view.idle_since():
            if since + self.window_s > now:
                self.again_at = since + self.window_s
                break
            expired += 1
        return have - expired if expired else None
