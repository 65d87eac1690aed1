"""Windows over a copy that has what lies outside: no masks and no strides where it counts.

The second factor of a window sum reads one tensor at indices that are affine in the result's and
the sum's. A first launch evaluates it once at every place that any window reaches, also outside the
tensor, with the column index innermost; where columns are `step` elements apart, one row of the
copy for each remainder, so that neighbouring columns are neighbours in memory. Register tiles then
load whole vectors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from opwright.compiler.buffers import Memory
from opwright.compiler.evaluate import Unsupported
from opwright.compiler.strategies.window import Form, WindowEmitter, WindowSchedule
from opwright.ir.dtypes import DType
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    affine,
    call,
    cdiv,
    const,
    free_vars,
    pid,
    read,
    read_parts,
    substitute,
    var,
    walk,
)
from opwright.ir.extents import from_affine
from opwright.ir.op import OpAxis
from opwright.ir.tile import Axis, Buffer, Kernel, Placement, Value


@dataclass(frozen=True, slots=True)
class _Along:
    """How a read moves along one axis of its tensor: `place` in the copy, from 0, for what lies at
    `low` + place in the tensor; places end before `span`. A `loose` one may lie outside."""

    place: Expr
    low: Expr
    span: Expr
    loose: bool = False


@dataclass(frozen=True, slots=True)
class _Stage:
    """The one read of the second factor: its axes, which of them the columns move along and by how
    much; `rest` is the place at column 0, at most `most`."""

    reading: Expr
    along: tuple[_Along, ...]
    column: int
    step: int
    rest: Expr
    most: Expr


def _stage(form: Form) -> _Stage:
    """Raises Unsupported with the reason when the second factor is no function of one read."""
    t, e = form.result, form.right
    ranges = {a.name: a.hi for a in (*t.axes, *form.depth)}
    reads = list(dict.fromkeys(x for x in walk(e) if x.op == "read"))
    if len(reads) != 1 or any(x.op == "read" for a in reads[0].args for x in walk(a)):
        raise Unsupported(f"{t.name} reads more than one element for its column factor")
    (reading,) = reads
    if free_vars(substitute(e, {reading: const(0.0)})):
        raise Unsupported(f"{t.name} has a column factor that is no function of one read")
    name, index, fill = read_parts(reading)
    filled = fill is not None
    tensor = form.group.normal.tensor(name)
    column = t.axes[-1].name
    moved = [n for n, i in enumerate(index) if column in free_vars(i)]
    if len(moved) != 1:
        raise Unsupported(f"{t.name}: the columns move along several axes of {name}")
    along, step, rest, most = [], 0, ZERO, ZERO
    for n, i in enumerate(index):
        found = _along(i, ranges)
        if n not in moved:
            along.append(found or _Along(i, ZERO, tensor.shape[n], filled))
            continue
        form_of = affine(found.place) if found else None
        if found is None or form_of is None or form_of.get(var(column), 0) < 1:
            raise Unsupported(f"{t.name}: the columns are no constant number of elements apart")
        step = form_of[var(column)]
        rest = from_affine({k: c for k, c in form_of.items() if k is not var(column)})
        most = found.span - 1 - (ranges[column] - 1) * step
        along.append(found)
    return _Stage(reading, tuple(along), moved[0], step, rest, _plain(most))


def _vanishes(e: Expr, reading: Expr, fill: Expr) -> bool:
    """Whether a function of a read is 0 where the read is outside."""
    while e.op == "cast":
        e = e.args[0]
    return e is reading and fill.op == "const" and fill.attr == 0


def _along(i: Expr, ranges: Mapping[str, Expr]) -> _Along | None:
    """An index as a place from 0 on; None where it is not affine in the indices it speaks of."""
    form = affine(i)
    if form is None or any(
        k is not None and k.op != "var" and free_vars(k) & set(ranges) for k in form
    ):
        return None
    moving: dict[Expr | None, int] = {
        k: c for k, c in form.items() if k is not None and k.op == "var"
    }
    low = from_affine({k: c for k, c in form.items() if k not in moving})
    place, span = from_affine(moving), const(1)
    for k, c in moving.items():
        assert k is not None
        last = ranges[k.attr] - 1
        span = span + last * abs(c)
        if c < 0:
            low, place = low + last * c, place - last * c
    return _Along(_plain(place), _plain(low), _plain(span))


def _plain(e: Expr) -> Expr:
    form = affine(e)
    return e if form is None else from_affine(form)


def lower(
    name: str, form: Form, memory: Memory, s: WindowSchedule, real: DType
) -> list[tuple[Kernel, Placement]]:
    """Three launches: pack the row factor by groups of rows; copy the other one; register
    tiles."""
    if s.nr % s.vec:
        raise Unsupported("the tile is not a multiple of the vector")
    emitter = _Emitter(name, form, memory, s, real)
    return [emitter.pack(), emitter.copy(), emitter.multiply()]


class _Emitter(WindowEmitter):
    def __init__(
        self, name: str, form: Form, memory: Memory, s: WindowSchedule, real: DType
    ) -> None:
        super().__init__(name, form, memory, s, real)
        self.stage = st = _stage(form)
        others = [a.span for n, a in enumerate(st.along) if n != st.column]
        reach = cdiv(self.n, s.nr) * s.nr + (st.most // st.step if st.step > 1 else st.most)
        self.wide = cdiv(reach, s.vec)  # vectors in one row of the copy
        shape = (*others, const(st.step), self.wide * s.vec)
        self.copied = Buffer(f"{form.result.name}_pc", "plan", real, shape)

    def copy(self) -> tuple[Kernel, Placement]:
        """The second factor at every place that a window reaches, and what follows it."""
        st, f, s = self.stage, self.f, self.s
        others = [n for n in range(len(st.along)) if n != st.column]
        lanes = Axis("q", s.vec)
        axes = [OpAxis(f"at{n}", ZERO, st.along[n].span) for n in others]
        self.open(f"{self.name}_copy", [a.hi for a in axes[::-1][:3]])
        here = {var(a.name): pid(n) for n, a in enumerate(axes[::-1][:3])}

        def row(at: dict[Expr, Expr]) -> None:
            places = [at[var(a.name)] for a in axes]

            def phase(ph: Expr, v: Expr) -> None:
                self.e.enter()
                m = v * s.vec + lanes.lane
                along = st.along[st.column]
                last = along.low + m * st.step + ph
                low = (st.along[n].low + x for n, x in zip(others, places, strict=True))
                index = list(low)
                index.insert(st.column, last)
                name, _, fill = read_parts(st.reading)
                moved = read(
                    name, tuple(index), st.reading.kind, const(0.0) if fill is None else fill
                )
                x = self.e.value(substitute(f.right, {st.reading: moved}))
                self.b.store(self.copied, *places, ph, m, self.e.spread(x, (lanes,)))
                self.e.leave()

            def step(v: Expr) -> None:
                for ph in range(st.step):
                    phase(const(ph), v)

            self.b.loop("v", ZERO, self.wide, 1, (), step)

        self.over(axes[::-1][3:], here, row)
        return self.b.kernel(), Placement(axes={"q": ("vec", s.vec)}, threads=s.threads)

    def second(self, here: Mapping[Expr, Expr], mask: Expr) -> Value:
        """Out of the copy, which has something at every place."""
        st = self.stage
        at = {**here, var(self.axes[-1].name): ZERO}
        places = [substitute(a.place, at) for n, a in enumerate(st.along) if n != st.column]
        rest, column = substitute(st.rest, at), here[var(self.axes[-1].name)]
        phase = rest % st.step if st.step > 1 else ZERO
        first = rest // st.step if st.step > 1 else rest
        inside = TRUE
        for a in st.along:
            if a.loose:
                place = substitute(a.place, at)
                inside = inside & call("le", 0, place) & call("lt", place, a.span)
        other = None if inside is TRUE else 0.0
        index = (*places, phase, column + first)
        return self.b.load(self.copied, *index, mask=inside, other=other, name="x")

    def tiles(self, at: Mapping[Expr, Expr], g: Expr, left: Expr) -> None:
        """One tile; what it has outside the result is not stored."""
        s, column = self.s, left + self.c.lane
        point = {**at, var(self.axes[-1].name): column}
        acc = self.summed(point, g, TRUE)
        row = g * s.mr + self.one
        whole = call("le", g * s.mr + s.mr, self.m) & call("le", left + s.nr, self.n)
        inside = call("lt", row, self.m) & call("lt", column, self.n)
        self.b.branch(
            whole,
            lambda: self.finish(point, row, acc, TRUE),
            lambda: self.finish(point, row, acc, inside),
        )
