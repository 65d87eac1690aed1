"""The verifier verified: `python -m opwright.benchmarks.verifier` seeds faults into kernels and
says which gate refuses which of them.

A fault counts as wrong when a run over the reals traps or gives another value, or a gate refutes
it with a counterexample; so what the gates miss is seen. A proof that a run contradicts is printed
as UNSOUND and makes the exit code 1, and so does a score below what `--require` asks for. What is
judged is a fair sample over backends, levels, families of operators and classes of faults, the
same in every run with one seed; `--each` mutants of every kernel in the end.

    --minutes M      stop after M minutes             --resume FILE   keep what was judged, go on
    --each N         mutants of a kernel (24)         --seed N        another draw
    --only WORD      kernels with this word           --again         judge anew what survived,
                                                      and what nothing decides
    --fault NAME     this one fault, with what every gate says
    --sample N       of every N-th all gates are asked, of the next one a solver that knows nothing
    --report         print what FILE has and stop     --json FILE     the table and the survivors
    --require S      the score of safety classes that is asked for; --require-function for others
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from opwright.benchmarks.verifier_draw import Row, Run, State, key, name_of
from opwright.benchmarks.verifier_subjects import SAFETY, Subject, subjects
from opwright.compiler.mutating_gates import GATES, Fate
from opwright.compiler.mutating_truth import DIFFERS, TRAPS
from opwright.ir.mutant import difference

COMMAND = "python -m opwright.benchmarks.verifier"


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:5.1f} %" if whole else "     –"


def table(rows: Sequence[Row]) -> list[str]:
    """Scores by class and by kind of text, and what was left out."""
    head = f"{'':<22}{'wrong':>6}{'refused':>9}{'proofs alone':>14}{'tests alone':>18}"
    out = [f"{head}{'equivalent':>12}{'not shown':>11}"]
    for title, mine in (("safety", safety(rows)), ("function", function(rows))):
        for kind in sorted({r.kind for r in mine}):
            out.append(line(kind, [r for r in mine if r.kind == kind]))
        out += [line(f"all of {title}", mine), ""]
    for group in sorted({r.group for r in rows}):
        out.append(line(group, [r for r in rows if r.group == group]))
    out.append("")
    out.append(line("runs trap", [r for r in rows if r.effect == TRAPS]))
    out.append(line("values differ", [r for r in rows if r.effect == DIFFERS]))
    out.append(line("all", rows))
    return out


def safety(rows: Iterable[Row]) -> list[Row]:
    return [r for r in rows if r.kind in SAFETY]


def function(rows: Iterable[Row]) -> list[Row]:
    """Classes that change what is computed: all others."""
    return [r for r in rows if r.kind not in SAFETY]


def line(name: str, rows: Sequence[Row]) -> str:
    wrong = [r for r in rows if r.wrong]
    refused = sum(bool(r.refused) for r in wrong)
    proved = sum(r.proved for r in wrong)
    asked = [r for r in wrong if r.every and "G6" in r.gates]
    tests = f"{share(sum(r.tested for r in asked), len(asked))} of {len(asked)}"
    equivalent = sum(r.equivalent for r in rows if not r.wrong)
    rest = len(rows) - len(wrong) - equivalent
    return (
        f"{name:<22}{len(wrong):>6}{share(refused, len(wrong)):>9}{share(proved, len(wrong)):>14}"
        f"{tests:>18}{equivalent:>12}{rest:>11}"
    )


def by_gate(rows: Sequence[Row]) -> list[str]:
    """How many wrong ones each gate is the first to refuse, by group."""
    wrong = [r for r in rows if r.wrong]
    groups = sorted({r.group for r in wrong})
    out = [f"{'first to refuse':<26}" + "".join(f"{g:>6}" for g in (*GATES, "none"))]
    for name in (*groups, "all"):
        found = Counter(r.refused or "none" for r in wrong if name in (r.group, "all"))
        out.append(f"{name:<26}" + "".join(f"{found[g]:>6}" for g in (*GATES, "none")))
    asked = [r for r in wrong if r.every]
    says = Counter(k for r in asked for k in r.killers)
    reached = Counter(g for r in asked for g in r.gates)
    out.append("")
    out.append(
        f"of {len(asked)} of which all gates were asked, each says less than of the original:"
    )
    out.append("  " + ", ".join(f"{g} {says[g]} of {reached[g]}" for g in GATES if reached[g]))
    forced = [r for r in wrong if r.forced]
    known = sum(r.forced == "refused" for r in forced)
    out.append(f"with a solver that knows nothing, {known} of {len(forced)} are still refused")
    return out


def summary(state: State) -> dict[str, Any]:
    """Scores as data."""
    rows = list(state.rows.values())
    out: dict[str, Any] = {}
    kinds = sorted({r.kind for r in rows})
    for name, mine in (
        ("safety", safety(rows)),
        ("function", function(rows)),
        *((k, [r for r in rows if r.kind == k]) for k in kinds),
        *((g, [r for r in rows if r.group == g]) for g in sorted({r.group for r in rows})),
    ):
        wrong = [r for r in mine if r.wrong]
        first = Counter(r.refused or "none" for r in wrong)
        out[name] = {
            "judged": len(mine),
            "wrong": len(wrong),
            "refused": sum(bool(r.refused) for r in wrong),
            "equivalent": sum(r.equivalent for r in mine if not r.wrong),
            "first": {g: first[g] for g in (*GATES, "none") if first[g]},
        }
    return out


def command(r: Row) -> str:
    return f"{COMMAND} --only '{r.subject}' --fault {r.fault}"


def report(state: State, chosen: Sequence[Subject], spent: str) -> list[str]:
    rows = list(state.rows.values())
    out = [*table(rows), "", *by_gate(rows), ""]
    for r in rows:
        if r.survived or r.unsound:
            word = "UNSOUND " if r.unsound else "survived"
            said = f"{r.kind}, {r.place}: {r.what}; {r.unsound or r.reason}"
            out += [f"{word}  {r.subject}: {said}"[:400], f"    {command(r)}"]
    for text, why in state.left.items():
        out.append(f"left out  {text}: {why}"[:200])
    had = {r.subject for r in rows}
    never = [s.text for s in chosen if s.text not in had and s.text not in state.left]
    refused = sum(bool(r.refused) and not r.wrong for r in rows)
    fates = Counter(x.partition(":")[0] for x in state.fates.values())
    out += [f"failed    {n}: {x}"[:300] for n, x in state.fates.items() if x.startswith("failed")]
    times = [r.seconds for r in rows]
    out.append(
        f"{len(rows)} mutants of {len(had)} of {len(chosen)} texts; no mutant of {len(never)}; "
        f"{len(state.left)} left out; {fates['broken']} more do not parse, {fates['late']} take "
        f"too long, {fates['failed']} could not be judged; "
        f"{refused} are refused and nothing shows them wrong"
    )
    if times:
        middle, high = median(times), sorted(times)[len(times) * 95 // 100]
        versions = len({r.verifier for r in rows})
        out.append(
            f"seconds of a mutant: {middle:.2f} (median), {high:.1f} (95th percentile); "
            f"{versions} version{'s' * (versions > 1)} of the verifier; seed {state.seed}; "
            f"{platform.machine()}; {spent}"
        )
    return out


def one(chosen: Sequence[Subject], fault: str) -> int:
    """What every gate says of one fault."""
    for s in chosen:
        judge = s.make()
        try:
            for m in judge.mutants():
                if name_of(m) == fault:
                    print(f"{s.text}: {m.kind}, {m.place}: {m.what}")
                    print("\n".join(difference(judge.text, m.text)))
                    return told(judge(m, True))
        finally:
            judge.close()
    print(f"no such fault: {fault}", file=sys.stderr)
    return 2


def told(f: Fate | None) -> int:
    if f is None:
        print("it is none: it does not parse, or no plan fits it")
        return 2
    for r in f.records:
        if r.status != "PROVED":
            print(f"{r.id:<28} {r.status:<8} {r.reason[:300]}")
    print(f"gates: {f.gates}; refused by {f.refused or 'none'}; a run: {f.effect} {f.reason[:200]}")
    if f.unsound:
        print(f"UNSOUND: {f.unsound}")
    return int(bool(f.unsound) or not f.refused)


def anew(chosen: Sequence[Subject], state: State) -> None:
    """Forget what survived, what is said to be unsound, what nothing decides, what failed."""
    mine = {s.text for s in chosen}
    for r in list(state.rows.values()):
        open_ = r.survived or r.unsound or not (r.wrong or r.refused or r.equivalent)
        if open_ and r.subject in mine:
            del state.rows[key(r.subject, r.fault)]
    for text in mine & state.left.keys():
        del state.left[text]
    for name, x in list(state.fates.items()):
        if x.startswith("failed") and name.rpartition(" ")[0] in mine:
            del state.fates[name]


def arguments(given: Sequence[str]) -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("verifier", None, __doc__, formatter_class=raw)
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--each", type=int, default=24)
    parser.add_argument("--sample", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="")
    parser.add_argument("--fault", default="")
    parser.add_argument("--resume", type=Path)
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--report", action="store_true")
    parser.add_argument("--require", type=float)
    parser.add_argument("--require-function", type=float)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--verbose", action="store_true")
    return parser.parse_args(given)


def main(given: Sequence[str]) -> int:
    """Print the table; 1 for a proof that a run contradicts, or a score below what is required."""
    begin = time.monotonic()
    asked = arguments(given)
    chosen = [s for s in subjects() if asked.only in s.text]
    with tempfile.TemporaryDirectory(prefix="opwright-verifier-") as cache:
        os.environ["OPWRIGHT_CACHE"] = cache  # thousands of wrong libraries are nobody's cache
        if asked.fault:
            return one(chosen, asked.fault)
        state = State.read(asked.resume, asked.seed) if asked.resume else State(asked.seed)
        if asked.again:
            anew(chosen, state)
        run = Run(chosen, state, asked.each, asked.sample, begin + 60 * asked.minutes)

        def seen(s: Subject, row: Row) -> None:
            word = "UNSOUND" if row.unsound else "survived" if row.survived else ""
            if asked.verbose or word:
                word = word or row.refused or row.effect
                said = f"{row.kind}, {row.place}: {row.what} | {row.unsound or row.reason}"
                print(f"{word:<9}{row.seconds:6.2f} s {s.text}: {said}"[:300], file=sys.stderr,
                      flush=True)  # fmt: skip

        complete = True if asked.report else run(seen)
    spent = f"{time.monotonic() - begin:.0f} s, {state.seconds:.0f} s in all"
    spent += "" if complete else "; stopped by --minutes"
    print("\n".join(report(state, chosen, spent)))
    if asked.json:
        data = {"scores": summary(state), "seed": state.seed, "seconds": state.seconds}
        rows = state.rows.values()
        data["survived"] = [
            {"command": command(r), "reason": r.reason, "what": f"{r.place}: {r.what}"}
            for r in rows
            if r.survived or r.unsound
        ]
        asked.json.write_text(json.dumps(data, indent=1) + "\n")
    rows_ = list(state.rows.values())
    low = below(safety(rows_), asked.require) or below(function(rows_), asked.require_function)
    return int(low or any(r.unsound for r in rows_))


def below(rows: Sequence[Row], wanted: float | None) -> bool:
    wrong = [r for r in rows if r.wrong]
    return bool(wanted and wrong) and 100 * sum(bool(r.refused) for r in wrong) < (
        wanted or 0.0
    ) * len(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
