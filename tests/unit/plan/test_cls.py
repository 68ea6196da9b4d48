"""Which pool an object of a class has: arguments checked, encoded, and named the same everywhere."""

from __future__ import annotations

import enum
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raymodal.exception import InvalidError
from raymodal.plan.cls import (
    MAX_SHOWN,
    bind_parameters,
    decode_arguments,
    encode_arguments,
    pool_request,
    variant_request,
)
from raymodal.plan.pool import FunctionFacts, PoolRequest
from raymodal.spec.cls import ClsSpec, ParameterSpec
from raymodal.spec.function import FunctionSpec, RetryPolicy

SERVICE = FunctionSpec(tag="C.*", module="m", qualname="C", timeout_s=60, cpu=2)
SIZE = ParameterSpec(name="size", type="str")
COUNT = ParameterSpec(name="count", type="int", has_default=True, default=3)
RAW = ParameterSpec(name="raw", type="bytes", has_default=True, default=b"")
FAST = ParameterSpec(name="fast", type="bool", has_default=True, default=False)


def cls(*parameters: ParameterSpec, **fields: Any) -> ClsSpec:
    return ClsSpec(tag="C", service=SERVICE, parameters=parameters, **fields)


def tag(spec: ClsSpec, *args: Any, _changes: dict[str, Any] | None = None, **kwargs: Any) -> str:
    request = pool_request(spec, args, kwargs, _changes or {})
    return "none" if request is None else request.tag


class Colour(enum.StrEnum):
    RED = "red"


class TestParameters:
    def test_defaults_are_filled_in(self) -> None:
        """In the order of declaration, whatever the order of the call."""
        spec = cls(SIZE, COUNT, RAW, FAST)

        assert list(bind_parameters(spec, (), {"fast": True, "size": "s"}).items()) == [
            ("size", "s"),
            ("count", 3),
            ("raw", b""),
            ("fast", True),
        ]

    def test_values_become_plain(self) -> None:
        """Subclasses of the four types are what they stand for."""
        found = bind_parameters(cls(SIZE, COUNT), (), {"size": Colour.RED, "count": True})

        assert found == {"size": "red", "count": 1}
        assert [type(value) for value in found.values()] == [str, int]

    def test_a_default_of_another_type(self) -> None:
        """Nobody checks it; the container finds it in the class."""
        odd = ParameterSpec(name="size", type="str", has_default=True, default=None)

        assert bind_parameters(cls(odd), (), {}) == {}

    @pytest.mark.parametrize(
        ("parameters", "args", "kwargs", "error", "text"),
        [
            ([SIZE], ("s",), {}, InvalidError, r"C\(size=...\)"),
            ([SIZE], (), {}, InvalidError, "missing required parameter 'size'"),
            ([SIZE], (), {"size": "s", "site": "x"}, InvalidError, "no parameter 'site'; it has 'size'"),
            ([SIZE], (), {"size": 3}, TypeError, "'size' is a str, not int"),
            ([COUNT], (), {"count": "3"}, TypeError, "'count' is a int, not str"),
            ([COUNT], (), {"count": None}, TypeError, "NoneType"),
            ([FAST], (), {"fast": 1}, TypeError, "'fast' is a bool, not int"),
            ([SIZE], (), {"size": ["unhashable"]}, TypeError, "not list"),
            ([COUNT, SIZE], (), {"size": "s"}, ValueError, "non-default argument 'size' follows default"),
            ([], (), {"x": 1}, TypeError, "takes no arguments"),
            ([], (1,), {}, TypeError, "takes no arguments"),
        ],
    )
    def test_refused(self, parameters: Any, args: Any, kwargs: Any, error: type[Exception], text: str) -> None:
        """Wrong arguments, with Modal's exception types."""
        with pytest.raises(error, match=text):
            bind_parameters(cls(*parameters), args, kwargs)


class TestTags:
    def test_no_arguments(self) -> None:
        """A class without parameters has one pool; one with parameters has one for each set, also for the defaults."""
        assert tag(cls()) == "none"
        assert tag(cls(COUNT)) == "C(count=3).*"
        assert tag(cls(has_own_init=True)) == "none"
        assert tag(cls(has_own_init=True, needs_arguments=True)) == "C().*"

    def test_equal_arguments(self) -> None:
        """Said or left to the default, in any order: one pool."""
        assert tag(cls(SIZE, COUNT), size="s") == tag(cls(SIZE, COUNT), count=3, size="s") == "C(size='s', count=3).*"
        assert tag(cls(has_own_init=True), a=1, b=[2]) == tag(cls(has_own_init=True), b=[2], a=1)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            ({"size": "a"}, {"size": "b"}),
            ({"size": "x" * 99 + "1"}, {"size": "x" * 99 + "2"}),
            ({"size": "a"}, {"size": "a#"}),
        ],
    )
    def test_different_arguments(self, one: Any, other: Any) -> None:
        """Never one pool."""
        assert tag(cls(SIZE), **one) != tag(cls(SIZE), **other)

    def test_long_arguments(self) -> None:
        """They are cut in the name, and told apart by a digest."""
        assert len(tag(cls(SIZE), size="x" * 10_000)) < MAX_SHOWN + 30

    def test_options(self) -> None:
        """Each set of options has its own pool; their order does not matter."""
        plain, changed = cls(COUNT), {"timeout_s": 5, "env": {"A": "1", "B": "2"}}
        turned = {"env": {"B": "2", "A": "1"}, "timeout_s": 5}

        assert tag(cls(), _changes=changed) == tag(cls(), _changes=turned)
        assert tag(cls(), _changes=changed).startswith("C.*#")
        assert len({tag(plain, _changes=c) for c in ({}, changed, {"timeout_s": 5}, {"timeout_s": 6})}) == 4

    def test_the_same_in_another_process(self) -> None:
        """Nothing in a tag depends on the process: hashes of strings do."""
        program = (
            "from raymodal.plan.cls import pool_request\nfrom raymodal.spec.cls import ClsSpec\nfrom raymodal.spec.function import FunctionSpec\n"
            "spec = ClsSpec(tag='C', service=FunctionSpec(tag='C.*', module='m', qualname='C'), has_own_init=True)\n"
            "print(pool_request(spec, ({'a': 1, 'b': b'x'}, 'y' * 99), {}, {'env': {'A': '1'}}).tag)"
        )
        found = {subprocess.check_output([sys.executable, "-c", program], text=True) for _ in range(2)}

        assert found == {
            tag(cls(has_own_init=True), {"a": 1, "b": b"x"}, "y" * 99, _changes={"env": {"A": "1"}}) + "\n"
        }

    def test_functions(self) -> None:
        """A variant of a function has a pool of its own too."""
        one, other = variant_request("f", {"timeout_s": 5}), variant_request("f", {"timeout_s": 6})

        assert variant_request("f", {}) is None
        assert one is not None
        assert other is not None
        assert one.tag.startswith("f#")
        assert one.tag != other.tag
        assert (one.base, one.arguments, one.changes) == ("f", None, {"timeout_s": 5})


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(args=st.lists(PLAIN, max_size=3), kwargs=st.dictionaries(st.text(min_size=1), PLAIN, max_size=3))
def test_arguments_come_back(args: list[Any], kwargs: dict[str, Any]) -> None:
    """Whatever is plain travels unchanged, with its types."""
    found_args, found_kwargs = decode_arguments(encode_arguments(tuple(args), kwargs))

    assert repr(found_args) == repr(tuple(args))
    assert found_kwargs == kwargs


@pytest.mark.parametrize("value", [float("inf"), {1, 2}, Colour.RED, InvalidError("x"), "\ud800"])
def test_other_arguments_come_back(value: Any) -> None:
    """What has no literal is pickled, and text that is no Unicode is text all the same."""
    ((found,), _) = decode_arguments(encode_arguments((value,), {}))

    assert (type(found), repr(found)) == (type(value), repr(value))


def test_unpicklable() -> None:
    """What cannot travel raises what pickling raises."""
    with pytest.raises(TypeError, match="pickle"):
        encode_arguments((sys.stdout.buffer,), {})


def test_what_a_request_changes() -> None:
    """Settings and a caller's facts, and nothing else."""
    request = PoolRequest("C(x=1).*", "C.*", None, {"timeout_s": 5, "retries": RetryPolicy(max_retries=2)})

    assert request.spec(SERVICE) == SERVICE.model_copy(
        update={"tag": "C(x=1).*", "timeout_s": 5, "retries": RetryPolicy(max_retries=2)}
    )
    assert request.facts(FunctionFacts("C.*", "fu-1", False, 60.0, None)) == FunctionFacts(
        "C(x=1).*", "fu-1", False, 5.0, RetryPolicy(max_retries=2)
    )
    assert PoolRequest("t", "C.*").facts(FunctionFacts("C.*", "fu-1", False, 60.0, None)).timeout_s == 60.0
