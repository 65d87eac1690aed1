"""What packages of kernels for GPUs correct in Triton's interpreter, and what they say without a
GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

KERNEL = """
import numpy as np
import torch
import triton
import triton.language as tl
from opwright.runtime.interpreter import correct_the_interpreter, declared


@triton.jit
def scaled(x, y, a: tl.float32, b: tl.float64, n):
    i = tl.arange(0, 4)
    wide = tl.load(x + i).to(tl.float64) * a.to(tl.float64) + b
    tl.store(y + i, (wide * n).to(tl.float32))


correct_the_interpreter()
x, y = torch.arange(4.0), torch.empty(4)
args = [declared(scaled, n, v) for n, v in enumerate((x, y, 0.5, 2.0, 3))]
assert args[0] is x and args[4] == 3
scaled[(1,)](*args)
assert y.tolist() == [6.0, 7.5, 9.0, 10.5], y
"""


def test_real_numbers_have_the_type_that_a_kernel_declares(tmp_path: Path) -> None:
    pytest.importorskip("triton")
    (tmp_path / "use.py").write_text(KERNEL)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "use.py")],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
