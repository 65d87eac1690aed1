"""The ranges of a local's axes: they follow from what its equation reads and from who reads it.

An index takes the extent of an axis that its equation reads at that index alone, or at its mirror
image `N - 1 - i` where N is that extent; else the range over which others read the local; else the
extent of an axis it reads under a condition; else what follows from a quotient `i // A`, or from
`i * A + rest` that tiles an axis. Two different answers of one strength are reported, unless the
readers decide between them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from opwright.compiler import codes
from opwright.compiler.codes import Findings
from opwright.compiler.dependencies import Definition
from opwright.compiler.scope import (
    Index,
    Interval,
    Results,
    Scope,
    TensorName,
    Whole,
    bounding,
    same_extent,
)
from opwright.compiler.terms import Terms
from opwright.grammar import ast
from opwright.grammar.ast import Span
from opwright.ir.expr import ZERO, Expr, affine, free_vars, show, var
from opwright.ir.extents import digit_range


@dataclass(frozen=True, slots=True, eq=False)
class Bound:
    """An index in scope: an axis of a definition, or a binder with its range."""

    symbol: str
    axis: tuple[str, int] | None = None
    binder: ast.Binder | None = None
    scope: tuple[tuple[str, Bound], ...] = ()


@dataclass(frozen=True, slots=True)
class Site:
    """A read of a tensor at an index alone; `base` is what is read, `strong` if unconditional.
    `part` is the index expression of a read that may count back from the last element."""

    base: ast.Expr
    position: int
    count: int
    index: Bound
    scope: tuple[tuple[str, Bound], ...]
    strong: bool
    part: ast.Node | None = None


@dataclass(frozen=True, slots=True)
class Origin:
    """Why an axis of a local has its range: its equation reads `tensor` there, or `tensor` reads it
    at this axis of its own. Empty where what is read has no name, and where a reduction reads.
    """

    span: Span
    own: bool
    tensor: str = ""
    position: int = 0


class Ranges:
    """Infers in place: the `TensorName`s of the definitions in `root` get rank, kind and ranges."""

    def __init__(
        self,
        definitions: Mapping[str, Definition],
        root: Scope,
        terms: Terms,
        facts: Sequence[Expr] = (),
    ) -> None:
        self.definitions, self.root, self.terms = definitions, root, terms
        self.facts = facts
        self.counter = 0
        self.sites: list[Site] = []
        self.origins: dict[tuple[str, int], Origin] = {}
        self.digits: list[Site] = []  # where an axis is part of a longer index
        for d in definitions.values():
            env = {}
            for k, (name, _) in enumerate(d.indices):
                env[name] = self._bound((d.name, k))
            self.sites += self._walk(d.rhs, env, True)

    def infer(self, findings: Findings) -> None:
        """Resolve what can be resolved and report the rest."""
        while self._whole() or any(self._round(n) for n in (1, 2, 3, 4)):
            pass
        for d in self.definitions.values():
            t = self._tensor(d.name)
            for k, r in enumerate(t.ranges):
                if r is None and t.role == "local" and k < len(d.indices):
                    self._report(d, k, findings)
            if any(r is None for r in t.ranges):
                t.kind = None

    def _tensor(self, name: str) -> TensorName:
        t = self.root.find(name)
        assert isinstance(t, TensorName)
        return t

    def _bound(
        self,
        axis: tuple[str, int] | None = None,
        binder: ast.Binder | None = None,
        env: Mapping[str, Bound] | None = None,
    ) -> Bound:
        self.counter += 1
        return Bound(f"?{self.counter}", axis, binder, tuple((env or {}).items()))

    # -- where indices are used -------------------------------------------------------------------

    def _walk(self, node: ast.Node, env: Mapping[str, Bound], strong: bool) -> Iterator[Site]:
        match node:
            case ast.Read():
                hidden = isinstance(node.base, ast.Name) and node.base.name in env
                for k, part in enumerate(node.indices):
                    if hidden or node.fill is not None:
                        continue
                    scope, count = tuple(env.items()), len(node.indices)
                    name, other = _index_name(part, env)
                    if name is not None and name in env:
                        yield Site(node.base, k, count, env[name], scope, strong, other)
                    if isinstance(part, ast.Binary):
                        for inside in sorted(_names(part) & set(env)):
                            if env[inside].axis is not None:
                                self.digits.append(
                                    Site(node.base, k, count, env[inside], scope, strong, part)
                                )
                for child in ast.children(node):
                    if not isinstance(child, ast.Name):
                        yield from self._walk(child, env, strong)
            case ast.Cond():
                yield from self._walk(node.c, env, strong)
                for side in (node.a, node.b):
                    yield from self._walk(side, env, False)
            case ast.Reduce() | ast.TensorLambda():
                inner = dict(env)
                for b in node.binders:
                    for edge in (b.lo, b.hi):
                        if edge is not None:
                            yield from self._walk(edge, inner, strong)
                    inner[b.name] = self._bound(binder=b, env=inner)
                if isinstance(node, ast.Reduce) and node.guard is not None:
                    yield from self._walk(node.guard, inner, strong)
                    strong = False
                yield from self._walk(node.body, inner, strong)
            case _:
                for child in ast.children(node):
                    yield from self._walk(child, env, strong)

    # -- values that are not known yet ------------------------------------------------------------

    def _scope(self, env: tuple[tuple[str, Bound], ...]) -> Scope:
        inner = self.root.inner()
        for name, b in env:
            inner.names[name] = Index(var(b.symbol))
            self.terms.ranges[b.symbol] = self._box(b)
        return inner

    def _box(self, b: Bound) -> Interval | None:
        """The smallest and the largest value of an index whatever the outer ones are."""
        if b.axis is not None:
            ranges = self._tensor(b.axis[0]).ranges
            return ranges[b.axis[1]] if b.axis[1] < len(ranges) else None
        assert b.binder is not None
        scope = self._scope(b.scope)
        edges = []
        for edge, upper in ((b.binder.lo, False), (b.binder.hi, True)):
            e = ZERO if edge is None else self.terms.scalar(edge, scope)
            if e is None or e.kind != "int":
                return None
            edges.append(bounding(e, self.terms.ranges, upper))
        lo, hi = edges
        return None if lo is None or hi is None else (lo, hi)

    def _mirrored(self, site: Site, r: Interval | None) -> Interval | None:
        """A range that a site shows; counted back, it must be 0..last + 1."""
        if site.part is None or r is None:
            return r
        assert isinstance(site.part, ast.Expr)
        e = self.terms.scalar(site.part, self._scope(site.scope))
        form = affine(e) if e is not None and e.kind == "int" else None
        index = var(site.index.symbol)
        if e is None or form is None or form.get(index) != -1 or r[0] is not ZERO:
            return None
        return r if same_extent(e + index + 1, r[1]) else None

    def _shape(self, site: Site) -> Interval | None:
        """The range of the axis that a site reads."""
        if isinstance(site.base, ast.Name):
            t = self.root.find(site.base.name)
            if isinstance(t, TensorName) and site.count == len(t.ranges):
                return t.ranges[site.position]
            return None
        v = self.terms.value(site.base, self._scope(site.scope))
        if isinstance(v, Results) and len(v.outputs) == 1:
            v = next(iter(v.outputs.values()))
        if isinstance(v, Whole) and site.count == len(v.shape):
            extent = v.shape[site.position]
            return None if extent is None else (ZERO, extent)
        return None

    def _whole(self) -> bool:
        """Tensors that equal a whole tensor take its shape."""
        progress = False
        for d in self.definitions.values():
            t = self._tensor(d.name)
            if t.role != "local" or d.indices or t.ranges:
                continue
            if isinstance(d.rhs, ast.Call | ast.Field | ast.TensorLambda | ast.Name | ast.Read):
                v = self.terms.value(d.rhs, self._scope(()))
                if isinstance(v, Results):
                    outputs = list(v.outputs.values())
                    v = outputs[d.part or 0] if (d.part or 0) < len(outputs) else None
                if isinstance(v, Whole) and v.shape and all(s is not None for s in v.shape):
                    t.ranges = [(ZERO, s) for s in v.shape if s is not None]
                    t.rank = len(t.ranges)
                    progress = True
        return progress

    # -- rounds -----------------------------------------------------------------------------------

    def _round(self, strength: int) -> bool:
        progress = False
        for d in self.definitions.values():
            t = self._tensor(d.name)
            for k, r in enumerate(t.ranges):
                if r is None:
                    found = self._candidates(d, k, strength)
                    if len(found) == 1:
                        t.ranges[k] = found[0]
                        self._note(d, k, found[0])
                        progress = True
            if progress and strength > 1:
                return True
        return progress

    def _note(self, d: Definition, k: int, r: Interval) -> None:
        """Keep why an axis has its range."""
        for site in self.sites:
            own = site.index.axis == (d.name, k)
            if not own and not (isinstance(site.base, ast.Name) and site.base.name == d.name):
                continue
            if not own and site.position != k:
                continue
            other = self._mirrored(site, self._shape(site) if own else self._box(site.index))
            if other is None or not same_extent(other[1], r[1]):
                continue
            tensor, position = site.index.axis or ("", 0)
            if own:
                tensor = site.base.name if isinstance(site.base, ast.Name) else ""
                position = site.position
            origin = Origin(site.base.span, own, tensor, position)
            if own or (d.name, k) not in self.origins:
                self.origins[d.name, k] = origin
            if own:
                return

    def _candidates(self, d: Definition, k: int, strength: int) -> list[Interval]:
        own = self._own(d, k, strong=True)
        if len(own) > 1:
            # what the readers need decides between the extents that the equation offers
            readers = self._readers(d, k)
            both = [r for r in own if any(same_extent(r[1], u[1]) for u in readers)]
            return both if len(both) == 1 else own
        if strength == 1:
            return own
        if strength == 4:
            return self._digits(d, k)
        return self._readers(d, k) if strength == 2 else self._own(d, k, strong=False)

    def _digits(self, d: Definition, k: int) -> list[Interval]:
        """What follows from indices that the axis is a part of: `i // A`, `i * A + rest`."""
        found = []
        for site in self.digits:
            r = self._shape(site) if site.index.axis == (d.name, k) else None
            if r is None or r[0] is not ZERO or not isinstance(site.part, ast.Expr):
                continue
            e = self.terms.scalar(site.part, self._scope(site.scope))
            if e is None or e.kind != "int":
                continue
            name = site.index.symbol
            hi = digit_range(e, name, r[1], self.terms.ranges, self.facts)
            if hi is not None and not free_vars(hi):
                found.append((ZERO, hi))
        return _distinct(found)

    def _own(self, d: Definition, k: int, strong: bool) -> list[Interval]:
        found = []
        for site in self.sites:
            if site.index.axis == (d.name, k) and site.strong >= strong:
                r = self._mirrored(site, self._shape(site))
                if r is not None:
                    found.append(r)
        return _distinct(found)

    def _readers(self, d: Definition, k: int) -> list[Interval]:
        found = []
        for site in self.sites:
            same = isinstance(site.base, ast.Name) and site.base.name == d.name
            if same and site.position == k and site.index.axis != (d.name, k):
                r = self._mirrored(site, self._box(site.index))
                if r is not None:
                    found.append(r)
        return _distinct(found)

    def _report(self, d: Definition, k: int, findings: Findings) -> None:
        choices = next(filter(None, (self._candidates(d, k, n) for n in (1, 2, 3, 4))), [])
        index, span = d.indices[k]
        if choices:
            text = " or ".join(show(hi) if lo is ZERO else f"{show(lo)}..{show(hi)}"
                               for lo, hi in choices)  # fmt: skip
            place = self._odd(d, k, choices) or span
            findings.add(codes.AMBIGUOUS_RANGE, place, index=index, name=d.name, choices=text)
        else:
            findings.add(codes.UNKNOWN_RANGE, span, index=index, name=d.name)

    def _odd(self, d: Definition, k: int, choices: Sequence[Interval]) -> Span | None:
        """The one read that stands for a range that no other stands for, where there is one."""
        counts: list[list[Span]] = [[] for _ in choices]
        for site in self.sites:
            own = site.index.axis == (d.name, k)
            named = isinstance(site.base, ast.Name) and site.base.name == d.name
            if own or (named and site.position == k):
                r = self._mirrored(site, self._shape(site) if own else self._box(site.index))
                for n, choice in enumerate(choices):
                    if r is not None and same_extent(r[1], choice[1]):
                        counts[n].append(site.base.span)
        single = [c[0] for c in counts if len(c) == 1]
        if len(single) == 1:
            return single[0]
        lines = {s.line for c in counts for s in c}
        return counts[0][0] if len(lines) == 1 and counts[0] else None


def _index_name(part: ast.Node, env: Mapping[str, Bound]) -> tuple[str | None, ast.Node | None]:
    """The index that stands alone, or the only one of an index expression and the expression."""
    if isinstance(part, ast.Name):
        return part.name, None
    if isinstance(part, ast.Splat):
        return part.name + "...", None
    if isinstance(part, ast.Binary):
        named = _names(part) & set(env)
        if len(named) == 1:
            return named.pop(), part
    return None, None


def _names(node: ast.Node) -> set[str]:
    return {n.name for n in ast.walk(node) if isinstance(n, ast.Name)}


def _distinct(found: list[Interval]) -> list[Interval]:
    """One interval per upper end; lower ends that differ become 0."""
    out: list[Interval] = []
    for lo, hi in found:
        for n, (other, end) in enumerate(out):
            if same_extent(hi, end):
                if not same_extent(lo, other):
                    out[n] = (ZERO, end)
                break
        else:
            out.append((lo, hi))
    return out
