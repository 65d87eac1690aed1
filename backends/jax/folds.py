"""Reductions as array code: contractions, prefix and suffix scans, scatters, dense reductions.

A form is recognised by its shape alone; what fits none is reduced densely under a mask, and what
has no static range runs in a loop over its index.
"""

from __future__ import annotations

from collections.abc import Sequence

from opwright.backends.jax.expressions import Scope, fold_axes, product_factors
from opwright.backends.jax.scalar import (
    ATOM,
    COMPARE,
    PRODUCT,
    UNARY,
    PrintError,
    Term,
    aligned,
    half,
)
from opwright.backends.jax.windows import Windows
from opwright.ir.dtypes import F64
from opwright.ir.expr import (
    ONE,
    TRUE,
    ZERO,
    Expr,
    Fold,
    affine,
    call,
    conjunction,
    conjuncts,
    free_vars,
    read_parts,
    reduction,
    show,
    substitute,
    var,
    walk,
)
from opwright.ir.extents import Interval, bounding, from_affine
from opwright.ir.ranking import recognise
from opwright.ir.semantics import ARG_FOLDS, MONOIDS

_REDUCE = {"sum": "jnp.sum", "prod": "jnp.prod", "max": "jnp.max", "min": "jnp.min",
           "any": "jnp.any", "all": "jnp.all"}  # fmt: skip
_SCAN = {"sum": "lax.cumsum", "prod": "lax.cumprod", "max": "lax.cummax", "min": "lax.cummin"}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_SEGMENTS = {"sum": "jax.ops.segment_sum", "prod": "jax.ops.segment_prod",
             "max": "jax.ops.segment_max", "min": "jax.ops.segment_min"}  # fmt: skip


class Folds(Windows):
    """The fold half of the printer."""

    def fold(self, e: Expr, scope: Scope) -> Term:
        f = Fold(e)
        if f.kind is None:
            return self._loop(f, scope)
        if f.kind in ARG_FOLDS:
            return self._arg(f, scope)
        return self._monoid(f, scope)

    def _monoid(self, f: Fold, scope: Scope) -> Term:
        for k, (lo, hi) in enumerate(f.ranges):
            if (free_vars(lo) | free_vars(hi)) & set(f.binders[:k]):
                return self._nested(f, tuple(range(k)), scope)
        moving = [
            k for k, r in enumerate(f.ranges) if not all(self.is_static(bound) for bound in r)
        ]
        if not moving:
            return self._fixed(f, scope)
        if len(f.binders) > 1:
            return self._nested(f, (moving[0],), scope)
        return self._moving(f, scope)

    def _nested(self, f: Fold, first: tuple[int, ...], scope: Scope) -> Term:
        """Split a reduction so that the binders `first` run outside the others."""
        assert f.kind is not None
        rest = [k for k in range(len(f.binders)) if k not in first]
        inner = reduction(
            f.kind, tuple(f.binders[k] for k in rest), tuple(f.ranges[k] for k in rest),
            f.term, f.guard, f.attr.acc,
        )  # fmt: skip
        outer = reduction(
            f.kind, tuple(f.binders[k] for k in first), tuple(f.ranges[k] for k in first),
            inner, TRUE, f.attr.acc,
        )  # fmt: skip
        return self._monoid(Fold(outer), scope)

    # -- fixed ranges -----------------------------------------------------------------------------

    def _fixed(self, f: Fold, scope: Scope) -> Term:
        if f.guard is not TRUE:
            placed = self._rank(f, scope) or self._scatter(f, scope)
            if placed is not None:
                return placed
        window = self.convolution(f, scope) or self.pooled(f, scope)
        if window is not None:
            return window
        if f.kind == "sum":
            contracted = self._contraction(f, scope)
            if contracted is not None:
                return contracted
        return self._dense(f, scope)

    def _dense(self, f: Fold, scope: Scope) -> Term:
        inner = self.inner(f, scope)
        value = self._all_axes(self.masked(f, inner), f, inner)
        return self._ordered(self._reduce(f, value, inner), scope)

    def inner(self, f: Fold, scope: Scope, first: tuple[str, ...] = ()) -> Scope:
        """The scope of a fold's term, its axes in the order of the widest array it reads."""
        inner = scope.bind(fold_axes(f), () if f.guard is TRUE else ((f.guard, True),))
        widest: list[str] = []
        for x in walk(f.term):
            if x.op == "read":
                _, index, _ = read_parts(x)
                order = [i.attr for i in index if i.op == "var" and i.attr in inner.axes]
                if len(set(order)) == len(order) and len(order) > len(widest):
                    widest = order
        places = iter([a for a in widest if a not in first])
        names = [*first, *(next(places) if a in widest else a for a in inner.axes
                           if a not in first)]  # fmt: skip
        inner.axes = {a: inner.axes[a] for a in names}
        return inner

    def masked(self, f: Fold, inner: Scope) -> Term:
        """The term, and the neutral element where the guard does not hold."""
        assert f.kind is not None
        value = self.root(f.term, inner)
        if f.guard is TRUE:
            return value
        mask = self.value(f.guard, inner.plain())
        if f.kind in ("sum", "prod") and half(value.dtype):
            value = self.lift(value)  # or the choice would be as narrow, and the sum of it, too
        empty = self.neutral(f, value)
        if value.static and not mask.static and value.kind == "real":
            value = Term(f"jnp.asarray({value.code}, {self.real})", (), "real")
        return self.elementwise("select", [mask, value, empty], inner, value.kind)

    def neutral(self, f: Fold, value: Term) -> Term:
        """The neutral element as a Python number, or of the value's own integer type."""
        assert f.kind is not None
        number = MONOIDS[f.kind].neutral
        if isinstance(number, bool):
            return Term(str(number), (), "bool", ATOM, None, True)
        if f.kind in ("sum", "prod"):
            return Term(str(number) + (".0" if value.kind == "real" else ""), (), value.kind, ATOM,
                        None, True)  # fmt: skip
        if value.kind == "real":
            code = "-jnp.inf" if f.kind == "max" else "jnp.inf"
            return Term(code, (), "real", UNARY, None, True)
        end = "min" if f.kind == "max" else "max"
        return Term(f"jnp.iinfo(jnp.arange(0).dtype).{end}", (), "int", ATOM, None, True)

    def _all_axes(self, value: Term, f: Fold, inner: Scope) -> Term:
        """The term with an axis for every binder."""
        return self._over(value, set(f.binders), inner)

    def _over(self, value: Term, wanted: set[str], inner: Scope) -> Term:
        """The term with all of these axes."""
        if wanted <= set(value.axes):
            return value
        axes = inner.ordered({*value.axes, *wanted})
        shape = [self.extent(*inner.axes[a]) for a in axes]
        text = f"jnp.broadcast_to({aligned(value, axes).code}, ({', '.join(shape)},))"
        return Term(text, axes, value.kind, ATOM, value.dtype)

    def extent(self, lo: Expr, hi: Expr) -> str:
        return self.number(self._sum(hi, lo, lo, -1))

    def _reduce(self, f: Fold, value: Term, inner: Scope) -> Term:
        assert f.kind is not None
        places = [value.axes.index(b) for b in f.binders]
        rest = tuple(a for a in value.axes if a not in f.binders)
        options = [] if not rest else [f"axis={places[0] if len(places) == 1 else tuple(places)}"]
        dtype = None
        if f.kind in ("sum", "prod"):
            if f.attr.acc == F64 or value.dtype == F64 or (self.f64 and value.kind == "real"):
                options.append("dtype=float")
                dtype = F64
            elif half(value.dtype):
                options.append("dtype=jnp.float32")
            elif value.kind == "int":
                value = self.lift(value)
        elif f.kind in ("max", "min"):
            dtype = value.dtype
            if not all(self.facts.at_least(hi - lo, 1) for lo, hi in f.ranges):
                value = self.lift(value)
                dtype = value.dtype
                options.append(f"initial={self.neutral(f, value).code}")
        text = f"{_REDUCE[f.kind]}({', '.join([value.code, *options])})"
        return Term(text, rest, value.kind, ATOM, dtype)

    # -- contractions -----------------------------------------------------------------------------

    def _contraction(self, f: Fold, scope: Scope) -> Term | None:
        """A sum of a product whose factors run over different axes."""
        factors = product_factors(f.term)
        bound = [x for x in factors if free_vars(x) & set(f.binders)]
        if len(bound) < 2 or f.term.kind == "bool":
            return None
        inner = scope.bind(fold_axes(f), () if f.guard is TRUE else ((f.guard, True),))
        runs = [free_vars(x) & set(inner.axes) for x in factors]
        runs = [r for r in runs if r]
        if len(runs) < 2 or all(r == set().union(*runs) for r in runs):
            return None
        inner.shared |= frozenset(x for x in factors if factors.count(x) > 1 and x.op != "read")
        if f.guard is not TRUE and not all(map(self.finite, factors)):
            return None  # a mask by zero must not meet an infinity
        terms = [self._factor(x, inner) for x in factors]
        arrays = [t for t in terms if t.axes]
        if len(arrays) < 2:
            return None
        if f.guard is not TRUE:
            mask = self.value(f.guard, inner.plain())
            home = [k for k, t in enumerate(terms) if set(mask.axes) <= set(t.axes)]
            if not home:
                return None
            zero = Term("0.0" if f.term.kind == "real" else "0", (), f.term.kind, ATOM, None, True)
            masked = self._ordered(self.lift(terms[home[0]]), inner)
            terms[home[0]] = self.elementwise("select", [mask, masked, zero], inner, masked.kind)
            arrays = [t for t in terms if t.axes]
        if not set(f.binders) <= {a for t in arrays for a in t.axes}:
            return None
        return self._einsum(f, terms, inner)

    def _factor(self, e: Expr, inner: Scope) -> Term:
        if e.op == "read":
            t = self.read(e, inner, ordered=False)
            return t if t.kind == "real" else self.lift(t)
        return self.value(e, inner)

    def _einsum(self, f: Fold, terms: Sequence[Term], inner: Scope) -> Term:
        """The contraction in f32 at least, in full precision on every device."""
        arrays = [t for t in terms if t.axes]
        scalars = [t for t in terms if not t.axes]
        letters: dict[str, str] = {}
        for t in arrays:
            for a in t.axes:
                wanted = a[0].lower() if a[0].lower() in _LETTERS else "a"
                free = [x for x in (wanted, *_LETTERS) if x not in letters.values()]
                letters.setdefault(a, free[0] if free else "?")
        if "?" in letters.values():
            raise PrintError(f"{show(f.node)} has more axes than letters")
        rest = inner.ordered(a for a in letters if a not in f.binders)
        spec = ",".join("".join(letters[a] for a in t.axes) for t in arrays)
        spec += "->" + "".join(letters[a] for a in rest)
        kind = f.term.kind
        wide = self.f64 or f.attr.acc == F64 or any(t.dtype == F64 for t in arrays)
        if kind == "int":
            to, options = "int", ["preferred_element_type=int"]
        else:
            to = "float" if wide else "jnp.float32"
            options = ["precision=lax.Precision.HIGHEST", f"preferred_element_type={to}"]
        operands = [self.short(t).code for t in self._alike(arrays, to)]
        text = f'jnp.einsum("{spec}", {", ".join([*operands, *options])})'
        out = Term(text, rest, kind, ATOM, F64 if wide else None)
        for t in scalars:
            product = f"{t.at(PRODUCT)} * {out.at(UNARY)}"
            out = Term(product, out.axes, kind, PRODUCT, out.dtype)
        return out

    def _alike(self, arrays: list[Term], to: str) -> list[Term]:
        """Stored halves are multiplied as they are only where all operands are of one type."""
        kinds = {t.dtype for t in arrays}
        if len(kinds) == 1 and arrays[0].dtype is not None and arrays[0].dtype.bits >= 16:
            return arrays
        return [self.lift(t) for t in arrays]

    # -- moving ranges ----------------------------------------------------------------------------

    def _moving(self, f: Fold, scope: Scope) -> Term:
        name, (lo, hi) = f.binders[0], f.ranges[0]
        ranges: dict[str, Interval | None] = {**scope.limits, **scope.axes}
        first, last = bounding(lo, ranges, upper=False), bounding(hi, ranges, upper=True)
        known = all(x is not None and self.is_static(x) for x in (first, last))

        def terms(domain: Interval) -> Term:
            return self._terms(f, domain, scope)

        moves = free_vars(lo) | free_vars(hi)
        free = not (free_vars(f.term) | free_vars(f.guard)) & moves
        if known and first is not None and last is not None:
            scanned = self._scan(f, first, last, scope) if free else None
            if scanned is None:
                scanned = self.band(f, self._envelope(f) or (first, last), scope, terms)
            return scanned if scanned is not None else self._cut(f, first, last, scope)
        envelope = self._envelope(f)
        banded = self.band(f, envelope, scope, terms)
        if banded is not None:
            return banded
        if envelope is not None:
            segmented = self._segments(f, *envelope, scope) if free else None
            return segmented if segmented is not None else self._cut(f, *envelope, scope)
        raise PrintError(f"the range of {name} in {show(f.node)} has no static bound")

    def _cut(self, f: Fold, first: Expr, last: Expr, scope: Scope) -> Term:
        """A moving range as a fixed one under a mask."""
        assert f.kind is not None
        lo, hi = f.ranges[0]
        at = var(f.binders[0])
        parts = [*([] if lo is first else [call("le", lo, at)]),
                 *([] if hi is last else [call("lt", at, hi)]), *conjuncts(f.guard)]  # fmt: skip
        wide = reduction(f.kind, f.binders, ((first, last),), f.term, conjunction(parts),
                         f.attr.acc)  # fmt: skip
        return self._monoid(Fold(wide), scope)

    def _scan(self, f: Fold, first: Expr, last: Expr, scope: Scope) -> Term | None:
        """A bound that moves with one axis over one fixed sequence: prefixes or suffixes."""
        assert f.kind is not None
        lo, hi = f.ranges[0]
        if f.kind not in _SCAN or f.term.kind == "bool":
            return None
        forward = self.is_static(lo)
        if not forward and not self.is_static(hi):
            return None
        form = affine(hi if forward else lo)
        moving = [x for x in form or () if x is not None and x.op == "var"]
        if form is None or len(moving) != 1 or form[moving[0]] != 1:
            return None
        v = moving[0].attr
        if v not in scope.axes or any(
            not self.is_static(x) for x in form if x is not None and x is not moving[0]
        ):
            return None
        name = f.binders[0]
        value = self._terms(f, (first, last), scope)
        k = value.axes.index(name)
        start, stop = scope.axes[v]
        reverse = "" if forward else ", reverse=True"
        table = Term(f"{_SCAN[f.kind]}({value.code}, axis={k}{reverse})", value.axes, value.kind,
                     ATOM, value.dtype)  # fmt: skip
        # entry p of the table with the neutral element added is what is wanted at v: p = v + shift
        shift = (hi if forward else lo) - var(v) - first
        begin = affine(substitute(shift, {var(v): ZERO}) + start) or {None: 99}
        offset = begin.get(None, 0) if not any(c for x, c in begin.items() if x is not None) else 99
        whole = self._same(stop - start, last - first)
        axes = tuple(v if a == name else a for a in value.axes)
        if not (whole and offset == (1 if forward else 0)):
            direct = offset == 0 and self._same(stop - start, last - first + 1)
            table = self._entries(f, table, k, forward, direct, first, last, scope, v)
        return self._ordered(Term(table.code, axes, table.kind, ATOM, table.dtype), scope)

    def _terms(self, f: Fold, domain: Interval, scope: Scope) -> Term:
        """The terms of a fold over a fixed domain, its binder among the axes."""
        assert f.kind is not None
        fixed = Fold(reduction(f.kind, f.binders, (domain,), f.term, f.guard, f.attr.acc))
        inner = self.inner(fixed, scope)
        value = self._all_axes(self.lift(self.masked(fixed, inner)), fixed, inner)
        if f.attr.acc == F64:
            value = Term(f"{value.at(ATOM)}.astype(float)", value.axes, value.kind, ATOM, F64)
        return value

    def _same(self, a: Expr, b: Expr) -> bool:
        form = affine(a - b)
        return form is not None and not any(form.values())

    def _entries(
        self, f: Fold, table: Term, k: int, forward: bool, direct: bool, first: Expr, last: Expr,
        scope: Scope, v: str,
    ) -> Term:  # fmt: skip
        """Entries of a scan at the moving bound, the neutral element where the range is empty."""
        widths = ["(0, 0)"] * len(table.axes)
        widths[k] = "(1, 0)" if forward else "(0, 1)"
        comma = "," if len(widths) == 1 else ""
        fill = self.neutral(f, table).code
        padded = f"jnp.pad({table.code}, ({', '.join(widths)}{comma}), constant_values={fill})"
        if direct:
            cut = ", ".join([*[":"] * k, f":{self.extent(*scope.axes[v])}"])
            return Term(f"{padded}[{cut}]", table.axes, table.kind, ATOM, table.dtype)
        bound = f.ranges[0][1 if forward else 0]
        at = self.value(bound - first, scope)
        code = f"jnp.clip({at.code}, 0, {self.number(last - first)})"
        return Term(f"jnp.take({padded}, {code}, axis={k})", table.axes, table.kind, ATOM,
                    table.dtype)  # fmt: skip

    def _envelope(self, f: Fold) -> tuple[Expr, Expr] | None:
        """A static range outside which some read without fill would be out of range."""
        at = var(f.binders[0])
        for x in walk(f.term):
            if x.op != "read":
                continue
            name, index, fill = read_parts(x)
            stored = self.arrays.get(name)
            if fill is None and stored is not None and hasattr(stored, "ranges"):
                for i, (lo, hi) in zip(index, stored.ranges, strict=True):
                    if i is at:
                        return lo, hi
                    if i.op == "floordiv" and i.args[0] is at and lo is ZERO:
                        if self.is_static(i.args[1]):
                            return ZERO, hi * i.args[1]
        return None

    def _segments(self, f: Fold, first: Expr, last: Expr, scope: Scope) -> Term | None:
        """Ranges that follow each other, as `p: ptr[i]..ptr[i + 1]`: a reduction by segments."""
        assert f.kind is not None
        lo, hi = f.ranges[0]
        moves = free_vars(lo) | free_vars(hi)
        if f.kind not in _SEGMENTS or len(moves) != 1 or f.term.kind == "bool":
            return None
        v = next(iter(moves))
        if v not in scope.axes or substitute(lo, {var(v): var(v) + 1}) is not hi:
            return None
        name = f.binders[0]
        fixed = Fold(reduction(f.kind, f.binders, ((first, last),), f.term, f.guard, f.attr.acc))
        inner = self.inner(fixed, scope, f.binders)
        value = self._all_axes(self.lift(self.masked(fixed, inner)), fixed, inner)
        begin, end = self.value(lo, scope), self.value(hi, scope)
        at = self.variable(var(name), inner)
        left = self.names.fresh("after_start")
        right = self.names.fresh("after_end")
        self.lines.append(f'{left} = jnp.searchsorted({begin.code}, {at.code}, side="right")')
        self.lines.append(f'{right} = jnp.searchsorted({end.code}, {at.code}, side="right")')
        count = self.extent(*scope.axes[v])
        row = Term(f"jnp.where({left} > {right}, {right}, {count})", (name,), "int")
        return self._by_segment(f, value, (name,), v, row, count, scope)

    def _by_segment(
        self, f: Fold, value: Term, gone: tuple[str, ...], v: str, row: Term, count: str,
        scope: Scope,
    ) -> Term:  # fmt: skip
        """Reduce the axes `gone` by the segment numbers `row` into the axis v of `count` entries;
        axes of `row` beside them are mapped over."""
        assert f.kind is not None
        batch = tuple(a for a in row.axes if a not in gone)
        rest = tuple(a for a in value.axes if a not in gone and a not in batch)
        wanted = (*batch, *gone, *rest)
        code = _turned(value, wanted)
        row_code = _turned(row, (*batch, *gone))
        function = _SEGMENTS[f.kind]
        if not batch:
            if len(gone) > 1:
                data = self.name(Term(code, wanted, value.kind), "terms")
                code = f"{data.code}.reshape((-1,) + {data.code}.shape[{len(gone)}:])"
                row_code = f"jnp.ravel({row_code})"
            text = f"{function}({code}, {row_code}, num_segments={count})"
        else:
            terms = "g" if len(gone) == 1 else f"g.reshape((-1,) + g.shape[{len(gone)}:])"
            places = "i" if len(gone) == 1 else "jnp.ravel(i)"
            text = f"lambda g, i: {function}({terms}, {places}, num_segments={count})"
            for _ in batch:
                text = f"jax.vmap({text})"
            text = f"{text}({code}, {row_code})"
        out = Term(text, (*batch, v, *rest), value.kind, ATOM, value.dtype)
        return self._ordered(out, scope)

    # -- scatters ---------------------------------------------------------------------------------

    def _scatter(self, f: Fold, scope: Scope) -> Term | None:
        """A guard `v == key`: every element goes to one place of the axis v."""
        assert f.kind is not None
        if f.kind not in _SEGMENTS or f.term.kind == "bool":
            return None
        parts = conjuncts(f.guard)
        for n, part in enumerate(parts):
            solved = _solve(part, f.binders, scope)
            if solved is None:
                continue
            v, key = solved
            rest = conjunction([p for k, p in enumerate(parts) if k != n])
            outer = free_vars(key) - set(f.binders)
            if v in free_vars(f.term) | free_vars(rest) or not outer <= set(scope.axes):
                continue
            if not set(f.binders) <= free_vars(key):
                continue
            plain = Fold(reduction(f.kind, f.binders, f.ranges, f.term, rest, f.attr.acc))
            inner = self.inner(plain, scope, (*scope.ordered(outer), *f.binders))
            value = self.lift(self.masked(plain, inner))
            wanted = {*f.binders, *outer}
            if value.static or wanted - set(value.axes):
                value = self._over(value, wanted, inner)
            lo, hi = scope.axes[v]
            row = self.value(key - lo, inner)
            return self._by_segment(f, value, inner.ordered(f.binders), v, row,
                                    self.extent(lo, hi), scope)  # fmt: skip
        return None

    def _rank(self, f: Fold, scope: Scope) -> Term | None:
        """How many elements come before one, read off a stable sort."""
        found = recognise(f)
        if found is None or scope.axes.get(found.element) != f.ranges[0]:
            return None
        own = substitute(found.key, {var(found.other): var(found.element)})
        keys = self.lift(self.value(own, scope))
        if found.element not in keys.axes:
            return None
        keys = self.name(keys, "keys")
        k = keys.axes.index(found.element)
        code = keys.code
        if found.descending:
            code = f"-{code}" if keys.kind == "real" else f"-1 - {code}"
        order = f"jnp.argsort({code}, axis={k}, stable=True)"
        if found.nan and found.descending:  # what is no number comes first
            order = f"jnp.argsort({keys.code}, axis={k}, stable=True, descending=True)"
        text = f"jnp.argsort({order}, axis={k}, stable=True)"
        if keys.kind == "real" and not found.nan:  # nothing comes before what is no number
            text = f"jnp.where(jnp.isnan({keys.code}), 0, {text})"
        out = Term(text, keys.axes, "int")
        if f.term is not ONE:
            out = self.elementwise("mul", [out, self.value(f.term, scope)], scope, "int")
        return out

    # -- places of extremes -----------------------------------------------------------------------

    def _arg(self, f: Fold, scope: Scope) -> Term:
        """The first place of the best element; -1 of nothing."""
        assert f.kind is not None
        lo, hi = f.ranges[0]
        looked_up = self._looked_up(f, scope)
        if looked_up is not None:
            return looked_up
        if not (self.is_static(lo) and self.is_static(hi)):
            ranges: dict[str, Interval | None] = {**scope.limits, **scope.axes}
            first, last = bounding(lo, ranges, upper=False), bounding(hi, ranges, upper=True)
            if first is None or last is None or not (self.is_static(first)
                                                     and self.is_static(last)):  # fmt: skip
                envelope = self._envelope(f)
                if envelope is None:
                    raise PrintError(f"the range of {show(f.node)} has no static bound")
                first, last = envelope
            at = var(f.binders[0])
            parts = [call("le", lo, at), call("lt", at, hi), *conjuncts(f.guard)]
            wide = reduction(f.kind, f.binders, ((first, last),), f.term, conjunction(parts))
            return self._arg(Fold(wide), scope)
        inner = self.inner(f, scope)
        value = self.root(f.term, inner)
        if value.kind == "int":
            value = self.lift(value)
        axes = inner.ordered({*value.axes, f.binders[0]})
        if set(axes) != set(value.axes):
            value = self._all_axes(value, f, inner)
        k = value.axes.index(f.binders[0])
        rest = tuple(a for a in value.axes if a != f.binders[0])
        function = f"jnp.{f.kind}"
        if f.guard is TRUE:
            out = Term(f"{function}({value.code}, axis={k})", rest, "int")
        else:
            out = self._masked_arg(f, value, inner, function)
        out = self._ordered(out, scope)
        return out if lo is ZERO else self.elementwise("add", [out, self.value(lo, scope)], scope,
                                                       "int")  # fmt: skip

    def _looked_up(self, f: Fold, scope: Scope) -> Term | None:
        """The first place where a key has the value of an outer index, else the first place."""
        t, (lo, hi) = f.term, f.ranges[0]
        if f.kind != "argmax" or f.guard is not TRUE or t.op != "select" or len(f.binders) != 1:
            return None
        if not (self.is_static(lo) and self.is_static(hi)) or t.args[1:] != (ONE, ZERO):
            return None
        solved = _solve(t.args[0], f.binders, scope)
        if solved is None or f.binders[0] not in free_vars(solved[1]):
            return None
        first = reduction("min", f.binders, f.ranges, var(f.binders[0]), t.args[0])
        found = self._scatter(Fold(first), scope)
        if found is None:
            return None
        found = self.name(found, "first")
        end, start = self.number(hi, COMPARE + 1), self.number(lo)
        return Term(f"jnp.where({found.code} < {end}, {found.code}, {start})", found.axes, "int")

    def _masked_arg(self, f: Fold, value: Term, inner: Scope, function: str) -> Term:
        mask = self.value(f.guard, inner.plain())
        best = "max" if f.kind == "argmax" else "min"
        wide = reduction(best, f.binders, f.ranges, f.term, f.guard)
        empty = self.neutral(Fold(wide), value)
        axes = inner.ordered({*value.axes, *mask.axes})
        if mask.axes != axes:
            shape = ", ".join(self.extent(*inner.axes[a]) for a in axes)
            shape += "," if len(axes) == 1 else ""
            wide_mask = f"jnp.broadcast_to({aligned(mask, axes).code}, ({shape}))"
            mask = Term(wide_mask, axes, "bool")
        mask = self.name(mask, "allowed")
        chosen = self.elementwise("select", [mask, value, empty], inner, value.kind)
        chosen = self.name(chosen, "masked")
        k = axes.index(f.binders[0])
        rest = tuple(a for a in axes if a != f.binders[0])
        if not self.facts.at_least(_width(f.ranges[0]), 1):
            # one more place, so that there is a first one
            ends = ", ".join("(0, 1)" if n == k else "(0, 0)" for n in range(len(axes)))
            ends += "," if len(axes) == 1 else ""
            mask = self.name(Term(f"jnp.pad({mask.code}, ({ends}))", axes, "bool"), "allowed")
            padded = f"jnp.pad({chosen.code}, ({ends}), constant_values={empty.code})"
            chosen = self.name(Term(padded, axes, value.kind), "masked")
        # where nothing allowed is better than what the others were set to, the first allowed
        text = (
            f"jnp.where(jnp.{best}({chosen.code}, axis={k}) == {empty.code}, "
            f"jnp.argmax({mask.code}, axis={k}), {function}({chosen.code}, axis={k}))"
        )
        return Term(f"jnp.where(jnp.any({mask.code}, axis={k}), {text}, -1)", rest, "int")

    # -- loops ------------------------------------------------------------------------------------

    def _loop(self, f: Fold, scope: Scope) -> Term:
        raise PrintError(f"no array code for {show(f.node)}")


def _turned(t: Term, axes: Sequence[str]) -> str:
    """The text of a term with its axes in this order."""
    order = tuple(t.axes.index(a) for a in axes)
    if order == tuple(range(len(order))):
        return t.code
    return f"{t.at(ATOM)}.T" if order == (1, 0) else f"jnp.transpose({t.code}, {order})"


def _width(span: Interval) -> Expr:
    form = affine(span[1] - span[0])
    return span[1] - span[0] if form is None else from_affine(form)


def _solve(part: Expr, binders: tuple[str, ...], scope: Scope) -> tuple[str, Expr] | None:
    """(v, key) when the condition says v == key for an outer axis v and a key without it."""
    if part.op != "eq" or part.args[0].kind != "int" or not free_vars(part) & set(binders):
        return None
    form = affine(part.args[0] - part.args[1])
    for leaf, factor in (form or {}).items():
        if leaf is None or leaf.op != "var" or abs(factor) != 1 or leaf.attr in binders:
            continue
        if leaf.attr not in scope.axes:
            continue
        assert form is not None
        rest = [x for x in form if x is not None and x is not leaf]
        if any(leaf.attr in free_vars(x) for x in rest):
            continue
        key: Expr | None = None
        for x in rest:
            part_of = x if -factor * form[x] == 1 else x * (-factor * form[x])
            key = part_of if key is None else key + part_of
        if key is None:
            continue
        offset = -factor * form.get(None, 0)
        return leaf.attr, key + offset if offset else key
    return None
