"""Questions to z3: fresh solver, fixed seed, bounded resources and time; only `unsat` proves.

Products of atoms are unknowns with lemmas first (every question is then linear); if that does not
settle it, once more with the products as they are. z3 is imported at the first question.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from opwright.verify import proofs
from opwright.verify.terms import Atom, Formula, Monomial, Poly, Terms

NEAR = 64  # answered questions of which one may be a part of the one that is asked
LEMMA_PAIRS = 60  # of products that share a factor, per question
MORE_PAIRS = 240  # of them once that many did not settle it
EXACT_QUESTION = 10.0  # seconds for a question with products as they are, on a busy machine
EXACT_RESOURCES = 4_000_000  # its share of the resource limit, which does not depend on load
EXACT_SECONDS = 6.0  # of processor time for all of them


# formulas, with clauses about inputs or without, rough or not, elements of inputs besides
_Question = tuple[frozenset[Formula], bool, bool, frozenset[int]]


@dataclass(frozen=True, slots=True)
class Answer:
    """unsat, sat or unknown; a model maps atom numbers to integers; `reason` says why it is
    unknown."""

    result: str
    model: dict[int, int] = field(default_factory=dict)
    reason: str = ""
    exact: bool = True  # the model respects products


class Asker:
    """Answers satisfiability questions about the formulas of one `Terms`."""

    def __init__(
        self, terms: Terms, timeout: float, rlimit: int, deadline: float | None = None
    ) -> None:
        import z3

        self.z3: Any = z3
        self.terms, self.timeout, self.rlimit, self.deadline = terms, timeout, rlimit, deadline
        self.exact_left = EXACT_SECONDS
        self._plain: list[Formula] = []
        self._loose: list[tuple[Formula, frozenset[int]]] = []
        self._nonlinear: list[tuple[Formula, list[Monomial]]] = []
        self.asked = 0
        self._atoms: dict[int, Any] = {}
        self._monomials: dict[Monomial, Any] = {}
        self._z3: dict[Poly | Formula, Any] = {}
        self._answers: dict[_Question, Answer] = {}
        self._unsat: list[_Question] = []
        self._steps: dict[_Question, list[proofs.Step]] = {}
        self._ranges: dict[tuple[int, int | None, int | None], list[Any]] = {}
        self._congruent: dict[tuple[int, int], Any] = {}
        self._lemmas: dict[tuple[Monomial, ...], list[Any]] = {}

    def assume(self, facts: Iterable[Formula], strides: frozenset[int]) -> None:
        """Facts of every question; those about strides and products where they are spoken of."""
        for f in facts:
            if f.atoms & strides:
                self._loose.append((f, f.atoms & strides))
            elif self.products([f]):
                self._nonlinear.append((f, self.products([f])))
            else:
                self._plain.append(f)

    def ask(
        self,
        formulas: Iterable[Formula],
        clauses: bool = True,
        rough: bool = False,
        besides: frozenset[int] = frozenset(),
    ) -> Answer:
        """Whether facts and formulas can hold together.

        Without `clauses`, elements of inputs are free; a `rough` answer may be sat where products,
        as they are, would not allow it. What is required of the elements `besides` is part of it.
        """
        wanted = frozenset(itertools.chain(self._plain, formulas))
        if any(f.op == "false" for f in wanted):
            proofs.argue("one of the formulas is false as it is written")
            return Answer("unsat")
        key = (wanted, clauses, rough, besides)
        found = self._answers.get(key)
        if found is None and (weaker := self._contradictory(wanted, clauses, besides)) is not None:
            key = weaker  # what cannot hold together cannot hold with more
            found = self._answers[key]
        if found is None:
            with proofs.steps() as made:
                found = self._answers[key] = self._ask(wanted, clauses, rough, besides)
            self._steps[key] = made
            if found.result == "unsat":
                self._unsat.append(key)
        else:
            proofs.again(self._steps[key])
        return found

    def _contradictory(
        self, wanted: frozenset[Formula], clauses: bool, besides: frozenset[int]
    ) -> _Question | None:
        """A question about some of these formulas that was answered: they cannot hold together."""
        for key in self._unsat[-NEAR:]:
            if key[0] <= wanted and key[3] <= besides and clauses >= key[1]:
                return key
        return None

    def elements(self, f: Formula) -> frozenset[int]:
        """Elements of inputs that a formula speaks of, also through what defines its atoms."""
        _, atoms = self.closure([f])
        return frozenset(a.number for a in atoms if a.function.startswith("in:"))

    def data(self, formulas: Iterable[Formula]) -> list[str]:
        """Names of inputs and values that formulas depend on, besides sizes and indices."""
        _, atoms = self.closure(formulas)
        named = (a.function for a in atoms if not a.function.startswith(("row:", "number:")))
        return sorted({n.rpartition(":")[2].rpartition(".")[2] for n in named if n})

    def _ask(
        self, wanted: frozenset[Formula], clauses: bool, rough: bool, besides: frozenset[int]
    ) -> Answer:
        if clauses and besides:
            wanted = wanted.union(*(self.terms.atoms[n].axioms for n in besides))
        everything, atoms = self.closure(wanted, clauses)
        products = self.products(everything)
        spoken = {a.number for a in atoms}
        more = [f for f, strides in self._loose if strides <= spoken]
        more += [
            f for f, own in self._nonlinear if any(_common(m, n) for m in products for n in own)
        ]
        if more:
            everything, atoms = self.closure({*wanted, *more}, clauses)
            products = self.products(everything)
        if products:  # bounds of products that facts state
            spoken = {a.number for a in atoms}
            known = (m for m in self.terms.limits if spoken.issuperset(m))
            products = sorted({*products, *known})
        answer = self._solve(everything, atoms, products, False)
        if rough:
            return answer
        if products and answer.result != "unsat":
            multiplied = self.multiplied(everything, products)
            if multiplied:
                linear = [*everything, *multiplied]
                divided = self._solve(linear, atoms, self.products(linear), False)
                if divided.result == "unsat":
                    return divided
        if products and answer.result != "unsat":
            more_products = self.at_bounds(everything, products)
            if more_products != products:
                bounded = self._solve(everything, atoms, more_products, False)
                if bounded.result == "unsat":
                    return bounded
        if products and answer.result != "unsat" and self.pairs(products)[LEMMA_PAIRS:]:
            wide = self._solve(everything, atoms, products, False, MORE_PAIRS)
            if wide.result == "unsat":
                return wide
        if products and answer.result != "unsat" and self.exact_left > 0:
            start = time.process_time()
            exact = self._solve(everything, atoms, products, True)
            self.exact_left -= time.process_time() - start
            if exact.result == "unknown" and answer.result == "sat":
                return Answer("unknown", answer.model, exact.reason, False)
            return exact
        if products and answer.result == "sat":
            return Answer("unknown", answer.model, "products were not looked into", False)
        return answer

    @staticmethod
    def at_bounds(formulas: Iterable[Formula], products: list[Monomial]) -> list[Monomial]:
        """The products, and those of two with a factor at what bounds it: i H beside P H where
        i < P is known."""
        above: dict[int, set[int]] = {}
        for f in formulas:
            known = f.args[0] if f.op == "ge0" else None
            if not isinstance(known, Poly):
                continue
            single = [(m[0], c) for m, c in known.items if len(m) == 1]
            low = [n for n, c in single if c == -1]
            for n, c in single:
                if c == 1:
                    for below in low:
                        above.setdefault(below, set()).add(n)
        found = set(products)
        for m in products:
            if len(m) == 2:
                for n, other in (m, m[::-1]):
                    found |= {tuple(sorted((w, other))) for w in above.get(n, ())}
        return sorted(found)

    def multiplied(self, formulas: list[Formula], products: list[Monomial]) -> list[Formula]:
        """What products are whose factor is a multiple: M N = 4 M q where N = 4 q is known."""
        t = self.terms
        multiples: dict[int, Poly] = {}
        for f in formulas:
            p = f.args[0] if f.op == "eq0" else None
            if isinstance(p, Poly) and len(p.items) == 2 and all(len(m) == 1 for m, _ in p.items):
                for (m, c), (_, d) in itertools.permutations(p.items):
                    if abs(c) == 1 and abs(d) > 1:
                        multiples[m[0]] = p
        found: dict[Formula, None] = {}
        for product in products:
            for n in product:
                if n in multiples:
                    rest = t.poly({_rest(product, (n,)): 1})
                    found[t.formula("eq0", t.mul(multiples[n], rest))] = None
        return list(found)

    def closure(
        self, wanted: Iterable[Formula], clauses: bool = True
    ) -> tuple[list[Formula], list[Atom]]:
        """The formulas with the axioms of every atom they reach, in a fixed order."""
        out = sorted(set(wanted), key=lambda f: f.number)
        atoms: dict[int, Atom] = {}
        seen = set(out)
        todo = list(out)
        while todo:
            f = todo.pop()
            numbers = sorted(f.atoms - atoms.keys())
            while numbers:
                n = numbers.pop()
                if n in atoms:
                    continue
                a = atoms[n] = self.terms.atoms[n]
                for x in a.axioms if clauses or not a.function.startswith("in:") else ():
                    if x not in seen:
                        seen.add(x)
                        out.append(x)
                        todo.append(x)
                for p in a.arguments:  # congruence speaks of them
                    numbers += sorted(p.atoms - atoms.keys())
        return out, [atoms[n] for n in sorted(atoms)]

    def products(self, formulas: Iterable[Formula]) -> list[Monomial]:
        found: dict[Monomial, None] = {}

        def walk(x: Any) -> None:
            if isinstance(x, Poly):
                for m, _ in x.items:
                    if len(m) > 1:
                        found[m] = None
            elif isinstance(x, Formula):
                for y in x.args:
                    walk(y)

        for f in formulas:
            walk(f)
        return sorted(found)

    def _solve(
        self,
        formulas: list[Formula],
        atoms: list[Atom],
        products: list[Monomial],
        exact: bool,
        pairs: int = LEMMA_PAIRS,
    ) -> Answer:
        z3 = self.z3
        self.asked += 1
        seconds = min(self.timeout, EXACT_QUESTION) if exact else self.timeout
        if self.deadline is not None:
            seconds = min(seconds, self.deadline - time.monotonic())
            if seconds <= 0:
                return Answer("unknown", reason="the time for this program is spent")
        s = z3.SimpleSolver()
        resources = min(self.rlimit, EXACT_RESOURCES) if exact else self.rlimit
        s.set("timeout", max(1, int(seconds * 1000)), "rlimit", resources, "random_seed", 1)
        asserted = [self.formula(f) for f in formulas]
        for a in atoms:
            asserted += self.range(a)
        asserted += self.congruences(atoms)
        if products:
            asserted += self.lemmas(products, pairs)
        if exact:
            for m in products:
                value = self.atom(m[0])
                for n in m[1:]:
                    value = value * self.atom(n)
                asserted.append(self.monomial(m) == value)
        r, why = proofs.decide(s, asserted, "products as they are" if exact else "")
        if r == "unsat":
            return Answer("unsat")
        if r == "sat":
            found = s.model()
            model = {
                a.number: found.eval(self.atom(a.number), model_completion=True).as_long()
                for a in atoms
            }
            return Answer("sat", model, exact=exact or not products)
        return Answer("unknown", reason=f"z3: {why}")

    def range(self, a: Atom) -> list[Any]:
        """The constant bounds of an atom; they may become tighter with what is learnt of it."""
        key = (a.number, a.lo, a.hi)
        found = self._ranges.get(key)
        if found is None:
            x = self.atom(a.number)
            found = [x >= a.lo] if a.lo is not None else []
            found += [x <= a.hi] if a.hi is not None else []
            self._ranges[key] = found
        return found

    def congruences(self, atoms: list[Atom]) -> list[Any]:
        """Elements of one tensor at equal indices are equal."""
        groups: dict[str, list[Atom]] = {}
        for a in atoms:
            if a.function:
                groups.setdefault(a.function, []).append(a)
        out = []
        for g in groups.values():
            for a, b in itertools.islice(itertools.combinations(g, 2), LEMMA_PAIRS):
                found = self._congruent.get((a.number, b.number))
                if found is None:
                    pairs = zip(a.arguments, b.arguments, strict=True)
                    same = [self.terms.eq(x, y) for x, y in pairs]
                    equal = self.atom(a.number) == self.atom(b.number)
                    found = self.z3.Implies(self.formula(self.terms.all(same)), equal)
                    self._congruent[(a.number, b.number)] = found
                out.append(found)
        return out

    # -- translation
    def atom(self, n: int) -> Any:
        if n not in self._atoms:
            self._atoms[n] = self.z3.Int(f"{self.terms.atoms[n].name}!{n}")
        return self._atoms[n]

    def monomial(self, m: Monomial) -> Any:
        if len(m) == 1:
            return self.atom(m[0])
        if m not in self._monomials:
            self._monomials[m] = self.z3.Int("product!" + "!".join(map(str, m)))
        return self._monomials[m]

    def poly(self, p: Poly) -> Any:
        found = self._z3.get(p)
        if found is None:
            z3, parts = self.z3, []
            for m, c in p.items:
                if not m:
                    parts.append(z3.IntVal(c))
                else:
                    x = self.monomial(m)
                    parts.append(x if c == 1 else c * x)
            found = parts[0] if len(parts) == 1 else z3.Sum(parts) if parts else z3.IntVal(0)
            self._z3[p] = found
        return found

    def formula(self, f: Formula) -> Any:
        found = self._z3.get(f)
        if found is None:
            found = self._z3[f] = self._formula(f)
        return found

    def _formula(self, f: Formula) -> Any:
        z3 = self.z3
        if f.op in ("true", "false"):
            return z3.BoolVal(f.op == "true")
        if f.op == "bool":
            return z3.Bool(str(f.args[0]))
        if f.op in ("ge0", "eq0"):
            p = f.args[0]
            assert isinstance(p, Poly)
            # the constant goes to the other side: z3 keeps such rows as bounds
            constant = dict(p.items).get((), 0)
            left = self.poly(self.terms.shift(p, -constant))
            return left >= -constant if f.op == "ge0" else left == -constant
        args = [self.formula(a) for a in f.args if isinstance(a, Formula)]
        return {"and": z3.And, "or": z3.Or, "not": z3.Not}[f.op](*args)

    def lemmas(self, products: list[Monomial], pairs: int = LEMMA_PAIRS) -> list[Any]:
        """True facts about products: signs, growth, and comparison of two that share a factor."""
        out = [x for m in _with_parts(products) if len(m) > 1 for x in self._growth(m)]
        return out + [x for a, b in self.pairs(products)[:pairs] for x in self._comparison(a, b)]

    @staticmethod
    def pairs(products: list[Monomial]) -> list[tuple[Monomial, Monomial]]:
        """Products that share a factor, the smaller ones first."""
        ordered = _with_parts(products)
        pairs = [(a, b) for a, b in itertools.combinations(ordered, 2) if _common(a, b)]
        return sorted(pairs, key=lambda x: len(x[0]) + len(x[1]))

    def _growth(self, m: Monomial) -> list[Any]:
        """Bounds of a product, and what it is where one factor is 0, 1 or more."""
        found = self._lemmas.get((m,))
        if found is None:
            z3, x = self.z3, self.monomial(m)
            lo, hi = self.terms.of_monomial(m)
            found = [x >= lo] if lo is not None else []
            found += [x <= hi] if hi is not None else []
            for k in range(len(m)):
                one, rest = self.atom(m[k]), m[:k] + m[k + 1 :]
                other = self.monomial(rest)
                found.append(z3.Implies(one == 0, x == 0))
                found.append(z3.Implies(one == 1, x == other))
                if self.terms.of_monomial(rest)[0] is not None:
                    found.append(z3.Implies(z3.And(one >= 1, other >= 0), x >= other))
            self._lemmas[(m,)] = found
        return found

    def _comparison(self, a: Monomial, b: Monomial) -> list[Any]:
        """u * d against v * d for d >= 0."""
        found = self._lemmas.get((a, b))
        if found is None:
            z3, c = self.z3, _common(a, b)
            d, u, v = self.monomial(c), self._value(_rest(a, c)), self._value(_rest(b, c))
            s, t = self.monomial(a), self.monomial(b)
            natural = d >= 0
            found = self._lemmas[(a, b)] = [
                z3.Implies(z3.And(natural, u <= v), s <= t),
                z3.Implies(z3.And(natural, v <= u), t <= s),
                z3.Implies(z3.And(natural, u < v), s + d <= t),
                z3.Implies(z3.And(natural, v < u), t + d <= s),
            ]
        return found

    def _value(self, m: Monomial) -> Any:
        return self.monomial(m) if m else self.z3.IntVal(1)


def _with_parts(products: list[Monomial]) -> list[Monomial]:
    """The products and the smaller ones that lemmas about them speak of, those first."""
    known: dict[Monomial, None] = dict.fromkeys(products)
    for m in products:
        for k in range(len(m)):
            known[m[:k] + m[k + 1 :]] = None
    return sorted(known, key=lambda m: (len(m), m))


def _common(a: Monomial, b: Monomial) -> Monomial:
    rest, out = list(b), []
    for n in a:
        if n in rest:
            rest.remove(n)
            out.append(n)
    return tuple(out)


def _rest(a: Monomial, part: Monomial) -> Monomial:
    rest = list(a)
    for n in part:
        rest.remove(n)
    return tuple(rest)
