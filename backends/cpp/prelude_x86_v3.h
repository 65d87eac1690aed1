// Overrides for x86-64-v3 (AVX2, FMA, F16C); a snippet is printed when its name and its types are in use.

//: v_max f32x8
/* maxps gives its second operand when one is NaN; all ones is a NaN */
INL f32x8 v_max(f32x8 a, f32x8 b) {
  typedef i32 m __attribute__((vector_size(32)));
  return (f32x8)((m)__builtin_ia32_maxps256(a, b) | (m)(a != a)); }
//: v_max f32x4
INL f32x4 v_max(f32x4 a, f32x4 b) {
  typedef i32 m __attribute__((vector_size(16)));
  return (f32x4)((m)__builtin_ia32_maxps(a, b) | (m)(a != a)); }
//: v_max f64x4
INL f64x4 v_max(f64x4 a, f64x4 b) {
  typedef i64 m __attribute__((vector_size(32)));
  return (f64x4)((m)__builtin_ia32_maxpd256(a, b) | (m)(a != a)); }
//: v_min f32x8
INL f32x8 v_min(f32x8 a, f32x8 b) {
  typedef i32 m __attribute__((vector_size(32)));
  return (f32x8)((m)__builtin_ia32_minps256(a, b) | (m)(a != a)); }
//: v_min f32x4
INL f32x4 v_min(f32x4 a, f32x4 b) {
  typedef i32 m __attribute__((vector_size(16)));
  return (f32x4)((m)__builtin_ia32_minps(a, b) | (m)(a != a)); }
//: v_min f64x4
INL f64x4 v_min(f64x4 a, f64x4 b) {
  typedef i64 m __attribute__((vector_size(32)));
  return (f64x4)((m)__builtin_ia32_minpd256(a, b) | (m)(a != a)); }

//: v_root f32x8
INL f32x8 v_root(f32x8 x) { return __builtin_ia32_sqrtps256(x); }
//: v_root f32x4
INL f32x4 v_root(f32x4 x) { return __builtin_ia32_sqrtps(x); }
//: v_root f64x4
INL f64x4 v_root(f64x4 x) { return __builtin_ia32_sqrtpd256(x); }
//: v_root f64x2
INL f64x2 v_root(f64x2 x) { return __builtin_ia32_sqrtpd(x); }

//: v_any i32x8
INL bool v_any(i32x8 m) { typedef float f __attribute__((vector_size(32))); return __builtin_ia32_movmskps256((f)m) != 0; }
//: v_all i32x8
INL bool v_all(i32x8 m) { typedef float f __attribute__((vector_size(32))); return __builtin_ia32_movmskps256((f)m) == 255; }

//: v_load_masked f32x8
template <> inline __attribute__((always_inline)) f32x8 v_load_masked<f32x8>(const void *p, v_same<i32, f32x8> m, float other) {
  f32x8 x = __builtin_ia32_maskloadps256((const f32x8 *)p, m); return m ? x : v_splat<f32x8>(other); }
//: v_load_masked f32x4
template <> inline __attribute__((always_inline)) f32x4 v_load_masked<f32x4>(const void *p, v_same<i32, f32x4> m, float other) {
  f32x4 x = __builtin_ia32_maskloadps((const f32x4 *)p, m); return m ? x : v_splat<f32x4>(other); }
//: v_load_masked f64x4
template <> inline __attribute__((always_inline)) f64x4 v_load_masked<f64x4>(const void *p, v_same<i32, f64x4> m, double other) {
  typedef long long q __attribute__((vector_size(32))); q k = __builtin_convertvector(m, q);
  f64x4 x = __builtin_ia32_maskloadpd256((const f64x4 *)p, k); return k ? x : v_splat<f64x4>(other); }

//: v_store_masked f32x8
/* not vmaskmovps: on Zen 3 its store is microcoded and a load of what it wrote stalls */
INL void v_store_masked(void *p, v_same<i32, f32x8> m, f32x8 v) {
  const int b = __builtin_ia32_movmskps256((f32x8)m);
  if (b == 255) v_store(p, v); else for (int l = 0; l < 8; l++) if (b >> l & 1) ((float *)p)[l] = v[l]; }

//: v_stream f32x8
INL void v_stream(void *p, f32x8 v) { __builtin_ia32_movntps256((float *)p, v); }
//: v_stream f32x4
INL void v_stream(void *p, f32x4 v) { __builtin_ia32_movntps((float *)p, v); }
//: v_stream f64x4
INL void v_stream(void *p, f64x4 v) { __builtin_ia32_movntpd256((double *)p, v); }

//: v_from_f16 f32x8
template <> inline __attribute__((always_inline)) f32x8 v_from_f16<f32x8>(v_same<u16, f32x8> x) {
  typedef short h __attribute__((vector_size(16))); return __builtin_ia32_vcvtph2ps256((h)x); }
//: v_to_f16 f32x8
INL v_same<u16, f32x8> v_to_f16(f32x8 x) { return (v_same<u16, f32x8>)__builtin_ia32_vcvtps2ph256(x, 0); }
