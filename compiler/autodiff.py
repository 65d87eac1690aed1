"""Reverse mode on index notation: the gradient of an operator is an operator.

Every definition is walked from its result to the reads of real tensors below it. A read
`T[index]` under free indices, reductions and conditions contributes to `T`'s adjoint the sum over
all of them that hit an element. The equations `index == element` are solved for indices where they
can be, so that gathers of an affine index become reads the other way round and what is left is a
guarded sum (a scatter). Reductions that the forward pass makes are read or made again, never
stored per element.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from opwright.compiler.autodiff_anchors import anchors
from opwright.compiler.autodiff_recurrence import recurrence
from opwright.compiler.autodiff_rules import (
    Contribution,
    NotDifferentiable,
    local_rules,
    product,
    time_axis,
    total,
)
from opwright.compiler.finite import finite_inputs
from opwright.compiler.normalize import extract_folds, reads_of
from opwright.compiler.solve import Equations, Index
from opwright.ir.dtypes import DTYPES, F32, F64, DType
from opwright.ir.expr import (
    TRUE,
    Expr,
    Fold,
    call,
    cast,
    conjunction,
    conjuncts,
    const,
    free_vars,
    read,
    read_parts,
    reduction,
    rename,
    substitute,
    transform,
    var,
    walk,
)
from opwright.ir.op import Clause, OpAxis, Operator, Tensor
from opwright.ir.semantics import ARG_FOLDS


@dataclass(slots=True)
class _Names:
    """Names that no tensor, size or index of the operator has."""

    used: set[str]

    def fresh(self, hint: str) -> str:
        name, n = hint, 0
        while name in self.used or name in DTYPES:
            n += 1
            name = f"{hint}{n}"
        self.used.add(name)
        return name


def gradient(op: Operator, wanted: Sequence[str] = (), saved: Sequence[str] = ()) -> Operator:
    """The operator that maps inputs, outputs and output gradients `d_y` to gradients `d_x`.

    `wanted` names real inputs (default: all), `saved` definitions that are read as inputs, not made
    again. Inputs that nothing reads are left out. Raises NotDifferentiable for an input that is not
    real or a definition without a derivative.
    """
    real = [t.name for t in op.inputs if t.kind == "real"]
    wanted = tuple(wanted) or tuple(real)
    if not wanted:
        raise NotDifferentiable(f"{op.name} has no real input")
    for name in wanted:
        if name not in real:
            raise NotDifferentiable(f"{name} is no real input of {op.name}")
    return Reverse(op, wanted, tuple(saved)).run()


@dataclass(slots=True)
class Reverse:
    op: Operator
    wanted: tuple[str, ...]
    saved: tuple[str, ...] = ()
    names: _Names = field(init=False)
    forward: tuple[Tensor, ...] = field(init=False)
    active: set[str] = field(init=False)
    anchors: set[str] = field(init=False)  # no gradient flows through reads of these
    adjoints: list[Tensor] = field(default_factory=list)
    found: dict[str, list[Contribution]] = field(default_factory=dict)
    light: dict[str, Tensor] = field(default_factory=dict)  # adjoints that are written out
    compute: DType = F32
    earlier: tuple[Tensor, ...] = ()  # the recurrence being walked
    _own: dict[Expr, Expr] = field(default_factory=dict)

    def run(self) -> Operator:
        op = self.op
        self.forward = extract_folds(op)
        self.names = _Names(_every_name(op, self.forward))
        if any(t.dtype is F64 for t in (*op.inputs, *op.outputs)):
            self.compute = F64
        outputs = {t.name for t in op.outputs}
        self.anchors = anchors(self.forward, outputs)
        self.active = self._active() - (self.anchors - outputs)
        if not self.active:
            raise NotDifferentiable(f"no real output of {op.name} depends on a real input")
        done: set[str] = set()
        for t in reversed(self.forward):
            if t.name in done or t.name not in self.active:
                continue
            if t.recurrence is not None:
                group = [u for u in self.forward if u.name in t.recurrence.group]
                done |= {u.name for u in group}
                recurrence(self, group)
            else:
                adjoint = self._adjoint(t)
                if adjoint is not None:
                    at = tuple(var(a.name) for a in t.axes)
                    self.walk(t, self.read_adjoint(adjoint, at))
        results = [self._result(t) for t in op.inputs if t.name in self.wanted]
        return self._assemble(results)

    # -- which tensors carry a gradient

    def _active(self) -> set[str]:
        """Real tensors on the way from a wanted input to an output."""
        down = set(self.wanted)
        for _ in range(2):  # a joint recurrence reads its later members
            for t in self.forward:
                if t.kind == "real" and reads_of(t) & down:
                    down.add(t.name)
        up = {t.name for t in self.op.outputs if t.kind == "real"}
        for _ in range(2):
            for t in reversed(self.forward):
                if t.name in up:
                    up |= reads_of(t)
        return down & up

    # -- adjoints

    def read_adjoint(self, name: str, at: tuple[Expr, ...]) -> Expr:
        if name in self.light:
            t = self.light[name]
            assert t.body is not None
            return substitute(t.body, {var(a.name): i for a, i in zip(t.axes, at, strict=True)})
        e = read(name, at, "real")
        return cast(e, self.compute) if name.startswith("d_") else e

    def _adjoint(self, t: Tensor) -> str | None:
        """The name of the tensor that holds t's adjoint; None when nothing reaches it."""
        given = t.name in {u.name for u in self.op.outputs}
        parts = self.found.pop(t.name, [])
        if given and not parts:
            return f"d_{t.name}"
        if not given and not parts:
            return None
        name = self.names.fresh(f"g_{t.name}")
        axes, values = self.gather(t, parts)
        if given:
            values = [self.read_adjoint(f"d_{t.name}", tuple(var(a.name) for a in axes)), *values]
        made = Tensor(name, self.compute, axes, total(values))
        if all(_is_light(x) for x in self._product_of(total(values))):
            self.light[name] = made  # readers see its factors, which they may take out of sums
        else:
            self.adjoints.append(made)
        return name

    def gather(
        self, t: Tensor, parts: Iterable[Contribution]
    ) -> tuple[tuple[OpAxis, ...], list[Expr]]:
        """Contributions as expressions over new axes of t."""
        parts = list(parts)
        fresh = tuple(
            replace(a, name=self.names.fresh(_hint(n, parts, a.name))) for n, a in enumerate(t.axes)
        )
        merged: dict[tuple[object, ...], list[Contribution]] = {}
        for c in parts:
            merged.setdefault((c.at, c.scope, c.guard), []).append(c)
        values = []
        for same in merged.values():
            one = replace(same[0], value=total([c.value for c in same]))
            values.append(self.collect(fresh, self.apart(one)))
        return fresh, _under_one(values)

    def apart(self, c: Contribution) -> Contribution:
        """The contribution with index variables of its own."""
        names = {i.name: self.names.fresh(i.name) for i in c.scope}
        for e in (c.value, c.guard, *c.at):
            for x in walk(e):
                if x.op == "fold":
                    names |= {b: self.names.fresh(b) for b in x.attr.binders if b not in names}
        scope = tuple(
            Index(names[i.name], rename(i.lo, names), rename(i.hi, names)) for i in c.scope
        )
        at = tuple(rename(e, names) for e in c.at)
        return Contribution(at, rename(c.value, names), scope, rename(c.guard, names))

    def collect(self, axes: tuple[OpAxis, ...], c: Contribution) -> Expr:
        solved = Equations(axes, c.scope, self.names.fresh).solve(c.at, c.guard)
        value = substitute_all(c.value, solved.values)
        if not solved.scope:
            guard = solved.guard
            return value if guard is TRUE else call("select", guard, value, 0.0)
        binders = tuple(i.name for i in solved.scope)
        inner, outer = self._factors(value, set(binders))
        ranges = tuple((i.lo, i.hi) for i in solved.scope)
        conditions = conjuncts(solved.guard)
        within = [c for c in conditions if free_vars(c) & set(binders)]
        about = conjunction([c for c in conditions if c not in within])
        term, guard = product(inner), conjunction(within)
        summed = product([*outer, reduction("sum", binders, ranges, term, guard, self.compute)])
        return summed if about is TRUE else call("select", about, summed, 0.0)

    def _result(self, t: Tensor) -> Tensor:
        axes, values = self.gather(t, self.found.pop(t.name, []))
        value = total(values) if values else const(0.0)
        return Tensor(f"d_{t.name}", t.dtype, axes, value, role="output")

    # -- one definition

    def descend(self, e: Expr, weight: Expr, scope: tuple[Index, ...], guard: Expr) -> None:
        """Pass the adjoint `weight` of e down to the reads below it."""
        if weight.op == "const" and weight.attr == 0.0:
            return
        order = _level(e)
        weights: dict[Expr, list[Expr]] = {e: [weight]}
        for x in order:
            if x not in weights or not self.depends(x):
                continue
            w = total(weights[x])
            if x.op == "read":
                name, index, _ = read_parts(x)
                w = substitute(w, self._own)  # a value of the forward pass by its name
                one = Contribution(index, self._started(w), scope, self._started(guard))
                self.found.setdefault(name, []).append(one)
            elif x.op == "fold":
                self._fold(x, w, scope, guard)
            elif x.op == "select":
                kept = self._own
                for arm, holds in zip(x.args[1:], (x.args[0], ~x.args[0]), strict=True):
                    if x in kept and arm.args:
                        self._own = {**kept, arm: kept[x]}  # while the condition holds
                    self.descend(arm, w, scope, call("and", guard, holds))
                    self._own = kept
            else:
                try:
                    shares = local_rules(x, w, x in self._own)
                except KeyError:
                    raise NotDifferentiable(f"{x.op} has no derivative here") from None
                for a, share in zip(x.args, shares, strict=True):
                    if share is not None:
                        weights.setdefault(a, []).append(share)

    def _resumed(self, t: Tensor, saved: set[str]) -> Tensor:
        """A tensor that is made again beside members of its recurrence that were saved."""
        if t.recurrence is None or t.body is None or not saved & set(t.recurrence.group):
            return t
        members = [u for u in self.forward if u.name in t.recurrence.group]
        self.earlier = tuple(u for u in members if u.name in saved)
        body = self._started(t.body)
        self.earlier = ()
        group = tuple(n for n in t.recurrence.group if n not in saved)
        again = any(reads_of(u) & set(group) for u in members if u.name in group)
        rest = replace(t.recurrence, group=group) if again else None
        return replace(t, body=body, recurrence=rest)

    def _started(self, e: Expr) -> Expr:
        """Reads of the recurrence one step before its first are its initial values."""

        def rule(x: Expr) -> Expr | None:
            if x.op != "read" or x.attr[0] not in group:
                return None
            t = group[x.attr[0]]
            assert t.recurrence is not None
            _, index, _ = read_parts(x)
            p = [a.name for a in t.axes].index(time_axis(t))
            back = index[p]
            if back.op != "sub" or back.args[1] is not const(1):
                return None
            now = back.args[0]
            at = {var(a.name): i for a, i in zip(t.axes, index, strict=True)}
            at[var(time_axis(t))] = now
            initial = substitute(t.recurrence.init, at)
            return call("select", call("le", now, t.axes[p].lo), initial, x)

        group = {t.name: t for t in self.earlier}
        return transform(e, rule) if group else e

    def depends(self, e: Expr) -> bool:
        flows = self.active - self.anchors
        return e.kind == "real" and any(x.op == "read" and x.attr[0] in flows for x in walk(e))

    def _fold(self, x: Expr, w: Expr, scope: tuple[Index, ...], guard: Expr) -> None:
        f = Fold(self._again(x))  # w may hold x itself
        inner = tuple(Index(b, lo, hi) for b, (lo, hi) in zip(f.binders, f.ranges, strict=True))
        both = call("and", guard, f.guard)
        if f.kind == "sum":
            self.descend(f.term, w, (*scope, *inner), both)
        elif f.kind in ("max", "min"):
            self._extreme(f, w, scope, inner, both)
        elif f.kind == "prod":
            names = {b: self.names.fresh(b) for b in f.binders}
            same = conjunction([call("eq", var(b), var(n)) for b, n in names.items()])
            others = reduction(
                "prod",
                tuple(names.values()),
                tuple((rename(lo, names), rename(hi, names)) for lo, hi in f.ranges),
                rename(f.term, names),
                call("and", rename(f.guard, names), ~same),
                f.attr.acc,
            )
            self.descend(f.term, product([w, others]), (*scope, *inner), both)
        else:
            raise NotDifferentiable(f"a fold {f.kind or 'of several states'} has no derivative")

    def _extreme(
        self, f: Fold, w: Expr, scope: tuple[Index, ...], inner: tuple[Index, ...], guard: Expr
    ) -> None:
        """The first extreme element takes all; over several indices, equal ones share."""
        assert f.kind is not None
        names = {b: self.names.fresh(b) for b in f.binders}
        ranges = tuple((rename(lo, names), rename(hi, names)) for lo, hi in f.ranges)
        binders = tuple(names.values())
        other = rename(f.guard, names)
        if len(inner) == 1:
            kind = next(k for k, v in ARG_FOLDS.items() if v == f.kind)
            where = reduction(kind, binders, ranges, rename(f.term, names), other, f.attr.acc)
            first = call("eq", var(inner[0].name), where)
            self.descend(f.term, w, (*scope, *inner), call("and", guard, first))
            return
        best = self._again(f.node)
        hits = call("select", call("eq", rename(f.term, names), best), 1.0, 0.0)
        count = reduction("sum", binders, ranges, hits, other, self.compute)
        equal = call("eq", f.term, best)
        share = call("div", w, count)
        self.descend(f.term, share, (*scope, *inner), call("and", guard, equal))

    def _again(self, e: Expr) -> Expr:
        """The same fold with index variables of its own."""
        binders = {b for x in walk(e) if x.op == "fold" for b in x.attr.binders}
        return rename(e, {b: self.names.fresh(b) for b in sorted(binders)})

    def probe(self, active: set[str], t: Tensor, weight: Expr) -> dict[str, list[Contribution]]:
        """What t's definition passes to the tensors of `active` alone."""
        kept = self.active, self.found, self.anchors
        self.active, self.found, self.anchors = active, {}, set()
        try:
            self.walk(t, weight)
            return self.found
        finally:
            self.active, self.found, self.anchors = kept

    def walk(self, t: Tensor, weight: Expr) -> None:
        """Descend from a definition; its own value is read, not computed again."""
        assert t.body is not None
        at = tuple(var(a.name) for a in t.axes)
        scope = tuple(Index(a.name, a.lo, a.hi) for a in t.axes)
        self._own = {t.body: read(t.name, at, t.kind)} if t.body.args else {}
        self.descend(t.body, weight, scope, t.guard)
        self._own = {}

    # -- products

    def _factors(self, e: Expr, inside: set[str]) -> tuple[list[Expr], list[Expr]]:
        """Factors of a product that depend on the summed indices, and those that do not."""
        inner: list[Expr] = []
        outer: list[Expr] = []
        for x in self._product_of(e):
            (inner if free_vars(x) & inside else outer).append(x)
        return inner, outer

    def _product_of(self, e: Expr) -> list[Expr]:
        if e.op == "mul":
            return self._product_of(e.args[0]) + self._product_of(e.args[1])
        if e.op == "neg":
            return [const(-1.0), *self._product_of(e.args[0])]
        if e.op == "div" and e.args[0].op != "const":
            return [*self._product_of(e.args[0]), call("div", 1.0, e.args[1])]
        if e.op == "select" and _is_zero(e.args[2]) and self._tame():
            # where all is finite, a product is 0 if one of its factors is
            parts, names = self._product_of(e.args[1]), free_vars(e.args[0])
            able = [n for n, x in enumerate(parts) if names <= free_vars(x)]
            if len(parts) > 1 and able:
                least = min(able, key=lambda n: len(free_vars(parts[n])))
                parts[least] = call("select", e.args[0], parts[least], 0.0)
                return parts
        return [e]

    # -- the operator

    def _assemble(self, results: list[Tensor]) -> Operator:
        op = self.op
        outputs = {t.name for t in op.outputs} | set(self.saved)
        forward = [t if t.name in outputs else self._resumed(t, outputs) for t in self.forward]
        made = {t.name: t for t in (*forward, *self.adjoints)}
        live: set[str] = set()
        todo = [n for t in results for n in reads_of(t)]
        while todo:
            n = todo.pop()
            if n in live:
                continue
            live.add(n)
            t = made.get(n)
            if t is not None and n not in outputs:
                todo += reads_of(t)
                todo += t.recurrence.group if t.recurrence else ()
        inputs = [t for t in op.inputs if t.name in live]
        inputs += [
            replace(t, body=None, role="input", recurrence=None, updates=None)
            for t in (*op.outputs, *(t for t in self.forward if t.name in self.saved))
            if t.name in live
        ]
        inputs += [
            Tensor(f"d_{t.name}", t.dtype, t.axes, None, "input")
            for t in op.outputs
            if f"d_{t.name}" in live
        ]
        known = {t.name for t in inputs}
        tensors = [
            replace(t, role="local", updates=None)
            for t in (*forward, *self.adjoints)
            if t.name in live and t.name not in known
        ]
        return Operator(
            name=f"{op.name}_grad_{'_'.join(self.wanted)}",
            version=op.version,
            doc=f"Gradient of {op.name} with respect to {', '.join(self.wanted)}.",
            types=op.types,
            sizes=op.sizes,
            lets=op.lets,
            params=op.params,
            facts=op.facts,
            inputs=tuple(inputs),
            tensors=(*tensors, *results),
            clauses=(
                *(c for c in op.requires if _speaks_of(c) <= known),
                *(self._finite(t) for t in op.outputs if f"d_{t.name}" in live and self._tame()),
            ),
            targets=op.targets,
            variadic=op.variadic,
        )

    def _tame(self) -> bool:
        """Whether the operator takes nothing that is not finite."""
        return {t.name for t in self.op.inputs} <= finite_inputs(self.op)

    def _finite(self, t: Tensor) -> Clause:
        """Where no input may be infinite, no gradient that comes back may be, either."""
        index = tuple(var(a.name) for a in t.axes)
        e = read(f"d_{t.name}", index, "real")
        inside = call("and", call("lt", -math.inf, e), call("lt", e, math.inf))
        binders, ranges = tuple(a.name for a in t.axes), tuple((a.lo, a.hi) for a in t.axes)
        whole = reduction("all", binders, ranges, inside) if binders else inside
        used = {c.name for c in self.op.clauses}
        name = f"d_{t.name}_finite"
        while name in used:
            name += "_"
        return Clause(name, "requires", whole)


def _speaks_of(c: Clause) -> set[str]:
    """Names of the tensors in a clause."""
    return {x.attr[0] for x in walk(c.expr) if x.op == "read"} if c.expr is not None else set()


def _hint(n: int, parts: Sequence[Contribution], default: str) -> str:
    """The name under which readers know an axis."""
    for c in parts:
        if c.at[n].op == "var":
            return str(c.at[n].attr).rstrip("0123456789").rstrip("_") or default
    return default


def _every_name(op: Operator, tensors: Iterable[Tensor]) -> set[str]:
    names = {*op.sizes, *(p.name for p in op.params), *op.lets}
    for t in (*op.inputs, *op.tensors, *tensors):
        names |= {t.name, f"d_{t.name}", *(a.name for a in t.axes)}
        for e in (t.body, t.recurrence.init if t.recurrence else None):
            if e is not None:
                names |= {b for x in walk(e) if x.op == "fold" for b in x.attr.binders}
    return names


def _level(e: Expr) -> list[Expr]:
    """Nodes of e from the root down, not entering folds and arms of conditions."""
    out: list[Expr] = []
    seen: set[Expr] = set()

    def go(x: Expr) -> None:
        if x in seen:
            return
        seen.add(x)
        if x.op not in ("fold", "select", "read"):
            for a in x.args:
                go(a)
        out.append(x)

    go(e)
    return out[::-1]


def _under_one(values: Sequence[Expr]) -> list[Expr]:
    """The terms of a sum, those under the same condition as one."""
    under: dict[Expr, list[Expr]] = {}
    out: list[Expr] = []
    for e in values:
        zero = e.op == "select" and _is_zero(e.args[2])
        if zero and e.args[0] not in under:
            out.append(e.args[0])  # its place
        if zero:
            under.setdefault(e.args[0], []).append(e.args[1])
        else:
            out.append(e)
    return [call("select", e, total(under[e]), 0.0) if e in under else e for e in out]


def _is_zero(e: Expr) -> bool:
    return e.op == "const" and e.attr == 0


def _is_light(e: Expr) -> bool:
    """An element, a number, or one of them below 1."""
    if e.op == "select" and _is_zero(e.args[2]):
        return all(x.op != "fold" for x in walk(e.args[0])) and _is_light(e.args[1])
    while e.op == "cast" or (e.op == "div" and e.args[0].op == "const"):
        e = e.args[-1]
    return e.op in ("read", "const", "param")


def substitute_all(e: Expr, values: Mapping[Expr, Expr]) -> Expr:
    return substitute(e, values) if values else e
