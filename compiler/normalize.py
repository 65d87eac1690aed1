"""Normal form of an operator for lowering: every tensor's body is pointwise, or one fold of a
pointwise term.

Folds inside larger expressions become locals over exactly the indices they depend on, so that no
strategy recomputes a reduction per element. A fold whose range depends on another index, or that
stands under a condition its reads may need, stays where it is. Index identity across tensors is
explicit in the reads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from opwright.ir.dtypes import BOOL, F32, F64, I64, DType
from opwright.ir.expr import (
    TRUE,
    ZERO,
    Expr,
    Fold,
    free_vars,
    read,
    read_parts,
    rebuild,
    substitute,
    transform,
    var,
    walk,
)
from opwright.ir.op import OpAxis, Operator, Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Normal:
    """An operator in normal form: its tensors with folds extracted; `op` is the operator it came
    from."""

    op: Operator
    tensors: tuple[Tensor, ...]

    def tensor(self, name: str) -> Tensor:
        for t in (*self.op.inputs, *self.tensors):
            if t.name == name:
                return t
        raise KeyError(name)

    def is_input(self, name: str) -> bool:
        return any(t.name == name for t in self.op.inputs)


def normalize(op: Operator) -> Normal:
    """Extract folds and drop tensors that no output needs."""
    used = {t.name for t in (*op.inputs, *op.tensors)}
    done: list[Tensor] = []
    for t in _separate_outputs(op, used):
        done += _extracted(op, t, used)
    return Normal(op, _needed(op, done))


def extract_folds(op: Operator) -> tuple[Tensor, ...]:
    """The definitions with folds inside larger expressions as locals; outputs keep their names."""
    used = {t.name for t in (*op.inputs, *op.tensors)}
    done: list[Tensor] = []
    for t in op.tensors:
        done += _extracted(op, t, used)
    return tuple(done)


def _extracted(op: Operator, t: Tensor, used: set[str]) -> list[Tensor]:
    if t.recurrence is not None:
        return [t]
    assert t.body is not None
    extractor = _Extractor(op, t, used)
    if t.body.op == "fold":
        body = extractor.inside(t.body)
    else:
        body = extractor.visit(t.body, safe=True)
    return [*extractor.made, replace(t, body=body)]


def _separate_outputs(op: Operator, used: set[str]) -> list[Tensor]:
    """An output that others read and that is not pointwise becomes a local and a copy of it, so
    that readers see the value before it is rounded to the output's type."""
    read_by_others = {n for t in op.tensors for n in reads_of(t) if n != t.name}
    renamed: dict[str, str] = {}
    out: list[Tensor] = []
    for t in op.tensors:
        assert t.body is not None
        folds = t.recurrence is not None or any(x.op == "fold" for x in walk(t.body))
        if t.role == "output" and folds and t.name in read_by_others:
            renamed[t.name] = unused(f"{t.name}_exact", used)
    for t in op.tensors:
        moved = _rename_reads(t, renamed)
        if t.name in renamed:
            local = renamed[t.name]
            out.append(replace(moved, name=local, role="local", updates=None))
            at = tuple(var(a.name) for a in t.axes)
            out.append(replace(t, body=read(local, at, t.kind), recurrence=None))
        else:
            out.append(moved)
    return _in_order(out, set(renamed))


def _in_order(tensors: list[Tensor], copies: set[str]) -> list[Tensor]:
    """Copies of a joint recurrence follow its last member."""
    groups = [set(t.recurrence.group) for t in tensors if t.recurrence]
    late = [
        t
        for t in tensors
        if t.name in copies
        and t.recurrence is None
        and t.body is not None
        and any(t.body.attr[0] in g for g in groups)
    ]
    if not late:
        return tensors
    rest = [t for t in tensors if t not in late]
    out: list[Tensor] = []
    for n, t in enumerate(rest):
        out.append(t)
        open_groups = [g for g in groups if any(u.name in g for u in rest[n + 1 :])]
        ready = [
            u
            for u in late
            if u.body is not None
            and u.body.attr[0] in {v.name for v in out}
            and not any(u.body.attr[0] in g for g in open_groups)
        ]
        out += ready
        late = [u for u in late if u not in ready]
    return out


def _rename_reads(t: Tensor, names: dict[str, str]) -> Tensor:
    if not names:
        return t

    def rule(e: Expr) -> Expr | None:
        if e.op == "read" and e.attr[0] in names:
            _, index, fill = read_parts(e)
            return read(names[e.attr[0]], index, e.kind, fill)
        return None

    assert t.body is not None
    recurrence = t.recurrence
    if recurrence is not None:
        group = tuple(names.get(n, n) for n in recurrence.group)
        recurrence = replace(recurrence, init=transform(recurrence.init, rule), group=group)
    return replace(t, body=transform(t.body, rule), recurrence=recurrence)


def unused(hint: str, used: set[str]) -> str:
    """A name that is not used yet, and is from now on."""
    name, n = hint, 0
    while name in used:
        n += 1
        name = f"{hint}{n}"
    used.add(name)
    return name


def _needed(op: Operator, tensors: list[Tensor]) -> tuple[Tensor, ...]:
    live = {t.name for t in op.outputs}
    for t in reversed(tensors):
        if t.name in live or (t.recurrence and live & set(t.recurrence.group)):
            live |= set(t.recurrence.group) if t.recurrence else set()
            live |= reads_of(t)
    return tuple(t for t in tensors if t.name in live)


def reads_of(t: Tensor) -> set[str]:
    """Names of the tensors a definition reads."""
    roots = [t.body] if t.body is not None else []
    if t.recurrence is not None:
        roots.append(t.recurrence.init)
    return {x.attr[0] for r in roots for x in walk(r) if x.op == "read"}


class _Extractor:
    def __init__(self, op: Operator, tensor: Tensor, used: set[str]) -> None:
        self.op, self.tensor, self.used = op, tensor, used
        self.scope = {a.name: a for a in tensor.axes}
        self.made: list[Tensor] = []

    def visit(self, e: Expr, safe: bool) -> Expr:
        """Replace folds below e by reads of new locals; `safe` is false under a condition."""
        if e.op == "fold":
            inner = self.inside(e)
            return self.extract(inner) if safe or always_in_range(inner, self) else inner
        if e.op == "select":
            c = self.visit(e.args[0], safe)
            return rebuild(e, (c, *(self.visit(a, False) for a in e.args[1:])))
        return rebuild(e, tuple(self.visit(a, safe) for a in e.args))

    def inside(self, e: Expr) -> Expr:
        """The fold with folds inside its term extracted, over its own index variables as well."""
        f = Fold(e)
        outer = dict(self.scope)
        for b, (lo, hi) in zip(f.binders, f.ranges, strict=True):
            self.scope[b] = OpAxis(b, lo, hi)
        n = 2 * len(f.binders)
        safe = f.guard is TRUE
        args = e.args[:n] + tuple(self.visit(a, safe) for a in e.args[n:])
        self.scope = outer
        return rebuild(e, args)

    def extract(self, e: Expr) -> Expr:
        needed = free_vars(e)
        if any(s.op == "state" for s in walk(e) if s not in _own_states(e)):
            return e
        axes = [a for n, a in self.scope.items() if n in needed]
        if any(free_vars(x) for a in axes for x in (a.lo, a.hi)):
            return e  # a dependent range has no rectangular local
        if any(a.lo is not ZERO for a in axes):
            return e
        name = self.fresh(f"{self.tensor.name}_{e.attr.kind or 'fold'}")
        fresh = [OpAxis(self.fresh(a.name), a.lo, a.hi) for a in axes]
        body = substitute(e, {var(a.name): var(b.name) for a, b in zip(axes, fresh, strict=True)})
        self.made.append(Tensor(name, value_dtype(e), tuple(fresh), body))
        return read(name, tuple(var(a.name) for a in axes), e.kind)

    def fresh(self, hint: str) -> str:
        return unused(hint, self.used)


def _own_states(e: Expr) -> set[Expr]:
    f = Fold(e)
    if f.kind is not None:
        return set()
    names = {n + s for n in f.attr.states for s in ("", "~")}
    return {x for x in walk(e) if x.op == "state" and x.attr in names}


def value_dtype(e: Expr) -> DType:
    """Type of a local that holds this value: the widest one of its kind that costs nothing in
    meaning."""
    if e.kind == "real":
        marks = {x.attr for x in walk(e) if x.op == "cast" and isinstance(x.attr, DType)}
        marks |= {x.attr.acc for x in walk(e) if x.op == "fold" and x.attr.acc is not None}
        return F64 if F64 in marks else F32
    return I64 if e.kind == "int" else BOOL


def always_in_range(e: Expr, scope: _Extractor) -> bool:
    """Whether every read below is in range whatever conditions hold, by inspection of plain
    indices."""
    ranges = dict(scope.scope)
    for x in walk(e):
        if x.op == "fold":
            f = Fold(x)
            if f.kind in ("max", "min", "argmax", "argmin"):
                return False  # may be empty where the condition is false
            ranges |= {
                b: OpAxis(b, lo, hi) for b, (lo, hi) in zip(f.binders, f.ranges, strict=True)
            }
    return all(plain_read(x, scope.op, ranges) for x in walk(e) if x.op == "read")


def plain_read(x: Expr, op: Operator, ranges: dict[str, OpAxis]) -> bool:
    """Every index is a variable that runs exactly over that axis of the tensor, from 0 to its
    extent."""
    name, index, fill = read_parts(x)
    if fill is not None:
        return True
    try:
        axes = op.tensor(name).axes
    except KeyError:
        return False
    for i, a in zip(index, axes, strict=True):
        own = ranges.get(i.attr) if i.op == "var" else None
        if own is None or own.lo is not ZERO or a.lo is not ZERO or own.hi is not a.hi:
            return False
    return True
