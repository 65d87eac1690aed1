"""Every diagnostic code is explained by an example that has the mistake and one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from opwright.code_examples import EXAMPLES, KINDS, NAMES, OBLIGATIONS, SHAPES, SYNTAX
from opwright.compiler.check import check_text
from opwright.compiler.elaborate import parse_spec
from opwright.explain import load_tables
from opwright.grammar.diagnostics import DiagnosticError, codes
from opwright.grammar.parser import analyse

load_tables()


def syntax_codes(text: str) -> set[str]:
    return {found.code for found in analyse(text)[1]}


# what no single text shows: bytes, an argument of the command line, two files, many reasons
WITHOUT = {"E0105", "E0213", "E0219", "E0499"}


def test_every_code_has_an_example() -> None:
    assert set(codes()) - set(EXAMPLES) == WITHOUT


@pytest.mark.parametrize("code", sorted(SYNTAX))
def test_syntax_examples(code: str) -> None:
    assert code in syntax_codes(EXAMPLES[code].wrong)
    assert syntax_codes(EXAMPLES[code].right) == set()


def elaboration_codes(text: str) -> set[str]:
    try:
        parse_spec(text, "f.op").all_elaborated()
    except DiagnosticError as error:
        return {found.code for found in error.diagnostics}
    return set()


@pytest.mark.parametrize("code", sorted({**NAMES, **KINDS, **SHAPES}))
def test_elaboration_examples(code: str) -> None:
    assert code in elaboration_codes(EXAMPLES[code].wrong)
    assert elaboration_codes(EXAMPLES[code].right) == set()


@pytest.mark.parametrize("code", sorted(OBLIGATIONS))
def test_obligation_examples(code: str) -> None:
    wrong = check_text(EXAMPLES[code].wrong, "f.op").diagnostics
    assert code in {found.code for found in wrong}
    assert check_text(EXAMPLES[code].right, "f.op").diagnostics == ()


def test_every_api_file_is_seen_by_the_type_checker() -> None:
    root = Path(__file__).resolve().parents[2]
    linked = {path.name for path in (root / ".types" / "opwright").glob("*.py")}
    assert linked == {path.name for path in (root / "api").glob("*.py")}
