"""A question to z3 over the reals: the numbers that stand for terms, and its truth values.

Functions, quotients, reads and folds are atoms: one real number each, with bounds. What is known
about them beyond bounds is for those who derive from this.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Protocol

from opwright.ir.expr import (
    LEAVES,
    Expr,
    call,
    const,
    show,
)
from opwright.ir.op import Operator
from opwright.verify.algebra import finite_number, infinite
from opwright.verify.claims import algebra_of
from opwright.verify.expansion import Bounds, Expansion, Opaque, Signs
from opwright.verify.setting import Setting

ATOMS = 90  # beyond these no new ones get facts

Ranges = Mapping[str, tuple[Expr, Expr]]


class Premises(Protocol):
    """What a question may use: an operator, a setting, bounds of inputs by name."""

    @property
    def op(self) -> Operator: ...

    @property
    def where(self) -> Setting: ...

    @property
    def known(self) -> Mapping[str, Bounds]: ...


class Terms(ABC):
    """One statement: its terms, its atoms, what is known of them."""

    def __init__(
        self, prover: Premises, ranges: Ranges, assume: Sequence[Expr], outer: Terms | None = None
    ) -> None:
        import z3

        self.z3: Any = z3
        self.prover = prover
        self.depth: int = 0 if outer is None else outer.depth + 1
        self.algebra = algebra_of(prover.op, prover.where)
        self.expand = Expansion(self.algebra)
        self.signs = Signs(self.algebra, prover.known)
        self.ranges = dict(ranges)
        for name, (lo, hi) in ranges.items():
            self.algebra.ranges[name] = (self.algebra.normal(lo), self.algebra.normal(hi))
        self.terms: dict[Expr, Any] = {}
        self.atoms: dict[Expr, None] = {}  # what has facts, in order of appearance
        self.axioms: list[Any] = []
        self.done: set[Any] = set()
        self.places: dict[Expr, None] = {}  # integers at which folds are looked at
        self.fresh = 0
        self.steps = 0
        self.cache: dict[Any, bool] = {} if outer is None else outer.cache
        self.assume = [self.expand(a) for a in assume]

    @abstractmethod
    def ask(self, goal: Expr, rounds: int) -> tuple[bool, str]:
        """Whether the goal follows, and why not."""

    def real(self, name: str) -> Any:
        self.fresh += 1
        return self.z3.Real(f"{name}!{self.fresh}")

    def term(self, e: Expr) -> Any:
        """The z3 number of an expanded real or integer expression."""
        if e not in self.terms:
            self.terms[e] = self._term(e)
        return self.terms[e]

    def _term(self, e: Expr) -> Any:
        z3, op = self.z3, e.op
        if op == "const":
            if infinite(e):
                raise Opaque("an infinite value")
            if not finite_number(e):
                raise Opaque("not a number")
            x = Fraction(e.attr)
            return z3.Q(x.numerator, x.denominator)
        if op in ("size", "var", "param"):
            v = self.real(str(e.attr))
            if op == "size":
                self.axioms.append(v >= self.algebra.least.get(e.attr, 0))
            self.bounded(e, v)
            return v
        if op in LEAVES:
            raise Opaque(show(e))
        if op == "toreal":
            return self.term(e.args[0])
        if op in ("add", "sub", "mul"):
            a, b = (self.term(x) for x in e.args)
            return a + b if op == "add" else a - b if op == "sub" else a * b
        if op == "neg":
            return -self.term(e.args[0])
        if op == "fma":
            a, b, c = (self.term(x) for x in e.args)
            return a * b + c
        if op == "div":
            return self._quotient(e)
        if op == "select":
            return z3.If(self.condition(e.args[0]), *(self.term(x) for x in e.args[1:]))
        if op == "abs":
            x = self.term(e.args[0])
            return z3.If(x >= 0, x, -x)
        if op in ("min", "max"):
            a, b = (self.term(x) for x in e.args)
            return z3.If(a >= b, a, b) if op == "max" else z3.If(a >= b, b, a)
        if op == "pow":
            return self._power(e)
        v = self.real(op)
        self.atoms[e] = None
        self.bounded(e, v)
        if op in ("floordiv", "mod"):
            self._division(e)
        return v

    def bounded(self, e: Expr, v: Any) -> None:
        b = self.signs(e)
        if b.lo is not None:
            low = self.z3.Q(b.lo.numerator, b.lo.denominator)
            self.axioms.append(v > low if b.above else v >= low)
        if b.hi is not None:
            high = self.z3.Q(b.hi.numerator, b.hi.denominator)
            self.axioms.append(v < high if b.below else v <= high)

    def _quotient(self, e: Expr) -> Any:
        a, b = e.args
        if b.op == "const" and finite_number(b) and b.attr != 0:
            x = 1 / Fraction(b.attr)
            return self.term(a) * self.z3.Q(x.numerator, x.denominator)
        inverse = call("div", const(1.0), b)
        if inverse not in self.terms:
            q, y = self.real("inv"), self.term(b)
            self.terms[inverse] = q
            self.axioms.append(self.z3.Implies(y != 0, q * y == 1))
            self.bounded(inverse, q)
            s = self.signs(b)
            if s.nonzero:
                self.axioms.append(y > 0 if s.positive else y < 0)
        q = self.terms[inverse]
        return q if a is const(1.0) else self.term(a) * q

    def _power(self, e: Expr) -> Any:
        x, n = e.args
        if n.op == "const" and float(n.attr).is_integer() and abs(n.attr) <= 6:
            out = self.z3.RealVal(1)
            for _ in range(abs(int(n.attr))):
                out = out * self.term(x)
            if n.attr >= 0:
                return out
            q = self.real("inv")
            self.axioms.append(self.z3.Implies(out != 0, q * out == 1))
            return q
        v = self.real("pow")
        self.bounded(e, v)
        return v

    def _division(self, e: Expr) -> None:
        a, b = e.args
        pair = {k: call(k, a, b) for k in ("floordiv", "mod")}
        if pair["floordiv"].op != "floordiv" or pair["mod"].op != "mod":
            return
        if not self.once("division", pair["floordiv"]):
            return
        x, y = self.term(a), self.term(b)
        for k in pair.values():
            if k not in self.terms:
                self.terms[k] = self.real(k.op)
        q, r = self.terms.get(pair["floordiv"]), self.terms.get(pair["mod"])
        if q is None or r is None:
            return
        self.axioms.append(self.z3.Implies(y >= 1, self.z3.And(q * y + r == x, r >= 0, r + 1 <= y)))

    def condition(self, e: Expr) -> Any:
        """The z3 truth value of an expanded condition."""
        z3, op = self.z3, e.op
        if op == "const":
            return z3.BoolVal(bool(e.attr))
        if op in ("and", "or"):
            both = [self.condition(a) for a in e.args]
            return z3.And(*both) if op == "and" else z3.Or(*both)
        if op == "not":
            return z3.Not(self.condition(e.args[0]))
        if op in ("lt", "le", "eq", "ne", "approx") and e.args[0].kind != "bool":
            a, b = (self.term(x) for x in e.args)
            if op == "lt":
                return a + 1 <= b if e.args[0].kind == "int" else a < b
            if op == "le":
                return a <= b
            return a != b if op == "ne" else a == b
        if op == "isnan" or op == "isinf":
            return z3.BoolVal(False)
        if e not in self.terms:
            self.fresh += 1
            self.terms[e] = z3.Bool(f"{op}!{self.fresh}")
            if op in ("read", "fold"):
                self.atoms[e] = None
        return self.terms[e]

    def once(self, *key: Any) -> bool:
        if key in self.done or len(self.done) > 4000:
            return False
        self.done.add(key)
        return True

    def fact(self, e: Expr) -> None:
        """Add a condition that is true, unless it is of a form that is not encoded."""
        try:
            self.axioms.append(self.condition(self.expand(e)))
        except Opaque:
            pass
