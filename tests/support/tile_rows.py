"""Small tile programs for proofs of functions, as importers make them, with what they compute; and
near misses: what is written instead of what."""

from __future__ import annotations

from dataclasses import dataclass

HEAD = 'opwright "0.1"\n'


@dataclass(frozen=True, slots=True)
class Row:
    """A spec, a program that is it, and changes of the program that are not."""

    spec: str
    program: str
    wrong: tuple[tuple[str, str], ...]


ROWS = {
    "magnitudes": Row(
        """op peak @ 1.0 {
  dims B, N
  where N >= 1
  input x: f32[B, N]
  output s: f32[B]
  def { s[b] = max(max[j: N](abs(x[b, j])), 0.5) }
}""",
        """program peak
sizes B, N
fact N <= 4096
kernel peak
  grid B
  in x: f32[B, N]
  out s: f32[B]
  axis c = 4096
  order lane
  body
    v: f32[c] = load x[p0, c] if c < N else 0.0
    a: f32[c] = abs v
    m: f32 = reduce max a over c
    t: f32 = full 0.5
    r: f32 = max m t
    st_s: store s[p0] = r
""",
        (
            ("= abs v", "= neg v"),
            ("reduce max a over c", "reduce max v over c"),
            ("else 0.0", "else 1.0"),
            ("reduce max", "reduce min"),
            ("full 0.5", "full 0.0"),
        ),
    ),
    "place": Row(
        """op place @ 1.0 {
  dims B, N
  where N >= 1
  input x: f32[B, N]
  output y: i32[B]
  def { y[b] = argmax[j: N](x[b, j]) }
}""",
        """program place
sizes B, N
fact N <= 1024
kernel place
  grid B
  in x: f32[B, N]
  out y: i32[B]
  axis c = 1024
  order lane
  body
    row: f32[c] = load x[p0, c] if c < N else -inf
    t: i32[c] = index c
    at: i32 = argreduce argmax row t over c
    st_y: store y[p0] = at
""",
        (("else -inf", "else 0.0"), ("else -inf", "else inf"), ("c < N else", "c < N - 1 else")),
    ),
    "lanes": Row(
        """op mass @ 1.0 {
  dims B, N
  where N >= 1
  input x: f32[B, N]
  output y: f32[B]
  def {
    m[b] = max[j: N](x[b, j])
    y[b] = sum.f32[j: N](exp(x[b, j] - m[b]))
  }
}""",
        """program mass
sizes B, N
fact N <= 1000000
kernel mass
  grid B
  in x: f32[B, N]
  out y: f32[B]
  axis n = 256
  order lane
  body
    low: f32[n] = full -inf
    zero: f32[n] = full 0.0
    for s in 0 .. N by 256 carry m = low, z = zero -> m_r, z_r:
      v: f32[n] = load x[p0, s + n] if s + n < N else -inf
      new: f32[n] = max m v
      least: f32 = full -inf
      none: bool[n] = eq new least
      a: f32[n] = sub m new
      b: f32[n] = exp a
      c: f32[n] = mul z b
      d: f32[n] = sub v new
      e: f32[n] = exp d
      f: f32[n] = add c e
      g: f32[n] = select none z f
      next new, g
    top: f32 = reduce max m_r over n
    h: f32[n] = sub m_r top
    i: f32[n] = exp h
    k: f32[n] = mul z_r i
    r: f32 = reduce sum k over n
    st_y: store y[p0] = r
""",
        (
            ("next new, g", "next new, f"),  # of lanes without elements: not a number
            ("select none z f", "select none f z"),
            ("else -inf", "else 0.0"),
            ("mul z b", "mul z z"),
            ("mul z_r i", "add z_r i"),
            ("reduce sum k over n", "reduce sum z_r over n"),
            ("sub m new", "sub new m"),
            ("zero: f32[n] = full 0.0", "zero: f32[n] = full 1.0"),
            ("v: f32[n] = load x[p0, s + n] if s + n < N", "v: f32[n] = load x[p0, n] if n < N"),
        ),
    ),
    "shares": Row(
        """op columns @ 1.0 {
  dims M, N
  input x: f32[M, N]
  output y: f32[N]
  def { y[j] = sum.f32[i: M](x[i, j]) }
}""",
        """program columns
sizes M, N
kernel one
  grid N, 3
  in x: f32[M, N]
  plan part: f32[3, N]
  order lane
  body
    t: f32 = full 0.0
    for i in p1 * ((M + 2) // 3) .. min((p1 + 1) * ((M + 2) // 3), M) by 1 carry c = t -> d:
      v: f32 = load x[i, p0]
      b: f32 = add c v
      next b
    st_part: store part[p1, p0] = d
kernel two
  grid N
  plan part: f32[3, N]
  out y: f32[N]
  order lane
  body
    u0: f32 = load part[0, p0]
    u1: f32 = load part[1, p0]
    u2: f32 = load part[2, p0]
    s1: f32 = add u0 u1
    s2: f32 = add s1 u2
    st_y: store y[p0] = s2
""",
        (
            (".. min((p1 + 1) * ((M + 2) // 3), M)", ".. M"),
            ("load part[2, p0]", "load part[1, p0]"),
            ("add s1 u2", "add s1 u1"),
            ("(p1 + 1) * ((M + 2) // 3)", "(p1 + 1) * ((M + 1) // 3)"),
        ),
    ),
    "tail": Row(
        """op columns @ 1.0 {
  dims M, N
  input x: f32[M, N]
  output y: f32[N]
  def { y[j] = sum.f32[i: M](x[i, j]) }
}""",
        """program columns
sizes M, N
kernel cs
  grid N
  in x: f32[M, N]
  out y: f32[N]
  order lane
  body
    t: f32 = full 0.0
    for i in 0 .. M - 1 by 2 carry a = t, b = t -> a_r, b_r:
      u: f32 = load x[i, p0]
      v: f32 = load x[i + 1, p0]
      a1: f32 = add a u
      b1: f32 = add b v
      next a1, b1
    w: f32 = load x[M // 2 * 2, p0] if M // 2 * 2 < M
    c: f32 = add a_r w
    more: bool = index M // 2 * 2 < M
    d: f32 = select more c a_r
    e: f32 = add d b_r
    st_y: store y[p0] = e
""",
        (
            ("select more c a_r", "select more a_r c"),
            ("0 .. M - 1 by 2", "0 .. M - 2 by 2"),
            ("add d b_r", "add d a_r"),
            ("index M // 2 * 2 < M", "index M // 2 * 2 < M - 1"),
        ),
    ),
    "running": Row(
        """op running @ 1.0 {
  dims B, N
  input x: f32[B, N]
  output y: f32[B, N]
  def { y[b, i] = sum.f32[j: N | j <= i](x[b, j]) }
}""",
        """program running
sizes B, N
fact N <= 2048
kernel cs
  grid B
  in x: f32[B, N]
  out y: f32[B, N]
  axis i = 2048
  order lane
  body
    v: f32[i] = load x[p0, i] if i < N else 0.0
    t: f32[i] = scan sum v over i
    st_y: store y[p0, i] if i < N = t
""",
        (
            ("scan sum v over i", "scan max v over i"),
            ("if i < N else 0.0", "if i < N - 1 else 0.0"),
        ),
    ),
    "clamped": Row(
        """op clamped @ 1.0 {
  dims N
  input x: f32[N]
  output y: f32[N]
  def { y[i] = min(max(x[i], -0.5), 0.75) }
}""",
        """program clamped
sizes N
kernel k
  grid N
  in x: f32[N]
  out y: f32[N]
  order lane
  body
    t: f32 = load x[p0]
    lo: f32 = full -0.5
    hi: f32 = full 0.75
    below: bool = lt t lo
    above: bool = lt hi t
    u: f32 = select below lo t
    r: f32 = select above hi u
    st_y: store y[p0] = r
""",
        (
            ("lt t lo", "lt lo t"),
            ("lt hi t", "lt t hi"),
            ("select above hi u", "select above u hi"),
            ("select above hi u", "select below hi u"),
            ("full -0.5", "full 0.5"),
        ),
    ),
    "exponentials": Row(
        """op odd @ 1.0 {
  dims N
  input x: f32[N]
  output y: f32[N]
  def { y[i] = x[i] * (1.0 + tanh(x[i])) }
}""",
        """program odd
sizes N
kernel k
  grid N
  in x: f32[N]
  out y: f32[N]
  order lane
  body
    v: f32 = load x[p0]
    two: f32 = full 2.0
    one: f32 = full 1.0
    a: f32 = mul v two
    n: f32 = neg a
    e: f32 = exp n
    d: f32 = add one e
    q: f32 = div two d
    r: f32 = mul q v
    st_y: store y[p0] = r
""",
        (("div two d", "div one d"), ("neg a", "neg v"), ("add one e", "sub one e")),
    ),
    "means": Row(
        """op means @ 1.0 {
  dims B, L
  where 1 <= L, L <= 128
  input x: f32[B, L], len: i32[B]
  output y: f32[B]
  def { y[b] = sum.f32[l: L | l < len[b]](x[b, l]) / max(f32(len[b]), 1.0) }
  requires ok: all[b: B](0 <= len[b] and len[b] <= L)
}""",
        """program means
sizes B, L
kernel k
  grid B
  in x: f32[B, L]
  in len: i32[B]
  out y: f32[B]
  axis l = 128
  order lane
  body
    n: i32 = load len[p0]
    v: f32[l] = load x[p0, l] if l < n else 0.0
    s: f32 = reduce sum v over l
    one: i32 = full 1
    m: i32 = max n one
    f: f32 = cast m
    r: f32 = div s f
    st_y: store y[p0] = r
""",
        (("if l < n", "if l < n - 1"), ("max n one", "min n one"), ("full 1", "full 2")),
    ),
    "hidden": Row(
        """op hidden @ 1.0 {
  dims B, N
  where N >= 1
  input x: f32[B, N]
  output y: f32[B]
  def { y[b] = log(sum.f32[j: N](exp(2.0 * x[b, j] - max[k: N](2.0 * x[b, k])))) }
}""",
        """program hidden
sizes B, N
fact N <= 256
kernel k
  grid B
  in x: f32[B, N]
  out y: f32[B]
  axis n = 256
  order lane
  body
    v: f32[n] = load x[p0, n] if n < N else 0.0
    two: f32 = full 2.0
    z: f32[n] = mul v two
    on: bool[n] = index n < N
    zero: f32 = full 0.0
    low: f32 = full -inf
    bias: f32[n] = select on zero low
    w: f32[n] = add z bias
    m: f32 = reduce max w over n
    d: f32[n] = sub w m
    e: f32[n] = exp d
    s: f32 = reduce sum e over n
    r: f32 = log s
    st_y: store y[p0] = r
""",
        (
            ("select on zero low", "select on low zero"),
            ("add z bias", "sub z bias"),
            ("reduce max w over n", "reduce max z over n"),
            ("index n < N", "index n < N - 1"),
        ),
    ),
    "rounds": Row(
        """op total @ 1.0 {
  dims N
  input x: f32[N]
  output y: f32[1]
  def { y[k] = sum.f32[j: N](x[j]) }
}""",
        """program total
sizes N
kernel zero
  grid 1
  out y: f32[1]
  order lane
  body
    t: f32 = full 0.0
    st_y: store y[0] = t
kernel k
  grid 4
  in x: f32[N]
  out y: f32[1]
  axis c = 64
  order lane
  body
    t: f32 = full 0.0
    for i in p0 * 64 .. N by 256 carry s = t -> s_r:
      v: f32[c] = load x[i + c] if i + c < N else 0.0
      a: f32 = reduce sum v over c
      b: f32 = add s a
      next b
    at_y: atomic sum y[0] = s_r
""",
        (
            ("by 256", "by 192"),
            ("by 256", "by 320"),
            ("p0 * 64 .. N", "p0 * 32 .. N"),
            ("grid 4", "grid 3"),
        ),
    ),
}
