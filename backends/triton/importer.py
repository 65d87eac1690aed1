"""Triton source, or its TTIR, and a plan become TileIR: what the proofs of a candidate are about.

Every launch is compiled to TTIR for the signature that ships (`frontend`), read (`ttir`), and
rebuilt operation by operation. An operation that is not known refuses with its name and line.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from opwright.backends.triton.frontend import to_ttir_many
from opwright.backends.triton.importer_axes import Axes, plain
from opwright.backends.triton.importer_memory import BARRIERS
from opwright.backends.triton.importer_random import draws
from opwright.backends.triton.importer_results import HANDLERS, Results
from opwright.backends.triton.importer_symbols import Need, Sym
from opwright.backends.triton.importer_values import (
    FLOAT_ROWS,
    REALS,
    ROUNDINGS,
    Pointer,
    Thing,
    Tile,
)
from opwright.backends.triton.ttir import Function, Op, Type, is_text, parse
from opwright.backends.triton.wording import Words
from opwright.ir.delinearize import flat_view, split_accesses, stated_values
from opwright.ir.dtypes import BOOL, dtype
from opwright.ir.expr import Expr, call, const, leaf, leaves, substitute, toreal
from opwright.ir.launch import Argument, BoundLaunch, BoundPlan, ImportRefusal, Scalar
from opwright.ir.polynomial import polynomial
from opwright.ir.semantics import ROWS
from opwright.ir.tile import Buffer, Builder, Kernel, Placement, TileProgram

RING = {"arith.addi": "add", "arith.subi": "sub", "arith.muli": "mul"}
NOTHING = (
    "tt.assert", "tt.print", "llvm.intr.assume", "tt.return",
)  # fmt: skip
# pure operations on floats and integers that have no row
OPAQUE = ("arith.remf", "tt.mulhiui", "tt.bitcast", "arith.bitcast")


def import_program(
    source: str,
    bound: BoundPlan,
    file: str,
    *,
    zero_fill: bool = False,
    flat: Collection[str] = (),
) -> TileProgram:
    """The program of a Triton candidate; ImportRefusal names what is not understood, and where.

    With `zero_fill`, masked-off lanes of a load without `other` hold 0 and the program says that
    it assumes so; without it they are poison. Dense buffers in `flat` are seen as one axis,
    whatever their offsets look like.
    """
    functions = []
    if is_text(file):
        given = [parse(source, file, own=True) for _ in bound.launches]
    else:
        texts = to_ttir_many(source, file, bound.launches, bound.plan.target)
        given = [parse(text, file) for text in texts]
    for all_of, launch in zip(given, bound.launches, strict=True):
        found = [f for f in all_of if f.name == launch.kernel]
        if not found:
            raise ImportRefusal(f"TTIR has no function {launch.kernel}", file)
        functions.append(found[0])
    words = Words("" if is_text(file) else source)
    return import_functions(functions, bound, file, zero_fill=zero_fill, flat=flat, words=words)


def import_functions(
    functions: list[Function],
    bound: BoundPlan,
    file: str,
    *,
    zero_fill: bool = False,
    flat: Collection[str] = (),
    words: Words | None = None,
) -> TileProgram:
    """The same of functions that were read before, one for each launch."""
    known = stated_values(bound.facts)
    wanted = {n: flat_view(bound.buffers[n], (), known) for n in flat}
    fixed = {n: b for n, b in wanted.items() if b is not None}
    views = dict(fixed)
    said = words or Words("")
    while True:
        made = [
            _Importer(file, launch, bound, known, views, zero_fill, said).kernel(f, name)
            for f, launch, name in zip(functions, bound.launches, kernel_names(bound), strict=True)
        ]
        again = _views(bound, [m.offsets for m in made]) | fixed
        if again == views:
            break
        if views != fixed:
            raise ImportRefusal("offsets that split in no one way", file)
        views = again
        if all(b == bound.buffers[n] for n, b in views.items()):
            break
    assumes = tuple(dict.fromkeys(a for m in made for a in m.assumes))
    kernels = tuple(m.made for m in made)
    name = bound.plan.op.split("@")[0]
    return TileProgram(name, kernels, tuple(Placement() for _ in kernels), bound.facts, assumes)


def kernel_names(bound: BoundPlan) -> list[str]:
    """Names of kernels in TileIR; a kernel that is launched twice gets a number."""
    out: list[str] = []
    for c in bound.launches:
        name, n = c.kernel.replace("__", "_").strip("_") or "kernel", 1
        while name in out:
            n += 1
            name = f"{c.kernel}_{n}"
        out.append(name)
    return out


def _views(bound: BoundPlan, offsets: Iterable[Mapping[str, list[Expr]]]) -> dict[str, Buffer]:
    """Buffers that have to be seen as one axis, because some access runs through rows."""
    out: dict[str, Buffer] = {}
    found: dict[str, list[Expr]] = {}
    for o in offsets:
        for name, e in o.items():
            found.setdefault(name, []).extend(e)
    for name, e in found.items():
        b = bound.buffers[name]
        split = split_accesses(b, e, bound.facts)
        if split is None:
            out[name] = b
        elif split[0] != b:
            out[name] = split[0]
    return out


class _Importer(Results):
    def __init__(
        self,
        file: str,
        launch: BoundLaunch,
        bound: BoundPlan,
        known: Mapping[Expr, Expr],
        flat: Mapping[str, Buffer],
        zero_fill: bool,
        words: Words,
    ) -> None:
        super().__init__(file, launch.kernel, known, flat, zero_fill)
        self.launch, self.bound, self.words = launch, bound, words
        self.made: Kernel

    def kernel(self, f: Function, name: str) -> _Importer:
        self.builder = Builder(name, self.launch.grid, "lane")
        self.line = f.line
        self.reserve()
        self.axes = Axes(f, self.builder.fresh)
        self.draws, self.idle = draws(f)
        self.read_uses(f)
        self.arguments(f)
        self.function(f.blocks)
        self.ordered(f.blocks)
        made = self.builder.kernel()
        self.made = made
        return self

    def reserve(self) -> None:
        """Names that mean something else in the program's text."""
        taken: set[str] = set(self.bound.buffers)
        roots = [*self.launch.grid, *self.bound.facts]
        roots += [e for b in self.bound.buffers.values() for e in b.shape]
        roots += [a.expr for a in self.launch.args if isinstance(a, Scalar)]
        for e in roots:
            taken |= {str(x.attr) for x in leaves(e, "size", "param")}
        for n in sorted(taken):
            self.builder.fresh(n)

    def read_uses(self, f: Function) -> None:
        for b in f.blocks:
            for op in b.ops:
                for o in (op, *op.inner()):
                    for x in o.operands:
                        self.uses.setdefault(x, []).append(o)

    def arguments(self, f: Function) -> None:
        """Parameters in the order of the launch; narrow integers must fit their type."""
        if len(f.params) != len(self.launch.args):
            raise self.refuse(f"{len(f.params)} parameters, the plan gives {len(self.launch.args)}")
        self.at(f.line)
        for (name, kind), a in zip(f.params, self.launch.args, strict=True):
            if not self.takes(kind, a):
                shown = f"{'a pointer to ' if kind.pointer else ''}{kind.element}"
                raise self.refuse(f"parameter {plain(name)} is {shown}, not as the plan has it")
            if isinstance(a, Buffer):
                bits = int(kind.element[1:]) if kind.element[0] == "i" else 0
                self.env[name] = Pointer(a, Sym(const(0), (), 64), bits)
            elif a.dtype.kind == "real":
                v = self.builder.index(toreal(a.expr), a.dtype, plain(name))
                self.env[name] = Tile(v, (), a.dtype)
            elif a.dtype is BOOL:
                self.env[name] = Sym(a.expr, (), 1)
            else:
                signed = a.dtype.name[0] == "i"
                cond = self.ranges.inside(a.expr, a.dtype.bits, signed)
                what = f"{plain(name)} fits {a.dtype}"
                if a.dtype.bits < 64 and a.expr.op != "const":
                    self.discharge((Need(cond, "wrap", what, f.line),))
                    lo, hi = self.ranges.of(a.expr)
                    top = (1 << a.dtype.bits - signed) - 1
                    low = -top - 1 if signed else 0
                    self.ranges.bound(
                        a.expr,
                        low if lo is None else max(lo, low),
                        top if hi is None else min(hi, top),
                    )
                e = a.expr if signed else self.signed(a.expr, a.dtype.bits)
                self.env[name] = Sym(e, (), a.dtype.bits)

    def takes(self, kind: Type, a: Argument) -> bool:
        """Whether a parameter has the type of what the plan gives."""
        if kind.pointer is not isinstance(a, Buffer) or kind.shape:
            return False
        if a.dtype.kind == "real":
            return REALS.get(kind.element) == a.dtype.name
        return kind.element == f"i{1 if a.dtype is BOOL else a.dtype.bits}"

    # -- dispatch
    def operation(self, op: Op) -> list[Thing]:
        name = op.name
        single = HANDLERS.get(name)
        drawn = self.draws.get(op.results[0]) if op.results else None
        if drawn is not None:
            out: list[Thing] = [self.draw(op, drawn)]
        elif single is not None:
            out = [single(self, op)]
        elif name in FLOAT_ROWS:
            row = FLOAT_ROWS[name]
            operands = [self.real(op, n) for n in range(ROWS[row].arity)]
            out = [self.row(op, row, operands)]
        elif name in ROUNDINGS:
            out = [self.rounding(op, ROUNDINGS[name])]
        elif name in OPAQUE or name.startswith("math."):
            out = [self.opaque(op, name)]
        elif name.startswith("arith.") and self.is_integer(op):
            out = [self.worded(self.integer(op), op)]
        else:
            out = self.structural(op)
        self.hints(op, out)
        return out

    def structural(self, op: Op) -> list[Thing]:
        name = op.name
        if name in ("scf.for", "scf.while"):
            return self.loop(op)
        if name == "scf.if":
            return self.branch(op)
        if name == "tt.reduce":
            return self.reduce(op)
        if name == "tt.scan":
            return self.scan(op)
        if name == "tt.split":
            return self.split(op)
        if name == "tt.store":
            self.store(op)
            return []
        if name == "tt.make_tensor_descriptor":
            return self.describe(op)
        if name == "tt.descriptor_load":
            return [self.fetch(op)]
        if name == "tt.descriptor_store":
            self.put(op)
            return []
        if name == "tt.atomic_rmw":
            if any(self.uses.get(r) for r in op.results):
                raise self.refuse("an atomic whose old value is used")
            self.atomic(op)
            return [Tile(None, self.axes.of(r), dtype("f32")) for r in op.results]
        if name == "llvm.intr.assume":
            self.assume(op)
            return []
        if name in BARRIERS:
            self.barriers.append(op.line)
            return []
        if name in NOTHING:
            return []
        raise self.refuse(f"the operation {name} is not known")

    def is_integer(self, op: Op) -> bool:
        kind = op.types()[0].element
        return kind[0] == "i"

    def worded(self, x: Thing, op: Op) -> Thing:
        """A number that may not fit its type, with what the source calls it."""
        if isinstance(x, Sym) and x.raw and not x.said:
            x.said = self.words.of(op)
        return x

    def integer(self, op: Op) -> Thing:
        """arith operations on integers and truth values."""
        dims, kind = self.axes.of(op.results[0]), op.types()[0].element
        name = op.name[len("arith.") :]
        bits = 64 if kind == "index" else int(kind[1:])
        if name == "cmpf":
            return self.compare_reals(op)
        if name in ("fptosi", "fptoui"):
            v = self.emitting().ew("trunc", self.value(self.real(op, 0)))
            out = Sym(leaf("value", v, "int"), dims, bits, (), bits < 64, op.line)
            return out if name == "fptosi" else self.narrow(out, bits, op.line)
        a = self.symbol(op, 0, dims)
        if name in ("extsi", "extui"):
            return self.widen(a, bits, name == "extsi", op.line)
        if name == "trunci":
            return self.narrow(a, bits, op.line)
        if name in ("index_cast", "index_castui"):
            return self.observe(a)
        b = self.symbol(op, 1, dims)
        if op.name in RING and a.bits > 1:
            return self.ring(RING[op.name], a, b, dims, op.line)
        if name == "cmpi":
            return self.compare(op.words[0], a, b, dims, op.line)
        if name in ("andi", "ori", "xori") and bits == 1:
            if a.expr.op == "const":
                a, b = b, a
            return self.logic(name, a, b, dims, op.line)
        if name in ("divsi", "remsi"):
            return self.divide(name, a, b, dims, op.line)
        if name in ("divui", "remui", "minui", "maxui"):
            x = Sym(self.unsigned(self.observe(a)), dims, bits, self.observe(a).needs)
            y = Sym(self.unsigned(self.observe(b)), dims, bits, self.observe(b).needs)
            row = {"divui": "floordiv", "remui": "mod", "minui": "min", "maxui": "max"}[name]
            e = self.signed(call(row, x.expr, y.expr), bits)
            return self.exact(e, bits, dims, op.line, x, y)
        if name in ("minsi", "maxsi"):
            a, b = self.observe(a, op.line), self.observe(b, op.line)
            return self.exact(call(name[:3], a.expr, b.expr), bits, dims, op.line, a, b)
        if name in ("ceildivsi", "floordivsi"):
            a, b = self.observe(a, op.line), self.observe(b, op.line)
            e = a.expr // b.expr if name[0] == "f" else -((-a.expr) // b.expr)
            return self.exact(e, bits, dims, op.line, a, b)
        if name in ("andi", "ori", "xori", "shli", "shrsi", "shrui"):
            return self.bits(name, a, b, dims, op.line) or self.opaque(op, f"{op.name}.i{bits}")
        raise self.refuse(f"the operation {op.name} is not known")

    # -- hints
    def assume(self, op: Op) -> None:
        """An assumption is a hint that a wrong compile may follow from: it has to hold."""
        x = self.env[op.operands[0]]
        assert isinstance(x, Sym)
        need = Need(x.expr, "align", "what the kernel assumes", op.line, x.needs)
        self.discharge((need,))

    def hints(self, op: Op, out: list[Thing]) -> None:
        """tt.divisibility, tt.contiguity and tt.constancy are claims about a result."""
        if "tt.divisibility" not in op.attrs and "tt.contiguity" not in op.attrs:
            if "tt.constancy" not in op.attrs:
                return
        if self.dry or not out or isinstance(out[0], Tile):
            return
        x = out[0].offset if isinstance(out[0], Pointer) else out[0]
        x = self.observe(x, op.line)
        runs = _numbers(op.attrs.get("tt.contiguity", ""))
        conds: list[tuple[Expr, str]] = []
        first = x.expr
        for d, a in enumerate(x.dims):
            if a is None:
                continue
            run = runs[d] if d < len(runs) else 1
            if not runs and substitute(x.expr, {a.lane: const(0)}) is not x.expr:
                apart = substitute(x.expr, {a.lane: const(1)})
                one = substitute(x.expr, {a.lane: const(0)})
                run = a.extent if self.unit(x.expr, one, apart, a.lane) else 1
            start = a.lane - a.lane % run
            if run > 1:
                head = substitute(x.expr, {a.lane: start})
                conds.append((call("eq", x.expr, head + a.lane % run), "contiguous"))
                first = substitute(first, {a.lane: start})
            same = _numbers(op.attrs.get("tt.constancy", ""))
            if d < len(same) and same[d] > 1:
                head = substitute(x.expr, {a.lane: a.lane - a.lane % same[d]})
                conds.append((call("eq", x.expr, head), "constant"))
        for n in set(_numbers(op.attrs.get("tt.divisibility", ""))):
            if n > 1 and not isinstance(out[0], Pointer):
                conds.append((call("eq", first % n, 0), f"divisible by {n}"))
        for cond, what in conds:
            if cond.op != "const" or not cond.attr:
                reason = f"{plain(op.results[0])} is {what}, as the kernel says"
                self.discharge((Need(cond, "align", reason, op.line, x.needs),))

    @staticmethod
    def unit(e: Expr, at0: Expr, at1: Expr, lane: Expr) -> bool:
        """Whether an expression moves by one with a lane, as far as its form shows."""
        return polynomial(e - lane) == polynomial(at0) and polynomial(at1 - 1) == polynomial(at0)


def _numbers(text: str) -> list[int]:
    """`dense<16> : tensor<1xi32>` or `dense<[16, 16]>`."""
    return [int(n) for n in re.findall(r"-?\d+", text.split(":")[0])]
