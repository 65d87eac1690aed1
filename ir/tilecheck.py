"""Structural check of tile programs: everything that must hold before a program has a meaning.

What depends on sizes (bounds, wrap, coverage) is proved in `opwright.verify`; nothing here calls a
solver.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from opwright.ir.dtypes import BOOL, I64, DType, integer_range
from opwright.ir.expr import Expr, leaves, show, walk
from opwright.ir.semantics import ARG_FOLDS, MONOIDS, ROWS
from opwright.ir.tile import (
    PROGRAMS,
    Atomic,
    Axis,
    Barrier,
    Buffer,
    Check,
    Def,
    Dot,
    For,
    If,
    Kernel,
    Load,
    Placement,
    Scan,
    Stmt,
    Store,
    TileProgram,
    Value,
    access_axes,
    lanes,
    matches,
    statements,
)

ROLES = ("in", "out", "state", "plan", "program")
ORDERS = ("statement", "lane")
CHECKS = ("wrap", "divisor", "align", "mask")
PRECISIONS = ("ieee", "tf32", "tf32x3", "bf16x3", "bf16x6", "bf16x9")
_NAME = re.compile(r"[A-Za-z_]\w*")


class TileError(ValueError):
    """A program without meaning: `reason`, `statement` and `kernel` where it shows ("" if none)."""

    def __init__(self, reason: str, statement: str = "", kernel: str = "") -> None:
        where = " in ".join(x for x in (statement, kernel) if x)
        super().__init__(f"{where}: {reason}" if where else reason)
        self.reason, self.statement, self.kernel = reason, statement, kernel


def check_program(program: TileProgram) -> None:
    """Raise TileError for the first structural mistake of a program; nothing is returned."""
    if not program.kernels:
        raise TileError("the program launches no kernel")
    if len(program.kernels) != len(program.placements):
        raise TileError("each kernel needs one placement")
    if len({k.name for k in program.kernels}) != len(program.kernels):
        raise TileError("two kernels share a name")
    seen: dict[str, Buffer] = {}
    for k in program.kernels:
        for b in k.buffers:
            if seen.setdefault(b.name, b) != b:
                raise TileError(f"buffer {b.name} differs between launches", kernel=k.name)
    for f in program.facts:
        if f.kind != "bool":
            raise TileError(f"the fact {show(f)} is not a truth value")
        _only(f, ("size", "param", "stride"), f"the fact {show(f)}", "", "")
    for k, p in zip(program.kernels, program.placements, strict=True):
        _Checker(k).check()
        check_placement(k, p)


def _only(e: Expr, ops: tuple[str, ...], what: str, statement: str, kernel: str) -> None:
    for x in walk(e):
        leaf = not x.args and x.op not in ROWS and x.op != "const"
        if (leaf and x.op not in ops) or x.op in ("read", "fold"):
            raise TileError(f"{what} uses the {x.op} {show(x)}", statement, kernel)


def check_buffer(b: Buffer, kernel: str) -> None:
    if not _NAME.fullmatch(b.name) or "__" in b.name:
        raise TileError(f"{b.name!r} is not a buffer's name", kernel=kernel)
    if b.role not in ROLES:
        raise TileError(f"buffer {b.name} has the unknown role {b.role}", kernel=kernel)
    if b.init not in ("none", "zero") or (b.init == "zero" and b.role != "plan"):
        raise TileError(f"buffer {b.name}: init {b.init} needs scratch of the plan", kernel=kernel)
    if b.strides is not None and len(b.strides) != len(b.shape):
        raise TileError(f"buffer {b.name} needs one stride per axis", kernel=kernel)
    for e in (*b.shape, *(b.strides or ())):
        if e.kind != "int":
            raise TileError(f"buffer {b.name}: {show(e)} is not an integer", kernel=kernel)
        _only(e, ("size", "param", "stride"), f"buffer {b.name}", "", kernel)


class _Checker:
    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.names: set[str] = set()
        self.axes: dict[str, Axis] = {}
        self.at = ""

    def fail(self, reason: str) -> TileError:
        return TileError(reason, self.at, self.kernel.name)

    def check(self) -> None:
        k = self.kernel
        if not 1 <= len(k.grid) <= 3:
            raise self.fail(f"a grid has one to three dimensions, not {len(k.grid)}")
        for g in k.grid:
            if g.kind != "int":
                raise self.fail(f"the grid's {show(g)} is not an integer")
            _only(g, ("size", "param", "stride"), "the grid", "", k.name)
        if k.order not in ORDERS:
            raise self.fail(f"the order of effects is {' or '.join(ORDERS)}, not {k.order}")
        if len({b.name for b in k.buffers}) != len(k.buffers):
            raise self.fail("two buffers share a name")
        for b in k.buffers:
            check_buffer(b, k.name)
        for a in k.threads:
            self.axis(a)
        if k.threads and (k.order != "lane" or len(set(k.threads)) != len(k.threads)):
            raise self.fail("axes of threads are different ones, of an order by lanes")
        self.block(k.body, {}, set())

    def declare(self, name: str) -> None:
        if not _NAME.fullmatch(name) or "__" in name:
            raise self.fail(f"{name!r} is not a name (letters, digits, single underscores)")
        if name in self.names:
            raise self.fail(f"the name {name} is used twice")
        self.names.add(name)

    def axis(self, a: Axis) -> None:
        if self.axes.setdefault(a.name, a) != a:
            raise self.fail(
                f"axis {a.name} has two extents, {self.axes[a.name].extent} and {a.extent}"
            )
        if a.extent < 1:
            raise self.fail(f"axis {a.name} has no lanes")

    def used(self, v: Value, values: Mapping[str, Value]) -> None:
        if values.get(v.name) is not v:
            raise self.fail(f"value {v.name} is used where it is not defined")

    def expr(
        self,
        e: Expr,
        kind: str,
        values: Mapping[str, Value],
        loops: set[str],
        uniform: bool = False,
    ) -> None:
        """An index expression: its kind, its leaves, and no lanes where it must be uniform."""
        if e.kind != kind:
            raise self.fail(f"{show(e)} is {e.kind}, not {kind}")
        for x in walk(e):
            if x.op in ("read", "fold", "state"):
                raise self.fail(f"an index expression cannot hold the {x.op} {show(x)}")
            if x.op == "var" and x.attr not in loops:
                raise self.fail(f"no loop around here has the variable {x.attr}")
            if x.op == "pid" and not 0 <= x.attr < len(self.kernel.grid):
                raise self.fail(f"p{x.attr} is not a dimension of the grid")
            if x.op == "lane":
                self.axis(x.attr)
            if x.op == "value":
                self.used(x.attr, values)
                if x.kind != x.attr.dtype.kind:
                    raise self.fail(f"value {x.attr.name} is {x.attr.dtype}, used as {x.kind}")
        if uniform and lanes(e):
            raise self.fail(f"{show(e)} differs between lanes")

    def block(
        self, body: Iterable[Stmt], outer: Mapping[str, Value], loops: set[str]
    ) -> dict[str, Value]:
        values = dict(outer)
        for s in body:
            if isinstance(s, Def):
                self.at = s.value.name
                self.value(s.value, values, loops)
                self.declare(s.value.name)
                values[s.value.name] = s.value
            elif isinstance(s, Store):
                self.at = s.name
                self.declare(s.name)
                self.store(s, values, loops)
            elif isinstance(s, Atomic):
                self.at = s.name
                self.declare(s.name)
                self.atomic(s, values, loops)
            elif isinstance(s, Check):
                self.at = s.name
                self.declare(s.name)
                if s.kind not in CHECKS:
                    raise self.fail(f"unknown kind of check {s.kind}")
                self.expr(s.cond, "bool", values, loops)
            elif isinstance(s, Barrier):
                self.at = s.name
                self.declare(s.name)
                self.expr(s.mask, "bool", values, loops)
                if not set(s.axes) <= set(self.kernel.threads):
                    raise self.fail("a barrier is between threads")
            elif isinstance(s, For):
                self.at = s.variable
                self.loop(s, values, loops)
            else:
                self.at = "if"
                self.expr(s.cond, "bool", values, loops, uniform=True)
                self.block(s.then, values, loops)
                self.block(s.other, values, loops)
        return values

    def loop(self, s: For, values: dict[str, Value], loops: set[str]) -> None:
        self.declare(s.variable)
        for e in (s.lo, s.hi):
            self.expr(e, "int", values, loops, uniform=True)
        if not isinstance(s.step, int) or s.step < 1:
            raise self.fail(f"the step {s.step} is not a positive integer")
        if not len(s.inits) == len(s.params) == len(s.yields) == len(s.results):
            raise self.fail("initial, carried, next and final state differ in number")
        inner = dict(values)
        for i, p, r in zip(s.inits, s.params, s.results, strict=True):
            self.used(i, values)
            for v, op in ((p, "param"), (r, "result")):
                self.declare(v.name)
                if v.op != op or v.args or v.axes != i.axes or v.dtype != i.dtype:
                    raise self.fail(f"the state {v.name} does not have the form of {i.name}")
            inner[p.name] = p
        end = self.block(s.body, inner, loops | {s.variable})
        self.at = s.variable
        for y, p in zip(s.yields, s.params, strict=True):
            self.used(y, end)
            if set(y.axes) != set(p.axes) or y.dtype != p.dtype:
                raise self.fail(f"the next state {y.name} does not have the form of {p.name}")
        values |= {r.name: r for r in s.results}

    def buffer(self, b: Buffer) -> None:
        if b not in self.kernel.buffers:
            raise self.fail(f"buffer {b.name} is not declared")

    def access(
        self,
        b: Buffer,
        index: tuple[Expr, ...],
        mask: Expr,
        values: Mapping[str, Value],
        loops: set[str],
    ) -> None:
        self.buffer(b)
        if len(index) != len(b.shape):
            raise self.fail(f"{b.name} has {len(b.shape)} axes, the index has {len(index)}")
        for e in index:
            self.expr(e, "int", values, loops)
        self.expr(mask, "bool", values, loops)

    def written(self, s: Store | Atomic, values: Mapping[str, Value], loops: set[str]) -> None:
        self.access(s.buffer, s.index, s.mask, values, loops)
        self.used(s.value, values)
        if s.buffer.role == "in":
            raise self.fail(f"{s.buffer.name} is an input and cannot be stored to")
        if s.value.dtype != s.buffer.dtype:
            raise self.fail(
                f"{s.value.name} is {s.value.dtype}, {s.buffer.name} holds {s.buffer.dtype}"
            )

    def atomic(self, s: Atomic, values: Mapping[str, Value], loops: set[str]) -> None:
        self.written(s, values, loops)
        self.monoid(s.monoid, s.buffer.dtype)

    def monoid(self, name: str, of: DType) -> None:
        if name not in MONOIDS:
            raise self.fail(f"unknown reduction {name}")
        if (name in ("any", "all")) != (of is BOOL):
            raise self.fail(f"{name} cannot reduce or combine {of}")

    def store(self, s: Store, values: Mapping[str, Value], loops: set[str]) -> None:
        self.written(s, values, loops)
        loose = set(s.value.axes) - {*lanes(*s.index, s.mask), *self.kernel.threads}
        if loose:
            names = ", ".join(sorted(a.name for a in loose))
            raise self.fail(f"lanes of {s.value.name} along {names} would write one element")

    def value(self, v: Value, values: Mapping[str, Value], loops: set[str]) -> None:
        for a in v.axes:
            self.axis(a)
        if len(set(v.axes)) != len(v.axes):
            raise self.fail("an axis occurs twice")
        for operand in v.args:
            self.used(operand, values)
        if v.op == "full":
            self.constant(v.attr, v.dtype)
        elif v.op == "index":
            self.expr(v.attr, v.attr.kind, values, loops)
            fits = v.dtype.kind == v.attr.kind or (v.attr.kind, v.dtype.kind) == ("int", "real")
            if not fits:
                raise self.fail(f"{show(v.attr)} is {v.attr.kind}, the value is {v.dtype}")
            self.axes_are(v, lanes(v.attr))
        elif v.op == "load":
            what: Load = v.attr
            self.access(what.buffer, what.index, what.mask, values, loops)
            if v.dtype != what.buffer.dtype:
                raise self.fail(
                    f"{what.buffer.name} holds {what.buffer.dtype}, the value is {v.dtype}"
                )
            if what.other is not None:
                self.constant(what.other, v.dtype)
            self.axes_are(v, lanes(*what.index, what.mask))
        elif v.op in ("cast", "round"):
            self.arity(v, 1)
            old = v.args[0].dtype
            if v.op == "round" and (old.kind, v.dtype.kind) != ("real", "real"):
                raise self.fail(f"no rounding from {old} to {v.dtype}")
            if (old.kind == "bool") != (v.dtype.kind == "bool") or (old.kind, v.dtype.kind) == (
                "real",
                "int",
            ):
                raise self.fail(
                    f"no cast from {old} to {v.dtype}: use select, floor, trunc or nearest"
                )
            self.axes_are(v, v.args[0].axes)
        elif v.op == "reduce":
            self.reduce(v)
        elif v.op == "argreduce":
            self.argreduce(v)
        elif v.op == "scan":
            self.scan(v)
        elif v.op == "dot":
            self.dot(v)
        elif v.op == "view":
            self.view(v)
        elif v.op == "opaque":
            if not isinstance(v.attr, str) or not v.attr:
                raise self.fail("an opaque operation needs a name")
            self.axes_are(v, (x for a in v.args for x in a.axes))
        elif v.op in ROWS:
            self.row(v)
        else:
            raise self.fail(f"unknown operation {v.op}")

    def constant(self, n: object, d: DType) -> None:
        kind = "bool" if isinstance(n, bool) else "int" if isinstance(n, int) else "real"
        if not isinstance(n, bool | int | float) or (kind, d.kind) not in (
            ("bool", "bool"),
            ("int", "int"),
            ("int", "real"),
            ("real", "real"),
        ):
            raise self.fail(f"{n!r} is not a number of {d}")
        if d.kind == "int":
            lo, hi = integer_range(d)
            if not lo <= n <= hi:
                raise self.fail(f"{n} does not fit {d}")

    def axes_are(self, v: Value, axes: Iterable[Axis]) -> None:
        wanted = set(axes)
        if set(v.axes) != wanted:
            have = ", ".join(a.name for a in v.axes) or "no axes"
            want = ", ".join(sorted(a.name for a in wanted)) or "none"
            raise self.fail(f"the value has {have}, its operands give {want}")

    def arity(self, v: Value, n: int) -> None:
        if len(v.args) != n:
            raise self.fail(f"{v.op} takes {n} operands, not {len(v.args)}")

    def reduce(self, v: Value) -> None:
        self.arity(v, 1)
        monoid, axis = v.attr
        arg = v.args[0]
        self.along(arg, axis)
        self.monoid(monoid, arg.dtype)
        if v.dtype != arg.dtype:
            raise self.fail(f"{monoid} cannot reduce {arg.dtype} to {v.dtype}")
        self.axes_are(v, (a for a in arg.axes if a != axis))

    def along(self, v: Value, axis: Axis) -> None:
        if axis not in v.axes:
            raise self.fail(f"{v.name} has no axis {axis.name}")

    def argreduce(self, v: Value) -> None:
        self.arity(v, 2)
        fold, axis = v.attr
        values, indices = v.args
        if fold not in ARG_FOLDS:
            raise self.fail(f"unknown reduction {fold}")
        if values.dtype.kind == "bool" or indices.dtype.kind != "int" or v.dtype != indices.dtype:
            raise self.fail(f"no {fold} of {values.dtype} at {indices.dtype} giving {v.dtype}")
        axes = {*values.axes, *indices.axes}
        if axis not in axes:
            raise self.fail(f"{values.name} has no axis {axis.name}")
        self.axes_are(v, axes - {axis})

    def scan(self, v: Value) -> None:
        self.arity(v, 1)
        what: Scan = v.attr
        self.along(v.args[0], what.axis)
        self.monoid(what.monoid, v.args[0].dtype)
        if v.dtype != v.args[0].dtype:
            raise self.fail(f"{what.monoid} cannot scan {v.args[0].dtype} to {v.dtype}")
        self.axes_are(v, v.args[0].axes)

    def dot(self, v: Value) -> None:
        self.arity(v, 2)
        what: Dot = v.attr
        for a in v.args:
            self.along(a, what.axis)
            if a.dtype.kind == "bool" or a.dtype.kind != v.dtype.kind:
                raise self.fail(f"no dot of {a.dtype} giving {v.dtype}")
        if what.precision not in PRECISIONS:
            raise self.fail(f"unknown precision {what.precision}")
        self.axes_are(v, {x for a in v.args for x in a.axes} - {what.axis})

    def view(self, v: Value) -> None:
        self.arity(v, 1)
        arg, moved = v.args[0], [a for a, _ in v.attr]
        for a, e in v.attr:
            self.along(arg, a)
            if e.kind != "int":
                raise self.fail(f"{show(e)} is not an integer")
            _only(e, ("lane",), "a view", self.at, self.kernel.name)
            for x in leaves(e, "lane"):
                self.axis(x.attr)
        if len(set(moved)) != len(moved):
            raise self.fail("an axis is placed twice")
        if v.dtype != arg.dtype:
            raise self.fail(f"a view of {arg.dtype} is not {v.dtype}")
        kept = [a for a in arg.axes if a not in moved]
        self.axes_are(v, (*kept, *lanes(*(e for _, e in v.attr))))

    def row(self, v: Value) -> None:
        row = ROWS[v.op]
        self.arity(v, row.arity)
        like: DType | None = None
        for a, k in zip(v.args, row.kinds, strict=False):
            if (k == "b") != (a.dtype.kind == "bool"):
                raise self.fail(f"{v.op}: operand {a.name} is {a.dtype}")
            if k == "b":
                continue
            if (k == "r" and a.dtype.kind != "real") or (k == "i" and a.dtype.kind != "int"):
                raise self.fail(
                    f"{v.op} needs {'floats' if k == 'r' else 'integers'}, not {a.dtype}"
                )
            if like is not None and a.dtype != like:
                raise self.fail(f"{v.op}: operands are {like} and {a.dtype}")
            like = a.dtype
        out = row.result
        fits = {
            "b": v.dtype is BOOL,
            "i": v.dtype == (like if "i" in row.kinds[: row.arity] else I64),
            "r": v.dtype.kind == "real",
            "n": v.dtype == like,
        }[out]
        if out == "r" and like is not None and like.kind == "real":
            fits = v.dtype == like
        if not fits and not (out == "i" and v.dtype is I64):
            raise self.fail(f"{v.op} of {like or 'bool'} does not give {v.dtype}")
        self.axes_are(v, (x for a in v.args for x in a.axes))


def check_placement(k: Kernel, p: Placement) -> None:
    """Raise TileError unless all axes or none are placed, widths divide and each hint names
    something."""

    def fail(reason: str, statement: str = "") -> TileError:
        return TileError(reason, statement, k.name)

    values: list[Value] = []
    stores: list[Store | Atomic] = []
    loops: list[str] = []
    for s in statements(k.body):
        if isinstance(s, Def):
            values.append(s.value)
        elif isinstance(s, (Store, Atomic)):
            stores.append(s)
        elif isinstance(s, For):
            loops.append(s.variable)
            values += [*s.params, *s.results]
    for name, what in p.axes.items():
        vec = isinstance(what, tuple) and len(what) == 2 and what[0] == "vec" and what[1] >= 1
        if what != "unroll" and not vec:
            raise fail(f"axis {name} is placed as {what}; use unroll or vec with a width")

    def placed(axes: Iterable[Axis], name: str) -> None:
        if not p.axes:
            return  # the target places them
        wide = []
        for a in axes:
            if a.name not in p.axes:
                raise fail(f"axis {a.name} is not placed", name)
            what = p.axes[a.name]
            if isinstance(what, tuple):
                wide.append(a)
                if a.extent % what[1]:
                    raise fail(
                        f"axis {a.name}: {a.extent} lanes are no multiple of {what[1]}", name
                    )
        if len(wide) > 1:
            raise fail("two vec axes in one value", name)

    for v in values:
        placed(v.axes, v.name)
    for st in stores:
        placed(access_axes(st), st.name)
    named = {
        "value": [v.name for v in values],
        "store": [st.name for st in stores],
        "load": [v.name for v in values if v.op == "load"],
        "loop": loops,
    }
    hints: list[tuple[str, Iterable[str], tuple[str, ...]]] = [
        ("pin", p.pin, ("value",)),
        ("stream", p.stream, ("store",)),
        ("unroll", p.unroll, ("loop",)),
        ("deep", p.deep, ("value", "store")),
        ("prefetch", p.prefetch, ("load", "store")),
    ]
    for hint, patterns, kinds in hints:
        for pattern in patterns:
            if not any(matches((pattern,), n) for kind in kinds for n in named[kind]):
                raise fail(f"the {hint} hint {pattern} names no {' or '.join(kinds)}")
    for loop, ahead in p.prefetch.values():
        if loop not in (*loops, *PROGRAMS):
            raise fail(f"the prefetch hint names the loop {loop}, which is not there")
        if ahead < 1:
            raise fail("a prefetch hint looks at least one iteration ahead")
    for loop, factor in p.unroll.items():
        if factor < 1:
            raise fail(f"the unroll factor of {loop} is {factor}")
    for name, n in p.launch.items():
        if n < 1:
            raise fail(f"the kernel is launched with {name} = {n}")
    if p.threads not in ("static", "dynamic"):
        raise fail(f"threads are static or dynamic, not {p.threads}")
    check_homes(k, p)


def check_homes(k: Kernel, p: Placement) -> None:
    buffers = {b.name: b for b in k.buffers}
    for name, (host, lead) in p.home.items():
        scratch, target = buffers.get(name), buffers.get(host)
        if scratch is None or target is None:
            raise TileError(f"home {name} in {host} names an unknown buffer", kernel=k.name)
        if scratch.role != "program" or target.role != "out":
            reason = f"home {name} in {host}: scratch of a program may live in an output only"
            raise TileError(reason, kernel=k.name)
        if scratch.dtype != target.dtype or len(lead) + len(scratch.shape) != len(target.shape):
            raise TileError(f"home {name} in {host}: types or ranks differ", kernel=k.name)
        for e in lead:
            if e.kind != "int":
                raise TileError(f"home {name}: {show(e)} is not an integer", kernel=k.name)
            _only(e, ("size", "param", "pid", "stride"), f"home {name}", "", k.name)
            for x in leaves(e, "pid"):
                if x.attr >= len(k.grid):
                    raise TileError(f"home {name}: p{x.attr} is not in the grid", kernel=k.name)


__all__ = [
    "ROLES",
    "If",
    "TileError",
    "check_buffer",
    "check_homes",
    "check_placement",
    "check_program",
]
