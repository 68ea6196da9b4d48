"""`modal.Secret` with a name: the handle, `Secret.objects`, and what a run gets."""

from __future__ import annotations

import pickle
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import raymodal as modal
from raymodal import config
from raymodal import secret as secrets
from raymodal.container import context
from raymodal.exception import AlreadyExistsError, DeprecationError, InvalidError, NotFoundError
from raymodal.plan.cls import variant_request
from raymodal.plan.pool import ContainerPlan, PoolRequest, as_recorded
from raymodal.spec.cls import ClsSpec
from raymodal.spec.function import FunctionSpec
from raymodal.spec.image import ImageSpec
from raymodal.spec.storage import SecretSpec
from raymodal.state.secrets import NamedSecrets
from tests.unit.surface.fake_engine import FakeEngine

NEEDLE = "needle-in-a-haystack"
Secret = modal.Secret


def plain() -> None: ...


def values(name: str, environment_name: str | None = None) -> dict[str, str]:
    return secrets.resolve(Secret.from_name(name, environment_name=environment_name)._spec).values


class TestObjects:
    def test_life(self) -> None:
        """Made, found, changed, listed, deleted."""
        Secret.objects.create("db", {"USER": "ann", "PASSWORD": "1"})
        secret = Secret.from_name("db", required_keys=["USER"])
        secret.update({"PASSWORD": "2", "HOST": "h"})

        assert values("db") == {"USER": "ann", "PASSWORD": "2", "HOST": "h"}
        assert secret.object_id.startswith("st-")
        assert [(one.name, one.object_id) for one in Secret.objects.list()] == [("db", secret.object_id)]
        Secret.objects.delete("db")
        assert Secret.objects.list() == []
        for use in (secret.info, lambda: secret.update({"A": "1"}), lambda: Secret.from_name("db").hydrate()):
            with pytest.raises(NotFoundError):
                use()

    async def test_aio(self) -> None:
        """The same by `.aio`."""
        await Secret.objects.create.aio("db", {"A": "1"})
        secret = await Secret.from_name("db").hydrate.aio()
        await secret.update.aio({"B": "2"})

        assert (await secret.info.aio()).name == "db"
        assert [one.name for one in await Secret.objects.list.aio()] == ["db"]
        await Secret.objects.delete.aio("db")
        await Secret.objects.delete.aio("db", allow_missing=True)

    def test_existing(self) -> None:
        """An error, unless allowed; then it stays as it is."""
        Secret.objects.create("db", {"A": "1"})
        with pytest.raises(AlreadyExistsError, match=r"secret update db .*secret create --force db"):
            Secret.objects.create("db", {"A": "2"})
        Secret.objects.create("db", {"A": "2"}, allow_existing=True)
        assert values("db") == {"A": "1"}
        with pytest.warns(DeprecationError, match="objects.create"):
            assert Secret.create_deployed("db", {"A": "3"}, overwrite=True).startswith("st-")
        assert values("db") == {"A": "3"}

    def test_list(self) -> None:
        """Newest first, at most so many, older than a time."""
        for name in ("a", "b", "c"):
            Secret.objects.create(name, {})
        later = datetime.now(UTC) + timedelta(days=1)

        def names(**options: Any) -> list[str | None]:
            return [one.name for one in Secret.objects.list(**options)]

        assert names() == ["c", "b", "a"]
        assert names(max_objects=2) == ["c", "b"]
        assert names(max_objects=0) == []
        assert names(created_before=later) == ["c", "b", "a"]
        assert names(created_before="2020-01-01") == []
        with pytest.raises(InvalidError):
            names(max_objects=-1)
        with pytest.raises(InvalidError, match="ISO"):
            names(created_before="soon")

    def test_environments(self) -> None:
        """Names of one are not found in another."""
        Secret.objects.create("db", {"A": "main"})
        Secret.objects.create("db", {"A": "dev"}, environment_name="dev")

        assert (values("db"), values("db", "dev")) == ({"A": "main"}, {"A": "dev"})
        (found,) = Secret.objects.list(environment_name="dev")
        assert repr(found) == "modal.Secret.from_name('db', environment_name='dev')"
        assert found.info().environment_name == "dev"
        Secret.objects.delete("db", environment_name="dev")
        assert values("db") == {"A": "main"}

    @pytest.mark.parametrize(
        ("name", "env_dict"),
        [
            ("a b", {}),
            ("x" * 65, {}),
            ("db", {"A": None}),
            ("db", {"A": 1}),
            ("db", {1: "A"}),
            ("db", ["A"]),
            ("db", {"": NEEDLE}),
            ("db", {"A=B": NEEDLE}),
            ("db", {"A": NEEDLE + "\0"}),
        ],
    )
    def test_refused(self, name: str, env_dict: Any) -> None:
        """Before anything is kept, and without showing a value."""
        with pytest.raises(InvalidError) as caught:
            Secret.objects.create(name, env_dict)
        assert NEEDLE not in str(caught.value)
        assert Secret.objects.list() == []

    def test_info(self) -> None:
        """Creation and last use: a run counts, a look does not."""
        Secret.objects.create("db", {"A": "1"})
        secret = Secret.from_name("db").hydrate()
        info = secret.info()
        assert (info.name, info.environment_name, info.last_used) == ("db", "main", None)
        assert abs((datetime.now(UTC) - info.created_at).total_seconds()) < 60

        values("db")

        used = secret.info(refresh=True).last_used
        assert used is not None
        assert used >= info.created_at


class TestHandles:
    def test_from_name(self) -> None:
        """Lazy: no name is checked, nothing is looked up; Modal's repr."""
        secret = Secret.from_name("a b")
        assert (repr(secret), secret.name) == ("modal.Secret.from_name('a b')", "a b")
        assert repr(pickle.loads(pickle.dumps(secret))) == repr(secret)
        assert not config.settings().home.exists()

    def test_anonymous(self) -> None:
        """They have an id and no name, and cannot be changed."""
        secret = Secret.from_dict({"A": NEEDLE})
        info = secret.info()
        assert secret.object_id.startswith("st-")
        assert (info.name, info.last_used) == (None, None)
        with pytest.raises(InvalidError, match="has no name") as caught:
            secret.update({"B": "1"})
        assert NEEDLE not in str(caught.value)

    def test_update_refuses(self) -> None:
        """What is no `dict[str, str]`."""
        Secret.objects.create("db", {"A": "1"})
        for wrong in ({"A": None}, {"A": 1}, "A=1", {"": "x"}):
            with pytest.raises(InvalidError):
                Secret.from_name("db").update(wrong)  # type: ignore[arg-type]

    def test_missing(self) -> None:
        """What to do is in the message, also for keys."""
        with pytest.raises(NotFoundError, match="`raymodal secret create db KEY=VALUE`"):
            Secret.from_name("db").hydrate()
        Secret.objects.create("db", {"A": NEEDLE})
        with pytest.raises(
            NotFoundError, match=r"'db' lacks 'B', 'C'; it has 'A'.*`raymodal secret update db B=- C=-`"
        ) as caught:
            Secret.from_name("db", required_keys=["A", "B", "C"]).hydrate()
        assert NEEDLE not in "".join(traceback.format_exception(caught.value))


class TestRuns:
    def test_the_plan_has_the_values(self, engine: FakeEngine) -> None:
        """Of every function that names the secret, the app's too."""
        Secret.objects.create("db", {"A": NEEDLE})
        app = modal.App(secrets=[Secret.from_name("db")])
        app.function()(plain)
        with app.run():
            assert engine.plan.functions["plain"].spec.secrets[0].values == {"A": NEEDLE}
            assert NEEDLE not in repr(engine.plan)

    def test_looked_up_once(self, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        """So that all functions of a run see the same."""
        Secret.objects.create("db", {"A": "1"})
        looked: list[str] = []
        find = NamedSecrets.find
        monkeypatch.setattr(
            NamedSecrets, "find", lambda self, name, *rest: looked.append(name) or find(self, name, *rest)
        )
        app = modal.App(secrets=[Secret.from_name("db")])
        for name in ("one", "two", "three"):
            app.function(name=name, secrets=[Secret.from_name("db")], serialized=True)(lambda: None)
        with app.run():
            assert looked == ["db"]
        with app.run():
            assert looked == ["db", "db"]

    @pytest.mark.parametrize("keys", [[], ["B"]])
    def test_a_run_without_it_does_not_begin(self, engine: FakeEngine, keys: list[str]) -> None:
        """The error comes before anything is started, and the app can run once it is mended."""
        if keys:
            Secret.objects.create("db", {"A": "1"})
        app = modal.App()
        app.function(secrets=[Secret.from_name("db", required_keys=keys)])(plain)
        with pytest.raises(NotFoundError, match="'db'"), app.run():
            raise AssertionError
        if keys:
            Secret.from_name("db").update({"B": "2"})
        else:
            Secret.objects.create("db", {})
        with app.run():
            pass

    def test_all_that_is_missing(self, engine: FakeEngine) -> None:
        """One error, with a line for each secret however many functions use it."""
        Secret.objects.create("db", {"A": NEEDLE})
        app = modal.App(secrets=[Secret.from_name("gone"), Secret.from_name("db", required_keys=["B"])])
        app.function(secrets=[Secret.from_name("lost")])(plain)
        app.function(name="other", serialized=True)(lambda: None)
        with pytest.raises(NotFoundError) as caught, app.run():
            raise AssertionError
        assert [line.partition(".")[0] for line in str(caught.value).splitlines()] == [
            "Secret 'gone' does not exist",
            "Secret 'db' lacks 'B'; it has 'A'",
            "Secret 'lost' does not exist",
        ]

    def test_no_digest_of_values(self) -> None:
        """The pools of a function with further secrets are told apart by revisions: their names are shown."""

        def pool(value: str, revision: str | None) -> str:
            secret = SecretSpec(kind="literal", values={"PIN": value}, revision=revision)
            request = variant_request("f", {"secrets": (secret,)})
            assert request is not None
            return request.tag

        assert pool("1", "r1") == pool("2", "r1") != pool("1", "r2")
        assert pool("1", None) != pool("2", None)
        Secret.objects.create("db", {"PIN": "1"})
        assert secrets.resolve(Secret.from_name("db")._spec).revision is not None

    def test_in_a_container(self, tmp_path: Path) -> None:
        """The node's own folder is looked at, and none is made; the message says where it looked."""
        context.set_current(context.ContainerContext("ap-1", None, "ta-1", "f"))
        try:
            for use in (lambda: Secret.from_name("db").hydrate(), lambda: Secret.objects.create("db", {})):
                with pytest.raises(NotFoundError, match="RAYMODAL_HOME"):
                    use()
            assert not config.settings().home.exists()
            config.settings().home.mkdir()
            with pytest.raises(NotFoundError, match=r"`raymodal secret create db .*its own node's"):
                Secret.from_name("db").hydrate()
            Secret.objects.create("db", {"A": "1"})
            assert values("db") == {"A": "1"}
        finally:
            context.set_current(None)


class TestNothingTells:
    """A value is in no repr and in no error of what carries it."""

    SECRET = SecretSpec(kind="literal", values={"A": NEEDLE})

    def spec(self, image: ImageSpec | None = None) -> FunctionSpec:
        return FunctionSpec(tag="f", module="m", qualname="f", secrets=(self.SECRET,), env={"B": NEEDLE}, image=image)

    def plan(self, image: ImageSpec | None = None) -> ContainerPlan:
        spec = self.spec(image)
        changes = {"secrets": spec.secrets, "env": spec.env, "timeout_s": 5.0}
        return ContainerPlan(
            "ap-1", "app", "ta-1", spec, NEEDLE.encode(), {"A": NEEDLE, "B": NEEDLE}, "", (), None, {},
            cls=ClsSpec(tag="C", service=spec, methods=(), parameters=()),
            request=PoolRequest("f#1", "f", NEEDLE.encode(), changes),
        )  # fmt: skip

    def test_reprs(self) -> None:
        """Of specs, plans and handles."""
        things = (self.SECRET, self.spec(), self.plan(), Secret.from_dict({"A": NEEDLE}))
        assert [type(thing) for thing in things if NEEDLE in repr(thing)] == []
        assert "'A'" in repr(things[-1])

    def test_what_the_cluster_records(self) -> None:
        """The plan of an actor's constructor, as bytes; everything else is as it was."""
        plan = self.plan(modal.Image.debian_slim().env({"C": NEEDLE})._spec)
        recorded = as_recorded(plan)

        assert NEEDLE.encode() in pickle.dumps(plan)
        assert NEEDLE.encode() not in pickle.dumps(recorded)
        assert recorded.request is not None
        assert (recorded.request.tag, recorded.spec.tag, recorded.container_id) == ("f#1", "f", "ta-1")

    @pytest.mark.parametrize(
        "make",
        [
            lambda: SecretSpec(kind="literal", values={"A": [NEEDLE]}),  # type: ignore[dict-item]
            lambda: SecretSpec(kind="literal", values=NEEDLE),  # type: ignore[arg-type]
            lambda: SecretSpec(kind="named", name=NEEDLE.encode() + b"\xff"),  # type: ignore[arg-type]
        ],
    )
    def test_what_does_not_fit(self, make: Callable[[], Any]) -> None:
        """A validation error usually shows what it was given."""
        with pytest.raises(ValidationError) as caught:
            make()
        assert NEEDLE not in "".join(traceback.format_exception(caught.value))
