"""The guided search against the builtin tuner at equal measured budget, on this machine.

    python -m opwright.benchmarks.guided --cassette FILE [--spec S] [--budget-measured 60]
        [--seeds 3] [--repeats 5] [--json FILE]
    python -m opwright.benchmarks.guided --candidate FOLDER --spec S ...

The builtin tuner searches with that many measured candidates, once a seed. The best text of the
recorded search, or somebody's candidate (its plan says types and target), passes the gates again.
Then all winners are timed side by side in fresh processes, several times; the same text twice in
each round says what the noise is. A round in which something else kept the machine busy is
repeated, and counted, as often as there are rounds. A gain counts where it is larger than the noise
in every round that is kept. Below stand the texts that the recorded search lost, each with what it
tried and why it was refused.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from opwright.compiler import candidates
from opwright.compiler.elaborate import load_spec
from opwright.compiler.exchanging import judge, medium_of
from opwright.compiler.native import F32_LANES
from opwright.compiler.spaces import spaces
from opwright.compiler.toolbox import evaluation_tools
from opwright.compiler.transcripts import Text, Transcript, read
from opwright.ir.plan import load
from opwright.search.archive import Archive
from opwright.search.evaluate import CandidateEvaluator
from opwright.search.exchange import Answer
from opwright.search.guided import UNTIMED
from opwright.search.results import Confirmation, Job, Options
from opwright.search.run import Budget, search
from opwright.search.space import parse


def main(argv: list[str] | None = None) -> int:
    """Compare, print, write JSON."""
    p = argparse.ArgumentParser(prog="python -m opwright.benchmarks.guided")
    who = p.add_mutually_exclusive_group(required=True)
    who.add_argument("--cassette", type=Path, help="ledger of the guided search")
    who.add_argument("--candidate", type=Path, help="folder of a C++ candidate (with --spec)")
    p.add_argument("--spec", type=Path, help="the spec, where it is not the library's")
    p.add_argument("--budget-measured", type=int, default=60)
    p.add_argument("--seeds", type=int, default=3)
    p.add_argument("--repeats", type=int, default=5)
    p.add_argument("--json", type=Path)
    args = p.parse_args(argv)
    if args.candidate is not None and args.spec is None:
        p.error("--candidate needs --spec")
    if args.candidate is not None:
        entry = given(args.candidate, args.spec)
    else:
        entry = read(args.cassette, args.spec)
    found = compare(entry, args.budget_measured, args.seeds, args.repeats)
    print(table(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def given(folder: Path, spec: Path) -> Transcript:
    """A candidate's folder as a search of which nothing is known but its winner."""
    plan = load(folder)
    op = load_spec(spec).operator(plan.op.partition("@")[0], dict(plan.types))
    candidate = candidates.read(folder, op)
    origin = {
        "operator": plan.op,
        "types": dict(plan.types),
        "backend": plan.backend,
        "targets": [plan.target],
        "model": "unknown",
    }
    text = Text("given()", 1.0, candidate.plan, candidate.source)
    return Transcript(folder, origin, op, 1, (text,), ())


def compare(t: Transcript, budget: int, seeds: int, repeats: int) -> dict[str, Any]:
    """Winners of the builtin tuner and of a transcript, timed side by side."""
    targets = tuple(t.origin["targets"])
    level = targets[0].removeprefix("cpu(").removesuffix(")")
    tools = evaluation_tools(t.op, level).tools
    options = Options(rounds=3, confirm_rounds=7)
    jobs: list[Job] = []
    who: dict[int, dict[str, Any]] = {}
    with CandidateEvaluator(t.op, tools, options) as evaluator:
        for seed in range(seeds):
            with Archive(":memory:") as archive:
                limit = Budget(budget, None, UNTIMED)
                made = search(spaces(t.op, F32_LANES[level]), t.op, evaluator, limit, seed, archive)
            best = made.winner or made.baseline
            if best is None:
                raise SystemExit(f"the builtin tuner found nothing for {t.op.name}")
            n = len(jobs)
            spent = sum(str(r["status"]) not in UNTIMED for r in made.table)
            schedule, number = best.schedule.text, best.candidate.program
            jobs.append(Job(n, best.schedule, best.program, number, best.given))
            who[n] = {"who": "builtin", "seed": seed, "schedule": schedule, "measured": spent}
            print(f"builtin, seed {seed}: {schedule} after {spent}", file=sys.stderr)
        text = _passing(t, evaluator, len(jobs))
        if text is None:
            raise SystemExit("no text of the transcript passes the gates on this machine")
        jobs.append(text)
        name = text.schedule.text
        who[text.number] = {"who": "guided", "schedule": name, "measured": t.measured}
        print(f"guided: {name}", file=sys.stderr)
        order = [jobs[-1], *jobs[:-1]]
        rounds: list[Confirmation] = []
        disturbed = 0
        while len(rounds) < repeats:
            first = len(rounds) % len(order)  # who comes first, and twice, changes
            measured = evaluator.confirm(order[first:] + order[:first], None)
            if measured.notes and disturbed < repeats:
                disturbed += 1
            else:
                rounds.append(measured)
        weights = dict(evaluator.weights)
    return {**_result(t, who, rounds, weights, budget), "disturbed rounds": disturbed}


def _passing(t: Transcript, evaluator: CandidateEvaluator, number: int) -> Job | None:
    """The best text of a transcript that passes here."""
    medium = medium_of(str(t.origin["backend"]), tuple(t.origin["targets"]), t.op)
    for text in t.passed[:5]:
        program, given = judge(Answer(0, "text", text.plan, text.source), t.op, medium)
        job = Job(number, parse(text.schedule), program, given.digest, given)
        for _, e in evaluator.evaluate([job], None):
            if e.status == "ok":
                return job
            print(f"{text.schedule}: {e.status}, {e.reason}", file=sys.stderr)
    return None


def _result(
    t: Transcript,
    who: dict[int, dict[str, Any]],
    rounds: Sequence[Confirmation],
    weights: Mapping[str, float],
    budget: int,
) -> dict[str, Any]:
    def total(metrics: Mapping[str, Mapping[str, float]]) -> float:
        logs = [w * math.log(metrics[n]["latency"]) for n, w in weights.items() if n in metrics]
        return math.exp(sum(logs) / sum(w for n, w in weights.items() if n in metrics))

    for n, row in who.items():
        times = [r.metrics[n] for r in rounds]
        row["milliseconds"] = {
            w: round(median(m[w]["latency"] for m in times if w in m) * 1e3, 6) for w in weights
        }
    guided = next(n for n, row in who.items() if row["who"] == "guided")
    noise = max(r.noise for r in rounds)
    for n, row in who.items():
        if n != guided:
            gains = [total(r.metrics[n]) / total(r.metrics[guided]) for r in rounds]
            row["guided is faster by"] = [round(g, 4) for g in sorted(gains)]
            row["beyond the noise"] = min(gains) > math.exp(noise)
    return {
        "operator": t.origin["operator"],
        "types": dict(t.origin["types"]),
        "targets": list(t.origin["targets"]),
        "model": t.origin["model"],
        "transcript": t.path.name,
        "budget": budget,
        "noise": round(noise, 5),
        "refused": dict(t.refused),
        "lost": [{"idea": x.idea, "status": x.status, "reason": x.reason} for x in t.lost],
        "results": list(who.values()),
        "notes": sorted({x for r in rounds for x in r.notes}),
    }


def table(found: dict[str, Any]) -> str:
    """The comparison as text."""
    head = f"{found['operator']} {found['types']}, {found['transcript']} ({found['model']})"
    noise = f"A/A noise {found['noise']:.2%}, {found['disturbed rounds']} disturbed rounds repeated"
    lines = [head, f"{noise}; refused texts: {found['refused']}"]
    for row in found["results"]:
        name = row["who"] + (f" seed {row['seed']}" if "seed" in row else "")
        times = ", ".join(f"{w} {ms:.4f} ms" for w, ms in row["milliseconds"].items())
        line = f"  {name:<16} {row['measured']:>3} measured  {times}  {row['schedule']}"
        if "guided is faster by" in row:
            gains = row["guided is faster by"]
            said = "beyond" if row["beyond the noise"] else "not beyond"
            line += f"\n    guided {median(gains):.3f} times as fast ({gains[0]:.3f} to "
            line += f"{gains[-1]:.3f}), {said} the noise"
        lines.append(line)
    lines += [f"note: {n}" for n in found["notes"]]
    lines += [f"lost, {x['status']}: {x['idea']}: {x['reason']}" for x in found["lost"]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
