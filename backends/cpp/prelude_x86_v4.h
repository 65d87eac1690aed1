// Overrides for x86-64-v4 (AVX-512 F, BW, DQ, VL), on top of those of x86-64-v3.

//: v_max f32x16
/* maxps gives its second operand when one is NaN; a NaN of b, the new one in loops, stays where it is */
INL f32x16 v_max(f32x16 a, f32x16 b) {
  return __builtin_ia32_maxps512_mask(b, a, b, __builtin_ia32_cmpps512_mask(b, b, 7, -1, 4), 4); }
//: v_min f32x16
INL f32x16 v_min(f32x16 a, f32x16 b) {
  return __builtin_ia32_minps512_mask(b, a, b, __builtin_ia32_cmpps512_mask(b, b, 7, -1, 4), 4); }

//: v_root f32x16
INL f32x16 v_root(f32x16 x) { return __builtin_ia32_sqrtps512_mask(x, x, -1, 4); }
//: v_root f64x8
INL f64x8 v_root(f64x8 x) { return __builtin_ia32_sqrtpd512_mask(x, x, -1, 4); }

//: v_any i32x16
INL bool v_any(i32x16 m) { return __builtin_ia32_cvtd2mask512(m) != 0; }
//: v_all i32x16
INL bool v_all(i32x16 m) { return __builtin_ia32_cvtd2mask512(m) == 0xffff; }

//: v_clamp f32x16
/* between the numbers; NaN is kept, as the instructions give their second operand then */
INL f32x16 v_clamp(f32x16 x, float lo, float hi) {
  x = __builtin_ia32_maxps512_mask(v_splat<f32x16>(lo), x, x, -1, 4);
  return __builtin_ia32_minps512_mask(v_splat<f32x16>(hi), x, x, -1, 4); }
//: v_clamp f32x8
INL f32x8 v_clamp(f32x8 x, float lo, float hi) {
  return __builtin_ia32_minps256(v_splat<f32x8>(hi), __builtin_ia32_maxps256(v_splat<f32x8>(lo), x)); }
//: v_times_power f32x16
/* a 2^n for whole n; saturates at both ends */
INL f32x16 v_times_power(f32x16 a, f32x16 n) { return __builtin_ia32_scalefps512_mask(a, n, a, -1, 4); }
//: v_times_power f32x8
INL f32x8 v_times_power(f32x8 a, f32x8 n) { return __builtin_ia32_scalefps256_mask(a, n, a, -1); }
//: v_power_of_e
/* the first exponents whose results are 0 and infinite bound the argument; degree 6 on |r| <= ln 2 / 2 */
template <class V> INL V v_power_of_e(V x) {
  x = v_clamp(x, -104.0f, 89.0f);
  V n = (x * 1.44269504088896341f + 12582912.0f) - 12582912.0f;
  V r = x - n * 0.693359375f; r = r + n * 2.12194440e-4f;
  V p = 1.3814540e-3f * r + 8.3687452e-3f; p = p * r + 4.1668391e-2f; p = p * r + 1.6666520e-1f;
  p = p * r + 4.9999993e-1f; p = p * r + 1.0f; p = p * r + 1.0f;
  return v_times_power(p, n); }
//: v_exp f32x16
INL f32x16 v_exp(f32x16 x) { return v_power_of_e(x); }
//: v_exp f32x8
INL f32x8 v_exp(f32x8 x) { return v_power_of_e(x); }

//: v_load_masked f32x16
template <> inline __attribute__((always_inline)) f32x16 v_load_masked<f32x16>(const void *p, v_same<i32, f32x16> m, float other) {
  return __builtin_ia32_loadups512_mask((const float *)p, v_splat<f32x16>(other), __builtin_ia32_cvtd2mask512(m)); }
//: v_load_masked f64x8
template <> inline __attribute__((always_inline)) f64x8 v_load_masked<f64x8>(const void *p, v_same<i32, f64x8> m, double other) {
  return __builtin_ia32_loadupd512_mask((const double *)p, v_splat<f64x8>(other), __builtin_ia32_cvtd2mask256(m)); }

//: v_store_masked f32x16
INL void v_store_masked(void *p, v_same<i32, f32x16> m, f32x16 v) {
  __builtin_ia32_storeups512_mask((float *)p, v, __builtin_ia32_cvtd2mask512(m)); }

//: v_stream f32x16
INL void v_stream(void *p, f32x16 v) { __builtin_ia32_movntps512((float *)p, v); }
//: v_stream f64x8
INL void v_stream(void *p, f64x8 v) { __builtin_ia32_movntpd512((double *)p, v); }

//: v_from_f16 f32x16
template <> inline __attribute__((always_inline)) f32x16 v_from_f16<f32x16>(v_same<u16, f32x16> x) {
  typedef short h __attribute__((vector_size(32)));
  return __builtin_ia32_vcvtph2ps512_mask((h)x, f32x16{}, -1, 4); }
//: v_to_f16 f32x16
INL v_same<u16, f32x16> v_to_f16(f32x16 x) {
  typedef short h __attribute__((vector_size(32)));
  return (v_same<u16, f32x16>)__builtin_ia32_vcvtps2ph512_mask(x, 0, h{}, -1); }
