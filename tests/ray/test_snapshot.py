"""Memory snapshots: containers forked from a process that has imports, object and `enter(snap=True)` hooks behind it."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import raymodal as modal
from raymodal import config, output
from raymodal.engine import current
from raymodal.engine.ray.template import node
from tests.ray.processes import wait_until

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not node.is_supported(), reason="workers are forked on Linux only"),
]


@pytest.fixture(scope="module")
def engine() -> Iterator[Any]:
    """Idle containers go at once, so that each call has a new one."""
    config.reset()
    config.override(engine="ray", linger_s=0.05)
    yield current.get_engine()
    current.shutdown()
    config.reset()


def snapshots(engine: Any) -> list[Path]:
    """The folders of snapshots that containers can be forked from."""
    return [one.parent for one in Path(engine.cluster.session_dir).glob("template-*/snap-*/s")]


def forked_from_snapshots(engine: Any) -> int:
    return sum(starts.snapshots for starts in node.starts_of(engine.cluster.session_dir).values())


def wait_here(folder: str) -> None:
    """In a container: say that it runs, and stay until told."""
    Path(folder, str(os.getpid())).touch()
    while not Path(folder, "go").exists():
        time.sleep(0.01)


def one_after_the_other(
    method: Any, folder: Path, count: int, between: Callable[[], Any] = lambda: None, **arguments: Any
) -> list[Any]:
    """What containers answer of which each has been started while those before it were busy."""
    folder.mkdir()
    calls = []
    for n in range(count):
        calls.append(method.spawn(str(folder), **arguments))
        wait_until(lambda n=n: len(os.listdir(folder)) == n + 1)
        between()
    (folder / "go").touch()
    return [call.get(timeout=60) for call in calls]


def test_a_class_with_numpy_and_a_table(engine: Any) -> None:
    """Later containers share what the first hooks made, run the others themselves, and have random numbers of their own."""
    app = modal.App("snapshot-class")

    @app.cls(serialized=True, enable_memory_snapshot=True, max_containers=3, cpu=0.1)
    class Model:
        @modal.enter(snap=True)
        def load(self) -> None:
            import numpy as np

            self.table = np.ones(10_000_000)  # 80 MB
            self.made_in = os.getpid()
            (np.ones((200, 200)) @ np.ones((200, 200))).sum()  # has OpenBLAS start its threads

        @modal.enter(snap=True)
        async def load_more(self) -> None:
            self.more = self.made_in == os.getpid()

        @modal.enter()
        def connect(self) -> None:
            self.entered_in = os.getpid()

        @modal.method()
        def facts(self, folder: str, n: int) -> dict[str, Any]:
            import random
            import uuid

            import numpy as np

            Path(folder, str(os.getpid())).touch()
            while len(os.listdir(folder)) < n:  # all at once, so that they share
                time.sleep(0.01)
            private = sum(
                int(line.split()[1])
                for line in Path("/proc/self/smaps_rollup").read_text().splitlines()
                if line.startswith(("Private_Dirty:", "Private_Clean:"))
            )
            return {
                "pid": os.getpid(),
                "made in": self.made_in,
                "entered in": self.entered_in,
                "more": self.more,
                "sum": float(self.table.sum()),
                "private MiB": private >> 10,
                "product": float((np.ones((200, 200)) @ np.ones((200, 200))).sum()),
                "random": random.random(),
                "numpy": float(np.random.random()),
                "uuid": uuid.uuid4().hex,
                "id": os.environ["MODAL_TASK_ID"],
            }

    import tempfile

    with app.run(), tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as three:
        model = Model()
        first = model.facts.remote(one, 1)
        assert first["made in"] == first["pid"]
        wait_until(lambda: snapshots(engine))
        found = list(model.facts.map([three] * 3, [3] * 3))

    later = [facts for facts in found if facts["pid"] != first["pid"]]
    assert len(later) >= 2
    for facts in later:
        assert facts["made in"] not in (facts["pid"], first["pid"])
        assert facts["private MiB"] < 70, "the table of 80 MB is a copy"
    for facts in found:
        assert facts["entered in"] == facts["pid"]
        assert facts["more"]
        assert facts["sum"] == 10_000_000
        assert facts["product"] == 8_000_000
    for name in ("pid", "random", "numpy", "uuid", "id"):
        assert len({facts[name] for facts in found}) == 3, name
    wait_until(lambda: not snapshots_alive(engine))


def snapshots_alive(engine: Any) -> list[Path]:
    alive = []
    for folder in snapshots(engine):
        with socket.socket(socket.AF_UNIX) as connection:
            there = os.open(folder, os.O_RDONLY)
            try:
                connection.connect(f"/proc/self/fd/{there}/s")
                alive.append(folder)
            except OSError:
                pass
            finally:
                os.close(there)
    return alive


def test_a_function_and_its_module(engine: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a module does on import is done once; the environment is that of each container."""
    (tmp_path / "imports_much.py").write_text(
        textwrap.dedent(
            """
            import os
            import raymodal as modal

            imported_in = os.getpid()
            colour = os.environ.get("COLOUR")
            text = None if modal.is_local() else open(__file__)  # read by every container from the beginning
            app = modal.App("snapshot-function")

            @app.function(
                enable_memory_snapshot=True, max_containers=3, cpu=0.1,
                secrets=[modal.Secret.from_dict({"COLOUR": "blue"})],
            )
            def f(folder):
                from tests.ray.test_snapshot import wait_here

                wait_here(folder)
                return os.getpid(), imported_in, colour, os.environ["COLOUR"], len(text.read()), modal.is_local()

            @app.function(max_containers=1)
            def plain(x):
                return os.getpid(), imported_in
            """
        )
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import imports_much as user

    before = forked_from_snapshots(engine)
    with user.app.run():
        found = one_after_the_other(user.f, tmp_path / "run", 3, lambda: wait_until(lambda: snapshots_alive(engine)))
        assert user.plain.remote(1)[0] == user.plain.remote(1)[1]
    for pid, imported_in, *rest in found:
        assert rest == ["blue", "blue", len((tmp_path / "imports_much.py").read_text()), False]
        assert (imported_in == pid) == (pid == found[0][0])
    assert forked_from_snapshots(engine) == before + 2


PRELUDE = """
import os, socket, subprocess, tempfile, threading, time
from raymodal.container import snapshot
"""
HOLDS = {
    "a thread": (
        "threading.Thread(target=time.sleep, args=(100,), daemon=True).start()",
        "1 thread that the first phase",
    ),
    "a process": ("self.child = subprocess.Popen(['sleep', '100'])", "a process that still runs"),
    "a connection": ("self.pair = socket.socketpair()", "a connection open"),
    "a file": ("self.file = open(tempfile.mkstemp()[1], 'w')", "open for writing"),
    "a pipe": ("self.pipe = os.pipe()", "pipe:"),
    "a call": ("g.remote(1)", "cannot be used while a memory snapshot is taken"),
    "another place": ("if snapshot.is_taking(): raise ValueError('not twice')", "raised ValueError: not twice"),
}


@pytest.mark.parametrize("what", HOLDS)
def test_what_cannot_be_copied(engine: Any, what: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """No snapshot then, one line that says why, and every container starts the plain way."""
    code, reason = HOLDS[what]
    app = modal.App("snapshot-refused")

    @app.function(serialized=True, max_containers=1, cpu=0.1)
    def g(x: int) -> int:
        return x

    @app.cls(serialized=True, enable_memory_snapshot=True, max_containers=2, cpu=0.1)
    class Holder:
        @modal.enter(snap=True)
        def load(self) -> None:
            exec(PRELUDE + code, {"self": self, "g": g})
            self.made_in = os.getpid()

        @modal.method()
        def where(self, folder: str) -> tuple[int, int]:
            wait_here(folder)
            return os.getpid(), self.made_in

    said: list[str] = []

    def told() -> bool:
        captured = capfd.readouterr()
        said.append(captured.out + captured.err)
        return "without a memory snapshot" in "".join(said)

    with output.enable_output(), app.run():
        for pid, made_in in one_after_the_other(Holder().where, tmp_path / "run", 2, lambda: wait_until(told)):
            assert pid == made_in
    text = "".join(said) + "".join(capfd.readouterr())
    assert text.count("without a memory snapshot") == 1, text
    assert reason in text
    assert "'Holder' starts" in text


def test_a_snapshot_that_is_killed(engine: Any, tmp_path: Path) -> None:
    """Containers go on, and later ones start the plain way."""
    app = modal.App("snapshot-killed")
    killed: list[int] = []

    @app.cls(serialized=True, enable_memory_snapshot=True, max_containers=3, cpu=0.1)
    class Model:
        @modal.enter(snap=True)
        def load(self) -> None:
            self.made_in = os.getpid()

        @modal.method()
        def where(self, folder: str) -> tuple[int, int]:
            wait_here(folder)
            return os.getpid(), self.made_in

    def after_the_second() -> None:
        wait_until(lambda: snapshots_alive(engine))
        if len(os.listdir(tmp_path / "run")) == 2:
            killed.extend(snapshot_pids(engine))
            os.kill(killed[0], signal.SIGKILL)
            wait_until(lambda: not snapshots_alive(engine))

    with app.run():
        calls = one_after_the_other(Model().where, tmp_path / "run", 3, lambda: None if killed else after_the_second())
    (first, made_first), (second, made_second), (third, made_third) = calls
    assert (made_first, made_third) == (first, third)
    assert made_second == killed[0] != second


def snapshot_pids(engine: Any) -> list[int]:
    """The processes that hold the snapshots."""
    found = []
    for folder in snapshots_alive(engine):
        with socket.socket(socket.AF_UNIX) as connection:
            there = os.open(folder, os.O_RDONLY)
            connection.connect(f"/proc/self/fd/{there}/s")
            os.close(there)
            peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            found.append(int.from_bytes(peer[:4], sys.byteorder))
    return found


def test_objects_with_arguments_have_their_own(engine: Any, tmp_path: Path) -> None:
    """A snapshot for each set of parameters."""
    app = modal.App("snapshot-parameters")

    @app.cls(serialized=True, enable_memory_snapshot=True, max_containers=2, cpu=0.1)
    class Model:
        size: int = modal.parameter()

        @modal.enter(snap=True)
        def load(self) -> None:
            self.made_in, self.table = os.getpid(), list(range(self.size))

        @modal.method()
        def where(self, folder: str) -> tuple[int, int, int]:
            wait_here(folder)
            return os.getpid(), self.made_in, len(self.table)

    with app.run():
        for taken, size in enumerate((3, 5), start=1):
            found = one_after_the_other(
                Model(size=size).where,
                tmp_path / str(size),
                2,
                lambda taken=taken: wait_until(lambda: len(snapshots_alive(engine)) == taken),
            )
            assert [length for _, _, length in found] == [size, size]
            assert [pid == made_in for pid, made_in, _ in found] == [True, False]


def test_a_loop_of_threads_is_seen_in_a_plain_process(tmp_path: Path) -> None:
    """`problem_of` in a process of its own: nothing to say of a clean one, nor of files that are read."""
    program = textwrap.dedent(
        """
        import sys, threading, time
        from raymodal.engine.ray.template.snapshot import problem_of, reopen_files
        text = open(sys.argv[1], "rb", buffering=0)
        text.read(3)
        print(problem_of([]))
        import os
        pid = os.fork()
        if pid == 0:
            reopen_files()
            print(text.read(2)); sys.stdout.flush()
            os._exit(0)
        os.waitpid(pid, 0)
        print(text.read(2))
        threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
        threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
        print(problem_of([]))
        """
    )
    path = tmp_path / "text"
    path.write_text("abcdefgh")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, str(path)], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == [
        "None",
        "b'de'",
        "b'de'",
        "2 threads that the first phase started still run",
    ], done.stderr
