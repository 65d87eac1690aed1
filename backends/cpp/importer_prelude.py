"""The printer's vocabulary in a text that comes back: recognised byte for byte, then trusted.

What a text begins with is taken for ours where it is nothing but snippets of `vocabulary.py` and
the vector types they need, and what follows cannot change them; then names have the meaning that
`importer_calls.py` gives them, and the text is parsed against declarations instead. `completed`
puts the vocabulary before a text that only uses it.
"""

from __future__ import annotations

import re

from opwright.backends.cpp.vocabulary import ISAS, VECTOR, names, prelude, snippets, typedef

_FIRST = re.compile(r"// [^\n]*, ([\w-]+)\n")
_KERNEL = 'extern "C" void '
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.S)
_TYPES = re.compile(r"\b(?:template|struct|class|union|namespace|operator|using|concept|friend)\b")

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
template <class To, class V> To v_bits(V x);
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
# what an author may use of it
WORDS = """v_load v_store v_load_masked v_store_masked v_prefix v_stream v_splat v_iota v_convert
v_bits v_sum v_prod v_highest v_lowest v_any v_all v_run_sum v_run_prod v_run_max v_run_min
v_run_sum_back v_run_prod_back v_run_max_back v_run_min_back v_max v_min v_abs v_floor v_ceil
v_trunc v_rint v_root v_rsqrt v_exp v_exp2 v_expm1 v_log v_log2 v_log1p v_sin v_cos v_tan v_sinh
v_cosh v_tanh v_asin v_acos v_atan v_erf v_sigmoid v_pow i_min i_max i_div i_mod""".split()
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
    if first is None or first[1] not in ISAS or "v_" not in source:
        return None
    at = _end_of_ours(source, first.end(), first[1])
    body = source[at:]
    if at == first.end() or _KERNEL not in body or _changes_ours(body):
        return None
    types = sorted({m[0] for m in VECTOR.finditer(body)})
    halves = [t for t in types if re.fullmatch(r"f32x\d+", t)]
    return "\n" * source[:at].count("\n") + body, _declarations(types, halves)


def completed(source: str, title: str, level: str) -> str:
    """A text that uses the vocabulary, with the vocabulary before it: what it copied of it, or
    gave types by the same names, is left out. Other texts stay what they are."""
    if level not in ISAS:
        return source
    kept = without_vocabulary(source, level)
    used = set(re.findall(r"\b(v_\w+|[ir]_(?:min|max|div|mod))\s*[<(]", _COMMENT.sub(" ", kept)))
    if trusted(source) is not None and _within(used & names(), source):
        return source
    defined = _defined(kept)
    typed = set(re.findall(r"typedef[^;]*?\b(\w+)\s*(?:__attribute__[^;]*)?;", kept))
    missing = set(re.findall(r"\b[iu](?:8|16|32|64)\b|\b[fiu](?:8|16|32|64)x\d+\b", kept)) - typed
    if not (used & names() or missing) or defined & names():
        return source
    return f"// {title}, {level}\n{prelude(kept, level)}\n{kept}"


def _within(used: set[str], source: str) -> bool:
    """Whether the vocabulary that a text begins with has all of these names: an edit may use
    more."""
    first = _FIRST.match(source)
    assert first is not None
    ours = source[: _end_of_ours(source, first.end(), first[1])]
    return all(re.search(rf"\b{name}\s*[<(]", ours) for name in used)


def _defined(text: str) -> set[str]:
    """Names like the vocabulary's that a text gives a body: `if (v_any(m)) {` gives none."""
    found = set()
    for m in re.finditer(r"\b(v_\w+|[ir]_(?:min|max|div|mod))\s*\(", text):
        depth, at = 1, m.end()
        while depth and at < len(text):
            depth += (text[at] == "(") - (text[at] == ")")
            at += 1
        if text[at:].lstrip().startswith("{"):
            found.add(m[1])
    return found


def without_vocabulary(source: str, level: str) -> str:
    """A text without what it holds of the vocabulary, which is put before it again."""
    first = _FIRST.match(source)
    kept = source[first.end() :] if first is not None and first[1] in ISAS else source
    at = kept.find(_KERNEL)
    head, rest = kept[: max(at, 0)], kept[max(at, 0) :]
    found = sorted(snippets(level), key=len, reverse=True)
    for text in found:
        head = head.replace(text, "")
    lines = head.split("\n")
    for name in {m[0] for m in VECTOR.finditer(head)}:
        lines = [x for x in lines if x.strip() != typedef(name).strip()]
    head = "\n".join(lines).strip("\n")
    return (head + "\n" if head else "") + rest


def _end_of_ours(source: str, at: int, level: str) -> int:
    """Where a text ends to be the vocabulary's snippets and vector types."""
    texts = sorted(snippets(level), key=len, reverse=True)
    while True:
        end = source.find("\n", at) + 1
        line = source[at:end]
        m = VECTOR.search(line)
        if m and line == typedef(m[0]):
            at = end
            continue
        found = next((t for t in texts if source.startswith(t, at)), None)
        if found is None:
            return at
        at += len(found)


def _changes_ours(body: str) -> bool:
    """Whether what follows the vocabulary may change what its names mean: specialised templates,
    types and operators of its own, macros in the place of names."""
    plain = _COMMENT.sub(" ", body)
    if _TYPES.search(plain):
        return True
    macros = set(re.findall(r"^\s*#\s*(?:define|undef)\s+(\w+)", plain, re.MULTILINE))
    return not macros.isdisjoint(names() - {"INL"})


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
