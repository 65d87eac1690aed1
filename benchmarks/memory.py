"""`python -m opwright.benchmarks.memory`: peak memory of one call as an extent grows.

An operator, or its gradient (which reads what the forward pass saves for it), is compiled by the
first schedule of every space (no search, no package), and each size runs once in a process of its
own: what the peak of resident memory grows by during the call, beside the bytes of inputs and
outputs, and the scratch that the block program for GPUs would ask for.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from opwright.backends.cpp.build import host_isa
from opwright.backends.cpp.run import Library
from opwright.compiler import block_spaces, spaces
from opwright.compiler.autodiff import gradient
from opwright.compiler.autodiff_saved import saved_for
from opwright.compiler.elaborate import load_spec
from opwright.compiler.native import F32_LANES
from opwright.compiler.toolbox import evaluation_tools
from opwright.ir.expr import evaluate
from opwright.ir.op import Operator
from opwright.ir.tile import TileProgram
from opwright.search.loads import host
from opwright.search.space import IllegalSchedule, Space
from opwright.verify.draw import draw_inputs
from opwright.verify.sizes import all_params, memory_of, shape_of

SPECS = Path(__file__).resolve().parent.parent / "specs"
MIB = 1 << 20


def arguments(given: list[str] | None) -> argparse.Namespace:
    p = argparse.ArgumentParser(prog="python -m opwright.benchmarks.memory", description=__doc__)
    p.add_argument("operator", help="name of an operator of the library")
    p.add_argument("--grad", default="", help="inputs to differentiate for, by comma")
    p.add_argument("--space", default="", help="only spaces with this in their names")
    p.add_argument("--size", action="append", default=[], help="NAME=N or NAME=N,N,..., repeatable")
    return p.parse_args(given)


def scratch(program: TileProgram, env: Mapping[Any, Any]) -> int:
    """Bytes of buffers that a launch allocates for all programs together."""
    found = {b.name: b for k in program.kernels for b in k.buffers if b.role == "plan"}
    total = 0
    for b in found.values():
        count = 1
        for e in b.shape:
            count *= int(evaluate(e, env))
        total += count * b.dtype.bytes
    return total


def first(space: Space) -> TileProgram | None:
    """The program of the first schedule that is legal."""
    for schedule in space.preferred():
        try:
            return space.instantiate(schedule)
        except IllegalSchedule:
            continue
    return None


def call(path: Path, op: Operator, sizes: Mapping[str, int], out: Any) -> None:
    """One call in this process; sends (MiB that the peak grew by, seconds)."""
    import numpy as np

    params = all_params(op, sizes, {})
    inputs = draw_inputs(op, sizes, params, "normal", 1)
    outputs = {t.name: np.zeros(shape_of(t, sizes, params), t.dtype.storage) for t in op.outputs}
    for a in outputs.values():
        a += 1  # every page is there before the call
    library = Library(path, op)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = resident("VmRSS")
    begin = time.perf_counter()
    library.run(inputs, outputs, params, sizes)
    seconds = time.perf_counter() - begin
    out.put((resident("VmHWM") - before, seconds))


def resident(what: str) -> float:
    """MiB of this process, now (VmRSS) or at its peak (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(x.split()[1]) for x in lines if x.startswith(what)) / 1024


def main(given: list[str] | None = None) -> int:
    """Print one table; 1 when nothing could be run."""
    options = arguments(given)
    path = next((p for p in SPECS.rglob("*.op") if p.stem == options.operator), None)
    if path is None:
        print(f"no operator {options.operator} in the library", file=sys.stderr)
        return 2
    op = load_spec(path).operator()
    if options.grad:
        wanted_grads = options.grad.split(",")
        op = gradient(op, wanted_grads, saved_for(op, wanted_grads))
    wanted: dict[str, list[int]] = {}
    for text in options.size:
        name, _, values = text.partition("=")
        if name not in op.sizes or not all(v.isdigit() for v in values.split(",")):
            print(f"--size {text}: sizes are {', '.join(op.sizes)}", file=sys.stderr)
            return 2
        wanted[name] = [int(v) for v in values.split(",")]
    base = dict(op.workloads[0].sizes) if op.workloads else {}
    missing = [n for n in op.sizes if n not in wanted and n not in base]
    if missing:
        print(f"say --size {missing[0]}=N", file=sys.stderr)
        return 2
    count = max([len(v) for v in wanted.values()] or [1])
    level = host_isa()
    kit = evaluation_tools(op, level).tools
    own = [s for s in spaces.spaces(op, F32_LANES[level])[1:] if options.space in s.name]
    programs = [(s.name, first(s)) for s in own]
    blocks = [(s.name, first(s)) for s in block_spaces.spaces(op)[1:]]
    print(f"{host()}; {op.name}; MiB")
    context = multiprocessing.get_context("spawn")
    ran = 0
    for n in range(count):
        sizes = {**base, **{k: v[min(n, len(v) - 1)] for k, v in wanted.items()}}
        params = all_params(op, sizes, {})
        shape = ", ".join(f"{k} = {v}" for k, v in sizes.items())
        print(f"{shape}: inputs and outputs {memory_of(op, sizes, params) / MIB:.1f}")
        env = {**params, **sizes}
        for name, program in programs:
            if program is None:
                continue
            built = kit.build(kit.emit(program)).path
            queue = context.Queue()
            child = context.Process(target=call, args=(built, op, sizes, queue))
            child.start()
            child.join()
            if child.exitcode:
                print(f"  cpp     {name}: the call failed")
                continue
            grown, seconds = queue.get()
            ran += 1
            declared = scratch(program, env) / MIB
            used = f"peak +{grown:.1f}, {declared:.1f} of scratch for all programs together"
            print(f"  cpp     {name}: {used}; {seconds:.2f} s", flush=True)
        for name, program in blocks:
            if program is not None:
                print(f"  triton  {name}: {scratch(program, env) / MIB:.1f} scratch, not run")
    return 0 if ran else 1


if __name__ == "__main__":
    sys.exit(main())
