"""Expressions where a condition holds: what it decides, numbers that it leaves for variables,
extremes of few elements in one order."""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from hashlib import sha256

from opwright.ir.dtypes import F64
from opwright.ir.expr import (
    FALSE,
    TRUE,
    ZERO,
    Expr,
    Fold,
    call,
    conjuncts,
    free_vars,
    read,
    read_parts,
    rebuild,
    substitute,
    transform,
    var,
    walk,
)
from opwright.ir.expr import const as literal
from opwright.ir.op import Tensor
from opwright.ir.semantics import MONOIDS
from opwright.verify.algebra import finite_number, infinite
from opwright.verify.carried import guarded
from opwright.verify.masked import choice_as_extreme
from opwright.verify.reals import Reals

FEW = 32  # elements of an extreme that is written out
COMPARED = ("lt", "le", "eq", "ne")


def pinned(algebra: Reals, cond: Expr) -> dict[str, Expr]:
    """Variables for which a condition leaves one number: one that is said, or zeros whose sum
    is 0."""
    out: dict[str, Expr] = {}
    for c in conjuncts(algebra.normal(cond)):
        if c.op != "eq" or c.args[0] is not ZERO:
            continue
        p = algebra.poly(c.args[1])
        own = [m for m in p if m]
        if not all(len(m) == 1 and m[0][1] == 1 and m[0][0].op == "var" for m in own):
            continue
        if len(own) == 1:
            number = -p.get((), 0) / p[own[0]]
            if number.denominator == 1:
                out[own[0][0][0].attr] = literal(int(number))
        elif () not in p and len({p[m] > 0 for m in own}) == 1:
            names = [m[0][0].attr for m in own]
            if all(algebra.ranges.get(n, (None,))[0] is ZERO for n in names):
                out |= dict.fromkeys(names, ZERO)
    return out


def given(algebra: Reals, e: Expr, cond: Expr) -> Expr:
    """The expression where a condition holds: choices that it decides are made."""
    known = algebra.normal(cond)
    memo: dict[Expr, Expr] = {}

    def plain(x: Expr) -> bool:
        return not any(y.op in ("read", "fold", "state") or y.kind == "real" for y in walk(x))

    def go(x: Expr) -> Expr:
        if x not in memo:
            memo[x] = decided(x)
        return memo[x]

    def decided(x: Expr) -> Expr:
        if not x.args:
            return x
        if x.kind == "bool" and x.op in COMPARED and plain(x):
            found = algebra.normal(x)
            return found if found in (TRUE, FALSE) else x
        if x.op == "select":
            c = go(x.args[0])
            if c is TRUE or c is FALSE:
                return go(x.args[1 if c is TRUE else 2])
        if x.op == "fold":
            f, outer = Fold(x), dict(memo)
            with ExitStack() as inside:
                for name, span in zip(f.binders, f.ranges, strict=True):
                    inside.enter_context(algebra.binding(name, span))
                made = rebuild(x, tuple(go(a) for a in x.args))
            memo.clear()
            memo.update(outer)
            return made
        return rebuild(x, tuple(go(a) for a in x.args))

    with algebra.under(known):
        return go(e)


def written_out(algebra: Reals, e: Expr) -> Expr:
    """Definitions put in, and every extreme of few numbers by a name that the same ones give it."""
    memo: dict[Expr, Expr] = {}

    def go(x: Expr) -> Expr:
        if x not in memo:
            memo[x] = made(x)
        return memo[x]

    def made(x: Expr) -> Expr:
        if x.op == "read":
            name, index, fill = read_parts(x)
            t = algebra.tensors.get(name)
            if t is not None and t.body is not None and t.recurrence is None and fill is None:
                at = {var(a.name): i for a, i in zip(t.axes, index, strict=True)}
                return go(substitute(t.body, at))
        few = _few(x) if x.op == "fold" and x.kind == "real" else None
        if few is not None:
            return go(few)
        if x.op in ("max", "min") and x.kind == "real":
            sign = -1 if x.op == "max" else 1
            parts = [_few(a) if a.op == "fold" else a for a in _operands(x.op, x)]
            flat = [y for a in parts if a is not None for y in _operands(x.op, a)]
            kept = {algebra.normal(go(a)) for a in flat if infinite(a) != sign}
            if None not in parts and kept and all(algebra.finite(a) for a in kept):
                return kept.pop() if len(kept) == 1 else _extreme(algebra, x.op, sorted(
                    kept, key=algebra.key))  # fmt: skip
        return rebuild(x, tuple(go(a) for a in x.args)) if x.args else x

    return go(e)


def finite(algebra: Reals, e: Expr) -> bool:
    """Whether a value is a number wherever its parts are; extremes of something are."""
    memo: dict[Expr, bool] = {}

    def go(x: Expr) -> bool:
        if x not in memo:
            if x.op in ("max", "min") and x.kind == "real":
                sign = -1 if x.op == "max" else 1
                rest = [a for a in x.args if infinite(a) != sign]
                memo[x] = bool(rest) and all(map(go, rest))
            elif x.op == "fold" and Fold(x).kind in ("max", "min"):
                memo[x] = algebra.finite(guarded(x))
            else:
                memo[x] = not infinite(x) and all(map(go, x.args))
        return memo[x]

    return go(e)


def begins_infinite(e: Expr) -> bool:
    """Whether an extreme, through choices and extremes, begins with an infinity."""
    work, seen = [e], set()
    while work:
        x = work.pop()
        if x in seen or x.op not in ("max", "min", "select"):
            continue
        seen.add(x)
        if x.op != "select" and any(infinite(a) for a in x.args):
            return True
        work += [a for a in x.args if a.kind == "real"]
    return False


def _extreme(algebra: Reals, op: str, parts: list[Expr]) -> Expr:
    """A name for an extreme of several numbers, the same for the same ones."""
    names = sorted({n for a in parts for n in free_vars(a)})
    places = {var(n): var(f"?{k}") for k, n in enumerate(names)}
    text = "\0".join([op, *sorted(algebra.key(substitute(a, places)) for a in parts)])
    name = f"?{op}.{sha256(text.encode()).hexdigest()[:32]}"
    algebra.tensors.setdefault(name, Tensor(name, F64, ()))
    return read(name, tuple(var(n) for n in names), "real")


def needless(algebra: Reals, e: Expr) -> Expr:
    """The expression with choices that are extremes as such, and extremes without numbers that
    another element is always beyond: where a search for a maximum begins, 0 among magnitudes."""

    def rule(x: Expr) -> Expr | None:
        if x.op == "select":
            return choice_as_extreme(x)
        if x.op not in ("max", "min") or x.kind != "real":
            return None
        parts = _operands(x.op, x)
        known = [algebra.normal(p) for p in parts if p.op == "fold" and Fold(p).kind == x.op]
        folds = [Fold(p) for p in known if p.op == "fold" and Fold(p).kind == x.op]
        kept = [
            p for p in parts
            if not finite_number(p)
            or not any(algebra.extreme_beyond(f, Fraction(p.attr)) for f in folds)
        ]  # fmt: skip
        if len(kept) == len(parts):
            return None
        out = kept[0]
        for p in kept[1:]:
            out = call(x.op, out, p)
        return out

    return transform(e, rule)


def long(e: Expr) -> bool:
    """Whether an extreme of several numbers is in a value."""
    return any(
        x.op in ("max", "min") and x.kind == "real" and len(_operands(x.op, x)) > 2 for x in walk(e)
    )


def _few(x: Expr) -> Expr | None:
    """An extreme over a few indices as one of its elements."""
    f = Fold(x)
    if f.kind not in ("max", "min") or f.guard is not TRUE:
        return None
    elements = [f.term]
    for name, (lo, hi) in zip(f.binders, f.ranges, strict=True):
        if lo.op != "const" or hi.op != "const":
            return None
        numbers = range(int(lo.attr), int(hi.attr))
        if not 0 < len(numbers) * len(elements) <= FEW:
            return None
        elements = [substitute(t, {var(name): literal(n)}) for t in elements for n in numbers]
    out = elements[0]
    for t in elements[1:]:
        out = call(MONOIDS[f.kind].row, out, t)
    return out


def _operands(op: str, e: Expr) -> list[Expr]:
    return [x for a in e.args for x in _operands(op, a)] if e.op == op else [e]


__all__ = ["begins_infinite", "finite", "given", "long", "needless", "pinned", "written_out"]
