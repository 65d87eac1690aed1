"""One question to z3 over the reals: facts about what occurs in it, round by round, and the
answer."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

from opwright.ir.expr import (
    TRUE,
    Expr,
    Fold,
    call,
    conjunction,
    conjuncts,
    free_vars,
    read_parts,
    substitute,
    var,
    walk,
)
from opwright.ir.op import Clause
from opwright.verify.algebra import TooLarge, infinite
from opwright.verify.expansion import Opaque
from opwright.verify.question_folds import Folds
from opwright.verify.question_terms import ATOMS

RLIMIT = 2_000_000  # z3's own measure of work, for one question
TIMEOUT = 10_000  # milliseconds, where the machine is slow
RISING = {"exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "tanh", "erf", "sigmoid", "sinh",
          "atan"}  # fmt: skip
ODD = {"tanh", "erf", "sinh", "atan", "asin", "tan", "sin"}


class Question(Folds):
    """One statement: its atoms, the facts about them, the solver."""

    def ask(self, goal: Expr, rounds: int) -> tuple[bool, str]:
        z3 = self.z3
        wanted = self.expand(goal)
        if wanted is TRUE:
            return True, ""
        for name in self.ranges:
            self.places[var(name)] = None
        parts = []
        for f in self.prover.op.facts:
            try:
                parts.append(self.condition(self.expand(f)))
            except Opaque:
                continue
        for name, (lo, hi) in self.ranges.items():
            v = self.term(var(name))
            parts += [self.term(self.expand(lo)) <= v, v + 1 <= self.term(self.expand(hi))]
        parts += [self.condition(a) for a in self.assume]
        parts.append(z3.Not(self.condition(wanted)))
        reason = ""
        for k in range(rounds):
            self.facts(k)
            verdict, reason = self.solve(parts, k + 1 == rounds)
            if verdict == "unsat":
                if self.solve(parts[:-1], False)[0] == "unsat":
                    return False, "what it assumes contradicts itself"
                return True, ""
            if len(self.atoms) > ATOMS:
                break
        return False, reason

    def solve(self, parts: Sequence[Any], both: bool) -> tuple[str, str]:
        z3 = self.z3
        last = ""
        for n in range(2 if both else 1):
            s = z3.SimpleSolver() if n else z3.SolverFor("QF_NRA")
            s.set("rlimit", RLIMIT, "timeout", TIMEOUT)
            s.add(*parts, *self.axioms)
            verdict = str(s.check())
            if verdict == "unsat":
                return verdict, ""
            if verdict == "sat":
                return verdict, "the facts that are known about its terms do not imply it"
            last = f"z3: {s.reason_unknown()}, within a limit of {RLIMIT} steps"
        return "unknown", last

    # -- facts ------------------------------------------------------------------------------------

    def facts(self, round_: int) -> None:
        """Facts about the atoms so far; new ones wait for the next round."""
        present = list(self.atoms)
        for e in present:
            if e.op == "read":
                self._read(e)
            elif e.op == "fold":
                self._fold(e, round_)
            else:
                self._function(e)
        if round_ == 0:
            return
        present = list(self.atoms)
        self._pairs(present)
        folds = [
            e for e in present if e.op == "fold" and Fold(e).kind in ("sum", "prod", "max", "min")
        ]
        for a, b in combinations(folds[:14], 2):
            self._two_folds(a, b)
            self._two_folds(b, a)
        reads = [e for e in present if e.op == "read"]
        for a, b in combinations(reads[:24], 2):
            self._congruent(a, b)

    # functions of one argument

    def _function(self, e: Expr) -> None:
        if e.op not in RISING | {"rsqrt", "sin", "cos", "cosh", "asin", "acos", "floor", "ceil",
                                 "trunc", "nearest"} or not self.once("f", e):  # fmt: skip
            return
        z3, op = self.z3, e.op
        x, v = self.term(e.args[0]), self.terms[e]
        add = self.axioms.append
        self.bounded_term(e.args[0])
        if op in ("exp", "exp2"):
            add(z3.And((v <= 1) == (x <= 0), (v >= 1) == (x >= 0)))
            if op == "exp":
                add(v >= 1 + x)
                add(z3.Implies(x >= 0, v >= 1 + x + x * x / 2))
        elif op == "expm1":
            add(z3.And((v <= 0) == (x <= 0), (v >= 0) == (x >= 0), v >= x))
        elif op in ("log", "log2"):
            add(z3.Implies(x > 0, z3.And((v <= 0) == (x <= 1), (v >= 0) == (x >= 1))))
            if op == "log":
                add(z3.Implies(x > 0, z3.And(v <= x - 1, v * x >= x - 1)))
        elif op == "log1p":
            add(z3.Implies(x > -1, z3.And((v <= 0) == (x <= 0), (v >= 0) == (x >= 0), v <= x)))
        elif op == "sqrt":
            add(z3.Implies(x >= 0, z3.And(v >= 0, v * v == x)))
        elif op == "rsqrt":
            add(z3.Implies(x > 0, z3.And(v > 0, v * v * x == 1)))
        elif op in ("tanh", "erf", "atan", "sinh"):
            add(z3.And((v <= 0) == (x <= 0), (v >= 0) == (x >= 0)))
            if op in ("tanh", "atan"):
                add(z3.And(z3.Implies(x >= 0, v <= x), z3.Implies(x <= 0, v >= x)))
        elif op == "sigmoid":
            half = z3.Q(1, 2)
            add(z3.And((v <= half) == (x <= 0), (v >= half) == (x >= 0)))
        elif op == "floor":
            add(z3.And(v <= x, x < v + 1))
        elif op == "ceil":
            add(z3.And(v >= x, x > v - 1))
        elif op == "nearest":
            add(z3.And(2 * v - 2 * x <= 1, 2 * x - 2 * v <= 1))
        elif op == "trunc":
            add(z3.And(v - x < 1, x - v < 1))
            add(z3.And(z3.Implies(x >= 0, z3.And(v >= 0, v <= x)),
                       z3.Implies(x <= 0, z3.And(v <= 0, v >= x))))  # fmt: skip

    def bounded_term(self, e: Expr) -> None:
        """What the form of an argument says of its value."""
        if e not in self.atoms and e.op not in ("const", "size", "var", "param"):
            if self.once("b", e):
                self.bounded(e, self.term(e))

    def _pairs(self, present: Sequence[Expr]) -> None:
        """Functions rise; exp turns sums into products; log undoes exp."""
        z3 = self.z3
        by: dict[str, list[Expr]] = {}
        for e in present:
            by.setdefault(e.op, []).append(e)
        for op in RISING | {"rsqrt"}:
            for a, b in combinations(by.get(op, [])[:8], 2):
                if not self.once("rise", a, b):
                    continue
                x, y, u, v = (self.term(t) for t in (a.args[0], b.args[0], a, b))
                both = z3.And((u <= v) == (x <= y), (u >= v) == (x >= y))
                if op == "rsqrt":
                    both = z3.And((u <= v) == (x >= y), (u >= v) == (x <= y))
                if op in ("log", "log2", "rsqrt"):
                    both = z3.Implies(z3.And(x > 0, y > 0), both)
                elif op == "sqrt":
                    both = z3.Implies(z3.And(x >= 0, y >= 0), both)
                elif op == "log1p":
                    both = z3.Implies(z3.And(x > -1, y > -1), both)
                self.axioms.append(both)
                if op in ODD and self._sum_is(a.args[0], b.args[0], None):
                    self.axioms.append(u == -v)
                if op in ("exp", "exp2") and self._sum_is(a.args[0], b.args[0], None):
                    self.axioms.append(u * v == 1)
        exps = by.get("exp", [])[:8]
        for a, b in combinations(exps, 2):
            for c in exps:
                if c not in (a, b) and self.once("hom", a, b, c):
                    if self._sum_is(a.args[0], b.args[0], c.args[0]):
                        self.axioms.append(self.term(a) * self.term(b) == self.term(c))
        for a in by.get("log", [])[:6]:
            for b in exps:
                if self.once("inverse", a, b):
                    x, u, y, v = (self.term(t) for t in (a.args[0], a, b.args[0], b))
                    self.axioms.append(
                        z3.Implies(x > 0, z3.And((x <= v) == (u <= y), (x >= v) == (u >= y)))
                    )

    def _sum_is(self, a: Expr, b: Expr, c: Expr | None) -> bool:
        """Whether a + b = c (0 where c is None) by their normal forms."""
        try:
            total = self.algebra.add(self.algebra.poly(a), self.algebra.poly(b))
            return total == ({} if c is None else self.algebra.poly(c))
        except (TooLarge, AssertionError, KeyError):
            return False

    # reads

    def _read(self, e: Expr) -> None:
        name, index, _ = read_parts(e)
        t = self.prover.where.tensors[name]
        if not self.once("read", e):
            return
        for i in index:
            if i.op == "read" and not any(v.startswith("%") for v in free_vars(i)):
                self.places.setdefault(i, None)
        if t.recurrence is not None and t.body is not None:
            self._step(e)
            return
        if name in self.prover.where.permutations:
            end = self.prover.where.permutations[name]
            self.fact(call("le", 0, e) & call("lt", e, end))
        for arg in self.prover.where.arguments:
            if arg.name != name:
                continue
            if arg.lo is not None:
                self.fact(call("le", arg.lo, e))
            if arg.hi is not None:
                self.fact(call("lt" if e.kind == "int" else "le", e, arg.hi))
        for c in (*self.prover.where.requires, *self.prover.where.called):
            if c.expr is not None:
                self._required(c, e)

    def _required(self, c: Clause, e: Expr) -> None:
        """The instance of a precondition at an element that occurs."""
        assert c.expr is not None
        body = c.expr
        binders: dict[str, tuple[Expr, Expr]] = {}
        guards: list[Expr] = []
        while body.op == "fold" and Fold(body).kind == "all":
            f = Fold(body)
            binders |= dict(zip(f.binders, f.ranges, strict=True))
            guards += conjuncts(f.guard)
            body = f.term
        name, index, _ = read_parts(e)
        for part in conjuncts(body):
            if any(infinite(x) for x in part.args):
                continue
            for x in walk(part):
                if x.op != "read" or x.attr[0] != name:
                    continue
                mapping: dict[Expr, Expr] = {}
                for p, i in zip(read_parts(x)[1], index, strict=True):
                    if p.op == "var" and p.attr in binders:
                        mapping.setdefault(p, i)
                if set(mapping) != {var(b) for b in binders}:
                    continue
                inside = [call("le", lo, var(b)) & call("lt", var(b), hi)
                          for b, (lo, hi) in binders.items()]  # fmt: skip
                premise = substitute(conjunction([*inside, *guards]), mapping)
                if self.once("requires", premise, substitute(part, mapping)):
                    self.fact(substitute(part, mapping) | ~premise)

    def _congruent(self, a: Expr, b: Expr) -> None:
        if a.attr != b.attr or a.kind == "bool" or not self.once("same", a, b):
            return
        z3 = self.z3
        equal = [self.term(i) == self.term(j) for i, j in zip(a.args, b.args, strict=True)
                 if i is not j]  # fmt: skip
        self.axioms.append(z3.Implies(z3.And(*equal), self.term(a) == self.term(b)))
        if a.attr[0] in self.prover.where.permutations:
            self.axioms.append(z3.Implies(self.term(a) == self.term(b), z3.And(*equal)))

    def _step(self, e: Expr) -> None:
        """One step of a recurrence: its body after the first step, its start before."""
        name, index, _ = read_parts(e)
        t = self.prover.where.tensors[name]
        assert t.recurrence is not None and t.body is not None
        if self.steps >= 4 or not self.once("step", e):
            return
        self.steps += 1
        at = {var(a.name): i for a, i in zip(t.axes, index, strict=True)}
        when = next(k for k, a in enumerate(t.axes) if a.name == t.recurrence.axis)
        first = t.axes[when].lo
        body = substitute(t.body, at)
        inits = {}
        for x in walk(body):
            if x.op == "read" and x.attr[0] in t.recurrence.group:
                u = self.prover.where.tensors[x.attr[0]]
                assert u.recurrence is not None
                where = [a.name for a in u.axes].index(u.recurrence.axis)
                i = read_parts(x)[1]
                if self.algebra.poly(i[where] - index[when]):
                    names = {var(a.name): j for a, j in zip(u.axes, i, strict=True)}
                    inits[x] = substitute(u.recurrence.init, names)
        beginning = substitute(body, inits)
        # as a < b is a + 1 <= b, this leaves no gap beside a guard of the same form
        goal = call("select", call("lt", first, index[when]), body, beginning)
        if e.kind == "bool":
            return
        inside = call("le", first, index[when])
        self.fact(call("eq", e, goal) | ~inside)
