"""Toy operators with kernels by hand in C: these tests need neither pipeline nor backend."""

from __future__ import annotations

import dataclasses
import subprocess
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from opwright.compiler.package import (
    Measurement,
    PackagedOperator,
    PackagedVariant,
    PackageSpec,
    ReferenceCase,
)
from opwright.ir.dtypes import DTYPES, decode, encode
from opwright.ir.expr import Expr, call, cast, const, param, read, reduction, size, toreal, var
from opwright.ir.op import Clause, OpAxis, Operator, Param, Tensor, Workload
from opwright.ir.plan import Launch, Plan
from opwright.ir.record import Record

# every kernel is compiled with T, LOAD(x), STORE(x) and MARK defined
PRELUDE = """
#include <stdint.h>
#include <string.h>
static inline float from_bf16(uint16_t b) {
  uint32_t u = (uint32_t)b << 16; float f; memcpy(&f, &u, 4); return f;
}
static inline uint16_t to_bf16(float f) {
  uint32_t u; memcpy(&u, &f, 4); return (uint16_t)((u + 0x7FFF + ((u >> 16) & 1)) >> 16);
}
const char opwright_toy[] = MARK;
"""
ROW_SCALE = """
int32_t opwright_run(void *const *p, const int64_t *n, const double *r, int32_t threads) {
  const int64_t B = n[0], N = n[1], flip = n[2];
  const int64_t *xs = n + 3, *ws = n + 5, *ys = n + 6, *ts = n + 8;
  const T *x = p[0]; const float *w = p[1]; T *y = p[2]; float *t = p[3];
  if (threads < 1) return 1;
  for (int64_t b = 0; b < B; b++) {
    float sum = 0;
    for (int64_t j = 0; j < N; j++) {
      float v = LOAD(x[b * xs[0] + j * xs[1]]) * w[j * ws[0]] * (float)r[0];
      if (flip) v = -v;
      y[b * ys[0] + j * ys[1]] = STORE(v);
      sum += v;
    }
    t[b * ts[0]] = sum;
  }
  return 0;
}
"""
PICK_ROWS = """
int32_t opwright_run(void *const *p, const int64_t *n, const double *r, int32_t threads) {
  const int64_t D = n[1], N = n[2], *as = n + 3, *is = n + 5, *ys = n + 6;
  const float *a = p[0]; const int32_t *i = p[1]; float *y = p[2];
  for (int64_t k = 0; k < N; k++)
    for (int64_t d = 0; d < D; d++)
      y[k * ys[0] + d * ys[1]] = a[i[k * is[0]] * as[0] + d * as[1]];
  return 0;
}
"""
SPREAD = """
int32_t opwright_run(void *const *p, const int64_t *n, const double *r, int32_t threads) {
  const int64_t B = n[0], K = n[1], E = n[2], *xs = n + 3, *es = n + 5, *ys = n + 6;
  const float *x = p[0], *e = p[1]; float *y = p[2];
  for (int64_t b = 0; b < B; b++)
    for (int64_t k = 0; k < K; k++)
      y[b * ys[0] + k * ys[1]] = x[b * xs[0]] + e[(k % (E + 1)) * es[0]];
  return 0;
}
"""
ACCUMULATE = """
int32_t opwright_run(void *const *p, const int64_t *n, const double *r, int32_t threads) {
  const int64_t C = n[0], *os = n + 1, *xs = n + 2, *ns = n + 3;
  const float *old = p[0], *x = p[1], *s = p[2]; float *now = p[3];
  for (int64_t c = C - 1; c >= 0; c--)  /* backwards: wrong in place with overlap */
    now[c * ns[0]] = old[(c > 0 ? c - 1 : 0) * os[0]] + s[0] * x[c * xs[0]];
  return 0;
}
"""
RAMP = """
int32_t opwright_run(void *const *p, const int64_t *n, const double *r, int32_t threads) {
  const int64_t K = n[0], *ys = n + 2;
  T *y = p[0];
  for (int64_t k = 0; k < K; k++)
    for (int64_t j = 0; j < 2; j++) y[k * ys[0] + j * ys[1]] = STORE((float)(n[1] + k + 10 * j));
  return 0;
}
"""
FAILS = """
int32_t opwright_run(void *const *p, const int64_t *n, const double *r, int32_t threads) {
  return 1;
}
"""
TYPES = {
    "f32": ("float", "(v)", "(v)"),
    "bf16": ("uint16_t", "from_bf16(v)", "to_bf16(v)"),
    "f16": ("_Float16", "(float)(v)", "(_Float16)(v)"),
}


def build(folder: Path, name: str, body: str, of: str = "f32") -> Path:
    kind, load, store = TYPES[of]
    source = folder / f"{name}.{of}.c"
    source.write_text(
        f'#define MARK "{name}"\n#define T {kind}\n'
        f"#define LOAD(v) {load}\n#define STORE(v) {store}\n" + PRELUDE + body
    )
    out = source.with_suffix(".so")
    subprocess.run(
        ["gcc", "-O1", "-shared", "-fPIC", str(source), "-o", str(out)], check=True, timeout=60
    )
    return out


def axes(**extents: Expr) -> tuple[OpAxis, ...]:
    return tuple(OpAxis(name, const(0), extent) for name, extent in extents.items())


def tensor(
    name: str, of: str, role: str, axes: tuple[OpAxis, ...], body: Expr | None = None
) -> Tensor:
    return Tensor(name, DTYPES[of], axes, body, role)


def row_scale(of: str) -> Operator:
    """y = x * w * alpha (negated with flip), t its sum by rows; two outputs, two params, a type."""
    b_, n_, B, N = var("b"), var("n"), size("B"), size("N")
    alpha, flip = param("alpha", "real"), param("flip", "bool")
    x, w = read("x", (b_, n_), "real"), read("w", (n_,), "real")
    value = call("select", flip, -(x * w * alpha), x * w * alpha)
    over = reduction("sum", ("k",), ((const(0), N),), read("y", (b_, var("k")), "real"))
    finite = call("lt", read("x", (b_, n_), "real"), const(float("inf")))
    return Operator(
        "row_scale",
        "1.2",
        "Rows scaled by weights, with their sums.",
        {"T": of},
        ("B", "N"),
        {},
        (
            Param("alpha", DTYPES["f32"], call("rsqrt", N)),
            Param("flip", DTYPES["bool"], const(False)),
        ),
        (call("le", 1, N), call("le", N, 1 << 20), call("lt", 0.0, alpha)),
        (tensor("x", of, "input", axes(b=B, n=N)), tensor("w", "f32", "input", axes(n=N))),
        (
            tensor("y", of, "output", axes(b=B, n=N), cast(value, DTYPES[of])),
            tensor("t", "f32", "output", axes(b=B), over),
        ),
        (
            Clause(
                "finite",
                "requires",
                reduction("all", ("b", "n"), ((const(0), B), (const(0), N)), finite),
            ),
        ),
        {"f32": {"abs": 1e-6, "rel": 1e-5}, "bf16": {"abs": 1e-2, "rel": 1e-2}},
        (Workload("small", 1.0, {"B": 8, "N": 64}, {}, {"T": of}, {}),),
        source="op row_scale",
        digest="sha256:0123",
    )


def pick_rows() -> Operator:
    """y[n, d] = a[i[n], d] with i in range and not decreasing: a check of values."""
    V, D, N = size("V"), size("D"), size("N")
    n_, d_ = var("n"), var("d")
    i = read("i", (n_,), "int")
    ordered = call("le", read("i", (n_,), "int"), read("i", (n_ + 1,), "int"))
    return Operator(
        "pick_rows",
        "1.0",
        None,
        {},
        ("V", "D", "N"),
        {},
        (),
        (),
        (tensor("a", "f32", "input", axes(v=V, d=D)), tensor("i", "i32", "input", axes(n=N))),
        (tensor("y", "f32", "output", axes(n=N, d=D), read("a", (i, d_), "real")),),
        (
            Clause(
                "in_range",
                "requires",
                reduction(
                    "all", ("n",), ((const(0), N),), call("and", call("le", 0, i), call("lt", i, V))
                ),
            ),
            Clause("ordered", "requires", reduction("all", ("n",), ((const(0), N - 1),), ordered)),
        ),
    )


def spread() -> Operator:
    """y[b..., k] = x[b..., 0] + e[k mod (E + 1)]: leading axes, a free size, a solved one."""
    B, K, E = size("B"), size("K"), size("E")
    b_, k_ = var("b"), var("k")
    value = read("x", (b_, const(0)), "real") + read("e", (k_ % (E + 1),), "real")
    return Operator(
        "spread",
        "0.1",
        None,
        {},
        ("B", "K", "E"),
        {},
        (),
        (),
        (
            tensor("x", "f32", "input", axes(b=B, z=const(1))),
            tensor("e", "f32", "input", axes(m=E + 1)),
        ),
        (tensor("y", "f32", "output", axes(b=B, k=K), value),),
        variadic=("B",),
    )


def accumulate() -> Operator:
    """now[c] = old[max(c - 1, 0)] + s * x[c]: an output that updates an input, a scalar input."""
    C, c_ = size("C"), var("c")
    before = read("old", (call("max", c_ - 1, 0),), "real")
    value = before + read("s", (), "real") * read("x", (c_,), "real")
    now = tensor("now", "f32", "output", axes(c=C), value)
    return Operator(
        "accumulate",
        "1.0",
        None,
        {},
        ("C",),
        {},
        (),
        (),
        (
            tensor("old", "f32", "input", axes(c=C)),
            tensor("x", "f32", "input", axes(c=C)),
            tensor("s", "f32", "input", ()),
        ),
        (dataclasses.replace(now, updates="old"),),
    )


def ramp(of: str) -> Operator:
    """y[k, j] = start + k + 10 j, column by column: no input, a type that only the result has."""
    K, k_, j_, start = size("K"), var("k"), var("j"), param("start", "int")
    value = cast(start + k_ + 10 * j_, DTYPES["i64"])
    y = tensor("y", of, "output", axes(k=K, j=const(2)), call("add", toreal(value), 0.0))
    return Operator(
        "ramp",
        "1.0",
        None,
        {"T": of},
        ("K",),
        {},
        (Param("start", DTYPES["i32"], const(0)),),
        (call("le", 0, size("K")), call("le", size("K"), 2**31 - 1)),
        (),
        (dataclasses.replace(y, layout="col"),),
    )


def plan(op: Operator, facts: tuple[str, ...] = ()) -> Plan:
    name = f"{op.name}@{op.version}"
    launch = Launch("kernel", tuple(t.name for t in (*op.inputs, *op.outputs)))
    return Plan(name, "cpu", "cpp", "kernel.c", (launch,), types=dict(op.types), facts=facts)


def variant(
    op: Operator, name: str, libraries: Mapping[str, Path], facts: tuple[str, ...] = ()
) -> PackagedVariant:
    records = (
        Record("G2.bounds", "G2", "PROVED", "every access is in range"),
        Record("G6.error", "G6", "TESTED", "3 cases", assumptions=("inputs are finite",)),
    )
    return PackagedVariant(name, plan(op, facts), libraries, "/* C */", "tile text", (), records)


def row_scale_case(op: Operator, rows: int, columns: int) -> ReferenceCase:
    of = op.types["T"]
    rng = np.random.default_rng(7)
    x = encode(rng.standard_normal((rows, columns)), DTYPES[of])
    w = rng.standard_normal(columns).astype(np.float32)
    y = -(decode(x, DTYPES[of]) * w.astype(np.float64) * 0.5)
    return ReferenceCase(
        f"{of} {rows}x{columns}",
        {"B": rows, "N": columns},
        {"alpha": 0.5, "flip": True},
        {"x": x, "w": w},
        {"y": y, "t": y.sum(axis=1)},
        {"y": (2e-2, 1e-2) if of != "f32" else (1e-6, 1e-5), "t": (1e-1, 1e-2)},
    )


def row_scale_package(folder: Path) -> PackageSpec:
    operators = []
    for of in ("f32", "bf16", "f16"):
        op = row_scale(of)
        wide = build(folder, "wide", ROW_SCALE, of)
        plain = build(folder, "plain", ROW_SCALE, of)
        dense = ("stride(x, 1) == 1", "stride(w, 0) == 1", "stride(y, 1) == 1", "N % 8 == 0")
        variants = (
            variant(op, "aligned", {"portable": wide}, (*dense, "aligned(x, 64)", "not flip")),
            variant(op, "dense", {"x86-64-v4": wide, "portable": wide}, dense),
            variant(op, "plain", {"portable": plain}),
        )
        cases = (row_scale_case(op, 3, 8), row_scale_case(op, 2, 5))
        operators.append(PackagedOperator(op, variants, cases))
    return PackageSpec(
        'opwright "0.1"\n# the text as written: "é"\nop row_scale @ 1.2 { }\n',
        tuple(operators),
        benchmarks=(Measurement("small", {"T": "f32"}, "dense", 1.5e-6, {"torch": 3e-6}),),
        machine={"cpu": "a test machine", "threads": 2},
        provenance={"proposer": "by hand"},
    )


def ramp_package(folder: Path) -> PackageSpec:
    operators = []
    for of in ("f32", "f16"):
        op = ramp(of)
        library = build(folder, "ramp", RAMP, of)
        operators.append(PackagedOperator(op, (variant(op, "plain", {"portable": library}),)))
    return PackageSpec("op ramp\n", tuple(operators))


def simple_package(folder: Path, op: Operator, body: str) -> PackageSpec:
    library = build(folder, op.name, body)
    packaged = PackagedOperator(op, (variant(op, "plain", {"portable": library}),))
    return PackageSpec(f"op {op.name}\n", (packaged,))
