"""Names, coordinates, index expressions, addresses and masks of one kernel as C++ text."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping

from opwright.backends.cpp import elementwise
from opwright.backends.cpp.lanes import lane_interval, vector_width
from opwright.backends.cpp.scalar import Names, PrintError, Scalars
from opwright.backends.cpp.vocabulary import Isa
from opwright.ir.dtypes import BOOL, I64
from opwright.ir.expr import Expr, const, leaves, show, substitute, var
from opwright.ir.tile import (
    Axis,
    Buffer,
    Def,
    Kernel,
    Placement,
    Stmt,
    Store,
    Value,
    access_axes,
    lanes,
    matches,
    statements,
)

At = Mapping[Axis, int]  # offset of the first lane along each axis
LANE = "\0lane"  # the variable that per-lane code counts; no spec can name it


class Indexing:
    """What statements need to name values and reach memory; `known`: leaves fixed by facts."""

    def __init__(
        self, kernel: Kernel, placement: Placement, level: Isa, known: dict[Expr, Expr]
    ) -> None:
        self.kernel, self.placement, self.level, self.known = kernel, placement, level, known
        self.names = Names()
        self.natural: set[Expr] = set()  # loop variables that are never negative
        self.lane_name = ""
        self.memo: dict[tuple[Expr, tuple[int, ...], bool], str] = {}
        self.widths = self.register_widths()

    # -- placement ------------------------------------------------------------------------------

    def register_widths(self) -> dict[Axis, int]:
        """Lanes of one vector along each axis: the placed width, cut to what a register holds."""
        widest: dict[Axis, int] = {}
        for s in statements(self.kernel.body):
            if isinstance(s, Def):
                size = 8 if s.value.dtype.bits == 64 else 4
                for a in s.value.axes:
                    widest[a] = max(widest.get(a, 4), size)
            elif isinstance(s, Store):
                for a in access_axes(s):
                    widest.setdefault(a, 4)
        out = {}
        for a, size in widest.items():
            if a.name not in self.placement.axes:
                raise PrintError(f"{self.kernel.name}: axis {a.name} has no placement")
            w = vector_width(self.placement, a)
            if w < 1 or w & (w - 1) or a.extent % w:
                raise PrintError(
                    f"{self.kernel.name}: axis {a.name} of {a.extent} lanes cannot be vec {w}"
                )
            out[a] = max(1, min(w, self.level.register // size))
        return out

    def vec(self, axes: Iterable[Axis], what: str) -> Axis | None:
        found = [a for a in axes if self.widths[a] > 1]
        if len(found) > 1:
            raise PrintError(f"{what}: axes {found[0].name} and {found[1].name} are both vec")
        return found[0] if found else None

    def lanes_of(self, axes: Iterable[Axis], what: str) -> int:
        a = self.vec(axes, what)
        return self.widths[a] if a is not None else 1

    def coords(self, axes: Iterable[Axis]) -> list[dict[Axis, int]]:
        axes = tuple(axes)
        ways = [range(0, a.extent, self.widths[a]) for a in axes]
        return [dict(zip(axes, c, strict=True)) for c in itertools.product(*ways)]

    # -- order of copies ------------------------------------------------------------------------

    def runs(self, body: Iterable[Stmt]) -> Iterator[list[Stmt]]:
        """Statements that are printed together: a run copy by copy, any other alone."""
        todo = list(body)
        while todo:
            run = [todo.pop(0)]
            while self.is_deep(run[0]) and todo and self.is_deep(todo[0]):
                run.append(todo.pop(0))
            yield run

    def is_deep(self, s: Stmt) -> bool:
        """Whether a statement is printed copy by copy; a reduce or scan reads other lanes and ends
        it."""
        if isinstance(s, Def):
            return s.value.op not in ("reduce", "scan") and matches(
                self.placement.deep, s.value.name
            )
        return isinstance(s, Store) and matches(self.placement.deep, s.name)

    def copies(self, run: list[Stmt]) -> Iterator[tuple[Def | Store, At]]:
        """A run copy by copy; legal in any order, since effects are ordered within a lane only."""
        own = [s for s in run if isinstance(s, Def | Store)]
        axes = {s: s.value.axes if isinstance(s, Def) else access_axes(s) for s in own}
        done: set[tuple[Stmt | int, ...]] = set()
        order = self.coords(dict.fromkeys(a for s in own for a in axes[s]))
        first = own[0].value
        if isinstance(own[0], Def) and first.op == "scan" and first.attr.reverse:
            order.reverse()
        for at in order:
            for s in own:
                key = (s, *(at[a] for a in axes[s]))
                if key not in done:
                    done.add(key)
                    yield s, at

    # -- names and expressions ------------------------------------------------------------------

    def name(self, v: Value, at: At) -> str:
        base = self.names.give(v, v.name)
        return "__".join([base, *(str(at[a]) for a in v.axes)])

    def value_type(self, v: Value) -> str:
        return elementwise.value_type(v.dtype, self.lanes_of(v.axes, v.name))

    def ix(self, e: Expr, at: At, by_lane: bool = False) -> str:
        """Text of an expression at a coordinate; `by_lane` reads vec axes at the current lane."""
        key = (e, tuple(at.get(a, 0) for a in lanes(e)), by_lane)
        if key not in self.memo:
            mapping: dict[Expr, Expr] = dict(self.known)
            for x in leaves(e, "lane"):
                here: Expr = const(at.get(x.attr, 0))
                if by_lane and self.widths[x.attr] > 1:
                    here = here + var(LANE)
                mapping[x] = here
            printer = Scalars(lambda x: self.leaf(x, at, by_lane), self.is_natural_leaf)
            self.memo[key] = printer.text(substitute(e, mapping))
        return self.memo[key]

    def leaf(self, e: Expr, at: At, by_lane: bool) -> str:
        if e.op == "pid":
            return self.names.give(("pid", e.attr), f"pid{e.attr}")
        if e.op == "value":
            v: Value = e.attr
            text = self.name(v, at)
            if self.vec(v.axes, v.name) is not None:
                if not by_lane:
                    raise PrintError(f"{v.name} varies by lane where one value is needed")
                text = f"{text}[{self.lane_name}]"
                return f"({text} != 0)" if v.dtype is BOOL else f"(i64){text}"
            wide = v.dtype in (I64, BOOL)
            return text if wide else f"({'i64' if e.kind == 'int' else 'double'}){text}"
        if e.op == "var" and e.attr == LANE:
            return self.lane_name
        text = self.names.give((e.op, e.attr), leaf_name(e))
        if e.op == "param":
            return (
                f"({text} != 0)"
                if e.kind == "bool"
                else text
                if e.kind == "int"
                else f"(double){text}"
            )
        return text

    def is_natural_leaf(self, e: Expr) -> bool:
        return e in self.natural or (e.op == "var" and e.attr == LANE)

    def address(
        self, buffer: Buffer, index: tuple[Expr, ...]
    ) -> tuple[Buffer, Expr, tuple[Expr, ...]]:
        """(host buffer, element offset, index tuple in the host)."""
        if buffer.name in self.placement.home:
            host, lead = self.placement.home[buffer.name]
            buffer, index = self.kernel.buffer(host), (*lead, *index)
        if buffer.strides is None:
            at: Expr = const(0)
            for e, extent in zip(index, buffer.shape, strict=True):
                at = at * extent + e
        else:
            at = const(0)
            for e, s in zip(index, buffer.strides, strict=True):
                at = at + e * substitute(s, self.known)
        return buffer, at, index

    def pointer(self, buffer: Buffer, offset: Expr, at: At) -> str:
        return f"{self.names.give(buffer.name, buffer.name)} + {self.ix(offset, at)}"

    def cell(self, buffer: Buffer, offset: Expr, at: At, by_lane: bool) -> str:
        text = self.ix(offset, at, by_lane)
        if text.startswith("(") and text.endswith(")") and _closes(text):
            text = text[1:-1]
        return f"{self.names.give(buffer.name, buffer.name)}[{text}]"

    def mask(self, parts: list[Expr], at: At, axis: Axis) -> str:
        """Lane-varying conjuncts as a vector of i32."""
        return " & ".join(self.mask_part(p, at, axis) for p in parts)

    def mask_part(self, e: Expr, at: At, axis: Axis) -> str:
        n = self.widths[axis]
        kind = f"i32x{n}"
        if axis not in lanes(e):
            return f"v_splat<{kind}>(-(i32){self.ix(e, at)})"
        if e.op in ("and", "or"):
            a, b = (self.mask_part(x, at, axis) for x in e.args)
            return f"({a} {'&' if e.op == 'and' else '|'} {b})"
        if e.op == "not":
            return f"~{self.mask_part(e.args[0], at, axis)}"
        if e.op == "value":
            return self.name(e.attr, at)
        found = lane_interval(e, axis)
        if found is not None:
            below, bound = found
            return f"{'' if below == 'below' else '~'}v_prefix<{kind}>({self.ix(bound, at)})"
        return self.by_lane(kind, "i32", f"-(i32){self.ix(e, at, True)}")

    def by_lane(self, vector: str, scalar: str, text: str) -> str:
        return f"v_lanes<{vector}>([&](i64 {self.lane_name}) -> {scalar} {{ return {text}; }})"


def leaf_name(e: Expr) -> str:
    if e.op == "stride":
        return f"{e.attr[0]}_stride{e.attr[1]}"
    if e.op not in ("size", "param", "var"):
        raise PrintError(f"{show(e)} cannot occur in a kernel")
    return str(e.attr)


def _closes(text: str) -> bool:
    """Whether the first parenthesis closes at the end."""
    depth = 0
    for n, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0:
            return n == len(text) - 1
    return False
