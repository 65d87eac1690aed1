"""Index notation becomes array code: expressions and reads over the axes of a scope.

`opwright.backends.jax.folds` adds the reductions, `opwright.backends.jax.printer` the function
around them. Everything is whole-array code whose sizes come from shapes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from opwright.backends.jax.facts import Facts
from opwright.backends.jax.scalar import (
    ATOM,
    BIT_AND,
    COMPARE,
    SUM,
    Names,
    PrintError,
    Term,
    aligned,
    half,
    jax_type,
    literal,
    operation,
    wrapped,
)
from opwright.ir.dtypes import F32, F64, I32, I64, DType
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    Fold,
    affine,
    conjuncts,
    free_vars,
    read_parts,
    show,
    walk,
)
from opwright.ir.extents import from_affine
from opwright.ir.op import Operator, Tensor

LONG = 88  # columns of an inline expression; a longer one gets a name

Path = tuple[tuple[Expr, bool], ...]
# functions whose value or derivative is not finite everywhere, and a harmless operand
_PARTIAL = {
    "div": "1.0", "log": "1.0", "log2": "1.0", "log1p": "0.0", "sqrt": "1.0", "rsqrt": "1.0",
    "pow": "1.0", "exp": "0.0", "exp2": "0.0", "expm1": "0.0", "tan": "0.0", "asin": "0.0",
    "acos": "0.0", "sinh": "0.0", "cosh": "0.0",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stored:
    """An array variable: its text, the ranges of its axes and its stored type (None: computed)."""

    code: str
    ranges: tuple[tuple[Expr, Expr], ...]
    kind: str
    dtype: DType | None = None


@dataclass(frozen=True, slots=True)
class Running:
    """A tensor of the recurrence in progress, without its time axis, at t - 1 and at t."""

    time: int
    step: Expr
    previous: Stored
    present: Stored | None


@dataclass(slots=True)
class Scope:
    """Index variables that are array axes, those that are scalars, and the path condition."""

    axes: dict[str, tuple[Expr, Expr]]
    scalars: dict[str, Term] = field(default_factory=dict)
    limits: dict[str, tuple[Expr, Expr]] = field(default_factory=dict)
    path: Path = ()
    memo: dict[tuple[Expr, Path], Term] = field(default_factory=dict)
    shared: frozenset[Expr] = frozenset()

    def within(self, path: Path) -> Scope:
        both = (*self.path, *path)
        return Scope(self.axes, self.scalars, self.limits, both, self.memo, self.shared)

    def bind(self, axes: Mapping[str, tuple[Expr, Expr]], path: Path = ()) -> Scope:
        both = (*self.path, *path)
        return Scope({**self.axes, **axes}, self.scalars, self.limits, both)

    def plain(self) -> Scope:
        """The scope without its path, in which path conditions themselves are evaluated."""
        return Scope(self.axes, self.scalars, self.limits, (), self.memo, self.shared)

    def ordered(self, names: Iterable[str]) -> tuple[str, ...]:
        wanted = set(names)
        return tuple(a for a in self.axes if a in wanted)


class Expressions:
    """Writes statements for the values of expressions; `lines` is where statements go."""

    def __init__(self, op: Operator) -> None:
        self.op = op
        self.names = Names()
        self.facts = Facts(op.facts)
        self.arrays: dict[str, Stored | Running] = {}
        self.scalars: dict[Expr, Term] = {}  # sizes and params
        self.base: list[str] = []
        self.lines = self.base
        self.imports: set[str] = set()
        self._lifted: dict[str, str] = {}
        self._ranges: dict[tuple[str, Expr, Expr], str] = {}
        self.f64 = F64 in set(_types(op))
        self.real = "float" if self.f64 else "jnp.float32"

    # -- statements -------------------------------------------------------------------------------

    def name(self, t: Term, hint: str = "v") -> Term:
        """The term as a variable."""
        if t.level == ATOM and t.code.isidentifier():
            return t
        variable = self.names.fresh(hint)
        self.lines += wrapped(f"{variable} = {t.code}")
        return Term(variable, t.axes, t.kind, ATOM, t.dtype, t.static)

    def short(self, t: Term) -> Term:
        return self.name(t) if len(t.code) > LONG else t

    # -- expressions ------------------------------------------------------------------------------

    def root(self, e: Expr, scope: Scope) -> Term:
        """The value of a whole body, not named: what occurs twice in it is computed once."""
        scope.shared |= _shared(e)
        key = (e, scope.path)
        if not e.args or key in scope.memo:
            return self.value(e, scope)
        scope.memo[key] = self._node(e, scope)
        return scope.memo[key]

    def value(self, e: Expr, scope: Scope) -> Term:
        """The value of an expression over the axes of its free variables, in scope order."""
        if e.op == "const":
            return literal(e)
        if e.op in ("size", "param"):
            return self.scalars[e]
        if e.op == "var":
            return scope.scalars[e.attr] if e.attr in scope.scalars else self.variable(e, scope)
        key = (e, scope.path if _sensitive(e) else ())
        if key not in scope.memo:
            out = self._node(e, scope)
            if e in scope.shared and not out.static:
                out = self.name(out)
            scope.memo[key] = self.short(out)
        return scope.memo[key]

    def variable(self, e: Expr, scope: Scope) -> Term:
        """The values that an index variable takes along its axis."""
        lo, hi = scope.axes[e.attr]
        base = re.sub(r"_\d+$", "", e.attr)
        if (base, lo, hi) not in self._ranges:
            name = self.names.fresh(base)
            ends = (self.number(lo), self.number(hi))
            code = f"jnp.arange({ends[1]})" if ends[0] == "0" else f"jnp.arange({', '.join(ends)})"
            self.base.append(f"{name} = {code}")
            self._ranges[base, lo, hi] = name
        return Term(self._ranges[base, lo, hi], (e.attr,), "int")

    def number(self, e: Expr, level: int = 0) -> str:
        """Text of an integer that is known when the function is traced."""
        t = self.value(e, Scope({}))
        if not t.static:
            raise PrintError(f"{show(e)} is no number that shapes and static params fix")
        return t.at(level)

    def is_static(self, e: Expr) -> bool:
        """Whether an expression is a number that shapes and static params fix."""
        for x in walk(e):
            if x.op in ("size", "param"):
                if not self.scalars[x].static:
                    return False
            elif x.op in ("var", "read", "fold", "state"):
                return False
        return True

    def _node(self, e: Expr, scope: Scope) -> Term:
        if e.op == "read":
            return self.read(e, scope)
        if e.op == "fold":
            return self.fold(e, scope)
        if e.op == "state":
            return scope.scalars[e.attr]
        if e.op == "cast":
            return self._cast(self.value(e.args[0], scope), e.attr)
        if e.op == "round":
            return self._round(self.lift(self.value(e.args[0], scope)), e.attr)
        if e.op == "toreal":
            return self._toreal(self.value(e.args[0], scope))
        if e.op == "select":
            return self._select(e, scope)
        args = [self.lift(self.value(a, scope), e.kind == "bool") for a in e.args]
        if e.op in _PARTIAL and scope.path:
            args[-1] = self._safe(args[-1], _PARTIAL[e.op], scope)
        return self.elementwise(e.op, args, scope, e.kind)

    def elementwise(self, name: str, args: Sequence[Term], scope: Scope, kind: str) -> Term:
        axes = scope.ordered(a for t in args for a in t.axes)
        return operation(name, [aligned(t, axes) for t in args], axes, kind)

    def fold(self, e: Expr, scope: Scope) -> Term:
        raise PrintError(f"no array code for {show(e)}")

    def lift(self, t: Term, compared: bool = False) -> Term:
        """The value in the type that arithmetic is done in: f32 at least, f64 where a result or
        another operand is, integers wide."""
        if half(t.dtype) or (self.f64 and t.dtype == F32 and not compared):
            return self._convert(t, self.real)
        if t.dtype is None or t.dtype.kind != "int" or t.dtype == I64:
            return t
        return t if compared and t.dtype == I32 else self._convert(t, "int")

    def _convert(self, t: Term, to: str, dtype: DType | None = None) -> Term:
        if t.code.isidentifier() and t.dtype is not None and t.code in self._inputs():
            # a whole input is converted once
            if t.code not in self._lifted:
                self._lifted[t.code] = self.names.fresh(f"{t.code}_wide")
                self.base.append(f"{self._lifted[t.code]} = {t.code}.astype({to})")
            return Term(self._lifted[t.code], t.axes, t.kind, ATOM, dtype)
        return Term(f"{t.at(ATOM)}.astype({to})", t.axes, t.kind, ATOM, dtype)

    def _inputs(self) -> set[str]:
        names = {t.name for t in self.op.inputs}
        return {s.code for n, s in self.arrays.items() if n in names and isinstance(s, Stored)}

    def _cast(self, t: Term, to: DType) -> Term:
        if to.kind != "real" or t.static:
            return t
        if to == F64 and t.dtype != F64:
            return Term(f"{t.at(ATOM)}.astype(float)", t.axes, t.kind, ATOM, F64)
        return self.lift(t) if to.bits >= 32 else t

    def _round(self, t: Term, to: DType) -> Term:
        if to.bits >= 32:
            return Term(f"{self._array(t)}.astype({jax_type(to)})", t.axes, t.kind)
        code = self._array(t)
        # two conversions in a row may be dropped by the compiler, these may not
        if to.name == "bf16":
            text = f"lax.reduce_precision({code}, exponent_bits=8, mantissa_bits=7)"
            return Term(text, t.axes, t.kind)
        narrow = f"lax.optimization_barrier({code}.astype({jax_type(to)}))"
        return Term(f"{narrow}.astype({self.real})", t.axes, t.kind)

    def _array(self, t: Term) -> str:
        return f"jnp.asarray({t.code}, {self.real})" if t.static else t.at(ATOM)

    def _toreal(self, t: Term) -> Term:
        if t.static:
            return Term(t.code, (), "real", t.level, None, True)
        return Term(f"{t.at(ATOM)}.astype({self.real})", t.axes, "real")

    def _select(self, e: Expr, scope: Scope) -> Term:
        condition, then, other = e.args
        c = self.value(condition, scope)
        if c.axes and (_sensitive(then) or _sensitive(other)):
            c = scope.memo[condition, ()] = self.name(c, "keep")
        sides = [
            self.lift(self.value(branch, scope.within(((condition, truth),))))
            for branch, truth in ((then, True), (other, False))
        ]
        if all(s.static for s in sides) and not c.static and e.kind == "real":
            sides[0] = Term(f"jnp.asarray({sides[0].code}, {self.real})", (), "real")
        return self.elementwise("select", [c, *sides], scope, e.kind)

    def condition(self, path: Path, scope: Scope) -> Term | None:
        """The conjunction of path conditions over the axes of the scope."""
        parts: list[Term] = []
        for condition, truth in path:
            if not free_vars(condition) <= {*scope.axes, *scope.scalars}:
                continue
            for part in conjuncts(condition) if truth else [condition]:
                t = self.value(part, scope.plain())
                parts.append(t if truth else self.elementwise("not", [t], scope, "bool"))
        out: Term | None = None
        for p in parts:
            out = p if out is None else self.elementwise("and", [out, p], scope, "bool")
        return out

    def _safe(self, t: Term, harmless: str, scope: Scope) -> Term:
        """An operand that is harmless where the path does not hold: no NaN, also in gradients."""
        mask = self.condition(scope.path, scope)
        if mask is None or mask.static or t.static:
            return t
        constant = Term(harmless, (), "real", ATOM, None, True)
        return self.elementwise("select", [mask, t, constant], scope, "real")

    # -- reads ------------------------------------------------------------------------------------

    def read(self, e: Expr, scope: Scope, ordered: bool = True) -> Term:
        """A read as slices where indices are plain and as a gather with clipped indices
        elsewhere."""
        name, index, fill = read_parts(e)
        stored = self.arrays[name]
        if isinstance(stored, Running):
            stored, index = _at_step(stored, index, e)
        if not index:
            return Term(stored.code, (), stored.kind, ATOM, stored.dtype)
        places = [
            self._place(i, lo, hi, index, scope, fill is not None or bool(scope.path))
            for i, (lo, hi) in zip(index, stored.ranges, strict=True)
        ]
        out = self._indexed(stored, places, scope)
        outside = [p.inside for p in places if p.inside is not None]
        if fill is not None and outside:
            mask = outside[0]
            for other in outside[1:]:
                mask = self.elementwise("and", [mask, other], scope, "bool")
            sides = [mask, self.lift(self._ordered(out, scope)), self.lift(self.value(fill, scope))]
            return self.elementwise("select", sides, scope, e.kind)
        return self._ordered(out, scope) if ordered else out

    def _ordered(self, t: Term, scope: Scope) -> Term:
        axes = scope.ordered(t.axes)
        if axes == t.axes:
            return t
        order = tuple(t.axes.index(a) for a in axes)
        if order == (1, 0):
            return Term(f"{t.at(ATOM)}.T", axes, t.kind, ATOM, t.dtype)
        return Term(f"jnp.transpose({t.code}, {order})", axes, t.kind, ATOM, t.dtype)

    def _place(
        self, i: Expr, lo: Expr, hi: Expr, index: Sequence[Expr], scope: Scope, conditional: bool
    ) -> _Place:
        """How one axis is indexed."""
        ranges: dict[str, tuple[Expr, Expr] | None] = {**scope.limits, **scope.axes}
        form = affine(i)
        loose = free_vars(i)
        if len(loose) == 1 and form is not None:
            v = next(iter(loose))
            others = sum(1 for other in index if v in free_vars(other))
            moved = {k: c for k, c in form.items() if k is not None and c}
            rest = [x for x in moved if x.op != "var"]
            unit = [x for x in moved if x.op == "var" and x.attr == v and moved[x] == 1]
            if v in scope.axes and others == 1 and unit and all(self.is_static(x) for x in rest):
                a, b = scope.axes[v]
                shift = i - unit[0]
                if a is lo and b is hi and i is unit[0]:
                    return _Place(":", (v,), False)
                if self.facts.inside(i, lo, hi, ranges):
                    start, stop = self._sum(a, shift, lo), self._sum(b, shift, lo)
                    head = "" if self.number(start) == "0" else self.number(start, SUM)
                    tail = "" if stop is self._sum(hi, lo, lo, -1) else self.number(stop, SUM)
                    if tail and not self.facts.at_least(stop):
                        tail = f"max({self.number(stop)}, 0)"
                    return _Place(f"{head}:{tail}", (v,), False)
        position = self.value(i, scope)
        if lo.op != "const" or lo.attr != 0:
            position = self.elementwise("sub", [self.lift(position), self.value(lo, scope)],
                                        scope, "int")  # fmt: skip
        inside: Term | None = None
        extent = self._sum(hi, lo, lo, -1)
        if not self.facts.inside(i, lo, hi, ranges):
            position = self.name(self.lift(position, True), "at")
            inside = self._inside(position, extent)
            empty = not self.facts.at_least(extent, 1) and self._may_be_empty(
                extent, position, scope, conditional
            )
            last = self.number(extent if empty else extent - 1)
            code = f"jnp.clip({position.code}, 0, {last})"
            position = Term(code, position.axes, "int")
            return _Place("", position.axes, True, position, inside, empty)
        return _Place("", position.axes, True, position)

    def _may_be_empty(self, extent: Expr, at: Term, scope: Scope, conditional: bool) -> bool:
        """Whether there may be something to read from an axis without elements."""
        return conditional and not any(
            self._sum(scope.axes[a][1], scope.axes[a][0], ZERO, -1) is extent for a in at.axes
        )

    def _sum(self, a: Expr, b: Expr, minus: Expr, sign: int = 1) -> Expr:
        """a + sign * b - minus without terms that cancel (with sign -1: a - b)."""
        e = a + b - minus if sign == 1 else a - b
        form = affine(e)
        return e if form is None else from_affine(form)

    def _inside(self, position: Term, extent: Expr) -> Term:
        p, n = position.at(COMPARE + 1), self.number(extent, COMPARE + 1)
        return Term(f"({p} >= 0) & ({p} < {n})", position.axes, "bool", BIT_AND)

    def _indexed(self, stored: Stored, places: Sequence[_Place], scope: Scope) -> Term:
        code = stored.code
        padded = [p.empty for p in places]
        if any(padded):
            widths = ", ".join("(0, 1)" if p else "(0, 0)" for p in padded)
            code = f"jnp.pad({code}, ({widths}{',' if len(padded) == 1 else ''}))"
        if all(p.code == ":" for p in places):
            return Term(code, tuple(p.axes[0] for p in places), stored.kind, ATOM, stored.dtype)
        gathered = [k for k, p in enumerate(places) if p.gathers]
        moving = [k for k in gathered if places[k].axes or not places[k].static]
        texts, axes = [], []
        if not moving:
            # integers and slices only
            for p in places:
                texts.append(p.position.code if p.position is not None else p.code)
                axes += [] if p.gathers else list(p.axes)
            while texts and texts[-1] == ":":
                texts.pop()
            return Term(f"{code}[{', '.join(texts)}]", tuple(axes), stored.kind, ATOM, stored.dtype)
        union = scope.ordered(a for k in gathered for a in places[k].axes)
        adjacent = gathered == list(range(gathered[0], gathered[-1] + 1))
        if not adjacent:
            axes += union
        for k, p in enumerate(places):
            if p.gathers:
                assert p.position is not None
                if adjacent and k == gathered[0]:
                    axes += union
                texts.append(aligned(p.position, union).code)
            else:
                texts.append(p.code)
                axes += p.axes
        while texts and texts[-1] == ":":
            texts.pop()
        return Term(f"{code}[{', '.join(texts)}]", tuple(axes), stored.kind, ATOM, stored.dtype)


@dataclass(frozen=True, slots=True)
class _Place:
    """One axis of a read: a slice over a variable, or a position to gather at.

    `inside` says where the position was in range before it was clipped; `empty` that the axis may
    have no element, so that it is padded by one that is never used.
    """

    code: str
    axes: tuple[str, ...]
    gathers: bool
    position: Term | None = None
    inside: Term | None = None
    empty: bool = False

    @property
    def static(self) -> bool:
        return self.position is not None and self.position.static


def _at_step(r: Running, index: tuple[Expr, ...], e: Expr) -> tuple[Stored, tuple[Expr, ...]]:
    """The array that a read inside a recurrence means, and its other indices."""
    rest = tuple(i for k, i in enumerate(index) if k != r.time)
    form = affine(index[r.time] - r.step)
    back = None if form is None else form.get(None, 0)
    loose = form is None or any(c for k, c in form.items() if k is not None)
    if not loose and back == -1:
        return r.previous, rest
    if not loose and back == 0 and r.present is not None:
        return r.present, rest
    raise PrintError(f"{show(e)} is neither at the present step nor at the one before")


def _types(op: Operator) -> Iterable[DType]:
    for t in (*op.inputs, *op.outputs):
        yield t.dtype
    for t in op.tensors:
        assert t.body is not None
        for x in walk(t.body):
            if x.op in ("cast", "round"):
                yield x.attr
            elif x.op == "fold" and x.attr.acc is not None:
                yield x.attr.acc


@cache
def _sensitive(e: Expr) -> bool:
    """Whether the path changes how an expression is written."""
    return any(
        x.op in _PARTIAL or (x.op == "read" and any(i.op != "var" for i in x.args)) for x in walk(e)
    )


def _shared(root: Expr) -> frozenset[Expr]:
    """Inner nodes outside folds that occur more than once, and so get a name."""
    seen: dict[Expr, int] = {}
    stack = [root]
    while stack:
        e = stack.pop()
        if not e.args:
            continue
        seen[e] = seen.get(e, 0) + 1
        if seen[e] == 1 and e.op != "fold":
            stack += e.args
    return frozenset(e for e, n in seen.items() if n > 1 and e.op != "read")


def path_of(t: Tensor) -> Path:
    """Where a guarded local is defined."""
    return () if t.guard is TRUE else ((t.guard, True),)


def fold_axes(f: Fold) -> dict[str, tuple[Expr, Expr]]:
    return dict(zip(f.binders, f.ranges, strict=True))


def product_factors(e: Expr) -> list[Expr]:
    """The factors of a product; float casts are the identity and its operands are exact."""
    while e.op == "cast" and e.kind == "real" and e.attr != F64:
        e = e.args[0]
    return product_factors(e.args[0]) + product_factors(e.args[1]) if e.op == "mul" else [e]
