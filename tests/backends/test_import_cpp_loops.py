"""Loops as people write them in C++: pointers that are compared, steps in conditions, returns out
of nested loops, parallel loops. Imported, proved for all shapes, run against numpy."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("clang.cindex")

from support.written_cpp import (
    COPY,
    FLAT,
    HEAD,
    IDS,
    dense,
    imported,
    operator,
    plan_of,
    statuses,
)

from opwright.backends.cpp.importer import import_program
from opwright.ir.interpreter import run
from opwright.ir.launch import ImportRefusal, bind_plan
from opwright.ir.tilecheck import check_program

RNG = np.random.default_rng(7)


def copied(body, grid="1", facts=FLAT):
    text = f'extern "C" void k(const float *x, float *y, int64_t n{IDS}) {{\n{body} }}'
    return imported(COPY, text, [grid], ["x", "y", "N"], facts)


RIGHT = [
    "const float *p = x; const float *end = x + n; while (p != end) { *y = *p; ++p; ++y; }",
    "for (const float *p = x; p != x + n; ++p) y[p - x] = *p;",
    "for (const float *p = x, *e = p + n; p < e; p++) *y++ = *p;",
    "if (n == 0) return; const float *p = x; *y = *p;"
    " while (++p != x + n) *++y = *p;",
    "int64_t i = n; while (i-- > 0) y[i] = x[i];",
    "for (int64_t i = n; i-- > 0;) y[i] = x[i];",
    "int64_t i = 0; while (i < n) { y[i] = x[i]; i++; }",
    "int64_t i = 0; while (i < n) { y[i] = x[i]; i++; float t = 0; }",
    "for (int64_t b = 0; b < n; b += 8) for (int i = 0; i < 8; i++)"
    " { const int64_t j = b + i; if (j >= n) break; y[j] = x[j]; }",
    "for (int64_t b = 0; b < n; b += 8) for (int i = 0; i < 8; i++)"
    " { const int64_t j = b + i; if (j >= n) return; y[j] = x[j]; }",
    "for (int64_t a = 0; a < n; a += 64) for (int64_t b = a; b < a + 64; b += 8)"
    " for (int i = 0; i < 8; i++) { if (b + i >= n) return; y[b + i] = x[b + i]; }",
    "int64_t i = 0; for (; i + 4 <= n; i += 4) for (int j = 0; j < 4; j++) *y++ = *x++;"
    " for (; i < n; i++) *y++ = *x++;",
    "int64_t i = 0; while (true) { if (i >= n) break; y[i] = x[i]; i += 1; }",
    "for (int64_t i = 0;; i++) { const int64_t j = i; if (j == n) break; y[j] = x[j]; }",
    "if (n > 0) { int64_t i = 0; do { y[i] = x[i]; } while (++i < n); }",
    "std::copy(x, x + n, y);",
    "std::copy_n(x, n, y);",
    "#pragma omp parallel for\nfor (int64_t i = 0; i < n; i++) y[i] = x[i];",
    "#pragma omp parallel for schedule(static, 4) num_threads(2)\n// a comment\n\n"
    "for (int64_t i = n - 1; i >= 0; i--) y[i] = x[i];",
    "int64_t j;\n#pragma omp parallel for private(j)\nfor (int64_t b = 0; b < (n + 7) / 8; b++)"
    " for (j = b * 8; j < n && j < b * 8 + 8; j++) y[j] = x[j];",
    "if (n <= 0) return;\n#pragma omp parallel for\n"
    "for (int64_t b = 0; b < n; b += 16) for (int64_t i = b; i < std::min(b + 16, n); i++)"
    " { float t[1]; t[0] = x[i]; y[i] = t[0]; }",
    "const int64_t half = n / 2;\n#pragma omp parallel for\n"
    "for (int64_t i = 0; i < half; i++) y[i] = x[i];\n"
    "#pragma omp parallel for\nfor (int64_t i = half; i < n; i++) y[i] = x[i];",
    "#pragma omp parallel for\nfor (int64_t i = 1; i < n; i++) y[i] = x[i];\n"
    "if (n > 0) y[0] = x[0];",
]  # fmt: skip


@pytest.mark.parametrize("body", RIGHT)
def test_right_loops_are_proved(body):
    op, program = copied(body)
    assert statuses(op, program) == {}
    for n in (1, 7, 21):
        x = RNG.standard_normal(n)
        assert np.array_equal(run(program, {"N": n}, {"x": x})["y"], x)


WRONG = [
    "const float *p = x; const float *end = x + n - 1; while (p != end) { *y = *p; ++p; ++y; }",
    "for (const float *p = x; p != x + n; ++p) y[p - x + 1] = *p;",
    "const float *p = x; while (++p != x + n) *++y = *p;",
    "int64_t i = n; while (--i > 0) y[i] = x[i];",
    "int64_t i = 0; while (true) { if (i > n) break; y[i] = x[i]; i += 1; }",
    "int64_t i = 0; do { y[i] = x[i]; } while (++i <= n);",
    "std::copy(x, x + n - 1, y);",
    "int64_t i = n; while (i-- > 1) y[i] = x[i];",
    "for (int64_t b = 0; b < n; b += 8) for (int i = 0; i < 7; i++)"
    " { const int64_t j = b + i; if (j >= n) return; y[j] = x[j]; }",
    "for (int64_t b = 0; b < n; b += 8) for (int i = 0; i < 8; i++)"
    " { const int64_t j = b + i; if (j > n) return; y[j] = x[j]; }",
    "#pragma omp parallel for\nfor (int64_t i = 0; i < n; i++) { y[i] = x[i]; y[0] = x[0]; }",
    "#pragma omp parallel for\nfor (int64_t i = 0; i < n; i++) y[i / 2 * 2] = x[i];",
    "#pragma omp parallel for\nfor (int64_t i = 0; i + 1 < n; i++) y[i] = x[i];",
]


@pytest.mark.parametrize("body", WRONG)
def test_wrong_loops_are_refuted(body):
    op, program = copied(body)
    assert "REFUTED" in statuses(op, program).values()


@pytest.mark.parametrize(
    "body, what, line",
    [
        ("float t = 0;\n#pragma omp parallel for\nfor (int64_t i = 0; i < n; i++) { t += x[i];"
         " y[i] = t; }", "share t", 7),
        ("float t[4];\n#pragma omp parallel for\nfor (int64_t i = 0; i < n; i++) { t[0] = x[i];"
         " y[i] = t[0]; }", "share t", 7),
        ("float t = 0;\n#pragma omp parallel for reduction(+ : t)\n"
         "for (int64_t i = 0; i < n; i++) { t += x[i]; y[i] = t; }", "reduces and writes", 7),
        ("float t = 0, u = 0;\n#pragma omp parallel for reduction(+ : t)\n"
         "for (int64_t i = 0; i < n; i++) { t += x[i]; u += t; }", "share u", 7),
        ("#pragma omp parallel for ordered\nfor (int64_t i = 0; i < n; i++) y[i] = x[i];",
         "clause ordered", 5),
        ("for (int64_t b = 0; b < n; b++)\n{\n#pragma omp parallel for\n"
         "for (int64_t i = b; i < n; i++) y[i] = x[i]; }", "inside another loop", 8),
        ("#pragma omp parallel for\ny[0] = x[0];", "something else", 6),
        ("y[0] = 0; const float t = y[0];\n#pragma omp parallel for\n"
         "for (int64_t i = 0; i < n; i++) y[i] = x[i] + t;", "before a parallel loop", 5),
        ("for (int64_t b = 0; b < n; b += 8) for (int i = 8; i >= 0; i--)\n"
         "{ if (b + i >= n) return; y[b + i] = x[b + i]; }", "return inside a loop", 6),
        ("for (int64_t b = 0; b < n; b += 8) { y[b] = 0; for (int i = 0; i < 8; i++)\n"
         "{ if (b + i >= n) return; y[b + i] = x[b + i]; } }", "return inside a loop", 6),
    ],
)  # fmt: skip
def test_what_has_no_meaning_here_is_refused_with_its_line(body, what, line):
    with pytest.raises(ImportRefusal, match=what) as e:
        copied(body)
    assert e.value.line == line


def test_parallel_loops_beside_each_other_are_launches():
    _, program = copied(RIGHT[-2])
    assert len(program.kernels) == 2
    with pytest.raises(ImportRefusal, match="several parallel loops"):
        copied(RIGHT[-2], "N")


ROWS = (
    "op rows @ 1.0 { dims B, N input x: f32[B, N] output y: f32[B, N] def { y[b, j] = x[b, j] } }"
)


@pytest.mark.parametrize(
    "body",
    [
        "for (int64_t b = 0; b < m; b++) for (int64_t j = 0; j < n; j++) *y++ = *x++;",
        "for (int64_t b = 0; b < m; b++, x += n) { const float *e = x + n;"
        " for (const float *p = x; p != e; ++p) *y++ = *p; }",
        "#pragma omp parallel for collapse(2)\n"
        "for (int64_t b = 0; b < m; b++) for (int64_t j = 0; j < n; j++)"
        " y[b * n + j] = x[b * n + j];",
    ],
)
def test_pointers_run_through_rows(body):
    text = f'extern "C" void k(const float *x, float *y, int64_t m, int64_t n{IDS}) {{\n{body} }}'
    facts = dense(x="BN", y="BN")
    op, program = imported(ROWS, text, ["1"], ["x", "y", "B", "N"], facts)
    assert statuses(op, program) == {}
    x = RNG.standard_normal((3, 5))
    steps = {("x", 0): 5, ("x", 1): 1, ("y", 0): 5, ("y", 1): 1}
    assert np.array_equal(run(program, {"B": 3, "N": 5}, {"x": x}, {}, steps)["y"], x)


def test_a_missing_tail_names_the_lines_of_its_stores_and_an_element():
    from opwright.verify.context import Context
    from opwright.verify.gates import safety

    body = (
        "for (int64_t i = 0; i + 4 <= n; i += 4)\n for (int j = 0; j < 4; j++)\n y[i + j] = x[i];"
    )
    op, program = copied(body)
    (found,) = [r for r in safety(program, Context.of(op)) if r.id == "G3.cover.y"]
    line = HEAD.count("\n") + 4
    assert found.status == "REFUTED" and f"kernel.cpp:{line}" in found.reason
    example = found.counterexample
    assert example["line"] == f"kernel.cpp:{line}" and example["buffer"] == "y"
    assert example["sizes"]["N"] % 4 and example["index"][0] < example["sizes"]["N"]


def test_reductions_of_parallel_loops():
    spec = (
        "op mean @ 1.0 { dims N where N >= 1 input x: f32[N] output y: f32"
        " def { y = sum[i: 0..N](x[i]) } }"
    )
    text = f'extern "C" void k(const float *x, float *y, int64_t n{IDS}) {{ float t = 0, u;\n'
    text += "#pragma omp parallel for reduction(+:t) private(u)\n"
    text += "for (int64_t i = 0; i < n; i++) { u = x[i]; t += u; }\ny[0] = t; }"
    op, program = imported(spec, text, ["1"], ["x", "y", "N"], ["stride(x, 0) == 1"])
    assert statuses(op, program) == {}
    assert float(run(program, {"N": 7}, {"x": np.arange(1.0, 8.0)})["y"]) == 28


def test_templates_take_numbers():
    text = "template <int W> static void block(const float *x, float *y, int64_t n) {"
    text += " for (int64_t i = 0; i < n; i += W) for (int j = 0; j < W && i + j < n; j++)"
    text += " y[i + j] = x[i + j]; }\n"
    text += f'extern "C" void k(const float *x, float *y, int64_t n{IDS}) {{ block<8>(x, y, n); }}'
    op, program = imported(COPY, text, ["1"], ["x", "y", "N"], FLAT)
    assert statuses(op, program) == {}


def test_narrow_conditions_are_checked_for_wrap():
    op, program = copied("for (int64_t i = 0; (int)(i + 1000000000) < 1000000000 + n; i++)"
                         " y[i] = x[i];")  # fmt: skip
    assert any(r.startswith("G2.wrap") for r in statuses(op, program))


def spread_out(x):
    out = np.zeros(len(x))
    for i in range(len(x)):
        for j in range(0, 5, 2):
            if i + j < len(x):
                out[i + j] += x[i + j]
    return out


def some(x):
    out = np.zeros(len(x))
    out[::3] += x[::3]
    return out


MEMORY = [  # an output that is used as memory: written again, in part, where others read
    ("for (int64_t i = 0; i < n; ++i) for (int j = 0; j <= 4; j += 2)"
     " if (i + j < n) y[i + j] += x[i + j];", spread_out),
    ("for (int64_t i = 0; i < n; i += 3) y[i] += x[i];", some),
    ("for (int64_t i = 0; i < n; i++) y[i] = x[i];"
     " for (int64_t i = 0; i < n; i++) y[i] *= 2; y[0] += 1;",
     lambda x: np.concatenate([2 * x[:1] + 1, 2 * x[1:]])),
    ("for (int64_t i = 0; i <= n; i++) y[0] += 1;",
     lambda x: np.concatenate([[len(x) + 1.0], 0 * x[1:]])),
]  # fmt: skip


@pytest.mark.parametrize("body, wanted", MEMORY)
def test_outputs_are_memory(body, wanted):
    spec = COPY.replace("dims N", "dims N where N >= 1")
    text = f'extern "C" void k(const float *x, float *y, int64_t n{IDS}) {{\n'
    text += f"for (int64_t z = 0; z < n; z++) y[z] = 0;\n{body} }}"
    op, program = imported(spec, text, ["1"], ["x", "y", "N"], FLAT)
    assert statuses(op, program) == {}
    x = RNG.standard_normal(11)
    np.testing.assert_allclose(run(program, {"N": 11}, {"x": x})["y"], wanted(x))


def test_arrays_of_two_launches_may_be_called_the_same():
    op = operator(
        "op two @ 1.0 { dims B, N input x: f32[B, N] output y: f32[B], z: f32[B, N]\n"
        "def { y[b] = sum[j: N](x[b, j]) z[b, j] = x[b, j] * 2 } }"
    )
    first = plan_of(op, ["B"], ["x", "y", "N"], dense(x="BN", y="B", z="BN"), "k")
    second = plan_of(op, ["B"], ["x", "z", "N"], (), "m")
    plan = replace(first, launches=(*first.launches, *second.launches))
    source = f"""{HEAD}
extern "C" void k(const float *x, float *y, int64_t n{IDS}) {{
  float part[8] = {{0}};
  int64_t j = 0;
  for (; j + 8 <= n; j += 8)
    for (int l = 0; l < 8; ++l) part[l] += x[pid0 * n + j + l];
  float s = 0;
  for (int l = 0; l < 8; ++l) s += part[l];
  for (; j < n; ++j) s += x[pid0 * n + j];
  y[pid0] = s;
}}
extern "C" void m(const float *x, float *z, int64_t n{IDS}) {{
  for (int64_t j = 0; j < n; ++j) {{
    float part[2];
    part[0] = x[pid0 * n + j];
    part[1] = part[0];
    z[pid0 * n + j] = part[0] + part[1];
  }}
}}
"""
    program = import_program(source, bind_plan(plan, op), "kernel.cpp")
    check_program(program)
    assert statuses(op, program) == {}
    x = np.arange(22.0).reshape(2, 11)
    out = run(program, {"B": 2, "N": 11}, {"x": x})
    assert np.allclose(out["y"], x.sum(1)) and np.allclose(out["z"], 2 * x)
