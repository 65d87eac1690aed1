"""Folds over entries that are contractions themselves, as one pass of block programs.

A program has a tile of rows and walks over blocks of the folded axis. The entries of a block are
contracted where they are used and are never in memory; what a block does to the state is derived
(`compiler.cascade.streams`) where a fold reads another one's result, and plain where it does not.
A result with columns of its own takes its share of a block as a second contraction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from opwright.compiler.buffers import Memory
from opwright.compiler.cascade.derive import NotFusable
from opwright.compiler.cascade.rewrite import Derivation
from opwright.compiler.cascade.streams import NEW, Entry, stream
from opwright.compiler.evaluate import Resolved, Unsupported
from opwright.compiler.finite import finite_inputs
from opwright.compiler.strategies import bounds, contraction
from opwright.compiler.strategies.block_rows import Made
from opwright.compiler.strategies.block_tiles import Tiles, alignment
from opwright.compiler.strategies.contraction import factors_of, product_of
from opwright.compiler.strategies.group import Group, is_fold, is_pointwise, same_range
from opwright.ir.dtypes import F32, DType
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    Fold,
    call,
    conjuncts,
    free_vars,
    leaf,
    maximum,
    minimum,
    neutral,
    read_parts,
    rebuild,
    substitute,
    var,
    walk,
)
from opwright.ir.op import OpAxis, Tensor
from opwright.ir.semantics import MONOIDS
from opwright.ir.tile import Axis, Dot, Kernel, Placement, Value

STEPS = frozenset(MONOIDS)


@dataclass(frozen=True, slots=True)
class Form:
    """`inner` are contractions that every block makes anew. Members share `shared` axes, one of
    which is the rows'; a member may have one axis more, its columns. `entries` is the carried state
    over the first member's axes and the walked one, `reach` the part of this that a row asks for
    where data says so; `read` says how a fold's result is made of the state."""

    group: Group
    inner: Mapping[str, contraction.Form]
    shared: tuple[OpAxis, ...]
    rows: OpAxis
    columns: Mapping[str, OpAxis]  # member -> its own axis
    walked: OpAxis
    reach: tuple[Expr, Expr] | None
    entries: tuple[Entry, ...]
    owner: Mapping[str, str]  # entry -> the member whose columns it has
    read: Mapping[str, Expr]
    folds: tuple[Tensor, ...]
    after: tuple[Tensor, ...]  # pointwise readers of results


def recognise(
    group: Group, inner: Mapping[str, contraction.Form], found: Sequence[Derivation]
) -> Form:
    """Raises Unsupported with the reason when the members are no single pass over blocks."""
    return _Recogniser(group, inner, found).form()


class _Recogniser:
    def __init__(
        self, group: Group, inner: Mapping[str, contraction.Form], found: Sequence[Derivation]
    ) -> None:
        self.group, self.inner, self.found = group, inner, found
        self.folds = [t for t in group.members if is_fold(t)]
        self.after = [t for t in group.members if not is_fold(t)]
        self.results = {t.name for t in self.folds}
        self.entries: dict[str, Entry] = {}
        self.owner: dict[str, str] = {}
        self.read: dict[str, Expr] = {}

    def form(self) -> Form:
        if not self.folds:
            raise Unsupported("there is no fold")
        self.shared = self._shared()
        columns = {t.name: own for t in self.group.members if (own := self._own(t)) is not None}
        self.columns = columns
        for t in self.folds:
            self._fold(t)
        for t in self.after:
            self._pointwise(t)
        used = {n: f for n, f in self.inner.items() if n in self._entries_read()}
        for name, c in used.items():
            if len({read_parts(x)[1] for x in self._reads() if x.attr[0] == name}) != 1:
                raise Unsupported(f"{name} is read at several places")
            reads = {x.attr[0] for e in (c.left, c.right) for x in walk(e) if x.op == "read"}
            if reads & (self.results | set(self.inner)):
                raise Unsupported(f"{name} is made of what the walk gives")
        return Form(
            self.group,
            used,
            self.shared,
            self.rows,
            columns,
            self.walked,
            self.reach,
            tuple(self.entries.values()),
            self.owner,
            self.read,
            tuple(self.folds),
            tuple(self.after),
        )

    # -- axes

    def _shared(self) -> tuple[OpAxis, ...]:
        """The axes of the first fold but for columns, by the entries that it reads."""
        t = self.folds[0]
        f = Fold(t.body)  # type: ignore[arg-type]
        if len(f.binders) != 1:
            raise Unsupported(f"{t.name} reduces over {len(f.binders)} axes")
        own = {a.name: a for a in t.axes}
        used: set[str] = set()
        places: set[tuple[str, OpAxis]] = set()
        for x in walk(self.group.expand(f.term, self.inner)):
            if x.op == "read" and x.attr[0] in self.inner:
                index = read_parts(x)[1]
                if any(i.op != "var" for i in index):
                    raise Unsupported(f"{t.name} reads {x.attr[0]} at computed places")
                names = [i.attr for i in index]
                used |= set(names)
                c = self.inner[x.attr[0]]
                for one, two in ((c.rows, c.columns), (c.columns, c.rows)):
                    if names[two] == f.binders[0]:
                        axis = c.result.axes[two]
                        places.add((names[one], OpAxis(f.binders[0], axis.lo, axis.hi)))
        if len(places) != 1:
            raise Unsupported(f"{t.name} does not walk over entries along one axis")
        ((rows, self.walked),) = places
        out = tuple(a for a in t.axes if a.name in used)
        if rows not in own or list(out) != list(t.axes[: len(out)]) or len(own) > len(out) + 1:
            raise Unsupported(f"{t.name} has other axes than the entries")
        if any(a.lo is not ZERO or _dependent(a.hi) for a in t.axes):
            raise Unsupported(f"{t.name} has an axis that depends on another")
        self.rows = own[rows]
        self.reach = self._reach(t)
        return out

    def _reach(self, t: Tensor) -> tuple[Expr, Expr] | None:
        """The range of a fold over the first one's axes; None for the whole axis."""
        assert t.body is not None
        f = Fold(t.body)
        if len(f.binders) != 1:
            raise Unsupported(f"{t.name} reduces over {len(f.binders)} axes")
        lo, hi = f.ranges[0]
        if (lo, hi) == (self.walked.lo, self.walked.hi):
            return None
        if any(x.op == "fold" for e in (lo, hi) for x in walk(e)):
            raise Unsupported(f"{t.name} has a range that is reduced")
        shared = t.axes if t is self.folds[0] else t.axes[: len(self.shared)]
        first = self.folds[0].axes
        at = {var(a.name): var(b.name) for a, b in zip(shared, first, strict=False)}
        return substitute(lo, at), substitute(hi, at)

    def _own(self, t: Tensor) -> OpAxis | None:
        """The columns of a member; Unsupported for other axes than the shared ones."""
        n = len(self.shared)
        if len(t.axes) not in (n, n + 1) or not all(map(same_range, t.axes[:n], self.shared)):
            raise Unsupported(f"{t.name} has another index space")
        if t.recurrence is not None:
            raise Unsupported(f"{t.name} is a recurrence")
        last = t.axes[n] if len(t.axes) > n else None
        if last is not None and (last.lo is not ZERO or _dependent(last.hi)):
            raise Unsupported(f"{t.name} has an axis that depends on another")
        return last

    def _here(self, t: Tensor) -> dict[Expr, Expr]:
        """A member's axes as the first fold's, its columns by a name of their own."""
        at = {var(a.name): var(b.name) for a, b in zip(t.axes, self.shared, strict=False)}
        if len(t.axes) > len(self.shared):
            at[var(t.axes[-1].name)] = var(column_of(self.columns[t.name]))
        return at

    # -- folds

    def _fold(self, t: Tensor) -> None:
        assert t.body is not None
        if self._reach(t) != self.reach:
            raise Unsupported(f"{t.name} folds over another range")
        f = Fold(t.body)
        term = self.group.expand(f.term, self.inner)
        earlier = {x.attr[0] for x in walk(term) if x.op == "read"} & self.results
        if t.name in self.read:
            return
        if not earlier:
            if f.kind not in STEPS or t.kind != "real":
                raise Unsupported(f"{t.name} is no fold of single numbers")
            at = {**self._here(t), var(f.binders[0]): var(self.walked.name)}
            share, guard = (substitute(e, at) for e in (term, f.guard))
            while f.kind == "sum" and share.op == "select" and _is_zero(share.args[2]):
                guard, share = call("and", guard, share.args[0]), share.args[1]
            e = Entry(t.name, f.kind, share, None, guard)
            self.read[t.name] = _state(self._add(e, t, guard is not TRUE))
            return
        self._derived(t)

    def _derived(self, t: Tensor) -> None:
        """The entries of a derived pass, with those that are there already."""
        chosen = next((d for d in self.found if d.holds and self._reads_out(d, t)), None)
        if chosen is None or chosen.plan is None or chosen.chain is None:
            raise Unsupported(f"{t.name} reads a result and no single pass is derived")
        chain = chosen.chain
        try:
            made = stream(chosen.plan)
        except NotFusable as refusal:
            raise Unsupported(str(refusal)) from None
        last = self.group.normal.tensor(chain.tensors[chain.name][0])
        at = {**self._here(last), var(made.binder): var(self.walked.name)}
        names: dict[Expr, Expr] = {}
        f = Fold(last.body)  # type: ignore[arg-type]
        # in a product that is 0 by a factor, infinite others give what the definition gives
        left_out = f.guard is not TRUE or self.group.expand(f.term, self.inner).op == "select"
        for e in made.entries:
            carried = self.read.get(chain.tensors.get(e.name, ("", ()))[0])
            if e.carried is None and carried is not None and carried.op == "state":
                # the very fold of the text, which is carried already
                for mark in ("", NEW):
                    names[_state(e.name + mark)] = _state(carried.attr + mark)
                continue
            share, guard = self.group.expand(e.share, self.inner), e.guard
            moved = Entry(
                e.name,
                e.monoid,
                _renamed(substitute(share, at), names),
                None if e.carried is None else _renamed(substitute(e.carried, at), names),
                substitute(guard, at),
            )
            own = self._add(moved, last, left_out)
            for mark in ("", NEW):
                names[_state(e.name + mark)] = _state(own + mark)
        for stage, value in made.results.items():
            name = chain.tensors[stage][0]
            if name in self.results and name not in self.read:
                self.read[name] = _renamed(substitute(value, at), names)

    def _reads_out(self, d: Derivation, t: Tensor) -> bool:
        return d.chain is not None and d.chain.tensors[d.chain.name][0] == t.name

    def _add(self, e: Entry, t: Tensor, left_out: bool) -> str:
        """The name under which an entry is carried: that of an equal one if there is one.
        `left_out`: the definition skips elements, whatever their factors are."""
        columns = self.columns.get(t.name)
        over = columns is not None and column_of(columns) in free_vars(e.share)
        for known in self.entries.values():
            if (known.monoid, known.share, known.carried, known.guard) == (
                e.monoid,
                e.share,
                e.carried,
                e.guard,
            ):
                return known.name
        name, n = e.name, 1
        while name in self.entries:
            n += 1
            name = f"{e.name}_{n}"
        if e.carried is not None and name != e.name:
            own = {_state(e.name): _state(name)}
            e = Entry(name, e.monoid, e.share, _renamed(e.carried, own), e.guard)
        self.entries[name] = Entry(name, e.monoid, e.share, e.carried, e.guard)
        if over:
            self.owner[name] = t.name
            self._factors(self.entries[name], column_of(self.columns[t.name]), left_out)
        return name

    def _factors(self, e: Entry, column: str, left_out: bool) -> None:
        if e.monoid != "sum":
            raise Unsupported(f"{e.name} has columns and is no sum")
        _, right = split(e.share, column)
        if self.walked.name not in free_vars(right):
            raise Unsupported(f"{e.name} has no factor over the columns and what is walked")
        if any(x.op == "state" for x in walk(right)) or self.rows.name in free_vars(right):
            raise Unsupported(f"{e.name} mixes rows and columns")
        finite = finite_inputs(self.group.normal.op)
        if left_out and any(x.op == "read" and x.attr[0] not in finite for x in walk(right)):
            # 0 times what was left out is not 0 if that is infinite
            raise Unsupported(f"{e.name} leaves out elements that may be infinite")

    def _reads(self) -> Iterator[Expr]:
        for e in self.entries.values():
            yield from (x for x in walk(e.share) if x.op == "read")

    def _entries_read(self) -> set[str]:
        return {x.attr[0] for x in self._reads()} & set(self.inner)

    # -- readers

    def _pointwise(self, t: Tensor) -> None:
        assert t.body is not None
        if not is_pointwise(t):
            raise Unsupported(f"{t.name} is neither pointwise nor one fold")
        n = len(self.shared)
        for x in walk(self.group.expand(t.body, self.inner)):
            if x.op == "read" and x.attr[0] in self.inner:
                raise Unsupported(f"{t.name} reads entries outside of a fold")
            if x.op == "read" and x.attr[0] in self.results:
                own = tuple(var(a.name) for a in t.axes)
                index = read_parts(x)[1]
                if index != own and index != own[:n]:
                    raise Unsupported(f"{t.name} reads {x.attr[0]} of another program")


def column_of(a: OpAxis) -> str:
    """One name for all columns of one extent."""
    return f"{a.hi.attr if a.hi.op in ('size', 'const') else id(a.hi)}@columns"


def split(share: Expr, column: str) -> tuple[Expr | None, Expr]:
    """A product as (factors over rows, factors over columns)."""
    parts = factors_of(share)
    right = [e for e in parts if column in free_vars(e)]
    left = [e for e in parts if column not in free_vars(e)]
    return product_of(left) if left else None, product_of(right)


def _renamed(e: Expr, names: Mapping[Expr, Expr]) -> Expr:
    """The expression with other states."""
    if e in names:
        return names[e]
    return rebuild(e, tuple(_renamed(a, names) for a in e.args)) if e.args else e


def _is_zero(e: Expr) -> bool:
    return e.op == "const" and e.attr == 0


def _dependent(e: Expr) -> bool:
    return any(x.op in ("var", "read", "fold") for x in walk(e))


@dataclass(frozen=True, slots=True)
class StreamSchedule:
    """Decisions: rows of a tile and elements of a block; hold: an extent that every depth and every
    result's columns fit into (a fact), or with even that they have; aligned: rows start at full
    vectors of memory."""

    rows: int = 64
    block: int = 64
    hold: int = 64
    even: bool = False
    aligned: bool = False
    warps: int = 4
    stages: int = 2


def lower(name: str, form: Form, memory: Memory, s: StreamSchedule, real: DType) -> Made:
    """One kernel with its placement and facts; Unsupported when the schedule does not fit."""
    if real is not F32:
        raise Unsupported("a contraction accumulates in f32")
    emitter = _Stream(name, form, memory, s, real)
    kernel = emitter.kernel()
    facts = list(emitter.facts)
    if s.aligned:
        op = form.group.normal.op
        facts += alignment((*op.inputs, *op.outputs), 16)
    return kernel, Placement(launch={"num_warps": s.warps, "num_stages": s.stages}), facts


@dataclass(slots=True)
class _Held:
    """A range that lies in one tile, with the condition of its lanes."""

    axis: Axis
    inside: Expr


@dataclass(slots=True)
class _Block:
    """Where the walk is."""

    at: Expr = ZERO
    inside: Expr = TRUE
    entries: dict[str, Value] = field(default_factory=dict)
    chosen: dict[tuple[Expr, Value, float], Value] = field(default_factory=dict)


class _Stream(Tiles):
    def __init__(
        self, name: str, form: Form, memory: Memory, s: StreamSchedule, real: DType
    ) -> None:
        super().__init__(name, form.group, memory, real, False)
        self.f, self.s = form, s
        self.m, self.n = Axis("m", s.rows), Axis("n", s.block)
        self.held: dict[Expr, _Held] = {}
        self.fixed: dict[str, Value] = {}  # factors over rows, by entry tensor
        self.block = _Block()
        self.states: dict[Expr, Expr] = {}

    def kernel(self) -> Kernel:
        self.open([(self.f.rows, self.m)], [a for a in self.f.shared if a is not self.f.rows])
        self.rows = self.mask
        self.index = [self.point[a.name] for a in self.f.shared]
        self.here: dict[Expr, Expr] = {var(a.name): self.point[a.name] for a in self.f.shared}
        for c in self.f.columns.values():
            self.here[var(column_of(c))] = self.hold(c.hi).axis.lane
        for name, inner in self.f.inner.items():
            self.fixed[name] = self.row_factor(name, inner)
        self.shares = {e.name: self.settled(e.share) for e in self.f.entries}
        self.reach = self.reached()
        self.guards = {
            e.name: call("and", self.reach, self.settled(e.guard)) for e in self.f.entries
        }
        starts = [self.b.full(e.start, F32, *self.axes(e), name="acc") for e in self.f.entries]
        lo, hi = self.ends()
        final = self.b.loop("start", lo, hi, self.n.extent, starts, self.step)
        self.finish(final)
        return self.b.kernel()

    def hold(self, hi: Expr) -> _Held:
        """The lanes of a range that fits into one tile, by a fact."""
        if hi not in self.held:
            axis = Axis(f"d{len(self.held)}", self.s.hold)
            fits = call("eq" if self.s.even else "le", hi, self.s.hold)
            if hi.op != "const":
                self.facts.append(fits)
            elif (hi.attr != self.s.hold) if self.s.even else (hi.attr > self.s.hold):
                raise Unsupported("a range does not fit")
            inside = TRUE if self.s.even else call("lt", axis.lane, hi)
            self.b.ragged |= set(conjuncts(inside))
            self.held[hi] = _Held(axis, inside)
        return self.held[hi]

    def axes(self, e: Entry) -> tuple[Axis, ...]:
        owner = self.f.owner.get(e.name)
        if owner is None:
            return (self.m,)
        return (self.m, self.hold(self.f.columns[owner].hi).axis)

    # -- entries -----------------------------------------------------------------------------------

    def places(self, name: str) -> tuple[dict[Expr, Expr], bool]:
        """What the axes of an entry are in the first fold's terms, and whether the walk is over
        its columns."""
        reads = (x for e in self.f.entries for x in walk(e.share) if x.op == "read")
        index = next(read_parts(x)[1] for x in reads if x.attr[0] == name)
        c = self.f.inner[name]
        at = {var(a.name): i for a, i in zip(c.result.axes, index, strict=True)}
        walked, rows = var(self.f.walked.name), var(self.f.rows.name)
        by_columns = index[c.columns] is walked and index[c.rows] is rows
        if not by_columns and not (index[c.rows] is walked and index[c.columns] is rows):
            raise Unsupported(f"{name} is read along other axes")
        return at, by_columns

    def row_factor(self, name: str, c: contraction.Form) -> Value:
        """The factor of an entry that stays for the whole walk."""
        at, by_columns = self.places(name)
        held = self.hold(c.depth.hi)
        e = substitute(c.left if by_columns else c.right, at)
        return self.factor(e, c, held, self.here, call("and", self.rows, held.inside), self.m)

    def factor(
        self,
        e: Expr,
        c: contraction.Form,
        held: _Held,
        here: Mapping[Expr, Expr],
        mask: Expr,
        other: Axis,
    ) -> Value:
        e = substitute(e, {**here, var(c.depth.name): held.axis.lane})
        v = self.e.value(e, mask)
        if set(v.axes) != {other, held.axis}:
            raise Unsupported("a factor does not vary over its rows and the depth")
        return self.zero_outside(v, held.inside)

    def zero_outside(self, v: Value, inside: Expr) -> Value:
        """The value, 0 in lanes outside, as masked loads have it already."""
        if inside is TRUE or _zero_outside(v, inside):
            return v
        return self.b.ew("select", self.b.index(inside), v, self.b.full(0.0, v.dtype))

    def entry(self, name: str) -> Value:
        """The tile of a contraction at this block."""
        if name not in self.block.entries:
            c = self.f.inner[name]
            at, by_columns = self.places(name)
            held = self.hold(c.depth.hi)
            e = substitute(c.right if by_columns else c.left, at)
            here = {**self.here, var(self.f.walked.name): self.block.at}
            mask = call("and", self.block.inside, held.inside)
            other = self.factor(e, c, held, here, mask, self.n)
            own = self.fixed[name]
            one, two = _narrow(own), _narrow(other)
            if one.dtype == two.dtype:
                own, other = one, two
            self.block.entries[name] = self.b.dot(own, other, Dot(held.axis), F32)
        return self.block.entries[name]

    def resolve(self, name: str, index: tuple[Expr, ...], mask: Expr) -> Resolved:
        if name in self.f.inner:
            return self.entry(name)
        return super().resolve(name, index, mask)

    # -- the walk ----------------------------------------------------------------------------------

    def settled(self, e: Expr) -> Expr:
        """An element's share with what no element changes evaluated before the walk."""
        known: dict[Expr, Expr] = {}

        def still(x: Expr) -> bool:
            reads = [y for y in walk(x) if y.op == "read"]
            moving = any(y.op == "state" for y in walk(x)) or self.f.walked.name in free_vars(x)
            if not reads or moving or _columned(free_vars(x)):
                return False
            return (x.kind == "real" or x.op == "read") and all(map(self.is_plain, reads))

        def go(x: Expr) -> Expr:
            if x not in known and still(x):
                v = self.e.value(substitute(x, self.here), self.rows)
                known[x] = leaf("value", v, x.kind)
            elif x not in known:
                known[x] = rebuild(x, tuple(go(a) for a in x.args)) if x.args else x
            return known[x]

        return go(e)

    def at_block(self, e: Expr) -> Expr:
        """The expression with what varies along the walk alone loaded once, not by rows."""
        walked, rows = self.f.walked.name, self.f.rows.name
        here = {**self.here, var(walked): self.block.at}

        def go(x: Expr) -> Expr:
            if x.op == "read" and x.attr[0] not in self.f.inner and self.is_plain(x):
                free = free_vars(x)
                if walked in free and rows not in free and not _columned(free):
                    v = self.e.value(substitute(x, here), self.block.inside)
                    return leaf("value", v, x.kind)
            return rebuild(x, tuple(go(a) for a in x.args)) if x.args else x

        return go(e)

    def is_plain(self, x: Expr) -> bool:
        """Whether a read is in range wherever the program is."""
        name, index, fill = read_parts(x)
        ends = {a.name: a.hi for a in (*self.f.shared, self.f.walked)}
        axes = self.group.normal.tensor(name).axes
        return fill is None and all(
            i.op == "var" and ends.get(i.attr) is a.hi for i, a in zip(index, axes, strict=True)
        )

    def reached(self) -> Expr:
        """The condition that an element is in the range that its row asks for."""
        if self.f.reach is None:
            return TRUE
        lo, hi = (self.settled(e) for e in self.f.reach)
        at = var(self.f.walked.name)
        return call("and", call("le", lo, at), call("lt", at, hi))

    def asked(self) -> tuple[Expr, Expr]:
        """What the rows of the tile ask for together."""
        assert self.f.reach is not None
        b, found = self.b, []
        for e, kind in zip(self.f.reach, ("min", "max"), strict=True):
            v = self.placed(self.settled(e), self.here, self.rows)
            v = self.e.spread(v, (self.m,))
            if self.rows is not TRUE:
                outside = b.full(neutral(kind, "int").attr, v.dtype)
                v = b.ew("select", b.index(self.rows), v, outside)
            found.append(leaf("value", b.reduce(kind, v, self.m), "int"))
        return maximum(ZERO, found[0]), minimum(self.f.walked.hi, found[1])

    def ends(self) -> tuple[Expr, Expr]:
        """The part of the walk in which some row of the tile has elements that count."""
        walked, rows = self.f.walked, self.f.rows
        if self.f.reach is not None:
            lo, hi = self.asked()
            return lo // self.n.extent * self.n.extent, hi
        first = self.index_of_tile() * self.m.extent
        last = minimum(first + self.m.extent, rows.hi) - 1
        his, los = [], []
        for e in self.f.entries:
            under = list(conjuncts(e.guard)) if e.guard is not TRUE else []
            if e.monoid == "sum":
                under += bounds.nonzero(e.share)
            los.append(bounds.begin(walked, under, rows.name, first))
            his.append(bounds.end(walked, under, rows.name, last))
        lo, hi = los[0], his[0]
        for x in los[1:]:
            lo = lo if x is lo else ZERO if ZERO in (lo, x) else minimum(lo, x)
        for x in his[1:]:
            hi = hi if x is hi else maximum(hi, x)
        here = {k: v for k, v in self.here.items() if k != var(rows.name)}
        lo, hi = substitute(lo, here), substitute(hi, here)
        return (lo if lo is ZERO else lo // self.n.extent * self.n.extent), hi

    def index_of_tile(self) -> Expr:
        """The program index along the rows."""
        return next(x for x in walk(self.point[self.f.rows.name]) if x.op == "pid")

    def step(self, v: Expr, *state: Value) -> list[Value]:
        self.e.enter()
        at = v + self.n.lane
        inside = call("lt", at, self.f.walked.hi)
        self.b.ragged |= set(conjuncts(inside))
        self.block = _Block(at, inside)
        for e, old in zip(self.f.entries, state, strict=True):
            self.states[_state(e.name)] = leaf("value", old, "real")
        out = [self.after(e, old) for e, old in zip(self.f.entries, state, strict=True)]
        self.e.leave()
        return out

    def placed(self, e: Expr, here: Mapping[Expr, Expr], mask: Expr = TRUE) -> Value:
        """An expression at this program's place, over the states as they are now."""
        return self.e.value(substitute(substitute(e, here), self.states), mask)

    def after(self, e: Entry, old: Value) -> Value:
        """An entry after the block."""
        b, axes = self.b, self.axes(e)
        kept = old if e.carried is None else self.placed(e.carried, self.here)
        share = self.share(e)
        new = b.ew(MONOIDS[e.monoid].row, self.e.spread(kept, axes), self.e.spread(share, axes))
        self.states[_state(e.name + NEW)] = leaf("value", new, "real")
        return new

    def share(self, e: Entry) -> Value:
        """What the elements of the block add to a row."""
        here = {**self.here, var(self.f.walked.name): self.block.at}
        guard = substitute(self.guards[e.name], here)
        keep = call("and", guard, self.block.inside)
        mask = call("and", self.rows, self.block.inside)
        owner = self.f.owner.get(e.name)
        if owner is not None:
            return self.contracted(e, here, keep, mask, self.f.columns[owner])
        v = self.placed(self.at_block(self.shares[e.name]), here, mask)
        v = self.e.spread(v, (self.m, self.n))
        v = self.where(keep, v, e.start)
        return self.b.reduce(e.monoid, v, self.n, name=e.name)

    def contracted(
        self, e: Entry, here: Mapping[Expr, Expr], keep: Expr, mask: Expr, column: OpAxis
    ) -> Value:
        held = self.hold(column.hi)
        left, right = split(self.at_block(self.shares[e.name]), column_of(column))
        two = self.placed(right, here, call("and", self.block.inside, held.inside))
        if set(two.axes) != {self.n, held.axis}:
            raise Unsupported("a factor does not vary over its columns")
        two = self.zero_outside(two, self.block.inside)
        one = self.b.full(1.0, F32) if left is None else self.placed(left, here, mask)
        one = self.where(keep, self.e.spread(one, (self.m, self.n)), 0.0)
        return self.b.dot(one, two, Dot(self.n), F32, name=e.name)

    def where(self, keep: Expr, v: Value, other: float) -> Value:
        """The value where the condition holds, once for all that ask."""
        if keep is TRUE:
            return v
        key = keep, v, other
        if key not in self.block.chosen:
            chosen = self.e.value(keep)
            self.block.chosen[key] = self.b.ew("select", chosen, v, self.b.full(other, v.dtype))
        return self.block.chosen[key]

    # -- results -----------------------------------------------------------------------------------

    def finish(self, final: Sequence[Value]) -> None:
        for e, v in zip(self.f.entries, final, strict=True):
            self.states[_state(e.name)] = leaf("value", v, "real")
        for t in self.f.folds:
            self.known[t.name] = self.placed(self.f.read[t.name], self.here)
            if self.is_kept(t):
                self.store(t, self.known[t.name])
        for t in self.f.after:
            assert t.body is not None
            at = {var(a.name): self.axis_of(t, n) for n, a in enumerate(t.axes)}
            self.store(t, self.e.value(substitute(t.body, at), self.mask_of(t)))

    def axis_of(self, t: Tensor, n: int) -> Expr:
        if n < len(self.index):
            return self.index[n]
        return self.here[var(column_of(self.f.columns[t.name]))]

    def mask_of(self, t: Tensor) -> Expr:
        c = self.f.columns.get(t.name)
        return self.rows if c is None else call("and", self.rows, self.hold(c.hi).inside)

    def store(self, t: Tensor, v: Value) -> None:
        index = [self.axis_of(t, n) for n in range(len(t.axes))]
        c = self.f.columns.get(t.name)
        axes = (self.m,) if c is None else (self.m, self.hold(c.hi).axis)
        self.write(t, index, self.e.spread(v, axes), self.mask_of(t))


def _state(name: str) -> Expr:
    return leaf("state", name, "real")


def _columned(names: Iterable[str]) -> bool:
    return any(n.endswith("@columns") for n in names)


def _narrow(v: Value) -> Value:
    """What a factor was before it was widened: its products are exact in f32."""
    if v.op == "cast" and v.args[0].dtype.name in ("bf16", "f16"):
        return v.args[0]
    return v


def _zero_outside(v: Value, inside: Expr) -> bool:
    """Whether lanes outside hold 0 already, as masked loads do."""
    while v.op == "cast":
        v = v.args[0]
    if v.op != "load" or v.attr.other != 0:
        return False
    return set(conjuncts(inside)) <= set(conjuncts(v.attr.mask))
