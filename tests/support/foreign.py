"""Tile programs in the form in which importers make them: 32-bit checks, swizzled program ids,
lanes that run on their own."""

from __future__ import annotations

I32 = "2147483647"

ONLINE = f"""\
program online
sizes B, N
fact stride(X, 1) == 1
fact stride(Y, 1) == 1
fact N <= {I32}
kernel rows
  grid B
  in X: f32[B, N] strides (stride(X, 0), stride(X, 1))
  out Y: f32[B, N] strides (stride(Y, 0), stride(Y, 1))
  axis c = 64
  order lane
  line x "kernel.py:12"
  line x_1 "kernel.py:20"
  line st "kernel.py:21"
  line w "kernel.py:11"
  body
    m: f32[c] = full -1e+30
    s: f32[c] = full 0.0
    for n in 0 .. N by 64 carry m_c = m, s_c = s -> m_r, s_r:
      w: check wrap n + c <= {I32} because "the integer fits 32 bits"
      x: f32[c] = load X[p0, n + c] if n + c < N else -1e+30
      m_1: f32[c] = max m_c x
      d: f32[c] = sub m_c m_1
      e: f32[c] = exp d
      f: f32[c] = mul s_c e
      d_1: f32[c] = sub x m_1
      e_1: f32[c] = exp d_1
      s_1: f32[c] = add f e_1
      next m_1, s_1
    top: f32 = reduce max m_r over c
    q: f32[c] = sub m_r top
    q_1: f32[c] = exp q
    q_2: f32[c] = mul s_r q_1
    total: f32 = reduce sum q_2 over c
    for k in 0 .. N by 64:
      x_1: f32[c] = load X[p0, k + c] if k + c < N else -1e+30
      u: f32[c] = sub x_1 top
      v: f32[c] = exp u
      y: f32[c] = div v total
      st: store Y[p0, k + c] if k + c < N = y
"""
# 32-bit lanes need room for one tile more
ONLINE = ONLINE.replace(f"fact N <= {I32}", "fact N <= 131072")

ROW = """\
program row
sizes B, N
params eps: real
fact stride(X, 1) == 1
fact stride(Y, 1) == 1
fact N <= 1024
kernel row
  grid B
  in X: f16[B, N] strides (stride(X, 0), stride(X, 1))
  in W: f16[N]
  out Y: f16[B, N] strides (stride(Y, 0), stride(Y, 1))
  axis c = 1024
  order lane
  line x "kernel.py:7"
  line s "kernel.py:9"
  line w "kernel.py:14"
  line st "kernel.py:16"
  body
    x: f16[c] = load X[p0, c] if c < N else 0.0
    x_1: f32[c] = cast x
    sq: f32[c] = mul x_1 x_1
    s: f32 = reduce sum sq over c
    n_1: f32 = index N
    mean: f32 = div s n_1
    e: f32 = index eps
    v: f32 = add mean e
    r: f32 = rsqrt v
    w: f16[c] = load W[c] if c < N
    w_1: f32[c] = cast w
    t: f32[c] = mul x_1 r
    t_1: f32[c] = mul t w_1
    y: f16[c] = cast t_1
    st: store Y[p0, c] if c < N = y
"""

SWIZZLE = """\
program product
sizes K, M, N
fact stride(A, 1) == 1
fact stride(B, 1) == 1
fact stride(C, 1) == 1
fact M <= 1048576
fact N <= 1048576
fact K <= 1048576
fact M * K <= 2147483647
fact K * N <= 2147483647
fact M * N <= 2147483647
kernel tiles
  grid (M + 63) // 64 * ((N + 31) // 32)
  in A: f16[M, K] strides (stride(A, 0), stride(A, 1))
  in B: f16[K, N] strides (stride(B, 0), stride(B, 1))
  out C: f16[M, N] strides (stride(C, 0), stride(C, 1))
  axis m = 64
  axis n = 32
  axis k = 16
  order lane
  line a "kernel.py:31"
  line st "kernel.py:40"
  body
    w: check wrap 8 * ((N + 31) // 32) <= 2147483647 because "the integer fits 32 bits"
    w_1: check divisor 0 < 8 * ((N + 31) // 32) because "the divisor is positive"
    w_2: check divisor 0 < min((M + 63) // 64 - FIRST, 8) because "the divisor is positive"
    acc: f32[m, n] = full 0.0
    for i in 0 .. (K + 15) // 16 by 1 carry acc_c = acc -> acc_r:
      w_3: check wrap i * 16 + k <= 2147483647 because "the integer fits 32 bits"
      a: f16[m, k] = load A[PM * 64 + m, i * 16 + k] if PM * 64 + m < M and k < K - i * 16 else 0.0
      b: f16[k, n] = load B[i * 16 + k, PN * 32 + n] if PN * 32 + n < N and k < K - i * 16 else 0.0
      d: f32[m, n] = dot a b over k
      acc_1: f32[m, n] = add acc_c d
      next acc_1
    c: f16[m, n] = cast acc_r
    w_4: check wrap PM * 64 + m <= 2147483647 because "the integer fits 32 bits"
    st: store C[PM * 64 + m, PN * 32 + n] if PM * 64 + m < M and PN * 32 + n < N = c
"""


def swizzled(text: str, group: str = "8", size: str | None = None) -> str:
    first = f"p0 // ({group} * ((N + 31) // 32)) * {group}"
    own = size or f"min((M + 63) // 64 - {first}, {group})"
    inside = f"p0 % ({group} * ((N + 31) // 32))"
    pm, pn = f"({first} + {inside} % {own})", f"({inside} // {own})"
    return text.replace("FIRST", first).replace("PM", pm).replace("PN", pn)


WRAPPED = SWIZZLE.replace(
    "A[PM * 64 + m, i * 16 + k] if PM * 64 + m < M and k <",
    "A[(PM * 64 + m) % M, i * 16 + k] if k <",
).replace(
    "B[i * 16 + k, PN * 32 + n] if PN * 32 + n < N and k <",
    "B[i * 16 + k, (PN * 32 + n) % N] if k <",
)

TRANSPOSE = """\
program swap
sizes M, N
kernel swap
  grid (M + 31) // 32, (N + 31) // 32
  in X: f32[M, N]
  out Y: f32[N, M]
  axis m = 32
  axis n = 32
  order lane
  line x "kernel.py:9"
  line st "kernel.py:11"
  body
    x: f32[m, n] = load X[p0 * 32 + m, p1 * 32 + n] if p0 * 32 + m < M and p1 * 32 + n < N
    y: f32[n, m] = view x at m = m, n = n
    st: store Y[p1 * 32 + n, p0 * 32 + m] if p1 * 32 + n < N and p0 * 32 + m < M = y
"""

FLAT = """\
program flat
sizes B, N
fact B * N <= 2147480000
kernel each
  grid (B * N + 1023) // 1024
  in X: f32[B * N]
  out Y: f32[B * N]
  axis c = 1024
  order lane
  line w "kernel.py:5"
  line x "kernel.py:7"
  line st "kernel.py:9"
  body
    w: check wrap p0 * 1024 + c <= 2147483647 because "the integer fits 32 bits"
    x: f32[c] = load X[p0 * 1024 + c] if p0 * 1024 + c < B * N
    h: f32[c] = erf x
    st: store Y[p0 * 1024 + c] if p0 * 1024 + c < B * N = h
"""

STRIDED = """\
program strided
sizes N
fact N <= 2000000000
kernel each
  grid 132
  in X: f32[N]
  out Y: f32[N]
  axis c = 256
  order lane
  line over "kernel.py:4"
  line w "kernel.py:6"
  line st "kernel.py:9"
  body
    for i in p0 * 256 .. N by 33792:
      over: check wrap i + 33792 <= 2147483647 because "the integer fits 32 bits"
      w: check wrap i + c <= 2147483647 because "the integer fits 32 bits"
      x: f32[c] = load X[i + c] if i + c < N
      y: f32[c] = tanh x
      st: store Y[i + c] if i + c < N = y
"""

PERSISTENT = """\
program persistent
sizes B, N
fact N <= 256
fact B <= 2000000000
kernel rows
  grid min(B, 108)
  in X: f32[B, N]
  out Y: f32[B]
  axis c = 256
  order lane
  line x "kernel.py:6"
  line st "kernel.py:9"
  body
    for k in 0 .. (B - p0 + min(B, 108) - 1) // min(B, 108) by 1:
      x: f32[c] = load X[p0 + k * min(B, 108), c] if c < N else 0.0
      s: f32 = reduce sum x over c
      st: store Y[p0 + k * min(B, 108)] = s
"""

RUNNING = """\
program running
sizes B, N
fact N <= 1048576
kernel rows
  grid B
  in X: f32[B, N]
  out Y: f32[B, N]
  axis c = 128
  order lane
  line st "kernel.py:9"
  line y "kernel.py:8"
  body
    z: f32 = full 0.0
    for n in 0 .. N by 128 carry z_c = z -> z_r:
      x: f32[c] = load X[p0, n + c] if n + c < N else 0.0
      y: f32[c] = scan sum x over c
      y_1: f32[c] = add y z_c
      st: store Y[p0, n + c] if n + c < N = y_1
      s: f32 = reduce sum x over c
      z_1: f32 = add z_c s
      next z_1
"""

LOOKUP = """\
program lookup
sizes D, L, V
fact V * D <= 2147483647
fact D <= 65536
kernel rows
  grid L, (D + 127) // 128
  in I: i64[L]
  in T: f32[V, D]
  out Y: f32[L, D]
  axis c = 128
  order lane
  line i "kernel.py:5"
  line w "kernel.py:6"
  line t "kernel.py:8"
  line st "kernel.py:9"
  body
    i: i64 = load I[p0]
    w: check wrap i * D + p1 * 128 + c <= 2147483647 or D <= p1 * 128 + c because "fits 32 bits"
    t: f32[c] = load T[i, p1 * 128 + c] if p1 * 128 + c < D else 0.0
    st: store Y[p0, p1 * 128 + c] if p1 * 128 + c < D = t
"""

COUNT = """\
program count
sizes L, V
kernel clear
  grid (V + 127) // 128
  out H: i32[V]
  axis c = 128
  order lane
  body
    z: i32[c] = full 0
    clr: store H[p0 * 128 + c] if p0 * 128 + c < V = z
kernel count
  grid (L + 127) // 128
  in I: i64[L]
  out H: i32[V]
  axis c = 128
  order lane
  line at "kernel.py:17"
  body
    i: i64[c] = load I[p0 * 128 + c] if p0 * 128 + c < L else 0
    one: i32[c] = full 1
    at: atomic sum H[i] if p0 * 128 + c < L = one
"""

SPLIT = """\
program split
sizes B, N
fact N <= 1048576
kernel parts
  grid B, (N + 255) // 256
  in X: f32[B, N]
  plan S: f32[B] init zero
  axis c = 256
  order lane
  line at "kernel.py:12"
  body
    x: f32[c] = load X[p0, p1 * 256 + c] if p1 * 256 + c < N else 0.0
    s: f32 = reduce sum x over c
    at: atomic sum S[p0] = s
kernel finish
  grid (B + 63) // 64
  plan S: f32[B] init zero
  out Y: f32[B]
  axis b = 64
  order lane
  body
    s: f32[b] = load S[p0 * 64 + b] if p0 * 64 + b < B
    n_1: f32 = index N
    y: f32[b] = div s n_1
    st: store Y[p0 * 64 + b] if p0 * 64 + b < B = y
"""

REDUNDANT = """\
program redundant
sizes B, N
fact N <= 512
kernel rows
  grid B, 4
  in X: f32[B, N]
  out Y: f32[B]
  axis c = 512
  axis q = 2
  order lane
  body
    x: f32[c] = load X[p0, c] if c < N else 0.0
    s: f32 = reduce sum x over c
    s_1: f32 = opaque "libdevice.lgamma" s
    st: store Y[p0] if q < 2 = s_1
"""

BEST = """\
program best
sizes B, N
fact N <= 512
fact 0 < N
kernel rows
  grid B
  in X: f32[B, N]
  out Y: f32[B]
  out J: i64[B]
  axis c = 512
  axis h = 2
  axis l = 256
  order lane
  line y "kernel.py:9"
  body
    x: f32[c] = load X[p0, c] if c < N else -inf
    i: i64[c] = index c
    j: i64 = argreduce argmax x i over c
    g: f32[h, l] = view x at c = h * 256 + l
    g_1: f32[h] = reduce max g over l
    g_2: f32 = reduce max g_1 over h
    sj: store J[p0] = j
    st: store Y[p0] = g_2
"""

IN_TABLE = ("I", "L", "V")  # 0 <= I[i] < V
RIGHT = {
    "online": ONLINE,
    "row": ROW,
    "swizzle": swizzled(SWIZZLE),
    "wrapped": swizzled(WRAPPED),
    "transpose": TRANSPOSE,
    "flat": FLAT,
    "strided": STRIDED,
    "persistent": PERSISTENT,
    "running": RUNNING,
    "lookup": LOOKUP,
    "count": COUNT,
    "split": SPLIT,
    "redundant": REDUNDANT,
    "best": BEST,
}
WRONG = {
    # the last group of rows is not cut to the rows there are
    "unclipped": swizzled(SWIZZLE.replace("if PM * 64 + m < M and PN", "if PN"), size="8"),
    # one column of tiles is visited twice, the last never
    "fewer columns": swizzled(SWIZZLE.replace("PN", "max(PN - 1, 0)")),
}
