"""Bounds of integers that loops count: what a state gains in a trip, times the trips at most.

By induction over trips: a state that starts within bounds and moves by at most so much in each
trip stays within the sums, and has not wrapped as long as these fit its type.
"""

from __future__ import annotations

from collections.abc import Callable

from opwright.ir.dtypes import BOOL, I64, integer_range
from opwright.ir.expr import Expr
from opwright.ir.tile import For, TileProgram, Value, statements

Span = tuple[int, int]
Trips = Callable[[For], int | None]
DEPTH = 40  # values that a bound is looked for through
MARGIN = 24  # bits that every single step leaves free, so that none of them wraps on the way


class Spans:
    """Bounds of the integer values of one program."""

    def __init__(self, program: TileProgram) -> None:
        self.loops: dict[Value, tuple[For, int]] = {}
        for k in program.kernels:
            for s in statements(k.body):
                if isinstance(s, For):
                    for n, (p, r) in enumerate(zip(s.params, s.results, strict=True)):
                        self.loops[p] = self.loops[r] = (s, n)
        self.found: dict[Value, Span] = {}
        self.open: set[Value] = set()

    def of(self, v: Value, trips: Trips) -> Span:
        """Bounds of an integer (of a truth value 0 and 1); `trips` says how often a loop runs at
        most."""
        whole = (0, 1) if v.dtype is BOOL else integer_range(v.dtype)
        if v in self.found:
            return self.found[v]
        if v in self.open or len(self.open) > DEPTH:
            return whole
        self.open.add(v)
        found = self._of(v, trips)
        self.open.discard(v)
        if found is None or found[0] < whole[0] or found[1] > whole[1]:
            found = whole
        if not self.open:  # inside of another one a bound may rest on what is not known yet
            self.found[v] = found
        return found

    def _of(self, v: Value, trips: Trips) -> Span | None:
        if v.dtype.kind == "real" or any(a.dtype.kind == "real" for a in v.args):
            return None
        if v.op == "full":
            return int(v.attr), int(v.attr)
        if v.op == "index":
            return self._expression(v.attr, trips)
        if v.op in ("param", "result"):
            return self._state(v, trips)
        args = [self.of(a, trips) for a in v.args]
        if v.op == "reduce" and v.attr[0] in ("sum", "max", "min"):
            times = v.attr[1].extent if v.attr[0] == "sum" else 1
            return args[0][0] * times, args[0][1] * times
        if v.op == "add":
            return args[0][0] + args[1][0], args[0][1] + args[1][1]
        if v.op == "sub":
            return args[0][0] - args[1][1], args[0][1] - args[1][0]
        if v.op == "select":
            return min(args[1][0], args[2][0]), max(args[1][1], args[2][1])
        if v.op in ("max", "min"):
            pick = max if v.op == "max" else min
            return pick(args[0][0], args[1][0]), pick(args[0][1], args[1][1])
        return args[0] if v.op == "cast" else None

    def _expression(self, e: Expr, trips: Trips) -> Span | None:
        """Bounds of an index expression over constants, lanes and values."""
        if e.op == "const" and e.kind == "int":
            return int(e.attr), int(e.attr)
        if e.op == "lane":
            return 0, e.attr.extent - 1
        if e.op == "value" and e.kind == "int":
            return self.of(e.attr, trips)
        if e.kind != "int" or e.op not in ("add", "sub", "mul", "neg", "select", "max", "min"):
            return None
        args = [self._expression(a, trips) for a in e.args if a.kind == "int"]
        known = [a for a in args if a is not None]
        if len(known) < len(args):
            return None
        found = _combined(e.op, known)
        low, high = integer_range(I64)  # what does not fit on the way has no bounds
        return found if low <= found[0] and found[1] <= high else None

    def _state(self, v: Value, trips: Trips) -> Span | None:
        s, n = self.loops[v]
        gain = self._gain(s.yields[n], s.params[n], trips)
        most = trips(s)
        if gain is None or most is None:
            return None
        lo, hi = self.of(s.inits[n], trips)
        lo, hi = lo + min(gain[0], 0) * most, hi + max(gain[1], 0) * most
        least, top = integer_range(v.dtype)
        return (lo, hi) if least // 2 <= lo and hi <= top // 2 else None

    def _gain(self, y: Value, p: Value, trips: Trips, depth: int = 0) -> Span | None:
        """How far a value lies from a state that it is made from."""
        if y is p:
            return 0, 0
        if depth > DEPTH or y.dtype.kind != "int":
            return None
        found = self._moved(y, p, trips, depth)
        free = y.dtype.bits - MARGIN
        if found is None or free < 0 or max(-found[0], found[1]) > 1 << free:
            return None
        return found

    def _moved(self, y: Value, p: Value, trips: Trips, depth: int) -> Span | None:
        if y.op == "index":
            return self._shifted(y.attr, p, trips, depth + 1)
        inner = [self._gain(a, p, trips, depth + 1) for a in y.args]
        if y.op == "add" and (inner[0] is None) != (inner[1] is None):
            moved, other = (0, 1) if inner[0] is not None else (1, 0)
            step = self.of(y.args[other], trips)
            own = inner[moved]
            assert own is not None
            return own[0] + step[0], own[1] + step[1]
        if y.op == "sub" and inner[0] is not None and inner[1] is None:
            step = self.of(y.args[1], trips)
            return inner[0][0] - step[1], inner[0][1] - step[0]
        sides = inner[1:] if y.op == "select" else inner
        if y.op in ("select", "max", "min", "cast") and sides and None not in sides:
            known = [x for x in sides if x is not None]
            return min(a for a, _ in known), max(b for _, b in known)
        if y.op == "result":
            s, n = self.loops[y]
            first = self._gain(s.inits[n], p, trips, depth + 1)
            more = self._gain(s.yields[n], s.params[n], trips, depth + 1)
            most = trips(s)
            if first is not None and more is not None and most is not None:
                return first[0] + min(more[0], 0) * most, first[1] + max(more[1], 0) * most
        return None

    def _shifted(self, e: Expr, p: Value, trips: Trips, depth: int) -> Span | None:
        """How far an index expression lies from a state that it is made from."""
        if e.op == "value" and e.kind == "int":
            return self._gain(e.attr, p, trips, depth)
        if depth > DEPTH or e.kind != "int":
            return None
        args = [a for a in e.args if a.kind == "int"]
        found: Span | None = None
        if e.op in ("add", "sub"):
            a, b = args
            moved = self._shifted(a, p, trips, depth + 1)
            if moved is None and e.op == "add":
                a, b = b, a
                moved = self._shifted(a, p, trips, depth + 1)
            step = None if moved is None else self._expression(b, trips)
            if moved is not None and step is not None:
                found = _combined(e.op, [moved, step])
        elif e.op in ("select", "max", "min"):
            sides = [self._shifted(a, p, trips, depth + 1) for a in args]
            known = [x for x in sides if x is not None]
            if len(known) == len(sides):
                found = min(a for a, _ in known), max(b for _, b in known)
        most = 1 << I64.bits - MARGIN
        return found if found is not None and -most <= found[0] and found[1] <= most else None


def _combined(op: str, args: list[Span]) -> Span:
    """Bounds of an operation on numbers within bounds; of a choice those of its two sides."""
    if op == "neg":
        return -args[0][1], -args[0][0]
    (a, b), (c, d) = args
    if op == "add":
        return a + c, b + d
    if op == "sub":
        return a - d, b - c
    if op == "mul":
        corners = (a * c, a * d, b * c, b * d)
        return min(corners), max(corners)
    if op in ("max", "min"):
        pick = max if op == "max" else min
        return pick(a, c), pick(b, d)
    return min(a, c), max(b, d)
