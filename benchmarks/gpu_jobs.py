"""What `make gpu` does with one operator: which candidates there are, whether they are right, how
fast they are. Nothing here imports torch or Triton: a `Device` runs and times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from opwright.backends.triton.plan import make_plan, print_for
from opwright.backends.triton.run import RunError
from opwright.compiler.block_spaces import spaces
from opwright.compiler.elaborate import load_spec
from opwright.ir.binding import InputError
from opwright.ir.launch import BoundPlan, bind_plan
from opwright.ir.op import Operator, Workload
from opwright.ir.reference import reference
from opwright.search.calls import edges
from opwright.search.space import IllegalSchedule
from opwright.verify.inputs import Case, generate, workload_case
from opwright.verify.memory import Frame
from opwright.verify.numeric import Bound, Observation, bounds, numeric
from opwright.verify.sizes import Scaled, default_workload, scale

SPECS = Path(__file__).resolve().parent.parent / "specs"
PER_SPACE = 3  # candidates: the preferred ones, then samples
CASES = 8
BYTES, WORK = 1 << 30, 1 << 40  # of a workload, beyond which it is scaled down

Arrays = Mapping[str, NDArray[Any]]
Call = Callable[[], object]
# inputs and outputs by name -> outputs, in stored form; RunError says why there are none
Run = Callable[[str, BoundPlan, Arrays, Mapping[str, int], Mapping[str, Any]], Arrays]


class Device(Protocol):
    """What runs and times; `target` is the architecture as candidates name it."""

    @property
    def target(self) -> str: ...

    def run(
        self,
        source: str,
        bound: BoundPlan,
        arrays: Arrays,
        sizes: Mapping[str, int],
        params: Mapping[str, Any],
    ) -> Arrays: ...

    def calls(self, op: Operator, case: Case, made: Sequence[Made]) -> Mapping[str, Call | str]:
        """Calls to time by name (candidates, eager, compiled), or why there is none."""
        ...

    def samples(self, calls: Mapping[str, Call], seconds: float) -> Mapping[str, list[float]]:
        """Seconds of single calls, taken in turns."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A candidate: its schedule, source and bound plan."""

    name: str
    source: str
    bound: BoundPlan
    near: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Job:
    """One unit of work that a crash may cost: test or time an operator at a binding."""

    kind: str  # test | time
    spec: str
    types: tuple[tuple[str, str], ...] = ()
    name: str = ""  # of the operator, where a file has several

    @property
    def label(self) -> str:
        types = "".join(f" {k}={v}" for k, v in self.types)
        return f"{self.kind} {self.spec}{':' * bool(self.name)}{self.name}{types}"


@dataclass(slots=True)
class Outcome:
    """Rows of a job, as the document holds them."""

    tests: list[dict[str, Any]] = field(default_factory=list)
    times: list[dict[str, Any]] = field(default_factory=list)


def jobs(wanted: Sequence[str] = ()) -> list[Job]:
    """Tests of every operator at f32 and its first narrow type, then times at f32."""
    tests: list[Job] = []
    times: list[Job] = []
    for path in sorted(SPECS.rglob("*.op")):
        if wanted and path.stem not in wanted:
            continue
        spec = load_spec(path)
        at = str(path.relative_to(SPECS))
        several = len(spec.names) > 1
        for name in spec.names:
            bindings = spec.bindings(name)
            wide = next((b for b in bindings if set(b.values()) <= {"f32"}), bindings[0])
            narrow = [b for b in bindings if set(b.values()) & {"f16", "bf16"}][:1]
            own = name if several else ""
            tests += [Job("test", at, tuple(b.items()), own) for b in (wide, *narrow)]
            times.append(Job("time", at, tuple(wide.items()), own))
    return [*sorted(tests, key=lambda j: j.types != () and j.types[0][1] != "f32"), *times]


def operator(job: Job) -> Operator:
    spec = load_spec(SPECS / job.spec)
    return spec.operator(job.name or spec.names[0], dict(job.types))


def candidates(op: Operator, target: str, most: int = PER_SPACE) -> Iterator[Made | str]:
    """Candidates of every space, or the reason why one of them could not be made."""
    for space in spaces(op, target):
        rng = Random(0)
        wanted = space.preferred()[:most]
        wanted += [space.sample(rng) for _ in range(most - len(wanted))]
        for schedule in dict.fromkeys(wanted):
            try:
                program = space.instantiate(schedule)
                plan = make_plan(program, op, target)
                source = print_for(program, op)
            except (IllegalSchedule, ValueError) as e:
                yield f"{schedule.text}: {e}"
                continue
            yield Made(schedule.text, source, bind_plan(plan, op), edges(program))


def do(job: Job, device: Device, seconds: float) -> Outcome:
    """Run one job."""
    op = operator(job)
    out = Outcome()
    if job.kind == "test":
        out.tests += [test(op, made, device) for made in candidates(op, device.target)]
    else:
        out.times += time(op, device, seconds)
    return out


# -- tests -----------------------------------------------------------------------------------------


def test(op: Operator, made: Made | str, device: Device) -> dict[str, Any]:
    """G6 of one candidate on the device; the first failing case is told."""
    row: dict[str, Any] = {"op": op.name, "types": dict(op.types)}
    if isinstance(made, str):
        return {**row, "candidate": made, "status": "unmade"}
    cases: list[Case] = []
    known: dict[int, Mapping[str, Bound]] = {}

    def expected(inputs: Arrays, sizes: Mapping[str, int], params: Mapping[str, Any]) -> Arrays:
        return reference(op, inputs, params, sizes)

    def bound(case: Case) -> Mapping[str, Bound]:
        if id(case) not in known:
            known[id(case)] = bounds(op, case, expected)
        return known[id(case)]

    for case in generate(op, 0, CASES, made.near or (16, 64)).cases:
        try:
            bound(case)
        except InputError:
            continue
        cases.append(case)

    def run(case: Case, layout: str) -> Observation | None:
        frame = Frame(op, case, layout)
        if not frame.satisfies(made.bound.facts):
            return None
        frame.fill(0)
        views = {s.name: frame.array(s.name) for s in frame.slots}
        try:
            found = device.run(made.source, made.bound, views, case.sizes, case.params)
        except RunError as e:
            return Observation(failure=str(e))
        return Observation({t.name: np.ascontiguousarray(found[t.name]) for t in op.outputs})

    found = numeric(op, cases, run, bound, layouts=("offset", "rows"))
    refuted = found.refuted
    row |= {"candidate": made.name, "error": found.error, "cases": len(cases)}
    if refuted is None:
        untested = any(r.status != "TESTED" for r in found.records)
        reason = found.records[0].reason
        return {**row, "status": "UNKNOWN" if untested else "TESTED", "reason": reason}
    return {
        **row,
        "status": "REFUTED",
        "reason": refuted.reason,
        "counterexample": refuted.counterexample,
    }


# -- times -----------------------------------------------------------------------------------------


def time(op: Operator, device: Device, seconds: float) -> list[dict[str, Any]]:
    """Median seconds of candidates and baselines at every workload, in one run a workload."""
    scaled: list[tuple[Workload | None, Scaled]] = [
        (w, scale(op, w, BYTES, WORK)) for w in op.workloads if _fits(op, w.types)
    ]
    out: list[dict[str, Any]] = []
    made = [m for m in candidates(op, device.target) if isinstance(m, Made)]
    for w, s in scaled or [(None, default_workload(op))]:
        case = workload_case(op, w, s, 1)
        row = {"op": op.name, "types": dict(op.types), "workload": s.name, "sizes": dict(s.sizes)}
        taken = [m for m in made if Frame(op, case).satisfies(m.bound.facts)]
        calls = device.calls(op, case, taken)
        missing = {n: c for n, c in calls.items() if isinstance(c, str)}
        out += [{**row, "impl": n, "median_s": None, "note": why} for n, why in missing.items()]
        ready = {n: c for n, c in calls.items() if not isinstance(c, str)}
        found = device.samples(ready, seconds / max(len(scaled), 1)) if ready else {}
        for name, values in found.items():
            spread = _spread(values)
            out.append(
                {**row, "impl": name, "median_s": median(values) if values else None,
                 "spread": spread, "samples": len(values)}
            )  # fmt: skip
    return out


def _fits(op: Operator, types: Mapping[str, str]) -> bool:
    return all(op.types.get(k, v) == v for k, v in types.items())


def _spread(values: Sequence[float]) -> float:
    """Half the distance of the quartiles, relative to the median."""
    if len(values) < 4:
        return 0.0
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    return (high - low) / 2 / median(ordered)
