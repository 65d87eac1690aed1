"""Counters over calls of another process, where the system has them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from opwright.search.counters import HARDWARE, Counters, hardware

TOUCH = """import sys
print(flush=True)
sys.stdin.readline()
held = bytearray(1 << 24)
print(flush=True)
sys.stdin.readline()
"""


def test_a_process_that_was_started_later_is_counted() -> None:
    with Counters.open() as counters:
        if "page_faults" not in counters.handles:
            pytest.skip("this system counts nothing for its users")
        command = [sys.executable, "-I", "-S", "-c", TOUCH]
        pipe = subprocess.PIPE
        with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as child:
            assert child.stdin is not None and child.stdout is not None
            child.stdout.readline()
            counters.start()
            print(file=child.stdin, flush=True)
            child.stdout.readline()
            found = counters.stop(2)
            print(file=child.stdin, flush=True)
    assert (1 << 24 >> 12) / 2 * 0.9 < found["page_faults"] < (1 << 24 >> 12)
    assert set(HARDWARE) & set(found) == (set() if hardware() else set(HARDWARE) & set(found))


def test_why_the_processor_is_not_counted_is_said() -> None:
    with Counters.open() as counters:
        assert bool(hardware()) != ("cycles" in counters.handles)
    assert counters.handles == {}
