"""What proofs of a program may assume: facts over sizes and params, preconditions on inputs,
limits."""

from __future__ import annotations

from dataclasses import dataclass

from opwright.ir.expr import Expr
from opwright.ir.op import DEFAULT_DIM_LIMIT, ELEMENT_LIMIT, Clause, Operator


@dataclass(frozen=True, slots=True)
class Context:
    """Assumptions of a proof, each of which is a guard of the package, and the effort to spend.

    `outputs` are what a program has to write, named or not in its text. `facts` hold of sizes and
    params, `requires` are the spec's clauses about inputs. A size without an upper bound among the
    facts is at most `dim_limit`, an integer param without bounds at most `param_limit` in
    magnitude; an input or output has at most `element_limit` elements. `timeout` and `rlimit` bound
    one question, `budget` all questions of a program (seconds).
    """

    facts: tuple[Expr, ...] = ()
    requires: tuple[Clause, ...] = ()
    outputs: tuple[str, ...] = ()
    dim_limit: int = DEFAULT_DIM_LIMIT
    param_limit: int = DEFAULT_DIM_LIMIT
    element_limit: int = ELEMENT_LIMIT
    timeout: float = 5.0
    rlimit: int = 20_000_000
    budget: float = 60.0
    replay: bool = True

    @classmethod
    def of(cls, op: Operator) -> Context:
        """Facts and preconditions of an operator."""
        fresh = tuple(t.name for t in op.outputs if t.updates is None)
        return cls(op.facts, op.requires, fresh)
