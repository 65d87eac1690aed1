"""Arrays of a jaxpr as index functions: what a value's element at an index is, as an expression.

Layout operations (broadcasts, slices, gathers, reshapes) only move indices; nothing is computed
until an element is asked for. `opwright.backends.jax.primitives` gives every primitive its meaning.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from opwright.ir.dtypes import DTYPES, DType
from opwright.ir.expr import (
    ONE,
    ZERO,
    Expr,
    affine,
    call,
    conjunction,
    const,
    maximum,
    minimum,
    read,
    size,
)
from opwright.ir.extents import from_affine, same_extent
from opwright.ir.launch import ImportRefusal

Index = tuple[Expr, ...]

_TYPES = {
    "float64": "f64", "float32": "f32", "float16": "f16", "bfloat16": "bf16", "bool": "bool",
    "float8_e4m3fn": "f8e4m3", "float8_e5m2": "f8e5m2", "float8_e4m3fnuz": "f8e4m3fnuz",
    "float8_e5m2fnuz": "f8e5m2fnuz", "float4_e2m1fn": "f4e2m1",
    **{f"{s}int{b}": f"{'u' if s else 'i'}{b}" for s in ("", "u") for b in (4, 8, 16, 32, 64)},
}  # fmt: skip


@dataclass(slots=True)
class Array:
    """A value of a jaxpr: `element` is its value at an index; elements are remembered.

    `source` names the tensor that the value is, where it is one as a whole.
    """

    shape: Index
    dtype: DType
    element: Callable[[Index], Expr]
    source: str = ""
    known: dict[Index, Expr] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return self.dtype.kind

    def at(self, index: Sequence[Expr]) -> Expr:
        key = tuple(index)
        if key not in self.known:
            self.known[key] = self.element(key)
        return self.known[key]


def type_of(name: str) -> DType:
    """The type of a numpy name; ImportRefusal for one that specs do not have."""
    if name not in _TYPES:
        raise ImportRefusal(f"the type {name}")
    return DTYPES[_TYPES[name]]


def dimension(text: Any) -> Expr:
    """A dimension as JAX writes it: a number or a formula such as `2*N + 1`."""
    if isinstance(text, int):
        return const(text)
    try:
        return tidy(_dimension(ast.parse(str(text), mode="eval").body))
    except (SyntaxError, KeyError, ValueError):
        raise ImportRefusal(f"the dimension {text}") from None


def _dimension(node: ast.expr) -> Expr:
    match node:
        case ast.Constant(value=int(n)):
            return const(n)
        case ast.Name(id=name):
            return size(name)
        case ast.UnaryOp(op=ast.USub(), operand=x):
            return ZERO - _dimension(x)
        case ast.BinOp(left=a, op=ast.Add(), right=b):
            return _dimension(a) + _dimension(b)
        case ast.BinOp(left=a, op=ast.Sub(), right=b):
            return _dimension(a) - _dimension(b)
        case ast.BinOp(left=a, op=ast.Mult(), right=b):
            return _dimension(a) * _dimension(b)
        case ast.BinOp(left=a, op=ast.Pow(), right=ast.Constant(value=int(n))) if n >= 0:
            out = ONE
            for _ in range(n):
                out = out * _dimension(a)
            return out
        case ast.Call(func=ast.Name(id=name), args=args):
            names = {"floordiv": "floordiv", "mod": "mod", "max": "max", "min": "min"}
            return call(names[name], *(_dimension(a) for a in args))
    raise ValueError(ast.dump(node))


def tidy(e: Expr) -> Expr:
    """An integer expression without terms that cancel."""
    form = affine(e)
    return e if form is None else from_affine(form)


def is_one(e: Expr) -> bool:
    return e is ONE


def constant(values: Sequence[Any], shape: Index, dtype: DType) -> Array:
    """An array that the source holds; a scalar is itself, others are chosen by index."""
    extents = [int(n.attr) for n in shape]
    exact: list[Expr] = [_literal(v, dtype) for v in values]

    def element(index: Index) -> Expr:
        if len(set(exact)) == 1:
            return exact[0]
        flat: Expr = ZERO
        for i, n in zip(index, extents, strict=True):
            flat = flat * n + i
        if flat.op == "const":
            return exact[int(flat.attr)]
        out: Expr = exact[-1]
        for k in range(len(exact) - 2, -1, -1):
            out = choose(call("eq", flat, k), exact[k], out)
        return out

    return Array(shape, dtype, element)


NAN = const(float("nan"))


def _literal(value: Any, dtype: DType) -> Expr:
    if dtype.kind == "real":
        number = float(value)
        return NAN if number != number else const(number)
    return const(bool(value)) if dtype.kind == "bool" else const(int(value))


def mapped(x: Array, shape: Index, move: Callable[[Index], Index]) -> Array:
    """An array whose elements are elements of another."""
    return Array(shape, x.dtype, lambda index: x.at(move(index)))


def broadcast(x: Array, shape: Index, dims: Sequence[int]) -> Array:
    def move(index: Index) -> Index:
        return tuple(
            ZERO if is_one(n) and not is_one(shape[d]) else index[d]
            for n, d in zip(x.shape, dims, strict=True)
        )

    return mapped(x, shape, move)


def transpose(x: Array, order: Sequence[int]) -> Array:
    shape = tuple(x.shape[d] for d in order)

    def move(index: Index) -> Index:
        out = [ZERO] * len(order)
        for i, d in zip(index, order, strict=True):
            out[d] = i
        return tuple(out)

    return mapped(x, shape, move)


def reshape(x: Array, shape: Index) -> Array:
    """Row-major: axes are merged and split in groups of equal products."""
    groups = _groups(x.shape, shape)

    def move(index: Index) -> Index:
        out: list[Expr] = []
        for old, new in groups:
            flat: Expr = ZERO
            for k in new:
                flat = flat * shape[k] + index[k] if not is_one(shape[k]) else flat
            out += _split(flat, [x.shape[k] for k in old])
        return tuple(out)

    return mapped(x, shape, move)


def _split(flat: Expr, extents: list[Expr]) -> list[Expr]:
    """The digits of a row-major number."""
    out: list[Expr] = []
    wide = [k for k, n in enumerate(extents) if not is_one(n)]
    for n in range(len(extents) - 1, -1, -1):
        if is_one(extents[n]):
            out.append(ZERO)
        elif wide and n == wide[0]:
            out.append(flat)
        else:
            out.append(flat % extents[n])
            flat = flat // extents[n]
    return out[::-1]


def _groups(old: Index, new: Index) -> list[tuple[list[int], list[int]]]:
    """Runs of axes with equal products, as short as the extents show."""
    out: list[tuple[list[int], list[int]]] = []
    a: list[int] = []
    b: list[int] = []
    i = j = 0
    left, right = ONE, ONE
    while i < len(old) or j < len(new):
        if (a or b) and _equal(left, right):
            out.append((a, b))
            a, b, left, right = [], [], ONE, ONE
            continue
        if not a and not b and i < len(old) and j < len(new) and same_extent(old[i], new[j]):
            out.append(([i], [j]))
            i, j = i + 1, j + 1
        elif i < len(old) and (j >= len(new) or _factors(left) <= _factors(right)):
            left = left * old[i]
            a.append(i)
            i += 1
        else:
            right = right * new[j]
            b.append(j)
            j += 1
    if a or b:
        out.append((a, b))
    return out


def _factors(e: Expr) -> tuple[int, int]:
    """How many symbolic factors a product has, and its constant one."""
    if e.op == "mul":
        x, y = _factors(e.args[0]), _factors(e.args[1])
        return x[0] + y[0], x[1] * y[1]
    return (0, int(e.attr)) if e.op == "const" else (1, 1)


def _equal(a: Expr, b: Expr) -> bool:
    """Equality of products, up to the order of factors."""

    def form(e: Expr) -> tuple[int, list[str]]:
        if e.op == "mul":
            (c, x), (d, y) = form(e.args[0]), form(e.args[1])
            return c * d, sorted(x + y)
        return (int(e.attr), []) if e.op == "const" else (1, [repr(e)])

    return form(a) == form(b) or same_extent(a, b)


def strided(x: Array, start: Index, shape: Index, step: Sequence[int]) -> Array:
    return mapped(
        x, shape, lambda index: tuple(s + i * k for s, i, k in zip(start, index, step, strict=True))
    )


def choose(condition: Expr, a: Expr, b: Expr) -> Expr:
    """One of two elements, which may be truth values; the other one need not exist."""
    if a.kind == "bool":
        as_number = (call("select", x, 1, 0) for x in (a, b))
        return call("ne", call("select", condition, *as_number), 0)
    return call("select", condition, a, b)


def pad(x: Array, value: Array, config: Sequence[Sequence[Expr]]) -> Array:
    """Elements of x at lo + k * (interior + 1), the padding value elsewhere."""
    shape = []
    for n, (lo, hi, interior) in zip(x.shape, config, strict=True):
        inner = n if interior is ZERO else n + maximum(n - 1, ZERO) * interior
        shape.append(tidy(lo + inner + hi))

    def element(index: Index) -> Expr:
        inside: list[Expr] = []
        at: list[Expr] = []
        for i, n, (lo, hi, interior) in zip(index, x.shape, config, strict=True):
            if lo is ZERO and hi is ZERO and interior is ZERO:
                at.append(i)
                continue
            k = tidy(i - lo)
            if interior is not ZERO:
                inside.append(call("eq", k % (interior + 1), 0))
                k = k // (interior + 1)
            inside += [call("le", 0, k), call("lt", k, n)]
            at.append(k)
        if all(interior is ZERO for _, _, interior in config):
            return filled(x, inside, at, value.at(()))
        return choose(conjunction(inside), x.at(at), value.at(()))

    return Array(tuple(shape), x.dtype, element)


def filled(x: Array, inside: Sequence[Expr], at: Sequence[Expr], fill: Expr) -> Expr:
    """The element where the conditions say that it exists, else the fill."""
    if x.source and fill.op == "const" and fill.kind == x.kind:
        return read(x.source, tuple(at), x.kind, fill)
    return choose(conjunction(list(inside)), x.at(at), fill)


def concatenate(parts: Sequence[Array], axis: int) -> Array:
    total = ZERO
    for p in parts:
        total = total + p.shape[axis]
    shape = (*parts[0].shape[:axis], tidy(total), *parts[0].shape[axis + 1 :])

    def element(index: Index) -> Expr:
        start = total
        out: Expr | None = None
        for p in reversed(parts):
            start = tidy(start - p.shape[axis])
            at = (*index[:axis], tidy(index[axis] - start), *index[axis + 1 :])
            value = p.at(at)
            out = (
                value
                if out is None
                else choose(call("lt", index[axis], tidy(start + p.shape[axis])), value, out)
            )
        assert out is not None
        return out

    return Array(shape, parts[0].dtype, element)


def gather(x: Array, starts: Array, params: Mapping[str, Any], shape: Index) -> Array:
    """lax.gather: clamped starts, or a fill value where the slice leaves the operand."""
    d = params["dimension_numbers"]
    slices = [dimension(n) for n in params["slice_sizes"]]
    gone = {*d["collapsed_slice_dims"], *d["operand_batching_dims"]}
    kept = [k for k in range(len(x.shape)) if k not in gone]
    batch = [k for k in range(len(shape)) if k not in d["offset_dims"]]
    clips = params["mode"] != "FILL_OR_DROP"

    def element(index: Index) -> Expr:
        outer = [index[k] for k in batch]
        offsets = dict(zip(kept, (index[k] for k in d["offset_dims"]), strict=True))
        inside: list[Expr] = []
        at: list[Expr] = []
        for k, n in enumerate(x.shape):
            if k in d["operand_batching_dims"]:
                which = d["start_indices_batching_dims"][d["operand_batching_dims"].index(k)]
                at.append(outer[which])
                continue
            offset = offsets.get(k, ZERO)
            if k not in d["start_index_map"]:
                at.append(offset)
                continue
            start = starts.at((*outer, const(d["start_index_map"].index(k))))
            last = tidy(n - slices[k])
            if start is ZERO:
                at.append(offset)
            elif clips:
                at.append(minimum(maximum(start, 0), last) + offset)
            else:
                inside += [call("le", 0, start), call("le", start, last)]
                at.append(start + offset)
        value = x.at(at)
        if not inside:
            return value
        return choose(conjunction(inside), value, _fill(params["fill_value"], x))

    return Array(shape, x.dtype, element)


def _fill(value: Any, x: Array) -> Expr:
    if value is not None:
        return _literal(value, x.dtype)
    if x.kind == "real":
        return NAN
    lowest = -(2 ** (x.dtype.bits - 1)) if x.dtype.name[0] == "i" else 2**x.dtype.bits - 1
    return const(True) if x.kind == "bool" else const(lowest)


def dynamic_slice(x: Array, starts: Sequence[Array], shape: Index) -> Array:
    def move(index: Index) -> Index:
        out = []
        for i, s, n, m in zip(index, starts, x.shape, shape, strict=True):
            start = s.at(())
            out.append(i if start is ZERO else minimum(maximum(start, 0), tidy(n - m)) + i)
        return tuple(out)

    return mapped(x, shape, move)


def dynamic_update_slice(x: Array, update: Array, starts: Sequence[Array]) -> Array:
    def element(index: Index) -> Expr:
        inside: list[Expr] = []
        at = []
        for i, s, n, m in zip(index, starts, x.shape, update.shape, strict=True):
            start = minimum(maximum(s.at(()), 0), tidy(n - m))
            k = tidy(i - start)
            inside += [call("le", 0, k), call("lt", k, m)]
            at.append(k)
        return choose(conjunction(inside), update.at(at), x.at(index))

    return Array(x.shape, x.dtype, element)
