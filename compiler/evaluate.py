"""Scalar expressions of OpIR as TileIR: at a point (variables replaced by tile indices), under a
mask.

The evaluator knows no schedule: a strategy decides where variables go (program ids, loops, lanes)
and what a read of a tensor means (load, recompute, a value at hand); this file emits the
operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache

from opwright.ir.dtypes import BOOL, F32, F64, I64, DType
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    Fold,
    affine,
    call,
    conjuncts,
    leaf,
    leaves,
    read_parts,
    substitute,
    var,
    walk,
)
from opwright.ir.extents import from_affine
from opwright.ir.op import OpAxis, Operator
from opwright.ir.semantics import ROWS
from opwright.ir.tile import Axis, Buffer, Builder, Value, lanes

# what a strategy says about a read: a value, an expression to evaluate instead, or a buffer to
# load from
Resolved = Value | Expr | Buffer
Resolve = Callable[[str, tuple[Expr, ...], Expr], Resolved]


class Unsupported(Exception):
    """This strategy cannot express the expression; the reason is shown to the user."""


def compute_dtype(op: Operator) -> DType:
    """f32, or f64 where an operand, a result or a marked precision asks for it."""
    names = {t.dtype.name for t in (*op.inputs, *op.outputs)}
    for t in op.tensors:
        assert t.body is not None
        for x in walk(t.body):
            if x.op in ("cast", "round"):
                names.add(x.attr.name)
            elif x.op == "fold" and x.attr.acc is not None:
                names.add(x.attr.acc.name)
    return F64 if "f64" in names else F32


class Evaluator:
    """Emits values into a builder. `real` is the compute type of real numbers."""

    def __init__(self, builder: Builder, op: Operator, resolve: Resolve, real: DType) -> None:
        self.b, self.op, self.resolve, self.real = builder, op, resolve, real
        self.states: dict[Expr, Value] = {}
        self.lanes: tuple[Axis, ...] = ()  # axes that the state of a fold has, one state per lane
        self.side: tuple[Axis, ...] = ()  # axes of rows side by side
        self.memo: list[dict[tuple[Expr, Expr], Value]] = [{}]

    # -- scopes: a value made inside a loop is not visible after it --------------------------------

    def enter(self) -> None:
        self.memo.append({})

    def leave(self) -> None:
        self.memo.pop()

    # -- the two readings --------------------------------------------------------------------------

    def value(self, e: Expr, mask: Expr = TRUE) -> Value:
        """The expression as a tile in its compute type (real type, i64 or bool)."""
        if _mentions_state(e):
            return self._value(e, mask)  # what a state symbol means changes from step to step
        if not _reads(e):
            mask = TRUE  # a mask says where memory may be read
        key = (e, mask)
        for scope in reversed(self.memo):
            if key in scope:
                return scope[key]
        v = self._value(e, mask)
        self.memo[-1][key] = v
        return v

    def index(self, e: Expr, mask: Expr = TRUE) -> Expr:
        """An integer or truth value as an index expression; reads inside become `value` leaves."""
        if e.op == "value" or not _has_data(e):
            return e
        if e.op in ("read", "fold", "state") or (
            e.op in ROWS and any(a.kind == "real" for a in e.args)
        ):
            v = self.value(e, mask)
            return leaf("value", v, e.kind)
        if e.op == "cast":
            return self.index(e.args[0], mask)
        return call(e.op, *(self.index(a, mask) for a in e.args))

    def _value(self, e: Expr, mask: Expr) -> Value:
        if e.op == "const":
            return self.b.full(e.attr, self.dtype(e))
        if e.op == "state":
            return self.states[e]
        if e.op == "read":
            return self._read(e, mask)
        if e.op == "fold":
            return self.fold(e, mask)
        if e.op == "cast":
            return self.value(e.args[0], mask)
        if e.op == "round":
            wide = self.value(e.args[0], mask)
            return self.b.cast(self.b.define("round", (wide,), wide.axes, e.attr), self.real)
        if e.op == "value":
            v: Value = e.attr
            return v
        if not _has_data(e) and (e.kind != "real" or e.op in ("param", "toreal")):
            return self.b.index(e, self.dtype(e))
        if e.op == "toreal":
            return self.b.cast(self.value(e.args[0], mask), self.real)
        if e.op == "select":
            return self._select(e, mask)
        args = [self.value(a, mask) for a in e.args]
        if e.op in ("rand", "randn"):
            return self.b.cast(self.b.ew(e.op, *args), self.real)
        if e.op == "div" and {*args[1].axes} <= {*self.side} and {*args[0].axes} - {*self.side}:
            # one division per tile, or row of it, not per lane: within an ulp, and out of the loop
            # where it can be
            return self.b.ew("mul", args[0], self.b.ew("div", 1.0, args[1]))
        return self.b.ew(e.op, *args)

    def dtype(self, e: Expr) -> DType:
        return {"real": self.real, "int": I64, "bool": BOOL}[e.kind]

    def _select(self, e: Expr, mask: Expr) -> Value:
        """Both sides are evaluated; a side that reads memory does so only where it is chosen."""
        cond, a, b = e.args
        c = self.value(cond, mask)
        sides = []
        for side, positive in ((a, True), (b, False)):
            under = mask
            if any(not self._made(x, mask) for x in walk(side) if x.op in ("read", "fold")):
                chosen = self.index(cond, mask)
                under = call("and", mask, chosen if positive else ~chosen)
            sides.append(self.value(side, under))
        if e.kind == "bool":
            return self.b.ew(
                "or", self.b.ew("and", c, sides[0]), self.b.ew("and", self.b.ew("not", c), sides[1])
            )
        return self.b.ew("select", c, *sides)

    def _made(self, e: Expr, mask: Expr) -> bool:
        """Whether the value of a read is at hand already, so that taking it reads no memory."""
        if e.op != "read":
            return False
        keys = ((e, mask), (e, TRUE))
        return any(k in scope for scope in self.memo for k in keys)

    # -- reads -------------------------------------------------------------------------------------

    def _read(self, e: Expr, mask: Expr) -> Value:
        name, raw, fill = read_parts(e)
        inside = mask
        index = tuple(self.index(i, mask) for i in raw)
        if fill is not None:
            tensor = self.op.tensor(name)
            for i, a in zip(index, tensor.axes, strict=True):
                inside = call("and", inside, _between(a.lo, i, a.hi))
        found = self.resolve(name, index, inside)
        if isinstance(found, Expr):
            out = self.value(found, inside)
        elif isinstance(found, Value):
            out = found
        else:
            for i, n in zip(index, found.shape, strict=True):
                # what was computed has no bound that a proof could use
                bounds = _between(ZERO, i, n)
                if _computed(i) and not {*conjuncts(bounds)} <= {*conjuncts(inside)}:
                    inside = call("and", inside, bounds)
            if found.role == "in":
                inside = _own(inside, index)
            other = None if inside is TRUE else (False if e.kind == "bool" else 0)
            constant = fill is not None and fill.op == "const"
            if constant and fill is not None and mask is TRUE:
                other = fill.attr
            v = self.b.load(found, *index, mask=inside, other=other)
            out = self.b.cast(v, self.dtype(e))
            if constant and mask is TRUE:
                return out
        if fill is None:
            return out
        here = self.b.index(_within(index, self.op.tensor(name).axes))
        if e.kind == "bool":
            raise Unsupported("a fill of a truth value")
        return self.b.ew("select", here, out, self.value(fill, mask))

    # -- folds, as loops with carried scalars or tiles ---------------------------------------------

    def fold(self, e: Expr, mask: Expr) -> Value:
        f = Fold(e)
        start = tuple(self.spread(self.value(i, mask), self.lanes) for i in f.init)

        def nest(
            depth: int, bound: dict[Expr, Expr], state: tuple[Value, ...]
        ) -> tuple[Value, ...]:
            if depth == len(f.binders):
                return self.step(f, bound, state, mask)
            lo, hi = (self.index(substitute(x, bound), mask) for x in f.ranges[depth])
            if lanes(lo, hi):
                raise Unsupported("a range differs from lane to lane")

            def body(v: Expr, *carried: Value) -> tuple[Value, ...]:
                self.enter()
                out = nest(depth + 1, {**bound, var(f.binders[depth]): v}, carried)
                self.leave()
                return out

            return self.b.loop(f.binders[depth], lo, hi, 1, state, body)

        return self.finish(f, nest(0, {}, start), mask)

    def finish(self, f: Fold, state: Sequence[Value], mask: Expr = TRUE) -> Value:
        """What a fold's final state stands for."""
        if f.kind is not None:
            return state[-1]
        saved = dict(self.states)
        self.states |= dict(zip(_state_symbols(f), state, strict=True))
        out = self.value(f.finish, mask)
        self.states = saved
        return out

    def step(
        self, f: Fold, bound: Mapping[Expr, Expr], state: Sequence[Value], mask: Expr = TRUE
    ) -> tuple[Value, ...]:
        """The state after one more element; outside the fold's guard it stays as it was."""
        saved = dict(self.states)
        self.states |= dict(zip(_state_symbols(f), state, strict=True))
        guard = substitute(f.guard, bound)
        under, keep = mask, None
        if guard is not TRUE:
            under = call("and", mask, self.index(guard, mask))
            keep = self.value(guard, mask)
        new = tuple(self.value(substitute(s, bound), under) for s in f.step)
        if keep is not None:
            new = tuple(self.pick(keep, n, s) for n, s in zip(new, state, strict=True))
        self.states = saved
        return tuple(self.spread(n, s.axes) for n, s in zip(new, state, strict=True))

    def merged(self, f: Fold, one: Sequence[Value], two: Sequence[Value]) -> tuple[Value, ...]:
        """Two partial states of a derived fold as one."""
        saved = dict(self.states)
        self.states |= dict(zip(_state_symbols(f), one, strict=True))
        self.states |= dict(zip(_state_symbols(f, "~"), two, strict=True))
        out = tuple(self.value(e, TRUE) for e in f.merge)
        self.states = saved
        return out

    def joined(
        self, f: Fold, state: Sequence[Value], combine: Callable[[str, Value], Value]
    ) -> tuple[Value, ...]:
        """The partial states of all lanes as one; `combine` takes a monoid and its operands."""
        if not f.attr.joins:
            raise Unsupported("a derived fold has no combination across lanes")
        saved = dict(self.states)
        self.states |= dict(zip(_state_symbols(f), state, strict=True))
        done: dict[Expr, Value] = {}
        targets = _state_symbols(f, "!")
        pending = list(zip(targets, f.attr.joins, f.shift, strict=True))
        while pending:
            for target, monoid, shift in list(pending):
                needed = {x for x in walk(shift) if x in targets}
                if needed <= set(done):
                    done[target] = combine(monoid, self.value(shift, TRUE))
                    self.states[target] = done[target]
                    pending.remove((target, monoid, shift))
        self.states = saved
        return tuple(done[t] for t in targets)

    def spread(self, v: Value, axes: Sequence[Axis]) -> Value:
        """The value over all of these axes, also where it does not vary."""
        missing = tuple(a for a in axes if a not in v.axes)
        if not missing:
            return v
        if v.op == "full":
            return self.b.full(v.attr, v.dtype, *axes)
        if v.dtype is BOOL:
            return self.b.ew("and", v, self.b.full(True, BOOL, *missing))
        return self.b.ew("add", v, self.b.full(0, v.dtype, *missing))

    def pick(self, cond: Value, a: Value, b: Value) -> Value:
        """select for values of any type, truth values included."""
        if a.dtype is BOOL:
            both = self.b.ew("and", cond, a)
            return self.b.ew("or", both, self.b.ew("and", self.b.ew("not", cond), b))
        return self.b.ew("select", cond, a, b)


def _state_symbols(f: Fold, suffix: str = "") -> tuple[Expr, ...]:
    kinds = [i.kind for i in f.init]
    names = [s + suffix for s in f.attr.states]
    return tuple(leaf("state", s, k) for s, k in zip(names, kinds, strict=True))


def _given(v: Value) -> bool:
    """Whether a value is an element of an input, of which the spec may require a range."""
    if v.op == "load":
        return bool(v.attr.buffer.role == "in")
    return v.op in ("cast", "full") and all(_given(a) for a in v.args)


def _within(index: tuple[Expr, ...], axes: tuple[OpAxis, ...]) -> Expr:
    out = TRUE
    for i, a in zip(index, axes, strict=True):
        out = call("and", out, _between(a.lo, i, a.hi))
    return out


def _own(mask: Expr, index: Sequence[Expr]) -> Expr:
    """A mask without what it says of lanes that make no difference to an index."""
    moving = set(lanes(*index))
    out = TRUE
    for c in conjuncts(mask):
        if not lanes(c) or moving & set(lanes(c)):
            out = call("and", out, c)
    return out


def _computed(e: Expr) -> list[Expr]:
    """Values in an index that no spec can bound."""
    return [x for x in leaves(e, "value") if not _given(x.attr)]


def _between(lo: Expr, i: Expr, hi: Expr) -> Expr:
    """lo <= i < hi; what is added to a computed value stands on the other sides, since a number
    without bounds may wrap when something is added to it."""
    form = affine(i)
    loose = _computed(i)
    if form is not None and len(loose) == 1 and form.get(loose[0]) == 1:
        rest = from_affine({k: c for k, c in form.items() if k is not loose[0]})
        lo, i, hi = _plain(lo - rest), loose[0], _plain(hi - rest)
    return call("and", call("le", lo, i), call("lt", i, hi))


def _plain(e: Expr) -> Expr:
    form = affine(e)
    return e if form is None else from_affine(form)


@cache
def _mentions_state(e: Expr) -> bool:
    return e.op == "state" or any(_mentions_state(a) for a in e.args)


@cache
def _reads(e: Expr) -> bool:
    return e.op in ("read", "fold") or any(_reads(a) for a in e.args)


_DATA = frozenset(("read", "fold", "state", "value", "cast", "round", "rand", "randn"))


def _has_data(e: Expr) -> bool:
    """Whether the expression needs memory, carried state or random numbers: no index then."""
    return any(x.op in _DATA for x in walk(e))
