"""Reads CUDA C++ back into TileIR: the text of a candidate, without a toolkit or a device.

A program is a block. Its threads are axes: one for each extent of the block, the first one as warps
and lanes where the text speaks of warps. Branches and early ends become masks, shared memory is
scratch of the program, a barrier orders what threads do. What is not understood is refused with its
line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise

from opwright.backends.cpp.clang import CType, Function, Node, Unit
from opwright.backends.cpp.reading import parse_cuda
from opwright.backends.cuda.frontend import Text
from opwright.backends.cuda.loops import Loops
from opwright.backends.cuda.numbers import GRID
from opwright.backends.cuda.statements import nodes
from opwright.backends.cuda.values import Pointer, Sym, dtype_of
from opwright.ir.delinearize import flat_view, split_accesses, stated_values
from opwright.ir.expr import Expr, ExprError, call, const, leaves, pid, substitute
from opwright.ir.launch import BoundLaunch, BoundPlan, ImportRefusal, Scalar
from opwright.ir.text import parse_expr
from opwright.ir.tile import Axis, Buffer, Builder, Kernel, Placement, TileProgram

WARPS = re.compile(r"__shfl|__syncwarp|__any_sync|__all_sync|warpSize")
ALIGNED = re.compile(r"aligned\((\w+), (\d+)\)")
MOST = (GRID, 65535, 65535)  # programs along each axis of a grid
THREADS = 1024  # of a block


def import_program(
    source: str, bound: BoundPlan, file: str, *, flat: Sequence[str] = ()
) -> TileProgram:
    """The program that a text means when its plan launches it; ImportRefusal with the line of what
    is not understood. `flat` names tensors that are seen as one axis."""
    text = parse_cuda(source, file)
    known = stated_values(bound.facts)
    views: dict[str, Buffer] = {}
    for name in flat:
        view = flat_view(bound.buffers[name], (), known)
        if view is not None:
            views[name] = view
    first = [
        _kernel(text, c, n, bound, file, source, known, views) for n, c in enumerate(bound.launches)
    ]
    offsets: dict[str, list[Expr]] = {}
    for reader, _ in first:
        for name, found in reader.offsets.items():
            offsets.setdefault(name, []).extend(found)
    for name, found in offsets.items():
        if name in views:
            continue
        split = split_accesses(bound.buffers[name], list(dict.fromkeys(found)), bound.facts)
        if split is None:
            line = next((r.failed[name] for r, _ in first if name in r.failed), 0)
            what = f"an address of {name} that its strides do not divide; facts may state them"
            raise ImportRefusal(what, file, line)
        views[name] = split[0]
    made = first
    if any(views[n] != bound.buffers[n] for n in views) or any(r.failed for r, _ in first):
        made = [
            _kernel(text, c, n, bound, file, source, known, views)
            for n, c in enumerate(bound.launches)
        ]
    kernels = tuple(k for _, k in made)
    assumes = tuple(dict.fromkeys(x for r, _ in made for x in r.assumes))
    places = tuple(Placement() for _ in kernels)
    return TileProgram(bound.plan.op, kernels, places, bound.facts, assumes)


def _shared_bytes(launch: BoundLaunch, bound: BoundPlan) -> Expr | None:
    """Bytes of shared memory that a launch gives besides what its kernel declares."""
    given = launch.extra.get("shared_bytes")
    if given is None:
        return None
    sizes = {x for b in bound.buffers.values() for e in b.shape for x in leaves(e, "size")}
    try:
        found = parse_expr(str(given), {str(x.attr): x for x in sizes})
    except (ExprError, ValueError) as e:
        raise ImportRefusal(f"shared_bytes: {e}", "candidate.json") from None
    return found if found.kind == "int" else None


def radices(unit: Unit, extent: int, warps: bool) -> list[int]:
    """Numbers by which a text divides, each of which divides the next one and the extent: threads
    are counted in digits, and no division is left."""
    found = {32} if warps and extent % 32 == 0 else set()
    for f in unit.functions.values():
        for n in nodes(f.body):
            if n.op == "binary" and n.args[1].op in ("int", "cast", "paren", "binary"):
                c = _constant(n.args[1])
                if c is None or c < 0:
                    continue
                if n.attr in ("/", "%"):
                    found.add(c)
                elif n.attr == ">>" and c < 12:
                    found.add(1 << c)
                elif n.attr == "&":
                    found.add(c + 1)
    out: list[int] = []
    lanes = warps and extent % 32 == 0
    for d in sorted(found):
        if lanes and d != 32 and d % 32:
            continue
        if 1 < d < extent and extent % d == 0 and (not out or d % out[-1] == 0):
            out.append(d)
    return out


def _constant(n: Node) -> int | None:
    while n.op in ("cast", "paren"):
        n = n.args[0]
    if n.op == "binary" and n.attr in ("+", "-", "*", "/"):
        a, b = (_constant(x) for x in n.args)
        if a is None or b is None or (n.attr == "/" and b <= 0):
            return None
        return {"+": a + b, "-": a - b, "*": a * b, "/": a // b if b else 0}[str(n.attr)]
    return int(n.attr) if n.op == "int" else None


def thread_axes(
    unit: Unit, block: Sequence[int], warps: bool
) -> tuple[tuple[Axis, ...], list[Expr], Axis | None]:
    """Axes of a block's threads, the fastest last; the index along x, y and z; a warp's lanes."""
    extents = [*block, 1, 1][:3]
    axes: list[Axis] = []
    place: list[Expr] = []
    lane: Axis | None = None
    for name, extent in zip("xyz", extents, strict=True):
        steps = [1, *(radices(unit, extent, warps) if name == "x" else ()), extent]
        index: Expr = const(0)
        for low, high in pairwise(steps):
            if high // low < 2:
                continue
            digit = len([a for a in axes if a.name.startswith(f"t{name}")])
            axis = Axis(f"t{name}{digit or ''}", high // low)
            if name == "x" and high == 32 and low == 1 and (warps or extent == 32):
                axis = lane = Axis("lane", 32)
            elif name == "x" and lane is not None and low == 32 and high == extent:
                axis = Axis("warp", high // low)
            axes.append(axis)
            index = axis.lane * low + index if low > 1 else axis.lane
        place.append(index)
    if not axes:
        axes.append(Axis("tx", 1))
    return tuple(reversed(axes)), place, lane


def _kernel(
    text: Text,
    launch: BoundLaunch,
    number: int,
    bound: BoundPlan,
    file: str,
    source: str,
    known: Mapping[Expr, Expr],
    views: Mapping[str, Buffer],
) -> tuple[Loops, Kernel]:
    unit = text.unit
    f = unit.kernel(launch.kernel)
    if f is None:
        raise ImportRefusal(f"there is no kernel {launch.kernel}", file)
    names = [c.kernel for c in bound.launches]
    name = f.name if names.count(f.name) == 1 else f"{f.name}_{number}"
    block = [int(n) for n in launch.extra.get("block", ())]
    if not block:
        raise ImportRefusal("the plan's launch has no block", "candidate.json")
    axes, place, lane = thread_axes(unit, block, WARPS.search(source) is not None)
    builder = Builder(name, launch.grid, "lane", axes)
    reader = Loops(file, name, builder, axes, known, views)
    for fact in bound.facts:
        stated = ALIGNED.fullmatch(str(fact.attr)) if fact.op == "param" else None
        if stated:
            reader.aligned_to[stated[1]] = int(stated[2])
    reader.unit, reader.lane, reader.source = unit, lane, source
    reader.env, reader.types, reader.shared = {}, {}, {}
    reader.depth, reader.results, reader.base = 0, [], 0
    reader.outer, reader.dynamic = text.outer, _shared_bytes(launch, bound)
    reader.result_type = CType("void")
    reader.at(f.line)
    extents = [const(n) for n in (*block, 1, 1)[:3]]
    grid = [*launch.grid, const(1), const(1)][:3]
    ids = [pid(d) if d < len(launch.grid) else const(0) for d in range(3)]
    reader.places = {
        "threadIdx": dict(zip("xyz", place, strict=True)),
        "blockIdx": dict(zip("xyz", ids, strict=True)),
        "blockDim": dict(zip("xyz", extents, strict=True)),
        "gridDim": dict(zip("xyz", grid, strict=True)),
    }
    _launchable(reader, f, source, block, grid)
    _arguments(reader, f, launch, known)
    try:
        reader.statement(f.body)
    except ExprError as e:
        raise reader.refuse(str(e)) from None
    for base, said in reader.based.items():
        builder.check(base, "align", said)
    return reader, builder.kernel()


def _launchable(
    reader: Loops, f: Function, source: str, block: Sequence[int], grid: Sequence[Expr]
) -> None:
    """The device takes the launch: extents of its grid and of its block."""
    threads = 1
    for n in block:
        threads *= n
    most = THREADS
    found = re.search(rf"__launch_bounds__\s*\(\s*(\d+)[^)]*\)\s*(?:\w+\s+)*{f.name}\b", source)
    if found:
        most = min(most, int(found[1]))
    if threads > most or any(n > m for n, m in zip(block, (1024, 1024, 64), strict=False)):
        reader.builder.check(const(False), "mask", f"a block has at most {most} threads")
    for e, limit in zip(grid, MOST, strict=True):
        if (reader.bounds(e)[1] or limit + 1) > limit:
            reader.builder.check(call("le", e, limit), "mask", f"a grid has at most {limit} blocks")


def _arguments(reader: Loops, f: Function, launch: BoundLaunch, known: Mapping[Expr, Expr]) -> None:
    for (number, name, t), given in zip(f.parameters, launch.args, strict=True):
        reader.types[number] = t
        reader.env[number] = _argument(reader, name, t, given, known)


def _argument(
    reader: Loops, name: str, t: CType, given: Buffer | Scalar, known: Mapping[Expr, Expr]
) -> Sym:
    if isinstance(given, Buffer):
        if t.kind != "pointer" or t.of is None:
            raise reader.refuse(f"the plan passes {given.name} for {name}, which is no pointer")
        reader.builder.buffer(reader.views.get(given.name, given))
        return Pointer(given, const(0), t.of)
    if t.kind == "pointer":
        raise reader.refuse(f"the plan passes a number for {name}, which is a pointer")
    e = substitute(given.expr, dict(known))
    if given.expr.kind == "int" and t.is_integer:
        if given.dtype.bits != t.bits:
            hint = f"; write i32({name})" if t.bits == 32 else ""
            raise reader.refuse(f"the plan passes {given.dtype} for {name}, which is {t}{hint}")
        return reader.fitting(given.expr, t)
    if given.expr.kind == "bool" and t.kind == "bool":
        return given.expr
    if t.kind == "real" and e.kind in ("real", "int"):
        wanted = dtype_of(t)
        if e.kind == "real" and given.dtype != wanted and given.expr.op != "const":
            raise reader.refuse(f"the plan passes {given.dtype} for {name}, which is {t}")
        return reader.value(given.expr, wanted)
    raise reader.refuse(f"the plan passes {given.dtype} for {name}, which is {t}")
