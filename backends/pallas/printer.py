"""Prints TileIR as Pallas: one function of arrays, in it a kernel and a call of blocks for each
launch. What is no block of an array has no form here, and the reason says which access it is.

A kernel sees references to blocks. An axis of a buffer that a program touches as one tile, or at
one point, is cut into such blocks by the index map; one that a loop goes along is there as a whole,
padded to full tiles. Elements past the end of an array are unspecified when they are read, and
dropped when they are written.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from opwright.backends.jax.scalar import (
    ATOM,
    PRODUCT,
    SUM,
    Names,
    PrintError,
    Term,
    aligned,
    identifier,
    jax_type,
    operation,
    wrapped,
)
from opwright.backends.jax.scalar import literal as number
from opwright.backends.triton.uses import axis_order, has_own_name
from opwright.ir.dtypes import BOOL, DType
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    affine,
    call,
    cdiv,
    conjuncts,
    const,
    leaves,
    pid,
    show,
    var,
)
from opwright.ir.extents import from_affine
from opwright.ir.launch import ROOM
from opwright.ir.op import Operator
from opwright.ir.plan import Launch, Plan
from opwright.ir.tile import (
    Buffer,
    Check,
    Def,
    For,
    If,
    Kernel,
    Load,
    Stmt,
    Store,
    TileProgram,
    Value,
    expressions,
    lanes,
    statements,
)

TARGET = "pallas"
_REDUCE = {"sum": "jnp.sum", "max": "jnp.max", "min": "jnp.min", "prod": "jnp.prod",
           "any": "jnp.any", "all": "jnp.all"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cut:
    """How a kernel sees an axis of a buffer: in blocks of `extent` elements, of which this program
    has number `at`; or, where `at` is None, as a whole that is padded to a multiple of it."""

    extent: int
    at: Expr | None


Cuts = tuple[Cut, ...]


def make_plan(program: TileProgram, op: Operator, target: str = TARGET) -> Plan:
    """The plan of what `print_program` prints: a call with the inputs by name. Sizes are neither 0
    nor so large that a tile past the end would wrap a counter of 32 bits."""
    names = [t.name for t in op.inputs] + [p.name for p in op.params] + list(op.free_sizes)
    facts = [show(f) for f in program.facts if not _of_memory(f)]
    facts += [f"1 <= {s}" for s in op.sizes] + [f"{s} <= {ROOM}" for s in op.sizes]
    return Plan(
        op=f"{op.name}@{op.version}",
        target=target,
        backend="pallas",
        source="kernel.py",
        launches=(Launch(identifier(op.name), tuple(names)),),
        spec=op.digest or None,
        types=dict(op.types),
        facts=tuple(dict.fromkeys(facts)),
    )


def _of_memory(f: Expr) -> bool:
    """Whether a fact speaks of strides and addresses, which arrays do not have."""
    return bool(leaves(f, "stride")) or any(
        str(x.attr).startswith("aligned(") for x in leaves(f, "param")
    )


def print_program(program: TileProgram, op: Operator) -> str:
    """The module; PrintError says what is no program of blocks, and why."""
    return _Module(program, op).text()


def dispatch(op: Operator, facts: Sequence[Expr]) -> tuple[list[str], list[str]]:
    """Statements that take the sizes of a call from its arrays, and facts as conditions on them."""
    module = _Module(TileProgram(op.name, (), ()), op)
    return module.shapes(), [module.static(f) for f in facts]


class _Module:
    """The function around the kernels."""

    def __init__(self, program: TileProgram, op: Operator) -> None:
        self.program, self.op = program, op
        self.names = Names()
        for word in ("jax", "jnp", "lax", "pl"):
            self.names.fresh(word)
        self.inputs = {t.name: self.names.give(t.name, t.name) for t in op.inputs}
        self.params = {p.name: self.names.give(p.name, p.name) for p in op.params}
        self.sizes = {s: self.names.give(s, s) for s in op.sizes}
        self.made: dict[str, str] = {}

    def text(self) -> str:
        op = self.op
        arguments = [*self.inputs.values(), *self.params.values()]
        arguments += [self.sizes[s] for s in op.free_sizes]
        body = self.shapes()
        for k in self.program.kernels:
            body += ["", *_Kernel(self, k).text()]
        outs = [self.made.get(t.name, "") for t in op.outputs]
        if not all(outs):
            raise PrintError("an output is written by no kernel")
        body.append(f"return {', '.join(outs)}")
        head = ["import jax", "import jax.numpy as jnp", "from jax import lax",
                "from jax.experimental import pallas as pl", "", ""]  # fmt: skip
        name = identifier(op.name)
        lines = [*head, f"def {name}({', '.join(arguments)}):", *_indented(body)]
        return "\n".join(lines) + "\n"

    def shapes(self) -> list[str]:
        """The sizes, each from the first axis that is one."""
        out: list[str] = []
        missing = {s for s in self.op.sizes if s not in self.op.free_sizes}
        for t in self.op.inputs:
            own = [a.hi.attr if a.hi.op == "size" else None for a in t.axes]
            if not missing & set(own):
                continue
            targets = [self.sizes[s] if s in missing else "_" for s in own]
            missing -= set(own)
            out.append(
                f"{', '.join(targets)}{',' * (len(targets) == 1)} = {self.inputs[t.name]}.shape"
            )
        if missing:
            raise PrintError(f"{', '.join(sorted(missing))} is the extent of no axis")
        return out

    def static(self, e: Expr) -> str:
        """A formula in sizes, as numbers that are known when the function is traced."""
        return _integer(e, self.leaf).code

    def leaf(self, e: Expr) -> Term:
        if e.op == "size":
            return Term(self.sizes[e.attr], (), "int", ATOM, None, True)
        raise PrintError(f"{show(e)} is not known when the function is traced")


class _Kernel:
    """One launch: a kernel function and its call."""

    def __init__(self, module: _Module, kernel: Kernel) -> None:
        self.m, self.kernel = module, kernel
        self.names = Names()
        for word in ("jax", "jnp", "lax", "pl", *module.inputs.values(), *module.params.values(),
                     *module.sizes.values(), *module.made.values()):  # fmt: skip
            self.names.fresh(word)
        self.order = {a.name: n for a, n in axis_order(kernel).items()}
        self.known: dict[Value, Term] = {}
        self.leaves: dict[Expr, Term] = {}
        self.loops = {s.variable for s in statements(kernel.body) if isinstance(s, For)}
        self.steps = {s.variable: s for s in statements(kernel.body) if isinstance(s, For)}
        self.refs: dict[tuple[str, Cuts], str] = {}
        self.reads: list[tuple[Buffer, Cuts]] = []
        self.writes: dict[str, tuple[Buffer, Cuts]] = {}
        self.numbers: dict[str, str] = {}
        self.out: list[str] = []

    def text(self) -> list[str]:
        k = self.kernel
        for b in k.buffers:
            if b.role not in ("in", "out", "plan") or b.init != "none":
                raise PrintError(f"{b.name}: {b.role} memory that is initialised or kept")
        self.accesses()
        used = dict.fromkeys(x for e in expressions(k.body) for x in leaves(e, "param"))
        for x in used:
            if x.kind != "real":
                raise PrintError(f"{show(x)}: a kernel takes no whole numbers beside its blocks")
            self.numbers[x.attr] = self.names.fresh(f"{identifier(x.attr)}_ref")
        for key in self.reads:
            self.refs[key[0].name, key[1]] = self.names.fresh(f"{identifier(key[0].name)}_ref")
        for b, cuts in self.writes.values():
            self.refs[b.name, cuts] = self.names.fresh(f"{identifier(b.name)}_ref")
        used_pids = {x for e in expressions(k.body) for x in leaves(e, "pid")}
        inside: list[str] = []
        self.out = inside
        for n in range(len(k.grid)):
            if pid(n) in used_pids:
                name = self.names.fresh(f"i{n}" if len(k.grid) > 1 else "i")
                self.leaves[pid(n)] = Term(name, (), "int")
        for name, ref in self.numbers.items():
            self.leaves[_param(used, name)] = Term(f"{ref}[0]", (), "real")
        self.block(k.body)
        text = "\n".join(inside)
        pids = [f"{t.code} = pl.program_id({x.attr})" for x, t in self.leaves.items()
                if x.op == "pid" and _word(t.code, text)]  # fmt: skip
        name = self.m.names.fresh(f"{identifier(k.name)}_kernel")
        refs = [*self.numbers.values(), *self.refs.values()]
        head = wrapped(f"def {name}({', '.join(refs)}):")
        return [*head, *_indented([*pids, *inside] or ["pass"]), "", *self.call(name)]

    def call(self, name: str) -> list[str]:
        """The call of blocks; its results get the names of their buffers."""
        m, k = self.m, self.kernel
        pids = [Names().fresh(f"i{n}" if len(k.grid) > 1 else "i") for n in range(len(k.grid) or 1)]
        own = {pid(n): Term(p, (), "int") for n, p in enumerate(pids)}

        def spec(b: Buffer, cuts: Cuts) -> str:
            shape = [self.extent(b, n, c) for n, c in enumerate(cuts)]
            at = [
                "0"
                if c.at is None
                else _integer(c.at, lambda e: own[e] if e in own else m.leaf(e)).code
                for c in cuts
            ]
            return f"pl.BlockSpec({_tuple(shape)}, lambda {', '.join(pids)}: {_tuple(at)})"

        anywhere = f"pl.BlockSpec((1,), lambda {', '.join(pids)}: (0,))"
        ins = [anywhere for _ in self.numbers] + [spec(b, c) for b, c in self.reads]
        outs = [spec(b, c) for b, c in self.writes.values()]
        shapes = [
            f"jax.ShapeDtypeStruct({_tuple(map(m.static, b.shape))}, {jax_type(b.dtype)})"
            for b, _ in self.writes.values()
        ]
        given = [f"jnp.reshape(jnp.asarray({m.params[p]}, {jax_type(self.kind(p))}), (1,))"
                 for p in self.numbers]  # fmt: skip
        for b, _ in self.reads:
            source = m.made.get(b.name) or m.inputs.get(b.name)
            if source is None:
                raise PrintError(f"{b.name} is read before a launch has written it")
            given.append(source)
        results = []
        for n in self.writes:
            if n in m.made:
                raise PrintError(f"{n} is written by several launches")
            results.append(m.names.give(("made", n), n))
            m.made[n] = results[-1]
        grid = _tuple(map(m.static, k.grid or (const(1),)))
        lines = [f"{', '.join(results)}{',' * (len(results) == 1)} = pl.pallas_call(",
                 f"    {name},", f"    grid={grid},", "    in_specs=["]  # fmt: skip
        lines += [f"        {s}," for s in ins]
        lines += ["    ],", "    out_specs=[", *(f"        {s}," for s in outs), "    ],"]
        lines += ["    out_shape=[", *(f"        {s}," for s in shapes), "    ],"]
        lines.append(f")({', '.join(given)})")
        return lines

    def kind(self, name: str) -> DType:
        return next(p.dtype for p in self.m.op.params if p.name == name)

    def extent(self, b: Buffer, n: int, c: Cut) -> str:
        """How many elements of an axis a block has."""
        if c.at is not None:
            return str(c.extent)
        whole = b.shape[n] if c.extent == 1 else cdiv(b.shape[n], c.extent) * c.extent
        return self.m.static(whole)

    # -- accesses ---------------------------------------------------------------------------------

    def accesses(self) -> None:
        """Which blocks of which buffers the kernel takes."""
        for s in statements(self.kernel.body):
            if isinstance(s, Def) and s.value.op == "load":
                what: Load = s.value.attr
                key = (what.buffer, self.cuts(what.buffer, what.index))
                if key not in self.reads:
                    self.reads.append(key)
            elif isinstance(s, Store):
                cuts = self.cuts(s.buffer, s.index)
                known = self.writes.setdefault(s.buffer.name, (s.buffer, cuts))
                if known[1] != cuts:
                    raise PrintError(f"{s.buffer.name} is written in blocks of two kinds")
                self.alone(s.buffer, cuts)
            elif not isinstance(s, Def | For | If | Check):
                raise PrintError(f"{type(s).__name__.lower()} has no form in blocks")
        both = {b.name for b, _ in self.reads} & set(self.writes)
        if both:
            raise PrintError(f"{min(both)} is read and written by one kernel")

    def alone(self, b: Buffer, cuts: Cuts) -> None:
        """Whether every program has a block of its own: what is written belongs to one of them."""
        named = {x for c in cuts if c.at is not None for x in leaves(c.at, "pid")}
        for n, g in enumerate(self.kernel.grid):
            if pid(n) not in named and g is not const(1):
                raise PrintError(f"programs along grid axis {n} share a block of {b.name}")

    def cuts(self, b: Buffer, index: Sequence[Expr]) -> Cuts:
        return tuple(self.cut(b, n, e) for n, e in enumerate(index))

    def cut(self, b: Buffer, n: int, e: Expr) -> Cut:
        said = f"{b.name}, axis {n}: {show(e)}"
        if leaves(e, "value"):
            raise PrintError(f"{said} comes from data, which no block is chosen by")
        form = affine(e)
        own = lanes(e)
        if form is None or len(own) > 1:
            raise PrintError(f"{said} is no tile of one axis")
        if own and form.get(own[0].lane) != 1:
            raise PrintError(f"{said} does not step by one element along a tile")
        step = own[0].extent if own else 1
        rest = {k: c for k, c in form.items() if not (own and k is own[0].lane)}
        if any(leaves(k, "lane") for k in rest if k is not None):
            raise PrintError(f"{said} is no tile of one axis")
        moving = {x.attr for k in rest if k is not None for x in leaves(k, "var")}
        if not moving:
            if any(c % step for c in rest.values()):
                raise PrintError(f"{said} does not start at a multiple of {step}: no whole blocks")
            at = from_affine({**{k: c // step for k, c in rest.items()}})
            return Cut(step, at)
        if own and not self.whole_steps(rest, step):
            raise PrintError(f"{said} does not start at a multiple of {step}: no whole blocks")
        return Cut(step, None)

    def whole_steps(self, rest: Mapping[Expr | None, int], step: int) -> bool:
        """Whether a sum over loop variables is a multiple of a tile's extent."""
        for k, c in rest.items():
            if c % step == 0:
                continue
            loop = self.steps.get(k.attr) if k is not None and k.op == "var" else None
            if loop is None or (loop.step * c) % step:
                return False
            start = affine(loop.lo)
            if start is None or any(x * c % step for x in start.values()):
                return False
        return True

    def reference(self, b: Buffer, index: Sequence[Expr]) -> tuple[str, tuple[str, ...]]:
        """The text of an access and the axes of what is there."""
        cuts = self.cuts(b, index)
        places, axes = [], []
        for c, e in zip(cuts, index, strict=True):
            own = lanes(e)
            axes += [a.name for a in own]
            if c.at is not None:
                places.append(":" if own else "0")
                continue
            if not own:
                places.append(self.ix(e).code)
                continue
            start = from_affine(
                {k: v for k, v in (affine(e) or {}).items() if k is not own[0].lane}
            )
            places.append(f"pl.ds({self.ix(start).code}, {own[0].extent})")
        if len(set(axes)) < len(axes):
            raise PrintError(f"{b.name}: one tile along two axes")
        ref = self.refs[b.name, cuts]
        whole = all(p == ":" for p in places)
        return f"{ref}[{'...' if whole else ', '.join(places)}]", tuple(axes)

    # -- expressions ------------------------------------------------------------------------------

    def sort(self, axes: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(dict.fromkeys(axes), key=self.order.__getitem__))

    def leaf(self, e: Expr) -> Term:
        if e in self.leaves:
            return self.leaves[e]
        if e.op == "lane":
            return Term(f"jnp.arange({e.attr.extent}, dtype=jnp.int32)", (e.attr.name,), "int")
        if e.op == "value":
            return self.value(e.attr)
        return self.m.leaf(e)

    def ix(self, e: Expr) -> Term:
        return _integer(e, self.leaf, self.sort)

    def value(self, v: Value) -> Term:
        if v not in self.known:
            raise PrintError(f"{v.name} is used before it is defined")
        return self.known[v]

    def solid(self, v: Value) -> Term:
        """A value as an array over all of its axes, of its type."""
        t = self.value(v)
        axes = self.sort(a.name for a in v.axes)
        extents = {a.name: a.extent for a in v.axes}
        shape = _tuple(str(extents[a]) for a in axes)
        if t.static:
            return Term(f"jnp.full({shape}, {t.code}, {jax_type(v.dtype)})", axes, t.kind)
        if t.axes != axes:
            return Term(f"jnp.broadcast_to({aligned(t, axes).code}, {shape})", axes, t.kind)
        return t

    def define(self, v: Value) -> None:
        t = self.rhs(v)
        if t.static or (v.op == "index" and not t.axes):
            self.known[v] = t
            return
        wanted = v.name if has_own_name(v) else "t"
        name = self.names.fresh(wanted)
        self.out += wrapped(f"{name} = {t.code}")
        self.known[v] = Term(name, t.axes, t.kind)

    def rhs(self, v: Value) -> Term:
        if v.op == "full":
            return number(const(v.attr if v.dtype.kind != "real" else float(v.attr)))
        if v.op == "index":
            return self.index(v)
        if v.op == "load":
            return self.load(v)
        if v.op in ("cast", "round"):
            t = self.solid(v.args[0])
            return Term(f"{t.at(ATOM)}.astype({jax_type(v.dtype)})", t.axes, v.dtype.kind)
        if v.op == "reduce":
            monoid, axis = v.attr
            t = self.solid(v.args[0])
            rest = tuple(a for a in t.axes if a != axis.name)
            own = f", dtype={jax_type(v.dtype)}" if monoid in ("sum", "prod") else ""
            at = t.axes.index(axis.name)
            return Term(f"{_REDUCE[monoid]}({t.code}, axis={at}{own})", rest, v.dtype.kind)
        if v.op == "dot":
            return self.dot(v)
        if v.op == "scan" and v.attr.monoid == "sum" and not v.attr.reverse:
            t = self.solid(v.args[0])
            at = t.axes.index(v.attr.axis.name)
            return Term(f"lax.cumsum({t.code}, axis={at})", t.axes, v.dtype.kind)
        if v.op in ("argreduce", "scan", "view", "opaque"):
            raise PrintError(f"{v.name}: {v.op} of lanes has no form in a Pallas kernel")
        return self.row(v)

    def index(self, v: Value) -> Term:
        e: Expr = v.attr
        t = self.ix(e)
        kind = jax_type(v.dtype)
        if v.dtype is BOOL:
            return t
        if e.kind == "real" and not t.static:
            return Term(f"{t.at(ATOM)}.astype({kind})", t.axes, v.dtype.kind)
        if t.static and t.code.lstrip("-").replace(".", "").isdigit():
            return t
        if not t.axes:
            return Term(f"jnp.asarray({t.code}, {kind})", (), v.dtype.kind)
        return Term(f"{t.at(ATOM)}.astype({kind})", t.axes, v.dtype.kind)

    def load(self, v: Value) -> Term:
        what: Load = v.attr
        text, axes = self.reference(what.buffer, what.index)
        t = Term(text, axes, v.dtype.kind)
        mine = self.sort(axes)
        if axes != mine:
            turn = ", ".join(str(axes.index(a)) for a in mine)
            t = Term(f"jnp.transpose({text}, ({turn}))", mine, v.dtype.kind)
        if what.mask is TRUE or what.other is None:
            return t
        mask = self.ix(what.mask)
        every = self.sort([*mine, *mask.axes])
        other = number(const(float(what.other) if v.dtype.kind == "real" else what.other))
        inside = f"{aligned(mask, every).code}, {aligned(t, every).code}, {other.code}"
        return Term(f"jnp.where({inside})", every, v.dtype.kind)

    def row(self, v: Value) -> Term:
        axes = self.sort(a.name for a in v.axes)
        args = [self.value(a) for a in v.args]
        if all(a.static for a in args):
            args[0] = self.solid(v.args[0])
        parts = [a if a.static else aligned(a, axes) for a in args]
        if v.op == "toreal":
            return Term(f"{parts[0].at(ATOM)}.astype({jax_type(v.dtype)})", axes, "real")
        return operation(v.op, parts, axes, v.dtype.kind)

    def dot(self, v: Value) -> Term:
        """A product of two tiles, in the precision of its operands."""
        a, b = (self.solid(x) for x in v.args)
        depth = v.attr.axis.name
        shared = [x for x in a.axes if x in b.axes]
        if shared != [depth] or len(a.axes) != 2 or len(b.axes) != 2:
            raise PrintError(f"{v.name}: a dot has one axis of rows, one of columns, one shared")
        dims = f"((({a.axes.index(depth)},), ({b.axes.index(depth)},)), ((), ()))"
        made = tuple(x for x in (*a.axes, *b.axes) if x != depth)
        text = (
            f"lax.dot_general({a.code}, {b.code}, {dims}, "
            f"precision=lax.Precision.HIGHEST, preferred_element_type={jax_type(v.dtype)})"
        )
        if v.attr.precision != "ieee":
            raise PrintError(f"{v.name}: a dot in {v.attr.precision}")
        axes = self.sort(made)
        return Term(text if axes == made else f"jnp.transpose({text})", axes, "real")

    # -- statements -------------------------------------------------------------------------------

    def block(self, body: Sequence[Stmt]) -> None:
        for s in body:
            if isinstance(s, Def):
                self.define(s.value)
            elif isinstance(s, Store):
                self.store(s)
            elif isinstance(s, For):
                self.loop(s)
            elif isinstance(s, If):
                self.branch(s.cond, s.then)
                self.branch(call("not", s.cond), s.other)

    def store(self, s: Store) -> None:
        """What lies past the end of an array is dropped: a mask says no more than that."""
        inside = {call("lt", e, n) for e, n in zip(s.index, s.buffer.shape, strict=True)}
        strange = [c for c in conjuncts(s.mask) if c is not TRUE and c not in inside]
        if strange:
            what = show(strange[0])
            raise PrintError(f"{s.buffer.name} is written where {what}, and not in whole blocks")
        text, axes = self.reference(s.buffer, s.index)
        t = self.solid(s.value)
        lacking = [a for a in axes if a not in t.axes]
        if lacking:
            t = aligned(t, self.sort(axes))
            extents = {a.name: a.extent for e in s.index for a in lanes(e)}
            shape = _tuple(str(extents[a]) for a in t.axes)
            t = Term(f"jnp.broadcast_to({t.code}, {shape})", t.axes, t.kind)
        if t.axes != axes:
            turn = ", ".join(str(t.axes.index(a)) for a in axes)
            t = Term(f"jnp.transpose({t.code}, ({turn}))", axes, t.kind)
        self.out += wrapped(f"{text} = {t.code}")

    def branch(self, cond: Expr, body: Sequence[Stmt]) -> None:
        if not body or cond.op == "const":
            if body and cond.attr:
                self.block(body)
            return
        if lanes(cond):
            raise PrintError(f"a branch on {show(cond)}, which varies by lane")
        self.out.append(f"@pl.when({self.ix(cond).code})")
        name = self.names.fresh("where")
        self.out.append(f"def {name}():")
        self.nested(body, [])

    def nested(self, body: Sequence[Stmt], head: list[str], end: Sequence[str] = ()) -> None:
        outer, self.out = self.out, []
        self.block(body)
        inside = [*head, *self.out, *end]
        self.out = outer
        self.out += _indented(inside or ["pass"])

    def loop(self, s: For) -> None:
        inits = [self.solid(v).code for v in s.inits]
        trip, step = self.names.fresh("n"), self.names.fresh("step")
        start = self.names.fresh(identifier(s.variable))
        self.leaves[var(s.variable)] = Term(start, (), "int")
        names = []
        for p in s.params:
            name = self.names.fresh(p.name.removesuffix("_c"))
            self.known[p] = Term(name, self.sort(a.name for a in p.axes), p.dtype.kind)
            names.append(name)
        lo, trips = self.ix(s.lo), self.ix(cdiv(s.hi - s.lo, s.step))
        at = (
            Term(f"{trip} * {s.step}", (), "int", PRODUCT) if s.step != 1 else Term(trip, (), "int")
        )
        begin = at.code if s.lo is ZERO else f"{lo.at(SUM)} + {at.at(PRODUCT)}"
        head = [f"{start} = {begin}"]
        if names:
            head.append(f"{', '.join(names)}{',' * (len(names) == 1)} = state")
        outer, self.out = self.out, []
        self.block(s.body)
        ends = [self.solid(y).code for y in s.yields]
        inside = [*head, *self.out]
        self.out = outer
        self.out.append(f"def {step}({trip}, {'state' if names else '_'}):")
        self.out += _indented([*inside, f"return {_tuple(ends)}" if names else "return ()"])
        call_ = f"lax.fori_loop(0, {trips.code}, {step}, {_tuple(inits) if names else '()'})"
        if not names:
            self.out.append(call_)
            return
        results = []
        for r, p in zip(s.results, s.params, strict=True):
            name = self.names.fresh(r.name.removesuffix("_r"))
            self.known[r] = Term(name, self.known[p].axes, r.dtype.kind)
            results.append(name)
        self.out += wrapped(f"{', '.join(results)}{',' * (len(results) == 1)} = {call_}")


# -- text ------------------------------------------------------------------------------------------


def _integer(e: Expr, leaf, sort=lambda axes: tuple(dict.fromkeys(axes))) -> Term:  # type: ignore[no-untyped-def]
    """An index expression, a condition, or a real number made of sizes."""
    if e.op == "const":
        return number(e)
    if not e.args:
        return leaf(e)  # type: ignore[no-any-return]
    if e.op == "toreal":
        t = _integer(e.args[0], leaf, sort)
        return Term(f"jnp.asarray({t.code}, jnp.float32)", t.axes, "real")
    args = [_integer(a, leaf, sort) for a in e.args]
    axes = sort([a for t in args for a in t.axes])
    if e.op in ("and", "or", "not") and all(t.static for t in args):
        args = [Term(t.code, (), t.kind, t.level) for t in args]
    return operation(e.op, [t if t.static else aligned(t, axes) for t in args], axes, e.kind)


def _tuple(items: Iterable[str]) -> str:
    inside = list(items)
    return f"({', '.join(inside)}{',' * (len(inside) == 1)})"


def _indented(lines: Iterable[str]) -> list[str]:
    return [f"    {x}" if x else x for x in lines]


def _param(used: Iterable[Expr], name: str) -> Expr:
    return next(x for x in used if x.attr == name)


def _word(name: str, text: str) -> bool:
    return re.search(rf"(?<!\w){name}(?!\w)", text) is not None
