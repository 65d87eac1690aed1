"""The gates judged one by one: what each of them says of a seeded fault, and what the fault does.

A mutant's effect is found apart from all gates, by running what was read of it beside the original
over the reals. So a gate that lets a fault pass is seen, and a proof that is wrong is, too: one
of safety where a run traps, one of the function where a value differs.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.compiler.candidates import Candidate
from opwright.compiler.execution import execute
from opwright.compiler.importing import FAILURES, Static, read_back, static_gates
from opwright.compiler.mutating import EFFORT, LEAST_EFFORT, NEAR, source_mutants
from opwright.ir.dtypes import decode
from opwright.ir.expr import ExprError, leaves
from opwright.ir.interpreter import Trap
from opwright.ir.interpreter import run as interpret
from opwright.ir.launch import ImportRefusal, bind_plan
from opwright.ir.mutant import Mutant
from opwright.ir.normal import normal_form
from opwright.ir.op import Operator
from opwright.ir.plan import PlanError, from_json
from opwright.ir.record import ORDER, Record, weakest
from opwright.ir.tile import TileProgram
from opwright.ir.tilecheck import TileError
from opwright.ir.tiletext import parse_program, show_program
from opwright.search.calls import edges, strided
from opwright.verify.context import Context
from opwright.verify.gates import safety
from opwright.verify.inputs import generate
from opwright.verify.mutate_tiles import tile_mutants
from opwright.verify.policy import precision_records
from opwright.verify.sizes import Limits
from opwright.verify.tile_function import tile_function

PROOFS = ("G0", "G1", "G2", "G3", "G4", "G5")
TESTS = ("G6", "G7", "G8")
SHIPPING = ("G0", "G1", "G2", "G3")  # what has to be as good as the original's
TRAPS, DIFFERS, SAME, UNREAD = "traps", "differs", "same", "unread"
LIMITS = Limits(elements=1 << 12)
CASES, STEPS, SLOW = 14, 60_000, 0.4  # calls, statements and seconds of one
FAMILIES = ("normal", "sorted", "uniform", "ties")

NO_TEXT = r"does not parse|NameError|is not defined"  # of a mutant that is none

Statuses = dict[str, str]


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of one mutant.

    `gates` is the status that each gate gave (a gate that was not reached is absent), `killers`
    those that say less than of the original; `effect` what running it shows; `unsound` a proof that
    a run contradicts; `same` says that its text means what the original's does.
    """

    mutant: Mutant
    gates: Statuses
    killers: tuple[str, ...]
    effect: str
    reason: str = ""
    unsound: str = ""
    same: bool = False
    tested: bool = False
    seconds: float = 0.0

    @property
    def proved(self) -> bool:
        """Whether some gate before any run kills it."""
        return any(k in PROOFS for k in self.killers)


class Truth:
    """Small calls on which a program and its mutants are run, over the reals."""

    def __init__(self, program: TileProgram, op: Operator) -> None:
        self.program, self.op = program, op
        self.calls: list[tuple[Mapping[str, int], Any, Mapping[str, Any], Mapping[str, Any]]] = []
        facts = [f for f in program.facts if not strided(f)]
        near = edges(program)
        made = generate(op, 77, CASES, near, LIMITS, facts, FAMILIES, specials=False)
        more = generate(
            op, 78, CASES // 2, near, LIMITS, facts, FAMILIES, specials=False, beyond=near
        )
        small = generate(op, 79, 4, (2, 3), Limits(elements=1 << 8), facts, FAMILIES, False)
        for case in (*made.cases, *more.cases, *small.cases):
            arrays = {t.name: decode(case.inputs[t.name], t.dtype) for t in op.inputs}
            params = self.with_alignment(program, case.params)
            begin = time.monotonic()
            try:
                wanted = interpret(program, case.sizes, arrays, params, limit=STEPS)
            except (Trap, *FAILURES):
                continue
            if time.monotonic() - begin < SLOW:
                self.calls.append((case.sizes, arrays, params, wanted))

    @staticmethod
    def with_alignment(program: TileProgram, params: Mapping[str, Any]) -> dict[str, Any]:
        aligned = {x.attr: True for f in program.facts for x in leaves(f, "param") if "(" in x.attr}
        return {**params, **aligned}

    def effect(self, mutant: TileProgram) -> tuple[str, str]:
        """What running it shows, and where."""
        for n, (sizes, arrays, params, wanted) in enumerate(self.calls):
            said = ", ".join(f"{k} = {v}" for k, v in sizes.items())
            params = self.with_alignment(mutant, params)
            try:
                found = interpret(mutant, sizes, arrays, params, limit=2 * STEPS, order=n or None)
            except Trap as e:
                if e.kind == "limit":
                    continue
                return TRAPS, f"at {said}: {e}"
            except (ExprError, *FAILURES) as e:
                return UNREAD, f"cannot be run: {type(e).__name__}"
            for t in self.op.outputs:
                if t.name not in found:
                    return TRAPS, f"{t.name} is never written"
                if not self.near(t.kind, found[t.name], wanted[t.name]):
                    return DIFFERS, f"{t.name} differs at {said}"
        return SAME, f"on {len(self.calls)} calls"

    @staticmethod
    def near(kind: str, x: NDArray[Any], y: NDArray[Any]) -> bool:
        if kind == "real":
            return bool(np.allclose(x, y, rtol=NEAR, atol=NEAR * 1e-3, equal_nan=True))
        return bool(np.all(x == y))


class Judge:
    """Judges mutants of one candidate's text, of its plan, or of the program it was printed from.

    `level` is "source", "plan" or "tile". ValueError where the original itself is not safe.
    """

    def __init__(
        self, c: Candidate, op: Operator, isa: str, level: str, printer: Printer | None = None
    ) -> None:
        self.candidate, self.op, self.isa, self.level = c, op, isa, level
        self.printer = printer
        begin = time.monotonic()
        self.budget = 60.0
        static, self.records = self.proofs(self.text)
        self.budget = max(LEAST_EFFORT, EFFORT * (time.monotonic() - begin))
        self.original = statuses(self.records)
        weak = [g for g in ("G0", "G2", "G3") if self.original.get(g) != "PROVED"]
        if static is None or static.program is None or weak:
            why = next((r.reason for r in self.records if r.kind in weak), "it was not read")
            raise ValueError(f"the original's {', '.join(weak) or 'G1'} is not proved: {why}")
        self.static = static
        self.form = normal_form(static.program)
        self.truth = Truth(static.program, op)
        self.first: Statuses | None = None  # of the tests on the original

    @property
    def text(self) -> str:
        if self.level == "tile":
            assert self.candidate.program is not None
            return show_program(self.candidate.program)
        return plan_text(self.candidate) if self.level == "plan" else self.candidate.source

    def mutants(self) -> list[Mutant]:
        if self.level == "tile":
            assert self.candidate.program is not None
            return tile_mutants(self.candidate.program)
        if self.level == "plan":
            return list(plan_mutants(self.candidate))
        return source_mutants(self.candidate)

    def proofs(self, text: str) -> tuple[Static | None, list[Record]]:
        """Records of all gates before a run, G5 among them."""
        if self.level == "tile":
            program = parse_program(text)
            context = replace(Context.of(self.op), budget=self.budget)
            records = safety(program, context)
            records += precision_records(program, self.op, "")
            if statuses(records).keys() >= {"G2", "G3"} and all(
                r.status == "PROVED" for r in records if r.kind in ("G2", "G3")
            ):
                records += tile_function(program, self.op, "")
            bound = bind_plan(self.candidate.plan, self.op)
            return Static(tuple(records), program, bound), records
        c = self.changed(text)
        static = static_gates(c, self.op, budget=self.budget)
        return static, list(static.records)

    def changed(self, text: str) -> Candidate:
        c = self.candidate
        if self.level == "plan":
            return Candidate(from_json(json.loads(text)), c.source, None, "a changed plan")
        return Candidate(c.plan, text, None, "a changed text")

    def tests(self, text: str, static: Static | None) -> Statuses:
        """What running it says, whatever was proved of it before."""
        c = self.candidate
        if self.level == "tile":
            if self.printer is None:
                return {}
            c = self.printer(parse_program(text))
            static = Static((), c.program, bind_plan(c.plan, self.op))
        elif static is None:
            return {}
        else:
            c = self.changed(text)
            static = Static((), static.program or self.read(c), static.bound)
        return statuses(execute(c, static, self.op, self.isa, 0))

    def read(self, c: Candidate) -> TileProgram | None:
        try:
            return read_back(c, bind_plan(c.plan, self.op))[0]
        except PlanError:
            return None

    def __call__(self, m: Mutant, tests: bool) -> Fate | None:
        """The fate of a mutant, None where it is none: it does not parse, or no plan fits it.

        `tests` asks for the tests also where a proof has killed it."""
        begin = time.monotonic()
        try:
            static, records = self.proofs(m.text)
        except (PlanError, SyntaxError, TileError, ExprError):
            return None
        except FAILURES as e:
            records = [Record("G2.prover", "G2", "UNKNOWN", f"the prover failed: {e}")]
            static = None
        gates = statuses(records)
        killers = self.weaker(gates, PROOFS)
        program = static.program if static is not None else None
        if program is None and self.level == "plan" and static is None:
            return None
        if any(re.search(NO_TEXT, r.reason) for r in records if r.kind == "G1"):
            return None
        same = program is not None and equal_form(program, self.form)
        effect, reason = self.truth.effect(program) if program is not None else (UNREAD, "")
        unsound = ""
        if effect == TRAPS and gates.get("G2") == gates.get("G3") == "PROVED":
            unsound = f"G2 and G3 are PROVED, but {reason}"
        if effect == DIFFERS and gates.get("G5") == "PROVED":
            unsound = f"G5 is PROVED, but {reason}"
        tested = False
        if tests or not any(k in (*SHIPPING, "G4") for k in killers):
            found = self.tested(m, static)
            gates |= found
            tested = bool(found)
            killers += self.weaker(found, TESTS)
        if killers and not reason:
            reason = next((r.reason for r in records if r.status != "PROVED"), "")
        spent = time.monotonic() - begin
        return Fate(m, gates, tuple(killers), effect, reason, unsound, same, tested, spent)

    def tested(self, m: Mutant, static: Static | None) -> Statuses:
        if self.first is None:
            self.first = self.tests(self.text, self.static)
        try:
            return self.tests(m.text, static)
        except (PlanError, ImportRefusal, ExprError):
            return {}
        except FAILURES:
            return {"G6": "UNKNOWN"}

    def weaker(self, gates: Statuses, kinds: Sequence[str]) -> list[str]:
        """The gates that say less of a mutant than of the original."""
        known = {**self.original, **(self.first or {})}
        out = []
        for g in kinds:
            if g in gates and ORDER.index(gates[g]) < ORDER.index(known.get(g, "REFUTED")):
                out.append(g)
            elif gates.get(g) == "REFUTED":
                out.append(g)
        return out


Printer = Callable[[TileProgram], Candidate]


def statuses(records: Sequence[Record]) -> Statuses:
    """The weakest status of each gate."""
    kinds = dict.fromkeys(r.kind for r in records)
    return {k: weakest(r.status for r in records if r.kind == k) for k in kinds}


def equal_form(program: TileProgram, form: str) -> bool:
    try:
        return normal_form(program) == form
    except FAILURES:
        return False


# -- plans -----------------------------------------------------------------------------------------


def plan_text(c: Candidate) -> str:
    return json.dumps(c.plan.to_json(), indent=1)


def plan_mutants(c: Candidate) -> Iterator[Mutant]:
    """Faults of a plan: grids, arguments, constants, facts, launches, scratch."""
    plan = c.plan.to_json()

    def made(kind: str, place: str, what: str, change: Callable[[Any], None]) -> Mutant:
        changed = json.loads(json.dumps(plan))
        change(changed)
        return Mutant(kind, f"candidate.json, {place}", json.dumps(changed, indent=1), what)

    def put(path: Sequence[Any], value: Any) -> Callable[[Any], None]:
        def change(data: Any) -> None:
            for key in path[:-1]:
                data = data[key]
            data[path[-1]] = value

        return change

    def without(path: Sequence[Any]) -> Callable[[Any], None]:
        def change(data: Any) -> None:
            for key in path[:-1]:
                data = data[key]
            del data[path[-1]]

        return change

    for n, fact in enumerate(plan.get("facts", [])):
        yield made("facts", "facts", f"without {fact}", without(["facts", n]))
    launches = plan["launches"]
    for n, launch in enumerate(launches):
        place = f"launch {n} ({launch['kernel']})"
        for k, g in enumerate(launch["grid"]):
            for new in _grids(g):
                path = ["launches", n, "grid", k]
                yield made("grid", place, f"grid {g} -> {new}", put(path, new))
        args = launch["args"]
        for a in range(len(args)):
            for b in range(a + 1, len(args)):
                if _alike(args[a], args[b]):
                    swapped = [*args]
                    swapped[a], swapped[b] = args[b], args[a]
                    what = f"{args[a]} and {args[b]} exchanged"
                    yield made("arguments", place, what, put(["launches", n, "args"], swapped))
        for name, value in (launch.get("const") or {}).items():
            if isinstance(value, int) and not isinstance(value, bool) and value > 1:
                for other in (value * 2, value // 2):
                    path = ["launches", n, "const", name]
                    yield made("constant", place, f"{name} = {other}", put(path, other))
        if len(launches) > 1:
            yield made("store_missing", place, "the launch left out", without(["launches", n]))
    if len(launches) > 1:
        turned = [*launches[1:], launches[0]]
        yield made("launch_order", "launches", "the first launch last", put(["launches"], turned))
    for name, s in (plan.get("scratch") or {}).items():
        for k, extent in enumerate(s.get("shape", [])):
            path = ["scratch", name, "shape", k]
            what = f"{name} has {extent} - 1"
            yield made("shared", f"scratch {name}", what, put(path, f"{extent} - 1"))


def _grids(g: str) -> Iterator[str]:
    yield f"({g}) - 1"
    yield f"({g}) + 1"

    for m in re.finditer(r"cdiv\(([^,()]+), ([^,()]+)\)", g):
        yield f"{g[: m.start()]}({m[1]}) // ({m[2]}){g[m.end() :]}"
    for m in re.finditer(r"\((\w+) \+ (\d+)\) // (\d+)", g):
        yield f"{g[: m.start()]}{m[1]} // {m[3]}{g[m.end() :]}"


def _alike(a: str, b: str) -> bool:
    """Whether two arguments have one type, so that nothing but the meaning tells them apart."""
    if a == b:
        return False
    kinds = [
        "stride" if x.startswith("stride(") else "i32" if x.startswith("i32(") else
        "size" if x[:1].isupper() else "other"
        for x in (a, b)
    ]  # fmt: skip
    return kinds[0] == kinds[1] != "other"
