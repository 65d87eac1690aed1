"""Time per static gate over the library: `python -m opwright.benchmarks.gates [--ops NAME ...]`.

Candidates are the first schedules of every strategy that an operator has, as each printer writes
them, and their texts go through the gates as strangers' would. Nothing is executed, but for front
ends in processes of their own, whose time stands apart ("process").
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from opwright.compiler.candidates import Candidate
from opwright.compiler.elaborate import load_spec
from opwright.compiler.importing import static_gates
from opwright.compiler.stored import stored_form
from opwright.grammar.diagnostics import DiagnosticError
from opwright.ir.expr import ExprError
from opwright.ir.op import Operator
from opwright.ir.plan import PlanError
from opwright.ir.record import ORDER, weakest
from opwright.ir.spent import listening
from opwright.search.loads import host
from opwright.search.space import IllegalSchedule, Space

SPECS = Path(__file__).resolve().parent.parent / "specs"
BACKENDS = ("cpp", "triton")
GATES = ("G0", "G1", "G2", "G3", "G4", "G5", "G7")
FIRST = ("G0", "G1", "G2")  # what comes before anything may run
GOALS = {"G0-G2": (0.15, 1.0), "all": (None, 3.0)}  # seconds: median, 95th percentile
NAMED = {"process": "front end's process", "replay": "replay of failures"}


@dataclass(frozen=True, slots=True)
class Measured:
    """One candidate: seconds by part, and the status of each gate that has a record."""

    op: str
    backend: str
    schedule: str
    seconds: dict[str, float]
    status: dict[str, str]
    why: dict[str, str] = field(default_factory=dict)

    def of(self, parts: Iterable[str]) -> float:
        return sum(self.seconds.get(p, 0.0) for p in parts)

    @property
    def whole(self) -> float:
        """Everything but what a front end's own process takes."""
        return sum(s for p, s in self.seconds.items() if p != "process")


def specs(names: Sequence[str]) -> list[Path]:
    """Files of the library, those of the names if any are given (a file or folder's name)."""
    found = sorted(SPECS.rglob("*.op"))
    if not names:
        return found
    return [p for p in found if p.stem in names or p.parent.name in names or str(p) in names]


def operator_of(path: Path, element: str) -> list[Operator]:
    """The operators of a file, each bound to one element type where it allows it."""
    spec = load_spec(path)
    out = []
    for name in spec.names:
        bindings = spec.bindings(name)
        chosen = next((b for b in bindings if set(b.values()) <= {element}), bindings[0])
        out.append(stored_form(spec.operator(name, chosen)))
    return out


def spaces_of(op: Operator, backend: str) -> list[Space]:
    if backend == "cpp":
        from opwright.compiler.spaces import spaces

        return spaces(op)
    from opwright.compiler.block_spaces import spaces as block_spaces

    return block_spaces(op)


def printed(space: Space, schedule: Any, op: Operator, backend: str, isa: str) -> Candidate:
    program = space.instantiate(schedule)
    if backend == "cpp":
        from opwright.compiler.candidates import printed as print_cpp

        return print_cpp(program, op, isa)
    from opwright.compiler.blocks import printed as print_blocks

    return print_blocks(program, op, "sm_90")


def candidates(op: Operator, backend: str, isa: str, count: int) -> Iterator[tuple[str, Candidate]]:
    """The first legal schedules of every strategy, `count` of each."""
    try:
        found = spaces_of(op, backend)
    except (ExprError, ValueError, KeyError):
        return
    for space in found:
        made = 0
        for schedule in space.preferred():
            if made == count:
                break
            try:
                yield schedule.text, printed(space, schedule, op, backend, isa)
            except (IllegalSchedule, ExprError, PlanError, ValueError, KeyError):
                continue
            made += 1


def measure(op: Operator, backend: str, schedule: str, c: Candidate, cpu: bool = False) -> Measured:
    """The static gates of one candidate. `cpu`: seconds of this process's own work."""
    with listening(time.process_time if cpu else time.perf_counter) as seconds:
        static = static_gates(c, op)
    status, why = {}, {}
    for gate in GATES:
        own = [r for r in static.records if r.kind == gate]
        if own:
            status[gate] = weakest(r.status for r in own)
            weak = next((r for r in own if r.status == status[gate] != "PROVED"), None)
            if weak is not None:
                why[gate] = f"{weak.id}: {weak.reason}"
    return Measured(op.name, backend, schedule, dict(seconds), status, why)


def run(
    paths: Sequence[Path],
    backends: Sequence[str],
    isa: str,
    count: int,
    element: str,
    cpu: bool = False,
) -> Iterator[Measured]:
    """All candidates of all operators, one after the other."""
    for path in paths:
        try:
            operators = operator_of(path, element)
        except DiagnosticError as e:
            print(f"{path.name}: {e}", file=sys.stderr)
            continue
        for op in operators:
            for backend in backends:
                for schedule, c in candidates(op, backend, isa, count):
                    try:
                        yield measure(op, backend, schedule, c, cpu)
                    except PlanError as e:
                        print(f"{op.name} {backend} {schedule}: {e}", file=sys.stderr)


# -- tables ----------------------------------------------------------------------------------------


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that is not below `share` of them."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def lines_of(rows: Sequence[Measured]) -> list[tuple[str, list[float], Counter[str]]]:
    """What a table has a line for: a name, seconds by candidate, and statuses."""
    parts = [p for p in (*GATES, *NAMED) if any(p in r.seconds or p in r.status for r in rows)]
    out = []
    for p in parts:
        reached = [r for r in rows if p in r.seconds or p in r.status]
        statuses = Counter(r.status[p] for r in rows if p in r.status)
        out.append((NAMED.get(p, p), [r.of([p]) for r in reached], statuses))
    out.append(("G0-G2", [r.of(FIRST) for r in rows], Counter()))
    whole = Counter(weakest(r.status.values()) for r in rows)
    out.append(("all", [r.whole for r in rows], whole))
    return out


def table(rows: Sequence[Measured]) -> list[str]:
    """A line a gate: median, 95th percentile and largest seconds, and the share of each status."""
    head = f"{'gate':<20} {'n':>5} {'median s':>9} {'p95 s':>8} {'most s':>8}  of its candidates"
    out = [head]
    for name, seconds, statuses in lines_of(rows):
        total = sum(statuses.values())
        share = ", ".join(
            f"{100 * statuses[s] / total:.0f} % {s}" for s in reversed(ORDER) if statuses[s]
        )
        out.append(
            f"{name:<20} {len(seconds):>5} {statistics.median(seconds):>9.3f}"
            f" {percentile(seconds, 0.95):>8.3f} {max(seconds):>8.3f}  {share}"
        )
    return out


def goals(rows: Sequence[Measured]) -> list[str]:
    """Which goals are reached by these candidates."""
    found = {name: seconds for name, seconds, _ in lines_of(rows)}
    out = []
    for name, (middle, high) in GOALS.items():
        for what, goal, value in (
            ("median", middle, statistics.median(found[name])),
            ("95th percentile", high, percentile(found[name], 0.95)),
        ):
            if goal is not None:
                said = "reached" if value <= goal else "MISSED"
                out.append(f"{name} {what}: {value:.3f} s, goal {goal:g} s: {said}")
    return out


def slowest(rows: Sequence[Measured], count: int = 8) -> list[str]:
    out = ["slowest:"]
    for r in sorted(rows, key=lambda r: -r.whole)[:count]:
        spent = ", ".join(f"{p} {s:.2f}" for p, s in sorted(r.seconds.items()) if s >= 0.005)
        out.append(f"  {r.op} {r.backend} {r.schedule[:60]}: {spent}")
    return out


def arguments(given: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="python -m opwright.benchmarks.gates", description=__doc__)
    p.add_argument("--ops", nargs="*", default=[], help="files or folders of the library; all")
    p.add_argument("--backends", default=",".join(BACKENDS), help="by comma")
    p.add_argument("--schedules", type=int, default=1, help="of each strategy")
    p.add_argument("--type", default="f32", help="element type that type variables are bound to")
    p.add_argument("--isa", default="x86-64-v3", help="of printed C++")
    p.add_argument(
        "--cpu", action="store_true", help="processor time, where the machine is busy otherwise"
    )
    p.add_argument("--json", type=Path, help="also write a line a candidate")
    p.add_argument("--why", action="store_true", help="print what is not PROVED, and why")
    return p.parse_args(given)


def main(given: list[str] | None = None) -> int:
    wanted = arguments(given)
    paths = specs(wanted.ops)
    if not paths:
        print("no such operators in the library", file=sys.stderr)
        return 2
    begin = time.monotonic()
    rows: list[Measured] = []
    backends = wanted.backends.split(",")
    for row in run(paths, backends, wanted.isa, wanted.schedules, wanted.type, wanted.cpu):
        rows.append(row)
        if wanted.json:
            with wanted.json.open("a", encoding="utf-8") as f:
                f.write(json.dumps(asdict(row)) + "\n")
        if wanted.why:
            states = " ".join(f"{g} {s}" for g, s in row.status.items() if s != "PROVED")
            print(f"{row.op} {row.backend} {row.schedule}: {row.whole:.2f} s {states or 'PROVED'}")
            for text in row.why.values():
                print(f"    {text}")
            sys.stdout.flush()
    if not rows:
        print("no candidate could be made", file=sys.stderr)
        return 1
    print(f"{host()}, {'processor' if wanted.cpu else 'wall clock'} seconds")
    for backend in dict.fromkeys(r.backend for r in rows):
        own = [r for r in rows if r.backend == backend]
        print(f"\n{backend}: {len(own)} candidates of {len({r.op for r in own})} operators")
        print("\n".join([*table(own), *goals(own), *slowest(own)]))
    print(f"\n{len(rows)} candidates in {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
