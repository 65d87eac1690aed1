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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

import numpy as np

from opwright.ir.dtypes import decode, encode
from opwright.ir.evaluator import MeaningError
from opwright.ir.expr import Expr, ExprError, evaluate, leaves, pid, walk
from opwright.ir.field import BITS, PRIMES, Reals
from opwright.ir.field_meaning import FieldEvaluator, TooLarge
from opwright.ir.interpreter import Trap, run
from opwright.ir.op import Operator, Tensor
from opwright.ir.readings import Fields
from opwright.ir.record import Record
from opwright.ir.reference import reference
from opwright.ir.tile import (
    Buffer,
    For,
    If,
    Kernel,
    Stmt,
    TileProgram,
    expressions,
    statements,
)
from opwright.ir.tileops import guesses
from opwright.verify.draw import Array, draw_inputs, holds
from opwright.verify.inputs import Case
from opwright.verify.numeric import Observation, bounds, numeric
from opwright.verify.sizes import Limits, Sampler

MOST = 16  # runs
LIMITS = Limits(elements=1 << 12, work=1 << 17)
WIDE = Limits(elements=1 << 14, work=1 << 22)  # where blocks are too large for those
NEAR = (4, 8, 16)
STEPS = 4_000  # statements of one run
SECONDS = 1.0  # of this thread's own time, after which only the first few runs are made
LEAST = 4  # runs, whatever they take
FAMILIES = ("normal", "uniform", "normal", "ties")
CUTS = ("lt", "le", "eq", "ne", "floordiv", "mod")
ORDERS = ("ascending", "descending", "negative", "peaks", "large")
# what floats do with very large finite numbers, a field does not: what was found has no meaning
HIDDEN = ("missing", "unwritten", "poison")
Drawn = tuple[Mapping[str, int], Mapping[str, Any]]
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


def calls(program: TileProgram, op: Operator, near: Sequence[int], seed: int) -> Iterator[Case]:
    """The calls that the gate makes of a program, cheap ones first."""
    return _Gate(program, op, "", "").cases(near or NEAR, seed)


class _Gate:
    def __init__(self, program: TileProgram, op: Operator, subject: str, weak: str) -> None:
        self.program, self.op, self.subject, self.weak = program, op, subject, weak
        self.seen = _Seen()
        self.least = LEAST
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
            late = time.thread_time() - end
            if done >= MOST or late > 3 * SECONDS or (done >= self.least and late > 0):
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
        """Ones and unlike sizes first; then every size past two blocks, with orders forced; then
        whole blocks and their neighbours."""
        facts = [f for f in self.program.facts if not leaves(f, "stride") and not _about_memory(f)]
        rng = Random(f"{seed}:{self.op.digest}:{self.op.name}")
        blocks = sorted(near, reverse=True)
        few = Sampler(self.op, rng, (), LIMITS, facts)
        wide = Sampler(self.op, rng, near, WIDE, facts)
        first = [few.draw(dict.fromkeys(self.op.sizes, n), 1) for n in (1, 3)]
        first += few.many(3)[1:2]
        walked = [(s, self.past(wide, s, blocks)) for s in self.op.sizes]
        again = {s for s, x in walked if x is not None and self.repeats(*x)}
        cut = decided(self.program) - again
        far = [x for s, x in walked if s in again] + [x for s, x in walked if s in cut]
        far = far or [x for _, x in walked]
        whole = [self.sized(wide, s, [n - d for n in blocks]) for d in (0, -1, 1)
                 for s in self.op.sizes]  # fmt: skip
        made = [self.case(x, n, seed) for n, x in enumerate((*first, *far, *whole))]
        tiny = [c for c in made[: len(first)] if c is not None]
        large = [c for c in made[len(first) : len(first) + len(far)] if c is not None]
        self.least = min(max(LEAST, len(tiny) + len(large)), MOST)
        yield from tiny
        for turn in range(len(ORDERS) + 1):
            for n, c in enumerate(large):
                order = ORDERS[(turn + n - 1) % len(ORDERS)]
                turned = ordered(self.op, c, order, turn) if turn else c
                if turned is not None:
                    yield turned
            if turn == 0:
                yield from (c for c in made[len(first) + len(far) :][: len(large)] if c is not None)
        yield from (c for c in made[len(first) + len(far) :][len(large) :] if c is not None)

    def past(self, sampler: Sampler, size: str, blocks: Sequence[int]) -> Drawn | None:
        """Sizes with one past two blocks, as large a block as is cheap; at least past one."""
        for n in (*blocks, 1):
            far = (2 * n + n // 2 + 1, 3 * n - 1, 2 * n + n // 2, 3 * n)
            found = self.sized(sampler, size, far)
            if found is not None:
                return found
        return None

    def sized(self, sampler: Sampler, size: str, values: Sequence[int]) -> Drawn | None:
        """Small sizes with this one among the values, the first that is legal and cheap."""
        for v in values:
            if 0 < v <= WIDE.elements:
                found = sampler.beside(size, v, (1, 2, 3, 5))
                if found is not None and self.length(*found) <= STEPS:
                    return found
        return None

    def case(self, drawn: Drawn | None, n: int, seed: int) -> Case | None:
        """A call with drawn inputs; None where the facts or the operator take none."""
        if drawn is None:
            return None
        sizes, params = drawn
        family = FAMILIES[n % len(FAMILIES)]
        try:
            inputs = draw_inputs(self.op, sizes, params, family, seed * 977 + n)
        except BROKEN:
            return None
        case = Case(f"case{n}", family, sizes, params, inputs)
        return case if self.takes(case) else None

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
        if self.length(case.sizes, case.params) > STEPS:
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

    def length(self, sizes: Mapping[str, int], params: Mapping[str, Any]) -> int:
        """About how many statements a run takes."""
        env = {**params, **self.aligned, **sizes}
        total = 0
        for k in self.program.kernels:
            try:
                programs = int(np.prod([max(int(evaluate(g, env)), 0) for g in k.grid] or [1]))
            except (ExprError, KeyError):
                programs = 1
            total += programs * _statements(k.body, _last(k, env))
        return total

    def repeats(self, sizes: Mapping[str, int], params: Mapping[str, Any]) -> bool:
        """Whether a loop of some program runs more than twice."""
        env = {**params, **self.aligned, **sizes}
        return any(_repeats(k.body, _last(k, env)) for k in self.program.kernels)

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
            why = f"{found.what}, in float64 by no more than the numeric gate allows"
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
            lacking = 2 * seen.unknown.get(t.name, 0)
            if not here and lacking > seen.elements.get(t.name, 0):
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


def _statements(body: Iterable[Stmt], env: Mapping[Any, Any]) -> int:
    """Statements that a program runs; unknown bounds count twice."""
    total = 0
    for s in body:
        total += 1
        if isinstance(s, If):
            total += max(_statements(s.then, env), _statements(s.other, env))
        elif isinstance(s, For):
            lo, count = _trips(s, env)
            total += count * _statements(s.body, {**env, s.variable: lo})
    return total


def _trips(s: For, env: Mapping[Any, Any]) -> tuple[int, int]:
    try:
        lo, hi = int(evaluate(s.lo, env)), int(evaluate(s.hi, env))
        return lo, max(-(-(hi - lo) // s.step), 0)
    except (ExprError, KeyError, ValueError, ZeroDivisionError):
        return 0, 2


def _repeats(body: Iterable[Stmt], env: Mapping[Any, Any]) -> bool:
    for s in body:
        if isinstance(s, If) and _repeats((*s.then, *s.other), env):
            return True
        if isinstance(s, For):
            lo, count = _trips(s, env)
            if count > 2 or _repeats(s.body, {**env, s.variable: lo}):
                return True
    return False


def decided(program: TileProgram) -> set[str]:
    """Sizes that loops, conditions and quotients of a program speak of: what it cuts into parts."""
    out: set[str] = set()
    for k in program.kernels:
        parts = [g for g in k.grid if g.op != "size"]
        for e in expressions(k.body):
            parts += [x for x in walk(e) if x.op in CUTS]
        parts += [e for s in statements(k.body) if isinstance(s, For) for e in (s.lo, s.hi)]
        out |= {x.attr for e in parts for x in leaves(e, "size")}
    return out


def _last(k: Kernel, env: Mapping[Any, Any]) -> dict[Any, Any]:
    """Values at the last program of a launch."""
    out = dict(env)
    for d in range(3):
        try:
            out[pid(d)] = max(int(evaluate(k.grid[d], env)) - 1, 0) if d < len(k.grid) else 0
        except (ExprError, KeyError, ValueError, ZeroDivisionError):
            out[pid(d)] = 0
    return out


def _about_memory(f: Expr) -> bool:
    return any("(" in str(x.attr) for x in leaves(f, "param"))


def _shape(b: Buffer, env: Mapping[Any, Any]) -> tuple[int, ...]:
    return tuple(int(evaluate(e, env)) for e in b.shape)


__all__ = ["field_gate", "ordered", "scaled"]
