"""A secret's value is in its containers, and nowhere that others look."""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

import raymodal as modal
from raymodal import config
from tests.ray.processes import Shell

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]

# What it finds is printed; the value itself comes from the store and is never an argument, a file or a result.
PROGRAM = """
import glob
import hashlib
import json
import os
import re

import modal

app = modal.App("leaks")
named = modal.Secret.from_name("db", required_keys=["TOKEN"])


def digest(value):
    return hashlib.sha256(value.encode()).hexdigest()


@app.function(secrets=[named], max_containers=1)
def f():
    with open("/proc/self/environ", "rb") as file:
        assert os.environ["TOKEN"].encode() not in file.read()
    return digest(os.environ["TOKEN"])


@app.cls(secrets=[named], max_containers=1)
class C:
    @modal.method()
    def f(self):
        return digest(os.environ["TOKEN"])


@app.function(max_containers=1)
def plain(what="TOKEN"):
    return digest(os.environ[what]) if what in os.environ else None


@app.function(max_containers=1)
def asks():
    modal.Secret.objects.create("made-there", {"MADE": "there"})
    variant = plain.with_options(secrets=[modal.Secret.from_name("made-there")])
    try:
        plain.with_options(secrets=[modal.Secret.from_name("nowhere")]).remote()
    except modal.exception.NotFoundError as error:
        return variant.remote("MADE"), str(error)


if modal.is_local():  # a value that only the driver has, in a handle that travels by value
    from raymodal.secret import resolve

    literal = modal.Secret.from_dict(resolve(named._spec).values)
else:
    literal = modal.Secret.from_dict({})


@app.function(secrets=[literal], max_containers=1)
def has_literal():
    return digest(os.environ["TOKEN"])


@app.function(serialized=True, max_containers=1)
def by_value():
    return has_literal.remote()


@app.function(secrets=[named])
def fails():
    token = os.environ["TOKEN"]
    raise ValueError("no token of %d characters" % len(token))


def files_with(folder, needle):
    found = []
    for path in glob.glob(folder + "/**", recursive=True, include_hidden=True):
        if os.path.isfile(path):
            with open(path, "rb") as file:
                if needle in file.read():
                    found.append(path)
    return found


def processes_with(needle):
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ"):
        try:
            with open(path, "rb") as file:
                if needle in file.read():
                    found.append(path)
        except OSError:
            pass
    return found


def records_with(needle):
    "How often it is in the memory of the process that keeps Ray's records of this cluster."
    count = 0
    session = os.path.basename(session_folder()).encode()
    for folder in glob.glob("/proc/[0-9]*"):
        try:
            with open(folder + "/cmdline", "rb") as file:
                command = file.read()
            if b"gcs_server" not in command.split(b"\\0")[0] or session not in command:
                continue
            with open(folder + "/maps") as maps, open(folder + "/mem", "rb", 0) as memory:
                for line in maps:
                    start, end, mode, name = re.match(r"(\\w+)-(\\w+) (\\S+) \\S+ \\S+ \\S+ *(.*)", line).groups()
                    size = int(end, 16) - int(start, 16)
                    if mode.startswith("rw") and name[:2] != "[v" and size < 1 << 29:
                        memory.seek(int(start, 16))
                        count += memory.read(size).count(needle)
        except OSError:
            pass
    return count


def session_folder():
    import ray

    return ray._private.worker.global_worker.node.get_session_dir_path()


@app.local_entrypoint()
def main():
    variant = plain.with_options(secrets=[named])
    digests = [f.remote(), C().f.remote(), variant.remote(), by_value.remote()]
    alone = plain.remote()
    asked = asks.remote()
    needle = resolve(named._spec).values["TOKEN"].encode()
    print("FOUND", json.dumps({
        "digests": digests,
        "alone": alone,
        "asked": asked,
        "home": files_with(os.environ["RAYMODAL_HOME"], needle),
        "session": files_with(session_folder(), needle),
        "session control": len(files_with(session_folder(), b"raylet")),
        "processes": processes_with(needle),
        "processes control": len(processes_with(b"RAYMODAL_HOME")),
        "records": records_with(needle),
        "records control": records_with(app.app_id.encode()),
    }))
    fails.remote()
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    before = config.settings().home
    config.override(home=tmp_path / "home")
    yield tmp_path / "home"
    config.override(home=before)


def test_where_a_value_is(home: Path, tmp_path: Path) -> None:
    """In no file, command line, environment at start, record of Ray, output or traceback; in a container that asks for one,
    named secrets are found and made too.
    """
    value = "needle" + secrets.token_hex(12)
    modal.Secret.objects.create("db", {"TOKEN": value})
    shell = Shell(tmp_path, home)
    shell.write("leaks.py", PROGRAM)

    done = shell.raymodal("run", "leaks.py", RAYMODAL_TRACEBACK="1")

    assert done.code == 1
    assert "ValueError: no token of 30 characters" in done.err
    assert value not in done.out + done.err
    (line,) = (line for line in done.out.splitlines() if line.startswith("FOUND "))
    found = json.loads(line.removeprefix("FOUND "))
    assert found["digests"] == [hashlib.sha256(value.encode()).hexdigest()] * 4
    assert found["alone"] is None
    assert found["asked"][0] == hashlib.sha256(b"there").hexdigest()
    assert "`raymodal secret create nowhere KEY=VALUE`" in found["asked"][1]
    assert (found["home"], found["session"], found["processes"], found["records"]) == ([], [], [], 0)
    # The search finds what is there.
    assert found["session control"] > 0
    assert found["processes control"] > 1
    assert found["records control"] > 0
    assert [one.name for one in modal.Secret.objects.list()] == ["made-there", "db"]
