// The vocabulary that every printed kernel may use: header-free C++ (GNU vectors and builtins), any CPU.
// A line "//: name..." opens a snippet that defines these names; only snippets in use are printed.
// V is a scalar or a vector of it; a truth value is bool, or a vector of i32 (0 or -1) beside vectors.

//: INL
typedef __INT8_TYPE__ i8; typedef __INT16_TYPE__ i16; typedef __INT32_TYPE__ i32; typedef __INT64_TYPE__ i64;
typedef __UINT8_TYPE__ u8; typedef __UINT16_TYPE__ u16; typedef __UINT32_TYPE__ u32; typedef __UINT64_TYPE__ u64;
#define INL static inline __attribute__((always_inline))

//: v_make
template <class E, int N> struct v_make { typedef E type __attribute__((vector_size(N * sizeof(E)))); };
template <class E> struct v_make<E, 1> { typedef E type; };

//: v_scalar
template <class V> inline constexpr bool v_scalar = __is_same(V, float) || __is_same(V, double) || __is_same(V, bool) ||
  __is_same(V, i8) || __is_same(V, i16) || __is_same(V, i32) || __is_same(V, i64) ||
  __is_same(V, u8) || __is_same(V, u16) || __is_same(V, u32) || __is_same(V, u64);

//: v_of
template <class V, bool S = v_scalar<V>> struct v_of { typedef V element; static constexpr int count = 1; };
template <class V> struct v_of<V, false> {
  typedef __typeof__(((V *)nullptr)[0][0]) element;
  static constexpr int count = sizeof(V) / sizeof(element);
};

//: v_same
template <class E, class V> using v_same = typename v_make<E, v_of<V>::count>::type;  // E in as many lanes as V has

//: v_seq
template <int... L> struct v_seq {};
template <class V> using v_indices = v_seq<__integer_pack(v_of<V>::count)...>;
template <class V> using v_half = v_seq<__integer_pack(v_of<V>::count / 2)...>;

//: v_lanes
template <class V, class F, int... L> INL V v_lanes_at(F f, v_seq<L...>) { return V{f(L)...}; }
template <class V, class F> INL V v_lanes(F f) { return v_lanes_at<V>(f, v_indices<V>{}); }

//: v_each
template <int N, class F> INL void v_each(F f) { for (i64 l = 0; l < N; l++) f(l); }

//: v_splat
template <class V> INL V v_splat(typename v_of<V>::element x) { return x - V{}; }

//: v_truth
/* one truth value in every lane */
template <class M> INL M v_truth(bool b) { return v_splat<M>(-(typename v_of<M>::element)b); }

//: v_iota
template <class V> INL V v_iota() { return v_lanes<V>([](int l) { return (typename v_of<V>::element)l; }); }

//: v_convert
template <class To, class V> INL To v_convert(V x) {
  if constexpr (v_scalar<To>) return (To)x; else return __builtin_convertvector(x, To); }

//: v_meant
/* a rounding that is meant, beside those of a type with less precision */
template <class V> INL V v_meant(V x) { return x; }

//: v_bits
template <class To, class V> INL To v_bits(V x) { return __builtin_bit_cast(To, x); }

//: v_load
template <class V> INL V v_load(const void *p) { V v; __builtin_memcpy(&v, p, sizeof v); return v; }

//: v_store
template <class V> INL void v_store(void *p, V v) { __builtin_memcpy(p, &v, sizeof v); }

//: v_stream
template <class V> INL void v_stream(void *p, V v) { v_store(p, v); }

//: v_prefix
template <class M> INL M v_prefix(i64 n) {
  const i32 k = n < 0 ? 0 : n > v_of<M>::count ? v_of<M>::count : (i32)n; return v_iota<M>() < k; }

//: v_across
template <class V, class F, int... L> INL auto v_across_at(V v, F f, v_seq<L...>) {
  return f(__builtin_shufflevector(v, v, L...), __builtin_shufflevector(v, v, (L + (int)sizeof...(L))...)); }
template <class V, class F> INL auto v_across(V v, F f) {
  if constexpr (v_of<V>::count == 2) return f(v[0], v[1]);
  else return v_across(v_across_at(v, f, v_half<V>{}), f); }

//: v_any
template <class M> INL bool v_any(M m) { return v_across(m, [](auto a, auto b) { return a | b; }) != 0; }

//: v_all
template <class M> INL bool v_all(M m) { return v_across(m, [](auto a, auto b) { return a & b; }) != 0; }

//: v_load_masked
template <class V, class M> INL V v_load_masked(const void *p, M m, typename v_of<V>::element other) {
  const typename v_of<V>::element *q = (const typename v_of<V>::element *)p;
  return v_lanes<V>([&](int l) { return m[l] ? v_load<typename v_of<V>::element>(q + l) : other; }); }

//: v_store_masked
template <class V, class M> INL void v_store_masked(void *p, M m, V v) {
  typename v_of<V>::element *q = (typename v_of<V>::element *)p;
  if (v_all(m)) v_store(p, v);
  else for (int l = 0; l < v_of<V>::count; l++) if (m[l]) { typename v_of<V>::element e = v[l]; v_store(q + l, e); } }

//: v_max
template <class V> INL V v_max(V a, V b) { V r = a > b ? a : b; return a != a ? a : r; }

//: v_min
template <class V> INL V v_min(V a, V b) { V r = a < b ? a : b; return a != a ? a : r; }

//: v_sum
template <class V> INL auto v_sum(V v) { return v_across(v, [](auto a, auto b) { return a + b; }); }

//: v_prod
template <class V> INL auto v_prod(V v) { return v_across(v, [](auto a, auto b) { return a * b; }); }

//: v_highest
template <class V> INL auto v_highest(V v) { return v_across(v, [](auto a, auto b) { return v_max(a, b); }); }

//: v_lowest
template <class V> INL auto v_lowest(V v) { return v_across(v, [](auto a, auto b) { return v_min(a, b); }); }

//: v_run
/* the lane L - K (K > 0) or L - K = L + |K| of v, a lane of fill where there is none */
template <int K, class V, int... L> INL V v_shift(V v, V fill, v_seq<L...>) {
  constexpr int n = v_of<V>::count;
  return __builtin_shufflevector(v, fill, (L - K >= 0 && L - K < n ? L - K : n + L)...); }
template <int K, class V, class F> INL V v_run(V v, V fill, F f) {
  if constexpr (K >= v_of<V>::count || -K >= v_of<V>::count) return v;
  else return v_run<2 * K>(f(v_shift<K>(v, fill, v_indices<V>{}), v), fill, f); }

//: v_run_sum
template <class V> INL V v_run_sum(V v) { return v_run<1>(v, V{}, [](V a, V b) { return a + b; }); }
//: v_run_prod
template <class V> INL V v_run_prod(V v) { return v_run<1>(v, V{} + 1, [](V a, V b) { return a * b; }); }
//: v_run_max
template <class V> INL V v_run_max(V v) { return v_run<1>(v, v, [](V a, V b) { return v_max(a, b); }); }
//: v_run_min
template <class V> INL V v_run_min(V v) { return v_run<1>(v, v, [](V a, V b) { return v_min(a, b); }); }
//: v_run_sum_back
template <class V> INL V v_run_sum_back(V v) { return v_run<-1>(v, V{}, [](V a, V b) { return a + b; }); }
//: v_run_prod_back
template <class V> INL V v_run_prod_back(V v) { return v_run<-1>(v, V{} + 1, [](V a, V b) { return a * b; }); }
//: v_run_max_back
template <class V> INL V v_run_max_back(V v) { return v_run<-1>(v, v, [](V a, V b) { return v_max(a, b); }); }
//: v_run_min_back
template <class V> INL V v_run_min_back(V v) { return v_run<-1>(v, v, [](V a, V b) { return v_min(a, b); }); }

//: v_map
template <class V, class F> INL V v_map(V x, F f) {
  if constexpr (v_scalar<V>) return f(x); else return v_lanes<V>([&](int l) { return f(x[l]); }); }
template <class V, class F> INL V v_map(V x, V y, F f) {
  if constexpr (v_scalar<V>) return f(x, y); else return v_lanes<V>([&](int l) { return f(x[l], y[l]); }); }

//: v_floordiv
/* floor; a masked-off lane may hold a zero divisor */
template <class V> INL V v_floordiv(V x, V y) {
  return v_map(x, y, [](auto a, auto b) -> typename v_of<V>::element {
    if (b == 0) return 0;
    if (b == -1) return -a;
    auto q = a / b, r = a % b; return q - (r != 0 && (r < 0) != (b < 0)); }); }

//: v_floormod
template <class V> INL V v_floormod(V x, V y) {
  return v_map(x, y, [](auto a, auto b) -> typename v_of<V>::element {
    if (b == 0 || b == -1) return 0;
    auto r = a % b; return r != 0 && (r < 0) != (b < 0) ? r + b : r; }); }

//: i_min
INL i64 i_min(i64 a, i64 b) { return a < b ? a : b; }
//: i_max
INL i64 i_max(i64 a, i64 b) { return a > b ? a : b; }
//: i_div
INL i64 i_div(i64 a, i64 b) { const i64 q = a / b, r = a % b; return q - (r != 0 && (r < 0) != (b < 0)); }
//: i_mod
INL i64 i_mod(i64 a, i64 b) { const i64 r = a % b; return r != 0 && (r < 0) != (b < 0) ? r + b : r; }
//: r_min
INL double r_min(double a, double b) { return a < b || a != a ? a : b; }
//: r_max
INL double r_max(double a, double b) { return a > b || a != a ? a : b; }
