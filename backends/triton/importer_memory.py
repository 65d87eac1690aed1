"""Memory of imported kernels: addresses become logical indices, masks and fills are kept.

A masked-off lane without `other` is poison; with `zero_fill` it is 0, as today's lowering has it,
and the program says that it assumes so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from opwright.backends.triton.importer_axes import plain
from opwright.backends.triton.importer_symbols import (
    WIDE,
    Dims,
    Need,
    Sym,
    is_flag,
    values_in,
)
from opwright.backends.triton.importer_values import Pointer, Thing, Tile, Values
from opwright.backends.triton.ttir import Block, Op
from opwright.ir.delinearize import logical_index, settled, strides_of
from opwright.ir.dtypes import BOOL, I64, dtype
from opwright.ir.expr import TRUE, Expr, call, const, leaf, param, show, substitute
from opwright.ir.tile import Buffer, Value, element_count

ZERO_FILL = "zero fill of masked loads"
BARRIERS = ("ttg.barrier", "gpu.barrier", "ttg.local_barrier", "tt.debug_barrier")
ACCESSES = ("tt.load", "tt.store", "tt.atomic_rmw", "tt.atomic_cas")
ATOMICS = {
    "fadd": "sum", "add": "sum", "max": "max", "min": "min", "umax": "max", "umin": "min",
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Descriptor:
    """A window on a buffer: what lies outside of its shape reads as 0 and is not written."""

    base: Pointer
    shape: tuple[Sym, ...]
    strides: tuple[Sym, ...]


class Memory(Values):
    """Loads, stores and atomics of one kernel."""

    def __init__(
        self,
        file: str,
        kernel: str,
        stated: Mapping[Expr, Expr],
        flat: Mapping[str, Buffer],
        zero_fill: bool,
    ) -> None:
        super().__init__(file, kernel)
        self.stated_values, self.flat, self.zero_fill = stated, flat, zero_fill
        self.offsets: dict[str, list[Expr]] = {}
        self.assumes: dict[str, None] = {}
        self.reads: dict[str, int] = {}  # buffers and lines
        self.writes: dict[str, int] = {}
        self.barriers: list[int] = []
        self.descriptors: dict[str, Descriptor] = {}

    def pointer(self, op: Op, number: int, dims: Dims) -> Pointer:
        x = self.env[op.operands[number]]
        if not isinstance(x, Pointer):
            raise self.refuse(f"{op.name} through something that is no address")
        fitted = self.fitted(x, dims)
        assert isinstance(fitted, Pointer)
        return fitted

    def place(self, p: Pointer, mask: Expr) -> tuple[Buffer, tuple[Expr, ...]]:
        """The buffer as the program sees it, and the logical index of an address."""
        b, offset = p.buffer, self.use(p.offset, mask)
        self.offsets.setdefault(b.name, []).append(offset)
        view = self.flat.get(b.name)
        if view is not None and len(view.shape) < 2:
            return view, (substitute(offset, dict(self.stated_values)),)
        b = view or b
        index = logical_index(offset, b, (), self.stated_values)
        if index is None:
            if b.name not in self.flat:  # one axis for now: the caller decides and comes again
                return _line(b), (offset,)
            steps = ", ".join(show(s) for s in strides_of(b, self.stated_values))
            raise self.refuse(
                f"the offset {show(offset)} is no index of {b.name} with strides ({steps}): "
                f"facts such as stride({b.name}, {max(len(b.shape) - 1, 0)}) == 1 are missing"
            )
        return b, settled(index, b, self.stated_values, mask)

    def mask(self, op: Op, number: int, dims: Dims) -> Expr:
        """The mask operand with what it rests on, the path of the branch included."""
        out = TRUE
        if number < len(op.operands):
            x = self.env[op.operands[number]]
            if not isinstance(x, Sym) or x.bits != 1:
                raise self.refuse(f"the mask of {op.name} is no truth value")
            out = self.use(self.aligned(x, dims))
        return out

    def load(self, op: Op) -> Thing:
        dims, b = self.axes.of(op.results[0]), self.emitting()
        if op.attrs.get("boundaryCheck", "array<i32>") not in ("array<i32>", "[]"):
            raise self.refuse("a load through a block pointer")
        p = self.pointer(op, 0, dims)
        mask = self.mask(op, 1, dims)
        fill = self.env[op.operands[2]] if len(op.operands) > 2 else None
        under = call("and", self.path, mask)
        buffer, index = self.place(p, under)
        number = None if fill is None else _number(fill)
        if fill is None and self.zero_fill and mask is not TRUE:
            number = 0
            self.assumes[ZERO_FILL] = None
        if mask is TRUE and self.path is not TRUE:
            number = 0  # never seen: the branch is not taken
        other: float | int | bool | None = number
        if buffer.dtype is BOOL and number is not None:
            other = bool(number)
        elif buffer.dtype.kind == "real" and number is not None:
            other = float(number)
        elif buffer.dtype.kind == "int" and number is not None:
            other = int(number)
        v = b.load(buffer, *index, mask=under, other=other, name=plain(op.results[0]))
        self.reads[buffer.name] = self.line
        made = self.loaded(v, p, dims)
        if self.path is not TRUE and mask is not TRUE and number is None and fill is None:
            idle = self.like(made, 0, dims)
            made = self.choice(Sym(self.path, (), 1), made, idle, dims)
        if fill is not None and number is None:
            made = self.choice(Sym(mask, dims, 1), made, self.fitted(fill, dims), dims)
        return made

    # -- descriptors
    def describe(self, op: Op) -> list[Thing]:
        """tt.make_tensor_descriptor, and what copies through one rest on."""
        rank = (len(op.operands) - 1) // 2
        if op.attrs.get("padding", "1 : i32").split()[0] not in ("1", "#tt.padding"):
            raise self.refuse("a tensor descriptor that fills with something else than 0")
        base = self.env[op.operands[0]]
        if not isinstance(base, Pointer):
            raise self.refuse("a tensor descriptor of something that is no address")
        parts = [self.symbol(op, n, ()) for n in range(1, 2 * rank + 1)]
        made = Descriptor(base, tuple(parts[:rank]), tuple(parts[rank:]))
        bytes_each = base.buffer.dtype.bytes
        conds = [call("eq", made.strides[-1].expr, 1)]
        conds += [call("eq", s.expr * bytes_each % 16, 0) for s in made.strides[:-1]]
        conds.append(call("eq", base.offset.expr * bytes_each % 16, 0))
        conds.append(param(f"aligned({base.buffer.name}, 16)", "bool"))
        why = f"what a descriptor of {base.buffer.name} copies starts at multiples of 16 bytes"
        for cond in conds:
            if not (cond.op == "const" and cond.attr):
                self.discharge((Need(cond, "align", why, op.line),))
        self.descriptors[op.results[0]] = made
        return [Sym(const(0), (), WIDE)]

    def window(self, op: Op, count: int, dims: Dims) -> tuple[Pointer, Expr]:
        """Addresses of a block of a descriptor, and which of them are inside."""
        d = self.descriptors.get(op.operands[0])
        if d is None or len(dims) != len(d.shape) or count != len(d.shape):
            raise self.refuse(f"{op.name} of a descriptor that is not made in the kernel")
        offset, inside = d.base.offset, TRUE
        for n, (size, step, a) in enumerate(zip(d.shape, d.strides, dims, strict=True)):
            start = self.observe(self.symbol(op, 1 + n, ()), op.line)
            self.use(start)  # also where nothing is inside
            place = start.expr + (const(0) if a is None else a.lane)
            offset = self.exact(
                offset.expr + place * step.expr, WIDE, dims, op.line, offset, start, step
            )
            if not self.ranges.natural(place):
                inside = call("and", inside, call("le", 0, place))
            inside = call("and", inside, call("lt", place, self.use(size)))
        return Pointer(d.base.buffer, offset, d.base.bits), inside

    def fetch(self, op: Op) -> Thing:
        dims, b = self.axes.of(op.results[0]), self.emitting()
        p, inside = self.window(op, len(op.operands) - 1, dims)
        under = call("and", self.path, inside)
        buffer, index = self.place(p, under)
        zero: float | int = 0.0 if buffer.dtype.kind == "real" else 0
        v = b.load(buffer, *index, mask=under, other=zero, name=plain(op.results[0]))
        self.reads[buffer.name] = self.line
        return self.loaded(v, p, dims)

    def put(self, op: Op) -> None:
        dims, b = self.axes.of(op.operands[-1]), self.emitting()
        p, inside = self.window(op, len(op.operands) - 2, dims)
        under = call("and", self.path, inside)
        buffer, index = self.place(p, under)
        v = self.stored(self.fitted(self.env[op.operands[-1]], dims), buffer)
        b.store(buffer, *index, v, mask=under)
        self.writes[buffer.name] = self.line

    def like(self, x: Thing, number: int, dims: Dims) -> Thing:
        if isinstance(x, Tile):
            return Tile(None, dims, x.dtype, number)
        assert isinstance(x, Sym)
        return Sym(const(bool(number) if x.bits == 1 else number), dims, x.bits)

    def loaded(self, v: Value, p: Pointer, dims: Dims) -> Thing:
        """What a kernel sees of an element: integers without a sign get the one TTIR gives."""
        kind = v.dtype
        if kind.kind == "real":
            return Tile(v, dims, kind)
        if kind is BOOL:
            e = leaf("value", v, "bool")
            if p.bits <= 1:
                return Sym(e, dims, 1)
            return Sym(call("select", e, 1, 0), dims, p.bits)
        e = leaf("value", v, "int")
        if kind.name[0] == "u":
            e = self.signed(e, kind.bits)
        return Sym(e, dims, kind.bits)

    def store(self, op: Op) -> None:
        if op.attrs.get("boundaryCheck", "array<i32>") not in ("array<i32>", "[]"):
            raise self.refuse("a store through a block pointer")
        dims, b = self.axes.of(op.operands[0]), self.emitting()
        p = self.pointer(op, 0, dims)
        under = call("and", self.path, self.mask(op, 2, dims))
        buffer, index = self.place(p, under)
        v = self.stored(self.fitted(self.env[op.operands[1]], dims), buffer)
        b.store(buffer, *index, v, mask=under)
        self.writes[buffer.name] = self.line

    def stored(self, x: Thing, buffer: Buffer) -> Value:
        """A thing as an element of a buffer."""
        kind = buffer.dtype
        if isinstance(x, Sym) and x.raw and kind.kind == "int" and values_in(x.expr):
            self.discharge(x.needs)  # memory keeps the number modulo 2^bits, as a cast does
            return self.converted(self.materialise(x.expr, I64), kind)
        if isinstance(x, Sym):
            if kind is BOOL:
                e = self.use(x)
                if e.kind != "bool":
                    e = e.args[0] if is_flag(e) else call("ne", e, 0)
                return self.materialise(e, BOOL)
            if kind.kind == "int" and kind.name[0] == "u":
                return self.materialise(self.unsigned(self.observe(x)), kind)
            return self.value(x, kind if kind.kind == "int" else dtype(f"i{x.bits}"))
        return self.value(x)

    def atomic(self, op: Op) -> None:
        """Every lane takes part, also lanes that share an address."""
        kind = op.words[0] if op.words else ""
        if kind not in ATOMICS:
            raise self.refuse(f"an atomic {kind or op.rest}")
        dims, b = self.axes.of(op.operands[0]), self.emitting()
        p = self.pointer(op, 0, dims)
        under = call("and", self.path, self.mask(op, 2, dims))
        buffer, index = self.place(p, under)
        v = self.stored(self.fitted(self.env[op.operands[1]], dims), buffer)
        if kind[0] == "u" and buffer.dtype.name[0] != "u":
            raise self.refuse(f"an atomic {kind} of {buffer.dtype}")
        b.atomic(ATOMICS[kind], buffer, *index, self.spread(v, dims), mask=under)

    def ordered(self, blocks: Sequence[Block]) -> None:
        """Barriers between all accesses that may meet put statements in order; others have a
        meaning only where they change nothing."""
        if not self.barriers:
            return
        if len(blocks) == 1 and self.separated(blocks[0].ops, Open()) is not None:
            self.builder.order = "statement"
            return
        both = [n for n in self.writes if n in self.reads]
        if both:
            self.line = self.barriers[0]
            raise self.refuse(f"a barrier between writes and reads of {both[0]}")

    def separated(self, ops: Iterable[Op], seen: Open) -> Open | None:
        """What was accessed since the last barrier; None where one of two accesses without a
        barrier between them writes."""
        for op in ops:
            if op.name in BARRIERS:
                seen = Open()
            elif op.name in ACCESSES:
                p = self.env.get(op.operands[0])
                if not isinstance(p, Pointer):
                    return None
                name, reads = p.buffer.name, op.name == "tt.load"
                if name in seen.writes or (not reads and name in seen.reads):
                    return None
                seen = seen.with_one(name, reads)
            elif op.regions:
                twice = 2 if op.name == "scf.for" else 1
                ends = [seen]
                for region in op.regions:
                    end: Open | None = seen
                    for block in region * twice:
                        end = None if end is None else self.separated(block.ops, end)
                    if end is None:
                        return None
                    ends.append(end)
                seen = Open.union(ends)
        return seen


@dataclass(frozen=True, slots=True)
class Open:
    """Buffers accessed since the last barrier."""

    reads: frozenset[str] = frozenset()
    writes: frozenset[str] = frozenset()

    def with_one(self, name: str, reads: bool) -> Open:
        if reads:
            return Open(self.reads | {name}, self.writes)
        return Open(self.reads, self.writes | {name})

    @staticmethod
    def union(of: Iterable[Open]) -> Open:
        parts = list(of)
        reads = frozenset().union(*(p.reads for p in parts))
        return Open(reads, frozenset().union(*(p.writes for p in parts)))


def _line(b: Buffer) -> Buffer:
    """A stand-in for a buffer whose offsets are not split."""
    return Buffer(b.name, b.role, b.dtype, (element_count(b.shape),), None, b.init)


def _number(x: Thing) -> float | int | None:
    """The number that a fill is, if it is one."""
    if isinstance(x, Tile) and x.value is None:
        return x.number
    if isinstance(x, Sym) and x.expr.op == "const":
        return int(x.expr.attr)
    return None
