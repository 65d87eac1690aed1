"""What C++ offsets need beside `ir/polynomial.py`: offsets as they are written, exact division."""

from __future__ import annotations

from opwright.ir.expr import ZERO, Expr, call
from opwright.ir.polynomial import expression, multiply, polynomial

Split = tuple[Expr, ...] | None


def tidy(e: Expr) -> Expr:
    """The sum of products that an expression is."""
    return expression(polynomial(e))


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
