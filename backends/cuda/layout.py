"""Where the elements of a block program's tiles live: which thread holds them, in which registers.

Every axis of a kernel is cut into digits: lane = (register * threads + thread) * vector + offset.
All tiles of a kernel share the digits of their axes, so that elementwise operations need no
exchange; a tile that lacks an axis is held by all threads of it. Where tiles are multiplied, axes
of which no thread holds a tile together are counted by the same threads. `launch` of a placement
may say `threads_AXIS` and `vec_AXIS`; what it leaves open is dealt out here, to `num_warps` warps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from opwright.backends.cpp.scalar import PrintError
from opwright.backends.cuda.staging import Staged, slots_of, staged_of
from opwright.ir.expr import Expr, const, var
from opwright.ir.tile import Axis, Kernel, Placement

WARP = 32
MOST = 1024  # threads of a block


@dataclass(frozen=True, slots=True)
class Digits:
    """How one axis is cut: lane = (register * threads + thread) * vector + offset. `step` is the
    distance, in threads of the block, between threads that are next to each other along it."""

    axis: Axis
    registers: int
    threads: int
    vector: int
    step: int

    @property
    def name(self) -> str:
        """What the thread's digit is called among the leaves of expressions."""
        return f"\0thread {self.axis.name}"

    def lane(self, register: int, offset: int) -> Expr:
        """The lane that a thread has in a register."""
        first = const(register * self.threads * self.vector + offset)
        if self.threads == 1:
            return first
        thread = var(self.name)
        return (thread if self.vector == 1 else thread * self.vector) + first

    @property
    def places(self) -> list[tuple[int, int]]:
        """(register, offset) of all elements that a thread holds along the axis."""
        return list(itertools.product(range(self.registers), range(self.vector)))


At = Mapping[Axis, tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Layout:
    """The digits of every axis of a kernel; `threads` is the size of its block."""

    digits: Mapping[Axis, Digits]
    threads: int
    staged: Staged = field(default_factory=Staged)

    def coordinates(self, axes: Iterable[Axis]) -> Iterator[dict[Axis, tuple[int, int]]]:
        """Elements that one thread holds of a tile over these axes."""
        axes = tuple(axes)
        for c in itertools.product(*(self.digits[a].places for a in axes)):
            yield dict(zip(axes, c, strict=True))

    def replicas(self, axes: Iterable[Axis]) -> list[Digits]:
        """Digits of threads that hold the same elements of a tile over these axes."""
        told: list[Digits] = [self.digits[a] for a in axes]
        out: list[Digits] = []
        for d in self.digits.values():
            if d.threads > 1 and not any(_share(d, x) for x in (*told, *out)):
                out.append(d)
        return out


def _share(a: Digits, b: Digits) -> bool:
    """Whether two axes are counted by the same threads."""
    return a.step == b.step and a.threads == b.threads


def layout_of(kernel: Kernel, placement: Placement, axes: tuple[Axis, ...]) -> Layout:
    """Threads go to the last axes first, so that neighbours touch neighbouring elements. PrintError
    where a placement does not fit."""
    for a in axes:
        if a.extent & (a.extent - 1):
            raise PrintError(f"axis {a.name}: {a.extent} is no power of two")
    staged = staged_of(kernel)
    wanted = WARP * placement.launch.get("num_warps", 4)
    if staged.factors:
        return _square(staged, wanted, axes)
    vectors = {a: placement.launch.get(f"vec_{a.name}", 1) for a in axes}
    room = 1
    for a in axes:
        room *= max(a.extent // vectors[a], 1)
    wanted = min(wanted, room)
    if wanted < WARP and "num_warps" in placement.launch:
        wanted = 1  # less than a warp: one thread has it all
    left = wanted
    digits: dict[Axis, Digits] = {}
    step = 1
    for a in reversed(axes):
        most = min(max(a.extent // vectors[a], 1), left)
        threads = placement.launch.get(f"threads_{a.name}", most)
        left = max(1, left // threads)
        registers, rest = divmod(a.extent, threads * vectors[a])
        if rest or registers < 1:
            what = f"{threads} times {vectors[a]}"
            raise PrintError(f"axis {a.name} of {a.extent} lanes is not {what}")
        digits[a] = Digits(a, registers, threads, vectors[a], step)
        step *= threads
    if step > MOST:
        raise PrintError(f"{kernel.name}: {step} threads, and a block has at most {MOST}")
    return Layout({a: digits[a] for a in axes}, step)


def _square(staged: Staged, wanted: int, axes: tuple[Axis, ...]) -> Layout:
    """Threads of a kernel that multiplies tiles: each of them holds a part of the result that is
    about as tall as it is wide, so that it is made of few elements of the factors."""
    slots = slots_of(staged, axes)
    extents = [min(a.extent for a in s) for s in slots]
    widest = [max(a.extent for a in s) for s in slots]
    counts = [1 for _ in slots]
    if len(slots) == 1:
        counts[0] = min(wanted, extents[0])
    elif slots:
        held = max(1, widest[0] * widest[1] // wanted)
        wide = 1 << (held.bit_length() - 1) // 2
        counts[0] = max(min(extents[0], widest[0] // wide, wanted), 1)
        counts[1] = min(extents[1], max(1, wanted // counts[0]))
    digits = {a: Digits(a, a.extent, 1, 1, 1) for a in axes}
    step = 1
    for slot, count in zip(slots, counts, strict=True):
        for a in slot:
            vector = min(4, a.extent // count)
            digits[a] = Digits(a, a.extent // (count * vector), count, vector, step)
        step *= count
    if step > MOST or step % WARP:
        raise PrintError(f"{step} threads: a block has at most {MOST}, in whole warps")
    return Layout(digits, step, staged)
