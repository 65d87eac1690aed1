"""The launch plan of a printed TileIR program: candidate.json's content, argument by argument."""

from __future__ import annotations

from opwright.backends.cpp.printer import print_program
from opwright.backends.cpp.scalar import PrintError, symbol
from opwright.ir.expr import show
from opwright.ir.op import Operator
from opwright.ir.plan import Launch, Plan, Scratch
from opwright.ir.tile import TileProgram, pointer_arguments, scalar_arguments


def print_for(program: TileProgram, op: Operator, isa_name: str) -> str:
    """`print_program` with the operator's param types and its inputs that outputs update."""
    aliased = {n for t in op.outputs if t.updates is not None for n in (t.name, t.updates)}
    return print_program(program, isa_name, {p.name: p.dtype for p in op.params}, aliased)


def make_plan(
    program: TileProgram,
    op: Operator,
    source_name: str = "kernel.cpp",
    target: str = "cpu(x86_64-v3)",
) -> Plan:
    """The plan that launches what `print_program` prints; arguments in the order of its signatures.

    Raises PrintError when an input, output or scratch of the program is not one of the operator's.
    """
    tensors = {t.name for t in (*op.inputs, *op.outputs)}
    scratch: dict[str, Scratch] = {}
    homes = {n for p in program.placements for n in p.home}
    for b in program.buffers():
        if b.role in ("plan", "program"):
            if b.name not in homes:
                shape = tuple(show(s) for s in b.shape)
                scratch[b.name] = Scratch(b.dtype.name, shape, b.init, b.role)
        elif b.name not in tensors:
            raise PrintError(f"{program.name}: {b.role} {b.name} is no tensor of {op.name}")
    launches = []
    for kernel, placement in zip(program.kernels, program.placements, strict=True):
        pointers = [b.name for b in pointer_arguments(kernel, placement)]
        scalars = [show(e) for e in scalar_arguments(kernel, placement)]
        grid = tuple(show(g) for g in kernel.grid) or ("1",)
        launches.append(
            Launch(symbol(kernel.name), (*pointers, *scalars), grid, schedule=placement.threads)
        )
    return Plan(
        op=f"{op.name}@{op.version}",
        target=target,
        backend="cpp",
        source=source_name,
        launches=tuple(launches),
        spec=op.digest or None,
        types=dict(op.types),
        facts=tuple(show(f) for f in program.facts),
        scratch=scratch,
    )
