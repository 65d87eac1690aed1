"""Proves inequalities of a contract with z3 over the reals, for all sizes.

A function, a quotient or a fold is one real number with facts about it: exp is positive, rises and
turns sums into products; a maximum is at least each element that occurs and equal to one of them; a
sum of terms that are not negative is at least each of them. Integers are reals here, with
a < b as a + 1 <= b, so that a proof never rests on more than is true. Only `unsat` proves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction

from opwright.ir.expr import (
    TRUE,
    Expr,
    Fold,
    call,
    conjuncts,
    const,
    read_parts,
    substitute,
    var,
    walk,
)
from opwright.ir.op import Operator
from opwright.verify.algebra import TooLarge, finite_number
from opwright.verify.claims import Part, algebra_of
from opwright.verify.expansion import ANY, Bounds, Expansion, Opaque, Signs
from opwright.verify.question import Question
from opwright.verify.question_terms import Ranges
from opwright.verify.setting import Setting

ROUNDS = 3


INVARIANTS = (
    Bounds(Fraction(0), Fraction(1)),
    Bounds(Fraction(0)),
    Bounds(Fraction(-1), Fraction(1)),
    Bounds(None, Fraction(0)),
)


def _inside(a: Bounds, b: Bounds) -> bool:
    low = b.lo is None or (a.lo is not None and a.lo >= b.lo)
    return low and (b.hi is None or (a.hi is not None and a.hi <= b.hi))


class Prover:
    """Proves statements about one setting; every question has a solver of its own."""

    def __init__(self, op: Operator, where: Setting) -> None:
        self.op, self.where = op, where
        self.known = input_bounds(op, where)
        self._invariants()

    def _invariants(self) -> None:
        """Bounds that a recurrence keeps: its start has them, and a step from them does."""
        groups = {t.recurrence.group: t.recurrence for t in self.where.tensors.values()
                  if t.recurrence is not None}  # fmt: skip
        for group in groups:
            members = [self.where.tensors[n] for n in group if n in self.where.tensors]
            for guess in INVARIANTS:
                algebra = algebra_of(self.op, self.where)
                for t in members:
                    algebra.ranges |= {a.name: (a.lo, a.hi) for a in t.axes}
                expand = Expansion(algebra)
                signs = Signs(algebra, {**self.known, **dict.fromkeys(group, guess)})
                found: dict[str, Bounds] = {}
                try:
                    for t in members:
                        assert t.body is not None and t.recurrence is not None
                        first, after = (signs(expand(x)) for x in (t.recurrence.init, t.body))
                        if _inside(first, guess) and _inside(after, guess):
                            found[t.name] = after
                except (Opaque, TooLarge, RecursionError, AssertionError, KeyError):
                    break
                if len(found) == len(members):
                    self.known |= found
                    break

    def prove(
        self, goal: Expr, ranges: Ranges, assume: Sequence[Expr] = (), rounds: int = ROUNDS
    ) -> tuple[bool, str]:
        """Whether the goal follows for all indices in range, and why not."""
        try:
            question = Question(self, ranges, assume)
            return question.ask(goal, rounds)
        except Opaque as e:
            return False, str(e)
        except (TooLarge, RecursionError):
            return False, "the claim is too large"
        except (AssertionError, KeyError, ValueError, ArithmeticError) as e:
            return False, f"a form that is not encoded: {e}"
        except Exception as e:
            if type(e).__name__ != "Z3Exception":
                raise
            return False, f"z3: {e}"

    def claim(self, part: Part, within: Mapping[str, float] | None) -> tuple[bool, str]:
        """A part of a claim, exactly or within its tolerance."""
        found, why = self.prove(part.goal, part.ranges, part.assume)
        if found:
            return found, why
        axis = self._recurs(part)
        if axis is not None:
            v, lo = var(axis), part.ranges[axis][0]
            before = substitute(part.goal, {v: v - 1}) | ~call("lt", lo, v)
            if self.prove(part.goal, part.ranges, (*part.assume, before))[0]:
                return True, ""
        if not within:
            return found, why
        return self.prove(widened(part.goal, within), part.ranges, part.assume)

    def _recurs(self, part: Part) -> str | None:
        """The index of a claim over which a recurrence in it runs, from its first step on."""
        if part.assume:
            return None
        pending, seen = [part.goal], set()
        while pending:
            for x in walk(pending.pop()):
                if x.op != "read" or x in seen:
                    continue
                seen.add(x)
                name, index, _ = read_parts(x)
                t = self.where.tensors.get(name)
                if t is None or t.body is None:
                    continue
                if t.recurrence is None:
                    at = {var(a.name): i for a, i in zip(t.axes, index, strict=True)}
                    pending.append(substitute(t.body, at))
                    continue
                when = [a.name for a in t.axes].index(t.recurrence.axis)
                i = index[when]
                if i.op == "var" and part.ranges.get(i.attr, (None,))[0] is t.axes[when].lo:
                    return str(i.attr)
        return None


def widened(e: Expr, within: Mapping[str, float]) -> Expr:
    """A comparison with what `within` allows; other forms as they are."""
    if e.op in ("and", "or"):
        return call(e.op, *(widened(a, within) for a in e.args))
    if e.op not in ("lt", "le", "eq", "approx") or e.args[0].kind != "real":
        return e
    a, b = e.args
    allowed = const(float(within.get("abs", 0.0)))
    if within.get("rel"):
        allowed = call("add", allowed, call("mul", const(float(within["rel"])), call("abs", b)))
    if e.op in ("lt", "le"):
        return call(e.op, a, call("add", b, allowed))
    return call("le", a, call("add", b, allowed)) & call("le", b, call("add", a, allowed))


def input_bounds(op: Operator, where: Setting) -> dict[str, Bounds]:
    """Constant bounds of params and of all elements of an input."""
    out: dict[str, Bounds] = {}

    def note(name: str, op: str, value: Expr, upper: bool) -> None:
        if value.op != "const" or value.kind == "bool" or not finite_number(value):
            return
        old = out.get(name, ANY)
        x = Fraction(value.attr)
        if upper and (old.hi is None or x < old.hi or (x == old.hi and op == "lt")):
            out[name] = old._replace(hi=x, below=op == "lt")
        if not upper and (old.lo is None or x > old.lo or (x == old.lo and op == "lt")):
            out[name] = old._replace(lo=x, above=op == "lt")

    for f in op.facts:
        for part in conjuncts(f):
            if part.op in ("lt", "le"):
                a, b = part.args
                if a.op == "param":
                    note(a.attr, part.op, b, True)
                elif b.op == "param":
                    note(b.attr, part.op, a, False)
    for c in (*where.requires, *where.called):
        for part_ in [] if c.expr is None else _everywhere(c.expr, where):
            a, b = part_.args
            if a.op == "read":
                note(a.attr[0], part_.op, b, True)
            elif b.op == "read":
                note(b.attr[0], part_.op, a, False)
    for arg in where.arguments:
        if arg.kind == "sample":
            for edge, upper in ((arg.lo, False), (arg.hi, True)):
                if edge is not None:
                    note(arg.name, "le", edge, upper)
        else:
            out[arg.name] = Bounds(Fraction(0), None)
    return {k: v for k, v in out.items() if where.tensors.get(k) is None
            or where.tensors[k].body is None}  # fmt: skip


def _everywhere(e: Expr, where: Setting) -> list[Expr]:
    """Comparisons of one input's elements that a precondition states for all of them."""
    binders: dict[str, tuple[Expr, Expr]] = {}
    while e.op == "fold" and Fold(e).kind == "all" and Fold(e).guard is TRUE:
        binders |= dict(zip(Fold(e).binders, Fold(e).ranges, strict=True))
        e = Fold(e).term
    out = []
    for part in conjuncts(e):
        if part.op not in ("lt", "le"):
            continue
        for x in part.args:
            if x.op == "read" and x.attr[0] in where.tensors:
                name, index, _ = read_parts(x)
                axes = where.tensors[name].axes
                if len(set(index)) == len(index) and all(
                    i.op == "var" and binders.get(i.attr) == (a.lo, a.hi)
                    for i, a in zip(index, axes, strict=True)
                ):
                    out.append(part)
    return out


__all__ = ["Prover", "input_bounds", "widened"]
