"""Derivatives of the rows of the semantics table; sums and products that drop what is neutral."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from opwright.compiler.solve import Index
from opwright.ir.expr import Expr, call, const
from opwright.ir.op import Tensor


class NotDifferentiable(ValueError):
    """What of an operator has no derivative that this module knows."""


@dataclass(frozen=True, slots=True)
class Contribution:
    """`value` goes to element `at` of a tensor, for all indices of `scope` under `guard`."""

    at: tuple[Expr, ...]
    value: Expr
    scope: tuple[Index, ...]
    guard: Expr


def time_axis(t: Tensor) -> str:
    assert t.recurrence is not None
    return t.recurrence.axis


Shares = tuple[Expr | None, ...]


def product(factors: Sequence[Expr]) -> Expr:
    """A product without its ones; 0 as soon as one factor is 0."""
    out: Expr | None = None
    negative = False
    for f in factors:
        while f.op == "neg":
            f, negative = f.args[0], not negative
        if f.op == "const" and f.attr == 0:
            return const(0.0)
        if f.op == "const" and f.attr == 1:
            continue
        if f.op == "const" and f.attr == -1:
            negative = not negative
            continue
        out = f if out is None else call("mul", out, f)
    if out is None:
        return const(-1.0 if negative else 1.0)
    return call("neg", out) if negative else out


def total(terms: Sequence[Expr]) -> Expr:
    """A sum without its zeros."""
    out: Expr | None = None
    for t in terms:
        if t.op == "const" and t.attr == 0:
            continue
        if out is None:
            out = t
        elif t.op == "neg":
            out = call("sub", out, t.args[0])
        else:
            out = call("add", out, t)
    return const(0.0) if out is None else out


def _ratio(a: Expr, b: Expr) -> Expr:
    if a.op == "const" and a.attr == 0:
        return a
    if a.op == "neg":
        return call("neg", call("div", a.args[0], b))
    return call("div", a, b)


def _chosen(condition: Expr, w: Expr) -> Expr:
    return call("select", condition, w, 0.0)


def _sub(x: Expr, w: Expr) -> Shares:
    return w, product([w, const(-1.0)])


def _mul(x: Expr, w: Expr) -> Shares:
    a, b = x.args
    if a is b:
        return product([const(2.0), w, a]), None
    return product([w, b]), product([w, a])


def _div(x: Expr, w: Expr) -> Shares:
    a, b = x.args
    return _ratio(w, b), product([const(-1.0), _ratio(product([w, a]), call("mul", b, b))])


def _pow(x: Expr, w: Expr) -> Shares:
    a, b = x.args
    first = product([w, b, call("pow", a, b - 1.0)])
    if b.op == "const":
        return first, None
    second = product([w, x, call("log", a)])
    return first, _chosen(call("lt", 0.0, a), second)


def _min(x: Expr, w: Expr) -> Shares:
    a, b = x.args
    return _chosen(a <= b, w), _chosen(b < a, w)


def _max(x: Expr, w: Expr) -> Shares:
    a, b = x.args
    return _chosen(b <= a, w), _chosen(a < b, w)


def _abs(x: Expr, w: Expr) -> Shares:
    a = x.args[0]
    negative = _chosen(a < 0.0, product([const(-1.0), w]))
    return (call("select", call("lt", 0.0, a), w, negative),)


def _square(x: Expr) -> Expr:
    return call("mul", x, x)


# derivative of a function of one argument, from its node and its argument
_UNARY: dict[str, Callable[[Expr, Expr], Expr]] = {
    "exp": lambda x, a: x,
    "exp2": lambda x, a: product([x, const(math.log(2))]),
    "expm1": lambda x, a: call("add", x, 1.0),
    "log2": lambda x, a: call("div", 1 / math.log(2), a),
    "sqrt": lambda x, a: call("div", 0.5, x),
    "rsqrt": lambda x, a: product([const(-0.5), _ratio(x, a)]),
    "sin": lambda x, a: call("cos", a),
    "cos": lambda x, a: call("neg", call("sin", a)),
    "tan": lambda x, a: call("add", _square(x), 1.0),
    "sinh": lambda x, a: call("cosh", a),
    "cosh": lambda x, a: call("sinh", a),
    "tanh": lambda x, a: call("sub", 1.0, _square(x)),
    "asin": lambda x, a: call("rsqrt", call("sub", 1.0, _square(a))),
    "acos": lambda x, a: call("neg", call("rsqrt", call("sub", 1.0, _square(a)))),
    "atan": lambda x, a: call("div", 1.0, call("add", _square(a), 1.0)),
    "erf": lambda x, a: product(
        [const(2 / math.sqrt(math.pi)), call("exp", call("neg", _square(a)))]
    ),
    "sigmoid": lambda x, a: product([x, call("sub", 1.0, x)]),
}
_NARY: dict[str, Callable[[Expr, Expr], Shares]] = {
    "add": lambda x, w: (w, w),
    "sub": _sub,
    "mul": _mul,
    "div": _div,
    "neg": lambda x, w: (product([w, const(-1.0)]),),
    "abs": _abs,
    "log": lambda x, w: (_ratio(w, x.args[0]),),
    "log1p": lambda x, w: (_ratio(w, call("add", x.args[0], 1.0)),),
    "min": _min,
    "max": _max,
    "pow": _pow,
    "fma": lambda x, w: (product([w, x.args[1]]), product([w, x.args[0]]), w),
    "cast": lambda x, w: (w,),
    "round": lambda x, w: (w,),  # straight through
    "toreal": lambda x, w: (None,),
    "rand": lambda x, w: (None, None, None),
    "randn": lambda x, w: (None, None, None),
}


def local_rules(x: Expr, w: Expr, known: bool = False) -> Shares:
    """What a node with adjoint w passes to each of its operands; `known` says that its value need
    not be computed. KeyError for an unknown one."""
    if known and x.op == "div":
        b = x.args[1]
        return _ratio(w, b), product([const(-1.0), _ratio(product([w, x]), b)])
    rule = _NARY.get(x.op)
    if rule is not None:
        return rule(x, w)
    return (product([w, _UNARY[x.op](x, x.args[0])]),)
