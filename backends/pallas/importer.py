"""TileIR from a Pallas text: its trace at symbolic sizes, kernel by kernel.

An element of a block is the element of its array at the block's place; what is past the end of the
array is undefined when it is read, and not written. Numbers of 32 bits are exact where they are
observed, which is stated as a check there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from opwright.backends.jax.arrays import dimension, type_of
from opwright.backends.jax.run import Process, RunError, TraceRefusal
from opwright.backends.jax.scalar import identifier
from opwright.backends.pallas.kernel import Block, KernelReader
from opwright.ir.dtypes import DTYPES
from opwright.ir.expr import ExprError, param, show
from opwright.ir.launch import BoundPlan, ImportRefusal
from opwright.ir.op import Operator
from opwright.ir.tile import Buffer, Kernel, Placement, TileProgram

Atom = Mapping[str, Any]
TILES = 4096  # sizes at which tiles are seen are symbols; numbers below this are extents of tiles


def import_program(source: str, bound: BoundPlan, file: str, *, op: Operator) -> TileProgram:
    """The program of a text, for all sizes that the plan's facts allow. ImportRefusal names what is
    not understood, with its line."""
    try:
        with Process(source, bound.plan, op) as process:
            process.start()
            jaxpr = _traced(process, op)
    except TraceRefusal as e:
        raise ImportRefusal(str(e), file, e.line) from None
    except RunError as e:
        raise ImportRefusal(f"the function cannot be traced: {e}", file, e.line) from None
    reader = _Reader(op, bound, file)
    try:
        kernels = reader.read(jaxpr)
    except ExprError as e:
        raise ImportRefusal(str(e), file, reader.line) from None
    placements = tuple(Placement() for _ in kernels)
    return TileProgram(op.name, tuple(kernels), placements, bound.facts)


def _traced(process: Process, op: Operator) -> Mapping[str, Any]:
    arrays: list[dict[str, Any]] = [
        {"name": identifier(t.name), "dtype": t.dtype.name, "shape": [_dim(e) for e in t.shape]}
        for t in op.inputs
    ]
    for p in op.params:
        if p.dtype.kind != "real":
            raise ImportRefusal(
                f"param {p.name} is a whole number: a kernel is one for each of them"
            )
        if process.passes(p.name):
            arrays.append({"name": identifier(p.name), "dtype": p.dtype.name, "shape": []})
    values = {identifier(s): s for s in op.free_sizes if process.passes(s)}
    limits = [f"{s} >= 1" for s in op.sizes]
    return process.trace(arrays, values, list(op.sizes), limits)


def _dim(e: Any) -> Any:
    if e.op == "const":
        return int(e.attr)
    if e.op == "size":
        return str(e.attr)
    if e.op in ("add", "sub", "mul"):
        sign = {"add": "+", "sub": "-", "mul": "*"}[e.op]
        return f"({_dim(e.args[0])} {sign} {_dim(e.args[1])})"
    if e.op in ("floordiv", "mod", "max", "min"):
        return f"{e.op}({', '.join(str(_dim(a)) for a in e.args)})"
    raise ImportRefusal(f"the extent {show(e)} has no symbolic form")


class _Reader:
    """The function around the kernels: which array is which buffer."""

    def __init__(self, op: Operator, bound: BoundPlan, file: str) -> None:
        self.op, self.bound, self.file = op, bound, file
        self.line = 0
        self.env: dict[int, Any] = {}  # a Buffer, or a param

    def refuse(self, what: str) -> ImportRefusal:
        return ImportRefusal(what, self.file, self.line)

    def read(self, jaxpr: Mapping[str, Any]) -> list[Kernel]:
        op = self.op
        names: list[Any] = [Buffer(t.name, "in", t.dtype, t.shape) for t in op.inputs]
        names += [param(p.name, "real") for p in op.params]
        for v, what in zip(jaxpr["in"], names, strict=False):
            self.env[v["var"]] = what
        outs: dict[int, Buffer] = {}
        for t, v in zip(op.outputs, jaxpr["out"], strict=True):
            if "var" not in v or v["var"] in outs or v["var"] in self.env:
                raise self.refuse(f"{t.name} is no result of a kernel of its own")
            outs[v["var"]] = Buffer(t.name, "out", t.dtype, t.shape)
        kernels = []
        for n, e in enumerate(jaxpr["eqns"]):
            self.line = e["line"]
            if e["prim"] == "pallas_call":
                kernels.append(self.kernel(e, f"{op.name}_{n}", outs))
            elif e["prim"] in ("reshape", "convert_element_type", "broadcast_in_dim", "squeeze"):
                source = self.env.get(e["in"][0].get("var"))
                if source is None or isinstance(source, Buffer) or "const" in e["in"][0]:
                    raise self.refuse(f"{e['prim']} of an array outside of kernels")
                self.env[e["out"][0]["var"]] = source
            elif e["prim"] != "dim_as_value":
                raise self.refuse(f"{e['prim']} outside of kernels")
        missing = [b.name for v, b in outs.items() if v not in self.env]
        if missing:
            raise self.refuse(f"{missing[0]} is no result of a kernel")
        return kernels

    def kernel(self, e: Mapping[str, Any], name: str, outs: Mapping[int, Buffer]) -> Kernel:
        p = e["params"]
        if p["aliases"] or p["more"]:
            raise self.refuse("a kernel whose arrays are shared, or that has scratch")
        ins = e["in"][p["dynamic"] :]
        blocks: list[Block] = []
        for b, atom in zip(p["blocks"], ins, strict=False):
            source = self.env.get(atom.get("var", -1))
            if source is None:
                raise self.refuse("a kernel that takes what is no input")
            blocks.append(Block(source, b, "in"))
        taken = {b.name for b in self.env.values() if isinstance(b, Buffer)}
        for b, v in zip(p["blocks"][len(ins) :], e["out"], strict=True):
            shape = tuple(dimension(n) for n in v["shape"])
            made = outs.get(v["var"])
            if made is None:
                number = len(taken)
                while f"part_{number}" in taken:
                    number += 1
                made = Buffer(f"part_{number}", "plan", type_of(v["dtype"]), shape)
            elif made.dtype is not DTYPES[type_of(v["dtype"]).name]:
                raise self.refuse(f"{made.name} is {v['dtype']}, the operator says {made.dtype}")
            elif [show(x) for x in shape] != [show(dimension(_dim(x))) for x in made.shape]:
                raise self.refuse(f"{made.name} has another shape than the operator says")
            taken.add(made.name)
            self.env[v["var"]] = made
            blocks.append(Block(made, b, "out"))
        grid = tuple(dimension(n) for n in p["grid"])
        reader = KernelReader(name, grid, blocks, p["jaxpr"], self.bound.facts, self.file)
        try:
            return reader.kernel()
        finally:
            self.line = reader.line
