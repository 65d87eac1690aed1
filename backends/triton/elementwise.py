"""Triton text of tile values: rows of the semantics table, casts, reductions, scans, dots and
views."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping

from opwright.backends.triton.text import (
    AND,
    ATOM,
    COMPARE,
    FUNCTIONS,
    UNARY,
    Integers,
    PrintError,
    Text,
    dims,
    floor_division,
    infix,
    literal,
    spread,
    type_name,
)
from opwright.ir.dtypes import BOOL, I64, DType
from opwright.ir.expr import Expr, evaluate, show
from opwright.ir.semantics import ROWS
from opwright.ir.tile import Axis, Dot, Value

_INFIX = {"add", "sub", "mul", "div", "lt", "le", "eq", "ne", "approx", "and", "or"}
_REDUCE = {"max": "maximum", "min": "minimum", "prod": "multiply", "any": "either", "all": "both"}
_PAIR = {"argmax": "first_largest", "argmin": "first_smallest"}
_SMALL = frozenset("bf16 f16 i8 i16 u8 u16 bool".split())


class Values:
    """Text of the values of one kernel; `known` holds what is printed or written in place."""

    def __init__(
        self,
        ints: Integers,
        sort: Callable[[Iterable[Axis]], tuple[Axis, ...]],
        constants: Mapping[str, str],
        params: Mapping[str, DType],
    ) -> None:
        self.ints, self.sort, self.constants = ints, sort, dict(constants)
        self.params = params
        self.known: dict[Value, Text] = {}
        self.dots: set[Value] = set()  # written in place: an addition may carry them on

    def text(self, v: Value) -> Text:
        if v not in self.known:
            raise PrintError(f"value {v.name} is used before it is defined")
        return self.known[v]

    def solid(self, v: Value) -> Text:
        """The value as a tensor of its type and shape, constants included."""
        t = self.text(v)
        axes = self.sort(v.axes)
        if t.literal:
            where, kind = dims(axes, self.constants), type_name(v.dtype)
            if axes and v.dtype.kind == "real" and t.text == "0.0":
                return Text(f"tl.zeros({where}, {kind})", axes)
            return Text(f"tl.full({where}, {t.text}, {kind})", axes)
        return t if t.axes == axes else self.broadcast(t, axes)

    def broadcast(self, t: Text, axes: tuple[Axis, ...]) -> Text:
        """The same for all lanes of the axes it lacks."""
        shape = dims(axes, self.constants)
        return Text(f"tl.broadcast_to({spread(t, axes).text}, {shape})", axes)

    def convert(self, t: Text, source: DType, to: DType) -> Text:
        if source == to:
            return t
        return t.called(f"{t.at(ATOM)}.to({type_name(to)})")

    # -- by operation -----------------------------------------------------------------------------

    def rhs(self, v: Value) -> Text:
        special: Mapping[str, Callable[[Value], Text]] = {
            "index": self.index, "reduce": self.reduce, "scan": self.scan, "dot": self.dot,
            "argreduce": self.argreduce, "view": self.view,
        }  # fmt: skip
        if v.op in special:
            return special[v.op](v)
        if v.op in ("cast", "round"):
            source = v.args[0]
            return self.convert(self.solid(source), source.dtype, v.dtype)
        if v.op not in ROWS:
            raise PrintError(f"{v.name}: {v.op} has no Triton form")
        return self.row(v)

    def index(self, v: Value) -> Text:
        e: Expr = v.attr
        if e.kind == "real":
            return self.real(e, v.dtype)
        t = self.ints.text(e)
        if e.kind == "bool" or (t.literal and v.dtype is I64):
            return t
        if v.dtype is I64 and t.range is None:
            return t
        if e.op == "var" or t.literal:  # a number of Python where Triton is interpreted
            return Text(f"tl.cast({t.text}, {type_name(v.dtype)})", t.axes)
        return self.convert(t, BOOL, v.dtype)

    def real(self, e: Expr, d: DType) -> Text:
        """A real expression over sizes and params, computed in the type of its value."""
        if e.op == "const":
            return literal(e.attr, d)
        if e.op == "toreal":
            t = self.ints.text(e.args[0])
            if t.literal or t.text.isdigit():  # a size that a fact fixes is a number of Python
                return Text(f"tl.cast({t.text}, {type_name(d)})", t.axes)
            return self.convert(t, I64, d)
        if e.op == "param":
            t = self.ints.leaf(e)
            return t if t.literal or self.params.get(e.attr) == d else self.convert(t, BOOL, d)
        if e.op in ("add", "sub", "mul", "div"):
            a, b = (self.real(x, d) for x in e.args)
            return infix(e.op, a, b, self.sort({*a.axes, *b.axes}))
        if e.op in FUNCTIONS and len(e.args) == 1:
            a = self.real(e.args[0], d)
            return Text(f"{FUNCTIONS[e.op]}({a.text})", a.axes)
        if e.op == "neg":
            a = self.real(e.args[0], d)
            return Text(f"-{a.at(UNARY)}", a.axes, UNARY)
        raise PrintError(f"{show(e)} has no Triton form as an index")

    def operands(self, v: Value) -> list[Text]:
        """Texts of the operands, each with all dimensions of the result; a constant stays a literal
        where another operand tells its type and shape."""
        axes = self.sort(v.axes)
        texts = [self.text(a) for a in v.args]
        for kind in (True, False):
            rows = [n for n, a in enumerate(v.args) if (a.dtype is BOOL) == kind]
            solid = [n for n in rows if not texts[n].literal]
            if rows and not solid:
                texts[rows[0]] = self.solid(v.args[rows[0]])
        shaped = {a for n, t in enumerate(texts) if not t.literal for a in v.args[n].axes}
        for n, a in enumerate(v.args):
            if texts[n].literal and not set(a.axes) <= shaped:
                texts[n] = self.solid(a)
                shaped |= set(a.axes)
        return [spread(t, axes) for t in texts]

    def row(self, v: Value) -> Text:
        axes = self.sort(v.axes)
        for d, other in (v.args[::-1], v.args) if v.op == "add" else ():
            if d in self.dots and set(other.axes) == set(v.axes):
                return self.dot(d, self.solid(other))
        if v.op in ("rand", "randn"):
            whole = ", ".join(spread(self.solid(a), axes).text for a in v.args)
            return Text(f"{v.op}({whole})", axes)
        args = self.operands(v)
        inside = ", ".join(t.text for t in args)
        if v.op in _INFIX:
            return infix(v.op, args[0], args[1], axes)
        if v.op in FUNCTIONS:
            return Text(f"{FUNCTIONS[v.op]}({inside})", axes)
        if v.op in ("min", "max"):
            name = f"{v.op}imum"
            return Text(f"{name if v.dtype.kind == 'real' else f'tl.{name}'}({inside})", axes)
        if v.op == "select":
            return Text(f"tl.where({inside})", axes)
        if v.op in ("neg", "not"):
            return Text(f"{'-' if v.op == 'neg' else '~'}{args[0].at(UNARY)}", axes, UNARY)
        if v.op in ("floordiv", "mod"):
            return floor_division(v.op, args[0], args[1], axes)
        if v.op == "toreal":
            return self.convert(args[0], BOOL, v.dtype)
        if v.op in ("floor", "ceil"):
            return Text(f"tl.{v.op}({inside}).to({type_name(v.dtype)})", axes)
        if v.op == "trunc":
            return Text(f"{args[0].at(ATOM)}.to({type_name(v.dtype)})", axes)
        if v.op == "isnan":
            return Text(f"{args[0].at(AND)} != {args[0].at(AND)}", axes, COMPARE)
        if v.op == "isinf":
            return Text(f'tl.abs({inside}) == float("inf")', axes, COMPARE)
        raise PrintError(f"{v.name}: Triton has no {v.op}; write it out in what Triton has")

    # -- between lanes ----------------------------------------------------------------------------

    def along(self, v: Value, axis: Axis) -> tuple[Text, int]:
        t = self.solid(v)
        return t, t.axes.index(axis)

    def rounded(self, text: str, axes: tuple[Axis, ...], d: DType) -> Text:
        """Triton widens sums of small types."""
        return Text(f"{text}.to({type_name(d)})" if d.name in _SMALL else text, axes)

    def reduce(self, v: Value) -> Text:
        monoid, axis = v.attr
        t, at = self.along(v.args[0], axis)
        rest = tuple(a for a in t.axes if a != axis)
        if monoid == "sum":
            return self.rounded(f"tl.sum({t.text}, axis={at})", rest, v.dtype)
        if monoid in ("max", "min") and v.dtype.kind == "int":
            return self.rounded(f"tl.{monoid}({t.text}, axis={at})", rest, v.dtype)
        return Text(f"tl.reduce({t.text}, {at}, {_REDUCE[monoid]})", rest)

    def scan(self, v: Value) -> Text:
        what = v.attr
        t, at = self.along(v.args[0], what.axis)
        back = ", reverse=True" if what.reverse else ""
        if what.monoid in ("sum", "prod"):
            name = "cumsum" if what.monoid == "sum" else "cumprod"
            return self.rounded(f"tl.{name}({t.text}, axis={at}{back})", t.axes, v.dtype)
        combine = _REDUCE[what.monoid]
        return Text(f"tl.associative_scan({t.text}, {at}, {combine}{back})", t.axes)

    def argreduce(self, v: Value) -> Text:
        fold, axis = v.attr
        axes = self.sort({a for x in v.args for a in x.axes})
        both = [self.solid(x) for x in v.args]
        parts = [t if t.axes == axes else self.broadcast(t, axes) for t in both]
        inside = f"({parts[0].text}, {parts[1].text}), {axes.index(axis)}, {_PAIR[fold]}"
        return Text(f"tl.reduce({inside})[1]", tuple(a for a in axes if a != axis))

    def dot(self, v: Value, acc: Text | None = None) -> Text:
        what: Dot = v.attr
        a, b = v.args
        batch = [x for x in self.sort(a.axes) if x in b.axes and x != what.axis]
        left = [x for x in a.axes if x not in b.axes]
        right = [x for x in b.axes if x not in a.axes]
        if len(left) != 1 or len(right) != 1 or len(batch) > 1:
            raise PrintError(f"{v.name}: a dot has one axis of rows, one of columns, one shared")
        for x in (left[0], right[0], what.axis):
            if x.extent < 16:
                raise PrintError(f"{v.name}: a dot needs 16 lanes along {x.name}, not {x.extent}")
        parts = [
            self.turned(self.solid(a), (*batch, left[0], what.axis)),
            self.turned(self.solid(b), (*batch, what.axis, right[0])),
        ]
        if acc is not None:
            parts.append(self.turned(acc, (*batch, left[0], right[0])))
        if a.dtype.name == "f32":
            parts.append(f'input_precision="{what.precision}"')
        if v.dtype.name != "f32":
            parts.append(f"out_dtype={type_name(v.dtype)}")
        made = Text(f"tl.dot({', '.join(parts)})", (*batch, left[0], right[0]))
        axes = self.sort(v.axes)
        return made if made.axes == axes else Text(self.turned(made, axes), axes)

    def turned(self, t: Text, axes: tuple[Axis, ...]) -> str:
        """The tensor with its dimensions in another order."""
        if t.axes == axes:
            return t.text
        return f"tl.permute({t.text}, [{', '.join(str(t.axes.index(a)) for a in axes)}])"

    def view(self, v: Value) -> Text:
        """Lanes under other names: a renaming, a fold of axes into one, or its inverse."""
        t = self.solid(v.args[0])
        places = dict(v.attr)
        axes = self.sort(v.axes)
        if all(e.op == "lane" and e.attr.extent == a.extent for a, e in places.items()):
            now = tuple(places[a].attr if a in places else a for a in t.axes)
            if len(set(now)) == len(now):
                return Text(self.turned(Text(t.text, now, t.binds), axes), axes)
        kept = [a for a in t.axes if a not in places]
        flat = [a for a in axes if a not in kept]
        start = tuple(a for a in t.axes if a in places)
        size, count = _product(start), _product(flat)
        last = t.axes[-len(start) :] == start and axes[-len(flat) :] == tuple(flat)
        if size == count and last and _row_major(start, flat, places):
            return Text(f"tl.reshape({t.text}, {dims(axes, self.constants)})", axes)
        raise PrintError(f"{v.name}: this rearrangement of lanes has no Triton form")


def _row_major(start: tuple[Axis, ...], flat: list[Axis], places: Mapping[Axis, Expr]) -> bool:
    """Whether element i of the old axes in row-major order is element i of the new ones."""
    if _product(start) > 2**16:
        return False
    for n, at in enumerate(itertools.product(*(range(a.extent) for a in flat))):
        env = {a.lane: i for a, i in zip(flat, at, strict=True)}
        m = 0
        for a in start:
            m = m * a.extent + int(evaluate(places[a], env))
        if m != n:
            return False
    return True


def _product(axes: Iterable[Axis]) -> int:
    n = 1
    for a in axes:
        n *= a.extent
    return n
