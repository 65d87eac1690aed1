"""Times of block programs that nobody ran: a roofline over traffic and arithmetic of the TileIR,
with what compilers report of the kernels, waves of programs, occupancy and latency.

Programs are sampled over the grid and loops at their middle iteration; bytes are those of the
memory sectors that lanes touch. Everything that comes from here is an estimate and is labelled
"modelled" wherever it is shown: it orders candidates and judges none.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from opwright.compiler.devices import DEVICES, Device
from opwright.ir.expr import TRUE, Expr, ExprError, evaluate, pid
from opwright.ir.formulas import compulsory_bytes, flops
from opwright.ir.op import Operator
from opwright.ir.semantics import ROWS
from opwright.ir.tile import (
    Atomic,
    Axis,
    Buffer,
    Def,
    For,
    If,
    Kernel,
    Stmt,
    Store,
    TileProgram,
    Value,
    access_axes,
    lanes,
    row_major,
)

SECTOR = 32  # bytes: the least that a device moves
SAMPLES = 3  # programs looked at along each axis of the grid
LANES = 64  # lanes looked at of a mask
SPECIAL = 16  # functions that a multiprocessor computes in a cycle
ENOUGH = 0.25  # share of the warps that hides the latency of memory
Resources = Mapping[str, Mapping[str, Any]]  # of each kernel: registers, shared, ...


@dataclass(slots=True)
class Counts:
    """Bytes by buffer as the program asks for them, operations by type, products by type, and how
    often bodies of innermost loops run."""

    moved: dict[str, float] = field(default_factory=dict)
    operations: dict[str, float] = field(default_factory=dict)
    products: dict[str, float] = field(default_factory=dict)
    turns: float = 0.0

    def add(self, other: Counts, factor: float) -> None:
        for mine, theirs in (
            (self.moved, other.moved),
            (self.operations, other.operations),
            (self.products, other.products),
        ):
            for k, v in theirs.items():
                mine[k] = mine.get(k, 0.0) + factor * v
        self.turns += factor * other.turns


@dataclass(frozen=True, slots=True)
class Part:
    """One kernel of an estimate: seconds of each bound if it were the only one (of all its
    programs, but `chain`: of one program after the other), and how the device is filled."""

    kernel: str
    terms: Mapping[str, float]
    seconds: float
    waves: float
    resident: int
    occupancy: float
    limit: str  # what keeps a multiprocessor from holding more programs

    @property
    def bottleneck(self) -> str:
        return max(self.terms, key=lambda n: self.terms[n]) if self.terms else "launch"


@dataclass(frozen=True, slots=True)
class Estimate:
    """Seconds of a call, never measured, and what they are made of."""

    seconds: float
    floor: float
    parts: tuple[Part, ...]
    launches: float

    @property
    def bottleneck(self) -> str:
        """What takes the longest: a bound of a kernel, or launching them all."""
        longest = max(self.parts, key=lambda p: p.seconds, default=None)
        inside = sum(p.seconds for p in self.parts) - self.launches
        return "launch" if longest is None or self.launches > inside else longest.bottleneck

    @property
    def bound(self) -> str:
        """memory | compute | latency"""
        return BOUNDS[self.bottleneck]

    @property
    def headroom(self) -> float:
        """How many times the least that the operator needs on the device an estimate is."""
        return self.seconds / self.floor if self.floor else math.inf


BOUNDS = {
    "memory": "memory", "cache": "memory", "arithmetic": "compute", "products": "compute",
    "issue": "compute", "special": "compute", "chain": "latency", "launch": "latency",
}  # fmt: skip


def modelled(
    op: Operator,
    program: TileProgram,
    sizes: Mapping[str, int],
    params: Mapping[str, Any],
    target: str,
    resources: Resources,
) -> float:
    """Seconds of one call in dense memory on the device that stands for a target."""
    return estimate(op, program, sizes, params, target, resources).seconds


def estimate(
    op: Operator,
    program: TileProgram,
    sizes: Mapping[str, int],
    params: Mapping[str, Any],
    target: str,
    resources: Resources,
) -> Estimate:
    """The time of one call in dense memory, and why. `resources` may have `executed`, how many
    instructions of each unit a thread executes, beside what compilers report."""
    device = DEVICES[target]
    env = dense(op, sizes, params)
    parts = []
    for k, p in zip(program.kernels, program.placements, strict=True):
        own = dict(resources.get(k.name, {}))
        own.setdefault("num_warps", p.launch.get("num_warps", 4))
        own.setdefault("num_stages", p.launch.get("num_stages", 1))
        parts.append(_kernel(k, env, device, own))
    launches = device.launch * sum(bool(p.terms) for p in parts)
    return Estimate(sum(p.seconds for p in parts), floor(op, env, device), tuple(parts), launches)


def dense(op: Operator, sizes: Mapping[str, int], params: Mapping[str, Any]) -> dict[Any, Any]:
    """Sizes and params with the strides of dense tensors."""
    env: dict[Any, Any] = {**params, **sizes}
    for t in (*op.inputs, *op.outputs):
        for n, step in enumerate(row_major(t.shape)):
            env[t.name, n] = int(evaluate(step, env))
    return env


def floor(op: Operator, env: Mapping[Any, Any], device: Device) -> float:
    """The least seconds of an operator on a device: every byte once, every operation at the best
    rate of its inputs' type."""
    plain = {k: v for k, v in env.items() if isinstance(k, str)}
    moved = float(evaluate(compulsory_bytes(op), plain))
    work = float(evaluate(flops(op), plain))
    kinds = [t.dtype.name for t in op.inputs if t.kind == "real"]
    rate = max(
        [device.rates["f64" if "f64" in kinds else "f32"]]
        + [device.products[k] for k in kinds if k in device.products]
    )
    return max(moved / device.memory, work / rate) * 1e-12


def _kernel(k: Kernel, env: Mapping[Any, Any], device: Device, own: Mapping[str, Any]) -> Part:
    grid = [max(int(evaluate(g, env)), 0) for g in k.grid]
    programs = math.prod(grid)
    resident, share, limit = occupancy(device, own)
    if not programs:
        return Part(k.name, {}, 0.0, 0.0, resident, share, limit)
    counts = counted(k, env, grid)
    sizes = {b.name: _bytes(b, env) for b in k.buffers}
    memory = sum(_reread(v, sizes[n], device) for n, v in counts.moved.items())
    arithmetic = sum(v / device.rates["f64" if n == "f64" else "f32"]
                     for n, v in counts.operations.items())  # fmt: skip
    products = sum(
        v / device.products.get(n, device.rates["f64" if n == "f64" else "f32"])
        for n, v in counts.products.items()
    )
    waves = programs / (device.multiprocessors * resident)
    busy = waves / math.ceil(waves) if waves > 1 else min(1.0, programs / device.multiprocessors)
    hidden = min(1.0, share / ENOUGH)
    # what compilers report of spills is text; it runs in every turn of a loop
    warps = int(own["num_warps"])
    spills = float(own.get("spill_stores", 0) + own.get("spill_loads", 0))
    asked = sum(counts.moved.values())
    asked += spills * warps * device.warp * max(counts.turns, programs)
    terms = {
        "memory": memory / device.memory / hidden,
        "cache": asked / device.cache_rate / hidden,
        "arithmetic": arithmetic,
        "products": products,
    }
    executed: Mapping[str, float] = own.get("executed", {})
    cycles = device.multiprocessors * device.clock * 1e-3  # 1e12 a second
    if executed:
        terms["issue"] = sum(executed.values()) * warps * programs / (device.issue * cycles)
        special = executed.get("special", 0.0) * warps * programs
        terms["special"] = special * device.warp / (SPECIAL * cycles)
    terms = {n: t * 1e-12 / busy for n, t in terms.items()}
    # requests of one program wait for each other, but for those that are asked for ahead
    ahead = max(1, int(own.get("num_stages", 1)) - 1) if counts.products else 1
    turns = counts.turns / programs
    terms["chain"] = math.ceil(waves) * device.latency * (1 + turns / ahead)
    seconds = device.launch + max(terms.values())
    return Part(k.name, terms, seconds, waves, resident, share, limit)


def _reread(asked: float, size: float, device: Device) -> float:
    """Bytes from memory: once where the buffer stays in the cache, else between that and all that
    is asked for."""
    if asked <= size or size <= device.cache:
        return min(asked, size)
    return math.sqrt(asked * size)


def _bytes(b: Buffer, env: Mapping[Any, Any]) -> float:
    return float(math.prod(int(evaluate(s, env)) for s in b.shape) * b.dtype.bytes)


def occupancy(device: Device, own: Mapping[str, Any]) -> tuple[int, float, str]:
    """(programs that a multiprocessor holds, its share of warps in use, what limits them)."""
    warps = int(own.get("num_warps", 4))
    limits = {"warps": device.warps // warps}
    if own.get("registers"):
        limits["registers"] = device.registers // (int(own["registers"]) * warps * device.warp)
    if own.get("shared"):
        limits["shared memory"] = device.shared // int(own["shared"])
    limit = min(limits, key=lambda n: limits[n])
    resident = max(1, limits[limit])
    return resident, min(1.0, resident * warps / device.warps), limit


def counted(k: Kernel, env: Mapping[Any, Any], grid: Sequence[int]) -> Counts:
    """What all programs of a grid ask for, from a few of them."""
    total = Counts()
    for first, last in itertools.pairwise([0, *parts(k, env, grid[0] if grid else 1)]):
        spots = [_spots(0, n) for n in grid]
        spots[:1] = [_spots(first, last)] * bool(grid)
        found = list(itertools.product(*spots))
        programs = (last - first) * math.prod(grid[1:])
        for at in found:
            here = {**env, **dict(enumerate(at))}
            total.add(_Counter(here).body(k.body), programs / len(found))
    return total


def _spots(lo: int, hi: int) -> list[int]:
    return sorted({lo, (lo + hi) // 2, hi - 1})[:SAMPLES]


def parts(k: Kernel, env: Mapping[Any, Any], count: int) -> list[int]:
    """Where the programs along the first dimension end that run one of several bodies."""
    ends: set[int] = set()
    body = k.body
    while len(body) == 1 and isinstance(body[0], If):
        cond = body[0].cond
        if cond.op == "lt" and cond.args[0] is pid(0):
            ends.add(int(evaluate(cond.args[1], env)))
        body = body[0].other
    return sorted(n for n in {*ends, count} if 0 < n <= count)


class _Counter:
    def __init__(self, env: Mapping[Any, Any]) -> None:
        self.env = dict(env)
        self.rng = Random(0)

    def body(self, statements: Sequence[Stmt]) -> Counts:
        out = Counts()
        for s in statements:
            if isinstance(s, Def):
                self.value(s.value, out)
            elif isinstance(s, (Store, Atomic)):
                self.access(s.buffer, s.index, s.mask, access_axes(s), out)
            elif isinstance(s, For):
                self.loop(s, out)
            elif isinstance(s, If):
                out.add(self.body(s.then if self.truth(s.cond) else s.other), 1.0)
        return out

    def loop(self, s: For, out: Counts) -> None:
        try:
            lo, hi = int(evaluate(s.lo, self.env)), int(evaluate(s.hi, self.env))
        except (KeyError, ExprError):
            lo, hi = 0, 16 * s.step  # a bound that depends on data
        trips = max(0, -(-(hi - lo) // s.step))
        if trips:
            self.env[s.variable] = lo + trips // 2 * s.step
            inner = self.body(s.body)
            inner.turns = inner.turns or 1.0
            out.add(inner, trips)

    def truth(self, cond: Expr) -> bool:
        try:
            return bool(np.all(evaluate(cond, self.env)))
        except (KeyError, ExprError):
            return True

    def value(self, v: Value, out: Counts) -> None:
        if v.op == "load":
            axes = v.axes
            self.access(v.attr.buffer, v.attr.index, v.attr.mask, axes, out)
            return
        count = float(math.prod(a.extent for a in v.axes))
        if v.op == "dot":
            kind = v.attr.precision if v.attr.precision == "tf32" else v.args[0].dtype.name
            whole = count * v.attr.axis.extent * 2
            out.products[kind] = out.products.get(kind, 0.0) + whole
        elif v.op in ("reduce", "argreduce", "scan"):
            axes = v.args[0].axes
            self.work(v.dtype.name, float(math.prod(a.extent for a in axes)), out)
        elif v.op in ROWS and v.dtype.kind == "real":
            self.work(v.dtype.name, count * ROWS[v.op].flops, out)

    @staticmethod
    def work(kind: str, count: float, out: Counts) -> None:
        out.operations[kind] = out.operations.get(kind, 0.0) + count

    def access(
        self, b: Buffer, index: Sequence[Expr], mask: Expr, axes: Sequence[Axis], out: Counts
    ) -> None:
        """Bytes of the sectors that the lanes touch, where the mask lets them."""
        axes = tuple(dict.fromkeys((*axes, *lanes(*index, mask))))
        item = b.dtype.bytes
        steps = [self.step(b, index, a) for a in axes]
        count, least = 1.0, float(SECTOR)
        for a, step in zip(axes, steps, strict=True):
            if step == 0:
                continue  # the same element: one request serves all
            count *= a.extent
            least = min(least, abs(step) * item if step is not None else float(SECTOR))
        whole = count * max(float(item), least) if count > 1 else float(SECTOR)
        out.moved[b.name] = out.moved.get(b.name, 0.0) + whole * self.share(mask, axes)

    def step(self, b: Buffer, index: Sequence[Expr], axis: Axis) -> int | None:
        """Elements between neighbouring lanes; None where data decides."""
        if axis.extent < 2:
            return 0
        where = []
        for lane in (0, 1):
            here = {**self.env, **{a.lane: 0 for a in lanes(*index)}, axis.lane: lane}
            try:
                flat = [int(evaluate(i, here)) for i in index]
                steps = [int(evaluate(s, self.env)) for s in b.strides or row_major(b.shape)]
            except (KeyError, ExprError):
                return None
            where.append(sum(i * s for i, s in zip(flat, steps, strict=True)))
        return where[1] - where[0]

    def share(self, mask: Expr, axes: Sequence[Axis]) -> float:
        """The share of lanes that a mask lets through."""
        if mask is TRUE:
            return 1.0
        here = dict(self.env)
        for a in axes:
            here[a.lane] = np.array([self.rng.randrange(a.extent) for _ in range(LANES)])
        try:
            return float(np.mean(np.broadcast_to(evaluate(mask, here), (LANES,))))
        except (KeyError, ExprError):
            return 1.0
