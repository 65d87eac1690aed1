"""Functions that a block target lacks, written out in those it has.

Every form is the function itself over the reals, or an approximation to a few units in the last
place where the direct form would cancel; infinities and NaN give what the function gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

from opwright.ir.dtypes import BOOL, F32, F64, I64, DType
from opwright.ir.expr import TRUE, ZERO, Expr, ExprLike, conjunction, conjuncts, leaves, lift
from opwright.ir.op import Param
from opwright.ir.semantics import ROWS
from opwright.ir.tile import (
    Axis,
    Buffer,
    Builder,
    Def,
    For,
    If,
    Kernel,
    Operand,
    Stmt,
    Store,
    Value,
    lanes,
    statements,
)

# atan on 0..0.66 as x + x z P(z) / Q(z), z = x x (Cephes, double precision)
_ATAN_P = (-0.8750608600031904, -16.157537187333652, -75.00855792314705, -122.88666844901361,
           -64.85021904942025)  # fmt: skip
_ATAN_Q = (1.0, 24.858464901423062, 165.02700983169885, 432.88106049129027, 485.3903996359137,
           194.5506571482614)  # fmt: skip
# tanh on 0..0.625 in the same form
_TANH_P = (-0.9643991794250523, -99.28772310019185, -1614.6876844170845)
_TANH_Q = (1.0, 112.81167849163293, 2235.4883906010045, 4844.063053251255)


class BlockBuilder(Builder):
    """A builder for block programs: elementwise operations are those of block targets; what is
    known of an index leaves no mask.

    `ragged` are the conditions under which lanes lie in their range; a load keeps those of the
    axes that it varies over. `ranges` holds half-open ranges of loop variables and program indices;
    `params` are those of the operator, `bound` the indices of its folds: no loop takes their names.
    """

    def __init__(
        self,
        name: str,
        grid: tuple[ExprLike, ...],
        params: Iterable[Param] = (),
        bound: Collection[str] = (),
    ) -> None:
        super().__init__(name, grid, "lane")
        self.bound = bound
        self.params = {p.name: p.dtype for p in params}
        self.ragged: set[Expr] = set()
        self.ranges: dict[Expr, tuple[Expr, Expr]] = {}

    def ew(self, op: str, *operands: Operand, name: str | None = None) -> Value:
        expand = _EXPANSIONS.get(op)
        if expand is None:
            return super().ew(op, *operands, name=name)
        kinds = ROWS[op].kinds
        like = next((o.dtype for o in operands if isinstance(o, Value)), F32)
        args = [o if isinstance(o, Value) else self.full(o, like) for o in operands]
        assert len(args) == kinds.index(":")
        return expand(self, *args)

    def define(
        self,
        op: str,
        args: tuple[Value, ...],
        axes: tuple[Axis, ...],
        dtype: DType,
        attr: Any = None,
        name: str | None = None,
    ) -> Value:
        """Devices have no conversion between f64 and eight bits: it goes by f32."""
        if op in ("cast", "round") and dtype.kind == args[0].dtype.kind == "real":
            if {dtype.bits, args[0].dtype.bits} == {8, 64}:
                args = (super().define("cast", args, axes, F32),)
        return super().define(op, args, axes, dtype, attr, name)

    def load(
        self,
        b: Buffer,
        *index: ExprLike,
        mask: Expr = TRUE,
        other: float | int | bool | None = None,
        name: str | None = None,
    ) -> Value:
        own = set(lanes(*(lift(i) for i in index)))
        kept = [
            c
            for c in conjuncts(mask)
            if not self.holds(c) and (c not in self.ragged or own & set(lanes(c)))
        ]
        needed = conjunction(kept)
        return super().load(
            b, *index, mask=needed, other=other if needed is not TRUE else None, name=name
        )

    def index(self, e: ExprLike, dtype: DType | None = None, name: str | None = None) -> Value:
        e = lift(e)
        if e.kind == "bool":
            e = conjunction([c for c in conjuncts(e) if not self.holds(c)])
        kind = dtype or {"int": I64, "bool": BOOL, "real": F32}[e.kind]
        own = self.params.get(e.attr, kind) if e.op == "param" and e.kind == "real" else kind
        if own != kind:
            return self.cast(self.index(e, own), kind)  # it comes in its own type
        for block in self._stack:
            for s in block:
                if isinstance(s, Def) and s.value.op == "index":
                    if s.value.attr is e and s.value.dtype == kind:
                        return s.value
        return super().index(e, dtype, name)

    def loop(
        self,
        name: str,
        lo: ExprLike,
        hi: ExprLike,
        step: int,
        inits: Iterable[Value],
        body: Callable[..., Iterable[Value] | None],
    ) -> tuple[Value, ...]:
        def known(v: Expr, *state: Value) -> Iterable[Value] | None:
            self.ranges[v] = lift(lo), lift(hi)
            return body(v, *state)

        while name in self.bound:
            name = f"{name}_at"
        return super().loop(name, lo, hi, step, inits, known)

    def kernel(self) -> Kernel:
        """The kernel without values that nothing uses; one that reads what it writes has its
        statements in order, others only the effects of a lane."""
        k = super().kernel()
        body = _alive(k.body, _needed(k.body))
        return replace(k, body=body, order="statement" if _rereads(body) else "lane")

    def holds(self, cond: Expr) -> bool:
        """Whether a condition follows from the ranges of indices alone."""
        if cond.op == "le" and cond.args[0] is ZERO:
            return self.natural(cond.args[1])
        if cond.op == "lt":
            return self.ranges.get(cond.args[0], (None, None))[1] is cond.args[1]
        return False

    def natural(self, e: Expr) -> bool:
        if e in self.ranges:
            return self.natural(self.ranges[e][0])
        if e.op == "const":
            return bool(e.attr >= 0)
        if e.op in ("add", "mul", "floordiv"):
            return all(self.natural(a) for a in e.args)
        return e.op in ("size", "pid", "lane", "mod")


def _rereads(body: tuple[Stmt, ...]) -> bool:
    values = [s.value for s in statements(body) if isinstance(s, Def)]
    read = {v.attr.buffer.name for v in values if v.op == "load"}
    return any(isinstance(s, Store) and s.buffer.name in read for s in statements(body))


def _needed(body: tuple[Stmt, ...]) -> set[Value]:
    """Values that memory, branches, loop bounds or carried state depend on."""
    todo: list[Value] = []
    for s in statements(body):
        exprs: tuple[Expr, ...] = ()
        if isinstance(s, Store):
            todo.append(s.value)
            exprs = (*s.index, s.mask)
        elif isinstance(s, For):
            todo += [*s.inits, *s.yields]
            exprs = (s.lo, s.hi)
        elif isinstance(s, If):
            exprs = (s.cond,)
        todo += [x.attr for e in exprs for x in leaves(e, "value")]
    found: set[Value] = set()
    while todo:
        v = todo.pop()
        if v not in found:
            found.add(v)
            todo += v.args
            exprs = (v.attr,) if v.op == "index" else ()
            if v.op == "load":
                exprs = (*v.attr.index, v.attr.mask)
            todo += [x.attr for e in exprs for x in leaves(e, "value")]
    return found


def _alive(body: tuple[Stmt, ...], needed: set[Value]) -> tuple[Stmt, ...]:
    out: list[Stmt] = []
    for s in body:
        if isinstance(s, Def) and s.value not in needed:
            continue
        if isinstance(s, For):
            s = replace(s, body=_alive(s.body, needed))
        elif isinstance(s, If):
            s = replace(s, then=_alive(s.then, needed), other=_alive(s.other, needed))
        out.append(s)
    return tuple(out)


def _isnan(b: Builder, x: Value) -> Value:
    return b.ew("ne", x, x)


def _isinf(b: Builder, x: Value) -> Value:
    return b.ew("eq", b.ew("abs", x), math.inf)


def _sigmoid(b: Builder, x: Value) -> Value:
    return b.ew("div", 1.0, b.ew("add", b.ew("exp", b.ew("neg", x)), 1.0))


def _polynomial(b: Builder, coefficients: Sequence[float], x: Value) -> Value:
    """Highest power first."""
    out: Operand = coefficients[0]
    if out == 1.0:
        out, rest = b.ew("add", x, coefficients[1]), coefficients[2:]
    else:
        rest = coefficients[1:]
    for c in rest:
        out = b.ew("add", b.ew("mul", x, out), c)
    assert isinstance(out, Value)
    return out


def _signed(b: Builder, size: Value, x: Value) -> Value:
    """The value with the sign of x, NaN where x is."""
    return b.ew("select", b.ew("lt", x, 0.0), b.ew("neg", size), size)


def _tanh(b: Builder, x: Value) -> Value:
    far = b.ew("abs", x)
    t = b.ew("exp", b.ew("mul", far, -2.0))
    large = _signed(b, b.ew("div", b.ew("sub", 1.0, t), b.ew("add", t, 1.0)), x)
    z = b.ew("mul", x, x)
    ratio = b.ew("div", _polynomial(b, _TANH_P, z), _polynomial(b, _TANH_Q, z))
    small = b.ew("add", b.ew("mul", b.ew("mul", x, z), ratio), x)
    return b.ew("select", b.ew("lt", far, 0.625), small, large)


def _series(b: Builder, x: Value, first: int, step: int, limit: float) -> Value:
    """1 / first! + x^step / (first + step)! + ..., to rounding for |x| below the limit."""
    terms = [first]
    small = 2.0**-56 if x.dtype is F64 else 2.0**-27
    while limit ** (terms[-1] - first) * math.factorial(first) / math.factorial(terms[-1]) > small:
        terms.append(terms[-1] + step)
    power = b.ew("mul", x, x) if step == 2 else x
    return _polynomial(b, [1.0 / math.factorial(n) for n in reversed(terms)], power)


def _expm1(b: Builder, x: Value) -> Value:
    small = b.ew("mul", x, _series(b, x, 1, 1, 0.5))
    large = b.ew("sub", b.ew("exp", x), 1.0)
    return b.ew("select", b.ew("lt", b.ew("abs", x), 0.5), small, large)


def _sinh(b: Builder, x: Value) -> Value:
    far = b.ew("abs", x)
    root = b.ew("exp", b.ew("mul", far, 0.5))
    half = b.ew("mul", root, 0.5)
    large = b.ew("sub", b.ew("mul", half, root), b.ew("div", 0.5, b.ew("mul", root, root)))
    small = b.ew("mul", x, _series(b, x, 1, 2, 1.0))
    return b.ew("select", b.ew("lt", far, 1.0), small, _signed(b, large, x))


def _cosh(b: Builder, x: Value) -> Value:
    root = b.ew("exp", b.ew("mul", b.ew("abs", x), 0.5))
    half = b.ew("mul", root, 0.5)
    return b.ew("add", b.ew("mul", half, root), b.ew("div", 0.5, b.ew("mul", root, root)))


def _log1p(b: Builder, x: Value) -> Value:
    """log(u) x / (u - 1) with u = 1 + x as it was rounded."""
    u = b.ew("add", x, 1.0)
    scaled = b.ew("mul", b.ew("log", u), b.ew("div", x, b.ew("sub", u, 1.0)))
    plain = b.ew("select", b.ew("eq", u, 1.0), x, scaled)
    return b.ew("select", b.ew("eq", u, math.inf), u, plain)


def _tan(b: Builder, x: Value) -> Value:
    return b.ew("div", b.ew("sin", x), b.ew("cos", x))


def _atan(b: Builder, x: Value) -> Value:
    far = b.ew("abs", x)
    steep, middle = b.ew("lt", 2.414213562373095, far), b.ew("lt", 0.66, far)
    turned = b.ew("div", -1.0, far)
    shifted = b.ew("div", b.ew("sub", far, 1.0), b.ew("add", far, 1.0))
    y = b.ew("select", steep, turned, b.ew("select", middle, shifted, far))
    start = b.ew("select", middle, b.full(math.pi / 4, x.dtype), b.full(0.0, x.dtype))
    start = b.ew("select", steep, b.full(math.pi / 2, x.dtype), start)
    z = b.ew("mul", y, y)
    ratio = b.ew("div", _polynomial(b, _ATAN_P, z), _polynomial(b, _ATAN_Q, z))
    return _signed(b, b.ew("add", start, b.ew("add", b.ew("mul", b.ew("mul", y, z), ratio), y)), x)


def _asin(b: Builder, x: Value) -> Value:
    across = b.ew("sqrt", b.ew("mul", b.ew("sub", 1.0, x), b.ew("add", x, 1.0)))
    return _atan(b, b.ew("div", x, across))


def _acos(b: Builder, x: Value) -> Value:
    half = b.ew("sqrt", b.ew("div", b.ew("sub", 1.0, x), b.ew("add", x, 1.0)))
    return b.ew("mul", _atan(b, half), 2.0)


def _pow(b: Builder, x: Value, y: Value) -> Value:
    """2^(y log2 |x|) with the sign of an odd power; computed in f64, for y log2 |x| is large."""
    base, power = b.cast(x, F64), b.cast(y, F64)
    size = b.ew("exp2", b.ew("mul", power, b.ew("log2", b.ew("abs", base))))
    near = b.ew("lt", b.ew("abs", power), 2.0**52)
    floor = b.ew("floor", b.ew("select", near, power, 0.0))
    whole = b.ew("eq", b.cast(floor, F64), power)
    odd = b.ew("and", near, b.ew("eq", b.ew("mod", floor, b.full(2, I64)), b.full(1, I64)))
    odd = b.ew("and", odd, whole)
    even = b.ew("or", whole, b.ew("not", near))
    wrong = b.ew("select", even, size, math.nan)
    minus = b.ew("select", odd, b.ew("neg", size), wrong)
    below = b.ew("and", b.ew("lt", base, 0.0), b.ew("lt", -math.inf, base))
    out = b.ew("select", below, minus, size)
    one = b.ew("or", b.ew("eq", power, 0.0), b.ew("eq", base, 1.0))
    return b.cast(b.ew("select", one, 1.0, out), x.dtype)


def _nearest(b: Builder, x: Value) -> Value:
    """The nearest integer, of two the even one."""
    low = b.ew("floor", x)
    rest = b.ew("sub", x, b.cast(low, x.dtype))
    odd = b.ew("eq", b.ew("mod", low, b.full(2, I64)), b.full(1, I64))
    up = b.ew("or", b.ew("lt", 0.5, rest), b.ew("and", b.ew("eq", rest, 0.5), odd))
    return b.ew("select", up, b.ew("add", low, b.full(1, I64)), low)


_EXPANSIONS: dict[str, Callable[..., Value]] = {
    "isnan": _isnan, "isinf": _isinf, "sigmoid": _sigmoid, "tanh": _tanh, "expm1": _expm1,
    "sinh": _sinh, "cosh": _cosh, "log1p": _log1p, "tan": _tan, "atan": _atan, "asin": _asin,
    "acos": _acos, "pow": _pow, "nearest": _nearest,
}  # fmt: skip
