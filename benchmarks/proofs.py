"""What is proved of the project's own programs, over the library:
`python -m opwright.benchmarks.proofs [--ops NAME ...] [--target cpp|triton]`.

Every strategy that an operator has is lowered by its default schedule, and the program goes through
G2, G3 and G5, for all sizes. Nothing is printed, compiled or executed. A table says what each
strategy has, and the shares of operators whose fallback, preferred strategy, or every strategy is
proved.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from opwright.benchmarks.gates import operator_of, spaces_of, specs
from opwright.grammar.diagnostics import DiagnosticError
from opwright.ir.expr import ExprError
from opwright.ir.op import Operator
from opwright.ir.record import weakest
from opwright.ir.spent import listening, part
from opwright.ir.tile import TileProgram
from opwright.search.loads import host
from opwright.search.space import IllegalSchedule, Schedule, Space
from opwright.verify.context import Context
from opwright.verify.gates import safety
from opwright.verify.tile_function import tile_function

GATES = ("G2", "G3", "G5")
NAMES = {"G2": "safety", "G3": "determinedness", "G5": "function"}
FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class Proved:
    """One program: the weakest status of each gate, its seconds, and why it is not PROVED."""

    op: str
    strategy: str
    schedule: str
    status: dict[str, str]
    seconds: dict[str, float]
    why: dict[str, str] = field(default_factory=dict)


def first_legal(space: Space, skip: int = 0) -> tuple[Schedule, TileProgram] | None:
    """The preferred schedule of a strategy, or the next one that is legal; after `skip` such."""
    for schedule in space.preferred():
        try:
            program = space.instantiate(schedule)
        except (IllegalSchedule, ExprError, ValueError, KeyError):
            continue
        if not skip:
            return schedule, program
        skip -= 1
    return None


def measure(
    op: Operator, strategy: str, schedule: str, program: TileProgram, cpu: bool = False
) -> Proved:
    """G2, G3 and G5 of a program; G5 stands on the others, and is asked whatever they say."""
    with listening(time.process_time if cpu else time.perf_counter) as seconds:
        records = safety(program, Context.of(op))
        with part("G5"):
            records += tile_function(program, op)
    status, why = {}, {}
    for gate in GATES:
        own = [r for r in records if r.kind == gate]
        status[gate] = weakest([r.status for r in own]) if own else "PROVED"
        if any(r.kind == "G1" and r.status != "PROVED" for r in records):
            status[gate] = "UNKNOWN"
        weak = next((r for r in own if r.status == status[gate] != "PROVED"), None)
        if weak is not None:
            why[gate] = f"{weak.id}: {weak.reason}"
    kept = {g: seconds.get(g, 0.0) for g in (*GATES, "replay")}
    return Proved(op.name, strategy, schedule, status, kept, why)


@dataclass(slots=True)
class Left:
    """What was not looked at: operators for want of time, strategies without a legal schedule."""

    operators: list[str] = field(default_factory=list)
    strategies: list[str] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def run(
    paths: Sequence[Path], backend: str, element: str, seconds: float, cpu: bool, left: Left
) -> Iterator[Proved]:
    """Every strategy of every operator, one after the other, as long as there is time."""
    end = time.monotonic() + seconds
    for path in paths:
        if time.monotonic() > end:
            left.operators.append(path.stem)
            continue
        try:
            operators = operator_of(path, element)
        except DiagnosticError as e:
            left.unread.append(f"{path.stem}: {e}")
            continue
        for op in operators:
            try:
                found = spaces_of(op, backend)
            except (ExprError, ValueError, KeyError) as e:
                left.unread.append(f"{op.name}: {e}")
                continue
            for space in found:
                made = first_legal(space)
                if made is None:
                    left.strategies.append(f"{op.name} {space.name}")
                    continue
                schedule, program = made
                yield measure(op, space.name, schedule.text, program, cpu)


# -- what is said ----------------------------------------------------------------------------------


def preferred(rows: Sequence[Proved]) -> Proved:
    """Of one operator's programs: the first that is not the fallback, if there is one."""
    return next((r for r in rows if r.strategy != FALLBACK), rows[0])


def held(rows: Sequence[Proved], gate: str) -> bool:
    """Whether a gate is PROVED of all these, which stands on the gates before it."""
    upto = GATES[: GATES.index(gate) + 1]
    return bool(rows) and all(r.status[g] == "PROVED" for r in rows for g in upto)


def shares(rows: Sequence[Proved]) -> list[tuple[str, dict[str, tuple[int, int]]]]:
    """By which programs of an operator count: of how many operators a gate is proved."""
    by: dict[str, list[Proved]] = {}
    for r in rows:
        by.setdefault(r.op, []).append(r)
    chosen = {
        "fallback": [[r for r in own if r.strategy == FALLBACK] for own in by.values()],
        "preferred": [[preferred(own)] for own in by.values()],
        "some strategy": [own for own in by.values()],
        "every strategy": [own for own in by.values()],
    }
    out = []
    for name, sets in chosen.items():
        sets = [s for s in sets if s]
        if name == "some strategy":
            counts = {g: sum(any(held([r], g) for r in s) for s in sets) for g in GATES}
        else:
            counts = {g: sum(held(s, g) for s in sets) for g in GATES}
        out.append((name, {g: (n, len(sets)) for g, n in counts.items()}))
    programs = {g: (sum(held([r], g) for r in rows), len(rows)) for g in GATES}
    return [*out, ("programs", programs)]


def table(rows: Sequence[Proved]) -> list[str]:
    """A line for every set of programs, a column for every gate."""
    out = [f"{'of operators, whose':<22}" + "".join(f"{NAMES[g]:>22}" for g in GATES)]
    for name, counts in shares(rows):
        line = f"{name:<22}"
        for g in GATES:
            n, total = counts[g]
            line += f"{f'{n} of {total}, {100 * n / total:.1f} %' if total else '-':>22}"
        out.append(line)
    seconds = sorted(r.seconds["G5"] for r in rows)
    out.append(
        f"G5: median {seconds[len(seconds) // 2]:.2f} s, 95th percentile"
        f" {seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))]:.2f} s,"
        f" most {seconds[-1]:.2f} s, {sum(seconds):.0f} s in all"
    )
    return out


def causes(rows: Sequence[Proved]) -> list[str]:
    """Why functions are not proved, most frequent first, without the names of stores."""
    found: Counter[str] = Counter()
    example: dict[str, str] = {}
    for r in rows:
        if "G5" in r.why:
            reason = r.why["G5"].partition(": ")[2]
            head, _, tail = reason.partition(": ")
            text = tail if tail and " " not in head else reason
            found[text[:90]] += 1
            example.setdefault(text[:90], f"{r.op} {r.strategy}")
    return [f"{n:4}  {text}  ({example[text]})" for text, n in found.most_common()]


def line(r: Proved) -> str:
    """One program in a line."""
    gates = "  ".join(f"{g} {r.status[g]:<7} {r.seconds[g]:5.2f} s" for g in GATES)
    return f"{r.op:<24} {r.strategy:<34} {gates}"


def arguments(given: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="python -m opwright.benchmarks.proofs", description=__doc__)
    p.add_argument("--ops", nargs="*", default=[], help="files or folders of the library; all")
    p.add_argument("--target", choices=("cpp", "triton"), default="cpp")
    p.add_argument("--type", default="f32", help="element type that type variables are bound to")
    p.add_argument("--seconds", type=float, default=1800.0, help="no operator begins after them")
    p.add_argument("--cpu", action="store_true", help="processor time instead of wall clock")
    p.add_argument("--json", type=Path, help="also write a line a program")
    p.add_argument("--why", action="store_true", help="print why a gate is not PROVED")
    return p.parse_args(given)


def main(given: list[str] | None = None) -> int:
    wanted = arguments(given)
    paths = specs(wanted.ops)
    if not paths:
        print("no such operators in the library", file=sys.stderr)
        return 2
    begin, left = time.monotonic(), Left()
    rows: list[Proved] = []
    for r in run(paths, wanted.target, wanted.type, wanted.seconds, wanted.cpu, left):
        rows.append(r)
        print(line(r))
        if wanted.why:
            print("".join(f"    {text}\n" for text in r.why.values()), end="")
        sys.stdout.flush()
        if wanted.json:
            with wanted.json.open("a", encoding="utf-8") as f:
                f.write(json.dumps(asdict(r)) + "\n")
    if not rows:
        print("no program could be made", file=sys.stderr)
        return 1
    print(f"\n{host()}, {'processor' if wanted.cpu else 'wall clock'} seconds, {wanted.target}")
    print("\n".join(table(rows)))
    if why := causes(rows):
        print("why functions are not proved:", *why, sep="\n")
    for what, names in (
        ("operators for want of time", left.operators),
        ("strategies whose schedules are all illegal", left.strategies),
        ("operators that this target does not lower", left.unread),
    ):
        if names:
            print(f"left out, {what}: {len(names)}", *(f"  {n}" for n in names), sep="\n")
    print(f"{len(rows)} programs of {len({r.op for r in rows})} operators in"
          f" {time.monotonic() - begin:.0f} s")  # fmt: skip
    return 0


__all__ = ["Proved", "causes", "main", "preferred", "run", "shares", "table"]

if __name__ == "__main__":
    raise SystemExit(main())
