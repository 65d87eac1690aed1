"""How errors pass through expressions of OpIR.

A rule gives the error of a result from the errors of its operands, as an expression over the exact
values. In the mode `err` roundings add up, in the mode `dev` n roundings of one sum count as
sqrt(n). The slack for what a right kernel may do otherwise is in the rules, too: a sum's rounding
is taken of its terms' magnitudes, so that products may be multiplied out, terms reassociated and
exponentials folded; a quotient may be a product with a reciprocal.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from opwright.ir.dtypes import DTYPES, F32, F64, DType
from opwright.ir.expr import (
    FALSE,
    LEAVES,
    TRUE,
    Expr,
    Fold,
    call,
    const,
    read,
    read_parts,
    reduction,
    rounded,
    toreal,
    walk,
)
from opwright.ir.op import Tensor
from opwright.ir.semantics import ROWS
from opwright.verify.bounds_folds import Reduction
from opwright.verify.bounds_rows import ROW_RULES
from opwright.verify.bounds_terms import (
    DEV,
    ERR,
    GENEROUS,
    JUMPS,
    NONNEGATIVE,
    NOTHING,
    UNBOUNDED,
    WHOLE,
    NotDerivable,
    either,
    exactly,
    plus,
    storage,
    times,
    unit,
    wider,
)


class Rules:
    """Errors of expressions over tensors whose companions are known."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = tensors
        self.companions: dict[str, dict[str, str]] = {ERR: {}, DEV: {}}
        self.doubts: dict[str, str] = {}
        self.positive: set[str] = set()  # tensors that are never negative
        self.inner: dict[str, Expr] = {}  # tensor that stands for a fold -> the fold
        self.states: dict[str, Expr] = {}  # states of folds around: mode:name -> error
        self.memo: dict[tuple[str, Expr], Expr] = {}
        self.count = 0

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
            return own if f.kind in ("max", "min") else wider(own, F32)
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
            return next(d.mantissa for d in held if exactly(float(x.attr), d))
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

    def magnitude(self, x: Expr) -> Expr:
        """|x|, as a product where x is one, so that a sum of it stays a contraction."""
        if x.op == "const":
            return const(abs(float(x.attr)))
        if x.op in NONNEGATIVE:
            return x
        if x.op == "read" and x.attr[0] in self.positive and len(x.args) == x.attr[1]:
            return x
        if x.op == "mul":
            a, b = x.args
            return x if a is b else times(self.magnitude(a), self.magnitude(b))
        if x.op in ("neg", "cast"):
            return self.magnitude(x.args[0])
        if x.op == "select":
            return call("select", x.args[0], self.magnitude(x.args[1]), self.magnitude(x.args[2]))
        if x.op == "toreal" and not any(n.op in ("read", "sub", "neg", "param") or (
            n.op == "const" and n.attr < 0) for n in walk(x)):  # fmt: skip
            return x
        if x.op == "fold" and x.attr.kind == "sum" and self.magnitude(Fold(x).term) is Fold(x).term:
            return x
        return call("abs", x)

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
            return Reduction(self, Fold(x), mode).error()
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
        rule = ROW_RULES.get(x.op)
        if rule is None:
            errors = [self.error(a, mode) for a in x.args if a.kind != "bool"]
            if all(e is NOTHING for e in errors):
                return NOTHING
            if x.kind == "int":  # what is exact or may be anything
                return call("select", call("lt", 0.0, plus(errors)), UNBOUNDED, NOTHING)
            raise NotDerivable(f"no rule for the error of {x.op}")
        return rule(self, x, mode)

    def operand(self, x: Expr, n: int, mode: str) -> Expr:
        """The error of an operand; a constant is rounded to the precision that reads it."""
        a = x.args[n]
        if a.op == "const" and a.kind == "real":
            p = self.precision(x) or F32
            if exactly(float(a.attr), p):
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
        return times(const(scale), self.magnitude(x) if of is None else of)

    def _read(self, x: Expr, mode: str) -> Expr:
        name, index, fill = read_parts(x)
        astray = plus(self.error(i, ERR) for i in index)
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
            return NOTHING if exactly(value, x.attr) else const(unit(x.attr) * abs(value))
        inner = self.error(a, mode)
        if x.kind != "real":
            return inner
        return plus([inner, storage(x.attr, self.bits(a), a)])

    def _toreal(self, x: Expr, mode: str) -> Expr:
        a = x.args[0]
        own = self.error(a, ERR)
        if not any(n.op == "read" for n in walk(a)):
            return own
        large = times(const(unit(F32)), call("abs", x))
        return plus([own, call("select", call("abs", x) <= float(WHOLE), NOTHING, large)])

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
        return call("select", doubt, plus([ea, eb, gap]), sure)

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
            astray = plus(self.error(i, ERR) for i in index)
            own = self.doubts.get(name)
            out = FALSE if own is None else read(own, index, "bool", fill and FALSE)
            return out if astray is NOTHING else either(out, call("lt", 0.0, astray))
        if x.op in ("not", "cast"):
            return self.doubt(x.args[0])
        if x.op in ("and", "or"):
            return self._joined(x)
        if x.op in ("lt", "le", "eq", "ne", "approx") and x.args[0].kind != "bool":
            a, b = x.args
            e = plus(self.operand(x, n, ERR) for n in (0, 1))
            if e is NOTHING:
                return FALSE
            near = call("le", toreal(call("abs", a - b)), e)
            return near if e.op == "const" else call("and", call("lt", 0.0, e), near)
        if x.op == "select":
            c, a, b = x.args
            d, da, db = (self.doubt(p) for p in x.args)
            out = FALSE if da is FALSE and db is FALSE else call("select", c, da, db)
            return out if d is FALSE else either(out, d)
        if x.op == "fold" and x.attr.kind in ("any", "all"):
            f = Fold(x)
            term = either(self.doubt(f.term), self.doubt(f.guard))
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
        both = call("and", either(a, da) if da is not FALSE else a, either(b, db)
                    if db is not FALSE else b)  # fmt: skip
        return call("and", either(da, db), both)

    def fresh(self, binder: str) -> str:
        self.count += 1
        return f"{binder}~{self.count}"
