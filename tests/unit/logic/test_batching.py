"""When a batch is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from raymodal.logic.batching import Batcher


@given(count=st.integers(0, 40), size=st.integers(1, 10), wait=st.integers(0, 50), late=st.integers(0, 100))
def test_what_a_free_executor_takes(count: int, size: int, wait: int, late: int) -> None:
    """A full batch at once; fewer only once the oldest has waited; then all there is. Order is kept."""
    batcher: Batcher[int] = Batcher(size, float(wait))
    for x in range(count):
        batcher.add(x, 0.0)

    taken = batcher.take(float(late))

    is_due = count >= size or (count > 0 and late >= wait)
    assert taken == (list(range(min(count, size))) if is_due else [])
    assert len(batcher) == count - len(taken)


def test_it_waits_for_the_oldest_only() -> None:
    """A late one does not make the wait longer."""
    batcher: Batcher[str] = Batcher(3, 1.0)
    batcher.add("a", 0.0)
    batcher.add("b", 0.9)
    assert (batcher.take(0.99), batcher.due_at) == ([], 1.0)
    assert batcher.take(1.0) == ["a", "b"]
    assert batcher.due_at is None


def test_an_input_that_is_not_wanted() -> None:
    """It goes, and the next one's wait is its own."""
    batcher: Batcher[str] = Batcher(3, 1.0)
    a, b = "a", "b"
    batcher.add(a, 0.0)
    batcher.add(b, 0.5)
    assert (batcher.remove(a), batcher.remove(a)) == (True, False)
    assert (batcher.due_at, batcher.clear(), len(batcher)) == (1.5, ["b"], 0)


class Machine(RuleBasedStateMachine):
    """One executor that runs batches of any length, and inputs that come and go."""

    @initialize(size=st.integers(1, 5), wait=st.integers(0, 5))
    def begin(self, size: int, wait: int) -> None:
        self.batcher: Batcher[tuple[int]] = Batcher(size, float(wait))
        self.size, self.wait, self.now = size, wait, 0
        self.came: list[tuple[tuple[int], int]] = []
        self.out: list[tuple[int]] = []
        self.free_at = 0
        self.number = 0

    @rule()
    def add(self) -> None:
        self.number += 1
        item = (self.number,)
        self.came.append((item, self.now))
        self.batcher.add(item, float(self.now))
        self.look()

    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        waiting = [item for item, _ in self.came if item not in self.out]
        if waiting:
            item = data.draw(st.sampled_from(waiting))
            assert self.batcher.remove(item)
            self.came = [(i, t) for i, t in self.came if i is not item]

    @rule(seconds=st.integers(1, 4))
    def wait_for(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now += 1
            self.look()

    @rule(took=st.integers(1, 6))
    def run_long(self, took: int) -> None:
        self.free_at = max(self.free_at, self.now + took)

    def look(self) -> None:
        """As the shell does: whenever something came, or is due, and the executor is free."""
        while self.now >= self.free_at and (batch := self.batcher.take(float(self.now))):
            oldest = next(t for item, t in self.came if item == batch[0])
            assert len(batch) <= self.size
            assert len(batch) == self.size or self.now >= oldest + self.wait
            assert len(batch) == self.size or len(self.batcher) == 0
            self.out += batch
            self.free_at = self.now

    @invariant()
    def in_order_and_none_twice(self) -> None:
        if hasattr(self, "out"):
            assert self.out == [item for item, _ in self.came if item in set(self.out)]
            if self.now >= self.free_at and (due := self.batcher.due_at) is not None:
                assert due > self.now  # whoever is due while somebody is free has gone


TestMachine = Machine.TestCase
