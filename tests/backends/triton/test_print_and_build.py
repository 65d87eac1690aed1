"""What block programs look like as text, what compilers of devices make of it without one, and
what the interpreter computes with it."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from support.operators import row_sum
from support.shipped import SPECS

from opwright.backends.triton.build import Artefact, BuildError, compile_all, compile_for
from opwright.backends.triton.plan import make_plan, print_for
from opwright.backends.triton.run import RunError, interpret
from opwright.backends.triton.targets import TARGETS
from opwright.compiler.block_spaces import spaces
from opwright.compiler.elaborate import load_spec, parse_spec
from opwright.ir.interpreter import run
from opwright.ir.launch import BoundPlan, bind_plan
from opwright.ir.reference import reference
from opwright.ir.tile import TileProgram

OP = row_sum()


def program_of(space: str, **decisions: object) -> TileProgram:
    found = next(s for s in spaces(OP) if s.name == space)
    schedule = found.preferred()[0]
    for name, value in decisions.items():
        schedule = schedule.changed(name, value)
    return found.instantiate(schedule)


@cache
def printed(space: str) -> tuple[TileProgram, str, BoundPlan]:
    program = program_of(space, **({} if space == "fallback" else {"block": 64, "aligned": False}))
    return program, print_for(program, OP), bind_plan(make_plan(program, OP, "sm_90"), OP)


@cache
def built(target: str) -> Artefact:
    _, source, bound = printed("loop")
    return compile_for(source, bound, target)


def test_a_fold_of_rows_is_written_as_a_loop_over_blocks():
    _, source, _ = printed("loop")
    assert source.split("@triton.jit\n")[-1] == (
        "def row_sum(x_ptr, y_ptr, B: tl.int64, N: tl.int64, BLOCK: tl.constexpr):\n"
        "    pid = tl.program_id(0).to(tl.int64)\n"
        "    acc = tl.zeros([BLOCK], tl.float32)\n"
        "    for start in range(0, N, BLOCK):\n"
        "        offs = start + tl.arange(0, BLOCK)\n"
        "        mask = offs < N\n"
        "        x = tl.load(x_ptr + pid * N + offs, mask=mask, other=0.0)\n"
        "        acc = acc + x\n"
        "    y_sum = tl.sum(acc, axis=0)\n"
        "    tl.store(y_ptr + pid, y_sum)\n"
    )


def test_the_plan_launches_what_is_printed():
    program, _, bound = printed("loop")
    (launch,) = make_plan(program, OP, "sm_90").launches
    assert (launch.kernel, launch.args, launch.grid) == ("row_sum", ("x", "y", "B", "N"), ("B",))
    assert launch.const == {"BLOCK": 64} and launch.extra["num_warps"] == 4
    assert bound.plan.backend == "triton"


@pytest.mark.parametrize("target", sorted(TARGETS))
def test_kernels_compile_for_devices_that_are_not_there(target):
    made = built(target)
    (binary,) = made.binaries
    assert made.target == target and len(binary.code) > 500
    assert binary.code[:4] == b"\x7fELF"
    used = made.resources["row_sum"]
    assert 0 < used["registers"] <= TARGETS[target].registers * 2
    assert used["spill_stores"] == used["spill_loads"] == 0
    assert 0 <= used["shared"] <= TARGETS[target].shared
    assert used["code_bytes"] == len(binary.code)


def test_an_error_of_the_source_names_its_line():
    _, source, bound = printed("loop")
    line = 1 + source.splitlines().index("        acc = acc + x")
    with pytest.raises(BuildError, match=rf"kernel.py:{line}: .*wrong"):
        compile_for(source.replace("acc + x", "acc + wrong"), bound, "sm_90")


def test_too_much_shared_memory_is_an_error(monkeypatch):
    _, source, bound = printed("loop")
    small = {**TARGETS, "sm_90": replace(TARGETS["sm_90"], shared=0)}
    monkeypatch.setattr("opwright.backends.triton.targets.TARGETS", small)
    with pytest.raises(BuildError, match="bytes of shared memory"):
        compile_for(source, bound, "sm_90")


@pytest.mark.parametrize("space", ["fallback", "loop"])
@pytest.mark.parametrize("sizes", [{"B": 2, "N": 65}, {"B": 3, "N": 1}, {"B": 1, "N": 64}])
def test_the_interpreter_computes_what_the_program_does(space, sizes):
    program, source, bound = printed(space)
    x = np.random.default_rng(0).standard_normal((sizes["B"], sizes["N"])).astype(np.float32)
    made = interpret(source, bound, {"x": x}, sizes)
    steps = {("x", 0): sizes["N"], ("x", 1): 1, ("y", 0): 1}
    expected = run(program, sizes, {"x": x}, strides=steps)["y"]
    assert np.allclose(made["y"], expected, rtol=1e-5, atol=1e-5)


def test_a_write_past_the_end_is_noticed():
    _, source, bound = printed("loop")
    wrong = source.replace("tl.store(y_ptr + pid, y_sum)", "tl.store(y_ptr + pid + 1, y_sum)")
    with pytest.raises(RunError, match="outside of y"):
        interpret(wrong, bound, {"x": np.ones((2, 3), np.float32)}, {"B": 2, "N": 3})


EIGHT = """\
opwright "0.1"

op eight @ 1.0 "Floats of eight bits in and out." {
  dims  M, N
  input x: f8e4m3[M, N], w: u8[M, N // 2], s: f8e5m2[M]
  output y: f8e4m3[M, N], z: f8e5m2[M], q: f32[M, N]
  where N % 2 == 0

  def {
    y[m, n] = f32(x[m, n]) * 0.5
    z[m] = f32(s[m]) + 1
    q[m, n] = (w[m, n // 2] // (if n % 2 == 0 then 1 else 16) % 16 - 8) * f32(s[m])
  }
}
"""


@pytest.mark.parametrize("target", ["sm_90", "gfx942"])
def test_floats_of_eight_bits_are_converted_as_devices_do(target):
    """There is no step between them and f64."""
    op = parse_spec(EIGHT).operator()
    space = spaces(op)[0]
    program = space.instantiate(space.preferred()[0])
    bound = bind_plan(make_plan(program, op, target), op)
    made = compile_for(print_for(program, op), bound, target)
    assert set(made.resources) == {"k0", "k1", "k2"}


def test_the_guard_of_a_running_fold_is_kept():
    op = load_spec(SPECS / "scan" / "masked_cumsum.op").operator()
    sizes = {"B": 2, "N": 70}
    rng = np.random.default_rng(1)
    x = rng.standard_normal((2, 70)).astype(np.float32)
    inputs = {"x": x, "mask": rng.random((2, 70)) < 0.5}
    wanted = reference(op, inputs, {}, sizes)["y"]
    for space in spaces(op):
        schedule = space.preferred()[0]
        if "aligned" in space.holes:
            schedule = schedule.changed("aligned", False)
        made = run(space.instantiate(schedule), sizes, inputs)["y"]
        assert np.allclose(made, wanted, atol=1e-5)


def test_one_process_compiles_for_several_targets():
    _, source, bound = printed("loop")
    made = compile_all(source, bound, ["sm_90", "gfx942"])
    assert list(made) == ["sm_90", "gfx942"]
    for target, artefact in made.items():
        assert isinstance(artefact, Artefact) and artefact.target == target
        assert artefact.resources["row_sum"]["spill_stores"] == 0
    bad = compile_all(source.replace("tl.sum(acc", "tl.sun(acc"), bound, ["sm_80", "sm_90"])
    assert all(isinstance(x, BuildError) and "kernel.py:" in str(x) for x in bad.values())
