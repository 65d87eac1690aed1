"""Written gradients are held against derived ones when a spec is checked."""

from __future__ import annotations

import pytest
from support.shipped import SPECS, some  # type: ignore[import-not-found]

from opwright.compiler.check import check_text

HEAD = """opwright "0.1"
op f @ 1.0 {
  dims B, N
  where N >= 1
  input x: f32[B, N], w: f32[N]
  output y: f32[B]
  def { y[b] = sum.f32[j: N](w[j] * x[b, j] * x[b, j]) }
"""


def checked(grad: str) -> tuple[list[str], list[str]]:
    """Messages of diagnostics, and the statuses of the gradient records."""
    result = check_text(HEAD + f"  {grad}\n}}\n")
    records = [r for r in result.obligations if r.id.startswith("gradient.")]
    return [d.message for d in result.diagnostics], [r.status for r in records]


def test_right_ones_are_tested() -> None:
    text = (
        "grad x, w { d_x[b, j] = 2 * d_y[b] * w[j] * x[b, j]  "
        "d_w[j] = sum.f32[b: B](d_y[b] * x[b, j] * x[b, j]) }"
    )
    assert checked(text) == ([], ["TESTED"])


@pytest.mark.parametrize(
    "body",
    [
        "d_x[b, j] = d_y[b] * w[j] * x[b, j]",
        "d_x[b, j] = 2 * d_y[b] * x[b, j]",
        "d_x[b, j] = 2 * d_y[b] * w[N - 1 - j] * x[b, j]",
        "d_x[b, j] = if j == 0 then 0 else 2 * d_y[b] * w[j] * x[b, j]",
    ],
)
def test_wrong_ones_are_refuted_with_an_element(body: str) -> None:
    messages, statuses = checked(f"grad x {{ {body} }}")
    assert statuses == ["REFUTED"]
    assert "not the derivative" in messages[0] and "d_x[" in messages[0]


def test_none_and_auto_need_no_comparison() -> None:
    assert checked("grad x auto\n  grad w none") == ([], [])


def test_what_is_not_real_has_no_gradient() -> None:
    text = HEAD.replace("w: f32[N]", "w: i32[N]")
    result = check_text(text + "  grad w auto\n}\n")
    assert ["w is no real input" in d.message for d in result.diagnostics] == [True]


@pytest.mark.parametrize("path", some(sorted(SPECS.rglob("*.op")), 6), ids=lambda p: p.stem)
def test_library(path: object) -> None:
    result = check_text(open(str(path)).read(), str(path))
    assert [r.status for r in result.obligations if r.id.startswith("gradient.")] in (
        [],
        ["TESTED"],
    )
