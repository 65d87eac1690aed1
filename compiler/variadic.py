"""Operators over any number of leading axes, written out for a number of them.

Called on tensors with n leading axes, an operator with `dims b..., N` means the same operator with
n sizes in the place of `b...`. What the copy must hold was checked for the original, so the copy
keeps only interface, meaning and preconditions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

from opwright.grammar import ast

KEPT = (ast.Dims, ast.Where, ast.TypeDecl, ast.Let, ast.Param, ast.Inputs, ast.Outputs, ast.Def,
        ast.Requires)  # fmt: skip


def variadic_size(op: ast.Op) -> str | None:
    """The size that stands for any number of axes."""
    return next((d.name for d in op.dims if d.variadic), None)


def leading_axes(op: ast.Op, ranks: Mapping[str, int]) -> int | None:
    """How many axes the group has when inputs of these ranks are given; None if none tells."""
    for t in op.inputs:
        if t.name in ranks and t.shape and isinstance(t.shape[0], ast.Splat):
            return ranks[t.name] - len(t.shape) + 1
    return None


def written_out(op: ast.Op, count: int) -> ast.Op:
    """The operator with `count` sizes and indices in the place of every group of axes."""
    group = variadic_size(op)
    assert group is not None
    items = tuple(i for i in op.items if isinstance(i, KEPT))
    writer = _Writer(group, count, {n for i in items for n in _names(i)})
    return replace(op, items=tuple(writer.node(i) for i in items))


def _names(item: ast.Node) -> set[str]:
    found = (getattr(n, "name", None) for n in ast.walk(item))
    return {n for n in found if isinstance(n, str)}


class _Writer:
    def __init__(self, group: str, count: int, taken: set[str]) -> None:
        self.group, self.count, self.taken = group, count, taken
        self.given: dict[tuple[str, bool], tuple[str, ...]] = {}
        self.in_shape = False
        self.bound: set[str] = set()  # indices that run over the whole group as one

    def names(self, name: str, size: bool = False) -> tuple[str, ...]:
        """Sizes in the place of the group's size, indices in the place of one over it."""
        key = (name, size)
        if key not in self.given:
            out = []
            for k in range(self.count):
                new = f"{name}_{k}_extent" if size else f"{name}_{k}"
                while new in self.taken:
                    new += "_"
                self.taken.add(new)
                out.append(new)
            self.given[key] = tuple(out)
        return self.given[key]

    def node(self, x: Any) -> Any:
        if isinstance(x, tuple):
            return tuple(y for part in x for y in self.parts(part))
        if isinstance(x, ast.Name):
            return self.name(x)
        if isinstance(x, ast.TensorDecl):
            self.in_shape = True
            out = self.rebuilt(x)
            self.in_shape = False
            return out
        if isinstance(x, ast.Reduce | ast.TensorLambda):
            own = {b.name for b in x.binders if self.over_group(b)}
            before = set(self.bound)
            self.bound = (before - {b.name for b in x.binders}) | own
            out = self.rebuilt(x)
            self.bound = before
            return out
        if isinstance(x, ast.Read) and not self.count:
            out = self.rebuilt(x)
            return out if out.indices else out.base
        return self.rebuilt(x) if isinstance(x, ast.Node) else x

    def rebuilt(self, x: Any) -> Any:
        kept = ("span", "name_span")
        return replace(
            x, **{f.name: self.node(getattr(x, f.name)) for f in fields(x) if f.name not in kept}
        )

    def parts(self, x: Any) -> tuple[Any, ...]:
        """What one element of a list becomes."""
        if isinstance(x, ast.Dim) and x.variadic:
            return tuple(ast.Dim(n, span=x.span) for n in self.names(x.name, True))
        if isinstance(x, ast.LhsIndex) and x.variadic:
            return tuple(ast.LhsIndex(n, span=x.span) for n in self.names(x.name))
        if isinstance(x, ast.Splat) or (isinstance(x, ast.Name) and x.name in self.bound):
            return tuple(ast.Name(n, span=x.span) for n in self.names(x.name, self.in_shape))
        if isinstance(x, ast.Binder) and self.over_group(x):
            return tuple(
                ast.Binder(n, None, ast.Name(s, span=x.span), span=x.span)
                for n, s in zip(self.names(x.name), self.names(self.group, True), strict=True)
            )
        return (self.node(x),)

    def over_group(self, b: ast.Binder) -> bool:
        return b.lo is None and isinstance(b.hi, ast.Name) and b.hi.name == self.group

    def name(self, x: ast.Name) -> ast.Expr:
        """The group's size as a product, an index over it as a position."""
        if x.name == self.group:
            out: ast.Expr = ast.Number(1, "1", span=x.span)
            for n in self.names(x.name, True):
                size = ast.Name(n, span=x.span)
                out = ast.Binary("*", out, size, span=x.span) if n != self.first else size
            return out
        if x.name in self.bound:
            out = ast.Number(0, "0", span=x.span)
            for n, s in zip(self.names(x.name), self.names(self.group, True), strict=True):
                scaled = ast.Binary("*", out, ast.Name(s, span=x.span), span=x.span)
                out = ast.Binary("+", scaled, ast.Name(n, span=x.span), span=x.span)
            return out
        return x

    @property
    def first(self) -> str:
        return next(iter(self.names(self.group, True)), "")
