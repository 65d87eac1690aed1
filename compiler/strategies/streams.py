"""Folds over entries that are contractions themselves, recognised as one pass over blocks.

What a block does to the state is derived (`compiler.cascade.streams`) where a fold reads another
one's result, and plain where it does not. A result with columns of its own takes its share of a
block as a second contraction.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from opwright.compiler.cascade.derive import NotFusable
from opwright.compiler.cascade.rewrite import Derivation
from opwright.compiler.cascade.streams import NEW, Entry, state, stream
from opwright.compiler.evaluate import Unsupported
from opwright.compiler.finite import finite_inputs
from opwright.compiler.strategies import bounds, contraction
from opwright.compiler.strategies.contraction import factors_of, product_of
from opwright.compiler.strategies.group import Group, is_fold, is_pointwise, same_range
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    Fold,
    call,
    conjuncts,
    free_vars,
    maximum,
    minimum,
    read_parts,
    rebuild,
    substitute,
    var,
    walk,
)
from opwright.ir.op import OpAxis, Tensor
from opwright.ir.semantics import ARG_FOLDS, MONOIDS

STEPS = frozenset(MONOIDS)


@dataclass(frozen=True, slots=True)
class Form:
    """`inner` are contractions that every block makes anew. Members share `shared` axes, one of
    which is the rows'; a member may have one axis more, its columns. `entries` is the carried state
    over the first member's axes and the walked ones, `reach` the part of `walked` that a row asks
    for where data says so; `read` says how a fold's result is made of the state. Every index of the
    `outer` axes, the same for all rows of a tile, has a walk of its own."""

    group: Group
    inner: Mapping[str, contraction.Form]
    shared: tuple[OpAxis, ...]
    rows: OpAxis
    columns: Mapping[str, OpAxis]  # member -> its own axis
    points: Mapping[str, tuple[Expr, ...]]  # member -> its axes as the shared ones and its columns
    walked: OpAxis
    outer: tuple[OpAxis, ...]
    reach: tuple[Expr, Expr] | None
    entries: tuple[Entry, ...]
    owner: Mapping[str, str]  # entry -> the member whose columns it has
    read: Mapping[str, Expr]
    folds: tuple[Tensor, ...]
    after: tuple[Tensor, ...]  # pointwise readers of results

    def entry(self, name: str) -> Entry:
        """The entry that a fold was recognised as."""
        return next(e for e in self.entries if e.name == name)

    def span(self, first: Expr, last: Expr) -> tuple[Expr, Expr]:
        """The part of the walk in which some of the rows from `first` to `last` has elements that
        count, by the guards; over the first member's axes."""
        spans = []
        for e in self.entries:
            under = list(conjuncts(e.guard)) if e.guard is not TRUE else []
            if e.monoid == "sum":
                under += bounds.nonzero(e.share)
            begin = bounds.begin(self.walked, under, self.rows.name, first)
            spans.append((begin, bounds.end(self.walked, under, self.rows.name, last)))
        lo, hi = spans[0]
        for begin, end in spans[1:]:
            lo = lo if begin is lo else ZERO if ZERO in (lo, begin) else minimum(lo, begin)
            hi = hi if end is hi else maximum(hi, end)
        return lo, hi

    def index_of(self, name: str) -> tuple[Expr, ...]:
        """Where entries of a contraction are read, over the first member's axes."""
        reads = (x for e in self.entries for x in walk(e.share) if x.op == "read")
        return next(read_parts(x)[1] for x in reads if x.attr[0] == name)


def recognise(
    group: Group, inner: Mapping[str, contraction.Form], found: Sequence[Derivation] | None
) -> Form:
    """Raises Unsupported with the reason when the members are no single pass over blocks. Without
    derivations every fold is an entry of its own name, which may read results of earlier ones."""
    return _Recogniser(group, inner, found).form()


class _Recogniser:
    def __init__(
        self,
        group: Group,
        inner: Mapping[str, contraction.Form],
        found: Sequence[Derivation] | None,
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
        self.columns: dict[str, OpAxis] = {}
        self.points = {t.name: self._points(t) for t in self.group.members}
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
            self.columns,
            self.points,
            self.walked,
            self.outer,
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
        own = {a.name: a for a in t.axes}
        used: set[str] = set()
        places: set[tuple[str, OpAxis]] = set()
        for x in walk(self.group.expand(f.term, self.inner)):
            if x.op == "read" and x.attr[0] in self.inner:
                index = read_parts(x)[1]
                used |= {n for i in index for n in free_vars(i)}
                c = self.inner[x.attr[0]]
                for one, two in ((c.rows, c.columns), (c.columns, c.rows)):
                    if all(index[n].op == "var" for n in (one, two)):
                        rows, along = index[one].attr, index[two].attr
                        if along in f.binders and rows not in f.binders:
                            axis = c.result.axes[two]
                            places.add((rows, OpAxis(along, axis.lo, axis.hi)))
        if len(places) != 1:
            raise Unsupported(f"{t.name} does not walk over entries along one axis")
        ((rows, self.walked),) = places
        out = tuple(a for a in t.axes if a.name in used)
        if rows not in own or list(out) != list(t.axes[: len(out)]) or len(own) > len(out) + 1:
            raise Unsupported(f"{t.name} has other axes than the entries")
        if any(a.lo is not ZERO or _dependent(a.hi) for a in t.axes):
            raise Unsupported(f"{t.name} has an axis that depends on another")
        self.rows = own[rows]
        self.at = f.binders.index(self.walked.name)
        self.reach, self.outer = self._ranges(t)
        if self.outer and self.found is None:
            raise Unsupported(f"{t.name} walks along several axes")
        for a in self.outer:
            if any(x.op == "fold" for e in (a.lo, a.hi) for x in walk(e)):
                raise Unsupported(f"{t.name} has a range that is reduced")
            if {rows, self.walked.name} & (free_vars(a.lo) | free_vars(a.hi)):
                raise Unsupported(f"{t.name} has a range that differs from row to row")
        return out

    def _ranges(self, t: Tensor) -> tuple[tuple[Expr, Expr] | None, tuple[OpAxis, ...]]:
        """The range along what is walked (None for the whole axis) and the outer axes of a fold,
        over the first one's axes."""
        assert t.body is not None
        f, first = Fold(t.body), Fold(self.folds[0].body)  # type: ignore[arg-type]
        if len(f.binders) != len(first.binders):
            raise Unsupported(f"{t.name} reduces over {len(f.binders)} axes")
        at = self._binders(f) | ({} if t is self.folds[0] else self._here(t))
        ranges = [(substitute(lo, at), substitute(hi, at)) for lo, hi in f.ranges]
        lo, hi = ranges.pop(self.at)
        names = [b for n, b in enumerate(first.binders) if n != self.at]
        outer = tuple(OpAxis(n, *r) for n, r in zip(names, ranges, strict=True))
        if (lo, hi) == (self.walked.lo, self.walked.hi):
            return None, outer
        if any(x.op == "fold" for e in (lo, hi) for x in walk(e)):
            raise Unsupported(f"{t.name} has a range that is reduced")
        if (free_vars(lo) | free_vars(hi)) & set(first.binders):
            raise Unsupported(f"{t.name} has a range that depends on another index")
        return (lo, hi), outer

    def _binders(self, f: Fold) -> dict[Expr, Expr]:
        """The indices of a fold as the first one's."""
        first = Fold(self.folds[0].body)  # type: ignore[arg-type]
        return {var(a): var(b) for a, b in zip(f.binders, first.binders, strict=True)}

    def _points(self, t: Tensor) -> tuple[Expr, ...]:
        """A member's axes as those of the first fold, in whatever order, and its columns by a name
        of their own; Unsupported for others."""
        if t.recurrence is not None:
            raise Unsupported(f"{t.name} is a recurrence")
        left, column = list(self.shared), None
        in_order = all(map(same_range, t.axes, self.shared))
        out: list[Expr] = []
        for n, a in enumerate(t.axes):
            same = [b for b in left if same_range(a, b)]
            if in_order:
                same = left[:1]
            elif self.found is None and n < len(self.shared):
                same = []
            if same:
                left.remove(same[0])
                out.append(var(same[0].name))
            elif column is None:
                column = a
                out.append(var(column_of(a)))
            else:
                raise Unsupported(f"{t.name} has another index space")
        if left:
            raise Unsupported(f"{t.name} has another index space")
        if column is not None:
            if column.lo is not ZERO or _dependent(column.hi):
                raise Unsupported(f"{t.name} has an axis that depends on another")
            self.columns[t.name] = column
        return tuple(out)

    def _here(self, t: Tensor) -> dict[Expr, Expr]:
        """A member's axes as the first fold's, its columns by a name of their own."""
        return {var(a.name): p for a, p in zip(t.axes, self.points[t.name], strict=True)}

    # -- folds

    def _fold(self, t: Tensor) -> None:
        assert t.body is not None
        if self._ranges(t) != (self.reach, self.outer):
            raise Unsupported(f"{t.name} folds over another range")
        f = Fold(t.body)
        term = self.group.expand(f.term, self.inner)
        earlier = {x.attr[0] for x in walk(term) if x.op == "read"} & self.results
        if t.name in self.read:
            return
        if not earlier or self.found is None:
            some = STEPS if self.found is not None else STEPS | set(ARG_FOLDS)
            if f.kind not in some or (self.found is not None and t.kind != "real"):
                raise Unsupported(f"{t.name} is no fold of single numbers")
            at = {**self._here(t), **self._binders(f)}
            guard = self.group.expand(f.guard, self.inner)
            share, guard = (substitute(e, at) for e in (term, guard))
            while f.kind == "sum" and share.op == "select" and _is_zero(share.args[2]):
                guard, share = call("and", guard, share.args[0]), share.args[1]
            if f.kind == "sum":
                share = product_of(_under_one(factors_of(share)))
            if any(
                x.attr[0] in self.columns or read_parts(x)[1] != self.points[x.attr[0]]
                for x in walk(share)
                if x.op == "read" and x.attr[0] in earlier
            ):
                raise Unsupported(f"{t.name} reads a result of another row")
            e = Entry(t.name, str(f.kind), share, None, guard)
            self.read[t.name] = state(self._add(e, t, guard is not TRUE))
            return
        self._derived(t)

    def _derived(self, t: Tensor) -> None:
        """The entries of a derived pass, with those that are there already."""
        chosen = next((d for d in self.found or () if d.holds and self._reads_out(d, t)), None)
        if chosen is None or chosen.plan is None or chosen.chain is None:
            raise Unsupported(f"{t.name} reads a result and no single pass is derived")
        chain = chosen.chain
        try:
            made = stream(chosen.plan)
        except NotFusable as refusal:
            raise Unsupported(str(refusal)) from None
        last = self.group.normal.tensor(chain.tensors[chain.name][0])
        first = Fold(self.folds[0].body)  # type: ignore[arg-type]
        if len(made.binders) != len(first.binders):
            raise Unsupported(f"{t.name} reduces over {len(made.binders)} axes")
        names_of = zip(made.binders, first.binders, strict=True)
        at = {**self._here(last), **{var(a): var(b) for a, b in names_of}}
        names: dict[Expr, Expr] = {}
        f = Fold(last.body)  # type: ignore[arg-type]
        # in a product that is 0 by a factor, infinite others give what the definition gives
        left_out = f.guard is not TRUE or self.group.expand(f.term, self.inner).op == "select"
        for e in made.entries:
            carried = self.read.get(chain.tensors.get(e.name, ("", ()))[0])
            if e.carried is None and carried is not None and carried.op == "state":
                # the very fold of the text, which is carried already
                for mark in ("", NEW):
                    names[state(e.name + mark)] = state(carried.attr + mark)
                continue
            share, guard = (self.group.expand(x, self.inner) for x in (e.share, e.guard))
            moved = Entry(
                e.name,
                e.monoid,
                _renamed(substitute(share, at), names),
                None if e.carried is None else _renamed(substitute(e.carried, at), names),
                substitute(guard, at),
            )
            own = self._add(moved, last, left_out)
            for mark in ("", NEW):
                names[state(e.name + mark)] = state(own + mark)
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
        for known in self.entries.values() if self.found is not None else ():
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
            own = {state(e.name): state(name)}
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
        own = {p: i for i, p in self._here(t).items()}
        for x in walk(self.group.expand(t.body, self.inner)):
            if x.op == "read" and x.attr[0] in self.inner:
                raise Unsupported(f"{t.name} reads entries outside of a fold")
            if x.op == "read" and x.attr[0] in self.results:
                index = read_parts(x)[1]
                if index != tuple(own.get(p) for p in self.points[x.attr[0]]):
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


def _under_one(factors: Sequence[Expr]) -> list[Expr]:
    """Factors that are 0 unless the same condition holds as one."""
    under: dict[Expr, list[Expr]] = {}
    out: dict[Expr, list[Expr]] = {}
    for x in factors:
        if x.op == "select" and _is_zero(x.args[2]):
            out[x.args[0]] = under.setdefault(x.args[0], [])
            under[x.args[0]].append(x.args[1])
        else:
            out.setdefault(x, []).append(x)
    return [
        call("select", x, product_of(parts), 0.0) if x in under else product_of(parts)
        for x, parts in out.items()
    ]


def _renamed(e: Expr, names: Mapping[Expr, Expr]) -> Expr:
    """The expression with other states."""
    if e in names:
        return names[e]
    return rebuild(e, tuple(_renamed(a, names) for a in e.args)) if e.args else e


def _is_zero(e: Expr) -> bool:
    return e.op == "const" and e.attr == 0


def _dependent(e: Expr) -> bool:
    return any(x.op in ("var", "read", "fold") for x in walk(e))
