"""Memory of an imported kernel: pointers become logical indices, accesses carry the path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from opwright.backends.cpp.clang import CType
from opwright.backends.cpp.importer_bits import Bits
from opwright.backends.cpp.importer_polynomials import tidy, written
from opwright.backends.cpp.importer_trips import Trip, most
from opwright.backends.cpp.importer_values import C, Pointer, dtype_of
from opwright.ir.delinearize import logical_index, strides_of
from opwright.ir.dtypes import DType, decode
from opwright.ir.expr import (
    ONE,
    TRUE,
    ZERO,
    Expr,
    call,
    const,
    leaf,
    leaves,
    param,
    pid,
    show,
    substitute,
)
from opwright.ir.launch import ImportRefusal
from opwright.ir.tile import (
    Axis,
    Buffer,
    Builder,
    Value,
)


class NoIndex(Exception):
    """An offset that the strides of a buffer do not divide: only a flat view may have it."""

    def __init__(self, buffer: str, refusal: ImportRefusal) -> None:
        super().__init__(buffer)
        self.buffer, self.refusal = buffer, refusal


class Memory(Bits):
    """Loads and stores; `known` is what the plan's facts say of strides and sizes."""

    def __init__(self, builder: Builder, file: str, known: Mapping[Expr, Expr]) -> None:
        super().__init__(builder, file)
        self.known = known
        self.trips: list[Trip] = []  # loops around what is being read
        self.facts: frozenset[Expr] = frozenset()
        self.of_vectors: set[str] = set()  # arrays of the text that hold vectors

    def holds_vectors(self, p: Pointer) -> bool:
        b = p.buffer
        return b.name in self.of_vectors and len(p.lead) < len(b.shape) - 1

    def elements(self, p: Pointer, t: CType) -> int:
        return 1 if self.holds_vectors(p) else super().elements(p, t)

    # -- addresses
    def indices(self, p: Pointer) -> tuple[Expr, ...]:
        """The logical index of an element."""
        b, lead = p.buffer, p.lead
        if len(lead) == len(b.shape):
            if p.offset is not ZERO:
                inside = call("eq", p.offset, 0)
                self.check(inside, "mask", f"{b.name} is one element")
            return lead
        if b.strides is None and len(b.shape) == len(lead) + 1:
            return (*lead, p.offset)
        found = self.once(("index", b, lead, p.offset), lambda: self.split(p))
        return (*lead, *found)

    def split(self, p: Pointer) -> tuple[Expr, ...]:
        """Indices of an offset along the axes that have no subscript of their own."""
        b, n = p.buffer, len(p.lead)
        rest = replace(b, shape=b.shape[n:], strides=None if b.strides is None else b.strides[n:])
        shape = tuple(substitute(e, self.known) for e in rest.shape)
        strides = strides_of(rest, self.known)
        found = written(substitute(p.offset, self.known), strides, shape)
        found = found or logical_index(p.offset, rest, known=self.known)
        if found is None:
            raise NoIndex(
                b.name,
                self.refuse(
                    f"the offset {show(tidy(p.offset))} into {b.name} is no index of its strides "
                    f"({', '.join(show(s) for s in strides)})"
                ),
            )
        return found

    def along(self, p: Pointer, lane: Expr) -> tuple[Expr, ...]:
        """The index of the element `lane` places further on."""
        at = list(self.indices(p))
        steps = strides_of(p.buffer, self.known)
        for n in reversed(range(len(at))):
            if steps[n] is ONE:
                at[n] = at[n] + lane
                return tuple(at)
        return self.indices(Pointer(p.buffer, p.lead, p.offset + lane))

    # -- accesses
    def element(self, b: Buffer, t: CType) -> None:
        """Refuse an access in another type than the buffer's."""
        want = b.dtype
        if want.kind == "real" and want.name not in ("f32", "f64", "tf32"):
            fits = t.scalar.kind == "uint" and t.scalar.bits == max(8, want.bits)
        elif want.kind == "bool":
            fits = t.scalar.kind == "bool" or (t.scalar.is_integer and t.scalar.bits == 8)
        else:
            fits = t.scalar.kind != "bool" and dtype_of(t).name == want.name.replace("tf32", "f32")
        if not fits:
            raise self.refuse(f"{b.name} holds {want}, not {t.scalar}")

    def load(self, p: Pointer, t: CType, mask: Expr = TRUE, other: Any = None) -> C:
        """Elements at a pointer; `t` a vector reads as many elements in a row."""
        self.element(p.buffer, t)
        vec = t.kind == "vector"
        at = self.along(p, self.axis(t.count).lane) if vec else self.indices(p)
        mask = call("and", self.path, mask)
        self.sound(*at, mask)
        zero: Any = {"real": 0.0, "int": 0, "bool": False}[p.buffer.dtype.kind]
        fill = None if mask is TRUE else zero if other is None else other
        name = self.hint or None
        if self.muted or not self.dealing:
            self.read_outside.add(p.buffer.name)
        v = self.k.load(p.buffer, *at, mask=mask, other=fill, name=name)
        return C(t, self.held(v))

    def held(self, v: Value) -> Any:
        """A tile as a C++ value holds it."""
        return v if v.dtype.kind == "real" else leaf("value", v, v.dtype.kind)

    def filler(self, c: C, d: DType) -> Any:
        """The number of a constant, as an element of memory; None if it is none."""
        e = c.what
        if isinstance(e, Value) and e.op == "full" and e.dtype.kind == "real":
            return e.attr
        if not isinstance(e, Expr) or e.op != "const":
            return None
        if d.kind == "real" and e.kind == "int":  # bits of a storage type
            bits = np.asarray([e.attr], f"u{max(1, d.bits // 8)}")
            return float(decode(bits.view(d.storage), d)[0])
        kind: Any = {"real": float, "int": int, "bool": bool}[d.kind]
        return kind(e.attr)

    def store(self, p: Pointer, c: C, mask: Expr = TRUE, t: CType | None = None) -> None:
        """Write a number, or a vector of them side by side."""
        b, t = p.buffer, t or c.type
        self.element(b, t)
        vec = t.kind == "vector"
        at = self.along(p, self.axis(t.count).lane) if vec else self.indices(p)
        mask = call("and", self.path, mask)
        self.sound(*at, mask)
        self.write(b, at, c, mask)

    def write(self, b: Buffer, at: tuple[Expr, ...], c: C, mask: Expr) -> None:
        d = b.dtype
        if c.what is None:
            raise self.refuse("a value that was never assigned is stored")
        if b.role == "program":
            if (self.dealing or self.reducing) and b.name not in self.own:
                raise self.refuse(f"the trips of a parallel loop share {b.name}")
        elif self.reducing:
            raise self.refuse("a parallel loop that reduces and writes")
        else:
            self.written.add(b.name)
            self.written_outside |= not self.dealing
            if self.muted:
                return
        if d.kind == "real":
            v = self.real(c)
            if v.dtype != d:
                if {v.dtype.name, d.name} != {"f32", "tf32"}:
                    raise self.refuse(f"{b.name} holds {d}, not {v.dtype}")
                v = self.k.cast(v, d)
        elif d.kind == "bool":
            v = self.materialise(self.truth(c), d)
        else:
            v = self.materialise(self.number(c), d)
        self.k.store(b, *at, v, mask=mask)

    # -- arrays of the text
    def array(self, name: str, t: CType, filled: bool) -> Pointer:
        """A local array: scratch of the program, poison until it is written.

        Each trip of a loop around the declaration has an array of its own, so that what an earlier
        trip wrote is not there; one that is filled at once needs none.
        """
        at: list[Expr] = []
        shape: list[Expr] = []
        programs = [Trip(pid(d), ZERO, n) for d, n in enumerate(self.k.grid)]
        for n, trip in enumerate(() if filled else self.trips):
            count = most(trip, [*programs, *self.trips[:n]])
            if count is None:
                raise self.refuse(f"{name} is an array in a loop without an evident length")
            shape.append(count)
            at.append(trip.variable - trip.lo)
        vectors = False
        while t.kind in ("array", "vector") and t.of is not None:
            vectors = t.kind == "vector"
            shape.append(const(t.count))
            t = t.of
        if t.kind not in ("int", "uint", "real", "bool"):
            raise self.refuse(f"an array of {t}")
        label = self.k.fresh(name)
        self.own |= {label} if self.dealing or self.reducing else set()
        self.of_vectors |= {label} if vectors else set()
        b = self.k.buffer(Buffer(label, "program", dtype_of(t), tuple(shape)))
        return Pointer(b, tuple(at), ZERO)

    def clear(self, p: Pointer) -> None:
        """Zero in every element of an array that is filled where it is declared."""
        b = p.buffer
        axes = [self.grid(f"{b.name}_{n}", s) for n, s in enumerate(b.shape)]
        zero: Any = {"real": 0.0, "int": 0, "bool": False}[b.dtype.kind]
        v = self.k.full(zero, b.dtype, *axes)
        self.k.store(b, *(a.lane for a in axes), v, mask=self.path)

    def aligned_vector(self, p: Pointer, t: CType) -> None:
        """An access through a pointer to vectors, of which the type says how it is aligned."""
        of = t.of
        if of is None or of.kind != "vector" or p.buffer.name in self.of_vectors:
            return
        if t.bits == 0 or t.bits > of.scalar.bits // 8:
            self.aligned(p, of, self.facts)

    def grid(self, name: str, extent: Expr) -> Axis:
        return Axis(name.replace("__", "_"), int(extent.attr))

    def aligned(self, p: Pointer, t: CType, facts: frozenset[Expr]) -> None:
        """A store of a whole register starts at a multiple of its bytes."""
        b, n = p.buffer, t.count
        needed = n * b.dtype.bytes
        goal: Expr = TRUE
        if not any(_aligns(f, b.name, needed) for f in facts):
            goal = param(f"aligned({b.name}, {needed})", "bool")
        at = self.indices(p)
        for e in (at[-1], *strides_of(b, self.known)[:-1]):
            if not leaves(e, "value"):
                goal = call("and", goal, call("eq", e % n, 0))
        self.check(goal, "align", f"{needed} bytes of {b.name} start at a multiple of {needed}")


def _aligns(fact: Expr, buffer: str, needed: int) -> bool:
    if fact.op != "param":
        return False
    name, _, at = str(fact.attr).removeprefix("aligned(").removesuffix(")").partition(", ")
    return name == buffer and at.isdigit() and int(at) % needed == 0
