"""Calls: functions of the C library and the printer's vocabulary, each with its meaning."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from opwright.backends.cpp.clang import CType, Node
from opwright.backends.cpp.importer_memory import Memory
from opwright.backends.cpp.importer_values import TRUTH, C, Pointer, dtype_of
from opwright.ir.dtypes import BF16, DTYPES, F16, F32, I64, DType
from opwright.ir.expr import ZERO, Expr, call, const, leaf
from opwright.ir.tile import Scan, Value

_ROWS = frozenset(
    """exp exp2 expm1 log log2 log1p sqrt sin cos tan sinh cosh tanh asin acos atan erf pow
    fma""".split()
)
_RENAMED = {"fabs": "abs", "fmax": "max", "fmin": "min"}
_ROUNDED = {
    "floor": "floor", "ceil": "ceil", "trunc": "trunc", "rint": "nearest", "nearbyint": "nearest",
}  # fmt: skip
_OPAQUE = frozenset(
    """erfc fmod hypot atan2 cbrt copysign remainder asinh acosh atanh log10 fdim round lgamma
    tgamma ldexp scalbn""".split()
)
_REDUCED = {
    "v_sum": "sum", "v_prod": "prod", "v_highest": "max", "v_lowest": "min", "v_any": "any",
    "v_all": "all",
}  # fmt: skip
_VECTOR_ROWS = frozenset(
    """exp exp2 expm1 log log2 log1p sqrt rsqrt sin cos tan sinh cosh tanh asin acos atan erf
    sigmoid""".split()
)
_VECTOR_NAMES = {"v_root": "sqrt", "v_abs": "abs", "v_positive": "abs", "v_pow": "pow"}
_VECTOR_ROUND = {"v_floor": "floor", "v_ceil": "ceil", "v_trunc": "trunc", "v_rint": "nearest"}
_IGNORED = frozenset(["__builtin_prefetch", "__builtin_ia32_sfence"])
SILENT = frozenset(["min", "max", "i_min", "i_max"])  # of numbers, without any effect
# what an author may call: functions of reals (also as __builtin_), and what else the compiler has
FUNCTIONS = frozenset(
    {*_ROWS, *_RENAMED, *_ROUNDED, *_OPAQUE, "isnan", "isinf", "isfinite", "lrint", "llrint", "abs"}
)
BUILTINS = (
    "__builtin_convertvector", "__builtin_shufflevector", "__builtin_bit_cast",
    "__builtin_prefetch", "__builtin_expect", "__builtin_inff", "__builtin_inf", "__builtin_nanf",
)  # fmt: skip


def plain_name(name: str) -> str:
    """A function of the C library without builtin prefix and type suffix."""
    base = name.removeprefix("__builtin_")
    known = _ROWS | set(_RENAMED) | set(_ROUNDED) | _OPAQUE | {"lrint", "llrint"}
    if base not in known and base[:-1] in known and base[-1] in "fl":
        return base[:-1]
    return base


class Calls(Memory, ABC):
    """Meaning of calls; what a name does not have is refused by name."""

    trusted = False

    @abstractmethod
    def expression(self, n: Node) -> C:
        """What an expression is."""

    @abstractmethod
    def silent(self, n: Node) -> bool:
        """Whether evaluating an expression can do nothing but give a number or an address."""

    @abstractmethod
    def by_lane(self, name: str, n: Node, numbers: tuple[int, ...]) -> C:
        """A lambda for each lane: its parameter is the lane, or the lane's number."""

    def call(self, n: Node) -> C:
        name, _, numbers, _ = n.attr
        if name in _IGNORED:
            if not all(map(self.silent, n.args)):
                raise self.refuse(
                    f"an argument of {name} that reads memory, divides, calls or assigns: "
                    "compute it before, in a variable"
                )
            return C(n.type, None)
        if name == "__builtin_expect":
            return self.convert(self.expression(n.args[0]), n.type)
        if name == "__builtin_assume_aligned":
            raise self.refuse("an alignment that is assumed; state it as a fact of the plan")
        if name in ("opwright_assert", "__builtin_assume"):
            cond = self.truth(self.expression(n.args[0]))
            self.sound(cond)
            self.check(cond, "mask", "what is asserted holds")
            return C(n.type, None)
        if self.trusted and name.startswith(("v_", "i_", "r_")):
            return self.vocabulary(name, n, numbers)
        args = [self.expression(a) for a in n.args]
        return self.library(name, n, args)

    # -- the C library
    def library(self, name: str, n: Node, args: list[C]) -> C:
        base = plain_name(name)
        if base in ("max", "min", "clamp") and len(args) >= 2:
            return self.extreme(base, n.type, args)
        if base in ("abs", "labs", "llabs") and n.type.is_integer:
            return C(n.type, self.fits(call("abs", self.number(args[0])), n.type, name))
        if base in ("isnan", "isinf", "isfinite", "isinf_sign"):
            return self.classify(base.removesuffix("_sign"), n, args[0])
        if base in ("lrint", "llrint"):
            made = self.k.ew("nearest", self.real(args[0]))
            return C(n.type, self.fits(leaf("value", made, "int"), n.type, name))
        if n.type.scalar.kind != "real":
            raise self.refuse(f"the function {name} is not known")
        exprs = [a.what for a in args]
        real = all(isinstance(e, Expr) for e in exprs)
        if base in _ROUNDED:
            return self.rounded(_ROUNDED[base], n.type, args[0])
        row = _RENAMED.get(base, base)
        if row in _ROWS or row in ("abs", "max", "min"):
            if real and n.type.bits == 64:
                return C(n.type, call(row, *exprs))
            return C(n.type, self.k.ew(row, *map(self.real, args), name=self.hint or None))
        if base in _OPAQUE:
            values = [self.value(a) for a in args]
            return C(n.type, self.k.opaque(base, values, dtype_of(n.type)))
        raise self.refuse(f"the function {name} is not known")

    def classify(self, row: str, n: Node, x: C) -> C:
        v = self.real(x)
        if row == "isfinite":
            nan = leaf("value", self.k.ew("isnan", v), "bool")
            inf = leaf("value", self.k.ew("isinf", v), "bool")
            found = call("not", call("or", nan, inf))
        else:
            found = leaf("value", self.k.ew(row, v, name=self.hint or None), "bool")
        return C(n.type, found if n.type.kind != "int" else call("select", found, 1, 0))

    def rounded(self, row: str, t: CType, x: C) -> C:
        """A whole number in a real type; the integer itself is kept beside it."""
        if isinstance(x.what, Expr) and t.bits == 64:
            return C(t, call("toreal", call(row, x.what)))
        made = self.k.ew(row, self.real(x), name=self.hint or None)
        v = self.k.cast(made, dtype_of(t))
        self.whole[v] = leaf("value", made, "int")
        return C(t, v)

    def extreme(self, base: str, t: CType, args: list[C]) -> C:
        if base == "clamp":
            return self.extreme("min", t, [self.extreme("max", t, args[:2]), args[2]])
        a, b = args
        if t.scalar.kind == "real":
            if isinstance(a.what, Expr) and isinstance(b.what, Expr) and t.bits == 64:
                return C(t, call(base, a.what, b.what))
            made = self.k.ew(base, self.real(a), self.real(b), name=self.hint or None)
            return C(t, made)
        return C(t, call(base, self.number(a), self.number(b)))

    # -- the vocabulary
    def vocabulary(self, name: str, n: Node, numbers: tuple[int, ...]) -> C:
        t = n.type
        if name in ("v_lanes", "v_each", "v_map"):
            return self.by_lane(name, n, numbers)
        if name in ("v_load", "v_load_masked", "v_store", "v_stream", "v_store_masked"):
            return self.memory_call(name, n)
        args = [self.expression(a) for a in n.args]
        if name == "v_bits":
            return self.reinterpret(args[0], t)
        if name == "v_splat":
            whole = self.is_mask(args[0]) and not t.scalar.is_integer
            inner = CType("int", t.scalar.bits) if whole else t.scalar
            found = self.convert(args[0], inner).what
            return C(t, mask_of(found) if t.scalar.is_integer else found)
        if name == "v_truth":
            return C(t, self.truth(args[0]))
        if name == "v_iota":
            return C(t, self.axis(t.count).lane)
        if name == "v_prefix":
            return C(t, call("lt", self.axis(t.count).lane, self.number(args[0])))
        if name == "v_convert":
            return self.convert(args[0], t)
        if name == "v_meant":
            return C(t, self.meant(self.value(args[0])))
        if name in _REDUCED:
            return self.reduced(_REDUCED[name], t, args[0], n.args[0].type)
        if name.startswith("v_run_"):
            monoid, _, back = name.removeprefix("v_run_").partition("_")
            axis = self.axis(t.count)
            v = self.spread(self.value(args[0]), axis)
            made = self.k.scan(v, Scan(monoid, axis, back == "back"), name=self.hint or None)
            return C(t, self.held(made))
        if name in ("i_min", "i_max"):
            return C(t, call(name[2:], self.number(args[0]), self.number(args[1])))
        if name in ("i_div", "i_mod"):
            row = "floordiv" if name == "i_div" else "mod"
            return C(t, call(row, self.number(args[0]), self.number(args[1])))
        if name in ("v_floordiv", "v_floormod"):
            row = "floordiv" if name == "v_floordiv" else "mod"
            return C(t, call(row, self.number(args[0]), self.number(args[1])))
        if name in ("v_max", "v_min", "r_max", "r_min"):
            return self.extreme(name[2:], t, args)
        if name in ("v_isnan", "v_isinf"):
            found = self.k.ew(name[2:], self.real(args[0]), name=self.hint or None)
            return C(t if t.kind == "vector" else TRUTH, leaf("value", found, "bool"))
        if name in ("v_rand", "v_randn"):
            words = [self.materialise(self.number(a), I64) for a in args]
            return C(t, self.k.ew(name[2:], *words, name=self.hint or None))
        if name in _VECTOR_ROUND:
            return self.rounded(_VECTOR_ROUND[name], t, args[0])
        if name == "v_abs" and t.scalar.is_integer:
            return C(t, call("abs", self.number(args[0])))
        row = _VECTOR_NAMES.get(name, name[2:])
        if row in _VECTOR_ROWS or name in _VECTOR_NAMES:
            return C(t, self.k.ew(row, *map(self.real, args), name=self.hint or None))
        return self.storage(name, t, args[0], numbers)

    def meant(self, v: Value) -> Value:
        """A rounding that is meant: of the cast that was just read, or to the number's own type."""
        inner = v.args[0] if v.op == "cast" and v not in self.kept else v
        return self.k.define("round", (inner,), v.axes, v.dtype, None, self.hint or None)

    def is_mask(self, c: C) -> bool:
        return isinstance(c.what, Expr) and c.what.kind != "real"

    def storage(self, name: str, t: CType, c: C, numbers: tuple[int, ...]) -> C:
        """Conversions from and to formats that have no arithmetic of their own."""
        wide = {"v_from_bf16": F32, "v_from_f16": F32, "v_small": F32, "v_odd": F32}
        if name in wide:
            v = c.what
            if name == "v_odd":  # a step on the way to a narrow type, which rounds once
                return C(t, self.real(c))
            if not isinstance(v, Value) or v.dtype.kind != "real":
                raise self.refuse(f"{name} of bits that are no element of memory")
            return C(t, self.k.cast(v, F32, name=self.hint or None))
        to: DType | None = {"v_to_bf16": BF16, "v_to_f16": F16}.get(name)
        if name == "v_to_small":
            to = small(numbers)
        if to is None:
            raise self.refuse(f"{name} is not known")
        return C(t, self.k.cast(self.real(c), to, name=self.hint or None))

    def reduced(self, monoid: str, t: CType, c: C, of: CType) -> C:
        axis = self.axis(of.count)
        if monoid in ("any", "all"):
            v = self.spread(self.materialise(self.truth(c), DTYPES["bool"]), axis)
        else:
            v = self.spread(self.value(c), axis)
        made = self.k.reduce(monoid, v, axis, name=self.hint or None)
        return C(t, self.held(made))

    def memory_call(self, name: str, n: Node) -> C:
        where = self.expression(n.args[0])
        p = where.what
        if not isinstance(p, Pointer):
            raise self.refuse(f"{name} of something that is no pointer")
        if name == "v_load":
            return self.load(p, n.type)
        if name == "v_load_masked":
            mask = self.truth(self.expression(n.args[1]))
            given = self.expression(n.args[2])
            other = self.filler(given, p.buffer.dtype)
            if other is None:  # a number that is not known beforehand is chosen afterwards
                found = self.load(p, n.type, mask)
                return self.choose(mask, found, self.convert(given, n.type), n.type)
            return self.load(p, n.type, mask, other)
        if name == "v_store_masked":
            mask = self.truth(self.expression(n.args[1]))
            c = self.expression(n.args[2])
            self.store(p, c, mask, self.memory_type(n.args[2].type))
            return C(n.type, None)
        c = self.expression(n.args[1])
        t = self.memory_type(n.args[1].type)
        if name == "v_stream":
            self.aligned(p, t, self.facts)
        self.store(p, c, t=t)
        return C(n.type, None)

    def memory_type(self, t: CType) -> CType:
        return t


def mask_of(what: Any) -> Any:
    """-(i32)c is the truth value c in a vector."""
    if isinstance(what, Expr) and what.op == "neg" and what.args[0].op == "select":
        a, b = what.args[0].args[1:]
        if a is const(1) and b is ZERO:
            return what.args[0].args[0]
    return what


def small(numbers: tuple[int, ...]) -> DType:
    """The format of BITS, M, BIAS, KIND."""
    kinds = {"ieee": 0, "fn": 1, "fnuz": 2, "none": 3}
    for d in DTYPES.values():
        if d.kind == "real" and (d.bits, d.mantissa, d.bias, kinds[d.finite]) == numbers[:4]:
            return d
    raise ValueError(f"no format has the numbers {numbers}")
