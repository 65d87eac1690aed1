"""Kernels of one target as programs of another: what is kept, what is proved, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from opwright.backends.cpp.build import host_isa
from opwright.compiler.backend import CompileError
from opwright.compiler.candidates import printed
from opwright.compiler.elaborate import load_spec
from opwright.compiler.importing import static_gates
from opwright.compiler.rolled import Shape, Unrollable, rolled
from opwright.compiler.transfer import (
    NAME,
    Seed,
    course,
    load_seed,
    refuted,
    report_lines,
    seed_space,
)
from opwright.ir.dtypes import F32
from opwright.ir.expr import const, show, size, stride
from opwright.ir.interpreter import run
from opwright.ir.op import Operator
from opwright.ir.plan import load
from opwright.ir.tile import Axis, Buffer, Builder, Dot, Placement, Scan, TileProgram
from opwright.ir.tilecheck import check_program
from opwright.options import seeds
from opwright.outcome import Problem
from opwright.search.space import IllegalSchedule
from opwright.verify.context import Context
from opwright.verify.gates import safety

HERE = Path(__file__).parents[1]
CANDIDATES = HERE / "backends" / "triton" / "candidates"
SPECS = HERE.parent / "specs"
ROWS = SPECS / "nn" / "softmax.op"
CUDA = """
extern "C" __global__ void row_sum(const float *x, float *y, long long N, long long xs) {
  long long row = blockIdx.x;
  float total = 0.0f;
  for (long long i = threadIdx.x; i < N; i += 128) total += x[row * xs + i];
  __shared__ float part[4];
  for (int d = 16; d > 0; d /= 2) total += __shfl_xor_sync(0xffffffffu, total, d);
  if (threadIdx.x % 32 == 0) part[threadIdx.x / 32] = total;
  __syncthreads();
  if (threadIdx.x == 0) y[row] = part[0] + part[1] + part[2] + part[3];
}
"""
SUM = """opwright "0.1"

op row_total @ 1.0 {
  dims  B, N
  input x: f32[B, N]
  output y: f32[B]
  def { y[b] = sum[n: N](x[b, n]) }
}
"""


def operator_of(name: str) -> tuple[Operator, Seed]:
    plan = load(CANDIDATES / name)
    op = plan.op.partition("@")[0]
    path = next(SPECS.rglob(f"{op}.op"))
    found = load_spec(path).operator(None, plan.types or None)
    return found, load_seed(CANDIDATES / name, op)


def test_a_triton_kernel_becomes_cpp_that_is_proved_safe() -> None:
    pytest.importorskip("triton")
    op, seed = operator_of("attention_flash")
    space = seed_space(seed, op, "cpp", (f"cpu({host_isa()})",))
    program = space.instantiate(space.preferred()[0])
    c = printed(program, op, host_isa())
    assert static_gates(c, op, prove=False).gate("G1") == "PROVED"  # it reads back as this program
    found = safety(program, Context.of(op))
    assert [(r.id, r.status, r.reason) for r in found if r.status != "PROVED"] == []


def test_a_triton_kernel_becomes_cuda_that_is_proved_safe() -> None:
    pytest.importorskip("triton")
    from opwright.compiler.cuda_blocks import printed as cuda_text

    op, seed = operator_of("softmax_two_loops")
    space = seed_space(seed, op, "cuda", ("sm_90",))
    program = space.instantiate(space.preferred()[0].changed("BLOCK", 512))
    c = cuda_text(program, op, "sm_90")
    assert "__shfl_xor_sync" in c.source
    assert static_gates(c, op).safe


def test_numbers_of_grid_and_facts_follow_the_tile_that_explains_them() -> None:
    pytest.importorskip("triton")
    op, seed = operator_of("softmax_one_block")
    space = seed_space(seed, op, "cpp", ("cpu(x86-64-v3)",))
    program = space.instantiate(space.preferred()[0].changed("BLOCK_SIZE", 512))
    assert "N <= 512" in [show(f) for f in program.facts]
    assert [show(g) for g in program.kernels[0].grid] == ["min(B, 256)"]


def test_a_reading_that_computes_less_than_its_facts_allow_is_seen() -> None:
    pytest.importorskip("triton")
    from opwright.compiler.transfer import _Reader

    op, seed = operator_of("softmax_one_block")
    reader = _Reader(seed, op)
    assert refuted(reader.imported(seed.plan), op) == ""
    facts = tuple(f.replace("2048", "4096") for f in seed.plan.facts)  # the tile stays 2048 wide
    why = refuted(reader.imported(replace(seed.plan, facts=facts)), op)
    assert "N = 4096" in why


def test_the_first_tile_after_its_own_is_one_whose_facts_hold_at_a_workload() -> None:
    op, seed = operator_of("attention_flash")  # D <= 32, and a workload has 64
    space = seed_space(seed, op, "cuda", ("sm_90",))
    own, first = space.preferred()[:2]
    assert first.differences(own) == ["BLOCK_D: 32 -> 64"]


@pytest.fixture(scope="module")
def total(tmp_path_factory: pytest.TempPathFactory) -> tuple[Operator, Path]:
    folder = tmp_path_factory.mktemp("seed")
    (folder / "row_total.op").write_text(SUM)
    plan = {
        "abi": 1, "op": "row_total@1.0", "target": "sm_90", "backend": "cuda",
        "source": "kernel.cu", "facts": ["stride(x, 1) == 1", "stride(y, 0) == 1"],
        "launches": [
            {"kernel": "row_sum", "grid": ["B"], "block": [128],
             "args": ["x", "y", "N", "stride(x, 0)"]}
        ],
    }  # fmt: skip
    (folder / "candidate.json").write_text(json.dumps(plan))
    (folder / "kernel.cu").write_text(CUDA)
    return load_spec(folder / "row_total.op").operator(None, None), folder


def test_a_cuda_kernel_becomes_cpp(total: tuple[Operator, Path]) -> None:
    op, folder = total
    space = seed_space(load_seed(folder, op.name), op, "cpp", ("cpu(x86-64-v3)",))
    program = space.instantiate(space.preferred()[0])
    assert static_gates(printed(program, op, "x86-64-v3"), op).safe


def test_other_threads_than_a_text_was_written_for_are_refused(
    total: tuple[Operator, Path],
) -> None:
    op, folder = total
    space = seed_space(load_seed(folder, op.name), op, "cpp", ("cpu(x86-64-v3)",))
    with pytest.raises(IllegalSchedule):
        space.instantiate(space.preferred()[0].changed("threads", 64))


def test_what_threads_exchange_has_no_form_in_triton(total: tuple[Operator, Path]) -> None:
    op, folder = total
    space = seed_space(load_seed(folder, op.name), op, "triton", ("sm_90",))
    with pytest.raises(IllegalSchedule, match=r"from thread to thread through \w*part"):
        space.instantiate(space.preferred()[0])


def test_a_seed_of_another_operator_is_refused(total: tuple[Operator, Path]) -> None:
    with pytest.raises(CompileError, match="is for row_total@1"):
        load_seed(total[1], "softmax")


# -- rolled programs -------------------------------------------------------------------------------


def block_program(kind: str) -> TileProgram:
    """A tile of 12 by 16 through a scan, moved lanes, an extreme's place, a contraction."""
    m, n, k = Axis("m", 12), Axis("n", 16), Axis("k", 16)
    x = Buffer("x", "in", F32, (const(12), const(16)))
    y = Buffer("y", "out", F32, (const(12), const(16)))
    b = Builder("kernel", (const(1),), "lane")
    v = b.load(x, m.lane, n.lane)
    if kind == "scan":
        b.store(y, m.lane, n.lane, b.scan(v, Scan("sum", n)))
    elif kind == "reverse":
        b.store(y, m.lane, n.lane, b.scan(v, Scan("sum", n, True)))
    elif kind == "view":
        b.store(y, m.lane, n.lane, b.view(v, [(n, const(15) - n.lane)]))
    elif kind == "place":
        at = b.argreduce("argmax", v, b.index(n.lane), n)
        b.store(y, m.lane, n.lane, b.cast(b.ew("add", at, b.index(n.lane)), F32))
    elif kind == "column":
        b.store(y, m.lane, n.lane, b.ew("sub", v, b.reduce("max", v, m)))
    elif kind == "dot":
        w = b.load(x, n.lane, k.lane, mask=_below(n, 12), other=0.0)
        b.store(y, m.lane, k.lane, b.dot(v, w, Dot(n), F32))
    else:

        def body(i: object, s: object) -> list[object]:
            row = b.load(x, i, n.lane)
            return [b.ew("add", s, b.ew("mul", s, row))]

        (s,) = b.loop("i", 0, 12, 1, (b.full(1.0, F32, n),), body)
        b.store(y, m.lane, n.lane, b.ew("add", v, s))
    return TileProgram("p", (b.kernel(),), (Placement(),))


def _below(a: Axis, limit: int):  # type: ignore[no-untyped-def]
    from opwright.ir.expr import call

    return call("lt", a.lane, const(limit))


@pytest.mark.parametrize("kind", ["scan", "reverse", "view", "place", "column", "dot", "carried"])
@pytest.mark.parametrize("shape", [Shape(), Shape(4, 1, 2)])
def test_a_rolled_program_computes_what_the_block_program_does(kind: str, shape: Shape) -> None:
    import numpy as np

    program = block_program(kind)
    made = rolled(program, shape)
    check_program(made)
    x = np.random.default_rng(1).normal(0, 1, (12, 16))
    wanted, got = (run(p, {}, {"x": x})["y"] for p in (program, made))
    np.testing.assert_allclose(got, wanted, rtol=1e-12)
    assert all(a.extent <= 8 * 2 for k in made.kernels for a in _axes(k))


def _axes(kernel):  # type: ignore[no-untyped-def]
    from opwright.ir.tiletext import axes_of

    return axes_of(kernel)


def test_what_is_not_known_is_refused_by_name() -> None:
    n = Axis("n", 16)
    b = Builder("kernel", (const(1),), "lane")
    x = Buffer("x", "in", F32, (size("N"),), (stride("x", 0),))
    v = b.opaque("secret", [b.load(x, n.lane)], F32)
    b.store(Buffer("y", "out", F32, (size("N"),)), n.lane, v)
    program = TileProgram("p", (b.kernel(),), (Placement(),))
    with pytest.raises(Unrollable, match="opaque has no form on a CPU"):
        rolled(program, Shape())


# -- the command line and the report ---------------------------------------------------------------


def test_one_option_takes_a_number_and_a_folder(total: tuple[Operator, Path]) -> None:
    assert seeds(None) == (0, None)
    assert seeds(["7", str(total[1])]) == (7, total[1])
    with pytest.raises(Problem, match="neither a number nor a folder"):
        seeds(["nowhere"])
    with pytest.raises(Problem, match="one number and one folder"):
        seeds(["1", "2"])


def test_a_report_says_how_the_search_went_with_the_seed_and_without() -> None:
    class Result:
        def __init__(self, scores: list[float | None]) -> None:
            self.table = [
                {"number": n, "schedule": f"k({n})", "status": "ok" if s else "wrong", "score": s}
                for n, s in enumerate(scores)
            ]

    found = course(Result([1.0, None, 0.5, 0.7]))  # type: ignore[arg-type]
    assert (found["candidates"], found["passed"]) == (4, 3)
    assert [b["after"] for b in found["best"]] == [1, 3]
    report = {
        "seed": {"folder": "f", "backend": "triton", "target": "sm_90"}, "backend": "cpp",
        "with": found, "without": None, "best": None, "won": False,
        "candidates": [{"reason": "no form for a CPU"}],
    }  # fmt: skip
    text = "\n".join(report_lines(report))
    assert "with the seed: 0.500 of candidate 0 after 3 of 4 candidates" in text
    assert "without the seed: no candidate passed" in text and "no form for a CPU" in text
    assert NAME == "seed"
