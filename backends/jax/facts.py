"""What is known of sizes when array code is written: lower bounds and differences from `where`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from opwright.ir.expr import ZERO, Expr, affine, call, conjuncts
from opwright.ir.extents import Interval, bounding

Form = Mapping[Expr | None, int]


class Facts:
    """Linear facts over sizes and params; every size is at least 0."""

    def __init__(self, facts: Iterable[Expr]) -> None:
        self.forms: list[dict[Expr | None, int]] = []  # each is >= 0
        for fact in facts:
            for part in conjuncts(fact):
                self._add(part)

    def _add(self, part: Expr) -> None:
        if part.op not in ("le", "lt", "eq") or part.args[0].kind != "int":
            return
        a, b = part.args
        if part.op == "eq" and "mod" in (a.op, b.op):
            # x % n == 0 says that x is n * (x // n)
            whole = a if a.op == "mod" else b
            if (b if whole is a else a) is ZERO:
                x, n = whole.args
                a, b = x, n * call("floordiv", x, n)
        form = affine(b - a if part.op != "lt" else b - a - 1)
        if form is not None:
            self.forms.append(dict(form))
            if part.op == "eq":
                self.forms.append({k: -c for k, c in form.items()})

    def at_least(self, e: Expr, least: int = 0) -> bool:
        """Whether an integer expression over sizes and params is provably >= `least`."""
        form = affine(e - least)
        return form is not None and self._holds(form, 2)

    def _holds(self, form: Form, depth: int) -> bool:
        if all(_nonnegative(k, c) for k, c in form.items()):
            return True
        if depth == 0:
            return False
        for k, c in form.items():
            if c < 0 and k is not None and k.op == "floordiv" and k.args[1].op == "const":
                # n * (x // n) <= x
                x, n = k.args
                scaled = {j: d * n.attr for j, d in form.items() if j is not k}
                for j, d in (affine(x) or {x: 1}).items():
                    scaled[j] = scaled.get(j, 0) + c * d
                if self._holds(scaled, depth - 1):
                    return True
        for known in self.forms:
            # useful when it cancels a term that may be negative
            if any(c * known.get(k, 0) > 0 and not _nonnegative(k, c) for k, c in form.items()):
                rest = {k: form.get(k, 0) - known.get(k, 0) for k in {*form, *known}}
                if self._holds(rest, depth - 1):
                    return True
        return False

    def inside(self, e: Expr, lo: Expr, hi: Expr, ranges: Mapping[str, Interval | None]) -> bool:
        """Whether lo <= e < hi wherever the index variables run."""
        least, most = bounding(e, ranges, upper=False), bounding(e, ranges, upper=True)
        if least is None or most is None:
            return False
        return self.at_least(least - lo) and self.at_least(hi - most - 1)


def _nonnegative(term: Expr | None, factor: int) -> bool:
    if factor == 0:
        return True
    if term is None:
        return factor >= 0
    return factor > 0 and _product_of_sizes(term)


def _product_of_sizes(e: Expr) -> bool:
    if e.op in ("mul", "floordiv", "max"):
        return all(_product_of_sizes(a) for a in e.args)
    return e.op == "size" or (e.op == "const" and e.kind == "int" and e.attr >= 0)
