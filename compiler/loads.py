"""Workloads that can be measured or modelled: those of the spec that fit, else one made up."""

from __future__ import annotations

from opwright.ir.binding import InputError
from opwright.ir.op import Operator, Workload
from opwright.verify.sizes import Scaled, default_workload, scale

WORK_LIMIT = 1 << 33  # scalar steps of a workload that is run


def workloads(
    op: Operator, bytes_limit: int, work_limit: int = WORK_LIMIT
) -> tuple[list[tuple[Workload | None, Scaled]], list[str]]:
    """(workloads, scaled where they do not fit; notes) at the operator's binding of types."""
    notes: list[str] = []
    out: list[tuple[Workload | None, Scaled]] = []
    bound = op.types
    own = [w for w in op.workloads if all(bound.get(k, v) == v for k, v in w.types.items())]
    if op.workloads and not own:
        types = ", ".join(f"{k} = {v}" for k, v in bound.items())
        notes.append(f"no workload is declared for {types}: those of other types count")
    for w in own or op.workloads:
        try:
            out.append((w, scale(op, w, bytes_limit, work_limit)))
        except InputError as e:
            notes.append(str(e))
    if not out:
        out.append((None, default_workload(op)))
    return out, [*notes, *(s.note for _, s in out if s.note)]
