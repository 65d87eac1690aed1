"""What a seeded fault does, found apart from all gates: runs over the reals beside the original."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.compiler.importing import FAILURES
from opwright.compiler.mutating import NEAR
from opwright.ir.binding import InputError
from opwright.ir.dtypes import decode
from opwright.ir.expr import ExprError, leaves
from opwright.ir.interpreter import Trap
from opwright.ir.interpreter import run as interpret
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.ir.tile import TileProgram
from opwright.search.calls import edges, strided
from opwright.verify.field_gate import calls
from opwright.verify.inputs import Case, generate
from opwright.verify.sizes import Limits

TRAPS, DIFFERS, SAME, UNREAD = "traps", "differs", "same", "unread"
LIMITS, SMALL = Limits(elements=1 << 12), Limits(elements=1 << 8)
CASES, STEPS, SLOW = 12, 20_000, 0.2  # calls, statements and seconds of one
QUICK, ALL = 0.25, 2.5  # seconds of the calls that come first, and of making all
WALKED = 10  # of those that go past blocks
LEAST = 12  # calls, whatever they take
FAMILIES = ("normal", "sorted", "uniform", "ties")

Call = tuple[Mapping[str, int], Any, Mapping[str, Any], Mapping[str, Any]]


class Truth:
    """Small calls on which a program and its mutants are run, over the reals: cheap ones first."""

    def __init__(self, program: TileProgram, op: Operator) -> None:
        self.program, self.op = program, op
        facts = [f for f in program.facts if not strided(f)]
        near = edges(program)
        made = generate(op, 77, CASES, near, LIMITS, facts, FAMILIES, specials=False)
        more = generate(
            op, 78, CASES // 2, near, LIMITS, facts, FAMILIES, specials=False, beyond=near
        )
        small = generate(op, 79, 4, (2, 3), SMALL, facts, FAMILIES, False)
        found: list[tuple[float, int, Call]] = []
        end = time.thread_time() + ALL
        walked = itertools.islice(calls(program, op, near, 78), WALKED)
        for n, case in enumerate((*small.cases, *walked, *more.cases, *made.cases)):
            if time.thread_time() > end and len(found) > LEAST:
                break
            call = self.call(case)
            if call is not None:
                found.append((call[0], n, call[1]))
        found.sort(key=lambda x: x[:2])
        self.calls = [call for _, _, call in found]
        total = 0.0
        self.quick = 0  # so many of them take little time
        for seconds, _, _ in found:
            total += seconds
            self.quick += total <= QUICK

    def call(self, case: Case) -> tuple[float, Call] | None:
        """A call with what the original answers, and how long that takes; None for a slow one."""
        arrays = {t.name: decode(case.inputs[t.name], t.dtype) for t in self.op.inputs}
        params = with_alignment(self.program, case.params)
        begin = time.thread_time()
        try:
            wanted = interpret(self.program, case.sizes, arrays, params, limit=STEPS)
        except (Trap, *FAILURES):
            return None
        spent = time.thread_time() - begin
        return (spent, (case.sizes, arrays, params, wanted)) if spent < SLOW else None

    def effect(self, mutant: TileProgram, rest: bool = False) -> tuple[str, str]:
        """What running it on the quick calls shows, or on all others, and where."""
        chosen = self.calls[self.quick :] if rest else self.calls[: self.quick]
        for n, (sizes, arrays, params, wanted) in enumerate(chosen):
            said = ", ".join(f"{k} = {v}" for k, v in sizes.items())
            params = with_alignment(mutant, params)
            try:
                found = interpret(mutant, sizes, arrays, params, limit=2 * STEPS, order=n or None)
            except Trap as e:
                if e.kind == "limit":
                    continue
                return TRAPS, f"at {said}: {e}"
            except (ExprError, *FAILURES) as e:
                return UNREAD, f"cannot be run: {type(e).__name__}"
            for t in self.op.outputs:
                if t.name not in found and t.updates is not None:  # what was there stays
                    found[t.name] = np.asarray(arrays[t.updates])
                if t.name not in found:
                    return TRAPS, f"{t.name} is never written"
                if not near(t.kind, found[t.name], wanted[t.name]):
                    return DIFFERS, f"{t.name} differs at {said}"
        return SAME, f"on {len(self.calls) if rest else len(chosen)} calls"


class ArrayTruth:
    """The same for functions of arrays, of which operators are read."""

    def __init__(self, op: Operator) -> None:
        self.op = op
        made = generate(op, 77, CASES, (2, 3, 8), SMALL, (), FAMILIES, specials=False)
        self.calls: list[Call] = []
        for case in made.cases:
            arrays = {t.name: decode(case.inputs[t.name], t.dtype) for t in op.inputs}
            try:
                wanted = reference(op, arrays, case.params, case.sizes)
            except (InputError, *FAILURES):
                continue
            self.calls.append((case.sizes, arrays, case.params, wanted))

    def effect(self, read: Operator, fits: Callable[[Mapping[str, Any]], bool]) -> tuple[str, str]:
        """What evaluating what was read shows, on calls that fit what it was read for."""
        tried = 0
        for sizes, arrays, params, wanted in self.calls:
            if not fits({**params, **sizes}):
                continue
            said = ", ".join(f"{k} = {v}" for k, v in sizes.items())
            kept = {k: v for k, v in params.items() if k in {p.name for p in read.params}}
            try:
                found = reference(read, arrays, kept, sizes)
            except (InputError, *FAILURES):
                continue
            tried += 1
            for t, own in zip(self.op.outputs, read.outputs, strict=False):
                here, there = found[own.name], wanted[t.name]
                if here.shape != there.shape or not near(t.kind, here, there):
                    return DIFFERS, f"{t.name} differs at {said}"
        return (SAME, f"on {tried} calls") if tried else (UNREAD, "no call could be evaluated")


def with_alignment(program: TileProgram, params: Mapping[str, Any]) -> dict[str, Any]:
    """Params, and the alignments that the program's facts speak of."""
    aligned = {x.attr: True for f in program.facts for x in leaves(f, "param") if "(" in x.attr}
    return {**params, **aligned}


def near(kind: str, x: NDArray[Any], y: NDArray[Any]) -> bool:
    """Whether two results agree as evaluations over the reals do."""
    if x.size != y.size:
        return False
    x = x.reshape(y.shape)
    if kind == "real":
        return bool(np.allclose(x, y, rtol=NEAR, atol=NEAR * 1e-3, equal_nan=True))
    return bool(np.all(x == y))
