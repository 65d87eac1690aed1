"""The meaning of expressions on concrete data, over the reals: fractions, else 60 digits.

What is made of exact inputs by +, -, * and / stays exact; a function of it is a number of 60
digits. A comparison that the digits do not decide is undecided, so that what is false here is false
over the reals and not by rounding. Made for a handful of elements.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np

from opwright.ir.dtypes import decode, encode
from opwright.ir.expr import Expr, Fold, read_parts, show, var
from opwright.ir.op import Tensor
from opwright.ir.philox import uniform
from opwright.ir.semantics import ARG_FOLDS

DIGITS = 60
MARGIN = 1e-30  # relative: what separates two inexact numbers
STEPS = 400_000

Bound = Mapping[str, float]


class NotExact(Exception):
    """There is no exact value: undefined, too large or not a function that is known here."""


class Undefined(NotExact):
    """The expression has no value: a division by zero, a read out of range, nothing to reduce."""


class Undecided(NotExact):
    """Two numbers are too near to tell which is larger."""


class Exact:
    """Evaluates over definitions, arrays of inputs and values of sizes and params."""

    def __init__(
        self,
        tensors: Mapping[str, Tensor],
        scalars: Mapping[str, Any],
        arrays: Mapping[str, Any],
    ) -> None:
        import mpmath

        self.mp: Any = mpmath.mp.clone()
        self.mp.dps = DIGITS
        self.tensors, self.arrays = tensors, dict(arrays)
        self.scalars = {k: self.number(v) for k, v in scalars.items()}
        self.elements: dict[tuple[str, tuple[int, ...]], Any] = {}
        self.steps = 0

    def number(self, v: Any) -> Any:
        """A Python or numpy number in the form used here."""
        if isinstance(v, np.generic):
            v = v.item()
        if isinstance(v, float):
            return Fraction(v) if math.isfinite(v) else self.mp.mpf(v)
        return v

    # -- values -----------------------------------------------------------------------------------

    def value(self, e: Expr, env: Mapping[str, int]) -> Any:
        """A bool, an int, or a real as a Fraction or a number of many digits."""
        self.steps += 1
        if self.steps > STEPS:
            raise NotExact("too many steps")
        op = e.op
        if op == "const":
            return self.number(e.attr)
        if op == "var":
            return env[e.attr]
        if op in ("size", "param"):
            return self.scalars[e.attr]
        if op == "read":
            return self._read(e, env)
        if op == "fold":
            return self._fold(e, env)
        if op == "select":
            return self.value(e.args[1 if self.value(e.args[0], env) else 2], env)
        if op in ("and", "or"):
            first = self.value(e.args[0], env)
            return self.value(e.args[1], env) if first == (op == "and") else first
        if op == "cast":
            v = self.value(e.args[0], env)
            return Fraction(v) if e.kind == "real" and isinstance(v, int) else v
        args = [self.value(a, env) for a in e.args]
        found = self._apply(e, args)
        if not isinstance(found, Fraction | int) and self.mp.isnan(found):
            raise Undefined(f"{show(e)} has no value")
        return found

    def _real(self, x: Any) -> Any:
        return self.mp.mpf(x.numerator) / x.denominator if isinstance(x, Fraction) else x

    def _apply(self, e: Expr, args: list[Any]) -> Any:
        op = e.op
        if op in ("lt", "le", "eq", "ne", "approx"):
            order = self.compare(*args)
            return {"lt": order < 0, "le": order <= 0, "ne": order != 0}.get(op, order == 0)
        if op == "not":
            return not args[0]
        if op == "toreal":
            return Fraction(args[0])
        if op in ("floordiv", "mod"):
            if args[1] <= 0:
                raise Undefined(f"{show(e)}: the divisor is {args[1]}")
            return args[0] // args[1] if op == "floordiv" else args[0] % args[1]
        if op in ("isnan", "isinf"):
            return op == "isinf" and not isinstance(args[0], Fraction) and self.mp.isinf(args[0])
        if op in ("floor", "ceil", "trunc", "nearest"):
            return self._integer(op, args[0])
        if op == "rand":
            return Fraction(float(uniform(*args)))
        if op == "round":
            back = decode(encode(np.asarray([float(args[0])]), e.attr), e.attr)
            return self.number(float(back[0]))
        if op in ("min", "max"):
            return self._better(op, args[0], args[1])
        if op in ("neg", "abs"):
            return -args[0] if op == "neg" else abs(args[0])
        if op in ("add", "sub", "mul", "div", "fma"):
            return self._arithmetic(e, args)
        return self._function(e, args)

    def _arithmetic(self, e: Expr, args: list[Any]) -> Any:
        if not all(isinstance(a, Fraction | int) for a in args):
            args = [self._real(a) for a in args]
        a, b, *rest = args
        if e.op == "div":
            if b == 0:
                raise Undefined(f"{show(e)}: the divisor is 0")
            return a / b
        if e.op == "fma":
            return a * b + rest[0]
        return a + b if e.op == "add" else a - b if e.op == "sub" else a * b

    def _integer(self, op: str, x: Any) -> int:
        if not isinstance(x, Fraction):
            if self.mp.isinf(x):
                raise Undefined("an infinity has no integer part")
            near = int(self.mp.nint(x * 2))
            if abs(x * 2 - near) < MARGIN:
                raise Undecided("at the edge of a rounding")
        if op == "nearest":
            return round(x) if isinstance(x, Fraction) else int(self.mp.nint(x))
        if op == "trunc":
            return int(x)
        down = math.floor(x) if isinstance(x, Fraction) else int(self.mp.floor(x))
        return down if op == "floor" or down == x else down + 1

    def _function(self, e: Expr, args: list[Any]) -> Any:
        op, mp = e.op, self.mp
        x = args[0]
        if op == "pow" and isinstance(x, Fraction) and isinstance(args[1], Fraction):
            n = args[1]
            if n.denominator == 1 and abs(n) <= 64:
                if x == 0 and n < 0:
                    raise Undefined(f"{show(e)}: a power of 0")
                return x ** int(n)
        if x == 0 and op in ("sqrt", "expm1", "log1p", "sin", "tan", "sinh", "tanh", "asin", "atan",
                             "erf"):  # fmt: skip
            return Fraction(0)
        if x == 0 and op in ("exp", "exp2", "cos", "cosh"):
            return Fraction(1)
        if op == "sqrt" and isinstance(x, Fraction) and x > 0:
            top, low = math.isqrt(x.numerator), math.isqrt(x.denominator)
            if top * top == x.numerator and low * low == x.denominator:
                return Fraction(top, low)
        if (op in ("log", "log2", "rsqrt") and x <= 0) or (op == "sqrt" and x < 0):
            raise Undefined(f"{show(e)} has no value at {_short(x)}")
        if (op == "log1p" and x <= -1) or (op in ("asin", "acos") and abs(x) > 1):
            raise Undefined(f"{show(e)} has no value at {_short(x)}")
        if op in ("log", "log2") and x == 1:
            return Fraction(0)
        y = self._real(x)
        if op == "pow":
            if y < 0:
                raise Undefined(f"{show(e)}: a power of a negative number")
            return mp.power(y, self._real(args[1]))
        if op in ("exp", "exp2", "expm1", "sinh", "cosh") and abs(y) > 1e6 and mp.isfinite(y):
            raise NotExact("an exponential of a large number")
        if op == "exp2":
            return mp.power(2, y)
        if op == "log2":
            return mp.log(y) / mp.log(2)
        if op == "rsqrt":
            return 1 / mp.sqrt(y)
        if op == "sigmoid":
            return 1 / (1 + mp.exp(-y))
        if op not in KNOWN:
            raise NotExact(f"{op} has no exact value")
        return getattr(mp, op)(y)

    def compare(self, a: Any, b: Any) -> int:
        """The sign of a - b; raises Undecided when the digits do not tell."""
        if all(isinstance(x, Fraction | int) for x in (a, b)):
            return int(a > b) - int(a < b)
        a, b = self._real(a), self._real(b)
        if a is b:
            return 0
        if self.mp.isinf(a) or self.mp.isinf(b):
            return int(a > b) - int(a < b)
        if abs(a - b) <= MARGIN * (abs(a) + abs(b)):
            raise Undecided("equal to 30 digits")
        return 1 if a > b else -1

    def _better(self, op: str, a: Any, b: Any) -> Any:
        try:
            order = self.compare(a, b)
        except Undecided:
            return a  # they are as good as equal
        return a if (order >= 0) == (op == "max") else b

    # -- reads and folds --------------------------------------------------------------------------

    def _read(self, e: Expr, env: Mapping[str, int]) -> Any:
        name, index, fill = read_parts(e)
        at = tuple(int(self.value(i, env)) for i in index)
        t = self.tensors[name]
        low: dict[str, int] = {}
        for a, i in zip(t.axes, at, strict=True):
            lo, hi = self.value(a.lo, low), self.value(a.hi, low)
            if not lo <= i < hi:
                first = t.recurrence is not None and a.name == t.recurrence.axis and i == lo - 1
                if first:
                    continue
                if fill is None:
                    raise Undefined(f"{name}[{', '.join(map(str, at))}] is out of range")
                return self.value(fill, env)
        return self.element(t, at)

    def element(self, t: Tensor, at: tuple[int, ...]) -> Any:
        """One element of an input or of a definition."""
        if t.name in self.arrays:
            return self.number(np.asarray(self.arrays[t.name])[at])
        key = t.name, at
        if key not in self.elements:
            env = {a.name: i for a, i in zip(t.axes, at, strict=True)}
            if t.body is None:
                raise NotExact(f"{t.name} is not known")
            body = t.body
            if t.recurrence is not None:
                axis = next(a for a in t.axes if a.name == t.recurrence.axis)
                if env[axis.name] < self.value(axis.lo, {}):
                    body = t.recurrence.init
                    env = {k: v for k, v in env.items() if k != axis.name}
            self.elements[key] = self.value(body, env)
        return self.elements[key]

    def points(self, f: Fold, env: Mapping[str, int]) -> Any:
        """The index values that a fold runs over."""

        def nest(k: int, at: dict[str, int]) -> Any:
            if k == len(f.binders):
                if self.value(f.guard, at):
                    yield at
                return
            lo, hi = (self.value(x, at) for x in f.ranges[k])
            for i in range(lo, hi):
                yield from nest(k + 1, {**at, f.binders[k]: i})

        yield from nest(0, dict(env))

    def _fold(self, e: Expr, env: Mapping[str, int]) -> Any:
        f = Fold(e)
        if f.kind is None:
            raise NotExact("a derived fold")
        if f.kind in ("any", "all"):
            return any(self.value(f.term, at) == (f.kind == "any") for at in self.points(f, env)) \
                == (f.kind == "any")  # fmt: skip
        out: Any = None
        place = -1
        for at in self.points(f, env):
            x = self.value(f.term, at)
            if out is None:
                out, place = x, at[f.binders[0]]
            elif f.kind in ARG_FOLDS:
                if self.compare(x, out) * (1 if f.kind == "argmax" else -1) > 0:
                    out, place = x, at[f.binders[0]]
            elif f.kind in ("max", "min"):
                out = self._better(f.kind, out, x)
            else:
                if not all(isinstance(y, Fraction | int) for y in (out, x)):
                    out, x = self._real(out), self._real(x)
                out = out + x if f.kind == "sum" else out * x
        if f.kind in ARG_FOLDS:
            return place
        if out is None:
            if f.kind in ("max", "min"):
                raise Undefined(f"`{f.kind}` over nothing")
            neutral = 0 if f.kind == "sum" else 1
            return Fraction(neutral) if e.kind == "real" else neutral
        return out


KNOWN = {"exp", "expm1", "log", "log1p", "sqrt", "sin", "cos", "tan", "sinh", "cosh", "tanh",
         "asin", "acos", "atan", "erf"}  # fmt: skip


def _short(x: Any) -> str:
    return f"{float(x):.6g}"


class Judge:
    """Whether a claim is certainly false on the data, and where."""

    def __init__(self, exact: Exact, bounds: Mapping[Expr, Bound]) -> None:
        self.exact, self.bounds = exact, bounds

    def truth(self, e: Expr, env: Mapping[str, int]) -> bool | None:
        """True, False, or None where it is not decided."""
        if e.op in ("and", "or"):
            absorbing = e.op == "or"
            first = self.truth(e.args[0], env)
            if first is absorbing:
                return absorbing
            second = self.truth(e.args[1], env)
            return absorbing if second is absorbing else (
                None if first is None or second is None else not absorbing
            )  # fmt: skip
        if e.op == "not":
            inner = self.truth(e.args[0], env)
            return None if inner is None else not inner
        if e.op == "fold" and Fold(e).kind in ("all", "any"):
            f = Fold(e)
            absorbing = f.kind == "any"
            unsure = False
            for at in self.exact.points(f, env):
                found = self.truth(f.term, at)
                if found is absorbing:
                    return absorbing
                unsure = unsure or found is None
            return None if unsure else not absorbing
        try:
            if e in self.bounds:
                return self._compared(e, env)
            return bool(self.exact.value(e, env))
        except Undecided:
            return None

    def _compared(self, e: Expr, env: Mapping[str, int]) -> bool | None:
        """A comparison that `within` or a tolerance widens."""
        a, b = (self.exact.value(x, env) for x in e.args)
        bound = self.bounds[e]
        exact = self.exact
        allowed: Any = Fraction(bound.get("abs", 0.0))
        rel: Any = Fraction(bound.get("rel", 0.0))
        if rel and isinstance(b, Fraction | int):
            allowed = allowed + rel * abs(b)
        elif rel and not exact.mp.isinf(b):
            allowed = exact._real(allowed) + exact._real(rel) * abs(b)
        both = [x for x in (a, b) if not isinstance(x, Fraction | int)]
        if any(exact.mp.isinf(x) for x in both):
            order = exact.compare(a, b)
            return {"lt": order < 0, "le": order <= 0}.get(e.op, order == 0)
        if not isinstance(allowed, Fraction) or both:
            a, b, allowed = exact._real(a), exact._real(b), exact._real(allowed)
        gap = abs(a - b) if e.op in ("eq", "approx") else a - b
        if both:
            near = MARGIN * (abs(a) + abs(b))
            if abs(gap - allowed) <= near:
                return None
        return bool(gap < allowed if e.op == "lt" else gap <= allowed)

    def place(self, e: Expr, env: Mapping[str, int]) -> tuple[Expr, dict[str, int]] | None:
        """The comparison that is false and the indices at which it is."""
        if self.truth(e, env) is not False:
            return None
        if e.op == "and":
            return self.place(e.args[0], env) or self.place(e.args[1], env)
        if e.op == "fold" and Fold(e).kind == "all":
            for at in self.exact.points(Fold(e), env):
                found = self.place(Fold(e).term, at)
                if found is not None:
                    return found
        return e, dict(env)


def elements(shape: tuple[int, ...]) -> Any:
    """Every index of an array, row by row."""
    return product(*(range(n) for n in shape))


__all__ = ["Exact", "Judge", "NotExact", "Undecided", "Undefined", "elements", "var"]
