"""Functions that printed texts bring along and that mean one operation: random numbers, numbers of
8 bits.

Their bodies are arithmetic on bits, which is not read. A text that contains one of them, character
by character and out of reach of macros, calls that operation; what the bodies compute is tested
against the operations, and they are what runs.
"""

from __future__ import annotations

import re

from opwright.backends.cpp.clang import Function, Unit

_PHILOX = """\
  unsigned k0 = (unsigned)seed, k1 = (unsigned)((unsigned long long)seed >> 32);
  unsigned a = (unsigned)position, b = (unsigned)((unsigned long long)position >> 32);
  unsigned c = (unsigned)stream, d = 0;
  for (int n = 0; n < 10; ++n) {
    const unsigned long long p = 3528531795ull * a, q = 3449720151ull * c;
    a = (unsigned)(q >> 32) ^ b ^ k0;
    c = (unsigned)(p >> 32) ^ d ^ k1;
    b = (unsigned)q;
    d = (unsigned)p;
    k0 += 2654435769u;
    k1 += 3144134277u;
  }
"""
_WORDS = "long long seed, long long position, long long stream"
TEXTS = {
    "random_uniform": (
        f"__device__ __forceinline__ float random_uniform({_WORDS}) {{\n{_PHILOX}"
        "  return (float)(a >> 8) * 5.9604644775390625e-08f;\n}\n"
    ),
    "random_normal": (
        f"__device__ __forceinline__ float random_normal({_WORDS}) {{\n{_PHILOX}"
        "  const double u = ((double)(a >> 8) + 1.0) * 5.9604644775390625e-08;\n"
        "  const double angle = (double)(b >> 8) * 3.7450702829239286e-07;\n"
        "  return (float)(sqrt(-2.0 * log(u)) * cos(angle));\n}\n"
    ),
    "load_f8e4m3": (
        "__device__ __forceinline__ float load_f8e4m3(const unsigned char *from) {\n"
        "  const unsigned bits = *from, e = bits >> 3 & 15, m = bits & 7;\n"
        "  const float size = (float)(e == 0 ? m << 1 : (8 + m) << e) * 0.0009765625f;\n"
        "  const float value = (bits & 127) == 127 ? 0.0f / 0.0f : size;\n"
        "  return bits & 128 ? -value : value;\n}\n"
    ),
    "load_f8e5m2": (
        "__device__ __forceinline__ float load_f8e5m2(const unsigned char *from) {\n"
        "  const unsigned bits = *from, e = bits >> 2 & 31, m = bits & 3;\n"
        "  const unsigned long long whole = e == 0 ? m << 1 : (4ull + m) << e;\n"
        "  const float size = (float)whole * 7.62939453125e-06f;\n"
        "  const float far = m == 0 ? 1.0f / 0.0f : 0.0f / 0.0f;\n"
        "  const float value = e == 31 ? far : size;\n"
        "  return bits & 128 ? -value : value;\n}\n"
    ),
}
ROWS = {"random_uniform": "rand", "random_normal": "randn"}
LOADED = {"load_f8e4m3": "f8e4m3", "load_f8e5m2": "f8e5m2"}
_CALLED = ("sqrt", "log", "cos")
_HARMLESS = re.compile(r"\s*#\s*(include\s*<[\w./]+>|pragma\s+unroll[\s\w()]*)\s*")


def known(f: Function, unit: Unit, source: str) -> str:
    """The name of the operation that a function of a text is, "" where it is none."""
    text = TEXTS.get(f.name)
    lines = source.splitlines()
    if text is None or "\n".join(lines[f.line - 1 :][: text.count("\n")]) + "\n" != text:
        return ""
    directives = [x for x in lines if "#" in x or x.rstrip().endswith("\\")]
    if "??" in source or "%:" in source or not all(map(_HARMLESS.fullmatch, directives)):
        return ""  # a macro may make another thing of it
    if any(g.name in _CALLED for g in unit.functions.values()):
        return ""
    return f.name
