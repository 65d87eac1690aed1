"""The launch plan of a printed function: one call with the inputs by name, no grid."""

from __future__ import annotations

from opwright.backends.jax.printer import function_name
from opwright.ir.op import Operator
from opwright.ir.plan import Launch, Plan


def make_plan(op: Operator, source_name: str = "kernel.py", target: str = "cpu(jax)") -> Plan:
    """The plan of what `print_operator` prints; params and free sizes are passed by name."""
    names = [t.name for t in op.inputs] + [p.name for p in op.params] + list(op.free_sizes)
    return Plan(
        op=f"{op.name}@{op.version}",
        target=target,
        backend="jax",
        source=source_name,
        launches=(Launch(function_name(op), tuple(names)),),
        spec=op.digest or None,
        types=dict(op.types),
    )
