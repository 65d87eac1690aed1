"""What the strategies of block programs share: programs for tiles of an index space, their masks,
and what a read means in them.

Tile axes are powers of two. A range that a tile does not divide is a mask, unless a fact says that
the tile divides it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from opwright.compiler.buffers import Memory
from opwright.compiler.evaluate import Evaluator, Resolved, Unsupported
from opwright.compiler.strategies.block_math import BlockBuilder
from opwright.compiler.strategies.group import Group, bound_names, inline
from opwright.ir.dtypes import DType
from opwright.ir.expr import (
    ONE,
    TRUE,
    ZERO,
    Expr,
    call,
    cdiv,
    conjunction,
    evaluate,
    leaf,
    leaves,
    pid,
    read,
    substitute,
    var,
)
from opwright.ir.op import OpAxis, Tensor
from opwright.ir.tile import Axis, Value, lanes

SMALL_GRID = 65535  # programs along the second and third dimension of a grid


class Tiles:
    """Emits one kernel over tiles; `facts` collects what the launch relies on."""

    def __init__(self, name: str, group: Group, memory: Memory, real: DType, even: bool) -> None:
        self.name, self.group, self.memory, self.real, self.even = name, group, memory, real, even
        self.facts: list[Expr] = []
        self.known: dict[str, Value] = {}  # values of this program at its own indices
        self.mask: Expr = TRUE

    # -- programs ---------------------------------------------------------------------------------

    def open(self, tiled: Sequence[tuple[OpAxis, Axis | None]], rest: Sequence[OpAxis]) -> None:
        """A builder whose grid is tiles of the first axes (None: single points), then the others.

        Two single points share the first dimension, for it alone has no small limit.
        """
        dims: list[Expr] = []
        points: list[tuple[OpAxis, Expr]] = []
        masks: list[Expr] = []
        outer = list(rest)
        tiled = list(tiled)
        if not tiled and outer:
            tiled = [(outer.pop(), None)]
        if len(tiled) == 1 and tiled[0][1] is None and outer and outer[-1].hi.op == "size":
            inner, first = tiled[0][0], outer.pop()
            if inner.hi.op == "size":
                dims.append(first.hi * inner.hi)
                points += [(first, pid(0) // inner.hi), (inner, pid(0) % inner.hi)]
                tiled = []
            else:
                outer.append(first)
        for a, tile in tiled:
            n = len(dims)
            if tile is None:
                dims.append(a.hi)
                points.append((a, pid(n)))
                continue
            dims.append(cdiv(a.hi, tile.extent))
            points.append((a, pid(n) * tile.extent + tile.lane))
            masks += self.inside(points[-1][1], a.hi, tile)
        plain = [n for n in range(1, len(outer)) if outer[n].hi.op == "size"]
        if plain and len(dims) + len(outer) > 3:
            inner, first = outer.pop(plain[-1]), outer.pop(plain[-1] - 1)
            n = len(dims)
            dims.append(first.hi * inner.hi)
            points += [(first, pid(n) // inner.hi), (inner, pid(n) % inner.hi)]
        for a in reversed(outer):
            points.append((a, pid(len(dims))))
            dims.append(a.hi)
        if len(dims) > 3:
            raise Unsupported("there are more axes than a grid has dimensions")
        self.facts += [call("le", d, SMALL_GRID) for d in dims[1:]]
        normal = self.group.normal
        bound = bound_names(normal)
        self.b = BlockBuilder(self.name, tuple(dims) or (ONE,), normal.op.params, bound)
        self.e = Evaluator(self.b, self.group.normal.op, self.resolve, self.real)
        self.point: dict[str, Expr] = {}
        for a, i in points:
            self.point[a.name] = i
            if not lanes(i):  # lanes may lie past the end
                self.b.ranges[i] = ZERO, a.hi
        self.b.ragged |= set(masks)
        self.mask = conjunction(masks)

    def inside(self, at: Expr, hi: Expr, tile: Axis) -> list[Expr]:
        """The condition that lanes are in range; none where the tile divides it by a fact."""
        if self.even:
            self.facts.append(call("eq", hi % tile.extent, 0))
            return []
        return [call("lt", at, hi)]

    # -- reads and writes -------------------------------------------------------------------------

    def resolve(self, name: str, index: tuple[Expr, ...], mask: Expr) -> Resolved:
        t = self.group.normal.tensor(name)
        if name in self.known:
            return self.known[name]
        if t.role == "input" or name in self.group.earlier:
            return self.memory.of(name)
        return inline(t, read(name, index, t.kind))

    def at(self, t: Tensor, point: Mapping[str, Expr]) -> dict[Expr, Expr]:
        return {var(a.name): point[a.name] for a in t.axes}

    def value(self, t: Tensor, point: Mapping[str, Expr], mask: Expr) -> Value:
        assert t.body is not None
        return self.e.value(substitute(t.body, self.at(t, point)), mask)

    def write(self, t: Tensor, index: Sequence[Expr], v: Value, mask: Expr) -> None:
        buffer = self.memory.of(t.name)
        self.b.store(buffer, *index, self.b.cast(v, buffer.dtype), mask=mask)

    def is_kept(self, t: Tensor) -> bool:
        """Whether somebody else reads what the group computes."""
        return t.role == "output" or t.name in self.memory.kept


def alignment(tensors: Sequence[Tensor], number: int) -> list[Expr]:
    """Facts under which every row of these tensors starts at a multiple of `number` elements and at
    a full vector of memory. Rows that are no multiple where all sizes are, as those of a window's
    result, are left out: facts must not contradict each other."""
    out = []
    for t in tensors:
        if t.axes:
            out.append(leaf("param", f"aligned({t.name}, 16)", "bool"))
        if len(t.axes) > 1:
            extent = t.axes[-1].hi
            sizes = {x.attr: 64 * number for x in leaves(extent, "size", "param")}
            if int(evaluate(extent, sizes)) % number == 0:
                out.append(call("eq", extent % number, 0))
    return out
