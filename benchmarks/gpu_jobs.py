"""What `make gpu` does with one operator: which candidates there are, whether they are right, how
fast they are, what a model says of that before, and how much energy they take. Nothing here imports
torch or Triton: a `Device` runs and times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from random import Random
from statistics import median
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from opwright.backends.triton.plan import make_plan, print_for
from opwright.backends.triton.run import RunError
from opwright.backends.triton.text import PrintError
from opwright.compiler import cuda_blocks
from opwright.compiler.block_spaces import spaces
from opwright.compiler.elaborate import load_spec
from opwright.compiler.modelled import modelled
from opwright.ir.binding import InputError
from opwright.ir.launch import BoundPlan, bind_plan
from opwright.ir.op import Operator, Workload
from opwright.ir.plan import PlanError
from opwright.ir.reference import reference
from opwright.ir.tile import TileProgram
from opwright.search.calls import edges
from opwright.search.space import IllegalSchedule
from opwright.verify.inputs import Case, generate, workload_case
from opwright.verify.memory import Frame
from opwright.verify.numeric import Bound, Observation, bounds, numeric
from opwright.verify.sizes import Scaled, default_workload, scale

SPECS = Path(__file__).resolve().parent.parent / "specs"
# what is done, by kind: its share of the time, and the seconds that one job is taken to last
KINDS = {"first": (6.0, 2.0), "time": (5.0, 4.0), "sanitize": (1.0, 15.0), "energy": (1.5, 35.0),
         "test": (2.0, 8.0)}  # fmt: skip
SANITIZED, METERED = 12, 8  # operators that are a sample
LANGUAGES = ("triton", "cuda")
PER_SPACE = 3  # candidates: the preferred ones, then samples
CASES = 8
PER_WINDOW = 5.0  # seconds of back-to-back calls whose energy is read
BYTES, WORK = 1 << 30, 1 << 40  # of a workload, beyond which it is scaled down

Arrays = Mapping[str, NDArray[Any]]
Call = Callable[[], object]


class Device(Protocol):
    """What runs and times; `target` is the architecture as candidates name it."""

    @property
    def target(self) -> str: ...

    def run(
        self, made: Made, arrays: Arrays, sizes: Mapping[str, int], params: Mapping[str, Any]
    ) -> Arrays:
        """Outputs of inputs and outputs by name, in stored form; RunError says why there are
        none."""
        ...

    def calls(self, op: Operator, case: Case, made: Sequence[Made]) -> Mapping[str, Call | str]:
        """Calls to time by name (candidates, eager, compiled), or why there is none."""
        ...

    def samples(self, calls: Mapping[str, Call], seconds: float) -> Mapping[str, list[float]]:
        """Seconds of single calls, taken in turns."""
        ...

    def joules(self, calls: Mapping[str, Call], seconds: float) -> Mapping[str, Mapping[str, Any]]:
        """The energy of a call of each, over long windows; a reason where it is not counted."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A candidate: its schedule, source and bound plan."""

    name: str
    source: str
    bound: BoundPlan
    near: tuple[int, ...] = ()
    language: str = "triton"
    program: TileProgram | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """One unit of work that a crash may cost: test or time an operator at a binding."""

    kind: str  # of KINDS
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
    energy: list[dict[str, Any]] = field(default_factory=list)


def jobs(wanted: Sequence[str] = ()) -> list[Job]:
    """All there is to do, the most valuable first. `first`: the preferred candidate of every
    operator at f32 and its first narrow type; `test`: all the others; `time` at f32; energy and the
    sanitizer on a sample."""
    found: dict[str, list[Job]] = {k: [] for k in KINDS}
    narrow: list[Job] = []
    paths = sorted(p for p in SPECS.rglob("*.op") if not wanted or p.stem in wanted)
    for number, path in enumerate(_mixed(paths)):
        spec = load_spec(path)
        at = str(path.relative_to(SPECS))
        several = len(spec.names) > 1
        for name in spec.names:
            bindings = spec.bindings(name)
            wide = next((b for b in bindings if set(b.values()) <= {"f32"}), bindings[0])
            small = [b for b in bindings if set(b.values()) & {"f16", "bf16"}][:1]
            own = name if several else ""
            at_f32 = tuple(wide.items())
            found["first"].append(Job("first", at, at_f32, own))
            narrow += [Job("first", at, tuple(b.items()), own) for b in small]
            found["test"] += [Job("test", at, tuple(b.items()), own) for b in (wide, *small)]
            found["time"].append(Job("time", at, at_f32, own))
            if number < METERED:
                found["energy"].append(Job("energy", at, at_f32, own))
            if number < SANITIZED:
                found["sanitize"].append(Job("sanitize", at, at_f32, own))
    found["first"] += narrow
    return _in_turns(found)


def _mixed(paths: Sequence[Path]) -> list[Path]:
    """One of each folder in turn, so that what there was time for is a sample."""
    folders: dict[Path, list[Path]] = {}
    for p in paths:
        folders.setdefault(p.parent, []).append(p)
    turns = zip_longest(*folders.values())
    return [p for turn in turns for p in turn if p is not None]


def _in_turns(found: Mapping[str, Sequence[Job]]) -> list[Job]:
    """The next job is of the kind that had least of its share."""
    left = {k: list(v) for k, v in found.items()}
    spent = dict.fromkeys(left, 0.0)
    out = []
    while any(left.values()):
        kind = min((k for k in left if left[k]), key=lambda k: (spent[k], list(KINDS).index(k)))
        share, seconds = KINDS[kind]
        spent[kind] += seconds / share
        out.append(left[kind].pop(0))
    return out


def operator(job: Job) -> Operator:
    spec = load_spec(SPECS / job.spec)
    return spec.operator(job.name or spec.names[0], dict(job.types))


def candidates(
    op: Operator, target: str, most: int = PER_SPACE, languages: Sequence[str] = LANGUAGES
) -> Iterator[Made | str]:
    """Candidates of every space in every language, or the reason why one could not be made."""
    for space in spaces(op, target):
        rng = Random(0)
        wanted = space.preferred()[:most]
        wanted += [space.sample(rng) for _ in range(most - len(wanted))]
        for schedule in dict.fromkeys(wanted):
            try:
                program = space.instantiate(schedule)
            except (IllegalSchedule, ValueError) as e:
                yield f"{schedule.text}: {e}"
                continue
            for language in languages:
                try:
                    yield made_of(program, op, target, schedule.text, language)
                except (PrintError, PlanError, ValueError) as e:
                    yield f"{language} {schedule.text}: {str(e).splitlines()[0]}"


def made_of(program: TileProgram, op: Operator, target: str, name: str, language: str) -> Made:
    """A program in a language; PrintError where it has no form there."""
    if language == "triton":
        bound = bind_plan(make_plan(program, op, target), op)
        return Made(name, print_for(program, op), bound, edges(program), language, program)
    c = cuda_blocks.printed(program, op, target)
    bound = bind_plan(c.plan, op)
    return Made(f"cuda {name}", c.source, bound, edges(program), language, program)


def first_candidates(op: Operator, target: str, languages: Sequence[str]) -> list[Made | str]:
    """Of every language what its search would look at first, after candidate 0."""
    found = spaces(op, target)
    out: list[Made | str] = []
    for language in languages:
        why = "no schedule"
        for space in (*found[1:], found[0]):
            try:
                schedule = space.preferred()[0]
                program = space.instantiate(schedule)
                out.append(made_of(program, op, target, schedule.text, language))
                break
            except (IllegalSchedule, PrintError, PlanError, ValueError) as e:
                why = f"{language} {space.name}: {str(e).splitlines()[0]}"
        else:
            out.append(why)
    return out


def do(job: Job, device: Device, seconds: float, languages: Sequence[str] = LANGUAGES) -> Outcome:
    """Run one job."""
    op = operator(job)
    out = Outcome()
    if job.kind in ("first", "sanitize"):
        every = first_candidates(op, device.target, languages)
        out.tests += [test(op, made, device) for made in every]
    elif job.kind == "test":
        every = list(candidates(op, device.target, PER_SPACE, languages))
        out.tests += [test(op, made, device) for made in every]
    elif job.kind == "energy":
        out.energy += metered(op, device, languages)
    else:
        out.times += time(op, device, seconds, languages)
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
            found = device.run(made, views, case.sizes, case.params)
        except RunError as e:
            return Observation(failure=str(e))
        return Observation({t.name: np.ascontiguousarray(found[t.name]) for t in op.outputs})

    found = numeric(op, cases, run, bound, layouts=("offset", "rows"))
    refuted = found.refuted
    row |= {
        "candidate": made.name,
        "language": made.language,
        "error": found.error,
        "cases": len(cases),
    }
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


def loads(op: Operator) -> list[tuple[Workload | None, Scaled]]:
    """The workloads of a binding at sizes that fit."""
    found: list[tuple[Workload | None, Scaled]] = [
        (w, scale(op, w, BYTES, WORK)) for w in op.workloads if _fits(op, w.types)
    ]
    return found or [(None, default_workload(op))]


def predictions(
    job: Job, target: str, languages: Sequence[str] = LANGUAGES
) -> list[dict[str, Any]]:
    """What the model says of the candidates of a job before one of them is timed."""
    op = operator(job)
    made = [m for m in candidates(op, target, PER_SPACE, languages) if isinstance(m, Made)]
    out = []
    for _, s in loads(op):
        for m in made:
            assert m.program is not None
            try:
                seconds = modelled(op, m.program, s.sizes, s.params, target, {})
            except (ArithmeticError, KeyError, ValueError):
                continue
            out.append({"op": op.name, "types": dict(op.types), "workload": s.name, "impl": m.name,
                        "modelled_s": seconds})  # fmt: skip
    return out


def time(
    op: Operator, device: Device, seconds: float, languages: Sequence[str] = LANGUAGES
) -> list[dict[str, Any]]:
    """Median seconds of candidates and baselines at every workload, in one run a workload."""
    out: list[dict[str, Any]] = []
    every = candidates(op, device.target, PER_SPACE, languages)
    made = [m for m in every if isinstance(m, Made)]
    known = loads(op)
    own = {m.name for m in made}
    for w, s in known:
        case = workload_case(op, w, s, 1)
        row = {"op": op.name, "types": dict(op.types), "workload": s.name, "sizes": dict(s.sizes),
               "bytes": _bytes(op, case)}  # fmt: skip
        taken = [m for m in made if Frame(op, case).satisfies(m.bound.facts)]
        calls = device.calls(op, case, taken)
        missing = {n: c for n, c in calls.items() if isinstance(c, str)}
        out += [{**row, "impl": n, "median_s": None, "note": why} for n, why in missing.items()]
        ready = {n: c for n, c in calls.items() if not isinstance(c, str)}
        found = device.samples(ready, seconds / len(known)) if ready else {}
        for name, values in found.items():
            spread = _spread(values)
            out.append(
                {**row, "impl": name, "median_s": median(values) if values else None,
                 "own": name in own, "spread": spread, "samples": len(values)}
            )  # fmt: skip
    return out


def _bytes(op: Operator, case: Case) -> int:
    """The least that a call has to move: each input once, each output once."""
    frame = Frame(op, case)
    return sum(int(frame.array(slot.name).nbytes) for slot in frame.slots)


def metered(op: Operator, device: Device, languages: Sequence[str]) -> list[dict[str, Any]]:
    """Joules of a call at the first workload: the fastest candidate and the baselines."""
    w, s = loads(op)[0]
    case = workload_case(op, w, s, 1)
    every = candidates(op, device.target, 1, languages)
    made = [m for m in every if isinstance(m, Made) and Frame(op, case).satisfies(m.bound.facts)]
    calls = device.calls(op, case, made)
    ready = {n: c for n, c in calls.items() if not isinstance(c, str)}
    timed = {n: median(v) for n, v in device.samples(ready, 1.0).items() if v}
    own = sorted((n for n in timed if n in {m.name for m in made}), key=timed.__getitem__)
    wanted = {n: ready[n] for n in (*own[:1], *(n for n in ready if n not in own))}
    row = {"op": op.name, "types": dict(op.types), "workload": s.name}
    return [{**row, "impl": n, **e} for n, e in device.joules(wanted, PER_WINDOW).items()]


def _fits(op: Operator, types: Mapping[str, str]) -> bool:
    return all(op.types.get(k, v) == v for k, v in types.items())


def _spread(values: Sequence[float]) -> float:
    """Half the distance of the quartiles, relative to the median."""
    if len(values) < 4:
        return 0.0
    ordered = sorted(values)
    low, high = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    return (high - low) / 2 / median(ordered)
