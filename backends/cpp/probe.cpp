// What this machine does at its best, one loop for each number; timed from outside (probe.py).
typedef __INT64_TYPE__ i64;
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define CHAINS 12
typedef float vec __attribute__((vector_size(4 * LANES)));

extern "C" {

__attribute__((visibility("default"))) i64 probe_lanes() { return LANES; }

// one dependent addition a cycle
__attribute__((visibility("default"))) i64 probe_clock(i64 trips) {
  i64 x = trips;
  for (i64 i = 0; i < trips; ++i) {
#if defined(__x86_64__)
    __asm__ volatile("add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0\n add %1, %0" : "+r"(x) : "r"(trips));
#else
    for (int j = 0; j < 8; ++j) { x += 1; __asm__ volatile("" : "+r"(x)); }
#endif
  }
  return x;
}

// CHAINS independent chains of multiply-adds on whole vectors
__attribute__((visibility("default"))) double probe_arithmetic(i64 trips) {
  vec a[CHAINS], m = {}, c = {};
  for (int l = 0; l < LANES; ++l) { m[l] = 0.999f; c[l] = 0.001f; }
  for (int j = 0; j < CHAINS; ++j) a[j] = c * (float)j;
  for (i64 i = 0; i < trips; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < CHAINS; ++j) a[j] = a[j] * m + c;
  }
  double s = 0;
  for (int j = 0; j < CHAINS; ++j) for (int l = 0; l < LANES; ++l) s += a[j][l];
  return s;
}
__attribute__((visibility("default"))) i64 probe_chains() { return CHAINS; }

__attribute__((visibility("default"))) double probe_read(const float *x, i64 n) {
  vec s[8] = {};
  for (i64 i = 0; i + 8 * LANES <= n; i += 8 * LANES)
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) s[j] += *(const vec *)(x + i + j * LANES);
  double t = 0;
  for (int j = 0; j < 8; ++j) for (int l = 0; l < LANES; ++l) t += s[j][l];
  return t;
}

__attribute__((visibility("default"))) void probe_copy(float *y, const float *x, i64 n) {
  for (i64 i = 0; i + LANES <= n; i += LANES) *(vec *)(y + i) = *(const vec *)(x + i);
}

__attribute__((visibility("default"))) void probe_stream(float *y, const float *x, i64 n) {
#if defined(__AVX512F__)
  for (i64 i = 0; i + LANES <= n; i += LANES) __builtin_ia32_movntps512(y + i, *(const vec *)(x + i));
  __builtin_ia32_sfence();
#elif defined(__AVX__)
  for (i64 i = 0; i + LANES <= n; i += LANES) __builtin_ia32_movntps256(y + i, *(const vec *)(x + i));
  __builtin_ia32_sfence();
#else
  probe_copy(y, x, n);
#endif
}

// follows a chain of places: each read waits for the one before
__attribute__((visibility("default"))) i64 probe_chase(const i64 *next, i64 steps) {
  i64 at = 0;
  for (i64 i = 0; i < steps; ++i) at = next[at];
  return at;
}

}
