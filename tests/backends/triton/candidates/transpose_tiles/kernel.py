import triton
import triton.language as tl


@triton.jit
def transpose(x_ptr, y_ptr, M, N, sxm, sxn, sym, syn, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    j = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tile = tl.load(
        x_ptr + i[:, None] * sxm + j[None, :] * sxn, mask=(i[:, None] < M) & (j[None, :] < N)
    )
    tl.store(
        y_ptr + j[:, None] * sym + i[None, :] * syn,
        tl.trans(tile),
        mask=(j[:, None] < N) & (i[None, :] < M),
    )
