"""CUDA C++ text of types, literals, index expressions and rows of the semantics table."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from opwright.backends.cpp.scalar import PrintError, is_natural
from opwright.backends.cuda.library import LOADED, TEXTS
from opwright.backends.cuda.library import ROWS as DRAWN
from opwright.ir.dtypes import BOOL, DType, integer_range
from opwright.ir.expr import Expr, show

TYPES = {
    "f64": "double", "f32": "float", "tf32": "float", "f16": "__half", "bf16": "__nv_bfloat16",
    "i64": "int64_t", "i32": "int32_t", "i16": "int16_t", "i8": "int8_t",
    "u64": "uint64_t", "u32": "uint32_t", "u16": "uint16_t", "u8": "uint8_t", "bool": "bool",
}  # fmt: skip
SMALL = {kind: load for load, kind in LOADED.items()}  # loaded as f32, never stored
HEADERS = {"__half": "cuda_fp16.h", "__nv_bfloat16": "cuda_bf16.h"}
RANDOM = {op: name for name, op in DRAWN.items()}
HALVES = {"f16": "half", "bf16": "bfloat16"}

HELPERS = {
    "floor_div": (
        "__device__ __forceinline__ int64_t floor_div(int64_t a, int64_t b) {\n"
        "  return a >= 0 ? a / b : -((b - 1 - a) / b);\n}\n"
    ),
    "floor_mod": (
        "__device__ __forceinline__ int64_t floor_mod(int64_t a, int64_t b) {\n"
        "  return a >= 0 ? a % b : b - 1 - (b - 1 - a) % b;\n}\n"
    ),
    "maximum": "",
    "minimum": "",
    **TEXTS,
}
for _name, _sign in (("maximum", ">"), ("minimum", "<")):
    HELPERS[_name] = "".join(
        f"__device__ __forceinline__ {t} {_name}({t} a, {t} b) {{\n"
        f"  return a {_sign} b || a != a ? a : b;\n}}\n"
        for t in ("float", "double")
    )

_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "eq": "==",
    "ne": "!=", "approx": "==", "and": "&&", "or": "||",
}  # fmt: skip
_FUNCTIONS = frozenset(
    """exp exp2 expm1 log log2 log1p sqrt rsqrt sin cos tan sinh cosh tanh asin acos atan erf
    pow""".split()
)
_ROUND = {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "nearest": "rint"}
COMBINE = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "all": "and"}


def type_name(d: DType) -> str:
    """The type of an element; PrintError where CUDA C++ has none that kernels may use here."""
    if d.name in SMALL:
        return "float"
    if d.name not in TYPES:
        raise PrintError(f"{d.name} has no type in CUDA texts")
    return TYPES[d.name]


def memory_name(d: DType) -> str:
    """The type of an element in memory."""
    return "uint8_t" if d.name in SMALL else type_name(d)


def computed(d: DType) -> bool:
    """Whether there is arithmetic in a type; others are loaded, stored and converted."""
    return d.name not in HALVES and d.name not in SMALL


def literal(value: float | int | bool, d: DType) -> str:
    """A constant of an element type."""
    if d.kind == "bool":
        return "true" if value else "false"
    if d.kind == "int":
        low, high = integer_range(d)
        n = high if value == math.inf else low if value == -math.inf else int(value)
        return integer(max(low, min(high, n)))
    if d.name in HALVES:
        return f"__float2{HALVES[d.name]}({_real(float(value), 'f')})"
    if d.name == "f64":
        return _real(float(value), "")
    return _real(float(np.float32(value)), "f")


def _real(x: float, suffix: str) -> str:
    if math.isnan(x):
        return f'__builtin_nan{suffix}("")'
    if math.isinf(x):
        return f"{'-' if x < 0 else ''}__builtin_inf{suffix}()"
    return f"{x!r}{suffix}"


def integer(n: int) -> str:
    """An integer constant."""
    if n == -(2**63):
        return "(-9223372036854775807LL - 1)"
    wide = "LL" if not -(2**31) < n < 2**31 else ""
    return f"{n}{wide}" if n >= 0 else f"({n}{wide})"


def bare(text: str) -> str:
    """Without parentheses around the whole."""
    if not (text.startswith("(") and text.endswith(")")):
        return text
    depth = 0
    for n, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0 and n < len(text) - 1:
            return text
    return text[1:-1]


def convert(x: str, source: DType, to: DType) -> str:
    """A cast: reals round to nearest even, truth values are 0 and 1."""
    if source == to or {source.name, to.name} == {"f32", "tf32"}:
        return x
    if to.name in SMALL:
        raise PrintError(f"a conversion to {to.name} has no form in CUDA texts")
    if source.name in SMALL:
        return x if to.name in ("f32", "tf32") else convert_plain(x, to)
    if source.name in HALVES:
        wide = f"__{HALVES[source.name]}2float({x})"
        return wide if to.name in ("f32", "tf32") else convert_plain(wide, to)
    return convert_plain(x, to, source)


def convert_plain(x: str, to: DType, source: DType | None = None) -> str:
    if to.name in HALVES:
        if source is not None and source.name == "f64":
            return f"__double2{HALVES[to.name]}({x})"
        return f"__float2{HALVES[to.name]}((float){x})"
    if to.kind == "bool":
        return f"({x} != 0)"
    if source is not None and source.kind == "bool":
        return f"({x} ? {literal(1, to)} : {literal(0, to)})"
    return f"({type_name(to)}){x}"


def row(op: str, args: list[str], like: DType, out: DType) -> str:
    """Text of one elementwise operation on names or parenthesised texts; `like` is the type of its
    numeric operands."""
    if not computed(like) and op != "select":
        raise PrintError(f"{op} on {like.name}: cast to f32 first")
    real = like.kind == "real"
    suffix = "" if like.name == "f64" else "f"
    if op in _INFIX:
        return f"({args[0]} {_INFIX[op]} {args[1]})"
    if op == "neg":
        return f"(-{args[0]})"
    if op == "not":
        return f"(!{args[0]})"
    if op == "select":
        return f"({args[0]} ? {args[1]} : {args[2]})"
    if op == "fma":
        return f"fma{suffix}({', '.join(args)})"
    if op == "abs":
        return f"fabs{suffix}({args[0]})" if real else f"({args[0]} < 0 ? -{args[0]} : {args[0]})"
    if op in ("min", "max"):
        if real:
            return f"{op}imum({args[0]}, {args[1]})"
        kind = type_name(like)
        return f"{op}(({kind}){args[0]}, ({kind}){args[1]})"
    if op in ("floordiv", "mod"):
        return f"floor_{'div' if op == 'floordiv' else 'mod'}({args[0]}, {args[1]})"
    if op == "toreal":
        return f"({type_name(out)}){args[0]}"
    if op in _ROUND:
        return f"({type_name(out)}){_ROUND[op]}{suffix}({args[0]})"
    if op == "isnan":
        return f"({args[0]} != {args[0]})"
    if op == "isinf":
        return f"(fabs{suffix}({args[0]}) == __builtin_inf{suffix}())"
    if op == "sigmoid":
        one = "1.0f" if suffix else "1.0"
        return f"({one} / ({one} + exp{suffix}(-{args[0]})))"
    if op in RANDOM:
        words = ", ".join(f"(int64_t){a}" for a in args)
        text = f"{RANDOM[op]}({words})"
        return text if out.name == "f32" else f"({type_name(out)}){text}"
    if op in _FUNCTIONS:
        return f"{op}{suffix}({', '.join(args)})"
    raise PrintError(f"{op} has no form in CUDA texts")


class Expressions:
    """Prints index expressions: integers of 64 bits, truth values; reals in a type of choice.

    `leaf` prints leaves, `natural` says which leaves are never negative.
    """

    def __init__(
        self, leaf: Callable[[Expr], str], natural: Callable[[Expr], bool] = lambda e: False
    ) -> None:
        self.leaf, self.natural = leaf, natural

    def text(self, e: Expr) -> str:
        """Parenthesised unless a leaf or a call."""
        if e.op == "const":
            return literal(e.attr, BOOL) if e.kind == "bool" else integer(e.attr)
        if not e.args:
            return self.leaf(e)
        if e.kind == "real" or any(a.kind == "real" for a in e.args):
            raise PrintError(f"{show(e)}: an index is no function of real numbers")
        a = [self.text(x) for x in e.args]
        if e.op in _INFIX and e.op != "div":
            return f"({a[0]} {_INFIX[e.op]} {a[1]})"
        if e.op in ("min", "max"):
            return f"{e.op}((int64_t){a[0]}, (int64_t){a[1]})"
        if e.op in ("floordiv", "mod"):
            if all(is_natural(x, self.natural) for x in e.args):
                return f"({a[0]} {'/' if e.op == 'floordiv' else '%'} {a[1]})"
            return f"floor_{'div' if e.op == 'floordiv' else 'mod'}({a[0]}, {a[1]})"
        simple = {
            "neg": lambda: f"(-{a[0]})",
            "not": lambda: f"(!{a[0]})",
            "select": lambda: f"({a[0]} ? {a[1]} : {a[2]})",
            "abs": lambda: f"max((int64_t){a[0]}, -(int64_t){a[0]})",
        }
        if e.op in simple:
            return simple[e.op]()
        raise PrintError(f"{show(e)} has no form in CUDA texts")

    def real(self, e: Expr, d: DType) -> str:
        """A real expression over sizes and params, computed in a type."""
        if e.op == "const":
            return literal(e.attr, d)
        if e.op == "toreal":
            return f"({type_name(d)}){self.text(e.args[0])}"
        if not e.args:
            return f"({type_name(d)}){self.leaf(e)}"
        if e.op in ("cast", "round"):
            return self.real(e.args[0], d)
        args = [self.real(x, d) if x.kind == "real" else self.text(x) for x in e.args]
        return row(e.op, args, d, d)
