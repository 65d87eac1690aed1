"""What a prompt offers is what the policy lets pass and the importer reads: all of it."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("clang.cindex")

from opwright.backends.cpp import clang_headers
from opwright.backends.cpp.importer import import_program
from opwright.backends.cpp.importer_prelude import WORDS, completed, trusted
from opwright.backends.cpp.policy import breaches
from opwright.backends.cpp.vocabulary import names
from opwright.compiler.elaborate import parse_spec
from opwright.compiler.exchange_texts import LANGUAGES
from opwright.compiler.guiding import EXAMPLES, accuracy_of
from opwright.ir.launch import bind_plan
from opwright.ir.plan import from_json

ALLOWED = LANGUAGES["cpp"].allowed
SPEC = """opwright "0.1"
op copy @ 1.0 { dims N input x: f32[N] output y: f32[N] def { y[i] = x[i] }
  tolerance versus f64 { f32: abs 1e-6 rel 1e-5 } }
"""
HEAD = 'extern "C" void k(const float *x, float *y, int64_t n, int64_t p, int64_t q, int64_t r) {\n'


def program(body, head=""):
    op = parse_spec(SPEC).operator("copy")
    source = completed(f"{head}{HEAD}{body}}}\n", "copy", "x86-64-v4")
    plan = {"abi": 1, "op": "copy@1.0", "target": "cpu(x86-64-v4)", "backend": "cpp",
            "source": "kernel.cpp", "facts": ["stride(x, 0) == 1", "stride(y, 0) == 1"],
            "launches": [{"kernel": "k", "grid": ["1"], "args": ["x", "y", "N"]}]}  # fmt: skip
    assert breaches(source) == []
    import_program(source, bind_plan(from_json(plan), op), "kernel.cpp")
    return source


def call(name):
    whole = {"lrint", "llrint"}
    two = set(clang_headers._TWO) | {"ldexp", "scalbn"}
    second = {"ldexp": "2", "scalbn": "2"}.get(name, "x[1]")
    args = ["x[0]", second, "x[2]"][: 3 if name == "fma" else 2 if name in two else 1]
    if name == "abs":
        return ["y[0] = abs((int)n % 3);"]
    if name in ("isnan", "isinf", "isfinite"):
        return [f"y[0] = {p}{name}(x[0]) ? 1.0f : 0.0f;" for p in ("", "std::", "__builtin_")]
    forms = [f"{name}f", f"__builtin_{name}f", f"__builtin_{name}"]
    forms += [] if name in (*whole, "scalbn") else [f"std::{name}"]
    return [f"y[0] = {f}({', '.join(args)});" for f in forms]


def test_every_header_function_pragma_and_builtin_on_offer_is_read():
    head = "".join(f"#include <{h}>\n" for h in ALLOWED["headers"])
    head += "typedef float f4 __attribute__((vector_size(16)));\n"
    head += "typedef int32_t i4 __attribute__((vector_size(16)));\n"
    body = "".join(line + "\n" for name in ALLOWED["calls"] for line in call(name))
    body += "f4 v = {x[0], 1, 2, 3}; i4 w = __builtin_convertvector(v, i4);\n"
    body += "v = __builtin_shufflevector(v, v, 3, 2, 1, 0); w = __builtin_bit_cast(i4, v);\n"
    body += "__builtin_prefetch(x); if (__builtin_expect(n > 3, 1)) y[3] = __builtin_inff();\n"
    body += 'y[0] = (float)__builtin_inf(); y[1] = __builtin_nanf(""); memcpy(y, &v, sizeof v);\n'
    for pragma in ALLOWED["pragmas"]:
        rest = {"GCC unroll": " 4", "unroll": " 4", "clang loop": " vectorize(enable)"}
        if pragma != "STDC FP_CONTRACT":
            body += f"#pragma {pragma}{rest.get(pragma, '')}\n"
            body += "for (int64_t i = 0; i < n; i++) y[i] = std::max(x[i], 0.0f);\n"
    for name in ALLOWED["builtins"]:
        assert name in body
    program(body, head)


def test_every_word_of_the_vocabulary_is_read():
    assert set(WORDS) <= names() and all(w in LANGUAGES["cpp"].words for w in ("v_load", "v_exp"))
    special = {
        "v_load": "v_load<f32x16>(x)", "v_prefix": "v_prefix<i32x16>(n)",
        "v_bits": "v_bits<i32x16>(a)",
        "v_load_masked": "v_load_masked<f32x16>(x, m, 0.0f)", "v_store": "v_store(y, a)",
        "v_store_masked": "v_store_masked(y, m, a)", "v_stream": "v_stream(y, a)",
        "v_splat": "v_splat<f32x16>(x[0])", "v_iota": "v_iota<i32x16>()",
        "v_convert": "v_convert<i32x16>(a)", "v_any": "v_any(m)", "v_all": "v_all(m)",
    }  # fmt: skip
    body = "f32x16 a = v_load<f32x16>(x); const i32x16 m = v_prefix<i32x16>(n);\n"
    for n, word in enumerate(WORDS):
        two = "(a, a)" if word in ("v_max", "v_min", "v_pow") else "(a)"
        text = special.get(word, word + ("(n, 3)" if word.startswith("i_") else two))
        void = word in ("v_store", "v_store_masked", "v_stream")
        body += f"{text};\n" if void else f"const auto r{n} = {text};\n"
    source = program(body, "#include <stdint.h>\n")
    assert trusted(source) is not None


def test_the_form_of_a_launch_plan_is_one():
    data = json.loads(EXAMPLES["cpp"].replace("{{ROWS}}", "8"))
    more = {"abi": 1, "op": "copy@1.0", "target": "cpu", "backend": "cpp", "source": "k.cpp"}
    assert from_json({**data, **more}).scratch["part"].scope == "plan"


def test_the_accuracy_is_the_one_that_is_applied():
    said = " ".join(accuracy_of(parse_spec(SPEC).operator("copy"), "cpp"))
    assert "1e-06 + 1e-05 |exact|" in said and "a sum" in said
