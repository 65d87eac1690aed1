"""Texts that use the printer's vocabulary: it is put before them; what could change it is seen."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("clang.cindex")

from support.written_cpp import COPY, FLAT, IDS, operator, plan_of, statuses

from opwright.backends.cpp.importer import import_program
from opwright.backends.cpp.importer_prelude import completed, trusted, without_vocabulary
from opwright.backends.cpp.policy import breaches
from opwright.ir.interpreter import run
from opwright.ir.launch import ImportRefusal, bind_plan

LEVEL = "x86-64-v3"
TEXT = f"""#include <math.h>
typedef float f32x8 __attribute__((vector_size(32)));
static inline f32x8 twice(f32x8 v) {{ return v + v; }}
extern "C" void k(const float *x, float *y, int64_t n{IDS}) {{
  for (int64_t i = 0; i < n; i += 8) {{
    const i32x8 m = v_prefix<i32x8>(n - i);
    v_store_masked(y + i, m, twice(v_max(v_load_masked<f32x8>(x + i, m, 0.0f), f32x8{{}})));
  }}
}}
""".replace("int64_t", "i64")


def read(text):
    op = operator(COPY)
    return op, import_program(
        text, bind_plan(plan_of(op, ["1"], ["x", "y", "N"], FLAT), op), "k.cpp"
    )


def test_the_vocabulary_is_put_before_a_text_that_uses_it():
    text = completed(TEXT, "copy", LEVEL)
    assert trusted(text) is not None and breaches(text) == []
    assert completed(text, "copy", LEVEL) == text
    assert trusted(completed(text.replace("twice", "double_of"), "copy", LEVEL)) is not None
    edited = text.replace("// copy, x86-64-v3\n", "// copy, x86-64-v3\n// mine\n", 1)
    assert trusted(completed(edited, "copy", LEVEL)) is not None
    assert "v_load_masked(const" not in without_vocabulary(text, LEVEL)
    op, program = read(text)
    x = np.random.default_rng(1).standard_normal(21)
    assert np.allclose(run(program, {"N": 21}, {"x": x})["y"], 2 * np.maximum(x, 0))
    assert statuses(op, program) == {}


@pytest.mark.parametrize(
    "more",
    [
        "template <> struct v_of<f32x8> { static constexpr int count = 4; };",
        "struct thing { int n; };",
        "#define v_max(a, b) a",
        "#define v_of other",
        "using v = float;",
        "f32x8 operator+(f32x8 a, f32x8 b);",
    ],
)
def test_what_may_change_the_vocabulary_is_not_trusted(more):
    text = completed(TEXT, "copy", LEVEL)
    at = text.index("static inline f32x8 twice")
    assert trusted(text[:at] + more + "\n" + text[at:]) is None


def test_a_function_with_a_name_of_the_vocabulary_is_refused():
    text = completed(TEXT, "copy", LEVEL)
    at = "static inline f32x8 twice"
    own = f"static inline f32x8 v_sum(f32x8 v) {{ return v; }}\n{at}"
    with pytest.raises(ImportRefusal, match="name of the vocabulary"):
        read(text.replace(at, own, 1))


def test_a_text_of_its_own_stays():
    plain = f'extern "C" void k(const float *x, float *y, int64_t n{IDS}) {{ y[0] = x[0]; }}'
    assert completed(plain, "copy", LEVEL) == plain
    mine = "static inline float v_max(float a, float b) { return a > b ? a : b; }\n"
    text = mine + plain.replace("x[0]", "v_max(x[0], 0)")
    assert completed(text, "copy", LEVEL) == text


FIRST = "v_load_masked<f32x8>(x + i, m, 0.0f)"


def test_a_masked_load_with_a_number_that_is_not_known_beforehand():
    text = completed(TEXT.replace(FIRST, FIRST.replace("0.0f", "x[0]")), "copy", LEVEL)
    op, program = read(text)
    x = np.random.default_rng(1).standard_normal(21)
    assert np.allclose(run(program, {"N": 21}, {"x": x})["y"], 2 * np.maximum(x, 0))
    assert statuses(op, program) == {}
    # lanes past the end hold that number, and nothing else
    whole = text.replace("v_store_masked(y + i, m, ", "v_store(y + i, ")
    assert statuses(*read(whole)) != {}
    summed = TEXT.replace("twice(v_max(", "v_splat<f32x8>(v_sum(").replace(", f32x8{})", ")")
    op, program = read(completed(summed.replace(FIRST, FIRST.replace("0.0f", "x[0]")), "c", LEVEL))
    y = run(program, {"N": 5}, {"x": x[:5]})["y"]
    assert np.allclose(y, x[:5].sum() + 3 * x[0])


def test_a_condition_defines_nothing():
    text = TEXT.replace(
        "    v_store_masked", "    if (v_any(m)) { y[i] = 0.0f; }\n    v_store_masked"
    )
    assert trusted(completed(text, "copy", LEVEL)) is not None


def test_an_edit_may_use_more_of_the_vocabulary():
    text = completed(TEXT, "copy", LEVEL)
    edited = text.replace("v_prefix<i32x8>(n - i)", "v_prefix<i32x8>(i_min(n - i, 8))")
    made = completed(edited, "copy", LEVEL)
    assert trusted(made) is not None and breaches(made) == []
    assert statuses(*read(made)) == {}
