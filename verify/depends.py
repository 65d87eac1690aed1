"""What values of a tile program are made from: program ids, loop variables, memory that changes.

Two executions of one statement that agree in these give the same value.
"""

from __future__ import annotations

from collections.abc import Iterable

from opwright.ir.expr import Expr, leaves, pid, var
from opwright.ir.tile import (
    Atomic,
    Def,
    For,
    If,
    Kernel,
    Stmt,
    Store,
    TileProgram,
    Value,
    statements,
)


class Depends:
    """Dependencies of every value of one program."""

    def __init__(self, program: TileProgram) -> None:
        self.program = program
        self.writes: list[set[str]] = []
        self._of: dict[Value, frozenset[Expr]] = {}
        for n, k in enumerate(program.kernels):
            touched = (s for s in statements(k.body) if isinstance(s, (Store, Atomic)))
            self.writes.append({s.buffer.name for s in touched})
            size = -1
            while size != (size := sum(len(d) for d in self._of.values())):  # loops feed back
                self._block(n, k, k.body, ())

    def of(self, v: Value) -> frozenset[Expr]:
        """Program ids and loop variables that a value may depend on."""
        found = self._of.get(v)
        if found is None:  # a view that a proof has made
            found = frozenset().union(*(self.of(a) for a in v.args))
        return found

    def constant(self, buffer: str, launch: int) -> bool:
        """Whether a launch leaves a buffer as it is."""
        return buffer not in self.writes[launch]

    def epoch(self, buffer: str, launch: int) -> int:
        """The launches before this one that wrote the buffer, as a number."""
        return sum(buffer in w for w in self.writes[:launch])

    def _expr(self, *es: Expr) -> set[Expr]:
        out: set[Expr] = set()
        for e in es:
            for x in leaves(e, "pid", "var", "value"):
                out |= self.of(x.attr) if x.op == "value" else {x}
        return out

    def _block(self, n: int, k: Kernel, body: Iterable[Stmt], around: tuple[Expr, ...]) -> None:
        for s in body:
            if isinstance(s, Def):
                self._of[s.value] = frozenset(self._value(n, k, s.value, around))
            elif isinstance(s, For):
                v = var(s.variable)
                bounds = self._expr(s.lo, s.hi)
                for i, p, y, r in zip(s.inits, s.params, s.yields, s.results, strict=True):
                    state = self.of(i) | bounds | self._of.get(y, frozenset())
                    self._of[p] = frozenset(state | {v})
                    self._of[r] = frozenset(state - {v})
                self._block(n, k, s.body, (*around, v))
                for i, y, r in zip(s.inits, s.yields, s.results, strict=True):
                    self._of[r] = frozenset((self.of(i) | bounds | self.of(y)) - {v})
            elif isinstance(s, If):
                self._block(n, k, s.then, around)
                self._block(n, k, s.other, around)

    def _value(self, n: int, k: Kernel, v: Value, around: tuple[Expr, ...]) -> set[Expr]:
        if v.op == "index":
            return self._expr(v.attr)
        if v.op == "load":
            if not self.constant(v.attr.buffer.name, n):
                return {*(pid(d) for d in range(len(k.grid))), *around}
            return self._expr(*v.attr.index, v.attr.mask)
        out: set[Expr] = set()
        for a in v.args:
            out |= self.of(a)
        return out
