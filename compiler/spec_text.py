"""An operator as the text of a spec: one binding of the types, locals and all.

What is printed parses and elaborates to an operator of the same meaning; derived operators
(gradients) become readable and can be compiled like any other spec.
"""

from __future__ import annotations

import json

from opwright.ir.dtypes import DTYPES
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    ExprError,
    Fold,
    const,
    read_parts,
    rename,
    size,
    walk,
)
from opwright.ir.op import DEFAULT_DIM_LIMIT, ELEMENT_LIMIT, Clause, Operator, Tensor
from opwright.ir.semantics import ROWS

LINE = 100


def spec_text(op: Operator) -> str:
    """The text of a spec file with this operator alone. ExprError for what has no text."""
    lines = ['opwright "0.1"', ""]
    doc = f" {json.dumps(op.doc, ensure_ascii=False)}" if op.doc else ""
    lines.append(f"op {op.name} @ {op.version}{doc} {{")
    if op.sizes:
        lines.append(f"  dims  {', '.join(op.sizes)}")
    stated = [f for f in op.facts if not _default(f, op)]
    sizes = [f for f in stated if not _uses_param(f)]
    if sizes:
        lines += _list("  where ", [expression(f) for f in sizes])
    for p in op.params:
        default = "" if p.default is None else f" = {expression(p.default)}"
        lines.append(f"  param {p.name}: {p.dtype}{default}")
    late = [f for f in stated if _uses_param(f)]
    if late:
        lines += _list("  where ", [expression(f) for f in late])
    if op.inputs:
        lines += _list("  input ", [_declaration(t) for t in op.inputs])
    lines += _list("  output ", [_declaration(t) for t in op.outputs])
    taken = {*op.sizes, *op.lets, *(p.name for p in op.params)}
    taken |= {t.name for t in (*op.inputs, *op.tensors)}
    lines += ["", "  def {", *(f"    {_equation(t, taken)}" for t in op.tensors), "  }"]
    clauses = [_clause(c, taken) for c in op.requires if c.expr is not None]
    if clauses:
        lines += ["", *clauses]
    return "\n".join([*lines, "}", ""])


def _list(head: str, items: list[str]) -> list[str]:
    """Comma-separated items, broken before the line is too long."""
    out, line = [], head
    for n, item in enumerate(items):
        more = item + ("," if n + 1 < len(items) else "")
        if len(line) + len(more) > LINE and line != head:
            out.append(line.rstrip())
            line = " " * len(head)
        line += more + " "
    return [*out, line.rstrip()]


def _default(f: Expr, op: Operator) -> bool:
    """Bounds that every size and tensor has without being asked."""
    sizes = {size(s) for s in op.sizes}
    if f.op != "le":
        return False
    a, b = f.args
    if (a is ZERO and b in sizes) or (a in sizes and b is const(DEFAULT_DIM_LIMIT)):
        return True
    return b is const(ELEMENT_LIMIT)


def _uses_param(e: Expr) -> bool:
    return e.op == "param" or any(_uses_param(a) for a in e.args)


def _declaration(t: Tensor) -> str:
    shape = f"[{', '.join(expression(s) for s in t.shape)}]" if t.axes else ""
    layout = f" layout {t.layout}" if t.layout else ""
    updates = f" updates {t.updates}" if t.updates else ""
    return f"{t.name}: {t.dtype}{shape}{layout}{updates}"


def _equation(t: Tensor, taken: set[str]) -> str:
    if t.body is None or t.guard is not TRUE:
        raise ExprError(f"{t.name} is defined under a condition, which has no text of its own")
    rec = t.recurrence
    names = _short([a.name for a in t.axes], [t.body, *([rec.init] if rec else [])], taken)
    left = t.name
    if t.axes:
        left += f"[{', '.join(names[a.name] for a in t.axes)}]"
    right = _whole(rename(t.body, names))
    if rec is None:
        return f"{left} = {right}"
    return f"rec {names[rec.axis]}: {left} = {right} init {_whole(rename(rec.init, names))}"


def _short(axes: list[str], bodies: list[Expr], taken: set[str]) -> dict[str, str]:
    """Index names as short as one equation allows; elsewhere they may mean something else."""
    known = list(axes)
    for e in bodies:
        known += [b for x in walk(e) if x.op == "fold" for b in x.attr.binders]
    out: dict[str, str] = {}
    used = set(taken) | set(DTYPES)
    for name in dict.fromkeys(known):
        base = name.rstrip("0123456789").rstrip("_") or "i"
        short, n = base, 0
        while short in used:
            n += 1
            short = f"{base}{n}"
        used.add(short)
        out[name] = short
    return out


def _whole(e: Expr) -> str:
    """A value on its own; an integer that stands for a real says so."""
    return f"f32({expression(e.args[0])})" if e.op == "toreal" else expression(e)


def _clause(c: Clause, taken: set[str]) -> str:
    assert c.expr is not None
    return f"  requires {c.name}: {expression(rename(c.expr, _short([], [c.expr], taken)))}"


def expression(e: Expr, outer: int = 0) -> str:
    """Text of an expression in the grammar of specs; `outer` is the precedence around it."""
    if e.op == "toreal":
        return expression(e.args[0], outer)
    if e.op == "const":
        return _number(e, outer)
    if e.op in ("size", "param", "var"):
        return str(e.attr)
    if e.op == "read":
        name, index, fill = read_parts(e)
        text = f"{name}[{', '.join(expression(i) for i in index)}]" if index else name
        return text if fill is None else _paren(f"{text} ?? {expression(fill, 8)}", 5, outer)
    if e.op == "fold":
        return _reduction(Fold(e))
    if e.op in ("cast", "round"):
        head = f"round.{e.attr}" if e.op == "round" else str(e.attr)
        return f"{head}({expression(e.args[0])})"
    if e.op not in ROWS:
        raise ExprError(f"{e.op} has no text in a spec")
    return _operation(e, outer)


def _operation(e: Expr, outer: int) -> str:
    if e.op == "select":
        c, a, b = (expression(x) for x in e.args)
        return _paren(f"if {c} then {a} else {b}", 0 if outer == 0 else -1, outer)
    if e.op == "neg":
        return _paren(f"-{expression(e.args[0], 7)}", 7, outer)
    if e.op == "not":
        return _paren(f"not {expression(e.args[0], 3)}", 3, outer)
    row = ROWS[e.op]
    if row.symbol is None:
        args = [expression(a) for a in e.args]
        if e.op in ("rand", "randn"):
            return f"{e.op}({args[0]}, {args[1]}, stream = {args[2]})"
        if row.kinds.startswith("r") and e.args[0].op == "toreal":
            args[0] = f"f32({args[0]})"
        return f"{e.op}({', '.join(args)})"
    p = row.precedence
    left = expression(e.args[0], p + 1 if p == 4 else p)
    return _paren(f"{left} {row.symbol} {expression(e.args[1], p + 1)}", p, outer)


def _reduction(f: Fold) -> str:
    if f.kind is None:
        raise ExprError("a fold of several states has no text in a spec")
    binders = []
    for b, (lo, hi) in zip(f.binders, f.ranges, strict=True):
        low = "" if lo is ZERO else f"{expression(lo)}.."
        binders.append(f"{b}: {low}{expression(hi)}")
    guard = "" if f.guard is TRUE else f" | {expression(f.guard)}"
    acc = f".{f.attr.acc}" if f.attr.acc else ""
    return f"{f.kind}{acc}[{', '.join(binders)}{guard}]({_whole(f.term)})"


def _number(e: Expr, outer: int) -> str:
    if isinstance(e.attr, bool):
        return str(e.attr).lower()
    if isinstance(e.attr, float) and e.attr != e.attr:
        raise ExprError("NaN has no text in a spec")
    text = repr(e.attr)
    return _paren(text, 7 if text.startswith("-") else 9, outer)


def _paren(text: str, own: int, outer: int) -> str:
    return f"({text})" if own < outer else text
