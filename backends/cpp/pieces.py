"""A program in pieces: lane axes split as the printer splits them.

The printer makes one variable per coordinate of an unrolled axis and one vector per register of a
vec axis. In pieces a program says the same, as TileIR: axes have the lanes of one register, what
was unrolled stands side by side, reductions and scans are over registers and over what they leave.
Text that is read back without joining anything is in pieces too, so that the two can be compared
(`ir/normal.py`) even where a value that differs by lane left nothing in the text to join it by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from opwright.backends.cpp.importer import import_program
from opwright.backends.cpp.importer_prelude import printed_for
from opwright.backends.cpp.indexing import At, Indexing
from opwright.backends.cpp.printer import known_leaves
from opwright.backends.cpp.scalar import PrintError
from opwright.backends.cpp.vocabulary import isa
from opwright.ir.delinearize import seen_flat
from opwright.ir.expr import Expr, const, leaf, leaves, substitute
from opwright.ir.launch import BoundPlan
from opwright.ir.normal import normal_form
from opwright.ir.semantics import MONOIDS
from opwright.ir.tile import (
    Axis,
    Barrier,
    Check,
    Def,
    For,
    If,
    Load,
    Placement,
    Scan,
    Stmt,
    Store,
    TileProgram,
    Value,
    access_axes,
    lanes,
)

Key = tuple[Value, tuple[int, ...]]


def in_pieces(program: TileProgram, isa_name: str) -> TileProgram:
    """The program as `print_program` unrolls it for an instruction set; PrintError where it cannot
    be printed."""
    known = known_leaves(program)
    kernels = []
    for k, p in zip(program.kernels, program.placements, strict=True):
        where = Indexing(k, p, isa(isa_name), known)
        kernels.append(replace(k, body=_Pieces(where).block(k.body)))
    return replace(program, kernels=tuple(kernels), placements=tuple(Placement() for _ in kernels))


class _Pieces:
    """One kernel; a value has a piece per coordinate."""

    def __init__(self, where: Indexing) -> None:
        self.where = where
        self.made: dict[Key, Value] = {}
        self.defined: set[Value] = set()
        self.taken: set[str] = set()
        self.axes = {a: Axis(a.name, w) for a, w in where.widths.items() if w > 1}

    # -- values and expressions
    def key(self, v: Value, at: At) -> Key:
        return v, tuple(at[a] for a in v.axes)

    def piece(self, v: Value, at: At) -> Value:
        return self.made[self.key(v, at)]

    def fresh(self, name: str, at: Iterable[int] = ()) -> str:
        """A name of its own for a piece."""
        base = "_".join([name, *map(str, at)])
        label, n = base, 0
        while label in self.taken:
            n += 1
            label = f"{base}_n{n}"
        self.taken.add(label)
        return label

    def name(self, v: Value, at: At) -> str:
        return self.fresh(v.name, (at[a] for a in v.axes))

    def registers(self, axes: Iterable[Axis]) -> tuple[Axis, ...]:
        return tuple(self.axes[a] for a in axes if a in self.axes)

    def expr(self, e: Expr, at: At) -> Expr:
        moved: dict[Expr, Expr] = {}
        for x in leaves(e, "lane"):
            here = const(at[x.attr])
            moved[x] = here + self.axes[x.attr].lane if x.attr in self.axes else here
        for x in leaves(e, "value"):
            moved[x] = leaf("value", self.piece(x.attr, at), x.kind)
        return substitute(e, moved)

    # -- statements
    def block(self, body: Iterable[Stmt]) -> tuple[Stmt, ...]:
        return tuple(self.statements(body))

    def statements(self, body: Iterable[Stmt]) -> Iterator[Stmt]:
        for run in self.where.runs(body):
            s = run[0]
            if isinstance(s, Def | Store):
                for one, at in self.where.copies(run):
                    yield from self.define(one, at)
            elif isinstance(s, For):
                yield self.loop(s)
            elif isinstance(s, If):
                yield If(self.expr(s.cond, {}), self.block(s.then), self.block(s.other))
            elif not isinstance(s, Check):  # what holds in every lane says nothing of its own
                what = "a barrier" if isinstance(s, Barrier) else f"an atomic {s.monoid}"
                raise PrintError(f"{s.name}: {what} has no C++ here")

    def define(self, s: Def | Store, at: At) -> Iterator[Stmt]:
        if isinstance(s, Store):
            index = tuple(self.expr(e, at) for e in s.index)
            label = self.fresh(s.name, (at[a] for a in access_axes(s)))
            value = self.piece(s.value, at)
            yield replace(s, name=label, index=index, value=value, mask=self.expr(s.mask, at))
            return
        for v in self.value(s.value, at):
            if v not in self.defined:
                self.defined.add(v)
                yield Def(v)
        self.made[self.key(s.value, at)] = v

    def value(self, v: Value, at: At) -> Iterator[Value]:
        """A piece, what it is computed from first."""
        name, axes = self.name(v, at), self.registers(v.axes)
        if v.op == "index":
            e = self.expr(v.attr, at)
            yield Value(name, "index", (), lanes(e), v.dtype, e)
        elif v.op == "load":
            m: Load = v.attr
            index = tuple(self.expr(e, at) for e in m.index)
            mask = self.expr(m.mask, at)
            found = Load(m.buffer, index, mask, m.other)
            yield Value(name, "load", (), lanes(*index, mask), v.dtype, found)
        elif v.op == "reduce":
            yield from self.reduce(v, at, name, axes)
        elif v.op == "scan":
            yield from self.scan(v, at, name, axes)
        else:
            args = tuple(self.piece(a, at) for a in v.args)
            yield Value(name, v.op, args, axes, v.dtype, v.attr)

    def reduce(self, v: Value, at: At, name: str, axes: tuple[Axis, ...]) -> Iterator[Value]:
        """A balanced tree over the copies, then the lanes of what is left."""
        monoid, axis = v.attr
        source, row = v.args[0], MONOIDS[monoid].row
        parts = [self.piece(source, {**at, **c}) for c in self.where.coords([axis])]
        while len(parts) > 1:
            pairs = [parts[n : n + 2] for n in range(0, len(parts), 2)]
            parts = []
            for pair in pairs:
                if len(pair) == 2:
                    own = self.registers(source.axes)
                    pair = [Value(self.fresh(f"{name}_part"), row, tuple(pair), own, v.dtype)]
                    yield pair[0]
                parts += pair
        if axis in self.axes:
            yield Value(name, "reduce", (parts[0],), axes, v.dtype, (monoid, self.axes[axis]))
        else:
            yield parts[0]

    def scan(self, v: Value, at: At, name: str, axes: tuple[Axis, ...]) -> Iterator[Value]:
        """A register (or element) scanned, combined with where the one before it ended."""
        what: Scan = v.attr
        source, width = self.piece(v.args[0], at), self.where.widths[what.axis]
        found = source
        if width > 1:
            inner = Scan(what.monoid, self.axes[what.axis], what.reverse)
            found = Value(name, "scan", (source,), axes, v.dtype, inner)
            yield found
        near = at[what.axis] + (width if what.reverse else -width)
        if 0 <= near < what.axis.extent:
            last = self.piece(v, {**at, what.axis: near})
            if width > 1:
                end = const(0 if what.reverse else width - 1)
                rest = tuple(a for a in axes if a != inner.axis)
                last = Value(
                    self.fresh(f"{name}_last"), "view", (last,), rest, v.dtype, ((inner.axis, end),)
                )
                yield last
            yield Value(
                self.fresh(f"{name}_on"), MONOIDS[what.monoid].row, (last, found), axes, v.dtype
            )
        elif width == 1:
            yield found

    # -- loops
    def loop(self, s: For) -> For:
        inits: list[Value] = []
        params: list[Value] = []
        results: list[Value] = []
        yields: list[Value] = []
        at_ = [self.where.coords(p.axes) for p in s.params]
        for i, p, r, places in zip(s.inits, s.params, s.results, at_, strict=True):
            for at in places:
                inits.append(self.piece(i, at))
                for v, out in ((p, params), (r, results)):
                    made = Value(self.name(v, at), v.op, (), self.registers(v.axes), v.dtype)
                    self.made[self.key(v, at)] = made
                    self.defined.add(made)
                    out.append(made)
        body = self.block(s.body)
        for y, places in zip(s.yields, at_, strict=True):
            yields += [self.piece(y, at) for at in places]
        lo, hi = self.expr(s.lo, {}), self.expr(s.hi, {})
        state = (tuple(inits), tuple(params), body, tuple(yields), tuple(results))
        return For(s.variable, lo, hi, s.step, *state)


def reads_back(source: str, bound: BoundPlan, file: str, program: TileProgram) -> bool:
    """Whether a text reads as what the printer makes of a program, piece by piece."""
    level = printed_for(source)
    if level is None:
        return False
    flat = seen_flat(program, bound.buffers)
    found = import_program(source, bound, file, joined=False, flat=flat)
    return normal_form(found) == normal_form(in_pieces(program, level))
