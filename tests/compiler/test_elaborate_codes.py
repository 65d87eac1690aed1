"""Every code of the elaborator and of the checks, by an example that has the mistake."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from opwright.compiler.check import check, check_text
from opwright.compiler.elaborate import elaborate, load_spec
from opwright.grammar.diagnostics import DiagnosticError, codes, template
from opwright.grammar.parser import parse

IO = "input x: f32[N]\n  output y: f32[N]"
COPY = "def { y[i] = x[i] }"


def op(text: str, interface: str = IO, head: str = "", dims: str = "N") -> str:
    """A whole file around some sections of one operator."""
    return f'opwright "0.1"\n{head}\nop f @ 1.0 {{\n  dims {dims}\n  {interface}\n  {text}\n}}\n'


def both(
    wrong: str, right: str, interface: str = IO, head: str = "", dims: str = "N"
) -> tuple[str, str]:
    return op(wrong, interface, head, dims), op(right, interface, head, dims)


def faces(wrong: str, right: str, text: str = COPY, dims: str = "N") -> tuple[str, str]:
    """A pair whose interfaces differ."""
    return op(text, wrong, "", dims), op(text, right, "", dims)


SUM = "from reduce.row_sum import row_sum"
ROWS = "input x: f32[B, N]\n  output y: f32[B]"
TWO = 'op both @ 1.0 {\n  dims N\n  input x: f32[N]\n  output a: f32[N], b: f32[N]\n  ' \
      "def { a[i] = x[i]  b[i] = -x[i] }\n}\n"  # fmt: skip
PART = "op part @ 1.0 {\n  dims N, K\n  where K <= N\n  input x: f32[N]\n  output y: f32[K]\n  " \
       "def { y[i] = x[i] }\n}\n"  # fmt: skip

TEXTS: Mapping[str, tuple[str, str]] = {
    # names
    "E0201": both("def { y[i] = x[i] + z }", "param z: f32 = 1\n  def { y[i] = x[i] + z }"),
    "E0202": both("def { y[i] = x[i]  y[j] = x[j] }", COPY),
    "E0203": both("def { y[i] = expp(x[i]) }", "def { y[i] = exp(x[i]) }"),
    "E0204": both(COPY, COPY, head="import reduce.nowhere")[:1]
    + both(COPY, COPY, head="import reduce.row_sum")[:1],
    "E0205": (op(COPY, head="from reduce.row_sum import total"), op(COPY, head=SUM)),
    "E0206": (op(COPY, head=SUM + " @9.0"), op(COPY, head=SUM + " @1.0")),
    "E0207": both("def { y[i] = x[i] + T }\n  type T in {f32}", "def { y[i] = x[i] + N }"),
    "E0208": both("def { t[i] = x[i] }", COPY),
    "E0209": both("def { y[i] = x[i]  x[i] = 0 }", COPY),
    "E0210": both(
        "def { a[i] = b[i] + x[i]  b[i] = a[i] + x[i]  y[i] = b[i] }",
        "def { a[i] = x[i]  b[i] = a[i] + x[i]  y[i] = b[i] }",
    ),
    "E0211": (
        op("def { y[i] = both(x).c[i] }", head=TWO),
        op("def { y[i] = both(x).b[i] }", head=TWO),
    ),
    "E0212": (
        op("def { y[b] = row_sum(x, eps = 1)[b] }", ROWS, SUM, "B, N"),
        op("def { y[b] = row_sum(x)[b] }", ROWS, SUM, "B, N"),
    ),
    "E0214": both(
        COPY + "\n  workload w weight 1 { N = 8, M = 8 }",
        COPY + "\n  workload w weight 1 { N = 8 }",
    ),
    "E0215": both(
        COPY + "\n  workload w weight 1 { x ~ normal(0, 1) }",
        COPY + "\n  workload w weight 1 { N = 8, x ~ normal(0, 1) }",
    ),
    "E0216": both(
        COPY + "\n  workload w weight 1 { N = 8, x ~ norml(0, 1) }",
        COPY + "\n  workload w weight 1 { N = 8, x ~ normal(0, 1) }",
    ),
    "E0217": both(
        COPY + '\n  workload "missing.jsonl" weight 1', COPY + "\n  workload w weight 1 { N = 8 }"
    ),
    "E0218": both(COPY + "\n  target tpu via cpp", COPY + "\n  target cpu via cpp"),
    "E0220": both("def { y[i] = sum[i: N](x[i]) }", "def { y[i] = sum[j: N](x[j]) }"),
    # types
    "E0301": both("def { y[i] = (x[i] > 0) + 1 }", "def { y[i] = if x[i] > 0 then 2 else 1 }"),
    "E0302": both("def { y[i] = if x[i] > 0 then 1 else x[i] > 2 }",
                  "def { y[i] = if x[i] > 0 then 1 else 2 }"),
    "E0303": both("def { y[i] = x[x[i]] }", "def { y[i] = x[i] }"),
    "E0304": both("def { y[i] = x[i] > 0 }", "def { y[i] = if x[i] > 0 then 1 else 0 }"),
    "E0305": both("def { y[i] = x + 1 }", "def { y[i] = x[i] + 1 }"),
    "E0306": both("param c: f32 = 1\n  def { y[i] = x[i] * c[i] }",
                  "param c: f32 = 1\n  def { y[i] = x[i] * c }"),
    "E0307": both("def { y[i] = exp(x[i], 2) }", "def { y[i] = exp(x[i]) }"),
    "E0308": both("def { y[i] = i32(x[i]) }", "def { y[i] = i32(floor(x[i])) }"),
    "E0309": both("def { y[i] = round.i32(x[i]) }", "def { y[i] = round.bf16(x[i]) }"),
    "E0310": both("param c: i32 = 0.5\n  " + COPY, "param c: f32 = 0.5\n  " + COPY),
    "E0311": both("where N\n  " + COPY, "where N >= 1\n  " + COPY),
    "E0312": both(
        "type T in {f32, bf16}\n  " + COPY + "\n  workload w weight 1 { N = 8, T = f64 }",
        "type T in {f32, bf16}\n  " + COPY + "\n  workload w weight 1 { N = 8, T = bf16 }",
    ),
    "E0313": both("def { y[i] = sum[j: N](x[j] > 0) }",
                  "def { y[i] = sum[j: N](if x[j] > 0 then 1 else 0) }"),
    "E0314": both("def { y[i] = sum.i32[j: N](x[j]) }", "def { y[i] = sum.f32[j: N](x[j]) }"),
    "E0315": both(
        "where N >= 1\n  def { y[i] = argmax[j: N, k: N](x[j] * x[k]) }",
        "where N >= 1\n  def { y[i] = argmax[j: N](x[j]) }",
    ),
    "E0316": (
        op("def { y[i] = both(x)[i] }", head=TWO), op("def { y[i] = both(x).a[i] }", head=TWO)
    ),
    "E0317": both(COPY + "\n  minimize latency\n  minimize memory",
                  COPY + "\n  minimize 0.5 * latency + 0.5 * memory"),
    "E0318": both(COPY + "\n  workload w weight 1 { N = 8, x ~ normal(0, sqrt(2)) }",
                  COPY + "\n  workload w weight 1 { N = 8, x ~ normal(0, 1.5) }"),
    "E0319": both("def { y[i] = x[i] + 9999999999999999999 }", "def { y[i] = x[i] + 1e19 }"),
    "E0320": both(COPY + "\n  minimize latency subject to memory <= 5 ms",
                  COPY + "\n  minimize latency subject to memory <= 5 MiB"),
    # shapes and obligations
    "E0401": both("def { y[i] = x[i + 1] }", "def { y[i] = x[i + 1] ?? 0 }"),
    "E0402": both("def { y[i] = x[i, 0] }", COPY),
    "E0403": both("def { t[j] = j * j  y[i] = x[i] + t[i + 0] }",
                  "def { t[j] = j * j  y[i] = x[i] + t[i] }"),
    "E0404": both(
        "def { t[i] = x[i] + z[i]  y = sum[j: 2](t[j + 0]) }",
        "def { t[i] = x[i] + z[i]  y = sum[j: N](t[j]) }\n  where N == M",
        "input x: f32[N], z: f32[M]\n  output y: f32", dims="N, M",
    ),
    "E0405": faces("input x: f32[N, N]\n  output y: f32[N, N]",
                   "input x: f32[N, N]\n  output y: f32[N]", "def { y[i, i] = x[i, i] }")[:1]
    + faces("", "input x: f32[N, N]\n  output y: f32[N]", "def { y[i] = x[i, i] }")[1:],
    "E0406": (
        op("def { y[i] = x[i + 2] }", "input x: f32[N]\n  output y: f32[N - 2]"),
        op("where N >= 2\n  def { y[i] = x[i + 2] }", "input x: f32[N]\n  output y: f32[N - 2]"),
    ),
    "E0407": (
        op("def { y[b] = row_sum(x)[b] }", "input x: f32[N]\n  output y: f32[N]", SUM),
        op("def { y[b] = row_sum(x)[b] }", ROWS, SUM, "B, N"),
    ),
    "E0408": (
        op("def { y[i] = part(x)[i] }", head=PART),
        op("def { y[i] = part(x, K = N)[i] }", head=PART),
    ),
    "E0409": both("def { y[i] = max[j: N - 1](x[j]) }", "def { y[i] = max[j: N](x[j]) }"),
    "E0410": both("param k: i32 = 2\n  def { y[i] = x[i // k] ?? 0 }",
                  "param k: i32 = 2\n  where k >= 1\n  def { y[i] = x[i // k] ?? 0 }"),
    "E0411": both("where N > 4, N < 3\n  " + COPY, "where N > 4, N < 30\n  " + COPY),
    "E0412": (
        op("def { y[i] = part(x, K = N + 1)[i] }", head=PART),
        op("def { y[i] = part(x, K = N)[i] }", head=PART),
    ),
    "E0413": both("def { rec t: y[t] = y[t - 2] + x[t] init 0 }",
                  "def { rec t: y[t] = y[t - 1] + x[t] init 0 }"),
    "E0414": both("where x[0] > 0\n  " + COPY, "requires all[i: N](x[i] > 0)\n  " + COPY),
    "E0415": both("where N >= 16\n  " + COPY + "\n  workload w weight 1 { N = 8 }",
                  "where N >= 16\n  " + COPY + "\n  workload w weight 1 { N = 16 }"),
    "E0416": (
        op("def { y[i] = x[i] }", "input x: f32[N...]\n  output y: f32[N]"),
        op("def { y[b..., i] = x[b..., i] }",
           "input x: f32[b..., N]\n  output y: f32[b..., N]", dims="b..., N"),
    ),
    "E0424": both("param k: i32 = 0\n  where k >= 1\n  def { y[i] = x[i // k] ?? 0 }",
                  "param k: i32 = 1\n  where k >= 1\n  def { y[i] = x[i // k] ?? 0 }"),
    "E0418": both("def { y[i] = x[i] / 0 }", "def { y[i] = x[i] / 2 }"),
    "E0419": both(
        "def { y[i] = x[i] * x[i] } grad x { d_x[i] = x[i] * d_y[i] }",
        "def { y[i] = x[i] * x[i] } grad x { d_x[i] = 2 * x[i] * d_y[i] }",
    ),
    "E0420": both(
        "input k: i32[N] def { y[i] = x[i] } grad k auto",
        "input k: i32[N] def { y[i] = x[i] } grad x auto",
    ),
    "E0421": both(COPY + "\n  ensures positive: all[i: N](y[i] > 0)",
                  COPY + "\n  ensures same: all[i: N](y[i] == x[i])"),
    "E0422": both(COPY + "\n  law even: f([i: N => -x[i]]) ~= y",
                  COPY + "\n  law odd: f([i: N => -x[i]]) ~= [i: N => -y[i]]"),
    "E0430": both(
        "input k: i32[N] def { y[i] = x[i] * rand(0, i, k[i]) }",
        "input k: i32[N] def { y[i] = x[i] * rand(0, k[i], i) }",
    ),
    "E0423": both("def { y[i] = log(-1 - x[i] * x[i]) }", "def { y[i] = log(1 + x[i] * x[i]) }"),
    "E0499": both(COPY + "\n  ensures twice: all[i: N](f(f(x))[i] ~= y[i])",
                  COPY + "\n  law twice: f(f(x)) ~= y"),
}  # fmt: skip

ELSEWHERE = {"E0213", "E0219"}  # these need files or arguments; see below


def test_every_code_has_an_example_and_a_cure() -> None:
    known = {c for family in ("E02", "E03", "E04") for c in codes(family)}
    assert known == set(TEXTS) | ELSEWHERE
    assert all(template(c).cure for c in known)


@pytest.mark.parametrize("code", TEXTS)
def test_codes(code: str) -> None:
    wrong, right = TEXTS[code]
    found = check_text(wrong).diagnostics
    assert [d.code for d in found] == [code]
    assert found[0].span.line > 1 and found[0].message and found[0].cure
    assert check_text(right).diagnostics == ()


def test_a_file_that_imports_itself(tmp_path: Path) -> None:
    path = tmp_path / "f.op"
    path.write_text(op(COPY, head="import f"))
    assert [d.code for d in check(path).diagnostics] == ["E0213"]


def test_an_operator_that_is_not_there() -> None:
    with pytest.raises(DiagnosticError) as error:
        elaborate(parse(op(COPY)), "g")
    assert [d.code for d in error.value.diagnostics] == ["E0219"]


def test_a_binding_that_is_not_an_option(tmp_path: Path) -> None:
    path = tmp_path / "f.op"
    path.write_text(op("type T in {f32, bf16}\n  " + COPY))
    spec = load_spec(path)
    assert spec.bindings() == [{"T": "f32"}, {"T": "bf16"}]
    for types in ({"T": "f64"}, {"U": "f32"}):
        with pytest.raises(DiagnosticError) as error:
            spec.operator(types=types)
        assert [d.code for d in error.value.diagnostics] == ["E0312"]


def test_all_mistakes_come_at_once_and_none_cascades() -> None:
    text = op("""def {
    a[i] = x[i] + unknown
    b[i] = a[i] > 0 and a[i]
    y[i] = b[i] + sum[j: N](x[j] > 0) + exp(x[i], x[i])
  }""")
    found = check_text(text).diagnostics
    assert [(d.code, d.span.line) for d in found] == [("E0201", 8), ("E0313", 10), ("E0307", 10)]


def test_syntax_errors_come_alone() -> None:
    found = check_text(op("def { y[i] = x[i] + }")).diagnostics
    assert {d.code[:3] for d in found} == {"E01"}


def test_names_are_suggested() -> None:
    found = check_text(op("param scale: f32 = 1\n  def { y[i] = x[i] * sclae }")).diagnostics
    assert "did you mean `scale`?" in found[0].cure
