"""What an operator is made of, in the words that moves and experience use."""

from __future__ import annotations

from opwright.compiler.evaluate import Unsupported
from opwright.compiler.normalize import normalize
from opwright.compiler.spaces import partition, walked
from opwright.compiler.strategies.scatter import scatter_of
from opwright.ir.expr import ExprError, affine, read_parts, walk
from opwright.ir.op import Operator


def forms_of(op: Operator) -> tuple[str, ...]:
    """The forms of an operator, sorted: words of `search.moves.FORMS`."""
    found: set[str] = set()
    folds = {x for t in op.tensors if t.body is not None for x in walk(t.body) if x.op == "fold"}
    if folds:
        found.add("fold")
    if len(folds) > 1:
        found.add("folds")
    try:
        normal = normalize(op)
        parts = partition(normal)
        for p in parts:
            if p.strategy == "lanes":
                row = p.form.row is not None
                found |= {"inner"} if p.form.inner else {"rows"} if row else {"map"}
                found |= {"columns"} if row and p.form.shared and not p.form.inner else set()
            elif p.strategy != "scalar":
                found.add(p.strategy)
        if walked(normal, parts) is not None:
            found.add("walk")
    except (ExprError, Unsupported):
        pass
    for t in op.tensors:
        if t.recurrence is not None:
            found.add("recurrence")
        if t.body is None:
            continue
        if scatter_of(t) is not None:
            found.add("scatter")
        reads = (x for x in walk(t.body) if x.op == "read")
        if any(affine(i) is None for x in reads for i in read_parts(x)[1]):
            found.add("gather")
    return tuple(sorted(found)) or ("map",)
