"""What a derived pass rests on, proved by z3 over the reals.

An obligation is PROVED only where the negation has no model and its hypotheses have one. exp(u) is
a positive real for every distinct u, with exp(a - b) = exp(a) / exp(b); sin(u) and cos(u) are the
sides of a unit triangle, with what holds of sums of angles; denominators are assumed not to be
zero; any other function is a real for every distinct argument. Stability is apart from
equality: over the reals the anchor of an exponential is irrelevant.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from opwright.compiler.cascade.chain import COUNT, Sympy, symbol
from opwright.compiler.cascade.derive import Accumulator, Plan, moved
from opwright.ir.expr import conjuncts
from opwright.ir.record import Record

MULTIPLES = 4  # of an angle that are written out
RLIMIT, TIMEOUT = 50_000_000, 5_000  # z3's own measure of work; milliseconds of one question
Z3 = Any


class Terms:
    """sympy to z3 as pairs (numerator, denominator) of polynomials; no z3 division."""

    def __init__(self) -> None:
        self.hypotheses: list[Z3] = []
        self.denominators: list[Z3] = []

    def __call__(self, e: Sympy) -> tuple[Z3, Z3]:
        import sympy
        import z3

        e = sympy.sympify(e)
        one = z3.RealVal(1)
        if e.is_Rational:
            return z3.RealVal(f"{e.p}/{e.q}"), one
        if e.is_Symbol:
            if e.is_positive:
                self.hypotheses.append(z3.Real(e.name) > 0)
            return z3.Real(e.name), one
        if e.is_Add:
            num, den = self(e.args[0])
            for n, d in map(self, e.args[1:]):
                same = d is one or d.eq(den)
                num, den = (num + n, den) if same and d.eq(den) else (num * d + n * den, den * d)
            return num, den
        if e.is_Mul:
            parts = [self(a) for a in e.args]
            return z3.Product([n for n, _ in parts]), z3.Product([d for _, d in parts])
        if e.is_Pow and e.exp.is_Integer:
            n, d = self(e.base)
            k = abs(int(e.exp))
            if e.exp < 0:
                self.denominators.append(n)
                n, d = d, n
            return z3.Product([n] * k), z3.Product([d] * k)
        if e.func == sympy.exp:
            return self._exp(e)
        if e.func in (sympy.sin, sympy.cos):
            return self._angle(e)
        if isinstance(e, sympy.Piecewise):
            out = self(e.args[-1][0])
            for v, c in reversed(e.args[:-1]):
                (n, d), c = self(v), self.compare(c.rel_op, c.lhs, c.rhs)
                out = z3.If(c, n, out[0]), z3.If(c, d, out[1])
            return out
        return z3.Real(f"{e}"), one

    def _exp(self, e: Sympy) -> tuple[Z3, Z3]:
        import sympy
        import z3

        up, down = [z3.RealVal(1)], [z3.RealVal(1)]
        for t in sympy.Add.make_args(sympy.expand(e.args[0])):
            c, u = t.as_coeff_Mul()
            if not c.is_Integer:
                c, u = sympy.sign(c), abs(c) * u
            atom = z3.Real(f"exp[{u}]")
            self.hypotheses.append(atom > 0)
            (up if c > 0 else down).extend([atom] * abs(int(c)))
        return z3.Product(up), z3.Product(down)

    def _angle(self, e: Sympy) -> tuple[Z3, Z3]:
        import sympy
        import z3

        terms = [t.as_coeff_Mul() for t in sympy.Add.make_args(sympy.expand(e.args[0]))]
        cosine, sine = z3.RealVal(1), z3.RealVal(0)  # of the sum of the terms so far
        for c, u in terms:
            whole = c.is_Integer and abs(c) <= MULTIPLES
            c, u = (c, u) if whole else (sympy.sign(c), abs(c) * u)
            co, si = z3.Real(f"cos[{u}]"), z3.Real(f"sin[{u}]")
            self.hypotheses.append(co * co + si * si == 1)
            turn = si if c > 0 else -si
            for _ in range(abs(int(c))):
                cosine, sine = cosine * co - sine * turn, sine * co + cosine * turn
        return (cosine if e.func == sympy.cos else sine), z3.RealVal(1)

    def compare(self, op: str, left: Sympy, right: Sympy) -> Z3:
        (a, b), (c, d) = self(left), self(right)
        if op == "==":
            return a * d == c * b
        x, y = a * b * d * d, c * d * b * b
        return {"<": x < y, "<=": x <= y, ">": x > y, ">=": x >= y}[op]

    def equal(self, left: Sympy, right: Sympy) -> Z3:
        return self.compare("==", left, right)


def check(
    terms: Terms, hypotheses: Iterable[Z3], goals: Sequence[Z3], last: str = "qfnra-nlsat"
) -> tuple[str, str]:
    """(status, reason) of all goals under hypotheses that must be satisfiable."""
    import z3

    base = [*hypotheses, *terms.hypotheses, *(d != 0 for d in terms.denominators)]
    for goal in [None, *goals]:
        s = z3.Then("simplify", "solve-eqs", "simplify", last).solver()
        s.set("rlimit", RLIMIT)
        s.set("timeout", TIMEOUT)
        s.add(base if goal is None else [*base, z3.Not(goal)])
        r = str(s.check())
        if goal is None:
            if r == "unsat":
                return "UNKNOWN", "the hypotheses contradict each other"
            if r != "sat":
                return "UNKNOWN", f"z3: {r}, whether the hypotheses can hold"
        elif r == "sat":
            return "REFUTED", "z3: a counterexample over the reals"
        elif r != "unsat":
            return "UNKNOWN", f"z3: {r}"
    return "PROVED", "z3: unsat over the reals"


def prove(plan: Plan) -> list[Record]:
    """A record for every obligation: transport, redundancy, merge, step, stability, signs."""
    out: list[Record] = []

    def add(kind: str, what: str, question: Any, *args: Any) -> None:
        begin = time.perf_counter()
        found = question(plan, *args)
        if found is None:
            return
        status, reason = found
        name = f"fold.{kind}.{plan.chain.name}.{what}"
        spent = time.perf_counter() - begin
        out.append(Record(name, "spec", status, reason, plan.chain.name, (), None, spent))

    for x in plan.accumulators.values():
        if x.monoid.startswith("arg"):
            add("merge", x.name, pick_law)
        if not x.anchors:
            continue
        add("lemma", x.name, lemma, x)
        if x.raw != x.row:
            add("redundancy", x.name, redundant, x)
        add("merge", x.name, associative, x)
        add("step", x.name, singleton, x)
        add("stability", x.name, stable, x)
    for n, e in enumerate(plan.positive):
        add("sign", str(n), positive, e)
    return out


def equal_over_reals(records: Iterable[Record]) -> bool:
    """Whether everything but stability is proved."""
    return all(r.status == "PROVED" for r in records if not r.id.startswith("fold.stability"))


def stable_in_floats(records: Iterable[Record]) -> bool:
    """Whether every exponential of the pass is proved to be at most 1."""
    return all(r.status == "PROVED" for r in records if r.id.startswith("fold.stability"))


# -- obligations -----------------------------------------------------------------------------------


def lemma(plan: Plan, x: Accumulator) -> tuple[str, str]:
    """Induction over the elements: row(A + b(e, a)) = row(A) + b(e, a'), row(0) = 0, and a row that
    moves nowhere is the identity."""
    t = Terms()
    sums = [y for y in plan.accumulators.values() if y.monoid == "sum" and y.guard is x.guard]
    back = {moved(symbol(a)): symbol(a) for a in plan.defs}
    bodies = {symbol(y.name): symbol(y.name) + y.body for y in sums}
    step = x.raw.subs(bodies, simultaneous=True)
    after = x.body.subs({symbol(a): moved(symbol(a)) for a in x.anchors}, simultaneous=True)
    zero = x.raw.subs({symbol(y.name): 0 for y in sums}, simultaneous=True)
    foreign = {str(s) for s in x.raw.free_symbols} & {
        y.name for y in plan.accumulators.values() if y not in sums and not y.name == x.name
    }
    if foreign - set(x.anchors):
        return "UNKNOWN", f"{', '.join(sorted(foreign))} runs over other elements"
    goals = [
        t.equal(step, x.raw + after),
        t.equal(zero, 0),
        t.equal(x.raw.subs(back), symbol(x.name)),
    ]
    return check(t, [], goals)


def redundant(plan: Plan, x: Accumulator) -> tuple[str, str]:
    """The row in use equals the row of the lemma, by what the lets say."""
    t = Terms()
    needed = set(plan.defs) - set(plan.accumulators)
    return check(t, _definitions(plan, t, "", needed), [t.equal(x.raw, x.row)])


def associative(plan: Plan, x: Accumulator) -> tuple[str, str]:
    """Merging three states gives the same either way: as it stands, or, where sums turn by angles,
    since moving them twice is moving them once, which suffices for moves that are linear."""
    import sympy

    if x.row.has(sympy.sin, sympy.cos) and x.raw == x.row and _linear(plan, x):
        found = _moved_twice(plan, x)
        if found[0] == "PROVED":
            return found
    return _merged_either_way(plan, x)


def _moving(plan: Plan, x: Accumulator) -> list[Accumulator]:
    """The sums that move with an accumulator."""
    return [y for y in plan.accumulators.values() if y.anchors == x.anchors and y.guard is x.guard]


def _linear(plan: Plan, x: Accumulator) -> bool:
    import sympy

    sums = [symbol(y.name) for y in _moving(plan, x)]
    row = sympy.expand(x.raw)
    rest = row - sum(sympy.diff(row, s) * s for s in sums)
    foreign = {str(s) for s in row.free_symbols} & set(plan.accumulators) - set(map(str, sums))
    return sympy.simplify(rest) == 0 and not foreign - set(x.anchors)


def _moved_twice(plan: Plan, x: Accumulator) -> tuple[str, str]:
    t = Terms()
    first = {symbol(y.name): y.raw for y in _moving(plan, x)}
    between = {symbol(a): moved(symbol(a)) for a in x.anchors}
    last = {moved(symbol(a)): symbol(f"{a}''") for a in x.anchors}
    once = x.raw.xreplace(last)
    twice = x.raw.xreplace(between | last).subs(first, simultaneous=True)
    return check(t, [], [t.equal(twice, once)])


def _merged_either_way(plan: Plan, x: Accumulator) -> tuple[str, str]:
    import z3

    t, needed = Terms(), _closure(plan, x)
    hypotheses = [z3.Real(f"{COUNT}_{s}") > 0 for s in "123"]
    hypotheses += [h for s in ("_1", "_2", "_3") for h in _definitions(plan, t, s, needed)]
    inner = (("_1", "_2", "_12"), ("_2", "_3", "_23"))
    for a, b, to in (*inner, ("_12", "_3", "_T"), ("_1", "_23", "_T")):
        hypotheses += _combined(plan, t, needed, a, b, to)
    for y in plan.accumulators.values():
        if y.anchors and y.name in needed:
            for a, b, to in inner:
                both = _at(plan, y.row, a, to) + _at(plan, y.row, b, to)
                hypotheses.append(t.equal(symbol(y.name + to), both))
    sides = [
        _at(plan, x.row, a, "_T") + _at(plan, x.row, b, "_T")
        for a, b in (("_12", "_3"), ("_1", "_23"))
    ]
    return check(t, hypotheses, [t.equal(*sides)])


def singleton(plan: Plan, x: Accumulator) -> tuple[str, str]:
    """Taking one element is merging with the state of a list of one."""
    t, needed = Terms(), _closure(plan, x)
    hypotheses = [
        t.equal(symbol(k + "_1"), _at(plan, plan.accumulators[k].body, "_1", "_1"))
        for k in sorted(needed & set(plan.accumulators))
        if not plan.accumulators[k].monoid.startswith("arg")
    ]
    hypotheses += _definitions(plan, t, "_1", needed)
    share = _at(plan, x.body, "_T", "_T")
    return check(t, hypotheses, [t.equal(_at(plan, x.row, "_1", "_T"), share)])


def stable(plan: Plan, x: Accumulator) -> tuple[str, str] | None:
    """Every argument of exp, of an element and of a correction, is at most 0 as anchors grow."""
    import sympy

    body = x.body.subs({symbol(a): moved(symbol(a)) for a in x.anchors})
    args = {e.args[0] for e in body.atoms(sympy.exp) | x.row.atoms(sympy.exp)}
    if not args:
        return None
    t, hypotheses = Terms(), []
    for a in x.anchors:
        source = plan.accumulators.get(a)
        if source is None or source.monoid not in ("max", "min"):
            continue
        if set(conjuncts(source.guard)) <= set(conjuncts(x.guard)):
            op = ">=" if source.monoid == "max" else "<="
            hypotheses.append(t.compare(op, moved(symbol(a)), source.body))
            hypotheses.append(t.compare(op, moved(symbol(a)), symbol(a)))
    return check(t, hypotheses, [t.compare("<=", e, 0) for e in sorted(args, key=str)])


def positive(plan: Plan, e: Sympy) -> tuple[str, str]:
    """A factor that leaves an extreme is positive: sums of positive bodies are, where there is an
    element."""
    import z3

    t = Terms()
    hypotheses = [z3.Real(COUNT) > 0]
    for a in plan.accumulators.values():
        if a.monoid == "sum" and a.body.is_positive:
            hypotheses.append(t.compare(">", symbol(a.name), 0))
    hypotheses += _definitions(plan, t, "", set(plan.defs))
    return check(t, hypotheses, [t.compare(">", e, 0)])


def pick_law(plan: Plan) -> tuple[str, str]:
    """The larger value, then the smaller index, is associative."""
    import z3

    del plan
    pairs = [(z3.Real(f"v{i}"), z3.Int(f"i{i}")) for i in range(3)]

    def pick(a: Any, b: Any) -> Any:
        right = z3.Or(b[0] > a[0], z3.And(b[0] == a[0], b[1] < a[1]))
        return z3.If(right, b[0], a[0]), z3.If(right, b[1], a[1])

    a, b, c = pairs
    left, right = pick(pick(a, b), c), pick(a, pick(b, c))
    return check(Terms(), [], [z3.And(left[0] == right[0], left[1] == right[1])], "smt")


# -- sides of a merge ------------------------------------------------------------------------------


def _at(plan: Plan, e: Sympy, old: str, to: str) -> Sympy:
    """An expression with accumulators and anchors of side `old`, and new anchors of side `to`."""
    import sympy

    names = set(plan.accumulators) | set(plan.defs)
    sides = {symbol(k): symbol(f"{k}{old}") for k in names}
    sides |= {moved(symbol(k)): symbol(f"{k}{to}") for k in names}
    return sympy.sympify(e).xreplace(sides)


def _definitions(plan: Plan, t: Terms, side: str, needed: set[str]) -> list[Z3]:
    out = []
    for name, e in plan.defs.items():
        if name in needed and symbol(name) != e:
            out.append(t.equal(symbol(f"{name}{side}"), _at(plan, e, side, side)))
    return out


def _closure(plan: Plan, x: Accumulator) -> set[str]:
    """Accumulators and results that the merge of one reads."""
    import sympy

    names = set(plan.accumulators) | set(plan.defs)
    todo, seen = {x.name}, set()
    while todo:
        k = todo.pop()
        seen.add(k)
        a = plan.accumulators.get(k)
        e = sympy.sympify(a.row if a is not None and a.anchors else 0)
        found = {str(s).removesuffix("'") for s in e.free_symbols}
        found |= {str(s) for s in sympy.sympify(plan.defs.get(k, 0)).free_symbols}
        todo |= (found & names) - seen
    return seen


def _combined(plan: Plan, t: Terms, needed: set[str], a: str, b: str, to: str) -> list[Z3]:
    """The plain accumulators and anchors of side `to` are the merge of two sides."""
    import z3

    out: list[Z3] = []
    for k in sorted(needed & set(plan.accumulators)):
        x = plan.accumulators[k]
        p, q, r = (z3.Real(f"{k}{s}") for s in (a, b, to))
        if x.anchors or x.monoid.startswith("arg"):
            continue
        out += {
            "sum": lambda p=p, q=q, r=r: [r == p + q],
            "prod": lambda p=p, q=q, r=r: [r == p * q],
            "max": lambda p=p, q=q, r=r: [r >= p, r >= q, z3.Or(r == p, r == q)],
            "min": lambda p=p, q=q, r=r: [r <= p, r <= q, z3.Or(r == p, r == q)],
        }[x.monoid]()
    return out + _definitions(plan, t, to, needed)
