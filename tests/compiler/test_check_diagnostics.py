"""What `check` says about a wrong spec: the code, the caret, the counterexample, the cure."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from opwright.compiler.check import check_text
from opwright.grammar.diagnostics import render

ROW = "dims B, N\n  where N >= 1\n  input x: f32[B, N]\n  output y: f32[B]\n  "
ELEMENT = "dims N\n  input x: f32[N]\n  output y: f32[N]\n  "

# what is wrong: text, code, what the caret is under, what the message says
WRONG = {
    "ensures, constant": (
        ROW + "def { y[b] = sum[j: N](x[b, j]) }\n  ensures big: all[b: B](10 <= y[b])",
        "E0421", "all[b: B](10 <= y[b])", "`ensures big` does not follow from `def`: B = "),
    "ensures, direction": (
        ROW + "def { y[b] = max[j: N](x[b, j]) }\n  ensures top: all[b: B, j: N](y[b] <= x[b, j])",
        "E0421", "all[b: B, j: N](y[b] <= x[b, j])", "is false"),
    "ensures on its second line": (
        ROW + "def { y[b] = max[j: N](x[b, j]) }\n  ensures top:\n    all[b: B](y[b] <= 1)",
        "E0421", "all[b: B](y[b] <= 1)", "x = "),
    "ensures within": (
        ELEMENT + "def { y[i] = x[i] + 1 }\n"
        "  ensures near: all[i: N](y[i] ~= x[i]) within abs 0.5",
        "E0421", "all[i: N](y[i] ~= x[i])", "i = 0, x = "),
    "law, scale": (
        ROW + "def { y[b] = sum[j: N](x[b, j]) }\n"
        "  law even: f([b: B, j: N => -x[b, j]]) ~= y",
        "E0422", "f([b: B, j: N => -x[b, j]]) ~= y", "the law `even` does not hold: B = "),
    "law, argument": (
        ELEMENT + "def { y[i] = x[i] * x[i] }\n"
        "  law scale(c: f32 in 2..4): f([i: N => c * x[i]]) ~= [i: N => c * y[i]]",
        "E0422", "f([i: N => c * x[i]]) ~= [i: N => c * y[i]]", "c = "),
    "law, permutation": (
        ELEMENT + "def { y[i] = sum[j: 0..i + 1](x[j]) }\n"
        "  law moved(p: perm(N)): f([i: N => x[p[i]]]) ~= y",
        "E0422", "f([i: N => x[p[i]]]) ~= y", "p = [1, 0]"),
    "read, shifted": (
        ELEMENT + "def { y[i] = x[i + 1] }", "E0401", "x[i + 1]", "N = 1, i = 0: read x[1]"),
    "read, before the start": (
        ELEMENT + "def { y[i] = x[i - 1] }", "E0401", "x[i - 1]", "read x[-1] outside 0..1"),
    "read, one past a window": (
        "dims N, K\n  where 1 <= K, K <= N\n  input x: f32[N]\n  output y: f32[N - K + 1]\n  "
        "def { y[i] = sum[k: 0..K + 1](x[i + k]) }",
        "E0401", "x[i + k]", "K = 1, i = 0, k = 1: read x[1] outside 0..1"),
    "read in a claim": (
        ELEMENT + "def { y[i] = x[i] }\n  ensures next: all[i: N](y[i + 1] == x[i])",
        "E0401", "y[i + 1]", "N = 1, i = 0: read y[1] outside 0..1"),
    "maximum of nothing": (
        "dims B, N\n  input x: f32[B, N]\n  output y: f32[B]\n  "
        "def { y[b] = max[j: N](x[b, j]) }",
        "E0409", "max[j: N](x[b, j])", "N = 0, b = 0: `max` over nothing"),
    "maximum before the first": (
        ELEMENT + "def { y[i] = max[j: 0..i](x[j]) }",
        "E0409", "max[j: 0..i](x[j])", "i = 0: `max` over nothing"),
    "argmax of nothing": (
        "dims N\n  input x: f32[N]\n  output y: i64\n  def { y = argmax[j: N](x[j]) }",
        "E0409", "argmax[j: N](x[j])", "N = 0: `argmax` over nothing"),
    "a mean of nothing": (
        "dims N\n  input x: f32[N]\n  output y: f32\n  def { y = sum[j: N](x[j]) / N }",
        "E0410", "sum[j: N](x[j]) / N", "N = 0: the divisor of `/` is 0"),
    "a divisor that is always 0": (
        ELEMENT + "def { y[i] = 1 / (x[i] - x[i]) }", "E0418", "1 / (x[i] - x[i])", "always 0"),
    "a sum of squares below nothing": (
        ELEMENT + "def { y[i] = sqrt(-1 - x[i] * x[i]) }",
        "E0423", "sqrt(-1 - x[i] * x[i])", "`sqrt` has no value here"),
    "constraints that exclude each other": (
        ELEMENT + "where N >= 8, N < 8\n  def { y[i] = x[i] }",
        "E0411", "N < 8", "no sizes and params satisfy `where`"),
    "constraints of two sizes": (
        "dims M, N\n  where M < N, N < M\n  input x: f32[N]\n  output y: f32[N]\n  "
        "def { y[i] = x[i] }",
        "E0411", "N < M", "no sizes and params satisfy `where`"),
    "a workload beside `where`": (
        ELEMENT + "where N % 8 == 0\n  def { y[i] = x[i] }\n  workload w weight 1 { N = 12 }",
        "E0415", "", "workload `w` breaks `where"),
    "a gradient with a wrong factor": (
        ELEMENT + "def { y[i] = x[i] * x[i] }\n  grad x { d_x[i] = x[i] * d_y[i] }",
        "E0419", "", "the gradient of `x` is not the derivative of `def`"),
    "a gradient of what has none": (
        "dims N\n  input x: f32[N], k: i32[N]\n  output y: f32[N]\n  "
        "def { y[i] = x[i] * k[i] }\n  grad k auto",
        "E0420", "", "no gradient of `k` can be derived"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_place_caret_message_and_cure(case: str) -> None:
    body, code, under, says = WRONG[case]
    text = f'opwright "0.1"\nop f @ 1.0 {{\n  {body}\n}}\n'
    result = check_text(text, "f.op")
    errors = [d for d in result.diagnostics if d.severity == "error"]
    assert [d.code for d in errors] == [code], [d.headline for d in result.diagnostics]
    (found,) = errors
    assert says in found.message and found.cure
    shown = render(found, text).split("\n")
    assert f"cure: {found.cure}" in shown[-1]
    assert shown[2].strip().strip("^") == ""
    if under:
        line, carets = shown[1], shown[2]
        at = carets.index("^")
        assert line[at : at + carets.count("^")].startswith(under)


def test_a_divisor_that_can_be_0_is_a_warning() -> None:
    text = f'opwright "0.1"\nop f @ 1.0 {{\n  {ELEMENT}def {{ y[i] = 1 / x[i] }}\n}}\n'
    result = check_text(text, "f.op")
    (found,) = result.diagnostics
    assert result.ok and (found.code, found.severity) == ("W0401", "warning")
    assert found.message.startswith("the divisor of `/` can be 0: N = ")


def test_obligations_for_a_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from opwright.check import check

    path = tmp_path / "f.op"
    body = ROW + "def { y[b] = max[j: N](x[b, j]) }\n  ensures low: all[b: B](y[b] <= 1)\n"
    body += "  ensures top: all[b: B, j: N](x[b, j] <= y[b])\n"
    path.write_text(f'opwright "0.1"\nop f @ 1.0 {{\n  {body}}}\n')
    assert check([path], True) != 0
    document = json.loads(capsys.readouterr().out)
    found = {o["name"]: o for o in document["obligations"]}
    assert found["top"]["status"] == "PROVED" and found["top"]["line"] == 9
    low = found["low"]
    assert (low["kind"], low["status"], low["line"]) == ("ensures", "REFUTED", 8)
    assert low["counterexample"]["values"]["x"] and "is false" in low["reason"]
    assert check([tmp_path], False, True) != 0
    out = capsys.readouterr().out
    assert "reductions not empty" in out and f"{path}: has errors" in out
