"""`@app.cls`: the declaration, objects that run locally, and what a running app is asked for."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

import raymodal as modal
from raymodal.exception import DeprecationError, ExecutionError, InvalidError, UnimplementedError

# `from __future__ import annotations` makes annotations strings, which modal.parameter cannot read (nor can Modal's).
log: list[str] = []


def made(name: str = "C", annotations: dict[str, Any] | None = None, bases: tuple[type, ...] = (), **body: Any) -> type:
    """A class as if written at module level."""
    return type(
        name, bases, {"__module__": __name__, "__qualname__": name, "__annotations__": annotations or {}, **body}
    )


def declare(user_cls: Any, **params: Any) -> Any:
    return modal.App().cls(**params)(user_cls)


def entered(self: Any) -> None:
    log.append("enter")


def run(self: Any, x: int = 0) -> Any:
    return getattr(self, "p", None), x


async def run_async(self: Any) -> str:
    return "async"


def batch() -> Any:
    return modal.batched(max_batch_size=2, wait_ms=1)(lambda self, x: x)


@pytest.fixture(autouse=True)
def _empty_log() -> None:
    log.clear()


@pytest.mark.parametrize(
    ("user_cls", "error"),
    [
        (entered, TypeError),
        (3, TypeError),
        (modal.concurrent(max_inputs=2)(entered), TypeError),
        (made(m=modal.concurrent(max_inputs=2)(modal.method()(lambda self: 1))), InvalidError),
        (made(m=modal.enter(snap=True)(lambda self: 1)), InvalidError),
        (made(a=batch(), b=batch()), InvalidError),
        (made(a=batch(), b=modal.method()(lambda self: 1)), InvalidError),
        (made(p=modal.parameter()), InvalidError),
        (made(annotations={"p": float}, p=modal.parameter()), InvalidError),
        (made(annotations={"p": "str"}, p=modal.parameter()), AttributeError),
    ],
)
def test_refused(user_cls: Any, error: type[Exception]) -> None:
    """Wrong classes are refused where the decorator stands."""
    with pytest.raises(error):
        declare(user_cls)


def test_concurrent_without_max_inputs() -> None:
    """The missing argument of @concurrent is found by the class decorator."""
    with pytest.raises(TypeError, match="max_inputs"):
        declare(modal.concurrent()(made()))


def test_batched_on_a_class() -> None:
    """Method decorators do not go on classes."""
    with pytest.raises(InvalidError):
        modal.batched(max_batch_size=1, wait_ms=1)(made())


def test_nested_classes() -> None:
    """A class that a container cannot import has to travel by value."""

    class Nested: ...

    with pytest.raises(InvalidError):
        declare(Nested)
    declare(Nested, serialized=True)


def test_recorded() -> None:
    """The spec has methods, hooks in their order, and parameters."""
    base = made(
        "Base",
        annotations={"first": str},
        first=modal.parameter(),
        load=modal.enter()(entered),
        shared=modal.method()(run),
    )
    user_cls = made(
        annotations={"second": int, "hidden": list},
        bases=(base,),
        second=modal.parameter(default=3),
        hidden=modal.parameter(init=False),
        shared=lambda self: "undecorated",
        bye=modal.exit()(lambda self: None),
    )
    spec = declare(modal.concurrent(max_inputs=4)(user_cls), gpu="T4", retries=2)._spec

    assert (spec.tag, spec.service.tag, spec.service.max_concurrent_inputs) == ("C", "C.*", 4)
    assert [(p.name, p.type, p.has_default) for p in spec.parameters] == [
        ("first", "str", False),
        ("second", "int", True),
    ]
    # An undecorated override does not hide the decorated method of a base.
    assert [m.name for m in spec.methods] == ["shared"]
    assert [(h.name, h.kind) for h in spec.hooks] == [("load", "enter"), ("bye", "exit")]


def test_registered() -> None:
    """Under its name among the classes, as `C.*` among the functions."""
    app = modal.App()
    handle = app.cls()(made())

    with pytest.warns(DeprecationError):
        assert app.registered_classes == {"C": handle}
    with pytest.warns(DeprecationError):
        assert list(app.registered_functions) == ["C.*"]


class TestLocally:
    def test_method(self) -> None:
        """`.local` makes the object, runs the hooks once per object, and calls the method."""
        handle = declare(
            made(
                annotations={"p": str},
                p=modal.parameter(default="d"),
                load=modal.enter()(entered),
                run=modal.method()(run),
            )
        )
        obj = handle(p="z")

        assert obj.run.local(1) == ("z", 1)
        assert obj.run.local(2) == ("z", 2)
        assert log == ["enter"]
        assert handle().run.local() == ("d", 0)
        assert handle("pos").run.local() == ("pos", 0)
        assert log == ["enter"] * 3

    def test_async_method(self) -> None:
        """An async `.local` is a coroutine, and runs no @enter hooks, as in Modal."""
        handle = declare(made(load=modal.enter()(entered), run=modal.method()(run_async)))

        assert asyncio.run(handle().run.local()) == "async"
        assert log == []

    def test_attributes(self) -> None:
        """Class attributes are read from the class, others from a local object."""
        handle = declare(made(annotations={"p": str}, p=modal.parameter(default="d"), K=3, helper=lambda self: self.p))

        assert (handle.K, handle.__name__, handle().K, handle().p, handle().helper()) == (3, "C", 3, "d", "d")
        with pytest.raises(AttributeError):
            handle().missing  # noqa: B018
        with pytest.raises(AttributeError):
            handle.missing  # noqa: B018

    def test_methods_of_methods(self) -> None:
        """Inside the object `self.m` is a handle, and hooks are plain methods."""
        handle = declare(
            made(
                inner=modal.method()(lambda self: 5),
                load=modal.enter()(entered),
                outer=modal.method()(lambda self: (self.inner.local(), self.load())),
            )
        )

        assert handle().outer.local() == (5, None)
        with pytest.raises(TypeError):
            handle().outer()

    @pytest.mark.parametrize(
        ("call", "error"),
        [
            (lambda handle: handle(q=1).run.local(), TypeError),
            (lambda handle: handle(p=threading.Lock()), TypeError),
            (lambda handle: handle.run.remote(), AttributeError),
            (lambda handle: handle.run.local(), ExecutionError),
            (lambda handle: handle().run.remote(), ExecutionError),
            (lambda handle: handle().run.spawn(), ExecutionError),
            (lambda handle: list(handle().run.map([1])), ExecutionError),
            (lambda handle: handle.with_options(gpu="T4")().run.remote(), ExecutionError),
            (lambda handle: handle().update_autoscaler(max_containers=1), ExecutionError),
            (lambda handle: handle().run.update_autoscaler(max_containers=1), InvalidError),
            (lambda handle: handle.with_options(gpu=["T4"]), InvalidError),
            (lambda handle: handle.with_options(zz=1), TypeError),
            (lambda handle: handle.with_batching(max_batch_size=0, wait_ms=1), InvalidError),
            (lambda handle: handle.with_concurrency(max_inputs=1, target_inputs=2), InvalidError),
        ],
    )
    def test_errors(self, call: Any, error: type[Exception]) -> None:
        """What cannot be done says why, with Modal's exception types."""
        handle = declare(made(annotations={"p": str}, p=modal.parameter(default="d"), run=modal.method()(run)))
        with pytest.raises(error):
            call(handle)

    def test_parameter_order(self) -> None:
        """A required parameter behind an optional one is found as the class is first used."""
        handle = declare(
            made(
                annotations={"a": str, "b": str},
                a=modal.parameter(default=""),
                b=modal.parameter(),
                run=modal.method()(run),
            )
        )
        with pytest.raises(ValueError, match="non-default argument"):
            handle(b="1").run.local()

    def test_no_value(self) -> None:
        """A parameter without a value cannot be read."""
        user_cls = made(annotations={"p": str}, p=modal.parameter())
        with pytest.raises(AttributeError, match="no default value"):
            user_cls().p  # type: ignore[attr-defined]


def test_own_init() -> None:
    """A class with its own __init__ works, with a warning."""

    def init(self: Any, p: str) -> None:
        self.p = p

    with pytest.warns(DeprecationError, match="__init__") as caught:
        handle = declare(made(__init__=init, run=modal.method()(run)))

    assert caught[0].filename == __file__
    assert handle("x").run.local(1) == ("x", 1)


def test_own_init_strict(strict: None) -> None:
    """Strict mode refuses it, as 1.6.4 does."""
    with pytest.raises(InvalidError):
        declare(made(__init__=lambda self: None))


def test_not_a_class() -> None:
    """What the decorator returns is a handle: it cannot be inherited from."""
    handle = declare(made())

    assert not isinstance(handle, type)
    with pytest.raises(TypeError, match="undecorated base class"):

        class Sub(handle):  # type: ignore[misc]
            pass


def test_looked_up() -> None:
    """Handles of deployed classes are lazy."""
    handle = modal.Cls.from_name("app", "C")

    assert repr(handle) == "Cls.from_name('app', 'C')"
    with pytest.raises(UnimplementedError):
        handle().anything.remote()


class TestServer:
    def test_recorded(self) -> None:
        """A server class is recorded; using it comes later."""
        server = modal.App().server(port=80, target_concurrency=0.5)(made(start=modal.enter()(entered)))

        assert server.params["target_concurrency"] == 1.0
        with pytest.raises(UnimplementedError):
            server.get_url()

    @pytest.mark.parametrize(
        ("user_cls", "error"),
        [
            (entered, TypeError),
            (made(), InvalidError),
            (made(start=modal.enter()(entered), m=modal.method()(run)), InvalidError),
            (made(start=modal.enter()(entered), __init__=lambda self: None), InvalidError),
            (made(start=modal.enter()(entered), p=modal.parameter()), InvalidError),
            (modal.concurrent(max_inputs=1)(made(start=modal.enter()(entered))), InvalidError),
        ],
    )
    def test_refused_classes(self, user_cls: Any, error: type[Exception]) -> None:
        """What a server class cannot have."""
        with pytest.raises(error):
            modal.App().server()(user_cls)

    @pytest.mark.parametrize(
        "params",
        [
            {"port": 0},
            {"port": "x"},
            {"target_concurrency": -1},
            {"target_concurrency": True},
            {"max_concurrency": 1.5},
            {"target_concurrency": 5, "max_concurrency": 3},
            {"scaleup_window": 0},
            {"exit_grace_period": 3601},
            {"startup_timeout": 0},
        ],
    )
    def test_refused_params(self, params: dict[str, Any]) -> None:
        """Figures out of range."""
        with pytest.raises(InvalidError):
            modal.App().server(**params)


def test_private_names_of_the_users_class() -> None:
    """Code in methods reaches them through the class's name, which is the handle's now; the handle's own are not among them."""
    handle = declare(made(_table={"a": 1}, _half=staticmethod(lambda x: x / 2), run=modal.method()(lambda self: 1)))

    assert handle._table == {"a": 1}
    assert handle._half(4) == 2
    assert handle.__mro__[-1] is object
    with pytest.raises(AttributeError):
        handle._nothing  # noqa: B018
    with pytest.raises(AttributeError):
        modal.Cls.__new__(modal.Cls)._user_cls  # noqa: B018


def test_methods_of_a_class_that_is_not_decorated() -> None:
    """A base class, or one under test: plain calls work, as in Modal."""

    class Base:
        @modal.method()
        def m(self, x: int) -> int:
            return x

        def both(self) -> int:
            return self.m(2) + self.m.local(3)

    assert Base().both() == 5
