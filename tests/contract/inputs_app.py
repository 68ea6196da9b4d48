"""A user's app with several inputs in a container: what the contract tests of `@concurrent` and `@batched` call. Containers import this module."""

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator

import raymodal as modal
from raymodal.experimental import get_local_input_concurrency, set_local_input_concurrency
from tests.contract.files import await_file, await_file_soon, note

app = modal.App("contract-inputs")


def ids() -> tuple[str | None, str | None]:
    return modal.current_input_id(), modal.current_function_call_id()


class Meeting:
    """Lets inputs go on only once `count` of them are inside at the same time."""

    def __init__(self) -> None:
        self.inside = self.most = 0
        self.lock = threading.Lock()

    def enter(self) -> None:
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)

    def leave(self) -> None:
        with self.lock:
            self.inside -= 1


threads_meet, tasks_meet = Meeting(), Meeting()


@app.function(max_containers=1, cpu=0.1)
@modal.concurrent(max_inputs=4)
def in_threads(count: int) -> tuple[bool, bool, tuple[str | None, str | None], tuple[str | None, str | None], int]:
    """Waits for `count` neighbours, then says whether they met, whether it is in a daemon thread, its ids before and after, and the most at once."""
    before = ids()
    threads_meet.enter()
    until = time.monotonic() + 10.0
    while threads_meet.most < count and time.monotonic() < until:
        time.sleep(0.005)
    thread = threading.current_thread()
    has_met = threads_meet.most >= count
    threads_meet.leave()
    return has_met, thread.daemon and thread is not threading.main_thread(), before, ids(), threads_meet.most


@app.function(max_containers=1, cpu=0.1)
@modal.concurrent(max_inputs=4)
async def as_tasks(count: int) -> tuple[bool, int, tuple[str | None, str | None], tuple[str | None, str | None], int]:
    """The same with tasks; its second value tells loops apart."""
    before = ids()
    tasks_meet.enter()
    until = time.monotonic() + 10.0
    while tasks_meet.most < count and time.monotonic() < until:
        await asyncio.sleep(0.005)
    has_met = tasks_meet.most >= count
    tasks_meet.leave()
    return has_met, id(asyncio.get_running_loop()), before, ids(), tasks_meet.most


@app.function(max_containers=1, cpu=0.1, timeout=1)
@modal.concurrent(max_inputs=8)
def fragile(what: str, log: str = "", until: str = "") -> str:
    """Ends in the way that is asked for."""
    note(log, f"begun {os.getpid()}")
    try:
        if what == "raise":
            raise ValueError("as asked")
        if what == "wait":
            return f"waited {await_file(until, 60.0)}"
        if what == "die":
            os._exit(3)
        if what == "exit":
            raise SystemExit(4)
        return what
    except modal.exception.InputCancellation:
        note(log, "InputCancellation")
        raise
    finally:
        note(log, "finally")


@app.function(max_containers=1, cpu=0.1, timeout=1)
@modal.concurrent(max_inputs=8)
async def afragile(what: str, log: str = "", until: str = "") -> str:
    note(log, f"begun {os.getpid()}")
    try:
        if what == "raise":
            raise ValueError("as asked")
        if what == "wait":
            return f"waited {await await_file_soon(until, 60.0)}"
        if what == "die":
            os._exit(3)
        if what == "exit":
            raise SystemExit(4)
        return what
    except asyncio.CancelledError:
        note(log, "CancelledError")
        raise
    finally:
        note(log, "finally")


@app.function(max_containers=1, cpu=0.1)
@modal.concurrent(max_inputs=8)
def patient(until: str, log: str = "") -> str:
    """As `fragile("wait")`, with time."""
    note(log, "begun")
    try:
        return f"waited {await_file(until, 60.0)}"
    except modal.exception.InputCancellation:
        note(log, "InputCancellation")
        raise


@app.function(max_containers=1, cpu=0.1)
@modal.concurrent(max_inputs=8)
async def apatient(until: str, log: str = "") -> str:
    note(log, "begun")
    try:
        return f"waited {await await_file_soon(until, 60.0)}"
    except asyncio.CancelledError:
        note(log, "CancelledError")
        raise


@app.function(max_containers=1, cpu=0.1)
@modal.concurrent(max_inputs=8)
def poisoned(x: int, log: str) -> int:
    """One of its inputs kills the container."""
    note(log, str(x))
    if x == 3:
        time.sleep(0.1)  # for neighbours to be there
        os._exit(3)
    return x


@app.function(max_containers=1, cpu=0.1, retries=modal.Retries(max_retries=1, initial_delay=1.0))
@modal.concurrent(max_inputs=8)
def flaky(x: int, log: str) -> int:
    with threads_meet.lock:
        note(f"{log}.{x}", "begun")
        with open(f"{log}.{x}") as file:
            attempts = len(file.readlines())
    if x % 2 and attempts == 1:
        raise ValueError(x)
    return x * 10


@app.function(max_containers=1, cpu=0.1)
@modal.concurrent(max_inputs=3)
def counts(n: int, fail_at: int = -1, log: str = "") -> Iterator[int]:
    try:
        for i in range(n):
            if i == fail_at:
                raise ValueError("as asked")
            yield i
    finally:
        note(log, "finally")


@app.function(max_containers=1, cpu=0.1)
@modal.concurrent(max_inputs=3)
async def acounts(n: int, fail_at: int = -1, log: str = "") -> AsyncIterator[int]:
    try:
        for i in range(n):
            if i == fail_at:
                raise ValueError("as asked")
            await asyncio.sleep(0)
            yield i
    finally:
        note(log, "finally")


@app.function(max_containers=1, cpu=0.1)
@modal.concurrent(max_inputs=3)
def slow_second(until: str) -> Iterator[str]:
    """Its second item comes when the caller, which has the first, says so."""
    yield "first"
    yield f"second {await_file(until)}"


@app.function(max_containers=1, cpu=0.1)
@modal.concurrent(max_inputs=3)
def lanes(set_to: int | None = None) -> int:
    if set_to is not None:
        set_local_input_concurrency(set_to)
    return get_local_input_concurrency()


@app.function(cpu=0.1)
def plain_lanes() -> int:
    return get_local_input_concurrency()


@app.function(cpu=0.1)
@modal.concurrent(max_inputs=2)
async def outer(x: int) -> int:
    """Calls another function of the app from each of its inputs."""
    return await inner.remote.aio(x) + 1


@app.function(max_containers=1, cpu=0.1)
@modal.concurrent(max_inputs=2)
def inner(x: int) -> int:
    return x * 10


@app.cls(max_containers=1, cpu=0.1)
@modal.concurrent(max_inputs=4)
class Both:
    """Sync and async methods, which draw from the same lanes; hooks of both kinds."""

    @modal.enter()
    async def start(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.meeting = Meeting()

    @modal.enter()
    def start_too(self) -> None:
        self.is_main = threading.current_thread() is threading.main_thread()

    @modal.method()
    async def loop_of_enter(self) -> bool:
        return self.loop is asyncio.get_running_loop()

    @modal.method()
    def entered_on_main(self) -> bool:
        return self.is_main

    @modal.method()
    def sync_meets(self, count: int) -> bool:
        self.meeting.enter()
        until = time.monotonic() + 10.0
        while self.meeting.most < count and time.monotonic() < until:
            time.sleep(0.005)
        return self.meeting.most >= count

    @modal.method()
    async def async_meets(self, count: int) -> bool:
        self.meeting.enter()
        until = time.monotonic() + 10.0
        while self.meeting.most < count and time.monotonic() < until:
            await asyncio.sleep(0.005)
        return self.meeting.most >= count


# --- batches


@app.function(max_containers=1, cpu=0.1)
@modal.batched(max_batch_size=4, wait_ms=500)
def pairs(xs: list[int], ys: list[str]) -> list[tuple[int, str, int, str | None]]:
    """Each with its batch's size and the id that the batch goes by."""
    assert type(xs) is list
    assert type(ys) is list
    return [(x, y, len(xs), modal.current_input_id()) for x, y in zip(xs, ys, strict=True)]


@app.function(max_containers=1, cpu=0.1)
@modal.batched(max_batch_size=4, wait_ms=500)
async def apairs(xs: list[int], ys: list[str]) -> list[tuple[int, str, int, str | None]]:
    await asyncio.sleep(0)
    return [(x, y, len(xs), modal.current_input_id()) for x, y in zip(xs, ys, strict=True)]


@app.function(max_containers=1, cpu=0.1)
@modal.batched(max_batch_size=3, wait_ms=60_000)
def waits_for_three(xs: list[int]) -> list[int]:
    """A minute of patience: only a full batch gets through a test."""
    return [len(xs)] * len(xs)


@app.function(max_containers=1, cpu=0.1)
@modal.batched(max_batch_size=8, wait_ms=1)
def grows(gates: list[str], logs: list[str]) -> list[int]:
    """While one batch waits at its gate, the next one gathers."""
    note(logs[0], "begun")
    await_file(gates[0])
    return [len(gates)] * len(gates)


@app.function(max_containers=1, cpu=0.1)
@modal.batched(max_batch_size=2, wait_ms=60_000)
def twos(gates: list[str], logs: list[str]) -> list[int]:
    """Full batches, which wait at a gate."""
    note(logs[0], "begun")
    await_file(gates[0])
    return [len(gates)] * len(gates)


@app.function(max_containers=1, cpu=0.1, timeout=1)
@modal.batched(max_batch_size=4, wait_ms=200)
def broken(how: list[str]) -> object:
    """The whole batch ends in the way that its first input says."""
    values: list[object] = list(how)
    match how[0]:
        case "raise":
            raise ValueError(f"as asked, {len(how)} times")
        case "short":
            return values[1:]
        case "tuple":
            return tuple(values)
        case "none":
            return None
        case "hang":
            await_file("/nowhere", 60.0)
        case "generator":
            return [value if value != "generator" else (x for x in "ab") for value in values]
    return values


@app.function(max_containers=1, cpu=0.1)
@modal.batched(max_batch_size=4, wait_ms=300)
def deadly(xs: list[int], logs: list[str]) -> list[int]:
    """One of its inputs kills the container."""
    note(logs[0], f"{xs}")
    if 2 in xs:
        os._exit(3)
    return xs


@app.function(max_containers=1, cpu=0.1, retries=modal.Retries(max_retries=2, initial_delay=1.0))
@modal.batched(max_batch_size=4, wait_ms=100)
def second_time(xs: list[int], logs: list[str]) -> list[int]:
    """Batches of the first attempt fail."""
    is_first = not os.path.exists(logs[0])
    note(logs[0], f"{sorted(xs)}")
    if is_first:
        raise ValueError("as asked")
    return [x * 10 for x in xs]


@app.function(max_containers=1, cpu=0.1)
@modal.concurrent(max_inputs=2)
@modal.batched(max_batch_size=2, wait_ms=60_000)
def batches_meet(counts: list[int]) -> list[bool]:
    """Two batches are inside at the same time."""
    batches.enter()
    until = time.monotonic() + 10.0
    while batches.most < counts[0] and time.monotonic() < until:
        time.sleep(0.005)
    has_met = batches.most >= counts[0]
    batches.leave()
    return [has_met] * len(counts)


batches = Meeting()


@app.function(max_containers=1, cpu=0.1)
@modal.batched(max_batch_size=8, wait_ms=1)
def arrays(xs: list[bytearray]) -> list[bytearray]:
    """Large buffers, which travel beside the pickles."""
    return [x + x for x in xs]


@app.function(cpu=0.1)
async def calls_batched(x: int) -> int:
    return await waits_for_three.remote.aio(x)


@app.cls(max_containers=1, cpu=0.1)
class Model:
    factor: int = modal.parameter(default=2)

    @modal.enter()
    def load(self) -> None:
        self.loaded = True

    @modal.batched(max_batch_size=3, wait_ms=500)
    async def scale(self, xs: list[int]) -> list[tuple[int, int, bool]]:
        return [(x * self.factor, len(xs), self.loaded) for x in xs]
