"""For every test: properties have no deadline (machines are shared), and in CI they try the same examples each time."""

from __future__ import annotations

import os
import signal

from hypothesis import settings

settings.register_profile("dev", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "dev")

# A shell gives its background jobs an ignored SIGINT, which Python and everything that it starts would inherit: Ctrl-C is
# what several tests are about.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
