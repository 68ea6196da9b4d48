"""Compiles what Ray's workers and raymodal's containers import: run as a script by `bytecode.fill`, niced.

    fill.py DONE LOCK KEY

With PYTHONPYCACHEPREFIX in its environment. Importing a module writes its bytecode; raymodal's own files are compiled
without being imported. A pipe at stdin ties it to the process that wants it; half a minute is its end in any case.
"""

import compileall
import contextlib
import fcntl
import importlib
import importlib.util
import json
import os
import signal
import stat
import sys
import threading
import time

LONGEST_S = 30


def main() -> None:
    """See the top."""
    done, lock, key = sys.argv[1:]
    os.nice(19)
    signal.alarm(LONGEST_S)
    if stat.S_ISFIFO(os.fstat(0).st_mode):
        threading.Thread(target=_end_with_parent, daemon=True).start()
    held = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    deadline = time.monotonic() + 0.3
    while True:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except OSError:
            if time.monotonic() > deadline:  # somebody who only looks holds it for no time at all
                return
            time.sleep(0.02)
    root = os.path.dirname(os.path.abspath(__file__)).removesuffix(os.path.join("engine", "ray", "cluster"))
    sys.path.append(os.path.dirname(root.rstrip(os.sep)))
    # What the template imports is what every worker does, and Ray's agent for runtime environments starts on each node.
    for name in ("raymodal.engine.ray.template.server", "ray._private.runtime_env.agent.runtime_env_agent"):
        with contextlib.suppress(Exception):
            module = importlib.import_module(name)
            if hasattr(module, "preload"):
                module.preload()
    files = sum(1 for module in list(sys.modules.values()) if _is_compiled(module))
    compileall.compile_dir(root, quiet=2, workers=1)
    temporary = f"{done}.{os.getpid()}"
    with open(temporary, "w") as file:
        json.dump({"for": key, "files": files}, file)
    os.replace(temporary, done)


def _is_compiled(module: object) -> bool:
    cached = getattr(module, "__cached__", None)
    return isinstance(cached, str) and os.path.exists(cached)


def _end_with_parent() -> None:
    os.read(0, 1)
    os._exit(0)


if __name__ == "__main__":
    main()
