// What CUDA's functions of numbers, vectors and half precision compute, in the arithmetic of this processor: of device
// functions the meaning, not the last bits.
#include <math.h>
#include <stdint.h>
#include <string.h>
#include <type_traits>

template <class T> static T __ldg(const T *p) { return *p; }
template <class T> static T __ldcs(const T *p) { return *p; }
template <class T> static T __ldcg(const T *p) { return *p; }
template <class T> static T __ldca(const T *p) { return *p; }
template <class T> static void __stcs(T *p, T v) { *p = v; }
template <class T> static void __stcg(T *p, T v) { *p = v; }
template <class T> static void __stwt(T *p, T v) { *p = v; }
template <class T> static void __stwb(T *p, T v) { *p = v; }

// extremes of a number and NaN are the number here and on a device, and NaN in a spec: which cases met one is told
namespace opwright_shim {
PLAIN static void meet_nan() { met_nan = true; }
static inline bool met(bool a, bool b) { if (a != b) meet_nan(); return b; }
template <class T> static T larger(T a, T b) { return met(a != a, b != b) ? a : b > a || a != a ? b : a; }
template <class T> static T smaller(T a, T b) { return met(a != a, b != b) ? a : b < a || a != a ? b : a; }
}
template <class A, class B> static auto min(A a, B b) -> decltype(a + b) { typedef decltype(a + b) T; return opwright_shim::smaller<T>(a, b); }
template <class A, class B> static auto max(A a, B b) -> decltype(a + b) { typedef decltype(a + b) T; return opwright_shim::larger<T>(a, b); }
#define fmaxf(a, b) opwright_shim::larger<float>(a, b)
#define fminf(a, b) opwright_shim::smaller<float>(a, b)
#define fmax(a, b) max(a, b)
#define fmin(a, b) min(a, b)
static inline float rsqrtf(float x) { return 1 / sqrtf(x); }
static inline float rsqrt(float x) { return 1 / sqrtf(x); }
static inline double rsqrt(double x) { return 1 / sqrt(x); }
#define ONE_(name, meaning) \
  [[maybe_unused]] static inline float name##f(float x_) { const double x = x_; return (float)(meaning); } \
  [[maybe_unused]] static inline float name(float x) { return name##f(x); } [[maybe_unused]] static inline double name(double x) { return meaning; }
ONE_(rcbrt, 1 / cbrt(x)) ONE_(normcdf, 0.5 * erfc(-x * 0.70710678118654752440))
ONE_(sinpi, sin(3.14159265358979323846 * (x - 2 * floor(x / 2)))) ONE_(cospi, cos(3.14159265358979323846 * (x - 2 * floor(x / 2))))
#undef ONE_
#define ONE_(name, meaning) [[maybe_unused]] static inline float name(float x) { return meaning; }
ONE_(__frsqrt_rn, 1 / sqrtf(x)) ONE_(__fsqrt_rn, sqrtf(x)) ONE_(__frcp_rn, 1 / x)
ONE_(__saturatef, x != x || x < 0 ? 0 : x > 1 ? 1 : x)
#undef ONE_
#define __expf expf
#define __exp10f(x) powf(10, x)
#define __logf logf
#define __log2f log2f
#define __log10f log10f
#define __sinf sinf
#define __cosf cosf
#define __tanf tanf
#define __tanhf tanhf
#define __powf powf
#define __fdividef(a, b) ((float)(a) / (float)(b))
#define __fadd_rn(a, b) ((float)(a) + (float)(b))
#define __fsub_rn(a, b) ((float)(a) - (float)(b))
#define __fmul_rn(a, b) ((float)(a) * (float)(b))
#define __fdiv_rn(a, b) ((float)(a) / (float)(b))
#define __fmaf_rn fmaf
#define __fma_rn fma
#define __int2float_rn(a) ((float)(int)(a))
#define __uint2float_rn(a) ((float)(unsigned)(a))
#define __float2int_rn(a) ((int)rintf(a))
#define __float2int_rz(a) ((int)(float)(a))
#define __float2int_rd(a) ((int)floorf(a))
#define __float2int_ru(a) ((int)ceilf(a))
#define __float2uint_rn(a) ((unsigned)rintf(a))
#define __float2uint_rz(a) ((unsigned)(float)(a))
#define __mul24(a, b) ((int)(a) * (int)(b))
#define __popc __builtin_popcount
#define __clz(x) ((x) ? __builtin_clz(x) : 32)
#define __ffs __builtin_ffs
template <class To, class From> static inline To opwright_bits(From x) { static_assert(sizeof(To) == sizeof(From), ""); To y; memcpy(&y, &x, sizeof y); return y; }
#define __int_as_float(x) opwright_bits<float>((int)(x))
#define __uint_as_float(x) opwright_bits<float>((unsigned)(x))
#define __float_as_int(x) opwright_bits<int>((float)(x))
#define __float_as_uint(x) opwright_bits<unsigned>((float)(x))
#define VECTOR_(name, T) \
  struct name##1 { T x; }; struct name##2 { T x, y; }; struct name##3 { T x, y, z; }; struct __align__(4 * sizeof(T) > 16 ? 16 : 4 * sizeof(T)) name##4 { T x, y, z, w; }; \
  static inline name##1 make_##name##1(T x) { return {x}; } static inline name##2 make_##name##2(T x, T y) { return {x, y}; } \
  static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; } static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
VECTOR_(char, signed char) VECTOR_(uchar, unsigned char) VECTOR_(short, short) VECTOR_(ushort, unsigned short) VECTOR_(int, int)
VECTOR_(uint, unsigned) VECTOR_(longlong, long long) VECTOR_(ulonglong, unsigned long long) VECTOR_(float, float) VECTOR_(double, double)
#undef VECTOR_

// half precision: every operation on two of them is rounded to one of them
#if defined __FLT16_MAX__
typedef _Float16 __half;
#define OPWRIGHT_HALF 1
#endif
struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  __nv_bfloat16(float x) {
    const uint32_t u = opwright_bits<uint32_t>(x);
    bits = x != x ? 0x7fff : (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
  }
  __nv_bfloat16(double x) : __nv_bfloat16((float)x) {}
  __nv_bfloat16(int x) : __nv_bfloat16((float)x) {}
  operator float() const { return opwright_bits<float>((uint32_t)bits << 16); }
  template <class T> __nv_bfloat16 &operator+=(T x) { return *this = __nv_bfloat16((float)*this + (float)x); }
  template <class T> __nv_bfloat16 &operator-=(T x) { return *this = __nv_bfloat16((float)*this - (float)x); }
  template <class T> __nv_bfloat16 &operator*=(T x) { return *this = __nv_bfloat16((float)*this * (float)x); }
};
#define BOTH_(op) \
  template <class A, class B, class = std::enable_if_t<std::is_same_v<A, __nv_bfloat16> && std::is_same_v<B, __nv_bfloat16>>> \
  static inline __nv_bfloat16 operator op(A a, B b) { return __nv_bfloat16((float)a op (float)b); }
BOTH_(+) BOTH_(-) BOTH_(*) BOTH_(/)
#undef BOTH_
#define HALVES_(T, word, pair, both) \
  struct __align__(4) pair { T x, y; }; \
  static inline T __float2##word(float x) { return (T)x; } static inline T __float2##word##_rn(float x) { return (T)x; } \
  static inline float __##word##2float(T x) { return (float)x; } \
  static inline T __double2##word(double x) { return (T)(float)x; } static inline T __int2##word##_rn(int x) { return (T)(float)x; } \
  static inline float __low2float(pair v) { return (float)v.x; } static inline float __high2float(pair v) { return (float)v.y; } \
  static inline T __low2##word(pair v) { return v.x; } static inline T __high2##word(pair v) { return v.y; } \
  static inline pair __floats2##both##_rn(float x, float y) { return {(T)x, (T)y}; } static inline pair __float2##both##_rn(float x) { return {(T)x, (T)x}; } \
  static inline pair __float22##both##_rn(float2 v) { return {(T)v.x, (T)v.y}; } static inline float2 __##both##2float2(pair v) { return {(float)v.x, (float)v.y}; } \
  static inline pair __halves2##both(T x, T y) { return {x, y}; } static inline pair make_##both(T x, T y) { return {x, y}; } \
  static inline T __hadd(T a, T b) { return (T)((float)a + (float)b); } static inline T __hsub(T a, T b) { return (T)((float)a - (float)b); } \
  static inline T __hmul(T a, T b) { return (T)((float)a * (float)b); } static inline T __hdiv(T a, T b) { return (T)((float)a / (float)b); } \
  static inline T __hmax(T a, T b) { return (T)opwright_shim::larger<float>((float)a, (float)b); } static inline T __hmin(T a, T b) { return (T)opwright_shim::smaller<float>((float)a, (float)b); } \
  static inline T __hfma(T a, T b, T c) { return (T)fmaf((float)a, (float)b, (float)c); } static inline T __hneg(T a) { return (T)-(float)a; } \
  static inline pair __hadd2(pair a, pair b) { return {__hadd(a.x, b.x), __hadd(a.y, b.y)}; } static inline pair __hsub2(pair a, pair b) { return {__hsub(a.x, b.x), __hsub(a.y, b.y)}; } \
  static inline pair __hmul2(pair a, pair b) { return {__hmul(a.x, b.x), __hmul(a.y, b.y)}; } static inline pair __hdiv2(pair a, pair b) { return {__hdiv(a.x, b.x), __hdiv(a.y, b.y)}; } \
  static inline pair __hmax2(pair a, pair b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; } static inline pair __hmin2(pair a, pair b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; } \
  static inline pair __hfma2(pair a, pair b, pair c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; } \
  static inline T hexp(T a) { return (T)expf((float)a); } static inline T hlog(T a) { return (T)logf((float)a); } static inline T hsqrt(T a) { return (T)sqrtf((float)a); } \
  static inline T hrsqrt(T a) { return (T)(1 / sqrtf((float)a)); } static inline T hrcp(T a) { return (T)(1 / (float)a); } \
  static inline bool __hlt(T a, T b) { return (float)a < (float)b; } static inline bool __hle(T a, T b) { return (float)a <= (float)b; } \
  static inline bool __hgt(T a, T b) { return (float)a > (float)b; } static inline bool __hge(T a, T b) { return (float)a >= (float)b; } \
  static inline bool __heq(T a, T b) { return (float)a == (float)b; } static inline bool __hne(T a, T b) { return (float)a != (float)b; }
#ifdef OPWRIGHT_HALF
HALVES_(__half, half, __half2, half2)
typedef __half half; typedef __half2 half2;
#endif
HALVES_(__nv_bfloat16, bfloat16, __nv_bfloat162, bfloat162)
typedef __nv_bfloat16 nv_bfloat16; typedef __nv_bfloat162 nv_bfloat162;
#undef HALVES_
