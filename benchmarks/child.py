"""The child's side: answers one request at a time, on the main thread, until its pipe closes.

It keeps what it started (a Ray, open sessions) between requests and never measures unasked.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack
from types import FrameType
from typing import Any

from .model import Round, resolve
from .processes import set_parent_death_signal

# A child stuck in foreign code cannot clean up; after this long without a parent it goes, with its group.
ORPHAN_GRACE_S = 10.0


class Host:
    """What one child keeps."""

    def __init__(self) -> None:
        self._cleanup = ExitStack()
        self._sessions: dict[str, tuple[ExitStack, Round]] = {}

    def start(self, kind: str) -> dict[str, Any]:
        """Start what contenders of this kind expect."""
        if kind == "ray":
            import ray

            ray.init(address="local", include_dashboard=False)
            self._cleanup.callback(ray.shutdown)
        elif kind == "raymodal on stock Ray":
            from .baselines.hello import running_cluster

            address, env = self._cleanup.enter_context(running_cluster())
            # Before raymodal is imported, which reads its settings once.
            os.environ.update({"RAY_ADDRESS": address, **env})
        return {}

    def open(self, session: str, ref: str, params: dict[str, Any]) -> dict[str, Any]:
        """Open a session and keep its round."""
        stack = ExitStack()
        try:
            round_ = stack.enter_context(resolve(ref)(params))
        except BaseException:
            stack.close()
            raise
        self._sessions[session] = (stack, round_)
        return {}

    def round(self, session: str) -> dict[str, Any]:
        """Run one round of an open session."""
        return {"figures": self._sessions[session][1]()}

    def close(self, session: str) -> dict[str, Any]:
        """Close a session; unknown ones are closed already."""
        stack, _ = self._sessions.pop(session, (ExitStack(), None))
        stack.close()
        return {}

    def shutdown(self) -> None:
        """Close what is open, last opened first."""
        for session in reversed(list(self._sessions)):
            with contextlib.suppress(Exception):
                self.close(session)
        self._cleanup.close()


def main(request_fd: int, reply_fd: int) -> None:
    """Answer requests until the pipe closes."""
    # Ray's daemons and pool workers must not hold the pipes open.
    os.set_inheritable(request_fd, False)
    os.set_inheritable(reply_fd, False)
    _end_with(os.getppid())
    host = Host()
    operations: dict[str, Callable[..., dict[str, Any]]] = {
        "start": host.start,
        "open": host.open,
        "round": host.round,
        "close": host.close,
    }
    try:
        with os.fdopen(request_fd, "r") as requests, os.fdopen(reply_fd, "w") as replies:
            for line in requests:
                fields = json.loads(line)
                operation = operations[fields.pop("op")]
                try:
                    reply = operation(**fields)
                except Exception as error:
                    reply = {"error": _described(error)}
                try:
                    replies.write(json.dumps(reply) + "\n")
                    replies.flush()
                except BrokenPipeError:
                    break
    finally:
        host.shutdown()


def _described(error: Exception) -> str:
    # Without the frames of this file, which say nothing about the failure.
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None and frames.tb_frame.f_code.co_filename == __file__:
        frames = frames.tb_next
    return "".join(traceback.format_exception(type(error), error, frames))


def _end_with(parent: int) -> None:
    signal.signal(signal.SIGTERM, _exit_on_signal)
    set_parent_death_signal(signal.SIGTERM)
    if os.getppid() != parent:
        sys.exit(1)
    threading.Thread(target=_watch, args=(parent,), name="parent-watch", daemon=True).start()


def _exit_on_signal(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)
    time.sleep(ORPHAN_GRACE_S)
    os.killpg(os.getpgid(0), signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
