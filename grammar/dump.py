"""The syntax tree as text, for `show --stage ast` and for golden files.

One line for each operator, item and statement, with its place; expressions in prefix form.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from opwright.grammar import ast

LINES = (ast.Op, ast.Item, ast.Stmt, ast.ImportModule, ast.ImportNames, ast.GradDef)


def dump(node: ast.Node) -> str:
    """Return the tree below a node, one line for each part with a place of its own."""
    return "\n".join(_lines(node, 0)) + "\n"


def _lines(node: ast.Node, depth: int) -> Iterator[str]:
    inline = []
    below: list[ast.Node] = []
    for name, value in _parts(node):
        nodes = value if isinstance(value, tuple) else (value,)
        if nodes and all(isinstance(one, LINES) for one in nodes):
            below.extend(nodes)
        elif name != "comments":
            inline.append(inline_text(value))
    span = node.span
    place = f"{span.line}:{span.col}-{span.end_line}:{span.end_col}"
    yield "  " * depth + " ".join([type(node).__name__, *inline, f"@{place}"])
    if isinstance(node, ast.Module):
        for comment in node.comments:
            yield "  " * (depth + 1) + f"Comment {comment.text} @{comment.span.line}"
    for child in below:
        yield from _lines(child, depth + 1)


def _parts(node: ast.Node) -> Iterator[tuple[str, object]]:
    for part in fields(node):
        if part.name not in ("span", "name_span", "filename"):
            yield part.name, getattr(node, part.name)


def inline_text(value: object) -> str:
    """Return a value of a node on one line: `(Binary + x 1)`, `[a b]`, `-` for what is absent."""
    match value:
        case None:
            return "-"
        case bool():
            return "true" if value else "false"
        case str():
            return value if value and not set(value) & set(' ()[]"') else f'"{value}"'
        case tuple():
            return "[" + " ".join(inline_text(part) for part in value) + "]"
        case ast.Name(name=name):
            return name
        case ast.Number(text=text):
            return text
        case ast.Node():
            parts = [inline_text(part) for _, part in _parts(value)]
            return "(" + " ".join([type(value).__name__, *parts]) + ")"
    return str(value)
