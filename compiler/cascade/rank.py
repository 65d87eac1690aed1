"""A lower bound for the number of additive accumulators, from numbers: why there is no single pass.

If a state of k additive accumulators gave a sum for every value of the results, the matrix of its
terms at elements and reachable results would have rank at most k.
"""

from __future__ import annotations

from typing import Any

from opwright.compiler.cascade.chain import COUNT, Chain, Let, Stage

DIGITS = 60
SMALL = -35  # powers of ten below which a pivot counts as none


def sample_rank(chain: Chain, stage: Stage, count: int) -> int | None:
    """The rank of `count` elements' terms over 5 * count reachable results; None where the chain
    has a function without a numeric value."""
    import mpmath

    with mpmath.workdps(DIGITS):
        try:
            return _rank(_columns(chain, stage, count), count)
        except (TypeError, ValueError, ZeroDivisionError, NameError, AttributeError):
            return None


def _columns(chain: Chain, stage: Stage, count: int) -> list[list[Any]]:
    import mpmath
    import sympy

    def value(i: int, j: int) -> Any:
        return mpmath.sin(mpmath.mpf(13 * i + 7 * j + 1) ** 2 / 7) * 5

    functions = {
        "Abs": mpmath.fabs, "Max": max, "Min": min, "sign": mpmath.sign, "erf": mpmath.erf,
        "floor": mpmath.floor, "ceil": mpmath.ceil, "nearest": mpmath.nint, "round": mpmath.nint,
        "sigmoid": lambda t: 1 / (1 + mpmath.exp(-t)), "tanh": mpmath.tanh,
    }  # fmt: skip
    fold = {"sum": mpmath.fsum, "max": max, "min": min, "prod": mpmath.fprod}
    elements = list(chain.elements)
    compiled: dict[Any, Any] = {}
    params = {str(p): mpmath.mpf("1.25") + n for n, p in enumerate(chain.params)}

    def at(e: Any, env: dict[str, Any]) -> Any:
        names = sorted(str(x) for x in e.free_symbols)
        if e not in compiled:
            symbols = [next(x for x in e.free_symbols if str(x) == n) for n in names]
            compiled[e] = sympy.lambdify(symbols, e, [functions, "mpmath"])
        return compiled[e](*[env[n] for n in names])

    base = [[value(i, k) for k in range(len(elements))] for i in range(count)]
    columns = []
    for j in range(5 * count):  # one extra element steers the results through their range
        far = (mpmath.mpf(j) / (5 * count) - mpmath.mpf("0.5")) * 20 * count
        rows = [*base, [far + k for k in range(len(elements))]]
        env = {**params, COUNT: mpmath.mpf(len(rows))}
        for s in chain.steps[: chain.steps.index(stage)]:
            if isinstance(s, Let):
                env[s.name] = at(s.expr, env)
            else:
                each = [
                    at(s.body, {**env, **dict(zip(map(str, elements), r, strict=True))})
                    for r in rows
                ]
                env[s.name] = fold[s.monoid](each)
        columns.append(
            [at(stage.body, {**env, **dict(zip(map(str, elements), r, strict=True))}) for r in base]
        )
    return columns


def _rank(columns: list[list[Any]], count: int) -> int:
    import mpmath

    rank = 0
    while rank < count and columns:  # elimination with full pivoting
        top, i, j = max((abs(c[j]), i, j) for i, c in enumerate(columns) for j in range(count))
        if top < mpmath.mpf(10) ** SMALL:
            break
        pivot = columns.pop(i)
        columns = [
            [a - c[j] / pivot[j] * b for a, b in zip(c, pivot, strict=True)] for c in columns
        ]
        rank += 1
    return rank
