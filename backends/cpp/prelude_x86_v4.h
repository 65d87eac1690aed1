// Overrides for x86-64-v4 (AVX-512 F, BW, DQ, VL), on top of those of x86-64-v3.

//: v_max f32x16
INL f32x16 v_max(f32x16 a, f32x16 b) {
  typedef i32 m __attribute__((vector_size(64)));
  return (f32x16)((m)(a > b ? a : b) | (m)(a != a)); }
//: v_min f32x16
INL f32x16 v_min(f32x16 a, f32x16 b) {
  typedef i32 m __attribute__((vector_size(64)));
  return (f32x16)((m)(a < b ? a : b) | (m)(a != a)); }

//: v_root f32x16
INL f32x16 v_root(f32x16 x) { return __builtin_ia32_sqrtps512_mask(x, x, -1, 4); }
//: v_root f64x8
INL f64x8 v_root(f64x8 x) { return __builtin_ia32_sqrtpd512_mask(x, x, -1, 4); }

//: v_any i32x16
INL bool v_any(i32x16 m) { return __builtin_ia32_cvtd2mask512(m) != 0; }
//: v_all i32x16
INL bool v_all(i32x16 m) { return __builtin_ia32_cvtd2mask512(m) == 0xffff; }

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
