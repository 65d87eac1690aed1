"""Decides a failed obligation at one point: one program, iteration and lane at concrete sizes.

Wraps of 32-bit integers need tensors that no replay can hold. Where what fails is arithmetic over
sizes, program ids, loop variables and lanes alone, evaluating it at the solver's model, with exact
integers and after every fact and every condition on the way there, is a refutation as good as a
run.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from opwright.ir.delinearize import is_dense
from opwright.ir.expr import Expr, ExprError, evaluate, leaves, pid, show, substitute, var
from opwright.ir.tile import Buffer, Value, row_major
from opwright.verify.encode import Instance
from opwright.verify.terms import YES, Formula, Poly
from opwright.verify.walk import Path

if TYPE_CHECKING:
    from opwright.verify.obligation import Obligation
    from opwright.verify.prove import Prover

WIDEST = 65535  # programs along the second and third axis of a grid
SHORT = 0.7  # for one question about it
ALLOWANCE = 4.0  # for one obligation where a proof's time is over
REST = 15.0  # of a proof's time that is left for others
SECONDS = 3.0  # for making one counterexample small
QUESTIONS = 60
LIMITS = (1 << 10, 1 << 16, 1 << 20, 1 << 24, 1 << 28, 1 << 31, 1 << 40)


@dataclass(frozen=True, eq=False, slots=True)
class Probe:
    """An instance of a statement at which `cond` must hold where `mask` does."""

    launch: int
    path: Path
    at: Instance
    mask: Expr
    cond: Expr
    buffer: Buffer | None = None  # of an access, with its index
    index: tuple[Expr, ...] = ()


class Nowhere(Exception):
    """The point is not one of the program, or what holds there is not known."""


def refute(prover: Prover, o: Obligation) -> tuple[str, dict[str, Any]] | None:
    """One sentence and the counterexample, if the failed case of an obligation is real."""
    if o.probe is None or o.failed is None or o.answer is None:
        return None
    asker, end = prover.asker, prover.asker.deadline
    if end is not None and o.answer.result == "sat":  # what has a model is worth a little more time
        asker.deadline = max(end, time.monotonic() + ALLOWANCE)
    try:
        found = _model(prover, o)
    finally:
        asker.deadline = end
    if found is None:
        return None
    try:
        return _Point(prover, o, found).told()
    except (Nowhere, ExprError, KeyError, ZeroDivisionError):
        return None


def _model(prover: Prover, o: Obligation) -> Mapping[int, int] | None:
    """A model of the failed case: with a grid that devices take if there is one; then, as far as
    time allows, one of dense tensors, and of small sizes."""
    assert o.failed is not None and o.probe is not None
    facts, goal = o.failed
    t, encoder = prover.terms, prover.encoder
    sizes = [p for x, p in encoder.scalars.items() if isinstance(p, Poly) and x.op == "size"]
    grid = prover.program.kernels[o.probe.launch].grid[1:]
    narrow = [t.le(encoder.term(n, o.probe.at), t.const(WIDEST)) for n in grid]
    wrong = [*facts, t.no(goal)]
    found = _first(prover, [*wrong, *narrow], sizes, LIMITS)
    if found is not None:
        wrong += narrow
    elif narrow:
        found = _first(prover, wrong, sizes, LIMITS)
    asker = prover.asker
    if found is None or (asker.deadline or time.monotonic() + REST) < time.monotonic() + REST:
        return found
    patience, asker.timeout = asker.timeout, min(asker.timeout, SHORT)
    try:
        dense = [*wrong, *_dense(prover, o.probe.at)]
        usual = _first(prover, dense, sizes, LIMITS[2::2]) if len(dense) > len(wrong) else None
        if usual is not None:
            return _least(prover, dense, sizes, usual)
        return _least(prover, wrong, sizes, found)
    finally:
        asker.timeout = patience


def _first(
    prover: Prover, wrong: list[Formula], sizes: list[Poly], limits: Sequence[int]
) -> Mapping[int, int] | None:
    """A model at sizes below the least limit that has one."""
    t = prover.terms
    for limit in limits:
        answer = prover.asker.ask([*wrong, *(t.le(p, t.const(limit)) for p in sizes)])
        if answer.result == "sat" and answer.exact:
            return answer.model
        if answer.result == "unknown" and "time" in answer.reason:
            return None
    return None


def _dense(prover: Prover, at: Instance) -> list[Formula]:
    """Rows beside each other, as tensors usually have them."""
    t, encoder = prover.terms, prover.encoder
    out = []
    for b in prover.program.buffers():
        for e, n in zip(b.strides or (), row_major(b.shape), strict=False):
            if e.op == "stride":
                x, y = encoder.term(e, at), encoder.term(n, at)
                out += [t.le(x, y), t.le(y, x)]
    return [f for f in out if f is not YES]


def _least(
    prover: Prover, wrong: list[Formula], sizes: list[Poly], model: Mapping[int, int]
) -> Mapping[int, int]:
    """The same at the least value of one size after the other, the largest first, as far as time
    allows."""
    t, end = prover.terms, time.monotonic() + SECONDS
    held: list[Formula] = []
    left = QUESTIONS
    for p in sorted(sizes, key=lambda p: -model.get(next(iter(p.atoms)), 0)):
        (n,) = p.atoms
        low, high = t.atoms[n].lo or 0, model.get(n, 0)
        while low < high and left and time.monotonic() < end:
            middle, left = (low + high) // 2, left - 1
            answer = prover.asker.ask([*wrong, *held, t.le(p, t.const(middle))])
            if answer.result == "sat" and answer.exact:
                model, high = answer.model, min(middle, answer.model.get(n, 0))
            elif answer.result == "unsat":
                low = middle + 1
            else:
                break
        held.append(t.le(p, t.const(high)))
    return model


class _Point:
    def __init__(self, prover: Prover, o: Obligation, model: Mapping[int, int]) -> None:
        assert o.probe is not None
        self.prover, self.o, self.probe, self.model = prover, o, o.probe, model
        self.env: dict[Expr, Any] = {}
        scalars = prover.encoder.scalars
        given: dict[Expr, Any] = {
            x: self.number(p) for x, p in scalars.items() if isinstance(p, Poly)
        }
        found = prover.small.environment(given)
        if found is None:
            raise Nowhere
        self.env = found
        for x, p in self.probe.at.leaves.items():
            if x.op in ("pid", "var", "lane") and isinstance(p, Poly):
                self.env[x] = self.number(p)

    def number(self, p: Poly) -> int:
        total = 0
        for m, c in p.items:
            for n in m:
                low = self.prover.terms.atoms[n].lo
                c *= self.model.get(n, 0 if low is None else low)
            total += c
        return total

    def value(self, e: Expr) -> Any:
        return evaluate(substitute(e, {x: _expanded(x.attr) for x in leaves(e, "value")}), self.env)

    def require(self, holds: bool) -> None:
        if not holds:
            raise Nowhere

    def told(self) -> tuple[str, dict[str, Any]]:
        """Check the way to the statement, then that the condition fails."""
        p, program = self.probe, self.prover.program
        kernel = program.kernels[p.launch]
        for d, n in enumerate(kernel.grid):
            self.env.setdefault(pid(d), 0)
            self.require(0 <= self.env[pid(d)] < self.value(n))
        for step in p.path:
            if step.loop is None:
                self.require(bool(self.value(step.cond)) == step.taken)
                continue
            s = step.loop
            at, lo, hi = self.env[var(s.variable)], self.value(s.lo), self.value(s.hi)
            self.require(lo <= at < hi and (at - lo) % s.step == 0)
        for x in leaves(p.cond, "lane") + leaves(p.mask, "lane"):
            self.env.setdefault(x, 0)
            self.require(0 <= self.env[x] < x.attr.extent)
        self.require(bool(self.value(p.mask)))
        self.require(not self.value(p.cond))
        self.require(p.buffer is None or not kernel.lines or not self.lands(p.buffer))
        return self.sentence(kernel.name)

    def lands(self, b: Buffer) -> bool:
        """Whether the address of an index out of bounds lies between those of elements."""
        prover = self.prover
        if not is_dense(b, (*prover.program.facts, *prover.context.facts)):
            return False  # rows may have room between them
        steps = [self.value(s) for s in (row_major(b.shape) if b.strides is None else b.strides)]
        at = sum(self.value(i) * s for i, s in zip(self.probe.index, steps, strict=True))
        ends = [(self.value(n) - 1) * s for n, s in zip(b.shape, steps, strict=True)]
        return bool(sum(min(e, 0) for e in ends) <= at <= sum(max(e, 0) for e in ends))

    def sentence(self, kernel: str) -> tuple[str, dict[str, Any]]:
        p = self.probe
        sizes = {str(x.attr): int(v) for x, v in self.env.items() if x.op == "size"}
        program = [self.env[pid(d)] for d in range(len(self.prover.program.kernels[p.launch].grid))]
        lane = {x.attr.name: v for x, v in self.env.items() if x.op == "lane"}
        loops = {str(x.attr): v for x, v in self.env.items() if x.op == "var"}
        what, wraps = self.o.says or f"{show(p.cond)} does not hold", self.wrapped()
        if wraps:
            what = wraps
        name = self.o.statements[0].partition(".")[2] if self.o.statements else ""
        example: dict[str, Any] = {"sizes": sizes, "trap": self.o.traps[0], "message": what}
        example |= {"kernel": kernel, "statement": name, "program": program, "lane": lane}
        if loops:
            example["loops"] = loops
        if self.o.line:
            example["line"] = self.o.line
        params = {str(x.attr): v for x, v in self.env.items() if x.op == "param"}
        if params:
            example["params"] = params
        strides = {f"{x.attr[0]}, {x.attr[1]}": v for x, v in self.env.items() if x.op == "stride"}
        if strides:
            example["strides"] = strides
        places = [x for x in (self.o.line, name, f"kernel {kernel}") if x]
        numbers = ", ".join(f"{n} = {v}" for n, v in sizes.items())
        where = ", ".join(f"{n} = {v}" for n, v in {**loops, **lane}.items())
        text = f"{', '.join(places)}, program {tuple(program)}{', ' if where else ''}{where}: "
        return f"{numbers}: {text}{what if wraps else f'not true that {what}'}", example

    def wrapped(self) -> str:
        """What a number is that does not fit its type, and what becomes of it there."""
        m = re.fullmatch(r"(.*) fits (\d+) bits(.*)", self.o.says or "")
        if m is None or self.o.traps[0] != "wrap":
            return ""
        bits, todo = int(m[2]), [self.probe.cond]
        ends = (-(1 << bits - 1), (1 << bits - 1) - 1)
        while todo:
            x = todo.pop()
            if x.op in ("and", "or"):
                todo += x.args
            if x.op != "le" or self.value(x):
                continue
            for limit, e in (x.args, x.args[::-1]):
                if limit.op == "const" and limit.attr in ends:
                    number = self.value(e)
                    left = (number - ends[0]) % (1 << bits) + ends[0]
                    return f"{m[1]} = {number} wraps in {bits} bits, to {left}{m[3]}"
        return ""


def _expanded(v: Value) -> Expr:
    """An index value as the expression that it is."""
    if v.op == "index":
        e: Expr = v.attr
        return substitute(e, {x: _expanded(x.attr) for x in leaves(e, "value")})
    raise Nowhere
