"""Gate G4: a tile program equals its operator over finite fields, at small adversarial shapes.

The program that was read of a text runs on random points of a few prime fields, and so does the
meaning of the operator; both take the decisions that a float64 beside every number takes, so that
orders can be forced by the choice of inputs. Equality there is equality over the reals but for an
error of known probability. A difference is a refutation only where a run in float64 is wrong, too,
by more than the numeric gate allows; what is stored to, and in which places, is trapped as ever.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from opwright.ir.dtypes import decode, encode
from opwright.ir.evaluator import MeaningError
from opwright.ir.expr import Expr, ExprError, evaluate, leaves, walk
from opwright.ir.field import BITS, PRIMES, Reals
from opwright.ir.field_meaning import FieldEvaluator, TooLarge
from opwright.ir.interpreter import Trap, run
from opwright.ir.op import Operator, Tensor
from opwright.ir.readings import Fields
from opwright.ir.record import Record
from opwright.ir.reference import InputError, reference
from opwright.ir.tile import Buffer, TileProgram
from opwright.ir.tileops import guesses
from opwright.verify.draw import Array, holds
from opwright.verify.inputs import Case, generate
from opwright.verify.numeric import Observation, bounds, numeric
from opwright.verify.sizes import Limits

SHAPES = 8
LIMITS = Limits(elements=1 << 12, work=1 << 17)
WIDE = Limits(elements=1 << 14, work=1 << 19)  # where blocks are too large for those
NEAR = (4, 8, 16)
STEPS = 4_000  # statements of one run
SECONDS = 1.0  # of this thread's own time, after which only the first few runs are made
LEAST = 4  # runs, whatever they take
FAMILIES = ("normal", "uniform", "normal", "ties")
ORDERS = ("ascending", "descending", "negative", "peaks", "large")
# what floats do with very large finite numbers, a field does not: what was found has no meaning
HIDDEN = ("missing", "unwritten", "poison")
BROKEN = (ArithmeticError, ExprError, LookupError, MeaningError, TypeError, ValueError)


@dataclass(slots=True)
class _Seen:
    """What the runs of a gate were."""

    runs: list[Case] = field(default_factory=list)
    orders: dict[str, None] = field(default_factory=dict)
    skipped: dict[str, None] = field(default_factory=dict)
    elements: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Difference:
    output: str
    what: str
    example: Mapping[str, Any]


def field_gate(
    program: TileProgram,
    op: Operator,
    subject: str = "",
    near: Sequence[int] = (),
    weak: str = "",
    seed: int = 0,
) -> list[Record]:
    """One record for each output: TESTED with what was run, REFUTED with a counterexample that
    floats show, too, UNKNOWN with a reason. `near` are blocks of the program, `weak` what keeps its
    meaning from being that of a run in lockstep."""
    begin = time.perf_counter()
    gate = _Gate(program, op, subject, weak)
    why = gate.refusal()
    records = gate.records(why) if why else gate.judge(near or NEAR, seed)
    spent = (time.perf_counter() - begin) / max(len(records), 1)
    return [replace(r, seconds=spent) for r in records]


class _Gate:
    def __init__(self, program: TileProgram, op: Operator, subject: str, weak: str) -> None:
        self.program, self.op, self.subject, self.weak = program, op, subject, weak
        self.seen = _Seen()
        self.buffers = {b.name: b for b in program.buffers()}
        self.literals = literals(op)
        self.aligned = {
            x.attr: True for f in program.facts for x in leaves(f, "param") if "(" in str(x.attr)
        }

    def refusal(self) -> str:
        """Why a program cannot be run over fields at all."""
        if not self.program.kernels:
            return "the source was not read"
        if guesses(self.program):
            return "it calls functions of which nothing is known"
        lacks = [t.name for t in self.op.outputs if t.name not in self.buffers]
        return f"it has no buffer for {lacks[0]}" if lacks else ""

    # -- runs -------------------------------------------------------------------------------------

    def judge(self, near: Sequence[int], seed: int) -> list[Record]:
        end = time.thread_time() + SECONDS
        done = 0
        for point, case in enumerate(self.cases(near, seed)):
            if done >= LEAST and time.thread_time() > end:
                break
            try:
                found = self.run(case, point)
            except TooLarge as e:
                self.seen.skipped[str(e)] = None
                continue
            except BROKEN as e:
                self.seen.skipped[f"{type(e).__name__}: {e}"[:200]] = None
                continue
            done += 1
            if found is not None:
                return self.settled(case, found)
        return self.records("")

    def cases(self, near: Sequence[int], seed: int) -> Iterator[Case]:
        """Small cases first, then the larger ones of them with their orders forced."""
        facts = [f for f in self.program.facts if not leaves(f, "stride") and not _about_memory(f)]
        found: list[Case] = []
        for limits in (LIMITS, WIDE):
            made = generate(self.op, seed + 7, SHAPES, near, limits, facts, FAMILIES,
                            specials=False, beyond=near)  # fmt: skip
            found = [c for c in made.cases if self.takes(c)]
            full = [c for c in found if all(x.size for x in c.inputs.values())]
            if len(full) >= LEAST:
                break
        found.sort(key=lambda c: sum(x.size for x in c.inputs.values()))
        full = [c for c in found if all(x.size for x in c.inputs.values())]
        yield from found[:2]
        largest = full[::-1][: len(ORDERS)]
        for n, order in enumerate(ORDERS):
            if largest:
                turned = ordered(self.op, largest[n % len(largest)], order, n)
                if turned is not None:
                    yield turned
        yield from found[2:]
        for n, order in enumerate(ORDERS):
            if len(largest) > 1:
                turned = ordered(self.op, largest[(n + 1) % len(largest)], order, n + 1)
                if turned is not None:
                    yield turned

    def takes(self, case: Case) -> bool:
        """Whether the facts hold of dense memory."""
        env = self.environment(case)
        try:
            return all(bool(evaluate(f, env)) for f in self.program.facts)
        except (ExprError, KeyError):
            return False

    def environment(self, case: Case) -> dict[Any, Any]:
        env: dict[Any, Any] = {**case.params, **self.aligned, **case.sizes}
        for t in (*self.op.inputs, *self.op.outputs):
            shape = [int(evaluate(s, env)) for s in t.shape]
            for n in range(len(shape)):
                env[t.name, n] = int(np.prod([max(s, 1) for s in shape[n + 1 :]], dtype=np.int64))
        return env

    def arrays(self, case: Case) -> dict[str, Array]:
        """Inputs, and the memory that outputs replace, in the shapes of the program's buffers."""
        plain = {t.name: decode(case.inputs[t.name], t.dtype) for t in self.op.inputs}
        for t in self.op.outputs:
            if t.updates is not None:
                plain[t.name] = plain[t.updates]
        env = self.environment(case)
        out = {}
        for name, x in plain.items():
            b = self.buffers.get(name)
            out[name] = x if b is None else x.reshape(_shape(b, env))
        return out

    def run(self, case: Case, point: int) -> _Difference | None:
        """A difference between the program and the meaning over one point of the fields."""
        op, env = self.op, self.environment(case)
        if self.length(case) > STEPS:
            raise TooLarge("the program runs too many statements there")
        reals = Reals(point, self.literals)
        inputs = self.arrays(case)
        plain = {t.name: decode(case.inputs[t.name], t.dtype) for t in op.inputs}
        meaning = FieldEvaluator(op, {**case.params, **case.sizes}, plain, reals)
        meaning.run()
        steps = {k: int(v) for k, v in env.items() if isinstance(k, tuple)}
        try:
            got = run(
                self.program,
                case.sizes,
                inputs,
                {**case.params, **self.aligned},
                steps,
                limit=STEPS,
                reals=Fields(reals),
            )
        except Trap as trap:
            if trap.kind == "limit":
                raise TooLarge("the program runs too many statements there") from None
            return self.trapped(case, trap)
        self.seen.runs.append(case)
        if "." in case.name:
            self.seen.orders[case.name.rpartition(".")[2]] = None
        for t in op.outputs:
            found = self.compared(t, case, meaning.arrays[t.name], got[t.name], reals)
            if found is not None:
                return found
        return None

    def length(self, case: Case) -> int:
        """About how many statements a run took."""
        env = {**case.params, **self.aligned, **case.sizes}
        total = 0
        for k in self.program.kernels:
            try:
                programs = int(np.prod([max(int(evaluate(g, env)), 0) for g in k.grid] or [1]))
            except (ExprError, KeyError):
                programs = 1
            total += programs * len(k.body)
        return total

    def trapped(self, case: Case, trap: Trap) -> _Difference:
        output = trap.buffer if trap.buffer in {t.name for t in self.op.outputs} else ""
        name = output or self.op.outputs[0].name
        return _Difference(name, str(trap), {"sizes": dict(case.sizes), **trap.to_json()})

    def compared(
        self, t: Tensor, case: Case, wanted: Array, got: Array, reals: Reals
    ) -> _Difference | None:
        got = got.reshape(wanted.shape)
        if t.kind == "real":
            same, unknown = reals.agree(wanted, got)
            self.seen.unknown[t.name] = self.seen.unknown.get(t.name, 0) + int(unknown.sum())
            same = same | unknown
            wanted, got = reals.shadow(wanted), reals.shadow(got)
        else:
            same = np.asarray(wanted == got)
        self.seen.elements[t.name] = self.seen.elements.get(t.name, 0) + int(same.size)
        if same.all():
            return None
        at = tuple(int(i) for i in np.argwhere(~same)[0])
        example = {
            "case": case.name,
            "sizes": dict(case.sizes),
            "output": t.name,
            "index": list(at),
            "expected": wanted[at].item(),
            "found": got[at].item(),
            "wrong": int((~same).sum()),
            "of": int(same.size),
        }
        place = f"{t.name}[{', '.join(map(str, at))}]"
        count = f"{example['wrong']} of {example['of']} elements"
        return _Difference(t.name, f"{place} differs over the reals ({count}) on {case}", example)

    # -- verdicts ---------------------------------------------------------------------------------

    def settled(self, case: Case, found: _Difference) -> list[Record]:
        """A difference, after runs in float64 have been asked."""
        told = self.replay(case, found)
        if told is not None:
            reason = f"{told.reason}; over finite fields {found.what}"
            example = told.counterexample
            return [
                Record(f"G4.{found.output}", "G4", "REFUTED", reason, self.subject, (), example)
            ]
        if "trap" in found.example:
            why = f"a run over finite fields stops: {found.what}"
        else:
            why = f"{found.what}, but in float64 by less than the numeric gate allows"
        return self.records(why, found.output)

    def replay(self, case: Case, found: _Difference) -> Record | None:
        """What runs in float64 say of the same call and of calls beside it."""
        cases = [case, *(x for s in (-10, -4, 4) if (x := scaled(self.op, case, s)) is not None)]
        for n, order in enumerate(ORDERS):
            turned = ordered(self.op, case, order, n)
            if turned is not None:
                cases.append(turned)
        for trial in cases:
            trap: list[Trap] = []

            def observed(x: Case, layout: str, trap: list[Trap] = trap) -> Observation | None:
                try:
                    return self.observe(x)
                except Trap as e:
                    trap.append(e)
                    return None

            try:
                seen = numeric(
                    self.op, [trial], observed, lambda x: bounds(self.op, x, self.meaning),
                    self.subject, (), (),
                )  # fmt: skip
            except BROKEN:
                continue
            if trap and trap[0].kind in HIDDEN and not trap[0].guessed and trap[0].whole:
                example = {"sizes": dict(trial.sizes), **trap[0].to_json()}
                return Record("G4", "G4", "REFUTED", str(trap[0]), self.subject, (), example)
            if seen.refuted is not None:
                return seen.refuted
        return None

    def meaning(
        self, inputs: Mapping[str, Array], sizes: Mapping[str, int], params: Mapping[str, Any]
    ) -> Mapping[str, Array]:
        return reference(self.op, inputs, params, {s: sizes[s] for s in self.op.free_sizes})

    def observe(self, case: Case) -> Observation:
        """The program's outputs in float64, in stored form."""
        env = self.environment(case)
        steps = {k: int(v) for k, v in env.items() if isinstance(k, tuple)}
        made = run(
            self.program, case.sizes, self.arrays(case), {**case.params, **self.aligned}, steps
        )
        out = {}
        for t in self.op.outputs:
            shape = [int(evaluate(s, env)) for s in t.shape]
            out[t.name] = encode(made[t.name], t.dtype).reshape(shape)
        return Observation(out)

    def records(self, why: str, only: str = "") -> list[Record]:
        seen = self.seen
        if not why and not any(seen.elements.values()):
            skipped = next(iter(seen.skipped), "no legal case has an element")
            why = f"nothing was compared: {skipped}"
        said = self.said()
        out = []
        for t in self.op.outputs:
            here = why
            if not here and self.weak:
                here = f"equal on {said}, if lanes run as one: {self.weak}"
            if not here and t.kind == "real" and 2 * seen.unknown.get(t.name, 0) > seen.elements[t.name]:
                here = "most elements have no value over finite fields"
            status = "UNKNOWN" if here else "TESTED"
            if here and only and t.name != only:
                here = f"not decided: {only} differs first"
            out.append(Record(f"G4.{t.name}", "G4", status, here or said, self.subject))
        return out

    def said(self) -> str:
        seen = self.seen
        spans: dict[str, tuple[int, int]] = {}
        for c in seen.runs:
            for k, v in c.sizes.items():
                low, high = spans.get(k, (v, v))
                spans[k] = (min(low, v), max(high, v))
        sizes = ", ".join(f"{k} {a}..{b}" for k, (a, b) in spans.items())
        shapes = len({tuple(c.sizes.items()) for c in seen.runs})
        text = f"{len(seen.runs)} runs of {shapes} shapes ({sizes})"
        if seen.orders:
            text += f", orders forced: {', '.join(seen.orders)}"
        chance = f"at most (d / 2^{BITS})^{PRIMES} for a difference of degree d, an element and run"
        return f"{text}; error probability {chance}"


def literals(op: Operator) -> tuple[float, ...]:
    """Long literals of an operator: a text may hold products of them."""
    found: dict[float, None] = {}
    for t in op.tensors:
        if t.body is not None:
            for x in walk(t.body):
                if x.op == "const" and x.kind == "real" and math.isfinite(x.attr):
                    found[abs(float(x.attr))] = None
    return tuple(n for n in found if n)


# -- cases -----------------------------------------------------------------------------------------


def ordered(op: Operator, case: Case, order: str, seed: int) -> Case | None:
    """A case with the values of its real inputs in an order that decides which branch is taken, or
    of a sign or size that does; None where `requires` or the types forbid it."""
    rng = np.random.default_rng([seed, 3])
    inputs = dict(case.inputs)
    changed = False
    for t in op.inputs:
        x = inputs[t.name]
        if t.kind != "real" or x.size < 2:
            continue
        turned = _turned(np.array(decode(x, t.dtype)), order, rng)
        stored = encode(turned, t.dtype).reshape(x.shape)
        if not np.isfinite(decode(stored, t.dtype)).all():
            continue
        candidate = {**inputs, t.name: stored}
        if not holds(op, candidate, case.sizes, case.params):
            inputs, changed = candidate, True
    return replace(case, name=f"{case.name}.{order}", inputs=inputs) if changed else None


def _turned(x: Array, order: str, rng: np.random.Generator) -> Array:
    if order in ("ascending", "descending"):
        flat = np.sort(x.reshape(-1))
        return (flat if order == "ascending" else flat[::-1]).reshape(x.shape)
    if order == "negative":
        return -np.abs(x) - 0.5
    if order == "large":
        return np.asarray(x * 8)
    lead = x.reshape(-1, x.shape[-1])  # one peak in each row, in every part of it in turn
    step = max(1, round(lead.shape[1] * 0.381966))
    start = int(rng.integers(lead.shape[1]))
    at = (start + step * np.arange(len(lead))) % lead.shape[1]
    lead[np.arange(len(lead)), at] += 6.0
    return lead.reshape(x.shape)


def scaled(op: Operator, case: Case, power: int) -> Case | None:
    """A case with real inputs times a power of two; None where `requires` or the types forbid."""
    inputs = dict(case.inputs)
    for t in op.inputs:
        if t.kind == "real":
            moved = np.asarray(decode(inputs[t.name], t.dtype) * 2.0**power)
            inputs[t.name] = encode(moved, t.dtype).reshape(inputs[t.name].shape)
    narrow = any(t.kind == "real" and t.dtype.exponent < 8 for t in (*op.inputs, *op.outputs))
    if narrow or holds(op, inputs, case.sizes, case.params):
        return None
    return replace(case, name=f"{case.name}.times{power}", inputs=inputs)


def _about_memory(f: Expr) -> bool:
    return any("(" in str(x.attr) for x in leaves(f, "param"))


def _shape(b: Buffer, env: Mapping[Any, Any]) -> tuple[int, ...]:
    return tuple(int(evaluate(e, env)) for e in b.shape)


__all__ = ["field_gate", "ordered", "scaled"]
