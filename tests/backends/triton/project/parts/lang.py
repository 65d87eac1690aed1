"""Helpers of a project, in a module of their own."""

import triton
import triton.language as tl


@triton.jit
def wide_program_id(axis: int):
    return tl.program_id(axis).to(tl.int64)


@triton.jit
def wide_num_programs(axis: int):
    return tl.num_programs(axis).to(tl.int64)


@triton.jit
def split_row(pid, width, BLOCK: tl.constexpr):
    blocks = tl.cdiv(width, BLOCK)
    row = pid // blocks
    first = (pid % blocks) * BLOCK
    return row, first
