"""What compilers make of a candidate, for the model: resources, and instructions that are executed.

Counts of instructions are of the binary; how often its loops run is from the TileIR, whose loops
are, by depth, those that were compiled.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from opwright.compiler.blocks import Blocks
from opwright.compiler.candidates import Candidate
from opwright.ir.expr import ExprError, evaluate
from opwright.ir.launch import bind_plan
from opwright.ir.op import Operator
from opwright.ir.tile import For, If, Kernel, Stmt, TileProgram

Facts = dict[str, dict[str, Any]]  # of each kernel


def facts_of(
    backend: Blocks, c: Candidate, op: Operator, target: str
) -> tuple[Facts, dict[str, Any]]:
    """(resources by kernel, disassembled instructions by kernel); BuildError for what the compiler
    refuses. Of AMD's binaries there are no instructions."""
    from opwright.backends.triton.disassembly import mixes

    found: Facts = {}
    kinds: dict[str, Any] = {}
    if backend.name == "triton":
        from opwright.backends.triton.build import compile_for

        artefact = compile_for(c.source, bind_plan(c.plan, op), target)
        found = {k: dict(v) for k, v in artefact.resources.items()}
        if target.startswith("sm_"):
            for b in artefact.binaries:
                kinds[b.kernel] = mixes(b.code)[b.symbol]
    else:
        from opwright.backends.cuda.build import compile_for as compile_text

        made = compile_text(c.source, target)
        warps = {x.kernel: -(-math.prod(x.extra.get("block", [32])) // 32) for x in c.plan.launches}
        found = {k: {**v, "num_warps": warps.get(k, 1)} for k, v in made.resources.items()}
        kinds = dict(mixes(made.code))
    for launch in c.plan.launches:
        if launch.kernel in found and "num_stages" in launch.extra:
            found[launch.kernel]["num_stages"] = launch.extra["num_stages"]
    return found, kinds


def executed(
    program: TileProgram, env: Mapping[Any, Any], kinds: Mapping[str, Any]
) -> dict[str, dict[str, float]]:
    """Instructions that a thread executes, by unit, of each kernel that was disassembled."""
    out: dict[str, dict[str, float]] = {}
    for k in program.kernels:
        mix = kinds.get(k.name)
        if mix is not None:
            out[k.name] = mix.executed(trips(k, env))
    return out


def trips(k: Kernel, env: Mapping[Any, Any]) -> list[float]:
    """How often loops run at each depth, in a program at the middle of the grid."""
    here = dict(env)
    for d, g in enumerate(k.grid):
        here[d] = max(0, int(evaluate(g, env)) // 2)
    levels: list[list[float]] = []
    _visit(k.body, here, 0, levels)
    return [sum(found) / len(found) for found in levels if found]


def _visit(
    body: Sequence[Stmt], env: dict[Any, Any], depth: int, levels: list[list[float]]
) -> None:
    for s in body:
        if isinstance(s, If):
            _visit(s.then, env, depth, levels)
            _visit(s.other, env, depth, levels)
        elif isinstance(s, For):
            try:
                lo, hi = int(evaluate(s.lo, env)), int(evaluate(s.hi, env))
            except (KeyError, ExprError):
                lo, hi = 0, 16 * s.step  # a bound that depends on data
            count = max(0, -(-(hi - lo) // s.step))
            if len(levels) <= depth:
                levels.append([])
            levels[depth].append(float(count))
            _visit(s.body, {**env, s.variable: lo + count // 2 * s.step}, depth + 1, levels)
