"""Wrong kernels: each is not proved safe and determined, or is functionally wrong when it runs."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest

pytest.importorskip("triton")

from support import imported as candidates

from opwright.ir.interpreter import Trap
from opwright.ir.launch import ImportRefusal
from opwright.ir.plan import Plan, from_json
from opwright.ir.tilecheck import TileError, check_program
from opwright.verify.context import Context
from opwright.verify.gates import safety


@dataclass(frozen=True)
class Mutant:
    """`old` becomes `new` in the source (the n-th time it occurs), or in the plan. `only_wrong`:
    safe and determined, so that only a run tells."""

    name: str
    what: str
    old: str
    new: str
    nth: int = 0
    plan: bool = False
    only_wrong: bool = False
    also: tuple[str, str] = ("", "")  # a second change, of the plan


I32 = ('"stride(x, 0)"', '"i32(stride(x, 0))"')
MUTANTS = [
    Mutant("softmax_two_loops", "mask with <=", "start + lanes < N", "start + lanes <= N"),
    Mutant("softmax_two_loops", "mask dropped", ", mask=live)", ")"),
    Mutant("softmax_two_loops", "i32 row", ".to(tl.int64)", "", also=I32),
    Mutant("softmax_two_loops", "missing fill", ', other=float("-inf")', ""),
    Mutant(
        "softmax_two_loops", "loop stops early", "range(0, N, BLOCK)", "range(0, N - 1, BLOCK)", 1
    ),
    Mutant("softmax_two_loops", "duplicate program", '"B"\n', '"B + 1"\n', plan=True),
    Mutant("softmax_two_loops", "row missing", '"B"\n', '"B - 1"\n', plan=True),
    Mutant("softmax_two_loops", "input's stride", '"stride(y, 0)"', '"stride(x, 0)"', plan=True),
    Mutant(
        "softmax_two_loops",
        "no rescale",
        "total * tl.exp(best - anchor) + ",
        "total + ",
        only_wrong=True,
    ),
    Mutant("softmax_one_block", "block too small", "N <= 2048", "N <= 4096", plan=True),
    Mutant("softmax_one_block", "row left out", "row_start, n_rows", "row_start + 1, n_rows"),
    Mutant("layernorm_three_loops", "wrong row", "Mean + row", "Mean + row + 1"),
    Mutant("layernorm_three_loops", "all rows at once", "Rstd + row", "Rstd"),
    Mutant("layernorm_three_loops", "no zeros", ", other=0.0", "", 0),
    Mutant(
        "layernorm_three_loops",
        "eps outside",
        "tl.sqrt(var + eps)",
        "tl.sqrt(var) + eps",
        only_wrong=True,
    ),
    Mutant(
        "matmul_grouped",
        "no modulo",
        "tl.arange(0, BLOCK_SIZE_M)) % M",
        "tl.arange(0, BLOCK_SIZE_M))",
    ),
    Mutant(
        "matmul_grouped",
        "group without rest",
        "min(num_pid_m - first_pid_m, GROUP_SIZE_M)",
        "GROUP_SIZE_M",
    ),
    Mutant("matmul_grouped", "floor grid", "(M + 63) // 64", "M // 64", plan=True),
    Mutant("matmul_grouped", "K mask", "< K - k * BLOCK_SIZE_K", "<= K - k * BLOCK_SIZE_K"),
    Mutant(
        "matmul_grouped",
        "b does not advance",
        "b_ptrs += BLOCK_SIZE_K * stride_bk",
        "b_ptrs += 0",
        only_wrong=True,
    ),
    Mutant(
        "matmul_grouped",
        "K floor",
        "tl.cdiv(K, BLOCK_SIZE_K)",
        "K // BLOCK_SIZE_K",
        only_wrong=True,
    ),
    Mutant("matmul_grouped", "swapped strides", "stride_cm * offs_cm", "stride_cn * offs_cm"),
    Mutant("matmul_epilogue", "wrong bound", "(rk[None, :] < K)", "(rk[None, :] < N)"),
    Mutant("matmul_epilogue", "bias by row", "Bias + rn, mask=rn < N", "Bias + rm, mask=rm < M"),
    Mutant("matmul_epilogue", "wrong stride", "C + rm[:, None] * N", "C + rm[:, None] * M"),
    Mutant(
        "transpose_tiles",
        "axes not exchanged",
        "j[:, None] * sym + i[None, :] * syn",
        "j[:, None] * syn + i[None, :] * sym",
    ),
    Mutant("transpose_tiles", "no exchange of the tile", "tl.trans(tile)", "tile"),
    Mutant("gelu_flat", "BLOCK - 1", "* BLOCK_SIZE", "* (BLOCK_SIZE - 1)"),
    Mutant("gelu_flat", "floor grid", "(N + 1023) // 1024", "N // 1024", plan=True),
    Mutant(
        "gelu_flat", "i32 offsets", "pid.to(tl.int64) * BLOCK_SIZE", "pid * 2 * BLOCK_SIZE // 2"
    ),
    Mutant("row_sum_loop", "axis", "tl.sum(acc, axis=1)", "tl.sum(acc, axis=0)"),
    Mutant("row_sum_loop", "advance too far", "ptrs += BLOCK_N", "ptrs += BLOCK_N + 1"),
    Mutant("row_sum_loop", "rows not masked", ", mask=rows < B)", ")"),
    Mutant(
        "column_sum_loop",
        "masks exchanged",
        "(rows < M)[:, None] & (cols < N)[None, :]",
        "(rows < N)[:, None] & (cols < M)[None, :]",
    ),
    Mutant(
        "cumsum_blocks", "no carry", "carry += tl.sum(v, axis=0)", "carry += 0.0", only_wrong=True
    ),
    Mutant(
        "cumsum_scan",
        "reverse",
        "tl.cumsum(v, axis=0)",
        "tl.cumsum(v, axis=0, reverse=True)",
        only_wrong=True,
    ),
    Mutant("rmsnorm_one_block", "poison in the sum", ", other=0.0).to", ").to"),
    Mutant("embedding_gather", "index not loaded", "other=0)", "other=-1) + 1"),
    Mutant("embedding_gather", "mask of rows", "(rows[:, None] < N) & ", ""),
    Mutant("cross_entropy_row", "class plus one", "tl.load(x + y)", "tl.load(x + y + 1)"),
    Mutant("bias_residual", "one tile short", "((N + 127) // 128)", "(N // 128)", plan=True),
    Mutant("batched_matmul_grid", "batch not moved", "z + batch * zb", "z"),
    Mutant("row_sum_atomic", "store, not add", "tl.atomic_add(y + row", "tl.store(y + row"),
    Mutant("row_sum_atomic", "not cleared", "mask=i < n)", "mask=i < n - 1)"),
    Mutant("argmax_rows", "fill", 'other=float("-inf")', "other=0.0", only_wrong=True),
    # kernels in other hands
    Mutant(
        "matmul_tutorial",
        "group not cut",
        "min(num_pid_m - first_pid_m, GROUP_SIZE_M)",
        "GROUP_SIZE_M",
    ),
    Mutant("matmul_tutorial", "false assumption", "tl.assume(pid_m >= 0)", "tl.assume(pid_m > 0)"),
    Mutant("matmul_tutorial", "K with <=", "[None, :] < K - k", "[None, :] <= K - k"),
    Mutant(
        "matmul_tutorial",
        "wrong advance",
        "a_ptrs += BLOCK_SIZE_K * stride_ak",
        "a_ptrs += stride_ak",
        only_wrong=True,
    ),
    Mutant(
        "matmul_tutorial",
        "stale tile",
        "tl.dot(a, b, accumulator)",
        "tl.dot(a, b)",
        only_wrong=True,
    ),
    Mutant("matmul_descriptors", "unaligned", '"aligned(a, 16)",', "", plan=True),
    Mutant("matmul_descriptors", "rows of 2 bytes", '"K % 8 == 0",', "", plan=True),
    Mutant("matmul_descriptors", "other shape", "shape=[M, K]", "shape=[M + 1, K]"),
    Mutant("attention_flash", "sum not rescaled", "l_i * alpha + ", "l_i + ", only_wrong=True),
    Mutant(
        "attention_flash",
        "too few keys",
        "(start_m + 1) * BLOCK_M",
        "start_m * BLOCK_M",
        only_wrong=True,
    ),
    Mutant("attention_flash", "head for batch", "(off_bh // H)", "(off_bh % H)"),
    Mutant("row_sum_split", "chunks cut", "tl.cdiv(N, SPLIT)", "N // SPLIT", only_wrong=True),
    Mutant(
        "row_sum_split",
        "a chunk too few",
        '"8"\n   ],\n   "args"',
        '"7"\n   ],\n   "args"',
        plan=True,
    ),
    Mutant("row_sum_while", "one block too few", "left > 0", "left > BLOCK", only_wrong=True),
    Mutant("row_sum_while", "half as far", "left -= BLOCK", "left -= 2 * BLOCK", only_wrong=True),
    Mutant("row_sum_while", "mask of the block", "< left, other=0.0", "< left + 1, other=0.0"),
    Mutant("softmax_persistent", "steps over rows", "tl.num_programs(0)", "tl.num_programs(0) + 1"),
    Mutant("softmax_persistent", "all write all", "tl.program_id(0)", "0", only_wrong=True),
    Mutant("linear_gelu", "false hint", "tl.multiple_of(rn, BN)", "tl.multiple_of(rn % N, BN)"),
    Mutant("embedding_2d", "table past 31 bits", '"V * D <= 2147483647",', "", plan=True),
    Mutant("rope_halves", "sign", "a1 * cos - a2 * sin", "a1 * cos + a2 * sin", only_wrong=True),
    Mutant("argmax_loop", "place in the block", "off + j", "j", only_wrong=True),
]


def _changed(m: Mutant) -> tuple[str, Plan]:
    source, plan = candidates.source_of(m.name), candidates.plan_of(m.name)
    text = json.dumps(plan.to_json(), indent=1)
    if m.plan:
        assert m.old in text, m
        return source, from_json(json.loads(text.replace(m.old, m.new)))
    if m.also[0]:
        assert m.also[0] in text, m
        plan = from_json(json.loads(text.replace(*m.also)))
    parts = source.split(m.old)
    assert len(parts) > m.nth + 1, m
    head, tail = m.old.join(parts[: m.nth + 1]), m.old.join(parts[m.nth + 1 :])
    return head + m.new + tail, plan


def _proved(m: Mutant) -> bool:
    source, plan = _changed(m)
    try:
        program = candidates.program_of(m.name, source, plan)
        check_program(program)
    except (ImportRefusal, TileError):
        return False
    op = candidates.operator_of(m.name, plan)
    records = safety(program, Context.of(op))
    return all(r.status == "PROVED" for r in records)


def _wrong(m: Mutant) -> bool:
    source, plan = _changed(m)
    program = candidates.program_of(m.name, source, plan)
    op = candidates.operator_of(m.name, plan)
    try:
        return any(candidates.differences(program, op, s) for s in candidates.SIZES[m.name])
    except Trap:
        return True


@pytest.mark.parametrize("m", MUTANTS, ids=lambda m: f"{m.name}: {m.what}")
def test_a_mutant_is_not_proved(m: Mutant) -> None:
    if m.only_wrong:
        assert _wrong(m)
    else:
        assert not _proved(m)
