"""What strategies over one result share: a builder, what reads of other tensors mean, loops over
axes that have no program id."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from opwright.compiler.buffers import Memory
from opwright.compiler.evaluate import Evaluator, Resolved
from opwright.compiler.strategies.group import Group, free_name, inline
from opwright.ir.dtypes import DType
from opwright.ir.expr import ONE, ZERO, Expr, read, var
from opwright.ir.op import OpAxis
from opwright.ir.tile import Builder, Value


class Emitter:
    """Builds the kernels of a group; `held` are tensors whose value the program has at hand."""

    def __init__(self, group: Group, memory: Memory, real: DType) -> None:
        self.group, self.memory, self.real = group, memory, real
        self.held: dict[str, Value] = {}

    def open(self, name: str, grid: Sequence[Expr]) -> None:
        """A new kernel."""
        self.b = Builder(name, tuple(grid) or (ONE,))
        self.e = Evaluator(self.b, self.group.normal.op, self.resolve, self.real)

    def resolve(self, name: str, index: tuple[Expr, ...], mask: Expr) -> Resolved:
        """What a read of a tensor is."""
        if name in self.held:
            return self.held[name]
        t = self.group.normal.tensor(name)
        if t.role == "input" or name in self.group.earlier:
            return self.memory.of(name)
        return inline(t, read(name, index, t.kind))

    def over(
        self,
        axes: Sequence[OpAxis],
        at: dict[Expr, Expr],
        body: Callable[[dict[Expr, Expr]], None],
    ) -> None:
        """Loops over axes."""
        if not axes:
            self.e.enter()
            body(at)
            self.e.leave()
            return
        a = axes[0]
        name = free_name(self.group.normal, a.name)
        self.b.loop(
            name, ZERO, a.hi, 1, (), lambda v: self.over(axes[1:], {**at, var(a.name): v}, body)
        )
