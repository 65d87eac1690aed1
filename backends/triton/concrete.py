"""One program of a kernel run on its TTIR with integers of 32 and 64 bits that really wrap.

What a proof refutes about wide offsets happens in tensors that no machine holds. Memory here is
virtual: a buffer is a number of elements, a load gives made-up values, and what counts is which
addresses are touched. It shares nothing with the proof but the reader of the text: no expression,
no solver, no fact. Floats are not computed; where an address or a condition needs one the run
says that it cannot tell.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from opwright.backends.triton.frontend import to_ttir_many
from opwright.backends.triton.importer import kernel_names
from opwright.backends.triton.ttir import Block, Function, Op, Type, is_text, number, parse
from opwright.ir.delinearize import stated_values
from opwright.ir.expr import Expr, ExprError, evaluate, leaves, substitute
from opwright.ir.launch import BoundPlan, ImportRefusal
from opwright.ir.tile import Buffer, row_major

STEPS = 400_000
SECONDS = 6.0
LANES = 1 << 21
MOST = 8  # stray accesses that are looked for


class Untold(Exception):
    """The run needs what it does not know; the message says what."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Where the elements of a buffer lie, from the element that its pointer names."""

    lo: int
    hi: int  # the last one; below `lo` where there is none

    @staticmethod
    def of(shape: Sequence[int], strides: Sequence[int]) -> Extent:
        if any(n <= 0 for n in shape):
            return Extent(0, -1)
        ends = [(n - 1) * s for n, s in zip(shape, strides, strict=True)]
        return Extent(sum(min(e, 0) for e in ends), sum(max(e, 0) for e in ends))


@dataclass(frozen=True, slots=True)
class Stray:
    """An access outside of its buffer: the first one of a run."""

    line: int
    what: str  # load, store, atomic_rmw
    buffer: str
    offset: int
    extent: Extent
    lanes: int  # how many lanes are outside

    def told(self, file: str) -> str:
        """One sentence."""
        word = {"load": "reads", "store": "writes"}.get(self.what, "updates")
        if self.extent.hi < self.extent.lo:
            holds = "which has no elements"
        else:
            holds = f"whose elements are {self.extent.lo} to {self.extent.hi}"
        where = f"{file}:{self.line} " if self.line else ""
        return f"{where}{word} {self.buffer}[{self.offset}], {holds}"


@dataclass(slots=True, eq=False)
class Address:
    """A tile of addresses into one buffer."""

    buffer: str
    offset: Any


class Float:
    """A number that follows from data: fine until an address or a condition rests on it."""


FLOAT = Float()
_INTS: dict[int, Any] = {8: np.int8, 16: np.int16, 32: np.int32, 64: np.int64}
_UNSIGNED: dict[int, Any] = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}


class Concrete:
    """Runs one program and collects accesses outside of their buffers."""

    def __init__(
        self,
        function: Function,
        arguments: Sequence[int | float | str],
        extents: Mapping[str, Extent],
        program: Sequence[int],
        grid: Sequence[int],
    ) -> None:
        self.function, self.extents = function, extents
        self.program, self.grid = [*program, 0, 0, 0], [*grid, 1, 1, 1]
        self.env: dict[str, Any] = {}
        self.steps, self.end = 0, 0.0
        self.strays: list[Stray] = []
        for (name, kind), a in zip(function.params, arguments, strict=True):
            if isinstance(a, str):
                self.env[name] = Address(a, np.zeros((), np.int64))
            elif isinstance(a, float) or _is_float(kind):
                self.env[name] = FLOAT
            else:
                self.env[name] = self.integer(a, kind)

    def integer(self, n: int, kind: Type) -> Any:
        bits = _bits(kind)
        if bits == 1:
            return np.full(kind.shape, bool(n))
        wrapped = (n + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)
        return np.full(kind.shape, wrapped, _INTS[bits])

    def run(self) -> list[Stray]:
        """The first stray accesses, one of a line. Untold where nothing is known and there are
        none."""
        self.end = time.monotonic() + SECONDS
        blocks = {b.label: b for b in self.function.blocks}
        block: Block | None = self.function.blocks[0]
        with np.errstate(all="ignore"):
            try:
                while block is not None:
                    label = self.block(block)
                    block = blocks[label] if label else None
            except Untold:
                if not self.strays:
                    raise
        return self.strays

    def block(self, b: Block) -> str:
        """Runs a block; the label that it jumps to, or ""."""
        for op in b.ops:
            if op.name in ("cf.br", "cf.cond_br"):
                labels = [w for w in op.rest.replace(",", " ").split() if w.startswith("^")]
                if any("(" in w for w in labels):
                    raise Untold("a jump with arguments")
                taken = op.name == "cf.br" or self.truth(op.operands[0])
                return labels[0 if taken else 1]
            if op.name == "tt.return":
                return ""
            self.step(op)
        return ""

    def region(self, b: Block) -> list[Any]:
        """Runs the body of a loop or a branch; what it yields."""
        for op in b.ops:
            if op.name in ("scf.yield", "scf.condition"):
                return [self.env[x] for x in op.operands]
            self.step(op)
        return []

    def truth(self, name: str) -> bool:
        x = self.env[name]
        if isinstance(x, Float) or not isinstance(x, np.ndarray):
            raise Untold("a condition on data")
        return bool(x)

    def step(self, op: Op) -> None:
        self.steps += 1
        if len(self.strays) >= MOST:
            raise Untold("enough was seen")
        if self.steps > STEPS or time.monotonic() > self.end:
            raise Untold("it takes too many steps")
        if op.name == "scf.for":
            self.loop(op)
            return
        if op.name == "scf.if":
            taken = 0 if self.truth(op.operands[0]) else 1
            out = self.region(op.regions[taken][0]) if taken < len(op.regions) else []
        elif op.name == "scf.while":
            out = self.repeat(op)
        elif op.name in ("tt.load", "tt.store", "tt.atomic_rmw", "tt.atomic_cas"):
            out = [self.access(op)]
        else:
            out = [self.value(op)] * len(op.results) if op.results else []
        for r, x in zip(op.results, out, strict=False):
            self.env[r] = x

    def loop(self, op: Op) -> None:
        lo, hi, by = (int(self.env[x]) for x in op.operands[:3])
        held = [self.env[x] for x in op.operands[3:]]
        body = op.regions[0][0]
        (variable, kind), *carried = body.args
        if by <= 0:
            raise Untold("a loop without a positive step")
        for i in range(lo, hi, by):
            self.env[variable] = self.integer(i, kind)
            for (name, _), x in zip(carried, held, strict=True):
                self.env[name] = x
            held = self.region(body)
        for r, x in zip(op.results, held, strict=True):
            self.env[r] = x

    def repeat(self, op: Op) -> list[Any]:
        before, after = op.regions[0][0], op.regions[1][0]
        held = [self.env[x] for x in op.operands]
        while True:
            for (name, _), x in zip(before.args, held, strict=True):
                self.env[name] = x
            goes, *handed = self.region(before)
            if isinstance(goes, Float):
                raise Untold("a condition on data")
            if not bool(goes):
                return handed
            for (name, _), x in zip(after.args, handed, strict=True):
                self.env[name] = x
            held = self.region(after)

    # -- memory
    def access(self, op: Op) -> Any:
        p = self.env[op.operands[0]]
        if not isinstance(p, Address):
            raise Untold(f"{op.name} through something that is no address")
        place = 1 if op.name == "tt.load" else 2
        mask = self.env[op.operands[place]] if len(op.operands) > place else True
        if isinstance(mask, Float):
            raise Untold("a mask on data")
        offset = np.asarray(p.offset)
        active = np.broadcast_to(np.asarray(mask), offset.shape)
        extent = self.extents[p.buffer]
        outside = active & ((offset < extent.lo) | (offset > extent.hi))
        if outside.any():
            first = int(offset[outside][0]) if offset.shape else int(offset)
            what = op.name[len("tt.") :]
            count = int(outside.sum())
            if all(s.line != op.line for s in self.strays):
                self.strays.append(Stray(op.line, what, p.buffer, first, extent, count))
        if not op.results:
            return None
        kind = op.types()[0]
        if kind.pointer or "ptr" in kind.element:
            raise Untold("an address from memory")
        return FLOAT  # an integer of which nothing is known is no better

    # -- values
    def value(self, op: Op) -> Any:
        name = op.name
        method = _OPS.get(name)
        if method is not None:
            return method(self, op)
        kind = op.types()[0]
        args = [self.env[x] for x in op.operands]
        if _is_float(kind):
            return FLOAT
        if any(isinstance(a, Float) for a in args):
            return FLOAT
        if name.startswith("arith."):
            return self.arithmetic(name[len("arith.") :], op, args, kind)
        raise Untold(name)

    def arithmetic(self, name: str, op: Op, args: list[Any], kind: Type) -> Any:
        bits = _bits(kind)
        if name == "select":
            c, a, b = args
            if isinstance(a, Address) or isinstance(b, Address):
                raise Untold("a selection between addresses")
            return np.where(c, a, b).astype(np.asarray(a).dtype)
        if name in ("extsi", "extui", "trunci", "index_cast", "index_castui"):
            return _converted(args[0], bits, name == "extui")
        a, b = args[0], args[1]
        if name == "cmpi":
            return _compared(op.words[0], a, b)
        plain = {
            "addi": np.add, "subi": np.subtract, "muli": np.multiply, "andi": np.bitwise_and,
            "ori": np.bitwise_or, "xori": np.bitwise_xor, "minsi": np.minimum,
            "maxsi": np.maximum, "shli": np.left_shift, "shrsi": np.right_shift,
        }  # fmt: skip
        if name in plain:
            return np.asarray(plain[name](a, b)).astype(np.asarray(a).dtype)
        if name in ("divsi", "remsi"):
            if not np.all(b):
                raise Untold("a division by zero")
            quotient = np.asarray(np.abs(_wide(a)) // np.abs(_wide(b)))
            quotient = np.where((_wide(a) < 0) != (_wide(b) < 0), -quotient, quotient)
            out = quotient if name == "divsi" else _wide(a) - quotient * _wide(b)
            return np.asarray(out).astype(np.asarray(a).dtype)
        if name in ("divui", "remui", "minui", "maxui", "shrui"):
            x, y = (_bare(v, bits) for v in (a, b))
            if name in ("divui", "remui") and not np.all(y):
                raise Untold("a division by zero")
            made = {
                "divui": np.floor_divide, "remui": np.mod, "minui": np.minimum,
                "maxui": np.maximum, "shrui": np.right_shift,
            }[name](x, y)  # fmt: skip
            return np.asarray(made).astype(np.asarray(a).dtype)
        raise Untold(f"arith.{name}")

    def shaped(self, x: Any, make: Any) -> Any:
        """A tile with its lanes moved, whatever it holds."""
        if isinstance(x, Float):
            return x
        if isinstance(x, Address):
            return Address(x.buffer, make(np.asarray(x.offset)))
        return make(np.asarray(x))


def _is_float(kind: Type) -> bool:
    return kind.element[:1] in "fbt" and not kind.pointer


def _bits(kind: Type) -> int:
    return 64 if kind.element == "index" else int(kind.element[1:])


def _wide(x: Any) -> Any:
    return np.asarray(x).astype(np.int64)


def _bare(x: Any, bits: int) -> Any:
    return np.asarray(x).astype(_UNSIGNED[bits])


def _converted(x: Any, bits: int, bare: bool) -> Any:
    a = np.asarray(x)
    if bits == 1:
        return (a & 1).astype(bool)
    if a.dtype == bool:
        return a.astype(_INTS[bits]) * (1 if bare else -1)
    if bare:
        a = a.astype(_UNSIGNED[a.dtype.itemsize * 8])
    return a.astype(_INTS[bits])


def _compared(word: str, a: Any, b: Any) -> Any:
    x, y = np.asarray(a), np.asarray(b)
    if word[0] == "u" and x.dtype != bool:
        x, y = _bare(x, x.dtype.itemsize * 8), _bare(y, y.dtype.itemsize * 8)
    kinds = {
        "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
        "gt": np.greater, "ge": np.greater_equal,
    }  # fmt: skip
    return np.asarray(kinds[word[-2:]](x, y))


# -- operations by name


def _constant(run: Concrete, op: Op) -> Any:
    kind = op.types()[0]
    if _is_float(kind):
        return FLOAT
    text = op.rest
    if text.startswith("dense<"):
        text = text[len("dense<") :].rsplit(">", 1)[0]
    text = text.split(" : ")[0].strip()
    if text in ("true", "false"):
        return np.full(kind.shape, text == "true")
    if text.startswith("["):
        raise Untold("a constant tensor")
    return run.integer(int(text, 0), kind)


def _program(run: Concrete, op: Op) -> Any:
    d = "xyz".index(op.words[0]) if op.words else number(op.attrs.get("axis", "0"))
    of = run.program if op.name == "tt.get_program_id" else run.grid
    return np.full((), of[d], np.int32)


def _range(run: Concrete, op: Op) -> Any:
    return np.arange(number(op.attrs["start"]), number(op.attrs["end"]), dtype=np.int32)


def _splat(run: Concrete, op: Op) -> Any:
    shape = op.types()[0].shape
    return run.shaped(run.env[op.operands[0]], lambda x: np.broadcast_to(x.reshape(()), shape))


def _broadcast(run: Concrete, op: Op) -> Any:
    shape = op.types()[0].shape
    if int(np.prod(shape)) > LANES:
        raise Untold("a tile of that size")
    return run.shaped(run.env[op.operands[0]], lambda x: np.broadcast_to(x, shape))


def _expand(run: Concrete, op: Op) -> Any:
    axis = number(op.attrs["axis"])
    return run.shaped(run.env[op.operands[0]], lambda x: np.expand_dims(x, axis))


def _advance(run: Concrete, op: Op) -> Any:
    p, by = (run.env[x] for x in op.operands)
    if not isinstance(p, Address) or isinstance(by, Float):
        raise Untold("an address from data")
    return Address(p.buffer, np.asarray(p.offset) + _wide(by))


def _transposed(run: Concrete, op: Op) -> Any:
    order = [int(n) for n in op.attrs.get("order", "").strip("[]").split(":")[-1].split(",") if n]
    return run.shaped(run.env[op.operands[0]], lambda x: np.transpose(x, order or None))


def _reshaped(run: Concrete, op: Op) -> Any:
    shape = op.types()[0].shape
    return run.shaped(run.env[op.operands[0]], lambda x: x.reshape(shape))


def _data(run: Concrete, op: Op) -> Any:
    return FLOAT


def _same(run: Concrete, op: Op) -> Any:
    return run.env[op.operands[0]]


def run_launch(
    source: str,
    bound: BoundPlan,
    file: str,
    kernel: str,
    program: Sequence[int],
    numbers: Mapping[Any, Any],
) -> tuple[list[Stray], str]:
    """Accesses of a program that are outside of their buffers, at concrete sizes, params and
    strides; or, as a text, why it is not known."""
    names = kernel_names(bound)
    if kernel not in names:
        return [], "the kernel is not among the launches"
    launch = bound.launches[names.index(kernel)]
    try:
        text = (
            source if is_text(file) else to_ttir_many(source, file, [launch], bound.plan.target)[0]
        )
        given = parse(text, file, own=is_text(file))
        function = next(f for f in given if f.name == launch.kernel)
        known = {**stated_values(bound.facts)}
        env = dict(numbers)
        arguments: list[int | float | str] = []
        extents: dict[str, Extent] = {}
        for a in launch.args:
            if isinstance(a, Buffer):
                shape = [int(_number(e, known, env)) for e in a.shape]
                steps = [int(_number(e, known, env)) for e in a.strides or row_major(a.shape)]
                extents[a.name] = Extent.of(shape, steps)
                arguments.append(a.name)
            else:
                arguments.append(_number(a.expr, known, env))
        grid = [int(_number(e, known, env)) for e in launch.grid]
        run = Concrete(function, arguments, extents, program, grid)
        return run.run(), ""
    except Untold as e:
        return [], str(e)
    except (ImportRefusal, ExprError, StopIteration, KeyError, ValueError, IndexError) as e:
        return [], f"{type(e).__name__}: {e}"


def _number(e: Expr, known: Mapping[Expr, Expr], env: Mapping[Any, Any]) -> Any:
    """An expression at concrete sizes; strides that nothing gives a value are those that facts
    state."""
    missing = {x: known[x] for x in leaves(e, "stride") if x not in env and x in known}
    return evaluate(substitute(e, missing), env)


_OPS: dict[str, Any] = {
    "arith.constant": _constant,
    "tt.get_program_id": _program,
    "tt.get_num_programs": _program,
    "tt.make_range": _range,
    "tt.splat": _splat,
    "tt.broadcast": _broadcast,
    "tt.expand_dims": _expand,
    "tt.addptr": _advance,
    "tt.trans": _transposed,
    "tt.reshape": _reshaped,
    "tt.reduce": _data,
    "tt.scan": _data,
    "tt.dot": _data,
    "tt.extern_elementwise": _data,
    "tt.bitcast": _same,
    "arith.fptosi": _data,
    "arith.fptoui": _data,
    "arith.cmpf": _data,
}
