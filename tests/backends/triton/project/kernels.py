"""Kernels as projects write them. The module needs what no test machine has, and is never run."""

import fictional_framework as ff
import triton
import triton.language as tl
from fictional_framework.runtime import device

from .parts import lang as pl  # noqa: TID252
from .parts.lang import split_row  # noqa: TID252

if ff.version >= (3, 0):
    try:
        from triton.language.extra.libdevice import tanh
    except ModuleNotFoundError:
        from triton.language.extra.nowhere.libdevice import tanh
else:
    from triton.language.math import tanh

SCALE: float = 0.5
WARPS = ff.warps_of(device)


@triton.jit
def silu(x):
    return x * tl.sigmoid(x)


@triton.jit
def activated(x, KIND: tl.constexpr):
    if KIND == "silu":
        y = silu(x.to(tl.float32))
    elif KIND == "relu":
        y = tl.maximum(x, 0)
    else:
        y = tanh(x.to(tl.float32))
    return y


# a helper of another module, a module's number, libdevice behind conditions
@ff.entry()
@triton.jit
def scaled_tanh(x_ptr, y_ptr, n: int, BLOCK: tl.constexpr):
    offs = pl.wide_program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    x = tl.load(x_ptr + offs, mask=mask, other=0.0).to(tl.float32)
    tl.store(y_ptr + offs, tanh(x) * SCALE, mask=mask)


# an unrolled loop over parts of a row
@triton.jit
def static_parts(x_ptr, y_ptr, n, PARTS: tl.constexpr, BLOCK: tl.constexpr):
    start = tl.program_id(0).to(tl.int64) * (PARTS * BLOCK)
    for part in tl.static_range(PARTS):
        offs = start + part * BLOCK + tl.arange(0, BLOCK)
        mask = offs < n
        x = tl.load(x_ptr + offs, mask=mask)
        tl.store(y_ptr + offs, x * x, mask=mask)


# a grid that is too large, and programs that return at once
@triton.jit
def early_return(x_ptr, y_ptr, rows, cols, stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    if row >= rows:
        return
    offs = tl.arange(0, BLOCK)
    x = tl.load(x_ptr + row * stride + offs, mask=offs < cols, other=-float("inf"))
    tl.store(y_ptr + row, tl.max(x, axis=0))


# branches on what is known at run time, with values
@triton.jit
def branch_values(x_ptr, y_ptr, n, mode, BLOCK: tl.constexpr):
    offs = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    x = tl.load(x_ptr + offs, mask=mask, other=0.0)
    if mode == 0:
        y = x + 1.0
    else:
        y = x * 2.0
    tl.store(y_ptr + offs, y, mask=mask)


# a helper that returns two numbers
@triton.jit
def tuple_helper(x_ptr, w_ptr, y_ptr, width, BLOCK: tl.constexpr):
    row, first = split_row(pl.wide_program_id(0), width, BLOCK)
    cols = first + tl.arange(0, BLOCK)
    mask = cols < width
    x = tl.load(x_ptr + row * width + cols, mask=mask)
    w = tl.load(w_ptr + cols, mask=mask)
    tl.store(y_ptr + row * width + cols, x * w, mask=mask)


# as many programs as there are, over all rows
@triton.jit
def grid_stride(x_ptr, y_ptr, rows, cols, BLOCK: tl.constexpr):
    offs = tl.arange(0, BLOCK)
    mask = offs < cols
    for row in range(pl.wide_program_id(0), rows, pl.wide_num_programs(0)):
        x = tl.load(x_ptr + row * cols + offs, mask=mask, other=0.0)
        tl.store(y_ptr + row, tl.sum(x, axis=0))


# one kernel for both widths of an index
@triton.jit
def long_indexing(x_ptr, y_ptr, n, BLOCK: tl.constexpr, LONG: tl.constexpr):
    pid = tl.program_id(0)
    if LONG:
        offs = pid.to(tl.int64) * BLOCK + tl.arange(0, BLOCK).to(tl.int64)
        n = tl.cast(n, tl.int64)
    else:
        offs = pid * BLOCK + tl.arange(0, BLOCK)
    x = tl.load(x_ptr + offs, mask=offs < n)
    tl.store(y_ptr + offs, -x, mask=offs < n)


# pointers that may be absent
@triton.jit
def optional_bias(x_ptr, bias_ptr, gate_ptr, y_ptr, rows, cols, BLOCK: tl.constexpr):
    row = pl.wide_program_id(0)
    offs = tl.arange(0, BLOCK)
    mask = offs < cols
    x = tl.load(x_ptr + row * cols + offs, mask=mask, other=0.0)
    if bias_ptr is not None:
        x += tl.load(bias_ptr + offs, mask=mask, other=0.0)
    if gate_ptr is not None:
        x *= tl.load(gate_ptr + offs, mask=mask, other=0.0)
    tl.store(y_ptr + row * cols + offs, x, mask=mask)


# masks joined by words, an annotation that is a text
@triton.jit
def spoken_masks(x_ptr, y_ptr, m, n, TILE: "tl.constexpr"):
    rows = pl.wide_program_id(0) * 4 + tl.arange(0, 4)[:, None]
    for first in range(0, n, TILE):
        cols = first + tl.arange(0, TILE)[None, :]
        inside = rows < m and cols < n
        x = tl.load(x_ptr + rows * n + cols, inside, other=0.0)
        tl.store(y_ptr + rows * n + cols, tl.where(rows <= cols, x, 0.0), inside)


# decorators of a tuner, a heuristic and a project; a function that is chosen by a text
@ff.entry()
@triton.autotune(configs=[triton.Config({"BLOCK": 512}, num_warps=w) for w in (2, 4)], key=["n"])
@triton.heuristics({"KIND": lambda args: ff.kind_of(args)})
@triton.jit(do_not_specialize=["n"])
def chosen(x_ptr, y_ptr, n, KIND: tl.constexpr, BLOCK: tl.constexpr):
    offs = pl.wide_program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = offs < n
    tl.store(y_ptr + offs, activated(tl.load(x_ptr + offs, mask=mask), KIND), mask=mask)


raise SystemExit("this module was executed")
