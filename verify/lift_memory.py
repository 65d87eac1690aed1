"""What memory holds at an index, found among the stores before.

A store's index is solved for the variables that it names, and what has to hold besides is the
condition under which an element is the store's. Stores of one loop are told apart by the iteration
that made them, so that the later one counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from opwright.ir.expr import (
    FALSE,
    TRUE,
    ZERO,
    Expr,
    call,
    conjunction,
    const,
    free_vars,
    read,
    rename,
    substitute,
    toreal,
    var,
    walk,
)
from opwright.ir.op import OpAxis, Operator, Tensor
from opwright.ir.tile import Axis, Buffer, Kernel, Store, TileProgram, Value, access_axes
from opwright.verify.algebra import UNIT, Poly, scaled
from opwright.verify.carried import NotCarried
from opwright.verify.contribution import Contribution, begins_anew, contributed
from opwright.verify.given import pinned
from opwright.verify.nests import Joiner
from opwright.verify.reals import Reals

LOOKUPS = 4_000  # reads of memory of one program


class Unlifted(NotCarried):
    """What has no expression here, in words."""


@dataclass(frozen=True, slots=True, eq=False)
class Written:
    """A store: what the element at `index` holds where `cond` does, for all `variables` (with how
    many values each has). `loops` are the loops around it, `kernel` the launch."""

    name: str
    index: tuple[Expr, ...]
    value: Expr
    cond: Expr
    variables: Mapping[str, Expr]
    loops: tuple[str, ...]
    kernel: str
    why: str = ""  # what is known is not enough to say what it is


@dataclass(frozen=True, slots=True)
class Unknown:
    """What earlier iterations of a loop may have written; `counter` numbers them."""

    loop: str
    counter: str


@dataclass(frozen=True, slots=True)
class Found:
    """A store that an index may be of: where it is, what it holds, and the store's variables."""

    cond: Expr
    value: Expr
    solved: Mapping[str, Expr]


class Memory:
    """Stores and loads of a program; `memory` holds what was written to each buffer, the last one
    last."""

    kernel: Kernel
    lanes: dict[Axis, str]
    pids: dict[str, Expr]

    def index(self, e: Expr) -> Expr:
        """An expression of the program over index variables."""
        raise AssertionError(f"{type(self).__name__} has no expressions: {e}")

    def value(self, v: Value) -> Expr:
        """What a tile value is."""
        raise AssertionError(f"{type(self).__name__} has no values: {v.name}")

    def lane(self, a: Axis) -> Expr:
        """The variable of a tile axis in this kernel."""
        raise AssertionError(f"{type(self).__name__} has no lanes: {a.name}")

    def __init__(
        self,
        program: TileProgram,
        op: Operator,
        algebra: Reals,
        fixed: Mapping[Expr, Expr] | None = None,
    ) -> None:
        self.program, self.algebra = program, algebra
        self.fixed = dict(fixed or {})  # sizes and params that facts of the program settle
        self.join = Joiner(algebra)
        self.memory: dict[str, list[Written | Unknown | Contribution]] = {}
        self.env: dict[Value, Expr] = {}
        self.inputs = {t.name: t for t in op.inputs}
        self.path: list[Expr] = []
        self.loops: list[tuple[str, Expr]] = []  # open ones: counter, how often
        self.at: dict[str, Expr] = {}  # loop variables by their counters
        self.looked = 0
        self.lasts: dict[tuple[Written, str], Written] = {}

    def load(self, v: Value) -> Expr:
        what = v.attr
        index = tuple(self.index(i) for i in what.index)
        found = self.element(what.buffer, index, v.dtype.kind)
        mask = self.index(what.mask)
        if mask is TRUE or what.other is None:
            return found  # what masked-off lanes hold decides nothing
        other = const(float(what.other) if found.kind == "real" else what.other)
        return chosen(mask, found, other)

    def element(self, b: Buffer, index: tuple[Expr, ...], kind: str) -> Expr:
        """What memory holds at an index."""
        if b.role in ("in", "state") and b.name in self.inputs and b.name not in self.memory:
            return read(b.name, unflattened(self.inputs[b.name], b, index), kind)
        return self.found(b, index, kind, self.memory.get(b.name, []))

    def found(
        self,
        b: Buffer,
        index: tuple[Expr, ...],
        kind: str,
        held: Sequence[Written | Unknown | Contribution],
    ) -> Expr:
        """What memory holds at an index after what was written to it, the last one last."""
        self.looked += 1
        if self.looked > LOOKUPS:
            raise Unlifted("memory is read too often")
        cases: list[tuple[Expr, Expr]] = []
        later: list[tuple[Written, Found]] = []
        settled = False  # by a store that is there in any case
        open_ = {n for n, _ in self.loops}
        for n, w in reversed(list(enumerate(held))):
            if settled:
                # what comes first in the text of a loop may be what a later iteration wrote
                if isinstance(w, Unknown):
                    break
                if any(set(w.loops) & set(v.loops) - open_ for v, _ in later):
                    if isinstance(w, Contribution):
                        raise Unlifted(f"{b.name} is combined into and written in one loop")
                    first = self.match(w, index)
                    for v, other in later if first is not None else ():
                        assert first is not None
                        self.told_apart(w, first, v, other)
                continue
            if isinstance(w, Contribution):
                if begins_anew(held, w, self):
                    raise Unlifted(f"{b.name}: what {w.name} combines into may begin anew")
                below = self.found(b, index, kind, held[:n])
                part = contributed(self, w, index, b.role == "program")
                cases.append((TRUE, self.join.combined(w.monoid, [below, part], kind)))
                break
            if isinstance(w, Unknown):
                if not self.covered(cases):
                    cases.append((TRUE, self.before(w, b, index, kind)))
                break
            found = self.match(w, index)
            if found is None:
                continue
            for v, other in later:
                self.told_apart(w, found, v, other)
            later.append((w, found))
            cases.append((found.cond, found.value))
            settled = found.cond is TRUE
        else:
            if settled:
                pass
            elif b.role == "plan" and b.init == "zero":
                cases.append((TRUE, as_kind(const(0), kind)))
            elif b.role == "state":
                cases.append((TRUE, read(b.name, unflattened(self.inputs[b.name], b, index), kind)))
        if not cases:
            raise Unlifted(f"{b.name} is read and nothing that is known was written")
        out = cases[-1][1]
        for cond, value in reversed(cases[:-1]):
            out = chosen(cond, value, out)
        return out

    def covered(self, cases: Sequence[tuple[Expr, Expr]]) -> bool:
        """Whether one of the cases holds wherever this is reached."""
        if not cases:
            return False
        with self.algebra.under(self.algebra.normal(conjunction(self.path))):
            return self.algebra.normal(conjunction([~c for c, _ in cases])) is FALSE

    def before(self, u: Unknown, b: Buffer, index: tuple[Expr, ...], kind: str) -> Expr:
        """What memory held when an iteration began, as a read of a tensor that stands for it."""
        name = f"{b.name}@{u.counter}"
        axes = tuple(OpAxis(f"a{n}", ZERO, e) for n, e in enumerate(b.shape))
        self.algebra.tensors.setdefault(name, Tensor(name, b.dtype, axes))
        return read(name, index, kind)

    def told_apart(self, w: Written, found: Found, v: Written, other: Found) -> None:
        """Unlifted where the store that comes first in the text may be the later one: an element
        that both write is what the later iteration of a loop around both writes."""
        open_ = {n for n, _ in self.loops}
        for n in w.loops:
            if n in open_ or v.kernel != w.kernel:
                continue
            if n not in v.loops:
                return
            one, two = found.solved.get(n), other.solved.get(n)
            if two is None:
                continue  # it is written in the last iteration, too
            if one is not None:
                after = self.algebra.poly(two - one)
                if not after:
                    continue
                if self.algebra.nonnegative(self.algebra.add(after, UNIT, -1)):
                    return
            if self.algebra.normal(found.cond & other.cond) is FALSE:
                return
            raise Unlifted(f"{w.name} and {v.name} write one element in unlike iterations")

    def match(
        self,
        w: Written,
        index: tuple[Expr, ...],
        counts: Mapping[str, Expr] | None = None,
        kept: frozenset[str] = frozenset(),
    ) -> Found | None:
        """A store at an index; None where it cannot be it. `counts`: variables of the store that
        run less far here; `kept`: those that are what they are."""
        open_ = {n for n, _ in self.loops} & set(w.loops)
        for n in set(w.loops) - open_ - kept:
            w = self.last(w, n)
        own = w.kernel == self.kernel.name
        same = open_ | kept | (set(self.pids) if own else set())
        names = {n: f"{n}'" for n in w.variables if n not in same}
        ends = {**w.variables, **(counts or {})}
        pattern = tuple(rename(i, names) for i in w.index)
        wanted: dict[str, Expr] = {}
        for n, m in names.items():
            count = ends[n] if counts and n in counts else rename(ends[n], names)
            wanted[m] = count
            self.algebra.ranges[m] = (ZERO, count)
        with self.algebra.under(self.algebra.normal(rename(w.cond, names))):
            solved, conditions = self.solve(pattern, index, wanted)
        value, cond = rename(w.value, names), rename(w.cond, names)
        left = set(wanted) - set(solved)
        solved |= {n: e for n, e in pinned(self.algebra, cond).items() if n in left}
        at = {var(n): e for n, e in solved.items()}
        missing = set(wanted) - set(solved)
        of_ends = {v for e in wanted.values() for v in free_vars(e)}
        if missing & (free_vars(value) | free_vars(cond) | of_ends):
            raise Unlifted(f"{w.name}: the index does not tell which iteration wrote it")
        conditions += [substitute(cond, at)]
        # what every iteration writes alike is there if there is one
        conditions += [call("lt", ZERO, substitute(wanted[n], at)) for n in sorted(missing)]
        for n, e in solved.items():
            conditions += [call("le", ZERO, e), call("lt", e, substitute(wanted[n], at))]
        cond = self.join.tidy(conjunction(conditions))
        known = self.algebra.normal(cond)
        if known is FALSE:
            return None
        if w.why:
            raise Unlifted(w.why)
        back = {n: solved[m] for n, m in names.items() if m in solved}
        value = self.join.tidy(substitute(value, at))
        return Found(TRUE if known is TRUE else cond, value, back)

    def regrouped(self, w: Written) -> Written:
        """A store with folds that touch, where it stores, as one."""
        with self.algebra.under(self.algebra.normal(w.cond)):
            return replace(w, value=self.join.regrouped(w.value))

    def last(self, w: Written, counter: str) -> Written:
        """A store that the last iteration of a loop alone makes, in terms of it."""
        named = {v for i in w.index for v in free_vars(i)}
        if counter in named or counter not in free_vars(w.cond) or counter not in w.variables:
            return w
        if (w, counter) in self.lasts:
            return self.lasts[w, counter]
        made, end = w, w.variables[counter] - 1
        m = self.join.fresh("m")
        with self.algebra.binding(m, (ZERO, end)):
            alone = self.algebra.normal(rename(w.cond, {counter: m})) is FALSE
        if alone:
            at = {var(counter): end}
            value, cond = (self.join.tidy(substitute(e, at)) for e in (w.value, w.cond))
            made = self.regrouped(replace(w, value=value, cond=cond))
        self.lasts[w, counter] = made
        return made

    def solve(
        self, pattern: Sequence[Expr], index: Sequence[Expr], wanted: Mapping[str, Expr]
    ) -> tuple[dict[str, Expr], list[Expr]]:
        """Variables of a store by the index that they make, and what has to hold besides."""
        solved: dict[str, Expr] = {}
        conditions: list[Expr] = []
        for p, e in zip(pattern, index, strict=True):
            open_ = {n: c for n, c in wanted.items() if n not in solved}
            at = {var(n): x for n, x in solved.items()}
            found = self.highest(substitute(p, at), open_)
            if found is not None:
                name, c = found
                solved[name] = call("floordiv", e, c)
                at[var(name)] = solved[name]
                del open_[name]
            terms, rest = self.linear(substitute(p, at), open_)
            left = e - rest
            terms.sort(key=lambda t: t[1])
            for k, (name, c) in enumerate(terms):
                if k + 1 == len(terms):
                    if c == 1:
                        solved[name] = left
                    else:
                        solved[name] = call("floordiv", left, c)
                        conditions.append(call("eq", call("mod", left, c), ZERO))
                    continue
                if any(d % c for _, d in terms[k:]):
                    raise Unlifted("an index mixes variables whose steps do not nest")
                if c != 1:
                    conditions.append(call("eq", call("mod", left, c), ZERO))
                    left = call("floordiv", left, c)
                    terms[k + 1 :] = [(n, d // c) for n, d in terms[k + 1 :]]
                above = terms[k + 1][1]
                if any(d % above for _, d in terms[k + 1 :]):
                    raise Unlifted("an index mixes variables whose steps do not nest")
                most = self.algebra.normal(wanted[name])
                if not self.at_most(most, above):
                    raise Unlifted("an index mixes variables that run too far")
                solved[name] = call("mod", left, above)
                left = call("floordiv", left, above)
                terms[k + 1 :] = [(n, d // above) for n, d in terms[k + 1 :]]
            if not terms:
                conditions.append(call("eq", left, ZERO))
        return solved, conditions

    def highest(self, e: Expr, wanted: Mapping[str, Expr]) -> tuple[str, int] | None:
        """A variable of an index that is c * it and a rest in 0..c, where it is not only in a
        term."""
        p = self.algebra.poly(e)
        for name in wanted:
            own = var(name)
            if not any(name in free_vars(a) for m in p for a, _ in m if m != ((own, 1),)):
                continue
            counts = (x.args[1] for x in walk(wanted[name]) if x.op == "floordiv")
            sizes = {int(x.attr) for x in counts if x.op == "const"}
            sizes |= {int(c) for m, c in p.items() if m == ((own, 1),)}
            for c in sorted(x for x in sizes if x > 1):
                rest = self.algebra.poly(e - c * own)
                room = self.algebra.add({(): Fraction(c - 1)}, rest, -1)
                if self.algebra.nonnegative(rest) and self.algebra.nonnegative(room):
                    return name, c
        return None

    def at_most(self, e: Expr, bound: int) -> bool:
        """Whether a count is at most a number; a minimum that is added is at most each operand."""
        if e.op == "max":
            return all(self.at_most(x, bound) for x in e.args)
        p = self.algebra.poly(e)
        for m, c in p.items():
            if len(m) != 1 or m[0][0].op != "min" or m[0][1] != 1 or c < 0:
                continue
            rest = {n: d for n, d in p.items() if n != m}
            if any(a is m[0][0] for n in rest for a, _ in n):
                continue
            for y in m[0][0].args:
                more = self.algebra.add(rest, scaled(self.algebra.poly(y), c))
                if self.at_most(self.algebra.expression(more, "int"), bound):
                    return True
        return self.algebra.nonnegative(self.algebra.poly(bound - e))

    def linear(self, e: Expr, wanted: Mapping[str, Expr]) -> tuple[list[tuple[str, int]], Expr]:
        """Coefficients of variables in an index, and the rest."""
        p: Poly = self.algebra.poly(e)
        terms: list[tuple[str, int]] = []
        rest: Poly = {}
        for m, c in p.items():
            names = {n for a, _ in m for n in free_vars(a)} & set(wanted)
            if not names:
                rest[m] = c
                continue
            if len(m) != 1 or m[0][0].op != "var" or m[0][1] != 1 or c <= 0:
                raise Unlifted("an index is no sum of its variables")
            terms.append((m[0][0].attr, int(c)))
        return terms, self.algebra.expression(rest, "int")

    def store(self, s: Store) -> None:
        axes = access_axes(s)
        variables: dict[str, Expr] = dict(self.pids)
        variables |= dict(self.loops)
        for a in axes:
            self.lane(a)
            variables[self.lanes[a]] = const(a.extent)
        cond = conjunction([*self.path, self.index(s.mask)])
        w = Written(
            s.name,
            tuple(self.index(i) for i in s.index),
            as_kind(self.value(s.value), s.buffer.dtype.kind),
            cond,
            variables,
            tuple(n for n, _ in self.loops),
            self.kernel.name,
        )
        self.memory.setdefault(s.buffer.name, []).append(w)


def chosen(cond: Expr, a: Expr, b: Expr) -> Expr:
    """A choice of values of any kind."""
    return (cond & a) | (~cond & b) if a.kind == "bool" else call("select", cond, a, b)


def as_kind(e: Expr, kind: str) -> Expr:
    if e.kind == kind:
        return e
    if kind == "real":
        return toreal(e) if e.kind == "int" else call("select", e, 1.0, 0.0)
    if kind == "int":
        return call("select", e, 1, 0) if e.kind == "bool" else call("trunc", e)
    nothing = const(0 if e.kind == "int" else 0.0)
    known = decided("ne", e, nothing)
    return call("ne", e, nothing) if known is None else known


def decided(op: str, a: Expr, b: Expr) -> Expr | None:
    """A comparison with an integer that stands for a truth value as that truth value."""
    if a.kind != "int" or b.op != "const":
        return None
    if a.op == "const":
        return call(op, a, b)
    if a.op != "select":
        return None
    yes, no = (decided(op, x, b) for x in a.args[1:])
    if yes is None or no is None:
        return None
    return call("or", call("and", a.args[0], yes), call("and", call("not", a.args[0]), no))


def unflattened(t: Tensor, b: Buffer, index: tuple[Expr, ...]) -> tuple[Expr, ...]:
    """An index of a buffer as one of its tensor, where the program sees it as one axis."""
    if len(index) == len(t.axes):
        return index
    if len(index) != 1:
        raise Unlifted(f"{b.name} is seen with {len(index)} axes")
    out: list[Expr] = []
    rest = index[0]
    for a in reversed(t.axes[1:]):
        out.append(call("mod", rest, a.hi))
        rest = call("floordiv", rest, a.hi)
    return (rest, *reversed(out))[: len(t.axes)] if t.axes else ()


__all__ = [
    "Found",
    "Memory",
    "Unknown",
    "Unlifted",
    "Written",
    "as_kind",
    "chosen",
    "unflattened",
]
