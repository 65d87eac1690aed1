"""Prints TileIR as Triton: one `@triton.jit` function a kernel. Obeys the program, decides nothing.

A tile is a tensor whose dimensions follow one order of axes for the whole kernel; extents are
`tl.constexpr` parameters. Pure values that are used once are written where they are used.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from opwright.backends.triton.elementwise import Values
from opwright.backends.triton.text import (
    HELPERS,
    PLUS,
    Integers,
    Names,
    PrintError,
    Text,
    is_natural,
    literal,
    spread,
    type_name,
)
from opwright.backends.triton.uses import axis_order, has_own_name, named_at, uses_of
from opwright.ir.dtypes import DType
from opwright.ir.expr import TRUE, ZERO, Expr, call, leaves, pid, show, substitute, var, walk
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
    expressions,
    lanes,
    matches,
    pointer_arguments,
    row_major,
    scalar_arguments,
)
from opwright.ir.tileops import shared
from opwright.ir.tiletext import axes_of

WIDTH = 88  # of a statement's right-hand side; longer pure values get a name
_ATOMIC = {"sum": "add", "max": "max", "min": "min", "any": "or", "all": "and"}


def print_program(program: TileProgram, params: Mapping[str, DType] | None = None) -> str:
    """One module with all kernels: `def name(pointers..., scalars..., BLOCKS: tl.constexpr)`.

    `params` gives the dtypes of run-time params. PrintError says what cannot be printed and why.
    """
    known = known_leaves(program)
    bodies = [
        _Printer(k, p, params or {}, known).text()
        for k, p in zip(program.kernels, program.placements, strict=True)
    ]
    text = "\n\n".join(bodies)
    used = {n for n in HELPERS if re.search(rf"(?<![\w.]){n}\b", text)}
    used |= {"philox"} if used & {"rand", "randn"} else set()
    helpers = [h for n, h in HELPERS.items() if n in used]
    head = "import triton\nimport triton.language as tl\n"
    return "\n\n".join([head, *helpers, text])


def known_leaves(program: TileProgram) -> dict[Expr, Expr]:
    """Sizes, params and strides that the program's facts fix to a constant."""
    out: dict[Expr, Expr] = {}
    for f in program.facts:
        if f.op == "eq":
            for a, b in (f.args, f.args[::-1]):
                if a.op in ("size", "param", "stride") and b.op == "const":
                    out[a] = b
    return out


def symbol(kernel: str) -> str:
    """The Python name of a kernel."""
    return Names().fresh(kernel)


def block_constants(kernel: Kernel) -> dict[str, str]:
    """Of every tile axis the name of the `tl.constexpr` that holds its extent."""
    names = Names()
    axes = axes_of(kernel)
    if len(axes) == 1:
        return {axes[0].name: "BLOCK"}
    return {a.name: names.fresh(f"BLOCK_{a.name.upper()}") for a in axes}


class _Printer:
    def __init__(
        self,
        kernel: Kernel,
        placement: Placement,
        params: Mapping[str, DType],
        known: Mapping[Expr, Expr],
    ) -> None:
        self.kernel, self.placement, self.params, self.known = kernel, placement, params, known
        self.names = Names()
        self.uses = uses_of(kernel)
        self.order = axis_order(kernel)
        self.constants = block_constants(kernel)
        for a in self.order:
            if a.extent & (a.extent - 1):
                raise PrintError(f"axis {a.name}: {a.extent} is no power of two")
        self.leaves: dict[Expr, Text] = {}
        self.named: dict[Expr, Text] = {}
        self.natural: set[Expr] = set()
        self.loops: set[str] = set()
        self.out: list[str] = []
        self.depth = 1
        self.blocks = _block_steps(kernel)
        self.ints = Integers(
            self.leaf, self.named.get, self.sort, self.is_natural, self.constant_of
        )
        self.values = Values(self.ints, self.sort, self.constants, params)
        self.shared = shared(kernel) if kernel.order == "statement" else {}

    # -- the kernel -----------------------------------------------------------------------------

    def text(self) -> str:
        arguments = []
        for b in pointer_arguments(self.kernel, self.placement):
            if b.role == "program":
                raise PrintError(f"{b.name}: a Triton program has no scratch memory of its own")
            type_name(b.dtype)
            arguments.append(self.names.fresh(f"{b.name}_ptr"))
            self.leaves[_pointer(b)] = Text(arguments[-1])
        if self.placement.home:
            raise PrintError("scratch that lives in an output is no part of Triton")
        for e in scalar_arguments(self.kernel, self.placement):
            name = self.names.fresh(_scalar_name(e))
            self.leaves[e] = Text(name)
            arguments.append(name + self.annotation(e))
        constants = list(dict.fromkeys(self.constants.values()))
        self.names.taken |= set(constants)
        arguments += [f"{c}: tl.constexpr" for c in constants]
        used = {x for e in expressions(self.kernel.body) for x in leaves(e, "pid")}
        for d in range(len(self.kernel.grid)):
            if pid(d) in used:
                name = self.names.fresh("pid" if len(self.kernel.grid) == 1 else f"pid_{d}")
                self.line(f"{name} = tl.program_id({d}).to(tl.int64)")
                self.leaves[pid(d)] = Text(name)
        self.lane_names()
        self.block(self.kernel.body)
        if not self.out:
            self.line("pass")
        head = f"def {symbol(self.kernel.name)}({', '.join(arguments)}):"
        if len(head) > 100:
            inside = ",\n".join(f"    {a}" for a in arguments)
            head = f"def {symbol(self.kernel.name)}(\n{inside},\n):"
        return "\n".join(["@triton.jit", head, *self.out, ""])

    def annotation(self, e: Expr) -> str:
        """Types are pinned: Triton would take those of the values of one call."""
        if e.kind == "int":
            return ": tl.int64"
        found = self.params.get(e.attr) if e.op == "param" else None
        return f": {type_name(found)}" if found is not None and e.kind == "real" else ""

    def lane_names(self) -> None:
        """A range that several expressions need gets a name."""
        count: dict[Axis, set[Expr]] = {}
        for e in expressions(self.kernel.body):
            for x in walk(e):
                for y in x.args:
                    if y.op == "lane":
                        count.setdefault(y.attr, set()).add(x)
            if e.op == "lane":
                count.setdefault(e.attr, set()).add(e)
        for a in self.order:
            if a in count:
                c = self.constants[a.name]
                t = Text(f"tl.arange(0, {c})", (a,), range=(0, a.extent - 1))
                if len(count[a]) > 1:
                    name = self.names.fresh("lanes" if len(self.order) == 1 else f"lanes_{a.name}")
                    self.line(f"{name} = {t.text}")
                    t = t.called(name)
                self.leaves[a.lane] = t

    def line(self, text: str) -> None:
        self.out.append("    " * self.depth + text)

    # -- expressions ----------------------------------------------------------------------------

    def sort(self, axes: Iterable[Axis]) -> tuple[Axis, ...]:
        return tuple(sorted(axes, key=self.order.__getitem__))

    def is_natural(self, e: Expr) -> bool:
        return is_natural(e, lambda x: x in self.natural)

    def leaf(self, e: Expr) -> Text:
        if e in self.known:
            return self.ints.text(self.known[e])
        if e.op == "value":
            t = self.value(e.attr)
            if e.attr.dtype.kind == "int" and e.attr.dtype.name != "i64" and not t.literal:
                return t.called(f"{t.at(9)}.to(tl.int64)")
            return t
        if e not in self.leaves:
            raise PrintError(f"{show(e)} cannot occur in a kernel")
        return self.leaves[e]

    def constant_of(self, parent: Expr, n: int) -> str | None:
        """The name of a constant that is the extent of the tile that the product places."""
        extent = parent.args[n].attr
        axis = self.blocks.get(parent)
        if axis is not None and axis.extent == extent:
            return self.constants[axis.name]
        return None

    def ix(self, e: Expr, over: tuple[Axis, ...] = ()) -> Text:
        return self.ints.text(substitute(e, dict(self.known)) if self.known else e, over)

    def uniform(self, e: Expr, what: str) -> str:
        if lanes(e):
            raise PrintError(f"{what} {show(e)} varies by lane")
        return self.ix(e).text

    def give_names(self, body: tuple[Stmt, ...]) -> None:
        for e, what in named_at(body, self.loops, set(self.named)):
            over = self.sort(lanes(e))
            t = self.ix(e, over if len(over) > 1 else ())
            if what == "offsets" and len(t.axes) == 1 and len(self.order) > 1:
                what = f"offs_{t.axes[0].name}"
            if what == "start":
                what = "at" if leaves(e, "pid", "var") else "extent"
            name = self.names.fresh({"offsets": "offs"}.get(what, what))
            self.line(f"{name} = {t.text}")
            self.named[e] = t.called(name)

    # -- statements -----------------------------------------------------------------------------

    def block(self, body: tuple[Stmt, ...]) -> None:
        known = dict(self.named)
        self.give_names(body)
        at = 0
        while at < len(body):
            s = body[at]
            if isinstance(s, Def):
                at += self.define(s.value, body[at + 1] if at + 1 < len(body) else None)
            elif isinstance(s, Store):
                self.store(s)
            elif isinstance(s, Atomic):
                self.atomic(s)
            elif isinstance(s, For):
                self.loop(s)
            elif isinstance(s, If):
                self.branch(s)
            elif not isinstance(s, Check):
                raise PrintError(f"a statement of type {type(s).__name__} has no Triton form")
            at += 1
        self.named.clear()
        self.named.update(known)

    def inner(self, body: tuple[Stmt, ...], loop: For | None = None, keep: bool = False) -> None:
        self.depth += 1
        before, taken = len(self.out), set(self.names.taken)
        self.block(body)
        if loop is not None:
            self.advance(loop)
        self.depth -= 1
        if not keep:
            self.names.taken = taken  # what a block defines is not seen after it
        if len(self.out) == before:
            self.out.append("    " * (self.depth + 1) + "pass")

    def branch(self, s: If) -> None:
        if s.cond.op == "const":
            self.block(s.then if s.cond.attr else s.other)
            return
        cond = self.uniform(s.cond, "the branch condition")
        if not s.then and s.other:
            self.line(f"if {self.uniform(call('not', s.cond), 'the branch condition')}:")
            self.inner(s.other)
            return
        self.line(f"if {cond}:")
        taken = set(self.names.taken)
        self.inner(s.then, keep=True)  # one name in both sides would be one variable after them
        if s.other:
            self.line("else:")
            self.inner(s.other, keep=True)
        self.names.taken = taken

    # -- loops ----------------------------------------------------------------------------------

    def loop(self, s: For) -> None:
        here = self.uses
        for i, p in zip(s.inits, s.params, strict=True):
            t = self.values.known.get(i)
            mine = here.count[i] == 1 and here.made.get(i) == here.made.get(s.results[0])
            if t is not None and not t.literal and t.text.isidentifier() and mine:
                self.values.known[p] = t  # nobody else needs what it starts from
                continue
            name = self.names.fresh(_state_name(i))
            self.line(f"{name} = {self.values.solid(i).text}")
            self.values.known[p] = Text(name, self.sort(p.axes))
        lo, hi = self.uniform(s.lo, "the loop bound"), self.uniform(s.hi, "the loop bound")
        v = self.names.fresh(s.variable)
        bounded = s.lo.op == s.hi.op == "const"
        self.leaves[var(s.variable)] = Text(
            v, range=(s.lo.attr, max(s.hi.attr, s.lo.attr) + s.step) if bounded else None
        )
        if self.is_natural(s.lo):
            self.natural.add(var(s.variable))
        bounds = [lo, hi]
        axis = self.blocks.get(var(s.variable))
        if s.step != 1:
            named = axis is not None and axis.extent == s.step
            bounds.append(self.constants[axis.name] if named and axis else str(s.step))
        elif s.lo is ZERO:
            bounds = [hi]
        self.line(f"for {v} in {self.range_of(s)}({', '.join([*bounds, *self.hints(s)])}):")
        self.loops.add(s.variable)
        self.inner(s.body, s)
        self.loops.discard(s.variable)
        for r, p in zip(s.results, s.params, strict=True):
            self.values.known[r] = self.values.known[p]

    def range_of(self, s: For) -> str:
        return "tl.range" if self.hints(s) else "range"

    def hints(self, s: For) -> list[str]:
        """Keywords of `tl.range`: stages of loads that run ahead, copies of the body."""
        ahead = [n for loop, n in self.placement.prefetch.values() if loop == s.variable]
        copies = [f for n, f in self.placement.unroll.items() if matches((n,), s.variable)]
        out = [f"num_stages={max(ahead) + 1}"] if ahead else []
        if self.placement.launch.get("specialise") and any(
            isinstance(x, Def) and x.value.op == "dot" for x in s.body
        ):
            out.append("warp_specialize=True")
        return out + ([f"loop_unroll_factor={copies[0]}"] if copies and copies[0] > 1 else [])

    def advance(self, s: For) -> None:
        """The next state; what another entry still reads is overwritten after it."""
        todo: list[tuple[str, str]] = []
        for y, p in zip(s.yields, s.params, strict=True):
            target, source = self.values.known[p].text, self.values.solid(y).text
            if target != source:
                todo.append((target, source))
        while todo:
            for n, (target, _) in enumerate(todo):
                others = [text for m, (_, text) in enumerate(todo) if m != n]
                if not any(re.search(rf"\b{target}\b", t) for t in others):
                    break
            else:  # they read each other: keep one under another name
                n = 0
                target = todo[0][0]
                kept = self.names.fresh(f"{target}_old")
                self.line(f"{kept} = {target}")
                todo[1:] = [(a, re.sub(rf"\b{target}\b", kept, t)) for a, t in todo[1:]]
            target, source = todo.pop(n)
            self.line(f"{target} = {source}")

    # -- values ---------------------------------------------------------------------------------

    def value(self, v: Value) -> Text:
        return self.values.text(v)

    def define(self, v: Value, following: Stmt | None) -> int:
        """Print a value, or keep its text for its only use; returns how many further statements
        are part of it."""
        if v.op == "full":
            self.values.known[v] = literal(v.attr, v.dtype)
            return 0
        if v.op == "load":
            text = self.load(v)
            if isinstance(following, Def) and following.value.args == (v,):
                cast = following.value
                if cast.op == "cast" and self.uses.once(v):
                    converted = self.values.convert(text, v.dtype, cast.dtype)
                    name = self.names.fresh(v.name)
                    self.line(f"{name} = {converted.text}")
                    self.values.known[cast] = converted.called(name)
                    return 1
            self.let(v, text, v.name)
            return 0
        text = self.values.rhs(v)
        if v.op == "dot" and self.uses.once(v):
            self.values.known[v] = text
            self.values.dots.add(v)
            return 0
        longest = WIDTH - 4 * self.depth
        plain = text.literal or text.text.isidentifier()
        if plain or (self.uses.once(v) and not has_own_name(v) and len(text.text) <= longest):
            self.values.known[v] = text
        else:
            self.let(v, text, v.name)
        return 0

    def let(self, v: Value, t: Text, wanted: str) -> None:
        name = self.names.fresh(wanted if has_own_name(v) else "t")
        self.line(f"{name} = {t.text}")
        self.values.known[v] = t.called(name)

    # -- memory ---------------------------------------------------------------------------------

    def pointer(self, b: Buffer, index: tuple[Expr, ...], over: Iterable[Axis]) -> Text:
        """The address of every element, over the axes of the index."""
        strides = b.strides if b.strides is not None else row_major(b.shape)
        parts_of = [
            call("mul", i, substitute(step, dict(self.known)))
            for i, step in zip(index, strides, strict=True)
        ]
        axes = self.sort(lanes(*(e for e in parts_of if e is not ZERO)))
        terms = [self.ix(e, axes) for e in parts_of if e is not ZERO]
        parts = [self.leaves[_pointer(b)].text]
        parts += [t.at(PLUS + 1) for t in terms]
        t = Text(" + ".join(parts), axes, PLUS if terms else 9)
        wanted = self.sort(set(over))
        if set(wanted) != set(axes):
            t = self.values.broadcast(t, wanted)
        return t

    def load(self, v: Value) -> Text:
        what = v.attr
        parts = [self.pointer(what.buffer, what.index, v.axes).text]
        axes = self.sort(v.axes)
        if what.mask is not TRUE:
            parts.append(f"mask={self.ix(what.mask, axes).text}")
            if what.other is not None:
                parts.append(f"other={literal(what.other, v.dtype).text}")
        return Text(f"tl.load({', '.join(parts)})", axes)

    def store(self, s: Store) -> None:
        axes = self.sort({*s.value.axes, *lanes(*s.index, s.mask)})
        where = self.pointer(s.buffer, s.index, axes).text
        mask = "" if s.mask is TRUE else f", mask={self.ix(s.mask, axes).text}"
        value = self.value(s.value)
        width = 4 * self.depth + len(where) + len(value.text) + len(mask)
        if width > WIDTH and not value.literal and not value.text.isidentifier():
            name = self.names.fresh(s.buffer.name.lower())
            self.line(f"{name} = {value.text}")
            value = value.called(name)
        self.barrier(s, before=True)
        self.line(f"tl.store({where}, {spread(value, axes).text}{mask})")
        self.barrier(s)

    def barrier(self, s: Store | Atomic, before: bool = False) -> None:
        """Statements are ordered: other threads of the program are to read an element before it is
        overwritten, and after it is written."""
        read = self.shared.get(s.buffer.name)
        if read is not None and (read or not before):
            line = "    " * self.depth + "tl.debug_barrier()"
            if self.out[-1] != line:
                self.out.append(line)

    def atomic(self, s: Atomic) -> None:
        if s.monoid not in _ATOMIC:
            raise PrintError(f"{s.name}: Triton has no atomic {s.monoid}")
        axes = self.sort({*s.value.axes, *lanes(*s.index, s.mask)})
        value = spread(self.values.solid(s.value), axes)
        parts = [self.pointer(s.buffer, s.index, axes).text, value.text]
        if s.mask is not TRUE:
            parts.append(f"mask={self.ix(s.mask, axes).text}")
        self.barrier(s, before=True)
        self.line(f"tl.atomic_{_ATOMIC[s.monoid]}({', '.join(parts)})")
        self.barrier(s)


def _pointer(b: Buffer) -> Expr:
    """The key of a buffer's argument among the leaves."""
    return var(f"&{b.name}")


def _scalar_name(e: Expr) -> str:
    return f"{e.attr[0]}_stride{e.attr[1]}" if e.op == "stride" else str(e.attr)


def _state_name(v: Value) -> str:
    return v.name if has_own_name(v) else "acc"


def _terms(e: Expr) -> list[Expr]:
    if e.op == "add":
        return _terms(e.args[0]) + _terms(e.args[1])
    return [e]


def _block_steps(kernel: Kernel) -> dict[Expr, Axis]:
    """Products and loop variables to which the lanes of a tile are added: the tile's axis."""
    found: dict[Expr, Axis] = {}
    for e in expressions(kernel.body):
        for x in walk(e):
            parts = _terms(x) if x.op == "add" else []
            for a in (p.attr for p in parts if p.op == "lane"):
                for p in parts:
                    if p.op in ("mul", "var"):
                        found.setdefault(p, a)
    return found


__all__ = ["PrintError", "block_constants", "known_leaves", "print_program", "symbol"]
