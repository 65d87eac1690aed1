"""Sums over what threads exchange: read off where they are, and nowhere else."""

from __future__ import annotations

from opwright.ir.tile import Kernel, Store, TileProgram, statements
from opwright.ir.tiletext import parse_program
from opwright.verify.exchanged import UNKNOWN, gathered

HEAD = """\
program sums
sizes B
kernel sums
  grid B
  in x: f32[B, 4]
  out y: f32[B]
  program s: f32[4]
  axis t = 4
  order lane
  parallel t
  body
    v: f32[t] = load x[p0, t]
"""
TREE = """\
    st: store s[t] = v
    a: barrier over t
    u: f32[t] = load s[t + 2] if t < 2
    w: f32[t] = load s[t] if t < 2
    z: f32[t] = add w u
    st_1: store s[t] if t < 2 = z
    b: barrier over t
    u_1: f32[t] = load s[t + 1] if t < 1
    w_1: f32[t] = load s[t] if t < 1
    z_1: f32[t] = add w_1 u_1
    st_2: store s[t] if t < 1 = z_1
    c: barrier over t
    r: f32 = load s[0]
    out: store y[p0] if t == 0 = r
"""
BRANCH = """\
    st: store s[t] = v
    a: barrier over t
    if B < 7:
      n: f32[t] = add v v
      st_1: store s[t] = n
    else:
      r: f32[t] = load s[t]
      out: store y[p0] if t == 0 = r
"""


def rewritten(body: str) -> Kernel:
    program = parse_program(HEAD + body)
    assert isinstance(program, TileProgram)
    return gathered(program).kernels[0]


def ops(k: Kernel) -> list[str]:
    return [s.value.op for s in statements(k.body) if hasattr(s, "value") and hasattr(s.value, "op")
            and not isinstance(s, Store)]  # fmt: skip


def test_a_tree_is_a_sum_over_its_threads() -> None:
    k = rewritten(TREE)
    assert "reduce" in ops(k) and "load" in ops(k)
    assert not [s for s in statements(k.body) if isinstance(s, Store) and s.buffer.name == "s"]


def test_a_tree_that_counts_a_thread_twice_is_none() -> None:
    k = rewritten(TREE.replace("load s[t + 2] if", "load s[t] if"))
    assert [o for o in ops(k) if o in (UNKNOWN, "mul")]  # not each of the four once


def test_what_one_side_of_a_branch_stores_is_not_there_on_the_other() -> None:
    k = rewritten(BRANCH)
    loads = [s.value for s in statements(k.body) if getattr(s, "value", None) is not None
             and not isinstance(s, Store) and s.value.op == "load"]  # fmt: skip
    assert any(v.attr.buffer.name == "s" for v in loads)  # read as it is written
