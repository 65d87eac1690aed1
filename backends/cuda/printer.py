"""Prints block programs as CUDA C++: one `extern "C" __global__` function a kernel.

A program is a block. `layout` says which thread holds which elements of a tile; every element that
a thread holds is a scalar of its own. Reductions go through registers, the lanes of a warp, and
shared memory. Pure values that are used once are written where they are used.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping

from opwright.backends.cpp.scalar import Names, PrintError, is_natural
from opwright.backends.cpp.scalar import symbol as c_symbol
from opwright.backends.cuda.layout import WARP, At, Digits, Layout, layout_of
from opwright.backends.cuda.products import FIELDS, Products
from opwright.backends.cuda.text import (
    COMBINE,
    HEADERS,
    HELPERS,
    SMALL,
    Expressions,
    bare,
    convert,
    literal,
    memory_name,
    row,
    type_name,
)
from opwright.backends.cuda.vectors import NAMES, Vectors
from opwright.ir.dtypes import BOOL, F64, I64, DType
from opwright.ir.expr import TRUE, Expr, const, leaves, pid, show, substitute, var
from opwright.ir.semantics import ROWS
from opwright.ir.tile import (
    Atomic,
    Axis,
    Buffer,
    Check,
    Def,
    For,
    If,
    Kernel,
    Placement,
    Stmt,
    Store,
    TileProgram,
    Value,
    access_axes,
    lanes,
    pointer_arguments,
    row_major,
    scalar_arguments,
    statements,
)
from opwright.ir.tileops import inside, operands, shared
from opwright.ir.tiletext import axes_of

FULL = "0xffffffffu"
_ATOMIC = {"sum": "atomicAdd", "max": "atomicMax", "min": "atomicMin"}
_GRID = "xyz"
_FEW = 4  # elements of a thread that are written out one by one


def print_program(program: TileProgram, params: Mapping[str, DType] | None = None) -> str:
    """One text with all kernels: `void name(pointers..., scalars...)`.

    `params` gives the dtypes of run-time params. PrintError says what cannot be printed and why.
    """
    known = known_leaves(program)
    made = [
        _Printer(k, p, params or {}, known, program.facts).text()
        for k, p in zip(program.kernels, program.placements, strict=True)
    ]
    text = "\n".join(made)
    head = ["#include <math.h>", "#include <stdint.h>"]
    head += [f"#include <{h}>" for t, h in HEADERS.items() if t in text]
    helpers = [h for n, h in HELPERS.items() if re.search(rf"\b{n}\(", text)]
    return "\n".join([*head, "", *helpers, text])


def known_leaves(program: TileProgram) -> dict[Expr, Expr]:
    """Sizes, params and strides that the program's facts fix to a constant."""
    out: dict[Expr, Expr] = {}
    for f in program.facts:
        if f.op == "eq":
            for a, b in (f.args, f.args[::-1]):
                if a.op in ("size", "param", "stride") and b.op == "const":
                    out[a] = b
    return out


def threads_of(kernel: Kernel, placement: Placement) -> int:
    """Threads of a block of a printed kernel."""
    return layout_of(kernel, placement, axes_of(kernel)).threads


def symbol(kernel: str) -> str:
    """The name of a kernel: its own, unless C++ or its library has that word."""
    return c_symbol(kernel)


class _Printer(Products):
    def __init__(
        self,
        kernel: Kernel,
        placement: Placement,
        params: Mapping[str, DType],
        known: Mapping[Expr, Expr],
        facts: Iterable[Expr],
    ) -> None:
        self.kernel, self.placement, self.params, self.known = kernel, placement, params, known
        self.axes = axes_of(kernel)
        self.layout: Layout = layout_of(kernel, placement, self.axes)
        self.names = Names()
        for word in (*HELPERS, "min", "max"):
            self.names.give(("word", word), word)
        self.natural: set[Expr] = set()
        self.out: list[str] = []
        self.depth = 1
        self.texts: dict[tuple[Value, tuple[tuple[int, int], ...]], str] = {}
        self.looped: dict[Axis, str] = {}  # axes whose registers a loop goes through
        self.pool: dict[tuple[str, int], str] = {}
        self.uses = _counts(kernel)
        self.nearby = _same_block(kernel.body)
        self.shared = shared(kernel) if kernel.order == "statement" else {}
        self.ints = Expressions(self.leaf, self.never_negative)
        self.at: At = {}
        self.vectors = Vectors(facts, known, kernel)
        self.wide: dict[tuple[Value, object], str] = {}  # loaded vectors
        self.products(kernel)

    # -- the kernel -----------------------------------------------------------------------------

    def text(self) -> str:
        arguments = []
        written = {
            s.buffer.name for s in statements(self.kernel.body) if isinstance(s, Store | Atomic)
        }
        if self.placement.home:
            raise PrintError("scratch that lives in an output is no part of CUDA texts")
        for b in pointer_arguments(self.kernel, self.placement):
            if b.role == "program":
                raise PrintError(f"{b.name}: a block has no scratch memory of its own")
            name = self.names.give(("buffer", b.name), b.name)
            kind = memory_name(b.dtype)
            if b.name in written and b.dtype.name in SMALL:
                raise PrintError(f"{b.name}: {b.dtype.name} is not written by CUDA texts")
            arguments.append(
                f"{kind} *__restrict__ {name}"
                if b.name in written
                else f"const {kind} *__restrict__ {name}"
            )
        for e in scalar_arguments(self.kernel, self.placement):
            arguments.append(f"{self.scalar_type(e)} {self.names.give(e, _scalar_name(e))}")
        used = {x for s in statements(self.kernel.body) for e in _expressions(s)
                for x in leaves(e, "pid")}  # fmt: skip
        for d in range(len(self.kernel.grid)):
            if pid(d) in used:
                name = self.names.give(pid(d), "pid" if len(self.kernel.grid) == 1 else f"pid{d}")
                self.line(f"const int64_t {name} = blockIdx.{_GRID[d]};")
        for digits in self.layout.digits.values():
            if digits.threads > 1:
                name = self.names.give(digits.name, f"t_{digits.axis.name}")
                self.line(f"const int64_t {name} = {self.thread(digits)};")
        head_lines = len(self.out)
        self.block(self.kernel.body)
        self.out[head_lines:head_lines] = [f"  {text}" for text in self.places.values()]
        symbol_ = symbol(self.kernel.name)
        head = f'extern "C" __global__ void __launch_bounds__({self.layout.threads}) {symbol_}('
        inner = ",\n".join(f"    {a}" for a in arguments)
        declared = [
            f"  __shared__ {kind} {name}[{count}];" for (kind, count), name in self.pool.items()
        ]
        declared += [f"  __shared__ {text};" for text in self.declared]
        return "\n".join([f"{head}\n{inner}) {{", *declared, *self.out, "}", ""])

    def scalar_type(self, e: Expr) -> str:
        if e.kind == "int":
            return "int64_t"
        found = self.params.get(e.attr) if e.op == "param" else None
        if e.kind == "bool":
            return "bool"
        return type_name(found or F64)

    def thread(self, d: Digits) -> str:
        text = "threadIdx.x"
        if d.step > 1:
            text = f"{text} / {d.step}"
        if d.step * d.threads < self.layout.threads:
            text = f"{text} % {d.threads}"
        return text

    def line(self, text: str) -> None:
        self.out.append("  " * self.depth + text)

    # -- expressions ----------------------------------------------------------------------------

    def leaf(self, e: Expr) -> str:
        if e in self.known:
            return self.ints.text(self.known[e])
        if e.op == "value":
            v: Value = e.attr
            text = self.get(v, self.at)
            return text if v.dtype in (I64, BOOL) else f"(int64_t){text}"
        if e.op == "var":
            return self.names.give(e if e.attr[:1] != "\0" else e.attr, str(e.attr))
        if e.op == "pid":
            return self.names.give(e, "pid")
        return self.names.give(e, _scalar_name(e))

    def ix(self, e: Expr, at: At) -> str:
        """Text of an expression at an element."""
        mapping: dict[Expr, Expr] = dict(self.known)
        for x in leaves(e, "lane"):
            mapping[x] = self.lane(x.attr, at)
        before, self.at = self.at, at
        try:
            return self.ints.text(substitute(e, mapping))
        finally:
            self.at = before

    def lane(self, a: Axis, at: At) -> Expr:
        if self.walk is not None:
            return self.first[a] + at[a][1]
        d = self.layout.digits[a]
        register, offset = at[a]
        if a not in self.looped:
            return d.lane(register, offset)
        first = var(self.looped[a]) * (d.threads * d.vector)
        return first + d.lane(0, offset)

    def real(self, e: Expr, d: DType, at: At) -> str:
        mapping: dict[Expr, Expr] = dict(self.known)
        for x in leaves(e, "lane"):
            mapping[x] = self.lane(x.attr, at)
        before, self.at = self.at, at
        try:
            return self.ints.real(substitute(e, mapping), d)
        finally:
            self.at = before

    def uniform(self, e: Expr, what: str) -> str:
        if lanes(e):
            raise PrintError(f"{what} {show(e)} varies by lane")
        return self.ix(e, {})

    # -- values ---------------------------------------------------------------------------------

    def key(self, v: Value, at: At) -> tuple[Value, tuple[tuple[int, int], ...]]:
        return v, tuple(at[a] for a in v.axes)

    def get(self, v: Value, at: At) -> str:
        key = self.key(v, at)
        if key not in self.texts:
            raise PrintError(f"value {v.name} is used before it is defined")
        return self.texts[key]

    def name(self, v: Value, at: At) -> str:
        """A fresh variable for one element of a value."""
        count = 1
        if self.walk is not None:
            own = self.walk.vector if self.walk.fast in v.axes else 1
            wanted = f"{v.name}_{at[self.walk.fast][1]}" if own > 1 else v.name
            return self.names.give((v, self.key(v, at), self.walk, len(self.out)), wanted)
        for a in v.axes:
            count *= 1 if a in self.looped else len(self.layout.digits[a].places)
        parts = [str(self.place(a, at)) for a in v.axes] if count > 1 else []
        wanted = "_".join([v.name, *parts])
        return self.names.give((v, self.key(v, at), tuple(self.looped)), wanted)

    def place(self, a: Axis, at: At) -> int:
        register, offset = at[a]
        return register * self.layout.digits[a].vector + offset

    def coordinates(self, axes: Iterable[Axis]) -> list[dict[Axis, tuple[int, int]]]:
        """Elements of a thread that are written out; of an axis in a loop those of one trip."""
        if self.walk is not None:
            return list(self.walk.coordinates(axes))
        found = self.layout.coordinates(axes)
        return [c for c in found if all(c[a][0] == 0 for a in self.looped if a in c)]

    # -- statements -----------------------------------------------------------------------------

    def block(self, body: tuple[Stmt, ...]) -> None:
        staged = self.layout.staged
        todo = [
            s
            for s in body
            if not isinstance(s, Def) or s.value not in staged.only or s.value in staged.factors
        ]

        def plain(s: Stmt) -> bool:
            return _plain(s) and not (isinstance(s, Def) and s.value in staged.factors)

        while todo:
            run = [todo.pop(0)]
            while plain(run[0]) and todo and plain(todo[0]):
                run.append(todo.pop(0))
            if plain(run[0]):
                self.run(run)
            else:
                self.statement(run[0])

    def run(self, run: list[Stmt]) -> None:
        """Statements without exchanges: where nothing of an axis is needed elsewhere, a loop goes
        through a thread's elements along it."""
        own = {s.value for s in run if isinstance(s, Def)}
        axes = dict.fromkeys(a for s in run for a in _axes(s))
        inner: list[Axis] = []
        if not self.shared:
            for a in axes:
                d = self.layout.digits[a]
                if d.registers * d.vector <= _FEW or d.registers == 1:
                    continue
                outside = any(a in v.axes and v not in own for s in run for v in _reads(s))
                escapes = any(a in v.axes and self.uses[v] > _within(v, run) for v in own)
                if not outside and not escapes:
                    inner.append(a)
        if not inner:
            for s in run:
                self.statement(s)
            return
        a = inner[0]
        first = [s for s in run if a not in _axes(s)]
        for s in first:
            self.statement(s)
        d = self.layout.digits[a]
        self.looped[a] = f"\0register {a.name}"
        name = self.names.give(self.looped[a], f"r_{a.name}")
        self.line(f"for (int {name} = 0; {name} < {d.registers}; ++{name}) {{")
        self.depth += 1
        for s in run:
            if a in _axes(s):
                self.statement(s)
        self.depth -= 1
        self.line("}")
        del self.looped[a]

    def statement(self, s: Stmt) -> None:
        if isinstance(s, Def) and s.value in self.layout.staged.factors:
            v = s.value
            self.stage(v)
            if v in self.layout.staged.remade and v not in self.layout.staged.only:
                self.define(v)
        elif isinstance(s, Def):
            self.define(s.value)
        elif isinstance(s, Store):
            self.store(s)
        elif isinstance(s, Atomic):
            self.atomic(s)
        elif isinstance(s, For):
            self.loop(s)
        elif isinstance(s, If):
            self.branch(s)
        elif not isinstance(s, Check):
            raise PrintError(f"a statement of type {type(s).__name__} has no CUDA form")

    def define(self, v: Value) -> None:
        if v.op == "reduce":
            self.reduce(v)
            return
        if v.op == "dot":
            self.dot(v)
            return
        if v.op in ("scan", "view", "argreduce", "opaque"):
            raise PrintError(f"{v.name}: {v.op} has no CUDA form")
        if any(v is made for made, _ in self.sums.values()):
            return  # it was added to where it is contracted
        count = self.vector(v.attr.buffer, v.attr.index, v.attr.mask) if v.op == "load" else None
        for at in self.coordinates(v.axes):
            if count is not None:
                self.texts[self.key(v, at)] = self.part(v, at, *count)
                continue
            text = self.load(v, at) if v.op == "load" else self.rhs(v, at)
            if v.op == "full" or (v.op != "load" and self.uses[v] == 1 and len(text) < 60
                                  and v in self.nearby):  # fmt: skip
                self.texts[self.key(v, at)] = text
                continue
            name = self.name(v, at)
            self.line(f"const {type_name(v.dtype)} {name} = {text};")
            self.texts[self.key(v, at)] = name

    def rhs(self, v: Value, at: At) -> str:
        if v.op == "full":
            return literal(v.attr, v.dtype)
        if v.op == "index":
            e: Expr = v.attr
            if e.kind == "real":
                return self.real(e, v.dtype, at)
            text = self.ix(e, at)
            if e.kind == "bool" or v.dtype is I64:
                return text
            return f"({type_name(v.dtype)}){text}"
        args = [self.get(x, at) for x in v.args]
        if v.op in ("cast", "round"):
            return convert(args[0], v.args[0].dtype, v.dtype)
        if v.op not in ROWS:
            raise PrintError(f"{v.name}: {v.op} has no CUDA form")
        like = next((x.dtype for x in reversed(v.args) if x.dtype.kind != "bool"), BOOL)
        if v.op in ("floordiv", "mod") and v.dtype is not I64:
            return f"({type_name(v.dtype)}){row(v.op, args, like, v.dtype)}"
        return row(v.op, args, like, v.dtype)

    # -- memory ---------------------------------------------------------------------------------

    def cell(self, b: Buffer, index: tuple[Expr, ...], at: At) -> str:
        strides = b.strides if b.strides is not None else row_major(b.shape)
        total: Expr = const(0)
        for e, s in zip(index, strides, strict=True):
            total = total + e * s
        return f"{self.names.give(('buffer', b.name), b.name)}[{bare(self.ix(total, at))}]"

    def vector(self, b: Buffer, index: tuple[Expr, ...], mask: Expr) -> tuple[Axis, int] | None:
        """The axis along which an access is vectors of a thread, and their length."""
        for a in lanes(*index):
            if self.walk is not None:
                count = self.walk.vector if a == self.walk.fast else 1
            else:
                count = self.layout.digits[a].vector
            if count > 1 and self.vectors.whole(b, index, mask, a, count):
                return a, count
        return None

    def part(self, v: Value, at: At, a: Axis, count: int) -> str:
        """An element of a loaded vector, which the first one of them loads."""
        what = v.attr
        offset = at[a][1]
        key = v, (self.key(v, {**at, a: (at[a][0], 0)}), tuple(self.looped), self.walk)
        if offset == 0:
            kind = NAMES[what.buffer.dtype.name, count]
            cell = self.cell(what.buffer, what.index, at)
            text = f"*reinterpret_cast<const {kind} *>(&{cell})"
            if what.mask is not TRUE:
                other = literal(what.other or 0, v.dtype)
                made = ", ".join([other] * count)
                text = f"{self.ix(what.mask, at)} ? {text} : make_{kind}({made})"
            register = f"_{at[a][0]}" if self.walk is None and at[a][0] else ""
            wanted = f"{v.name}{register}_{kind[:-1][0]}{count}"
            self.wide[key] = self.names.give((key, len(self.out)), wanted)
            self.line(f"const {kind} {self.wide[key]} = {text};")
        return f"{self.wide[key]}.{FIELDS[offset]}"

    def load(self, v: Value, at: At) -> str:
        what = v.attr
        cell = self.cell(what.buffer, what.index, at)
        if what.buffer.dtype.name in SMALL:
            cell = f"{SMALL[what.buffer.dtype.name]}(&{cell})"
        if what.mask is TRUE:
            return cell
        other = 0 if what.other is None else what.other
        if v.dtype is BOOL:
            mask = self.ix(what.mask, at)
            return f"(!{mask} || {cell})" if other else f"({mask} && {cell})"
        return f"{self.ix(what.mask, at)} ? {cell} : {literal(other, v.dtype)}"

    def guard(self, mask: Expr, axes: tuple[Axis, ...], at: At) -> str:
        """When a thread does what several of them could do: the first of them, under the mask."""
        parts = [f"{self.names.give(d.name, d.name)} == 0" for d in self.layout.replicas(axes)]
        if mask is not TRUE:
            parts.append(bare(self.ix(mask, at)) if not parts else self.ix(mask, at))
        return f"if ({' && '.join(parts)}) " if parts else ""

    def barrier(self, name: str, before: bool = False) -> None:
        """Statements are ordered: other threads of the block are to read an element before it is
        overwritten, and after it is written."""
        read = self.shared.get(name)
        line = "  " * self.depth + "__syncthreads();"
        if read is not None and (read or not before) and self.layout.threads > 1:
            if not self.out or self.out[-1] != line:
                self.out.append(line)

    def store(self, s: Store) -> None:
        axes = access_axes(s)
        self.barrier(s.buffer.name, before=True)
        found = self.vector(s.buffer, s.index, s.mask)
        for at in self.coordinates(axes):
            cell = self.cell(s.buffer, s.index, at)
            if found is not None:
                a, count = found
                if at[a][1] == 0:
                    kind = NAMES[s.buffer.dtype.name, count]
                    parts = [self.get(s.value, {**at, a: (at[a][0], n)}) for n in range(count)]
                    made = f"make_{kind}({', '.join(map(bare, parts))})"
                    guard = self.guard(s.mask, axes, at)
                    self.line(f"{guard}*reinterpret_cast<{kind} *>(&{cell}) = {made};")
                continue
            value = bare(self.get(s.value, at))
            self.line(f"{self.guard(s.mask, axes, at)}{cell} = {value};")
        self.barrier(s.buffer.name)

    def atomic(self, s: Atomic) -> None:
        if s.monoid not in _ATOMIC or (s.monoid != "sum" and s.buffer.dtype.kind == "real"):
            raise PrintError(f"{s.name}: CUDA has no atomic {s.monoid} of {s.buffer.dtype.name}")
        if s.buffer.dtype.name not in ("f32", "f64", "i32", "u32"):
            raise PrintError(f"{s.name}: no atomic on {s.buffer.dtype.name}")
        axes = access_axes(s)
        self.barrier(s.buffer.name, before=True)
        for at in self.coordinates(axes):
            cell = self.cell(s.buffer, s.index, at)
            guard = self.guard(s.mask, axes, at)
            self.line(f"{guard}{_ATOMIC[s.monoid]}(&{cell}, {bare(self.get(s.value, at))});")
        self.barrier(s.buffer.name)

    # -- control --------------------------------------------------------------------------------

    def inner(self, body: tuple[Stmt, ...]) -> None:
        self.depth += 1
        self.block(body)
        self.depth -= 1

    def branch(self, s: If) -> None:
        if s.cond.op == "const":
            self.block(s.then if s.cond.attr else s.other)
            return
        self.line(f"if ({bare(self.uniform(s.cond, 'the branch condition'))}) {{")
        self.elsewhere()
        self.inner(s.then)
        if s.other:
            self.line("} else {")
            self.elsewhere()
            self.inner(s.other)
        self.elsewhere()
        self.line("}")

    def loop(self, s: For) -> None:
        for i, p, r in zip(s.inits, s.params, s.results, strict=True):
            for at in self.coordinates(p.axes):
                name = self.name(p, at)
                self.line(f"{type_name(p.dtype)} {name} = {bare(self.get(i, at))};")
                self.texts[self.key(p, at)] = name
                self.texts[self.key(r, at)] = name
        lo, hi = self.uniform(s.lo, "the loop bound"), self.uniform(s.hi, "the loop bound")
        v = self.names.give(var(s.variable), s.variable)
        if is_natural(s.lo, self.never_negative):
            self.natural.add(var(s.variable))
        step = f"++{v}" if s.step == 1 else f"{v} += {s.step}"
        self.line(f"for (int64_t {v} = {bare(lo)}; {v} < {hi}; {step}) {{")
        self.depth += 1
        self.elsewhere()
        self.block(s.body)
        self.carry(s)
        self.elsewhere()
        self.depth -= 1
        self.line("}")

    def never_negative(self, e: Expr) -> bool:
        """Of a leaf: counters from 0, and what numbers threads and registers."""
        return e in self.natural or (e.op == "var" and str(e.attr).startswith("\0"))

    def carry(self, s: For) -> None:
        """The next state; where one of it is made of another one's last value, all at once."""
        moves: list[tuple[str, str, DType]] = []
        for p, y in zip(s.params, s.yields, strict=True):
            for at in self.coordinates(p.axes):
                target, text = self.get(p, at), self.get(y, at)
                if target != text:
                    moves.append((target, bare(text), p.dtype))
        targets = {m[0] for m in moves}
        late = any(targets & (set(re.findall(r"\w+", text)) - {t}) for t, text, _ in moves)
        if late:
            fresh = []
            for n, (target, text, d) in enumerate(moves):
                name = self.names.give(("next", s.variable, n), f"{target}_next")
                self.line(f"const {type_name(d)} {name} = {text};")
                fresh.append((target, name, d))
            moves = fresh
        for target, text, _ in moves:
            self.line(f"{target} = {text};")

    # -- exchanges between threads --------------------------------------------------------------

    def reduce(self, v: Value) -> None:
        monoid, axis = v.attr
        (x,) = v.args
        d = self.layout.digits[axis]
        made: list[str] = []
        kind = type_name(v.dtype)
        for at in self.coordinates(v.axes):
            parts = [self.get(x, {**at, axis: p}) for p in d.places]
            name = self.name(v, at)
            exchanged = d.threads > 1
            word = kind if exchanged else f"const {kind}"
            self.line(f"{word} {name} = {bare(self.tree(monoid, parts, v.dtype))};")
            self.texts[self.key(v, at)] = name
            made.append(name)
        if d.threads > 1:
            self.across(monoid, made, d, v.dtype)

    def tree(self, monoid: str, parts: list[str], d: DType) -> str:
        while len(parts) > 1:
            parts = [
                row(COMBINE[monoid], parts[n : n + 2], d, d) if n + 1 < len(parts) else parts[n]
                for n in range(0, len(parts), 2)
            ]
        return parts[0]

    def across(self, monoid: str, made: list[str], d: Digits, kind: DType) -> None:
        """Combine variables over the threads of one digit; every one of them has the result."""
        if self.layout.threads % WARP:
            raise PrintError("threads exchange values in whole warps")
        near = max(1, min(d.threads, WARP // d.step))  # threads of it within a warp
        far = d.threads // near
        for name in made:
            if near > 1:
                first = d.step * near // 2
                step = self.names.give(("distance", len(self.out)), "distance")
                moved = f"__shfl_xor_sync({FULL}, {name}, {step})"
                if kind is BOOL:
                    moved = f"(__shfl_xor_sync({FULL}, (int){name}, {step}) != 0)"
                text = bare(row(COMBINE[monoid], [name, moved], kind, kind))
                self.line(f"for (int {step} = {first}; {step} >= {d.step}; {step} /= 2) {{")
                self.line(f"  {name} = {text};")
                self.line("}")
        if far == 1:
            return
        whole = d.step == 1 and near == WARP  # a warp has one number to say
        slots = self.layout.threads // WARP if whole else self.layout.threads
        share = self.share(kind, slots * len(made))
        own = "threadIdx.x / 32" if whole else "threadIdx.x"
        self.line("__syncthreads();")
        for n, name in enumerate(made):
            at = own if n == 0 else f"{n * slots} + {own}"
            self.line(f"{'if (threadIdx.x % 32 == 0) ' * whole}{share}[{at}] = {name};")
        self.line("__syncthreads();")
        # the digit's threads in other warps: `stride` slots apart, from the first one of them
        stride = d.step * near // (WARP if whole else 1)
        span = stride * far
        for n, name in enumerate(made):
            offset = n * slots
            parts = []
            for k in range(far):
                terms = [str(offset + k * stride)] if offset + k * stride else []
                if span < slots:
                    terms.append(
                        f"{own} / {span} * {span}"
                        if not whole
                        else f"threadIdx.x / {WARP * span} * {span}"
                    )
                if stride > 1:
                    terms.append(
                        f"{own} % {stride}" if not whole else f"threadIdx.x / 32 % {stride}"
                    )
                parts.append(f"{share}[{' + '.join(terms) or '0'}]")
            self.line(f"{name} = {bare(self.tree(monoid, parts, kind))};")

    def share(self, kind: DType, count: int) -> str:
        """Shared memory; who uses it waits before and after."""
        key = type_name(kind), count
        if key not in self.pool:
            self.pool[key] = self.names.give(("share", key), f"share_{kind.name}_{count}")
        return self.pool[key]


def _scalar_name(e: Expr) -> str:
    return f"{e.attr[0]}_stride{e.attr[1]}" if e.op == "stride" else str(e.attr)


def _plain(s: Stmt) -> bool:
    """A statement in which no thread needs another one's."""
    if isinstance(s, Def):
        return s.value.op not in ("reduce", "scan", "dot", "view", "argreduce")
    return isinstance(s, Store | Atomic | Check)


def _axes(s: Stmt) -> tuple[Axis, ...]:
    if isinstance(s, Def):
        return s.value.axes
    return access_axes(s) if isinstance(s, Store | Atomic) else ()


def _reads(s: Stmt) -> list[Value]:
    if isinstance(s, Def):
        v = s.value
        more = inside(*(e for _, e in v.attr)) if v.op == "view" else []
        return [*operands(v), *more]
    if isinstance(s, Store | Atomic):
        return [s.value, *inside(*s.index, s.mask)]
    return []


def _expressions(s: Stmt) -> Iterable[Expr]:
    if isinstance(s, Def):
        v = s.value
        if v.op == "index":
            yield v.attr
        elif v.op == "load":
            yield from (*v.attr.index, v.attr.mask)
    elif isinstance(s, Store | Atomic):
        yield from (*s.index, s.mask)
    elif isinstance(s, For):
        yield from (s.lo, s.hi)
    elif isinstance(s, If):
        yield s.cond


def _counts(kernel: Kernel) -> Counter[Value]:
    """How often each value is read."""
    out: Counter[Value] = Counter()
    for s in statements(kernel.body):
        if isinstance(s, For):
            out.update([*s.inits, *s.yields, *inside(s.lo, s.hi)])
        elif isinstance(s, If):
            out.update(inside(s.cond))
        else:
            out.update(_reads(s))
    return out


def _within(v: Value, run: Iterable[Stmt]) -> int:
    return sum(_reads(s).count(v) for s in run)


def _same_block(body: Iterable[Stmt]) -> set[Value]:
    """Values all of whose uses are in the block that defines them, before memory is written."""
    found: set[Value] = set()

    def block(part: Iterable[Stmt]) -> None:
        part = tuple(part)
        made = {s.value: n for n, s in enumerate(part) if isinstance(s, Def)}
        for s in part:
            for v in _reads(s):
                if v in made:
                    found.add(v)
            if isinstance(s, For):
                block(s.body)
            elif isinstance(s, If):
                block(s.then)
                block(s.other)

    block(body)
    return found


__all__ = ["PrintError", "known_leaves", "print_program", "symbol", "threads_of"]
