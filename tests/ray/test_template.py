"""Workers forked from a template: what they share with plain ones, and what happens when the template is in trouble."""

from __future__ import annotations

import contextlib
import marshal
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raymodal import config
from raymodal.engine.ray import cluster
from raymodal.engine.ray.template import node, selftest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not node.is_supported(), reason="workers are forked on Linux only"),
]
PLAIN = {"env_vars": {"RAYMODAL_FORK": "0"}}


@contextlib.contextmanager
def own_cluster() -> Iterator[Any]:
    """A cluster for one test; a process has one at a time."""
    cluster.shutdown()
    config.reset()
    try:
        yield cluster.connect(config.settings(), num_cpus=2)  # whatever the machine has
    finally:
        cluster.shutdown()
        config.reset()


@pytest.fixture(scope="module", autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    cluster.shutdown()
    config.reset()


@pytest.fixture
def ours() -> Any:
    """One cluster for all tests that come one after the other."""
    return cluster.connect(config.settings(), num_cpus=2)


@pytest.fixture
def folder(ours: Any) -> Path:
    (found,) = Path(ours.session_dir).glob("template-*")
    return found


def wait_until(holds: Callable[[], Any], what: str, patience_s: float = 30.0) -> Any:
    deadline = time.monotonic() + patience_s
    while not (value := holds()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.02)
    return value


def is_running(pid: int) -> bool:
    """Not gone, and not only waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def template_pid(folder: Path) -> int:
    def ask() -> int:
        with contextlib.suppress(OSError), connected(folder) as connection:
            return int.from_bytes(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)
        return 0

    return int(wait_until(ask, "a template"))


def connected(folder: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(20.0)
    try:
        connection.connect(str(folder / "s"))
    except OSError:
        connection.close()
        raise
    return connection


def request(folder: Path, **changes: Any) -> bytes:
    """What a launcher sends; `changes` are by position's name."""
    raylet = folder.name.partition("-")[2]
    fields = {
        "version": sys.version,
        "oom_score": b"",
        "arguments": [str(Path(__import__("ray").__file__).parent / "_private" / "workers" / "default_worker.py")],
        "environment": {**template_environment(folder), b"RAY_RAYLET_PID": raylet.encode()},
        "folder": "/",
        "umask": 0o22,
        "blocked": [],
        "nice": 0,
    }
    fields.update(changes)
    return marshal.dumps(tuple(fields.values()), 4)


def template_environment(folder: Path) -> dict[bytes, bytes]:
    raw = Path(f"/proc/{template_pid(folder)}/environ").read_bytes()
    return dict(entry.split(b"=", 1) for entry in raw.split(b"\0") if b"=" in entry)


def send(connection: socket.socket, body: bytes) -> bytes:
    """The template's answer, to which a launcher would say `g`."""
    with open(os.devnull, "rb") as nothing:
        socket.send_fds(connection, [len(body).to_bytes(8, "big")], [nothing.fileno()] * 3)
    with contextlib.suppress(BrokenPipeError):  # it may have said what it has to say already
        connection.sendall(body)
    answer = b""
    while not answer.endswith(b"\n"):
        try:
            part = connection.recv(1000)
        except ConnectionResetError:
            break
        if not part:
            break
        answer += part
    return answer


class Facts:
    """An actor that tells what process it is in."""

    def identity(self) -> dict[str, Any]:
        import random
        import secrets
        import ssl
        import tempfile
        import uuid

        import numpy as np
        import ray

        with tempfile.NamedTemporaryFile() as file:
            name = file.name
        return {
            "pid": os.getpid(),
            "random": random.random(),
            "uuid1": uuid.uuid1().hex,
            "uuid4": uuid.uuid4().hex,
            "numpy": float(np.random.random()),
            "generator": float(np.random.default_rng().random()),
            "tls": ssl.RAND_bytes(16),
            "secret": secrets.token_hex(),
            "file": name,
            "worker": ray.get_runtime_context().get_worker_id(),
            "object": ray.put(1).hex(),
        }

    def state(self) -> dict[str, Any]:
        own = os.getpid()
        return {
            "signals": {int(s): str(signal.getsignal(s)).partition(" at ")[0] for s in signal.valid_signals()},
            "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
            "own group": os.getpgid(0) == own,
            "arguments": [sys.argv[0], sys.orig_argv[0], *(a.partition("=")[0] for a in sys.argv[1:])],
            "path": sys.path,
            "main": sys.modules["__main__"].__dict__.get("__file__"),
            "umask": _umask(),
            "cwd": os.getcwd(),
            "nice": os.nice(0),
            "limits": [resource.getrlimit(getattr(resource, n)) for n in ("RLIMIT_NOFILE", "RLIMIT_CORE", "RLIMIT_AS")],
            "oom": Path("/proc/self/oom_score_adj").read_text(),
            "environment": {
                k: v for k, v in os.environ.items() if k not in ("RAY_JOB_ID", "RAYMODAL_FORK", "X", "PYTHONPATH", "_")
            },
            "flags": str(sys.flags),
            "is main thread": threading.current_thread() is threading.main_thread(),
            "stdin": os.fstat(0).st_rdev,
            "switch": sys.getswitchinterval(),
            "recursion": sys.getrecursionlimit(),
            "collects": __import__("gc").isenabled(),
        }

    def parent(self) -> tuple[int, int]:
        return os.getpid(), os.getppid()

    def leave(self, how: str) -> None:
        if how == "os._exit":
            os._exit(7)
        if how == "sys.exit":
            sys.exit(3)
        os.kill(os.getpid(), signal.SIGSEGV)

    def child(self) -> int:
        return subprocess.Popen(["sleep", "100"]).pid

    def returncode(self) -> int:
        return subprocess.run(["sh", "-c", "exit 5"], check=False).returncode


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def actors(count: int, **options: Any) -> list[Any]:
    import ray

    made = ray.remote(Facts).options(num_cpus=0, **options)
    return [made.remote() for _ in range(count)]


def forked(folder: Path) -> int:
    return sum(starts.forked for starts in node.starts_of(str(folder.parent)).values())


def plain(folder: Path) -> dict[str, int]:
    (starts,) = node.starts_of(str(folder.parent)).values()
    return dict(starts.plain)


# What they are


def test_workers_are_forked(ours: Any, folder: Path) -> None:
    """On Linux, on a Ray that raymodal starts: every worker without a reason against it."""
    import ray

    before = forked(folder)
    parents = ray.get([a.parent.remote() for a in actors(5)])

    assert {parent for _, parent in parents} == {template_pid(folder)}
    assert forked(folder) > before
    assert plain(folder) == {} or set(plain(folder)) <= {"RAYMODAL_FORK=0"}


def test_no_two_are_alike(ours: Any) -> None:
    """Whatever is random or unique is so in every copy."""
    import ray

    found = ray.get([a.identity.remote() for a in actors(6)])

    for name in found[0]:
        assert len({one[name] for one in found}) == len(found), name


def test_a_forked_worker_is_like_a_plain_one(ours: Any, folder: Path) -> None:
    """Signals, process group, environment, arguments, limits, directories."""
    import ray

    (copy,), (fresh,) = actors(1, runtime_env={"env_vars": {"X": "1"}}), actors(1, runtime_env=PLAIN)
    ours_is, theirs_is = ray.get([copy.state.remote(), fresh.state.remote()])

    assert plain(folder)["RAYMODAL_FORK=0"] >= 1
    assert ray.get(fresh.parent.remote())[1] != template_pid(folder)
    assert ray.get(copy.parent.remote())[1] == template_pid(folder)
    for state in (ours_is, theirs_is):
        state["environment"].pop("PWD", None)  # a plain one has it from the shell that Ray starts it by
    for name in theirs_is:
        assert ours_is[name] == theirs_is[name], name


@pytest.mark.parametrize("how", ["os._exit", "sys.exit", "signal"])
def test_an_end_is_reported_as_of_a_plain_one(ours: Any, how: str) -> None:
    """The caller gets Ray's own text with the same code."""
    import ray
    from ray.exceptions import RayActorError

    texts = []
    for options in ({}, {"runtime_env": PLAIN}):
        (actor,) = actors(1, **options)
        pid, _ = ray.get(actor.parent.remote())
        with pytest.raises(RayActorError) as caught:
            ray.get(actor.leave.remote(how))
        texts.append([line for line in str(caught.value).splitlines() if "exit" in line.lower() and "pid" not in line])
        wait_until(lambda pid=pid: not is_running(pid), f"the end of {pid}")

    assert texts[0] == texts[1]


def test_subprocesses(ours: Any) -> None:
    """Return codes arrive, and what a worker has started ends with it."""
    import ray

    (actor,) = actors(1)
    child = ray.get(actor.child.remote())
    assert ray.get(actor.returncode.remote()) == 5
    assert is_running(child)
    ray.kill(actor)

    wait_until(lambda: not is_running(child), "the end of the worker's own child")


def test_ending_one_leaves_the_others(ours: Any, folder: Path) -> None:
    """By `ray.kill` and by SIGKILL; nor is the template touched."""
    import ray

    template = template_pid(folder)
    several = actors(4)
    pids = [pid for pid, _ in ray.get([a.parent.remote() for a in several])]
    ray.kill(several[0])
    os.kill(pids[1], signal.SIGKILL)
    wait_until(lambda: not is_running(pids[0]) and not is_running(pids[1]), "the end of two")

    assert [pid for pid, _ in ray.get([a.parent.remote() for a in several[2:]])] == pids[2:]
    assert template_pid(folder) == template


@pytest.mark.parametrize(
    ("runtime_env", "reason"),
    [
        ({"env_vars": {"PYTHONHASHSEED": "0"}}, "the runtime environment sets PYTHONHASHSEED"),
        ({"env_vars": {"RAY_worker_niceness": "3"}}, "the runtime environment sets RAY_worker_niceness"),
        ({"env_vars": {"A": "${HOME}/x"}}, "a variable that refers to another one"),
        ({"py_executable": f"{sys.executable} -X utf8"}, "a runtime environment with an interpreter of its own"),
    ],
)
def test_in_doubt_the_plain_way(ours: Any, folder: Path, runtime_env: dict[str, Any], reason: str) -> None:
    """And the worker is as it was asked for."""
    import ray

    (actor,) = actors(1, runtime_env=runtime_env)
    state = ray.get(actor.state.remote())

    assert plain(folder)[reason] == 1
    for name, value in runtime_env.get("env_vars", {}).items():
        assert state["environment"][name] == value.replace("${HOME}", os.environ["HOME"])


def test_variables_of_a_runtime_environment(ours: Any, folder: Path) -> None:
    """Those that nothing reads at start do not stand in the way, and stay in their own worker."""
    import ray

    before = forked(folder)
    (one,) = actors(1, runtime_env={"env_vars": {"COLOUR": "blue", "TEXT": "a=b\nc 'd' é"}})
    (other,) = actors(1)
    state, plain_state = ray.get([one.state.remote(), other.state.remote()])

    assert (state["environment"]["COLOUR"], state["environment"]["TEXT"]) == ("blue", "a=b\nc 'd' é")
    assert "COLOUR" not in plain_state["environment"]
    assert forked(folder) >= before + 1


# The template in trouble


def test_a_killed_template_is_started_again(ours: Any, folder: Path) -> None:
    """Workers that run go on."""
    import ray

    (old,) = actors(1)
    pid, template = ray.get(old.parent.remote())
    os.kill(template, signal.SIGKILL)
    wait_until(lambda: not is_running(template), "the end of the template")
    new = ray.get([a.parent.remote() for a in actors(4)])

    assert ray.get(old.parent.remote())[0] == pid
    parents = {parent for _, parent in new} - {template, 1}
    assert parents == {template_pid(folder)}
    assert not (folder / "refused").exists()


def test_a_hung_template_is_replaced(ours: Any, folder: Path) -> None:
    """Its workers start as Ray starts them meanwhile, and none of them twice."""
    import ray

    template = template_pid(folder)
    os.kill(template, signal.SIGSTOP)
    try:
        found = ray.get([a.parent.remote() for a in actors(5)], timeout=60)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(template, signal.SIGCONT)

    assert len({pid for pid, _ in found}) == 5
    assert template_pid(folder) != template
    assert plain(folder)["the template did not answer"] >= 1


def test_a_launcher_that_gives_up_gets_no_worker(ours: Any, folder: Path) -> None:
    """A thousand forks that nobody wants: no zombie, no file descriptor left, no worker."""
    template = template_pid(folder)
    body = request(folder)
    count = 1000

    def files() -> int:
        return len(os.listdir(f"/proc/{template}/fd"))

    def children() -> list[int]:
        return [int(pid) for pid in Path(f"/proc/{template}/task/{template}/children").read_text().split()]

    wait_until(lambda: all(map(is_running, children())), "no zombie before")
    before, files_before = children(), files()
    pids = []
    for _ in range(count):
        with connected(folder) as connection:
            answer = send(connection, body)
            assert answer[:1] == b"k", answer
            pids.append(int(answer[1:]))

    wait_until(lambda: not any(os.path.exists(f"/proc/{pid}") for pid in pids if pid not in before), "all reaped")
    wait_until(lambda: files() <= files_before, "no file left open")
    assert len(os.listdir(f"/proc/{template}/task")) == 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "3.9.0"}, b"another version of Python"),
        ({"arguments": ["/elsewhere/ray/_private/workers/default_worker.py"]}, b"another Ray"),
        ({"environment": {b"RAY_RAYLET_PID": b"1"}}, b"differs from the template's"),
    ],
)
def test_a_stranger_is_turned_away(ours: Any, folder: Path, changes: dict[str, Any], reason: bytes) -> None:
    """Another Python, another Ray, other settings: the launcher then starts the worker plainly."""
    with connected(folder) as connection:
        answer = send(connection, request(folder, **changes))

    assert answer.startswith(b"n")
    assert reason in answer


@pytest.mark.parametrize("body", [b"", b"\0" * 100, b"nonsense"])
def test_nonsense_does_no_harm(ours: Any, folder: Path, body: bytes) -> None:
    """Neither do a short request and a closed connection."""
    template = template_pid(folder)
    with connected(folder) as connection:
        answer = send(connection, body)
    connected(folder).close()

    assert not answer.startswith(b"k")
    assert template_pid(folder) == template


def test_no_file_descriptor_left(ours: Any, folder: Path) -> None:
    """Said at once, so that no launcher waits; and it gets better."""
    template = template_pid(folder)
    before = resource.prlimit(template, resource.RLIMIT_NOFILE)

    def without_any() -> bool:
        used = {int(fd) for fd in os.listdir(f"/proc/{template}/fd")}
        resource.prlimit(template, resource.RLIMIT_NOFILE, (min(set(range(len(used) + 1)) - used), before[1]))
        try:
            with connected(folder) as connection:
                # It may have been in the middle of something, whose descriptors are free again.
                return connection.recv(1000) == b"nthe template has no file descriptor left\n"
        finally:
            resource.prlimit(template, resource.RLIMIT_NOFILE, before)

    wait_until(without_any, "no file descriptor left")
    with connected(folder) as connection:
        assert send(connection, request(folder)).startswith(b"k")


def test_nobody_else_can_ask(ours: Any, folder: Path) -> None:
    """The folder is closed to other users, and where it were not, the template asks who is there."""
    assert folder.stat().st_mode & 0o777 == 0o700
    if os.geteuid() != 0:
        return  # only root can be somebody else
    program = (
        "import os, socket, sys; os.setgroups([]); os.setgid(65534); os.setuid(65534);"
        " s = socket.socket(socket.AF_UNIX); s.settimeout(20); s.connect(sys.argv[1]); print(s.recv(100))"
    )
    command = [sys.executable, "-I", "-S", "-c", program, str(folder / "s")]

    def try_it() -> str:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        return run.stdout + run.stderr

    assert "Permission" in try_it()

    opened = [one for one in (folder, *folder.parents) if not one.stat().st_mode & 0o001]
    modes = [one.stat().st_mode & 0o777 for one in opened]
    try:
        for one in opened:
            one.chmod(0o755)
        (folder / "s").chmod(0o777)
        assert "another user" in try_it()
    finally:
        for one, mode in zip(opened, modes, strict=True):
            one.chmod(mode)


def test_a_failing_fork_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of memory or of processes: the launcher hears it and starts the worker plainly."""
    monkeypatch.syspath_prepend(str(Path(node.__file__).parent))
    import server  # type: ignore[import-not-found]

    def no_fork() -> int:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(os, "fork", no_fork)
    here, there = socket.socketpair()
    with here, there:
        server.Server.fork(object(), there, (), [])
        assert here.recv(100) == b"nfork: Cannot allocate memory\n"


def test_a_template_with_a_thread_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that it imports starts one: the node goes on as Ray does, and says why."""
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, threading, time\n"
        "if any(word.endswith('server.py') for word in sys.orig_argv):\n"
        "    threading.Thread(target=time.sleep, args=(100,), daemon=True).start()\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    import ray

    with own_cluster() as connected_:
        assert len(ray.get([a.parent.remote() for a in actors(2)])) == 2
        (starts,) = node.starts_of(connected_.session_dir).values()

    assert starts.forked == 0
    assert starts.refused is not None
    assert "the template has 2 threads" in starts.refused
    assert sum(starts.plain.values()) >= 2


def test_without_a_folder_for_its_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster starts all the same."""
    from raymodal.engine.ray.template import node as template

    def refuse(*_: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(template, "prepare", refuse)
    import ray

    with own_cluster() as connected_:
        assert len(ray.get([a.parent.remote() for a in actors(2)])) == 2
        assert node.starts_of(connected_.session_dir) == {}


def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """`RAYMODAL_FORK=0`: Ray's own start, no template."""
    monkeypatch.setenv("RAYMODAL_FORK", "0")
    import ray

    with own_cluster() as connected_:
        assert len(ray.get([a.parent.remote() for a in actors(1)])) == 1
        assert list(Path(connected_.session_dir).glob("template-*")) == []


def test_a_killed_raylet_leaves_nothing_behind() -> None:
    """Template and workers end within seconds."""
    import ray

    with own_cluster() as connected_:
        (found,) = Path(connected_.session_dir).glob("template-*")
        template = template_pid(found)
        workers = [pid for pid, _ in ray.get([a.parent.remote() for a in actors(3)])]
        os.kill(int(found.name.partition("-")[2]), signal.SIGKILL)
        wait_until(lambda: not any(map(is_running, (template, *workers))), "the end of template and workers")


# The self-test


def test_the_answer_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first cluster of a machine tries two workers, the next one need not."""
    tried = []
    original = selftest.try_workers
    monkeypatch.setattr(selftest, "try_workers", lambda *a: tried.append(1) or original(*a))
    monkeypatch.setenv("RAYMODAL_HOME", str(tmp_path))
    for _ in range(2):
        with own_cluster():
            pass
    assert tried == [1]
    assert selftest.known(tmp_path) == ("nil", "")


def test_no_answer_in_time_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine: forked workers that were too slow are done without this time only."""
    import ray

    original, plain_get = selftest.try_workers, ray.get

    def late(refs: Any, timeout: float) -> Any:
        plain_get(refs)
        raise ray.exceptions.GetTimeoutError("too late")

    def try_workers(*where: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(ray, "get", late)
            return original(*where)

    monkeypatch.setattr(selftest, "try_workers", try_workers)
    monkeypatch.setenv("RAYMODAL_HOME", str(tmp_path))
    with own_cluster() as connected_:
        assert len(ray.get([a.parent.remote() for a in actors(2)])) == 2
        (starts,) = node.starts_of(connected_.session_dir).values()

    assert selftest.known(tmp_path) is None
    assert starts.refused == "its self-test did not end within 20 s"


@pytest.mark.parametrize(("passes", "mode"), [([False, True], "job"), ([False, False], "plain")])
def test_a_failed_self_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[bool], mode: str) -> None:
    """A template for each job then, or none at all; workers start in any case."""
    import ray

    answers = iter(passes)
    original = selftest.try_workers
    monkeypatch.setattr(selftest, "try_workers", lambda *a: original(*a) or (None if next(answers) else "made up"))
    monkeypatch.setenv("RAYMODAL_HOME", str(tmp_path))
    with own_cluster() as connected_:
        job = ray.get_runtime_context().get_job_id()
        before = forked(Path(connected_.session_dir) / "any")
        found = ray.get([a.parent.remote() for a in actors(3)])
        after = forked(Path(connected_.session_dir) / "any")
        folders = {
            one.name.partition("-")[2].partition("-")[2] for one in Path(connected_.session_dir).glob("template-*")
        }

    assert len({pid for pid, _ in found}) == 3
    record = selftest.known(tmp_path)
    assert record is not None
    assert record[0] == mode
    assert "made up" in record[1]
    assert (after > before) == (mode == "job")
    assert job in folders
