"""Decides what a proof could not: runs the program at small sizes and looks for the trap.

Sizes come from z3's model of the failed obligation, made small, and from a list of small ones;
every fact and requirement must hold of them. Only a trap that the interpreter runs into makes a
refutation.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.dtypes import integer_range
from opwright.ir.expr import Expr, ExprError, evaluate, read_parts, walk
from opwright.ir.interpreter import Trap, traps
from opwright.ir.tile import Buffer, For, row_major, statements
from opwright.ir.tiletext import axes_of
from opwright.verify.draw import Values
from opwright.verify.obligation import Obligation
from opwright.verify.point import refute
from opwright.verify.small import SIZES, in_order
from opwright.verify.terms import Formula, Poly

if TYPE_CHECKING:
    from opwright.verify.prove import Prover

SECONDS = 2.0  # for all replays of one program
ELEMENTS = 1 << 20  # of one buffer
STEPS = 60_000
FIRST = 80  # small sizes that are tried before those beside tiles
LARGEST = 2048  # of a tile that sizes are tried beside
PATIENCE = 16  # trials for a counterexample outside of its buffer, after one inside
BOUNDS = (1, 2, 3, 5, 9, 17, 33, 65, 129, 260, 520, 1100, 4200, 33000, 140000)

REALS = (0.5, 1.5)  # where real inputs lie if no requirement on them forbids it

Found = dict[int, tuple[str, dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Trial:
    """Concrete sizes, params, strides and inputs."""

    sizes: Mapping[str, int]
    params: Mapping[str, Any]
    strides: Mapping[tuple[str, int], int]
    arrays: Mapping[str, NDArray[Any]]


def replay(prover: Prover, deadline: float) -> Found:
    """Refutations: for the number of an obligation, one sentence and the counterexample."""
    return _Replay(prover, min(deadline, time.monotonic() + SECONDS)).run()


def replay_trials(prover: Prover, most: int) -> Iterator[Trial]:
    """Small sizes and inputs that respect every fact and requirement, at most so many."""
    return itertools.islice(_Replay(prover, time.monotonic() + SECONDS).ascending(), most)


class _Replay:
    def __init__(self, prover: Prover, deadline: float) -> None:
        self.prover, self.deadline = prover, deadline
        self.program, self.context = prover.program, prover.context
        self.small = prover.small
        self.found: Found = {}
        self.tried: set[tuple[object, ...]] = set()
        # an index is outside of its axis, its address in the buffer: a fault of who writes indices,
        # not of a text with addresses, out of which indices were only read
        self.faint: Found = {}
        self.read = any(k.lines for k in self.program.kernels)
        self.flat: set[int] = set()  # those of a buffer with an axis of one element
        self.patience = PATIENCE
        self.open = {
            n: o
            for n, o in enumerate(prover.obligations)
            if o.status != "PROVED" and o.traps and not prover.contradiction
        }

    def run(self) -> Found:
        if not self.open:
            return self.found
        for n, o in list(self.open.items()):
            if n in self.open and o.answer is not None and o.answer.model:
                for trial in self.from_model(o):
                    if self.spent():
                        break  # a point may still refute what no run did
                    self.attempt(trial)
                    if n not in self.open:
                        break
        for trial in self.ascending():
            if self.spent() or not self.open:
                break
            if self.faint and self.faint.keys() == self.open.keys():
                self.patience -= 1
                if not self.patience:
                    break
            self.attempt(trial)
        if not self.read:
            self.found = {**self.faint, **self.found}
        for n, o in list(self.open.items()):
            if n in self.found:
                continue
            told = refute(self.prover, o)
            if told is not None:
                self.found[n] = told
        return self.found

    def spent(self) -> bool:
        return time.monotonic() > self.deadline

    def attempt(self, trial: Trial) -> None:
        """Run once and settle every open obligation that a trap refutes."""
        key = (
            tuple(sorted(trial.sizes.items())),
            tuple(sorted(trial.params.items())),
            tuple((n, a.tobytes()) for n, a in sorted(trial.arrays.items()) if a.dtype.kind == "i"),
        )
        if key in self.tried:
            return
        self.tried.add(key)
        try:
            hit = traps(
                self.program, trial.sizes, trial.arrays, trial.params, trial.strides, limit=STEPS
            )
        except (ValueError, IndexError, OverflowError, MemoryError):
            return  # sizes for which the program has no meaning, or too large ones
        for n, o in list(self.open.items()):
            for trap in hit:
                if not matches(o, trap):
                    continue
                there = self.lands(trial, trap) if trap.kind == "bounds" else None
                apart = self.apart(trial) if there is not None else None
                if apart is not None and self.lands(apart, trap) is None:
                    trial, there = apart, None
                if there is not None:
                    flat, where = there
                    if n not in self.faint or (n in self.flat and not flat):
                        self.flat = self.flat | {n} if flat else self.flat - {n}
                        said, example = self.told(trial, trap)
                        more = f" (at the address of {trap.buffer}{list(where)})"
                        self.faint[n] = f"{said}{more}", {**example, "address_of": list(where)}
                    continue
                del self.open[n]
                self.found[n] = self.told(trial, trap)
                break

    def apart(self, trial: Trial) -> Trial | None:
        """The same with room between rows, where facts leave strides open."""
        values: dict[Expr, Any] = {}
        given = {**trial.sizes, **trial.params}
        for x in self.small.scalars:
            if x.op in ("size", "param") and x.attr in given:
                values[x] = given[x.attr]
            elif x.op == "stride" and x.attr in trial.strides:
                last = x.attr[1] == self.rank(x.attr[0]) - 1
                values[x] = trial.strides[x.attr] * (1 if last else 2) + (0 if last else 1)
        env = self.small.environment(values)
        if env is None:
            return None
        steps = {x.attr: int(v) for x, v in env.items() if x.op == "stride"}
        return Trial(trial.sizes, trial.params, steps, trial.arrays)

    def rank(self, name: str) -> int:
        return next((len(b.shape) for b in self.program.buffers() if b.name == name), 0)

    def lands(self, trial: Trial, trap: Trap) -> tuple[bool, tuple[int, ...]] | None:
        """The element that has the address of an index out of bounds, if one has: whoever computes
        addresses sees no fault there; and whether the buffer has an axis of one element."""
        env: dict[Any, Any] = {**trial.params, **trial.sizes, **trial.strides}
        b = next((b for b in self.program.buffers() if b.name == trap.buffer), None)
        if b is None:
            return None
        strides = row_major(b.shape) if b.strides is None else b.strides
        try:
            shape = [int(evaluate(e, env)) for e in b.shape]
            steps = [int(evaluate(e, env)) for e in strides]
        except (ExprError, KeyError):
            return None
        if len(trap.index) != len(shape) or 0 in shape:
            return None
        elements = sum(i * s for i, s in zip(np.indices(shape, np.int64), steps, strict=True))
        at = sum(i * s for i, s in zip(trap.index, steps, strict=True))
        found = np.argwhere(np.asarray(elements) == at)
        return (1 in shape, tuple(int(i) for i in found[0])) if len(found) else None

    def told(self, trial: Trial, trap: Trap) -> tuple[str, dict[str, Any]]:
        integers = {n: a.tolist() for n, a in trial.arrays.items() if a.dtype.kind == "i"}
        example: dict[str, Any] = {"sizes": dict(trial.sizes)}
        if trial.params:
            example["params"] = dict(trial.params)
        if trial.strides:
            example["strides"] = {f"{b}, {axis}": n for (b, axis), n in trial.strides.items()}
        if integers and all(a.size <= 64 for a in trial.arrays.values() if a.dtype.kind == "i"):
            example["inputs"] = integers
        example |= trap.to_json()
        at = ", ".join(f"{n} = {v}" for n, v in trial.sizes.items())
        return f"{at}: {trap}" if at else str(trap), example

    # -- sizes
    def from_model(self, o: Obligation) -> Iterator[Trial]:
        """The smallest sizes for which the obligation fails, by z3."""
        assert o.failed is not None
        facts, goal = o.failed
        t, asker, encoder = self.prover.terms, self.prover.asker, self.prover.encoder
        sizes = {x: p for x, p in encoder.scalars.items() if isinstance(p, Poly) and x.op == "size"}
        for bound in BOUNDS:
            if self.spent():
                return
            bounds: list[Formula] = [t.le(p, t.const(bound)) for p in sizes.values()]
            answer = asker.ask([*facts, t.no(goal), *bounds])
            if not answer.model:
                continue
            values: dict[Expr, Any] = {}
            for x, p in encoder.scalars.items():
                if isinstance(p, Poly) and x.op != "stride":
                    (n,) = p.atoms
                    values[x] = answer.model.get(n, 0 if t.atoms[n].lo is None else t.atoms[n].lo)
            given = self.elements(answer.model)
            yield from self.trials(values, given)
            return

    def elements(self, model: Mapping[int, int]) -> dict[str, dict[tuple[int, ...], int]]:
        """Elements of integer inputs that a model speaks of."""
        out: dict[str, dict[tuple[int, ...], int]] = {}
        for a in self.prover.terms.atoms:
            if a.function.startswith("in:") and a.number in model:
                at = []
                for p in a.arguments:
                    total = 0
                    for m, c in p.items:
                        for n in m:
                            c *= model.get(n, 0)
                        total += c
                    at.append(total)
                out.setdefault(a.function[3:], {})[tuple(at)] = model[a.number]
        return out

    def ascending(self) -> Iterator[Trial]:
        """Small sizes in order of their sum."""
        names = self.small.sizes
        choice = SIZES if len(names) < 3 else SIZES[:7] if len(names) < 5 else SIZES[:4]
        eights = tuple(8 * n for n in choice[:3])
        ranges = [self.small.allowed(x, (*choice, *eights)) for x in names]
        small = [dict(zip(names, values, strict=True)) for values in in_order(ranges, 4000)]
        for chosen in itertools.chain(small[:FIRST], self.beside_tiles(), small[FIRST:]):
            if self.spent():
                return
            yield from self.trials(chosen, {})

    def beside_tiles(self) -> Iterator[dict[Expr, int]]:
        """One size, or all of them, just past a tile or two, the others small."""
        names = self.small.sizes
        steps = {a.extent for k in self.program.kernels for a in axes_of(k)}
        steps |= {s.step for k in self.program.kernels for s in statements(k.body)
                  if isinstance(s, For)}  # fmt: skip
        past = sorted({n for e in steps if 1 < e <= LARGEST for n in (e + 1, 2 * e, 2 * e + 1)})
        for n in past:
            for rest in (1, 3, n):
                for x in names if rest != n else names[:1]:
                    chosen = {y: n if y is x else rest for y in names}
                    if all(v in self.small.allowed(y, (v,)) for y, v in chosen.items()):
                        yield chosen

    def trials(
        self, values: Mapping[Expr, Any], given: Mapping[str, Mapping[tuple[int, ...], int]]
    ) -> Iterator[Trial]:
        """Complete sizes to trials that respect all facts and requirements."""
        flags = [x for x in self.small.scalars if x.op == "param" and x.kind == "bool"]
        flags = [x for x in flags if x not in values and "(" not in str(x.attr)]
        for truth in itertools.product((True, False), repeat=min(len(flags), 2)):
            env = self.small.environment({**values, **dict(zip(flags, truth, strict=False))})
            if env is None or not self.affordable(env):
                continue
            sizes = {str(x.attr): int(v) for x, v in env.items() if x.op == "size"}
            params = {str(x.attr): v for x, v in env.items() if x.op == "param"}
            steps = {x.attr: int(v) for x, v in env.items() if x.op == "stride"}
            arrays = self.arrays(sizes, params, env, given)
            if arrays is not None:
                yield Trial(sizes, params, steps, arrays)

    def affordable(self, env: Mapping[Expr, Any]) -> bool:
        """Whether every buffer is small enough to be allocated."""
        for b in self.program.buffers():
            total = 1
            for s in b.shape:
                total *= max(int(evaluate(s, env)), 1)
            if total > ELEMENTS:
                return False
        return True

    # -- inputs
    def arrays(
        self,
        sizes: Mapping[str, int],
        params: Mapping[str, Any],
        env: Mapping[Expr, Any],
        given: Mapping[str, Mapping[tuple[int, ...], int]],
    ) -> dict[str, NDArray[Any]] | None:
        """Inputs that satisfy the requirements, or None if none was found."""
        inputs = [b for b in self.program.buffers() if b.role in ("in", "state")]
        clauses = [c.expr for c in self.context.requires if c.expr is not None]
        whole = [b for b in inputs if b.dtype.kind == "int"]
        for fill in ("zero", "one", "count", "top", "random") if whole else ("zero",):
            made = {b.name: self.array(b, env, fill, given.get(b.name, {})) for b in inputs}
            try:
                for b in inputs if clauses else ():
                    own = [c for c in clauses if read_by(c) == {b.name}]
                    for reals in _ranges(own) if b.dtype.kind == "real" else ():
                        if _hold(own, made, sizes, params):
                            break
                        made[b.name] = self.array(b, env, fill, {}, reals)
                if _hold(clauses, made, sizes, params):
                    return made
            except (ExprError, KeyError, IndexError, ValueError):
                return None
        return None

    def array(
        self,
        b: Buffer,
        env: Mapping[Expr, Any],
        fill: str,
        given: Mapping[tuple[int, ...], int],
        reals: tuple[float, float] = REALS,
    ) -> NDArray[Any]:
        shape = tuple(int(evaluate(s, env)) for s in b.shape)
        rng = np.random.default_rng(7)
        if b.dtype.kind == "real":
            return rng.uniform(*reals, shape)
        if b.dtype.kind == "bool":
            return rng.integers(0, 2, shape).astype(bool)
        lo, hi = integer_range(b.dtype)
        count = int(np.prod(shape)) if shape else 1
        base = {
            "zero": np.zeros(count, np.int64),
            "one": np.ones(count, np.int64),
            "count": np.arange(count),
            "top": np.full(count, min(hi, 2**40)),
            "random": rng.integers(0, 4, count),
        }[fill]
        out: NDArray[Any] = np.clip(base, lo, hi).astype(np.int64).reshape(shape)
        for at, value in given.items():
            if len(at) == len(shape) and all(0 <= i < n for i, n in zip(at, shape, strict=True)):
                out[at] = value
        return out


def read_by(e: Expr) -> set[str]:
    """Names of the tensors that a clause reads."""
    return {read_parts(x)[0] for x in walk(e) if x.op == "read"}


def _ranges(clauses: Sequence[Expr]) -> Iterator[tuple[float, float]]:
    """Where real inputs may meet clauses: between the numbers in them, and beside."""
    said = {float(x.attr) for c in clauses for x in walk(c) if x.op == "const"}
    marks = sorted(v for v in {*said, 0.0, 1.0, -1.0} if abs(v) < 1e30)
    yield from itertools.pairwise(marks)
    yield marks[-1], marks[-1] + 1.0
    yield marks[0] - 1.0, marks[0]
    yield from ((v, v) for v in marks)


def _hold(
    clauses: Sequence[Expr],
    made: Mapping[str, NDArray[Any]],
    sizes: Mapping[str, int],
    params: Mapping[str, Any],
) -> bool:
    values = Values(made, dict(sizes), dict(params))
    return all(bool(np.all(values(c))) for c in clauses)


def matches(o: Obligation, trap: Trap) -> bool:
    """Whether a trap refutes an obligation: its kind, its statements and its buffer."""
    if trap.kind not in o.traps or (o.buffers and trap.buffer not in o.buffers):
        return False
    if trap.guessed:
        return False  # rests on a value of which nothing is known
    if trap.kind in ("unwritten", "missing", "poison") and not trap.whole:
        return False  # may follow from a lane that an earlier trap left out
    if not o.statements:
        return True
    own = f"{trap.kernel}.{trap.statement}"
    if trap.kind in ("twice", "race"):
        return {own, trap.other} == set(o.statements)
    return own in o.statements
