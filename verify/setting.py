"""What a clause speaks of, as one set of definitions: the operator's, and those of a law's calls.

A call inside a law is the operator once more: its tensors under the call's name, its index names
apart from all others, its inputs the transformed ones. What proves a clause and what looks for a
counterexample both read this.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from opwright.ir.expr import (
    ZERO,
    Expr,
    param,
    read,
    read_parts,
    rename,
    size,
    substitute,
    transform,
    walk,
)
from opwright.ir.op import Clause, Law, LawArg, LawCall, OpAxis, Operator, Tensor


@dataclass(frozen=True, slots=True)
class Setting:
    """Definitions by name, the permutations among a law's arguments with their extents, and the
    preconditions of the operator and of its calls."""

    tensors: Mapping[str, Tensor]
    arguments: tuple[LawArg, ...] = ()
    requires: tuple[Clause, ...] = ()
    called: tuple[Clause, ...] = ()  # preconditions of the calls, over their inputs

    @property
    def permutations(self) -> dict[str, Expr]:
        return {a.name: a.hi for a in self.arguments if a.kind == "perm" and a.hi is not None}


def setting(op: Operator, clause: Clause | None = None) -> Setting:
    """The definitions that a clause, or the operator alone, rests on."""
    tensors = {t.name: t for t in (*op.inputs, *op.tensors)}
    form = None if clause is None else clause.source
    if not isinstance(form, Law):
        return Setting(tensors, (), op.requires)
    for arg in form.args:
        axes = tuple(OpAxis(f"{arg.name}.{k}", ZERO, s) for k, s in enumerate(arg.shape))
        tensors[arg.name] = Tensor(arg.name, arg.dtype, axes, role="input")
    for t in form.tensors:
        tensors[t.name] = t
    called: list[Clause] = []
    for c in form.calls:
        made, conditions = _called(op, c)
        tensors |= made
        called += conditions
    return Setting(tensors, form.args, op.requires, tuple(called))


def _called(op: Operator, c: LawCall) -> tuple[dict[str, Tensor], list[Clause]]:
    """The operator's tensors and preconditions at a call."""
    out: dict[str, Tensor] = {}
    names = {t.name: f"{c.name}.{t.name}" for t in op.tensors}
    for made, target in zip(c.inputs, op.inputs, strict=True):
        names[target.name] = made.name
        out[made.name] = made
    mapping: dict[Expr, Expr] = {size(s): e for s, e in c.sizes.items()}
    for p in op.params:
        if p.name in c.params:
            mapping[param(p.name, p.dtype.kind)] = c.params[p.name]
        elif p.default is not None:
            mapping[param(p.name, p.dtype.kind)] = substitute(p.default, mapping)
    bodies = [x for t in op.tensors if (x := t.body) is not None]
    bodies += [x for r in op.requires if (x := r.expr) is not None]
    apart = {a.name for t in op.tensors for a in t.axes}
    apart |= {b for e in bodies for x in walk(e) if x.op == "fold" for b in x.attr.binders}
    apart |= {x.attr for e in bodies for x in walk(e) if x.op == "var"}
    fresh = {n: f"{n}~{c.name}" for n in apart}

    def reads(e: Expr) -> Expr | None:
        if e.op != "read" or e.attr[0] not in names:
            return None
        name, index, fill = read_parts(e)
        return read(names[name], index, e.kind, fill)

    def there(e: Expr) -> Expr:
        return substitute(transform(rename(e, fresh), reads), mapping)

    for t in op.tensors:
        axes = tuple(OpAxis(fresh[a.name], there(a.lo), there(a.hi)) for a in t.axes)
        rec = t.recurrence
        if rec is not None:
            group = tuple(names[n] for n in rec.group)
            rec = replace(rec, axis=fresh[rec.axis], init=there(rec.init), group=group)
        body = None if t.body is None else there(t.body)
        out[names[t.name]] = replace(
            t, name=names[t.name], axes=axes, body=body, recurrence=rec, guard=there(t.guard)
        )
    conditions = [
        replace(r, name=f"{c.name}.{r.name}", expr=there(r.expr))
        for r in op.requires
        if r.expr is not None
    ]
    return out, conditions
