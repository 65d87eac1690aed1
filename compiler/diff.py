"""Two versions of a spec compared: what each change means for those who use the operator.

A change *adds* when everything that held still holds and more is promised or accepted, *weakens*
when less is promised or accepted, and *changes* when a call, or the result of one, is another. The
least next version follows: a new major one after what weakens or changes, a new minor one after
what adds. What could not be decided counts as the worst that it may be.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from opwright.compiler.decide import Answer, Decider
from opwright.compiler.elaborate import Spec
from opwright.compiler.interface import is_default_limit
from opwright.compiler.obligations import Obligation
from opwright.compiler.spec_text import expression
from opwright.grammar.ast import Op, Span
from opwright.ir.expr import (
    TRUE,
    Expr,
    Fold,
    canonical_binders,
    conjuncts,
    param,
    show,
    size,
    substitute,
    var,
    walk,
)
from opwright.ir.op import Clause, Operator, Param, Tensor
from opwright.ir.record import Record
from opwright.verify.functional import function, values

SAME, ADDS, WEAKENS, CHANGES = "same", "adds", "weakens", "changes"
EFFECTS = (SAME, ADDS, WEAKENS, CHANGES)  # the later, the worse
EVIDENCE = ("text", "proof", "example", "tests", "none")  # the later, the weaker
BINDINGS = 8  # of type variables whose meaning is compared
Version = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Change:
    """One difference (or, of meaning, agreement): its `effect`, and how that is known.

    `evidence` is `text` (it stands there), `proof`, `example` (a counterexample that was run),
    `tests`, or `none`: not decided, so the effect is the worst that it may be. `types` are the
    bindings it was seen at, where it was not seen at all of them.
    """

    part: str  # interface | domain | meaning | contract | gradient | objective
    effect: str
    text: str
    evidence: str = "text"
    reason: str = ""
    example: Mapping[str, Any] | None = None
    types: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """What happened to one operator; a version is None where the operator is not in that file."""

    name: str
    old: Version | None
    new: Version | None
    changes: tuple[Change, ...]

    @property
    def effect(self) -> str:
        return max((c.effect for c in self.changes), key=EFFECTS.index, default=SAME)

    @property
    def required(self) -> Version | None:
        """The least version that the new text may carry."""
        if self.old is None or self.new is None:
            return None
        major, minor = self.old
        if self.effect in (CHANGES, WEAKENS):
            return major + 1, 0
        return (major, minor + 1) if self.effect == ADDS else self.old

    @property
    def ok(self) -> bool:
        """Whether the version tells the truth; nothing tells of an operator that is gone."""
        if self.new is None:
            return False
        return self.required is None or self.new >= self.required


def diff(old: Spec, new: Spec) -> tuple[Difference, ...]:
    """Every operator of two files; raises DiagnosticError for one that is not valid."""
    before = {o.name: o for o in old.module.ops}
    after = {o.name: o for o in new.module.ops}
    out = []
    for name in dict.fromkeys((*before, *after)):
        if name not in after:
            gone = Change("interface", CHANGES, "the operator is gone")
            out.append(Difference(name, _version(before[name]), None, (gone,)))
        elif name not in before:
            made = Change("interface", ADDS, "a new operator")
            out.append(Difference(name, None, _version(after[name]), (made,)))
        else:
            versions = _version(before[name]), _version(after[name])
            out.append(Difference(name, *versions, _changes(old, new, name)))
    return tuple(out)


def _version(op: Op) -> Version:
    major, _, minor = str(op.version).partition(".")
    return int(major), int(minor or 0)


def _changes(old: Spec, new: Spec, name: str) -> tuple[Change, ...]:
    before, after = old.bindings(name), new.bindings(name)
    out = list(_types(before, after))
    common = [b for b in before if b in after][:BINDINGS]
    if not common:
        return (*out, Change("interface", CHANGES, "no binding of the types is in both"))
    seen: dict[tuple[str, str, str], list[Change]] = {}
    for types in common:
        a = old.operator(name, types)
        b = _aligned(a, new.operator(name, types))
        for c in _compared(a, b):
            key = (c.part, c.effect, c.text)
            seen.setdefault(key, []).append(replace(c, types=(_binding(types),)))
    for same in seen.values():
        seen_at = tuple(x for c in same for x in c.types)
        worst = max(same, key=lambda c: EVIDENCE.index(c.evidence))
        out.append(replace(worst, types=seen_at if len(seen_at) < len(common) else ()))
    return tuple(out)


def _compared(a: Operator, b: Operator) -> list[Change]:
    """Two operators of one name at one binding of their types."""
    out = _interface(a, b)
    if any(c.effect == CHANGES and c.part == "interface" for c in out):
        return [*out, Change("meaning", CHANGES, "not compared: it is called otherwise", "none")]
    b = _defaulted(a, b)
    more = (_domain, _meaning, _contract, _gradients, _objective)
    return [*out, *(c for compare in more for c in compare(a, b))]


# -- interface -------------------------------------------------------------------------------------


def _types(
    before: Sequence[Mapping[str, str]], after: Sequence[Mapping[str, str]]
) -> Iterable[Change]:
    for b in before:
        if b not in after:
            yield Change("interface", WEAKENS, f"{_binding(b)} is no longer accepted")
    for b in after:
        if b not in before:
            yield Change("interface", ADDS, f"{_binding(b)} is accepted")


def _binding(types: Mapping[str, str]) -> str:
    return ", ".join(f"{k} = {v}" for k, v in types.items()) or "a call without type variables"


def _aligned(a: Operator, b: Operator) -> Operator:
    """`b` with the sizes named as `a` has them, where both stand for the same axis of an input."""
    known = {t.name: t for t in a.inputs}
    names: dict[Expr, Expr] = {}
    for t in b.inputs:
        other = known.get(t.name)
        if other is None or len(other.axes) != len(t.axes):
            continue
        for mine, theirs in zip(other.shape, t.shape, strict=True):
            if mine.op == theirs.op == "size":
                names.setdefault(theirs, mine)
    # a name that is free in `b` may not stand for two things
    kept = {size(s) for s in b.sizes} - set(names)
    if len(set(names.values())) < len(names) or kept & set(names.values()):
        return b
    if all(k is v for k, v in names.items()):
        return b
    text = {k.attr: v.attr for k, v in names.items()}
    return _rewritten(
        b,
        names,
        sizes=tuple(text.get(s, s) for s in b.sizes),
        variadic=tuple(text.get(s, s) for s in b.variadic),
        workloads=tuple(
            replace(w, sizes={text.get(k, k): v for k, v in w.sizes.items()}) for w in b.workloads
        ),
    )


def _rewritten(op: Operator, mapping: Mapping[Expr, Expr], **more: Any) -> Operator:
    """An operator with leaves replaced everywhere, and other fields as given."""
    made = {
        f.name: _mapped(getattr(op, f.name), lambda e: substitute(e, mapping))
        for f in fields(op)
        if f.name not in more
    }
    return replace(op, **made, **more)


def _mapped(node: Any, rule: Any) -> Any:
    """A structure with every expression of it rewritten; syntax trees stay as they are."""
    if isinstance(node, Expr):
        return rule(node)
    if isinstance(node, tuple):
        return tuple(_mapped(x, rule) for x in node)
    if isinstance(node, Mapping):
        return {k: _mapped(v, rule) for k, v in node.items()}
    if is_dataclass(node) and not isinstance(node, type) and "opwright.ir" in type(node).__module__:
        made = {f.name: _mapped(getattr(node, f.name), rule) for f in fields(node)}
        if all(made[f.name] is getattr(node, f.name) for f in fields(node)):
            return node
        return replace(node, **made)
    return node


def _interface(a: Operator, b: Operator) -> list[Change]:
    out: list[Change] = []

    def note(effect: str, text: str) -> None:
        out.append(Change("interface", effect, text))

    for what, mine, theirs in (("input", a.inputs, b.inputs), ("output", a.outputs, b.outputs)):
        before, after = [t.name for t in mine], [t.name for t in theirs]
        for name in before:
            if name not in after:
                note(CHANGES, f"{what} {name} is gone")
        for name in after:
            if name not in before:
                note(CHANGES, f"{what} {name} is new")
        if sorted(before) == sorted(after) and before != after:
            note(CHANGES, f"{what}s are in another order: {', '.join(after)}")
        known = {t.name: t for t in theirs}
        for t in mine:
            if t.name in known and (text := _declared(what, t, known[t.name])):
                note(CHANGES, text)
    for name in a.free_sizes:
        if name not in b.free_sizes:
            note(CHANGES, f"size {name} is no longer given by name")
    for name in b.free_sizes:
        if name not in a.free_sizes:
            note(CHANGES, f"size {name} has to be given by name")
    for name in a.variadic:
        if name not in b.variadic:
            note(CHANGES, f"{name} no longer stands for any number of axes")
    for name in b.variadic:
        if name not in a.variadic:
            note(ADDS, f"{name} stands for any number of axes")
    _params(a, b, note)
    return out


def _declared(what: str, a: Tensor, b: Tensor) -> str:
    """How two declarations of one tensor differ."""
    if a.dtype is not b.dtype:
        return f"{what} {a.name} was {a.dtype}, is {b.dtype}"
    if len(a.axes) != len(b.axes):
        return f"{what} {a.name} had {len(a.axes)} axes, has {len(b.axes)}"
    if a.shape != b.shape:
        shapes = [f"[{', '.join(expression(s) for s in t.shape)}]" for t in (a, b)]
        return f"{what} {a.name} was {shapes[0]}, is {shapes[1]}"
    if a.layout != b.layout:
        return f"{what} {a.name} was laid out {a.layout or 'row by row'}, is {b.layout or 'so'}"
    if a.updates != b.updates:
        return f"{what} {a.name} updated {a.updates or 'nothing'}, updates {b.updates or 'nothing'}"
    return ""


def _params(a: Operator, b: Operator, note: Any) -> None:
    before, after = {p.name: p for p in a.params}, {p.name: p for p in b.params}
    for name, p in before.items():
        other = after.get(name)
        if other is None:
            note(CHANGES, f"param {name} is gone")
        elif p.dtype is not other.dtype:
            note(CHANGES, f"param {name} was {p.dtype}, is {other.dtype}")
        elif p.default is not other.default:
            one, two = (_value(x) for x in (p, other))
            effect = ADDS if p.default is None else CHANGES
            note(effect, f"param {name} is {two} where it is left out; it was {one}")
    for name, p in after.items():
        if name not in before:
            effect = CHANGES if p.default is None else ADDS
            note(effect, f"param {name} is new, {_value(p)} where it is left out")


def _value(p: Param) -> str:
    return "refused" if p.default is None else expression(p.default)


def _defaulted(a: Operator, b: Operator) -> Operator:
    """`b` as those call it who know only the params of `a`."""
    known = {p.name for p in a.params}
    filled: dict[Expr, Expr] = {}
    for p in b.params:
        if p.name not in known and p.default is not None:
            filled[param(p.name, p.dtype.kind)] = substitute(p.default, filled)
    if not filled:
        return b
    return _rewritten(b, filled, params=tuple(p for p in b.params if p.name in known))


# -- domain ----------------------------------------------------------------------------------------


def _domain(a: Operator, b: Operator) -> list[Change]:
    """Which sizes, params and values are accepted: `where` and `requires`."""
    out = []
    for one, two, effect, text in (
        (a, b, WEAKENS, "{} is now demanded"),
        (b, a, ADDS, "{} is no longer demanded"),
    ):
        decider = Decider(one)
        held = {x for f in one.facts for x in conjuncts(f)}
        for fact in dict.fromkeys(x for f in two.facts for x in conjuncts(f)):
            if fact in held:
                continue
            answer = decider.decide(_question(fact))
            if answer.status != "PROVED" and not is_default_limit(fact):
                out.append(_domain_change(effect, text, f"where {show(fact)}", answer))
        given = {
            canonical_binders(x)
            for c in one.requires
            if c.expr is not None
            for x in conjuncts(c.expr)
        }
        for c in two.requires:
            for x in conjuncts(TRUE if c.expr is None else c.expr):
                if canonical_binders(x) in given:
                    continue
                answer = decider.decide(_question(x))
                if answer.status != "PROVED":
                    out.append(_domain_change(effect, text, f"requires {c.name}", answer))
    return out


def _question(goal: Expr) -> Obligation:
    """Whether the facts and preconditions of an operator imply a condition on its inputs."""
    ranges: dict[str, tuple[Expr, Expr]] = {}
    assume: list[Expr] = []
    while goal.op == "fold" and goal.attr.kind == "all":
        f = Fold(goal)
        ranges.update(zip(f.binders, f.ranges, strict=True))
        assume += conjuncts(f.guard)
        goal = f.term
    return Obligation(
        "diff", "where", "diff", Span(0, 0, 1, 1, 1, 1), None, 0, tuple(assume), ranges, goal
    )


def _domain_change(effect: str, text: str, what: str, answer: Answer) -> Change:
    text = text.format(what)
    if answer.status == "REFUTED":
        found = ", ".join(f"{k} = {v}" for k, v in answer.values.items())
        return Change("domain", effect, text, "example", found, dict(answer.values))
    return Change("domain", effect, text, "none", answer.reason)


# -- meaning ---------------------------------------------------------------------------------------


def _meaning(a: Operator, b: Operator) -> list[Change]:
    """What the outputs are, where both versions accept an input."""
    both = replace(a, clauses=(*a.clauses, *b.requires))
    tried = values(both, b)[0]
    if tried.status == "REFUTED":
        text = tried.reason.replace("the spec says", "it was")
        return [Change("meaning", CHANGES, text, "example", "", tried.counterexample)]
    return [*(_output(r, tried) for r in function(both, b)), *_precision(a, b)]


def _output(r: Record, tried: Record) -> Change:
    name = r.id.partition(".")[2]
    if r.status == "PROVED":
        return Change("meaning", SAME, f"{name} is what it was", "proof", r.reason)
    if tried.status == "TESTED":
        why = f"{tried.reason}; no proof: {r.reason}"
        return Change("meaning", SAME, f"{name} is what it was", "tests", why)
    why = f"{tried.reason}; {r.reason}"
    return Change("meaning", CHANGES, f"{name} may be something else", "none", why)


def _precision(a: Operator, b: Operator) -> list[Change]:
    """Casts and accumulators are marks of the least precision allowed."""
    before, after = _marks(a), _marks(b)
    lost, made = sorted(before - after), sorted(after - before)
    out = []
    if lost:
        text = f"{', '.join(lost)} marked a least precision, and no longer"
        out.append(Change("meaning", WEAKENS, text))
    if made:
        text = f"{', '.join(made)} marks a least precision"
        out.append(Change("meaning", WEAKENS if lost else ADDS, text))
    return out


def _marks(op: Operator) -> set[str]:
    out = set()
    for t in op.tensors:
        for x in walk(t.body) if t.body is not None else ():
            if x.op == "fold" and x.attr.acc is not None:
                out.add(f"{x.attr.kind}.{x.attr.acc}")
            elif x.op == "cast":
                out.add(str(x.attr))
    return out


# -- contract --------------------------------------------------------------------------------------


def _contract(a: Operator, b: Operator) -> list[Change]:
    out = []
    known = {p.name for p in a.params}
    before = {c.name: c for c in a.clauses if c.kind != "requires"}
    after = {c.name: c for c in b.clauses if c.kind != "requires"}
    for name, c in before.items():
        other = after.get(name)
        if other is None:
            out.append(Change("contract", WEAKENS, f"{c.kind} {name} is no longer promised"))
        elif _claim(c, known) != _claim(other, known):
            text = f"{c.kind} {name} says something else"
            out.append(Change("contract", WEAKENS, text, "none", "claims are not compared"))
        else:
            out += _bounds(f"{c.kind} {name}", c.within or {}, other.within or {})
    for name, c in after.items():
        if name not in before:
            out.append(Change("contract", ADDS, f"{c.kind} {name} is promised"))
    for dtype in dict.fromkeys((*a.tolerance, *b.tolerance)):
        what = f"tolerance of {dtype}"
        if dtype not in b.tolerance:
            out.append(Change("contract", WEAKENS, f"{what} is no longer stated"))
        elif dtype not in a.tolerance:
            out.append(Change("contract", ADDS, f"{what} is stated"))
        else:
            out += _bounds(what, a.tolerance[dtype], b.tolerance[dtype])
    return out


def _claim(c: Clause, params: set[str]) -> object:
    """What a clause says, whatever its indices are called, to who knows these params alone."""
    if c.kind == "law":
        law = c.source
        parts = [] if c.expr is None else [canonical_binders(c.expr)]
        calls = [
            (
                x.name,
                [(t.name, _closed(t)) for t in x.inputs],
                {k: v for k, v in x.params.items() if k in params},
            )
            for x in law.calls
        ]
        tensors = tuple((t.name, _closed(t)) for t in law.tensors)
        return parts, law.args, calls, tensors
    return None if c.expr is None else canonical_binders(c.expr)


def _closed(t: Tensor) -> Expr | None:
    """A definition with its axes named by position."""
    if t.body is None:
        return None
    axes = {var(x.name): var(f"axis{n}") for n, x in enumerate(t.axes)}
    return canonical_binders(substitute(t.body, axes))


def _bounds(what: str, a: Mapping[str, float], b: Mapping[str, float]) -> list[Change]:
    looser = [k for k in b if b[k] > a.get(k, 0.0)]
    tighter = [k for k in a if b.get(k, 0.0) < a[k]]
    shown = " ".join(f"{k} {v:g}" for k, v in b.items()) or "exact"
    if looser:
        return [Change("contract", WEAKENS, f"{what} is looser: {shown}")]
    return [Change("contract", ADDS, f"{what} is tighter: {shown}")] if tighter else []


def _gradients(a: Operator, b: Operator) -> list[Change]:
    """Gradients are determined by the meaning; what counts is whether there is one."""
    before = {n for n, how in a.gradients if how != "none"}
    after = {n for n, how in b.gradients if how != "none"}
    out = [Change("gradient", WEAKENS, f"no gradient of {n} any more") for n in before - after]
    out += [Change("gradient", ADDS, f"a gradient of {n}") for n in after - before]
    return sorted(out, key=lambda c: c.text)


def _objective(a: Operator, b: Operator) -> list[Change]:
    out = []
    if a.workloads != b.workloads:
        out.append(Change("objective", SAME, "other workloads: compile again"))
    if a.objective != b.objective:
        out.append(Change("objective", SAME, "another objective: compile again"))
    if a.targets != b.targets:
        out.append(Change("objective", SAME, "other targets"))
    return out


__all__ = ["ADDS", "CHANGES", "SAME", "WEAKENS", "Change", "Difference", "diff"]
