"""What `amgt-server` and `amgt-client` make of signals, whichever thread the system gives them to."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

ASLEEP = """
import os, signal, threading, time
from amgt_fed.cli.service import run_service

def fork_and_end_the_child():
    child = os.fork()
    if child == 0:
        time.sleep(30)
        os._exit(0)
    os.kill(child, signal.SIGTERM)
    os.waitpid(child, 0)

def command(arguments):
    def hit():
        time.sleep(0.3)
        {hit}
    threading.Thread(target=hit, daemon=True).start()
    time.sleep({sleep})

run_service(command)
"""


def run(hit: str, *, sleep: float = 30.0) -> tuple[int, str, float]:
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-c", ASLEEP.format(hit=hit, sleep=sleep)], capture_output=True, text=True, timeout=60
    )
    return ended.returncode, ended.stderr, time.monotonic() - started


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_another_thread_got_ends_a_sleep_of_the_main_one(number: signal.Signals) -> None:
    code, log, took = run(f"signal.pthread_kill(threading.get_ident(), {int(number)})")
    assert code == 128 + number
    assert f"stopping on {number.name}" in log
    assert "Traceback" not in log
    assert took < 20


def test_many_signals_are_one_end_without_a_word_about_the_others() -> None:
    code, log, _ = run("[os.kill(os.getpid(), signal.SIGTERM) for _ in range(200)]")
    assert code == 143
    assert log.count("\n") == 1
    assert "stopping on SIGTERM" in log


def test_a_signal_to_a_forked_child_is_not_one_to_the_service() -> None:
    code, log, took = run("fork_and_end_the_child()", sleep=1.5)
    assert (code, log) == (0, "")
    assert took < 20
