"""`Dict` and `Queue` on the real engines: one store for the caller and its containers. Their rules are in `test_dict_queue`."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

import raymodal as modal
from raymodal.exception import NotFoundError


def test_a_dict_between_caller_and_container(sample: Any) -> None:
    """A handle in an argument, and one by name, are the same Dict."""
    with modal.Dict.ephemeral() as d:
        d["mine"] = [1]

        assert sample.call.remote(lambda d: d.update({"theirs": d["mine"] * 2}) or d.len(), d) == 2
        assert d["theirs"] == [1, 1]

    def by_name() -> Any:
        modal.Dict.from_name("contract-shared", create_if_missing=True)["k"] = sample_point
        return modal.Dict.from_name("contract-shared")["k"]

    sample_point = sample.Point(1, 2)
    try:
        assert sample.call.remote(by_name) == sample_point
        assert modal.Dict.from_name("contract-shared")["k"] == sample_point
    finally:
        modal.Dict.objects.delete("contract-shared")
    with pytest.raises(NotFoundError):
        modal.Dict.from_name("contract-shared").len()


def test_a_queue_between_caller_and_container(sample: Any) -> None:
    """A blocking `get` in a container wakes when the caller puts."""
    with modal.Queue.ephemeral() as q, modal.Queue.ephemeral() as answers:
        call = sample.call.spawn(lambda q, answers: answers.put(q.get(timeout=20) * 2), q, answers)
        q.put(21)

        assert answers.get(timeout=20) == 42
        assert call.get() is None
        with pytest.raises(queue.Empty):
            q.get(timeout=0.01)
        assert q.get(block=False) is None


def test_producers_and_consumers(sample: Any) -> None:
    """Every item is taken once, by threads here and functions there."""
    with modal.Queue.ephemeral() as q, modal.Queue.ephemeral() as seen:
        q.put_many(list(range(40)))

        def drain(q: Any, seen: Any) -> int:
            count = 0
            while (item := q.get(block=False)) is not None:
                seen.put(item)
                count += 1
            return count

        counts: list[int] = []
        thread = threading.Thread(target=lambda: counts.append(drain(q, seen)))
        thread.start()
        counts += sample.call.map([drain] * 2, [q, q], [seen, seen])
        thread.join()

        assert sum(counts) == 40
        assert sorted(seen.get_many(40)) == list(range(40))


async def test_on_a_loop(sample: Any) -> None:
    """The asynchronous forms."""
    async with modal.Dict.ephemeral() as d, modal.Queue.ephemeral() as q:
        await d.put.aio("k", 1)
        await q.put.aio(2)

        async def both(d: Any, q: Any) -> list[Any]:
            return [await d.get.aio("k"), await q.get.aio()]

        assert await sample.acall.remote.aio(both, d, q) == [1, 2]
