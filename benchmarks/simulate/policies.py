"""Policies that act on events: ours, and a fixed keep-alive. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from raymodal.logic.autoscale import Load, Rules, decide, needed_for

from .world import World


@dataclass
class Ours:
    """`raymodal.logic.autoscale.decide`, asked as the controller asks it: after arrivals, ends and starts, and at `again_at`.

    `decide` looks at every idle container, which for thousands of them after each of a million inputs takes hours. So
    it is not asked where it can only answer "as it is": no more is needed than there is, no idle container has reached
    its window, and an earlier answer has said when to look again. `asks_always` leaves that out; a test holds both
    against each other.
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
        if self.again_at is not None and now >= self.again_at:
            return False
        have, high = view.containers, self.rules.max_containers
        needed = needed_for(self.rules, view.demand)
        if needed > have and have != high:
            return False
        if have < self.rules.min_containers or (high is not None and have > high):
            return False
        if not view.idle:
            return True
        longest = next(view.idle_since())
        return self.again_at is not None and now < longest + self.rules.scaledown_window


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
