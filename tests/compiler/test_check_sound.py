"""What must never be proved: claims about nothing, values that do not exist, edges and ties."""

from __future__ import annotations

import pytest

from opwright.compiler.check import CheckResult, check_text
from opwright.compiler.check_claims import prove
from opwright.ir.record import Record
from opwright.verify.setting import setting

ROW = """dims B, N
  input x: f32[B, N]
  output y: f32[B]
  """
ELEMENT = """dims N
  input x: f32[N]
  output y: f32[N]
  """


def checked(text: str) -> CheckResult:
    return check_text(f'opwright "0.1"\nop f @ 1.0 {{\n  {text}\n}}\n')


def claims(result: CheckResult) -> list[Record]:
    pairs = zip(result.obligations, result.places, strict=True)
    return [r for r, p in pairs if p.kind in ("ensures", "law")]


REFUTED = {
    "nothing to find in an empty row": ROW + """def { y[b] = sum[j: N](x[b, j]) }
  ensures found: all[b: B](any[j: N](x[b, j] == x[b, j]))""",
    "an empty sum": ROW + """def { y[b] = sum[j: N](x[b, j] * x[b, j] + 1) }
  ensures positive: all[b: B](0 < y[b])""",
    "one element": ROW + """where N >= 1
  def { y[b] = sum[j: N](1.0) }
  ensures two: all[b: B](2 <= y[b])""",
    "the root of a square": ELEMENT + """def { y[i] = sqrt(x[i] * x[i]) }
  ensures same: all[i: N](y[i] == x[i])""",
    "a rounding": ELEMENT + """def { y[i] = round.bf16(x[i] + 0.001) }
  ensures same: all[i: N](y[i] == x[i] + 0.001)""",
    "a floor": ELEMENT + """def { y[i] = floor(x[i]) }
  ensures up: all[i: N](x[i] <= y[i])""",
    "a tie": ROW + """where N >= 2
  def { y[b] = max[j: N](x[b, j]) }
  ensures single: all[b: B, j: N | x[b, j] == y[b]](all[k: N | k != j](x[b, k] < y[b]))""",
    "a strict bound that is taken": ELEMENT + """def { y[i] = 1 / (1 + x[i] * x[i]) }
  ensures below: all[i: N](y[i] < 1)""",
    "a product of signs": ELEMENT + """def { y[i] = x[i] * abs(x[i]) }
  ensures nonneg: all[i: N](0 <= y[i])""",
    "a recurrence": ELEMENT + """def { rec t: y[t] = 0.5 * y[t - 1] + x[t] init 1 }
  ensures positive: all[t: N](0 < y[t])""",
    "the first step of a recurrence": ELEMENT + """where N >= 1
  def { rec t: y[t] = y[t - 1] + x[t] * x[t] init 1 }
  ensures more: all[t: N](1 < y[t])""",
    "a precondition one short": ELEMENT + """def { y[i] = sqrt(x[i]) }
  requires nonneg: all[i: N](0 <= x[i])
  ensures positive: all[i: N](0 < y[i])""",
    "a param at its edge": """dims N
  param k: i32 = 1
  where 0 <= k
  input x: f32[N]
  output y: f32[N]
  def { y[i] = k * x[i] * x[i] + k }
  ensures positive: all[i: N](0 < y[i])""",
    "a permutation of half": ELEMENT + """def { y[i] = sum[j: 0..i + 1](x[j]) }
  law same(p: perm(N)): f([i: N => x[p[i]]]) ~= [i: N => y[p[i]]]""",
    "a choice at its border": ELEMENT + """def { y[i] = if x[i] < 0 then -1 else 1 }
  ensures falls: all[i: N | x[i] <= 0](y[i] == -1)""",
    "a mean of signs": ROW + """where N >= 1
  def { y[b] = sum[j: N](x[b, j]) / N }
  law squared: all[b: B](f([b: B, j: N => x[b, j] * x[b, j]])[b] <= y[b] * y[b])""",
}  # fmt: skip


@pytest.mark.parametrize("text", REFUTED.values(), ids=list(REFUTED))
def test_false_by_an_edge(text: str) -> None:
    result = checked(text)
    (record,) = claims(result)
    assert record.status == "REFUTED", record.reason
    (wrong,) = [d for d in result.diagnostics if d.severity == "error"]
    assert wrong.code in ("E0421", "E0422") and wrong.span.line >= 6
    e = result.operators[0]
    clause = next(c for c in e.operator.clauses if c.kind != "requires")
    assert prove(e, clause, setting(e.operator, clause))[1]


NEVER = {
    "contradicting preconditions": ELEMENT + """def { y[i] = x[i] }
  requires low: all[i: N](x[i] < 0)
  requires high: all[i: N](1 < x[i])
  ensures wrong: all[i: N](y[i] == 7)""",
    "a quotient that may have no value": ELEMENT + """def { y[i] = x[i] / x[i] }
  ensures one: all[i: N](y[i] == 1)""",
    "a maximum that may be of nothing": ROW + """where N >= 1
  def { y[b] = max[j: N | -1e6 < x[b, j]](x[b, j]) }
  ensures large: all[b: B](-1e6 < y[b])""",
    "the difference of infinities": ELEMENT + """def { y[i] = if 0 < x[i] then x[i] else -inf }
  ensures nothing: all[i: N](y[i] - y[i] == 0)""",
    "a logarithm outside its domain": ELEMENT + """def { y[i] = exp(log(x[i])) }
  ensures same: all[i: N](y[i] ~= x[i]) within abs 1e-3""",
    "a law about no argument": ELEMENT + """def { y[i] = x[i] }
  law none(c: f32 in 2..1): f([i: N => x[i] + c]) ~= y""",
    "no legal input": ELEMENT + """def { y[i] = x[i] }
  requires never: all[i: N](x[i] * x[i] < 0) and 1 <= N
  ensures wrong: all[i: N](y[i] == 7)""",
}  # fmt: skip


@pytest.mark.parametrize("text", NEVER.values(), ids=list(NEVER))
def test_a_claim_without_values_is_not_proved(text: str) -> None:
    result = checked(text)
    (record,) = claims(result)
    assert record.status in ("UNKNOWN", "TESTED") and record.reason


def test_the_prover_says_when_its_assumptions_contradict() -> None:
    result = checked(NEVER["contradicting preconditions"])
    e = result.operators[0]
    clause = e.operator.clauses[-1]
    why = prove(e, clause, setting(e.operator, clause))[1]
    assert "contradicts itself" in why


def test_what_rounding_alone_breaks_is_not_refuted() -> None:
    result = checked(
        ROW
        + """where N >= 1
  def { y[b] = sum[j: N](x[b, j] / 3) }
  ensures third: all[b: B](3 * y[b] == sum[j: N](x[b, j]))
  ensures positive: all[b: B](0 < exp(-1000 * y[b] * y[b]))"""
    )
    assert [r.status for r in claims(result)] == ["PROVED", "PROVED"]


def test_answers_do_not_change_from_run_to_run() -> None:
    text = REFUTED["a tie"]
    one, two = checked(text), checked(text)
    assert [d.message for d in one.diagnostics] == [d.message for d in two.diagnostics]
    assert [r.status for r in one.obligations] == [r.status for r in two.obligations]
