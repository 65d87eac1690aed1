"""Loops and branches of imported kernels.

What a loop carries and adds the same amount to in every iteration (addresses that advance,
counters) has a closed form in the loop variable; the rest is carried as values. A branch without
results stays a branch; one with results becomes straight-line code whose accesses are masked by
the condition, and selections. An early return is a branch around what follows.
"""

from __future__ import annotations

from collections.abc import Callable

from opwright.backends.triton.importer_axes import plain
from opwright.backends.triton.importer_steady import MADE, Range, Steadiness, Steady, leaves_of
from opwright.backends.triton.importer_symbols import WIDE, Dims, Need, Sym, join
from opwright.backends.triton.importer_values import Impure, Pointer, Thing, Tile
from opwright.backends.triton.ttir import Block, Op, Type
from opwright.ir.dtypes import I64
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    call,
    const,
    leaf,
    leaves,
    maximum,
    substitute,
)
from opwright.ir.polynomial import expression, polynomial
from opwright.ir.tile import Value


class Control(Steadiness):
    """Statements with regions, and the blocks of a function."""

    # -- blocks
    def function(self, blocks: list[Block]) -> None:
        self.blocks = {b.label: b for b in blocks}
        self.visited: set[str] = set()
        self.block(blocks[0])

    def block(self, b: Block) -> None:
        if b.label in self.visited:
            raise self.refuse("control flow that comes back to a block")
        self.visited.add(b.label)
        for op in b.ops:
            self.at(op.line)
            if op.name == "tt.return":
                return
            if op.name == "cf.cond_br":
                self.fork(op)
                return
            if op.name == "cf.br":
                self.block(self.target(op, 0))
                return
            self.run(op)

    def target(self, op: Op, number: int) -> Block:
        labels = [w for w in op.rest.replace(",", " ").split() if w.startswith("^")]
        label = labels[number].split("(")[0]
        b = self.blocks[label]
        if b.args:
            raise self.refuse("a block with arguments")
        return b

    def fork(self, op: Op) -> None:
        """cf.cond_br: one side that returns at once, or two sides that never meet."""
        cond = self.env[op.operands[0]]
        assert isinstance(cond, Sym)
        e = self.use(cond)
        yes, no = self.target(op, 0), self.target(op, 1)
        sides: list[Callable[[], None]] = []
        for b in (yes, no):
            sides.append((lambda: None) if _returns(b) else self._side(b))
        if _returns(yes):
            self.emitting().branch(~e, sides[1])
        elif _returns(no):
            self.emitting().branch(e, sides[0])
        else:
            self.emitting().branch(e, sides[0], sides[1])

    def _side(self, b: Block) -> Callable[[], None]:
        def run() -> None:
            with self.scope():
                self.block(b)

        return run

    def body(self, b: Block) -> list[str]:
        """Operations up to the yield; the names of what is yielded."""
        for op in b.ops:
            self.at(op.line)
            if op.name == "scf.yield":
                return op.operands
            self.run(op)
        return []

    # -- branches
    def branch(self, op: Op) -> list[Thing]:
        cond = self.env[op.operands[0]]
        assert isinstance(cond, Sym)
        e = self.use(cond)
        then = op.regions[0][0]
        other = op.regions[1][0] if len(op.regions) > 1 else Block("", [])
        if e.op == "const":
            taken = self.body(then if e.attr else other)
            targets = [self.axes.of(r) for r in op.results]
            return [self.fitted(self.env[n], d) for n, d in zip(taken, targets, strict=True)]
        if not op.results:
            self.emitting().branch(e, self._region(then), self._region(other))
            return []
        names: list[list[str]] = []
        outer = self.path
        for b, under in ((then, e), (other, ~e)):
            self.path = call("and", outer, under)
            with self.scope():
                names.append(self.body(b))
            self.path = outer
        out = []
        for r, x, y in zip(op.results, *names, strict=True):
            dims = self.axes.of(r)
            a, b2 = self.fitted(self.env[x], dims), self.fitted(self.env[y], dims)
            same = a is b2 or (isinstance(a, Sym) and isinstance(b2, Sym) and a.expr is b2.expr)
            out.append(a if same else self.choice(Sym(e, (), 1), a, b2, dims, plain(r)))
        return out

    def _region(self, b: Block) -> Callable[[], None]:
        def run() -> None:
            with self.scope():
                self.body(b)

        return run

    # -- loops
    def counted(self, op: Op) -> Op:
        """A `while` that compares what moves by the same amount in every iteration, as a loop that
        counts: the number of iterations is known before the first."""
        before, after = op.regions[0][0], op.regions[1][0]
        handed = before.ops[-1]
        names = [n for n, _ in before.args]
        if handed.name != "scf.condition" or handed.operands[1:] != names:
            raise self.refuse("scf.while that hands on other values than it is given")
        n = self.builder.fresh("trips")
        bounds = [f"%{n}.lo", f"%{n}.hi", f"%{n}.step"]
        for name, e in zip(bounds, (ZERO, ZERO, const(1)), strict=True):
            self.env[name] = Sym(e, (), WIDE)
        body = Block("", [(f"%{n}", Type("i64")), *after.args], after.ops)
        made = Op(
            "scf.for",
            op.results,
            [*bounds, *op.operands],
            [],
            {},
            [],
            op.outs,
            "",
            op.line,
            [[body]],
        )
        steady = self.steady(made, Range(ZERO, ZERO, const(1), WIDE))
        moves = {held: s for (held, _), s in zip(before.args, steady, strict=True) if s is not None}
        trips, needs = self.iterations(before, handed.operands[0], moves)
        self.env[bounds[1]] = Sym(trips, (), WIDE, needs)
        return made

    def iterations(
        self, before: Block, wanted: str, moves: dict[str, Steady]
    ) -> tuple[Expr, tuple[Need, ...]]:
        """How often a condition holds before it fails, if what it compares nears its end by the
        same amount each time; and that narrow numbers do not wrap until then."""
        marks = {n: leaf("state", f"carried {n}") for n in moves}
        kept, was = dict(self.env), self.dry
        self.dry = True
        try:
            for n, _ in before.args:
                self.env.pop(n, None)
            for n, s in moves.items():
                if s.pointer is None and not s.lagging:
                    self.env[n] = Sym(marks[n], (), s.first.bits)
            for x in before.ops[:-1]:
                if not x.name.startswith(MADE) or not all(y in self.env for y in x.operands):
                    raise self.refuse(f"scf.while whose condition holds {x.name}")
                self.run(x)
            cond = self.env.get(wanted)
        except Impure:
            cond = None
        finally:
            self.env, self.dry = kept, was
        if not isinstance(cond, Sym) or cond.expr.op not in ("lt", "le"):
            raise self.refuse("scf.while with a condition that is no comparison of what it counts")
        a, b = cond.expr.args
        left = b - a if cond.expr.op == "lt" else b - a + 1
        used = [n for n in moves if marks[n] in leaves(left, "state")]
        asked = {x for d in cond.needs for x in leaves_of(d)}
        fall: Expr = ZERO  # what an iteration takes from what is left
        for n in used:
            more = moves[n].more
            fall = fall + left - substitute(left, {marks[n]: marks[n] + more})
        pace = expression(polynomial(fall))
        if pace.op != "const" or pace.attr < 1 or asked & set(marks.values()):
            raise self.refuse("scf.while that does not near its end by the same amount each time")
        firsts = {marks[n]: moves[n].first.expr for n in used}
        trips = (maximum(substitute(left, firsts), ZERO) + (pace - 1)) // pace
        needs = join(cond.needs, *(moves[n].first.needs for n in used))
        for n in used:
            s = moves[n]
            end = s.first.expr + trips * s.more
            if s.first.bits < WIDE and self.ranges.inside(end, s.first.bits) is not TRUE:
                reason = f"the integer fits {s.first.bits} bits when the loop ends"
                inside = self.ranges.inside(end, s.first.bits)
                needs = (*needs, Need(inside, "wrap", reason, self.line, s.needs))
        return trips, needs

    def loop(self, op: Op) -> list[Thing]:
        if op.name == "scf.while":
            op = self.counted(op)
        b, block, r = self.emitting(), op.regions[0][0], self.range(op)
        line = self.line
        for name in op.operands[:3]:
            x = self.env[name]
            assert isinstance(x, Sym)
            self.use(x)
        hi = r.hi
        if self.path is not TRUE:
            hi = call("select", self.path, hi, r.lo)
        (variable, _), *args = block.args
        steady = self.steady(op, r)
        carried = [n for n, s in enumerate(steady) if s is None]
        dims = [self.axes.of(name) for name, _ in args]
        inits = [self.fitted(self.env[x], d) for x, d in zip(op.operands[3:], dims, strict=True)]
        first = [self.state(inits[n], dims[n]) for n in carried]
        step = r.constant
        counted = step is None

        def body(k: Expr, *state: Value) -> list[Value]:
            now = k if not counted else r.lo + k * r.step
            low, high = self.ranges.of(r.lo)[0], self.ranges.of(hi)[1]
            most = None if high is None else high - 1
            if counted:
                self.ranges.bound(k, 0, None)
            self.ranges.bound(now, low, most)
            with self.scope():
                self.at(line)
                last = now + r.step
                if r.bits < WIDE and self.ranges.inside(last, r.bits) is not TRUE:
                    self.next_fits(last, r.bits)
                self.env[variable] = Sym(now, (), r.bits)
                for n, s in enumerate(steady):
                    if s is not None:
                        self.env[args[n][0]] = self.now(s, r, now, dims[n])
                for n, v in zip(carried, state, strict=True):
                    self.env[args[n][0]] = self.thing(v, inits[n], dims[n])
                names = self.body(block)
                self.at(line)
                ends = [self.fitted(self.env[names[n]], dims[n]) for n in carried]
                return [self.state(x, dims[n]) for x, n in zip(ends, carried, strict=True)]

        if counted:
            self.divisor(r)
        lo, end = (ZERO, r.trips()) if counted else (r.lo, hi)
        if counted and self.path is not TRUE:
            end = call("select", self.path, end, ZERO)
        self.at(line)
        out = b.loop(plain(variable), lo, end, step or 1, first, body)
        results: list[Thing] = []
        held = iter(out)
        for n, s in enumerate(steady):
            target = self.axes.of(op.results[n])
            if s is None:
                x = self.thing(next(held), inits[n], dims[n])
            else:
                x = self.after(s, r, dims[n])
            results.append(self.fitted(x, target))
        return results

    def divisor(self, r: Range) -> None:
        """A step that is a number of the launch is positive."""
        cond = call("lt", ZERO, r.step)
        if self.ranges.of(r.step)[0] in (None, 0):
            need = Need(cond, "divisor", "the step of a loop is positive", self.line)
            self.discharge((need,))

    def next_fits(self, last: Expr, bits: int) -> None:
        """The variable is stepped once more before it is compared."""
        cond = call("le", last, (1 << bits - 1) - 1)
        need = Need(cond, "wrap", f"the loop variable fits {bits} bits after the step", self.line)
        self.discharge((need,))

    def state(self, x: Thing, dims: Dims) -> Value:
        """A thing as carried state, with all its axes."""
        if isinstance(x, Pointer):
            return self.spread(self.materialise(self.use(x.offset), I64), dims)
        if isinstance(x, Tile) and x.value is None:
            return self.number(x.number, x.dtype, *(a for a in dims if a is not None))
        return self.spread(self.value(x), dims)

    def thing(self, v: Value, like: Thing, dims: Dims) -> Thing:
        """Carried state as what it stands for."""
        if isinstance(like, Tile):
            return Tile(v, dims, v.dtype)
        if isinstance(like, Pointer):
            return Pointer(like.buffer, Sym(leaf("value", v, "int"), dims, WIDE), like.bits)
        kind = "bool" if like.bits == 1 else "int"
        return Sym(leaf("value", v, kind), dims, like.bits)


def _returns(b: Block) -> bool:
    return bool(b.ops) and b.ops[0].name == "tt.return"
