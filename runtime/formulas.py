"""Real functions of default formulas and facts, with the results that IEEE arithmetic gives.

Generated formulas call these instead of `math`, whose functions raise where a limit exists.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Union

Real = Union[int, float]


def _total(function: Callable[[float], float], over: float) -> Callable[[Real], float]:
    """`function` with `over` on overflow and NaN outside its domain."""

    def call(x: Real) -> float:
        try:
            return function(float(x))
        except OverflowError:
            return over
        except ValueError:
            return math.nan

    return call


def _odd(function: Callable[[float], float]) -> Callable[[Real], float]:
    def call(x: Real) -> float:
        try:
            return function(float(x))
        except OverflowError:
            return math.copysign(math.inf, x)

    return call


def _logarithm(function: Callable[[float], float], pole: float) -> Callable[[Real], float]:
    def call(x: Real) -> float:
        if x == pole:
            return -math.inf
        return math.nan if not x > pole else function(float(x))

    return call


def div(a: Real, b: Real) -> float:
    a, b = float(a), float(b)
    if b:
        return a / b
    return (
        math.nan
        if a == 0 or math.isnan(a)
        else math.copysign(math.inf, a) * (math.copysign(1.0, b))
    )


def power(a: Real, b: Real) -> float:
    try:
        return math.pow(a, b)
    except OverflowError:
        return math.inf
    except ValueError:
        return math.inf if a == 0 else math.nan


def rsqrt(x: Real) -> float:
    return div(1.0, sqrt(x))


def sigmoid(x: Real) -> float:
    small = math.exp(-abs(x))
    return 1 / (1 + small) if x >= 0 else small / (1 + small)


def fma(a: Real, b: Real, c: Real) -> float:
    return float(a) * float(b) + float(c)


def select(condition: bool, then: Real, otherwise: Real) -> Real:
    return then if condition else otherwise


def nearest(x: Real) -> int:
    return round(x)


exp = _total(math.exp, math.inf)
exp2 = _total(lambda x: math.pow(2.0, x), math.inf)
expm1 = _total(math.expm1, math.inf)
log = _logarithm(math.log, 0.0)
log2 = _logarithm(math.log2, 0.0)
log1p = _logarithm(math.log1p, -1.0)
sqrt = _total(math.sqrt, math.inf)
sin, cos, tan = (_total(f, math.nan) for f in (math.sin, math.cos, math.tan))
asin, acos, atan = (_total(f, math.nan) for f in (math.asin, math.acos, math.atan))
sinh, cosh = _odd(math.sinh), _total(math.cosh, math.inf)
tanh, erf = math.tanh, math.erf
floor, ceil, trunc, isnan, isinf = math.floor, math.ceil, math.trunc, math.isnan, math.isinf


def negate(condition: Any) -> Any:
    """`not` of a truth value or of an array of them."""
    return not condition if isinstance(condition, bool) else ~condition
