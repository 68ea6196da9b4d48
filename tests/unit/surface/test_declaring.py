"""`@app.function`: what it accepts, refuses and records. The expected errors are those of modal 1.6.4, found by running it."""

from __future__ import annotations

import functools
import inspect
import warnings
from typing import Any

import pytest

import raymodal as modal
from raymodal.exception import DeprecationError, InvalidError
from raymodal.spec.function import GpuRequest, RetryPolicy, spec_env

VOLUME = modal.Volume.from_name("v")


def plain(x: int = 1) -> int:
    return x


def needs(x: int) -> int:
    return x


def generator() -> Any:
    yield 1


async def coroutine() -> int:
    return 1


async def async_generator() -> Any:
    yield 1


def declare(func: Any = plain, **params: Any) -> Any:
    return modal.App("test").function(**params)(func)


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"image": "x"}, InvalidError),
        ({"schedule": "* * * * *"}, AttributeError),
        ({"env": {"A": 1}}, InvalidError),
        ({"env": {1: "A"}}, InvalidError),
        ({"env": "A=1"}, InvalidError),
        ({"secrets": modal.Secret.from_dict({})}, TypeError),
        ({"gpu": "A100:x"}, InvalidError),
        ({"gpu": "a10g:1:2"}, InvalidError),
        ({"gpu": "A100:-1"}, ValueError),
        ({"gpu": 3}, InvalidError),
        ({"gpu": [3]}, InvalidError),
        ({"gpu": ("A10",)}, InvalidError),
        ({"volumes": {"/x": 3}}, InvalidError),
        ({"volumes": {"/": VOLUME}}, InvalidError),
        ({"volumes": {"/root": VOLUME}}, InvalidError),
        ({"volumes": {"/tmp": VOLUME}}, InvalidError),
        ({"volumes": {"x": VOLUME}}, InvalidError),
        ({"volumes": {"/x/../y": VOLUME}}, InvalidError),
        ({"volumes": {"/a": VOLUME, "/b": VOLUME}}, InvalidError),
        ({"volumes": [VOLUME]}, TypeError),
        ({"network_file_systems": {"/x": 3}}, InvalidError),
        ({"volumes": {"/b": modal.CloudBucketMount("b", key_prefix="x")}}, ValueError),
        ({"volumes": {"/b": modal.CloudBucketMount("b", requester_pays=True)}}, ValueError),
        ({"min_containers": -1}, ValueError),
        ({"min_containers": 1.5}, InvalidError),
        ({"min_containers": True}, TypeError),
        ({"max_containers": -1}, ValueError),
        ({"max_containers": 1.5}, TypeError),
        ({"buffer_containers": -1}, ValueError),
        ({"min_containers": 3, "max_containers": 2}, InvalidError),
        ({"scaledown_window": 1}, InvalidError),
        ({"scaledown_window": 3601}, InvalidError),
        ({"scaledown_window": 2.5}, TypeError),
        ({"retries": -1}, InvalidError),
        ({"retries": True}, TypeError),
        ({"retries": 1.5}, InvalidError),
        ({"timeout": None}, InvalidError),
        ({"region": 3}, TypeError),
        ({"experimental_options": 3}, AttributeError),
        ({"max_inputs": 0}, InvalidError),
        ({"max_inputs": 2}, InvalidError),
        ({"max_inputs": 1.5}, InvalidError),
        ({"mounts": []}, TypeError),
        ({"secret": None}, TypeError),
        ({"keep_alive": 1}, TypeError),
    ],
)
def test_refused(params: dict[str, Any], error: type[Exception]) -> None:
    """A wrong parameter fails where the decorator stands, with Modal's exception type."""
    with pytest.raises(error) as caught:
        declare(**params)

    assert type(caught.value) is error


@pytest.mark.parametrize(
    "params",
    [
        {"env": {"A": None}},
        {"secrets": ["not a secret"]},
        {"gpu": ""},
        {"gpu": []},
        {"gpu": "any"},
        {"gpu": False},
        {"volumes": {"/tmp/x": VOLUME}},
        {"volumes": {"/x/": VOLUME}},
        {"cpu": 0},
        {"cpu": (2, 1)},
        {"memory": (2, 1)},
        {"memory": -5},
        {"min_containers": 3, "max_containers": None},
        {"max_containers": 0},
        {"buffer_containers": 3, "max_containers": 2},
        {"scaledown_window": 2},
        {"scaledown_window": 3600},
        {"timeout": 0},
        {"timeout": 1.5},
        {"name": "a b"},
        {"cloud": "nowhere"},
        {"region": ["a", "b"]},
    ],
)
def test_accepted(params: dict[str, Any]) -> None:
    """What Modal looks at only when an app is loaded passes the decorator."""
    declare(**params)


@pytest.mark.parametrize(
    ("func", "params", "error"),
    [
        (needs, {"schedule": modal.Cron("* * * * *")}, InvalidError),
        (generator, {"retries": 0}, InvalidError),
        (plain, {"retries": 1, "is_generator": True}, InvalidError),
        (modal.fastapi_endpoint()(plain), {"retries": 1}, InvalidError),
        (modal.fastapi_endpoint()(generator), {}, InvalidError),
        (modal.concurrent()(plain), {}, TypeError),
        (modal.batched(max_batch_size=2, wait_ms=1)(plain), {}, InvalidError),
        (modal.batched(max_batch_size=2, wait_ms=1)(generator), {}, InvalidError),
        (modal.clustered(size=2)(plain), {"min_containers": 3}, InvalidError),
        (modal.sessioned()(plain), {}, InvalidError),
        (functools.partial(needs, 1), {}, AttributeError),
        (3, {}, AttributeError),
        (int, {}, TypeError),
    ],
)
def test_refused_functions(func: Any, params: dict[str, Any], error: type[Exception]) -> None:
    """Some functions cannot have some parameters."""
    with pytest.raises(error):
        declare(func, **params)


def test_parentheses_are_needed() -> None:
    """`@app.function` without parentheses is a TypeError."""
    with pytest.raises(TypeError, match="takes 1 positional argument but 2 were given"):
        modal.App().function(plain)  # type: ignore[misc]


def test_nested_functions_and_methods() -> None:
    """What a container could not import is refused, unless it travels by value."""

    def nested() -> None: ...

    class Holder:
        def method(self) -> None: ...

    with pytest.raises(InvalidError, match="serialized=True"):
        declare(nested)
    with pytest.raises(InvalidError, match="method"):
        declare(Holder.method, serialized=True)
    assert declare(nested, serialized=True).tag == "test_nested_functions_and_methods.<locals>.nested"


def test_recorded() -> None:
    """The spec says what the decorator was told."""
    spec = declare(
        cpu=(0.5, 2),
        memory=512,
        gpu=["h100:2", "a100"],
        retries=3,
        timeout=60,
        max_containers=0,
        volumes={"/data/": VOLUME},
        name="other",
        region="eu",
    ).spec

    assert (spec.tag, spec.qualname, spec.module) == ("other", "plain", __name__)
    assert spec.file == __file__
    assert not spec.by_value
    assert (spec.cpu, spec.cpu_limit, spec.memory_mib, spec.memory_limit_mib) == (0.5, 2, 512, None)
    assert spec.gpu == (GpuRequest(type="H100", count=2), GpuRequest(type="A100"))
    assert spec.retries == RetryPolicy(max_retries=3, backoff_coefficient=1.0, initial_delay_s=1.0)
    assert (spec.timeout_s, spec.startup_timeout_s) == (60, None)
    assert (spec.min_containers, spec.max_containers, spec.scaledown_window) == (None, None, None)
    assert [volume.mount_path for volume in spec.volumes] == ["/data"]
    assert spec.region == ("eu",)


@pytest.mark.parametrize(
    ("func", "is_async", "is_generator"),
    [(plain, False, False), (generator, False, True), (coroutine, True, False), (async_generator, True, True)],
)
def test_kinds(func: Any, is_async: bool, is_generator: bool) -> None:
    """Sync and async, function and generator are seen from the definition."""
    spec = declare(func).spec

    assert (spec.is_async, spec.is_generator) == (is_async, is_generator)


def test_decorators_beneath() -> None:
    """Concurrency, batching and web decorators end up in the spec."""
    spec = declare(modal.concurrent(max_inputs=8, target_inputs=4)(modal.fastapi_endpoint(method="POST")(plain))).spec

    assert (spec.max_concurrent_inputs, spec.target_concurrent_inputs) == (8, 4)
    assert spec.webhook is not None
    assert (spec.webhook.kind, spec.webhook.method) == ("function", "POST")
    batching = declare(modal.batched(max_batch_size=5, wait_ms=7)(needs)).spec.batching
    assert (batching.max_batch_size, batching.wait_ms) == (5, 7)


@pytest.mark.parametrize(
    ("decorate", "error"),
    [
        (lambda: modal.concurrent(max_inputs=3, target_inputs=5), InvalidError),
        (lambda: modal.concurrent(max_inputs=3, target_inputs=1.5), InvalidError),  # type: ignore[arg-type]
        (lambda: modal.concurrent(3), TypeError),  # type: ignore[misc]
        (lambda: modal.concurrent(max_inputs=1)(modal.concurrent(max_inputs=1)(plain)), InvalidError),
        (lambda: modal.concurrent(max_inputs=1)(declare()), InvalidError),
        (lambda: modal.concurrent(max_inputs=1)(3), InvalidError),  # type: ignore[call-overload]
        (lambda: modal.batched(), TypeError),  # type: ignore[call-arg]
        (lambda: modal.batched(max_batch_size=0, wait_ms=1), InvalidError),
        (lambda: modal.batched(max_batch_size=1001, wait_ms=1), InvalidError),
        (lambda: modal.batched(max_batch_size=1, wait_ms=-1), InvalidError),
        (lambda: modal.batched(max_batch_size=1, wait_ms=600_001), InvalidError),
        (lambda: modal.batched(max_batch_size=1, wait_ms=1)(modal.fastapi_endpoint()(needs)), InvalidError),
        (lambda: modal.method(plain), TypeError),  # type: ignore[misc]
        (lambda: modal.enter(plain), TypeError),  # type: ignore[misc]
        (lambda: modal.enter()(modal.method()(plain)), InvalidError),
        (lambda: modal.method()(modal.fastapi_endpoint()(plain)), InvalidError),
        (lambda: modal.fastapi_endpoint(label=3), TypeError),  # type: ignore[arg-type]
        (lambda: modal.fastapi_endpoint(custom_domains="x"), AssertionError),
        (lambda: modal.fastapi_endpoint()(modal.asgi_app()(lambda: 1)), InvalidError),
        (lambda: modal.asgi_app()(plain), InvalidError),
        (lambda: modal.asgi_app()(coroutine), InvalidError),
        (lambda: modal.wsgi_app()(needs), InvalidError),
        (lambda: modal.web_server(0), InvalidError),
        (lambda: modal.web_server("8000"), InvalidError),  # type: ignore[arg-type]
        (lambda: modal.web_server(8000, startup_timeout=0), InvalidError),
        (lambda: modal.clustered(size=0), InvalidError),
        (lambda: modal.Retries(max_retries=-1), InvalidError),
        (lambda: modal.Retries(max_retries=1, max_delay=0.5), InvalidError),
        (lambda: modal.Retries(max_retries=1, initial_delay=61), InvalidError),
        (lambda: modal.Retries(max_retries=1, backoff_coefficient=11), InvalidError),
        (lambda: modal.Retries(1), TypeError),  # type: ignore[misc]
        (lambda: modal.Period(hours=1.5), TypeError),  # type: ignore[arg-type]
        (lambda: modal.Function(), InvalidError),
        (lambda: modal.FunctionCall(), InvalidError),
        (lambda: modal.Volume(), InvalidError),
        (lambda: modal.Image(), InvalidError),
    ],
)
def test_refused_by_decorators(decorate: Any, error: type[BaseException]) -> None:
    """Decorators and values refuse what is wrong with Modal's exception types."""
    with pytest.raises(error):
        decorate()


@pytest.mark.parametrize(
    ("params", "error"),
    [
        ({"name": 3}, InvalidError),
        ({"image": 3}, InvalidError),
        ({"secrets": 3}, InvalidError),
        ({"secrets": ["x"]}, InvalidError),
        ({"volumes": 3}, InvalidError),
        ({"volumes": {"/": VOLUME}}, InvalidError),
        ({"tags": {"a b": "c"}}, InvalidError),
        ({"tags": {"a": 1}}, TypeError),
    ],
)
def test_app_refuses(params: dict[str, Any], error: type[Exception]) -> None:
    """The App's own parameters are checked as it is made."""
    with pytest.raises(error):
        modal.App(**params)


def test_app_defaults_reach_functions() -> None:
    """Image, secrets and volumes of the app are every function's; its own come later and win."""
    other = modal.Volume.from_name("other")
    app = modal.App(
        image=modal.Image.debian_slim().env({"A": "image", "B": "image", "C": "image", "D": "image"}),
        secrets=[modal.Secret.from_dict({"B": "app", "C": "app", "D": "app"})],
        volumes={"/a": VOLUME},
    )

    spec = app.function(
        secrets=[modal.Secret.from_dict({"C": "own", "D": "own"})], env={"D": "env"}, volumes={"/a": other}
    )(plain).spec

    assert spec_env(spec) == {"A": "image", "B": "app", "C": "own", "D": "env"}
    assert [volume.name for volume in spec.volumes] == ["other"]


def test_names_that_collide(caplog: pytest.LogCaptureFixture) -> None:
    """Of two functions with one tag the later counts, with a warning; the same one again is silent."""
    app = modal.App("x")
    app.function()(plain)
    app.function()(plain)
    assert not caplog.records

    later = app.function(name="plain")(needs)

    assert app._functions["plain"] is later
    assert "plain" in caplog.text


def test_include() -> None:
    """Functions of another app belong to both; tags merge and the app's own win."""
    one, two = modal.App("one", tags={"a": "1"}), modal.App("two", tags={"a": "2", "b": "2"})
    function = two.function()(plain)

    assert one.include(two) is one
    assert one._functions["plain"] is function
    assert function.app is two
    assert one._tags == {"a": "1", "b": "2"}


def test_local_entrypoints() -> None:
    """An entrypoint is called like the function; two of one name are refused."""
    app = modal.App()
    entrypoint = app.local_entrypoint()(needs)

    assert entrypoint(5) == 5
    assert (entrypoint.app, entrypoint.info.raw_f) == (app, needs)
    with pytest.raises(InvalidError):
        app.local_entrypoint()(needs)
    with pytest.raises(InvalidError):
        app.local_entrypoint(name=3)  # type: ignore[arg-type]


class TestOldNames:
    def test_lenient(self) -> None:
        """Names of older releases are moved to today's parameters, with one warning for all of them."""
        with pytest.warns(DeprecationError) as caught:
            function = declare(keep_warm=1, concurrency_limit=5, container_idle_timeout=1, allow_concurrent_inputs=7)

        assert len(caught) == 1
        assert caught[0].filename == __file__
        for today in ("min_containers", "max_containers", "scaledown_window", "modal.concurrent"):
            assert today in str(caught[0].message)
        spec = function.spec
        assert (spec.min_containers, spec.max_containers, spec.scaledown_window) == (1, 5, 2)
        assert spec.max_concurrent_inputs == 7

    def test_the_buffer_when_it_was_an_experiment(self) -> None:
        """Of releases up to 1.2; today's has no such name."""
        with pytest.warns(DeprecationError, match="buffer_containers="):
            assert declare(_experimental_buffer_containers=2).spec.buffer_containers == 2

    def test_names_that_never_were(self) -> None:
        """`max_concurrent_inputs` and `target_concurrent_inputs` are understood too."""
        with pytest.warns(DeprecationError, match=r"modal\.concurrent"):
            spec = declare(max_concurrent_inputs=8, target_concurrent_inputs=4).spec

        assert (spec.max_concurrent_inputs, spec.target_concurrent_inputs) == (8, 4)

    @pytest.mark.parametrize(
        ("name", "error"),
        [
            ("keep_warm", DeprecationError),
            ("concurrency_limit", DeprecationError),
            ("container_idle_timeout", DeprecationError),
            ("allow_concurrent_inputs", DeprecationError),
            ("_experimental_buffer_containers", TypeError),
            ("max_concurrent_inputs", TypeError),
            ("target_concurrent_inputs", TypeError),
        ],
    )
    def test_strict(self, strict: None, name: str, error: type[BaseException]) -> None:
        """Strict mode gives the errors of 1.6.4."""
        with pytest.raises(error):
            declare(**{name: 3})

    def test_both_spellings(self) -> None:
        """The old and the new name together are refused: one of them would be dropped."""
        with pytest.raises(TypeError, match="min_containers"):
            declare(keep_warm=1, min_containers=2)

    def test_max_inputs(self) -> None:
        """`max_inputs=1` is single_use_containers, with a warning."""
        with pytest.warns(DeprecationError, match="single_use_containers") as caught:
            assert declare(max_inputs=1).spec.single_use_containers
        assert caught[0].filename == __file__

    def test_stub_and_gpu(self) -> None:
        """`modal.Stub` is App, and GPU objects say what the strings say."""
        with pytest.warns(DeprecationError):
            assert modal.Stub is modal.App  # type: ignore[attr-defined]
        with pytest.warns(DeprecationError):
            old = modal.gpu  # type: ignore[attr-defined]
        assert [str(g) for g in declare(gpu=old.A100(count=2)).spec.gpu] == ["A100:2"]
        assert [str(g) for g in declare(gpu=old.A100(size="80GB")).spec.gpu] == ["A100-80GB"]

    def test_stub_strict(self, strict: None) -> None:
        """Strict mode has no Stub and no gpu."""
        assert not hasattr(modal, "Stub")
        assert not hasattr(modal, "gpu")

    def test_app_image(self) -> None:
        """`app.image` is still readable."""
        image = modal.Image.debian_slim()
        with pytest.warns(DeprecationError):
            assert modal.App(image=image).image is image  # type: ignore[attr-defined]

    def test_build(self) -> None:
        """`@modal.build` becomes a first enter hook, and a method that is both runs once."""
        with pytest.warns(DeprecationError, match="run_function"):
            build = modal.build  # type: ignore[attr-defined]
        body = {
            "__module__": __name__,
            "__qualname__": "C",
            "load": modal.enter()(lambda self: None),
            "fetch": build()(lambda self: None),
            "both": build()(modal.enter()(lambda self: None)),
        }
        spec = modal.App().cls()(type("C", (), body))._spec  # type: ignore[attr-defined]
        assert [(hook.name, hook.snap) for hook in spec.hooks] == [("load", False), ("fetch", True), ("both", False)]

    def test_web_endpoint(self) -> None:
        """The former name of fastapi_endpoint is understood."""
        with pytest.warns(DeprecationError, match="fastapi_endpoint"):
            partial = modal.web_endpoint(method="POST")(plain)
        assert declare(partial).spec.webhook.method == "POST"

    def test_lookup(self) -> None:
        """`.lookup` is `.from_name`."""
        with pytest.warns(DeprecationError, match="from_name"):
            found = modal.Function.lookup("app", "f")
        assert repr(found) == "modal.Function.from_name('app', 'f')"


def test_signature_is_modals() -> None:
    """The parameters for old names do not show."""
    parameters = inspect.signature(modal.App.function).parameters

    assert len(parameters) == 1 + 34
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())


def test_values_that_have_no_effect() -> None:
    """A float memory= and a string cpu= have no effect, as in Modal, but not silently."""
    with pytest.warns(UserWarning, match="memory=1.5"):
        assert declare(memory=1.5).spec.memory_mib is None
    with pytest.warns(UserWarning, match="cpu='1'"):
        assert declare(cpu="1").spec.cpu is None


def test_silent_otherwise() -> None:
    """A program of today warns about nothing as it is declared."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        declare(cpu=1, memory=128, retries=2, min_containers=1, volumes={"/v": VOLUME}, region="eu")
