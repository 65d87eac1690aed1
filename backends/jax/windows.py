"""Windows: a contraction whose operand is read at `p * stride + r * dilation - pad`, as one
convolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from opwright.backends.jax.expressions import Expressions, Scope
from opwright.backends.jax.scalar import Term
from opwright.ir.dtypes import F64
from opwright.ir.expr import (
    ONE,
    TRUE,
    ZERO,
    Expr,
    Fold,
    evaluate,
    free_vars,
    leaves,
    read_parts,
    var,
)


@dataclass(frozen=True, slots=True)
class _Axis:
    """One axis of the operand: an index alone, or a window over it."""

    index: str  # the index that the result keeps, or that is summed
    tap: str = ""  # the index within the window
    stride: Expr = ONE
    dilation: Expr = ONE
    offset: Expr = ZERO


class Windows(Expressions):
    """The window form of the printer."""

    def convolution(self, f: Fold, factors: Sequence[Expr], scope: Scope) -> Term | None:
        """The sum as a convolution, or None where it has another form."""
        if f.guard is not TRUE or len(factors) != 2 or f.term.kind != "real":
            return None
        for x, w in (factors, factors[::-1]):
            found = self._matched(f, x, w, scope)
            if found is not None:
                return found
        return None

    def _matched(self, f: Fold, x: Expr, w: Expr, scope: Scope) -> Term | None:
        if x.op != "read" or w.op != "read":
            return None
        operand, kernel = self.arrays[x.attr[0]], self.arrays[w.attr[0]]
        _, places, fill = read_parts(x)
        _, taps, other = read_parts(w)
        if not hasattr(operand, "ranges") or not hasattr(kernel, "ranges") or other is not None:
            return None
        if fill is None or fill.op != "const" or fill.attr != 0:
            return None
        spans = {**scope.axes, **dict(zip(f.binders, f.ranges, strict=True))}
        if any(i.op != "var" or spans.get(i.attr) != r
               for i, r in zip(taps, kernel.ranges, strict=True)):  # fmt: skip
            return None
        axes = [self._axis(i, f, scope) for i in places]
        found = [a for a in axes if a is not None]
        if len(found) != len(axes):
            return None
        ends = zip(found, operand.ranges, strict=True)
        if any(lo is not ZERO or (not a.tap and spans.get(a.index) != (lo, hi))
               for a, (lo, hi) in ends):  # fmt: skip
            return None
        windows = [a for a in found if a.tap]
        plain = [a.index for a in found if not a.tap]
        names = [i.attr for i in taps]
        kept = [n for n in names if n in scope.axes]
        shared = [n for n in plain if n in f.binders and n in names]
        batch = [n for n in plain if n in scope.axes]
        inside = {*shared, *(a.tap for a in windows)}
        right = len(kept) == len(shared) == len(batch) == 1 and set(kept) & set(batch) == set()
        if not windows or not right or inside != set(f.binders) or {*inside, *kept} != set(names):
            return None
        outer = [batch[0], kept[0], *(a.index for a in windows)]
        if len(set(outer)) != len(outer) or any(spans[n][0] is not ZERO for n in outer):
            return None
        if not all(self.facts.at_least(spans[a.tap][1], 1) for a in windows):
            return None
        return self._written(f, x, w, found, outer, scope, spans)

    def _axis(self, e: Expr, f: Fold, scope: Scope) -> _Axis | None:
        """An index as `p * stride + r * dilation + offset`."""
        loose = sorted(free_vars(e))
        if e.op == "var":
            return _Axis(e.attr)
        outer = [n for n in loose if n in scope.axes]
        inner = [n for n in loose if n in f.binders]
        if len(outer) != 1 or len(inner) != 1 or len(loose) != 2:
            return None
        factors: dict[str, Expr] = {}
        offset: Expr = ZERO
        for sign, term in _terms(e):
            name = next((n for n in (*outer, *inner) if n in free_vars(term)), None)
            if name is None:
                offset = offset + term if sign > 0 else offset - term
                continue
            factor = _factor(term, name)
            if factor is None or sign < 0 or name in factors:
                return None
            factors[name] = factor
        if len(factors) != 2 or not all(map(self.is_static, (*factors.values(), offset))):
            return None
        return _Axis(outer[0], inner[0], factors[outer[0]], factors[inner[0]], offset)

    def _written(
        self, f: Fold, x: Expr, w: Expr, axes: Sequence[_Axis], outer: Sequence[str], scope: Scope,
        spans: dict[str, tuple[Expr, Expr]],
    ) -> Term:  # fmt: skip
        operand, kernel = self.arrays[x.attr[0]], self.arrays[w.attr[0]]
        windows = [a for a in axes if a.tap]
        letters = {outer[0]: "N", outer[1]: "O"}
        spatial = "HW" if len(windows) == 2 else "DHW" if len(windows) == 3 else "WXYZUV"
        for letter, a in zip(spatial, windows, strict=False):
            letters[a.index] = letters[a.tap] = letter
        left = "".join(letters.get(a.index, "C") for a in axes)
        right = "".join(letters.get(i.attr, "I") for i in read_parts(w)[1])
        rest = scope.ordered(outer)
        out = "".join("C" if n == outer[1] else letters[n] for n in rest)
        steps, tapped, pads = [], [], []
        for a in windows:
            extent = operand.ranges[axes.index(a)][1]  # type: ignore[union-attr]
            count, size = spans[a.index][1], spans[a.tap][1]
            last = (count - 1) * a.stride + (size - 1) * a.dilation + a.offset
            steps.append(self.number(a.stride))
            tapped.append(self.number(a.dilation))
            low = ZERO - a.offset
            # as a rule the padding is the same at both ends, and what is left over is not read
            alike = (extent + low + low - (size - 1) * a.dilation - 1) // a.stride + 1
            high = low if _same(count, alike) else last - (extent - 1)
            pads.append(f"({self.number(low)}, {self.number(high)})")
        wide = f.attr.acc == F64
        terms = [Term(s.code, (), "real", dtype=s.dtype) for s in (operand, kernel)  # type: ignore[union-attr]
                 ]  # fmt: skip
        codes = [self.lift(t).code for t in terms]  # the gradient wants one type throughout
        text = (
            f"lax.conv_general_dilated({codes[0]}, {codes[1]}, "
            f"window_strides=({_items(steps)}), padding=({_items(pads)}), "
            f"rhs_dilation=({_items(tapped)}), "
            f'dimension_numbers=("{left}", "{right}", "{out}"), '
            f"precision=lax.Precision.HIGHEST{', preferred_element_type=float' if wide else ''})"
        )
        return Term(text, rest, "real", dtype=F64 if wide else None)


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
