"""Decides the spec's obligations with z3 over the integers, for all sizes at once.

Values that are read are uninterpreted functions, constrained by the instances of `requires` at the
indices that occur. What has no integer meaning here is an unknown: it can never help a proof, and
an answer that rests on one is UNKNOWN, never REFUTED. A refutation is replayed on the numbers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from random import Random
from typing import Any

from opwright.compiler.decide_terms import RLIMIT, Encoder, inlined
from opwright.compiler.interface import is_default_limit
from opwright.compiler.obligations import Obligation, requirements
from opwright.compiler.scope import Interval
from opwright.ir.expr import (
    Expr,
    ExprError,
    affine,
    call,
    conjunction,
    const,
    evaluate,
    free_vars,
    leaves,
    rebuild,
    show,
    substitute,
    var,
    walk,
)
from opwright.ir.op import Law, Operator
from opwright.verify.sizes import Sampler

RETRY = 300_000  # the same for each attempt at a smaller counterexample
BUDGET = 30.0  # seconds of all questions about one operator, where the machine is slow
# least and largest sizes of counterexamples, the most telling first
SMALL = ((1, 2), (1, 4), (1, 16), (1, 80), (0, 2), (0, 16), (0, 4096))


@dataclass(frozen=True, slots=True)
class Answer:
    """`status` as in records; `values` of sizes, params, indices and reads refute."""

    status: str
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[Expr, Any] = field(default_factory=dict)
    seconds: float = 0.0


class Decider:
    """Answers obligations of one operator."""

    def __init__(self, op: Operator) -> None:
        self.op = op
        self.requires = requirements(op)
        self.spent = 0.0
        self.known: dict[tuple[Any, ...], Answer] = {}

    def satisfiable(self) -> Answer:
        """Whether some sizes and params obey the facts."""
        start = time.monotonic()
        names = [("size", s) for s in self.op.sizes]
        for value in (1, 2, 16, 64, 128, 256, 3):
            env: dict[str, Any] = {n: value for _, n in names}
            if self._obeys(env):
                return Answer("PROVED", "an example was found", env)
        encoder = Encoder(self.op, [])
        solver = encoder.solver([encoder.boolean(f) for f in self.op.facts])
        verdict = str(solver.check())
        seconds = time.monotonic() - start
        if verdict == "sat":
            return Answer("PROVED", "z3 found an example", seconds=seconds)
        if verdict == "unsat" and not encoder.unknowns:
            return Answer("REFUTED", "no sizes and params satisfy the facts", seconds=seconds)
        if Sampler(self.op, Random(0)).draw() is not None:
            return Answer("PROVED", "an example was found", seconds=seconds)
        return Answer("UNKNOWN", f"z3: {verdict}", seconds=seconds)

    def _obeys(self, env: dict[str, Any]) -> bool:
        try:
            for p in self.op.params:
                if p.default is None:
                    return False
                env[p.name] = evaluate(p.default, env)
            return all(bool(evaluate(f, env)) for f in self.op.facts)
        except (ExprError, KeyError, ZeroDivisionError):
            return False

    def decide(self, o: Obligation, law: Law | None = None) -> Answer:
        """PROVED, REFUTED with values, or UNKNOWN with the reason."""
        if o.undecided:
            return Answer("UNKNOWN", o.undecided)
        if self.spent > BUDGET:
            return Answer("UNKNOWN", "the time for this operator's obligations is used up")
        key = (o.kind, o.goal, o.assume, tuple(o.ranges.items()), o.exists, id(law))
        if key in self.known:
            return self.known[key]
        start = time.monotonic()
        answer = self._exists(o, law) if o.exists else self._universal(o, o.goal, law)
        seconds = time.monotonic() - start
        self.spent += seconds
        self.known[key] = answer
        return Answer(answer.status, answer.reason, answer.values, answer.names, seconds)

    def _exists(self, o: Obligation, law: Law | None) -> Answer:
        """Some element satisfies the guard: try witnesses; refute by enumeration at small sizes."""
        guard = inlined(self.op, o.goal)
        for pick in _witnesses(o, guard):
            mapping = {var(b): w for (b, _), w in zip(o.exists, pick, strict=True)}
            inside = [
                call("le", lo, w) & call("lt", w, hi)
                for (_, (lo, hi)), w in zip(o.exists, pick, strict=True)
            ]
            goal = conjunction([*inside, substitute(guard, mapping)])
            answer = self._universal(o, substitute(goal, mapping), law, refute=False)
            if answer.status == "PROVED":
                text = ", ".join(show(w) for w in pick)
                return Answer("PROVED", f"z3: unsat, with the element {text}")
        return self._enumerate(o, guard)

    def _enumerate(self, o: Obligation, guard: Expr) -> Answer:
        """Look for small sizes at which nothing satisfies a guard that reads no values."""
        parts = [guard, *o.assume, *(e for r in o.ranges.values() for e in r)]
        parts += [e for _, r in o.exists for e in r]
        if any(x.op in ("read", "fold") for p in parts for x in walk(p)):
            return Answer("UNKNOWN", "whether the guard holds anywhere depends on values")
        wanted = sorted({x.attr for p in (*parts, *self.op.facts) for x in leaves(p, "size")})
        if len(wanted) > 6:
            return Answer("UNKNOWN", "no witness of the guard was found")
        flags = [p for p in self.op.params if p.dtype.kind == "bool"]
        tried = 0
        for values in product((1, 2, 3, 0), repeat=len(wanted)):
            for truth in product((True, False), repeat=len(flags)):
                tried += 1
                if tried > 2000:
                    break
                env: dict[str, Any] = dict(zip(wanted, values, strict=True))
                env |= {s: 1 for s in self.op.sizes if s not in env}
                env |= {p.name: t for p, t in zip(flags, truth, strict=True)}
                found = self._empty_at(o, guard, env)
                if found is not None:
                    return Answer("REFUTED", "no element satisfies the guard", found)
        return Answer("UNKNOWN", "no witness of the guard was found")

    def _empty_at(self, o: Obligation, guard: Expr, env: dict[str, Any]) -> dict[str, Any] | None:
        try:
            for p in self.op.params:
                if p.name not in env:
                    if p.default is None:
                        return None
                    env[p.name] = evaluate(p.default, env)
            if not all(evaluate(f, env) for f in self.op.facts):
                return None
            for here in _points(list(o.ranges.items()), env):
                if not all(evaluate(a, here) for a in o.assume):
                    continue
                if not any(evaluate(guard, at) for at in _points(list(o.exists), here)):
                    return here
        except (ExprError, KeyError, ZeroDivisionError):
            return None
        return None

    def _universal(self, o: Obligation, goal: Expr, law: Law | None, refute: bool = True) -> Answer:
        encoder = Encoder(self.op, self.requires, law)
        facts = [f for f in self.op.facts if not is_default_limit(f)]
        parts = [encoder.boolean(f) for f in facts]
        for t in self.op.inputs:
            parts += [encoder.boolean(call("le", 0, s)) for s in t.shape if s.op != "size"]
        for name, (lo, hi) in o.ranges.items():
            parts.append(encoder.boolean(call("le", lo, var(name))))
            parts.append(encoder.boolean(call("lt", var(name), hi)))
        parts += [encoder.boolean(a) for a in o.assume]
        wrong = encoder.negation(goal)
        encoder.instantiate()
        solver = encoder.solver([*parts, wrong])
        verdict = str(solver.check())
        if verdict == "unsat":
            return Answer("PROVED", "z3: unsat")
        if verdict != "sat" or not refute:
            return Answer("UNKNOWN", f"z3: {verdict} ({solver.reason_unknown()})")
        return self._refute(o, goal, encoder, solver)

    def _refute(self, o: Obligation, goal: Expr, encoder: Encoder, solver: Any) -> Answer:
        """The smallest sizes that z3 finds, replayed on the numbers."""
        if encoder.unknowns:
            what = ", ".join(sorted(encoder.unknowns)[:2])
            return Answer("UNKNOWN", f"depends on {what}, which is not decided by this version")
        if encoder.loose:
            names = ", ".join(sorted(encoder.loose))
            return Answer("UNKNOWN", f"`requires {names}` could not be used at these indices")
        model = None
        solver.set("rlimit", RETRY)
        for least, most in SMALL:
            solver.push()
            solver.add(*encoder.sizes_between(least, most))
            if str(solver.check()) == "sat":
                model = solver.model()
                break
            solver.pop()
        if model is None:
            solver.set("rlimit", RLIMIT)
            if str(solver.check()) != "sat":
                return Answer("UNKNOWN", "z3 lost its counterexample")
            model = solver.model()
        values = encoder.values(model)
        if not self._replays(o, goal, values):
            return Answer("UNKNOWN", "z3's counterexample did not replay on the numbers")
        named = {x.attr if x.op in ("size", "param", "var") else show(x): v
                 for x, v in values.items()}  # fmt: skip
        return Answer("REFUTED", "z3: sat, replayed", named, values)

    def _replays(self, o: Obligation, goal: Expr, values: Mapping[Expr, Any]) -> bool:
        known = {x: const(v) for x, v in values.items()}

        def number(e: Expr) -> Any:
            return evaluate(_fill_in(e, known), {})

        try:
            for f in self.op.facts:
                try:
                    if not number(f):
                        return False
                except ExprError:
                    # a fact without a value is what a divisor that is not positive causes
                    if o.kind != "divisor":
                        return False
            for name, (lo, hi) in o.ranges.items():
                if var(name) in known and not number(lo) <= known[var(name)].attr < number(hi):
                    return False
            return all(number(a) for a in o.assume) and not number(goal)
        except (ExprError, KeyError, ZeroDivisionError):
            return False


def _fill_in(e: Expr, known: Mapping[Expr, Expr]) -> Expr:
    """Replace leaves and reads by their values, inner ones first."""
    if e in known:
        return known[e]
    out = rebuild(e, tuple(_fill_in(a, known) for a in e.args))
    return known.get(out, out)


def _points(
    ranges: Sequence[tuple[str, Interval]], env: Mapping[str, Any]
) -> Iterable[dict[str, Any]]:
    if not ranges:
        yield dict(env)
        return
    (name, (lo, hi)), *rest = ranges
    for value in range(int(evaluate(lo, env)), int(evaluate(hi, env))):
        yield from _points(rest, {**env, name: value})


def _witnesses(o: Obligation, guard: Expr) -> Iterable[tuple[Expr, ...]]:
    """Elements that may satisfy a guard: ends of the range, outer indices, bounds in the guard."""
    choices = []
    for b, (lo, hi) in o.exists:
        found: dict[Expr, None] = {lo: None, hi - 1: None}
        for name in o.ranges:
            found[var(name)] = None
        for x in walk(guard):
            if x.op in ("le", "lt", "eq") and x.args[0].kind == "int":
                form = affine(x.args[0] - x.args[1])
                if form is None or abs(form.get(var(b), 0)) != 1:
                    continue
                sign = -form[var(b)]
                edge: Expr = const(sign * form.get(None, 0))
                for leaf, c in form.items():
                    if leaf is not None and leaf is not var(b):
                        edge = edge + leaf * (sign * c)
                if b not in free_vars(edge):
                    found[edge] = None
                    found[call("max", lo, call("min", edge, hi - 1))] = None
        choices.append(list(found)[:12])
    for n, pick in enumerate(product(*choices)):
        if n >= 24:
            return
        yield pick
