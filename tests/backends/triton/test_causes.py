"""Refutations of narrow arithmetic: their causes in words, and runs with integers that wrap."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("triton")

from opwright.backends.triton.concrete import Extent, run_launch
from opwright.backends.triton.interpretable import interpretable
from opwright.compiler.candidates import Candidate
from opwright.compiler.elaborate import parse_spec
from opwright.compiler.importing import static_gates
from opwright.ir.launch import bind_plan, with_room
from opwright.ir.plan import from_json
from opwright.ir.record import Record

SPEC = """opwright "0.1"

op doubled @ 1.0 "Twice." {
  dims  B, N
  where N <= 4096
  input x: f32[B, N]
  output y: f32[B, N]

  def { y[b, n] = 2 * x[b, n] }

  tolerance versus f64 { f32: abs 1e-6 rel 1e-6 }
}
"""
HEAD = "import triton\nimport triton.language as tl\n\n\n"
ROWS = """
    @triton.jit
    def rows(x_ptr, y_ptr, stride, n_cols, BLOCK: tl.constexpr):
        row = tl.program_id(0){wide}
        cols = tl.arange(0, BLOCK)
        mask = cols < n_cols
        x = tl.load(x_ptr + row * stride + cols, mask=mask, other=0.0)
        tl.store(y_ptr + row * stride + cols, 2 * x, mask=mask)
"""
DENSE = [f"stride({t}, {a})" for t in "xy" for a in "01"]


def judged(text: str, kernel: str, facts: list[str], **launch: Any) -> tuple[Record, ...]:
    source = HEAD + textwrap.dedent(text).strip() + "\n"
    dense = [f"{s} == {'N' if s.endswith('0)') else '1'}" for s in DENSE]
    document = {"abi": 1, "op": "doubled@1.0", "target": "sm_90", "backend": "triton",
                "source": "kernel.py", "facts": [*dense, *facts],
                "launches": [{"kernel": kernel, **launch}]}  # fmt: skip
    op = parse_spec(SPEC).operator()
    plan = with_room(from_json(document), op)
    return static_gates(Candidate(plan, source), op).records


LAUNCH: dict[str, Any] = {
    "grid": ["B"],
    "args": ["x", "y", "i32(stride(x, 0))", "i32(N)"],
    "const": {"BLOCK": 4096},
}


def test_a_wrap_is_told_with_its_cause_its_address_and_the_missing_fact() -> None:
    found = judged(ROWS.format(wide=""), "rows", [], **LAUNCH)
    wrong = [r for r in found if r.status == "REFUTED"]
    assert wrong and all(r.id.startswith("G2.wrap") for r in wrong)
    first = wrong[0]
    assert re.search(r"`row \* stride` = 2147\d{6} wraps in 32 bits, to -2147\d{6}", first.reason)
    assert re.search(r"kernel.py:10 reads x\[-2147\d{6}\]", first.reason)
    assert "PROVED where B * N <= 2147483647" in first.reason
    example = first.counterexample or {}
    b, n = example["sizes"]["B"], example["sizes"]["N"]
    assert example["program"] == [b - 1] and (b - 1) * n >= 2**31
    assert example["access"]["offset"] < 0 and example["access"]["last"] == b * n - 1


def test_with_the_fact_or_with_wide_numbers_nothing_is_blamed() -> None:
    guarded = judged(ROWS.format(wide=""), "rows", ["B * N <= 2147483647"], **LAUNCH)
    widened = judged(ROWS.format(wide=".to(tl.int64)"), "rows", [], **LAUNCH)
    for found in (guarded, widened):
        assert {r.status for r in found if r.kind in ("G2", "G3", "G5")} == {"PROVED"}


def test_a_fact_one_element_too_weak_does_not_help() -> None:
    found = judged(ROWS.format(wide=""), "rows", ["B * N <= 2147487744"], **LAUNCH)
    assert any(r.id.startswith("G2.wrap") and r.status == "REFUTED" for r in found)


def test_a_missing_mask_is_told_with_the_fact_that_is_missing() -> None:
    text = """
        @triton.jit
        def rows(x_ptr, y_ptr, n_cols, BLOCK: tl.constexpr):
            row = tl.program_id(0).to(tl.int64)
            for start in range(0, n_cols, BLOCK):
                cols = start + tl.arange(0, BLOCK)
                x = tl.load(x_ptr + row * n_cols + cols)
                tl.store(y_ptr + row * n_cols + cols, 2 * x, mask=cols < n_cols)
    """
    launch = {"grid": ["B"], "args": ["x", "y", "i32(N)"], "const": {"BLOCK": 64}}
    found = judged(text, "rows", [], **launch)
    wrong = [r for r in found if r.status == "REFUTED"]
    assert [r.id.split(".")[1] for r in wrong] == ["bounds"]
    assert "N % 64 == 0" in wrong[0].reason and "B" not in wrong[0].reason.split("PROVED")[1]
    fine = judged(text, "rows", ["N % 64 == 0"], **launch)
    assert {r.status for r in fine if r.kind in ("G2", "G3")} == {"PROVED"}


def test_a_run_with_narrow_integers_sees_what_an_exact_one_does_not() -> None:
    source = HEAD + textwrap.dedent(ROWS.format(wide="")).strip() + "\n"
    document = {"abi": 1, "op": "doubled@1.0", "target": "sm_90", "backend": "triton",
                "source": "kernel.py", "facts": [],
                "launches": [{"kernel": "rows", **LAUNCH}]}  # fmt: skip
    bound = bind_plan(from_json(document), parse_spec(SPEC).operator())
    numbers: dict[Any, Any] = {"B": 524289, "N": 4096}
    numbers |= {(t, a): (4096, 1)[a] for t in "xy" for a in (0, 1)}
    strays, why = run_launch(source, bound, "kernel.py", "rows", [524288], numbers)
    assert why == "" and [(s.what, s.buffer, s.offset) for s in strays] == [
        ("load", "x", -(2**31)),
        ("store", "y", -(2**31)),
    ]
    strays, why = run_launch(source, bound, "kernel.py", "rows", [524287], numbers)
    assert (strays, why) == ([], "")


def test_extents_of_buffers() -> None:
    assert Extent.of((3, 4), (10, 1)) == Extent(0, 23)
    assert Extent.of((0, 4), (4, 1)) == Extent(0, -1)
    assert Extent.of((3,), (-2,)) == Extent(-4, 0)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a and b", "_lanes_and(lambda: (a ), lambda: ( b))"),
        ("not a", "_lanes_not( a)"),
        (
            "(a < b) and (c or not d)",
            "_lanes_and(lambda: ((a < b) ), lambda: ( "
            "(_lanes_or(lambda: (c ), lambda: ( _lanes_not( d))))))",
        ),
        ("a & b", "a & b"),
    ],
)
def test_logic_of_tiles_is_not_left_to_python(before: str, after: str) -> None:
    text = "def f(a, b, c, d, N: 'tl.constexpr'):\n    return {}\n"
    wanted = text.replace("'", "").format(after)
    assert interpretable(text.format(before)) == wanted


def test_the_interpreter_joins_masks_as_the_compiler_does(tmp_path: Path) -> None:
    import numpy as np

    from opwright.backends.triton.run import interpret

    text = """
        @triton.jit
        def rows(x_ptr, y_ptr, m, n, BLOCK: "tl.constexpr", TWICE: tl.constexpr = True):
            row = tl.program_id(0) * 2 + tl.arange(0, 2)[:, None]
            cols = tl.arange(0, BLOCK)[None, :]
            mask = row < m and not (cols >= n)
            x = tl.load(x_ptr + row * n + cols, mask, other=0.0)
            if TWICE and BLOCK > 1:
                x = 2 * x
            tl.store(y_ptr + row * n + cols, x, mask)
    """
    source = HEAD + textwrap.dedent(text).strip() + "\n"
    launch = {"kernel": "rows", "grid": ["(B + 1) // 2"], "const": {"BLOCK": 4}}
    launch["args"] = ["x", "y", "B", "N"]
    document = {"abi": 1, "op": "doubled@1.0", "target": "sm_90", "backend": "triton",
                "source": "kernel.py", "launches": [launch]}  # fmt: skip
    bound = bind_plan(from_json(document), parse_spec(SPEC).operator())
    x = np.arange(9, dtype=np.float32).reshape(3, 3)
    got = interpret(source, bound, {"x": x}, {"B": 3, "N": 3})
    assert (got["y"].view(np.float32) == 2 * x).all()
