"""The reference: the float64 meaning of an operator on decoded inputs.

The one entry point of everything that asks what an operator means on concrete data; clauses are
judged by `evaluate_clause`, the evaluation itself is in `opwright.ir.evaluator`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opwright.ir.binding import InputError, bind, prepare
from opwright.ir.clauses import ClauseResult, evaluate_clause
from opwright.ir.evaluator import Evaluator, MeaningError
from opwright.ir.labelled import Array
from opwright.ir.op import Operator

__all__ = ["ClauseResult", "InputError", "evaluate_clause", "reference"]


def reference(
    op: Operator,
    inputs: Mapping[str, Any],
    params: Mapping[str, Any] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """The outputs by name as float64, int64 or bool arrays, unrounded.

    `inputs` are decoded values (float64, int64, bool). Sizes follow from the shapes; those that no
    shape fixes are passed in `sizes`. Raises InputError for inputs that do not fit the operator or
    break a `where`, and for a read out of range that the inputs cause.
    """
    arrays = prepare(op, inputs)
    env = bind(op, arrays, params or {}, sizes or {})
    evaluator = Evaluator(op, env, arrays)
    try:
        evaluator.run()
    except MeaningError as e:
        raise InputError(f"{op.name}: {e}") from None
    return {t.name: evaluator.arrays[t.name] for t in op.outputs}
