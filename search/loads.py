"""What can be measured or modelled here: workloads of the spec that fit, else one made up, and the
machine that they are measured on."""

from __future__ import annotations

import os
import platform
from pathlib import Path

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


def host() -> str:
    """The processor by its model name, and how many of them."""
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{name} x{os.cpu_count()}"


def memory_limit() -> int:
    """Bytes of one workload's buffers that this machine can hold several times."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        total = 4 << 30
    return min(512 << 20, total // 24)
