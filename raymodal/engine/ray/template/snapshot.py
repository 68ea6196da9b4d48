"""Memory snapshots by fork: a template of one function's containers, which has done the first phase of their start.

The first container of a function with `enable_memory_snapshot=True` starts as any other and then asks its node's template for one (`ask`). That forks a
*builder*, which does what the container did (`container.snapshot.take`), looks whether its state can be copied (`problem_of`), and then serves forks itself.
Later containers name it in their runtime environment (`VARIABLE`), and the launcher goes there first. A container whose snapshot does not exist (yet) is
forked from the node's template, so nothing ever waits for one.

A fork copies memory and little else. Threads do not come along (OpenBLAS's are fine, since they end before a fork: a trial fork shows it), and children,
sockets, pipes, devices and files being written would be shared: where one is found no snapshot is made, and one line says why. The same if memory is short, or
if the first phase fails without a connection. GPUs are hidden meanwhile, as before Modal's CPU snapshots. In the copy, files being read are opened again, and
numpy's and torch's generators get new seeds.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
import socket
import stat
import struct
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from raymodal.container import mounts
from raymodal.plan.pool import ContainerPlan

VARIABLE = "RAYMODAL_SNAPSHOT"
REQUEST = b"snapshot\n"
_DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri", "/dev/accel")


def key_of(plan: ContainerPlan) -> str:
    """The snapshot of this function in this app; of an object with arguments, its own."""
    return hashlib.sha256(f"{plan.app_id}\0{plan.spec.tag}".encode()).hexdigest()[:16]


def prefix_of(app_id: str) -> str:
    """What marks the snapshots of one app."""
    return hashlib.sha256(app_id.encode()).hexdigest()[:8]


def name_of(plan: ContainerPlan) -> str:
    """The folder's name below the template's: the app, then the function."""
    return f"snap-{prefix_of(plan.app_id)}-{key_of(plan)}"


def ask(template_folder: str, plan: ContainerPlan, sys_path: list[str], timeout_s: float) -> str | None:
    """Have this node make a snapshot, and wait until it is there.

    Returns:
        Why there is none, or None. Also None if another container has asked before.
    """
    if not os.path.isdir(template_folder):
        return None  # this node has no template; nothing was promised
    with contextlib.suppress(FileExistsError):
        os.mkdir(os.path.join(template_folder, name_of(plan)), 0o700)
        return _build(template_folder, plan, sys_path, timeout_s)
    return None


def _build(template_folder: str, plan: ContainerPlan, sys_path: list[str], timeout_s: float) -> str | None:
    needed, available = _memory_of(os.getpid()), _available()
    if available < 2 * needed:
        return _refuse(
            Path(template_folder, name_of(plan)),
            f"it would take {needed >> 20} MiB more memory, and this node has {available >> 20} MiB left",
        )
    environment = {name: value for name, value in os.environb.items() if name != VARIABLE.encode()}
    body = REQUEST + pickle.dumps((name_of(plan), plan, sys_path, environment))
    builder = 0
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(timeout_s)
            connection.connect(os.path.join(template_folder, "s"))
            with open(os.devnull, "rb") as nothing:
                socket.send_fds(connection, [len(body).to_bytes(8, "big")], [nothing.fileno()] * 3)
            connection.sendall(body)
            answer = b""
            while not answer.endswith(b"\n\n"):
                part = connection.recv(4096)
                if not part:
                    break
                answer += part
                if answer[:1] == b"b" and b"\n" in answer:
                    builder = int(answer[1 : answer.index(b"\n")])
        last = answer.strip(b"\n").rpartition(b"\n")[2].decode(errors="replace")
        if last == "k":
            return None
        reason = last[1:] if last[:1] == "n" else "the process that was to take it ended"
    except TimeoutError:
        if builder:
            with contextlib.suppress(OSError):
                os.killpg(builder, 9)
        reason = f"its first phase took longer than {timeout_s:g} s the second time"
    except OSError as error:
        reason = f"the node's template does not answer ({error.strerror})"
    return _refuse(Path(template_folder, name_of(plan)), reason)


def _refuse(folder: Path, reason: str) -> str:
    with contextlib.suppress(OSError):
        (folder / "refused").write_text(reason + "\n")
    return reason


def build(request: bytes) -> str | None:
    """In the builder: do the first phase. Returns what has gone wrong, or None."""
    import sys

    from raymodal.container import snapshot

    _, plan, sys_path, environment = pickle.loads(request)
    os.environb.clear()
    os.environb.update(environment)
    sys.path[:] = sys_path
    try:
        snapshot.take(plan)
    except BaseException as error:  # noqa: BLE001 - user code, whatever it raises
        import traceback

        traceback.print_exc()
        return f"its first phase, run for the snapshot, raised {type(error).__name__}: {error}".replace("\n", " ")[:300]
    sys.stdout.flush()
    sys.stderr.flush()
    return None


def problem_of(own_fds: Iterable[int]) -> str | None:
    """What this process holds that a copy of it could not: threads, children, sockets, devices, files being written.

    Args:
        own_fds: file descriptors that are ours.
    """
    # Some libraries (OpenBLAS, of numpy) end their threads before a fork and start them again when they are needed.
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    threads = len(os.listdir("/proc/self/task"))
    if threads != 1:
        return f"{threads - 1} thread{'s' if threads > 2 else ''} that the first phase started still run{'s' if threads == 2 else ''}"
    if Path(f"/proc/self/task/{os.getpid()}/children").read_text().strip():
        return "the first phase has started a process that still runs"
    ours = set(own_fds)
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        if fd in ours or fd <= 2:
            continue
        problem = _problem_of_file(fd)
        if problem is not None:
            return problem
    return None


def _problem_of_file(fd: int) -> str | None:
    try:
        mode, target = os.fstat(fd).st_mode, os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return None  # the listing's own
    if stat.S_ISSOCK(mode):
        return "the first phase has left a connection open"
    if stat.S_ISCHR(mode):
        return f"the first phase has opened {target}" if target.startswith(_DEVICES) else None
    if stat.S_ISREG(mode):
        flags = int(_field(f"/proc/self/fdinfo/{fd}", "flags:"), 8)
        return None if flags & os.O_ACCMODE == os.O_RDONLY else f"the first phase has left {target} open for writing"
    if stat.S_ISDIR(mode) or stat.S_ISBLK(mode):
        return None
    return f"the first phase has left {target} open"  # a pipe, an event loop's epoll


def reopen_files() -> None:
    """In a copy: files open for reading get a position of their own."""
    for name in os.listdir("/proc/self/fd"):
        fd = int(name)
        with contextlib.suppress(OSError):
            if fd > 2 and stat.S_ISREG(os.fstat(fd).st_mode):
                position = os.lseek(fd, 0, os.SEEK_CUR)
                again = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
                os.lseek(again, position, os.SEEK_SET)
                os.dup2(again, fd, inheritable=os.get_inheritable(fd))
                os.close(again)


def end_here(app_id: str) -> None:
    """In a Ray worker: end the snapshots of an app on its node."""
    from raymodal.engine.ray.template.node import own_folder

    end(os.path.dirname(own_folder()), app_id)


def end(session_dir: str, app_id: str) -> None:
    """End the snapshots of an app on this machine."""
    for folder in Path(session_dir).glob(f"template-*/snap-{prefix_of(app_id)}-*"):
        (folder / "refused").touch()
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            there = os.open(folder, os.O_RDONLY)
            try:
                connection.connect(f"/proc/self/fd/{there}/s")
            finally:
                os.close(there)
            pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
            if uid == os.geteuid():
                os.kill(pid, 9)
                _wait_for_end(pid)
                mounts.sweep()  # it may have been the last that had a volume


def _wait_for_end(pid: int) -> None:
    """For a moment; it is no child of this process."""
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        try:
            if _field(f"/proc/{pid}/status", "State:") == "Z":
                return
        except OSError:
            return
        time.sleep(0.005)


def _memory_of(pid: int) -> int:
    return int(_field(f"/proc/{pid}/status", "VmRSS:")) << 10


def _available() -> int:
    return int(_field("/proc/meminfo", "MemAvailable:")) << 10


def _field(path: str, name: str) -> Any:
    for line in Path(path).read_text().splitlines():
        if line.startswith(name):
            return line.split()[1]
    raise OSError(f"{path} has no {name}")
