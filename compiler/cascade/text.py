"""A derivation as a page: the chain as it was written, what is carried instead, and the proof."""

from __future__ import annotations

from typing import Any

from opwright.compiler.cascade.chain import COUNT, Chain, Let, Stage, symbol
from opwright.compiler.cascade.derive import Plan
from opwright.compiler.cascade.rewrite import Derivation
from opwright.ir.expr import TRUE, show


def derivation_text(d: Derivation) -> str:
    """What `opwright show --stage folds` prints of one chain."""
    if d.chain is None:
        return f"{d.name}: no chain: {d.refusal}"
    lines = [f"{d.name}: {len(d.chain.stages)} reductions over {_range(d.chain)}", ""]
    lines += ["as written, each after the one before:", *_written(d.chain), ""]
    if d.plan is None:
        return "\n".join([*lines, "no single pass:", f"  {d.refusal}"])
    lines += ["derivation:", *(f"  {n}" for n in d.plan.notes), ""]
    lines += ["one pass carries:", *_carried(d.plan), ""]
    lines += ["at the end:", *_read_out(d.plan), "", "obligations:"]
    for r in d.records:
        lines.append(f"  {r.status:<8} {r.id.removeprefix('fold.')}: {r.reason}")
    if not d.records:
        lines.append("  none: no sum is kept at an anchor")
    if not d.holds:
        lines += ["", "not used: an obligation is not proved"]
    return "\n".join(lines)


def _range(chain: Chain) -> str:
    return ", ".join(
        f"{b} in {show(lo)}..{show(hi)}"
        for b, (lo, hi) in zip(chain.binders, chain.ranges, strict=True)
    )


def _written(chain: Chain) -> list[str]:
    out = []
    for s in chain.steps:
        if isinstance(s, Let):
            out.append(f"  {s.name} = {s.expr}")
        else:
            out.append(f"  {s.name} = {_reduced(s)}")
    known = [f"{s} = {show(e)}" for s, e in chain.elements.items() if show(e) != str(s)]
    if known:
        out.append(f"  where {'; '.join(known)}")
    if any(symbol(COUNT) in _expression(s).free_symbols for s in chain.steps):
        out.append(f"  and {COUNT} elements")
    return out


def _expression(s: Stage | Let) -> Any:
    return s.expr if isinstance(s, Let) else s.body


def _reduced(s: Stage) -> str:
    under = "" if s.guard is TRUE else f" | {show(s.guard)}"
    return f"{s.monoid}({s.body}{under})"


def _carried(plan: Plan) -> list[str]:
    """Entries of the state; a' is the next value of an anchor a."""
    out = []
    for x in plan.accumulators.values():
        under = "" if x.guard is TRUE else f" where {show(x.guard)}"
        if not x.anchors:
            joined = {"sum": "+", "prod": "*"}.get(x.monoid, x.monoid)
            out.append(f"  {x.name}' = {x.name} {joined} {x.body}{under}")
            continue
        body = x.body.subs({symbol(a): symbol(f"{a}'") for a in x.anchors}, simultaneous=True)
        out.append(f"  {x.name}' = {x.row} + {body}{under}")
    return out


def _read_out(plan: Plan) -> list[str]:
    return [f"  {k} = {e}" for k, e in plan.defs.items() if symbol(k) != e] or ["  as carried"]
