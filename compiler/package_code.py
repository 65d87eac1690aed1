"""Python text of a package's tables: formulas, guards and checks of values as plain expressions.

What an emitted package evaluates at run time is printed here once; nothing is parsed there.
"""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from opwright.ir.expr import (
    FALSE,
    TRUE,
    ZERO,
    Expr,
    ExprError,
    Fold,
    affine,
    conjuncts,
    free_vars,
    leaves,
    param,
    read_parts,
    show,
    size,
    substitute,
    walk,
)
from opwright.ir.launch import bind_plan
from opwright.ir.op import Clause, Operator, Tensor
from opwright.ir.plan import Plan
from opwright.ir.semantics import ROWS
from opwright.ir.text import parse_expr
from opwright.ir.tile import Buffer

LARGEST_ALIGNMENT = 64  # bytes; what the emitted runtime tells apart
_INFIX = {"add": 5, "sub": 5, "mul": 6, "floordiv": 6, "mod": 6, "lt": 4, "le": 4, "eq": 4, "ne": 4}
_NATIVE = {"abs": "abs", "min": "min", "max": "max", "toreal": "float"}
# rows whose vector form numpy and torch share through operators and three helpers
_VECTOR = {*_INFIX, "neg", "abs", "min", "max", "and", "or", "not", "select"}


class CodeError(ValueError):
    """A formula has no form that a package can evaluate."""


def literal(value: int | float | bool) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    return repr(value)


def argument_key(e: Expr) -> str:
    """The runtime's name of what a leaf reads: a size, a param, a stride or an alignment."""
    if e.op == "stride":
        return f"stride:{e.attr[0]}:{e.attr[1]}"
    if e.op == "param" and "(" in e.attr:
        return "align:" + str(e.attr).partition("(")[2].partition(",")[0].strip()
    return str(e.attr)


def local_name(key: str) -> str:
    """A Python identifier for a runtime name."""
    name = key.replace(":", "_")
    return name + "_" if keyword.iskeyword(name) or name in ("f", "lib", "t", "v") else name


class Scalar:
    """Prints closed expressions over sizes, params, strides and alignments."""

    def text(self, e: Expr, outer: int = 0) -> str:
        if e.op == "const":
            text = literal(e.attr)
            return f"({text})" if text.startswith("-") and outer > 5 else text
        if e.op == "param" and "(" in e.attr:
            return self._aligned(str(e.attr), argument_key(e), outer)
        if e.op in ("size", "param", "stride"):
            return local_name(argument_key(e))
        if e.op in ("cast", "round"):
            return self.text(e.args[0], outer)
        if e.op not in ROWS:
            raise CodeError(
                f"{show(e)} reads data or an index where only sizes and params may stand"
            )
        return self._operation(e, outer)

    def _aligned(self, attr: str, key: str, outer: int) -> str:
        wanted = int(attr.rpartition(",")[2].rstrip(") "))
        if wanted < 1 or wanted & (wanted - 1) or wanted > LARGEST_ALIGNMENT:
            raise CodeError(
                f"{attr}: an alignment is a power of two up to {LARGEST_ALIGNMENT} bytes"
            )
        return wrap(f"{local_name(key)} >= {wanted}", 4, outer)

    def _operation(self, e: Expr, outer: int) -> str:
        if e.op in _INFIX:
            p = _INFIX[e.op]
            left = self.text(e.args[0], p + 1 if p == 4 else p)
            return wrap(f"{left} {ROWS[e.op].symbol} {self.text(e.args[1], p + 1)}", p, outer)
        if e.op in ("and", "or"):
            p = 2 if e.op == "and" else 1
            parts = f" {e.op} ".join(self.text(a, p) for a in e.args)
            return wrap(parts, p, outer)
        if e.op == "not":
            return wrap(f"not {self.text(e.args[0], 3)}", 3, outer)
        if e.op == "neg":
            return wrap(f"-{self.text(e.args[0], 7)}", 7, outer)
        if e.op == "select":
            c, a, b = (self.text(x, 1) for x in e.args)
            return f"({a} if {c} else {b})"
        name = _NATIVE.get(e.op) or "f." + {"pow": "power"}.get(e.op, e.op)
        return f"{name}({', '.join(self.text(a) for a in e.args)})"


def wrap(text: str, own: int, outer: int) -> str:
    return f"({text})" if own < outer else text


class Vector(Scalar):
    """Prints truth values over integer arrays, elementwise over the binders of an `all`."""

    def __init__(self, op: Operator, fold: Fold) -> None:
        self.op, self.fold = op, fold

    def text(self, e: Expr, outer: int = 0) -> str:
        if e.op == "var":
            return "i_" + str(e.attr)
        if e.op == "read":
            return self._read(e)
        return super().text(e, outer)

    def _read(self, e: Expr) -> str:
        name, index, _ = read_parts(e)
        tensor = self.op.tensor(name)
        whole = len(index) == len(self.fold.binders) and all(
            i.op == "var" and i.attr == b and lo is ZERO and hi is axis.hi
            for i, b, (lo, hi), axis in zip(
                index, self.fold.binders, self.fold.ranges, tensor.axes, strict=True
            )
        )
        if whole or not index:
            return f"t[{name!r}]"
        return f"t[{name!r}][{', '.join(self.text(i) for i in index)}]"

    def _operation(self, e: Expr, outer: int) -> str:
        # & and | bind tighter than comparisons, so their operands always stand in parentheses
        if e.op in ("and", "or"):
            sign = "&" if e.op == "and" else "|"
            return "(" + f" {sign} ".join(f"({self.text(a)})" for a in e.args) + ")"
        if e.op == "not":
            return f"f.negate({self.text(e.args[0])})"
        if e.op in ("min", "max", "select"):
            name = {"min": "minimum", "max": "maximum", "select": "where"}[e.op]
            return f"lib.{name}({', '.join(self.text(a) for a in e.args)})"
        return super()._operation(e, outer)


def formula(e: Expr, text: str | None = None) -> str:
    """`Formula(text, uses, lambda ...: ...)` of a closed expression."""
    keys = list(dict.fromkeys(argument_key(x) for x in leaves(e, "size", "param", "stride")))
    names = [local_name(k) for k in keys]
    if len(set(names)) != len(names):
        raise CodeError(f"two names of {show(e)} become the same Python name")
    body = Scalar().text(e)
    head = f"lambda {', '.join(names)}" if names else "lambda"
    return f"Formula({text or show(e)!r}, {tuple(keys)!r}, {head}: {body})"


def spec_names(op: Operator) -> Callable[[str], Expr | None]:
    """Resolves sizes, lets and params, for the text of facts."""
    kinds = {p.name: p.dtype.kind for p in op.params}

    def resolve(name: str) -> Expr | None:
        if name in op.lets:
            return op.lets[name]
        if name in op.sizes:
            return size(name)
        return param(name, kinds[name]) if name in kinds else None

    return resolve


def fact(op: Operator, text: str) -> Expr:
    """The expression of a plan's fact; CodeError when it is no truth value or names nothing."""
    try:
        e = parse_expr(text, spec_names(op))
    except ExprError as error:
        raise CodeError(f"fact {text!r}: {error}") from None
    if e.kind != "bool":
        raise CodeError(f"fact {text!r} is not a truth value")
    ranks = {t.name: len(t.axes) for t in (*op.inputs, *op.outputs)}
    for x in leaves(e, "stride", "param"):
        key = argument_key(x)
        if ":" not in key:
            continue
        tensor = key.split(":")[1]
        if tensor not in ranks:
            raise CodeError(f"fact {text!r}: {op.name} has no tensor {tensor}")
        if x.op == "stride" and not 0 <= x.attr[1] < ranks[tensor]:
            raise CodeError(f"fact {text!r}: {tensor} has {ranks[tensor]} axes")
    return e


# -- launches -------------------------------------------------------------------------------------


def _number(op: Operator, text: str) -> str:
    """The formula of a plan's expression; CodeError when it names nothing."""
    inner = text.strip()
    if inner.startswith("i32(") and inner.endswith(")"):
        inner = inner[4:-1]  # the kernel's annotation pins the type
    try:
        return formula(parse_expr(inner, spec_names(op)), text)
    except ExprError as error:
        raise CodeError(f"{text!r}: {error}") from None


def launches(
    op: Operator,
    plan: Plan,
    indent: str,
    levels: Sequence[Mapping[str, Mapping[str, Any]]] = (),
) -> str:
    """The table of a plan's launches: grids and numbers as formulas, tensors by name. `levels` says
    of each launch how its binaries are launched, by architecture."""
    tensors = {t.name for t in (*op.inputs, *op.outputs)} | set(plan.scratch)
    items = []
    for n, c in enumerate(plan.launches):
        grid = ", ".join(_number(op, g) for g in c.grid)
        args = ", ".join(repr(a) if a in tensors else _number(op, a) for a in c.args)
        options: dict[str, Any] = {
            k: v for k, v in c.extra.items() if k in ("num_warps", "num_stages")
        }
        if plan.backend == "cuda":
            options = {**c.extra, "types": argument_types(op, plan, c.kernel)}
        if levels:
            options = {"types": argument_types(op, plan, c.kernel), "levels": dict(levels[n])}
        items.append(f"Launch({c.kernel!r}, ({grid},), ({args},), {dict(c.const)!r}, {options!r})")
    return tuple_text(items, indent)


def argument_types(op: Operator, plan: Plan, kernel: str) -> list[str]:
    """What a kernel's arguments are passed as: the type of a number, "" of an address."""
    found = next(x for x in bind_plan(plan, op).launches if x.kernel == kernel)
    return ["" if isinstance(a, Buffer) else a.dtype.name for a in found.args]


def scratch(op: Operator, plan: Plan, indent: str) -> str:
    """The table of a plan's scratch."""
    items = []
    for name, s in plan.scratch.items():
        shape = ", ".join(_number(op, n) for n in s.shape)
        element = op.types.get(s.dtype, s.dtype)
        items.append(
            f"Scratch({name!r}, {element!r}, ({shape},), {s.init == 'zero'!r})"
            if s.shape
            else f"Scratch({name!r}, {element!r}, (), {s.init == 'zero'!r})"
        )
    return tuple_text(items, indent)


# -- preconditions --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Preconditions:
    """What a package checks of `requires`, and the texts of what it only assumes."""

    scalar: tuple[tuple[str, Expr], ...]  # (text, expression over sizes and params)
    functions: tuple[tuple[Clause, str, tuple[str, ...]], ...]  # (clause, Python function, tensors)
    assumed: tuple[str, ...]


def preconditions(op: Operator) -> Preconditions:
    """Split `requires` by cost: a pass over integer inputs is cheap, one over reals is not."""
    scalar: list[tuple[str, Expr]] = []
    functions: list[tuple[Clause, str, tuple[str, ...]]] = []
    assumed: list[str] = []
    for number, clause in enumerate(op.requires):
        if clause.expr is None:
            continue
        cheap: list[tuple[Expr, Fold]] = []
        for part in conjuncts(clause.expr):
            if part is FALSE or (part is not TRUE and _is_scalar(part)):
                scalar.append((f"{show(part)} (requires {clause.name})", part))
            elif (found := _cheap(op, part)) is not None:
                cheap.append((part, found))
            else:
                assumed.append(f"{clause.name}: {readable(part)}")
        if cheap:
            tensors = tuple(
                dict.fromkeys(x.attr[0] for part, _ in cheap for x in walk(part) if x.op == "read")
            )
            functions.append((clause, _function(op, number, cheap), tensors))
    return Preconditions(tuple(scalar), tuple(functions), tuple(assumed))


def binder_names(e: Expr) -> dict[str, str]:
    """The written name of each index variable that elaboration made unique (`n_3` was `n`)."""
    taken = {str(x.attr) for x in leaves(e, "size", "param")}
    taken |= {x.attr[0] for x in walk(e) if x.op == "read"}
    out: dict[str, str] = {}
    for x in walk(e):
        for name in x.attr.binders if x.op == "fold" else ():
            plain = re.sub(r"_\d+$", "", name)
            free = plain not in taken and plain not in out.values()
            out[name] = plain if free else name
    return out


def readable(e: Expr) -> str:
    """The text of a clause with index variables as they were written."""
    names = binder_names(e)
    return re.sub(r"\w+", lambda m: names.get(m[0], m[0]), show(e))


def _is_scalar(e: Expr) -> bool:
    return all(x.op in ROWS or x.op in ("const", "size", "param", "cast") for x in walk(e))


def _cheap(op: Operator, e: Expr) -> Fold | None:
    """The `all` fold of a part that takes one pass over integer inputs, else None."""
    if e.op != "fold" or e.attr.kind != "all":
        return None
    fold = Fold(e)
    inputs = {t.name: t for t in op.inputs}
    ranks = [0]
    for x in (y for part in (fold.term, fold.guard) for y in walk(part)):
        if x.op == "fold" or (x.op in ROWS and x.op not in _VECTOR):
            return None
        if x.op == "read":
            name, index, fill = read_parts(x)
            data = any(y.op == "read" for i in index for y in walk(i))
            if name not in inputs or inputs[name].kind == "real" or fill is not None or data:
                return None
            ranks.append(len(index))
    flat = all(not free_vars(bound) and _is_scalar(bound) for r in fold.ranges for bound in r)
    return fold if flat and 0 < len(fold.binders) <= max(ranks) else None


def _function(op: Operator, number: int, parts: Sequence[tuple[Expr, Fold]]) -> str:
    """Source of a generator of (text, mask, binders), one per part."""
    lines = [f"def _requires_{number}(lib, t, v):"]
    for part, fold in parts:
        for key in dict.fromkeys(argument_key(x) for x in leaves(part, "size", "param")):
            lines.append(f"    {local_name(key)} = v[{key!r}]")
        rank = len(fold.binders)
        printer = Vector(op, fold)
        mask = printer.text(fold.term)
        if fold.guard is not TRUE:
            mask = f"({mask}) | f.negate({printer.text(fold.guard)})"
        for n, (name, (lo, hi)) in enumerate(zip(fold.binders, fold.ranges, strict=True)):
            shape = tuple(-1 if m == n else 1 for m in range(rank))
            bounds = f"{Scalar().text(lo)}, {Scalar().text(hi)}"
            if re.search(rf"\bi_{name}\b", mask):
                lines.append(f"    i_{name} = lib.axis({bounds}, {shape!r})")
        names = binder_names(part)
        shown = tuple(names[b] for b in fold.binders)
        lines.append(f"    yield {readable(part)!r}, {mask}, {shown!r}")
    return "\n".join(lines)


# -- tables ---------------------------------------------------------------------------------------


def solved_sizes(op: Operator) -> Mapping[str, str]:
    """For each size that no axis names alone: `Solve(...)` from an affine extent, or `None`."""
    found: dict[str, str] = {}
    for name in op.free_sizes:
        found[name] = "None"
        for n, t in enumerate(op.inputs):
            for axis, a in enumerate(t.axes):
                form = affine(a.hi)
                if form is None or form.get(size(name), 0) <= 0 or found[name] != "None":
                    continue
                others = [x for x in form if x is not None and x is not size(name)]
                if not any(y is size(name) for x in others for y in walk(x)):
                    rest = formula(substitute(a.hi, {size(name): ZERO}))
                    found[name] = f"Solve({n}, {axis}, {form[size(name)]}, {rest})"
    return found


def storage(t: Tensor) -> str:
    """The element type as arrays know it: tf32 is stored as f32."""
    return "f32" if t.dtype.name == "tf32" else t.dtype.name


def memory_order(t: Tensor, several: bool) -> tuple[int, ...] | None:
    """The order of axes in memory that a layout asks for; None for row-major."""
    rank = len(t.axes)
    if several or t.layout is None:
        return None
    if t.layout == "col" and rank == 2:
        return (1, 0)
    if t.layout in ("nwc", "nhwc", "ndhwc") and rank == len(t.layout):
        return (0, *range(2, rank), 1)
    return None


def tensor_table(op: Operator, t: Tensor) -> str:
    several = bool(t.axes) and t.axes[0].hi.op == "size" and t.axes[0].hi.attr in op.variadic
    axes = ", ".join(formula(a.hi) for a in t.axes)
    parts = [repr(t.name), f"({axes}{',' if len(t.axes) == 1 else ''})"]
    if several:
        parts.append("several=True")
    if t.role == "output" and (order := memory_order(t, several)) is not None:
        parts.append(f"order={order!r}")
    if t.updates:
        parts.append(f"updates={t.updates!r}")
    return f"Tensor({', '.join(parts)})"


def param_table(op: Operator) -> list[str]:
    return [
        f"Param({p.name!r}, {p.dtype.name!r}, {p.dtype.kind!r}, "
        f"{'None' if p.default is None else formula(p.default)})"
        for p in op.params
    ]


def interface(op: Operator) -> tuple[object, ...]:
    """What every binding of one operator must share; element types may differ."""
    return (
        op.name,
        op.version,
        tuple(op.types),
        op.sizes,
        op.variadic,
        tuple(param_table(op)),
        tuple(show(f) for f in op.facts),
        tuple(tensor_table(op, t) for t in (*op.inputs, *op.outputs)),
        tuple((c.name, show(c.expr)) for c in op.requires if c.expr is not None),
    )


def tuple_text(items: Iterable[str], indent: str) -> str:
    """A tuple of one item per line."""
    lines = [f"{indent}    {item},\n" for item in items]
    return "(\n" + "".join(lines) + f"{indent})" if lines else "()"
