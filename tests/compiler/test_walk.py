"""Folds over contractions as one kernel by rows: meaning, safety, loop ends, refusals."""

from __future__ import annotations

import numpy as np
import pytest
from support.shipped import SPECS

from opwright.backends.cpp.run import Library
from opwright.compiler.autodiff import gradient
from opwright.compiler.candidates import printed
from opwright.compiler.elaborate import elaborate, load_spec
from opwright.compiler.importing import static_gates
from opwright.compiler.normalize import normalize
from opwright.compiler.spaces import partition, spaces, walked
from opwright.compiler.strategies import bounds
from opwright.compiler.toolbox import evaluation_tools
from opwright.grammar.parser import parse
from opwright.ir.expr import TRUE, Expr, call, const, param, read, show, size, var
from opwright.ir.op import OpAxis, Operator
from opwright.ir.reference import reference
from opwright.search.space import Schedule, Space
from opwright.verify.context import Context
from opwright.verify.gates import safety
from opwright.verify.inputs import generate

HEAD = """
opwright "0.1"
op chained @ 1.0 {
  dims B, M, N, K, D
  where N >= 1, K >= 1, M <= N
  param bounded: bool = true
  param reach: i32 = 0
  input q: f32[B, M, K], k: f32[B, N, K], v: f32[B, N, D], w: f32[N]
  output %s
  def {
    s[b, i, j] = sum.f32[d: K](q[b, i, d] * k[b, j, d]) + w[j]
%s
  }
  %s
}
"""
WEIGHTED = """
    m[b, i] = max[j: N | not bounded or j <= i + (N - M)](s[b, i, j])
    p[b, i, j] = if not bounded or j <= i + (N - M) then exp(s[b, i, j] - m[b, i]) else 0
    z[b, i] = sum.f32[j: N](p[b, i, j])
    t[b, i] = m[b, i] + log(z[b, i])
    o[b, i, d] = sum.f32[j: N](p[b, i, j] * v[b, j, d]) / z[b, i]
"""
LARGEST = """
    m[b, i] = max[j: N](s[b, i, j] * s[b, i, j])
    o[b, i, d] = sum.f32[j: N](s[b, i, j] * v[b, j, d]) * m[b, i]
"""
SIZES = [
    {"B": 2, "M": 37, "N": 50, "K": 5, "D": 33},
    {"B": 1, "M": 33, "N": 33, "K": 16, "D": 64},
    {"B": 1, "M": 1, "N": 9, "K": 1, "D": 1},
    {"B": 2, "M": 0, "N": 3, "K": 2, "D": 2},
]


def operator(outputs: str, body: str, clause: str = "") -> Operator:
    text = HEAD % (outputs, body, clause)
    return elaborate(parse(text, "chained.op"), "chained", filename="chained.op", source=text)


def walk_space(op: Operator, native: int = 8) -> Space:
    (found,) = [s for s in spaces(op, native) if s.name == "walk"]
    return found


def outcome(op: Operator, schedule: Schedule, space: Space, **params: bool) -> None:
    kit = evaluation_tools(op, "x86-64-v3").tools
    library = Library(kit.build(kit.emit(space.instantiate(schedule))).path, op)
    rng = np.random.default_rng(3)
    for sizes in SIZES:
        shapes = {"q": "BMK", "k": "BNK", "v": "BND", "w": "N"}
        given = {
            n: rng.standard_normal([sizes[c] for c in s]).astype(np.float32)
            for n, s in shapes.items()
        }
        want = reference(op, given, params, {})
        got = {n: np.full(a.shape, np.nan, np.float32) for n, a in want.items()}
        library.run(given, got, params)
        for n, a in want.items():
            np.testing.assert_allclose(got[n], a, rtol=2e-4, atol=2e-4, err_msg=f"{n} at {sizes}")


@pytest.mark.parametrize("bounded", [True, False])
def test_rows_of_a_walk_mean_the_spec(bounded: bool) -> None:
    op = operator("o: f32[B, M, D], t: f32[B, M]", WEIGHTED)
    space = walk_space(op)
    for schedule in space.preferred()[:2]:
        outcome(op, schedule, space, bounded=bounded)


def test_printed_text_that_pins_registers_is_proved() -> None:
    op = operator("o: f32[B, M, D], t: f32[B, M]", WEIGHTED)
    space = walk_space(op)
    program = space.instantiate(space.preferred()[0].changed("pin", True))
    candidate = printed(program, op, "x86-64-v3")
    assert "asm(" in candidate.source
    assert {r.status for r in static_gates(candidate, op).records if r.kind != "G5"} == {"PROVED"}


def test_entries_without_a_bound() -> None:
    op = operator("o: f32[B, M, D]", LARGEST)
    space = walk_space(op)
    outcome(op, space.preferred()[0], space)


@pytest.mark.parametrize("native", [8, 16])
def test_a_walk_is_safe_for_all_shapes(native: int) -> None:
    op = operator("o: f32[B, M, D], t: f32[B, M]", WEIGHTED)
    space = walk_space(op, native)
    for schedule in space.preferred():
        records = safety(space.instantiate(schedule), Context.of(op))
        assert {r.status for r in records} == {"PROVED"}


def test_entries_that_are_needed_elsewhere_are_kept() -> None:
    op = operator("o: f32[B, M, D], s: f32[B, M, N]", LARGEST)
    normal = normalize(op)
    assert walked(normal, partition(normal)) is None


def test_a_reader_of_another_row_walks_again() -> None:
    op = operator("o: f32[B, M, D]", LARGEST.replace("* m[b, i]", "* m[b, 0]"))
    normal = normalize(op)
    along = walked(normal, partition(normal))
    assert along is not None
    assert [[t.name for t in p.group.members] for p in along] == [["m"], ["o_sum", "o"]]


ACROSS = """
    t[b, j] = max[i: M](s[b, i, j])
    o[b, j, d] = sum.f32[i: M](if i <= j then s[b, i, j] * q[b, i, d] else 0) + t[b, j]
"""


def test_a_walk_along_the_other_axis() -> None:
    op = operator(
        "o: f32[B, N, K], t: f32[B, N]",
        ACROSS,
        "requires finite: all[b: B, i: M, d: K](-inf < q[b, i, d] < inf)",
    )
    space = walk_space(op)
    outcome(op, space.preferred()[0], space)
    records = safety(space.instantiate(space.preferred()[0]), Context.of(op))
    assert {r.status for r in records} == {"PROVED"}


def test_what_is_left_out_may_not_be_infinite() -> None:
    op = operator("o: f32[B, N, K], t: f32[B, N]", ACROSS)
    assert not [s for s in spaces(op, 8) if s.name == "walk"]


N, ROW, COLUMN, LAST = size("N"), var("i"), var("j"), var("top") + 7
AXIS = OpAxis("j", const(0), N)


def ends(c: Expr) -> str:
    return show(bounds.end(AXIS, [c], "i", LAST))


def test_a_guard_ends_the_loop_after_the_last_row() -> None:
    assert ends(call("le", COLUMN, ROW)) == "max(0, min(N, top + 7 + 1))"
    assert ends(call("lt", COLUMN, ROW)) == "max(0, min(N, top + 7))"
    switch = ~param("causal", "bool")
    assert "causal" in ends(call("or", switch, call("le", COLUMN, ROW)))


def test_a_guard_that_says_nothing_of_the_end_leaves_the_range() -> None:
    down = call("le", COLUMN, size("N") - ROW)
    data = call("le", COLUMN, read("last", (ROW,), "int"))
    folded = call("le", COLUMN, ROW // 2)
    above = call("le", ROW, COLUMN)
    for c in (down, data, folded, above, TRUE):
        assert ends(c) == "N"


def test_factors_of_a_sum_bound_it() -> None:
    guard = call("le", COLUMN, ROW)
    weight = call("select", guard, read("x", (ROW, COLUMN), "real"), const(0.0))
    assert bounds.nonzero(weight * read("v", (COLUMN,), "real")) == [guard]


def test_a_guard_begins_the_loop_at_the_first_row() -> None:
    def begin(c: Expr) -> str:
        return show(bounds.begin(AXIS, [c], "i", var("top")))

    assert begin(call("le", ROW, COLUMN)) == "max(0, top)"
    assert begin(call("lt", ROW, COLUMN)) == "max(0, top + 1)"
    assert begin(call("le", COLUMN, ROW)) == "0"
    assert begin(call("le", size("N") - ROW, COLUMN)) == "0"
    assert begin(call("le", ROW, read("last", (COLUMN,), "int"))) == "0"


GRADIENTS = ["causal_attention", "alibi_attention"]


@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients_walk_and_keep_no_entries(name: str) -> None:
    (path,) = SPECS.rglob(f"{name}.op")
    op = gradient(load_spec(path).operator(), ["q", "k", "v"])
    space = spaces(op, 8)[1]
    assert "contraction" not in space.name and "walk" in space.name
    program = space.instantiate(space.preferred()[0])
    assert {r.status for r in safety(program, Context.of(op))} == {"PROVED"}
    for k in program.kernels:
        for b in k.buffers:
            if b.role == "plan":
                assert sum(e.op == "size" and e.attr == "S" for e in b.shape) <= 1
    kit = evaluation_tools(op, "x86-64-v3").tools
    library = Library(kit.build(kit.emit(program)).path, op)
    cases = [c for c in generate(op, 3, 6).cases if not c.special][:3]
    for case in cases:
        want = reference(op, case.inputs, case.params, case.sizes)
        got = {n: np.full(a.shape, np.nan, np.float32) for n, a in want.items()}
        library.run(dict(case.inputs), got, case.params)
        for n, a in want.items():
            np.testing.assert_allclose(got[n], a, rtol=1e-3, atol=1e-4, err_msg=f"{n} of {case}")
