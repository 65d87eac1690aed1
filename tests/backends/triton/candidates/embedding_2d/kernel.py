import triton
import triton.language as tl


@triton.jit
def emb(ids, table, y, N, D, BN: tl.constexpr, BD: tl.constexpr):
    rn = tl.program_id(0) * BN + tl.arange(0, BN)
    rd = tl.program_id(1) * BD + tl.arange(0, BD)
    tok = tl.load(ids + rn, mask=rn < N, other=0).to(tl.int32)
    live = (rn[:, None] < N) & (rd[None, :] < D)
    val = tl.load(table + tok[:, None] * D + rd[None, :], mask=live)
    tl.store(y + rn[:, None] * D + rd[None, :], val, mask=live)
