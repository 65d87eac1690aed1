"""The launch plan of a printed TileIR program: candidate.json's content, argument by argument."""

from __future__ import annotations

from opwright.backends.triton.printer import PrintError, block_constants, print_program, symbol
from opwright.ir.expr import show
from opwright.ir.op import Operator
from opwright.ir.plan import Launch, Plan, Scratch
from opwright.ir.tile import TileProgram, pointer_arguments, scalar_arguments
from opwright.ir.tiletext import axes_of

DEFAULTS = {"num_warps": 4, "num_stages": 2}


def print_for(program: TileProgram, op: Operator) -> str:
    """`print_program` with the operator's param types."""
    return print_program(program, {p.name: p.dtype for p in op.params})


def make_plan(
    program: TileProgram, op: Operator, target: str = "sm_90", source_name: str = "kernel.py"
) -> Plan:
    """The plan that launches what `print_for` prints; arguments in the order of its signatures.

    Raises PrintError when an input, output or scratch of the program is not one of the operator's.
    """
    tensors = {t.name for t in (*op.inputs, *op.outputs)}
    scratch: dict[str, Scratch] = {}
    for b in program.buffers():
        if b.role == "plan":
            shape = tuple(show(s) for s in b.shape)
            scratch[b.name] = Scratch(b.dtype.name, shape, b.init, b.role)
        elif b.name not in tensors:
            raise PrintError(f"{program.name}: {b.role} {b.name} is no tensor of {op.name}")
    launches = []
    for kernel, placement in zip(program.kernels, program.placements, strict=True):
        pointers = [b.name for b in pointer_arguments(kernel, placement)]
        scalars = [show(e) for e in scalar_arguments(kernel, placement)]
        grid = tuple(show(g) for g in kernel.grid) or ("1",)
        names = block_constants(kernel)
        const = {names[a.name]: a.extent for a in axes_of(kernel)}
        extra = {k: placement.launch.get(k, n) for k, n in DEFAULTS.items()}
        launches.append(
            Launch(symbol(kernel.name), (*pointers, *scalars), grid, const, extra=extra)
        )
    return Plan(
        op=f"{op.name}@{op.version}",
        target=target,
        backend="triton",
        source=source_name,
        launches=tuple(launches),
        spec=op.digest or None,
        types=dict(op.types),
        facts=tuple(show(f) for f in program.facts),
        scratch=scratch,
    )
