"""Gate G5 of tile programs: what is stored is what the spec says, over the reals, for all sizes.

A program is lifted to index notation and every store to an output is compared with the spec's
expression at the same index, under the store's own conditions. That every element is stored, and
that writes agree, is G3's.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np

from opwright.ir.expr import (
    FALSE,
    ONE,
    TRUE,
    ZERO,
    Expr,
    ExprError,
    Fold,
    call,
    conjunction,
    const,
    param,
    read,
    show,
    substitute,
    transform,
    var,
    walk,
)
from opwright.ir.op import Operator, Tensor
from opwright.ir.record import Record
from opwright.ir.tile import Buffer, TileProgram, expressions
from opwright.verify.carried import NotCarried, guarded
from opwright.verify.contribution import Contribution
from opwright.verify.functional import FINITE, LITERALS, fixed_values, with_values
from opwright.verify.given import (
    begins_infinite,
    finite,
    given,
    long,
    needless,
    pinned,
    written_out,
)
from opwright.verify.interleaved import beside, multiples
from opwright.verify.lift import Lift, Unknown, Written, chosen, unflattened
from opwright.verify.reals import Reals, TooLarge, equal_reals
from opwright.verify.restated import restated

FLAGS = 3  # truth values among the params that are looked at case by case
SECONDS = 6.0  # of the process's time for one case
SINGLE = 1e38  # below the largest number in single precision
REALS = "numbers are real numbers; no divisor is 0, no root or logarithm leaves its domain"


def tile_function(program: TileProgram, op: Operator, subject: str = "") -> list[Record]:
    """One record per output: PROVED for all sizes, or UNKNOWN with a reason. Holds of a program
    whose G2 and G3 are proved."""
    begin = time.perf_counter()
    fixed = fixed_values(program.facts)
    reasons = _reasons(program, op, fixed)
    sizes = multiples([*op.facts, *program.facts])
    if sizes and any(reasons.values()):
        more = tuple(x.attr for e in sizes.values() for x in walk(e) if x.op == "size")
        parts = replace(op, sizes=(*op.sizes, *more))
        again = _reasons(program, parts, {**fixed, **sizes})
        reasons = {n: why and again[n] for n, why in reasons.items()}
    flags = [p for p in (param(p.name, p.dtype.kind) for p in op.params) if p.kind == "bool"]
    flags = [p for p in flags if p not in fixed and _decides(program, p)]
    if flags and len(flags) <= FLAGS and any(reasons.values()):
        cases = [
            _reasons(program, op, {**fixed, **dict(zip(flags, values, strict=True))})
            for values in product((TRUE, FALSE), repeat=len(flags))
        ]
        reasons = {n: next((c[n] for c in cases if c[n]), "") for n in reasons}
    out = []
    for name, reason in reasons.items():
        status = "UNKNOWN" if reason else "PROVED"
        text = reason or "every store is the spec's value at its index, for all sizes"
        spent = (time.perf_counter() - begin) / len(reasons)
        assumed = (FINITE, REALS, LITERALS, *map(show, program.facts))
        out.append(Record(f"G5.{name}", "G5", status, text, subject, assumed, None, spent))
    return out


def _decides(program: TileProgram, flag: Expr) -> bool:
    bodies = (e for k in program.kernels for e in expressions(k.body))
    return any(flag in set(walk(e)) for e in bodies)


def _reasons(program: TileProgram, op: Operator, fixed: Mapping[Expr, Expr]) -> dict[str, str]:
    """Why an output is not known to be the spec's, empty if it is, where params are what is
    fixed."""
    op = with_values(op, fixed)
    tensors = {t.name: t for t in (*op.inputs, *op.tensors)}
    facts = [substitute(f, fixed) for f in program.facts]
    algebra = Reals([*op.facts, *(f for f in facts if f.op != "const")], op.requires, tensors)
    algebra.until = time.process_time() + SECONDS
    lift = Lift(program, op, algebra, fixed)
    literals = _literals(op)
    why = ""
    try:
        lift.run()
    except NotCarried as e:
        why = str(e)
    except (TooLarge, RecursionError):
        why = "what the program computes is too large to write down"
    except (ExprError, KeyError, AssertionError) as e:
        why = f"a part of it has no form here ({type(e).__name__}: {e})"
    return {t.name: why or _differs(lift, t, literals) for t in op.outputs}


def _literals(op: Operator) -> dict[float, Expr]:
    """The spec's numbers by what they are in single precision."""
    bodies = [t.body for t in op.tensors if t.body is not None]
    numbers = {x for e in bodies for x in walk(e) if x.op == "const" and x.kind == "real"}
    return {float(np.float32(x.attr)): x for x in numbers if abs(x.attr) < SINGLE}


def _literal(x: Expr, known: Mapping[float, Expr]) -> Expr | None:
    """The spec's number that a literal stands for."""
    if x.op != "const" or x.kind != "real" or not abs(x.attr) < SINGLE:
        return None
    return known.get(float(np.float32(x.attr)))


def _differs(lift: Lift, t: Tensor, literals: Mapping[float, Expr]) -> str:
    """Why what was written to an output is not known to be the spec's; empty if it is."""
    buffer: Buffer | None = next((b for b in lift.program.buffers() if b.name == t.name), None)
    written = lift.memory.get(t.name, [])
    if buffer is None or not written:
        return f"nothing that is known is stored to {t.name}"
    if any(isinstance(w, Contribution) for w in written):
        return _tried(lambda: _element_differs(lift, t, buffer, literals))
    for w in written:
        if isinstance(w, Unknown):
            return f"{t.name} is written across iterations of {w.loop}"
        assert isinstance(w, Written)
        index = unflattened(t, buffer, w.index)
        why = _tried(partial(_store_differs, lift, t, index, w.value, w.cond, literals))
        if why and w is not written[-1]:  # what is stored later may be all that is left
            whole = _tried(lambda: _element_differs(lift, t, buffer, literals))
            return f"{w.name}: {why}" if whole else ""
        if why:
            return f"{w.name}: {why}"
    return ""


def _tried(differs: Callable[[], str]) -> str:
    """Why two values may differ; or why that is not known."""
    try:
        return differs()
    except (TooLarge, RecursionError):
        return "the normal form is too large"
    except NotCarried as e:
        return str(e)
    except (ExprError, KeyError, AssertionError) as e:
        return f"a part of it has no form here ({type(e).__name__}: {e})"


def _element_differs(lift: Lift, t: Tensor, b: Buffer, literals: Mapping[float, Expr]) -> str:
    """The same of what any element holds in the end, where several programs make it."""
    extents = [lift.algebra.normal(e) for e in b.shape]
    index = tuple(ZERO if e is ONE else var(f"@e{k}") for k, e in enumerate(extents))
    for i, extent in zip(index, extents, strict=True):
        if i is not ZERO:
            lift.algebra.ranges[i.attr] = (ZERO, extent)
    lift.kernel = replace(lift.kernel, name="")
    lift.pids, lift.loops, lift.path = {}, [], []
    value = lift.element(b, index, t.kind)
    return _store_differs(lift, t, unflattened(t, b, index), value, TRUE, literals)


def _store_differs(
    lift: Lift,
    t: Tensor,
    index: tuple[Expr, ...],
    value: Expr,
    cond: Expr,
    literals: Mapping[float, Expr],
) -> str:
    """Why a value at an index of an output is not known to be the spec's; empty if it is."""
    algebra = lift.algebra
    inside = [
        c
        for i, a in zip(index, t.axes, strict=True)
        for c in (call("le", a.lo, i), call("lt", i, a.hi))
    ]
    cond = conjunction([cond, *inside])
    wanted = read(t.name, index, t.kind)
    pins = {var(n): e for n, e in pinned(algebra, cond).items()}
    value, wanted, cond = (substitute(e, pins) for e in (value, wanted, cond))
    value = given(algebra, lift.join.tidy(value), cond)
    value = beside(algebra, value, lift.join.fresh)
    value = lift.anchors.asked(lift.places.named(value))
    with algebra.under(algebra.normal(cond)):
        value = lift.join.regrouped(value)
        value = needless(algebra, value)
        empty = _may_be_empty(algebra, value)
    if empty is not None:
        return f"{show(empty)} may be of nothing, and what is done with it then is not looked into"
    found = transform(value, lambda x: _literal(x, literals))
    if not long(found) and _alike(algebra, cond, found, wanted, t.kind):
        return ""
    found, wanted = (written_out(algebra, e) for e in (found, wanted))
    if _alike(algebra, cond, found, wanted, t.kind):
        return ""
    return "the normal forms differ; that does not say that the values do"


def _alike(algebra: Reals, cond: Expr, found: Expr, wanted: Expr, kind: str) -> bool:
    """Whether two values are one where a condition holds."""
    zero: Expr = const({"real": 0.0, "int": 0, "bool": False}[kind])
    holds = algebra.normal(cond)
    here, there = (algebra.assuming(algebra.normal(e), holds, True) for e in (found, wanted))
    if here is there:
        return True
    if kind == "real" and equal_reals(algebra, algebra.poly(here), algebra.poly(there)):
        return True
    with algebra.under(holds):  # where an end of a range is bounded by the condition
        here, there = algebra.normal(found), algebra.normal(wanted)
        if here is there:
            return True
        if kind == "real" and equal_reals(algebra, algebra.poly(here), algebra.poly(there)):
            return True
    one, two = (chosen(cond, e, zero) for e in (found, wanted))
    left, right = algebra.normal(one), algebra.normal(two)
    if left is right:
        return True
    if kind == "real" and equal_reals(algebra, algebra.poly(left), algebra.poly(right)):
        return True
    with algebra.under(holds):
        left, right = (restated(algebra, e) for e in (found, wanted))
        if left is right:
            return True
        return kind == "real" and equal_reals(algebra, algebra.poly(left), algebra.poly(right))


def _may_be_empty(algebra: Reals, e: Expr) -> Expr | None:
    """An extreme in a value that may be infinite: algebra would cancel it like a number."""
    seen: set[Expr] = set()

    def visit(x: Expr) -> Expr | None:
        if x in seen:
            return None
        seen.add(x)
        if x.op in ("max", "min") and begins_infinite(x):
            if not finite(algebra, x):
                return x
        if x.op != "fold":
            return next((y for a in x.args if (y := visit(a)) is not None), None)
        f = Fold(x)
        with ExitStack() as inside:
            for name, span in zip(f.binders, f.ranges, strict=True):
                inside.enter_context(algebra.binding(name, span))
            found = visit(f.term) if f.kind is not None else x
        if found is not None:
            return found
        if f.kind not in ("max", "min"):
            return None
        plain = guarded(x)
        return None if x.kind != "real" or algebra.finite(plain) else x

    def top(x: Expr) -> Expr | None:
        """Of a value that is an extreme itself: nothing is done with it."""
        if x.op in ("max", "min", "select"):
            sides = x.args[1:] if x.op == "select" else x.args
            first = visit(x.args[0]) if x.op == "select" else None
            if first is not None:
                return first
            return next((y for a in sides if (y := top(a)) is not None), None)
        if x.op == "fold" and Fold(x).kind in ("max", "min"):
            f = Fold(x)
            with ExitStack() as inside:
                for name, span in zip(f.binders, f.ranges, strict=True):
                    inside.enter_context(algebra.binding(name, span))
                return top(f.term)
        return visit(x)

    return top(e)
