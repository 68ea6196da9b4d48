"""How user code in containers and the tests that call it tell each other things: by files."""

import asyncio
import os
import time


def note(log: str, text: str) -> None:
    """Leave a line where the test, in another process, finds it."""
    if log:
        with open(log, "a") as file:
            file.write(text + "\n")


def await_file(path: str, seconds: float = 20.0) -> bool:
    """Wait for a file; short sleeps, so that interrupts get through."""
    until = time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True


async def await_file_soon(path: str, seconds: float = 20.0) -> bool:
    """The same on a loop."""
    until = time.monotonic() + seconds
    while not os.path.exists(path):
        if time.monotonic() > until:
            return False
        await asyncio.sleep(0.01)
    return True


def await_text(path: str, text: str, seconds: float = 10.0) -> bool:
    """Wait until a log holds `text`."""
    until = time.monotonic() + seconds
    while True:
        with open(path) as file:
            if text in file.read():
                return True
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
