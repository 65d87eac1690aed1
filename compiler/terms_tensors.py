"""Tensors in expressions: reads, slices, fields of results, tensor literals, bound indices."""

from __future__ import annotations

from collections.abc import Sequence

from opwright.compiler import codes
from opwright.compiler.codes import KINDS
from opwright.compiler.intrinsics import INTRINSICS, RESULTS
from opwright.compiler.scope import (
    Index,
    Interval,
    Quantity,
    Results,
    Scope,
    Whole,
)
from opwright.compiler.terms_base import SingleValues, Value, counted, found
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.grammar.format_expr import format_expr
from opwright.ir.expr import (
    ZERO,
    Expr,
    call,
    conjunction,
    var,
)


class TensorValues(SingleValues):
    """Lowers what reads or makes a tensor."""

    def _read(self, node: ast.Read, scope: Scope) -> Value | None:
        base = self.value(node.base, scope)
        if isinstance(base, Results):
            base = self.single(base, node.base)
        index: list[Expr | None] = []
        whole: list[int] = []
        broken = base is None
        for k, part in enumerate(node.indices):
            if isinstance(part, ast.All):
                whole.append(k)
                index.append(None)
                continue
            e = self._splat(part, scope) if isinstance(part, ast.Splat) else self.integer(
                part, scope, "an index"
            )  # fmt: skip
            broken = broken or e is None
            index.append(e)
        fill = None if node.fill is None else self.scalar(node.fill, scope)
        if broken or (node.fill is not None and fill is None):
            return None
        if isinstance(base, Expr):
            self.findings.add(codes.NUMBER_AS_TENSOR, node.span, what=f"`{format_expr(node.base)}`")
            return None
        assert isinstance(base, Whole)
        if len(index) != len(base.shape):
            self.findings.add(
                codes.WRONG_RANK,
                node.span,
                name=format_expr(node.base),
                rank=len(base.shape),
                found=counted(len(index), "index", "indices"),
            )
            return None
        if fill is not None and not self._fill_fits(base, fill, node):
            return None
        if not whole:
            return base.at(tuple(e for e in index if e is not None), fill, node.span)
        inner = base

        def at(rest: tuple[Expr, ...], other: Expr | None, span: Span) -> Expr | None:
            full = list(index)
            for k, e in zip(whole, rest, strict=True):
                full[k] = e
            return inner.at(
                tuple(e for e in full if e is not None), fill if other is None else other, span
            )

        shape = tuple(base.shape[k] for k in whole)
        return Whole(f"`{format_expr(node)}`", shape, base.kind, base.dtype, at)

    def _splat(self, node: ast.Splat, scope: Scope) -> Expr | None:
        b = scope.find(node.name + "...")
        if isinstance(b, Index):
            return b.expr
        self.unknown(node.name + "...", node.span, scope)
        return None

    def _fill_fits(self, base: Whole, fill: Expr, node: ast.Read) -> bool:
        assert node.fill is not None
        if base.kind is None or fill.kind == base.kind or (base.kind, fill.kind) == ("real", "int"):
            return True
        self.findings.add(
            codes.WRONG_KIND,
            node.fill.span,
            what=f"the fill of {base.what}",
            wanted=KINDS[base.kind],
            found=found(fill),
            cure="give a value of the tensor's kind",
        )
        return False

    def _field(self, node: ast.Field, scope: Scope) -> Value | None:
        base = self.value(node.base, scope)
        if base is None:
            return None
        if isinstance(base, Results):
            name = RESULTS.get(node.name, node.name) if base.op in INTRINSICS else node.name
            if node.name in base.outputs or name in base.outputs:
                return base.outputs.get(node.name) or base.outputs[name]
            known = ", ".join(base.outputs)
            self.findings.add(
                codes.UNKNOWN_RESULT,
                _ending(node.span, node.name),
                op=base.op,
                name=node.name,
                known=known,
            )
            return None
        self.findings.add(
            codes.WRONG_ROLE,
            node.base.span,
            name=format_expr(node.base),
            found="a value",
            wanted="a call with named results",
        )
        return None

    def _lambda(self, node: ast.TensorLambda, scope: Scope) -> Whole | None:
        shape: list[Expr | None] = []
        ends: list[Interval] = []
        inner = scope.inner()
        inner.literal = True
        for b in node.binders:
            hi = self.integer(b.hi, inner, f"the bound of `{b.name}`")
            lo = ZERO if b.lo is None else self.integer(b.lo, inner, f"the bound of `{b.name}`")
            if hi is None or lo is None:
                return None
            shape.append(hi - lo)
            ends.append((lo, hi))
            name = self.index(b.name, (lo, hi))
            inner.names[b.name] = Index(var(name), hi)
        body = self.scalar(node.body, inner)
        if body is None:
            return None

        def at(index: tuple[Expr, ...], fill: Expr | None, span: Span) -> Expr | None:
            # the body is elaborated anew, so that the indices it binds stay unique
            names = {
                b.name: Index(lo + e, hi)
                for b, e, (lo, hi) in zip(node.binders, index, ends, strict=True)
            }
            own = scope.inner(names)
            own.literal = True
            e = self.scalar(node.body, own)
            if e is None or fill is None:
                return e
            inside = [
                call("le", 0, i) & call("lt", i, s)
                for i, s in zip(index, shape, strict=True)
                if s is not None
            ]
            return call("select", conjunction(inside), e, fill)

        return Whole("the tensor literal", tuple(shape), body.kind, None, at)

    def binders(
        self, nodes: Sequence[ast.Binder], scope: Scope
    ) -> tuple[Scope, list[str], list[Interval], bool]:
        """Bind indices, later ones seeing earlier ones: (scope, names, ranges, all good)."""
        inner = scope.inner()
        names: list[str] = []
        ranges: list[Interval] = []
        good = True
        for b in nodes:
            hi = self.integer(b.hi, inner, f"the bound of `{b.name}`")
            lo = ZERO if b.lo is None else self.integer(b.lo, inner, f"the bound of `{b.name}`")
            interval = None if lo is None or hi is None else (lo, hi)
            if interval is None:
                good = False
            else:
                ranges.append(interval)
            hidden = inner.nearby(b.name)
            size = isinstance(hidden, Quantity) and hidden.role in ("size", "derived size")
            if isinstance(hidden, Index) or size:
                what = "the index" if isinstance(hidden, Index) else "the size"
                self.findings.add(codes.SHADOWED, b.span, name=b.name, what=what)
                good = False
            name = self.index(b.name, interval)
            names.append(name)
            inner.names[b.name] = Index(var(name), hi)
        return inner, names, ranges, good


def _ending(span: Span, name: str) -> Span:
    """Where a name stands that a text ends with."""
    line, n = span.end_line, len(name)
    return Span(span.end - n, span.end, line, span.end_col - n, line, span.end_col)
