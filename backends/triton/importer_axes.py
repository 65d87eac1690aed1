"""Names the dimensions of a kernel's tensors: which of them are one and the same tile axis.

TTIR has positions, TileIR has names. Dimensions that an operation pairs are one axis, unless that
would give one tensor the same axis twice (an outer product of a vector with itself); there the
importer moves a value to other lanes. Dimensions of extent 1 have no axis. What is computed from
data decides first, because moving data is a statement and moving an index expression is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from opwright.backends.triton.ttir import Block, Function, Op, Type, number
from opwright.ir.tile import Axis

Place = tuple[str, int]  # a value's name and a dimension of it

SAME = ("tt.load", "tt.store", "tt.atomic_rmw", "tt.addptr", "tt.extern_elementwise")
SHAPED = (
    "tt.splat", "tt.broadcast", "tt.expand_dims", "tt.trans", "tt.reshape", "tt.reduce", "tt.scan",
    "tt.dot", "scf.for", "scf.if", "scf.yield", "tt.make_range", "tt.join", "tt.split", "tt.cat",
)  # fmt: skip
DATA = (
    "tt.load",
    "tt.descriptor_load",
    "tt.reduce",
    "tt.scan",
    "tt.dot",
    "arith.cmpf",
    "tt.atomic_rmw",
)


class Axes:
    """Tile axes of every value of a function."""

    def __init__(self, f: Function, fresh: Callable[[str], str]) -> None:
        self.types: dict[str, Type] = {}
        self.data: set[str] = set()
        self.edges: list[tuple[Place, Place]] = []
        self.parent: dict[Place, Place] = {}
        self.foes: dict[Place, set[Place]] = {}
        self.hints: dict[Place, str] = {}
        for name, kind in f.params:
            self.declare(name, kind)
        self.blocks(f.blocks, [])
        mixed = []
        for a, b in self.edges:
            if a[0] in self.data and b[0] in self.data:
                self.unify(a, b)
            else:
                mixed.append((a, b))
        for a, b in mixed:
            self.unify(a, b)
        self._fresh = fresh
        self._axes: dict[Place, Axis] = {}
        self._best = self._names()

    # -- what the importer asks
    def of(self, name: str) -> tuple[Axis | None, ...]:
        """Axes of a value's dimensions, in order."""
        shape = self.types[name].shape
        return tuple(None if n == 1 else self.axis((name, d)) for d, n in enumerate(shape))

    def axis(self, place: Place) -> Axis:
        root = self.find(place)
        if root not in self._axes:
            extent = self.types[root[0]].shape[root[1]]
            self._axes[root] = Axis(self._fresh(self._best.get(root, "l")), extent)
        return self._axes[root]

    def new(self, extent: int, hint: str = "l") -> Axis:
        """An axis of its own."""
        return Axis(self._fresh(hint), extent)

    # -- classes
    def find(self, p: Place) -> Place:
        while self.parent[p] != p:
            self.parent[p] = self.parent[self.parent[p]]
            p = self.parent[p]
        return p

    def unify(self, a: Place, b: Place) -> None:
        a, b = self.find(a), self.find(b)
        if a == b or b in {self.find(x) for x in self.foes[a]}:
            return
        if len(self.foes[a]) < len(self.foes[b]):
            a, b = b, a
        self.parent[b] = a
        self.foes[a] |= self.foes[b]

    def declare(self, name: str, kind: Type) -> None:
        self.types[name] = kind
        places = [(name, d) for d, n in enumerate(kind.shape) if n > 1]
        for p in places:
            self.parent[p] = p
            self.foes[p] = {q for q in places if q != p}

    def pair(self, a: str, b: str, dims: Iterable[tuple[int, int]] | None = None) -> None:
        """Dimensions of two values that are the same (all, in order)."""
        if a not in self.types or b not in self.types:
            return
        one, two = self.types[a].shape, self.types[b].shape
        if dims is None:
            dims = [(d, d) for d in range(min(len(one), len(two)))]
        for i, j in dims:
            if one[i] == two[j] > 1:
                self.edges.append(((a, i), (b, j)))

    # -- operations
    def blocks(self, blocks: list[Block], results: list[str]) -> None:
        """`results` are what yields of these blocks become."""
        for block in blocks:
            for name, kind in block.args:
                if name not in self.types:
                    self.declare(name, kind)
            for op in block.ops:
                if op.name == "scf.yield":
                    for y, r in zip(op.operands, results, strict=False):
                        self.pair(y, r)
                        self.carry(y, r)
                else:
                    self.operation(op)

    def carry(self, source: str, target: str) -> None:
        if source in self.data:
            self.data.add(target)

    def operation(self, op: Op) -> None:
        for r, kind in zip(op.results, op.types(), strict=True):
            self.declare(r, kind)
            real = not kind.pointer and kind.element[0] in "fb"
            constant = op.name in ("arith.constant", "tt.splat")
            if op.name in DATA or (real and not constant):
                self.data.add(r)
            elif not constant and any(x in self.data for x in op.operands):
                self.data.add(r)
        if op.name == "tt.make_range":
            self.hints[(op.results[0], 0)] = op.results[0]
        if op.name == "scf.for":
            self.loop(op)
        elif op.name == "scf.while":
            self.repeat(op)
        elif op.name == "scf.if":
            for region in op.regions:
                self.blocks(region, op.results)
        elif op.name in SHAPED:
            self.shaped(op)
        else:
            self.elementwise(op)

    def elementwise(self, op: Op) -> None:
        """Operands and results of one shape have the same axes."""
        names = [*op.results, *op.operands]
        if not names or names[0] not in self.types:
            return
        shape = self.types[names[0]].shape
        for n in names[1:]:
            if n in self.types and self.types[n].shape == shape:
                self.pair(names[0], n)

    def loop(self, op: Op) -> None:
        (body,) = op.regions[0]
        args = [n for n, _ in body.args[1:]]
        self.declare(*body.args[0])
        for (name, kind), init, result in zip(
            body.args[1:], op.operands[3:], op.results, strict=True
        ):
            self.declare(name, kind)
            real = not kind.pointer and kind.element[0] in "fb"
            if real or init in self.data:
                self.data |= {name, result}
            self.pair(init, name)
            self.pair(name, result)
        self.blocks([body], args)

    def repeat(self, op: Op) -> None:
        """A while: what is given, tested, worked on and left over are the same."""
        before, after = op.regions[0][0], op.regions[1][0]
        given = [n for n, _ in before.args]
        for block in (before, after):
            for (name, kind), init, result in zip(
                block.args, op.operands, op.results, strict=False
            ):
                self.declare(name, kind)
                real = not kind.pointer and kind.element[0] in "fb"
                if real or init in self.data:
                    self.data |= {name, result}
                self.pair(init, name)
                self.pair(name, result)
        self.blocks([before], [])
        self.blocks([after], given)

    def shaped(self, op: Op) -> None:
        if not op.results or not op.operands:
            return
        out, first = op.results[0], op.operands[0]
        if op.name == "tt.broadcast":
            self.pair(out, first)
        elif op.name == "tt.expand_dims":
            axis = number(op.attrs["axis"])
            rank = len(self.types[first].shape)
            self.pair(first, out, [(d, d + (d >= axis)) for d in range(rank)])
        elif op.name == "tt.trans":
            self.pair(first, out, [(o, d) for d, o in enumerate(order_of(op))])
        elif op.name == "tt.reshape":
            old, new = self.types[first].shape, self.types[out].shape
            whole = [(i[0], j[0]) for i, j in groups(old, new) if len(i) == len(j) == 1]
            self.pair(first, out, whole)
        elif op.name in ("tt.reduce", "tt.scan"):
            axis = number(op.attrs["axis"])
            rank = len(self.types[first].shape)
            for x in op.operands[1:]:
                self.pair(first, x)
            for r in op.results:
                if op.name == "tt.scan":
                    self.pair(first, r)
                else:
                    left = [(d, d - (d > axis)) for d in range(rank) if d != axis]
                    self.pair(first, r, left)
        elif op.name == "tt.dot":
            a, b, c = op.operands[:3]
            rank = len(self.types[a].shape)
            batch = [(d, d) for d in range(rank - 2)]
            self.pair(out, c)
            self.pair(out, a, [*batch, (rank - 2, rank - 2)])
            self.pair(out, b, [*batch, (rank - 1, rank - 1)])
            self.pair(a, b, [*batch, (rank - 1, rank - 2)])
        elif op.name == "tt.join":
            for x in op.operands:
                self.pair(x, out)
        elif op.name == "tt.split":
            for r in op.results:
                self.pair(r, first)

    def _names(self) -> dict[Place, str]:
        """Names from the source for classes: that of a range, else of any value."""
        out: dict[Place, str] = {}
        for p, name in self.hints.items():
            out.setdefault(self.find(p), plain(name))
        for p in self.parent:
            root = self.find(p)
            if root not in out:
                out[root] = f"{plain(p[0])}_l"
        return out


def plain(name: str) -> str:
    """The name that the source gave to a value: %offs_3'1 -> offs."""
    base = re.sub(r"(_\d+)?('\d+)?(#\d+)?('\d+)?$", "", name.lstrip("%"))
    base = re.sub(r"\W", "_", base).strip("_")
    return base if base and base[0].isalpha() else "t"


def order_of(op: Op) -> list[int]:
    """The permutation of a transposition: result dimension d is operand dimension order[d]."""
    text = op.attrs["order"]
    body = text.split(":", 1)[1] if ":" in text else text
    return [int(n) for n in re.findall(r"-?\d+", body)]


def groups(a: tuple[int, ...], b: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The finest grouping of dimensions for which a reshape keeps the order of elements."""
    out: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(a) or j < len(b):
        left: list[int] = []
        right: list[int] = []
        p = q = 1
        while True:
            if p == q and (left or right) and (p > 1 or i >= len(a) or j >= len(b)):
                break
            if p <= q and i < len(a):
                p *= a[i]
                left.append(i)
                i += 1
            elif j < len(b):
                q *= b[j]
                right.append(j)
                j += 1
            else:
                p *= a[i]
                left.append(i)
                i += 1
        out.append((left, right))
    return out
