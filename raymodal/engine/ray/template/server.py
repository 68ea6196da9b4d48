"""The template of one node: imports everything that a container needs, then forks a worker for each request.

Run as a script (`server.py FOLDER LOCK_FD`) in the environment of the raylet that it belongs to, because Ray's compiled
part reads its settings, the raylet's pid among them, when it is imported. It holds the lock for as long as it lives.

One thread, no connection, no accelerator: what one of these holds would be broken in every child. `_state_problem`
looks before each fork; with a problem the template says why in `refused`, and this node goes on without one.
"""

import contextlib
import gc
import marshal
import os
import select
import signal
import socket
import struct
import sys
import time
import traceback
import types
from typing import Any

# The launcher's, which lies beside this file; neither is imported as a part of raymodal, which stays unloaded until `preload`.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from launcher import PER_WORKER, UNSAFE_PREFIXES  # type: ignore[import-not-found]

REQUEST_S = 2.0
"""How long a launcher may take to say what it wants; the others wait meanwhile."""
SNAPSHOT = b"snapshot\n"
"""Begins a request for a builder."""
SNAPSHOT_IDLE_S = 600.0
"""A snapshot that nobody has used for so long, and of which no container lives, ends: its app may have died."""
GO_S = 10.0
END_S = 1.0
"""How long workers get to end by themselves after their raylet has."""

_RAY_MODULES = (
    "ray.actor",
    "ray._private.worker",
    "ray._private.node",
    "ray._private.parameter",
    "ray._private.ray_logging",
    "ray._private.async_compat",
    "ray._private.runtime_env.setup_hook",
    "ray._private.external_storage",
    "ray._private.function_manager",
    "ray._private.serialization",
    "ray._private.arrow_serialization",
    "ray._common.pydantic_compat",
    # What the first result of a worker imports, by way of its serialization context.
    "ray.util.serialization_addons",
    "pydantic",
    "pydantic.v1",
    "starlette.datastructures",
    # What the worker's own program and its connection import.
    "argparse",
    "gettext",
    "ray._common.usage.usage_lib",
    "ray.core.generated.usage_pb2",
)


_KEPT: list[Any] = []


def fill_holes() -> list[bytes]:
    """Objects that take up the free blocks among those in use.

    A child's new objects go there first, a few to each page, and every page that it writes to is copied. With the holes
    filled, what it makes lies together in pages of its own.
    """
    import tempfile

    if not hasattr(sys, "_debugmallocstats"):
        return []
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            sys._debugmallocstats()
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        text = file.read().decode(errors="replace")
    filler: list[bytes] = []
    for line in text.splitlines():
        words = line.split()
        if len(words) == 5 and all(word.isdigit() for word in words):
            size, free = int(words[1]), int(words[4])
            if size > 33:
                filler.extend(bytes(size - 33) for _ in range(free))
    return filler


def default_worker_path() -> str:
    import importlib.util

    found = importlib.util.find_spec("ray")  # without importing it
    return os.path.join(
        os.path.dirname(found.origin if found and found.origin else ""), "_private", "workers", "default_worker.py"
    )


def preload() -> None:
    """Import what containers need. Ray must be there; raymodal's own modules may be missing on a foreign node."""
    import importlib

    for name in _RAY_MODULES:
        try:
            importlib.import_module(name)
        except ImportError:
            # Another Ray: the worker imports what it needs by itself.
            if name == "ray.actor":
                raise
    with contextlib.suppress(ImportError):
        from raymodal.engine.ray.template import preload as ours

        ours.preload()


def _state_problem() -> str | None:
    """Why a fork of this process would not be safe, or None."""
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        return f"the template has {threads} threads"
    return None


class Server:
    """The loop. `changes` is what importing Ray did to the environment, to be done to every child's."""

    def __init__(
        self,
        folder: str,
        listener: socket.socket,
        raylet_pid: int,
        lock: int,
        environment: dict[bytes, bytes],
        changes: dict[bytes, bytes | None],
    ) -> None:
        self.folder = folder
        self.listener = listener
        self.lock = lock
        self.environment = environment
        self.changes = changes
        self.children: set[int] = set()
        self.is_done = False
        self.idle_s: float | None = None
        self.used_at = time.monotonic()
        self.raylet = os.pidfd_open(raylet_pid) if hasattr(os, "pidfd_open") else None
        self.raylet_pid = raylet_pid
        # For when the table of file descriptors is full: given up to take the one connection that is told so.
        self.spare = os.open(os.devnull, os.O_RDONLY)
        self.wake_r, self.wake_w = os.pipe()
        os.set_blocking(self.wake_w, False)
        os.set_blocking(self.wake_r, False)
        signal.set_wakeup_fd(self.wake_w, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        path = default_worker_path()
        with open(path, "rb") as file:
            self.code = compile(file.read(), path, "exec", dont_inherit=True)
        self.worker_path = path

    def serve(self) -> None:
        poll = select.poll()
        for fd in (self.listener.fileno(), self.wake_r, *([self.raylet] if self.raylet is not None else [])):
            poll.register(fd, select.POLLIN)
        while not self.is_done:
            ready = dict(poll.poll(5000))
            if self.wake_r in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self.wake_r, 4096)
            self.reap()
            if self.raylet in ready or (self.raylet is None and not _lives(self.raylet_pid)):
                break
            if self.listener.fileno() in ready:
                self.used_at = time.monotonic()
                self.accept()
            elif self.children:
                self.used_at = time.monotonic()
            elif self.idle_s is not None and time.monotonic() > self.used_at + self.idle_s:
                break
        self.listener.close()
        self.end_children()

    def reap(self) -> None:
        while True:
            try:
                pid, _ = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self.children.discard(pid)

    def accept(self) -> None:
        try:
            connection, _ = self.listener.accept()
        except BlockingIOError:
            return
        except OSError:
            self.turn_away()
            return
        with connection:
            try:
                self.answer(connection)
            except Exception as error:  # noqa: BLE001 - said to the launcher, which starts the worker plainly
                with contextlib.suppress(OSError):
                    connection.sendall(b"n" + repr(error).encode()[:300].replace(b"\n", b" ") + b"\n")

    def turn_away(self) -> None:
        """No file descriptor is left to take a connection with: say so to one launcher, so that none waits."""
        os.close(self.spare)
        try:
            connection, _ = self.listener.accept()
            with connection:
                connection.sendall(b"nthe template has no file descriptor left\n")
        except OSError:
            time.sleep(0.05)
        finally:
            with contextlib.suppress(OSError):
                self.spare = os.open(os.devnull, os.O_RDONLY)

    def answer(self, connection: socket.socket) -> None:
        connection.settimeout(REQUEST_S)
        _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if uid != os.geteuid():
            raise PermissionError("another user")
        head, fds, _, _ = socket.recv_fds(connection, 8, 3)
        try:
            while len(head) < 8:
                more = connection.recv(8 - len(head))
                if not more:
                    return
                head += more
            size, body = int.from_bytes(head, "big"), b""
            while len(body) < size:
                more = connection.recv(min(1 << 20, size - len(body)))
                if not more:
                    return
                body += more
            if body.startswith(SNAPSHOT):
                self.fork_builder(connection, body[len(SNAPSHOT) :])
                return
            problem = self.problem(body, fds)
            if problem is not None:
                connection.sendall(b"n" + problem.encode() + b"\n")
                return
            self.fork(connection, marshal.loads(body), fds)
        finally:
            for fd in fds:
                os.close(fd)

    def problem(self, body: bytes, fds: list[int]) -> str | None:
        """Why this worker cannot be forked from here, or None."""
        if len(fds) != 3:
            return "the file descriptors did not arrive"
        version, _, arguments, environment, *_ = marshal.loads(body)
        if version != sys.version:
            return "another version of Python"
        if os.path.realpath(arguments[0]) != os.path.realpath(self.worker_path):
            return "another Ray"
        for name in environment.keys() | self.environment.keys():
            # Read when Ray or a library was loaded, which was here.
            if name.startswith(UNSAFE_PREFIXES) and name not in PER_WORKER:
                here = self.environment.get(name)
                if here != environment.get(name):
                    return f"{os.fsdecode(name)} differs from the template's"
        problem = _state_problem()
        if problem is not None:
            # For good: it will not get better, and every container would ask again.
            with open(os.path.join(self.folder, "refused"), "w") as file:
                file.write(problem + "\n")
            self.is_done = True
        return problem

    def fork(self, connection: socket.socket, request: tuple[Any, ...], fds: list[int]) -> None:
        try:
            pid = os.fork()
        except OSError as error:
            connection.sendall(f"nfork: {error.strerror}\n".encode())
            return
        if pid:
            self.children.add(pid)
            return
        # The child. Nothing below returns.
        code = 70
        try:
            code = self.become_worker(connection, request, fds)
        except BaseException:  # noqa: BLE001 - the worker's end; into its log
            traceback.print_exc()
        finally:
            os._exit(code)

    def fork_builder(self, connection: socket.socket, request: bytes) -> None:
        """Make a template of one function's containers: a copy of this one that does the first phase of their start."""
        pid = os.fork()
        if pid:
            self.children.add(pid)
            return
        try:
            self.become_snapshot(connection, request)
        except BaseException:  # noqa: BLE001 - the builder's end; into the log
            traceback.print_exc()
        finally:
            os._exit(0)

    def become_snapshot(self, connection: socket.socket, request: bytes) -> None:
        import pickle

        from raymodal.engine.ray.template import snapshot

        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection.settimeout(None)
        connection.sendall(b"b%d\n" % os.getpid())
        self.listener.close()
        for fd in (self.wake_r, self.wake_w, self.spare, self.lock):
            os.close(fd)
        folder = os.path.join(self.folder, pickle.loads(request)[0])
        gc.enable()
        problem = snapshot.build(request)
        if problem is None:
            problem = snapshot.problem_of({connection.fileno(), -1 if self.raylet is None else self.raylet})
        if problem is None and os.path.exists(os.path.join(folder, "refused")):
            problem = "the app has ended"
        if problem is not None:
            connection.sendall(b"n" + problem.encode() + b"\n\n")
            return
        _KEPT.extend(fill_holes())
        gc.collect()
        gc.freeze()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        there = os.open(folder, os.O_RDONLY)
        listener.bind(f"/proc/self/fd/{there}/s")  # the path itself may be longer than a socket's may be
        os.close(there)
        listener.listen(128)
        listener.setblocking(False)
        nothing = os.open(os.devnull, os.O_RDONLY)
        server = Server(folder, listener, self.raylet_pid, nothing, self.environment, self.changes)
        server.idle_s = SNAPSHOT_IDLE_S
        connection.sendall(b"k\n\n")
        connection.close()
        server.serve()

    def become_worker(self, connection: socket.socket, request: tuple[Any, ...], fds: list[int]) -> int:
        _, oom_score, arguments, environment, folder, umask, blocked, nice = request
        # Ray kills the process group of a worker that has ended: without one of its own that would be everybody.
        os.setpgid(0, 0)
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        connection.settimeout(GO_S)
        connection.sendall(b"k%d\n" % os.getpid())
        if connection.recv(1) != b"g":
            return 0  # the launcher has given up and started the worker itself
        for number, fd in enumerate(fds):
            os.dup2(fd, number)
        connection.close()
        self.listener.close()
        for fd in (*fds, self.wake_r, self.wake_w, self.spare, self.lock):
            os.close(fd)
        if self.raylet is not None:
            os.close(self.raylet)
        if self.idle_s is not None:
            from raymodal.engine.ray.template import snapshot

            snapshot.reopen_files()
        environment.pop(b"RAYMODAL_SNAPSHOT", None)
        _set_oom_score(oom_score)
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        os.environb.clear()
        os.environb.update(environment)
        for name, value in self.changes.items():
            if value is None:
                os.environb.pop(name, None)
            else:
                os.environb.setdefault(name, value)
        os.chdir(folder)
        os.umask(umask)
        sys.argv = list(arguments)
        sys.orig_argv = [sys.executable, *arguments]
        main = types.ModuleType("__main__")
        main.__file__ = self.worker_path
        main.__dict__["__builtins__"] = __builtins__
        sys.modules["__main__"] = main
        code = self.code
        gc.enable()
        try:
            exec(code, main.__dict__)
        except SystemExit as leaving:
            return _exit_code(leaving)
        return 0

    def end_children(self) -> None:
        """The raylet has ended. Its workers notice that by themselves, in seconds; what is left then is ended here."""
        deadline = time.monotonic() + END_S
        while self.children and time.monotonic() < deadline:
            self.reap()
            time.sleep(0.02)
        for pid in self.children:
            with contextlib.suppress(OSError):
                os.killpg(pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)


def _exit_code(leaving: SystemExit) -> int:
    import atexit

    code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
    if isinstance(leaving.code, str):
        print(leaving.code, file=sys.stderr)
    atexit._run_exitfuncs()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _set_oom_score(score: bytes) -> None:
    if score:
        with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "wb") as file:
            file.write(score)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def main() -> None:
    folder, lock = sys.argv[1], int(sys.argv[2])
    os.set_inheritable(lock, False)
    raylet_pid = int(os.environ["RAY_RAYLET_PID"])
    # What stands beside this file must not be importable by short names.
    here = os.path.dirname(os.path.abspath(__file__))
    sys.path[:] = [entry for entry in sys.path if entry != here]
    sys.path.insert(0, os.path.dirname(default_worker_path()))  # as in a plain start
    sys.modules.pop("launcher", None)
    before = dict(os.environb)
    path = os.path.join(folder, "s")
    try:
        gc.disable()  # imports make much that lives for ever, and collections in between find nothing
        preload()
        after = dict(os.environb)
        changes = {
            name: after.get(name) for name in before.keys() | after.keys() if before.get(name) != after.get(name)
        }
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server = Server(folder, listener, raylet_pid, lock, before, changes)
        problem = _state_problem()
        if problem is not None:
            raise RuntimeError(problem)
        # Everything so far is for ever: the collector need not look at it again, nor unshare its pages by doing so.
        gc.collect()
        _KEPT.extend(fill_holes())
        gc.freeze()
        listener.bind(path)
        listener.listen(128)
        listener.setblocking(False)
    except BaseException as error:
        with open(os.path.join(folder, "refused"), "w") as file:
            file.write("the template did not start: " + repr(error).replace("\n", " ")[:300] + "\n")
        raise
    server.serve()


if __name__ == "__main__":
    main()
