"""C++ text as TileIR: the kernels of a candidate, read through libclang.

What the printer prints comes back as the program that it was printed from, up to normal form;
plain loops become scalar programs. Nothing is skipped: what is not understood is refused with its
line (`ImportRefusal`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from opwright.backends.cpp.clang import CType, Function, Unit
from opwright.backends.cpp.importer_memory import NoIndex
from opwright.backends.cpp.importer_outputs import apart, settle
from opwright.backends.cpp.importer_parallel import Several
from opwright.backends.cpp.importer_prelude import trusted
from opwright.backends.cpp.importer_reroll import reroll
from opwright.backends.cpp.importer_rewrite import finished
from opwright.backends.cpp.importer_statements import Statements
from opwright.backends.cpp.importer_values import C, Pointer, dtype_of
from opwright.backends.cpp.importer_views import joined_axes
from opwright.backends.cpp.reading import parse
from opwright.backends.cpp.vocabulary import names
from opwright.ir.delinearize import flat_view, is_dense, stated_values
from opwright.ir.dtypes import integer_range
from opwright.ir.expr import ONE, ZERO, Expr, call, const, pid, substitute
from opwright.ir.launch import BoundLaunch, BoundPlan, ImportRefusal, Scalar
from opwright.ir.tile import (
    Buffer,
    Builder,
    Def,
    Kernel,
    Store,
    TileProgram,
    statements,
)

PIDS = 3


def import_program(
    source: str,
    bound: BoundPlan,
    file: str,
    *,
    joined: bool = True,
    flat: Collection[str] = (),
) -> TileProgram:
    """The program that a candidate's text is; ImportRefusal names what is not understood, and its
    line. Without `joined` what the text unrolls stays in pieces. `flat` names tensors that are
    dense and are to be read as one axis of all elements."""
    ours = trusted(source)
    text, stub = ours if ours is not None else (source, "")
    unit = parse(text, file, stub)
    own = sorted({f.name for f in unit.functions.values()} & names()) if ours else []
    if own:
        raise ImportRefusal(f"{own[0]} is a name of the vocabulary; define it under another", file)
    known = stated_values(bound.facts)
    buffers = dict(bound.buffers)
    for name, b in buffers.items():
        if b.strides is not None and is_dense(b, (), known):
            buffers[name] = replace(b, strides=None)
    buffers |= {n: v for n in flat if (v := flat_view(buffers[n], (), known)) is not None}
    while True:
        try:
            kernels = _kernels(unit, bound, buffers, known, file, ours is not None, joined)
        except NoIndex as e:
            view = flat_view(buffers[e.buffer], (), known)
            if view is None or view == buffers[e.buffer]:
                raise e.refusal from None
            buffers[e.buffer] = view
            continue
        still = _unmoved(kernels, known) if ours is None else []
        views = {n: v for n in still if (v := flat_view(buffers[n], (), known)) is not None}
        views = views or joined_axes(kernels, buffers, known)
        if not views:
            break
        buffers |= views
    name = bound.plan.op.partition("@")[0]
    taken = {*buffers, *(k.name for k in kernels), *(b.name for k in kernels for b in k.buffers)}
    kernels, places = settle(apart(kernels, taken), taken, ours is not None)
    return TileProgram(name, tuple(kernels), tuple(places), bound.facts)


def _kernels(
    unit: Unit,
    bound: BoundPlan,
    buffers: Mapping[str, Buffer],
    known: Mapping[Expr, Expr],
    file: str,
    ours: bool,
    joined: bool,
) -> list[Kernel]:
    kernels = []
    for n, launch in enumerate(bound.launches):
        label = launch.kernel
        if any(c.kernel == label for c in bound.launches[:n]):
            label = f"{label}_{n}"

        def read(launch: BoundLaunch = launch, part: int | None = None) -> Kernel:
            reader = _Kernel(unit, launch, buffers, known, bound.facts, file, ours)
            reader.reader.part = part
            return reader.kernel(joined)

        try:
            found = [read()]
        except Several as e:
            if any(n is not ONE for n in launch.grid):
                what = "several parallel loops, or writes beside one, in a grid of programs"
                raise ImportRefusal(f"{launch.kernel}: {what}", file) from None
            found = [k for part in range(e.count) if _writes(k := read(part=part))]
        for part, k in enumerate(found):
            name = label if len(found) == 1 else f"{label}_part{part}"
            kernels.append(replace(k, name=name))
    return kernels


def _writes(k: Kernel) -> bool:
    return any(isinstance(s, Store) and s.buffer.role != "program" for s in statements(k.body))


def _unmoved(kernels: list[Kernel], known: Mapping[Expr, Expr]) -> list[str]:
    """Tensors of which an axis never moves: their text runs over all elements in one go."""
    seen: dict[Buffer, list[tuple[Expr, ...]]] = {}
    for k in kernels:
        for s in statements(k.body):
            if isinstance(s, Store):
                seen.setdefault(s.buffer, []).append(s.index)
            elif isinstance(s, Def) and s.value.op == "load":
                seen.setdefault(s.value.attr.buffer, []).append(s.value.attr.index)
    return [
        b.name
        for b, found in seen.items()
        if b.role in ("in", "out") and len(b.shape) > 1
        if any(
            substitute(n, known).op != "const" and all(i[d] is ZERO for i in found)
            for d, n in enumerate(b.shape)
        )
    ]


class _Kernel:
    """One launch: its function, with parameters bound to what the plan passes."""

    def __init__(
        self,
        unit: Unit,
        launch: BoundLaunch,
        buffers: Mapping[str, Buffer],
        known: Mapping[Expr, Expr],
        facts: tuple[Expr, ...],
        file: str,
        ours: bool,
    ) -> None:
        self.launch, self.buffers, self.file = launch, buffers, file
        found = unit.kernel(launch.kernel)
        if found is None:
            raise ImportRefusal(f"no kernel is named {launch.kernel}", file)
        self.function: Function = found
        self.builder = Builder(launch.kernel, launch.grid)
        self.reader = Statements(self.builder, file, unit.functions, known, frozenset(facts), ours)

    def kernel(self, joined: bool) -> Kernel:
        f, args = self.function, self.launch.args
        m = self.reader
        m.at(f.line)
        if len(f.parameters) != len(args) + PIDS:
            raise m.refuse(
                f"{f.name} has {len(f.parameters)} parameters; the plan passes {len(args)} and "
                f"{PIDS} program ids"
            )
        for (ident, name, t), a in zip(f.parameters, args, strict=False):
            if isinstance(a, Scalar):
                m.env[ident] = self.scalar(name, t, a)
            else:
                m.env[ident] = self.pointer(name, t, self.buffers[a.name])
        for d, (ident, name, t) in enumerate(f.parameters[len(args) :]):
            if t != CType("int", 64):
                raise m.refuse(f"the program id {name or d} is {t}, not int64_t")
            grid = self.launch.grid
            here = pid(d) if d < len(grid) and grid[d] is not ONE else ZERO
            m.env[ident] = C(t, here)
        m.run(f)
        k, moved = finished(self.builder.kernel(), m.fillers, m.kept, m.trusted)
        if not joined:
            return k
        labels = {moved(v): label for v, label in m.labels.items()}
        return reroll(k, labels)

    def scalar(self, name: str, t: CType, a: Scalar) -> C:
        m = self.reader
        if a.expr.kind == "bool" and t == CType("int", 64):  # as the driver passes it
            return C(t, call("select", a.expr, 1, 0))
        real = t.kind == "real"
        if real != (a.expr.kind == "real") or t.kind not in ("int", "uint", "real", "bool"):
            raise m.refuse(f"the parameter {name} is {t}; the plan passes a {a.dtype}")
        if dtype_of(t) != a.dtype and not (t.is_integer and t.bits == a.dtype.bits):
            hint = f"; write i32({name}) in the plan" if t.bits == 32 and not real else ""
            raise m.refuse(f"the parameter {name} is {t}; the plan passes {a.dtype}{hint}")
        if a.expr.kind == "int" and a.dtype.bits < 64:
            low, high = integer_range(a.dtype)
            inside = call("and", call("le", low, a.expr), call("le", a.expr, const(high)))
            m.check(inside, "wrap", f"the argument {name} fits {a.dtype}")
            m.bounds[a.expr] = (max(low, m.interval(a.expr)[0]), float(high))
        return C(t, a.expr)

    def pointer(self, name: str, t: CType, b: Buffer) -> C:
        m = self.reader
        if t.kind != "pointer" or t.of is None:
            raise m.refuse(f"the parameter {name} is {t}; the plan passes the buffer {b.name}")
        m.element(b, t.of)
        return C(t, Pointer(b, (), ZERO))
