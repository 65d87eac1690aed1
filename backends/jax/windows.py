"""Windows: reads at `p * stride + r * dilation - pad` become convolutions and window reductions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from opwright.backends.jax.expressions import Expressions, Scope, Stored, product_factors
from opwright.backends.jax.scalar import ATOM, PRODUCT, Term, half, wrapped
from opwright.ir.dtypes import F64
from opwright.ir.expr import (
    ONE,
    TRUE,
    ZERO,
    Expr,
    Fold,
    affine,
    call,
    conjuncts,
    evaluate,
    free_vars,
    leaves,
    read_parts,
    var,
    walk,
)
from opwright.ir.extents import from_affine

Spans = Mapping[str, tuple[Expr, Expr]]
_REDUCERS = {
    "sum": ("0.0", "lax.add"),
    "max": ("-jnp.inf", "lax.max"),
    "min": ("jnp.inf", "lax.min"),
}


@dataclass(frozen=True, slots=True, eq=False)
class _Axis:
    """One axis of the operand: an index alone, a window over it, or channels of a group.

    With `holes` only positions that are multiples of it exist: the operand is spread by it.
    """

    index: str  # the index that the result keeps, or that is summed
    tap: str = ""  # the index within the window
    stride: Expr = ONE
    dilation: Expr = ONE
    offset: Expr = ZERO
    holes: Expr = ONE
    groups: Expr | None = None


@dataclass(frozen=True, slots=True)
class _Pad:
    low: Expr
    high: Expr


class Windows(Expressions):
    """The window forms of the printer."""

    # -- reductions over windows ------------------------------------------------------------------

    def pooled(self, f: Fold, scope: Scope) -> Term | None:
        """A reduction of one read over windows alone, or None."""
        x = f.term
        while x.op == "cast" and x.attr != F64:
            x = x.args[0]
        if f.kind not in _REDUCERS or f.guard is not TRUE or x.op != "read" or x.kind != "real":
            return None
        operand = self.arrays[x.attr[0]]
        _, places, fill = read_parts(x)
        neutral = {"sum": 0.0, "max": float("-inf"), "min": float("inf")}[f.kind]
        if fill is not None and (fill.op != "const" or fill.attr != neutral):
            return None
        if not isinstance(operand, Stored) or f.attr.acc == F64:
            return None
        spans = {**scope.axes, **dict(zip(f.binders, f.ranges, strict=True))}
        axes = self._axes(places, operand, f, scope, spans)
        if axes is None or {a.tap for a in axes if a.tap} != set(f.binders):
            return None
        names = tuple(a.index for a in axes)
        if len(set(names)) != len(names) or not set(names) <= set(scope.axes):
            return None
        term = Term(operand.code, names, "real", dtype=operand.dtype)
        term = self.lift(term) if f.kind == "sum" or half(operand.dtype) else term
        return self._windowed(f.kind, term, axes, operand, spans, scope)

    def _windowed(
        self, kind: str, term: Term, axes: Sequence[_Axis], operand: Stored, spans: Spans,
        scope: Scope,
    ) -> Term | None:  # fmt: skip
        sizes, steps, pads, taps = [], [], [], []
        for a, (_, extent) in zip(axes, operand.ranges, strict=True):
            pad = self._pad(a, extent, spans) if a.tap else _Pad(ZERO, ZERO)
            sizes.append(self.number(_extent(spans[a.tap])) if a.tap else "1")
            steps.append(self.number(a.stride))
            taps.append(self.number(a.dilation))
            pads.append(f"({self.number(pad.low)}, {self.number(pad.high)})")
        none = all(p == "(0, 0)" for p in pads)
        padding = '"VALID"' if none else f"({_items(pads)})"
        neutral, function = _REDUCERS[kind]
        text = (
            f"lax.reduce_window({term.code}, {neutral}, {function}, ({_items(sizes)}), "
            f"({_items(steps)}), {padding}"
        )
        text += f", window_dilation=({_items(taps)}))" if set(taps) != {"1"} else ")"
        if kind == "sum" and not self._nonempty(axes, spans):
            shape = _items([self.number(_extent(spans[a.index])) for a in axes])
            windows = [a.tap for a in axes if a.tap]
            text = self._unless_empty(text, windows, shape, spans, f"{term.code}.dtype")
        return self._ordered(Term(text, term.axes, "real", ATOM, term.dtype), scope)

    def band(
        self, f: Fold, domain: tuple[Expr, Expr] | None, scope: Scope,
        terms: Callable[[tuple[Expr, Expr]], Term],
    ) -> Term | None:  # fmt: skip
        """A range of one width that moves along with an axis, cut at the ends of `domain`; `terms`
        gives the terms over a whole domain."""
        name, (lo, hi) = f.binders[0], f.ranges[0]
        if f.kind not in _REDUCERS or f.term.kind != "real" or domain is None:
            return None
        first, last = domain
        if lo.op == "max":
            lo, first = self._cut_at(lo)
        if hi.op == "min":
            hi, last = self._cut_at(hi)
        width = tidy(hi - lo)
        moves = free_vars(lo)
        if len(moves) != 1 or not all(map(self.is_static, (width, first, last))):
            return None
        v = next(iter(moves))
        form = affine(lo) or {}
        if form.get(var(v)) != 1 or v not in scope.axes or not self.facts.at_least(width, 1):
            return None
        if v in free_vars(f.term) | free_vars(f.guard) or not self.is_static(tidy(lo - var(v))):
            return None
        value = terms((first, last))
        begin, end = scope.axes[v]
        low = tidy(first - begin - (lo - var(v)))
        high = tidy(end - 1 + (hi - var(v)) - last)
        k = value.axes.index(name)
        ones = ["1"] * len(value.axes)
        sizes, pads = list(ones), ["(0, 0)"] * len(ones)
        sizes[k] = self.number(width)
        pads[k] = f"({self.number(low)}, {self.number(high)})"
        neutral, function = _REDUCERS[f.kind]
        text = (
            f"lax.reduce_window({value.code}, {neutral}, {function}, ({_items(sizes)}), "
            f"({_items(ones)}), ({_items(pads)}))"
        )
        axes = tuple(v if a == name else a for a in value.axes)
        return self._ordered(Term(text, axes, "real", ATOM, value.dtype), scope)

    def _cut_at(self, e: Expr) -> tuple[Expr, Expr]:
        a, b = e.args
        return (b, a) if self.is_static(a) else (a, b)

    # -- convolutions -----------------------------------------------------------------------------

    def convolution(self, f: Fold, scope: Scope) -> Term | None:
        """A sum of products over windows as a convolution, or None where it has another form."""
        factors = product_factors(f.term)
        if len(factors) != 2 or f.term.kind != "real" or f.kind != "sum":
            return None
        for x, w in (factors, factors[::-1]):
            if x.op == "read" and w.op == "read":
                found = self._matched(f, x, w, scope)
                if found is not None:
                    return found
        return None

    def _matched(self, f: Fold, x: Expr, w: Expr, scope: Scope) -> Term | None:
        operand, kernel = self.arrays[x.attr[0]], self.arrays[w.attr[0]]
        _, places, fill = read_parts(x)
        _, taps, other = read_parts(w)
        if not isinstance(operand, Stored) or not isinstance(kernel, Stored) or other is not None:
            return None
        if fill is not None and (fill.op != "const" or fill.attr != 0):
            return None
        spans = {**scope.axes, **dict(zip(f.binders, f.ranges, strict=True))}
        names = [i.attr for i in taps if i.op == "var"]
        if len(set(names)) != len(taps):
            return None
        for n, (lo, hi) in zip(names, kernel.ranges, strict=True):
            if lo is not ZERO or spans.get(n) != (lo, hi):
                return None
        axes = self._axes(places, operand, f, scope, spans)
        if axes is None or not any(a.tap and a.groups is None for a in axes):
            return None
        if f.guard is not TRUE or any(a.holes is not ONE for a in axes):
            kept = {call("eq", call("mod", _position(a), a.holes), 0) for a in axes
                    if a.holes is not ONE}  # fmt: skip
            guards = {_canonical(g) for g in conjuncts(f.guard)}
            if guards != {_canonical(g) for g in kept} or not self.finite(w):
                return None
            if any(a.stride is not ONE for a in axes):
                return None
        windows = [a for a in axes if a.tap and a.groups is None]
        inside = {a.tap for a in axes if a.tap} | {a.index for a in axes if a.index in f.binders}
        if inside != set(f.binders) or not inside <= set(names):
            return None
        if len({a.index for a in windows} | set(names)) != len(windows) + len(names):
            return None
        sure = fill is None or self.finite(w)
        return self._written(f, operand, kernel, sure, axes, names, scope, spans)

    def _written(
        self, f: Fold, operand: Stored, kernel: Stored, sure: bool, axes: Sequence[_Axis],
        names: Sequence[str], scope: Scope, spans: Spans,
    ) -> Term | None:  # fmt: skip
        windows = [a for a in axes if a.tap and a.groups is None]
        grouped = next((a.groups for a in axes if a.groups is not None), None)
        plain = [a.tap if a.groups is not None else a.index for a in axes if a not in windows]
        batch = [n for n in plain if n in scope.axes and n not in names]
        group = [n for n in plain if n in scope.axes and n in names]
        channels = [n for n in plain if n in f.binders]
        outputs = [n for n in names if n in scope.axes and n not in group]
        if any(a.index in group for a in windows) or (grouped is not None and group):
            return None
        space, taps = [a.index for a in windows], [a.tap for a in windows]
        if {*group, *outputs, *channels, *taps} != set(names):
            return None
        rest = scope.ordered((*batch, *group, *outputs, *space))
        if len(rest) != len(batch) + len(group) + len(outputs) + len(space):
            return None
        x = self.lift(Term(operand.code, (), "real", dtype=operand.dtype))
        k = self.lift(Term(kernel.code, (), "real", dtype=kernel.dtype))
        holed = any(a.holes is not ONE for a in axes)
        if holed and not all(self.facts.at_least(operand.ranges[axes.index(a)][1], 1)
                             for a in windows):  # fmt: skip
            return None
        pads = [self._pad(a, operand.ranges[axes.index(a)][1], spans) for a in windows]
        if holed:
            turned = [names.index(a.tap) for a in windows]
            places = str(turned[0] if len(turned) == 1 else tuple(turned))
            k = Term(f"jnp.flip({k.code}, {places})", (), "real")
        flat = [f"({self.number(p.low)}, {self.number(p.high)})" for p in pads]
        if all(p == "(0, 0)" for p in flat):
            padding = '"VALID"'
        elif holed or sure:
            padding = f"({_items(flat)})"
        else:
            # padding meets every weight, also one that is no finite number
            widths = iter(flat)
            wide = [next(widths) if a in windows else "(0, 0)" for a in axes]
            fits = all(self.facts.at_least(e) for p in pads for e in (p.low, p.high))
            if fits:
                x = Term(f"jnp.pad({x.code}, ({_items(wide)}))", (), "real")
            else:
                ends = _items([f"{p[:-1]}, 0)" for p in wide])
                x = Term(f"lax.pad({x.code}, jnp.zeros((), {x.code}.dtype), ({ends}))", (), "real")
            x = self.short(x)
            padding = '"VALID"'
        regular = len(batch) == len(channels) == len(outputs) == 1 and not group
        # letters of dimensions: batch N, channels C, window axes
        spatial = {1: "W", 2: "HW", 3: "DHW"}.get(len(windows), "UVWXYZ")[: len(windows)]
        if regular:
            letters = {a.index: s for a, s in zip(windows, spatial, strict=True)}
            left = "".join(
                letters[a.index] if a in windows
                else "N" if a.index in batch else "C" for a in axes
            )  # fmt: skip
            of_kernel = {a.tap: s for a, s in zip(windows, spatial, strict=True)}
            right = "".join(of_kernel.get(n, "O" if n in outputs else "I") for n in names)
            out = "".join(letters.get(n, "N" if n in batch else "C") for n in rest)
            operands, order = (x.code, k.code), rest
        else:
            own = [a.tap if a.groups is not None else a.index for a in axes]
            xs = self._classed(x, own, (batch, (*group, *channels)), space, spans)
            ks = self._classed(k, names, ((*group, *outputs), channels), taps, spans)
            operands, order = (xs, ks), (*batch, *group, *outputs, *space)
            left, right, out = "NC" + spatial, "OI" + spatial, "NC" + spatial
        options = [f"window_strides=({_items([self.number(a.stride) for a in windows])})",
                   f"padding={padding}"]  # fmt: skip
        if holed:
            options.append(f"lhs_dilation=({_items([self.number(a.holes) for a in windows])})")
        if any(a.dilation is not ONE for a in windows):
            options.append(f"rhs_dilation=({_items([self.number(a.dilation) for a in windows])})")
        options.append(f'dimension_numbers=("{left}", "{right}", "{out}")')
        if group:
            count = " * ".join(self.number(_extent(spans[n]), PRODUCT) for n in group)
            options.append(f"feature_group_count={count}")
        elif grouped is not None:
            options.append(f"feature_group_count={self.number(grouped)}")
        options.append("precision=lax.Precision.HIGHEST")
        wide_sum = f.attr.acc == F64
        options += ["preferred_element_type=float"] if wide_sum else []
        text = f"lax.conv_general_dilated({', '.join([*operands, *options])})"
        dtype = F64 if wide_sum else None
        shape = _items([self.number(_extent(spans[n])) for n in order])
        if len(batch) != 1 or len(group) + len(outputs) != 1:
            if not self._extra(axes, group, spans):
                text = self.name(Term(text, order, "real"), "sums").code
            text = f"{text}.reshape({shape.rstrip(',')})"
        extra = self._extra(axes, group, spans)
        if extra:
            kind = "float" if wide_sum else self.real
            text = self._unless_empty(text, extra, shape, spans, kind)
        return self._ordered(Term(text, order, "real", ATOM, dtype), scope)

    def _nonempty(self, axes: Sequence[_Axis], spans: Spans) -> bool:
        """Whether every window is known to hold something."""
        return all(self.facts.at_least(_extent(spans[a.tap]), 1) for a in axes if a.tap)

    def _extra(self, axes: Sequence[_Axis], group: Sequence[str], spans: Spans) -> list[str]:
        """Indices of windows and groups whose range may be empty."""
        names = [*(a.tap for a in axes if a.tap and a.groups is None), *group]
        return [n for n in names if not self.facts.at_least(_extent(spans[n]), 1)]

    def _unless_empty(
        self, text: str, names: Sequence[str], shape: str, spans: Spans, kind: str
    ) -> str:
        """A variable that is zero where windows are empty, which a convolution cannot be."""
        sizes = [self.number(_extent(spans[n]), PRODUCT) for n in names]
        variable = self.names.fresh("sums")
        self.lines.append(f"if {' * '.join(dict.fromkeys(sizes))} > 0:")
        self.lines += [f"    {line}" for line in wrapped(f"{variable} = {text}", 92)]
        self.lines += ["else:", f"    {variable} = jnp.zeros(({shape}), {kind})"]
        return variable

    def _classed(
        self, t: Term, own: Sequence[str], classes: Sequence[Sequence[str]], space: Sequence[str],
        spans: Spans,
    ) -> str:  # fmt: skip
        """An operand with one axis for each class of indices, its window axes last."""
        order = [*(n for names in classes for n in names), *space]
        code = t.at(ATOM)
        if order != list(own):
            code = f"jnp.transpose({t.code}, {tuple(own.index(n) for n in order)})"
        counts = [len(names) for names in classes]
        if max(counts) <= 1:
            news = {(1, 0): "[:, None]", (0, 1): "[None]", (0, 0): "[None, None]", (1, 1): ""}
            return f"{code}{news[counts[0], counts[1]]}"
        parts = [
            " * ".join(self.number(_extent(spans[n]), PRODUCT) for n in names) or "1"
            for names in classes
        ]
        base = self.name(Term(code, (), "real"), "rows").code
        ahead = len(own) - len(space)
        return f"{base}.reshape({', '.join(parts)}, *{base}.shape[{ahead}:])"

    # -- what both need ---------------------------------------------------------------------------

    def _pad(self, a: _Axis, extent: Expr, spans: Spans) -> _Pad:
        """Padding on both ends so that exactly the windows of the result exist."""
        (begin, end), (first, after) = spans[a.index], spans[a.tap]
        count, size = tidy(end - begin), tidy(after - first)
        offset = tidy(a.offset + begin * a.stride + first * a.dilation)
        if a.holes is not ONE:
            # taps run backwards: the window at p begins at p + offset - (size - 1) * dilation
            low = tidy((size - 1) * a.dilation - offset)
            spread = tidy((extent - 1) * a.holes + 1)
            return _Pad(low, tidy(count + (size - 1) * a.dilation - spread - low))
        low = tidy(ZERO - offset)
        # as a rule the padding is the same at both ends, and what is left over is not read
        alike = (extent + low + low - (size - 1) * a.dilation - 1) // a.stride + 1
        last = (count - 1) * a.stride + (size - 1) * a.dilation + offset
        return _Pad(low, low if _same(count, alike) else tidy(last - (extent - 1)))

    def _axes(
        self, places: Sequence[Expr], operand: Stored, f: Fold, scope: Scope, spans: Spans
    ) -> list[_Axis] | None:
        """How every axis of the operand is read, or None."""
        out = []
        for e, (lo, hi) in zip(places, operand.ranges, strict=True):
            a = self._axis(e, f, scope, hi)
            if a is None or lo is not ZERO:
                return None
            if not a.tap and spans.get(a.index) != (lo, hi):
                return None
            out.append(a)
        return out

    def _axis(self, e: Expr, f: Fold, scope: Scope, extent: Expr) -> _Axis | None:
        """An index as `p * stride + r * dilation + offset`, or that divided by a step."""
        if e.op == "var":
            return _Axis(e.attr)
        holes, inner = ONE, e
        if e.op == "floordiv" and self.is_static(e.args[1]):
            inner, holes = e.args
        loose = sorted(free_vars(inner))
        outside = [n for n in loose if n in scope.axes]
        within = [n for n in loose if n in f.binders]
        if len(outside) != 1 or len(within) != 1 or len(loose) != 2:
            return None
        if holes is ONE:
            grouped = self._group(e, outside[0], within[0], scope, dict(zip(f.binders, f.ranges,
                                  strict=True)), extent)  # fmt: skip
            if grouped is not None:
                return grouped
        factors: dict[str, tuple[int, Expr]] = {}
        offset: Expr = ZERO
        for sign, term in _terms(inner):
            name = next((n for n in (*outside, *within) if n in free_vars(term)), None)
            if name is None:
                offset = offset + term if sign > 0 else offset - term
                continue
            factor = _factor(term, name)
            if factor is None or name in factors:
                return None
            factors[name] = (sign, factor)
        if len(factors) != 2 or factors[outside[0]][0] < 0:
            return None
        (_, stride), (sign, dilation) = factors[outside[0]], factors[within[0]]
        if (sign > 0) != (holes is ONE):
            return None
        if not all(map(self.is_static, (stride, dilation, offset, holes))):
            return None
        return _Axis(outside[0], within[0], stride, dilation, tidy(offset), holes)

    def _group(
        self, e: Expr, outer: str, inner: str, scope: Scope, ranges: Spans, extent: Expr
    ) -> _Axis | None:
        """Channels of the group that an output channel is of: `k // F * D + c`."""
        parts = _terms(e)
        if len(parts) != 2 or any(sign < 0 for sign, _ in parts):
            return None
        own = [t for _, t in parts if t is var(inner)]
        first = [t for _, t in parts if t is not var(inner)]
        lo, per_group = ranges[inner]
        if len(own) != 1 or lo is not ZERO or first[0].op != "mul":
            return None
        for a, b in (first[0].args, first[0].args[::-1]):
            if a.op != "floordiv" or a.args[0] is not var(outer) or b is not per_group:
                continue
            share, whole = a.args[1], scope.axes[outer][1]
            if scope.axes[outer][0] is not ZERO or share.op != "floordiv":
                continue
            count = share.args[1]
            exact = {call("eq", call("mod", n, count), 0) for n in (whole, extent)}
            if (share.args[0] is whole and per_group is call("floordiv", extent, count)
                    and exact <= set(self.op.facts)):  # fmt: skip
                return _Axis(outer, inner, groups=count)
        return None

    def finite(self, e: Expr) -> bool:
        """Whether an expression is made of inputs that the contract requires to be finite."""
        names = {t.name for t in self.op.inputs}
        finite = {
            x.attr[0]
            for c in self.op.requires
            if c.expr is not None
            for x in walk(c.expr)
            if x.op == "read"
        }
        allowed = {"read", "const", "cast", "add", "sub", "mul", "neg", "toreal", "select"}
        for x in walk(e):
            if x.kind == "real" and x.op not in allowed:
                return False
            if x.op == "read" and x.kind == "real" and x.attr[0] not in names & finite:
                return False
        return True


def tidy(e: Expr) -> Expr:
    """An integer expression without terms that cancel."""
    form = affine(e)
    return e if form is None else from_affine(form)


def _extent(span: tuple[Expr, Expr]) -> Expr:
    return tidy(span[1] - span[0])


def _position(a: _Axis) -> Expr:
    return var(a.index) * a.stride + a.offset - var(a.tap) * a.dilation


def _canonical(e: Expr) -> Expr:
    """A condition `x % n == 0` with x in affine form."""
    if e.op != "eq":
        return e
    left, right = e.args
    if left is ZERO:
        left, right = right, left
    if left.op != "mod" or right is not ZERO:
        return e
    form = affine(left.args[0]) or {left.args[0]: 1}
    rows = sorted((str(k), c) for k, c in form.items() if c)
    return call("eq", call("mod", _sorted(form) if rows else ZERO, left.args[1]), 0)


def _sorted(form: Mapping[Expr | None, int]) -> Expr:
    rows = sorted(((k, c) for k, c in form.items() if k is not None and c),
                  key=lambda r: repr(r[0]))  # fmt: skip
    return from_affine({**dict(rows), None: form.get(None, 0)})


def _same(a: Expr, b: Expr) -> bool:
    """Whether two size formulas agree wherever they were tried."""
    names = sorted({x.attr for e in (a, b) for x in leaves(e, "size", "param")})
    for n in range(1, 40):
        env = {name: 1 + (n * n * (k + 3) + 5 * k + n) % 23 for k, name in enumerate(names)}
        if evaluate(a, env) != evaluate(b, env):
            return False
    return True


def _items(parts: Sequence[str]) -> str:
    return ", ".join(parts) + ("," if len(parts) == 1 else "")


def _terms(e: Expr, sign: int = 1) -> list[tuple[int, Expr]]:
    if e.op in ("add", "sub"):
        last = sign if e.op == "add" else -sign
        return _terms(e.args[0], sign) + _terms(e.args[1], last)
    return [(sign, e)]


def _factor(e: Expr, name: str) -> Expr | None:
    """What an index is multiplied by in a product."""
    if e is var(name):
        return ONE
    if e.op != "mul":
        return None
    a, b = e.args
    if name in free_vars(b):
        a, b = b, a
    inner = None if name in free_vars(b) else _factor(a, name)
    return None if inner is None else inner * b
