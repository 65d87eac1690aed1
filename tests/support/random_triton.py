"""Random small Triton kernels, and what two interpreters make of them: Triton's own, and that of
tile programs on what the importer reads. `python -m support.random_triton SEED COUNT` for more.

A kernel reads `x` (multiples of 1/8, so that sums and casts are exact), `k` (small integers of both
signs) and `n` (of one row), and writes `y` and `z` (elements), `s` and `t` (a number of each row).
"""

from __future__ import annotations

import sys
from dataclasses import replace
from random import Random
from typing import Any

import numpy as np

from opwright.backends.triton.frontend import to_ttir_many
from opwright.backends.triton.importer import import_program
from opwright.backends.triton.run import Interpreter, RunError
from opwright.compiler.elaborate import parse_spec
from opwright.ir.interpreter import run
from opwright.ir.interpreter_state import Trap
from opwright.ir.launch import BoundPlan, ImportRefusal, bind_plan
from opwright.ir.plan import from_json
from opwright.ir.tile import TileProgram
from opwright.ir.tileops import guesses

SPEC = """opwright "0.1"

op anything @ 1.0 {
  dims  B, N
  where B <= 64, N <= 64
  input x: f32[B, N], k: i32[B, N], n: i32[N]
  output y: f32[B, N], z: i32[B, N], s: f32[B], t: i32[B]
  def {
    y[b, j] = x[b, j]
    z[b, j] = k[b, j]
    s[b] = sum.f32[j: N](x[b, j])
    t[b] = sum[j: N](n[j])
  }
}
"""
CLEAR = """
@triton.jit
def clear(y, z, s, t, N, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    tl.store(y + row * N + cols, 0.0, mask=cols < N)
    tl.store(z + row * N + cols, 0, mask=cols < N)
    tl.store(s + row, 0.0)
    tl.store(t + row, 0)
"""
HEAD = "import triton\nimport triton.language as tl\n\n" + CLEAR
ARGS = ["x", "k", "n", "y", "z", "s", "t", "i32(B)", "i32(N)"]
BLOCKS = (16, 32, 64)
SIZES = ({"B": 3, "N": 5}, {"B": 2, "N": 17}, {"B": 4, "N": 33})


class Kernel:
    """Writes one kernel, statement by statement."""

    def __init__(self, name: str, rng: Random) -> None:
        self.name, self.rng = name, rng
        self.lines: list[str] = []
        self.reals = ["x0"]  # tiles of any value within a few units
        self.exact = ["x0"]  # tiles of multiples of 1/8
        self.ints = ["k0", "n0", "cols"]
        self.count = 0
        self.pad = "    "

    def say(self, line: str) -> None:
        self.lines.append(self.pad + line)

    def let(self, text: str, into: list[str]) -> str:
        self.count += 1
        name = f"v{self.count}"
        self.say(f"{name} = {text}")
        into.append(name)
        return name

    def pick(self, names: list[str]) -> str:
        return self.rng.choice(names)

    def condition(self) -> str:
        c = self.rng.choice(
            [
                f"{self.pick(self.exact)} {self.rng.choice('< <= > >='.split())} "
                f"{self.rng.choice((-1.0, 0.0, 0.5))}",
                f"{self.pick(self.ints)} {self.rng.choice('< <= > >= == !='.split())} "
                f"{self.rng.randint(-4, 4)}",
                f"{self.pick(self.ints)} < {self.pick(self.ints)}",
            ]
        )
        if self.rng.random() < 0.3:
            word = self.rng.choice("&|^")
            return f"(({c}) {word} ({self.pick(self.ints)} > {self.rng.randint(-3, 3)}))"
        return f"({c})"

    def integer(self) -> None:
        r = self.rng
        a, b = self.pick(self.ints), self.pick(self.ints)
        d = r.choice((2, 3, 4, 7, 8, -2, -3, -5, -8))
        made = r.choice(
            [
                f"{a} + {b}", f"{a} - {b}", f"{a} * {r.randint(-5, 5)}", f"{a} // {d}",
                f"{a} % {d}", f"({a} - {abs(d)}) % {abs(d)}", f"({a} - 9) // {abs(d)}",
                f"{a} & {r.choice((1, 3, 7, 12, -4))}", f"{a} | {r.choice((1, 4, 6))}",
                f"{a} ^ {r.choice((1, 5, -1))}", f"{a} << {r.randint(0, 3)}",
                f"{a} >> {r.randint(0, 4)}", f"-{a}", f"tl.abs({a})", f"~{a}",
                f"tl.minimum({a}, {b})", f"tl.maximum({a}, {r.randint(-4, 4)})",
                f"tl.where({self.condition()}, {a}, {b})", f"{self.condition()}.to(tl.int32)",
                f"({self.pick(self.exact)} * {r.choice((1.0, 2.0, 0.5))}).to(tl.int32)",
                f"tl.floor({self.pick(self.exact)} * 0.5).to(tl.int32)",
                f"tl.ceil({self.pick(self.exact)}).to(tl.int32)",
                f"({a} & 63).to(tl.int8).to(tl.int32)", f"({a}).to(tl.int64).to(tl.int32)",
                f"({a} & 255).to(tl.uint8).to(tl.int32)",
                f"(({a} & 1023).to(tl.uint32) >> {r.randint(0, 3)}).to(tl.int32)",
                f"(({a} & 1023).to(tl.uint32) // 3).to(tl.int32)",
                f"tl.where({a} < 0, -1, tl.where({a} > 3, 2, {b}))",
            ]
        )  # fmt: skip
        wide = self.let(made, [])
        self.let(f"tl.minimum(tl.maximum({wide}, -1000), 1000)", self.ints)

    def real(self) -> None:
        r = self.rng
        a, b = self.pick(self.reals), self.pick(self.reals)
        made = r.choice(
            [
                f"{a} + {b}", f"{a} - {b}", f"{a} * {b}", f"{a} / (1.0 + {b} * {b})",
                f"tl.exp(-tl.abs({a}))", f"tl.exp2(-tl.abs({a}))", f"tl.log(1.0 + tl.abs({a}))",
                f"tl.sqrt(tl.abs({a}))", f"tl.sin({a})", f"tl.cos({a})",
                f"tl.rsqrt(1.0 + {a} * {a})",
                f"tl.sigmoid({a})", f"tl.minimum({a}, {b})", f"tl.maximum({a}, 0.5)", f"-{a}",
                f"tl.where({self.condition()}, {a}, {b})", f"{self.pick(self.ints)}.to(tl.float32)",
                f"tl.fma({a}, {b}, 0.25)", f"tl.erf({a})", f"tl.clamp({a}, -1.0, 1.5)",
                f"{a} * {self.pick(self.ints)}", f"tl.abs({a})", f"tl.log2(1.5 + tl.abs({a}))",
            ]
        )  # fmt: skip
        wide = self.let(made, [])
        self.let(f"tl.minimum(tl.maximum({wide}, -4.0), 4.0)", self.reals)

    def rounded(self) -> None:
        a = self.pick(self.exact)
        d = self.rng.choice((f"tl.floor({a})", f"tl.ceil({a})", f"{a} * 2.0", f"{a} - 0.5",
                             f"tl.where({self.condition()}, {a}, -{a})"))  # fmt: skip
        found = self.let(f"tl.minimum(tl.maximum({d}, -16.0), 16.0)", self.exact)
        self.reals.append(found)

    def scalar(self) -> None:
        """A reduction over the row, joined to every element."""
        r = self.rng
        if r.random() < 0.5:
            a = self.pick(self.reals)
            zero = r.choice(
                [("tl.sum", "0.0"), ("tl.max", "-100.0"), ("tl.min", "100.0")]
            )  # masked lanes do not count
            one = self.let(f"{zero[0]}(tl.where(live, {a}, {zero[1]}), axis=0)", [])
            self.let(f"{self.pick(self.reals)} * 0.25 + {one} * 0.125", self.reals)
            self.totals.append(one)
        else:
            a = self.pick(self.ints)
            what, zero = r.choice(
                [("tl.sum", "0"), ("tl.max", "-2000"), ("tl.min", "2000"), ("tl.xor_sum", "0")]
            )
            one = self.let(f"{what}(tl.where(live, {a}, {zero}), axis=0)", [])
            self.let(f"({self.pick(self.ints)} + {one}) % 97", self.ints)
            self.counts.append(one)

    def scanned(self) -> None:
        r = self.rng
        a = self.pick(self.ints)
        turned = r.choice(("", ", reverse=True"))
        one = self.let(f"tl.cumsum(tl.where(live, {a}, 0), axis=0{turned})", [])
        self.let(f"{one} % 101", self.ints)

    def place(self) -> None:
        a = self.pick(self.ints)
        what = self.rng.choice(("argmax", "argmin"))
        zero = {"argmax": "-2000", "argmin": "2000"}[what]
        one = self.let(f"tl.{what}(tl.where(live, {a}, {zero}), axis=0)", [])
        self.counts.append(one)

    def loop(self) -> None:
        """A loop with carried tiles, and one that goes over the row."""
        r = self.rng
        acc = self.let("tl.zeros([BLOCK], tl.float32)", [])
        cnt = self.let("tl.zeros([BLOCK], tl.int32)", [])
        some = r.randint(2, 6)
        way = r.choice(
            (f"range({some})", "range(0, N, 8)", f"range(1, {some})", "range(N // 7)",
             "range(6, -1, -2)")
        )  # fmt: skip
        a, b = self.pick(self.reals), self.pick(self.ints)
        self.say(f"for i{self.count} in {way}:")
        i = f"i{self.count}"
        if r.random() < 0.5:
            self.say(f"    {acc} = {acc} * 0.5 + {a} * (i{self.count} + 1) * 0.125")
        else:
            self.say(f"    {acc} = tl.maximum({acc}, {a} - {i} * 0.25)")
        self.say(f"    {cnt} = ({cnt} * 3 + {b} + {i}) % 251")
        if r.random() < 0.4:
            self.say(f"    if {i} % 2 == 0:")
            self.say(f"        {cnt} = {cnt} + 1")
        self.let(f"tl.minimum(tl.maximum({acc}, -4.0), 4.0)", self.reals)
        self.ints.append(cnt)

    def square(self) -> None:
        """A tile of two axes made of the row, reduced along one of them."""
        r = self.rng
        a, b = self.pick(self.ints), self.pick(self.exact)
        two = self.let(f"{a}[:, None] * 2 - {self.pick(self.ints)}[None, :]", [])
        real = self.let(f"tl.where({two} > 0, {b}[:, None], {b}[None, :] * 0.5)", [])
        both = "(live[:, None] & live[None, :])"
        axis = r.randint(0, 1)
        turned = f"tl.trans({two})" if r.random() < 0.3 else two
        one = self.let(f"tl.sum(tl.where({both}, {turned}, 0), axis={axis})", [])
        self.let(f"{one} % 89", self.ints)
        top = self.let(f"tl.max(tl.where({both}, {real}, -50.0), axis={1 - axis})", [])
        self.let(f"tl.where(live, {top}, 0.0) * 0.125", self.reals)

    def dot(self) -> None:
        a, b = self.pick(self.exact), self.pick(self.exact)
        left = self.let(f"{a}[:, None] + {b}[None, :] * 0.5", [])
        right = self.let(f"tl.where(live[:, None] & live[None, :], {b}[:, None] - 0.25, 0.0)", [])
        made = self.let(f'tl.dot({left}, {right}, input_precision="ieee")', [])
        one = self.let(f"tl.sum({made}, axis={self.rng.randint(0, 1)})", [])
        self.let(f"tl.minimum(tl.maximum({one} * 0.001, -4.0), 4.0)", self.reals)

    def branch(self) -> None:
        r = self.rng
        name = self.let(self.pick(self.ints), [])
        self.say(f"if {r.choice(('row % 2 == 1', 'N > 8', 'row > 0'))}:")
        self.say(f"    {name} = {name} + {r.randint(1, 9)}")
        if r.random() < 0.6:
            self.say("else:")
            self.say(f"    {name} = {self.pick(self.ints)} - 2")
        self.ints.append(name)

    def gathered(self) -> None:
        """An element that an index names."""
        at = self.let(f"tl.abs({self.pick(self.ints)}) % N", [])
        self.let(f"tl.load(k + row * N + {at})", self.ints)

    def text(self) -> str:
        r = self.rng
        self.totals: list[str] = []
        self.counts: list[str] = []
        for line in (
            "row = tl.program_id(0)",
            "cols = tl.arange(0, BLOCK)",
            "live = cols < N",
            "x0 = tl.load(x + row * N + cols, mask=live, other=0.0)",
            "k0 = tl.load(k + row * N + cols, mask=live, other=1)",
            "n0 = tl.load(n + cols, mask=live, other=2)",
        ):
            self.say(line)
        steps = [self.integer] * 5 + [self.real] * 4 + [self.rounded] * 2 + [self.scalar] * 2
        steps += [self.scanned, self.place, self.loop, self.loop, self.square, self.dot]
        steps += [self.branch, self.gathered]
        for _ in range(r.randint(5, 11)):
            r.choice(steps)()
        self.say(f"tl.store(y + row * N + cols, {self.reals[-1]}, mask=live)")
        self.say(f"tl.store(z + row * N + cols, {self.ints[-1]}, mask=live)")
        if self.totals:
            if r.random() < 0.5:
                self.say(f"tl.atomic_add(s + row // 2, {self.totals[-1]})")
            else:
                self.say(f"tl.store(s + row, {self.totals[-1]})")
        if self.counts:
            way = r.choice(("add", "max", "min", ""))
            if way:
                self.say(f"tl.atomic_{way}(t + row // 2, {self.counts[-1]})")
            else:
                self.say(f"tl.store(t + row, {self.counts[-1]})")
        head = f"\n@triton.jit\ndef {self.name}(x, k, n, y, z, s, t, B, N, BLOCK: tl.constexpr):\n"
        return head + "\n".join(self.lines) + "\n"


def module(seeds: list[int]) -> tuple[str, dict[str, Any]]:
    """The text of kernels by seed, and a plan that launches each after one that clears."""
    texts, launches = [HEAD], []
    for seed in seeds:
        rng = Random(seed)
        name = f"kernel_{seed}"
        texts.append(Kernel(name, rng).text())
        block = {"BLOCK": 64 if rng.random() < 0.7 else 128}
        launches.append(
            {"kernel": "clear", "grid": ["B"], "args": ["y", "z", "s", "t", "i32(N)"],
             "const": {"BLOCK": 64}}
        )  # fmt: skip
        launches.append({"kernel": name, "grid": ["B"], "args": ARGS, "const": block})
    facts = [f"stride({b}, 0) == N" for b in ("x", "k", "y", "z")]
    facts += [f"stride({b}, 1) == 1" for b in ("x", "k", "y", "z")]
    facts += [f"stride({b}, 0) == 1" for b in ("n", "s", "t")]
    plan = {"abi": 1, "op": "anything@1.0", "target": "sm_90", "backend": "triton",
            "source": "kernel.py", "facts": facts, "launches": launches}  # fmt: skip
    return "\n".join(texts), plan


def differences(seeds: list[int]) -> dict[int, str]:
    """What came of each seed: "" where both interpreters agree, else where they do not, or why a
    kernel was left out ("- reason")."""
    op = parse_spec(SPEC).operator()
    text, data = module(seeds)
    whole = bind_plan(from_json(data), op)
    to_ttir_many(text, "kernel.py", whole.launches, "sm_90")  # all from one process
    out = {}
    with Interpreter(text, whole) as runner:
        for n, seed in enumerate(seeds):
            launches = whole.launches[2 * n : 2 * n + 2]
            plan = replace(whole.plan, launches=whole.plan.launches[2 * n : 2 * n + 2])
            bound = replace(whole, plan=plan, launches=launches)
            out[seed] = compared(text, bound, runner, seed)
    return out


def compared(text: str, bound: BoundPlan, runner: Interpreter, seed: int) -> str:
    try:
        program = import_program(text, bound, "kernel.py", zero_fill=True)
    except ImportRefusal as e:
        return f"- {e}"
    if guesses(program):
        return "- an operation has a guessed meaning: " + str(next(iter(guesses(program))).attr)
    runner.bound = bound
    rng = np.random.default_rng(seed)
    for sizes in SIZES:
        b, n = sizes["B"], sizes["N"]
        arrays = {
            "x": (rng.integers(-32, 33, (b, n)) / 8).astype(np.float32),
            "k": rng.integers(-9, 10, (b, n)).astype(np.int32),
            "n": rng.integers(-9, 10, n).astype(np.int32),
        }
        found = one(program, runner, sizes, arrays)
        if found:
            return found
    return ""


def one(
    program: TileProgram, runner: Interpreter, sizes: dict[str, int], arrays: dict[str, Any]
) -> str:
    try:
        theirs = runner.run(arrays, sizes)
    except RunError as e:
        return f"- Triton's interpreter: {e}"
    kinds = {"x": np.float64, "k": np.int64, "n": np.int64}
    try:
        ours = run(program, sizes, {k: v.astype(kinds[k]) for k, v in arrays.items()})
    except Trap as e:
        return f"- {e}" if e.kind == "wrap" else f"{sizes}: {e}"
    for name in ("y", "z", "s", "t"):
        a, b = np.asarray(theirs[name], np.float64), np.asarray(ours[name], np.float64)
        near = np.isclose(a, b, rtol=2e-4, atol=2e-4) if name in "ys" else a == b
        if not near.all():
            at = tuple(int(i) for i in np.argwhere(~near)[0])
            return f"{sizes}: {name}{list(at)} is {a[at]} in Triton's interpreter, {b[at]} in ours"
    return ""


def main(arguments: list[str]) -> int:
    first, count = (int(a) for a in (arguments or ["1000", "100"]))
    wrong = skipped = 0
    for begin in range(first, first + count, 20):
        seeds = list(range(begin, min(begin + 20, first + count)))
        for seed, said in differences(seeds).items():
            wrong += bool(said) and not said.startswith("- ")
            skipped += said.startswith("- ")
            if said:
                print(f"{seed}: {said}", flush=True)
    print(f"{count} kernels: {wrong} differ, {skipped} left out")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
