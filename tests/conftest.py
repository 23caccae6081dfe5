"""What holds for every test."""

from __future__ import annotations

import signal

# A shell starts background jobs (`make test &`) with SIGINT ignored, and children inherit that; the tests that
# interrupt a child would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
