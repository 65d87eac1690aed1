"""Operations of imported kernels with one result that are neither arithmetic nor a fold: program
ids, ranges, shapes, addresses, casts, selections, random numbers."""

from __future__ import annotations

from opwright.backends.triton.importer_axes import plain
from opwright.backends.triton.importer_control import Control
from opwright.backends.triton.importer_random import Draw, Source
from opwright.backends.triton.importer_symbols import Dims, Sym
from opwright.backends.triton.importer_values import Pointer, Thing, Tile
from opwright.backends.triton.ttir import Op, number
from opwright.ir.dtypes import BOOL, I64, dtype
from opwright.ir.expr import call, const, leaves, pid
from opwright.ir.graph import nearest
from opwright.ir.launch import BoundLaunch
from opwright.ir.tile import Value


class Results(Control):
    """The result of one operation; `launch` is what the kernel is launched with."""

    launch: BoundLaunch

    def program_id(self, op: Op) -> Thing:
        d = self.dimension(op)
        return Sym(pid(d) if d < len(self.launch.grid) else const(0), (), 32)

    def num_programs(self, op: Op) -> Thing:
        d, grid = self.dimension(op), self.launch.grid
        e = grid[d] if d < len(grid) else const(1)
        self.ranges.bound(e, 0, 2**31 - 1)  # else nothing is launched
        return Sym(e, (), 32)

    @staticmethod
    def dimension(op: Op) -> int:
        return "xyz".index(op.words[0]) if op.words else number(op.attrs.get("axis", "0"))

    def make_range(self, op: Op) -> Thing:
        dims, start = self.axes.of(op.results[0]), number(op.attrs["start"])
        (a,) = dims
        return Sym((const(0) if a is None else a.lane) + start, dims, 32)

    def splat(self, op: Op) -> Thing:
        x, dims = self.env[op.operands[0]], self.axes.of(op.results[0])
        if isinstance(x, Sym):
            return Sym(x.expr, dims, x.bits, x.needs, x.raw, x.line, None, x.said)
        if isinstance(x, Pointer):
            o = x.offset
            return Pointer(
                x.buffer, Sym(o.expr, dims, o.bits, o.needs, o.raw, o.line, None, o.said), x.bits
            )
        return Tile(x.value, dims, x.dtype, x.number)

    def broadcast(self, op: Op) -> Thing:
        return self.fitted(self.env[op.operands[0]], self.axes.of(op.results[0]))

    def expand(self, op: Op) -> Thing:
        x, axis = self.env[op.operands[0]], number(op.attrs["axis"])
        dims = self.axes.of(op.results[0])
        inner = self.fitted(x, tuple(a for d, a in enumerate(dims) if d != axis))
        if isinstance(inner, Sym):
            return Sym(
                inner.expr, dims, inner.bits, inner.needs, inner.raw, inner.line, None, inner.said
            )
        if isinstance(inner, Pointer):
            o = inner.offset
            return Pointer(
                inner.buffer,
                Sym(o.expr, dims, o.bits, o.needs, o.raw, o.line, None, o.said),
                inner.bits,
            )
        return Tile(inner.value, dims, inner.dtype, inner.number)

    def advance(self, op: Op) -> Thing:
        dims = self.axes.of(op.results[0])
        p = self.pointer(op, 0, dims)
        by = self.observe(self.symbol(op, 1, dims), op.line)
        offset = self.exact(p.offset.expr + by.expr, 64, dims, op.line, p.offset, by)
        return Pointer(p.buffer, offset, p.bits)

    def cast(self, op: Op) -> Thing:
        x = self.real(op, 0)
        kind = self.kind_of(op.types()[0])
        if x.value is None:
            return Tile(None, x.dims, kind, nearest(float(x.number), kind))
        b, v, hint = self.emitting(), self.value(x), plain(op.results[0])
        uses = self.uses.get(op.results[0], [])
        if kind.bits < v.dtype.bits and uses and all(u.name == "arith.extf" for u in uses):
            made = b.define("round", (v,), v.axes, kind, name=hint)  # cut to be widened again
        else:
            made = b.cast(v, kind, hint)
        return Tile(made, x.dims, kind)

    def to_real(self, op: Op) -> Thing:
        dims, kind = self.axes.of(op.results[0]), self.kind_of(op.types()[0])
        x = self.symbol(op, 0, dims)
        b, hint = self.emitting(), plain(op.results[0])
        if x.bits == 1:
            one = -1.0 if op.name == "arith.sitofp" else 1.0
            yes, no = self.number(one, kind), self.number(0.0, kind)
            return Tile(b.ew("select", self.value(x), yes, no, name=hint), dims, kind)
        x = self.observe(x)
        e = self.use(x)
        if op.name == "arith.uitofp":
            e = self.unsigned(x)
        if e.op == "const":
            return Tile(None, dims, kind, float(e.attr))
        if not leaves(e, "value"):
            return Tile(b.index(e, kind, hint), dims, kind)
        wide = x.bits if op.name == "arith.sitofp" else 64
        v = self.materialise(e, dtype(f"i{wide}") if wide < 64 else I64)
        return Tile(b.cast(v, kind, hint), dims, kind)

    def selection(self, op: Op) -> Thing:
        c = self.env[op.operands[0]]
        assert isinstance(c, Sym)
        a, b = (self.env[x] for x in op.operands[1:])
        return self.choice(c, a, b, self.axes.of(op.results[0]), plain(op.results[0]))

    def clamp(self, op: Op) -> Thing:
        x, lo, hi = (self.real(op, n) for n in range(3))
        return self.row(op, "min", [self.row(op, "max", [x, lo]), hi])

    def bitcast(self, op: Op) -> Thing:
        x = self.env[op.operands[0]]
        if isinstance(x, Pointer):
            kind = op.types()[0].element
            if x.buffer.dtype is not BOOL or kind != "i8":
                raise self.refuse(f"an address of {x.buffer.dtype} used as one of {kind}")
            p = self.fitted(x, self.axes.of(op.results[0]))
            assert isinstance(p, Pointer)
            return Pointer(p.buffer, p.offset, 8)
        if isinstance(x, Sym) and x.bits > 1 and op.types()[0].element == f"i{x.bits}":
            return x
        source, target = op.ins[0].element, op.types()[0].element
        return self.opaque(op, f"bitcast {source} {target}")

    def draw(self, op: Op, drawn: Draw) -> Thing:
        """A random number as the row that it is."""
        dims = self.axes.of(op.results[0])
        parts = [self.source(s, dims) for s in (drawn.seed, drawn.position, drawn.stream)]
        v = self.emitting().ew(drawn.row, *parts, name=plain(op.results[0]))
        return Tile(v, dims, v.dtype)

    def source(self, s: Source, dims: Dims) -> Value:
        if not s.name:
            return self.number(s.number, I64)
        x = self.env[s.name]
        assert isinstance(x, Sym)
        x = self.observe(self.lifted(x, dims))
        e = self.use(x)
        return self.materialise(call("mod", e, 1 << 32) if s.cut else e, I64)

    def absolute(self, op: Op) -> Thing:
        x = self.observe(self.symbol(op, 0), op.line)
        return self.exact(call("abs", x.expr), x.bits, x.dims, op.line, x)


HANDLERS = {
    "arith.constant": Results.constant,
    "arith.select": Results.selection,
    "arith.extf": Results.cast,
    "arith.truncf": Results.cast,
    "tt.fp_to_fp": Results.cast,
    "arith.sitofp": Results.to_real,
    "arith.uitofp": Results.to_real,
    "arith.bitcast": Results.bitcast,
    "tt.bitcast": Results.bitcast,
    "tt.clampf": Results.clamp,
    "math.absi": Results.absolute,
    "tt.get_program_id": Results.program_id,
    "tt.get_num_programs": Results.num_programs,
    "tt.make_range": Results.make_range,
    "tt.splat": Results.splat,
    "tt.broadcast": Results.broadcast,
    "tt.expand_dims": Results.expand,
    "tt.addptr": Results.advance,
    "tt.load": Results.load,
    "tt.dot": Results.dot,
    "tt.trans": Results.transpose,
    "tt.reshape": Results.reshape,
    "tt.join": Results.join,
    "tt.extern_elementwise": Results.library,
}
