"""Vectors as people write them in C++: read exactly, or refused; never taken for something else."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("clang.cindex")

from support.written_cpp import COPY, FLAT, IDS, operator, plan_of, statuses

from opwright.backends.cpp.importer import import_program
from opwright.ir.interpreter import run
from opwright.ir.launch import ImportRefusal, bind_plan
from opwright.ir.tilecheck import check_program
from opwright.verify.tile_function import tile_function

HEAD_OF = """#include <stdint.h>
#include <string.h>
typedef float f32x8 __attribute__((vector_size(32)));
typedef float f32x8u __attribute__((vector_size(32), aligned(4)));
typedef float f32x4 __attribute__((vector_size(16)));
typedef int32_t i32x8 __attribute__((vector_size(32)));
typedef uint32_t u32x8 __attribute__((vector_size(32)));
static inline f32x8 load(const float *p) { f32x8 v; memcpy(&v, p, sizeof v); return v; }
static inline void store(float *p, f32x8 v) { __builtin_memcpy(p, &v, sizeof(v)); }
"""
X = np.random.default_rng(3).standard_normal(24).astype(np.float32)


START = "const float *p = x + pid0 * 8; float *q = y + pid0 * 8;"


def kernel(body, facts=(), grid="cdiv(N, 8)", text=None, name="k"):
    """The program of a kernel with eight elements a program."""
    op = operator(COPY)
    plan = plan_of(op, [grid], ["x", "y", "N"], [*FLAT, "N % 8 == 0", *facts], name)
    program = import_program(text or HEAD_OF + written(name, body), bind_plan(plan, op), "k.cpp")
    check_program(program)
    return op, program


def written(name, body):
    return f'extern "C" void {name}(const float *x, float *y, int64_t n{IDS}) {{ {body} }}\n'


def together(bodies):
    """One text of many kernels, which is read once."""
    return HEAD_OF + "".join(written(f"k{n}", f"{START} {b}") for n, b in enumerate(bodies))


BY_FOUR = X.reshape(3, 2, 4)
EXACT = [
    ("store(q, load(p) + 1.0f);", X + 1),
    ("store(q, (f32x8){p[0], 2, 3});", [[a, 2, 3, 0, 0, 0, 0, 0] for a in X[::8]]),
    ("f32x8 v = {p[0]}; store(q, v);", [[a, 0, 0, 0, 0, 0, 0, 0] for a in X[::8]]),
    ("f32x8 v = {1, 2, 3, 4, 5, 6, 7, 8}; store(q, v * p[1]);",
     np.outer(X[1::8], np.arange(1, 9))),
    ("f32x8 v; for (int i = 0; i < 8; i++) v[i] = p[7 - i]; store(q, v);",
     X.reshape(3, 8)[:, ::-1]),
    ("f32x8 v = load(p); v[2] = 9; store(q, v);", np.where(np.arange(24) % 8 == 2, 9, X)),
    ("f32x8 v = load(p); float s = 0;"
     " for (int i = 0; i < 8; i++) s += v[i]; store(q, s - f32x8{});",
     np.repeat(X.reshape(3, 8).sum(1), 8)),
    ("f32x8 v = load(p), w = v * 2; "
     "store(q, __builtin_shufflevector(v, w, 1, 0, 9, 8, 4, 5, 14, 15));",
     X.reshape(3, 8)[:, [1, 0, 1, 0, 4, 5, 6, 7]] * [1, 1, 2, 2, 1, 1, 2, 2]),
    ("f32x8 v = load(p); f32x4 a = __builtin_shufflevector(v, v, 4, 5, 6, 7);"
     " memcpy(q, &a, 16); memcpy(q + 4, &a, 16);", BY_FOUR[:, [1, 1]]),
    ("f32x8 a[2] = {}; a[1] = load(p);"
     " for (int i = 0; i < 2; i++) a[i] += 1.0f; store(q, a[0] + a[1]);",
     X + 2),
    ("f32x8 v = *(const f32x8u *)p; ((f32x8u *)q)[0] = v;", X),
    ("const f32x8u *v = (const f32x8u *)x; f32x8u *w = (f32x8u *)y; w[pid0] = *(v + pid0);", X),
    ("f32x8 v = load(p); i32x8 m = v > 0; store(q, (f32x8)((i32x8)v & m));", np.maximum(X, 0)),
    ("f32x8 v = load(p); u32x8 b = (u32x8)v & 0x7fffffffu; store(q, (f32x8)b);", np.abs(X)),
    ("f32x8 v = load(p); i32x8 i = __builtin_convertvector(v, i32x8);"
     " store(q, __builtin_convertvector(i, f32x8));",
     np.trunc(X)),
    ("float s = p[0]; uint32_t b; memcpy(&b, &s, 4); b ^= 0x80000000u; memcpy(&s, &b, 4);"
     " store(q, s - f32x8{});", np.repeat(-X[::8], 8)),
    ("for (int i = 0; i < 8; i++) q[i] = (i & 6) + (i >> 2 << 1);",
     np.tile([0, 0, 2, 2, 6, 6, 8, 8], 3)),
]  # fmt: skip


ALL = together([body for body, _ in EXACT])


@pytest.mark.parametrize("n", range(len(EXACT)))
def test_vectors_are_read_exactly(n):
    op, program = kernel("", text=ALL, name=f"k{n}")
    got = run(program, {"N": 24}, {"x": X})["y"]
    assert np.allclose(got, np.asarray(EXACT[n][1]).ravel(), rtol=1e-5)
    assert statuses(op, program) == {}


def function(op, program):
    return {r.status for r in tile_function(program, op, "k")}


NEAR = [  # what looks like the copy and is none, or is one by bits alone
    "f32x8 v = load(p); store(q, __builtin_convertvector((i32x8)v, f32x8));",
    "f32x8 v = load(p); store(q, (f32x8)__builtin_convertvector(v, i32x8));",
    "f32x8 v = load(p); store(q, (f32x8)((u32x8)v + 0u * (u32x8)v));",
    "f32x8 v = load(p); store(q, (f32x8)((u32x8)v << 1 >> 1));",
    "f32x8 v = load(p); store(q, __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 7, 6));",
    "f32x8 v = {p[0]}; store(q, v);",
    "f32x8 v = load(p); v[7] = v[6]; store(q, v);",
]


RIGHT = ["store(q, load(p));", "f32x8 v = load(p); store(q, (f32x8)(u32x8)v);"]
COPIES = together([*NEAR, *RIGHT])


@pytest.mark.parametrize("n", range(len(NEAR) + len(RIGHT)))
def test_what_is_no_copy_is_not_proved(n):
    found = function(*kernel("", text=COPIES, name=f"k{n}"))
    assert found == {"PROVED"} if n >= len(NEAR) else "PROVED" not in found


def test_a_pointer_to_vectors_is_aligned():
    body = "*(f32x8 *)(y + pid0 * 8) = *(const f32x8 *)(x + pid0 * 8);"
    op, program = kernel(body)
    assert {s for n, s in statuses(op, program).items() if "align" in n} <= {"REFUTED", "UNKNOWN"}
    assert statuses(op, program)
    op, program = kernel(body, ["aligned(x, 32)", "aligned(y, 32)"])
    assert statuses(op, program) == {}
    odd = "*(f32x8u *)(y + pid0 * 8) = *(const f32x8 *)(x + (pid0 * 8 + 4) % n);"
    op, program = kernel(odd, ["aligned(x, 32)", "aligned(y, 32)"])
    assert statuses(op, program)


REFUSED = [
    ("f32x8 v; v[0] = 1; store(y, v);", "assigned"),
    ("f32x8 v; for (int i = 0; i < 7; i++) v[i] = 1; store(y, v);", "assigned"),
    ("f32x8 v; memcpy(&v, x, 16); store(y, v);", "other bytes"),
    ("f32x8 v = load(x); v[n] = 1; store(y, v);", "no known number"),
    ("f32x8 v; if (n > 8) v[0] = 1; for (int i = 1; i < 8; i++) v[i] = 1; store(y, v);",
     "assigned"),
    ("f32x4 v = *(const f32x4 *)(const double *)x; memcpy(y, &v, 16);", "punning"),
    ("float s = x[0]; y[0] = *(int *)&s;", "address|punning"),
]  # fmt: skip


@pytest.mark.parametrize("body, what", REFUSED)
def test_parts_that_nobody_assigned_are_refused(body, what):
    with pytest.raises(ImportRefusal, match=what):
        kernel(body, grid="1")


def test_an_element_outside_of_a_vector_in_memory_is_not_proved():
    body = "f32x8 a[2] = {}; for (int64_t i = 0; i < n; i++) a[0][i % 9] = 1; store(y, a[0]);"
    op, program = kernel(body, ["N <= 8"], grid="1")
    assert "REFUTED" in statuses(op, program).values()
