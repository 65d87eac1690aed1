"""Tiles of imported kernels: making values, moving them between axes, elementwise operations.

Integers and truth values stay index expressions (`Sym`) as long as they can; a `Tile` is a float
value, or a number that becomes one where it is used. What NaN does in a maximum is not part of
TileIR's meaning over the reals: both of TTIR's maxima become `max`.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from opwright.backends.triton.importer_axes import Axes, plain
from opwright.backends.triton.importer_symbols import (
    Arithmetic,
    Dims,
    Need,
    Sym,
    move,
    moved,
    values_in,
)
from opwright.backends.triton.ttir import Op, Type
from opwright.ir.dtypes import BOOL, DTYPES, I64, DType, decode, dtype
from opwright.ir.expr import TRUE, Expr, call, const, leaf, leaves, substitute
from opwright.ir.launch import ImportRefusal
from opwright.ir.semantics import ROWS
from opwright.ir.tile import Axis, Buffer, Builder, Operand, Value

REALS = {
    "f64": "f64", "f32": "f32", "f16": "f16", "bf16": "bf16", "f8E4M3FN": "f8e4m3",
    "f8E5M2": "f8e5m2", "f8E4M3FNUZ": "f8e4m3fnuz", "f8E5M2FNUZ": "f8e5m2fnuz",
}  # fmt: skip
FLOAT_ROWS = {
    "arith.addf": "add", "arith.subf": "sub", "arith.mulf": "mul", "arith.divf": "div",
    "arith.negf": "neg", "arith.maxnumf": "max", "arith.maximumf": "max",
    "arith.minnumf": "min", "arith.minimumf": "min", "math.absf": "abs", "math.exp": "exp",
    "math.exp2": "exp2", "math.expm1": "expm1", "math.log": "log", "math.log2": "log2",
    "math.log1p": "log1p", "math.sqrt": "sqrt", "math.rsqrt": "rsqrt", "math.sin": "sin",
    "math.cos": "cos", "math.tan": "tan", "math.tanh": "tanh", "math.sinh": "sinh",
    "math.cosh": "cosh", "math.asin": "asin", "math.acos": "acos", "math.atan": "atan",
    "math.erf": "erf", "math.fma": "fma", "math.powf": "pow", "tt.precise_sqrt": "sqrt",
    "tt.precise_divf": "div",
}  # fmt: skip
ROUNDINGS = {"math.floor": "floor", "math.ceil": "ceil", "math.roundeven": "nearest",
             "math.trunc": "trunc"}  # fmt: skip
LIBRARY = {
    "exp": "exp", "exp2": "exp2", "expm1": "expm1", "log": "log", "log2": "log2",
    "log1p": "log1p", "sqrt": "sqrt", "rsqrt": "rsqrt", "sin": "sin", "cos": "cos", "tan": "tan",
    "tanh": "tanh", "sinh": "sinh", "cosh": "cosh", "asin": "asin", "acos": "acos",
    "atan": "atan", "erf": "erf", "pow": "pow", "fabs": "abs", "fma": "fma", "fmax": "max",
    "fmin": "min",
}  # fmt: skip
LIBRARY_ROUNDINGS = {"floor": "floor", "ceil": "ceil", "rint": "nearest", "trunc": "trunc",
                     "nearbyint": "nearest"}  # fmt: skip
ORDERED = {"eq": "eq", "ne": "ne", "lt": "lt", "le": "le", "gt": "lt", "ge": "le"}


class Impure(Exception):
    """A statement would be needed where only expressions may be made."""


@dataclass(slots=True, eq=False)
class Tile:
    """A float tile: a value, or a number (`value` is None)."""

    value: Value | None
    dims: Dims
    dtype: DType
    number: float = 0.0
    flattened: Dims | None = None  # the dimensions before a reshape to one


@dataclass(slots=True, eq=False)
class Pointer:
    """An address: elements from the start of a buffer. `bits` is the width the kernel sees."""

    buffer: Buffer
    offset: Sym
    bits: int = 0


Thing = Sym | Tile | Pointer


@dataclass(slots=True, eq=False)
class Scope:
    """What was already stated and made since control entered here."""

    stated: set[tuple[object, Expr]] = field(default_factory=set)
    made: dict[object, Value] = field(default_factory=dict)


class Values(Arithmetic):
    """Makes values and statements of one kernel."""

    def __init__(self, file: str, kernel: str) -> None:
        super().__init__()
        self.file, self.kernel_name = file, kernel
        self.builder: Builder
        self.axes: Axes
        self.env: dict[str, Thing] = {}
        self.uses: dict[str, list[Op]] = {}
        self.scopes = [Scope()]
        self.path: Expr = TRUE  # under which straight-line code of a branch runs
        self.dry = False
        self.idle: set[str] = set()  # results that only what is read as a whole needs
        self.line = 0

    def refuse(self, what: str) -> ImportRefusal:
        return ImportRefusal(f"kernel {self.kernel_name}: {what}", self.file, self.line)

    def at(self, line: int) -> None:
        if line:
            self.line = line
            self.builder.line = f"{self.file}:{line}"

    @contextmanager
    def scope(self) -> Iterator[None]:
        self.scopes.append(Scope())
        try:
            yield
        finally:
            self.scopes.pop()

    def emitting(self) -> Builder:
        if self.dry:
            raise Impure
        return self.builder

    # -- checks
    def discharge(self, needs: tuple[Need, ...], under: Expr = TRUE) -> None:
        """State what numbers rest on, at lanes where `under` holds."""
        if needs:
            under = call("and", self.path, under)
            for n in needs:
                self._discharge(n, under, ())

    def _discharge(self, n: Need, under: Expr, pairs: tuple[tuple[Expr, Expr], ...]) -> None:
        pairs = (*n.moved, *pairs)
        if self.stated((n, pairs), under):
            return
        for d in n.deps:
            self._discharge(d, under, pairs)
        cond = moved(n.cond, pairs)
        if self.stated((cond, ()), under):
            return
        builder = self.emitting()
        before = builder.line
        if n.line:
            builder.line = f"{self.file}:{n.line}"
        builder.check(call("or", ~under, cond) if under is not TRUE else cond, n.kind, n.reason)
        builder.line = before

    def stated(self, what: object, under: Expr) -> bool:
        """Whether this was stated before where control comes through, else it is from now on."""
        if any((what, u) in s.stated for s in self.scopes for u in (TRUE, under)):
            return True
        self.scopes[-1].stated.add((what, under))
        return False

    def use(self, x: Sym, under: Expr = TRUE) -> Expr:
        """The expression of a number that is used here."""
        x = self.observe(x, self.line)
        self.discharge(x.needs, under)
        return x.expr

    # -- axes
    def fitted(self, x: Thing, dims: Dims) -> Thing:
        """The same thing with these axes as its dimensions."""
        if isinstance(x, Pointer):
            return Pointer(x.buffer, self.aligned(x.offset, dims), x.bits)
        return self.aligned(x, dims) if isinstance(x, Sym) else self.placed(x, dims)

    def aligned(self, x: Sym, dims: Dims) -> Sym:
        """An expression over other axes, position by position."""
        pairs = _pairs(x.dims, dims)
        if not pairs:
            return x if x.dims == dims else self.copy(x, x.expr, dims, x.needs)
        return self.relabel(x, dims, {a.lane: b.lane for a, b in pairs})

    def relabel(self, x: Sym, dims: Dims, mapping: dict[Expr, Expr]) -> Sym:
        """Lanes replaced, in an expression, its values, and in what it rests on."""
        whole = dict(mapping)
        held: dict[Expr, None] = dict.fromkeys(leaves(x.expr, "value"))
        for n in x.needs:
            held |= dict.fromkeys(leaves(moved(n.cond, n.moved), "value"))
        for e in held:
            moves = [(a.attr, b) for a, b in mapping.items() if a.attr in e.attr.axes]
            if moves:
                whole[e] = leaf("value", self.emitting().view(e.attr, moves), e.kind)
        simultaneous = self.simultaneous(whole)
        e = substitute(x.expr, whole)
        return self.copy(x, e, dims, move(x.needs, simultaneous))

    def simultaneous(self, mapping: dict[Expr, Expr]) -> list[tuple[Expr, Expr]]:
        """A simultaneous replacement as replacements one after the other."""
        targets = {y for b in mapping.values() for y in leaves(b, "lane")}
        if not targets & set(mapping):
            return list(mapping.items())
        first = [(a, leaf("state", f"move{n}", a.kind)) for n, a in enumerate(mapping)]
        return [*first, *((s, mapping[a]) for a, s in first)]

    def copy(self, x: Sym, e: Expr, dims: Dims, needs: tuple[Need, ...]) -> Sym:
        return Sym(e, dims, x.bits, needs, x.raw, x.line, None, x.said)

    def placed(self, x: Tile, dims: Dims) -> Tile:
        if x.value is None:
            return Tile(None, dims, x.dtype, x.number)
        moves = [(a, b.lane) for a, b in _pairs(x.dims, dims) if a in x.value.axes]
        value = self.emitting().view(x.value, moves) if moves else x.value
        return Tile(value, dims, x.dtype)

    # -- values
    def value(self, x: Thing, kind: DType | None = None) -> Value:
        """A thing as a value; integers take the signed type of their width."""
        if isinstance(x, Tile):
            return x.value if x.value is not None else self.number(x.number, x.dtype)
        if isinstance(x, Pointer):
            raise self.refuse("an address is used as a number")
        if kind is None:
            kind = BOOL if x.bits == 1 else dtype(f"i{x.bits}")
        return self.materialise(self.use(x), kind)

    def number(self, n: float | int | bool, kind: DType, *axes: Axis) -> Value:
        return self.memo(
            ("full", repr(n), kind, axes), lambda: self.emitting().full(n, kind, *axes)
        )

    def memo(self, key: object, make: Callable[[], Value]) -> Value:
        for s in self.scopes:
            if key in s.made:
                return s.made[key]
        made: Value = make()
        self.scopes[-1].made[key] = made
        return made

    def materialise(self, e: Expr, kind: DType) -> Value:
        """An expression as a value: index expressions as they are, what is computed from values
        by the rows of the table."""
        key = (e, kind)
        return self.memo(key, lambda: self._materialise(e, kind))

    def _materialise(self, e: Expr, kind: DType) -> Value:
        b = self.emitting()
        if e.op == "value":
            return self.converted(e.attr, kind)
        if not values_in(e):
            if e.op == "const":
                return self.number(e.attr, kind)
            return b.index(e, kind)
        if e.op not in ROWS:
            raise self.refuse(f"{e} as a value")
        # integers are computed with 64 bits: no part of an exact expression is cut on the way
        args = [self.materialise(a, BOOL if a.kind == "bool" else I64) for a in e.args]
        return self.converted(b.ew(e.op, *args), kind)

    def converted(self, v: Value, kind: DType) -> Value:
        return v if v.dtype == kind else self.emitting().cast(v, kind)

    def spread(self, v: Value, dims: Dims) -> Value:
        """A value that has every axis of these dimensions."""
        missing = [a for a in dims if a is not None and a not in v.axes]
        if not missing:
            return v
        if v.op == "full":
            axes = tuple(dict.fromkeys((*v.axes, *missing)))
            return self.number(v.attr, v.dtype, *axes)
        yes = self.number(True, BOOL, *missing)
        return self.emitting().ew("select", yes, v, v)

    def kind_of(self, t: Type) -> DType:
        name = REALS.get(t.element)
        if name is None:
            raise self.refuse(f"no type for {t.element}")
        return DTYPES[name]

    def real(self, op: Op, number: int) -> Tile:
        """A float operand at the axes of the result."""
        x = self.env[op.operands[number]]
        if not isinstance(x, Tile):
            raise self.refuse(f"{op.name} of something that is no float")
        return self.placed(x, self.axes.of(op.results[0]))

    def symbol(self, op: Op, number: int, dims: Dims | None = None) -> Sym:
        """An integer operand at the axes of the result."""
        x = self.env[op.operands[number]]
        if not isinstance(x, Sym):
            raise self.refuse(f"{op.name} of something that is no integer")
        return self.aligned(x, self.axes.of(op.results[0]) if dims is None else dims)

    # -- elementwise
    def row(self, op: Op, name: str, operands: list[Tile], kind: DType | None = None) -> Tile:
        b, dims = self.emitting(), self.axes.of(op.results[0])
        args: list[Operand] = [self.value(x) for x in operands]
        made = b.ew(name, *args, name=plain(op.results[0]))
        return Tile(made, dims, kind or made.dtype)

    def rounding(self, op: Op, name: str) -> Tile:
        x = self.real(op, 0)
        whole = self.emitting().ew(name, self.value(x))
        return Tile(self.emitting().cast(whole, x.dtype), x.dims, x.dtype)

    def compare_reals(self, op: Op) -> Sym:
        """cmpf: comparisons that are true of NaN are the negation of the opposite one."""
        word, dims = op.words[0], self.axes.of(op.results[0])
        b = self.emitting()
        a, c = (self.value(self.real(op, n)) for n in (0, 1))
        if word in ("uno", "ord"):
            v = b.ew("or", b.ew("isnan", a), b.ew("isnan", c))
            v = v if word == "uno" else b.ew("not", v)
        elif word in ("true", "false"):
            return Sym(const(word == "true"), dims, 1)
        elif word == "one":
            v = b.ew("or", b.ew("lt", a, c), b.ew("lt", c, a))
        elif word == "ueq":
            v = b.ew("not", b.ew("or", b.ew("lt", a, c), b.ew("lt", c, a)))
        elif word[0] == "u" and word != "une":
            opposite = {"lt": "ge", "le": "gt", "gt": "le", "ge": "lt"}[word[1:]]
            x, y = (c, a) if opposite in ("gt", "ge") else (a, c)
            v = b.ew("not", b.ew(ORDERED[opposite], x, y))
        else:
            x, y = (c, a) if word[1:] in ("gt", "ge") else (a, c)
            v = b.ew(ORDERED[word[1:]], x, y, name=plain(op.results[0]))
        return Sym(leaf("value", v, "bool"), dims, 1)

    def choice(self, c: Sym, a: Thing, b: Thing, dims: Dims, hint: str = "t") -> Thing:
        """Selection between two things of one kind."""
        if isinstance(a, Sym) and isinstance(b, Sym):
            x, y = self.aligned(a, dims), self.aligned(b, dims)
            return self.select(self.lifted(c, dims), x, y, dims, self.line)
        if isinstance(a, Pointer) and isinstance(b, Pointer):
            if a.buffer != b.buffer:
                raise self.refuse("an address that points into one of two buffers")
            offset = self.choice(c, a.offset, b.offset, dims)
            assert isinstance(offset, Sym)
            return Pointer(a.buffer, offset, a.bits)
        if isinstance(a, Tile) and isinstance(b, Tile):
            one, two = self.placed(a, dims), self.placed(b, dims)
            cond = self.value(self.lifted(c, dims))
            made = self.emitting().ew("select", cond, self.value(one), self.value(two), name=hint)
            return Tile(made, dims, a.dtype)
        raise self.refuse("a selection between things of different kinds")

    def lifted(self, c: Sym, dims: Dims) -> Sym:
        """A scalar condition beside tiles, or one with its dimensions aligned."""
        return c if not c.dims and dims else self.aligned(c, dims)

    def opaque(self, op: Op, what: str) -> Thing:
        """A pure function that nothing else is known of."""
        b, dims, kind = self.emitting(), self.axes.of(op.results[0]), op.types()[0]
        things = [self.fitted(self.env[x], dims) for x in op.operands]
        args = [self.value(x) for x in things]
        if kind.element in REALS:
            out = b.opaque(what, args, self.kind_of(kind))
            return Tile(out, dims, out.dtype)
        bits = int(kind.element[1:])
        out = b.opaque(what, args, BOOL if bits == 1 else dtype(f"i{bits}"))
        return Sym(leaf("value", out, "bool" if bits == 1 else "int"), dims, bits)

    def library(self, op: Op) -> Thing:
        """A function of libdevice or ocml by its symbol: __nv_tanhf, __ocml_exp_f32."""
        symbol = op.attrs.get("symbol", "").strip('"')
        m = re.fullmatch(r"__(?:nv|ocml)_(\w+?)(?:_f(?:16|32|64))?", symbol)
        name = m.group(1) if m else symbol
        for stem in (name, name.removesuffix("f")):
            if stem in LIBRARY and len(op.operands) == ROWS[LIBRARY[stem]].arity:
                return self.row(
                    op, LIBRARY[stem], [self.real(op, n) for n in range(len(op.operands))]
                )
            if stem in LIBRARY_ROUNDINGS:
                return self.rounding(op, LIBRARY_ROUNDINGS[stem])
        if op.attrs.get("pure") == "false":
            raise self.refuse(f"{op.name} {symbol} has effects")
        return self.opaque(op, symbol or op.name)

    # -- constants
    def constant(self, op: Op) -> Thing:
        kind, dims = op.types()[0], self.axes.of(op.results[0])
        text = op.rest
        if text.startswith("dense<"):
            text = text[len("dense<") :].rsplit(">", 1)[0]
        text = text.split(" : ")[0].strip()
        if text.startswith("["):
            raise self.refuse("a constant tensor with several numbers")
        if kind.element in REALS:
            real = self.kind_of(kind)
            return Tile(None, dims, real, _real(text, real))
        bits = 64 if kind.element == "index" else int(kind.element[1:])
        if bits == 1:
            return Sym(const(text == "true"), dims, 1)
        return Sym(const(int(text, 0)), dims, bits)


def _pairs(old: Dims, new: Dims) -> list[tuple[Axis, Axis]]:
    return [
        (a, b) for a, b in zip(old, new, strict=True) if a is not None and b is not None and a != b
    ]


def _real(text: str, kind: DType) -> float:
    """A float as MLIR prints it: decimal, or the bits in hexadecimal."""
    if not text.startswith("0x"):
        return float(text)
    bits = int(text, 16)
    if kind.name in ("f64", "f32", "f16"):
        code = {"f64": "<Qd", "f32": "<If", "f16": "<He"}[kind.name]
        return float(struct.unpack("<" + code[2], struct.pack(code[:2], bits))[0])
    import numpy as np

    out = float(decode(np.array([bits], kind.storage), kind)[0])
    return math.nan if math.isnan(out) else out
