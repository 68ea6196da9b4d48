"""The object of a class's container: the phases of its start, its methods in bundles, its end. No Ray, no thread."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import pytest

import raymodal as modal
from raymodal import wire
from raymodal.container.runtime import Runtime
from raymodal.plan.cls import pool_request
from raymodal.plan.pool import ContainerPlan
from raymodal.wire import BundleHead, Failure

log: list[str] = []
CLASSES: list[type] = []


def hook(name: str, *decorators: Any, is_async: bool = False, raises: BaseException | None = None) -> Any:
    """A method that leaves its name behind, decorated."""

    def sync(self: Any) -> None:
        log.append(name)
        if raises is not None:
            raise raises

    async def asynchronous(self: Any) -> None:
        await asyncio.sleep(0)
        sync(self)

    found: Any = asynchronous if is_async else sync
    for decorate in decorators:
        found = decorate(found)
    return found


def made(bases: tuple[type, ...] = (), **body: Any) -> type:
    return type("C", bases, {"__module__": __name__, "__qualname__": "C", "__annotations__": {"p": str}, **body})


@pytest.fixture
def start() -> Iterator[Callable[..., Runtime]]:
    """`start(user_cls, *args, **kwargs)` is the runtime of a container of it, not yet booted."""
    log.clear()
    CLASSES.clear()
    runtimes: list[Runtime] = []

    def make(user_cls: type, *args: Any, **kwargs: Any) -> Runtime:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            spec = modal.App().cls(serialized=True, enable_memory_snapshot=True)(user_cls)._spec
        request = pool_request(spec, args, kwargs, {})
        service = spec.service if request is None else request.spec(spec.service)
        # Not the class's own pickle: what its methods write to must be this module's log.
        CLASSES.append(user_cls)
        blob = cloudpickle.dumps(_Named(len(CLASSES) - 1))
        plan = ContainerPlan("ap-1", "app", "ta-1", service, blob, {}, "", (), None, {}, cls=spec, request=request)
        runtimes.append(Runtime(plan, _Uplink()))
        return runtimes[-1]

    yield make
    for one in runtimes:
        one.finish()
    asyncio.set_event_loop(None)


class _Named:
    """Pickles as "that class of this module"."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> tuple[Any, ...]:
        return _class_of, (self.number,)


def _class_of(number: int) -> type:
    return CLASSES[number]


class _Uplink:
    def report(self, *report: Any) -> None:
        raise AssertionError(report)

    interrupt = end_process = report


def call(runtime: Runtime, method: str, *args: Any) -> Any:
    head = BundleHead(wire.EACH_CALL, 0, 1, "driver", "fc-1", (0, 1), None, 60.0, False, method)
    raw = runtime.run(wire.encode_bundle(head, [wire.dumps((args, {}))]))
    reply, body = wire.decode_reply(raw)
    if reply.refused:
        return reply.refused
    (value,) = wire.decode_values(reply, body)[0]
    return value


def test_two_phases(start: Callable[..., Runtime]) -> None:
    """The first ends with the snapshot's hooks; each runs bases first, then in the order of definition."""
    base = made(b_post=hook("base", modal.enter()), b_pre=hook("base snap", modal.enter(snap=True)))
    runtime = start(
        made(
            (base,),
            post=hook("own", modal.enter(), is_async=True),
            pre=hook("own snap", modal.enter(snap=True), is_async=True),
        )
    )

    runtime.load()
    assert log == ["base snap", "own snap"]
    runtime.enter()
    assert log == ["base snap", "own snap", "base", "own"]


def test_overrides(start: Callable[..., Runtime]) -> None:
    """A decorated override takes the place of the base's; an undecorated one does not hide it, as in Modal."""
    base = made(
        one=hook("base one", modal.enter()), two=hook("base two", modal.enter()), three=hook("three", modal.enter())
    )
    runtime = start(made((base,), three=hook("undecorated"), one=hook("own one", modal.enter())))

    assert runtime.boot() is None
    assert log == ["own one", "base two", "three"]


def test_arguments(start: Callable[..., Runtime]) -> None:
    """Parameters become attributes without a constructor; a constructor gets what it was given."""

    def init(self: Any, a: int, *, b: int) -> None:
        self.a, self.b = a, b

    with_parameters = start(made(p=modal.parameter(), m=modal.method()(lambda self: vars(self))), p="x")
    with_init = start(made(__init__=init, m=modal.method()(lambda self: vars(self))), 1, b=2)

    assert (with_parameters.boot(), with_init.boot()) == (None, None)
    assert call(with_parameters, "m") == {"p": "x"}
    assert call(with_init, "m") == {"a": 1, "b": 2}


def test_methods(start: Callable[..., Runtime]) -> None:
    """Each bundle says which; sync and async ones of one object, static ones too."""

    async def double(self: Any, x: int) -> int:
        return 2 * x

    runtime = start(
        made(
            plus=modal.method()(lambda self, x: x + 1),
            double=modal.method()(double),
            static=modal.method()(staticmethod(lambda x: -x)),
        )
    )
    runtime.boot()

    assert [call(runtime, method, 5) for method in ("plus", "double", "static", "plus")] == [6, 10, -5, 6]
    missing = call(runtime, "gone", 5)
    assert isinstance(missing, Failure)
    assert "no method 'gone' in the container" in missing.text


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (ValueError("no weights"), wire.USER, "ValueError: no weights"),
        (SystemExit(3), wire.START, "sys.exit(3) was called"),
        (KeyboardInterrupt(), wire.USER, "KeyboardInterrupt"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True])
def test_a_start_that_fails(
    start: Callable[..., Runtime], error: BaseException, kind: str, text: str, is_async: bool
) -> None:
    """What the hook raised is the failure; nothing that follows runs, and no exit hook."""
    runtime = start(
        made(
            one=hook("one", modal.enter(), is_async=is_async, raises=error),
            two=hook("two", modal.enter()),
            bye=hook("bye", modal.exit()),
        )
    )

    failure = Failure(*runtime.boot())  # type: ignore[misc]
    runtime.finish()
    assert (failure.kind, text in failure.text, log) == (kind, True, ["one"])


def test_exit_hooks(start: Callable[..., Runtime], capsys: pytest.CaptureFixture[str]) -> None:
    """All run once, whatever one raises; the trace that is shown begins in the user's code. Later bundles are refused."""

    def three(self: Any, *nothing: Any) -> None:
        log.append(f"three {nothing}")

    runtime = start(
        made(
            m=modal.method()(lambda self: 1),
            one=hook("one", modal.exit(), raises=RuntimeError("at the end")),
            two=hook("two", modal.exit(), is_async=True, raises=SystemExit(1)),
            three=modal.exit()(three),
        )
    )
    runtime.boot()
    runtime.finish()
    runtime.finish()

    assert log == ["one", "two", "three (None, None, None)"]
    said = capsys.readouterr().err
    assert "The exit hook 'one' of 'C.*' raised:" in said
    assert "container/lifecycle.py" not in said.partition("RuntimeError")[0]
    assert call(runtime, "m") == "draining"


def test_refusing_more(start: Callable[..., Runtime]) -> None:
    """Before the end, what is queued is sent back unrun, while exit hooks still wait for their turn."""
    runtime = start(made(m=modal.method()(lambda self: 1), bye=hook("bye", modal.exit())))
    runtime.boot()
    runtime.refuse_more("the app stops")

    assert call(runtime, "m") == "draining"
    assert log == []
    runtime.finish()
    assert log == ["bye"]


def test_context_managers_of_old(start: Callable[..., Runtime]) -> None:
    """`__aenter__` and `__exit__` run where there are no hooks of today's."""

    async def aenter(self: Any) -> None:
        log.append("aenter")

    def leave(self: Any, kind: Any, error: Any, trace: Any) -> None:
        log.append(f"exit {kind}")

    old = start(made(__aenter__=aenter, __enter__=hook("enter"), __exit__=leave))
    new = start(made(__enter__=hook("never"), load=hook("load", modal.enter())))

    old.boot()
    old.finish()
    assert log == ["aenter", "exit None"]
    new.boot()
    assert log == ["aenter", "exit None", "load"]
