"""Where the elements of a block program's tiles live: which thread holds them, in which registers.

Every axis of a kernel is cut into digits: lane = (register * threads + thread) * vector + offset.
All tiles of a kernel share the digits of their axes, so that elementwise operations need no
exchange; a tile that lacks an axis is held by all threads of it. `launch` of a placement may say
`threads_AXIS` and `vec_AXIS`; what it leaves open is dealt out here, to `num_warps` warps.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from opwright.backends.cpp.scalar import PrintError
from opwright.ir.expr import Expr, const, var
from opwright.ir.tile import Axis, Def, Kernel, Placement, statements

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

    def coordinates(self, axes: Iterable[Axis]) -> Iterator[dict[Axis, tuple[int, int]]]:
        """Elements that one thread holds of a tile over these axes."""
        axes = tuple(axes)
        for c in itertools.product(*(self.digits[a].places for a in axes)):
            yield dict(zip(axes, c, strict=True))

    def replicas(self, axes: Iterable[Axis]) -> list[Digits]:
        """Digits of threads that hold the same elements of a tile over these axes."""
        own = set(axes)
        return [d for a, d in self.digits.items() if a not in own and d.threads > 1]


def layout_of(kernel: Kernel, placement: Placement, axes: tuple[Axis, ...]) -> Layout:
    """Threads go to the last axes first, so that neighbours touch neighbouring elements; an axis
    that is contracted stays within a thread. PrintError where a placement does not fit."""
    wanted = WARP * placement.launch.get("num_warps", 4)
    inner = {
        s.value.attr.axis
        for s in statements(kernel.body)
        if isinstance(s, Def) and s.value.op == "dot"
    }
    for a in axes:
        if a.extent & (a.extent - 1):
            raise PrintError(f"axis {a.name}: {a.extent} is no power of two")
    free = [a for a in axes if a not in inner]
    room = 1
    for a in free:
        room *= a.extent
    wanted = min(wanted, room)
    if wanted < WARP and "num_warps" in placement.launch:
        wanted = 1  # less than a warp: one thread has it all
    given: dict[Axis, int] = {}
    left = wanted
    square = len(inner) > 0 and len(free) > 1
    for n, a in enumerate(reversed(free)):
        most = min(a.extent, left)
        if square and n == 0:
            most = min(most, max(WARP // 2, 1 << (wanted.bit_length() // 2)))
        given[a] = placement.launch.get(f"threads_{a.name}", most)
        left = max(1, left // given[a])
    digits: dict[Axis, Digits] = {}
    step = 1
    for a in reversed(axes):
        threads = given.get(a, 1)
        vector = placement.launch.get(f"vec_{a.name}", 1)
        registers, rest = divmod(a.extent, threads * vector)
        if rest or registers < 1:
            raise PrintError(f"axis {a.name} of {a.extent} lanes is not {threads} times {vector}")
        digits[a] = Digits(a, registers, threads, vector, step)
        step *= threads
    if step > MOST:
        raise PrintError(f"{kernel.name}: {step} threads, and a block has at most {MOST}")
    return Layout({a: digits[a] for a in axes}, step)
