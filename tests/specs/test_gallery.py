"""The gallery page is what its command makes of the specs, and lists every operator."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from opwright.gallery import FAMILIES, gallery, main

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "gallery.md"
TWO = """opwright "0.1"
op first @ 1.0 "Doubles." {
  dims  rows..., N
  input x: f32[rows..., N]
  output y: f32[rows..., N]
  def { y[rows..., j] = 2 * x[rows..., j] }
  workload small weight 0.5 { rows = 2, N = 4, x ~ normal(0, 1) }
  workload "seen.jsonl" weight 0.5
}
op second @ 1.0 {
  input x: f32
  output y: f32
  def { y = x + 1 }
}
"""


def test_the_page_is_current() -> None:
    assert PAGE.read_text() == gallery(ROOT / "specs", "../specs/"), "run `make gallery`"


def test_it_lists_every_operator_of_the_library() -> None:
    listed = re.findall(r"^### (\w+)$", PAGE.read_text(), re.M)
    assert sorted(listed) == sorted(p.stem for p in (ROOT / "specs").rglob("*.op"))
    assert len(listed) >= 80
    assert {p.parent.name for p in (ROOT / "specs").rglob("*.op")} == set(FAMILIES)


def test_a_page_of_another_folder(tmp_path: Path) -> None:
    (tmp_path / "own" / "family").mkdir(parents=True)
    (tmp_path / "own" / "family" / "two.op").write_text(TWO)
    page = tmp_path / "pages" / "page.md"
    page.parent.mkdir()
    assert main([str(tmp_path / "own"), str(page)]) == 0
    text = page.read_text()
    assert "2 operators in 1 families" not in text and "2 operators in 1 family." in text
    assert "Doubles. [two.op](../own/family/two.op)" in text
    assert "`first(x: f32[rows..., N]) -> y: f32[rows..., N]`" in text
    assert "`second(x: f32) -> y: f32`" in text
    assert "| small | 0.5 | rows = 2, N = 4, x ~ normal(0, 1) |" in text
    assert "| `seen.jsonl` | 0.5 |" in text
    assert text.count("| workload |") == 1


def test_a_folder_that_does_not_parse(tmp_path: Path) -> None:
    from opwright.grammar.diagnostics import DiagnosticError

    (tmp_path / "bad.op").write_text('opwright "0.1"\nop f @ 1.0 {')
    with pytest.raises(DiagnosticError):
        gallery(tmp_path)
