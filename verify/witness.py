"""Proposes which instance of a store writes a given element: digits of a mixed radix expansion.

A proposal is never trusted: `holds` says when it is a real instance that hits the element, and
that is what is proved. A poor proposal costs a proof, not soundness.
"""

from __future__ import annotations

from collections.abc import Iterable

from opwright.ir.expr import Expr, conjuncts, leaves, pid, substitute, var, walk
from opwright.verify.encode import Encoder, Instance
from opwright.verify.terms import Formula, Poly
from opwright.verify.walk import Access

Equation = tuple[Expr, Poly]


class Witness:
    """Instances of one store that should write an element."""

    def __init__(
        self, encoder: Encoder, store: Access, fixed: dict[Expr, Poly], together: bool = False
    ) -> None:
        """`together`: digits do not depend on small offsets, so that the stores of an unrolled loop
        have their quotients in common, and a prover one division in place of many."""
        self.encoder, self.terms, self.store = encoder, encoder.terms, store
        grid = encoder.program.kernels[store.launch].grid
        self.loops = {var(s.variable): s for s in store.loops}
        order = [*(pid(d) for d in range(len(grid))), *self.loops, *(a.lane for a in store.axes)]
        self.free = [v for v in order if v not in fixed]
        self.fixed, self.together = fixed, together
        self.digits: dict[Expr, tuple[Expr, Expr, int]] = {}  # of a lane: high, low, radix

    def proposals(self, target: list[Poly]) -> list[Formula]:
        """Conditions, each of which implies that the store writes the element.

        What no index determines is at its first iteration, or at its last one.
        """
        pairs = [*self.pinned(), *zip(self.store.index, target, strict=True)]
        pairs = self.in_digits(pairs)
        equations = self.undivided(pairs)
        out: dict[Formula, None] = {}
        for last in (False, True):
            at = self.solve(equations, last)
            out[self.holds(at, target)] = None
        return list(out)

    def pinned(self) -> list[Equation]:
        """What the mask fixes: threads at numbers."""
        out: list[Equation] = []
        for c in conjuncts(self.store.mask):
            if c.op == "eq" and c.args[1].op == "const" and leaves(c, "lane"):
                if not leaves(c, "var", "value", "pid"):
                    out.append((c.args[0], self.terms.const(int(c.args[1].attr))))
        return out

    def in_digits(self, pairs: list[Equation]) -> list[Equation]:
        """Lanes that occur as quotient and remainder by one number alone, as two digits."""
        known: dict[Expr, Expr] = {}
        for a in self.store.axes:
            found = {x for e, _ in pairs for x in walk(e) if a.lane in x.args}
            radices = {x.args[-1] for x in found}
            if len(found) < 2 or len(radices) > 1 or any(e is a.lane for e, _ in pairs):
                continue
            (radix,) = radices
            split = all(x.op in ("floordiv", "mod") and x.args[0] is a.lane for x in found)
            if not split or radix.op != "const" or radix.attr < 2 or a.lane not in self.free:
                continue
            high, low = (var(f"\0{name} {a.name}") for name in ("high", "low"))
            self.digits[a.lane] = high, low, int(radix.attr)
            at = self.free.index(a.lane)
            self.free[at : at + 1] = [high, low]
            known |= {a.lane // radix: high, a.lane % radix: low}
        return [(substitute(e, known), v) for e, v in pairs] if known else pairs

    # -- the system of equations
    def open(self, e: Expr, solved: set[Expr]) -> bool:
        """Whether an expression depends on something not yet decided."""
        if e in self.free:
            return e not in solved
        return any(self.open(a, solved) for a in e.args)

    def undivided(self, equations: list[Equation]) -> list[Equation]:
        """Join quotient and remainder of one number, inside out, until no division is on top."""
        t = self.terms
        todo = list(equations)
        for _ in range(2 * len(equations) + 4):
            divided = [q for q in todo if q[0].op in ("floordiv", "mod") and self.open(q[0], set())]
            joined = self._join(divided)
            if joined is not None:
                quotient, remainder, equation = joined
                todo = [equation, *(q for q in todo if q is not quotient and q is not remainder)]
                continue
            if not divided:
                break
            alone = divided[-1]
            e, value = alone
            if e.op == "floordiv":
                value = t.mul(value, self.constant(e.args[1]))
            todo = [(e.args[0], value), *(q for q in todo if q is not alone)]
        return todo

    def constant(self, e: Expr) -> Poly:
        """A divisor; it holds nothing that is to be decided."""
        return self.encoder.term(e, Instance(self.store.launch, "w", dict(self.fixed)))

    def _join(self, divided: list[Equation]) -> tuple[Equation, Equation, Equation] | None:
        t = self.terms
        for low in divided:
            if low[0].op != "mod":
                continue
            number, radix = low[0].args
            for high in divided:
                if high[0].op != "floordiv":
                    continue
                value = t.add(t.mul(high[1], self.constant(radix)), low[1])
                if high[0].args == low[0].args:
                    return high, low, (number, value)
                if number.op == "floordiv" and self._product(high[0], number, radix):
                    return high, low, (number, value)
        return None

    def _product(self, high: Expr, number: Expr, radix: Expr) -> bool:
        """Whether x // (radix * d) stands beside x // d % radix."""
        if high.args[0] is not number.args[0]:
            return False
        together = self.terms.mul(self.constant(number.args[1]), self.constant(radix))
        return self.constant(high.args[1]) is together

    # -- digits
    def solve(self, equations: list[Equation], last: bool) -> Instance:
        """Digits by size of their weight, largest first; each takes what fits into what is left."""
        t = self.terms
        counts: dict[Expr, Poly] = {}
        for e, value in equations:
            digits = [(c, v) for v, c in self.weights(e).items() if v not in counts]
            for c, v in sorted(digits, key=lambda x: self._size(x[0]), reverse=True):
                left = t.sub(value, self.rough(e, counts, last))
                n = c.constant
                if n is not None and n < 0:
                    left, c = t.scale(left, -1), t.const(-n)
                if self.together and n is not None:
                    left = t.shift(left, self._offset(left, abs(n)))
                counts[v] = t.divide(left, c)[0]
        return self.instance(counts, last)

    def _offset(self, left: Poly, weight: int) -> int:
        """What takes a constant between -weight and 0 away from a polynomial."""
        constant = next((c for m, c in left.items if not m), 0)
        return -constant if -weight < constant < 0 else 0

    def _size(self, p: Poly) -> tuple[int, int]:
        """Products weigh more than numbers."""
        n = p.constant
        if n is not None:
            return 0, abs(n)
        m, c = max(p.items, key=lambda x: len(x[0]))
        return len(m), abs(c)

    def instance(self, counts: dict[Expr, Poly], last: bool) -> Instance:
        """What the digits say; others are zero, and loops at their first or last iteration."""
        t, encoder = self.terms, self.encoder
        at = Instance(self.store.launch, "w", dict(self.fixed))
        for v in self.free:  # outer loops come first
            own = counts.get(v)
            if v not in self.loops:
                at.bind(v, t.const(0) if own is None else own)
                continue
            s = self.loops[v]
            lo = encoder.term(s.lo, at)
            if own is None and last:
                rest = t.shift(t.sub(encoder.term(s.hi, at), lo), -1)
                own = t.divide(rest, t.const(s.step))[0]
            at.bind(v, lo if own is None else t.add(lo, t.scale(own, s.step)))
        for v, (high, low, radix) in self.digits.items():
            at.bind(v, t.add(t.scale(at.leaves[high], radix), at.leaves[low]))
        return at

    def rough(self, e: Expr, counts: dict[Expr, Poly], last: bool) -> Poly:
        """The expression with every undecided digit at zero."""
        t = self.terms
        if e in self.free:
            own = counts.get(e, t.const(0))
            if e not in self.loops:
                return own
            s = self.loops[e]
            return t.add(self.rough(s.lo, counts, last), t.scale(own, s.step))
        if e.op in ("add", "sub", "mul", "neg"):
            args = [self.rough(a, counts, last) for a in e.args]
            return self.encoder.apply(e.op, args, e, Instance(0, ""))  # type: ignore[no-any-return]
        if self.undecided(e, counts):
            return t.const(0)
        return self.encoder.term(e, self.instance(counts, last))

    def undecided(self, e: Expr, counts: dict[Expr, Poly]) -> bool:
        """Whether a digit that an expression depends on, through lower bounds too, is open."""
        if e in self.free:
            below = e in self.loops and self.undecided(self.loops[e].lo, counts)
            return below or e not in counts
        return any(self.undecided(a, counts) for a in e.args)

    def weights(self, e: Expr) -> dict[Expr, Poly]:
        """How much an expression changes when a digit goes one step; a loop brings its lower
        bound."""
        t = self.terms
        if e in self.free:
            if e not in self.loops:
                return {e: t.const(1)}
            return {**self.weights(self.loops[e].lo), e: t.const(self.loops[e].step)}
        if e.op in ("add", "sub"):
            x, y = (self.weights(a) for a in e.args)
            zero, sign = t.const(0), 1 if e.op == "add" else -1
            both = {v: t.add(x.get(v, zero), y.get(v, zero), sign) for v in {**x, **y}}
            return {v: c for v, c in both.items() if c.constant != 0}
        if e.op == "neg":
            return {v: t.scale(c, -1) for v, c in self.weights(e.args[0]).items()}
        if e.op == "mul":
            for a, b in (e.args, e.args[::-1]):
                if not self.open(b, set()):
                    size = self.constant(b)
                    return {v: t.mul(c, size) for v, c in self.weights(a).items()}
        return {}

    # -- what makes a proposal true
    def holds(self, at: Instance, target: list[Poly]) -> Formula:
        """The instance exists and writes the element."""
        t, encoder, w = self.terms, self.encoder, self.store
        parts: list[Formula] = []
        for d, n in enumerate(encoder.program.kernels[w.launch].grid):
            p = at.leaves[pid(d)]
            parts += [t.ge0(p), t.lt(p, encoder.term(n, at))]
        for step in w.path:
            if step.loop is None:
                c = encoder.formula(step.cond, at)
                parts.append(c if step.taken else t.no(c))
                continue
            s = step.loop
            x, lo, hi = at.leaves[var(s.variable)], encoder.term(s.lo, at), encoder.term(s.hi, at)
            parts += [t.le(lo, x), t.lt(x, hi)]
            if s.step > 1:
                parts.append(t.eq0(t.divide(t.sub(x, lo), t.const(s.step))[1]))
        for a in w.axes:
            x = at.leaves[a.lane]
            parts += [t.ge0(x), t.lt(x, t.const(a.extent))]
        parts.append(encoder.formula(w.mask, at))
        parts += [t.eq(encoder.term(i, at), x) for i, x in zip(w.index, target, strict=True)]
        return t.all(parts)


def proposals(
    encoder: Encoder,
    store: Access,
    target: list[Poly],
    fixed: dict[Expr, Poly] | None = None,
    together: bool = False,
) -> Iterable[Formula]:
    """Conditions under which the store writes the element at `target`."""
    return Witness(encoder, store, fixed or {}, together).proposals(target)
