"""A container with several inputs at once, driven by hand where it can be; user code waits for events of the test, never for time."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import pytest

from raymodal import wire
from raymodal.container import shared as shared_module
from raymodal.container.shared import SharedRuntime, _Box
from raymodal.plan.pool import ContainerPlan
from raymodal.spec.function import BatchSpec, FunctionSpec
from raymodal.wire import BundleHead

LONG_S = 20.0


class Uplink:
    def __init__(self) -> None:
        self.exits: list[int] = []
        self.retired: list[bool] = []

    def report(self, *report: Any) -> None:
        raise AssertionError

    def interrupt(self) -> None:
        raise AssertionError

    def end_process(self, code: int) -> None:
        self.exits.append(code)

    def retire(self, reason: str, is_quiet: bool) -> None:
        self.retired.append(is_quiet)


class Box:
    """One container; its caller keeps one exchange waiting, as a channel does."""

    def __init__(self, function: Callable[..., Any], lanes: int = 2, *, is_async: bool = False, **spec: Any) -> None:
        fields = {
            "tag": "f",
            "module": "m",
            "qualname": "f",
            "max_concurrent_inputs": lanes,
            "is_async": is_async,
            "timeout_s": 10.0,
            **spec,
        }
        plan = ContainerPlan(
            "ap-1", "app", "ta-1", FunctionSpec(**fields), cloudpickle.dumps(len), {}, "", (), None, {}
        )
        self.uplink = Uplink()
        self.runtime = SharedRuntime(plan, self.uplink, 5.0)
        self.runtime._function = function
        self.runtime.enter()
        self.replies: dict[int, Any] = {}
        self.numbers = 0

    def send(self, *values: Any, sender: str = "driver") -> None:
        """One exchange with an input for each value, which does not wait."""
        messages = []
        for value in values:
            self.numbers += 1
            head = BundleHead(wire.EACH_CALL, 0, self.numbers, sender, "fc-1", (self.numbers, 1), None, 0.0, False)
            bundle = wire.encode_bundle(head, [wire.dumps(((value,), {}))])
            messages.append((self.numbers, "run", (bundle,), 0))
        for number, method, args, _ in messages:
            self.runtime._accept(sender, number, method, args, ())

    def collect(self, count: int, sender: str = "driver") -> dict[int, Any]:
        """Exchange until `count` outcomes are there."""
        until = time.monotonic() + LONG_S
        while len(self.replies) < count and time.monotonic() < until:
            raw = self.runtime.exchange(sender, wire.encode_messages([]))
            for number, _, (reply,), _ in wire.decode_messages(raw if isinstance(raw, bytes) else raw[0]):
                head, body = wire.decode_reply(reply)
                self.replies[number] = head.refused or wire.decode_values(head, body)[0][0]
        return self.replies


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    now = [1000.0]
    monkeypatch.setattr(shared_module, "_now", lambda: now[0])
    monkeypatch.setattr(time, "sleep", lambda s: None)
    yield now


def test_no_more_at_once_than_lanes() -> None:
    """Whoever comes later waits its turn, first come, first served."""
    begun: list[int] = []
    gates = [threading.Event() for _ in range(5)]
    has_begun = [threading.Event() for _ in range(5)]

    def function(x: int) -> int:
        begun.append(x)
        has_begun[x].set()
        assert gates[x].wait(LONG_S)
        return x

    box = Box(function)
    box.send(*range(5))
    assert has_begun[0].wait(LONG_S)
    assert has_begun[1].wait(LONG_S)
    assert not has_begun[2].is_set()
    gates[1].set()
    assert has_begun[2].wait(LONG_S)
    assert not has_begun[3].is_set()
    gates[0].set()
    assert has_begun[3].wait(LONG_S)
    for gate in gates:
        gate.set()

    assert box.collect(5) == {1: 0, 2: 1, 3: 2, 4: 3, 5: 4}
    assert begun[2:] == [2, 3, 4]


def test_the_clock_runs_before_it_is_looked_at() -> None:
    """The watch thread may look between any two lines; work without a start would be past every timeout."""

    class Checked(dict[Any, None]):
        def __setitem__(self, work: Any, value: None) -> None:
            assert work.started > 0
            super().__setitem__(work, value)

    box = Box(lambda x: x)
    box.runtime._works = Checked()
    box.send(1, 2, 3)
    assert sorted(box.collect(3).values()) == [1, 2, 3]


def test_inputs_that_wait_too_long_for_a_lane(clock: list[float]) -> None:
    """They were expected to wait a moment: their caller may have a lane elsewhere."""
    gate, has_begun = threading.Event(), threading.Event()

    def function(x: int) -> int:
        has_begun.set()
        gate.wait(LONG_S)
        return x

    box = Box(function, 1, max_concurrent_inputs=2)
    box.runtime.set_lanes(1)
    box.send(0, 1)
    assert has_begun.wait(LONG_S)
    clock[0] += 0.4
    box.send(2)
    box.runtime.inspect()
    assert len(box.runtime._waiting) == 2
    clock[0] += 0.2
    box.runtime.inspect()
    assert box.collect(1) == {2: "epoch"}
    gate.set()
    assert box.collect(3) == {1: 0, 2: "epoch", 3: 2}


def test_fewer_lanes_and_more_again() -> None:
    """Those that wait begin as lanes are added."""
    gate = threading.Event()
    has_begun = threading.Semaphore(0)

    def function(x: int) -> int:
        has_begun.release()
        gate.wait(LONG_S)
        return x

    box = Box(function, 3)
    assert box.runtime.set_lanes(1) == 1
    box.send(0, 1, 2)
    assert has_begun.acquire(timeout=LONG_S)
    assert len(box.runtime._works) == 1
    assert box.runtime.set_lanes(99) == 3
    assert has_begun.acquire(timeout=LONG_S)
    assert has_begun.acquire(timeout=LONG_S)
    gate.set()
    assert sorted(box.collect(3).values()) == [0, 1, 2]


def test_a_thread_that_cannot_be_interrupted(clock: list[float]) -> None:
    """Its outcome is told after the grace, the container retires, and its neighbour is left alone."""
    gates = {x: threading.Event() for x in "ab"}
    has_begun = {x: threading.Event() for x in "ab"}

    def function(x: str) -> str:
        has_begun[x].set()
        while True:
            try:
                gates[x].wait()
                return x
            except BaseException:  # noqa: BLE001, S112 - code that will not be interrupted
                continue

    box = Box(function)
    box.send("a")
    assert has_begun["a"].wait(LONG_S)
    clock[0] += 9.0
    box.send("b")
    assert has_begun["b"].wait(LONG_S)
    for _ in range(3):
        clock[0] += 3.0
        box.runtime.inspect()
    assert "timeout=10 s" in box.collect(1)[1].text
    assert "its container ends" in box.replies[1].text
    assert (box.uplink.retired, box.uplink.exits) == ([False], [])

    box.send("a")
    gates["b"].set()
    assert box.collect(3)[2] == "b"
    assert box.replies[3] == "draining"
    until = time.monotonic() + LONG_S
    while box.uplink.retired != [False, True]:  # its end may come now that the neighbour is through
        assert time.monotonic() < until
        time.sleep(0.001)
    gates["a"].set()
    box.runtime.finish("over")


def test_a_loop_that_is_blocked(clock: list[float]) -> None:
    """Nothing else can go on, so the process ends, after the outcome was told."""
    gate, has_begun = threading.Event(), threading.Event()

    async def function(x: str) -> str:
        has_begun.set()
        gate.wait(LONG_S)
        return x

    box = Box(function, is_async=True)
    box.send("a")
    assert has_begun.wait(LONG_S)
    for _ in range(4):
        clock[0] += 6.0
        box.runtime.inspect()

    assert "was killed" in box.collect(1)[1].text
    assert (box.uplink.exits, box.uplink.retired) == ([1], [])
    gate.set()


def test_a_task_that_ignores_its_cancellation(clock: list[float]) -> None:
    """As with a thread: the loop turns, so its neighbours go on."""
    turned = threading.Semaphore(0)
    is_over = False

    async def function(x: str) -> str:
        while not is_over:
            try:
                turned.release()
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                continue
        return x

    box = Box(function, is_async=True)
    box.send("a")
    assert turned.acquire(timeout=LONG_S)
    for _ in range(4):
        clock[0] += 6.0
        box.runtime.inspect()
        for _ in range(1000):  # so that the loop has turned since it was asked
            if turned.acquire(blocking=False):
                continue
            break
        assert turned.acquire(timeout=LONG_S)
    assert "its container ends" in box.collect(1)[1].text
    assert (box.uplink.exits, len(box.uplink.retired)) == ([], 1)
    is_over = True


def test_cancelling_one_that_waits() -> None:
    """It never runs."""
    gate, has_begun = threading.Event(), threading.Event()
    ran: list[int] = []

    def function(x: int) -> int:
        ran.append(x)
        has_begun.set()
        gate.wait(LONG_S)
        return x

    box = Box(function, 1, max_concurrent_inputs=2)
    box.runtime.set_lanes(1)
    box.send(0, 1)
    assert has_begun.wait(LONG_S)
    box.runtime.cancel("driver", 2)
    gate.set()
    replies = box.collect(2)
    assert (replies[1], replies[2].kind, ran) == (0, wire.CANCELLED, [0])


def test_a_caller_that_is_gone() -> None:
    """What runs for it ends, what runs for another goes on."""
    has_begun, gate = threading.Semaphore(0), threading.Event()
    ends: list[str] = []

    async def function(x: str) -> str:
        has_begun.release()
        try:
            while not gate.is_set():
                await asyncio.sleep(0.001)
        except asyncio.CancelledError:
            ends.append(x)
            raise
        return x

    box = Box(function, is_async=True)
    box.send("theirs", sender="gone")
    box.send("ours")
    for _ in range(2):
        assert has_begun.acquire(timeout=LONG_S)
    box.runtime.cancel_sender("gone", "its caller is gone")
    assert box.runtime.exchange("gone", wire.encode_messages([]))
    gate.set()
    assert box.collect(1)[2] == "ours"
    assert ends == ["theirs"]


def test_an_exchange_sends_the_one_before_home() -> None:
    """So that one call both delivers and collects."""
    box = _Box()
    got: list[Any] = []
    first = threading.Thread(target=lambda: got.append(box.take(LONG_S)))
    first.start()
    while box._waiting is None:
        time.sleep(0.001)
    second = threading.Thread(target=lambda: got.append(box.take(LONG_S)))
    second.start()
    first.join(LONG_S)
    assert got == [[]]
    box.put((1, b"x", []))
    second.join(LONG_S)
    assert got == [[], [(1, b"x", [])]]
    assert box.is_idle


class TestBatches:
    def test_a_batch_that_nobody_waits_for(self) -> None:
        """It is interrupted once the last of its inputs is cancelled, not before."""
        has_begun = threading.Event()
        seen: list[str] = []

        async def function(x: list[str]) -> list[str]:
            has_begun.set()
            try:
                while True:
                    await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        box = Box(function, 1, is_async=True, batching=BatchSpec(max_batch_size=2, wait_ms=60_000))
        box.send("a", "b")
        assert has_begun.wait(LONG_S)
        box.runtime.cancel("driver", 1)
        (work,) = box.runtime._works
        assert work.want is None
        box.runtime.cancel("driver", 2)
        assert [box.collect(2)[n].kind for n in (1, 2)] == [wire.CANCELLED] * 2
        with box.runtime._quiet:
            assert box.runtime._quiet.wait_for(lambda: not box.runtime._works, timeout=LONG_S)
        assert seen == ["cancelled"]

    def test_what_waits_when_its_container_retires(self, clock: list[float]) -> None:
        """It goes elsewhere: the lane may never be free."""
        gate, has_begun = threading.Event(), threading.Event()

        def function(x: list[str]) -> list[str]:
            has_begun.set()
            while True:
                try:
                    gate.wait()
                    return x
                except BaseException:  # noqa: BLE001, S112 - code that will not be interrupted
                    continue

        box = Box(function, 1, batching=BatchSpec(max_batch_size=2, wait_ms=60_000))
        box.send("a", "b", "c")
        assert has_begun.wait(LONG_S)
        for _ in range(5):
            clock[0] += 6.0
            box.runtime.inspect()
        replies = box.collect(3)
        assert [replies[n].kind for n in (1, 2)] == [wire.TIMEOUT] * 2
        assert replies[3] == "draining"
        assert len(box.uplink.retired) == 1
        gate.set()
