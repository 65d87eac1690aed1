"""Gate G7: what a spec says of an operator, and what follows from it, holds of what is computed.

`ensures` and `law` clauses are judged on a candidate's results, and so are relations that hold of
the operator itself: entries along an axis that the operator treats alike may be permuted or cut
out, and memory between rows is nothing to it. The caller runs the candidate; what rounding alone
breaks, of the reference's own results, is not held against it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from opwright.ir.binding import InputError
from opwright.ir.clauses import evaluate_clause
from opwright.ir.dtypes import decode, encode
from opwright.ir.expr import ExprError, walk
from opwright.ir.laws import LawResult, evaluate_law
from opwright.ir.op import Clause, Law, Operator, Tensor
from opwright.ir.record import Record
from opwright.ir.reference import reference
from opwright.verify.draw import Array, holds
from opwright.verify.inputs import Case
from opwright.verify.numeric import Observation, Run, bounds

SHOWN = 48  # elements of all inputs of a counterexample that are written out
CASES = 6  # of each law
SLACK = 4.0  # times what the numeric gate allows of an element: a claim reads several
SECONDS = 8.0
DENSE = "it takes dense memory only"
BROKEN = (ArithmeticError, ExprError, InputError, LookupError, TypeError, ValueError)


class NotTaken(Exception):
    """The candidate does not take a call: its facts exclude it, or it could not be run."""


@dataclass(slots=True)
class _Tally:
    tried: int = 0
    left: dict[str, None] = field(default_factory=dict)


def law_gate(op: Operator, cases: Sequence[Case], run: Run, subject: str = "") -> list[Record]:
    """One record for each clause and each derived relation."""
    gate = _Gate(op, [c for c in cases if not c.special and _full(c)], run, subject)
    return list(gate.records())


class _Gate:
    def __init__(self, op: Operator, cases: Sequence[Case], run: Run, subject: str) -> None:
        self.op, self.candidate, self.subject = op, run, subject
        self.cases = sorted(cases, key=lambda c: sum(x.size for x in c.inputs.values()))
        self.end = time.monotonic() + SECONDS
        self.known: dict[int, tuple[Case, Mapping[str, Array]]] = {}
        self.limits: dict[int, tuple[Case, float]] = {}

    # -- calls ------------------------------------------------------------------------------------

    def call(self, case: Case, layout: str = "dense") -> Mapping[str, Array]:
        """The candidate's results, decoded; the same call gives them again."""
        if layout == "dense" and id(case) in self.known:
            return self.known[id(case)][1]
        seen = self.candidate(case, layout)
        if seen is None:
            raise NotTaken("the candidate's facts exclude it")
        if seen.failure:
            raise NotTaken(seen.failure)
        out = {t.name: decode(seen.outputs[t.name], t.dtype) for t in self.op.outputs}
        if layout == "dense":
            self.known[id(case)] = case, out
        return out

    def compute(
        self, inputs: Mapping[str, Array], params: Mapping[str, Any], sizes: Mapping[str, int]
    ) -> Mapping[str, Array]:
        """The candidate as a function of decoded values, for a law."""
        case = Case("law", "law", dict(sizes), dict(params), self.stored(inputs))
        seen = self.candidate(case, "dense")
        if seen is None or seen.failure:
            raise NotTaken(seen.failure if seen else "the candidate's facts exclude it")
        return {t.name: decode(seen.outputs[t.name], t.dtype) for t in self.op.outputs}

    def exact(
        self, inputs: Mapping[str, Array], params: Mapping[str, Any], sizes: Mapping[str, int]
    ) -> Mapping[str, Array]:
        """The reference, rounded as results are stored."""
        found = reference(self.op, inputs, params, {s: sizes[s] for s in self.op.free_sizes})
        return {
            t.name: decode(encode(found[t.name], t.dtype), t.dtype).reshape(found[t.name].shape)
            for t in self.op.outputs
        }

    def stored(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        out = {}
        for t in self.op.inputs:
            x = np.asarray(inputs[t.name])
            out[t.name] = np.asarray(encode(x, t.dtype)).reshape(x.shape)
        return out

    def plain(self, case: Case) -> dict[str, Array]:
        return {t.name: decode(case.inputs[t.name], t.dtype) for t in self.op.inputs}

    def limit(self, case: Case) -> float:
        """The most that the numeric gate allows any real result of a call to be off."""
        if id(case) not in self.limits:
            found = bounds(self.op, case, self._reference)
            most = 0.0
            for b in found.values():
                if b.allowed is not None and b.allowed.size:
                    finite = b.allowed[np.isfinite(b.allowed)]
                    most = max(most, float(finite.max(initial=0.0)))
            self.limits[id(case)] = case, most
        return self.limits[id(case)][1]

    def _reference(
        self, inputs: Mapping[str, Array], sizes: Mapping[str, int], params: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        return reference(self.op, inputs, params, {s: sizes[s] for s in self.op.free_sizes})

    # -- records ----------------------------------------------------------------------------------

    def records(self) -> Iterator[Record]:
        for clause in self.op.clauses:
            if clause.kind == "ensures":
                yield self.judged(f"ensures.{clause.name}", self.ensures, clause)
            elif clause.kind == "law" and isinstance(clause.source, Law):
                yield self.judged(f"law.{clause.name}", self.law, clause)
        free = independent(self.op, self.cases)
        for size, axes in free.items():
            yield self.judged(f"reordered.{size}", self.reordered, size, axes)
            if separable(self.op, self.cases, size, axes):
                yield self.judged(f"slices.{size}", self.slices, size, axes)
        if any(t.axes for t in (*self.op.inputs, *self.op.outputs)):
            found = self.judged("padding", self.padding)
            if not found.reason.endswith(DENSE):  # nothing is claimed of other memory
                yield found

    def judged(self, name: str, check: Callable[..., Record | None], *more: Any) -> Record:
        """TESTED on how many calls, REFUTED by one, or UNKNOWN."""
        begin = time.perf_counter()
        tally = _Tally()
        found: Record | None = None
        for n, case in enumerate(self.cases):
            if tally.tried >= CASES or time.monotonic() > self.end:
                break
            try:
                found = check(tally, n, case, *more)
            except NotTaken as e:
                tally.left[str(e)[:200]] = None
            except BROKEN as e:
                tally.left[f"{type(e).__name__}: {e}"[:200]] = None
            if found is not None:
                break
        if found is None and tally.tried:
            found = Record("", "G7", "TESTED", f"holds on {tally.tried} calls")
        elif found is None:
            late = time.monotonic() > self.end
            why = next(iter(tally.left), "no time was left" if late else "no call of it was tried")
            found = Record("", "G7", "UNKNOWN", f"not tried: {why}")
        spent = time.perf_counter() - begin
        return replace(found, id=f"G7.{name}", subject=self.subject, seconds=spent)

    def broken(
        self, case: Case, what: str, miss: float | None, again: bool, more: Mapping[str, Any]
    ) -> Record:
        """A claim that does not hold: REFUTED where it fails again, by more than rounding."""
        example: dict[str, Any] = {
            "case": case.name,
            "family": case.family,
            "sizes": dict(case.sizes),
            "params": {k: _number(v) for k, v in case.params.items()},
            "message": what,
            **more,
        }
        if sum(x.size for x in case.inputs.values()) <= SHOWN:
            example["inputs"] = {n: x.tolist() for n, x in self.plain(case).items()}
        if not again:
            return Record("", "G7", "UNKNOWN", f"{what} on {case}, but not a second time")
        if miss is not None and miss <= SLACK * self.limit(case):
            allowed = self.limit(case)
            why = f"{what} on {case}; the numeric gate allows a result to be {allowed:.2g} off"
            return Record("", "G7", "UNKNOWN", why)
        return Record("", "G7", "REFUTED", f"{what} on {case}", "", (), example)

    # -- clauses ----------------------------------------------------------------------------------

    def ensures(self, tally: _Tally, n: int, case: Case, clause: Clause) -> Record | None:
        op, plain = self.op, self.plain(case)

        def judge(values: Mapping[str, Array]) -> Any:
            return evaluate_clause(op, clause, plain, values, case.params, case.sizes)

        if not judge(self.exact(plain, case.params, case.sizes)).holds:
            tally.left["rounding alone breaks it"] = None
            return None
        found = judge(self.call(case))
        tally.tried += 1
        if found.holds:
            return None
        again = not judge(self.compute(plain, case.params, case.sizes)).holds
        return self.broken(case, found.detail, found.violation, again, {})

    def law(self, tally: _Tally, n: int, case: Case, clause: Clause) -> Record | None:
        plain = self.plain(case)
        free = {s: case.sizes[s] for s in self.op.free_sizes}

        def judge(run: Any, arguments: Mapping[str, Array] | None) -> LawResult:
            rng = np.random.default_rng([n, 17])
            return evaluate_law(self.op, clause, plain, run, rng, case.params, free, arguments)

        first = judge(self.exact, None)
        if first.result is None or not first.result.holds:
            why = first.reason if first.result is None else "rounding alone breaks it"
            tally.left[why] = None
            return None
        found = judge(self.compute, first.arguments)
        if found.result is None:
            tally.left[found.reason] = None
            return None
        tally.tried += 1
        if found.result.holds:
            return None
        second = judge(self.compute, first.arguments).result
        again = second is not None and not second.holds
        drawn = {k: v.tolist() for k, v in first.arguments.items() if v.size <= SHOWN}
        more = {"arguments": drawn} if drawn else {}
        return self.broken(case, found.result.detail, found.result.violation, again, more)

    # -- relations --------------------------------------------------------------------------------

    def differs(
        self, case: Case, a: Mapping[str, Array], b: Mapping[str, Array], places: Sequence[Tensor]
    ) -> tuple[str, float] | None:
        """Where two results that should agree do not, and by how much."""
        for t in places:
            x, y = (np.asarray(v[t.name]) for v in (a, b))
            if t.kind != "real":
                found = bounds(self.op, case, self._reference)[t.name]
                clear = found.unclear.any() or found.apart is not None
                if x.shape != y.shape or (not clear and (x != y).any()):
                    return f"{t.name} differs", np.inf
                continue
            with np.errstate(invalid="ignore"):
                gap = np.where(x == y, 0.0, np.abs(x - y))
                gap = np.where(np.isnan(x) & np.isnan(y), 0.0, gap)
                gap = np.where(np.isnan(gap), np.inf, gap)
            if gap.size and float(gap.max()) > 2 * self.limit(case):
                at = np.unravel_index(int(gap.argmax()), gap.shape)
                place = ", ".join(str(int(i)) for i in at)
                return f"{t.name}[{place}] is {x[at]:.9g} and {y[at]:.9g}", float(gap.max())
        return None

    def reordered(
        self, tally: _Tally, n: int, case: Case, size: str, axes: Mapping[str, Sequence[int]]
    ) -> Record | None:
        count = case.sizes[size]
        if count < 2:
            return None
        order = np.random.default_rng([n, 5]).permutation(count)
        order = np.roll(np.arange(count), 1) if (order == np.arange(count)).all() else order
        inputs = {k: _taken(x, axes.get(k, ()), order) for k, x in case.inputs.items()}
        if holds(self.op, inputs, case.sizes, case.params):
            tally.left["another order is against the contract"] = None
            return None
        other = replace(case, name=f"{case.name}.reordered", inputs=inputs)
        found = self.call(other)
        wanted = {k: _taken(x, axes.get(k, ()), order) for k, x in self.call(case).items()}
        tally.tried += 1
        told = self.differs(case, wanted, found, self.op.outputs)
        if told is None:
            return None
        what = f"{told[0]} when entries along {size} are in another order"
        again = self.differs(case, wanted, self.compute(
            self.plain(other), case.params, case.sizes), self.op.outputs) is not None  # fmt: skip
        return self.broken(case, what, None, again, {"order": order.tolist()})

    def slices(
        self, tally: _Tally, n: int, case: Case, size: str, axes: Mapping[str, Sequence[int]]
    ) -> Record | None:
        count = case.sizes[size]
        if count < 3 or any(not axes.get(t.name) for t in self.op.outputs):
            return None
        part = _part(count)
        sizes = {**case.sizes, size: len(part)}
        inputs = {k: _taken(x, axes.get(k, ()), part) for k, x in case.inputs.items()}
        if holds(self.op, inputs, sizes, case.params):
            tally.left["a part is against the contract"] = None
            return None
        other = replace(case, name=f"{case.name}.part", inputs=inputs, sizes=sizes)
        self._reference(self.plain(other), sizes, case.params)  # InputError for sizes not allowed
        found = self.call(other)
        wanted = {k: _taken(x, axes.get(k, ()), part) for k, x in self.call(case).items()}
        tally.tried += 1
        told = self.differs(case, wanted, found, self.op.outputs)
        if told is None:
            return None
        what = f"{told[0]} of the whole and of the part {part[0]}..{part[-1] + 1} along {size}"
        again = self.differs(case, wanted, self.compute(
            self.plain(other), case.params, sizes), self.op.outputs) is not None  # fmt: skip
        return self.broken(case, what, None, again, {})

    def padding(self, tally: _Tally, n: int, case: Case) -> Record | None:
        """Poison between rows, where the candidate takes such memory, changes nothing."""
        first = self.candidate(case, "gapped")
        if first is None:
            tally.left[DENSE] = None
            return None
        if first.failure:
            raise NotTaken(first.failure)
        tally.tried += 1
        wrong = (*first.mutated, *first.damage)
        found = {t.name: decode(first.outputs[t.name], t.dtype) for t in self.op.outputs}
        told = self.differs(case, self.call(case), found, self.op.outputs)
        if not wrong and told is None:
            return None
        what = wrong[0] if wrong else f"{told[0] if told else ''} with gaps between rows"
        return self.broken(case, what, None, True, {"layout": "gapped"})


def independent(op: Operator, cases: Sequence[Case]) -> dict[str, dict[str, list[int]]]:
    """Sizes along whose axes the reference itself follows the order of entries, or does not care
    for it; {size: {tensor: axes}}."""
    out: dict[str, dict[str, list[int]]] = {}
    tensors = (*op.inputs, *op.outputs)
    real = {t.name for t in op.inputs if t.kind == "real"}
    for s in op.sizes:
        axes = {
            t.name: [k for k, e in enumerate(t.shape) if e.op == "size" and e.attr == s]
            for t in tensors
        }
        told = {
            t.name for t in tensors for e in t.shape for x in walk(e)
            if x.op == "size" and x.attr == s
        }  # fmt: skip
        if not any(axes[n] for n in real) or any(not axes[n] for n in told):
            continue
        few = [c for c in cases if c.sizes[s] > 2][:4]
        verdicts = [_follows(op, c, s, axes, n) for n, c in enumerate(few)]
        if len([v for v in verdicts if v]) > 1 and not any(v is False for v in verdicts):
            out[s] = {n: k for n, k in axes.items() if k}
    return out


def separable(
    op: Operator, cases: Sequence[Case], size: str, axes: Mapping[str, Sequence[int]]
) -> bool:
    """Whether the reference's results for a part of the entries are that part of its results."""
    if any(not axes.get(t.name) for t in op.outputs):
        return False
    few = [c for c in cases if c.sizes[size] > 2][:4]
    verdicts = [_agrees(op, c, size, axes, _part(c.sizes[size])) for c in few]
    return any(verdicts) and not any(v is False for v in verdicts)


def _part(count: int) -> Array:
    return np.arange(count // 3, count - 1)


def _follows(
    op: Operator, case: Case, size: str, axes: Mapping[str, Sequence[int]], n: int
) -> bool | None:
    order = np.random.default_rng([n, 9]).permutation(case.sizes[size])
    order = order[::-1] if (order == np.arange(len(order))).all() else order
    return _agrees(op, case, size, axes, order)


def _agrees(
    op: Operator, case: Case, size: str, axes: Mapping[str, Sequence[int]], pick: Array
) -> bool | None:
    """Whether the reference of picked entries is what is picked of the reference; None where the
    contract forbids the pick."""
    sizes = {**case.sizes, size: len(pick)}
    inputs = {k: _taken(x, axes.get(k, ()), pick) for k, x in case.inputs.items()}
    made = []
    try:
        if holds(op, inputs, sizes, case.params):
            return None
        for stored, own in ((case.inputs, case.sizes), (inputs, sizes)):
            plain = {t.name: decode(stored[t.name], t.dtype) for t in op.inputs}
            free = {s: own[s] for s in op.free_sizes}
            made.append(reference(op, plain, case.params, free))
    except BROKEN:
        return None
    return all(
        np.allclose(
            _taken(made[0][t.name], axes.get(t.name, ()), pick),
            made[1][t.name],
            rtol=1e-8,
            atol=1e-10,
            equal_nan=True,
        )
        for t in op.outputs
    )


def _taken(x: Array, axes: Sequence[int], order: Array) -> Array:
    for axis in axes:
        x = np.take(x, order, axis=axis)
    return np.ascontiguousarray(x) if x.ndim else x


def _full(case: Case) -> bool:
    return all(x.size for x in case.inputs.values())


def _number(v: Any) -> Any:
    return v.item() if isinstance(v, np.generic) else v


__all__ = ["NotTaken", "Observation", "independent", "law_gate"]
