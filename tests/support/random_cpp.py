"""Random tile programs that C++ can be printed for: loops, carried values, branches, masks,
reductions, scans, lanes, scratch, several launches, every dtype, placements.

Indices are within bounds by their masks. `total` keeps to programs that write every element of
every output once, which can be run.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from opwright.ir.dtypes import BOOL, DTYPES, F32, F64, I32, I64, DType
from opwright.ir.expr import TRUE, Expr, call, cdiv, const, leaf, minimum, pid, size, stride
from opwright.ir.tile import (
    Axis,
    Buffer,
    Builder,
    Def,
    Kernel,
    Placement,
    Scan,
    TileProgram,
    Value,
    lanes,
    row_major,
    statements,
)

M, N = size("M"), size("N")
COMPUTED = (F32, F32, F64, I64, I32, BOOL)
STORED = tuple(
    DTYPES[n]
    for n in """f32 f32 f32 f64 bf16 f16 f8e4m3fn f8e5m2 i8 i16 i32 i64 u8 u16 u32 bool""".split()
    if n in DTYPES
)
FILL = {"real": (0, 0.0, 1.5, -3.25), "int": (0, 3), "bool": (False, True)}
REAL = ("add", "sub", "mul", "div", "min", "max")
REAL_ONE = ("neg", "abs", "exp", "tanh", "sigmoid", "sqrt", "erf", "rsqrt", "exp2")
WHOLE = ("add", "sub", "mul", "min", "max")


class Maker:
    """One random program."""

    def __init__(self, seed: int, total: bool = False) -> None:
        self.rng = Random(seed)
        self.total = total
        self.facts: list[Expr] = []
        self.inputs: list[Buffer] = []
        self.count = 0
        self.between: list[Buffer] = []

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def program(self) -> TileProgram:
        kernels, places = [], []
        for n in range(1 if self.chance(0.7) else 2):
            k, place = self.kernel(f"k{n}")
            kernels.append(k)
            places.append(place)
        buffers = {b.name: b for k in kernels for b in k.buffers}
        for b in buffers.values():
            if b.role in ("in", "out"):
                for d, step in enumerate(row_major(b.shape)):
                    self.facts.append(call("eq", stride(b.name, d), step))
        return TileProgram("random", tuple(kernels), tuple(places), tuple(self.facts))

    def kernel(self, name: str) -> tuple[Kernel, Placement]:
        r = self.rng
        self.grid = r.choice([(M,), (M,), (M, N), (cdiv(M, 4),)]) if not self.total else (M,)
        k = self.k = Builder(name, self.grid)
        width = r.choice([4, 8, 16])
        # scans keep to one register of every dtype, which is 8 lanes of the widest
        self.running = self.chance(0.25)
        self.vec = Axis("v", 8 if self.running else width * r.choice([1, 2]))
        width = 8 if self.running else width
        self.rest = [Axis(n, r.choice([2, 3, 4])) for n in "ab"][: r.randint(0, 2)]
        place: dict[str, str | tuple[str, int]] = {a.name: "unroll" for a in self.rest}
        plain = not self.running and self.chance(0.2)
        place["v"] = "unroll" if plain else ("vec", width)
        self.axes = (self.vec, *self.rest)
        self.loops: list[Expr] = []
        self.stored = 0
        self.turned = False  # whether lanes read what others wrote
        first = [self.do_load(0, []) for _ in range(3)]
        self.block(2, [self.computed(v) for v in first])
        if not self.stored:
            self.store([k.full(1.0, F32)])
        if self.between and self.chance(0.8):
            b = r.choice(self.between)
            v = k.load(b, *(minimum(pid(0), e - 1) for e in b.shape))
            self.store([v])
        made = k.kernel()
        hints: dict[str, object] = {}
        names = [s.value.name for s in statements(made.body) if hasattr(s, "value")]
        loops = [s.variable for s in statements(made.body) if hasattr(s, "variable")]
        if loops and self.chance(0.3):
            hints["unroll"] = {r.choice(loops): 2}
        if names and self.chance(0.3) and not self.turned:
            hints["deep"] = ("*",)
        if names and self.chance(0.2):
            hints["pin"] = (r.choice(names),)
        hints["threads"] = r.choice(["static", "dynamic"])
        return made, Placement(place, **hints)  # type: ignore[arg-type]

    # -- expressions
    def natural(self, tile: bool = True) -> Expr:
        """An index that is not negative."""
        r = self.rng
        options = [pid(0), const(r.randint(1, 5)), *self.loops, *self.loops]
        if len(self.grid) > 1:
            options.append(pid(1))
        e = r.choice(options)
        if self.chance(0.3):
            e = e * r.choice([2, 4, 7])
        if self.chance(0.15):
            e = r.choice([e // 3, e % 5, call("max", e, 2), call("min", e, N)])
        if tile and self.chance(0.6):
            a = r.choice(self.axes)
            e = (e * a.extent if self.chance(0.4) else e) + a.lane
        return e

    def condition(self, tile: bool = True) -> Expr:
        a, b = self.natural(tile), self.rng.choice([M, N, const(7), self.natural(tile)])
        return call(self.rng.choice(["lt", "le", "ne", "eq"]), a, b)

    def spot(self, b: Buffer, tile: bool, values: list[Value]) -> tuple[list[Expr], Expr]:
        """An index of a buffer and the mask under which it is one."""
        at: list[Expr] = []
        mask: Expr = TRUE
        whole = [v for v in values if v.dtype.kind == "int" and (tile or not v.axes)]
        for n in b.shape:
            e = self.natural(tile)
            while any(a in lanes(*at) for a in lanes(e)):  # a lane moves one axis of memory
                e = self.natural(tile)
            if whole and self.chance(0.15):
                e = leaf("value", self.rng.choice(whole), "int")
                mask = call("and", mask, call("le", 0, e))
            at.append(e)
            mask = call("and", mask, call("lt", e, n))
        return at, mask

    # -- statements
    def block(self, depth: int, outer: list[Value]) -> list[Value]:
        values = list(outer)
        for _ in range(self.rng.randint(2, 6)):
            what = self.rng.choice(
                """load load load ew ew ew cast full index reduce scan loop loop if store store
                scratch""".split()
            )
            made = getattr(self, f"do_{what}")(depth, values)
            if made is not None:
                values.append(made)
        return values

    def do_load(self, depth: int, values: list[Value]) -> Value:
        r = self.rng
        if len(self.inputs) < 2 or self.chance(0.3):
            shape = r.choice([(N,), (M, N), (N, M), (M, N, N)])
            self.inputs.append(Buffer(f"x{len(self.inputs)}", "in", r.choice(STORED), shape))
        b = r.choice(self.inputs)
        at, mask = self.spot(b, True, values)
        kept = self.once(values, at, mask)
        return self.k.load(b, *at, mask=kept, other=r.choice(FILL[b.dtype.kind]))

    def once(self, values: list[Value], at: list[Expr], mask: Expr) -> Expr:
        truths = [v for v in values if v.dtype is BOOL]
        if truths and self.chance(0.2):
            v = self.rng.choice(truths)
            if len({a for a in lanes(*at, mask, leaf("value", v, "bool")) if a == self.vec}) < 2:
                return call("and", mask, leaf("value", v, "bool"))
        if self.chance(0.2):
            return call("and", mask, self.condition())
        return mask

    def pick(self, values: list[Value], *dtypes: DType) -> Value:
        found = [v for v in values if v.dtype in dtypes]
        if found and self.chance(0.85):
            return self.rng.choice(found[-6:])
        stored = [v for v in values if v.dtype.kind == dtypes[0].kind and v.dtype not in dtypes]
        if stored and self.chance(0.7):
            return self.k.cast(self.rng.choice(stored), dtypes[0])
        d = dtypes[0]
        if d.kind == "real":
            return self.k.full(self.rng.choice([0.5, 2.0, 0.1]), d)
        if d is BOOL:
            return self.k.index(self.condition(), BOOL)
        return self.k.full(3, d) if self.chance(0.3) else self.k.index(self.natural(), d)

    def do_full(self, depth: int, values: list[Value]) -> Value:
        return self.pick([], self.rng.choice(COMPUTED))

    def do_index(self, depth: int, values: list[Value]) -> Value:
        d = self.rng.choice([I64, I32, F32, F64, BOOL])
        return self.k.index(self.condition() if d is BOOL else self.natural(), d)

    def do_ew(self, depth: int, values: list[Value]) -> Value:
        r, k = self.rng, self.k
        d = r.choice(COMPUTED)
        x = self.pick(values, d)
        if d is BOOL:
            y = self.pick(values, BOOL)
            return r.choice([lambda: k.ew("not", x), lambda: k.ew("and", x, y),
                             lambda: k.ew("or", x, y)])()  # fmt: skip
        y = self.pick(values, d)
        if self.chance(0.15):
            return k.ew(r.choice(["lt", "le", "eq", "ne"]), x, y)
        if self.chance(0.15):
            return k.ew("select", self.pick(values, BOOL), x, y)
        if d.kind == "int":
            if self.chance(0.2):
                return k.ew(r.choice(["floordiv", "mod"]), x, k.full(r.choice([2, 3, 8]), d))
            return k.ew(r.choice(WHOLE), x, y)
        if self.chance(0.1):
            return k.ew("isnan", x)
        if self.chance(0.1):
            return k.ew(r.choice(["floor", "ceil", "trunc", "nearest"]), k.ew("tanh", x))
        if self.chance(0.2):
            return k.ew("fma", x, y, self.pick(values, d))
        if self.chance(0.3):
            return k.ew(r.choice(REAL_ONE), x)
        return k.ew(r.choice(REAL), x, y)

    def do_cast(self, depth: int, values: list[Value]) -> Value | None:
        if not values:
            return None
        v, to = self.rng.choice(values[-6:]), self.rng.choice(STORED)
        if v.dtype.kind != to.kind and not (v.dtype.kind == "int" and to.kind == "real"):
            return None
        if v.dtype.kind == "real" and to.kind == "real" and self.chance(0.3):
            return self.k.define("round", (v,), v.axes, to)
        return self.k.cast(v, to)

    def computed(self, v: Value) -> Value:
        return v if v.dtype in COMPUTED else self.k.cast(v, F32 if v.dtype.kind == "real" else I64)

    def do_reduce(self, depth: int, values: list[Value]) -> Value | None:
        v = next((v for v in reversed(values) if v.axes), None)
        if v is None:
            return None
        v = self.computed(v)
        monoid = self.rng.choice(["any", "all"] if v.dtype is BOOL else ["sum", "max", "min"])
        return self.k.reduce(monoid, v, self.rng.choice(v.axes))

    def do_scan(self, depth: int, values: list[Value]) -> Value | None:
        found = [v for v in values if self.vec in v.axes and v.dtype in (F32, F64, I64)]
        if not found or not self.running:
            return None
        v = self.rng.choice(found)
        return self.k.scan(v, Scan(self.rng.choice(["sum", "max"]), self.vec, self.chance(0.3)))

    def do_loop(self, depth: int, values: list[Value]) -> Value | None:
        r, k = self.rng, self.k
        if not depth:
            return None
        computed = [v for v in values if v.dtype in (F32, F64, I64, BOOL)]
        inits = r.sample(computed, min(len(computed), r.randint(0, 3)))
        if inits and self.chance(0.3):  # two of one kind, to be exchanged
            inits.append(
                k.ew("add", inits[0], inits[0]) if inits[0].dtype is not BOOL else inits[0]
            )
        lo, hi, step = const(0), N, 1
        if not self.total and self.chance(0.6):
            lo, hi, step = r.choice(
                [(pid(0) * 4, minimum(pid(0) * 4 + 4, M), 1), (const(0), N // 4 * 4, 4),
                 (N // 4 * 4, N, 4), (const(1), N, 2), (const(0), const(3), 1)]
            )  # fmt: skip

        def body(v: Expr, *state: Value) -> Iterable[Value]:
            self.loops.append(v)
            inner = self.block(depth - 1, [*values, *state])
            self.loops.pop()
            out = []
            for p in state:
                same = [x for x in (*state, *inner) if x.dtype == p.dtype
                        and set(x.axes) == set(p.axes)]  # fmt: skip
                y = r.choice(same)
                if p.dtype is not BOOL and self.chance(0.6):
                    y = k.ew(r.choice(["add", "max"]), y, p)
                out.append(y)
            return out

        results = k.loop(r.choice("ijn"), lo, hi, step, inits, body)
        return results[0] if results else None

    def do_if(self, depth: int, values: list[Value]) -> None:
        if not depth:
            return
        cond = self.condition(tile=False)
        plain = [v for v in values if v.dtype is BOOL and not v.axes]
        if plain and self.chance(0.4):
            cond = leaf("value", self.rng.choice(plain), "bool")
        keep, self.total = self.total, self.total
        self.inside = getattr(self, "inside", 0) + 1
        self.k.branch(
            cond,
            lambda: void(self.block(depth - 1, values)),
            (lambda: void(self.block(depth - 1, values))) if self.chance(0.5) else None,
        )
        self.inside -= 1
        self.total = keep

    def do_store(self, depth: int, values: list[Value]) -> None:
        self.store(values)

    def store(self, values: list[Value]) -> None:
        """One value into an output of its own."""
        if not values or (self.total and getattr(self, "inside", 0)):
            return
        r, k = self.rng, self.k
        v = r.choice(values[-5:])
        name = f"y{self.count}"
        self.count += 1
        self.stored += 1
        at: list[Expr] = [pid(d) for d in range(len(self.grid))]
        shape: list[Expr] = [M, N][: len(self.grid)]
        mask: Expr = TRUE if self.total else call("lt", pid(0), M)
        for x in self.loops:
            at.append(x)
            shape.append(N)
            mask = mask if self.total else call("and", mask, call("lt", x, N))
        for a in v.axes:
            at.append(a.lane)
            shape.append(const(a.extent))
        if not self.total:
            mask = self.once(values, at, mask) if self.chance(0.3) else mask
        free = [a for a in lanes(mask) if a not in v.axes]
        if free:
            mask = TRUE
        role = "plan" if not self.between and self.chance(0.1) and not self.loops else "out"
        b = Buffer(name, role, v.dtype, tuple(shape))
        if role == "plan" and not v.axes and mask is TRUE:
            self.between.append(b)
        k.store(b, *at, v, mask=mask)

    def do_scratch(self, depth: int, values: list[Value]) -> Value | None:
        """Scratch of the program, written by lanes and read back in another order."""
        found = [v for v in values if v.axes]
        if not found:
            return None
        v = self.rng.choice(found)
        shape = tuple(const(a.extent) for a in v.axes)
        b = Buffer(self.k.fresh(f"{self.k.name}s"), "program", v.dtype, shape)
        self.k.store(b, *(a.lane for a in v.axes), v)
        turn = self.chance(0.3)
        self.turned |= turn
        at = [const(a.extent - 1) - a.lane if turn else a.lane for a in v.axes]
        return self.k.load(b, *at)


def void(_: object) -> None:
    return None


def level(program: TileProgram, seed: int) -> str:
    """An instruction set; the largest where scans must find their lanes in one register."""
    scans = (
        s.value.op == "scan" for k in program.kernels for s in statements(k.body)
        if isinstance(s, Def)
    )  # fmt: skip
    return "x86-64-v4" if any(scans) else ("portable", "x86-64-v3", "x86-64-v4")[seed % 3]


def make(seed: int, total: bool = False) -> TileProgram:
    """The random program of a seed."""
    return Maker(seed, total).program()


__all__ = ["level", "make"]
