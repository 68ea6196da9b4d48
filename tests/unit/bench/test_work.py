"""The work that contenders do, and how it is checked and timed."""

import asyncio

import pytest

from benchmarks import work
from benchmarks.baselines.map import consume, watch_naps
from benchmarks.timing import time_awaits, time_calls


def test_inputs_are_the_same_in_each_run():
    """Sizes as promised; the slow ones always at the same places."""
    assert len(work.texts(3)[2]) == 100
    assert 900 < len(str(work.records(2)[1])) < 1200
    assert work.naps(50, 5, 0.1) == work.naps(50, 5, 0.1)
    assert sum(1 for nap in work.naps(50, 5, 0.1) if nap) == 5


def test_chunks():
    """All items, in order; a rest at the end; nothing from nothing."""
    assert list(work.in_chunks(range(5), 2)) == [[0, 1], [2, 3], [4]]
    assert list(work.in_chunks([], 2)) == []


def test_check_finds_what_is_wrong():
    """Missing results, wrong ones, and wrong order."""
    work.check([1, 2], [1, 2])
    with pytest.raises(AssertionError, match="1 results instead of 2"):
        work.check([1], [1, 2])
    with pytest.raises(AssertionError, match="result 0 is 2, not 1"):
        work.check([2, 1], [1, 2])


def test_calls_are_timed_and_checked():
    """Three figures, and a wrong answer is no figure."""
    assert {"p50", "p95", "first"} == set(time_calls(lambda x: x, 10))
    with pytest.raises(AssertionError, match="the call with -1 returned 0"):
        time_calls(lambda x: x + 1, 10)


def test_awaits_are_timed_and_checked():
    """The same for coroutines."""

    async def call(x):
        return x

    figures = asyncio.run(time_awaits(call, 10))

    assert figures["p50"] <= figures["p95"]


def test_memory_growth_is_seen():
    """40 MiB that are gone at the end still count, because the peak does."""
    with work.PeakMemory() as memory:
        block = bytearray(b"x") * (40 << 20)
        del block

    assert 30 < memory.growth_mib < 80


def test_consume_checks_the_sum():
    """Results that are missing show in the sum."""
    assert {"rate", "growth"} == set(consume((2 * i for i in range(100)), 100))
    with pytest.raises(AssertionError, match="add up"):
        consume((2 * i for i in range(99)), 100)


def test_watch_naps():
    """The moment of the last quick one is before the end, and the ideal counts both containers."""
    inputs = [0.0, 2.0, 0.0]
    figures = watch_naps(iter([0.0, 0.0, 2.0]), inputs)

    assert figures["others"] <= figures["all"]
    assert figures["share of ideal"] > 100
    with pytest.raises(AssertionError):
        watch_naps(iter([0.0, 2.0]), inputs)
