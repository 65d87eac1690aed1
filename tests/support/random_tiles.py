"""Random block programs: kernels over one operator with tensors of every type, by seed.

Loops carry values, branches guard writes, masks are ragged, tiles have one to three axes; every
operation that block targets print may occur. The programs compute nothing in particular and may
access anything: they are for what printers and importers make of each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from random import Random

from support.operators import operator, tensor

from opwright.ir.dtypes import BOOL, DTYPES, F32, I64, DType, dtype
from opwright.ir.expr import TRUE, Expr, call, cdiv, const, leaf, param, pid, size, stride
from opwright.ir.op import Operator, Param
from opwright.ir.tile import (
    Atomic,
    Axis,
    Buffer,
    Builder,
    Def,
    Dot,
    For,
    If,
    Kernel,
    Placement,
    Scan,
    Stmt,
    Store,
    TileProgram,
    Value,
    row_major,
    statements,
)
from opwright.ir.tileops import inside, operands

M, N, K = size("M"), size("N"), size("K")
FLOATS = ("f32", "f16", "bf16", "f64")
SMALL = ("f8e4m3", "f8e5m2")
INTS = ("i64", "i32", "i16", "i8")
STORED = (*FLOATS, *SMALL, *INTS, "u8", "u32", "bool")
UNARY = ("exp", "exp2", "log", "log2", "sqrt", "rsqrt", "sin", "cos", "erf")
BINARY = ("add", "sub", "mul", "div", "min", "max")


def the_operator() -> Operator:
    """Inputs and outputs of every type over M and N, and scalars at run time."""
    reals = {n: "0.5" for n in STORED}
    inputs = [tensor(f"x_{n}", n, M=M, N=N) for n in STORED]
    inputs += [tensor(f"v_{n}", n, K=K) for n in ("f32", "f16", "i64", "i32")]
    outs = [
        tensor(f"y_{n}", n, "output", const(0.5) if DTYPES[n].kind == "real" else
               (TRUE if n == "bool" else const(1)), M=M, N=N)
        for n in reals
    ]  # fmt: skip
    outs += [tensor("s_f32", "f32", "output", const(0.5), K=K)]
    params = [Param("eps", F32, 0.5), Param("shift", I64, 1), Param("flag", BOOL, True)]
    return operator("anything", ("M", "N", "K"), inputs, outs, params=params)


def random_program(seed: int, op: Operator) -> TileProgram:
    """One to three kernels; later ones read what earlier ones wrote to scratch."""
    rng = Random(seed)
    facts: list[Expr] = []
    if rng.random() < 0.5:
        for t in (*op.inputs, *op.outputs):
            for n, step in enumerate(row_major(t.shape)):
                facts.append(call("eq", stride(t.name, n), step))
    memory = {}
    for t, role in [(t, "in") for t in op.inputs] + [(t, "out") for t in op.outputs]:
        steps = tuple(stride(t.name, n) for n in range(len(t.shape)))
        memory[t.name] = Buffer(t.name, role, t.dtype, t.shape, steps)
    scratch: list[Buffer] = []
    kernels = []
    for n in range(rng.choice((1, 1, 2, 3))):
        made = _Kernel(f"k{seed}_{n}", rng, memory, scratch)
        kernels.append(made.build())
        scratch = made.written
    return TileProgram(op.name, tuple(kernels), tuple(Placement() for _ in kernels), tuple(facts))


def joined(programs: Sequence[TileProgram]) -> TileProgram:
    """Kernels of programs with equal facts as one program."""
    kernels = tuple(k for p in programs for k in p.kernels)
    places = tuple(x for p in programs for x in p.placements)
    return TileProgram(programs[0].name, kernels, places, programs[0].facts)


class _Kernel:
    def __init__(
        self, name: str, rng: Random, memory: dict[str, Buffer], scratch: list[Buffer]
    ) -> None:
        self.rng, self.name, self.memory, self.scratch = rng, name, memory, scratch
        self.written: list[Buffer] = []
        count = rng.choice((1, 1, 2, 2, 3))
        extents = [rng.choice((2, 4, 8, 16, 32)) for _ in range(count)]
        self.axes = [Axis("abc"[n], e) for n, e in enumerate(extents)]
        self.sides = tuple(Axis(x, rng.choice((16, 32))) for x in ("dm", "dn", "dk"))
        # each once: what one branch decides, compilers know in another
        self.conditions = [call("lt", M, N), call("lt", const(3), N), param("flag", "bool")]
        self.conditions += [call("eq", pid(0), 0), call("le", K, 7)]
        self.values: list[Value] = []
        self.fuel = rng.randrange(6, 22)
        self.depth = 0

    def build(self) -> Kernel:
        rng = self.rng
        self.points: list[tuple[Expr, Expr]] = []  # index and condition, along M, N, K in turn
        dims: list[Expr] = []
        sizes = [M, N, K]
        self.along: list[tuple[Expr, Expr, Expr]] = []  # size, index, mask
        for n, a in enumerate(self.axes):
            whole = sizes[n]
            if rng.random() < 0.7 and len(dims) < 3:
                at = pid(len(dims)) * a.extent + a.lane
                dims.append(cdiv(whole, a.extent))
            else:
                at = a.lane + rng.choice((0, 0, 3)) if rng.random() < 0.8 else whole - 1 - a.lane
            self.along.append((whole, at, call("lt", at, whole)))
        for whole in sizes[len(self.axes) :]:
            if len(dims) < 3 and rng.random() < 0.6:
                if rng.random() < 0.2:
                    dims.append(whole * K)
                    at = (
                        pid(len(dims) - 1) // K
                        if rng.random() < 0.5
                        else pid(len(dims) - 1) % whole
                    )
                else:
                    dims.append(whole)
                    at = pid(len(dims) - 1)
            else:
                at = whole - rng.randrange(1, 4)
            self.along.append((whole, at, TRUE))
        self.b = Builder(self.name, tuple(dims) or (const(1),), "lane")
        self.load()
        self.statements()
        self.store()
        return without_dead(self.b.kernel())

    # -- statements
    def statements(self) -> None:
        steps: list[tuple[int, Callable[[], object]]] = [
            (5, self.load), (9, self.arithmetic), (5, self.integers), (5, self.cast),
            (3, self.compare), (3, self.select), (3, self.reduce), (2, self.scan),
            (2, self.view), (2, self.argreduce), (2, self.index), (2, self.dot),
            (2, self.loop), (2, self.branch), (2, self.store), (1, self.atomic),
            (1, self.rounding), (1, self.gather), (1, self.order),
        ]  # fmt: skip
        while self.fuel > 0:
            self.fuel -= 1
            weights, calls = [w for w, _ in steps], [c for _, c in steps]
            made = self.rng.choices(calls, weights)[0]()
            if isinstance(made, Value):
                self.values.append(made)

    def pick(self, good: Callable[[Value], bool]) -> Value | None:
        """A value of some kind, a late one more likely."""
        found = [v for v in self.values if good(v)]
        if not found:
            return None
        return found[-1 - min(int(self.rng.expovariate(0.5)), len(found) - 1)]

    def real(self) -> Value | None:
        return self.pick(lambda v: v.dtype.kind == "real" and v.dtype.bits > 8)

    def whole(self) -> Value | None:
        return self.pick(lambda v: v.dtype.kind == "int" and v.dtype.name[0] == "i")

    def alike(self, v: Value) -> Value:
        """Another value of the type: of one with itself little may be left."""
        other = self.pick(lambda w: w.dtype == v.dtype and w is not v)
        return other or self.b.ew("max", v, 1)

    def place(self) -> tuple[list[Expr], Expr]:
        """An element over M and N with its mask."""
        at, masks = [], []
        for whole, i, mask in self.along[:2]:
            r = self.rng.random()
            if r < 0.1:
                at.append(i + 1)
                masks.append(call("lt", i + 1, whole))
            else:
                at.append(i)
                masks.append(mask)
        mask = TRUE
        for m in masks:
            mask = call("and", mask, m)
        return at, mask

    def load(self) -> Value:
        rng, b = self.rng, self.b
        if rng.random() < 0.2:
            buffer = self.memory[rng.choice(("v_f32", "v_f16", "v_i64", "v_i32"))]
            _, i, mask = self.along[2]
            at = [i]
        else:
            names = [f"x_{n}" for n in STORED for _ in range(4 if n in FLOATS else 1)]
            buffer = self.memory[rng.choice(names)]
            if self.scratch and rng.random() < 0.3:
                buffer = rng.choice(self.scratch)
            at, mask = self.place()
        if rng.random() < 0.1:
            mask = TRUE
        other: float | bool | None = None
        if mask is not TRUE and rng.random() < 0.8:
            kind = buffer.dtype.kind
            numbers = {"real": (0.0, 1.5, -0.1), "int": (0, 1, 7), "bool": (False, True)}[kind]
            other = rng.choice(numbers)
            if kind == "real" and buffer.dtype.bits > 8 and rng.random() < 0.2:
                other = float("-inf")
        v = b.load(buffer, *at, mask=mask, other=other)
        self.values.append(v)
        if v.dtype.name in (*SMALL, "u8", "u32"):
            wide = dtype(rng.choice(("f32", "f16"))) if v.dtype.kind == "real" else I64
            return b.cast(v, wide)
        return v

    def gather(self) -> Value | None:
        v = self.whole()
        if v is None:
            return None
        i = leaf("value", v, "int")
        buffer = self.memory[self.rng.choice(("v_f32", "v_i64"))]
        inside = call("and", call("le", const(0), i), call("lt", i, K))
        if self.rng.random() < 0.3:
            i = i + self.along[2][1]
            inside = call("lt", i, K)
        return self.b.load(buffer, i, mask=inside, other=0)

    # -- values
    def arithmetic(self) -> Value | None:
        rng, b, v = self.rng, self.b, self.real()
        if v is None:
            return None
        r = rng.random() if v.op != "full" else 0.9  # functions of constants are folded
        if r < 0.2 and v.dtype.name in ("f32", "f64"):
            return b.ew(rng.choice(UNARY), v)
        if r < 0.3:
            return b.ew(rng.choice(("neg", "abs")), v)
        if r < 0.36 and v.dtype.name in ("f32", "f64"):
            return b.ew("fma", v, self.alike(v), self.alike(v))
        if r < 0.5:
            number = rng.choice((0.1, 2.0, -1.5, 1e-5, 3.0))
            op = rng.choice(BINARY)
            if op == "div" and v.dtype.bits < 32:
                op = "mul"
            return b.ew(op, *(rng.choice(((v, number), (number, v)))))
        op = rng.choice(BINARY)
        if op == "div" and v.dtype.bits < 32:
            op = "sub"
        return b.ew(op, v, self.alike(v))

    def integers(self) -> Value | None:
        rng, b, v = self.rng, self.b, self.whole()
        if v is None:
            return None
        v = b.cast(v, I64)  # narrow ones wrap, and are read with a check
        r = rng.random()
        if r < 0.25:
            return b.ew(rng.choice(("floordiv", "mod")), v, rng.choice((2, 3, 5, 8)))
        if r < 0.35:
            return b.ew(rng.choice(("neg", "abs")), v)
        op = rng.choice(("add", "sub", "mul", "min", "max"))
        return b.ew(op, v, rng.choice((1, 2, 5)) if rng.random() < 0.4 else self.alike(v))

    def cast(self) -> Value | None:
        rng, b, v = self.rng, self.b, self.pick(lambda v: True)
        if v is None or v.dtype.name in (*SMALL, "u8", "u32"):
            return None
        if v.dtype.kind == "real":
            wide = [n for n in FLOATS if DTYPES[n].bits >= v.dtype.bits]
            return b.cast(v, dtype(rng.choice(wide)))  # others are roundings, or stored
        if v.dtype is BOOL:
            one = b.full(1.0, F32)
            return b.ew("select", v, one, b.full(0.0, F32))
        wide = [n for n in INTS if DTYPES[n].bits >= v.dtype.bits]
        return b.cast(v, dtype(rng.choice((*wide, "f32", "f64"))))  # others wrap, or are stored

    def rounding(self) -> Value | None:
        b, v = self.b, self.pick(lambda v: v.dtype.name in ("f32", "f64"))
        if v is None or (v.op == "cast" and v.args[0].dtype.kind == "int") or v.op == "full":
            return None
        if self.rng.random() < 0.5:
            return b.ew(self.rng.choice(("floor", "ceil", "trunc")), v)
        narrow = b.define("round", (v,), v.axes, dtype(self.rng.choice(("bf16", "f16"))))
        return b.cast(narrow, v.dtype)

    def compare(self) -> Value | None:
        rng, b = self.rng, self.b
        v = self.real() if rng.random() < 0.6 else self.whole()
        if v is None:
            return None
        if v.dtype.kind == "real" and rng.random() < 0.2:
            made = b.ew(rng.choice(("isnan", "isinf")), v)
        else:
            other = self.alike(v) if rng.random() < 0.6 else rng.choice((0, 1, 3))
            made = b.ew(rng.choice(("lt", "le", "eq", "ne")), v, other)
        another = self.pick(lambda w: w.dtype is BOOL)
        if another is not None and rng.random() < 0.5:
            made = b.ew(rng.choice(("and", "or")), made, another)
        return b.ew("not", made) if rng.random() < 0.2 else made

    def select(self) -> Value | None:
        c = self.pick(lambda v: v.dtype is BOOL)
        v = self.real() if self.rng.random() < 0.7 else self.whole()
        if c is None or v is None:
            return None
        other: Value | float = self.alike(v) if self.rng.random() < 0.7 else 0
        return self.b.ew("select", c, v, other)

    def tile(self, good: Callable[[Value], bool] = lambda v: True) -> Value | None:
        return self.pick(lambda v: bool(v.axes) and good(v) and v.dtype.name not in
                         (*SMALL, "u8", "u32"))  # fmt: skip

    def reduce(self) -> Value | None:
        v = self.tile()
        if v is None:
            return None
        monoids = {"bool": ("any", "all"), "int": ("sum", "max", "min"),
                   "real": ("sum", "max", "min", "prod")}[v.dtype.kind]  # fmt: skip
        if v.dtype.kind == "int":
            v = self.b.cast(v, I64)  # sums of narrow ones wrap
        return self.b.reduce(self.rng.choice(monoids), v, self.rng.choice(v.axes))

    def scan(self) -> Value | None:
        v = self.tile(lambda v: v.dtype.name in ("f32", "f64", "i64"))
        if v is None:
            return None
        monoids = ("sum", "max", "min") if v.dtype.kind == "int" else ("sum", "prod", "max")
        what = Scan(self.rng.choice(monoids), self.rng.choice(v.axes), self.rng.random() < 0.3)
        return self.b.scan(v, what)

    def argreduce(self) -> Value | None:
        v = self.tile(lambda v: v.dtype.name in ("f32", "f64", "i64", "i32"))
        if v is None:
            return None
        a = self.rng.choice(v.axes)
        at = self.b.index(a.lane + self.rng.choice((0, 3)))
        return self.b.argreduce(self.rng.choice(("argmax", "argmin")), v, at, a)

    def index(self) -> Value:
        rng = self.rng
        if rng.random() < 0.3:
            return self.b.index(param("eps", "real"), F32)
        whole, i, mask = rng.choice(self.along)
        choices: list[Expr] = [i, mask, i // 2, i % 3, call("min", i, whole), whole]
        choices += [i + param("shift", "int"), call("toreal", whole), param("flag", "bool")]
        choices += [call("select", mask, i, const(0)), call("lt", whole, const(9))]
        e = rng.choice([c for c in choices if c.op != "const"])
        return self.b.index(e, F32 if e.kind == "real" else None)

    def order(self) -> Value | None:
        """Lanes in another order."""
        v = self.tile()
        if v is None or len(v.axes) < 1:
            return None
        a = self.rng.choice(v.axes)
        twin = Axis(f"{a.name}{a.name}", a.extent)
        return self.b.view(v, [(a, twin.lane)]) if twin not in v.axes else None

    def view(self) -> Value | None:
        """Two axes folded into one, or one split; stored at once, nothing else has that axis."""
        v = self.tile(lambda v: v.dtype.name in ("f32", "f16"))
        if v is None or len(v.axes) != 2:
            return None
        a, c = v.axes
        if [x.name for x in (a, c)] != sorted(x.name for x in (a, c)):
            return None
        flat = Axis(f"{a.name}{c.name}f", a.extent * c.extent)
        folded = self.b.view(v, [(a, flat.lane // c.extent), (c, flat.lane % c.extent)])
        self.values.append(self.b.reduce("max", folded, flat))
        return None

    def dot(self) -> Value | None:
        rng, b = self.rng, self.b
        kind = rng.choice(("f16", "bf16", "f32"))
        m, n, k = self.sides
        x, y = self.memory[f"x_{kind}"], self.memory[f"x_{kind}"]
        start = rng.choice((const(0), M))
        precision = rng.choice(("ieee", "tf32")) if kind == "f32" else "ieee"

        def one(v: Expr) -> Value:
            left = b.load(x, m.lane, v + k.lane, mask=call("lt", v + k.lane, N), other=0.0)
            columns = call("and", call("lt", v + k.lane, M), call("lt", n.lane, N))
            right = b.load(y, v + k.lane, n.lane, mask=columns, other=0.0)
            if rng.random() < 0.2:
                right = b.ew("mul", right, 2.0)
            return b.dot(left, right, Dot(k, precision), F32)

        if rng.random() < 0.5:
            self.values.append(one(start))
            return None
        zero = b.full(0.0, F32, m, n)
        (acc,) = b.loop("kk", const(0), N, k.extent, [zero], lambda v, s: [b.ew("add", s, one(v))])
        if rng.random() < 0.5:
            acc = b.ew("max", acc, 0.0)
        mask = call("and", call("lt", m.lane, M), call("lt", n.lane, N))
        b.store(self.memory["y_f32"], m.lane, n.lane, acc, mask=mask)
        return None

    # -- control
    def inside(self, fuel: int, run: Callable[[], None]) -> list[Value]:
        """Statements of an inner block; the values that only it has."""
        kept, rest = list(self.values), self.fuel - fuel
        self.depth += 1
        self.fuel = fuel
        run()
        inner = [v for v in self.values if v not in kept]
        self.values, self.fuel = kept, rest
        self.depth -= 1
        return inner

    def loop(self) -> None:
        rng, b = self.rng, self.b
        if self.depth > 1:
            return
        inits = []
        for _ in range(rng.randrange(3)):
            v = self.pick(lambda v: v.dtype.name in ("f32", "f64"))  # sums of integers are closed
            if v is not None:
                inits.append(v)
        hi, step = rng.choice(((N, 16), (M, 1), (const(3), 1), (call("min", N, M), 4)))
        results: list[Value] = []

        def body(v: Expr, *state: Value) -> list[Value]:
            def run() -> None:
                self.values += state
                saved = self.along
                self.along = [(w, v if a is self.along[1][1] and step == 1 else a, m)
                              for w, a, m in saved]  # fmt: skip
                self.load()
                self.statements()
                self.along = saved
                for s in state:
                    nxt = self.pick(
                        lambda w, s=s: w.dtype == s.dtype and set(w.axes) <= set(s.axes)
                    )
                    made = nxt or s
                    results.append(b.ew(rng.choice(("add", "max", "mul")), made, s))

            self.inside(rng.randrange(2, 7), run)
            return list(results)

        made = b.loop("i", const(0), hi, step, inits, body)
        self.values = [*self.values, *made]

    def branch(self) -> None:
        rng = self.rng
        if self.depth > 1 or not self.conditions:
            return
        cond = self.conditions.pop(rng.randrange(len(self.conditions)))

        def run() -> None:
            self.statements()
            self.store()

        side = partial(self.inside, rng.randrange(1, 5), run)
        other = partial(self.inside, rng.randrange(1, 4), run) if rng.random() < 0.4 else None
        self.b.branch(cond, lambda: (side(), None)[1], other and (lambda: (other(), None)[1]))

    # -- memory
    def target(self) -> tuple[list[Expr], Expr]:
        at, masks = [], TRUE
        for _, i, mask in self.along[:2]:
            at.append(i)
            masks = call("and", masks, mask)
        return at, masks

    def fitting(self) -> Value | None:
        mine = set(self.axes[:2])
        return self.pick(lambda v: set(v.axes) <= mine)

    def store(self) -> None:
        rng, b, v = self.rng, self.b, self.fitting()
        if v is None:
            return
        at, mask = self.target()
        if v.dtype.kind == "real" and rng.random() < 0.3:
            v = b.cast(v, dtype(rng.choice((*FLOATS, *SMALL))))
        elif v.dtype.kind == "int" and rng.random() < 0.3:
            v = b.cast(v, dtype(rng.choice((*INTS, "u8", "u32"))))
        buffer = self.memory[f"y_{v.dtype}"]
        if self.depth == 0 and rng.random() < 0.2:
            buffer = Buffer(f"z{len(self.written)}_{self.name}", "plan", v.dtype, (M, N))
            self.written.append(buffer)
        if rng.random() < 0.1:
            mask = call("and", mask, call("lt", M, N))
        b.store(buffer, *at, v, mask=mask)

    def atomic(self) -> None:
        b, rng = self.b, self.rng
        v = self.pick(lambda v: v.dtype.name in ("f32", "i32", "i64") and
                      set(v.axes) <= set(self.axes[:2]))  # fmt: skip
        if v is None:
            return
        at, mask = self.target()
        if v.dtype.kind == "real":
            b.atomic("sum", self.memory["y_f32"], *at, v, mask=mask)
        else:
            monoid = rng.choice(("sum", "max", "min"))
            b.atomic(monoid, self.memory[f"y_{v.dtype}"], *at, v, mask=mask)


def _fits(s: Value, w: Value) -> bool:
    """Whether one value may follow another in a loop."""
    return w.dtype == s.dtype and set(w.axes) <= set(s.axes)


def without_dead(kernel: Kernel) -> Kernel:
    """The kernel without values on which nothing depends; compilers leave out their loads."""
    live: set[Value] = set()
    todo: list[Value] = []
    made: dict[Value, tuple[Value, ...]] = {}
    for s in statements(kernel.body):
        if isinstance(s, Def):
            made[s.value] = tuple(operands(s.value))
        elif isinstance(s, (Store, Atomic)):
            todo += [s.value, *inside(*s.index, s.mask)]
        elif isinstance(s, For):
            todo += inside(s.lo, s.hi)
            for i, p, y, r in zip(s.inits, s.params, s.yields, s.results, strict=True):
                made[p], made[r] = (i, y), (p, i, y)
        elif isinstance(s, If):
            todo += inside(s.cond)
    while todo:
        v = todo.pop()
        if v not in live:
            live.add(v)
            todo += made.get(v, ())

    def alive(body: tuple[Stmt, ...]) -> tuple[Stmt, ...]:
        out: list[Stmt] = []
        for s in body:
            if isinstance(s, Def) and s.value not in live:
                continue
            if isinstance(s, For):
                kept = [n for n, p in enumerate(s.params) if p in live or s.results[n] in live]
                parts = (
                    tuple(x[n] for n in kept) for x in (s.inits, s.params, s.yields, s.results)
                )
                inits, params, yields, results = parts
                s = For(
                    s.variable, s.lo, s.hi, s.step, inits, params, alive(s.body), yields, results
                )
            elif isinstance(s, If):
                s = If(s.cond, alive(s.then), alive(s.other))
            out.append(s)
        return tuple(out)

    return replace(kernel, body=alive(kernel.body))


__all__ = ["DType", "joined", "random_program", "the_operator"]
