"""Hard bounds of an objective (`subject to error <= ..., memory <= ...`) on one candidate, as
records of `opwright verify`. A search keeps them in its scores (`search/objective.py`)."""

from __future__ import annotations

import os

from opwright.compiler.candidates import Candidate
from opwright.ir.expr import ExprError
from opwright.ir.op import Operator
from opwright.ir.record import Record
from opwright.search.calls import scratch_bytes
from opwright.search.objective import COMPARISONS, within
from opwright.verify.inputs import Case
from opwright.verify.sizes import all_params

PLANNED = ("cpp", "triton", "cuda")  # backends whose plans say all memory that a call takes
PART = "the numeric gate's largest error"


def bound_records(c: Candidate, op: Operator, error: float | None) -> list[Record]:
    """One record for each bound on memory and error; `error` is the largest one found, in units of
    the tolerance, None where nothing was run."""
    out = []
    for metric, comparison, limit in op.objective.bounds:
        if comparison not in COMPARISONS or metric not in ("error", "memory"):
            continue
        name, text = f"G6.objective.{metric}", f"the objective asks for {comparison} {limit:g}"
        if metric == "error":
            if error is None:
                out.append(Record(name, "G6", "UNKNOWN", f"no error was measured; {text}"))
                continue
            status = "TESTED" if within(error, comparison, limit) else "REFUTED"
            example = {"error": error, "limit": limit} if status == "REFUTED" else None
            reason = f"{PART} is {error:.3g} of the tolerance; {text}"
            out.append(Record(name, "G6", status, reason, "", (), example))
        else:
            out.append(_memory(c, op, name, comparison, limit, text))
    return out


def _memory(
    c: Candidate, op: Operator, name: str, comparison: str, limit: float, text: str
) -> Record:
    """Scratch of the plan on every workload of the spec."""
    if c.plan.backend not in PLANNED:
        why = f"what temporaries {c.plan.backend} takes is not in the plan; {text}"
        return Record(name, "G6", "UNKNOWN", why)
    if not op.workloads and c.plan.scratch:
        return Record(name, "G6", "UNKNOWN", f"no workload says at which sizes; {text}")
    threads = os.cpu_count() or 1
    said = []
    for w in op.workloads:
        sizes = {s: int(w.sizes[s]) for s in op.sizes}
        try:
            case = Case(w.name, "", sizes, all_params(op, sizes, w.params), {})
            found = scratch_bytes(c.plan, op, case, threads)
        except (ExprError, KeyError, ValueError) as e:
            return Record(name, "G6", "UNKNOWN", f"scratch of {w.name}: {e}; {text}")
        said.append(f"{found} bytes on {w.name}")
        if not within(float(found), comparison, limit):
            example = {"workload": w.name, "memory": found, "limit": limit}
            reason = f"scratch of {threads} threads is {said[-1]}; {text}"
            return Record(name, "G6", "REFUTED", reason, "", (), example)
    reason = f"scratch of {threads} threads is {', '.join(said) or '0 bytes'}; {text}"
    return Record(name, "G6", "TESTED", reason)
