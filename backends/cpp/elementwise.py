"""C++ text of the semantics table's rows, casts and reductions, for scalars and vectors."""

from __future__ import annotations

from opwright.backends.cpp.scalar import PrintError, element, is_computed, lane_type
from opwright.backends.cpp.vocabulary import small_format
from opwright.ir.dtypes import BOOL, F32, F64, I32, DType

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/"}
_COMPARE = {"lt": "<", "le": "<=", "eq": "==", "ne": "!="}
_ROUND = {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "nearest": "rint"}
_FUNCTIONS = frozenset(
    """exp exp2 expm1 log log2 log1p sqrt rsqrt sin cos tan sinh cosh tanh asin acos atan erf
    sigmoid""".split()
)
_F64 = {  # the C library's function, or an expression in it
    "sigmoid": "1.0 / (1.0 + __builtin_exp(-{0}))",
    "rsqrt": "1.0 / __builtin_sqrt({0})",
}
_REDUCE = {
    "sum": "v_sum",
    "prod": "v_prod",
    "max": "v_highest",
    "min": "v_lowest",
    "any": "v_any",
    "all": "v_all",
}
SCANNED = {"sum": "v_run_sum", "prod": "v_run_prod", "max": "v_run_max", "min": "v_run_min"}
_COMBINE = {
    "sum": "({0} + {1})",
    "prod": "({0} * {1})",
    "max": "v_max({0}, {1})",
    "min": "v_min({0}, {1})",
}


def value_type(d: DType, lanes: int) -> str:
    """The C++ type of a value; a truth value beside vectors is a vector of i32."""
    if lanes == 1:
        return element(d)
    return f"i32x{lanes}" if d is BOOL else f"{lane_type(d)}x{lanes}"


def memory_type(d: DType, lanes: int) -> str:
    """The C++ type of what a load reads before it becomes a value."""
    return element(d) if lanes == 1 else f"{lane_type(d)}x{lanes}"


def mask_lanes(text: str, operand: DType, lanes: int) -> str:
    """A vector comparison of operands of this type as a vector of i32."""
    return f"v_convert<i32x{lanes}>({text})" if operand.bits == 64 else text


def row(op: str, args: list[str], like: DType, out: DType, lanes: int) -> str:
    """Text of one elementwise operation; `like` is the type of the numeric operands.

    Every argument is a name; vector arguments and uniform ones may mix in arithmetic, while
    functions and truth values need `args` of the full lane count (see `mixes`).
    """
    if not is_computed(like):
        raise PrintError(f"{op} on {like}: cast to f32 first, {like} is a storage type")
    vector, real = lanes > 1, like.kind == "real"
    if op in _INFIX:
        return f"{args[0]} {_INFIX[op]} {args[1]}"
    if op == "fma":
        return f"{args[0]} * {args[1]} + {args[2]}"
    if op == "neg":
        return f"-{args[0]}"
    if op in _COMPARE:
        text = f"{args[0]} {_COMPARE[op]} {args[1]}"
        if like is BOOL and vector:
            return f"({args[0]} ^ {args[1]}){' == 0' if op == 'eq' else ''}"
        return mask_lanes(text, like, lanes) if vector else text
    if op in ("and", "or"):
        c = "&" if op == "and" else "|"
        return f"{args[0]} {c if vector else c + c} {args[1]}"
    if op == "not":
        return f"{'~' if vector else '!'}{args[0]}"
    if op == "select":
        c = f"v_convert<i64x{lanes}>({args[0]})" if vector and like.bits == 64 else args[0]
        return f"{c} ? {args[1]} : {args[2]}"
    if op in ("min", "max"):
        return f"v_{op}({args[0]}, {args[1]})"
    if op in ("floordiv", "mod"):
        text = f"v_{'floordiv' if op == 'floordiv' else 'floormod'}({args[0]}, {args[1]})"
        return convert(text, like, out, lanes)
    if op == "abs":
        return f"v_{'positive' if like.bits == 32 and real else 'abs'}({args[0]})"
    if op == "pow":
        return f"v_pow({args[0]}, {args[1]})"
    if op in ("rand", "randn"):
        return f"v_{op}<{value_type(out, lanes)}>({', '.join(args)})"
    if op in ("isnan", "isinf"):
        text = f"v_{op}({args[0]})"
        return mask_lanes(text, like, lanes) if vector else text
    if op == "toreal":
        return convert(args[0], like, out, lanes)
    if op in _ROUND:
        return convert(_function(_ROUND[op], args[0], like, lanes), like, out, lanes)
    if op in _FUNCTIONS:
        return _function(op, args[0], like, lanes)
    raise PrintError(f"{op} has no C++ form")


def mixes(op: str) -> bool:
    """Whether a row takes uniform scalars beside vectors as they are."""
    return op in _INFIX or op in _COMPARE or op == "fma"


def _function(name: str, x: str, d: DType, lanes: int) -> str:
    if d is not F64:
        return f"v_{name}({x})"
    if name == "sqrt" and lanes > 1:
        return f"v_root({x})"
    body = _F64.get(name, f"__builtin_{name}({{0}})")
    if lanes == 1:
        return body.format(x)
    return f"v_map({x}, [](double a) {{ return {body.format('a')}; }})"


def convert(x: str, source: DType, to: DType, lanes: int) -> str:
    """A cast: integers wrap, reals round to nearest even, NaN is kept, truth values are 0 and 1."""
    if source is to or (source.name, to.name) in (("f32", "tf32"), ("tf32", "f32")):
        return x
    if to is BOOL:
        return row("ne", [x, "0"], source, BOOL, lanes)
    if source is BOOL:
        if lanes == 1:
            return (
                f"({value_type(to, 1)}){x}"
                if is_computed(to)
                else convert(f"(float){x}", F32, to, 1)
            )
        ones, middle = f"(-{x})", I32
        return convert(ones, middle, to, lanes)
    if source.kind == "real" and not is_computed(source):
        wide = _widen(x, source, lanes)
        return convert(wide, F32, to, lanes)
    if to.kind == "real" and not is_computed(to):
        f32 = value_type(F32, lanes)
        if source is F64:
            return _narrow(f"v_odd<{f32}>({x})", to, lanes)
        if source.kind == "int" and source.bits > 24:
            wide = convert(x, source, F64, lanes)
            return _narrow(f"v_odd<{f32}>({wide})", to, lanes)
        return _narrow(convert(x, source, F32, lanes), to, lanes)
    if lanes == 1:
        return f"({element(to)})({x})"
    for a, b in ((source, to), (to, source)):  # registers convert between i32 and reals only
        if a.kind == "int" and a.bits < 32 and b.kind == "real":
            return convert(convert(x, source, I32, lanes), I32, to, lanes)
    return f"v_convert<{value_type(to, lanes)}>({x})"


def _widen(x: str, d: DType, lanes: int) -> str:
    v = value_type(F32, lanes)
    if d.name in ("bf16", "f16"):
        return f"v_from_{d.name}<{v}>({x})"
    return f"v_small<{v}, {small_format(d)}>({x})"


def _narrow(x: str, d: DType, lanes: int) -> str:
    if d.name in ("bf16", "f16"):
        return f"v_to_{d.name}({x})"
    return f"v_to_small<{memory_type(d, lanes)}, {small_format(d)}>({x})"


def reduce_parts(monoid: str, parts: list[str], d: DType, vector: bool) -> str:
    """A balanced tree over the unrolled copies of an axis."""
    if monoid in ("any", "all"):
        c = "|" if monoid == "any" else "&"
        combine = f"({{0}} {c if vector else c + c} {{1}})"
    else:
        combine = _COMBINE[monoid]
    while len(parts) > 1:
        parts = [
            combine.format(*parts[n : n + 2]) if n + 1 < len(parts) else parts[n]
            for n in range(0, len(parts), 2)
        ]
    return parts[0]


def reduce_lanes(monoid: str, x: str) -> str:
    """All lanes of a vector combined into a scalar."""
    return f"{_REDUCE[monoid]}({x})"


def scan_lanes(monoid: str, reverse: bool, x: str) -> str:
    """Every lane of a vector combined with those before it (reverse: after it)."""
    return f"{SCANNED[monoid]}{'_back' if reverse else ''}({x})"
