"""How one call's inputs reach containers and its outcomes come back, with the containers and the controller played by the test."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import cloudpickle
import pytest

from raymodal import wire
from raymodal._dual import io_loop
from raymodal.engine import run as runs
from raymodal.engine import single
from raymodal.engine.client import AppClient, PoolClient
from raymodal.engine.local.engine import LocalEngine
from raymodal.engine.maps import map_sync
from raymodal.engine.protocol import NOT_YET, Gone
from raymodal.engine.run import Encoded, Run
from raymodal.engine.single import OneCall
from raymodal.exception import ClientClosed, FunctionTimeoutError, InternalError, InternalFailure
from raymodal.logic import retry
from raymodal.plan.app import AppPlan, FunctionPlan
from raymodal.plan.pool import ClientOptions, FunctionFacts, PoolRequest
from raymodal.spec.function import FunctionSpec, RetryPolicy
from raymodal.wire import Failure, Reply

DEAD = Gone("it was killed")


class Call:
    """One call to a container that waits for its answer."""

    def __init__(self, method: str, args: tuple[Any, ...], on_done: Callable[[Any], None]) -> None:
        self.method, self.on_done = method, on_done
        self.head, self.body = wire.decode_bundle(args[0], args[1:])
        self.inputs = [self.body[at] for at in range(len(self.body))]
        self.indices = list(wire.expand(self.head.indices))

    def encoded(
        self, start: int, stop: int, *, sealed: bool = False, failed: dict[int, str] | None = None, elapsed: float = 0.0
    ) -> bytes:
        failures = {pos: Failure(kind, None, kind) for pos, kind in (failed or {}).items()}
        values = [f"done {self.indices[pos]}" for pos in range(start, stop) if pos not in failures]
        return wire.encode_reply(Reply(start, stop, sealed, "", failures or None, elapsed, wire.JOINT_VALUE), values)

    def answer(self, **kwargs: Any) -> None:
        self.on_done(self.encoded(0, len(self.inputs), **kwargs))

    def part(self, start: int, stop: int, **kwargs: Any) -> None:
        self.on_done(self.encoded(start, stop, **kwargs))

    def refuse(self, why: str, epoch: int = 0) -> None:
        self.on_done(wire.encode_reply(Reply(0, 0, False, why, None, 0.0, wire.JOINT_VALUE, epoch=epoch), ()))

    def die(self) -> None:
        self.on_done(DEAD)


class Link:
    """Containers are the lists of calls that they got."""

    client_id = "driver"

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.serve: Callable[[Call], None] | None = None

    def tell(self, *what: Any) -> None:
        self.told.append(what)

    def submit(self, container: list[Call], method: str, args: tuple[Any, ...], on_done: Callable[[Any], None]) -> None:
        call = Call(method, args, on_done)
        container.append(call)
        if self.serve is not None:
            self.serve(call)

    def ask(self, container: list[Call], method: str, args: tuple[Any, ...], on_done: Callable[[Any], None]) -> Any:
        self.submit(container, method, args, on_done)
        return NOT_YET

    def hold(self, buffer: Any) -> Any:
        return bytes(buffer.raw())

    def fetch(self, box: Any, on_done: Callable[[Any], None]) -> None:
        on_done(box)

    def is_behind(self) -> bool:
        return False

    def catch_up(self) -> None:
        pass


class Loop:
    """Notes what is reported to the controller; the test decides what comes back."""

    def __init__(self) -> None:
        self.reports: list[tuple[Any, ...]] = []

    def call_soon_threadsafe(self, action: Any, *args: Any) -> None:
        if args:
            self.reports.append(args)


class World:
    """One caller of one function."""

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        *,
        retries: RetryPolicy | None = None,
        timeout_s: float = 300.0,
        max_losses: int = 1,
    ) -> None:
        self.now = 1000.0
        self.set_clock = lambda: [monkeypatch.setattr(room, "_monotonic", lambda: self.now) for room in (runs, single)]
        self.link, self.loop = Link(), Loop()
        facts = FunctionFacts("f", "fu-1", False, timeout_s, retries)
        self.app = AppClient(
            self.link, {"f": facts}, ClientOptions(max_losses=max_losses), app_id="ap-1", loop=self.loop
        )  # type: ignore[arg-type]
        self.pool: PoolClient = self.app.pool("f")
        self.leases = itertools.count(1)
        self.inbox: deque[Any] = deque()
        self.got: list[tuple[int, Any]] = []

    def grant(self) -> list[Call]:
        """One more container with a slot for us."""
        number, container = next(self.leases), []
        self.app.handle([("grant", "f", number, f"c{number}", container)])
        return container

    def start(self, count: int, *, closed: bool = True, **kwargs: Any) -> Run:
        self.set_clock()
        self.run = Run(self.pool, "fc-1", self.inbox.append, kind=kwargs.pop("kind", wire.JOINT_VALUE), **kwargs)
        self.run.add(list(range(count)))
        if closed:
            self.run.ledger.close()
        self.pump()
        return self.run

    def pump(self) -> None:
        while True:
            while self.inbox:
                self.run.handle(self.inbox.popleft())
            self.run.send_all()
            if not self.inbox:
                break
        while self.run.delivered:
            indices, values, _ = self.run.delivered.popleft()
            self.got += zip(wire.expand(indices), values, strict=True)

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.run.on_time()
        self.pump()

    def outcomes(self) -> dict[int, Any]:
        """What each input came to; none may come twice."""
        assert len(dict(self.got)) == len(self.got)
        return {index: value.kind if isinstance(value, Failure) else value for index, value in sorted(self.got)}

    def sealed(self, call: Call, done: tuple[int, int], untouched: tuple[int, int], epoch: int = 1) -> None:
        """What the container took out of a bundle arrives by way of the controller."""
        data = call.encoded(*done, sealed=True)
        self.app.handle([("sealed", call.head.bundle_id, epoch, call.head.bundle_id, [data], untouched)])
        self.pump()

    def quick(self, container: list[Call]) -> None:
        """Answer until nothing comes, as a container whose inputs take no time."""
        while container:
            container.pop(0).answer(elapsed=1e-6)
            self.pump()


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Callable[..., World]:
    return lambda **kwargs: World(monkeypatch, **kwargs)


def done(count: int) -> dict[int, Any]:
    return {index: f"done {index}" for index in range(count)}


# --- many inputs


def test_bundles_grow_while_inputs_are_fast(world: Callable[..., World]) -> None:
    """Everything is delivered once, and the slot is free afterwards."""
    one = world()
    container = one.grant()
    sizes: list[int] = []
    one.link.serve = lambda call: sizes.append(len(call.inputs))
    one.start(500)
    one.quick(container)

    assert one.outcomes() == done(500)
    assert (sizes[:2], sum(sizes), max(sizes) > 50, one.run.ledger.finished) == ([1, 4], 500, True, True)
    assert len(one.pool._free) == 1


def test_demand_is_reported_on_a_scale_of_doubling(world: Callable[..., World]) -> None:
    """Not once for every input."""
    one = world()
    one.start(0, closed=False)
    for _ in range(1000):
        one.run.add([0])
        one.pump()

    demands = [report[2] for report in one.loop.reports if report[0] == "f"]
    assert demands[-1] >= 500
    assert len(demands) <= 12


def test_an_input_that_fails_runs_again_when_it_is_due(world: Callable[..., World]) -> None:
    """On a slot that was given back meanwhile."""
    one = world(retries=RetryPolicy(max_retries=1))
    container = one.grant()
    one.start(1)
    container.pop().answer(failed={0: wire.USER})
    one.pump()
    assert (one.run.next_wake(), container, one.outcomes()) == (1001.0, [], {})

    one.wait(1.0)
    again = container.pop()
    assert (again.indices, again.inputs) == ([0], [0])
    again.answer(failed={0: wire.USER})
    one.pump()
    assert one.outcomes() == {0: wire.USER}


@pytest.mark.parametrize(("why", "again"), [("epoch", 0), ("draining", 1)])
def test_a_refused_bundle_goes_again_at_once(world: Callable[..., World], why: str, again: int) -> None:
    """It has used no attempt; a container that drains is not asked again."""
    one = world()
    containers = [one.grant()]
    one.start(2)
    containers.append(one.grant())
    one.pump()
    one.run.sizer.observe(1, 10.0)
    containers[0].pop().refuse(why, epoch=4)
    one.pump()
    containers[1].pop().answer(elapsed=10.0)
    one.pump()
    call = containers[again].pop()

    assert (call.indices, call.head.epoch) == ([0], 4 if why == "epoch" else 0)
    assert one.run.ledger.story(0) == []


def fast_run(one: World, count: int = 100) -> tuple[list[Call], Call, Call]:
    """A run that knows its inputs as fast: its container, the bundle that runs there, and the one behind it."""
    container = one.grant()
    one.start(count)
    for _ in range(2):
        container.pop(0).answer(elapsed=1e-3)
        one.pump()
    first, second = container
    container.clear()
    assert len(first.inputs) > 2
    return container, first, second


@pytest.mark.parametrize("report_first", [True, False])
def test_the_two_halves_of_a_sealed_bundle_come_in_any_order(world: Callable[..., World], report_first: bool) -> None:
    """Each position is delivered once; what was untouched and what was queued behind runs again at once."""
    one = world()
    container, first, second = fast_run(one)
    count = len(first.inputs)
    halves = [lambda: one.sealed(first, (0, 1), (2, count)), lambda: (first.part(1, 2, sealed=True), one.pump())]
    for half in halves if report_first else reversed(halves):
        half()
    second.refuse("epoch", epoch=1)
    one.pump()
    other = one.grant()
    one.pump()
    for _ in range(20):
        one.quick(container)
        one.quick(other)

    assert one.outcomes() == done(100)
    assert one.run._kept == {}
    assert one.run._in_flight_bytes == 0


def test_untouched_inputs_of_a_sealed_bundle_do_not_wait_for_it(world: Callable[..., World]) -> None:
    """They go to another container while the slow input runs on."""
    one = world()
    container, first, second = fast_run(one, 30)
    one.sealed(first, (0, 1), (2, len(first.inputs)))
    one.wait(runs.LATE_S)
    other = one.grant()
    one.pump()
    one.quick(other)

    (slow,) = set(range(30)) - set(one.outcomes())
    assert slow == first.indices[1]
    assert container == []


def test_a_late_report_takes_nothing_that_runs(world: Callable[..., World]) -> None:
    """A bundle that was sent with the new epoch is not behind the sealed one; sent again, it would run twice."""
    one = world()
    container, first, second = fast_run(one, 400)
    first.part(1, 2, sealed=True)  # its report is slow
    one.pump()
    second.refuse("epoch", epoch=1)
    one.pump()
    running = [call for call in container if call.head.epoch == 1]
    assert running
    other = one.grant()
    one.sealed(first, (0, 1), (2, len(first.inputs)))
    sent_again = {index for call in other for index in call.indices}

    assert not sent_again.intersection(*[call.indices for call in running])


def test_a_report_that_never_comes_is_a_loss(world: Callable[..., World]) -> None:
    """After a while; the inputs run again."""
    one = world()
    container, first, second = fast_run(one)
    first.part(0, 1, sealed=True)
    one.pump()
    for call in (second, *container):
        call.die()
    one.pump()
    one.wait(runs.PARTED_S)
    other = one.grant()
    one.pump()
    for _ in range(100):
        one.quick(other)

    assert one.outcomes() == done(100)


def test_a_lost_bundle_runs_again_one_by_one(world: Callable[..., World]) -> None:
    """Only its unanswered inputs, each alone in a container; the controller hears of the death."""
    one = world()
    container, first, second = fast_run(one)
    first.die()
    second.die()
    one.pump()
    assert ("lost", "c1", "it was killed") in one.link.told
    other = one.grant()
    one.pump()
    suspects = len(first.inputs) + len(second.inputs)
    for _ in range(suspects):
        (call,) = other
        assert len(call.inputs) == 1
        other.clear()
        call.answer(elapsed=1e-3)
        one.pump()
    one.quick(other)

    assert one.outcomes() == done(100)


def test_an_input_that_kills_its_container_is_reported(world: Callable[..., World]) -> None:
    """After `max_losses` reruns."""
    one = world(max_losses=1)
    for _ in range(2):
        container = one.grant()
        if not one.inbox and not hasattr(one, "run"):
            one.start(1)
        one.pump()
        container.pop().die()
        one.pump()

    assert one.outcomes() == {0: wire.LOST}
    assert "went away 2 times" in one.got[0][1].text


def test_a_bundle_behind_one_that_kills_its_container_is_not_charged(world: Callable[..., World]) -> None:
    """Its only input has not run at all."""
    one = world(max_losses=0)
    container = one.grant()
    one.start(3)
    one.run.sizer.observe(1, 0.04)
    container.pop(0).answer(elapsed=0.04)
    one.pump()
    assert [len(call.inputs) for call in container] == [1, 1]
    for call in list(container):
        call.die()
    one.pump()

    assert one.outcomes() == {0: "done 0"}


def test_a_container_that_holds_its_interpreter_is_killed_from_outside(world: Callable[..., World]) -> None:
    """Its timeout cannot be kept from inside."""
    one = world(timeout_s=5.0)
    container = one.grant()
    one.start(1)
    one.wait(5.0)
    assert one.outcomes() == {}

    one.wait(runs.GRACE_S + 1.0)
    assert one.outcomes() == {0: wire.TIMEOUT}
    assert [what[:2] for what in one.link.told] == [("kill", "c1")]
    container[0].die()
    one.pump()
    assert one.outcomes() == {0: wire.TIMEOUT}


def test_without_containers_queued_inputs_fail(world: Callable[..., World]) -> None:
    """What runs goes on."""
    one = world()
    container = one.grant()
    one.start(3)
    one.app.handle([("refuse", "f", Failure(wire.START, None, "no").pack())])
    one.pump()
    container.pop().answer()
    one.pump()

    assert one.outcomes() == {0: "done 0", 1: wire.START, 2: wire.START}


def test_large_inputs_travel_alone(world: Callable[..., World]) -> None:
    """And small ones beside them keep their order."""
    one = world()
    container = one.grant()
    one.set_clock()
    run = one.run = Run(one.pool, "fc-1", one.inbox.append, kind=wire.JOINT_VALUE)
    for _ in range(3):
        run.sizer.observe(100, 1e-6)
    large = Encoded(wire.dumps("y" * 2 * wire.SINGLE_MIN))
    run.add([1, large, 2, Encoded(wire.dumps([3]), [b"beside"]), 4])
    run.ledger.close()
    one.pump()
    order: list[list[int]] = []
    while container:
        order.append(container[0].indices)
        container.pop(0).answer(elapsed=1e-3)
        one.pump()

    assert [index for indices in order for index in indices] == [0, 1, 2, 3, 4]
    assert [1] in order
    assert [3] in order


def test_a_call_that_is_given_up_cancels_what_runs_and_frees_its_slots(world: Callable[..., World]) -> None:
    """At once where nothing is in flight, else with the answer."""
    one = world()
    first, second = one.grant(), one.grant()
    one.start(1)
    (busy,) = [c for c in (first, second) if c]
    one.run.close()
    assert [what[0] for what in one.link.told] == ["cancel"]
    assert len(one.pool._free) == 1

    busy.pop().answer()
    assert len(one.pool._free) == 2
    one.run.close()


def test_the_end_of_the_app_ends_the_call(world: Callable[..., World]) -> None:
    """Also one that begins afterwards."""
    one = world()
    one.start(1)
    one.app.fail_all(ClientClosed("stopped"))

    with pytest.raises(ClientClosed):
        one.pump()
    with pytest.raises(ClientClosed):
        one.start(1)


# --- maps


@pytest.mark.parametrize("ordered", [True, False])
def test_a_map_gives_values_in_the_order_asked_for(world: Callable[..., World], ordered: bool) -> None:
    """Containers may answer in any."""
    one = world()
    held: list[Call] = []

    def serve(call: Call) -> None:
        # Two slots: the first bundle is held back until the second has been answered.
        held.append(call)
        if len(held) == 2:
            held.pop().answer()
            held.pop().answer()

    one.grant(), one.grant()
    one.link.serve = serve
    values = list(map_sync(one.pool, [["a", "b"]], {}, ordered=ordered, return_exceptions=False, star=False))

    assert values == (["done 0", "done 1"] if ordered else ["done 1", "done 0"])


@pytest.mark.parametrize("return_exceptions", [True, False])
def test_failures_of_a_map_are_raised_or_returned(world: Callable[..., World], return_exceptions: bool) -> None:
    """As themselves, in the place of the value."""
    one = world()
    one.grant()
    one.link.serve = lambda call: call.answer(failed={p: wire.TIMEOUT for p, i in enumerate(call.indices) if i == 1})
    results = map_sync(one.pool, [range(3)], {}, ordered=True, return_exceptions=return_exceptions, star=False)

    if return_exceptions:
        first, second, third = results
        assert (first, type(second), third) == ("done 0", FunctionTimeoutError, "done 2")
    else:
        with pytest.raises(FunctionTimeoutError):
            list(results)
    assert len(one.pool._free) == 1


def test_a_map_over_nothing_ends(world: Callable[..., World]) -> None:
    """Without a container."""
    one = world()

    for inputs in ([[]], [iter([])]):
        assert list(map_sync(one.pool, inputs, {}, ordered=True, return_exceptions=False, star=False)) == []


def test_slots_are_others_to_use_while_the_consumer_has_the_thread(world: Callable[..., World]) -> None:
    """A call made between two values gets the map's slot."""
    one = world()
    one.grant()
    one.link.serve = lambda call: call.answer()
    results = map_sync(one.pool, [range(3)], {}, ordered=True, return_exceptions=False, star=False)

    assert next(results) == "done 0"
    assert one.pool.call(("x",), {}) == "done 0"
    assert list(results) == ["done 1", "done 2"]


# --- one call


@pytest.fixture
def no_delay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FLOOR_S", 0.0)


@pytest.fixture(params=["sync", "async"])
def remote(request: pytest.FixtureRequest) -> Callable[[World], Any]:
    """`remote()` and `remote.aio()`."""

    def call(one: World) -> Any:
        encoded = one.pool.encode_call(("x",), {})
        if request.param == "sync":
            return OneCall(one.pool, *encoded).wait()

        async def wait() -> Any:
            return await OneCall(one.pool, *encoded).wait_async()

        return asyncio.run(wait())

    return call


def test_a_call_with_a_free_slot_is_one_hop(world: Callable[..., World], remote: Any) -> None:
    """Nothing goes to the controller."""
    one = world()
    one.grant()
    one.link.serve = lambda call: call.answer()

    assert remote(one) == "done 0"
    assert (one.loop.reports, one.link.told, len(one.pool._free)) == ([], [], 1)


def test_a_failure_is_raised(world: Callable[..., World], remote: Any) -> None:
    """Without retries at once."""
    one = world()
    one.grant()
    one.link.serve = lambda call: call.answer(failed={0: wire.TIMEOUT})

    with pytest.raises(FunctionTimeoutError):
        remote(one)


def test_a_failed_call_uses_its_retries(world: Callable[..., World], remote: Any, no_delay: None) -> None:
    """The first attempt, made without a run, counts."""
    one = world(retries=RetryPolicy(max_retries=2, initial_delay_s=0.0, max_delay_s=0.0))
    one.grant()
    attempts: list[Call] = []

    def serve(call: Call) -> None:
        attempts.append(call)
        call.answer(failed={0: wire.USER})

    one.link.serve = serve
    with pytest.raises(Exception, match="user"):
        remote(one)
    assert len(attempts) == 3


def test_a_call_goes_on_elsewhere_after_a_loss(world: Callable[..., World], remote: Any) -> None:
    """The first loss counts too; the last one says what is known of it."""
    one = world(max_losses=1)
    one.grant(), one.grant()
    deaths: list[Call] = []

    def serve(call: Call) -> None:
        deaths.append(call)
        call.die()

    one.link.serve = serve
    with pytest.raises(InternalFailure, match="went away 2 times.*it was killed"):
        remote(one)
    assert sorted(what[:2] for what in one.link.told) == [("lost", "c1"), ("lost", "c2")]
    assert len(deaths) == 2


@pytest.mark.parametrize("why", ["epoch", "draining"])
def test_a_refused_call_is_sent_again(world: Callable[..., World], remote: Any, why: str) -> None:
    """It has used no attempt."""
    one = world()
    one.grant(), one.grant()
    refusals = ["no"]
    one.link.serve = lambda call: call.refuse(why, 3) if refusals and refusals.pop() else call.answer()

    assert remote(one) == "done 0"


def test_a_call_beyond_its_timeout_kills_its_container(
    world: Callable[..., World], remote: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The slot is not used again before the container has answered."""
    monkeypatch.setattr(single, "GRACE_S", 0.0)
    one = world(timeout_s=0.01)
    container = one.grant()

    with pytest.raises(FunctionTimeoutError, match="could not be interrupted"):
        remote(one)
    assert ([what[:2] for what in one.link.told], len(one.pool._free)) == ([("kill", "c1")], 0)
    container[0].die()
    assert (len(one.pool._free), one.pool._slots) == (0, {})


def test_a_call_without_a_slot_asks_for_one(world: Callable[..., World], remote: Any) -> None:
    """And gives it back."""
    one = world()
    one.link.serve = lambda call: call.answer()
    granted = threading.Event()
    report = one.loop.call_soon_threadsafe

    def reported(action: Any, *args: Any) -> None:
        report(action, *args)
        if args and args[2] == 1 and not granted.is_set():
            granted.set()
            one.grant()

    one.loop.call_soon_threadsafe = reported  # type: ignore[method-assign]
    assert remote(one) == "done 0"
    assert granted.is_set()


# --- control traffic


def test_the_number_of_controller_calls_does_not_grow_with_the_inputs() -> None:
    """On the local engine, with real containers: a hundred times the inputs, the same few reports."""
    spec = FunctionSpec(tag="f", module=None, qualname="f", by_value=True, max_containers=2)
    plan = AppPlan("ap-1", None, "test", {"f": FunctionPlan(spec, cloudpickle.dumps(lambda x: x), "fu-1")}, "")
    engine = LocalEngine()
    app = asyncio.run_coroutine_threadsafe(engine.start_app(plan), io_loop()).result(10)
    try:
        pool, service = app.pool("f"), app.service  # type: ignore[attr-defined]
        handled = []
        for count in (1000, 1000, 100_000):
            before = service.calls_handled
            assert sum(pool.map([range(count)], {}, True, False)) == count * (count - 1) // 2
            handled.append(service.calls_handled - before)
    finally:
        engine.close()

    # Long-polls that return after a few seconds are heartbeats; they count time, not inputs.
    assert handled[2] <= max(handled[0], 10) + 10


async def test_control_traffic_that_fails_ends_the_calls_that_wait_for_it() -> None:
    """An error of raymodal's own on the way of a grant: the call ends with it, since nobody else would wake it."""

    class Broken:
        client_id = "driver-1"

        async def controller(self, method: str, *args: Any) -> Any:
            raise KeyError(method)

    app = AppClient(
        Broken(),  # type: ignore[arg-type]
        {"f": FunctionFacts("f", "fu-1", False, 300.0, None)},
        ClientOptions(),
        app_id="ap-1",
        loop=asyncio.get_running_loop(),
    )

    with pytest.raises(InternalError, match="control traffic failed"):
        await asyncio.wait_for(app.pool("f").call_async((1,), {}), 10)


class Controller:
    """Notes what it is asked, and answers when the test lets it."""

    client_id = "driver-1"

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answers = asyncio.Event()
        self.fails = False

    async def controller(self, method: str, *args: Any) -> Any:
        self.asked.append((method, *args))
        await self.answers.wait()
        if self.fails:
            raise Gone("it was killed")
        return [] if method in ("update", "poll") else "fc-1"

    def of(self, *methods: str) -> list[str]:
        return [asked[0] for asked in self.asked if asked[0] in methods]


def opened(link: Controller) -> PoolClient:
    """A pool that the controller has to be told of."""
    facts = {"C.*": FunctionFacts("C.*", "fu-1", False, 300.0, None)}
    app = AppClient(link, facts, ClientOptions(), app_id="ap-1", loop=asyncio.get_running_loop())  # type: ignore[arg-type]
    return app.pool("C(x=1).*", PoolRequest("C(x=1).*", "C.*", b"l", {"timeout_s": 5}))


async def test_a_pool_is_opened_once_before_anything_is_asked_of_it() -> None:
    """However many calls begin at once: one control call, and what needs the pool waits for its answer."""
    link = Controller()
    pool = opened(link)
    calls = [asyncio.ensure_future(pool.method_client("m").call_async((i,), {})) for i in range(3)]
    spawns = [asyncio.ensure_future(pool.method_client("m").spawn((i,), {})) for i in range(3)]
    await asyncio.sleep(0.01)
    assert link.of("open_pool", "update", "spawn") == ["open_pool"]

    link.answers.set()
    assert await asyncio.gather(*spawns) == ["fc-1"] * 3
    assert set(link.of("open_pool", "update", "spawn")[1:]) == {"update", "spawn"}
    assert pool.app.pool("C(x=1).*") is pool
    assert pool.facts.timeout_s == 5
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)


async def test_whoever_gives_up_waiting_for_a_pool_leaves_it_to_the_others() -> None:
    """A cancelled call does not cancel the opening that others wait for."""
    link = Controller()
    pool = opened(link)
    first, second = (asyncio.ensure_future(pool.spawn((i,), {})) for i in range(2))
    await asyncio.sleep(0.01)
    first.cancel()
    await asyncio.sleep(0.01)
    link.answers.set()

    assert await second == "fc-1"
    assert link.of("open_pool") == ["open_pool"]


async def test_a_pool_that_cannot_be_opened_ends_the_calls() -> None:
    """The controller has ended: nobody waits for ever."""
    link = Controller()
    link.fails = True
    link.answers.set()
    pool = opened(link)

    with pytest.raises(InternalFailure, match="it was killed"):
        await asyncio.wait_for(pool.call_async((1,), {}), 10)
    with pytest.raises(InternalFailure, match="it was killed"):
        await pool.spawn((1,), {})


@pytest.mark.parametrize("remote", [False, True])
def test_the_method_travels_in_the_head(world: Callable[..., World], remote: bool) -> None:
    """Of single calls and of maps alike; functions have none."""
    one = world()
    container = one.grant()
    one.link.serve = lambda call: call.answer()
    callee = one.pool.method_client("m")
    if remote:
        assert callee.call((1,), {}) == one.pool.call((1,), {}) == "done 0"
    else:
        assert list(callee.map([[1]], {}, True, False)) == list(one.pool.map([[1]], {}, True, False)) == ["done 0"]

    assert [call.head.method for call in container] == ["m", ""]
