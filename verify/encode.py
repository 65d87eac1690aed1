"""Reads index expressions and integer values of a tile program as terms, for an arbitrary
instance.

An instance is one program of a launch at one iteration of each loop around a statement, at one
lane of each axis. What is not an integer over sizes (an element of scratch, a comparison of reals,
state that a loop carries) becomes an unknown that is the same for the same instance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from opwright.ir.dtypes import DType, integer_range
from opwright.ir.expr import (
    LEAVES,
    TRUE,
    Expr,
    leaves,
    pid,
    read_parts,
    show,
    substitute,
    var,
    walk,
)
from opwright.ir.semantics import ROWS
from opwright.ir.tile import Axis, Buffer, For, Load, TileProgram, Value
from opwright.verify.context import Context
from opwright.verify.depends import Depends
from opwright.verify.forms import ElementClause, bounds_of, clauses_of, splits_of
from opwright.verify.spans import Spans
from opwright.verify.terms import NO, YES, Formula, Interval, Poly, Terms
from opwright.verify.walk import Path, Walk

I64 = (-(2**63), 2**63 - 1)
CLAUSE_DEPTH = 2  # instances of clauses inside instances


@dataclass(eq=False, slots=True)
class Instance:
    """What leaves stand for in one execution of a statement, and what is known of them."""

    launch: int
    tag: str
    leaves: dict[Expr, Any] = field(default_factory=dict)
    facts: list[Formula] = field(default_factory=list)
    memo: dict[Expr, Any] = field(default_factory=dict)
    depth: int = 0
    data: dict[Value, Poly] = field(default_factory=dict)

    def copy(self, tag: str, lanes: bool = True) -> Instance:
        """The same execution under another tag; without lanes, at other lanes of it."""
        kept = {k: v for k, v in self.leaves.items() if lanes or k.op != "lane"}
        return Instance(self.launch, tag, kept, list(self.facts))

    def bind(self, leaf: Expr, value: Poly) -> None:
        self.leaves[leaf] = value
        self.memo.clear()
        self.data.clear()


def specialised(facts: Sequence[Expr]) -> list[Expr]:
    """What facts say of the values that others of them fix: `C % 4 == 0` of `C % I == 0` and
    `I == 4`. They follow, but not for a solver to whom `C % I` is a name."""
    fixed: dict[Expr, Expr] = {}
    for f in facts:
        if f.op == "eq":
            for x, v in (f.args, f.args[::-1]):
                if x.op in ("size", "param") and x.kind == "int" and v.op == "const":
                    fixed.setdefault(x, v)
    if not fixed:
        return []
    made = [substitute(f, fixed) for f in facts if f.op != "eq" or not _fixes(f)]
    known = set(facts)
    return [f for f in dict.fromkeys(made) if f not in known and f is not TRUE]


def _fixes(f: Expr) -> bool:
    """Whether a fact says of one size or param what it is."""
    return any(x.op in ("size", "param") and v.op == "const" for x, v in (f.args, f.args[::-1]))


class Encoder:
    """Terms of one program under a context; `facts` hold everywhere."""

    def __init__(self, program: TileProgram, context: Context, seen: Walk) -> None:
        self.program, self.context, self.seen = program, context, seen
        self.terms = Terms()
        self.scalars: dict[Expr, Any] = {}
        self.clauses = list(clauses_of(context))
        self.splits = splits_of(program)
        self.depends = Depends(program)
        self.spans = Spans(program)
        self._reads: dict[tuple[object, ...], Poly] = {}
        self._opaque: dict[tuple[object, ...], Any] = {}
        self._instances: dict[tuple[object, ...], Instance] = {}
        self.ranges = self._size_ranges()
        self.facts: list[Formula] = []
        self._limits()
        empty = Instance(0, "")
        for f in self.stated():
            self.facts += self.terms.parts(self.formula(f, empty))
        self._shape_facts(empty)

    def stated(self) -> list[Expr]:
        """Facts of program and context, and clauses that speak of sizes and params only."""
        scalar = [
            c.expr
            for c in self.context.requires
            if c.expr is not None and not any(x.op in ("read", "fold") for x in walk(c.expr))
        ]
        stated = [*self.context.facts, *self.program.facts, *scalar]
        return [*stated, *specialised(stated)]

    # -- sizes
    def _size_ranges(self) -> dict[Expr, tuple[int, int | None]]:
        """Constant bounds of sizes, params and strides that single facts state."""
        rough = Terms()
        terms, self.terms = self.terms, rough
        empty = Instance(0, "")
        atoms: dict[int, Expr] = {}
        found: dict[Expr, list[int | None]] = {}
        for f in self.stated():
            for x in leaves(f, "size", "param", "stride"):
                if x.kind == "int" and x not in self.scalars:
                    made = rough.atom(show(x))
                    atoms[made.number] = x
                    self.scalars[x] = rough.of(made)
                    found[x] = [None, None]
        for f in self.stated():
            for part in rough.parts(self.formula(f, empty)):
                hull = bounds_of(part)
                if hull is not None and hull[0] in atoms:
                    n, lo, hi = hull
                    row = found[atoms[n]]
                    if lo is not None:
                        row[0] = lo if row[0] is None else max(row[0], lo)
                    if hi is not None:
                        row[1] = hi if row[1] is None else min(row[1], hi)
        self.terms, self.scalars = terms, {}
        self._reads.clear()
        self._opaque.clear()
        return {x: (r[0], r[1]) for x, r in found.items()}  # type: ignore[misc]

    def scalar(self, x: Expr) -> Any:
        """A size, param or stride."""
        found = self.scalars.get(x)
        if found is None:
            if x.kind == "bool":
                found = self.terms.boolean(show(x))
            else:
                lo, hi = self.ranges.get(x, (None, None))
                if x.op == "size":
                    lo = max(lo or 0, 0)
                    hi = self.context.dim_limit if hi is None else hi
                elif x.op == "stride":
                    lo = max(lo or 0, 0)
                    hi = self.context.element_limit if hi is None else hi
                else:
                    limit = self.context.param_limit
                    lo, hi = (-limit if lo is None else lo), (limit if hi is None else hi)
                found = self.terms.fresh(show(x).replace(" ", ""), lo, hi)
            self.scalars[x] = found
        return found

    def _limits(self) -> None:
        """Element counts of tensors bound the products of their sizes."""
        empty = Instance(0, "")
        for b in self.program.buffers():
            if b.role in ("in", "out", "state"):
                count = self.count(b, empty)
                if len(count.items) == 1 and len(count.items[0][0]) > 1:
                    m, c = count.items[0]
                    self.terms.limits[m] = self.context.element_limit // c
        for f in self.stated():
            for part in self.terms.parts(self.formula(f, empty)):
                p = part.args[0] if part.op == "ge0" else None
                if isinstance(p, Poly):
                    rows = [(m, c) for m, c in p.items if m]
                    if len(rows) == 1 and len(rows[0][0]) > 1 and rows[0][1] == -1:
                        limit = dict(p.items).get((), 0)
                        old = self.terms.limits.get(rows[0][0], limit)
                        self.terms.limits[rows[0][0]] = min(old, limit)

    def count(self, b: Buffer, at: Instance) -> Poly:
        out = self.terms.const(1)
        for s in b.shape:
            out = self.terms.mul(out, self.term(s, at))
        return out

    def _shape_facts(self, empty: Instance) -> None:
        """Tensors exist: their extents are not negative, and they have a bounded number of
        elements."""
        t = self.terms
        for b in self.program.buffers():
            if b.role in ("in", "out", "state"):
                for s in b.shape:
                    self.facts += t.parts(t.ge0(self.term(s, empty)))
        self.facts = list(dict.fromkeys(self.facts))

    # -- instances
    def instance(self, launch: int, path: Path, tag: str = "") -> Instance:
        """An arbitrary execution of what lies at the end of a path."""
        key = (launch, path, tag)
        found = self._instances.get(key)
        if found is not None:
            return found
        t = self.terms
        if not path:
            at = Instance(launch, tag)
            for d, g in enumerate(self.program.kernels[launch].grid):
                total = self.term(g, at)
                hi = t.interval(total)[1]
                p = t.fresh(f"p{d}{tag}", 0, None if hi is None else hi - 1)
                at.bind(pid(d), p)
                at.facts += t.parts(t.lt(p, total))
        else:
            outer, step = self.instance(launch, path[:-1], tag), path[-1]
            at = outer.copy(tag)
            if step.loop is not None:
                s = step.loop
                start, end = self.term(s.lo, outer), self.term(s.hi, outer)
                length = t.interval(t.sub(end, start))[1]
                last = None if length is None else (length - 1) // s.step
                k = t.fresh(f"{s.variable}{tag}", 0, last)
                at.bind(_variable(s.variable), t.add(start, t.scale(k, s.step)))
                at.facts += t.parts(t.lt(at.leaves[_variable(s.variable)], end))
            else:
                c = self.formula(step.cond, outer)
                at.facts += t.parts(c if step.taken else t.no(c))
        self._instances[key] = at
        return at

    # -- expressions
    def term(self, e: Expr, at: Instance) -> Poly:
        """An integer expression."""
        out = self.encode(e, at)
        assert isinstance(out, Poly), show(e)
        return out

    def formula(self, e: Expr, at: Instance) -> Formula:
        """A truth value."""
        if e is TRUE:
            return YES
        out = self.encode(e, at)
        assert isinstance(out, Formula), show(e)
        return out

    def encode(self, e: Expr, at: Instance) -> Any:
        if e in at.memo:
            return at.memo[e]
        if e.op == "const":
            found: Any = (YES if e.attr else NO) if e.kind == "bool" else None
            if found is None:
                found = self.terms.const(int(e.attr)) if e.kind == "int" else self.opaque(e, at)
        elif e.op in LEAVES:
            found = self.leaf(e, at)
        elif e.op == "read":
            found = self.read(e, at)
        elif e.op == "cast" and e.kind == "int":
            found = self.narrow(self.term(e.args[0], at), e.attr)
        elif any(a.kind == "real" for a in e.args) or e.kind == "real" or e.op == "fold":
            found = self.opaque(e, at)
        else:
            split = self.splits.get(e)
            if split is not None and all(
                _natural(self.terms.interval(self.term(d, at))) for d in split[1:]
            ):
                found = self.term(split[0] // split[1] // split[2], at)
                if e.op == "mod":
                    whole = self.terms.mul(found, self.term(e.args[1], at))
                    found = self.terms.sub(self.term(split[0], at), whole)
            else:
                found = self.apply(e.op, [self.encode(a, at) for a in e.args], e, at)
        at.memo[e] = found
        return found

    def leaf(self, e: Expr, at: Instance) -> Any:
        if e.op in ("size", "stride") or (e.op == "param" and e.kind != "real"):
            return self.scalar(e)
        if e.op == "value":
            return self.value(e.attr, at)
        found = at.leaves.get(e)
        if found is None:
            if e.op == "lane":
                axis: Axis = e.attr
                found = self.terms.fresh(f"{axis.name}{at.tag}", 0, axis.extent - 1)
                at.leaves[e] = found
            else:
                found = self.opaque(e, at)
        return found

    def apply(self, op: str, args: list[Any], e: Expr | Value, at: Instance) -> Any:
        """A row of the semantics table over integers and truth values."""
        t = self.terms
        if op == "add":
            return t.add(args[0], args[1])
        if op == "sub":
            return t.sub(args[0], args[1])
        if op == "mul":
            return t.mul(args[0], args[1])
        if op == "neg":
            return t.scale(args[0], -1)
        if op == "abs":
            return t.larger(args[0], t.scale(args[0], -1))
        if op in ("min", "max"):
            return (t.smaller if op == "min" else t.larger)(args[0], args[1])
        if op in ("floordiv", "mod"):
            return t.divide(args[0], args[1])[op == "mod"]
        if op == "lt":
            return t.lt(args[0], args[1])
        if op == "le":
            return t.le(args[0], args[1])
        if op in ("eq", "ne"):
            same = t.eq(args[0], args[1])
            return same if op == "eq" else t.no(same)
        if op == "not":
            return t.no(args[0])
        if op in ("and", "or"):
            return (t.both if op == "and" else t.either)(args[0], args[1])
        if op == "select" and isinstance(args[1], Poly):
            return t.choose(args[0], args[1], args[2])
        if op == "select":
            return t.either(t.both(args[0], args[1]), t.both(t.no(args[0]), args[2]))
        return self.opaque(e, at) if isinstance(e, Expr) else self.unknown(e, at)

    def narrow(self, p: Poly, to: DType) -> Poly:
        """An integer in a narrower type: the same number where it fits."""
        lo, hi = integer_range(to)
        a, b = self.terms.interval(p)
        if a is not None and b is not None and a >= lo and b <= hi:
            return p
        key = ("narrow", p, to)
        found = self._reads.get(key)
        if found is None:
            t = self.terms
            atom = t.atom(f"narrow{len(t.atoms)}", lo, hi)
            found = self._reads[key] = t.of(atom)
            inside = t.both(t.ge0(t.shift(p, -lo)), t.ge0(t.shift(t.scale(p, -1), hi)))
            atom.axioms.append(t.either(t.no(inside), t.eq(found, p)))
        return found

    def opaque(self, e: Expr, at: Instance) -> Any:
        """An unknown that depends on the instance through the leaves of the expression only."""
        parts: list[object] = []
        for x in leaves(e, "pid", "var", "lane", "value", "state"):
            if x.op == "value":
                parts += self.place(x.attr, at)
            else:
                parts.append(at.leaves.get(x, x))
        return self.make(("expr", e, *parts), e.kind, "unknown", I64, "", ())

    def make(
        self,
        key: tuple[object, ...],
        kind: str,
        name: str,
        bounds: tuple[int, int],
        function: str,
        arguments: tuple[Poly, ...],
    ) -> Any:
        found = self._opaque.get(key)
        if found is None:
            n = len(self._opaque)
            if kind == "int":
                found = self.terms.of(
                    self.terms.atom(f"{name}{n}", *bounds, function=function, arguments=arguments)
                )
            else:
                found = self.terms.boolean(f"{name}{n}")
            self._opaque[key] = found
        return found

    # -- values
    def place(self, v: Value, at: Instance) -> list[Poly]:
        """What a value depends on: program id and loop variables as far as it is made from them,
        lanes."""
        own = self.depends.of(v)
        out = [at.leaves[x] for x in at.leaves if x.op == "pid" and x in own]
        for s in self.seen.scopes.get(v, ()):
            if s.loop is not None and _variable(s.loop.variable) in own:
                out.append(at.leaves[_variable(s.loop.variable)])
        return out + [self.term(a.lane, at) for a in v.axes]

    def moved(self, v: Value, at: Instance) -> Instance:
        """The instance of a view's operand for one of the view."""
        own = v.args[0].axes
        places = dict(v.attr)
        found = {a.lane: self.term(places.get(a, a.lane), at) for a in own}
        kept = {x: p for x, p in at.leaves.items() if x.op != "lane"}
        return Instance(at.launch, at.tag, {**kept, **found}, depth=at.depth)

    def unknown(self, v: Value, at: Instance) -> Any:
        where = self.place(v, at)
        bounds = I64
        if v.dtype.kind == "int":
            bounds = self.spans.of(v, lambda s: self.trips(s, at))
        name = f"{self.seen.launches.get(v, 0)}.{v.name}"
        return self.make(("value", v, *where), v.dtype.kind, v.name, bounds, name, tuple(where))

    def trips(self, s: For, at: Instance) -> int | None:
        """How often a loop runs at most, as far as bounds of its ends say."""
        length = self.terms.sub(self.term(s.hi, at), self.term(s.lo, at))
        most = self.terms.interval(length)[1]
        return None if most is None else max(-(-most // s.step), 0)

    def value(self, v: Value, at: Instance) -> Any:
        """A tile at the lanes of the instance, where it is an integer or a truth value."""
        out = self.wide(v, at)
        return self.narrow(out, v.dtype) if isinstance(out, Poly) else out

    def wide(self, v: Value, at: Instance) -> Any:
        """The same before it is put into the width of its type."""
        if v.op == "full" and v.dtype.kind != "real":
            return self.terms.const(int(v.attr)) if v.dtype.kind == "int" else YES if v.attr else NO
        if v.op == "index" and v.attr.kind == v.dtype.kind != "real":
            return self.encode(v.attr, at)
        if v.op == "load" and v.dtype.kind == "int" and v.attr.buffer.role == "in":
            what: Load = v.attr
            got = self.element(
                what.buffer.name, [self.term(i, at) for i in what.index], v.dtype, at.depth
            )
            if what.other is None:
                return got
            other = self.terms.const(int(what.other))
            return self.terms.choose(self.formula(what.mask, at), got, other)
        if v.op == "cast" and v.dtype.kind == "int" and v.args[0].dtype.kind == "int":
            return self.value(v.args[0], at)
        if v.op == "view" and v.dtype.kind != "real":
            return self.value(v.args[0], self.moved(v, at))
        exact = v.args and all(a.dtype.kind != "real" for a in (v, *v.args))
        if exact and v.op in ROWS:
            return self.apply(v.op, [self.value(a, at) for a in v.args], v, at)
        if v.dtype.kind == "int" and (
            v.op == "argreduce" or (v.op == "reduce" and v.attr[0] in ("max", "min"))
        ):
            return self.picked(v, at)
        return self.unknown(v, at)

    def picked(self, v: Value, at: Instance) -> Poly:
        """What a reduction takes from some lane is what that lane holds; which one depends on
        data."""
        where = self.place(v, at)
        axis: Axis = v.attr[1]
        name = f"{self.seen.launches.get(v, 0)}.{v.name}.lane"
        bounds = (0, axis.extent - 1)
        lane = self.make(("lane", v, *where), "int", v.name, bounds, name, tuple(where))
        inner = Instance(at.launch, at.tag, {**at.leaves, axis.lane: lane}, depth=at.depth)
        found: Poly = self.value(v.args[-1], inner)
        return found

    def data(self, v: Value, at: Instance) -> Poly:
        """A number that stands for what a value holds: equal for values made alike of equal
        parts."""
        t = self.terms
        found = at.data.get(v)
        if found is None:
            if v.dtype.kind == "int":
                found = self.value(v, at)
            elif v.dtype.kind == "bool":
                found = t.choose(self.value(v, at), t.const(1), t.const(0))
            else:
                found = self.real(v, at)
            at.data[v] = found
        return found

    def real(self, v: Value, at: Instance) -> Poly:
        t = self.terms
        if v.op == "full":
            return self.same(f"number:{float(v.attr)!r}", [])
        if v.op == "load" and self.depends.constant(v.attr.buffer.name, at.launch):
            what: Load = v.attr
            epoch = self.depends.epoch(what.buffer.name, at.launch)
            index = [self.term(i, at) for i in what.index]
            got = self.same(f"memory:{epoch}:{what.buffer.name}", index)
            if what.mask is TRUE:
                return got
            other = self.same(f"number:{what.other!r}", [])
            return t.choose(self.formula(what.mask, at), got, other)
        if v.op == "view":
            return self.data(v.args[0], self.moved(v, at))
        if v.op == "select":
            return t.choose(self.value(v.args[0], at), *(self.data(a, at) for a in v.args[1:]))
        if v.op in ROWS or v.op in ("cast", "round", "opaque"):
            name = f"row:{v.op}:{v.dtype}:{v.attr or ''}"
            return self.same(name, [self.data(a, at) for a in v.args])
        out = self.place(v, at)
        return self.same(f"value:{at.launch}.{v.name}", out)

    def same(self, function: str, arguments: list[Poly]) -> Poly:
        """The value of a function of which nothing is known but that it is one."""
        key = (function, *arguments)
        found = self._reads.get(key)
        if found is None:
            t = self.terms
            atom = t.atom(f"data{len(t.atoms)}", None, None, function, tuple(arguments))
            found = self._reads[key] = t.of(atom)
        return found

    # -- inputs
    def element(self, buffer: str, index: list[Poly], dtype: DType, depth: int) -> Poly:
        """An element of an integer input, with what the spec requires of it."""
        key = ("element", buffer, *index)
        found = self._reads.get(key)
        if found is None:
            lo, hi = integer_range(dtype)
            name = f"{buffer}{len(self._reads)}"
            atom = self.terms.atom(name, lo, hi, f"in:{buffer}", tuple(index))
            found = self._reads[key] = self.terms.of(atom)
            if depth < CLAUSE_DEPTH:
                for c in self.clauses:
                    atom.axioms += self.instances(c, buffer, index, depth + 1)
        return found

    def read(self, e: Expr, at: Instance) -> Any:
        """An element that a clause speaks of."""
        name, index, fill = read_parts(e)
        held = {b.name: b for b in self.program.buffers()}.get(name)
        if e.kind != "int" or fill is not None or held is None or held.dtype.kind != "int":
            return self.opaque(e, at)
        return self.element(name, [self.term(i, at) for i in index], held.dtype, at.depth)

    def instances(
        self, c: ElementClause, buffer: str, index: list[Poly], depth: int
    ) -> list[Formula]:
        """A clause at the binders for which it reads this element."""
        t, out = self.terms, []
        binders = {name for name, _, _ in c.ranges}
        for r in walk(c.term):
            if r.op != "read" or r.attr[0] != buffer:
                continue
            at = Instance(0, "", depth=depth)
            for e, value in zip(read_parts(r)[1], index, strict=False):
                free = [x for x in leaves(e, "var") if x.attr in binders and x not in at.leaves]
                if len(free) != 1:
                    continue
                probe = Instance(0, "", {**at.leaves, free[0]: t.const(0)}, depth=depth)
                rest = self.term(e, probe)
                one = Instance(0, "", {**at.leaves, free[0]: t.const(1)}, depth=depth)
                slope = t.sub(self.term(e, one), rest).constant
                if slope == 1:
                    at.bind(free[0], t.sub(value, rest))
            if {x.attr for x in at.leaves} != binders:
                continue
            here = [t.eq(self.term(e, at), v) for e, v in zip(read_parts(r)[1], index, strict=True)]
            for name, lo, hi in c.ranges:
                b = at.leaves[_variable(name)]
                here += [t.le(self.term(lo, at), b), t.lt(b, self.term(hi, at))]
            here += [self.formula(g, at) for g in c.guards]
            out.append(t.either(t.no(t.all(here)), self.formula(c.term, at)))
        return out


def _variable(name: str) -> Expr:
    return var(name)


def _natural(interval: Interval) -> bool:
    return interval[0] is not None and interval[0] >= 0
