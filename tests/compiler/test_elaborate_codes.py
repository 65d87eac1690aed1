"""Every code of the elaborator and of the checks, by an example that has the mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from opwright.compiler.check import check, check_text
from opwright.compiler.code_examples import COPY, TEXTS, op
from opwright.compiler.elaborate import elaborate, load_spec
from opwright.grammar.diagnostics import DiagnosticError, codes, template
from opwright.grammar.parser import parse

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
