"""What the search and the gates are handed: proving, printing, building and the reference, for one
operator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from opwright.backends.cpp.build import BuildError, build, compiler, compiler_version
from opwright.backends.cpp.driver import driver_source
from opwright.backends.cpp.inspection import inspect
from opwright.compiler.candidates import printed
from opwright.compiler.paths import cache_folder
from opwright.ir.kept import kept
from opwright.ir.op import Operator
from opwright.ir.plan import Plan
from opwright.ir.record import Record
from opwright.ir.reference import reference
from opwright.ir.tile import TileProgram
from opwright.search.results import Built, Emitted, Tools
from opwright.verify.context import Context
from opwright.verify.gates import safety


@dataclass(frozen=True, slots=True, eq=False)
class Toolbox:
    """`tools` for the evaluator; `emit_plan` prepares any source with a plan."""

    op: Operator
    isa: str
    tools: Tools

    def emit_plan(self, plan: Plan, source: str, program: TileProgram | None = None) -> Emitted:
        """`program`: what the source was printed from, where it was."""
        parts = None if program is None else kept(program)
        return Emitted(source, driver_source(plan, self.op, kept=parts), plan)


def evaluation_tools(op: Operator, isa: str) -> Toolbox:
    """Tools for candidates of one operator at one instruction-set level of this machine."""
    context = Context.of(op)

    def prove(program: TileProgram) -> Sequence[Record]:
        return safety(program, context)

    def emit(program: TileProgram) -> Emitted:
        c = printed(program, op, isa)
        return Emitted(c.source, driver_source(c.plan, op, kept=kept(program)), c.plan)

    def make(e: Emitted) -> Built:
        made = build(e.source, e.driver, cache_folder() / "build", isa)
        return Built(made.path, made.seconds, made.size)

    def expected(
        inputs: Mapping[str, NDArray[Any]], sizes: Mapping[str, int], params: Mapping[str, Any]
    ) -> Mapping[str, NDArray[Any]]:
        return reference(op, inputs, params, sizes)

    def look(b: Built) -> Mapping[str, Any]:
        return inspect(b.path)

    identity = f"{isa} {compiler_identity()}"
    return Toolbox(op, isa, Tools(identity, prove, emit, make, expected, look))


def compiler_identity() -> str:
    """Version line of the C++ compiler; empty without one (building says so with a
    cure)."""
    try:
        return compiler_version(compiler())
    except BuildError:
        return ""
