"""What the operator hands to its gradient beside its outputs.

A gradient makes again what it needs of the forward pass. Where that is a small result of a fold
over elements that nobody keeps (a row's statistics over a matrix of products), the forward pass has
it at hand: it is saved, and the gradient reads it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from opwright.compiler.autodiff import gradient
from opwright.compiler.normalize import extract_folds, reads_of
from opwright.compiler.strategies.group import is_fold
from opwright.ir.op import Operator, Tensor


def saved_for(op: Operator, wanted: Sequence[str]) -> tuple[str, ...]:
    """Names of the folds that a gradient had better read: smaller than some input or output, made
    of folds that are smaller than none."""
    forward = {t.name: t for t in extract_folds(op)}
    given = [Counter(map(str, t.shape)) for t in (*op.inputs, *op.outputs)]

    def small(t: Tensor) -> bool:
        own = Counter(map(str, t.shape))
        return any(own <= g and own != g for g in given)

    def wide(name: str, seen: set[str]) -> bool:
        """Whether something of more elements than any input is made on the way."""
        t = forward.get(name)
        if t is None or name in seen or t.role == "output":
            return False
        seen.add(name)
        fits = any(Counter(map(str, t.shape)) <= g for g in given)
        return (is_fold(t) and not fits) or any(wide(n, seen) for n in reads_of(t))

    found = [
        t.name
        for t in forward.values()
        if t.role == "local" and t.kind == "real" and is_fold(t) and small(t)
        if t.recurrence is None and wide(t.name, set())
    ]
    if not found:
        return ()
    read = {t.name for t in gradient(op, wanted, found).inputs}
    return tuple(n for n in found if n in read)


def saving(op: Operator, names: Sequence[str]) -> Operator:
    """The operator with these of its definitions as further outputs."""
    tensors = tuple(replace(t, role="output") if t.name in names else t for t in extract_folds(op))
    declared = (*(t.name for t in op.outputs), *names)
    return replace(
        op,
        name=f"{op.name}_saving_{'_'.join(names)}",
        doc=f"What {op.name} gives, with what its gradient reads besides.",
        tensors=tensors,
        declared=declared,
        clauses=op.requires,
        gradients=(),
        lets={},
        source="",
        digest="",
    )
