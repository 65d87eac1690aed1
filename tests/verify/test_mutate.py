"""Faults seeded into tile programs, Python texts and functions: what they are, and where."""

from __future__ import annotations

import ast
from collections import Counter
from typing import Any

import numpy as np
import pytest
from support.foreign import ONLINE  # type: ignore[import-not-found]
from support.operators import row_argmax, row_sum  # type: ignore[import-not-found]

from opwright.ir.mutant import Mutant, difference, spread
from opwright.ir.normal import normal_form
from opwright.ir.tilecheck import check_program
from opwright.ir.tiletext import parse_program
from opwright.verify.mutate_calls import call_mutants
from opwright.verify.mutate_python import python_mutants
from opwright.verify.mutate_tiles import tile_mutants

KERNEL = """\
import triton.language as tl

def rows(x, y, N, BLOCK: tl.constexpr):
    b = tl.program_id(0)
    total = tl.zeros((BLOCK,), tl.float32)
    for n in range(0, N, BLOCK):
        at = n + tl.arange(0, BLOCK)
        total += tl.load(x + b * N + at, mask=at < N, other=0.0)
    tl.store(y + b, tl.sum(total, 0))
"""


def test_programs_differ_from_the_original_and_from_each_other() -> None:
    program = parse_program(ONLINE)
    found = tile_mutants(program)
    forms = {normal_form(program)}
    for m in found:
        changed = parse_program(m.text)
        check_program(changed)
        forms.add(normal_form(changed))
        assert "kernel rows" in m.place or m.place == "facts"
    assert len(forms) == len(found) + 1
    assert [m.text for m in found] == [m.text for m in tile_mutants(program)]
    kinds = Counter(m.kind for m in found)
    wanted = "mask mask_dropped fill init loop bound offset index_order reduction rescale"
    wanted += " state stale operation operands precision store_missing facts grid"
    assert set(wanted.split()) <= set(kinds), kinds


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("mask", "x: f32[c] = load X[p0, n + c] if n + c <= N else -1e+30"),
        ("mask_dropped", "x: f32[c] = load X[p0, n + c]"),
        ("bound", "x: f32[c] = load X[p0, n + c] if n + c < B else -1e+30"),
        ("offset", "x: f32[c] = load X[p0, n + c - 1] if n + c < N else -1e+30"),
        ("index_order", "x: f32[c] = load X[n + c, p0] if n + c < N else -1e+30"),
        ("stale", "d: f32[c] = sub m_c m_c"),
        ("state", "next m_c, s_1"),
        ("loop", "for k in 0 .. (N) // 64 * 64 by 64:"),
        ("reduction", "top: f32 = reduce min m_r over c"),
        ("grid", "grid B - 1"),
    ],
)
def test_a_program_is_changed_in_one_line(kind: str, line: str) -> None:
    found = [m for m in tile_mutants(parse_program(ONLINE)) if m.kind == kind]
    assert any(line in [x.strip() for x in m.text.splitlines()] for m in found), [
        m.what for m in found
    ]


@pytest.mark.parametrize(
    ("kind", "what"),
    [
        ("comparison", "at < N -> at <= N"),
        (
            "mask_dropped",
            "tl.load(x + b * N + at, mask=at < N, other=0.0) -> tl.load(x + b * N + at)",
        ),
        ("accumulator", "total += tl.load("),
        ("loop", "range(0, N, BLOCK) -> range(0, N - 1, BLOCK)"),
        ("axis", "tl.program_id(0) -> tl.program_id(1)"),
        ("precision", "tl.float32 -> tl.float16"),
        ("store_missing", "tl.store(y + b, tl.sum(total, 0)) -> pass"),
        ("reduction", "tl.sum(total, 0) -> tl.mean(total, 0)"),
        ("rescale", "b * N -> (b)"),
        ("operation", "tl.zeros((BLOCK,), tl.float32) -> tl.ones((BLOCK,), tl.float32)"),
    ],
)
def test_a_text_is_changed_in_one_place(kind: str, what: str) -> None:
    found = [m for m in python_mutants(KERNEL) if m.kind == kind]
    assert any(m.what.startswith(what) for m in found), [m.what for m in found]
    for m in found:
        ast.parse(m.text)
        assert m.place.startswith("rows, line ") and len(difference(KERNEL, m.text)) == 2


def test_the_last_of_equal_elements() -> None:
    text = "def f(x):\n    return np.argmax(x, 1) + x.argmax(1)\n"
    space: dict[str, Any] = {"np": np}
    ties = [m for m in python_mutants(text, "f") if m.kind == "tie"]
    assert len(ties) == 2
    exec(ties[0].text, space)
    assert space["f"](np.array([[3.0, 7.0, 7.0, 1.0]])).tolist() == [2 + 1]


def test_a_selection_has_every_kind() -> None:
    mutants = [Mutant("a", "", str(n)) for n in range(50)] + [Mutant("b", "", "x")]
    kept = spread(mutants, 5)
    assert Counter(m.kind for m in kept) == {"a": 4, "b": 1}
    assert [m.text for m in kept] == ["0", "12", "25", "37", "x"]


def _right(x: Any) -> Any:
    return x.astype(np.float64).sum(1).astype(np.float32)


def _seen(what: str, x: Any) -> Any:
    found = [m for m in call_mutants(row_sum()) if what in m.what]
    assert len(found) == 1, [m.what for m in call_mutants(row_sum())]
    return found[0].wrap(_right)(x)


def test_what_wrappers_do() -> None:
    x = np.arange(1.0, 70.0, dtype=np.float32).reshape(3, 23) / 7
    y = _right(x)
    assert np.array_equal(_seen("x: the last one is not read", x), _right(x[:, :-1]))
    assert np.array_equal(_seen("after the last full block of 8 is not", x), _right(x[:, :16]))
    assert np.array_equal(_seen("y: the last one is the one before", x), [*y[:2], y[1]])
    assert 0 < np.abs(_seen("y: rounded to f16", x) - y).max() < 0.07
    assert np.array_equal(_seen("numbers beyond 8", x), _right(np.minimum(x, 8)))
    assert not np.array_equal(_seen("y: not rescaled where x is largest after 16", x), y)
    turned = np.ascontiguousarray(x.T).T
    assert np.array_equal(_seen("memory read as if it were dense", x), y)
    assert not np.array_equal(_seen("memory read as if it were dense", turned), y)


def test_wrappers_with_a_state() -> None:
    kinds: dict[str, list[Any]] = {}
    for m in call_mutants(row_sum()):
        kinds.setdefault(m.kind, []).append(m)
    address, shape, second, buffer = (m.wrap(_right) for m in kinds["stale_output"])
    x = np.ones((2, 3), np.float32)
    for wrong in (address, shape, second, buffer):
        first = wrong(x)
        assert first.tolist() == [3, 3]
    x += 1
    assert address(x).tolist() == [3, 3] and shape(x.copy()).tolist() == [3, 3]
    assert second(x).tolist() == [3, 3]
    assert buffer(x).tolist() == [6, 6] and first.tolist() == [6, 6]


def test_ties_are_seen_by_the_other_end() -> None:
    ties = [m for m in call_mutants(row_argmax()) if m.kind == "tie"]
    wrong = ties[-1].wrap(lambda x: x.argmax(1))
    assert wrong(np.array([[1.0, 5.0, 5.0]])).tolist() == [2]
    assert wrong(np.array([[1.0, 5.0, 4.0]])).tolist() == [1]
