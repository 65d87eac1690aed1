"""Reductions, scans, products and changes of shape of imported kernels.

The region of a reduction is recognised by its form: one operation of a monoid, or comparisons
by which the better value wins with its index, the smaller one among equal values. Any other region
refuses.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable

from opwright.backends.triton.importer_axes import groups, order_of, plain
from opwright.backends.triton.importer_memory import Memory
from opwright.backends.triton.importer_symbols import Dims, Sym
from opwright.backends.triton.importer_values import Thing, Tile
from opwright.backends.triton.ttir import Block, Op, number
from opwright.ir.dtypes import I64, dtype
from opwright.ir.expr import ZERO, Expr, call, const, leaf
from opwright.ir.tile import Axis, Dot, Scan

MONOID_OPS = {
    "arith.addf": "sum", "arith.addi": "sum", "arith.mulf": "prod", "arith.muli": "prod",
    "arith.maxnumf": "max", "arith.maximumf": "max", "arith.maxsi": "max",
    "arith.minnumf": "min", "arith.minimumf": "min", "arith.minsi": "min",
    "arith.andi": "all", "arith.ori": "any",
}  # fmt: skip
PRECISIONS = ("ieee", "tf32", "tf32x3", "bf16x3", "bf16x6")


def monoid_of(op: Op) -> str | None:
    """The monoid of a region with one operation between its arguments."""
    (block,) = op.regions[0]
    if len(block.ops) != 2 or len(block.args) != 2:
        return None
    step, end = block.ops
    names = {n for n, _ in block.args}
    if set(step.operands) != names or end.operands != step.results:
        return None
    return MONOID_OPS.get(step.name)


def extreme_of(op: Op) -> str | None:
    """argmax or argmin, of a region over (value, index) pairs where equal ones go to the smaller
    index. The region only compares: it is known by what it answers in every order of its numbers.
    What it does with a NaN is not asked."""
    (block,) = op.regions[0]
    if len(block.args) != 4:
        return None
    names = [n for n, _ in block.args]
    found = []
    for fold, sign in (("argmax", 1), ("argmin", -1)):
        good = True
        for a, b, i, j in itertools.product(range(2), repeat=4):
            first = (sign * a, -i) >= (sign * b, -j)
            made = _evaluated(block, dict(zip(names, (a, i, b, j), strict=True)))
            good = good and made == ([a, i] if first else [b, j])
        if good:
            found.append(fold)
    return found[0] if found else None


def _evaluated(block: Block, env: dict[str, int]) -> list[int] | None:
    """What a region of comparisons and selections yields; None where it does anything else."""
    for step in block.ops[:-1]:
        if not all(x in env for x in step.operands) or len(step.results) != 1:
            return None
        args = [env[x] for x in step.operands]
        if step.name in ("arith.cmpf", "arith.cmpi"):
            word = step.words[0]
            made: int
            if word in ("uno", "ord", "true", "false"):
                made = word in ("ord", "true")
            else:
                made = _ORDERS[word[-2:]](*args)
        elif step.name in _LOGIC:
            made = _LOGIC[step.name](*args)
        elif step.name == "arith.select":
            made = args[1] if args[0] else args[2]
        elif step.name == "arith.constant" and step.rest.split(" :")[0].strip() in _TRUTH:
            made = _TRUTH[step.rest.split(" :")[0].strip()]
        else:
            return None
        env[step.results[0]] = made
    ends = block.ops[-1].operands
    return [env[x] for x in ends] if all(x in env for x in ends) else None


_ORDERS: dict[str, Callable[[int, int], bool]] = {
    "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le,
    "gt": operator.gt, "ge": operator.ge,
}  # fmt: skip
_LOGIC: dict[str, Callable[[int, int], int]] = {
    "arith.andi": operator.and_, "arith.ori": operator.or_, "arith.xori": operator.xor,
}  # fmt: skip
_TRUTH = {"true": True, "false": False}


class Folds(Memory):
    """Operations that combine lanes or move them."""

    def reduce(self, op: Op) -> list[Thing]:
        axis = number(op.attrs["axis"])
        first = self.env[op.operands[0]]
        dims = self.axes.of(op.operands[0])
        outs = [self.axes.of(r) for r in op.results]
        lane = dims[axis]
        if len(op.operands) == 2:
            return self.extreme(op, axis, dims, outs)
        monoid = monoid_of(op)
        if monoid is None or len(op.operands) != 1:
            raise self.refuse(f"{op.name} with a combine region of its own")
        inside = tuple(a for n, a in enumerate(dims) if n != axis)
        if isinstance(first, Tile) and first.flattened is not None:
            return [self.whole(op, first, monoid, outs[0])]
        x = self.fitted(first, dims)
        if lane is None:
            return [self.fitted(_with(x, inside), outs[0])]
        if isinstance(x, Sym):
            out: Thing = self.integers(op, x, monoid, [lane], inside)
        else:
            v = self.spread(self.value(x), (lane,))
            made = self.emitting().reduce(monoid, v, lane, plain(op.results[0]))
            out = Tile(made, inside, made.dtype)
        return [self.fitted(out, outs[0])]

    def whole(self, op: Op, x: Tile, monoid: str, out: Dims) -> Tile:
        """A reduction of all that a reshape put in one row: axis after axis."""
        assert x.flattened is not None
        v = self.spread(self.value(x), x.flattened)
        for a in reversed([a for a in x.flattened if a is not None]):
            v = self.emitting().reduce(monoid, v, a, plain(op.results[0]))
        return Tile(v, out, v.dtype)

    def integers(self, op: Op, x: Sym, monoid: str, over: list[Axis], inside: Dims) -> Sym:
        """A reduction of integers or truth values; sums are made in 64 bits."""
        if x.bits == 1:
            if monoid not in ("any", "all"):
                raise self.refuse(f"a {monoid} of truth values")
            v = self.spread(self.value(x), tuple(over))
            for a in over:
                v = self.emitting().reduce(monoid, v, a, plain(op.results[0]))
            return Sym(leaf("value", v, "bool"), inside, 1)
        if monoid in ("any", "all"):
            flag = _flag(x.expr)
            if flag is None:
                raise self.refuse("a bitwise reduction of integers")
            part = self.integers(op, Sym(flag, x.dims, 1, x.needs), monoid, over, inside)
            return Sym(call("select", part.expr, 1, 0), inside, x.bits)
        grows = monoid in ("sum", "prod")
        lo, hi = self.ranges.of(x.expr)
        count = 1
        for a in over:
            count *= a.extent
        small = monoid == "sum" and lo is not None and hi is not None
        small = small and self._sum_fits(lo, hi, count, x.bits)
        wide = grows and x.bits < 64 and not small
        v = self.value(x, I64 if wide else dtype(f"i{x.bits}"))
        v = self.spread(v, tuple(over))
        for a in over:
            v = self.emitting().reduce(monoid, v, a, plain(op.results[0]))
        return Sym(leaf("value", v, "int"), inside, x.bits, (), wide, self.line)

    @staticmethod
    def _sum_fits(lo: int | None, hi: int | None, count: int, bits: int) -> bool:
        top = 1 << bits - 1
        return lo is not None and hi is not None and lo * count >= -top and hi * count < top

    def extreme(self, op: Op, axis: int, dims: Dims, outs: list[Dims]) -> list[Thing]:
        name = extreme_of(op)
        if name is None:
            raise self.refuse(
                f"{op.name} of two operands that is neither an argmax nor an argmin with ties to "
                "the smaller index"
            )
        lane = dims[axis]
        x, i = (self.fitted(self.env[o], dims) for o in op.operands)
        inside = tuple(a for n, a in enumerate(dims) if n != axis)
        if lane is None:
            return [self.fitted(_with(t, inside), d) for t, d in zip((x, i), outs, strict=True)]
        if not isinstance(i, Sym):
            raise self.refuse(f"{name} with an index that is no integer")
        b = self.emitting()
        values, indices = self.spread(self.value(x), (lane,)), self.value(i)
        monoid = name[3:]
        best = b.reduce(monoid, values, lane, plain(op.results[0]))
        at = b.argreduce(name, values, indices, lane, plain(op.results[1]))
        where: Thing = Sym(leaf("value", at, "int"), inside, i.bits)
        value: Thing = (
            Tile(best, inside, best.dtype)
            if isinstance(x, Tile)
            else Sym(leaf("value", best, "int"), inside, x.bits)
        )
        return [self.fitted(value, outs[0]), self.fitted(where, outs[1])]

    def scan(self, op: Op) -> list[Thing]:
        axis = number(op.attrs["axis"])
        dims = self.axes.of(op.operands[0])
        monoid = monoid_of(op) if len(op.operands) == 1 else None
        if monoid is None:
            raise self.refuse(f"{op.name} with a combine region of its own")
        x = self.fitted(self.env[op.operands[0]], dims)
        out, lane = self.axes.of(op.results[0]), dims[axis]
        if lane is None:
            return [self.fitted(x, out)]
        what = Scan(monoid, lane, op.attrs.get("reverse", "false") == "true")
        if isinstance(x, Sym):
            lo, hi = self.ranges.of(x.expr)
            small = monoid == "sum" and self._sum_fits(lo, hi, lane.extent, x.bits)
            wide = x.bits < 64 and monoid in ("sum", "prod") and not small
            v = self.value(x, I64 if wide else dtype(f"i{x.bits}"))
            v = self.emitting().scan(self.spread(v, (lane,)), what, plain(op.results[0]))
            return [self.fitted(Sym(leaf("value", v, "int"), dims, x.bits, (), wide), out)]
        v = self.emitting().scan(self.spread(self.value(x), (lane,)), what, plain(op.results[0]))
        return [self.fitted(Tile(v, dims, v.dtype), out)]

    def dot(self, op: Op) -> Thing:
        """acc + a * b, contracted over the last axis of a and the one before the last of b."""
        out, left = self.axes.of(op.results[0]), self.axes.of(op.operands[0])
        b = self.emitting()
        inner = left[-1]
        if inner is None:
            raise self.refuse("a dot over one element")
        x = self.fitted(self.env[op.operands[0]], (*out[:-1], inner))
        y = self.fitted(self.env[op.operands[1]], (*out[:-2], inner, out[-1]))
        kind = op.types()[0]
        if isinstance(x, Sym) or isinstance(y, Sym):
            raise self.refuse("a dot of integers")
        precision = "ieee"
        if "inputPrecision" in op.words:
            precision = op.words[op.words.index("inputPrecision") + 1]
        elif "inputPrecision" in op.attrs:
            precision = ("tf32", "tf32x3", "ieee", "bf16x3", "bf16x6")[
                number(op.attrs["inputPrecision"])
            ]
        xv, yv = self.value(x), self.value(y)
        if xv.dtype.bits < 32 or xv.dtype.name == "f64":
            precision = "ieee"  # it speaks of f32 operands only
        if precision not in PRECISIONS:
            raise self.refuse(f"a dot with inputs read as {precision}")
        xv = self.spread(xv, (*out[:-1], inner))
        yv = self.spread(yv, (*out[:-2], inner, out[-1]))
        total = self.kind_of(kind)
        made = b.dot(xv, yv, Dot(inner, precision), total, plain(op.results[0]))
        acc = self.fitted(self.env[op.operands[2]], out)
        if not (isinstance(acc, Tile) and acc.value is None and acc.number == 0):
            made = b.ew("add", self.value(acc), made, name=plain(op.results[0]))
        return Tile(made, out, total)

    # -- shapes
    def transpose(self, op: Op) -> Thing:
        x = self.env[op.operands[0]]
        order = order_of(op)
        own = _dims(x)
        return self.fitted(_with(x, tuple(own[o] for o in order)), self.axes.of(op.results[0]))

    def reshape(self, op: Op) -> Thing:
        """Elements keep their row-major order; an order that is left open matters to nobody only
        in a reduction."""
        x = self.env[op.operands[0]]
        shape, dims = self.axes.types[op.results[0]].shape, self.axes.of(op.results[0])
        old = self.axes.types[op.operands[0]].shape
        moving = [n for n in old if n > 1] != [n for n in shape if n > 1]
        loose = "allow_reorder" in op.words or "allow_reorder" in op.attrs
        readers = self.uses.get(op.results[0], [])
        folded = all(u.name == "tt.reduce" and monoid_of(u) is not None for u in readers)
        if moving and loose and not folded:
            raise self.refuse("a reshape that may reorder elements")
        if moving and len(shape) == 1 and isinstance(x, Tile) and x.value is not None and folded:
            return Tile(x.value, dims, x.dtype, 0.0, _dims(x))
        return self.reshaped(x, old, shape, dims)

    def reshaped(self, x: Thing, old: tuple[int, ...], shape: tuple[int, ...], dims: Dims) -> Thing:
        mapping: dict[Expr, Expr] = {}
        own = _dims(x)
        for left, right in groups(old, shape):
            flat: Expr = ZERO
            for d in right:
                a = dims[d]
                flat = flat * shape[d] + (ZERO if a is None else a.lane)
            step = 1
            for n, d in reversed(list(enumerate(left))):
                a = own[d]
                e = flat // step if step > 1 else flat
                if a is not None:
                    mapping[a.lane] = e % a.extent if any(old[k] > 1 for k in left[:n]) else e
                step *= old[d]
        return self.relabelled(x, dims, mapping)

    def relabelled(self, x: Thing, dims: Dims, mapping: dict[Expr, Expr]) -> Thing:
        """A thing with its lanes at expressions over lanes of other axes."""
        mapping = {a: b for a, b in mapping.items() if a is not b}
        if isinstance(x, Sym):
            return self.relabel(x, dims, mapping)
        if isinstance(x, Tile):
            if x.value is None:
                return Tile(None, dims, x.dtype, x.number)
            moves = [(a.attr, b) for a, b in mapping.items() if a.attr in x.value.axes]
            v = self.emitting().view(x.value, moves) if moves else x.value
            return Tile(v, dims, x.dtype)
        offset = self.relabel(x.offset, dims, mapping)
        return type(x)(x.buffer, offset, x.bits)

    def join(self, op: Op) -> Thing:
        dims = self.axes.of(op.results[0])
        last = dims[-1]
        assert last is not None
        a, b = (self.fitted(self.env[x], dims[:-1]) for x in op.operands)
        first = Sym(call("eq", last.lane, 0), dims, 1)
        return self.choice(first, _with(a, (*dims[:-1], None)), _with(b, (*dims[:-1], None)), dims)

    def split(self, op: Op) -> list[Thing]:
        x = self.env[op.operands[0]]
        own = _dims(x)
        last = own[-1]
        assert last is not None
        parts = [self.relabelled(x, own, {last.lane: const(n)}) for n in (0, 1)]
        return [
            self.fitted(_with(p, own[:-1]), self.axes.of(r))
            for p, r in zip(parts, op.results, strict=True)
        ]


def _dims(x: Thing) -> Dims:
    return x.dims if isinstance(x, (Sym, Tile)) else x.offset.dims


def _with(x: Thing, dims: Dims) -> Thing:
    """The same thing with its dimensions renamed, which its axes allow."""
    if isinstance(x, Sym):
        return Sym(x.expr, dims, x.bits, x.needs, x.raw, x.line, None, x.said)
    if isinstance(x, Tile):
        return Tile(x.value, dims, x.dtype, x.number)
    inner = _with(x.offset, dims)
    assert isinstance(inner, Sym)
    return type(x)(x.buffer, inner, x.bits)


def _flag(e: Expr) -> Expr | None:
    """The truth value that an integer 1 or 0 stands for."""
    if e.op == "select" and [a.op for a in e.args[1:]] == ["const", "const"]:
        if (e.args[1].attr, e.args[2].attr) in ((1, 0), (-1, 0)):
            return e.args[0]
    return None
