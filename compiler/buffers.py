"""Buffers of a program: memory of inputs, outputs and of locals that cross launches."""

from __future__ import annotations

from collections.abc import Sequence

from opwright.compiler.normalize import Normal
from opwright.ir.dtypes import BOOL, F64, I64, DType
from opwright.ir.expr import Expr, call, const, stride
from opwright.ir.op import Operator, Tensor
from opwright.ir.tile import Buffer, row_major


class Memory:
    """Declares each tensor's buffer once. `strided`: inputs and outputs with any strides
    (symbolic); otherwise row-major, which becomes a fact."""

    def __init__(self, normal: Normal, strided: bool, real: DType) -> None:
        self.normal, self.strided, self.real = normal, strided, real
        self.made: dict[str, Buffer] = {}
        self.kept: frozenset[str] = frozenset()  # locals that a later launch reads

    def of(self, name: str) -> Buffer:
        if name not in self.made:
            self.made[name] = self._declare(self.normal.tensor(name))
        return self.made[name]

    def _declare(self, t: Tensor) -> Buffer:
        shape = t.shape
        if t.role == "local":
            kind = {"real": self.real, "int": I64, "bool": BOOL}[t.kind]
            return Buffer(f"{t.name}_buf", "plan", kind if t.dtype is not F64 else F64, shape)
        role = "in" if t.role == "input" else "out"
        strides = tuple(stride(t.name, n) for n in range(len(shape))) if self.strided else None
        return Buffer(t.name, role, t.dtype, shape, strides)


def dense_facts(op: Operator) -> tuple[Expr, ...]:
    """Every input and output is row-major without gaps."""
    out = []
    for t in (*op.inputs, *op.outputs):
        for n, step in enumerate(row_major(t.shape)):
            out.append(call("eq", stride(t.name, n), step))
    return tuple(out)


def takes_dense(op: Operator, facts: Sequence[Expr]) -> bool:
    """Whether facts ask for nothing but row-major inputs and outputs: no sizes, no alignment."""
    return set(facts) <= set(dense_facts(op))


def offset(index: Expr, t: Tensor, axis: int) -> Expr:
    """Position in the buffer of a logical index (axes of locals may start above 0)."""
    lo = t.axes[axis].lo
    return index if lo is const(0) else index - lo
