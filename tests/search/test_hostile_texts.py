"""Texts that attack whoever reads or compiles them: files that are not theirs, templates, macros
and constants without end, trees without bottom. All gates refuse them, and what they would do
happens to a process with limits.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from support.sandboxed import need
from support.shipped import some

from opwright.backends.cpp import reading
from opwright.backends.cpp.build import BuildError, build
from opwright.backends.triton import frontend
from opwright.compiler.candidates import read
from opwright.compiler.elaborate import parse_spec
from opwright.compiler.importing import static_gates
from opwright.compiler.stored import stored_form
from opwright.ir.launch import ImportRefusal
from opwright.ir.plan import PlanError
from opwright.ir.record import weakest

SPEC = """opwright "0.1"

op copy @ 1.0 {
  dims N
  where N >= 1, N <= 1000000
  input x: f32[N]
  output y: f32[N]
  def { y[i] = x[i] }
}
"""
CPP = """#include <cstdint>
HERE
extern "C" void copy(const float *x, float *y, int64_t N, int64_t pid0, int64_t, int64_t) {
  INSIDE for (int64_t i = 0; i < N; ++i) y[i] = x[i];
}
"""
CUDA = """HERE
extern "C" __global__ void copy(const float *x, float *y, long long N) {
  INSIDE long long i = blockIdx.x * 64LL + threadIdx.x; if (i < N) y[i] = x[i];
}
"""
PYTHON = """import triton
import triton.language as tl
HERE

@triton.jit
def copy(x, y, N, BLOCK: tl.constexpr):
    INSIDE
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    tl.store(y + i, tl.load(x + i, mask=i < N), mask=i < N)
"""
LAUGHS = "#define A0 x[0] +\n" + "\n".join(
    f"#define A{n} A{n - 1} A{n - 1} A{n - 1} A{n - 1}" for n in range(1, 16)
)
FILES = {  # read a file of the machine
    "include": ('#include "/etc/passwd"', ""),
    "include_environ": ("#include </proc/self/environ>", ""),
    "include_up": ('#include "../../../../../../../etc/passwd"', ""),
    "include_macro": ('#define F "/etc/passwd"\n#include F', ""),
    "include_next": ("#include_next </etc/passwd>", ""),
    "spliced": ("#incl\\\nude </etc/passwd>", ""),
    "digraph": ("%:include </etc/passwd>", ""),
    "embed": ("const unsigned char a[] = {\n#embed </etc/passwd>\n};", ""),
    "dependency": ('#pragma GCC dependency "/etc/passwd" x', ""),
    "poison": ("#pragma GCC poison float", ""),
    "options": ('#pragma GCC optimize ("fast-math")', ""),
    "target": ('#pragma GCC target ("arch=native")', ""),
    "plugin": ('#pragma GCC plugin "/tmp/x.so"', ""),
    "pch": ('#pragma GCC pch_preprocess "/tmp/x.gch"', ""),
    "line": ('#line 1 "/etc/passwd"\n#error x', ""),
    "module": ("import </etc/passwd>;", ""),
    "incbin": ('asm(".incbin \\"/etc/passwd\\"");', ""),
    "incbin_inside": ("", 'asm volatile(".incbin \\"/etc/passwd\\"");'),
    "has_include": ('#if __has_include("/etc/passwd")\n#error yes\n#endif', ""),
}
ENDLESS = {  # take whatever there is
    "templates": (
        "template <int N> struct T { static constexpr int v = T<N + 1>::v + T<N + 2>::v; };",
        "int v = T<0>::v;",
    ),
    "functions": (
        "template <int N> int f(int a) { return f<2 * N>(a) + f<2 * N + 1>(a); }",
        "int v = f<1>(0);",
    ),
    "macros": (LAUGHS, "float v = A15 x[0];"),
    "constant": (
        "constexpr long spin() { long s = 0; for (long i = 0; i < 1L << 60; ++i) s += i; "
        "return s; }",
        "constexpr long v = spin();",
    ),
    "array": ("", "float huge[1L << 50]; huge[0] = 0;"),
    "nested": ("", "float v = " + "(" * 60000 + "x[0]" + ")" * 60000 + ";"),
    "braces": ("", "{" * 30000 + "}" * 30000),
    "sum": ("", "float v = " + "x[0] + " * 40000 + "x[0];"),
    "pack": (
        "template <class... T> struct P {}; template <int N, class... T> struct M "
        "{ typedef typename M<N - 1, T..., T..., int>::type type; };",
        "typedef M<40, int>::type t;",
    ),
}
PYTHONS = {
    "read": ('SECRET = open("/etc/passwd").read()', "pass"),
    "nested": ("", "v = " + "(" * 5000 + "1" + ")" * 5000),
    "power": ("X = 9 ** 9 ** 9 ** 9", "pass"),
    "repeated": ('X = "a" * (1 << 40)', "pass"),
    "unrolled": ("", "for n in tl.static_range(1 << 40): pass"),
    "recursive": ("", "copy(x, y, N, BLOCK)"),
    "wide": ("", "v = tl.zeros([1 << 30], tl.float32)"),
    "chain": ("", "v = " + "-" * 20000 + "1"),
    "attributes": ("", "v = x" + ".a" * 20000),
}


def text(form: str, parts: tuple[str, str]) -> str:
    return form.replace("HERE", parts[0]).replace("INSIDE", parts[1])


def judged(folder: Path, backend: str, source: str) -> str:
    """The weakest status of all gates, none of which may name what a file of the machine holds."""
    op = stored_form(parse_spec(SPEC).operator())
    file = {"cpp": "kernel.cpp", "cuda": "kernel.cu", "triton": "kernel.py"}[backend]
    launch: dict[str, object] = {"kernel": "copy", "grid": ["cdiv(N, 64)"], "args": ["x", "y", "N"]}
    more = {"cpp": {"grid": ["1"]}, "cuda": {"block": [64]}, "triton": {"const": {"BLOCK": 64}}}
    plan = {"abi": 1, "op": "copy@1.0", "target": "cpu" if backend == "cpp" else "sm_90",
            "backend": backend, "source": file, "launches": [{**launch, **more[backend]}],
            "facts": ["stride(x, 0) == 1", "stride(y, 0) == 1"]}  # fmt: skip
    (folder / file).write_text(source)
    (folder / "candidate.json").write_text(json.dumps(plan))
    try:
        records = static_gates(read(folder, op), op).records
    except PlanError as e:
        assert "root:" not in str(e)
        return "REFUTED"
    assert not any("root:" in r.reason or "HOME=" in r.reason for r in records)
    assert any(r.reason for r in records if r.status != "PROVED")
    return weakest(r.status for r in records)


@pytest.fixture(autouse=True)
def sandboxed(monkeypatch: pytest.MonkeyPatch) -> None:
    need()
    monkeypatch.setattr(reading, "WALL", 8.0)
    monkeypatch.setattr(frontend, "WALL", 12.0)


@pytest.mark.parametrize("name", [*FILES, "templates", "array"])
@pytest.mark.parametrize("backend", ["cpp", "cuda"])
def test_every_gate_refuses_it(tmp_path: Path, backend: str, name: str) -> None:
    pytest.importorskip("clang")
    begin = time.monotonic()
    form = CPP if backend == "cpp" else CUDA
    source = text(form, {**FILES, **ENDLESS}[name])
    assert judged(tmp_path, backend, source) in ("REFUTED", "UNKNOWN")
    assert time.monotonic() - begin < 100


@pytest.mark.parametrize("name", some([*PYTHONS], 2))
def test_every_gate_refuses_it_in_python(tmp_path: Path, name: str) -> None:
    pytest.importorskip("triton")
    begin = time.monotonic()
    assert judged(tmp_path, "triton", text(PYTHON, PYTHONS[name])) in ("REFUTED", "UNKNOWN")
    assert time.monotonic() - begin < 100


@pytest.mark.parametrize("name", ["include", "incbin", *some([*ENDLESS], 4)])
def test_reading_ends_and_reaches_nothing(name: str) -> None:
    """Past the gate on texts: a file is not found, what has no end is ended."""
    pytest.importorskip("clang")
    source = text(CPP, {**FILES, **ENDLESS}[name])
    begin = time.monotonic()
    try:
        unit = reading.parse(source, "kernel.cpp")
    except ImportRefusal as e:
        assert "root:" not in str(e)
    else:
        assert name in ("embed", "array", "nested", "braces", "sum", "incbin") and unit is not None
    assert time.monotonic() - begin < 60
    assert reading.parse(text(CPP, ("", "")), "kernel.cpp").functions  # the next one is read


@pytest.mark.parametrize("name", ["include", "incbin", "templates"])
def test_compiling_ends_and_reaches_nothing(name: str, tmp_path: Path) -> None:
    """The compiler itself, on what no gate has seen."""
    source = text(CPP, {**FILES, **ENDLESS}[name])
    begin = time.monotonic()
    with pytest.raises(BuildError) as e:
        build(source, "", tmp_path / "made.so", "x86-64-v3", 10.0)
    assert "root:" not in str(e.value) + e.value.log
    assert not (tmp_path / "made.so").exists()
    assert time.monotonic() - begin < 60


def test_reading_refuses_without_a_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("clang")
    from opwright.backends import isolation

    monkeypatch.setenv(isolation.VARIABLE, "none")
    reading._forget()
    reading._tree.cache_clear()
    with pytest.raises(isolation.Refused):
        reading.parse(text(CPP, ("", "int unseen = 0; (void)unseen;")), "kernel.cpp")
