"""Functions that call functions."""

from __future__ import annotations

from typing import Any

import pytest

import raymodal as modal
from raymodal.exception import InvalidError
from tests.contract.support import ray_only


def test_recursion(sample: Any) -> None:
    """Each level waits in a container of its own."""
    assert sample.factorial.remote(5) == 120


def test_a_map_in_a_container(sample: Any) -> None:
    """In sync and async functions, several at once."""
    assert sample.total.remote([1, 2, 3]) == 14
    assert sample.atotal.remote([1, 2, 3]) == 14
    assert list(sample.total.map([list(range(n)) for n in (2, 3, 4, 5)])) == [1, 5, 14, 30]


def test_a_stream_in_a_container(sample: Any) -> None:
    """A container may consume another's generator."""
    assert sample.call.remote(lambda f: sum(f.remote_gen(5)), sample.produce) == 10


def test_handles_travel(sample: Any) -> None:
    """As arguments, in closures, as results."""
    square = sample.square

    assert sample.call.remote(lambda f: f.remote(3), square) == 9
    assert sample.call.remote(lambda: square.remote(4)) == 16
    assert sample.call.remote(lambda f: f, square).remote(5) == 25
    assert list(sample.call.remote(lambda m: list(m([1, 2])), square.map)) == [1, 4]


def test_globals_of_the_module_are_live_in_containers(sample: Any) -> None:
    """`f.remote` works, `f.local` runs in place, and the app knows its id."""

    def look() -> tuple[Any, ...]:
        from tests.contract import sample_app

        return sample_app.square.remote(3), sample_app.square.local(3), sample_app.app.app_id, sample_app.app.name

    assert sample.call.remote(look) == (9, 9, sample.app.app_id, "contract-sample")


def test_an_app_cannot_be_run_in_a_container(sample: Any) -> None:
    """It would start itself again and again."""

    def again() -> None:
        with modal.App("inner").run():
            pass

    with pytest.raises(InvalidError, match="__main__"):
        sample.call.remote(again)


def test_what_cannot_travel(sample: Any) -> None:
    """Apps, and handles whose app is not running."""
    idle = modal.App("idle-here")

    @idle.function(serialized=True)
    def f() -> None:
        pass

    with pytest.raises(InvalidError, match="cannot be sent"):
        sample.describe.remote(sample.app)
    with pytest.raises(InvalidError, match="hasn't been hydrated"):
        sample.describe.remote(f)


def test_an_error_through_two_containers(sample: Any) -> None:
    """Its type survives, and so do the frames of both."""
    import traceback

    with pytest.raises(ZeroDivisionError) as caught:
        sample.call.remote(lambda f: f.remote(1, 0), sample.div)

    text = "".join(traceback.format_exception(caught.value))
    assert "return a / b" in text
    assert text.count(":/") >= 2


def test_what_a_container_spawns_outlives_its_input(sample: Any, tmp_path: Any) -> None:
    """The call belongs to the app."""
    call = sample.call.remote(lambda f, go: f.spawn(go, 0), sample.release, str(tmp_path / "go"))
    (tmp_path / "go").touch()

    assert call.get() == 0


@ray_only
def test_the_nested_call_is_elsewhere(sample: Any) -> None:
    """In another process than its caller."""
    import os

    def two(f: Any) -> tuple[int, int]:
        return os.getpid(), f.remote(os.getpid)

    mine, other = sample.acall.remote(two, sample.call)
    assert mine != other
