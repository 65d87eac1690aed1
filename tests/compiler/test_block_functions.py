"""Functions that devices lack are written out to the last digits of f64: a wrong digit shows."""

from __future__ import annotations

import numpy as np

from opwright.compiler.block_spaces import spaces
from opwright.compiler.elaborate import parse_spec
from opwright.ir.interpreter import run
from opwright.ir.reference import reference

# function, where it is taken, and the largest relative error
RANGES = {
    "tanh": (-4.0, 4.0), "sinh": (-4.0, 4.0), "cosh": (-4.0, 4.0), "atan": (-9.0, 9.0),
    "asin": (-0.99, 0.99), "acos": (-0.99, 0.99), "expm1": (-2.0, 2.0), "log1p": (-0.9, 9.0),
    "tan": (-1.5, 1.5), "sigmoid": (-9.0, 9.0), "erf": (-3.0, 3.0),
}  # fmt: skip
LIMIT = 2e-14


def test_functions_written_out_are_exact_to_the_last_digits() -> None:
    names = ", ".join(f"x_{n}: f64[N]" for n in RANGES)
    outs = ", ".join(f"y_{n}: f64[N]" for n in RANGES)
    body = "\n".join(f"    y_{n}[i] = {n}(x_{n}[i])" for n in RANGES)
    where = "\n".join(
        f"  requires r_{n}: all[i: N]({a} <= x_{n}[i] and x_{n}[i] <= {b})"
        for n, (a, b) in RANGES.items()
    )
    text = f'opwright "0.1"\nop f @ 1.0 {{\n  dims N\n  input {names}\n  output {outs}\n'
    op = parse_spec(f"{text}  def {{\n{body}\n  }}\n{where}\n}}\n").operator()
    rng = np.random.default_rng(7)
    inputs = {f"x_{n}": rng.uniform(*r, 400) for n, r in RANGES.items()}
    for x in inputs.values():
        x[:100] *= 0.1  # near zero, where what cancels shows
    wanted = reference(op, inputs)
    space = spaces(op)[0]
    program = space.instantiate(space.preferred()[0])
    found = run(program, {"N": 400}, inputs)
    for n in RANGES:
        error = np.abs(found[f"y_{n}"] / wanted[f"y_{n}"] - 1)
        assert error.max() < LIMIT, f"{n} at {inputs[f'x_{n}'][int(error.argmax())]}: {error.max()}"
