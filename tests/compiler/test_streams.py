"""Folds over contractions as one pass of block programs: meaning, safety, what is refused."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest
from support.shipped import SPECS

from opwright.compiler.autodiff import gradient
from opwright.compiler.autodiff_saved import saved_for, saving
from opwright.compiler.block_spaces import spaces
from opwright.compiler.blocks import printed
from opwright.compiler.elaborate import elaborate, load_spec
from opwright.compiler.importing import static_gates
from opwright.compiler.spaces import spaces as cpu_spaces
from opwright.grammar.parser import parse
from opwright.ir.expr import show
from opwright.ir.interpreter import run
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.ir.tile import For, Store, TileProgram, statements
from opwright.search.space import Decision, Space
from opwright.verify.context import Context
from opwright.verify.gates import safety
from opwright.verify.inputs import generate

HEAD = """
opwright "0.1"
op streamed @ 1.0 {
  dims B, M, N, K, D
  where N >= 1, K >= 1, M <= N
  param bounded: bool = true
  param reach: i32 = 5
  input q: f32[B, M, K], k: f32[B, N, K], v: f32[B, N, D], w: f32[N]
  output %s
  def {
    s[b, i, j] = sum.f32[d: K](q[b, i, d] * k[b, j, d]) + w[j]
%s
  }
  requires finite: all[b: B, i: M, d: K](-inf < q[b, i, d] < inf)
}
"""
CASES = {
    "weighted": (
        "o: f32[B, M, D], t: f32[B, M]",
        """
    m[b, i] = max[j: N | not bounded or j <= i + (N - M)](s[b, i, j])
    p[b, i, j] = if not bounded or j <= i + (N - M) then exp(s[b, i, j] - m[b, i]) else 0
    z[b, i] = sum.f32[j: N](p[b, i, j])
    t[b, i] = m[b, i] + log(z[b, i])
    o[b, i, d] = sum.f32[j: N](p[b, i, j] * v[b, j, d]) / z[b, i]
""",
    ),
    "products": (
        "o: f32[B, M, D]",
        """
    m[b, i] = max[j: N](s[b, i, j] * s[b, i, j])
    o[b, i, d] = sum.f32[j: N](s[b, i, j] * v[b, j, d]) * m[b, i]
""",
    ),
    "near": (
        "o: f32[B, M, D]",
        """
    near[i, j] = abs(i - j) <= reach
    m[b, i] = max[j: N | near[i, j]](s[b, i, j])
    p[b, i, j] = if near[i, j] then exp(s[b, i, j] - m[b, i]) else 0
    o[b, i, d] = sum.f32[j: N](p[b, i, j] * v[b, j, d]) / sum.f32[j: N](p[b, i, j])
""",
    ),
    "spread": (
        "t: f32[B, M]",
        """
    u[b, i] = sum.f32[j: N](s[b, i, j]) / f32(N)
    c[b, i, j] = s[b, i, j] - u[b, i]
    t[b, i] = sum.f32[j: N](c[b, i, j] * c[b, i, j]) / f32(N)
""",
    ),
    "across": (
        "o: f32[B, N, K], t: f32[B, N]",
        """
    o[b, j, d] = sum.f32[i: M](if i <= j then s[b, i, j] * q[b, i, d] else 0)
    t[b, j] = max[i: M](s[b, i, j])
""",
    ),
}
SIZES = [
    {"B": 2, "M": 37, "N": 50, "K": 5, "D": 13},
    {"B": 1, "M": 16, "N": 16, "K": 16, "D": 16},
    {"B": 1, "M": 1, "N": 9, "K": 1, "D": 1},
    {"B": 2, "M": 0, "N": 3, "K": 2, "D": 2},
]


def operator(name: str) -> Operator:
    text = HEAD % CASES[name]
    return elaborate(parse(text, "streamed.op"), "streamed", filename="streamed.op", source=text)


def streams(op: Operator) -> list[Space]:
    return [s for s in spaces(op) if "stream" in s.name]


def programs(op: Operator, **decisions: Decision) -> Iterator[TileProgram]:
    """A few programs of the spaces that walk, which hold what fits into their tiles."""
    for space in streams(op):
        for schedule in space.preferred()[:2]:
            chosen = dict(schedule.decisions)
            for k in schedule.decisions:
                group, _, last = k[0].rpartition("hold")
                if not last and k[0].endswith("hold"):
                    chosen |= {f"{group}{n}": v for n, v in {"even": False, **decisions}.items()}
            yield space.instantiate(replace(schedule, decisions=tuple(chosen.items())))


def values(op: Operator, sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    shapes = {"q": "BMK", "k": "BNK", "v": "BND", "w": "N"}
    return {n: rng.standard_normal([sizes[c] for c in s]) for n, s in shapes.items()}


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_pass_over_blocks_means_the_spec(name):
    op = operator(name)
    ran = 0
    for program in programs(op):
        for sizes in SIZES:
            for given in ({"bounded": True, "reach": 5}, {"bounded": False, "reach": 0}):
                arrays = values(op, sizes)
                got = run(program, sizes, arrays, given)
                for n, want in reference(op, arrays, given, {}).items():
                    np.testing.assert_allclose(
                        got[n], want, rtol=1e-9, atol=1e-9, err_msg=str(sizes)
                    )
                ran += 1
    assert ran


@pytest.mark.parametrize("name", sorted(CASES))
def test_it_is_one_kernel_that_keeps_no_entries_and_is_proved(name):
    op = operator(name)
    for program in programs(op):
        assert len(program.kernels) == 1
        stores = [s for s in statements(program.kernels[0].body) if isinstance(s, Store)]
        assert {s.buffer.role for s in stores} == {"out"}
        records = safety(program, Context.of(op))
        assert {r.status for r in records} == {"PROVED"}, [
            r for r in records if r.status != "PROVED"
        ]


@pytest.mark.parametrize(
    "name",
    [
        "attention",
        "alibi_attention",
        "window_attention",
        "causal_attention",
        "varlen_attention",
        "block_sparse_attention",
    ],
)
def test_shipped_operators_of_this_form_are_one_kernel(name):
    (path,) = SPECS.rglob(f"{name}.op")
    op = load_spec(path).operator()
    program = next(programs(op, hold=128, rows=32, block=32))
    assert len(program.kernels) == 1
    for case in generate(op, 3, 6).cases:
        if case.sizes["D"] > 128:
            continue  # a fact of the program
        arrays = {t.name: case.inputs[t.name] for t in op.inputs}
        got = run(program, case.sizes, arrays, case.params)
        for n, want in reference(op, arrays, case.params, case.sizes).items():
            np.testing.assert_allclose(got[n], want, rtol=1e-6, atol=1e-6, err_msg=str(case))


def test_depths_that_fill_a_tile_need_no_masks():
    op = operator("weighted")
    program = next(programs(op, hold=16, even=True))
    arrays = values(op, SIZES[1])
    got = run(program, SIZES[1], arrays, {"bounded": True, "reach": 5})
    for n, want in reference(op, arrays, {"bounded": True}, {}).items():
        np.testing.assert_allclose(got[n], want, rtol=1e-9, atol=1e-9)
    assert {r.status for r in safety(program, Context.of(op))} == {"PROVED"}


def test_what_has_no_single_pass_keeps_its_entries():
    body = """
    u[b, i] = sum.f32[j: N](s[b, i, j]) / f32(N)
    t[b, i] = sum.f32[j: N](abs(s[b, i, j] - u[b, i]))
"""
    text = HEAD % ("t: f32[B, M]", body)
    op = elaborate(parse(text, "streamed.op"), "streamed", filename="streamed.op", source=text)
    assert not [s for s in streams(op) if s.name == "stream"]


@pytest.mark.parametrize("name", ["attention", "causal_attention", "alibi_attention"])
def test_a_gradient_of_this_form_is_made_of_walks_and_keeps_no_entries(name):
    (path,) = SPECS.rglob(f"{name}.op")
    op = gradient(load_spec(path).operator(), ["q", "k", "v"])
    program = next(programs(op, rows=16, block=16, hold=32))
    # the walks for several results are one launch
    last = {s.buffer.name for s in statements(program.kernels[-1].body) if isinstance(s, Store)}
    assert last == {"d_q", "d_k", "d_v"}
    assert {r.status for r in safety(program, Context.of(op))} == {"PROVED"}
    walked = {a.hi.attr for t in op.inputs for a in t.axes if t.name in ("q", "k")} & {
        "S",
        "Sq",
        "Skv",
    }
    for k in program.kernels:
        for s in statements(k.body):
            if isinstance(s, Store):
                assert sum(e.op == "size" and e.attr in walked for e in s.buffer.shape) <= 1
    ran = 0
    for case in generate(op, 3, 6).cases:
        if ran == 2 or max(case.sizes.values()) > 32:
            continue
        arrays = {t.name: case.inputs[t.name] for t in op.inputs}
        want = reference(op, arrays, case.params, case.sizes)
        got = run(program, case.sizes, arrays, case.params)
        for n, a in want.items():
            np.testing.assert_allclose(got[n], a, rtol=1e-6, atol=1e-6, err_msg=str(case))
        ran += 1
    assert ran


@pytest.mark.parametrize("name", ["attention", "alibi_attention"])
def test_with_what_is_saved_there_is_one_kernel_each_way_and_a_reduction(name):
    (path,) = SPECS.rglob(f"{name}.op")
    op = load_spec(path).operator()
    wanted = ["q", "k", "v"]
    saved = saved_for(op, wanted)
    assert saved == ("m", "z")
    forward, back = saving(op, saved), gradient(op, wanted, saved)
    assert {"m", "z"} <= {t.name for t in back.inputs}
    for whole, kernels in ((forward, 1), (back, 2)):
        program = next(programs(whole, rows=16, block=16, hold=32))
        assert len(program.kernels) == kernels
        assert {r.status for r in safety(program, Context.of(whole))} == {"PROVED"}
        for b in program.buffers():  # nothing is kept that grows with the square of a sequence
            if b.role == "plan":
                assert sum(e.attr in ("S", "Sq", "Skv") for e in b.shape) <= 1
    program, other = (next(programs(x, rows=16, block=16, hold=32)) for x in (forward, back))
    ran = 0
    for case in generate(op, 3, 6).cases:
        if ran == 2 or max(case.sizes.values()) > 32:
            continue
        arrays = {t.name: case.inputs[t.name] for t in op.inputs}
        given = reference(forward, arrays, case.params, case.sizes)
        made = run(program, case.sizes, arrays, case.params)
        for n, a in given.items():
            np.testing.assert_allclose(made[n], a, rtol=1e-6, atol=1e-6, err_msg=str(case))
        rng = np.random.default_rng(4)
        back_of = {f"d_{t.name}": rng.standard_normal(given[t.name].shape) for t in op.outputs}
        plain = gradient(op, wanted)
        every = {**arrays, **given, **back_of}
        taken = {t.name: every[t.name] for t in plain.inputs}
        want = reference(plain, taken, case.params, case.sizes)
        every |= made
        got = run(other, case.sizes, {t.name: every[t.name] for t in back.inputs}, case.params)
        for n, a in want.items():
            np.testing.assert_allclose(got[n], a, rtol=1e-6, atol=1e-6, err_msg=str(case))
        ran += 1
    assert ran


FORMS = {
    "results in another order": """
  input q: f32[B, S, H, D], k: f32[B, S, H, D], v: f32[B, S, H, D]
  output o: f32[B, S, H, D]
  def {
    s[b, h, i, j] = 0.3 * sum[d: D](q[b, i, h, d] * k[b, j, h, d])
    m[b, h, i] = max[j: S](s[b, h, i, j])
    p[b, h, i, j] = exp(s[b, h, i, j] - m[b, h, i]) / sum[l: S](exp(s[b, h, i, l] - m[b, h, i]))
    o[b, i, h, d] = sum[j: S](p[b, h, i, j] * v[b, j, h, d])
  }
  requires qf: all[b: B, i: S, h: H, d: D](-inf < q[b, i, h, d] < inf)
  requires kf: all[b: B, i: S, h: H, d: D](-inf < k[b, i, h, d] < inf)
  requires vf: all[b: B, i: S, h: H, d: D](-inf < v[b, i, h, d] < inf)
""",
    "one set of keys for all": """
  input q: f32[B, H, S, D], k: f32[B, S, D], v: f32[B, S, D]
  output o: f32[B, H, S, D]
  def {
    s[b, h, i, j] = if j <= i then 0.3 * sum[d: D](q[b, h, i, d] * k[b, j, d]) else -inf
    m[b, h, i] = max[j: S](s[b, h, i, j])
    p[b, h, i, j] = exp(s[b, h, i, j] - m[b, h, i])
    o[b, h, i, d] = sum[j: S](p[b, h, i, j] * v[b, j, d]) / sum[j: S](p[b, h, i, j])
  }
  requires qf: all[b: B, h: H, i: S, d: D](-inf < q[b, h, i, d] < inf)
  requires kf: all[b: B, i: S, d: D](-inf < k[b, i, d] < inf)
  requires vf: all[b: B, i: S, d: D](-inf < v[b, i, d] < inf)
""",
}


@pytest.mark.parametrize("name", sorted(FORMS))
def test_however_it_is_written_there_is_one_kernel_each_way(name):
    head = 'opwright "0.1"\nop form @ 1.0 {\n  dims B, H, S, D\n  where S >= 1, D >= 1'
    text = f"{head}{FORMS[name]}}}"
    op = elaborate(parse(text, "form.op"), "form", filename="form.op", source=text)
    wanted = ["q", "k", "v"]
    saved = saved_for(op, wanted)
    forward, back = saving(op, saved), gradient(op, wanted, saved)
    sizes = {"B": 2, "H": 2, "S": 19, "D": 5}
    rng = np.random.default_rng(6)
    arrays = {t.name: rng.standard_normal([sizes[str(e.attr)] for e in t.shape]) for t in op.inputs}
    given = {**arrays, **reference(forward, arrays, {}, sizes)}
    given["d_o"] = rng.standard_normal(given["o"].shape)
    for whole, kernels in ((forward, 1), (back, 2)):
        program = next(programs(whole, rows=16, block=16, hold=16))
        assert len(program.kernels) == kernels
        assert {r.status for r in safety(program, Context.of(whole))} == {"PROVED"}
        taken = {t.name: given[t.name] for t in whole.inputs}
        got = run(program, sizes, taken, {})
        for n, want in reference(whole, taken, {}, sizes).items():
            np.testing.assert_allclose(got[n], want, rtol=1e-9, atol=1e-9, err_msg=n)


APART = """
opwright "0.1"
op apart @ 1.0 {
  dims M, N, K
  input x: f32[M, K], y: f32[K, N]
  output a: f32[M, N], b: f32[N, N], c: f32[M]
  def {
    a[i, n] = sum.f32[d: K](x[i, d] * y[d, n])
    b[n, l] = sum.f32[d: K](y[d, n] * y[d, l])
    c[i] = sum.f32[n: N](a[i, n])
  }
}
"""


def test_kernels_between_which_no_data_flows_are_one_launch():
    op = elaborate(parse(APART, "apart.op"), "apart", filename="apart.op", source=APART)
    space = next(s for s in spaces(op) if "joined" in s.holes)
    schedule = space.preferred()[0]
    one, several = (space.instantiate(schedule.changed("joined", x)) for x in (True, False))
    assert len(one.kernels) < len(several.kernels)
    for program in (one, several):
        gates = static_gates(printed(program, op, "sm_90"), op)
        records = [*safety(program, Context.of(op)), *gates.records]
        assert {r.status for r in records if r.kind != "G5"} == {"PROVED"}
    for m, n, k in ((37, 50, 5), (1, 130, 3), (0, 4, 4), (70, 0, 2)):
        rng = np.random.default_rng(3)
        arrays = {"x": rng.standard_normal((m, k)), "y": rng.standard_normal((k, n))}
        sizes = {"M": m, "N": n, "K": k}
        for program in (one, several):
            got = run(program, sizes, arrays)
            for name, want in reference(op, arrays, {}, sizes).items():
                np.testing.assert_allclose(got[name], want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["weighted", "spread", "across"])
def test_programs_that_share_a_walk_give_the_same(name):
    op = operator(name)
    program = next(programs(op, split=8, rows=16, block=16))
    assert [k.name for k in program.kernels] == ["streamed_parts", "streamed"]
    assert {r.status for r in safety(program, Context.of(op))} == {"PROVED"}
    for sizes in SIZES:
        arrays = values(op, sizes)
        got = run(program, sizes, arrays, {"bounded": True, "reach": 5})
        for n, want in reference(op, arrays, {"bounded": True, "reach": 5}, {}).items():
            np.testing.assert_allclose(got[n], want, rtol=1e-9, atol=1e-9, err_msg=str(sizes))


ROWS = """
opwright "0.1"
op rows @ 1.0 {
  dims B, N
  where N >= 1
  input x: f32[B, N]
  output %s
  def {
%s
  }
}
"""
LONG = {
    "sums": ("t: f32[B]", "t[b] = sum.f32[j: N](x[b, j] * x[b, j]) / f32(N)"),
    "best": ("t: i64[B]", "t[b] = argmax[j: N](x[b, j])"),
    "scaled": (
        "t: f32[B], y: f32[B, N]",
        "t[b] = max[j: N](abs(x[b, j]))\ny[b, j] = x[b, j] / (t[b] + 1)",
    ),
    "weights": (
        "y: f32[B, N]",
        "m[b] = max[j: N](x[b, j])\nz[b] = sum.f32[j: N](exp(x[b, j] - m[b]))\n"
        "y[b, j] = exp(x[b, j] - m[b]) / z[b]",
    ),
}


@pytest.mark.parametrize("name", sorted(LONG))
def test_rows_that_several_programs_share(name):
    text = ROWS % LONG[name]
    op = elaborate(parse(text, "rows.op"), "rows", filename="rows.op", source=text)
    ran = 0
    for space in spaces(op):
        keys = [k for k in space.holes if k.rpartition(".")[2] == "split"]
        schedule = space.preferred()[0]
        if not keys:
            continue
        for k in keys:
            schedule = schedule.changed(k, 8).changed(f"{k[:-5]}block", 16)
        program = space.instantiate(schedule.changed("aligned", False))
        assert any(k.name.endswith("_parts") for k in program.kernels)
        assert {r.status for r in safety(program, Context.of(op))} == {"PROVED"}
        for sizes in ({"B": 3, "N": 300}, {"B": 1, "N": 1}, {"B": 0, "N": 5}):
            rng = np.random.default_rng(7)
            arrays = {"x": rng.standard_normal((sizes["B"], sizes["N"]))}
            got = run(program, sizes, arrays)
            for n, want in reference(op, arrays, {}, sizes).items():
                np.testing.assert_allclose(got[n], want, rtol=1e-9, atol=1e-12)
        ran += 1
    assert ran


@pytest.mark.parametrize("names", [("start", "part"), ("n0", "depth"), ("row", "left")])
def test_indices_may_have_names_of_loops(names):
    text = HEAD % CASES["weighted"]
    for old, new in zip(("j", "d"), names, strict=True):
        text = re.sub(rf"\b{old}\b", new, text)
    op = elaborate(parse(text, "streamed.op"), "streamed", filename="streamed.op", source=text)
    given = {"bounded": True, "reach": 5}
    along = [s for s in cpu_spaces(op, 8) if s.name == "walk"]
    made = [*programs(op), *(s.instantiate(s.preferred()[0]) for s in along)]
    assert len(made) > 2
    for program in made:
        for sizes in SIZES[:2]:
            arrays = values(op, sizes)
            got = run(program, sizes, arrays, given)
            for n, want in reference(op, arrays, given, {}).items():
                np.testing.assert_allclose(got[n], want, rtol=1e-9, atol=1e-9)


def test_a_size_that_a_fact_fixes_is_printed_as_a_number():
    body = """
    c[b, i, j] = s[b, i, j] * rsqrt(f32(K))
    near[i, j] = j <= i and i - j <= reach
    m[b, i] = max[j: N | near[i, j]](c[b, i, j])
    p[b, i, j] = if near[i, j] then exp(c[b, i, j] - m[b, i]) else 0
    o[b, i, d] = sum.f32[j: N](p[b, i, j] * v[b, j, d]) / sum.f32[j: N](p[b, i, j])
"""
    text = HEAD % ("o: f32[B, M, D]", body)
    op = elaborate(parse(text, "streamed.op"), "streamed", filename="streamed.op", source=text)
    program = next(programs(op, even=True, hold=16))
    (loop,) = [s for s in program.kernels[0].body if isinstance(s, For)]
    assert "reach" in show(loop.lo) and loop.hi.op != "size"  # both ends follow the guard
    candidate = printed(program, op, "sm_90")
    assert "tl.cast(16, tl.float32)" in candidate.source
    assert {r.status for r in static_gates(candidate, op).records if r.kind != "G5"} == {"PROVED"}
