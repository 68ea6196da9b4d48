"""How many workers are kept ready."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raymodal.logic.warm import KEEP_S, PAUSE_S, QUIET_S, WORKER_MIB, Warm, ready_target


def fill(warm: Warm, now: float) -> float:
    """Ask as often as told until nothing is missing; the time then."""
    for _ in range(100):
        warm.missing(now)
        if warm.next_at(now) > now + 1:
            return now
        now = warm.next_at(now)
    raise AssertionError("never full")


def test_a_node_is_filled_in_steps() -> None:
    """Ray drops what it is asked for at once beyond its cores."""
    warm = Warm(target=5, at_once=2)

    assert [warm.missing(at) for at in (0.0, 0.0, PAUSE_S, 2 * PAUSE_S, 3 * PAUSE_S)] == [2, 0, 2, 1, 0]


def test_what_is_taken_is_made_up_once_it_is_quiet() -> None:
    """Not on the cores that a burst needs."""
    warm = Warm(target=2, at_once=2)
    now = fill(warm, 0.0)
    warm.started(now)
    warm.started(now)
    warm.started(now)  # one more than there were

    assert warm.missing(now + QUIET_S / 2) == 0
    assert warm.next_at(now + QUIET_S / 2) == now + QUIET_S
    assert warm.missing(now + QUIET_S) == 2


def test_a_worker_that_nobody_takes_is_made_anew() -> None:
    """Ray ends it after its time."""
    warm = Warm(target=1)
    assert warm.missing(0.0) == 1
    assert warm.next_at(1.0) == KEEP_S
    assert warm.missing(KEEP_S) == 1


@given(
    st.integers(0, 6),
    st.integers(1, 4),
    st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60),
)
def test_never_more_than_wanted_and_full_in_the_end(target: int, at_once: int, steps: list[tuple[float, bool]]) -> None:
    """Whatever starts when: what is asked for, less what was taken and what has gone, stays within the target."""
    warm = Warm(target, at_once)
    now = 0.0
    alive: list[float] = []
    for pause, is_start in steps:
        now += pause
        alive = [until for until in alive if until > now]
        if is_start:
            warm.started(now)
            alive = alive[1:]
        alive += [now + KEEP_S] * warm.missing(now)
        assert len(alive) <= target
        assert warm.next_at(now) >= now
    now += QUIET_S + PAUSE_S
    for _ in range(target + 1):
        alive += [now + KEEP_S] * warm.missing(now)
        now += PAUSE_S
    assert len(alive) == target


def test_how_many() -> None:
    """By cores unless told, within the memory."""
    assert ready_target(None, 200, 2.0, 24_000) == 2
    assert ready_target(None, 200, 64.0, 240_000) == 4
    assert ready_target(0, 200, 64.0, 240_000) == 0
    assert ready_target(50, 200, 64.0, 240_000) == 200 // WORKER_MIB
    assert ready_target(None, 200, 4.0, 1_000) == 1000 // 20 // WORKER_MIB
