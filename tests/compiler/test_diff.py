"""What a change of a spec is called, on what evidence, and the version that follows."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opwright.cli import run
from opwright.compiler.diff import Difference, diff
from opwright.compiler.elaborate import parse_spec

SPEC = """opwright "0.1"

op weigh @ 1.2 "Weights of a row." {
  dims  B, N
  where 1 <= N, N <= 4096
  type  T in {f32, bf16}
  param scale: f32 = 1.0
  input x: T[B, N], w: T[N]
  output y: T[B, N]

  def {
    s[b]    = sum.f32[j: N](f32(x[b, j]) * w[j])
    y[b, j] = scale * f32(x[b, j]) / (1 + s[b] * s[b])
  }

  ensures zero: all[b: B, j: N | x[b, j] == 0](y[b, j] == 0)
  law permuted(p: perm(B)): weigh([b: B, j: N => x[p[b], j]], w) ~= [b: B, j: N => y[p[b], j]]
  tolerance versus f64 { f32: abs 1e-5 rel 1e-5  bf16: abs 1e-3 rel 1e-2 }
  grad x, w auto
  workload one weight 1.0 { B = 8, N = 64, T = f32, x ~ normal(0, 1), w ~ normal(0, 1) }
}
"""


def changed(*pairs: tuple[str, str]) -> Difference:
    text = SPEC
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    (only,) = diff(parse_spec(SPEC, "old.op"), parse_spec(text, "new.op"))
    return only


CASES = [
    # (what is written instead, part, effect, evidence, a piece of the text, least version)
    ([("N <= 4096", "N <= 512")], "domain", "weakens", "example", "N <= 512", (2, 0)),
    ([("N <= 4096", "N <= 8192")], "domain", "adds", "example", "N <= 4096", (1, 3)),
    ([("1 <= N, N", "2 <= N + 1, N")], "meaning", "same", "proof", "y is what it was", (1, 2)),
    ([("{f32, bf16}", "{f32}"), ("  bf16: abs 1e-3 rel 1e-2", "")],
     "interface", "weakens", "text", "T = bf16", (2, 0)),
    ([("{f32, bf16}", "{f32, bf16, f16}")], "interface", "adds", "text", "T = f16", (1, 3)),
    ([("scale: f32 = 1.0", "scale: f32 = 2.0")],
     "interface", "changes", "text", "scale is 2.0", (2, 0)),
    ([("= 1.0\n", "= 1.0\n  param shift: f32 = 0.0\n"), ("scale * f32", "shift + scale * f32")],
     "interface", "adds", "text", "param shift is new", (1, 3)),
    ([("= 1.0\n", "= 1.0\n  param shift: f32 = 0.5\n"), ("scale * f32", "shift + scale * f32")],
     "meaning", "changes", "example", "y[", (2, 0)),
    ([("w: T[N]", "v: T[N]"), ("* w[j]", "* v[j]"), ("], w)", "], v)"), ("x, w a", "x, v a"),
      ("w ~", "v ~")],
     "interface", "changes", "text", "input w is gone", (2, 0)),
    ([("(1 + s[b] * s[b])", "(s[b] * s[b] + 1)")], "meaning", "same", "proof", "y", (1, 2)),
    ([("(1 + s[b] * s[b])", "(1 + s[b] * s[b] / 2)")],
     "meaning", "changes", "example", "y", (2, 0)),
    ([("sum.f32", "sum")], "meaning", "weakens", "text", "sum.f32", (2, 0)),
    ([("sum.f32", "sum.f64")], "meaning", "weakens", "text", "sum.f64 marks", (2, 0)),
    ([("ensures zero: all[b: B, j: N | x[b, j] == 0](y[b, j] == 0)", "")],
     "contract", "weakens", "text", "ensures zero is no longer", (2, 0)),
    ([("tolerance", "ensures finite: all[b: B, j: N](-inf < y[b, j])\n  tolerance")],
     "contract", "adds", "text", "ensures finite is promised", (1, 3)),
    ([("bf16: abs 1e-3", "bf16: abs 1e-2")], "contract", "weakens", "text", "looser", (2, 0)),
    ([("bf16: abs 1e-3", "bf16: abs 1e-4")], "contract", "adds", "text", "tighter", (1, 3)),
    ([("grad x, w auto", "grad x auto")], "gradient", "weakens", "text", "of w", (2, 0)),
    ([("B = 8", "B = 9")], "objective", "same", "text", "workloads", (1, 2)),
]  # fmt: skip


@pytest.mark.parametrize(("pairs", "part", "effect", "evidence", "text", "least"), CASES)
def test_a_change_has_its_effect_and_evidence(
    pairs: list[tuple[str, str]],
    part: str,
    effect: str,
    evidence: str,
    text: str,
    least: tuple[int, int],
) -> None:
    found = changed(*pairs)
    assert found.required == least
    assert found.ok is (least <= (1, 2))
    kept = [c for c in found.changes if c.part == part and c.effect == effect and text in c.text]
    assert kept and kept[0].evidence == evidence, found.changes


def test_names_of_sizes_and_indices_are_nobodys_business() -> None:
    found = changed(
        ("dims  B, N", "dims  R, C"), ("1 <= N, N <= 4096", "1 <= C, C <= 4096"),
        ("T[B, N]", "T[R, C]"), ("T[N]", "T[C]"), ("j: N", "k: C"), ("[j]", "[k]"),
        ("b: B", "r: R"), ("[b]", "[r]"), ("[b, j]", "[r, k]"), ("perm(B)", "perm(R)"),
        ("[p[r], j]", "[p[r], k]"), ("B = 8, N = 64", "R = 8, C = 64"),
    )  # fmt: skip
    assert found.required == (1, 2) and {c.effect for c in found.changes} == {"same"}


def test_a_difference_is_named_only_where_both_accept_the_input() -> None:
    # the two differ at N = 1 alone, which the new text no longer accepts
    found = changed(
        ("where 1 <= N", "where 2 <= N"), ("scale * f32", "(if N == 1 then 3 else scale) * f32")
    )
    meaning = [c for c in found.changes if c.part == "meaning"]
    assert [c.effect for c in meaning] == ["same"] and found.required == (2, 0)


def test_operators_come_and_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = tmp_path / "old.op", tmp_path / "new.op"
    old.write_text(SPEC)
    new.write_text(SPEC.replace("op weigh", "op balance").replace("weigh(", "balance("))
    assert run(["diff", str(old), str(new), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert [(o["name"], o["old"], o["new"]) for o in told["operators"]] == [
        ("weigh", "1.2", None), ("balance", None, "1.2"),
    ]  # fmt: skip
    assert run(["diff", str(old), str(old)]) == 0
    assert "version 1.2 is enough" in capsys.readouterr().out


def test_a_spec_that_is_not_valid_is_refused_with_its_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = tmp_path / "old.op", tmp_path / "new.op"
    old.write_text(SPEC)
    new.write_text(SPEC.replace("w[j])", "w[q])"))
    assert run(["diff", str(old), str(new)]) == 1
    told = capsys.readouterr()
    assert "new.op:12:" in told.out + told.err
    assert run(["diff", str(old), str(tmp_path / "none.op")]) == 2


def test_preconditions_are_compared() -> None:
    text = (
        'opwright "0.1"\nop f @ 1.0 {{ dims N\n input x: f32[N]\n output y: f32[N]\n'
        " def {{ y[i] = x[i] }}\n requires small: all[i: N](x[i] < {}) }}\n"
    )

    def effects(old: str, new: str) -> set[str]:
        (found,) = diff(parse_spec(text.format(old)), parse_spec(text.format(new)))
        return {c.effect for c in found.changes if c.part == "domain"}

    assert effects("2", "2") == set()
    assert "adds" in effects("2", "3") and "weakens" in effects("3", "2")
