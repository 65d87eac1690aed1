"""Array code for JAX: what `<package>.jax` runs, and the backend that ships nothing else."""

from __future__ import annotations

from opwright.compiler.package_spec import Arrays
from opwright.ir.expr import walk
from opwright.ir.op import Operator


def arrays_of(op: Operator) -> tuple[Arrays | None, str]:
    """The printed function of an operator, or None and why there is none."""
    from opwright.backends.jax.printer import PrintError, function_name, print_operator

    try:
        return Arrays(print_operator(op), function_name(op), wide_reals(op)), ""
    except PrintError as e:
        return None, f"no array code for JAX: {e}"


def wide_reals(op: Operator) -> bool:
    """Whether any value is meant to be computed in 64-bit floats."""
    names = {t.dtype.name for t in (*op.inputs, *op.tensors)}
    for t in op.tensors:
        assert t.body is not None
        for x in walk(t.body):
            if x.op in ("cast", "round"):
                names.add(x.attr.name)
            elif x.op == "fold" and x.attr.acc is not None:
                names.add(x.attr.acc.name)
    return "f64" in names
