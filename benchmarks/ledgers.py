"""Whole spaces of operators with a time for every point, recorded once: on them searches are
compared without a clock. `python -m opwright.benchmarks.ledgers OPERATOR ...` records.

A recorded space is the operator's own with fewer values for its holes, so that every point can be
timed. Times are the least of many short samples of one thread: other load shows in the others.
Candidates are built and tested as in a search; safety of printed programs is not proved again here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from opwright.backends.cpp.build import host_isa
from opwright.compiler.elaborate import load_spec
from opwright.compiler.forms import forms_of
from opwright.compiler.native import F32_LANES
from opwright.compiler.spaces import spaces
from opwright.compiler.stored import stored_form
from opwright.compiler.toolbox import evaluation_tools
from opwright.ir.op import Operator
from opwright.ir.record import Record
from opwright.ir.tile import TileProgram
from opwright.ir.tiletext import digest
from opwright.search.evaluate import CandidateEvaluator
from opwright.search.loads import host
from opwright.search.results import Confirmation, Evaluation, Incumbent, Job, Options
from opwright.search.space import ChoiceSpace, Decision, IllegalSchedule, Schedule, parse

HERE = Path(__file__).resolve().parent
SPECS, LEDGERS = HERE.parent / "specs", HERE / "results" / "ledgers"
POINTS = 72  # of an operator, about
BYTES, STEPS = 1 << 20, 1 << 25  # of a workload: samples are short, and stay in the cache
SAMPLES = 40
UNPROVED = (Record("G2.bounds", "G2", "TESTED"), Record("G3.races", "G3", "TESTED"))


def operator(name: str) -> Operator:
    """An operator of the library, bound to f32 where its type variables allow it."""
    (path,) = SPECS.rglob(f"{name}.op")
    spec = load_spec(path)
    bindings = spec.bindings(name)
    wanted = next((b for b in bindings if set(b.values()) <= {"f32"}), bindings[0])
    return stored_form(spec.operator(name, wanted))


def smaller(space: ChoiceSpace, points: int) -> ChoiceSpace:
    """A space with the last values of its largest holes left out, until it has few points."""
    holes = dict(space.holes)

    def size() -> int:
        n = 1
        for v in holes.values():
            n *= len(v)
        return n

    while size() > points:
        largest = max(holes, key=lambda h: len(holes[h]))
        if len(holes[largest]) == 1:
            break
        holes[largest] = holes[largest][:-1]
    return narrowed(space, holes)


def narrowed(space: ChoiceSpace, holes: Mapping[str, tuple[Decision, ...]]) -> ChoiceSpace:
    """The space with these values alone, and the starts that are among them."""
    kept = tuple(s for s in space.starts if all(v in holes[h] for h, v in s.items()))
    return ChoiceSpace(space.name, dict(holes), space.build, kept)


class Timed(CandidateEvaluator):
    """Times alone, the least of many short samples."""

    def timed(self, job: Job, result: Evaluation, incumbent: Incumbent | None) -> Evaluation:
        path = {"candidate": self._library(job)[1].path}
        metrics = {}
        for load in self.loads:
            if self.serves(job.program, load):
                found = self._measure(load, path, self.options.rounds, None)
                metrics[load.scaled.name] = {"latency": found.timings["candidate"].least}
        return replace(result, metrics=metrics)


def record(name: str, points: int, folder: Path) -> Path:
    """Time every point of an operator's smaller spaces; what is in the file already stays."""
    op = operator(name)
    level = host_isa()
    own = [s for s in spaces(op, F32_LANES[level]) if isinstance(s, ChoiceSpace)]
    share = points // max(len(own) - 1, 1)
    chosen = [own[0], *(smaller(s, share) for s in own[1:])]
    path = folder / f"{name}.jsonl"
    head = {
        "operator": f"{op.name}@{op.version}",
        "types": dict(op.types),
        "forms": list(forms_of(op)),
        "machine": host(),
        "isa": level,
        "how": f"least of {SAMPLES} samples of 1 ms, one thread, 1 MiB",
        "holes": {s.name: {h: list(v) for h, v in s.holes.items()} for s in chosen},
    }
    done: set[str] = set()
    if path.exists():
        lines = path.read_text().splitlines()
        done = {json.loads(x)["schedule"] for x in lines[1:]}
    else:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(head) + "\n")
    tools = replace(evaluation_tools(op, level).tools, safety=lambda program: UNPROVED)
    options = Options(
        1, "TESTED", 2, bytes_limit=BYTES, work_limit=STEPS, rounds=SAMPLES, block=0.001,
        time_limit=3.0, lock=folder / ".lock",
    )  # fmt: skip
    with Timed(op, tools, options) as evaluator, path.open("a") as out:
        jobs: list[Job] = []
        seen: dict[str, int] = {}
        for schedule in (x for s in chosen for x in every(s)):
            if schedule.text in done:
                continue
            space = next(s for s in chosen if s.name == schedule.strategy)
            row: dict[str, Any] = {"schedule": schedule.text}
            try:
                program = space.instantiate(schedule)
            except IllegalSchedule as e:
                out.write(json.dumps({**row, "status": "illegal", "reason": e.reason}) + "\n")
                continue
            mark = digest(program)
            if mark not in seen:
                seen[mark] = len(jobs)
                jobs.append(Job(len(jobs), schedule, program, mark))
        for at in range(0, len(jobs), 4):
            for job, found in evaluator.evaluate(jobs[at : at + 4], None):
                row = {"schedule": job.schedule.text, "status": found.status}
                row["seconds"] = {w: m["latency"] for w, m in found.metrics.items()}
                if not found.metrics:
                    row["reason"] = found.reason[:200]
                out.write(json.dumps(row) + "\n")
                out.flush()
    return path


def every(space: ChoiceSpace) -> Iterator[Schedule]:
    """All points of a space, its preferred ones first."""
    first = space.preferred()
    yield from first
    known = {s.text for s in first}
    at: list[tuple[tuple[str, Decision], ...]] = [()]
    for hole, values in space.holes.items():
        at = [(*before, (hole, v)) for before in at for v in values]
    for decisions in at:
        schedule = Schedule(space.name, decisions)
        if schedule.text not in known:
            yield schedule


@dataclass(frozen=True)
class Ledger:
    """What was recorded of one operator; an evaluator that only looks things up."""

    name: str
    head: Mapping[str, Any]
    rows: Mapping[str, Mapping[str, Any]]

    @staticmethod
    def load(name: str, folder: Path = LEDGERS) -> Ledger:
        lines = [json.loads(x) for x in (folder / f"{name}.jsonl").read_text().splitlines()]
        return Ledger(name, lines[0], {r["schedule"]: r for r in lines[1:]})

    @cached_property
    def op(self) -> Operator:
        return operator(self.name)

    @cached_property
    def spaces(self) -> list[ChoiceSpace]:
        """The operator's spaces as they were recorded."""
        holes = self.head["holes"]
        own = [s for s in spaces(self.op, F32_LANES[self.head["isa"]]) if s.name in holes]
        return [
            narrowed(
                replace(s, build=_once(s.build)),
                {h: tuple(map(_decision, v)) for h, v in holes[s.name].items()},
            )
            for s in own
            if isinstance(s, ChoiceSpace)
        ]

    @property
    def current(self) -> bool:
        """Whether the operator's spaces still have the holes that were recorded."""
        own = {s.name: s.holes for s in spaces(self.op, F32_LANES[self.head["isa"]])
               if isinstance(s, ChoiceSpace)}  # fmt: skip
        return all(
            name in own and set(own[name]) == set(holes)
            for name, holes in self.head["holes"].items()
        )

    @cached_property
    def _digests(self) -> dict[int, str]:
        return {}

    def digest(self, program: TileProgram) -> str:
        """The digest of a program of these spaces, which live as long as this does."""
        if id(program) not in self._digests:
            self._digests[id(program)] = digest(program)
        return self._digests[id(program)]

    # -- the evaluator's protocol ------------------------------------------------------------------

    @property
    def context(self) -> str:
        return f"recorded {self.name}"

    @property
    def notes(self) -> Sequence[str]:
        return ()

    @property
    def weights(self) -> Mapping[str, float]:
        loads = {w for r in self.rows.values() for w in r.get("seconds", {})}
        return dict.fromkeys(sorted(loads), 1.0)

    @cached_property
    def by_program(self) -> Mapping[str, Mapping[str, Any]]:
        """Rows by the program of their schedule: equal programs were timed once."""
        found = {}
        for text, row in self.rows.items():
            schedule = parse(text)
            space = next(s for s in self.spaces if s.name == schedule.strategy)
            try:
                found[self.digest(space.instantiate(schedule))] = row
            except IllegalSchedule:
                continue
        return found

    def evaluate(
        self, jobs: Sequence[Job], incumbent: Incumbent | None
    ) -> Iterator[tuple[Job, Evaluation]]:
        for job in jobs:
            row = self.by_program.get(job.digest, {"status": "unbuilt", "reason": "not recorded"})
            metrics = {w: {"latency": t} for w, t in row.get("seconds", {}).items()}
            if metrics and incumbent is not None:  # what its facts exclude runs elsewhere
                rest = {w: m for w, m in incumbent.base_metrics.items() if w not in metrics}
                metrics |= {w: {**m, "delegated": 1.0} for w, m in rest.items()}
            yield job, Evaluation(row["status"], row.get("reason", ""), metrics=metrics)

    def confirm(self, jobs: Sequence[Job], baseline: Job | None) -> Confirmation:
        return Confirmation({}, 0.0)

    def close(self) -> None:
        pass


def _once(build: Callable[..., TileProgram]) -> Callable[..., TileProgram]:
    """A space's programs, made once each."""
    made: dict[str, TileProgram | IllegalSchedule] = {}

    def again(**decisions: Decision) -> TileProgram:
        key = repr(decisions)
        if key not in made:
            try:
                made[key] = build(**decisions)
            except IllegalSchedule as e:
                made[key] = e
        found = made[key]
        if isinstance(found, IllegalSchedule):
            raise found
        return found

    return again


def _decision(v: Any) -> Decision:
    return tuple(_decision(x) for x in v) if isinstance(v, list) else v


def main(given: Sequence[str]) -> int:
    """Record operators."""
    p = argparse.ArgumentParser(prog="python -m opwright.benchmarks.ledgers", description=__doc__)
    p.add_argument("operators", nargs="+")
    p.add_argument("--points", type=int, default=POINTS, help="of an operator, about")
    p.add_argument("--folder", type=Path, default=LEDGERS)
    options = p.parse_args(given)
    for name in options.operators:
        path = record(name, options.points, options.folder)
        print(f"{path}: {len(path.read_text().splitlines()) - 1} candidates, "
              f"load {os.getloadavg()[0]:.1f}", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
