"""Text form of expressions: parses what `show` prints, and the expressions of plans and facts.

Precedences are those of the semantics table. Names are resolved by the caller, so that one parser
serves plans (sizes, params, strides) and TileIR text (loop variables, lanes, values).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping

from opwright.ir.dtypes import DTYPES
from opwright.ir.expr import (
    Expr,
    ExprError,
    call,
    cast,
    cdiv,
    const,
    leaf,
    rounded,
    stride,
    toreal,
)
from opwright.ir.semantics import ROWS

Resolve = Callable[[str], Expr | None]

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)|(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)"
    r"|(?P<symbol>//|==|!=|<=|>=|[-+*/%<>(),]))"
)
_INFIX = {r.symbol: r for r in ROWS.values() if r.symbol} | {">": ROWS["lt"], ">=": ROWS["le"]}


class TextError(ExprError):
    """Text that is not an expression; `column` is 1-based within the text."""

    def __init__(self, message: str, text: str, offset: int) -> None:
        super().__init__(f"{message} at column {offset + 1} of {text!r}")
        self.column = offset + 1


class _Parser:
    def __init__(self, text: str, resolve: Resolve) -> None:
        self.text, self.resolve = text, resolve
        self.tokens: list[tuple[str, str, int]] = []
        at = 0
        while at < len(text.rstrip()):
            m = _TOKEN.match(text, at)
            if m is None:
                raise TextError(f"unexpected {text[at:].strip()[:1]!r}", text, at)
            self.tokens.append((str(m.lastgroup), m[str(m.lastgroup)], m.start(str(m.lastgroup))))
            at = m.end()
        self.tokens.append(("end", "", len(text)))
        self.at = 0

    def peek(self) -> str:
        return self.tokens[self.at][1]

    def fail(self, message: str) -> TextError:
        return TextError(message, self.text, self.tokens[self.at][2])

    def take(self, wanted: str) -> None:
        if self.peek() != wanted:
            found = self.peek() or "the end"
            raise self.fail(f"expected {wanted!r}, found {found!r}")
        self.at += 1

    def expression(self, least: int = 0) -> Expr:
        left = self.prefix()
        while (row := _INFIX.get(self.peek())) is not None and row.precedence > least:
            symbol = self.peek()
            self.at += 1
            right = self.expression(row.precedence)
            a, b = (right, left) if symbol in (">", ">=") else (left, right)
            try:
                left = call(row.name, a, b)
            except ExprError as e:
                raise self.fail(str(e)) from None
        return left

    def prefix(self) -> Expr:
        kind, text, _ = self.tokens[self.at]
        if text == "-":
            self.at += 1
            inner = self.expression(6)
            if inner.op == "const" and inner.kind != "bool":
                return const(-inner.attr)
            return -inner
        if text == "not":
            self.at += 1
            return ~self.expression(2)
        if text == "(":
            self.at += 1
            inner = self.expression()
            self.take(")")
            return inner
        if text == "if":
            return self.conditional()
        self.at += 1
        if kind == "number":
            return const(int(text) if text.isdigit() else float(text))
        if kind == "name":
            return self.call(text) if self.peek() == "(" else self.name(text)
        self.at -= 1
        raise self.fail(f"unexpected {text or 'end of text'!r}")

    def conditional(self) -> Expr:
        self.take("if")
        condition = self.expression()
        self.take("then")
        then = self.expression()
        self.take("else")
        return call("select", condition, then, self.expression())

    def name(self, name: str) -> Expr:
        if name in ("true", "false"):
            return const(name == "true")
        if name == "inf":
            return const(math.inf)
        found = self.resolve(name)
        if found is None:
            self.at -= 1
            raise self.fail(f"unknown name {name!r}")
        return found

    def call(self, name: str) -> Expr:
        start = self.at - 1
        self.take("(")
        if name in ("stride", "aligned"):
            tensor = self.peek()
            self.at += 1
            self.take(",")
            axis = int(self.peek())
            self.at += 1
            self.take(")")
            if name == "stride":
                return stride(tensor, axis)
            return leaf("param", f"aligned({tensor}, {axis})", "bool")
        args = [self.expression()]
        while self.peek() == ",":
            self.at += 1
            args.append(self.expression())
        self.take(")")
        try:
            if name == "cdiv" and len(args) == 2 and args[1].op == "const":
                return cdiv(args[0], args[1].attr)
            if name == "cdiv" and len(args) == 2:
                return (args[0] + args[1] - 1) // args[1]
            if name == "real" and len(args) == 1:
                return toreal(args[0])
            if name in DTYPES and len(args) == 1:
                return cast(args[0], DTYPES[name])
            if name.startswith("round.") and name[6:] in DTYPES and len(args) == 1:
                return rounded(args[0], DTYPES[name[6:]])
            return call(name, *args)
        except ExprError as e:
            self.at = start
            raise self.fail(str(e)) from None


def parse_expr(text: str, names: Mapping[str, Expr] | Resolve) -> Expr:
    """The expression of a text; TextError names the column of a mistake.

    `names` resolves identifiers. `stride(x, 0)`, `aligned(x, 32)`, `cdiv(a, b)`, `real(n)`, casts
    such as `i32(n)` and every row of the semantics table are understood.
    """
    resolve = names if callable(names) else names.get
    parser = _Parser(text, resolve)
    out = parser.expression()
    if parser.tokens[parser.at][0] != "end":
        raise parser.fail(f"unexpected {parser.peek()!r}")
    return out
