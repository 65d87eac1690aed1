"""Declarations that kernels may include: names and types only, no header of the machine."""

from __future__ import annotations

_ONE = """
acos acosh asin asinh atan atanh ceil cos cosh erf erfc exp exp2 expm1 fabs floor log log10 log1p
log2 nearbyint rint round sin sinh sqrt tan tanh trunc cbrt lgamma tgamma
""".split()
_TWO = "atan2 copysign fdim fmax fmin fmod hypot pow remainder".split()


def _math() -> str:
    lines = ["#pragma once", 'extern "C" {']
    both = [(n, 1) for n in _ONE] + [(n, 2) for n in _TWO] + [("fma", 3)]
    for name, arity in both:
        for kind, suffix in (("float", "f"), ("double", "")):
            lines.append(f"{kind} {name}{suffix}({', '.join([kind] * arity)});")
    lines += ["float ldexpf(float, int); double ldexp(double, int);"]
    lines += ["float scalbnf(float, int); double scalbn(double, int);"]
    lines += ["long lrint(double); long lrintf(float); long long llrint(double);"]
    lines += [
        "long long llrintf(float); int abs(int); long labs(long); long long llabs(long long);"
    ]
    lines += ["}", "namespace std {", "float ldexp(float, int); double ldexp(double, int);"]
    for name, arity in both:
        for kind in ("float", "double"):
            lines.append(f"{kind} {name}({', '.join([kind] * arity)});")
        for kind, suffix in (("float", "f"),):
            lines.append(f"{kind} {name}{suffix}({', '.join([kind] * arity)});")
    for kind in ("float", "double", "int", "long", "long long"):
        lines.append(f"{kind} abs({kind});")
    for name in ("isnan", "isinf", "isfinite"):
        lines.append(f"bool {name}(float); bool {name}(double);")
    lines += ["}"]
    for name in ("isnan", "isinf", "isfinite"):
        lines.append(f"bool {name}(float); bool {name}(double);")
    lines += ["#define INFINITY (__builtin_inff())", "#define HUGE_VALF (__builtin_inff())"]
    lines += ["#define HUGE_VAL (__builtin_inf())", '#define NAN (__builtin_nanf(""))']
    pairs = {
        "M_E": "2.71828182845904523536", "M_LOG2E": "1.44269504088896340736",
        "M_LN2": "0.69314718055994530942", "M_PI": "3.14159265358979323846",
        "M_PI_2": "1.57079632679489661923", "M_1_PI": "0.31830988618379067154",
        "M_2_SQRTPI": "1.12837916709551257390", "M_SQRT2": "1.41421356237309504880",
        "M_SQRT1_2": "0.70710678118654752440",
    }  # fmt: skip
    lines += [f"#define {name} {value}" for name, value in pairs.items()]
    return "\n".join(lines) + "\n"


def _integers() -> str:
    lines = ["#pragma once"]
    words = {8: "signed char", 16: "short", 32: "int", 64: "long"}
    for bits, word in words.items():
        plain = word.removeprefix("signed ")
        for kind in ("", "_least", "_fast"):
            lines.append(f"typedef {word} int{kind}{bits}_t;")
            lines.append(f"typedef unsigned {plain} uint{kind}{bits}_t;")
        lines.append(f"#define INT{bits}_MAX {2 ** (bits - 1) - 1}{'L' if bits == 64 else ''}")
        lines.append(f"#define INT{bits}_MIN (-INT{bits}_MAX - 1)")
        lines.append(f"#define UINT{bits}_MAX {2**bits - 1}u{'l' if bits == 64 else ''}")
    lines += ["typedef long intptr_t; typedef unsigned long uintptr_t; typedef long intmax_t;"]
    lines += ["namespace std {"]
    for bits in words:
        lines.append(f"using ::int{bits}_t; using ::uint{bits}_t;")
    return "\n".join([*lines, "}"]) + "\n"


_SIZES = """#pragma once
typedef unsigned long size_t;
typedef long ptrdiff_t;
typedef long ssize_t;
#define NULL nullptr
namespace std { using ::size_t; using ::ptrdiff_t; }
"""

_ALGORITHM = """#pragma once
namespace std {
template <class T> constexpr const T &max(const T &a, const T &b);
template <class T> constexpr const T &min(const T &a, const T &b);
template <class T> constexpr const T &clamp(const T &x, const T &a, const T &b);
template <class T> void swap(T &a, T &b);
template <class T> void fill(T *a, T *b, const T &x);
template <class T, class N> T *fill_n(T *a, N n, const T &x);
template <class S, class T> T *copy(S *a, S *b, T *to);
template <class S, class N, class T> T *copy_n(S *a, N n, T *to);
}
"""

_LIMITS = """#pragma once
namespace std {
template <class T> struct numeric_limits;
template <> struct numeric_limits<float> {
  static constexpr float infinity() { return __builtin_inff(); }
  static constexpr float quiet_NaN() { return __builtin_nanf(""); }
  static constexpr float max() { return 3.40282346638528859812e+38f; }
  static constexpr float lowest() { return -3.40282346638528859812e+38f; }
  static constexpr float min() { return 1.17549435082228750797e-38f; }
  static constexpr float epsilon() { return 1.1920928955078125e-07f; }
};
template <> struct numeric_limits<double> {
  static constexpr double infinity() { return __builtin_inf(); }
  static constexpr double quiet_NaN() { return __builtin_nan(""); }
  static constexpr double max() { return 1.79769313486231570815e+308; }
  static constexpr double lowest() { return -1.79769313486231570815e+308; }
  static constexpr double min() { return 2.22507385850720138309e-308; }
  static constexpr double epsilon() { return 2.2204460492503130808e-16; }
};
template <class T, T A, T B> struct integer_limits {
  static constexpr T max() { return B; }
  static constexpr T min() { return A; }
  static constexpr T lowest() { return A; }
};
template <> struct numeric_limits<int> : integer_limits<int, -2147483647 - 1, 2147483647> {};
template <> struct numeric_limits<long>
    : integer_limits<long, -9223372036854775807L - 1, 9223372036854775807L> {};
template <> struct numeric_limits<long long>
    : integer_limits<long long, -9223372036854775807LL - 1, 9223372036854775807LL> {};
template <> struct numeric_limits<unsigned> : integer_limits<unsigned, 0, 4294967295u> {};
}
"""

_FLOATS = """#pragma once
#define FLT_MAX 3.40282346638528859812e+38f
#define FLT_MIN 1.17549435082228750797e-38f
#define FLT_EPSILON 1.1920928955078125e-07f
#define DBL_MAX 1.79769313486231570815e+308
#define DBL_MIN 2.22507385850720138309e-308
#define DBL_EPSILON 2.2204460492503130808e-16
"""

_BOUNDS = """#pragma once
#define INT_MAX 2147483647
#define INT_MIN (-INT_MAX - 1)
#define LONG_MAX 9223372036854775807L
#define LLONG_MAX 9223372036854775807LL
"""

_ASSERT = """#pragma once
extern "C" void opwright_assert(bool);
#define assert(e) opwright_assert(static_cast<bool>(e))
"""

_STRING = """#pragma once
typedef unsigned long size_t;
extern "C" { void *memset(void *, int, size_t); void *memcpy(void *, const void *, size_t); }
namespace std { using ::memset; using ::memcpy; }
"""

_NUMBERS = _math()
_STDINT = _integers()

HEADERS: dict[str, str] = {
    "math.h": _NUMBERS,
    "cmath": '#include "math.h"\n',
    "stdint.h": _STDINT,
    "inttypes.h": _STDINT,
    "cstdint": '#include "stdint.h"\n',
    "stddef.h": _SIZES,
    "cstddef": '#include "stddef.h"\n',
    "stdlib.h": '#include "stddef.h"\n',
    "cstdlib": '#include "stddef.h"\n#include "math.h"\n',
    "algorithm": _ALGORITHM,
    "limits": _LIMITS,
    "float.h": _FLOATS,
    "cfloat": _FLOATS,
    "limits.h": _BOUNDS,
    "climits": _BOUNDS,
    "assert.h": _ASSERT,
    "cassert": '#include "assert.h"\n',
    "string.h": _STRING,
    "cstring": '#include "string.h"\n',
    "stdbool.h": "#pragma once\n",
    "type_traits": "#pragma once\n",
    "utility": '#include "algorithm"\n',
}
