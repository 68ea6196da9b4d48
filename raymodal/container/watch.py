"""The side thread that looks at what runs. It ticks only while something does, so an idle container costs nothing."""

from __future__ import annotations

import threading
import time

from raymodal.container.runtime import Runtime

TICK_S = 0.050
LINGER_TICKS = 20  # ticks without a bundle before it sleeps: waking a thread costs more than a few idle ticks


class Watch:
    """Calls `Runtime.inspect` every `TICK_S` while the runtime is busy."""

    def __init__(self, runtime: Runtime, name: str = "raymodal-watch") -> None:
        self._runtime = runtime
        self._event = threading.Event()
        self._asleep = True
        self._closed = False
        runtime.wake = self.wake
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Something runs now. Called once per bundle on the main thread."""
        if self._asleep:
            self._event.set()

    def close(self) -> None:
        self._closed = True
        self._event.set()

    def _run(self) -> None:
        while not self._closed:
            self._event.wait()
            self._event.clear()
            self._asleep = False
            idle = 0
            while idle < LINGER_TICKS and not self._closed:
                time.sleep(TICK_S)
                if self._runtime.current is None:
                    idle += 1
                else:
                    idle = 0
                    self._runtime.inspect()
            self._asleep = True
            if self._runtime.current is not None:
                # Began between the last look and falling asleep, when wake() was still a no-op.
                self._event.set()
