"""Kernels of every kind as they are printed: products, scans, gathers, atomics, extremes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support import foreign

from opwright.backends.triton.printer import print_program
from opwright.ir.tiletext import parse_program

HERE = Path(__file__).parent
NAMES = ("best", "count", "flat", "lookup", "online", "running", "split", "swizzle", "transpose")


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_is_printed(name: str, golden: Callable[[Path, str], None]) -> None:
    text = print_program(parse_program(foreign.RIGHT[name]))
    compile(text, f"{name}.py", "exec")
    golden(HERE / "goldens" / f"{name}.txt", text)
