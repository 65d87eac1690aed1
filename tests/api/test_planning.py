"""`opwright plan`: candidate.json of kernels without one, and holes where nothing says enough."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from opwright.cli import app
from opwright.ir.plan import PlanError, load

SPEC = """opwright "0.1"

op scaled @ 1.0 "Rows times a number." {
  dims  B, N
  param factor: f32 = 2.0
  input x: f32[B, N]
  output y: f32[B, N]

  def { y[b, n] = x[b, n] * factor }

  tolerance versus f64 { f32: abs 1e-6 rel 1e-6 }
}
"""
KERNEL = """import triton
import triton.language as tl


@triton.jit
def rows(out_ptr, x_ptr, x_row_stride, stride_out_0, width, factor, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    mask = cols < width
    x = tl.load(x_ptr + row * x_row_stride + cols, mask=mask)
    tl.store(out_ptr + row * stride_out_0 + cols, x * factor, mask=mask)
"""
CUDA = """extern "C" __global__ void rows(float *y, const float *x, int N, float factor) {
  int row = blockIdx.x;
  for (int c = threadIdx.x; c < N; c += blockDim.x)
    y[(long)row * N + c] = x[(long)row * N + c] * factor;
}
"""
CPP = """#include <cstdint>
extern "C" void rows(float *y, const float *x, int64_t N, float factor,
                     int64_t pid0, int64_t, int64_t) {
  for (int64_t c = 0; c < N; c++) y[pid0 * N + c] = x[pid0 * N + c] * factor;
}
"""


def drafted(tmp_path: Path, file: str, text: str, *options: str) -> tuple[int, str, Any]:
    (tmp_path / "spec.op").write_text(SPEC)
    (tmp_path / file).write_text(text)
    out = tmp_path / "out"
    words = ["plan", str(tmp_path / "spec.op"), str(tmp_path / file), "-o", str(out), *options]
    found = CliRunner().invoke(app, words)
    made = out / "candidate.json"
    return found.exit_code, found.output, json.loads(made.read_text()) if made.exists() else None


def test_names_are_matched_and_the_rest_are_holes(tmp_path: Path) -> None:
    code, said, plan = drafted(tmp_path, "rows.py", KERNEL)
    assert code == 1 and "3 holes to fill" in said
    launch = plan["launches"][0]
    assert launch["args"][:4] == ["y", "x", "i32(stride(x, 0))", "i32(stride(y, 0))"]
    assert launch["args"][4].startswith("?width")
    assert launch["args"][5] == "factor"
    assert launch["const"]["BLOCK"].startswith("?") and launch["grid"][0].startswith("?")
    assert plan["facts"] == ["stride(x, 1) == 1", "stride(y, 1) == 1"]
    with pytest.raises(PlanError, match=r"launches\[0\]\.grid\[0\] is a hole: grid"):
        load(tmp_path / "out")


def test_options_fill_holes(tmp_path: Path) -> None:
    options = (
        "--arg",
        "width=i32(N)",
        "--const",
        "BLOCK=1024",
        "--grid",
        "B",
        "--fact",
        "N <= 1024",
    )
    code, said, plan = drafted(tmp_path, "rows.py", KERNEL, *options)
    assert code == 0, said
    assert plan["launches"][0]["grid"] == ["B"] and plan["facts"][-1] == "N <= 1024"
    assert load(tmp_path / "out").launches[0].const == {"BLOCK": 1024}
    assert drafted(tmp_path, "rows.py", KERNEL, *options)[0] == 0
    code, said, _ = drafted(tmp_path, "rows.py", KERNEL, *options[:-2])
    assert code == 2 and "exists" in said


def test_a_kernel_is_never_written_over(tmp_path: Path) -> None:
    text = KERNEL + "\n\ndef launch():\n    pass\n"
    code, said, _ = drafted(tmp_path, "kernel.py", text, "-o", str(tmp_path), "--force")
    assert code == 2 and "the kernel's own file" in " ".join(said.split())
    assert (tmp_path / "kernel.py").read_text() == text
    assert not (tmp_path / "candidate.json").exists()


def test_an_option_for_nothing_is_refused(tmp_path: Path) -> None:
    code, said, plan = drafted(tmp_path, "rows.py", KERNEL, "--arg", "depth=N")
    assert code == 2 and "rows has no parameter depth" in said and plan is None


@pytest.mark.parametrize(("file", "text"), [("rows.cu", CUDA), ("rows.cpp", CPP)])
def test_other_languages_have_signatures_too(tmp_path: Path, file: str, text: str) -> None:
    block = ("--block", "256") if file.endswith("cu") else ()
    code, said, plan = drafted(tmp_path, file, text, "--grid", "B", *block)
    assert code == 0, said
    wanted = "i32(N)" if file.endswith("cu") else "N"
    assert plan["launches"][0]["args"] == ["y", "x", wanted, "factor"]
    assert "stride(y, 0) == N" in plan["facts"]
