"""Proves inequalities of a contract with z3 over the reals, for all sizes.

A function, a quotient or a fold is one real number with facts about it: exp is positive, rises and
turns sums into products; a maximum is at least each element that occurs and equal to one of them; a
sum of terms that are not negative is at least each of them. Integers are reals here, with
a < b as a + 1 <= b, so that a proof never rests on more than is true. Only `unsat` proves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from itertools import combinations, product
from typing import Any

from opwright.ir.expr import (
    FALSE,
    LEAVES,
    TRUE,
    Expr,
    Fold,
    call,
    conjunction,
    conjuncts,
    const,
    free_vars,
    read_parts,
    reduction,
    show,
    substitute,
    toreal,
    var,
    walk,
)
from opwright.ir.op import Clause, Operator
from opwright.verify.algebra import TooLarge, finite_number, infinite
from opwright.verify.claims import Part, algebra_of
from opwright.verify.expansion import ANY, Bounds, Expansion, Opaque, Signs, factors, product_of
from opwright.verify.setting import Setting

RLIMIT = 2_000_000  # z3's own measure of work, for one question
TIMEOUT = 10_000  # milliseconds, where the machine is slow
ROUNDS = 3
ATOMS = 90
INSTANCES = 60
RISING = {"exp", "exp2", "expm1", "log", "log2", "log1p", "sqrt", "tanh", "erf", "sigmoid", "sinh",
          "atan"}  # fmt: skip
ODD = {"tanh", "erf", "sinh", "atan", "asin", "tan", "sin"}

Ranges = Mapping[str, tuple[Expr, Expr]]


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
            question = _Question(self, ranges, assume)
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


class _Question:
    """One statement: its atoms, the facts about them, the solver."""

    def __init__(
        self, prover: Prover, ranges: Ranges, assume: Sequence[Expr], outer: _Question | None = None
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

    # -- terms ------------------------------------------------------------------------------------

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

    # folds

    def _fold(self, e: Expr, round_: int) -> None:
        f = Fold(e)
        if f.kind in ("argmax", "argmin"):
            self.places.setdefault(e, None)
        if f.kind in ("max", "min") and self.once("attained", e):
            self._attained(e, f)
        if f.kind == "sum" and self.once("sum", e):
            self._sum(e, f)
        if f.kind in ("sum", "prod", "max", "min") and self.once("single", e):
            self._single(e, f)
        if f.kind == "all" and self.once("some", e):
            self._counterexample(e, f)
        if f.kind == "any" and self.once("some", e):
            self._witness(e, f)
        for at in self._candidates(f):
            if not self.once("at", e, tuple(at.values())):
                continue
            self._instance(e, f, at)

    def _candidates(self, f: Fold) -> list[dict[Expr, Expr]]:
        """Indices at which a fold's element is looked at."""
        choices = []
        for b, (lo, hi) in zip(f.binders, f.ranges, strict=True):
            found: dict[Expr, None] = {}
            for p in self.places:
                span = self._range(p)
                if span is not None and (span[0] is lo and span[1] is hi):
                    found[p] = None
            for p in self.places:
                if self._range(p) is None or len(self.places) <= 4:
                    found.setdefault(p, None)
            if not (free_vars(lo) | free_vars(hi)) & set(f.binders):
                found.setdefault(self.expand.integer(hi - 1), None)
                found.setdefault(lo, None)
            choices.append([(var(b), x) for x in list(found)[:6]])
        return [dict(pick) for pick in list(product(*choices))[:16]]

    def _range(self, p: Expr) -> tuple[Expr, Expr] | None:
        """The range of an index, or of the place of an extreme."""
        if p.op == "var":
            return self.algebra.ranges.get(p.attr)
        if p.op == "fold" and Fold(p).kind in ("argmax", "argmin"):
            return Fold(p).ranges[0]
        return None

    def _allowed(self, f: Fold, at: Mapping[Expr, Expr]) -> Expr:
        inside = [call("le", lo, var(b)) & call("lt", var(b), hi)
                  for b, (lo, hi) in zip(f.binders, f.ranges, strict=True)]  # fmt: skip
        return substitute(conjunction([*inside, f.guard]), at)

    def _instance(self, e: Expr, f: Fold, at: Mapping[Expr, Expr]) -> None:
        allowed, t = self._allowed(f, at), substitute(f.term, at)
        if len(self.atoms) > ATOMS:
            return
        if f.kind == "max":
            self.fact(call("le", t, e) | ~allowed)
        elif f.kind == "min":
            self.fact(call("le", e, t) | ~allowed)
        elif f.kind in ("argmax", "argmin"):
            best = substitute(f.term, {var(f.binders[0]): e})
            pair = (t, best) if f.kind == "argmax" else (best, t)
            self.fact(call("le", *pair) | ~allowed)
            inside = self._allowed(f, {var(f.binders[0]): e})
            self.fact(inside | ~allowed)
            # the first of those that are as good
            self.fact(call("lt", *pair) | call("le", e, next(iter(at.values()))) | ~allowed)
        elif f.kind == "sum" and e.kind in ("real", "int"):
            s = self.signs(f.term)
            if s.nonnegative or (self.depth == 0 and self._pointwise(f, f.term, "le")):
                self.fact(call("le", t, e) | ~allowed)
            elif s.nonpositive:
                self.fact(call("le", e, t) | ~allowed)
        elif f.kind == "all":
            self.axioms.append(
                self.z3.Implies(
                    self.z3.And(self.terms[e], self.condition(self.expand(allowed))),
                    self.condition(self.expand(t)),
                )
            )
        elif f.kind == "any":
            self.axioms.append(
                self.z3.Implies(
                    self.z3.And(self.condition(self.expand(t)),
                                self.condition(self.expand(allowed))),
                    self.terms[e],
                )
            )  # fmt: skip

    def _skolem(self, f: Fold) -> dict[Expr, Expr]:
        at: dict[Expr, Expr] = {}
        for b, (lo, hi) in zip(f.binders, f.ranges, strict=True):
            self.fresh += 1
            fresh = var(f"!{self.depth}.{self.fresh}")
            self.algebra.ranges[fresh.attr] = (substitute(lo, at), substitute(hi, at))
            at[var(b)] = fresh
        return at

    def _attained(self, e: Expr, f: Fold) -> None:
        """An extreme is one of the elements, where there are any."""
        at = self._skolem(f)
        for fresh in at.values():
            self.places.setdefault(fresh, None)
        some: Expr = FALSE
        for pick in self._candidates(f):
            if not set(pick.values()) & set(at.values()):
                some = some | self._allowed(f, pick)
        holds = self._allowed(f, at) & call("eq", e, substitute(f.term, at))
        self.fact(holds | ~some)

    def _counterexample(self, e: Expr, f: Fold) -> None:
        at = self._skolem(f)
        wrong = self._allowed(f, at) & ~substitute(f.term, at)
        self.axioms.append(self.z3.Or(self.terms[e], self.condition(self.expand(wrong))))

    def _witness(self, e: Expr, f: Fold) -> None:
        at = self._skolem(f)
        right = self._allowed(f, at) & substitute(f.term, at)
        self.axioms.append(self.z3.Implies(self.terms[e], self.condition(self.expand(right))))

    def count(self, f: Fold) -> Expr:
        """How many elements a fold has, where its ranges are not empty, as a real."""
        out: Expr = const(1)
        for lo, hi in f.ranges:
            out = call("mul", out, hi - lo)
        return toreal(out)

    def _sum(self, e: Expr, f: Fold) -> None:
        if any((free_vars(lo) | free_vars(hi)) & set(f.binders) for lo, hi in f.ranges):
            return
        z3 = self.z3
        nonempty = conjunction([call("le", lo, hi) for lo, hi in f.ranges])
        premise = self.condition(self.expand(nonempty))
        n, v = self.term(self.expand(self.count(f))), self.terms[e]
        b = self.signs(f.term)
        if b.lo is not None:
            self.axioms.append(z3.Implies(premise, v >= n * z3.Q(b.lo.numerator, b.lo.denominator)))
        if b.hi is not None:
            self.axioms.append(z3.Implies(premise, v <= n * z3.Q(b.hi.numerator, b.hi.denominator)))
        if f.term.op in ("add", "sub") and e.kind == "real" and self.once("linear", e):
            parts = [self.expand(_sum_of(f, x)) for x in f.term.args]
            self.fact(call("eq", e, call(f.term.op, *parts)))
        if not free_vars(f.term) & set(f.binders):
            self.axioms.append(z3.Implies(premise, v == n * self.term(f.term)))
        if b.lo is None and b.hi is None:
            if self.depth == 0 and self._pointwise(f, f.term, "le"):
                self.axioms.append(v >= 0)

    def _single(self, e: Expr, f: Fold) -> None:
        """A fold over one element is that element, one over none is the neutral element."""
        if len(f.binders) != 1 or f.guard is not TRUE:
            return
        lo, hi = f.ranges[0]
        count = self.algebra.poly(hi - lo) if _plain(hi - lo) else None
        if count is not None and set(count) - {()} and not free_vars(hi - lo):
            return  # a size: one element is a case of no interest
        element = substitute(f.term, {var(f.binders[0]): lo})
        if count is None or count.get((), 1) == 1:
            self.fact(call("eq", e, element) | ~call("eq", hi, lo + 1))
        if f.kind in ("sum", "prod"):
            nothing = (0.0 if f.kind == "sum" else 1.0) if e.kind == "real" else f.kind != "sum"
            empty = const(nothing if e.kind == "real" else int(nothing))
            self.fact(call("eq", e, empty) | ~call("le", hi, lo))

    def _pointwise(self, f: Fold, term: Expr, op: str) -> bool:
        """Whether 0 <= term for every element of a fold, by a question of its own."""
        key = ("pointwise", f.node, term)
        if key in self.cache:
            return self.cache[key]
        self.cache[key] = False
        if self.depth >= 1 or len(self.cache) > 12 or term.kind != "real":
            return False
        ranges = dict(self.ranges)
        for p in self.places:
            if p.op == "var" and p.attr.startswith("!"):
                ranges[p.attr] = self.algebra.ranges[p.attr]
        for b, span in zip(f.binders, f.ranges, strict=True):
            ranges[b] = span
        if any(
            v not in ranges for lo, hi in ranges.values() for v in free_vars(lo) | free_vars(hi)
        ):
            return False
        inner = _Question(self.prover, ranges, [], self)
        try:
            self.cache[key], _ = inner.ask(call("le", const(0.0), term) | ~f.guard, 2)
        except (Opaque, TooLarge):
            pass
        return self.cache[key]

    def _two_folds(self, a: Expr, b: Expr) -> None:
        """Sums and extremes over one range, or over ranges that differ at the end."""
        f, g = Fold(a), Fold(b)
        if not self.once("two", a, b):
            return
        if f.kind == "sum" and g.kind == "sum" and a.kind == b.kind == "real":
            if f.ranges == g.ranges and f.binders == g.binders:
                self._compared(a, f, b, g)
                self._weighted(a, f, b, g)
            self._prefix(a, f, b, g)
        elif f.kind == "prod" and g.kind == "prod":
            self._prefix(a, f, b, g)
        elif f.kind in ("max", "min") and f.kind == g.kind:
            self._prefix(a, f, b, g)
            if f.ranges == g.ranges and f.binders == g.binders and f.guard is g.guard:
                if self._pointwise(g, call("sub", g.term, f.term), "le"):
                    self.fact(call("le", a, b))
        elif f.kind == "sum" and g.kind in ("max", "min") and a.kind == "real":
            self._average(a, f, b, g)

    def _compared(self, a: Expr, f: Fold, b: Expr, g: Fold) -> None:
        """a <= b where every element of a is at most that of b."""
        difference = call("sub", g.term, f.term)
        s = self.signs(difference)
        if s.nonnegative or self._pointwise(g, difference, "le"):
            self.fact(call("le", a, b))
        total = call("add", f.term, g.term)
        if self.once("total", *sorted((a, b), key=self.algebra.key)):
            if self.signs(total).nonnegative or self._pointwise(g, total, "le"):
                self.fact(call("le", const(0.0), call("add", a, b)))

    def _ratio(self, f: Fold, g: Fold) -> Expr | None:
        """What f's element is as a multiple of g's, None where it is not one."""
        top, bottom = factors(f.term)
        over, under = factors(g.term)
        for x in over:
            if x not in top:
                return None
            top.remove(x)
        for x in under:
            if x not in bottom:
                return None
            bottom.remove(x)
        return product_of(top, bottom) if top or bottom else None

    def _weighted(self, a: Expr, f: Fold, b: Expr, g: Fold) -> None:
        """sum w r against sum w for w >= 0: between the bounds of r."""
        if not self.signs(g.term).nonnegative:
            return
        r = self._ratio(f, g)
        if r is None or not free_vars(r) & set(f.binders):
            return
        s = self.signs(r)
        for bound, upper in ((s.lo, False), (s.hi, True)):
            if bound is not None:
                edge = call("mul", const(float(bound)), b) if bound == Fraction(float(bound)) \
                    else None  # fmt: skip
                if edge is not None:
                    self.fact(call("le", a, edge) if upper else call("le", edge, a))
        for e in list(self.atoms):
            if e.op != "fold" or Fold(e).kind not in ("max", "min", "sum"):
                continue
            h = Fold(e)
            if h.kind == "sum" and not self.signs(h.term).nonnegative:
                continue
            if h.guard is not TRUE or len(h.binders) != len(f.binders) or h.ranges != f.ranges:
                continue
            at = {var(x): var(y) for x, y in zip(h.binders, f.binders, strict=True)}
            if self.expand(substitute(h.term, at)) is r:
                edge = call("mul", e, b)
                self.fact(call("le", edge, a) if h.kind == "min" else call("le", a, edge))

    def _average(self, a: Expr, f: Fold, b: Expr, g: Fold) -> None:
        """A sum against the count times an extreme of the same elements."""
        if g.guard is not TRUE or f.ranges != g.ranges or len(f.binders) != len(g.binders):
            return
        at = {var(x): var(y) for x, y in zip(g.binders, f.binders, strict=True)}
        if substitute(g.term, at) is not f.term:
            return
        nonempty = conjunction([call("lt", lo, hi) for lo, hi in f.ranges])
        edge = call("mul", self.count(f), b)
        claim = call("le", a, edge) if g.kind == "max" else call("le", edge, a)
        self.fact(claim | ~nonempty)

    def _prefix(self, a: Expr, f: Fold, b: Expr, g: Fold) -> None:
        """Folds of the same elements over ranges of which one holds the other."""
        if len(f.binders) != 1 or len(g.binders) != 1 or f.ranges == g.ranges:
            return
        own = {var(g.binders[0]): var(f.binders[0])}
        if substitute(g.term, own) is not f.term or substitute(g.guard, own) is not f.guard:
            return
        (lo, hi), (low, high) = f.ranges[0], g.ranges[0]
        legal = call("le", lo, hi) & call("le", low, high)
        inside = call("le", low, lo) & call("le", hi, high) & legal
        if f.kind == "max":
            self.fact(call("le", a, b) | ~(inside & call("lt", lo, hi)))
            return
        if f.kind == "min":
            self.fact(call("le", b, a) | ~(inside & call("lt", lo, hi)))
            return
        join = "mul" if f.kind == "prod" else "add"
        if f.kind == "sum" and self.signs(f.term).nonnegative:
            self.fact(call("le", a, b) | ~inside)
        last = substitute(f.term, {var(f.binders[0]): hi})
        longer = call("eq", low, lo) & call("eq", high, hi + 1) & call("le", lo, hi)
        self.fact(call("eq", b, call(join, a, last)) | ~longer)
        first = substitute(f.term, {var(f.binders[0]): low})
        earlier = call("eq", high, hi) & call("eq", lo, low + 1) & call("le", lo, hi)
        self.fact(call("eq", b, call(join, a, first)) | ~earlier)
        self.fact(call("eq", b, a) | ~(call("eq", low, lo) & call("eq", high, hi)))


def _plain(e: Expr) -> bool:
    return not any(x.op in ("read", "fold") for x in walk(e))


def _sum_of(f: Fold, term: Expr) -> Expr:
    return reduction("sum", f.binders, f.ranges, term, f.guard)


__all__ = ["Prover", "input_bounds", "widened"]
