"""Python text of elementwise operations, literals and types for JAX; terms with named axes.

A term's array has one axis per index variable, in the order of the scope it stands in; `aligned`
gives it the axes of a larger scope by indexing with None.
"""

from __future__ import annotations

import keyword
import math
from collections.abc import Sequence
from dataclasses import dataclass

from opwright.ir.dtypes import DType
from opwright.ir.expr import Expr

# how tightly Python binds; an operand that binds less is put in parentheses
TERNARY, OR, AND, NOT, COMPARE, BIT_OR, BIT_AND, SUM, PRODUCT, UNARY, POWER, ATOM = range(12)

_GLOBALS = frozenset("jax jnp lax math partial carry float int bool max min abs None".split())

DTYPES_OF_JAX = {
    "f16": "jnp.float16", "bf16": "jnp.bfloat16", "f32": "jnp.float32", "tf32": "jnp.float32",
    "f8e4m3": "jnp.float8_e4m3fn", "f8e5m2": "jnp.float8_e5m2",
    "f8e4m3fnuz": "jnp.float8_e4m3fnuz", "f8e5m2fnuz": "jnp.float8_e5m2fnuz",
    "f4e2m1": "jnp.float4_e2m1fn",
    "i32": "jnp.int32", "i16": "jnp.int16", "i8": "jnp.int8", "i4": "jnp.int4",
    "u64": "jnp.uint64", "u32": "jnp.uint32", "u16": "jnp.uint16", "u8": "jnp.uint8",
    "u4": "jnp.uint4", "bool": "bool",
    # JAX's default types: 64 bits under jax_enable_x64 and 32 bits without, never a warning
    "f64": "float", "i64": "int",
}  # fmt: skip


class PrintError(ValueError):
    """The operator asks for something that this printer has no array code for."""


@dataclass(frozen=True, slots=True)
class Term:
    """Text of a value: `axes` are index variables in scope order, `level` how tightly it binds.

    `dtype` is the stored type where the value is what an array holds, None for values in compute
    precision. A `static` term is a Python number, known when the function is traced.
    """

    code: str
    axes: tuple[str, ...]
    kind: str
    level: int = ATOM
    dtype: DType | None = None
    static: bool = False

    def at(self, level: int) -> str:
        """The text where an operand must bind at least this tightly."""
        return self.code if self.level >= level else f"({self.code})"


class Names:
    """Injective Python identifiers: no keyword, no name that the printed module uses."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._given: dict[object, str] = {}

    def give(self, key: object, wanted: str) -> str:
        """The identifier of `key`, made from `wanted` at first."""
        if key not in self._given:
            self._given[key] = self.fresh(wanted)
        return self._given[key]

    def fresh(self, wanted: str) -> str:
        base = identifier(wanted)
        name, n = base, 1
        while name in self._taken:
            n += 1
            name = f"{base}_{n}"
        self._taken.add(name)
        return name


def identifier(wanted: str) -> str:
    """A name of the spec as a Python identifier; injective up to a trailing underscore."""
    base = "".join(c if c.isalnum() and c.isascii() else "_" for c in wanted) or "_"
    base = f"_{base}" if base[0].isdigit() else base
    return f"{base}_" if keyword.iskeyword(base) or base in _GLOBALS else base


def jax_type(d: DType) -> str:
    """The type as it is written in JAX; PrintError where JAX has none."""
    if d.name not in DTYPES_OF_JAX:
        raise PrintError(f"JAX has no type {d}")
    return DTYPES_OF_JAX[d.name]


def literal(e: Expr) -> Term:
    """A constant."""
    value = e.attr
    if isinstance(value, bool):
        return Term(str(value), (), "bool", ATOM, None, True)
    if isinstance(value, float) and not math.isfinite(value):
        code = "jnp.nan" if math.isnan(value) else "jnp.inf" if value > 0 else "-jnp.inf"
    else:
        code = repr(value)
    return Term(code, (), e.kind, UNARY if code.startswith("-") else ATOM, None, True)


def aligned(t: Term, axes: Sequence[str]) -> Term:
    """The term indexed so that it broadcasts over `axes`, which contain its own in order."""
    marks = [":" if a in t.axes else "None" for a in axes]
    while marks and marks[0] == "None":
        marks.pop(0)
    if "None" not in marks:
        return t
    if set(marks[marks.index("None") :]) == {"None"} and len(marks) > 3:
        marks = ["...", *marks[marks.index("None") :]]
    return Term(f"{t.at(ATOM)}[{', '.join(marks)}]", tuple(axes), t.kind, ATOM, t.dtype)


_INFIX = {
    "add": (" + ", SUM), "sub": (" - ", SUM), "mul": (" * ", PRODUCT), "div": (" / ", PRODUCT),
    "floordiv": (" // ", PRODUCT), "mod": (" % ", PRODUCT),
    "lt": (" < ", COMPARE), "le": (" <= ", COMPARE), "eq": (" == ", COMPARE),
    "ne": (" != ", COMPARE), "approx": (" == ", COMPARE),
    "and": (" & ", BIT_AND), "or": (" | ", BIT_OR),
}  # fmt: skip
_NUMPY = {
    "exp": "jnp.exp", "exp2": "jnp.exp2", "expm1": "jnp.expm1", "log": "jnp.log",
    "log2": "jnp.log2", "log1p": "jnp.log1p", "sqrt": "jnp.sqrt", "rsqrt": "lax.rsqrt",
    "sin": "jnp.sin", "cos": "jnp.cos", "tan": "jnp.tan", "sinh": "jnp.sinh", "cosh": "jnp.cosh",
    "tanh": "jnp.tanh", "asin": "jnp.arcsin", "acos": "jnp.arccos", "atan": "jnp.arctan",
    "erf": "lax.erf", "sigmoid": "jax.nn.sigmoid", "pow": "jnp.power", "abs": "jnp.abs",
    "min": "jnp.minimum", "max": "jnp.maximum", "isnan": "jnp.isnan", "isinf": "jnp.isinf",
    "select": "jnp.where",
}  # fmt: skip
_ROUND = {"floor": "jnp.floor", "ceil": "jnp.ceil", "trunc": "jnp.trunc", "nearest": "jnp.rint"}
_MATH = {
    "exp": "math.exp", "expm1": "math.expm1", "log": "math.log", "log2": "math.log2",
    "log1p": "math.log1p", "sqrt": "math.sqrt", "sin": "math.sin", "cos": "math.cos",
    "tan": "math.tan", "sinh": "math.sinh", "cosh": "math.cosh", "tanh": "math.tanh",
    "asin": "math.asin", "acos": "math.acos", "atan": "math.atan", "erf": "math.erf",
    "pow": "math.pow", "floor": "math.floor", "ceil": "math.ceil", "trunc": "math.trunc",
    "nearest": "round", "abs": "abs", "min": "min", "max": "max", "isnan": "math.isnan",
    "isinf": "math.isinf", "exp2": "math.exp2",
}  # fmt: skip

REALS = ("jnp.float32", "jnp.float64")  # what real numbers are computed in
RANDOM = {
    "rand": """\
@jax.jit
def rand(seed, position, stream):
    return (philox(seed, position, stream)[0] >> 8).astype(REAL) * 2.0**-24
""",
    "randn": """\
@jax.jit
def randn(seed, position, stream):
    a, b = philox(seed, position, stream)
    u = ((a >> 8).astype(float) + 1.0) * 2.0**-24
    angle = (b >> 8).astype(float) * (2.0 * math.pi * 2.0**-24)
    return (jnp.sqrt(-2.0 * jnp.log(u)) * jnp.cos(angle)).astype(REAL)
""",
}
PHILOX = '''\
def multiply(m, x):
    """The high and the low word of a product of words of 32 bits."""
    m = jnp.uint32(m)
    low, high = x & jnp.uint32(0xFFFF), x >> 16
    a, b, c = low * (m & 0xFFFF), low * (m >> 16), high * (m & 0xFFFF)
    middle = (a >> 16) + (b & 0xFFFF) + (c & 0xFFFF)
    return high * (m >> 16) + (b >> 16) + (c >> 16) + (middle >> 16), x * m


def philox(seed, position, stream):
    """Words 0 and 1 of Philox4x32-10; the counter is position, stream, 0."""
    seed, position = jnp.asarray(seed), jnp.asarray(position)
    k0, k1 = seed.astype(jnp.uint32), (seed >> 32).astype(jnp.uint32)
    a, b = position.astype(jnp.uint32), (position >> 32).astype(jnp.uint32)
    c, d = jnp.asarray(stream).astype(jnp.uint32), jnp.uint32(0)
    for _ in range(10):
        p, q = multiply(0xD2511F53, a), multiply(0xCD9E8D57, c)
        a, b, c, d = q[0] ^ b ^ k0, q[1], p[0] ^ d ^ k1, p[1]
        k0, k1 = k0 + jnp.uint32(0x9E3779B9), k1 + jnp.uint32(0xBB67AE85)
    return a, b
'''


def random_texts() -> dict[str, list[str]]:
    """What printed functions of random numbers are, with all that they need, by name."""
    head = "import math\n\nimport jax\nimport jax.numpy as jnp\n\n\n"
    return {
        name: [f"{head}{PHILOX}\n\n{text.replace('REAL', real)}" for real in REALS]
        for name, text in RANDOM.items()
    }


def operation(name: str, args: Sequence[Term], axes: tuple[str, ...], kind: str) -> Term:
    """An elementwise operation on terms that are aligned to `axes`."""
    if name in RANDOM:
        return Term(f"{name}({', '.join(a.code for a in args)})", axes, kind)
    if all(a.static for a in args):
        return _static(name, args, kind)

    def term(code: str, level: int = ATOM) -> Term:
        return Term(code, axes, kind, level)

    if name in _INFIX:
        sign, level = _INFIX[name]
        # comparisons do not chain, and what is subtracted or divided by must bind tighter
        left = level + 1 if level == COMPARE else level
        return term(f"{args[0].at(left)}{sign}{args[1].at(level + 1)}", level)
    if name == "neg":
        return term(f"-{args[0].at(UNARY)}", UNARY)
    if name == "not":
        return term(f"~{args[0].at(UNARY)}", UNARY)
    if name == "fma":
        a, b, c = args
        return term(f"{a.at(PRODUCT)} * {b.at(UNARY)} + {c.at(PRODUCT)}", SUM)
    if name in _ROUND:
        return term(f"{_ROUND[name]}({args[0].code}).astype(int)")
    if name not in _NUMPY:
        raise PrintError(f"no JAX function for {name}")
    return term(f"{_NUMPY[name]}({', '.join(a.code for a in args)})")


def _static(name: str, args: Sequence[Term], kind: str) -> Term:
    def term(code: str, level: int = ATOM) -> Term:
        return Term(code, (), kind, level, None, True)

    if name in ("and", "or"):
        level = AND if name == "and" else OR
        return term(f"{args[0].at(level)} {name} {args[1].at(level + 1)}", level)
    if name == "not":
        return term(f"not {args[0].at(NOT)}", NOT)
    if name == "select":
        c, a, b = args
        return term(f"{a.at(OR)} if {c.at(OR)} else {b.at(TERNARY)}", TERNARY)
    if name == "rsqrt":
        return term(f"1 / math.sqrt({args[0].code})", PRODUCT)
    if name == "sigmoid":
        return term(f"1 / (1 + math.exp(-{args[0].at(UNARY)}))", PRODUCT)
    if name == "neg":
        return term(f"-{args[0].at(UNARY)}", UNARY)
    if name == "fma":
        a, b, c = args
        return term(f"{a.at(PRODUCT)} * {b.at(UNARY)} + {c.at(PRODUCT)}", SUM)
    if name in _INFIX:
        sign, level = _INFIX[name]
        left = level + 1 if level == COMPARE else level
        return term(f"{args[0].at(left)}{sign}{args[1].at(level + 1)}", level)
    return term(f"{_MATH[name]}({', '.join(a.code for a in args)})")


def half(d: DType | None) -> bool:
    """A stored real type in which nothing is computed."""
    return d is not None and d.kind == "real" and d.bits < 32


def wrapped(line: str, width: int = 96) -> list[str]:
    """A statement, its last call broken over lines where it is too long for one."""
    if len(line) <= width or not line.endswith(")"):
        return [line]
    depth, start, cuts = 0, -1, []
    for n in range(len(line) - 1, -1, -1):
        c = line[n]
        depth += (c in ")]}") - (c in "([{")
        if depth == 0:
            start = n
            break
        if depth == 1 and line[n : n + 2] == ", ":
            cuts.append(n)
    if (
        start < 0
        or line[start] != "("
        or start == 0
        or not (line[start - 1].isalnum() or line[start - 1] == "_")
    ):
        return [line]
    inside = line[start + 1 : -1]
    if len(inside) + 4 <= width:
        return [line[: start + 1], f"    {inside}", ")"]
    parts, last = [], start + 1
    for cut in reversed(cuts):
        parts.append(line[last:cut])
        last = cut + 2
    parts.append(line[last:-1])
    out = [line[: start + 1]]
    for part in parts:
        out += [f"    {row}" for row in wrapped(f"{part},", width - 4)]
    return [*out, ")"]
