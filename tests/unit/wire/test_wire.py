"""What crosses a process border comes out as it went in, each value apart from all others."""

from __future__ import annotations

import gc
import pickle
import types
import weakref
from typing import Any

import cloudpickle
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymodal import exception as exc_types
from raymodal import wire
from raymodal.wire import Big, BundleHead, Encoder, Failure, Reply

primitives = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()
values = st.recursive(
    primitives,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


def head(kind: str, indices: wire.Indices, kwargs: bytes | None = None) -> BundleHead:
    return BundleHead(kind, 3, 7, "driver", "fc-1", indices, kwargs, 0.06, True)


class Local:
    """A class that unpickles only where it is found."""


# --- positions


@given(st.tuples(st.integers(0, 50), st.integers(0, 20)) | st.lists(st.integers(0, 99), max_size=20), st.data())
def test_indices_in_either_form_mean_the_same(indices: wire.Indices, data: st.DataObject) -> None:
    """A range in two numbers, or any positions; a part of either is that part."""
    every = list(wire.expand(indices))
    start = data.draw(st.integers(0, len(every)))
    stop = data.draw(st.integers(start, len(every)))

    assert wire.count_of(indices) == len(every)
    assert list(wire.expand(wire.sub_indices(indices, start, stop))) == every[start:stop]


# --- bundles


@given(st.lists(primitives, max_size=20))
def test_primitives_travel_jointly(items: list[Any]) -> None:
    """In one pickle, and the head comes first."""
    sent = head(wire.JOINT_VALUE, (5, len(items)))
    got, body = wire.decode_bundle(wire.encode_bundle(sent, items))

    assert (got, body.joint, len(body)) == (sent, items, len(items))
    assert [pickle.loads(body.raw(at)) for at in range(len(items))] == items


@given(st.lists(values, max_size=8), st.randoms())
def test_values_travel_one_by_one_in_any_order(items: list[Any], random: Any) -> None:
    """Each has its own pickle, read at any position."""
    encoder = Encoder()
    blobs = [encoder.one(item) for item in items]
    got, body = wire.decode_bundle(wire.encode_bundle(head(wire.EACH_VALUE, [*range(len(items))], b"k"), blobs))
    order = random.sample(range(len(items)), len(items))

    assert got.kwargs == b"k"
    assert {at: body[at] for at in order} == dict(enumerate(items))
    assert (body.joint, len(body)) == (None, len(items))


def test_two_inputs_never_share_an_object() -> None:
    """Though they were one object where they came from."""
    shared = ["x"]
    encoder = Encoder()
    _, body = wire.decode_bundle(
        wire.encode_bundle(head(wire.EACH_ARGS, (0, 2)), [encoder.one((shared,)), encoder.one((shared,))])
    )

    assert body[0] == body[1]
    assert body[0][0] is not body[1][0]


def test_one_input_that_cannot_be_read_leaves_the_others() -> None:
    """Its error comes when it is its turn."""
    blobs = [pickle.dumps(1), b"\x80\x05cno_such_module\nf\n.", pickle.dumps(3)]
    _, body = wire.decode_bundle(wire.encode_bundle(head(wire.EACH_VALUE, (0, 3)), blobs))

    assert (body[0], body[2]) == (1, 3)
    with pytest.raises(ModuleNotFoundError):
        body[1]


# --- the encoder


class Fussy:
    """Fails while half of its graph is written."""

    def __init__(self, partner: Any) -> None:
        self.partner = partner

    def __getstate__(self) -> Any:
        return {"partner": self.partner, "bad": (x for x in ())}


def test_a_failed_value_leaves_nothing_behind_for_the_next() -> None:
    """Neither bytes nor references into the failed graph nor buffers."""
    encoder, partner, large = Encoder(), [1, 2], np.zeros(wire.BUFFER_MIN, np.uint8)
    with pytest.raises(TypeError, match="generator"):
        encoder.one(Fussy([partner, large]))

    assert pickle.loads(encoder.one([partner])) == [[1, 2]]


class CallsOut:
    """Runs user code while it is pickled that makes a call with the same encoder."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    def __reduce__(self) -> Any:
        return (list, (self.encoder.one(["inner"]),))


def test_user_code_may_make_calls_while_it_is_pickled() -> None:
    """The inner value does not land in the outer one's bytes."""
    encoder = Encoder()
    outer = encoder.one(["before", CallsOut(encoder), "after"])

    before, inner, after = pickle.loads(outer)
    assert (before, pickle.loads(bytes(inner)), after) == ("before", ["inner"], "after")


def test_functions_of_modules_with_one_identity_keep_their_own_names() -> None:
    """The dictionary of a module that is gone may have its id from another."""
    encoder = Encoder()

    def named(name: str) -> str:
        space: dict[str, Any] = {"__name__": name}
        exec("def f(): return __name__", space)
        data = encoder.one(types.FunctionType(space["f"].__code__, space))
        return pickle.loads(data).__globals__["__name__"]

    names = [f"gone{n}" for n in range(5)]
    assert [named(name) for name in names] == names
    assert encoder._pickler.globals_ref == {}


@pytest.mark.parametrize("size", [wire.BUFFER_MIN - 1, wire.BUFFER_MIN])
def test_large_buffers_travel_beside_the_bytes(size: int) -> None:
    """And come out writable, as copies."""
    array = np.arange(size, dtype=np.uint8)
    data = Encoder().one((array, "x"))
    is_big = isinstance(data, Big)
    blob, buffers = (data.blob, [b.raw() for b in data.buffers]) if isinstance(data, Big) else (data, [])
    _, body = wire.decode_bundle(wire.encode_bundle(head(wire.EACH_VALUE, (0, 1)), [blob]), [bytes(b) for b in buffers])
    got, text = body[0]
    got[0] = 99

    assert (is_big, text) == (size >= wire.BUFFER_MIN, "x")
    assert not is_big or data.size > size
    assert array[0] == 0
    assert np.array_equal(got[1:], array[1:])


def test_an_encoder_does_not_hold_what_it_has_encoded() -> None:
    """It is kept for as long as its thread lives."""
    encoder = Encoder()
    array = np.zeros(wire.BUFFER_MIN, np.uint8)
    gone = weakref.ref(array)
    encoder.one([array])
    del array
    gc.collect()

    assert gone() is None


@given(st.lists(values, max_size=5))
def test_only_exact_primitives_may_share_a_pickle(items: list[Any]) -> None:
    """Nothing that could be changed in place, and no subclass."""
    assert wire.all_primitive(items) == all(map(wire.is_primitive, items))
    assert not wire.is_primitive([])
    assert not wire.is_primitive(type("Int", (int,), {})(1))


# --- replies


@given(st.lists(values | st.just(...), max_size=8), st.integers(0, 5), st.booleans(), st.integers(0, 9))
def test_replies_come_out_as_they_went_in(outcomes: list[Any], start: int, sealed: bool, epoch: int) -> None:
    """Values and failures each at their position (`...` stands for a failure here)."""
    failures = {start + at: Failure("user", None, f"no {at}") for at, out in enumerate(outcomes) if out is ...}
    good = [out for out in outcomes if out is not ...]
    joint = wire.all_primitive(good)
    kind, items = (wire.JOINT_VALUE, good) if joint else (wire.EACH_VALUE, [pickle.dumps(v) for v in good])
    sent = Reply(start, start + len(outcomes), sealed, "", failures or None, 0.5, kind, False, epoch)
    raw = wire.encode_reply(sent, items)
    reply, body = wire.decode_reply(raw)
    expected = [failures.get(start + at, out) for at, out in enumerate(outcomes)]

    assert reply == sent
    assert wire.decode_values(reply, body) == (expected, not failures)
    assert wire.decode_reply([raw])[0] == sent
    parts = wire.split_reply(reply, body)
    assert [pos for pos, _, _ in parts] == list(range(start, start + len(outcomes)))
    for (_, failure, blob), wanted in zip(parts, expected, strict=True):
        if failure is not None:
            assert Failure(*failure) == wanted
        else:
            alone, inside = wire.decode_reply(wire.single_reply(blob or b""))
            assert wire.decode_values(alone, inside) == ([wanted], True)


def test_a_value_that_cannot_be_rebuilt_here_stands_for_its_error() -> None:
    """The others are values; giving it to the user raises and names what is missing."""
    raw = wire.encode_reply(
        Reply(0, 2, False, "", None, 0.0, wire.EACH_VALUE), [b"\x80\x05cno_such_module\nf\n.", pickle.dumps([2])]
    )
    (first, second), clean = wire.decode_values(*wire.decode_reply(raw))

    assert (clean, wire.raise_value(second)) == (False, [2])
    with pytest.raises(exc_types.DeserializationError, match="module 'no_such_module' is not installed here"):
        wire.raise_value(first)


@pytest.mark.parametrize(
    ("error", "words"),
    [(AttributeError("no attribute 'X'"), "must be importable here too"), (ValueError("odd"), "ValueError: odd")],
)
def test_what_keeps_a_result_from_being_rebuilt_is_explained(error: Exception, words: str) -> None:
    """With the original as the cause."""
    wrapped = wire.explain_undecodable(error)

    assert words in str(wrapped)
    assert wrapped.__cause__ is error


# --- failures


def failed(exc: BaseException, kind: str = wire.USER) -> Failure:
    try:
        raise exc
    except BaseException as caught:
        return wire.encode_failure(caught, "ta-1", kind)


class TwoArguments(Exception):
    """Pickles, but cannot be rebuilt: the default takes only `args`."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


class NoText(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


def test_a_user_exception_keeps_type_arguments_and_frames() -> None:
    """It is caught as what it was."""
    failure = Failure(*pickle.loads(pickle.dumps(failed(KeyError("gone", 3)).pack())))
    error = wire.decode_failure(failure)

    assert (type(error), error.args, failure.where) == (KeyError, ("gone", 3), "ta-1")
    assert error.__traceback__ is not None


@pytest.mark.parametrize(
    ("exc", "expected", "words"),
    [
        (TwoArguments("a", "b"), exc_types.ExecutionError, "Could not deserialize remote exception"),
        (ValueError(lambda: (x for x in ()), (x for x in ())), exc_types.SerializationError, "could not be pickled"),
        (NoText(), NoText, None),
    ],
)
def test_exceptions_that_do_not_travel_arrive_as_text(exc: BaseException, expected: type, words: str | None) -> None:
    """With the remote traceback in it."""
    error = wire.decode_failure(failed(exc))

    assert type(error) is expected
    if words is not None:
        assert words in str(error)
        assert "Remote traceback" in str(error)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (wire.TIMEOUT, exc_types.FunctionTimeoutError),
        (wire.CANCELLED, exc_types.RemoteError),
        (wire.LOST, exc_types.InternalFailure),
        (wire.START, exc_types.RemoteError),
        ("cycle", exc_types.RemoteError),
    ],
)
def test_what_the_platform_reports_has_its_own_types(kind: str, expected: type) -> None:
    """And keeps its text."""
    error = wire.decode_failure(Failure(kind, None, "why"))

    assert (type(error), "why" in str(error)) == (expected, True)


def test_a_container_that_cannot_start_raises_what_the_user_code_raised() -> None:
    """An import error in a container is an import error here."""
    assert type(wire.decode_failure(failed(ImportError("no torch"), wire.START))) is ImportError


def test_an_exception_class_that_is_no_exception_here_is_reported() -> None:
    """Whatever the bytes say."""
    failure = Failure(wire.USER, cloudpickle.dumps("a string"), "boom", "trace")

    assert "no exception" in str(wire.decode_failure(failure))


def test_a_failure_as_a_value_is_raised() -> None:
    """And everything else is given."""
    with pytest.raises(ZeroDivisionError):
        wire.raise_value(failed(ZeroDivisionError()))
    assert wire.raise_value(5) == 5
