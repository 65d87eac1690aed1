"""What C++ offsets need beside `ir/polynomial.py`: offsets as they are written, exact division."""

from __future__ import annotations

from collections.abc import Mapping

from opwright.ir.expr import ZERO, Expr, call, rebuild, show
from opwright.ir.polynomial import Monomial, add, expression, multiply, polynomial

Split = tuple[Expr, ...] | None


def tidy(e: Expr) -> Expr:
    """The sum of products that an expression is."""
    return expression(polynomial(e))


def apart(a: Expr, b: Expr) -> tuple[Expr, Expr]:
    """Two numbers without what both of them hold: they compare as these do."""
    gap = polynomial(a - b)
    more = {m: c for m, c in gap.items() if c > 0}
    less = {m: -c for m, c in gap.items() if c < 0}
    return expression(more), expression(less)


def exact(e: Expr, divisor: int) -> Expr | None:
    """e / divisor where every coefficient divides."""
    p = polynomial(e)
    if any(c % divisor for c in p.values()):
        return None
    return expression({m: c // divisor for m, c in p.items()})


def written(offset: Expr, strides: tuple[Expr, ...], shape: tuple[Expr, ...]) -> Split:
    """The index that `((i0 * n1) + i1) * n2 + i2` says, if the strides are those of a dense
    shape; None for a text of another form."""
    dense = polynomial(offset * 0 + 1)
    for s, n in zip(reversed(strides), reversed(shape), strict=True):
        if polynomial(s) != dense:
            return None
        dense = multiply(dense, polynomial(n))
    out: list[Expr] = []
    rest = offset
    for n in reversed(shape[1:]):
        extent = polynomial(n)
        inner: Expr = ZERO
        if rest.op in ("add", "sub"):
            product, inner = rest.args
            if rest.op == "sub":
                inner = call("neg", inner)
        else:
            product = rest
        if product.op != "mul":
            return None
        x, y = product.args
        if polynomial(y) != extent:
            x, y = y, x
        if polynomial(y) != extent:
            return None
        out.append(inner)
        rest = x
    return (rest, *reversed(out))


_KEYS: dict[Expr, str] = {}
_CANONICAL: dict[Expr, Expr] = {}


def _key(e: Expr) -> str:
    if e not in _KEYS:
        _KEYS[e] = f"{e.op} {show(e)}"
    return _KEYS[e]


def canonical(e: Expr) -> Expr:
    """One form for sums, products and comparisons of integers that are equal as polynomials."""
    if e not in _CANONICAL:
        _CANONICAL[e] = _canonical(e)
    return _CANONICAL[e]


def _canonical(e: Expr) -> Expr:
    if not e.args:
        return e
    if e.op in ("add", "sub", "neg", "mul") and e.kind == "int":
        return _sum(_multiplied(e))
    if e.op in ("lt", "le") and e.args[0].kind == "int":
        a, b = e.args
        return call("lt", ZERO, canonical(b - a + (1 if e.op == "le" else 0)))
    return rebuild(e, tuple(canonical(a) for a in e.args))


def _multiplied(e: Expr) -> dict[Monomial, int]:
    """The polynomial of a sum over the canonical forms of its parts."""
    if e.op in ("add", "sub", "neg", "mul") and e.kind == "int":
        parts = [_multiplied(a) for a in e.args]
        if e.op == "mul":
            return multiply(*parts)
        if e.op == "neg":
            return add({}, parts[0], -1)
        return add(parts[0], parts[1], 1 if e.op == "add" else -1)
    return polynomial(canonical(e))


def _sum(p: Mapping[Monomial, int]) -> Expr:
    rows = [(tuple(sorted(m, key=_key)), c) for m, c in p.items()]
    rows.sort(key=lambda r: (-len(r[0]), [_key(x) for x in r[0]]))
    return expression(dict(rows))
