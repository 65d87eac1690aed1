"""The verifier verified: `python -m opwright.benchmarks.verifier` seeds faults into kernels and
says which gate finds which of them.

Kernels are what the printers make of the library (C++ and Triton), and the Triton and CUDA kernels
of the tests; faults go into their texts, their plans, the programs they were printed from, and
Triton's intermediate form. A fault counts as wrong when a run over the reals traps or gives
another value, or a gate refutes it with a counterexample; so what the gates miss is seen. A proof
that a run contradicts is printed as UNSOUND and makes the exit code 1, and so does a score below
what `--require` asks for.

    --all            everything in place of a sample       --minutes M   stop after M minutes
    --each N         mutants of a subject and level        --only WORD   subjects with this word
    --state FILE     keep what was judged, and go on there --json        every mutant
    --tests N        run the tests on every N-th mutant that a proof has killed (0: on none)
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import platform
import random
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from opwright.backends.cpp.build import host_isa
from opwright.compiler.candidates import Candidate, printed, read
from opwright.compiler.elaborate import load_spec
from opwright.compiler.mutating_gates import (
    DIFFERS,
    PROOFS,
    SAME,
    TRAPS,
    Fate,
    Judge,
    Printer,
)
from opwright.compiler.stored import stored_form
from opwright.ir.launch import bind_plan, with_room
from opwright.ir.mutant import spread
from opwright.ir.op import Operator
from opwright.ir.tile import TileProgram
from opwright.search.space import IllegalSchedule, Space

ROOT = Path(__file__).resolve().parent.parent
SPECS, TESTS = ROOT / "specs", ROOT / "tests"
SAFETY = {
    "mask": "a comparison of a mask made weaker, stronger or another one",
    "mask_dropped": "a mask, or a part of one, left out",
    "comparison": "a comparison made weaker, stronger or another one",
    "bound": "another size as bound",
    "stride": "strides exchanged, left out or of another axis",
    "offset": "an index moved by one",
    "index_order": "indices exchanged",
    "diagonal": "one range of lanes in place of another",
    "narrow": "an index through a narrower integer",
    "division": "a quotient or remainder that is right only where division is floored",
    "grid": "a grid that is rounded down, or larger or smaller by one",
    "arguments": "two arguments exchanged",
    "facts": "a guard left out",
    "hint": "a hint that nothing makes true",
    "store_missing": "a store or a launch left out",
    "early_return": "all programs but the first do nothing",
    "alias": "the output read in place of an input",
    "atomic": "a store in place of an atomic operation",
    "launch_order": "launches in another order",
    "barrier": "a barrier left out or under a condition; fewer lanes in a shuffle",
    "shared": "scratch or shared memory that is too small",
    "dummy": "an operation that nothing knows",
    "branch": "a branch taken otherwise",
    "fill": "another value for masked-off lanes, or none",
}
FUNCTION = {
    "loop": "a loop that starts, ends or steps otherwise",
    "init": "another start of a fold",
    "state": "carried values kept or exchanged",
    "stale": "an old state where the new one is meant",
    "accumulator": "an assignment in place of an accumulation",
    "rescale": "a factor left out",
    "term_dropped": "an operand in place of a result",
    "operation": "another operation",
    "operands": "operands exchanged",
    "reduction": "another reduction",
    "axis": "another axis",
    "constant": "another constant",
    "index": "another comparison in an index",
    "epilogue": "a term on the wrong side of a function",
    "precision": "a value through a narrower type",
    "nan": "NaN that is dropped",
    "keepdim": "another shape",
    "slice": "another slice",
}


@dataclass(frozen=True, slots=True)
class Subject:
    """A kernel at a level: `make` gives its judge, or raises ValueError with what stands against
    it."""

    name: str
    level: str
    make: Callable[[], Judge]

    @property
    def text(self) -> str:
        return f"{self.name} ({self.level})"


# -- subjects --------------------------------------------------------------------------------------


def subjects(everything: bool) -> Iterator[Subject]:
    """Of every group in turn, so that a run that is cut short has seen something of all."""
    groups = [
        list(library(everything)),
        list(triton_kernels(everything)),
        list(cuda_kernels(everything)),
    ]
    for n in range(max(map(len, groups), default=0)):
        yield from (g[n] for g in groups if n < len(g))


def library(everything: bool) -> Iterator[Subject]:
    """What our printers make of the library: some of every folder without `everything`."""
    for folder in sorted(p for p in SPECS.iterdir() if p.is_dir()):
        paths = sorted(folder.glob("*.op"))
        for n, path in enumerate(paths):
            if not everything and n % 9 != 2 % len(paths):
                continue
            name = f"{folder.name}/{path.stem}"
            both = ("cpp", "triton") if everything or n % 2 == 0 else ("triton", "cpp")
            for backend in both:
                for level in ("tile", "source"):
                    yield Subject(f"{name}, {backend}", level, partial(own, path, backend, level))


def own(path: Path, backend: str, level: str) -> Judge:
    """Of the first schedule that is legal and not the fallback's."""
    spec = load_spec(path)
    name = spec.names[0]
    types = spec.bindings(name)
    op = stored_form(spec.operator(name, types[0] if types else {}))
    isa = host_isa()
    printer: Printer
    if backend == "triton":
        from opwright.compiler import block_spaces, blocks

        known: Sequence[Space] = block_spaces.spaces(op, "sm_90")
        printer = partial(blocks_printed, op, blocks.printed)
    else:
        from opwright.compiler.spaces import spaces

        known = spaces(op, 16 if isa == "x86-64-v4" else 8)
        printer = partial(printed_for, op, isa)
    return Judge(printer(lowered(known)), op, isa, level, printer)


def printed_for(op: Operator, isa: str, program: TileProgram) -> Candidate:
    return printed(program, op, isa)


def blocks_printed(op: Operator, make: Callable[..., Candidate], program: TileProgram) -> Candidate:
    c = make(program, op, "sm_90")
    return Candidate(c.plan, c.source, program)


def lowered(known: Sequence[Space]) -> TileProgram:
    for space in (*known[1:], known[0]):
        for one in space.preferred():
            try:
                return space.instantiate(one)
            except IllegalSchedule:
                continue
    raise ValueError("no schedule of it is legal")


def triton_kernels(everything: bool) -> Iterator[Subject]:
    """Kernels of the tests that other people would write."""
    folders = sorted(p for p in (TESTS / "backends/triton/candidates").glob("*") if p.is_dir())
    for folder in folders if everything else folders[1::5]:
        for level in ("source", "plan", "ttir"):
            make = partial(foreign, folder, level)
            yield Subject(f"{folder.name}, Triton kernel", level, make)


def foreign(folder: Path, level: str) -> Judge:
    said = json.loads((folder / "candidate.json").read_text())
    name = said["op"].partition("@")[0]
    path = next(p for p in SPECS.rglob("*.op") if name in load_spec(p).names)
    op = stored_form(load_spec(path).operator(name, said.get("types", {})))
    c = read(folder, op)
    if level == "ttir":
        from dataclasses import replace

        from opwright.backends.triton.frontend import to_ttir_many

        bound = bind_plan(with_room(c.plan, op), op)
        text = "\n".join(to_ttir_many(c.source, c.plan.source, bound.launches, c.plan.target))
        c = Candidate(replace(c.plan, source="kernel.ttir"), text)
    return Judge(c, op, host_isa(), "plan" if level == "plan" else "source")


def cuda_kernels(everything: bool) -> Iterator[Subject]:
    """CUDA kernels of the tests."""
    if str(TESTS) not in sys.path and TESTS.is_dir():
        sys.path.append(str(TESTS))
    try:
        cases = importlib.import_module("support.cuda_kernels").CASES
    except ImportError:
        return
    names = sorted(cases)
    for name in names if everything else names[1::4]:
        for level in ("source", "plan"):
            make = partial(cuda, cases[name], level)
            yield Subject(f"{name}, CUDA kernel", level, make)


def cuda(case: Any, level: str) -> Judge:
    import tempfile

    with tempfile.TemporaryDirectory(prefix="opwright-") as root:
        folder = Path(root)
        (folder / "spec.op").write_text(case.spec)
        (folder / "candidate.json").write_text(json.dumps(case.plan()))
        (folder / "kernel.cu").write_text(case.source)
        op = stored_form(load_spec(folder / "spec.op").operator(case.op, {}))
        return Judge(read(folder, op), op, host_isa(), level)


# -- judging ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Row:
    """One mutant, judged; `fate` is None for one that does not parse."""

    subject: str
    kind: str
    place: str
    what: str
    gates: dict[str, str]
    killers: list[str]
    effect: str
    reason: str
    unsound: str
    same: bool
    tested: bool

    @classmethod
    def of(cls, subject: str, f: Fate) -> Row:
        m = f.mutant
        killers = list(f.killers)
        return cls(
            subject, m.kind, m.place, m.what, f.gates, killers, f.effect, f.reason[:300],
            f.unsound, f.same, f.tested,
        )  # fmt: skip

    @property
    def wrong(self) -> bool:
        """Whether something shows that it is: a run, or a refutation with its counterexample."""
        shown = self.effect in (TRAPS, DIFFERS) or "REFUTED" in self.gates.values()
        return shown or self.kind == "dummy"

    @property
    def killed(self) -> bool:
        """Whether it is refused; where nothing can be run, an unproved function is a refusal."""
        ran = "TESTED" in (self.gates.get("G6"), self.gates.get("G7"))
        return any(k != "G5" or not ran for k in self.killers)

    @property
    def equivalent(self) -> bool:
        return self.same or (not self.killers and self.gates.get("G5") == "PROVED")


class Run:
    """Judges mutants of all subjects in turn, until all are judged or the time is over."""

    def __init__(self, chosen: Sequence[Subject], each: int, tests: int, until: float) -> None:
        self.chosen, self.each, self.tests, self.until = chosen, each, tests, until
        self.rows: list[Row] = []
        self.left: list[str] = []  # subjects that cannot be judged, and why
        self.broken = 0
        self.known: dict[str, dict[str, Any]] = {}
        self.state: TextIO | None = None

    def resume(self, path: Path) -> None:
        if path.exists():
            for line in path.read_text().splitlines():
                one = json.loads(line)
                self.known[one["key"]] = one
        self.state = path.open("a")

    def keep(self, key: str, row: Row | None) -> None:
        self.broken += row is None
        if row is not None:
            self.rows.append(row)
        if self.state is not None and key not in self.known:
            fields = Row.__slots__ if row is not None else ()
            said = {"key": key, "row": {n: getattr(row, n) for n in fields} if row else None}
            self.state.write(json.dumps(said) + "\n")
            self.state.flush()

    def __call__(self, seen: Callable[[Subject, Row], None]) -> bool:
        """Whether all were judged. Every subject has its share of the time that is left."""
        complete = True
        for n, s in enumerate(self.chosen):
            now = time.monotonic()
            share = max(self.until - now, 0.0) / (len(self.chosen) - n)
            for row in self.turn(s, n):
                if isinstance(row, Row):
                    seen(s, row)
                if time.monotonic() > now + share:
                    complete = False
                    break
        return complete

    def turn(self, s: Subject, number: int) -> Iterator[Row | None]:
        try:
            judge = s.make()
            mutants = spread(judge.mutants(), self.each)
            random.Random(s.text).shuffle(mutants)  # a run that is cut short has seen every class
        except Exception as e:  # a subject that is not right says nothing about the gates
            self.left.append(f"{s.text}: {str(e)[:200]}")
            return
        for n, m in enumerate(mutants):
            key = f"{s.text} {hashlib.sha256(m.text.encode()).hexdigest()[:16]} {m.kind}"
            if key in self.known:
                row = self.known[key]["row"]
                self.keep(key, Row(**row) if row else None)
                continue
            fate = judge(m, bool(self.tests) and (n + number) % self.tests == 0)
            found = Row.of(s.text, fate) if fate is not None else None
            self.keep(key, found)
            yield found


# -- the table -------------------------------------------------------------------------------------


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:5.1f} %" if whole else "     –"


def table(rows: Sequence[Row]) -> list[str]:
    """Scores by class and by gate, and what was left out."""
    head = f"{'class':<16}{'wrong':>6}{'refused':>9}{'proofs alone':>14}{'tests alone':>20}"
    out = [f"{head}{'equivalent':>12}{'not shown':>11}"]
    known = {**SAFETY, **FUNCTION}
    for title, kinds in (("safety", SAFETY), ("function", FUNCTION)):
        mine = [r for r in rows if (r.kind in kinds) or (r.kind not in known and kinds is FUNCTION)]
        for kind in sorted({r.kind for r in mine}):
            out.append(line(kind, [r for r in mine if r.kind == kind]))
        out.append(line(f"all of {title}", mine))
        out.append("")
    traps = [r for r in rows if r.effect == TRAPS]
    differs = [r for r in rows if r.effect == DIFFERS]
    out.append(line("runs trap", traps))
    out.append(line("values differ", differs))
    out.append(line("all", rows))
    return out


def line(name: str, rows: Sequence[Row]) -> str:
    wrong = [r for r in rows if r.wrong]
    killed = sum(r.killed for r in wrong)
    proved = sum(any(k in PROOFS for k in r.killers) for r in wrong)
    tested = [r for r in wrong if r.tested]
    by_tests = sum(any(k not in PROOFS for k in r.killers) for r in tested)
    equivalent = sum(r.equivalent for r in rows if not r.wrong)
    rest = len(rows) - len(wrong) - equivalent
    tests = f"{share(by_tests, len(tested))} of {len(tested)}"
    return (
        f"{name:<16}{len(wrong):>6}{share(killed, len(wrong)):>9}{share(proved, len(wrong)):>14}"
        f"{tests:>20}{equivalent:>12}{rest:>11}"
    )


def by_gate(rows: Sequence[Row]) -> list[str]:
    wrong = [r for r in rows if r.wrong]
    first = Counter(r.killers[0] for r in wrong if r.killers)
    every = Counter(k for r in wrong for k in r.killers)
    asked = Counter(g for r in wrong for g in r.gates)
    out = [f"{'gate':<6}{'reached by':>12}{'says less of':>14}{'is the first':>14}"]
    for g in sorted(asked):
        out.append(f"{g:<6}{asked[g]:>12}{every[g]:>14}{first[g]:>14}")
    return out


def survivors(rows: Sequence[Row]) -> list[Row]:
    return [r for r in rows if r.wrong and not r.killed]


def main(arguments: Sequence[str]) -> int:
    """Print the table; 1 for a proof that a run contradicts, or a score below what is required."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("verifier", None, __doc__, formatter_class=raw)
    parser.add_argument("--all", action="store_true")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--each", type=int, default=0)
    parser.add_argument("--tests", type=int, default=4)
    parser.add_argument("--only", default="")
    parser.add_argument("--state", type=Path)
    parser.add_argument("--require", type=float)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--verbose", action="store_true")
    asked = parser.parse_args(arguments)
    begin = time.monotonic()
    until = begin + 60 * asked.minutes if not asked.all or asked.minutes != 20.0 else 1e18
    chosen = [s for s in subjects(asked.all or bool(asked.only)) if asked.only in s.text]
    each = asked.each or (10**9 if asked.all else 30)
    run = Run(chosen, each, asked.tests, until)
    if asked.state is not None:
        run.resume(asked.state)

    def seen(s: Subject, row: Row) -> None:
        state = "UNSOUND" if row.unsound else "survived" if row.wrong and not row.killed else ""
        if asked.verbose or state:
            said = f"{state or ' '.join(row.killers) or row.effect:<10} {s.text}: {row.kind}, "
            print(f"{said}{row.place}: {row.what} | {row.unsound or row.reason}"[:400], flush=True,
                  file=sys.stderr)  # fmt: skip

    complete = run(seen)
    rows = run.rows
    if asked.json:
        print(json.dumps([{n: getattr(r, n) for n in Row.__slots__} for r in rows], indent=1))
    else:
        print("\n".join(table(rows)))
        print()
        print("\n".join(by_gate(rows)))
        for r in survivors(rows):
            print(f"survived  {r.subject}: {r.kind}, {r.place}: {r.what}; {r.reason}"[:300])
        for r in rows:
            if r.unsound:
                print(f"UNSOUND   {r.subject}: {r.kind}, {r.place}: {r.what}; {r.unsound}"[:400])
        for text in run.left:
            print(f"left out  {text}")
        refused = sum(r.effect == SAME and bool(r.killers) and not r.wrong for r in rows)
        spent = time.monotonic() - begin
        done = "" if complete else "; stopped by --minutes"
        print(
            f"{len(rows)} mutants of {len({r.subject for r in rows})} texts; {run.broken} more do "
            f"not parse; {refused} are refused and nothing shows them wrong; "
            f"{platform.machine()}, {spent:.0f} s{done}"
        )
    wrong = [r for r in rows if r.wrong]
    score = 100 * sum(r.killed for r in wrong) / len(wrong) if wrong else 100.0
    unsound = any(r.unsound for r in rows)
    return 1 if unsound or (asked.require is not None and score < asked.require) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
