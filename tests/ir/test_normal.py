"""Normal forms: the same for one program written in two ways, different for different meanings."""

from __future__ import annotations

import re
from dataclasses import replace
from random import Random

import numpy as np
import pytest
import tile_kernels
from support import foreign

from opwright.ir.dtypes import F32
from opwright.ir.expr import Expr, ExprError, evaluate, leaf, leaves, substitute, var
from opwright.ir.interpreter import Trap, run
from opwright.ir.normal import normal_form
from opwright.ir.semantics import ROWS
from opwright.ir.tile import (
    Atomic,
    Axis,
    Check,
    Def,
    For,
    If,
    Kernel,
    Load,
    Scan,
    Stmt,
    Store,
    TileProgram,
    Value,
)
from opwright.ir.tilecheck import TileError, check_program
from opwright.ir.tiletext import parse_program, show_program

PROGRAMS = {
    **{n: show_program(make()) for n, make in tile_kernels.SMALL.items()},
    **foreign.RIGHT,
}


class Rewriter:
    """The same kernel under other names, with values made twice, in another order, undone."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.axes: dict[Axis, Axis] = {}
        self.values: dict[Value, Value] = {}
        self.leaves: dict[Expr, Expr] = {}
        self.count = 0

    def name(self) -> str:
        self.count += 1
        return f"n{self.count}"

    def axis(self, a: Axis) -> Axis:
        if a not in self.axes:
            self.axes[a] = Axis(f"a{len(self.axes) * 7 % 31}x{len(self.axes)}", a.extent)
            self.leaves[a.lane] = self.axes[a].lane
        return self.axes[a]

    def expr(self, e: Expr) -> Expr:
        for x in leaves(e, "lane"):
            self.axis(x.attr)
        values = {x: leaf("value", self.values[x.attr], x.kind) for x in leaves(e, "value")}
        out = substitute(e, {**self.leaves, **values})
        if e.kind == "int" and self.rng.random() < 0.3:
            out = (out + 3) - 3 if self.rng.random() < 0.5 else out * 4 // 4
        return out

    def kernel(self, k: Kernel) -> Kernel:
        body = tuple(self.block(k.body))
        return replace(k, name=f"k{self.rng.randrange(99)}", body=body, lines={"x": "y:1"})

    def block(self, body: tuple[Stmt, ...]) -> list[Stmt]:
        out: list[Stmt] = []
        for s in body:
            out += self.statement(s)
        return self.shuffled(out)

    def shuffled(self, body: list[Stmt]) -> list[Stmt]:
        """Pure values later, if nothing between needs them."""
        out = list(body)
        for _ in range(len(out)):
            n = self.rng.randrange(max(len(out) - 1, 1))
            a, b = out[n], out[n + 1] if n + 1 < len(out) else None
            pure = isinstance(a, Def) and a.value.op in (*ROWS, "full", "reduce", "cast")
            if pure and isinstance(b, Def) and a.value not in b.value.args and b.value.op in ROWS:
                out[n], out[n + 1] = b, a
        return out

    def statement(self, s: Stmt) -> list[Stmt]:
        if isinstance(s, Def):
            return self.define(s.value)
        if isinstance(s, Check):
            return []
        if isinstance(s, (Store, Atomic)):
            index = tuple(self.expr(i) for i in s.index)
            new = replace(s, name=self.name(), index=index, mask=self.expr(s.mask))
            return [replace(new, value=self.values[s.value])]
        if isinstance(s, If):
            cond = self.expr(s.cond)
            sides = tuple(self.block(s.then)), tuple(self.block(s.other))
            if self.rng.random() < 0.5:
                return [If(~cond, sides[1], sides[0])]
            return [If(cond, *sides)]
        assert isinstance(s, For)
        lo, hi, v = self.expr(s.lo), self.expr(s.hi), self.name()
        self.leaves[var(s.variable)] = var(v)
        order = list(range(len(s.params)))
        self.rng.shuffle(order)
        inits = tuple(self.values[s.inits[n]] for n in order)
        for n, i in zip(order, inits, strict=True):
            axes = i.axes
            for old, op in ((s.params[n], "param"), (s.results[n], "result")):
                self.values[old] = Value(self.name(), op, (), axes, i.dtype)
        body = tuple(self.block(s.body))
        pick = [tuple(self.values[x[n]] for n in order) for x in (s.params, s.yields, s.results)]
        check: Stmt = Check(self.name(), lo <= hi, "wrap", "nothing")
        return [check, For(v, lo, hi, s.step, inits, pick[0], body, pick[1], pick[2])]

    def define(self, v: Value) -> list[Stmt]:
        args = [self.values[a] for a in v.args]
        row = ROWS.get(v.op)
        if row is not None and row.commutative and self.rng.random() < 0.5:
            args.reverse()
        attr = v.attr
        if v.op == "index":
            attr = self.expr(attr)
        elif v.op == "load":
            what: Load = attr
            mask = self.expr(what.mask)
            attr = Load(what.buffer, tuple(self.expr(i) for i in what.index), mask, what.other)
        elif v.op in ("reduce", "argreduce"):
            attr = (attr[0], self.axis(attr[1]))
        elif v.op == "scan":
            attr = Scan(attr.monoid, self.axis(attr.axis), attr.reverse)
        elif v.op == "dot":
            attr = replace(attr, axis=self.axis(attr.axis))
        elif v.op == "view":
            attr = tuple((self.axis(a), self.expr(e)) for a, e in attr)
        axes = [self.axis(a) for a in v.axes]
        self.rng.shuffle(axes)
        made = []
        for _ in range(2 if self.rng.random() < 0.2 and v.op != "load" else 1):
            made.append(Value(self.name(), v.op, tuple(args), tuple(axes), v.dtype, attr))
        if v.dtype == F32 and self.rng.random() < 0.2:
            one = Value(self.name(), "full", (), (), F32, 1.0)
            same = Value(self.name(), "mul", (made[-1], one), tuple(axes), F32)
            made += [one, same]
        self.values[v] = made[-1]
        return [Def(x) for x in made]


@pytest.mark.parametrize("name", PROGRAMS)
def test_names_order_and_neutral_operations_do_not_matter(name):
    program = parse_program(PROGRAMS[name])
    text = normal_form(program)
    for seed in range(3):
        kernels = tuple(Rewriter(seed).kernel(k) for k in program.kernels)
        other = replace(program, name="other", kernels=kernels)
        check_program(replace(other, placements=tuple(type(p)() for p in other.placements)))
        assert normal_form(other) == text


CHANGES = {
    r" < ": lambda m: " <= ",
    r"(?<![\w.])\d+(?![\w.])": lambda m: str(int(m[0]) + 1),
    r"\bp0\b": lambda m: "p1",
    r" else [-\w.+]+$": lambda m: "",
    r" \+ \w+\b": lambda m: "",
    r" over (\w+)$": lambda m: m[0],
    r"\badd (\w+) (\w+)": lambda m: f"sub {m[1]} {m[2]}",
    r"\bsub (\w+) (\w+)": lambda m: f"sub {m[2]} {m[1]}",
    r"\bmax\b": lambda m: "min",
    r"\bsum\b": lambda m: "max",
}


def mutants(text, rng, count):
    lines = text.splitlines()
    for _ in range(count):
        pattern = rng.choice(list(CHANGES))
        body = lines.index("  body")
        at = rng.randrange(body, len(lines))
        found = list(re.finditer(pattern, lines[at]))
        if found and " because " not in lines[at]:
            m = rng.choice(found)
            line = lines[at][: m.start()] + CHANGES[pattern](m) + lines[at][m.end() :]
            yield "\n".join([*lines[:at], line, *lines[at + 1 :]])


@pytest.mark.parametrize("name", ["softmax", "matmul", "flat", "sum_dim0", "online", "running"])
def test_programs_with_one_form_compute_the_same(name):
    rng = Random(name)
    program = parse_program(PROGRAMS[name])
    form, seen = normal_form(program), 0
    sizes = {s: 3 + 2 * n for n, s in enumerate("BCDHKLMNRSVn") if s in PROGRAMS[name]}
    arrays = {
        b.name: np.random.default_rng(1).normal(size=[evaluate(e, sizes) for e in b.shape])
        for b in program.buffers()
        if b.role == "in"
    }

    def result(p):
        try:
            with np.errstate(all="ignore"):
                return run(p, sizes, arrays, {"eps": 0.1}, limit=30_000)
        except Trap as t:
            return t.kind

    wanted = result(program)
    for text in mutants(PROGRAMS[name], rng, 220):
        try:
            other = parse_program(text)
            check_program(other)
        except (ExprError, TileError):
            continue
        seen += 1
        if normal_form(other) == form:
            got = result(other)
            assert isinstance(got, dict) == isinstance(wanted, dict), text
            for n in wanted if isinstance(wanted, dict) else ():
                np.testing.assert_allclose(got[n], wanted[n], err_msg=text)
    assert seen > 15


HEAD = "program p\nsizes N\nkernel k\n  grid N\n  in X: f32[N]\n  out Y: f32[N]\n"
HEAD += (
    "  program S: f32[8]\n  program R: f32[8]\n  axis a = 8\n  axis b = 8\n  axis c = 64\n  body\n"
)


def form(*lines):
    return normal_form(parse_program(HEAD + "".join(f"    {x}\n" for x in lines)))


LOAD = "x: f32[a] = load X[a]"
STORE = "st: store Y[a] = y"
ONE = [
    # two ways to write one thing
    ([LOAD, "y: f32[a] = cast x", STORE],
     [LOAD, "w: f64[a] = cast x", "y: f32[a] = cast w", STORE]),
    (["x: f32[a, b] = load X[a * 8 + b]", "st: store Y[a * 8 + b] = x"],
     ["x: f32[a, b] = load X[a * 8 + b]", "s: f32[c] = view x at a = c // 8, b = c % 8",
      "y: f32[a, b] = view s at c = a * 8 + b", "st: store Y[a * 8 + b] = y"]),
    (["x: f32[a, b] = load X[a * 8 + b]", "s: f32[a] = reduce sum x over b",
      "t: f32 = reduce sum s over a", "st: store Y[0] = t"],
     ["x: f32[a, b] = load X[a * 8 + b]", "s: f32[b] = reduce sum x over a",
      "t: f32 = reduce sum s over b", "st: store Y[0] = t"]),
    ([LOAD, "m: bool[a] = index p0 + a < N", "z: f32 = full 0.0", "y: f32[a] = select m x z",
      STORE],
     [LOAD, "m: bool[a] = index N <= p0 + a", "z: f32 = full 0.0", "y: f32[a] = select m z x",
      STORE]),
    (["for i in 0 .. 8 by 1:", "  x: f32 = load X[3]", "  st: store Y[i] = x"],
     ["x: f32 = load X[3]", "for i in 0 .. 8 by 1:", "  st: store Y[i] = x"]),
    ([LOAD, "st: store Y[a] = x"], ["x: f32[b] = load X[b]", "st: store Y[b] = x"]),
    (["x: f32[a] = load X[a] if a < N else 0", "st: store Y[a] = x"],
     ["x: f32[a] = load X[a] if a < N else 0.0", "st: store Y[a] = x"]),
    (["x: f32 = full 0.1", "st: store Y[0] = x"],
     ["x: f32 = full 0.10000000149011612", "st: store Y[0] = x"]),
    ([LOAD, "s1: store S[a] = x", "y: f32[a] = load S[a]", STORE],
     [LOAD, "s1: store R[a] = x", "y: f32[a] = load R[a]", STORE]),
    ([LOAD, "y: f32[a] = sub x x", "for i in 5 .. 2 by 1:", "  st_1: store Y[a] = x", STORE],
     [LOAD, "y: f32[a] = sub x x", STORE]),
    # a selection inside another by the same condition, and functions of constants
    ([LOAD, "z: f32 = full 0.0", "c: bool[a] = lt x z", "u: f32[a] = neg x",
      "v: f32[a] = select c u x", "w: f32[a] = exp x", "y: f32[a] = select c v w", STORE],
     [LOAD, "z: f32 = full 0.0", "c: bool[a] = lt x z", "u: f32[a] = neg x", "w: f32[a] = exp x",
      "y: f32[a] = select c u w", STORE]),
    ([LOAD, "k: f32 = full 4.0", "r: f32 = sqrt k", "z: f32 = full -1.0", "m: f32 = max r z",
      "y: f32[a] = mul x m", STORE],
     [LOAD, "k: f32 = full 2.0", "y: f32[a] = mul x k", STORE]),
    # what is never read, what a branch was taken for, a rounding to the type of memory
    ([LOAD, "u: f32[a] = load X[a] if false else 2.0", "y: f32[a] = mul x u", STORE],
     [LOAD, "u: f32 = full 2.0", "y: f32[a] = mul x u", STORE]),
    ([LOAD, "if N < 9:", "  t: f32 = index N", "  y: f32[a] = mul x t",
      "  st: store Y[a] if N < 9 and a < N = y"],
     [LOAD, "if N < 9:", "  t: f32 = index N", "  y: f32[a] = mul x t",
      "  st: store Y[a] if a < N = y"]),
]  # fmt: skip
TWO = [
    # what stays apart
    ([LOAD, "st: store Y[a] = x"], ["x: f32[a] = load X[7 - a]", "st: store Y[a] = x"]),
    (["x: f32[a, b] = load X[a * 8 + b]", "st: store Y[a * 8 + b] = x"],
     ["x: f32[a, b] = load X[a * 8 + b]", "st: store Y[b * 8 + a] = x"]),
    (["for i in 0 .. N by 1:", "  x: f32 = load X[3]", "  st: store Y[i] = x"],
     ["x: f32 = load X[3]", "for i in 0 .. N by 1:", "  st: store Y[i] = x"]),
    (["if p0 < 3:", "  x: f32 = load X[9]", "  st: store Y[0] = x"],
     ["x: f32 = load X[9]", "if p0 < 3:", "  st: store Y[0] = x"]),
    ([LOAD, "st: store Y[a] = x"], [LOAD, "z: f32 = load X[99]", "st: store Y[a] = x"]),
    ([LOAD, "st: store S[a] = x", "y: f32[a] = load S[a]", "st_1: store S[7 - a] = x",
      "st_2: store Y[a] = y"],
     [LOAD, "st: store S[a] = x", "st_1: store S[7 - a] = x", "y: f32[a] = load S[a]",
      "st_2: store Y[a] = y"]),
    (["z: f32 = full 0.0", "st: store S[0] = z", "for i in 0 .. 4 by 1:",
      "  x: f32 = load S[0]", "  st_1: store Y[i] = x", "  o: f32 = full 1.0",
      "  st_2: store S[0] = o"],
     ["z: f32 = full 0.0", "st: store S[0] = z", "x: f32 = load S[0]", "for i in 0 .. 4 by 1:",
      "  st_1: store Y[i] = x", "  o: f32 = full 1.0", "  st_2: store S[0] = o"]),
    (["x: f32[a, b] = load X[a * 8 + b]", "s: f32[a, b] = scan sum x over b",
      "st: store Y[a * 8 + b] = s"],
     ["x: f32[a, b] = load X[a * 8 + b]", "s: f32[a, b] = scan sum x over a",
      "st: store Y[a * 8 + b] = s"]),
    (["x: f32[a, b] = load X[a * 8 + b]",
      "for i in 0 .. 3 by 1 carry s = x -> r:", "  t: f32[a, b] = exp s", "  next t",
      "st: store Y[a * 8 + b] = r"],
     ["x: f32[a, b] = load X[a * 8 + b]",
      "for i in 0 .. 3 by 1 carry s = x -> r:", "  u: f32[b, a] = exp s",
      "  t: f32[a, b] = view u at a = b, b = a", "  next t", "st: store Y[a * 8 + b] = r"]),
    (["x: f32[a] = load X[a] if a < N else 0.0", "st: store Y[a] = x"],
     ["x: f32[a] = load X[a] if a < N", "st: store Y[a] = x"]),
    ([LOAD, "w: bf16[a] = cast x", "y: f32[a] = cast w", STORE],
     [LOAD, "w: bf16[a] = round x", "y: f32[a] = cast w", STORE]),
    (["x: f32 = full 0.1", "st: store Y[0] = x"],
     ["x: f32 = full 0.1000001", "st: store Y[0] = x"]),
    ([LOAD, "s1: store S[a] = x", "s2: store R[7 - a] = x", "y: f32[a] = load S[a]", STORE],
     [LOAD, "s1: store S[a] = x", "s2: store R[7 - a] = x", "y: f32[a] = load R[a]", STORE]),
]  # fmt: skip


@pytest.mark.parametrize("number", range(len(ONE)))
def test_two_ways_to_write_one_program(number):
    a, b = ONE[number]
    assert form(*a) == form(*b)


@pytest.mark.parametrize("number", range(len(TWO)))
def test_different_programs_stay_apart(number):
    a, b = TWO[number]
    assert form(*a) != form(*b)


def test_facts_and_order_of_effects_are_part_of_it():
    program = parse_program(foreign.FLAT)
    assert normal_form(program) != normal_form(replace(program, facts=()))
    block = (replace(program.kernels[0], order="statement"),)
    assert normal_form(program) == normal_form(replace(program, kernels=block))  # nothing meets
    twice = (replace(program.kernels[0], body=program.kernels[0].body * 2),)
    both = (replace(twice[0], order="statement"),)
    again = replace(program, kernels=twice)
    assert normal_form(again) != normal_form(replace(program, kernels=both))
    assert normal_form(program) == normal_form(replace(program, assumes=("anything",)))
    assert isinstance(program, TileProgram)
