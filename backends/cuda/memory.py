"""Memory of CUDA kernels: addresses become logical indices; vector accesses, shared arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from opwright.backends.cpp.clang import CType
from opwright.backends.cuda.values import Pointer, Sym, Values, Vector, dtype_of
from opwright.ir.delinearize import logical_index, settled, strides_of
from opwright.ir.expr import Expr, call, conjunction, const, param, substitute
from opwright.ir.polynomial import expression, polynomial
from opwright.ir.tile import Axis, Buffer, Builder

SCALARS = ("real", "int", "uint", "bool")


class Memory(Values):
    """Loads, stores and atomics of one kernel."""

    def __init__(
        self,
        file: str,
        kernel: str,
        builder: Builder,
        threads: tuple[Axis, ...],
        known: Mapping[Expr, Expr],
        views: Mapping[str, Buffer],
    ) -> None:
        super().__init__(file, kernel, builder, threads)
        self.known, self.views = known, views
        self.offsets: dict[str, list[Expr]] = {}
        self.failed: dict[str, int] = {}
        self.assumes: dict[str, None] = {}
        self.aligned_to: dict[str, int] = {}  # bytes, as facts state them of buffers
        self.based: dict[Expr, str] = {}  # alignments of buffers, obligations of the whole kernel

    # -- places
    def place(self, p: Pointer, offset: Expr) -> tuple[Buffer, tuple[Expr, ...]]:
        """The buffer as the program sees it, and the logical index of an address."""
        b = p.buffer
        if b.role == "program":
            index = (*p.prefix, offset)
            if len(index) != len(b.shape):
                raise self.refuse(f"an element of {b.name} needs {len(b.shape)} indices")
            return b, index
        self.offsets.setdefault(b.name, []).append(offset)
        view = self.views.get(b.name, b)
        if len(view.shape) == 1 < len(b.shape):
            return view, (substitute(offset, dict(self.known)),)
        found = logical_index(offset, view, (), self.known)
        if found is None:
            self.failed.setdefault(b.name, self.line)
            return view, (const(0),) * len(view.shape)
        return view, settled(found, view, self.known, self.mask())

    def count(self, p: Pointer) -> tuple[int, bool]:
        """Elements of the buffer in one unit, and whether they are only to be copied."""
        unit, own = p.unit, p.buffer.dtype
        scalar = unit.scalar
        if scalar.kind not in SCALARS:
            raise self.refuse(f"an access through an address of {unit}")
        if dtype_of(scalar) == own:
            return (unit.count if unit.kind == "vector" else 1), False
        size = scalar.bits // 8 * (unit.count if unit.kind == "vector" else 1)
        if size % own.bytes or size < own.bytes:
            raise self.refuse(f"{p.buffer.name} holds {own}, and is read as {unit}")
        return size // own.bytes, True

    def moved(self, p: Pointer, by: Expr) -> Pointer:
        """An address so many units further."""
        n, _ = self.count(p)
        return replace(p, offset=p.offset + by * n if n > 1 else p.offset + by)

    def aligned(self, p: Pointer, n: int) -> None:
        """A vector access starts at a multiple of its size."""
        b = p.buffer
        needed = n * b.dtype.bytes
        goal = call("eq", p.offset % n, 0)
        if b.role == "program" and p.prefix:  # rows follow one another
            total, far = p.offset, const(1)
            for at, extent in zip(p.prefix[::-1], b.shape[:0:-1], strict=True):
                far = far * extent
                total = total + at * far
            goal = call("eq", expression(polynomial(total)) % n, 0)
        if b.role != "program":  # it is enough that rows and the place in a row are multiples
            view, index = self.place(p, p.offset)
            steps = strides_of(view, self.known)[:-1]
            rows = [call("eq", s % n, 0) for s in steps if s.op != "const" or s.attr % n]
            goal = call("or", goal, conjunction([*rows, call("eq", index[-1] % n, 0)]))
        if b.role != "program":
            stated = self.aligned_to.get(b.name, needed)
            most = needed if stated % needed else stated  # a fact that says more says this
            base = param(f"aligned({b.name}, {most})", "bool")
            self.based[base] = f"{b.name} starts at a multiple of {needed} bytes"
        elif p.aligned < needed:
            self.assumes["shared arrays start at multiples of 16 bytes"] = None
        self.check(goal, "align", f"{needed} bytes of {b.name} start at a multiple of {needed}")

    # -- accesses
    def load(self, p: Pointer) -> Sym:
        n, raw = self.count(p)
        if n == 1 and p.unit.kind != "vector" and not raw:
            return self.element(p, p.offset)
        if n > 1:
            self.aligned(p, n)
        parts = tuple(self.element(p, p.offset + k) for k in range(n))
        return Vector(parts, p.unit, raw)

    def element(self, p: Pointer, offset: Expr) -> Sym:
        b, index = self.place(p, offset)
        mask = self.mask()
        v = self.builder.load(b, *index, mask=mask)
        return v if b.dtype.kind == "real" else self.leaf(v)

    def store(self, p: Pointer, x: Sym, t: CType) -> None:
        n, raw = self.count(p)
        if n == 1 and p.unit.kind != "vector" and not raw:
            self.put(p, p.offset, self.convert(x, t, p.unit))
            return
        if not isinstance(x, Vector) or len(x.parts) != n or x.raw != raw:
            raise self.refuse(f"{p.buffer.name} is written as {p.unit}")
        if n > 1:
            self.aligned(p, n)
        for k, part in enumerate(x.parts):
            self.put(p, p.offset + k, part)

    def put(self, p: Pointer, offset: Expr, x: Sym) -> None:
        b, index = self.place(p, offset)
        self.builder.store(b, *index, self.value(x, b.dtype), mask=self.mask())

    def combine(self, monoid: str, p: Pointer, x: Sym) -> None:
        if self.count(p) != (1, False):
            raise self.refuse("an atomic on something that is no element")
        b, index = self.place(p, p.offset)
        self.builder.atomic(monoid, b, *index, self.value(x, b.dtype), mask=self.mask())
