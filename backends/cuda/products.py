"""Contractions of tiles: factors in shared memory, results in the registers of threads.

A factor lies as `[contracted][other]`, so that a thread reads neighbours at once; where memory has
it the other way round its rows are padded. Barriers stand before what others may still read is
overwritten, and before what others wrote is read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from opwright.backends.cpp.scalar import Names, PrintError
from opwright.backends.cuda.layout import At, Layout
from opwright.backends.cuda.text import HALVES, bare, convert
from opwright.backends.cuda.vectors import Vectors
from opwright.ir.dtypes import F32
from opwright.ir.expr import TRUE, Expr, const, var
from opwright.ir.tile import Axis, Def, For, If, Kernel, Stmt, Value, statements

PAD = 4  # elements between rows that threads write across
FIELDS = "xyzw"


@dataclass(frozen=True, slots=True)
class Walk:
    """How the threads of a block go over a tile: `across` of them along `fast`, a vector each."""

    fast: Axis
    slow: Axis | None
    vector: int
    across: int
    threads: int

    @property
    def down(self) -> int:
        """Threads along the slow axis."""
        return max(1, min(self.threads // self.across, self.slow.extent if self.slow else 1))

    @property
    def rounds(self) -> tuple[int, int]:
        """Rounds along the fast axis and along the slow one."""
        slow = self.slow.extent if self.slow else 1
        return self.fast.extent // (self.across * self.vector), slow // self.down

    def lanes(self, column: Expr, row: Expr, turn: Expr) -> dict[Axis, Expr]:
        """The first lane of a thread in a round."""
        along, _ = self.rounds
        first, then = (turn % along, turn // along) if along > 1 else (const(0), turn)
        out = {self.fast: (first * self.across + column) * self.vector}
        if self.slow:
            out[self.slow] = then * self.down + row
        return out

    def coordinates(self, axes: Iterable[Axis]) -> Iterator[dict[Axis, tuple[int, int]]]:
        """Elements of a thread in one round."""
        axes = tuple(axes)
        for n in range(self.vector if self.fast in axes else 1):
            yield {a: (0, n if a == self.fast else 0) for a in axes}


def walk_of(v: Value, chain: tuple[Value, ...], threads: int, vectors: Vectors) -> Walk:
    """The order in which the block goes over a factor: that of memory, where it is loaded."""
    fast, wide = v.axes[-1], 1
    loads = [u for u in chain if u.op == "load"]
    for u in loads:
        what = u.attr
        for a in u.axes:
            if vectors.along(what.buffer, what.index, a):
                fast = a
                count = 4 if what.buffer.dtype.bits == 32 else 1
                if a.extent % count == 0 and vectors.whole(
                    what.buffer, what.index, what.mask, a, count
                ):
                    wide = max(wide, count)
    slow = next((a for a in v.axes if a != fast), None)
    return Walk(fast, slow, wide, min(threads, fast.extent // wide), threads)


def other_axis(v: Value, contracted: Axis) -> Axis | None:
    """The axis of a factor that stays."""
    rest = [a for a in v.axes if a != contracted]
    if len(rest) > 1 or contracted not in v.axes:
        raise PrintError(f"{v.name}: a factor has a row or a column, and what is contracted")
    return rest[0] if rest else None


def continued(kernel: Kernel, uses: Mapping[Value, int]) -> dict[Value, tuple[Value, Value]]:
    """Of each contraction that is only added to something known before: the sum, and to what."""
    out: dict[Value, tuple[Value, Value]] = {}

    def visit(body: tuple[Stmt, ...]) -> None:
        place = {s.value: n for n, s in enumerate(body) if isinstance(s, Def)}
        for s in body:
            if isinstance(s, For):
                visit(s.body)
            elif isinstance(s, If):
                visit(s.then)
                visit(s.other)
            elif isinstance(s, Def) and s.value.op == "add":
                for dot, other in (s.value.args, s.value.args[::-1]):
                    if dot.op != "dot" or uses[dot] != 1 or dot not in place or dot in out:
                        continue
                    inner = any(
                        isinstance(q, For | If) and other in _made(q) for q in body[place[dot] :]
                    )
                    known = place.get(other, -1) < place[dot] and not inner
                    if known and set(other.axes) == set(dot.axes) and other.dtype == dot.dtype:
                        out[dot] = s.value, other
                        break

    visit(kernel.body)
    return out


def _made(s: Stmt) -> set[Value]:
    """What a statement leaves."""
    return {r for q in statements((s,)) if isinstance(q, For) for r in q.results}


class Products:
    """Prints contractions; part of the printer of a kernel."""

    layout: Layout
    names: Names
    vectors: Vectors
    uses: Counter[Value]
    depth: int
    out: list[str]
    at: At
    texts: dict[tuple[Value, tuple[tuple[int, int], ...]], str]
    get: Callable[[Value, At], str]
    key: Callable[[Value, At], tuple[Value, tuple[tuple[int, int], ...]]]
    name: Callable[[Value, At], str]
    ix: Callable[[Expr, At], str]
    line: Callable[[str], None]
    define: Callable[[Value], None]
    guard: Callable[[Expr, tuple[Axis, ...], At], str]
    coordinates: Callable[[Iterable[Axis]], list[dict[Axis, tuple[int, int]]]]

    def products(self, kernel: Kernel) -> None:
        """What has to be known before a kernel is printed."""
        self.walk: Walk | None = None  # how the block goes over the factor that is made now
        self.first: dict[Axis, Expr] = {}  # the lanes of a thread there
        self.sums = continued(kernel, self.uses)
        self.arrays: dict[Value, str] = {}
        self.declared: list[str] = []  # shared arrays
        self.places: dict[str, str] = {}  # columns and rows of threads, as they are declared
        # that other threads are done with shared tiles; that own writes to them are not seen yet
        self.free, self.unseen = True, False

    def sync(self) -> None:
        """A barrier of the block."""
        self.line("__syncthreads();")
        self.free, self.unseen = True, False

    def elsewhere(self) -> None:
        """Code that is reached on several ways, or again: what threads do is not known."""
        if self.layout.staged.factors:
            self.free, self.unseen = False, True

    # -- factors
    def array(self, v: Value, across: bool) -> tuple[str, Axis, Axis | None]:
        """The shared array of a factor, what it is contracted over, and its other axis."""
        contracted = self.layout.staged.factors[v]
        other = other_axis(v, contracted)
        if v.dtype.name not in ("f32", "tf32", *HALVES):
            raise PrintError(f"a factor of {v.dtype.name} has no CUDA form")
        if v not in self.arrays:
            name = self.names.give(("tile", v), f"tile_{v.name}")
            width = (other.extent if other else 1) + (PAD if across and other else 0)
            self.declared.append(f"__align__(16) float {name}[{contracted.extent}][{width}]")
            self.arrays[v] = name
        return self.arrays[v], contracted, other

    def stage(self, v: Value) -> None:
        """A factor in shared memory, made there or by the threads that hold it."""
        chain = self.layout.staged.remade.get(v)
        if chain is None:
            self.define(v)
        if not self.free:
            self.sync()
        self.unseen = True
        if chain is None:
            name, contracted, other = self.array(v, False)
            for at in self.coordinates(v.axes):
                row = self.ix(contracted.lane, at)
                col = self.ix(other.lane, at) if other else "0"
                cell = f"{name}[{bare(row)}][{bare(col)}]"
                self.line(f"{self.guard(TRUE, v.axes, at)}{cell} = {self.single(v, at)};")
            return
        self.made(v, chain)

    def made(self, v: Value, chain: tuple[Value, ...]) -> None:
        w = walk_of(v, chain, self.layout.threads, self.vectors)
        name, contracted, other = self.array(v, w.fast == self.layout.staged.factors[v])
        column = self.spot(f"column{w.across}", f"threadIdx.x % {w.across}")
        row = self.spot(f"row{w.across}", f"threadIdx.x / {w.across}")
        busy = w.across * w.down < w.threads
        along, down = w.rounds
        depth, kept = self.depth, dict(self.texts)
        if busy:
            self.line(f"if (threadIdx.x < {w.across * w.down}) {{")
            self.depth += 1
        turn: Expr = const(0)
        if along * down > 1:
            turn = var(f"\0turn {v.name}")
            t = self.names.give(turn.attr, "turn")
            self.line(f"for (int {t} = 0; {t} < {along * down}; ++{t}) {{")
            self.depth += 1
        self.walk, self.first = w, w.lanes(column, row, turn)
        for u in chain:
            self.define(u)
        places = list(w.coordinates(v.axes))
        said = [self.single(v, at) for at in places]
        if w.vector > 1 and other == w.fast:
            at = places[0]
            where = f"{name}[{bare(self.ix(contracted.lane, at))}][{bare(self.ix(other.lane, at))}]"
            self.line(f"*reinterpret_cast<float4 *>(&{where}) = make_float4({', '.join(said)});")
        else:
            for at, text in zip(places, said, strict=True):
                col = self.ix(other.lane, at) if other else "0"
                self.line(f"{name}[{bare(self.ix(contracted.lane, at))}][{bare(col)}] = {text};")
        self.walk, self.first = None, {}
        while self.depth > depth:
            self.depth -= 1
            self.line("}")
        self.texts = kept

    def spot(self, name: str, text: str) -> Expr:
        """Where a thread is in another order of the block."""
        leaf = var(f"\0{name}")
        if name not in self.places:
            self.names.give(leaf.attr, name)
            self.places[name] = f"const int64_t {self.names.give(leaf.attr, name)} = {text};"
        return leaf

    def single(self, v: Value, at: At) -> str:
        return bare(convert(self.get(v, at), v.dtype, F32))

    # -- results
    def dot(self, v: Value) -> None:
        """Every thread its part of a result, one product after the other."""
        if v.dtype is not F32:
            raise PrintError(f"{v.name}: a contraction in {v.dtype.name} has no CUDA form")
        target, other = self.sums.get(v, (v, None))
        if self.unseen:
            self.sync()
        self.free = False
        # a state that is read here alone is added to in place
        alone = other is not None and other.op == "param" and self.uses[other] == 1
        sums: list[tuple[At, str]] = []
        for at in self.coordinates(v.axes):
            start = "0.0f" if other is None else self.get(other, at)
            name = start if alone else self.name(target, at)
            if not alone:
                self.line(f"float {name} = {bare(start)};")
            self.texts[self.key(target, at)] = name
            sums.append((at, name))
        contracted = v.attr.axis
        step = self.names.give(("step", len(self.out)), f"at_{contracted.name}")
        self.line(f"for (int {step} = 0; {step} < {contracted.extent}; ++{step}) {{")
        self.depth += 1
        factors = [self.column(x, step) for x in v.args]
        for place, name in sums:
            a, b = (f[tuple(place[x] for x in own)] for f, own in factors)
            self.line(f"{name} = fmaf({a}, {b}, {name});")
        self.depth -= 1
        self.line("}")

    def column(
        self, v: Value, step: str
    ) -> tuple[dict[tuple[tuple[int, int], ...], str], tuple[Axis, ...]]:
        """What a thread needs of one row of a factor, by place."""
        name, _, other = self.array(v, False)
        out: dict[tuple[tuple[int, int], ...], str] = {}
        if other is None:
            t = self.names.give(("read", len(self.out)), v.name)
            self.line(f"const float {t} = {name}[{step}][0];")
            return {(): t}, ()
        d = self.layout.digits[other]
        for r in range(d.registers):
            t = self.names.give(("read", len(self.out)), f"{v.name}_{r}")
            where = f"{name}[{step}][{bare(self.ix(other.lane, {other: (r, 0)}))}]"
            if d.vector > 1:
                kind = f"float{d.vector}"
                self.line(f"const {kind} {t} = *reinterpret_cast<const {kind} *>(&{where});")
            else:
                self.line(f"const float {t} = {where};")
            for n in range(d.vector):
                out[((r, n),)] = f"{t}.{FIELDS[n]}" if d.vector > 1 else t
        return out, (other,)
