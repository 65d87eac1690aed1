"""Single elements of a contraction, made where they are read.

A definition that reads a contraction at a place that data gives wants a handful of its elements.
Where these are folds of their own, nothing but walks may be left to read the contraction, and then
it never has to be in memory.
"""

from __future__ import annotations

from dataclasses import replace

from opwright.compiler.normalize import Normal, normalize, unused
from opwright.compiler.strategies.group import is_fold, is_pointwise
from opwright.ir.expr import Expr, Fold, leaves, read, read_parts, rebuild, rename, substitute, var
from opwright.ir.op import Operator, Tensor


def apart(op: Operator) -> Operator | None:
    """The operator with such elements as definitions; None where there are none."""
    made = _Apart(normalize(op))
    tensors = tuple(u for t in made.normal.tensors for u in made.definition(t))
    return replace(op, tensors=tensors) if made.known else None


class _Apart:
    def __init__(self, normal: Normal) -> None:
        self.normal = normal
        self.used = {t.name for t in (*normal.op.inputs, *normal.tensors)}
        self.known: dict[tuple[Expr, ...], Tensor] = {}

    def definition(self, t: Tensor) -> list[Tensor]:
        """A definition after those that it now reads."""
        if not is_pointwise(t):
            return [t]
        before = len(self.known)
        assert t.body is not None
        body = self._visit(t, t.body)
        return [*list(self.known.values())[before:], replace(t, body=body)]

    def _visit(self, t: Tensor, e: Expr) -> Expr:
        """Reads below a condition stay: they may be in range there alone."""
        if e.op == "read":
            return self._read(t, e)
        if e.op == "select":
            return rebuild(e, (self._visit(t, e.args[0]), *e.args[1:]))
        return rebuild(e, tuple(self._visit(t, a) for a in e.args))

    def _read(self, t: Tensor, e: Expr) -> Expr:
        name, index, fill = read_parts(e)
        source = self.normal.tensor(name)
        given = any(leaves(i, "read") for i in index)
        if not given or fill is not None or source.role != "local" or not is_fold(source):
            return e
        if len(t.axes) >= len(source.axes):
            return e
        own = tuple(var(a.name) for a in t.axes)
        places = {v: var(f"?{n}") for n, v in enumerate(own)}
        key = (substitute(e, places), *(x for a in t.axes for x in (a.lo, a.hi)))
        if key not in self.known:
            self.known[key] = self._made(t, source, index)
        return read(self.known[key].name, own, e.kind)

    def _made(self, t: Tensor, source: Tensor, index: tuple[Expr, ...]) -> Tensor:
        assert source.body is not None
        name = unused(f"{source.name}_at", self.used)
        bound = {b: f"{b}_{name}" for b in Fold(source.body).binders}
        body = rename(source.body, bound)
        at = {var(a.name): i for a, i in zip(source.axes, index, strict=True)}
        return replace(source, name=name, axes=t.axes, body=substitute(body, at))
