"""Every strategy's programs mean what the spec means: interpreter against reference, odd sizes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from opwright.compiler.elaborate import elaborate
from opwright.compiler.spaces import spaces
from opwright.grammar.parser import parse
from opwright.ir.dtypes import decode, encode
from opwright.ir.interpreter import run
from opwright.ir.op import Operator
from opwright.ir.reference import reference
from opwright.ir.tilecheck import check_program
from opwright.ir.tiletext import parse_program, show_program
from opwright.search.space import IllegalSchedule, Schedule, Space

SPEC = Path(__file__).parent / "data" / "shapes.op"
RNG = np.random.default_rng(7)
SIZES: dict[str, list[dict[str, int]]] = {
    "tempered": [{"A": 2, "B": 3, "N": 37}, {"A": 1, "B": 1, "N": 1}],
    "over_rows": [{"R": 5, "C": 19}, {"R": 3, "C": 130}],
    "moments": [{"B": 3, "N": 70}],
    "columns": [{"R": 67, "C": 9}, {"R": 0, "C": 3}],
    "best": [{"B": 3, "N": 37}],
    "running": [{"B": 2, "N": 9}, {"B": 2, "N": 0}],
    "scan_state": [{"B": 3, "N": 7}],
    "cell": [{"B": 2, "T": 3, "H": 4}],
    "lookup": [{"V": 5, "D": 20, "N": 6}],
    "window": [{"N": 2, "C": 3, "H": 7, "K": 2, "R": 3}],
    "masked_rows": [{"H": 2, "Sq": 3, "Skv": 5, "D": 4}],
    "ranked": [{"B": 2, "N": 7, "K": 3}],
    "scattered": [{"V": 5, "D": 3, "N": 9}],
    "turned": [{"M": 5, "N": 11}],
    "halves": [{"B": 2, "N": 10}],
    "entropy": [{"B": 4, "V": 21}],
    "batched": [{"A": 2, "B": 2, "M": 3, "N": 5, "K": 4}],
    "prologue": [{"M": 3, "N": 17, "K": 5}, {"M": 2, "N": 3, "K": 0}],
    "matvec": [{"M": 4, "K": 9}],
    "total": [{"A": 2, "B": 3, "C": 4}],
    "integers": [{"N": 21}],
    "pieces": [{"B": 2, "M": 3, "N": 6}],
    "segments": [{"R": 4, "Z": 6, "D": 5, "C": 7}],
    "distance": [{"M": 4, "N": 5, "K": 3}],
    "rounding": [{"N": 19}],
}
FREE = {"window": {"K": 2, "R": 3}, "ranked": {"K": 3}, "scattered": {"V": 5}}


@cache
def operator(name: str) -> Operator:
    text = SPEC.read_text()
    return elaborate(parse(text, SPEC.name), name, filename=SPEC.name, source=text)


def inputs(op: Operator, sizes: dict[str, int]) -> dict[str, np.ndarray]:
    """Values as the types hold them; index inputs obey the specs' requirements."""
    from opwright.ir.expr import evaluate

    out = {}
    for t in op.inputs:
        shape = tuple(int(evaluate(s, sizes)) for s in t.shape)
        if t.name == "ids":
            out[t.name] = RNG.integers(0, sizes["V"], shape)
        elif t.name == "t":
            out[t.name] = RNG.integers(0, sizes["V"], shape)
        elif t.name == "col":
            out[t.name] = RNG.integers(0, sizes["C"], shape)
        elif t.name == "ptr":
            cuts = np.sort(RNG.integers(0, sizes["Z"] + 1, shape[0] - 1))
            out[t.name] = np.concatenate([[0], cuts])
        elif t.kind == "int":
            out[t.name] = RNG.integers(-9, 9, shape)
        else:
            out[t.name] = decode(encode(RNG.standard_normal(shape) * 3, t.dtype), t.dtype)
    return out


def programs(op: Operator, count: int) -> Iterator[tuple[Space, Schedule]]:
    from random import Random

    for space in spaces(op, 8):
        chosen = space.preferred()
        rng = Random(3)
        chosen += [space.sample(rng) for _ in range(count)]
        for schedule in dict.fromkeys(chosen):
            yield space, schedule


@pytest.mark.parametrize("name", sorted(SIZES))
def test_every_schedule_means_the_spec(name: str) -> None:
    op = operator(name)
    ran = 0
    for sizes in SIZES[name]:
        arrays = inputs(op, sizes)
        free = {k: v for k, v in sizes.items() if k in op.free_sizes}
        want = reference(op, arrays, {}, free)
        params = default_params(op, sizes)
        for space, schedule in programs(op, 3):
            try:
                program = space.instantiate(schedule)
            except IllegalSchedule:
                continue
            check_program(program)
            text = show_program(program)
            assert show_program(parse_program(text)) == text
            got = run(program, sizes, arrays, params, dense_strides(op, sizes))
            for k, v in want.items():
                rounds = 1e-2 if op.tensor(k).dtype.bits < 32 else 1e-9
                np.testing.assert_allclose(
                    np.reshape(got[k], np.shape(v)),
                    v,
                    rtol=rounds,
                    atol=rounds,
                    err_msg=f"{k} by {schedule} at {sizes}",
                )
            ran += 1
    assert ran >= len(SIZES[name])


def default_params(op: Operator, sizes: dict[str, int]) -> dict[str, float]:
    from opwright.ir.expr import evaluate

    env: dict[str, float] = dict(sizes)
    for p in op.params:
        assert p.default is not None
        env[p.name] = evaluate(p.default, env)
    return {p.name: env[p.name] for p in op.params}


def dense_strides(op: Operator, sizes: dict[str, int]) -> dict[tuple[str, int], int]:
    from opwright.ir.expr import evaluate
    from opwright.ir.tile import row_major

    env = {**sizes, **default_params(op, sizes)}
    return {
        (t.name, n): int(evaluate(e, env))
        for t in (*op.inputs, *op.outputs)
        for n, e in enumerate(row_major(t.shape))
    }


def test_loops_of_a_schedule_do_not_catch_what_a_fold_binds() -> None:
    """A fold inside every lane binds the names that schedules give their own loops."""
    text = (
        'opwright "0.1"\nop caught @ 1.0 { dims N, C, Z input x: f32[N, C, Z] output y: f32[C]'
        " output w: f32[N, C, Z] def { m[c] = sum[n: N, z: Z](x[n, c, z]) y[c] = m[c]"
        " w[n, c, z] = x[n, c, z] - m[c] } }"
    )
    op = elaborate(parse(text, "caught.op"), None, filename="caught.op", source=text)
    sizes = {"N": 3, "C": 35, "Z": 2}
    arrays = inputs(op, sizes)
    wanted = reference(op, arrays, {}, {})
    assert any(space.name.startswith("inner") for space in spaces(op, 8))
    for space, schedule in programs(op, 4):
        got = run(space.instantiate(schedule), sizes, arrays, {}, dense_strides(op, sizes))
        for name, x in wanted.items():
            np.testing.assert_allclose(got[name], x, rtol=1e-4, atol=1e-4, err_msg=schedule.text)
