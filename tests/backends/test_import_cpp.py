"""C++ kernels as people write them: imported, run against numpy, proved for all shapes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("clang.cindex")

from support.written_cpp import COPY, FLAT, IDS, imported, operator, statuses

from opwright.backends.cpp.importer import import_program
from opwright.backends.cpp.plan import make_plan, print_for
from opwright.compiler.spaces import spaces
from opwright.ir.interpreter import run
from opwright.ir.launch import ImportRefusal, bind_plan
from opwright.ir.tile import Def, statements
from opwright.verify.context import Context
from opwright.verify.gates import safety

RNG = np.random.default_rng(5)


def one(body, spec=COPY, facts=FLAT):
    text = f'extern "C" void k(const float *x, float *y, int64_t n{IDS}) {{ {body} }}'
    return imported(spec, text, ["N"], ["x", "y", "N"], facts)


def test_one_element_a_program():
    op, program = one("y[pid0] = x[pid0];")
    x = RNG.standard_normal(7)
    assert np.array_equal(run(program, {"N": 7}, {"x": x})["y"], x)
    assert statuses(op, program) == {}
    assert set(program.kernels[0].lines.values()) == {"kernel.cpp:4"}


@pytest.mark.parametrize(
    "body, what",
    [
        ('asm("nop"); y[pid0] = 0;', "inline assembly"),
        ("while (n > 3) { n = n / 2; } y[pid0] = 0;", "closed form"),
        ("goto out; out: y[pid0] = 0;", "goto"),
        ("y[pid0] = *(const float *)(const int *)x;", "punning"),
        ("y[pid0] = erfinv(x[pid0]);", "does not parse"),
        ("float v; y[pid0] = v;", "never assigned"),
    ],
)
def test_what_is_not_understood_is_refused_with_its_line(body, what):
    with pytest.raises(ImportRefusal, match=what) as e:
        one(body)
    assert e.value.file == "kernel.cpp" and e.value.line == 4


@pytest.mark.parametrize(
    "address",
    ["x + pid0 + 64", "&x[2 * pid0 + 64]", "x + (pid0 < n ? pid0 + 9 : pid0 / 4)",
     "(const char *)x + 4 * pid0"],
)  # fmt: skip
def test_the_address_of_a_prefetch_is_not_read(address):
    op, program = one(f"__builtin_prefetch({address}, 0, 3); y[pid0] = x[pid0];")
    assert statuses(op, program) == {}


@pytest.mark.parametrize(
    "address",
    ["x + (int64_t)x[pid0 + 64]", "x + (y[pid0] = 3) * 2", "x + n++", "*(const float **)(x + n)",
     "x + pid0 / n", "x + lrintf(x[n])", "&x[(int)y[n]]"],
)  # fmt: skip
def test_what_computes_the_address_of_a_prefetch_reads_and_changes_nothing(address):
    with pytest.raises(ImportRefusal):
        one(f"__builtin_prefetch({address}); y[pid0] = x[pid0];")


def unrolled(offsets, rest="for (int64_t j = full; j < n; j++) y[j] = x[j];"):
    """Full blocks of 128 by stores of 16 lanes at offsets, and what is left."""
    stores = "".join(
        f"for (int l = 0; l < 16; l++) y[j + {o} + l] = x[j + {o} + l];" for o in offsets
    )
    body = f"for (int64_t j = 0; j < full; j += 128) {{ {stores} }} {rest}"
    return one(f"int64_t full = n / 128 * 128; if (pid0 == 0) {{ {body} }}")


def test_an_unrolled_loop_and_its_rest_cover_all():
    op, program = unrolled(range(0, 128, 16))
    assert statuses(op, program) == {}


@pytest.mark.parametrize(
    "offsets, rest",
    [
        ([0, 16, 32, 48, 64, 80, 112], "for (int64_t j = full; j < n; j++) y[j] = x[j];"),
        ([0, 16, 32, 48, 64, 80, 97, 112], "for (int64_t j = full; j < n; j++) y[j] = x[j];"),
        (range(0, 128, 16), "for (int64_t j = full; j < n - 1; j++) y[j] = x[j];"),
    ],
)
def test_an_element_that_an_unrolled_loop_leaves_out_is_seen(offsets, rest):
    found = statuses(*unrolled(offsets, rest))
    assert found["G3.cover.y"] == "REFUTED", found


def test_a_printed_scan_comes_back():
    op = operator(
        "op running @ 1.0 { dims B, N input x: f32[B, N] output y: f32[B, N]"
        " def { y[b, n] = sum[k: 0..n + 1](x[b, k]) } }"
    )
    (space,) = [s for s in spaces(op, 8) if s.name == "scan"]
    made = space.instantiate(space.preferred()[0])
    plan = make_plan(made, op)
    source = print_for(made, op, "x86-64-v3")
    program = import_program(source, bind_plan(plan, op), "kernel.cpp")
    assert any(
        isinstance(s, Def) and s.value.op == "scan"
        for k in program.kernels
        for s in statements(k.body)
    )
    x = RNG.standard_normal((2, 21))
    strides = {("x", 0): 21, ("x", 1): 1, ("y", 0): 21, ("y", 1): 1}
    got = run(program, {"B": 2, "N": 21}, {"x": x}, {}, strides)["y"]
    assert np.allclose(got, np.cumsum(x, 1))
    assert statuses(op, program) == {}


INSIDE = [  # a local array or number of each trip: (body of a loop over i, what is said of it)
    ("float t[2]; t[0] = x[i]; if (i == 0) t[1] = 0; y[i] = t[1];", "REFUTED"),
    ("float t[2]; t[0] = x[i]; t[1] = 0; y[i] = t[1];", ""),
    ("float t[4]; for (int j = 0; j < 3; j++) t[j] = x[i]; y[i] = t[3];", "REFUTED"),
    ("float t[4]; for (int j = 0; j < 4; j++) t[j] = x[i]; y[i] = t[3];", ""),
    ("float t[2]; if (x[i] > 0) t[0] = x[i]; y[i] = t[0];", "UNKNOWN"),
    ("float t[2] = {}; if (x[i] > 0) t[0] = x[i]; y[i] = t[0];", ""),
    ("for (int j = 0; j < 2; j++) { float t[1]; if (j == 0) t[0] = 1; y[i] = t[0]; }", "REFUTED"),
    ("float t; if (i == 0) t = x[i]; y[i] = t;", "never assigned"),
    ("float t; if (x[i] > 0) t = x[i]; y[i] = t;", "never assigned"),
    ("float t; t += x[i]; y[i] = t;", "never assigned"),
    ("int64_t t; if (i == 0) t = 0; y[t] = x[i];", "never assigned"),
]


@pytest.mark.parametrize("body, said", INSIDE)
def test_an_earlier_trip_leaves_nothing_in_a_local_array(body, said):
    text = f'extern "C" void k(const float *x, float *y, int64_t n{IDS}) {{\n'
    text += f"for (int64_t i = 0; i < n; i++) {{ {body} }} }}"
    if said.startswith("never"):
        with pytest.raises(ImportRefusal, match=said):
            imported(COPY, text, ["1"], ["x", "y", "N"], FLAT)
        return
    op, program = imported(COPY, text, ["1"], ["x", "y", "N"], FLAT)
    init = {r.status for r in safety(program, Context.of(op)) if r.id.startswith("G2.init")}
    assert init - {"PROVED"} == ({said} if said else set())


TILES = [  # arrays of tiles whose lengths hang on loops around them
    "for (int64_t i = 0; i < n; i += 8) { float t[8];"
    " const int64_t e = std::min<int64_t>(8, n - i);"
    " for (int64_t j = 0; j < e; j++) t[j] = x[i + j];"
    " for (int64_t j = 0; j < e; j++) y[i + j] = t[j]; }",
    "for (int64_t i = 0; i < n; i += 8) { const int64_t e = std::min<int64_t>(i + 8, n);"
    " for (int64_t j = i; j < e; j++) { float t[2]; t[1] = x[j]; y[j] = t[1]; } }",
]


@pytest.mark.parametrize("body", TILES)
def test_arrays_of_tiles_are_proved(body):
    text = f'extern "C" void k(const float *x, float *y, int64_t n{IDS}) {{ {body} }}'
    op, program = imported(COPY, text, ["1"], ["x", "y", "N"], FLAT)
    assert statuses(op, program) == {}
    x = RNG.standard_normal(21)
    assert np.array_equal(run(program, {"N": 21}, {"x": x})["y"], x)


def test_an_array_without_an_evident_length_is_refused():
    body = "for (int64_t i = 0; i < n; i++) for (int64_t j = 0; j < n / (i + 1); j++)"
    text = f'extern "C" void k(const float *x, float *y, int64_t n{IDS}) {{'
    text += f" {body} {{ float t[1]; t[0] = x[i]; y[i] = t[0]; }} }}"
    with pytest.raises(ImportRefusal, match="without an evident length"):
        imported(COPY, text, ["1"], ["x", "y", "N"], FLAT)


TOTAL = "op total @ 1.0 { dims N input x: f32[N] output y: f32 def { y = sum[i: 0..N](x[i]) } }"
THROUGH = [  # ways to change a variable of the text without naming it
    "auto add = [&](float v) { t += v; }; for (int64_t i = 0; i < n; i++) add(x[i]);",
    "for (int64_t i = 0; i < n; i++) { float &u = t; u += x[i]; }",
    "float &u = t; for (int64_t i = 0; i < n; i++) { u += x[i]; }",
    "for (int64_t i = 0; i < n; i++) more(t, x[i]);",
    "auto add = [&](float v) { t += v; }; auto go = [&](int64_t i) { add(x[i]); };"
    " for (int64_t i = 0; i < n; i++) go(i);",
    "for (int64_t i = 0; i < n; i++) t = plus(t, x[i]);",
    "for (int64_t i = 0; i < n; i++) { if (i < n) more(t, x[i]); }",
]
HELPERS = (
    "static void more(float &a, float b) { a += b; }\n"
    "template <class T> static inline T plus(const T &a, T b) { return a + b; }\n"
)


@pytest.mark.parametrize("body", THROUGH)
def test_variables_are_changed_through_references_and_lambdas(body):
    text = HELPERS + f'extern "C" void k(const float *x, float *y, int64_t n{IDS})'
    text += f" {{ float t = 0; {body} y[0] = t; }}"
    op, program = imported(TOTAL, text, ["1"], ["x", "y", "N"], ["stride(x, 0) == 1"])
    assert float(run(program, {"N": 7}, {"x": np.arange(1.0, 8.0)})["y"]) == 28
    assert statuses(op, program) == {}


BY_HAND = [  # a copy in several hands: (grid, body, whether it is right)
    ("1", "for (int64_t i = 0; i < n; i++) *y++ = *x++;", True),
    ("1", "const float *p = x; for (int64_t i = 0; i < n; i++)"
     " { float v = *p++; *y++ = v; }", True),
    ("cdiv(N, 8)", "for (int64_t i = pid0 * 8; i < pid0 * 8 + 8; i++)"
     " { if (i >= n) return; y[i] = x[i]; }", True),
    ("1", "for (int64_t i = 0; i < n; i += 4) for (int64_t j = i; j < i + 4; j++)"
     " { if (j >= n) break; y[j] = x[j]; }", True),
    ("1", "for (int64_t i = 0; i < n; i += 4) for (int64_t j = 0; j < 4 && i + j < n; j++)"
     " y[i + j] = x[i + j];", True),
    ("cdiv(N, 8)", "for (int64_t i = pid0 * 8; i < pid0 * 8 + 8; i++)"
     " { if (i > n) return; y[i] = x[i]; }", False),
    ("1", "for (int64_t i = 0; i < n; i += 2) *y++ = *x++;", False),
]  # fmt: skip


@pytest.mark.parametrize("grid, body, right", BY_HAND)
def test_pointers_that_move_and_loops_that_end_early(grid, body, right):
    text = f'extern "C" void k(const float *x, float *y, int64_t n{IDS}) {{ {body} }}'
    op, program = imported(COPY, text, [grid], ["x", "y", "N"], FLAT)
    found = statuses(op, program)
    assert (found == {}) == right and ("REFUTED" in found.values()) != right
    if right:
        x = RNG.standard_normal(21)
        assert np.array_equal(run(program, {"N": 21}, {"x": x})["y"], x)
