"""C++ kernels that a test writes: imported for an operator that it states."""

from __future__ import annotations

from opwright.backends.cpp.importer import import_program
from opwright.compiler.elaborate import elaborate
from opwright.grammar.parser import parse
from opwright.ir.launch import bind_plan
from opwright.ir.plan import from_json
from opwright.ir.tilecheck import check_program
from opwright.verify.context import Context
from opwright.verify.gates import safety

HEAD = "#include <algorithm>\n#include <math.h>\n#include <stdint.h>\n"
IDS = ", int64_t pid0, int64_t pid1, int64_t pid2"


def dense(**shapes):
    """Facts that tensors are row-major."""
    facts = []
    for name, dims in shapes.items():
        for n in range(len(dims)):
            rest = dims[n + 1 :]
            facts.append(f"stride({name}, {n}) == {' * '.join(rest) or 1}")
    return facts


def operator(spec):
    text = f'opwright "0.1"\n{spec}'
    return elaborate(parse(text, "t.op"), None, filename="t.op", source=text)


def plan_of(op, grid, args, facts=(), kernel="k", scratch=None):
    launch = {"kernel": kernel, "grid": grid, "args": args}
    data = {
        "abi": 1, "op": f"{op.name}@{op.version}", "target": "cpu", "backend": "cpp",
        "source": "kernel.cpp", "facts": list(facts), "launches": [launch],
        "scratch": scratch or {},
    }  # fmt: skip
    return from_json(data)


def imported(spec, source, grid, args, facts=()):
    op = operator(spec)
    bound = bind_plan(plan_of(op, grid, args, facts), op)
    program = import_program(HEAD + source, bound, "kernel.cpp")
    check_program(program)
    return op, program


COPY = "op copy @ 1.0 { dims N input x: f32[N] output y: f32[N] def { y[i] = x[i] } }"
FLAT = dense(x="N", y="N")


def statuses(op, program):
    return {r.id: r.status for r in safety(program, Context.of(op)) if r.status != "PROVED"}
