"""The life of inputs: each has exactly one outcome, whatever comes late, twice or not at all."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raymodal.exception import InternalError
from raymodal.logic.ledger import Ledger, Take, loss_text
from raymodal.spec.function import RetryPolicy
from raymodal.wire import CANCELLED, START, TIMEOUT, USER, count_of, expand

TWICE = RetryPolicy(max_retries=2)
OPEN_END = 1 << 30


def ledger_of(count: int, retries: RetryPolicy | None = None, max_losses: int = 3) -> Ledger:
    ledger = Ledger(retries, max_losses)
    ledger.add(count)
    ledger.close()
    return ledger


def taken(ledger: Ledger, limit: int = OPEN_END, now: float = 0.0) -> Take:
    take = ledger.take(limit, now)
    assert take is not None
    return take


def indices(take: Take) -> list[int]:
    return list(expand(take.indices))


def test_inputs_that_succeed_leave_nothing_behind() -> None:
    """Fresh inputs travel as ranges and end as a count."""
    ledger = ledger_of(10)
    first, second = taken(ledger, 4), taken(ledger, 100)
    ledger.answered(second.bundle_id, 0, 6, {}, 1.0)
    ledger.answered(first.bundle_id, 0, 4, {}, 1.0)

    assert (indices(first), indices(second), ledger.finished, ledger.running) == (
        [0, 1, 2, 3],
        [4, 5, 6, 7, 8, 9],
        True,
        0,
    )


def test_an_empty_call_is_finished_once_it_is_closed() -> None:
    """A map over nothing ends."""
    ledger = Ledger()
    before = ledger.finished
    ledger.close()

    assert (before, ledger.finished, ledger.take(1, 0.0)) == (False, True, None)


def test_nothing_can_be_added_to_a_closed_call() -> None:
    """The error says how many there were."""
    ledger = ledger_of(3)

    with pytest.raises(InternalError, match="2 inputs added after the call was closed at 3"):
        ledger.add(2)


def test_a_limit_of_nothing_takes_nothing() -> None:
    """Also where inputs came back."""
    ledger = ledger_of(2)
    take = taken(ledger)
    ledger.returned(take.bundle_id, 0, 2)

    assert ledger.take(0, 0.0) is None
    ledger.check()


def test_a_failed_input_runs_again_when_its_delay_is_over() -> None:
    """It waits alone; its neighbours are done."""
    ledger = ledger_of(3, TWICE)
    take = taken(ledger)
    verdicts = ledger.answered(take.bundle_id, 0, 3, {1: USER}, 10.0)

    assert (verdicts.again, verdicts.final, ledger.done, ledger.next_due) == ([1], [], 2, 11.0)
    assert ledger.take(5, 10.9) is None
    again = taken(ledger, 5, 11.0)
    assert (indices(again), again.alone) == ([1], False)
    assert ledger.answered(again.bundle_id, 0, 1, {}, 12.0).final == []
    assert ledger.finished


def test_attempts_end_after_the_last_retry() -> None:
    """Three attempts for `max_retries=2`, and the story has all of them."""
    ledger = ledger_of(1, TWICE)
    for now in (1.0, 3.0):
        assert ledger.answered(taken(ledger, 1, now).bundle_id, 0, 1, {0: USER}, now).again == [0]

    assert ledger.answered(taken(ledger, 1, 9.0).bundle_id, 0, 1, {0: TIMEOUT}, 9.0).final == [0]
    assert ledger.story(0) == [(1.0, USER), (3.0, USER), (9.0, TIMEOUT)]
    assert ledger.finished


def test_a_cancelled_input_is_not_retried() -> None:
    """Modal retries every failure but this one."""
    ledger = ledger_of(1, TWICE)

    assert ledger.answered(taken(ledger).bundle_id, 0, 1, {0: CANCELLED}, 1.0).final == [0]


def test_a_late_failure_is_ignored() -> None:
    """The second answer for a position changes nothing, whatever it says."""
    ledger = ledger_of(4, TWICE)
    take = taken(ledger)
    ledger.answered(take.bundle_id, 0, 2, {}, 1.0)

    assert not ledger.unanswered(take.bundle_id, 0, 2)
    assert ledger.answered(take.bundle_id, 0, 2, {0: USER}, 2.0).again == []
    assert (ledger.done, ledger.waiting, ledger.open_ranges(take.bundle_id)) == (2, 0, [(2, 4)])
    ledger.check()


def test_returned_inputs_go_before_fresh_ones_and_use_no_attempt() -> None:
    """What a sealed bundle left untouched is sent first, as large as asked for."""
    ledger = ledger_of(10)
    take = taken(ledger, 6)
    ledger.answered(take.bundle_id, 0, 1, {}, 1.0)
    ledger.returned(take.bundle_id, 2, 6)

    assert [indices(taken(ledger, 3)), indices(taken(ledger, 3)), indices(taken(ledger, 3))] == [
        [2, 3, 4],
        [5],
        [6, 7, 8],
    ]
    assert ledger.open_indices(take.bundle_id) == [1]
    assert ledger.story(2) == []


def test_a_lost_bundle_runs_again_one_by_one_and_blames_nobody() -> None:
    """Only unanswered inputs run again, each alone."""
    ledger = ledger_of(3)
    take = taken(ledger)
    ledger.answered(take.bundle_id, 0, 1, {}, 1.0)
    verdicts = ledger.lost(take.bundle_id, 2.0, was_alone=True)
    again = [taken(ledger), taken(ledger)]

    assert (verdicts.again, [(indices(t), t.alone) for t in again]) == ([1, 2], [([1], True), ([2], True)])
    assert ledger.trouble(1).losses == 0
    assert ledger.lost(take.bundle_id, 3.0, was_alone=True).again == []


def test_an_input_lost_alone_too_often_is_reported() -> None:
    """`max_losses` reruns, then the end; the text says how often."""
    ledger = ledger_of(1, max_losses=2)
    finals = [ledger.lost(taken(ledger).bundle_id, float(n), was_alone=True).final for n in range(3)]

    assert finals == [[], [], [0]]
    assert "went away 3 times" in loss_text(ledger.trouble(0))
    assert ledger.finished


def test_an_input_lost_beside_others_is_not_charged() -> None:
    """Even a bundle of one, if something else was in the container."""
    ledger = ledger_of(1, max_losses=0)

    assert ledger.lost(taken(ledger).bundle_id, 1.0, was_alone=False).again == [0]


def test_a_suspect_that_comes_back_untouched_stays_a_suspect() -> None:
    """A lost input that was refused elsewhere must still run alone."""
    ledger = ledger_of(5)
    ledger.lost(taken(ledger, 1).bundle_id, 1.0, was_alone=True)
    refused = taken(ledger)
    ledger.returned(refused.bundle_id, 0, 1)
    again = taken(ledger)

    assert (indices(again), again.alone) == ([0], True)


def test_put_back_is_the_next_one_again() -> None:
    """No slot was empty for it; twice changes nothing."""
    ledger = ledger_of(2)
    ledger.lost(taken(ledger).bundle_id, 1.0, was_alone=True)
    take = taken(ledger)
    ledger.put_back(take)
    ledger.put_back(take)

    assert (indices(taken(ledger)), ledger.queued) == ([0], 1)
    ledger.check()


@pytest.mark.parametrize("fresh", [True, False])
def test_a_shortened_bundle_gives_the_rest_back(fresh: bool) -> None:
    """The rest is next, in order."""
    ledger = ledger_of(6)
    take = taken(ledger)
    if not fresh:
        ledger.returned(take.bundle_id, 0, 6)
        take = taken(ledger)
    short = ledger.shorten(take, 2)

    assert (indices(short), indices(taken(ledger))) == ([0, 1], [2, 3, 4, 5])
    ledger.check()


def test_without_containers_every_queued_input_fails_an_attempt() -> None:
    """What runs is not touched; what may be retried waits."""
    ledger = ledger_of(5, RetryPolicy(max_retries=1))
    running = taken(ledger, 2)

    first = ledger.fail_queued(1.0)
    second = ledger.fail_queued(2.5)
    assert (first.again, first.final, second.again, second.final) == ([2, 3, 4], [], [], [2, 3, 4])
    assert ledger.story(3) == [(1.0, START), (2.5, START)]
    assert ledger.open_indices(running.bundle_id) == [0, 1]


def test_a_cancelled_call_ends_when_what_runs_has_answered() -> None:
    """Queued and waiting inputs are done at once; nothing is taken or retried any more."""
    ledger = ledger_of(8, TWICE)
    running, failed, lost, back = (taken(ledger, 1) for _ in range(4))
    ledger.answered(failed.bundle_id, 0, 1, {0: USER}, 0.0)

    assert ledger.cancel(0.5) == [running.bundle_id, lost.bundle_id, back.bundle_id]
    assert (ledger.take(1, 5.0), ledger.running, ledger.done) == (None, 3, 5)
    ledger.answered(running.bundle_id, 0, 1, {0: USER}, 1.0)
    ledger.lost(lost.bundle_id, 1.0, was_alone=True)
    ledger.returned(back.bundle_id, 0, 1)
    assert ledger.finished
    assert ledger.cancel(9.0) == []


class LedgerMachine(RuleBasedStateMachine):
    """Every order of events, late and repeated ones included, against a plain count of what each input went through."""

    @initialize(max_retries=st.integers(0, 2), max_losses=st.integers(0, 2), has_retries=st.booleans())
    def begin(self, max_retries: int, max_losses: int, has_retries: bool) -> None:
        self.max_failures = max_retries + 1 if has_retries else 1
        self.max_losses = max_losses
        self.ledger = Ledger(RetryPolicy(max_retries=max_retries) if has_retries else None, max_losses)
        self.now = 0.0
        self.open: list[Take] = []
        self.old: list[Take] = []
        self.outcomes: Counter[int] = Counter()
        self.failures: Counter[int] = Counter()
        self.lost_alone: Counter[int] = Counter()
        self.suspects: set[int] = set()

    def settle(self, final: list[int]) -> None:
        self.outcomes.update(final)

    def drop_answered(self) -> None:
        self.old += [take for take in self.open if not self.ledger.is_open(take.bundle_id)]
        self.open = [take for take in self.open if self.ledger.is_open(take.bundle_id)]

    @rule(count=st.integers(0, 6))
    def add(self, count: int) -> None:
        if not self.ledger.closed:
            assert self.ledger.add(count) == self.ledger.known - count

    @rule()
    def close(self) -> None:
        self.ledger.close()

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(limit=st.integers(1, 5))
    def take(self, limit: int) -> None:
        take = self.ledger.take(limit, self.now)
        if take is None:
            return
        got = indices(take)
        assert 1 <= len(got) <= limit
        assert not any(self.outcomes[i] for i in got)
        assert take.alone == (len(got) == 1 and got[0] in self.suspects)
        assert take.alone or not self.suspects.intersection(got)
        self.open.append(take)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def shorten(self, data: st.DataObject) -> None:
        take = self.open[-1]
        total = count_of(take.indices)
        untouched = self.ledger.open_ranges(take.bundle_id) == [(0, total)]
        latest = max(t.bundle_id for t in self.open + self.old) == take.bundle_id
        if untouched and latest and total > 1:
            self.open[-1] = self.ledger.shorten(take, data.draw(st.integers(1, total)))

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def answer(self, data: st.DataObject) -> None:
        take = data.draw(st.sampled_from(self.open))
        lo, hi = data.draw(st.sampled_from(self.ledger.open_ranges(take.bundle_id)))
        start = data.draw(st.integers(lo, hi - 1))
        stop = data.draw(st.integers(start + 1, hi))
        failed = {
            pos: data.draw(st.sampled_from([USER, TIMEOUT, CANCELLED]))
            for pos in range(start, stop)
            if data.draw(st.booleans())
        }
        assert self.ledger.unanswered(take.bundle_id, start, stop)
        verdicts = self.ledger.answered(take.bundle_id, start, stop, failed, self.now)
        got = indices(take)
        assert sorted(verdicts.final + verdicts.again) == sorted(got[pos] for pos in failed)
        for pos, kind in failed.items():
            self.failures[got[pos]] += kind != CANCELLED
        self.settle([got[pos] for pos in range(start, stop) if pos not in failed] + verdicts.final)
        self.drop_answered()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        take = data.draw(st.sampled_from(self.open))
        lo, hi = data.draw(st.sampled_from(self.ledger.open_ranges(take.bundle_id)))
        start = data.draw(st.integers(lo, hi))
        self.ledger.returned(take.bundle_id, start, hi)
        if self.ledger.cancelled:
            self.settle(indices(take)[start:hi])
        self.drop_answered()

    @precondition(lambda self: self.open)
    @rule(data=st.data(), alone=st.booleans())
    def lose(self, data: st.DataObject, alone: bool) -> None:
        take = data.draw(st.sampled_from(self.open))
        left = self.ledger.open_indices(take.bundle_id)
        verdicts = self.ledger.lost(take.bundle_id, self.now, was_alone=alone)
        assert sorted(verdicts.final + verdicts.again) == left
        if alone and len(left) == 1:
            self.lost_alone[left[0]] += 1
        self.suspects.update(left)
        self.settle(verdicts.final)
        self.drop_answered()

    @precondition(lambda self: self.old)
    @rule(data=st.data(), what=st.sampled_from(["answer", "fail", "return", "lose"]))
    def late(self, data: st.DataObject, what: str) -> None:
        take = data.draw(st.sampled_from(self.old))
        before = (self.ledger.done, self.ledger.queued, self.ledger.running, self.ledger.waiting)
        total = count_of(take.indices)
        assert not self.ledger.unanswered(take.bundle_id, 0, 1)
        if what == "return":
            self.ledger.returned(take.bundle_id, 0, total)
        elif what == "lose":
            verdicts = self.ledger.lost(take.bundle_id, self.now, was_alone=True)
            assert not verdicts.final + verdicts.again
        else:
            verdicts = self.ledger.answered(take.bundle_id, 0, total, {0: USER} if what == "fail" else {}, self.now)
            assert not verdicts.final + verdicts.again
        assert (self.ledger.done, self.ledger.queued, self.ledger.running, self.ledger.waiting) == before

    @rule()
    def no_containers(self) -> None:
        verdicts = self.ledger.fail_queued(self.now)
        self.failures.update(verdicts.final + verdicts.again)
        self.settle(verdicts.final)
        assert self.ledger.queued == 0

    @rule()
    def cancel(self) -> None:
        running = {i for take in self.open for i in self.ledger.open_indices(take.bundle_id)}
        self.settle([i for i in range(self.ledger.known) if not self.outcomes[i] and i not in running])
        assert self.ledger.cancel(self.now) == [take.bundle_id for take in sorted(self.open, key=lambda t: t.bundle_id)]

    @invariant()
    def counts_agree(self) -> None:
        if not hasattr(self, "ledger"):
            return
        self.ledger.check()
        assert self.ledger.done == self.outcomes.total()
        assert not self.outcomes or max(self.outcomes.values()) == 1
        assert not self.failures or max(self.failures.values()) <= self.max_failures
        assert not self.lost_alone or max(self.lost_alone.values()) <= self.max_losses + 1

    def teardown(self) -> None:
        """Whatever happened, the call ends if containers answer."""
        if not hasattr(self, "ledger"):
            return
        self.ledger.close()
        while not self.ledger.finished:
            self.now += 30 * 3600.0
            for take in self.open:
                for lo, hi in self.ledger.open_ranges(take.bundle_id):
                    self.ledger.answered(take.bundle_id, lo, hi, {}, self.now)
                    self.settle(indices(take)[lo:hi])
            self.open.clear()
            take = self.ledger.take(5, self.now)
            if take is not None:
                self.open.append(take)
            else:
                assert self.ledger.finished
        assert set(self.outcomes) == set(range(self.ledger.known))
        self.counts_agree()


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(max_examples=120, stateful_step_count=40, deadline=None)
