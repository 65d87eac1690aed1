"""Nodes compare by structure, carry places, and an operator sorts its items."""

from __future__ import annotations

from pathlib import Path

import pytest

from opwright.grammar import ast
from opwright.grammar.ast import NO_SPAN, Span
from opwright.grammar.parser import parse, parse_expression, parse_file

DATA = Path(__file__).parent / "data"
SPECS = sorted(DATA.glob("*.op"))


def test_places_take_no_part_in_equality() -> None:
    spaced, dense = parse_expression("a  +\n b"), parse_expression("a+b")
    assert spaced == dense and hash(spaced) == hash(dense)
    assert spaced.span != dense.span


def test_how_a_number_is_written_is_part_of_the_tree() -> None:
    assert parse_expression("1") != parse_expression("1.0")
    assert parse_expression("1e-5") != parse_expression("1.0e-5")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(3, "3"), (0.5, "0.5"), (1e-5, "1e-5"), (-2, "-2"), (1e22, "1e22")],
)
def test_number_builds_what_parsing_gives(value: float, expected: str) -> None:
    built, parsed = ast.number(value), parse_expression(expected)
    assert [type(node) for node in ast.walk(built)] == [type(node) for node in ast.walk(parsed)]
    last = list(ast.walk(built))[-1]
    assert isinstance(last, ast.Number) and last.value == abs(value)


def test_nodes_are_immutable() -> None:
    with pytest.raises(AttributeError):
        parse_expression("a").name = "b"  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", SPECS, ids=lambda path: path.stem)
def test_every_node_has_the_place_of_its_text(path: Path) -> None:
    text = path.read_text()
    module = parse_file(path)
    starts = [0]
    for line in text.split("\n"):
        starts.append(starts[-1] + len(line) + 1)
    seen = 0
    for node in ast.walk(module):
        span = node.span
        assert span != NO_SPAN
        assert 0 <= span.start < span.end <= len(text)
        assert starts[span.line - 1] + span.col - 1 == span.start
        assert starts[span.end_line - 1] + span.end_col - 1 == span.end
        for child in ast.children(node):
            assert span.start <= child.span.start and child.span.end <= span.end
        if isinstance(node, ast.Name):
            assert text[span.start : span.end] == node.name
        if isinstance(node, ast.Number):
            assert text[span.start : span.end] == node.text
        seen += 1
    assert seen > 100


def test_a_span_joins_another() -> None:
    assert Span(0, 1, 1, 1, 1, 2).to(Span(5, 9, 2, 1, 2, 5)) == Span(0, 9, 1, 1, 2, 5)


def test_parts_of_an_operator() -> None:
    module = parse_file(DATA / "attention.op")
    (op,) = module.ops
    assert (module.version, op.name, op.version) == ("0.1", "attention", "2.1")
    assert op.doc is not None and op.doc.startswith("Fused")
    assert [dim.name for dim in op.dims] == ["B", "Hq", "Hkv", "Sq", "Skv", "D"]
    assert len(op.wheres) == 6
    assert [decl.name for decl in op.types] == ["T"]
    assert [param.name for param in op.params] == ["causal", "scale"]
    assert [let.name for let in op.lets] == ["G"]
    assert [tensor.name for tensor in op.inputs] == ["q", "k", "v"]
    assert [tensor.name for tensor in op.outputs] == ["o", "lse"]
    assert len(op.defs) == 7
    assert op.requires == ()
    assert [claim.name for claim in op.ensures] == ["convex"]
    assert [law.name for law in op.laws] == ["future", "composes"]
    assert op.tolerance is not None and len(op.tolerance.rules) == 3
    assert len(op.grads) == 1 and isinstance(op.grads[0].body, ast.GradAuto)
    assert [type(workload) for workload in op.workloads] == [ast.Workload] * 2
    assert op.objective is not None and len(op.objective.terms) == 3
    assert [target.name for target in op.targets] == ["gpu", "cpu"]
    text = (DATA / "attention.op").read_text()
    assert text[op.name_span.start : op.name_span.end] == "attention"


def test_an_operator_without_contract() -> None:
    (op,) = parse('opwright "0.1"\nop f @ 1.0 { }').ops
    assert op.items == () and op.tolerance is None and op.objective is None and op.doc is None


def test_walk_is_in_source_order() -> None:
    nodes = list(ast.walk(parse_expression("f(a, b[i] + c, [j: N => d], x = if e then g else h)")))
    names = [node.name for node in nodes if isinstance(node, ast.Name)]
    assert names == ["a", "b", "i", "c", "N", "d", "e", "g", "h"]
