"""`raymodal run` from the outside: small programs in processes of their own, as users start them."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ray.processes import HANG_S, RAYMODAL, Program, Shell, is_alive, wait_until, wait_until_gone

pytestmark = [pytest.mark.ray, pytest.mark.timeout(120)]


@pytest.fixture
def shell(tmp_path: Path, request: pytest.FixtureRequest) -> Shell:
    return Shell(tmp_path, request.config.cache.mkdir("raymodal-home"))


EVERYTHING = """
import asyncio
import sys

import helper
import modal
import modal.queue
from modal.exception import FunctionTimeoutError

app = modal.App("everything")


@app.function()
def square(x):
    import os

    import raymodal
    from modal.exception import FunctionTimeoutError as seen_here

    assert modal is raymodal and modal.queue is raymodal.queue
    assert seen_here is raymodal.exception.FunctionTimeoutError
    assert __name__ == "first-program", __name__
    assert os.path.basename(os.getcwd()) == os.environ["WHERE"]
    print("container", x)
    print("container err", x, file=sys.stderr)
    return helper.VALUE * x * x


@app.function()
def outer(x):
    return square.remote(x) + 1


@app.function(timeout=1)
def slow():
    import time

    time.sleep(30)


@app.local_entrypoint()
async def main(n: int, word: str = "w", loud: bool = False):
    print("local", n, word, loud)
    print(await square.remote.aio(n))
    print([y async for y in square.map.aio(range(3))])
    print(await outer.remote.aio(3))
    try:
        await slow.remote.aio()
    except FunctionTimeoutError:
        print("timed out")


@app.local_entrypoint()
def other():
    print("wrong")
"""


def test_a_program_with_everything(shell: Shell) -> None:
    """Helper beside it, `modal` in the driver and in containers, dashes in its name, options, an async entrypoint."""
    shell.write("deep/helper.py", "VALUE = 10\n")
    shell.write("deep/first-program.py", EVERYTHING)

    done = shell.raymodal("run", "deep/first-program.py::main", "--n", "2", "--loud", WHERE=shell.folder.name)

    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert lines[:3] == ["local 2 w True", "container 2", "40"]
    assert sorted(lines[3:7]) == ["[0, 10, 40]", "container 0", "container 1", "container 2"]
    assert lines[7:] == ["container 3", "91", "timed out"]
    err = done.err.splitlines()
    assert re.fullmatch(r"✓ Initialized\. App everything \(ap-\w+\) on local Ray", err[0])
    assert sorted(err[1:-1]) == [f"container err {x}" for x in (0, 1, 2, 2, 3)]
    assert re.fullmatch(r"✓ App completed in [\d.]+ s", err[-1])


IN_ORDER = """
import asyncio

import modal

app = modal.App()


@app.function()
def echo(x):
    print("there", x)
    return x


@app.function()
def count(n):
    for i in range(n):
        print("there", i)
        yield i


@app.function()
@modal.concurrent(max_inputs=4)
async def several(x):
    print("there", x)
    return x


@app.local_entrypoint()
async def main():
    for i in range(100):
        print("here", await echo.remote.aio(i))
    await asyncio.to_thread(plainly)


def plainly():
    for i in range(100):
        print("here", echo.remote(i))
    for i in range(100):
        print("here", several.remote(i))
    for i in range(20):
        print("here", echo.spawn(i).get())
    for i in range(20):
        print("here", *echo.map([i]))
    for i in range(20):
        print("here", *count.remote_gen(1))
"""


def test_what_a_container_printed_is_shown_before_its_result(shell: Shell) -> None:
    """Whichever way the result comes: what this process prints next comes after it."""
    shell.write("in_order.py", IN_ORDER)

    done = shell.raymodal("run", "in_order.py")

    assert done.code == 0, done.err
    lines = [line.split()[0] for line in done.out.splitlines()]
    assert lines == ["there", "here"] * 360


PACKAGE = """
import sys

import modal

from .part import VALUE

app = modal.App()


@app.function()
def add(x: int, y: int = VALUE):
    print("nobody sees this")
    return str(x + y)


@app.function()
def broken(x: int):
    {}["missing"]


@app.local_entrypoint()
def fails():
    broken.remote(1)


@app.local_entrypoint()
def leaves():
    print(add.remote(1))
    sys.exit(5)
"""


@pytest.fixture
def package(shell: Shell) -> Shell:
    shell.write("package/__init__.py", "")
    shell.write("package/part.py", "VALUE = 7\n")
    shell.write("package/start.py", PACKAGE)
    return shell


def test_a_function_chosen_directly_and_quietly(package: Shell) -> None:
    """`-m`, a relative import, `--quiet`, and the result in a file."""
    done = package.raymodal("run", "--quiet", "-w", "result.txt", "-m", "package.start::add", "--x", "5")

    assert done == (0, "", "")
    assert (package.folder / "result.txt").read_text() == "12"


def test_an_error_is_one_traceback_of_the_users_lines(package: Shell) -> None:
    """Local frames, then remote ones; none of raymodal's; exit status 1."""
    done = package.raymodal("run", "-m", "package.start::fails")

    assert (done.code, done.out) == (1, "")
    first, *rest = done.err[done.err.index("Traceback") :].splitlines()
    file = package.folder / "package/start.py"
    assert first == "Traceback (most recent call last):"
    assert [re.sub(r"ta-\w+", "ta-1", line) for line in rest] == [
        f'  File "{file}", line 24, in fails',
        "    broken.remote(1)",
        f'  File "ta-1:{file}", line 19, in broken',
        '    {}["missing"]',
        "KeyError: 'missing'",
    ]
    assert "completed" not in done.err


def test_exit_statuses(package: Shell) -> None:
    """The program's own, and 2 for wrong usage, before anything is started."""
    done = package.raymodal("run", "-m", "package.start::leaves")

    assert (done.code, done.out) == (5, "nobody sees this\n8\n"), done.err
    assert "Traceback" not in done.err
    wrong = package.raymodal("run", "-m", "package.start::add", "--z", "1")
    assert (wrong.code, wrong.out) == (2, "")
    assert "No such option" in wrong.err
    assert "Initialized" not in wrong.err


ENDLESS = """
import subprocess
import sys
import time

import modal

app = modal.App("endless")


@app.function(max_containers=2)
def sleep(x):
    child = subprocess.Popen(["setsid", "sleep", "300"])
    print("sleeping", child.pid)
    try:
        time.sleep(300)
    finally:
        child.kill()
        print("cleaned up")


@app.local_entrypoint()
def main():
    try:
        list(sleep.map(range(4)))
    finally:
        print("left main")
"""


def started(shell: Shell) -> tuple[Program, list[int]]:
    """The endless program when both of its containers work, and everything that it has started."""
    shell.write("endless.py", ENDLESS)
    program = shell.start(RAYMODAL, "run", "endless.py")
    wait_until(lambda: program.out.count("sleeping") == 2 or program.process.poll() is not None, lambda: program.err)
    children = [int(line.split()[1]) for line in program.out.splitlines()]
    below = program.descendants()
    assert set(children) <= set(below)
    return program, below


@pytest.mark.parametrize("to_group", [True, False], ids=["to the group", "to the process"])
def test_ctrl_c_ends_the_run_and_all_that_it_started(shell: Shell, to_group: bool) -> None:
    """What runs is interrupted and cleans up; nothing is left behind; exit status 130."""
    program, below = started(shell)

    program.signal(signal.SIGINT, group=to_group)
    done = program.finish()

    assert done.code == 130, done
    assert "left main" in done.out
    assert done.out.count("cleaned up") == 2
    assert "Traceback" not in done.err
    assert "completed" not in done.err
    wait_until_gone(below)


def test_sigterm_ends_the_run_in_order(shell: Shell) -> None:
    """As Ctrl-C does, without Ray's stack."""
    program, below = started(shell)

    program.signal(signal.SIGTERM)
    done = program.finish()

    assert done.code == 143, done
    assert "left main" in done.out
    assert "SIGTERM" not in done.err
    wait_until_gone(below)


ON_A_TERMINAL = """
import modal

app = modal.App("tty")


@app.function(max_containers=2)
def f(x):
    print("container", x, "c" * 100)
    return x


@app.local_entrypoint()
def main():
    print("sum", sum(f.map(range(20))))
"""


def test_on_a_terminal_a_live_view_stays_below_the_lines(shell: Shell) -> None:
    """What was made, its containers, its inputs; no colours under NO_COLOR; lines wider than the screen stay whole."""
    shell.write("on_a_terminal.py", ON_A_TERMINAL)
    ours, theirs = pty.openpty()
    shown = bytearray()
    try:
        with subprocess.Popen(
            [RAYMODAL, "run", "on_a_terminal.py"],
            cwd=shell.folder,
            env=shell.environment(NO_COLOR="1", TERM="xterm", COLUMNS="60"),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        ) as process:
            os.close(theirs)
            with contextlib.suppress(OSError):  # how Linux says that the other side has closed
                while data := os.read(ours, 1 << 16):
                    shown += data
    finally:
        os.close(ours)

    text = shown.decode()
    assert process.returncode == 0, text
    assert "\x1b[3" not in text
    lines = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", text).replace("\r", "\n").split("\n")
    assert {f"container {x} {'c' * 100}" for x in range(20)} | {"sum 190"} <= set(lines)
    assert any(
        re.fullmatch(r"└── ✓ function f  \d containers?(, \d starting)? · 20/20 inputs", line) for line in lines
    ), text
    assert any("App completed" in line for line in lines)


THREADS = """
import sys

import modal

app = modal.App("threads")


@app.function(gpu="H100")
def f(x):
    print("in f", x)
    return x + 1


@app.local_entrypoint()
def main():
    print(f.remote(1), list(f.map(range(3))), "ray" in sys.modules)
"""


def test_the_local_engine_starts_no_ray(shell: Shell) -> None:
    """`--engine local`: the same program in threads."""
    shell.write("threads.py", THREADS)

    done = shell.raymodal("run", "--engine", "local", "threads.py")

    assert done.code == 0, done.err
    assert sorted(done.out.splitlines()) == ["2 [1, 2, 3] False", "in f 0", "in f 1", "in f 1", "in f 2"]


SCRIPT = """
import raymodal as modal

import helper

app = modal.App("script")


class Pair:
    def __init__(self, x):
        self.x = x


@app.function()
def f(pair):
    print("container", pair.x)
    return Pair(helper.VALUE * pair.x)


@app.function(serialized=True)
def g(x):
    return [helper.VALUE, x]


if __name__ == "__main__":
    with modal.enable_output(), app.run():
        print([type(pair).__name__ + str(pair.x) for pair in f.map([Pair(1), Pair(2)])])
        print(g.remote(5))
    print("after")
"""


def test_a_script_run_by_python(shell: Shell) -> None:
    """`import raymodal as modal`; its functions are found under its stem."""
    shell.write("helper.py", "VALUE = 10\n")
    shell.write("script.py", SCRIPT)

    done = shell.python("script.py")

    assert done.code == 0, done.err
    assert sorted(done.out.splitlines()) == ["['Pair10', 'Pair20']", "[10, 5]", "after", "container 1", "container 2"]
    assert [line.split(" ")[:2] for line in done.err.splitlines()] == [["✓", "Initialized."], ["✓", "App"]]


NAMED_LIKE_MODULES = """
import modal

app = modal.App("clash")


class Mine(Exception):
    pass


@app.function()
def f(x):
    import queue
    import random

    if x == 0:
        raise Mine(queue.Queue.__name__)
    return random.randint(x, x)


@app.local_entrypoint()
def main():
    try:
        f.remote(0)
    except Mine as error:
        print(error)
    print(f.remote(3))
"""


@pytest.mark.parametrize("name", ["queue.py", "random.py"])
def test_a_program_called_like_a_module_of_python(shell: Shell, name: str) -> None:
    """Neither it nor its neighbours take the place of what Ray and raymodal import."""
    shell.write(name, NAMED_LIKE_MODULES)
    shell.write("calendar.py", "raise AssertionError('imported by mistake')\n")

    done = shell.raymodal("run", name)

    assert (done.code, done.out) == (0, "Queue\n3\n"), done.err


ELSEWHERE = """
import modal

app = modal.App("elsewhere")


@app.function()
def f(x):
    import os

    print("pid", os.getpid())
    return x + 1


@app.local_entrypoint()
def main():
    print(f.remote(1))
"""


@pytest.fixture
def cluster(tmp_path_factory: pytest.TempPathFactory, shell: Shell) -> Iterator[str]:
    """The address of a Ray that the user started."""
    from raymodal.engine.ray.cluster.node import free_port

    address = f"127.0.0.1:{free_port()}"
    options = ["--head", "--node-ip-address=127.0.0.1", f"--port={address.split(':')[1]}", "--num-cpus=2", "--block"]
    quick = ["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=100000000"]
    folder = f"--temp-dir={tmp_path_factory.mktemp('r')}"
    ray = str(Path(sys.executable).with_name("ray"))
    head = shell.start(ray, "start", *options, *quick, folder, RAY_AUTH_MODE="disabled")
    below: list[int] = []
    try:
        head.wait_for("Ray runtime started")
        below = head.descendants()
        yield address
    finally:
        head.signal(signal.SIGKILL)
        for pid in below or head.descendants():
            subprocess.run(["kill", "-9", str(pid)], check=False, capture_output=True)
        head.process.wait(HANG_S)
        wait_until_gone(below)


def test_a_cluster_of_the_users(shell: Shell, cluster: str) -> None:
    """`--address` runs there, leaves no container there, and leaves the cluster alone."""
    shell.write("elsewhere.py", ELSEWHERE)

    done = shell.raymodal("run", "--address", cluster, "elsewhere.py", RAY_AUTH_MODE="disabled")

    assert done.code == 0, done.err
    pid, result = done.out.splitlines()
    assert result == "2"
    assert f"on Ray at {cluster}" in done.err
    wait_until(lambda: not is_alive(int(pid.split()[1])))
    again = shell.raymodal("run", "elsewhere.py", RAY_ADDRESS=cluster, RAY_AUTH_MODE="disabled")
    assert again.code == 0, again.err
