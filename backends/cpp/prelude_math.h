// Functions of f32 (V is float or a vector of it) with right edges: infinities, NaN, domain errors; results below
// the smallest normal number may be flushed to zero. The claims on their error are in vocabulary.py.

//: v_abs
template <class V> INL V v_abs(V x) { return x < 0 ? -x : x == 0 ? V{} : x; }

//: v_twin
template <class V> using v_twin = v_same<i32, V>;   // f32 bits, signed
//: v_word
template <class V> using v_word = v_same<u32, V>;   // f32 bits, unsigned

//: v_sign
template <class V> INL V v_sign(V magnitude, V sign) {
  return v_bits<V>((v_bits<v_word<V>>(magnitude) & 0x7fffffffu) | (v_bits<v_word<V>>(sign) & 0x80000000u)); }
//: v_positive
template <class V> INL V v_positive(V x) { return v_bits<V>(v_bits<v_word<V>>(x) & 0x7fffffffu); }

//: v_rint
template <class V> INL V v_rint(V x) {
  V a = v_positive(x), r = (a + 8388608.0f) - 8388608.0f; return v_sign(a < 8388608.0f ? r : a, x); }
//: v_floor
template <class V> INL V v_floor(V x) { V r = v_rint(x); return r - (r > x ? v_splat<V>(1.0f) : V{}); }
//: v_ceil
template <class V> INL V v_ceil(V x) { V r = v_rint(x); return r + (r < x ? v_splat<V>(1.0f) : V{}); }
//: v_trunc
template <class V> INL V v_trunc(V x) { return v_sign(v_floor(v_positive(x)), x); }

//: v_sqrt
template <class V> INL V v_sqrt(V x) {
  if constexpr (v_scalar<V>) return __builtin_sqrtf(x); else return v_root(x); }
//: v_root
template <class V> INL V v_root(V x) {
  return v_lanes<V>([&](int l) {
    if constexpr (__is_same(typename v_of<V>::element, float)) return __builtin_sqrtf(x[l]);
    else return __builtin_sqrt(x[l]); }); }
//: v_rsqrt
template <class V> INL V v_rsqrt(V x) { return 1.0f / v_sqrt(x); }

//: v_infinite
template <class V> INL V v_infinite() { return v_splat<V>(__builtin_inff()); }
//: v_undefined
template <class V> INL V v_undefined() { return v_splat<V>(__builtin_nanf("")); }

//: v_exp
/* x = n ln 2 + r; the rounding to n leaves n in the low bits of t */
template <class V> INL V v_exp(V x) {
  V t = x * 1.44269504088896341f + 12582912.0f, n = t - 12582912.0f;
  V r = x - n * 0.693359375f; r = r + n * 2.12194440e-4f;
  V p = 1.9875691500e-4f * r + 1.3981999507e-3f; p = p * r + 8.3334519073e-3f; p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f; p = p * r + 5.0000001201e-1f; p = p * r + 1.0f; p = p * r + 1.0f;
  V e = v_bits<V>(v_bits<v_word<V>>(p) + (v_bits<v_word<V>>(t) << 23));
  e = x < -87.33654f ? V{} : e;
  return x <= 88.722835f ? e : x + v_infinite<V>(); }

//: v_exp2
template <class V> INL V v_exp2(V x) {
  V t = x + 12582912.0f, r = x - (t - 12582912.0f);
  V p = 1.535336188e-4f * r + 1.339887440e-3f; p = p * r + 9.618437357e-3f; p = p * r + 5.550332471e-2f;
  p = p * r + 2.402264791e-1f; p = p * r + 6.931472028e-1f; p = p * r + 1.0f;
  V e = v_bits<V>(v_bits<v_word<V>>(p) + (v_bits<v_word<V>>(t) << 23));
  e = x < -126.0f ? V{} : e;
  return x < 128.0f ? e : x + v_infinite<V>(); }

//: v_expm1
/* 2^n (p + 1) - 1 with half of 2^n, so that n = 128 stays finite until the last doubling */
template <class V> INL V v_expm1(V x) {
  V y = x < -20.0f ? v_splat<V>(-20.0f) : x;
  y = y > 89.0f ? v_splat<V>(89.0f) : y;
  V t = y * 1.44269504088896341f + 12582912.0f, n = t - 12582912.0f;
  V r = y - n * 0.693359375f; r = r + n * 2.12194440e-4f;
  V p = 1.9875691500e-4f * r + 1.3981999507e-3f; p = p * r + 8.3334519073e-3f; p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f; p = p * r + 5.0000001201e-1f; p = p * (r * r) + r;
  V s = v_bits<V>((v_bits<v_word<V>>(t) << 23) + 0x3f000000u);
  V e = (s * p + (s - 0.5f)) * 2.0f;
  return v_positive(x) < 1e-7f ? x : e; }

//: v_log
template <class V> INL V v_log(V x) {
  auto small = x < 1.17549435e-38f;
  v_word<V> b = v_bits<v_word<V>>(small ? x * 8388608.0f : x);
  v_twin<V> e = v_bits<v_twin<V>>(b - 0x3f3504f3u) >> 23;
  V f = v_bits<V>(b - (v_bits<v_word<V>>(e) << 23)) - 1.0f, k = v_convert<V>(e) - (small ? v_splat<V>(23.0f) : V{}), z = f * f;
  V p = 7.0376836292e-2f * f - 1.1514610310e-1f; p = p * f + 1.1676998740e-1f; p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f; p = p * f - 1.6668057665e-1f; p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f; p = p * f + 3.3333331174e-1f;
  V y = f * z * p - k * 2.12194440e-4f; y = y - 0.5f * z;
  V r = (f + y) + k * 0.693359375f;
  r = x > 0 ? r : x == 0 ? -v_infinite<V>() : v_undefined<V>();
  return x == v_infinite<V>() ? x : r; }

//: v_log2
template <class V> INL V v_log2(V x) {
  auto small = x < 1.17549435e-38f;
  v_word<V> b = v_bits<v_word<V>>(small ? x * 8388608.0f : x);
  v_twin<V> e = v_bits<v_twin<V>>(b - 0x3f3504f3u) >> 23;
  V f = v_bits<V>(b - (v_bits<v_word<V>>(e) << 23)) - 1.0f, k = v_convert<V>(e) - (small ? v_splat<V>(23.0f) : V{}), z = f * f;
  V p = 7.0376836292e-2f * f - 1.1514610310e-1f; p = p * f + 1.1676998740e-1f; p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f; p = p * f - 1.6668057665e-1f; p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f; p = p * f + 3.3333331174e-1f;
  V y = f * z * p - 0.5f * z;
  V r = y * 0.44269504088896341f + f * 0.44269504088896341f; r = r + y; r = r + f; r = r + k;
  r = x > 0 ? r : x == 0 ? -v_infinite<V>() : v_undefined<V>();
  return x == v_infinite<V>() ? x : r; }

//: v_log1p
/* log of u = 1 + x, plus what the rounding of u lost */
template <class V> INL V v_log1p(V x) {
  V u = 1.0f + x, c = x < 1.0f ? x - (u - 1.0f) : 1.0f - (u - x);
  V r = v_log(u) + c / u;
  r = x == v_infinite<V>() ? x : x == -1.0f ? -v_infinite<V>() : r;
  return v_positive(x) < 1e-7f ? x : r; }

//: v_sigmoid
template <class V> INL V v_sigmoid(V x) { return 1.0f / (1.0f + v_exp(-x)); }

//: v_tanh
template <class V> INL V v_tanh(V x) {
  V a = v_positive(x), t = v_expm1(a > 10.0f ? v_splat<V>(20.0f) : a + a); return v_sign(t / (t + 2.0f), x); }

//: v_sinh
template <class V> INL V v_sinh(V x) {
  V a = v_positive(x), t = v_expm1(a), h = v_exp(0.5f * a);
  return v_sign(a > 80.0f ? (0.5f * h) * h : 0.5f * (t + t / (t + 1.0f)), x); }

//: v_cosh
template <class V> INL V v_cosh(V x) {
  V a = v_positive(x), h = v_exp(a > 80.0f ? 0.5f * a : a);
  return a > 80.0f ? (0.5f * h) * h : 0.5f * h + 0.5f / h; }

//: v_turn
/* x - n pi / 2 and the low bits of n, for |x| <= 71000; the FMA form relies on -ffp-contract=fast at -O2 or more */
template <class V> INL V v_turn(V x, v_word<V> &n) {
  V t = x * 0.636619747f + 12582912.0f, j = t - 12582912.0f;
  n = v_bits<v_word<V>>(t);
#ifdef __FMA__
  V r = x - j * 1.57079601e+0f; r = r - j * 3.13916473e-7f; return r - j * 5.39030253e-15f;
#else
  typedef v_same<double, V> D; D k = v_convert<D>(j);
  return v_convert<V>((v_convert<D>(x) - k * 1.57079632673412561417) - k * 6.07710050650619224932e-11);
#endif
}

//: v_sine
/* sine of r with |r| <= pi / 4 */
template <class V> INL V v_sine(V r) {
  V z = r * r, p = 2.86567956e-6f * z - 1.98559923e-4f; p = p * z + 8.33338592e-3f; p = p * z - 1.66666672e-1f;
  return p * (z * r) + r; }
//: v_cosine
template <class V> INL V v_cosine(V r) {
  V z = r * r, p = 2.44677067e-5f * z - 1.38877297e-3f; p = p * z + 4.16666567e-2f; p = p * z - 0.5f;
  return p * z + 1.0f; }

//: v_far
template <class V> INL bool v_far(V x) {
  if constexpr (v_scalar<V>) return !(x <= 71000.0f && x >= -71000.0f);
  else return v_any(((x <= 71000.0f) & (x >= -71000.0f)) == 0); }

//: v_sin
template <class V> INL V v_sin(V x) {
  if (v_far(x)) return v_map(x, [](float a) { return __builtin_sinf(a); });
  v_word<V> n; V r = v_turn(x, n), s = v_sine(r), c = v_cosine(r), y = (n & 1) != 0 ? c : s;
  return v_bits<V>(v_bits<v_word<V>>(y) ^ ((n & 2) << 30)); }
//: v_cos
template <class V> INL V v_cos(V x) {
  if (v_far(x)) return v_map(x, [](float a) { return __builtin_cosf(a); });
  v_word<V> n; V r = v_turn(x, n), s = v_sine(r), c = v_cosine(r), y = (n & 1) != 0 ? s : c;
  return v_bits<V>(v_bits<v_word<V>>(y) ^ (((n + 1) & 2) << 30)); }
//: v_tan
template <class V> INL V v_tan(V x) {
  if (v_far(x)) return v_map(x, [](float a) { return __builtin_tanf(a); });
  v_word<V> n; V r = v_turn(x, n), s = v_sine(r), c = v_cosine(r);
  return (n & 1) != 0 ? -c / s : s / c; }

//: v_arc
/* asin on [0, 1/2] from its square */
template <class V> INL V v_arc(V a, V z) {
  V p = 4.2163199048e-2f * z + 2.4181311049e-2f; p = p * z + 4.5470025998e-2f; p = p * z + 7.4953002686e-2f;
  p = p * z + 1.6666752422e-1f; return p * z * a + a; }
//: v_asin
template <class V> INL V v_asin(V x) {
  V a = v_positive(x), z = a > 0.5f ? 0.5f * (1.0f - a) : a * a, y = v_arc(a > 0.5f ? v_sqrt(z) : a, z);
  y = a > 0.5f ? 1.57079632679489662f - (y + y) : y;
  return v_sign(a <= 1.0f ? y : v_undefined<V>(), x); }
//: v_acos
template <class V> INL V v_acos(V x) {
  V a = v_positive(x), z = a > 0.5f ? 0.5f * (1.0f - a) : a * a, y = v_arc(a > 0.5f ? v_sqrt(z) : a, z);
  V near = x < 0 ? 3.14159265358979324f - (y + y) : y + y, middle = 1.57079632679489662f - v_sign(y, x);
  y = a > 0.5f ? near : middle;
  return a <= 1.0f ? y : v_undefined<V>(); }
//: v_atan
template <class V> INL V v_atan(V x) {
  V a = v_positive(x), u = a > 2.414213562373095f ? -1.0f / a : a > 0.4142135623730950f ? (a - 1.0f) / (a + 1.0f) : a;
  V base = a > 2.414213562373095f ? v_splat<V>(1.57079632679489662f) :
           a > 0.4142135623730950f ? v_splat<V>(0.785398163397448309f) : V{};
  V z = u * u, p = 8.05374449538e-2f * z - 1.38776856032e-1f; p = p * z + 1.99777106478e-1f;
  p = p * z - 3.33329491539e-1f; return v_sign(base + (p * z * u + u), x); }

//: v_erf
template <class V> INL V v_erf(V x) {
  V a = v_positive(x), s = x * x;
  V r = -1.72853470e-5f * a + 3.83197126e-4f, u = -3.88396438e-3f * a + 2.42546219e-2f;
  r = r * s + u; r = r * a - 1.06777877e-1f; r = r * a - 6.34846687e-1f; r = r * a - 1.28717512e-1f; r = r * a - a;
  V far = v_sign(1.0f - v_exp(a > 5.0f ? v_splat<V>(-30.0f) : r), x);
  V p = -5.96761703e-4f * s + 4.99119423e-3f; p = p * s - 2.67681349e-2f; p = p * s + 1.12819925e-1f;
  p = p * s - 3.76125336e-1f; p = p * s + 1.28379166e-1f; p = p * x + x;
  return a > 0.927734375f ? far : p; }

//: v_pow
template <class V> INL V v_pow(V x, V y) {
  return v_map(x, y, [](auto a, auto b) {
    if constexpr (__is_same(decltype(a), float)) return __builtin_powf(a, b); else return __builtin_pow(a, b); }); }

//: v_philox
/* words 0 and 1 of Philox4x32-10; counter: position, stream, 0 */
struct v_words { u32 a, b; };
INL v_words v_philox(i64 seed, i64 at, i64 stream) {
  u32 k0 = (u32)seed, k1 = (u32)((u64)seed >> 32), a = (u32)at, b = (u32)((u64)at >> 32), c = (u32)stream, d = 0;
  for (int n = 0; n < 10; n++) {
    u64 p = 0xD2511F53ull * a, q = 0xCD9E8D57ull * c;
    a = (u32)(q >> 32) ^ b ^ k0; c = (u32)(p >> 32) ^ d ^ k1; b = (u32)q; d = (u32)p;
    k0 += 0x9E3779B9u; k1 += 0xBB67AE85u; }
  return {a, b}; }
//: v_rand
template <class To, class V> INL To v_rand(V seed, V at, V stream) {
  if constexpr (v_scalar<V>) return (To)(v_philox(seed, at, stream).a >> 8) * (To)0x1p-24;
  else return v_lanes<To>([&](int l) { return v_rand<typename v_of<To>::element>(seed[l], at[l], stream[l]); }); }
//: v_normal
INL double v_normal(i64 seed, i64 at, i64 stream) {
  v_words w = v_philox(seed, at, stream);
  double u = ((double)(w.a >> 8) + 1) * 0x1p-24, angle = (double)(w.b >> 8) * 0x1.921fb54442d18p-22;
  return __builtin_sqrt(-2 * __builtin_log(u)) * __builtin_cos(angle); }
//: v_randn
template <class To, class V> INL To v_randn(V seed, V at, V stream) {
  if constexpr (v_scalar<V>) return (To)v_normal(seed, at, stream);
  else return v_lanes<To>([&](int l) { return v_randn<typename v_of<To>::element>(seed[l], at[l], stream[l]); }); }

//: v_isnan
template <class V> INL auto v_isnan(V x) { return x != x; }
//: v_isinf
template <class V> INL auto v_isinf(V x) { 
  const typename v_of<V>::element inf = __builtin_inff(); return (x == inf) | (x == -inf); }

//: v_from_bf16
template <class V> INL V v_from_bf16(v_same<u16, V> x) { return v_bits<V>(v_convert<v_word<V>>(x) << 16); }
//: v_to_bf16
template <class V> INL v_same<u16, V> v_to_bf16(V x) {
  v_word<V> b = v_bits<v_word<V>>(x), r = (b + (0x7fff + (b >> 16 & 1))) >> 16;
  return v_convert<v_same<u16, V>>(x != x ? v_splat<v_word<V>>(0x7fc0) : r); }

//: v_small
/* a float of BITS bits with M of fraction; KIND 0: ieee, 1: only all ones is NaN, 2: only minus zero is NaN, 3: finite */
template <class V, int BITS, int M, int BIAS, int KIND, class C> INL V v_small(C code) {
  typedef v_word<V> W; constexpr u32 top = (1u << (BITS - 1)) - 1;
  W c = v_convert<W>(code), m = c & top, s = (c >> (BITS - 1) & 1) << 31;
  V normal = v_bits<V>((m << (23 - M)) + ((127u - BIAS) << 23));
  V tiny = v_convert<V>((v_twin<V>)m) * __builtin_bit_cast(float, (u32)(128 - BIAS - M) << 23);
  V r = m < (1u << M) ? tiny : normal;
  if constexpr (KIND == 0) {
    constexpr u32 inf = top >> M << M; r = m == inf ? v_infinite<V>() : m > inf ? v_undefined<V>() : r; }
  if constexpr (KIND == 1) r = m == top ? v_undefined<V>() : r;
  if constexpr (KIND == 2) r = c == top + 1 ? v_undefined<V>() : r;
  return v_bits<V>(v_bits<W>(r) | s); }
//: v_to_small
template <class C, int BITS, int M, int BIAS, int KIND, class V> INL C v_to_small(V x) {
  typedef v_word<V> W; constexpr u32 top = (1u << (BITS - 1)) - 1, inf = top >> M << M;
  constexpr u32 largest = KIND == 0 ? inf - 1 : KIND == 1 ? top - 1 : top;
  constexpr u32 over = KIND == 0 ? inf : KIND == 1 ? top : KIND == 2 ? top + 1 : top;
  constexpr u32 nan = KIND == 0 ? inf + 1 : KIND == 1 ? top : KIND == 2 ? top + 1 : top;
  V a = v_positive(x); W b = v_bits<W>(a), s = v_bits<W>(x) >> 31 << (BITS - 1);
  W normal = ((b + (((1u << (22 - M)) - 1) + (b >> (23 - M) & 1))) >> (23 - M)) - ((127u - BIAS) << M);
  V least = v_splat<V>(__builtin_bit_cast(float, (u32)(128 - BIAS) << 23));  // smallest normal number
  V t = a * __builtin_bit_cast(float, (u32)(126 + BIAS + M) << 23) + 8388608.0f;
  W r = a < least ? v_bits<W>(t) & 0x3fffff : normal;
  r = r > largest ? v_splat<W>(over) : r;
  r = x != x ? v_splat<W>(nan) : r;
  if constexpr (KIND == 2) s = r == 0 ? W{} : s;
  return v_convert<C>(r | s); }

//: v_from_f16
template <class V> INL V v_from_f16(v_same<u16, V> x) { return v_small<V, 16, 10, 15, 0>(x); }
//: v_to_f16
template <class V> INL v_same<u16, V> v_to_f16(V x) { return v_to_small<v_same<u16, V>, 16, 10, 15, 0>(x); }

//: v_odd
/* f64 to f32 rounded to odd, so that a second rounding is still right */
template <class V, class D> INL V v_odd(D x) {
  return v_map_to<V>(x, [](double a) {
    float near = (float)a; const double back = near;
    if (back == a || a != a || near - near != 0) return near;
    u32 b = __builtin_bit_cast(u32, near);
    if (__builtin_fabs(back) > __builtin_fabs(a)) b -= 1;
    return __builtin_bit_cast(float, b | 1); }); }
//: v_map_to
template <class To, class V, class F> INL To v_map_to(V x, F f) {
  if constexpr (v_scalar<V>) return f(x); else return v_lanes<To>([&](int l) { return f(x[l]); }); }
