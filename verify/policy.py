"""Gate G0: what a candidate's text may do at all, and the precision it keeps of what the spec asks.

Backends read their own texts and hand breaches in. The audit works on imported programs, whatever
they were written in: operands of products read in a coarser format, accumulators narrower than the
spec's, values rounded before arithmetic that the spec does not round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from opwright.ir.dtypes import DTYPES, F32, DType
from opwright.ir.expr import Expr, Fold, walk
from opwright.ir.op import Operator
from opwright.ir.record import Record
from opwright.ir.tile import (
    Atomic,
    Def,
    Dot,
    For,
    Kernel,
    Stmt,
    Store,
    TileProgram,
    Value,
    statements,
)

ROUNDED = ("sum", "prod")  # monoids whose result depends on the accumulator's precision
# formats that a product may read its operands in: fraction bits that are kept
KEPT = {"tf32": 10, "bf16": 7, "f16": 10, "bf16x3": 16, "tf32x3": 21, "bf16x6": 22, "ieee": 60}
NEARLY = 2  # fraction bits by which emulated formats may miss the operands' own
MOVES = ("select", "where", "view", "param", "result", "cast")


@dataclass(frozen=True, slots=True)
class Breach:
    """Something a candidate must not do. `status` is REFUTED, or UNKNOWN where the spec may allow
    it; `place` is "kernel.py:12" or empty."""

    what: str
    place: str = ""
    status: str = "REFUTED"


def policy_records(
    name: str, breaches: Sequence[Breach], passed: str, subject: str, seconds: float = 0.0
) -> list[Record]:
    """One record of G0 per breach, or one PROVED with what `passed`."""
    if not breaches:
        return [Record(f"G0.{name}", "G0", "PROVED", passed, subject, seconds=seconds)]
    found = []
    for n, b in enumerate(dict.fromkeys(breaches)):
        ident = f"G0.{name}" if n == 0 else f"G0.{name}.{n}"
        reason = f"{b.place}: {b.what}" if b.place else b.what
        example = {"line": b.place} if b.place else None
        found.append(
            Record(ident, "G0", b.status, reason, subject, (), example, seconds if n == 0 else 0.0)
        )
    return found


def precision_records(program: TileProgram, op: Operator, subject: str) -> list[Record]:
    """The precision audit of an imported program against its operator."""
    passed = "no product, accumulator or cast is less precise than the spec asks for"
    return policy_records("precision", audit(program, op), passed, subject)


def audit(program: TileProgram, op: Operator) -> list[Breach]:
    """Every loss of precision that the text itself shows, in the order of the program."""
    asked = Asked.of(op)
    out: list[Breach] = []
    for kernel in program.kernels:
        out += _Audit(kernel, asked).breaches()
    return sorted(dict.fromkeys(out), key=lambda b: b.status != "REFUTED")


def array_records(
    read: Operator, op: Operator, subject: str, more: Sequence[Breach] = ()
) -> list[Record]:
    """The precision audit of array code that was read back as index notation; `more` is what the
    text itself says."""
    passed = "no product, accumulator or cast is less precise than the spec asks for"
    return policy_records("precision", [*array_audit(read, op), *more], passed, subject)


def array_audit(read: Operator, op: Operator) -> list[Breach]:
    """Sums narrower than the spec's, and values that are rounded and computed with further."""
    asked = Asked.of(op)
    out: list[Breach] = []
    final = {t.name for t in read.outputs}
    kept = {t.name: t.dtype.mantissa for t in (*read.inputs, *read.tensors)}
    for t in read.tensors:
        assert t.body is not None
        for x in walk(t.body):
            if x.op == "fold" and Fold(x).kind in ("sum", "prod") and x.kind == "real":
                acc = Fold(x).attr.acc
                if acc is not None and acc.mantissa < asked.accumulator.mantissa:
                    what = f"{t.name} accumulates in {acc}"
                    out.append(Breach(f"{what}; the spec asks for at least {asked.accumulator}"))
        out += [
            Breach(
                f"{t.name} rounds a value to {d} and computes with it; the spec allows no less "
                f"than {asked.marked} there",
                "",
                "UNKNOWN",
            )
            for d in _narrowed(t.body, asked.marked, t.name in final, kept)
        ]
    return sorted(dict.fromkeys(out), key=lambda b: b.status != "REFUTED")


def _narrowed(body: Expr, marked: DType, final: bool, kept: Mapping[str, int]) -> list[DType]:
    """Types that values inside a definition are rounded to on the way; what is only read or stored
    in a narrow type is not rounded."""
    stored = body
    while final and stored.op == "cast":
        stored = stored.args[0]
    return [
        x.attr
        for x in walk(stored)
        if x.op == "cast"
        and x.kind == "real"
        and x.attr.mantissa < marked.mantissa
        and not _given(x.args[0], x.attr, kept)
    ]


def _given(x: Expr, d: DType, kept: Mapping[str, int]) -> bool:
    """Whether a value needs no rounding to a type: a constant or what is moved as it is."""
    while x.op in ("cast", "neg", "abs"):
        x = x.args[0]
    if x.op == "read":
        return kept[x.attr[0]] <= d.mantissa
    return x.op in ("const", "toreal", "size", "param")


@dataclass(frozen=True, slots=True)
class Asked:
    """What a spec asks for: the least accumulator of its folds, and the least precision that a
    cast in a definition allows."""

    accumulator: DType
    marked: DType

    @staticmethod
    def of(op: Operator) -> Asked:
        sums: list[DType] = []
        marks: list[DType] = []
        for t in op.tensors:
            if t.body is None:
                continue
            for x in walk(t.body):
                if x.op == "fold":
                    fold = Fold(x)
                    if fold.kind in (*ROUNDED, None):
                        sums.append(fold.attr.acc or F32)
                elif x.op in ("cast", "round") and x.attr.kind == "real":
                    marks.append(x.attr)
        doubles = any(t.dtype.name == "f64" for t in op.inputs if t.kind == "real")
        base = DTYPES["f64"] if doubles else F32
        least = min(sums, key=_bits, default=F32)
        return Asked(least, min([*marks, base], key=_bits))


def tested_instead(records: Sequence[Record]) -> list[Record]:
    """Safety that is not proved is as good as test runs that watched every border, where all of
    them passed."""
    runs = [r for r in records if r.kind == "G6"]
    if not runs or any(r.status != "TESTED" for r in runs):
        return list(records)
    watched = "the runs of G6 touched nothing outside of its buffers"
    return [
        replace(r, status="TESTED", reason=f"{r.reason}; {watched}")
        if r.kind in ("G2", "G3") and r.status in ("UNKNOWN", "ASSUMED")
        else r
        for r in records
    ]


def _bits(d: DType) -> int:
    return d.mantissa


class _Audit:
    def __init__(self, kernel: Kernel, asked: Asked) -> None:
        self.kernel, self.asked = kernel, asked
        self.body: Sequence[Stmt] = tuple(statements(kernel.body))
        self.uses: dict[str, list[Value | Stmt]] = {}
        for user, args in _edges(self.body):
            for a in args:
                self.uses.setdefault(a.name, []).append(user)

    def at(self, *names: str) -> str:
        return next((self.kernel.lines[n] for n in names if n in self.kernel.lines), "")

    def breaches(self) -> Iterator[Breach]:
        for s in self.body:
            if isinstance(s, Def):
                yield from self.value(s.value)
            elif isinstance(s, For):
                yield from self.carried(s)
            elif isinstance(s, Atomic) and s.monoid in ROUNDED and self.narrow(s.buffer.dtype):
                yield Breach(
                    f"{s.buffer.name} is accumulated in {s.buffer.dtype}; the spec asks for at "
                    f"least {self.asked.accumulator}",
                    self.at(s.name),
                )

    def narrow(self, d: DType) -> bool:
        return d.kind == "real" and d.mantissa < self.asked.accumulator.mantissa

    def value(self, v: Value) -> Iterator[Breach]:
        if v.op == "dot":
            yield from self.dot(v)
        monoid = v.attr[0] if v.op == "reduce" else v.attr.monoid if v.op == "scan" else ""
        if monoid in ROUNDED and self.narrow(v.dtype):
            yield self.accumulator(v.dtype, v.name)
        if v.op in ("cast", "round"):
            yield from self.cast(v)

    def accumulator(self, d: DType, name: str) -> Breach:
        what = f"accumulates in {d}; the spec asks for at least {self.asked.accumulator}"
        return Breach(what, self.at(name))

    def dot(self, v: Value) -> Iterator[Breach]:
        what: Dot = v.attr
        if self.narrow(v.dtype):
            yield self.accumulator(v.dtype, v.name)
        kept = KEPT.get(what.precision, 0)
        for a in v.args:
            own = min(a.dtype.mantissa, self.asked.marked.mantissa)
            if a.dtype.kind == "real" and kept + NEARLY < own:
                yield Breach(
                    f"the product reads {a.dtype} operands as {what.precision} ({kept} fraction "
                    f"bits); the spec allows no less than {self.asked.marked}",
                    self.at(v.name),
                    "UNKNOWN",
                )
                return

    def carried(self, loop: For) -> Iterator[Breach]:
        for param, after in zip(loop.params, loop.yields, strict=True):
            if self.narrow(param.dtype) and _accumulates(after, param):
                yield self.accumulator(param.dtype, after.name)

    def cast(self, v: Value) -> Iterator[Breach]:
        """A rounding to less than the spec allows, unless what comes of it is only stored."""
        (a,) = v.args
        if v.dtype.kind != "real" or a.dtype.kind != "real":
            return
        if v.dtype.mantissa >= min(a.dtype.mantissa, self.asked.marked.mantissa):
            return
        user = self.consumer(v, set())
        if user is None:
            return
        how = f"stored in scratch {user.buffer.name}" if isinstance(user, Store) else "used further"
        yield Breach(
            f"a value is rounded to {v.dtype} and then {how}; the spec allows no less than "
            f"{self.asked.marked} there",
            self.at(v.name),
            "UNKNOWN",
        )

    def consumer(self, v: Value, seen: set[str]) -> Value | Stmt | None:
        """Who computes with a rounded value; None when it only goes to outputs."""
        for user in self.uses.get(v.name, ()):
            if isinstance(user, Store):
                if user.buffer.role not in ("out", "state"):
                    return user
            elif isinstance(user, Value):
                if user.op not in MOVES or user.dtype != v.dtype:
                    return user
                if user.name not in seen:
                    seen.add(user.name)
                    found = self.consumer(user, seen)
                    if found is not None:
                        return found
            elif isinstance(user, Atomic):
                return user
        return None


def _edges(body: Iterable[Stmt]) -> Iterator[tuple[Value | Stmt, Sequence[Value]]]:
    """Who uses which values; loops hand them on to what they carry."""
    for s in body:
        if isinstance(s, Def):
            yield s.value, s.value.args
        elif isinstance(s, Store | Atomic):
            yield s, (s.value,)
        elif isinstance(s, For):
            for init, param, after, result in zip(
                s.inits, s.params, s.yields, s.results, strict=True
            ):
                yield param, (init, after)
                yield result, (init, after)


def _accumulates(after: Value, param: Value) -> bool:
    """Whether the next state adds to the last one, rather than selects or compares."""
    seen: dict[str, bool] = {}

    def reaches(v: Value, through: bool) -> bool:
        if v is param:
            return through
        if seen.get(v.name, False) or (v.name in seen and not through):
            return False
        seen[v.name] = through
        adds = through or v.op in _ARITHMETIC
        return any(reaches(a, adds) for a in v.args)

    return reaches(after, False)


_ARITHMETIC = frozenset("add sub mul fma div dot".split())
