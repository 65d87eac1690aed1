"""The Pallas backend: block programs as JAX kernels over blocks of arrays.

A text is traced at symbolic sizes and read back, which is what is proved, and is interpreted on the
CPU. Nothing is compiled for a device, and nothing is timed: schedules are ranked by the model of
block programs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from opwright.backends.jax.scalar import PrintError, identifier
from opwright.backends.pallas.printer import TARGET, dispatch, make_plan, print_program
from opwright.compiler.backend import Effort, Found, Refused
from opwright.compiler.block_spaces import spaces
from opwright.compiler.candidates import Candidate
from opwright.compiler.execution import execute
from opwright.compiler.functional import ENTRY, arrays_of
from opwright.compiler.importing import static_gates
from opwright.compiler.modelled import modelled
from opwright.compiler.package_spec import Arrays, PackagedVariant
from opwright.compiler.pure import Pure
from opwright.ir.launch import bind_plan
from opwright.ir.op import Operator
from opwright.ir.record import Record
from opwright.ir.tile import TileProgram
from opwright.search.space import IllegalSchedule, Schedule
from opwright.verify.sizes import default_workload, scale

MODELLED = "sm_90"  # what schedules are ranked as for
ANYTHING = 1 << 40  # bytes and steps of a workload that is only modelled
NO_DEVICE = (
    "on an accelerator: there was none; kernels were read back, proved, and run by Pallas's "
    "interpreter on the CPU, and times are modelled as for {targets}"
)


def printed(program: TileProgram, op: Operator) -> Candidate:
    """The candidate that the printer makes; PrintError says what is no program of whole blocks. Its
    TileIR is not what a proof is about: blocks say more of memory than it does."""
    return Candidate(make_plan(program, op), print_program(program, op))


@dataclass(frozen=True, slots=True)
class Kernels:
    """Array code as `--backend jax` makes it, and beside it kernels over blocks for the calls that
    one of them takes. On a CPU the package runs the array code: there kernels are only tested."""

    arrays: Pure = field(default_factory=Pure)

    @property
    def name(self) -> str:
        return "pallas"

    @property
    def targets(self) -> tuple[str, ...]:
        return self.arrays.targets

    def prepare(self) -> None:
        self.arrays.prepare()

    def machine(self) -> Mapping[str, Any]:
        return self.arrays.machine()

    def identity(self, op: Operator) -> str:
        return self.arrays.identity(op)

    def compile(self, op: Operator, effort: Effort) -> Found:
        """Refused where no schedule is a program of whole blocks that passes its gates."""
        found = self.arrays.compile(op, effort)
        tried = 0
        best: tuple[float, Schedule, Candidate, tuple[Record, ...]] | None = None
        reasons: dict[str, None] = {}
        most = max(effort.budget.evaluations, 1) if effort.primary else 1
        for schedule, program, c in texts(op, reasons):
            if tried >= most:
                break
            tried += 1
            records, why = judged(c, op, effort)
            if why:
                reasons[f"{schedule.text}: {why}"] = None
                continue
            cost = _cost(op, program)
            if best is None or cost < best[0]:
                plan = replace(c.plan, origin={"proposer": "printer", "schedule": schedule.text})
                best = cost, schedule, Candidate(plan, c.source), tuple(records)
        if best is None:
            said = "\n".join(list(reasons)[:6])
            message = f"{op.name}: no kernel over whole blocks passed the gates\n{said}"
            raise Refused(message, "compile it with --backend jax")
        _, schedule, c, passed = best
        variant = PackagedVariant(
            "kernels", c.plan, {}, c.source, records=passed, targets=(TARGET,)
        )
        unrun = NO_DEVICE.format(targets=MODELLED)
        return replace(
            found,
            variants=(variant, *found.variants),
            unrun=(*found.unrun, unrun),
            schedules=(schedule.text,),
        )


def texts(
    op: Operator, reasons: dict[str, None]
) -> Iterator[tuple[Schedule, TileProgram, Candidate]]:
    """The preferred schedules that are programs of whole blocks; `reasons` takes why others are
    not."""
    found = spaces(op, MODELLED)
    for space in (*found[1:], found[0]):
        for schedule in space.preferred():
            try:
                program = space.instantiate(schedule)
                yield schedule, program, printed(program, op)
            except (IllegalSchedule, PrintError) as e:
                reasons[f"{space.name}: {e}"] = None


def judged(c: Candidate, op: Operator, effort: Effort) -> tuple[list[Record], str]:
    """The records of every gate, and why it cannot ship, if so."""
    static = static_gates(c, op)
    records = list(static.records)
    if static.refuted:
        return records, next(f"{r.id}: {r.reason}" for r in records if r.status == "REFUTED")
    if not static.safe and effort.require.upper() == "PROVED":
        weak = next(r for r in records if r.kind in ("G1", "G2", "G3") and r.status != "PROVED")
        return records, f"safety is not proved: {weak.id}: {weak.reason}"
    records += execute(c, static, op, "portable", effort.seed)
    bad = next((r for r in records if r.status == "REFUTED"), None)
    bad = bad or next((r for r in records if r.kind == "G6" and r.status == "UNKNOWN"), None)
    return records, f"{bad.id}: {bad.reason}" if bad else ""


def _cost(op: Operator, program: TileProgram) -> float:
    """Modelled seconds over the workloads, for the order of schedules alone."""
    loads = [scale(op, w, ANYTHING, ANYTHING) for w in op.workloads] or [default_workload(op)]
    return sum(modelled(op, program, s.sizes, s.params, MODELLED, {}) for s in loads)


def packaged(kernels: PackagedVariant, op: Operator) -> Arrays | None:
    """The module of a package: the array code, the kernels, and what chooses between them."""
    general, _ = arrays_of(op)
    if general is None:
        return None
    bound = bind_plan(kernels.plan, op)
    names = [identifier(t.name) for t in op.inputs]
    names += [identifier(n) for n in (*(p.name for p in op.params), *op.free_sizes)]
    given = ", ".join(names)
    shapes, facts = dispatch(op, bound.facts)
    inner = identifier(kernels.plan.launches[0].kernel)
    entry = [
        "",
        "",
        "_kernels = " + inner,
        "",
        "",
        "# added by the emitter: kernels where they are compiled and their facts hold",
        f"def {ENTRY}({given}):",
        *(f"    {line}" for line in shapes),
        '    if jax.default_backend() == "cpu" or not (',
        "        " + "\n        and ".join(facts or ["True"]),
        "    ):",
        f"        return _general({given})",
        f"    return _kernels({given})",
        "",
    ]
    text = f"{general.source.rstrip()}\n\n\n_general = {general.function}\n\n\n"
    return Arrays(text + kernels.source.rstrip() + "\n".join(entry), ENTRY, general.wide)
