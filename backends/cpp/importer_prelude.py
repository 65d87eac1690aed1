"""The printer's vocabulary in a text that comes back: recognised byte for byte, then trusted.

What stands before the first kernel is taken for ours only if it is nothing but snippets of
`vocabulary.py` and the vector types they need; then names have the meaning that
`importer_calls.py` gives them, and the text is parsed against declarations instead.
"""

from __future__ import annotations

import re

from opwright.backends.cpp.vocabulary import ISAS, VECTOR, snippets, typedef

_FIRST = re.compile(r"// [^\n]*, ([\w-]+)\n")
_KERNEL = 'extern "C" void '

_STUB = """
typedef signed char i8; typedef short i16; typedef int i32; typedef long i64;
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32;
typedef unsigned long u64;
{types}
template <class V, bool N> struct v_part {{ typedef V type; }};
template <class V> struct v_part<V, false> {{ typedef __typeof__(((V *)nullptr)[0][0]) type; }};
template <class V> inline constexpr bool v_number = __is_arithmetic(V);
template <class V> using v_el = typename v_part<V, v_number<V>>::type;
template <class V, class F> V v_lanes(F f) {{ return V{{}}; }}
template <int N, class F> void v_each(F f) {{}}
template <class V, class F> V v_map(V x, F f) {{ return x; }}
template <class V> V v_splat(v_el<V> x);
template <class V> V v_truth(bool b);
template <class V> V v_iota();
template <class M> M v_prefix(i64 n);
template <class To, class V> To v_convert(V x);
template <class V> V v_meant(V x);
template <class V> V v_load(const void *p);
template <class V> void v_store(void *p, V v);
template <class V> void v_stream(void *p, V v);
template <class V, class M> V v_load_masked(const void *p, M m, v_el<V> other);
template <class M, class V> void v_store_masked(void *p, M m, V v);
template <class M> bool v_any(M m);
template <class M> bool v_all(M m);
template <class V> v_el<V> v_sum(V v);
template <class V> v_el<V> v_prod(V v);
template <class V> v_el<V> v_highest(V v);
template <class V> v_el<V> v_lowest(V v);
{runs}
template <class V> auto v_isnan(V x) -> decltype(x != x);
template <class V> auto v_isinf(V x) -> decltype(x != x);
template <class V, class C> V v_from_bf16(C x);
template <class V, class C> V v_from_f16(C x);
template <class V, int BITS, int M, int BIAS, int KIND, class C> V v_small(C code);
template <class C, int BITS, int M, int BIAS, int KIND, class V> C v_to_small(V x);
template <class V, class D> V v_odd(D x);
template <class V> struct v_half_bits {{ typedef u16 type; }};
{halves}
template <class V> typename v_half_bits<V>::type v_to_bf16(V x);
template <class V> typename v_half_bits<V>::type v_to_f16(V x);
{random}
{unary}
{binary}
i64 i_min(i64, i64); i64 i_max(i64, i64); i64 i_div(i64, i64); i64 i_mod(i64, i64);
double r_min(double, double); double r_max(double, double);
"""
_UNARY = """exp exp2 expm1 log log2 log1p sqrt root rsqrt sin cos tan sinh cosh tanh asin acos atan
erf sigmoid abs positive floor ceil trunc rint""".split()
_RUNS = [f"{kind}{back}" for kind in ("sum", "prod", "max", "min") for back in ("", "_back")]
_RANDOM = "rand randn".split()
_BINARY = "max min pow floordiv floormod".split()


def printed_for(source: str) -> str | None:
    """The instruction set that a text's first line says it was printed for."""
    first = _FIRST.match(source)
    return first[1] if first is not None and first[1] in ISAS else None


def trusted(source: str) -> tuple[str, str] | None:
    """(the kernels, lines kept; declarations of the vocabulary) if the text begins with ours."""
    first = _FIRST.match(source)
    at = source.find(_KERNEL)
    if first is None or first[1] not in ISAS or at < 0 or "v_" not in source:
        return None
    if not _is_ours(source[first.end() : at], first[1]):
        return None
    body = source[at:]
    types = sorted({m[0] for m in VECTOR.finditer(body)})
    halves = [t for t in types if re.fullmatch(r"f32x\d+", t)]
    return "\n" * source[:at].count("\n") + body, _declarations(types, halves)


def _is_ours(head: str, level: str) -> bool:
    """Whether a text is a sequence of the vocabulary's snippets and vector types."""
    texts = sorted(snippets(level), key=len, reverse=True)
    left = head.removesuffix("\n")
    while left:
        line = left.split("\n", 1)[0] + "\n"
        m = VECTOR.search(line)
        if m and line == typedef(m[0]):
            left = left[len(line) :]
            continue
        found = next((t for t in texts if left.startswith(t)), None)
        if found is None:
            return False
        left = left[len(found) :]
    return True


def _declarations(types: list[str], halves: list[str]) -> str:
    known = {*types, *(f"u16x{h[4:]}" for h in halves)}
    return _STUB.format(
        types="".join(typedef(t) for t in sorted(known)),
        halves="".join(
            f"template <> struct v_half_bits<{h}> {{ typedef u16x{h[4:]} type; }};\n"
            for h in halves
        ),
        runs="".join(f"template <class V> V v_run_{n}(V v);\n" for n in _RUNS),
        random="".join(f"template <class To, class V> To v_{n}(V, V, V);\n" for n in _RANDOM),
        unary="".join(f"template <class V> V v_{n}(V x);\n" for n in _UNARY),
        binary="".join(f"template <class V> V v_{n}(V x, V y);\n" for n in _BINARY),
    )
