"""The operator library for GPUs without one: what is printed, compiled, read back and proved.

    python -m opwright.benchmarks.gpu_library [--backend triton|cuda] [--schedule fallback|default]
        [--targets all] [--budget S] [--seconds S] [--out FILE] [--table] [SPEC ...]

Every operator is printed at its first binding, compiled for every target, and passes the static
gates. `default` takes the first preferred schedule that is printed, `fallback` candidate 0. What a
row depends on is its key in the file of results: a run goes on where the last one ended, and takes
what has not changed from it. `--table` prints the file as a page and does nothing else.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from opwright.compiler import block_spaces
from opwright.compiler.blocks import UNPRINTED, Language, Triton, targets_of
from opwright.compiler.candidates import Candidate
from opwright.compiler.cuda_blocks import TARGETS as CUDA_TARGETS
from opwright.compiler.cuda_blocks import Cuda
from opwright.compiler.elaborate import load_spec
from opwright.compiler.importing import static_gates
from opwright.compiler.stored import stored_form
from opwright.ir.op import Operator
from opwright.ir.plan import PlanError
from opwright.search.space import IllegalSchedule, Schedule
from opwright.verify.identity import hashed, plan_digest, verifier_digest

RESULTS = Path(__file__).resolve().parent / "results"
GATES = ("G1", "G2", "G3", "G5")
SIMPLE = {"dense", "once", "pointwise", "loop", "persistent"}  # rows and pointwise
Row = dict[str, Any]


def library() -> list[Path]:
    """Every spec of the operator library, one of each folder in turn: a part is a sample."""
    import opwright.specs

    found = [sorted(f.rglob("*.op")) for at in opwright.specs.__path__
             for f in sorted(Path(at).iterdir()) if f.is_dir()]  # fmt: skip
    return [p for turn in zip_longest(*found) for p in turn if p is not None]


def chosen(
    op: Operator, language: Language, default: bool, target: str
) -> tuple[Schedule, Candidate]:
    """(schedule, its text); PrintError where no schedule has a form in the language."""
    found = block_spaces.spaces(op, target)
    why: Exception = PlanError("no schedule")
    for space in (*found[1:], found[0]) if default else found[:1]:
        for one in space.preferred():
            try:
                return one, language.printed(space.instantiate(one), op, target)
            except IllegalSchedule:
                continue
            except (*UNPRINTED, PlanError) as e:
                why = e
    raise why


def simple(schedule: Schedule) -> bool:
    """Whether every part of a schedule computes rows or single elements."""
    return set(schedule.strategy.split("_")) <= SIMPLE


def row(
    path: Path,
    language: Language,
    default: bool,
    targets: Sequence[str],
    budget: float,
    known: Mapping[str, Row],
    function: bool = True,
) -> Row:
    """What became of one operator; the row that is known where nothing of it has changed."""
    op = stored_form(load_spec(path).operator())
    out: Row = {"op": op.name, "types": dict(op.types)}
    begin = time.perf_counter()
    try:
        schedule, c = chosen(op, language, default, targets[0])
    except (*UNPRINTED, PlanError) as e:
        return {**out, "unprinted": str(e).splitlines()[0][:300]}
    key = hashed(
        json.dumps([c.source, plan_digest(c.plan), op.digest, language.identity(), targets, budget,
                    function, verifier_digest()], default=str)
    )  # fmt: skip
    if known.get(op.name, {}).get("key") == key:
        return dict(known[op.name])
    out |= {"key": key, "schedule": schedule.text, "simple": simple(schedule)}
    resources, refused = language.compiled(c, op, targets)
    out["targets"] = {
        t: {"refused": refused[t]} if t in refused else {
            "registers": max((int(k.get("registers", 0)) for k in found.values()), default=0),
            "spilled": sum(
                int(k.get("spill_stores", 0)) + int(k.get("spill_loads", 0)) for k in found.values()
            ),
            "shared": max((int(k.get("shared", 0)) for k in found.values()), default=0),
        }
        for t in targets for found in (resources.get(t, {}),)
    }  # fmt: skip
    static = static_gates(c, op, budget=budget, function=function)
    kinds = {r.kind for r in static.records}
    out["gates"] = {g: static.gate(g) for g in GATES if g in kinds}
    weak = next((r for r in static.records if r.kind in GATES[:3] and r.status != "PROVED"), None)
    if weak is not None:
        out["why"] = f"{weak.id}: {weak.reason[:300]}"
    return {**out, "seconds": round(time.perf_counter() - begin, 1)}


def safe(r: Row) -> bool:
    return all(r.get("gates", {}).get(g) == "PROVED" for g in ("G2", "G3"))


def counted(rows: Sequence[Row], targets: Sequence[str]) -> dict[str, int]:
    """How many operators came how far."""
    n: Counter[str] = Counter()
    for r in rows:
        made = r.get("targets", {})
        n["operators"] += 1
        n["printed"] += "unprinted" not in r
        for t in targets:
            n[f"compiled for {t}"] += t in made and "refused" not in made[t]
        n["read back"] += r.get("gates", {}).get("G1") == "PROVED"
        n["safety proved"] += safe(r)
        n["function proved"] += r.get("gates", {}).get("G5") == "PROVED"
        n["rows and pointwise"] += bool(r.get("simple"))
        for t in targets:
            spills = made.get(t, {}).get("spilled", 0)
            n[f"of these with spills on {t}"] += bool(r.get("simple")) and bool(spills)
    return dict(n)


def page(document: Mapping[str, Any]) -> list[str]:
    """The results as a page of Markdown."""
    targets, rows = document["targets"], list(document["rows"].values())
    head = [f"{document['backend']}, {document['schedule']} schedules, {document['identity']}."]
    lines = [*head, "", "| | operators |", "|---|---|"]
    lines += [f"| {k} | {n} |" for k, n in counted(rows, targets).items()]
    bad = [r for r in rows if not safe(r) or _lacking(r, targets)]
    if bad:
        lines += ["", "| operator | what it lacks |", "|---|---|"]
    for r in bad:
        why = [r["unprinted"]] if "unprinted" in r else []
        why += _lacking(r, targets)
        why += [r["why"]] if "why" in r else []
        lines.append(f"| {r['op']} | {'; '.join(why).replace('|', '/')} |")
    return lines


def _lacking(r: Row, targets: Sequence[str]) -> list[str]:
    """Targets that a text was not compiled for, and spills where there should be none."""
    made = r.get("targets", {})
    out = [f"{t}: {made[t]['refused']}" for t in targets if "refused" in made.get(t, {})]
    spilled = {t: made.get(t, {}).get("spilled", 0) for t in targets}
    if r.get("simple") and any(spilled.values()):
        out.append("spills " + ", ".join(f"{n} bytes on {t}" for t, n in spilled.items() if n))
    return out


def main(given: Sequence[str] | None = None) -> int:
    p = argparse.ArgumentParser(prog="python -m opwright.benchmarks.gpu_library",
                                description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    p.add_argument("--backend", choices=("triton", "cuda"), default="triton")
    p.add_argument("--schedule", choices=("fallback", "default"), default="default")
    p.add_argument("--targets", default="all")
    p.add_argument("--budget", type=float, default=60.0, help="seconds of proofs of an operator")
    p.add_argument("--seconds", type=float, default=0.0, help="of the run; 0: until all are done")
    p.add_argument("--out", type=Path, help="file of results")
    p.add_argument("--safety", action="store_true", help="leave the proofs of functions (G5) out")
    p.add_argument("--table", action="store_true", help="print the results that are there")
    p.add_argument("specs", nargs="*", type=Path)
    options = p.parse_args(given)
    language: Language = Triton() if options.backend == "triton" else Cuda()
    out = options.out or RESULTS / f"library-{options.backend}-{options.schedule}.json"
    document: dict[str, Any] = {"rows": {}}
    if out.exists():
        document = json.loads(out.read_text())
    if not options.table:
        if options.backend == "triton":
            targets = targets_of(options.targets)
        else:
            targets = targets_of(options.targets, CUDA_TARGETS)
        known: dict[str, Row] = document["rows"]
        document = {"backend": options.backend, "schedule": options.schedule,
                    "identity": language.identity(), "targets": list(targets),
                    "rows": dict(known)}  # fmt: skip
        begin = time.monotonic()
        for path in options.specs or library():
            if options.seconds and time.monotonic() - begin > options.seconds:
                break
            default = options.schedule == "default"
            found = row(path, language, default, targets, options.budget, known, not options.safety)
            document["rows"][found["op"]] = found
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
            print(found["op"], _said(found), sep="  ", flush=True)
    print("\n".join(page(document)))
    return 0


def _said(r: Row) -> str:
    if "unprinted" in r:
        return f"not printed: {r['unprinted']}"
    made = " ".join(
        f"{t}:{'no' if 'refused' in m else m['spilled'] or 'yes'}" for t, m in r["targets"].items()
    )
    gates = " ".join(f"{g}={s}" for g, s in r["gates"].items())
    return f"{r['schedule']}  {made}  {gates}  {r['seconds']} s  {r.get('why', '')}"


if __name__ == "__main__":
    raise SystemExit(main())
