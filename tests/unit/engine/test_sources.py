"""Where a map's inputs come from."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymodal.engine.sources import Source

LONG = "x" * 5000


class Packed:
    """An encoded input."""

    def __init__(self, value: Any) -> None:
        self.value = value


def unpacked(items: list[Any]) -> list[Any]:
    return [item.value if isinstance(item, Packed) else item for item in items]


def drain(source: Source, limit: int = 3) -> list[Any]:
    got: list[Any] = []
    exhausted = False
    while not exhausted:
        items, exhausted = source.draw(limit, 60.0, Packed)
        got += unpacked(items)
    source.close()
    return got


async def agen(values: list[Any]) -> AsyncIterator[Any]:
    for value in values:
        yield value


@given(
    st.lists(st.lists(st.integers() | st.text(max_size=2), max_size=8), min_size=1, max_size=3),
    st.integers(1, 9),
    st.data(),
)
def test_any_mixture_of_iterables_is_zipped(lists: list[list[Any]], limit: int, data: st.DataObject) -> None:
    """It ends with the shortest, whatever each of them is."""
    forms = [data.draw(st.sampled_from([list, tuple, iter, agen])) for _ in lists]
    source = Source([form(values) for form, values in zip(forms, lists, strict=True)], star=False)

    expected = [row[0] if len(lists) == 1 else row for row in zip(*lists, strict=False)]
    assert drain(source, limit) == expected


@pytest.mark.parametrize("form", [list, iter, agen])
def test_starmap_takes_sequences_of_arguments(form: Any) -> None:
    """Tuples, lists and strings alike."""
    assert drain(Source(form([(1, 2), [3, 4], "ab"]), star=True)) == [(1, 2), (3, 4), ("a", "b")]


@pytest.mark.parametrize("inputs", [[5], [[1, 2], None]])
def test_what_is_not_iterable_is_refused(inputs: list[Any]) -> None:
    """An AssertionError in Modal too."""
    with pytest.raises(AssertionError, match="map inputs must be iterables, not (int|NoneType)"):
        Source(inputs, star=False)


@pytest.mark.parametrize("form", [list, iter])
def test_only_small_immutable_values_travel_as_they_are(form: Any) -> None:
    """Everything else is encoded when it is drawn."""
    items, _ = Source([form([1, LONG, [2], "s", None])], star=False).draw(9, 60.0, Packed)

    assert [type(item) is Packed for item in items] == [False, True, True, False, False]


def test_always_encodes_everything() -> None:
    """Spawned inputs are passed on without being read."""
    for values in ([1, 2], iter([1, 2])):
        items, _ = Source([values], star=False, always=True).draw(9, 60.0, Packed)
        assert [type(item) for item in items] == [Packed, Packed]


def test_a_generator_may_change_what_it_yielded() -> None:
    """It is encoded before the next one is asked for."""

    def reusing() -> Iterator[list[int]]:
        row = [0]
        for n in range(3):
            row[0] = n
            yield row

    items, _ = Source([reusing()], star=False).draw(9, 60.0, lambda value: list(value))
    assert items == [[0], [1], [2]]


def test_a_source_that_knows_its_length_says_so() -> None:
    """And that the last draw was the last."""
    source = Source([[1, 2, 3], range(10)], star=False)
    before = source.remaining()
    first = source.draw(2, 60.0, Packed)
    second = source.draw(2, 60.0, Packed)

    assert (before, first, second, source.remaining()) == (3, ([(1, 0), (2, 1)], False), ([(3, 2)], True), 0)
    assert Source([iter([1])], star=False).remaining() is None


@pytest.mark.parametrize(
    ("change", "expected"), [(lambda xs: xs.clear(), [0, 1]), (lambda xs: xs.append(9), [0, 1, 2, 3, 9])]
)
def test_a_list_may_change_its_length_meanwhile(change: Any, expected: list[int]) -> None:
    """As for any loop over it; it ends in any case."""
    values = [0, 1, 2, 3]
    source = Source([values], star=False)
    first, _ = source.draw(2, 60.0, Packed)
    change(values)
    second, exhausted = source.draw(9, 60.0, Packed)

    assert (first + second, exhausted, source.remaining()) == (expected, True, 0)


def test_a_slow_generator_is_left_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has given so far is sent, wherever in the draw it becomes slow."""
    now = [0.0]
    monkeypatch.setattr("raymodal.engine.sources.time.monotonic", lambda: now[0])

    def slow_from_the_fifth() -> Iterator[int]:
        for n in range(9):
            now[0] += 10.0 if n >= 5 else 0.0
            yield n

    source = Source([slow_from_the_fifth()], star=False)
    items, exhausted = source.draw(100, 1.0, Packed)
    assert (items, exhausted, source.is_slow) == ([0, 1, 2, 3, 4, 5], False, True)
    items, exhausted = source.draw(100, 100.0, Packed)
    assert (items, exhausted, source.is_slow) == ([6, 7, 8], True, False)


@pytest.mark.parametrize("form", [list, iter, agen])
def test_an_input_that_cannot_be_encoded_is_named(form: Any) -> None:
    """By its position in the map, those that need no encoding included."""

    def encode(value: Any) -> Any:
        if value == ["bad"]:
            raise TypeError("cannot pickle this")
        return value

    source = Source([form([0, 1, [2], 3, ["bad"]])], star=False)
    source.draw(2, 60.0, encode)
    with pytest.raises(TypeError) as caught:
        source.draw(9, 60.0, encode)
    assert caught.value.__notes__ == ["while input 4 of a map was made ready to be sent"]
    source.close()


def test_what_the_iterator_raises_reaches_the_caller() -> None:
    """Unchanged."""

    def broken() -> Iterator[int]:
        yield 1
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        Source([broken()], star=False).draw(9, 60.0, Packed)


@pytest.mark.parametrize("is_async", [False, True])
def test_closing_lets_generators_run_their_finally(is_async: bool) -> None:
    """Sync and async ones."""
    ended: list[str] = []

    def sync() -> Iterator[int]:
        try:
            yield from range(9)
        finally:
            ended.append("sync")

    async def asynchronous() -> AsyncIterator[int]:
        try:
            for n in range(9):
                yield n
        finally:
            ended.append("async")

    source = Source([asynchronous(), sync()] if is_async else [sync(), sync()], star=False)
    source.draw(2, 60.0, Packed)
    source.close()
    source.close()

    assert sorted(ended) == (["async", "sync"] if is_async else ["sync", "sync"])


def test_closing_leaves_a_file_open(tmp_path: Path) -> None:
    """It is the caller's."""
    path = tmp_path / "lines"
    path.write_text("a\nb\n")
    with path.open() as file:
        source = Source([file], star=False)
        items, _ = source.draw(1, 60.0, Packed)
        source.close()

        assert (items, file.closed, file.readline()) == (["a\n"], False, "b\n")


async def test_async_draws_mix_sources_too() -> None:
    """On the caller's loop, sync iterators in a thread."""
    threads: set[int] = set()

    def sync() -> Iterator[int]:
        for n in range(3):
            threads.add(threading.get_ident())
            yield n

    for inputs in ([sync()], [agen([0, 1, 2])], [[0, 1, 2]]):
        source = Source(inputs, star=False)
        items, exhausted = await source.draw_async(9, 60.0, Packed)
        await source.aclose()
        assert (items, exhausted) == ([0, 1, 2], True)
    assert threading.get_ident() not in threads


async def test_a_generator_that_blocks_in_a_thread_is_closed_when_it_yields() -> None:
    """The map that was given up does not wait for it, and does not fail over it."""
    begun, go, ended = threading.Event(), threading.Event(), threading.Event()

    def blocking() -> Iterator[int]:
        try:
            begun.set()
            go.wait(10)
            yield 1
            yield 2
        finally:
            ended.set()

    source = Source([blocking()], star=False)
    drawing = asyncio.ensure_future(source.draw_async(1, 60.0, Packed))
    await asyncio.to_thread(begun.wait, 10)
    drawing.cancel()
    await source.aclose()
    assert not ended.is_set()

    go.set()
    assert await asyncio.to_thread(ended.wait, 10)
    with contextlib.suppress(asyncio.CancelledError):
        await drawing


async def test_an_async_generator_that_waits_is_cancelled_before_it_is_closed() -> None:
    """One that runs cannot be closed."""
    begun, ended = asyncio.Event(), []

    async def waiting() -> AsyncIterator[int]:
        try:
            begun.set()
            await asyncio.Event().wait()
            yield 1
        finally:
            ended.append(True)

    source = Source([waiting()], star=False)
    drawing = asyncio.ensure_future(source.draw_async(1, 60.0, Packed))
    await begun.wait()
    drawing.cancel()
    await source.aclose()

    assert (ended, drawing.cancelled()) == ([True], True)


async def test_nothing_is_drawn_from_a_closed_source() -> None:
    """The thread may come too late."""
    source = Source([iter([1, 2])], star=False)
    await source.aclose()

    assert await source.draw_async(9, 60.0, Packed) == ([], True)
