"""Every syntax error has a code, a place, a cure, and is reported once beside all the others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from opwright.grammar import diagnostics
from opwright.grammar import syntax_errors as errors
from opwright.grammar.diagnostics import Diagnostic, DiagnosticError, render
from opwright.grammar.parser import analyse, parse, parse_bytes, parse_expression, parse_file

HEAD = 'opwright "0.1"\n'


@dataclass(frozen=True)
class Case:
    """A text whose only error is at `^` (which is taken out) and what is said about it."""

    code: str
    text: str
    message: str
    cure: str = ""

    @property
    def source(self) -> str:
        return self.text.replace("^^", "", 1)

    @property
    def place(self) -> tuple[int, int]:
        before = self.text[: self.text.index("^^")]
        return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def op(body: str) -> str:
    return f"{HEAD}op f @ 1.0 {{\n{body}\n}}\n"


CASES = [
    Case("E0101", op("dims ^^3"), "expected a name, found `3`"),
    Case(
        "E0101", op("let a = b ^^+\nlet c = d"), "expected an expression, found the section `let`"
    ),
    Case("E0101", op("def {\n y[i] = x[i] ^^*\n z[i] = 1\n}"), "expected an expression, found `z`"),
    Case("E0101", op("def { y = x * ^^}"), "expected an expression, found `}`"),
    Case("E0101", op("let a = 3 + ^^* 4"), "expected an expression", "remove `*`"),
    Case("E0101", op("workload w ^^wieght 1 { N = 1 }"), "expected `weight`", "write `weight`"),
    Case("E0101", HEAD + "^^operator f @ 1.0 { dims N }", "`op`, found `operator`", "write `op`"),
    Case("E0101", HEAD + "op ^^@ 1.0 { dims N }", "expected a name, found `@`"),
    Case("E0101", HEAD + "import a ^^as\nop f @ 1.0 { dims N }", "expected a name, found `op`"),
    Case("E0101", op("output y: f32^^(N)"), "`[`", "write `[` and `]`"),
    Case("E0101", op("def {\n rec t: h[t] = h[t - 1^^]\n rec t: g[t] = 1 init 0\n}"), "`init`"),
    Case("E0102", "^^", "no text"),
    Case("E0102", "^^# only a comment\n", "no text"),
    Case("E0103", "^^op f @ 1.0 { dims N }", "version is missing before `op`", 'opwright "0.1"'),
    Case("E0104", 'opwright ^^"9.0"\nop f @ 1.0 { dims N }', '"9.0"', 'opwright "0.1"'),
    Case("E0106", op("dims N^^;"), "`;`", "remove it"),
    Case("E0106", op("where N ^^≤ 3"), "`≤`", "`<=`"),
    Case("E0106", op("requires a ^^&& b"), "`&&`", "`and`"),
    Case("E0106", op("requires a ^^|| b"), "`||`", "`or`"),
    Case("E0106", op("requires ^^!a"), "`!`", "`not`"),
    Case("E0106", op("let a = N ^^** 2"), "`**`", "no power operator"),
    Case("E0106", op("let a = N ^^$ 2"), "`$`", "remove it"),
    Case("E0106", op("def { y[i] ^^:= x[i] }"), "`:=`", "`=`"),
    Case("E0106", op("dims N ^^// the size"), "`//`", "`#`"),
    Case("E0106", op("dims N\n^^/* the size */\nlet a = N"), "`/*`", "`#`"),
    Case("E0106", op("dims N^^\x00"), "U+0000"),
    Case("E0107", HEAD + 'op f @ 1.0 ^^"doc {\n dims N\n}', "not closed"),
    Case("E0107", HEAD + 'op f @ 1.0 ^^"doc\n{ dims N }', "not closed"),
    Case("E0108", op("where N ^^= 3, N > 1"), "does not compare", "`==`"),
    Case("E0108", op("def { y = if a ^^= b then 1 else 0 }"), "does not compare", "`==`"),
    Case("E0109", op("let a ^^== 3"), "does not define", "`=`"),
    Case("E0109", op("def { y[i] ^^== x[i] }"), "does not define", "`=`"),
    Case("E0110", op("def {\n y[i] = exp^^(x[i]\n z[i] = 1\n}"), "`(` at 4:12", "write `)`"),
    Case("E0110", op("def {\n y[i] = f(g^^(x[i]\n z[i] = 1\n}"), "`(` at 4:12", "write `))`"),
    Case("E0110", op("def {\n y[i] = x^^[i + 1\n z[i] = 1\n}"), "`[` at 4:10"),
    Case("E0110", op("def {\n y[i] = x[i]\n^^ensures a: true"), "`{` at 3:5", "write `}`"),
    Case("E0110", op("workload w weight 1 { N = 1^^,\nminimize latency"), "`{` at 3:21"),
    Case("E0110", HEAD + "op f @ 1.0 {\n dims N\n^^op g @ 1.0 { dims N }", "`{` at 2:12"),
    Case("E0110", HEAD + "op f @ 1.0 {\n dims N\n^^", "before the end of the file"),
    Case("E0111", op("def { y = f(x)^^) }"), "`)` closes nothing", "remove it"),
    Case("E0111", op("def { y = f(x^^] }"), "`]` closes nothing", "write `)`, which closes `(`"),
    Case("E0111", op("dims N") + "^^}", "`}` closes nothing", "remove it"),
    Case("E0112", op("let a ^^3"), "`=` is missing before `3`"),
    Case("E0112", op("def { y[i] ^^x[i] + 1 }"), "`=` is missing"),
    Case("E0112", op("input x ^^f32[N]"), "`:` is missing"),
    Case("E0112", op("dims N ^^M"), "`,` is missing before `M`"),
    Case("E0112", op("input x: f32[N] ^^w: f32[N]"), "`,` is missing"),
    Case("E0112", op("where N > 1\n^^N < 5"), "`,` is missing"),
    Case("E0112", op("def { y = max(a ^^0) }"), "`,` is missing before `0`"),
    Case("E0112", op("def { y = if a ^^b else c }"), "`then` is missing"),
    Case("E0112", op("def ^^y[i] = x[i] }"), "`{` is missing"),
    Case("E0112", HEAD + "op f @ ^^1.0\n dims N\n}", "`{` is missing before the section `dims`"),
    Case("E0112", HEAD + "op f ^^1.0 { dims N }", "`@` is missing"),
    Case("E0112", HEAD + "op f ^^{ dims N }", "`@ 1.0` is missing"),
    Case("E0113", op("^^inputs x: f32[N]"), "`inputs`", "did you mean `input`?"),
    Case("E0113", op("^^assume a: true"), "`assume`", "did you mean `requires`?"),
    Case("E0113", op("dims N\n^^schedule { tile 4 }\nlet a = N"), "`schedule`", "dims, where"),
    Case("E0114", op("dims N") + "^^ensures a: true\n}", "`ensures`", "`}` at 4:1"),
    Case("E0114", HEAD + "^^dims N\nop f @ 1.0 { dims N }", "`dims`"),
    Case("E0115", HEAD + "import a\n^^", "no operator"),
    Case("E0116", HEAD + "op f @ ^^1 { dims N }", "`1` is not a version", "major.minor"),
    Case("E0116", HEAD + "op f @ ^^v1.2 { dims N }", "`v1.2` is not a version"),
    Case("E0116", HEAD + "from a import b @^^2\nop f @ 1.0 { dims N }", "`2` is not a version"),
    Case("E0117", op("type T in {^^float32, bf16}"), "`float32`", "write `f32`"),
    Case("E0117", op("tolerance versus ^^double { f32: abs 1 }"), "`double`", "write `f64`"),
    Case("E0117", op("def { y = sum.^^half[j: N](1) }"), "`half`", "write `f16`"),
    Case("E0117", op("def { y = round.^^quux(x) }"), "`quux`", "write one of: f64"),
    Case("E0118", op("let a = " + "-" * 198 + "^^-1"), "more than 200 levels"),
    Case("E0119", op("let a = (^^b + c).f(d)"), "only an imported module"),
    Case("E0120", op("let a = ^^1e999"), "too large"),
    Case("E0120", op("let a = ^^" + "9" * 401), "too large"),
    Case("E0121", op("def ^^{ }"), "braces of `def`"),
    Case("E0121", op("tolerance versus f64 ^^{}"), "braces of `tolerance`"),
    Case("E0122", "opwright ^^0.1\nop f @ 1.0 { dims N }", "quotes", 'opwright "0.1"'),
    Case("E0123", op("minimize ^^speed"), "`speed` is not a metric", "did you mean `latency`?"),
    Case("E0123", op("target gpu via ^^tritn"), "not a backend", "did you mean `triton`?"),
    Case("E0123", op("ensures a: b within ^^relative 1"), "kind of tolerance", "`rel`?"),
    Case("E0123", op("ensures a: b by ^^magic"), "a way to discharge", "proof, test"),
    Case("E0123", op("minimize memory subject to memory <= 6 ^^MB"), "a unit", "`MiB`?"),
    Case("E0124", op("dims N^^,\nlet a = N"), "ends with a comma", "a name"),
    Case("E0124", op("type T in {f32^^, }"), "ends with a comma", "a dtype"),
    Case("E0125", op("^^ensures all[i: N](a)"), "`ensures` needs a name"),
    Case("E0125", op("^^law : y ~= y"), "`law` needs a name"),
    Case("E0125", op("^^law 0 <= y"), "`law` needs a name"),
]


def found_in(text: str) -> list[Diagnostic]:
    return analyse(text, "spec.op")[1]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.code} {case.message[:40]}")
def test_one_error(case: Case) -> None:
    (found,) = found_in(case.source)
    assert found.code == case.code
    assert case.message in found.message
    assert case.cure in found.cure
    assert (found.span.line, found.span.col) == case.place
    with pytest.raises(DiagnosticError) as raised:
        parse(case.source, "spec.op")
    assert raised.value.diagnostics == [found]


def test_every_code_has_a_case() -> None:
    assert {case.code for case in CASES} | {errors.NOT_TEXT} == set(diagnostics.codes("E01"))


def test_all_errors_of_a_file_are_reported_together() -> None:
    text = """\
op first @ 1.0 {
  dims  N M
  inputs x: f32[N]
  output y: f32[N]
  let G == N // 2
  def {
    a[i] x[i] + 1
    b[i] = exp(a[i]
    c[i] = b[i] *
    y[i] = if c[i] = 0 then 1 else c[i]
  }
  ensures all[i: N](y[i] > 0)
  tolerance versus float { f32: abs 1e-6 relative 1e-5 }
  minimize speed
}

op second @ 2 {
  dims N
  def { }
  target gpu via triton, pallas
"""
    found = [(one.span.line, one.code) for one in found_in(text)]
    assert found == [
        (1, "E0103"),
        (2, "E0112"),
        (3, "E0113"),
        (5, "E0109"),
        (7, "E0112"),
        (8, "E0110"),
        (9, "E0101"),
        (10, "E0108"),
        (12, "E0125"),
        (13, "E0117"),
        (13, "E0101"),
        (14, "E0123"),
        (17, "E0116"),
        (19, "E0121"),
        (20, "E0123"),
        (21, "E0110"),
    ]


def test_what_can_be_read_is_returned_beside_the_errors() -> None:
    module, found = analyse(op("dims N\ninput x f32[N]\nlet a = b c\ndef { y = 1 }"))
    assert len(found) == 2 and module is not None
    (operator,) = module.ops
    assert [tensor.name for tensor in operator.inputs] == ["x"]
    assert operator.dims and operator.lets and operator.defs


def test_an_expression_reports_its_errors() -> None:
    with pytest.raises(DiagnosticError) as raised:
        parse_expression("a = b && c")
    assert [one.code for one in raised.value.diagnostics] == ["E0108", "E0106"]
    for text in ("", "a +", "a b", "f(", "x[i", "dims N"):
        with pytest.raises(DiagnosticError):
            parse_expression(text)


@pytest.mark.parametrize(
    ("data", "line", "col"), [(b"\xff", 1, 1), (b'opwright "0.1"\nop \xc3(', 2, 4)]
)
def test_bytes_that_are_not_text(data: bytes, line: int, col: int) -> None:
    with pytest.raises(DiagnosticError) as raised:
        parse_bytes(data, "spec.op")
    (found,) = raised.value.diagnostics
    assert (found.code, found.span.line, found.span.col) == ("E0105", line, col)
    assert "UTF-8" in found.message and found.filename == "spec.op"


def test_a_file_names_itself_in_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "bad.op"
    path.write_text(op("let a 3"))
    with pytest.raises(DiagnosticError, match=rf"{path}:3:7: error\[E0112\]"):
        parse_file(path)
    with pytest.raises(FileNotFoundError):
        parse_file(tmp_path / "absent.op")


def test_endless_text_ends() -> None:
    for text in ("(" * 500, "{" * 500, "op " * 300, '"' * 99, "= " * 300, "\x00" * 300, "," * 300):
        assert found_in(text)
        assert found_in(op(text))
        assert found_in(op(f"def {{ y = {text} }}"))


def test_the_place_of_an_error_with_tabs_and_carriage_returns() -> None:
    text = op("\tlet a 3").replace("\n", "\r\n")
    (found,) = found_in(text)
    assert (found.span.line, found.span.col) == (3, 8)
    assert render(found, text).split("\n") == [
        "spec.op:3:8: error[E0112]: `=` is missing before `3`",
        "  \tlet a 3",
        "  \t      ^",
        "  cure: write `=` here",
    ]
