"""Forms that the encoding of a program looks for: bounds of one size among facts, clauses about
elements of inputs, quotients of one number by products."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from opwright.ir.expr import TRUE, Expr, Fold, conjuncts, walk
from opwright.ir.tile import TileProgram, expressions
from opwright.verify.context import Context
from opwright.verify.terms import Formula, Poly


@dataclass(frozen=True, slots=True)
class ElementClause:
    """`all` over binders with ranges: guard implies term."""

    name: str
    ranges: tuple[tuple[str, Expr, Expr], ...]
    guards: tuple[Expr, ...]
    term: Expr


def _factors(e: Expr) -> list[Expr]:
    return [x for a in e.args for x in _factors(a)] if e.op == "mul" else [e]


def splits_of(program: TileProgram) -> dict[Expr, tuple[Expr, Expr, Expr]]:
    """x // (a * b) as x // b // a where x // b occurs too: digits of one number share quotients.

    Holds for a, b > 0, which follows from a * b > 0 where neither is negative.
    """
    divisions: dict[Expr, list[Expr]] = {}
    for k in program.kernels:
        for e in expressions(k.body):
            for x in walk(e):
                if x.op in ("floordiv", "mod"):
                    divisions.setdefault(x.args[0], []).append(x)
    out: dict[Expr, tuple[Expr, Expr, Expr]] = {}
    for number, found in divisions.items():
        for e in found:
            whole = _factors(e.args[1])
            best: tuple[Expr, Expr] | None = None
            for other in found:
                part, rest = _factors(other.args[1]), list(whole)
                if len(part) >= len(whole) or any(f.op == "const" for f in part):
                    continue
                for f in part:
                    if f in rest:
                        rest.remove(f)
                small = len(rest) == len(whole) - len(part)
                if small and (best is None or len(part) > len(_factors(best[0]))):
                    top = rest[0]
                    for f in rest[1:]:
                        top = top * f
                    best = other.args[1], top
            if best is not None:
                out[e] = (number, *best)
    return out


def clauses_of(context: Context) -> Iterable[ElementClause]:
    """Clauses about elements of inputs: nested `all` flattened, conjunctions apart."""

    def go(
        name: str, e: Expr, ranges: tuple[tuple[str, Expr, Expr], ...], guards: tuple[Expr, ...]
    ) -> Iterable[ElementClause]:
        for part in conjuncts(e):
            if part.op == "fold" and Fold(part).kind == "all":
                f = Fold(part)
                more = tuple((b, lo, hi) for b, (lo, hi) in zip(f.binders, f.ranges, strict=True))
                guard = () if f.guard is TRUE else (f.guard,)
                yield from go(name, f.term, (*ranges, *more), (*guards, *guard))
            elif any(x.op == "read" for x in walk(part)):
                yield ElementClause(name, ranges, guards, part)

    for c in context.requires:
        if c.expr is not None:
            yield from go(c.name, c.expr, (), ())


def bounds_of(f: Formula) -> tuple[int, int | None, int | None] | None:
    """(atom, lo, hi) if a formula bounds one atom."""
    if f.op in ("ge0", "eq0"):
        p = f.args[0]
        assert isinstance(p, Poly)
        rows = [(m, c) for m, c in p.items if m]
        if len(rows) != 1 or len(rows[0][0]) != 1:
            return None
        (n,), c = rows[0]
        k = dict(p.items).get((), 0)
        if f.op == "eq0":
            return n, -k // c, -k // c
        return (n, -(k // c), None) if c > 0 else (n, None, k // -c)
    if f.op == "or":
        parts = [bounds_of(x) for x in f.args if isinstance(x, Formula)]
        if parts and all(x is not None for x in parts):
            rows3 = [x for x in parts if x is not None]
            los, his = [x[1] for x in rows3], [x[2] for x in rows3]
            if len({x[0] for x in rows3}) == 1 and None not in los and None not in his:
                return rows3[0][0], min(los), max(his)  # type: ignore[type-var]
    return None
