"""What stands in the way of a first run, for real: a small /dev/shm, a full disk, a folder too deep for Ray's sockets.

Each in a mount namespace of its own, so that the machine is not touched. Making one takes rights that a container may lack.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.ray.processes import RAYMODAL, Done, Shell

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]

PROGRAM = """
import modal

app = modal.App("first")

@app.function()
def f(x):
    return x + 1

@app.local_entrypoint()
def main():
    print("value", f.remote(20))
"""


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    made = Shell(tmp_path, tmp_path / "home")
    made.write("program.py", PROGRAM)
    return made


def run_within(shell: Shell, mounts: str, **env: str) -> Done:
    """Run the program where `mounts` has been done to the file system, for it alone."""
    if not _can_mount():
        pytest.skip("mount namespaces are not permitted here")
    script = f"set -e; {mounts}; exec {shlex.join([RAYMODAL, 'run', '-q', 'program.py'])}"
    return shell.start(
        "-c", f"import os; os.execvp('unshare', ['unshare', '-m', 'sh', '-c', {script!r}])", **env
    ).finish()


def _can_mount() -> bool:
    tried = ["unshare", "-m", "sh", "-c", "mount -t tmpfs -o size=1m tmpfs /dev/shm"]
    try:
        return subprocess.run(tried, capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def test_a_shared_memory_that_is_too_small_is_one_line(shell: Shell) -> None:
    """Docker's default is 64 MiB; less, and Ray would die with a message about a bus error."""
    done = run_within(shell, "mount -t tmpfs -o size=32m tmpfs /dev/shm")

    assert done.code == 1
    (line,) = done.err.splitlines()
    assert "/dev/shm has 32 MiB free" in line
    assert "--shm-size=2g" in line


def test_a_small_shared_memory_works_with_a_warning(shell: Shell) -> None:
    """Docker's default: values go through files, and the program runs."""
    done = run_within(shell, "mount -t tmpfs -o size=64m tmpfs /dev/shm")

    assert (done.code, done.out) == (0, "value 21\n"), done
    (line,) = done.err.splitlines()
    assert "/dev/shm has only 64 MiB free" in line


def test_a_full_disk_is_one_line(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Above 95 % Ray refuses to store anything, long after the start."""
    disk = tmp_path_factory.mktemp("d")  # short, for Ray's sockets
    here = shlex.quote(str(disk))
    fill = f"dd if=/dev/zero of={here}/ballast bs=1M count=62 2>/dev/null"
    done = run_within(shell, f"mount -t tmpfs -o size=64m tmpfs {here}; {fill}", RAYMODAL_TMPDIR=str(disk))

    assert done.code == 1
    (line,) = done.err.splitlines()
    assert f"The disk that holds {disk} is 97 % full" in line
    assert "RAYMODAL_TMPDIR" in line


def test_a_home_that_cannot_be_written(shell: Shell, tmp_path: Path) -> None:
    """As with `docker run --user 1234`, where HOME is /: the token lies in the user's private temporary folder, for this run."""
    program = PROGRAM + "    import os\n    print(os.environ['RAY_AUTH_MODE'], os.environ['RAY_AUTH_TOKEN_PATH'])\n"
    shell.write("program.py", program)
    done = shell.raymodal("run", "-q", "program.py", HOME="/dev/null/home", RAYMODAL_HOME="", TMPDIR=str(tmp_path))

    token = tmp_path / f"raymodal-{os.getuid()}" / "auth_token"
    assert (done.code, done.out) == (0, f"value 21\ntoken {token}\n"), done
    assert token.stat().st_mode & 0o777 == 0o600

    undone = """
import os
from raymodal.config import settings
from raymodal.engine.ray import cluster
before = dict(os.environ)
cluster.connect(settings(), num_cpus=1)
assert os.environ["RAY_AUTH_TOKEN_PATH"] == TOKEN
cluster.shutdown()
print({name for name in {*before, *os.environ} if name.startswith("RAY_AUTH") and before.get(name) != os.environ.get(name)})
"""
    done = shell.python(
        "-c", f"TOKEN = {str(token)!r}" + undone, HOME="/dev/null/home", RAYMODAL_HOME="", TMPDIR=str(tmp_path)
    )
    assert (done.code, done.out) == (0, "set()\n"), done


def test_without_any_home(shell: Shell, tmp_path: Path) -> None:
    """No HOME, and no entry among the users."""
    done = run_within(shell, "mount --bind /dev/null /etc/passwd; unset HOME RAYMODAL_HOME", TMPDIR=str(tmp_path))

    assert (done.code, done.out) == (0, "value 21\n"), done


def test_a_folder_that_is_too_deep_is_one_line(shell: Shell) -> None:
    """The path of a socket may have 107 bytes."""
    deep = shell.folder / ("d" * 60)
    deep.mkdir()
    done = shell.raymodal("run", "-q", "program.py", RAYMODAL_TMPDIR=str(deep))

    assert done.code == 1
    (line,) = done.err.splitlines()
    assert str(deep) in line
    assert "RAYMODAL_TMPDIR" in line
    assert os.listdir(deep) == []
