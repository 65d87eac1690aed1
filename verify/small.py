"""Concrete sizes that satisfy every fact of a proof: they show that facts are consistent, and
replays run at them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from opwright.ir.expr import Expr, ExprError, evaluate, leaves, stride
from opwright.ir.tile import expressions, row_major
from opwright.verify.encode import Encoder

UNIFORM = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)
SIZES = (1, 2, 0, 3, 5, 8, 9, 17, 33, 70)
TRIES = 4000


class Small:
    """Valuations of the sizes, params and strides of one program under its facts."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder, self.program, self.context = encoder, encoder.program, encoder.context
        self.stated = encoder.stated()
        roots = list(self.stated)
        for k in self.program.kernels:
            roots += [*k.grid, *expressions(k.body)]
            for b in k.buffers:
                roots += [*b.shape, *(b.strides or ())]
        self.scalars = list(
            dict.fromkeys(x for e in roots for x in leaves(e, "size", "param", "stride"))
        )
        self.sizes = [x for x in self.scalars if x.op == "size"]

    def allowed(self, x: Expr, choice: tuple[int, ...]) -> list[int]:
        """Values of one size or integer param within its constant bounds, some beside its least."""
        lo, hi = self.encoder.ranges.get(x, (None, None))
        if x.op == "size":
            low, top = max(lo or 0, 0), self.context.dim_limit if hi is None else hi
        else:
            low = -self.context.param_limit if lo is None else lo
            top = self.context.param_limit if hi is None else hi
        near = (low + n for n in choice[:4]) if lo is not None else ()
        return sorted({n for n in (*choice, *near) if low <= n <= top})

    def environment(self, values: Mapping[Expr, Any]) -> dict[Expr, Any] | None:
        """All scalars, or None if a fact does not hold. Strides are what facts say, else dense."""
        env: dict[Expr, Any] = dict(values)
        for x in self.scalars:
            if x.op == "param" and x not in env:
                if x.kind == "int":
                    env[x] = next(iter(self.allowed(x, (1, 0, 2, 3))), 0)
                else:
                    env[x] = True if x.kind == "bool" else 0.5
        try:
            for b in self.program.buffers():
                shape = [int(evaluate(s, env)) for s in b.shape]
                if min(shape, default=0) < 0 and b.role in ("in", "out", "state"):
                    return None
                for n, e in enumerate(row_major(b.shape)):
                    env.setdefault(stride(b.name, n), int(evaluate(e, env)))
            for f in self.stated:
                if f.op == "eq" and f.args[0].op == "stride":
                    env[f.args[0]] = int(evaluate(f.args[1], env))
            return env if all(bool(evaluate(f, env)) for f in self.stated) else None
        except (ExprError, KeyError, ZeroDivisionError):
            return None

    def consistent(self) -> bool:
        """Whether some small valuation satisfies every fact."""
        return next(self.candidates(), None) is not None

    def candidates(self) -> Iterator[dict[Expr, Any]]:
        """Valuations with one value for all sizes, then mixed ones; a bounded number is tried."""
        integers = [x for x in self.scalars if x.op == "param" and x.kind == "int"]
        params = [self.allowed(x, (1, 0, 2)) or [0] for x in integers]
        some = list(itertools.islice(itertools.product(*params), 8))
        for n, chosen in itertools.product(UNIFORM, some):
            env: dict[Expr, Any] = dict(zip(integers, chosen, strict=True))
            for x in self.sizes:
                fitting = [v for v in self.allowed(x, UNIFORM) if v >= n]
                env[x] = fitting[0] if fitting else (self.allowed(x, UNIFORM) or [0])[-1]
            found = self.environment(env)
            if found is not None:
                yield found
        for values, chosen in itertools.islice(self.mixed(params), TRIES):
            env = dict(zip(self.sizes, values, strict=True))
            found = self.environment({**env, **dict(zip(integers, chosen, strict=True))})
            if found is not None:
                yield found

    def mixed(self, params: list[list[int]]) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Each size at one or at a common larger value, each param at one of a few."""
        for n in (16, 64, 2, 3, 128):
            pairs = []
            for x in self.sizes:
                own = self.allowed(x, (1, n, *UNIFORM)) or [0]
                near = [v for v in own if v >= 1] or own
                pairs.append(list(dict.fromkeys((near[0], n if n in own else own[-1]))))
            yield from itertools.product(itertools.product(*pairs), itertools.product(*params))


def in_order(ranges: list[list[int]], most: int) -> list[tuple[int, ...]]:
    """Combinations, small ones first."""
    combos = itertools.islice(itertools.product(*ranges), most)
    return sorted(combos, key=lambda c: (max(c, default=0), sum(c)))
