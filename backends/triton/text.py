"""Triton text of types, literals, names and operators; how tensors over different axes meet.

A `Text` knows over which axes it varies, in the order of its tensor's dimensions, how tightly its
outermost operator binds, and the range of an integer that is only 32 bits wide. What becomes a
statement of its own is decided in the printer.
"""

from __future__ import annotations

import builtins
import keyword
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from opwright.ir.dtypes import F32, DType, integer_range
from opwright.ir.expr import Expr, show
from opwright.ir.graph import nearest
from opwright.ir.tile import Axis

ATOM, UNARY, TIMES, PLUS, SHIFT, AND, OR, COMPARE = 9, 8, 7, 6, 5, 4, 3, 0
I32 = (-(2**31), 2**31 - 1)

TYPES = {
    "f64": "float64", "f32": "float32", "f16": "float16", "bf16": "bfloat16",
    "f8e4m3": "float8e4nv", "f8e5m2": "float8e5", "f8e4m3fnuz": "float8e4b8",
    "f8e5m2fnuz": "float8e5b16", "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8",
    "u64": "uint64", "u32": "uint32", "u16": "uint16", "u8": "uint8", "bool": "int1",
}  # fmt: skip

# functions that Triton has under the same meaning, in compiled form and in its interpreter
FUNCTIONS = {
    "exp": "tl.exp", "exp2": "tl.exp2", "log": "tl.log", "log2": "tl.log2", "sqrt": "tl.sqrt",
    "rsqrt": "tl.rsqrt", "sin": "tl.sin", "cos": "tl.cos", "erf": "tl.erf", "abs": "tl.abs",
    "fma": "tl.fma",
}  # fmt: skip

HELPERS = {
    "philox": '''\
@triton.jit
def philox(seed, position, stream):
    """The words of Philox4x32-10; the counter is position, stream, 0."""
    a, b = position.to(tl.uint32), (position >> 32).to(tl.uint32)
    c = stream.to(tl.uint32) + a * 0
    return tl.philox(seed, a, b, c, a * 0)
''',
    "rand": """\
@triton.jit
def rand(seed, position, stream):
    a, b, c, d = philox(seed, position, stream)
    return (a >> 8).to(tl.float32) * 5.9604644775390625e-08
""",
    "randn": """\
@triton.jit
def randn(seed, position, stream):
    a, b, c, d = philox(seed, position, stream)
    u = ((a >> 8).to(tl.float64) + 1.0) * 5.9604644775390625e-08
    angle = (b >> 8).to(tl.float64) * 3.7450702829239286e-07
    return (tl.sqrt(-2.0 * tl.log(u)) * tl.cos(angle)).to(tl.float32)
""",
    "maximum": '''\
@triton.jit
def maximum(a, b):
    """The larger one; NaN if one of them is."""
    return tl.maximum(a, b, tl.PropagateNan.ALL)
''',
    "minimum": '''\
@triton.jit
def minimum(a, b):
    """The smaller one; NaN if one of them is."""
    return tl.minimum(a, b, tl.PropagateNan.ALL)
''',
    "floor_div": '''\
@triton.jit
def floor_div(a, b):
    """a / b rounded down, for b > 0; `//` rounds towards zero."""
    return tl.where(a % b < 0, a // b - 1, a // b)
''',
    "floor_mod": '''\
@triton.jit
def floor_mod(a, b):
    """What is left of a when it is divided by b > 0, never negative; `%` has the sign of a."""
    rest = a % b
    return tl.where(rest < 0, rest + b, rest)
''',
    "multiply": """\
@triton.jit
def multiply(a, b):
    return a * b
""",
    "either": """\
@triton.jit
def either(a, b):
    return a | b
""",
    "both": """\
@triton.jit
def both(a, b):
    return a & b
""",
    "first_largest": '''\
@triton.jit
def first_largest(a, i, b, j):
    """The larger one with its index; of equals the first one; a NaN wins."""
    odd = (a != a) & (b != b)
    better = (a > b) | ((a != a) & (b == b)) | (((a == b) | odd) & (i < j))
    return tl.where(better, a, b), tl.where(better, i, j)
''',
    "first_smallest": '''\
@triton.jit
def first_smallest(a, i, b, j):
    """The smaller one with its index; of equals the first one; a NaN wins."""
    odd = (a != a) & (b != b)
    better = (a < b) | ((a != a) & (b == b)) | (((a == b) | odd) & (i < j))
    return tl.where(better, a, b), tl.where(better, i, j)
''',
}


class PrintError(ValueError):
    """The program asks for something that Triton text cannot express; the message says what."""


@dataclass(frozen=True, slots=True)
class Text:
    """Printed text of a scalar or tensor. `range` bounds an integer of 32 bits; None is 64."""

    text: str
    axes: tuple[Axis, ...] = ()
    binds: int = ATOM
    range: tuple[int, int] | None = None
    literal: bool = False

    def at(self, least: int) -> str:
        """The text where an operator of this strength stands around it."""
        return self.text if self.binds >= least else f"({self.text})"

    def called(self, text: str) -> Text:
        """Another text for the same thing, a name or a call."""
        return replace(self, text=text, binds=ATOM, literal=False)


def spread(t: Text, axes: tuple[Axis, ...]) -> Text:
    """The text with a dimension for each of these axes, of length 1 where it has none."""
    if not t.axes or t.axes == axes:
        return t
    if not set(t.axes) <= set(axes):
        raise PrintError(f"{t.text} varies over axes that are not asked for")
    marks = ", ".join(":" if a in t.axes else "None" for a in axes)
    return replace(t, text=f"{t.at(ATOM)}[{marks}]", axes=axes, binds=ATOM)


class Names:
    """Python identifiers, each given once: no keyword, nothing that the module defines."""

    def __init__(self) -> None:
        self.taken = {"tl", "triton", *HELPERS, *dir(builtins)}

    def fresh(self, wanted: str) -> str:
        base = "".join(c if c.isalnum() and c.isascii() else "_" for c in wanted).strip("_") or "t"
        base = f"t{base}" if base[0].isdigit() else base
        name, n = base, 1
        while name in self.taken or keyword.iskeyword(name):
            n += 1
            name = f"{base}_{n}"
        self.taken.add(name)
        return name


def type_name(d: DType) -> str:
    """`tl.float32` of f32; PrintError for a type that Triton lacks."""
    if d.name not in TYPES:
        raise PrintError(f"Triton has no type for {d}")
    return f"tl.{TYPES[d.name]}"


def signature(d: DType) -> str:
    """The type as Triton's signatures name it: fp32, i64, u8, i1."""
    small = {"f8e4m3": "fp8e4nv", "f8e5m2": "fp8e5", "f8e4m3fnuz": "fp8e4b8", "bool": "i1"}
    small["f8e5m2fnuz"] = "fp8e5b16"
    if d.name not in TYPES:
        raise PrintError(f"Triton has no type for {d}")
    return small.get(d.name) or (d.name.replace("f", "fp", 1) if d.name[0] == "f" else d.name)


def literal(value: float | int | bool, d: DType) -> Text:
    """A constant of an element type."""
    if d.kind == "bool":
        return Text(str(bool(value)), literal=True)
    if d.kind == "int":
        low, high = integer_range(d)
        n = high if value == math.inf else low if value == -math.inf else int(value)
        n = max(low, min(high, n))
        return Text(str(n), binds=UNARY if n < 0 else ATOM, literal=True)
    x = float(value)
    if math.isnan(x) or math.isinf(x):
        return Text(f'float("{x}")', literal=True)
    if d.name == "f64" and nearest(x, F32) != x:  # a bare number may become an f32
        return Text(f"tl.full((), {x!r}, tl.float64)", literal=True)
    negative = math.copysign(1.0, x) < 0
    return Text(repr(x), binds=UNARY if negative else ATOM, literal=True)


def dims(axes: tuple[Axis, ...], constants: dict[str, str]) -> str:
    """A shape: `[BLOCK_M, BLOCK_N]`, or `()` of a scalar."""
    return "[" + ", ".join(constants[a.name] for a in axes) + "]" if axes else "()"


_INFIX: dict[str, tuple[str, int]] = {
    "add": ("+", PLUS), "sub": ("-", PLUS), "mul": ("*", TIMES), "div": ("/", TIMES),
    "lt": ("<", COMPARE), "le": ("<=", COMPARE), "eq": ("==", COMPARE), "ne": ("!=", COMPARE),
    "approx": ("==", COMPARE), "and": ("&", AND), "or": ("|", OR),
}  # fmt: skip
_REVERSED = {"lt": ">=", "le": ">", "eq": "!=", "ne": "=="}


def infix(op: str, a: Text, b: Text, axes: tuple[Axis, ...]) -> Text:
    """a op b over the union of their axes; comparisons do not chain."""
    mark, own = _INFIX[op]
    x, y = spread(a, axes), spread(b, axes)
    left = own + 1 if own == COMPARE else own
    return Text(f"{x.at(left)} {mark} {y.at(own + 1)}", axes, own)


class Integers:
    """Index expressions as text: exact integers of 64 bits, of 32 where their range is known to
    fit. `leaf` prints leaves, `named` says which expressions have a name, `order` sorts axes."""

    def __init__(
        self,
        leaf: Callable[[Expr], Text],
        named: Callable[[Expr], Text | None],
        order: Callable[[set[Axis]], tuple[Axis, ...]],
        natural: Callable[[Expr], bool],
        constant: Callable[[Expr, int], str | None],
    ) -> None:
        self.leaf, self.named, self.order, self.natural = leaf, named, order, natural
        self.constant = constant  # the name of a constant operand

    def text(self, e: Expr, over: tuple[Axis, ...] = ()) -> Text:
        """An integer or truth value; with `over`, what varies has a dimension for each of these."""
        known = self.named(e)
        if known is not None:
            return spread(known, over) if over else known
        if e.op == "const":
            if e.kind == "bool":
                return Text(str(e.attr), literal=True)
            span = (e.attr, e.attr) if I32[0] <= e.attr <= I32[1] else None
            return Text(str(e.attr), binds=UNARY if e.attr < 0 else ATOM, range=span, literal=True)
        if not e.args:
            return spread(self.leaf(e), over) if over else self.leaf(e)
        if e.kind == "real" or any(a.kind == "real" for a in e.args):
            raise PrintError(f"{show(e)}: an index is no function of real numbers")
        if e.op == "not":
            return self.negation(e.args[0], over)
        args = [self.text(a, over) for a in e.args]
        axes = self.order({a for t in args for a in t.axes})
        if e.op in ("add", "mul", "sub"):
            args = [self.block(x, e, n) for n, x in enumerate(args)]
            span = self.span(e, args)
            if span is None and all(t.range is not None for t in args):
                args[0] = self.widen(args[0])  # the result needs more than 32 bits
            return replace(infix(e.op, args[0], args[1], axes), range=span)
        if e.op in _INFIX:
            return infix(e.op, args[0], args[1], axes)
        if e.op in ("floordiv", "mod"):
            return replace(self.divide(e, args, axes), range=self.span(e, args))
        parts = [spread(t, axes) for t in args]
        if e.op in ("min", "max"):
            name = "tl.minimum" if e.op == "min" else "tl.maximum"
            return Text(f"{name}({parts[0].text}, {parts[1].text})", axes)
        if e.op == "select":
            return Text(f"tl.where({', '.join(p.text for p in parts)})", axes)
        if e.op == "neg":
            return Text(f"-{args[0].at(UNARY)}", axes, UNARY)
        if e.op == "abs":
            return Text(f"tl.abs({args[0].text})", axes)
        raise PrintError(f"{show(e)} has no Triton form")

    def block(self, t: Text, e: Expr, n: int) -> Text:
        """A constant that is the length of the other operand's block gets its name."""
        own = e.args[n]
        if own.op != "const":
            return t
        name = self.constant(e, n)
        return t if name is None else t.called(name)

    def widen(self, t: Text) -> Text:
        if t.literal:
            return Text(f"tl.full((), {t.text}, tl.int64)", t.axes)
        return Text(f"{t.at(ATOM)}.to(tl.int64)", t.axes)

    def span(self, e: Expr, args: list[Text]) -> tuple[int, int] | None:
        """The range of a result of 32 bits."""
        if any(t.range is None for t in args):
            return None
        (a, b), (c, d) = (t.range or I32 for t in args)
        if e.op == "mul":
            corners = [a * c, a * d, b * c, b * d]
            low, high = min(corners), max(corners)
        elif e.op in ("add", "sub"):
            low, high = (a + c, b + d) if e.op == "add" else (a - d, b - c)
        elif a >= 0 and c > 0:
            low, high = 0, (b if e.op == "floordiv" else min(b, d - 1))
        else:
            return None
        return (low, high) if I32[0] <= low and high <= I32[1] else None

    def divide(self, e: Expr, args: list[Text], axes: tuple[Axis, ...]) -> Text:
        """Triton truncates: equal to floor where the dividend is not negative."""
        a, b = (spread(t, axes) for t in args)
        if self.natural(e.args[0]):
            mark = "//" if e.op == "floordiv" else "%"
            return Text(f"{a.at(TIMES)} {mark} {b.at(TIMES + 1)}", axes, TIMES)
        return floor_division(e.op, a, b, axes)

    def negation(self, e: Expr, over: tuple[Axis, ...] = ()) -> Text:
        if e.op in _REVERSED and all(a.kind == "int" for a in e.args):
            args = [self.text(a, over) for a in e.args]
            axes = self.order({a for t in args for a in t.axes})
            a, b = (spread(t, axes).at(COMPARE + 1) for t in args)
            return Text(f"{a} {_REVERSED[e.op]} {b}", axes, COMPARE)
        t = self.text(e, over)
        return Text(f"~{t.at(UNARY)}", t.axes, UNARY)


def floor_division(op: str, a: Text, b: Text, axes: tuple[Axis, ...]) -> Text:
    """Floor division or its remainder, by a positive divisor."""
    power = b.literal and b.text.isdigit() and int(b.text).bit_count() == 1
    if power and op == "mod":
        return Text(f"{a.at(AND)} & {int(b.text) - 1}", axes, AND)
    if power:
        return Text(f"{a.at(SHIFT)} >> {int(b.text).bit_length() - 1}", axes, SHIFT)
    name = "floor_mod" if op == "mod" else "floor_div"
    return Text(f"{name}({a.text}, {b.text})", axes)


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
