"""How an exception of user code reaches the caller."""

from __future__ import annotations

import asyncio
import os
import pickle
import sys
import threading
import traceback
from typing import Any

import pytest

import raymodal as modal
from raymodal.exception import ExecutionError, InvalidError, RemoteError, SerializationError
from tests.contract.support import ray_only


def test_type_arguments_and_attributes_survive(sample: Any) -> None:
    """A class of the user's module arrives as itself."""

    def fail(cls: Any) -> None:
        error = cls("sold out", 7)
        error.extra = {"left": 0}
        error.add_note("try tomorrow")
        raise error

    with pytest.raises(sample.ShopError) as caught:
        sample.call.remote(fail, sample.ShopError)

    assert caught.value.args == ("sold out", 7)
    assert caught.value.code == 7
    assert caught.value.extra == {"left": 0}
    assert "try tomorrow" in caught.value.__notes__


def test_a_class_made_in_the_function_travels_by_value(sample: Any) -> None:
    """The caller gets an exception of that name."""

    def fail() -> None:
        class OnlyHere(ValueError):
            pass

        raise OnlyHere("local class")

    with pytest.raises(ValueError, match="local class") as caught:
        sample.call.remote(fail)
    assert type(caught.value).__name__ == "OnlyHere"


def test_cause_and_context_are_dropped(sample: Any) -> None:
    """They may not be picklable, and their frames mean nothing here."""

    def fail() -> None:
        try:
            raise KeyError("inner")
        except KeyError as inner:
            raise ValueError("outer") from inner

    with pytest.raises(ValueError, match="outer") as caught:
        sample.call.remote(fail)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_exception_groups(sample: Any) -> None:
    """With their members."""

    def fail() -> None:
        raise ExceptionGroup("both", [ValueError(1), TypeError(2)])

    with pytest.raises(ExceptionGroup) as caught:
        sample.call.remote(fail)
    assert [type(e) for e in caught.value.exceptions] == [ValueError, TypeError]


@pytest.mark.parametrize("how", ["remote", "map", "spawn", "gen"])
def test_the_traceback_shows_both_sides(sample: Any, how: str) -> None:
    """The local call, then the remote frames under `<container id>:<file>` with their source lines."""

    def call() -> Any:
        if how == "remote":
            return sample.div.remote(1, 0)
        if how == "map":
            return list(sample.div.map([1], [0]))
        if how == "spawn":
            return sample.div.spawn(1, 0).get()
        return list(sample.produce.remote_gen(3, fail_at=0))

    with pytest.raises((ZeroDivisionError, sample.ShopError)) as caught:
        call()

    text = "".join(traceback.format_exception(caught.value))
    local = text.index(os.path.basename(__file__))
    remote = text.index("sample_app.py")
    assert local < remote
    assert "ta-" in text[local:remote]
    assert ("return a / b" if how != "gen" else "raise ShopError") in text[remote:]
    assert "runtime.py" not in text[remote:]


def test_errors_are_independent_of_each_other(sample: Any) -> None:
    """Raising one twice, or pickling it, works as with any exception."""
    errors = list(sample.div.map([1, 1], [0, 0], return_exceptions=True))

    assert errors[0] is not errors[1]
    for error in errors:
        with pytest.raises(ZeroDivisionError):
            raise error
    assert type(pickle.loads(pickle.dumps(errors[0]))) is ZeroDivisionError


def test_an_exception_that_cannot_be_made_again(sample: Any) -> None:
    """`ExecutionError` with the remote text and traceback."""

    def fail(cls: Any) -> None:
        raise cls(4, hint="not from args")

    with pytest.raises(ExecutionError, match="Could not deserialize remote exception due to local error") as caught:
        sample.call.remote(fail, sample.Picky)
    assert "4: not from args" in str(caught.value)
    assert "in fail" in str(caught.value)


def test_an_exception_that_cannot_be_pickled(sample: Any) -> None:
    """`SerializationError` with the text."""

    def fail(cls: Any) -> None:
        raise cls()

    with pytest.raises(SerializationError, match="I hold a lock"):
        sample.call.remote(fail, sample.HoldsLock)


def test_an_exception_whose_text_fails(sample: Any) -> None:
    """The report does not depend on `__str__`."""

    def fail() -> None:
        class Mute(Exception):
            def __str__(self) -> str:
                raise RuntimeError("no text")

        raise Mute

    with pytest.raises(Exception) as caught:
        sample.call.remote(fail)
    assert type(caught.value).__name__ == "Mute"


def test_a_result_that_cannot_be_pickled(sample: Any) -> None:
    """As if the function had raised the pickling error; the container serves on."""
    with pytest.raises(TypeError, match="pickle"):
        sample.call.remote(threading.Lock)
    with pytest.raises(TypeError, match="pickle"):
        list(sample.call.map([threading.Lock]))

    assert sample.call.remote(lambda: 1) == 1


def test_a_remote_exit_ends_the_caller(sample: Any) -> None:
    """With its code."""
    with pytest.raises(SystemExit) as caught:
        sample.call.remote(sys.exit, 5)
    assert caught.value.code == 5
    with pytest.raises(SystemExit):
        sample.acall.remote(sys.exit, 5)


def test_a_plain_function_must_not_return_a_generator(sample: Any) -> None:
    """Nor a coroutine."""

    async def later() -> None:
        pass

    with pytest.raises(InvalidError, match="is_generator=True"):
        sample.call.remote(lambda: (x for x in [1]))
    with pytest.raises(InvalidError, match="async def"):
        sample.call.remote(later)


def test_an_async_function_must_be_awaitable(run_app: Any) -> None:
    """A decorator beneath may have made it a plain one."""
    app = modal.App("not-awaitable")

    async def f() -> int:
        return 1

    handle = app.function(serialized=True, max_containers=1)(f)
    f.__code__ = (lambda: 2).__code__
    run_app(app)

    with pytest.raises(InvalidError, match="not an awaitable"):
        handle.remote()


def test_cancelled_errors_that_escape_count_as_cancellation(sample: Any) -> None:
    """They are not errors of the function."""

    def cancelled() -> None:
        raise modal.exception.InputCancellation("my own")

    async def acancelled() -> None:
        raise asyncio.CancelledError

    with pytest.raises(RemoteError):
        sample.call.remote(cancelled)
    with pytest.raises(RemoteError):
        sample.acall.remote(acancelled)
    assert sample.call.remote(lambda: 1) == 1


def test_deep_recursion_comes_back(sample: Any) -> None:
    """Its traceback is cut in the middle."""

    def deep() -> Any:
        def down(n: int) -> int:
            return down(n + 1)

        return down(0)

    with pytest.raises(RecursionError) as caught:
        sample.call.remote(deep)
    assert len(traceback.format_exception(caught.value)) < 300


def test_large_exceptions_come_back(sample: Any) -> None:
    """Their arguments have no size limit that a user has to know."""

    def fail() -> None:
        raise ValueError("x" * 3_000_000)

    with pytest.raises(ValueError) as caught:
        sample.call.remote(fail)
    assert len(caught.value.args[0]) == 3_000_000


@ray_only
def test_an_import_error_of_the_users_module(run_app: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the module raises in the container is what the call raises."""
    (tmp_path / "fails_in_container.py").write_text(
        "import raymodal as modal\napp = modal.App('import-error')\n"
        "if not modal.is_local():\n    raise LookupError('missing in the container')\n"
        "@app.function(max_containers=1)\ndef f(x):\n    return x\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import fails_in_container as user

    run_app(user.app)

    with pytest.raises(LookupError, match="missing in the container"):
        user.f.remote(1)
    with pytest.raises(LookupError, match="missing in the container"):
        list(user.f.map([1, 2]))
    with pytest.raises(LookupError, match="missing in the container"):
        user.f.spawn(1).get()
