"""Derives a single-pass state for a chain, or says why there is none.

Every accumulator is either plain (its element's share reads no result) or kept at anchors: results
that are not final yet. `row` says what an anchored sum becomes when its anchors move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from opwright.compiler.cascade.chain import COUNT, Chain, Let, Stage, Sympy, symbol
from opwright.ir.expr import TRUE, Expr

MAX_DIM = 6  # basis functions of one sum
RANK = 12  # elements of the sample that bounds the number of accumulators from below


class NotFusable(Exception):
    """Why a chain is not one pass: the stage, what mixes, and the rank of a sample."""


@dataclass(slots=True)
class Accumulator:
    """One entry of the carried state: `body` is an element's share, at the new anchors where there
    are anchors; `raw` the new value of the old sum over old accumulators, old anchors `a` and new
    ones `a'`; `row` the same without the sums that the lets make redundant."""

    name: str
    monoid: str
    body: Sympy
    guard: Expr = TRUE
    anchors: tuple[str, ...] = ()
    raw: Sympy = None
    row: Sympy = None


@dataclass(slots=True)
class Plan:
    """What a single pass carries, and every result as a value of it."""

    chain: Chain
    accumulators: dict[str, Accumulator] = field(default_factory=dict)
    defs: dict[str, Sympy] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    positive: list[Sympy] = field(default_factory=list)  # factors that leave an extreme

    @property
    def anchors(self) -> set[str]:
        return {a for x in self.accumulators.values() for a in x.anchors}


def moved(a: Sympy) -> Sympy:
    """An anchor's next value."""
    return symbol(f"{a.name}'")


def derive(chain: Chain, factored: bool = False) -> Plan:
    """The plan of a chain; raises NotFusable. `factored` prefers sums without anchors where a body
    separates: fewer corrections, but differences of large sums."""
    return _Deriver(chain, factored).run()


class _Deriver:
    def __init__(self, chain: Chain, factored: bool) -> None:
        self.chain, self.factored = chain, factored
        self.elements = list(chain.elements)
        self.results = chain.results
        self.plan = Plan(chain)
        self.lets: dict[Sympy, Sympy] = {}
        self.guard: Expr = TRUE
        reads = {x for s in chain.steps for x in _expr(s).free_symbols}
        if symbol(COUNT) in reads:
            self._free(COUNT, "sum", _one())

    def run(self) -> Plan:
        for s in self.chain.steps:
            if isinstance(s, Let):
                self.plan.defs[s.name] = s.expr
                self.lets[symbol(s.name)] = s.expr
                continue
            self.guard = s.guard
            if not s.body.free_symbols & set(self.results):
                self.plan.defs[s.name] = self._free(s.name, s.monoid, s.body)
                self._note(s.name, f"reads no result, {s.monoid} as it stands")
                continue
            how = (
                self._additive(s) if s.monoid == "sum" else self._lattice(s.monoid, s.body, s.name)
            )
            if how is None:
                raise NotFusable(self._reason(s))
            self.plan.defs[s.name] = how
        return self.plan

    def _note(self, name: str, text: str) -> None:
        self.plan.notes.append(f"{name}: {text}")

    def _free(self, name: str, monoid: str, body: Sympy) -> Sympy:
        import sympy

        for a in self.plan.accumulators.values():
            same = not a.anchors and a.monoid == monoid and a.guard is self.guard
            if same and sympy.simplify(a.body - body) == 0:
                return symbol(a.name)
        self.plan.accumulators[name] = Accumulator(name, monoid, body, self.guard)
        return symbol(name)

    # -- sums

    def _additive(self, s: Stage) -> Sympy:
        import sympy

        hoist, core = sympy.factor_terms(s.body).as_independent(*self.elements, as_Add=False)
        anchors = sorted(core.free_symbols & set(self.results), key=str)
        if hoist.free_symbols & set(self.results):
            self.plan.notes.append(
                f"{s.name}: the factor {hoist} reads no element and leaves the loop"
            )
        if not anchors:
            return hoist * self._free(f"A_{s.name}", "sum", core)
        parts = self._separate(core)
        single = parts is not None and len(parts) == 1 and not core.has(sympy.exp)
        if parts is not None and (self.factored or single):
            self.plan.notes.append(
                f"{s.name}: sums of {_list(parts)}, nothing to correct in the loop"
            )
            terms = enumerate(parts.items())
            sums = [psi * self._free(f"A_{s.name}{n}", "sum", phi) for n, (phi, psi) in terms]
            return hoist * sum(sums)
        after = core.subs({a: moved(a) for a in anchors}, simultaneous=True)
        ratio = sympy.simplify(after / core)
        if not ratio.free_symbols & set(self.elements) and not ratio.has(sympy.Derivative):
            basis, t = [core], sympy.Matrix([[ratio]])
            text = f"multiplicative, a factor {ratio} moves the sum"
        else:
            closed = self._krylov(core, anchors)
            if closed is None:
                return self._split(s.name, core, hoist)
            basis, t = closed
            text = f"transport of dimension {len(basis)} over {_list(basis)}"
        self._note(s.name, text)
        return hoist * self._anchored(s.name, basis, t, tuple(a.name for a in anchors))

    def _separate(self, core: Sympy) -> dict[Sympy, Sympy] | None:
        """core = sum of phi(element) psi(result) by expansion; None where a term does not
        separate."""
        import sympy

        out: dict[Sympy, Sympy] = {}
        for term in sympy.Add.make_args(sympy.expand(core)):
            psi, phi = term.as_independent(*self.elements, as_Add=False)
            if phi.free_symbols & set(self.results):
                return None
            out[phi] = out.get(phi, 0) + psi
        return out

    def _krylov(self, core: Sympy, anchors: Sequence[Sympy]) -> tuple[list[Sympy], Sympy] | None:
        """{core} closed under d/da: with constant coefficients b(a') is the product over anchors
        of expm(M (a' - a)) times b(a)."""
        import sympy

        basis, rows = [core], {a: {} for a in anchors}  # type: ignore[var-annotated]
        n = 0
        while n < len(basis):
            for a in anchors:
                d = sympy.diff(basis[n], a)
                if d.has(sympy.Derivative, sympy.Subs, sympy.DiracDelta):
                    return None
                c = combination(d, basis, [*self.elements, *anchors])
                if c is None:
                    k, fn = sympy.factor_terms(d).as_independent(
                        *self.elements, *anchors, as_Add=False
                    )
                    basis.append(fn)
                    c = [0] * (len(basis) - 1) + [k]
                rows[a][n] = c
            n += 1
            if len(basis) > MAX_DIM:
                return None
        k = len(basis)
        total = sympy.eye(k)
        for a in anchors:
            full = [[*rows[a][r], *[0] * (k - len(rows[a][r]))] for r in range(k)]
            total = total * _exponential(sympy.Matrix(full), moved(a) - a)
        return basis, total.applyfunc(sympy.simplify)

    def _split(self, name: str, core: Sympy, hoist: Sympy) -> Sympy:
        """One sum per term, exp(e - a) kept whole; the readout may cancel, so it comes last."""
        import sympy

        whole = sympy.expand(core, power_exp=False, power_base=False)
        terms = [t.as_independent(*self.elements, as_Add=False) for t in sympy.Add.make_args(whole)]
        if len(terms) < 2:
            return None
        parts = []
        for n, (_, phi) in enumerate(terms):
            part = self._additive(Stage(f"{name}{n}", "sum", phi, self.guard))
            if part is None:
                return None
            parts.append(part)
        self._note(name, f"{len(terms)} sums by linearity; the readout may lose digits")
        return hoist * sum(psi * part for (psi, _), part in zip(terms, parts, strict=True))

    def _anchored(self, name: str, basis: list[Sympy], t: Sympy, anchors: tuple[str, ...]) -> Sympy:
        """A value for every basis function: a sum that exists, what a let makes of plain ones, or a
        new accumulator."""
        import sympy

        values: list[Sympy] = []
        fresh: list[tuple[int, Accumulator]] = []
        for n, b in enumerate(basis):
            if n and b.is_number and self.guard is TRUE:
                self._free(COUNT, "sum", _one())
            mine = [
                a
                for a in self.plan.accumulators.values()
                if a.monoid == "sum" and a.guard is self.guard
            ]
            plain = [a for a in mine if not a.anchors]
            same = [a for a in mine if set(a.anchors) == set(anchors)]
            known = [symbol(x) for x in anchors]
            c = combination(b, [a.body for a in same], [*self.elements, *known]) if same else None
            if c is not None:
                values.append(_weighted(c, same))
                continue
            c = combination(b, [a.body for a in plain], self.elements) if n and plain else None
            if c is not None:
                v = _weighted(c, plain)
                if len(sympy.Add.make_args(self._reduced(v))) == 1:  # no sum for a cancellation
                    values.append(v)
                    continue
            label = f"A_{name}{n}" if n else f"A_{name}"
            made = Accumulator(label, "sum", b, self.guard, anchors)
            self.plan.accumulators[label] = made
            values.append(symbol(label))
            fresh.append((n, made))
        for n, made in fresh:
            made.raw = sum(t[n, k] * v for k, v in enumerate(values))
            made.row = sympy.factor_terms(
                sum(t[n, k] * self._reduced(v) for k, v in enumerate(values))
            )
        return values[0]

    def _reduced(self, value: Sympy) -> Sympy:
        import sympy

        for a, e in reversed(self.lets.items()):
            closed = sympy.simplify(value.subs(a, e))
            if sympy.count_ops(closed) < sympy.count_ops(value):
                value = closed
        return value

    # -- extremes and products

    def _lattice(self, monoid: str, body: Sympy, name: str) -> Sympy:
        """What is monotone and reads no element comes off; the rest has to read no result."""
        import sympy

        if not body.free_symbols & set(self.results):
            return self._free(f"A_{name}", monoid, body)
        index = monoid.startswith("arg")
        if monoid != "prod" and body.func in (sympy.exp, sympy.log):
            inner = self._lattice(monoid, body.args[0], name)
            return inner if inner is None or index else body.func(inner)
        if monoid == "max" and isinstance(body, sympy.Abs):
            sides = [
                self._lattice("max", sympy.expand(s * body.args[0]), name + t)
                for s, t in ((1, "_up"), (-1, "_down"))
            ]
            return None if None in sides else sympy.Max(*sides, evaluate=False)
        c, core = sympy.factor_terms(body).as_independent(*self.elements, as_Add=False)
        if c != 1:
            inner = self._lattice(monoid, core, name)
            if inner is None:
                return None
            if monoid == "prod":
                return inner * c ** self._free(COUNT, "sum", _one())
            self.plan.positive.append(c)
            return inner if index else inner * c
        psi, phi = sympy.expand(body).as_independent(*self.elements, as_Add=True)
        if psi != 0 and monoid != "prod":
            inner = self._lattice(monoid, phi, name)
            return inner if inner is None or index else inner + psi
        return None

    # -- refusals

    def _reason(self, s: Stage) -> str:
        import sympy

        def mixes(x: Sympy) -> bool:
            both = x.free_symbols & set(self.elements) and x.free_symbols & set(self.results)
            odd = x.is_Pow and not x.exp.is_Integer
            return bool(both) and (x.is_Function or odd or isinstance(x, sympy.Piecewise))

        mixed = [x for x in sympy.postorder_traversal(s.body) if mixes(x)]
        late = ", ".join(sorted(str(a) for a in s.body.free_symbols & set(self.results)))
        text = f"{s.name} = {s.monoid} of {s.body} depends on {late}, known only after the pass"
        if mixed:
            text += (
                f"; {mixed[0]} mixes it with the elements inside {mixed[0].func.__name__}, which "
                "no product or sum of the two separates"
            )
        if s.monoid == "sum":
            from opwright.compiler.cascade.rank import sample_rank

            rank = sample_rank(self.chain, s, RANK)
            if rank is not None:
                text += (
                    f"; a sample of {RANK} elements over reachable results has rank {rank}: an "
                    f"additive state needs at least {rank} accumulators"
                )
                if rank <= MAX_DIM:
                    text += " (one may exist that the rules did not find)"
        return text


def combination(
    target: Sympy, functions: Sequence[Sympy], over: Sequence[Sympy]
) -> list[Sympy] | None:
    """Coefficients free of `over` with target = sum of c f, by comparing terms."""
    import sympy

    cs = [sympy.Dummy() for _ in functions]
    groups: dict[Sympy, Sympy] = {}
    difference = target - sum(c * f for c, f in zip(cs, functions, strict=True))
    for term in sympy.Add.make_args(sympy.expand(difference)):
        coefficient, rest = term.as_independent(*over, as_Add=False)
        groups[rest] = groups.get(rest, 0) + coefficient
    if not functions:
        return [] if all(g == 0 for g in groups.values()) else None
    found = sympy.solve(list(groups.values()), cs, dict=True)
    if not found:
        return None
    zero = {c: 0 for c in cs}
    return [
        sympy.simplify(found[0][c].subs(zero)) if c in found[0] else sympy.Integer(0) for c in cs
    ]


def _exponential(m: Sympy, t: Sympy) -> Sympy:
    import sympy

    power, total, k = sympy.eye(m.rows), sympy.zeros(m.rows), 0
    while not power.is_zero_matrix and k <= m.rows:
        total = total + power * t**k / sympy.factorial(k)
        power, k = power * m, k + 1
    return total if power.is_zero_matrix else (m * t).exp()


def _weighted(c: Sequence[Sympy], accumulators: Sequence[Accumulator]) -> Sympy:
    return sum(k * symbol(a.name) for k, a in zip(c, accumulators, strict=True))


def _one() -> Any:
    import sympy

    return sympy.Integer(1)


def _expr(s: Stage | Let) -> Sympy:
    return s.expr if isinstance(s, Let) else s.body


def _list(items: Any) -> str:
    return ", ".join(map(str, items))
