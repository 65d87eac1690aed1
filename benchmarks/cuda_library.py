"""The operator library as CUDA C++: what is printed, compiled by nvcc, read back and proved.

    python -m opwright.benchmarks.cuda_library [--schedule fallback|tuned] [--budget S] [SPEC ...]

Nothing runs on a device. `tuned` takes the first preferred schedule that is printed.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from pathlib import Path

from opwright.backends.cpp.build import BuildError
from opwright.backends.cpp.scalar import PrintError
from opwright.backends.cuda.build import compile_for
from opwright.compiler import block_spaces
from opwright.compiler.candidates import Candidate
from opwright.compiler.cuda_blocks import printed
from opwright.compiler.elaborate import load_spec
from opwright.compiler.importing import static_gates
from opwright.compiler.stored import stored_form
from opwright.ir.op import Operator
from opwright.search.space import IllegalSchedule

TARGET = "sm_90"
GATES = ("G1", "G2", "G3", "G5")


def library() -> list[Path]:
    """Every spec of the operator library."""
    import opwright.specs

    return sorted(p for at in opwright.specs.__path__ for p in Path(at).rglob("*.op"))


def text_of(op: Operator, tuned: bool) -> tuple[str, Candidate]:
    """(schedule, candidate); PrintError where no schedule has a CUDA form."""
    found = block_spaces.spaces(op)
    why = PrintError("no schedule")
    for space in (*found[1:], found[0]) if tuned else found[:1]:
        for one in space.preferred():
            try:
                return one.text, printed(space.instantiate(one), op, TARGET)
            except IllegalSchedule:
                continue
            except PrintError as e:
                why = e
    raise why


def row(path: Path, tuned: bool, budget: float) -> dict[str, str]:
    """What became of one operator."""
    op = stored_form(load_spec(path).operator())
    begin = time.perf_counter()
    try:
        schedule, c = text_of(op, tuned)
    except PrintError as e:
        return {"print": f"no: {e}"}
    out = {"print": "yes", "schedule": schedule}
    try:
        kernels = compile_for(c.source, TARGET).resources
        spills = sum(k["spill_stores"] + k["spill_loads"] for k in kernels.values())
        out |= {"nvcc": "yes", "spilled": str(spills)}
    except BuildError as e:
        out["nvcc"] = f"no: {str(e).splitlines()[0]}"
    static = static_gates(c, op, budget=budget)
    out |= {g: static.gate(g) for g in GATES if any(r.kind == g for r in static.records)}
    weak = next((r for r in static.records if r.kind in GATES[:3] and r.status != "PROVED"), None)
    if weak is not None:
        out["why"] = f"{weak.id} {weak.reason[:120]}"
    return {**out, "seconds": f"{time.perf_counter() - begin:.1f}"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--schedule", choices=("fallback", "tuned"), default="fallback")
    parser.add_argument("--budget", type=float, default=60.0, help="seconds of proofs of a spec")
    parser.add_argument("specs", nargs="*", type=Path)
    given = parser.parse_args()
    counts: Counter[str] = Counter()
    for path in given.specs or library():
        found = row(path, given.schedule == "tuned", given.budget)
        print(path.stem, *(f"{k}={v}" for k, v in found.items()), sep="  ", flush=True)
        safe = all(found.get(g) == "PROVED" for g in ("G2", "G3"))
        counts["operators"] += 1
        counts["printed"] += found["print"] == "yes"
        counts["compiled"] += found.get("nvcc") == "yes"
        counts["without spills"] += found.get("spilled") == "0"
        counts["read back"] += found.get("G1") == "PROVED"
        counts["safety proved"] += safe
        counts["function proved"] += found.get("G5") == "PROVED"
    print(", ".join(f"{k} {n}" for k, n in counts.items()))


if __name__ == "__main__":
    main()
