"""Expressions of a spec as typed expressions of the IR.

One `Terms` serves one operator. Every mistake becomes a finding and the value None, which every
caller passes on without a second finding. Calls of operators are left to the handler that the
elaborator sets.
"""

from __future__ import annotations

from collections.abc import Sequence

from opwright.compiler import codes
from opwright.compiler.scope import (
    Index,
    Quantity,
    Results,
    Scope,
    TensorName,
    Whole,
    role_of,
)
from opwright.compiler.terms_applied import Applications
from opwright.compiler.terms_base import Value, found
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.ir.expr import (
    FALSE,
    INF,
    TRUE,
    ZERO,
    Expr,
    call,
    conjunction,
    const,
    reduction,
    var,
)

ARITHMETIC = {"+": "add", "-": "sub", "*": "mul", "/": "div", "//": "floordiv", "%": "mod"}
COMPARISONS = {"==": "eq", "!=": "ne", "~=": "approx", "<=": "le", "<": "lt", ">": "lt", ">=": "le"}


class Terms(Applications):
    """Lowers expressions. `record` is told the place of every node that may carry an obligation."""

    def value(self, node: ast.Expr, scope: Scope) -> Value | None:
        match node:
            case ast.Number():
                if isinstance(node.value, int) and node.value >= 2**63:
                    self.findings.add(codes.LARGE_INTEGER, node.span, text=node.text)
                    return None
                return const(node.value)
            case ast.Bool():
                return TRUE if node.value else FALSE
            case ast.Inf():
                return INF
            case ast.Name():
                return self._name(node, scope)
            case ast.Unary():
                return self._unary(node, scope)
            case ast.Binary():
                return self._binary(node, scope)
            case ast.Compare():
                return self._compare(node, scope)
            case ast.Member():
                return self._member(node, scope)
            case ast.Cond():
                return self._conditional(node, scope)
            case ast.Read():
                return self._read(node, scope)
            case ast.Field():
                return self._field(node, scope)
            case ast.Call():
                return self._call(node, scope)
            case ast.Cast():
                return self._cast(node, scope)
            case ast.Round():
                return self._round(node, scope)
            case ast.Reduce():
                return self._reduce(node, scope)
            case ast.TensorLambda():
                return self._lambda(node, scope)
        raise AssertionError(f"unknown expression {type(node).__name__}")

    def _name(self, node: ast.Name, scope: Scope) -> Value | None:
        b = scope.find(node.name)
        if b is None:
            self.unknown(node.name, node.span, scope)
            return None
        if isinstance(b, Index | Quantity):
            return b.expr
        if isinstance(b, TensorName):
            return self.whole(b, node.span)
        self.findings.add(
            codes.WRONG_ROLE, node.span, name=node.name, found=role_of(b), wanted="a value"
        )
        return None

    def _unary(self, node: ast.Unary, scope: Scope) -> Expr | None:
        if node.op == "not":
            e = self.condition(node.x, scope, "the operand of `not`")
            return None if e is None else call("not", e)
        e = self.number(node.x, scope, "`-`")
        if e is not None and e.op == "const":
            return const(-e.attr)
        return self._apply("neg", node.span, e)

    def _binary(self, node: ast.Binary, scope: Scope) -> Expr | None:
        if node.op in ("and", "or"):
            a = self.condition(node.a, scope, f"the left side of `{node.op}`")
            b = self.condition(node.b, scope, f"the right side of `{node.op}`")
            return self._apply(node.op, node.span, a, b)
        side = self.integer if node.op in ("//", "%") else self.number
        a = side(node.a, scope, f"`{node.op}`" if side == self.number else "the left side")
        b = side(node.b, scope, f"`{node.op}`" if side == self.number else "the right side")
        return self._apply(ARITHMETIC[node.op], node.span, a, b)

    def _compare(self, node: ast.Compare, scope: Scope) -> Expr | None:
        values = [self.value(x, scope) for x in node.operands]
        values = [
            self.single(v, x) if isinstance(v, Results) else v
            for v, x in zip(values, node.operands, strict=True)
        ]
        if any(isinstance(v, Whole) for v in values) and self.whole_comparisons:
            return self._compare_whole(node, values)
        parts: list[Expr] = []
        scalars: list[Expr | None] = []
        for v, x in zip(values, node.operands, strict=True):
            scalars.append(self.scalar(x, scope) if isinstance(v, Whole) else v)  # type: ignore[arg-type]
        for op, a, b in zip(node.ops, scalars, scalars[1:], strict=False):
            if a is None or b is None:
                return None
            part = self._relation(op, a, b, node.span)
            if part is None:
                return None
            parts.append(part)
        return conjunction(parts)

    def _relation(self, op: str, a: Expr, b: Expr, span: Span) -> Expr | None:
        if (a.kind == "bool") != (b.kind == "bool"):
            self.findings.add(codes.MIXED_KINDS, span, what=f"`{op}`", a=found(a), b=found(b))
            return None
        if a.kind == "bool":
            if op not in ("==", "!=", "~="):
                self.findings.add(
                    codes.WRONG_KIND,
                    span,
                    what=f"`{op}`",
                    wanted="numbers",
                    found=found(a),
                    cure="compare truth values with `==` and `!=`",
                )
                return None
            same = (a & b) | (~a & ~b)
            return ~same if op == "!=" else same
        if op in (">", ">="):
            a, b = b, a
        return call(COMPARISONS[op], a, b)

    def _compare_whole(self, node: ast.Compare, values: Sequence[Value | None]) -> Expr | None:
        """A comparison of tensors holds at every element."""
        if len(values) != 2 or any(v is None for v in values):
            return None
        a, b = values
        first, second = (v for v in (a, b))
        shape = next(v.shape for v in (first, second) if isinstance(v, Whole))
        for v, x in zip((first, second), node.operands, strict=True):
            if isinstance(v, Whole) and not self.fits(v, shape, x):
                return None
        if any(s is None for s in shape):
            return None
        names = [self.index(f"i{k}", (ZERO, s)) for k, s in enumerate(shape) if s is not None]
        at = tuple(var(n) for n in names)
        sides = [
            v.at(at, None, x.span) if isinstance(v, Whole) else v
            for v, x in zip((first, second), node.operands, strict=True)
        ]
        if not isinstance(sides[0], Expr) or not isinstance(sides[1], Expr):
            return None
        body = self._relation(node.ops[0], sides[0], sides[1], node.span)
        if body is None:
            return None
        ranges = tuple((ZERO, s) for s in shape if s is not None)
        return reduction("all", tuple(names), ranges, body)

    def _member(self, node: ast.Member, scope: Scope) -> Expr | None:
        x = self.scalar(node.x, scope)
        out = FALSE
        for option in node.options:
            o = self.scalar(option, scope)
            if x is None or o is None:
                return None
            part = self._relation("==", x, o, option.span)
            if part is None:
                return None
            out = out | part
        return out

    def _conditional(self, node: ast.Cond, scope: Scope) -> Expr | None:
        c = self.condition(node.c, scope, "the condition of `if`")
        a, b = self.scalar(node.a, scope), self.scalar(node.b, scope)
        if c is None or a is None or b is None:
            return None
        if (a.kind == "bool") != (b.kind == "bool"):
            self.findings.add(codes.MIXED_KINDS, node.span, what="`if`", a=found(a), b=found(b))
            return None
        if a.kind == "bool":
            return (c & a) | (~c & b)
        return call("select", c, a, b)
