"""What holds for every test."""

from __future__ import annotations

import gc
import signal

import pytest

# A shell starts background jobs (`make test &`) with SIGINT ignored, and children inherit that; the tests that
# interrupt a child would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def _set_aside_what_other_modules_left() -> None:
    """Flower collects garbage once per array it reads, which takes long where earlier tests imported much."""
    gc.collect()
    gc.freeze()
