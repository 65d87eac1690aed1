"""A source for Triton's interpreter, where `and`, `or` and `not` of tiles are Python's.

The compiler joins truth values lane by lane; the interpreter runs a kernel as Python, where `a and
b` of two tiles is one of them. They become calls of functions that do what the compiler does; no
line moves. An annotation that is a string, which the compiler takes, is unquoted.
"""

from __future__ import annotations

import ast
import re

BOTH, EITHER, NEGATED = "_lanes_and", "_lanes_or", "_lanes_not"
Edit = tuple[int, int, str]


def interpretable(source: str) -> str:
    """The source with its logical operators as calls; as it is where there is nothing to do."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return source
    text = source.encode()
    starts = [0]
    for line in text.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    edits: list[tuple[int, int, int, str]] = []

    def at(row: int, column: int) -> int:
        return starts[row - 1] + column

    def begin(e: ast.expr) -> int:
        return at(e.lineno, e.col_offset)

    def end(e: ast.expr) -> int:
        return at(e.end_lineno or e.lineno, e.end_col_offset or e.col_offset)

    for f in (n for n in tree.body if isinstance(n, ast.FunctionDef)):
        for a in [*f.args.posonlyargs, *f.args.args, *f.args.kwonlyargs]:
            note = a.annotation
            if isinstance(note, ast.Constant) and isinstance(note.value, str):
                if note.value.endswith("constexpr"):
                    edits.append((begin(note), 0, end(note), note.value))
        for x in (x for s in f.body for x in ast.walk(s)):
            depth = len(list(ast.walk(x)))  # outer ones open first and close last
            if isinstance(x, ast.BoolOp):
                word = b"and" if isinstance(x.op, ast.And) else b"or"
                name = BOTH if word == b"and" else EITHER
                edits.append((begin(x), -depth, begin(x), f"{name}(lambda: ("))
                for left, right in zip(x.values, x.values[1:], strict=False):
                    gap = text[end(left) : begin(right)]
                    m = re.search(rb"\b" + word + rb"\b", gap)
                    if m is None or b"#" in gap:
                        return source
                    place = end(left) + m.start()
                    edits.append((place, 0, place + len(word), "), lambda: ("))
                edits.append((end(x), depth, end(x), "))"))
            elif isinstance(x, ast.UnaryOp) and isinstance(x.op, ast.Not):
                edits.append((begin(x), -depth, begin(x) + 3, f"{NEGATED}("))
                edits.append((end(x), depth, end(x), ")"))
    for first, _, last, new in sorted(edits, reverse=True):
        text = text[:first] + new.encode() + text[last:]
    return text.decode()
