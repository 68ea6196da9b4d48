"""Stands where Ray runs its `setup_worker.py`: has the node's template fork the worker, or starts it as Ray would.

Run as a script for every worker, so it imports next to nothing (not even `socket` or `json`, if it can do without): an
import costs more here than all the rest. It must never fail: whatever goes wrong ends in Ray's own start.
"""

import os
import sys
import time

TYPE_CHECKING = False  # `typing` takes longer to import than all of this file
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable, Mapping
    from typing import NoReturn

ANSWER_S = 3.0
"""How long a template may take to fork before it counts as hung, if it does not run meanwhile."""
STARVED_S = 20.0
"""The same for one that runs or waits for a disk: the machine is busy."""
BOOT_S = 15.0
"""How long to wait for a template that is still importing."""
MAX_BOOTS = 5
"""A template that has died so often on this node is given up."""
MAX_REQUEST = 4 << 20

# Read when a process or a library is loaded, which for a forked worker was in the template.
UNSAFE_PREFIXES = (b"LD_", b"PYTHON", b"RAY_", b"GRPC_", b"MALLOC_", b"GLIBC_TUNABLES")
PER_WORKER = (b"RAY_JOB_ID",)
_CONTEXT = "--serialized-runtime-env-context="
_LANGUAGE = "--language="


class Refused(Exception):
    """This worker is not for forking; the text says why."""


def option(arguments: list[str], name: str) -> str | None:
    """The value of `--name=value`, or None."""
    for argument in arguments:
        if argument.startswith(name):
            return argument[len(name) :]
    return None


def template_folder(arguments: list[str], environment: dict[bytes, bytes]) -> str:
    """The folder of this node's template, or of the job's own where one template for all jobs is not trusted (`per_job`).

    Raises:
        Refused: these are not the arguments of a worker that can be forked.
    """
    session, temp = option(arguments, "--session-name="), option(arguments, "--temp-dir=")
    raylet = environment.get(b"RAY_RAYLET_PID")
    if not session or not temp or not raylet:
        raise Refused("unknown arguments")
    folder = os.path.join(temp, session, "template-" + raylet.decode())
    if os.path.exists(os.path.join(folder, "per_job")):
        folder += "-" + environment.get(b"RAY_JOB_ID", b"").decode()
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            pass
        os.close(os.open(os.path.join(folder, "lock"), os.O_CREAT | os.O_RDWR, 0o600))
    return folder


def worker_of(arguments: list[str], environment: dict[bytes, bytes]) -> tuple[list[str], dict[bytes, bytes]]:
    """The worker's own arguments, and its environment.

    Raises:
        Refused: it must be started in another way.
    """
    language = option(arguments, _LANGUAGE)
    if language not in (None, "PYTHON"):
        raise Refused("not a Python worker")
    if option(arguments, "--worker-type=") not in (None, "WORKER"):
        raise Refused("one of Ray's own I/O workers")
    if option(arguments, "--enable-resource-isolation") not in (None, "=False"):
        raise Refused("resource isolation is on")
    context = option(arguments, _CONTEXT)
    if context not in (None, "", "{}"):
        import json

        asked = json.loads(context)
        if asked.get("command_prefix"):
            raise Refused("a runtime environment with a command of its own (working_dir, conda, container)")
        if asked.get("override_worker_entrypoint"):
            raise Refused("a runtime environment with an entry point of its own")
        if asked.get("py_executable") not in (None, "", sys.executable):
            raise Refused("a runtime environment with an interpreter of its own")
        for name, value in (asked.get("env_vars") or {}).items():
            # Ray's `update_envs` expands references to variables; with none there is nothing to expand.
            if "$" in value:
                raise Refused("a variable that refers to another one")
            raw = os.fsencode(name)
            if raw.startswith(UNSAFE_PREFIXES) and environment.get(raw) != os.fsencode(value):
                raise Refused("the runtime environment sets " + name)
            environment[raw] = os.fsencode(value)
    if environment.get(b"RAYMODAL_FORK") == b"0":
        raise Refused("RAYMODAL_FORK=0")
    return [a for a in arguments if not a.startswith((_CONTEXT, _LANGUAGE))], environment


def ask(folder: str, arguments: list[str], environment: dict[bytes, bytes], snapshot: str | None = None) -> int:
    """Have the template fork, or the one that holds a function's memory snapshot.

    Returns:
        The new worker's pid.

    Raises:
        Refused: it did not; the text says why.
    """
    import marshal
    from _socket import AF_UNIX, SCM_RIGHTS, SO_PEERCRED, SOCK_STREAM, SOL_SOCKET, socket

    blocked = sorted(int(one) for one in _signals_blocked())
    request = marshal.dumps(
        (sys.version, _oom_score(), arguments, environment, os.getcwd(), _umask(), blocked, os.nice(0)), 4
    )
    if len(request) > MAX_REQUEST:
        raise Refused("its environment is too large")
    if snapshot is None:
        connection = _connect(folder, lambda: socket(AF_UNIX, SOCK_STREAM))
    else:
        connection = socket(AF_UNIX, SOCK_STREAM)
        there = os.open(os.path.join(folder, snapshot), os.O_RDONLY)
        connection.connect(f"/proc/self/fd/{there}/s")
        os.close(there)
    peer_pid, peer_uid = _pair(connection.getsockopt(SOL_SOCKET, SO_PEERCRED, 12))
    if peer_uid != os.geteuid():
        raise Refused("the template belongs to somebody else")
    connection.settimeout(ANSWER_S)
    fds = b"".join(fd.to_bytes(4, sys.byteorder) for fd in (0, 1, 2))
    try:
        connection.sendmsg([len(request).to_bytes(8, "big")], [(SOL_SOCKET, SCM_RIGHTS, fds)])
        connection.sendall(request)
        answer = b""
        asked_at = time.monotonic()
        while not answer.endswith(b"\n"):
            try:
                part = connection.recv(1024)
            except TimeoutError:
                if time.monotonic() > asked_at + STARVED_S or not _is_busy(peer_pid):
                    raise
                continue
            if not part:
                raise Refused(answer.decode() or "the template ended")
            answer += part
        if answer[:1] != b"k":
            raise Refused(answer[1:].decode().strip())
        connection.sendall(b"g")
    except TimeoutError:
        # Hung. It takes no more requests this way, and the next worker's launcher starts another one.
        _kill(peer_pid)
        raise Refused("the template did not answer") from None
    return int(answer[1:])


def _connect(folder: str, make: "Callable[[], socket]") -> "socket":
    """A connection to the template; starts one where none lives."""
    path = os.path.join(folder, "s")
    refused = os.path.join(folder, "refused")
    deadline = time.monotonic() + BOOT_S
    while True:
        connection = make()
        try:
            connection.connect(path)
        except OSError as error:
            connection.close()
            last = error
        else:
            return connection
        try:
            with open(refused) as file:
                raise Refused(file.read().strip())
        except FileNotFoundError:
            pass
        _revive(folder)
        if time.monotonic() > deadline:
            raise Refused(f"the template was not ready in time: {last}")
        time.sleep(0.004)


def _revive(folder: str) -> None:
    """Start a template if none lives. One that lives holds the lock, from before its first import."""
    import fcntl

    try:
        lock = os.open(os.path.join(folder, "lock"), os.O_RDWR)
    except FileNotFoundError:
        raise Refused("this node has no template") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return
    with open(os.path.join(folder, "boots"), "a+") as boots:
        boots.seek(0)
        count = len(boots.read())
        boots.write(".")
    if count >= MAX_BOOTS:
        _write(os.path.join(folder, "refused"), f"its template ended {count} times")
        os.close(lock)
        return
    with open(os.path.join(_node_folder(folder), "server")) as file:
        server = file.read()
    pid = os.fork()
    if pid == 0:
        try:
            os.setsid()  # its own session, and by the second fork nobody's child: Ray waits for none it does not know
            if os.fork() == 0:
                os.set_inheritable(lock, True)
                environment = {**os.environb, b"RAY_JOB_ID": job_of(folder, os.environb)}
                log = os.path.join(os.path.dirname(folder), "logs", "raymodal_template.log")
                out = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY, 0o600)
                os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
                os.dup2(out, 1)
                os.dup2(out, 2)
                os.execve(sys.executable, [sys.executable, server, folder, str(lock)], environment)
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    os.close(lock)


def job_of(folder: str, environment: "Mapping[bytes, bytes]") -> bytes:
    """The job that the template's Ray is told of: none, unless each job has a template of its own."""
    is_per_job = _node_folder(folder) != folder
    return environment.get(b"RAY_JOB_ID", b"ffffffff") if is_per_job else b"ffffffff"


def _node_folder(folder: str) -> str:
    """The node's own folder: that of a job has the job's id behind its name."""
    parent, name = os.path.split(folder)
    return os.path.join(parent, "-".join(name.split("-")[:2]))


def _pair(credentials: bytes) -> tuple[int, int]:
    return int.from_bytes(credentials[:4], sys.byteorder), int.from_bytes(credentials[4:8], sys.byteorder)


def _signals_blocked() -> "set[int]":
    import _signal  # type: ignore[import-not-found]  # a third of the import of `signal`

    return set(_signal.pthread_sigmask(_signal.SIG_BLOCK, ()))


def _oom_score() -> bytes:
    """Ray raises it for the process that it has started, so that the kernel ends workers before anything else."""
    try:
        with open("/proc/self/oom_score_adj", "rb") as file:
            return file.read()
    except OSError:
        return b""


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _is_busy(pid: int) -> bool:
    """Whether a process runs, or waits for a core or a disk; one that sleeps or was stopped does not."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"R", b"D")
    except OSError:
        return False


def _kill(pid: int) -> None:
    try:
        os.kill(pid, 9)
    except OSError:
        pass


def _write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text + "\n")


def note(folder: str, text: str) -> None:
    """One line for `raymodal cluster status`: short, so that lines of several launchers do not mix."""
    try:
        fd = os.open(os.path.join(folder, "starts"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(fd, (text.replace("\n", " ")[:300] + "\n").encode())
        os.close(fd)
    except OSError:
        pass


def plain(arguments: list[str]) -> "NoReturn":
    """Start the worker as Ray does. Does not return."""
    context = option(arguments, _CONTEXT)
    worker = arguments[0]
    if context in (None, "", "{}") and option(arguments, _LANGUAGE) in (None, "PYTHON"):
        # What the raylet runs itself for a worker without a runtime environment.
        rest = [a for a in arguments if not a.startswith((_CONTEXT, _LANGUAGE))]
        os.execv(sys.executable, [sys.executable, *rest])
    if os.path.basename(worker) == "default_worker.py":
        setup = os.path.join(os.path.dirname(worker), "setup_worker.py")
    else:
        import importlib.util

        found = importlib.util.find_spec("ray")
        package = os.path.dirname(found.origin or "") if found is not None else ""
        setup = os.path.join(package, "_private", "workers", "setup_worker.py")
    os.execv(sys.executable, [sys.executable, setup, *arguments])


def main() -> None:
    arguments = sys.argv[1:]
    folder = None
    try:
        environment = dict(os.environb)
        folder = template_folder(arguments, environment)
        own, environment = worker_of(arguments, environment)
        how = "forked"
        snapshot = environment.get(b"RAYMODAL_SNAPSHOT")
        if snapshot:
            try:
                pid = ask(folder, own, environment, os.fsdecode(snapshot))
                how = "snapshot"
            except (OSError, Refused):
                pid = 0  # there is none on this node, or not yet
        if how == "forked":
            pid = ask(folder, own, environment)
    except Exception as error:  # noqa: BLE001 - it must never fail
        reason = str(error) if isinstance(error, Refused) else repr(error)
        if folder is not None:
            note(folder, "plain " + reason)
        plain(arguments)
    else:
        note(folder, f"{how} {pid}")
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
