"""Which accesses of a thread are one vector of memory: neighbours, from a multiple of their number
on, all of them or none under the mask."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

from opwright.ir.expr import TRUE, Expr, call, conjuncts, leaves, substitute, var
from opwright.ir.polynomial import Polynomial, add, polynomial
from opwright.ir.tile import Axis, Buffer, Def, For, Kernel, Store, lanes, row_major, statements

WIDTHS = {"f32": 4, "i32": 4, "f64": 2}  # elements of a vector of 16 bytes
NAMES = {("f32", 4): "float4", ("f32", 2): "float2", ("i32", 4): "int4", ("i32", 2): "int2",
         ("f64", 2): "double2"}  # fmt: skip
_ALIGNED = re.compile(r"aligned\((\w+), (\d+)\)")


class Vectors:
    """What the facts of a program, and the loops of a kernel, say of multiples and addresses."""

    def __init__(self, facts: Iterable[Expr], known: Mapping[Expr, Expr], kernel: Kernel) -> None:
        self.known = dict(known)
        self.starts: dict[str, int] = {}
        self.multiples: dict[Expr, int] = {}
        for f in facts:
            found = _ALIGNED.fullmatch(str(f.attr)) if f.op == "param" else None
            if found:
                self.starts[found[1]] = max(self.starts.get(found[1], 1), int(found[2]))
            if f.op == "eq" and f.args[0].op == "mod" and f.args[1].op == "const":
                x, by = f.args[0].args
                if by.op == "const" and f.args[1].attr == 0:
                    self.multiples[x] = math.lcm(self.multiples.get(x, 1), int(by.attr))
        for s in statements(kernel.body):
            if isinstance(s, For):
                v = var(s.variable)
                if v in self.multiples:  # two loops that count alike
                    self.multiples[v] = 1
                else:
                    self.multiples[v] = math.gcd(s.step, self.factor(s.lo))

    def factor(self, e: Expr) -> int:
        """A number that divides an expression; 0 divides nothing but 0."""
        return self._content(polynomial(substitute(e, self.known)))

    def _content(self, p: Polynomial) -> int:
        out = 0
        for m, c in p.items():
            out = math.gcd(out, c * math.prod(self.multiples.get(f, 1) for f in m))
        return out

    def address(self, b: Buffer, index: tuple[Expr, ...]) -> Polynomial:
        strides = b.strides if b.strides is not None else row_major(b.shape)
        out: Polynomial = {}
        for e, s in zip(index, strides, strict=True):
            out = add(out, polynomial(substitute(e * s, self.known)))
        return out

    def along(self, b: Buffer, index: tuple[Expr, ...], a: Axis) -> bool:
        """Whether lanes that are next to each other along an axis touch neighbours."""
        p = self.address(b, index)
        return p.get((a.lane,)) == 1 and all(
            a not in lanes(f) for m in p if m != (a.lane,) for f in m
        )

    def whole(
        self, b: Buffer, index: tuple[Expr, ...], mask: Expr, a: Axis, count: int
    ) -> bool:  # fmt: skip
        """Whether so many lanes along an axis, from a multiple of their number on, are a vector."""
        if (b.dtype.name, count) not in NAMES or not self.along(b, index, a):
            return False
        needed = count * b.dtype.bytes
        if self.starts.get(b.name, 1) % needed:
            return False
        p = self.address(b, index)
        del p[a.lane,]
        return self._content(p) % count == 0 and self.alike(mask, a, count)

    def alike(self, mask: Expr, a: Axis, count: int) -> bool:
        """Whether a mask says the same of lanes that are one vector."""
        return mask is TRUE or all(self._bound(c, a, count) for c in conjuncts(mask))

    def _bound(self, c: Expr, a: Axis, count: int) -> bool:
        if a not in lanes(c):
            return True
        if c.op != "lt" or leaves(c.args[1], "real"):
            return False
        left, right = (polynomial(substitute(x, self.known)) for x in c.args)
        p = add(left, right, -1)
        own = p.pop((a.lane,), 0)
        alone = all(a not in lanes(f) for m in p for f in m)
        return own == 1 and alone and self._content(p) % count == 0


def best_axis(kernel: Kernel, vectors: Vectors) -> tuple[Axis, int] | None:
    """The axis along which most accesses of a kernel are vectors, and their length."""
    found: dict[tuple[Axis, int], int] = {}
    total = 0
    for s in statements(kernel.body):
        if isinstance(s, Store):
            b, index, mask = s.buffer, s.index, s.mask
        elif isinstance(s, Def) and s.value.op == "load":
            b, index, mask = s.value.attr.buffer, s.value.attr.index, s.value.attr.mask
        else:
            continue
        axes = lanes(*index)
        total += bool(axes)
        count = WIDTHS.get(b.dtype.name, 1)
        for a in axes:
            if count > 1 and a.extent % count == 0 and vectors.whole(b, index, mask, a, count):
                found[a, count] = found.get((a, count), 0) + 1
    if not found:
        return None
    best = max(found, key=lambda k: found[k])
    return best if 2 * found[best] >= total else None


def ends_of(kernel: Kernel, vectors: Vectors) -> list[Expr]:
    """Facts that ranges which are sizes end where a vector of the widest accesses does."""
    found: dict[Expr, None] = {}
    for s in statements(kernel.body):
        if isinstance(s, Store):
            b, mask = s.buffer, s.mask
        elif isinstance(s, Def) and s.value.op == "load":
            b, mask = s.value.attr.buffer, s.value.attr.mask
        else:
            continue
        count = WIDTHS.get(b.dtype.name, 1)
        for c in conjuncts(mask):
            end = c.args[1] if c.op == "lt" else None
            if end is not None and end.op == "size" and lanes(c) and vectors.factor(end) % count:
                found[call("eq", end % count, 0)] = None
    return list(found)
