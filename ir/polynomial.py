"""Integer index expressions as polynomials: sums of products over what is no sum, product or
negation.

Two expressions with one polynomial are equal for all values; the converse does not hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from opwright.ir.expr import ZERO, Expr, const

Monomial = tuple[Expr, ...]  # factors, in order of making
Polynomial = dict[Monomial, int]


def _number(e: Expr) -> int:
    return id(e)


def monomial(factors: Iterable[Expr]) -> Monomial:
    return tuple(sorted(factors, key=_number))


def add(a: Mapping[Monomial, int], b: Mapping[Monomial, int], times: int = 1) -> Polynomial:
    out = dict(a)
    for m, c in b.items():
        out[m] = out.get(m, 0) + times * c
        if not out[m]:
            del out[m]
    return out


def multiply(a: Mapping[Monomial, int], b: Mapping[Monomial, int]) -> Polynomial:
    out: Polynomial = {}
    for m, c in a.items():
        for n, d in b.items():
            k = monomial((*m, *n))
            out[k] = out.get(k, 0) + c * d
            if not out[k]:
                del out[k]
    return out


def polynomial(
    e: Expr,
    memo: dict[Expr, Polynomial] | None = None,
    alike: dict[object, Expr] | None = None,
) -> Polynomial:
    """The polynomial of an integer expression; other nodes are its unknowns.

    With `alike`, unknowns over equal polynomials are one: the first of them that was seen.
    """
    memo = {} if memo is None else memo
    found = memo.get(e)
    if found is None:
        if e.op == "const":
            found = {(): e.attr} if e.attr else {}
        elif e.op in ("add", "sub"):
            a, b = (polynomial(x, memo, alike) for x in e.args)
            found = add(a, b, 1 if e.op == "add" else -1)
        elif e.op == "neg":
            found = add({}, polynomial(e.args[0], memo, alike), -1)
        elif e.op == "mul":
            a, b = (polynomial(x, memo, alike) for x in e.args)
            found = multiply(a, b)
        else:
            one = e
            if alike is not None and e.args and all(a.kind == "int" for a in e.args):
                parts = [polynomial(a, memo, alike) for a in e.args]
                one = alike.setdefault((e.op, *(frozenset(p.items()) for p in parts)), e)
            found = {(one,): 1}
        memo[e] = found
    return found


def expression(p: Mapping[Monomial, int]) -> Expr:
    """The sum of products; terms in the order of the mapping, those with a minus last."""
    out: Expr | None = None
    for m, c in sorted(p.items(), key=lambda x: x[1] < 0):
        term: Expr | None = None
        for f in m:
            term = f if term is None else term * f
        size = abs(c)
        term = const(size) if term is None else term if size == 1 else term * size
        if out is None:
            out = term if c > 0 else const(-size) if not m else -term
        else:
            out = out + term if c > 0 else out - term
    return ZERO if out is None else out


def quotient(m: Monomial, part: Monomial) -> Monomial | None:
    """m / part, or None if it does not divide."""
    rest = list(m)
    for f in part:
        if f not in rest:
            return None
        rest.remove(f)
    return tuple(rest)


def leading(p: Mapping[Monomial, int]) -> Monomial:
    """The term with most factors, the first of those."""
    return max(p, key=len)


def divide(p: Mapping[Monomial, int], d: Mapping[Monomial, int]) -> tuple[Polynomial, Polynomial]:
    """Quotient and remainder by the leading term of `d`, which must not be zero: p == q * d + r.

    Coefficients are divided rounding down, so that by 8 `3 + 17 * i` is `2 * i` and `3 + i`.
    """
    top = leading(d)
    size = d[top]
    out: Polynomial = {}
    rest = dict(p)
    for _ in range(64):
        step: Polynomial = {}
        for m, c in rest.items():
            left = quotient(m, top)
            times = c // size if size > 0 else -(c // -size)
            if left is not None and times and not (c < 0 and times * size != c):
                step[left] = step.get(left, 0) + times
        if not step:
            break
        out = add(out, step)
        rest = add(rest, multiply(step, d), -1)
    return out, rest
