"""`Dict` and `Queue` as programs use them: the same on every engine.

Here the store is hosted by this process' I/O loop; the engines run it elsewhere behind the same `StoreClient`.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import queue
import signal
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from raymodal import _stored
from raymodal.dict import Dict
from raymodal.engine import current
from raymodal.engine.store import Limits, StoreCore
from raymodal.exception import (
    AlreadyExistsError,
    DeserializationError,
    InvalidError,
    NotFoundError,
    RequestSizeError,
)
from raymodal.queue import Queue

DAY_S = 24 * 3600


class Clock:
    def __init__(self) -> None:
        self.seconds = 1_700_000_000.0

    def __call__(self) -> float:
        return self.seconds


class HostedStore:
    """A `StoreClient` on this process' I/O loop; `pause` holds back answers as a network would."""

    def __init__(self, limits: Limits) -> None:
        self.clock = Clock()
        self.core = StoreCore(self.clock, self.clock, limits)
        self.calls: list[str] = []
        self.pause: str | None = None
        self.paused = threading.Event()

    async def call(self, method: str, *args: Any) -> Any:
        self.calls.append(method)
        # As with a store in another process: cancelling the caller leaves the call running.
        answer = await asyncio.shield(asyncio.ensure_future(getattr(self.core, method)(*args)))
        if method == self.pause:
            self.paused.set()
            await asyncio.sleep(60)
        return answer


class HostedEngine:
    name = "hosted"

    def __init__(self, store: HostedStore) -> None:
        self._store = store

    def store(self) -> HostedStore:
        return self._store

    def close(self) -> None:
        pass


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[HostedStore]:
    hosted = HostedStore(Limits(item_bytes=1000, dict_value_bytes=1000, partition_items=5, page_items=3))
    before = current.engine_or_none()
    current.set_engine(HostedEngine(hosted))  # type: ignore[arg-type]
    yield hosted
    current.set_engine(before)


@pytest.fixture
def d(store: HostedStore) -> Iterator[Dict]:
    with Dict.ephemeral() as made:
        yield made


@pytest.fixture
def q(store: HostedStore) -> Iterator[Queue]:
    with Queue.ephemeral() as made:
        yield made


class Unhashable:
    """A value of this module, pickled by reference."""

    def __init__(self, n: int) -> None:
        self.n = n


# Handles


@pytest.mark.parametrize("cls", [Dict, Queue])
def test_a_class_is_not_called(cls: type[Any]) -> None:
    """Modal documents one error and raises the other."""
    with pytest.raises(InvalidError, match="from_name"):
        cls()
    with pytest.raises(RuntimeError):
        cls()


@pytest.mark.parametrize("cls", [Dict, Queue])
@pytest.mark.parametrize("name", ["", "a b", "ä", "a" * 65, "ap-" + "a" * 22])
def test_names_are_checked_at_once(cls: type[Any], name: str) -> None:
    """Characters only; whether it exists shows when it is used."""
    with pytest.raises(InvalidError, match="name"):
        cls.from_name(name)
    with pytest.raises(InvalidError, match="name"):
        cls.objects.create(name)
    cls.from_name("a" * 64)


@pytest.mark.parametrize(("cls", "prefix"), [(Dict, "di-"), (Queue, "qu-")])
def test_handles_are_lazy(store: HostedStore, cls: type[Any], prefix: str) -> None:
    """Nothing is asked of the cluster before the first use."""
    handle = cls.from_name("x", create_if_missing=True)
    assert store.calls == []
    with pytest.raises(AttributeError, match="hydrate"):
        handle.object_id
    assert repr(handle) == f"modal.{cls.__name__}.from_name('x')"
    assert handle.name == "x"

    assert handle.hydrate() is handle
    assert handle.object_id.startswith(prefix)
    handle.hydrate()
    assert store.calls == ["get_or_create"]

    same = cls.from_id(handle.object_id)
    with pytest.raises(AttributeError):
        same.object_id
    assert same.len() == 0
    assert (same.object_id, same.name) == (handle.object_id, "x")


@pytest.mark.parametrize("cls", [Dict, Queue])
def test_missing_objects(store: HostedStore, cls: type[Any]) -> None:
    """By name and by id."""
    with pytest.raises(NotFoundError, match="'nope' not found"):
        cls.from_name("nope").len()
    with pytest.raises(NotFoundError):
        cls.from_id("di-nope").hydrate()


@pytest.mark.parametrize("cls", [Dict, Queue])
def test_environments_are_namespaces(store: HostedStore, cls: type[Any]) -> None:
    """The default one is `main`."""
    cls.from_name("x", create_if_missing=True).hydrate()

    assert cls.from_name("x", environment_name="main").len() == 0
    with pytest.raises(NotFoundError):
        cls.from_name("x", environment_name="other").len()


@pytest.mark.parametrize("cls", [Dict, Queue])
@pytest.mark.parametrize("dumps", [pickle.dumps, cloudpickle.dumps])
def test_handles_travel(store: HostedStore, cls: type[Any], dumps: Any) -> None:
    """By id once they are used, otherwise by what they will look up."""
    used = cls.from_name("x", create_if_missing=True)
    unused = cls.from_name("y", environment_name="e", create_if_missing=True)
    used.hydrate()
    store.calls.clear()

    again, later = pickle.loads(dumps((used, unused)))

    assert again.object_id == used.object_id
    assert again.name == "x"
    assert repr(later) == repr(unused)
    assert store.calls == []
    later.hydrate()


def test_handles_are_values(d: Dict, q: Queue) -> None:
    """A Queue in a Dict, and a Dict in that Queue."""
    d["queue"] = q
    d["queue"].put(d)

    assert q.get().object_id == d.object_id


@pytest.mark.parametrize("cls", [Dict, Queue])
def test_ephemeral_objects_end_with_their_block(store: HostedStore, cls: type[Any]) -> None:
    """By `with` and by `async with`, also when the block fails."""

    async def main() -> str:
        async with cls.ephemeral() as handle:
            assert await handle.len.aio() == 0
            return str(handle.object_id)

    with pytest.raises(LookupError), cls.ephemeral() as handle:
        assert repr(handle) == f"modal.{cls.__name__}.ephemeral()"
        raise LookupError
    with pytest.raises(NotFoundError):
        handle.len()
    with pytest.raises(NotFoundError):
        cls.from_id(asyncio.run(main())).len()


def test_ephemeral_objects_are_kept_alive(store: HostedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """By heartbeats, one every `_heartbeat_sleep` seconds."""
    beaten = threading.Event()
    beat = store.core.heartbeat

    async def heartbeat(object_id: str) -> None:
        await beat(object_id)
        beaten.set()

    monkeypatch.setattr(store.core, "heartbeat", heartbeat)
    with Dict.ephemeral(_heartbeat_sleep=0.001):
        assert beaten.wait(5)


@pytest.mark.parametrize("cls", [Dict, Queue])
def test_managers(store: HostedStore, cls: type[Any]) -> None:
    """Create, list, delete; from the class or a handle; blocking or not."""
    cls.objects.create("a")
    store.clock.seconds += 10
    asyncio.run(cls.objects.create.aio("b"))
    with pytest.raises(AlreadyExistsError):
        cls.objects.create("a")
    cls.objects.create("a", allow_existing=True)

    found = cls.from_name("a").objects.list()
    assert [handle.name for handle in found] == ["b", "a"]
    assert all(isinstance(handle, cls) and handle.len() == 0 for handle in found)
    assert [handle.name for handle in cls.objects.list(max_objects=1)] == ["b"]
    assert [handle.name for handle in cls.objects.list(created_before="2023-11-16")] == ["b", "a"]
    assert cls.objects.list(created_before="2023-11-14") == []
    with pytest.raises(InvalidError, match="ISO"):
        cls.objects.list(created_before="yesterday")

    cls.objects.delete("a")
    with pytest.raises(NotFoundError):
        cls.objects.delete("a")
    cls.objects.delete("a", allow_missing=True)
    with pytest.raises(NotFoundError):
        cls.from_name("a").len()


@pytest.mark.parametrize("cls", [Dict, Queue])
def test_info(store: HostedStore, cls: type[Any]) -> None:
    """Name and a local time."""
    pytest.importorskip("raymodal.types")
    info = cls.from_name("x", create_if_missing=True).info()

    assert (info.name, info.created_by) == ("x", None)
    assert info.created_at.timestamp() == store.clock.seconds
    assert info.created_at.tzinfo is not None


def test_signatures() -> None:
    """Those of modal 1.6.4 where they are easy to get wrong."""
    assert str(inspect.signature(Dict.update)).startswith("(self, other: ")
    assert inspect.signature(Dict.update).parameters["other"].kind is inspect.Parameter.POSITIONAL_ONLY
    assert list(inspect.signature(Queue.put).parameters) == [
        "self",
        "v",
        "block",
        "timeout",
        "partition",
        "partition_ttl",
    ]
    assert inspect.signature(Queue.put).parameters["partition"].kind is inspect.Parameter.KEYWORD_ONLY
    assert inspect.signature(Queue.put).parameters["partition_ttl"].default == 86400
    assert list(inspect.signature(Queue.ephemeral).parameters) == ["client", "environment_name", "_heartbeat_sleep"]


# Dict


def test_dict_basics(d: Dict) -> None:
    """The operators and their methods."""
    d["a"] = [1]
    assert d["a"] == [1]
    assert d.get("a") == [1]
    assert d.get("b") is None
    assert d.get("b", 7) == 7
    assert "a" in d
    assert "b" not in d
    assert d.contains("a") is True
    d.update({"b": 2}, c=3)
    d.update()
    assert d.len() == 3
    assert set(d.keys()) == {"a", "b", "c"}
    assert sorted(map(str, d.values())) == ["2", "3", "[1]"]
    assert dict(d.items()) == {"a": [1], "b": 2, "c": 3}
    assert d.pop("b") == 2
    assert d.pop("b", None) is None
    del d["c"]
    d.clear()
    assert d.len() == 0


def test_dict_errors_name_key_and_object(d: Dict) -> None:
    """As a KeyError, and with None as a value like any other."""
    d["none"] = None
    assert d["none"] is None
    assert d.pop("none") is None

    def delete() -> None:
        del d["none"]

    for missing in (lambda: d["none"], lambda: d.pop("none"), delete):
        with pytest.raises(KeyError, match=f"'none'.*{d.object_id}"):
            missing()


def test_put_is_a_lock(d: Dict) -> None:
    """`skip_if_exists` says who was first."""
    assert d.put("lock", 1, skip_if_exists=True) is True
    assert d.put("lock", 2, skip_if_exists=True) is False
    assert d["lock"] == 1
    assert d.put("lock", 3) is False


def test_keys_compare_by_pickled_bytes(d: Dict) -> None:
    """Not by `==`; and unhashable ones are welcome."""
    for key in (1, 1.0, True, {"a": 1, "b": 2}, {"b": 2, "a": 1}, [1]):
        d[key] = repr(key)

    assert d.len() == 6
    assert d[True] == "True"
    assert d[[1]] == "[1]"


def test_values_are_copies(d: Dict) -> None:
    """What is changed must be put again."""
    d["x"] = []
    d["x"].append(1)

    assert d["x"] == []


def test_a_dict_is_neither_sized_nor_iterable(d: Dict) -> None:
    """`len(d)` would have to block, and iteration to choose between keys and items."""
    with pytest.raises(TypeError):
        len(d)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        iter(d)  # type: ignore[call-overload]


def test_dict_values_have_a_size_limit(d: Dict) -> None:
    """The error says so."""
    with pytest.raises(RequestSizeError, match="1000 bytes"):
        d["x"] = b"x" * 1001


def test_many_entries_come_in_pages(d: Dict, store: HostedStore) -> None:
    """And reading stops where the reader stops."""
    d.update({i: i * i for i in range(20)})
    assert dict(d.items()) == {i: i * i for i in range(20)}
    store.calls.clear()

    first = next(iter(d.keys()))

    assert first == 0


def test_dict_in_coroutines(d: Dict) -> None:
    """Everything has its `.aio`; streams are read by `async for`."""

    async def main() -> None:
        assert await d.put.aio("a", 1)
        assert await d.get.aio("a") == 1
        assert await d.contains.aio("a")
        await d.update.aio(b=2)
        assert await d.len.aio() == 2
        assert [key async for key in d.keys.aio()] == ["a", "b"]
        assert [item async for item in d.items()] == [("a", 1), ("b", 2)]
        assert await d.__getitem__.aio("a") == 1
        assert await d.pop.aio("a") == 1
        await d.clear.aio()
        assert await d.hydrate.aio() is d

    asyncio.run(main())


def test_a_value_of_a_class_that_is_not_here(d: Dict, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names key and module."""
    module = types.ModuleType("raymodal_gone")
    exec("class Thing: pass", module.__dict__)
    monkeypatch.setitem(sys.modules, "raymodal_gone", module)
    d["the-key"] = module.Thing()
    monkeypatch.delitem(sys.modules, "raymodal_gone")

    for read in (lambda: d["the-key"], lambda: d.get("the-key"), lambda: list(d.values()), lambda: list(d.items())):
        with pytest.raises(DeserializationError, match="the-key.*raymodal_gone"):
            read()


# Queue


def test_queue_basics(q: Queue) -> None:
    """First in, first out; `block` and `timeout` may be positional."""
    q.put(1)
    q.put_many([2, 3])
    assert q.len() == 3
    assert q.get() == 1
    assert q.get_many(5) == [2, 3]
    assert q.get(False) is None
    assert q.get_many(5, False) == []
    assert q.get_many(0) == []
    q.put(None, True, 5)
    assert q.get(True, 5) is None


def test_an_empty_queue(q: Queue) -> None:
    """Waiting ends with the standard library's error."""
    with pytest.raises(queue.Empty):
        q.get(timeout=0.01)
    with pytest.raises(queue.Empty):
        q.get_many(3, timeout=0)
    with pytest.warns(UserWarning, match="ignored"):
        assert q.get(block=False, timeout=1) is None


def test_a_full_queue(q: Queue) -> None:
    """All or nothing, and the standard library's error."""
    q.put_many([1, 2, 3, 4])
    with pytest.raises(queue.Full):
        q.put_many([5, 6], block=False)
    with pytest.raises(queue.Full):
        q.put_many([5, 6], timeout=0.01)
    q.put(5)

    assert q.get_many(10) == [1, 2, 3, 4, 5]


def test_too_large_for_a_queue(q: Queue) -> None:
    """The error says what fits."""
    with pytest.raises(RequestSizeError, match="1000 bytes"):
        q.put(b"x" * 1001)


def test_partitions(q: Queue) -> None:
    """Each a line of its own."""
    q.put("a")
    q.put("b", partition="p", partition_ttl=10)
    assert (q.len(), q.len(partition="p"), q.len(total=True)) == (1, 1, 2)
    assert q.get(partition="p") == "b"
    q.put("c", partition="p")
    q.clear()
    assert q.len(total=True) == 1
    q.clear(all=True)
    assert q.len(total=True) == 0


def test_a_partition_is_dropped_after_its_ttl(q: Queue, store: HostedStore) -> None:
    """Counted from the last put; a day by default."""
    q.put("a", partition="short", partition_ttl=10)
    q.put("a")
    store.clock.seconds += 10

    assert q.get(False, partition="short") is None
    assert q.get(False) == "a"


@pytest.mark.parametrize("partition", ["", "x" * 65, "ä" * 33, b"x", 5])
def test_partition_keys(q: Queue, partition: Any) -> None:
    """1 to 64 bytes of UTF-8."""
    for call in (q.put, q.get_many):
        with pytest.raises(InvalidError, match="1 to 64 bytes"):
            call(1, partition=partition)
    assert Queue.validate_partition_key("ä" * 32) == "ä".encode() * 32
    assert Queue.validate_partition_key(None) == b""


def test_contradictions(q: Queue) -> None:
    """A partition and all of them."""
    with pytest.raises(InvalidError):
        q.len(partition="p", total=True)
    with pytest.raises(InvalidError):
        q.clear(partition="p", all=True)


def test_iterate_leaves_items(q: Queue) -> None:
    """And waits for more as long as it was told."""
    q.put_many([1, 2, 3, 4])
    assert list(q.iterate()) == [1, 2, 3, 4]
    assert list(q.iterate(partition="p", item_poll_timeout=0.01)) == []
    assert q.len() == 4

    seen = []
    for item in q.iterate(item_poll_timeout=0.2):
        seen.append(item)
        if item == 4:
            q.put(5)
    assert seen == [1, 2, 3, 4, 5]


def test_get_waits_for_put(q: Queue) -> None:
    """Across threads, and for several rounds of polling."""
    got: list[Any] = []
    thread = threading.Thread(target=lambda: got.append(q.get()))
    thread.start()
    q.put("x")
    thread.join(10)

    assert got == ["x"]


def test_a_long_wait_is_many_polls(q: Queue, store: HostedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store bounds each; the client asks again."""
    monkeypatch.setattr("raymodal.queue._POLL_S", 0.005)
    with pytest.raises(queue.Empty):
        q.get(timeout=0.05)

    assert store.calls.count("queue_get_many") >= 3


def test_put_waits_for_room(q: Queue) -> None:
    """And enters in order."""
    q.put_many([1, 2, 3, 4, 5])
    thread = threading.Thread(target=lambda: q.put(6))
    thread.start()
    assert q.get() == 1
    thread.join(10)

    assert q.get_many(9) == [2, 3, 4, 5, 6]


def test_a_cancelled_get_loses_nothing(q: Queue, store: HostedStore) -> None:
    """Even when the store had already answered, and the answer was under way."""
    store.pause = "queue_get_many"
    q.put_many([1, 2, 3])

    async def main() -> None:
        task = asyncio.create_task(q.get_many.aio(2))
        await asyncio.to_thread(store.paused.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    store.pause = None

    assert q.get_many(9) == [1, 2, 3]


def test_ctrl_c_in_get_loses_nothing(q: Queue, store: HostedStore) -> None:
    """The wait ends in the store too: the next item is not for the one who left."""
    wait = store.core.queue_get_many

    async def interrupt(*args: Any) -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return await wait(*args)

    store.core.queue_get_many = interrupt  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        q.get()
    store.core.queue_get_many = wait  # type: ignore[method-assign]
    q.put(1)

    assert q.get(False) == 1


def test_queue_in_coroutines(q: Queue) -> None:
    """Everything has its `.aio`."""

    async def main() -> None:
        getter = asyncio.create_task(q.get.aio())
        await q.put.aio("x")
        assert await getter == "x"
        await q.put_many.aio([1, 2])
        assert [item async for item in q.iterate.aio()] == [1, 2]
        assert await q.get_many.aio(5) == [1, 2]
        assert await q.len.aio() == 0
        await q.clear.aio()

    asyncio.run(main())


def test_one_store_call_a_get(q: Queue, store: HostedStore) -> None:
    """No look-ups once the handle is hydrated."""
    q.put(1)
    store.calls.clear()
    q.get()

    assert store.calls == ["queue_get_many"]


def test_an_engine_is_started_when_first_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """On another thread than the I/O loop, which the engine needs while it starts."""
    from raymodal._dual import on_io_loop

    hosted = HostedStore(Limits())
    seen: list[bool] = []

    def start() -> HostedEngine:
        seen.append(on_io_loop())
        return HostedEngine(hosted)

    monkeypatch.setattr(current, "engine_or_none", lambda: None)
    monkeypatch.setattr(current, "get_engine", start)
    Dict.from_name("x", create_if_missing=True).hydrate()

    assert seen == [False]


def test_the_store_pickles_nothing() -> None:
    """Bytes go in and come out; user classes are of no concern to it."""
    source = Path(inspect.getfile(StoreCore)).read_text()

    assert "pickle" not in {line.split()[1] for line in source.splitlines() if line.startswith(("import ", "from "))}
    assert _stored.decode(_stored.encode(Unhashable(3)), "x").n == 3
