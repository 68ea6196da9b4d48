"""How many workers are kept ready."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raymodal.logic.warm import APPEAR_S, KEEP_S, PAUSE_S, QUIET_S, WORKER_MIB, Warm, ready_target


def fill(warm: Warm, now: float) -> float:
    """Ask as often as told until nothing is missing; the time then."""
    for _ in range(100):
        warm.appeared(warm.missing(now))
        if warm.next_at(now) > now + 1:
            return now
        now = warm.next_at(now)
    raise AssertionError("never full")


def test_a_node_is_filled_in_steps() -> None:
    """Ray drops what it is asked for beyond its cores, so more is asked for when the last have appeared."""
    warm = Warm(target=5, at_once=2)

    assert [warm.missing(at) for at in (0.0, 0.0, PAUSE_S, 1.0)] == [2, 0, 0, 0]
    warm.appeared(1)
    assert warm.missing(1.1) == 0
    assert warm.next_at(1.1) == 1.1 + PAUSE_S
    warm.appeared(1)
    assert warm.missing(1.2) == 2
    warm.appeared(3)  # and one of somebody else's
    assert warm.missing(1.3) == 1
    warm.appeared(1)
    assert warm.missing(1.4) == 0
    assert warm.next_at(1.4) == KEEP_S


def test_what_does_not_appear_is_asked_for_again() -> None:
    """Ray has dropped it, and does not say so."""
    warm = Warm(target=3, at_once=2)
    assert warm.missing(0.0) == 2
    warm.appeared(1)

    assert warm.missing(APPEAR_S - 0.1) == 0
    assert warm.missing(APPEAR_S) == 2
    warm.appeared(2)
    assert warm.missing(APPEAR_S) == 0


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
    warm.appeared(2)


def test_a_worker_that_nobody_takes_is_made_anew() -> None:
    """Ray ends it after its time."""
    warm = Warm(target=1)
    assert warm.missing(0.0) == 1
    warm.appeared(1)
    assert warm.next_at(1.0) == KEEP_S
    assert warm.missing(KEEP_S) == 1


@given(
    st.integers(0, 6),
    st.integers(1, 4),
    st.lists(st.tuples(st.floats(0, 3), st.sampled_from(["start", "look", "drop"])), max_size=60),
)
def test_never_more_than_wanted_and_full_in_the_end(target: int, at_once: int, steps: list[tuple[float, str]]) -> None:
    """Whatever starts or is dropped when: what there is, less what was taken and what has gone, stays within the target."""
    warm = Warm(target, at_once)
    now = 0.0
    alive: list[float] = []
    asked = taken = 0
    for pause, what in steps:
        now += pause
        alive = [until for until in alive if until > now]
        if what == "start":
            warm.started(now)
            if alive:
                alive = alive[1:]
            elif taken < asked:
                taken += 1  # it will have one that has not appeared yet
        elif what == "look":
            warm.appeared(asked)
            alive += [now + KEEP_S] * (asked - taken)
            asked = taken = 0
        count = warm.missing(now)
        if count:
            asked, taken = count, 0
        elif what == "drop":
            asked = taken = 0
        assert len(alive) + asked - taken <= target
        assert warm.next_at(now) >= now
    for _ in range(2 * target + 4):
        now += APPEAR_S
        alive = [until for until in alive if until > now]
        count = warm.missing(now)
        warm.appeared(count)
        alive += [now + KEEP_S] * count
    assert len(alive) == target


def test_how_many() -> None:
    """By cores unless told, within the memory."""
    assert ready_target(None, 200, 2.0, 24_000) == 2
    assert ready_target(None, 200, 64.0, 240_000) == 4
    assert ready_target(0, 200, 64.0, 240_000) == 0
    assert ready_target(50, 200, 64.0, 240_000) == 200 // WORKER_MIB
    assert ready_target(None, 200, 4.0, 1_000) == 1000 // 20 // WORKER_MIB
