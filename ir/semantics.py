"""The semantics table: one row per elementwise operation, shared by OpIR expressions and TileIR
values.

A row holds the kind rule, the concrete meaning (numpy, float64 or exact integers), the z3 meaning
over integers and reals, the cost and the error of the target's implementation. Interpreters, the
z3 encoder and the traffic counter are readings of this table; nothing else defines what an
operation means.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from opwright.ir.philox import normal, uniform


@dataclass(frozen=True, slots=True)
class Row:
    """One operation: `kinds` is the signature, e.g. "nn:n" (n: int or real alike), "rr:r", "ii:i",
    "bnn:n"."""

    name: str
    kinds: str
    concrete: Callable[..., Any]
    z3: Callable[..., Any] | None = None
    flops: float = 1.0
    ulp: float = 0.5
    symbol: str | None = None  # infix text, else call syntax
    precedence: int = 0
    commutative: bool = False

    @property
    def arity(self) -> int:
        return self.kinds.index(":")

    @property
    def result(self) -> str:
        return self.kinds[-1]


def _z(build: Callable[..., Any]) -> Callable[..., Any]:
    """Defer the z3 import to the first use of a row's z3 meaning."""

    def call(*args: Any) -> Any:
        import z3

        return build(z3, *args)

    return call


def _erf(x: Any) -> Any:
    """erf by Abramowitz-Stegun-free means: the C library's erf on every element (exact to 1
    ulp)."""
    return _vector_erf(np.asarray(x, np.float64))


_vector_erf = np.vectorize(math.erf, otypes=[np.float64])


def _sigmoid(x: Any) -> Any:
    x = np.asarray(x, np.float64)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def _to_int(rounding: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def call(x: Any) -> Any:
        with np.errstate(invalid="ignore"):
            return rounding(np.asarray(x, np.float64)).astype(np.int64)

    return call


def _floordiv(a: Any, b: Any) -> Any:
    return np.floor_divide(a, np.where(np.asarray(b) == 0, 1, b))


def _mod(a: Any, b: Any) -> Any:
    return np.mod(a, np.where(np.asarray(b) == 0, 1, b))


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*args)

    return call


def _z3_floordiv(z3: Any, a: Any, b: Any) -> Any:
    return (
        a / b
    )  # z3's integer division is floor for the positive divisors that the obligation demands


ROWS: dict[str, Row] = {
    r.name: r
    for r in (
        # arithmetic on integers (exact) and reals alike
        Row("add", "nn:n", _quiet(lambda a, b: a + b), lambda a, b: a + b, 1, 0.5, "+", 5, True),
        Row("sub", "nn:n", _quiet(lambda a, b: a - b), lambda a, b: a - b, 1, 0.5, "-", 5),
        Row("mul", "nn:n", _quiet(lambda a, b: a * b), lambda a, b: a * b, 1, 0.5, "*", 6, True),
        Row("neg", "n:n", lambda a: -a, lambda a: -a, 0, 0),
        Row("abs", "n:n", np.abs, _z(lambda z3, a: z3.If(a < 0, -a, a)), 0, 0),
        Row(
            "min", "nn:n", np.minimum, _z(lambda z3, a, b: z3.If(a < b, a, b)), 1, 0, None, 0, True
        ),
        Row(
            "max", "nn:n", np.maximum, _z(lambda z3, a, b: z3.If(a < b, b, a)), 1, 0, None, 0, True
        ),
        Row("fma", "rrr:r", _quiet(lambda a, b, c: a * b + c), lambda a, b, c: a * b + c, 2, 0.5),
        # integers: the divisor is positive by obligation
        Row("floordiv", "ii:i", _floordiv, _z(_z3_floordiv), 4, 0, "//", 6),
        Row("mod", "ii:i", _mod, lambda a, b: a % b, 4, 0, "%", 6),
        # reals
        Row("div", "rr:r", _quiet(np.divide), lambda a, b: a / b, 4, 0.5, "/", 6),
        Row("pow", "rr:r", _quiet(np.power), None, 20, 4),
        Row("exp", "r:r", _quiet(np.exp), None, 10, 2),
        Row("exp2", "r:r", _quiet(np.exp2), None, 10, 2),
        Row("expm1", "r:r", _quiet(np.expm1), None, 12, 3),
        Row("log", "r:r", _quiet(np.log), None, 12, 2),
        Row("log2", "r:r", _quiet(np.log2), None, 12, 3),
        Row("log1p", "r:r", _quiet(np.log1p), None, 12, 3),
        Row("sqrt", "r:r", _quiet(np.sqrt), None, 4, 0.5),
        Row("rsqrt", "r:r", _quiet(lambda a: 1 / np.sqrt(a)), None, 8, 1.5),
        Row("sin", "r:r", _quiet(np.sin), None, 15, 2),
        Row("cos", "r:r", _quiet(np.cos), None, 15, 2),
        Row("tan", "r:r", _quiet(np.tan), None, 20, 4),
        Row("sinh", "r:r", _quiet(np.sinh), None, 20, 4),
        Row("cosh", "r:r", _quiet(np.cosh), None, 20, 4),
        Row("tanh", "r:r", _quiet(np.tanh), None, 15, 3),
        Row("asin", "r:r", _quiet(np.arcsin), None, 20, 4),
        Row("acos", "r:r", _quiet(np.arccos), None, 20, 4),
        Row("atan", "r:r", _quiet(np.arctan), None, 20, 4),
        Row("erf", "r:r", _erf, None, 20, 3),
        Row("sigmoid", "r:r", _sigmoid, None, 14, 3),
        # random numbers: seed, position, stream (see `opwright.ir.philox`)
        Row("rand", "iii:r", uniform, None, 100, 0),
        Row("randn", "iii:r", normal, None, 140, 2),
        # between kinds
        Row(
            "toreal",
            "i:r",
            lambda a: np.asarray(a).astype(np.float64),
            _z(lambda z3, a: z3.ToReal(a)),
            0,
            0.5,
        ),
        Row("floor", "r:i", _to_int(np.floor), _z(lambda z3, a: z3.ToInt(a)), 1, 0),
        Row("ceil", "r:i", _to_int(np.ceil), _z(lambda z3, a: -z3.ToInt(-a)), 1, 0),
        Row("trunc", "r:i", _to_int(np.trunc), None, 1, 0),
        Row("nearest", "r:i", _to_int(np.rint), None, 1, 0),
        Row("isnan", "r:b", np.isnan, None, 1, 0),
        Row("isinf", "r:b", np.isinf, None, 1, 0),
        # predicates
        Row("lt", "nn:b", lambda a, b: np.less(a, b), lambda a, b: a < b, 1, 0, "<", 4),
        Row("le", "nn:b", lambda a, b: np.less_equal(a, b), lambda a, b: a <= b, 1, 0, "<=", 4),
        Row("eq", "nn:b", lambda a, b: np.equal(a, b), lambda a, b: a == b, 1, 0, "==", 4, True),
        Row(
            "ne", "nn:b", lambda a, b: np.not_equal(a, b), lambda a, b: a != b, 1, 0, "!=", 4, True
        ),
        # over the reals `a ~= b` is equality; a tolerance widens it where floats are compared
        Row("approx", "nn:b", lambda a, b: np.equal(a, b), lambda a, b: a == b, 1, 0, "~=", 4),
        Row("and", "bb:b", np.logical_and, _z(lambda z3, a, b: z3.And(a, b)), 0, 0, "and", 2, True),
        Row("or", "bb:b", np.logical_or, _z(lambda z3, a, b: z3.Or(a, b)), 0, 0, "or", 1, True),
        Row("not", "b:b", np.logical_not, _z(lambda z3, a: z3.Not(a)), 0, 0),
        Row("select", "bnn:n", np.where, _z(lambda z3, c, a, b: z3.If(c, a, b)), 0, 0),
    )
}


@dataclass(frozen=True, slots=True)
class Monoid:
    """A plain reduction: neutral element, the row that combines two partial results, numpy's
    reducer and binary function."""

    name: str
    row: str
    neutral: float | bool | None
    concrete: Callable[..., Any]
    ufunc: Any


MONOIDS: dict[str, Monoid] = {
    m.name: m
    for m in (
        Monoid("sum", "add", 0, np.sum, np.add),
        Monoid("prod", "mul", 1, np.prod, np.multiply),
        Monoid("max", "max", -math.inf, np.max, np.maximum),
        Monoid("min", "min", math.inf, np.min, np.minimum),
        Monoid("any", "or", False, np.any, np.logical_or),
        Monoid("all", "and", True, np.all, np.logical_and),
    )
}
ARG_FOLDS = {"argmax": "max", "argmin": "min"}  # smallest index on ties, the first NaN wins
