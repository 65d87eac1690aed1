"""The table of diagnostics and the two forms in which one is printed."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from opwright.grammar import diagnostics
from opwright.grammar.ast import Span
from opwright.grammar.diagnostics import (
    Diagnostic,
    DiagnosticError,
    codes,
    diagnose,
    fields_of,
    in_order,
    register,
    render,
    render_all,
    template,
    to_json,
)


@pytest.fixture(autouse=True)
def own_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give each test a copy of the table, so that what it registers goes with it."""
    monkeypatch.setattr(diagnostics, "_TABLE", dict(diagnostics._TABLE))
    yield


def at(line: int, col: int, end_col: int, start: int = 0, end_line: int = 0) -> Span:
    return Span(start, start + 1, line, col, end_line or line, end_col)


def test_a_row_is_registered_once() -> None:
    code = register("E9901", "no `{name}` here", "declare `{name}` as {kind}")
    assert code == "E9901" and code in codes("E99")
    assert fields_of(code) == {"name", "kind"}
    assert template(code).severity == "error"
    with pytest.raises(ValueError, match="registered already"):
        register("E9901", "other", "other")


@pytest.mark.parametrize("code", ["E1", "X0101", "E01011", "e0101"])
def test_a_code_has_one_form(code: str) -> None:
    with pytest.raises(ValueError, match="not a code"):
        register(code, "a", "b")


def test_a_severity_is_known() -> None:
    assert register("W9901", "a", "b", "warning") == "W9901"
    assert diagnose("W9901", at(1, 1, 2), "f").headline == "f:1:1: warning[W9901]: a"
    with pytest.raises(ValueError, match="one of error"):
        register("E9902", "a", "b", "fatal")


def test_fields_are_filled_in_and_required() -> None:
    register("E9901", "no `{name}` here", "declare `{name}`")
    found = diagnose("E9901", at(2, 3, 4), "f.op", name="x")
    assert (found.message, found.cure) == ("no `x` here", "declare `x`")
    with pytest.raises(KeyError, match="name"):
        diagnose("E9901", at(2, 3, 4), "f.op")
    with pytest.raises(KeyError):
        diagnose("E9999", at(2, 3, 4), "f.op")


def test_every_row_says_what_is_right() -> None:
    for code in codes():
        assert template(code).message and template(code).cure


def some(span: Span, message: str = "wrong", filename: str = "f.op") -> Diagnostic:
    return Diagnostic("E0312", "error", message, "do right", span, filename)


def test_render() -> None:
    assert render(some(at(2, 5, 8)), "first\nlet xyz = 1\n").split("\n") == [
        "f.op:2:5: error[E0312]: wrong",
        "  let xyz = 1",
        "      ^^^",
        "  cure: do right",
    ]


def test_render_keeps_tabs_and_counts_wide_characters() -> None:
    lines = render(some(at(1, 4, 5)), "\t数 x").split("\n")
    assert lines[1:3] == ["  \t数 x", "  \t   ^"]


def test_render_of_a_span_over_lines_ends_with_the_first() -> None:
    lines = render(some(at(1, 3, 2, end_line=2)), "ab(cd\ne)").split("\n")
    assert lines[1:3] == ["  ab(cd", "    ^^^"]


def test_render_at_the_end_of_the_text_and_without_source() -> None:
    assert render(some(at(1, 3, 3)), "ab").split("\n")[2] == "    ^"
    lines = render(some(at(7, 1, 2)), "ab").split("\n")
    assert lines == ["f.op:7:1: error[E0312]: wrong", "  cure: do right"]


def test_json_is_plain() -> None:
    data = to_json(some(at(2, 5, 8)))
    assert json.loads(json.dumps(data)) == {
        "file": "f.op",
        "line": 2,
        "col": 5,
        "code": "E0312",
        "severity": "error",
        "message": "wrong",
        "cure": "do right",
    }


def test_order_and_repetition() -> None:
    late, early = some(at(3, 1, 2, start=30)), some(at(1, 1, 2, start=3))
    other = some(at(1, 1, 2), filename="a.op")
    assert in_order([late, early, late, other]) == [other, early, late]
    text = render_all([late, early], {"f.op": "one\ntwo\nthree"})
    assert text.index("one") < text.index("three") and "\n\n" in text


def test_the_error_lists_every_headline() -> None:
    error = DiagnosticError([some(at(1, 1, 2)), some(at(2, 1, 2), "worse")])
    assert str(error) == "f.op:1:1: error[E0312]: wrong\nf.op:2:1: error[E0312]: worse"
    assert len(error.diagnostics) == 2
