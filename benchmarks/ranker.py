"""How well times are ranked before they are measured: `python -m opwright.benchmarks.ranker`.

On recorded ledgers (`benchmarks/results/ledgers`, whole spaces of schedules) and transcripts
(`examples/transcripts`, texts that a language model wrote), each predictor ranks the next 16
candidates (8, where there are few) from those before them, as in a search. Printed is Kendall's
rank correlation within these blocks, each predictor on the same candidates:

    program   trees on numbers of the program and the schedule
    built     the same, and numbers of the disassembly
    words     a regression on the words of schedule and text
    author    the gain that the text's author predicted, over the measured time of its parent
    others    trees on numbers of the program and the disassembly, learned from the other ledgers

Numbers of what is built are kept in `benchmarks/results/features.json`; `--inspect` builds
candidates that are not in it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

from opwright.backends.cpp.importer import import_program
from opwright.benchmarks.ledgers import HERE, LEDGERS, Ledger
from opwright.compiler.toolbox import evaluation_tools
from opwright.compiler.transcripts import Transcript, read
from opwright.ir.launch import ImportRefusal, bind_plan
from opwright.ir.op import Operator
from opwright.ir.tile import TileProgram
from opwright.search.cassette import Cassette
from opwright.search.features import BUILT, FEATURES, built, features
from opwright.search.ranker import EVERY, GOOD, Known, Learned, Model, Worded, available
from opwright.search.results import Emitted
from opwright.search.space import IllegalSchedule, parse

TRANSCRIPTS = HERE.parent / "examples" / "transcripts"
FEATURES_FILE = HERE / "results" / "features.json"
FEW = 32  # candidates of a ledger, up to which blocks are half as long
PREDICTORS = ("program", "built", "words", "author", "others")


@dataclass(frozen=True, slots=True)
class Row:
    """A measured candidate: what is known of it, its time, what its author said it would be."""

    known: Known
    time: float
    author: float | None = None


@dataclass(slots=True)
class Kept:
    """Numbers of candidates by ledger and schedule, in a file."""

    path: Path
    rows: dict[str, dict[str, list[list[float | None]]]] = field(default_factory=dict)

    @staticmethod
    def load(path: Path) -> Kept:
        try:
            held = json.loads(path.read_text())
        except (OSError, ValueError):
            held = {}
        same = held.get("program") == list(FEATURES) and held.get("built") == list(BUILT)
        return Kept(path, held["rows"] if same else {})

    def save(self) -> None:
        lines = [
            f"{json.dumps(name)}: {{\n"
            + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(rows.items()))
            + "}"
            for name, rows in sorted(self.rows.items())
        ]
        head = f'"program": {json.dumps(FEATURES)},\n"built": {json.dumps(BUILT)}'
        self.path.write_text(f'{{{head},\n"rows": {{\n' + ",\n".join(lines) + "}}\n")

    def known(self, name: str, k: Known) -> Known | None:
        """A candidate with the numbers that are kept of it."""
        held = self.rows.get(name, {}).get(k.schedule.text)
        if held is None:
            return None
        program, made = ([math.nan if x is None else x for x in part] for part in held)
        return replace(k, program=tuple(program), built=tuple(made))

    def keep(self, name: str, k: Known) -> Known:
        parts = [[None if math.isnan(x) else float(f"{x:.5g}") for x in p]
                 for p in (k.program, k.built)]  # fmt: skip
        self.rows.setdefault(name, {})[k.schedule.text] = parts
        return k


# -- candidates ------------------------------------------------------------------------------------


def recorded(name: str, folder: Path, kept: Kept, inspect: bool, seed: int) -> list[Row]:
    """The measured candidates of a recorded ledger, in an order by chance."""
    ledger = Ledger.load(name, folder)
    if not ledger.current:
        print(f"{name}: its spaces are not what was recorded, record it again", file=sys.stderr)
        return []
    tools = evaluation_tools(ledger.op, str(ledger.head["isa"])).tools
    out = []
    for text, row in ledger.rows.items():
        seconds = [t for t in row.get("seconds", {}).values() if t > 0]
        if not seconds:
            continue
        schedule = parse(text)
        k = kept.known(name, Known(schedule))
        if k is None or (inspect and math.isnan(k.built[0])):
            space = next(s for s in ledger.spaces if s.name == schedule.strategy)
            try:
                program = space.instantiate(schedule)
            except IllegalSchedule:
                continue
            found: Mapping[str, Any] = {}
            if inspect and tools.inspect is not None:
                found = tools.inspect(tools.build(tools.emit(program)))
            k = kept.keep(
                name, Known(schedule, tuple(features(program)), tuple(built(found)))
            )  # fmt: skip
        mean = math.exp(sum(map(math.log, seconds)) / len(seconds))
        out.append(Row(k, mean))
    Random(seed).shuffle(out)
    return out


def written(t: Transcript, kept: Kept, inspect: bool) -> list[Row]:
    """The measured texts of a transcript, in the order of the search."""
    name = f"transcript {t.path.stem}"
    tools = evaluation_tools(t.op, str(t.origin["targets"][0])[4:-1])
    texts = {x.schedule: x for x in t.passed}
    tape = Cassette(t.path, "replay")
    try:
        verdicts = [v for v in tape.entries("verdict") if v["schedule"] in texts]
    finally:
        tape.close()
    out = []
    for v in verdicts:
        x = texts[v["schedule"]]
        base = Known(parse(x.schedule), text=x.source)
        k = kept.known(name, base)
        if k is None and inspect and tools.tools.inspect is not None:
            emitted: Emitted = tools.emit_plan(x.plan, x.source)
            found = tools.tools.inspect(tools.tools.build(emitted))
            numbers = _numbers(t.op, x)
            k = kept.keep(name, replace(base, program=numbers, built=tuple(built(found))))
        if k is None:
            continue
        author = None
        if v.get("predicted") and v.get("gain") is not None:
            before = x.score * math.exp(v["gain"])  # the parent's
            author = before / float(v["predicted"][0])
        out.append(Row(k, x.score, author))
    return out


def _numbers(op: Operator, x: Any) -> tuple[float, ...]:
    try:
        made: TileProgram = import_program(x.source, bind_plan(x.plan, op), "kernel.cpp")
    except ImportRefusal:
        return (math.nan,) * len(FEATURES)
    return tuple(features(made))


# -- predictions -----------------------------------------------------------------------------------


def blocks(count: int) -> Iterator[tuple[int, int]]:
    """Candidates that are predicted together, each block from all before it: 16 as in a search, 8
    of the few that a transcript has."""
    size = EVERY if count > FEW else EVERY // 2
    for begin in range(size, count, size):
        yield begin, min(begin + size, count)


def pairs(predicted: Sequence[float], times: Sequence[float]) -> tuple[int, int]:
    """How many pairs agree less those that do not, and how many there are."""
    agree = total = 0
    for i in range(len(times)):
        for j in range(i):
            x = (predicted[i] - predicted[j]) * (times[i] - times[j])
            if x:
                total += 1
                agree += 1 if x > 0 else -1
    return agree, total


def correlation(rows: Sequence[Row], make: Any) -> tuple[int, int]:
    """Of a model that learns again before every block."""
    agree = total = 0
    for begin, end in blocks(len(rows)):
        model: Model = make()
        model.fit([[(r.known, r.time) for r in rows[:begin]]])
        scores = model.scores([r.known for r in rows[begin:end]])
        a, n = pairs([-s for s in scores], [r.time for r in rows[begin:end]])
        agree, total = agree + a, total + n
    return agree, total


def of_author(rows: Sequence[Row]) -> tuple[int, int]:
    agree = total = 0
    for begin, end in blocks(len(rows)):
        said = [r for r in rows[begin:end] if r.author is not None]
        a, n = pairs([r.author or 0.0 for r in said], [r.time for r in said])
        agree, total = agree + a, total + n
    return agree, total


def of_others(rows: Sequence[Row], others: Sequence[Sequence[Row]]) -> tuple[int, int]:
    groups = [[(r.known, r.time) for r in g] for g in others if len(g) >= 2]
    if not groups:
        return 0, 0
    model = Learned(0, compiled=True)
    model.fit(groups)
    agree = total = 0
    for begin, end in blocks(len(rows)):
        scores = model.scores([r.known for r in rows[begin:end]])
        a, n = pairs([-s for s in scores], [r.time for r in rows[begin:end]])
        agree, total = agree + a, total + n
    return agree, total


def compare(
    rows: Sequence[Sequence[Row]], others: Sequence[Sequence[Row]]
) -> dict[str, tuple[int, int]]:
    """Agreement of each predictor on one ledger in several orders."""
    found = dict.fromkeys(PREDICTORS, (0, 0))

    def add(who: str, more: tuple[int, int]) -> None:
        found[who] = found[who][0] + more[0], found[who][1] + more[1]

    for order in rows:
        seen = any(not math.isnan(r.known.built[0]) for r in order)
        if available():
            add("program", correlation(order, lambda: Learned(0)))
            if seen:
                add("built", correlation(order, lambda: Learned(0, compiled=True)))
                add("others", of_others(order, others))
        add("words", correlation(order, Worded))
        add("author", of_author(order))
    return found


def main(given: Sequence[str] = ()) -> int:
    """Print the table."""
    p = argparse.ArgumentParser(prog="python -m opwright.benchmarks.ranker", description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("names", nargs="*", help="ledgers and transcripts (default: all)")
    p.add_argument("--inspect", action="store_true", help="build what is not kept yet")
    p.add_argument("--seeds", type=int, default=5, help="orders of a recorded ledger")
    p.add_argument("--ledgers", type=Path, default=LEDGERS)
    p.add_argument("--transcripts", type=Path, default=TRANSCRIPTS)
    p.add_argument("--features", type=Path, default=FEATURES_FILE)
    o = p.parse_args(given)
    kept = Kept.load(o.features)
    kinds: dict[str, dict[str, list[list[Row]]]] = {"schedules": {}, "texts": {}}
    for path in sorted(o.ledgers.glob("*.jsonl")):
        if not o.names or path.stem in o.names:
            orders = [recorded(path.stem, o.ledgers, kept, o.inspect, s) for s in range(o.seeds)]
            kinds["schedules"][path.stem] = [r for r in orders if r]
            if o.inspect:
                kept.save()
    for path in sorted(o.transcripts.glob("*.jsonl")):
        if not o.names or path.stem in o.names:
            kinds["texts"][path.stem] = [written(read(path), kept, o.inspect)]
            if o.inspect:
                kept.save()
    print(f"{'of':<20}{'measured':>9}" + "".join(f"{w:>9}" for w in PREDICTORS))
    for kind, ledgers in kinds.items():
        total = dict.fromkeys(PREDICTORS, (0, 0))
        same = dict(total)  # of ledgers that all models could be asked about
        for name, rows in ledgers.items():
            if not any(rows):
                print(f"{name:<20}        -  nothing is kept of it: --inspect")
                continue
            others = [g[0] for other, g in ledgers.items() if other != name and g]
            found = compare(rows, others)
            total = {w: (total[w][0] + a, total[w][1] + n) for w, (a, n) in found.items()}
            if found["built"][1]:
                same = {w: (same[w][0] + a, same[w][1] + n) for w, (a, n) in found.items()}
            print(f"{name:<20}{len(rows[0]):>9}" + "".join(_tau(found[w]) for w in PREDICTORS),
                  flush=True)  # fmt: skip
        print(f"{'all ' + kind:<20}{'':>9}" + "".join(_tau(total[w]) for w in PREDICTORS))
        if same != total and same["built"][1]:
            print(
                f"{'  of what was built':<20}{'':>9}" + "".join(_tau(same[w]) for w in PREDICTORS)
            )
        decisive = same if same["built"][1] else total
        good = {w: a / n for w, (a, n) in decisive.items() if n and a / n >= GOOD}
        best = max(good, key=lambda w: good[w], default="none")
        print(f"  at least {GOOD}: {', '.join(good) or 'none'}; best: {best}")
    return 0


def _tau(found: tuple[int, int]) -> str:
    agree, total = found
    return f"{agree / total:>9.2f}" if total else f"{'-':>9}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
