"""Which line makes reads run out of range, where that is not the line of the read.

Of the changes a person may have made by mistake (two axes that changed places in a declaration, on
the left of an equation, or in a read; a range of a reduction; a bound of `where` or `requires` that
is off by one) that one is blamed whose undoing settles every read. Without one the read is blamed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from opwright.compiler.decide import Answer
from opwright.compiler.elaborate import Elaborated
from opwright.compiler.obligations import Obligation
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.grammar.diagnostics import Diagnostic
from opwright.ir.expr import (
    ZERO,
    Expr,
    affine,
    conjuncts,
    free_vars,
    read_parts,
    show,
    size,
    walk,
)
from opwright.ir.extents import bounding, same_extent
from opwright.ir.op import Law

Axis = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Refuted:
    """An obligation that does not hold and what is said about it."""

    obligation: Obligation
    answer: Answer
    diagnostic: Diagnostic


@dataclass(frozen=True, slots=True)
class Read:
    """A read: the axis that each index alone runs over, or its extent, or None for another."""

    tensor: str
    node: Expr
    place: Span | None
    indices: tuple[Axis | Expr | None, ...]


@dataclass(frozen=True, slots=True)
class Swap:
    """Two axes that may have changed places: of a tensor everywhere, on a left side, in a read.

    `order` is that of their extents once they are back.
    """

    kind: str  # declaration | definition | read
    tensor: str
    node: Expr | None
    axes: tuple[int, int]
    place: Span
    order: tuple[str, str]


def relocated(e: Elaborated, found: Sequence[Refuted]) -> list[Diagnostic]:
    """The diagnostics, where their mistakes were made."""
    ranges = [r for r in found if r.obligation.kind == "range"]
    place = _swapped(e, ranges) if ranges else None
    out: list[Diagnostic] = []
    moved: set[Span] = set()
    for r in found:
        own = place if r.obligation.kind == "range" and place is not None else _place(e, r)
        if own is None or own.line == r.diagnostic.span.line:
            out.append(r.diagnostic)
        elif own not in moved:
            moved.add(own)  # one mistake is one error
            line = r.diagnostic.span.line
            message = f"{r.diagnostic.message} (line {line})"
            out.append(replace(r.diagnostic, span=own, message=message))
    return out


def _place(e: Elaborated, r: Refuted) -> Span | None:
    """A place other than that of the obligation, for one obligation alone."""
    for way in (_bound_of_values, _bound_of_sizes, _range_of_index):
        place = way(e, r)
        if place is not None:
            return place
    return None


# -- axes that changed places ---------------------------------------------------------------------


def _swapped(e: Elaborated, refuted: Sequence[Refuted]) -> Span | None:
    """The place of the one exchange of two axes that settles every read."""
    texts = _Texts(e)
    wrong = {(r.obligation.subject, r.obligation.axis) for r in refuted}
    plain = {(x.node, k) for x in texts.reads for k, i in enumerate(x.indices) if i is not None}
    loose = {x for x in wrong if x not in plain}
    names = {x.tensor for x in texts.reads if any(node is x.node for node, _ in wrong)}
    best: Swap | None = None
    most = 0.0
    for swap in texts.swaps(names, {node for node, _ in wrong if node is not None}):
        if any(texts.fits(x, k, None) > texts.fits(x, k, swap)
               or ((x.node, k) in wrong and not texts.fits(x, k, swap))
               for x in texts.reads for k in range(len(x.indices))):  # fmt: skip
            continue
        if not all(texts.touches(swap, node, k) for node, k in loose):
            continue
        votes = texts.votes(swap) + (0.5 if swap.kind == "read" else 0.0)
        if best is None or votes > most:
            best, most = swap, votes
    return None if best is None else best.place


class _Texts:
    """Every plain read of an operator and what its axes extend to, as the text has it."""

    def __init__(self, e: Elaborated) -> None:
        self.e, op = e, e.operator
        tensors = (*op.inputs, *op.tensors)
        self.extents: dict[Axis, Expr] = {
            (t.name, k): a.hi for t in tensors for k, a in enumerate(t.axes) if a.lo is ZERO
        }
        self.axes: dict[str, Axis] = {
            a.name: (t.name, k) for t in op.tensors for k, a in enumerate(t.axes)
        }
        self.outputs = {t.name for t in op.outputs}
        self.declared = {t.name for t in op.inputs} | self.outputs
        self.reads = list(self._reads())

    def _reads(self) -> Iterator[Read]:
        op = self.e.operator
        roots: list[tuple[str, Expr]] = []
        for t in op.tensors:
            roots += [(t.name, b) for b in (t.body,) if b is not None]
            if t.recurrence is not None:
                roots.append((t.name, t.recurrence.init))
        for c in op.clauses:
            if c.expr is not None:
                roots.append((c.name, c.expr))
            if isinstance(c.source, Law):
                inside = [t for made in c.source.calls for t in made.inputs]
                roots += [(c.name, t.body) for t in (*c.source.tensors, *inside)
                          if t.body is not None]  # fmt: skip
        written = {(n.span.start, n.span.end) for n in ast.walk(self.e.syntax)
                   if isinstance(n, ast.Read)}  # fmt: skip
        seen: set[tuple[str, Expr]] = set()
        for owner, root in roots:
            for x in walk(root):
                if x.op != "read" or (owner, x) in seen:
                    continue
                seen.add((owner, x))
                name, index, fill = read_parts(x)
                place = self.e.spans.get((owner, x))
                known = place is not None and (place.start, place.end) in written
                if fill is None and known and (name, 0) in self.extents:
                    yield Read(name, x, place, tuple(self._runs_over(i) for i in index))

    def _runs_over(self, i: Expr) -> Axis | Expr | None:
        if i.op != "var":
            return None
        if i.attr in self.axes:
            return self.axes[i.attr]
        interval = self.e.ranges.get(i.attr)
        if interval is None or interval[0] is not ZERO:
            return None
        most = bounding(interval[1], self.e.ranges, upper=True)
        return interval[1] if most is None else most

    def root(self, axis: Axis) -> Axis:
        """The declared axis that the range of a local's axis follows."""
        for _ in range(16):
            origin = self.e.origins.get(axis)
            if axis[0] in self.declared or origin is None or not origin.tensor:
                break
            axis = (origin.tensor, origin.position)
        return axis

    def extent(self, axis: Axis, swap: Swap | None, reading: bool) -> Expr | None:
        """The extent of an axis, were two axes exchanged; `reading` from outside."""
        if swap is not None and swap.kind == "declaration":
            root = self.root(axis)
            if root[0] == swap.tensor and root[1] in swap.axes:
                axis = (swap.tensor, swap.axes[1 - swap.axes.index(root[1])])
        elif swap is not None and swap.kind == "read" and axis[0] == swap.tensor:
            if axis[1] in swap.axes and all(self.shown((axis[0], k)) for k in swap.axes):
                axis = (axis[0], swap.axes[1 - swap.axes.index(axis[1])])
        elif swap is not None and swap.kind == "definition" and axis[0] == swap.tensor:
            # the left side of an output has its extents in the other order, a local shows them so
            if (axis[0] in self.outputs) != reading and axis[1] in swap.axes:
                axis = (swap.tensor, swap.axes[1 - swap.axes.index(axis[1])])
        return self.extents.get(axis)

    def fits(self, x: Read, k: int, swap: Swap | None) -> bool:
        """Whether an index alone runs over exactly the axis that it reads."""
        at = k
        if swap is not None and swap.kind == "read" and swap.node is x.node and k in swap.axes:
            at = swap.axes[1 - swap.axes.index(k)]
        index = x.indices[at]
        if isinstance(index, tuple):
            index = self.extent(index, swap, reading=False)
        axis = self.extent((x.tensor, k), swap, reading=True)
        return index is not None and axis is not None and same_extent(index, axis)

    def touches(self, swap: Swap, node: Expr | None, k: int) -> bool:
        """Whether an exchange may settle what is read at an index that is more than a name."""
        if node is None or swap.kind == "read":
            return False
        name = read_parts(node)[0]
        root, at = self.root((name, k)) if swap.kind == "declaration" else (name, k)
        return root == swap.tensor and at in swap.axes

    def shown(self, axis: Axis) -> bool:
        """Whether a local's axis has its range from one that reads it."""
        origin = self.e.origins.get(axis)
        return origin is not None and not origin.own and axis[0] not in self.declared

    def swaps(self, names: set[str], nodes: set[Expr]) -> Iterator[Swap]:
        """What may have been exchanged: in the reads, in what they read, where that comes from."""
        for x in self.reads:
            if x.node in nodes and x.place is not None:
                yield from self._pairs("read", x.tensor, x.node, x.place, len(x.indices))
        owners = {i[0] for x in self.reads if x.node in nodes for i in x.indices
                  if isinstance(i, tuple)}  # fmt: skip
        for x in self.reads:
            if x.tensor in owners and x.node not in nodes and x.place is not None:
                if any(self.shown((x.tensor, k)) for k in range(len(x.indices))):
                    yield from self._pairs("read", x.tensor, x.node, x.place, len(x.indices))
        for name in dict.fromkeys(sorted(names | owners)):
            count = sum(axis[0] == name for axis in self.extents)
            for root in {self.root((name, k))[0] for k in range(count)} | {name}:
                if root in self.declared:
                    what = f"shape of {root}" if root in self.outputs else root
                    place = self.e.places.get(what)
                    many = sum(axis[0] == root for axis in self.extents)
                    if place is not None:
                        yield from self._pairs("declaration", root, None, place, many)
            if name in self.e.places and (name in self.outputs or name not in self.declared):
                place = self.e.places[name]
                yield from self._pairs("definition", name, None, place, count)

    def _pairs(
        self, kind: str, tensor: str, node: Expr | None, place: Span, count: int
    ) -> Iterator[Swap]:
        for i in range(count):
            for j in range(i + 1, count):
                a, b = self.extents.get((tensor, i)), self.extents.get((tensor, j))
                if a is None or b is None or same_extent(a, b):
                    continue
                order = (show(b), show(a))
                if kind == "read" and self.shown((tensor, i)) and self.shown((tensor, j)):
                    pass
                elif kind == "read" or (kind == "definition" and tensor in self.outputs):
                    order = order[::-1]  # they are to follow the order of what is declared
                yield Swap(kind, tensor, node, (i, j), place, order)

    def votes(self, swap: Swap) -> int:
        """How many of the other texts have two extents in this order, less those that do not."""
        op, order = self.e.operator, swap.order
        lists = [[show(size(s)) for s in op.sizes]]
        lists += [[show(a.hi) for a in t.axes] for t in (*op.inputs, *op.outputs)
                  if t.name != swap.tensor]  # fmt: skip
        for x in self.reads:
            if x.node is swap.node:
                continue
            known = [self.extents.get(i) if isinstance(i, tuple) else i for i in x.indices]
            lists.append(["" if i is None else show(i) for i in known])
        total = 0
        for names in lists:
            if all(names.count(n) == 1 for n in order):
                total += 1 if names.index(order[0]) < names.index(order[1]) else -1
        return total


# -- bounds that are off by one -------------------------------------------------------------------


def _bound_of_values(e: Elaborated, r: Refuted) -> Span | None:
    """The `requires` that lets a value out of the range that it is an index of."""
    o = r.obligation
    if o.kind != "range" or o.subject is None:
        return None
    name, index, _ = read_parts(o.subject)
    tensor = next((t for t in (*e.operator.inputs, *e.operator.tensors) if t.name == name), None)
    if tensor is None:
        return None
    i, axis = index[o.axis], tensor.axes[o.axis]
    values = {i} if i.op == "read" else set()
    ends: set[Expr] = set()
    if i.op == "var" and i.attr in o.ranges:
        ends = {x for x in o.ranges[i.attr] if x.op == "read"}
    names = {read_parts(x)[0] for x in values}
    limits = {read_parts(x)[0] for x in ends}
    for c in e.operator.clauses:
        if c.kind != "requires" or c.expr is None:
            continue
        for x in walk(c.expr):
            if x.op not in ("le", "lt"):
                continue
            small, large = x.args
            strict = 1 if x.op == "lt" else 0
            if large.op == "read" and read_parts(large)[0] in names | limits:
                form = affine(small - axis.lo)
                if form is not None and _constant(form) and form.get(None, 0) + strict < 0:
                    return _span(c.source)
            if small.op == "read" and read_parts(small)[0] in names | limits:
                past = 1 - strict if read_parts(small)[0] in names else -strict
                form = affine(large - axis.hi)
                if form is not None and _constant(form) and form.get(None, 0) + past > 0:
                    return _span(c.source)
    return None


def _span(node: object) -> Span | None:
    span = getattr(node, "span", None)
    return span if isinstance(span, Span) else None


def _constant(form: Mapping[Expr | None, int]) -> bool:
    return not any(c for leaf, c in form.items() if leaf is not None)


def _bound_of_sizes(e: Elaborated, r: Refuted) -> Span | None:
    """A `where` that lets something be 0 and has no other use, where it must be more."""
    goals = conjuncts(r.obligation.goal) or [r.obligation.goal]
    wanted = [form for part in goals for form in _surplus(part)]
    for n, fact in enumerate(e.operator.facts):
        place = e.places.get(f"where {n}")
        if place is None or fact.op != "le" or fact.args[0] is not ZERO:
            continue
        form = affine(fact.args[1])
        if form is None or form.get(None, 0):
            continue
        least = {k: c for k, c in form.items() if c}
        if any(w == {**least, None: -1} for w in wanted):
            return place
    return None


def _surplus(goal: Expr) -> list[dict[Expr | None, int]]:
    """What must not be negative, less a margin, where a comparison of integers is to hold."""
    if goal.op not in ("lt", "le", "ne") or any(a.kind != "int" for a in goal.args):
        return []
    a, b = goal.args
    if goal.op == "ne":
        if a is not ZERO and b is not ZERO:
            return []
        a, b = ZERO, a if b is ZERO else b
    out = []
    factors = _factors(b) if a is ZERO and goal.op != "le" else [b]
    for x in factors:
        form = affine(x - a)
        if form is not None:
            if goal.op != "le":
                form[None] = form.get(None, 0) - 1
            out.append({k: c for k, c in form.items() if c})
    return out


def _factors(e: Expr) -> list[Expr]:
    return [f for a in e.args for f in _factors(a)] if e.op == "mul" else [e]


# -- ranges of indices ----------------------------------------------------------------------------


def _range_of_index(e: Elaborated, r: Refuted) -> Span | None:
    """The range of a reduction that is longer than what it reads; else what gave a local its."""
    o = r.obligation
    if o.kind != "range" or o.subject is None:
        return None
    name, index, _ = read_parts(o.subject)
    tensor = next((t for t in (*e.operator.inputs, *e.operator.tensors) if t.name == name), None)
    if tensor is None:
        return None
    i, extent = index[o.axis], tensor.axes[o.axis].hi
    axes = {a.name: (t.name, k) for t in e.operator.tensors for k, a in enumerate(t.axes)}
    if i.op == "var" and i.attr not in axes:
        binder = _binder(e, i.attr, o.span)
        others = [v for v, (_, hi) in o.ranges.items() if v != i.attr and same_extent(hi, extent)]
        used = {x.attr for x in index if x.op == "var"}
        if binder is not None and used >= set(others):
            return binder.span
    for v in _closure(i, o):
        origin = e.origins.get(axes.get(v, ("", 0)))
        if origin is not None and not origin.own and not same_extent(o.ranges[v][1], extent):
            return origin.span
    return None


def _closure(i: Expr, o: Obligation) -> list[str]:
    """The indices that an expression runs with, those in their ranges included."""
    out: dict[str, None] = {}
    pending = list(free_vars(i))
    while pending:
        v = pending.pop()
        if v in o.ranges and v not in out:
            out[v] = None
            for edge in o.ranges[v]:
                pending += free_vars(edge)
    return list(out)


def _binder(e: Elaborated, unique: str, inside: Span) -> ast.Binder | None:
    """The binder of an index around a place."""
    name = e.display.get(unique, unique)
    best: ast.Binder | None = None
    for node in ast.walk(e.syntax):
        if isinstance(node, ast.Reduce | ast.TensorLambda):
            if node.span.start <= inside.start and inside.end <= node.span.end:
                best = next((b for b in node.binders if b.name == name), best)
    return best
