"""C++ text of scalars: identifiers, element types, literals, expressions over i64, double, bool."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from opwright.backends.cpp.vocabulary import is_vector_type, names
from opwright.ir.dtypes import DTYPES, DType, encode, integer_range
from opwright.ir.expr import Expr, show

_KEYWORDS = frozenset(
    """alignas alignof and and_eq asm auto bitand bitor bool break case catch char char8_t char16_t
    char32_t class compl concept const consteval constexpr constinit const_cast continue co_await
    co_return co_yield decltype default delete do double dynamic_cast else enum explicit export
    extern false float for friend goto if inline int long mutable namespace new noexcept not
    not_eq nullptr operator or or_eq private protected public register reinterpret_cast requires
    return short signed sizeof static static_assert static_cast struct switch template this
    thread_local throw true try typedef typeid typename union unsigned using virtual void volatile
    wchar_t while xor xor_eq typeof linux unix main""".split()
)
# symbols of the C library that generated code or the compiler may call
_LIBRARY = frozenset(
    """exp exp2 expm1 log log2 log1p sqrt sin cos tan sinh cosh tanh asin acos atan erf pow floor
    ceil trunc rint fabs fma fmin fmax abs malloc free calloc realloc memcpy memset memmove memcmp
    dlopen dlsym getenv sysconf abort exit read write open close time signal index select""".split()
)


class PrintError(ValueError):
    """The program or its placement asks for something that C++ text cannot express."""


class Names:
    """Injective C++ identifiers: no keyword, no word of the vocabulary, no double underscore."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._given: dict[object, str] = {}

    def give(self, key: object, wanted: str) -> str:
        """The identifier of `key`, made from `wanted` at first."""
        if key not in self._given:
            base = "".join(c if c.isalnum() and c.isascii() else "_" for c in wanted)
            while "__" in base:
                base = base.replace("__", "_")
            base = base.strip("_") or "t"
            base = f"t{base}" if base[0].isdigit() else base
            name, n = base, 1
            while name in self._taken or is_reserved(name):
                n += 1
                name = f"{base}_{n}"
            self._taken.add(name)
            self._given[key] = name
        return self._given[key]

    def alias(self, key: object, other: object) -> None:
        """Let `key` be another name of what `other` names."""
        self._given[key] = self._given[other]


def is_reserved(word: str) -> bool:
    """Whether a local name would hide a keyword or a word of the vocabulary."""
    return word in _KEYWORDS or word in names() or is_vector_type(word)


def symbol(kernel: str) -> str:
    """The exported C name of a kernel: its own, unless C++ or the C library has that word."""
    taken = is_reserved(kernel) or kernel in _LIBRARY or kernel.rstrip("fl") in _LIBRARY
    return f"{kernel}_kernel" if taken else kernel


def element(d: DType) -> str:
    """Element type in memory: floats without arithmetic of their own are their bits."""
    if d.kind == "bool":
        return "bool"
    if d.name in ("f32", "tf32"):
        return "float"
    if d.name == "f64":
        return "double"
    bits = max(8, d.bits)
    return f"u{bits}" if d.kind == "real" else f"{d.name[0]}{bits}"


def lane_type(d: DType) -> str:
    """The prefix of the vector type of memory elements, `f32` in `f32x8`."""
    return {"float": "f32", "double": "f64", "bool": "u8"}.get(element(d), element(d))


def is_computed(d: DType) -> bool:
    """Whether values of the type take part in arithmetic; others are loaded, stored and cast."""
    return d.name in ("f32", "tf32", "f64", "i64", "i32", "bool")


def literal(value: float | int | bool, d: DType) -> str:
    """A constant of an element type, rounded as `encode` rounds."""
    if d.kind == "bool":
        return "true" if value else "false"
    if d.kind == "int":
        low, high = integer_range(d)
        n = high if value == math.inf else low if value == -math.inf else int(value)
        return integer(max(low, min(high, n)))
    if not is_computed(d):
        return str(
            int(encode(np.asarray([value], np.float64), d)[0].view(f"u{max(1, d.bits // 8)}"))
        )
    suffix = "" if d.name == "f64" else "f"
    x = float(value) if d.name == "f64" else float(np.float32(value))
    if math.isnan(x):
        return f'__builtin_nan{suffix}("")'
    if math.isinf(x):
        return f"{'-' if x < 0 else ''}__builtin_inf{suffix}()"
    return f"{x!r}{suffix}"


def integer(n: int) -> str:
    """An integer constant; the least i64 has no literal of its own."""
    if n == -(2**63):
        return "(-9223372036854775807 - 1)"
    return f"{n}u" if n > 2**63 - 1 else str(n)


def is_natural(e: Expr, context: Callable[[Expr], bool]) -> bool:
    """Whether an integer expression is surely >= 0; `context` answers for variables and values."""
    if e.op == "const":
        return bool(e.attr >= 0)
    if e.op in ("size", "pid", "lane"):
        return True
    if e.op in ("add", "mul", "min", "floordiv", "mod"):
        return all(is_natural(a, context) for a in e.args)
    if e.op == "max":
        return any(is_natural(a, context) for a in e.args)
    if e.op == "select":
        return all(is_natural(a, context) for a in e.args[1:])
    return e.op == "abs" or context(e)


_INFIX = {
    "add": "+", "sub": "-", "mul": "*", "lt": "<", "le": "<=", "eq": "==", "ne": "!=",
    "and": "&&", "or": "||", "div": "/",
}  # fmt: skip
_REAL = {
    "exp": "exp", "exp2": "exp2", "expm1": "expm1", "log": "log", "log2": "log2", "log1p": "log1p",
    "sqrt": "sqrt", "sin": "sin", "cos": "cos", "tan": "tan", "sinh": "sinh", "cosh": "cosh",
    "tanh": "tanh", "asin": "asin", "acos": "acos", "atan": "atan", "erf": "erf", "pow": "pow",
    "abs": "fabs", "fma": "fma",
}  # fmt: skip
_ROUND = {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "nearest": "rint"}


class Scalars:
    """Prints expressions: integers as i64, reals as double, predicates as bool.

    `leaf_text` prints leaves; `natural` answers for leaves in floor divisions.
    """

    def __init__(
        self, leaf_text: Callable[[Expr], str], natural: Callable[[Expr], bool] = lambda e: False
    ) -> None:
        self.leaf_text, self.natural = leaf_text, natural

    def text(self, e: Expr) -> str:
        """Parenthesised unless a leaf or a call."""
        if e.op == "const":
            if e.kind == "real":
                return literal(e.attr, DTYPES["f64"])
            return literal(e.attr, DTYPES["bool"]) if e.kind == "bool" else integer(e.attr)
        if not e.args:
            return self.leaf_text(e)
        a = [self.text(x) for x in e.args]
        if e.op in _INFIX:
            return f"({a[0]} {_INFIX[e.op]} {a[1]})"
        special: Mapping[str, Callable[[], str]] = {
            "neg": lambda: f"(-{a[0]})",
            "not": lambda: f"(!{a[0]})",
            "select": lambda: f"({a[0]} ? {a[1]} : {a[2]})",
            "toreal": lambda: f"(double){a[0]}",
            "cast": lambda: self._cast(e, a[0]),
            "round": lambda: self._cast(e, a[0]),
            "sigmoid": lambda: f"(1.0 / (1.0 + __builtin_exp(-{a[0]})))",
            "rsqrt": lambda: f"(1.0 / __builtin_sqrt({a[0]}))",
            "isnan": lambda: f"__builtin_isnan({a[0]})",
            "isinf": lambda: f"(__builtin_isinf({a[0]}) != 0)",
            "min": lambda: f"{'r' if e.kind == 'real' else 'i'}_min({a[0]}, {a[1]})",
            "max": lambda: f"{'r' if e.kind == 'real' else 'i'}_max({a[0]}, {a[1]})",
            "floordiv": lambda: self._floor("/", "i_div", e, a),
            "mod": lambda: self._floor("%", "i_mod", e, a),
        }
        if e.op == "abs" and e.kind == "int":
            return f"i_max({a[0]}, -{a[0]})"
        if e.op in special:
            return special[e.op]()
        if e.op in _ROUND:
            return f"(i64)__builtin_{_ROUND[e.op]}({a[0]})"
        if e.op in _REAL:
            return f"__builtin_{_REAL[e.op]}({', '.join(a)})"
        raise PrintError(f"{show(e)} has no scalar C++ form")

    def _floor(self, operator: str, function: str, e: Expr, a: list[str]) -> str:
        """C++ truncates; equal to floor where neither operand is negative."""
        if all(is_natural(x, self.natural) for x in e.args):
            return f"({a[0]} {operator} {a[1]})"
        return f"{function}({a[0]}, {a[1]})"

    def _cast(self, e: Expr, a: str) -> str:
        d: DType = e.attr
        if d.kind == "bool" or d.name == "i64":
            return a
        if d.kind == "real" and (e.op == "cast" or d.name == "f64"):
            return a
        if d.kind == "real" and d.name != "f32":
            raise PrintError(f"{show(e)}: an index expression rounds to f32 or f64 only")
        if d.kind == "real":
            return f"(double)(float){a}"
        return f"(i64)({element(d)}){a}"
