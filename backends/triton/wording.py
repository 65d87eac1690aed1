"""The source's own words for an operation: the expression that stands where its location says."""

from __future__ import annotations

import ast

from opwright.backends.triton.ttir import Op

LONGEST = 72
_SIGNS = {"arith.addi": "+", "arith.subi": "-", "arith.muli": "*"}
_KINDS = {"arith.addi": ast.Add, "arith.subi": ast.Sub, "arith.muli": ast.Mult}


class Words:
    """Expressions of a Python source by line, column and operator."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.found: dict[tuple[int, int, type[ast.operator]], str] | None = None

    def of(self, op: Op) -> str:
        """What the source says there; in names of the intermediate form where it has no word."""
        kind = _KINDS.get(op.name)
        if kind is None or not op.line:
            return ""
        if self.found is None:
            self.found = self.read()
        said = self.found.get((op.line, op.column, kind), "")
        if said or self.found:
            return said
        a, b = (x.lstrip("%") for x in op.operands[:2])
        return f"{a} {_SIGNS[op.name]} {b}" if not (a.isdigit() or b.isdigit()) else ""

    def read(self) -> dict[tuple[int, int, type[ast.operator]], str]:
        out: dict[tuple[int, int, type[ast.operator]], str] = {}
        try:
            tree = ast.parse(self.source)
        except (SyntaxError, ValueError, RecursionError):
            return out
        for x in ast.walk(tree):  # outer expressions come first, and are what is observed
            if isinstance(x, ast.BinOp):
                key = (x.lineno, x.col_offset + 1, type(x.op))
                text = ast.unparse(x)
            elif isinstance(x, ast.AugAssign):
                key = (x.lineno, x.col_offset + 1, type(x.op))
                text = ast.unparse(x)
            else:
                continue
            short = text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
            out.setdefault(key, short)
        return out
