"""Running reductions: t[.., i, ..] = fold over what comes before (or after) i, one pass along i.

`along`: lanes run along the scanned axis; each tile is scanned in registers and carries on where
the one before ended. `across`: lanes or copies over another axis carry a state each, for scanned
axes that are not contiguous, and for those that run backwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from opwright.compiler.buffers import Memory
from opwright.compiler.evaluate import Unsupported
from opwright.compiler.strategies.emitter import Emitter
from opwright.compiler.strategies.fallback import Running, scan_of
from opwright.compiler.strategies.group import Group
from opwright.ir.dtypes import F64, DType
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    Fold,
    call,
    cdiv,
    minimum,
    pid,
    substitute,
    var,
    walk,
)
from opwright.ir.op import OpAxis, Tensor
from opwright.ir.semantics import MONOIDS
from opwright.ir.tile import Axis, Kernel, Placement, Scan, Value


@dataclass(frozen=True, slots=True)
class Form:
    """The tensor, how it runs, and the position of the axis with lanes of its own (None: there is
    no other axis)."""

    group: Group
    result: Tensor
    running: Running
    other: int | None

    @property
    def contiguous(self) -> bool:
        """Whether lanes can run along the scanned axis: it is the last one, runs forwards, and a
        result holds its own element."""
        run = self.running
        return run.axis == len(self.result.axes) - 1 and run.inclusive and not run.reverse


def recognise(group: Group) -> Form:
    """Raises Unsupported with the reason when the group is not one running reduction."""
    t, *rest = group.members
    found = scan_of(t)
    if rest or found is None:
        raise Unsupported(f"{t.name} is not a running reduction alone")
    assert t.body is not None
    f = Fold(t.body)
    if f.kind not in MONOIDS or t.kind == "bool":
        raise Unsupported(f"{t.name} is not a plain reduction of numbers")
    if any(a.lo is not ZERO or any(x.op in ("var", "read") for x in walk(a.hi)) for a in t.axes):
        raise Unsupported(f"{t.name} has an axis that depends on another")
    if any(x.op == "fold" for x in walk(group.expand(f.term))):
        raise Unsupported(f"{t.name} holds a fold inside another")
    others = [n for n in range(len(t.axes)) if n != found.axis]
    return Form(group, t, found, others[-1] if others else None)


@dataclass(frozen=True, slots=True)
class ScanSchedule:
    """mode: along | across; width lanes (or copies) of `vec`-wide vectors; wide: sums carry f64;
    stream: bypass the cache on output."""

    mode: str = "along"
    width: int = 16
    vec: int = 16
    wide: bool = True
    stream: bool = False
    threads: str = "static"


def lower(
    name: str, form: Form, memory: Memory, s: ScanSchedule, real: DType
) -> tuple[Kernel, Placement]:
    """One kernel with its placement; Unsupported when the schedule does not fit the form."""
    return _Emitter(name, form, memory, s, real).kernel()


class _Emitter(Emitter):
    def __init__(self, name: str, form: Form, memory: Memory, s: ScanSchedule, real: DType) -> None:
        super().__init__(form.group, memory, real)
        self.name, self.f, self.s = name, form, s
        t = form.result
        assert t.body is not None
        self.t, self.axes = t, t.axes
        self.fold = Fold(t.body)
        self.monoid = str(self.fold.kind)
        self.binder = self.fold.binders[0]
        self.axis = t.axes[form.running.axis]
        self.places: dict[str, str | tuple[str, int]] = {}
        if s.width % s.vec:
            raise Unsupported("the width is not a multiple of the vector")

    def kernel(self) -> tuple[Kernel, Placement]:
        if self.s.mode == "along":
            self.along()
        else:
            self.across()
        stream = (f"st_{self.t.name.lower()}*",) if self.s.stream else ()
        return self.b.kernel(), Placement(axes=self.places, stream=stream, threads=self.s.threads)

    @property
    def carry_type(self) -> DType:
        """Long sums lose digits in f32."""
        own = self.e.dtype(self.fold.term)
        wide = self.s.wide and self.monoid == "sum" and self.fold.term.kind == "real"
        return F64 if wide else own

    def added(self, at: dict[Expr, Expr], here: Expr, mask: Expr) -> Value:
        """What a position adds; the neutral element outside the mask and the fold's guard."""
        point = {**at, var(self.binder): here}
        guard = call("and", mask, self.e.index(substitute(self.fold.guard, point), mask))
        v = self.e.value(substitute(self.fold.term, point), guard)
        if guard is TRUE:
            return v
        return self.e.pick(self.b.index(guard), v, self.neutral(v.dtype))

    def neutral(self, dtype: DType, *axes: Axis) -> Value:
        number = self.fold.init[0].attr
        return self.b.full(number, dtype, *axes)

    def combine(self, a: Value, b: Value) -> Value:
        return self.b.ew(MONOIDS[self.monoid].row, a, b)

    def put(self, at: dict[Expr, Expr], here: Expr, v: Value, mask: Expr) -> None:
        point = {**at, var(self.axis.name): here}
        buffer = self.memory.of(self.t.name)
        index = [point[var(a.name)] for a in self.axes]
        self.b.store(buffer, *index, self.b.cast(v, buffer.dtype), mask=mask)

    # -- lanes along the scanned axis --------------------------------------------------------------

    def along(self) -> None:
        if not self.f.contiguous:
            raise Unsupported("lanes do not run along the scanned axis")
        if self.fold.term.kind != "real":
            raise Unsupported("integers are scanned one by one")
        others = [a for a in self.axes if a is not self.axis]
        self.open(self.name, [a.hi for a in others[:3]])
        c = Axis("c", self.s.width)
        self.places[c.name] = ("vec", self.s.vec)
        at = {var(a.name): pid(n) for n, a in enumerate(others[:3])}
        hi = self.axis.hi

        def row(at: dict[Expr, Expr]) -> None:
            def tile(v: Expr, mask: Expr, before: Value) -> list[Value]:
                self.e.enter()
                here = v + c.lane
                new = self.e.spread(self.added(at, here, mask), (c,))
                ran = self.b.scan(new, Scan(self.monoid, c))
                held = self.b.cast(before, new.dtype)
                self.put(at, here, self.combine(held, ran), mask)
                total = self.b.cast(self.b.reduce(self.monoid, new, c), before.dtype)
                self.e.leave()
                return [self.combine(before, total)]

            start = self.neutral(self.carry_type)
            self.b.split("n", ZERO, hi, c, [start], tile)

        self.over(others[3:], at, row)

    # -- lanes across another axis -----------------------------------------------------------------

    def across(self) -> None:
        if self.f.other is None:
            raise Unsupported("there is no other axis")
        lane = self.axes[self.f.other]
        others = [a for a in self.axes if a is not self.axis and a is not lane]
        width = self.s.width
        self.open(self.name, [cdiv(lane.hi, width), *(a.hi for a in others[:2])])
        contiguous = self.f.other == len(self.axes) - 1
        x = Axis("x", width)
        self.places[x.name] = ("vec", self.s.vec) if contiguous else "unroll"
        at = {var(a.name): pid(1 + n) for n, a in enumerate(others[:2])}
        left = pid(0) * width

        def strip(at: dict[Expr, Expr]) -> None:
            def one(v: Expr) -> None:
                self.e.enter()
                self.descend({**at, var(lane.name): v})
                self.e.leave()

            self.b.branch(
                call("le", left + width, lane.hi),
                lambda: self.descend({**at, var(lane.name): left + x.lane}, x),
                lambda: self.rest(lane, left, minimum(left + width, lane.hi), one),
            )

        self.over(others[2:], at, strip)

    def rest(self, lane: OpAxis, lo: Expr, hi: Expr, one: Callable[[Expr], None]) -> None:
        self.b.loop(lane.name, lo, hi, 1, (), one)

    def descend(self, at: dict[Expr, Expr], *lanes: Axis) -> None:
        self.e.enter()
        start = self.neutral(self.carry_type, *lanes)

        def body(v: Expr, before: Value) -> list[Value]:
            self.e.enter()
            here = self.axis.hi - 1 - v if self.f.running.reverse else v
            new = self.b.cast(self.added(at, here, TRUE), before.dtype)
            after = self.e.spread(self.combine(before, new), lanes)
            self.put(at, here, after if self.f.running.inclusive else before, TRUE)
            self.e.leave()
            return [after]

        self.b.loop(self.axis.name, ZERO, self.axis.hi, 1, [start], body)
        self.e.leave()
