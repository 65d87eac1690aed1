"""Whole-array candidates against their spec: OpIR with OpIR, gates G4 and G5.

G4 evaluates both in float64 at small sizes, tiny ones first, and reports a place where they differ.
G5 compares normal forms: what is equal there is equal over the reals for all sizes.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opwright.ir.binding import InputError
from opwright.ir.dtypes import decode, encode
from opwright.ir.expr import (
    FALSE,
    TRUE,
    Expr,
    read,
    read_parts,
    show,
    substitute,
    transform,
    var,
)
from opwright.ir.op import Operator, Tensor
from opwright.ir.record import ORDER, Record
from opwright.ir.reference import reference
from opwright.verify.draw import holds
from opwright.verify.inputs import ORDINARY, Case, generate
from opwright.verify.reals import Reals, TooLarge, equal_reals
from opwright.verify.sizes import Limits

Array = NDArray[Any]

TINY, SMALL = Limits(elements=48), Limits(elements=1 << 11)
# float64 of two orders of evaluation, and literals that were rounded to float32
RELATIVE, ABSOLUTE = 2e-7, 1e-12
FINITE = "inputs are finite real numbers, integers do not wrap"
LITERALS = "a literal rounded to its type stands for the spec's number that rounds to it"

ENOUGH, EFFORT = 4, 5.0  # cases and seconds after which no further case is evaluated


def functional(
    op: Operator,
    imported: Operator,
    subject: str = "",
    pinned: Sequence[Expr] = (),
    seed: int = 0,
    count: int = 8,
) -> list[Record]:
    """G4 and, where nothing is refuted, G5: does `imported` mean what `op` means?

    `pinned` are facts that the import adds to the spec's; G5 then says for which values alone the
    two agree, and is UNKNOWN.
    """
    records = values(op, imported, subject, pinned, seed, count)
    if any(r.status == "REFUTED" for r in records):
        return records
    return [*records, *function(op, imported, subject, pinned)]


def together(
    op: Operator,
    readings: Sequence[tuple[Operator, Sequence[Expr]]],
    subject: str = "",
    complete: bool = False,
    seed: int = 0,
) -> list[Record]:
    """G4 and G5 of a function that was read once for each of several pinned values.

    `readings` are operators with what was pinned; `complete` says that these are all values there
    are, so that what holds of each holds.
    """
    found: dict[str, list[Record]] = {}
    for imported, pinned in readings:
        records = values(op, imported, subject, pinned, seed)
        if any(r.status == "REFUTED" for r in records):
            return records
        for r in [*records, *function(op, imported, subject, pinned, complete)]:
            found.setdefault(r.id, []).append(r)
    return [_weakest(same) for same in found.values()]


def _weakest(records: Sequence[Record]) -> Record:
    """One record for several readings: the weakest one, with what all of them assume."""
    worst = min(records, key=lambda r: ORDER.index(r.status))
    assumed = tuple(dict.fromkeys(a for r in records for a in r.assumptions))
    more = f"; {len(records)} readings" if len(records) > 1 else ""
    spent = sum(r.seconds for r in records)
    return replace(worst, reason=worst.reason + more, assumptions=assumed, seconds=spent)


# -- values ----------------------------------------------------------------------------------------


def values(
    op: Operator,
    imported: Operator,
    subject: str = "",
    pinned: Sequence[Expr] = (),
    seed: int = 0,
    count: int = 8,
) -> list[Record]:
    """G4: TESTED on how many cases, or REFUTED with sizes, index and both values."""
    begin = time.perf_counter()
    fixed = fixed_values(pinned)
    extra = [f for f in imported.facts if f not in {*op.facts, *pinned}]
    own = with_values(op, fixed)  # what is pinned need not be found by trying
    ran: list[Case] = []
    notes: list[str] = []
    for limits, more in ((TINY, count), (SMALL, count)):
        made = generate(own, seed, more, (), limits, extra, ORDINARY, specials=False)
        notes += made.notes
        for drawn in sorted(made.cases, key=_elements):
            case = _completed(drawn, fixed)
            for shifted in (case, _shrunk(op, case)):
                if shifted is None or (len(ran) >= ENOUGH and time.perf_counter() - begin > EFFORT):
                    continue
                found = _differs(op, imported, shifted)
                if isinstance(found, Mapping):
                    spent = time.perf_counter() - begin
                    return [_refuted(found, shifted, subject, spent)]
                if found:
                    ran.append(shifted)
    spent = time.perf_counter() - begin
    if not ran:
        why = notes[0] if notes else "no sizes satisfy the facts"
        return [Record("G4.values", "G4", "UNKNOWN", f"nothing was evaluated: {why}", subject)]
    where = f" where {', '.join(map(show, pinned))}" if pinned else ""
    text = f"equal in float64 on {len(ran)} cases{where} ({_sizes(ran)})"
    return [Record("G4.values", "G4", "TESTED", text, subject, seconds=spent)]


def _elements(case: Case) -> int:
    return sum(a.size for a in case.inputs.values())


def _sizes(cases: Iterable[Case]) -> str:
    spans: dict[str, list[int]] = {}
    for c in cases:
        for k, v in c.sizes.items():
            spans.setdefault(k, []).append(v)
    return ", ".join(f"{k} = {min(v)}..{max(v)}" for k, v in spans.items()) or "no sizes"


def _shrunk(op: Operator, case: Case) -> Case | None:
    """The case with its real inputs near zero, where small added numbers show."""
    inputs = dict(case.inputs)
    changed = False
    for t in op.inputs:
        if t.kind != "real" or not inputs[t.name].size:
            continue
        small = encode(decode(inputs[t.name], t.dtype) * 2.0**-9, t.dtype)
        trial = {**inputs, t.name: small.reshape(inputs[t.name].shape)}
        if not holds(op, trial, case.sizes, case.params):
            inputs, changed = trial, True
    if not changed:
        return None
    return replace(case, name=f"{case.name}.small", inputs=inputs)


def _completed(case: Case, fixed: Mapping[Expr, Expr]) -> Case:
    """The case with what is pinned at its value."""
    values = {leaf.attr: value.attr for leaf, value in fixed.items()}
    sizes = {k: values.get(k, v) for k, v in case.sizes.items()}
    params = {k: values.get(k, v) for k, v in case.params.items()}
    return replace(case, sizes=sizes, params=params)


def _differs(op: Operator, imported: Operator, case: Case) -> Mapping[str, Any] | bool:
    """Whether both were evaluated and agree, or where they do not."""
    inputs = {t.name: decode(case.inputs[t.name], t.dtype) for t in op.inputs}
    free = {s: case.sizes[s] for s in op.free_sizes}
    try:
        wanted = reference(op, inputs, case.params, free)
    except InputError:
        return False
    try:
        found = reference(imported, inputs, case.params, free)
    except InputError as e:
        return {"what": str(e)}
    for t in op.outputs:
        a, b = np.asarray(wanted[t.name]), np.asarray(found[t.name])
        bad = _unequal(t, a, b)
        if bad.any():
            at = np.unravel_index(int(np.argmax(bad)), bad.shape)
            index = [int(i) for i in at]
            example: dict[str, Any] = {
                "output": t.name, "index": index,
                "expected": _value(a[at]), "found": _value(b[at]),
                "wrong": int(bad.sum()), "of": int(bad.size),
            }  # fmt: skip
            if _elements(case) <= TINY.elements:
                example["inputs"] = {n: np.asarray(x).tolist() for n, x in inputs.items()}
            return example
    return True


def _unequal(t: Tensor, a: Array, b: Array) -> NDArray[np.bool_]:
    if t.kind != "real":
        return np.asarray(a != b)
    finite = np.abs(a[np.isfinite(a)])
    top = float(finite.max()) if finite.size else 0.0
    with np.errstate(invalid="ignore"):
        near = np.abs(a - b) <= RELATIVE * np.abs(a) + ABSOLUTE * (top + 1e-3)
        return np.asarray(~(near | (a == b) | (np.isnan(a) & np.isnan(b))))


def _value(x: Any) -> float | int | bool | str:
    v = x.item() if hasattr(x, "item") else x
    return str(v) if isinstance(v, float) and not np.isfinite(v) else v


def _refuted(found: Mapping[str, Any], case: Case, subject: str, spent: float) -> Record:
    params = {k: _value(v) for k, v in case.params.items()}
    example = {"case": case.name, "family": case.family, "sizes": dict(case.sizes),
               "params": params, **found}  # fmt: skip
    if "what" in found:
        text = f"{found['what']} on {case}"
    else:
        at = ", ".join(map(str, found["index"]))
        text = (
            f"{found['output']}[{at}] is {found['found']}, the spec says {found['expected']} "
            f"({found['wrong']} of {found['of']} elements differ) on {case}"
        )
    return Record("G4.values", "G4", "REFUTED", text, subject, (), example, spent)


# -- functions -------------------------------------------------------------------------------------


def function(
    op: Operator,
    imported: Operator,
    subject: str = "",
    pinned: Sequence[Expr] = (),
    complete: bool = False,
) -> list[Record]:
    """G5: one record per output; PROVED where the normal forms are the same.

    With `complete` the caller answers for all other values of what was pinned.
    """
    out = []
    extra = [f for f in imported.facts if f not in set(op.facts)]
    fixed = fixed_values(pinned)
    for t in op.outputs:
        begin = time.perf_counter()
        why = _same(op, imported, t, extra, fixed)
        spent = time.perf_counter() - begin
        shown = [f for f in extra if f not in pinned] if complete else extra
        assumptions = (FINITE, LITERALS, *map(show, shown))
        if why:
            status, reason = "UNKNOWN", why
        elif pinned and not complete:
            status = "UNKNOWN"
            reason = f"the normal forms are equal where {', '.join(map(show, pinned))}, " \
                     "which was pinned"  # fmt: skip
        else:
            status, reason = (
                "PROVED",
                "equal normal forms: equal over the reals for all sizes of at least 1",
            )
        out.append(Record(f"G5.{t.name}", "G5", status, reason, subject, assumptions, None, spent))
    return out


def fixed_values(pinned: Sequence[Expr]) -> dict[Expr, Expr]:
    """Values of pinned sizes and params."""
    out: dict[Expr, Expr] = {}
    for f in pinned:
        if f.op == "eq" and f.args[1].op == "const":
            out[f.args[0]] = f.args[1]
        elif f.op == "param":
            out[f] = TRUE
        elif f.op == "not" and f.args[0].op == "param":
            out[f.args[0]] = FALSE
    return out


def _same(
    op: Operator, imported: Operator, t: Tensor, extra: Sequence[Expr], fixed: Mapping[Expr, Expr]
) -> str:
    """Why two definitions of an output are not known to be equal; empty if they are."""
    one, two = with_values(op, fixed), with_values(imported, fixed)
    names = {v.name: f"spec.{v.name}" for v in one.tensors}
    others = {v.name: f"read.{v.name}" for v in two.tensors}
    tensors = {x.name: x for x in one.inputs}
    tensors |= {names[k]: v for k, v in _renamed(one, names).items()}
    tensors |= {others[k]: v for k, v in _renamed(two, others).items()}
    facts = [substitute(f, fixed) for f in (*op.facts, *extra)]
    algebra = Reals([f for f in facts if f.op != "const"], op.requires, tensors)
    a, b = tensors[names[t.name]], tensors[others[t.name]]
    at = tuple(var(f"@{k}") for k in range(len(a.axes)))
    for v, axis in zip(at, a.axes, strict=True):
        algebra.ranges[v.attr] = (algebra.normal(axis.lo), algebra.normal(axis.hi))
    try:
        left = algebra.normal(_read(a, at))
        right = algebra.normal(_read(b, at))
        if left is right:
            return ""
        if left.kind == "real" and equal_reals(algebra, algebra.poly(left), algebra.poly(right)):
            return ""
    except (TooLarge, RecursionError):
        return "the normal form is too large"
    return "the normal forms differ; that does not say that the values do"


def _read(t: Tensor, at: tuple[Expr, ...]) -> Expr:
    return read(t.name, at, t.kind)


def with_values(op: Operator, fixed: Mapping[Expr, Expr]) -> Operator:
    """The operator with known sizes and params put in."""
    if not fixed:
        return op

    def sub(e: Expr) -> Expr:
        return substitute(e, fixed)

    def tensor(t: Tensor) -> Tensor:
        axes = tuple(replace(a, lo=sub(a.lo), hi=sub(a.hi)) for a in t.axes)
        rec = t.recurrence and replace(t.recurrence, init=sub(t.recurrence.init))
        return replace(t, axes=axes, body=None if t.body is None else sub(t.body), recurrence=rec)

    facts = tuple(f for f in map(sub, op.facts) if f.op != "const")
    inputs, tensors = tuple(map(tensor, op.inputs)), tuple(map(tensor, op.tensors))
    clauses = tuple(c if c.expr is None else replace(c, expr=sub(c.expr)) for c in op.clauses)
    return replace(op, facts=facts, inputs=inputs, tensors=tensors, clauses=clauses)


def _renamed(op: Operator, names: Mapping[str, str]) -> dict[str, Tensor]:
    """Definitions under other names, inputs as they are."""

    def rule(e: Expr) -> Expr | None:
        if e.op != "read" or e.attr[0] not in names:
            return None
        name, index, fill = read_parts(e)
        return read(names[name], index, e.kind, fill)

    out = {}
    for t in op.tensors:
        assert t.body is not None
        rec = t.recurrence
        if rec is not None:
            group = tuple(names[n] for n in rec.group)
            rec = replace(rec, init=transform(rec.init, rule), group=group)
        out[t.name] = replace(t, name=names[t.name], body=transform(t.body, rule), recurrence=rec)
    return out
