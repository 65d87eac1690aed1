"""Random numbers of kernels: what is printed reads back as the rows that it was printed from, gives
the same numbers, and no other generator is taken for it."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

pytest.importorskip("triton")

from opwright.backends.triton.frontend import to_ttir_many
from opwright.backends.triton.importer import import_program
from opwright.backends.triton.importer_random import Words, draws
from opwright.backends.triton.plan import make_plan, print_for
from opwright.backends.triton.run import interpret
from opwright.backends.triton.ttir import parse
from opwright.compiler.block_spaces import spaces
from opwright.compiler.elaborate import parse_spec
from opwright.ir.launch import bind_plan
from opwright.ir.normal import normal_form
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.ir.tile import Def, statements

NOISE = """\
opwright "0.1"

op noise @ 1.0 "Noise on a matrix." {
  dims  B, N
  type  T in {f32}
  param seed: i64 = 0
  input x: T[B, N]
  output y: T[B, N], z: T[B, N]

  def {
    y[b, j] = x[b, j] + randn(seed, b * N + j)
    z[b, j] = if rand(seed, j) < 0.5 then x[b, j] else rand(seed, b * N + j)
  }
}
"""


@cache
def noise() -> Operator:
    return parse_spec(NOISE).operator()


def printed(n: int) -> tuple[object, str, object]:
    op = noise()
    space = spaces(op)[n]
    program = space.instantiate(space.preferred()[0])
    return program, print_for(program, op), bind_plan(make_plan(program, op, "sm_90"), op)


@pytest.mark.parametrize("n", range(len(spaces(noise()))))
def test_rows_read_back(n):
    program, source, bound = printed(n)
    found = import_program(source, bound, "kernel.py")
    assert normal_form(found) == normal_form(program)
    rows = {s.value.op for k in found.kernels for s in statements(k.body) if isinstance(s, Def)}
    assert {"rand", "randn"} <= rows and "opaque" not in rows


@pytest.mark.parametrize("n", range(len(spaces(noise()))))
def test_the_interpreter_draws_the_numbers_of_the_spec(n):
    _, source, bound = printed(n)
    x = np.linspace(-1, 1, 6 * 16).astype(np.float32).reshape(6, 16)
    sizes, params = {"B": 6, "N": 16}, {"seed": -(2**40) + 7}
    made = interpret(source, bound, {"x": x}, sizes, params)
    wanted = reference(noise(), {"x": x.astype(np.float64)}, params, sizes)
    for name in ("y", "z"):
        assert np.allclose(made[name], wanted[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tl.philox(seed, a, b, c, a * 0)", "tl.philox(seed, a, b, c, a * 0, 9)"),
        ("tl.philox(seed, a, b, c, a * 0)", "tl.philox(seed, a, b, c, a * 0 + 1)"),
        ("tl.philox(seed, a, b, c, a * 0)", "tl.philox(seed, b, a, c, a * 0)"),
        ("(position >> 32)", "(position >> 31)"),
        ("a >> 8", "b >> 8"),
        ("a >> 8", "a >> 9"),
        ("* 5.9604644775390625e-08", "* 5.9604641e-08"),
    ],
)
def test_another_generator_is_none(old, new):
    _, source, bound = printed(0)
    changed = source.replace(old, new)
    assert changed != source
    found = []
    for text in to_ttir_many(changed, "kernel.py", bound.launches, "sm_90"):
        found += [d.row for d in draws(parse(text, "kernel.py")[0])[0].values()]
    assert "rand" not in found


@pytest.mark.parametrize("stream", [None, 0, 3])
@pytest.mark.parametrize("seed", [None, (5, 7)])
def test_words_lead_back_to_what_they_came_from(stream, seed):
    w = Words()
    key = (w.leaf("lower", "s"), w.leaf("upper", "s"))
    if seed is not None:
        key = (w.constant(seed[0]), w.constant(seed[1]))
    third = w.leaf("lower", "t") if stream is None else w.constant(stream)
    counter = (w.leaf("lower", "p"), w.leaf("upper", "p"), third, w.constant(0))
    words = w.philox(key, counter)
    before = w.factor(words[1], "low", 0xCD9E8D57)
    assert before is not None and w.origin(before) == (key, counter)
