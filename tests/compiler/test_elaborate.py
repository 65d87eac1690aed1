"""What an elaborated operator is: ranges, kinds, order, recurrences, composition, laws, meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.shipped import some

from opwright.compiler.elaborate import Spec, load_spec, parse_spec, written_gradient
from opwright.grammar.diagnostics import DiagnosticError
from opwright.ir.expr import Fold, evaluate, free_vars, show, walk
from opwright.ir.op import Law, Operator, show_operator
from opwright.ir.reference import InputError, evaluate_clause, reference
from opwright.ir.scalar import evaluate_scalar

ROOT = Path(__file__).resolve().parents[2]


def spec(*ops: str, head: str = "") -> Spec:
    return parse_spec(f'opwright "0.1"\n{head}\n' + "\n".join(ops))


def one(text: str, name: str = "f", head: str = "", **types: str) -> Operator:
    return spec(f"op {name} @ 1.0 {{\n{text}\n}}", head=head).operator(name, types)


def shape_of(op: Operator, name: str) -> str:
    return ", ".join(show(s) for s in op.tensor(name).shape)


def same(op: Operator, *, sizes: Any = None, **inputs: Any) -> dict[str, Any]:
    out, slow = reference(op, inputs, None, sizes), evaluate_scalar(op, inputs, None, sizes)
    for name in out:
        np.testing.assert_allclose(out[name], slow[name], rtol=1e-12)
    return out


def bound_names(op: Operator) -> list[str]:
    names = [a.name for t in (*op.inputs, *op.tensors) for a in t.axes]
    roots = [t.body for t in op.tensors if t.body is not None]
    roots += [c.expr for c in op.clauses if c.expr is not None]
    names += [b for r in roots for x in walk(r) if x.op == "fold" for b in Fold(x).binders]
    return names


# -- ranges of locals -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "extent", "index", "found"),
    [
        ("", "G * K", "i * K + k", "G"),
        ("", "K * G", "k + K * i", "G"),
        ("where C % G == 0, G >= 1\nlet Q = C // G", "C", "i * Q + k", "G"),
        ("where C % K == 0, K >= 1", "C", "i * K + k", "C // K"),
        ("", "4 * G", "4 * i + k", "G"),
        ("", "G", "i // K", "G * K"),
    ],
)
def test_ranges_follow_from_digits(facts: str, extent: str, index: str, found: str) -> None:
    last = "4" if "4" in index else "Q" if "Q" in index else "K"
    op = one(f"""
      dims B, C, G, K
      where K >= 1
      {facts}
      input x: f32[{extent}], n: i32[B]
      output y: f32[B]
      def {{
        s[i] = sum[k: {last}](x[{index}])
        y[b] = sum[i: 0..n[b]](s[i])
      }}
    """)
    assert shape_of(op, "s") == found


def test_ranges_follow_from_the_equation() -> None:
    op = one("""
      dims B, N
      where N >= 1
      input x: f32[B, N]
      output y: f32[B, N]
      def {
        y[b, j] = e[b, j] / sum[k: N](e[b, k])
        m[b] = max[j: N](x[b, j])
        e[b, j] = exp(x[b, j] - m[b])
      }""")
    assert [t.name for t in op.tensors] == ["m", "e", "y"]
    assert shape_of(op, "m") == "B" and shape_of(op, "e") == "B, N"
    names = bound_names(op)
    assert len(names) == len(set(names))
    same(op, x=np.random.default_rng(0).standard_normal((2, 3)))


def test_ranges_follow_from_the_readers() -> None:
    op = one("""
      dims M, N
      input x: f32[M, N]
      output y: f32[M]
      def {
        see[i, j] = j <= i
        y[i] = sum[j: N | see[i, j]](x[i, j])
      }""")
    assert shape_of(op, "see") == "M, N"
    assert op.tensor("see").kind == "bool"
    same(op, x=np.arange(12.0).reshape(3, 4))


def test_ranges_follow_from_dependent_readers() -> None:
    op = one("""
      dims N
      input x: f32[N]
      output y: f32[N]
      def {
        w[k] = k * k
        y[t] = sum[s: 0..t + 1](x[s] * w[s])
      }""")
    assert shape_of(op, "w") == "N"
    same(op, x=np.arange(4.0))


def test_conditional_reads_count_last() -> None:
    op = one("""
      dims M, N
      input a: f32[M], b: f32[N]
      output y: f32[M + N]
      def {
        c[i] = if i < M then a[i] else b[i - M]
        y[i] = c[i]
      }""")
    assert shape_of(op, "c") == "M + N"
    assert same(op, a=np.array([1.0]), b=np.array([2.0, 3.0]))["y"].tolist() == [1, 2, 3]


def test_readers_decide_between_extents() -> None:
    op = one("""
      dims N
      input a: f32[N], b: f32[N + 1]
      output y: f32[N]
      def {
        c[i] = a[i] + b[i]
        y[i] = c[i]
      }""")
    assert shape_of(op, "c") == "N"


# -- kinds ----------------------------------------------------------------------------------------


def test_kinds_and_types_of_locals() -> None:
    op = one("""
      dims N
      param flag: bool = true
      input x: bf16[N], k: i8[N]
      output y: f64[N], n: i32[N], c: bool[N]
      def {
        a[i] = x[i] * 2
        b[i] = k[i] + 1
        d[i] = if flag then x[i] > 0 else k[i] in {1, 2, 3}
        e[i] = bf16(a[i])
        g[i] = f64(a[i]) + 1
        y[i] = e[i] + g[i]
        n[i] = if d[i] == (b[i] != 2) then b[i] else -1
        c[i] = 0 <= k[i] < 3
      }""")
    types = {t.name: str(t.dtype) for t in op.tensors}
    assert types == {"a": "f32", "b": "i64", "d": "bool", "e": "bf16", "g": "f64",
                     "y": "f64", "n": "i32", "c": "bool"}  # fmt: skip
    out = same(op, x=np.array([1.0, -2.0]), k=np.array([3, 0]))
    assert out["c"].tolist() == [False, True] and out["n"].tolist() == [4, -1]


def test_functions_and_rounding() -> None:
    op = one("""
      dims N
      input x: f32[N]
      output y: f32[N], q: i8[N]
      def {
        y[i] = round.bf16(x[i]) + max(x[i], 0, -x[i]) + sigmoid(x[i]) - (x[i + 1] ?? -inf)
        q[i] = nearest(max(min(x[i] * 16, 127), -128))
      }""")
    out = same(op, x=np.array([0.3, -1.7]))
    assert out["q"].tolist() == [5, -27] and out["y"][1] == np.inf


# -- interface ------------------------------------------------------------------------------------


def test_facts_lets_params_and_default_limits() -> None:
    op = one("""
      dims N, K
      param stride: i32 = 2
      param scale: f32 = rsqrt(K)
      where stride >= 1, 1 <= K < 9, N > K
      let P = (N - K) // stride + 1
      input x: f32[N], w: f32[K]
      output y: f32[P]
      def { y[p] = scale * sum[k: K](x[p * stride + k] * w[k]) }""")
    facts = [show(f) for f in op.facts]
    assert facts == [
        "1 <= stride", "1 <= K", "K < 9", "K < N", "0 <= N", "N <= 2147483647",
        "-2147483648 <= stride", "stride <= 2147483647",
    ]  # fmt: skip
    assert shape_of(op, "y") == "(N - K) // stride + 1"
    assert list(op.lets) == ["P"] and [p.name for p in op.params] == ["stride", "scale"]
    x = np.arange(7.0)
    assert reference(op, {"x": x, "w": np.ones(4)})["y"].tolist() == [3, 7]
    assert len(reference(op, {"x": x, "w": np.ones(4)}, params={"stride": 1})["y"]) == 4
    with pytest.raises(InputError, match="K < N does not hold"):
        reference(op, {"x": np.ones(2), "w": np.ones(2)})


def test_elements_are_limited_by_default() -> None:
    op = one("dims A, B\ninput x: f32[A, B]\noutput y: f32[B]\n"
             "def { y[b] = sum[a: A](x[a, b]) }")  # fmt: skip
    assert "A * B <= 1099511627776" in [show(f) for f in op.facts]


def test_leading_axes_of_any_number() -> None:
    op = one("""
      dims batch..., N
      input x: f32[batch..., N]
      output y: f32[batch..., N]
      def {
        s[batch...] = sum[j: N](x[batch..., j])
        y[batch..., j] = x[batch..., j] - s[batch...]
      }""")
    assert op.variadic == ("batch",)
    x = np.arange(12.0).reshape(2, 3, 2)
    y = reference(op, {"x": x})["y"]
    np.testing.assert_allclose(y, (x - x.sum(-1, keepdims=True)).reshape(6, 2))


def test_tolerance_workloads_objective_and_targets(tmp_path: Path) -> None:
    path = tmp_path / "f.op"
    (tmp_path / "seen.jsonl").write_text('{"N": 8, "T": "f32"}\n{"N": 16, "weight": 3}\n')
    path.write_text("""opwright "0.1"
    op f @ 1.0 "Doc." {
      dims N
      type T in {bf16, f32}
      param c: f32 = 2
      input x: T[N] layout row
      output y: T[N]
      def { y[i] = c * x[i] }
      tolerance versus f64 { bf16: abs 1e-2 rel 2e-2 f32: ulp 4 }
      grad x auto
      workload a weight 0.5 { N = 1024, T = f32, c = 3, x ~ normal(0, 2) }
      workload "seen.jsonl" weight 0.4
      minimize 0.8 * latency + 0.2 * memory subject to memory <= 64 MiB, latency <= 3 us
      target gpu(sm_90) via triton, cuda
      target cpu via cpp
    }""")
    op = load_spec(path).operator()
    assert op.types == {"T": "bf16"} and op.doc == "Doc." and op.inputs[0].layout == "row"
    assert op.tolerance == {"bf16": {"abs": 1e-2, "rel": 2e-2}, "f32": {"ulp": 4.0}}
    first, seen, more = op.workloads
    assert (first.sizes, first.params, first.types) == ({"N": 1024}, {"c": 3}, {"T": "f32"})
    assert first.values == {"x": ("normal", (0.0, 2.0))}
    assert [seen.weight, more.weight] == pytest.approx([0.1, 0.3])
    assert op.objective.terms == (("latency", 0.8), ("memory", 0.2))
    assert op.objective.bounds == (("memory", "<=", 64 * 2.0**20), ("latency", "<=", 3e-6))
    assert [(t.family, t.arch, t.backends) for t in op.targets] == [
        ("gpu", "sm_90", ("triton", "cuda")), ("cpu", None, ("cpp",)),
    ]  # fmt: skip
    assert op.gradients == (("x", "auto"),)


def test_digests_follow_the_meaning_and_not_the_layout() -> None:
    text = "dims N\ninput x: f32[N]\noutput y: f32[N]\ndef { y[i] = x[i] + 1 }"
    a, b = one(text), one(text.replace("\n", "   # note\n\n"))
    c = one(text.replace("+ 1", "+ 2"))
    assert a.digest == b.digest != c.digest and a.digest.startswith("sha256:")
    assert a.source == b.source


def test_updates_take_the_memory_of_an_input() -> None:
    op = one("dims N\ninput a: f32[N]\noutput b: f32[N] updates a\ndef { b[i] = a[i] * 0.9 }")
    assert op.tensor("b").updates == "a"


# -- recurrences ----------------------------------------------------------------------------------


def test_tensors_that_recur_together() -> None:
    op = one("""
      dims B, N
      input x: f32[B, N], a: f32[B]
      output h: f32[B, N]
      def {
        rec t: c[b, t] = c[b, t - 1] + g[b, t] * h[b, t - 1] init a[b]
        g[b, t] = sigmoid(x[b, t] + h[b, t - 1])
        rec t: h[b, t] = tanh(c[b, t]) init 0
      }""")
    groups = {t.name: t.recurrence.group for t in op.tensors if t.recurrence}
    assert set(groups) == {"c", "g", "h"} and len(set(groups.values())) == 1
    order = groups["c"]
    assert order.index("g") < order.index("c") < order.index("h")
    rng = np.random.default_rng(1)
    same(op, x=rng.standard_normal((2, 4)), a=rng.standard_normal(2))


def test_an_integer_state_stays_an_integer() -> None:
    op = one("""
      dims N
      input x: f32[N]
      output y: i64[N]
      def {
        rec t: n[t] = n[t - 1] + (if x[t] > 0 then 1 else 0) init 10
        y[t] = n[t]
      }""")
    assert same(op, x=np.array([1.0, -1.0, 2.0]))["y"].tolist() == [11, 11, 12]


def test_reading_another_recurrence_one_step_back_uses_its_init() -> None:
    op = one("""
      dims N
      input x: f32[N]
      output h: f32[N]
      def {
        rec t: g[t] = x[t] * 2 init 5
        rec t: h[t] = g[t - 1] + h[t - 1] init 0
      }""")
    assert same(op, x=np.array([1.0, 2.0]))["h"].tolist() == [5, 7]


# -- composition ----------------------------------------------------------------------------------

HALF = """op half @ 1.2 {
  dims B, N
  where N >= 1
  type T in {f32, bf16}
  param by: f32 = 2
  input x: T[B, N]
  output y: T[B, N], total: f32[B]
  def { s[b] = sum[j: N](x[b, j])  y[b, j] = x[b, j] / by  total[b] = s[b] }
}"""


def test_calls_copy_the_called_definition() -> None:
    op = spec(
        HALF,
        """op f @ 1.0 {
      dims M, K
      where K >= 1
      input a: bf16[M, K]
      output o: f32[M, K]
      def {
        p = half(a).y
        o[i, j] = p[i, j] + half(a, by = 4).y[i, j] + half(a).total[i]
      }
    }""",
    ).operator("f")
    names = [t.name for t in op.tensors]
    assert len([n for n in names if n.startswith("half_y")]) == 2  # two settings, each once
    assert str(op.tensor("half_y").dtype) == "bf16"
    a = np.arange(6.0).reshape(2, 3)
    out = same(op, a=a)["o"]
    np.testing.assert_allclose(out, a / 2 + a / 4 + a.sum(1, keepdims=True))
    assert len(bound_names(op)) == len(set(bound_names(op)))


def test_digests_cover_what_is_called_and_nothing_else() -> None:
    use = "op f @ 1.0 { dims M input a: f32[M] output o: f32[M] def { o[i] = g(a)[i] } }"
    g = "op g @ 1.0 { dims M input a: f32[M] output o: f32[M] def { o[i] = a[i] * 2 } }"
    h = "op h @ 1.0 { dims M input a: f32[M] output o: f32[M] def { o[i] = a[i] } }"
    made = spec(g, h, use)
    alone = {n: spec(g, h, use).operator(n).digest for n in made.names}
    assert {n: made.operator(n).digest for n in reversed(made.names)} == alone
    changed = spec(g.replace("* 2", "* 3"), h, use)
    assert changed.operator("f").digest != alone["f"]
    assert changed.operator("h").digest == alone["h"]


def test_several_results_at_once_and_tensor_literals() -> None:
    op = spec(
        HALF,
        """op f @ 1.0 {
      dims M, K
      where K >= 1
      input a: f32[M, K]
      output o: f32[M, K], t: f32[M]
      def { o[i, j], t[i] = half([r: M, c: K => a[r, c] + 1]) }
    }""",
    ).operator("f")
    a = np.arange(6.0).reshape(2, 3)
    out = same(op, a=a)
    np.testing.assert_allclose(out["o"], (a + 1) / 2)
    np.testing.assert_allclose(out["t"], (a + 1).sum(1))


def test_calls_under_an_index_are_lifted() -> None:
    op = spec(
        HALF,
        """op f @ 1.0 {
      dims H, M, K
      where K >= 1
      input a: f32[H, M, K]
      output o: f32[H, M]
      def {
        o[h, i] = half(a[h, :, :]).total[i]
                  + sum[k: K](half([r: M, c: K => a[h, r, c] * k]).y[i, k])
      }
    }""",
    ).operator("f")
    a = np.random.default_rng(0).standard_normal((2, 3, 4))
    out = same(op, a=a)["o"]
    np.testing.assert_allclose(out, a.sum(2) + (a * np.arange(4)).sum(2) / 2)


def test_calls_need_shapes_that_fit() -> None:
    text = """op f @ 1.0 {
      dims M
      input a: f32[M]
      output o: f32[M]
      def { o[i] = half(a).total[i] }
    }"""
    with pytest.raises(DiagnosticError) as error:
        spec(HALF, text).operator("f")
    assert [d.code for d in error.value.diagnostics] == ["E0407"]


def test_imports_by_name_and_by_module(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "half.op").write_text(f'opwright "0.1"\n{HALF}')
    body = """op f @ 1.0 {{
      dims M, K
      where K >= 1
      input a: f32[M, K]
      output o: f32[M]
      def {{ o[i] = {call}(a).total[i] }}
    }}"""
    for head, call in (
        ("from lib.half import half @1.1", "half"),
        ("import lib.half as lh", "lh.half"),
        ("import lib.half", "half.half"),
    ):
        path = tmp_path / "f.op"
        path.write_text(f'opwright "0.1"\n{head}\n' + body.format(call=call))
        op = load_spec(path).operator("f")
        assert same(op, a=np.ones((2, 3)))["o"].tolist() == [3, 3]


def test_mistakes_of_an_imported_file_are_reported_there(tmp_path: Path) -> None:
    broken = HALF.replace("s[b] =", "s[b] = unknown +")
    (tmp_path / "half.op").write_text(f'opwright "0.1"\n{broken}')
    path = tmp_path / "f.op"
    path.write_text("""opwright "0.1"
from half import half
op f @ 1.0 { dims M, K input a: f32[M, K] output o: f32[M] def { o[i] = half(a).total[i] } }""")
    with pytest.raises(DiagnosticError) as error:
        load_spec(path).operator("f")
    assert {Path(d.filename).name for d in error.value.diagnostics} == {"half.op"}


def test_an_operator_may_not_call_itself() -> None:
    with pytest.raises(DiagnosticError) as error:
        one("dims N\ninput x: f32[N]\noutput y: f32[N]\ndef { y[i] = f(x)[i] }")
    assert [d.code for d in error.value.diagnostics] == ["E0210"]


# -- contract -------------------------------------------------------------------------------------


def test_clauses_are_judged() -> None:
    op = one("""
      dims B, N
      where N >= 1
      input x: f32[B, N]
      output y: f32[B]
      def { y[b] = sum[j: N](x[b, j]) }
      requires positive: all[b: B, j: N](0 < x[b, j] < inf)
      ensures above: all[b: B, j: N](x[b, j] <= y[b]) within abs 1e-6
      ensures mass: y ~= [b: B => sum.f64[j: N](x[b, j])] by test
    """)
    x = np.array([[1.0, 2.0], [3.0, 4.0]])
    assert [(c.name, c.kind) for c in op.clauses] == [
        ("positive", "requires"), ("above", "ensures"), ("mass", "ensures"),
    ]  # fmt: skip
    assert [c.by for c in op.clauses] == ["proof_or_test", "proof_or_test", "test"]
    for clause in op.clauses:
        assert evaluate_clause(op, clause, {"x": x}).holds
    found = evaluate_clause(op, op.clauses[2], {"x": x}, {"y": np.array([3.0, 8.0])})
    assert not found.holds and list(found.where.values()) == [1]
    assert not evaluate_clause(op, op.requires[0], {"x": -x}).holds


def test_laws_keep_calls_of_their_operator() -> None:
    op = one("""
      dims N
      param c: f32 = 1
      input x: f32[N], s: f32
      output y: f32[N]
      def { y[i] = c * x[i] + s }
      law shift(d: f32 in -1..1, p: perm(N), k: index(N), u: f32[N]):
        f([i: N => x[p[i]] + d], s).y ~= [i: N => y[p[i]] + c * d] within abs 1e-4
      law twice: f(f(x, s), s, c = 2)[0] ~= 2 * y[0] + s
    """)
    shift, twice = (c.source for c in op.clauses)
    assert isinstance(shift, Law) and isinstance(twice, Law)
    assert [(a.name, a.kind) for a in shift.args] == [
        ("d", "sample"), ("p", "perm"), ("k", "index"), ("u", "sample"),
    ]  # fmt: skip
    (call,) = shift.calls
    assert [show(t.body) for t in call.inputs if t.body is not None][1] == "s"
    assert show(call.params["c"]) == "c"
    assert [show(c.params["c"]) for c in twice.calls] == ["c", "2.0"]
    assert op.clauses[0].within == {"abs": 1e-4}
    assert "call0.y" in str(op.clauses[0].expr)


def test_contracts_do_not_speak_of_locals() -> None:
    with pytest.raises(DiagnosticError) as error:
        one("dims N\ninput x: f32[N]\noutput y: f32[N]\ndef { t[i] = x[i]  y[i] = t[i] }\n"
            "ensures e: all[i: N](t[i] > 0)\nrequires r: all[i: N](y[i] > 0)")  # fmt: skip
    assert [d.code for d in error.value.diagnostics] == ["E0207", "E0207"]


def test_written_gradients_are_operators() -> None:
    made = spec("""op f @ 1.0 {
      dims B, N
      type T in {f32, i32}
      input x: T[B, N]
      output y: f32[B, N]
      def { y[b, t] = sum.f32[s: 0..t + 1](x[b, s]) }
      grad x { d_x[b, s] = sum.f32[t: s..N](d_y[b, t]) }
    }""")
    (op,) = written_gradient(made.module)
    assert [t.name for t in op.inputs] == ["x", "y", "d_y"]
    d = np.array([[1.0, 2.0, 4.0]])
    assert reference(op, {"x": d, "y": d, "d_y": d})["d_x"].tolist() == [[7, 6, 4]]
    assert written_gradient(made.module, "f", {"T": "i32"}) == []
    assert made.operator("f", {"T": "i32"}).gradients == (("x", "def"),)


# -- every shipped spec ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", some(sorted((ROOT / "specs").rglob("*.op")), 2), ids=lambda p: str(p.relative_to(ROOT))
)
def test_shipped_specs_elaborate_at_every_binding(path: Path) -> None:
    made = load_spec(path)
    for name in made.names:
        for types in made.bindings(name):
            op = made.operator(name, types)
            names = bound_names(op)
            assert len(names) == len(set(names))
            assert all(not free_vars(c.expr) for c in op.clauses if c.expr is not None)
            assert show_operator(op).startswith(f"operator {name}")


@pytest.mark.parametrize("name", load_spec(ROOT / "tests/compiler/data/shapes.op").names)
def test_specs_of_many_shapes_mean_what_they_say(name: str) -> None:
    op = load_spec(ROOT / "tests/compiler/data/shapes.op").operator(name)
    rng = np.random.default_rng(3)
    sizes = {s: 4 + 2 * (n % 2) for n, s in enumerate(op.sizes)}
    sizes |= {"window": {"R": 3}, "ranked": {"K": 2}, "masked_rows": {"Sq": 3}}.get(name, {})
    inputs: dict[str, Any] = {}
    for t in op.inputs:
        shape = tuple(int(evaluate(s, sizes)) for s in t.shape)
        inputs[t.name] = rng.standard_normal(shape)
        if t.kind == "int":
            inputs[t.name] = rng.integers(0, 4, shape)
    if name == "segments":
        ends = np.sort(rng.integers(0, sizes["Z"] + 1, sizes["R"] - 1))
        inputs["ptr"] = np.array([0, *ends, sizes["Z"]])
    same(op, sizes={n: sizes[n] for n in op.free_sizes}, **inputs)
