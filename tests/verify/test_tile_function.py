"""Gate G5 of tile programs: what is proved for all sizes, and faults that it must not prove."""

from __future__ import annotations

import pytest
from support.schedules import plain
from support.shipped import SPECS

from opwright.compiler import block_spaces, spaces
from opwright.compiler.elaborate import load_spec, parse_spec
from opwright.ir.op import Operator
from opwright.ir.tile import TileProgram
from opwright.ir.tiletext import parse_program, show_program
from opwright.verify.tile_function import tile_function


def operator(name: str) -> Operator:
    (path,) = SPECS.rglob(f"{name}.op")
    return load_spec(path).operator()


def program(op: Operator, backend: str, space: str) -> TileProgram:
    found = spaces.spaces(op, 16) if backend == "cpp" else block_spaces.spaces(op)
    (one,) = [s for s in found if s.name == space]
    return one.instantiate(plain(one))


def statuses(p: TileProgram, op: Operator) -> set[str]:
    return {r.status for r in tile_function(p, op)}


PROVED = [
    ("softmax", "cpp", "row"),
    ("softmax", "cpp", "column"),
    ("layernorm", "cpp", "row"),
    ("gelu_tanh", "cpp", "pointwise"),
    ("transpose", "cpp", "pointwise"),
    ("matmul", "cpp", "fallback"),
    ("mae", "cpp", "row"),
    ("huber", "cpp", "row"),
    ("softmax", "triton", "loop"),
    ("softmax", "triton", "persistent"),
    ("causal_attention", "triton", "stream"),
    ("causal_attention", "triton", "fallback"),
]


@pytest.mark.parametrize(("name", "backend", "space"), PROVED)
def test_what_a_program_stores_is_the_spec_for_all_sizes(
    name: str, backend: str, space: str
) -> None:
    op = operator(name)
    assert statuses(program(op, backend, space), op) == {"PROVED"}


ROW = [  # a tail that is left out, an anchor of nothing, a combination of unlike folds
    ("t: f32[c64] = full -inf", "t: f32[c64] = full inf"),
    ("t_9: f32[c64] = full 0.0", "t_9: f32[c64] = full 1.0"),
    ("for n0 in 0 ..", "for n0 in 64 .."),
    ("for n1_1 in N // 64 * 64 .. N by", "for n1_1 in N // 64 * 64 .. N - 1 by"),
    ("t_8: f32 = max t_2 t_7", "t_8: f32 = min t_2 t_7"),
    ("t_8: f32 = max t_2 t_7", "t_8: f32 = add t_2 t_7"),
    ("t_21: f32 = add t_13 t_20", "t_21: f32 = max t_13 t_20"),
    ("t_2: f32 = reduce max t_r over c64", "t_2: f32 = reduce min t_r over c64"),
    ("t_18: bool[z8] = index n1_1 + z8 < N", "t_18: bool[z8] = index n1_1 + z8 <= N"),
    ("t_19: f32[z8] = select t_18 t_17 t_14_c", "t_19: f32[z8] = add t_17 t_17"),
    ("st_y: store y[p0, n2 + c64] = t_26", "st_y: store y[p0, n2 + c64] = t_23"),
    ("t_10: f32[c64] = sub x_2 t_8", "t_10: f32[c64] = sub t_8 x_2"),
]


@pytest.mark.parametrize(("right", "wrong"), ROW)
def test_faults_in_rows_are_not_proved(right: str, wrong: str) -> None:
    op = operator("softmax")
    text = show_program(program(op, "cpp", "row"))
    assert right in text
    assert statuses(parse_program(text.replace(right, wrong, 1)), op) == {"UNKNOWN"}


def faults(text: str) -> list[str]:
    """A walk with each of its carried sums spoilt: not moved to the new anchor, not reset, moved
    the wrong way, a mask that lets one element more in."""
    lines = text.splitlines()
    out = []
    for n, line in enumerate(lines):
        words = line.split()
        if " = mul acc_" in line:
            out.append([*lines[:n], line.replace(" = mul ", " = add "), *lines[n + 1 :]])
        if " = sub " in line:
            turned = f"{line.split(' = ')[0]} = sub {words[-1]} {words[-2]}"
            out.append([*lines[:n], turned, *lines[n + 1 :]])
        if " = index " in line and "<=" in line:
            out.append([*lines[:n], line.replace("<=", "<", 1), *lines[n + 1 :]])
        if " = full 0.0" in line and "acc" in line:
            out.append([*lines[:n], line.replace("full 0.0", "full 1.0"), *lines[n + 1 :]])
    return ["\n".join(x) for x in out]


def test_faults_in_a_walk_are_not_proved() -> None:
    op = operator("causal_attention")
    text = show_program(program(op, "triton", "stream"))
    found = faults(text)
    assert len(found) >= 7
    for wrong in found:
        assert statuses(parse_program(wrong), op) == {"UNKNOWN"}, wrong


SPEC = """opwright "0.1"
op told @ 1.0 {
  dims B, N
  where N >= 1
  input x: f32[B, N], w: f32[B, N]
  output y: f32[B]
  requires finite: all[b: B, j: N](-inf < w[b, j] < inf)
  def { %s }
}"""
HEAD = """program told
sizes B, N
kernel k0
  grid B
  in x: f32[B, N]
  in w: f32[B, N]
  out y: f32[B]
%s  body
"""
MOVED = """    m: f32 = full 0.0
    a: f32 = full 0.0
    for j in 0 .. N by 1 carry m_c = m, a_c = a -> m_r, a_r:
      w: f32 = load w[p0, j]
      x: f32 = load x[p0, j]
      t: f32 = max m_c w
      d: f32 = sub t m_c
      e: f32 = mul %s d
      c: f32 = exp e
      s: f32 = mul a_c c
      u: f32 = mul %s t
      v: f32 = exp u
      z: f32 = add s v
      next t, z
    st_y: store y[p0] = a_r
"""
PARTS = """    a: f32 = full 0.0
    b: f32 = full 2.0
    for j in 0 .. %s by 1 carry a_c = a -> a_r:
      s: f32 = add a_c b
      next s
    for k in %s .. N by 1 carry c_c = a_r -> c_r:
      t: f32 = add c_c b
      next t
    st_y: store y[p0] = c_r
"""
KEPT = """    a: f32 = full 0.0
    st_s: store s[0] = a
    for j in %s .. N by 1:
      x: f32 = load x[p0, 0]
      st_s_1: store s[0] = x
    r: f32 = load s[0]
    st_y: store y[p0] = r
"""
SCRATCH = "  program s: f32[1]\n"
ONE, EACH = "x0", "x"
FIRST = "    x0: f32 = load x[p0, 0]\n"
SHIFTED = "y[b] = sum[j: N](exp(x[b, %s] * max(0, max[k: N](w[b, k]))))"
TOLD = [  # what moves a sum may not depend on the element; ranges that touch may run backwards; a
    # loop that writes one place may not run
    (SHIFTED % "0", "", FIRST + MOVED % (ONE, ONE), "PROVED"),
    (SHIFTED % "j", "", MOVED % (EACH, EACH), "UNKNOWN"),
    ("y[b] = sum[j: N](2.0)", "", PARTS % ("N // 2", "N // 2"), "PROVED"),
    ("y[b] = sum[j: N](2.0)", "", PARTS % (8, 8), "UNKNOWN"),
    ("y[b] = x[b, 0]", SCRATCH, KEPT % 0, "PROVED"),
    ("y[b] = x[b, 0]", SCRATCH, KEPT % 1, "UNKNOWN"),
]


@pytest.mark.parametrize(("body", "scratch", "text", "status"), TOLD)
def test_what_holds_of_most_calls_is_not_proved(
    body: str, scratch: str, text: str, status: str
) -> None:
    op = parse_spec(SPEC % body).operator("told", {})
    assert statuses(parse_program(HEAD % scratch + text), op) == {status}


BLOCKS = """    a: f32[c] = full 0.0
    one: i32 = full 1
    none: i32 = full 0
    for i in 0 .. (N + 15) // 16 by 1 carry a_c = a -> a_r:
      x: f32[c] = load x[p0, %s] if %s else 0.0
      p: bool[c] = index %s
      q: i32[c] = select p one none
      zero: f32 = full 0.0
      z: f32[c] = load w[p0, %s] if %s and q != 0
      v: f32[c] = select p z zero
      t: f32[c] = mul x v
      s: f32[c] = add a_c t
      next s
    r: f32 = reduce sum a_r over c
    st_y: store y[p0] = r
"""
HERE = "c + i * 16"
MASKS = [  # where a block ends, in several spellings, and truth values as integers
    (HERE, "c + i * 16 < N", "PROVED"),
    (HERE, "c < N - i * 16", "PROVED"),
    (HERE, "not N - i * 16 <= c", "PROVED"),
    (HERE, "c < N - 1 - i * 16", "UNKNOWN"),
    (HERE, "c < N - i * 15 and c + i * 16 < N", "UNKNOWN"),
    (HERE, "not N - i * 16 < c + 1", "PROVED"),
    (HERE, "not N - i * 16 < c + 2", "UNKNOWN"),
]


@pytest.mark.parametrize(("place", "mask", "status"), MASKS)
def test_masks_of_blocks_in_any_spelling(place: str, mask: str, status: str) -> None:
    op = parse_spec(SPEC % "y[b] = sum[j: N](x[b, j] * w[b, j])").operator("told", {})
    text = BLOCKS % (place, mask, mask, place, mask)
    text = HEAD.replace("  out y", "  axis c = 16\n  out y") % "" + text
    assert statuses(parse_program(text), op) == {status}


SUMS = """    a: f32[c] = load x[p0, c] if c < N else 0.0
    b: f32[c] = load w[p0, c] if c < %s else 0.0
    t: f32[c] = %s a b
    u: f32[c] = mul t t
    r: f32 = reduce sum u over c
    st_y: store y[p0] = r
"""
FULL = "y[b] = sum[j: N]((x[b, j] %s w[b, j]) * (x[b, j] %s w[b, j]))"
GUARDED = [  # what is of nothing where both sides are
    ("N", "add", "+", "PROVED"),
    ("N", "sub", "-", "PROVED"),
    ("N", "add", "-", "UNKNOWN"),
    ("N - 1", "add", "+", "UNKNOWN"),
]


@pytest.mark.parametrize(("end", "how", "sign", "status"), GUARDED)
def test_sums_of_masked_loads(end: str, how: str, sign: str, status: str) -> None:
    spec = (SPEC % (FULL % (sign, sign))).replace("N >= 1", "N >= 1, N <= 64")
    op = parse_spec(spec).operator("told", {})
    text = HEAD.replace("  out y", "  axis c = 64\n  out y") % "" + SUMS % (end, how)
    assert statuses(parse_program(text), op) == {status}


SCAN = """    t: f32 = full 0.0
    for n in 0 .. N by 16 carry t_c = t -> t_r:
      v: f32[c] = load x[p0, n + c] if n + c < N else 0.0
      s: f32[c] = scan sum v over c
      u: f32[c] = add s t_c
      st_y: store y[p0, n + c] if n + c < N = %s
      carry: f32 = reduce sum v over c
      next_t: f32 = add %s carry
      next next_t
"""
SCANNED = [  # what blocks before a block hold is added to every element of it
    ("j <= n", "u", "t_c", "PROVED"),
    ("j <= n", "s", "t_c", "UNKNOWN"),
    ("j <= n", "u", "t", "UNKNOWN"),
    ("j < n", "u", "t_c", "UNKNOWN"),
    ("j <= n + 1", "u", "t_c", "UNKNOWN"),
]


@pytest.mark.parametrize(("guard", "stored", "carried", "status"), SCANNED)
def test_scans_of_blocks(guard: str, stored: str, carried: str, status: str) -> None:
    spec = SPEC.replace("y: f32[B]", "y: f32[B, N]")
    op = parse_spec(spec % f"y[b, n] = sum[j: N | {guard}](x[b, j])").operator("told", {})
    head = HEAD.replace("  out y: f32[B]", "  axis c = 16\n  order lane\n  out y: f32[B, N]") % ""
    assert statuses(parse_program(head + SCAN % (stored, carried)), op) == {status}
