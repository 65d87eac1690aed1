"""The spec's own obligations: what is proved, what is refuted and how it is said."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.shipped import some

from opwright.compiler.check import CheckResult, check, check_text
from opwright.grammar.diagnostics import render

ROOT = Path(__file__).resolve().parents[2]


def checked(text: str) -> CheckResult:
    return check_text(f'opwright "0.1"\nop f @ 1.0 {{\n{text}\n}}\n')


def messages(result: CheckResult) -> list[str]:
    return [d.message for d in result.diagnostics]


def undecided(result: CheckResult) -> list[str]:
    return [
        r.id
        for r in result.obligations
        if r.status == "UNKNOWN" and r.id.split(".")[1] not in ("real", "domain")
    ]


def test_a_counterexample_has_the_names_of_the_spec_and_a_caret() -> None:
    result = checked("""  dims M, N
  input x: f32[M, N]
  output y: f32[M, N]
  def { y[i, j] = x[i, j + 1] }""")
    (found,) = result.diagnostics
    assert found.message == "M = 1, N = 1, i = 0, j = 0: read x[0, 1] outside 0..1"
    assert render(found, 'opwright "0.1"\n' + "\n" * 4 + "  def { y[i, j] = x[i, j + 1] }").split(
        "\n"
    )[2].strip() == "^" * len("x[i, j + 1]")
    (record,) = [r for r in result.obligations if r.status == "REFUTED"]
    assert record.counterexample is not None
    assert record.counterexample["values"]["N"] == 1


def test_guards_and_conditions_are_assumed() -> None:
    result = checked("""  dims M, N
  input x: f32[M], w: f32[N]
  output y: f32[M + N], z: f32[N]
  def {
    y[i] = if i < M then x[i] else w[i - M]
    z[j] = sum[k: N | k >= 1 and k <= j](w[k - 1])
  }""")
    assert result.ok and undecided(result) == []


def test_a_wrong_guard_is_refuted() -> None:
    result = checked("""  dims M, N
  input x: f32[M], w: f32[N]
  output y: f32[M + N]
  def { y[i] = if i <= M then x[i] else w[i - M] }""")
    assert messages(result) == ["M = 1, N = 1, i = 1: read x[1] outside 0..1"]


GATHER = """  dims V, N
  input table: f32[V], ids: i32[N]
  output y: f32[N]
  def {{ y[n] = table[ids[n]] }}
  {requires}"""


def test_gathers_rest_on_requires() -> None:
    good = checked(GATHER.format(requires="requires r: all[n: N](0 <= ids[n] and ids[n] < V)"))
    assert good.ok and undecided(good) == []
    bad = checked(GATHER.format(requires="requires r: all[n: N](0 <= ids[n] and ids[n] <= V)"))
    assert messages(bad) == ["V = 1, N = 1, n = 0, ids[0] = 1: read table[1] outside 0..1 (line 6)"]
    assert not checked(GATHER.format(requires="")).ok


def test_pointers_are_monotone_by_induction() -> None:
    text = """  dims R, Z
  input ptr: i32[R + 1], val: f32[Z]
  output y: f32[R]
  def {{ y[i] = sum[p: ptr[i]..ptr[i + 1]](val[p]) }}
  requires start: ptr[0] == 0
  {end}
  requires monotone: all[i: R](ptr[i] <= ptr[i + 1])"""
    good = checked(text.format(end="requires end: ptr[R] == Z"))
    assert good.ok and undecided(good) == []
    assert not checked(text.format(end="")).ok


def test_blocks_of_a_page_table() -> None:
    result = checked("""  dims B, P, M
  where M >= 1
  input kv: f32[P, 16], table: i32[B, M], len: i32[B]
  output o: f32[B]
  def { o[b] = sum[j: 0..len[b]](kv[table[b, j // 16], j % 16]) }
  requires pages: all[b: B, m: M](0 <= table[b, m] and table[b, m] < P)
  requires lengths: all[b: B](0 <= len[b] and len[b] <= 16 * M)""")
    assert result.ok and undecided(result) == []


@pytest.mark.parametrize(
    "text",
    [
        # grouped heads
        """dims Hq, Hkv
           where Hq % Hkv == 0, Hkv >= 1
           input k: f32[Hkv]
           output y: f32[Hq]
           def { y[h] = k[h // (Hq // Hkv)] }""",
        # splitting an axis
        """dims N, K
           where K >= 1, N % K == 0
           input x: f32[N // K, K]
           output y: f32[N]
           def { y[i] = x[i // K, i % K] }""",
        # interleaving groups
        """dims C, G
           where G >= 1, C % G == 0
           input x: f32[C]
           output y: f32[C]
           def { y[c] = x[c % G * (C // G) + c // G] }""",
        # sliding windows without padding
        """dims N, K
           param stride: i32 = 1
           where stride >= 1, K >= 1, K <= N
           let P = (N - K) // stride + 1
           input x: f32[N]
           output y: f32[P]
           def { y[p] = max[k: K](x[p * stride + k]) }""",
    ],
    ids=["grouped", "split", "interleaved", "window"],
)
def test_indices_with_divisions(text: str) -> None:
    result = checked(text)
    assert result.ok and undecided(result) == []


def test_reductions_of_nothing() -> None:
    text = """  dims S
  where S >= {least}
  param all_of: bool = {flag}
  input s: f32[S, S]
  output m: f32[S]
  def {{ m[i] = max[j: S | {guard}](s[i, j]) }}"""
    good = checked(text.format(least=1, flag="true", guard="not all_of or j <= i"))
    assert good.ok and undecided(good) == []
    bad = checked(text.format(least=1, flag="true", guard="not all_of or j < i"))
    assert messages(bad) == ["S = 1, all_of = true, i = 0: `max` over nothing"]
    values = checked(text.format(least=1, flag="true", guard="s[i, j] > 0"))
    (found,) = messages(values)
    assert "i = 0, s = [[" in found and found.endswith("`max` over nothing")


def test_divisors_and_domains_of_values_need_a_precondition() -> None:
    text = """  dims N
  where N >= 1
  input x: f32[N]
  output y: f32, z: f32[N]
  def { y = sum[j: N](x[j]) / N  z[i] = log(x[i]) / x[i] }"""
    result = checked(text)
    assert result.ok and [d.code for d in result.diagnostics] == ["W0401", "W0401"]
    assert "the divisor of `/` can be 0: N = 2, i = 0, x = [0, 0]" in messages(result)
    refuted = {r.id for r in result.obligations if r.status == "REFUTED"}
    assert refuted == {"spec.real.z.1", "spec.domain.z.1"}
    result = checked(text + "\n  requires positive: all[i: N](0 < x[i])")
    assert result.diagnostics == () and {r.status for r in result.obligations} == {"PROVED"}


def test_contradictions_and_divisors_in_shapes() -> None:
    assert [d.code for d in checked(
        "dims N\nwhere N < 3, N > 4\ninput x: f32[N]\noutput y: f32[N]\ndef { y[i] = x[i] }"
    ).diagnostics] == ["E0411"]  # fmt: skip
    result = checked(
        "dims N\nparam k: i32 = 2\ninput x: f32[N]\noutput y: f32[N // k]\ndef { y[i] = x[i] }"
    )
    assert "E0410" in [d.code for d in result.diagnostics]


def test_recurrences_read_their_own_past() -> None:
    result = checked("""  dims B, N
  input x: f32[B, N]
  output h: f32[B, N]
  def { rec t: h[b, t] = 0.5 * h[b, t - 1] + x[b, t] init x[b, 0] }""")
    assert [d.code for d in result.diagnostics] == []


def test_contracts_are_checked_too() -> None:
    result = checked("""  dims N
  input x: f32[N]
  output y: f32[N]
  def { y[i] = x[i] }
  ensures same: all[t: N](y[t] <= y[t - 1])
  law next(p: perm(N)): f([i: N => x[p[i]]]) ~= [i: N => y[p[i]]]""")
    assert messages(result) == ["N = 1, t = 0: read y[-1] outside 0..1"]
    assert undecided(result) == []


@pytest.mark.parametrize(
    "path", some(sorted((ROOT / "specs").rglob("*.op")), 4), ids=lambda p: str(p.relative_to(ROOT))
)
def test_shipped_specs_are_proved(path: Path) -> None:
    result = check(path)
    assert result.diagnostics == () and undecided(result) == []
    spec = [r for r in result.obligations if not r.id.startswith("gradient.")]
    claims = ("spec.ensures.", "spec.law.")
    assert all(r.status != "REFUTED" for r in spec)
    assert all(r.status in ("PROVED", "UNKNOWN") for r in spec if not r.id.startswith(claims))
    assert "spec.where" in [r.id for r in result.obligations]


def test_checking_is_stable() -> None:
    path = ROOT / "specs" / "nn" / "causal_attention.op"
    first = check(path)
    again = check(path)
    assert [(r.id, r.status) for r in first.obligations] == [
        (r.id, r.status) for r in again.obligations
    ]
