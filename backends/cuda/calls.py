"""Functions that CUDA kernels call: mathematics, conversions, exchanges between the threads of a
warp, atomics, barriers. A function of the text itself is read where it is called."""

from __future__ import annotations

import re
from collections.abc import Callable

from opwright.backends.cpp.clang import CType, Node, Unit
from opwright.backends.cuda import library
from opwright.backends.cuda.memory import Memory
from opwright.backends.cuda.numbers import bits_of, remainder
from opwright.backends.cuda.values import Pointer, Sym, Vector, dtype_of
from opwright.ir.dtypes import F32, I64
from opwright.ir.expr import TRUE, Expr, call, const
from opwright.ir.tile import Axis, Value, lanes

WARP = 32
FULL = 0xFFFFFFFF
REAL = CType("real", 32)
ROW = {
    "exp": "exp", "exp2": "exp2", "expm1": "expm1", "log": "log", "log2": "log2",
    "log1p": "log1p", "sqrt": "sqrt", "rsqrt": "rsqrt", "sin": "sin", "cos": "cos", "tan": "tan",
    "sinh": "sinh", "cosh": "cosh", "tanh": "tanh", "asin": "asin", "acos": "acos",
    "atan": "atan", "erf": "erf", "fabs": "abs", "abs": "abs", "pow": "pow", "fma": "fma",
    "frsqrt_rn": "rsqrt", "fsqrt_rn": "sqrt", "fdividef": "div", "fadd_rn": "add",
    "fsub_rn": "sub", "fmul_rn": "mul", "fdiv_rn": "div", "fmaf_rn": "fma", "fma_rn": "fma",
    "hadd": "add", "hsub": "sub", "hmul": "mul", "hdiv": "div", "hmax": "max", "hmin": "min",
    "hfma": "fma", "hneg": "neg", "hexp": "exp", "hlog": "log", "hsqrt": "sqrt",
    "hrsqrt": "rsqrt",
}  # fmt: skip
# fmax of C takes the number where one side is NaN; over the reals there is none
BINARY = {"fmax": "max", "fmin": "min"}
ROUNDINGS = {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "rint": "nearest",
             "nearbyint": "nearest"}  # fmt: skip
TO_INT = {"rn": "nearest", "rz": "trunc", "rd": "floor", "ru": "ceil"}
COMPARE = {"lt": "lt", "le": "le", "gt": "gt", "ge": "ge", "eq": "eq", "ne": "ne"}
ATOMICS = {"atomicAdd": "sum", "atomicMax": "max", "atomicMin": "min"}
LOADS = ("__ldg", "__ldcs", "__ldcg", "__ldca")
STORES = ("__stcs", "__stcg", "__stwt", "__stwb")


class Calls(Memory):
    """Calls of one kernel; `expression` and `inline` are those of the reader of statements."""

    unit: Unit
    source: str
    expression: Callable[[Node], Sym]
    inline: Callable[..., Sym]

    def call(self, n: Node) -> Sym:
        name, declared, _, _ = n.attr
        if declared is not None:
            f = self.unit.functions[declared]
            if what := library.known(f, self.unit, self.source):
                return self.known_function(n, what)
            return self.inline(n, declared)
        if name in ("__syncthreads", "__syncwarp"):
            return self.synchronise(n, name)
        if name.startswith("__shfl"):
            return self.shuffle(n, name)
        if name in ATOMICS or name == "atomicSub":
            return self.atomic(n, name)
        if name in LOADS:
            return self.read(self.load(self.address(n.args[0])), n.type)
        if name in STORES:
            p = self.address(n.args[0])
            self.store(p, self.expression(n.args[1]), n.args[1].type)
            return None
        if name.startswith("make_"):
            of = n.type.of or REAL
            parts = [self.convert(self.expression(a), a.type, of) for a in n.args]
            return Vector(tuple(parts), n.type)
        if name in ("max", "min", "abs", "labs", "llabs", "__mul24") and n.type.is_integer:
            return self.whole(n, name)
        if name in ("__any_sync", "__all_sync"):
            return self.vote(n, name)
        if name == "__threadfence_block" or name == "opwright_assert":
            if name == "opwright_assert":
                self.check(self.truth(self.expression(n.args[0]), n.args[0].type), "mask",
                           "what is asserted holds")  # fmt: skip
            return None
        return self.mathematics(n, name)

    def known_function(self, n: Node, what: str) -> Value:
        """A function of the library that printed texts bring along."""
        b = self.builder
        if what in library.ROWS:
            wide = CType("int", 64)
            given = [self.convert(self.expression(a), a.type, wide) for a in n.args]
            return b.ew(library.ROWS[what], *(self.value(x, I64) for x in given))
        p = self.address(n.args[0])
        if p.buffer.dtype.name != library.LOADED[what]:
            raise self.refuse(f"{what} of an element of {p.buffer.dtype}", n.line)
        v = self.element(p, p.offset)
        assert isinstance(v, Value)
        return b.cast(v, F32)

    def address(self, n: Node) -> Pointer:
        p = self.expression(n)
        if not isinstance(p, Pointer):
            raise self.refuse("an address is wanted", n.line)
        return p

    # -- numbers
    def whole(self, n: Node, name: str) -> Expr:
        parts = []
        for a in n.args:
            x = self.convert(self.expression(a), a.type, n.type)
            if not isinstance(x, Expr):
                raise self.refuse(f"{name} of something that is no integer", n.line)
            parts.append(x)
        if name == "__mul24":
            return self.integers("*", parts[0], parts[1], n.type)
        if name.endswith("abs"):
            return self.fitting(call("abs", parts[0]), n.type)
        return call(name, *parts)

    def real(self, n: Node, to: CType) -> Value:
        x = self.convert(self.expression(n), n.type, to)
        return self.value(x, dtype_of(to))

    def mathematics(self, n: Node, name: str) -> Sym:
        found = self.conversion(n, name)
        if found is not None:
            return found
        plain = name.removeprefix("__").removeprefix("std::")
        to = n.type
        if to.kind == "bool" and plain in ("isnan", "isinf"):
            return self.leaf(self.builder.ew(plain, self.real(n.args[0], n.args[0].type)))
        if to.kind == "bool" and plain[:1] == "h" and plain[1:] in COMPARE:
            a, b = (self.real(x, x.type) for x in n.args)
            op = plain[1:]
            if op in ("gt", "ge"):
                a, b, op = b, a, {"gt": "lt", "ge": "le"}[op]
            return self.leaf(self.builder.ew(op, a, b))
        if to.kind == "vector":
            return self.paired(n, plain)
        if to.kind != "real":
            raise self.refuse(f"the call of {name}", n.line)
        for word in (plain, plain.removesuffix("f")):
            if word in ROW or word in BINARY or word in ("max", "min"):
                row = ROW.get(word) or BINARY.get(word) or word
                args = [self.real(a, to) for a in n.args]
                if len(args) == 2:
                    return self.combined(row, *args)
                return self.builder.ew(row, *args)
            if word in ROUNDINGS:
                v = self.builder.ew(ROUNDINGS[word], self.real(n.args[0], to))
                return self.value(self.leaf(v), dtype_of(to))
            if word in ("saturate", "frcp_rn", "exp10", "log10", "round", "cbrt"):
                return self.composed(word, n, to)
        raise self.refuse(f"the call of {name}", n.line)

    def composed(self, word: str, n: Node, to: CType) -> Value:
        b, x = self.builder, self.real(n.args[0], to)
        if word == "saturate":
            return b.ew("min", b.ew("max", x, 0.0), 1.0)
        if word == "frcp_rn":
            return b.ew("div", 1.0, x)
        if word == "exp10":
            return b.ew("exp", b.ew("mul", x, 2.302585092994046))
        if word == "log10":
            return b.ew("mul", b.ew("log", x), 0.4342944819032518)
        raise self.refuse(f"the call of {word}", n.line)

    def conversion(self, n: Node, name: str) -> Sym:
        """Conversions by name, of halves too; None for another function."""
        if m := re.fullmatch(r"__float2u?int_(rn|rz|rd|ru)", name):
            return self.truncated(self.real(n.args[0], REAL), TO_INT[m[1]], n.type)
        if re.fullmatch(r"__(int|uint)2(float|half|bfloat16)_rn", name):
            return self.convert(self.expression(n.args[0]), n.args[0].type, n.type)
        if re.fullmatch(r"__(float|double)2(half|bfloat16)(_rn)?", name):
            return self.real(n.args[0], n.type)
        if re.fullmatch(r"__(half|bfloat16)2float", name):
            return self.real(n.args[0], n.type)
        pair = re.fullmatch(
            r"__(floats2|float2|float22|halves2|low2|high2)(half2|bfloat162|half|bfloat16|float)"
            r"(_rn)?", name)  # fmt: skip
        if pair is None and re.fullmatch(r"__(half2|bfloat162)2float2", name) is None:
            return None
        given = [self.expression(a) for a in n.args]
        parts: list[tuple[Sym, CType]] = []
        for x, a in zip(given, n.args, strict=True):
            of = a.type.of or REAL
            parts += [(p, of) for p in x.parts] if isinstance(x, Vector) else [(x, a.type)]
        if n.type.kind != "vector":
            x, of = parts[0 if "low" in name else -1]
            return self.convert(x, of, n.type)
        if len(parts) == 1:
            parts = parts * 2
        to = n.type.of or REAL
        return Vector(tuple(self.convert(p, of, to) for p, of in parts), n.type)

    def paired(self, n: Node, plain: str) -> Vector:
        """Arithmetic on both components."""
        row = ROW.get(plain.removesuffix("2"))
        args = [self.expression(a) for a in n.args]
        if row is None or not all(isinstance(a, Vector) for a in args):
            raise self.refuse(f"the call of {n.attr[0]}", n.line)
        of = n.type.of or REAL
        columns = zip(*(a.parts for a in args if isinstance(a, Vector)), strict=True)
        made = [
            self.builder.ew(row, *(self.value(p, dtype_of(of)) for p in column))
            for column in columns
        ]
        return Vector(tuple(made), n.type)

    # -- threads
    def synchronise(self, n: Node, name: str) -> Sym:
        if name == "__syncthreads":
            self.builder.barrier(self.threads, self.mask())
            return None
        if n.args:
            self.full_mask(n.args[0])
        self.builder.barrier((self.warp(n),), self.mask())
        return None

    def warp(self, n: Node) -> Axis:
        if self.lane is None:
            raise self.refuse("warps of a block whose first extent is no multiple of 32", n.line)
        return self.lane

    def full_mask(self, n: Node) -> None:
        m = self.expression(n)
        if not isinstance(m, Expr) or m.op != "const" or m.attr % (1 << WARP) != FULL:
            raise self.refuse("a mask that names some threads of a warp only", n.line)

    def together(self, n: Node) -> Axis:
        """Threads of a warp exchange values: all of them are here."""
        axis = self.warp(n)
        self.full_mask(n.args[0])
        mask = self.mask()
        if mask is not TRUE:
            self.builder.barrier((axis,), mask, fence=False)
        return axis

    def shuffle(self, n: Node, name: str) -> Sym:
        axis = self.together(n)
        x = self.convert(self.expression(n.args[1]), n.args[1].type, n.type)
        by = self.expression(n.args[2])
        width = self.expression(n.args[3]) if len(n.args) > 3 else const(WARP)
        if not isinstance(width, Expr) or width.op != "const" or WARP % width.attr:
            raise self.refuse("the width of an exchange must be a power of two", n.line)
        if not isinstance(by, Expr) or any(a is not axis for a in lanes(by)):
            raise self.refuse("an exchange over a distance that is not known", n.line)
        v = self.value(x, dtype_of(n.type))
        if axis in v.axes:
            v = self.exchanged(n, name, v, axis, by, int(width.attr))
        return v if n.type.kind == "real" else self.leaf(v)

    def exchanged(self, n: Node, name: str, v: Value, axis: Axis, by: Expr, width: int) -> Value:
        lane, b = axis.lane, self.builder
        kind = name.removeprefix("__shfl_").removesuffix("_sync")
        own = remainder(lane, const(width), {})
        if name == "__shfl_sync":
            start = lane - own if width < WARP else const(0)
            return b.view(v, [(axis, start + remainder(by, const(width), self.ranges))])
        if by.op != "const" or not 0 <= by.attr < WARP:
            raise self.refuse("an exchange over a distance that is not known", n.line)
        d = int(by.attr)
        if kind == "xor":
            other = lane
            for k, bit in bits_of(lane, d, {}):
                other = other + (1 << k) - bit * (2 << k)
            if d < width:
                moved = b.view(v, [(axis, other)])
                self.exchanges[moved] = (v, d)
                return moved
            raise self.refuse("an exchange beyond its width", n.line)
        inside = call("lt", own + d, width) if kind == "down" else call("le", d, own)
        there = call("min", lane + d, WARP - 1) if kind == "down" else call("max", lane - d, 0)
        moved = b.view(v, [(axis, there)])
        return b.ew("select", b.index(inside), moved, v)

    def vote(self, n: Node, name: str) -> Expr:
        axis = self.together(n)
        cond = self.truth(self.expression(n.args[1]), n.args[1].type)
        v = self.builder.index(call("select", cond, 1, 0))
        if axis in v.axes:
            v = self.builder.reduce("max" if name == "__any_sync" else "min", self.seen(v), axis)
        return self.leaf(v)

    def atomic(self, n: Node, name: str) -> Sym:
        p = self.address(n.args[0])
        x = self.convert(self.expression(n.args[1]), n.args[1].type, p.unit)
        if name == "atomicSub":
            x = -x if isinstance(x, Expr) else self.builder.ew("neg", self.value(x, p.buffer.dtype))
        self.combine(ATOMICS.get(name, "sum"), p, x)
        return None
