"""Integer expressions as polynomials over opaque atoms: sums in one order, exact division."""

from __future__ import annotations

from collections.abc import Mapping

from opwright.ir.expr import ZERO, Expr, call, show

Monomial = tuple[Expr, ...]
Poly = dict[Monomial, int]
Split = tuple[Expr, ...] | None

_NAMES: dict[Expr, str] = {}


def _key(e: Expr) -> str:
    if e not in _NAMES:
        _NAMES[e] = f"{e.op} {show(e)}"
    return _NAMES[e]


def poly(e: Expr) -> Poly:
    """Sums and products multiplied out; every other node is an atom."""
    if e.op == "const":
        return {(): int(e.attr)} if e.attr else {}
    if e.op in ("add", "sub"):
        return plus(poly(e.args[0]), poly(e.args[1]), 1 if e.op == "add" else -1)
    if e.op == "neg":
        return scaled(poly(e.args[0]), -1)
    if e.op == "mul":
        return times(poly(e.args[0]), poly(e.args[1]))
    return {(e,): 1}


def plus(a: Poly, b: Poly, sign: int = 1) -> Poly:
    out = dict(a)
    for m, c in b.items():
        out[m] = out.get(m, 0) + sign * c
    return {m: c for m, c in out.items() if c}


def scaled(a: Poly, n: int) -> Poly:
    return {m: c * n for m, c in a.items()} if n else {}


def times(a: Poly, b: Poly) -> Poly:
    out: Poly = {}
    for m, c in a.items():
        for n, d in b.items():
            both = tuple(sorted((*m, *n), key=_key))
            out[both] = out.get(both, 0) + c * d
    return {m: c for m, c in out.items() if c}


def expression(p: Mapping[Monomial, int]) -> Expr:
    """The polynomial as an expression: products first, the constant last."""
    out: Expr = ZERO
    for m in sorted(p, key=lambda m: (-len(m), [_key(x) for x in m])):
        term: Expr | None = None
        for x in m:
            term = x if term is None else term * x
        c = p[m]
        if term is None:
            out = out + c if c > 0 or out is ZERO else out - (-c)
        elif c < 0 and out is not ZERO:
            out = out - (term if c == -1 else term * (-c))
        else:
            out = out + (term if c == 1 else call("neg", term) if c == -1 else term * c)
    return out


def constant(e: Expr) -> int | None:
    """The number that an expression is after all, or None."""
    p = poly(e)
    return p.get((), 0) if not set(p) - {()} else None


def difference(a: Expr, b: Expr) -> int | None:
    """a - b where it is a number."""
    return constant(a - b)


def tidy(e: Expr) -> Expr:
    return expression(poly(e))


def _rank(m: Monomial) -> tuple[int, list[str]]:
    return len(m), [_key(x) for x in m]


def without(m: Monomial, part: Monomial) -> Monomial | None:
    """The monomial divided by another one."""
    left = list(m)
    for x in part:
        if x not in left:
            return None
        left.remove(x)
    return tuple(left)


def divide(p: Poly, d: Poly) -> tuple[Poly, Poly]:
    """Quotient and remainder by the leading term of `d`; coefficients divide exactly."""
    lead = max(d, key=_rank)
    quotient: Poly = {}
    rest, done = dict(p), {}
    while rest:
        m = max(rest, key=_rank)
        c = rest[m]
        part = without(m, lead)
        if part is None or c % d[lead]:
            done[m] = c
            del rest[m]
            continue
        q = {part: c // d[lead]}
        quotient = plus(quotient, q)
        rest = plus(rest, times(q, d), -1)
    return quotient, done


def exact(e: Expr, divisor: int) -> Expr | None:
    """e / divisor where every coefficient divides."""
    p = poly(e)
    if any(c % divisor for c in p.values()):
        return None
    return expression({m: c // divisor for m, c in p.items()})


def split(offset: Expr, strides: tuple[Expr, ...], shape: tuple[Expr, ...]) -> Split:
    """Indices with sum(index * stride) == offset, outermost first; None where a rest is left.

    A text in Horner's form over the extents is taken as it is written; else an outer index takes
    what its stride divides, and a constant is cut into digits.
    """
    if not strides:
        return () if not poly(offset) else None
    return _written(offset, strides, shape) or _divided(offset, strides)


def _written(offset: Expr, strides: tuple[Expr, ...], shape: tuple[Expr, ...]) -> Split:
    """((i0 * n1) + i1) * n2 + i2, if the strides are those of a dense shape."""
    dense: Poly = {(): 1}
    for s, n in zip(reversed(strides), reversed(shape), strict=True):
        if poly(s) != dense:
            return None
        dense = times(dense, poly(n))
    out: list[Expr] = []
    rest = offset
    for n in reversed(shape[1:]):
        cut = None
        if rest.op in ("add", "sub"):
            a, b = rest.args
            if a.op == "mul" and any(poly(x) == poly(n) for x in a.args):
                cut = (a, b if rest.op == "add" else call("neg", b))
        elif rest.op == "mul" and poly(rest.args[1]) == poly(n):
            cut = (rest, ZERO)
        if cut is None:
            return None
        product, inner = cut
        x, y = product.args
        out.append(inner)
        rest = x if poly(y) == poly(n) else y
    return (rest, *reversed(out))


def _divided(offset: Expr, strides: tuple[Expr, ...]) -> Split:
    rest, out = poly(offset), []
    steps = [poly(s) for s in strides]
    order = sorted(range(len(steps)), key=lambda k: -_weight(steps[k]))
    found: dict[int, Poly] = {}
    for k in order:
        if not steps[k]:
            return None
        if steps[k] == {(): 1}:
            found[k], rest = rest, {}
            continue
        found[k], rest = divide(rest, steps[k])
        size = steps[k].get((), 0) if len(steps[k]) == 1 else 0
        if size > 1 and rest.get((), 0) >= size:  # a constant has digits of its own
            found[k] = plus(found[k], {(): rest[()] // size})
            rest = plus(rest, {(): rest[()] // size * size}, -1)
    if rest:
        return None
    for k in range(len(steps)):
        out.append(expression(found[k]))
    return tuple(out)


def _weight(p: Poly) -> float:
    """Larger strides first: by degree, then by their leading coefficient."""
    if not p:
        return 0.0
    lead = max(p, key=_rank)
    return len(lead) * 1e12 + min(abs(p[lead]), 10**11)
