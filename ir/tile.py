"""TileIR: how one program instance computes its share. Buffers, SSA tiles over named axes,
statements, Placement and the builder. Nothing here knows vectors, registers or threads, nor any
operator.

A kernel is one program; the grid and loops are statements or data of the kernel. Elementwise
values take the union of their operands' named axes; there is no broadcast or expand. Raggedness is
a mask. Text form and its parser are in `ir/tiletext.py`, structural checks in `ir/tilecheck.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from opwright.ir.dtypes import BOOL, F32, I64, DType
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    ExprError,
    ExprLike,
    call,
    const,
    leaf,
    leaves,
    lift,
    var,
)
from opwright.ir.semantics import ARG_FOLDS, MONOIDS, ROWS


@dataclass(frozen=True, slots=True)
class Axis:
    """A tile axis of static extent."""

    name: str
    extent: int

    @property
    def lane(self) -> Expr:
        return leaf("lane", self)

    def __add__(self, other: ExprLike) -> Expr:
        return self.lane + other

    def __radd__(self, other: ExprLike) -> Expr:
        return other + self.lane if isinstance(other, Expr) else lift(other) + self.lane


@dataclass(frozen=True, slots=True)
class Buffer:
    """Memory with a logical shape. role: in | out | state | plan | program.

    `plan` scratch is written in one launch and read in later ones; `program` scratch is poison
    when a program starts, one per worker. `strides` (in elements) default to row-major over the
    shape. `init` "zero" is a plan scratch that the driver clears.
    """

    name: str
    role: str
    dtype: DType
    shape: tuple[Expr, ...]
    strides: tuple[Expr, ...] | None = None
    init: str = "none"


@dataclass(frozen=True, slots=True, eq=False)
class Value:
    """An SSA tile. op: full | index | load | cast | round | reduce | param | result | a row of
    the table.

    full: attr is the number. index: attr is an int, real or bool expression over sizes, params,
    loop variables, program ids and lanes (its lanes are the value's axes). load: attr is a Load.
    cast: to `dtype`, identity over the reals; round: the same where the rounding is meant.
    reduce: attr is (monoid, Axis). param/result: state of a loop.

    dot: attr is a Dot; axes of both operands but the contracted one, which both have. scan: attr is
    a Scan. argreduce: of values and indices, attr is (argmax | argmin, Axis). view: attr is
    ((Axis, expression), ...): the element whose lanes along these axes are the expressions over
    lanes of the result, along others as they are. opaque: attr names a pure function of the
    operands at the same lane, of which nothing else is known.
    """

    name: str
    op: str
    args: tuple[Value, ...]
    axes: tuple[Axis, ...]
    dtype: DType
    attr: Any = None

    def __repr__(self) -> str:
        return f"<{self.name}>"


@dataclass(frozen=True, slots=True, eq=False)
class Load:
    """`other` is what masked-off lanes hold; without it they are poison."""

    buffer: Buffer
    index: tuple[Expr, ...]
    mask: Expr = TRUE
    other: float | int | bool | None = None


@dataclass(frozen=True, slots=True)
class Dot:
    """A contraction over `axis`. precision: how operands are read, "ieee" (as they are) or the
    name of a coarser format (tf32, tf32x3, bf16x3, bf16x6)."""

    axis: Axis
    precision: str = "ieee"


@dataclass(frozen=True, slots=True)
class Scan:
    """Running combination along an axis, from its first lane or, in reverse, from its last."""

    monoid: str
    axis: Axis
    reverse: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Def:
    value: Value


@dataclass(frozen=True, slots=True, eq=False)
class Store:
    name: str
    buffer: Buffer
    index: tuple[Expr, ...]
    value: Value
    mask: Expr = TRUE


@dataclass(frozen=True, slots=True, eq=False)
class Atomic:
    """buffer[index] = combine(buffer[index], value) for every lane, in no order; combine is that of
    a name in `MONOIDS` (what was there before is not given back)."""

    name: str
    buffer: Buffer
    index: tuple[Expr, ...]
    value: Value
    monoid: str = "sum"
    mask: Expr = TRUE


@dataclass(frozen=True, slots=True, eq=False)
class Check:
    """An obligation at this place: `cond` holds for every lane. It has no effect; printers drop it.
    `kind` is wrap (an integer keeps within its width), divisor, align or mask."""

    name: str
    cond: Expr
    kind: str
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Barrier:
    """Threads that differ along `axes` alone wait here for one another: each of them, or none
    (`mask`). What they did before is then done for those among them; without `fence` they only
    meet, and the order of effects is what it was."""

    name: str
    axes: tuple[Axis, ...]
    mask: Expr = TRUE
    fence: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class For:
    """variable = lo, lo + step, ... below hi; `params` are the carried state inside, `results`
    after."""

    variable: str
    lo: Expr
    hi: Expr
    step: int
    inits: tuple[Value, ...]
    params: tuple[Value, ...]
    body: tuple[Stmt, ...]
    yields: tuple[Value, ...]
    results: tuple[Value, ...]


@dataclass(frozen=True, slots=True, eq=False)
class If:
    cond: Expr
    then: tuple[Stmt, ...]
    other: tuple[Stmt, ...]


Stmt = Def | Store | Atomic | Check | Barrier | For | If


@dataclass(frozen=True, slots=True, eq=False)
class Kernel:
    """One launch's program: grid expressions, buffers it touches, statements. `lines` says of
    imported statements where they come from (name -> "kernel.py:12"); it has no meaning.

    order: what orders the effects of one program on memory. "statement": a statement is over before
    the next one starts (CPU). "lane": only effects of equal lanes of equal axes are ordered (GPU
    block programs: threads of a block run on their own).

    threads: axes whose lanes are threads. Every one of them does every access to memory, also one
    that speaks of none of these axes, in an order of its own (`lane`) up to barriers.
    """

    name: str
    grid: tuple[Expr, ...]
    buffers: tuple[Buffer, ...]
    body: tuple[Stmt, ...]
    lines: Mapping[str, str] = field(default_factory=dict)
    order: str = "statement"
    threads: tuple[Axis, ...] = ()

    def buffer(self, name: str) -> Buffer:
        for b in self.buffers:
            if b.name == name:
                return b
        raise KeyError(name)


PROGRAMS = ("pid0", "pid1", "pid2")  # steps from program to program, as prefetch hints name them


@dataclass(frozen=True, slots=True)
class Placement:
    """What tile axes become and all hints; chosen by a schedule, obeyed by printers, ignored by
    meaning.

    axes: name -> "unroll" | ("vec", width). Hints name a value, store or loop; a final `*` matches
    a prefix. home: program scratch -> (buffer, leading index) whose memory it lives in (an
    obligation); stream: stores that bypass the cache (alignment is an obligation); prefetch: load
    or store -> (loop or one of `PROGRAMS`, how many of its steps ahead). A kernel none of whose
    axes is placed leaves them to its target, as a GPU's block program does; launch: what such
    a target is launched with ("num_warps": 4).
    """

    axes: Mapping[str, str | tuple[str, int]] = field(default_factory=dict)
    pin: tuple[str, ...] = ()
    stream: tuple[str, ...] = ()
    prefetch: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    unroll: Mapping[str, int] = field(default_factory=dict)
    deep: tuple[str, ...] = ()
    home: Mapping[str, tuple[str, tuple[Expr, ...]]] = field(default_factory=dict)
    threads: str = "static"  # static | dynamic: how programs are dealt to workers
    launch: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class TileProgram:
    """A candidate's launches with their placements. Buffers are shared between kernels by name.

    `facts` are assumptions beyond the spec's own (contiguity as equations over strides, alignment
    as sizes % k == 0, specialised sizes); each becomes a run-time guard. `assumes` names what else
    a verdict about an imported program takes for granted ("zero fill of masked loads").
    """

    name: str
    kernels: tuple[Kernel, ...]
    placements: tuple[Placement, ...]
    facts: tuple[Expr, ...] = ()
    assumes: tuple[str, ...] = ()

    def buffers(self) -> tuple[Buffer, ...]:
        found: dict[str, Buffer] = {}
        for k in self.kernels:
            for b in k.buffers:
                if found.setdefault(b.name, b) != b:
                    raise ExprError(f"buffer {b.name} differs between launches")
        return tuple(found.values())


def matches(patterns: Iterable[str], name: str) -> bool:
    """Whether a hint's patterns (exact, or a prefix ending in `*`) name this statement."""
    return any(name == p or (p.endswith("*") and name.startswith(p[:-1])) for p in patterns)


def lanes(*expressions: Expr) -> tuple[Axis, ...]:
    """Tile axes that occur in index expressions, those of values used as indices included."""
    found: dict[Axis, None] = {}
    for e in expressions:
        for x in leaves(e, "lane", "value"):
            for a in (x.attr,) if x.op == "lane" else x.attr.axes:
                found[a] = None
    return tuple(found)


def access_axes(s: Store | Atomic) -> tuple[Axis, ...]:
    """Axes over which a store runs: its value's and those of its index and mask."""
    return tuple(dict.fromkeys((*s.value.axes, *lanes(*s.index, s.mask))))


def statements(body: Iterable[Stmt]) -> Iterator[Stmt]:
    """Every statement, outer ones first."""
    for s in body:
        yield s
        if isinstance(s, For):
            yield from statements(s.body)
        elif isinstance(s, If):
            yield from statements(s.then)
            yield from statements(s.other)


def expressions(body: Iterable[Stmt]) -> Iterator[Expr]:
    """Every index expression of a body."""
    for s in statements(body):
        if isinstance(s, Def):
            if s.value.op == "index":
                yield s.value.attr
            elif s.value.op == "load":
                yield from (*s.value.attr.index, s.value.attr.mask)
            elif s.value.op == "view":
                yield from (e for _, e in s.value.attr)
        elif isinstance(s, (Store, Atomic)):
            yield from (*s.index, s.mask)
        elif isinstance(s, For):
            yield from (s.lo, s.hi)
        elif isinstance(s, Barrier):
            yield s.mask
        else:
            yield s.cond


def alignments(*programs: TileProgram) -> dict[str, bool]:
    """Every `aligned(x, n)` that programs speak of, as params of a run in memory where it holds."""
    out: dict[str, bool] = {}
    for p in programs:
        said = [e for k in p.kernels for e in expressions(k.body)]
        for e in (*p.facts, *said):
            out |= {x.attr: True for x in leaves(e, "param") if str(x.attr).startswith("aligned(")}
    return out


def scalar_arguments(kernel: Kernel, placement: Placement) -> tuple[Expr, ...]:
    """Sizes, params and strides that a kernel's text needs, in a fixed order: its scalar
    arguments."""
    found: dict[Expr, None] = {}
    roots = list(expressions(kernel.body))
    for b in kernel.buffers:
        roots += [*b.shape, *(b.strides or ())]
    roots += [e for _, lead in placement.home.values() for e in lead]
    for e in roots:
        for x in leaves(e, "size", "param", "stride"):
            found[x] = None
    order = {"size": 0, "stride": 1, "param": 2}
    return tuple(sorted(found, key=lambda x: (order[x.op], str(x.attr))))


def pointer_arguments(kernel: Kernel, placement: Placement) -> tuple[Buffer, ...]:
    """Buffers a kernel receives as pointers; scratch that lives in another buffer has none."""
    return tuple(b for b in kernel.buffers if b.name not in placement.home)


# -- builder ---------------------------------------------------------------------------------------

Operand = Value | float | int


class Builder:
    """Builds one kernel. Values get unique readable names; every value is checked when it is
    made."""

    def __init__(
        self,
        name: str,
        grid: tuple[ExprLike, ...],
        order: str = "statement",
        threads: tuple[Axis, ...] = (),
    ) -> None:
        self.name, self.grid, self.order = name, tuple(lift(g) for g in grid), order
        self.threads = threads
        self._buffers: dict[str, Buffer] = {}
        self._stack: list[list[Stmt]] = [[]]
        self._used: set[str] = set()
        self._lines: dict[str, str] = {}
        self.line = ""  # where what is built next comes from

    def kernel(self) -> Kernel:
        buffers, body = tuple(self._buffers.values()), tuple(self._stack[0])
        return Kernel(self.name, self.grid, buffers, body, self._lines, self.order, self.threads)

    def fresh(self, hint: str) -> str:
        """A name no value, store or loop of this kernel has (no double underscore: printers use
        it)."""
        hint = hint.replace("__", "_").strip("_") or "t"
        name, n = hint, 0
        while name in self._used:
            n += 1
            name = f"{hint}_{n}"
        self._used.add(name)
        if self.line:
            self._lines[name] = self.line
        return name

    def buffer(self, b: Buffer) -> Buffer:
        if self._buffers.setdefault(b.name, b) != b:
            raise ExprError(f"buffer {b.name} is declared twice")
        return b

    def define(
        self,
        op: str,
        args: tuple[Value, ...],
        axes: tuple[Axis, ...],
        dtype: DType,
        attr: Any = None,
        name: str | None = None,
    ) -> Value:
        v = Value(self.fresh(name or "t"), op, args, axes, dtype, attr)
        self._stack[-1].append(Def(v))
        return v

    def full(
        self, number: float | int | bool, dtype: DType = F32, *axes: Axis, name: str | None = None
    ) -> Value:
        return self.define("full", (), axes, dtype, number, name)

    def index(self, e: ExprLike, dtype: DType | None = None, name: str | None = None) -> Value:
        """An index expression, or a mask, as a tile (i64, f32 for a real param, or bool)."""
        e = lift(e)
        default = {"int": I64, "bool": BOOL, "real": F32}[e.kind]
        return self.define("index", (), lanes(e), dtype or default, e, name)

    def load(
        self,
        b: Buffer,
        *index: ExprLike,
        mask: Expr = TRUE,
        other: float | int | bool | None = None,
        name: str | None = None,
    ) -> Value:
        at = tuple(lift(i) for i in index)
        if len(at) != len(b.shape):
            raise ExprError(f"{b.name} has {len(b.shape)} axes, not {len(at)}")
        self.buffer(b)
        what = Load(b, at, mask, other)
        return self.define("load", (), lanes(*at, mask), b.dtype, what, name or b.name.lower())

    def cast(self, v: Value, dtype: DType, name: str | None = None) -> Value:
        return v if v.dtype == dtype else self.define("cast", (v,), v.axes, dtype, None, name)

    def ew(self, op: str, *operands: Operand, name: str | None = None) -> Value:
        """An elementwise row over values of one dtype (a Python number takes its neighbours'
        dtype)."""
        row = ROWS[op]
        like = next(
            (
                o.dtype
                for o, k in zip(operands, row.kinds, strict=False)
                if isinstance(o, Value) and k != "b"
            ),
            F32,
        )
        args = tuple(
            o if isinstance(o, Value) else self.full(o, BOOL if k == "b" else like)
            for o, k in zip(operands, row.kinds, strict=False)
        )
        if len(args) != row.arity:
            raise ExprError(f"{op} takes {row.arity} operands")
        for a, k in zip(args, row.kinds, strict=False):
            if (k == "b") != (a.dtype is BOOL) or (k != "b" and a.dtype != like):
                raise ExprError(
                    f"{op}: operand {a.name} is {a.dtype}, wanted {like if k != 'b' else 'bool'}"
                )
        out = {"b": BOOL, "i": I64, "r": F32 if like.kind == "int" else like, "n": like}[row.result]
        axes = tuple(dict.fromkeys(x for a in args for x in a.axes))
        return self.define(op, args, axes, out, None, name)

    def reduce(self, monoid: str, v: Value, axis: Axis, name: str | None = None) -> Value:
        if monoid not in MONOIDS or axis not in v.axes:
            raise ExprError(f"reduce {monoid} of {v.name} over {axis.name}")
        return self.define(
            "reduce", (v,), tuple(a for a in v.axes if a != axis), v.dtype, (monoid, axis), name
        )

    def argreduce(
        self, fold: str, values: Value, indices: Value, axis: Axis, name: str | None = None
    ) -> Value:
        """The smallest of `indices` among the extreme `values` along an axis."""
        axes = tuple(dict.fromkeys((*values.axes, *indices.axes)))
        if fold not in ARG_FOLDS or axis not in axes or indices.dtype.kind != "int":
            raise ExprError(f"argreduce {fold} of {values.name}, {indices.name} over {axis.name}")
        rest = tuple(a for a in axes if a != axis)
        return self.define("argreduce", (values, indices), rest, indices.dtype, (fold, axis), name)

    def scan(self, v: Value, what: Scan, name: str | None = None) -> Value:
        if what.monoid not in MONOIDS or what.axis not in v.axes:
            raise ExprError(f"scan {what.monoid} of {v.name} over {what.axis.name}")
        return self.define("scan", (v,), v.axes, v.dtype, what, name)

    def dot(self, a: Value, b: Value, what: Dot, dtype: DType, name: str | None = None) -> Value:
        if what.axis not in a.axes or what.axis not in b.axes:
            raise ExprError(f"dot of {a.name}, {b.name} over {what.axis.name}")
        axes = tuple(dict.fromkeys(x for x in (*a.axes, *b.axes) if x != what.axis))
        return self.define("dot", (a, b), axes, dtype, what, name)

    def view(self, v: Value, at: Iterable[tuple[Axis, ExprLike]], name: str | None = None) -> Value:
        """`at` places axes of `v` (others stay) at expressions over lanes of the result."""
        places = tuple((a, lift(e)) for a, e in at)
        moved = {a for a, _ in places}
        if not moved <= set(v.axes):
            raise ExprError(f"view of {v.name}: it lacks one of {[a.name for a in moved]}")
        kept = [a for a in v.axes if a not in moved]
        axes = tuple(dict.fromkeys((*kept, *lanes(*(e for _, e in places)))))
        return self.define("view", (v,), axes, v.dtype, places, name)

    def opaque(self, what: str, args: Iterable[Value], dtype: DType) -> Value:
        args = tuple(args)
        axes = tuple(dict.fromkeys(x for a in args for x in a.axes))
        return self.define("opaque", args, axes, dtype, what)

    def check(self, cond: Expr, kind: str, reason: str) -> None:
        """State an obligation here, unless it holds as it is written."""
        if cond is not TRUE:
            self._stack[-1].append(Check(self.fresh(f"{kind}_c"), cond, kind, reason))

    def atomic(self, monoid: str, b: Buffer, *rest: Any, mask: Expr = TRUE) -> None:
        """atomic(monoid, buffer, index..., value)."""
        at, v = tuple(lift(i) for i in rest[:-1]), rest[-1]
        if len(at) != len(b.shape) or v.dtype != b.dtype or monoid not in MONOIDS:
            raise ExprError(f"atomic {monoid} of {v.name} into {b.name}")
        self.buffer(b)
        name = self.fresh(f"at_{b.name.lower()}")
        self._stack[-1].append(Atomic(name, b, at, v, monoid, mask))

    def store(self, b: Buffer, *rest: Any, mask: Expr = TRUE, name: str | None = None) -> None:
        """store(buffer, index..., value)."""
        at, v = tuple(lift(i) for i in rest[:-1]), rest[-1]
        if len(at) != len(b.shape):
            raise ExprError(f"{b.name} has {len(b.shape)} axes, not {len(at)}")
        if v.dtype != b.dtype:
            raise ExprError(f"{v.name} is {v.dtype}, {b.name} holds {b.dtype}")
        if not set(v.axes) <= {*lanes(*at, mask), *self.threads}:
            raise ExprError(f"{b.name}: lanes of {v.name} would write one element")
        self.buffer(b)
        self._stack[-1].append(Store(self.fresh(name or f"st_{b.name.lower()}"), b, at, v, mask))

    def barrier(self, axes: Iterable[Axis], mask: Expr = TRUE, fence: bool = True) -> None:
        name = self.fresh("barrier" if fence else "meet")
        self._stack[-1].append(Barrier(name, tuple(axes), mask, fence))

    def loop(
        self,
        name: str,
        lo: ExprLike,
        hi: ExprLike,
        step: int,
        inits: Iterable[Value],
        body: Callable[..., Iterable[Value] | None],
    ) -> tuple[Value, ...]:
        """body(variable, *state) returns the next state; the result is the final state."""
        inits = tuple(inits)
        label = self.fresh(name)
        params = tuple(
            Value(self.fresh(i.name + "_c"), "param", (), i.axes, i.dtype) for i in inits
        )
        self._stack.append([])
        yields = tuple(body(var(label), *params) or ())
        stmts = tuple(self._stack.pop())
        if [(set(y.axes), y.dtype) for y in yields] != [(set(p.axes), p.dtype) for p in params]:
            raise ExprError(f"loop {label}: the next state does not match the carried one")
        results = tuple(
            Value(self.fresh(i.name + "_r"), "result", (), i.axes, i.dtype) for i in inits
        )
        self._stack[-1].append(
            For(label, lift(lo), lift(hi), step, inits, params, stmts, yields, results)
        )
        return results

    def branch(
        self, cond: Expr, then: Callable[[], None], other: Callable[[], None] | None = None
    ) -> None:
        """A uniform branch; a condition known while building keeps one side."""
        if cond.op == "const":
            if cond.attr:
                then()
            elif other:
                other()
            return
        parts: list[tuple[Stmt, ...]] = []
        for side in (then, other or (lambda: None)):
            self._stack.append([])
            side()
            parts.append(tuple(self._stack.pop()))
        self._stack[-1].append(If(cond, parts[0], parts[1]))

    def split(
        self,
        name: str,
        lo: ExprLike,
        hi: ExprLike,
        axis: Axis,
        inits: Iterable[Value],
        body: Callable[..., Iterable[Value] | None],
    ) -> tuple[Value, ...]:
        """A loop over full tiles without mask, then over the rest with one: body(start, mask,
        *state)."""
        lo, hi = lift(lo), lift(hi)
        end = lo + (hi - lo) // axis.extent * axis.extent
        state = self.loop(name, lo, end, axis.extent, inits, lambda v, *s: body(v, TRUE, *s))
        return self.loop(
            name + "r",
            end,
            hi,
            axis.extent,
            state,
            lambda v, *s: body(v, call("lt", v + axis.lane, hi), *s),
        )


def written_at(kernels: Iterable[Kernel], buffer: str) -> str:
    """The source lines of all stores to a buffer, "" where none is known."""
    found: dict[str, None] = {}
    for k in kernels:
        for s in statements(k.body):
            if isinstance(s, (Store, Atomic)) and s.buffer.name == buffer and s.name in k.lines:
                found[k.lines[s.name]] = None
    return ", ".join(found)


def row_major(shape: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """Strides in elements of a dense row-major buffer."""
    out: list[Expr] = []
    step: Expr = const(1)
    for s in reversed(shape):
        out.append(step)
        step = step * s
    return tuple(reversed(out))


def element_count(shape: tuple[Expr, ...]) -> Expr:
    n: Expr = const(1)
    for s in shape:
        n = n * s
    return n


__all__ = [
    "PROGRAMS",
    "ZERO",
    "Atomic",
    "Axis",
    "Barrier",
    "Buffer",
    "Builder",
    "Check",
    "Def",
    "Dot",
    "For",
    "If",
    "Kernel",
    "Load",
    "Operand",
    "Placement",
    "Scan",
    "Stmt",
    "Store",
    "TileProgram",
    "Value",
    "access_axes",
    "element_count",
    "expressions",
    "lanes",
    "matches",
    "pointer_arguments",
    "row_major",
    "scalar_arguments",
    "statements",
    "written_at",
]
