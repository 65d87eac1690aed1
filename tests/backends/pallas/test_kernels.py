"""Programs over whole blocks as Pallas texts: printed, read back, proved, interpreted; and texts
that are wrong in one place, which are not proved."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from support.shipped import SPECS

from opwright.backends.pallas.policy import check_policy
from opwright.compiler.candidates import Candidate
from opwright.compiler.elaborate import load_spec, parse_spec
from opwright.compiler.execution import execute
from opwright.compiler.importing import Static, static_gates
from opwright.compiler.package_spec import PackagedVariant
from opwright.compiler.pallas import packaged, texts
from opwright.ir.launch import ImportRefusal
from opwright.ir.op import Operator

pytest.importorskip("jax")

GATES = ("G0", "G1", "G2", "G3", "G5")
WHOLE = """opwright "0.1"

op scaled @ 1.0 "A whole number times an array." {
  dims  N
  param k: i64 = 2
  input x: f32[N]
  output y: f32[N]

  def {
    y[j] = x[j] * k
  }
}
"""


@cache
def spec(name: str) -> Operator:
    return load_spec(SPECS / f"{name}.op").operator()


@cache
def first(name: str) -> Candidate:
    return next(texts(spec(name), {}))[2]


def judged(name: str, source: str) -> Static:
    return static_gates(replace(first(name), source=source), spec(name), budget=20)


@pytest.mark.parametrize("name", ["nn/softmax", "nn/layernorm", "linalg/matmul", "nn/gelu"])
def test_printed_kernels_are_read_back_and_proved(name):
    c = first(name)
    static = static_gates(c, spec(name), budget=30)
    assert {g: static.gate(g) for g in GATES} == dict.fromkeys(GATES, "PROVED")
    assert c.program is None and "kernel.py sha256" in static.records[-1].subject


def test_the_interpreter_agrees_with_the_reference():
    c, op = first("nn/rmsnorm"), spec("nn/rmsnorm")
    found = execute(c, static_gates(c, op, budget=20), op, "portable", 0)
    assert all(r.status in ("TESTED", "PROVED") for r in found), found


# text, what it becomes, the gate that does not hold
WRONG = {
    "another row": ("lambda i: (i, 0)", "lambda i: (i + 1, 0)", "G2"),
    "too few programs": ("grid=(B,)", "grid=(B - 1,)", "G3"),
    "a slice past its block": ("n * 1024", "n * 1024 + 8", "G2"),
    "a block too small": ("(1, (N + 1023) // 1024 * 1024), lambda", "(1, 1024), lambda", "G2"),
    "no mask": ("jnp.where(t_6, t_5, 0.0)", "t_5", "G5"),
    "another operation": ("jnp.exp(t_9)", "jnp.exp2(t_9)", "G5"),
}


@pytest.mark.parametrize("which", sorted(WRONG))
def test_a_text_that_is_wrong_in_one_place_is_not_proved(which):
    old, new, gate = WRONG[which]
    source = first("nn/softmax").source
    assert old in source
    static = judged("nn/softmax", source.replace(old, new, 1))
    assert static.gate(gate) != "PROVED", which
    assert static.gate("G5") != "PROVED"


def test_lanes_past_the_end_of_an_array_are_undefined():
    source = first("nn/gelu").source
    start = source.index("jnp.where(")
    end = source.index("x_ref[...], 0.0)") + len("x_ref[...], 0.0)")
    loaded = source[:start] + "x_ref[...]" + source[end:]
    static = judged("nn/gelu", loaded)  # what is past the end is dropped when it is stored
    assert static.gate("G2") == "PROVED" and static.gate("G3") == "PROVED"
    rows = spec("reduce/row_sum")
    c = next(texts(rows, {}))[2]
    assert static_gates(c, rows, budget=20).gate("G5") == "PROVED"
    start, end = c.source.index("jnp.where("), c.source.index(", 0.0")
    inner = c.source.index("x_ref[")
    bare = c.source[:start] + c.source[inner:end] + c.source[c.source.index(")", end) + 1 :]
    bad = static_gates(replace(c, source=bare), rows, budget=20)
    assert bad.gate("G1") == "PROVED", bad.records
    assert bad.gate("G2") != "PROVED" or bad.gate("G3") != "PROVED"


@pytest.mark.parametrize(
    ("name", "said"),
    [("nn/embedding", "comes from data"), ("conv/conv1d", "step by one element"),
     ("pool/max_pool2d", "step by one element")],
)  # fmt: skip
def test_what_is_no_program_of_blocks_is_refused_with_a_reason(name, said):
    reasons: dict[str, None] = {}
    assert next(texts(spec(name), reasons), None) is None
    assert any(said in r for r in reasons), list(reasons)


def test_a_text_may_use_what_describes_kernels_and_nothing_else():
    source = first("nn/gelu").source
    check_policy(source, "kernel.py")
    for old, new, said in (
        ("pl.program_id(0)", "pl.debug_print('x')", "pl.debug_print is not allowed"),
        ("pl.program_id(0)", "(lambda p: 0)(pl)", "used as a value"),
        ("import pallas as pl", "import io_callback as pl", "not allowed"),
    ):
        with pytest.raises(ImportRefusal, match=said.split("'")[0].replace("(", r"\(")):
            check_policy(source.replace(old, new), "kernel.py")


def test_a_package_takes_kernels_where_their_facts_hold_and_arrays_elsewhere():
    op = spec("nn/softmax")
    c = first("nn/softmax")
    found = packaged(PackagedVariant("kernels", c.plan, {}, c.source), op)
    assert found is not None
    assert 'jax.default_backend() == "cpu"' in found.source
    assert "N % 16 == 0" in found.source and "1 <= B" in found.source
    names: dict[str, object] = {}
    exec(compile(found.source, "kernels.py", "exec"), names)
    import numpy as np

    x = np.linspace(-1, 1, 60, dtype=np.float32).reshape(3, 20)
    y = np.asarray(names[found.function](x))  # type: ignore[operator]
    e = np.exp(x.astype(float) - x.max(1, keepdims=True))
    assert np.allclose(y, e / e.sum(1, keepdims=True), atol=1e-6)


def test_a_param_that_is_a_whole_number_is_refused():
    op = parse_spec(WHOLE).operator()
    reasons: dict[str, None] = {}
    assert next(texts(op, reasons), None) is None
    assert any("whole numbers" in r for r in reasons)
