"""Scalar and index expressions: frozen, interned nodes, checked when they are built; equality is
identity.

One node class serves OpIR bodies, size formulas, masks, plan arguments and guards, so that a mask
or a guard is a term of the same language as the index it protects. Elementwise operations are rows
of the semantics table; what remains are leaves and two structured nodes, `read` and `fold`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Union

from opwright.ir.dtypes import DType
from opwright.ir.semantics import ARG_FOLDS, MONOIDS, ROWS

ExprLike = Union["Expr", int, float, bool]

# leaf operations and what their `attr` holds
LEAVES = {
    "const",  # int | float | bool
    "size",  # name of a dim or let
    "param",  # name of a run-time attribute
    "var",  # name of an index variable (equation axis, reduction, loop)
    "state",  # name of a fold's state entry inside its step, merge or finish
    "pid",  # dimension of the program id
    "lane",  # tile Axis
    "stride",  # (buffer name, axis number), in elements
    "value",  # TileIR Value used as an index or a mask
}


class ExprError(ValueError):
    """An expression was built from operands of the wrong number or kind."""


class Expr:
    """An interned term of kind "int", "real" or "bool"."""

    __slots__ = ("args", "attr", "kind", "op")
    op: str
    args: tuple[Expr, ...]
    attr: Any
    kind: str

    def __add__(self, other: ExprLike) -> Expr:
        return call("add", self, other)

    def __radd__(self, other: ExprLike) -> Expr:
        return call("add", other, self)

    def __sub__(self, other: ExprLike) -> Expr:
        return call("sub", self, other)

    def __rsub__(self, other: ExprLike) -> Expr:
        return call("sub", other, self)

    def __mul__(self, other: ExprLike) -> Expr:
        return call("mul", self, other)

    def __rmul__(self, other: ExprLike) -> Expr:
        return call("mul", other, self)

    def __truediv__(self, other: ExprLike) -> Expr:
        return call("div", self, other)

    def __floordiv__(self, other: ExprLike) -> Expr:
        return call("floordiv", self, other)

    def __mod__(self, other: ExprLike) -> Expr:
        return call("mod", self, other)

    def __neg__(self) -> Expr:
        return call("neg", self)

    def __lt__(self, other: ExprLike) -> Expr:
        return call("lt", self, other)

    def __le__(self, other: ExprLike) -> Expr:
        return call("le", self, other)

    def __gt__(self, other: ExprLike) -> Expr:
        return call("lt", other, self)

    def __ge__(self, other: ExprLike) -> Expr:
        return call("le", other, self)

    def __and__(self, other: ExprLike) -> Expr:
        return call("and", self, other)

    def __or__(self, other: ExprLike) -> Expr:
        return call("or", self, other)

    def __invert__(self) -> Expr:
        return call("not", self)

    def __bool__(self) -> bool:
        raise TypeError(f"the truth of the symbolic expression {show(self)} is not known")

    def __repr__(self) -> str:
        return show(self)


_INTERNED: dict[tuple[Any, ...], Expr] = {}


def _intern(op: str, args: tuple[Expr, ...], attr: Any, kind: str) -> Expr:
    # True == 1 == 1.0 in Python, so the key holds the attribute's type; -0.0 == 0.0, so its sign
    sign = math.copysign(1.0, attr) if isinstance(attr, float) else 0.0
    key = (op, args, attr, type(attr), sign, kind)
    node = _INTERNED.get(key)
    if node is None:
        node = object.__new__(Expr)
        node.op, node.args, node.attr, node.kind = op, args, attr, kind
        _INTERNED[key] = node
    return node


# -- leaves ----------------------------------------------------------------------------------------


def const(value: int | float | bool) -> Expr:
    """A literal; its Python type decides the kind."""
    if not isinstance(value, bool | int | float):
        raise ExprError(f"{value!r} is not a number")
    kind = "bool" if isinstance(value, bool) else "int" if isinstance(value, int) else "real"
    return _intern("const", (), value, kind)


def leaf(op: str, attr: Any, kind: str = "int") -> Expr:
    """A leaf of one of the `LEAVES` operations."""
    if op not in LEAVES or op == "const":
        raise ExprError(f"{op} is not a leaf")
    return _intern(op, (), attr, kind)


def size(name: str) -> Expr:
    return leaf("size", name)


def param(name: str, kind: str) -> Expr:
    return leaf("param", name, kind)


def var(name: str) -> Expr:
    return leaf("var", name)


def pid(dimension: int) -> Expr:
    return leaf("pid", dimension)


def stride(buffer: str, axis: int) -> Expr:
    return leaf("stride", (buffer, axis))


def lift(x: ExprLike) -> Expr:
    """An expression from a Python number, an expression, or a tile axis (its lane)."""
    lane = getattr(x, "lane", None)
    return x if isinstance(x, Expr) else lane if isinstance(lane, Expr) else const(x)


TRUE, FALSE, ZERO, ONE = const(True), const(False), const(0), const(1)
INF = const(math.inf)


# -- elementwise operations ------------------------------------------------------------------------


def call(name: str, *operands: ExprLike) -> Expr:
    """Apply a row of the semantics table; an integer operand of a real operation is converted
    exactly.

    Folds constants of integers and predicates and neutral elements only, so that text and proofs
    show what was written. Raises ExprError for a wrong number or kind of operands.
    """
    row = ROWS.get(name)
    if row is None:
        raise ExprError(f"unknown operation {name}")
    args = [lift(a) for a in operands]
    if len(args) != row.arity:
        raise ExprError(f"{name} takes {row.arity} operands, not {len(args)}")
    numeric = [a for a, k in zip(args, row.kinds, strict=False) if k in "nr"]
    if any(a.kind == "bool" for a in numeric):
        raise ExprError(f"{name} needs numbers, not a truth value")
    if "r" in row.kinds[: row.arity] or any(a.kind == "real" for a in numeric):
        args = [toreal(a) if k in "nr" else a for a, k in zip(args, row.kinds, strict=False)]
    for a, k in zip(args, row.kinds, strict=False):
        if (k == "i" and a.kind != "int") or (k == "b" and a.kind != "bool"):
            wanted = "an integer" if k == "i" else "a truth value"
            raise ExprError(f"{name} needs {wanted}, not the {a.kind} {show(a)}")
    numeric_kind = next((a.kind for a, k in zip(args, row.kinds, strict=False) if k in "nr"), "int")
    kind = {"n": numeric_kind, "r": "real", "i": "int", "b": "bool"}[row.result]
    simpler = _simplify(name, tuple(args), kind)
    return _intern(name, tuple(args), None, kind) if simpler is None else simpler


def toreal(a: Expr) -> Expr:
    if a.kind == "real":
        return a
    if a.kind != "int":
        raise ExprError(f"{show(a)} is not a number")
    if a.op == "const" and abs(a.attr) < 2**53:
        return const(float(a.attr))
    return _intern("toreal", (a,), None, "real")


def _simplify(name: str, args: tuple[Expr, ...], kind: str) -> Expr | None:
    consts = [a.attr if a.op == "const" else None for a in args]
    if None not in consts and all(a.kind != "real" for a in args) and kind != "real":
        divides = name in ("floordiv", "mod")
        if not divides or (consts[1] is not None and consts[1] > 0):
            out = _exact(name, consts)
            if out is not None:
                return const(out)
    a = args[0]
    b = args[1] if len(args) > 1 else args[0]
    if kind == "int":
        if (name in ("add", "sub") and consts[1] == 0) or (
            name in ("mul", "floordiv") and consts[1] == 1
        ):
            return a
        if (name == "add" and consts[0] == 0) or (name == "mul" and consts[0] == 1):
            return b
        if name == "mul" and 0 in (consts[0], consts[1]):
            return ZERO
    if name in ("min", "max") and a is b:
        return a
    if kind == "bool" and name in ("and", "or"):
        absorbing = name == "or"
        for x, y, c in ((a, b, consts[0]), (b, a, consts[1])):
            if c is not None:
                return x if c is absorbing else y
        if a is b:
            return a
    if name == "not" and a.op == "not":
        return a.args[0]
    if name == "select":
        if consts[0] is not None:
            return args[1] if consts[0] else args[2]
        if args[1] is args[2]:
            return args[1]
    return None


_EXACT: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b,
    "neg": lambda a: -a, "abs": abs, "min": min, "max": max,
    "floordiv": lambda a, b: a // b, "mod": lambda a, b: a % b,
    "lt": lambda a, b: a < b, "le": lambda a, b: a <= b, "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b, "and": lambda a, b: a and b, "or": lambda a, b: a or b,
    "not": lambda a: not a,
}  # fmt: skip


def _exact(name: str, values: list[Any]) -> int | bool | None:
    f = _EXACT.get(name)
    return None if f is None else f(*values)


def conjunction(parts: list[Expr] | tuple[Expr, ...]) -> Expr:
    out = TRUE
    for p in parts:
        out = call("and", out, p)
    return out


def conjuncts(e: Expr) -> list[Expr]:
    """The parts of a conjunction, left to right; none for `true`."""
    if e.op == "and":
        return conjuncts(e.args[0]) + conjuncts(e.args[1])
    return [] if e is TRUE else [e]


def minimum(a: ExprLike, b: ExprLike) -> Expr:
    return call("min", a, b)


def maximum(a: ExprLike, b: ExprLike) -> Expr:
    return call("max", a, b)


def cdiv(a: ExprLike, b: int) -> Expr:
    """Ceiling division by a positive constant."""
    return (lift(a) + (b - 1)) // b


def cast(e: Expr, to: DType) -> Expr:
    """A float cast: identity over the reals, marks the least precision allowed from there on."""
    if to.kind == "real":
        return _intern("cast", (toreal(e),), to, "real")
    if e.kind != to.kind:
        raise ExprError(f"a {e.kind} value becomes {to} only through floor, trunc or nearest")
    return _intern("cast", (e,), to, to.kind)


def rounded(e: Expr, to: DType) -> Expr:
    """A rounding that is part of the meaning."""
    if to.kind != "real":
        raise ExprError(f"round.{to} needs a float type")
    return _intern("round", (toreal(e),), to, "real")


# -- read and fold ---------------------------------------------------------------------------------


def read(tensor: str, index: tuple[Expr, ...], kind: str, fill: Expr | None = None) -> Expr:
    """Element of a tensor; with `fill`, the value of an index out of range. attr: (tensor,
    rank)."""
    for i in index:
        if i.kind != "int":
            raise ExprError(f"{show(i)} is not an integer index of {tensor}")
    if fill is not None and fill.kind != kind:
        fill = toreal(fill) if kind == "real" else fill
        if fill.kind != kind:
            raise ExprError(f"the fill of {tensor} is {fill.kind}, its elements are {kind}")
    return _intern("read", (*index, *([] if fill is None else [fill])), (tensor, len(index)), kind)


def read_parts(e: Expr) -> tuple[str, tuple[Expr, ...], Expr | None]:
    """(tensor, index, fill) of a read."""
    name, rank = e.attr
    return name, e.args[:rank], e.args[rank] if len(e.args) > rank else None


@dataclass(frozen=True, slots=True)
class FoldAttr:
    """What a fold binds: `kind` is a plain monoid, argmax, argmin, or None for a derived fold.

    `binders` are index variables (unique in the operator), `states` the names of the state entries,
    `acc` the least accumulator precision asked for, `joins` the monoids of the entries by which any
    number of partial states are joined at once; empty where a derived fold has no such form.
    """

    kind: str | None
    binders: tuple[str, ...]
    states: tuple[str, ...]
    acc: DType | None = None
    joins: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Fold:
    """A view of a `fold` node: state runs from `init` through `step` over the guarded index range;
    `merge` combines two partial states (the second one's entries are named `name~`), `finish`
    reads out.

    For a plain reduction `term` is the element that is combined.
    """

    node: Expr

    @property
    def attr(self) -> FoldAttr:
        attr: FoldAttr = self.node.attr
        return attr

    @property
    def kind(self) -> str | None:
        return self.attr.kind

    @property
    def binders(self) -> tuple[str, ...]:
        return self.attr.binders

    @property
    def ranges(self) -> tuple[tuple[Expr, Expr], ...]:
        n = len(self.binders)
        return tuple((self.node.args[2 * i], self.node.args[2 * i + 1]) for i in range(n))

    @property
    def guard(self) -> Expr:
        return self.node.args[2 * len(self.binders)]

    def _tail(self) -> tuple[Expr, ...]:
        return self.node.args[2 * len(self.binders) + 1 :]

    @property
    def term(self) -> Expr:
        if self.kind is None:
            raise ExprError("a derived fold has no single term")
        return self._tail()[0]

    def _states(self, suffix: str = "") -> list[Expr]:
        if self.kind is None:
            kinds = [e.kind for e in self._tail()[: len(self.attr.states)]]
        else:
            kinds = [self.term.kind, "int"]
        return [leaf("state", s + suffix, k) for s, k in zip(self.attr.states, kinds, strict=False)]

    @property
    def init(self) -> tuple[Expr, ...]:
        n = len(self.attr.states)
        if self.kind is None:
            return self._tail()[:n]
        if self.kind in ARG_FOLDS:
            return neutral(ARG_FOLDS[self.kind], self.term.kind), const(-1)
        return (neutral(self.kind, self.term.kind),)

    @property
    def step(self) -> tuple[Expr, ...]:
        n, s = len(self.attr.states), self._states()
        if self.kind is None:
            return self._tail()[n : 2 * n]
        if self.kind in ARG_FOLDS:
            return _arg_step(self.kind, s[0], s[1], self.term, var(self.binders[0]))
        return (call(MONOIDS[self.kind].row, s[0], self.term),)

    @property
    def merge(self) -> tuple[Expr, ...]:
        n, s, o = len(self.attr.states), self._states(), self._states("~")
        if self.kind is None:
            return self._tail()[2 * n : 3 * n]
        if self.kind in ARG_FOLDS:
            return _arg_step(self.kind, s[0], s[1], o[0], o[1])
        return (call(MONOIDS[self.kind].row, s[0], o[0]),)

    @property
    def shift(self) -> tuple[Expr, ...]:
        """What an entry of one partial state brings to the joined one: `joins` combine these. The
        joined state's entries are named `name!`."""
        n = len(self.attr.states)
        return self._tail()[3 * n : 4 * n] if self.attr.joins else ()

    @property
    def state_key(self) -> tuple[object, ...]:
        """Equal for folds that carry the same state; they differ in what they read out."""
        return (self.attr, self.node.args[:-1]) if self.kind is None else (self.node,)

    @property
    def finish(self) -> Expr:
        if self.kind is None:
            return self._tail()[-1]
        return self._states()[-1 if self.kind in ARG_FOLDS else 0]


def _arg_step(kind: str, best: Expr, at: Expr, new: Expr, where: Expr) -> tuple[Expr, Expr]:
    """First element, strictly better ones and the first NaN replace what was found before."""
    better = new > best if kind == "argmax" else new < best
    if new.kind == "real":
        better = better | (call("isnan", new) & ~call("isnan", best))
    take = better | call("lt", at, 0)
    return call("select", take, new, best), call("select", take, where, at)


def neutral(kind: str, of: str) -> Expr:
    """Neutral element of a monoid over reals, integers (extremes of i64) or truth values."""
    value = MONOIDS[kind].neutral
    if of == "int" and isinstance(value, float):
        return const(-(2**63) if value < 0 else 2**63 - 1)
    if of == "real":
        return const(float(value))  # type: ignore[arg-type]
    return const(value)  # type: ignore[arg-type]


def reduction(
    kind: str,
    binders: tuple[str, ...],
    ranges: tuple[tuple[Expr, Expr], ...],
    term: Expr,
    guard: Expr = TRUE,
    acc: DType | None = None,
) -> Expr:
    """A plain reduction or argmax/argmin (one binder) over half-open integer ranges."""
    if len(binders) != len(ranges) or (kind in ARG_FOLDS and len(binders) != 1):
        raise ExprError(f"{kind} has a wrong number of index variables")
    boolean = kind in ("any", "all")
    if kind not in MONOIDS and kind not in ARG_FOLDS:
        raise ExprError(f"unknown reduction {kind}")
    if boolean != (term.kind == "bool") or guard.kind != "bool":
        raise ExprError(f"{kind} cannot reduce a {term.kind} value")
    states = ("best", "at") if kind in ARG_FOLDS else (kind,)
    flat = tuple(e for r in ranges for e in r)
    out = "int" if kind in ARG_FOLDS else term.kind
    return _intern("fold", (*flat, guard, term), FoldAttr(kind, binders, states, acc), out)


def fold(
    binders: tuple[str, ...],
    ranges: tuple[tuple[Expr, Expr], ...],
    guard: Expr,
    states: tuple[str, ...],
    init: tuple[Expr, ...],
    step: tuple[Expr, ...],
    merge: tuple[Expr, ...],
    finish: Expr,
    acc: DType | None = None,
    joins: tuple[str, ...] = (),
    shift: tuple[Expr, ...] = (),
) -> Expr:
    """A derived fold with any number of state entries."""
    if not len(states) == len(init) == len(step) == len(merge):
        raise ExprError("init, step and merge need one expression per state entry")
    if len(joins) != len(shift) or (joins and len(joins) != len(states)):
        raise ExprError("joins and shift need one entry per state entry, or none")
    flat = tuple(e for r in ranges for e in r)
    args = (*flat, guard, *init, *step, *merge, *shift, finish)
    return _intern("fold", args, FoldAttr(None, binders, states, acc, joins), finish.kind)


# -- traversals ------------------------------------------------------------------------------------


def rebuild(e: Expr, args: tuple[Expr, ...]) -> Expr:
    """The node with other operands, checked and simplified as when it was first built."""
    if args == e.args:
        return e
    if e.op in ROWS:
        return call(e.op, *args) if e.op != "toreal" else toreal(args[0])
    if e.op == "cast":
        return cast(args[0], e.attr)
    return _intern(e.op, args, e.attr, e.kind)


def transform(
    e: Expr, rule: Callable[[Expr], Expr | None], memo: dict[Expr, Expr] | None = None
) -> Expr:
    """Bottom-up rewriting: `rule` sees each node after its operands and returns a replacement or
    None."""
    memo = {} if memo is None else memo
    if e in memo:
        return memo[e]
    out = rebuild(e, tuple(transform(a, rule, memo) for a in e.args))
    new = rule(out)
    memo[e] = out if new is None else new
    return memo[e]


def substitute(e: Expr, mapping: Mapping[Expr, Expr]) -> Expr:
    """Simultaneous replacement of leaves (binder names are unique, so nothing is captured)."""
    if not mapping:
        return e
    memo: dict[Expr, Expr] = dict(mapping)

    def go(x: Expr) -> Expr:
        if x not in memo:
            memo[x] = rebuild(x, tuple(go(a) for a in x.args))
        return memo[x]

    return go(e)


def rename(e: Expr, names: Mapping[str, str]) -> Expr:
    """The expression with index variables renamed, those that folds bind included."""
    memo: dict[Expr, Expr] = {}

    def go(x: Expr) -> Expr:
        if x not in memo:
            args = tuple(go(a) for a in x.args)
            if x.op == "var":
                memo[x] = var(names.get(x.attr, x.attr))
            elif x.op == "fold":
                a: FoldAttr = x.attr
                binders = tuple(names.get(b, b) for b in a.binders)
                memo[x] = _intern("fold", args, replace(a, binders=binders), x.kind)
            else:
                memo[x] = rebuild(x, args)
        return memo[x]

    return go(e)


def canonical_binders(e: Expr) -> Expr:
    """The expression with what folds bind named by the order in which they occur: expressions that
    differ in such names alone become one."""
    names: dict[str, str] = {}
    for x in walk(e):
        if x.op == "fold":
            for b in x.attr.binders:
                names.setdefault(b, f"?{len(names)}")
    return rename(e, names) if names else e


def walk(e: Expr) -> Iterator[Expr]:
    """Every distinct node once, operands first."""
    seen: set[Expr] = set()
    stack: list[tuple[Expr, bool]] = [(e, False)]
    while stack:
        node, done = stack.pop()
        if done:
            yield node
        elif node not in seen:
            seen.add(node)
            stack.append((node, True))
            stack += [(a, False) for a in reversed(node.args)]


def leaves(e: Expr, *ops: str) -> list[Expr]:
    """Distinct leaves of these operations in order of first appearance."""
    return [x for x in walk(e) if x.op in ops]


def free_vars(e: Expr) -> set[str]:
    """Names of index variables that no fold inside binds (a fold's own ranges are outside its
    scope)."""
    if e in _FREE:
        return set(_FREE[e])
    stack = [(e, False)]
    while stack:
        node, done = stack.pop()
        if done:
            _FREE[node] = _free(node)
        elif node not in _FREE:
            stack.append((node, True))
            stack += [(a, False) for a in node.args if a not in _FREE]
    return set(_FREE[e])


_FREE: dict[Expr, frozenset[str]] = {}  # of interned nodes, which live as long


def _free(e: Expr) -> frozenset[str]:
    if e.op == "var":
        return frozenset((e.attr,))
    out = frozenset[str]().union(*(_FREE[a] for a in e.args))
    if e.op == "fold":
        out -= set(e.attr.binders)
        for lo, hi in Fold(e).ranges:
            out |= free_vars(lo) | free_vars(hi)
        # later ranges may use earlier binders
        out -= set(e.attr.binders)
    return out


def affine(e: Expr) -> dict[Expr | None, int] | None:
    """Integer-affine form {leaf: coefficient, None: constant} over opaque leaves; None if not
    affine."""
    if e.op == "const":
        return {None: e.attr} if e.kind == "int" else None
    if e.op in LEAVES or e.op in ("read", "floordiv", "mod", "min", "max", "select", "cast"):
        return {e: 1}
    if e.op in ("add", "sub"):
        a, b = affine(e.args[0]), affine(e.args[1])
        if a is None or b is None:
            return None
        sign = 1 if e.op == "add" else -1
        out = dict(a)
        for k, c in b.items():
            out[k] = out.get(k, 0) + sign * c
        return {k: c for k, c in out.items() if c or k is None}
    if e.op == "neg":
        a = affine(e.args[0])
        return None if a is None else {k: -c for k, c in a.items()}
    if e.op == "mul":
        for x, y in (e.args, e.args[::-1]):
            if x.op == "const":
                a = affine(y)
                return None if a is None else {k: c * x.attr for k, c in a.items()}
        return {e: 1}
    return None


# -- text ------------------------------------------------------------------------------------------


def show(e: Expr, precedence: int = 0) -> str:
    """Text in the grammar of specs (plus `p0`, `stride(x, 1)` and lane names)."""
    if e.op in LEAVES:
        return _show_leaf(e, precedence)
    if e.op == "read":
        name, index, fill = read_parts(e)
        text = f"{name}[{', '.join(show(i) for i in index)}]" if index else name
        return text if fill is None else f"({text} ?? {show(fill, 8)})"
    if e.op == "fold":
        return _show_fold(e)
    if e.op == "cast":
        return f"{e.attr}({show(e.args[0])})"
    if e.op == "round":
        return f"round.{e.attr}({show(e.args[0])})"
    row = ROWS[e.op]
    if e.op == "toreal":
        return f"real({show(e.args[0])})"
    if e.op == "select":
        c, a, b = (show(x) for x in e.args)
        return f"(if {c} then {a} else {b})"
    if e.op == "neg" and e.args[0].op == "const":
        return f"neg({show(e.args[0])})"  # `-2.0` is a literal
    if e.op == "neg":
        return _paren(f"-{show(e.args[0], 7)}", 7, precedence)
    if e.op == "not":
        return _paren(f"not {show(e.args[0], 3)}", 3, precedence)
    if row.symbol is None:
        return f"{e.op}({', '.join(show(a) for a in e.args)})"
    p = row.precedence
    left = show(e.args[0], p + 1 if p == 4 else p)
    return _paren(f"{left} {row.symbol} {show(e.args[1], p + 1)}", p, precedence)


def _paren(text: str, own: int, outer: int) -> str:
    return f"({text})" if own < outer else text


def _show_leaf(e: Expr, precedence: int) -> str:
    if e.op == "const":
        if isinstance(e.attr, bool):
            return str(e.attr).lower()
        text = repr(e.attr)
        return _paren(text, 7 if text.startswith("-") else 9, precedence)
    if e.op == "pid":
        return f"p{e.attr}"
    if e.op == "stride":
        return f"stride({e.attr[0]}, {e.attr[1]})"
    if e.op in ("lane", "value"):
        return str(e.attr.name)
    return str(e.attr)


def _show_fold(e: Expr) -> str:
    f = Fold(e)
    parts = []
    for b, (lo, hi) in zip(f.binders, f.ranges, strict=True):
        parts.append(f"{b}: {show(hi)}" if lo is ZERO else f"{b}: {show(lo)}..{show(hi)}")
    guard = "" if f.guard is TRUE else f" | {show(f.guard)}"
    acc = f".{f.attr.acc}" if f.attr.acc else ""
    if f.kind is not None:
        return f"{f.kind}{acc}[{', '.join(parts)}{guard}]({show(f.term)})"
    steps = "; ".join(
        f"{s} = {show(i)} then {show(t)}"
        for s, i, t in zip(f.attr.states, f.init, f.step, strict=True)
    )
    return f"fold{acc}[{', '.join(parts)}{guard}]({steps}; {show(f.finish)})"


def evaluate(e: Expr, env: Mapping[Any, Any]) -> Any:
    """Concrete value of a closed expression; `env` maps names of sizes, params, vars and `(buffer,
    axis)` strides, or leaf nodes themselves, to numbers or numpy arrays."""
    if e.op == "const":
        return e.attr
    if e.op in LEAVES:
        return env[e] if e in env else env[e.attr]
    if e.op in ("cast", "round"):
        return evaluate(e.args[0], env)
    if e.op not in ROWS:
        raise ExprError(f"{show(e)} has no value without tensors")
    args = [evaluate(a, env) for a in e.args]
    if e.op in _EXACT and all(isinstance(a, bool | int) for a in args):
        if e.op in ("floordiv", "mod") and args[1] <= 0:
            raise ExprError(f"{show(e)}: the divisor is {args[1]}")
        return _exact(e.op, args)
    if e.op == "select" and isinstance(args[0], bool):
        return args[1] if args[0] else args[2]
    return ROWS[e.op].concrete(*args)
