"""Constraints on sizes and params that exclude each other: the first that no values satisfy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from opwright.ir.expr import Expr
from opwright.ir.op import Param
from opwright.verify.sizes import z3_term

EFFORT = 1_000_000  # of z3, for each fact


def excluded(facts: Sequence[Expr], sizes: Sequence[str], params: Sequence[Param]) -> int | None:
    """The number of the first fact that those before it exclude; None where none is known to."""
    import z3

    variables: dict[str, Any] = {s: z3.Int(s) for s in sizes}
    sorts = {"int": z3.Int, "bool": z3.Bool, "real": z3.Real}
    variables |= {p.name: sorts[p.dtype.kind](p.name) for p in params}
    solver = z3.Solver()
    solver.set("rlimit", EFFORT, "timeout", 1000, "random_seed", 1)
    solver.add(*[variables[s] >= 0 for s in sizes])
    for n, f in enumerate(facts):
        term = z3_term(z3, f, variables)
        if term is None:
            continue
        solver.add(term)
        if solver.check() == z3.unsat:
            return n
    return None
