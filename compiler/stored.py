"""Operators as kernels see them: packed 4-bit tensors are bytes that hold two elements each.

Along the last axis, low nibble first; the last byte of a row of odd length has a high nibble of 0.
The meaning of an operator, its reference and its gradients speak of elements; what is compiled and
verified is the operator that this file makes of it, over `u8` tensors of half the extent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from opwright.ir.dtypes import DTYPES, F32, I64, DType
from opwright.ir.expr import (
    ONE,
    ZERO,
    Expr,
    call,
    conjunction,
    const,
    read,
    read_parts,
    substitute,
    transform,
    var,
)
from opwright.ir.op import Clause, OpAxis, Operator, Tensor

PACKED = ("i4", "u4", "f4e2m1")
BYTE = DTYPES["u8"]
# what rounds to the next larger number of f4e2m1, and whether it does at a tie
STEPS = ((0.25, False), (0.75, True), (1.25, False), (1.75, True), (2.5, False), (3.5, True),
         (5.0, False))  # fmt: skip


def stored_form(op: Operator) -> Operator:
    """The operator over bytes; the same one when no tensor is packed."""
    packed = {t.name: t for t in (*op.inputs, *op.outputs) if t.dtype.name in PACKED}
    if not packed:
        return op
    sources = {t.name: t for t in op.inputs if t.name in packed}
    values = {t.name: f"{t.name}_value" for t in op.outputs if t.name in packed}
    tensors: list[Tensor] = []
    for t in op.tensors:
        assert t.body is not None
        body = _unpacked(t.body, sources, values)
        rec = t.recurrence
        if rec is not None:
            group = tuple(values.get(n, n) for n in rec.group)
            rec = replace(rec, init=_unpacked(rec.init, sources, values), group=group)
        if t.name not in values:
            tensors.append(replace(t, body=body, recurrence=rec))
            continue
        kind = I64 if t.kind == "int" else F32
        local = replace(t, name=values[t.name], dtype=kind, body=body, role="local")
        tensors.append(replace(local, recurrence=rec, updates=None, layout=None))
        if rec is None or t.name == t.recurrence.group[-1]:  # type: ignore[union-attr]
            members = [t.name] if t.recurrence is None else t.recurrence.group
            by_name = {u.name: u for u in op.tensors}
            tensors += [_bytes(by_name[n], values[n]) for n in members if n in values]
    return replace(
        op,
        inputs=tuple(_halved(t) if t.name in packed else t for t in op.inputs),
        tensors=tuple(tensors),
        clauses=tuple(_clause(c, sources) for c in op.clauses if c.kind == "requires"),
        workloads=tuple(
            replace(w, values={k: v for k, v in w.values.items() if k not in packed})
            for w in op.workloads
        ),
    )


def _clause(c: Clause, sources: Mapping[str, Tensor]) -> Clause:
    return c if c.expr is None else replace(c, expr=_unpacked(c.expr, sources, {}))


def _half(extent: Expr) -> Expr:
    return (extent + 1) // 2


def _halved(t: Tensor) -> Tensor:
    if not t.axes:
        return replace(t, dtype=BYTE)
    last = t.axes[-1]
    return replace(t, dtype=BYTE, axes=(*t.axes[:-1], OpAxis(last.name, ZERO, _half(last.hi))))


def _unpacked(e: Expr, sources: Mapping[str, Tensor], values: Mapping[str, str]) -> Expr:
    """The expression with reads of elements as reads of bytes."""

    def rule(x: Expr) -> Expr | None:
        if x.op != "read":
            return None
        name, index, fill = read_parts(x)
        if name in values:
            return read(values[name], index, x.kind, fill)
        if name not in sources:
            return None
        t = sources[name]
        at = (*index[:-1], index[-1] // 2) if index else ()
        byte = read(name, at, "int", None if fill is None else ZERO)
        nibble = byte % 16
        if index:
            even = call("eq", index[-1] % 2, 0)
            nibble = call("select", even, nibble, byte // 16)
        value = decoded(nibble, t.dtype)
        if fill is None:
            return value
        inside = conjunction([
            call("le", a.lo, i) & call("lt", i, a.hi) for i, a in zip(index, t.axes, strict=True)
        ])  # fmt: skip
        return call("select", inside, value, fill)

    return transform(e, rule)


def decoded(nibble: Expr, d: DType) -> Expr:
    """The element that four bits stand for."""
    if d.name == "u4":
        return nibble
    if d.name == "i4":
        return (nibble + 8) % 16 - 8
    size = nibble % 8
    # 0 to 2 in steps of a half, then 3, 4, 6
    large = call("select", call("le", size, 6), (size - 2) * 2, const(12))
    halves = call("select", call("le", size, 4), size, large)
    value = call("mul", 0.5, halves)
    return call("select", call("lt", nibble, 8), value, call("neg", value))


def encoded(value: Expr, d: DType) -> Expr:
    """The four bits of an element; what is too large for f4e2m1 becomes its largest number."""
    if d.kind == "int":
        return value % 16
    size = call("abs", value)
    out: Expr = ZERO
    for edge, tie in STEPS:
        above = call("le", edge, size) if tie else call("lt", edge, size)
        out = out + call("select", above, ONE, ZERO)
    return out + call("select", call("lt", value, 0.0), const(8), ZERO)


def _bytes(t: Tensor, value: str) -> Tensor:
    """The output that holds two elements of a local in each byte."""
    at = tuple(var(a.name) for a in t.axes)
    axes = [OpAxis(f"{a.name}_b", a.lo, a.hi) for a in t.axes]
    if not axes:
        body = encoded(read(value, (), t.kind), t.dtype)
        return Tensor(t.name, BYTE, (), body, "output", updates=t.updates, layout=t.layout)
    last = axes[-1]
    axes[-1] = OpAxis(last.name, ZERO, _half(last.hi))
    mine = dict(zip(at, (var(a.name) for a in axes), strict=True))
    low, high = (
        read(value, (*at[:-1], at[-1] * 2 + k), t.kind, const(0) if k else None) for k in (0, 1)
    )
    body = encoded(low, t.dtype) + encoded(high, t.dtype) * 16
    return Tensor(
        t.name, BYTE, tuple(axes), substitute(body, mine), "output", updates=t.updates,
        layout=t.layout,
    )  # fmt: skip
