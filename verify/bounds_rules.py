"""How errors pass through the operations of OpIR: one rule per row of the semantics table.

A rule gives the error of a result from the errors of its operands, as an expression over the exact
values. In the mode `err` roundings add up, in the mode `dev` n roundings of one sum count as
sqrt(n). The slack for what a right kernel may do otherwise is here, too: a sum's rounding is taken
of its terms' magnitudes, so that products may be multiplied out, terms reassociated and
exponentials folded; a quotient may be a product with a reciprocal.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import numpy as np

from opwright.ir.dtypes import DTYPES, F32, F64, DType, decode, encode
from opwright.ir.expr import (
    FALSE,
    LEAVES,
    ONE,
    TRUE,
    Expr,
    Fold,
    call,
    const,
    fold,
    free_vars,
    leaf,
    read,
    read_parts,
    reduction,
    rename,
    rounded,
    toreal,
    var,
    walk,
)
from opwright.ir.op import Tensor
from opwright.ir.semantics import ARG_FOLDS, ROWS

ERR, DEV = "err", "dev"
NOTHING = const(0.0)
UNBOUNDED = const(math.inf)
# units in the last place that a fast implementation may need beside the row's own
GENEROUS = {"div": 2.0, "sqrt": 1.0}
WHOLE = 2**24  # integers up to here are exact in f32
JUMPS = ("floor", "ceil", "trunc", "nearest")
_NONNEGATIVE = ("exp", "exp2", "sqrt", "rsqrt", "sigmoid", "cosh", "abs", "rand")


class NotDerivable(ValueError):
    """Why no bound follows from an operator."""


def unit(d: DType) -> float:
    """Largest relative error of one rounding to nearest."""
    return 2.0 ** -(d.mantissa + 1)


def storage(d: DType, bits: int, value: Expr) -> Expr:
    """What storing a value costs that was computed with more fraction bits."""
    if d.kind != "real" or bits <= d.mantissa:
        return NOTHING
    relative = _times(const(unit(d)), call("abs", value))
    if d.exponent >= 8:
        return relative
    return call("max", relative, 2.0 ** (-d.bias - d.mantissa))


def _is(x: Expr, value: float) -> bool:
    return x.op == "const" and x.kind == "real" and x.attr == value


def _times(a: Expr, b: Expr) -> Expr:
    """A product without zeros and ones, its constants in front."""
    if a is NOTHING or b is NOTHING:
        return NOTHING
    if _is(a, 1.0):
        return b
    if _is(b, 1.0):
        return a
    if b.op == "const" and a.op != "const":
        a, b = b, a
    if a.op == "const" and b.op == "const":
        return const(a.attr * b.attr)
    if a.op == "const" and b.op == "mul" and b.args[0].op == "const":
        return call("mul", const(a.attr * b.args[0].attr), b.args[1])
    if b.op == "mul" and b.args[0].op == "const":
        return call("mul", b.args[0], call("mul", a, b.args[1]))
    if a.op == "mul" and a.args[0].op == "const":
        return call("mul", a.args[0], _times(a.args[1], b))
    return call("mul", a, b)


def _plus(parts: Iterable[Expr]) -> Expr:
    """A sum without zeros; equal terms are counted."""
    shares: dict[Expr, float] = {}
    for p in parts:
        for s in _summands(p):
            factor, rest = _split(s)
            shares[rest] = shares.get(rest, 0.0) + factor
    out: Expr | None = None
    for rest, factor in shares.items():
        term = _times(const(factor), rest)
        if term is not NOTHING:
            out = term if out is None else call("add", out, term)
    return NOTHING if out is None else out


def _split(x: Expr) -> tuple[float, Expr]:
    if x.op == "const":
        return float(x.attr), const(1.0)
    if x.op == "mul" and x.args[0].op == "const":
        return float(x.args[0].attr), x.args[1]
    return 1.0, x


def _summands(x: Expr) -> list[Expr]:
    if x.op == "add":
        return [*_summands(x.args[0]), *_summands(x.args[1])]
    return [] if x is NOTHING else [x]


def _factors(x: Expr) -> list[Expr]:
    return [*_factors(x.args[0]), *_factors(x.args[1])] if x.op == "mul" else [x]


def _product(parts: Iterable[Expr]) -> Expr:
    out = const(1.0)
    for p in parts:
        out = _times(out, p)
    return out


def _either(a: Expr, b: Expr) -> Expr:
    return call("or", a, b)


def _beyond(a: Expr, b: Expr) -> Expr:
    """Whether a > b, also where a is not a number."""
    return ~call("le", a, b)


def magnitude(x: Expr) -> Expr:
    """|x|, as a product where x is one, so that a sum of it stays a contraction."""
    if x.op == "const":
        return const(abs(float(x.attr)))
    if x.op in _NONNEGATIVE:
        return x
    if x.op == "mul":
        a, b = x.args
        return x if a is b else _times(magnitude(a), magnitude(b))
    if x.op in ("neg", "cast"):
        return magnitude(x.args[0])
    if x.op == "select":
        return call("select", x.args[0], magnitude(x.args[1]), magnitude(x.args[2]))
    if x.op == "toreal" and not any(n.op in ("read", "sub", "neg", "param") or (
        n.op == "const" and n.attr < 0) for n in walk(x)):  # fmt: skip
        return x
    if x.op == "fold" and x.attr.kind == "sum" and magnitude(Fold(x).term) is Fold(x).term:
        return x
    return call("abs", x)


def _exactly(value: float, d: DType) -> bool:
    if not math.isfinite(value):
        return True
    return float(decode(encode(np.array([value]), d), d)[0]) == value


def _power_of_two(x: Expr) -> bool:
    return x.op == "const" and x.attr != 0 and abs(math.frexp(float(x.attr))[0]) == 0.5


class Rules:
    """Errors of expressions over tensors whose companions are known."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.companions: dict[str, dict[str, str]] = {ERR: {}, DEV: {}}
        self.doubts: dict[str, str] = {}
        self.inner: dict[str, Expr] = {}  # tensor that stands for a fold -> the fold
        self.states: dict[str, Expr] = {}  # states of folds around: mode:name -> error
        self.memo: dict[tuple[str, Expr], Expr] = {}
        self.count = 0
        self.total = _plus

    # -- precision --------------------------------------------------------------------------------

    def precision(self, x: Expr) -> DType | None:
        """What a value is computed in at least; None for what is given exactly."""
        if x.kind != "real" or x.op in LEAVES or x.op in ("toreal", "round"):
            return None
        if x.op == "cast":
            mark: DType = x.attr
            return mark
        if x.op == "read":
            name = x.attr[0]
            if name in self.inner:
                return self.precision(self.inner[name])
            t = self.tensors[name]
            if t.body is None:
                return F64 if t.dtype is F64 else None
            return t.dtype
        if x.op == "fold":
            f = Fold(x)
            if f.attr.acc is not None:
                return f.attr.acc
            if f.kind is None:
                return F32
            own = self.precision(f.term)
            return own if f.kind in ("max", "min") else _wider(own, F32)
        parts = [p for p in map(self.precision, x.args) if p is not None]
        if x.op in ("select", "max", "min", "neg", "abs"):
            return max(parts, key=lambda d: d.mantissa, default=None)
        return max(parts, key=lambda d: d.mantissa, default=F32)

    def bits(self, x: Expr) -> int:
        """Fraction bits that a value may hold."""
        if x.op == "cast" or x.op == "round":
            return min(self.bits(x.args[0]), int(x.attr.mantissa))
        if x.op == "const":
            held = (DTYPES[n] for n in ("f8e5m2", "bf16", "f16", "f32", "f64"))
            return next(d.mantissa for d in held if _exactly(float(x.attr), d))
        if x.op == "read":
            name, _, fill = read_parts(x)
            more = self.bits(fill) if fill is not None else 0
            if name in self.inner:
                return max(more, self.bits(self.inner[name]))
            return max(more, self.tensors[name].dtype.mantissa)
        if x.op in ("neg", "abs"):
            return self.bits(x.args[0])
        if x.op in ("max", "min"):
            return max(map(self.bits, x.args))
        if x.op == "select":
            return max(map(self.bits, x.args[1:]))
        if x.op == "fold" and x.attr.kind in ("max", "min"):
            return self.bits(Fold(x).term)
        return (self.precision(x) or F64).mantissa

    # -- errors -----------------------------------------------------------------------------------

    def error(self, x: Expr, mode: str) -> Expr:
        """The error of a real or an integer value, as a real expression that is never negative."""
        if x.op == "state":
            return self.states.get(f"{mode}:{x.attr}", NOTHING)
        if x.op in LEAVES:
            return NOTHING
        key = (mode, x)
        if key not in self.memo:
            self.memo[key] = self._error(x, mode)
        return self.memo[key]

    def _error(self, x: Expr, mode: str) -> Expr:
        if x.op == "read":
            return self._read(x, mode)
        if x.op == "fold":
            return _Reduction(self, Fold(x), mode).error()
        if x.op == "cast":
            return self._cast(x, mode)
        if x.op == "round":
            return self._jump(x.args[0], lambda a: rounded(a, x.attr))
        if x.op in JUMPS:
            return self._jump(x.args[0], lambda a: toreal(call(x.op, a)))
        if x.op == "select":
            return self._select(x, mode)
        if x.op == "toreal":
            return self._toreal(x, mode)
        rule = _RULES.get(x.op)
        if rule is None:
            errors = [self.error(a, mode) for a in x.args if a.kind != "bool"]
            if all(e is NOTHING for e in errors):
                return NOTHING
            if x.kind == "int":  # what is exact or may be anything
                return call("select", call("lt", 0.0, _plus(errors)), UNBOUNDED, NOTHING)
            raise NotDerivable(f"no rule for the error of {x.op}")
        return rule(self, x, mode)

    def operand(self, x: Expr, n: int, mode: str) -> Expr:
        """The error of an operand; a constant is rounded to the precision that reads it."""
        a = x.args[n]
        if a.op == "const" and a.kind == "real":
            p = self.precision(x) or F32
            if _exactly(float(a.attr), p):
                return NOTHING
            return const(unit(p) * abs(float(a.attr)))
        return self.error(a, mode)

    def rounding(self, x: Expr, of: Expr | None = None, ulp: float | None = None) -> Expr:
        """The rounding of an operation's result, or that of terms of this magnitude."""
        if x.kind != "real":
            return NOTHING
        row = ROWS[x.op]
        ulps = max(row.ulp, GENEROUS.get(x.op, 0.0)) if ulp is None else ulp
        scale = 2 * ulps * unit(self.precision(x) or F32)
        return _times(const(scale), magnitude(x) if of is None else of)

    def _read(self, x: Expr, mode: str) -> Expr:
        name, index, fill = read_parts(x)
        astray = _plus(self.error(i, ERR) for i in index)
        if name in self.inner:
            return self.error(self.inner[name], mode)
        own = self.companions[mode].get(name)
        at_fill = NOTHING if fill is None else self.error(fill, mode)
        out = NOTHING
        if own is not None:
            out = read(own, index, "real", None if fill is None else at_fill)
        if astray is not NOTHING:
            out = call("select", call("lt", 0.0, astray), UNBOUNDED, out)
        return out

    def _cast(self, x: Expr, mode: str) -> Expr:
        a = x.args[0]
        if a.op == "const":
            value = float(a.attr)
            return NOTHING if _exactly(value, x.attr) else const(unit(x.attr) * abs(value))
        inner = self.error(a, mode)
        if x.kind != "real":
            return inner
        return _plus([inner, storage(x.attr, self.bits(a), a)])

    def _toreal(self, x: Expr, mode: str) -> Expr:
        a = x.args[0]
        own = self.error(a, ERR)
        if not any(n.op == "read" for n in walk(a)):
            return own
        large = _times(const(unit(F32)), call("abs", x))
        return _plus([own, call("select", call("abs", x) <= float(WHOLE), NOTHING, large)])

    def _jump(self, a: Expr, function: Callable[[Expr], Expr]) -> Expr:
        """A step function: how far it goes over the interval of the argument."""
        e = self.error(a, ERR)
        if e is NOTHING:
            return NOTHING
        here = function(a)
        up, down = (call("abs", function(end) - here) for end in (a + e, a - e))
        return call("max", up, down)

    def _select(self, x: Expr, mode: str) -> Expr:
        c, a, b = x.args
        ea, eb = (self.operand(x, n, mode) for n in (1, 2))
        sure = NOTHING if ea is NOTHING and eb is NOTHING else call("select", c, ea, eb)
        doubt = self.doubt(c)
        if doubt is FALSE:
            return sure
        gap = toreal(call("abs", a - b))
        return call("select", doubt, _plus([ea, eb, gap]), sure)

    # -- truth values -----------------------------------------------------------------------------

    def doubt(self, x: Expr) -> Expr:
        """Whether a truth value may come out otherwise."""
        key = ("doubt", x)
        if key not in self.memo:
            self.memo[key] = self._doubt(x)
        return self.memo[key]

    def _doubt(self, x: Expr) -> Expr:
        if x.op in LEAVES or x.op in ("isnan", "isinf"):
            return FALSE
        if x.op == "read":
            name, index, fill = read_parts(x)
            astray = _plus(self.error(i, ERR) for i in index)
            if name in self.inner:
                return self.doubt(self.inner[name])
            own = self.doubts.get(name)
            out = FALSE if own is None else read(own, index, "bool", fill and FALSE)
            return out if astray is NOTHING else _either(out, call("lt", 0.0, astray))
        if x.op in ("not", "cast"):
            return self.doubt(x.args[0])
        if x.op in ("and", "or"):
            return self._joined(x)
        if x.op in ("lt", "le", "eq", "ne", "approx") and x.args[0].kind != "bool":
            a, b = x.args
            e = _plus(self.operand(x, n, ERR) for n in (0, 1))
            if e is NOTHING:
                return FALSE
            near = call("le", toreal(call("abs", a - b)), e)
            return near if e.op == "const" else call("and", call("lt", 0.0, e), near)
        if x.op == "select":
            c, a, b = x.args
            d, da, db = (self.doubt(p) for p in x.args)
            out = FALSE if da is FALSE and db is FALSE else call("select", c, da, db)
            return out if d is FALSE else _either(out, d)
        if x.op == "fold" and x.attr.kind in ("any", "all"):
            f = Fold(x)
            term = _either(self.doubt(f.term), self.doubt(f.guard))
            if term is FALSE:
                return FALSE
            guard = f.guard if self.doubt(f.guard) is FALSE else TRUE
            return reduction("any", f.binders, f.ranges, term, guard)
        parts = [self.doubt(a) for a in x.args if a.kind == "bool"]
        if any(p is not FALSE for p in parts):
            raise NotDerivable(f"no rule for the doubt of {x.op}")
        return FALSE

    def _joined(self, x: Expr) -> Expr:
        a, b = x.args
        da, db = self.doubt(a), self.doubt(b)
        if da is FALSE and db is FALSE:
            return FALSE
        if x.op == "or":
            a, b = ~a, ~b
        both = call("and", _either(a, da) if da is not FALSE else a, _either(b, db)
                    if db is not FALSE else b)  # fmt: skip
        return call("and", _either(da, db), both)

    def fresh(self, binder: str) -> str:
        self.count += 1
        return f"{binder}~{self.count}"


def _wider(a: DType | None, b: DType) -> DType:
    return b if a is None or a.mantissa < b.mantissa else a


# -- reductions ------------------------------------------------------------------------------------


class _Reduction:
    def __init__(self, rules: Rules, f: Fold, mode: str) -> None:
        self.rules, self.fold, self.mode = rules, f, mode

    def error(self) -> Expr:
        kind = self.fold.kind
        if kind is None:
            return self.derived()
        if kind in ARG_FOLDS:
            return self.place(ARG_FOLDS[kind])
        unsure = self.rules.doubt(self.fold.guard)
        if kind == "sum":
            return _plus([self.sum(), self.swing(unsure)])
        out = self.extreme() if kind in ("max", "min") else self.product()
        if unsure is FALSE:
            return out
        some = self.again("any", unsure, TRUE)
        return call("select", some, UNBOUNDED, out)

    def again(self, kind: str, term: Expr, guard: Expr | None = None) -> Expr:
        f = self.fold
        return reduction(kind, f.binders, f.ranges, term, f.guard if guard is None else guard)

    def total(self, x: Expr, guard: Expr | None = None) -> Expr:
        """The sum of an expression; what does not move with it goes in front."""
        out = []
        binders = set(self.fold.binders)
        for s in _summands(x):
            still: list[Expr] = []
            moving: list[Expr] = []
            for part in _factors(s):
                (moving if free_vars(part) & binders else still).append(part)
            front = _product(still)
            if moving:
                out.append(_times(front, self.again("sum", _product(moving), guard)))
            else:
                out.append(_times(front, self.length()))
        return _plus(out)

    def length(self) -> Expr:
        """How many terms there are."""
        f = self.fold
        nested = any((free_vars(lo) | free_vars(hi)) & set(f.binders) for lo, hi in f.ranges)
        if f.guard is TRUE and not nested:
            return _product(toreal(_span(lo, hi)) for lo, hi in f.ranges)
        return toreal(self.again("sum", ONE))

    def sum(self) -> Expr:
        f, rules = self.fold, self.rules
        inner = self.total(rules.error(f.term, self.mode))
        if f.term.kind != "real":
            return inner
        additions = self.length() - 1.0
        u = unit(rules.precision(f.node) or F32)
        if additions.op == "const" and additions.attr <= 0:
            return inner
        terms = self.again("sum", magnitude(f.term))
        few = call("max", additions, 0.0)
        if self.mode == DEV and self.moves():
            growth = _times(const(u), call("sqrt", few))
        elif u > 2.0**-20:  # (1 + u)^n - 1
            growth = call("expm1", _times(const(u), few))
        else:
            growth = _times(const(u), few)
        return _plus([inner, _times(growth, terms)])

    def moves(self) -> bool:
        """Whether data decides the terms, so that their roundings have no common direction."""
        binders = set(self.fold.binders)
        return any(
            x.op == "read" and x.kind == "real" and free_vars(x) & binders
            for x in walk(self.fold.term)
        )

    def swing(self, unsure: Expr) -> Expr:
        """Terms that a guard may or may not take."""
        if unsure is FALSE:
            return NOTHING
        f = self.fold
        either = call("and", unsure, TRUE)
        size = toreal(call("abs", f.term))
        return self.again("sum", _plus([size, self.rules.error(f.term, self.mode)]), either)

    def extreme(self) -> Expr:
        e = self.rules.error(self.fold.term, self.mode)
        if e is NOTHING:
            return e
        if not free_vars(e) & set(self.fold.binders):
            return e
        return call("max", NOTHING, self.again("max", e))

    def product(self) -> Expr:
        """(|t| + e) multiplied up with a rounding each, less the product itself."""
        f, rules = self.fold, self.rules
        e = rules.error(f.term, self.mode)
        if f.term.kind != "real" and e is NOTHING:
            return e
        if f.term.kind != "real":
            raise NotDerivable("a product of integers that hang on rounding")
        size = magnitude(f.term)
        most = self.again("prod", _plus([size, e]))
        exact = self.again("prod", size)
        count = call("max", self.length() - 1.0, 0.0)
        grown = count if self.mode == ERR else call("sqrt", count)
        u = const(unit(rules.precision(f.node) or F32))
        return _plus([call("abs", most - exact), _times(call("expm1", _times(u, grown)), most)])

    def place(self, kind: str) -> Expr:
        """Where an extreme is: anywhere, if another element comes near."""
        f, rules = self.fold, self.rules
        e = rules.error(f.term, ERR)
        unsure = rules.doubt(f.guard)
        if e is NOTHING and unsure is FALSE:
            return NOTHING
        if unsure is not FALSE:
            raise NotDerivable("the place of an extreme under a guard that hangs on rounding")
        (binder,) = f.binders
        other = rules.fresh(binder)
        best = self.again(kind, f.term)
        most = self.again("max", e)
        term, mine, guard = (rename(p, {binder: other}) for p in (f.term, e, f.guard))
        reach = _plus([mine, most])
        rival = call("and", call("ne", var(other), f.node),
                     call("le", toreal(call("abs", best - term)), reach))  # fmt: skip
        if e.op != "const":
            rival = call("and", rival, call("lt", 0.0, reach))
        found = reduction("any", (other,), f.ranges, rival, guard)
        return call("select", found, UNBOUNDED, NOTHING)

    def derived(self) -> Expr:
        """A fold of several states: their errors are further states."""
        f, rules = self.fold, self.rules
        if rules.doubt(f.guard) is not FALSE:
            raise NotDerivable("a fold under a guard that hangs on rounding")
        kinds = [i.kind for i in f.init]
        if any(k == "bool" for k in kinds):
            raise NotDerivable("a fold whose state is a truth value")
        modes = (ERR, DEV) if self.mode == DEV else (ERR,)
        names = {(m, s): f"{s}~{m}" for m in modes for s in f.attr.states}
        outer = dict(rules.states)
        for (m, s), n in names.items():
            rules.states[f"{m}:{s}"] = leaf("state", n, "real")
        memo, rules.memo = rules.memo, {}
        try:
            init = [rules.error(i, m) for m in modes for i in f.init]
            step = [rules.error(s, m) for m in modes for s in f.step]
            finish = rules.error(f.finish, self.mode)
        finally:
            rules.memo, rules.states = memo, outer
        states = (*f.attr.states, *names.values())
        return fold(
            f.binders, f.ranges, f.guard, states, (*f.init, *init), (*f.step, *step),
            (*f.merge, *step), finish, f.attr.acc,
        )  # fmt: skip


def _span(lo: Expr, hi: Expr) -> Expr:
    return hi if lo.op == "const" and lo.attr == 0 else hi - lo


# -- rows of the semantics table -------------------------------------------------------------------

Rule = Callable[[Rules, Expr, str], Expr]


def _sum(r: Rules, x: Expr, mode: str) -> Expr:
    a, b = x.args
    parts = [r.operand(x, 0, mode), r.operand(x, 1, mode)]
    if x.kind == "real" and not (_is(a, 0.0) or _is(b, 0.0)):
        parts.append(r.rounding(x, _plus([magnitude(a), magnitude(b)])))
    return _plus(parts)


def _mul(r: Rules, x: Expr, mode: str) -> Expr:
    a, b = x.args
    ea, eb = r.operand(x, 0, mode), r.operand(x, 1, mode)
    p, q = (toreal(n) if n.kind == "int" else n for n in (a, b))
    parts = [_times(magnitude(p), eb), _times(magnitude(q), ea)]
    if ea is not NOTHING and eb is not NOTHING and "const" not in (ea.op, eb.op):
        parts.append(_times(ea, eb))
    if x.kind == "real" and not (_power_of_two(a) or _power_of_two(b)):
        parts.append(r.rounding(x))
    return _plus(parts)


def _div(r: Rules, x: Expr, mode: str) -> Expr:
    b = x.args[1]
    ea, eb = r.operand(x, 0, mode), r.operand(x, 1, mode)
    own = NOTHING if _power_of_two(b) else r.rounding(x)
    if eb is NOTHING:
        return _plus([NOTHING if ea is NOTHING else call("div", ea, magnitude(b)), own])
    size = magnitude(b)
    moved = call("div", _plus([ea, _times(magnitude(x), eb)]), size - eb)
    if b.op == "const":
        return _plus([moved, own])
    return _plus([call("select", call("lt", eb, size), moved, UNBOUNDED), own])


def _fma(r: Rules, x: Expr, mode: str) -> Expr:
    a, b, c = x.args
    ea, eb, ec = (r.operand(x, n, mode) for n in range(3))
    product = _times(magnitude(a), magnitude(b))
    return _plus([_times(magnitude(a), eb), _times(magnitude(b), ea), ec,
                  r.rounding(x, _plus([product, magnitude(c)]))])  # fmt: skip


def _same(r: Rules, x: Expr, mode: str) -> Expr:
    return r.error(x.args[0], mode)


def _larger(r: Rules, x: Expr, mode: str) -> Expr:
    a, b = r.operand(x, 0, mode), r.operand(x, 1, mode)
    if a is NOTHING or a is b:
        return b
    return a if b is NOTHING else call("max", a, b)


def _grown(factor: float, offset: float) -> Rule:
    """exp and its kin: e^(a + e) - e^a = e^a (e^e - 1); what is 0 stays 0."""

    def rule(r: Rules, x: Expr, mode: str) -> Expr:
        e = r.operand(x, 0, mode)
        size = x if offset == 0 else x + offset
        parts = [r.rounding(x)]
        if e is not NOTHING:
            parts.insert(0, _times(size, call("expm1", _times(const(factor), e))))
        found = _plus(parts)
        if e is NOTHING or e.op == "const" or offset:
            return found
        return call("select", call("eq", x, 0.0), NOTHING, found)

    return rule


def _log(factor: float, offset: float) -> Rule:
    """log(a) - log(a - e) = -log(1 - e / a)."""

    def rule(r: Rules, x: Expr, mode: str) -> Expr:
        e = r.operand(x, 0, mode)
        if e is NOTHING:
            return r.rounding(x)
        a = x.args[0] if offset == 0 else x.args[0] + offset
        moved = _times(const(factor), -call("log1p", -call("div", e, a)))
        return _plus([call("select", call("lt", e, a), moved, UNBOUNDED), r.rounding(x)])

    return rule


def _sqrt(r: Rules, x: Expr, mode: str) -> Expr:
    a, e = x.args[0], r.operand(x, 0, mode)
    if e is NOTHING:
        return r.rounding(x)
    moved = call("div", e, x + call("sqrt", a - e))
    return _plus([call("select", call("lt", e, a), moved, call("sqrt", e)), r.rounding(x)])


def _rsqrt(r: Rules, x: Expr, mode: str) -> Expr:
    a, e = x.args[0], r.operand(x, 0, mode)
    if e is NOTHING:
        return r.rounding(x)
    moved = call("rsqrt", a - e) - x
    return _plus([call("select", call("lt", e, a), moved, UNBOUNDED), r.rounding(x)])


def _slope(bound: Callable[[Expr, Expr, Expr], Expr]) -> Rule:
    """A smooth function: the error times the largest slope nearby, from (x, argument, error)."""

    def rule(r: Rules, x: Expr, mode: str) -> Expr:
        e = r.operand(x, 0, mode)
        moved = NOTHING if e is NOTHING else _times(bound(x, x.args[0], e), e)
        return _plus([moved, r.rounding(x)])

    return rule


def _nearest_to_zero(a: Expr, e: Expr) -> Expr:
    return call("max", call("abs", a) - e, 0.0)


def _square(x: Expr) -> Expr:
    return call("mul", x, x)


def _arc(r: Rules, x: Expr, mode: str) -> Expr:
    """asin and acos, whose slope has no bound at 1."""
    a, e = x.args[0], r.operand(x, 0, mode)
    if e is NOTHING:
        return r.rounding(x)
    far = call("abs", a) + e
    inside = call("mul", e, call("rsqrt", 1.0 - _square(far)))
    edge = call("mul", math.pi, call("sqrt", e))
    return _plus([call("select", call("lt", far, 1.0), inside, edge), r.rounding(x)])


def _pow(r: Rules, x: Expr, mode: str) -> Expr:
    """Also by way of a logarithm, whose product with the exponent is rounded."""
    a, b = x.args
    ea, eb = r.operand(x, 0, mode), r.operand(x, 1, mode)
    size = call("abs", x)
    if b.op == "const" and float(b.attr).is_integer() and 0 < b.attr <= 4:
        parts = [r.rounding(x)]
    else:
        scale = const(8 * unit(r.precision(x) or F32))
        power = call("abs", call("mul", b, call("log", call("abs", a))))
        parts = [_times(size, _times(scale, power)), r.rounding(x)]
        if eb is not NOTHING:
            parts.append(_times(size, _times(call("abs", call("log", call("abs", a))), eb)))
    if ea is not NOTHING:
        rest = call("abs", call("mul", b, call("pow", call("abs", a), b - 1.0)))
        parts.append(_times(rest, ea))
    found = _plus(parts)
    return call("select", call("eq", a, 0.0), ea, found) if a.op != "const" else found


def _normal(r: Rules, x: Expr, mode: str) -> Expr:
    return r.rounding(x, call("max", call("abs", x), 1.0), 4.0)


def _none(r: Rules, x: Expr, mode: str) -> Expr:
    return NOTHING


_RULES: dict[str, Rule] = {
    "add": _sum,
    "sub": _sum,
    "mul": _mul,
    "div": _div,
    "fma": _fma,
    "neg": _same,
    "abs": _same,
    "min": _larger,
    "max": _larger,
    "pow": _pow,
    "exp": _grown(1.0, 0.0),
    "exp2": _grown(math.log(2), 0.0),
    "expm1": _grown(1.0, 1.0),
    "log": _log(1.0, 0.0),
    "log2": _log(1 / math.log(2), 0.0),
    "log1p": _log(1.0, 1.0),
    "sqrt": _sqrt,
    "rsqrt": _rsqrt,
    "sin": _slope(lambda x, a, e: const(1.0)),
    "cos": _slope(lambda x, a, e: const(1.0)),
    "tan": _slope(lambda x, a, e: call("exp", 2.0 * e * (call("abs", x) + 1.0))
                  * (_square(x) + 1.0)),
    "sinh": _slope(lambda x, a, e: (call("abs", x) + 1.0) * call("exp", e)),
    "cosh": _slope(lambda x, a, e: call("mul", x, call("exp", e))),
    "tanh": _slope(lambda x, a, e: call("mul", 1.0 - _square(x), call("exp", 2.0 * e))),
    "asin": _arc,
    "acos": _arc,
    "atan": _slope(lambda x, a, e: call("div", 1.0, 1.0 + _square(_nearest_to_zero(a, e)))),
    "erf": _slope(lambda x, a, e: call(
        "mul", 2 / math.sqrt(math.pi), call("exp", -_square(_nearest_to_zero(a, e))))),
    "sigmoid": _slope(lambda x, a, e: call("mul", call("mul", x, 1.0 - x), call("exp", e))),
    "randn": _normal,
    "rand": _none,
}  # fmt: skip
