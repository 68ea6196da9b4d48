"""Named secrets at rest: what goes in comes out, only with the right key, and nowhere in plain."""

from __future__ import annotations

import itertools
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy import update

from raymodal.exception import AlreadyExistsError, DataLossError, NotFoundError, PermissionDeniedError
from raymodal.state import vault
from raymodal.state.database import Database
from raymodal.state.schema import secrets as table
from raymodal.state.secrets import NamedSecrets
from raymodal.state.vault import Vault

NEEDLE = "needle-in-a-haystack"


def named(home: Path) -> NamedSecrets:
    numbers = itertools.count(1)
    return NamedSecrets(Database(home), lambda: f"st-{os.getpid()}-{next(numbers)}")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def kept(home: Path) -> NamedSecrets:
    """Secrets, of which there is one."""
    found = named(home)
    found.create("db", {"PASSWORD": NEEDLE, "USER": "ann"}, "main", now=100.0, user="me")
    return found


def test_nothing_is_in_plain(kept: NamedSecrets, home: Path) -> None:
    """Neither values nor names of variables, in any file, also while it is written; only the owner can read the key."""
    with Database(home).writing() as connection:
        connection.exec_driver_sql("UPDATE secrets SET created_by = 'x'")
        files = {path.name: path.read_bytes() for path in home.iterdir()}
    kept.update("st-" + str(os.getpid()) + "-1", {"PASSWORD": NEEDLE + NEEDLE})
    files |= {path.name + "2": path.read_bytes() for path in home.iterdir()}

    assert [name for name, data in files.items() if NEEDLE.encode() in data or b"PASSWORD" in data] == []
    assert any(b"db" in data for data in files.values())  # the test looks at the right files
    assert stat.S_IMODE((home / "secret.key").stat().st_mode) == 0o600


def test_no_repr_tells(kept: NamedSecrets, home: Path) -> None:
    """Of the key, or of who has it."""
    key = (home / "secret.key").read_text().strip()
    loaded = vault.load(home)

    assert not any(key in repr(thing) or NEEDLE in repr(thing) for thing in (kept, loaded, kept.list("main")))


@given(
    values=st.dictionaries(st.text(), st.text()),
    place=st.text(),
    other=st.text(),
    flip=st.integers(min_value=0),
)
def test_sealing(values: dict[str, str], place: str, other: str, flip: int) -> None:
    """It opens at its place, and nowhere else, and not with one bit changed; the same values look different every time."""
    key = Vault(bytes(range(32)), Path("k"))
    place, other = place.encode("utf-8", "replace").decode(), other.encode("utf-8", "replace").decode()
    sealed = key.seal(values, place)

    assert key.open(sealed, place) == values
    assert key.seal(values, place) != sealed
    changed = bytearray(sealed)
    changed[flip // 8 % len(sealed)] ^= 1 << flip % 8
    for data, where in ((bytes(changed), place), (sealed[: flip % len(sealed)], place), (sealed, other + "x" + place)):
        with pytest.raises(DataLossError) as caught:
            key.open(data, where)
        assert caught.value.__cause__ is None


# --- the key file


def read(kept: NamedSecrets) -> Any:
    return kept.find("db", "main").values["PASSWORD"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_key_that_others_can_use(kept: NamedSecrets, home: Path, mode: int) -> None:
    """Refused, for reading and writing, with the command that mends it."""
    (home / "secret.key").chmod(mode)
    for use in (lambda: read(kept), lambda: kept.create("other", {}, "main", now=1.0)):
        with pytest.raises(PermissionDeniedError, match=rf"mode is {mode:04o}.*chmod 600 .*secret\.key"):
            use()
    (home / "secret.key").chmod(0o600)

    assert read(kept) == NEEDLE
    assert [facts.name for facts in kept.list("main")] == ["db"]


def other_key(home: Path) -> None:
    (home / "secret.key").unlink()
    vault.make(home)


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (other_key, "is another key than the one"),
        (lambda home: (home / "secret.key").unlink(), "is missing"),
        (lambda home: (home / "secret.key").write_text("no key"), "holds no key"),
        (lambda home: (home / "secret.key").write_bytes(b"\xff" * 50), "holds no key"),
    ],
)
def test_not_the_right_key(kept: NamedSecrets, home: Path, harm: Callable[[Path], None], text: str) -> None:
    """Neither is anything read, nor is a second key mixed in; what was sealed stays, for when the key comes back."""
    right = (home / "secret.key").read_bytes()
    harm(home)
    wrong = (home / "secret.key").read_bytes() if (home / "secret.key").exists() else None
    for use in (
        lambda: read(kept),
        lambda: kept.create("other", {"A": "1"}, "main", now=1.0),
        lambda: kept.update(kept.list("main")[0].object_id, {"A": "1"}),
    ):
        with pytest.raises(DataLossError, match=text):
            use()
    assert wrong == ((home / "secret.key").read_bytes() if (home / "secret.key").exists() else None)
    (home / "secret.key").write_bytes(right)
    (home / "secret.key").chmod(0o600)

    assert read(kept) == NEEDLE


def test_the_way_out_of_a_lost_key(kept: NamedSecrets, home: Path) -> None:
    """The message's: delete, create again. The last one may also be replaced at once."""
    (home / "secret.key").unlink()
    kept.delete("db", "main")
    kept.create("db", {"PASSWORD": "new"}, "main", now=1.0)
    assert read(kept) == "new"

    (home / "secret.key").unlink()
    kept.create("db", {"PASSWORD": "newer"}, "main", if_exists="replace", now=1.0)
    assert read(kept) == "newer"


def test_values_belong_to_their_row(kept: NamedSecrets, home: Path) -> None:
    """Whoever can write the file cannot pass one secret off as another."""
    kept.create("harmless", {"PASSWORD": "x"}, "main", now=1.0)
    with Database(home).writing() as connection:
        sealed = dict(connection.execute(table.select().with_only_columns(table.c.name, table.c.sealed)).all())
        connection.execute(update(table).where(table.c.name == "harmless").values(sealed=sealed["db"]))

    with pytest.raises(DataLossError, match="cannot be decrypted"):
        kept.find("harmless", "main")


def test_interrupted_while_the_key_is_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no key and no secret then, and the next attempt makes both."""
    monkeypatch.setattr(os, "fsync", lambda fd: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        named(home).create("db", {"PASSWORD": NEEDLE}, "main", now=1.0)
    assert not [path for path in home.iterdir() if "key" in path.name]
    monkeypatch.undo()

    assert named(home).list("main") == []
    named(home).create("db", {"PASSWORD": NEEDLE}, "main", now=1.0)
    assert read(named(home)) == NEEDLE


def test_processes_agree_on_the_key(home: Path) -> None:
    """Where nothing is there yet, each may be the one that makes it; all secrets open afterwards, of equal names one is kept."""
    code = (
        "import sys\nfrom pathlib import Path\nfrom tests.unit.state.test_secrets import named\n"
        "from raymodal.exception import AlreadyExistsError\n"
        f"kept = named(Path({str(home)!r}))\nsys.stdin.readline()\n"
        "for n in range(5): kept.create(f'{sys.argv[1]}-{n}', {'A': sys.argv[1]}, 'main', now=1.0)\n"
        "try: kept.create('same', {'A': sys.argv[1]}, 'main', now=1.0); print('won')\n"
        "except AlreadyExistsError: pass\n"
    )
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", code]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environ}
    started = [subprocess.Popen([*command, str(n)], **pipes) for n in range(4)]
    printed = [one.communicate("go\n", timeout=60)[0] for one in started]
    kept = named(home)

    assert [one.returncode for one in started] == [0] * 4
    winner = printed.index("won\n")
    assert printed.count("won\n") == 1
    assert kept.find("same", "main").values == {"A": str(winner)}
    assert all(kept.find(f"{p}-{n}", "main").values == {"A": str(p)} for p in range(4) for n in range(5))
    assert {path.name for path in home.iterdir()} <= {"state.db", "state.db-wal", "state.db-shm", "secret.key"}


# --- the collection


def test_missing_keys(kept: NamedSecrets) -> None:
    """One error that names the secret, what it lacks, what it has, and the command; without values."""
    with pytest.raises(NotFoundError) as caught:
        kept.find("db", "main", ("USER", "HOST", "PORT"))

    assert str(caught.value) == (
        "Secret 'db' lacks 'HOST', 'PORT'; it has 'PASSWORD', 'USER'. "
        "Add what is missing: `raymodal secret update db HOST=- PORT=-` asks for the values."
    )


def test_revisions(kept: NamedSecrets) -> None:
    """They tell contents apart, and say nothing: equal contents that were written twice have different ones."""
    first = kept.find("db", "main")
    assert kept.find("db", "main") == first
    kept.create("db", first.values, "main", if_exists="replace", now=1.0)
    again = kept.find("db", "main")

    assert again.values == first.values
    assert again.revision != first.revision


def test_missing_secret(kept: NamedSecrets) -> None:
    """The error names the command, and what there is."""
    with pytest.raises(
        NotFoundError, match=r"'bd' does not exist\. .*`raymodal secret create bd KEY=VALUE`\. There are 'db'"
    ):
        kept.find("bd", "main")
    with pytest.raises(NotFoundError, match=r"`raymodal secret create --env dev db KEY=VALUE`\.$"):
        kept.find("db", "dev")


def test_reading_makes_no_file(home: Path) -> None:
    """Whoever has no secrets has no database either."""
    kept = named(home)
    assert kept.list("main") == []
    for use in (
        lambda: kept.find("x", "main"),
        lambda: kept.delete("x", "main"),
        lambda: kept.facts("st-1"),
        lambda: kept.update("st-1", {}),
    ):
        with pytest.raises(NotFoundError):
            use()
    kept.delete("x", "main", allow_missing=True)

    assert not home.exists()


class Model(RuleBasedStateMachine):
    """Against a dictionary."""

    names = st.sampled_from(["a", "b", "c"])
    environments = st.sampled_from(["main", "dev"])
    values = st.dictionaries(st.sampled_from(["K", "L", "M"]), st.text(max_size=5))

    def __init__(self) -> None:
        super().__init__()
        import tempfile

        self.folder = tempfile.TemporaryDirectory()
        self.kept = named(Path(self.folder.name))
        self.model: dict[tuple[str, str], dict[str, str]] = {}
        self.created: list[tuple[str, str]] = []  # in order
        self.now = 0.0

    def teardown(self) -> None:
        self.folder.cleanup()

    @rule(name=names, environment=environments, values=values, if_exists=st.sampled_from(["fail", "keep", "replace"]))
    def create(self, name: str, environment: str, values: dict[str, str], if_exists: str) -> None:
        self.now += 1
        key = environment, name
        if key in self.model and if_exists == "fail":
            with pytest.raises(AlreadyExistsError):
                self.kept.create(name, values, environment, if_exists=if_exists, now=self.now)
            return
        self.kept.create(name, values, environment, if_exists=if_exists, now=self.now)
        if key not in self.model:
            self.created.append(key)
        if key not in self.model or if_exists == "replace":
            self.model[key] = dict(values)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), values=values)
    def change(self, data: st.DataObject, values: dict[str, str]) -> None:
        environment, name = data.draw(st.sampled_from(sorted(self.model)))
        self.kept.update(self.kept.find(name, environment).facts.object_id, values)
        self.model[environment, name].update(values)

    @rule(name=names, environment=environments)
    def delete(self, name: str, environment: str) -> None:
        if (environment, name) not in self.model:
            with pytest.raises(NotFoundError):
                self.kept.delete(name, environment)
            return
        facts = self.kept.find(name, environment).facts
        self.kept.delete(name, environment)
        del self.model[environment, name]
        self.created.remove((environment, name))
        with pytest.raises(NotFoundError):
            self.kept.facts(facts.object_id)

    @invariant()
    def same(self) -> None:
        for environment in ("main", "dev"):
            expected = [name for where, name in reversed(self.created) if where == environment]
            assert self.kept.names(environment) == expected
            assert [f.name for f in self.kept.list(environment, max_objects=1)] == expected[:1]
        for (environment, name), values in self.model.items():
            facts, found, _ = self.kept.find(name, environment)
            assert found == values
            assert self.kept.facts(facts.object_id) == facts


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=15, stateful_step_count=12, deadline=None)
