"""A module as projects have them: it imports torch, tunes, launches, and holds a kernel.

The kernel is right for every tensor below 2^31 elements, and wrong for larger ones.
"""

import torch
import triton
import triton.language as tl

NARROW = {torch.float16, torch.bfloat16}
STEPS: int = 2


@triton.jit
def scaled(x, w):
    return x * w


@triton.autotune(
    configs=[triton.Config({"BLOCK": 4096}, num_warps=w) for w in (4, 8)], key=["n_cols"]
)
@triton.jit
def scale_rows_kernel(
    x_ptr,
    w_ptr,
    y_ptr,
    x_row_stride,
    y_row_stride,
    n_cols,
    BLOCK: tl.constexpr,
):
    row = tl.program_id(0)
    cols = tl.arange(0, BLOCK)
    mask = cols < n_cols
    x = tl.load(x_ptr + row * x_row_stride + cols, mask=mask, other=0.0)
    w = tl.load(w_ptr + cols, mask=mask, other=0.0)
    tl.store(y_ptr + row * y_row_stride + cols, scaled(x, w), mask=mask)


def scale_rows(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    y = torch.empty_like(x)
    rows, n_cols = x.shape
    scale_rows_kernel[(rows,)](x, w, y, x.stride(0), y.stride(0), n_cols)
    return y
