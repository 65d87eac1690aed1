"""Prints TileIR as C++: GNU vectors, no headers. Obeys the placement and takes no decision.

A value is one named variable per coordinate: unrolled axes give one variable per index, the vec
axis one per vector. What a vector access cannot express (strides, gathers, masks that are no
interval of lanes) is printed lane by lane.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from opwright.backends.cpp import elementwise
from opwright.backends.cpp.indexing import LANE, At, Indexing, leaf_name
from opwright.backends.cpp.lanes import (
    run_kind,
    slope,
    split_mask,
    strides_of,
)
from opwright.backends.cpp.scalar import (
    PrintError,
    element,
    is_computed,
    is_natural,
    literal,
    symbol,
)
from opwright.backends.cpp.vocabulary import Isa, isa, prelude
from opwright.ir.dtypes import BOOL, F32, I64, DType
from opwright.ir.expr import Expr, leaves, pid, show, substitute, var
from opwright.ir.tile import (
    PROGRAMS,
    Atomic,
    Axis,
    Buffer,
    Def,
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
    pointer_arguments,
    scalar_arguments,
)
from opwright.ir.tiletext import axes_of

UNPRINTED = ("dot", "argreduce", "view", "opaque")


def print_program(
    program: TileProgram,
    isa_name: str,
    params: Mapping[str, DType] | None = None,
    aliased: Iterable[str] = (),
) -> str:
    """One text with all kernels: `extern "C" void name(pointers..., scalars..., pid0, pid1, pid2)`.

    `params` gives the dtypes of run-time params; buffers in `aliased` may share memory (an output
    that updates an input). PrintError says what cannot be printed and why.
    """
    level = isa(isa_name)
    known = known_leaves(program)
    body = "\n".join(
        _KernelPrinter(k, p, level, params or {}, frozenset(aliased), known).text()
        for k, p in zip(program.kernels, program.placements, strict=True)
    )
    return f"// {program.name}, {level.name}\n{prelude(body, level.name)}\n{body}"


def known_leaves(program: TileProgram) -> dict[Expr, Expr]:
    """Sizes, params and strides that the program's facts fix to a constant."""
    out: dict[Expr, Expr] = {}
    for f in program.facts:
        if f.op == "eq":
            for a, b in (f.args, f.args[::-1]):
                if a.op in ("size", "param", "stride") and b.op == "const":
                    out[a] = b
    return out


def argument_type(e: Expr, params: Mapping[str, DType]) -> str:
    """C++ type of a scalar argument: f32 params are float, other reals double, the rest i64."""
    if e.op != "param" or e.kind != "real":
        return "i64"
    if e.attr not in params:
        raise PrintError(f"the dtype of param {e.attr} is not given")
    return "float" if params[e.attr] is F32 else "double"


class _KernelPrinter(Indexing):
    def __init__(
        self,
        kernel: Kernel,
        placement: Placement,
        level: Isa,
        params: Mapping[str, DType],
        aliased: frozenset[str],
        known: dict[Expr, Expr],
    ) -> None:
        super().__init__(kernel, placement, level, known)
        self.params, self.aliased = params, aliased
        self.out: list[str] = []
        self.depth = 1
        self.streams = False
        self.steps: dict[str, int] = {}  # of the loops around the current statement

    # -- the kernel -----------------------------------------------------------------------------

    def text(self) -> str:
        for a in axes_of(self.kernel):
            if a.name not in self.placement.axes:
                raise PrintError(f"axis {a.name} of {self.kernel.name} is not placed")
        arguments = []
        for b in pointer_arguments(self.kernel, self.placement):
            c = "const " if b.role == "in" else ""
            r = " " if b.name in self.aliased else "__restrict "
            arguments.append(f"{c}{element(b.dtype)} *{r}{self.names.give(b.name, b.name)}")
        for e in scalar_arguments(self.kernel, self.placement):
            kind = argument_type(e, self.params)
            arguments.append(f"{kind} {self.names.give((e.op, e.attr), leaf_name(e))}")
        arguments += [f"i64 {self.names.give(('pid', d), f'pid{d}')}" for d in range(3)]
        self.lane_name = self.names.give(LANE, "lane")
        self.block(self.kernel.body)
        if self.streams and self.level.fence:
            self.line(self.level.fence)
        head = f'extern "C" void {symbol(self.kernel.name)}({", ".join(arguments)})'
        return "\n".join([f"{head} {{", *self.out, "}\n"])

    def line(self, text: str) -> None:
        self.out.append("  " * self.depth + text)

    def block(self, body: Iterable[Stmt]) -> None:
        for run in self.runs(body):
            s = run[0]
            if isinstance(s, Def | Store):
                self.straight(run)
            elif isinstance(s, For):
                self.loop(s)
            elif isinstance(s, If):
                self.branch(s)
            elif isinstance(s, Atomic):
                raise PrintError(f"{s.name}: an atomic {s.monoid} has no C++ here")

    def inner(self, body: Iterable[Stmt]) -> None:
        self.depth += 1
        self.block(body)
        self.depth -= 1

    def straight(self, run: list[Stmt]) -> None:
        for copy, at in self.copies(run):
            self.define(copy.value, at) if isinstance(copy, Def) else self.store(copy, at)
        for s in run:
            if isinstance(s, Def) and matches(self.placement.pin, s.value.name):
                self.pin(s.value)

    def pin(self, v: Value) -> None:
        if not self.level.held or not is_computed(v.dtype):
            return
        held = self.level.held if v.dtype.kind == "real" or "x" in self.value_type(v) else "r"
        copies = [f'"+{held}"({self.name(v, at)})' for at in self.coords(v.axes)]
        for n in range(0, len(copies), 8):
            self.line(f'asm("" : {", ".join(copies[n : n + 8])});')

    def uniform(self, e: Expr, what: str) -> str:
        if lanes(e):
            raise PrintError(f"{what} {show(e)} varies by lane")
        return self.ix(e, {})

    def branch(self, s: If) -> None:
        self.line(f"if ({self.uniform(s.cond, 'the branch condition')}) {{")
        self.inner(s.then)
        if s.other:
            self.line("} else {")
            self.inner(s.other)
        self.line("}")

    def loop(self, s: For) -> None:
        for i, p in zip(s.inits, s.params, strict=True):
            for at in self.coords(p.axes):
                self.line(f"{self.value_type(p)} {self.name(p, at)} = {self.name(i, at)};")
        factor = next((f for n, f in self.placement.unroll.items() if matches((n,), s.variable)), 0)
        if factor:
            self.line(f"#pragma GCC unroll {factor}")
        leaf = var(s.variable)
        if is_natural(substitute(s.lo, self.known), self.is_natural_leaf):
            self.natural.add(leaf)
        v = self.names.give((leaf.op, leaf.attr), s.variable)
        end = self.names.give((leaf.op, leaf.attr, "end"), f"{s.variable}_end")
        lo, hi = self.uniform(s.lo, "the loop bound"), self.uniform(s.hi, "the loop bound")
        self.line(f"for (i64 {v} = {lo}, {end} = {hi}; {v} < {end}; {v} += {s.step}) {{")
        self.steps[s.variable] = s.step
        self.inner(s.body)
        del self.steps[s.variable]
        self.depth += 1
        self.advance(s)
        self.depth -= 1
        self.line("}")
        for r, p in zip(s.results, s.params, strict=True):
            self.names.alias(r, p)

    def advance(self, s: For) -> None:
        """The next state; a state that another entry still needs is kept first."""
        pairs = [(y, p) for y, p in zip(s.yields, s.params, strict=True) if y is not p]
        overwritten = {p for _, p in pairs}
        kept = {y for y, p in pairs if y in overwritten}
        for y in s.params:
            if y in kept:
                old = self.names.give((y, "old"), f"{y.name}_old")
                for at in self.coords(y.axes):
                    copy = "__".join([old, *(str(at[a]) for a in y.axes)])
                    self.line(f"{self.value_type(y)} {copy} = {self.name(y, at)};")
        for y, p in pairs:
            for at in self.coords(p.axes):
                source = self.name(y, at)
                if y in kept:
                    old = self.names.give((y, "old"), f"{y.name}_old")
                    source = "__".join([old, *(str(at[a]) for a in y.axes)])
                self.line(f"{self.name(p, at)} = {source};")

    # -- statements -----------------------------------------------------------------------------

    def define(self, v: Value, at: At) -> None:
        self.line(f"{self.value_type(v)} {self.name(v, at)} = {self.rhs(v, at)};")
        if v.op == "load":
            for pattern, ahead in self.placement.prefetch.items():
                if matches((pattern,), v.name):
                    self.prefetch(v.attr, at, *ahead)

    def prefetch(self, access: Load | Store, at: At, variable: str, iterations: int) -> None:
        if leaves_vary(access.index):
            return
        if variable in PROGRAMS:
            leaf = pid(PROGRAMS.index(variable))
            moved = {leaf: leaf + iterations}
        elif variable in self.steps:
            leaf = var(variable)
            moved = {leaf: leaf + iterations * self.steps[variable]}
        else:
            return
        buffer, offset, _ = self.address(
            access.buffer, tuple(substitute(e, moved) for e in access.index)
        )
        write = ", 1" if isinstance(access, Store) else ""
        self.line(f"__builtin_prefetch({self.pointer(buffer, offset, at)}{write});")

    def rhs(self, v: Value, at: At) -> str:
        if v.op in UNPRINTED:
            raise PrintError(f"{v.name}: the operation {v.op} has no C++ here")
        axis = self.vec(v.axes, v.name)
        n = self.widths[axis] if axis is not None else 1
        if v.op == "full":
            text = literal(v.attr, v.dtype)
            if n > 1 and v.dtype is BOOL:
                return f"v_truth<{self.value_type(v)}>({text})"
            return text if n == 1 else f"v_splat<{self.value_type(v)}>({text})"
        if v.op == "index":
            return self.index(v, at, axis)
        if v.op == "load":
            return self.load(v, at, axis)
        if v.op == "reduce":
            return self.reduce(v, at)
        if v.op == "scan":
            return self.scan(v, at, n)
        if v.op in ("cast", "round"):
            source = v.args[0]
            text = elementwise.convert(self.name(source, at), source.dtype, v.dtype, n)
            return f"v_meant({text})" if v.op == "round" else text
        numeric = [a for a in v.args if a.dtype is not BOOL]
        like = numeric[0].dtype if numeric else BOOL
        args = [self.name(a, at) for a in v.args]
        if n > 1:
            for i, a in enumerate(v.args):
                uniform = self.vec(a.axes, a.name) is None
                if uniform and (a.dtype is BOOL or not elementwise.mixes(v.op)):
                    text = f"-(i32){args[i]}" if a.dtype is BOOL else args[i]
                    args[i] = f"v_splat<{elementwise.value_type(a.dtype, n)}>({text})"
        return elementwise.row(v.op, args, like, v.dtype, n)

    def index(self, v: Value, at: At, axis: Axis | None) -> str:
        e: Expr = v.attr
        exact = e.kind == "int"
        if axis is None:
            text = self.ix(e, at)
            if v.dtype is BOOL or (exact and v.dtype is I64):
                return text
            return f"({element(v.dtype)}){text}"
        n = self.widths[axis]
        if e.kind == "bool":
            return self.mask_part(e, at, axis)
        step = slope(e, axis) if exact else None
        if step is None:
            scalar = element(v.dtype)
            return self.by_lane(self.value_type(v), scalar, f"({scalar}){self.ix(e, at, True)}")
        whole = elementwise.value_type(I64, n) if v.dtype.kind == "real" else self.value_type(v)
        kind = "i64" if v.dtype.kind == "real" else element(v.dtype)
        base = f"v_splat<{whole}>(({kind}){self.ix(e, at)})"
        text = base if step == 0 else f"({base} + v_iota<{whole}>() * {step})"
        return text if v.dtype.kind == "int" else elementwise.convert(text, I64, v.dtype, n)

    def load(self, v: Value, at: At, axis: Axis | None) -> str:
        m: Load = v.attr
        buffer, offset, index = self.address(m.buffer, m.index)
        d = buffer.dtype
        other = literal(0 if m.other is None else m.other, d)
        uniform, varying = split_mask(m.mask, axis)
        cond = " && ".join(self.ix(e, at) for e in uniform)
        if axis is None:
            text = self.cell(buffer, offset, at, False)
            return f"{cond} ? {text} : ({element(d)}){other}" if cond else text
        n = self.widths[axis]
        vector = elementwise.memory_type(d, n)
        run = run_kind(self.known_strides(buffer), index, axis)
        if run == "next":
            where = self.pointer(buffer, offset, at)
            if varying:
                text = f"v_load_masked<{vector}>({where}, {self.mask(varying, at, axis)}, {other})"
            else:
                text = f"v_load<{vector}>({where})"
        elif run == "same" and not varying:
            text = f"v_splat<{vector}>({self.cell(buffer, offset, at, False)})"
        else:
            text = self.cell(buffer, offset, at, True)
            if varying:
                inside = " && ".join(self.ix(e, at, True) for e in varying)
                text = f"{inside} ? {text} : ({element(d)}){other}"
            text = self.by_lane(vector, _stored(d), text)
        if cond:
            text = f"{cond} ? {text} : v_splat<{vector}>({other})"
        if d is BOOL:
            text = f"v_convert<i32x{n}>({text}) != 0"
        return text

    def known_strides(self, buffer: Buffer) -> tuple[Expr, ...]:
        return tuple(substitute(s, self.known) for s in strides_of(buffer))

    def reduce(self, v: Value, at: At) -> str:
        monoid, axis = v.attr
        source = v.args[0]
        if not is_computed(source.dtype):
            raise PrintError(
                f"{v.name}: reduce of {source.dtype}, a storage type; cast to f32 first"
            )
        parts = [self.name(source, {**at, **c}) for c in self.coords([axis])]
        text = elementwise.reduce_parts(
            monoid, parts, source.dtype, self.vec(source.axes, source.name) is not None
        )
        return elementwise.reduce_lanes(monoid, text) if self.widths[axis] > 1 else text

    def scan(self, v: Value, at: At, n: int) -> str:
        """One vector (or element) scanned, combined with where the one before it ended."""
        what: Scan = v.attr
        source = v.args[0]
        if what.monoid not in elementwise.SCANNED or not is_computed(v.dtype):
            raise PrintError(f"{v.name}: a running {what.monoid} of {v.dtype} has no C++ here")
        text = self.name(source, at)
        width = self.widths[what.axis]
        if width > 1:
            text = elementwise.scan_lanes(what.monoid, what.reverse, text)
        near = at[what.axis] + (width if what.reverse else -width)
        if not 0 <= near < what.axis.extent:
            return text
        last = self.name(v, {**at, what.axis: near})
        if width > 1:
            last = f"v_splat<{self.value_type(v)}>({last}[{0 if what.reverse else width - 1}])"
        return elementwise.reduce_parts(what.monoid, [last, text], v.dtype, n > 1)

    def store(self, s: Store, at: At) -> None:
        axes = access_axes(s)
        axis = self.vec(axes, s.name)
        buffer, offset, index = self.address(s.buffer, s.index)
        d = buffer.dtype
        uniform, varying = split_mask(s.mask, axis)
        value = self.name(s.value, at)
        cond = " && ".join(self.ix(e, at) for e in uniform)
        if axis is None:
            text = f"{self.cell(buffer, offset, at, False)} = {value};"
        else:
            text = self.vector_store(s, at, axis, buffer, offset, index, varying, value, d)
        self.line(f"if ({cond}) {text}" if cond else text)
        for pattern, ahead in self.placement.prefetch.items():
            if matches((pattern,), s.name):
                self.prefetch(s, at, *ahead)

    def vector_store(
        self,
        s: Store,
        at: At,
        axis: Axis,
        buffer: Buffer,
        offset: Expr,
        index: tuple[Expr, ...],
        varying: list[Expr],
        value: str,
        d: DType,
    ) -> str:
        n = self.widths[axis]
        spread = self.vec(s.value.axes, s.name) is not None
        if run_kind(self.known_strides(buffer), index, axis) != "next":
            if spread:
                value = f"{value}[{self.lane_name}]"
            text = f"{self.cell(buffer, offset, at, True)} = {value}{' != 0' if d is BOOL else ''};"
            inside = " && ".join(self.ix(e, at, True) for e in varying)
            text = f"if ({inside}) {text}" if inside else text
            return f"v_each<{n}>([&](i64 {self.lane_name}) {{ {text} }});"
        vector = elementwise.memory_type(d, n)
        if not spread:
            value = f"v_splat<{vector}>({value})"
        elif d is BOOL:
            value = f"v_convert<{vector}>({value} & 1)"
        where = self.pointer(buffer, offset, at)
        if varying:
            return f"v_store_masked({where}, {self.mask(varying, at, axis)}, {value});"
        if matches(self.placement.stream, s.name):
            self.streams = True
            return f"v_stream({where}, {value});"
        return f"v_store({where}, {value});"


def leaves_vary(index: tuple[Expr, ...]) -> bool:
    """Whether an index depends on loaded values."""
    return any(leaves(e, "value") for e in index)


def _stored(d: DType) -> str:
    return "u8" if d is BOOL else element(d)
