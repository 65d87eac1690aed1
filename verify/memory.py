"""The memory of one test call: buffers between canaries, poisoned outputs, and what a call damaged.

A frame lays all buffers of a call into one block of bytes (its own, or shared memory that another
process maps). Every byte that is no element of an output must be the same after the call. Layouts
with guards put every buffer against pages that whoever makes the call can forbid to touch.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.dtypes import DType
from opwright.ir.expr import Expr, evaluate, leaves
from opwright.ir.op import Operator, Tensor
from opwright.verify.inputs import Case
from opwright.verify.sizes import shape_of

Array = NDArray[Any]

GUARD = 256  # bytes of canary around every buffer
ALIGN = 64
PAGE = mmap.PAGESIZE
GUARDED = ("end", "start")  # the end of every buffer that lies against a forbidden page
LAYOUTS = ("dense", "offset", "rows", "gapped", "aliased", *GUARDED)
POISONS = {"nan": 0xFF, "a5": 0xA5}  # all ones is a NaN in every float format and -1 in integers


@dataclass(frozen=True, slots=True)
class Slot:
    """One buffer of a frame: `offset` is the byte of its first element, strides are in elements."""

    name: str
    role: str  # in | out
    dtype: DType
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    @property
    def item(self) -> int:
        return int(np.dtype(self.dtype.storage).itemsize)

    @property
    def span(self) -> int:
        """Bytes from the first to past the last element; 0 when there is none."""
        if 0 in self.shape:
            return 0
        steps = sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        return (steps + 1) * self.item


def dense_strides(t: Tensor, shape: Sequence[int]) -> tuple[int, ...]:
    """Strides in elements of a contiguous tensor in its declared memory order."""
    rank = len(shape)
    order = list(range(rank))  # outermost first
    if t.layout == "col" and rank >= 2:
        order[-2:] = [rank - 1, rank - 2]
    elif t.layout in ("nhwc", "ndhwc", "channels_last") and rank >= 3:
        order = [0, *range(2, rank), 1]
    return _strides(order, shape, [0] * rank, 1)


def _strides(
    order: Sequence[int], shape: Sequence[int], pad: Sequence[int], step: int
) -> tuple[int, ...]:
    out = [0] * len(shape)
    for axis in reversed(order):
        out[axis] = step
        step *= max(shape[axis], 1) + pad[axis]
    return tuple(out)


def _placed(t: Tensor, shape: Sequence[int], layout: str) -> tuple[int, ...]:
    dense = dense_strides(t, shape)
    if layout not in ("rows", "gapped") or not shape:
        return dense
    order = sorted(range(len(shape)), key=lambda a: (-dense[a], a))
    pad = [0] * len(shape)
    if layout == "rows":  # the inner axis stays contiguous, a row ends in a gap
        pad[order[-1]] = 3
        return _strides(order, shape, pad, 1)
    return _strides(order, shape, [1] * len(shape), 2)


def slots(op: Operator, case: Case, layout: str = "dense", base: int = 0) -> tuple[list[Slot], int]:
    """Where every input and output of a call lies, and the bytes that takes, canaries included.

    Layouts: dense; offset (first element off any alignment); rows (gaps between rows); gapped
    (every stride is wider than dense); aliased (an output that updates an input shares its memory);
    end and start (dense, that end of every buffer at the border of a page, see `guards`).
    """
    if layout not in LAYOUTS:
        raise ValueError(f"unknown layout {layout}")
    at = base
    found: dict[str, Slot] = {}
    for t in (*op.inputs, *op.outputs):
        role = "in" if t.role == "input" else "out"
        shape = shape_of(t, case.sizes, case.params)
        if layout == "aliased" and t.updates is not None:
            twin = found[t.updates]
            found[t.name] = Slot(t.name, role, t.dtype, shape, twin.strides, twin.offset)
            continue
        if layout in GUARDED:
            slot = Slot(t.name, role, t.dtype, shape, _placed(t, shape, layout), 0)
            first = -(-at // PAGE) * PAGE + PAGE
            last = first + max(-(-slot.span // PAGE), 1) * PAGE
            start = first if layout == "start" else last - slot.span
            found[t.name] = replace(slot, offset=start)
            at = last + PAGE
            continue
        item = int(np.dtype(t.dtype.storage).itemsize)
        at = -(-(at + GUARD) // ALIGN) * ALIGN
        start = at + (item if layout == "offset" else 0)
        slot = Slot(t.name, role, t.dtype, shape, _placed(t, shape, layout), start)
        found[t.name] = slot
        at = start + max(slot.span, item) + GUARD
    return list(found.values()), -(-at // ALIGN) * ALIGN - base


def guards(s: Slot, layout: str) -> dict[str, int]:
    """Pages beside a buffer that nothing may touch: which end -> the page's first byte."""
    if layout not in GUARDED:
        return {}
    inside = s.offset if s.span or layout == "start" else s.offset - 1
    first = inside // PAGE * PAGE
    last = -(-max(s.offset + s.span, first + 1) // PAGE) * PAGE
    return {"start": first - PAGE, "end": last}


def facts_hold(case: Case, where: Sequence[Slot], facts: Sequence[Expr]) -> bool:
    """Whether facts over sizes, params, strides and alignments hold for a call laid out like
    this.
    """
    env: dict[Any, Any] = {**case.params, **case.sizes}
    for s in where:
        env |= {(s.name, a): stride for a, stride in enumerate(s.strides)}
    offsets = {s.name: s.offset for s in where}
    for f in facts:
        for x in leaves(f, "param"):
            if str(x.attr).startswith("aligned("):
                name, _, number = str(x.attr)[8:-1].partition(",")
                env[x] = offsets[name.strip()] % int(number) == 0
        if not bool(evaluate(f, env)):
            return False
    return True


class Frame:
    """Buffers of one call in one block of memory; fill it, let the call run, then ask what
    happened.
    """

    def __init__(
        self, op: Operator, case: Case, layout: str = "dense", memory: Array | None = None
    ) -> None:
        self.op, self.case, self.layout = op, case, layout
        self.slots, self.nbytes = slots(op, case, layout)
        if memory is None:
            block = np.empty(self.nbytes + ALIGN, np.uint8)
            memory = block[-block.ctypes.data % ALIGN :]
        if len(memory) < self.nbytes:
            raise ValueError(f"a frame of {self.nbytes} bytes does not fit {len(memory)}")
        self.memory = memory[: self.nbytes]
        self._before: Array = self.memory[:0]

    def slot(self, name: str) -> Slot:
        for s in self.slots:
            if s.name == name:
                return s
        raise KeyError(name)

    def address(self, name: str) -> int:
        """The address of a buffer's first element in this process."""
        return int(self.memory.ctypes.data) + self.slot(name).offset

    @staticmethod
    def _raw(s: Slot, memory: Array) -> Array:
        if s.span == 0:
            return np.zeros(s.shape, f"u{s.item}")
        steps = tuple(x * s.item for x in s.strides)
        return np.ndarray(s.shape, f"u{s.item}", memory, s.offset, steps)

    def array(self, name: str) -> Array:
        """A view of a buffer in stored form with its strides."""
        s = self.slot(name)
        return self._raw(s, self.memory).view(s.dtype.storage)

    def satisfies(self, facts: Sequence[Expr]) -> bool:
        """Whether the facts of a variant hold for this call, so that it would be taken."""
        return facts_hold(self.case, self.slots, facts)

    def fill(self, seed: int, poison: str = "nan", watch: bool = True) -> None:
        """Inputs in place, outputs poisoned; `watch` puts canaries everywhere else and remembers it
        all for `damage`."""
        if watch:
            rng = np.random.default_rng([seed & 0xFFFFFFFF, len(poison)])
            block = rng.integers(0, 256, 4096, np.uint8)
            repeats = math.ceil(self.nbytes / len(block))
            self.memory[:] = np.tile(block, repeats)[: self.nbytes]
        for s in self.slots:
            if s.role == "out" and not self._shared(s):
                self._raw(s, self.memory)[...] = _all_ones(s.item) // 0xFF * POISONS[poison]
        for t in self.op.inputs:
            self.array(t.name)[...] = self.case.inputs[t.name]
        self._before = self.memory.copy() if watch else self.memory[:0]

    def _shared(self, s: Slot) -> bool:
        return any(o.role == "in" and o.offset == s.offset for o in self.slots)

    def outputs(self) -> dict[str, Array]:
        """Dense copies of the outputs in stored form."""
        return {t.name: self.array(t.name).copy(order="C") for t in self.op.outputs}

    def damage(self) -> tuple[list[str], list[str]]:
        """What the call changed and must not have: (inputs, other memory), one sentence each."""
        if len(self._before) != self.nbytes:
            raise ValueError("damage is known only after fill(watch=True)")
        writable = np.zeros(self.nbytes, np.uint8)
        for s in self.slots:
            if s.role == "out":
                self._raw(s, writable)[...] = _all_ones(s.item)
        changed = np.flatnonzero((self.memory != self._before) & (writable == 0))
        inputs: dict[str, str] = {}
        other: dict[str, str] = {}
        for byte in changed[:64]:
            s = self._nearest(int(byte))
            index = self._element(s, int(byte))
            if index is not None:
                inputs.setdefault(s.name, f"input {s.name}[{index}] was changed")
            else:
                other.setdefault(s.name, self._where(s, int(byte)))
        return list(inputs.values()), list(other.values())

    def _nearest(self, byte: int) -> Slot:
        def distance(s: Slot) -> int:
            return max(s.offset - byte, byte - (s.offset + s.span) + 1, 0)

        return min(self.slots, key=distance)

    @staticmethod
    def _element(s: Slot, byte: int) -> str | None:
        at = (byte - s.offset) // s.item
        if not 0 <= byte - s.offset < s.span:
            return None
        index = [0] * len(s.shape)
        for axis in sorted(range(len(s.shape)), key=lambda a: -s.strides[a]):
            index[axis] = min(at // s.strides[axis], s.shape[axis] - 1)
            at -= index[axis] * s.strides[axis]
        return ", ".join(map(str, index)) if at == 0 else None

    @staticmethod
    def _where(s: Slot, byte: int) -> str:
        if byte < s.offset:
            return f"{s.offset - byte} bytes before the start of {s.name} were overwritten"
        if byte >= s.offset + s.span:
            past = byte - (s.offset + s.span)
            return f"memory {past} bytes past the end of {s.name} was overwritten"
        return f"memory between the rows of {s.name} was overwritten"


def _all_ones(item: int) -> int:
    return (1 << (8 * item)) - 1


def unwritten(stored: Mapping[str, Array], poison: str) -> dict[str, int]:
    """How many elements of each output still hold the poison, by name."""
    out = {}
    for name, a in stored.items():
        item = a.dtype.itemsize
        pattern = _all_ones(item) // 0xFF * POISONS[poison]
        out[name] = int(np.count_nonzero(np.ascontiguousarray(a).view(f"u{item}") == pattern))
    return out
