"""Normal form of tile programs: one text for all that are equal up to names, common values, order
of independent values, hoisting of pure ones, and constants.

What stays apart: the order of writes, loops and branches; where a load stands (under another
condition it may be out of bounds); what orders the effects of a program; facts. Checks, source
lines, hints and the names of kernels, axes and values are left out. The text says everything else,
so that programs with equal texts mean the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from opwright.ir.delinearize import stated_values, strides_of
from opwright.ir.dtypes import DTYPES, DType, integer_range
from opwright.ir.expr import ONE, Expr, conjuncts, evaluate, leaves
from opwright.ir.graph import Graph, Ref, nearest
from opwright.ir.semantics import ROWS
from opwright.ir.tile import (
    Atomic,
    Axis,
    Barrier,
    Buffer,
    Def,
    Dot,
    For,
    If,
    Kernel,
    Load,
    Scan,
    Stmt,
    Store,
    TileProgram,
    Value,
    access_axes,
    lanes,
    row_major,
    statements,
)
from opwright.ir.tileops import inside, operands, shared

_ROUNDED: dict[str, Callable[[float], int]] = {
    "floor": math.floor, "ceil": math.ceil, "trunc": math.trunc, "nearest": round,
}  # fmt: skip
WHOLE = tuple(_ROUNDED)


def normal_form(program: TileProgram) -> str:
    """The text; equal for two programs only if they compute the same with the same accesses."""
    lines: list[str] = []
    g = Graph()
    printer = _Printer(g)
    reader = _Reader(g)
    facts = [reader.expr(c) for f in program.facts for c in conjuncts(f)]
    for r in g.ordered(dict.fromkeys(facts)):
        lines += printer.line("fact", [r])
    known = stated_values(program.facts)
    for k in program.kernels:
        lines += _KernelReader(g, k, known).text(printer)
    return "\n".join(lines) + "\n"


def _live(kernel: Kernel) -> set[Value]:
    """Values that something depends on: writes, accesses, branches, loops."""
    todo: list[Value] = []
    made: dict[Value, tuple[Value, ...]] = {}
    for s in statements(kernel.body):
        if isinstance(s, Def):
            made[s.value] = tuple(operands(s.value))
            todo += made[s.value] if s.value.op == "load" else ()
        elif isinstance(s, (Store, Atomic)):
            todo += [s.value, *inside(*s.index, s.mask)]
        elif isinstance(s, If):
            todo += inside(s.cond)
        elif isinstance(s, Barrier):
            todo += inside(s.mask)
        elif isinstance(s, For):
            todo += inside(s.lo, s.hi)
            for i, p, y, r in zip(s.inits, s.params, s.yields, s.results, strict=True):
                made[p], made[r] = (i, y), (p, i, y)
    live: set[Value] = set()
    while todo:
        v = todo.pop()
        if v not in live:
            live.add(v)
            todo += made.get(v, ())
    return live


def _labels(kernel: Kernel) -> dict[str, str]:
    """Scratch of a program by the order in which it is first written."""
    written = (s.buffer for s in statements(kernel.body) if isinstance(s, (Store, Atomic)))
    own = dict.fromkeys(b.name for b in written if b.role == "program")
    return {name: f"scratch {n}" for n, name in enumerate(own)}


@dataclass(slots=True)
class _Effect:
    """One line with the references it speaks of, and what is inside."""

    head: str
    refs: list[Ref]
    inside: list[tuple[str, list[_Effect]]] = field(default_factory=list)
    apart: bool = False  # the references have nothing to do with each other's lanes


@dataclass(frozen=True, slots=True)
class _Region:
    """Where control is: numbers of the loops around, those that may run zero times, conditions."""

    loops: tuple[int, ...] = ()
    maybe: tuple[int, ...] = ()
    conds: tuple[Ref, ...] = ()

    def under(self, cond: Ref) -> _Region:
        return _Region(self.loops, self.maybe, (*self.conds, cond))


class _Reader:
    """Expressions as nodes."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.memo: dict[Expr, Ref] = {}

    def leaf(self, e: Expr) -> Ref:
        if e.op == "lane":
            return self.graph.lane(e.attr)
        if e.op == "const" and e.kind == "real":
            return self.graph.make("real", repr(e.attr))
        if e.op == "const":
            return self.graph.number(e.attr)
        return self.graph.make(e.op, f"{e.attr} {e.kind}")

    def expr(self, e: Expr) -> Ref:
        found = self.memo.get(e)
        if found is None:
            found = self.memo[e] = self._expr(e)
        return found

    def _expr(self, e: Expr) -> Ref:
        g = self.graph
        if not e.args:
            return self.leaf(e)
        args = [self.expr(a) for a in e.args]
        if e.op == "cast" and e.kind == "int":
            return self.narrow(args[0], e.attr)
        if e.op == "select":
            return g.choice(args[0], args[1], args[2], e.kind, e.kind == "bool")
        if e.op in ROWS and e.kind != "real" and all(a.kind != "real" for a in e.args):
            return g.exact(e.op, args)
        if e.op in ROWS and e.op != "toreal":
            return g.real(e.op, args, e.kind)
        return g.make(e.op, f"{e.attr} {e.kind}", args)

    def narrow(self, r: Ref, to: DType) -> Ref:
        lo, hi = integer_range(to)
        a, b = self.graph.interval(r)
        r = self.either(r, to)
        if self.graph.op(r) == "sum":  # modulo 2^bits it is the same without inner ones
            terms: dict[tuple[Ref, ...], int] = {}
            for m, c in self.graph.terms(r).items():
                term: dict[tuple[Ref, ...], int] = {(): c}
                for f in m:
                    term = self.graph.times(term, self.graph.terms(self.unnarrowed(f, to)))
                terms = self.graph.plus(terms, term)
            r = self.graph.total(terms)
            a, b = self.graph.interval(r)
        else:
            r = self.unnarrowed(r, to)
        if to.bits == 64 or (a is not None and b is not None and lo <= a and b <= hi):
            return r
        made = self.graph.make("narrow", to.name, [r])
        self.graph.know(made, lo, hi)
        return made

    def either(self, r: Ref, to: DType) -> Ref:
        """One side of a selection between numbers that are one modulo 2^bits."""
        g = self.graph
        if g.op(r) == "select":
            _, a, b = g.parts(r)
            apart = g.plus(g.terms(a), g.terms(b), -1)
            if all(c % (1 << to.bits) == 0 for c in apart.values()):
                return min((a, b), key=lambda x: (len(g.terms(x)), g.digest(x)))
        return r

    def unnarrowed(self, r: Ref, to: DType) -> Ref:
        """What was narrowed to a type at least as wide."""
        n = self.graph.nodes[r.node]
        if n.op == "narrow" and DTYPES[n.attr].bits >= to.bits:
            return self.graph.parts(r)[0]
        return r


class _KernelReader(_Reader):
    """Statements of one kernel as effects over nodes."""

    def __init__(self, graph: Graph, kernel: Kernel, known: Mapping[Expr, Expr]) -> None:
        super().__init__(graph)
        self.kernel, self.live, self.known = kernel, _live(kernel), known
        self.values: dict[Value, Ref] = {}
        self.variables: dict[str, Ref] = {}
        self.writes: dict[str, int] = {}
        self.count = 0  # of loops
        written = (s for s in statements(kernel.body) if isinstance(s, (Store, Atomic)))
        self.mutable = {s.buffer.name for s in written}
        self.loads: list[tuple[list[_Effect], Ref]] = []
        self.touched: set[str] = set()
        self.labels = _labels(kernel)
        self.decided: dict[Ref, bool] = {}  # conditions of the branches around
        self.viewed: dict[Ref, tuple[Ref, dict[Axis, Ref]]] = {}
        self.reduced: dict[Ref, tuple[Ref, tuple[Axis, ...]]] = {}

    def text(self, printer: _Printer) -> list[str]:
        effects: list[_Effect] = []
        self.block(self.kernel.body, _Region(), effects)
        _prune(effects, {id(region) for region, _ in self.loads})
        used: set[int] = set()
        _reach(self.graph, effects, used)
        for region, r in self.loads:  # a load that nothing uses still reads memory
            if r.node not in used:
                _mark(self.graph, r, used)
                region.append(_Effect("touch", [r]))
        grid = [self.expr(e) for e in self.kernel.grid]
        order = self.kernel.order if shared(self.kernel) else "any"
        threads = [a.extent for a in self.kernel.threads]
        out = printer.line(f"kernel {order} {threads or ''} grid".replace("  ", " "), grid)
        for b in sorted(self.kernel.buffers, key=self.label):
            if b.name in self.touched:
                head = f"  {b.role} {self.label(b)} {b.dtype} {b.init}"
                out += printer.line(head, [self.expr(e) for e in b.shape])
                strides = [self.expr(e) for e in strides_of(b, self.known)]
                if strides != [self.expr(e) for e in row_major(b.shape)]:
                    out += printer.line("    strides", strides)
        return [*out, *printer.effects(effects, "  ")]

    def label(self, b: Buffer) -> str:
        return self.labels.get(b.name, b.name)

    # -- expressions
    def leaf(self, e: Expr) -> Ref:
        if e.op == "var":
            return self.variables[e.attr]
        if e.op == "value":
            return self.held(e.attr)
        if e.op == "pid" and (e.attr >= len(self.kernel.grid) or self.kernel.grid[e.attr] is ONE):
            return self.graph.number(0)
        return self.expr(self.known[e]) if e in self.known else super().leaf(e)

    def expr(self, e: Expr) -> Ref:
        found = super().expr(e)
        if e.kind == "bool" and found in self.decided:
            return self.graph.number(self.decided[found])
        return found

    def held(self, v: Value) -> Ref:
        """A value where it is used: what a branch was taken for is known in it."""
        r = self.values[v]
        return self.graph.number(self.decided[r]) if r in self.decided else r

    # -- statements
    def block(self, body: Iterable[Stmt], region: _Region, out: list[_Effect]) -> None:
        for s in body:
            if isinstance(s, Def):
                if s.value in self.live or s.value.op == "load":
                    self.values[s.value] = self.value(s.value, region, out)
            elif isinstance(s, (Store, Atomic)):
                self.write(s, out)
            elif isinstance(s, For):
                self.loop(s, region, out)
            elif isinstance(s, If):
                self.branch(s, region, out)
            elif isinstance(s, Barrier):
                kind = "barrier" if s.fence else "meet"
                sizes = sorted(a.extent for a in s.axes)
                out.append(_Effect(f"{kind} {sizes}", [self.expr(s.mask)]))

    def write(self, s: Store | Atomic, out: list[_Effect]) -> None:
        mask = self.expr(s.mask)
        if self.graph.constant(mask) is False:
            return
        self.touched.add(s.buffer.name)
        self.writes[s.buffer.name] = self.writes.get(s.buffer.name, 0) + 1
        refs = [*(self.expr(i) for i in s.index), mask, self.held(s.value)]
        if isinstance(s, Store):
            out.append(_Effect(f"store {self.label(s.buffer)}", refs))
            return
        free = [a for a in access_axes(s) if not any(a in r.axes for r in refs)]
        many = sorted(a.extent for a in free)  # lanes that all bring the same
        out.append(_Effect(f"atomic {s.monoid} {self.label(s.buffer)} times {many}", refs))

    def branch(self, s: If, region: _Region, out: list[_Effect]) -> None:
        cond, then, other = self.expr(s.cond), s.then, s.other
        known = self.graph.constant(cond)
        if known is not None:
            self.block(then if known else other, region, out)
            return
        opposite = self.graph.negation(cond)
        if cond in region.conds or opposite in region.conds:  # decided further out
            self.block(then if cond in region.conds else other, region, out)
            return
        if self.graph.digest(opposite) < self.graph.digest(cond):
            cond, opposite, then, other = opposite, cond, other, then
        sides: list[tuple[str, list[_Effect]]] = []
        loads = len(self.loads)
        for word, side, path in (("then", then, cond), ("else", other, opposite)):
            effects: list[_Effect] = []
            was = self.decided
            self.decided = {**was, path: True, self.graph.negation(path): False}
            self.memo.clear()
            self.block(side, region.under(path), effects)
            self.decided = was
            self.memo.clear()
            sides.append((word, effects))
        if any(effects for _, effects in sides) or len(self.loads) > loads:
            out.append(_Effect("if", [cond], sides))

    def loop(self, s: For, region: _Region, out: list[_Effect]) -> None:
        g = self.graph
        lo, hi = self.expr(s.lo), self.expr(s.hi)
        first, last = g.constant(lo), g.constant(hi)
        kept = [k for k, p in enumerate(s.params) if p in self.live or s.results[k] in self.live]
        if first is not None and last is not None and first >= last:
            self.values |= {s.results[k]: self.values[s.inits[k]] for k in kept}
            return
        self.count += 1
        number = self.count
        runs = first is not None and last is not None
        maybe = region.maybe if runs else (*region.maybe, number)
        inner = _Region((*region.loops, number), maybe, region.conds)
        kept, same = self.distinct(s, number, kept, inner)
        kept, placed = self.state(s, number, kept, inner, same)
        effects: list[_Effect] = []
        loads = len(self.loads)
        yields = self.body(s, number, [(k, placed[k]) for k in kept], inner, effects, same)
        if not kept and not effects and len(self.loads) == loads:
            self.count = number - 1  # nothing happens
            self.values |= {s.results[k]: self.values[s.inits[n]] for k, n in same.items()}
            return
        yields = [g.make("as", "", [y], own=placed[k]) for y, k in zip(yields, kept, strict=True)]
        effects.append(_Effect("next", yields, apart=True))
        inits = [g.make("as", "", [self.values[s.inits[k]]], own=placed[k]) for k in kept]
        shape = [[a.extent for a in placed[k]] for k in kept]
        head = f"for {number} by {s.step} carry {shape}"
        out.append(_Effect(head, [lo, hi, *inits], [("do", effects)], True))
        for n, k in enumerate(kept):
            self.values[s.results[k]] = g.make("after", f"{number} {n}", own=placed[k])
        for k, n in same.items():
            self.values[s.results[k]] = self.values[(s.results if n in kept else s.inits)[n]]

    def distinct(
        self, s: For, number: int, kept: list[int], region: _Region
    ) -> tuple[list[int], dict[int, int]]:
        """What a loop carries apart, and the others: those that stay as they begin, by their own
        number, and those that are always equal to another, by its number."""
        g = self.graph
        group: dict[int, object] = {k: self.values[s.inits[k]] for k in kept}
        stays: set[int] = set()
        first: dict[object, int] = {}
        for _ in range(2 * len(kept) + 2 if kept else 0):
            first.clear()
            for k in kept:
                first.setdefault(group[k], k)
            saved = (dict(self.writes), self.count, len(self.loads), set(self.touched))
            self.variables[s.variable] = g.make("loop", number)
            for k in kept:
                mark = g.make("any", first[group[k]], own=s.params[first[group[k]]].axes)
                self.values[s.params[k]] = self.values[s.inits[k]] if k in stays else mark
            self.memo.clear()
            self.block(s.body, region, [])
            self.memo.clear()
            ends = {k: self.values[s.yields[k]] for k in kept}
            fixed = {
                k for k in kept if ends[k] in (self.values[s.inits[k]], self.values[s.params[k]])
            }
            refined: dict[int, object] = {k: (group[k], k in fixed, ends[k]) for k in kept}
            self.writes, self.count, loads, self.touched = saved
            del self.loads[loads:]
            if fixed == stays and len(set(refined.values())) == len(first):
                break
            group, stays = refined, fixed
        else:  # it does not settle: all are carried apart
            return kept, {}
        apart = [k for k in kept if k not in stays and first[group[k]] == k]
        same = {k: k if k in stays else first[group[k]] for k in kept if k not in apart}
        return apart, same

    def body(
        self,
        s: For,
        number: int,
        state: list[tuple[int, tuple[Axis, ...]]],
        region: _Region,
        out: list[_Effect],
        same: Mapping[int, int],
    ) -> list[Ref]:
        """The body with its state as leaves, and the next state."""
        g = self.graph
        self.variables[s.variable] = g.make("loop", number)
        for n, (k, axes) in enumerate(state):
            self.values[s.params[k]] = g.make("state", f"{number} {n}", own=axes)
        own = {k for k, _ in state}
        for k, n in same.items():
            self.values[s.params[k]] = self.values[(s.params if n in own else s.inits)[n]]
        self.memo.clear()
        self.block(s.body, region, out)
        found = [self.values[s.yields[k]] for k, _ in state]
        self.memo.clear()
        return found

    def state(
        self, s: For, number: int, kept: list[int], region: _Region, same: Mapping[int, int]
    ) -> tuple[list[int], dict[int, tuple[Axis, ...]]]:
        """Order of the carried values and of their axes, from how they begin and go on."""
        if all(not s.params[k].axes for k in kept) and len(kept) < 2:
            return kept, {k: () for k in kept}
        saved = (dict(self.writes), self.count, len(self.loads), set(self.touched))
        blank = self.graph.make
        for k in kept:
            self.values[s.params[k]] = blank("any", s.params[k].dtype)
        for k, n in same.items():
            self.values[s.params[k]] = self.values[(s.params if n in kept else s.inits)[n]]
        self.variables[s.variable] = blank("loop", number)
        self.memo.clear()
        self.block(s.body, region, [])
        self.memo.clear()
        digests: dict[int, tuple[str, str]] = {}
        placed: dict[int, tuple[Axis, ...]] = {}
        for k in kept:
            init, more = self.values[s.inits[k]], self.values[s.yields[k]]
            digests[k] = (self.graph.digest(init), self.graph.digest(more))
            own = set(s.params[k].axes)
            found = dict.fromkeys(a for a in (*more.axes, *init.axes) if a in own)
            rest = sorted((a for a in s.params[k].axes if a not in found), key=lambda a: a.extent)
            placed[k] = (*found, *rest)
        self.writes, self.count, loads, self.touched = saved
        del self.loads[loads:]
        return sorted(kept, key=lambda k: digests[k]), placed

    # -- values
    def value(self, v: Value, region: _Region, out: list[_Effect]) -> Ref:
        g = self.graph
        if v.op == "full":
            if v.dtype.kind == "real":
                return self.full(v.attr, v.dtype)
            return g.number(bool(v.attr) if v.dtype.kind == "bool" else int(v.attr))
        if v.op == "index":
            if v.dtype.kind == "real":
                return self.scalar(v.attr, v.dtype)
            inner = self.expr(v.attr)
            if v.attr.kind != v.dtype.kind:
                return g.make("index", v.dtype, [inner])
            return self.narrow(inner, v.dtype) if v.dtype.kind == "int" else inner
        if v.op == "load":
            return self.load(v, region, out)
        args = [self.held(a) for a in v.args]
        if v.op == "view":
            return self.view(v, args[0])
        if v.op in ("reduce", "scan", "dot", "argreduce"):
            return self.combined(v, args)
        if v.op == "opaque":
            return g.make("opaque", f"{v.dtype} {v.attr}", args)
        if v.op == "cast":
            return self.cast(v.args[0].dtype, v.dtype, args[0])
        if v.op == "round":
            return self.round(v.args[0].dtype, v.dtype, args[0])
        whole = v.dtype.kind != "real" and all(a.dtype.kind != "real" for a in v.args)
        if v.op == "select":
            kind = "int" if v.dtype.kind == "int" else v.dtype.name
            return g.choice(args[0], args[1], args[2], kind, v.dtype.kind == "bool")
        if whole:
            found = g.exact(v.op, args)
            return self.narrow(found, v.dtype) if v.dtype.kind == "int" else found
        number = g.literal(args[0]) if v.op in WHOLE else None
        if number is not None and abs(number) < 2**53:
            return g.number(int(_ROUNDED[v.op](number)))
        if v.op in WHOLE:  # of a float that is an integer already
            held, own = g.nodes[args[0].node], f"{v.args[0].dtype} {v.dtype}"
            if held.op == "cast" and held.attr == f"i64 {v.args[0].dtype}":
                (first,) = g.parts(args[0])
                if g.op(first) in WHOLE and g.nodes[first.node].attr == own:
                    return first
        return g.real(v.op, args, f"{v.args[0].dtype} {v.dtype}")

    def full(self, number: float | None, dtype: DType) -> Ref:
        """A float constant: the number of the type that is next to what is written."""
        return self.graph.make("full", f"{dtype} {_number(number or 0.0, dtype)!r}")

    def scalar(self, e: Expr, dtype: DType) -> Ref:
        """A float out of sizes and params, operation by operation."""
        g = self.graph
        if e.op == "const":
            return self.full(float(e.attr), dtype)
        if e.op == "select" and e.kind == "real":
            yes, no = (self.scalar(a, dtype) for a in e.args[1:])
            return g.choice(self.expr(e.args[0]), yes, no, dtype.name, False)
        if e.args and e.kind == "real" and all(a.kind == "real" for a in e.args) and e.op in ROWS:
            return g.real(e.op, [self.scalar(a, dtype) for a in e.args], f"{dtype} {dtype}")
        if e.op == "toreal" or e.kind == "int":
            whole = e.args[0] if e.op == "toreal" else e
            return g.make("cast", f"i64 {dtype}", [self.expr(whole)])
        return g.make("index", dtype, [self.expr(e)])

    def cast(self, old: DType, new: DType, r: Ref) -> Ref:
        """Casts that change nothing go, also those to a wider type and back."""
        g = self.graph
        if new.kind == "int" and old.kind == "int":
            return self.narrow(r, new)
        if old == new:
            return r
        n = g.nodes[r.node]
        if n.op == "cast" and old.kind == "real":
            first = DTYPES[n.attr.split()[0]]
            if first.kind == "real" and _holds(old, first):
                inner = g.parts(r)[0]
                if first == new and g.op(inner) == "round":  # to be kept as such a number
                    return g.make("cast", g.nodes[inner.node].attr, g.parts(inner))
                return self.cast(first, new, inner)
            if first.kind == "int" and new.kind == "real" and new.bits < old.bits:
                return self.cast(first, new, g.parts(r)[0])
        if n.op == "full" and old.kind == new.kind == "real":
            return self.full(g.literal(r), new)
        word = "i64" if old.kind == "int" else str(old)  # integers are exact
        return g.make("cast", f"{word} {new}", [r])

    def round(self, old: DType, new: DType, r: Ref) -> Ref:
        """A rounding that is meant: it stays, whatever type the number has."""
        n = self.graph.nodes[r.node]
        if n.op == "full":
            return self.full(self.graph.literal(r), new)
        if n.op == "cast" and old.kind == "real":
            first = DTYPES[n.attr.split()[0]]
            if first.kind == "real" and _holds(old, first):
                inner = self.graph.parts(r)[0]
                if _holds(new, first):  # it is such a number already
                    return self.cast(first, new, inner)
                return self.round(first, new, inner)
        if old.kind == "real" and _holds(new, old):
            return self.cast(old, new, r)
        return self.graph.make("round", f"{old} {new}", [r])

    def load(self, v: Value, region: _Region, out: list[_Effect]) -> Ref:
        """A load is known by its element, by the writes before it and by where it stands."""
        g, what = self.graph, v.attr
        assert isinstance(what, Load)
        name = what.buffer.name
        mask = self.expr(what.mask)
        other = "poison"
        if what.other is not None and mask != g.number(True):
            other = repr(_number(what.other, v.dtype))
        if g.constant(mask) is False:  # nothing is read
            if what.other is None:
                return g.make("poison", v.dtype)
            if v.dtype.kind == "real":
                return self.full(what.other, v.dtype)
            return g.number(bool(what.other) if v.dtype.kind == "bool" else int(what.other))
        self.touched.add(name)
        epoch = self.writes.get(name, 0)
        refs = [*(self.expr(i) for i in what.index), mask]
        conds = g.ordered(dict.fromkeys(region.conds))
        loops = region.loops if name in self.mutable else region.maybe
        attr = f"{self.label(what.buffer)} {epoch} {other} in {loops} {len(conds)}"
        found = g.make("load", attr, [*refs, *conds])
        if v.dtype.kind == "int":
            g.know(found, *integer_range(v.dtype))
        self.loads.append((out, found))
        return found

    def view(self, v: Value, r: Ref) -> Ref:
        """Lanes that only change their names need no node."""
        places = {a: self.expr(e) for a, e in v.attr if a in r.axes}
        inner = self.viewed.get(r)
        if inner is not None:  # a view of a view: its expressions at these lanes
            moved = {a: self.replaced(x, places) for a, x in inner[1].items()}
            kept = {a: x for a, x in places.items() if a in inner[0].axes and a not in moved}
            return self.place(inner[0], {**kept, **moved})
        return self.place(r, places)

    def place(self, r: Ref, places: dict[Axis, Ref]) -> Ref:
        g = self.graph
        lanes = [x.axes[0] if g.op(x) == "lane" else None for x in places.values()]
        kept = [a for a in r.axes if a not in places]
        plain = [a for a in lanes if a is not None]
        if len(plain) == len(lanes) and len({*plain, *kept}) == len(plain) + len(kept):
            names = dict(zip(places, plain, strict=True))
            return Ref(r.node, tuple(names.get(a, a) for a in r.axes))
        parts = [places.get(a, g.lane(a)) for a in r.axes]
        element = Ref(r.node, tuple(Axis(f"{n}", a.extent) for n, a in enumerate(r.axes)))
        bound = element.axes
        found = g.make("view", len(parts), [element, *parts], bound)
        self.viewed[found] = (r, places)
        return found

    def replaced(self, r: Ref, places: dict[Axis, Ref]) -> Ref:
        """An integer over lanes with some of them replaced by integers."""
        g = self.graph
        if not set(r.axes) & set(places):
            return r
        if g.op(r) == "lane":
            return places[r.axes[0]]
        if g.op(r) == "sum":
            out: dict[tuple[Ref, ...], int] = {}
            for m, c in g.terms(r).items():
                term: dict[tuple[Ref, ...], int] = {(): c}
                for f in m:
                    term = g.times(term, g.terms(self.replaced(f, places)))
                out = g.plus(out, term)
            return g.total(out)
        n = g.nodes[r.node]
        return g.exact(n.op, [self.replaced(x, places) for x in g.parts(r)], n.attr)

    def combined(self, v: Value, args: list[Ref]) -> Ref:
        """Reductions, scans and dots: every operand has the axis, be it as copies."""
        g = self.graph
        if v.op == "reduce":
            monoid, axis = v.attr
            (r,) = args
            whole = _unfolded(v.args[0], axis)
            if whole:  # all elements of other axes, one after the other
                r = self.values[v.args[0].args[0]]
            for a in whole or (axis,):
                r = self.over(monoid, v.dtype, r, a)
            return r
        if v.op == "scan":
            scan: Scan = v.attr
            r = (
                args[0]
                if scan.axis in args[0].axes
                else g.make("copies", "", args, own=[scan.axis])
            )
            place = r.axes.index(scan.axis)
            word = "int" if v.dtype.kind == "int" else str(v.dtype)
            found = g.make("scan", f"{scan.monoid} {scan.reverse} {place} {word}", [r])
            return self.narrow(found, v.dtype) if v.dtype.kind == "int" else found
        axis = v.attr.axis if v.op == "dot" else v.attr[1]
        spread = [r if axis in r.axes else g.make("copies", "", [r], own=[axis]) for r in args]
        if v.op == "dot":
            dot: Dot = v.attr
            return g.make("dot", f"{dot.precision} {v.dtype}", g.ordered(spread), [axis])
        return g.make("argreduce", f"{v.attr[0]} {v.dtype}", spread, [axis])

    def over(self, monoid: str, dtype: DType, r: Ref, axis: Axis) -> Ref:
        g = self.graph
        if axis not in r.axes:
            return g.make("repeat", f"{monoid} {axis.extent}", [r])
        within = self.reduced.get(r)
        if within is not None and g.nodes[r.node].attr.split()[0] == monoid:
            return self.reduction(monoid, dtype, within[0], (*within[1], axis))
        return self.reduction(monoid, dtype, r, (axis,))

    def reduction(self, monoid: str, dtype: DType, r: Ref, bound: tuple[Axis, ...]) -> Ref:
        whole = dtype.kind == "int"
        found = self.graph.make("reduce", f"{monoid} {'int' if whole else dtype}", [r], bound)
        self.reduced[found] = (r, bound)
        if whole and monoid in ("max", "min"):
            least, most = self.graph.interval(r)
            low, high = integer_range(dtype)
            known = (low if least is None else least, high if most is None else most)
            self.graph.know(found, *known)
        return self.narrow(found, dtype) if whole else found


def _unfolded(v: Value, axis: Axis) -> tuple[Axis, ...]:
    """The axes whose elements stand, each once, along the axis of a view; none where they do
    not."""
    if v.op != "view" or axis in v.args[0].axes or axis.extent > 1 << 14:
        return ()
    places = dict(v.attr)
    own = [a for a, e in places.items() if set(leaves(e, "lane")) == {axis.lane}]
    if len(own) != sum(axis in lanes(e) for e in places.values()):
        return ()
    seen = {
        tuple(int(evaluate(places[a], {axis.lane: n})) for a in own) for n in range(axis.extent)
    }
    count = math.prod(a.extent for a in own)
    inside = all(0 <= x < a.extent for t in seen for x, a in zip(t, own, strict=True))
    return tuple(reversed(own)) if inside and len(seen) == count == axis.extent else ()


def _number(x: float | int | bool, d: DType) -> float | int | bool:
    """A constant as a number of a type."""
    if d.kind == "real":
        return nearest(float(x), d)
    return bool(x) if d.kind == "bool" else int(x)


def _holds(wide: DType, narrow: DType) -> bool:
    """Whether every number of one float type is one of another."""
    return (
        wide.mantissa >= narrow.mantissa
        and wide.exponent >= narrow.exponent
        and wide.finite == "ieee"
    )


def _prune(effects: list[_Effect], loading: set[int]) -> None:
    """Leaves out branches and loops without state in which nothing happens and nothing is read."""
    for n, e in reversed([*enumerate(effects)]):
        for _, inner in e.inside:
            _prune(inner, loading)
        idle = all(
            id(x) not in loading and all(i.head == "next" and not i.refs for i in x)
            for _, x in e.inside
        )
        if e.inside and idle:
            del effects[n]


def _mark(g: Graph, r: Ref, used: set[int]) -> None:
    todo = [r.node]
    while todo:
        n = todo.pop()
        if n not in used:
            used.add(n)
            todo += [i for i, _ in g.nodes[n].args]


def _reach(g: Graph, effects: list[_Effect], used: set[int]) -> None:
    for e in effects:
        for r in e.refs:
            _mark(g, r, used)
        for _, inner in e.inside:
            _reach(g, inner, used)


class _Printer:
    """Numbers nodes in the order in which they are first spoken of."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.numbers: dict[int, int] = {}

    def line(self, head: str, refs: list[Ref], pad: str = "", apart: bool = False) -> list[str]:
        """Nodes not seen before, and the line, its axes numbered from left to right."""
        out: list[str] = []
        for r in refs:
            out += self.nodes(r.node)
        axes: dict[Axis, str] = {}
        for r in refs:
            for a in r.axes:
                axes.setdefault(a, f"{len(axes)}:{a.extent}")
        said = []
        for r in refs:
            own = {a: f"{n}:{a.extent}" for n, a in enumerate(r.axes)} if apart else axes
            said.append(f"%{self.numbers[r.node]}({', '.join(own[a] for a in r.axes)})")
        return [*out, " ".join([f"{pad}{head}", *said])]

    def nodes(self, root: int) -> list[str]:
        out: list[str] = []
        todo = [root]
        while todo:
            n = todo[-1]
            node = self.graph.nodes[n]
            open_ = [i for i, _ in node.args if i not in self.numbers]
            if n in self.numbers:
                todo.pop()
            elif open_:
                todo += reversed(open_)
            else:
                todo.pop()
                self.numbers[n] = len(self.numbers)
                args = [f"%{self.numbers[i]}({', '.join(map(str, at))})" for i, at in node.args]
                shape = ", ".join(map(str, node.shape))
                bound = f" over {', '.join(map(str, node.bound))}" if node.bound else ""
                words = [f"%{self.numbers[n]}[{shape}] = {node.op}", node.attr, *args]
                out.append(" ".join(w for w in words if w) + bound)
        return out

    def effects(self, effects: list[_Effect], pad: str) -> list[str]:
        out: list[str] = []
        for e in effects:
            out += self.line(e.head, e.refs, pad, e.apart)
            for word, inner in e.inside:
                if inner:
                    out += [f"{pad}{word}", *self.effects(inner, pad + "  ")]
        return out
