import triton
import triton.language as tl


@triton.jit
def affine(x, y, B, N, sx0, sx1, sy0, sy1, BLOCK: tl.constexpr):
    row = tl.program_id(0)
